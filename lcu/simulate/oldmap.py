"""The old map: what a CORINE of the world would show, two years before the first mapped year.

A cell of 100 m gets the class of most of the ground in it; areas smaller than the mapping unit go
to the neighbour with the longest common border; some areas are plainly wrong. Pure but for GDAL's
coordinate transformation.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from lcu import projection
from lcu.grid import Block, Grid, Tile
from lcu.simulate import ground as landscape
from lcu.simulate import noise
from lcu.simulate import parameters as p

CRS = "EPSG:3035"
_MISTAKE = 500
# Rows of cells that are looked at in one go.
ROWS = 32
VALUE_OF = np.zeros(1000, dtype=np.uint8)
VALUE_OF[p.CORINE] = p.VALUES


def area(tiles: list[Tile]) -> Grid:
    """Return the grid of the old map: cells of 100 m that cover all tiles and a little more."""
    x, y = [], []
    for tile in tiles:
        corners = projection.transform(*projection.outline(tile.grid), tile.grid.crs, CRS)
        x.append(corners[0])
        y.append(corners[1])
    cell = p.OLD_MAP_CELL
    left, right = (f(g(x).item() / cell) for f, g in ((math.floor, np.min), (math.ceil, np.max)))
    bottom, top = (f(g(y).item() / cell) for f, g in ((math.floor, np.min), (math.ceil, np.max)))
    origin = ((left - 2) * cell, cell, 0.0, (top + 2) * cell, 0.0, -cell)
    return Grid(CRS, origin, top - bottom + 4, right - left + 4)


def strips(grid: Grid) -> list[Block]:
    """Return the strips of rows that the map is drawn in."""
    return [
        Block(row, 0, min(ROWS, grid.height - row), grid.width)
        for row in range(0, grid.height, ROWS)
    ]


def draw(grid: Grid, ground: str, year: int, world: landscape.World) -> np.ndarray:
    """Draw the whole map before generalisation, CORINE codes, uint16 [y, x]."""
    return np.concatenate([draw_strip(grid, strip, ground, year, world) for strip in strips(grid)])


def draw_strip(
    grid: Grid, strip: Block, ground: str, year: int, world: landscape.World
) -> np.ndarray:
    """Return the CORINE code of most of the ground in each cell of a strip, uint16 [y, x]."""
    n = p.OLD_MAP_SAMPLES
    west, cell, _, north, _, _ = grid.transform
    fine = Grid(CRS, (west, cell / n, 0.0, north, 0.0, -cell / n), grid.height * n, grid.width * n)
    block = Block(strip.row * n, strip.col * n, strip.height * n, strip.width * n)
    x, y = projection.coordinates(fine, block, ground)
    subtype = landscape.cover(landscape.place(x, y, world.seed), year, world).subtype
    subtype = (
        subtype.reshape(strip.height, n, strip.width, n)
        .transpose(0, 2, 1, 3)
        .reshape(strip.height, strip.width, -1)
    )
    return _most_frequent(p.CORINE[subtype])


def _most_frequent(codes: np.ndarray) -> np.ndarray:
    """Return, of the class that most samples have, the code that most have; uint16 [y, x]."""
    value = VALUE_OF[codes]
    counts = np.stack([(value == kind).sum(axis=-1) for kind in range(1, 13)])
    winner = counts.argmax(axis=0) + 1
    listed = np.unique(p.CORINE)
    votes = np.stack(
        [((codes == code).sum(axis=-1)) * (VALUE_OF[code] == winner) for code in listed]
    )
    return listed[votes.argmax(axis=0)]


def generalise(codes: np.ndarray, mapping_unit: float, mistakes: float, seed: int) -> np.ndarray:
    """Enforce the mapping unit and make mistakes; uint16 [y, x]."""
    smallest = max(1, math.ceil(mapping_unit * 1e4 / p.OLD_MAP_CELL**2))
    merged = merge_small(VALUE_OF[codes], smallest)
    wrong = mislabel(merged, mistakes, seed)
    # A mistake may leave an area next to one of its new class; no area becomes smaller.
    return _codes(wrong, merged, codes)


def _codes(value: np.ndarray, before: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Give each area the code, of its class, that most of its cells had; uint16 [y, x]."""
    listed = np.unique(p.CORINE)
    number, count = label_areas(value)
    votes = np.zeros((listed.size, count), dtype=np.int64)
    for position, code in enumerate(listed):
        fits = VALUE_OF[code] == value
        votes[position] = np.bincount(
            number.ravel(), (fits * (1e-6 + (codes == code))).ravel() * 1e6, count
        )
    return listed[votes.argmax(axis=0)][number]


