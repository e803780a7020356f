"""Rates measured on small landscapes, and how long a run would take on many nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from lcu import config as configuration
from lcu import forecast, main
from lcu.forecast import Load, Rate
from tests.conftest import CONFIG, ROOT, Mpirun, lcu

costs = st.lists(st.floats(0.1, 9), min_size=1, max_size=12).map(tuple)


@given(st.lists(st.lists(costs, min_size=1, max_size=4).map(tuple), max_size=5), costs)
def test_the_rank_with_most_to_do_has_at_least_its_share_and_all_of_it_alone(
    shards: list, units: tuple
) -> None:
    load = Load(shards=shards, units=units, even=3.0)
    assert forecast.most_to_do(load, 1) == pytest.approx(load.total)
    for ranks in (2, 3, 8, 100):
        most = forecast.most_to_do(load, ranks)
        assert load.total / ranks - 1e-9 <= most <= load.total + 1e-9


def test_scaling_ends_where_units_limits_or_fixed_seconds_end_it() -> None:
    units = Load(units=[1.0] * 16)
    assert forecast.end_of_scaling(units, Rate(0.0, 1.0), 1024) == (16, "16 units of work")
    batch = Load(even=1000.0, limit=8, why="train.batch")
    assert forecast.end_of_scaling(batch, Rate(0.0, 1.0), 64) == (8, "train.batch")
    fixed = Load(even=100.0)
    ranks, why = forecast.end_of_scaling(fixed, Rate(10.0, 1.0), 4096)
    assert 32 <= ranks <= 128 and why == "what every rank does whatever the size"
    assert forecast.end_of_scaling(fixed, Rate(0.0, 1.0), 64) == (64, "")
    found = forecast.forecast(batch, Rate(2.0, 100.0), 16)
    assert found.seconds == pytest.approx(2 + 1000 / 8 / 100)


@given(st.floats(0, 50), st.floats(0.01, 100))
def test_rates_are_found_again(fixed: float, speed: float) -> None:
    points = [(units, fixed + units / speed) for units in (3.0, 12.0)]
    found = forecast.fitted(*points)
    assert found.fixed == pytest.approx(fixed, abs=1e-6) and found.speed == pytest.approx(speed)
    assert forecast.fitted((3.0, 9.0), (12.0, 8.0)) == Rate(0.0, 1.5)  # noise
    nothing = forecast.fitted((0.0, 0.2), (0.0, 0.4))
    assert forecast.forecast(Load(), nothing, 128).seconds == 0.4


@pytest.mark.timeout(600)
def test_what_calibrate_measures_plan_extends_to_many_nodes(
    landscape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, mpirun: Mpirun
) -> None:  # fmt: skip
    (tmp_path / "run.toml").write_text(CONFIG.replace('"products"', f'"{landscape}/products"')
                                       .replace('"old_map.tif"', f'"{landscape}/old_map.tif"')
                                       .replace('"truth/', f'"{landscape}/truth/'))  # fmt: skip
    missing = lcu(mpirun, 1, "plan", tmp_path, code=0)
    assert "core-hours" not in missing
    monkeypatch.setattr(main, "CALIBRATION", ((256, 30), (256, 30), (320, 40)))
    assert main.main(MPI.COMM_SELF, ["calibrate", str(tmp_path / "run.toml")]) == 0
    rates = json.loads((tmp_path / "run" / "calibration.json").read_text())["rates"]
    assert set(rates) == {"composite", "draw", "clean", "train", "classify", "assess", "publish"}
    assert all(rate["speed"] > 0 and rate["fixed"] >= 0 for rate in rates.values())
    assert not (tmp_path / "run" / "calibration").exists()
    capfd.readouterr()
    words = ["plan", str(tmp_path / "run.toml"), "--nodes", "1", "4", "--ranks-per-node", "128"]
    assert main.main(MPI.COMM_SELF, words) == 0
    said = capfd.readouterr().out
    assert "1 node x 128 ranks" in said and "4 nodes x 128 ranks" in said
    assert said.count("core-hours") == 2 and "units of work" in said


def test_a_run_whose_archive_is_retrieved_can_be_calibrated() -> None:
    path = ROOT / "examples" / "netherlands.toml"
    overrides = main._overrides(configuration.load(path), Path("calibration"), 256, 50)
    small = configuration.load(path, overrides, without=("retrieve",))
    assert small.retrieve is None and small.simulate.size == 256 and not small.archive.tiles


def test_a_forecast_without_rates_says_how_to_measure_them(
    landscape: Path, tmp_path: Path, mpirun: Mpirun
) -> None:
    words = ["-m", "lcu.main", "plan", landscape / "run.toml", "--set", f"run.directory={tmp_path}"]
    done = mpirun(1, *words, "--nodes", "2")
    assert done.returncode == 1 and "run the stage `calibrate` first" in done.stderr
