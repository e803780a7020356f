"""A job that is struck ends quickly, says what and where, and started again makes the same bytes."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults import harness
from tests.faults.harness import FULL, STAGES, Job, World, on_rank, strike, whole_again

pytestmark = pytest.mark.timeout(3 * harness.LIMIT)


# --- from outside ---------------------------------------------------------------------------------


def kill_rank(job: Job) -> None:
    """Kill the last rank."""
    os.kill(job.ranks()[job.size - 1], signal.SIGKILL)


def kill_mpirun(job: Job) -> None:
    """Kill mpirun, which can tell nobody."""
    os.kill(job.process.pid, signal.SIGKILL)


def terminate(job: Job) -> None:
    """Ask mpirun to end, as `scancel` and `timeout` do."""
    os.kill(job.process.pid, signal.SIGTERM)


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_of_a_rank(world: World, stage: str, ranks: int, moment: float, seen) -> None:
    run, ending = strike(world, stage, ranks, moment, kill_rank)
    assert ending.line(f"rank {ranks - 1}", "signal 9")
    whole_again(world, stage, ranks, run)
    seen("kill -9 of a rank", stage, ranks, ending)


@pytest.mark.parametrize("blow", [kill_mpirun, terminate])
def test_the_end_of_mpirun(world: World, blow, ranks: int, moment: float, seen) -> None:
    run, ending = strike(world, "composite", ranks, moment, blow)
    whole_again(world, "composite", ranks, run)
    name = {kill_mpirun: "kill -9 of mpirun", terminate: "SIGTERM to mpirun"}[blow]
    seen(name, "composite", ranks, ending)


# --- from inside ----------------------------------------------------------------------------------

# A function that every rank calls in each stage, or, with `together`, one whose errors all ranks share.
PLACES = {
    "composite": "lcu.acquisition.tiles:decode",
    "sample": "lcu.sample.stage:clean",
    "train": "lcu.train.yearly:_fit_one",
    "classify": "lcu.classify.stage:classify_block",
    "assess": "lcu.assess.stage:_count_blocks",
    "publish": "lcu.publish.stage:_write_product",
}


def ended_by(world: World, stage: str, what: str):
    """Run a stage in which something happens on rank 1; it must end with an error, and quickly."""
    run = world.before(stage)
    patches = on_rank(1, PLACES[stage], what)
    with harness.started(world, stage, 2, f"run.directory={run}", patches=patches) as job:
        job.wait_until("run directory")
        ending = job.end(harness.QUICKLY + world.seconds(stage))
    assert ending.code != 0, ending.said
    return run, ending


# One stage of each kind in `make test`: the guard is the same everywhere.
@pytest.mark.parametrize(
    "stage",
    [stage if stage == "classify" else pytest.param(stage, marks=FULL) for stage in STAGES],
)
def test_an_exception_on_one_rank(world: World, stage: str, seen) -> None:
    run, ending = ended_by(world, stage, "raise ValueError('made by the test')")
    assert ending.code == 1 and ending.line("made by the test")
    whole_again(world, stage, 2, run)
    seen("exception on one rank", stage, 2, ending)


@pytest.mark.parametrize(
    ("stage", "code"), [("sample", 0), pytest.param("classify", 3, marks=FULL)]
)
def test_sys_exit_on_one_rank(world: World, stage: str, code: int, seen) -> None:
    run, ending = ended_by(world, stage, f"sys.exit({code})")
    assert ending.line("rank 1 of 2", f"sys.exit({code})")
    whole_again(world, stage, 2, run)
    seen(f"sys.exit({code}) on one rank", stage, 2, ending)


@pytest.mark.parametrize("stage", ["composite", pytest.param("classify", marks=FULL)])
def test_a_rank_out_of_memory(world: World, stage: str, seen) -> None:
    run, ending = ended_by(world, stage, harness.memory_used_up())
    assert ending.line("lcu:") or ending.line("failed")
    whole_again(world, stage, 2, run)
    seen("a rank out of memory", stage, 2, ending)
