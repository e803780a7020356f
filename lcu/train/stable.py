"""The multi-year training set: pixels of all kinds, with the class that all years together give them in each.

After Sedona et al. 2022 (IGARSS, 10.1109/IGARSS46834.2022.9883655): a model as for single years maps each year, and
what these maps agree on, of all years, teaches one model that maps them all. Agreement is the choice over years here
(`lcu.evidence`, the old map one more year; `lcu.likeness`), so that a pixel that changed for good keeps its place, with
the class of each year: without it no change is ever learned. The first samples lie inside polygons and look like their
class; these are drawn from whatever there is to map, borders and odd fields among it. Only pixels that may be drawn are
mapped here: many times as many as samples, spread over all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import evidence, likeness, store
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Tile
from lcu.legend import NODATA, Legend
from lcu.likeness import Likeness
from lcu.ranks import mine, on_root, together
from lcu.sample import Candidates, OldMap, Samples, assign_splits, draw
from lcu.sample import stage as sampling
from lcu.sample.draw import FARTHEST, TRAINING, lowest, mix, reading_order
from lcu.sample.series import fill_patches, read_series
from lcu.store import CELL, PATCH_SIDE
from lcu.train.model import Model
from lcu.train.series import Cut
from lcu.years import over_votes, pairs_of_years

NAME = "stable"

# Pixels of each class that are looked at, for each sample that is drawn of a class on average; and how many are drawn.
POOL = 8
MORE = 2

# Pixels that are mapped at once: always as many, so that no bit depends on how they are dealt out.
BATCH = CELL * CELL

# Pixels that are read at once, with the ground around them: 25 times as much as of them alone.
PIECE = 512

# Batches, of all ranks together, that tell how alike the years of a place are.
COMPARED = 8

# Years that a pixel must have a label in.
FEWEST_YEARS = 2


@dataclass(frozen=True)
class Batch:
    """Pixels that were mapped together.

    Attributes
    ----------
    rows : ndarray[pixel]
        Positions in the pool.
    probability : ndarray[pixel, year, class], float32
        NaN in years that were not seen.
    series : ndarray[year, feature, pixel], uint16
        Gap-filled, of the ground around each (`lcu.likeness.around`), time and band in one axis.
    """

    rows: np.ndarray
    probability: np.ndarray
    series: np.ndarray

    @property
    def looks(self) -> likeness.Looks:
        """What the witnesses of `lcu.likeness` have of the pixels, [year, feature, pixel]."""
        said = likeness.answers(self.probability.transpose(1, 2, 0))
        return {"series": self.series, "answers": said}


def stable_samples(
    config: Config, comm: MPI.Comm, samples: Samples, first: Model, report: Any
) -> Samples:
    """Draw the multi-year samples unless they are there; return them on every rank.

    Parameters
    ----------
    config : Config
        With the strategy that the first model was trained for.
    samples : Samples
        What `first` learned from; a polygon stays on the side of the split that it has there.
    """
    composites = on_root(comm, "opening the composites", Composites.open, config)
    mark = store.fingerprint(
        "stable 12", samples.fingerprint, first.fingerprint, first.about["tensors"], POOL, MORE,
        config.compares_years, config.legend.transition_matrix().tolist(),
    )  # fmt: skip
    path = sampling.path_of(config.directory, NAME)
    if not on_root(comm, "looking for stable samples", store.is_whole, path, mark):
        tiles = list(composites.tiles.values())
        pool, areas = _pool(config, comm, composites, tiles, report)
        label = _labels(config, comm, composites, tiles, pool, first, report)
        chosen = (label != NODATA).sum(axis=1) >= FEWEST_YEARS
        pool, label = pool.take(chosen), label[chosen]
        split = splits(pool, samples, config.run.seed)
        core = pool.border > border_of(config, tiles, pool)
        usable = (split == TRAINING) | core
        pool, label, split = pool.take(usable), label[usable], split[usable]
        shown = replace(pool, index=config.legend.index_of(label_of_one_year(label, pool.key)))
        most = MORE * config.sample.per_class, MORE * config.sample.per_polygon
        drawn = draw(shown, areas, *most)
        own = np.isin(pool.key, drawn.key)  # both in reading order
        sampling.write(
            config, comm, composites, drawn, areas, split[own], path, mark, label[own]
        )  # fmt: skip
    return on_root(comm, "reading the stable samples", Samples.read, config.directory, NAME)


def splits(pool: Candidates, samples: Samples, seed: int) -> np.ndarray:
    """Return the split of each pixel, uint8: that of its polygon in `samples` where it has one there."""
    split = assign_splits(pool.index, pool.polygon, seed)
    known = dict(zip(samples.polygon.tolist(), samples.split.tolist(), strict=True))
    own = [
        known.get(polygon, part) for polygon, part in zip(pool.polygon.tolist(), split, strict=True)
    ]
    return np.array(own, np.uint8)


def border_of(config: Config, tiles: Sequence[Tile], pool: Candidates) -> np.ndarray:
    """Return how far from other classes pixels must lie to be held out, in pixels, float64 [pixel].

    Pixels at borders are learned from; were they held out as well, neighbours would lie on both sides of the split.
    """
    pixels = np.array([config.sample.erosion / tile.grid.resolution for tile in tiles])
    return np.clip(pixels, 1, FARTHEST - 1)[pool.tile]


def label_of_one_year(label: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the label of a year that chance chose among those that have one, uint8 [pixel].

    Parameters
    ----------
    label : ndarray[pixel, year], uint8
        255 = none; every pixel has one.
    key : ndarray[pixel], uint64
        The pixel's random-looking number.
    """
    known = label != NODATA
    wanted = mix(key) % known.sum(axis=1).astype(np.uint64)
    place = (known & (known.cumsum(axis=1) == wanted[:, None].astype(np.int64) + 1)).argmax(axis=1)
    return label[np.arange(len(label)), place]


