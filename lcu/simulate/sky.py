"""When the satellite comes and what lies between it and the ground: dates, clouds, snow. Pure.

Clouds and snow are functions of ground coordinates and of the date, so that neighbouring tiles of
one datatake show the same sky.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from lcu import projection
from lcu.grid import Block, Grid, Tile
from lcu.simulate import noise
from lcu.simulate import parameters as p

(_DATES, _COVER, _CLOUDS, _VEIL, _SNOW, _SNOW_LINE, _SWATH, _WET) = range(300, 308)
_LATITUDE = 46.5  # of the sun over the simulated country, degrees
_ORBITS = (22, 65)


class Visit(NamedTuple):
    """One acquisition of one tile.

    start : time of the datatake, UTC
    orbit : relative orbit; the swath edge of the second crosses the tiles
    edge : ground x and y in metres of a point of the swath's edge; None where it covers everything
    new : whether it is written in the new baseline (with offset)
    """

    tile: str
    start: datetime
    orbit: int
    spacecraft: str
    edge: tuple[float, float] | None
    new: bool

    @property
    def day(self) -> int:
        """Ordinal of the day (never negative): key of everything random about the sky."""
        return self.start.toordinal()

    @property
    def day_of_year(self) -> int:
        """1..366."""
        return self.start.timetuple().tm_yday


class Extent(NamedTuple):
    """Ground x of the western and the eastern end of all tiles, and y of their middle, metres."""

    west: float
    east: float
    middle: float


class Sky(NamedTuple):
    """What hides the ground, float32 [y, x] in 0..1; `seen` bool: inside the swath."""

    cloud: np.ndarray
    shadow: np.ndarray
    veil: np.ndarray
    snow: np.ndarray
    seen: np.ndarray


def visits(
    tile: Tile, index: int, year: int, ground: str, extent: Extent, seed: int
) -> list[Visit]:
    """Return the acquisitions of a tile in a calendar year, in time.

    Parameters
    ----------
    index : int
        Which tile; tiles of one datatake differ in which of the dates were kept.
    extent : Extent
        Of all tiles; the swath edge crosses it.
    """
    stream = noise.generator(seed, _DATES, index, year)
    fewest, most = p.ACQUISITIONS
    count = int(stream.integers(fewest, most + 1))
    candidates = _passes(tile.id, year, extent, seed)
    usable = [visit for visit in candidates if _covers(visit, tile.grid, ground)]
    weight = np.array(
        [p.SWATH_SHARE if visit.orbit == _ORBITS[1] else 1 - p.SWATH_SHARE for visit in usable]
    )
    chosen = stream.choice(
        len(usable), min(count, len(usable)), replace=False, p=weight / weight.sum()
    )
    return [usable[i] for i in sorted(chosen)]


def _passes(tile: str, year: int, extent: Extent, seed: int) -> list[Visit]:
    """Return every pass of both orbits in a year: each every fifth day, by A and B in turn."""
    found = []
    for which, orbit in enumerate(_ORBITS):
        phase = int(5 * noise.uniform(seed, _DATES)) + 2 * which
        first = date(year, 1, 1)
        first += timedelta(days=(phase - first.toordinal()) % 5)
        for offset in range(0, (date(year, 12, 31) - first).days + 1, 5):
            found.append(_pass(tile, first + timedelta(days=offset), orbit, extent, seed))
    return sorted(found, key=lambda visit: visit.start)


def _pass(tile: str, when: date, orbit: int, extent: Extent, seed: int) -> Visit:
    number = when.toordinal()
    seconds = int(120 * noise.uniform(seed, _DATES, number, orbit))
    start = datetime(when.year, when.month, when.day, 10, 14 if orbit == _ORBITS[0] else 4, 1)
    wobble = 0.04 * float(noise.normal(seed, _SWATH, number))
    middle = 0.3 + 0.4 * float(noise.uniform(seed, _SWATH))
    x = extent.west + (extent.east - extent.west) * (middle + wobble)
    edge = (x, extent.middle) if orbit == _ORBITS[1] else None
    new = bool(noise.uniform(seed, _DATES, number, 2) < p.NEW_BASELINE_SHARE)
    return Visit(
        tile, start + timedelta(seconds=seconds), orbit, "AB"[(number // 5) % 2], edge, new
    )


def _covers(visit: Visit, grid: Grid, ground: str) -> bool:
    """Tell whether the swath holds at least a tenth of the tile: less is not worth a product."""
    step = max(1, grid.height // 8)
    coarse = Grid(
        grid.crs, (grid.transform[0], 10.0 * step, 0, grid.transform[3], 0, -10.0 * step), 8, 8
    )
    return bool(
        in_swath(*projection.coordinates(coarse, coarse.whole, ground), visit.edge).mean() >= 0.1
    )


def in_swath(x: np.ndarray, y: np.ndarray, edge: tuple[float, float] | None) -> np.ndarray:
    """Tell which points the swath covers: those west of a line that leans as a descending orbit."""
    if edge is None:
        return np.ones(x.shape, dtype=bool)
    return x - edge[0] < 0.21 * (y - edge[1])


def sun(day_of_year: int) -> tuple[float, float]:
    """Return zenith and azimuth of the sun at the time of the pass, degrees."""
    declination = -23.4 * np.cos(2 * np.pi * (day_of_year + 10) / 365)
    return float(_LATITUDE - declination + 3.0), float(162.0 - 0.35 * declination)


def sky(x: np.ndarray, y: np.ndarray, height: np.ndarray, visit: Visit, seed: int) -> Sky:
    """Compute clouds, their shadows, thin cloud and snow at ground coordinates, metres [y, x]."""
    cover, top = _weather(visit, seed)
    zenith, azimuth = np.radians(sun(visit.day_of_year))
    reach = top * np.tan(zenith)
    cloud = _clouds(x, y, cover, visit.day, seed)
    # A shadow falls away from the sun: what shades this place stands towards the sun.
    shadow = _clouds(
        x + reach * np.sin(azimuth), y + reach * np.cos(azimuth), cover, visit.day, seed
    )
    parts = cloud, shadow, _veil(x, y, visit.day, seed), _snow(x, y, height, visit, seed)
    return Sky(*(part.astype(np.float32) for part in parts), in_swath(x, y, visit.edge))


def _weather(visit: Visit, seed: int) -> tuple[float, float]:
    """Return cloud cover 0..1 and cloud height in metres of a date."""
    stream = noise.generator(seed, _COVER, visit.day)
    winter = np.cos(2 * np.pi * (visit.day_of_year - 10) / 365)
    cover = stream.beta(0.75, 1.3 - 0.25 * winter) if stream.random() < p.CLOUD_DAYS else 0.0
    low, high = p.CLOUD_HEIGHT
    return float(cover), float(low + (high - low) * stream.random())


def _clouds(x: np.ndarray, y: np.ndarray, cover: float, day: int, seed: int) -> np.ndarray:
    """Return the opacity of clouds that cover the share `cover`, float64 0..1."""
    if cover < 0.01:
        return np.zeros(x.shape)
    density = noise.fractal(x, y, p.CLOUD_SCALE, 5, seed, _CLOUDS, day)
    return np.clip((density - ndtri(1 - min(cover, 0.995))) / p.CLOUD_SOFTNESS + 0.5, 0, 1)


def _veil(x: np.ndarray, y: np.ndarray, day: int, seed: int) -> np.ndarray:
    """Return the opacity of thin high cloud, float64; most of it is below what SCL sees."""
    if noise.uniform(seed, _VEIL, day) > p.VEIL_DAYS:
        return np.zeros(x.shape)
    return p.VEIL * np.clip(0.5 + noise.fractal(x, y, 5000.0, 2, seed, _VEIL, day), 0, None)


def _snow(x: np.ndarray, y: np.ndarray, height: np.ndarray, visit: Visit, seed: int) -> np.ndarray:
    """Return the share of open ground under seasonal snow, float64 0..1."""
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (visit.day_of_year - 32) / 365)
    when = np.array([float(visit.day)])
    spell = float(noise.smooth(when, 0 * when, 14.0, seed, _SNOW_LINE)[0])
    line = 0.55 + 3.2 * summer + 0.55 * spell
    if line > 3.0:
        return np.zeros(x.shape)
    patchy = p.SNOW_NOISE * noise.fractal(x, y, 350.0, 2, seed, _SNOW, visit.day // 30)
    return 1 / (1 + np.exp(-np.clip((height - line + patchy) / 0.08, -40, 40)))


def wetness(number: np.ndarray, visit: Visit, seed: int) -> np.ndarray:
    """Return the brightness of bare ground on a date, relative, float64 [parcel]."""
    rain = float(noise.normal(seed, _WET, visit.day))
    return np.exp(p.WETNESS * (rain + noise.normal(number, _WET, visit.day)))


def extent_of(grids: list[Grid], ground: str) -> Extent:
    """Return where all tiles together begin and end on the ground."""
    x, y = [], []
    for grid in grids:
        for col in (0, grid.width - 1):
            point = projection.coordinates(grid, Block(grid.height // 2, col, 1, 1), ground)
            x.append(float(point[0][0, 0]))
            y.append(float(point[1][0, 0]))
    return Extent(min(x), max(x), sum(y) / len(y))
