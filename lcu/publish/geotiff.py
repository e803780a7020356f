"""One Cloud-Optimised GeoTIFF: written block by block, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from osgeo import gdal, gdal_array, osr

from lcu.acquisition import AcquisitionError, check_whole
from lcu.clock import spending
from lcu.disk import check_dense, sync, workshop
from lcu.grid import Block, Grid
from lcu.legend import NODATA, OUTSIDE, UNCHANGED, UNKNOWN, Legend

gdal.UseExceptions()

# Blocks that are written at once: a multiple of the file's own blocks, so that each of those is
# compressed once.
BLOCK = 1024
TIFF_BLOCK = 512
LARGEST_PROBABILITY = 250
LARGEST_CONFIDENCE = 100
OUTSIDE_COLOUR = (211, 211, 211)


@dataclass(frozen=True)
class Layer:
    """What a product holds.

    Attributes
    ----------
    nodata : int or None
        Value that says "nothing here".
    largest : int or None
        Values above it become nodata, so that no overview averages a mark with measurements.
    overview : str
        How GDAL makes a coarser pixel out of finer ones.
    scale : float or None
        What a value is multiplied with.
    """

    description: str
    nodata: int | None
    largest: int | None
    overview: str
    scale: float | None = None


LAYERS = {
    "MAP": Layer("land cover", NODATA, None, "MODE"),
    "CONF": Layer("confidence: 100 x (p1 - p2)", NODATA, LARGEST_CONFIDENCE, "AVERAGE"),
    "NOBS": Layer("clear observations in the year", None, None, "NEAREST"),
    "PROB": Layer(
        "probability", NODATA, LARGEST_PROBABILITY, "AVERAGE", 1 / LARGEST_PROBABILITY
    ),
}  # fmt: skip

# What consistent maps have besides: what the year alone would have said where that was altered, and the change since
# the year before (three bands).
CONSISTENT = {
    "POST": Layer("class before the choice over years, where it was altered", NODATA, None, "MODE"),
    "CHG": Layer("change", NODATA, None, "NEAREST"),
}
CHANGE_BANDS = (
    "class before, where it changed", "class after, where it changed", "probability of change x 250",
)  # fmt: skip
UNCHANGED_COLOUR = (245, 245, 245)
# What POST holds beside classes: value, name, colour.
ALTERED = (
    (UNKNOWN, "nothing observed in the year", (0, 0, 0)), (UNCHANGED, "not altered", UNCHANGED_COLOUR),
)  # fmt: skip


def epsg_code(grid: Grid) -> str:
    """Return the EPSG code of a grid in five digits, or ``local`` where its CRS has none."""
    authority, _, code = grid.crs.partition(":")
    return code.zfill(5) if authority.upper() == "EPSG" and code.isdigit() else "local"


def product_name(
    layer: str, year: int, grid: Grid, tile: str, version: int, since: int | None = None
) -> str:
    """Return the file name of a product, such as LCU_LC_MAP_S2019_R10m_31UFT_32631_V01.tif.

    Of a change `since` a year: LCU_LC_CHG_2018-2019_R10m_31UFT_32631_V01.tif.
    """
    when = f"S{year}" if since is None else f"{since}-{year}"
    resolution = f"R{grid.resolution:g}m"
    return f"LCU_LC_{layer}_{when}_{resolution}_{tile}_{epsg_code(grid)}_V{version:02d}.tif"


@spending("writing")
def write_product(
    path: Path,
    layer: str,
    grid: Grid,
    read: Callable[[Block], np.ndarray],
    legend: Legend,
    tags: Mapping[str, str],
) -> None:
    """Write one product.

    Parameters
    ----------
    layer : str
        A key of `LAYERS` or `CONSISTENT`.
    read : callable Block -> ndarray[y, x] or ndarray[band, y, x]
        Values of a block; uint8 or uint16, the same for all blocks. Bands are the legend's classes, or
        `CHANGE_BANDS`.
    tags : mapping
        Metadata of the file.

    Notes
    -----
    A Cloud-Optimised GeoTIFF has its overviews in front of its pixels, so it cannot be written in
    one go: a plain file is written block by block, and GDAL makes the other out of it. Both lie in
    a hidden folder until the second is whole. GDAL keeps names of classes and the attribute table
    in ``.aux.xml`` only; the names are in the file's own metadata as well, for those who copy it without its companion.
    """
    with workshop(path) as folder:
        plain = _write_plain(folder / "plain.tif", layer, grid, read, legend, tags)
        _write_optimised(folder / "whole.tif", plain, about_layer(layer))
        check_dense(folder / "whole.tif")
        # The companion first: a product that is there is there with its names.
        for suffix in (".aux.xml", ""):
            made = folder / f"whole.tif{suffix}"
            if made.exists():
                sync(made)
                os.replace(made, path.with_name(path.name + suffix))


def is_published(path: Path, fingerprint: str) -> bool:
    """Tell whether a whole product that was made from the same things is there."""
    if not path.exists():
        return False
    try:
        check_whole(str(path))
        return gdal.Open(str(path)).GetMetadataItem("LCU_FINGERPRINT") == fingerprint
    except (RuntimeError, AcquisitionError):
        return False


def _write_plain(
    path: Path,
    layer: str,
    grid: Grid,
    read: Callable[[Block], np.ndarray],
    legend: Legend,
    tags: Mapping[str, str],
) -> gdal.Dataset:
    dataset = None
    for block in grid.blocks(BLOCK):
        values = _clean(np.asarray(read(block)), about_layer(layer))
        if values.shape[1:] != (block.height, block.width):
            raise ValueError(f"{layer}: block {block} came with shape {values.shape}")
        if dataset is None:
            dataset = create_plain(path, grid, len(values), values.dtype)
            _describe(dataset, layer, legend, tags)
        dataset.WriteArray(values, block.col, block.row)
    dataset.FlushCache()
    return dataset


def _clean(values: np.ndarray, layer: Layer) -> np.ndarray:
    """Return values as [band, y, x], with marks above the largest value as nodata."""
    values = values[None] if values.ndim == 2 else values
    if layer.largest is None:
        return values
    return np.where(values > layer.largest, values.dtype.type(layer.nodata), values)


def create_plain(path: Path, grid: Grid, bands: int, dtype: np.dtype) -> gdal.Dataset:
    """Create a tiled GeoTIFF on a grid, to be written block by block."""
    options = ["TILED=YES", f"BLOCKXSIZE={TIFF_BLOCK}", f"BLOCKYSIZE={TIFF_BLOCK}", "COMPRESS=LZW"]
    options.append("BIGTIFF=IF_SAFER")
    kind = gdal_array.NumericTypeCodeToGDALTypeCode(dtype)
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(str(path), grid.width, grid.height, bands, kind, options)
    system = osr.SpatialReference()
    system.SetFromUserInput(grid.crs)
    dataset.SetSpatialRef(system)
    dataset.SetGeoTransform(grid.transform)
    return dataset


def _describe(dataset: gdal.Dataset, layer: str, legend: Legend, tags: Mapping[str, str]) -> None:
    """Give a new file its names, colours, nodata and metadata."""
    about = about_layer(layer)
    dataset.SetMetadata({"LCU_LAYER": layer, **tags})
    for number in range(1, dataset.RasterCount + 1):
        band = dataset.GetRasterBand(number)
        names = CHANGE_BANDS if layer == "CHG" else legend.names
        several = dataset.RasterCount > 1
        band.SetDescription(names[number - 1] if several else about.description)
        if about.nodata is not None:
            band.SetNoDataValue(about.nodata)
        if about.scale is not None:
            band.SetScale(about.scale)
            band.SetOffset(0)
    if layer in ("MAP", "POST"):
        band.SetColorTable(_colours(legend, layer))
        band.SetCategoryNames(_names(legend, layer))
        band.SetDefaultRAT(_attributes(legend, layer))
        band.SetMetadata({f"CLASS_{entry.value}": entry.name for entry in legend.classes})


def about_layer(layer: str) -> Layer:
    """Return how a layer is stored."""
    return LAYERS[layer] if layer in LAYERS else CONSISTENT[layer]


def _colours(legend: Legend, layer: str) -> gdal.ColorTable:
    table = gdal.ColorTable()
    table.SetColorEntry(OUTSIDE, (*OUTSIDE_COLOUR, 255))
    table.SetColorEntry(NODATA, (255, 255, 255, 0))
    if layer == "POST":
        for value, _, colour in ALTERED:
            table.SetColorEntry(value, (*colour, 255))
    for entry in legend.classes:
        table.SetColorEntry(entry.value, (*entry.rgb, 255))
    return table


def _names(legend: Legend, layer: str) -> list[str]:
    """Return a name for each value 0..255; empty where a value means nothing."""
    names = [""] * (NODATA + 1)
    names[OUTSIDE], names[NODATA] = "outside", "no data"
    if layer == "POST":
        for value, name, _ in ALTERED:
            names[value] = name
    for entry in legend.classes:
        names[entry.value] = entry.name
    return names


def _attributes(legend: Legend, layer: str) -> gdal.RasterAttributeTable:
    """Return value, name and colour of each class as a table, which ArcGIS and QGIS read."""
    columns = (
        ("Value", gdal.GFT_Integer, gdal.GFU_MinMax), ("Class", gdal.GFT_String, gdal.GFU_Name),
        ("Red", gdal.GFT_Integer, gdal.GFU_Red), ("Green", gdal.GFT_Integer, gdal.GFU_Green),
        ("Blue", gdal.GFT_Integer, gdal.GFU_Blue),
    )  # fmt: skip
    table = gdal.RasterAttributeTable()
    table.SetTableType(gdal.GRTT_THEMATIC)
    for name, kind, usage in columns:
        table.CreateColumn(name, kind, usage)
    rows = [(entry.value, entry.name, *entry.rgb) for entry in legend.classes]
    rows += [(OUTSIDE, "outside", *OUTSIDE_COLOUR)]
    if layer == "POST":
        rows += [(value, name, *colour) for value, name, colour in ALTERED]
    table.SetRowCount(len(rows))
    for number, row in enumerate(rows):
        for column, value in enumerate(row):
            if isinstance(value, str):
                table.SetValueAsString(number, column, value)
            else:
                table.SetValueAsInt(number, column, value)
    return table


def _write_optimised(path: Path, plain: gdal.Dataset, layer: Layer) -> None:
    options = [
        "COMPRESS=DEFLATE",
        # Measured on class values and on probabilities: differences of neighbours save a tenth at
        # most and take twice the time.
        "PREDICTOR=NO",
        f"BLOCKSIZE={TIFF_BLOCK}",
        f"OVERVIEW_RESAMPLING={layer.overview}",
        "OVERVIEW_COMPRESS=DEFLATE",
        "BIGTIFF=IF_SAFER",
    ]
    copy = gdal.GetDriverByName("COG").CreateCopy(str(path), plain, options=options)
    # Flushing does not finish a GeoTIFF; closing does, and closing raises nothing. What is written
    # last is read again, for a full disk shows there.
    del copy
    written = gdal.Open(str(path))
    band = written.GetRasterBand(written.RasterCount)
    band.ReadAsArray(written.RasterXSize - 1, written.RasterYSize - 1, 1, 1)


def read_blocks(
    path: Path, grid: Grid, size: int, number: int = 1
) -> Iterable[tuple[Block, np.ndarray]]:
    """Yield the blocks of one band of a product: uint8 [y, x]."""
    dataset = gdal.Open(str(path))
    band = dataset.GetRasterBand(number)
    for block in grid.blocks(size):
        yield block, band.ReadAsArray(block.col, block.row, block.width, block.height)
