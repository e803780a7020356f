"""How alike years are: the formula, what it says of places that stay and that changed, and where it says nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage, stats

from lcu import likeness
from lcu.likeness import Likeness
from lcu.years import pairs_of_years

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
    votes = np.where(label == np.arange(2)[:, None, None], 0.96, 0.04).astype(np.float32)
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


def stay(known: Likeness, series: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Let the series alone speak."""
    said = likeness.answers(votes)
    return likeness.stay({"series": known}, {"series": series, "answers": said}, votes)


def flat(series: np.ndarray) -> np.ndarray:
    return series.reshape(*series.shape[:2], -1)


def looks(shape: tuple[int, ...] = (3, 2, 20, 30)) -> np.ndarray:
    """Return series uint16 [time, band, y, x], as large as they can be; some pixels have none."""
    series = np.random.default_rng(5).integers(1, 65536, shape).astype(np.uint16)
    series[..., 4:9, 11] = 0
    series[..., :8, :8] = 0
    return series


def test_the_ground_around_a_pixel_is_the_mean_of_what_is_known() -> None:
    series = looks()
    known = series.any(axis=(0, 1))
    ones = np.ones((3, 3), np.int64)
    count = ndimage.correlate(known.astype(np.int64), ones, mode="constant")
    found = likeness.around(series)
    assert found.dtype == np.uint16 and (found[..., ~known] == 0).all()
    for mean, own in zip(found.reshape(6, 20, 30), series.reshape(6, 20, 30), strict=True):
        total = ndimage.correlate(own.astype(np.int64), ones, mode="constant")
        exact = (total[known] + count[known] // 2) // count[known]
        np.testing.assert_array_equal(mean[known], exact)


def test_the_ground_around_does_not_depend_on_blocks_nor_on_how_it_was_read() -> None:
    series, reach = looks(), likeness.REACH
    whole = likeness.around(series)
    part = likeness.around(series[..., 3 : 15 + 2 * reach, 6 : 19 + 2 * reach])
    inner = part[..., reach:-reach, reach:-reach]
    np.testing.assert_array_equal(inner, whole[..., 3 + reach : 15 + reach, 6 + reach : 19 + reach])
    padded = np.pad(series, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    patch = windows.reshape(3, 2, -1, 5, 5).transpose(2, 0, 1, 3, 4)
    of_patch = likeness.around_patch(patch).transpose(1, 2, 0).reshape(series.shape)
    np.testing.assert_array_equal(of_patch, whole)


@pytest.mark.parametrize("years", [1, 2, 5])
def test_the_ratio_is_that_of_normal_densities(years: int) -> None:
    values = np.random.default_rng(years).normal(0, 1.5, (years, 3, 50)).astype(np.float32)
    correlation = np.array([0.0, 0.5, 0.9], np.float32)
    expected = np.zeros(50)
    for own, r in zip(values.transpose(1, 2, 0), correlation, strict=True):
        together = stats.multivariate_normal(
            None, np.full((years, years), r) + (1 - r) * np.eye(years)
        )
        expected += np.atleast_1d(together.logpdf(own)) - stats.norm.logpdf(own).sum(axis=1)
    found = likeness.log_ratio(
        values.sum(axis=0), (values**2).sum(axis=0), np.full(50, years), correlation
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_place_that_looks_the_same_stays_and_one_that_looks_like_another_does_not() -> None:
    series, label, votes = places()
    known = fitted(series, label)
    assert (known.correlation > 0.5).all()
    same = stay(known, series, votes)
    swapped = series.copy()
    swapped[2:] = series[2:, :, ::-1]  # from 2020 on another place of the class
    other = stay(known, swapped, votes)
    assert (same > 1).mean() > 0.9
    place = {pair: number for number, pair in enumerate(pairs_of_years(YEARS))}
    changed = {name: np.median(other[number]) for name, number in place.items()}
    assert changed[1, 1] < 1 and changed[0, 0] > 1 and changed[2, 2] > 1
    # With two years before it the difference is surer than with one.
    assert changed[0, 1] < changed[1, 1]
    np.testing.assert_array_equal(other[place[0, 0]], same[place[0, 0]])


def test_it_stays_within_its_bounds() -> None:
    series, label, votes = places()
    wild = series.copy()
    wild[1, :, ::3] = 65535
    found = stay(fitted(series, label), wild, votes)
    assert found.min() >= np.exp(-3.0) - 1e-6 and found.max() <= np.exp(6.0) + 1e-3
    assert np.isfinite(found).all()


def test_a_year_that_is_missing_says_nothing() -> None:
    series, label, votes = places()
    votes[1, :, :5] = 0
    known = fitted(series, label)
    found, pairs = stay(known, series, votes), pairs_of_years(YEARS)
    for factor, (start, step) in zip(found, pairs, strict=True):
        nothing = step + 1 == 1 or (start, step) == (1, 1)
        assert (factor[:5] == 1).all() == nothing and (factor[5:] != 1).any()
    # Across the missing year 2018 is compared with 2020, whatever the series of 2019.
    other = series.copy()
    other[1, :, :5] = 40
    np.testing.assert_array_equal(stay(known, other, votes)[:, :5], found[:, :5])


def test_a_class_with_too_few_pixels_says_nothing() -> None:
    series, label, _ = places()
    label[0, :10] = 2
    known = fitted(series, label, 3)
    votes = np.zeros((YEARS, 3, SIDE, SIDE), np.float32)
    votes[:, 2] = 1
    assert (known.correlation[2] == 0).all()
    assert (stay(known, series, votes) == 1).all()


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


def test_answers_are_logarithms_of_what_is_written() -> None:
    probability = np.array([[0, 0.0019, 0.004, 0.5, 1, np.nan]], np.float32).T[:, None]
    found = likeness.answers(probability)
    assert found.dtype == np.uint16 and found.shape == probability.shape
    expected = 1 + np.rint(2000 * np.log(1 + 100 * np.array([0, 0, 0.004, 0.5, 1])))
    assert found.ravel().tolist() == [*expected, 0]


def test_the_lead_is_that_over_the_strongest_rival_of_all_years() -> None:
    probability = np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [0.5, 0.1, 0.4]], np.float32)
    said = likeness.answers(probability[..., None])
    first, lead = likeness.leads(said)
    assert first.ravel().tolist() == [0, 255, 0]
    whole = said[..., 0].astype(int)
    expected = [whole[0, 0] - whole[0, 2] + 10000, 0, whole[2, 0] - whole[2, 2] + 10000]
    assert lead.shape == (3, 1, 1) and lead.ravel().tolist() == expected


def sure_and_unsure(seed: int = 3) -> np.ndarray:
    """Return probabilities float32 [year, class, y, x] of two classes; how sure a place is lasts, some noise apart."""
    random = np.random.default_rng(seed)
    _, label, _ = places()
    level = random.normal(2.0, 0.6, (SIDE, SIDE)) + random.normal(0, 0.3, (YEARS, SIDE, SIDE))
    own = 1 / (1 + np.exp(-np.maximum(level, 0.1)))
    of_first = np.where(label == 0, own, 1 - own)
    return np.stack([of_first, 1 - of_first], axis=1).astype(np.float32)


@pytest.mark.parametrize("witness", ["answers", "lead"])
def test_a_classifier_that_was_sure_and_no_longer_is_speaks_for_a_change(witness: str) -> None:
    series, label, votes = places()
    probability = sure_and_unsure()
    looks = {"series": flat(series), "answers": flat(likeness.answers(probability))}
    labels = np.broadcast_to(label.ravel(), (YEARS, label.size)).copy()
    known = likeness.fit_parts([[(0, looks, labels)]], 2)
    assert list(known) == ["series", "answers", "lead"]
    unsure = probability.copy()
    unsure[2:, 0, :, :20], unsure[2:, 1, :, :20] = 0.55, 0.45  # still the same class
    same, other = (
        likeness.stay({witness: known[witness]}, looks | {"answers": likeness.answers(said)}, votes)
        for said in (probability, unsure)
    )
    place = {pair: number for number, pair in enumerate(pairs_of_years(YEARS))}
    assert (np.median(other[..., :20], axis=(1, 2))[place[0, 1]]) < 1
    assert (np.median(same[..., :20], axis=(1, 2))[place[0, 1]]) > 1
    np.testing.assert_array_equal(other[..., 20:], same[..., 20:])


def test_years_that_are_missing_teach_nothing() -> None:
    probability, (_, label, _) = sure_and_unsure(), places()
    labels = np.broadcast_to(label.ravel(), (YEARS, label.size)).copy()
    missing = probability.copy()
    missing[1, :, :10] = np.nan
    blank = labels.copy()
    blank[1, : 10 * SIDE] = 255
    found = likeness.fit(flat(likeness.answers(missing)), labels, 2)
    expected = likeness.fit(flat(likeness.answers(missing)), blank, 2)
    assert found is not None and expected is not None
    np.testing.assert_array_equal(found.middle, expected.middle)
    np.testing.assert_array_equal(found.correlation, expected.correlation)


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
    whole = stay(known, series, votes)
    for rows, cols in ((slice(0, 7), slice(3, 40)), (slice(7, 8), slice(0, 1))):
        part = stay(known, series[..., rows, cols], votes[..., rows, cols])
        np.testing.assert_array_equal(part, whole[..., rows, cols])


def test_what_is_written_is_what_is_read() -> None:
    series, label, votes = places()
    known = fitted(series, label)
    read = Likeness.from_plain(json.loads(json.dumps(known.plain())))
    np.testing.assert_array_equal(stay(known, series, votes), stay(read, series, votes))
