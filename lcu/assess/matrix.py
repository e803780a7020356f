"""Error matrices and the accuracies that follow from them. Arithmetic only.

A matrix has the map in rows and the reference in columns. It has one row more than columns: the
last row counts pixels that have a class in the reference and none in the map. They are mistakes of
the map, and leaving them out would flatter a map full of holes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lcu.legend import Legend
from lcu.reliability import SCALE, count_bins


def error_matrix(mapped: np.ndarray, reference: np.ndarray, legend: Legend) -> np.ndarray:
    """Count pixels by mapped and by reference class.

    Parameters
    ----------
    mapped, reference : ndarray of one shape, uint8
        Class values. Pixels whose reference is no class of the legend (255 nodata) do not count;
        those whose mapped value is none (255 nodata, 254 outside) count as "unmapped".

    Returns
    -------
    ndarray[map class + 1, reference class], int64
        Pixels, in the order of the legend; the last row is "unmapped".
    """
    mapped, reference = np.asarray(mapped), np.asarray(reference)
    if mapped.shape != reference.shape:
        raise ValueError(f"map {mapped.shape} and reference {reference.shape} differ in shape")
    classes = len(legend.classes)
    column = legend.index_of(reference)
    counted = column < classes
    row = np.minimum(legend.index_of(mapped[counted]), classes).astype(np.int64)
    cells = np.bincount(row * classes + column[counted], minlength=(classes + 1) * classes)
    return cells.reshape(classes + 1, classes).astype(np.int64)


def reliability_bins(
    probability: np.ndarray, mapped: np.ndarray, reference: np.ndarray, legend: Legend
) -> np.ndarray:
    """Count pixels by the probability of the class that the map shows.

    Parameters
    ----------
    probability : ndarray[class, ...], uint8
        Probability x 250, 0..250; above where there is none.
    mapped, reference : ndarray[...], uint8
        Class values; pixels without one in either do not count.

    Returns
    -------
    ndarray[bin, 3], int64
        See `lcu.reliability.count_bins`.
    """
    chosen, wanted = legend.index_of(mapped), legend.index_of(reference)
    classes = len(legend.classes)
    known = (chosen < classes) & (wanted < classes) & (probability[0] <= SCALE)
    own = probability[:, known][chosen[known], np.arange(np.count_nonzero(known))]
    return count_bins(own, (chosen == wanted)[known])


def of_one_class(matrix: np.ndarray, place: int) -> np.ndarray:
    """Return the error matrix of a map that shows the class at `place` everywhere.

    `matrix` [map class + 1, reference class] is that of any map of the same pixels.
    """
    constant = np.zeros_like(matrix)
    constant[place] = matrix.sum(axis=0)
    return constant


def accuracies(matrix: np.ndarray, legend: Legend) -> dict[str, Any]:
    """Return what an error matrix says about a map.

    Parameters
    ----------
    matrix : ndarray[map class + 1, reference class] or ndarray[map class, reference class], int64
        Pixels.

    Returns
    -------
    dict
        ``overall_accuracy``, ``macro_f1`` (mean over the classes that the reference holds),
        ``kappa`` (Cohen), ``n`` (pixels), ``n_unmapped`` and ``classes``: name -> ``users``,
        ``producers``, ``f1``, ``n`` (reference pixels), ``n_mapped``. All but counts lie in 0..1
        (kappa in -1..1); NaN where the quotient has no denominator.
    """
    matrix = np.asarray(matrix, dtype=np.int64)
    classes = len(legend.classes)
    correct = matrix[:classes].diagonal()
    mapped, present = matrix[:classes].sum(axis=1), matrix.sum(axis=0)
    f1 = _quotient(2 * correct, mapped + present)
    named = {
        name: {
            "users": users, "producers": producers, "f1": score, "n": n, "n_mapped": n_mapped,
        }
        for name, users, producers, score, n, n_mapped in zip(
            legend.names,
            _quotient(correct, mapped).tolist(),
            _quotient(correct, present).tolist(),
            f1.tolist(),
            present.tolist(),
            mapped.tolist(),
            strict=True,
        )
    }  # fmt: skip
    total = int(matrix.sum())
    return {
        "overall_accuracy": float(_quotient(correct.sum(), total)),
        "macro_f1": float(f1[present > 0].mean()) if total else float("nan"),
        "kappa": _kappa(int(correct.sum()), mapped, present, total),
        "n": total,
        "n_unmapped": total - int(mapped.sum()),
        "classes": named,
    }


def _kappa(correct: int, mapped: np.ndarray, present: np.ndarray, total: int) -> float:
    """Cohen's kappa; NaN where map and reference hold one and the same class only."""
    # Python's integers: the products of two counts of pixels outgrow 64 bits on a continent.
    chance = sum(int(a) * int(b) for a, b in zip(mapped, present, strict=True))
    if total == 0 or chance == total**2:
        return float("nan")
    return (correct * total - chance) / (total**2 - chance)


def _quotient(above: np.ndarray | int, below: np.ndarray | int) -> np.ndarray:
    """Divide counts; NaN where the denominator is 0."""
    below = np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
