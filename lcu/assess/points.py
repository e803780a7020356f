"""Reference points: rows of a LUCAS survey file, or of any table with a place and a class.

Columns are found by name, in any case. A table with ``LC1`` is read as LUCAS: the raw files, where
answers are numbers, and the harmonised one, where they are words. Any other has ``class`` (a code
of the nomenclature, or the name of a class) and ``lon, lat`` or ``x, y`` (in the CRS of the tiles).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from osgeo import osr

from lcu.assess.reference import BLOCK, excluded, unreadable_mask, years_compared
from lcu.config import Config
from lcu.grid import Block, Grid, Tile
from lcu.legend import Legend

osr.UseExceptions()

IN_SITU = {"1", "in situ < 100 m"}
ON_THE_POINT = {"1", "on the point"}
IRRIGATED = {"1", "4", "irrigation", "irrigation and drainage"}
WEST = {"2", "w", "west"}
# LUCAS writes 88.888888 for a coordinate that was not taken; with an East/West column of 8 it
# would otherwise be a place in the Barents Sea.
SENTINEL = 88.888888
# Columns of a place, in the order they are tried. The theoretical place of a LUCAS point comes
# first: that is what the surveyor describes; the GPS stands where the surveyor stood.
THEORETICAL = (("th_long", "th_lat"), ("th_lon", "th_lat"), ("lon", "lat"))
MEASURED = ("gps_long", "gps_lat")
DEGREES = (*THEORETICAL, MEASURED)


@dataclass(frozen=True)
class Points:
    """Usable points and what became of the others.

    Attributes
    ----------
    x, y : ndarray[point], float64
        Degrees where `geographic`, else the unit of the tiles' CRS.
    value : ndarray[point], uint8
        Class value.
    year : ndarray[point], int32
        Year of the observation; 0 where the table states none.
    read : int
        Rows of the table.
    removed : dict
        Reason -> rows.
    """

    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    year: np.ndarray
    geographic: bool
    read: int
    removed: dict[str, int]


def load(path: str, legend: Legend, nomenclature: str) -> Points:
    """Read a CSV file of points, separated by commas or semicolons."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
        file.seek(0)
        separator = ";" if header.count(";") > header.count(",") else ","
        try:
            return parse(csv.DictReader(file, delimiter=separator), legend, nomenclature)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from error


def parse(rows: Iterable[Mapping[str, str]], legend: Legend, nomenclature: str) -> Points:
    """Turn rows into points; rows that cannot be used are counted by reason."""
    table = legend.crosswalk(nomenclature)
    names = {entry.name.lower(): entry.value for entry in legend.classes}
    kept, removed, read, geographic = [], Counter(), 0, True
    for raw in rows:
        row = _plain(raw)
        if read == 0:
            geographic = _has_degrees(row)
        read += 1
        value = _lucas_value(row, table) if "lc1" in row else _class_value(row, table, names)
        place = _place(row)
        on_earth = place and not (geographic and (abs(place[0]) > 180 or abs(place[1]) > 90))
        reason = _unusable(row) or (None if on_earth else "no position")
        reason = reason or (None if value is not None else "class not in the legend")
        if reason:
            removed[reason] += 1
        else:
            kept.append((*place, value, _year(row)))
    x, y, values, years = np.array(kept, dtype=np.float64).reshape(-1, 4).T
    removed = dict(sorted(removed.items()))
    return Points(x, y, values.astype(np.uint8), years.astype(np.int32), geographic, read, removed)


def _plain(row: Mapping[str, str]) -> dict[str, str]:
    return {
        key.strip().lower(): (value or "").strip()
        for key, value in row.items()
        if isinstance(key, str) and not isinstance(value, list)
    }


def _has_degrees(row: Mapping[str, str]) -> bool:
    """Tell whether the columns hold degrees; ValueError where they hold no place or no class."""
    degrees = any(x in row and y in row for x, y in DEGREES)
    if not degrees and not {"x", "y"} <= set(row):
        raise ValueError(f"expected columns lon, lat or x, y, found {', '.join(row)}")
    if not {"lc1", "class"} & set(row):
        raise ValueError(f"expected a column LC1 or class, found {', '.join(row)}")
    return degrees


def _unusable(row: Mapping[str, str]) -> str | None:
    """Return why a LUCAS row does not describe its point; None where it does."""
    if "obs_type" in row and _answer(row["obs_type"]) not in IN_SITU:
        return "not observed in situ from within 100 m"
    if "obs_direct" in row and _answer(row["obs_direct"]) not in ON_THE_POINT:
        return "not observed on the point"
    return None


def _answer(text: str) -> str:
    return text.lower().removesuffix(".0")


def _lucas_value(row: Mapping[str, str], table: Mapping[str, int]) -> int | None:
    """Return the class of a LUCAS row: by cover and use, by irrigated cover, then by cover."""
    cover = row["lc1"].upper()
    candidates = [f"{cover}/{row.get('lu1', '').upper()}"]
    if _answer(row.get("wm", "")) in IRRIGATED:
        candidates.append(f"{cover}+irrigated")
    candidates.append(cover)
    return next((table[code] for code in candidates if code in table), None)


def _class_value(
    row: Mapping[str, str], table: Mapping[str, int], names: Mapping[str, int]
) -> int | None:
    code = row.get("class", "")
    return table.get(code, names.get(code.lower()))


