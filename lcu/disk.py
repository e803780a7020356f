"""What a full disk, or one that loses what is written, looks like from here.

HDF5 says "file write failed" and no more, and some MPI libraries do not even report the failure of a
collective write (Open MPI 4.1 prints a line and goes on). So the disk itself is asked: is there room,
and has the file holes where data should be?
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from lcu.grid import Block

# What is written to see whether there is room, in bytes: more than a failed write leaves of a full
# disk, and more than the metadata of a shard.
PROBE = 1 << 20

# Less than this is left of a disk, in bytes, on which a write fails for want of room: what another rank has
# given back, or only tried to write, in the moment between the failure and the question.
NEARLY_FULL = 8 << 20

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
def workshop(path: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside a file, in which it is made; nothing of it is left in the end.

    DiskError as of `writing`. What a killed job leaves there, `lcu.lock.clean` finds by its name.
    """
    folder = path.with_name(f".{path.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with writing(path):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into a DiskError with its name and the reason.

    What has nothing to do with the disk (a block that cannot be read, say) goes through as it is.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = _FULL.get(getattr(error, "errno", None)) or _want_of_room(path.parent)
        if full:
            raise DiskError(
                f"{path} cannot be written: {full} ({_said(path.parent)}); make room and start the "
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


def _want_of_room(folder: Path) -> str:
    """Return why a write has failed there if it was for want of room, empty otherwise."""
    full = lack_of_room(folder)
    if not full and _free(folder) < NEARLY_FULL:
        return _FULL[errno.ENOSPC]
    return full


def _free(folder: Path) -> int:
    """Return the bytes that are free on the file system of a folder."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


def _said(folder: Path) -> str:
    try:
        return f"{_free(folder) / 2**20:.1f} MiB free on the file system"
    except OSError as error:
        return str(error)


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


@dataclass(frozen=True)
class Place:
    """Where an array lies in a scratch file."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Scratch:
    """Arrays of one process that wait on disk for their use, so that memory does not grow with them.

    The file has no name: however the process ends, nothing is left of it. It lies in the folder of
    the output, which must have room for more than a compute node's own disk may have.
    """

    def __init__(self, folder: Path) -> None:
        """Open a scratch file in `folder`, which is made where it is missing."""
        self._folder = folder
        with writing(folder / "scratch"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, suffix=".part", buffering=0)  # noqa: SIM115
        self._end = 0
        self._free: dict[int, list[int]] = {}

    def put(self, values: np.ndarray) -> Place:
        """Write an array; DiskError where there is no room for it."""
        values = np.ascontiguousarray(values)
        empty = self._free.get(values.nbytes)
        if empty:
            start = empty.pop()
        else:
            start, self._end = self._end, self._end + values.nbytes
        left = memoryview(values).cast("B") if values.size else memoryview(b"")
        at = start
        with writing(self._folder / "scratch"):
            while left:
                written = os.pwrite(self._file.fileno(), left[: 1 << 30], at)
                left, at = left[written:], at + written
        return Place(start, values.shape, values.dtype)

    def get(self, place: Place, first: int = 0, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Read an array, or a contiguous part of it: `shape` from its element number `first` on."""
        values = np.empty(place.shape if shape is None else shape, place.dtype)
        left = memoryview(values).cast("B") if values.size else memoryview(b"")
        at = place.start + first * place.dtype.itemsize
        while left:
            read = os.preadv(self._file.fileno(), [left[: 1 << 30]], at)
            if not read:
                raise DiskError(f"{self._folder}: the scratch file ends at byte {at}")
            left, at = left[read:], at + read
        return values

    def free(self, place: Place) -> None:
        """Let the room of an array be used again."""
        self._free.setdefault(place.size, []).append(place.start)

    def close(self) -> None:
        """Give the room back to the disk."""
        self._file.close()


class SharedArray:
    """An array [layer, y, x] in a file that several processes write and read by blocks.

    Nobody may read a block before all have passed a barrier after it was written. What was never
    written is 0.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: type) -> None:
        """Open the file, which one process made with `make`."""
        self._path = path
        self._shape = shape
        self._dtype = np.dtype(dtype)
        with writing(path):
            self._handle = os.open(path, os.O_RDWR)

    @staticmethod
    def make(path: Path, shape: tuple[int, int, int], dtype: type) -> None:
        """Make the file, of zeros; one process alone does."""
        with writing(path), open(path, "wb") as file:
            file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)

    def _start(self, layer: int, row: int, col: int) -> int:
        return ((layer * self._shape[1] + row) * self._shape[2] + col) * self._dtype.itemsize

    def write(self, layer: int, block: Block, values: np.ndarray) -> None:
        """Write a block [y, x] of a layer; DiskError where there is no room for it."""
        values = np.ascontiguousarray(values, self._dtype)
        with writing(self._path):
            for row, line in enumerate(values, block.row):
                if os.pwrite(self._handle, line, self._start(layer, row, block.col)) < line.nbytes:
                    raise OSError(errno.ENOSPC, "only part of a line could be written")

    def read(self, layer: int, block: Block, out: np.ndarray) -> None:
        """Read a block of a layer into `out` [y, x], contiguous."""
        for row, line in enumerate(out, block.row):
            if os.preadv(self._handle, [line], self._start(layer, row, block.col)) < line.nbytes:
                raise DiskError(f"{self._path} ends before row {row} of layer {layer}")

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
