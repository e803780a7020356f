"""Launches a job, strikes it at a moment, and judges how it ends and what starting it again makes.

Nothing in lcu knows of this. The ranks of a job are found in /proc; what shall go wrong inside of one
rank is brought in by a `sitecustomize` module on its PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compare import differences
from tests.conftest import ENVIRONMENT, ROOT

# What `make test` leaves to `make faults`.
FULL = pytest.mark.full

QUICKLY = 30.0  # seconds in which a job has ended after it was struck
LIMIT = 240.0  # seconds that any job may take here

# A landscape that a chain maps in seconds, in shards enough to be struck between two of them.
CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2018, 2019]
[composite]
period = "P3M"
bands = ["B03", "B04", "B08", "B11"]
block = 64
shard = 128
[sample]
old_map = "old_map.tif"
old_map_year = 2016
per_class = 60
pool = 300
[train]
c = [10]
gamma = [0.3]
[classify]
shard = 128
[assess]
reference = "truth/{tile}_{year}_class.tif"
reference_nomenclature = "value"
"""
SIMULATE = """
[simulate]
size = 256
tiles = ["32TPS"]
mapping_unit = 3
points = 40
"""

# What each stage leaves in a run directory.
MADE = {
    "composite": ("composites",),
    "sample": ("samples",),
    "train": ("model",),
    "classify": ("probabilities", "consistent"),
    "assess": ("assessment/accuracy_*", "assessment/error_matrix_*"),
    "publish": ("maps", "stac", "report", "assessment/areas.csv", "samples/*.png"),
}
STAGES = tuple(MADE)


@dataclass(frozen=True)
class World:
    """A folder with configuration, archive, old map and truth, and an undisturbed run, ``run``."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "run.toml"

    def seconds(self, stage: str) -> float:
        """Return how long a stage of the undisturbed run took."""
        about = json.loads((self.folder / "run" / "provenance.json").read_text())
        return about["seconds"][stage]

    def before(self, stage: str, name: str = "struck") -> Path:
        """Return a fresh copy of the undisturbed run without what a stage makes."""
        run = fresh(self, name)
        for pattern in MADE[stage]:
            for path in run.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return run


def make_world(folder: Path) -> World:
    """Simulate the landscape and map it, undisturbed, on two ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder)
    world.config.write_text(CONFIG + SIMULATE)
    expect(world, "simulate", 2)
    # Without the table: what a fault takes away would be simulated again.
    world.config.write_text(CONFIG)
    expect(world, "run", 2)
    return world


# --- jobs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How a job ended: exit code, seconds from the strike (else the start), all that it said."""

    code: int
    seconds: float
    said: str

    def line(self, *words: str) -> str:
        """Return the first line that holds all the words."""
        for line in self.said.splitlines():
            if all(word in line for word in words):
                return line.strip()
        raise AssertionError(f"{words} are not in\n{self.said}")


@dataclass(frozen=True)
class Job:
    """A command of lcu that runs under mpirun."""

    process: subprocess.Popen
    output: Path
    size: int

    def ranks(self) -> dict[int, int]:
        """Return the process id of each rank that lives."""
        found = {}
        for number in children(self.process.pid):
            rank = environment_of(number).get("OMPI_COMM_WORLD_RANK")
            if rank is not None and is_alive(number):
                found[int(rank)] = number
        return found

    def said(self) -> str:
        """Return what the job printed so far."""
        return self.output.read_text(errors="replace")

    def wait_until(self, word: str) -> None:
        """Wait until all ranks are there and the job has printed a word."""
        end = time.monotonic() + LIMIT
        while word not in self.said() or len(self.ranks()) < self.size:
            if self.process.poll() is not None:
                return
            assert time.monotonic() < end, f"no {word!r} in {self.said()}"
            time.sleep(0.01)

    def end(self, within: float, ranks: Sequence[int] = ()) -> Ending:
        """Wait for the end of the job and of the processes `ranks`; both must come in time."""
        begun = time.monotonic()
        try:
            code = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.stop()
            raise AssertionError(f"the job hangs; it said\n{self.said()}") from None
        while any(map(is_alive, ranks)):
            assert time.monotonic() - begun < within, "ranks outlive the job"
            time.sleep(0.05)
        return Ending(code, time.monotonic() - begun, self.said())

    def stop(self) -> None:
        """Kill what is left of the job."""
        for number in [*children(self.process.pid), self.process.pid]:
            with suppress(ProcessLookupError):  # it is gone already
                os.kill(number, signal.SIGKILL)
        self.process.wait()


