"""Samples of land that changes in the middle of a year: the beginning of one sample's series, the end of another's.

Land is felled, built on or flooded on any day. The series of that year begins as one class and ends as another, and
is like neither. No sample shows it: the old map labels a pixel once, and what does not look like its class is cleaned
away. So a model calls such a series by the class that it happens to lie nearer to, often the one that is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lcu.config import Config
from lcu.grid import day_number
from lcu.legend import NODATA
from lcu.sample import Samples
from lcu.sample.draw import TRAINING
from lcu.store import PATCH, SAMPLES

# What tells these random numbers from others with the same seed.
STREAM = 5


def with_spliced(config: Config, samples: Samples, classes: Sequence[int]) -> Samples:
    """Return the samples, and of each year and class `train.spliced` times as many that changed from it in that year.

    Both parts are training samples. Which class follows is drawn by the legend's transitions, when by chance between
    the first period and the last one of the calendar year that leave an observation on either side. Such a sample
    is called what it ends as, and weighs what the sample does that it begins as. It is labelled in that year only; in
    all years where a model joins them (`Train.joins_years`), those that ended before the change being called what it
    begins as.

    Parameters
    ----------
    classes : sequence of int
        Class values that are learned.
    """
    if not config.train.spliced:
        return samples
    random = np.random.default_rng((config.run.seed, STREAM))
    observed, parts = seen_in_periods(config, samples), [samples]
    for position, year in enumerate(samples.years):
        inside = config.window_of(year)
        last = sum(config.periods[place].start.year <= year for place in inside)
        seen = observed[:, inside]
        own = np.flatnonzero(
            (samples.split == TRAINING) & np.isin(samples.label[:, position], classes)
        )
        own = own[seen[own].any(axis=1)]
        index = config.legend.index_of(samples.label[own, position])
        before, after = pairs(
            index, config.legend.transition_matrix(), config.train.spliced, random
        )
        before, after = own[before], own[after]
        turn = turns(seen[before], seen[after], last, random)
        there = turn > 0
        start = np.array(inside)[turn[there]]
        parts.append(_joined(config, samples, before[there], after[there], start, position))
    names = [dataset.name for dataset in (*SAMPLES, PATCH)]
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    return replace(
        samples,
        **{name: np.concatenate(own) for name, own in columns.items() if own[0] is not None},
    )


def pairs(
    index: np.ndarray, transition: np.ndarray, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what changes into what: positions of both, int64 [pair], `share` times as many as there are of each class.

    Parameters
    ----------
    index : ndarray[sample], uint8
        Class index.
    transition : ndarray[from, to], float64
        Probabilities; staying does not count.
    """
    members = [np.flatnonzero(index == value) for value in range(len(transition))]
    before, after = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for value, own in enumerate(members):
        chances = np.where([len(others) > 0 for others in members], transition[value], 0)
        chances[value] = 0
        count = int(np.ceil(share * len(own)))
        if not count or not chances.any():
            continue
        to = random.choice(len(chances), count, p=chances / chances.sum())
        before.append(random.choice(own, count))
        after.append(np.array([random.choice(members[other]) for other in to]))
    return np.concatenate(before), np.concatenate(after)


def turns(
    before: np.ndarray, after: np.ndarray, last: int, random: np.random.Generator
) -> np.ndarray:
    """Draw the period from which on each pair shows the second one, int64 [pair]; 0 where none is possible.

    Parameters
    ----------
    before, after : ndarray[pair, time], bool
        What was observed of each.
    last : int
        The period must be before this one.
    """
    began = np.logical_or.accumulate(before, axis=1)[:, :-1]
    goes_on = np.logical_or.accumulate(after[:, ::-1], axis=1)[:, ::-1][:, 1:]
    possible = began & goes_on & (np.arange(1, before.shape[1]) < last)
    chosen = np.where(possible, random.random(possible.shape), -1).argmax(axis=1)
    return np.where(possible.any(axis=1), chosen + 1, 0)


def first_days(config: Config) -> np.ndarray:
    """Return the first day of each period, int64 [period], days since 2015-01-01."""
    return np.array([day_number(period.start) for period in config.periods])


def seen_in_periods(config: Config, samples: Samples) -> np.ndarray:
    """Return whether each sample was observed in each period, bool [sample, period]."""
    if not config.own_days:
        return samples.count > 0
    starts = first_days(config)
    place = np.searchsorted(starts, samples.day, side="right") - 1
    row, slot = np.nonzero(samples.count)
    seen = np.zeros((len(place), len(starts)), bool)
    seen[row, place[row, slot]] = True
    return seen


def _joined(
    config: Config, samples: Samples, before: np.ndarray, after: np.ndarray, start: np.ndarray, position: int
) -> Samples:  # fmt: skip
    """Return pairs as samples that show the first until the period `start` and the second from there on."""
    columns = {
        dataset.name: values[after]
        for dataset in (*SAMPLES, PATCH)
        if (values := getattr(samples, dataset.name)) is not None
    }
    of_periods = {"patch"} if config.own_days else {"series", "count", "day", "patch"}
    first = np.arange(len(config.periods)) < start[:, None]
    for name in of_periods & set(columns):
        own = columns[name]
        columns[name] = np.where(
            first.reshape(*first.shape, *(1,) * (own.ndim - 2)), getattr(samples, name)[before], own
        )
    if config.own_days:
        turn = first_days(config)[start]
        columns |= _joined_by_day(config, samples, before, after, turn)
    turned = np.array([period.start.year for period in config.periods])[start]
    ended = np.array(samples.years) < turned[:, None]
    label = np.where(ended, samples.label[before], columns["label"])
    if not config.train.joins_years:
        label[:, np.arange(len(samples.years)) != position] = NODATA
    return replace(samples, **columns | {"label": label, "weight": samples.weight[before]})


def _joined_by_day(
    config: Config, samples: Samples, before: np.ndarray, after: np.ndarray, turn: np.ndarray
) -> dict[str, np.ndarray]:
    """Return series, count and day of pairs: the first's acquisitions before the day `turn`, the second's from it on.

    Where they are more than a year has room for, the last ones are left out.
    """
    day, count = (
        np.stack([values[before], values[after]], axis=1) for values in (samples.day, samples.count)
    )
    early = day < turn[:, None, None]
    early[:, 1] = ~early[:, 1]
    kept = (count > 0) & early
    out = {
        name: np.zeros_like(getattr(samples, name)[after]) for name in ("series", "count", "day")
    }
    room, rows = config.composite.count, np.arange(len(turn))[:, None]
    for first in range(0, day.shape[2], room):
        year = slice(first, first + room)
        key = np.where(kept[..., year], day[..., year], np.iinfo(np.int32).max)
        order = key.reshape(len(turn), -1).argsort(axis=1, kind="stable")[:, :room]
        there = kept[..., year].reshape(len(turn), -1)[rows, order]
        source, slot = np.where(order < room, before[:, None], after[:, None]), first + order % room
        for name, values in out.items():
            found = getattr(samples, name)[source, slot]
            found[~there] = 0
            values[:, year] = found
    return out
