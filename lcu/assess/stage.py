"""The assess stage: count over blocks and ranks, let rank 0 write and print.

The map and the old map are compared with the reference on the very same pixels, so that their
accuracies may stand side by side. Tiles overlap: a pixel of the overlap counts in each tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import deadline, ranks, reliability
from lcu.assess import consistency, estimates, points, revision, tables
from lcu.assess.consistency import Landscape, Maps, OldMap
from lcu.assess.matrix import accuracies, error_matrix, of_one_class, reliability_bins
from lcu.assess.reference import RasterReference, close_rasters
from lcu.config import Config
from lcu.grid import Block, Tile
from lcu.legend import Legend
from lcu.ranks import Failure

STAGE = "assess"

Results = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Sources:
    """What is compared with the references.

    Attributes
    ----------
    maps : callable (tile id, year, block) -> ndarray[y, x], uint8
        Land cover, class values; 255 nodata, 254 outside.
    old : callable (tile id, block) -> ndarray[y, x], uint8
        The old map in class values; 255 where it has no class of the legend.
    probability : callable (tile id, year, block) -> ndarray[class, y, x], uint8, or None
        Probabilities x 250 of the classes that `maps` was chosen by; above 250 where there are none.
    majority : int or None
        Value of the commonest class of the training labels: a map that shows nothing else is a
        baseline.
    temperature : float or None
        What the model's scores were divided by, for the record.
    """

    maps: Maps
    old: OldMap
    probability: Maps | None = None
    majority: int | None = None
    temperature: float | None = None


def run(
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    sources: Sources,
    say: Callable[[str], Any] = print,
    *,
    made_from: Callable[[int], str] = lambda year: "",
) -> list[Failure]:
    """Assess the maps of a run and, beside them, the old map. Collective.

    Parameters
    ----------
    say : callable
        Prints the tables; called on rank 0 alone.
    made_from : callable (year) -> str
        What the maps of a year are made from: where it is another than last time, the accuracies of last time are
        reported beside the new ones.

    Returns
    -------
    list of Failure
        What could not be compared, the same on every rank.
    """
    close_rasters()
    references, failures = _references(config, comm, tiles)
    results: Results = {}
    available = ranks.on_root(
        comm, "opening the reference", consistency.references_of_change, config, tiles
    )
    seen, broken = consistency.look(config, comm, tiles, sources.maps, sources.old, available)
    for reference in references:
        units = reference.units(tiles)
        found, failed = _compare(reference, units, config, comm, tiles, sources, seen)
        failures += failed
        for year, result in found.items():
            # With a raster and points, the raster comes first and the points stand below it.
            if year in results:
                results[year][reference.kind] = result
            else:
                results[year] = result
    named = {failure.unit for failure in failures}
    lost = _broken(ranks.gather(broken.items(), comm))
    failures += [failure for failure in lost if failure.unit not in named]
    about = consistency.describe(seen, config, tiles, available, results)
    ranks.on_root(
        comm, "writing the accuracies", _publish, config, references, results, about, say, made_from
    )
    return failures


def _references(
    config: Config, comm: MPI.Comm, tiles: dict[str, Tile]
) -> tuple[list[Any], list[Failure]]:
    """Open what the configuration names: at most a raster and a set of points."""
    references: list[Any] = []
    if config.assess.reference:
        references.append(RasterReference(config))
    if not config.assess.points:
        return references, []
    loaded = ranks.on_root(comm, "reading the reference points", _load_points, config, tiles)
    if isinstance(loaded, str):
        return references, [Failure(STAGE, "points", loaded)]
    return [*references, points.PointReference(config, loaded)], []


def _load_points(config: Config, tiles: dict[str, Tile]) -> points.Points | str:
    """Return the points, or why there are none."""
    try:
        loaded = points.load(config.assess, config.legend)
    except (OSError, ValueError) as error:
        return str(error)
    if not loaded.geographic and len({tile.grid.crs for tile in tiles.values()}) > 1:
        return f"{config.assess.points}: x, y do not say in which tile's CRS they are; use lon, lat"
    try:
        for tile in tiles.values():
            points.pixels(loaded, tile.grid)
    except RuntimeError as error:
        return f"{config.assess.points}: cannot be brought onto the grid of {tile.id}: {error}"
    if not len(loaded.x):
        removed = ", ".join(f"{count} {reason}" for reason, count in loaded.removed.items())
        return f"{config.assess.points}: none of {loaded.read} rows is usable ({removed})"
    return loaded


@dataclass(frozen=True)
class Counts:
    """What the blocks of a reference add up to: int64 arrays.

    Attributes
    ----------
    matrices : [tile, year, which, map + 1, reference]
        Pixels; `which` as `count` returns it.
    seen : [tile, year]
        Pixels whose reference holds any code.
    bins : [year, bin, 3]
        Pixels by probability; see `lcu.reliability`.
    drawn : [year, stratum + 1, map + 1, reference]
        Points, each in one tile. The strata are the classes of the legend; the last one holds those
        that belong to none.
    """

    matrices: np.ndarray
    seen: np.ndarray
    bins: np.ndarray
    drawn: np.ndarray

    @classmethod
    def empty(cls, tiles: int, years: int, classes: int) -> Counts:
        """Return counts of nothing."""
        shapes = [
            (tiles, years, 3, classes + 1, classes), (tiles, years), (years, reliability.BINS, 3),
            (years, classes + 1, classes + 1, classes),
        ]  # fmt: skip
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))


def _compare(
    reference: Any,
    units: list[tuple[Tile, Block]],
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    sources: Sources,
    landscape: Landscape,
) -> tuple[Results, list[Failure]]:
    """Count all tiles and years of one reference; return results by year and failures."""
    missing = ranks.on_root(comm, "opening the reference", _missing, reference, tiles)
    own = ranks.mine(units, comm)
    with ranks.together(comm, "comparing the maps with the reference"):
        counts, broken = _count_blocks(reference, own, missing, list(tiles), config.legend, sources)
    # Integers: their sum is the same in any order, hence for any number of ranks.
    for entry in fields(counts):
        comm.Allreduce(MPI.IN_PLACE, getattr(counts, entry.name))
    failures = [Failure(STAGE, f"{tile} {year}", why) for (tile, year), why in missing.items()]
    failures += _broken(ranks.gather(broken.items(), comm))
    named = {failure.unit for failure in failures}
    failures += _empty_handed(reference, tiles, counts.matrices, counts.seen, named)
    results = {}
    for index, year in enumerate(reference.years):
        result = describe(
            counts.matrices[:, index], list(tiles), year, reference, config.legend, sources.majority
        )
        if result is None:
            continue
        if sources.probability is not None:
            curve = reliability.describe(counts.bins[index])
            result["reliability"] = curve | {"temperature": sources.temperature}
        if reference.kind == "points":
            seen = int(counts.seen[:, index].sum())
            result["filters"] = reference.filters(year, seen - result["n"])
            mapped = landscape.mapped(sorted(config.archive.years).index(year))
            result["estimates"] = _estimates(reference, counts.drawn[index], mapped, config, tiles)
        results[year] = result
    return results, failures


def _estimates(
    reference: points.PointReference,
    drawn: np.ndarray,
    mapped: np.ndarray,
    config: Config,
    tiles: dict[str, Tile],
) -> dict[str, Any] | None:
    """Return the estimates of a year from points [stratum + 1, map + 1, reference].

    `mapped` are the pixels of each class in the map, [tile, class]: the weights of points that were
    not drawn by strata of their own.
    """
    size, unit = consistency.pixel_area(tiles)
    legend, areas = config.legend, reference.points.areas
    if areas:
        sample = "stratified: the points were drawn by the classes of a map, whose areas are in their file"
        area = [areas.get(value, 0.0) for value in legend.values.tolist()]
    else:
        sample = "post-stratified: the points were not drawn by the classes of the map"
        area = size @ mapped
    # What has no class in the map is no part of the mapped area.
    area = np.append(area, 0.0)
    return estimates.describe(drawn, area, [*legend.names, tables.UNMAPPED], legend, unit, sample)


def _missing(reference: Any, tiles: dict[str, Tile]) -> dict[tuple[str, int], str]:
    reasons = {
        (tile.id, year): reference.missing(tile, year)
        for tile in tiles.values()
        for year in reference.years
    }
    return {unit: reason for unit, reason in reasons.items() if reason}


def _count_blocks(
    reference: Any,
    units: list[tuple[Tile, Block]],
    missing: dict[tuple[str, int], str],
    names: list[str],
    legend: Legend,
    sources: Sources,
) -> tuple[Counts, consistency.Broken]:
    """Count the blocks of one rank, and those that were left out."""
    counts = Counts.empty(len(names), len(reference.years), len(legend.classes))
    broken: consistency.Broken = Counter()
    for tile, block in units:
        deadline.check()
        for column, year in enumerate(reference.years):
            if (tile.id, year) in missing:
                continue
            try:
                matrices, pixels, bins, drawn = _count(
                    reference, tile, year, block, legend, sources
                )
            except Exception as error:  # noqa: BLE001  (one bad block costs itself only)
                broken[f"{tile.id} {year}", f"{type(error).__name__}: {error}"] += 1
                continue
            counts.matrices[names.index(tile.id), column] += matrices
            counts.seen[names.index(tile.id), column] += pixels
            counts.bins[column] += bins
            counts.drawn[column] += drawn
    return counts, broken


def _count(
    reference: Any, tile: Tile, year: int, block: Block, legend: Legend, sources: Sources
) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Count one block: parts of `Counts`, the second of them a number."""
    nothing = np.int64(0)
    index, values, seen = reference.values(tile, year, block)
    if not np.isin(values, legend.values).any():
        return nothing, seen, nothing, nothing
    mapped = sources.maps(tile.id, year, block)[index]
    outdated = sources.old(tile.id, block)[index]
    bins = drawn = nothing
    if sources.probability is not None:
        probability = sources.probability(tile.id, year, block)[:, *index]
        bins = reliability_bins(probability, mapped, values, legend)
    if reference.kind == "points":
        once, stratum = reference.once(tile, year, block)
        stratum = stratum if reference.points.areas else mapped
        drawn = count_strata(stratum[once], mapped[once], values[once], legend)
    return count(mapped, outdated, values, legend), seen, bins, drawn


