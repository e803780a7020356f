"""The assess stage: count over blocks and ranks, let rank 0 write and print.

The map and the old map are compared with the reference on the very same pixels, so that their
accuracies may stand side by side. Tiles overlap: a pixel of the overlap counts in each tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from mpi4py import MPI

from lcu import deadline, ranks
from lcu.assess import points, tables
from lcu.assess.matrix import accuracies, error_matrix
from lcu.assess.reference import RasterReference, close_rasters
from lcu.config import Config
from lcu.grid import Block, Tile
from lcu.legend import Legend
from lcu.ranks import Failure

STAGE = "assess"

Maps = Callable[[str, int, Block], np.ndarray]
OldMap = Callable[[str, Block], np.ndarray]


def run(
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    maps: Maps,
    old: OldMap,
    say: Callable[[str], Any] = print,
) -> list[Failure]:
    """Assess the maps of a run and, beside them, the old map. Collective.

    Parameters
    ----------
    maps : callable (tile id, year, block) -> ndarray[y, x], uint8
        Land cover, class values; 255 nodata, 254 outside.
    old : callable (tile id, block) -> ndarray[y, x], uint8
        The old map in class values; 255 where it has no class of the legend.
    say : callable
        Prints the tables; called on rank 0 alone.

    Returns
    -------
    list of Failure
        What could not be compared, the same on every rank.
    """
    close_rasters()
    references, failures = _references(config, comm, tiles)
    results: dict[int, dict[str, Any]] = {}
    for reference in references:
        units = reference.units(tiles)
        found, failed = _compare(reference, units, config, comm, tiles, maps, old)
        failures += failed
        for year, result in found.items():
            # With a raster and points, the raster comes first and the points stand below it.
            if year in results:
                results[year][reference.kind] = result
            else:
                results[year] = result
    ranks.on_root(comm, "writing the accuracies", _publish, config, references, results, say)
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
        loaded = points.load(config.assess.points, config.legend, config.assess.points_nomenclature)
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


def _compare(
    reference: Any,
    units: list[tuple[Tile, Block]],
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    maps: Maps,
    old: OldMap,
) -> tuple[dict[int, dict[str, Any]], list[Failure]]:
    """Count all tiles and years of one reference; return results by year and failures."""
    missing = ranks.on_root(comm, "opening the reference", _missing, reference, tiles)
    own = ranks.mine(units, comm)
    with ranks.together(comm, "comparing the maps with the reference"):
        counts, seen, broken = _count_blocks(
            reference, own, missing, list(tiles), config.legend, maps, old
        )
    # Integers: their sum is the same in any order, hence for any number of ranks.
    comm.Allreduce(MPI.IN_PLACE, counts)
    comm.Allreduce(MPI.IN_PLACE, seen)
    failures = [Failure(STAGE, f"{tile} {year}", why) for (tile, year), why in missing.items()]
    failures += _broken(ranks.gather(broken.items(), comm))
    named = {failure.unit for failure in failures}
    failures += _empty_handed(reference, tiles, counts, seen, named)
    results = {
        year: result
        for index, year in enumerate(reference.years)
        if (result := describe(counts[:, index], list(tiles), year, reference, config.legend))
    }
    return results, failures


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
    maps: Maps,
    old: OldMap,
) -> tuple[np.ndarray, np.ndarray, Counter[tuple[str, str]]]:
    """Count the blocks of one rank.

    Returns
    -------
    counts : ndarray[tile, year, which, map + 1, reference], int64
        Pixels; `which` as `count` returns it.
    seen : ndarray[tile, year], int64
        Pixels whose reference holds any code.
    broken : Counter
        (tile and year, reason) -> blocks that were left out.
    """
    classes, years = len(legend.classes), reference.years
    counts = np.zeros((len(names), len(years), 3, classes + 1, classes), dtype=np.int64)
    seen = np.zeros((len(names), len(years)), dtype=np.int64)
    broken: Counter[tuple[str, str]] = Counter()
    for tile, block in units:
        deadline.check()
        for column, year in enumerate(years):
            if (tile.id, year) in missing:
                continue
            try:
                matrices, pixels = _count(reference, tile, year, block, legend, maps, old)
            except Exception as error:  # noqa: BLE001  (one bad block costs itself only)
                broken[f"{tile.id} {year}", f"{type(error).__name__}: {error}"] += 1
                continue
            counts[names.index(tile.id), column] += matrices
            seen[names.index(tile.id), column] += pixels
    return counts, seen, broken


def _count(
    reference: Any, tile: Tile, year: int, block: Block, legend: Legend, maps: Maps, old: OldMap
) -> tuple[np.ndarray, int]:
    """Count one block: int64 [which, map + 1, reference], and the pixels with any code."""
    index, values, seen = reference.values(tile, year, block)
    if not np.isin(values, legend.values).any():
        return np.int64(0), seen
    mapped, outdated = maps(tile.id, year, block)[index], old(tile.id, block)[index]
    return count(mapped, outdated, values, legend), seen


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
    counts: np.ndarray, tiles: list[str], year: int, reference: Any, legend: Legend
) -> dict[str, Any] | None:
    """Return the results of a year from counts int64 [tile, which, map + 1, reference].

    None where nothing was compared. The keys of all tiles together stand at the top, those of each
    tile below ``tiles``; the old map's are beside each, below ``old_map``.
    """
    if not counts.any():
        return None
    return {
        "year": year,
        "reference": reference.about(),
        "tiles_overlap": "a pixel where tiles overlap counts in each of them",
        **_beside(counts.sum(axis=0), legend),
        "tiles": {
            tile: _beside(part, legend)
            for tile, part in zip(tiles, counts, strict=True)
            if part.any()
        },
    }


def _beside(counts: np.ndarray, legend: Legend) -> dict[str, Any]:
    """Describe the map with the old map beside it, from int64 [which, map + 1, reference]."""
    where_both = {**accuracies(counts[2], legend), "old_map": accuracies(counts[1, :-1], legend)}
    return {
        **_with_matrix(counts[0], legend),
        "old_map": _with_matrix(counts[1], legend),
        "where_old_map_has_a_class": where_both,
    }


def _with_matrix(matrix: np.ndarray, legend: Legend) -> dict[str, Any]:
    return {**accuracies(matrix, legend), "error_matrix": matrix.tolist()}


def _publish(
    config: Config, references: list[Any], results: dict[int, dict[str, Any]], say: Callable
) -> None:
    """Write the files and print the tables; rank 0 alone."""
    if not references:
        say("assess: no reference and no points are configured: nothing to compare with")
        return
    folder = config.directory / "assessment"
    for year, result in results.items():
        tables.write(folder, year, result, config.legend)
    if results:
        say(tables.summary(results))
