"""The kernels against their NumPy twins, and what they do at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcu import composite
from tests import reference


def cube(seed: int, times: int, bands: int, height: int, width: int, missing: float) -> tuple:
    """Return random reflectance [time, band, y, x] and clear [time, y, x]."""
    random = np.random.default_rng(seed)
    reflectance = random.integers(
        0, 2 ** random.integers(2, 17), (times, bands, height, width)
    ).astype(np.uint16)
    reflectance[random.random((times, bands, height, width)) < missing / 3] = 0
    return reflectance, random.random((times, height, width)) >= missing


CUBES = st.builds(
    cube, st.integers(0, 999), st.integers(0, 9), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)  # fmt: skip


@given(CUBES)
def test_median_kernel_matches_numpy_reference(cube: tuple) -> None:
    values, count = composite.median(*cube)
    expected, expected_count = reference.median(*cube)
    np.testing.assert_array_equal(count, expected_count)
    np.testing.assert_array_equal(values, expected)


@given(CUBES, st.permutations(range(9)))
def test_median_kernel_ignores_the_order_of_acquisitions(cube: tuple, order: list) -> None:
    reflectance, clear = cube
    order = [index for index in order if index < len(clear)]
    for one, other in zip(
        composite.median(reflectance, clear),
        composite.median(reflectance[order], clear[order]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_kernel_threads_do_not_change_a_bit() -> None:
    reflectance, clear = cube(1, 12, 4, 67, 33, 0.4)
    for threads in (2, 3, 5):
        for one, other in zip(
            composite.median(reflectance, clear),
            composite.median(reflectance, clear, threads=threads),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    days = np.arange(12) * 30
    for one, other in zip(
        composite.fill_gaps(reflectance, days),
        composite.fill_gaps(reflectance, days, threads=3),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def one_pixel(*series: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one band, one pixel, all clear."""
    values = np.array(series, np.uint16).reshape(-1, 1, 1, 1)
    return values, np.ones((len(series), 1, 1), bool)


def test_median_kernel_of_no_clear_observation_is_nodata() -> None:
    reflectance, clear = one_pixel(5, 6)
    values, count = composite.median(reflectance, ~clear)
    assert values.item() == 0 and count.item() == 0


def test_median_kernel_of_one_observation_is_that_observation() -> None:
    values, count = composite.median(*one_pixel(4321))
    assert values.item() == 4321 and count.item() == 1


def test_median_kernel_rounds_the_middle_of_two_half_up() -> None:
    assert composite.median(*one_pixel(10, 13))[0].item() == 12
    assert composite.median(*one_pixel(65535, 65534))[0].item() == 65535


def test_median_kernel_leaves_out_an_observation_with_a_missing_band() -> None:
    reflectance = np.array([[100, 200], [0, 900], [110, 220]], np.uint16).reshape(3, 2, 1, 1)
    values, count = composite.median(reflectance, np.ones((3, 1, 1), np.uint8))
    assert values.ravel().tolist() == [105, 210] and count.item() == 2


def test_median_kernel_counts_up_to_255() -> None:
    assert composite.median(*one_pixel(*range(1, 301)))[1].item() == 255


def test_median_refuses_wrong_input() -> None:
    reflectance, clear = one_pixel(1, 2)
    with pytest.raises(ValueError, match="uint16"):
        composite.median(reflectance.astype(np.float32), clear)
    with pytest.raises(ValueError, match="clear must be"):
        composite.median(reflectance, clear[:1])
    with pytest.raises(ValueError, match="threads"):
        composite.median(reflectance, clear, threads=0)


@given(CUBES, st.integers(0, 99))
def test_fill_gaps_kernel_matches_numpy_reference(cube: tuple, seed: int) -> None:
    reflectance, clear = cube
    reflectance = np.where(clear[:, None], reflectance, 0).astype(np.uint16)
    days = np.cumsum(np.random.default_rng(seed).integers(1, 40, len(reflectance)))
    filled, flag = composite.fill_gaps(reflectance, days)
    expected, expected_flag = reference.fill_gaps(reflectance, days)
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(flag, expected_flag)


def test_fill_gaps_kernel_takes_the_nearest_value_at_the_ends_and_leaves_an_empty_series() -> None:
    reflectance = np.zeros((4, 2, 1, 1), np.uint16)
    reflectance[1:3, 0] = 100
    filled, flag = composite.fill_gaps(reflectance, [0, 10, 20, 30])
    assert filled[:, 0].ravel().tolist() == [100] * 4
    assert flag[:, 0].ravel().tolist() == [1, 0, 0, 1]
    assert not filled[:, 1].any() and flag[:, 1].all()


def test_fill_gaps_refuses_days_that_do_not_ascend() -> None:
    with pytest.raises(ValueError, match="ascend"):
        composite.fill_gaps(np.ones((2, 1, 1, 1), np.uint16), [5, 4])


@given(
    st.integers(0, 999),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0, 1, 1.5, 2, 2.24, 3, 7.1, 20]),
)
def test_buffer_mask_kernel_matches_numpy_reference(
    seed: int, height: int, width: int, pixels: float
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    np.testing.assert_array_equal(
        composite.buffer_mask(mask, pixels), reference.buffer_mask(mask, pixels)
    )


def test_buffer_mask_kernel_works_on_every_leading_axis() -> None:
    mask = np.zeros((2, 3, 5, 5), np.uint8)
    mask[1, 2, 2, 2] = 1
    grown = composite.buffer_mask(mask, 1)
    assert grown.sum() == 5 and grown[1, 2, 1, 2] and not grown[0].any()


def test_clear_mask_grows_clouds_but_not_the_swath_edge() -> None:
    scl = np.full((7, 7), 4, np.uint8)
    scl[:, 0] = 0
    scl[3, 5] = 9
    clear = composite.scl_clear(scl, (0, 1, 3, 8, 9, 10), 1)
    assert not clear[:, 0].any() and clear[:, 1].all()
    assert (~clear[:, 1:]).sum() == 5
