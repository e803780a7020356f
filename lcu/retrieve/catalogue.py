"""Catalogues: what there is of a tile and a year, and which files an acquisition has.

Every catalogue is a function (tile, first day, day after the last) -> candidates and failures (the
same failure maybe more than once). A
STAC API is asked for the tile and the cloud limit where it can be, and what it answers is looked
through again; a static catalogue is read whole, once.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pystac
import pystac_client
from pystac_client.conformance import ConformanceClasses
from pystac_client.exceptions import APIError

from lcu.acquisition import (
    MASK,
    AcquisitionError,
    Found,
    band_assets,
    examine,
    identify,
    search,
)
from lcu.config import Config
from lcu.ranks import Failure
from lcu.retrieve.web import RetrieveError, StoppedError, Web, shown

STAGE = "retrieve"

# Acquisitions of a tile in a year are 150 at most, with their processings some hundreds.
MOST_ITEMS = 10_000
PAGE = 100


@dataclass(frozen=True)
class Service:
    """Addresses of a catalogue: what it is searched at, where tokens come from, and who gets them."""

    url: str
    token_url: str = ""
    client: str = "cdse-public"
    hosts: tuple[str, ...] = ()


SERVICES = {
    # Documentation of the Copernicus Data Space Ecosystem, "STAC" and "OData".
    "cdse": Service(
        "https://stac.dataspace.copernicus.eu/v1/",
        "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token",
        "cdse-public",
        ("download.dataspace.copernicus.eu", "zipper.dataspace.copernicus.eu"),
    ),
    "earth-search": Service("https://earth-search.aws.element84.com/v1"),
    "stac": Service(""),
}

# Multicodec numbers of the digests in `file:checksum`, and their bytes (github.com/multiformats/multicodec).
DIGESTS = {
    0xD5: ("md5", 16), 0x11: ("sha1", 20), 0x12: ("sha256", 32), 0x13: ("sha512", 64),
    0x14: ("sha3_512", 64), 0x16: ("sha3_256", 32), 0x1E: ("blake3", 32),
}  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    Attributes
    ----------
    href : str
        Its address; a path of this machine where `local`.
    path : str
        Where it goes, relative to the archive.
    size : int or None
        Bytes; None where the catalogue does not say.
    checksum : tuple of (str, str) or None
        Algorithm and hexadecimal digest.
    """

    href: str
    path: str
    size: int | None = None
    checksum: tuple[str, str] | None = None
    local: bool = False


@dataclass(frozen=True)
class Candidate:
    """An acquisition that could be fetched; `clear` is the percent of the tile seen without clouds.

    `item` is the STAC item that goes beside the files, at `item_path`; both empty for whole products.
    """

    id: str
    tile: str
    time: datetime
    level: str
    baseline: str
    cloud_cover: float | None
    clear: float
    datatake: str
    strip: float
    generated: str
    files: tuple[Remote, ...]
    item: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def item_path(self) -> str:
        """Where the item goes, relative to the archive; empty for whole products."""
        return f"{self.id}/{self.id}.json" if self.item else ""


Catalogue = Callable[[str, date, date], Iterator[Candidate | Failure]]


def service(config: Config) -> Service:
    """Return the addresses that the configuration asks for."""
    keys, own = config.retrieve, SERVICES[config.retrieve.catalogue]
    own = replace(own, url=keys.url) if keys.url else own
    return replace(own, token_url=keys.token_url, hosts=keys.hosts) if keys.token_url else own


def open_catalogue(config: Config, web: Web) -> Catalogue:
    """Return the function that searches the configured catalogue."""
    if config.retrieve.catalogue == "folder":
        return _folder(config)
    client = _client(service(config).url, web)
    if client.conforms_to(ConformanceClasses.ITEM_SEARCH):
        items = _api(client, config)
    else:
        items = _static(client)

    def look(tile: str, first: date, end: date) -> Iterator[Candidate | Failure]:
        for item, address in items(tile, first, end):
            yield from _asked_for(item, address, tile, first, end, config, web)

    return look


# --- STAC, over the network -----------------------------------------------------------------------


