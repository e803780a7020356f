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


@pytest.mark.parametrize(
    "times", [1, 2, 3, 16, 31, 32, 33, 34, 62, 63, 64, 65, 66, 70, 96, 97, 129, 255, 300]
)
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_median_kernel_is_nanmedian_for_any_number_of_times(times: int, missing: float) -> None:
    random = np.random.default_rng(times)
    reflectance = random.integers(1, 65536, (times, 2, 3, 65)).astype(np.uint16)
    clear = random.random((times, 3, 65)) >= missing
    clear[0] |= ~clear.any(axis=0)
    values, count = composite.median(reflectance, clear)
    exact = np.nanmedian(np.where(clear[:, None], reflectance.astype(float), np.nan), axis=0)
    np.testing.assert_array_equal(values, np.floor(exact + 0.5))
    np.testing.assert_array_equal(count, np.minimum(clear.sum(axis=0), 255))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 32, 33, 127, 128, 129, 161, 256, 257])
def test_kernels_do_not_see_the_borders_of_their_strips(width: int) -> None:
    reflectance, clear = cube(width, 7, 3, 2, width, 0.4)
    whole = [composite.median(reflectance, clear)]
    whole += [call(reflectance, clear) for call in METHODS.values()]
    for x in {0, width // 2, width - 1}:
        part = reflectance[..., x : x + 1], clear[..., x : x + 1]
        alone = [composite.median(*part), *(call(*part) for call in METHODS.values())]
        for one, other in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(one[0][..., x : x + 1], other[0])
            np.testing.assert_array_equal(one[1][..., x : x + 1], other[1])
    days = np.arange(7) * 10
    filled, flag = composite.fill_gaps(reflectance, days)
    expected, expected_flag = reference.fill_gaps(reflectance, days)
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(flag, expected_flag)


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


def test_fill_gaps_kernel_takes_the_first_of_two_values_of_one_day() -> None:
    reflectance = np.array([100, 0, 300, 0, 500], np.uint16).reshape(5, 1, 1, 1)
    filled, _ = composite.fill_gaps(reflectance, [7, 7, 7, 8, 9])
    assert filled.ravel().tolist() == [100, 100, 300, 400, 500]


def own_days(seed: int, times: int, height: int, width: int) -> np.ndarray:
    """Return days int32 [time, y, x] that ascend in every pixel, with slots in between that have none."""
    random = np.random.default_rng(seed)
    days = np.cumsum(random.integers(1, 40, (times, height, width)), axis=0)
    return np.where(random.random(days.shape) < 0.6, days, 0).astype(np.int32)


@given(CUBES, st.integers(0, 99))
def test_resample_kernel_matches_numpy_reference(cube: tuple, seed: int) -> None:
    reflectance = np.maximum(cube[0], 1)
    days = own_days(seed, len(reflectance), *reflectance.shape[2:])
    at = np.unique(np.random.default_rng(seed).integers(-20, 250, 13))
    found = composite.resample(reflectance, days, at)
    np.testing.assert_array_equal(found, reference.resample(reflectance, days, at))
    np.testing.assert_array_equal(found, composite.resample(reflectance, days, at, threads=3))


@pytest.mark.parametrize("width", [127, 128, 300])
def test_resample_kernel_does_not_depend_on_neighbours(width: int) -> None:
    reflectance, days = np.maximum(cube(3, 9, 3, 2, width, 0)[0], 1), own_days(1, 9, 2, width)
    whole = composite.resample(reflectance, days, [30, 60, 90])
    for x in (0, width // 2, width - 1):
        own = (..., slice(x, x + 1))
        np.testing.assert_array_equal(
            composite.resample(reflectance[own], days[own], [30, 60, 90]), whole[own]
        )


def test_resample_at_the_days_of_a_series_with_gaps_is_fill_gaps() -> None:
    reflectance, clear = cube(5, 11, 3, 8, 70, 0.5)
    reflectance = np.where(clear[:, None], np.maximum(reflectance, 1), 0).astype(np.uint16)
    at = np.arange(1, 12) * 29
    days = np.where(clear, at[:, None, None], 0)
    expected, _ = composite.fill_gaps(reflectance, at)
    np.testing.assert_array_equal(composite.resample(reflectance, days, at), expected)


def test_resample_says_what_does_not_fit() -> None:
    reflectance, days = np.ones((2, 1, 3, 3), np.uint16), np.ones((2, 3, 3), np.int32)
    with pytest.raises(ValueError, match=r"days must be \[time, y, x\] = \(2, 3, 3\), found"):
        composite.resample(reflectance, days[:1], [5])
    with pytest.raises(ValueError, match="wanted must ascend"):
        composite.resample(reflectance, days, [5, 4])
    assert composite.resample(reflectance[..., :0], days[..., :0], [5]).shape == (1, 1, 3, 0)


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
    clear = composite.scl_clear(scl, (0, 1, 3, 8, 9, 10), clouds=1, shadows=0)
    assert not clear[:, 0].any() and clear[:, 1].all()
    assert (~clear[:, 1:]).sum() == 5


# --- geometric median, medoid, largest NDVI -------------------------------------------------------

METHODS = {
    "geometric_median": composite.geometric_median,
    "medoid": composite.medoid,
    "max_ndvi": lambda reflectance, clear, **more: composite.max_ndvi(
        reflectance, clear, red=0, nir=1, **more
    ),
}


def natural(seed: int, times: int, bands: int = 10, height: int = 3, width: int = 150) -> tuple:
    """Return reflectance as land has it: a spectrum, noise, some clouds; and where it is clear."""
    random = np.random.default_rng(seed)
    spectrum = random.uniform(300, 4000, (1, bands, height, width))
    noise = random.normal(0, 150, (times, bands, height, width))
    clouds = (random.random((times, 1, height, width)) < 0.2) * 4000
    return np.clip(spectrum + noise + clouds, 1, 65535).astype(np.uint16), random.random(
        (times, height, width)
    ) < 0.6


@given(st.integers(0, 999), st.integers(1, 9))
def test_geometric_median_kernel_is_as_good_as_the_exact_one(seed: int, times: int) -> None:
    reflectance, clear = natural(seed, times, 4, 2, 9)
    values, _ = composite.geometric_median(reflectance, clear)
    for y, x in np.ndindex(2, 9):
        points = reference.usable(reflectance, clear, y, x)
        if not len(points):
            assert not values[:, y, x].any()
            continue
        exact = reference.geometric_median(points)
        rounding = 0.5e-4 * np.sqrt(4) * len(points)
        ours = reference.distance_sum(points, values[:, y, x])
        assert ours <= reference.distance_sum(points, exact) + rounding + 1e-4


def test_geometric_median_kernel_agrees_with_the_exact_one_within_1e_4_and_half_a_count() -> None:
    reflectance, clear = natural(1, 20)
    values, _ = composite.geometric_median(reflectance, clear)
    for x in range(0, 150, 7):
        exact = reference.geometric_median(reference.usable(reflectance, clear, 1, x))
        assert np.abs(values[:, 1, x] - exact).max() <= 1.5


@pytest.mark.parametrize("bands", [3, 4, 6, 10, 11, 12, 13])
@pytest.mark.parametrize("times", [3, 20, 70])
def test_geometric_median_kernel_is_weiszfelds_iteration_until_a_step_below_1e_5(
    times: int, bands: int
) -> None:
    reflectance, clear = natural(times + bands, times, bands, 40, 129)
    clear[:3] |= clear.sum(axis=0) < 3
    values, _ = composite.geometric_median(reflectance, clear)
    points, used = reflectance.reshape(times, bands, -1), clear.reshape(times, -1)
    expected = reference.weiszfeld(
        points, used, composite.arrays.STEP_TOLERANCE, composite.arrays.STEP_LIMIT
    )
    apart = np.abs(values.reshape(bands, -1) - expected).max(axis=0)
    # Half a count is the rounding, and the last step, 0.1, may be taken by only one of the two. Where
    # the path happens upon an observation, rounding decides how it goes on.
    assert np.quantile(apart, 0.999) <= 0.65


def test_geometric_median_kernel_stays_on_an_observation_that_is_most_of_them() -> None:
    reflectance = np.array(
        [[100, 200], [100, 200], [100, 200], [5000, 9000], [3000, 100]], np.uint16
    )
    values, _ = composite.geometric_median(
        reflectance.reshape(5, 2, 1, 1), np.ones((5, 1, 1), bool)
    )
    assert values.ravel().tolist() == [100, 200]


def test_geometric_median_kernel_of_two_is_their_mean_and_of_collinear_points_the_middle_one() -> (
    None
):
    clear = np.ones((2, 1, 1), bool)
    two = np.array([[100, 200], [300, 600]], np.uint16).reshape(2, 2, 1, 1)
    assert composite.geometric_median(two, clear)[0].ravel().tolist() == [200, 400]
    line = np.array([[100, 200], [300, 400], [1000, 1100]], np.uint16).reshape(3, 2, 1, 1)
    middle = composite.geometric_median(line, np.ones((3, 1, 1), bool))[0].ravel()
    np.testing.assert_allclose(middle, [300, 400], atol=1.5)


@given(st.integers(0, 999), st.integers(0, 8))
def test_medoid_kernel_is_the_observation_nearest_to_all_others(seed: int, times: int) -> None:
    reflectance, clear = natural(seed, times, 3, 2, 7)
    values, count = composite.medoid(reflectance, clear)
    for y, x in np.ndindex(2, 7):
        points = reference.usable(reflectance, clear, y, x)
        assert count[y, x] == len(points)
        if not len(points):
            assert not values[:, y, x].any()
            continue
        assert (points == values[:, y, x]).all(axis=1).any()
        least = min(reference.distance_sum(points, point) for point in points)
        assert reference.distance_sum(points, values[:, y, x]) == pytest.approx(least, rel=1e-5)


@given(st.integers(0, 999), st.integers(0, 8))
def test_max_ndvi_kernel_is_the_first_of_the_greenest_observations(seed: int, times: int) -> None:
    reflectance, clear = natural(seed, times, 3, 2, 7)
    values, _ = composite.max_ndvi(reflectance, clear, red=0, nir=2)
    for y, x in np.ndindex(2, 7):
        points = reference.usable(reflectance, clear, y, x)
        expected = reference.max_ndvi(points, 0, 2) if len(points) else [0, 0, 0]
        np.testing.assert_array_equal(values[:, y, x], expected)


@given(st.integers(0, 999), st.sampled_from([4, 65536]))
def test_max_ndvi_kernel_compares_exactly(seed: int, most: int) -> None:
    random = np.random.default_rng(seed)
    reflectance = random.integers(max(1, most - 4), most, (9, 2, 2, 33)).astype(np.uint16)
    reflectance = np.concatenate([reflectance, np.ones((9, 1, 2, 33), np.uint16)], axis=1)
    reflectance[:, 2] += np.arange(9, dtype=np.uint16)[:, None, None]  # tells the times apart
    values, _ = composite.max_ndvi(reflectance, np.ones((9, 2, 33), bool), red=0, nir=1)
    for y, x in np.ndindex(2, 33):
        expected = reference.max_ndvi(reflectance[:, :, y, x], 0, 1)
        np.testing.assert_array_equal(values[:, y, x], expected)


def test_medoid_kernel_takes_the_earliest_among_equals() -> None:
    points = np.array([[9, 9], [5, 7], [7, 5], [5, 7], [7, 5], [1, 1]], np.uint16)
    values, _ = composite.medoid(points.reshape(6, 2, 1, 1), np.ones((6, 1, 1), bool))
    assert values.ravel().tolist() == [5, 7]


@pytest.mark.parametrize("method", METHODS)
def test_every_kernel_gives_nodata_of_none_and_the_observation_of_one(method: str) -> None:
    reflectance, clear = natural(4, 5, 3, 4, 131)
    clear[:] = False
    clear[3, 1, 130] = clear[0, 2, 5] = clear[4, 2, 5] = True
    reflectance[4, 1, 2, 5] = 0  # a band is missing: only the first of the two counts
    values, count = METHODS[method](reflectance, clear)
    assert count[1, 130] == count[2, 5] == 1 and count.sum() == 2
    np.testing.assert_array_equal(values[:, 1, 130], reflectance[3, :, 1, 130])
    np.testing.assert_array_equal(values[:, 2, 5], reflectance[0, :, 2, 5])
    assert values.sum() == values[:, 1, 130].sum() + values[:, 2, 5].sum()


@pytest.mark.parametrize("method", METHODS)
def test_every_kernel_takes_saturated_values_and_ties(method: str) -> None:
    reflectance = np.full((3, 2, 1, 1), 65535, np.uint16)
    values, count = METHODS[method](reflectance, np.ones((3, 1, 1), bool))
    assert values.ravel().tolist() == [65535, 65535] and count.item() == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_kernel_is_the_same_for_threads_and_for_any_cut_of_the_block(method: str) -> None:
    reflectance, clear = natural(6, 9, 4, 20, 300)
    values, count = METHODS[method](reflectance, clear)
    for threads in (2, 3):
        again = METHODS[method](reflectance, clear, threads=threads)
        np.testing.assert_array_equal(again[0], values)
    part = METHODS[method](reflectance[..., 3:9, 101:250], clear[:, 3:9, 101:250])
    np.testing.assert_array_equal(part[0], values[:, 3:9, 101:250])
    np.testing.assert_array_equal(part[1], count[3:9, 101:250])
