"""Reference points: rows of a LUCAS survey file, or of any table with a place and a class.

Columns are found by name, in any case. A table with ``LC1`` is read as LUCAS: the survey files, where
answers are numbers, and the harmonised one, where they are words. Any other has ``class`` (a code of
the nomenclature, or the name of a class) and ``lon, lat`` or ``x, y`` (in the CRS of the tiles), or is
a layer of points that GDAL reads.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from osgeo import gdal, ogr, osr

from lcu.assess import design
from lcu.assess.reference import BLOCK, excluded, unreadable_mask, years_compared
from lcu.config import Assess, Config
from lcu.grid import Block, Grid, Tile
from lcu.legend import NODATA, Legend

gdal.UseExceptions()
ogr.UseExceptions()
osr.UseExceptions()

# Answers as the survey files code them and as the harmonised file spells them out, in lower case.
IN_FIELD = {"1", "2", "in situ < 100 m", "in situ > 100 m"}
FROM_AFAR = {"2", "in situ > 100 m"}
PHOTOGRAPHS = {"3", "7", "in situ pi", "in office pi"}
ASIDE = {"2", "3", "look to the north", "look to the east", "to the north", "to the east",
         "to north", "to east"}  # fmt: skip
IRRIGATED = {"1", "4", "irrigation", "irrigation and drainage"}
WEST = {"2", "w", "west"}
# Least area of a parcel by its code, in ha: the list published for 2022. The rows of 2018 hold its
# fifth code too, which the four classes of the harmonised file would not explain.
PARCELS = {"1": 0.0, "2": 0.1, "3": 0.5, "4": 1.0, "5": 10.0}
# LUCAS writes 88.888888 for a coordinate that was not taken; with an East/West column of 8 it
# would otherwise be a place in the Barents Sea. 8, 88 and 888 stand for what does not apply.
SENTINEL = 88.888888
# Columns of a place, in the order they are tried. The theoretical place of a LUCAS point comes
# first: that is what the surveyor describes; the GPS stands where the surveyor stood.
THEORETICAL = (("th_long", "th_lat"), ("th_lon", "th_lat"), ("lon", "lat"))
MEASURED = ("gps_long", "gps_lat")
DEGREES = (*THEORETICAL, MEASURED)
# How 2022 names the place; its other columns begin with SURVEY_. From its published list of columns
# alone: no file of 2022 has been read yet.
RENAMED = {"point_lat": "th_lat", "point_long": "th_long", "point_lon": "th_long",
           "survey_date": "survey_date"}  # fmt: skip

# What a row of a design carries besides.
TILE, STRATUM = "drawn in tile", "drawn from stratum"

NO_POSITION = "no position"
NO_CLASS = "no class"
OTHER_CLASS = "class not in the legend"

Row = Mapping[str, str]


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
    filters : dict
        Filter -> rows that it removed, in the order in which they were asked.
    stratum : ndarray[point], uint8
        Class value of the map that the point was drawn from; 255 where it was not drawn by strata.
    tile : list of str
        Tile that the point was drawn from; empty where it was not drawn by strata.
    areas : dict
        Class value -> area of the stratum; empty where the points were not drawn by strata.
    """

    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    year: np.ndarray
    geographic: bool
    read: int
    filters: dict[str, int]
    stratum: np.ndarray
    tile: list[str]
    areas: dict[int, float] = field(default_factory=dict)

    @property
    def removed(self) -> dict[str, int]:
        """Filter -> rows that it removed, of those that removed any."""
        return {name: rows for name, rows in sorted(self.filters.items()) if rows}


def load(keys: Assess, legend: Legend) -> Points:
    """Read the file of points: CSV separated by commas or semicolons, or what GDAL reads as points.

    Raises
    ------
    ValueError
        Naming the file and what it lacks.
    """
    try:
        if Path(keys.points).suffix.lower() == ".csv":
            return parse(_read_csv(keys.points), legend, keys)
        dataset = gdal.OpenEx(keys.points, gdal.OF_VECTOR)
        drawn, areas = design.read_strata(dataset, legend)
        return replace(parse(_read_layer(dataset, drawn), legend, keys), areas=areas)
    except (ValueError, RuntimeError, csv.Error) as error:  # RuntimeError: GDAL, of a damaged file
        raise ValueError(f"{keys.points}: {error}") from error