def _pool(
    config: Config, comm: MPI.Comm, composites: Composites, tiles: Sequence[Tile], report: Any
) -> tuple[Candidates, np.ndarray]:
    """Return the pixels that are mapped, in reading order, and the area of each class in the old map.

    They are of all kinds that have a class there, borders included.
    """
    with together(comm, "opening the old map"):
        old = OldMap(config.sample, tiles)
    everything = replace(config, sample=replace(config.sample, erosion=0.0))
    count = POOL * config.sample.per_class
    work = sampling.blocks_of(tiles)
    own = mine(work, comm, cost=lambda item: item[2].height * item[2].width)
    parts, areas = [Candidates.none()], np.zeros(len(config.legend.classes), np.int64)
    with together(comm, "looking for pixels that may be stable"):
        for done, (number, tile, block) in enumerate(own):
            found, area = sampling.candidates(everything, composites, tile, number, block, old)
            # Not the draw that the first model learned from, which it would only repeat.
            found = replace(found, key=mix(found.key))
            parts.append(lowest(found, count))
            areas += area
            report(done + 1, len(own), "blocks")
    comm.Allreduce(MPI.IN_PLACE, areas)
    pool = lowest(Candidates.join(comm.allgather(lowest(Candidates.join(parts), count))), count)
    return pool.take(reading_order(pool)), areas


def _labels(
    config: Config, comm: MPI.Comm, composites: Composites, tiles: Sequence[Tile], pool: Candidates,
    first: Model, report: Any,
) -> np.ndarray:  # fmt: skip
    """Return the class value of each pixel in each year, uint8 [pixel, year], the same on every rank."""
    starts = range(0, len(pool), BATCH)
    own = mine(starts, comm)
    batches = []
    with together(comm, "mapping the pixels that may be stable"):
        for done, start in enumerate(own):
            rows = np.arange(start, min(start + BATCH, len(pool)))
            batches.append(_mapped(config, composites, tiles, pool.take(rows), rows, first))
            report(done + 1, len(own), "batches of pixels mapped")
    shape = len(pool), len(config.archive.years), len(config.legend.classes)
    probability = _assembled(comm, [(one.rows, one.probability) for one in batches], shape)
    with together(comm, "choosing the classes of pixels that may be stable"):
        years, mapped = evidence.years_of_votes(
            config.archive.years, config.sample.old_map_year
        )  # fmt: skip
        cast = votes(probability, pool.index, years, mapped)
        parts = [cast[..., start : start + BATCH] for start in starts]
        chain = evidence.estimate(lambda: parts, years, mapped, config.legend.transition_matrix())
        found = evidence.decode(cast, chain)[mapped, 0].T
    witnesses = _compared(config, comm, batches, found)
    if witnesses:
        own_votes = cast[mapped][:, :, 0]
        held = [
            (one.rows, likeness.stay(witnesses, one.looks, own_votes[..., one.rows]).T)
            for one in batches
        ]
        of_pairs = _assembled(comm, held, (len(pool), len(pairs_of_years(len(mapped)))))
        stay = over_votes(np.ascontiguousarray(of_pairs.T)[:, None], len(years), mapped)
        found = evidence.decode(cast, chain, stay)[mapped, 0].T
    known = np.isin(config.legend.values[pool.index], first.about["classes"])
    return class_values(found, ~np.isnan(probability[..., 0]), pool.index, known, config.legend)