def count_strata(
    stratum: np.ndarray, mapped: np.ndarray, values: np.ndarray, legend: Legend
) -> np.ndarray:
    """Count points by stratum, map and reference, all uint8 class values [point].

    Returns int64 [stratum + 1, map + 1, reference]; the last of the first two is no class.
    """
    classes = len(legend.classes)
    return np.stack([
        error_matrix(mapped[chosen], values[chosen], legend)
        for place in range(classes + 1)
        for chosen in [np.minimum(legend.index_of(stratum), classes) == place]
    ])  # fmt: skip


def count(
    mapped: np.ndarray, outdated: np.ndarray, values: np.ndarray, legend: Legend
) -> np.ndarray:
    """Compare the map and the old map with the reference, all uint8 class values of one shape.

    Returns int64 [which, map + 1, reference]: the map, the old map, and the map where the old map
    has a class (the old map leaves its mixed classes open; the map cannot).
    """
    both = np.isin(outdated, legend.values)
    return np.stack(
        [
            error_matrix(mapped, values, legend),
            error_matrix(outdated, values, legend),
            error_matrix(mapped[both], values[both], legend),
        ]
    )


def _broken(gathered: Iterable[tuple[tuple[str, str], int]]) -> list[Failure]:
    """Name each reason once per tile and year, with the number of blocks that it cost."""
    total: Counter[tuple[str, str]] = Counter()
    for key, number in gathered:
        total[key] += number
    return [
        Failure(STAGE, unit, f"{number} block{'s' if number > 1 else ''} left out: {reason}")
        for (unit, reason), number in sorted(total.items())
    ]