def _read_csv(path: str) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
        file.seek(0)
        separator = ";" if header.count(";") > header.count(",") else ","
        yield from csv.DictReader(file, delimiter=separator)


def _read_layer(dataset: gdal.Dataset, drawn: Mapping[str, tuple[str, int]]) -> Iterator[Row]:
    """Yield the features of the one layer of points of a file, their places as lon and lat.

    `drawn` are tile and stratum by the points' id, where they were drawn by `lcu.assess.design`.
    """
    layers = [dataset.GetLayer(number) for number in range(dataset.GetLayerCount())]
    spatial = [layer for layer in layers if layer.GetGeomType() != ogr.wkbNone]
    if len(spatial) != 1:
        names = ", ".join(layer.GetName() for layer in spatial) or "none"
        raise ValueError(f"expected one layer of points, found {names}")
    layer = spatial[0]
    if layer.GetSpatialRef() is None:
        raise ValueError(f"layer {layer.GetName()} has no coordinate reference system")
    onto = _to_degrees(layer.GetSpatialRef())
    names = [field.GetName() for field in layer.schema]
    for feature in layer:
        texts = {
            name: feature.GetFieldAsString(name) if feature.IsFieldSetAndNotNull(name) else ""
            for name in names
        }
        longitude, latitude = _degrees(feature.GetGeometryRef(), onto)
        tile, stratum = drawn.get(texts.get("id", ""), ("", NODATA))
        yield texts | {"lon": longitude, "lat": latitude, TILE: tile, STRATUM: str(stratum)}


def _to_degrees(system: osr.SpatialReference) -> osr.CoordinateTransformation:
    source, degrees = system.Clone(), osr.SpatialReference()
    degrees.ImportFromEPSG(4326)
    for one in (source, degrees):
        one.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return osr.CoordinateTransformation(source, degrees)


def _degrees(point: ogr.Geometry | None, onto: osr.CoordinateTransformation) -> tuple[str, str]:
    """Return longitude and latitude of a feature as text; empty where it has no place."""
    if point is None or point.IsEmpty():
        return "", ""
    if point.GetGeometryCount() == 1:  # a MultiPoint of one point, as some software writes it
        point = point.GetGeometryRef(0)
    if ogr.GT_Flatten(point.GetGeometryType()) != ogr.wkbPoint:
        raise ValueError(f"expected points, found a {point.GetGeometryName()}")
    longitude, latitude, _ = onto.TransformPoint(point.GetX(), point.GetY())
    return repr(longitude), repr(latitude)


def parse(rows: Iterable[Row], legend: Legend, keys: Assess) -> Points:
    """Turn rows into points; each row that cannot be used counts for the first filter it fails."""
    table = legend.crosswalk(keys.points_nomenclature)
    names = {entry.name.lower(): entry.value for entry in legend.classes}
    column, filters, geographic = "", {}, True
    kept, homes, read = [], [], 0
    for raw in rows:
        row = _plain(raw)
        if read == 0:
            geographic, column = _has_degrees(row), _class_column(row, keys.points_class)
            filters = _lucas_filters(row, keys) if column == "lc1" else {}
            removed = dict.fromkeys([*filters, NO_POSITION, NO_CLASS, OTHER_CLASS], 0)
        read += 1
        place = _place(row)
        on_earth = place and not (geographic and (abs(place[0]) > 180 or abs(place[1]) > 90))
        value = _lucas_value(row, table) if column == "lc1" else _value(row[column], table, names)
        reason = next((name for name, fails in filters.items() if fails(row)), None)
        reason = reason or (None if on_earth else NO_POSITION)
        reason = reason or (None if row[column] else NO_CLASS)
        reason = reason or (None if value is not None else OTHER_CLASS)
        if reason:
            removed[reason] += 1
        else:
            kept.append((*place, value, _year(row), int(row.get(STRATUM, NODATA))))
            homes.append(row.get(TILE, ""))
    if not read:
        raise ValueError("holds no points")
    x, y, values, years, strata = np.array(kept, dtype=np.float64).reshape(-1, 5).T
    return Points(
        x, y, values.astype(np.uint8), years.astype(np.int32), geographic, read, removed,
        strata.astype(np.uint8), homes,
    )  # fmt: skip


