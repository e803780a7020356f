"""From ground and sky to digital numbers, block by block. Pure: no files, no MPI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lcu import projection
from lcu.config import BANDS
from lcu.grid import Block, Tile
from lcu.simulate import ground as landscape
from lcu.simulate import noise, sky, spectra
from lcu.simulate import parameters as p
from lcu.simulate.sky import Visit

RESOLUTION = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60} | {
    band: 20 for band in ("B05", "B06", "B07", "B8A", "B11", "B12")
}
(_TEXTURE, _TEXTURE_YEAR, _PATCHES, _NOISE) = range(400, 404)
_TREES = np.isin(p.VALUES, (8, 9))


class Scenery(NamedTuple):
    """A block, with its halo, in one year: what is the same on every day. Arrays [y, x].

    x, y : float64, ground coordinates in metres
    number : uint64 [parcel]; index : int32, position of each pixel's parcel in it
    own, other : Parcels; the pixel is `other` by the share `impure`, float32, and `own` by the rest
    texture : float32, relative brightness
    slope : float32 [2, y, x], rise of the ground eastwards and southwards, metres over metres
    """

    x: np.ndarray
    y: np.ndarray
    height: np.ndarray
    subtype: np.ndarray
    number: np.ndarray
    index: np.ndarray
    own: spectra.Parcels
    other: spectra.Parcels
    impure: np.ndarray
    texture: np.ndarray
    slope: np.ndarray


def blocks(tile: Tile) -> Iterator[Block]:
    """Yield the blocks of a tile that everything is simulated by."""
    return tile.grid.blocks(p.BLOCK)


def _around(block: Block) -> Block:
    """Return the block made whole in pixels of 60 m, with its halo; it may leave the tile."""
    height, width = (-(-side // 6) * 6 + 2 * p.HALO for side in (block.height, block.width))
    return Block(block.row - p.HALO, block.col - p.HALO, height, width)


@lru_cache(maxsize=2)
def _place(tile: Tile, block: Block, ground: str, seed: int) -> tuple:
    x, y = projection.coordinates(tile.grid, _around(block), ground)
    return x, y, landscape.place(x, y, seed)


@lru_cache(maxsize=2)
def scenery(tile: Tile, block: Block, year: int, ground: str, world: landscape.World) -> Scenery:
    """Make what is on the ground in a block and its halo in one year."""
    seed = world.seed
    x, y, place = _place(tile, block, ground, seed)
    cover = landscape.cover(place, year, world)
    # A stand may reach into two regions; it then counts as two parcels, wherever blocks cut it.
    parts = noise.mix(cover.parcel, cover.subtype, cover.region)
    _, first, index = np.unique(parts, return_index=True, return_inverse=True)
    number, subtype, height = (
        values.ravel()[first] for values in (cover.parcel, cover.subtype, cover.level)
    )
    own = spectra.parcels(number, subtype, height, year, seed)
    partner, share = spectra.partner(number, subtype, year)
    other = spectra.parcels(noise.mix(number, 1), partner, height, year, seed)
    added = p.IMPURITY_PIXEL * spectra.mingling(subtype)
    index = index.reshape(x.shape).astype(np.int32)
    patches = noise.smooth(x, y, p.IMPURITY_SCALE, seed, _PATCHES, year)
    impure = share[index] * (1 + p.IMPURITY_PATCHES * patches) + added[index] * patches
    texture = p.TEXTURE * noise.smooth(x, y, p.TEXTURE_SCALE, seed, _TEXTURE)
    texture += p.TEXTURE_YEAR * noise.smooth(x, y, p.TEXTURE_SCALE * 1.3, seed, _TEXTURE_YEAR, year)
    rise = np.gradient(p.RELIEF * place.height, 10.0)
    return Scenery(
        x, y, place.height, cover.subtype, number, index, own, other,
        np.clip(impure, 0, p.IMPURITY_LIMIT).astype(np.float32), (1 + texture).astype(np.float32),
        np.stack([rise[1], rise[0]]).astype(np.float32),
    )  # fmt: skip


class Shot(NamedTuple):
    """A block of an acquisition, [y, x] at the band's resolution: uint16, 0 = nodata; SCL uint8."""

    bands: dict[str, np.ndarray]
    scl: np.ndarray


