"""The choice over years: a hidden Markov model of each pixel. Arrays in memory: no files, no MPI.

The classes of a pixel over the years are a chain: what a year's acquisitions say of each class
(`probability`), and how likely a class is followed by another one (`transition`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcu import _years

MOST_CLASSES = 250


def pairs_of_years(years: int) -> list[tuple[int, int]]:
    """Return (start, step): staying from year `step` to the next one in a class that began in year `start`."""
    return [(start, step) for step in range(years - 1) for start in range(step + 1)]


def over_votes(stay: np.ndarray, votes: int, mapped: Sequence[int]) -> np.ndarray:
    """Return the factors of all votes from those of the mapped years among them, float32 [pair, y, x]; 1 for others.

    Parameters
    ----------
    stay : ndarray[pair, y, x], float32
        For the pairs of the mapped years.
    votes : int
        How many there are.
    mapped : sequence of int
        Positions of the mapped years among them, ascending.
    """
    place = {pair: number for number, pair in enumerate(pairs_of_years(len(mapped)))}
    pairs = pairs_of_years(votes)
    out = np.ones((len(pairs), *stay.shape[1:]), np.float32)
    for factor, (start, step) in zip(out, pairs, strict=True):
        inside = [number for number, at in enumerate(mapped) if start <= at <= step]
        if inside and step + 1 in mapped:
            factor[:] = stay[place[inside[0], inside[-1]]]
    return out


def most_likely_years(
    probability: np.ndarray, transition: np.ndarray, *, stay: np.ndarray | None = None, threads: int = 1
) -> np.ndarray:  # fmt: skip
    """Return the most likely sequence of classes of each pixel (Viterbi), exactly.

    The sequence c with the largest product of all probability[year, c[year]] and
    transition[c[year], c[year + 1]], in single precision.

    Parameters
    ----------
    probability : ndarray[year, class, y, x], float32
        How likely a year's observations are where the class is so, in any unit, not negative. A year
        with NaN in any class, or with 0 in all, is missing: its class follows from the others.
    transition : ndarray[from, to] or ndarray[year - 1, from, to], float
        Probability that a class is followed by another in the next year; one matrix for all years, or one
        for each step.
    stay : ndarray[pair, y, x], float, optional
        What the transition of a class to itself is multiplied with, for each of `pairs_of_years`: it may depend on
        how long the class has stayed (a hidden semi-Markov model). None: 1.
    threads : int
        Threads over pixels; the result does not depend on it.

    Returns
    -------
    ndarray[year, y, x], uint8
        Class index; 255 where all years are missing. Of sequences that are equally likely the one whose
        last class is first in the legend, then (without `stay`) whose last but one is, and so on. Where the zeros of
        `transition` leave none, the sequence is broken before the year that fits no earlier one.

    Raises
    ------
    ValueError
        Where the shapes do not fit each other, or a number of `transition` or `stay` is negative or not finite.
    """
    flat, *steps = _prepare(probability, transition, stay)
    labels = np.full((len(flat), flat.shape[2]), 255, np.uint8)
    if flat.size:
        _years.decode(flat, *steps, labels, _threads(threads))
    return labels.reshape(len(flat), *probability.shape[2:])


def posterior_of_years(
    probability: np.ndarray, transition: np.ndarray, *, stay: np.ndarray | None = None, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the probability of each class and of a change, given all years (forward-backward).

    Parameters
    ----------
    probability, transition, stay, threads
        As in `most_likely_years`; the rows of `transition` should add up to 1.

    Returns
    -------
    posterior : ndarray[year, class, y, x], float32
        Probability of the class in that year. All classes alike where all years are missing and the
        transitions prefer none.
    change : ndarray[year - 1, y, x], float32
        Probability that the class differs from that of the year before; 1 where the sequence is broken.
    """
    flat, *steps = _prepare(probability, transition, stay)
    posterior = np.zeros(flat.shape, np.float32)
    change = np.zeros((max(len(flat) - 1, 1), flat.shape[2]), np.float32)
    if flat.size:
        _years.posterior(flat, *steps, posterior, change, _threads(threads))
    shape = probability.shape
    return posterior.reshape(shape), change[: len(flat) - 1].reshape(len(flat) - 1, *shape[2:])


def _prepare(
    probability: np.ndarray, transition: np.ndarray, stay: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """Return what the kernels take, float32.

    Probability [year, class, pixel]; transition [step, from, to] and [step, to, from], 0 where a class stays; the
    transition of a class to itself [step, class]; stay [pair, pixel], no pair where it is 1.
    """
    if probability.ndim != 4 or not probability.shape[0]:
        raise ValueError(
            f"probability must be [year, class, y, x] of a year at least, found {probability.shape}"
        )
    classes = probability.shape[1]
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"1 to {MOST_CLASSES} classes are expected, found {classes}")
    matrix = np.ascontiguousarray(transition, np.float32)
    steps = max(len(probability) - 1, 1)
    if matrix.shape not in ((classes, classes), (steps, classes, classes)):
        raise ValueError(
            f"transition must be [{classes}, {classes}] or [{steps}, {classes}, {classes}] for {len(probability)} "
            f"years of {classes} classes, found {matrix.shape}"
        )
    size = (len(pairs_of_years(len(probability))), *probability.shape[2:])
    held = None if stay is None else np.ascontiguousarray(stay, np.float32)
    if held is not None and held.shape != size:
        raise ValueError(f"stay must be [pair, y, x], {size}, found {held.shape}")
    for name, values in (("transition", matrix), ("stay", held)):
        if values is not None and not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must hold finite numbers from 0 on")
    matrices = np.broadcast_to(matrix, (steps, classes, classes))
    diagonal = np.ascontiguousarray(np.diagonal(matrices, axis1=1, axis2=2))
    forth = matrices * ~np.eye(classes, dtype=bool)
    flat = np.ascontiguousarray(probability, np.float32).reshape(*probability.shape[:2], -1)
    held = (
        np.zeros((0, flat.shape[2]), np.float32)
        if held is None
        else held.reshape(size[0], flat.shape[2])
    )
    return flat, forth, np.ascontiguousarray(forth.transpose(0, 2, 1)), diagonal, held


def _threads(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    return threads