def _plain(row: Row) -> dict[str, str]:
    return {
        _name(key): (value or "").strip()
        for key, value in row.items()
        if isinstance(key, str) and not isinstance(value, list)
    }


def _name(key: str) -> str:
    """Return the name of a column in lower case, that of 2022 as the years before had it."""
    name = key.strip().lower()
    return RENAMED.get(name, name.removeprefix("survey_"))


def _has_degrees(row: Row) -> bool:
    """Tell whether the columns hold degrees; ValueError where they hold no place."""
    degrees = any(x in row and y in row for x, y in DEGREES)
    if not degrees and not {"x", "y"} <= set(row):
        raise ValueError(f"expected columns lon, lat or x, y, found {', '.join(row)}")
    return degrees


def _class_column(row: Row, wanted: str) -> str:
    """Return the column of the classes; ValueError where it is missing."""
    candidates = [_name(wanted)] if wanted else ["lc1", "class"]
    found = next((name for name in candidates if name in row), None)
    if found is None:
        expected = wanted or "LC1 or class"
        raise ValueError(
            f"expected a column {expected} (assess.points_class), found {', '.join(row)}"
        )
    return found


def _lucas_filters(row: Row, keys: Assess) -> dict[str, Callable[[Row], bool]]:
    """Return what removes LUCAS points, filter -> test of a row: of the columns that the file has."""
    tests: dict[str, tuple[str, Callable[[Row], bool]]] = {
        "not observed": ("obs_type", lambda row: _kind(row) not in IN_FIELD | PHOTOGRAPHS)
    }
    if not keys.lucas_photographs:
        tests["interpreted from photographs"] = ("obs_type", lambda row: _kind(row) in PHOTOGRAPHS)
    tests[f"seen from farther than {keys.lucas_distance:g} m"] = (
        "obs_type",
        lambda row: _kind(row) in IN_FIELD and not _distance(row) <= keys.lucas_distance,
    )
    if not keys.lucas_aside:
        tests["not observed on the point"] = (
            "obs_direct",
            lambda row: _answer(row["obs_direct"]) in ASIDE,
        )
    tests[f"land cover of less than {keys.lucas_percent:g} % of its parcel"] = (
        "lc1_perc",
        lambda row: _least(row["lc1_perc"]) < keys.lucas_percent,
    )
    tests[f"parcel smaller than {keys.lucas_parcel:g} ha"] = (
        "parcel_area_ha",
        lambda row: _least(row["parcel_area_ha"], PARCELS) < keys.lucas_parcel,
    )
    return {name: test for name, (column, test) in tests.items() if column in row}


def _answer(text: str) -> str:
    return text.lower().removesuffix(".0")


def _kind(row: Row) -> str:
    return _answer(row["obs_type"])


def _distance(row: Row) -> float:
    """Return how far the surveyor stood from the point, in metres; what is not stated, by the kind."""
    stated = re.fullmatch(r"\d+(\.\d+)?", row.get("obs_dist", ""))
    if stated and float(stated[0]) != 8888:
        return float(stated[0])
    return np.inf if _kind(row) in FROM_AFAR else 0.0


def _least(text: str, codes: Mapping[str, float] | None = None) -> float:
    """Return the lower end of a class such as "50 - 75 %", "< 0.5" or a code; inf where none is stated."""
    answer = _answer(text)
    if codes is not None and answer.isdigit():
        return codes.get(answer, np.inf)
    numbers = re.findall(r"\d+(?:\.\d+)?", answer)
    if not numbers or answer in ("8", "888"):
        return np.inf
    return 0.0 if answer.startswith("<") else float(numbers[0])


def _lucas_value(row: Row, table: Mapping[str, int]) -> int | None:
    """Return the class of a LUCAS row: by cover and use, by irrigated cover, then by cover."""
    cover = row["lc1"].upper()
    candidates = [f"{cover}/{row.get('lu1', '').upper()}"]
    if _answer(row.get("wm", "")) in IRRIGATED:
        candidates.append(f"{cover}+irrigated")
    candidates.append(cover)
    return next((table[code] for code in candidates if code in table), None)


