"""Slow and obvious NumPy twins of the kernels."""

from __future__ import annotations

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
