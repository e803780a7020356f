"""STAC items: metadata -> `Acquisition`. No pixels are read here.

Asset keys are those of earth-search v1 (``blue``, ``rededge1``, ..), of Planetary Computer and
earth-search v0 (``B02``, ``SCL``) and of the Copernicus Data Space (``B02_10m``); other keys count
when ``eo:bands`` or ``bands`` names the band.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from lcu.acquisition import rasters, safe
from lcu.acquisition.model import (
    DEFAULT_SCALE,
    MASK,
    NATIVE_RESOLUTION,
    Acquisition,
    AcquisitionError,
    Band,
    Found,
    datatake_key,
    make_grid,
    offset_of_baseline,
    parse_baseline,
    parse_number,
    parse_time,
    strip_start,
)
from lcu.grid import Grid

EARTH_SEARCH = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05",
    "rededge2": "B06", "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09",
    "cirrus": "B10", "swir16": "B11", "swir22": "B12", "scl": MASK,
}  # fmt: skip

PRODUCT_METADATA = ("product_metadata", "product-metadata")


def parse(
    item: dict[str, Any], source: str, wanted: Collection[str], offset: int | None = None
) -> Found:
    """Read one item.

    Parameters
    ----------
    source : str
        The item's file; relative asset paths start from its folder.
    wanted : collection of str
        Bands, and ``SCL``, to look for; those without an asset are absent from the result.
    offset : int, optional
        What to add to the digital numbers where the item gives no evidence (``archive.offset``).

    Raises
    ------
    AcquisitionError
        Naming the item, what was found and what was expected.
    """
    known = identify(item, source)
    bands = {
        name: _band(name, asset, item, source, offset)
        for name, asset in sorted(band_assets(item, source).items())
        if name in wanted
    }
    acquisition = Acquisition(
        id=known.id,
        tile=known.tile,
        time=known.time,
        platform=known.platform,
        level=known.level,
        baseline=known.baseline,
        cloud_cover=known.cloud_cover,
        mask=bands.pop(MASK, None),
        bands=bands,
        source=source,
    )
    return Found(acquisition, known.datatake, known.strip, known.generated)


@dataclass(frozen=True)
class Identity:
    """What an item says of its acquisition, pixels apart; see `Acquisition` and `Found`.

    Attributes
    ----------
    nodata : float
        Percent of the tile without data (beside the swath); 0 where the item does not say.
    """

    id: str
    tile: str
    time: datetime
    platform: str
    level: str
    baseline: str
    cloud_cover: float | None
    nodata: float
    datatake: str
    strip: float
    generated: str


def identify(item: dict[str, Any], source: str) -> Identity:
    """Read the properties of one item, as ``s2:`` or (Copernicus Data Space) ``eopf:`` names them.

    Raises
    ------
    AcquisitionError
        Naming the item, what was found and what was expected.
    """
    if not isinstance(item.get("id"), str) or not item["id"]:
        raise AcquisitionError(
            f"{source}: id is {item.get('id')!r}, expected the text id of a STAC item"
        )
    properties = _table(item, "properties", source)
    cloud = properties.get("eo:cloud_cover")
    platform, time = str(properties.get("platform") or "").lower(), _time(properties, source)
    datatake = properties.get("s2:datatake_id") or properties.get("eopf:datatake_id")
    strip = properties.get("s2:datastrip_id") or properties.get("eopf:datastrip_id")
    generated = properties.get("s2:generation_time") or properties.get("processing:datetime")
    return Identity(
        id=item["id"],
        tile=_tile(item, properties, source),
        time=time,
        platform=platform,
        level=_level(item, properties),
        baseline=_baseline(properties, source),
        cloud_cover=None if cloud is None else parse_number(cloud, "eo:cloud_cover", source),
        nodata=_nodata(properties, source),
        datatake=datatake_key(datatake) or f"{platform} {time.isoformat()}",
        strip=strip_start(strip),
        generated=str(generated or ""),
    )


def _baseline(properties: dict[str, Any], source: str) -> str:
    stated = properties.get("s2:processing_baseline")
    if stated is not None:
        return parse_baseline(stated, source)
    # Elsewhere this is the version of any software.
    version = properties.get("processing:version") if "eopf:datatake_id" in properties else None
    return "" if version is None else parse_baseline(version, source)


def _nodata(properties: dict[str, Any], source: str) -> float:
    statistics = properties.get("statistics")
    stated = properties.get("s2:nodata_pixel_percentage")
    if stated is None and isinstance(statistics, dict):
        stated = statistics.get("nodata")
    return 0.0 if stated is None else parse_number(stated, "share without data", source)


def _table(parent: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise AcquisitionError(f"{source}: {key} is {type(value).__name__}, expected an object")
    return value


def _time(properties: dict[str, Any], source: str) -> Any:
    return parse_time(properties.get("datetime") or properties.get("start_datetime"), source)


def _tile(item: dict[str, Any], properties: dict[str, Any], source: str) -> str:
    for tile in (
        properties.get("grid:code"),
        properties.get("s2:mgrs_tile"),
        item.get("collection"),
    ):
        if isinstance(tile, str) and re.fullmatch(r"[\w.-]+", tile):
            return tile.removeprefix("MGRS-")
    raise AcquisitionError(
        f"{source}: no grid:code, s2:mgrs_tile or collection; expected one, to name the tile"
    )


def _level(item: dict[str, Any], properties: dict[str, Any]) -> str:
    hints = (
        item["id"],
        item.get("collection"),
        properties.get("s2:product_type"),
        properties.get("processing:level"),
    )
    return "L1C" if any("1C" in str(hint).upper() for hint in hints) else "L2A"


def band_assets(item: dict[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """Return the asset of each band: rather named by its key, rather at its native resolution."""
    ranked = []
    for key, asset in _table(item, "assets", source).items():
        if isinstance(asset, dict) and (found := _band_of(key, asset)):
            name, rank = found
            resolution = _resolution(key, asset)
            foreign = resolution is not None and resolution != NATIVE_RESOLUTION[name]
            ranked.append((rank, foreign, resolution or 0, key, name, asset))
    assets: dict[str, dict[str, Any]] = {}
    for *_, name, asset in sorted(ranked, key=lambda entry: entry[:4]):
        assets.setdefault(name, asset)
    return assets


def _band_of(key: str, asset: dict[str, Any]) -> tuple[str, int] | None:
    """Return the band of an asset and how well it is named (0 by its key, 1 by its bands)."""
    name = _band_name(re.sub(r"_[0-9]+m$", "", key))
    if name:
        return name, 0
    for listed in (asset.get("eo:bands"), asset.get("bands")):
        if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], dict):
            name = _band_name(str(listed[0].get("name")))
            if name:
                return name, 1
    return None


def _band_name(text: str) -> str | None:
    name = EARTH_SEARCH.get(text.lower(), text.upper())
    return name if name in NATIVE_RESOLUTION else None


def _resolution(key: str, asset: dict[str, Any]) -> float | None:
    found = re.search(r"_([0-9]{1,4})m$", key)
    stated = found[1] if found else asset.get("gsd")
    try:
        return float(stated)
    except (TypeError, ValueError, OverflowError):
        return None


def _band(
    name: str, asset: dict[str, Any], item: dict[str, Any], source: str, offset: int | None
) -> Band:
    path = _path(asset, source)
    grid = _grid(asset, item["properties"], source) or rasters.grid_of_file(path)
    nodata = _stated(asset, "nodata")
    if nodata is None or str(nodata).lower() == "nan":
        nodata = 0
    nodata = int(parse_number(nodata, f"nodata of {name}", source))
    if name == MASK:
        return Band(name, path, grid, 1.0, 0.0, nodata)
    product = _product_metadata(item, source)
    scale = _scale(name, asset, product, source)
    return Band(
        name, path, grid, scale, _offset(name, asset, item, source, product, scale, offset), nodata
    )


def _scale(name: str, asset: dict[str, Any], product: safe.Facts | None, source: str) -> float:
    stated = _stated(asset, "scale")
    if stated is None:
        return product.scale if product else DEFAULT_SCALE
    scale = parse_number(stated, f"scale of {name}", source)
    if scale <= 0:
        raise AcquisitionError(f"{source}: scale of {name} is {scale:g}, expected such as 0.0001")
    return scale


def _offset(
    name: str,
    asset: dict[str, Any],
    item: dict[str, Any],
    source: str,
    product: safe.Facts | None,
    scale: float,
    configured: int | None,
) -> float:
    """Return the offset of a band in reflectance, by the first evidence that there is.

    The order: what earth-search says it did, what the asset states, the product's own metadata, the
    processing baseline, the configuration. The date is never evidence: reprocessed products of 2018
    carry the offset of 2022.
    """
    properties = item["properties"]
    if properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    stated = _stated(asset, "offset")
    if stated is not None:
        value = parse_number(stated, f"offset of {name}", source)
        if abs(value) > 1 and scale < 0.01:
            raise AcquisitionError(
                f"{source}: offset of {name} is {value:g}, expected reflectance such as -0.1"
            )
        return value
    if product and name in product.offsets:
        return product.offsets[name] * scale
    baseline = properties.get("s2:processing_baseline")
    if baseline is not None:
        return offset_of_baseline(parse_baseline(baseline, source)) * scale
    if configured is not None:
        return configured * scale
    raise AcquisitionError(
        f"{source}: item {item['id']} does not say which offset its digital numbers have (no "
        "earthsearch:boa_offset_applied, no offset in raster:bands or bands, no local product "
        "metadata, no s2:processing_baseline); state it in the configuration: "
        "archive.offset = 0 or -1000"
    )


def _stated(asset: dict[str, Any], key: str) -> Any:
    """Return what an asset says in ``raster:bands``, ``bands`` or (STAC 1.1) for all its bands."""
    for listed in (asset.get("raster:bands"), asset.get("bands")):
        if isinstance(listed, list) and listed and isinstance(listed[0], dict):
            for name in (key, f"raster:{key}"):
                if listed[0].get(name) is not None:
                    return listed[0][name]
    return asset.get(f"raster:{key}", asset.get(key) if key == "nodata" else None)


def _product_metadata(item: dict[str, Any], source: str) -> safe.Facts | None:
    """Read the product's own metadata where the item has it as a local file."""
    for key in PRODUCT_METADATA:
        asset = item["assets"].get(key)
        if not isinstance(asset, dict):
            continue
        path = _path(asset, source)
        if os.path.isfile(path):
            folder, name = os.path.split(path)
            return safe.read_facts(safe.Files(folder, "", ()).read(name), path)
    return None


