"""Masks of a whole calendar year at once, for `composite.mask` scl+time.

What SCL missed shows in comparison with the days before and after. So that every JP2 tile is still
decoded once, there are three steps with a barrier between them: each rank reads SCL and three bands of
its own units (the decoded tiles wait for the composites), on a grid of 20 m, into a file that all ranks
of the group share; each rank compares a share of the squares of the tile, all times at once; and the
masks go to a second file, from which the composites read them.

Comparison ends at the calendar year: its shards then depend on no other year's acquisitions.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import acquisition
from lcu.acquisition import Acquisition, Band, Tiles, Window, native_pixels
from lcu.composite.cloud import cloud_halo, cloud_mask
from lcu.composite.work import SQUARE_BYTES, Work
from lcu.config import Config
from lcu.disk import SharedArray
from lcu.grid import Block, Grid, Tile, day_number, split
from lcu.ranks import meet, on_root

# SCL's value for what it could not classify: what a mask is where there is none.
UNCLASSIFIED = 7

# Half the side of the square that shares one opinion, in metres.
SUPPORT = 80

# Bytes of an observation that is compared: three bands, SCL, and what the comparison needs besides.
OBSERVATION_BYTES = 12


def screening_bands(bands: tuple[str, ...]) -> tuple[str, str, str]:
    """Return the bands that are compared: blue, near and short-wave infrared."""
    return "B02", "B8A" if "B8A" in bands else "B08", "B11"


def screening_grid(tile: Tile, item: Acquisition) -> Grid:
    """Return the grid of the comparison: that of B11, or the tile's own where it is coarser."""
    return max(item.bands["B11"].grid, tile.grid, key=lambda grid: grid.resolution)


class Screening:
    """The masks of a shard's acquisitions while the shard is made; a context for one group of ranks."""

    def __init__(self, config: Config, group: MPI.Comm, work: Work) -> None:
        """Make the files beside the shard; a collective call."""
        shard = work.shard.path(config.directory)
        self.bands = screening_bands(config.composite.bands)
        self._config = config
        self._group = group
        self._tile = work.tile
        self.items = sorted(
            (item for span in work.spans for item in span.acquisitions),
            key=lambda item: (item.time, item.id),
        )
        self._layer = {item.id: index for index, item in enumerate(self.items)}
        self.grid = screening_grid(work.tile, self.items[0])
        self._ratio = round(self.grid.resolution / work.tile.grid.resolution)
        self._ground = self._coarse(work.shard.block)
        self._paths = [shard.with_suffix(f".{name}.part") for name in ("seen", "clear")]
        shape = (len(self.items), self._ground.height, self._ground.width)
        shapes = [((4 * shape[0], *shape[1:]), np.uint16), (shape, np.uint8)]
        on_root(group, "making room for masks", _make, self._paths, shapes)
        self._seen, self._clear = (
            SharedArray(path, *kind) for path, kind in zip(self._paths, shapes, strict=True)
        )

    def _coarse(self, block: Block) -> Block:
        """Return a block of the tile's grid on the grid of the comparison."""
        ratio = self._ratio
        row, col = block.row // ratio, block.col // ratio
        end_row = min(-(-(block.row + block.height) // ratio), self.grid.height)
        end_col = min(-(-(block.col + block.width) // ratio), self.grid.width)
        return Block(row, col, end_row - row, end_col - col)

    def _inside(self, block: Block) -> Block:
        """Return a block of the grid of the comparison as rows and columns of the files."""
        return Block(
            block.row - self._ground.row, block.col - self._ground.col, block.height, block.width
        )

    def see(self, item: Acquisition, block: Block, tiles: Tiles) -> None:
        """Read SCL and the bands under a block of the tile's grid and show them to the other ranks."""
        coarse, layer = self._coarse(block), 4 * self._layer[item.id]
        for index, name in enumerate(self.bands):
            values = acquisition.read_band(item, name, coarse, self.grid, tiles)
            self._seen.write(layer + index, self._inside(coarse), values)
        classes = np.full((coarse.height, coarse.width), UNCLASSIFIED, np.uint8)
        if item.mask is not None:
            classes = acquisition.read_mask(item, coarse, self.grid, tiles)
        self._seen.write(layer + 3, self._inside(coarse), classes)

    def windows(self, item: Acquisition, block: Block) -> Iterator[tuple[Band, Window]]:
        """Yield what `see` needs of an acquisition's rasters."""
        bands = [item.bands[name] for name in self.bands] + ([item.mask] if item.mask else [])
        for band in bands:
            yield band, Window.of(*native_pixels(item, band, self._coarse(block), self.grid))

    def compare(self) -> None:
        """Make the masks of this rank's share of squares; a collective call."""
        meet(self._group)
        pixel = self.grid.resolution
        reach = {
            "cloud_buffer": self._config.composite.cloud_buffer / pixel,
            "shadow_buffer": self._config.composite.shadow_buffer / pixel,
            "support": round(SUPPORT / pixel),
        }
        halo = cloud_halo(**reach)
        ground = Grid(self.grid.crs, self.grid.transform, self._ground.height, self._ground.width)
        squares = list(split(ground.whole, square_side(len(self.items), halo)))
        for square in squares[self._group.rank :: self._group.size]:
            around = square.grown(halo, ground)
            clear = self._compared(around, reach)
            for layer, mask in enumerate(clear):
                self._clear.write(layer, square, mask[square.inside(around)])
        meet(self._group)

    def _compared(self, block: Block, reach: dict[str, Any]) -> np.ndarray:
        shape = (len(self.items), block.height, block.width)
        bands, scl = np.empty((shape[0], 3, *shape[1:]), np.uint16), np.empty(shape, np.uint8)
        one = np.empty(shape[1:], np.uint16)
        for index in range(len(self.items)):
            for band in range(3):
                self._seen.read(4 * index + band, block, bands[index, band])
            self._seen.read(4 * index + 3, block, one)
            scl[index] = one
        return cloud_mask(
            scl, bands, [day_number(item.time) for item in self.items],
            blue=0, nir=1, swir=2, classes=self._config.composite.mask_classes, **reach,
        )  # fmt: skip

    def clear(self, item: Acquisition, block: Block) -> np.ndarray:
        """Return where an acquisition is clear in a block of the tile's grid, bool [y, x]."""
        coarse = self._coarse(block)
        mask = np.empty((coarse.height, coarse.width), np.uint8)
        self._clear.read(self._layer[item.id], self._inside(coarse), mask)
        rows = np.arange(block.row, block.row + block.height) // self._ratio - coarse.row
        cols = np.arange(block.col, block.col + block.width) // self._ratio - coarse.col
        rows, cols = np.minimum(rows, coarse.height - 1), np.minimum(cols, coarse.width - 1)
        return mask.view(bool).take(rows, axis=0).take(cols, axis=1)

    def close(self) -> None:
        """Remove the files; a collective call."""
        self._seen.close()
        self._clear.close()
        on_root(self._group, "removing masks", _remove, self._paths)


def square_side(times: int, halo: int) -> int:
    """Return the side of the squares, in pixels, that are compared at once."""
    side = math.isqrt(SQUARE_BYTES // (OBSERVATION_BYTES * max(times, 1))) - 2 * halo
    return max(64, side // 64 * 64)


def _make(paths: list[Path], shapes: list[tuple[tuple[int, int, int], type]]) -> None:
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for path, (shape, dtype) in zip(paths, shapes, strict=True):
        SharedArray.make(path, shape, dtype)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
