"""Acquisitions with days of their own in every pixel: sampled, learned from and mapped without common dates."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import h5py
import numpy as np
import pytest

from lcu import config as configuration
from lcu.classify.stage import read
from lcu.composite import Composites, middles_of
from lcu.config import Config, ConfigError
from lcu.grid import Block, day_number
from lcu.legend import NODATA
from lcu.sample import Samples
from lcu.sample.draw import TRAINING
from lcu.sample.series import fill_series
from lcu.train import splice
from lcu.train.series import Cut
from tests import reference
from tests.compare import differences_of_data
from tests.conftest import LIMIT, Mpirun, lcu

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "."
years = [2018, 2020]
[composite]
method = "acquisitions"
count = 4
bands = ["B02", "B03"]
[sample]
old_map = "run.toml"
old_map_year = 2016
[train]
model = "ltae"
series = "masked"
spliced = 0.5
"""
COUNT = 90
CLASSES, LEVEL = (1, 2, 8), 1000  # reflectance of a class: times its value


def load(folder: Path, *sets: str) -> Config:
    (folder / "run.toml").write_text(CONFIG)
    return configuration.load(folder / "run.toml", sets)


def samples_of(config: Config) -> Samples:
    """Return samples whose series is level, at a height that tells the class, with up to 4 random days a year."""
    random = np.random.default_rng(3)
    label = np.array(CLASSES, np.uint8)[np.arange(COUNT) % len(CLASSES)]
    day = np.zeros((COUNT, 8), np.int32)
    for row in day:
        for place, year in enumerate((2018, 2020)):
            own = np.sort(random.choice(365, random.integers(1, 5), replace=False))
            row[4 * place : 4 * place + len(own)] = own + day_number(date(year, 1, 1))
    series = np.where(day[..., None] > 0, label[:, None, None] * np.uint16(LEVEL), 0)
    number = np.arange(COUNT, dtype=np.int32)
    return Samples(
        series=np.broadcast_to(series, (COUNT, 8, 2)).astype(np.uint16), count=(day > 0).astype(np.uint8), day=day,
        label=np.stack([label, label], axis=1), weight=np.ones(COUNT, np.float32),
        tile=np.zeros(COUNT, np.uint16), row=number, col=number, polygon=number, cluster=number,
        split=np.full(COUNT, TRAINING, np.uint8), tiles=("32TPS",), years=(2018, 2020),
        middles=middles_of(config.periods), made_from=("", ""), fingerprint="",
    )  # fmt: skip


def test_a_series_is_filled_at_the_middle_of_each_period(tmp_path: Path) -> None:
    samples = samples_of(load(tmp_path))
    random = np.random.default_rng(1)
    series = np.where(samples.day[..., None] > 0, random.integers(1, 9000, (COUNT, 8, 2)), 0)
    samples = replace(samples, series=series.astype(np.uint16))
    raster = samples.series.transpose(1, 2, 0)[:, :, None]
    expected = reference.resample(raster, samples.day.T[:, None], samples.middles)
    np.testing.assert_array_equal(samples.filled(), expected[:, :, 0].transpose(2, 0, 1))
    assert samples.filled().shape == (COUNT, 24, 2)
    known = samples.of_periods()
    np.testing.assert_array_equal(known[0], samples.filled())
    assert known[1].all()
    assert fill_series(series[:0], samples.day[:0], samples.middles).shape == (0, 24, 2)


def test_windows_hold_the_acquisitions_of_their_year_with_their_days(tmp_path: Path) -> None:
    config = load(tmp_path)
    samples, cut = samples_of(config), Cut.of(config, config.archive.years)
    windows = cut.windows(samples.series, samples.count, samples.day)
    assert windows.values.shape == (COUNT, 2, 4, 2)
    np.testing.assert_array_equal(windows.observed.reshape(COUNT, 8), samples.day > 0)
    there = windows.observed
    assert (windows.day[there] >= 0).all() and (windows.day[there] < 365).all()
    assert (windows.day[~there] == 0).all()
    filled = Cut.of(load(tmp_path, "train.series=filled"), config.archive.years)
    assert filled.windows(samples.filled()).values.shape == (COUNT, 2, 12, 2)