def _place(row: Mapping[str, str]) -> tuple[float, float] | None:
    """Return (longitude, latitude) or (x, y); None where the row states no place."""
    for x_name, y_name in (*THEORETICAL, ("x", "y")):
        place = _numbers(row.get(x_name, ""), row.get(y_name, ""))
        if place:
            return place
    place = _numbers(*(row.get(name, "") for name in MEASURED))
    east_or_west = _answer(row.get("gps_ew", "1"))
    if place is None or east_or_west in ("8", ""):
        return None
    return (-abs(place[0]) if east_or_west in WEST else place[0]), place[1]


def _numbers(x_text: str, y_text: str) -> tuple[float, float] | None:
    try:
        x, y = float(x_text), float(y_text)
    except ValueError:
        return None
    taken = abs(x - SENTINEL) > 1e-6 and abs(y - SENTINEL) > 1e-6
    return (x, y) if taken and np.isfinite(x) and np.isfinite(y) else None


def _year(row: Mapping[str, str]) -> int:
    """Return the year that a row states in YEAR or SURVEY_DATE (day/month/year); 0 for none."""
    text = row.get("year") or row.get("survey_date", "").split("/")[-1]
    if not text.isdecimal() or len(text) > 4:
        return 0
    return int(text) + 2000 if len(text) == 2 else int(text)


def pixels(points: Points, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which points lie on a grid and on which pixels: indices, rows, columns, int64."""
    chosen = np.arange(len(points.x))
    x, y = points.x, points.y
    if points.geographic and len(chosen):
        chosen, x, y = _projected(points, grid)
    x_origin, x_step, _, y_origin, _, y_step = grid.transform
    row = np.floor((y - y_origin) / y_step)
    col = np.floor((x - x_origin) / x_step)
    inside = (row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width)
    return chosen[inside], row[inside].astype(np.int64), col[inside].astype(np.int64)


def _projected(points: Points, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points around a grid: their indices and their x and y in its CRS.

    The others are left out first: one point that a projection does not reach is an error for all.
    """
    degrees, target = osr.SpatialReference(), osr.SpatialReference()
    degrees.ImportFromEPSG(4326)
    target.SetFromUserInput(grid.crs)
    for system in (degrees, target):
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    x_min, y_min, x_max, y_max = grid.bounds
    places = [((x_min + x_max) / 2, (y_min + y_max) / 2)]
    places += [(x, y) for x in (x_min, x_max) for y in (y_min, y_max)]
    back = osr.CoordinateTransformation(target, degrees).TransformPoints(places)
    centre, *corners = _directions(*np.array(back).T[:2])
    reach = min(np.array(corners) @ centre)
    # Twice as far as the farthest corner, for edges are bent (1 - cos grows with the square), and
    # 10 m more, which is what rounding costs.
    near = _directions(points.x, points.y) @ centre >= 1 - 4 * (1 - reach) - 1e-12
    chosen = np.flatnonzero(near)
    forth = osr.CoordinateTransformation(degrees, target)
    placed = forth.TransformPoints(np.column_stack([points.x[chosen], points.y[chosen]]))
    x, y, _ = np.array(placed, dtype=np.float64).reshape(-1, 3).T
    return chosen, x, y


def _directions(longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return unit vectors [point, 3] from degrees."""
    east, north = np.radians(longitude), np.radians(latitude)
    return np.stack(
        [np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1
    )


class PointReference:
    """The reference points of a configuration; the same face as `RasterReference`."""

    kind = "points"

    def __init__(self, config: Config, points: Points):
        self.name = config.assess.points
        self.nomenclature = config.assess.points_nomenclature
        self.exclude = config.assess.exclude
        self.fixed_year = config.assess.points_year
        self.years = years_compared(config.archive.years, self.fixed_year)
        self.points = points
        self._pixels: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def units(self, tiles: dict[str, Tile]) -> list[tuple[Tile, Block]]:
        """Return the blocks that hold points."""
        self._pixels = {tile.id: pixels(self.points, tile.grid) for tile in tiles.values()}
        return [
            (tile, block)
            for tile in tiles.values()
            for block in tile.grid.blocks(BLOCK)
            if self._within(tile, block).any()
        ]

    def missing(self, tile: Tile, year: int) -> str | None:
        """Return why a tile and year cannot be compared, or None."""
        return unreadable_mask(self.exclude, tile, year)

    def values(self, tile: Tile, year: int, block: Block) -> tuple[Any, np.ndarray, int]:
        """Return the points of a block: index (rows, columns), class values uint8, their number."""
        chosen, row, col = self._pixels[tile.id]
        stated = self.points.year[chosen]
        of_year = (self.fixed_year is not None) | (stated == 0) | (stated == year)
        here = self._within(tile, block) & of_year
        index = (row[here] - block.row, col[here] - block.col)
        values = self.points.value[chosen[here]]
        if self.exclude:
            values = np.where(excluded(self.exclude, tile, year, block)[index], 255, values)
        return index, values.astype(np.uint8), int(here.sum())

    def about(self) -> dict[str, Any]:
        """Return what the result files say about the points."""
        return {
            "kind": self.kind,
            "file": self.name,
            "nomenclature": self.nomenclature,
            "rows": self.points.read,
            "usable": len(self.points.x),
            "removed": self.points.removed,
        }

    def nothing(self, tile: Tile, year: int, seen: int) -> str | None:
        """Say why no point of a tile could be compared; None, for a tile may lie between points."""
        return None

    def _within(self, tile: Tile, block: Block) -> np.ndarray:
        _, row, col = self._pixels[tile.id]
        below, right = block.row + block.height, block.col + block.width
        return (row >= block.row) & (row < below) & (col >= block.col) & (col < right)
