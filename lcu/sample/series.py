"""The series of single pixels: read out of the composites, and gap-filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcu.composite import Composites, fill_gaps
from lcu.grid import Block, Tile
from lcu.sample.draw import Candidates
from lcu.store import CELL, PATCH_SIDE


def read_series(
    composites: Composites, tiles: Sequence[Tile], own: Candidates, *, with_patches: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read what is known of candidates, a cell at a time; they are in reading order.

    Returns
    -------
    series : ndarray[sample, time, band], uint16
    count : ndarray[sample, time], uint8
    patch : ndarray[sample, time, band, 5, 5], uint16, or None
        The series of the pixels around each.
    """
    times, bands = len(composites.periods), len(composites.bands)
    side = PATCH_SIDE if with_patches else 1
    patch = np.zeros((len(own), times, bands, side, side), np.uint16)
    count = np.zeros((len(own), times), np.uint8)
    series = patch[..., side // 2, side // 2]
    if not len(own):
        return series, count, patch if with_patches else None
    cell = np.stack([own.tile, own.row // CELL, own.col // CELL])
    starts = np.flatnonzero(np.any(np.diff(cell, axis=1, prepend=-1) != 0, axis=0))
    for first, last in zip(starts, [*starts[1:], len(own)], strict=True):
        tile = tiles[own.tile[first]]
        corner = own.row[first] // CELL * CELL, own.col[first] // CELL * CELL
        block = Block(
            int(corner[0]), int(corner[1]),
            min(CELL, tile.grid.height - int(corner[0])), min(CELL, tile.grid.width - int(corner[1])),
        )  # fmt: skip
        rows, cols = own.row[first:last] - block.row, own.col[first:last] - block.col
        around = read_around(composites, tile, block, side // 2)
        patch[first:last] = patches(around, rows, cols, side)
        count[first:last] = composites.read_count(tile.id, block)[:, rows, cols].T
    return np.ascontiguousarray(series), count, patch if with_patches else None


def read_around(composites: Composites, tile: Tile, block: Block, reach: int) -> np.ndarray:
    """Read a block and `reach` pixels on each side of it, uint16 [time, band, y, x]; 0 outside the tile."""
    grown = block.grown(reach, tile.grid)
    before = reach - (block.row - grown.row), reach - (block.col - grown.col)
    after = (
        block.height + 2 * reach - grown.height - before[0],
        block.width + 2 * reach - grown.width - before[1],
    )
    edges = ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1]))
    values = composites.read(tile.id, grown)
    return np.pad(values, edges) if any(map(any, edges)) else values


def patches(around: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Cut the squares around pixels out of a raster that reaches as far beyond them.

    Parameters
    ----------
    around : ndarray[time, band, y + side - 1, x + side - 1]
    rows, cols : ndarray[pixel], int
        On the grid without the margin.
    side : int
        Odd; 1 cuts single pixels.

    Returns
    -------
    ndarray[pixel, time, band, side, side]
    """
    squares = np.lib.stride_tricks.sliding_window_view(around, (side, side), axis=(-2, -1))
    return np.ascontiguousarray(squares[:, :, rows, cols].transpose(2, 0, 1, 3, 4))


def fill_series(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Fill the gaps of pixels' series over all years.

    Parameters
    ----------
    series : ndarray[sample, time, band] or [sample, time, band, 5, 5], uint16
    days : ndarray[time], int32

    Returns
    -------
    ndarray of the same shape, uint16
    """
    if not len(series):
        return series
    as_raster = np.ascontiguousarray(np.moveaxis(series, 0, 2))
    row = *as_raster.shape[:2], 1, -1  # one long row: the kernel goes along rows
    filled, _ = fill_gaps(as_raster.reshape(row), days)
    return np.ascontiguousarray(np.moveaxis(filled.reshape(as_raster.shape), 2, 0))
