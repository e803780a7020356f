"""Is this environment whole? What is installed, what is missing, and how to get it.

Parallel HDF5 and Horovod are tried, not only looked for: all ranks write one compressed file
together, and sum a number through Horovod.

Every package is imported where it is looked for, so that this runs whatever is missing;
`python -m lcu.doctor` runs even without mpi4py.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lcu

if TYPE_CHECKING:
    from mpi4py import MPI

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "numpy", "scipy", "sklearn", "matplotlib", "jinja2", "defusedxml", "requests", "pystac", "pystac_client",
    "tenacity", "blake3", "xstatic.pkg.leaflet",
)  # fmt: skip
DRIVERS = ("JP2OpenJPEG", "SENTINEL2", "COG", "GTiff", "GPKG", "GeoJSON")


@dataclass(frozen=True)
class Check:
    """What was looked for, whether it is there, and what was seen."""

    name: str
    found: bool
    text: str


def look(name: str, describe: Callable[[], str]) -> Check:
    """Describe a thing, or say why that failed. No collective may be in `describe`."""
    try:
        return Check(name, True, describe())
    except Exception as error:  # noqa: BLE001  (whatever is wrong with it, it is missing)
        lines = str(error).strip().splitlines() or [""]
        return Check(name, False, f"{type(error).__name__}: {lines[0]}")


# -------------------------------------------------------------------- what a rank sees alone


def local_checks() -> list[Check]:
    """Look for everything that one rank can see without the others."""
    checks = [look("Python", describe_python), look("mpi4py", describe_mpi)]
    checks += [look(package, lambda package=package: version(package)) for package in PACKAGES]
    checks += [
        look("h5py", describe_h5py),
        look("GDAL", describe_gdal),
        look("torch", describe_torch),
        look("Horovod", describe_horovod),
    ]
    checks += [look(f"lcu._{name}", lambda name=name: describe_kernel(name)) for name in kernels()]
    return checks


def version(package: str) -> str:
    """Import a package and give its version."""
    module = importlib.import_module(package)
    return str(getattr(module, "__version__", "there"))


def describe_python() -> str:
    """Give Python's version and place."""
    return f"{platform.python_version()}, {sys.prefix}"


def describe_mpi() -> str:
    """Give the versions of mpi4py and of the MPI library it found."""
    from mpi4py import MPI

    library = MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(", ident")[0]
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        library += ", without MPI_THREAD_MULTIPLE"
    return f"{version('mpi4py')}, {library}"


def describe_h5py() -> str:
    """Give the versions of h5py and its HDF5, if they were built with MPI."""
    import h5py

    text = f"{h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    if not h5py.get_config().mpi:
        raise RuntimeError(f"{text}, is there, but was built without MPI")
    return text


def describe_gdal() -> str:
    """Give the version of GDAL, if it has the drivers needed and its bindings know NumPy."""
    from osgeo import gdal, gdal_array  # noqa: F401

    text = gdal.VersionInfo("RELEASE_NAME")
    missing = [name for name in DRIVERS if gdal.GetDriverByName(name) is None]
    if missing:
        raise RuntimeError(f"{text} is there, but without the drivers {', '.join(missing)}")
    return f"{text} with {', '.join(DRIVERS)}"


