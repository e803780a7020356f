"""Ranks: who does which unit of work, agreement between ranks, the guard against a lone failing rank.

Nothing here names COMM_WORLD: the communicator is an argument everywhere but in `main`.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from mpi4py import MPI

from lcu.clock import spending
from lcu.deadline import GO_ON, OutOfTime

Unit = TypeVar("Unit")

log = logging.getLogger(__name__)


class RankError(RuntimeError):
    """Raised on every rank when at least one of them failed; the message names which and why.

    Attributes
    ----------
    kinds : set of str
        Names of the exceptions behind it.
    size : int
        How many ranks it was raised on: those of the communicator that agreed on it.
    """

    def __init__(self, message: str, kinds: set[str], size: int) -> None:
        super().__init__(message)
        self.kinds = kinds
        self.size = size


@dataclass(frozen=True)
class Failure:
    """A unit of work (an acquisition, a block, a tile-year) that was left out, and why."""

    stage: str
    unit: str
    reason: str


@contextlib.contextmanager
def abort_on_error(comm: MPI.Comm) -> Iterator[None]:
    """End the whole job when this rank leaves with an exception or a `sys.exit`, whatever its code.

    Without it the other ranks wait for ever in their next collective, or in MPI_Finalize;
    `sys.excepthook` would not do, for SystemExit never reaches it. All ranks return from what is
    guarded, and leave together after it: see `leave`.
    """
    try:
        yield
    except SystemExit as leaving:
        text = f"rank {comm.rank} of {comm.size} on {socket.gethostname()} left alone"
        traceback.print_exc()
        code = leaving.code if isinstance(leaving.code, int) and leaving.code else 1
        end_job(comm, f"{text} with sys.exit({leaving.code!r})", code)
    except BaseException as error:  # noqa: BLE001  (it is printed, and nothing runs after it)
        # At once, not when the interpreter ends: before that it would close the HDF5 files that the
        # exception still holds, and closing a parallel file waits for the other ranks.
        traceback.print_exc()
        text = f"rank {comm.rank} of {comm.size} on {socket.gethostname()} failed"
        end_job(comm, text, 130 if isinstance(error, KeyboardInterrupt) else 1)


def leave(comm: MPI.Comm, code: int) -> NoReturn:
    """Leave the program with the same exit code on all ranks. Collective.

    mpirun and Slurm end the job when the first rank leaves with an error: not before all have spoken, and what
    Slurm then sends to the others, SIGTERM, finds them leaving already. No abort: it would put another code
    in the place of this one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Barrier()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


def end_job(comm: MPI.Comm, text: str, code: int = 1) -> NoReturn:
    """Say why and end all ranks of the job, from any one of them, whatever the others wait for."""
    if log.hasHandlers():
        log.error("%s", text)
    print(f"lcu: {text}", file=sys.stderr, flush=True)
    comm.Abort(code)
    raise SystemExit(code)  # not reached


@contextlib.contextmanager
def together(comm: MPI.Comm, what: str) -> Iterator[None]:
    """Agree on the outcome of code that may fail on some ranks and holds no collective.

    Raises
    ------
    RankError
        On every rank, when one failed inside; from the original exception on the guilty ones.
    OutOfTime
        On every rank, when some had no time left and nothing else went wrong.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001  (it is raised again on all ranks, below)
        error = caught
    said = None if error is None else (type(error).__name__, str(error))
    with spending("waiting"):
        gathered = comm.allgather(said)
    failed = [(rank, *reason) for rank, reason in enumerate(gathered) if reason is not None]
    if failed and {kind for _, kind, _ in failed} == {OutOfTime.__name__}:
        raise OutOfTime(f"stopped in time while {what}; {GO_ON}") from error
    if failed:
        named = "; ".join(f"rank {rank}: {kind}: {text}" for rank, kind, text in failed[:4])
        if len({(kind, text) for _, kind, text in failed}) == 1:
            named = f"{failed[0][1]}: {failed[0][2]}"
        message = f"{what}: {len(failed)} of {comm.size} ranks failed; {named}"
        raise RankError(message, {kind for _, kind, _ in failed}, comm.size) from error


def on_root(comm: MPI.Comm, what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do `work` on rank 0 alone and give its (picklable, small) result to every rank."""
    result = None
    with together(comm, what):
        if comm.rank == 0:
            result = work(*arguments)
    with spending("waiting"):
        return comm.bcast(result, root=0)


@spending("waiting")
def meet(comm: MPI.Comm) -> None:
    """Go on when all ranks are here."""
    comm.Barrier()


def share(costs: Sequence[float], size: int) -> list[int]:
    """Return the rank that does each unit: largest cost first, to the rank with least to do.

    Every rank computes the same answer, so nothing is communicated. Ties go to the lower rank.
    """
    least = [(0.0, rank) for rank in range(size)]  # a heap, for thousands of ranks and units
    owner = [0] * len(costs)
    for unit in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, rank = least[0]
        owner[unit] = rank
        heapq.heapreplace(least, (load + costs[unit], rank))
    return owner


def mine(
    units: Sequence[Unit], comm: MPI.Comm, cost: Callable[[Unit], float] | None = None
) -> list[Unit]:
    """Return the units that this rank does, in their order."""
    costs = [1.0 if cost is None else float(cost(unit)) for unit in units]
    owner = share(costs, comm.size)
    return [unit for unit, rank in zip(units, owner, strict=True) if rank == comm.rank]


def gather(items: Iterable[Any], comm: MPI.Comm) -> list[Any]:
    """Return the items of all ranks, sorted, on every rank; for small things such as failures."""
    with spending("waiting"):
        gathered = comm.allgather(list(items))
    return sorted((item for part in gathered for item in part), key=repr)
