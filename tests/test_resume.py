"""Killed at any moment, or out of disk: started again, a run ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lcu.disk import DiskError, writing
from tests.compare import differences
from tests.conftest import LIMIT, SMALL, Mpirun, lcu
from tests.faults.harness import QUICKLY, World, started

# --- killed ---------------------------------------------------------------------------------------


def kill_again_and_again(
    folder: Path, command: str, sets: tuple[str, ...], moments: list[tuple[str, float]]
) -> int:
    """Start a command on 2 ranks, kill ``mpirun`` or a rank, start it again ...; return how often it died."""
    died = 0
    for victim, moment in moments:
        with started(World(folder), command, 2, *sets) as job:
            job.wait_until("run directory")
            time.sleep(moment)
            ranks = job.ranks()
            if len(ranks) == job.size:  # else it ends by itself already
                os.kill(
                    job.process.pid if victim == "mpirun" else ranks[int(victim)], signal.SIGKILL
                )
                died += job.end(QUICKLY, list(ranks.values())).code != 0
            job.process.wait(timeout=LIMIT)
    return died


@pytest.mark.timeout(LIMIT)
def test_composites_survive_kills_at_random_moments(
    landscape: Path, small: Path, mpirun: Mpirun
) -> None:
    folder = landscape
    draw = random.Random(1)
    moments = [(victim, draw.uniform(0, 2.5)) for victim in ("0", "mpirun", "1", "0", "mpirun")]
    sets = (*SMALL, "run.directory=run-killed-small")
    assert kill_again_and_again(folder, "composite", sets, moments) >= 3
    lcu(mpirun, 3, "composite", folder, *sets)
    assert differences(small, folder / "run-killed-small") == []
    assert list((folder / "run-killed-small").rglob("*.part")) == []


@pytest.mark.timeout(LIMIT)
def test_the_whole_chain_survives_kills_at_random_moments(
    mapped: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder = mapped[0]
    draw = random.Random(2)
    moments = [(victim, draw.uniform(1, 9)) for victim in ("1", "mpirun", "0")]
    sets = ("run.directory=run-killed",)
    assert kill_again_and_again(folder, "run", sets, moments) >= 2
    lcu(mpirun, 2, "run", folder, *sets)
    assert differences(folder / "run", folder / "run-killed") == []


# --- removed --------------------------------------------------------------------------------------


def test_a_removed_shard_is_an_error_of_the_next_stage(
    mapped: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder = mapped[0]
    run = folder / "run-removed"
    for name in ("composites", "config.toml"):
        copy = shutil.copytree if (folder / "run" / name).is_dir() else shutil.copy
        run.mkdir(exist_ok=True)
        copy(folder / "run" / name, run / name)
    shard = sorted(run.glob("composites/32TQS/2019/*.h5"))[0]
    shard.unlink()
    said = lcu(mpirun, 2, "sample", folder, f"run.directory={run.name}", code=1)
    assert f"{shard} is missing" in said and "run the stage that makes composites again" in said
    assert not (run / "samples" / "samples.h5").exists()
    shutil.rmtree(run)


# --- out of disk ----------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that makes a small disk, or changes the size of the one that it made."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: str) -> Path:
        again = "remount," if folder.is_mount() else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "tmpfs", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=False)


def fails_for_want_of_room(
    mpirun: Mpirun, ranks: int, command: str, folder: Path, *sets: str
) -> str:
    """Run a command that must end quickly and say that the disk is full; return what it said."""
    begun = time.monotonic()
    said = lcu(mpirun, ranks, command, folder, *sets, code=1)
    assert time.monotonic() - begun < QUICKLY
    line = next((line for line in said.splitlines() if "the disk is full" in line), "")
    assert "MiB free" in line and "start the same command again" in line, said
    return line


def test_room_that_is_there_again_when_it_is_asked_for_is_not_enough(
    disk: Callable[[str], Path],
) -> None:
    """Another rank gives back what it has tried to write: the failed write had found none all the same."""
    folder = disk("4m")
    with pytest.raises(DiskError, match="the disk is full"), writing(folder / "a.h5"):
        raise RuntimeError("MPI_File_write_at_all failed")
    disk("100m")
    with pytest.raises(RuntimeError, match="MPI_File_write_at_all"), writing(folder / "a.h5"):
        raise RuntimeError("MPI_File_write_at_all failed")


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.timeout(LIMIT)
def test_composites_on_a_full_disk_end_quickly_and_can_go_on(
    landscape: Path, small: Path, mpirun: Mpirun, disk: Callable[[str], Path], ranks: int
) -> None:
    run = disk("3m") / "run"
    sets = (*SMALL, f"run.directory={run}")
    line = fails_for_want_of_room(mpirun, ranks, "composite", landscape, *sets)
    assert f"{run}/composites/32T" in line and ".h5 cannot be written" in line
    assert not (run / "composites" / "index.json").exists()
    disk("100m")
    lcu(mpirun, ranks, "composite", landscape, *sets)
    assert differences(small, run) == []


@pytest.mark.timeout(LIMIT)
def test_every_later_stage_says_that_the_disk_is_full_and_can_go_on(
    mapped: tuple[Path, str], mpirun: Mpirun, disk: Callable[[str], Path]
) -> None:
    folder = mapped[0]
    run = disk("200m") / "run"
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("log", "lock*"))
    ballast = run.parent / "ballast"
    for stage, made in (
        ("sample", "samples"), ("train", "model"), ("classify", "probabilities"),
        ("assess", "assessment"), ("publish", "maps"),
    ):  # fmt: skip
        shutil.rmtree(run / made)
        room = os.statvfs(run)
        ballast.write_bytes(b"1" * (room.f_bavail * room.f_frsize - (64 << 10)))
        line = fails_for_want_of_room(mpirun, 2, stage, folder, f"run.directory={run}")
        assert f"{run}/" in line
        ballast.unlink()
        lcu(mpirun, 2, stage, folder, f"run.directory={run}")
    assert differences(folder / "run", run) == []
