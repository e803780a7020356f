"""The benchmarks run, check their answers and leave whole rows."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

KERNELS = {"median", "geometric_median", "medoid", "max_ndvi", "fill_gaps", "buffer_mask"}


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
