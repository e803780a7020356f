"""One job at a time writes a run directory, and a dead one is never in the way."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lcu import lock
from tests.conftest import ROOT, Mpirun, lcu

HOLD = """
import sys, time
from pathlib import Path
from lcu import lock
held = lock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def held_by_another(directory: Path) -> Iterator[subprocess.Popen]:
    """Hold the lock of a directory from another process, killed at the end."""
    directory.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_job_is_told_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with held_by_another(tmp_path) as process:
        with pytest.raises(lock.LockError) as refused:
            lock.take(tmp_path, patience=0.3)
    said = str(refused.value)
    assert str(tmp_path) in said and f"process {process.pid} on " in said
    assert "job 4711, since 20" in said and "name another run.directory" in said


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as process:
        process.kill()
        with lock.take(tmp_path, patience=5) as held:
            assert not held.closed
    assert (tmp_path / lock.HOLDER).exists()  # which stops nobody


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(lock.log, "propagate", True)
    assert lock.take(tmp_path) is None
    assert "No locks available" in caplog.text and "second job" in caplog.text


def test_only_what_was_half_written_is_removed(tmp_path: Path) -> None:
    whole = tmp_path / "composites" / "32TPS" / "2018" / "r00000_c00000.h5"
    workshop = tmp_path / "maps" / ".LCU_LC_MAP_S2018_R10m_32TPS_32632_V01"
    for folder in (whole.parent, workshop):
        folder.mkdir(parents=True)
    for path in (whole, whole.with_name("r00000_c00128.h5.part"), workshop / "plain.tif"):
        path.write_text("x")
    lock.clean(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [whole]
    assert not workshop.exists()


def test_a_command_that_writes_waits_for_no_other_job(copied: Path, mpirun: Mpirun) -> None:
    run = copied / "run"
    with held_by_another(run) as process:
        said = lcu(mpirun, 2, "composite", copied, code=1)
        assert said.count(f"another job writes {run}: process {process.pid}") == 1
        assert not (run / "config.toml").exists()  # the other job's files are left alone
        lcu(mpirun, 1, "status", copied)
