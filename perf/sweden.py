"""Felled forest on the Swedish squares: the table of `docs/consistency.md`, from `examples/sweden.toml`.

    python perf/sweden.py --seeds 1 2 3
    python perf/sweden.py --seeds 1 --only "the example" "random forest" --folder build/sweden

Of the pixels that are forest both in the old map of 2018 (at 100 m) and in its source at 10 m: *found* is the share of
those that were felled since which the map of 2022 does not call forest, *wrong* that of those which a newer map calls
forest still. Accuracy and macro F1 are against the source of the old map, felled pixels left out: with mixed forest,
which counts as the example's legend says, and without. Every row goes to `results/sweden.csv`; the page shows
what was measured last of each way. The real data are not part of a public clone; without them nothing is done.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import record
from osgeo import gdal

from lcu.classify.stage import Maps
from lcu.config import load

gdal.UseExceptions()

SHARED = record.ROOT.parent / "shared" / "data"
EXAMPLE = record.ROOT / "examples" / "sweden.toml"
LEGEND = record.ROOT / "examples" / "legends" / "sweden.toml"
TABLE = record.ROOT / "perf" / "results" / "sweden.csv"
PAGE = record.ROOT / "docs" / "consistency.md"
BEGIN, END = "<!-- sweden: written by perf/sweden.py -->\n", "<!-- end of sweden -->"
FIGURES = ("found", "wrong", "accuracy", "macro_f1", "accuracy_unmixed", "macro_f1_unmixed")
COLUMNS = (
    "date", "commit", "host", "cpu", "way", "seed", "square", *FIGURES, "felled", "forest"
)  # fmt: skip
SQUARES, YEAR = ("sweden-a", "sweden-b"), 2022

FOREST, MIXED = (311, 312, 313), 313
WITH_MIXED, WITHOUT_MIXED = "corine = [312, 313]", "corine = [312]"
STILL_FOREST = (1, 2, 3, 4, 5)  # codes of the newer map
FOUND, WRONG = 0.6, 0.05  # what is aimed at

UNMIXED, UNSPLICED = "sample.legend='{folder}/unmixed.toml'", "train.spliced=0"
# Way -> keys; {folder} is where the runs lie.
WAYS = {
    "the example": (),
    "no spliced samples": (UNSPLICED,),
    "mixed forest in no class": (UNMIXED,),
    "neither": (UNSPLICED, UNMIXED),
    "`sample.typical = 1`": ("sample.typical=1",),
    "`sample.typical = 0.85`": ("sample.typical=0.85",),
    "`train.spliced = 0.1`": ("train.spliced=0.1",),
    "`archive.margin = \"P0M\"`": ("archive.margin='P0M'",),
    "`classify.old_map = true`": ("classify.old_map=true",),
    "`classify.minimum_unit = 0.1`": ("classify.minimum_unit=0.1",),
    "`classify.minimum_unit = 0.5`": ("classify.minimum_unit=0.5",),
    "random forest": ("train.model='random-forest'",),
    "random forest, no spliced samples": ("train.model='random-forest'", UNSPLICED),
    "tempcnn": ("train.model='tempcnn'", "train.epochs=30"),
    "tempcnn, no spliced samples": ("train.model='tempcnn'", "train.epochs=30", UNSPLICED),
}  # fmt: skip


def chain(sets: Sequence[str]) -> None:
    """Run the stages from the archive to the maps."""
    words = [word for text in sets for word in ("--set", text)]
    for stage in ("composite", "sample", "train", "classify"):
        command = [sys.executable, "-m", "lcu.main", stage, str(EXAMPLE), *words]
        done = subprocess.run(command, cwd=record.ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def raster(square: str, name: str) -> np.ndarray:
    """Read a raster of a square on the grid of its references, nearest; 0 outside."""
    grid = gdal.Open(str(SHARED / square / "reference" / "nmd2018_as_clc.tif"))
    left, width, _, top, _, height = grid.GetGeoTransform()
    size = grid.RasterXSize, grid.RasterYSize
    bounds = (left, top + size[1] * height, left + size[0] * width, top)
    return gdal.Warp(
        "", str(SHARED / square / name), format="MEM", outputBounds=bounds, width=size[0],
        height=size[1], resampleAlg="near",
    ).ReadAsArray()  # fmt: skip


def forest_of_both(square: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels that were forest in both maps of 2018 were felled, and which were not, bool [y, x]."""
    maps = (raster(square, "old_map_clc_100m.tif"), raster(square, "reference/nmd2018_as_clc.tif"))
    both = np.isin(maps[0], FOREST) & np.isin(maps[1], FOREST)
    felled = raster(square, "reference/felled_forest.tif") == 1
    newer = raster(square, "reference/updated_label.tif")
    return both & felled, both & ~felled & np.isin(newer, STILL_FOREST)


