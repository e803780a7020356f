"""Shards: written together, whole or not there, never read when they are missing or stale."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from lcu import store
from lcu.grid import Block, Grid, Tile, split
from lcu.store import CLEAR_COUNT, DAY, REFLECTANCE, Piece, Shard, StoreError

COMM = MPI.COMM_WORLD
GRID = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 5600000.0, 0.0, -10.0), 150, 130)
TILE = Tile("31UFT", GRID)
TIMES, BANDS, SIZE = 3, 2, 128


def values_of(block: Block) -> np.ndarray:
    """Return what a block of the tile holds, uint16 [time, band, y, x]: a number for every element."""
    rows, cols = np.mgrid[block.slices]
    base = (rows * GRID.width + cols) % 9973
    return np.stack(
        [[base + 1000 * time + 100 * band + 1 for band in range(BANDS)] for time in range(TIMES)]
    ).astype(np.uint16)


def write(directory: Path, comm: MPI.Comm, year: int = 2018, mark: str = "mark") -> None:
    """Write all shards of the tile, the periods of every block dealt out over the ranks."""
    for shard in store.shards("composites", TILE, year, SIZE):
        block = shard.block
        layout = {
            REFLECTANCE: ((TIMES, BANDS, block.height, block.width), (TIMES, BANDS, 64, 64)),
            CLEAR_COUNT: ((TIMES, block.height, block.width), (TIMES, 64, 64)),
            DAY: ((TIMES,), None),
        }
        path = shard.path(directory)
        file = store.create(path, comm, layout, {"tile": TILE.id})
        store.write_round(file, DAY, Piece(np.arange(TIMES), (0,)) if comm.rank == 0 else None)
        for part in split(block, 64):
            times = tuple(time for time in range(TIMES) if time % comm.size == comm.rank)
            corner = part.row - block.row, part.col - block.col
            values = values_of(part)
            piece = Piece(values[list(times)], (0, 0, *corner), times) if times else None
            count = Piece(values[list(times), 0] % 7, (0, *corner), times) if times else None
            store.write_round(file, REFLECTANCE, piece)
            store.write_round(file, CLEAR_COUNT, count)
        store.finish(file, path, comm, store.shard_mark(mark, shard))


def read(directory: Path, block: Block, mark: str = "mark", year: int = 2018) -> np.ndarray:
    """Read a block of the tile."""
    return store.read_block(directory, "composites", TILE, year, SIZE, mark, REFLECTANCE, block)


@pytest.mark.mpi
def test_what_the_ranks_write_together_is_what_each_reads(mpi_tmp_path: Path) -> None:
    write(mpi_tmp_path, COMM)
    for block in (GRID.whole, Block(100, 90, 50, 40), Block(127, 127, 2, 2)):
        np.testing.assert_array_equal(read(mpi_tmp_path, block), values_of(block))
    path = Shard("composites", TILE.id, 2018, Block(0, 0, SIZE, SIZE)).path(mpi_tmp_path)
    with h5py.File(path) as file:
        assert file["reflectance"].compression == "gzip" and file["reflectance"].chunks == (
            TIMES,
            BANDS,
            64,
            64,
        )
        assert (
            file["reflectance"].attrs["axes"] == "time, band, y, x"
            and file["reflectance"].attrs["nodata"] == 0
        )
    COMM.Barrier()


@pytest.mark.mpi(min_size=4)
def test_a_rank_with_nothing_to_write_does_not_hang(mpi_tmp_path: Path) -> None:
    assert COMM.size > TIMES
    write(mpi_tmp_path, COMM)
    np.testing.assert_array_equal(read(mpi_tmp_path, GRID.whole), values_of(GRID.whole))
    COMM.Barrier()


def test_a_missing_stale_or_damaged_shard_is_an_error_and_never_nodata(tmp_path: Path) -> None:
    write(tmp_path, MPI.COMM_SELF)
    path = Shard("composites", TILE.id, 2018, Block(128, 0, 22, SIZE)).path(tmp_path)
    with pytest.raises(StoreError, match="made from other inputs"):
        read(tmp_path, GRID.whole, mark="another")
    content = path.read_bytes()
    path.write_bytes(content[:500])
    with pytest.raises(StoreError, match=r"r00128_c00000.h5 cannot be read"):
        read(tmp_path, GRID.whole)
    path.unlink()
    with pytest.raises(StoreError, match=r"r00128_c00000.h5 is missing"):
        read(tmp_path, GRID.whole)
    read(tmp_path, Block(0, 0, 128, 130))  # the others are still good


def test_an_unfinished_file_is_not_taken_for_a_shard(tmp_path: Path) -> None:
    write(tmp_path, MPI.COMM_SELF)
    shard = store.shards("composites", TILE, 2018, SIZE)[0]
    path = shard.path(tmp_path)
    assert store.is_whole(path, store.shard_mark("mark", shard))
    path.rename(store.temporary(path))
    assert not store.is_whole(path, store.shard_mark("mark", shard))


def test_the_virtual_dataset_shows_all_years_as_one(tmp_path: Path) -> None:
    for year in (2018, 2019):
        write(tmp_path, MPI.COMM_SELF, year)
    path = store.write_virtual(
        tmp_path, TILE, [2018, 2019], {2018: TIMES, 2019: TIMES}, BANDS, SIZE, "virtual"
    )
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)  # the paths inside are relative
    with h5py.File(moved / path.relative_to(tmp_path)) as file:
        assert file["reflectance"].is_virtual and file["reflectance"].shape == (
            2 * TIMES,
            BANDS,
            150,
            130,
        )
        np.testing.assert_array_equal(file["reflectance"][TIMES:], values_of(GRID.whole))
        assert file["day"][()].tolist() == [0, 1, 2] * 2


def test_values_that_do_not_compress_are_read_back(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(1, 65536, (4, 4, 64, 64)).astype(np.uint16)
    layout = {REFLECTANCE: (values.shape, values.shape)}
    path = tmp_path / "noise.h5"
    into = store.create(path, MPI.COMM_SELF, layout, {})
    store.write_round(into, REFLECTANCE, Piece(values, (0, 0, 0, 0)))
    store.finish(into, path, MPI.COMM_SELF, "mark")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["reflectance"][()], values)


@pytest.mark.mpi
def test_groups_hold_every_rank_once() -> None:
    group, index, count = store.groups(COMM, [1.0, 1.0, 1.0])
    assert sum(COMM.allgather(group.rank == 0)) == count and index < count
    group.Free()


def test_all_ranks_find_work_up_to_so_many_a_shard() -> None:
    assert store.group_count(4, [1.0] * 40) == 4
    assert store.group_count(96, [1.0] * 3) == 3  # 32 for each of three shards
    assert store.group_count(640, [1.0] * 5) == 5  # more shards there are not: 128 for each
    assert store.group_count(8192, [1.0]) == 32  # 256 make it, the others would not fit into memory
    assert store.group_sizes(640, 5) == [128] * 5 and sum(store.group_sizes(7, 3)) == 7
    begun = time.perf_counter()
    assert 256 <= store.group_count(8192, [1.0 + unit % 7 for unit in range(10_000)]) <= 8192
    assert time.perf_counter() - begun < 20  # it took an hour to try every number
