"""Estimates from points, as the result files say them. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lcu.assess.area import NORMAL, stratified_estimates
from lcu.legend import Legend


def describe(
    units: np.ndarray,
    area: np.ndarray,
    strata: Sequence[str],
    legend: Legend,
    unit: str,
    sample: str,
) -> dict[str, Any] | None:
    """Return accuracies and areas with standard errors and intervals of 95 %.

    Parameters
    ----------
    units : ndarray[stratum, map + 1, reference], int64
        Points; the map's last row counts those that have no class there.
    area : ndarray[stratum], float64
        Area of each stratum, in `unit`.
    strata : sequence of str
        Names of the strata.
    sample : str
        How the points were drawn, for the reader.

    Returns
    -------
    dict or None
        None where no stratum with an area holds a point. Strata without points say nothing about
        themselves: they are left out and named, with the share of the area that the estimates hold for.
    """
    seen = units.sum(axis=(1, 2)) > 0
    held = np.where(seen, area, 0.0)
    if not held.sum() > 0:
        return None
    found = stratified_estimates(units, held)
    entries = {
        name: {
            "users": _interval(found, "users", index),
            "producers": _interval(found, "producers", index),
            unit: _interval(found, "area", index, top=np.inf),
        }
        for index, name in enumerate(legend.names)
        if found["proportion"][index].sum() + found["proportion"][:, index].sum() > 0
    }
    return {
        "sample": sample,
        "points": int(units[held > 0].sum()),
        "holds_for": float(held.sum() / area.sum()),
        "left_out": [
            name
            for name, size, there in zip(strata, area, seen, strict=True)
            if size > 0 and not there
        ],
        "overall_accuracy": _interval(found, "overall_accuracy"),
        "classes": entries,
        "proportion": found["proportion"].tolist(),
    }


def _interval(
    found: dict[str, Any], key: str, index: int | None = None, top: float = 1.0
) -> dict[str, float]:
    """Return an estimate with its standard error and interval, which ends at 0 and `top`."""
    value, error = found[key], found[f"{key}_se"]
    if index is not None:
        value, error = value[index], error[index]
    low, high = np.clip([value - NORMAL * error, value + NORMAL * error], 0, top)
    return {"value": float(value), "se": float(error), "low": float(low), "high": float(high)}
