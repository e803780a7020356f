"""The old map: codes and polygons of any raster or vector map, on the grid of any block.

A raster map's polygons are the connected areas of one code (4 neighbours) on the map's own grid,
labelled over the window of all tiles together, so that a polygon keeps its number in every tile.
A vector map's polygons are its features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from osgeo import gdal, ogr, osr
from scipy import ndimage

from lcu.clock import spending
from lcu.config import Sample
from lcu.grid import Grid, Tile

gdal.UseExceptions()
ogr.UseExceptions()
osr.UseExceptions()

RASTER, VECTOR = "raster", "vector"


class OldMapError(ValueError):
    """An old map that cannot be used; the message names the file and what is wrong."""


class OldMap:
    """The old map of the tiles of a run, read block by block.

    Parameters
    ----------
    config : Sample
        The ``[sample]`` table. Where the map's name holds ``{tile}``, every tile has its own map.
    tiles : sequence of Tile
        Every tile that will be read.

    Raises
    ------
    OldMapError
        When a file is missing, is no map, or does not overlap a tile.
    """

    def __init__(self, config: Sample, tiles: Sequence[Tile]) -> None:
        by_file: dict[str, list[Tile]] = {}
        for tile in tiles:
            by_file.setdefault(config.old_map.replace("{tile}", tile.id), []).append(tile)
        self._sources = {}
        for number, (path, covered) in enumerate(sorted(by_file.items())):
            source = _open(path, config.attribute, [tile.grid for tile in covered])
            self._sources |= {tile.id: (number, source) for tile in covered}

    @spending("reading")
    def read(self, tile: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Read the map of a tile on a grid (of a block), nearest neighbour.

        Returns
        -------
        codes : ndarray[y, x], int32
            Codes of the map's nomenclature; 0 = no map.
        polygons : ndarray[y, x], int64
            Number of the polygon, unique over all maps of the run; 0 = no map.
        """
        number, source = self._sources[tile]
        codes, polygons = source.read(grid)
        return codes, np.where(polygons > 0, polygons + (number << 40), 0)


def files(config: Sample, tiles: Iterable[str]) -> list[Path]:
    """Return the files of the old map."""
    return [
        Path(name) for name in sorted({config.old_map.replace("{tile}", tile) for tile in tiles})
    ]


def _open(path: str, attribute: str, grids: Sequence[Grid]) -> _RasterMap | _VectorMap:
    if not Path(path).exists():
        raise OldMapError(f"old map {path}: no such file (sample.old_map)")
    try:
        dataset = gdal.OpenEx(path, gdal.OF_RASTER | gdal.OF_VECTOR)
    except RuntimeError as error:
        raise OldMapError(f"old map {path} cannot be opened: {error}") from error
    if dataset.RasterCount:
        return _RasterMap(dataset, path, grids)
    return _VectorMap(dataset, path, attribute, grids)


def _reference_system(text: str) -> osr.SpatialReference:
    system = osr.SpatialReference()
    system.SetFromUserInput(text)
    system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return system


def bounds_in(grid: Grid, system: osr.SpatialReference) -> tuple[float, float, float, float]:
    """Return the outer edges of a grid in another CRS, (x_min, y_min, x_max, y_max)."""
    transform = osr.CoordinateTransformation(_reference_system(grid.crs), system)
    return transform.TransformBounds(*grid.bounds, 21)


