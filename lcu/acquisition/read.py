"""Reads blocks of bands with GDAL; a fault of a file becomes an AcquisitionError that names it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from osgeo import gdal, osr

from lcu.acquisition.alignment import aligned, describe
from lcu.acquisition.model import Acquisition, AcquisitionError, Band, harmonise
from lcu.grid import Block, Grid

# GDAL's own cache of decoded JP2 tiles and TIFF blocks. Its default is 5 % of the machine's memory
# for each rank, which no plan of memory survives.
CACHE_BYTES = 64 * 2**20

# Datasets that stay open, so that blocks which share a JP2 tile decode it once.
OPEN_DATASETS = 16

DRIVERS = ["GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Grok"]

gdal.UseExceptions()
osr.UseExceptions()
gdal.SetCacheMax(CACHE_BYTES)
if gdal.GetConfigOption("GDAL_NUM_THREADS") is None:
    # OpenJPEG would take every core of the node in every rank; and its threads lose the error text.
    gdal.SetConfigOption("GDAL_NUM_THREADS", "1")

_open: OrderedDict[str, gdal.Dataset] = OrderedDict()


def read_band(acquisition: Acquisition, band: str, block: Block, grid: Grid) -> np.ndarray:
    """Read a block of a band on the tile's grid.

    Parameters
    ----------
    block : Block
        Pixels of `grid`.
    grid : Grid
        The tile's grid. Coarser bands are resampled to it by nearest neighbour: each pixel of 20 m
        repeats 2 x 2 times at 10 m, so that no value is invented.

    Returns
    -------
    ndarray [y, x], uint16
        Reflectance x 10000, harmonised over baselines; 0 = nodata.

    Raises
    ------
    AcquisitionError
        When the file is missing, damaged or not on the grid that its metadata state.
    """
    if band not in acquisition.bands:
        raise AcquisitionError(
            f"{acquisition.id}: no band {band}; it has {', '.join(sorted(acquisition.bands))}"
        )
    raster = acquisition.bands[band]
    numbers = _read(acquisition, raster, block, grid)
    return harmonise(numbers, raster.scale, raster.offset, raster.nodata)


def read_mask(acquisition: Acquisition, block: Block, grid: Grid) -> np.ndarray:
    """Read a block of the mask on the tile's grid, by nearest neighbour.

    Returns
    -------
    ndarray [y, x], uint8
        SCL classes; 0 = nodata.
    """
    if acquisition.mask is None:
        raise AcquisitionError(
            f'{acquisition.id}: no SCL; composite.mask = "none" would do without'
        )
    classes = _read(acquisition, acquisition.mask, block, grid)
    if classes.size and (classes.min() < 0 or classes.max() > 255):
        raise AcquisitionError(
            f"{acquisition.mask.path}: SCL up to {classes.max()}, expected 0 to 11"
        )
    return np.where(classes == acquisition.mask.nodata, 0, classes).astype(np.uint8)


def close_all() -> None:
    """Close the datasets that this process keeps open."""
    _open.clear()


def _read(acquisition: Acquisition, band: Band, block: Block, grid: Grid) -> np.ndarray:
    """Read the digital numbers under a block at native resolution; repeat or skip pixels to fit."""
    if (
        block.row < 0
        or block.col < 0
        or block.row + block.height > grid.height
        or block.col + block.width > grid.width
    ):
        raise ValueError(f"{block} is not inside the grid ({describe(grid)})")
    label = f"{acquisition.id} {band.name}: {band.path}"
    if not aligned(band.grid, grid):
        raise AcquisitionError(
            f"{label}: lies on {describe(band.grid)}, its tile on {describe(grid)}"
        )
    rows = _nearest(
        block.row, block.height, -grid.transform[5] / -band.grid.transform[5], band.grid.height
    )
    cols = _nearest(
        block.col, block.width, grid.transform[1] / band.grid.transform[1], band.grid.width
    )
    height, width = int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1
    with _named(label):
        dataset = _dataset(band)
        with _warnings() as said:
            numbers = dataset.GetRasterBand(1).ReadAsArray(
                int(cols[0]), int(rows[0]), width, height
            )
    if said or numbers is None:  # OpenJPEG returns what it could decode of a damaged file and warns
        _open.pop(band.path, None)
        raise AcquisitionError(f"{label}: damaged ({'; '.join(said[:1])}); fetch it again")
    if numbers.shape == (block.height, block.width):
        return numbers
    return numbers[np.ix_(rows - rows[0], cols - cols[0])]


def _nearest(start: int, count: int, ratio: float, limit: int) -> np.ndarray:
    """Return the native pixel under the centre of each pixel of the block, int64 [count]."""
    pixels = np.floor((np.arange(start, start + count) + 0.5) * ratio + 1e-6).astype(np.int64)
    return np.minimum(pixels, limit - 1)


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    """Turn GDAL's exceptions into AcquisitionError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip() or "it cannot be decoded"
        raise AcquisitionError(f"{label}: {reason}; fetch it again") from None


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    said: list[str] = []

    def hear(kind: int, _number: int, text: str) -> None:
        if kind >= gdal.CE_Warning:
            said.append(text.strip())

    gdal.PushErrorHandler(hear)
    try:
        yield said
    finally:
        gdal.PopErrorHandler()


def _dataset(band: Band) -> gdal.Dataset:
    """Return the open dataset of a band, checked against its metadata."""
    if band.path in _open:
        _open.move_to_end(band.path)
        return _open[band.path]
    check_whole(band.path)
    dataset = _opened(band.path)
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


def _opened(path: str) -> gdal.Dataset:
    # No siblings: reading a folder for every file is slow on parallel file systems, and no side-car
    # may change what a product says.
    return gdal.OpenEx(
        path, gdal.OF_RASTER | gdal.OF_READONLY, allowed_drivers=DRIVERS, sibling_files=[]
    )


def grid_of_file(path: str) -> Grid:
    """Return the grid of a raster file."""
    with _named(path):
        return _grid(_opened(path), path)


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
    with _named(path):
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
    dataset = _opened(path)
    band = dataset.GetRasterBand(1)
    width, height = band.GetBlockSize()
    end = 0
    for row in range(-(-dataset.RasterYSize // height)):
        for col in range(-(-dataset.RasterXSize // width)):
            start = band.GetMetadataItem(f"BLOCK_OFFSET_{col}_{row}", "TIFF")
            count = band.GetMetadataItem(f"BLOCK_SIZE_{col}_{row}", "TIFF")
            end = max(end, int(start or 0) + int(count or 0))
    return f"its blocks end at byte {end}" if end > size else None
