"""The run directory and every HDF5 dataset in it: axes, dtype, unit, nodata, chunks; shards; resume.

A stage's output for one tile and year is a set of shards: HDF5 files that each hold a square of the
tile. A shard is written under a temporary name by a group of ranks (parallel HDF5, collective, in
lockstep rounds) and renamed when it is whole. It carries the fingerprint of everything that it was
made from; a stage that finds the right fingerprint leaves the shard alone. That is all that resume is.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

import lcu
from lcu.clock import spending
from lcu.disk import DiskError, check_room, check_written, sync, writing
from lcu.grid import Block, Grid, Tile, split
from lcu.ranks import end_job, meet, share

# Side of an HDF5 chunk, in pixels. It also fixes what is predicted together: shards and blocks are
# multiples of it, so that nothing depends on how a tile was cut.
CELL = 64

# Ranks that make one shard together while there are other shards for the rest: more would decode more than a
# tenth twice. Where there are not, more do, for idle ranks cost as much; so many at most, which memory is planned for.
RANKS_PER_SHARD = 32
MOST_PER_SHARD = 256

# Share of the ranks' time that may be lost so that more shards are made at once, by fewer ranks each.
IDLE = 0.05

# Numbers of groups that are tried.
TRIED = 64

# What h5py raises when a file is damaged, by where the damage is.
DAMAGED = (OSError, KeyError, RuntimeError, TypeError, ValueError)

# Seconds after which a single write is taken to hang, as HDF5 does where metadata finds no room.
LONGEST_WRITE = 1200


class StoreError(RuntimeError):
    """Something that a stage needs is missing or stale; the message says which stage makes it."""


@dataclass(frozen=True)
class Dataset:
    """What is in a dataset: its axes, type and meaning."""

    name: str
    axes: tuple[str, ...]
    dtype: str
    unit: str
    nodata: int | None


REFLECTANCE = Dataset(
    "reflectance", ("time", "band", "y", "x"), "uint16", "surface reflectance x 10000", 0
)
CLEAR_COUNT = Dataset("clear_count", ("time", "y", "x"), "uint8", "clear observations", None)
DAY = Dataset("day", ("time",), "int32", "days since 2015-01-01", None)
DAY_OF_PIXEL = Dataset("day", ("time", "y", "x"), "int32", "days since 2015-01-01; 0 = none", 0)
PROBABILITY = Dataset(
    "probability", ("class", "y", "x"), "uint8",
    "probability x 250; 255 = no clear observation in the year, 254 = none in any year", 255,
)  # fmt: skip
OBSERVATIONS = Dataset("observations", ("y", "x"), "uint16", "clear observations in the year", None)
LAND_COVER = Dataset(
    "land_cover", ("y", "x"), "uint8", "class value; 254 = no clear observation in any year", 255
)
CONFIDENCE = Dataset("confidence", ("y", "x"), "uint8", "percent", 255)
POSTERIOR = Dataset(
    "probability", ("class", "y", "x"), "uint8",
    "probability given all years x 250; 254 = no clear observation in any year", 255,
)  # fmt: skip
BEFORE = Dataset(
    "before", ("y", "x"), "uint8",
    "class value of the year alone where another was chosen; 253 = the same, 252 = none", 255,
)  # fmt: skip
PREVIOUS = Dataset("previous", ("y", "x"), "uint8", "class value in the year before", 255)
CHANGE = Dataset("change", ("y", "x"), "uint8", "probability of a change since then x 250", 255)

SAMPLES = (
    Dataset("series", ("sample", "time", "band"), "uint16", "surface reflectance x 10000", 0),
    Dataset("count", ("sample", "time"), "uint8", "clear observations", None),
    Dataset("day", ("sample", "time"), "int32", "days since 2015-01-01", None),
    Dataset("label", ("sample", "year"), "uint8", "class value; 255 = not labelled", 255),
    Dataset("weight", ("sample",), "float32", "share of the class over share of the sample", None),
    Dataset("tile", ("sample",), "uint16", "position in the attribute `tiles`", None),
    Dataset("row", ("sample",), "int32", "row on the tile's grid", None),
    Dataset("col", ("sample",), "int32", "column on the tile's grid", None),
    Dataset("polygon", ("sample",), "int64", "polygon of the old map", None),
    Dataset("cluster", ("sample",), "int32", "cluster; -1 = not clustered", -1),
    Dataset("split", ("sample",), "uint8", "0 training, 1 validation, 2 test", None),
)
PATCH_SIDE = 5  # pixels
PATCH = Dataset(
    "patch",
    ("sample", "time", "band", "patch_y", "patch_x"),
    "uint16",
    "surface reflectance x 10000",
    0,
)


@dataclass(frozen=True, order=True)
class Shard:
    """One HDF5 file of the set that together hold a stage's output for a tile and year."""

    kind: str
    tile: str
    year: int
    block: Block

    def path(self, directory: Path) -> Path:
        """Where the shard lies in the run directory."""
        name = f"r{self.block.row:05d}_c{self.block.col:05d}.h5"
        return directory / self.kind / self.tile / str(self.year) / name


