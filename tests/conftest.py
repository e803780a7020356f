"""Shared by all tests: hypothesis is derandomised (ranks must draw the same), mpirun, the real data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "lcu", derandomize=True, deadline=None, database=None, max_examples=60
)
hypothesis.settings.load_profile("lcu")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

# What a small machine needs; see jobscripts/env/debian.sh.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}

Mpirun = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def mpirun() -> Mpirun:
    """Return a function that runs ``python *arguments`` on `ranks` ranks, with a time limit."""

    def run(ranks: int, *arguments: object, limit: float = 120) -> subprocess.CompletedProcess:
        command = ["timeout", "-k", "5", str(limit), "mpirun", "-n", str(ranks), sys.executable]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OMPI_COMM")
        }
        return subprocess.run(
            [*command, *map(str, arguments)], env=environment | ENVIRONMENT, capture_output=True, text=True,
            timeout=limit + 30, cwd=ROOT, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data; skip where it is missing (it is not part of a public clone)."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data are not at {SHARED}")
    return SHARED
