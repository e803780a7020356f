"""Accuracies and areas from a stratified sample, with standard errors. Arithmetic only."""

from __future__ import annotations

from typing import Any

import numpy as np


def area_estimates(matrix: np.ndarray, mapped_area: np.ndarray) -> dict[str, Any]:
    """Estimate accuracies and areas from a sample that is stratified by the map.

    Parameters
    ----------
    matrix : ndarray[map, reference]
        Sampled units. Rows beyond the number of columns are strata that carry no class.
    mapped_area : ndarray[map]
        Area of each stratum in the map, in any unit.

    Returns
    -------
    dict
        ``overall_accuracy`` float; ``users``, ``producers`` and ``area`` float64 [reference]
        (area in the unit of `mapped_area`); ``proportion`` float64 [map, reference], the estimated
        share of the whole area; and the standard error of each of the first four under the same
        name with ``_se``. A confidence interval of 95 % is 1.96 standard errors either way. NaN
        where the sample says nothing: a class that is not mapped has no user's accuracy, and a
        stratum with a single unit has no variance.

    Raises
    ------
    ValueError
        Where a stratum that has an area holds no sample: its share of every class is unknown.

    Notes
    -----
    Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: equations 1 to 11.
    """
    units = np.asarray(matrix, dtype=np.float64)
    area = np.asarray(mapped_area, dtype=np.float64)
    _check(units, area)
    classes = units.shape[1]
    weight = area / area.sum()
    share, variance = _within_strata(units)
    proportion = weight[:, None] * share
    total = proportion.sum(axis=0)
    correct = proportion[:classes].diagonal()
    producers = np.divide(correct, total, out=np.full(classes, np.nan), where=total > 0)
    # A stratum without area adds nothing, even where its own variance is not known.
    weighted = np.where(weight[:, None] > 0, weight[:, None] ** 2 * variance, 0.0)
    seen = units[:classes].sum(axis=1) > 0
    return {
        "overall_accuracy": float(correct.sum()),
        "overall_accuracy_se": float(np.sqrt(weighted[:classes].diagonal().sum())),
        "users": np.where(seen, share[:classes].diagonal(), np.nan),
        "users_se": np.where(seen, np.sqrt(variance[:classes].diagonal()), np.nan),
        "producers": producers,
        "producers_se": _producers_error(weighted, producers, total),
        "area": area.sum() * total,
        "area_se": area.sum() * np.sqrt(weighted.sum(axis=0)),
        "proportion": proportion,
    }


def _check(units: np.ndarray, area: np.ndarray) -> None:
    if units.ndim != 2 or units.shape[0] < units.shape[1] or area.shape != units.shape[:1]:
        raise ValueError(
            f"expected a matrix [map, reference] and an area for each row, found {units.shape} "
            f"and {area.shape}"
        )
    if (units < 0).any() or (area < 0).any() or not area.sum() > 0:
        raise ValueError("counts and areas must not be negative, and some area must be mapped")
    blind = np.flatnonzero((area > 0) & (units.sum(axis=1) == 0))
    if blind.size:
        raise ValueError(f"no sample in strata {blind.tolist()}, which have an area: merge them")


def _within_strata(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each class in each stratum and its variance, both [map, reference]."""
    drawn = units.sum(axis=1, keepdims=True)
    share = np.divide(units, drawn, out=np.zeros_like(units), where=drawn > 0)
    variance = np.full_like(units, np.nan)
    np.divide(share * (1 - share), drawn - 1, out=variance, where=drawn > 1)
    return share, np.where(drawn > 0, variance, 0.0)


def _producers_error(weighted: np.ndarray, producers: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the standard error of producer's accuracy [reference]; equation 7."""
    classes = len(producers)
    own = weighted[:classes].diagonal()
    others = weighted.sum(axis=0) - own
    above = (1 - producers) ** 2 * own + producers**2 * others
    return np.divide(np.sqrt(above), total, out=np.full(classes, np.nan), where=total > 0)
