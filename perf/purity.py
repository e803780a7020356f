"""How pure the samples are: the stage, run on landscapes with a known truth, against erosion alone.

``python perf/purity.py`` appends a row for each landscape, seed and share to ``perf/results/purity.csv`` and
writes the table in ``docs/method.md`` again. The truth is read here only; the stage never sees it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import record
from osgeo import gdal
from scipy import ndimage

from lcu.composite import Composites
from lcu.config import Config, load
from lcu.sample import OldMap, Samples

gdal.UseExceptions()

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLE = ROOT / "perf" / "results" / "purity.csv"
PAGE = ROOT / "docs" / "method.md"
BEGIN, END = "<!-- purity: written by perf/purity.py -->\n", "<!-- end of purity -->"
COLUMNS = (
    "date", "commit", "host", "cpu", "landscape", "seed", "keep", "labelled", "kept", "purity", "erosion",
    "class_mean", "class_least", "fewest_kept", "subtype_least",
)  # fmt: skip

SIMULATED = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2018]
[simulate]
size = 448
mapping_unit = 5
mistakes = 0.05
[sample]
old_map = "old_map.tif"
old_map_year = 2016
[assess]
reference = "truth/{tile}_{year}_class.tif"
reference_nomenclature = "value"
"""

# A class with this many correct pixels in the old map is asked to keep some.
ENOUGH = 300
# A sub-type with this share of its class is asked to survive.
COMMON = 0.02


def run(config: Path, stages: tuple[str, ...], sets: list[str]) -> None:
    """Run stages of the chain."""
    words = [word for text in sets for word in ("--set", text)]
    for stage in stages:
        command = [sys.executable, "-m", "lcu.main", stage, str(config), *words]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def raster(name: str, tile: str, year: int) -> np.ndarray:
    """Read a raster whose name holds {tile} and {year}."""
    return gdal.Open(name.replace("{tile}", tile).replace("{year}", str(year))).ReadAsArray()


def pixels(config: Config, samples: Samples, tile: str) -> dict[str, np.ndarray]:
    """Return the labelled pixels of a tile: label, truth, sub-type, distance to the border, kept."""
    composites, year = Composites.open(config), config.archive.years[0]
    grid = composites.tiles[tile].grid
    old = OldMap(config.sample, list(composites.tiles.values()))
    label = config.legend.reclass(old.read(tile, grid)[0], config.sample.nomenclature)
    assess = config.assess
    truth = config.legend.reclass(
        raster(assess.reference, tile, year), assess.reference_nomenclature
    )
    used = (label != 255) & composites.read_count(tile, grid.whole).any(axis=0)
    if assess.exclude:
        used &= raster(assess.exclude, tile, year) == 0
    distance = np.zeros(label.shape)
    for value in np.unique(label[label != 255]):
        distance += ndimage.distance_transform_edt(label == value)
    kept = np.zeros(label.shape, bool)
    own = samples.tile == samples.tiles.index(tile)
    kept[samples.row[own], samples.col[own]] = True
    subtype = assess.reference.replace("_class.tif", "_subtype.tif")
    kind = raster(subtype, tile, year) if subtype != assess.reference else np.zeros_like(label)
    found = {"label": label, "truth": truth, "kind": kind, "distance": distance, "kept": kept}
    return {name: values[used] for name, values in found.items()}


def measure(found: dict[str, np.ndarray]) -> dict[str, object]:
    """Return the figures of one landscape and seed."""
    label, kept = found["label"], found["kept"]
    right = label == found["truth"]
    far = np.argsort(-found["distance"], kind="stable")[: kept.sum()]
    classes = [value for value in np.unique(label) if (kept & (label == value)).any()]
    of_class = [right[kept & (label == value)].mean() for value in classes]
    asked = [value for value in np.unique(label) if (right & (label == value)).sum() >= ENOUGH]
    return {
        "labelled": len(label), "kept": f"{kept.mean():.4f}", "purity": f"{right[kept].mean():.4f}",
        "erosion": f"{right[far].mean():.4f}", "class_mean": f"{np.mean(of_class):.4f}",
        "class_least": f"{min(of_class):.4f}",
        "fewest_kept": min((kept & (label == value)).sum() for value in asked),
        "subtype_least": f"{least_retention(found, right):.4f}",
    }  # fmt: skip


