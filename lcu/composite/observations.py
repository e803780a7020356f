"""Reads the observations of a unit of work and makes its composite."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lcu import acquisition
from lcu.acquisition import Acquisition, AcquisitionError, Tiles
from lcu.composite.arrays import Clearest, geometric_median, max_ndvi, median, medoid
from lcu.composite.cloud import scl_clear
from lcu.composite.screening import Screening
from lcu.composite.work import Span, reach, windows
from lcu.config import Config
from lcu.grid import Block, Tile, day_number
from lcu.ranks import Failure

log = logging.getLogger(__name__)

# Tells where an acquisition is clear in a block, bool [y, x].
Clear = Callable[[Acquisition, Block], np.ndarray]


@dataclass(frozen=True)
class Result:
    """What became of a unit.

    Attributes
    ----------
    values : ndarray[time, band, y, x], uint16
    count : ndarray[time, y, x], uint8
    day : ndarray[time, y, x], int32, or None
        Where every pixel has days of its own; 0 = no observation.
    """

    values: np.ndarray
    count: np.ndarray
    day: np.ndarray | None = None


class Reader:
    """Reads the observations of one tile; notes the acquisitions that cannot be read.

    Attributes
    ----------
    bad : dict of str to Failure
        By fingerprint. A bad acquisition is passed over from then on.
    """

    def __init__(self, config: Config, tile: Tile, tiles: Tiles, room: np.ndarray) -> None:
        """Read into `room`, uint16, which has place for the largest unit: fresh memory is slow."""
        self.bad: dict[str, Failure] = {}
        self._left_out: set[str] = set()
        self._config = config
        self._tile = tile
        self._tiles = tiles
        self._room = room

    def expect(self, span: Span, blocks: Sequence[Block], but: Sequence[str] = ()) -> None:
        """Say which blocks will be read (all rasters `but` some), so that what they share is decoded once."""
        for item in self._good(span.acquisitions):
            with self._noting(item):
                for block in blocks:
                    for band, window in windows(self._config, item, block, self._tile):
                        if band.name not in but:
                            self._tiles.expect(band, acquisition.tiling_of(band), window)

    def release(self, span: Span, block: Block) -> None:
        """Say that a block was read."""
        for item in self._good(span.acquisitions):
            with self._noting(item):
                for band, window in windows(self._config, item, block, self._tile):
                    self._tiles.release(band, acquisition.tiling_of(band), window)

    def expect_seen(self, span: Span, blocks: Sequence[Block], screening: Screening) -> None:
        """Say which blocks will be looked at for clouds, and their bands read later."""
        for item in self._good(span.acquisitions):
            with self._noting(item):
                for block in blocks:
                    later = windows(self._config, item, block, self._tile)
                    bands = [pair for pair in later if pair[0].name in screening.bands]
                    for band, window in [*screening.windows(item, block), *bands]:
                        self._tiles.expect(band, acquisition.tiling_of(band), window)

    def see(self, span: Span, block: Block, screening: Screening) -> None:
        """Look at a block for clouds."""
        for item in self._good(span.acquisitions):
            with self._noting(item):
                screening.see(item, block, self._tiles)
                for band, window in screening.windows(item, block):
                    self._tiles.release(band, acquisition.tiling_of(band), window)

    def compute(self, span: Span, block: Block, clear: Clear) -> Result:
        """Read the acquisitions of a unit and make its composite."""
        if self._config.own_days:
            return self._clearest(span, block, clear)
        bands, shape = len(self._config.composite.bands), (block.height, block.width)
        size = len(span.acquisitions) * bands * shape[0] * shape[1]
        series = self._room[:size].reshape(len(span.acquisitions), bands, *shape)
        masks: list[np.ndarray] = []
        for item in self._good(span.acquisitions):
            with self._noting(item):
                mask = clear(item, block)
                if mask.any():  # else its bands need not be decoded
                    self._read(item, block, series[len(masks)])
                    masks.append(mask)
        if not masks:
            return Result(np.zeros((1, bands, *shape), np.uint16), np.zeros((1, *shape), np.uint8))
        values, count = combine(self._config, series[: len(masks)], np.stack(masks))
        return Result(values[np.newaxis], count[np.newaxis])

    def _clearest(self, span: Span, block: Block, clear: Clear) -> Result:
        """Keep the observations of the clearest acquisitions, pixel by pixel."""
        bands, shape = len(self._config.composite.bands), (block.height, block.width)
        layers = self._room[: bands * shape[0] * shape[1]].reshape(bands, *shape)
        kept = Clearest(len(span.times), bands, *shape)
        for item in self._good(by_clearness(span.acquisitions)):
            with self._noting(item):
                mask = clear(item, block) & kept.has_room()
                if mask.any():
                    self._read(item, block, layers)
                    kept.add(layers, mask, day_number(item.time))
        values, days = kept.in_time()
        return Result(values, (days > 0).astype(np.uint8), days)

    def _read(self, item: Acquisition, block: Block, layers: np.ndarray) -> None:
        for layer, band in zip(layers, self._config.composite.bands, strict=True):
            acquisition.read_band(item, band, block, self._tile.grid, self._tiles, layer)

    def clear_by_scl(self, item: Acquisition, block: Block) -> np.ndarray:
        """Tell where SCL calls an acquisition clear, bool [y, x]."""
        composite = self._config.composite
        if composite.mask == "none" or item.mask is None:
            return np.ones((block.height, block.width), bool)
        classes, rows, cols = acquisition.read_mask_around(
            item, block, self._tile.grid, reach(self._config), self._tiles
        )
        pixel = item.mask.grid.resolution
        seen = scl_clear(
            classes,
            composite.mask_classes,
            clouds=composite.cloud_buffer / pixel,
            shadows=composite.shadow_buffer / pixel,
        )
        return seen.take(rows, axis=0).take(cols, axis=1)

    def _good(self, items: Sequence[Acquisition]) -> list[Acquisition]:
        return [item for item in items if item.id not in self._left_out]

    @contextlib.contextmanager
    def _noting(self, item: Acquisition) -> Iterator[None]:
        try:
            yield
        except AcquisitionError as error:
            log.warning("%s is left out: %s", item.id, error)
            self._left_out.add(item.id)
            self.bad[item.fingerprint()] = Failure("composite", item.id, str(error))


def by_clearness(items: Sequence[Acquisition]) -> list[Acquisition]:
    """Return acquisitions, the clearest first: by the cloud cover of their metadata, then in time.

    It is known before anything is read and the same in every block. Unknown counts as cloudy.
    """
    return sorted(
        items,
        key=lambda item: (
            100 if item.cloud_cover is None else item.cloud_cover,
            item.time,
            item.id,
        ),
    )


def combine(config: Config, series: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one composite of a period's observations by the method of the configuration."""
    method, bands = config.composite.method, config.composite.bands
    if method == "max-ndvi":
        return max_ndvi(series, clear, red=bands.index("B04"), nir=bands.index("B08"))
    return {"median": median, "geometric-median": geometric_median, "medoid": medoid}[method](
        series, clear
    )
