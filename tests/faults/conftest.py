"""One landscape, mapped once, for all tests of faults."""

from __future__ import annotations

import pytest

from tests.faults.harness import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the landscape and its undisturbed run."""
    return make_world(tmp_path_factory.mktemp("faults"))
