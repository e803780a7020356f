"""Finds the acquisitions of a run: which files there are, what they say, which of them are used."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from mpi4py import MPI

from lcu.acquisition import alignment, rasters, safe, stac
from lcu.acquisition.model import (
    MASK,
    Acquisition,
    AcquisitionError,
    Band,
    Found,
    observations,
)
from lcu.config import Config
from lcu.grid import Period, Tile
from lcu.ranks import Failure, gather, mine, on_root, together

LOG = logging.getLogger(__name__)

STAGE = "acquisition"

Result = tuple[dict[str, list[Acquisition]], dict[str, Tile], list[Failure]]


def find(config: Config, comm: MPI.Comm) -> Result:
    """Find what the run reads: a collective; the answer is the same on every rank.

    Acquisitions are kept when their tile, day and cloud cover are asked for, their files are whole
    and all bands of the configuration are there. Each holds just what the run reads: these bands,
    and the mask unless ``composite.mask`` is ``none``. Of several reprocessings of one observation
    the newest baseline stays; an L1C product counts only where there is no L2A product.

    Returns
    -------
    acquisitions : dict
        Tile id -> acquisitions, sorted by time and id.
    tiles : dict
        Tile id -> tile, on the finest grid of its bands.
    failures : list of Failure
        What was left out, and why.

    Raises
    ------
    RankError
        When the archive itself cannot be searched.
    AcquisitionError
        On every rank, when there is nothing to read, or when no grid of a tile has a majority.
    """
    sources, failures = on_root(comm, "searching the archive", search, config)
    with together(comm, "reading the metadata of the archive"):
        results = [result for source in mine(sources, comm) for result in examine(source, config)]
    gathered = gather(results, comm)
    failures += [result for result in gathered if isinstance(result, Failure)]
    found = [result for result in gathered if isinstance(result, Found)]
    say = LOG.info if comm.rank == 0 else LOG.debug
    acquisitions, tiles = {}, {}
    for tile, kept in _by_tile(_newest(found, config, say), config, failures).items():
        grid, odd = alignment.grid_of_tile(kept)
        failures += [Failure(STAGE, name, f"{name} {reason}") for name, reason in odd.items()]
        acquisitions[tile] = sorted(
            (a for a in kept if a.id not in odd), key=lambda a: (a.time, a.id)
        )
        tiles[tile] = Tile(tile, grid)
    _check_found(config, sources, acquisitions, failures)
    return acquisitions, tiles, sorted(failures, key=lambda failure: (failure.unit, failure.reason))


def search(config: Config) -> tuple[list[str], list[Failure]]:
    """Return the products or items under ``archive.path`` without reading them; no MPI."""
    sources: dict[str, str] = {}
    failures: list[Failure] = []
    look = _search_safe if config.archive.kind == "safe" else _search_stac
    for path in config.archive.path:
        if not os.path.exists(path):
            raise AcquisitionError(f"archive.path: no such file or folder {path}")
        for source in look(path, failures):
            sources.setdefault(os.path.realpath(source), source)
    return sorted(sources.values()), failures


def _search_safe(path: str, failures: list[Failure]) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
        return
    for folder, folders, files in _walk(path, failures):
        if folder.endswith(".SAFE") or safe.is_product(files):
            folders.clear()
            yield folder
        else:
            yield from (
                os.path.join(folder, name) for name in files if name.lower().endswith(".zip")
            )


def _search_stac(path: str, failures: list[Failure]) -> Iterator[str]:
    if os.path.isfile(path):
        yield from _linked(path, failures, set())
        return
    collection = os.path.join(path, "collection.json")
    linked = list(_linked(collection, failures, set())) if os.path.isfile(collection) else []
    if linked:
        yield from linked
        return
    for folder, _, files in _walk(path, failures):
        yield from (os.path.join(folder, name) for name in files if name.lower().endswith(".json"))


def _linked(path: str, failures: list[Failure], seen: set[str]) -> Iterator[str]:
    """Yield the items of a collection or catalogue, or the item itself."""
    if os.path.realpath(path) in seen:
        return
    seen.add(os.path.realpath(path))
    table = _json(path)
    if table.get("type") == "Feature":
        yield path
        return
    links = table.get("links")
    for link in links if isinstance(links, list) else []:
        href = link.get("href") if isinstance(link, dict) else None
        if not isinstance(href, str) or link.get("rel") not in ("item", "child"):
            continue
        target = _target(path, href)
        if target is None:
            failures.append(
                Failure(
                    STAGE, href, f"{path}: links to {href}, which is not a file here; retrieve it"
                )
            )
        elif link["rel"] == "item":
            yield target
        else:
            yield from _linked(target, failures, seen)


def _target(path: str, href: str) -> str | None:
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        return None
    local = unquote(parts.path) if parts.scheme else href
    target = os.path.normpath(os.path.join(os.path.dirname(path), local))
    return target if os.path.isfile(target) else None


def _walk(path: str, failures: list[Failure]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder in order; enter what links lead to once, and hidden folders never."""

    def unreadable(error: OSError) -> None:
        failures.append(Failure(STAGE, str(error.filename), f"{error.filename}: {error.strerror}"))

    seen = set()
    for folder, folders, files in os.walk(path, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folder, folders, sorted(files)


def _json(path: str) -> dict:
    folder, name = os.path.split(path)
    return safe.read_json(safe.Files(folder, "", ()).read(name), path)


def examine(source: str, config: Config) -> list[Found | Failure]:
    """Read the metadata of one source; a fault gives a Failure, what nobody asked for nothing."""
    results: list[Found | Failure] = []
    unit = os.path.basename(source)
    try:
        for parse in _parsers(source, config):
            unit = os.path.basename(source)
            found = parse()
            unit = found.acquisition.id
            if _asked_for(
                found.acquisition,
                config.archive.tiles,
                config.periods,
                config.archive.max_cloud_cover,
            ):
                results.append(replace(found, acquisition=_checked(found.acquisition, config)))
    except AcquisitionError as error:
        results.append(Failure(STAGE, unit, str(error)))
    return results


def _parsers(source: str, config: Config) -> list[Callable[[], Found]]:
    masked = config.composite.mask != "none"
    wanted = {*config.composite.bands, *([MASK] if masked else [])}
    if config.archive.kind == "safe":
        return [lambda files=files: safe.parse(files, wanted) for files in safe.products(source)]
    item = _json(source)
    if item.get("type") != "Feature":
        return []
    return [lambda: stac.parse(item, source, wanted, config.archive.offset)]


def _asked_for(
    entry: Acquisition, tiles: tuple[str, ...], periods: list[Period], cloud: float
) -> bool:
    if tiles and entry.tile not in tiles:
        return False
    if entry.cloud_cover is not None and entry.cloud_cover > cloud:
        return False
    return any(entry.time in period for period in periods)


def _checked(entry: Acquisition, config: Config) -> Acquisition:
    """Return the acquisition with the sizes of its files; each must be there and whole."""
    missing = [name for name in config.composite.bands if name not in entry.bands]
    if missing:
        raise AcquisitionError(
            f"{entry.source}: {entry.id} has no {', '.join(missing)}; composite.bands asks for "
            f"{', '.join(config.composite.bands)}"
        )
    alignment.check(entry)
    bands = {name: _sized(entry, entry.bands[name]) for name in config.composite.bands}
    mask = _sized(entry, entry.mask) if entry.mask else None
    return replace(entry, bands=bands, mask=mask)


def _sized(entry: Acquisition, band: Band) -> Band:
    if "://" in band.path:
        raise AcquisitionError(
            f"{entry.id}: {band.name} lies at {band.path}, not here; retrieve it first"
        )
    try:
        rasters.check_whole(band.path)
    except AcquisitionError as error:
        raise AcquisitionError(f"{entry.id}: {band.name}: {error}") from None
    return replace(band, size=rasters.size_of(band.path) or 0)


def _newest(found: list[Found], config: Config, say: Callable[..., None]) -> list[Acquisition]:
    """Return one acquisition of each observation."""
    masked = config.composite.mask != "none"

    def merit(entry: Found) -> tuple:
        own = entry.acquisition
        usable = own.mask is not None or not masked
        return (
            usable,
            own.level,
            own.baseline,
            re.sub(r"\D", "", entry.generated)[:14],
            own.id,
            own.source,
        )

    kept = []
    for group in observations(found, _identity):
        best = max(group, key=merit)
        kept.append(best.acquisition)
        for other in group:
            if other is not best:
                own = other.acquisition
                say(
                    "%s (%s): not used, %s is the same observation, newer",
                    own.id,
                    own.source,
                    best.acquisition.id,
                )
    return kept


def _identity(entry: Found) -> tuple[str, str, float, str]:
    return entry.acquisition.tile, entry.datatake, entry.strip, entry.acquisition.id


def _by_tile(
    entries: list[Acquisition], config: Config, failures: list[Failure]
) -> dict[str, list[Acquisition]]:
    """Sort the acquisitions by tile; those without the mask that the run needs become failures."""
    tiles: dict[str, list[Acquisition]] = {}
    for entry in sorted(entries, key=lambda one: (one.tile, one.time, one.id)):
        if entry.mask is None and config.composite.mask != "none":
            reason = (
                f'{entry.source}: {entry.level} without SCL; composite.mask = "none" would use it'
            )
            failures.append(Failure(STAGE, entry.id, reason))
        else:
            tiles.setdefault(entry.tile, []).append(entry)
    for tile, kept in tiles.items():
        if len({entry.level for entry in kept}) > 1:
            LOG.warning(
                "tile %s: L1C and L2A acquisitions together; their reflectances differ", tile
            )
    return tiles


def _check_found(
    config: Config,
    sources: list[str],
    acquisitions: dict[str, list[Acquisition]],
    failures: list[Failure],
) -> None:
    """Name the tiles that nothing was found for; raise where there is nothing at all."""
    for tile in config.archive.tiles:
        if tile not in acquisitions:
            failures.append(
                Failure(STAGE, tile, f"tile {tile}: no usable acquisition under archive.path")
            )
    if not acquisitions:
        reasons = "".join(f"\n  {failure.reason}" for failure in failures[:4])
        raise AcquisitionError(
            f"no usable acquisition: {len(sources)} {config.archive.kind} sources under "
            f"{', '.join(config.archive.path)}, {len(failures)} of them at fault; check "
            f"archive.tiles, archive.years and archive.max_cloud_cover{reasons}"
        )
