"""The shell of the composite stage.

A unit of work is one block and one period: its acquisitions are read once and become one composite.
The ranks of a group share the units of a shard by the number of acquisitions, compute without
communicating, and then write the shard together, one block a round.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import acquisition, store
from lcu.acquisition import Acquisition, AcquisitionError
from lcu.composite.arrays import geometric_median, max_ndvi, median, medoid, scl_clear
from lcu.config import Config, ConfigError, provenance
from lcu.grid import Block, Period, Tile, split
from lcu.ranks import Failure, gather, on_root, share
from lcu.store import CELL, CLEAR_COUNT, DAY, REFLECTANCE, Piece, Shard

log = logging.getLogger(__name__)

# What Python, GDAL, HDF5 and MPI take before any block is read, in bytes.
BASE_MEMORY = 400 << 20


@dataclass(frozen=True)
class Composites:
    """What the stage left in the run directory: the way in for all later stages.

    Attributes
    ----------
    tiles : dict of str to Tile
    periods : list of Period
        All periods of the run, in time; the first axis of `read`.
    marks : dict
        (tile id, calendar year) -> fingerprint.
    """

    directory: Path
    tiles: dict[str, Tile]
    periods: list[Period]
    bands: tuple[str, ...]
    shard: int
    marks: dict[tuple[str, int], str]

    @classmethod
    def open(cls, config: Config) -> Composites:
        """Read the index that the stage wrote; StoreError where it is missing or of another run."""
        index = store.read_json(config.directory / "composites" / "index.json", "composite")
        if index["configuration"] != configuration_mark(config):
            raise store.StoreError(
                f"{config.directory / 'composites'} was made with another configuration; "
                "run the stage `composite` again"
            )
        tiles = {
            name: Tile(name, store.grid_from(entry["grid"]))
            for name, entry in index["tiles"].items()
        }
        marks = {
            (name, int(year)): mark
            for name, entry in index["tiles"].items()
            for year, mark in entry["years"].items()
        }
        return cls(
            config.directory,
            tiles,
            config.periods,
            config.composite.bands,
            config.composite.shard,
            marks,
        )

    @property
    def days(self) -> np.ndarray:
        """Middle of each period, int32 [time], days since 2015-01-01."""
        return np.array([period.middle for period in self.periods], np.int32)

    @property
    def years(self) -> list[int]:
        """Calendar years that are on disk, margins included."""
        return sorted({period.start.year for period in self.periods})

    def fingerprint(self, tile: str) -> str:
        """Return what everything read from a tile depends on."""
        return store.fingerprint([self.marks[tile, year] for year in self.years])

    def read(self, tile: str, block: Block) -> np.ndarray:
        """Read reflectance, uint16 [time, band, y, x], 0 = nodata, over all periods of the run."""
        return self._read(tile, block, REFLECTANCE)

    def read_count(self, tile: str, block: Block) -> np.ndarray:
        """Read clear observations, uint8 [time, y, x], over all periods of the run."""
        return self._read(tile, block, CLEAR_COUNT)

    def _read(self, tile: str, block: Block, dataset: store.Dataset) -> np.ndarray:
        parts = [
            store.read_block(
                self.directory, "composites", self.tiles[tile], year, self.shard,
                self.marks[tile, year], dataset, block,
            )
            for year in self.years
        ]  # fmt: skip
        return np.concatenate(parts)


@dataclass(frozen=True)
class Unit:
    """One block in one period."""

    block: Block
    position: int
    acquisitions: tuple[Acquisition, ...]


@dataclass(frozen=True)
class Part:
    """What a rank makes of one block of a shard: the composites of some of its periods.

    Attributes
    ----------
    times : tuple of int
        Positions of the periods in the shard, ascending.
    values : ndarray[time, band, y, x], uint16
    counts : ndarray[time, y, x], uint8
    """

    times: tuple[int, ...]
    values: np.ndarray
    counts: np.ndarray


def configuration_mark(config: Config) -> str:
    """Return the fingerprint of the configuration keys that composites depend on."""
    table = config.table()
    archive = {name: value for name, value in table["archive"].items() if name != "path"}
    return store.fingerprint("composites 1", archive, table["composite"])


def run(config: Config, comm: MPI.Comm, report: Any) -> tuple[list[Failure], str]:
    """Make the composites of all tiles and years; leave alone what is whole already.

    Parameters
    ----------
    report : callable(done, total, what)
        Called on rank 0 after every shard.

    Returns
    -------
    failures : list of Failure
        Acquisitions that could not be used and tile-years without data, the same on every rank.
    summary : str
        What there is now, in a line.
    """
    found, tiles, failures = acquisition.find(config, comm)
    for name, tile in tiles.items():
        check_memory(config, peak_memory(config, tile, found[name], comm.size))
    unreadable = on_root(comm, "reading unreadable.json", _known_unreadable, config)
    failures += [item for name, item in unreadable.items() if _is_of(name, found)]
    found = {
        tile: [item for item in of if item.fingerprint() not in unreadable]
        for tile, of in found.items()
    }
    while True:
        bad = _make_shards(config, comm, found, tiles, report)
        if not bad:
            break
        # An acquisition that failed in one block is left out of all, so that the result does not
        # depend on how the tile was cut; the shards that it is in are made anew without it.
        for tile in found:
            found[tile] = [item for item in found[tile] if item.fingerprint() not in bad]
        failures += bad.values()
        unreadable |= bad
    failures += _empty_years(config, found, tiles)
    on_root(comm, "writing the index of composites", _write_index, config, found, tiles, unreadable)
    count = sum(map(len, found.values()))
    summary = f"{count} acquisitions of {len(tiles)} tiles in {len(config.periods)} periods"
    return sorted(set(failures), key=repr), summary


def _known_unreadable(config: Config) -> dict[str, Failure]:
    """Acquisitions that an earlier start of this run found unreadable, by fingerprint."""
    path = config.directory / "composites" / "unreadable.json"
    if not path.exists():
        return {}
    known = store.read_json(path, "composite")
    return {name: Failure("composite", *entry) for name, entry in known.items()}


def _is_of(name: str, found: dict[str, list[Acquisition]]) -> bool:
    return any(item.fingerprint() == name for of in found.values() for item in of)


def _empty_years(
    config: Config, found: dict[str, list[Acquisition]], tiles: dict[str, Tile]
) -> list[Failure]:
    failures = []
    for tile in tiles:
        present = {item.time.year for item in found[tile]}
        failures += [
            Failure(
                "composite",
                f"{tile} {year}",
                "no acquisition can be used: the maps of this year are nodata",
            )
            for year in config.archive.years
            if year not in present
        ]
    return failures


def _write_index(
    config: Config,
    found: dict[str, list[Acquisition]],
    tiles: dict[str, Tile],
    unreadable: dict[str, Failure],
) -> None:
    years = {period.start.year for period in config.periods}
    entries = {
        name: {
            "grid": store.describe_grid(tile.grid),
            "years": {str(year): year_mark(config, tile, found[name], year) for year in years},
            "acquisitions": [item.id for item in found[name]],
        }
        for name, tile in tiles.items()
    }
    folder = config.directory / "composites"
    store.write_json(
        folder / "unreadable.json",
        {name: [item.unit, item.reason] for name, item in unreadable.items()},
    )
    store.write_json(
        folder / "index.json", {"configuration": configuration_mark(config), "tiles": entries}
    )
    times = {year: len(_periods_of(config, year)) for year in sorted(years)}
    for name, tile in tiles.items():
        mark = store.fingerprint("virtual", entries[name])
        store.write_virtual(
            config.directory,
            tile,
            sorted(years),
            times,
            len(config.composite.bands),
            config.composite.shard,
            mark,
        )


def _periods_of(config: Config, year: int) -> list[Period]:
    return [period for period in config.periods if period.start.year == year]


def year_mark(config: Config, tile: Tile, acquisitions: Sequence[Acquisition], year: int) -> str:
    """Return the fingerprint of one tile and calendar year: everything its composites follow from."""
    periods = _periods_of(config, year)
    inside = [
        item.fingerprint()
        for item in acquisitions
        if any(item.time in period for period in periods)
    ]
    spans = [(period.start, period.end) for period in periods]
    keys = {name: value for name, value in config.table()["composite"].items() if name != "block"}
    return store.fingerprint("composites 1", keys, store.describe_grid(tile.grid), spans, inside)


# --- shards ---------------------------------------------------------------------------------------


def _make_shards(
    config: Config,
    comm: MPI.Comm,
    found: dict[str, list[Acquisition]],
    tiles: dict[str, Tile],
    report: Any,
) -> dict[str, Failure]:
    """Make every shard that is not whole; return the acquisitions that could not be read."""
    todo = on_root(comm, "looking for finished composites", _left, config, found, tiles)
    group, index, count = store.groups(comm, len(todo))
    costs = [
        sum(len(unit.acquisitions) + 0.1 for unit in units(config, shard, found[shard.tile]))
        * shard.block.height
        for shard, _ in todo
    ]
    owner = share(costs, count)
    own = [item for item, who in zip(todo, owner, strict=True) if who == index]
    bad: dict[str, Failure] = {}
    for done, (shard, mark) in enumerate(own):
        bad |= _make_shard(config, group, shard, mark, found[shard.tile], tiles[shard.tile])
        report(min((done + 1) * count, len(todo)), len(todo), "shards")
    group.Free()
    merged: dict[str, Failure] = {}
    for name, failure in gather(bad.items(), comm):
        merged.setdefault(name, failure)
    return merged


def _left(
    config: Config, found: dict[str, list[Acquisition]], tiles: dict[str, Tile]
) -> list[tuple[Shard, str]]:
    left = []
    for name, tile in tiles.items():
        for year in sorted({period.start.year for period in config.periods}):
            mark = year_mark(config, tile, found[name], year)
            for shard in store.shards("composites", tile, year, config.composite.shard):
                if not store.is_whole(shard.path(config.directory), store.shard_mark(mark, shard)):
                    left.append((shard, mark))
    return left


def units(config: Config, shard: Shard, acquisitions: Sequence[Acquisition]) -> list[Unit]:
    """Return the units of a shard: every block in every period of the shard's year."""
    chosen = [
        tuple(item for item in acquisitions if item.time in period)
        for period in _periods_of(config, shard.year)
    ]
    return [
        Unit(block, position, inside)
        for block in split(shard.block, config.composite.block)
        for position, inside in enumerate(chosen)
    ]


