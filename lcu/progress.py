"""What a person sees of a run: progress on rank 0, and one log file in which every line has its rank."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

# Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 10.0


class Progress:
    """Progress of one stage: a bar on a terminal, else a line now and then, with the time left."""

    def __init__(self, stage: str, shown: bool, stream: TextIO | None = None) -> None:
        self._stage, self._shown = stage, shown
        self._stream = sys.stdout if stream is None else stream
        self._bar = shown and is_terminal(self._stream)
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` units are finished."""
        now = time.monotonic()
        if not self._shown or (not self._bar and now - self._last < LINE_EVERY):
            return
        self._last = now
        left = (now - self._started) / done * (total - done)
        text = f"{self._stage}: {done} of {total} {what}, {duration(left)} left"
        if self._bar:
            filled = "#" * (30 * done // max(total, 1))
            text = f"\r[{filled:<30}] {text:<60}" + (
                "\r" + " " * 94 + "\r" if done == total else ""
            )
        print(text, end="" if self._bar else "\n", file=self._stream, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person watches. Open MPI gives every rank a pseudo-terminal, whatever mpirun has."""
    if not stream.isatty() or "OMPI_COMM_WORLD_RANK" not in os.environ:
        return stream.isatty()
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


def duration(seconds: float) -> str:
    """Return a time as text."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def start_log(path: Path, rank: int, size: int) -> None:
    """Send every log record of this rank to the run's log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened when there is something to say: of thousands of ranks most never have.
    handler = logging.FileHandler(path, mode="a", encoding="utf-8", delay=True)
    layout = f"%(asctime)s rank {rank}/{size} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(layout))
    root = logging.getLogger("lcu")
    root.setLevel(logging.INFO)
    root.propagate = False
    for earlier in root.handlers:
        earlier.close()
    root.handlers = [handler]
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [handler]
    logging.getLogger("py.warnings").propagate = False
