"""The series of single pixels: read out of the composites, and gap-filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcu.composite import Composites, fill_gaps, resample
from lcu.grid import Block, Tile
from lcu.sample.draw import Candidates
from lcu.store import CELL, PATCH_SIDE


def read_series(
    composites: Composites, tiles: Sequence[Tile], own: Candidates, *, with_patches: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Read what is known of candidates, a cell at a time; they are in reading order.

    Returns
    -------
    series : ndarray[sample, time, band], uint16
    count : ndarray[sample, time], uint8
    day : ndarray[sample, time], int32
        Days since 2015-01-01; 0 = no observation, where every pixel has days of its own.
    patch : ndarray[sample, time, band, 5, 5], uint16, or None
        The series of the pixels around each; where every pixel has days of its own, time is the periods, without gaps.
    """
    times, bands = composites.times, len(composites.bands)
    reach = PATCH_SIDE // 2 if with_patches else 0
    series = np.zeros((len(own), times, bands), np.uint16)
    count = np.zeros((len(own), times), np.uint8)
    day = np.zeros((len(own), times), np.int32)
    patch = None
    if with_patches:
        periods = len(composites.periods)
        patch = np.zeros((len(own), periods, bands, PATCH_SIDE, PATCH_SIDE), np.uint16)
    if not len(own):
        return series, count, day, patch
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
        around, days = read_around(composites, tile, block, reach)
        series[first:last] = around[:, :, rows + reach, cols + reach].transpose(2, 0, 1)
        count[first:last] = composites.read_count(tile.id, block)[:, rows, cols].T
        day[first:last] = days[:, rows + reach, cols + reach].T
        if patch is not None:
            regular = composites.at_periods(around, days) if composites.own_days else around
            patch[first:last] = patches(regular, rows, cols, PATCH_SIDE)
    return series, count, day, patch


def read_around(
    composites: Composites, tile: Tile, block: Block, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read a block and `reach` pixels on each side of it.

    Returns
    -------
    reflectance : ndarray[time, band, y, x], uint16
        0 outside the tile.
    days : ndarray[time, y, x], int32
        As `Composites.read_days` returns them; 0 outside the tile.
    """
    grown = block.grown(reach, tile.grid)
    before = reach - (block.row - grown.row), reach - (block.col - grown.col)
    after = (
        block.height + 2 * reach - grown.height - before[0],
        block.width + 2 * reach - grown.width - before[1],
    )
    edges = tuple(zip(before, after, strict=True))
    values, days = composites.read(tile.id, grown), composites.read_days(tile.id, grown)
    if any(map(any, edges)):
        values = np.pad(values, ((0, 0), (0, 0), *edges))
        days = np.pad(days, ((0, 0), *edges))
    return values, days


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


def are_periods(day: np.ndarray, middles: np.ndarray) -> bool:
    """Tell whether the days of all samples, [sample, time], are the middles of the periods."""
    return np.array_equal(day, np.broadcast_to(middles, (len(day), len(middles))))


def fill_series(series: np.ndarray, day: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return pixels' series without gaps at the middle of each period.

    Parameters
    ----------
    series : ndarray[sample, time, band] or [sample, time, band, 5, 5], uint16
    day : ndarray[sample, time], int32
        The same middles for all of composites; 0 = no observation.
    middles : ndarray[period], int32

    Returns
    -------
    ndarray[sample, period, band] or [sample, period, band, 5, 5], uint16
    """
    if not len(series):
        return np.zeros((0, len(middles), *series.shape[2:]), np.uint16)
    as_raster = np.ascontiguousarray(np.moveaxis(series, 0, 2))
    row = *as_raster.shape[:2], 1, -1  # one long row: the kernels go along rows
    if are_periods(day, middles):
        filled, _ = fill_gaps(as_raster.reshape(row), middles)
    else:
        filled = resample(as_raster.reshape(row), day.T[:, None], middles)
    shape = len(middles), *as_raster.shape[1:]
    return np.ascontiguousarray(np.moveaxis(filled.reshape(shape), 2, 0))


def fill_patches(patch: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return the patches that `read_series` returns without gaps, uint16 [sample, period, band, 5, 5]."""
    return fill_series(patch, np.broadcast_to(middles, (len(patch), len(middles))), middles)
