"""The shell of the consistency step: yearly probabilities -> one consistent map a year.

First it is estimated what all pixels have in common (`estimate`). Then every block is decoded with a halo of its
neighbours and written like the probabilities, in shards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import deadline, evidence, likeness, store
from lcu.classify import clcplus, smooth, unit
from lcu.classify.ahead import ahead
from lcu.classify.estimate import estimate, training_cells
from lcu.classify.maps import confidence_of
from lcu.classify.source import KIND, Source
from lcu.config import Config, ConfigError, provenance
from lcu.grid import Block, Tile, split
from lcu.legend import NODATA, OUTSIDE, UNCHANGED, UNKNOWN
from lcu.likeness import Likeness
from lcu.ranks import on_root, share, together
from lcu.reliability import quantise
from lcu.store import (
    BEFORE,
    CELL,
    CHANGE,
    CONFIDENCE,
    LAND_COVER,
    POSTERIOR,
    PREVIOUS,
    Piece,
    Shard,
)
from lcu.years import over_votes, posterior_of_years

log = logging.getLogger(__name__)

# Side of the block that a rank decides at once, without its halo.
BLOCK = 256

# Arrays [year, class, y, x] of float32 that a rank holds at once while it decodes, and the interpreter with its
# libraries in bytes: measured.
COPIES = 6
SERIES_COPIES = 6  # of all series of a block, in uint16
ALIKE_COPIES = 4  # of one number for each pair of years, in float32
LIBRARIES = 700 << 20

Written = dict[store.Dataset, np.ndarray]


# --- deciding -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What a block is decided from; `wide` is the block with its halo.

    Attributes
    ----------
    probability : ndarray[year, class, y, x], float32
        Of `wide`, as `Source.probability` returns it.
    votes : ndarray[year, vote, y, x], float32
        Of `wide`; nothing where the rule of CLC+ decides.
    series : ndarray[year, feature, y, x], uint16
        Of `wide`; nothing where series are not compared.
    alone : dict of int to ndarray[class, y, x], uint8
        What was written of each year, without the halo.
    """

    wide: Block
    probability: np.ndarray
    votes: np.ndarray | None
    series: np.ndarray | None
    alone: dict[int, np.ndarray]


def read(source: Source, tile: str, block: Block) -> Given:
    """Read what a block is decided from."""
    grid = source.tiles[tile].grid
    wide = block.grown(unit.halo(unit_pixels(source.config, source.tiles[tile])), grid)
    probability = source.probability(tile, wide)
    cast = source.votes(tile, wide, probability) if source.config.classify.years == "hmm" else None
    series = source.series(tile, wide) if source.config.compares_years else None
    alone = {year: source.written(tile, year, block) for year in source.years}
    return Given(wide, probability, cast, series, alone)


def decide(
    source: Source, about: dict[str, Any], tile: str, block: Block, given: Given
) -> dict[int, Written]:
    """Return what is written of a block, by mapped year.

    Parameters
    ----------
    about : dict
        As `estimate` returns it.
    """
    inner = block.inside(given.wide)
    own = given.probability[(..., *inner)]
    if given.votes is not None:
        chain = evidence.Chain(
            tuple(about["years"]), np.array(about["step"]), np.array(about["errors"])
        )
        held = stays(source, about, given)
        labels = evidence.decode(given.votes, chain, held)
        likely = evidence.evidence(given.votes[(..., *inner)], chain.errors)
        own_held = None if held is None else held[(..., *inner)]
        posterior, steps = posterior_of_years(likely, chain.transition, stay=own_held)
    else:
        labels = clcplus.accepted_classes(given.probability, np.array(about["limits"]))
        posterior, steps = independent(own)
    pixels = unit_pixels(source.config, source.tiles[tile])
    if pixels > 1:
        labels = unit.merge_small_areas(labels, pixels)
    return _layers(source, labels[(..., *inner)], posterior, steps, given.alone, own)


def stays(source: Source, about: dict[str, Any], given: Given) -> np.ndarray | None:
    """Return what a class that stays is multiplied with, float32 [pair of votes, y, x]; None where nothing is compared.

    With the old map nothing is: 1 there.
    """
    if not source.config.compares_years or not about["likeness"]:
        return None
    witnesses = {kind: Likeness.from_plain(known) for kind, known in about["likeness"].items()}
    looks = {"series": given.series, "answers": likeness.answers(given.probability)}
    held = likeness.stay(witnesses, looks, given.votes[source.mapped])
    return over_votes(held, len(source.votes_of), source.mapped)


