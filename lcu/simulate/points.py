# ruff: noqa: E501  (the header is as long as it is)
"""Reference points as the LUCAS survey delivers them (the CSV of 2018). Pure but for coordinates.

Most points are seen from nearby and right. Some are judged in an office, from photographs, and some
from afar: those carry mistakes, as the real ones do, so a user has a reason to filter them.
"""

from __future__ import annotations

import csv
import io

import numpy as np

from lcu import projection
from lcu.grid import Tile
from lcu.simulate import ground as landscape
from lcu.simulate import noise
from lcu.simulate import parameters as p

_POINTS = 600
# The full header of 2018 in its order, and what a row holds where nothing is known: texts in quotes.
_COLUMNS = """
POINT_ID=0 NUTS0="XX" NUTS1="XX0" NUTS2="XX00" NUTS3="XX000" TH_LAT=0 TH_LONG=0 OFFICE_PI="0" EX_ANTE="0"
SURVEY_DATE="" CAR_LATITUDE=88.888888 CAR_EW="8" CAR_LONGITUDE=88.888888 GPS_PROJ="8" GPS_PREC=8888
GPS_ALTITUDE=8888 GPS_LAT=88.888888 GPS_EW="8" GPS_LONG=88.888888 OBS_DIST= OBS_DIRECT="1" OBS_TYPE="1" LC1="8"
LC1_SPEC="8" LC1_PERC=100 LC2="8" LC2_SPEC="8" LC2_PERC=0 LU1="8" LU1_TYPE="8" LU1_PERC=100 LU2="8"
LU2_TYPE="8" LU2_PERC=0 PARCEL_AREA_HA="4" TREE_HEIGHT_SURVEY="8" TREE_HEIGHT_MATURITY="8" FEATURE_WIDTH="8"
LNDMNG_PLOUGH="8" LM_PLOUGH_SLOPE="8" LM_PLOUGH_DIRECT="8" LM_STONE_WALLS="8" CROP_RESIDUES=8
LM_GRASS_MARGINS="8" GRAZING="8" SPECIAL_STATUS="4" LC_LU_SPECIAL_REMARK="10" CPRN_CANDO=8 CPRN_LC="8"
CPRN_LC1N="88" CPRNC_LC1E="88" CPRNC_LC1S="88" CPRNC_LC1W="88" CPRN_LC1N_BRDTH=888 CPRN_LC1E_BRDTH=888
CPRN_LC1S_BRDTH=888 CPRN_LC1W_BRDTH=888 CPRN_LC1N_NEXT="8" CPRN_LC1E_NEXT="8" CPRN_LC1S_NEXT="8"
CPRN_LC1W_NEXT="8" CPRN_URBAN="1" CPRN_IMPERVIOUS_PERC=888 INSPIRE_PLCC1=888 INSPIRE_PLCC2=888
INSPIRE_PLCC3=888 INSPIRE_PLCC4=888 INSPIRE_PLCC5=888 INSPIRE_PLCC6=888 INSPIRE_PLCC7=888 INSPIRE_PLCC8=888
EUNIS_COMPLEX="88" GRASSLAND_SAMPLE="0" GRASS_CANDO=8 WM="8" WM_SOURCE="8" WM_TYPE="8" WM_DELIVERY="8"
EROSION_CANDO=8 SOIL_STONES_PERC=888 BIO_SAMPLE="0" SOIL_BIO_TAKEN="8" BULK0_10_SAMPLE="0"
SOIL_BLK_0_10_TAKEN="8" BULK10_20_SAMPLE="0" SOIL_BLK_10_20_TAKEN="8" BULK20_30_SAMPLE="0"
SOIL_BLK_20_30_TAKEN="8" STANDARD_SAMPLE="0" SOIL_STD_TAKEN="8" ORGANIC_SAMPLE="0" SOIL_ORG_DEPTH_CANDO=8
PHOTO_POINT=2 PHOTO_NORTH=2 PHOTO_EAST=2 PHOTO_SOUTH=2 PHOTO_WEST=2
"""


def _defaults() -> dict[str, str | float | None]:
    found: dict[str, str | float | None] = {}
    for entry in _COLUMNS.split():
        name, _, value = entry.partition("=")
        found[name] = (
            value.strip('"')
            if '"' in value
            else (float(value) if "." in value else int(value or -1))
        )
    return found | {"OBS_DIST": ""}


