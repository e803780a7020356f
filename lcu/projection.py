"""Places in one reference system for places in another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from osgeo import osr

from lcu.grid import Block, Grid

# Distance in pixels of the points that are transformed; between them, linear.
_STEP = 32


def _system(crs: str) -> osr.SpatialReference:
    system = osr.SpatialReference()
    system.SetFromUserInput(crs)
    system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return system


@lru_cache(maxsize=16)
def _between(source: str, target: str) -> osr.CoordinateTransformation:
    return osr.CoordinateTransformation(_system(source), _system(target))


def outline(grid: Grid, points: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Return the edge of a grid in its CRS, float64 [point]: a ring, `points` a side.

    It runs against the clock from the lower left corner and does not come back to it.
    """
    west, south, east, north = grid.bounds
    across, up = np.linspace(west, east, points), np.linspace(south, north, points)
    bottom, left = np.full(points - 1, south), np.full(points - 1, west)
    right, top = np.full(points - 1, east), np.full(points - 1, north)
    x = np.concatenate([across[:-1], right, across[:0:-1], left])
    return x, np.concatenate([bottom, up[:-1], top, up[:0:-1]])


def footprint(grid: Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """Return longitude and latitude of `outline`, WGS 84; None for a CRS that is not on Earth."""
    if not (system := _system(grid.crs)).IsProjected() and not system.IsGeographic():
        return None
    return transform(*outline(grid), grid.crs, "EPSG:4326")


def wkt(crs: str) -> str:
    """Return a reference system as WKT 2 (ISO 19162:2019)."""
    return _system(crs).ExportToWkt(["FORMAT=WKT2_2019"])


def in_metres(grid: Grid) -> bool:
    """Tell whether the pixels of a grid are measured in metres on a map."""
    system = _system(grid.crs)
    return bool(system.IsProjected()) and abs(system.GetLinearUnits() - 1) < 1e-6


def transform(
    x: np.ndarray, y: np.ndarray, source: str, target: str
) -> tuple[np.ndarray, np.ndarray]:
    """Transform coordinates, float64 [...], from one CRS to another; x is east or longitude."""
    points = np.stack([np.ravel(x), np.ravel(y)], axis=1)
    found = np.array(_between(source, target).TransformPoints(points))
    return found[:, 0].reshape(np.shape(x)), found[:, 1].reshape(np.shape(y))


def coordinates(grid: Grid, block: Block, ground: str) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in the CRS `ground` of a block's pixel centres, float64 [y, x].

    `block` may reach beyond the grid: the ground goes on. Points 32 pixels apart are transformed,
    which point does not depend on the block, and those between them follow linearly.
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
