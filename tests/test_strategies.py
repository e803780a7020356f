"""Strategies of several years: where windows lie, what is stable, and one model for all years."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lcu import config as configuration
from lcu.config import Config, ConfigError
from lcu.grid import Grid, Tile
from lcu.legend import LandClass, Legend
from lcu.sample import Candidates, Samples
from lcu.train.series import Cut
from lcu.train.stable import border_of, class_values, label_of_one_year, splits, votes
from tests.compare import differences
from tests.conftest import LIMIT, Mpirun, lcu


def config_of(folder: Path, **tables: dict[str, object]) -> Config:
    """Return a configuration of three years with some keys of its own."""
    base: dict[str, dict[str, object]] = {
        "run": {"directory": str(folder / "run")},
        "archive": {"kind": "safe", "path": [str(folder)], "years": [2018, 2019, 2020]},
        "composite": {"period": "P3M"},
        "sample": {"old_map": str(folder), "old_map_year": 2012},
        "classify": {"strategy": "shifted-window"},
    }
    merged = {name: base.get(name, {}) | tables.get(name, {}) for name in base | tables}
    return configuration.build(merged, folder / "run.toml")


# --- shifted windows ------------------------------------------------------------------------------


def test_windows_move_over_the_whole_series_and_years_take_all_that_reach_into_them(
    tmp_path: Path,
) -> None:
    cut = Cut.of(config_of(tmp_path), (2018, 2019, 2020))
    # As long as a year: in the order of the seasons.
    seasons = [[0, 1, 2, 3], [4, 5, 2, 3], [4, 5, 6, 7], [8, 9, 6, 7], [8, 9, 10, 11]]
    assert cut.positions.tolist() == seasons
    expected = np.array([[4, 2, 0, 0, 0], [0, 2, 4, 2, 0], [0, 0, 0, 2, 4]])
    np.testing.assert_allclose(cut.shares, expected / expected.sum(axis=1, keepdims=True))
    # Days go on from the year in which a window begins.
    assert cut.first_day.tolist() == [1096, 1096, 1461, 1461, 1826]


def test_the_last_window_ends_with_the_series_and_none_bridges_a_gap(tmp_path: Path) -> None:
    classify = {"strategy": "shifted-window", "window": 6, "step": 4}
    cut = Cut.of(config_of(tmp_path, classify=classify), (2018, 2019, 2020))
    assert cut.positions[:, 0].tolist() == [0, 4, 6]
    years = [2018, 2020, 2021]
    apart = config_of(tmp_path, archive={"years": years}, classify={"strategy": "shifted-window"})
    starts = Cut.of(apart, years).positions.min(axis=1).tolist()
    assert starts == [0, 4, 6, 8]
    assert Cut.of(apart, [2018]).positions.min(axis=1).tolist() == [0]


@pytest.mark.parametrize("window", [2, 4, 6, 12])
def test_every_year_is_covered_whatever_the_window(tmp_path: Path, window: int) -> None:
    classify = {"strategy": "shifted-window", "window": window, "step": 2}
    cut = Cut.of(config_of(tmp_path, classify=classify), (2018, 2019, 2020))
    covered = [set(cut.positions[own > 0].ravel()) for own in cut.shares]
    assert all(set(range(4 * n, 4 * n + 4)) <= own for n, own in enumerate(covered))
    np.testing.assert_allclose(cut.shares.sum(axis=1), 1, rtol=1e-6)


def test_a_window_over_two_years_has_a_label_where_both_have_the_same(tmp_path: Path) -> None:
    cut = Cut.of(config_of(tmp_path), (2018, 2019, 2020))
    found = cut.labels(np.array([[3, 3, 3], [3, 3, 9], [3, 255, 3]], np.uint8))
    assert found.tolist() == [
        [3, 3, 3, 3, 3],
        [3, 3, 3, 255, 9],
        [3, 255, 255, 255, 3],
    ]


def test_a_years_probability_is_the_mean_of_its_windows_by_the_periods_they_share(
    tmp_path: Path,
) -> None:
    cut = Cut.of(config_of(tmp_path), (2018, 2019, 2020))
    windows = np.random.default_rng(1).dirichlet(np.ones(3), (6, 5)).astype(np.float32)
    expected = np.einsum("yw,swc->syc", cut.shares, windows)
    np.testing.assert_allclose(cut.of_years(windows), expected, rtol=1e-6)
    single = Cut((2018,), np.array([[0, 1]]), np.array([1096]), np.array([1100, 1200]))
    assert single.of_years(windows[:, :1]) is not None
    np.testing.assert_array_equal(single.of_years(windows[:, :1]), windows[:, :1])


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"classify": {"strategy": "yearly", "window": 6}}, "classify.window: only shifted-window"),
        ({"classify": {"window": 13}}, "classify.window: 13 periods are more than the 12"),
        (
            {"classify": {"window": 4, "step": 5}},
            "classify.step: must not be larger than the window",
        ),
        ({"train": {"model": "lstm", "carry_state": True}}, "train.carry_state: the windows"),
        ({"train": {"model": "lstm", "change_penalty": 1.0}}, "train.change_penalty: compares"),
        (
            {"archive": {"years": [2018]}, "classify": {"strategy": "multi-year"}},
            "classify.strategy: multi-year",
        ),
        (
            {"classify": {"strategy": "yearly"}, "train": {"change_penalty": 1.0}},
            "train.change_penalty: only networks",
        ),
    ],
)
def test_impossible_strategies_are_named(
    tmp_path: Path, tables: dict[str, dict[str, object]], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        config_of(tmp_path, **tables)


# --- stable pixels --------------------------------------------------------------------------------


LEGEND = Legend(
    "three", tuple(LandClass(10 * n + 10, f"class {n}", "#000000", {}) for n in range(3))
)


def test_a_pixel_has_its_class_in_the_years_that_were_seen() -> None:
    found = np.array([[0, 0, 1], [2, 255, 2], [1, 1, 1]], np.uint8)
    seen = np.array([[True, True, True], [True, True, False], [True, True, False]])
    known = np.array([True, True, False])
    index = np.array([0, 2, 2], np.uint8)
    values = class_values(found, seen, index, known, LEGEND).tolist()
    # A class that the model does not know stays what the old map says.
    assert values == [[10, 10, 20], [30, 255, 255], [30, 30, 255]]


def test_the_old_map_votes_in_its_year() -> None:
    probability = np.array([[[0.8, 0.2], [np.nan, np.nan]]], np.float32)
    cast = votes(probability, np.array([1], np.uint8), [2016, 2018, 2019], [1, 2])
    np.testing.assert_allclose(
        cast[:, :, 0, 0], [[0, 1], [0.64 / 0.68, 0.04 / 0.68], [0, 0]], rtol=1e-6
    )
    between = votes(probability, np.array([0], np.uint8), [2018, 2018, 2019], [1, 2])
    assert between[0, :, 0, 0].tolist() == [1, 0]


def test_each_year_of_a_pixel_is_drawn_by_as_often_as_another() -> None:
    label = np.tile(np.array([10, 255, 20, 30], np.uint8), (3000, 1))
    found = label_of_one_year(label, np.arange(3000, dtype=np.uint64))
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [10, 20, 30] and counts.min() > 900


@pytest.mark.parametrize(
    ("erosion", "resolution", "pixels"), [(20, 10, 2), (0, 10, 1), (900, 10, 15)]
)
def test_what_is_held_out_lies_inside_its_class(
    tmp_path: Path, erosion: float, resolution: float, pixels: float
) -> None:
    config = config_of(tmp_path, sample={"erosion": float(erosion)})
    grid = Grid("EPSG:32632", (0.0, resolution, 0.0, 0.0, 0.0, -resolution), 8, 8)
    pool = replace(Candidates.none(), tile=np.zeros(3, np.uint16))
    assert border_of(config, [Tile("a", grid)], pool).tolist() == [pixels] * 3


def test_a_polygon_stays_on_its_side_of_the_split() -> None:
    count = 400
    random = np.random.default_rng(2)
    columns = {
        name: np.zeros(count, np.int64) for name in ("key", "tile", "row", "col", "border", "cluster")
    }  # fmt: skip
    drawn = Candidates(
        **columns, index=np.arange(count, dtype=np.uint8) % 3, polygon=np.arange(count) // 3 * 3 + np.arange(count) % 3
    )  # fmt: skip
    known = random.permutation(count)[:200]
    split = random.integers(0, 3, 200).astype(np.uint8)
    empty = dict.fromkeys(
        ("series", "count", "day", "label", "weight", "tile", "row", "col", "cluster"), np.zeros(0)
    )
    samples = Samples(
        **empty,
        polygon=drawn.polygon[known],
        split=split,
        tiles=(),
        years=(),
        middles=np.zeros(0),
        made_from=(),
        fingerprint="",
    )
    found = splits(drawn, samples, 1)
    np.testing.assert_array_equal(found[known], split)
    assert set(np.unique(found)) == {0, 1, 2}


# --- in the chain ---------------------------------------------------------------------------------


def prepared(folder: Path, name: str) -> str:
    """Give a run directory the composites and samples of the chain; return its setting."""
    for part in ("composites", "samples"):
        shutil.copytree(folder / "run" / part, folder / name / part)
    return f"run.directory={name}"


@pytest.mark.parametrize(
    "sets",
    [
        ("classify.strategy=multi-year", "train.model=random-forest", "train.trees=20"),
        ("classify.strategy=shifted-window", "classify.window=16", "classify.step=4"),
    ],
)
@pytest.mark.timeout(2 * LIMIT)
def test_one_model_of_all_years_maps_the_same_on_any_number_of_ranks(
    mapped: tuple[Path, str], mpirun: Mpirun, sets: tuple[str, ...]
) -> None:
    folder = mapped[0]
    names = [f"run-{sets[0].split('=')[1]}-{ranks}" for ranks in (1, 3)]
    for ranks, name in zip((1, 3), names, strict=True):
        own = prepared(folder, name)
        lcu(mpirun, ranks, "train", folder, own, *sets)
        lcu(mpirun, ranks, "classify", folder, own, *sets)
    assert differences(*(folder / name for name in names)) == []
    told = json.loads((folder / names[0] / "model" / "model.json").read_text())
    assert list(told["scores"]) == ["all"] and told["years"] == [2018, 2019]
    made = {path: path.stat().st_mtime_ns for path in (folder / names[0]).rglob("*.[hp]*")}
    lcu(mpirun, 2, "train", folder, f"run.directory={names[0]}", *sets)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    if "multi-year" in names[0]:
        check_stable_samples(folder / names[0])


def check_stable_samples(folder: Path) -> None:
    """Stable samples are labelled in two years at least, and no polygon changes its side of the split."""
    first, stable = (Samples.read(folder, name) for name in ("samples", "stable"))
    side = dict(zip(first.polygon.tolist(), first.split.tolist(), strict=True))
    pairs = zip(stable.polygon.tolist(), stable.split, strict=True)
    shared = [(side[number], split) for number, split in pairs if number in side]
    assert len(shared) > 100 and all(one == other for one, other in shared)
    assert ((stable.label != 255).sum(axis=1) >= 2).all()
    assert (folder / "model" / "first" / "model.json").exists()