HEADER = list(_defaults())


def survey(
    tile: Tile, index: int, count: int, year: int, ground: str, world: landscape.World
) -> list[dict]:
    """Visit `count` points of a tile in one year; each row is column -> value.

    Parameters
    ----------
    index : int
        Which tile, part of the points' ids.
    """
    if not count:
        return []
    stream = noise.generator(world.seed, _POINTS, index)
    west, south, east, north = tile.grid.bounds
    x, y = (
        west + (east - west) * stream.random(count),
        south + (north - south) * stream.random(count),
    )
    subtype = _subtype(x, y, tile, ground, year, world)
    aside = _subtype(x, y + 40.0, tile, ground, year, world)
    longitude, latitude = projection.transform(x, y, tile.grid.crs, "EPSG:4326")
    rows = []
    for point in range(count):
        row = _defaults() | {"POINT_ID": 90_000_000 + 100_000 * index + point}
        row |= {
            "TH_LAT": round(float(latitude[point]), 9),
            "TH_LONG": round(float(longitude[point]), 9),
        }
        chance = stream.random(8)
        row |= _how(row, year, chance)
        row |= _cover(row, int(subtype[point]), int(aside[point]), chance)
        rows.append(row)
    return rows


def _subtype(
    x: np.ndarray, y: np.ndarray, tile: Tile, ground: str, year: int, world: landscape.World
) -> np.ndarray:
    """Return the sub-type of the pixels that hold some points, uint8 [point]."""
    west, step, _, north, _, _ = tile.grid.transform
    x = west + (np.floor((x - west) / step) + 0.5) * step
    y = north - (np.floor((north - y) / step) + 0.5) * step
    if tile.grid.crs != ground:
        x, y = projection.transform(x, y, tile.grid.crs, ground)
    return landscape.cover(landscape.place(x, y, world.seed), year, world).subtype


def _how(row: dict, year: int, chance: np.ndarray) -> dict:
    """Return how the point was seen: in an office, from afar, or (most) on the spot."""
    day, month = 1 + int(28 * chance[0]), 5 + int(4 * chance[1])
    seen = {"SURVEY_DATE": f"{day:02}/{month:02}/{year % 100:02}"}
    if chance[2] < p.POINTS_IN_OFFICE:
        return seen | {"OFFICE_PI": "1", "OBS_TYPE": "7"}
    far = chance[2] < p.POINTS_IN_OFFICE + p.POINTS_OFF
    distance = int(100 + 200 * chance[3]) if far else int(12 * chance[3])
    # A degree of latitude is 111 km; the surveyor stands south of the point.
    seen |= {"OBS_TYPE": "2" if far else "1", "OBS_DIST": distance, "GPS_PROJ": "1", "GPS_PREC": 4}
    seen |= {"GPS_LAT": round(row["TH_LAT"] - distance / 111_000, 6), "GPS_ALTITUDE": 400}
    seen |= {
        "GPS_EW": "1" if row["TH_LONG"] >= 0 else "2",
        "GPS_LONG": round(abs(row["TH_LONG"]), 6),
    }
    looks_north = not far and chance[4] < p.POINTS_OFF
    return seen | {"OBS_DIRECT": "2" if looks_north else "1", "PHOTO_POINT": 1}


def _cover(row: dict, subtype: int, aside: int, chance: np.ndarray) -> dict:
    """Return the land cover that was written down, in LUCAS codes."""
    if row["OBS_DIRECT"] == "2":
        subtype = aside
    elif row["OBS_TYPE"] != "1" and chance[5] < 0.15:
        subtype = int(chance[6] * len(p.SUBTYPES))
    kind = p.SUBTYPES[subtype]
    farmed = kind.lc1.startswith("B")
    return {
        "LC1": kind.lc1,
        "LU1": kind.lu1,
        "LC1_PERC": 100 if chance[6] < 0.7 else 50 + int(50 * chance[7]),
        "PARCEL_AREA_HA": "2" if chance[7] < 0.1 else "4",
        "WM": ("1" if kind.irrigated else "5") if farmed else "8",
    }


def to_csv(rows: list[dict]) -> str:
    """Return the file's contents: texts in quotes, numbers not, as the survey writes them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
