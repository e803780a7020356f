"""The shell of the consistency step: yearly probabilities -> one consistent map a year.

First the chain is estimated from cells that are spread evenly over all tiles (`evidence`); every rank does some, sums
of integers bring them together. Then every block is decoded with a halo of its neighbours and written like the
probabilities, in shards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import deadline, evidence, likeness, store
from lcu.classify import clcplus, overlap, smooth, unit
from lcu.classify.ahead import ahead
from lcu.classify.maps import confidence_of, quantise
from lcu.composite import Composites, fill_gaps
from lcu.config import Config, ConfigError, provenance
from lcu.grid import Block, Tile, split
from lcu.legend import NODATA, OUTSIDE, UNCHANGED, UNKNOWN
from lcu.likeness import Likeness
from lcu.ranks import mine, on_root, share, together
from lcu.reliability import SCALE
from lcu.sample import OldMap
from lcu.sample.oldmap import files
from lcu.store import (
    BEFORE,
    CELL,
    CHANGE,
    CONFIDENCE,
    LAND_COVER,
    POSTERIOR,
    PREVIOUS,
    PROBABILITY,
    Piece,
    Shard,
)
from lcu.years import posterior_of_years

log = logging.getLogger(__name__)

KIND = "consistent"

# Side of the block that a rank decides at once, without its halo.
BLOCK = 256

# Cells that the chain is estimated from, at most: a million pixels.
CELLS = 256

# Pixels of these cells, at most, from which it is learned how alike the years of a place are.
PIXELS = 16384

# Arrays [year, class, y, x] of float32 that a rank holds at once while it decodes, and the interpreter with its
# libraries in bytes: measured.
COPIES = 6
SERIES_COPIES = 6  # of all series of a block, in uint16
LIBRARIES = 700 << 20

Written = dict[store.Dataset, np.ndarray]


@dataclass(frozen=True)
class Source:
    """Where the evidence comes from.

    Attributes
    ----------
    marks : dict
        (tile, year) -> fingerprint of the probabilities.
    """

    config: Config
    composites: Composites
    marks: dict[tuple[str, int], str]

    @property
    def tiles(self) -> dict[str, Tile]:
        """The tiles by name."""
        return self.composites.tiles

    @property
    def looks_alike(self) -> bool:
        """Whether series of successive years are compared."""
        classify = self.config.classify
        return classify.likeness and classify.years == "hmm" and len(self.years) > 1

    @cached_property
    def years(self) -> list[int]:
        """The mapped years, ascending."""
        return sorted(self.config.archive.years)

    @cached_property
    def votes_of(self) -> list[int]:
        """The year of each vote, ascending: the mapped ones and, where it is used, the old map's before its like."""
        extra = [self.config.sample.old_map_year] if self.config.classify.old_map else []
        return sorted([*self.years, *extra])

    @cached_property
    def mapped(self) -> list[int]:
        """Positions of the mapped years among the votes."""
        if not self.config.classify.old_map:
            return list(range(len(self.years)))
        old = self.votes_of.index(self.config.sample.old_map_year)
        return [position for position in range(len(self.votes_of)) if position != old]

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The tiles that overlap each tile."""
        return {tile: overlap.neighbours(self.tiles, tile) for tile in self.tiles}

    @cached_property
    def _old(self) -> OldMap:
        return OldMap(self.config.sample, list(self.tiles.values()))

    @cached_property
    def mark(self) -> str:
        """The fingerprint of everything that the chain and the maps follow from."""
        keys = self.config.table()["classify"]
        old = (
            [store.file_fingerprint(path) for path in files(self.config.sample, self.tiles)]
            + [self.votes_of, self.config.sample.nomenclature]
            if self.config.classify.old_map
            else []
        )
        legend = self.config.legend
        return store.fingerprint(
            "consistent 2", keys, old, sorted(self.marks.items()), legend.values.tolist(),
            legend.transition_matrix().tolist(), self.config.changes,
        )  # fmt: skip

    def written(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read a tile's own probabilities as they are written, uint8 [class, y, x]."""
        return store.read_block(
            self.config.directory, "probabilities", self.tiles[tile], year, self.config.classify.shard,
            self.marks[tile, year], PROBABILITY, block,
        )  # fmt: skip

    def probability(self, tile: str, block: Block) -> np.ndarray:
        """Read the probabilities of all mapped years: of all tiles that lie there, smoothed.

        Returns
        -------
        ndarray[year, class, y, x], float32
            0..1; NaN where no tile has a clear observation in the year.
        """
        grid = self.tiles[tile].grid
        wide = block.grown(smooth.REACH, grid) if self.config.classify.smooth != "none" else block
        others = [
            found
            for name in self.neighbours[tile]
            if (found := overlap.sample(name, self.tiles[name].grid, grid, wide)) is not None
        ]
        years = []
        for year in self.years:
            parts = [(self.written(tile, year, wide), overlap.own_weight(grid, wide))]
            for other in others:
                theirs = self.written(other.tile, year, other.block)
                parts.append((other.take(theirs), other.weight))
            own = overlap.combine(parts)
            if self.config.classify.smooth != "none":
                own = smooth.bilateral(own)
            years.append(own[(slice(None), *block.inside(wide))])
        return np.stack(years)

    def series(self, tile: str, block: Block, pixels: np.ndarray | None = None) -> np.ndarray:
        """Read the gap-filled series of each mapped year, uint16 [year, feature, y, x]: time and band in one axis.

        With `pixels`, positions in the block row by row, of these only: [year, feature, 1, pixel].
        """
        written = self.composites.read(tile, block)
        if pixels is not None:
            written = written.reshape(*written.shape[:2], 1, -1)[..., pixels]
        filled = fill_gaps(written, self.composites.days)[0]
        periods = self.composites.periods
        own = [
            filled[[number for number, period in enumerate(periods) if period.start.year == year]]
            for year in self.years
        ]
        return np.stack(own).reshape(len(own), -1, *filled.shape[2:])

    def votes(self, tile: str, block: Block, probability: np.ndarray) -> np.ndarray:
        """Return the votes of all years, and of the old map, float32 [year, vote, y, x]."""
        cast = evidence.votes(probability)
        if not self.config.classify.old_map:
            return cast
        legend = self.config.legend
        codes, _ = self._old.read(tile, self.tiles[tile].grid.part(block))
        values = legend.reclass(codes, self.config.sample.nomenclature)
        old = evidence.votes_of_map(legend.index_of(values), len(legend.classes))
        return np.insert(cast, self.votes_of.index(self.config.sample.old_map_year), old, axis=0)


