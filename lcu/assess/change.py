"""Maps of two years beside each other: what agrees, what changed, and whether it really did.

Arithmetic only. A table of transitions has the earlier map in rows and the later one in columns, in
the order of the legend; its last row and column are pixels without a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lcu.legend import Legend


def transitions(before: np.ndarray, after: np.ndarray, legend: Legend) -> np.ndarray:
    """Count pixels by their class in two maps.

    Parameters
    ----------
    before, after : ndarray of one shape, uint8
        Class values; any other value is no class.

    Returns
    -------
    ndarray[from + 1, to + 1], int64
    """
    size = len(legend.classes) + 1
    rows, columns = (
        np.minimum(legend.index_of(values), size - 1).astype(np.int64) for values in (before, after)
    )
    cells = np.bincount((rows * size + columns).ravel(), minlength=size * size)
    return cells.reshape(size, size).astype(np.int64)


def count_changes(
    before: np.ndarray, after: np.ndarray, truth: Sequence[np.ndarray], legend: Legend
) -> np.ndarray:
    """Compare the changes between two maps with those between two references.

    Parameters
    ----------
    before, after : ndarray[...], uint8
        Class values of the maps. A pixel without a class in one of them shows no change.
    truth : two ndarray[...], uint8
        Class values of the references; pixels without one in either do not count.

    Returns
    -------
    ndarray[5], int64
        Pixels; those that changed in the reference; in the maps; in both; in both, from and to the
        same classes.
    """
    values, earlier, later = legend.values, truth[0], truth[1]
    known = np.isin(earlier, values) & np.isin(later, values)
    mapped = known & np.isin(before, values) & np.isin(after, values) & (before != after)
    true = known & (earlier != later)
    both = mapped & true
    same = both & (before == earlier) & (after == later)
    return np.array([np.count_nonzero(part) for part in (known, true, mapped, both, same)])


def describe_pair(matrix: np.ndarray) -> dict[str, Any]:
    """Return agreement and change of two maps from their transitions [from + 1, to + 1].

    Both are shares of the pixels that have a class in both maps; NaN where there is none.
    """
    known = matrix[:-1, :-1]
    pixels, same = int(known.sum()), int(known.diagonal().sum())
    return {
        "pixels": pixels,
        "agreement": same / pixels if pixels else float("nan"),
        "changed": (pixels - same) / pixels if pixels else float("nan"),
        "transitions": matrix.tolist(),
    }


def describe_changes(counts: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and F1 of the changes, from `count_changes`; NaN without a denominator."""
    pixels, true, mapped, both, same = counts.tolist()

    def share(above: int, below: int) -> float:
        return above / below if below else float("nan")

    return {
        "pixels": pixels,
        "changed_in_reference": true,
        "changed_in_maps": mapped,
        "precision": share(both, mapped),
        "recall": share(both, true),
        "f1": share(2 * both, mapped + true),
        "from_to_right": share(same, true),
    }


def describe_classes(
    matrix: np.ndarray, area: np.ndarray | None, legend: Legend
) -> dict[str, dict[str, Any]]:
    """Return what became of each class: name -> before, kept, lost, gained, after.

    Parameters
    ----------
    matrix : ndarray[from + 1, to + 1], int64
        Pixels; those without a class in one of the maps do not count.
    area : ndarray[from + 1, to + 1] or None
        The same in hectares.
    """
    found = {}
    for index, name in enumerate(legend.names):
        found[name] = {"pixels": _fate(matrix, index)}
        if area is not None:
            found[name]["hectares"] = _fate(area, index)
    return found


def _fate(matrix: np.ndarray, index: int) -> dict[str, Any]:
    known = matrix[:-1, :-1]
    before, after, kept = known[index].sum(), known[:, index].sum(), known[index, index]
    figures = {"before": before, "kept": kept, "lost": before - kept,
               "gained": after - kept, "after": after}  # fmt: skip
    return {name: value.item() for name, value in figures.items()}
