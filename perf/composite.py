"""Measure the composite stage against decoding its input once, and its memory against the plan.

    python perf/composite.py --sizes 1024 2048 --rounds 3

Simulates an archive of one tile and one year of each size (kept in `build/archives`). In every round a
process decodes every raster once, whole, with GDAL and nothing else, and the stage runs straight after
it; ratios are of processor time. Before anything is reported, composites are compared with medians that
NumPy makes of what GDAL reads.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import record
from osgeo import gdal

gdal.UseExceptions()

TABLE = record.ROOT / "perf" / "results" / "composite.csv"
PICTURE = TABLE.with_suffix(".png")
ARCHIVES = record.ROOT / "build" / "archives"
COLUMNS = (
    "date", "commit", "host", "cpu", "size", "mask", "ranks", "acquisitions", "rounds",
    "decode_seconds", "compute_ratio", "ratio", "ratio_least", "ratio_most", "decoded",
    "memory_mib", "planned_mib", "wall_seconds",
)  # fmt: skip
BEGIN, END = "<!-- composite: written by perf/composite.py -->\n", "<!-- end of composite -->"

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2019]
[simulate]
size = {size}
tiles = ["32TPS"]
points = 0
[sample]
old_map = "old.tif"
old_map_year = 2018
"""

DECODE = """
import sys
from osgeo import gdal
gdal.UseExceptions()
for path in sys.stdin.read().split():
    gdal.Open(path).ReadAsArray()
"""


def archive(size: int) -> Path:
    """Return the folder of an archive; simulate it where it is missing."""
    folder = ARCHIVES / str(size)
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(CONFIG.format(size=size))
        print(f"simulating {size} x {size} pixels ...", flush=True)
        subprocess.run(
            [*mpirun(2), "simulate", folder / "run.toml"], check=True, capture_output=True
        )
        (folder / "done").touch()
    return folder


def mpirun(ranks: int) -> list[str]:
    """Return the beginning of a command of lcu on some ranks."""
    return ["mpirun", "-q", "-n", str(ranks), sys.executable, "-m", "lcu.main"]


def rasters(folder: Path) -> list[Path]:
    """Return what the stage reads: every band at its own resolution, and SCL."""
    pattern = "*/GRANULE/*/IMG_DATA/*/*.jp2"
    native = {"R10m": ("B02", "B03", "B04", "B08"), "R60m": ("B01", "B09")}
    native["R20m"] = ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
    return sorted(
        path for path in (folder / "products").glob(pattern)
        if path.stem.split("_")[2] in native[path.parent.name]
    )  # fmt: skip


