"""Where the tiles of a simulation lie.

The ground is a plane: the UTM zone of the first tile. Tiles of the neighbouring zone look at the
same ground through the transformation between the zones.
"""

from __future__ import annotations

import math
import re

import numpy as np

from lcu.config import Simulate
from lcu.grid import Grid, Tile
from lcu.projection import transform

_COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")  # by zone modulo 3
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_BANDS = "CDEFGHJKLMNPQRSTUVWX"


def tiles(simulate: Simulate) -> list[Tile]:
    """Return the tiles, from west to east; the first begins where MGRS has its corner."""
    first = simulate.tiles[0]
    ground, west, north = origin(first)
    step = (simulate.size - simulate.overlap) * 10
    found = []
    for index, name in enumerate(simulate.tiles):
        crs, corner = ground, (west + index * step, north)
        if simulate.zones == "two" and index >= (len(simulate.tiles) + 1) // 2:
            crs = f"EPSG:{int(ground[5:]) + 1}"
            corner = _corner_elsewhere(ground, crs, corner, simulate.size)
        transform = (float(corner[0]), 10.0, 0.0, float(corner[1]), 0.0, -10.0)
        found.append(Tile(name, Grid(crs, transform, simulate.size, simulate.size)))
    return found


def origin(name: str) -> tuple[str, int, int]:
    """Return CRS, x and y in metres of the upper left corner of an MGRS tile as ESA cuts it.

    Raises
    ------
    ValueError
        Where `name` is no MGRS id of a 100 km square, such as 32TPS.
    """
    found = re.fullmatch(r"(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", name)
    if found is None or not 1 <= int(found[1]) <= 60 or found[3] not in _COLUMNS[int(found[1]) % 3]:
        raise ValueError(f"simulate.tiles: {name!r} is no MGRS tile such as 32TPS")
    zone, band = int(found[1]), _BANDS.index(found[2])
    east = 100_000 * (_COLUMNS[zone % 3].index(found[3]) + 1)
    row = (_ROWS.index(found[4]) - (5 if zone % 2 == 0 else 0)) % 20
    north = 100_000 * row
    # Rows repeat every 2000 km; the band tells which of them is meant.
    lowest = (8 * band - 80) * 110_574 + (0 if band >= 10 else 10_000_000) - 100_000
    north += 2_000_000 * max(0, math.ceil((lowest - north) / 2_000_000))
    crs = f"EPSG:{(32600 if band >= 10 else 32700) + zone}"
    # ESA's corners are multiples of 60 m from the equator, outside the 100 km square.
    equator = 0 if band >= 10 else 10_000_000
    return crs, east // 60 * 60, equator - (equator - north - 100_000) // 60 * 60


def _corner_elsewhere(ground: str, crs: str, corner: tuple[int, int], size: int) -> tuple[int, int]:
    """Return the corner, in `crs`, of a tile with the same centre: a multiple of 60 m."""
    half = size * 5
    x, y = transform(np.array([corner[0] + half]), np.array([corner[1] - half]), ground, crs)
    return round((x[0] - half) / 60) * 60, round((y[0] + half) / 60) * 60