def _make_shard(
    config: Config,
    group: MPI.Comm,
    shard: Shard,
    mark: str,
    acquisitions: Sequence[Acquisition],
    tile: Tile,
) -> dict[str, Failure]:
    started = time.perf_counter()
    work = units(config, shard, acquisitions)
    owner = share([len(unit.acquisitions) + 0.1 for unit in work], group.size)
    own = [unit for unit, rank in zip(work, owner, strict=True) if rank == group.rank]
    parts = _room_for_results(config, own)
    # One room for the observations of all units: fresh memory would cost as much time as the median.
    most = max((len(unit.acquisitions) * unit.block.height * unit.block.width for unit in own), default=0)
    room = np.empty(most * len(config.composite.bands), np.uint16)
    bad: dict[str, Failure] = {}
    for unit in own:
        part = parts[unit.block]
        position = part.times.index(unit.position)
        part.values[position], part.counts[position] = _compute(config, unit, tile, room, bad)
    acquisition.close_all()
    if any(group.allgather(bool(bad))):
        return bad
    _write_shard(config, group, shard, mark, tile, parts)
    log.info("%s: %d units, %.1f s", shard.path(Path()), len(work), time.perf_counter() - started)
    return bad


def _room_for_results(config: Config, own: Sequence[Unit]) -> dict[Block, Part]:
    bands = len(config.composite.bands)
    times: dict[Block, list[int]] = {}
    for unit in own:
        times.setdefault(unit.block, []).append(unit.position)
    return {
        block: Part(
            tuple(sorted(positions)),
            np.zeros((len(positions), bands, block.height, block.width), np.uint16),
            np.zeros((len(positions), block.height, block.width), np.uint8),
        )
        for block, positions in times.items()
    }


