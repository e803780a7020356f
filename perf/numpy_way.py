"""The kernels as one writes them in NumPy: whole arrays, no loop over pixels.

Input as for the kernels: reflectance uint16 [time, band, y, x], clear bool [time, y, x].
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt


def usable(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return which observations count, bool [time, y, x]."""
    return clear & (reflectance > 0).all(axis=1)


def with_nan(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return float32 [time, band, y, x], NaN where the observation does not count."""
    return np.where(usable(reflectance, clear)[:, None], reflectance.astype(np.float32), np.nan)


def geometric_median(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Weiszfeld's iteration from the mean, all pixels together.

    Parameters
    ----------
    values : ndarray[time, band, y, x], float32 or float64
        NaN = does not count.
    tolerance : float
        A pixel whose step is shorter stays where it is.

    Returns
    -------
    ndarray[band, y, x], of the same dtype
    """
    centre = np.nanmean(values, axis=0)
    tiny = np.finfo(values.dtype).eps
    moving = np.ones(centre.shape[1:], bool)
    while moving.any():
        distance = np.sqrt(((values - centre) ** 2).sum(axis=1, keepdims=True))
        weight = 1 / np.maximum(distance, tiny)
        moved = np.nansum(values * weight, axis=0) / np.nansum(weight, axis=0)
        step = np.sqrt(((moved - centre) ** 2).sum(axis=0))
        centre = np.where(moving, moved, centre)
        moving &= step >= tolerance
    return centre


def medoid(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return the observation [band, y, x] with the least sum of distances to the others."""
    counts = usable(reflectance, clear)
    values = reflectance * np.float32(1e-4)
    total = np.full(clear.shape, np.inf, np.float32)
    for time in range(len(values)):
        distance = np.sqrt(((values - values[time]) ** 2).sum(axis=1))
        total[time] = np.where(counts[time], (distance * counts).sum(axis=0), np.inf)
    return pick(reflectance, total.argmin(axis=0))


def max_ndvi(reflectance: np.ndarray, clear: np.ndarray, red: int, nir: int) -> np.ndarray:
    """Return the observation [band, y, x] with the largest NDVI."""
    low, high = reflectance[:, red].astype(np.float32), reflectance[:, nir].astype(np.float32)
    ndvi = np.where(usable(reflectance, clear), (high - low) / (high + low), -np.inf)
    return pick(reflectance, ndvi.argmax(axis=0))


def pick(reflectance: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return [band, y, x] of the time [y, x] of each pixel."""
    return np.take_along_axis(reflectance, time[None, None], axis=0)[0]


def resample(reflectance: np.ndarray, days: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Read series whose pixels have days of their own at the days `at`, as `fill_gaps` fills what lies between."""
    out, times = np.empty((len(at), *reflectance.shape[1:]), np.uint16), len(days)
    index = np.arange(times)[:, None, None]
    for wanted, day in enumerate(at):
        before = np.where((days > 0) & (days <= day), index, -1).max(axis=0)
        after = np.where(days > day, index, times).min(axis=0)
        first = np.where(before < 0, after, before).clip(0, times - 1)
        last = np.where(after == times, before, after).clip(0, times - 1)
        low, high = (
            np.take_along_axis(reflectance, place[None, None], axis=0)[0].astype(np.int64)
            for place in (first, last)
        )
        start, end = (np.take_along_axis(days, place[None], axis=0)[0] for place in (first, last))
        span = np.maximum(end - start, 1)
        since = np.where(end > start, day - start, 0)
        found = (2 * (low * (span - since) + high * since) + span) // (2 * span)
        out[wanted] = np.where(days.any(axis=0), found, 0)
    return out


def fill_gaps(reflectance: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Fill what is 0: linear between the neighbours in time, the nearest at the ends."""
    known, times = reflectance > 0, len(days)
    index = np.arange(times)[:, None, None, None]
    before = np.maximum.accumulate(np.where(known, index, -1), axis=0)
    after = np.minimum.accumulate(np.where(known, index, times)[::-1], axis=0)[::-1]
    first = np.where(before < 0, after, before).clip(0, times - 1)
    last = np.where(after == times, before, after).clip(0, times - 1)
    low = np.take_along_axis(reflectance, first, axis=0).astype(np.int64)
    high = np.take_along_axis(reflectance, last, axis=0).astype(np.int64)
    span = np.maximum(days[last] - days[first], 1)
    since = days[:, None, None, None] - days[first]
    return ((2 * (low * (span - since) + high * since) + span) // (2 * span)).astype(np.uint16)


def buffer_by_distance(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Grow a mask [time, y, x] by the distance to it."""
    return np.array([distance_transform_edt(~layer) <= pixels for layer in mask])


def buffer_by_dilation(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Grow a mask [time, y, x] by a disc as structuring element."""
    reach = np.arange(-int(pixels), int(pixels) + 1)
    disc = reach[:, None] ** 2 + reach**2 <= pixels**2
    return np.array([binary_dilation(layer, disc) for layer in mask])
