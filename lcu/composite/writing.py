"""Writes a shard: the ranks of a group exchange what they made, then each writes whole series.

The results of a unit wait in the scratch file as bytes, cut into the parts that are written together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import store
from lcu.clock import spending
from lcu.composite.composites import middles_of, periods_of, times_of
from lcu.composite.observations import Result
from lcu.composite.work import Work
from lcu.config import Config, provenance
from lcu.disk import Place, Scratch
from lcu.grid import Block, Period, Tile
from lcu.store import CELL, CLEAR_COUNT, DAY, DAY_OF_PIXEL, REFLECTANCE, Piece, Shard

# (index of the span, index of the part) -> where the result waits
Waiting = dict[tuple[int, int], Place]


@spending("writing")
def write_shard(
    config: Config,
    group: MPI.Comm,
    work: Work,
    parts: Sequence[tuple[int, Block]],
    waiting: Waiting,
    scratch: Scratch,
) -> None:
    """Write a shard together, in rounds: each rank writes whole series of one part of it."""
    shard, bands = work.shard, len(config.composite.bands)
    times, block = times_of(config, shard.year), shard.block
    days = day_dataset(config)
    plane = (times, block.height, block.width)
    layout = {
        REFLECTANCE: ((times, bands, *plane[1:]), (times, bands, CELL, CELL)),
        CLEAR_COUNT: (plane, (times, CELL, CELL)),
        days: (plane, (times, CELL, CELL)) if days is DAY_OF_PIXEL else ((times,), None),
    }
    path = shard.path(config.directory)
    periods = periods_of(config, shard.year)
    file = store.create(path, group, layout, _attributes(config, shard, work.tile, periods))
    if days is DAY:
        middles = middles_of(periods)
        store.write_round(file, DAY, Piece(middles, (0,)) if group.rank == 0 else None)
    for first in range(0, len(parts), group.size):
        here = parts[first : first + group.size]
        series = _exchange(config, group, work, here, first, waiting, scratch)
        pieces: dict[store.Dataset, Piece | None] = {REFLECTANCE: None, CLEAR_COUNT: None}
        pieces |= {days: None} if days is DAY_OF_PIXEL else {}
        if series is not None:
            _, part = here[group.rank]
            row, col = part.row - block.row, part.col - block.col
            pieces[REFLECTANCE] = Piece(series.values, (0, 0, row, col))
            pieces[CLEAR_COUNT] = Piece(series.count, (0, row, col))
            if series.day is not None:
                pieces[days] = Piece(series.day, (0, row, col))
        for dataset, piece in pieces.items():
            store.write_round(file, dataset, piece)
    store.finish(file, path, group, store.shard_mark(work.mark, shard))


def _exchange(
    config: Config,
    group: MPI.Comm,
    work: Work,
    here: Sequence[tuple[int, Block]],
    first: int,
    waiting: Waiting,
    scratch: Scratch,
) -> Result | None:
    """Give every rank the whole series of its part of a round; None where it has no part.

    `here` are the parts of the round, one a rank; `first` is the index of the first of them.
    """
    own = [
        [scratch.get(waiting[span, first + rank]) for span, owners in enumerate(work.owners)
         if owners[block] == group.rank]
        for rank, (block, _) in enumerate(here)
    ]  # fmt: skip
    outgoing = np.concatenate([np.empty(0, np.uint8), *(one for parts in own for one in parts)])
    sent = np.zeros(group.size, np.int64)
    sent[: len(own)] = [sum(one.size for one in parts) for parts in own]
    received = np.zeros(group.size, np.int64)
    group.Alltoall(sent, received)
    incoming = np.empty(received.sum(), np.uint8)
    group.Alltoallv([outgoing, sent, MPI.BYTE], [incoming, received, MPI.BYTE])
    if group.rank >= len(here):
        return None
    starts = np.cumsum(received) - received
    return _in_order(config, work, here[group.rank], incoming, starts)


def _in_order(
    config: Config, work: Work, part: tuple[int, Block], incoming: np.ndarray, starts: np.ndarray
) -> Result:
    """Put what all ranks sent of a part into the order of time."""
    (index, block), bands = part, len(config.composite.bands)
    times = times_of(config, work.shard.year)
    with_days = day_dataset(config) is DAY_OF_PIXEL
    shape = (times, block.height, block.width)
    series = Result(
        np.empty((times, bands, *shape[1:]), np.uint16),
        np.empty(shape, np.uint8),
        np.empty(shape, np.int32) if with_days else None,
    )
    starts = starts.copy()
    for span, owners in zip(work.spans, work.owners, strict=True):
        start = starts[owners[index]]
        one = unpack(incoming[start:], len(span.times), bands, block, with_days)
        where = slice(span.times.start, span.times.stop)
        series.values[where], series.count[where] = one.values, one.count
        if with_days:
            series.day[where] = one.day
        starts[owners[index]] += (
            len(span.times) * block.height * block.width * (2 * bands + 1 + 4 * with_days)
        )
    return series


def pack(result: Result, where: tuple[slice, slice]) -> np.ndarray:
    """Return part of a result as bytes: reflectance, count, and days where there are some."""
    arrays = [result.values, result.count] + ([] if result.day is None else [result.day])
    return np.concatenate([array[(..., *where)].ravel().view(np.uint8) for array in arrays])


def unpack(bytes_: np.ndarray, times: int, bands: int, part: Block, with_days: bool) -> Result:
    """Return the result that `pack` made bytes of."""
    pixels = times * part.height * part.width
    ends = np.cumsum([2 * bands * pixels, pixels, 4 * pixels if with_days else 0])
    values, count, day = np.split(bytes_[: ends[-1]], ends[:-1])
    shape = (times, part.height, part.width)
    return Result(
        values.copy().view(np.uint16).reshape(times, bands, *shape[1:]),
        count.reshape(shape),
        day.copy().view(np.int32).reshape(shape) if with_days else None,
    )


def day_dataset(config: Config) -> store.Dataset:
    """Return which dataset holds the days: one for each time, or one for each pixel."""
    return DAY_OF_PIXEL if config.own_days else DAY


def _attributes(
    config: Config, shard: Shard, tile: Tile, periods: Sequence[Period]
) -> dict[str, Any]:
    return {
        "tile": shard.tile,
        "year": shard.year,
        "crs": tile.grid.crs,
        "transform": tile.grid.part(shard.block).transform,
        "row": shard.block.row,
        "col": shard.block.col,
        "bands": ", ".join(config.composite.bands),
        "periods": ", ".join(f"{period.start}/{period.end}" for period in periods),
        "configuration": provenance(config),
    }
