"""A file that is not whole is never taken for one, and a rank that cannot write ends the job."""

from __future__ import annotations

import errno
import os
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from lcu import disk
from tests.conftest import Mpirun


def hollow(path: Path, start: int, size: int) -> None:
    """Make a hole in a file, as a write that found no room leaves it."""
    content = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.write(content[:start])
        file.seek(start + size)
        file.write(content[start + size :])
    if not disk.holes(path):
        pytest.skip("the file system of the temporary folder knows no holes")


@pytest.mark.parametrize("options", [{}, {"chunks": (64, 64), "compression": "gzip"}])
def test_a_hole_in_the_data_is_found(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "shard.h5"
    with h5py.File(path, "w") as file:
        file["noise"] = np.random.default_rng(1).integers(0, 60000, (512, 512)).astype(np.uint16)
        file.create_dataset("more", data=file["noise"][()], **options)
    disk.check_written(path)
    disk.check_dense(path)
    hollow(path, path.stat().st_size // 4096 * 4096 - 65536, 8192)
    with pytest.raises(OSError, match="dataset more has a hole at byte"):
        disk.check_written(path)
    with pytest.raises(OSError, match="has a hole"):
        disk.check_dense(path)


def test_an_error_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(disk.DiskError, match=r"a.json cannot be written: the disk is full \("):
        with disk.writing(tmp_path / "a.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(disk.DiskError, match=r"a.json cannot be written: .*quota"):
        with disk.writing(tmp_path / "a.json"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    with pytest.raises(RuntimeError, match="^something else$"):
        with disk.writing(tmp_path / "a.json"):
            raise RuntimeError("something else")
    assert list(tmp_path.iterdir()) == []


OPEN = """
    import sys
    from pathlib import Path
    from mpi4py import MPI
    from lcu import store
    from lcu.ranks import abort_on_error
    comm, path = MPI.COMM_WORLD, Path(sys.argv[1])
    with abort_on_error(comm):
        layout = {{store.CLEAR_COUNT: ((2, 64, 64), (2, 64, 64))}}
        file = store.create(path, comm, layout, {{}})
        {failure}
        store.finish(file, path, comm, "mark")
"""


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("if comm.rank == 1: raise MemoryError('too large')", "rank 1 of 2"),
        (
            "store.write_round(file, store.CLEAR_COUNT, None if comm.rank else 'no piece')",
            "shard.h5 cannot be written: AttributeError",
        ),
    ],
)
def test_a_rank_that_fails_with_a_shared_file_open_ends_the_job(
    tmp_path: Path, mpirun: Mpirun, failure: str, said: str
) -> None:
    script = tmp_path / "open.py"
    script.write_text(textwrap.dedent(OPEN.format(failure=failure)))
    begun = time.monotonic()
    done = mpirun(2, script, tmp_path / "shard.h5", limit=60)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "shard.h5").exists()
