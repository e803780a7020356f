"""Sharing work, agreeing on failure, and never waiting for ever."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from lcu.ranks import RankError, gather, mine, on_root, share, together
from tests.conftest import Mpirun

COMM = MPI.COMM_WORLD


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 9))
def test_every_unit_has_one_rank_and_no_rank_is_far_from_the_mean(costs: list, size: int) -> None:
    owner = share(costs, size)
    assert len(owner) == len(costs) and all(0 <= rank < size for rank in owner)
    load = [
        sum(cost for cost, rank in zip(costs, owner, strict=True) if rank == own)
        for own in range(size)
    ]
    assert max(load) <= sum(costs) / size + max(costs, default=0) + 1e-9


def test_sharing_does_the_largest_first() -> None:
    assert share([1, 1, 1, 1, 4], 2) == [1, 1, 1, 1, 0]


@pytest.mark.mpi
def test_the_parts_of_all_ranks_are_the_whole() -> None:
    units = list(range(17))
    assert gather(mine(units, COMM, cost=lambda unit: unit % 5), COMM) == sorted(units, key=repr)


@pytest.mark.mpi(min_size=2)
def test_a_failure_on_one_rank_is_raised_on_every_rank() -> None:
    guilty = COMM.size - 1
    with pytest.raises(
        RankError, match=rf"opening: 1 of {COMM.size} ranks failed; OSError: no such thing"
    ) as caught:
        with together(COMM, "opening"):
            if COMM.rank == guilty:
                raise OSError("no such thing")
    assert caught.value.kinds == {"OSError"}
    assert isinstance(caught.value.__cause__, OSError) == (COMM.rank == guilty)
    assert COMM.allreduce(1) == COMM.size  # the ranks are still in step


@pytest.mark.mpi
def test_root_does_the_work_and_all_have_the_result() -> None:
    assert on_root(COMM, "adding", lambda one, other: (COMM.rank, one + other), 2, 3) == (0, 5)
    with pytest.raises(RankError, match="dividing"):
        on_root(COMM, "dividing", lambda: 1 // 0)


GUARDED = """
    import sys
    from mpi4py import MPI
    from lcu.ranks import abort_on_error
    comm = MPI.COMM_WORLD
    with abort_on_error(comm):
        if comm.rank == 1:
            {failure}
        comm.Barrier()
        comm.Barrier()
"""


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        ("raise ValueError('broken')", 1, "rank 1 of 3"),
        ("sys.exit(3)", 3, "rank 1 of 3 on"),
        ("sys.exit(0)", 1, "left alone with sys.exit(0)"),
        ("raise KeyboardInterrupt", 130, "rank 1"),
    ],
)
def test_no_rank_waits_for_ever(
    tmp_path: Path, mpirun: Mpirun, failure: str, code: int, said: str
) -> None:
    script = tmp_path / "guarded.py"
    script.write_text(textwrap.dedent(GUARDED.format(failure=failure)))
    begun = time.monotonic()
    done = mpirun(3, script, limit=60)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - begun < 30
    assert said in done.stderr


def test_thousands_of_ranks_share_thousands_of_units_at_once() -> None:
    costs = [1.0 + (unit * 7919 % 101) / 100 for unit in range(5000)]
    load = [0.0] * 8192
    for unit, rank in enumerate(share(costs, 8192)):
        load[rank] += costs[unit]
    assert max(load) == max(costs) and sorted(load)[-5000:] == sorted(costs)
    begun = time.perf_counter()
    share(costs * 8, 8192)
    assert time.perf_counter() - begun < 5  # one look at all ranks for each unit took minutes