def timed(command: list, text: str = "") -> tuple[float, float, float]:
    """Run a command; return its processor seconds, its peak memory in MiB and its wall seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"GDAL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    process.stdin.write(text)
    process.stdin.close()
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed: {said}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, time.perf_counter() - started


def check(folder: Path) -> None:
    """Stop where composites are not the medians of what is clear by SCL, read with GDAL alone."""
    with h5py.File(folder / "run" / "composites" / "32TPS.h5") as file:
        made, count = file["reflectance"][:, 3, :256, :256], file["clear_count"][:, :256, :256]
    series: dict[int, list[np.ndarray]] = {}
    for path in rasters(folder):
        if "_B04_" not in path.name:
            continue
        product = next(part for part in path.parts if part.endswith(".SAFE"))
        numbers = gdal.Open(str(path)).ReadAsArray(0, 0, 256, 256).astype(int)
        scl_path = str(path).replace("R10m", "R20m").replace("B04_10m", "SCL_20m")
        scl = gdal.Open(scl_path).ReadAsArray(0, 0, 128, 128).repeat(2, 0).repeat(2, 1)
        shift = 1000 if product.split("_")[3] >= "N0400" else 0
        values = np.where(numbers == 0, np.nan, np.clip(numbers - shift, 1, None))
        values[np.isin(scl, (0, 1, 3, 8, 9, 10))] = np.nan
        series.setdefault(int(product.split("_")[2][4:6]) - 1, []).append(values)
    for month, values in series.items():
        clear = np.isfinite(values).sum(axis=0)
        filled = np.where(clear == 0, 0, np.array(values))  # NumPy warns of series without a value
        expected = np.floor(np.nanmedian(filled, axis=0) + 0.5)
        whole = (clear == count[month]) & (clear > 0)
        if whole.mean() < 0.9 * (clear > 0).mean() or (made[month] != expected)[whole].any():
            raise SystemExit(f"month {month + 1}: composites are not the medians of what is clear")


def measure(size: int, mask: str, ranks: int, rounds: int) -> dict[str, object]:
    """Return the row of one case."""
    folder, run = archive(size), None
    files = rasters(folder)
    sets = ["--set", f"composite.mask={mask}", "--set", "composite.cloud_buffer=0",
            "--set", "composite.shadow_buffer=0"]  # fmt: skip
    command = [sys.executable, "-m", "lcu.main"] if ranks == 1 else mpirun(ranks)
    run = folder / "run"
    decode, ratios, computed, memory, wall = [], [], [], [], []
    for _ in range(rounds):
        bare, _, _ = timed([sys.executable, "-c", DECODE], "\n".join(map(str, files)))
        shutil.rmtree(run, ignore_errors=True)
        used, peak, elapsed = timed([*command, "composite", folder / "run.toml", *sets])
        if mask == "scl":
            check(folder)
        text = "".join(path.read_text() for path in (run / "log").glob("*.log"))
        to_compute = sum(map(float, re.findall(r"processor time ([0-9.]+) s to compute", text)))
        decode.append(bare)
        ratios.append(used / bare)
        computed.append(to_compute / bare)
        memory.append(peak)
        wall.append(elapsed)
    reading = json.loads((run / "log" / "reading.json").read_text()).values()
    decoded, of = np.sum(list(reading), axis=0)
    return {
        "size": size, "mask": mask, "ranks": ranks, "rounds": rounds,
        "acquisitions": len({path.parts[-6] for path in files}),
        "decode_seconds": f"{statistics.median(decode):.4g}",
        "compute_ratio": f"{statistics.median(computed):.4g}",
        "ratio": f"{statistics.median(ratios):.4g}",
        "ratio_least": f"{min(ratios):.4g}", "ratio_most": f"{max(ratios):.4g}",
        "decoded": f"{decoded / of:.4g}",
        # Of several ranks the operating system gives the largest.
        "memory_mib": f"{max(memory):.0f}", "planned_mib": f"{planned(folder, ranks, sets):.0f}",
        "wall_seconds": f"{statistics.median(wall):.4g}",
    }  # fmt: skip


def planned(folder: Path, ranks: int, sets: list[str]) -> float:
    """Return the peak memory that `plan` prints for a rank, in MiB."""
    command = [*mpirun(ranks), "plan", folder / "run.toml", *sets]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return 1024 * float(re.search(r"peak memory per rank ([0-9.]+) GiB", said)[1])


def latest() -> list[dict[str, str]]:
    """Return the last row of every case: large tiles are not measured every time."""
    with TABLE.open(newline="") as file:
        rows = {(row["size"], row["mask"], row["ranks"]): row for row in csv.DictReader(file)}
    return sorted(rows.values(), key=lambda row: (int(row["size"]), row["mask"], row["ranks"]))


def write_page(rows: list[dict[str, str]]) -> None:
    """Put the table between its marks in docs/performance.md."""
    lines = [
        f"{rows[0]['cpu']}; commits and dates in `perf/results/composite.csv`. {rows[0]['acquisitions']} "
        "acquisitions of a year. Processor time of all ranks over that of a bare decode of the same files, straight "
        "before.\n",
        "| tile | mask | ranks | decode | read, composite | whole command | spread | decoded | memory | plan | wall |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']} | {row['mask']} | {row['ranks']} | {float(row['decode_seconds']):.1f} s | "
        f"{row['compute_ratio']} | {row['ratio']} | {row['ratio_least']} to {row['ratio_most']} | "
        f"{row['decoded']} | {row['memory_mib']} MiB | {row['planned_mib']} MiB | {float(row['wall_seconds']):.1f} s |"
        for row in rows
    ]
    record.put(record.PAGE, BEGIN, END, "\n".join(lines))


def draw(rows: list[dict[str, str]]) -> None:
    """Draw processor time and memory over the size of the tile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    chosen = [row for row in rows if row["ranks"] == "1" and row["mask"] == "scl"]
    chosen.sort(key=lambda row: int(row["size"]))
    sizes = [row["size"] for row in chosen]
    left.bar(sizes, [float(row["ratio"]) for row in chosen], color="#b8d4c4", label="whole command")
    left.bar(sizes, [float(row["compute_ratio"]) for row in chosen], color="#4c8c6b", width=0.5,
             label="read and composite")  # fmt: skip
    left.axhline(1.15, color="crimson", linewidth=1, label="target")
    left.set(
        title="Processor time over that of decoding",
        xlabel="side of the tile (pixels)",
        ylim=(0, None),
    )
    left.legend(fontsize=8, loc="lower right")
    for name, label in (("planned_mib", "planned"), ("memory_mib", "measured")):
        right.plot(sizes, [float(row[name]) for row in chosen], marker="o", label=label)
    right.set(
        title="Peak memory of a rank (MiB)", xlabel="side of the tile (pixels)", ylim=(0, None)
    )
    right.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measure what was asked for; append the rows; draw and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048], help="sides of tiles")
    parser.add_argument("--masks", nargs="+", default=["scl", "scl+time"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    arguments = parser.parse_args()
    shared = record.provenance()
    for size in arguments.sizes:
        for mask in arguments.masks:
            for ranks in arguments.ranks:
                row = shared | measure(size, mask, ranks, arguments.rounds)
                record.append(arguments.results, [row], COLUMNS)
                print(", ".join(f"{name} {row[name]}" for name in COLUMNS[4:]), flush=True)
    if arguments.results == TABLE:
        rows = latest()
        draw(rows)
        write_page(rows)


if __name__ == "__main__":
    main()
