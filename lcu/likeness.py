"""How alike the years of a pixel are: evidence for a class that stays. Arrays in memory: no files, no MPI.

A hidden Markov model takes what the years show as independent, given the classes. It is not: a stand keeps its trees
and a field its soil, so the years of one place are more alike than two places of its class, and where they are less so
something happened. So a class that stays from one year to another is worth

    p(z1, ..., zn | the same place, of the class in all years) / (p(z1 | the class) ... p(zn | the class)),

z being the linear discriminants of the years: normal in a class and year, each with the same correlation between all
years of a place, which has a level of its own that lasts (the density of a multivariate normal over those of its
margins). So the mean of all years before a change is compared with that of all after it, where pairs of successive
years would compare one with one. The logarithm is halved, for discriminants are no independent witnesses, and what one
year more adds to it is kept within three (docs/consistency.md).

The series are those of the ground around a pixel, not of it alone (`around`): what changes for good is larger than a
pixel, and what makes a pixel look different from one year to another is often its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lcu.discriminants import add_up, directions, project
from lcu.years import pairs_of_years

# Pixels on each side of a pixel whose series are looked at with its own.
REACH = 1

# Share of the votes of the years from which a class is looked at.
LEAST_VOTE = np.float32(0.02)

# Pixels that a class must have in every year, or it is not judged.
LEAST_PIXELS = 50

# Spreads from the middle of a class beyond which a discriminant counts as that far.
FARTHEST = 4.0

# Correlation that a discriminant has at most.
MOST_CORRELATED = 0.97

POWER, LIMIT = np.float32(0.5), np.float32(3.0)

# From a median absolute deviation to the standard deviation of a normal distribution.
NORMAL = 1.4826


@dataclass(frozen=True)
class Likeness:
    """What is known of the discriminants of all pixels.

    Attributes
    ----------
    centre : ndarray[year, feature], whole numbers
        Mean series of each year.
    weights : ndarray[feature, direction], float64
        See `lcu.discriminants.directions`; with `frame` [2, direction].
    middle, spread : ndarray[year, class, direction], float32
        Median and spread in each class.
    correlation : ndarray[class, direction], float32
        Between years of a place; 0 in classes with too few pixels.
    """

    centre: np.ndarray
    weights: np.ndarray
    frame: np.ndarray
    middle: np.ndarray
    spread: np.ndarray
    correlation: np.ndarray

    def plain(self) -> dict[str, Any]:
        """Return it as lists."""
        return {name: value.tolist() for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Likeness:
        """Return what `plain` has written."""
        whole = {
            name: np.array(values[name], np.float64) for name in ("centre", "weights", "frame")
        }
        single = {
            name: np.array(values[name], np.float32) for name in ("middle", "spread", "correlation")
        }
        return cls(**whole, **single)

    def discriminants(self, series: np.ndarray) -> np.ndarray:
        """Return discriminants float32 [year, direction, pixel] of series uint16 [year, feature, pixel]."""
        values = [
            project(own.T - centre, self.weights, self.frame).T
            for own, centre in zip(series, self.centre, strict=True)
        ]
        return np.ascontiguousarray(np.stack(values))


def around(series: np.ndarray) -> np.ndarray:
    """Return the mean series of the 3 x 3 pixels around each, uint16 [time, band, y, x].

    Of those that have a series at all, rounded half up; 0 where the pixel itself has none. Sums are of whole
    numbers, so nothing depends on blocks.

    Parameters
    ----------
    series : ndarray[time, band, y, x], uint16
        Gap-filled reflectance x 10000; 0 in all where nothing was ever observed.
    """
    known = series.any(axis=(0, 1))
    count, found = _summed(known), np.empty_like(series)
    for mean, own in zip(found, series, strict=True):
        mean[:] = _rounded(_summed(own), count, known)
    return found


def around_patch(patch: np.ndarray) -> np.ndarray:
    """Do as `around` for the pixels in the middle of patches [pixel, time, band, 5, 5]; uint16 [pixel, time, band]."""
    middle = patch.shape[-1] // 2
    near = slice(middle - REACH, middle + REACH + 1)
    patch = patch[..., near, near]
    known = patch.any(axis=(1, 2))
    total, count = (
        patch.sum(axis=(3, 4), dtype=np.float32),
        known.sum(axis=(1, 2), dtype=np.float32),
    )
    return _rounded(total, count[:, None, None], known[:, REACH, REACH][:, None, None])


def _summed(values: np.ndarray) -> np.ndarray:
    """Return the sums of 3 x 3 values [..., y, x], nothing outside; whole numbers below 2^24, exact as float32."""
    height, width = values.shape[-2:]
    padded = np.zeros((*values.shape[:-2], height + 2 * REACH, width + 2 * REACH), np.float32)
    padded[..., REACH:-REACH, REACH:-REACH] = values
    rows = sum(padded[..., row : row + height, :] for row in range(2 * REACH + 1))
    return sum(rows[..., col : col + width] for col in range(2 * REACH + 1))


def _rounded(total: np.ndarray, count: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return totals over counts, rounded half up, uint16; 0 where not known.

    Exact in single precision: no quotient that is not whole lies closer than 1/9 below a whole number.
    """
    mean = (total + np.floor(count / 2)) / np.where(known, count, np.float32(np.inf))
    return mean.astype(np.uint16)


