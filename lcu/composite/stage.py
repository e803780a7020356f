"""The shell of the composite stage.

The ranks of a group share the units of a shard by their expected cost and compute without
communicating; what they made waits in a scratch file. Then they write the shard together, in rounds
in which each rank writes whole series, which it has from those who made their parts.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import acquisition, deadline, store
from lcu.acquisition import Acquisition, AcquisitionError, Tiles
from lcu.clock import spending
from lcu.composite import work as sharing
from lcu.composite.composites import (
    configuration_mark,
    describe_origins,
    times_of,
    year_mark,
)
from lcu.composite.observations import Reader
from lcu.composite.screening import Screening
from lcu.composite.work import Work, work_of
from lcu.composite.writing import Waiting, day_dataset, pack, write_shard
from lcu.config import Config
from lcu.disk import Scratch
from lcu.grid import Block, Tile
from lcu.ranks import Failure, gather, mine, on_root, share, together
from lcu.store import Shard

log = logging.getLogger(__name__)

# Called on rank 0: done, total, of what.
Report = Callable[[int, int, str], None]


def run(config: Config, comm: MPI.Comm, report: Report) -> tuple[list[Failure], str]:
    """Make the composites of all tiles and years; leave alone what is whole already.

    Parameters
    ----------
    report : callable(done, total, what)
        Called on rank 0 after every block of its own.

    Returns
    -------
    failures : list of Failure
        Acquisitions that could not be used and tile-years without data, the same on every rank.
    summary : str
        What there is now, in a line.
    """
    found, tiles, failures = acquisition.find(config, comm)
    for name, tile in tiles.items():
        sharing.block_size(config, tile, found[name], comm.size)  # refuses what does not fit
    unreadable = on_root(comm, "reading unreadable.json", _known_unreadable, config)
    unreadable = _still_unreadable(comm, found, unreadable)
    failures += [item for name, item in unreadable.items() if _is_of(name, found)]
    found = {
        tile: [item for item in of if item.fingerprint() not in unreadable]
        for tile, of in found.items()
    }
    while True:
        bad, read, left = _make_shards(config, comm, found, tiles, report)
        on_root(comm, "writing reading.json", _write_reading, config, read)
        deadline.stop_with(comm, left, "shards of composites")
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
    ratio = on_root(comm, "reading reading.json", decoded_share, config)
    if ratio is not None:
        summary += f"; decoded {ratio:.2f} x the pixels of their files"
    return sorted(set(failures), key=repr), summary


def _known_unreadable(config: Config) -> dict[str, Failure]:
    """Acquisitions that an earlier start of this run found unreadable, by fingerprint."""
    path = config.directory / "composites" / "unreadable.json"
    if not path.exists():
        return {}
    known = store.read_json(path, "composite")
    return {name: Failure("composite", *entry) for name, entry in known.items()}


def _still_unreadable(
    comm: MPI.Comm, found: dict[str, list[Acquisition]], known: dict[str, Failure]
) -> dict[str, Failure]:
    """Return those of the known unreadable acquisitions that still are.

    A file that was mended may have the size that it had, and what one rank could not read for want
    of memory was whole: nothing but reading tells.
    """
    items = [item for of in found.values() for item in of if item.fingerprint() in known]
    healed: list[str] = []
    with together(comm, "trying unreadable acquisitions again"):
        for item in mine(items, comm):
            with contextlib.suppress(AcquisitionError):
                for band in item.rasters:
                    acquisition.check_readable(band)
                healed.append(item.fingerprint())
        acquisition.close_all()
    names = gather(healed, comm)
    return {name: failure for name, failure in known.items() if name not in names}


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
    years = config.calendar_years
    entries = {
        name: {
            "grid": store.describe_grid(tile.grid),
            "years": {str(year): year_mark(config, tile, found[name], year) for year in years},
            "acquisitions": describe_origins(config, found[name]),
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
    times = {year: times_of(config, year) for year in sorted(years)}
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
            day_dataset(config),
        )


# --- shards ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What one rank decoded for a shard.

    Attributes
    ----------
    shard : str
        Path of the shard in the run directory.
    decoded : int
        Pixels, each time that they were.
    of : float
        Pixels of all rasters of the shard's acquisitions, on rank 0 of its group; else 0.
    """

    shard: str
    decoded: int
    of: float


