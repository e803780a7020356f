"""The multi-year training set: pixels that the years' maps and the old map agree on, with a label for each year.

After Sedona et al. 2022 (IGARSS, 10.1109/IGARSS46834.2022.9883655): models as for single years map each year; pixels
that the old map and these maps agree on, of all years, teach the model that maps them all. Two things differ. A pixel
is mapped by a model that has not seen its part of the landscape, for one that has would repeat the old map's mistakes
there (predictions out of sample, as in Northcutt et al. 2021, Journal of Artificial Intelligence Research 70). And a
pixel that changed for good keeps its place, with the class of each year, for without it no change is ever learned.
Only pixels that may be drawn are mapped here: many times as many as samples, spread over all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import store
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Tile
from lcu.legend import NODATA, Legend
from lcu.ranks import mine, on_root, together
from lcu.sample import Candidates, OldMap, Samples, assign_splits, draw
from lcu.sample import stage as sampling
from lcu.sample.draw import lowest, mix, reading_order
from lcu.sample.series import fill_series, read_series
from lcu.store import CELL
from lcu.train.model import Model
from lcu.train.series import Cut
from lcu.years import most_likely_years

NAME = "stable"

# Parts of the landscape, each left out by one of the first models: squares of a side in pixels, in a pattern of 2 x 2.
FOLDS = 4
SQUARE = 128

# Pixels of each class that are looked at, for each sample that is drawn of a class on average; and how many are drawn.
POOL = 8
MORE = 2

# Pixels that are mapped at once: always as many, so that no bit depends on how they are dealt out.
BATCH = CELL * CELL

# Share of a class that is taken to change in a year; probability below which none is taken to fall; and that of its own
# label above which a year teaches it. Measured in docs/consistency.md.
CHANGE = 0.01
LEAST = 1e-3
SURE = 0.3

# Years that a pixel must have a label in.
FEWEST_YEARS = 2


def fold_of(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return the part of the landscape that pixels of a tile belong to, 0 to `FOLDS` - 1."""
    return row // SQUARE % 2 * 2 + col // SQUARE % 2


def without(samples: Samples, fold: int) -> Samples:
    """Return the samples with no labels in a part of the landscape."""
    inside = fold_of(samples.row, samples.col) == fold
    label = np.where(inside[:, None], np.uint8(NODATA), samples.label)
    mark = store.fingerprint("without 1", samples.fingerprint, fold, SQUARE)
    return replace(samples, label=label, fingerprint=mark)


def stable_samples(
    config: Config, comm: MPI.Comm, samples: Samples, first: Sequence[Model], report: Any
) -> Samples:
    """Draw the multi-year samples unless they are there; return them on every rank.

    Parameters
    ----------
    config : Config
        With the strategy that the models were trained for.
    samples : Samples
        What `first` learned from; a polygon stays on the side of the split that it has there.
    first : sequence of Model
        Each trained `without` a part of the landscape.
    """
    composites = on_root(comm, "opening the composites", Composites.open, config)
    mark = store.fingerprint(
        "stable 2", samples.fingerprint, [(one.fingerprint, one.about["tensors"]) for one in first],
        FOLDS, SQUARE, POOL, MORE, CHANGE, SURE,
    )  # fmt: skip
    path = sampling.path_of(config.directory, NAME)
    if not on_root(comm, "looking for stable samples", store.is_whole, path, mark):
        tiles = list(composites.tiles.values())
        pool, areas = _pool(config, comm, composites, tiles, report)
        label = _labels(config, comm, composites, tiles, pool, first, report)
        kept = pool.take((label != NODATA).sum(axis=1) >= FEWEST_YEARS)
        most = MORE * config.sample.per_class, MORE * config.sample.per_polygon
        drawn = draw(kept, areas, *most)
        own = label[np.isin(pool.key, drawn.key)]  # both in reading order
        split = splits(drawn, samples, config.run.seed)
        sampling.write(config, comm, composites, drawn, areas, split, path, mark, own)
    return on_root(comm, "reading the stable samples", Samples.read, config.directory, NAME)


def splits(drawn: Candidates, samples: Samples, seed: int) -> np.ndarray:
    """Return the split of each candidate, uint8: that of its polygon in `samples` where it has one there."""
    split = assign_splits(drawn.index, drawn.polygon, seed)
    known = dict(zip(samples.polygon.tolist(), samples.split.tolist(), strict=True))
    own = [
        known.get(polygon, part)
        for polygon, part in zip(drawn.polygon.tolist(), split, strict=True)
    ]
    return np.array(own, np.uint8)


