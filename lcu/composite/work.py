"""Who makes what: the units of a shard, their costs, the memory and the decoding that they need.

Arithmetic only. A unit of work is one block in one span: all acquisitions that become one composite
there. A rank is given whole spans where that is possible, so that it goes over the tile in one sweep,
in which every JP2 tile is decoded once; a span is cut in two only to fill the ranks evenly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lcu.acquisition import TILE_MEMORY, Acquisition, Band, Tiling, Window, native_pixels
from lcu.composite.composites import periods_of, times_of
from lcu.config import Config, ConfigError
from lcu.grid import Block, Tile, split
from lcu.store import CELL, MOST_PER_SHARD, Shard

# What Python, GDAL, HDF5 and MPI take before any block is read, in bytes.
BASE_MEMORY = 256 << 20

# Bytes of finished series that the ranks of a group write in one round.
ROUND_BYTES = 16 << 20

# Bytes of observations that are compared in time at once.
SQUARE_BYTES = 96 << 20

# How much more than its share a rank may do so that a span stays whole.
SLACK = 0.05


@dataclass(frozen=True)
class Span:
    """What becomes one composite: a period, or the whole year of `composite.method` acquisitions.

    Attributes
    ----------
    times : range
        Positions along the time axis of the shard.
    """

    times: range
    acquisitions: tuple[Acquisition, ...]


def spans_of(config: Config, year: int, acquisitions: Sequence[Acquisition]) -> list[Span]:
    """Return the spans of a calendar year, in time."""
    periods = periods_of(config, year)
    inside = [tuple(item for item in acquisitions if item.time in period) for period in periods]
    if config.own_days:
        every = tuple(item for items in inside for item in items)
        return [Span(range(times_of(config, year)), every)]
    return [Span(range(index, index + 1), items) for index, items in enumerate(inside)]


@dataclass(frozen=True)
class Work:
    """A shard, and which rank of its group makes which of its units.

    Attributes
    ----------
    mark : str
        Fingerprint of the tile and year.
    blocks : list of Block
        Row by row.
    owners : list of list of int
        Rank of each unit, [span][block].
    """

    shard: Shard
    mark: str
    tile: Tile
    spans: list[Span]
    blocks: list[Block]
    owners: list[list[int]]

    def own(self, rank: int) -> list[list[tuple[int, int]]]:
        """Return the runs of a rank: for each span the (span, block) indices of its units."""
        runs = [
            [(span, block) for block, owner in enumerate(owners) if owner == rank]
            for span, owners in enumerate(self.owners)
        ]
        return [run for run in runs if run]


def work_of(
    config: Config,
    shard: Shard,
    mark: str,
    tile: Tile,
    acquisitions: Sequence[Acquisition],
    ranks: int,
) -> Work:
    """Share a shard over the ranks of a group."""
    spans = spans_of(config, shard.year, acquisitions)
    blocks = list(split(shard.block, block_size(config, tile, acquisitions, ranks)))
    owners = divide([[cost(span, block) for block in blocks] for span in spans], ranks)
    return Work(shard, mark, tile, spans, blocks, owners)


def cost(span: Span, block: Block) -> float:
    """Return the expected work of a unit, in acquisitions times pixels.

    A block is not decoded where an acquisition is cloudy all over it, which begins to happen when four
    fifths of the tile are.
    """
    clear = [min(1.0, (100 - (item.cloud_cover or 0)) / 20) for item in span.acquisitions]
    return (sum(0.05 + 0.95 * share for share in clear) + 0.05) * block.height * block.width


def divide(costs: Sequence[Sequence[float]], ranks: int) -> list[list[int]]:
    """Return the rank of each unit, [span][block], so that all ranks have as much to do.

    The largest span goes first, to the rank with least to do; a rank that is full leaves the rest of
    the span to the next one. Every rank computes the same answer.
    """
    target = sum(map(sum, costs)) / ranks
    load = [0.0] * ranks
    owners: list[list[int]] = [[0] * len(blocks) for blocks in costs]
    for span in sorted(range(len(costs)), key=lambda index: (-sum(costs[index]), index)):
        start, blocks = 0, costs[span]
        while start < len(blocks):
            rank = min(range(ranks), key=lambda candidate: (load[candidate], candidate))
            end = start + _fitting(blocks[start:], target - load[rank], SLACK * target)
            owners[span][start:end] = [rank] * (end - start)
            load[rank] += sum(blocks[start:end])
            start = end
    return owners


def _fitting(costs: Sequence[float], room: float, slack: float) -> int:
    """Return how many units, at least one, a rank takes: all where they fit with some slack."""
    if sum(costs) <= room + slack:
        return len(costs)
    count, filled = 1, costs[0]
    while count < len(costs) and filled + costs[count] / 2 <= room:
        filled += costs[count]
        count += 1
    return count


def reach(config: Config) -> float:
    """Return how far around a block its mask is read, in metres."""
    return max(config.composite.cloud_buffer, config.composite.shadow_buffer)


def windows(
    config: Config, acquisition: Acquisition, block: Block, tile: Tile
) -> Iterator[tuple[Band, Window]]:
    """Yield what a block needs of an acquisition's rasters.

    Around a block SCL is needed as far as clouds are grown, but for scl+time, which shares what it saw.
    """
    if config.composite.mask != "none" and acquisition.mask is not None:
        halo = reach(config) if config.composite.mask == "scl" else 0
        around = block.grown(math.ceil(halo / tile.grid.resolution), tile.grid)
        yield (
            acquisition.mask,
            Window.of(*native_pixels(acquisition, acquisition.mask, around, tile.grid)),
        )
    for name in config.composite.bands:
        band = acquisition.bands[name]
        yield band, Window.of(*native_pixels(acquisition, band, block, tile.grid))


# --- stripes: what is written at once ------------------------------------------------------------


def stripes(config: Config, work: Work, ranks: int) -> list[tuple[int, Block]]:
    """Return the parts in which a shard is written, one a rank in each round: (index of block, part).

    A part lies in one block and is made of whole cells, at least one, so that all parts of a round
    take `ROUND_BYTES` at most, or are one cell each. The parts of a row are as wide as each other, to a cell:
    ranks wait in every round for the one that compresses most.
    """
    a_cell = CELL * CELL * series_bytes(config, work.shard.year)
    most = max(1, ROUND_BYTES // (ranks * a_cell))
    parts = []
    for index, block in enumerate(work.blocks):
        bottom, right = block.row + block.height, block.col + block.width
        cells = -(-block.width // CELL)
        count = -(-cells // most)
        edges = [block.col + cells * part // count * CELL for part in range(count)] + [right]
        parts += [
            (index, Block(row, start, min(CELL, bottom - row), end - start))
            for row in range(block.row, bottom, CELL)
            for start, end in itertools.pairwise(edges)
        ]
    return parts


def series_bytes(config: Config, year: int) -> int:
    """Return the bytes of all times of a pixel: reflectance, count and, of acquisitions, the day."""
    day = 4 if config.own_days else 0
    return times_of(config, year) * (2 * len(config.composite.bands) + 1 + day)


# --- memory ---------------------------------------------------------------------------------------


def block_size(config: Config, tile: Tile, acquisitions: Sequence[Acquisition], ranks: int) -> int:
    """Return the side of the blocks: `composite.block`, halved until a rank has the memory for it.

    Raises
    ------
    ConfigError
        Where not even the smallest block fits.
    """
    size = config.composite.block
    while True:
        peak = peak_memory(config, tile, acquisitions, ranks, size)
        if peak <= config.run.memory_per_rank * 2**30:
            return size
        if size == CELL:
            raise ConfigError(
                f"run.memory_per_rank: {config.run.memory_per_rank:g} GiB, but a rank of the composite stage "
                f"needs {peak / 2**30:.2f} GiB even with blocks of {size} pixels; make it larger"
            )
        size = size // 2 // CELL * CELL


def peak_memory(
    config: Config, tile: Tile, acquisitions: Sequence[Acquisition], ranks: int, size: int
) -> int:
    """Return the most memory, in bytes, that a rank needs for blocks of `size` pixels of a tile.

    It follows from the largest number of acquisitions in a span, and not from the tile's size, nor
    from how many spans and years there are (until one cell of series fills a round).
    """
    bands = len(config.composite.bands)
    pixels = min(size, tile.grid.height) * min(size, tile.grid.width)
    # Observations and their masks; one band with its mask and surroundings on the way to them.
    reading = most_acquisitions(config, acquisitions) * pixels * (2 * bands + 1) + 24 * pixels
    if config.own_days:
        reading = (config.composite.count * (2 * bands + 5) + 2 * bands + 24) * pixels
    composite = 2 * pixels * (2 * bands + 1)
    years = config.calendar_years
    a_cell = CELL * CELL * max(series_bytes(config, year) for year in years)
    # Sent at most; received, in order, and in HDF5 before and after it is compressed. A stripe is a rank's part of
    # a round, or a cell.
    writing = max(6 * ROUND_BYTES, (min(ranks, MOST_PER_SHARD) + 5) * a_cell)
    screening = 5 * SQUARE_BYTES // 4 if config.composite.mask == "scl+time" else 0
    return BASE_MEMORY + TILE_MEMORY + max(reading + composite, writing, screening)


def most_acquisitions(config: Config, acquisitions: Sequence[Acquisition]) -> int:
    """Return the largest number of acquisitions in a span."""
    years = config.calendar_years
    return max(
        (len(span.acquisitions) for year in years for span in spans_of(config, year, acquisitions)),
        default=0,
    )


# --- decoding -------------------------------------------------------------------------------------


def decoded_pixels(config: Config, work: Work, tilings: Mapping[str, Tiling]) -> int:
    """Return how many pixels the ranks of a group decode for a shard, clouds not considered.

    `tilings` says how the raster of each band is tiled.
    """
    decoded = 0
    for span, owners in zip(work.spans, work.owners, strict=True):
        touched: set[tuple[int, str, int, int]] = set()
        for block, rank in zip(work.blocks, owners, strict=True):
            for item in span.acquisitions[:1]:  # the others are tiled alike
                for band, window in windows(config, item, block, work.tile):
                    touched.update(
                        (rank, band.name, *place) for place in tilings[band.name].touched(window)
                    )
        once = sum(tilings[name].pixels(row, col) for _, name, row, col in touched)
        decoded += len(span.acquisitions) * once
    return decoded


def file_pixels(config: Config, work: Work) -> float:
    """Return how many pixels the rasters of a shard's acquisitions have on the shard's ground."""
    block, grid = work.shard.block, work.tile.grid
    share = block.height * block.width / (grid.height * grid.width)
    return share * sum(
        band.grid.height * band.grid.width
        for span in work.spans
        for item in span.acquisitions
        for band, _ in windows(config, item, block, work.tile)
    )