class _RasterMap:
    """A raster map, of which the window over all grids is held with its polygons labelled."""

    def __init__(self, dataset: gdal.Dataset, path: str, grids: Sequence[Grid]) -> None:
        system = dataset.GetSpatialRef()
        if system is None:
            raise OldMapError(f"old map {path} has no coordinate reference system")
        system = system.Clone()
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        window = _window(dataset, path, [bounds_in(grid, system) for grid in grids])
        codes = dataset.GetRasterBand(1).ReadAsArray(*window).astype(np.int32)
        nodata = dataset.GetRasterBand(1).GetNoDataValue()
        if nodata is not None:
            codes[codes == int(nodata)] = 0
        transform = dataset.GetGeoTransform()
        origin = (
            transform[0] + window[0] * transform[1], transform[1], 0.0,
            transform[3] + window[1] * transform[5], 0.0, transform[5],
        )  # fmt: skip
        self._window = gdal.GetDriverByName("MEM").Create("", *window[2:], 2, gdal.GDT_Int32)
        self._window.SetGeoTransform(origin)
        self._window.SetSpatialRef(system)
        self._window.GetRasterBand(1).WriteArray(codes)
        self._window.GetRasterBand(2).WriteArray(connected_areas(codes))

    def read(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        target = gdal.GetDriverByName("MEM").Create("", grid.width, grid.height, 2, gdal.GDT_Int32)
        target.SetGeoTransform(grid.transform)
        target.SetSpatialRef(_reference_system(grid.crs))
        # errorThreshold 0: exact coordinates for every pixel, so that a pixel's code does not
        # depend on the block that it is read with.
        gdal.Warp(target, self._window, resampleAlg="near", errorThreshold=0.0)
        layers = target.ReadAsArray()
        return layers[0], layers[1].astype(np.int64)


def _window(
    dataset: gdal.Dataset, path: str, bounds: Sequence[tuple[float, float, float, float]]
) -> tuple[int, int, int, int]:
    """Return the part of the raster under all bounds (x offset, y offset, width, height), pixels."""
    x, x_step, x_skew, y, y_skew, y_step = dataset.GetGeoTransform()
    if x_skew or y_skew:
        raise OldMapError(f"old map {path} is rotated; warp it to a north-up grid first")
    spans = []
    for x_min, y_min, x_max, y_max in bounds:
        columns = sorted(((x_min - x) / x_step, (x_max - x) / x_step))
        rows = sorted(((y_min - y) / y_step, (y_max - y) / y_step))
        spans.append((columns[0], rows[0], columns[1], rows[1]))
        if (
            columns[1] <= 0
            or rows[1] <= 0
            or columns[0] >= dataset.RasterXSize
            or rows[0] >= dataset.RasterYSize
        ):
            raise OldMapError(
                f"old map {path} does not overlap a tile: the tile lies at "
                f"{x_min:.0f} {y_min:.0f} {x_max:.0f} {y_max:.0f} in the map's coordinates; "
                "give a map that covers it (sample.old_map) or leave the tile out (archive.tiles)"
            )
    left = max(int(min(span[0] for span in spans)) - 2, 0)
    top = max(int(min(span[1] for span in spans)) - 2, 0)
    right = min(int(max(span[2] for span in spans)) + 3, dataset.RasterXSize)
    bottom = min(int(max(span[3] for span in spans)) + 3, dataset.RasterYSize)
    return left, top, right - left, bottom - top


def connected_areas(codes: np.ndarray) -> np.ndarray:
    """Give a number to every connected area of equal code (4 neighbours).

    Parameters
    ----------
    codes : ndarray[y, x], int32
        0 = no map.

    Returns
    -------
    ndarray[y, x], int32
        From 1 on, in the order of their first pixel within each code; 0 where `codes` is 0.
    """
    areas = np.zeros(codes.shape, np.int32)
    total = 0
    for code in np.unique(codes[codes != 0]):
        labelled, count = ndimage.label(codes == code)
        areas[labelled > 0] = labelled[labelled > 0] + total
        total += count
    return areas


class _VectorMap:
    """A vector map; the features over a block are burnt into it when it is read."""

    def __init__(
        self, dataset: gdal.Dataset, path: str, attribute: str, grids: Sequence[Grid]
    ) -> None:
        self._dataset, self._path = dataset, path
        self._layer = dataset.GetLayer(0)
        names = [field.GetName() for field in self._layer.schema]
        matching = [name for name in names if name.lower() == attribute.lower()]
        if not matching:
            raise OldMapError(
                f"old map {path} has no field {attribute!r}; it has {', '.join(names)} (sample.attribute)"
            )
        self._attribute = matching[0]
        self._system = self._layer.GetSpatialRef()
        if self._system is None:
            raise OldMapError(f"old map {path} has no coordinate reference system")
        self._system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        for grid in grids:
            self._layer.SetSpatialFilterRect(*bounds_in(grid, self._system))
            if not self._layer.GetFeatureCount():
                raise OldMapError(
                    f"old map {path} has no polygon over a tile ({grid.bounds} in {grid.crs}); give "
                    "a map that covers it (sample.old_map) or leave the tile out (archive.tiles)"
                )

    def read(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        system = _reference_system(grid.crs)
        transform = osr.CoordinateTransformation(self._system, system)
        burnt = ogr.GetDriverByName("Memory").CreateDataSource("")
        layer = burnt.CreateLayer("polygons", system, ogr.wkbUnknown)
        layer.CreateField(ogr.FieldDefn("polygon", ogr.OFTInteger))
        codes = {0: 0}
        self._layer.SetSpatialFilterRect(*bounds_in(grid, self._system))
        for feature in self._layer:
            number = feature.GetFID() + 1
            codes[number] = self._code(feature)
            shape = feature.GetGeometryRef().Clone()
            shape.Transform(transform)
            copy = ogr.Feature(layer.GetLayerDefn())
            copy.SetField("polygon", number)
            copy.SetGeometry(shape)
            layer.CreateFeature(copy)
        target = gdal.GetDriverByName("MEM").Create("", grid.width, grid.height, 1, gdal.GDT_Int32)
        target.SetGeoTransform(grid.transform)
        target.SetSpatialRef(system)
        gdal.RasterizeLayer(target, [1], layer, options=["ATTRIBUTE=polygon"])
        polygons = target.ReadAsArray().astype(np.int64)
        numbers, inverse = np.unique(polygons, return_inverse=True)
        table = np.array([codes[int(number)] for number in numbers], np.int32)
        return table[inverse].reshape(polygons.shape), polygons

    def _code(self, feature: ogr.Feature) -> int:
        text = feature.GetFieldAsString(self._attribute)
        try:
            return int(text)
        except ValueError:
            raise OldMapError(
                f"old map {self._path}: feature {feature.GetFID()} has {self._attribute} = {text!r}, "
                "expected a whole number"
            ) from None
