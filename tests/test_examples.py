"""The examples on real archives reach what the README says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Mpirun


def run(mpirun: Mpirun, name: str, folder: Path) -> dict:
    """Run an example on 2 ranks; return what the assessment says of its only year."""
    done = mpirun(
        2,
        "-m",
        "lcu.main",
        "run",
        ROOT / "examples" / f"{name}.toml",
        "--set",
        f"run.directory={folder}",
        limit=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(next((folder / "assessment").glob("accuracy_S*.json")).read_text())


@pytest.mark.timeout(500)
def test_flanders_reaches_its_accuracy(shared: Path, tmp_path: Path, mpirun: Mpirun) -> None:
    result = run(mpirun, "flanders", tmp_path / "run")
    assert result["n"] == 4096 and result["overall_accuracy"] >= 0.86
    assert result["where_old_map_has_a_class"]["old_map"]["overall_accuracy"] == pytest.approx(
        0.885, abs=0.001
    )


@pytest.mark.timeout(500)
def test_the_swedish_squares_reach_their_accuracy_as_two_tiles_of_one_run(
    shared: Path, tmp_path: Path, mpirun: Mpirun
) -> None:
    tiles = run(mpirun, "sweden", tmp_path / "run")["tiles"]
    assert tiles["sweden-a"]["overall_accuracy"] >= 0.66
    assert tiles["sweden-b"]["overall_accuracy"] >= 0.73
