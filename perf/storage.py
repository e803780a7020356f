"""Measure compressions and chunk shapes of composites against a bare write of the same bytes.

    python perf/storage.py --size 1024

Takes the composites that `perf/composite.py` left in `build/archives` (made where they are missing) and
writes the first 1024 x 1024 pixels through parallel HDF5 with every setting, and as bare bytes; reads a
block back as the later stages do, from a file that was just written; compares what was read. Seconds are
of processor time of one rank.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import composite
import h5py
import numpy as np
import record
from mpi4py import MPI

TABLE = record.ROOT / "perf" / "results" / "storage.csv"
COLUMNS = (
    "date", "commit", "host", "cpu", "size", "megabytes", "setting", "rounds", "write_seconds",
    "over_bare_write", "share_of_bytes", "read_seconds",
)  # fmt: skip
BEGIN, END = "<!-- storage: written by perf/storage.py -->\n", "<!-- end of storage -->"
PAGE = record.ROOT / "docs" / "formats.md"
PICTURE = TABLE.with_suffix(".png")
CHOSEN = "gzip 1, whole series of 64 x 64"  # what lcu writes
READ = 256  # side of the block that is read


class Setting(NamedTuple):
    """How a dataset is stored; chunk None: one block after the other, not compressed."""

    name: str
    chunk: tuple[int | None, int | None, int] | None
    options: dict[str, object]


SHUFFLED = {"compression": "gzip", "shuffle": True}
SETTINGS = (
    Setting("bare bytes", None, {}),
    Setting("none, whole series of 64 x 64", (None, None, 64), {}),
    Setting("gzip 1, whole series of 64 x 64", (None, None, 64), SHUFFLED | {"compression_opts": 1}),
    Setting("gzip 1 unshuffled, whole series of 64 x 64", (None, None, 64),
            {"compression": "gzip", "compression_opts": 1}),
    Setting("gzip 4, whole series of 64 x 64", (None, None, 64), SHUFFLED | {"compression_opts": 4}),
    Setting("gzip 1, whole series of 32 x 32", (None, None, 32), SHUFFLED | {"compression_opts": 1}),
    Setting("gzip 1, whole series of 128 x 128", (None, None, 128), SHUFFLED | {"compression_opts": 1}),
    Setting("gzip 1, one time, all bands, 128 x 128", (1, None, 128), SHUFFLED | {"compression_opts": 1}),
    Setting("gzip 1, one time, one band, 256 x 256", (1, 1, 256), SHUFFLED | {"compression_opts": 1}),
    Setting("LZF, whole series of 64 x 64", (None, None, 64), {"compression": "lzf", "shuffle": True}),
    Setting("szip, whole series of 64 x 64", (None, None, 64), {"compression": "szip"}),
)  # fmt: skip


def composites(size: int) -> np.ndarray:
    """Return reflectance, uint16 [time, band, y, x], of the archive of a size."""
    folder = composite.archive(size)
    path = folder / "run" / "composites" / "32TPS.h5"
    if not path.exists():
        command = [*composite.mpirun(1), "composite", folder / "run.toml"]
        subprocess.run(command, check=True, capture_output=True)
    with h5py.File(path) as file:
        return file["reflectance"][..., :1024, :1024]


def write(path: Path, values: np.ndarray, setting: Setting) -> None:
    """Write the values once and bring them to the disk."""
    if setting.chunk is None:
        with path.open("wb", buffering=0) as file:
            file.write(memoryview(values).cast("B"))
            os.fsync(file.fileno())
        return
    times, bands, side = setting.chunk
    chunk = (times or values.shape[0], bands or values.shape[1], side, side)
    with h5py.File(path, "w", driver="mpio", comm=MPI.COMM_SELF, libver=("v108", "v110")) as file:
        made = file.create_dataset(
            "reflectance", values.shape, values.dtype, chunks=chunk, **setting.options
        )
        with made.collective:
            made[...] = values
        file.flush()


def read(path: Path, shape: tuple[int, ...], setting: Setting) -> np.ndarray:
    """Read a block of whole series."""
    if setting.chunk is None:
        return np.memmap(path, np.uint16, "r", shape=shape)[
            ..., 64 : 64 + READ, 64 : 64 + READ
        ].copy()
    with h5py.File(path) as file:
        return file["reflectance"][..., 64 : 64 + READ, 64 : 64 + READ]


def measure(values: np.ndarray, folder: Path, rounds: int) -> list[dict[str, object]]:
    """Give every setting its turns; return the rows."""
    writes: dict[str, list[float]] = {setting.name: [] for setting in SETTINGS}
    reads: dict[str, list[float]] = {setting.name: [] for setting in SETTINGS}
    sizes = {}
    path = folder / "data.h5"
    for _ in range(rounds):
        for setting in SETTINGS:
            path.unlink(missing_ok=True)
            started = time.process_time()
            write(path, values, setting)
            written = time.process_time()
            found = read(path, values.shape, setting)
            reads[setting.name].append(time.process_time() - written)
            writes[setting.name].append(written - started)
            if (found != values[..., 64 : 64 + READ, 64 : 64 + READ]).any():
                raise SystemExit(f"{setting.name}: what was read is not what was written")
            sizes[setting.name] = path.stat().st_size
    bare = statistics.median(writes[SETTINGS[0].name])
    return [
        {
            "size": values.shape[-1], "megabytes": f"{values.nbytes / 1e6:.0f}", "setting": setting.name,
            "rounds": rounds, "write_seconds": f"{statistics.median(writes[setting.name]):.4g}",
            "over_bare_write": f"{statistics.median(writes[setting.name]) / bare:.4g}",
            "share_of_bytes": f"{sizes[setting.name] / values.nbytes:.3g}",
            "read_seconds": f"{statistics.median(reads[setting.name]):.3g}",
        }
        for setting in SETTINGS
    ]  # fmt: skip


def write_page(rows: list[dict[str, str]]) -> None:
    """Put the table between its marks in docs/formats.md."""
    first = rows[0]
    lines = [
        f"Commit `{first['commit']}`, {first['date'][:10]}, {first['cpu']}: {first['megabytes']} MB of composites, "
        f"{READ} x {READ} pixels read, processor seconds of one rank, median of {first['rounds']} rounds.\n",
        "| compression, chunk | write | over a bare write | bytes | read a block |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['setting']} | {float(row['write_seconds']):.2f} s | {float(row['over_bare_write']):.1f} | "
        f"{100 * float(row['share_of_bytes']):.0f} % | {1000 * float(row['read_seconds']):.0f} ms |"
        for row in rows
    ]
    record.put(PAGE, BEGIN, END, "\n".join(lines))


def draw(rows: list[dict[str, str]]) -> None:
    """Draw what each setting costs to write and to read, and the bytes that it takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [row["setting"] for row in rows][::-1]
    columns = (
        ("write_seconds", "write (processor seconds)"),
        ("share_of_bytes", "bytes, of those of the values"),
        ("read_seconds", f"read {READ} x {READ} pixels (seconds)"),
    )
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
    for axis, (column, title) in zip(axes, columns, strict=True):
        values = [float(row[column]) for row in rows][::-1]
        chosen = ["#4c8c6b" if name == CHOSEN else "#b8d4c4" for name in names]
        axis.barh(names, values, color=chosen)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measure; append the rows; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="side of the archive's tile")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    arguments = parser.parse_args()
    shared = record.provenance()
    values = composites(arguments.size)
    with tempfile.TemporaryDirectory(dir=composite.ARCHIVES) as name:
        rows = [shared | row for row in measure(values, Path(name), arguments.rounds)]
    record.append(arguments.results, rows, COLUMNS)
    for row in rows:
        print(", ".join(f"{name} {row[name]}" for name in COLUMNS[6:]), flush=True)
    if arguments.results == TABLE:
        draw(record.last_run(TABLE))
        write_page(record.last_run(TABLE))


if __name__ == "__main__":
    sys.exit(main())
