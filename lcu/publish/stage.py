"""The publish stage: one rank writes one product; rank 0 writes the report."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

import lcu
from lcu import deadline, ranks, store
from lcu.assess import RasterReference, read_codes, write_whole
from lcu.composite import Origin
from lcu.config import Config
from lcu.grid import Block, Tile
from lcu.projection import in_metres
from lcu.publish import (
    areas,
    catalogue,
    curves,
    geotiff,
    mosaic,
    polygons,
    preview,
    report,
    styles,
    versions,
    views,
)  # fmt: skip
from lcu.publish.samples import draw_profiles, draw_samples
from lcu.ranks import Failure
from lcu.sample import Samples

log = logging.getLogger(__name__)

STAGE = "publish"

# Probabilities have a band for each class and take about that much longer.
COST = {"MAP": 1.0, "CONF": 1.0, "NOBS": 1.0, "PROB": 12.0, "POST": 1.0, "CHG": 3.0}

# Layers that the report's viewer shows: kind of values, name, band.
SHOWN = {
    "MAP": ("classes", "Map", 1),
    "CONF": ("confidence", "Confidence", 1),
    "NOBS": ("observations", "Clear observations", 1),
    "CHG": ("change", "Changed to, in", 2),
}

LayersOf = Callable[[str, int, str, Block], np.ndarray]
OldMap = Callable[[str, Block], np.ndarray]


def run(
    config: Config,
    comm: MPI.Comm,
    tiles: dict[str, Tile],
    layers: LayersOf,
    old: OldMap,
    accuracy: Mapping[int, dict[str, Any]] | None = None,
    *,
    fingerprint: Callable[[str, int, str], str] | None = None,
    earlier: Sequence[Failure] = (),
    provenance: Mapping[str, Any] | None = None,
    samples: Samples | None = None,
    origins: Mapping[str, Sequence[Origin]] | None = None,
) -> tuple[list[str], list[Failure]]:
    """Publish the maps of a run. Collective.

    Parameters
    ----------
    layers : callable (tile id, year, layer, block) -> ndarray
        ``MAP`` uint8 [y, x], ``CONF`` uint8 [y, x], ``NOBS`` uint8 or uint16 [y, x], ``PROB`` uint8
        [class, y, x]; the same type for every block. Of consistent maps also ``POST`` uint8 [y, x] and ``CHG`` uint8
        [3, y, x].
    old : callable (tile id, block) -> ndarray[y, x], uint8
        The old map in class values.
    accuracy : mapping or None
        Year -> what the assessment says (`lcu.assess.read_results`).
    fingerprint : callable (tile id, year, layer) -> str
        What a product is made from; one that is there with the same fingerprint is left alone.
    earlier : sequence of Failure
        What went wrong in the stages before, for the report.
    provenance : mapping
        More to say in the report about how the maps were made.
    samples : Samples
        What was learned from: drawn over the old map and shown in the report.
    origins : mapping
        Tile id -> acquisitions that its composites were made from, for the catalogue.

    Returns
    -------
    paths : list of str
        Every file of this stage; the report is the last.
    failures : list of Failure
        Products that could not be made. The same on every rank.
    """
    with ranks.together(comm, "looking for the report's map viewer"):
        report.viewer_files()
    products = [
        (tile, year, layer)
        for tile in tiles.values()
        for year in config.archive.years
        for layer in layers_of(config, year)
    ]
    marks = [fingerprint(tile.id, *rest) for tile, *rest in products] if fingerprint else []
    config = ranks.on_root(
        comm,
        "settling the version",
        versions.settle,
        config,
        store.fingerprint("publication 1", marks),
    )
    with ranks.together(comm, "writing the products"):
        written, failed = _each(
            deadline.in_time(ranks.mine(products, comm, lambda unit: COST[unit[2]])),
            lambda unit: _write_product(config, *unit, layers, fingerprint),
        )
    paths, failures = ranks.gather(written, comm), ranks.gather(failed, comm)
    traced, failed = _each(
        ranks.mine(_changes(config, products, paths), comm),
        lambda unit: _write_polygons(config, *unit, fingerprint),
    )
    paths += ranks.gather(traced, comm)
    failures += ranks.gather(failed, comm)
    maps = [
        (tile, year)
        for tile, year, layer in products
        if layer == "MAP" and str(_path(config, tile, year, layer)) in paths
    ]
    drawn, failed = _each(
        ranks.mine(maps, comm),
        lambda unit: _draw(config, *unit, old, accuracy or {}),
    )
    paths += ranks.gather(drawn, comm)
    failures += ranks.gather(failed, comm)
    more, failed = _catalogue(
        config, comm, tiles, maps, paths, accuracy or {}, fingerprint, origins or {}
    )
    paths += more
    failures += failed
    pictures, failed = _draw_samples(config, comm, tiles, old, samples)
    failures += failed
    shown, failed = _view(config, comm, tiles, set(paths), old)
    failures += failed
    page = ranks.on_root(
        comm, "writing the report", _write_report,
        config, tiles, accuracy or {}, shown, [*earlier, *failures], [*paths, *pictures], provenance or {}, pictures,
    )  # fmt: skip
    return [*paths, *pictures, page], failures


def _catalogue(
    config: Config,
    comm: MPI.Comm,
    tiles: Mapping[str, Tile],
    maps: Sequence[tuple[Tile, int]],
    paths: Sequence[str],
    accuracy: Mapping[int, dict[str, Any]],
    fingerprint: Callable[[str, int, str], str] | None,
    origins: Mapping[str, Sequence[Origin]],
) -> tuple[list[str], list[Failure]]:
    """Make the mosaic, the styles, the table of areas and the STAC catalogue of what is there."""
    whole, shown = ranks.on_root(comm, "laying out the mosaic", _lay_out, list(tiles.values()))
    of_year = {
        year: [tile for tile in shown if (tile, year) in maps] for year in config.archive.years
    }
    joined, failures = _each(
        ranks.mine([(whole, year) for year, part in of_year.items() if part], comm),
        lambda unit: _write_mosaic(config, *unit, of_year[unit[1]], fingerprint),
    )
    joined, failures = ranks.gather(joined, comm), ranks.gather(failures, comm)
    regions = dict(tiles) if whole is None else {**tiles, whole.id: whole}
    there = {*paths, *joined}
    units = [
        (tile, year)
        for tile in regions.values()
        for year in config.archive.years
        if str(_path(config, tile, year, "MAP")) in there
    ]
    own = ranks.mine(units, comm, lambda unit: unit[0].grid.height * unit[0].grid.width)
    counts, failed = _each(
        own, lambda unit: areas.count(_path(config, *unit, "MAP"), *unit, config.legend)
    )
    counts, failures = ranks.gather(counts, comm), failures + ranks.gather(failed, comm)
    behind = {tile: list(origins.get(tile, ())) for tile in tiles}
    if whole is not None:
        behind[whole.id] = [item for tile in shown for item in behind[tile.id]]
    items, failed = _each(own, lambda unit: _write_item(config, *unit, there, behind[unit[0].id]))
    items, failures = ranks.gather(items, comm), failures + ranks.gather(failed, comm)
    tables = ranks.on_root(
        comm, "writing the catalogue", _write_catalogue, config, regions, items, counts, accuracy, behind
    )  # fmt: skip
    return [*joined, *items, *tables], failures


def _lay_out(tiles: list[Tile]) -> tuple[Tile | None, list[Tile]]:
    """Return the mosaic and the tiles that it shows; None and no tile where there is none."""
    shown = [tile for tile in tiles if mosaic.in_europe(tile.grid)]
    for tile in tiles:
        if tile not in shown:
            log.warning("%s is not in the mosaic: EPSG:3035 is for Europe", tile.id)
    whole = mosaic.tile_of(shown) if shown else None
    if shown and whole is None:
        log.warning("no mosaic: the tiles lie so far apart that it would be nearly all nodata")
    return whole, shown if whole else []


def _write_mosaic(
    config: Config,
    whole: Tile,
    year: int,
    tiles: Sequence[Tile],
    fingerprint: Callable[[str, int, str], str] | None,
) -> str:
    sources = [(tile.grid, _path(config, tile, year, "MAP")) for tile in tiles]

    def layers(name: str, year: int, layer: str, block: Block) -> np.ndarray:
        return mosaic.read(whole.grid, sources, block)

    def made_from(name: str, year: int, layer: str) -> str:
        parts = [(tile.id, fingerprint(tile.id, year, layer)) for tile in tiles]
        return store.fingerprint("mosaic 1", store.describe_grid(whole.grid), parts)

    return _write_product(config, whole, year, "MAP", layers, made_from if fingerprint else None)


def _write_item(
    config: Config, tile: Tile, year: int, there: set[str], origins: Sequence[Origin]
) -> str:
    products = {
        layer: path
        for layer in layers_of(config, year)
        if str(path := _path(config, tile, year, layer)) in there
    }
    used = catalogue.origins_of_year(config, origins, year)
    return catalogue.write_item(config, tile, year, products, used)


def _write_catalogue(
    config: Config,
    regions: Mapping[str, Tile],
    items: Sequence[str],
    counts: Sequence[areas.Count],
    accuracy: Mapping[int, dict[str, Any]],
    behind: Mapping[str, Sequence[Origin]],
) -> list[str]:
    """Write what belongs to all maps: styles, the table of areas, the collection."""
    made = styles.write(config.directory / "maps", config.legend)
    table = config.directory / "assessment" / "areas.csv"
    write_whole(table, areas.table(counts, regions, accuracy, config.legend))
    made.append(str(table))
    used = [item for part in behind.values() for item in part]
    page = catalogue.write_collection(
        config, regions.values(), map(Path, items), map(Path, made), used
    )
    return [*made, page]


def _draw_samples(
    config: Config, comm: MPI.Comm, tiles: dict[str, Tile], old: OldMap, samples: Samples | None
) -> tuple[list[str], list[Failure]]:
    """Draw the samples of each tile over its old map, and the series of all clusters."""
    if samples is None:
        return [], []
    wanted = [tile for tile in tiles.values() if tile.id in samples.tiles]
    drawn, failed = _each(
        ranks.mine([(tile,) for tile in wanted], comm),
        lambda unit: _draw_tile(config, *unit, old, samples),
    )
    paths, failures = ranks.gather(drawn, comm), ranks.gather(failed, comm)
    profiles = ranks.on_root(comm, "drawing clusters", _draw_profiles, config, samples)
    return [*paths, *profiles], failures


def _draw_tile(config: Config, tile: Tile, old: OldMap, samples: Samples) -> str:
    stride = preview.stride_of(tile.grid)
    size = preview.block_size(stride)
    blocks = ((block, old(tile.id, block)) for block in tile.grid.blocks(size))
    small = preview.shrink(blocks, tile.grid, stride, config.legend)
    path = config.directory / "samples" / f"{tile.id}.png"
    number = samples.tiles.index(tile.id)
    write_whole(path, draw_samples(small, stride, samples, number, config.legend, tile.id))
    return str(path)


def _draw_profiles(config: Config, samples: Samples) -> list[str]:
    picture = draw_profiles(samples, config.composite.bands, config.legend)
    if picture is None:
        return []
    path = config.directory / "samples" / "clusters.png"
    write_whole(path, picture)
    return [str(path)]


def _view(
    config: Config, comm: MPI.Comm, tiles: Mapping[str, Tile], there: set[str], old: OldMap
) -> tuple[list[views.View], list[Failure]]:
    """Make the viewer's images of every tile that has a map; rank 0 gets them."""
    mapped = [
        tile
        for tile in tiles.values()
        if any(str(_path(config, tile, year, "MAP")) in there for year in config.archive.years)
    ]
    # The old map, and of each year what `_images` makes of it.
    layers = len(SHOWN) + bool(config.assess.reference)
    stride = views.stride_of(mapped, 1 + layers * len(config.archive.years))
    made, failed = _each(
        ranks.mine([(tile,) for tile in mapped], comm, lambda unit: unit[0].grid.height * unit[0].grid.width),
        lambda unit: _view_tile(config, *unit, stride, there, old),
    )  # fmt: skip
    failures = ranks.gather(failed, comm)
    # To rank 0 alone, and not with `ranks.gather`: they are megabytes.
    gathered = comm.gather(made, root=0)
    shown = [view for part in gathered or [] for view in part]
    return sorted(shown, key=lambda view: view.tile), failures


