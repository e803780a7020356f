"""Reads blocks of bands on the grid of their tile; a fault of a file becomes an AcquisitionError."""

from __future__ import annotations

import math

import numpy as np

from lcu import _acquisition
from lcu.acquisition.alignment import aligned, describe
from lcu.acquisition.model import Acquisition, AcquisitionError, Band, harmonise, whole_shift
from lcu.acquisition.tiles import Tiles, Window
from lcu.grid import Block, Grid


def read_band(
    acquisition: Acquisition,
    band: str,
    block: Block,
    grid: Grid,
    tiles: Tiles | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Read a block of a band on the tile's grid.

    Parameters
    ----------
    block : Block
        Pixels of `grid`.
    grid : Grid
        The tile's grid. Coarser bands are resampled to it by nearest neighbour: each pixel of 20 m
        repeats 2 x 2 times at 10 m, so that no value is invented.
    tiles : Tiles, optional
        Keeps what was decoded and is expected to be needed again.
    out : ndarray [y, x], uint16, optional
        Where the values go; contiguous.

    Returns
    -------
    ndarray [y, x], uint16
        Reflectance x 10000, harmonised over baselines; 0 = nodata.

    Raises
    ------
    AcquisitionError
        When the file is missing, damaged or not on the grid that its metadata state.
    """
    if band not in acquisition.bands:
        raise AcquisitionError(
            f"{acquisition.id}: no band {band}; it has {', '.join(sorted(acquisition.bands))}"
        )
    raster = acquisition.bands[band]
    rows, cols = native_pixels(acquisition, raster, block, grid)
    numbers = _window(acquisition, raster, rows, cols, tiles)
    shift, nodata = whole_shift(raster.scale, raster.offset), raster.nodata
    if numbers.dtype != np.uint16 or shift is None:
        numbers = harmonise(numbers, raster.scale, raster.offset, raster.nodata)
        shift, nodata = 0, 0
    if out is None:
        out = np.empty((block.height, block.width), np.uint16)
    _acquisition.place(numbers, rows - rows[0], cols - cols[0], shift, nodata, out)
    return out


def read_mask(
    acquisition: Acquisition, block: Block, grid: Grid, tiles: Tiles | None = None
) -> np.ndarray:
    """Read a block of the mask on the tile's grid, by nearest neighbour.

    Returns
    -------
    ndarray [y, x], uint8
        SCL classes; 0 = nodata.
    """
    classes, rows, cols = read_mask_around(acquisition, block, grid, 0, tiles)
    return classes.take(rows, axis=0).take(cols, axis=1)


def read_mask_around(
    acquisition: Acquisition, block: Block, grid: Grid, reach: float, tiles: Tiles | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the mask under a block and around it at the mask's own resolution.

    Parameters
    ----------
    reach : float
        How far around the block, in the unit of the CRS (metres); less at the edge of the tile.

    Returns
    -------
    classes : ndarray [native y, native x], uint8
        SCL classes; 0 = nodata.
    rows, cols : ndarray [y], [x], int64
        Where in `classes` the pixels of the block lie.
    """
    if acquisition.mask is None:
        raise AcquisitionError(
            f'{acquisition.id}: no SCL; composite.mask = "none" would do without'
        )
    mask = acquisition.mask
    around = block.grown(math.ceil(reach / grid.resolution), grid)
    rows, cols = native_pixels(acquisition, mask, around, grid)
    classes = _window(acquisition, mask, rows, cols, tiles)
    if classes.size and (classes.min() < 0 or classes.max() > 255):
        raise AcquisitionError(f"{mask.path}: SCL up to {classes.max()}, expected 0 to 11")
    classes = classes.astype(np.uint8)
    if mask.nodata:
        classes[classes == mask.nodata] = 0
    inside_rows, inside_cols = block.inside(around)
    return classes, rows[inside_rows] - rows[0], cols[inside_cols] - cols[0]


def native_pixels(
    acquisition: Acquisition, band: Band, block: Block, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Return the native row of each row of a block, int64 [y], and the columns, int64 [x].

    Raises
    ------
    AcquisitionError
        When the band does not lie on the tile's grid.
    """
    if (
        block.row < 0
        or block.col < 0
        or block.row + block.height > grid.height
        or block.col + block.width > grid.width
    ):
        raise ValueError(f"{block} is not inside the grid ({describe(grid)})")
    if not aligned(band.grid, grid):
        raise AcquisitionError(
            f"{acquisition.id} {band.name}: {band.path}: lies on {describe(band.grid)}, "
            f"its tile on {describe(grid)}"
        )
    row_ratio = grid.transform[5] / band.grid.transform[5]
    col_ratio = grid.transform[1] / band.grid.transform[1]
    rows = _nearest(block.row, block.height, row_ratio, band.grid.height)
    return rows, _nearest(block.col, block.width, col_ratio, band.grid.width)


def _nearest(start: int, count: int, ratio: float, limit: int) -> np.ndarray:
    """Return the native pixel under the centre of each pixel of the block, int64 [count]."""
    pixels = np.floor((np.arange(start, start + count) + 0.5) * ratio + 1e-6).astype(np.int64)
    return np.minimum(pixels, limit - 1)


def _window(
    acquisition: Acquisition, band: Band, rows: np.ndarray, cols: np.ndarray, tiles: Tiles | None
) -> np.ndarray:
    """Read the digital numbers from the first to the last of `rows` and `cols`."""
    window = Window.of(rows, cols)
    return (tiles or Tiles()).read(band, window, f"{acquisition.id} {band.name}: {band.path}")
