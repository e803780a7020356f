"""When a job has to be over: `run.time_limit`, or what Slurm says."""

from __future__ import annotations

import os
import time

from lcu.config import Run

STARTED = time.time()

# Kept free at the end, in seconds: writing a checkpoint, leaving MPI.
RESERVE = 30.0


class OutOfTime(RuntimeError):
    """Stopped in time; what was done is saved. Raised on all ranks alike."""


def seconds_left(run: Run) -> float:
    """Return the seconds until the job should stop; infinite where there is no limit.

    `run.time_limit` counts from the start of the program; without it SLURM_JOB_END_TIME (seconds since
    1970, set in Slurm's job environment) counts, less half a minute.
    """
    if run.time_limit is not None:
        return STARTED + 60 * run.time_limit - time.time()
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(end) - RESERVE - time.time() if end.isdigit() else float("inf")