def _make_shards(
    config: Config,
    comm: MPI.Comm,
    found: dict[str, list[Acquisition]],
    tiles: dict[str, Tile],
    report: Report,
) -> tuple[dict[str, Failure], list[Reading], int]:
    """Make every shard that is not whole, as long as there is time.

    Returns
    -------
    bad : dict of str to Failure
        Acquisitions that could not be read, by fingerprint, the same on every rank.
    read : list of Reading
        What was decoded, the same on every rank.
    left : int
        Shards of this group that there was no time for, on its rank 0; else 0.
    """
    todo = on_root(comm, "looking for finished composites", _left, config, found, tiles)
    costs = [
        sum(sharing.cost(span, shard.block) for span in sharing.spans_of(config, shard.year, found[shard.tile]))
        for shard, _ in todo
    ]  # fmt: skip
    group, index, count = store.groups(comm, costs)
    owner = share(costs, count)
    works = [
        work_of(config, shard, mark, tiles[shard.tile], found[shard.tile], group.size)
        for (shard, mark), who in zip(todo, owner, strict=True)
        if who == index
    ]
    total = sum(len(run) for work in works for run in work.own(group.rank))
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        report(done, total, "blocks of rank 0")

    bad: dict[str, Failure] = {}
    read: list[Reading] = []
    left = len(works) if group.rank == 0 else 0
    for work in deadline.in_step(group, works):
        found_bad, reading = _make_shard(config, group, work, tick)
        left -= group.rank == 0
        bad |= found_bad
        read.append(reading)
    group.Free()
    merged: dict[str, Failure] = {}
    for name, failure in gather(bad.items(), comm):
        merged.setdefault(name, failure)
    return merged, gather(read, comm), left


def _make_shard(
    config: Config, group: MPI.Comm, work: Work, tick: Callable[[], None]
) -> tuple[dict[str, Failure], Reading]:
    started, began = time.perf_counter(), time.process_time()
    path = work.shard.path(config.directory)
    parts = sharing.stripes(config, work, group.size)
    with contextlib.closing(Scratch(path.parent)) as scratch:
        with contextlib.closing(Tiles(path.parent)) as decoded:
            reader = Reader(config, work.tile, decoded, _room(config, work, group.rank))
            screening = _screen(config, group, work, reader)
            waiting = _compute(work, group.rank, reader, screening, parts, scratch, tick)
            acquisition.close_all()
        computed = time.process_time()
        with spending("waiting"):
            bad = any(group.allgather(bool(reader.bad)))
        if not bad:
            write_shard(config, group, work, parts, waiting, scratch)
            deadline.made()
    if screening:
        screening.close()
    of = sharing.file_pixels(config, work) if group.rank == 0 else 0
    name = str(path.relative_to(config.directory))
    log.info(
        "%s: %d acquisitions, %.1f s; of processor time %.2f s to compute and %.2f s to write",
        name, sum(len(span.acquisitions) for span in work.spans), time.perf_counter() - started,
        computed - began, time.process_time() - computed,
    )  # fmt: skip
    return reader.bad, Reading(name, decoded.decoded, of)


def _room(config: Config, work: Work, rank: int) -> np.ndarray:
    """Return the room for the observations of a rank's largest unit, uint16."""
    most = max(
        (
            len(work.spans[span].acquisitions)
            * work.blocks[block].height
            * work.blocks[block].width
            for run in work.own(rank)
            for span, block in run
        ),
        default=0,
    )
    return np.empty(most * len(config.composite.bands), np.uint16)


def _screen(config: Config, group: MPI.Comm, work: Work, reader: Reader) -> Screening | None:
    """Make the masks of the shard's acquisitions by comparison in time, where that is wanted."""
    if config.composite.mask != "scl+time" or not any(span.acquisitions for span in work.spans):
        return None
    screening = Screening(config, group, work)
    runs = work.own(group.rank)
    for run in runs:
        reader.expect_seen(
            work.spans[run[0][0]], [work.blocks[block] for _, block in run], screening
        )
    for span, block in (unit for run in runs for unit in run):
        reader.see(work.spans[span], work.blocks[block], screening)
    screening.compare()
    return screening


