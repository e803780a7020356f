"""When a job has to be over: `run.time_limit`, the end of a Slurm job, or a signal.

SIGUSR1 and SIGTERM mean that nothing more may begin; SIGTERM, which Slurm follows with SIGKILL, also that the end
is near. What is in flight is finished, the program leaves with exit code 3, and the same command goes on. Every
start makes something whole before time may stop it, so that started again and again a run comes to its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeVar

from mpi4py import MPI

from lcu.clock import spending
from lcu.config import ConfigError, Run

Unit = TypeVar("Unit")

STARTED = time.monotonic()

# Kept free at the end of a Slurm job, in seconds: writing a checkpoint, leaving MPI.
RESERVE = 30.0

# Seconds after SIGTERM: Slurm waits 30 (KillWait) before it kills.
GRACE = 20.0

# Another unit begins where this many times the longest so far fit into the time that is left.
MARGIN = 1.5

GO_ON = "start the same command again to go on"


class OutOfTime(RuntimeError):
    """Stopped in time; what was done is saved. Raised on all ranks alike."""


# What this process knows: the end (time.monotonic), whether a signal came, whether this start made anything whole.
_end = float("inf")
_asked = False
_progress = False


def watch(seconds: float) -> None:
    """Be over in `seconds`, or when SIGUSR1 or SIGTERM says so."""
    global _end
    _end = time.monotonic() + seconds
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, _hear)
        # The libraries below Python need not know that they were interrupted.
        signal.siginterrupt(number, False)


def _hear(number: int, _: object) -> None:
    global _asked, _end
    _asked = True
    if number == signal.SIGTERM:
        _end = min(_end, time.monotonic() + GRACE)


def time_limit(run: Run) -> float:
    """Return the seconds until the program should stop, from now; infinite where there is no limit.

    `run.time_limit` counts minutes from the start of the program. With "slurm" it is the end of the job that the
    program runs in, less half a minute, and no limit elsewhere.

    Raises
    ------
    ConfigError
        In a Slurm job of which Slurm does not say when it ends.
    """
    if isinstance(run.time_limit, float):
        return STARTED + 60 * run.time_limit - time.monotonic()
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():  # seconds since 1970; older versions of Slurm do not set it
        return float(end) - RESERVE - time.time()
    job = os.environ.get("SLURM_JOB_ID")
    return float("inf") if job is None else _end_of_job(job) - RESERVE - time.time()


def _end_of_job(job: str) -> float:
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    try:
        ends = subprocess.check_output(command, text=True, timeout=60).split()[0]
        return float("inf") if ends in ("NONE", "N/A") else datetime.fromisoformat(ends).timestamp()
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as error:
        raise ConfigError(
            f'run.time_limit: is "slurm", and `{" ".join(command)}` does not say when job {job} ends ({error}); '
            "set it to the minutes that the job has"
        ) from error


def seconds_left() -> float:
    """Return the seconds until this process should be over; infinite where nobody said so."""
    return _end - time.monotonic()


def made() -> None:
    """Note that a unit is whole on the disk, which the next start need not do again."""
    global _progress
    _progress = True


def is_closing(seconds: float = 0.0) -> bool:
    """Tell whether nothing may begin any more that takes `seconds`."""
    return _asked or (_progress and seconds_left() < seconds)


def may_begin(comm: MPI.Comm, seconds: float = 0.0) -> bool:
    """Tell whether another unit of about so many seconds may begin: the same on every rank. Collective."""
    with spending("waiting"):
        return not comm.allreduce(is_closing(MARGIN * seconds), MPI.LOR)


def in_step(comm: MPI.Comm, units: Iterable[Unit]) -> Iterator[Unit]:
    """Yield units that all ranks of `comm` make together, as long as another may begin. Collective.

    The ranks meet there anyway: a unit ends with a file that all of them wrote.
    """
    longest = 0.0
    for unit in units:
        if not may_begin(comm, longest):
            return
        begun = time.monotonic()
        yield unit
        longest = max(longest, time.monotonic() - begun)


def stop_with(comm: MPI.Comm, left: int, what: str) -> None:
    """Raise OutOfTime on every rank where some have units left that there was no time for. Collective."""
    with spending("waiting"):
        total = comm.allreduce(left)
    if total:
        raise OutOfTime(f"stopped in time with {total} {what} left; {GO_ON}")


def in_time(units: Iterable[Unit]) -> Iterator[Unit]:
    """Yield units that one rank makes by itself, as long as another may begin; inside `lcu.ranks.together`.

    Raises
    ------
    OutOfTime
        In the place of a unit that would not end in time.
    """
    longest = 0.0
    for unit in units:
        if is_closing(MARGIN * longest):
            raise OutOfTime
        begun = time.monotonic()
        yield unit
        longest = max(longest, time.monotonic() - begun)


def check() -> None:
    """Raise OutOfTime where time is over; inside `lcu.ranks.together`.

    For pieces of work that are worth something only when all of them are done: they are not given up
    before they must be.
    """
    if (_asked or _progress) and seconds_left() <= 0:
        raise OutOfTime
