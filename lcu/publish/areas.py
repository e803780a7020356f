"""The area of each class, year by year: pixels counted, and estimates where there are points."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcu.assess import NORMAL, area_estimates
from lcu.grid import Tile
from lcu.legend import Legend
from lcu.projection import in_metres
from lcu.publish import geotiff
from lcu.publish.mosaic import NAME

HEADER = (
    "region", "year", "value", "class", "pixels", "percent", "hectares",
    "estimated_hectares", "low_hectares", "high_hectares",
)  # fmt: skip

# Tile id, or the mosaic's; year; pixels of each class.
Count = tuple[str, int, tuple[int, ...]]


def count(path: Path, tile: Tile, year: int, legend: Legend) -> Count:
    """Count the pixels of each class in a published map."""
    pixels = np.zeros(256, np.int64)
    for _, values in geotiff.read_blocks(path, tile.grid, geotiff.BLOCK):
        pixels += np.bincount(values.ravel(), minlength=256)
    return tile.id, year, tuple(pixels[legend.values].tolist())


def table(
    counts: Iterable[Count],
    tiles: Mapping[str, Tile],
    accuracy: Mapping[int, dict[str, Any]],
    legend: Legend,
) -> str:
    """Return the areas as CSV: a row for each region, year and class.

    Parameters
    ----------
    tiles : mapping
        Every region of `counts` by its id.
    accuracy : mapping
        Year -> what the assessment says (`lcu.assess.read_results`).

    Notes
    -----
    Percents are of the pixels that have a class. Hectares are empty where the grid has no metres.
    Estimates are the stratified ones of `lcu.assess.area_estimates` with their intervals of 95 %;
    they are empty where the year was not compared with points, or where a class that is mapped has
    no point.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for region, year, pixels in sorted(counts):
        total, hectares = sum(pixels), _hectares(tiles[region], pixels)
        matrix = _matrix(accuracy.get(year), region)
        estimates = _estimates(matrix, hectares) or [("", "", "")] * len(pixels)
        for index, entry in enumerate(legend.classes):
            percent = f"{100 * pixels[index] / total:.4f}" if total else ""
            area = f"{hectares[index]:.2f}" if hectares else ""
            row = [region, year, entry.value, entry.name, pixels[index], percent, area]
            writer.writerow([*row, *estimates[index]])
    return buffer.getvalue()


def _hectares(tile: Tile, pixels: Sequence[int]) -> list[float]:
    if not in_metres(tile.grid):
        return []
    _, width, _, _, _, height = tile.grid.transform
    return [number * width * -height / 10_000 for number in pixels]


def _matrix(result: Mapping[str, Any] | None, region: str) -> list[list[int]] | None:
    """Return a region's error matrix of points, [map + 1, reference]; None where there is none."""
    result = result or {}
    if "points" in result:
        result = result["points"]
    if result.get("reference", {}).get("kind") != "points":
        return None
    part = result if region == NAME else result["tiles"].get(region)
    return part["error_matrix"] if part else None


def _estimates(
    matrix: list[list[int]] | None, hectares: Sequence[float]
) -> list[tuple[str, str, str]]:
    """Return area, lower and upper bound of each class as text; no class where they are not known."""
    if matrix is None or not sum(hectares):
        return []
    # The matrix' last row holds points without a class in the map, which has no area of its own.
    mapped = np.array([*hectares, 0.0])
    units = np.array(matrix)
    if (units.sum(axis=1)[mapped > 0] == 0).any():
        return []
    found = area_estimates(units, mapped)
    around = NORMAL * found["area_se"]
    low = np.maximum(found["area"] - around, 0)
    return [
        tuple("" if np.isnan(value) else f"{value:.2f}" for value in row)
        for row in zip(found["area"], low, found["area"] + around, strict=True)
    ]