# --- estimating -----------------------------------------------------------------------------------


def training_cells(tiles: dict[str, Tile]) -> list[tuple[str, Block]]:
    """Return cells that are spread evenly over all tiles, at most `CELLS`."""
    cells = [(name, cell) for name, tile in tiles.items() for cell in tile.grid.blocks(CELL)]
    count = min(CELLS, len(cells))
    return [cells[(2 * number + 1) * len(cells) // (2 * count)] for number in range(count)]


def estimate(source: Source, comm: MPI.Comm) -> dict[str, Any]:
    """Estimate the chain, or the limits of CLC+'s rule, over all tiles; the same on any number of ranks."""
    found = on_root(comm, "looking for the chain", _known, source)
    if found is not None:
        return found
    with together(comm, "reading the cells that the chain is estimated from"):
        own = [
            _read_cell(source, *item)
            for item in mine(list(enumerate(training_cells(source.tiles))), comm)
        ]
    work = _estimate_chain if source.config.classify.years == "hmm" else _estimate_limits
    about = work(source, comm, own) | {"fingerprint": source.mark}
    path = source.config.directory / KIND / "chain.json"
    on_root(comm, "writing the chain", store.write_json, path, about)
    return about


def _known(source: Source) -> dict[str, Any] | None:
    path = source.config.directory / KIND / "chain.json"
    if not path.exists():
        return None
    about = store.read_json(path, "classify")
    return about if about["fingerprint"] == source.mark else None


@dataclass(frozen=True)
class Cell:
    """What is kept of a cell that the chain is estimated from: as bytes, for all of them wait at once.

    Attributes
    ----------
    number : int
        Its place among all.
    written : ndarray, uint8
        Votes [year, vote, y, x], or probabilities [year, class, y, x] for the rule of CLC+, x 250; the quantised
        numbers are as good (docs/consistency.md).
    series : ndarray[year, feature, pixel], uint16; pixels : ndarray[pixel]
        Of some of its pixels, and where they are in the cell; nothing where series are not compared.
    """

    number: int
    written: np.ndarray
    series: np.ndarray | None
    pixels: np.ndarray

    @property
    def votes(self) -> np.ndarray:
        """The votes as float32 [year, vote, y, x]."""
        return self.written / np.float32(SCALE)


def _read_cell(source: Source, number: int, place: tuple[str, Block]) -> Cell:
    probability = source.probability(*place)
    if source.config.classify.years == "hmm":
        written = quantise(source.votes(*place, probability))
    else:
        known = quantise(np.nan_to_num(probability))
        written = np.where(np.isnan(probability), np.uint8(NODATA), known)
    size = written.shape[2] * written.shape[3]
    pixels = np.random.default_rng(number).permutation(size)[: -(-PIXELS // CELLS)]
    series = source.series(*place, pixels)[:, :, 0] if source.looks_alike else None
    return Cell(number, written, series, pixels)


def _estimate_chain(source: Source, comm: MPI.Comm, own: list[Cell]) -> dict[str, Any]:
    def add(counts: np.ndarray) -> np.ndarray:
        total = np.empty_like(counts)
        comm.Allreduce(counts, total)
        return total

    prior = source.config.legend.transition_matrix()
    chain = evidence.estimate(
        lambda: (cell.votes for cell in own), source.votes_of, source.mapped, prior, add
    )
    about = {"years": source.votes_of, "step": chain.step.tolist(), "errors": chain.errors.tolist()}
    if source.looks_alike:
        about["likeness"] = _estimate_likeness(source, comm, own, chain)
    return about


def _estimate_likeness(
    source: Source, comm: MPI.Comm, own: list[Cell], chain: evidence.Chain
) -> dict[str, Any] | None:
    """Learn from some pixels, with the classes that the chain gives them, how alike the years of a place are."""
    rows = []
    for cell in own:
        cast = cell.votes.reshape(*cell.written.shape[:2], -1)[..., cell.pixels]
        label = evidence.decode(cast[:, :, None], chain)[source.mapped, 0]
        rows.append((cell.number, cell.series, label))
    gathered = comm.gather(rows)
    return on_root(comm, "learning how alike years are", _fit_likeness, source, gathered)


def _fit_likeness(
    source: Source, gathered: list[list[tuple[int, np.ndarray, np.ndarray]]] | None
) -> dict[str, Any] | None:
    cells = sorted((cell for part in gathered or [] for cell in part), key=lambda cell: cell[0])
    series, label = (np.concatenate([cell[at] for cell in cells], axis=-1) for at in (1, 2))
    found = likeness.fit(series, label, len(source.config.legend.classes))
    return None if found is None else found.plain()


def _estimate_limits(source: Source, comm: MPI.Comm, own: list[Cell]) -> dict[str, Any]:
    classes = len(source.config.legend.classes)
    counts = np.zeros((classes, classes, clcplus.BINS), np.int64)
    for cell in own:
        counts += clcplus.count_distances(evidence.as_probability(cell.written))
    comm.Allreduce(MPI.IN_PLACE, counts)
    limits = clcplus.thresholds(counts, source.config.classify.percentile)
    return {"years": source.years, "limits": limits.tolist()}


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
    series = source.series(tile, wide) if source.looks_alike else None
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
    """Return what a class that stays is multiplied with from each vote to the next, float32 [vote - 1, y, x].

    Nothing is compared with the old map: 1 there. None where no series are.
    """
    if not source.looks_alike or about["likeness"] is None:
        return None
    known = Likeness.from_plain(about["likeness"])
    held = np.ones((len(source.votes_of) - 1, *given.votes.shape[2:]), np.float32)
    last = [position - 1 for position in source.mapped[1:]]
    held[last] = likeness.stay(known, given.series, given.votes[source.mapped])
    return held


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
        if config.classify.likeness:
            series = 2 * len(config.periods) * len(config.composite.bands)
            decoding += SERIES_COPIES * series * high * wide
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