def fit(series: np.ndarray, label: np.ndarray, classes: int) -> Likeness | None:
    """Find the discriminants, and how they correlate from year to year.

    Parameters
    ----------
    series : ndarray[year, feature, pixel], uint16
        Gap-filled reflectance x 10000 of each year, as `around` returns it, time and band in one axis; pixels of all
        kinds.
    label : ndarray[year, pixel], uint8
        Class index; 255 = none.
    classes : int

    Returns
    -------
    Likeness or None
        None where fewer than two classes are there, or no series differs from another.
    """
    years, features, _ = series.shape
    centre = np.rint(series.mean(axis=2, dtype=np.float64))
    total = [
        np.zeros(shape, np.int64) for shape in (classes, (classes, features), (features, features))
    ]
    for own, middle, of_year in zip(series, centre, label, strict=True):
        known = of_year < classes
        for added, part in zip(
            total, add_up(own.T[known] - middle, of_year[known], classes), strict=True
        ):
            added += part
    weights, frame = directions(*total)
    if not weights.size:
        return None
    shape = years, classes, weights.shape[1]
    empty = Likeness(
        centre, weights, frame, np.zeros(shape, np.float32), np.ones(shape, np.float32),
        np.zeros(shape[1:], np.float32),
    )  # fmt: skip
    values = empty.discriminants(series)
    for number in range(classes):
        _fit_class(empty, number, values, label == number)
    return empty


def fit_parts(
    gathered: Sequence[Sequence[tuple[int, np.ndarray, np.ndarray]]] | None, classes: int
) -> Likeness | None:
    """Do as `fit` with parts that ranks sent: (number, series, label) each, in the order of their numbers."""
    parts = sorted((part for sent in gathered or [] for part in sent), key=lambda part: part[0])
    series, label = (np.concatenate([part[at] for part in parts], axis=-1) for at in (1, 2))
    return fit(series, label, classes)


def _fit_class(found: Likeness, number: int, values: np.ndarray, own: np.ndarray) -> None:
    """Fill in what is known of a class.

    Parameters
    ----------
    values : ndarray[year, direction, pixel], float32
        Discriminants.
    own : ndarray[year, pixel], bool
        Whether the pixel is of the class.
    """
    if own.sum(axis=1).min() < LEAST_PIXELS:
        return
    scaled = np.empty_like(values)
    for year, (part, where) in enumerate(zip(values, own, strict=True)):
        middle = np.median(part[:, where], axis=1)
        spread = NORMAL * np.median(np.abs(part[:, where] - middle[:, None]), axis=1)
        found.middle[year, number], found.spread[year, number] = middle, np.maximum(spread, 1e-3)
        scaled[year] = _scaled(part, found.middle[year, number], found.spread[year, number])
    pairs = own[1:] & own[:-1]
    if pairs.sum() < LEAST_PIXELS:
        return
    first, second = (
        part.transpose(1, 0, 2)[:, pairs].astype(np.float64) for part in (scaled[:-1], scaled[1:])
    )
    both = (first * second).mean(axis=1)
    alone = np.sqrt((first**2).mean(axis=1) * (second**2).mean(axis=1))
    found.correlation[number] = np.clip(both / np.maximum(alone, 1e-9), 0, MOST_CORRELATED)


