"""Slow and obvious NumPy twins of the kernels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def median(reflectance: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median of the clear and whole observations, floor(median + 0.5); 0 of none."""
    usable = clear.astype(bool) & (reflectance > 0).all(axis=1)
    values = np.where(usable[:, None], reflectance.astype(float), np.nan)
    out = np.zeros(reflectance.shape[1:], np.uint16)
    for band, y, x in np.ndindex(*out.shape):
        series = values[:, band, y, x]
        series = series[~np.isnan(series)]
        out[band, y, x] = np.floor(np.median(series) + 0.5) if len(series) else 0
    return out, np.minimum(usable.sum(axis=0), 255).astype(np.uint8)


def fill_gaps(reflectance: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """np.interp over the days, rounded half up."""
    filled = np.zeros_like(reflectance)
    for band, y, x in np.ndindex(*reflectance.shape[1:]):
        series = reflectance[:, band, y, x]
        known = series > 0
        if known.any():
            exact = np.interp(days, days[known], series[known].astype(float))
            filled[:, band, y, x] = np.floor(exact + 0.5 + 1e-9)
    return filled, (reflectance == 0).astype(np.uint8)


def buffer_mask(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Every pixel within `pixels` of a set one, by comparing all pairs."""
    grown = np.zeros(mask.shape, bool)
    rows, cols = np.nonzero(mask)
    for y, x in np.ndindex(*mask.shape):
        grown[y, x] = ((rows - y) ** 2 + (cols - x) ** 2 <= pixels**2 + 1e-9).any()
    return grown


def usable(reflectance: np.ndarray, clear: np.ndarray, y: int, x: int) -> np.ndarray:
    """The observations of one pixel that count, uint16 [time, band]."""
    series = reflectance[:, :, y, x]
    return series[clear[:, y, x].astype(bool) & (series > 0).all(axis=1)]


def geometric_median(points: np.ndarray) -> np.ndarray:
    """Weiszfeld with the Vardi-Zhang step in double precision, [band], of points [time, band]."""
    points = points.astype(float) / 1e4
    y = points.mean(axis=0)
    for _ in range(100000 if len(points) > 2 else 0):
        distance = np.linalg.norm(points - y, axis=1)
        far = distance > 1e-12
        if not far.any():
            break
        weight = 1 / distance[far]
        pull = (points[far] * weight[:, None]).sum(axis=0) / weight.sum() - y
        length = np.linalg.norm(pull) * weight.sum()
        held = (~far).sum() / length if length > 0 else 0
        step = max(0, 1 - held) * pull
        y = y + step
        if np.linalg.norm(step) < 1e-12:
            break
    return y * 1e4


def weiszfeld(points: np.ndarray, used: np.ndarray, tolerance: float, limit: int) -> np.ndarray:
    """Plain iteration from the mean until a step is shorter than `tolerance`, in double precision.

    For points [time, band, pixel] of which those `used` [time, pixel] count, at least one for each
    pixel and none of them where the iteration passes; at most `limit` steps. Returns [band, pixel],
    in reflectance x 10000.
    """
    points = points.astype(float) / 1e4
    y = (points * used[:, None]).sum(axis=0) / used.sum(axis=0)
    moving = used.sum(axis=0) > 2
    for _ in range(limit):
        difference = points[..., moving] - y[:, moving]
        weight = used[:, moving] / np.linalg.norm(difference, axis=1)
        step = (difference * weight[:, None]).sum(axis=0) / weight.sum(axis=0)
        y[:, moving] += step
        moving[moving] = np.linalg.norm(step, axis=0) >= tolerance
    return y * 1e4


def max_ndvi(points: np.ndarray, red: int, nir: int) -> np.ndarray:
    """First of the observations [time, band] with the largest NDVI, compared as exact fractions."""
    ndvi = [Fraction(int(p[nir]) - int(p[red]), int(p[nir]) + int(p[red])) for p in points]
    return points[ndvi.index(max(ndvi))]


def distance_sum(points: np.ndarray, y: np.ndarray) -> float:
    """Sum of the distances from a point to all observations, in reflectance."""
    return np.linalg.norm(points.astype(float) - y, axis=1).sum() / 1e4
