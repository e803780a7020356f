"""The interannual rule of CLC+ Backbone: a change is taken where the probabilities differ far. Arrays only.

Between two years the distance sqrt(sum over classes (p_new - p_old)^2) of each change of class must exceed a
percentile of the distances of all changes from that class to that one (CLC+ Backbone 2023, EEA; the 90th by
default there). p_old are the probabilities of the year in which the class was taken.
"""

from __future__ import annotations

import numpy as np

# The distance lies between 0 and the square root of 2.
BINS = 1024
LARGEST = 2**0.5


def distance_bins(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the distance of two years' probabilities [class, y, x] as a bin, int64 [y, x]; 0..1023."""
    distance = np.sqrt(((one - other) ** 2).sum(axis=0, dtype=np.float32))
    return np.minimum(distance * np.float32(BINS / LARGEST), BINS - 1).astype(np.int64)


def count_distances(probability: np.ndarray) -> np.ndarray:
    """Count the distances of all changes between successive years, int64 [from, to, bin].

    Parameters
    ----------
    probability : ndarray[year, class, y, x], float32
        NaN where a year is missing.
    """
    classes = probability.shape[1]
    counts = np.zeros(classes * classes * BINS, np.int64)
    for before, after in zip(probability, probability[1:], strict=False):
        known = ~(np.isnan(before[0]) | np.isnan(after[0]))
        one, other = (np.nan_to_num(year)[:, known][:, None] for year in (before, after))
        start, end = one.argmax(axis=0), other.argmax(axis=0)
        changed = start != end
        cells = (start * classes + end) * BINS + distance_bins(one, other)
        counts += np.bincount(cells[changed], minlength=len(counts))
    return counts.reshape(classes, classes, BINS)


def thresholds(counts: np.ndarray, percentile: float) -> np.ndarray:
    """Return the bin that a change must exceed, int64 [from, to], from counts [from, to, bin].

    The first bin that holds the percentile; a change that was never seen needs more than 0.
    """
    cumulated = counts.cumsum(axis=2)
    return (cumulated * 100 < cumulated[..., -1:] * percentile).sum(axis=2)


def accepted_classes(probability: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the class of each year by the rule, uint8 [year, y, x]; 255 where no year is there.

    Parameters
    ----------
    probability : ndarray[year, class, y, x], float32
        NaN where a year is missing: it takes the class of the year before, or of the first that is there.
    limits : ndarray[from, to], int64
        As `thresholds` returns them.
    """
    own = np.nan_to_num(probability)
    known = ~np.isnan(probability[:, 0])
    first = known.argmax(axis=0)
    label = np.take_along_axis(own.argmax(axis=1), first[None], axis=0)[0]
    base = np.take_along_axis(own, first[None, None], axis=0)[0]
    out = np.empty((len(own), *label.shape), np.uint8)
    for year, (values, there) in enumerate(zip(own, known, strict=True)):
        best = values.argmax(axis=0)
        moved = there & (best != label) & (distance_bins(values, base) > limits[label, best])
        label = np.where(moved, best, label)
        base = np.where(moved, values, base)
        out[year] = label
    out[:, ~known.any(axis=0)] = 255
    return out
