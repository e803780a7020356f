"""Decodes the tiles of rasters, each once as long as it is known that they will be needed again.

A JP2 file is a grid of tiles that can only be decoded whole, and decoding is most of what reading
costs. The tiles of bands of 10, 20 and 60 m do not line up, so that most blocks touch tiles that the
next block needs too. Who reads says beforehand which windows it will need (`expect`) and when it is
done with each (`release`); a tile is kept until the last of them is released: in memory, and beyond a
budget in a scratch file. Nothing is kept of what nobody expects.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from osgeo import gdal

from lcu.acquisition import rasters
from lcu.acquisition.model import AcquisitionError, Band
from lcu.clock import spending
from lcu.disk import Place, Scratch

# Decoded tiles that stay in memory, in bytes; the others wait in the scratch file.
TILE_MEMORY = 128 << 20

# Blocks of a TIFF may be single rows: such are read together, so that no tile has a side below this.
LEAST_SIDE = 128


class Window(NamedTuple):
    """Pixels of a raster, [row, end_row) x [col, end_col)."""

    row: int
    end_row: int
    col: int
    end_col: int

    @classmethod
    def of(cls, rows: np.ndarray, cols: np.ndarray) -> Window:
        """Return the window from the first to the last of ascending rows and columns."""
        return cls(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)


@dataclass(frozen=True)
class Tiling:
    """How a raster of `height` x `width` pixels is cut into tiles that are decoded whole."""

    height: int
    width: int
    tile_height: int
    tile_width: int

    def touched(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield (row, column) of the tiles that a window touches."""
        for row in range(window.row // self.tile_height, -(-window.end_row // self.tile_height)):
            for col in range(window.col // self.tile_width, -(-window.end_col // self.tile_width)):
                yield row, col

    def window(self, row: int, col: int) -> Window:
        """Return the pixels of a tile; those at the edge are cut off."""
        top, left = row * self.tile_height, col * self.tile_width
        bottom = min(top + self.tile_height, self.height)
        return Window(top, bottom, left, min(left + self.tile_width, self.width))

    def pixels(self, row: int, col: int) -> int:
        """Return how many pixels a tile has."""
        top, bottom, left, right = self.window(row, col)
        return (bottom - top) * (right - left)


def tiling_of(band: Band) -> Tiling:
    """Open a raster and return how it is tiled; AcquisitionError where it cannot be opened."""
    with rasters.named(f"{band.name}: {band.path}"):
        return _tiling(rasters.dataset_of(band))


def _tiling(dataset: gdal.Dataset) -> Tiling:
    height, width = dataset.RasterYSize, dataset.RasterXSize
    block_width, block_height = dataset.GetRasterBand(1).GetBlockSize()
    together = (-(-LEAST_SIDE // side) for side in (block_height, block_width))
    down, across = together
    return Tiling(height, width, min(height, down * block_height), min(width, across * block_width))


class Tiles:
    """The decoded tiles of a process.

    Attributes
    ----------
    decoded : int
        Pixels that were decoded, each time that they were.
    """

    def __init__(self, folder: Path | None = None, memory: int = TILE_MEMORY) -> None:
        """Keep what is expected within `memory` bytes, the rest in a scratch file in `folder`."""
        self.decoded = 0
        self._memory = memory
        self._folder = folder
        self._scratch: Scratch | None = None
        self._uses: Counter[tuple[str, int, int]] = Counter()
        self._kept: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self._spilled: dict[tuple[str, int, int], Place] = {}
        self._bytes = 0

    def expect(self, band: Band, tiling: Tiling, window: Window) -> None:
        """Say that a window will be needed once more."""
        self._uses.update((band.path, *tile) for tile in tiling.touched(window))

    def release(self, band: Band, tiling: Tiling, window: Window) -> None:
        """Say that an expected window was read, or will not be; forget tiles that nobody expects."""
        for tile in tiling.touched(window):
            key = (band.path, *tile)
            self._uses[key] -= 1
            if self._uses[key] <= 0:
                self._forget(key)

    @spending("reading")
    def read(self, band: Band, window: Window, label: str) -> np.ndarray:
        """Return the digital numbers of a window, [y, x]; AcquisitionError, with `label`, of a fault."""
        with rasters.named(label):
            dataset = rasters.dataset_of(band)
            tiling = _tiling(dataset)
        values: np.ndarray | None = None
        for row, col in tiling.touched(window):
            place = tiling.window(row, col)
            tile = self._tile(band, dataset, row, col, place, label)
            if place == window:
                return tile
            if values is None:
                shape = (window.end_row - window.row, window.end_col - window.col)
                values = np.empty(shape, tile.dtype)
            inside, within = _overlap(window, place)
            values[inside] = tile[within]
        return values

    def close(self) -> None:
        """Forget everything and give the scratch file back."""
        self._uses.clear()
        self._kept.clear()
        self._spilled.clear()
        self._bytes = 0
        if self._scratch:
            self._scratch.close()
            self._scratch = None

    def _tile(
        self, band: Band, dataset: gdal.Dataset, row: int, col: int, place: Window, label: str
    ) -> np.ndarray:
        key = (band.path, row, col)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key in self._spilled:
            tile = self._scratch.get(self._spilled[key])
        else:
            tile = decode(band, dataset, place, label)
            self.decoded += tile.size
        if self._uses[key] > 1:  # the reader at hand is one of those who expect it
            self._keep(key, tile)
        return tile

    def _keep(self, key: tuple[str, int, int], tile: np.ndarray) -> None:
        self._kept[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > self._memory and len(self._kept) > 1:
            oldest, values = self._kept.popitem(last=False)
            self._bytes -= values.nbytes
            if oldest not in self._spilled:
                self._spill(oldest, values)

    def _spill(self, key: tuple[str, int, int], tile: np.ndarray) -> None:
        if self._scratch is None:
            self._scratch = Scratch(self._folder)
        self._spilled[key] = self._scratch.put(tile)

    def _forget(self, key: tuple[str, int, int]) -> None:
        del self._uses[key]
        tile = self._kept.pop(key, None)
        if tile is not None:
            self._bytes -= tile.nbytes
        place = self._spilled.pop(key, None)
        if place is not None:
            self._scratch.free(place)


def decode(band: Band, dataset: gdal.Dataset, place: Window, label: str) -> np.ndarray:
    """Decode pixels of an open raster, [y, x]; AcquisitionError where it is damaged."""
    height, width = place.end_row - place.row, place.end_col - place.col
    with rasters.named(label), rasters.warnings() as said:
        values = dataset.GetRasterBand(1).ReadAsArray(place.col, place.row, width, height)
    if said or values is None:  # OpenJPEG returns what it could decode of a damaged file and warns
        rasters.close(band.path)
        raise AcquisitionError(f"{label}: damaged ({'; '.join(said[:1])}); fetch it again")
    return values


def check_readable(band: Band) -> None:
    """Decode a raster, tile by tile, and keep nothing; AcquisitionError where that fails."""
    label = f"{band.name}: {band.path}"
    tiling = tiling_of(band)
    for row, col in tiling.touched(Window(0, tiling.height, 0, tiling.width)):
        decode(band, rasters.dataset_of(band), tiling.window(row, col), label)


def _overlap(window: Window, place: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return what a window and a tile share, as indices of either."""
    top, bottom = max(window.row, place.row), min(window.end_row, place.end_row)
    left, right = max(window.col, place.col), min(window.end_col, place.end_col)
    inside, within = (
        (slice(top - outer.row, bottom - outer.row), slice(left - outer.col, right - outer.col))
        for outer in (window, place)
    )
    return inside, within