def _path(asset: dict[str, Any], source: str) -> str:
    """Return the file of an asset; the address itself where it is not a local one."""
    href = asset.get("href")
    if not isinstance(href, str) or not href or "\0" in href:
        raise AcquisitionError(f"{source}: href of an asset is {href!r}, expected a path")
    try:
        parts = urlsplit(href)
    except ValueError as error:
        raise AcquisitionError(f"{source}: href {href!r} is no address ({error})") from None
    if parts.scheme == "file":
        return unquote(parts.path)
    if parts.scheme:
        return href
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(source)), href))


def _grid(asset: dict[str, Any], properties: dict[str, Any], source: str) -> Grid | None:
    """Return the grid that ``proj:*`` states, or None where it is not stated in full."""

    def stated(key: str) -> Any:
        return asset.get(key, properties.get(key))

    crs, transform, shape = _crs(stated), stated("proj:transform"), stated("proj:shape")
    if crs is None or not isinstance(transform, list) or not isinstance(shape, list):
        return None
    numbers = [parse_number(value, "proj:transform", source) for value in transform]
    size = [parse_number(value, "proj:shape", source) for value in shape]
    if len(numbers) not in (6, 9) or len(size) != 2:
        raise AcquisitionError(
            f"{source}: proj:transform {transform} and proj:shape {shape}, expected 6 and 2 numbers"
        )
    x_step, x_skew, x, y_skew, y_step, y = numbers[:6]
    return make_grid(crs, (x, x_step, x_skew, y, y_skew, y_step), (size[0], size[1]), source)


def _crs(stated: Any) -> str | None:
    code, epsg = stated("proj:code"), stated("proj:epsg")
    if isinstance(code, str) and re.fullmatch(r"EPSG:[0-9]+", code.upper()):
        return code.upper()
    if isinstance(epsg, int) and not isinstance(epsg, bool):
        return f"EPSG:{epsg}"
    return None