def shoot(tile: Tile, block: Block, visit: Visit, ground: str, world: landscape.World) -> Shot:
    """Simulate one block of one acquisition."""
    view = scenery(tile, block, visit.start.year, ground, world)
    above = sky.sky(view.x, view.y, view.height, visit, world.seed)
    fine = _at_sensor(view, above, visit, world.seed)
    stream = noise.generator(
        world.seed, _NOISE, visit.day, visit.orbit, *_key(tile.id), block.row, block.col
    )
    measured = {}
    for position, band in enumerate(BANDS):
        values = (
            _spread(fine[position])
            if RESOLUTION[band] == 10
            else _mean(_inner(fine[position]), RESOLUTION[band])
        )
        grain = stream.standard_normal(values.shape, dtype=np.float32)
        measured[band] = values + grain * (p.NOISE_FIXED + p.NOISE_RELATIVE * np.abs(values))
    scl = classify(measured, view, above)
    seen = _inner(above.seen)
    bands = {
        band: _digital(values, seen, RESOLUTION[band], visit.new)
        for band, values in measured.items()
    }
    return Shot(
        {band: _cut(values, block, RESOLUTION[band]) for band, values in bands.items()},
        _cut(scl, block, 20),
    )


def _key(text: str) -> list[int]:
    return list(text.encode())


def _at_sensor(view: Scenery, above: sky.Sky, visit: Visit, seed: int) -> np.ndarray:
    """Return the reflectance at 10 m before optics and noise, float32 [band, y, x]."""
    wet = sky.wetness(view.number, visit, seed)
    own = spectra.reflectance(view.own, visit.day_of_year, wet)
    other = spectra.reflectance(view.other, visit.day_of_year, wet)
    light = view.texture * _light(view, visit) * (1 - (1 - p.SHADOW) * above.shadow)
    snow = above.snow * _SNOW_HOLD[view.subtype]
    cloud = np.clip(above.cloud + above.veil, 0, 1)
    found = np.empty((len(BANDS), *view.index.shape), dtype=np.float32)
    for position, band in enumerate(found):
        mixed = own[view.index, position]
        mixed += view.impure * (other[view.index, position] - mixed)
        mixed += snow * (np.float32(0.9 * p.SURFACES["snow"][position]) - mixed)
        mixed *= light
        band[:] = mixed + cloud * (np.float32(p.SURFACES["cloud"][position]) - mixed)
    return found


# How much of the snow on open ground is seen: trees hide it, towns clear it, lakes swallow it.
_SNOW_HOLD = np.select([_TREES, p.VALUES == 1, p.VALUES == 11], [0.35, 0.55, 0.0], 1.0).astype(
    np.float32
)


def _light(view: Scenery, visit: Visit) -> np.ndarray:
    """Return the light on slopes relative to flat ground, float32 [y, x]."""
    zenith, azimuth = np.radians(sky.sun(visit.day_of_year))
    east, south = view.slope
    incident = np.cos(zenith) - np.sin(zenith) * (east * np.sin(azimuth) - south * np.cos(azimuth))
    incident /= np.sqrt(1 + east**2 + south**2) * np.cos(zenith)
    return (1 + p.SHADING * (np.clip(incident, 0.2, 2.0) - 1)).astype(np.float32)


def _inner(values: np.ndarray) -> np.ndarray:
    return values[p.HALO : -p.HALO, p.HALO : -p.HALO]