def scores(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return the share that is right, and the mean F1 of the classes that are there."""
    parts = [
        2 * ((found == k) & (true == k)).sum() / ((found == k).sum() + (true == k).sum())
        for k in np.unique(true)
    ]
    return float((found == true).mean()), float(np.mean(parts))


def measure(sets: Sequence[str]) -> list[dict[str, object]]:
    """Return the figures of each square, and the accuracies of both."""
    config, legend = load(EXAMPLE, sets), load(EXAMPLE, []).legend
    maps, rows, pixels = Maps.open(config), [], []
    forest = [
        entry.value
        for entry in legend.classes
        if set(entry.codes["corine"]) & set(map(str, FOREST))
    ]
    for square in SQUARES:
        found = maps.land_cover(square, YEAR, maps.tiles[square].grid.whole)
        felled, still = forest_of_both(square)
        gone = ~np.isin(found, forest)
        codes = raster(square, "reference/nmd2018_as_clc.tif")
        true = legend.reclass(codes, "corine")
        used = (true != 255) & (raster(square, "reference/felled_forest.tif") == 0)
        pixels.append((found[used], true[used], codes[used] != MIXED))
        rows.append({
            "square": square, "found": gone[felled].mean(), "wrong": gone[still].mean(),
            "felled": int(felled.sum()), "forest": int(still.sum()),
        })  # fmt: skip
    pixels.append(tuple(np.concatenate(part) for part in zip(*pixels, strict=True)))
    rows.append({"square": "both"})
    for row, (found, true, pure) in zip(rows, pixels, strict=True):
        row["accuracy"], row["macro_f1"] = scores(found, true)
        row["accuracy_unmixed"], row["macro_f1_unmixed"] = scores(found[pure], true[pure])
        row |= {name: f"{row[name]:.4f}" for name in FIGURES if name in row}
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Return means over the seeds (least to most) as a table in Markdown."""
    lines = [
        "| way (seeds) | sweden-a: found | wrong | sweden-b: found | wrong | accuracy, macro F1 "
        "| without mixed forest |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in [way for way in WAYS if any(row["way"] == way for row in rows)]:
        own = {square: [row for row in rows if (row["way"], row["square"]) == (way, square)]
               for square in (*SQUARES, "both")}  # fmt: skip
        cells = [spread(own[square], figure) for square in SQUARES for figure in FIGURES[:2]]
        for pair in (FIGURES[2:4], FIGURES[4:]):
            cells.append(", ".join(f"{mean(own['both'], figure):.3f}" for figure in pair))
        lines.append(f"| {way} ({len(own['both'])}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean(rows: list[dict[str, str]], figure: str) -> float:
    """Return the mean of a column."""
    return float(np.mean([float(row[figure]) for row in rows]))


def spread(rows: list[dict[str, str]], figure: str) -> str:
    """Return mean (least to most) of a column, bold where every one is as good as is aimed at."""
    values = [float(row[figure]) for row in rows]
    good = min(values) >= FOUND if figure == "found" else max(values) <= WRONG
    said = f"{np.mean(values):.3f}"
    return f"{f'**{said}**' if good else said} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Measure, append the rows and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    options = parser.parse_args()
    if not (SHARED / SQUARES[0]).is_dir():
        print(f"skipped, the real data are not at {SHARED}")
        return
    shared = record.provenance()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        legend = LEGEND.read_text().replace(WITH_MIXED, WITHOUT_MIXED)
        (folder / "unmixed.toml").write_text(legend)
        for way in options.only:
            for seed in options.seeds:
                keys = [key.replace("{folder}", str(folder)) for key in WAYS[way]]
                run = folder / f"{list(WAYS).index(way)}-{seed}"
                sets = [f"run.directory='{run}'", f"run.seed={seed}", *keys]
                chain(sets)
                rows = [{"way": way, "seed": seed} | row for row in measure(sets)]
                record.append(TABLE, [shared | row for row in rows], COLUMNS)
                print(*rows, sep="\n", flush=True)
    with TABLE.open(newline="") as file:
        rows = record.newest(list(csv.DictReader(file)), "way")
    record.put(PAGE, BEGIN, END, table(rows))


if __name__ == "__main__":
    main()