def _view_tile(config: Config, tile: Tile, stride: int, there: set[str], old: OldMap) -> views.View:
    grid, size = tile.grid, preview.block_size(stride)
    since = config.sample.old_map_year
    outdated = ((block, old(tile.id, block)) for block in grid.blocks(size))
    small = preview.shrink(outdated, grid, stride, config.legend)
    images = [views.Image("classes", None, f"Old map {since}", f"Old {since}", views.encode(small))]  # fmt: skip
    most = 0
    for year in sorted(config.archive.years):
        for layer, (kind, name, number) in SHOWN.items():
            if layer == "CHG" and year not in config.changes:
                continue
            path = _path(config, tile, year, layer)
            if str(path) not in there:
                continue
            blocks = geotiff.read_blocks(path, grid, size, number)
            if kind == "confidence":
                small = views.shrink_confidence(blocks, grid, stride)
            elif kind == "observations":
                small = views.shrink_observations(blocks, grid, stride)
                most = max(most, int(small.max()))
            else:
                small = preview.shrink(blocks, grid, stride, config.legend)
            images.append(
                views.Image(kind, year, f"{name} {year}", str(year), views.encode(small), path.name)
            )
        reference = _reference_blocks(config, tile, year, size)
        if reference is not None:
            small = preview.shrink(reference, grid, stride, config.legend)
            name = f"Reference {year}"
            png = views.encode(small)
            images.append(views.Image("classes", year, name, f"Ref. {year}", png, reference=True))
    metres = grid.resolution * stride if in_metres(grid) else None
    height, width = small.shape
    return views.View(tile.id, height, width, stride, metres, most, tuple(images))


