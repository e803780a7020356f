"""Reading ahead: what comes next is read while the last is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lcu.clock import spending

Unit = TypeVar("Unit")
Given = TypeVar("Given")


def ahead(read: Callable[[Unit], Given], units: Sequence[Unit]) -> Iterator[tuple[Unit, Given]]:
    """Yield (unit, read(unit)) in order, the next unit being read by a second thread meanwhile.

    An error of `read` is raised where its unit would come. `read` holds no collective.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read, unit) for unit in units[:1]]
        for number, unit in enumerate(units):
            if number + 1 < len(units):
                waiting.append(pool.submit(read, units[number + 1]))
            with spending("reading"):
                given = waiting.pop(0).result()
            yield unit, given
