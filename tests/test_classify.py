"""From probabilities to maps; prediction that does not depend on how a tile is cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lcu.classify import confidence, land_cover
from lcu.classify.stage import predict_cells
from lcu.reliability import quantise
from lcu.train.model import nearest
from lcu.train.series import Cut
from tests.test_train import model

CUT = Cut((2018,), np.array([[0, 1, 2]]), np.array([1096]), np.array([1100, 1200, 1300], np.int32))


@given(st.integers(0, 999), st.integers(1, 6))
def test_land_cover_is_always_the_class_of_the_largest_written_probability(
    seed: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    probability = quantise(
        random.dirichlet(np.ones(classes), (5, 6)).transpose(2, 0, 1).astype(np.float32)
    )
    values = np.sort(random.permutation(250)[:classes]).astype(np.uint8)
    cover = land_cover(probability, values)
    for y, x in np.ndindex(5, 6):
        largest = probability[:, y, x].max()
        assert probability[np.flatnonzero(values == cover[y, x])[0], y, x] == largest


def test_unobserved_pixels_are_nodata_or_outside() -> None:
    probability = np.array([[[250, 255, 254]], [[0, 255, 254]]], np.uint8)
    assert land_cover(probability, np.array([3, 4], np.uint8)).tolist() == [[3, 255, 254]]
    assert confidence(probability).tolist() == [[100, 255, 255]]


def test_confidence_is_a_hundred_times_the_margin() -> None:
    probability = np.array([0.55, 0.25, 0.20], np.float32).reshape(3, 1, 1)
    assert confidence(quantise(probability)).item() == 30
    assert confidence(np.full((1, 1, 1), 250, np.uint8)).item() == 100


def test_every_written_probability_is_within_half_a_step() -> None:
    exact = np.linspace(0, 1, 1001, dtype=np.float32)
    assert np.abs(quantise(exact) / 250 - exact).max() <= 0.5 / 250 + 1e-6


def test_prediction_does_not_depend_on_the_block() -> None:
    filled = np.random.default_rng(5).integers(1, 9000, (3, 4, 150, 130)).astype(np.uint16)
    trained = model()
    whole = predict_cells(trained, CUT, filled)
    for rows, cols in (
        (slice(0, 64), slice(64, 130)),
        (slice(64, 150), slice(0, 130)),
        (slice(128, 150), slice(128, 130)),
    ):
        part = predict_cells(trained, CUT, filled[:, :, rows, cols])
        np.testing.assert_array_equal(part, whole[:, :, rows, cols])


def test_a_year_without_a_model_takes_the_nearest() -> None:
    assert [nearest([2018, 2020], year) for year in (2017, 2018, 2019, 2020, 2021)] == [
        2018,
        2018,
        2018,
        2020,
        2020,
    ]
