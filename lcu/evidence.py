"""From probabilities of single years to evidence for the choice over years. Arrays in memory: no files, no MPI.

A classifier's probabilities are no likelihoods: it errs in some classes more than in others, and it is surer than it
should be. So its answer is taken as a vote for one class, and how strong that vote is as one of a few grades. What a
vote of a grade is worth is found from all pixels: how often each is cast where a class is so, and the transitions, are
those under which the votes of all years are likeliest (Baum et al. 1970, Annals of Mathematical Statistics 41). The old
map's vote is one more year with shares of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lcu.legend import OUTSIDE
from lcu.reliability import SCALE
from lcu.years import most_likely_years

# Power of the probabilities in a vote.
SHARPNESS = 2.0

# Shares of a vote that part its grades, half-way between two that can be written: what is written is of the same grade.
GRADES = np.array([150.5, 212.5, 242.5, 248.5], np.float32) / np.float32(SCALE)

# How often a vote of each grade is taken to be right before anything was counted; several years correct it.
TRUST = (0.5, 0.55, 0.6, 0.7, 0.75)

# How often expectation and maximisation take turns. Not until nothing changes any more: then errors that differ from
# year to year pass for changes, and what is rare for the errors of something else (docs/consistency.md).
TURNS = 2

# TRANSITIONS_WEIGHT: of the legend's transitions against those that are expected; FEWEST_PIXELS: a class of which
# fewer are expected has this many. ERRORS_WEIGHT: pixels with ERRORS_DIAGONAL right votes that are added to each class.
TRANSITIONS_WEIGHT = 0.1
FEWEST_PIXELS = 1000
ERRORS_WEIGHT = 50.0
ERRORS_DIAGONAL = 0.9

# Expected counts of a cell are written in units of this: sums of whole numbers have no order.
UNIT = 2.0**-20


@dataclass(frozen=True)
class Chain:
    """What is known about all pixels: a hidden Markov model whose observations are votes.

    Attributes
    ----------
    years : tuple of int
        The years that there are votes of, ascending: the mapped ones, and the old map's where it is used.
    step : ndarray[from, to], float64
        Probability that a class is followed by another in the next year.
    errors : ndarray[year, class, vote, grade], float64
        How often each class is voted for, how strongly, where the class is so, up to a factor for each vote and grade.
    """

    years: tuple[int, ...]
    step: np.ndarray
    errors: np.ndarray

    @property
    def transition(self) -> np.ndarray:
        """From each of `years` to the next one, float64 [year - 1, from, to]."""
        return transitions_over(self.step, self.years)


def years_of_votes(years: Sequence[int], map_year: int | None) -> tuple[list[int], list[int]]:
    """Return the year of each vote, ascending, an old map's before its like, and the positions of the mapped years.

    Parameters
    ----------
    years : sequence of int
        The mapped years, ascending.
    map_year : int or None
        The old map's, where it votes.
    """
    if map_year is None:
        return list(years), list(range(len(years)))
    everything = sorted([*years, map_year])
    old = everything.index(map_year)
    return everything, [position for position in range(len(everything)) if position != old]


def transitions_over(step: np.ndarray, years: Sequence[int]) -> np.ndarray:
    """Return the transitions between years that lie some years apart, [year - 1, from, to]."""
    if len(years) == 1:
        return step[None]
    powers = [np.linalg.matrix_power(step, int(gap)) for gap in np.diff(years)]
    return np.stack(powers)


def votes(probability: np.ndarray) -> np.ndarray:
    """Return what the classifier votes for.

    Parameters
    ----------
    probability : ndarray[..., class, y, x], float32
        0..1; NaN where the year is missing.

    Returns
    -------
    ndarray of that shape, float32
        Sums to 1 over the classes; 0 in all where the year is missing.
    """
    sharp = np.nan_to_num(probability) ** np.float32(SHARPNESS)
    total = sharp.sum(axis=-3, keepdims=True)
    return sharp / np.where(total > 0, total, 1)


def votes_of_map(indices: np.ndarray, classes: int) -> np.ndarray:
    """Return the votes of a map, float32 [class, y, x], from class indices uint8 [y, x]; 255 votes for none."""
    return (indices[None] == np.arange(classes, dtype=np.uint8)[:, None, None]).astype(np.float32)


def graded(cast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class that is voted for and the grade of the vote, intp [y, x] each, the first among equals.

    Parameters
    ----------
    cast : ndarray[vote, y, x], float32
        As `votes` returns them, of one year.
    """
    most, vote = cast[0].copy(), np.zeros(cast.shape[1:], np.intp)
    for number, own in enumerate(cast[1:], 1):
        vote[own > most] = number
        np.maximum(most, own, out=most)
    return vote, np.searchsorted(GRADES, most)