def _compute(
    config: Config, unit: Unit, tile: Tile, room: np.ndarray, bad: dict[str, Failure]
) -> tuple[np.ndarray, np.ndarray]:
    """Read the acquisitions of a unit and make its composite; note those that cannot be read."""
    bands, shape = config.composite.bands, (unit.block.height, unit.block.width)
    room = room[: len(unit.acquisitions) * len(bands) * shape[0] * shape[1]]
    series = room.reshape(len(unit.acquisitions), len(bands), *shape)
    clear: list[np.ndarray] = []
    for item in unit.acquisitions:
        if item.fingerprint() in bad:
            continue
        try:
            seen = read_clear(config, item, unit.block, tile)
            if not seen.any():
                continue  # its bands need not be decoded
            for layer, band in zip(series[len(clear)], bands, strict=True):
                layer[:] = acquisition.read_band(item, band, unit.block, tile.grid)
        except AcquisitionError as error:
            log.warning("%s is left out: %s", item.id, error)
            bad[item.fingerprint()] = Failure("composite", item.id, str(error))
            continue
        clear.append(seen)
    if not clear:
        return np.zeros((len(bands), *shape), np.uint16), np.zeros(shape, np.uint8)
    return combine(config, series[: len(clear)], np.stack(clear))


def combine(config: Config, series: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make one composite of a period's observations by the method of the configuration."""
    method, bands = config.composite.method, config.composite.bands
    if method == "max-ndvi":
        return max_ndvi(series, clear, red=bands.index("B04"), nir=bands.index("B08"))
    return {"median": median, "geometric-median": geometric_median, "medoid": medoid}[method](
        series, clear
    )


def read_clear(config: Config, item: Acquisition, block: Block, tile: Tile) -> np.ndarray:
    """Read where an acquisition is clear, bool [y, x]; buffers reach in from outside the block."""
    if config.composite.mask == "none" or item.mask is None:
        return np.ones((block.height, block.width), bool)
    pixels = config.composite.buffer / tile.grid.resolution
    halo = block.grown(math.ceil(pixels), tile.grid)
    clear = scl_clear(
        acquisition.read_mask(item, halo, tile.grid), config.composite.mask_classes, pixels
    )
    return clear[block.inside(halo)]


def _write_shard(
    config: Config,
    group: MPI.Comm,
    shard: Shard,
    mark: str,
    tile: Tile,
    parts: dict[Block, Part],
) -> None:
    """Write a shard together: one block a round, each rank the periods that it computed."""
    periods = _periods_of(config, shard.year)
    block, bands = shard.block, config.composite.bands
    times = len(periods)
    layout = {
        REFLECTANCE: (
            (times, len(bands), block.height, block.width),
            (times, len(bands), CELL, CELL),
        ),
        CLEAR_COUNT: ((times, block.height, block.width), (times, CELL, CELL)),
        DAY: ((times,), None),
    }
    path = shard.path(config.directory)
    file = store.create(path, group, layout, _attributes(config, shard, tile, periods))
    days = np.array([period.middle for period in periods], np.int32)
    store.write_round(file, DAY, Piece(days, (0,)) if group.rank == 0 else None)
    for one in split(block, config.composite.block):
        pieces: dict[store.Dataset, Piece | None] = {REFLECTANCE: None, CLEAR_COUNT: None}
        if one in parts:
            part, (row, col) = parts[one], (one.row - block.row, one.col - block.col)
            pieces[REFLECTANCE] = Piece(part.values, (0, 0, row, col), part.times)
            pieces[CLEAR_COUNT] = Piece(part.counts, (0, row, col), part.times)
        for dataset, piece in pieces.items():
            store.write_round(file, dataset, piece)
    store.finish(file, path, group, store.shard_mark(mark, shard))


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


# --- planning -------------------------------------------------------------------------------------


def peak_memory(config: Config, tile: Tile, acquisitions: Sequence[Acquisition], ranks: int) -> int:
    """Return the most memory, in bytes, that a rank needs for the shards of a tile.

    What it reads for one unit (all acquisitions of a period), and its part of the shard's results,
    twice while a block is put together for writing.
    """
    bands = len(config.composite.bands)
    block = min(config.composite.block, max(tile.grid.height, tile.grid.width))
    pixels = block * block
    most = max(
        (sum(item.time in period for item in acquisitions) for period in config.periods), default=0
    )
    # The room, the masks (of the block and its halo), one band on its way to it, a composite.
    reading = most * pixels * (2 * bands + 2) + pixels * (2 * bands + 24)
    together = min(ranks, store.RANKS_PER_SHARD)
    side = min(config.composite.shard, max(tile.grid.height, tile.grid.width))
    times = max(len(_periods_of(config, period.start.year)) for period in config.periods)
    held = math.ceil(times * (side / block) ** 2 / together) * pixels * (2 * bands + 1)
    # MPI-IO gathers the pieces of a block before they are compressed.
    writing = 3 * times * pixels * (2 * bands + 1)
    return BASE_MEMORY + held + max(reading, writing)


def check_memory(config: Config, peak: int) -> None:
    """Refuse, on every rank alike, what does not fit."""
    if peak > config.run.memory_per_rank * 2**30:
        raise ConfigError(
            f"run.memory_per_rank: {config.run.memory_per_rank:g} GiB, but a rank of the composite stage needs "
            f"{peak / 2**30:.2f} GiB; make composite.block smaller than {config.composite.block}, start more "
            "ranks, or make run.memory_per_rank larger"
        )


def plan(config: Config, comm: MPI.Comm, ranks: int) -> list[dict[str, Any]]:
    """Return one row per tile: acquisitions, shards, what is left, memory per rank, bytes on disk."""
    found, tiles, failures = acquisition.find(config, comm)
    left = on_root(comm, "looking for finished composites", _left, config, found, tiles)
    rows = []
    for name, tile in tiles.items():
        years = sorted({period.start.year for period in config.periods})
        total = sum(
            len(store.shards("composites", tile, year, config.composite.shard)) for year in years
        )
        pixels = tile.grid.height * tile.grid.width
        rows.append({
            "tile": name,
            "grid": f"{tile.grid.height} x {tile.grid.width}",
            "acquisitions": len(found[name]),
            "shards": total,
            "left": sum(shard.tile == name for shard, _ in left),
            "memory": peak_memory(config, tile, found[name], ranks),
            "disk": pixels * len(config.periods) * (2 * len(config.composite.bands) + 1),
        })  # fmt: skip
    return rows