def least_retention(found: dict[str, np.ndarray], right: np.ndarray) -> float:
    """Return the least ratio of a sub-type's share among the kept to its share among the correct."""
    ratios = []
    for value in np.unique(found["label"]):
        own = right & (found["label"] == value)
        kinds, before = np.unique(found["kind"][own], return_counts=True)
        after = np.array([(found["kind"][own & found["kept"]] == kind).sum() for kind in kinds])
        shares = before / max(before.sum(), 1), after / max(after.sum(), 1)
        ratios += list((shares[1] / shares[0])[shares[0] > COMMON])
    return min(ratios)


def landscapes(folder: Path, seeds: int) -> list[tuple[str, Path, list[str]]]:
    """Return name, configuration and overrides of the landscapes that there are."""
    found = []
    for seed in range(1, seeds + 1):
        config = folder / f"simulated-{seed}" / "run.toml"
        config.parent.mkdir()
        config.write_text(SIMULATED)
        found.append((f"simulated {seed}", config, [f"run.seed={seed}"]))
    for name, tiles in (("flanders", [""]), ("sweden", ["sweden-a", "sweden-b"])):
        if not (SHARED / (tiles[0] or name)).is_dir():
            print(f"{name}: skipped, the real data are not at {SHARED}")
            continue
        found.append((name, ROOT / "examples" / f"{name}.toml", [f"run.directory={folder / name}"]))
    return found


def judge(
    config: Path, sets: list[str], name: str, seed: int, keep: float
) -> list[dict[str, object]]:
    """Sample with a seed, without limit, and measure every tile, or both tiles of a simulation at once."""
    sets = [*sets, f"run.seed={seed}", f"sample.keep={keep}", "sample.per_class=100000000",
            "sample.per_polygon=100000000"]  # fmt: skip
    run(config, ("sample",), sets)
    settled = load(config, sets)
    samples = Samples.read(settled.directory)
    parts = {tile: pixels(settled, samples, tile) for tile in samples.tiles}
    if settled.simulate is not None:
        joined = [
            np.concatenate(column)
            for column in zip(*(p.values() for p in parts.values()), strict=True)
        ]
        parts = {"simulated": dict(zip(next(iter(parts.values())), joined, strict=True))}
    if name == "flanders":
        parts = dict(zip([name], parts.values(), strict=True))
    return [
        {"landscape": of, "seed": seed, "keep": keep} | measure(part) for of, part in parts.items()
    ]


def table(rows: list[dict[str, str]]) -> str:
    """Return the mean over the seeds of each landscape and share as a table in Markdown."""
    lines = [
        "| landscape | `sample.keep` | kept | purity | erosion alone, as many kept | mean of classes | least class "
        "| fewest kept of a class | least sub-type |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["landscape"], row["keep"]) for row in rows):
        own = [row for row in rows if (row["landscape"], row["keep"]) == key]
        mean = [np.mean([float(row[name]) for row in own]) for name in COLUMNS[8:13]]
        fewest = min(int(row["fewest_kept"]) for row in own)
        kinds = min(float(row["subtype_least"]) for row in own)
        lines.append(
            f"| {key[0]} | {key[1]} | {mean[0]:.3f} | **{mean[1]:.3f}** | {mean[2]:.3f} | {mean[3]:.3f} "
            f"| {mean[4]:.3f} | {fewest} | {f'{kinds:.2f}' if key[0] == 'simulated' else ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, append the rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.6])
    arguments = parser.parse_args()
    shared, rows = record.provenance(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, config, sets in landscapes(Path(folder), arguments.seeds):
            simulated = name.startswith("simulated")
            run(config, ("simulate", "composite") if simulated else ("composite",), sets)
            seeds = [int(name.split()[1])] if simulated else range(1, arguments.seeds + 1)
            for seed in seeds:
                for keep in arguments.keep:
                    rows += [shared | row for row in judge(config, sets, name, seed, keep)]
                    print(rows[-1], flush=True)
    record.append(TABLE, rows, COLUMNS)
    written = table([{name: str(value) for name, value in row.items()} for row in rows])
    record.put(PAGE, BEGIN, END, written)


if __name__ == "__main__":
    main()
