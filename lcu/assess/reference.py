"""Reference rasters: the codes of any categorical raster on the grid of a block."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from osgeo import gdal

from lcu.clock import spending
from lcu.config import Config
from lcu.grid import Block, Grid, Tile

gdal.UseExceptions()

BLOCK = 1024
NO_CODE = -(2**31)
WHOLE = (slice(None), slice(None))


@functools.lru_cache(maxsize=8)
def _open(path: str) -> gdal.Dataset:
    """Open a raster once per rank; the few that are in use stay open."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file {path}")
    dataset = gdal.Open(path)
    if not dataset.GetProjection():
        raise ValueError(f"{path} has no coordinate reference system")
    return dataset


def close_rasters() -> None:
    """Forget the open rasters; a later stage or run may find other files under their names."""
    _open.cache_clear()


@spending("reading")
def read_codes(path: str, grid: Grid) -> np.ndarray:
    """Read the first band of a raster onto `grid` by nearest neighbour.

    Returns int32 [y, x]; -2147483648 outside of the raster and where it is nodata.
    """
    x_min, y_min, x_max, y_max = grid.bounds
    # The exact transformation (errorThreshold 0): GDAL's approximation depends on where a block
    # starts, and the answer must not.
    warped = gdal.Warp(
        "",
        _open(path),
        format="MEM",
        dstSRS=grid.crs,
        outputBounds=(x_min, y_min, x_max, y_max),
        width=grid.width,
        height=grid.height,
        outputType=gdal.GDT_Int32,
        dstNodata=NO_CODE,
        resampleAlg="near",
        errorThreshold=0,
    )
    return warped.GetRasterBand(1).ReadAsArray()


def years_compared(years: Sequence[int], wanted: int | None) -> list[int]:
    """Return the mapped years that a reference is compared with: the named one, or all."""
    return [wanted] if wanted is not None else list(years)


class RasterReference:
    """The reference raster of a configuration.

    Every reference has ``kind``, ``years``, ``units``, ``missing``, ``values`` and ``about``.
    """

    kind = "raster"

    def __init__(self, config: Config):
        self.legend = config.legend
        self.name = config.assess.reference
        self.nomenclature = config.assess.reference_nomenclature
        self.exclude = config.assess.exclude
        self.years = years_compared(config.archive.years, config.assess.reference_year)

    def units(self, tiles: dict[str, Tile]) -> list[tuple[Tile, Block]]:
        """Return the blocks to compare."""
        return [(tile, block) for tile in tiles.values() for block in tile.grid.blocks(BLOCK)]

    def missing(self, tile: Tile, year: int) -> str | None:
        """Return why the reference of a tile and year cannot be read, or None."""
        return unreadable(self.path(tile, year)) or unreadable_mask(self.exclude, tile, year)

    def values(self, tile: Tile, year: int, block: Block) -> tuple[Any, np.ndarray, int]:
        """Read a block.

        Returns
        -------
        index
            What to select from arrays [y, x] of the block: everything.
        ndarray[y, x], uint8
            Class values; 255 where there is none or where the pixel is excluded.
        int
            Pixels that hold any code: 0 means that the raster lies elsewhere.
        """
        codes = read_codes(self.path(tile, year), tile.grid.part(block))
        values = self.legend.reclass(codes, self.nomenclature)
        values[excluded(self.exclude, tile, year, block)] = 255
        return WHOLE, values, int(np.count_nonzero(codes != NO_CODE))

    def about(self) -> dict[str, Any]:
        """Return what the result files say about the reference."""
        return {"kind": self.kind, "file": self.name, "nomenclature": self.nomenclature}

    def nothing(self, tile: Tile, year: int, seen: int) -> str:
        """Say why no pixel of a tile could be compared."""
        path = self.path(tile, year)
        if not seen:
            return f"reference {path} does not overlap the tile"
        return (
            f"reference {path}: none of its {seen} pixels in the tile is left; is its nomenclature "
            f"{self.nomenclature!r}, and does the exclude mask leave any?"
        )

    def path(self, tile: Tile, year: int) -> str:
        """Return the file that holds the reference of a tile and year."""
        return filled(self.name, tile, year)


def filled(name: str, tile: Tile, year: int) -> str:
    """Put the tile and the year into a file name."""
    return name.replace("{tile}", tile.id).replace("{year}", str(year))


def unreadable(path: str) -> str | None:
    """Return why a raster cannot be opened, or None."""
    try:
        _open(path)
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        return text if path in text else f"{path}: {text}"
    return None


def unreadable_mask(name: str, tile: Tile, year: int) -> str | None:
    """Return why the exclude raster cannot be opened; None where it can or where none is named."""
    return unreadable(filled(name, tile, year)) if name else None


def excluded(name: str, tile: Tile, year: int, block: Block) -> np.ndarray:
    """Return the pixels that the exclude raster leaves out: bool [y, x]."""
    if not name:
        return np.zeros((block.height, block.width), dtype=bool)
    codes = read_codes(filled(name, tile, year), tile.grid.part(block))
    return (codes != 0) & (codes != NO_CODE)
