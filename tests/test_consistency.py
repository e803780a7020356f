"""The consistency step: pure parts against plain ones; no seam at blocks, shards, ranks or tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from osgeo import osr

from lcu import config as configuration
from lcu import evidence, store
from lcu.classify import Maps, clcplus, consistency, estimate, overlap, smooth, unit
from lcu.classify.ahead import ahead
from lcu.classify.maps import confidence_of
from lcu.classify.source import Source
from lcu.composite import Composites
from lcu.grid import Block, Grid, Tile
from lcu.ranks import on_root


def probabilities(
    seed: int, years: int, classes: int, height: int, width: int, missing: float = 0.1
) -> np.ndarray:
    """Return random probabilities float32 [year, class, y, x], patches of 4 x 4 pixels alike; NaN here and there."""
    random = np.random.default_rng(seed)
    coarse = random.dirichlet(np.full(classes, 0.5), (years, height // 4 + 1, width // 4 + 1))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width].transpose(0, 3, 1, 2)
    noisy = fine + 0.1 * random.random(fine.shape)
    values = (noisy / noisy.sum(axis=1, keepdims=True)).astype(np.float32)
    absent = random.random((years, height, width)) < missing
    values[np.broadcast_to(absent[:, None], values.shape)] = np.nan
    return values


# --- smoothing and the minimum unit -----------------------------------------------------------------


def test_smoothing_is_the_weighted_mean_of_the_neighbourhood() -> None:
    own = probabilities(1, 1, 3, 9, 8)[0]
    found = smooth.bilateral(own)
    for y, x in np.ndindex(9, 8):
        total, weights = np.zeros(3), 0.0
        for row in range(max(y - 2, 0), min(y + 3, 9)):
            for col in range(max(x - 2, 0), min(x + 3, 8)):
                if np.isnan(own[0, row, col]):
                    continue
                apart = ((own[:, row, col] - own[:, y, x]).astype(float) ** 2).sum()
                far = (row - y) ** 2 + (col - x) ** 2
                weight = np.exp(-far / (2 * 0.8**2) - apart / (2 * 0.25**2))
                total, weights = total + weight * own[:, row, col], weights + weight
        if np.isnan(own[0, y, x]):
            assert np.isnan(found[:, y, x]).all()
        else:
            np.testing.assert_allclose(found[:, y, x], total / weights, atol=1e-5)


def test_smoothing_removes_noise_and_keeps_a_border() -> None:
    flat = np.full((2, 9, 9), 0.9, np.float32)
    flat[0, :, 5:] = 0.1
    flat[1] = 1 - flat[0]
    found = smooth.bilateral(flat)
    assert (found.argmax(axis=0) == flat.argmax(axis=0)).all() and np.abs(found - flat).max() < 0.05
    noise = np.full((2, 9, 9), 0.6, np.float32)
    noise[0, 4, 4] = 0.45
    noise[1] = 1 - noise[0]
    assert (smooth.bilateral(noise)[0] > 0.5).all()


@pytest.mark.parametrize("pixels", [2, 5])
def test_blocks_leave_no_seam_in_smoothing_and_units(pixels: int) -> None:
    random = np.random.default_rng(pixels)
    grid = Grid("EPSG:32632", (0.0, 10.0, 0.0, 0.0, 0.0, -10.0), 41, 37)
    labels = random.choice([0, 0, 0, 1, 2, 255], (2, 41, 37)).astype(np.uint8)
    labels[:, labels[0] == 255] = 255
    own = probabilities(2, 1, 3, 41, 37)[0]
    units, smoothed = unit.merge_small_areas(labels, pixels), smooth.bilateral(own)
    assert (units != labels).any()
    for block in grid.blocks(16):
        wide = block.grown(unit.halo(pixels), grid)
        part = unit.merge_small_areas(labels[(..., *wide.slices)], pixels)
        np.testing.assert_array_equal(part[(..., *block.inside(wide))], units[(..., *block.slices)])
        wide = block.grown(smooth.REACH, grid)
        part = smooth.bilateral(own[(..., *wide.slices)])
        np.testing.assert_array_equal(
            part[(..., *block.inside(wide))], smoothed[(..., *block.slices)]
        )


def test_small_areas_take_all_years_of_the_neighbour_with_the_longest_border() -> None:
    labels = np.zeros((2, 6, 8), np.uint8)
    labels[:, :, 5:] = 1
    labels[1, 2, 1:3] = 1  # a change of two pixels
    labels[:, 0, 5] = 3  # a patch with one side to class 0 and two to class 1
    expected = np.zeros((2, 6, 8), np.uint8)
    expected[:, :, 5:] = 1
    np.testing.assert_array_equal(unit.merge_small_areas(labels, 3), expected)
    np.testing.assert_array_equal(unit.merge_small_areas(labels, 1), labels)


def test_an_area_among_small_ones_and_one_without_classes_stay() -> None:
    labels = np.array([[[0, 1, 255, 255], [2, 3, 255, 4]]], np.uint8)
    np.testing.assert_array_equal(unit.merge_small_areas(labels, 3), labels)


# --- tiles that overlap -----------------------------------------------------------------------------


def grid_at(col: int, row: int, height: int = 40, width: int = 50, crs: str = "EPSG:32632") -> Grid:
    return Grid(
        crs, (600_000.0 + 10 * col, 10.0, 0.0, 5_000_000.0 - 10 * row, 0.0, -10.0), height, width
    )


def test_overlapping_tiles_give_the_same_answer_for_the_same_ground() -> None:
    tiles = {"a": Tile("a", grid_at(0, 0)), "b": Tile("b", grid_at(30, 7))}
    values = {
        name: np.where(np.isnan(own), 255, np.floor(own * 250 + 0.5)).astype(np.uint8)
        for seed, name in enumerate(tiles)
        for own in probabilities(seed, 1, 3, 40, 50)
    }
    assert overlap.neighbours(tiles, "a") == ["b"] and overlap.neighbours(tiles, "b") == ["a"]

    def combined(name: str) -> np.ndarray:
        other = overlap.neighbours(tiles, name)[0]
        grid = tiles[name].grid
        found = overlap.sample(other, tiles[other].grid, grid, grid.whole)
        theirs = found.take(values[other][(..., *found.block.slices)])
        own = values[name], overlap.own_weight(grid, grid.whole)
        return overlap.combine([own, (theirs, found.weight)])

    one, two = combined("a"), combined("b")
    np.testing.assert_array_equal(one[:, 7:, 30:], two[:, :33, :20])
    alone = evidence.as_probability(values["a"])
    np.testing.assert_array_equal(one[:, :, :30], alone[:, :, :30])
    # The word of a tile fades out: at the edge of tile a, 20 pixels inside tile b, that of b is left.
    known = ~np.isnan(alone[0, 7:, 49]) & (values["b"][0, :33, 19] < 254)
    weights = np.minimum(np.minimum(np.arange(33) + 1, 40 - np.arange(33)), 20), 1
    theirs = evidence.as_probability(values["b"])[:, :33, 19]
    mean = (theirs * weights[0] + alone[:, 7:, 49] * weights[1]) / (weights[0] + weights[1])
    np.testing.assert_allclose(one[:, 7:, 49][:, known], mean[:, known], atol=1e-6)
    assert known.sum() > 20


def test_a_neighbour_in_the_next_utm_zone_is_sampled_nearest() -> None:
    systems = [osr.SpatialReference() for _ in range(2)]
    for system, code in zip(systems, (32632, 32633), strict=True):
        system.ImportFromEPSG(code)
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    own = Grid("EPSG:32632", (730_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0), 60, 60)
    x, y, _ = osr.CoordinateTransformation(*systems).TransformPoint(730_300.0, 4_999_700.0)
    other = Grid("EPSG:32633", (round(x) - 200.0, 10.0, 0.0, round(y) + 200.0, 0.0, -10.0), 60, 60)
    found = overlap.sample("b", other, own, own.whole)
    back = osr.CoordinateTransformation(systems[1], systems[0])
    rows, cols = np.nonzero(found.weight)
    assert 500 < len(rows) < 3600
    for row, col in list(zip(rows, cols, strict=True))[::97]:
        place = found.row[row, col] + found.block.row, found.col[row, col] + found.block.col
        centre = back.TransformPoint(
            other.transform[0] + 10 * (place[1] + 0.5), other.transform[3] - 10 * (place[0] + 0.5)
        )
        assert (
            abs(centre[0] - (730_005 + 10 * col)) < 7.1
            and abs(centre[1] - (4_999_995 - 10 * row)) < 7.1
        )
    far = Grid("EPSG:32633", (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0), 60, 60)
    assert overlap.sample("c", far, own, own.whole) is None


def test_tiles_that_only_touch_share_nothing() -> None:
    tiles = {
        "a": Tile("a", grid_at(0, 0)),
        "b": Tile("b", grid_at(50, 0)),
        "c": Tile("c", grid_at(49, 39)),
    }
    assert overlap.neighbours(tiles, "a") == ["c"]


# --- votes and the chain ----------------------------------------------------------------------------


def simulated_votes(
    seed: int, step: np.ndarray, years: int, pixels: int, right: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return true classes [year, pixel] of a chain and a classifier's probabilities [year, class, 1, pixel]."""
    random, classes = np.random.default_rng(seed), len(step)
    truth = np.empty((years, pixels), int)
    truth[0] = random.integers(0, classes, pixels)
    for year in range(1, years):
        edges = step[truth[year - 1]].cumsum(axis=1)
        truth[year] = (random.random((pixels, 1)) > edges).sum(axis=1).clip(max=classes - 1)
    said = np.where(
        random.random(truth.shape) < right, truth, random.integers(0, classes, truth.shape)
    )
    probability = np.full((years, classes, 1, pixels), 0.1, np.float32)
    np.put_along_axis(probability, said[:, None, None], 0.8, axis=1)
    return truth, probability / probability.sum(axis=1, keepdims=True)