def _value(code: str, table: Mapping[str, int], names: Mapping[str, int]) -> int | None:
    """Return the class of a code, or of a name."""
    return table.get(code, names.get(code.lower()))


def _place(row: Row) -> tuple[float, float] | None:
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


def _year(row: Row) -> int:
    """Return the year that a row states in YEAR or SURVEY_DATE (18 or 2018); 0 for none."""
    text = row.get("year") or row.get("survey_date", "")
    whole = re.search(r"(?<!\d)(19|20)\d\d(?!\d)", text, re.ASCII)
    if whole:
        return int(whole[0])
    short = text.split("/")[-1]
    return int(short) + 2000 if re.fullmatch(r"[0-9]{2}", short) else 0


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
        self._home: list[str | None] = []

    def units(self, tiles: dict[str, Tile]) -> list[tuple[Tile, Block]]:
        """Return the blocks that hold points."""
        self._pixels = {tile.id: pixels(self.points, tile.grid) for tile in tiles.values()}
        self._home = self._homes(tiles)
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
        here = self._here(tile, year, block)
        index = (row[here] - block.row, col[here] - block.col)
        values = self.points.value[chosen[here]]
        if self.exclude:
            values = np.where(excluded(self.exclude, tile, year, block)[index], 255, values)
        return index, values.astype(np.uint8), int(here.sum())

    def once(self, tile: Tile, year: int, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Tell how the points of a block count where each counts once.

        Returns
        -------
        ndarray[point], bool
            Whether it counts in this tile, in the order of `values`.
        ndarray[point], uint8
            Class value of the stratum it was drawn from; 255 where it was not drawn by strata.
        """
        chosen = self._pixels[tile.id][0][self._here(tile, year, block)]
        here = np.array([self._home[point] == tile.id for point in chosen], dtype=bool)
        return here, self.points.stratum[chosen]

    def filters(self, year: int, excluded: int) -> list[dict[str, Any]]:
        """Return how many points each filter removed, in the order in which they were asked.

        `excluded` are those of the year that lie where the exclude raster is not zero.
        """
        of_year = self._of_year(year)
        placed = np.array([home is not None for home in self._home], dtype=bool)
        removed = self.points.filters | {
            "of another year": int((~of_year).sum()),
            "in no tile": int((of_year & ~placed).sum()),
        }
        if self.exclude:
            removed["excluded"] = excluded
        return [{"filter": name, "removed": number} for name, number in removed.items()]

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

    def _homes(self, tiles: dict[str, Tile]) -> list[str | None]:
        """Return the tile that each point counts in where it counts once; None for none.

        The one that it was drawn in, or else that it lies deepest in, the first of equal ones.
        """
        if self.points.areas:
            return [name if name in tiles else None for name in self.points.tile]
        home: list[str | None] = [None] * len(self.points.x)
        deepest = np.full(len(home), -1.0)
        for tile in tiles.values():
            chosen, row, col = self._pixels[tile.id]
            edges = (row, col, tile.grid.height - 1 - row, tile.grid.width - 1 - col)
            depth = np.minimum.reduce(edges) * tile.grid.resolution
            for point in chosen[depth > deepest[chosen]]:
                home[point] = tile.id
            deepest[chosen] = np.maximum(deepest[chosen], depth)
        return home

    def _of_year(self, year: int) -> np.ndarray:
        """Tell which points are compared with the map of a year: bool [point]."""
        stated = self.points.year
        return (self.fixed_year is not None) | (stated == 0) | (stated == year)

    def _here(self, tile: Tile, year: int, block: Block) -> np.ndarray:
        """Tell which points on a tile lie in a block and are compared with a year."""
        return self._within(tile, block) & self._of_year(year)[self._pixels[tile.id][0]]

    def _within(self, tile: Tile, block: Block) -> np.ndarray:
        _, row, col = self._pixels[tile.id]
        below, right = block.row + block.height, block.col + block.width
        return (row >= block.row) & (row < below) & (col >= block.col) & (col < right)
