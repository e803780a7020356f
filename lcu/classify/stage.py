"""The shell of the classification stage: reads blocks of composites, predicts, writes probabilities.

`consistency` makes consistent maps of them afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from lcu import deadline, store
from lcu.classify import consistency
from lcu.classify.ahead import ahead
from lcu.classify.maps import confidence, land_cover
from lcu.classify.source import KIND, Source
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Block, Tile, split
from lcu.legend import NODATA, OUTSIDE, UNCHANGED, Legend
from lcu.ranks import on_root, share, together
from lcu.reliability import quantise
from lcu.sample import patches, read_around
from lcu.store import (
    BEFORE,
    CELL,
    CHANGE,
    CONFIDENCE,
    LAND_COVER,
    OBSERVATIONS,
    POSTERIOR,
    PREVIOUS,
    PROBABILITY,
    Piece,
    Shard,
)
from lcu.train import Cut, Model
from lcu.train import load as load_model

log = logging.getLogger(__name__)

# Side of the block that a rank holds at once; all periods of the run are in memory with it.
BLOCK = 256

Layers = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Maps:
    """The probabilities that the stage left in the run directory, and what follows from them."""

    directory: Path
    tiles: dict[str, Tile]
    legend: Legend
    shard: int
    marks: dict[tuple[str, int], str]
    consistent: str | None

    @classmethod
    def open(cls, config: Config) -> Maps:
        """Open the probabilities of a run; StoreError where an earlier stage has not run."""
        composites, model = Composites.open(config), load_model(config.directory)
        marks = marks_of(config, composites, model)
        consistent = None
        if config.classify.years != "none":
            consistent = Source(config, composites, marks).mark
        return cls(
            config.directory, composites.tiles, config.legend, config.classify.shard, marks, consistent
        )  # fmt: skip

    def probability(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read probabilities, uint8 [class, y, x], x 250; 255 nodata, 254 outside; given all years where it may."""
        return self._read(tile, year, block, PROBABILITY if self.consistent is None else POSTERIOR)

    def observations(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read the number of clear observations in a year, uint16 [y, x]."""
        return self._read(tile, year, block, OBSERVATIONS)

    def land_cover(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read land cover, uint8 [y, x]: class value; 255 nodata, 254 outside."""
        if self.consistent is not None:
            return self._read(tile, year, block, LAND_COVER)
        return land_cover(self.probability(tile, year, block), self.legend.values)

    def fingerprint(self, tile: str, year: int, name: str) -> str:
        """Return what a published layer follows from."""
        return store.fingerprint("layer 3", name, self.marks[tile, year], self.consistent)

    def layer(self, tile: str, year: int, name: str, block: Block) -> np.ndarray:
        """Read a published layer: MAP, CONF, NOBS or PROB; POST and CHG of consistent maps."""
        if name == "NOBS":
            return self.observations(tile, year, block)
        if name == "MAP":
            return self.land_cover(tile, year, block)
        if name == "PROB":
            return self.probability(tile, year, block)
        if name == "POST":
            return self._read(tile, year, block, BEFORE)
        if name == "CHG":
            return self.change(tile, year, block)
        if self.consistent is not None:
            return self._read(tile, year, block, CONFIDENCE)
        return confidence(self.probability(tile, year, block))

    def change(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read what changed since the year before, uint8 [3, y, x]: class before, class after, probability x 250.

        Both classes are 253 where they are the same; 255 is nodata.
        """
        before = self._read(tile, year, block, PREVIOUS)
        after = self._read(tile, year, block, LAND_COVER)
        known = before != NODATA
        same = known & (before == after)
        pair = [
            np.where(same, np.uint8(UNCHANGED), np.where(known, part, NODATA))
            for part in (before, after)
        ]
        return np.stack([*pair, self._read(tile, year, block, CHANGE)]).astype(np.uint8)

    def _read(self, tile: str, year: int, block: Block, dataset: store.Dataset) -> np.ndarray:
        of_year = dataset in (PROBABILITY, OBSERVATIONS)
        kind = "probabilities" if of_year else KIND
        mark = self.marks[tile, year] if of_year else self.consistent
        return store.read_block(
            self.directory, kind, self.tiles[tile], year, self.shard, mark, dataset, block
        )


def marks_of(config: Config, composites: Composites, model: Model) -> dict[tuple[str, int], str]:
    """Return (tile, year) -> fingerprint of its probabilities."""
    return {
        (tile, year): year_mark(config, composites, model, tile, year)
        for tile in composites.tiles
        for year in config.archive.years
    }


def year_mark(config: Config, composites: Composites, model: Model, tile: str, year: int) -> str:
    """Return the fingerprint of the probabilities of a tile and year."""
    return store.fingerprint(
        "probabilities 2",
        config.classify.strategy,
        *([config.window, config.step] if config.classify.strategy == "shifted-window" else []),
        config.classify.shard,
        year,
        model.fingerprint,
        model.about["tensors"],
        composites.fingerprint(tile),
    )


def run(config: Config, comm: MPI.Comm, report: Any) -> str:
    """Write the probabilities of all tiles and years; leave alone what is whole already.

    Returns
    -------
    str
        What was done, in a line.
    """
    # One thread: ranks fill the cores, and a product's sums do not depend on the number of threads.
    torch.set_num_threads(1)
    composites = on_root(comm, "opening the composites", Composites.open, config)
    model = on_root(comm, "reading the model", load_model, config.directory)
    with together(comm, "looking at the model"):
        _check(model, config)
    marks = marks_of(config, composites, model)
    size = None
    if config.classify.years != "none":  # before anything is computed, for it may not fit
        size = consistency.block_size(config, composites.tiles, comm.size, consistency.BLOCK)
    todo = on_root(comm, "looking for finished probabilities", _left, config, composites, marks)
    costs = [block.height * block.width * len(years) for _, block, years in todo]
    group, index, count = store.groups(comm, costs)
    owner = share(costs, count)
    own = [item for item, who in zip(todo, owner, strict=True) if who == index]
    left = len(own) if group.rank == 0 else 0
    for done, (tile, block, years) in enumerate(deadline.in_step(group, own)):
        _make_shards(config, group, composites, model, tile, block, years, marks)
        left -= group.rank == 0
        report(min((done + 1) * count, len(todo)), len(todo), "shards")
    group.Free()
    deadline.stop_with(comm, left, "shards of probabilities")
    pixels = sum(block.height * block.width * len(years) for _, block, years in todo)
    said = f"{pixels / 1e6:.1f} million pixels classified"
    if size is None:
        return said
    source = Source(config, composites, marks)
    return f"{said}, {consistency.run(source, comm, size, report)}"


def _check(model: Model, config: Config) -> None:
    """Refuse a model that was trained on other bands or another legend."""
    for name, wanted in (
        ("bands", list(config.composite.bands)),
        ("legend", [entry.value for entry in config.legend.classes]),
    ):
        found = model.about[name]
        found = [entry["value"] for entry in found] if name == "legend" else found
        if found != wanted:
            raise store.StoreError(
                f"the model was trained with {name} {found}, expected {wanted}; run `train` again"
            )


def _left(
    config: Config, composites: Composites, marks: dict[tuple[str, int], str]
) -> list[tuple[str, Block, tuple[int, ...]]]:
    """Return (tile, block of a shard, years that are missing there)."""
    left = []
    for name, tile in composites.tiles.items():
        for block in tile.grid.blocks(config.classify.shard):
            missing = []
            for year in config.archive.years:
                shard = Shard("probabilities", name, year, block)
                if not store.is_whole(
                    shard.path(config.directory), store.shard_mark(marks[name, year], shard)
                ):
                    missing.append(year)
            if missing:
                left.append((name, block, tuple(missing)))
    return left


def _make_shards(
    config: Config,
    group: MPI.Comm,
    composites: Composites,
    model: Model,
    tile: str,
    block: Block,
    years: Sequence[int],
    marks: dict[tuple[str, int], str],
) -> None:
    parts = list(split(block, BLOCK))
    # A cell costs what a whole one does, also where the block cuts it off.
    owner = share([-(-part.height // CELL) * -(-part.width // CELL) for part in parts], group.size)
    results: dict[Block, dict[int, Layers]] = {}
    with together(group, f"classifying {tile} at row {block.row}, column {block.col}"):
        own = [part for part, rank in zip(parts, owner, strict=True) if rank == group.rank]
        for part, given in ahead(lambda part: read(composites, tile, part, model.reach), own):
            results[part] = classify_block(config, composites, model, *given, years)
    for year in years:
        shard = Shard("probabilities", tile, year, block)
        layers = {part: by_year[year] for part, by_year in results.items()}
        _write_shard(config, group, shard, marks[tile, year], composites.tiles[tile], parts, layers)


def read(
    composites: Composites, tile: str, block: Block, reach: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read what a block is classified from.

    Returns
    -------
    reflectance : ndarray[time, band, y + 2 reach, x + 2 reach], uint16
        With the pixels around the block.
    days : ndarray[time, y + 2 reach, x + 2 reach], int32
        As `Composites.read_days` returns them.
    count : ndarray[time, y, x], uint8
        Clear observations.
    """
    around, days = read_around(composites, composites.tiles[tile], block, reach)
    return around, days, composites.read_count(tile, block)


def classify_block(
    config: Config,
    composites: Composites,
    model: Model,
    reflectance: np.ndarray,
    days: np.ndarray,
    count: np.ndarray,
    years: Sequence[int],
) -> dict[int, Layers]:
    """Return (probability uint8 [class, y, x], observations uint16 [y, x]) of a block for each year."""
    if model.reads_gaps:
        given = reflectance, count, days
    else:
        given = (composites.at_periods(reflectance, days),)
    # Where the state goes from year to year, a year's answer must not depend on which others are left to do.
    read = config.archive.years if model.carries else years
    predicted = predict_cells(model, Cut.of(config, read), *given)
    never = ~count.any(axis=0)
    results, positions = {}, config.times_by_year
    for year in years:
        observations = count[positions[year]].sum(axis=0, dtype=np.uint16)
        probability = predicted[read.index(year)]
        probability[:, observations == 0] = NODATA
        probability[:, never] = OUTSIDE
        results[year] = probability, observations
    return results


def predict_cells(
    model: Model,
    cut: Cut,
    series: np.ndarray,
    count: np.ndarray | None = None,
    days: np.ndarray | None = None,
) -> np.ndarray:
    """Predict a block cell by cell.

    A cell is always the same pixels in the same order, whatever block it is read with, and the last
    cells of a row are padded: the shape of the matrix products, and so every bit of the result, does
    not depend on blocks, shards or ranks.

    Parameters
    ----------
    cut : Cut
        The years to predict.
    series : ndarray[time, band, y + 2 reach, x + 2 reach], uint16
        With the pixels around that the model looks at; without gaps, unless `count` and `days` are given.
    count : ndarray[time, y, x], uint8
        Clear observations.
    days : ndarray[time, y, x], int32

    Returns
    -------
    ndarray[year, class, y, x], uint8
    """
    height, width = (side - 2 * model.reach for side in series.shape[2:])
    classes = len(model.about["legend"])
    out = np.zeros((len(cut.years), classes, height, width), np.uint8)
    for cell in split(Block(0, 0, height, width), CELL):
        read = _patches(series, cell, model.reach) if model.reach else _pixels(series, cell)
        seen = [None if own is None else _pixels(own, cell) for own in (count, days)]
        windows = cut.windows(read, *seen)
        of_years = cut.of_years(model.predict(cut.years, windows))
        probability = quantise(of_years.reshape(-1, classes))
        maps = probability.reshape(CELL, CELL, len(cut.years), classes).transpose(2, 3, 0, 1)
        out[(..., *cell.slices)] = maps[..., : cell.height, : cell.width]
    return out


def _pixels(values: np.ndarray, cell: Block) -> np.ndarray:
    """Return a cell's pixels, [..., y, x] -> [pixel, ...]; 0 where it lies outside."""
    padded = np.zeros((*values.shape[:-2], CELL, CELL), values.dtype)
    padded[..., : cell.height, : cell.width] = values[(..., *cell.slices)]
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*values.shape[:-2], -1), -1, 0))


