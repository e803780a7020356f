"""Killed at any moment, or out of disk: started again, a run ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compare import differences
from tests.conftest import ENVIRONMENT, LIMIT, ROOT, SMALL, Mpirun, lcu

QUICKLY = 30  # seconds in which a job has ended after one of its ranks did, or the disk was full


# --- killed ---------------------------------------------------------------------------------------


def start(folder: Path, command: str, sets: tuple[str, ...], output: Path) -> subprocess.Popen:
    """Start a command on 2 ranks; wait until its ranks are at work."""
    words = ["mpirun", "-n", "2", sys.executable, "-m", "lcu.main", command, folder / "run.toml"]
    words += [word for text in sets for word in ("--set", text)]
    with output.open("w") as file:
        process = subprocess.Popen(
            list(map(str, words)), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
            env=os.environ | ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 60
    while "run directory" not in output.read_text() and time.monotonic() < end:
        assert process.poll() is None, output.read_text()
        time.sleep(0.05)
    return process


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Return the process ids of the ranks: those whose parent is mpirun, by their age."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return sorted(map(int, listed.stdout.split()))


def is_alive(number: int) -> bool:
    """Tell whether a process runs (a dead one that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(process: subprocess.Popen, victim: str) -> bool:
    """Kill ``mpirun`` or a rank; tell whether it was still there. No rank may outlive it for long."""
    ranks = ranks_of(process)
    if process.poll() is not None or not ranks:
        return False
    os.kill(process.pid if victim == "mpirun" else ranks[int(victim) % len(ranks)], signal.SIGKILL)
    process.wait(timeout=QUICKLY)
    assert process.returncode != 0
    end = time.monotonic() + QUICKLY
    while any(map(is_alive, ranks)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_alive, ranks)), f"ranks outlive {victim}"
    return True


def kill_again_and_again(
    folder: Path, command: str, sets: tuple[str, ...], moments: list[tuple[str, float]]
) -> int:
    """Start a command, kill it after some seconds, start it again ...; return how often it died."""
    died = 0
    for number, (victim, moment) in enumerate(moments):
        process = start(folder, command, sets, folder / f"killed-{number}.txt")
        time.sleep(moment)
        died += kill(process, victim)
        process.wait(timeout=LIMIT)
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
    line = next(line for line in said.splitlines() if "the disk is full" in line)
    assert "MiB free" in line and "start the same command again" in line
    return line


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
