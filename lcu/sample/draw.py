"""Which pixels become samples: arithmetic on arrays, no files, no MPI.

Every choice is made by a number that is computed from (seed, tile, row, column), so that it is the
same for any number of ranks and any way of cutting a tile into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from lcu.composite import buffer_mask
from lcu.store import CELL

TRAINING, VALIDATION, TEST = 0, 1, 2

# How far the distance to another class is followed, in pixels.
FARTHEST = 16

# What is rare has at least one over this of an equal part of the samples.
LEAST = 4

# Shares of a class's samples; polygons are dealt out whole.
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.15


@dataclass(frozen=True)
class Candidates:
    """Pixels that may be drawn, one entry each, all arrays [candidate].

    Attributes
    ----------
    key : uint64
        Priority: the lowest are drawn.
    index : uint8
        Class index.
    tile : uint16
        Position of the tile in the run's list.
    row, col : int32
        Place on the tile's grid.
    polygon : int64
        Polygon of the old map, its number unique in the run.
    border : uint8
        Distance to the nearest pixel of another class, in pixels; `FARTHEST` stands for all that is more.
    cluster : int32
        Cluster of its series; -1 where none was looked for.
    """

    key: np.ndarray
    index: np.ndarray
    tile: np.ndarray
    row: np.ndarray
    col: np.ndarray
    polygon: np.ndarray
    border: np.ndarray
    cluster: np.ndarray

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self.key)

    def take(self, chosen: np.ndarray) -> Candidates:
        """Return the chosen ones (positions or a mask), in that order."""
        return Candidates(*(getattr(self, entry.name)[chosen] for entry in fields(self)))

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """Return all parts as one."""
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    @classmethod
    def none(cls) -> Candidates:
        """Return no candidates."""
        kinds = ("uint64", "uint8", "uint16", "int32", "int32", "int64", "uint8", "int32")
        return cls(*(np.zeros(0, kind) for kind in kinds))


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers (SplitMix64's finaliser, Steele et al. 2014)."""
    values = values.astype(np.uint64, copy=True)
    with np.errstate(over="ignore"):
        values += np.uint64(0x9E3779B97F4A7C15)
        values ^= values >> np.uint64(30)
        values *= np.uint64(0xBF58476D1CE4E5B9)
        values ^= values >> np.uint64(27)
        values *= np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def tile_number(tile: str) -> int:
    """Return a number that stands for a tile's id wherever it is processed."""
    return int.from_bytes(tile.encode()[-8:].rjust(8, b"\0"), "big")


