"""How alike the years of a pixel are: evidence for a class that stays. Arrays in memory: no files, no MPI.

A hidden Markov model takes what the years show as independent, given the classes. It is not: a stand keeps its trees
and a field its soil, so the years of one place are more alike than two places of its class, and where they are less so
something happened. So a class that stays from one year to another is worth

    p(z1, ..., zn | the same place, of the class in all years) / (p(z1 | the class) ... p(zn | the class)),

z being linear discriminants of the years: normal in a class and year, each with the same correlation between all
years of a place, which has a level of its own that lasts (the density of a multivariate normal over those of its
margins). So the mean of all years before a change is compared with that of all after it, where pairs of successive
years would compare one with one.

There are three witnesses. The *series*: those of the ground around a pixel, not of it alone (`around`), for what
changes for good is larger than a pixel, and what makes a pixel look different from one year to another is often its
own. The *answers* of the classifier, all of its probabilities (`answers`): it is unsure of some places in every year,
but where it was sure and no longer is, something happened, even if the class that it names is still the same. And the
*lead* of the class that it names in all years together over this class's strongest rival (`leads`): of all directions
the one in which a change would show. They are no independent witnesses, nor are discriminants: the logarithms count
by `POWERS`, and what one year more adds is kept within bounds (docs/consistency.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lcu.discriminants import add_up, directions, project
from lcu.legend import NODATA
from lcu.reliability import SCALE, quantise
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

# What the logarithm of each witness counts; least and most that one year more adds to their sum.
POWERS = {"series": np.float32(0.5), "answers": np.float32(0.15), "lead": np.float32(0.1)}
LEAST_ADDED, MOST_ADDED = np.float32(-3.0), np.float32(6.0)

# Logarithm of each written probability, in whole numbers from 1 on; those well below a hundredth are alike.
WHOLE_LOGARITHM = np.rint(1 + 2000 * np.log(1 + 100 * np.arange(SCALE + 1) / SCALE)).astype(
    np.uint16
)

# The `series` and the `answers` of some pixels: uint16 [year, feature, pixel] or [year, feature, y, x]; a year in which
# all features are 0 is missing.
Looks = dict[str, np.ndarray]

# From a median absolute deviation to the standard deviation of a normal distribution.
NORMAL = 1.4826


@dataclass(frozen=True)
class Likeness:
    """What is known of one witness's discriminants, of all pixels.

    Attributes
    ----------
    centre : ndarray[year, feature], whole numbers
        Mean features of each year.
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

    def discriminants(self, features: np.ndarray) -> np.ndarray:
        """Return discriminants float32 [year, direction, pixel] of features uint16 [year, feature, pixel]."""
        values = [
            project(own.T - centre, self.weights, self.frame).T
            for own, centre in zip(features, self.centre, strict=True)
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


def answers(probability: np.ndarray) -> np.ndarray:
    """Return what a classifier says as features: logarithms in whole numbers, uint16 of that shape; 0 = missing.

    Parameters
    ----------
    probability : ndarray[year, class, ...], float32
        0..1; NaN where the year is missing. Those that are written alike are alike.
    """
    missing = np.isnan(probability)
    written = quantise(np.where(missing, np.float32(0), probability))
    return np.where(missing, np.uint16(0), WHOLE_LOGARITHM[written])


def leads(said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which class is the likeliest in all years together, and by how much it leads in each.

    Over the class, among the others, that is the likeliest in any year: the same one in all years.

    Parameters
    ----------
    said : ndarray[year, class, pixel], uint16
        What `answers` returns.

    Returns
    -------
    first : ndarray[year, pixel], uint8
        Class index, the same in all years; 255 in those that are missing.
    lead : ndarray[year, 1, pixel], uint16
        Difference of the logarithms + 10000; 0 in years that are missing.
    """
    seen = said.any(axis=1)
    best = said.sum(axis=0, dtype=np.int64).argmax(axis=0)
    most = said.max(axis=0)
    np.put_along_axis(most, best[None], 0, axis=0)
    rival = most.argmax(axis=0)
    of_best, of_rival = (
        np.take_along_axis(said, chosen[None, None], axis=1).astype(np.int32)
        for chosen in (best, rival)
    )
    lead = np.where(seen[:, None], of_best - of_rival + 10000, 0).astype(np.uint16)
    return np.where(seen, best, NODATA).astype(np.uint8), lead


def fit(features: np.ndarray, label: np.ndarray, classes: int) -> Likeness | None:
    """Find the discriminants of a witness, and how they correlate from year to year.

    Parameters
    ----------
    features : ndarray[year, feature, pixel], uint16
        Of pixels of all kinds: gap-filled reflectance x 10000 of each year, as `around` returns it, time and band in
        one axis, or what `answers` or `leads` returns. 0 in all where the year is missing.
    label : ndarray[year, pixel], uint8
        Class index; 255 = none.
    classes : int

    Returns
    -------
    Likeness or None
        None where fewer than two classes are there, or none differs from another.
    """
    years, width, _ = features.shape
    label = np.where(features.any(axis=1), label, np.uint8(NODATA))
    centre = np.rint(features.mean(axis=2, dtype=np.float64))
    total = [np.zeros(shape, np.int64) for shape in (classes, (classes, width), (width, width))]
    for own, middle, of_year in zip(features, centre, label, strict=True):
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
    values = empty.discriminants(features)
    for number in range(classes):
        _fit_class(empty, number, values, label == number)
    return empty


def fit_parts(
    gathered: Sequence[Sequence[tuple[int, Looks, np.ndarray]]] | None, classes: int
) -> dict[str, Likeness]:
    """Do as `fit` for each witness with parts that ranks sent, (number, looks, label) each, in their order.

    A witness that has nothing to tell is left out.
    """
    parts = sorted((part for sent in gathered or [] for part in sent), key=lambda part: part[0])
    series, said = (
        np.concatenate([part[1][kind] for part in parts], axis=-1) for kind in ("series", "answers")
    )
    label = np.concatenate([part[2] for part in parts], axis=-1)
    first, lead = leads(said)
    told = {"series": (series, label), "answers": (said, label), "lead": (lead, first)}
    found = {kind: fit(*testimony, classes) for kind, testimony in told.items()}
    return {kind: known for kind, known in found.items() if known is not None}


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


def stay(witnesses: dict[str, Likeness], looks: Looks, votes: np.ndarray) -> np.ndarray:
    """Return what the transition of a class to itself is multiplied with, float32 [pair, y, x].

    For each of `lcu.years.pairs_of_years`: one number for all classes, of the mean of their logarithms, each counted by
    its share of the votes of the years. A class that nothing speaks for would judge pixels that lie far outside of it.

    Parameters
    ----------
    looks : dict of str to ndarray[year, feature, y, x], uint16
        As in `fit`.
    votes : ndarray[year, class, y, x], float32
        Shares of the classes in each year; 0 in all where it is missing: then 1 is returned.
    """
    years, classes, *size = votes.shape
    shares = votes.reshape(years, classes, -1)
    # Of the years from `first` to `last`, [first][last].
    alike = np.zeros((years, years, shares.shape[2]), np.float32)
    series, said = (
        looks[kind].reshape(*looks[kind].shape[:2], -1) for kind in ("series", "answers")
    )
    first, lead = leads(said)
    of_first = (first[:, None] == np.arange(classes)[:, None]).astype(np.float32)
    told = {"series": (series, shares), "answers": (said, shares), "lead": (lead, of_first)}
    for kind, known in witnesses.items():
        _add_alike(alike, known, *told[kind], POWERS[kind])
    pairs = pairs_of_years(years)
    factors = np.empty((len(pairs), shares.shape[2]), np.float32)
    for factor, (start, step) in zip(factors, pairs, strict=True):
        more = alike[start, step + 1] - alike[start, step]
        np.exp(np.clip(more, LEAST_ADDED, MOST_ADDED), out=factor)
    return factors.reshape(len(pairs), *size)


def _add_alike(
    alike: np.ndarray, known: Likeness, features: np.ndarray, shares: np.ndarray, power: np.float32
) -> None:
    """Add what a witness says for one place to `alike` [first, last, pixel], as all classes with votes see it."""
    values, seen = known.discriminants(features), shares.any(axis=1)
    for number in np.flatnonzero(known.correlation.any(axis=1)):
        chosen = np.flatnonzero((shares[:, number] > LEAST_VOTE).any(axis=0))
        scaled = np.stack([
            _scaled(own[:, chosen], known.middle[year, number], known.spread[year, number])
            for year, own in enumerate(values)
        ])  # fmt: skip
        of_class = _alike(
            scaled, seen[:, chosen], shares[:, number, chosen], known.correlation[number]
        )
        alike[..., chosen] += power * of_class


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
            out[first, last] = mean * log_ratio(total, squares, count, correlation)
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
