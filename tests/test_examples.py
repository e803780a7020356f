"""The examples on real archives reach what the README says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal

from tests.conftest import ROOT, Mpirun

gdal.UseExceptions()

# CORINE's forests, and the values of examples/legends/sweden.toml for them.
FOREST, MAPPED_FOREST = (311, 312, 313), (3, 4)


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
def test_the_swedish_squares_reach_their_accuracy_and_show_felled_forest_as_two_tiles_of_one_run(
    shared: Path, tmp_path: Path, mpirun: Mpirun
) -> None:
    tiles = run(mpirun, "sweden", tmp_path / "run")["tiles"]
    assert tiles["sweden-a"]["overall_accuracy"] >= 0.66
    assert tiles["sweden-b"]["overall_accuracy"] >= 0.73
    for square in ("sweden-a", "sweden-b"):
        (path,) = (tmp_path / "run" / "maps").glob(f"LCU_LC_MAP_S2022_R10m_{square}_*.tif")
        gone = ~np.isin(gdal.Open(str(path)).ReadAsArray(), MAPPED_FOREST)
        felled, still = forest_of_2018(shared / square)
        assert gone[felled].mean() >= 0.6 and gone[still].mean() <= 0.05


def forest_of_2018(square: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels that were forest in both maps of 2018 were felled, and which a newer map calls forest."""
    names = ("nmd2018_as_clc", "felled_forest", "updated_label")
    own, felled, newer = (
        gdal.Open(str(square / "reference" / f"{name}.tif")).ReadAsArray() for name in names
    )
    coarse = gdal.Open(str(square / "old_map_clc_100m.tif")).ReadAsArray()
    old = np.zeros_like(own)  # the coarse map's cells of ten pixels end before the square does
    old[:250, :250] = coarse.repeat(10, axis=0).repeat(10, axis=1)
    both = np.isin(old, FOREST) & np.isin(own, FOREST)
    return both & (felled == 1), both & (felled == 0) & np.isin(newer, (1, 2, 3, 4, 5))
