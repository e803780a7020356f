"""A stratified sample of points for people to interpret: how many, which, and the file they fill in.

The strata are the classes of one year's map. Who interprets sees the points alone: their strata lie in
tables of their own in the same file, from which `lcu.assess.points` takes them again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI
from osgeo import gdal, ogr, osr

from lcu import ranks
from lcu.assess.consistency import Maps, pixel_area
from lcu.assess.reference import BLOCK
from lcu.config import Assess, Config, ConfigError
from lcu.disk import sync, writing
from lcu.grid import Block, Tile
from lcu.legend import Legend
from lcu.projection import footprint, transform
from lcu.sample import priority

gdal.UseExceptions()
ogr.UseExceptions()

POINTS, DRAWN, STRATA = "points", "drawn", "strata"
# Points have random numbers of their own: those of run.seed itself choose the training pixels.
OWN_NUMBERS = 2**40


@dataclass(frozen=True)
class Drawn:
    """Pixels that may become points, arrays [point].

    Attributes
    ----------
    key : uint64
        The lowest are drawn.
    index : uint8
        Class index in the map.
    tile : int32
        Position of the tile.
    row, col : int32
    """

    key: np.ndarray
    index: np.ndarray
    tile: np.ndarray
    row: np.ndarray
    col: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Drawn]) -> Drawn:
        """Return all parts as one."""
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def lowest(self, sizes: np.ndarray) -> Drawn:
        """Return the `sizes` [class] lowest of each class, ascending by key."""
        order = np.lexsort([self.col, self.row, self.tile, self.key])
        index = self.index[order]
        chosen = np.zeros(len(order), bool)
        for place, size in enumerate(sizes.tolist()):
            chosen[np.flatnonzero(index == place)[:size]] = True
        return Drawn(*(getattr(self, name)[order[chosen]] for name in self.__dataclass_fields__))


def needed(area: np.ndarray, keys: Assess) -> int:
    """Return how many points estimate the overall accuracy with the wanted standard error.

    Parameters
    ----------
    area : ndarray[class]
        Mapped area, in any unit.

    Notes
    -----
    Cochran 1977, equation 5.25, as Olofsson et al. 2014 take it (equation 13), for many more pixels than
    points: (sum of W S / S(O))^2, with S = sqrt(U (1 - U)) of the expected user's accuracy U.
    """
    weight = area / area.sum()
    spread = math.sqrt(keys.design_users * (1 - keys.design_users))
    return math.ceil((weight.sum() * spread / keys.design_error) ** 2 - 1e-9)


def sizes(pixels: np.ndarray, total: int, least: int) -> np.ndarray:
    """Share out points over the classes: `least` for each that is mapped, the rest by area.

    Parameters
    ----------
    pixels : ndarray[class], int64
        Mapped pixels; a class with fewer than its share has all of them.

    Returns
    -------
    ndarray[class], int64

    Raises
    ------
    ValueError
        Where `total` does not hold `least` points of each mapped class.
    """
    mapped = np.flatnonzero(pixels)
    if total < least * len(mapped):
        raise ValueError(
            f"{total} points for {len(mapped)} mapped classes with at least {least} each "
            f"(assess.design_least): ask for {least * len(mapped)} or more, or lower that key"
        )
    found = np.zeros(len(pixels), np.int64)
    rare = np.zeros(len(pixels), bool)
    while True:  # a class that is raised to `least` leaves less for the others
        left = total - least * int(rare.sum())
        share = np.where(rare, 0, pixels) / max(pixels[~rare].sum(), 1) * left
        small = ~rare & (pixels > 0) & (share < least)
        if not small.any():
            break
        rare |= small
    found[:] = np.floor(share)
    # What rounding left goes to the largest remainders, the first class of equal ones.
    rest = int(round(share.sum())) - int(found.sum())
    found[np.argsort(found - share, kind="stable")[:rest]] += 1
    found[rare] = least
    return np.minimum(found, pixels)


def draw(
    config: Config, comm: MPI.Comm, tiles: Mapping[str, Tile], maps: Maps, total: int
) -> tuple[Path, list[str]]:
    """Draw the points and write them for people to fill in. Collective.

    Parameters
    ----------
    maps : callable (tile id, year, block) -> ndarray[y, x], uint8
        Land cover, class values.
    total : int
        How many points; 0: as many as the formula asks for.

    Returns
    -------
    path : Path
    lines : list of str
        What was drawn, for the screen.

    Raises
    ------
    ConfigError
        Where nothing is mapped, too few points are asked for, a tile lies on no place on Earth, or the
        file is there already: it may hold what somebody filled in.
    """
    year = config.assess.points_year or max(config.archive.years)
    path = config.directory / "assessment" / f"design_S{year}.gpkg"
    ranks.on_root(comm, "looking at the design", _check, path, tiles)
    units = [
        (number, tile, block)
        for number, tile in enumerate(tiles.values())
        for block in tile.grid.blocks(BLOCK)
    ]
    own = ranks.mine(units, comm)
    pixels = np.zeros((len(tiles), len(config.legend.classes)), np.int64)
    with ranks.together(comm, "counting the classes of the map"):
        for number, tile, block in own:
            index = config.legend.index_of(maps(tile.id, year, block))
            pixels[number] += np.bincount(index.ravel(), minlength=256)[: pixels.shape[1]]
    comm.Allreduce(MPI.IN_PLACE, pixels)
    numbers = ranks.on_root(
        comm, "sizing the sample", _sizes, pixels.sum(axis=0), total, config.assess
    )
    with ranks.together(comm, "drawing points"):
        parts = [_candidates(config, number, tile, block, maps(tile.id, year, block), numbers)
                 for number, tile, block in own]  # fmt: skip
        best = Drawn.join([_none(), *parts]).lowest(numbers)
    chosen = Drawn.join(comm.allgather(best)).lowest(numbers)
    ranks.on_root(
        comm, f"writing {path}", _write, path, chosen, config, tiles, year, pixels, numbers
    )
    lines = [f"{len(chosen.key)} points of the map of {year} in {path}"]
    lines += [
        f"  {name:<24}{size:>6} of {count:,} pixels"
        for name, size, count in zip(config.legend.names, numbers, pixels.sum(axis=0), strict=True)
        if count
    ]
    lines.append(
        "fill in `class` (a name of the legend, or a code of assess.points_nomenclature), name the file in "
        "assess.points and run `assess`"
    )
    return path, lines


def _check(path: Path, tiles: Mapping[str, Tile]) -> None:
    if path.exists():
        raise ConfigError(
            f"{path} is there already and may hold what somebody filled in; move it away to draw another"
        )
    for tile in tiles.values():
        if footprint(tile.grid) is None:
            raise ConfigError(
                f"--design: the grid of {tile.id} is on no place on Earth: {tile.grid.crs}"
            )


def _sizes(pixels: np.ndarray, total: int, keys: Assess) -> np.ndarray:
    """Return how many points each class gets, int64 [class]."""
    if not pixels.any():
        raise ConfigError("--design: the map shows no class anywhere; nothing can be drawn")
    least = keys.design_least * np.count_nonzero(pixels)
    try:
        return sizes(pixels, total or max(needed(pixels, keys), least), keys.design_least)
    except ValueError as error:
        raise ConfigError(f"--design: {error}") from error


def _none() -> Drawn:
    return Drawn(*(np.zeros(0, kind) for kind in ("uint64", "uint8", "int32", "int32", "int32")))


def _candidates(
    config: Config, number: int, tile: Tile, block: Block, mapped: np.ndarray, numbers: np.ndarray
) -> Drawn:
    """Return the pixels of a block that may be drawn: of each class the lowest keys."""
    index = config.legend.index_of(mapped)
    row, col = np.nonzero(index < len(config.legend.classes))
    key = priority(config.run.seed + OWN_NUMBERS, tile.id, row + block.row, col + block.col)
    places = (np.full(len(row), number, np.int32), (row + block.row).astype(np.int32),
              (col + block.col).astype(np.int32))  # fmt: skip
    return Drawn(key, index[row, col], *places).lowest(numbers)


# --- the file -------------------------------------------------------------------------------------


def _write(
    path: Path,
    chosen: Drawn,
    config: Config,
    tiles: Mapping[str, Tile],
    year: int,
    pixels: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Write points, what they were drawn from, and the strata, as one GeoPackage."""
    temporary = path.with_name(f".{path.name}")
    names, legend = list(tiles), config.legend
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)
    with writing(path):
        dataset = gdal.GetDriverByName("GPKG").Create(str(temporary), 0, 0, 0, gdal.GDT_Unknown)
        degrees = osr.SpatialReference()
        degrees.ImportFromEPSG(4326)
        degrees.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        longitude, latitude = _places(chosen, list(tiles.values()))
        fields = {"id": ogr.OFTInteger, "year": ogr.OFTInteger, "class": ogr.OFTString}
        _table(dataset, POINTS, fields, [(number, year, None) for number in range(len(chosen.key))],
               degrees, list(zip(longitude, latitude, strict=True)))  # fmt: skip
        fields = {"id": ogr.OFTInteger, "tile": ogr.OFTString, "row": ogr.OFTInteger,
                  "col": ogr.OFTInteger, "stratum": ogr.OFTInteger}  # fmt: skip
        columns = zip(chosen.tile.tolist(), chosen.row.tolist(), chosen.col.tolist(),
                      legend.values[chosen.index].tolist(), strict=True)  # fmt: skip
        _table(dataset, DRAWN, fields, [
            (number, names[tile], *place) for number, (tile, *place) in enumerate(columns)
        ])  # fmt: skip
        size, unit = pixel_area(tiles)
        fields = {"stratum": ogr.OFTInteger, "name": ogr.OFTString, "points": ogr.OFTInteger,
                  "pixels": ogr.OFTInteger64, "area": ogr.OFTReal, "unit": ogr.OFTString}  # fmt: skip
        _table(dataset, STRATA, fields, [
            (entry.value, entry.name, int(numbers[place]), int(pixels[:, place].sum()),
             float(size @ pixels[:, place]), unit)
            for place, entry in enumerate(legend.classes) if pixels[:, place].any()
        ])  # fmt: skip
        del dataset  # closing finishes the file
        sync(temporary)
        os.replace(temporary, path)


