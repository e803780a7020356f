"""Where time goes: the kinds add up, the innermost counts, other threads do not."""

from __future__ import annotations

import threading
import time

import pytest

from lcu import clock
from lcu.clock import spending


def test_time_counts_for_the_innermost_kind_alone() -> None:
    clock.taken()
    begun = time.perf_counter()
    with spending("writing"):
        time.sleep(0.05)
        with spending("waiting"):
            time.sleep(0.1)
        time.sleep(0.05)
    time.sleep(0.05)
    whole, found = time.perf_counter() - begun, clock.taken()
    assert found["writing"] >= 0.1 and found["waiting"] >= 0.1 and found["reading"] == 0
    assert sum(found.values()) <= whole - 0.05 + 1e-3
    assert clock.taken() == {"reading": 0, "writing": 0, "waiting": 0}


def test_time_counts_where_an_error_ends_it_and_not_in_other_threads() -> None:
    clock.taken()

    @spending("reading")
    def fail() -> None:
        time.sleep(0.02)
        raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert clock.taken()["reading"] >= 0.02
    other = threading.Thread(target=lambda: pytest.raises(ValueError, fail))
    other.start()
    other.join()
    assert clock.taken()["reading"] == 0