def evidence(cast: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return how likely the votes are in each class, relative to the likeliest.

    Parameters
    ----------
    cast : ndarray[year, vote, y, x], float32
        As `votes` returns them.
    errors : ndarray[year, class, vote, grade], float64

    Returns
    -------
    ndarray[year, class, y, x], float32
        0..1; 1 in all classes where there is no vote.
    """
    out = np.empty(cast.shape, np.float32)
    relative = (errors / errors.max(axis=1, keepdims=True)).astype(np.float32)
    for own, tables, likely in zip(cast, relative, out, strict=True):
        place, missing = np.ravel_multi_index(graded(own), tables.shape[1:]), ~own.any(axis=0)
        for table, found in zip(tables, likely, strict=True):
            np.take(table.ravel(), place, out=found)
            found[missing] = 1
    return out


def as_probability(written: np.ndarray) -> np.ndarray:
    """Return written probabilities, uint8 [..., class, y, x], as float32 0..1; NaN where there is none."""
    return np.where(written >= OUTSIDE, np.float32(np.nan), written / np.float32(SCALE))


def expected_counts(cast: np.ndarray, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """Return how many transitions and votes of each kind are to be expected, given all votes (forward-backward).

    A pixel is of classes only that some year votes for: else a class that hardly occurs would come to stand for a
    common one's errors.

    Parameters
    ----------
    cast : ndarray[year, vote, y, x], float32

    Returns
    -------
    transitions : ndarray[from, to], int64
        Between years that follow directly, x 2^20.
    errors : ndarray[year, class, vote, grade], int64
        x 2^20.
    """
    known = cast.any(axis=(0, 1))
    cast = np.ascontiguousarray(cast[..., known])[..., None]
    seen = cast.any(axis=1)[..., 0]
    vote, grade = (np.stack(part)[..., 0] for part in zip(*map(graded, cast), strict=True))
    after, classes = chain.transition, cast.shape[1]
    voted_for = np.zeros((classes, vote.shape[1]), bool)
    for own, where in zip(vote, seen, strict=True):
        voted_for[own[where], np.flatnonzero(where)] = True
    likely = evidence(cast, chain.errors)[..., 0] * voted_for.astype(np.float64)
    # Each year's classes given the votes up to it, then given all. Plain sums, not those of a linear algebra library,
    # whose order may depend on its threads.
    given = np.empty_like(likely)
    given[0] = _shares(likely[0])
    for year in range(1, len(given)):
        before = np.einsum("fp,ft->tp", given[year - 1], after[year - 1])
        given[year] = _shares(before * likely[year])
    transitions = np.zeros((classes, classes))
    rest = np.ones_like(likely[0])
    for year in range(len(given) - 2, -1, -1):
        ahead = likely[year + 1] * rest
        rest = np.einsum("ft,tp->fp", after[year], ahead)
        both = given[year] / (given[year] * rest).sum(axis=0)
        if chain.years[year + 1] - chain.years[year] == 1:
            transitions += after[year] * np.einsum("fp,tp->ft", both, ahead)
        given[year] = both * rest
        rest = _shares(rest)
    size = len(TRUST)
    errors = [
        np.bincount(own[where] * size + of[where], share[where], classes * size)
        for own, of, where, shares in zip(vote, grade, seen, given, strict=True)
        for share in shares
    ]
    errors = np.stack(errors).reshape(len(given), classes, classes, size)
    return tuple(np.rint(counts / UNIT).astype(np.int64) for counts in (transitions, errors))


def _shares(values: np.ndarray) -> np.ndarray:
    """Return values [class, pixel] over their sums."""
    return values / values.sum(axis=0)


def first_chain(years: Sequence[int], step: np.ndarray) -> Chain:
    """Return the chain before anything was counted: the legend's transitions, votes right as often as `TRUST` says."""
    classes, right = len(step), np.array(TRUST)
    others = np.broadcast_to((1 - right) / max(classes - 1, 1), (classes, classes, len(right)))
    errors = np.where(np.eye(classes, dtype=bool)[..., None], right, others)
    return Chain(tuple(years), step, np.stack([errors] * len(years)))


def estimate(
    cells: Callable[[], Iterable[np.ndarray]], years: Sequence[int], mapped: Sequence[int], prior: np.ndarray,
    add: Callable[[np.ndarray], np.ndarray] = lambda counts: counts,
) -> Chain:  # fmt: skip
    """Estimate errors and transitions from the votes alone (expectation and maximisation in turn).

    Parameters
    ----------
    cells : callable
        Gives all votes, float32 [year, vote, y, x] each, anew every time.
    years : sequence of int
        The year of each vote.
    mapped : sequence of int
        Positions of the mapped years among them. Their errors are counted together: with counts for each, a change of
        a rare class would pass for an error that the classifier makes in that year.
    prior : ndarray[from, to], float64
        The legend's transitions.
    add : callable
        Adds counts up over the ranks.
    """
    classes, mapped = len(prior), list(mapped)
    chain = first_chain(years, prior)
    # One vote alone says nothing about its own errors.
    for _ in range(TURNS if len(years) > 1 else 0):
        transitions = np.zeros((classes, classes), np.int64)
        errors = np.zeros(chain.errors.shape, np.int64)
        for cast in cells():
            own_transitions, own_errors = expected_counts(cast, chain)
            transitions += own_transitions
            errors += own_errors
        transitions, errors = add(transitions), add(errors)
        errors[mapped] = errors[mapped].sum(axis=0)
        chain = next_chain(chain, prior, transitions * UNIT, errors * UNIT)
    return chain


def next_chain(
    chain: Chain, prior: np.ndarray, transitions: np.ndarray, errors: np.ndarray
) -> Chain:
    """Return the chain that follows from what is expected with the last one.

    Parameters
    ----------
    prior : ndarray[from, to], float64
        The legend's transitions.
    transitions, errors : ndarray, float64
        Sums over all pixels of `expected_counts`, in pixels.
    """
    weight = TRANSITIONS_WEIGHT * np.maximum(transitions.sum(axis=1, keepdims=True), FEWEST_PIXELS)
    step = transitions + weight * prior
    shares = np.stack([_errors(own) for own in errors])
    return Chain(chain.years, step / step.sum(axis=1, keepdims=True), shares)


def _errors(counts: np.ndarray) -> np.ndarray:
    """Return the shares of votes and grades in each class, [class, vote, grade], of counts.

    A few pixels of mostly right votes are added to each class, graded as all right and all wrong ones for it are.
    """
    classes = len(counts)
    right = np.einsum("vvg->vg", counts)
    wrong = counts.sum(axis=0) - right
    grades = [(own + 1) / (own + 1).sum(axis=1, keepdims=True) for own in (right, wrong)]
    added = (1 - ERRORS_DIAGONAL) / classes * np.broadcast_to(grades[1], counts.shape)
    added = added + ERRORS_DIAGONAL * np.eye(classes)[..., None] * grades[0]
    full = counts + ERRORS_WEIGHT * added
    return full / full.sum(axis=(1, 2), keepdims=True)


def decode(cast: np.ndarray, chain: Chain, stay: np.ndarray | None = None) -> np.ndarray:
    """Return the most likely class index of each year, uint8 [year, y, x], from votes [year, vote, y, x].

    255 where there is no vote in any year. `stay` as in `most_likely_years`.
    """
    labels = most_likely_years(evidence(cast, chain.errors), chain.transition, stay=stay)
    labels[:, ~cast.any(axis=(0, 1))] = 255
    return labels
