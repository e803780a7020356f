"""The doctor tells what an environment lacks, and never hangs or falls over what it lacks."""

import subprocess
import sys

import pytest
from mpi4py import MPI

from lcu import doctor
from lcu.doctor import Check


def test_this_environment_is_whole(capsys):
    assert doctor.doctor(MPI.COMM_SELF) == 0
    assert "This environment is whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "name"),
    [("h5py", "h5py"), ("osgeo", "GDAL"), ("torch", "torch"), ("sklearn", "sklearn")],
)
def test_a_missing_package_is_named_with_a_remedy(module, name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert doctor.doctor(MPI.COMM_SELF) == 1
    printed = capsys.readouterr().out
    assert f"MISSING {name}" in printed
    assert "make env" in printed or "debian.sh" in printed


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "DRIVERS", ("GTiff", "NoSuchFormat"))
    check = doctor.look("GDAL", doctor.describe_gdal)
    assert not check.found
    assert "NoSuchFormat" in check.text
    assert "GTiff" not in check.text


def test_it_runs_without_mpi4py():
    program = (
        "import runpy, sys; sys.modules['mpi4py'] = None; "
        "runpy.run_module('lcu.doctor', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 1, ran.stderr
    assert "MISSING mpi4py" in ran.stdout


def test_ranks_that_believe_to_be_alone_are_found_out(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert not doctor.try_ranks(MPI.COMM_SELF).found


def test_one_rank_that_lacks_something_is_named():
    there, missing = Check("thing", True, "1.0"), Check("thing", False, "ImportError: no thing")
    assert doctor.agreed((there, there)) == there
    assert doctor.agreed((missing, missing)) == missing
    text = doctor.agreed((there, there, missing)).text
    assert "ImportError: no thing" in text
    assert "1 of 3 ranks" in text
    assert "first is 2" in text


@pytest.mark.mpi
def test_the_ranks_find_this_environment_whole_together(capsys):
    comm = MPI.COMM_WORLD
    codes = comm.allgather(doctor.doctor(comm))
    reports = comm.allgather(capsys.readouterr().out)
    assert codes == [0] * comm.size, reports[0]
    assert f"written by {comm.size} ranks" in reports[0]
    assert not any(reports[1:])


@pytest.mark.mpi(min_size=2)
def test_a_package_missing_on_one_rank_hangs_nobody(monkeypatch, capsys):
    comm = MPI.COMM_WORLD
    if comm.rank == comm.size - 1:
        monkeypatch.setitem(sys.modules, "h5py", None)
        monkeypatch.setitem(sys.modules, "horovod", None)
    codes = comm.allgather(doctor.doctor(comm))
    report = comm.bcast(capsys.readouterr().out)
    assert codes == [1] * comm.size
    assert "MISSING h5py" in report
    assert "MISSING Horovod" in report
