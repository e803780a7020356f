"""The multi-year training set: pixels that the maps of all single years and the old map call the same.

As Sedona et al. 2022 (IGARSS, 10.1109/IGARSS46834.2022.9883655) do it: a model as for single years maps each year;
what no year contradicts is the stable part of the landscape; samples of it, of all years, teach the model that maps
them all. Only pixels that may be drawn are mapped here: many times as many as samples, spread over all tiles.
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
from lcu.ranks import mine, on_root, together
from lcu.sample import Candidates, OldMap, Samples, assign_splits, draw
from lcu.sample import stage as sampling
from lcu.sample.draw import lowest, mix, reading_order
from lcu.sample.series import fill_series, read_series
from lcu.store import CELL
from lcu.train.model import Model
from lcu.train.series import Cut

NAME = "stable"

# Pixels of each class that are looked at, for each sample that is drawn of a class on average.
POOL = 8

# Pixels that are mapped at once: always as many, so that no bit depends on how they are dealt out.
BATCH = CELL * CELL


def stable_samples(
    config: Config, comm: MPI.Comm, samples: Samples, first: Model, report: Any
) -> Samples:
    """Draw the multi-year samples unless they are there; return them on every rank.

    Parameters
    ----------
    config : Config
        With the strategy that `first` was trained for.
    samples : Samples
        What `first` learned from; a polygon stays on the side of the split that it has there.
    """
    composites = on_root(comm, "opening the composites", Composites.open, config)
    mark = store.fingerprint(
        "stable 1", samples.fingerprint, first.fingerprint, first.about["tensors"]
    )
    path = sampling.path_of(config.directory, NAME)
    if not on_root(comm, "looking for stable samples", store.is_whole, path, mark):
        tiles = list(composites.tiles.values())
        pool, areas = _pool(config, comm, composites, tiles, report)
        kept = _stable(config, comm, composites, tiles, pool, first, report)
        drawn = draw(pool.take(kept), areas, config.sample.per_class, config.sample.per_polygon)
        split = splits(drawn, samples, config.run.seed)
        sampling.write(config, comm, composites, drawn, areas, split, path, mark)
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


def _stable(
    config: Config, comm: MPI.Comm, composites: Composites, tiles: Sequence[Tile], pool: Candidates,
    first: Model, report: Any,
) -> np.ndarray:  # fmt: skip
    """Tell which candidates are stable, bool [candidate], the same on every rank."""
    starts = range(0, len(pool), BATCH)
    own = mine(starts, comm)
    kept = np.zeros(len(pool), np.uint8)
    with together(comm, "mapping the pixels that may be stable"):
        for done, start in enumerate(own):
            batch = pool.take(np.arange(start, min(start + BATCH, len(pool))))
            patched = first.reach > 0
            series, count, patch = read_series(composites, tiles, batch, with_patches=patched)
            looked_at = patch if patched else series
            label, seen = yearly_labels(config, first, looked_at, count, composites.days)
            kept[start : start + len(batch)] = is_stable(label, seen, batch.index)
            report(done + 1, len(own), "batches of pixels mapped")
    comm.Allreduce(MPI.IN_PLACE, kept, MPI.MAX)
    return kept.astype(bool)


def yearly_labels(
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
    label : ndarray[sample, year], int64
        Index of the likeliest class.
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
    return probability[: len(series)].argmax(axis=2), seen


def is_stable(label: np.ndarray, seen: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Tell which pixels have the old map's class in every year that was seen, two at least; bool [sample].

    Parameters
    ----------
    label, seen
        As `yearly_labels` returns them.
    index : ndarray[sample], uint8
        Class index in the old map.
    """
    same = ((label == index[:, None]) | ~seen).all(axis=1)
    return same & (seen.sum(axis=1) >= 2)