def describe_torch() -> str:
    """Give the versions of torch and CUDA, and the devices."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return f"{torch.__version__}, {cuda}, GPUs: {', '.join(devices) or 'none'}"


def describe_horovod() -> str:
    """Give the version of Horovod and what it communicates through."""
    import horovod
    import horovod.torch as hvd

    if not hvd.mpi_built():
        raise RuntimeError(f"{horovod.__version__} is there, but was built without MPI")
    return f"{horovod.__version__}, MPI{' and NCCL' if hvd.nccl_built() else ''}"


def kernels() -> list[str]:
    """Names of the kernels there should be: those with sources here, else the one always there."""
    return sorted(source.stem for source in (ROOT / "kernels").glob("*.pyx")) or ["composite"]


def describe_kernel(name: str) -> str:
    """Import a kernel."""
    return Path(importlib.import_module(f"lcu._{name}").__file__).name


# ------------------------------------------------------------------ what the ranks try together


def agree(checks: list[Check], comm: MPI.Comm) -> list[Check]:
    """Make a check that failed on any rank a failed one on all of them."""
    return [agreed(of_ranks) for of_ranks in zip(*comm.allgather(checks), strict=True)]


def agreed(of_ranks: tuple[Check, ...]) -> Check:
    """Join what each rank says of one thing."""
    missing = [rank for rank, check in enumerate(of_ranks) if not check.found]
    if not missing:
        return of_ranks[0]
    first = of_ranks[missing[0]]
    if len(missing) == len(of_ranks):
        return first
    where = f"on {len(missing)} of {len(of_ranks)} ranks, the first is {missing[0]}"
    return Check(first.name, False, f"{first.text} ({where})")


def try_ranks(comm: MPI.Comm) -> Check:
    """See whether the launcher and mpi4py use the same MPI: else each rank believes it is alone."""
    started = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS")
    if comm.size == 1 and started not in (None, "1"):
        return Check("ranks", False, f"{started} processes were started, but each is alone")
    hosts = sorted(set(comm.allgather(platform.node())))
    return Check("ranks", True, f"{comm.size} on {', '.join(hosts[:4])}{' ...' * (len(hosts) > 4)}")


def try_hdf5(comm: MPI.Comm) -> Check:
    """Write one compressed file with all ranks, and read it."""
    import h5py
    from mpi4py import MPI

    # The temporary folder of one node is not that of another; the current folder usually is.
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    parent = None if comm.allreduce(node.size == comm.size, MPI.LAND) else os.getcwd()
    node.Free()
    folder = None
    if comm.rank == 0:
        folder = look("parallel HDF5", lambda: tempfile.mkdtemp(prefix="lcu-doctor-", dir=parent))
    folder = comm.bcast(folder, root=0)
    if not folder.found:
        return folder

    path = Path(folder.text) / "together.h5"
    shape = (comm.size, 1000)
    with h5py.File(path, "w", driver="mpio", comm=comm) as file:
        rows = file.create_dataset("rows", shape, "int32", chunks=(1, 1000), compression="gzip")
        with rows.collective:
            rows[comm.rank] = comm.rank

    result = None
    if comm.rank == 0:
        result = look("parallel HDF5", lambda: read_rows(path, comm.size))
        shutil.rmtree(folder.text, ignore_errors=True)
    return comm.bcast(result, root=0)


def read_rows(path: Path, size: int) -> str:
    """Read what `try_hdf5` wrote; row i holds i."""
    import h5py

    with h5py.File(path) as file:
        rows = file["rows"][:]
    if [set(row) for row in rows.tolist()] != [{rank} for rank in range(size)]:
        raise RuntimeError("the file that the ranks wrote together is wrong")
    return f"a compressed file written by {size} ranks together is right"


def try_horovod(comm: MPI.Comm) -> Check:
    """Sum the rank numbers through Horovod."""
    import horovod.torch as hvd
    import torch

    hvd.init(comm)
    total = int(hvd.allreduce(torch.tensor([comm.rank]), op=hvd.Sum))
    hvd.shutdown()
    right = total == sum(range(comm.size))
    verdict = "right" if right else f"wrong: {total}"
    return Check("Horovod's sum", right, f"over {comm.size} ranks is {verdict}")


def joint_checks(found: set[str], comm: MPI.Comm) -> list[Check]:
    """Try together what every rank has."""
    checks = [try_ranks(comm)]
    if "h5py" in found:
        checks.append(try_hdf5(comm))
    if {"torch", "Horovod"} <= found:
        checks.append(try_horovod(comm))
    return agree(checks, comm)


# -------------------------------------------------------------------------------- the report


def remedy(name: str) -> str:
    """Say how to get what is missing."""
    venv = ROOT / ".venv"
    if venv.exists() and Path(sys.prefix) != venv:
        return f"source {ROOT}/jobscripts/env/debian.sh: the environment is there, but not active"
    if name == "ranks":
        return (
            "start `python -m lcu.main doctor` with the mpirun that belongs to the MPI library "
            "named above, or with srun --mpi=pmix"
        )
    if name == "parallel HDF5":
        return "choose another folder for temporary files with TMPDIR"
    if name == "Horovod":
        return "make env; without Horovod, training uses torch.distributed"
    if name == "GDAL" and not venv.exists():
        return "make env, or a GDAL with these drivers and its Python bindings built with NumPy"
    return "make env, then source jobscripts/env/debian.sh (at JSC: jobscripts/env/jsc.sh)"


def report(checks: list[Check]) -> str:
    """Write the checks as text, one line each, and what to do about those that failed."""
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    lines = [
        f"lcu {lcu.__version__}; OMP_NUM_THREADS {threads}, "
        f"GDAL_NUM_THREADS {os.environ.get('GDAL_NUM_THREADS', 'not set')}, "
        f"{len(os.sched_getaffinity(0))} cores for rank 0"
    ]
    lines += [f"{'ok' if c.found else 'MISSING':8}{c.name:16}{c.text}" for c in checks]
    missing = [c.name for c in checks if not c.found]
    if not missing:
        lines.append("This environment is whole.")
    for advice in dict.fromkeys(remedy(name) for name in missing):
        names = ", ".join(name for name in missing if remedy(name) == advice)
        lines.append(f"missing: {names}\n    {advice}")
    return "\n".join(lines)


def doctor(comm: MPI.Comm | None) -> int:
    """Print what this environment has and lacks; 0 if it is whole, else 1, on every rank.

    Collective over `comm`, which is None only where mpi4py is missing.
    """
    checks = local_checks()
    if comm is not None:
        checks = agree(checks, comm)
        checks += joint_checks({check.name for check in checks if check.found}, comm)
    if comm is None or comm.rank == 0:
        print(report(checks), flush=True)
    return 0 if all(check.found for check in checks) else 1


def alone() -> int:
    """Check with this process alone, even without mpi4py; `lcu.main doctor` checks all ranks."""
    try:
        from mpi4py import MPI
    except Exception:  # noqa: BLE001  (the report names the reason)
        return doctor(None)
    return doctor(MPI.COMM_SELF)


if __name__ == "__main__":
    sys.exit(alone())
