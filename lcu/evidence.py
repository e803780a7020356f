"""From probabilities of single years to evidence for the choice over years. Arrays in memory: no files, no MPI.

A classifier's probabilities are no likelihoods: it errs in some classes more than in others, and its doubts are
larger or smaller than they should be. So its answer is taken as a vote, and what a vote is worth is found from all
pixels: its error matrix, and the transitions, are estimated again and again from the classes that they lead to
(Viterbi training). The old map's vote is one more year with its own error matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lcu.legend import OUTSIDE
from lcu.reliability import SCALE
from lcu.years import most_likely_years

# Power of the probabilities in a vote, and, below, weight of the legend's transitions against what is counted: chosen
# on the simulated landscape (docs/consistency.md). With a power of 1 doubt counts twice, in the vote and in the error
# matrix; with a large one nothing is left of it.
SHARPNESS = 2.0

# How often a chain is estimated: every turn makes the maps a little better, and a change of a rare class a little more
# like an error, since what is decoded holds fewer changes than there are.
TURNS = 2

# FEWEST_PIXELS: a class that was counted less often has this many; ERRORS_WEIGHT: pixels of a matrix with
# ERRORS_DIAGONAL right votes that are added to each class.
TRANSITIONS_WEIGHT = 0.3
FEWEST_PIXELS = 1000
ERRORS_WEIGHT = 100.0
ERRORS_DIAGONAL = 0.8


@dataclass(frozen=True)
class Chain:
    """What is known about all pixels: a hidden Markov model whose observations are votes.

    Attributes
    ----------
    years : tuple of int
        The years that there are votes of, ascending: the mapped ones, and the old map's where it is used.
    step : ndarray[from, to], float64
        Probability that a class is followed by another in the next year.
    errors : ndarray[year, class, vote], float64
        How often each class is voted for where the class is so; rows sum to 1.
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


def evidence(cast: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return how likely the votes are in each class, relative to the likeliest.

    A vote that is divided counts for each of its classes in part: the product of errors[class, vote] to the
    power of the part.

    Parameters
    ----------
    cast : ndarray[year, vote, y, x], float32
        As `votes` returns them.
    errors : ndarray[year, class, vote], float64

    Returns
    -------
    ndarray[year, class, y, x], float32
        0..1; 1 in all classes where there is no vote.
    """
    out = np.empty(cast.shape, np.float32)
    for number, (own, matrix) in enumerate(zip(cast, np.log(errors), strict=True)):
        # Class by class in a fixed order: the sums of a matrix product may depend on its shape.
        for to, weights in enumerate(matrix.astype(np.float32)):
            total = own[0] * weights[0]
            for vote, weight in zip(own[1:], weights[1:], strict=True):
                total += vote * weight
            out[number, to] = total
        out[number] -= out[number].max(axis=0)
    return np.exp(out, out=out)


def as_probability(written: np.ndarray) -> np.ndarray:
    """Return written probabilities, uint8 [..., class, y, x], as float32 0..1; NaN where there is none."""
    return np.where(written >= OUTSIDE, np.float32(np.nan), written / np.float32(SCALE))


def count_transitions(labels: np.ndarray, years: Sequence[int], classes: int) -> np.ndarray:
    """Count how often classes follow each other in successive years, int64 [from, to].

    Parameters
    ----------
    labels : ndarray[year, y, x], uint8
        Class indices; 255 = none. Only years that follow directly are counted.
    """
    counts = np.zeros((classes, classes), np.int64)
    for position, gap in enumerate(np.diff(years)):
        before, after = labels[position].astype(np.int64), labels[position + 1]
        known = (before < classes) & (after < classes)
        if gap == 1:
            pairs = before[known] * classes + after[known]
            counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


def count_errors(labels: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """Add up the votes by class and year, int64 [year, class, vote], in 1 / SCALE of a vote.

    Parameters
    ----------
    labels : ndarray[year, y, x], uint8
        Class indices; 255 = none.
    cast : ndarray[year, vote, y, x], float32
    """
    classes = cast.shape[1]
    parts = np.floor(cast * np.float32(SCALE) + np.float32(0.5)).astype(np.int64)
    counts = np.zeros((len(labels), classes, classes), np.int64)
    for year, (own, part) in enumerate(zip(labels, parts, strict=True)):
        for label in range(classes):
            counts[year, label] = part[:, own == label].sum(axis=1)
    return counts


def first_chain(years: Sequence[int], step: np.ndarray) -> Chain:
    """Return the chain before anything was counted: the legend's transitions, votes as they are."""
    classes = len(step)
    return Chain(tuple(years), step, np.stack([_errors(np.zeros((classes, classes)))] * len(years)))


def estimate(
    cells: Callable[[], Iterable[np.ndarray]], years: Sequence[int], mapped: Sequence[int], prior: np.ndarray,
    add: Callable[[np.ndarray], np.ndarray] = lambda counts: counts,
) -> Chain:  # fmt: skip
    """Estimate error matrices and transitions from what they lead to (Viterbi training).

    Parameters
    ----------
    cells : callable
        Gives all votes, float32 [year, vote, y, x] each, anew every time.
    years : sequence of int
        The year of each vote.
    mapped : sequence of int
        Positions of the mapped years among them. They share one error matrix: with one for each, a change of a rare
        class would pass for an error that the classifier makes in that year.
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
        errors = np.zeros((len(years), classes, classes), np.int64)
        for cast in cells():
            labels = decode(cast, chain)
            transitions += count_transitions(labels, years, classes)
            errors += count_errors(labels, cast)
        transitions, errors = add(transitions), add(errors)
        errors[mapped] = errors[mapped].sum(axis=0)
        chain = next_chain(chain, prior, transitions, errors)
    return chain


def next_chain(
    chain: Chain, prior: np.ndarray, transitions: np.ndarray, errors: np.ndarray
) -> Chain:
    """Return the chain that follows from what was counted with the last one.

    Parameters
    ----------
    prior : ndarray[from, to], float64
        The legend's transitions.
    transitions, errors : ndarray, int64
        Sums over all pixels of `count_transitions` and `count_errors`.
    """
    weight = TRANSITIONS_WEIGHT * np.maximum(transitions.sum(axis=1, keepdims=True), FEWEST_PIXELS)
    step = transitions + weight * prior
    matrices = np.stack([_errors(own / SCALE) for own in errors])
    return Chain(chain.years, step / step.sum(axis=1, keepdims=True), matrices)


def _errors(counts: np.ndarray) -> np.ndarray:
    """Return an error matrix [class, vote] from counts, a few pixels of mostly right votes added."""
    classes = len(counts)
    added = np.eye(classes) * ERRORS_DIAGONAL + (1 - ERRORS_DIAGONAL) / classes
    full = counts + ERRORS_WEIGHT * added
    return full / full.sum(axis=1, keepdims=True)


def decode(cast: np.ndarray, chain: Chain, stay: np.ndarray | None = None) -> np.ndarray:
    """Return the most likely class index of each year, uint8 [year, y, x], from votes [year, vote, y, x].

    255 where there is no vote in any year. `stay` as in `most_likely_years`.
    """
    labels = most_likely_years(evidence(cast, chain.errors), chain.transition, stay=stay)
    labels[:, ~cast.any(axis=(0, 1))] = 255
    return labels
