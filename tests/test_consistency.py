"""The consistency step: pure parts against plain ones; no seam at blocks, shards, ranks or tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osgeo import osr

from lcu.classify import clcplus, consistency, evidence, overlap, smooth, unit
from lcu.classify.ahead import ahead
from lcu.classify.maps import confidence_of
from lcu.grid import Block, Grid, Tile


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
    cast, years = evidence.votes(probability), range(2018, 2024)
    chain = evidence.first_chain(years, prior)
    for _ in range(consistency.TURNS):
        labels = evidence.decode(cast, chain)
        counts = evidence.count_transitions(labels, years, 3), evidence.count_errors(labels, cast)
        chain = evidence.next_chain(chain, prior, *counts)
    # It prefers few changes, so it finds fewer of those that only the ends of the series show.
    assert 0.01 < chain.step[0, 1] < 0.04 and chain.step[1:].max(axis=1).min() > 0.995
    # A whole vote is right in nine of ten; a thirtieth of each vote goes to other classes.
    assert np.abs(chain.errors[2].diagonal() - 0.9).max() < 0.06
    decoded = evidence.decode(cast, chain)[:, 0]
    alone = probability[:, :, 0].argmax(axis=1)
    assert (decoded == truth).mean() > 0.98 > (alone == truth).mean() + 0.05


@given(st.integers(0, 99), st.integers(2, 5))
def test_evidence_of_a_whole_vote_is_its_column_of_the_error_matrix(
    seed: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    errors = random.dirichlet(np.ones(classes), (1, classes)) + 1e-3
    said = random.integers(0, classes, (3, 4)).astype(np.uint8)
    cast = evidence.votes_of_map(said, classes)[None]
    expected = errors[0][:, said] / errors[0][:, said].max(axis=0)
    np.testing.assert_allclose(evidence.evidence(cast, errors)[0], expected, rtol=1e-4)
    nothing = evidence.evidence(np.zeros_like(cast), errors)
    np.testing.assert_array_equal(nothing, 1)


def test_years_that_lie_apart_have_more_time_to_change() -> None:
    step = np.array([[0.9, 0.1], [0.0, 1.0]])
    found = evidence.transitions_over(step, (2018, 2018, 2020))
    np.testing.assert_allclose(found, [np.eye(2), [[0.81, 0.19], [0, 1]]])


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    cast = evidence.votes(probabilities(3, 4, 3, 8, 9))
    labels = evidence.decode(
        cast, evidence.first_chain(range(4), np.full((3, 3), 0.05) + np.eye(3) * 0.85)
    )
    for function in (
        lambda part: evidence.count_transitions(labels[..., part], range(4), 3),
        lambda part: evidence.count_errors(labels[..., part], cast[..., part]),
    ):
        whole = function(slice(None))
        np.testing.assert_array_equal(whole, function(slice(0, 5)) + function(slice(5, 9)))


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
    years = np.stack([nothing, np.array([[[0.8]], [[0.2]]]), nothing]).astype(np.float32)
    filled, change = consistency.independent(years)
    np.testing.assert_allclose(filled[:, 0, 0, 0], 0.8)
    np.testing.assert_allclose(change.ravel(), 1 - 0.68, rtol=1e-6)


# --- what is written --------------------------------------------------------------------------------


def test_confidence_is_the_margin_of_the_chosen_class() -> None:
    probability = np.array([[[150, 60, 254]], [[100, 190, 254]]], np.uint8)
    chosen = np.array([[0, 0, 255]], np.uint8)
    assert confidence_of(probability, chosen)[0, :2].tolist() == [20, 0]


def test_cells_of_training_are_spread_over_all_tiles() -> None:
    tiles = {name: Tile(name, grid_at(0, 0, 640, 640)) for name in "abcde"}
    cells = consistency.training_cells(tiles)
    assert len(cells) == consistency.CELLS and len(set(cells)) == len(cells)
    assert {name for name, _ in cells} == set("abcde")
    few = consistency.training_cells({"a": Tile("a", grid_at(0, 0, 100, 100))})
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
