"""The choice over years: against all sequences, against NumPy, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcu.classify import most_likely_years, posterior_of_years
from lcu.years import over_votes, pairs_of_years
from tests import reference


def model(
    seed: int, years: int, classes: int, missing: float = 0.0, zeros: float = 0.0, shape: tuple = (3, 5)
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return random probability [year, class, y, x] and transition [from, to], its diagonal above 0."""
    random = np.random.default_rng(seed)
    probability = random.dirichlet(np.ones(classes), (years, *shape)).transpose(0, 3, 1, 2)
    probability = (probability + 1e-6).astype(np.float32)
    transition = random.dirichlet(np.ones(classes), classes) + 2 * np.eye(classes)
    transition[(random.random((classes, classes)) < zeros) & ~np.eye(classes, dtype=bool)] = 0
    transition /= transition.sum(axis=1, keepdims=True)
    absent = random.random((years, *shape)) < missing
    probability[np.broadcast_to(absent[:, None], probability.shape)] = np.nan
    return probability, transition.astype(np.float32)


SMALL = st.builds(
    model, st.integers(0, 999), st.integers(1, 4), st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip


def stays(probability: np.ndarray, seed: int) -> np.ndarray | None:
    """Return random factors of classes that stay, float32 [pair, y, x]; of some cases none."""
    years, _, *size = probability.shape
    factors = np.exp(np.random.default_rng(seed).normal(0, 2, (len(pairs_of_years(years)), *size)))
    return factors.astype(np.float32) if seed % 3 else None


def of_pixel(stay: np.ndarray | None, y: int, x: int, years: int) -> dict | None:
    """Return (start, step) -> factor of one pixel."""
    if stay is None:
        return None
    return dict(zip(pairs_of_years(years), stay[:, y, x].tolist(), strict=True))


@given(SMALL, st.integers(0, 99))
def test_years_kernel_finds_the_best_of_all_sequences(case: tuple, seed: int) -> None:
    probability, transition = case
    stay = stays(probability, seed)
    found = most_likely_years(probability, transition, stay=stay)
    for y, x in np.ndindex(*found.shape[1:]):
        own = probability[:, :, y, x]
        if np.isnan(own).any(axis=1).all():
            assert (found[:, y, x] == 255).all()
            continue
        paths, weight = reference.sequences_of_years(
            own, transition, of_pixel(stay, y, x, len(probability))
        )
        chosen = weight[(paths == found[:, y, x]).all(axis=1)].item()
        assert chosen > 0 and chosen >= weight.max() * (1 - 1e-5)


@given(SMALL, st.integers(0, 99))
def test_years_kernel_gives_the_posterior_of_all_sequences(case: tuple, seed: int) -> None:
    probability, transition = case
    stay = stays(probability, seed)
    posterior, change = posterior_of_years(probability, transition, stay=stay)
    years, classes = probability.shape[:2]
    assert change.shape == (years - 1, *probability.shape[2:])
    for y, x in np.ndindex(*probability.shape[2:]):
        own = probability[:, :, y, x]
        paths, weight = reference.sequences_of_years(
            own, transition, of_pixel(stay, y, x, len(probability))
        )
        weight = weight / weight.sum()
        expected = [
            [weight[paths[:, year] == c].sum() for c in range(classes)] for year in range(years)
        ]
        np.testing.assert_allclose(posterior[:, :, y, x], expected, atol=1e-5)
        moved = [weight[paths[:, year] != paths[:, year - 1]].sum() for year in range(1, years)]
        np.testing.assert_allclose(change[:, y, x], moved, atol=1e-5)


@pytest.mark.parametrize(("years", "classes"), [(1, 1), (6, 12), (16, 32), (3, 5)])
def test_years_kernel_matches_numpy_reference(years: int, classes: int) -> None:
    probability, transition = model(years, years, classes, 0.2, 0.3, (7, 23))
    found, expected = (
        function(probability, transition) for function in (most_likely_years, reference.most_likely_years)
    )  # fmt: skip
    # Nearly equal sequences may come out either way in single precision.
    assert (found == expected).all(axis=0).mean() > 0.995


@pytest.mark.parametrize("width", [1, 15, 63, 64, 65, 129])
def test_years_kernel_does_not_see_the_borders_of_its_strips(width: int) -> None:
    probability, transition = model(width, 4, 3, 0.3, 0.4, (1, width))
    whole = most_likely_years(probability, transition), *posterior_of_years(probability, transition)
    for x in {0, width // 2, width - 1}:
        part = probability[..., x : x + 1]
        alone = most_likely_years(part, transition), *posterior_of_years(part, transition)
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(one[..., x : x + 1], other)


def test_years_kernel_threads_do_not_change_a_bit() -> None:
    case = model(3, 5, 7, 0.2, 0.2, (40, 33))
    one = most_likely_years(*case), *posterior_of_years(*case)
    for threads in (2, 3):
        more = (
            most_likely_years(*case, threads=threads),
            *posterior_of_years(*case, threads=threads),
        )
        for first, second in zip(one, more, strict=True):
            np.testing.assert_array_equal(first, second)


def pixel(*years: tuple[float, ...]) -> np.ndarray:
    return np.array(years, np.float32)[:, :, None, None]


STABLE = np.array([[0.99, 0.01], [0.01, 0.99]])


def test_a_missing_year_follows_from_the_others() -> None:
    nothing, one, other = (np.nan, np.nan), (0.9, 0.1), (0.1, 0.9)
    assert most_likely_years(pixel(one, nothing, one), STABLE).ravel().tolist() == [0, 0, 0]
    assert most_likely_years(pixel(nothing, other, (0, 0)), STABLE).ravel().tolist() == [1, 1, 1]
    assert most_likely_years(pixel(nothing, nothing), STABLE).ravel().tolist() == [255, 255]
    np.testing.assert_allclose(posterior_of_years(pixel(nothing, nothing), STABLE)[0], 0.5)


def test_one_doubtful_year_is_noise_and_a_lasting_difference_is_change() -> None:
    one, other = (0.99, 0.01), (0.01, 0.99)
    noise = most_likely_years(pixel(one, one, other, one, one), STABLE)
    change = most_likely_years(pixel(one, one, other, other, other), STABLE)
    assert noise.ravel().tolist() == [0, 0, 0, 0, 0]
    assert change.ravel().tolist() == [0, 0, 1, 1, 1]
    _, moved = posterior_of_years(pixel(one, one, other, other, other), STABLE)
    assert moved[1] > 0.8 and moved[[0, 2, 3]].max() < 0.1


def test_years_that_no_transition_allows_break_the_sequence() -> None:
    certain = pixel((1, 0), (0, 1), (0, 1))
    assert most_likely_years(certain, np.eye(2)).ravel().tolist() == [0, 1, 1]
    posterior, change = posterior_of_years(certain, np.eye(2))
    assert posterior[:, 1].ravel().tolist() == [0, 1, 1]
    assert change.ravel().tolist() == [1, 0]


def test_equal_sequences_end_in_the_first_class() -> None:
    assert most_likely_years(pixel((0.5, 0.5), (0.5, 0.5)), STABLE).ravel().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("shape", "transition", "expected"),
    [
        ((2, 3, 4), np.eye(3), "year, class, y, x"),
        ((2, 3, 4, 4), np.eye(2), r"\[3, 3\]"),
        ((2, 2, 4, 4), -np.eye(2), "from 0 on"),
        ((2, 2, 4, 4), np.full((2, 2), np.nan), "finite"),
        ((0, 2, 4, 4), np.eye(2), "a year at least"),
        ((1, 300, 1, 1), np.eye(300), "1 to 250 classes"),
    ],
)
def test_what_does_not_fit_is_named(shape: tuple, transition: np.ndarray, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        most_likely_years(np.ones(shape, np.float32), transition)


@pytest.mark.parametrize(
    ("stay", "expected"),
    [
        (np.ones((2, 4, 4)), r"\[pair, y, x\], \(3, 4, 4\)"),
        (-np.ones((3, 4, 4)), "stay must hold finite numbers from 0 on"),
        (np.full((3, 4, 4), np.inf), "stay must hold finite"),
    ],
)
def test_a_stay_that_does_not_fit_is_named(stay: np.ndarray, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        most_likely_years(np.ones((3, 2, 4, 4), np.float32), np.eye(2), stay=stay)


def test_a_place_that_looks_the_same_stays_and_one_that_moved_changes() -> None:
    doubtful = pixel((0.9, 0.1), (0.9, 0.1), (0.2, 0.8))
    pairs = pairs_of_years(3)
    assert pairs == [(0, 0), (0, 1), (1, 1)]
    like, unlike = (np.array([1, factor, 1], np.float32)[:, None, None] for factor in (5, 0.02))
    assert most_likely_years(doubtful, STABLE, stay=like).ravel().tolist() == [0, 0, 0]
    assert most_likely_years(doubtful, STABLE, stay=unlike).ravel().tolist() == [0, 0, 1]
    moved = [posterior_of_years(doubtful, STABLE, stay=stay)[1][1] for stay in (like, unlike)]
    assert moved[0] < 0.1 and moved[1] > 0.5


def test_what_stays_is_judged_by_how_long_it_has_stayed() -> None:
    doubtful = pixel((0.5, 0.5), (0.9, 0.1), (0.2, 0.8))
    # From 2019 to 2020 nothing stays that has been there since 2018; what began in 2019 may.
    stay = np.array([1, 0, 1], np.float32)[:, None, None]
    found = most_likely_years(doubtful, STABLE, stay=stay).ravel().tolist()
    assert found in ([0, 0, 1], [1, 0, 0])
    _, change = posterior_of_years(doubtful, STABLE, stay=stay)
    assert change.sum() >= 1 - 1e-6


def test_factors_of_votes_are_those_of_the_mapped_years_around_others() -> None:
    stay = np.arange(2, 5, dtype=np.float32)[:, None, None]  # of three mapped years
    found = over_votes(stay, 4, [0, 2, 3])
    named = dict(zip(pairs_of_years(4), found.ravel().tolist(), strict=True))
    assert named == {(0, 0): 1, (0, 1): 2, (1, 1): 1, (0, 2): 3, (1, 2): 4, (2, 2): 4}
    np.testing.assert_array_equal(over_votes(stay, 3, [0, 1, 2]), stay)


def test_every_step_may_have_its_own_transition() -> None:
    uniform = np.full((2, 2), 0.5)
    found = most_likely_years(
        pixel((0.9, 0.1), (0.1, 0.9), (0.9, 0.1)), np.stack([uniform, np.eye(2)])
    )
    assert found.ravel().tolist() in ([0, 0, 0], [1, 1, 1])
    found = most_likely_years(
        pixel((0.9, 0.1), (0.1, 0.9), (0.2, 0.8)), np.stack([uniform, np.eye(2)])
    )
    assert found.ravel().tolist() == [0, 1, 1]
