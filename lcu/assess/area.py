"""Accuracies and areas from a stratified sample, with standard errors. Arithmetic only."""

from __future__ import annotations

from typing import Any

import numpy as np

# Standard errors on either side of an estimate that make an interval of 95 %.
NORMAL = 1.96


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
    Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: equations 1 to 11, which are
    those of `stratified_estimates` where every stratum is a class of the map.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix [map, reference], found shape {matrix.shape}")
    rows = np.arange(len(matrix))
    units = np.zeros((len(matrix), *matrix.shape))
    units[rows, rows] = matrix
    return stratified_estimates(units, mapped_area)


def stratified_estimates(units: np.ndarray, area: np.ndarray) -> dict[str, Any]:
    """Estimate accuracies and areas from a stratified sample whose strata need not be the map's classes.

    Such are points that were drawn by the classes of an earlier map of the same ground.

    Parameters
    ----------
    units : ndarray[stratum, map, reference]
        Sampled units; rows of the map beyond the number of references carry no class.
    area : ndarray[stratum]
        Area of each stratum, in any unit.

    Returns
    -------
    dict
        As `area_estimates`.

    Raises
    ------
    ValueError
        Where a stratum that has an area holds no sample.

    Notes
    -----
    Stehman 2014, International Journal of Remote Sensing 35, 4923-4939: every figure is a mean of an
    indicator over the strata, or a ratio of two such means.
    """
    units, area = np.asarray(units, dtype=np.float64), np.asarray(area, dtype=np.float64)
    _check(units, area)
    classes = units.shape[2]
    weight = area / area.sum()
    drawn = units.sum(axis=(1, 2))
    share = np.divide(
        units, drawn[:, None, None], out=np.zeros_like(units), where=drawn[:, None, None] > 0
    )
    correct = share[:, :classes].diagonal(axis1=1, axis2=2)  # [stratum, class]
    present, mapped = share.sum(axis=1), share[:, :classes].sum(axis=2)
    right = correct.sum(axis=1)
    users, users_se = _ratio(weight, drawn, correct, mapped, unseen_is_none=True)
    producers, producers_se = _ratio(weight, drawn, correct, present)
    return {
        "overall_accuracy": float(weight @ right),
        "overall_accuracy_se": float(_error(weight, drawn, right - right**2)),
        "users": users,
        "users_se": users_se,
        "producers": producers,
        "producers_se": producers_se,
        "area": area.sum() * (weight @ present),
        "area_se": area.sum() * _error(weight, drawn, present - present**2),
        "proportion": np.tensordot(weight, share, 1),
    }


def _check(units: np.ndarray, area: np.ndarray) -> None:
    if units.ndim != 3 or units.shape[1] < units.shape[2] or area.shape != units.shape[:1]:
        raise ValueError(
            f"expected a matrix [map, reference] and an area for each stratum, found {units.shape} "
            f"and {area.shape}"
        )
    if (units < 0).any() or (area < 0).any() or not area.sum() > 0:
        raise ValueError("counts and areas must not be negative, and some area must be mapped")
    blind = np.flatnonzero((area > 0) & (units.sum(axis=(1, 2)) == 0))
    if blind.size:
        raise ValueError(f"no sample in strata {blind.tolist()}, which have an area: merge them")


def _error(weight: np.ndarray, drawn: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the standard error of a stratified mean.

    `spread` [stratum(, class)] is the mean square of the indicator less the square of its mean. A
    stratum without area adds nothing, even where its own variance is not known.
    """
    columns = np.maximum(spread, 0).reshape(len(drawn), -1)  # rounding may leave less than nothing
    variance = np.full(columns.shape, np.nan)
    np.divide(columns, drawn[:, None] - 1, out=variance, where=drawn[:, None] > 1)
    weighted = np.where(weight[:, None] > 0, weight[:, None] ** 2 * variance, 0.0)
    return np.sqrt(weighted.sum(axis=0)).reshape(spread.shape[1:])


def _ratio(
    weight: np.ndarray,
    drawn: np.ndarray,
    above: np.ndarray,
    below: np.ndarray,
    *,
    unseen_is_none: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ratios of stratified means and their standard errors, both [class].

    `above` and `below` [stratum, class] are shares of indicators, the first of which implies the
    second. With `unseen_is_none` a stratum in which `below` was never seen holds none of it, as no
    stratum of the map holds another class of the map.
    """
    total = weight @ below
    ratio = np.divide(weight @ above, total, out=np.full(total.shape, np.nan), where=total > 0)
    # Of the residual above - ratio x below: its mean square, and its mean.
    spread = above * (1 - 2 * ratio) + ratio**2 * below - (above - ratio * below) ** 2
    counted = np.where((below > 0) | (not unseen_is_none), weight[:, None], 0.0)
    error = np.array(
        [_error(counted[:, one], drawn, spread[:, one]) for one in range(below.shape[1])]
    )
    return ratio, np.divide(error, total, out=np.full(total.shape, np.nan), where=total > 0)
