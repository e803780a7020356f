"""Linear discriminants of whole-numbered series, exactly. Arrays in memory: no files, no MPI.

Fisher's: directions in which the classes' means differ most, in units of the scatter within classes (Rao 1948,
Journal of the Royal Statistical Society B 10). Sums and products are of whole numbers that doubles hold exactly, so
nothing depends on the order in which they are taken.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

# Rows that are looked at together: integers below 2^16 times those below 2^16 stay exact in doubles
# while 2^20 of them are added.
CHUNK = 2**18

# Scatter within classes, in units of the mean square, below which all series are the same but for rounding.
SAME = 1e-12

# Of a weight: sums of its products with uint16 are exact in doubles for up to 2^20 features.
BITS = 16

# Ridge of the scatter within classes, in units of its mean eigenvalue.
RIDGE = 1e-3


def add_up(
    series: np.ndarray, index: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts [class], sums [class, feature] and products [feature, feature], int64.

    Parameters
    ----------
    series : ndarray[row, feature], whole numbers below 2^16 in size
    index : ndarray[row]
        Class index, below `classes`.
    """
    features = series.shape[1]
    counts = np.bincount(index, minlength=classes).astype(np.int64)
    sums, products = (
        np.zeros((classes, features), np.int64),
        np.zeros((features, features), np.int64),
    )
    for first in range(0, len(series), CHUNK):
        rows = series[first : first + CHUNK].astype(np.float64)
        member = index[first : first + CHUNK] == np.arange(classes)[:, None]
        products += (rows.T @ rows).astype(np.int64)
        sums += (member.astype(np.float64) @ rows).astype(np.int64)
    return counts, sums, products


def directions(
    counts: np.ndarray, sums: np.ndarray, products: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights, whole numbers as float64 [feature, direction], and what makes discriminants of them.

    That is float64 [2, direction]: the projected mean, and the unit of the weights. Weights are whole numbers of
    `BITS` bits: finer than their use, and coarser than the rounding by which eigenvectors differ between the
    kernels that a linear algebra library has for different processors. No direction where fewer than two
    classes have candidates, or all series are the same.
    """
    features, total, present = sums.shape[1], counts.sum(), counts > 0
    none = np.zeros((features, 0)), np.zeros((2, 0))
    if present.sum() < 2:
        return none
    share = counts[present] / total
    means, mean = sums[present] / counts[present, None], sums.sum(axis=0) / total
    within = products / total - (means.T * share) @ means
    between = ((means - mean).T * share) @ (means - mean)
    unit = np.trace(within) / features
    if not unit > SAME * np.trace(products) / total / features:
        return none
    _, vectors = linalg.eigh(between, within + RIDGE * unit * np.eye(features))
    vectors = vectors[:, ::-1][:, : min(len(means) - 1, features)]
    scale = 2.0 ** (BITS - 1 - np.floor(np.log2(np.abs(vectors).max(axis=0))))
    weights = np.rint(vectors * scale)
    return weights, np.stack([np.rint(mean) @ weights / scale, 1 / scale])


def project(series: np.ndarray, weights: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the discriminants, float32 [candidate, direction]; sums are of whole numbers, exactly."""
    values = np.empty((len(series), weights.shape[1]), np.float32)
    for first in range(0, len(series) if weights.size else 0, CHUNK):
        whole = series[first : first + CHUNK].astype(np.float64) @ weights
        values[first : first + CHUNK] = whole * frame[1] - frame[0]
    return values
