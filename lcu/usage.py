"""What a stage used: time, memory and bytes, over all ranks."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from lcu import clock

COUNTERS = Path("/proc/self/io")


@dataclass(frozen=True)
class Mark:
    """Where the clock and the counters of this rank stood."""

    time: float
    moved: tuple[int, int] | None


def mark() -> Mark:
    """Note where this rank stands."""
    clock.taken()
    return Mark(time.perf_counter(), _moved())


def since(begun: Mark, comm: MPI.Comm) -> dict[str, Any]:
    """Return what all ranks used since a mark. Collective; rank 0 gets the answer of all.

    Returns
    -------
    dict
        ``seconds``; ``spent``: least, mean and most seconds of a rank reading (decoding too), writing,
        waiting for others and computing; ``ranks``; ``nodes``; ``threads`` of each (OMP_NUM_THREADS, 1 where it
        is not set);
        ``core_hours`` = seconds x ranks x threads; ``peak_memory``, bytes: the largest resident
        memory of a rank so far in the job, which an earlier stage may have needed; ``read`` and
        ``written``, bytes that passed through the system's calls, the page cache included, summed
        over ranks. None where the system does not count them.
    """
    seconds = time.perf_counter() - begun.time
    spent = clock.taken()
    spent["computing"] = max(0.0, seconds - sum(spent.values()))
    of_ranks = comm.allgather(spent)
    now = _moved()
    moved = None
    if begun.moved is not None and now is not None:
        moved = (now[0] - begun.moved[0], now[1] - begun.moved[1])
    # Linux counts in kibibytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = comm.allreduce(peak, MPI.MAX)
    everywhere = comm.allgather(moved)
    known = all(item is not None for item in everywhere)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(threads) if threads.isdigit() else 1
    return {
        "seconds": round(seconds, 2),
        "spent": {kind: _spread([own[kind] for own in of_ranks]) for kind in spent},
        "ranks": comm.size,
        "nodes": len(set(comm.allgather(platform.node()))),
        "threads": threads,
        "core_hours": round(seconds * comm.size * threads / 3600, 6),
        "peak_memory": peak,
        "read": sum(item[0] for item in everywhere) if known else None,
        "written": sum(item[1] for item in everywhere) if known else None,
    }


def _spread(values: list[float]) -> list[float]:
    return [round(value, 3) for value in (min(values), sum(values) / len(values), max(values))]


def _moved() -> tuple[int, int] | None:
    """Return bytes read and written by this process; None where the system does not say."""
    try:
        lines = COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = dict(line.split(": ") for line in lines)
    return int(found["rchar"]), int(found["wchar"])
