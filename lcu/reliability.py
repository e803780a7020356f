"""How a probability is written, and what it is worth: how often its class is right. Arithmetic only."""

from __future__ import annotations

from typing import Any

import numpy as np

# Probabilities as they are written: x 250.
SCALE = 250
BINS = 10


def quantise(probability: np.ndarray) -> np.ndarray:
    """Return probabilities, float32 0..1, any shape, as they are written: uint8 0..250."""
    return np.floor(probability * np.float32(SCALE) + np.float32(0.5)).astype(np.uint8)


def count_bins(probability: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Count answers by their probability.

    Parameters
    ----------
    probability : ndarray[answer], integer
        Probability x 250 of the class that was answered, 0..250.
    right : ndarray[answer], bool
        Whether the answer is right.

    Returns
    -------
    ndarray[bin, 3], int64
        Answers, the sum of their probabilities x 250, and right answers, in ten bins of equal width.
    """
    own = probability.astype(np.int64)
    place = np.minimum(own * BINS // SCALE, BINS - 1)
    # Sums of whole numbers far below 2^53, which float64 holds exactly.
    parts = [np.bincount(place, weights, BINS) for weights in (np.ones_like(own), own, right)]
    return np.stack(parts, axis=1).astype(np.int64)


def describe(bins: np.ndarray) -> dict[str, Any]:
    """Return the reliability curve and the expected calibration error.

    Parameters
    ----------
    bins : ndarray[bin, 3], int64
        As `count_bins` returns them.

    Returns
    -------
    dict
        ``bins``: list of ``from``, ``to`` (0..1), ``n``, ``confidence`` (mean probability) and
        ``accuracy``, NaN in an empty bin; ``expected_calibration_error``: mean difference of the two,
        weighted by n (Guo et al. 2017, ICML).
    """
    n, sums, right = bins.T.astype(np.float64)
    confidence, accuracy = (
        np.divide(part, n, out=np.full(len(n), np.nan), where=n > 0)
        for part in (sums / SCALE, right)
    )
    gap = np.where(n > 0, np.abs(accuracy - confidence), 0.0) * n
    return {
        "bins": [
            {
                "from": place / len(bins), "to": (place + 1) / len(bins), "n": int(n[place]),
                "confidence": float(confidence[place]), "accuracy": float(accuracy[place]),
            }
            for place in range(len(bins))
        ],
        "expected_calibration_error": float(gap.sum() / n.sum()) if n.sum() else float("nan"),
    }  # fmt: skip