class _Io(pystac_client.stac_api_io.StacApiIO):
    """pystac-client's way to the network, through `Web`."""

    def __init__(self, web: Web) -> None:
        super().__init__()
        self._web = web

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return the text at an address."""
        method = (method or "GET").upper()
        if method not in ("GET", "POST"):
            raise RetrieveError(
                f"{shown(href)}: the catalogue wants a {method}, expected GET or POST"
            )
        body = {"json": parameters} if method == "POST" else {"params": parameters or None}
        return self._web.text(method, href, **body)

    def read_text(self, source: Any, *arguments: Any, **more: Any) -> str:
        """Return the text at an address; never that of a file here, whatever a catalogue links to."""
        href = source.get_absolute_href() if isinstance(source, pystac.Link) else str(source)
        if not self._web.allows(str(href)):
            raise RetrieveError(
                f"the catalogue links to {shown(str(href))}, which is no address of the network"
            )
        return super().read_text(source, *arguments, **more)


Items = Callable[[str, date, date], Iterator[tuple[dict[str, Any], str]]]


def _client(url: str, web: Web) -> pystac_client.Client:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a static catalogue states no conformance
        try:
            return pystac_client.Client.open(url, stac_io=_Io(web))
        except (pystac.errors.STACError, APIError, ValueError, KeyError, TypeError) as error:
            raise _fault(url, error) from None


def _fault(url: str, error: BaseException) -> Exception:
    """Return what stands behind an error of pystac: one of the network, or that this is no STAC."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RetrieveError | StoppedError):
        cause = cause.__cause__ or cause.__context__
    return cause or RetrieveError(f"{shown(url)}: not readable as STAC ({type(error).__name__})")