def _spread(values: np.ndarray) -> np.ndarray:
    """Blur by the optics: a small kernel that neighbours share in; float32, without the halo."""
    side, here, margin = p.POINT_SPREAD, 1 - 2 * p.POINT_SPREAD, p.HALO - 1
    near = values[margin:-margin, margin:-margin]
    columns = here * near[1:-1] + side * (near[:-2] + near[2:])
    return here * columns[:, 1:-1] + side * (columns[:, :-2] + columns[:, 2:])


def _mean(values: np.ndarray, resolution: int) -> np.ndarray:
    """Average pixels of 10 m to `resolution`; float32."""
    n = resolution // 10
    height, width = values.shape[0] // n, values.shape[1] // n
    return values.reshape(height, n, width, n).mean(axis=(1, 3), dtype=np.float32)


def _digital(values: np.ndarray, seen: np.ndarray, resolution: int, new: bool) -> np.ndarray:
    """Turn reflectance into digital numbers as the baseline has them; uint16, 0 = nodata."""
    offset = p.OFFSET if new else 0
    numbers = np.clip(np.rint(values * p.QUANTIFICATION) - offset, 1, 32767).astype(np.uint16)
    n = resolution // 10
    return np.where(seen[::n, ::n], numbers, 0).astype(np.uint16)


def _cut(values: np.ndarray, block: Block, resolution: int) -> np.ndarray:
    """Cut off what was only made to have whole pixels of 60 m."""
    n = resolution // 10
    return values[: -(-block.height // n), : -(-block.width // n)]


def classify(measured: dict[str, np.ndarray], view: Scenery, above: sky.Sky) -> np.ndarray:
    """Return the scene classification (SCL), uint8 [y, x] at 20 m; 0 = nodata.

    It sees what ESA's sees: opaque cloud and its shadow, not thin cloud.
    """
    red, green = _mean(measured["B04"], 20), _mean(measured["B03"], 20)
    infrared, short = measured["B8A"], measured["B11"]
    vegetation = (infrared - red) / np.maximum(infrared + red, 0.02)
    snow = (green - short) / np.maximum(green + short, 0.02)
    cloud, shadow, veil = (
        _mean(_inner(part), 20) for part in (above.cloud, above.shadow, above.veil)
    )
    scl = np.full(red.shape, 5, dtype=np.uint8)
    scl[vegetation > 0.4] = 4
    scl[(infrared < 0.11) & (vegetation < 0.45)] = 2
    scl[(infrared < 0.09) & (green > infrared) & (short < 0.05)] = 6
    scl[(snow > 0.42) & (green > 0.20)] = 11
    scl[(cloud > 0.12) & (cloud <= p.SCL_MISSES)] = 7
    scl[shadow > 0.4] = 3
    scl[(veil > 0.22) & (cloud < p.SCL_MISSES)] = 10
    scl[cloud > p.SCL_MISSES] = 8
    scl[cloud > 0.75] = 9
    scl[~_inner(above.seen)[::2, ::2]] = 0
    return scl


def truth(
    tile: Tile, block: Block, year: int, ground: str, world: landscape.World
) -> tuple[np.ndarray, np.ndarray]:
    """Return sub-type and "mixed" of a block, both uint8 [y, x].

    A pixel is mixed (1) where a neighbour has another class, so that the sensor sees both, and (2)
    where more than 30 % of it is another class; 3 where both.
    """
    view = scenery(tile, block, year, ground, world)
    value = p.VALUES[view.subtype]
    border = np.zeros(value.shape, dtype=bool)
    for rows, cols in ((0, 1), (1, 0), (1, 1), (1, -1)):
        border |= value != np.roll(value, (rows, cols), axis=(0, 1))
        border |= value != np.roll(value, (-rows, -cols), axis=(0, 1))
    mixed = border.astype(np.uint8) + 2 * (view.impure > 0.3).astype(np.uint8)
    inner = slice(p.HALO, p.HALO + block.height), slice(p.HALO, p.HALO + block.width)
    return view.subtype[inner], mixed[inner]
