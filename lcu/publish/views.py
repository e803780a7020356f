"""The maps of a tile as small images for the report's viewer: one byte a pixel, the value itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcu.grid import Block, Grid, Tile
from lcu.legend import NODATA
from lcu.publish import preview

# Pixels of all images of a page together. Class maps take about a quarter of a byte a pixel, so
# that the page stays near 10 MB, however large the run is.
PIXELS = 40_000_000
# Confidence is shown in steps: its last digit is noise, and would be most of the page.
STEP = 10
# Counts of clear observations above this are shown as this.
MOST_OBSERVATIONS = 250

Blocks = Iterable[tuple[Block, np.ndarray]]


@dataclass(frozen=True)
class Image:
    """A layer of a tile, as the viewer takes it.

    Attributes
    ----------
    kind : str
        What the values are: ``classes``, ``change``, ``confidence`` or ``observations``.
    year : int or None
        None of the old map.
    name, short : str
        What the page calls it, whole and in a table.
    png : str
        The values as a grey PNG of 8 bits, in base64.
    file : str
        Name of the GeoTIFF in ``maps/`` that it was made from; empty where there is none.
    reference : bool
        It is to be compared with, and no map of this run.
    """

    kind: str
    year: int | None
    name: str
    short: str
    png: str
    file: str = ""
    reference: bool = False


@dataclass(frozen=True)
class View:
    """A tile in the viewer.

    Attributes
    ----------
    stride : int
        Pixels of the tile that one of the viewer's `height` x `width` pixels stands for, along each side.
    metres : float or None
        Side of a pixel of the viewer; None where the grid has no metres.
    most_observations : int
        Largest number of clear observations in it.
    """

    tile: str
    height: int
    width: int
    stride: int
    metres: float | None
    most_observations: int
    images: tuple[Image, ...]


def stride_of(tiles: Iterable[Tile], layers: int) -> int:
    """Return how many pixels of the tiles become one of the viewer, along each side.

    `layers` is the number of images of each tile.
    """
    pixels = layers * sum(tile.grid.height * tile.grid.width for tile in tiles)
    return max(1, math.ceil(math.sqrt(pixels / PIXELS)))


def shrink_confidence(blocks: Blocks, grid: Grid, stride: int) -> np.ndarray:
    """Return confidence 0..100 in steps of `STEP`, uint8 [y, x]; 255 = nodata."""
    small = preview.join(
        ((block, average(values, stride, NODATA)) for block, values in blocks), grid, stride
    )
    return np.where(small == NODATA, NODATA, small // STEP * STEP).astype(np.uint8)


def shrink_observations(blocks: Blocks, grid: Grid, stride: int) -> np.ndarray:
    """Return clear observations, at most `MOST_OBSERVATIONS`, uint8 [y, x]."""
    return preview.join(
        (
            (block, average(np.minimum(values, MOST_OBSERVATIONS), stride, NODATA))
            for block, values in blocks
        ),
        grid,
        stride,
    )


def average(values: np.ndarray, stride: int, nodata: int) -> np.ndarray:
    """Return the mean, rounded down, of each square of `stride` pixels: uint8 [y, x] of [y, x].

    Pixels that are `nodata` do not count; a square without any other is nodata.
    """
    height, width = values.shape
    edges = ((0, -height % stride), (0, -width % stride))
    padded = np.pad(values.astype(np.int64), edges, constant_values=nodata)
    squares = padded.reshape(padded.shape[0] // stride, stride, -1, stride)
    there = squares != nodata
    number = there.sum(axis=(1, 3))
    total = np.where(there, squares, 0).sum(axis=(1, 3))
    return np.where(number > 0, total // np.maximum(number, 1), nodata).astype(np.uint8)


def encode(values: np.ndarray) -> str:
    """Return uint8 [y, x] as a grey PNG in base64."""
    # Here and not above, as matplotlib in `preview`: nobody else needs it.
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(values).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
