"""Shared by all tests: hypothesis is derandomised (ranks must draw the same), mpirun, the real data."""

from __future__ import annotations

import os
import shutil
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
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}

Mpirun = Callable[..., subprocess.CompletedProcess]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="also what `make test` leaves to `make faults`"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to `make faults` what takes long and is like something that is done anyway."""
    if not config.getoption("full"):
        items[:] = [item for item in items if item.get_closest_marker("full") is None]


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


# --- a small synthetic landscape, and the chain run on it -----------------------------------------

LIMIT = 400

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2018, 2019]
[composite]
bands = ["B02", "B03", "B04", "B05", "B08", "B09", "B11"]
block = 320
shard = 320
[simulate]
size = 320
tiles = ["32TPS", "32TQS"]
overlap = 64
mapping_unit = 3
[sample]
old_map = "old_map.tif"
old_map_year = 2016
per_class = 150
[train]
c = [10]
gamma = [0.1, 0.3]
[assess]
reference = "truth/{tile}_{year}_class.tif"
reference_nomenclature = "value"
"""


def lcu(mpirun: Mpirun, ranks: int, command: str, folder: Path, *sets: str, code: int = 0) -> str:
    """Run a command of lcu on the configuration in `folder`, expect an exit code, return the output."""
    done = mpirun(
        ranks, "-m", "lcu.main", command, folder / "run.toml", *(word for text in sets for word in ("--set", text)),
        limit=LIMIT,
    )  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def landscape(tmp_path_factory: pytest.TempPathFactory, mpirun: Mpirun) -> Path:
    """Return a folder with a configuration and a simulated archive, old map and truth."""
    folder = tmp_path_factory.mktemp("landscape")
    (folder / "run.toml").write_text(CONFIG)
    lcu(mpirun, 2, "simulate", folder)
    return folder


@pytest.fixture(scope="session")
def mapped(landscape: Path, mpirun: Mpirun) -> tuple[Path, str]:
    """Return the folder with the whole chain run on 2 ranks, and what it printed."""
    return landscape, lcu(mpirun, 2, "run", landscape)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, mpirun: Mpirun) -> Path:
    """Return a folder as `mapped` does, with one smaller tile, and its composites and samples only.

    For networks, which take their time for every pixel.
    """
    folder = tmp_path_factory.mktemp("tiny")
    small = CONFIG.replace("320", "256").replace('"32TPS", "32TQS"', '"32TPS"')
    (folder / "run.toml").write_text(small)
    for stage in ("simulate", "composite", "sample"):
        lcu(mpirun, 2, stage, folder)
    return folder


# Composites of few bands in many shards: seconds, and many moments to be stopped at.
SMALL = ('composite.bands=["B04", "B08"]', "composite.block=128", "composite.shard=128")


@pytest.fixture(scope="session")
def small(landscape: Path, mpirun: Mpirun) -> Path:
    """Return the run directory of `SMALL` composites that nothing disturbed, made on 2 ranks."""
    lcu(mpirun, 2, "composite", landscape, *SMALL, "run.directory=run-small")
    return landscape / "run-small"


@pytest.fixture
def copied(landscape: Path, tmp_path: Path) -> Path:
    """Return a copy of the landscape, without the runs, that a test may damage.

    Its configuration has no [simulate] table: what is taken away would be simulated again.
    """
    folder = tmp_path / "copy"
    shutil.copytree(landscape, folder, ignore=shutil.ignore_patterns("run", "run-*"))
    simulated = CONFIG[CONFIG.index("[simulate]") : CONFIG.index("[sample]")]
    (folder / "run.toml").write_text(CONFIG.replace(simulated, ""))
    return folder