def _patches(series: np.ndarray, cell: Block, reach: int) -> np.ndarray:
    """Return the patches of a cell's pixels, [time, band, y, x] -> [pixel, time, band, side, side]."""
    side = 2 * reach + 1
    around = Block(cell.row, cell.col, cell.height + 2 * reach, cell.width + 2 * reach)
    padded = np.zeros((*series.shape[:2], CELL + 2 * reach, CELL + 2 * reach), series.dtype)
    padded[..., : around.height, : around.width] = series[(..., *around.slices)]
    rows, cols = np.divmod(np.arange(CELL * CELL), CELL)
    return patches(padded, rows, cols, side)


def _write_shard(
    config: Config,
    group: MPI.Comm,
    shard: Shard,
    mark: str,
    tile: Tile,
    parts: Sequence[Block],
    layers: dict[Block, Layers],
) -> None:
    block, legend = shard.block, config.legend
    layout = {
        PROBABILITY: (
            (len(legend.classes), block.height, block.width),
            (len(legend.classes), CELL, CELL),
        ),
        OBSERVATIONS: ((block.height, block.width), (CELL, CELL)),
    }
    path = shard.path(config.directory)
    attributes = consistency.attributes_of(config, tile, shard)
    file = store.create(path, group, layout, attributes)
    for part in parts:
        row, col = part.row - block.row, part.col - block.col
        own = layers.get(part)
        store.write_round(file, PROBABILITY, None if own is None else Piece(own[0], (0, row, col)))
        store.write_round(file, OBSERVATIONS, None if own is None else Piece(own[1], (row, col)))
    store.finish(file, path, group, store.shard_mark(mark, shard))
    deadline.made()