def _empty_handed(
    reference: Any, tiles: dict[str, Tile], counts: np.ndarray, seen: np.ndarray, named: set[str]
) -> list[Failure]:
    """Name the tiles and years that were compared with nothing, unless they failed already."""
    failures = []
    pixels = counts[:, :, 0].sum(axis=(2, 3))
    for row, tile in enumerate(tiles.values()):
        for column, year in enumerate(reference.years):
            unit = f"{tile.id} {year}"
            if pixels[row, column] or unit in named:
                continue
            reason = reference.nothing(tile, year, int(seen[row, column]))
            if reason:
                failures.append(Failure(STAGE, unit, reason))
    if not pixels.any() and not failures and not named:
        years = ", ".join(map(str, reference.years))
        reason = f"{reference.name}: no usable point of {years} lies in a tile"
        failures.append(Failure(STAGE, reference.kind, f"{reason}; see assess.points_year"))
    return failures


def describe(
    counts: np.ndarray,
    tiles: list[str],
    year: int,
    reference: Any,
    legend: Legend,
    majority: int | None,
) -> dict[str, Any] | None:
    """Return the results of a year from counts int64 [tile, which, map + 1, reference].

    None where nothing was compared. The keys of all tiles together stand at the top, those of each
    tile below ``tiles``; the old map's are beside each, below ``old_map``. `majority` is the value of
    the commonest training label.
    """
    if not counts.any():
        return None
    return {
        "year": year,
        "reference": reference.about(),
        "tiles_overlap": "a pixel where tiles overlap counts in each of them",
        **_beside(counts.sum(axis=0), legend, majority),
        "tiles": {
            tile: _beside(part, legend, majority)
            for tile, part in zip(tiles, counts, strict=True)
            if part.any()
        },
    }


