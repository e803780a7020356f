"""Counter-based random numbers and noise over the plane: any block can be made on its own.

Nothing here has a state. A value follows from explicit integers (seed, place, year, ...), so that
it is the same on whichever rank, in whichever order and block it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
# Standard deviation of value noise over a lattice of unit variance, with smooth interpolation.
_SPREAD = 0.743
# Turn of the lattice between octaves, radians: keeps the axes of the lattices from showing.
_TURN = 0.6


def mix(*keys: np.ndarray | int) -> np.ndarray:
    """Hash integers of broadcastable shapes to uint64 of the broadcast shape (splitmix64)."""
    with np.errstate(over="ignore"):
        state = np.zeros((), dtype=np.uint64)
        for key in keys:
            state = _scramble(state + _STEP + _unsigned(key))
    return state


def _unsigned(key: np.ndarray | int) -> np.ndarray:
    key = np.asarray(key)
    return key if key.dtype == np.uint64 else key.astype(np.int64).view(np.uint64)


def _scramble(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * _MIX_A
    value = (value ^ (value >> np.uint64(27))) * _MIX_B
    return value ^ (value >> np.uint64(31))


def uniform(*keys: np.ndarray | int) -> np.ndarray:
    """Return numbers in (0, 1), float64, that follow from integer keys."""
    return ((mix(*keys) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(*keys: np.ndarray | int) -> np.ndarray:
    """Return standard normal numbers, float64, that follow from integer keys."""
    return ndtri(uniform(*keys))


def generator(*keys: int) -> np.random.Generator:
    """Return a Philox stream for draws in a fixed order; keys are non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(keys))))


def smooth(x: np.ndarray, y: np.ndarray, scale: float, *keys: int) -> np.ndarray:
    """Value noise: a smooth random surface with bumps of about `scale` metres.

    Parameters
    ----------
    x, y : ndarray[...], float64
        Ground coordinates, metres.
    scale : float
        Distance of the lattice points, metres.
    keys : int
        Which surface.

    Returns
    -------
    ndarray[...], float64
        Zero mean, unit variance, near to normal.
    """
    u, v = x / scale, y / scale
    column, row = np.floor(u), np.floor(v)
    s, t = _ease(u - column), _ease(v - row)
    corner = _lattice(column, row, lambda i, j: normal(*keys, i, j))
    lower = corner(0, 0) * (1 - s) + corner(1, 0) * s
    upper = corner(0, 1) * (1 - s) + corner(1, 1) * s
    return (lower * (1 - t) + upper * t) / _SPREAD


def _ease(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)


def _lattice(column: np.ndarray, row: np.ndarray, value: Callable) -> Callable:
    """Return a function that gives `value` at lattice points shifted by (dx, dy) in -2..2.

    Where the points lie densely the lattice is computed once and looked up.
    """
    column, row = column.astype(np.int64), row.astype(np.int64)
    left, top = column.min() - 2, row.min() - 2
    width, height = column.max() - left + 3, row.max() - top + 3
    if width * height > max(4 * column.size, 1024):
        return lambda dx, dy: value(column + dx, row + dy)
    j, i = np.mgrid[top : top + height, left : left + width]
    table = value(i, j).ravel()
    index = (row - top) * width + (column - left)
    return lambda dx, dy: table[index + (dy * width + dx)]


def fractal(x: np.ndarray, y: np.ndarray, scale: float, octaves: int, *keys: int) -> np.ndarray:
    """Sum of value noise of `scale`, scale / 2, ...; each weighs half as much as the one before.

    Returns
    -------
    ndarray[...], float64
        Zero mean, unit variance.
    """
    total, power = np.zeros_like(x, dtype=np.float64), 0.0
    for octave in range(octaves):
        weight, turn = 0.5**octave, _TURN * octave
        u, v = rotate(x, y, turn)
        total += weight * smooth(u, v, scale / 2**octave, *keys, octave)
        power += weight**2
    return total / np.sqrt(power)


def rotate(
    x: np.ndarray, y: np.ndarray, angle: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates along axes turned by `angle` radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


class Cells(NamedTuple):
    """The cell of each point: its number uint64 and its centre in metres float64, all [...]."""

    id: np.ndarray
    x: np.ndarray
    y: np.ndarray


def cells(x: np.ndarray, y: np.ndarray, scale: float, *keys: int) -> Cells:
    """Find the Voronoi cell, among jittered points about `scale` metres apart, of each point."""
    u, v = x / scale, y / scale
    column, row = np.floor(u), np.floor(v)
    across = _lattice(column, row, lambda i, j: i + 0.1 + 0.8 * uniform(*keys, 1, i, j))
    along = _lattice(column, row, lambda i, j: j + 0.1 + 0.8 * uniform(*keys, 2, i, j))
    nearest = np.full(u.shape, np.inf)
    best = [np.zeros(u.shape), np.zeros(u.shape)]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            point = across(dx, dy), along(dx, dy)
            distance = (u - point[0]) ** 2 + (v - point[1]) ** 2
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            best = [np.where(closer, new, old) for new, old in zip(point, best, strict=True)]
    number = mix(*keys, np.floor(best[0]), np.floor(best[1]))
    return Cells(number, best[0] * scale, best[1] * scale)


def fields(
    x: np.ndarray, y: np.ndarray, angle: np.ndarray, width: float, length: float, area: np.ndarray
) -> Cells:
    """Find the rectangular field of each point; rows of fields run along `angle`.

    Parameters
    ----------
    x, y : ndarray[...], float64
        Ground coordinates, metres.
    angle : ndarray[...], float64
        Direction of the rows, radians; constant within one area.
    width, length : float
        Mean sides of a field, metres.
    area : ndarray[...], uint64
        Number of the area (a Voronoi cell, say) that the fields belong to.
    """
    u, v = rotate(x, y, angle)
    row = np.floor(v / width).astype(np.int64)
    number = mix(area, row)
    step = length * (0.6 + 0.9 * uniform(number, 1))
    start = step * uniform(number, 2)
    column = np.floor((u + start) / step).astype(np.int64)
    centre = rotate((column + 0.5) * step - start, (row + 0.5) * width, -angle)
    return Cells(mix(number, column), *centre)
