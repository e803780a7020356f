"""The stage: shares the acquisitions, truths and the old map over the ranks and writes them.

Every acquisition is a unit of its own whose randomness follows from (seed, tile, date), so any
number of ranks writes the same bytes. `simulated.json` beside the products says that they are
synthetic and with which parameters they were made.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from lcu import deadline, ranks
from lcu.config import Config, ConfigError
from lcu.grid import Tile
from lcu.legend import NODATA
from lcu.simulate import layout, metadata, oldmap, parameters, points, product, sky
from lcu.simulate.ground import World
from lcu.simulate.sky import Visit

MARKER = "simulated.json"
# The keys of [simulate] that only the old map and the points depend on.
_NOT_THE_WORLD = ("mapping_unit", "mistakes", "points")
# Cost of the truth of a tile-year, in acquisitions.
_TRUTH_COST = 0.6

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """Everything that a simulation writes, known before anything is written."""

    archive: Path
    ground: str
    world: World
    tiles: list[Tile]
    visits: list[tuple[Tile, Visit]]
    truths: dict[str, dict[tuple[int, str], Path]]
    old_map: Path
    points: Path
    marker: dict[str, Any]

    @property
    def products(self) -> list[str]:
        """Names of the products."""
        return [metadata.Names(visit).product for _, visit in self.visits]


def run(config: Config, comm: MPI.Comm) -> list[ranks.Failure]:
    """Write archive, old map, truth and points; what is there already stays.

    Returns
    -------
    list of Failure
        Empty: a simulation that cannot be written is an error.

    Raises
    ------
    ConfigError
        Where the folder holds something else than this simulation, or the configuration names what
        cannot be simulated.
    """
    done = ranks.on_root(comm, "looking for an earlier simulation", _is_done, config)
    if done:
        return []
    made = plan(config)
    units = _units(config, made)
    with ranks.together(comm, "simulating"):
        own = ranks.mine(units, comm, cost=lambda unit: unit[1])
        for name, _, work in deadline.in_time(own):
            work()
            log.info("simulated %s", name)
    _old_map(config, made, comm)
    ranks.on_root(comm, "finishing the simulation", _finish, config, made)
    return []


def plan(config: Config) -> Plan:
    """Lay out what the configuration asks for: arithmetic only."""
    simulate, seed = config.simulate, config.run.seed
    tiles = layout.tiles(simulate)
    ground = tiles[0].grid.crs
    archive = Path(config.archive.path[0])
    visits = _visits(config, tiles, ground)
    return Plan(
        archive,
        ground,
        World(seed, simulate.change),
        tiles,
        visits,
        _truth_files(config, archive),
        Path(config.sample.old_map),
        _points_file(config),
        _marker(config),
    )


def _points_file(config: Config) -> Path:
    beside = Path(config.archive.path[0]).parent / "points.csv"
    return Path(config.assess.points) if config.assess.points else beside


def _visits(config: Config, tiles: list[Tile], ground: str) -> list[tuple[Tile, Visit]]:
    """Return the acquisitions of every tile that lie in a period of the run, by tile and time."""
    periods, extent = config.periods, sky.extent_of([tile.grid for tile in tiles], ground)
    years = sorted({day.year for period in periods for day in (period.start, period.end)})
    found = []
    for index, tile in enumerate(tiles):
        for year in years:
            visits = sky.visits(tile, index, year, ground, extent, config.run.seed)
            found += [
                (tile, visit)
                for visit in visits
                if any(visit.start in period for period in periods)
            ]
    return found


def _truth_files(config: Config, archive: Path) -> dict[str, dict[tuple[int, str], Path]]:
    """Return tile -> (year, kind) -> file; the classes lie where `assess.reference` says."""
    pattern = config.assess.reference
    if "{tile}" not in pattern or "{year}" not in pattern:
        pattern = str(archive.parent / "truth" / "{tile}_{year}_class.tif")
    files: dict[str, dict[tuple[int, str], Path]] = {}
    for tile in config.simulate.tiles:
        for year in config.archive.years:
            path = Path(pattern.format(tile=tile, year=year))
            stem = path.stem.removesuffix("_class")
            kinds = {
                kind: path.with_name(f"{stem}_{kind}.tif") for kind in ("subtype", "mixed")
            } | {"class": path}
            files.setdefault(tile, {}).update({(year, kind): file for kind, file in kinds.items()})
    return files


def _fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _parameters() -> dict[str, str]:
    """Return every number of `parameters`, as text."""
    return {name: repr(value) for name, value in sorted(vars(parameters).items()) if name.isupper()}


def _marker(config: Config) -> dict[str, Any]:
    """Return what `simulated.json` says; the products depend on `world` only."""
    keys = asdict(config.simulate)
    world = {name: value for name, value in keys.items() if name not in _NOT_THE_WORLD}
    legend = [int(value) for value in class_values(config)]
    rest = [
        keys,
        config.archive.years,
        config.archive.margin,
        config.composite.period,
        config.sample.old_map_year,
    ]
    return {
        "synthetic": "These acquisitions, maps and points are simulated; they show no real place.",
        "version": parameters.VERSION,
        "seed": config.run.seed,
        "simulate": keys,
        "world": _fingerprint(config.run.seed, world, legend, _parameters()),
        "rest": _fingerprint(
            *rest, config.sample.old_map, config.assess.reference, config.assess.points
        ),
    }


def class_values(config: Config) -> np.ndarray:
    """Return each sub-type's class value in the legend of the run, uint8; 255 where none."""
    table = config.legend.crosswalk("corine")
    return np.array([table.get(str(code), NODATA) for code in parameters.CORINE], dtype=np.uint8)


