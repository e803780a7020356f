"""From probabilities to land cover and confidence: arithmetic on arrays.

Written probabilities are uint8 x 250. Land cover and confidence follow from what is written, so that
the class of a pixel is always that of its largest written probability.
"""

from __future__ import annotations

import numpy as np

from lcu.legend import NODATA, OUTSIDE
from lcu.reliability import SCALE


def land_cover(probability: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the class of the largest written probability; the first of the legend among equals.

    Parameters
    ----------
    probability : ndarray[class, y, x], uint8
        0..250; 255 = not observed in the year, 254 = never observed, in all classes alike.
    values : ndarray[class], uint8
        Class values of the legend.

    Returns
    -------
    ndarray[y, x], uint8
        Class value; 255 = nodata, 254 = outside.
    """
    first = probability[0]
    return np.where(first >= OUTSIDE, first, values[probability.argmax(axis=0)])


def confidence(probability: np.ndarray) -> np.ndarray:
    """Return 100 x (largest - second largest probability), uint8 [y, x]; 255 = nodata.

    Parameters
    ----------
    probability : ndarray[class, y, x], uint8
        As in `land_cover`.
    """
    if len(probability) == 1:
        top, second = probability[0], np.zeros_like(probability[0])
    else:
        second, top = np.partition(probability, -2, axis=0)[-2:]
    margin = top.astype(np.int32) - second
    percent = (2 * 100 * margin + SCALE) // (2 * SCALE)
    return np.where(probability[0] >= OUTSIDE, NODATA, percent).astype(np.uint8)


def confidence_of(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 100 x (probability of the chosen class - largest of the others), uint8 [y, x]; at least 0.

    Parameters
    ----------
    probability : ndarray[class, y, x], uint8
        0..250, or 254, 255 in all classes alike.
    labels : ndarray[y, x], uint8
        The chosen class indices; 255 = none.
    """
    chosen = labels[None] == np.arange(len(probability), dtype=np.uint8)[:, None, None]
    own = np.where(chosen, probability, 0).max(axis=0).astype(np.int32)
    others = np.where(chosen, 0, probability).max(axis=0)
    return ((2 * 100 * np.maximum(own - others, 0) + SCALE) // (2 * SCALE)).astype(np.uint8)
