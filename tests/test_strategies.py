"""Strategies of several years: where windows lie, what is stable, and one model for all years."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lcu import config as configuration
from lcu.config import Config, ConfigError
from lcu.legend import LandClass, Legend
from lcu.sample import Candidates, Samples
from lcu.train.loop import TrainError
from lcu.train.series import Cut
from lcu.train.stable import FOLDS, agreed_labels, fold_of, splits
from lcu.train.stage import divided
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
    single = Cut((2018,), np.array([[0, 1]]), np.array([1096]))
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


# Years' probabilities of three classes: what is sure of one, and what is not.
SURE_OF = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.4, 0.35, 0.25]])


def labels_of(years: list[list[int]], index: int, nearest: int = 0, **about: object) -> list[list]:
    """Return the labels of pixels whose years look like rows of `SURE_OF`; 255 = none."""
    probability = SURE_OF[np.array(years)].astype(np.float32)
    count = len(years)
    seen = np.array(about.get("seen", np.ones(probability.shape[:2])), bool)
    known = np.full(count, about.get("known", True))
    own = np.full(count, index, np.uint8)
    classes = (LandClass(10 * n + 10, f"class {n}", "#000000", {}) for n in range(3))
    legend = Legend("three", tuple(classes))
    return agreed_labels(probability, seen, own, known, nearest, legend).tolist()


def test_a_pixel_has_the_class_of_each_year_where_it_begins_as_the_old_map_says() -> None:
    years = [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0], [3, 3, 3, 3], [2, 2, 0, 0]]
    none = [255] * 4
    assert labels_of(years, 0) == [
        [10, 10, 10, 10], [10, 10, 20, 20], none, [10, 255, 10, 10], [10, 10, 10, 10], none,
    ]  # fmt: skip
    # The old map is of the last year: what was so before it may be anything.
    assert labels_of(years, 0, nearest=3)[-1] == [30, 30, 10, 10]


def test_years_not_seen_and_classes_the_model_does_not_know_contradict_nothing() -> None:
    seen = [[1, 0, 1, 1]]
    assert labels_of([[0, 1, 0, 0]], 0, seen=seen) == [[10, 255, 10, 10]]
    assert labels_of([[1, 1, 1, 1]], 0, seen=seen, known=False) == [[10, 255, 10, 10]]


def samples_of(side: int) -> Samples:
    """Return samples of two classes on a square of some pixels."""
    rows, cols = np.divmod(np.arange(side**2, step=7), side)
    empty = dict.fromkeys(("series", "count", "day", "weight", "tile", "polygon", "cluster"), rows)
    label = np.repeat((rows % 2 + 7).astype(np.uint8)[:, None], 2, axis=1)
    return Samples(
        **empty, row=rows, col=cols, label=label, split=np.zeros(len(rows), np.uint8),
        tiles=(), years=(2018, 2019), made_from=(), fingerprint="all",
    )  # fmt: skip


def test_a_landscape_of_one_part_is_refused() -> None:
    with pytest.raises(TrainError, match="without part 0 0 classes have 4 samples"):
        divided(samples_of(100), is_network=False)


def test_every_part_of_the_landscape_is_left_out_once() -> None:
    samples = samples_of(600)
    fold = fold_of(samples.row, samples.col)
    assert np.unique(fold).tolist() == list(range(FOLDS))
    parts = divided(samples, is_network=True)
    labelled = np.stack([(part.label != 255).all(axis=1) for part in parts])
    np.testing.assert_array_equal(labelled.sum(axis=0), FOLDS - 1)
    assert len({part.fingerprint for part in parts} | {"all"}) == FOLDS + 1
    np.testing.assert_array_equal((~labelled).argmax(axis=0), fold)


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
    assert all(
        (folder / "model" / "first" / str(fold) / "model.json").exists() for fold in range(FOLDS)
    )
