"""Which acquisitions are worth fetching. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lcu.acquisition import observations
from lcu.grid import Period
from lcu.retrieve.catalogue import Candidate


def newest(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return one product of each observation: L2A before L1C, then the newest baseline.

    Two products of one overpass that two ground stations received are two observations.
    """
    groups = observations(candidates, lambda one: (one.tile, one.datatake, one.strip, one.id))
    return [
        max(group, key=lambda one: (one.level, one.baseline, one.generated, one.id))
        for group in groups
    ]


def clearest(
    candidates: Iterable[Candidate], periods: Sequence[Period], count: int
) -> list[Candidate]:
    """Return at most `count` acquisitions of a year, the clearest, spread over its periods.

    In every round each period gives its clearest one that is left; of the last round the clearest
    are taken. An acquisition that shows part of the tile only counts for as much as it shows.

    Returns
    -------
    list of Candidate
        In time.
    """
    inside = [one for one in candidates if any(one.time in period for period in periods)]
    inside.sort(key=lambda one: (-one.clear, one.time, one.id))
    queues = [[one for one in inside if one.time in period] for period in periods]
    chosen: list[Candidate] = []
    for position in range(max(map(len, queues), default=0)):
        heads = [queue[position] for queue in queues if position < len(queue)]
        heads.sort(key=lambda one: (-one.clear, one.time, one.id))
        chosen += heads[: count - len(chosen)]
    return sorted(chosen, key=lambda one: (one.time, one.id))


def share_of_count(count: int, periods: Sequence[Period]) -> int:
    """Return how many acquisitions are wanted of a year of which a run has only some periods."""
    days = sum((period.end - period.start).days for period in periods)
    return math.ceil(count * min(days / 365, 1.0))
