"""The landscape: which sub-type covers each place in each year. Pure functions of coordinates.

Valleys hold lakes, sand, fields and towns; slopes hold forest; above them are shrub, rock and ice.
Regions of about a square kilometre have a class; the fields and stands in them mostly share it. All
is a function of ground coordinates, so every block, of any tile, can be made alone and overlapping
tiles show the same ground.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lcu.simulate import noise
from lcu.simulate import parameters as p

# First integer of the hash keys of each random quantity; no two may be equal.
(_WARP, _RIDGE, _HILLS, _REGION, _STAND, _KIND, _ODD, _TOWN, _QUARRY, _RESERVOIR, _SHORE, _ROTATION,
 _EVENT, _SUBTYPE, _BLOCKS) = range(100, 115)  # fmt: skip

URBAN, GRASS, CROPS, ANNUAL, MINERAL, ROCKS, SAND, BROADLEAVES, CONIFERS, SHRUB, LAKE, SNOW = range(
    1, 13
)


class World(NamedTuple):
    """What tells one simulated world from another."""

    seed: int
    change: float

    def rate(self, rate: float) -> float:
        """Return a yearly rate of `parameters`, scaled to the wanted share of change."""
        return rate * self.change / 0.01


class Place(NamedTuple):
    """What does not change from year to year, arrays [...] over the points.

    height : float64, relative, about normal
    region : uint64, number of the region
    level : float64, relative height of the middle of the region
    parcel : uint64, the field or stand that would be worked as one
    value : uint8, class before towns and events
    block : uint64, the town block that would be built as one
    town : float64, above 0 in the town's core, falling outwards; -inf above the valleys
    quarry, reservoir : uint64, number of the quarry or reservoir here, 0 where none
    """

    height: np.ndarray
    region: np.ndarray
    level: np.ndarray
    parcel: np.ndarray
    block: np.ndarray
    value: np.ndarray
    town: np.ndarray
    quarry: np.ndarray
    reservoir: np.ndarray


class Ground(NamedTuple):
    """The landscape of one year, arrays [...] over the points.

    subtype : uint8, position in `parameters.SUBTYPES`
    parcel : uint64, number of the parcel whose pixels share a history
    region : uint64; level : float64, relative height of its middle
    """

    subtype: np.ndarray
    parcel: np.ndarray
    region: np.ndarray
    level: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """Class value of `corine-12`, uint8 [...]."""
        return p.VALUES[self.subtype]


def height(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Relative height of the ground, float64 [...]; about zero mean and unit variance."""
    u, v = noise.rotate(x, y, p.RIDGE_DIRECTION)
    phase = 2 * np.pi * noise.uniform(seed, _RIDGE, np.array([1, 2]))
    bend = noise.smooth(x, y, 4000.0, seed, _RIDGE, 3)
    across = np.sin(2 * np.pi * u / p.RIDGE + phase[0] + 0.9 * bend)
    along = np.sin(2 * np.pi * v / (1.35 * p.RIDGE) + phase[1] - 0.9 * bend)
    return across + 0.55 * along + 0.38 * noise.fractal(x, y, 1300.0, 4, seed, _HILLS)


def place(x: np.ndarray, y: np.ndarray, seed: int) -> Place:
    """Find what is where, whatever the year; `x`, `y` are ground coordinates in metres [...]."""
    level = height(x, y, seed)
    wx = x + 70.0 * noise.fractal(x, y, 420.0, 3, seed, _WARP, 1)
    wy = y + 70.0 * noise.fractal(x, y, 420.0, 3, seed, _WARP, 2)
    region = noise.cells(wx, wy, p.REGION, seed, _REGION)
    stand = noise.cells(wx, wy, p.STAND, seed, _STAND)
    kind, angle, middle = _regions(region, seed)
    low = middle < p.BELTS[1][0] + 0.2  # below the alpine meadows
    field = noise.fields(x, y, angle, p.FIELD_WIDTH, p.FIELD_LENGTH, region.id)
    farmed = (kind == CROPS) | (kind == ANNUAL) | ((kind == GRASS) & low)
    parcel = np.where(farmed, field.id, stand.id)
    value = _odd_parcels(kind, farmed, parcel)
    value = _natural_borders(value, level, wx, wy, seed)
    block = noise.fields(x, y, angle, 110.0, 170.0, region.id)
    town = np.where(level < p.TOWN_HEIGHT, _town(block.x, block.y, seed), -np.inf)
    quarry = _discs(wx, wy, level, p.QUARRY, p.QUARRY_RADIUS, p.QUARRY_HEIGHT, seed, _QUARRY)
    quarry = np.where(noise.uniform(quarry, 1) < p.QUARRY_SHARE, quarry, 0)
    reservoir = _discs(
        wx, wy, level, p.RESERVOIR, p.RESERVOIR_RADIUS, p.RESERVOIR_HEIGHT, seed, _RESERVOIR
    )
    return Place(level, region.id, middle, parcel, block.id, value, town, quarry, reservoir)


