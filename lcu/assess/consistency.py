"""The maps of all years, read once: how they agree with each other and with the old map, what changed.

A constant map agrees with itself perfectly. So agreement never stands alone: beside it are the accuracy
of both maps, and how much of the change in the reference was found, or that nothing says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import ranks
from lcu.assess import change
from lcu.assess.reference import BLOCK, RasterReference
from lcu.config import Config
from lcu.grid import Block, Tile
from lcu.legend import Legend
from lcu.projection import in_metres

Maps = Callable[[str, int, Block], np.ndarray]
OldMap = Callable[[str, Block], np.ndarray]
# (tile and year, reason) -> blocks that were left out.
Broken = Counter[tuple[str, str]]

ONE_YEAR = (
    "none: the reference shows one year; put {year} into assess.reference where there are more"
)


@dataclass(frozen=True)
class Landscape:
    """What the maps of all tiles add up to. Years ascend; a pair is a year and the next.

    Attributes
    ----------
    pairs : ndarray[tile, pair, from + 1, to + 1], int64
        Pixels by class in both years; see `lcu.assess.change.transitions`.
    old : ndarray[tile, year, from + 1, to + 1], int64
        The same from the old map to each year.
    steady : ndarray[2], int64
        Pixels that have a class in all years, and those that have the same one.
    flips : ndarray[triple, 2], int64
        Of three successive years: pixels that have a class in all of them, and those that have the same
        one in the first and the third and another in the second.
    changes : ndarray[pair, 5], int64
        The pairs against the reference; see `lcu.assess.change.count_changes`.
    old_changes : ndarray[year, 5], int64
        The same for old map and each year.
    """

    pairs: np.ndarray
    old: np.ndarray
    steady: np.ndarray
    flips: np.ndarray
    changes: np.ndarray
    old_changes: np.ndarray

    @classmethod
    def empty(cls, tiles: int, years: int, classes: int) -> Landscape:
        """Return counts of nothing."""
        shapes = [
            (tiles, years - 1, classes + 1, classes + 1), (tiles, years, classes + 1, classes + 1),
            (2,), (max(years - 2, 0), 2), (years - 1, 5), (years, 5),
        ]  # fmt: skip
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def mapped(self, year: int) -> np.ndarray:
        """Return the pixels of each class in the map of a year (its position): int64 [tile, class]."""
        return self.old[:, year, :, :-1].sum(axis=1)


def look(
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    maps: Maps,
    old: OldMap,
    available: set[tuple[str, int]],
) -> tuple[Landscape, Broken]:
    """Count all maps. Collective; the counts are the same on every rank, `broken` is this rank's.

    `available` are the tiles and years whose reference can be read for change.
    """
    years, names = sorted(config.archive.years), list(tiles)
    seen = Landscape.empty(len(tiles), len(years), len(config.legend.classes))
    reference = RasterReference(config) if available else None
    broken: Broken = Counter()
    units = [(tile, block) for tile in tiles.values() for block in tile.grid.blocks(BLOCK)]
    for tile, block in ranks.mine(units, comm):
        layers, outdated = _layers(tile, block, years, maps, old, broken)
        _count(seen, names.index(tile.id), years, layers, outdated, config.legend)
        if reference is None:
            continue
        wanted = [
            year for year in (*years, config.sample.old_map_year) if (tile.id, year) in available
        ]
        truth = _truth(reference, tile, block, wanted, broken)
        _compare(seen, config.sample.old_map_year, years, layers, outdated, truth, config.legend)
    for entry in fields(seen):  # integers: their sum is the same in any order
        comm.Allreduce(MPI.IN_PLACE, getattr(seen, entry.name))
    return seen, broken


def _layers(
    tile: Tile, block: Block, years: Sequence[int], maps: Maps, old: OldMap, broken: Broken
) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
    """Read a block of every year and of the old map; what cannot be read is noted and left out."""
    layers: dict[int, np.ndarray] = {}
    outdated = None
    for year in years:
        try:
            values = maps(tile.id, year, block)
            outdated = old(tile.id, block) if outdated is None else outdated
            layers[year] = values
        except Exception as error:  # noqa: BLE001  (one bad block costs itself only)
            broken[f"{tile.id} {year}", f"{type(error).__name__}: {error}"] += 1
    return layers, outdated


def _truth(
    reference: RasterReference, tile: Tile, block: Block, years: Sequence[int], broken: Broken
) -> dict[int, np.ndarray]:
    found = {}
    for year in dict.fromkeys(years):
        try:
            found[year] = reference.values(tile, year, block)[1]
        except Exception as error:  # noqa: BLE001  (one bad block costs itself only)
            broken[f"{tile.id} {year}", f"{type(error).__name__}: {error}"] += 1
    return found


def _count(
    seen: Landscape,
    tile: int,
    years: Sequence[int],
    layers: Mapping[int, np.ndarray],
    outdated: np.ndarray | None,
    legend: Legend,
) -> None:
    """Add a block to the counts that need no reference."""
    for place, year in enumerate(years):
        if year in layers:
            seen.old[tile, place] += change.transitions(outdated, layers[year], legend)
    for place, (first, then) in enumerate(pairwise(years)):
        if first in layers and then in layers:
            seen.pairs[tile, place] += change.transitions(layers[first], layers[then], legend)
    for place, three in enumerate(zip(years, years[1:], years[2:], strict=False)):
        if all(year in layers for year in three):
            a, b, c = (layers[year] for year in three)
            known = np.isin(np.stack([a, b, c]), legend.values).all(axis=0)
            flipped = known & (a == c) & (a != b)
            seen.flips[place] += [np.count_nonzero(known), np.count_nonzero(flipped)]
    if len(layers) == len(years):
        stack = np.stack(list(layers.values()))
        known = np.isin(stack, legend.values).all(axis=0)
        same = known & (stack == stack[0]).all(axis=0)
        seen.steady[:] += [np.count_nonzero(known), np.count_nonzero(same)]


def _compare(
    seen: Landscape,
    old_year: int,
    years: Sequence[int],
    layers: Mapping[int, np.ndarray],
    outdated: np.ndarray | None,
    truth: Mapping[int, np.ndarray],
    legend: Legend,
) -> None:
    """Add a block to the counts of changes against the reference."""
    for place, (first, then) in enumerate(pairwise(years)):
        if all(year in layers and year in truth for year in (first, then)):
            pair = truth[first], truth[then]
            seen.changes[place] += change.count_changes(layers[first], layers[then], pair, legend)
    for place, year in enumerate(years):
        if year in layers and year in truth and old_year in truth:
            pair = truth[old_year], truth[year]
            seen.old_changes[place] += change.count_changes(outdated, layers[year], pair, legend)


def references_of_change(config: Config, tiles: Mapping[str, Tile]) -> set[tuple[str, int]]:
    """Return the tiles and years whose reference may tell change; empty where it shows one year only."""
    about = config.assess
    if "{year}" not in about.reference or about.reference_year is not None:
        return set()
    reference = RasterReference(config)
    years = {*config.archive.years, config.sample.old_map_year}
    return {
        (tile.id, year)
        for tile in tiles.values()
        for year in years
        if reference.missing(tile, year) is None
    }


# --- in words and figures -------------------------------------------------------------------------


def pixel_area(tiles: Mapping[str, Tile]) -> tuple[np.ndarray, str]:
    """Return the area of a pixel, float64 [tile], and its unit: pixels where a grid has no metres."""
    if not all(in_metres(tile.grid) for tile in tiles.values()):
        return np.ones(len(tiles)), "pixels"
    sides = [(tile.grid.transform[1], -tile.grid.transform[5]) for tile in tiles.values()]
    return np.array([width * height / 10_000 for width, height in sides]), "hectares"


def describe(
    seen: Landscape,
    config: Config,
    tiles: Mapping[str, Tile],
    available: set[tuple[str, int]],
    results: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what ``consistency.json`` says.

    Parameters
    ----------
    results : mapping
        Year -> the accuracies of its map, which stand beside the agreement.
    """
    years, old_year = sorted(config.archive.years), config.sample.old_map_year
    size, unit = pixel_area(tiles)
    accuracy = {year: result["overall_accuracy"] for year, result in results.items()}

    def changes(counts: np.ndarray, *pair: int) -> dict[str, Any]:
        reason = _no_reference(config, available, pair)
        if reason or not counts[0]:
            return {
                "change": None,
                "change_reference": reason or "none: it shares no pixel with the maps",
            }
        return {
            "change": change.describe_changes(counts),
            "change_reference": config.assess.reference,
        }

    pairs = [
        {
            "from": first, "to": then,
            **change.describe_pair(seen.pairs[:, place].sum(axis=0)),
            "accuracy": {str(year): accuracy.get(year) for year in (first, then)},
            **changes(seen.changes[place], first, then),
        }
        for place, (first, then) in enumerate(pairwise(years))
    ]  # fmt: skip
    since = []
    for place, year in enumerate(years):
        matrix = seen.old[:, place].sum(axis=0)
        area = np.tensordot(size, seen.old[:, place], 1) if unit == "hectares" else None
        beside = {"old_map": None, str(year): accuracy.get(year)}
        if year in results:
            beside["old_map"] = results[year]["old_map"]["overall_accuracy"]
        since.append({
            "from": old_year, "to": year, **change.describe_pair(matrix), "accuracy": beside,
            **changes(seen.old_changes[place], old_year, year),
            "transitions_hectares": None if area is None else area.tolist(),
            "classes": change.describe_classes(matrix, area, config.legend),
        })  # fmt: skip
    pixels, same = seen.steady.tolist()
    return {
        "tiles_overlap": "a pixel where tiles overlap counts in each of them",
        "classes": [*config.legend.names, "no class"],
        "pairs": pairs,
        "all_years": {
            "years": years, "pixels": pixels, "agreement": same / pixels if pixels else float("nan"),
        },
        "flips": [
            {"years": list(three), "pixels": known, "flipped": flips / known if known else float("nan")}
            for three, (known, flips) in zip(
                zip(years, years[1:], years[2:], strict=False), seen.flips.tolist(), strict=True
            )
        ],
        "old_map": {"year": old_year, "pairs": since},
    }  # fmt: skip


def _no_reference(
    config: Config, available: set[tuple[str, int]], years: Sequence[int]
) -> str | None:
    """Say why nothing tells whether a pair of years really changed; None where something does."""
    if not config.assess.reference:
        return "none: no reference raster is configured (assess.reference)"
    if "{year}" not in config.assess.reference or config.assess.reference_year is not None:
        return ONE_YEAR
    lacking = [year for year in years if year not in {there for _, there in available}]
    return f"none: there is no reference of {', '.join(map(str, lacking))}" if lacking else None
