"""The products as a STAC catalogue: a collection, and an item a tile and year.

Addresses are relative: who moves the run directory moves the catalogue with it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from osgeo import gdal, gdal_array

import lcu
from lcu import store
from lcu.composite import Origin
from lcu.config import Config
from lcu.grid import Grid, Tile
from lcu.legend import NODATA, OUTSIDE, Legend
from lcu.projection import footprint, wkt
from lcu.publish import geotiff, versions

EXTENSIONS = {
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "projection": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "version": "https://stac-extensions.github.io/version/v1.2.0/schema.json",
}
COLLECTION = "collection.json"
# Media type and role of what is no GeoTIFF, by the end of its name.
KINDS = {
    ".aux.xml": (pystac.MediaType.XML, "metadata"),
    ".csv": ("text/csv", "metadata"),
    ".gpkg": (pystac.MediaType.GEOPACKAGE, "data"),
    ".png": (pystac.MediaType.PNG, "overview"),
    ".qml": (pystac.MediaType.XML, "style"),
    ".sld": ("application/vnd.ogc.sld+xml", "style"),
}
# Of a collection whose tiles are on no place on Earth, STAC wants a box nevertheless.
EVERYWHERE = [-180.0, -90.0, 180.0, 90.0]
DEGREES = 7  # decimals: a centimetre


def origins_of_year(config: Config, origins: Sequence[Origin], year: int) -> list[Origin]:
    """Return the acquisitions in the periods that describe a year, margins included."""
    periods = [config.periods[position] for position in config.window_of(year)]
    return [item for item in origins if any(item.time in period for period in periods)]


def write_item(
    config: Config, tile: Tile, year: int, products: Mapping[str, Path], origins: Sequence[Origin]
) -> str:
    """Write the item of a tile and year; return its path.

    Parameters
    ----------
    products : mapping
        Layer -> GeoTIFF. Its companion and its preview go with it.
    origins : sequence of Origin
        Acquisitions that the maps of this year were made from.
    """
    layer, first = next(iter(products.items()))
    path = config.directory / "stac" / f"{first.stem.replace(f'_{layer}_', '_', 1)}.json"
    geometry, box = _geometry(tile.grid)
    item = pystac.Item(
        path.stem,
        geometry,
        box,
        None,
        _properties(config, tile, year),
        start_datetime=datetime(year, 1, 1, tzinfo=UTC),
        end_datetime=datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC),
        stac_extensions=sorted(EXTENSIONS.values()),
        collection=_identity(config),
    )
    for layer, product in products.items():
        key = layer.lower()
        item.add_asset(key, _raster(product, path.parent, layer, tile.grid, config.legend))
        companions = {"names": Path(f"{product}.aux.xml"), "preview": product.with_suffix(".png")}
        if config.publish.change_polygons:
            companions["polygons"] = product.with_suffix(".gpkg")
        for name, beside in companions.items():
            if beside.exists():
                item.add_asset(f"{key}-{name}", _other(beside, path.parent))
    for rel in ("root", "parent", "collection"):
        item.add_link(pystac.Link(rel, f"./{COLLECTION}", pystac.MediaType.JSON))
    item.add_links(_derived(origins, path.parent))
    content = item.to_dict(include_self_link=False, transform_hrefs=False)
    former = versions.predecessor(path, config.publish.version)
    if former is not None:
        content["links"].append(versions.link(versions.PREDECESSOR, former))
    store.write_json(path, content)
    if former is not None:
        versions.supersede(former, path)
    return str(path)


def write_collection(
    config: Config,
    tiles: Iterable[Tile],
    items: Iterable[Path],
    files: Iterable[Path],
    origins: Iterable[Origin],
) -> str:
    """Write the collection of all items; return its path.

    Parameters
    ----------
    tiles : iterable of Tile
        Whose extents the collection has.
    files : iterable of Path
        What belongs to all items: styles and tables.
    origins : iterable of Origin
        Every acquisition of the run: a map also follows from samples of other tiles and years.
    """
    folder = config.directory / "stac"
    boxes = [box for tile in tiles if (box := _geometry(tile.grid)[1])]
    west, south = np.min(boxes, axis=0)[:2].tolist() if boxes else EVERYWHERE[:2]
    east, north = np.max(boxes, axis=0)[2:].tolist() if boxes else EVERYWHERE[2:]
    years = sorted(config.archive.years)
    span = [
        datetime(years[0], 1, 1, tzinfo=UTC),
        datetime(years[-1], 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
    collection = pystac.Collection(
        _identity(config),
        _about(config),
        pystac.Extent(
            pystac.SpatialExtent([[west, south, east, north]]), pystac.TemporalExtent([span])
        ),
        title=f"Land cover of {', '.join(map(str, years))}",
        stac_extensions=[EXTENSIONS["file"], EXTENSIONS["version"]],
        extra_fields={"version": str(config.publish.version)},
        license="other",
        assets={path.name: _other(path, folder) for path in sorted(files)},
    )
    collection.clear_links()
    collection.add_link(pystac.Link("root", f"./{COLLECTION}", pystac.MediaType.JSON))
    for path in sorted(items):
        collection.add_link(pystac.Link("item", f"./{path.name}", pystac.MediaType.GEOJSON))
    collection.add_links(_derived(origins, folder))
    path = folder / COLLECTION
    store.write_json(path, collection.to_dict(include_self_link=False, transform_hrefs=False))
    return str(path)


def checksum(path: Path) -> str:
    """Return a file's SHA-256 as a multihash in hexadecimal digits, as the file extension wants it."""
    with path.open("rb") as file:
        return "1220" + hashlib.file_digest(file, "sha256").hexdigest()