def _places(chosen: Drawn, tiles: Sequence[Tile]) -> tuple[list[float], list[float]]:
    """Return longitude and latitude of the middle of each pixel."""
    places = np.zeros((2, len(chosen.key)))
    for number, tile in enumerate(tiles):
        own = chosen.tile == number
        if own.any():
            west, step, _, north, _, fall = tile.grid.transform
            x, y = west + (chosen.col[own] + 0.5) * step, north + (chosen.row[own] + 0.5) * fall
            places[:, own] = transform(x, y, tile.grid.crs, "EPSG:4326")
    return places[0].tolist(), places[1].tolist()


def _table(
    dataset: gdal.Dataset,
    name: str,
    fields: Mapping[str, int],
    rows: Sequence[tuple],
    system: osr.SpatialReference | None = None,
    places: Sequence[tuple[float, float]] = (),
) -> None:
    """Write rows as a layer: of points where they have places."""
    layer = dataset.CreateLayer(name, system, ogr.wkbPoint if places else ogr.wkbNone)
    for field, kind in fields.items():
        layer.CreateField(ogr.FieldDefn(field, kind))
    layer.StartTransaction()
    for number, row in enumerate(rows):
        feature = ogr.Feature(layer.GetLayerDefn())
        for field, value in zip(fields, row, strict=True):
            if value is not None:
                feature[field] = value
        if places:
            point = ogr.Geometry(ogr.wkbPoint)
            point.AddPoint_2D(*places[number])
            feature.SetGeometry(point)
        layer.CreateFeature(feature)
    layer.CommitTransaction()


def read_strata(
    dataset: gdal.Dataset, legend: Legend
) -> tuple[dict[str, tuple[str, int]], dict[int, float]]:
    """Return what the points of a file were drawn from.

    Returns
    -------
    drawn : dict
        Id of a point -> (tile, class value of its stratum); empty where the file is no design.
    areas : dict
        Class value -> area of the stratum, in hectares or else in pixels.

    Raises
    ------
    ValueError
        Where a stratum is no class of the legend.
    """
    if dataset.GetLayerByName(DRAWN) is None or dataset.GetLayerByName(STRATA) is None:
        return {}, {}
    areas = {row["stratum"]: row["area"] for row in dataset.GetLayerByName(STRATA)}
    strange = sorted(set(areas) - set(legend.values.tolist()))
    if strange:
        raise ValueError(
            f"its strata {strange} are no classes of the legend {legend.name}; "
            "assess it with the legend that it was drawn with"
        )
    drawn = {str(row["id"]): (row["tile"], row["stratum"]) for row in dataset.GetLayerByName(DRAWN)}
    return drawn, areas
