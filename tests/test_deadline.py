"""Stopped in time, by a limit or a signal: exit code 3, and the same command goes on to the same bytes."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from mpi4py import MPI

from lcu import config as configuration
from lcu import deadline
from lcu.config import ConfigError, Run
from lcu.deadline import OutOfTime
from lcu.ranks import RankError, together
from tests.compare import differences
from tests.conftest import CONFIG, LIMIT, SMALL, Mpirun, lcu
from tests.faults.harness import World, started


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch):
    """Return `deadline.watch`; this process knows and heard nothing yet, and forgets it all after the test."""
    for name, value in (("_end", math.inf), ("_asked", False), ("_progress", False)):
        monkeypatch.setattr(deadline, name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield deadline.watch
    for number, handler in handlers.items():
        signal.signal(number, handler)


# --- how long there is ----------------------------------------------------------------------------


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_minutes_count_from_the_start_of_the_program(no_slurm: pytest.MonkeyPatch) -> None:
    no_slurm.setenv("SLURM_JOB_END_TIME", "5")  # minutes are what counts where they are given
    since = time.monotonic() - deadline.STARTED
    assert deadline.time_limit(Run("run", time_limit=90.0)) == pytest.approx(5400 - since, abs=1)


def test_slurm_is_the_end_of_the_job_and_no_limit_where_there_is_none(
    no_slurm: pytest.MonkeyPatch,
) -> None:
    assert deadline.time_limit(Run("run")) == math.inf
    no_slurm.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1000))
    assert deadline.time_limit(Run("run")) == pytest.approx(1000 - deadline.RESERVE, abs=2)


SQUEUE = """#!/bin/bash
[ "$*" = "--noheader --jobs=7 --format=%e" ] && echo "$SAYS"
"""


@pytest.mark.parametrize("says", ["2040-01-02T03:04:05", "NONE", "slurm_load_jobs error", ""])
def test_squeue_is_asked_where_slurm_left_the_end_out_of_the_environment(
    no_slurm: pytest.MonkeyPatch, tmp_path: Path, says: str
) -> None:
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    no_slurm.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    no_slurm.setenv("SLURM_JOB_ID", "7")
    no_slurm.setenv("SAYS", says)
    if says.startswith("2040"):
        end = time.mktime((2040, 1, 2, 3, 4, 5, 0, 0, -1))
        expected = end - deadline.RESERVE - time.time()
        assert deadline.time_limit(Run("run")) == pytest.approx(expected, abs=2)
    elif says == "NONE":
        assert deadline.time_limit(Run("run")) == math.inf
    else:
        with pytest.raises(ConfigError, match="run.time_limit.*does not say when job 7 ends.*min"):
            deadline.time_limit(Run("run"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('"soon"', "run.time_limit: expected minutes or \"slurm\", found 'soon'"),
        ("-1", "run.time_limit: must be at least 0, found -1"),
        ("true", "run.time_limit: expected a number or a text, found True"),
    ],
)
def test_a_time_limit_is_minutes_or_slurm(tmp_path: Path, given: str, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    assert configuration.load(path).run.time_limit == "slurm"
    assert configuration.load(path, ["run.time_limit=30"]).run.time_limit == 30.0
    with pytest.raises(ConfigError) as caught:
        configuration.load(path, [f"run.time_limit={given}"])
    assert said in str(caught.value)


# --- when nothing may begin any more --------------------------------------------------------------


def test_every_start_makes_a_unit_before_time_stops_it(watching) -> None:
    watching(0)
    deadline.check()
    assert list(deadline.in_time([])) == [] and deadline.may_begin(MPI.COMM_SELF, 1e9)
    units = deadline.in_time("abc")
    assert [next(units), next(units)] == ["a", "b"]
    deadline.made()
    with pytest.raises(OutOfTime):
        next(units)
    assert not deadline.may_begin(MPI.COMM_SELF)
    with pytest.raises(OutOfTime):
        deadline.check()


def test_a_unit_begins_only_where_the_longest_so_far_would_fit(watching) -> None:
    watching(10)
    deadline.made()
    assert deadline.may_begin(MPI.COMM_SELF, 6.0) and not deadline.may_begin(MPI.COMM_SELF, 7.0)
    deadline.check()


def test_sigusr1_lets_what_is_in_flight_end_and_sigterm_gives_it_some_seconds(watching) -> None:
    watching(math.inf)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not deadline.may_begin(MPI.COMM_SELF) and deadline.seconds_left() == math.inf
    deadline.check()
    os.kill(os.getpid(), signal.SIGTERM)
    assert 0 < deadline.seconds_left() <= deadline.GRACE


@pytest.mark.mpi
def test_ranks_stop_at_the_same_unit_whichever_of_them_heard_the_signal(watching) -> None:
    comm = MPI.COMM_WORLD
    watching(math.inf)
    done = 0
    for _ in deadline.in_step(comm, range(5)):
        done += 1
        if done == 2 and comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
    assert comm.allgather(done) == [2] * comm.size
    with pytest.raises(OutOfTime, match=f"with {3 * comm.size} units left; start the same command"):
        deadline.stop_with(comm, 5 - done, "units")
    deadline.stop_with(comm, 0, "units")


@pytest.mark.mpi
def test_a_rank_out_of_time_stops_all_and_hides_no_error(watching) -> None:
    comm = MPI.COMM_WORLD
    watching(math.inf)
    if comm.rank == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(OutOfTime, match="stopped in time while counting; start the same command"):
        with together(comm, "counting"):
            list(deadline.in_time(range(3)))
    with pytest.raises(RankError if comm.size > 1 else OutOfTime):
        with together(comm, "counting"):
            if comm.rank == 1:
                raise ValueError("not a number")
            list(deadline.in_time(range(3)))


# --- the stages -----------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.timeout(LIMIT)
def test_without_any_time_a_run_started_again_and_again_ends_with_the_same_bytes(
    mapped: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder, name = mapped[0], "run-hasty"
    shutil.copytree(folder / "run" / "composites", folder / name / "composites")
    stops: list[str] = []
    while not stops or stops[-1] != "while writing the products":
        said = lcu(mpirun, 2, "run", folder, f"run.directory={name}", "run.time_limit=0", code=3)
        stops.append(re.search(r"stopped in time (.*); start the same command again", said)[1])
        assert len(set(stops)) == len(stops), "a start made nothing"
    assert set(stops) >= {
        "before the stage train", "before the stage classify", "with 2 consistent shards left",
        "before the stage assess",
    }  # fmt: skip
    lcu(mpirun, 2, "run", folder, f"run.directory={name}")
    assert differences(folder / "run", folder / name) == []


@pytest.mark.timeout(LIMIT)
def test_composites_end_in_time_on_a_signal_and_go_on_to_the_same_bytes(
    landscape: Path, small: Path, mpirun: Mpirun
) -> None:
    """mpirun hands SIGUSR1 on to its ranks; SIGTERM it follows with SIGKILL (see test_slurm.py)."""
    sets = (*SMALL, "run.directory=run-signal")
    with started(World(landscape), "composite", 2, *sets) as job:
        job.wait_until("run directory")
        time.sleep(0.5)
        job.process.send_signal(signal.SIGUSR1)
        ending = job.end(60)
    assert ending.code == 3, ending.said
    assert ending.line("shards of composites left; start the same command again to go on")
    assert list((landscape / "run-signal").rglob("*.part")) == []
    lcu(mpirun, 3, "composite", landscape, *sets)
    assert differences(small, landscape / "run-signal") == []