def test_the_estimated_chain_finds_transitions_and_errors() -> None:
    step = np.array([[0.97, 0.03, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    truth, probability = simulated_votes(1, step, 6, 40_000, 0.85)
    prior = np.full((3, 3), 0.01) + np.eye(3) * 0.97
    cast = evidence.votes(probability)
    chain = evidence.estimate(lambda: [cast], range(2018, 2024), range(6), prior)
    assert 0.01 < chain.step[0, 1] < 0.04 and chain.step[1:].max(axis=1).min() > 0.995
    # Nine of ten votes are right; all are of one grade.
    shares = chain.errors[2].sum(axis=2)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert np.abs(shares.diagonal() - 0.9).max() < 0.01
    assert np.einsum("vvg->g", chain.errors[2]).argmax() == np.searchsorted(evidence.GRADES, 0.97)
    decoded = evidence.decode(cast, chain)[:, 0]
    alone = probability[:, :, 0].argmax(axis=1)
    assert (decoded == truth).mean() > 0.98 > (alone == truth).mean() + 0.05


@given(st.integers(0, 99), st.integers(2, 5))
def test_evidence_is_how_often_each_class_has_such_votes(seed: int, classes: int) -> None:
    random, grades = np.random.default_rng(seed), len(evidence.TRUST)
    errors = random.random((1, classes, classes, grades)) + 1e-3
    said, grade = random.integers(0, classes, (3, 4)), random.integers(1, grades, (3, 4))
    share = np.append(evidence.GRADES, 1)[grade]  # the upper end of the grade
    cast = np.where(np.arange(classes)[:, None, None] == said, share, (1 - share) / (classes - 1))
    expected = errors[0][:, said, grade] / errors[0][:, said, grade].max(axis=0)
    cast = cast[None].astype(np.float32)
    np.testing.assert_allclose(evidence.evidence(cast, errors)[0], expected, rtol=1e-4)
    nothing = evidence.evidence(np.zeros_like(cast), errors)
    np.testing.assert_array_equal(nothing, 1)


def test_written_votes_have_the_grade_of_what_was_written() -> None:
    cast = evidence.votes(probabilities(5, 1, 4, 90, 90))
    vote, grade = evidence.graded(cast[0])
    written, again = evidence.graded(np.rint(cast[0] * 250).astype(np.float32) / np.float32(250))
    assert set(grade.ravel()) == set(range(len(evidence.TRUST)))
    np.testing.assert_array_equal(grade, again)
    assert (vote == written).mean() > 0.99  # two classes may come out alike in bytes


def test_sure_votes_are_worth_more_where_they_were_more_often_right() -> None:
    step = np.full((3, 3), 0.005) + np.eye(3) * 0.985
    random = np.random.default_rng(4)
    _, sure = simulated_votes(1, step, 6, 30_000, 0.99)
    _, vague = simulated_votes(1, step, 6, 30_000, 0.7)
    vague = 0.5 * vague + 0.5 / 3
    said = np.where(random.random((6, 1, 1, 30_000)) < 0.5, sure, vague)
    cast = evidence.votes(said)
    chain = evidence.estimate(lambda: [cast], range(6), range(6), step)
    errors = chain.errors[0]
    odds = errors[0, 0] / errors[1, 0]
    strong, weak = (evidence.graded(evidence.votes(one))[1][0, 0] for one in (sure[0], vague[0]))
    assert strong > weak and odds[strong] > 10 * odds[weak] > 10


def test_years_that_lie_apart_have_more_time_to_change() -> None:
    step = np.array([[0.9, 0.1], [0.0, 1.0]])
    found = evidence.transitions_over(step, (2018, 2018, 2020))
    np.testing.assert_allclose(found, [np.eye(2), [[0.81, 0.19], [0, 1]]])


def test_expected_counts_are_those_of_all_sequences() -> None:
    years, classes = (2018, 2019, 2021), 3
    random = np.random.default_rng(6)
    cast = evidence.votes(probabilities(3, 3, classes, 2, 3, missing=0.3))
    cast[:, :, 0, 0] = 0  # never seen
    step = random.dirichlet(np.ones(classes), classes)
    chain = evidence.Chain(
        years, step, random.dirichlet(np.ones(classes * 5), (3, classes)).reshape(3, classes, classes, 5)
    )  # fmt: skip
    likely, after = evidence.evidence(cast, chain.errors).astype(float), chain.transition
    transitions, errors = np.zeros((classes, classes)), np.zeros(chain.errors.shape)
    for y, x in np.ndindex(2, 3):
        if not cast[:, :, y, x].any():
            continue
        said = {evidence.graded(own)[0][y, x] for own in cast if own[:, y, x].any()}
        sequences = [(a, b, c) for a in said for b in said for c in said]
        weight = np.array([
            likely[0, a, y, x] * after[0, a, b] * likely[1, b, y, x] * after[1, b, c] * likely[2, c, y, x]
            for a, b, c in sequences
        ])  # fmt: skip
        for (a, b, c), share in zip(sequences, weight / weight.sum(), strict=True):
            transitions[a, b] += share  # 2019 and 2021 do not follow directly
            for year, own in enumerate((a, b, c)):
                vote, grade = (found[y, x] for found in evidence.graded(cast[year]))
                errors[year, own, vote, grade] += share * cast[year, :, y, x].any()
    found = [counts * evidence.UNIT for counts in evidence.expected_counts(cast, chain)]
    np.testing.assert_allclose(found[0], transitions, atol=1e-4)
    np.testing.assert_allclose(found[1], errors, atol=1e-4)


def test_where_the_estimation_begins_does_not_matter_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = np.array([[0.98, 0.02, 0.0], [0.0, 1.0, 0.0], [0.01, 0.0, 0.99]])
    _, probability = simulated_votes(2, step, 6, 40_000, 0.85)
    cast, found = evidence.votes(probability), []
    monkeypatch.setattr(evidence, "TURNS", 20)
    monkeypatch.setattr(evidence, "TRANSITIONS_WEIGHT", 1e-3)
    for right, change in ((0.6, 0.2), (0.95, 0.03)):
        monkeypatch.setattr(evidence, "TRUST", (right,) * 5)
        prior = np.full((3, 3), change / 2) + np.eye(3) * (1 - 1.5 * change)
        found.append(evidence.estimate(lambda: [cast], range(6), range(6), prior).step)
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    np.testing.assert_allclose(found[0], step, atol=3e-3)


# --- the rule of CLC+ -------------------------------------------------------------------------------


def test_clcplus_takes_a_change_above_its_percentile_only() -> None:
    years = np.zeros((3, 2, 1, 100), np.float32)
    years[0, 0] = 0.9
    years[1, 0] = np.linspace(0.45, 0.0, 100)  # the last ones differ most
    years[2] = np.nan
    years[:, 1] = 1 - years[:, 0]
    counts = clcplus.count_distances(years)
    assert counts[0, 1].sum() == 100 and counts.sum() == 100
    found = clcplus.accepted_classes(years, clcplus.thresholds(counts, 90.0))
    assert (found[0] == 0).all() and 8 <= (found[1] == 1).sum() <= 10
    assert (found[1, 0, -8:] == 1).all()
    np.testing.assert_array_equal(found[2], found[1])
    everything = clcplus.accepted_classes(years, clcplus.thresholds(counts, 0.0))
    assert (everything[1] == 1).all()


def test_clcplus_compares_with_the_year_in_which_the_class_was_taken() -> None:
    slowly = np.array([[0.9, 0.1], [0.55, 0.45], [0.2, 0.8]], np.float32)[:, :, None, None]
    limits = np.full((2, 2), int(0.8 / 2**0.5 * clcplus.BINS))
    assert clcplus.accepted_classes(slowly, limits).ravel().tolist() == [0, 0, 1]
    missing = np.full((2, 2, 1, 1), np.nan, np.float32)
    assert clcplus.accepted_classes(missing, limits).ravel().tolist() == [255, 255]


def test_independent_years_fill_what_is_missing_from_the_nearest_year_before() -> None:
    nothing = np.full((2, 1, 1), np.nan)
    one, other = (np.array([[[share]], [[1 - share]]]) for share in (0.8, 0.3))
    years = np.stack([nothing, nothing, one, nothing, other]).astype(np.float32)
    filled, change = consistency.independent(years)
    np.testing.assert_allclose(filled[:, 0, 0, 0], [0.8, 0.8, 0.8, 0.8, 0.3], rtol=1e-6)
    np.testing.assert_allclose(change.ravel(), [0.32, 0.32, 0.32, 0.62], rtol=1e-5)


# --- what is written --------------------------------------------------------------------------------


def test_confidence_is_the_margin_of_the_chosen_class() -> None:
    probability = np.array([[[150, 60, 254]], [[100, 190, 254]]], np.uint8)
    chosen = np.array([[0, 0, 255]], np.uint8)
    assert confidence_of(probability, chosen)[0, :2].tolist() == [20, 0]


def test_cells_of_training_are_spread_over_all_tiles() -> None:
    tiles = {name: Tile(name, grid_at(0, 0, 640, 640)) for name in "abcde"}
    cells = estimate.training_cells(tiles)
    assert len(cells) == estimate.CELLS and len(set(cells)) == len(cells)
    assert {name for name, _ in cells} == set("abcde")
    few = estimate.training_cells({"a": Tile("a", grid_at(0, 0, 100, 100))})
    assert [block for _, block in few] == list(grid_at(0, 0, 100, 100).blocks(64))


def test_reading_ahead_keeps_the_order_and_raises_where_the_unit_would_come() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise OSError("gone")
        return number * number

    assert list(ahead(read, [1, 2, 4])) == [(1, 1), (2, 4), (4, 16)]
    assert list(ahead(read, [])) == []
    seen = []
    with pytest.raises(OSError, match="gone"):
        for number, _ in ahead(read, [1, 3, 4]):
            seen.append(number)
    assert seen == [1]


def test_a_block_has_a_place_in_its_tile() -> None:
    assert overlap.own_weight(grid_at(0, 0), Block(38, 48, 2, 2)).tolist() == [[2, 1], [1, 1]]


# --- the stage, on probabilities that are on disk ---------------------------------------------------

YEARS = (2018, 2019, 2020, 2021, 2022)
TILES = {"a": Tile("a", grid_at(0, 0, 150, 130)), "b": Tile("b", grid_at(100, 20, 130, 140))}
# Where the landscape is felled for good in 2020, and where the classifier errs in 2019 alone.
FELLED, NOISE = Block(40, 10, 20, 30), Block(90, 50, 20, 20)
CONIFERS, SHRUB = 9, 10
# Columns of shrub in all years. With half of them the felled and the noisy pixels are as many as those that stay shrub,
# and to say which is which takes more years.
STRIPS = np.r_[:8, 80:88]


def landscape(tile: str, year: int) -> np.ndarray:
    """Return probabilities of a forest, uint8 [class, y, x]: the same ground in both tiles, noise of each its own."""
    grid = TILES[tile].grid
    shrub = np.zeros((200, 300), bool)
    shrub[:, STRIPS] = True  # a class must be somewhere for its votes to be worth something
    shrub[FELLED.slices] |= year >= 2020
    shrub[NOISE.slices] |= year == 2019
    row, col = (5_000_000 - grid.transform[3]) / 10, (grid.transform[0] - 600_000) / 10
    ground = Block(int(row), int(col), grid.height, grid.width)
    random = np.random.default_rng([year, ord(tile)])
    sure = random.uniform(0.8, 0.98, (grid.height, grid.width))
    sure[random.random(sure.shape) < 0.03] = 0.3
    shares = np.full((12, grid.height, grid.width), 0.01)
    own = np.where(shrub[ground.slices], sure, 1 - sure)
    shares[CONIFERS - 1], shares[SHRUB - 1] = 0.9 * (1 - own), 0.9 * own
    written = np.floor(shares * 250 + 0.5).astype(np.uint8)
    if year == 2021:
        written[:, :30, :30] = 255
    written[:, -4:, -4:] = 254
    return written


def series(tile: str, year: int) -> np.ndarray:
    """Return composites of the same ground, uint16 [time, band, y, x]: what a place looks like lasts, but for noise."""
    grid = TILES[tile].grid
    row, col = int((5_000_000 - grid.transform[3]) / 10), int((grid.transform[0] - 600_000) / 10)
    shrub = np.zeros((200, 300), bool)
    shrub[:, STRIPS] = True
    shrub[FELLED.slices] |= year >= 2020
    conifers, bushes = np.random.default_rng(7).normal(0, 120, (2, 4, 2, 200, 300))
    yearly = np.random.default_rng(year).normal(0, 60, (4, 2, 200, 300))
    values = np.where(shrub, 2000 + bushes, 1500 + conifers) + yearly
    return values.round().astype(np.uint16)[..., row : row + grid.height, col : col + grid.width]


def prepared(folder: Path, comm: MPI.Comm, **keys: object) -> Source:
    """Write the probabilities as the stage before does, and return where they are."""
    tables = {
        "run": {"directory": str(folder / "run")},
        "archive": {"kind": "safe", "path": [str(folder)], "years": list(YEARS)},
        "composite": {"period": "P3M", "bands": ["B04", "B08"], "shard": 128},
        "sample": {"old_map": str(folder), "old_map_year": 2012},
        "classify": {"shard": 128, **keys},
    }
    config = configuration.build(tables, folder / "run.toml")
    marks = {(tile, year): f"{tile} {year}" for tile in TILES for year in YEARS}
    on_root(comm, "writing probabilities", write_probabilities, config, marks)
    on_root(comm, "writing composites", write_composites, config, marks)
    return Source(config, composites(config, marks), marks)


def composites(config: configuration.Config, marks: dict[tuple[str, int], str]) -> Composites:
    tiles = {tile: TILES[tile] for tile, _ in marks}
    keys = config.composite
    return Composites(
        config.directory,
        tiles,
        config.periods,
        keys.bands,
        keys.shard,
        marks,
        config.times,
        config.own_days,
    )


def write_composites(config: configuration.Config, marks: dict[tuple[str, int], str]) -> None:
    for (name, year), mark in marks.items():
        values = series(name, year)
        for shard in store.shards("composites", TILES[name], year, config.composite.shard):
            path, block = shard.path(config.directory), shard.block
            layout = {store.REFLECTANCE: ((4, 2, block.height, block.width), (4, 2, 64, 64))}
            file = store.create(path, MPI.COMM_SELF, layout, {})
            piece = store.Piece(values[(..., *block.slices)], (0, 0, 0, 0))
            store.write_round(file, store.REFLECTANCE, piece)
            store.finish(file, path, MPI.COMM_SELF, store.shard_mark(mark, shard))


def write_probabilities(config: configuration.Config, marks: dict[tuple[str, int], str]) -> None:
    for (name, year), mark in marks.items():
        values = landscape(name, year)
        for shard in store.shards("probabilities", TILES[name], year, config.classify.shard):
            path, block = shard.path(config.directory), shard.block
            layout = {store.PROBABILITY: ((12, block.height, block.width), (12, 64, 64))}
            file = store.create(path, MPI.COMM_SELF, layout, {})
            piece = store.Piece(values[(..., *block.slices)], (0, 0, 0))
            store.write_round(file, store.PROBABILITY, piece)
            store.finish(file, path, MPI.COMM_SELF, store.shard_mark(mark, shard))


def made(source: Source, comm: MPI.Comm, block: int = 64) -> Maps:
    """Run the step and return the way to its maps."""
    consistency.run(source, comm, block, lambda *_: None)
    config = source.config
    return Maps(
        config.directory, TILES, config.legend, config.classify.shard, source.marks, source.mark
    )


def layers(maps: Maps) -> list[np.ndarray]:
    """Read everything that is published of the choice over years."""
    return [
        maps.layer(name, year, layer, tile.grid.whole)
        for name, tile in TILES.items()
        for year in YEARS
        for layer in ("MAP", "CONF", "PROB", "POST", *(["CHG"] if year > YEARS[0] else []))
    ]


def test_a_lasting_change_is_found_and_a_single_year_is_not(tmp_path: Path) -> None:
    maps = made(prepared(tmp_path, MPI.COMM_SELF), MPI.COMM_SELF)
    whole = TILES["a"].grid.whole
    cover = {year: maps.land_cover("a", year, whole) for year in YEARS}
    felled = np.zeros((150, 130), bool)
    felled[FELLED.slices] = True
    expected = np.where(felled, SHRUB, CONIFERS)
    expected[:, STRIPS] = SHRUB
    inner = np.zeros((150, 130), bool)
    inner[:-4, :-4] = True
    assert (cover[2022] == expected)[inner].mean() > 0.995
    assert (cover[2019][NOISE.slices] == CONIFERS).mean() > 0.98
    before, after, probability = maps.layer("a", 2020, "CHG", whole)
    assert (before[felled] == CONIFERS).mean() > 0.8 and (after[felled] == SHRUB).mean() > 0.8
    assert probability[felled].mean() > 125 and (probability[~felled & inner] < 25).mean() > 0.99
    assert (before[~felled & inner] == 253).mean() > 0.99
    altered = maps.layer("a", 2019, "POST", whole)
    assert (altered[NOISE.slices] == SHRUB).mean() > 0.9 and (altered[:30, 10:] == 253).mean() > 0.9
    # What nobody saw in 2021 follows from the other years; what nobody ever saw is outside.
    assert (maps.layer("a", 2021, "POST", whole)[:20, :30] == 252).all()
    assert (cover[2021][:20, 10:30] == CONIFERS).all() and (
        cover[2021][-4:, -4:][3:, 3:] < 254
    ).all()
    assert (maps.land_cover("b", 2021, TILES["b"].grid.whole)[-4:, -4:] == 254).all()


def test_a_change_that_no_series_shows_is_less_likely(tmp_path: Path) -> None:
    found = []
    for name, keys in (("with", {}), ("without", {"likeness": False})):
        (tmp_path / name).mkdir()
        source = prepared(tmp_path / name, MPI.COMM_SELF, **keys)
        maps = made(source, MPI.COMM_SELF)
        about = store.read_json(source.config.directory / "consistent" / "chain.json", "classify")
        assert ("likeness" in about) == (name == "with")
        found.append([maps.layer("a", year, "CHG", TILES["a"].grid.whole)[2] for year in YEARS[1:]])
    (compared, plain), felled = np.array(found, float), np.zeros((150, 130), bool)
    felled[FELLED.slices] = True
    # Felled in the series as well: surer. Taken for shrub in 2019 while the series stayed: less so.
    assert compared[1][felled].mean() > plain[1][felled].mean()
    quiet = (NOISE.slices[0], slice(NOISE.col, NOISE.col + NOISE.width))
    assert compared[0][quiet].mean() < plain[0][quiet].mean()


def test_the_mosaic_has_no_seam(tmp_path: Path) -> None:
    maps = made(prepared(tmp_path, MPI.COMM_SELF), MPI.COMM_SELF)
    for year in YEARS:
        own = maps.layer("a", year, "PROB", Block(20, 100, 130, 30))
        other = maps.layer("b", year, "PROB", Block(0, 0, 130, 30))
        # Smoothing sees no further than its own tile, so its reach is left out at the edges.
        inner = (slice(None), slice(2, -2), slice(2, -2))
        np.testing.assert_array_equal(own[inner], other[inner])


def test_units_blocks_and_a_second_start_change_nothing(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    found = []
    for folder, shard, block in zip(folders, (64, 256), (64, 128), strict=True):
        folder.mkdir()
        source = prepared(folder, MPI.COMM_SELF, shard=shard, minimum_unit=0.1)
        maps = made(source, MPI.COMM_SELF, block)
        times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file()}
        made(source, MPI.COMM_SELF, block)
        assert times == {path: path.stat().st_mtime_ns for path in times}
        found.append(layers(maps))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    cover = found[0][0]
    areas = unit.merge_small_areas(cover[None], 10)[0]
    assert (cover == areas)[
        :-4, :-4
    ].mean() > 0.999  # small changes apart: a unit is one over all years


def test_clcplus_writes_the_same_layers(tmp_path: Path) -> None:
    maps = made(prepared(tmp_path, MPI.COMM_SELF, years="clcplus"), MPI.COMM_SELF)
    before, after, probability = maps.layer("a", 2020, "CHG", TILES["a"].grid.whole)
    assert (after[FELLED.slices] == SHRUB).mean() > (after[:30, 10:] == SHRUB).mean()
    assert probability[FELLED.slices].mean() > probability[NOISE.slices].mean()
    assert ((before == 253) == (after == 253)).all()


def test_what_does_not_fit_into_memory_is_refused_with_the_key(tmp_path: Path) -> None:
    config = prepared(tmp_path, MPI.COMM_SELF).config
    needed = [consistency.memory(config, TILES, 1, block) for block in (64, 128)]
    assert needed[0] < needed[1]
    assert consistency.block_size(config, TILES, 1, 256) == 256
    small = configuration.build(
        {
            "run": {"directory": str(tmp_path / "run"), "memory_per_rank": 0.25},
            "archive": {"kind": "safe", "path": [str(tmp_path)], "years": list(YEARS)},
            "sample": {"old_map": str(tmp_path), "old_map_year": 2012},
        },
        tmp_path / "run.toml",
    )
    with pytest.raises(configuration.ConfigError, match="run.memory_per_rank"):
        consistency.block_size(small, TILES, 1, 256)


@pytest.mark.mpi
def test_consistent_maps_are_the_same_on_any_number_of_ranks(mpi_tmp_path: Path) -> None:
    comm = MPI.COMM_WORLD
    maps = made(prepared(mpi_tmp_path, comm), comm)
    alone = mpi_tmp_path / f"alone-{comm.rank}"
    alone.mkdir()
    expected = made(prepared(alone, MPI.COMM_SELF), MPI.COMM_SELF)
    same = all(np.array_equal(*pair) for pair in zip(layers(maps), layers(expected), strict=True))
    assert all(comm.allgather(same))


def test_one_year_alone_keeps_the_likeliest_class(tmp_path: Path) -> None:
    source = prepared(tmp_path, MPI.COMM_SELF, smooth="none")
    config = configuration.build(
        {
            "run": {"directory": str(tmp_path / "run")},
            "archive": {"kind": "safe", "path": [str(tmp_path)], "years": [2018]},
            "sample": {"old_map": str(tmp_path), "old_map_year": 2012},
            "classify": {"shard": 128, "smooth": "none"},
        },
        tmp_path / "run.toml",
    )
    marks = {
        ("a", 2018): source.marks["a", 2018]
    }  # not the neighbour, that has a say where it lies
    one = Source(config, composites(config, marks), marks)
    consistency.run(one, MPI.COMM_SELF, 64, lambda *_: None)
    maps = Maps(config.directory, one.tiles, config.legend, 128, marks, one.mark)
    whole = one.tiles["a"].grid.whole
    before = maps.layer("a", 2018, "POST", whole)
    assert (before[:-4, :-4] == 253).all()