def _scaled(values: np.ndarray, middle: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return discriminants [direction, pixel] in spreads from the middle of a class."""
    return np.clip((values - middle[:, None]) / spread[:, None], -FARTHEST, FARTHEST)


def stay(known: Likeness, series: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Return what the transition of a class to itself is multiplied with, float32 [pair, y, x].

    For each of `lcu.years.pairs_of_years`: one number for all classes, of the mean of their logarithms, each counted by
    its share of the votes of the years. A class that nothing speaks for would judge pixels that lie far outside of it.

    Parameters
    ----------
    series : ndarray[year, feature, y, x], uint16
        As in `fit`.
    votes : ndarray[year, class, y, x], float32
        Shares of the classes in each year; 0 in all where it is missing: then 1 is returned.
    """
    years, classes, *size = votes.shape
    values = known.discriminants(series.reshape(*series.shape[:2], -1))
    shares = votes.reshape(years, classes, -1)
    seen = shares.any(axis=1)
    # Of the years from `first` to `last`, [first][last].
    alike = np.zeros((years, years, values.shape[2]), np.float32)
    for number in np.flatnonzero(known.correlation.any(axis=1)):
        chosen = np.flatnonzero((shares[:, number] > LEAST_VOTE).any(axis=0))
        scaled = np.stack([
            _scaled(own[:, chosen], known.middle[year, number], known.spread[year, number])
            for year, own in enumerate(values)
        ])  # fmt: skip
        of_class = _alike(
            scaled, seen[:, chosen], shares[:, number, chosen], known.correlation[number]
        )
        alike[..., chosen] += of_class
    pairs = pairs_of_years(years)
    factors = np.empty((len(pairs), values.shape[2]), np.float32)
    for factor, (start, step) in zip(factors, pairs, strict=True):
        more = alike[start, step + 1] - alike[start, step]
        np.exp(np.clip(more, -LIMIT, LIMIT), out=factor)
    return factors.reshape(len(pairs), *size)


def _alike(
    scaled: np.ndarray, seen: np.ndarray, share: np.ndarray, correlation: np.ndarray
) -> np.ndarray:
    """Return how much a class says for one place in the years from the first to the last, float32 [first, last, pixel].

    Parameters
    ----------
    scaled : ndarray[year, direction, pixel], float32
        In standard deviations.
    seen : ndarray[year, pixel], bool
    share : ndarray[year, pixel], float32
        The class's share of the votes.
    correlation : ndarray[direction], float32
    """
    years = len(scaled)
    out = np.zeros((years, years, scaled.shape[2]), np.float32)
    for first in range(years):
        total, squares = (np.zeros(scaled.shape[1:], np.float32) for _ in range(2))
        count, weight = np.zeros(scaled.shape[2], np.intp), np.zeros(scaled.shape[2], np.float32)
        for last in range(first, years):
            own = np.where(seen[last], scaled[last], np.float32(0))
            total, squares = total + own, squares + own * own
            count, weight = count + seen[last], weight + share[last]
            mean = weight / np.maximum(count, 1).astype(np.float32)
            mean[(mean <= LEAST_VOTE) | (count < 2)] = 0
            out[first, last] = POWER * mean * log_ratio(total, squares, count, correlation)
    return out


def log_ratio(
    total: np.ndarray, squares: np.ndarray, count: np.ndarray, correlation: np.ndarray
) -> np.ndarray:
    """Return the logarithm of the density of n years over that of each by itself, float32 [pixel].

    Of a multivariate normal with the same correlation r between any two, over the product of its margins: the sum
    over the directions of -((n - 1) log(1 - r) + log(m)) / 2 - r (q - s^2 / m) / (2 (1 - r)), m = 1 + (n - 1) r, with s
    the sum of the values and q that of their squares.

    Parameters
    ----------
    total, squares : ndarray[direction, pixel], float32
        Sums of the values, in standard deviations, and of their squares.
    count : ndarray[pixel], intp
        How many years they are of; above 0.
    correlation : ndarray[direction], float32
    """
    found = np.zeros(total.shape[1], np.float32)
    number = np.arange(count.max(initial=1) + 1, dtype=np.float32)
    # One direction after the other: a sum over an axis may depend on its layout.
    for s, q, r in zip(total, squares, correlation, strict=True):
        more = 1 + np.maximum(number - 1, 0) * r
        constant = -(np.maximum(number - 1, 0) * np.log(1 - r) + np.log(more)) / 2
        found += constant[count] - r / (2 * (1 - r)) * (q - s * s * (1 / more)[count])
    return found
