"""From all candidates to the reliable ones: which are looked at, their series, what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from lcu.composite import Composites
from lcu.config import Config
from lcu.deadline import check
from lcu.grid import Tile
from lcu.ranks import together
from lcu.sample.draw import Candidates, reading_order
from lcu.sample.reliable import KEPT, RULES, Pool, highest, reliable, total_count
from lcu.sample.series import fill_series, read_series

# Side of the squares whose colours, as on a chess board, are the two halves of the landscape, in pixels.
SQUARE = 32


def clean(
    config: Config,
    comm: MPI.Comm,
    composites: Composites,
    tiles: Sequence[Tile],
    candidates: Candidates,
) -> tuple[Candidates, dict[str, np.ndarray]]:
    """Return this rank's reliable candidates with their clusters; collective over `comm`.

    Returns
    -------
    kept : Candidates
    counts : dict of str to ndarray[class], int64
        Of all ranks: ``candidates``; those left out of the pool (``pool``); those that each rule of
        `RULES` removed; ``kept``.
    """
    classes = len(config.legend.classes)
    counts = {"candidates": total_count(candidates.index, classes, comm)}
    if not config.sample.clean:
        return candidates, counts | {"kept": counts["candidates"]}
    number = (~candidates.key >> np.uint64(32)).astype(np.uint32)
    wanted = np.full(classes, config.sample.pool)
    pooled = candidates.take(highest(number, candidates.index.astype(np.int64), wanted, comm))
    counts["pool"] = counts["candidates"] - total_count(pooled.index, classes, comm)
    pooled = spread(pooled, comm)
    with together(comm, "reading the series of candidates"):
        check()
        pool = _pool(config, composites, tiles, pooled)
    verdict = reliable(
        pool, classes=classes, keep=config.sample.keep, typical=config.sample.typical,
        outdated=[year != config.sample.old_map_year for year in judged_years(config)],
        seed=config.run.seed, comm=comm,
    )  # fmt: skip
    for rule, name in enumerate(RULES):
        counts[name] = total_count(pooled.index[verdict.rule == rule], classes, comm)
    kept = verdict.rule == KEPT
    return replace(pooled, cluster=verdict.cluster).take(kept), counts


def spread(candidates: Candidates, comm: MPI.Comm) -> Candidates:
    """Return this rank's equal share of all ranks' candidates, in reading order; collective over `comm`.

    They come from whole blocks, of which small areas have fewer than there are ranks, and some blocks hold many.
    """
    sizes = np.array(comm.allgather(len(candidates)))
    before, total = sizes[: comm.rank].sum(), sizes.sum()
    ends = total * np.arange(1, comm.size) // comm.size - before
    sent = np.split(np.arange(len(candidates)), np.clip(ends, 0, len(candidates)))
    candidates = candidates.take(reading_order(candidates))
    own = Candidates.join(comm.alltoall([candidates.take(positions) for positions in sent]))
    return own.take(reading_order(own))


def _pool(
    config: Config, composites: Composites, tiles: Sequence[Tile], candidates: Candidates
) -> Pool:
    """Read the candidates' series and fill their gaps."""
    series, count, day, _ = read_series(composites, tiles, candidates, with_patches=False)
    series = fill_series(series, day, composites.middles)
    years = judged_years(config)
    return Pool(
        series=tuple(
            series[:, inside].reshape(len(series), len(inside) * series.shape[2])
            for inside in map(config.window_of, years)
        ),
        observed=np.stack([count[:, config.times_of(year)].any(axis=1) for year in years], axis=1),
        index=candidates.index,
        polygon=candidates.polygon,
        key=candidates.key,
        border=candidates.border,
        part=((candidates.row // SQUARE + candidates.col // SQUARE) % 2).astype(np.uint8),
    )


def judged_years(config: Config) -> list[int]:
    """Return the years by which candidates are judged: those that are sampled, and the map's own if it is there."""
    years = set(config.sample.years or config.archive.years)
    return sorted(years | ({config.sample.old_map_year} & set(config.archive.years)))
