"""What a full disk, or one that loses what is written, looks like from here.

HDF5 says "file write failed" and no more, and some MPI libraries do not even report the failure of a
collective write (Open MPI 4.1 prints a line and goes on). So the disk itself is asked: is there room,
and has the file holes where data should be?
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import h5py

# What is written to see whether there is room, in bytes: more than a failed write leaves of a full
# disk, and more than the metadata of a shard.
PROBE = 1 << 20

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full: the quota is used up",
}


class DiskError(RuntimeError):
    """A file cannot be written; the message says which and why."""


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into a DiskError with its name and the reason.

    What has nothing to do with the disk (a block that cannot be read, say) goes through as it is.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = _FULL.get(getattr(error, "errno", None)) or lack_of_room(path.parent)
        if full:
            raise DiskError(
                f"{path} cannot be written: {full} ({_free(path.parent)}); make room and start the "
                "same command again"
            ) from error
        if getattr(error, "errno", None) and not error.filename:  # it would not say which file
            raise DiskError(f"{path} cannot be written: {error}") from error
        raise


def lack_of_room(folder: Path) -> str:
    """Write a little and remove it again: return why that failed, empty where there is room."""
    probe = folder / f".probe-{os.uname().nodename}-{os.getpid()}.part"
    try:
        with open(probe, "wb") as file:
            file.write(b"\1" * PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return _FULL.get(error.errno, str(error))
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


def _free(folder: Path) -> str:
    try:
        there = os.statvfs(folder)
    except OSError as error:
        return str(error)
    return f"{there.f_bavail * there.f_frsize / 2**20:.1f} MiB free on the file system"


def check_room(folder: Path) -> None:
    """Raise OSError where there is no room: HDF5 may wait for ever where it finds none."""
    full = lack_of_room(folder)
    if full:
        raise OSError(errno.ENOSPC, full)


def check_written(path: Path) -> None:
    """Raise OSError where an HDF5 file that seems written is not all on the disk.

    A write that found no room leaves a hole, which would be read as zeros. HDF5 itself may leave
    small holes, so it is asked whether there is data in them.
    """
    found = holes(path)
    with h5py.File(path, "r") as file:
        for name, dataset in file.items() if found else ():
            for start, size in stored(dataset):
                if any(start < end and begin < start + size for begin, end in found):
                    raise OSError(f"dataset {name} has a hole at byte {start}")


def check_dense(path: Path) -> None:
    """Raise OSError where a file that has data everywhere was not all written."""
    if holes(path):
        raise OSError(f"{path.name} has a hole at byte {holes(path)[0][0]}")


def holes(path: Path) -> list[tuple[int, int]]:
    """Return (start, end) of every part of a file for which nothing was ever written.

    A file system that does not know says that there is none.
    """
    found, position, size = [], 0, path.stat().st_size
    handle = os.open(path, os.O_RDONLY)
    try:
        while (start := os.lseek(handle, position, os.SEEK_HOLE)) < size:
            try:
                position = os.lseek(handle, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # no data after the hole
                    raise
                position = size
            found.append((start, position))
    finally:
        os.close(handle)
    return found


def stored(dataset: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Yield where a dataset lies in its file: (first byte, bytes) of every chunk."""
    if not dataset.size or dataset.is_virtual:
        return
    if dataset.chunks is None:
        if dataset.id.get_offset() is None:
            raise OSError(f"dataset {dataset.name} was never written")
        yield dataset.id.get_offset(), dataset.id.get_storage_size()
        return
    for index in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(index)
        yield chunk.byte_offset, chunk.size