def _regions(region: noise.Cells, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class uint8, direction of fields and height of the middle of the region, [...]."""
    number, first, where = np.unique(region.id, return_index=True, return_inverse=True)
    level = height(region.x.ravel()[first], region.y.ravel()[first], seed)
    kind = np.zeros(number.shape, dtype=np.uint8)
    lower = -np.inf
    for upper, weights in p.BELTS:
        inside = (level >= lower) & (level < upper)
        kind[inside] = _choose(noise.uniform(number[inside], _KIND), weights)
        lower = upper
    angle = np.pi * noise.uniform(number, _KIND, 2)
    shape = region.id.shape
    return kind[where].reshape(shape), angle[where].reshape(shape), level[where].reshape(shape)


def _choose(chance: np.ndarray, weights: dict[int, float]) -> np.ndarray:
    """Draw a class for each number in (0, 1); uint8."""
    edges = np.cumsum(list(weights.values()))
    index = np.searchsorted(edges / edges[-1], chance)
    return np.array(list(weights), dtype=np.uint8)[np.minimum(index, len(weights) - 1)]


# What an odd field or stand is instead, in equal parts.
_OTHERS = {
    GRASS: (CROPS, ANNUAL, SHRUB, BROADLEAVES), CROPS: (ANNUAL, GRASS, ANNUAL, BROADLEAVES),
    ANNUAL: (CROPS, CROPS, GRASS, BROADLEAVES), BROADLEAVES: (CONIFERS, CONIFERS, SHRUB, GRASS),
    CONIFERS: (BROADLEAVES, BROADLEAVES, SHRUB, GRASS),
    SHRUB: (GRASS, GRASS, CONIFERS, BROADLEAVES),
}  # fmt: skip
_OTHER = np.zeros((13, 4), dtype=np.uint8)
for _value, _listed in _OTHERS.items():
    _OTHER[_value] = _listed


def _odd_parcels(kind: np.ndarray, farmed: np.ndarray, parcel: np.ndarray) -> np.ndarray:
    """Give some fields and stands another class than their region; uint8 [...]."""
    share = np.where(farmed, p.ODD_FIELDS, p.ODD_STANDS)
    return np.where(noise.uniform(parcel, _ODD, 1) < share, _other(kind, parcel, 2), kind)


def _other(value: np.ndarray, parcel: np.ndarray, key: np.ndarray | int) -> np.ndarray:
    return _OTHER[value, (4 * noise.uniform(parcel, _ODD, key)).astype(np.int64)]


def _natural_borders(
    value: np.ndarray, level: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int
) -> np.ndarray:
    """Put water, shores and rock where the height says so; uint8 [...]."""
    rough = level + 0.10 * noise.fractal(x, y, 260.0, 3, seed, _SHORE, 1)
    shore = (rough < p.SHORE_LEVEL) & (noise.smooth(x, y, 1100.0, seed, _SHORE, 2) > p.SHORE_NOISE)
    value = np.where(rough > p.ROCK_LEVEL, ROCKS, value)
    value = np.where(shore, SAND, value)
    return np.where(level < p.LAKE_LEVEL, LAKE, value).astype(np.uint8)


def _town(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return how far inside a town each point lies, in units of its radius; float64 [...]."""
    cell = noise.cells(x, y, p.TOWN, seed, _TOWN)
    radius = p.TOWN_RADIUS[0] + (p.TOWN_RADIUS[1] - p.TOWN_RADIUS[0]) * noise.uniform(cell.id, 1)
    inside = 1 - np.hypot(x - cell.x, y - cell.y) / radius
    inside = inside + 0.22 * noise.fractal(x, y, 500.0, 2, seed, _TOWN, 2)
    return np.where(noise.uniform(cell.id, 3) < p.TOWN_SHARE, inside, -np.inf)


def _discs(
    x: np.ndarray, y: np.ndarray, level: np.ndarray, distance: float,
    radius: tuple[float, float], heights: tuple[float, float], seed: int, key: int,
) -> np.ndarray:  # fmt: skip
    """Return the number of the round thing at each point, uint64 [...]; 0 where there is none."""
    cell = noise.cells(x, y, distance, seed, key)
    reach = radius[0] + (radius[1] - radius[0]) * noise.uniform(cell.id, 3)
    reach = reach * (1 + 0.18 * noise.smooth(x, y, 120.0, seed, key, 4))
    inside = (x - cell.x) ** 2 + (y - cell.y) ** 2 < reach**2
    inside &= (level > heights[0]) & (level < heights[1])
    return np.where(inside, cell.id, np.uint64(0))


def cover(where: Place, year: int, world: World) -> Ground:
    """Find the sub-type and the parcel of each point in one year."""
    value = _conversions(where, year, world)
    felled = _felled(where, value, year, world)
    value, parcel = np.where(felled, SHRUB, value), where.parcel
    ice = p.SNOW_LEVEL + world.rate(p.GLACIER_RETREAT) * (year - p.RETREAT_START)
    value = np.where((value == ROCKS) & (where.height > ice), SNOW, value)
    built = _built(where, value, year, world)
    value, parcel = np.where(built, URBAN, value), np.where(built, where.block, parcel)
    dug = (where.quarry != 0) & ~built & (value != LAKE)
    value, parcel = (
        np.where(dug, MINERAL, value),
        np.where(dug, noise.mix(where.quarry, where.parcel), parcel),
    )
    flooded = _flooded(where, year, world) & ~built
    value = np.where(flooded, LAKE, value)
    # A lake behaves as one over a wide stretch; its own stands would show as a mosaic.
    parcel = np.where(value == LAKE, noise.mix(where.region, where.reservoir), parcel)
    parcel = noise.mix(parcel, value)
    subtype = np.where(felled & (value == SHRUB), p.REGROWTH, _subtype(value, parcel, where, year))
    return Ground(subtype.astype(np.uint8), parcel, where.region, where.level)


def _conversions(where: Place, year: int, world: World) -> np.ndarray:
    """Return the class of each parcel; now and then a field or stand is converted for good."""
    rate = world.rate(p.RATE_CONVERSION)
    if not rate:
        return where.value
    epoch = np.floor((year - 2000) * rate + noise.uniform(where.parcel, _EVENT, 1)).astype(np.int64)
    turned = (
        (epoch > 0)
        & (where.value <= ANNUAL)
        & (noise.uniform(where.parcel, _EVENT, 2, epoch) < p.ODD_FIELDS)
    )
    return np.where(turned, _other(where.value, where.parcel, epoch), where.value)


def _felled(where: Place, value: np.ndarray, year: int, world: World) -> np.ndarray:
    """Tell where forest was felled less than FELLED_YEARS ago; stands are felled in turn."""
    rate = world.rate(p.RATE_FELLING)
    if not rate:
        return np.zeros(value.shape, dtype=bool)
    period = max(1 / rate, 2.0 * p.FELLED_YEARS)
    age = np.floor(year + period * noise.uniform(where.parcel, _EVENT, 3)) % period
    return ((value == BROADLEAVES) | (value == CONIFERS)) & (age < p.FELLED_YEARS)


def _built(where: Place, value: np.ndarray, year: int, world: World) -> np.ndarray:
    """Tell where town is: its core, and those blocks of the fringe whose year has come."""
    rate = world.rate(p.RATE_TOWN)
    come = noise.uniform(where.block, _EVENT, 4) < rate * (year - p.TOWN_START)
    fringe = (where.town > -p.TOWN_FRINGE) & come
    dry = (value != LAKE) & (value != SAND) & (value != ROCKS) & (value != SNOW)
    return dry & ((where.town > 0) | fringe)


def _flooded(where: Place, year: int, world: World) -> np.ndarray:
    come = noise.uniform(where.reservoir, _EVENT, 5) < world.rate(p.RATE_RESERVOIR) * (
        year - p.RESERVOIR_START
    )
    return (where.reservoir != 0) & come


_MEMBERS = [np.flatnonzero(value == p.VALUES) for value in range(13)]


def _subtype(value: np.ndarray, parcel: np.ndarray, where: Place, year: int) -> np.ndarray:
    """Choose the sub-type of each parcel within its class; on fields it rotates over the years."""
    own, regional = noise.uniform(parcel, _SUBTYPE, 1), noise.uniform(where.region, value, _SUBTYPE)
    chance = np.where(noise.uniform(parcel, _SUBTYPE, 2) < p.REGIONAL, regional, own)
    turn = _rotation(parcel, year)
    subtype = np.zeros(value.shape, dtype=np.uint8)
    for kind in range(1, 13):
        members, here = _MEMBERS[kind], value == kind
        steps = (
            chance[here] * len(members)
            if kind not in (CROPS, ANNUAL)
            else turn[here] % len(members)
        )
        subtype[here] = members[np.floor(steps).astype(np.int64)]
    low = where.level < p.BELTS[1][0]
    meadows = (value == GRASS) & low & (subtype == _MEMBERS[GRASS][2])
    return np.where(meadows, _MEMBERS[GRASS][0], subtype)


def _rotation(parcel: np.ndarray, year: int) -> np.ndarray:
    """Place of a field in its rotation, int64; a farmer departs from it one year in five."""
    regular = (1000 * noise.uniform(parcel, _ROTATION, 1)).astype(np.int64) + year
    free = (1000 * noise.uniform(parcel, _ROTATION, 2, year)).astype(np.int64)
    return np.where(noise.uniform(parcel, _ROTATION, 3, year) < 0.2, free, regular)
