"""Changes of a tile as polygons: a GeoPackage made from the published layer of change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from osgeo import gdal, ogr, osr

from lcu.disk import sync, workshop
from lcu.grid import Block, Grid
from lcu.legend import Legend
from lcu.projection import in_metres
from lcu.publish.geotiff import BLOCK, LARGEST_PROBABILITY, create_plain

gdal.UseExceptions()
ogr.UseExceptions()

LAYER = "change"
FIELDS = (
    ("from_year", ogr.OFTInteger), ("to_year", ogr.OFTInteger), ("from_value", ogr.OFTInteger),
    ("to_value", ogr.OFTInteger), ("from_class", ogr.OFTString), ("to_class", ogr.OFTString),
    ("pixels", ogr.OFTInteger), ("hectares", ogr.OFTReal), ("probability", ogr.OFTReal),
)  # fmt: skip
# Both classes of a pixel in one number, 0 where it did not change.
PAIR = 256


def write(
    path: Path,
    change: Path,
    grid: Grid,
    years: tuple[int, int],
    legend: Legend,
    tags: Mapping[str, str],
) -> None:
    """Write the connected areas (4 neighbours) of one change from class to class as polygons.

    Parameters
    ----------
    change : Path
        The layer of change: class before, class after (253 where they are the same), probability of
        change x 250.
    years : (from, to)
    tags : mapping
        Metadata of the file.

    Notes
    -----
    Nothing holds a whole tile: GDAL traces the polygons line by line in a raster of the changes and
    burns their numbers into another, in which their pixels and probabilities are counted block by
    block. Whole numbers are added up, so that blocks do not matter. ``probability`` is the mean over
    the polygon; ``hectares`` is empty where the grid is not in metres.
    """
    with workshop(path) as folder:
        pairs = _write_pairs(folder / "pairs.tif", change, grid, legend)
        vector = _trace(folder / "whole.gpkg", pairs, grid, tags)
        _describe(vector, _measure(folder / "numbers.tif", vector, change, grid),
                  grid, years, legend)  # fmt: skip
        del vector, pairs  # closing finishes the file
        sync(folder / "whole.gpkg")
        os.replace(folder / "whole.gpkg", path)


def is_published(path: Path, fingerprint: str) -> bool:
    """Tell whether whole polygons that were made from the same things are there."""
    if not path.exists():
        return False
    try:
        return gdal.OpenEx(str(path)).GetMetadataItem("LCU_FINGERPRINT") == fingerprint
    except RuntimeError:
        return False


def _system(grid: Grid) -> osr.SpatialReference:
    system = osr.SpatialReference()
    system.SetFromUserInput(grid.crs)
    return system


def _write_pairs(path: Path, change: Path, grid: Grid, legend: Legend) -> gdal.Dataset:
    """Write the classes before and after of what changed as one number a pixel, 0 elsewhere."""
    pairs = create_plain(path, grid, 1, np.dtype(np.int32))
    for block, (before, after, _) in _blocks(change, grid):
        changed = np.isin(before, legend.values) & np.isin(after, legend.values)
        number = np.where(changed, (before.astype(np.int32) + 1) * PAIR + after, 0)
        pairs.WriteArray(number, block.col, block.row)
    pairs.FlushCache()
    return pairs


def _blocks(change: Path, grid: Grid) -> Iterator[tuple[Block, np.ndarray]]:
    dataset = gdal.Open(str(change))
    for block in grid.blocks(BLOCK):
        yield block, dataset.ReadAsArray(block.col, block.row, block.width, block.height)


def _trace(path: Path, pairs: gdal.Dataset, grid: Grid, tags: Mapping[str, str]) -> gdal.Dataset:
    """Return a new GeoPackage with a polygon for each area, its number in the field ``pair``."""
    vector = gdal.GetDriverByName("GPKG").Create(str(path), 0, 0, 0, gdal.GDT_Unknown)
    vector.SetMetadata(dict(tags))
    layer = vector.CreateLayer(LAYER, _system(grid), ogr.wkbPolygon)
    layer.CreateField(ogr.FieldDefn("pair", ogr.OFTInteger))
    for name, kind in FIELDS:
        layer.CreateField(ogr.FieldDefn(name, kind))
    band = pairs.GetRasterBand(1)
    layer.StartTransaction()
    gdal.Polygonize(band, band, layer, 0)
    layer.CommitTransaction()
    return vector


def _measure(
    path: Path, vector: gdal.Dataset, change: Path, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and the sum of their probabilities x 250, both int64 [number of a polygon]."""
    layer = vector.GetLayer(0)
    numbers = create_plain(path, grid, 1, np.dtype(np.int32))
    # A sum, for GDAL takes the plain number for the feature's own and shows no field of it.
    burnt = vector.ExecuteSQL(f'SELECT geom, fid + 0 AS number FROM "{LAYER}"')
    gdal.RasterizeLayer(numbers, [1], burnt, options=["ATTRIBUTE=number"])
    vector.ReleaseResultSet(burnt)
    numbers.FlushCache()
    count = layer.GetFeatureCount() + 1
    pixels, sums = np.zeros((2, count), np.int64)
    for block, (_, _, probability) in _blocks(change, grid):
        number = numbers.ReadAsArray(block.col, block.row, block.width, block.height).ravel()
        known = (number > 0) & (probability.ravel() <= LARGEST_PROBABILITY)
        pixels += np.bincount(number, minlength=count)
        sums += np.bincount(number[known], probability.ravel()[known], count).astype(np.int64)
    return pixels, sums


def _describe(
    vector: gdal.Dataset,
    measured: tuple[np.ndarray, np.ndarray],
    grid: Grid,
    years: tuple[int, int],
    legend: Legend,
) -> None:
    """Fill in what each polygon is."""
    layer, names = vector.GetLayer(0), dict(zip(legend.values.tolist(), legend.names, strict=True))
    hectares = abs(grid.transform[1] * grid.transform[5]) / 10_000 if in_metres(grid) else None
    pixels, sums = (part.tolist() for part in measured)
    layer.StartTransaction()
    for number in range(1, len(pixels)):
        _fill(layer, number, pixels[number], sums[number], hectares, years, names)
    layer.CommitTransaction()
    layer.DeleteField(layer.GetLayerDefn().GetFieldIndex("pair"))


def _fill(
    layer: ogr.Layer,
    number: int,
    pixels: int,
    total: int,
    hectares: float | None,
    years: tuple[int, int],
    names: Mapping[int, str],
) -> None:
    """Fill in what one polygon is. No feature may outlive this: GDAL crashes when a field goes then."""
    feature = layer.GetFeature(number)
    before, after = feature["pair"] // PAIR - 1, feature["pair"] % PAIR
    feature["from_year"], feature["to_year"] = years
    feature["from_value"], feature["to_value"] = before, after
    feature["from_class"], feature["to_class"] = names[before], names[after]
    feature["pixels"], feature["probability"] = pixels, total / pixels / LARGEST_PROBABILITY
    if hectares is not None:
        feature["hectares"] = pixels * hectares
    layer.SetFeature(feature)