def _each(units: Iterable[tuple], work: Callable[[tuple], Any]) -> tuple[list[Any], list[Failure]]:
    """Do the work of one rank; a unit that fails costs itself only."""
    paths, failures = [], []
    for unit in units:
        try:
            paths.append(work(unit))
        except Exception as error:  # noqa: BLE001  (named in the report; the others go on)
            name = " ".join([unit[0].id, *map(str, unit[1:])])
            failures.append(Failure(STAGE, name, f"{type(error).__name__}: {error}"))
    return paths, failures


def layers_of(config: Config, year: int) -> list[str]:
    """Return the layers of a year: those of consistent maps where there are such, changes from the second year on."""
    consistent = ["POST"] if config.classify.years != "none" else []
    return [*geotiff.LAYERS, *consistent, *(["CHG"] if year in config.changes else [])]


def _path(config: Config, tile: Tile, year: int, layer: str) -> Path:
    since = config.changes[year] if layer == "CHG" else None
    name = geotiff.product_name(layer, year, tile.grid, tile.id, config.publish.version, since)
    return config.directory / "maps" / name


def _write_product(
    config: Config,
    tile: Tile,
    year: int,
    layer: str,
    layers: LayersOf,
    fingerprint: Callable[[str, int, str], str] | None,
) -> str:
    path = _path(config, tile, year, layer)
    made_from = fingerprint(tile.id, year, layer) if fingerprint else ""
    if made_from and geotiff.is_published(path, made_from):
        return str(path)
    tags = tags_of(config, tile, year, made_from)
    if layer == "CHG":
        tags["LCU_SINCE"] = str(config.changes[year])

    def read(block: Block) -> np.ndarray:
        return layers(tile.id, year, layer, block)

    geotiff.write_product(path, layer, tile.grid, read, config.legend, tags)
    deadline.made()
    return str(path)