def shards(kind: str, tile: Tile, year: int, size: int) -> list[Shard]:
    """Return the shards of `size` pixels that cover a tile."""
    return [Shard(kind, tile.id, year, block) for block in tile.grid.blocks(size)]


def fingerprint(*parts: Any) -> str:
    """Return a short hash of values that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_fingerprint(path: str | Path) -> str:
    """Return a short hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]


def is_whole(path: Path, expected: str) -> bool:
    """Tell whether a finished HDF5 file with the right fingerprint is there."""
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("fingerprint") == expected
    except DAMAGED:
        return False


# --- groups of ranks ------------------------------------------------------------------------------


def groups(comm: MPI.Comm, costs: Sequence[float]) -> tuple[MPI.Comm, int, int]:
    """Split the ranks into groups that make shards of the given costs.

    As many groups as there may be without letting ranks idle: fewer ranks share a shard then, and
    share less between them.

    Returns
    -------
    group : MPI.Comm
        The communicator of this rank's group; the caller frees it.
    index, count : int
        Which group this is, of how many.
    """
    count = group_count(comm.size, costs)
    index = comm.rank * count // comm.size
    return comm.Split(color=index, key=comm.rank), index, count


def group_count(ranks: int, costs: Sequence[float]) -> int:
    """Return how many groups `ranks` ranks make for shards of the given costs."""
    least = max(-(-ranks // MOST_PER_SHARD), min(-(-ranks // RANKS_PER_SHARD), max(len(costs), 1)))
    most = max(least, min(ranks, len(costs)))
    # Every number of groups where there are few, else some, evenly spread: each costs a look at all units.
    tried = np.unique(np.geomspace(least, most, TRIED).round().astype(int)).tolist()
    if most - least < TRIED:
        tried = range(least, most + 1)
    busy = {count: _busy(costs, ranks, count) for count in tried}
    enough = min(max(busy.values()), 1 - IDLE)
    return max(candidate for candidate, share in busy.items() if share >= enough)


def group_sizes(ranks: int, count: int) -> list[int]:
    """Return how many ranks each of `count` groups has."""
    sizes = [0] * count
    for rank in range(ranks):
        sizes[rank * count // ranks] += 1
    return sizes


def _busy(costs: Sequence[float], ranks: int, count: int) -> float:
    """Return the share of the ranks' time that is used when `count` groups make the shards."""
    sizes, load = group_sizes(ranks, count), [0.0] * count
    for cost, group in zip(costs, share(costs, count), strict=True):
        load[group] += cost
    longest = max(done / size for done, size in zip(load, sizes, strict=True))
    return sum(costs) / ranks / longest if longest else 1.0


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """What one rank writes in one round: `values` at `corner`, with `times` along the first axis.

    `times` are positions along the first axis, ascending; None means that the first axis is
    contiguous like the others.
    """

    values: np.ndarray
    corner: tuple[int, ...]
    times: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Writing:
    """A file that the ranks of `comm` are writing together."""

    file: h5py.File
    path: Path
    comm: MPI.Comm


@contextlib.contextmanager
def _or_end(path: Path, comm: MPI.Comm) -> Iterator[None]:
    """End the job when a rank cannot go on with a file that all write together.

    The others wait in the next collective call by then. To raise would be to wait as well: HDF5
    closes the file while the exception travels, and closing is collective.
    """
    faulthandler.dump_traceback_later(LONGEST_WRITE, exit=True)
    try:
        with writing(path):
            yield
    except Exception as error:  # noqa: BLE001  (whatever it is, the ranks are out of step)
        text = (
            str(error) if isinstance(error, DiskError) else f"{path} cannot be written: {error!r}"
        )
        end_job(comm, f"{text} (seen on {socket.gethostname()})")
    finally:
        faulthandler.cancel_dump_traceback_later()


@spending("writing")
def create(
    path: Path, comm: MPI.Comm, layout: dict[Dataset, tuple[tuple[int, ...], tuple[int, ...] | None]],
    attributes: dict[str, Any],
) -> Writing:  # fmt: skip
    """Create an HDF5 file on every rank of `comm` under its temporary name.

    `layout` gives the shape and chunk shape of each dataset (None: not chunked, not compressed).
    """
    with _or_end(path, comm):
        if comm.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary(path).unlink(missing_ok=True)
            check_room(path.parent)
        meet(comm)
        return Writing(_create(path, comm, layout, attributes), path, comm)


def _create(
    path: Path, comm: MPI.Comm, layout: dict[Dataset, tuple[tuple[int, ...], tuple[int, ...] | None]],
    attributes: dict[str, Any],
) -> h5py.File:  # fmt: skip
    file = h5py.File(temporary(path), "w", driver="mpio", comm=comm, libver=("v108", "v110"))
    for dataset, (shape, chunks) in layout.items():
        options: dict[str, Any] = {}
        if chunks is not None and all(shape):
            options["chunks"] = tuple(map(min, chunks, shape))
            # Not LZF, which is five times as fast: it gives up on a chunk that does not shrink, and
            # parallel HDF5 1.10 then notes the chunk as compressed: nobody can read it again.
            options |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        made = file.create_dataset(
            dataset.name, shape, dataset.dtype, fillvalue=dataset.nodata or 0, **options
        )
        made.attrs["axes"] = ", ".join(dataset.axes)
        made.attrs["unit"] = dataset.unit
        if dataset.nodata is not None:
            made.attrs["nodata"] = dataset.nodata
    for name, value in attributes.items():
        file.attrs[name] = value
    file.attrs["software"] = f"lcu {lcu.__version__}"
    return file


@spending("writing")
def write_round(into: Writing, dataset: Dataset, piece: Piece | None) -> None:
    """Write one piece a rank, all ranks of the file at once; a rank without one selects nothing.

    The low-level call is needed: h5py's collective mode hangs when a rank's selection is empty
    (h5py #965), and compressed datasets can be written collectively only.
    """
    with _or_end(into.path, into.comm):
        _write_round(into.file[dataset.name], dataset, piece)


def _write_round(target: h5py.Dataset, dataset: Dataset, piece: Piece | None) -> None:
    space = target.id.get_space()
    values = np.zeros(0, dataset.dtype)
    if piece is None:
        space.select_none()
        memory = h5py.h5s.create_simple((1,))
        memory.select_none()
        values = np.zeros(1, dataset.dtype)
    else:
        values = np.ascontiguousarray(piece.values, dtype=dataset.dtype)
        _select(space, piece, values.shape)
        memory = h5py.h5s.create_simple(values.shape)
    how = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    how.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    target.id.write(memory, space, values, dxpl=how)


def _select(space: h5py.h5s.SpaceID, piece: Piece, shape: tuple[int, ...]) -> None:
    if piece.times is None:
        space.select_hyperslab(piece.corner, shape)
        return
    space.select_none()
    for time in piece.times:
        corner = (time, *piece.corner[1:])
        space.select_hyperslab(corner, (1, *shape[1:]), op=h5py.h5s.SELECT_OR)


@spending("writing")
def finish(into: Writing, path: Path, comm: MPI.Comm, mark: str) -> None:
    """Write the fingerprint, bring the file to the disk and give it its name."""
    with _or_end(path, comm):
        if comm.rank == 0:
            check_room(path.parent)
        meet(comm)
        into.file.attrs["fingerprint"] = mark
        into.file.flush()
        into.file.close()
        sync(temporary(path))  # by every rank, for each may be on another host
        meet(comm)
        if comm.rank == 0:
            check_written(temporary(path))
            os.replace(temporary(path), path)
            sync(path.parent)
        meet(comm)


def temporary(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(path.name + ".part")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary(path).write_text(text, encoding="utf-8")
        sync(temporary(path))
        os.replace(temporary(path), path)


def write_json(path: Path, content: Any) -> None:
    """Write a small JSON file so that it is there whole or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Read a JSON file of the run; StoreError names the stage that makes it where it is missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path} is not there; run the stage `{made_by}` first") from None
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}); remove it and run `{made_by}` again"
        ) from None


# --- reading --------------------------------------------------------------------------------------


@spending("reading")
def read_block(
    directory: Path,
    kind: str,
    tile: Tile,
    year: int,
    size: int,
    mark: str,
    dataset: Dataset,
    block: Block,
) -> np.ndarray:
    """Read a block of one dataset across the shards of a tile and year.

    Parameters
    ----------
    size : int
        Side of the shards.
    mark : str
        Fingerprint of the tile and year; a missing or stale shard is a StoreError, never nodata.

    Returns
    -------
    ndarray[..., y, x]
    """
    out: np.ndarray | None = None
    for shard in shards(kind, tile, year, size):
        overlap = intersection(shard.block, block)
        if overlap is None:
            continue
        with open_shard(directory, shard, mark) as file:
            part = _values(file, shard, dataset, overlap.inside(shard.block))
        if out is None:
            out = np.zeros((*part.shape[:-2], block.height, block.width), part.dtype)
        out[(..., *overlap.inside(block))] = part
    if out is None:
        raise ValueError(f"{block} lies outside tile {tile.id}")
    return out


def _values(
    file: h5py.File, shard: Shard, dataset: Dataset, inside: tuple[slice, slice]
) -> np.ndarray:
    """Read part of a shard [..., y, x]; deflate has a check sum, so that damage is an error."""
    try:
        return file[dataset.name][(..., *inside)]
    except DAMAGED as error:
        raise StoreError(
            f"shard {file.filename}: {dataset.name} cannot be read ({error}); remove it and run the "
            f"stage that makes {shard.kind} again"
        ) from error


def open_shard(directory: Path, shard: Shard, mark: str) -> h5py.File:
    """Open a shard for reading; StoreError where it is missing, damaged or stale."""
    path = shard.path(directory)
    remedy = f"run the stage that makes {shard.kind} again"
    if not path.exists():
        raise StoreError(f"shard {path} is missing; {remedy}")
    try:
        file = h5py.File(path, "r")
        found = file.attrs.get("fingerprint")
    except DAMAGED as error:
        raise StoreError(
            f"shard {path} cannot be read ({error}); remove it and {remedy}"
        ) from error
    if found != shard_mark(mark, shard):
        file.close()
        raise StoreError(f"shard {path} was made from other inputs; {remedy}")
    return file


def shard_mark(mark: str, shard: Shard) -> str:
    """Return the fingerprint of one shard of a tile and year."""
    return fingerprint(
        mark, shard.block.row, shard.block.col, shard.block.height, shard.block.width
    )


def intersection(one: Block, other: Block) -> Block | None:
    """Return what two blocks share, or None."""
    row, col = max(one.row, other.row), max(one.col, other.col)
    end_row = min(one.row + one.height, other.row + other.height)
    end_col = min(one.col + one.width, other.col + other.width)
    if end_row <= row or end_col <= col:
        return None
    return Block(row, col, end_row - row, end_col - col)


def cells(block: Block) -> Iterator[Block]:
    """Yield the cells (chunks) of a block whose corner lies on a cell's corner."""
    return split(block, CELL)


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as plain values."""
    return {
        "crs": grid.crs,
        "transform": list(grid.transform),
        "height": grid.height,
        "width": grid.width,
    }


def grid_from(values: dict[str, Any]) -> Grid:
    """Return the grid that `describe_grid` described."""
    return Grid(values["crs"], tuple(values["transform"]), values["height"], values["width"])


def write_virtual(
    directory: Path,
    tile: Tile,
    years: Sequence[int],
    times: dict[int, int],
    bands: int,
    size: int,
    mark: str,
    days: Dataset = DAY,
) -> Path:
    """Write ``composites/TILE.h5``, which shows the shards of all years as one, for people.

    The stages never read it: a virtual dataset shows a missing shard as nodata without a word.
    """
    path = directory / "composites" / f"{tile.id}.h5"
    if is_whole(path, mark):
        return path
    grid, total = tile.grid, sum(times[year] for year in years)
    shapes = {
        REFLECTANCE: (total, bands, grid.height, grid.width),
        CLEAR_COUNT: (total, grid.height, grid.width),
        days: (total,) if days is DAY else (total, grid.height, grid.width),
    }
    layouts = {
        dataset: h5py.VirtualLayout(shape, dataset.dtype) for dataset, shape in shapes.items()
    }
    start = 0
    for year in years:
        span = slice(start, start + times[year])
        for shard in shards("composites", tile, year, size):
            _map_shard(layouts, shard, directory, span, bands)
        start += times[year]
    with writing(path):
        with h5py.File(temporary(path), "w", libver=("v110", "v110")) as file:
            for dataset, layout in layouts.items():
                made = file.create_virtual_dataset(
                    dataset.name, layout, fillvalue=dataset.nodata or 0
                )
                made.attrs["axes"], made.attrs["unit"] = ", ".join(dataset.axes), dataset.unit
            file.attrs.update({"crs": grid.crs, "transform": grid.transform, "fingerprint": mark})
        sync(temporary(path))
        os.replace(temporary(path), path)
    return path


def _map_shard(
    layouts: dict[Dataset, h5py.VirtualLayout],
    shard: Shard,
    directory: Path,
    span: slice,
    bands: int,
) -> None:
    name = str(shard.path(directory).relative_to(directory / "composites"))
    block, count = shard.block, span.stop - span.start
    shapes = {
        REFLECTANCE: (count, bands, block.height, block.width),
        CLEAR_COUNT: (count, block.height, block.width),
    }
    if DAY_OF_PIXEL in layouts:
        shapes[DAY_OF_PIXEL] = (count, block.height, block.width)
    for dataset, shape in shapes.items():
        source = h5py.VirtualSource(name, dataset.name, shape, dataset.dtype)
        layouts[dataset][(span, ..., *block.slices)] = source
    if DAY in layouts and block.row == 0 and block.col == 0:
        layouts[DAY][span] = h5py.VirtualSource(name, DAY.name, (count,), DAY.dtype)
