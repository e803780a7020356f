"""SAFE products, in folders or zips: metadata -> `Acquisition`. No pixels are read here.

Three layouts are known: the product as ESA delivers it (``MTD_MSIL2A.xml`` above
``GRANULE/*/MTD_TL.xml``), the same flat (both side by side), and the tile of the public bucket
(``metadata.xml`` and ``tileInfo.json``).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from lcu.acquisition.model import (
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

PRODUCT = re.compile(r"MTD_MSIL(?:2A|1C)\.xml")
GRANULE = re.compile(r"(?:GRANULE/[^/]+/)?MTD_TL\.xml")
BUCKET = ("metadata.xml", "tileInfo.json")
IMAGE = re.compile(r"(?:.*[/_])?(B[0-9][0-9A]|SCL)(?:_([0-9]+)m)?\.(?:jp2|tif)")

# Order of `band_id` in every product's metadata.
BAND_IDS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()

# Products have tens of kilobytes to two megabytes of metadata a file.
METADATA_LIMIT = 64 * 2**20

_UNUSED_FOLDERS = {"DATASTRIP", "QI_DATA", "AUX_DATA", "HTML", "rep_info"}


@dataclass(frozen=True)
class Files:
    """The files of one product.

    Attributes
    ----------
    source : str
        The product's folder, or the zip.
    inside : str
        Folder of the product in the zip, with a slash at its end; empty for a folder.
    names : tuple of str
        Files relative to the product.
    """

    source: str
    inside: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the product's folder."""
        return os.path.basename(os.path.normpath(self.inside or self.source))

    def gdal(self, name: str) -> str:
        """Return the path with which GDAL opens a file of the product."""
        if self.inside:
            return f"/vsizip/{{{self.source}}}/{self.inside}{name}"
        return os.path.join(self.source, name)

    def read(self, name: str) -> bytes:
        """Return the content of a metadata file."""
        try:
            if self.inside:
                with (
                    zipfile.ZipFile(self.source) as archive,
                    archive.open(self.inside + name) as file,
                ):
                    content = file.read(METADATA_LIMIT + 1)
            else:
                with open(os.path.join(self.source, name), "rb") as file:
                    content = file.read(METADATA_LIMIT + 1)
        except (OSError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise AcquisitionError(
                f"{self.source}: {name} cannot be read ({error}); fetch it again"
            ) from None
        if len(content) > METADATA_LIMIT:
            raise AcquisitionError(
                f"{self.source}: {name} has more than {METADATA_LIMIT} bytes; no metadata"
            )
        return content


def is_product(names: Collection[str]) -> bool:
    """Tell from the names in a folder whether it is a product, whatever the folder is called."""
    return any(PRODUCT.fullmatch(name) for name in names) or all(name in names for name in BUCKET)


def products(source: str) -> list[Files]:
    """Return the products of a folder (one) or of a zip (usually one)."""
    if os.path.isdir(source):
        return [Files(source, "", tuple(sorted(_walk(source))))]
    try:
        with zipfile.ZipFile(source) as archive:
            names = sorted(archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise AcquisitionError(f"{source}: not a whole zip ({error}); fetch it again") from None
    inside = sorted(
        {found[1] for name in names if (found := re.match(r"((?:[^/]+/)*?[^/]+\.SAFE/)", name))}
    )
    if not inside:
        raise AcquisitionError(f"{source}: no .SAFE folder in the zip, expected a product")
    return [
        Files(
            source,
            folder,
            tuple(name.removeprefix(folder) for name in names if name.startswith(folder)),
        )
        for folder in inside
    ]


def _walk(folder: str) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _UNUSED_FOLDERS)
        for name in files:
            yield os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/")


def parse(files: Files, wanted: Collection[str]) -> Found:
    """Read the metadata of one product.

    Parameters
    ----------
    wanted : collection of str
        Bands, and ``SCL``, to look for; those that the product lacks are absent from the result.

    Raises
    ------
    AcquisitionError
        Naming the file, what was found and what was expected.
    """
    granule = _granule_file(files)
    tree = read_xml(files.read(granule), f"{files.source}: {granule}")
    product = next((name for name in files.names if PRODUCT.fullmatch(name)), None)
    if product:
        facts = read_facts(files.read(product), f"{files.source}: {product}")
    elif granule == BUCKET[0]:
        facts = _bucket_facts(files, tree)
    else:
        raise AcquisitionError(
            f"{files.source}: no MTD_MSIL2A.xml or MTD_MSIL1C.xml; fetch it again"
        )
    tile = _tile(tree, f"{files.source}: {granule}")
    named = re.search(r"_T([0-9]{2}[A-Z]{3})_", facts.id)
    if named and named[1] != tile:
        raise AcquisitionError(
            f"{files.source}: {facts.id} is of tile {named[1]}, its granule of {tile}"
        )
    bands = _bands(files, granule, tree, facts, wanted)
    cloud = _text(tree, "CLOUDY_PIXEL_PERCENTAGE")
    acquisition = Acquisition(
        id=facts.id,
        tile=tile,
        time=facts.time,
        platform=facts.platform,
        level=facts.level,
        baseline=facts.baseline,
        cloud_cover=facts.cloud
        if cloud is None
        else parse_number(cloud, "cloud cover", files.source),
        mask=bands.pop(MASK, None),
        bands=bands,
        source=files.source,
    )
    strip = strip_start(_text(tree, "DATASTRIP_ID", "DATASTRIP_ID_2A"))
    return Found(acquisition, facts.datatake, strip, facts.generated)


@dataclass(frozen=True)
class Facts:
    """What the product's own metadata says; `offsets` are digital numbers by band."""

    id: str
    time: datetime
    platform: str
    level: str
    baseline: str
    datatake: str
    generated: str
    cloud: float | None
    scale: float
    offsets: dict[str, float]
    nodata: int


def read_facts(content: bytes, source: str) -> Facts:
    """Read ``MTD_MSIL2A.xml`` or ``MTD_MSIL1C.xml``, of any baseline."""
    tree = read_xml(content, source)
    datatake = next((element for element in tree.iter() if _local(element) == "Datatake"), None)
    level = _level(_required(tree, source, "PROCESSING_LEVEL"), source)
    baseline = parse_baseline(_required(tree, source, "PROCESSING_BASELINE"), source)
    cloud = _text(tree, "Cloud_Coverage_Assessment")
    return Facts(
        id=_required(tree, source, "PRODUCT_URI", "PRODUCT_URI_2A", "PRODUCT_URI_1C").removesuffix(
            ".SAFE"
        ),
        time=parse_time(
            _required(tree, source, "PRODUCT_START_TIME", "DATATAKE_SENSING_START"), source
        ),
        platform=_required(tree, source, "SPACECRAFT_NAME").lower(),
        level=level,
        baseline=baseline,
        datatake=datatake_key(datatake.get("datatakeIdentifier") if datatake is not None else ""),
        generated=_text(tree, "GENERATION_TIME") or "",
        cloud=None if cloud is None else parse_number(cloud, "cloud cover", source),
        scale=_scale(tree, level, source),
        offsets=_offsets(tree, level, baseline, source),
        nodata=_nodata(tree, source),
    )


def _bucket_facts(files: Files, granule: Element) -> Facts:
    """Collect what ``metadata.xml`` and ``tileInfo.json`` say; the baseline gives the offset."""
    source = f"{files.source}: {BUCKET[0]}"
    info = read_json(files.read(BUCKET[1]), f"{files.source}: {BUCKET[1]}")
    tile_id = re.match(
        r"(S2[A-Z])_OPER_MSI_(L1C|L2A)_TL_\w+?_([0-9]{8}T[0-9]{6})_.*_N([0-9]{2}\.[0-9]{2})$",
        _required(granule, source, "TILE_ID"),
    )
    if tile_id is None:
        raise AcquisitionError(f"{source}: TILE_ID is not one of Sentinel-2")
    sensor, level, generated, baseline = tile_id.groups()
    name = str(info.get("productName", ""))
    start = re.match(r"S2[A-Z]_MSIL[12][AC]_([0-9]{8}T[0-9]{6})_", name)
    shift = offset_of_baseline(baseline)
    return Facts(
        id=name or tile_id[0],
        time=parse_time(info.get("timestamp"), f"{files.source}: {BUCKET[1]}"),
        platform=f"sentinel-{sensor[1:].lower()}",
        level=level,
        baseline=baseline,
        datatake=f"G{sensor}_{start[1]}" if start else "",
        generated=generated,
        cloud=None,
        scale=1e-4,
        offsets=dict.fromkeys(BAND_IDS, shift),
        nodata=0,
    )


def read_xml(content: bytes, source: str) -> Element:
    """Parse XML; entities, and document types that could declare them, are refused."""
    try:
        return fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise AcquisitionError(
            f"{source}: refused, it declares entities or a document type ({error})"
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        raise AcquisitionError(f"{source}: not XML ({error}); fetch it again") from None


def read_json(content: bytes, source: str) -> dict:
    """Parse a JSON object."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AcquisitionError(f"{source}: not JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise AcquisitionError(f"{source}: found {type(value).__name__}, expected a JSON object")
    return value


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(tree: Element, *names: str) -> str | None:
    """Return the text of the first element with one of the names, the earlier names first."""
    for name in names:
        for element in tree.iter():
            if _local(element) == name and element.text and element.text.strip():
                return element.text.strip()
    return None


def _required(tree: Element, source: str, *names: str) -> str:
    text = _text(tree, *names)
    if text is None:
        raise AcquisitionError(
            f"{source}: no {' or '.join(names)}; is it the metadata of a Sentinel-2 product?"
        )
    return text


def _level(text: str, source: str) -> str:
    found = re.match(r"Level-(2A|1C)", text)  # pilot products say Level-2Ap
    if not found:
        raise AcquisitionError(
            f"{source}: processing level {text!r}, expected Level-2A or Level-1C"
        )
    return f"L{found[1]}"


def _scale(tree: Element, level: str, source: str) -> float:
    names = {
        "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
        "L1C": ("QUANTIFICATION_VALUE", "L1C_TOA_QUANTIFICATION_VALUE"),
    }[level]
    value = parse_number(_required(tree, source, *names), names[0], source)
    if value <= 0:
        raise AcquisitionError(f"{source}: {names[0]} is {value:g}, expected such as 10000")
    return 1 / value


def _offsets(tree: Element, level: str, baseline: str, source: str) -> dict[str, float]:
    """Return the offset of each band; before baseline 04.00 there was none and no list of them."""
    name = {"L2A": "BOA_ADD_OFFSET", "L1C": "RADIO_ADD_OFFSET"}[level]
    offsets = {}
    for element in tree.iter():
        if _local(element) == name:
            index = element.get("band_id", "")
            if not re.fullmatch("[0-9]{1,2}", index) or int(index) >= len(BAND_IDS):
                raise AcquisitionError(f"{source}: {name} of band_id {index!r}, expected 0 to 12")
            offsets[BAND_IDS[int(index)]] = parse_number(element.text, name, source)
    if offsets:
        return offsets
    if offset_of_baseline(baseline):
        raise AcquisitionError(
            f"{source}: baseline {baseline} without {name}, expected one for each band"
        )
    return dict.fromkeys(BAND_IDS, 0.0)


def _nodata(tree: Element, source: str) -> int:
    for special in tree.iter():
        if _local(special) == "Special_Values" and _text(special, "SPECIAL_VALUE_TEXT") == "NODATA":
            return int(parse_number(_text(special, "SPECIAL_VALUE_INDEX"), "NODATA", source))
    return 0


def _granule_file(files: Files) -> str:
    found = [name for name in files.names if GRANULE.fullmatch(name)]
    if not found and all(name in files.names for name in BUCKET):
        return BUCKET[0]
    if len(found) != 1:
        raise AcquisitionError(
            f"{files.source}: {len(found)} files MTD_TL.xml, expected one (a single tile)"
        )
    return found[0]


def _tile(granule: Element, source: str) -> str:
    found = re.search(
        r"_T([0-9]{2}[A-Z]{3})(?:_|$)", _required(granule, source, "TILE_ID", "TILE_ID_2A")
    )
    if not found:
        raise AcquisitionError(f"{source}: TILE_ID names no MGRS tile")
    return found[1]


def _grids(granule: Element, source: str) -> dict[int, Grid]:
    """Return the grid of each resolution, in metres, from ``Tile_Geocoding``."""
    crs = _required(granule, source, "HORIZONTAL_CS_CODE").upper()
    sizes, corners = {}, {}
    for element in granule.iter():
        if _local(element) == "Size":
            sizes[element.get("resolution")] = _numbers(element, source, "NROWS", "NCOLS")
        elif _local(element) == "Geoposition":
            corners[element.get("resolution")] = _numbers(
                element, source, "ULX", "ULY", "XDIM", "YDIM"
            )
    grids = {}
    for resolution in sorted({"10", "20", "60"} & set(sizes) & set(corners)):
        x, y, x_step, y_step = corners[resolution]
        grids[int(resolution)] = make_grid(
            crs, (x, x_step, 0.0, y, 0.0, y_step), sizes[resolution], source
        )
    return grids


def _numbers(element: Element, source: str, *names: str) -> tuple[float, ...]:
    return tuple(parse_number(_text(element, name), name, source) for name in names)


def _bands(
    files: Files, granule: str, tree: Element, facts: Facts, wanted: Collection[str]
) -> dict[str, Band]:
    grids = _grids(tree, f"{files.source}: {granule}")
    images = _images(files, granule, _tile(tree, files.source))
    bands = {}
    for name in sorted(set(wanted) & set(images)):
        resolution = NATIVE_RESOLUTION[name]
        if resolution not in grids:
            raise AcquisitionError(
                f"{files.source}: {granule} has no grid of {resolution} m, which {name} needs"
            )
        path, grid = files.gdal(images[name]), grids[resolution]
        if name == MASK:
            bands[name] = Band(name, path, grid, 1.0, 0.0, 0)
            continue
        if name not in facts.offsets:
            raise AcquisitionError(
                f"{files.source}: the metadata states offsets, but none for {name}"
            )
        bands[name] = Band(
            name, path, grid, facts.scale, facts.offsets[name] * facts.scale, facts.nodata
        )
    return bands


def _images(files: Files, granule: str, tile: str) -> dict[str, str]:
    """Return the file of each band at its native resolution; those of other tiles do not count."""
    folder = granule.rpartition("/")[0]
    images = {}
    for name in files.names:
        found = IMAGE.fullmatch(name)
        if not found or not name.startswith(folder):
            continue
        other = re.search(r"(?:^|_)T([0-9]{2}[A-Z]{3})_", name.rpartition("/")[2])
        resolution = found[2] or next(iter(re.findall(r"(?:^|/)R([0-9]+)m/", name)), None)
        native = resolution is None or int(resolution) == NATIVE_RESOLUTION.get(found[1])
        if native and (other is None or other[1] == tile):
            images[found[1]] = name
    return images