def classes(legend: Legend, layer: str) -> list[dict[str, Any]]:
    """Return what the values of a layer mean, as the classification extension holds it."""
    found = [
        {
            "value": entry.value,
            "name": _plain(entry.name),
            "title": entry.name,
            "color_hint": entry.colour[1:].upper(),
        }
        for entry in legend.classes
    ]
    others = [(OUTSIDE, "outside", geotiff.OUTSIDE_COLOUR)]
    if layer == "POST":
        others += geotiff.ALTERED
    for value, name, colour in others:
        hint = "".join(f"{part:02X}" for part in colour)
        found.append({"value": value, "name": _plain(name), "title": name, "color_hint": hint})
    found.append({"value": NODATA, "name": "no-data", "title": "no data", "nodata": True})
    return found


def _plain(text: str) -> str:
    """Return a text in the letters that names of classes may have in STAC."""
    return re.sub("[^0-9A-Za-z_-]+", "-", text)


def _identity(config: Config) -> str:
    """Return the collection's id, which does not depend on where the run lies."""
    years = "-".join(map(str, sorted({min(config.archive.years), max(config.archive.years)})))
    return f"land-cover-{_plain(config.legend.name)}-{years}"


def _about(config: Config) -> str:
    text = (
        f"Land cover in the classes of {config.legend.name}, from Sentinel-2 and an old map of "
        f"{config.sample.old_map_year}"
    )
    return text if config.simulate is None else f"{text}; a synthetic landscape, not a real place"


def _properties(config: Config, tile: Tile, year: int) -> dict[str, Any]:
    grid = tile.grid
    west, step, _, north, _, fall = grid.transform
    code = grid.crs if grid.crs.upper().startswith("EPSG:") else None
    properties = {
        "title": f"Land cover of {year}, {tile.id}",
        "description": _about(config),
        "version": str(config.publish.version),
        "proj:code": code,
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [step, 0.0, west, 0.0, fall, north],
        "proj:bbox": list(grid.bounds),
        "processing:level": "L4",
        "processing:software": {"lcu": lcu.__version__},
        "processing:lineage": f"composites {config.composite.method} of {config.composite.period}, "
        f"classified by {config.train.model} that learned from the old map",
    }
    if code is None:
        properties["proj:wkt2"] = wkt(grid.crs)
    return properties


def _geometry(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Return footprint and bounding box in longitude and latitude; none for a place not on Earth."""
    degrees = footprint(grid)
    if degrees is None:
        return None, None
    ring = np.round(np.stack(degrees, axis=1), DEGREES)
    box = [*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()]
    return {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]}, box


def _raster(path: Path, folder: Path, layer: str, grid: Grid, legend: Legend) -> pystac.Asset:
    """Describe a GeoTIFF by what it says itself."""
    dataset = gdal.Open(str(path))
    fields = {**_content(path), "bands": []}
    for number in range(1, dataset.RasterCount + 1):
        band = dataset.GetRasterBand(number)
        kind = gdal_array.GDALTypeCodeToNumericTypeCode(band.DataType)
        about = {
            "name": band.GetDescription(),
            "data_type": np.dtype(kind).name,
            "raster:sampling": "area",
            "raster:spatial_resolution": grid.resolution,
        }
        if band.GetNoDataValue() is not None:
            about["nodata"] = int(band.GetNoDataValue())
        if band.GetScale() not in (None, 1.0):
            about |= {"raster:scale": band.GetScale(), "raster:offset": band.GetOffset()}
        fields["bands"].append(about)
    if layer in ("MAP", "POST"):
        fields["classification:classes"] = classes(legend, layer)
    title = geotiff.about_layer(layer).description
    return pystac.Asset(
        _relative(path, folder),
        title,
        media_type=pystac.MediaType.COG,
        roles=["data"],
        extra_fields=fields,
    )


def _other(path: Path, folder: Path) -> pystac.Asset:
    suffix = next(suffix for suffix in KINDS if path.name.endswith(suffix))
    media, role = KINDS[suffix]
    return pystac.Asset(
        _relative(path, folder),
        path.name,
        media_type=media,
        roles=[role],
        extra_fields=_content(path),
    )


def _content(path: Path) -> dict[str, Any]:
    return {"file:size": path.stat().st_size, "file:checksum": checksum(path)}


def _derived(origins: Iterable[Origin], folder: Path) -> list[pystac.Link]:
    ordered = sorted(set(origins), key=lambda item: (item.time, item.id))
    return [
        pystac.Link("derived_from", _relative(Path(item.source), folder), _media(item), item.id)
        for item in ordered
    ]


def _media(item: Origin) -> str | None:
    """Return the type of an acquisition's file; a SAFE folder has none."""
    return {".json": pystac.MediaType.GEOJSON, ".zip": "application/zip"}.get(
        Path(item.source).suffix
    )


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)