def children(parent: int) -> list[int]:
    """Return the processes that another one started and that have not been waited for."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def environment_of(number: int) -> dict[str, str]:
    """Return the environment of a process; empty when it is gone."""
    try:
        entries = Path(f"/proc/{number}/environ").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def is_alive(number: int) -> bool:
    """Tell whether a process runs (a dead one that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def started(world: World, command: str, ranks: int, *sets: str, patches: str = "") -> Iterator[Job]:
    """Start a command of lcu under mpirun; whatever happens, nothing of it is left behind.

    `patches` is Python that every rank runs before lcu: see `on_rank`.
    """
    words = ["mpirun", "-n", str(ranks), sys.executable, "-m", "lcu.main", command]
    words += [str(world.config), *(word for text in sets for word in ("--set", text))]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("OMPI_COMM")
    }
    # Ranks that wait leave the cores to others, for other tests may run beside this one.
    environment |= ENVIRONMENT | {"OMPI_MCA_mpi_yield_when_idle": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output.txt"
        if patches:
            (Path(scratch) / "sitecustomize.py").write_text(patches)
            environment["PYTHONPATH"] = f"{scratch}:{environment['PYTHONPATH']}"
        with output.open("w") as file:
            process = subprocess.Popen(
                words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        job = Job(process, output, ranks)
        try:
            yield job
        finally:
            if process.poll() is None:
                job.stop()


def do(
    world: World, command: str, ranks: int, *sets: str, patches: str = "", within: float = LIMIT
) -> Ending:
    """Run a command of lcu to its end."""
    with started(world, command, ranks, *sets, patches=patches) as job:
        return job.end(within)


def expect(world: World, command: str, ranks: int, *sets: str, code: int = 0) -> Ending:
    """Run a command that must end with a certain exit code."""
    ending = do(world, command, ranks, *sets)
    assert ending.code == code, f"exit code {ending.code}, expected {code}\n{ending.said}"
    return ending


def fresh(world: World, name: str = "struck") -> Path:
    """Return a fresh copy of the whole undisturbed run."""
    run = world.folder / name
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(world.folder / "run", run, ignore=shutil.ignore_patterns("log", "lock*"))
    return run


# --- judging --------------------------------------------------------------------------------------


def whole_again(world: World, stage: str, ranks: int, run: Path, *sets: str) -> None:
    """Start the stage once more: it must complete, with the bytes of the undisturbed run."""
    expect(world, stage, ranks, f"run.directory={run}", *sets)
    assert differences(world.folder / "run", run) == []
    assert list(run.rglob("*.part")) == [] and list(run.glob("maps/.LCU_*")) == []


def strike(
    world: World, stage: str, ranks: int, moment: float, blow: Callable[[Job], None]
) -> tuple[Path, Ending]:
    """Start a stage, strike it at a share of its time; return its run directory and how it ended.

    How long a stage takes differs with what else runs on the machine: when it was over before the
    moment, it is done again and struck earlier.
    """
    delay = moment * world.seconds(stage)
    while True:
        run = world.before(stage)
        with started(world, stage, ranks, f"run.directory={run}") as job:
            job.wait_until("run directory")
            time.sleep(delay)
            living = job.ranks()
            if len(living) == ranks and f"\n{stage:<10} " not in job.said():
                blow(job)
                ending = job.end(QUICKLY, list(living.values()))
                if ending.code != 0:
                    return run, ending
        delay /= 2


def on_rank(rank: int, place: str, what: str) -> str:
    """Return what `started` takes as patches: on one rank, `what` is done when `place` is called.

    Parameters
    ----------
    place : str
        A function of lcu, ``module:name``.
    what : str
        Python statements.
    """
    module, name = place.split(":")
    return f"""
import os
if os.environ.get("OMPI_COMM_WORLD_RANK") == "{rank}":
    import importlib, resource, sys
    module = importlib.import_module({module!r})
    whole = module.{name}
    def struck(*arguments, **named):
        {what}
        return whole(*arguments, **named)
    module.{name} = struck
"""


def memory_used_up() -> str:
    """Return what makes a rank have no more memory than it has, for `on_rank`."""
    return (
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "resource.setrlimit(resource.RLIMIT_AS, (used, used))"
    )


# --- damage ---------------------------------------------------------------------------------------


def cut_off(path: Path, share: float = 0.6) -> None:
    """Leave the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Put a file back when the fault is over, with the very bytes that it had."""
    content = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(content)
