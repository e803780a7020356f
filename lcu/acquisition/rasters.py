"""Opens raster files and finds out whether they are whole; a fault becomes an AcquisitionError."""

from __future__ import annotations

import contextlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from osgeo import gdal, osr

from lcu.acquisition.alignment import describe
from lcu.acquisition.model import AcquisitionError, Band
from lcu.clock import spending
from lcu.grid import Grid

# GDAL's own cache of decoded tiles: room for the one at hand. `tiles` keeps what is needed again.
# GDAL's default is 5 % of the machine's memory for each rank, which no plan of memory survives.
CACHE_BYTES = 16 * 2**20

# Datasets that stay open: opening one again would cost a look at its headers.
OPEN_DATASETS = 256

DRIVERS = ["GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Grok"]

gdal.UseExceptions()
osr.UseExceptions()
gdal.SetCacheMax(CACHE_BYTES)
if gdal.GetConfigOption("GDAL_NUM_THREADS") is None:
    # OpenJPEG would take every core of the node in every rank; and its threads lose the error text.
    gdal.SetConfigOption("GDAL_NUM_THREADS", "1")

_open: OrderedDict[str, gdal.Dataset] = OrderedDict()


def close_all() -> None:
    """Close the datasets that this process keeps open."""
    _open.clear()


def close(path: str) -> None:
    """Close one dataset, should it be open."""
    _open.pop(path, None)


@contextlib.contextmanager
def named(label: str) -> Iterator[None]:
    """Turn GDAL's exceptions into AcquisitionError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip() or "it cannot be decoded"
        raise AcquisitionError(f"{label}: {reason}; fetch it again") from None


@contextlib.contextmanager
def warnings() -> Iterator[list[str]]:
    """Collect what GDAL warns of."""
    said: list[str] = []

    def hear(kind: int, _number: int, text: str) -> None:
        if kind >= gdal.CE_Warning:
            said.append(text.strip())

    gdal.PushErrorHandler(hear)
    try:
        yield said
    finally:
        gdal.PopErrorHandler()


@spending("reading")
def dataset_of(band: Band) -> gdal.Dataset:
    """Return the open dataset of a band, checked against its metadata."""
    if band.path in _open:
        _open.move_to_end(band.path)
        return _open[band.path]
    check_whole(band.path)
    dataset = opened(band.path)
    found = _grid(dataset, band.path)
    if _same_crs(found.crs, band.grid.crs):
        found = replace(found, crs=band.grid.crs)
    same_size = (found.height, found.width) == (band.grid.height, band.grid.width)
    if not same_size or not found.same_extent(band.grid):
        raise AcquisitionError(
            f"{band.path}: {band.name} lies on {describe(found)}; "
            f"its metadata state {describe(band.grid)}"
        )
    _open[band.path] = dataset
    while len(_open) > OPEN_DATASETS:
        _open.popitem(last=False)
    return dataset


def _same_crs(first: str, second: str) -> bool:
    """Tell whether two texts mean one CRS; a file may spell out what metadata give as a code."""
    if first == second:
        return True
    references = [osr.SpatialReference(), osr.SpatialReference()]
    for reference, text in zip(references, (first, second), strict=True):
        reference.SetFromUserInput(text)
    return bool(references[0].IsSame(references[1], ["IGNORE_DATA_AXIS_TO_SRS_AXIS_MAPPING=YES"]))


def opened(path: str) -> gdal.Dataset:
    """Open a raster file for reading; RuntimeError where that fails."""
    # No siblings: reading a folder for every file is slow on parallel file systems, and no side-car
    # may change what a product says.
    return gdal.OpenEx(
        path, gdal.OF_RASTER | gdal.OF_READONLY, allowed_drivers=DRIVERS, sibling_files=[]
    )


def grid_of_file(path: str) -> Grid:
    """Return the grid of a raster file."""
    with named(path):
        return _grid(opened(path), path)


def _grid(dataset: gdal.Dataset, path: str) -> Grid:
    reference = dataset.GetSpatialRef()
    transform = dataset.GetGeoTransform(can_return_null=True)
    if reference is None or transform is None:
        raise AcquisitionError(f"{path}: no CRS or no transform in the file, expected both")
    authority, code = reference.GetAuthorityName(None), reference.GetAuthorityCode(None)
    crs = f"EPSG:{code}" if authority == "EPSG" and code else reference.ExportToWkt()
    try:
        return Grid(crs, transform, dataset.RasterYSize, dataset.RasterXSize)
    except ValueError as error:
        raise AcquisitionError(f"{path}: {error}") from None


def size_of(path: str) -> int | None:
    """Return the bytes of a file, in a zip or not; None where there is none."""
    if not path.startswith("/vsi"):
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return None
    try:
        stat = gdal.VSIStatL(path)
    except RuntimeError:
        return None
    return stat.size if stat else None


def check_whole(path: str) -> None:
    """Raise AcquisitionError for a file that was cut off, without decoding it.

    A JP2 ends where its last box says, with the marker "end of codestream"; the blocks of a TIFF
    end before its file does. Changed bits inside a JP2 cannot be told: it has no check sums.
    """
    size = size_of(path)
    if size is None:
        raise AcquisitionError(f"{path}: no such file")
    with named(path):
        missing = (
            _missing_jp2(path, size) if path.lower().endswith(".jp2") else _missing_tiff(path, size)
        )
    if missing:
        raise AcquisitionError(
            f"{path}: cut off ({missing}, the file has {size} bytes); fetch it again"
        )


def _missing_jp2(path: str, size: int) -> str | None:
    """Say what a JP2 file lacks: follow its boxes to the codestream."""
    with _file(path) as read_at:
        start = 0
        while start + 8 <= size:
            header = read_at(start, 16)
            length, kind = struct.unpack(">I4s", header[:8])
            if length == 1 and len(header) == 16:
                length = struct.unpack(">Q", header[8:])[0]
            end = start + length if length else size
            if end > size:
                return f"box {kind.decode('ascii', 'replace')!r} ends at byte {end}"
            if kind == b"jp2c":
                # In a zip whose size fits, the end is not worth unpacking all that lies before it.
                if length and path.startswith("/vsizip/"):
                    return None
                return None if read_at(end - 2, 2) == b"\xff\xd9" else "no end of codestream"
            if length and length < 8:
                break
            start = end
    return "no codestream"


@contextlib.contextmanager
def _file(path: str) -> Iterator:
    file = gdal.VSIFOpenL(path, "rb")
    if file is None:
        raise AcquisitionError(f"{path}: cannot be opened")

    def read_at(start: int, count: int) -> bytes:
        gdal.VSIFSeekL(file, start, os.SEEK_SET)
        return bytes(gdal.VSIFReadL(1, count, file) or b"")

    try:
        yield read_at
    finally:
        gdal.VSIFCloseL(file)


def _missing_tiff(path: str, size: int) -> str | None:
    """Say what a TIFF file lacks: its blocks must end inside the file."""
    dataset = opened(path)
    band = dataset.GetRasterBand(1)
    width, height = band.GetBlockSize()
    end = 0
    for row in range(-(-dataset.RasterYSize // height)):
        for col in range(-(-dataset.RasterXSize // width)):
            start = band.GetMetadataItem(f"BLOCK_OFFSET_{col}_{row}", "TIFF")
            count = band.GetMetadataItem(f"BLOCK_SIZE_{col}_{row}", "TIFF")
            end = max(end, int(start or 0) + int(count or 0))
    return f"its blocks end at byte {end}" if end > size else None
