"""Writes tiny SAFE products, with real JP2 files and the metadata that lcu reads, for the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from osgeo import gdal, osr

from lcu import config

gdal.UseExceptions()

SIZE = 128  # pixels of 10 m: 64 of 20 m, and 22 of 60 m, which reach 40 m further
EPSG = 32632
CORNER = (600000.0, 5200020.0)
JP2_TILES = {10: 64, 20: 64, 60: 64}  # side of the tiles of JP2 files, by resolution
RESOLUTIONS = {"B01": 60, "B02": 10, "B04": 10, "B05": 20, "B08": 10, "B11": 20, "SCL": 20}
BANDS_OF_ID = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split()


def side(resolution: int) -> int:
    """Return the pixels along a side of the tile."""
    return -(-SIZE * 10 // resolution)


def numbers(band: str, seed: int = 1) -> np.ndarray:
    """Return digital numbers of a band, uint16 [y, x]; row 0 is without data."""
    generator = np.random.default_rng([seed, *band.encode()])
    shape = (side(RESOLUTIONS[band]),) * 2
    high = 12 if band == "SCL" else 12000
    values = generator.integers(1, high, shape).astype(np.uint8 if band == "SCL" else np.uint16)
    values[0] = 0
    return values


def write_raster(
    path: Path, values: np.ndarray, resolution: int, corner=CORNER, epsg: int = EPSG
) -> None:
    """Write an array [y, x] as lossless JP2 or as GeoTIFF, by the name's ending."""
    kind = gdal.GDT_Byte if values.dtype == np.uint8 else gdal.GDT_UInt16
    memory = gdal.GetDriverByName("MEM").Create("", values.shape[1], values.shape[0], 1, kind)
    memory.SetGeoTransform((corner[0], resolution, 0, corner[1], 0, -resolution))
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(epsg)
    memory.SetProjection(reference.ExportToWkt())
    memory.GetRasterBand(1).WriteArray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jp2":
        tile = JP2_TILES[resolution]
        options = ["QUALITY=100", "REVERSIBLE=YES", "YCBCR420=NO"]
        options += [f"BLOCKXSIZE={tile}", f"BLOCKYSIZE={tile}"]
        gdal.GetDriverByName("JP2OpenJPEG").CreateCopy(str(path), memory, options=options)
    else:
        gdal.GetDriverByName("GTiff").CreateCopy(str(path), memory, options=["COMPRESS=DEFLATE"])


def write_safe(
    folder: Path,
    *,
    day: str = "20180615",
    baseline: str = "02.12",
    offset: int | None = None,
    tile: str = "32TPS",
    level: str = "L2A",
    made: str = "20201007T160857",
    cloud: float = 12.5,
    seed: int = 1,
    corner=CORNER,
    bands=tuple(RESOLUTIONS),
    strip: str = "T101026",
) -> Path:
    """Write one product and return its folder; `offset` None writes no list of offsets."""
    name = f"S2A_MSI{level}_{day}T101021_N{baseline.replace('.', '')}_R022_T{tile}_{made}"
    product = folder / f"{name}.SAFE"
    granule = product / "GRANULE" / f"{level}_T{tile}_A015568_{day}{strip}"
    granule.mkdir(parents=True)
    (product / f"MTD_MSI{level}.xml").write_text(
        product_xml(name, day, baseline, offset, level, made, cloud)
    )
    (granule / "MTD_TL.xml").write_text(granule_xml(day, baseline, tile, level, corner, strip))
    for band in bands:
        if band == "SCL" and level == "L1C":
            continue
        resolution = RESOLUTIONS[band]
        suffix = "" if level == "L1C" else f"_{resolution}m"
        images = (
            granule / "IMG_DATA" if level == "L1C" else granule / "IMG_DATA" / f"R{resolution}m"
        )
        path = images / f"T{tile}_{day}T101021_{band}{suffix}.jp2"
        write_raster(path, numbers(band, seed), resolution, corner)
    return product


def product_xml(name, day, baseline, offset, level, made, cloud) -> str:
    """Return MTD_MSIL2A.xml or MTD_MSIL1C.xml."""
    date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    quantity, shift = ("BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET") if level == "L2A" else (
        "QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET")  # fmt: skip
    offsets = "" if offset is None else "".join(
        f'<{shift} band_id="{index}">{offset}</{shift}>' for index in range(len(BANDS_OF_ID))
    )  # fmt: skip
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>{date}T10:10:21.024Z</PRODUCT_START_TIME><PRODUCT_URI>{name}.SAFE</PRODUCT_URI>
<PROCESSING_LEVEL>Level-{level[1:]}</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<GENERATION_TIME>{made}</GENERATION_TIME>
<Datatake datatakeIdentifier="GS2A_{day}T101021_015568_N{baseline}">
<SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></Datatake></Product_Info><Product_Image_Characteristics><Special_Values><SPECIAL_VALUE_TEXT>NODATA
</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<{quantity} unit="none">10000</{quantity}>{offsets}
</Product_Image_Characteristics></n1:General_Info>
<n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>{cloud}</Cloud_Coverage_Assessment>
</n1:Quality_Indicators_Info></n1:Level-{level[1:]}_User_Product>"""


def granule_xml(day, baseline, tile, level, corner, strip) -> str:
    """Return MTD_TL.xml."""
    sizes = "".join(
        f'<Size resolution="{r}"><NROWS>{side(r)}</NROWS><NCOLS>{side(r)}</NCOLS></Size>'
        f'<Geoposition resolution="{r}"><ULX>{corner[0]:.0f}</ULX><ULY>{corner[1]:.0f}</ULY>'
        f"<XDIM>{r}</XDIM><YDIM>-{r}</YDIM></Geoposition>"
        for r in (10, 20, 60)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Tile_Metadata.xsd"><n1:General_Info>
<TILE_ID>S2A_OPER_MSI_{level}_TL_ESRI_20201007T160858_A015568_T{tile}_N{baseline}</TILE_ID>
<DATASTRIP_ID>S2A_OPER_MSI_{level}_DS_ESRI_20201007T160858_S{day}{strip}_N{baseline}</DATASTRIP_ID>
</n1:General_Info><n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_CODE>EPSG:{EPSG}</HORIZONTAL_CS_CODE>
{sizes}</Tile_Geocoding></n1:Geometric_Info></n1:Tile_ID>"""


def zip_safe(product: Path) -> Path:
    """Replace a product's folder by a zip of it."""
    made = shutil.make_archive(str(product.with_suffix("")), "zip", product.parent, product.name)
    shutil.rmtree(product)
    return Path(made)


def images(product: Path, band: str) -> Path:
    """Return the file of a band."""
    return next(product.rglob(f"*_{band}*.jp2"))


def cut(path: Path, share: float) -> None:
    """Truncate a file to a share of its length."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def configuration(
    folder: Path, archive, *, kind="safe", years=(2018,), bands=("B02", "B05"), mask="scl", **more
) -> config.Config:
    """Return a configuration that reads `archive`; `more` are keys of [archive]."""
    (folder / "old_map.tif").touch()
    paths = [str(path) for path in (archive if isinstance(archive, list | tuple) else [archive])]
    tables = {
        "run": {"directory": "run"},
        "archive": {"kind": kind, "path": paths, "years": list(years), **more},
        "composite": {"bands": list(bands), "mask": mask},
        "sample": {"old_map": "old_map.tif", "old_map_year": 2018},
    }
    return config.build(tables, folder / "config.toml")