def _mapped(
    config: Config, composites: Composites, tiles: Sequence[Tile], pool: Candidates, rows: np.ndarray, model: Model
) -> Batch:  # fmt: skip
    """Map some pixels, the positions `rows` of which are in the pool."""
    pieces = [
        _read(composites, tiles, pool.take(np.arange(start, min(start + PIECE, len(pool)))), model)
        for start in range(0, len(pool), PIECE)
    ]
    *read, count, looks = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    probability = yearly_probability(config, model, *read)
    seen = np.stack([count[:, own].any(axis=1) for own in config.times_by_year.values()], axis=1)
    of_year = np.stack([looks[:, own] for own in config.positions_by_year.values()])
    features = of_year.reshape(*of_year.shape[:2], -1).transpose(0, 2, 1)
    return Batch(rows, np.where(seen[..., None], probability, np.float32(np.nan)), features)


def _read(
    composites: Composites, tiles: Sequence[Tile], pool: Candidates, model: Model
) -> tuple[np.ndarray, ...]:
    """Return what the model takes, the counts [pixel, time], and the series around the pixels [pixel, period, band]."""
    series, count, day, patch = read_series(composites, tiles, pool, with_patches=True)
    filled, middle = fill_patches(patch, composites.middles), PATCH_SIDE // 2
    if model.reads_gaps:
        read = patch if model.reach else series, count, day
    else:
        read = (filled if model.reach else filled[..., middle, middle],)
    return *read, count, likeness.around_patch(filled)


def _assembled(
    comm: MPI.Comm, own: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...]
) -> np.ndarray:
    """Bring the rows of all ranks together, float32 of a shape, on every rank."""
    out = np.full(shape, np.nan, np.float32)
    for rows, values in (part for parts in comm.allgather(own) for part in parts):
        out[rows] = values
    return out


def votes(
    probability: np.ndarray, index: np.ndarray, years: Sequence[int], mapped: Sequence[int]
) -> np.ndarray:
    """Return the votes of the years and of the old map, float32 [vote, class, 1, pixel].

    Parameters
    ----------
    probability : ndarray[pixel, year, class], float32
        NaN in years that were not seen.
    index : ndarray[pixel], uint8
        Class index in the old map.
    years, mapped
        As `years_of_votes` returns them.
    """
    cast = evidence.votes(np.ascontiguousarray(probability.transpose(1, 2, 0))[:, :, None])
    old = next(position for position in range(len(years)) if position not in mapped)
    of_map = evidence.votes_of_map(index[None], probability.shape[2])
    return np.insert(cast, old, of_map, axis=0)


def _compared(
    config: Config, comm: MPI.Comm, batches: Sequence[Batch], found: np.ndarray
) -> dict[str, Likeness]:
    """Learn how alike the years of a place are, from some batches and their class indices [pixel, year]."""
    if not config.compares_years:
        return {}
    few = [
        (int(one.rows[0]), one.looks, found[one.rows].T)
        for one in batches
        if one.rows[0] // BATCH < COMPARED
    ]
    classes = len(config.legend.classes)
    return on_root(
        comm, "learning how alike years are", likeness.fit_parts, comm.gather(few), classes
    )  # fmt: skip


def yearly_probability(config: Config, model: Model, *read: np.ndarray) -> np.ndarray:
    """Map at most `BATCH` pixels in every year: probability float32 [sample, year, class].

    Parameters
    ----------
    *read : ndarray[sample, ...]
        What `Cut.windows` takes: series without gaps, or series, count and day where the model reads gaps.
    """
    cut, size = Cut.of(config, config.archive.years), len(read[0])
    padded = [np.zeros((BATCH, *values.shape[1:]), values.dtype) for values in read]
    for whole, values in zip(padded, read, strict=True):
        whole[:size] = values
    return cut.of_years(model.predict(cut.years, cut.windows(*padded)))[:size]


def class_values(
    found: np.ndarray, seen: np.ndarray, index: np.ndarray, known: np.ndarray, legend: Legend
) -> np.ndarray:
    """Return the class value of each pixel in each year, uint8 [pixel, year]; 255 = none.

    Parameters
    ----------
    found : ndarray[pixel, year], uint8
        Class index; 255 = none.
    seen : ndarray[pixel, year], bool
    index : ndarray[pixel], uint8
        Class index in the old map.
    known : ndarray[pixel], bool
        Whether the model knows that class: what it does not know, it cannot contradict.
    """
    chosen = np.where(known[:, None], found, index[:, None])
    values = np.append(legend.values, np.uint8(NODATA))
    return np.where(seen, values[np.minimum(chosen, len(legend.values))], np.uint8(NODATA))