def test_a_spliced_sample_shows_the_days_of_one_class_and_then_those_of_another(
    tmp_path: Path,
) -> None:
    config = load(tmp_path)
    samples = samples_of(config)
    found = splice.with_spliced(config, samples, CLASSES)
    assert len(found.label) > COUNT + 20
    for row in range(COUNT, len(found.label)):
        (position,) = np.flatnonzero(found.label[row] != NODATA)
        series, day, count = found.series[row, :, 0], found.day[row], found.count[row]
        np.testing.assert_array_equal(day > 0, count > 0)
        np.testing.assert_array_equal(series > 0, count > 0)
        for year in (slice(0, 4), slice(4, 8)):
            own = day[year][day[year] > 0]
            assert (np.diff(own) >= 0).all() and (day[year][len(own) :] == 0).all()
        shown = [int(value) // LEVEL for value in series[day > 0]]
        turn = next(place for place in range(1, len(shown)) if shown[place] != shown[0])
        assert shown == [shown[0]] * turn + [int(found.label[row, position])] * (len(shown) - turn)


def test_what_cannot_be_without_common_dates_is_named(tmp_path: Path) -> None:
    for text, key in (
        ("archive.margin=P1M", "archive.margin: .* expected 'P0M', found 'P1M'"),
        ("train.model=convlstm", "train.model: convlstm compares neighbours"),
        ("train.change_penalty=1.0", "train.change_penalty: compares years period by period"),
        ("classify.strategy=shifted-window", "classify.strategy: shifted-window moves by periods"),
    ):
        with pytest.raises(ConfigError, match=key):
            load(tmp_path, text)
        load(tmp_path, text, "train.series=filled", "train.spliced=0")


# --- in the chain ---------------------------------------------------------------------------------

ACQUISITIONS = ("composite.method=acquisitions", "composite.count=6", "sample.per_class=60", "train.epochs=2",
                "train.spliced=0.1")  # fmt: skip
LTAE = ("train.model=ltae", "train.series=masked", "classify.strategy=multi-year")


@pytest.mark.timeout(3 * LIMIT)
def test_a_run_on_acquisitions_does_not_depend_on_ranks_or_blocks(
    tiny: Path, mpirun: Mpirun
) -> None:
    for name, ranks, shard in (("run-days", 2, 256), ("run-days-other", 3, 192)):
        sets = [
            *ACQUISITIONS,
            *LTAE,
            f"run.directory={name}",
            f"classify.shard={shard}",
            f"composite.shard={shard}",
        ]
        if ranks == 3:
            sets.append("train.from_model=run-days")
        lcu(mpirun, ranks, "run", tiny, *sets)
    both = [tiny / name for name in ("run-days", "run-days-other")]
    # The table of stable pixels belongs to the training, which the other run does not have.
    assert [text for text in differences_of_data(*both) if "stable.h5" not in text] == []
    _samples_are_what_was_seen(tiny)
    about = json.loads((both[0] / "model" / "model.json").read_text())
    assert about["reads_days"] and about["window"] == 6
    config = configuration.load(tiny / "run.toml", [*ACQUISITIONS, "train.from_model=run-days"])
    assert not config.reads_days
    said = lcu(
        mpirun, 1, "train", tiny, *ACQUISITIONS, "train.from_model=run-days", "run.directory=run-days-other", code=1,
    )  # fmt: skip
    assert (
        "trained with train.series masked on composite.method acquisitions: True, this run has False"
        in said
    )


def _samples_are_what_was_seen(folder: Path) -> None:
    with h5py.File(folder / "run-days" / "samples" / "samples.h5") as file:
        columns = {name: file[name][()] for name in ("series", "day", "count", "row", "col")}
    with h5py.File(folder / "run-days" / "composites" / "32TPS.h5") as file:
        reflectance, day = file["reflectance"][()], file["day"][()]
    place = columns["row"], columns["col"]
    np.testing.assert_array_equal(columns["day"], day[:, *place].T)
    np.testing.assert_array_equal(columns["series"], reflectance[:, :, *place].transpose(2, 0, 1))
    np.testing.assert_array_equal(columns["count"], columns["day"] > 0)
    assert (columns["day"] > 0).sum(axis=1).std() > 0  # some pixels have more than others


def linked(folder: Path, name: str) -> str:
    """Give a run directory the composites of `run-days`, where they are; return its setting."""
    (folder / name).mkdir()
    if (folder / "run-days" / "composites").exists():
        (folder / name / "composites").symlink_to(folder / "run-days" / "composites")
    return f"run.directory={name}"


@pytest.mark.timeout(2 * LIMIT)
def test_models_of_periods_read_acquisitions_at_their_middles(tiny: Path, mpirun: Mpirun) -> None:
    own = [*ACQUISITIONS, linked(tiny, "run-days-svm"), "classify.shard=256", "composite.shard=256"]
    assert "report" in lcu(mpirun, 2, "run", tiny, *own)
    samples = Samples.read(tiny / "run-days-svm")
    assert samples.series.shape[1] == 6 * 2 and samples.filled().shape[1] == 24


@pytest.mark.timeout(2 * LIMIT)
def test_patches_of_acquisitions_are_read_at_the_middles_of_the_periods(
    tiny: Path, mpirun: Mpirun
) -> None:
    own = [
        *ACQUISITIONS,
        linked(tiny, "run-days-patch"),
        "train.model=convlstm",
        "composite.shard=256",
    ]
    for stage in ("composite", "sample"):
        lcu(mpirun, 2, stage, tiny, *own)
    samples = Samples.read(tiny / "run-days-patch")
    assert samples.patch.shape[1] == 24
    np.testing.assert_array_equal(samples.patch[..., 2, 2], samples.filled())
    composites = Composites.open(configuration.load(tiny / "run.toml", own))
    name = next(iter(composites.tiles))
    around, days, count = read(composites, name, Block(0, 64, 64, 64), 2)
    filled = composites.at_periods(around, days)
    assert not filled[:, :, :2].any() and days.shape[1:] == (68, 68)
    alone = read(composites, name, Block(0, 64, 64, 64), 0)
    np.testing.assert_array_equal(filled[..., 2:-2, 2:-2], composites.at_periods(*alone[:2]))
    np.testing.assert_array_equal(count, alone[1] > 0)