def _is_done(config: Config) -> bool:
    """Tell whether all is there; refuse to touch what this simulation did not write."""
    _check(config)
    archive, marker = Path(config.archive.path[0]), _marker(config)
    file = archive / MARKER
    if not file.exists():
        _refuse_strangers(config, archive)
        archive.mkdir(parents=True, exist_ok=True)
        product.write_text(file, json.dumps(marker, indent=1) + "\n")
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    if found.get("world") != marker["world"]:
        raise ConfigError(
            f"archive.path: {archive} holds another simulation (seed, [simulate] or the parameters "
            f"of the simulation differ); remove it or name another folder"
        )
    files = found.get("files", [])
    return (
        found["rest"] == marker["rest"]
        and bool(files)
        and all(Path(archive, name).exists() for name in files)
    )


def _check(config: Config) -> None:
    if config.simulate is None:
        raise ConfigError("simulate: the configuration has no [simulate] table")
    if config.sample.old_map_year >= min(config.archive.years):
        raise ConfigError(
            f"sample.old_map_year: the old map must be older than the first mapped year "
            f"{min(config.archive.years)}, found {config.sample.old_map_year}"
        )
    try:
        layout.origin(config.simulate.tiles[0])
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse_strangers(config: Config, archive: Path) -> None:
    """Raise where real data would be mixed with simulated, or overwritten."""
    truths = [file for files in _truth_files(config, archive).values() for file in files.values()]
    named = [Path(config.sample.old_map), _points_file(config), *truths]
    strange = [str(path) for path in archive.glob("*.SAFE")][:1]
    strange += [str(path) for path in named if path.exists()][:3]
    if strange:
        raise ConfigError(
            f"simulate: no {MARKER} in {archive} says that these were simulated: "
            f"{', '.join(strange)}; remove them or name other files"
        )


def _units(config: Config, made: Plan) -> list[tuple[str, float, Callable[[], Any]]]:
    """Return the units of work (name, cost, function), by tile and year: grounds are reused."""
    years, values = config.archive.years, class_values(config)
    units: list[tuple[str, float, Callable[[], Any]]] = []
    for tile in made.tiles:
        truth = partial(
            product.write_truth, made.truths[tile.id], tile, years, made.ground, made.world, values
        )
        units.append((f"truth of {tile.id}", _TRUTH_COST * len(years), truth))
        for owner, visit in made.visits:
            if owner is tile:
                write = partial(
                    product.write_product, made.archive, tile, visit, made.ground, made.world
                )
                units.append((f"{tile.id} {visit.start:%Y-%m-%d}", 1.0, write))
    return units


def _old_map(config: Config, made: Plan, comm: MPI.Comm) -> None:
    """Draw the old map strip by strip on all ranks; rank 0 generalises and writes it."""
    grid = oldmap.area(made.tiles)
    drawn = []
    with ranks.together(comm, "drawing the old map"):
        year = config.sample.old_map_year
        for strip in ranks.mine(oldmap.strips(grid), comm):
            drawn.append((strip.row, oldmap.draw_strip(grid, strip, made.ground, year, made.world)))
    gathered = comm.gather(drawn, root=0)
    with ranks.together(comm, "writing the old map"):
        if comm.rank == 0:
            rows = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
            codes = np.concatenate([codes for _, codes in rows])
            keys = config.simulate
            codes = oldmap.generalise(codes, keys.mapping_unit, keys.mistakes, config.run.seed)
            product.write_tiff(made.old_map, codes, grid, 0)


def _finish(config: Config, made: Plan) -> None:
    """Write the points and the marker that says that all is there."""
    year, rows = min(config.archive.years), []
    for index, tile in enumerate(made.tiles):
        rows += points.survey(tile, index, config.simulate.points, year, made.ground, made.world)
    product.write_text(made.points, points.to_csv(rows))
    truths = [str(file) for files in made.truths.values() for file in files.values()]
    files = [*made.products, *truths, str(made.old_map), str(made.points)]
    product.write_text(
        made.archive / MARKER, json.dumps(made.marker | {"files": files}, indent=1) + "\n"
    )