def _changes(
    config: Config, products: Sequence[tuple[Tile, int, str]], paths: Sequence[str]
) -> list[tuple[Tile, int]]:
    """Return the tiles and years whose changes become polygons; none unless that is asked for."""
    return [
        (tile, year)
        for tile, year, layer in products
        if layer == "CHG"
        and config.publish.change_polygons
        and str(_path(config, tile, year, layer)) in paths
    ]


def _write_polygons(
    config: Config, tile: Tile, year: int, fingerprint: Callable[[str, int, str], str] | None
) -> str:
    change = _path(config, tile, year, "CHG")
    path = change.with_suffix(".gpkg")
    made_from = (
        store.fingerprint("polygons 1", fingerprint(tile.id, year, "CHG")) if fingerprint else ""
    )
    if made_from and polygons.is_published(path, made_from):
        return str(path)
    tags = tags_of(config, tile, year, made_from)
    polygons.write(path, change, tile.grid, (config.changes[year], year), config.legend, tags)
    return str(path)


def tags_of(config: Config, tile: Tile, year: int, fingerprint: str) -> dict[str, str]:
    """Return the metadata of a product; no times of day, for the same run gives the same file."""
    source = f"Sentinel-2 L2A of {year}; old map of {config.sample.old_map_year}"
    tags = {
        "LCU_VERSION": lcu.__version__,
        "LCU_TILE": tile.id,
        "LCU_YEAR": str(year),
        "LCU_LEGEND": config.legend.name,
        "LCU_MODEL": config.train.model,
        "LCU_CONFIGURATION": configuration_fingerprint(config),
        "LCU_SOURCE": source,
        "LCU_SYNTHETIC": "NO",
    }
    if config.simulate is not None:
        tags["LCU_SYNTHETIC"] = "YES"
        tags["LCU_SOURCE"] = "a synthetic landscape; not a real place"
    if fingerprint:
        tags["LCU_FINGERPRINT"] = fingerprint
    return tags


