"""How alike years are: the formula, what it says of places that stay and that changed, and where it says nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from lcu import likeness
from lcu.likeness import Likeness

YEARS, FEATURES, SIDE = 4, 6, 40


def places(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return series uint16 [year, feature, y, x], class index uint8 [y, x] and votes float32 [year, class, y, x].

    Two classes, half each; every place has a look of its own that lasts, and every year adds some noise.
    """
    random = np.random.default_rng(seed)
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[:, SIDE // 2 :] = 1
    centres = np.array([[1500] * FEATURES, [2200] * FEATURES])
    own = centres[label].transpose(2, 0, 1) + random.normal(0, 150, (FEATURES, SIDE, SIDE))
    series = own + random.normal(0, 60, (YEARS, FEATURES, SIDE, SIDE))
    series += 100 * np.arange(YEARS)[:, None, None, None]  # years of other weather
    votes = np.where(label == np.arange(2)[:, None, None], 0.9, 0.1).astype(np.float32)
    return (
        np.rint(series).astype(np.uint16),
        label,
        np.broadcast_to(votes, (YEARS, *votes.shape)).copy(),
    )


def fitted(series: np.ndarray, label: np.ndarray, classes: int = 2) -> Likeness:
    known = likeness.fit(
        flat(series), np.broadcast_to(label.ravel(), (len(series), label.size)), classes
    )
    assert known is not None
    return known


def flat(series: np.ndarray) -> np.ndarray:
    return series.reshape(*series.shape[:2], -1)


def test_the_ratio_is_that_of_normal_densities() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0, 1.5, (2, 3, 50)).astype(np.float32)
    correlation = np.array([0.0, 0.5, 0.9], np.float32)
    expected = np.zeros(50)
    for a, b, r in zip(first, second, correlation, strict=True):
        both = stats.multivariate_normal([0, 0], [[1, r], [r, 1]])
        expected += both.logpdf(np.stack([a, b], 1)) - stats.norm.logpdf(a) - stats.norm.logpdf(b)
    np.testing.assert_allclose(likeness.log_ratio(first, second, correlation), expected, atol=1e-3)


def test_a_place_that_looks_the_same_stays_and_one_that_looks_like_another_does_not() -> None:
    series, label, votes = places()
    known = fitted(series, label)
    assert (known.correlation > 0.5).all()
    same = likeness.stay(known, series, votes)
    swapped = series.copy()
    swapped[2:] = series[2:, :, ::-1]  # from 2020 on another place of the class
    other = likeness.stay(known, swapped, votes)
    assert (same > 1).mean() > 0.9
    assert np.median(other[1]) < 1 < np.median(other[[0, 2]])
    np.testing.assert_array_equal(other[0], same[0])


def test_it_stays_within_its_limit() -> None:
    series, label, votes = places()
    wild = series.copy()
    wild[1, :, ::3] = 65535
    found = likeness.stay(fitted(series, label), wild, votes)
    assert found.min() >= np.exp(-2.0) - 1e-6 and found.max() <= np.exp(2.0) + 1e-5
    assert np.isfinite(found).all()


def test_a_year_that_is_missing_says_nothing() -> None:
    series, label, votes = places()
    votes[1, :, :5] = 0
    found = likeness.stay(fitted(series, label), series, votes)
    assert (found[:2, :5] == 1).all() and (found[2, :5] != 1).any() and (found[:2, 5:] != 1).any()


def test_a_class_with_too_few_pixels_says_nothing() -> None:
    series, label, _ = places()
    label[0, :10] = 2
    known = fitted(series, label, 3)
    votes = np.zeros((YEARS, 3, SIDE, SIDE), np.float32)
    votes[:, 2] = 1
    assert (known.correlation[2] == 0).all()
    assert (likeness.stay(known, series, votes) == 1).all()


@pytest.mark.parametrize("case", ["one class", "one series"])
def test_nothing_is_learned_where_nothing_differs(case: str) -> None:
    series, label, _ = places()
    if case == "one class":
        label[:] = 1
    else:
        series[:] = 700
    assert (
        likeness.fit(flat(series), np.broadcast_to(label.ravel(), (YEARS, label.size)), 2) is None
    )


def test_pixels_without_a_class_are_left_out() -> None:
    series, label, _ = places()
    labels = np.broadcast_to(label.ravel(), (YEARS, label.size)).copy()
    known = likeness.fit(flat(series), labels, 2)
    more = np.concatenate([flat(series), np.full((YEARS, FEATURES, 30), 9000, np.uint16)], axis=2)
    blank = np.concatenate([labels, np.full((YEARS, 30), 255, np.uint8)], axis=1)
    found = likeness.fit(more, blank, 2)
    assert known is not None and found is not None
    np.testing.assert_allclose(found.correlation, known.correlation, atol=1e-3)


def test_blocks_do_not_change_a_bit() -> None:
    series, label, votes = places()
    known = fitted(series, label)
    whole = likeness.stay(known, series, votes)
    for rows, cols in ((slice(0, 7), slice(3, 40)), (slice(7, 8), slice(0, 1))):
        part = likeness.stay(known, series[..., rows, cols], votes[..., rows, cols])
        np.testing.assert_array_equal(part, whole[..., rows, cols])


def test_what_is_written_is_what_is_read() -> None:
    series, label, votes = places()
    known = fitted(series, label)
    read = Likeness.from_plain(json.loads(json.dumps(known.plain())))
    np.testing.assert_array_equal(
        likeness.stay(known, series, votes), likeness.stay(read, series, votes)
    )
