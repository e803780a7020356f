"""The series of single pixels: read out of the composites, and gap-filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcu.composite import Composites, fill_gaps
from lcu.grid import Block, Tile
from lcu.sample.draw import Candidates
from lcu.store import CELL


def read_series(
    composites: Composites, tiles: Sequence[Tile], own: Candidates
) -> tuple[np.ndarray, np.ndarray]:
    """Read series uint16 [sample, time, band] and counts uint8 [sample, time], a cell at a time.

    The candidates are in reading order.
    """
    times, bands = len(composites.periods), len(composites.bands)
    series = np.zeros((len(own), times, bands), np.uint16)
    count = np.zeros((len(own), times), np.uint8)
    if not len(own):
        return series, count
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
        series[first:last] = composites.read(tile.id, block)[:, :, rows, cols].transpose(2, 0, 1)
        count[first:last] = composites.read_count(tile.id, block)[:, rows, cols].T
    return series, count


def fill_series(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Fill the gaps of pixels' series over all years.

    Parameters
    ----------
    series : ndarray[sample, time, band], uint16
    days : ndarray[time], int32

    Returns
    -------
    ndarray[sample, time, band], uint16
    """
    as_raster = np.ascontiguousarray(series.transpose(1, 2, 0))[:, :, None, :]
    filled, _ = fill_gaps(as_raster, days)
    return np.ascontiguousarray(filled[:, :, 0, :].transpose(2, 0, 1))