def label_areas(value: np.ndarray) -> tuple[np.ndarray, int]:
    """Give each area of equal value, connected by sides, a number from 0; int64 [y, x], count."""
    number = np.zeros(value.shape, dtype=np.int64)
    count = 0
    for kind in np.unique(value):
        found, several = ndimage.label(value == kind)
        number[found > 0] = found[found > 0] + count - 1
        count += several
    return number, count


def merge_small(value: np.ndarray, smallest: int) -> np.ndarray:
    """Give areas of fewer than `smallest` cells to the neighbour with the longest common border.

    The smallest areas go first, so that they can grow together before they are judged.
    """
    value = value.copy()
    for size in _growing(smallest):
        while True:
            number, count = label_areas(value)
            cells = np.bincount(number.ravel(), minlength=count)
            small = cells < size
            if not small.any() or count == 1:
                break
            target = _longest_border(number, count, small)
            first = np.unique(number, return_index=True)[1]
            kinds = value.ravel()[first]
            # An area gives way only to one that is no smaller or that does not give way itself.
            moves = small & (
                (cells[target] > cells)
                | ((cells[target] == cells) & (target < np.arange(count)))
                | ~small[target]
            )
            if not moves.any():
                break
            value = np.where(moves, kinds[target], kinds)[number].astype(value.dtype)
    return value


def _growing(smallest: int) -> list[int]:
    sizes = [2]
    while sizes[-1] < smallest:
        sizes.append(min(sizes[-1] * 2, smallest))
    return sizes if smallest > 1 else []


def _longest_border(number: np.ndarray, count: int, small: np.ndarray) -> np.ndarray:
    """Return, for each area, the neighbour with the longest common border, int64 [area]."""
    pairs = []
    for a, b in ((number[:, 1:], number[:, :-1]), (number[1:], number[:-1])):
        different = a != b
        pairs += [a[different] * count + b[different], b[different] * count + a[different]]
    pair, length = np.unique(np.concatenate(pairs), return_counts=True)
    source, target = np.divmod(pair, count)
    order = np.lexsort((target, -length, source))
    first = np.unique(source[order], return_index=True)[1]
    best = np.arange(count)
    best[source[order][first]] = target[order][first]
    return best


def mislabel(value: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Give areas that make up about `share` of the map a wrong class; uint8 [y, x]."""
    number, count = label_areas(value)
    cells = np.bincount(number.ravel(), minlength=count)
    kinds = value.ravel()[np.unique(number, return_index=True)[1]].astype(np.int64)
    left = share * value.size
    new = kinds.copy()
    for chosen in np.argsort(noise.uniform(seed, _MISTAKE, np.arange(count)), kind="stable"):
        if cells[chosen] <= 1.1 * left:
            new[chosen] = (
                kinds[chosen] + int(11 * noise.uniform(seed, _MISTAKE, int(chosen), 1))
            ) % 12 + 1
            left -= cells[chosen]
    return new[number].astype(value.dtype)


def look_up(codes: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """Return the old map's code at each pixel of a tile's grid (nearest), uint16 [y, x]."""
    x, y = projection.coordinates(onto, onto.whole, CRS)
    west, cell, _, north, _, _ = grid.transform
    return codes[
        np.floor((north - y) / cell).astype(np.int64), np.floor((x - west) / cell).astype(np.int64)
    ]
