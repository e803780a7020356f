"""Where the tiles of a simulation lie, and which ground coordinates their pixels have.

The ground is a plane: the UTM zone of the first tile. Tiles of the neighbouring zone look at the
same ground through the transformation between the zones.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

import numpy as np
from osgeo import osr

from lcu.config import Simulate
from lcu.grid import Block, Grid, Tile

_COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")  # by zone modulo 3
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
# Distance in pixels of the points that are transformed between zones; between them, linear.
_STEP = 32


def tiles(simulate: Simulate) -> list[Tile]:
    """Return the tiles, from west to east; the first begins where MGRS has its corner."""
    first = simulate.tiles[0]
    ground, west, north = origin(first)
    step = (simulate.size - simulate.overlap) * 10
    found = []
    for index, name in enumerate(simulate.tiles):
        crs, corner = ground, (west + index * step, north)
        if simulate.zones == "two" and index >= (len(simulate.tiles) + 1) // 2:
            crs = f"EPSG:{int(ground[5:]) + 1}"
            corner = _corner_elsewhere(ground, crs, corner, simulate.size)
        transform = (float(corner[0]), 10.0, 0.0, float(corner[1]), 0.0, -10.0)
        found.append(Tile(name, Grid(crs, transform, simulate.size, simulate.size)))
    return found


def origin(name: str) -> tuple[str, int, int]:
    """Return CRS, x and y in metres of the upper left corner of an MGRS tile as ESA cuts it.

    Raises
    ------
    ValueError
        Where `name` is no MGRS id of a 100 km square, such as 32TPS.
    """
    found = re.fullmatch(r"(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", name)
    if found is None or not 1 <= int(found[1]) <= 60 or found[3] not in _COLUMNS[int(found[1]) % 3]:
        raise ValueError(f"simulate.tiles: {name!r} is no MGRS tile such as 32TPS")
    zone, band = int(found[1]), _BANDS.index(found[2])
    east = 100_000 * (_COLUMNS[zone % 3].index(found[3]) + 1)
    row = (_ROWS.index(found[4]) - (5 if zone % 2 == 0 else 0)) % 20
    north = 100_000 * row
    # Rows repeat every 2000 km; the band tells which of them is meant.
    lowest = (8 * band - 80) * 110_574 + (0 if band >= 10 else 10_000_000) - 100_000
    north += 2_000_000 * max(0, math.ceil((lowest - north) / 2_000_000))
    crs = f"EPSG:{(32600 if band >= 10 else 32700) + zone}"
    # ESA's corners are multiples of 60 m from the equator, outside the 100 km square.
    equator = 0 if band >= 10 else 10_000_000
    return crs, east // 60 * 60, equator - (equator - north - 100_000) // 60 * 60


def _corner_elsewhere(ground: str, crs: str, corner: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the corner, in `crs`, of a tile with the same centre: a multiple of 60 m."""
    half = size * 5
    x, y = transform(np.array([corner[0] + half]), np.array([corner[1] - half]), ground, crs)
    return round((x[0] - half) / 60) * 60, round((y[0] + half) / 60) * 60


@lru_cache(maxsize=16)
def _between(source: str, target: str) -> osr.CoordinateTransformation:
    systems = []
    for crs in (source, target):
        system = osr.SpatialReference()
        system.SetFromUserInput(crs)
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        systems.append(system)
    return osr.CoordinateTransformation(*systems)


def transform(
    x: np.ndarray, y: np.ndarray, source: str, target: str
) -> tuple[np.ndarray, np.ndarray]:
    """Transform coordinates, float64 [...], from one CRS to another; x is east or longitude."""
    points = np.stack([np.ravel(x), np.ravel(y)], axis=1)
    found = np.array(_between(source, target).TransformPoints(points))
    return found[:, 0].reshape(np.shape(x)), found[:, 1].reshape(np.shape(y))


def coordinates(grid: Grid, block: Block, ground: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ground coordinates of the pixel centres of a block, float64 [y, x], metres.

    `block` may reach beyond the grid: the ground goes on.
    """
    if grid.crs == ground:
        return _centres(
            grid, np.arange(block.height) + block.row, np.arange(block.width) + block.col
        )
    rows = np.arange(block.row - block.row % _STEP, block.row + block.height + _STEP, _STEP)
    cols = np.arange(block.col - block.col % _STEP, block.col + block.width + _STEP, _STEP)
    x, y = transform(*_centres(grid, rows, cols), grid.crs, ground)
    return _linear(x, block, rows[0], cols[0]), _linear(y, block, rows[0], cols[0])


def _centres(grid: Grid, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    west, step, _, north, _, fall = grid.transform
    x, y = np.meshgrid(west + (cols + 0.5) * step, north + (rows + 0.5) * fall)
    return x, y


def _linear(values: np.ndarray, block: Block, row: int, col: int) -> np.ndarray:
    """Interpolate between points `_STEP` pixels apart, the first at pixel (row, col)."""
    i, s = np.divmod(np.arange(block.row, block.row + block.height) - row, _STEP)
    j, t = np.divmod(np.arange(block.col, block.col + block.width) - col, _STEP)
    s, t = s[:, None] / _STEP, t[None, :] / _STEP
    upper = values[i][:, j] * (1 - t) + values[i][:, j + 1] * t
    lower = values[i + 1][:, j] * (1 - t) + values[i + 1][:, j + 1] * t
    return upper * (1 - s) + lower * s
