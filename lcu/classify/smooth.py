"""Smoothing of probabilities in space. Arrays in memory: no files, no MPI."""

from __future__ import annotations

import numpy as np

# The bilateral filter of CLC+ Backbone 2023: pixels on either side, and the standard deviations of the weight in
# space (pixels) and between probabilities.
REACH = 2
SIGMA_SPACE = 0.8
SIGMA_PROBABILITY = 0.25


def bilateral(probability: np.ndarray) -> np.ndarray:
    """Smooth the probabilities of one year without blurring the borders between classes.

    Every pixel becomes the mean of its neighbourhood of 5 x 5 pixels, a neighbour weighing
    exp(-d^2 / (2 0.8^2) - |p - q|^2 / (2 0.25^2)) by its distance d and the difference of the probabilities
    (Tomasi and Manduchi 1998, with the parameters of the CLC+ Backbone of 2023, EEA).

    Parameters
    ----------
    probability : ndarray[class, y, x], float32
        0..1; NaN where the year is missing: such pixels count for nothing and stay so.

    Returns
    -------
    ndarray[class, y, x], float32
        A pixel depends on those within `REACH` pixels, and on nothing else.
    """
    missing = np.isnan(probability[0])
    own = np.nan_to_num(probability)
    height, width = missing.shape
    edges = ((REACH, REACH), (REACH, REACH))
    padded = np.pad(own, ((0, 0), *edges))
    there = np.pad((~missing).astype(np.float32), edges)
    total, weights = np.zeros_like(own), np.zeros((height, width), np.float32)
    for row in range(2 * REACH + 1):
        for col in range(2 * REACH + 1):
            part = (slice(row, row + height), slice(col, col + width))
            other = padded[(slice(None), *part)]
            squared = ((other - own) ** 2).sum(axis=0)
            distance = (row - REACH) ** 2 + (col - REACH) ** 2
            weight = there[part] * np.exp(
                np.float32(-distance / (2 * SIGMA_SPACE**2))
                - squared * np.float32(1 / (2 * SIGMA_PROBABILITY**2))
            )
            total += weight * other
            weights += weight
    total /= np.where(missing, 1, weights)
    total[:, missing] = np.nan
    return total