def _beside(counts: np.ndarray, legend: Legend, majority: int | None) -> dict[str, Any]:
    """Describe the map with its baselines beside it, from int64 [which, map + 1, reference]."""
    where_both = {**accuracies(counts[2], legend), "old_map": accuracies(counts[1, :-1], legend)}
    return {
        **_with_matrix(counts[0], legend),
        "old_map": _with_matrix(counts[1], legend),
        "where_old_map_has_a_class": where_both,
        "baselines": _baselines(counts[1], legend, majority),
    }


def _baselines(old: np.ndarray, legend: Legend, majority: int | None) -> dict[str, Any]:
    """Return what maps without any work score: the old map, and one that shows a single class."""
    keys = ("overall_accuracy", "macro_f1", "kappa")
    found = accuracies(old, legend)
    baselines = {"old map": {key: found[key] for key in keys}}
    if majority is not None:
        place = legend.values.tolist().index(majority)
        found = accuracies(of_one_class(old, place), legend)
        baselines["majority class"] = {
            "class": legend.names[place],
            **{key: found[key] for key in keys},
        }
    return baselines


def _with_matrix(matrix: np.ndarray, legend: Legend) -> dict[str, Any]:
    return {**accuracies(matrix, legend), "error_matrix": matrix.tolist()}


def _publish(
    config: Config, references: list[Any], results: Results, about: dict[str, Any], say: Callable,
    made_from: Callable[[int], str],
) -> None:  # fmt: skip
    """Write the files and print the tables; rank 0 alone."""
    folder = config.directory / "assessment"
    results = {
        year: revision.beside_former(folder / f"accuracy_S{year}.json", result, made_from(year))
        for year, result in results.items()
    }
    for year, result in results.items():
        tables.write(folder, year, result, config.legend)
    tables.write_consistency(folder, about)
    if not references:
        say("assess: no reference and no points are configured: nothing to compare with")
    if results:
        say(tables.summary(results))
    say(tables.consistency_summary(about))
    revised = revision.summary(results)
    if revised:
        say(revised)
