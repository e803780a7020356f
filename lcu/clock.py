"""Where the time of a rank goes: reading, writing, waiting for other ranks; what is left is computing.

Inside a kind another may begin: a part of a second counts for the innermost alone. Threads that read ahead
count for nothing, only the wait for them does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

KINDS = ("reading", "writing", "waiting")

_seconds = dict.fromkeys(KINDS, 0.0)
_inside: list[str] = []
_since = 0.0


@contextlib.contextmanager
def spending(kind: str) -> Iterator[None]:
    """Count the time inside as reading (files to arrays, decoding too), writing or waiting; also a decorator."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _count()
    _inside.append(kind)
    try:
        yield
    finally:
        _count()
        _inside.pop()


def _count() -> None:
    """Add the time since the last call to the innermost kind."""
    global _since  # noqa: PLW0603  (a process has one main thread, which spends its time once)
    now = time.perf_counter()
    if _inside:
        _seconds[_inside[-1]] += now - _since
    _since = now


def taken() -> dict[str, float]:
    """Return the seconds of each kind since the last call."""
    found = dict(_seconds)
    _seconds.update(dict.fromkeys(KINDS, 0.0))
    return found