def priority(seed: int, tile: str, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return a random-looking number for each pixel, uint64, shape of `rows`."""
    start = mix(np.array([seed], np.uint64) ^ mix(np.array([tile_number(tile)], np.uint64)))
    place = (rows.astype(np.uint64) << np.uint64(32)) | cols.astype(np.uint64)
    return mix(place ^ start)


def core_pixels(values: np.ndarray, pixels: float) -> np.ndarray:
    """Tell the pixels that lie farther than `pixels` from every pixel of another class.

    Parameters
    ----------
    values : ndarray[y, x], uint8
        Class values; 255 = none, which counts as another class.

    Returns
    -------
    ndarray[y, x], bool
        False where there is no class.
    """
    core = np.zeros(values.shape, bool)
    for value in np.unique(values[values != 255]):
        inside = values == value
        core |= inside & ~buffer_mask(~inside, pixels)
    return core


def border_distance(values: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel to the nearest one of another class, in whole pixels.

    Parameters
    ----------
    values : ndarray[y, x], uint8
        Class values; 255 = none, which counts as another class.

    Returns
    -------
    ndarray[y, x], uint8
        Rounded down, at most `FARTHEST`; 0 where there is no class.
    """
    distance = np.zeros(values.shape, np.uint8)
    for value in np.unique(values[values != 255]):
        inside = np.pad(values == value, FARTHEST, constant_values=True)
        inside[0, 0] = False  # far enough away; without it an area without border has no distance
        own = ndimage.distance_transform_edt(inside)[FARTHEST:-FARTHEST, FARTHEST:-FARTHEST]
        here = values == value
        distance[here] = np.minimum(own[here], FARTHEST)
    return distance


def draw(candidates: Candidates, areas: np.ndarray, per_class: int, per_polygon: int) -> Candidates:
    """Draw samples: `per_class` of a class on average, at most `per_polygon` of a polygon.

    Classes share the samples by their area in the old map, none with less than a quarter of `per_class`
    as far as it has candidates; the clusters of a class share its samples by their candidates, none with
    less than a quarter of an equal part: what is rare is there, what is common counts.

    Parameters
    ----------
    areas : ndarray[class]
        Pixels of each class in the old map.

    Returns
    -------
    Candidates
        Ordered by tile and, within it, by cell (HDF5 chunk), row and column, which is the order in which
        series are read best.
    """
    candidates = cap_polygons(candidates, per_polygon)
    sizes = np.bincount(candidates.index, minlength=len(areas))
    total = per_class * np.count_nonzero(sizes)
    numbers = allocate(np.where(sizes > 0, areas, 0), sizes, total, per_class // LEAST)
    candidates = candidates.take(np.lexsort((candidates.key, candidates.cluster, candidates.index)))
    pair = candidates.index.astype(np.int64) << 32 | (candidates.cluster.astype(np.int64) + 1)
    pairs, members = np.unique(pair, return_counts=True)
    quota = np.zeros(len(pairs), np.int64)
    for index in np.unique(candidates.index):
        own = pairs >> 32 == index
        least = numbers[index] // (LEAST * np.count_nonzero(own))
        quota[own] = allocate(members[own], members[own], int(numbers[index]), int(least))
    chosen = _rank_within(pair) < quota[np.searchsorted(pairs, pair)]
    candidates = candidates.take(chosen)
    return candidates.take(reading_order(candidates))


def cap_polygons(candidates: Candidates, per_polygon: int) -> Candidates:
    """Return the candidates of each polygon with the lowest keys, `per_polygon` at most."""
    candidates = candidates.take(np.lexsort((candidates.key, candidates.polygon)))
    return candidates.take(_rank_within(candidates.polygon) < per_polygon)


def lowest(candidates: Candidates, count: int) -> Candidates:
    """Return the candidates of each class with the lowest keys, `count` at most."""
    candidates = candidates.take(np.lexsort((candidates.key, candidates.index)))
    return candidates.take(_rank_within(candidates.index) < count)


def allocate(shares: np.ndarray, room: np.ndarray, total: int, floor: int) -> np.ndarray:
    """Share `total` out over groups, in proportion to `shares`, but at least `floor` to each.

    Parameters
    ----------
    shares : ndarray[group], int
    room : ndarray[group], int
        No group is given more; what it cannot take goes to the others.

    Returns
    -------
    ndarray[group], int64
        Their sum is `total` where there is room and the floors leave some.
    """
    shares, room = np.asarray(shares, np.float64), np.asarray(room, np.int64)
    least = np.minimum(room, floor)
    low, high = 0.0, float(np.max(room / np.maximum(shares, 1), initial=0) + 1)
    for _ in range(80):  # the largest rate whose numbers are not too many
        rate = (low + high) / 2
        low, high = (
            (rate, high) if _taken(shares, rate, least, room).sum() <= total else (low, rate)
        )
    numbers = _taken(shares, low, least, room)
    order = np.argsort(numbers - low * shares, kind="stable")
    order = order[(numbers[order] < room[order]) & (shares[order] > 0)]
    numbers[order[: max(0, total - int(numbers.sum()))]] += 1
    return numbers


def _taken(shares: np.ndarray, rate: float, least: np.ndarray, room: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(rate * shares).astype(np.int64), least, room)


def reading_order(candidates: Candidates) -> np.ndarray:
    """Return the positions of the candidates in reading order."""
    row, col = candidates.row, candidates.col
    return np.lexsort((col, row, col // CELL, row // CELL, candidates.tile))


def _rank_within(group: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2 ... within each run of equal values."""
    count = len(group)
    position = np.arange(count)
    if count == 0:
        return position
    new = np.ones(count, bool)
    new[1:] = group[1:] != group[:-1]
    return position - np.maximum.accumulate(np.where(new, position, 0))


def assign_splits(index: np.ndarray, polygon: np.ndarray, seed: int) -> np.ndarray:
    """Deal the polygons of each class out to training, validation and test.

    Whole polygons only, so that no training pixel is a test pixel or its neighbour. The polygon of
    a class that comes first (in a random order that follows from the seed) is always for training.

    Parameters
    ----------
    index : ndarray[sample]
        Class index.
    polygon : ndarray[sample], int64

    Returns
    -------
    ndarray[sample], uint8
        0 training, 1 validation, 2 test.
    """
    split = np.full(len(index), TRAINING, np.uint8)
    for value in np.unique(index):
        own = index == value
        numbers, sizes = np.unique(polygon[own], return_counts=True)
        order = np.argsort(mix(numbers.astype(np.uint64) ^ np.uint64(seed)), kind="stable")
        before = np.concatenate([[0], np.cumsum(sizes[order])[:-1]]) / own.sum()
        parts = np.full(len(numbers), TRAINING, np.uint8)
        parts[before >= 1 - VALIDATION_SHARE - TEST_SHARE] = VALIDATION
        parts[before >= 1 - TEST_SHARE] = TEST
        parts[0] = TRAINING
        dealt = dict(zip(numbers[order], parts, strict=True))
        split[own] = [dealt[number] for number in polygon[own]]
    return split