def configuration_fingerprint(config: Config) -> str:
    """Return a hash of the configuration; where a run lies does not change its maps."""
    return store.fingerprint({name: part for name, part in config.table().items() if name != "run"})


def _draw(
    config: Config, tile: Tile, year: int, old: OldMap, accuracy: Mapping[int, dict[str, Any]]
) -> str:
    """Draw the preview of one map beside the old map and, where there is one, the reference."""
    path = _path(config, tile, year, "MAP")
    grid, legend = tile.grid, config.legend
    stride = preview.stride_of(grid)
    size = preview.block_size(stride)
    outdated = ((block, old(tile.id, block)) for block in grid.blocks(size))
    sources = [
        (f"old map, {config.sample.old_map_year}", outdated),
        (f"map of {year}", geotiff.read_blocks(path, grid, size)),
    ]
    changed = _path(config, tile, year, "CHG") if year in config.changes else None
    if changed is not None and changed.exists():
        blocks = geotiff.read_blocks(changed, grid, size, number=2)
        sources.append((f"changed since {config.changes[year]}", blocks))
    reference = _reference_blocks(config, tile, year, size)
    if reference is not None:
        sources.append(("reference", reference))
    panels = [(name, preview.shrink(blocks, grid, stride, legend)) for name, blocks in sources]
    synthetic = "  (synthetic landscape)" if config.simulate is not None else ""
    subtitle = accuracy_line(accuracy.get(year), tile.id)
    metres = grid.resolution * stride if in_metres(grid) else None
    picture = preview.draw(panels, legend, f"{tile.id}, {year}{synthetic}", subtitle, metres)
    target = path.with_suffix(".png")
    write_whole(target, picture)
    return str(target)


def _reference_blocks(
    config: Config, tile: Tile, year: int, size: int
) -> Iterator[tuple[Block, np.ndarray]] | None:
    """Yield the reference in class values, uint8 [y, x]; None where the tile and year have none."""
    if not config.assess.reference:
        return None
    reference = RasterReference(config)
    if year not in reference.years or reference.missing(tile, year):
        return None
    path = reference.path(tile, year)
    nomenclature = config.assess.reference_nomenclature
    return (
        (block, config.legend.reclass(read_codes(path, tile.grid.part(block)), nomenclature))
        for block in tile.grid.blocks(size)
    )


def accuracy_line(result: Mapping[str, Any] | None, tile: str) -> str:
    """Return the accuracy of a tile and year in words, the old map's beside it; empty for none."""
    part = (result or {}).get("tiles", {}).get(tile)
    if not part:
        return ""
    figures = (("overall accuracy", "overall_accuracy"), ("macro F1", "macro_f1"))
    old = part["old_map"]
    texts = [
        f"{label} {report.number(part[key])} (old map {report.number(old[key])})"
        for label, key in figures
    ]
    return ",  ".join(texts)


def _write_report(
    config: Config,
    tiles: dict[str, Tile],
    accuracy: Mapping[int, dict[str, Any]],
    shown: Sequence[views.View],
    failures: Sequence[Failure],
    paths: Sequence[str],
    provenance: Mapping[str, Any],
    pictures: Sequence[str],
) -> str:
    samples = [
        (Path(name).stem, base64.b64encode(Path(name).read_bytes()).decode("ascii"))
        for name in pictures
    ]
    training = base64.b64encode(curves.of_run(config.directory) or b"").decode("ascii")
    page = report.render(
        config, tiles, accuracy, shown, failures, paths, provenance, samples, training=training
    )
    path = config.directory / "report" / "index.html"
    write_whole(path, page)
    return str(path)