def _compute(
    work: Work,
    rank: int,
    reader: Reader,
    screening: Screening | None,
    parts: Sequence[tuple[int, Block]],
    scratch: Scratch,
    tick: Callable[[], None],
) -> Waiting:
    """Make the composites of a rank's units; cut them into the parts that are written together."""
    of_block: dict[int, list[tuple[int, Block]]] = {}
    for index, (block, part) in enumerate(parts):
        of_block.setdefault(block, []).append((index, part))
    waiting: Waiting = {}
    clear = screening.clear if screening else reader.clear_by_scl
    expected = (*screening.bands, acquisition.MASK) if screening else ()
    for run in work.own(rank):
        span = work.spans[run[0][0]]
        reader.expect(span, [work.blocks[block] for _, block in run], but=expected)
        for number, index in run:
            block = work.blocks[index]
            result = reader.compute(span, block, clear)
            for place, part in of_block[index]:
                waiting[number, place] = scratch.put(pack(result, part.inside(block)))
            reader.release(span, block)
            tick()
    return waiting


def _left(
    config: Config, found: dict[str, list[Acquisition]], tiles: dict[str, Tile]
) -> list[tuple[Shard, str]]:
    left = []
    for name, tile in tiles.items():
        for year in config.calendar_years:
            mark = year_mark(config, tile, found[name], year)
            for shard in store.shards("composites", tile, year, config.composite.shard):
                if not store.is_whole(shard.path(config.directory), store.shard_mark(mark, shard)):
                    left.append((shard, mark))
    return left


# --- what was read --------------------------------------------------------------------------------


def _write_reading(config: Config, read: Sequence[Reading]) -> None:
    """Add what was decoded to what earlier starts of this run noted, shard by shard."""
    path = config.directory / "log" / "reading.json"
    noted = store.read_json(path, "composite") if path.exists() else {}
    fresh: dict[str, list[float]] = {}
    for reading in read:
        sums = fresh.setdefault(reading.shard, [0, 0])
        sums[0] += reading.decoded
        sums[1] += reading.of
    if fresh:
        store.write_json(path, noted | fresh)


def decoded_share(config: Config) -> float | None:
    """Return how many pixels were decoded over how many the files have; None where nobody noted it."""
    path = config.directory / "log" / "reading.json"
    if not path.exists():
        return None
    decoded, of = np.sum(list(store.read_json(path, "composite").values()), axis=0)
    return float(decoded / of) if of else None


# --- planning -------------------------------------------------------------------------------------


def plan(config: Config, comm: MPI.Comm, ranks: int) -> list[dict[str, Any]]:
    """Return one row per tile: acquisitions, shards, what is left, memory per rank, bytes on disk."""
    found, tiles, _ = acquisition.find(config, comm)
    left = on_root(comm, "looking for finished composites", _left, config, found, tiles)
    rows = []
    for name, tile in tiles.items():
        size = sharing.block_size(config, tile, found[name], ranks)
        pixels = tile.grid.height * tile.grid.width
        years = config.calendar_years
        shards = [
            shard
            for year in years
            for shard in store.shards("composites", tile, year, config.composite.shard)
        ]
        rows.append({
            "tile": name,
            "where": tile,
            "grid": f"{tile.grid.height} x {tile.grid.width}",
            "acquisitions": len(found[name]),
            "shards": len(shards),
            "left": sum(shard.tile == name for shard, _ in left),
            "block": size,
            "decoded": on_root(comm, "looking at rasters", _planned_share, config, tile, found[name], shards, ranks),
            "memory": sharing.peak_memory(config, tile, found[name], ranks, size),
            "disk": sum(pixels * sharing.series_bytes(config, year) for year in years),
        })  # fmt: skip
    return rows


def _planned_share(
    config: Config, tile: Tile, items: Sequence[Acquisition], shards: Sequence[Shard], ranks: int
) -> float | None:
    """Return the share of the files' pixels that will be decoded, clouds not considered."""
    if not items:
        return None
    tilings = {band.name: acquisition.tiling_of(band) for band in items[0].rasters}
    works = [work_of(config, shard, "", tile, items, ranks) for shard in shards]
    of = sum(sharing.file_pixels(config, work) for work in works)
    return sum(sharing.decoded_pixels(config, work, tilings) for work in works) / of if of else None
