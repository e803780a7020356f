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
from lcu.publish.preview import FAINT, INK, as_png, new_figure

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


def read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of ``areas.csv`` by region."""
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["region"], []).append(row)
    return found


def draw(rows: Sequence[Mapping[str, str]], legend: Legend) -> bytes:
    """Draw the area of each class by year, rows of one region; return a PNG file.

    Bars are what was counted; points with bars of 95 % are estimates, where there are such.
    """
    unit = unit_of(rows)
    present = [
        entry for entry in legend.classes
        if any(row["class"] == entry.name and int(row["pixels"]) for row in rows)
    ] or list(legend.classes)  # fmt: skip
    by_name = {entry.name: entry.colour for entry in present}
    if len({row["year"] for row in rows}) == 1:
        return _draw_year([row for row in rows if row["class"] in by_name], by_name, unit)
    high = -(-len(present) // 4)
    figure = new_figure(11, 2.1 * high + 0.2, layout="constrained")
    axes = figure.subplots(high, 4, squeeze=False).ravel()
    for axis, entry in zip(axes, present, strict=False):
        _draw_class(axis, [row for row in rows if row["class"] == entry.name], unit, entry.colour)
        axis.set_title(entry.name, loc="left", size=10, color=INK)
    for axis in axes[len(present) :]:
        axis.set_visible(False)
    return as_png(figure)


def _draw_year(rows: Sequence[Mapping[str, str]], colours: Mapping[str, str], unit: str) -> bytes:
    """Draw the classes of a single year below each other."""
    figure = new_figure(11, 0.32 * len(rows) + 0.8, layout="constrained")
    axis = figure.subplots()
    for row in rows:
        axis.barh(
            row["class"], float(row[unit] or 0), height=0.7, color=colours[row["class"]],
            edgecolor=FAINT, linewidth=0.6,
        )  # fmt: skip
        if row["estimated_hectares"]:
            middle, low, high = _interval(row)
            axis.errorbar(
                middle, row["class"], xerr=[[middle - low], [high - middle]], fmt="o", color=INK,
                markersize=4, capsize=4, linewidth=1.2,
            )  # fmt: skip
    axis.invert_yaxis()
    axis.set_xlabel(unit, size=9, color=FAINT)
    _plain(axis)
    axis.tick_params(axis="y", labelsize=9, colors=INK)
    return as_png(figure)


def _interval(row: Mapping[str, str]) -> tuple[float, float, float]:
    return tuple(float(row[key]) for key in ("estimated_hectares", "low_hectares", "high_hectares"))


def _plain(axis: Any) -> None:
    """Leave of an axis what is needed to read it."""
    axis.tick_params(labelsize=8, colors=FAINT, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#C8CED4")


def unit_of(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the column that holds the areas: pixels where the grid has no metres."""
    return "hectares" if any(row["hectares"] for row in rows) else "pixels"


def _draw_class(axis: Any, rows: Sequence[Mapping[str, str]], unit: str, colour: str) -> None:
    years = [row["year"] for row in rows]
    axis.bar(
        years, [float(row[unit] or 0) for row in rows], width=0.62, color=colour,
        edgecolor=FAINT, linewidth=0.6,
    )  # fmt: skip
    for row in rows:
        if row["estimated_hectares"]:
            middle, low, high = _interval(row)
            axis.errorbar(
                row["year"], middle, [[middle - low], [high - middle]], fmt="o", color=INK,
                markersize=4, capsize=4, linewidth=1.2,
            )  # fmt: skip
    axis.set_xlim(-0.8, len(rows) - 0.2)
    axis.ticklabel_format(axis="y", style="plain", useOffset=False)
    axis.locator_params(axis="y", nbins=4)
    _plain(axis)