def independent(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and those of a change where every year stands for itself.

    A missing year has those of the year before it, or of the first that is there.
    """
    filled = probability.copy()
    for year in range(1, len(filled)):
        filled[year] = np.where(np.isnan(filled[year]), filled[year - 1], filled[year])
    for year in range(len(filled) - 2, -1, -1):
        filled[year] = np.where(np.isnan(filled[year]), filled[year + 1], filled[year])
    filled = np.nan_to_num(filled)
    return filled, 1 - (filled[1:] * filled[:-1]).sum(axis=1)


def _layers(
    source: Source, labels: np.ndarray, posterior: np.ndarray, steps: np.ndarray,
    alone: dict[int, np.ndarray], probability: np.ndarray,
) -> dict[int, Written]:  # fmt: skip
    """Turn what was decided into what is written."""
    values = np.full(256, NODATA, np.uint8)
    values[: posterior.shape[1]] = source.config.legend.values
    never = np.isnan(probability[:, 0]).all(axis=0)
    positions = dict(zip(source.years, source.mapped, strict=True))
    found = {}
    for year, position in positions.items():
        cover = np.where(never, np.uint8(OUTSIDE), values[labels[position]])
        written = quantise(posterior[position])
        written[:, never] = OUTSIDE
        own = alone[year]
        seen = own[0] < OUTSIDE
        single = values[own.argmax(axis=0)]
        before = np.where(
            seen, np.where(single == cover, np.uint8(UNCHANGED), single), np.uint8(UNKNOWN)
        )
        layers = {
            LAND_COVER: cover,
            CONFIDENCE: np.where(never, np.uint8(NODATA), confidence_of(written, labels[position])),
            POSTERIOR: written,
            BEFORE: np.where(never, np.uint8(NODATA), before),
        }
        if year in source.config.changes:
            since = source.config.changes[year]
            first = source.votes_of.index(since) if since not in positions else positions[since]
            moved = np.minimum(steps[first:position].sum(axis=0), 1)
            layers[PREVIOUS] = np.where(never, np.uint8(NODATA), values[labels[first]])
            layers[CHANGE] = np.where(never, np.uint8(NODATA), quantise(moved))
        found[year] = layers
    return found


def unit_pixels(config: Config, tile: Tile) -> int:
    """Return the minimum mapping unit in pixels of a tile, rounded up."""
    return int(np.ceil(config.classify.minimum_unit * 1e4 / tile.grid.resolution**2 - 1e-9))


# --- writing --------------------------------------------------------------------------------------


def run(source: Source, comm: MPI.Comm, block: int, report: Any) -> str:
    """Write the consistent maps of all tiles, by blocks of `block` pixels; leave alone what is whole already."""
    about = estimate(source, comm)
    todo = on_root(comm, "looking for finished maps", _left, source)
    costs = [part.height * part.width for _, part in todo]
    group, index, count = store.groups(comm, costs)
    owner = share(costs, count)
    own = [item for item, who in zip(todo, owner, strict=True) if who == index]
    left = len(own) if group.rank == 0 else 0
    for done, (tile, part) in enumerate(deadline.in_step(group, own)):
        _make_shards(source, about, group, tile, part, block)
        left -= group.rank == 0
        report(min((done + 1) * count, len(todo)), len(todo), "shards made consistent")
    group.Free()
    deadline.stop_with(comm, left, "consistent shards")
    pixels = sum(costs) * len(source.years)
    return f"{pixels / 1e6:.1f} million made consistent ({source.config.classify.years})"


def _left(source: Source) -> list[tuple[str, Block]]:
    """Return the squares of tiles whose shards are not all there."""
    size = source.config.classify.shard
    return [
        (name, block)
        for name, tile in source.tiles.items()
        for block in tile.grid.blocks(size)
        if not all(
            store.is_whole(
                shard.path(source.config.directory), store.shard_mark(source.mark, shard)
            )
            for shard in (Shard(KIND, name, year, block) for year in source.years)
        )
    ]


def _make_shards(
    source: Source, about: dict[str, Any], group: MPI.Comm, tile: str, block: Block, size: int
) -> None:
    parts = list(split(block, size))
    owner = share([part.height * part.width for part in parts], group.size)
    results: dict[Block, dict[int, Written]] = {}
    with together(group, f"choosing the classes of {tile} at row {block.row}, column {block.col}"):
        own = [part for part, rank in zip(parts, owner, strict=True) if rank == group.rank]
        for part, given in ahead(lambda part: read(source, tile, part), own):
            results[part] = decide(source, about, tile, part, given)
    for year in source.years:
        shard = Shard(KIND, tile, year, block)
        _write_shard(
            source, group, shard, parts, {part: found[year] for part, found in results.items()}
        )


def datasets(config: Config, year: int) -> list[store.Dataset]:
    """Return what a shard of a year holds."""
    changes = [PREVIOUS, CHANGE] if year in config.changes else []
    return [LAND_COVER, CONFIDENCE, POSTERIOR, BEFORE, *changes]


def _write_shard(
    source: Source,
    group: MPI.Comm,
    shard: Shard,
    parts: Sequence[Block],
    layers: dict[Block, Written],
) -> None:
    block, legend, config = shard.block, source.config.legend, source.config
    wanted = datasets(config, shard.year)
    classes = len(legend.classes)
    layout = {
        dataset: (
            ((classes, block.height, block.width), (classes, CELL, CELL))
            if dataset is POSTERIOR
            else ((block.height, block.width), (CELL, CELL))
        )
        for dataset in wanted
    }
    attributes = attributes_of(config, source.tiles[shard.tile], shard)
    if shard.year in config.changes:
        attributes["year_before"] = config.changes[shard.year]
    path = shard.path(config.directory)
    file = store.create(path, group, layout, attributes)
    for part in parts:
        corner = (part.row - block.row, part.col - block.col)
        for dataset in wanted:
            piece = None
            if part in layers:
                place = (0, *corner) if dataset is POSTERIOR else corner
                piece = Piece(layers[part][dataset], place)
            store.write_round(file, dataset, piece)
    store.finish(file, path, group, store.shard_mark(source.mark, shard))
    deadline.made()


# --- planning -------------------------------------------------------------------------------------


def memory(config: Config, tiles: dict[str, Tile], ranks: int, block: int) -> int:
    """Return the most that a rank needs, in bytes, with blocks of `block` pixels."""
    years, classes = len(config.archive.years) + config.classify.old_map, len(config.legend.classes)
    most = 0
    for tile in tiles.values():
        halo = unit.halo(unit_pixels(config, tile)) + smooth.REACH
        high, wide = (min(block + 2 * halo, side) for side in (tile.grid.height, tile.grid.width))
        size = min(config.classify.shard, max(tile.grid.height, tile.grid.width))
        kept = -(-(size**2) // ranks) + block**2
        decoding = COPIES * 4 * years * classes * high * wide
        if config.compares_years:
            times = len(config.periods) + config.own_days * config.times
            series = 2 * times * (len(config.composite.bands) + 2 * config.own_days)
            answers, pairs = 2 * years * classes, ALIKE_COPIES * 4 * years**2
            decoding += (SERIES_COPIES * series + answers + pairs) * high * wide
        most = max(most, decoding + kept * years * (classes + 5))
    cells = -(-len(training_cells(tiles)) // ranks)
    return LIBRARIES + most + cells * years * classes * CELL**2


def block_size(config: Config, tiles: dict[str, Tile], ranks: int, largest: int) -> int:
    """Return the largest block that fits in run.memory_per_rank; ConfigError where none does."""
    limit, block = config.run.memory_per_rank * 2**30, largest
    while memory(config, tiles, ranks, block) > limit and block > CELL:
        block //= 2
    needed = memory(config, tiles, ranks, block)
    if needed > limit:
        raise ConfigError(
            f"run.memory_per_rank: {config.run.memory_per_rank:g} GiB do not hold what makes the years consistent, "
            f"{needed / 2**30:.2f} GiB even with blocks of {block} pixels; raise it, use more ranks, or lower "
            "classify.minimum_unit or classify.shard"
        )
    return block


def attributes_of(config: Config, tile: Tile, shard: Shard) -> dict[str, Any]:
    """Return what every shard of `classify` says about itself, yearly or consistent."""
    block, legend = shard.block, config.legend
    return {
        "tile": shard.tile, "year": shard.year, "crs": tile.grid.crs,
        "transform": tile.grid.part(block).transform, "row": block.row, "col": block.col,
        "class_values": legend.values, "class_names": ", ".join(legend.names),
        "configuration": provenance(config),
    }  # fmt: skip
