"""What is around a job goes wrong: the disk, the clock, a second job. It ends and says so, or does not care."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compare import differences
from tests.faults import harness
from tests.faults.harness import FULL, World, on_rank, started, whole_again

pytestmark = pytest.mark.timeout(3 * harness.LIMIT)


@contextmanager
def mounted(path: Path, *commands: tuple[str, ...]) -> Iterator[None]:
    """Mount something on a folder, by calls of `mount` one after the other; skip where that is not allowed."""
    for options in commands:
        words = ["mount", *options, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_read_only_run_directory_is_named(world: World, seen) -> None:
    run = world.before("classify")
    with mounted(run, ("--bind", str(run)), ("-o", "remount,ro,bind")):
        ending = harness.do(world, "classify", 2, f"run.directory={run}", within=harness.QUICKLY)
    assert ending.code == 1 and ending.line(str(run), "Read-only file system")
    whole_again(world, "classify", 2, run)
    seen("read-only run directory", "classify", 2, ending)


def test_a_full_disk_is_named(world: World, seen) -> None:
    run = world.before("composite")
    (run / "composites").mkdir()
    with mounted(run / "composites", ("-t", "tmpfs", "-o", "size=1m", "tmpfs")):
        ending = harness.do(world, "composite", 2, f"run.directory={run}", within=harness.LIMIT)
    assert ending.code == 1 and ending.line(str(run), "disk is full")
    whole_again(world, "composite", 2, run)
    seen("full disk", "composite", 2, ending)


# Longer than a job waits for one that is leaving.
WAITING = on_rank(1, "lcu.classify.stage:marks_of", "import time; time.sleep(25)")


def test_a_second_job_keeps_out_of_the_run_directory(world: World, seen) -> None:
    run = world.before("classify")
    with started(world, "classify", 2, f"run.directory={run}", patches=WAITING) as first:
        first.wait_until("run directory")
        second = harness.do(world, "classify", 1, f"run.directory={run}", within=harness.QUICKLY)
        assert first.end(harness.LIMIT).code == 0
    assert second.code == 1 and second.line(str(run), "another job")
    assert differences(world.folder / "run", run) == []
    seen("two jobs on one run directory", "classify", 2, second)


# A day back, once the first shard is written.
BACK = "import time; own = time.time; time.time = lambda: own() - 86400.0"


@pytest.mark.parametrize("stage", [pytest.param("composite", marks=FULL), "classify"])
def test_a_clock_that_jumps_changes_nothing(world: World, stage: str, seen) -> None:
    run = world.before(stage)
    for number, path in enumerate(sorted(run.rglob("*.h5"))):  # as of 1980 and 2100
        when = (315_532_800, 4_102_444_800)[number % 2]
        os.utime(path, (when, when))
    made = {path: path.stat().st_mtime_ns for path in run.rglob("*.h5")}
    patches = on_rank(1, "lcu.store:create", BACK)
    ending = harness.do(world, stage, 2, f"run.directory={run}", patches=patches)
    assert ending.code == 0, ending.said
    assert differences(world.folder / "run", run) == []
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    seen("a clock that jumps", stage, 2, ending)
