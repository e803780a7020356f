"""One job at a time in a run directory.

Rank 0 holds an advisory lock on RUN/lock. The operating system lets go of it when the process ends,
however it ends, so a killed job never stands in the way of the next. What is in RUN/lock.txt is for
the message only: nobody decides by it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from lcu import store

log = logging.getLogger(__name__)

# What a file system answers that has no locks (Lustre without -o flock, some network file systems).
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_TAKEN = {errno.EACCES, errno.EAGAIN}

# A killed job's rank 0 may live some moments longer than its mpirun.
PATIENCE = 10.0

HOLDER = "lock.txt"

_JOB = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


class LockError(RuntimeError):
    """Another job writes the run directory."""


def take(
    directory: Path, patience: float = PATIENCE, key: str = "run.directory"
) -> BinaryIO | None:
    """Lock a run directory; the caller keeps the file open as long as it writes there.

    Parameters
    ----------
    key : str
        The configuration's key that names the directory: `retrieve` locks the archive too.

    Returns
    -------
    file or None
        None where the file system has no locks: the run goes on without one.

    Raises
    ------
    LockError
        When another job holds the lock and does not let go of it within `patience` seconds.
    """
    file = (directory / "lock").open("ab")
    end = time.monotonic() + patience
    while True:
        try:
            # lockf, not flock: network file systems pass it on to their server.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in _TAKEN and time.monotonic() < end:
                time.sleep(0.25)
                continue
            file.close()
            if error.errno in _TAKEN:
                raise LockError(_refusal(directory, key)) from None
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s: the file system has no locks (%s); nothing stops a second job from writing "
                "here at the same time", directory, error,
            )  # fmt: skip
            return None
    store.write_text(directory / HOLDER, _self() + "\n")
    return file


def clean(directory: Path) -> None:
    """Remove what a killed job left half written. Only under the lock: it may be another job's."""
    for path in directory.rglob("*.part"):
        path.unlink(missing_ok=True)
    for workshop in (directory / "maps").glob(".LCU_*"):
        shutil.rmtree(workshop, ignore_errors=True)


def _self() -> str:
    """Say who this process is."""
    job = next((os.environ[name] for name in _JOB if os.environ.get(name)), "")
    since = datetime.now(UTC).isoformat(timespec="seconds")
    job = f", job {job}" if job else ""
    return f"process {os.getpid()} on {platform.node()}{job}, since {since}"


def _refusal(directory: Path, key: str) -> str:
    try:
        holder = (directory / HOLDER).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        holder = f"which one cannot be read ({error})"
    return (
        f"{key}: another job writes {directory}: {holder}. Wait until it is done or stop it, "
        f"or name another {key}; the lock goes with that process, no file need be removed"
    )
