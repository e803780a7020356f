"""The benchmarks run, check their answers and leave whole rows."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Mpirun, lcu

KERNELS = {
    "median",
    "geometric_median",
    "medoid",
    "max_ndvi",
    "fill_gaps",
    "resample",
    "buffer_mask",
}


def test_every_measurement_leaves_one_whole_row(tmp_path: Path) -> None:
    table = tmp_path / "kernels.csv"
    command = [sys.executable, "perf/kernels.py", "--case", "tiny", "--rounds", "1", "--own"]
    done = subprocess.run(
        [*command, "--results", table], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["function"] for row in rows} == KERNELS
    assert not [row for row in rows if "" in row.values() or None in row]
    assert {row["implementation"] for row in rows} >= {"lcu", "numpy.nanmedian", "numpy"}
    for row in rows:
        assert float(row["seconds_best"]) > 0
        assert float(row["ratio_least"]) <= float(row["ratio"]) <= float(row["ratio_most"])
        assert float(row["agreement"]) >= 0.999


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table, which must be whole."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and not [row for row in rows if "" in row.values() or None in row]
    return rows


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_is_measured_with_every_network(
    ranks: int, tmp_path: Path, mpirun: Mpirun
) -> None:
    pytest.importorskip("horovod.torch")
    table = tmp_path / "training.csv"
    sizes = ("--batch", 4, "--steps", 2, "--rounds", 1)
    done = mpirun(ranks, "perf/training.py", *sizes, "--results", table)
    assert done.returncode == 0, done.stderr
    rows = rows_of(table)
    alone = {"none", "bare loop"} if ranks == 1 else set()
    assert {row["backend"] for row in rows} == {"horovod", "torch"} | alone
    assert {row["model"] for row in rows} == {"lstm", "transformer", "tempcnn", "ltae", "convlstm"}


def test_classification_is_measured_with_a_network(
    tiny: Path, tmp_path: Path, mpirun: Mpirun
) -> None:
    for part in ("composites", "samples"):
        shutil.copytree(tiny / "run" / part, tiny / "run-perf" / part)
    sets = ("run.directory=run-perf", "train.model=tempcnn", "train.epochs=1")
    lcu(mpirun, 1, "train", tiny, *sets)
    table = tmp_path / "classification.csv"
    words = [word for text in sets for word in ("--set", text)]
    sizes = ("--size", 128, "--rounds", 1, "--results", table)
    done = mpirun(1, "perf/classification.py", tiny / "run.toml", *words, *sizes)
    assert done.returncode == 0, done.stderr
    assert float(rows_of(table)[0]["ratio"]) > 0
