"""The maps of all tiles as one: EPSG:3035, on the 10 m grid of the European Environment Agency."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from osgeo import gdal

from lcu.grid import Block, Grid, Tile
from lcu.legend import NODATA, OUTSIDE
from lcu.projection import coordinates, footprint, outline, transform
from lcu.store import intersection

gdal.UseExceptions()

NAME = "MOSAIC"
CRS = "EPSG:3035"
PIXEL = 10.0
# What EPSG says that its 3035 is for: longitude, then latitude.
EUROPE = ((-35.58, 44.83), (24.60, 84.73))
# Points on each side of a tile: between them, a side of 110 km bends by 0.2 m at most.
POINTS = 65
# How many times the area of its tiles a mosaic may have: two squares at the ends of a continent would
# take hours to be written, and show as two dots.
EMPTIEST = 16
# Metres; farther than a pixel can lie from the edge of its tile.
FAR = 1e9


def in_europe(grid: Grid) -> bool:
    """Tell whether all of a grid lies where EPSG:3035 is meant to be used."""
    degrees = footprint(grid)
    return degrees is not None and all(
        low <= part.min() and part.max() <= high
        for part, (low, high) in zip(degrees, EUROPE, strict=True)
    )


def tile_of(tiles: Sequence[Tile]) -> Tile | None:
    """Return the mosaic of at least one tile as a tile; None where it would be nearly all nodata."""
    corners = np.array([_bounds(tile.grid) for tile in tiles])
    west, south = corners[:, :2].min(axis=0).tolist()
    east, north = corners[:, 2:].max(axis=0).tolist()
    own = (corners[:, 2:] - corners[:, :2]).prod(axis=1).sum()
    if (north - south) * (east - west) > EMPTIEST * own:
        return None
    height, width = round((north - south) / PIXEL), round((east - west) / PIXEL)
    return Tile(NAME, Grid(CRS, (west, PIXEL, 0.0, north, 0.0, -PIXEL), height, width))


def read(grid: Grid, sources: Sequence[tuple[Grid, Path]], block: Block) -> np.ndarray:
    """Return a block of the mosaic: the value of the nearest pixel.

    Where tiles overlap, a class goes before a pixel without one, then the pixel farther inside its
    tile goes before the other, then the tile named first.

    Parameters
    ----------
    grid : Grid
        Of the whole mosaic.
    sources : sequence of (grid, path)
        Land cover of the tiles, uint8, one band.

    Returns
    -------
    ndarray[y, x], uint8
        Class value; 254 = never observed, 255 = nodata or in no tile.
    """
    values = np.full((block.height, block.width), NODATA, np.uint8)
    best = np.full(values.shape, -np.inf)
    for source, path in sources:
        part = intersection(_window(grid, source), block)
        if part is None:
            continue
        row, col, depth = _places(grid, part, source)
        inside = depth > 0
        if not inside.any():
            continue
        found = _values(path, row[inside], col[inside])
        order = np.where(found < OUTSIDE, depth[inside], depth[inside] - FAR)
        here = part.inside(block)
        wins = np.zeros(inside.shape, bool)
        wins[inside] = order > best[here][inside]
        best[here][wins] = order[wins[inside]]
        values[here][wins] = found[wins[inside]]
    return values


@lru_cache(maxsize=1024)
def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Return x_min, y_min, x_max, y_max of a tile in the mosaic's CRS: multiples of a pixel."""
    x, y = transform(*outline(grid, POINTS), grid.crs, CRS)
    low = [np.floor(part.min() / PIXEL) * PIXEL for part in (x, y)]
    high = [np.ceil(part.max() / PIXEL) * PIXEL for part in (x, y)]
    return (*low, *high)


def _window(grid: Grid, source: Grid) -> Block:
    """Return where a tile lies in the mosaic, about."""
    west, south, east, north = _bounds(source)
    row, col = round((grid.bounds[3] - north) / PIXEL), round((west - grid.bounds[0]) / PIXEL)
    return Block(row, col, round((north - south) / PIXEL), round((east - west) / PIXEL))


def _places(grid: Grid, block: Block, source: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which pixel of a tile lies nearest to each of a block.

    Returns
    -------
    row, col : ndarray[y, x], int64
        Place on the tile's grid; may lie beyond it.
    depth : ndarray[y, x], float64
        Distance from the tile's edge in the unit of its CRS; negative outside.
    """
    x, y = coordinates(grid, block, source.crs)
    west, south, east, north = source.bounds
    depth = np.minimum.reduce([x - west, east - x, y - south, north - y])
    row = np.floor((y - north) / source.transform[5]).astype(np.int64)
    return row, np.floor((x - west) / source.resolution).astype(np.int64), depth


def _values(path: Path, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Read single pixels of a map, uint8 [pixel], by the window around them."""
    top, left = int(row.min()), int(col.min())
    height, width = int(row.max()) - top + 1, int(col.max()) - left + 1
    window = gdal.Open(str(path)).ReadAsArray(left, top, width, height)
    return window[row - top, col - left]