def _api(client: pystac_client.Client, config: Config) -> Items:
    """Return the search of a STAC API: by tile and cloud cover as far as it knows how to."""
    methods = {link.extra_fields.get("method", "GET") for link in client.get_links("search")}
    method = "POST" if "POST" in methods else "GET"
    cloud = config.archive.max_cloud_cover
    url = client.get_self_href() or ""

    def narrowed(tile: str) -> dict[str, Any]:
        if method == "POST" and client.conforms_to(ConformanceClasses.FILTER):
            code = {"op": "=", "args": [{"property": "grid:code"}, f"MGRS-{tile}"]}
            limit = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, cloud]}
            return {"filter": {"op": "and", "args": [code, limit]}, "filter_lang": "cql2-json"}
        if client.conforms_to(ConformanceClasses.QUERY):
            return {
                "query": {"grid:code": {"eq": f"MGRS-{tile}"}, "eo:cloud_cover": {"lte": cloud}}
            }
        return {}

    def look(tile: str, first: date, end: date) -> Iterator[tuple[dict[str, Any], str]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of links that it has to guess
                found = client.search(
                    method=method,
                    collections=[config.retrieve.collection],
                    limit=PAGE,
                    max_items=MOST_ITEMS + 1,
                    datetime=f"{first}T00:00:00Z/{end}T00:00:00Z",
                    **narrowed(tile),
                )
            for count, item in enumerate(found.items_as_dicts()):
                if count == MOST_ITEMS:
                    raise RetrieveError(
                        f"{shown(url)}: more than {MOST_ITEMS} items of {tile} in {first.year}: "
                        "this catalogue cannot be asked for a tile"
                    )
                yield item, _self_link(item) or url
        except (pystac.errors.STACError, APIError, ValueError, KeyError, TypeError) as error:
            raise _fault(url, error) from None

    return look


def _static(client: pystac_client.Client) -> Items:
    """Return the items of a static catalogue, which is read at the first call."""
    known: list[tuple[dict[str, Any], str]] = []

    def look(tile: str, first: date, end: date) -> Iterator[tuple[dict[str, Any], str]]:
        if not known:
            known.extend(_linked_items(client))
        yield from known

    return look


def _linked_items(client: pystac_client.Client) -> Iterator[tuple[dict[str, Any], str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for item in client.get_items(recursive=True):
                yield (
                    item.to_dict(include_self_link=False, transform_hrefs=False),
                    item.get_self_href(),
                )
        except (pystac.errors.STACError, APIError, ValueError, KeyError, TypeError) as error:
            raise _fault(str(client.get_self_href()), error) from None


def _self_link(item: dict[str, Any]) -> str:
    links = item.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "self":
            return str(link.get("href"))
    return ""


def _asked_for(
    item: dict[str, Any], address: str, tile: str, first: date, end: date, config: Config, web: Web
) -> Iterator[Candidate | Failure]:
    """Yield the item as a candidate where it is of the tile, the days and the cloud limit."""
    source = f"{shown(address)}: {item.get('id')}"
    try:
        known = identify(item, source)
        if known.tile != tile or not first <= known.time.date() < end:
            return
        if known.cloud_cover is not None and known.cloud_cover > config.archive.max_cloud_cover:
            return
        _check_name(known.id, source)
        if config.archive.kind == "safe":
            yield _candidate(item, source, (_product(item, address, source, web),), {})
            return
        files, kept = [], {}
        for band, asset in _wanted(item, source, config).items():
            href = _reachable(asset, address, source, web)
            name = f"{band}{_suffix(asset, href, source)}"
            files.append(Remote(href, f"{known.id}/{name}", *_stated(asset, source)))
            kept[band] = asset | {"href": f"./{name}"}
        yield _candidate(item, source, tuple(files), _stored(item, kept))
    except (AcquisitionError, RetrieveError) as error:
        yield Failure(STAGE, str(item.get("id")), str(error))


def _candidate(
    item: dict[str, Any], source: str, files: tuple[Remote, ...], stored: dict[str, Any]
) -> Candidate:
    known = identify(item, source)
    cloud = 100.0 if known.cloud_cover is None else known.cloud_cover
    return Candidate(
        id=known.id,
        tile=known.tile,
        time=known.time,
        level=known.level,
        baseline=known.baseline,
        cloud_cover=known.cloud_cover,
        clear=(100.0 - known.nodata) * (100.0 - cloud) / 100.0,
        datatake=known.datatake,
        strip=known.strip,
        generated=known.generated,
        files=files,
        item=stored,
    )


def _check_name(name: str, source: str) -> None:
    """Refuse names from the network that are not plain: they become names of files."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", name):
        raise RetrieveError(
            f"{source}: refused as the name of a file, expected letters, digits, _ . -"
        )


def _product(item: dict[str, Any], address: str, source: str, web: Web) -> Remote:
    """Return the zip of the whole product."""
    assets = item.get("assets")
    for asset in assets.values() if isinstance(assets, dict) else ():
        if isinstance(asset, dict) and asset.get("type") == "application/zip":
            href = _reachable(asset, address, source, web)
            name = item["id"].removesuffix(".SAFE")
            return Remote(href, f"{name}.SAFE.zip", *_stated(asset, source))
    raise RetrieveError(
        f'{source}: the catalogue offers no zip of the product; archive.kind = "stac" takes single bands'
    )


def _wanted(item: dict[str, Any], source: str, config: Config) -> dict[str, dict[str, Any]]:
    """Return the assets of the run's bands, and of the mask where the run needs it."""
    names = [*config.composite.bands, *([MASK] if config.composite.mask != "none" else [])]
    assets = band_assets(item, source)
    missing = [name for name in names if name not in assets]
    if missing:
        raise RetrieveError(f"{source}: no asset for {', '.join(missing)}, which the run needs")
    return {name: assets[name] for name in names}


def _reachable(asset: dict[str, Any], address: str, source: str, web: Web) -> str:
    """Return the first address of an asset (`alternate` ones included) that may be asked."""
    others = asset.get("alternate")
    others = list(others.values()) if isinstance(others, dict) else []
    hrefs = [entry.get("href") for entry in [asset, *others] if isinstance(entry, dict)]
    hrefs = [urljoin(address, href) for href in hrefs if isinstance(href, str) and href]
    for href in hrefs:
        if web.allows(href):
            return href
    listed = ", ".join(shown(href) for href in hrefs) or "nowhere"
    raise RetrieveError(f"{source}: an asset lies at {listed}, expected an https address")


def _suffix(asset: dict[str, Any], href: str, source: str) -> str:
    """Return the ending of a raster's name: by the media type, else by the address."""
    kind = str(asset.get("type") or "")
    found = re.search(r"\.(tiff?|jp2)$", urlsplit(href).path.lower())
    if "tiff" in kind or (found and found[1].startswith("tif")):
        return ".tif"
    if "jp2" in kind or found:
        return ".jp2"
    raise RetrieveError(
        f"{source}: {shown(href)} is {kind or 'of no type'}, expected GeoTIFF or JP2"
    )


def _stated(asset: dict[str, Any], source: str) -> tuple[int | None, tuple[str, str] | None]:
    """Return size and check sum as the file extension of STAC states them."""
    size = asset.get("file:size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise RetrieveError(f"{source}: file:size is {size!r}, expected a number of bytes")
    return size, parse_multihash(asset.get("file:checksum"))


def parse_multihash(text: Any) -> tuple[str, str] | None:
    """Return algorithm and digest of a multihash in hexadecimal digits; None where it is of no use.

    The Copernicus Data Space labels some digests of 32 bytes as MD5, which has 16: these are left.
    """
    try:
        content = bytes.fromhex(text)
    except (TypeError, ValueError):
        return None
    numbers = []
    while content and len(numbers) < 2:
        number = shift = 0
        while content:
            byte, content = content[0], content[1:]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        numbers.append(number)
    algorithm = DIGESTS.get(numbers[0]) if len(numbers) == 2 else None
    if algorithm is None or not algorithm[1] == numbers[1] == len(content):
        return None
    return algorithm[0], content.hex()


def _stored(item: dict[str, Any], assets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the item as it goes into the archive: with the files that were fetched, no other links."""
    return item | {
        "links": [],
        "assets": {
            band: {name: value for name, value in asset.items() if name != "alternate"}
            for band, asset in assets.items()
        },
    }


# --- a folder of this machine ---------------------------------------------------------------------


def _folder(config: Config) -> Catalogue:
    """Return the acquisitions of another archive, which is looked through at the first call."""
    there = replace(config, archive=replace(config.archive, path=(config.retrieve.url,)))
    known: list[Candidate | Failure] = []

    def look(tile: str, first: date, end: date) -> Iterator[Candidate | Failure]:
        if not known:
            sources, failures = search(there)
            known.extend(Failure(STAGE, failure.unit, failure.reason) for failure in failures)
            for source in sources:
                known.extend(_copied(found, source, there) for found in examine(source, there))
        for entry in known:
            if isinstance(entry, Failure) or (
                entry.tile == tile and first <= entry.time.date() < end
            ):
                yield entry

    return look


def _copied(found: Found | Failure, source: str, config: Config) -> Candidate | Failure:
    """Return what was found in a folder as a candidate whose files are copied."""
    if isinstance(found, Failure):
        return Failure(STAGE, found.unit, found.reason)
    own = found.acquisition
    cloud = 100.0 if own.cloud_cover is None else own.cloud_cover
    item: dict[str, Any] = {}
    if config.archive.kind == "stac":
        item = json.loads(Path(source).read_text(encoding="utf-8"))
        assets = band_assets(item, source)
        paths = {band.name: band.path for band in own.rasters}
        files = {f"{own.id}/{name}{Path(path).suffix}": path for name, path in paths.items()}
        kept = {
            name: assets[name] | {"href": f"./{name}{Path(path).suffix}"}
            for name, path in paths.items()
        }
        item = _stored(item, kept)
    elif os.path.isfile(source):
        files = {os.path.basename(source): source}
    else:
        names = [
            path.relative_to(source) for path in sorted(Path(source).rglob("*")) if path.is_file()
        ]
        files = {f"{Path(source).name}/{name}": str(Path(source) / name) for name in names}
    return Candidate(
        id=own.id,
        tile=own.tile,
        time=own.time,
        level=own.level,
        baseline=own.baseline,
        cloud_cover=own.cloud_cover,
        clear=100.0 - cloud,
        datatake=found.datatake,
        strip=found.strip,
        generated=found.generated,
        files=tuple(
            Remote(path, name, os.stat(path).st_size, local=True) for name, path in files.items()
        ),
        item=item,
    )