def _pool(
    config: Config, comm: MPI.Comm, composites: Composites, tiles: Sequence[Tile], report: Any
) -> tuple[Candidates, np.ndarray]:
    """Return the pixels that are mapped, in reading order, and the area of each class in the old map."""
    with together(comm, "opening the old map"):
        old = OldMap(config.sample, tiles)
    count = POOL * config.sample.per_class
    work = sampling.blocks_of(tiles)
    own = mine(work, comm, cost=lambda item: item[2].height * item[2].width)
    parts, areas = [Candidates.none()], np.zeros(len(config.legend.classes), np.int64)
    with together(comm, "looking for pixels that may be stable"):
        for done, (number, tile, block) in enumerate(own):
            found, area = sampling.candidates(config, composites, tile, number, block, old)
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
    first: Sequence[Model], report: Any,
) -> np.ndarray:  # fmt: skip
    """Return the class value of each candidate in each year, uint8 [candidate, year], the same on every rank."""
    fold = fold_of(pool.row, pool.col)
    order = np.lexsort((np.arange(len(pool)), fold))
    starts = [
        (number, part[begin : begin + BATCH])
        for number in range(FOLDS)
        for part in [order[fold[order] == number]]
        for begin in range(0, len(part), BATCH)
    ]
    own = mine(starts, comm)
    label = np.full((len(pool), len(config.archive.years)), NODATA, np.uint8)
    with together(comm, "mapping the pixels that may be stable"):
        for done, (number, rows) in enumerate(own):
            batch, model = pool.take(rows), first[number]
            series, count, patch = read_series(
                composites, tiles, batch, with_patches=model.reach > 0
            )
            looked_at = series if patch is None else patch
            found = yearly_probability(config, model, looked_at, count, composites.days)
            known = np.isin(config.legend.values[batch.index], model.about["classes"])
            label[rows] = agreed_labels(
                *found, batch.index, known, nearest_year(config), config.legend
            )
            report(done + 1, len(own), "batches of pixels mapped")
    comm.Allreduce(MPI.IN_PLACE, label, MPI.MIN)
    return label


def nearest_year(config: Config) -> int:
    """Return the position of the mapped year that lies nearest to the old map's, the earlier of equals."""
    return int(np.abs(np.array(config.archive.years) - config.sample.old_map_year).argmin())


def yearly_probability(
    config: Config, model: Model, series: np.ndarray, count: np.ndarray, days: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Map at most `BATCH` pixels in every year.

    Parameters
    ----------
    series : ndarray[sample, time, band], uint16
        Patches, [sample, time, band, 5, 5], where the model looks at them.
    count : ndarray[sample, time], uint8
    days : ndarray[time], int32

    Returns
    -------
    probability : ndarray[sample, year, class], float32
    seen : ndarray[sample, year], bool
        Whether there is a clear observation in the year.
    """
    cut = Cut.of(config, config.archive.years)
    used = series if model.reads_gaps else fill_series(series, days)
    padded = np.zeros((BATCH, *series.shape[1:]), series.dtype)
    padded[: len(series)] = used
    counted = None
    if model.reads_gaps:
        counted = np.zeros((BATCH, count.shape[1]), count.dtype)
        counted[: len(count)] = count
    probability = cut.of_years(model.predict(cut.years, cut.windows(padded, counted, days[None])))
    of_year = [
        [position for position, period in enumerate(config.periods) if period.start.year == year]
        for year in cut.years
    ]
    seen = np.stack([count[:, own].any(axis=1) for own in of_year], axis=1)
    return probability[: len(series)], seen


def agreed_labels(
    probability: np.ndarray, seen: np.ndarray, index: np.ndarray, known: np.ndarray, nearest: int,
    legend: Legend,
) -> np.ndarray:  # fmt: skip
    """Return the class value of each pixel in each year, uint8 [sample, year]; 255 = none.

    The likeliest classes of all years together; none of a pixel whose class in the year `nearest` to the old map is not
    the old map's, and none in a year that was not seen or says something else for itself.

    Parameters
    ----------
    probability, seen
        As `yearly_probability` returns them.
    index : ndarray[sample], uint8
        Class index in the old map.
    known : ndarray[sample], bool
        Whether the model knows that class: what it does not know, it cannot contradict.
    """
    away = legend.transition_matrix()
    np.fill_diagonal(away, 0)
    step = CHANGE * away / np.maximum(away.sum(axis=1, keepdims=True), 1e-9)
    np.fill_diagonal(step, 1 - step.sum(axis=1))
    likely = np.where(seen[..., None], np.maximum(probability, LEAST), 1).astype(np.float32)
    as_raster = np.ascontiguousarray(likely.transpose(1, 2, 0)[..., None])
    found = most_likely_years(as_raster, step)[..., 0].T.astype(np.int64)
    own = np.take_along_axis(probability, found[..., None], axis=2)[..., 0]
    kept = seen & (own > SURE) & (found[:, nearest] == index)[:, None]
    kept[~known], found[~known] = seen[~known], index[~known, None]
    return np.where(kept, legend.values[found], np.uint8(NODATA))
