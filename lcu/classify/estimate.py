"""The shell that estimates what all pixels have in common: the chain, how alike years are, or limits of the CLC+ rule.

It looks at cells that are spread evenly over all tiles; every rank reads some, sums of integers bring them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import evidence, likeness, store
from lcu.classify import clcplus
from lcu.classify.source import KIND, Source
from lcu.grid import Block, Tile
from lcu.legend import NODATA
from lcu.ranks import mine, on_root, together
from lcu.reliability import SCALE, quantise
from lcu.store import CELL

# Cells that the chain is estimated from, at most: a million pixels.
CELLS = 256

# Pixels of these cells, at most, from which it is learned how alike the years of a place are.
PIXELS = 16384


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
    looks : dict of str to ndarray[year, feature, pixel], uint16; pixels : ndarray[pixel]
        What the witnesses of `lcu.likeness` have of some of its pixels, and where these are in the cell; nothing where
        years are not compared.
    """

    number: int
    written: np.ndarray
    looks: likeness.Looks
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
    looks = {}
    if source.config.compares_years:
        own = probability.reshape(*probability.shape[:2], -1)[..., pixels]
        series = source.series(*place, pixels)[:, :, 0]
        looks = {"series": series, "answers": likeness.answers(own)}
    return Cell(number, written, looks, pixels)


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
    if source.config.compares_years:
        about["likeness"] = _estimate_likeness(source, comm, own, chain)
    return about


def _estimate_likeness(
    source: Source, comm: MPI.Comm, own: list[Cell], chain: evidence.Chain
) -> dict[str, Any]:
    """Learn from some pixels, with the classes that the chain gives them, how alike the years of a place are."""
    rows = []
    for cell in own:
        cast = cell.votes.reshape(*cell.written.shape[:2], -1)[..., cell.pixels]
        label = evidence.decode(cast[:, :, None], chain)[source.mapped, 0]
        rows.append((cell.number, cell.looks, label))
    classes = len(source.config.legend.classes)
    found = on_root(
        comm, "learning how alike years are", likeness.fit_parts, comm.gather(rows), classes
    )  # fmt: skip
    return {kind: known.plain() for kind, known in found.items()}


def _estimate_limits(source: Source, comm: MPI.Comm, own: list[Cell]) -> dict[str, Any]:
    classes = len(source.config.legend.classes)
    counts = np.zeros((classes, classes, clcplus.BINS), np.int64)
    for cell in own:
        counts += clcplus.count_distances(evidence.as_probability(cell.written))
    comm.Allreduce(MPI.IN_PLACE, counts)
    limits = clcplus.thresholds(counts, source.config.classify.percentile)
    return {"years": source.years, "limits": limits.tolist()}
