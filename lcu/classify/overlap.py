"""Where tiles overlap: their pixels on each other's grid, and one probability out of several.

Every tile's probabilities count by the distance to the edge of their tile, so that a tile's word fades out where
the tile ends and the mosaic has no seam. All tiles give the same answer for the same ground.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from osgeo import osr

from lcu.grid import Block, Grid, Tile
from lcu.legend import OUTSIDE
from lcu.reliability import SCALE

osr.UseExceptions()


@dataclass(frozen=True)
class Sampled:
    """The pixels of another tile under a block.

    Attributes
    ----------
    tile : str
    block : Block
        What to read of the other tile.
    row, col : ndarray[y, x], int64
        Place of the nearest pixel in `block`; 0 where there is none.
    weight : ndarray[y, x], float32
        Distance to the other tile's edge in pixels; 0 outside of it.
    """

    tile: str
    block: Block
    row: np.ndarray
    col: np.ndarray
    weight: np.ndarray

    def take(self, values: np.ndarray) -> np.ndarray:
        """Bring values of `block`, [..., y, x], onto this tile's pixels; anything where the weight is 0."""
        return values[..., self.row, self.col]


def neighbours(tiles: Mapping[str, Tile], tile: str) -> list[str]:
    """Return the other tiles that share ground with a tile, by id."""
    own = tiles[tile].grid
    return [
        name
        for name, other in sorted(tiles.items())
        if name != tile and sample(name, other.grid, own, own.whole, step=16) is not None
    ]


def sample(name: str, grid: Grid, onto: Grid, block: Block, step: int = 1) -> Sampled | None:
    """Find the nearest pixels of another tile's `grid` under a `block` of the tile with the grid `onto`.

    Across UTM zones as well. None where they share no ground. With `step` only every so many pixels are looked
    at, for a first look (the block's last row and column among them).
    """
    x, y = _centres(onto, block, step)
    if grid.crs != onto.crs:
        x, y = _transformed(x, y, onto.crs, grid.crs)
    left, x_step, _, top, _, y_step = grid.transform
    col, row = np.floor((x - left) / x_step), np.floor((y - top) / y_step)
    weight = edge_distance(row, col, grid)
    inside = weight > 0
    if not inside.any():
        return None
    first_row, first_col = int(row[inside].min()), int(col[inside].min())
    height = int(row[inside].max()) - first_row + 1
    width = int(col[inside].max()) - first_col + 1
    places = (
        np.where(inside, place - first, 0).astype(np.int64)
        for place, first in ((row, first_row), (col, first_col))
    )
    return Sampled(name, Block(first_row, first_col, height, width), *places, weight)


def edge_distance(row: np.ndarray, col: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the distance to the grid's nearest edge, in pixels, from 1 at the edge; 0 outside. float32."""
    distance = np.minimum(
        np.minimum(row, grid.height - 1 - row), np.minimum(col, grid.width - 1 - col)
    )
    return np.maximum(distance + 1, 0).astype(np.float32)


def own_weight(grid: Grid, block: Block) -> np.ndarray:
    """Return the distance of a block's pixels to the edge of their own tile, float32 [y, x]."""
    row = np.arange(block.row, block.row + block.height)[:, None]
    col = np.arange(block.col, block.col + block.width)[None]
    return edge_distance(row, col, grid)


def combine(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the weighted mean of several tiles' probabilities.

    Parameters
    ----------
    parts : iterable of (written, weight)
        Written probabilities uint8 [class, y, x], 0..250, above where there is none; weight float32 [y, x],
        whole numbers.

    Returns
    -------
    ndarray[class, y, x], float32
        0..1; NaN where no part has a probability. All sums are of whole numbers below 2^24, hence exact: where
        one tile alone counts its value comes back, to the bit.
    """
    total: np.ndarray | None = None
    weights: np.ndarray | None = None
    for written, weight in parts:
        known = np.where(written[0] >= OUTSIDE, np.float32(0), weight)
        part = written * known
        total = part if total is None else total + part
        weights = known if weights is None else weights + known
    mean = total / np.where(weights > 0, weights, 1)
    return np.where(weights > 0, mean / np.float32(SCALE), np.float32(np.nan))


def _centres(grid: Grid, block: Block, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the centres of a block's pixels, float64 [y, x] each."""
    left, x_step, _, top, _, y_step = grid.transform
    rows = np.unique(np.append(np.arange(0, block.height, step), block.height - 1)) + block.row
    cols = np.unique(np.append(np.arange(0, block.width, step), block.width - 1)) + block.col
    x, y = np.meshgrid(left + (cols + 0.5) * x_step, top + (rows + 0.5) * y_step)
    return x, y


def _transformed(
    x: np.ndarray, y: np.ndarray, source: str, target: str
) -> tuple[np.ndarray, np.ndarray]:
    systems = []
    for text in (source, target):
        system = osr.SpatialReference()
        system.SetFromUserInput(text)
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        systems.append(system)
    transform = osr.CoordinateTransformation(*systems)
    points = np.array(transform.TransformPoints(np.stack([x.ravel(), y.ravel()], axis=1)))
    return points[:, 0].reshape(x.shape), points[:, 1].reshape(y.shape)
