"""Writing: SAFE products, truth and old map. Each is written under another name, then renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from osgeo import gdal, osr

from lcu.grid import Grid, Tile
from lcu.simulate import metadata, sensor
from lcu.simulate.ground import World
from lcu.simulate.sky import Visit

gdal.UseExceptions()
osr.UseExceptions()

# ESA's own tile sizes inside the JP2 files, pixels.
_JP2_TILE = {10: 1024, 20: 640, 60: 192}


def write_product(folder: Path, tile: Tile, visit: Visit, ground: str, world: World) -> Path:
    """Write one acquisition as a SAFE folder, unless it is there; return where."""
    names = metadata.Names(visit)
    final = folder / names.product
    if final.exists():
        return final
    partial = folder / f".{names.product}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    arrays = _assemble(tile, visit, ground, world)
    for band, path in names.images.items():
        resolution = sensor.RESOLUTION.get(band, 20)
        file = partial / f"{path}.jp2"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_jp2(file, arrays[band], _at(tile.grid, resolution), resolution)
    _write_metadata(partial, tile.grid, visit, arrays["SCL"])
    os.rename(partial, final)
    return final


def _assemble(tile: Tile, visit: Visit, ground: str, world: World) -> dict[str, np.ndarray]:
    """Return every band (and SCL) of an acquisition, [y, x] at its own resolution."""
    sizes = {band: _at(tile.grid, resolution) for band, resolution in sensor.RESOLUTION.items()}
    arrays = {
        band: np.zeros((grid.height, grid.width), dtype=np.uint16) for band, grid in sizes.items()
    }
    arrays["SCL"] = np.zeros(arrays["B11"].shape, dtype=np.uint8)
    for block in sensor.blocks(tile):
        shot = sensor.shoot(tile, block, visit, ground, world)
        for band, values in {**shot.bands, "SCL": shot.scl}.items():
            n = sensor.RESOLUTION.get(band, 20) // 10
            row, col = block.row // n, block.col // n
            arrays[band][row : row + values.shape[0], col : col + values.shape[1]] = values
    return arrays


def _at(grid: Grid, resolution: int) -> Grid:
    """Return the grid of another resolution; its last pixels may reach beyond the tile."""
    west, _, _, north, _, _ = grid.transform
    rows, cols = (-(-side * 10 // resolution) for side in (grid.height, grid.width))
    return Grid(
        grid.crs, (west, float(resolution), 0.0, north, 0.0, -float(resolution)), rows, cols
    )


def _write_metadata(product: Path, grid: Grid, visit: Visit, scl: np.ndarray) -> None:
    names, percent = metadata.Names(visit), metadata.shares(scl)
    (product / "MTD_MSIL2A.xml").write_text(metadata.product_xml(visit, percent), encoding="utf-8")
    granule = product / "GRANULE" / names.granule / "MTD_TL.xml"
    granule.write_text(metadata.granule_xml(visit, grid, percent), encoding="utf-8")
    files = [path for path in sorted(product.rglob("*")) if path.is_file()]
    listed = [(path.relative_to(product).as_posix(), *_size_and_sum(path)) for path in files]
    (product / "manifest.safe").write_text(metadata.manifest(listed), encoding="utf-8")


def _size_and_sum(file: Path) -> tuple[int, str]:
    with file.open("rb") as opened:
        return file.stat().st_size, hashlib.file_digest(opened, hashlib.md5).hexdigest()


def _in_memory(array: np.ndarray, grid: Grid) -> gdal.Dataset:
    kind = gdal.GDT_UInt16 if array.dtype == np.uint16 else gdal.GDT_Byte
    dataset = gdal.GetDriverByName("MEM").Create("", grid.width, grid.height, 1, kind)
    dataset.SetGeoTransform(grid.transform)
    dataset.SetProjection(wkt(grid.crs))
    dataset.GetRasterBand(1).WriteArray(array)
    return dataset


def wkt(crs: str) -> str:
    """Return the WKT of a CRS."""
    system = osr.SpatialReference()
    system.SetFromUserInput(crs)
    return system.ExportToWkt()


def write_jp2(file: Path, array: np.ndarray, grid: Grid, resolution: int) -> None:
    """Write a band, uint16 (15 bits) or uint8 [y, x], losslessly, in tiles as ESA's."""
    side = _JP2_TILE[resolution]
    options = ["REVERSIBLE=YES", "QUALITY=100", f"BLOCKXSIZE={side}", f"BLOCKYSIZE={side}"]
    options.append("NBITS=15" if array.dtype == np.uint16 else "NBITS=8")
    driver = gdal.GetDriverByName("JP2OpenJPEG")
    # Assigning None closes the file; GDAL before 3.8 knows no other way.
    written = driver.CreateCopy(os.fspath(file), _in_memory(array, grid), options=options)
    written = None  # noqa: F841


def write_tiff(file: Path, array: np.ndarray, grid: Grid, nodata: int | None) -> None:
    """Write a raster, uint8 or uint16 [y, x], as a compressed GeoTIFF that says it is synthetic."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    dataset = _in_memory(array, grid)
    dataset.SetMetadataItem("SYNTHETIC", "YES")
    if nodata is not None:
        dataset.GetRasterBand(1).SetNoDataValue(nodata)
    options = ["COMPRESS=DEFLATE", "TILED=YES", "BIGTIFF=IF_SAFER"]
    written = gdal.GetDriverByName("GTiff").CreateCopy(os.fspath(partial), dataset, options=options)
    written = None  # noqa: F841
    os.replace(partial, file)


def write_truth(
    files: dict[tuple[int, str], Path],
    tile: Tile,
    years: Sequence[int],
    ground: str,
    world: World,
    values: np.ndarray,
) -> None:
    """Write class, sub-type and "mixed" of a tile for all years, unless they are there.

    Parameters
    ----------
    files : dict
        (year, "class" | "subtype" | "mixed") -> where.
    values : ndarray[subtype], uint8
        Class value of each sub-type in the legend of the run.
    """
    for year in years:
        if all(files[year, name].exists() for name in ("class", "subtype", "mixed")):
            continue
        subtype, mixed = (
            np.empty((tile.grid.height, tile.grid.width), dtype=np.uint8) for _ in range(2)
        )
        for block in sensor.blocks(tile):
            subtype[block.slices], mixed[block.slices] = sensor.truth(
                tile, block, year, ground, world
            )
        write_tiff(files[year, "subtype"], subtype, tile.grid, None)
        write_tiff(files[year, "mixed"], mixed, tile.grid, None)
        write_tiff(files[year, "class"], values[subtype], tile.grid, 255)


def write_text(file: Path, text: str) -> None:
    """Write a text file under another name, then rename it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
