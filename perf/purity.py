"""How pure the samples are: the stage, run on landscapes with a known truth, against erosion alone.

``python perf/purity.py`` appends a row for each landscape, seed, share and rule left out to
``perf/results/purity.csv`` and writes the tables in ``docs/method.md`` again. The truth is read here only; the
stage never sees it. Archives and composites are kept in ``build/purity``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import record
from mpi4py import MPI
from osgeo import gdal
from scipy import ndimage

from lcu.composite import Composites
from lcu.config import Config, load
from lcu.sample import OldMap, Samples, reliable
from lcu.sample import run as sample

gdal.UseExceptions()

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TABLE = ROOT / "perf" / "results" / "purity.csv"
PAGE = ROOT / "docs" / "method.md"
BUILD = ROOT / "build" / "purity"
BEGIN, END = "<!-- purity: written by perf/purity.py -->\n", "<!-- end of purity -->"
BEGIN_RULES, END_RULES = "<!-- rules: written by perf/purity.py -->\n", "<!-- end of rules -->"
COLUMNS = (
    "date", "commit", "host", "cpu", "landscape", "seed", "without", "keep", "labelled", "kept", "purity", "erosion",
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


def standardised(looks: reliable.Looks, *_: object) -> np.ndarray:
    """Return the series with mean 0 and standard deviation 1 in every feature, in place of discriminants."""
    values = looks.series.astype(np.float32)
    return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1)


# What is left out in turn, and the numbers of `lcu.sample.reliable` that leave it out.
RULES = {
    "rule `polygon`": {"WRONG_POLYGON": np.inf},
    "rule `cluster`": {"FITS": 0.0},
    "rule `atypical`": {"least_typical": lambda pool, *_: np.zeros(len(pool), bool)},
    "own polygon counted less": {"OWN_POLYGON": 1.0},
    "second turn": {"PASSES": 1},
    "several clusterings": {"CLUSTERINGS": 1},
    "usual shares": {"usual_shares": lambda tables, *_: np.ones(tables[0].classes)},
    "discriminants": {"discriminants": standardised},
}
# Share that is kept while rules are left out: without one more would be left, and a larger share is less pure.
COMPARED_AT = 0.4

# A class with this many correct pixels in the old map is asked to keep some.
ENOUGH = 300
# A sub-type with this share of its class is asked to survive.
COMMON = 0.02


def run(stage: str, config: Path, sets: list[str]) -> None:
    """Run a stage of the chain."""
    words = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-m", "lcu.main", stage, str(config), *words]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@contextmanager
def left_out(rule: str) -> Iterator[None]:
    """Leave a rule out of the method; none with an empty name."""
    usual = {name: getattr(reliable, name) for name in RULES.get(rule, {})}
    try:
        for name, number in RULES.get(rule, {}).items():
            setattr(reliable, name, number)
        yield
    finally:
        for name, number in usual.items():
            setattr(reliable, name, number)


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


def landscapes(seeds: int) -> Iterator[tuple[str, Path, list[str]]]:
    """Make composites of the landscapes that there are; give name, configuration and overrides."""
    for seed in range(1, seeds + 1):
        config, sets = BUILD / f"simulated-{seed}" / "run.toml", [f"run.seed={seed}"]
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(SIMULATED)
        run("simulate", config, sets)
        run("composite", config, sets)
        yield f"simulated {seed}", config, sets
    for name, tiles in (("flanders", [""]), ("sweden", ["sweden-a", "sweden-b"])):
        if not (SHARED / (tiles[0] or name)).is_dir():
            print(f"{name}: skipped, the real data are not at {SHARED}")
            continue
        config, sets = ROOT / "examples" / f"{name}.toml", [f"run.directory={BUILD / name}"]
        run("composite", config, sets)
        yield name, config, sets


def judge(
    config: Path, sets: list[str], name: str, seed: int, without: str, keep: float
) -> list[dict[str, object]]:
    """Sample with a seed, without limit, and measure every tile, or both tiles of a simulation at once."""
    sets = [*sets, f"run.seed={seed}", f"sample.keep={keep}", "sample.per_class=100000000",
            "sample.per_polygon=100000000"]  # fmt: skip
    settled = load(config, sets)
    shutil.rmtree(settled.directory / "samples", ignore_errors=True)
    with left_out(without):
        sample(settled, MPI.COMM_SELF, lambda *_: None)
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
    shared = {"seed": seed, "without": without, "keep": keep}
    return [{"landscape": of} | shared | measure(part) for of, part in parts.items()]


def table(rows: list[dict[str, str]]) -> str:
    """Return the mean over the seeds of each landscape and share as a table in Markdown."""
    lines = [
        "| landscape | `sample.keep` | kept | purity | erosion alone, as many kept | mean of classes | least class "
        "| fewest kept of a class | least sub-type |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for row in rows if not row["without"]]
    for key in dict.fromkeys((row["landscape"], row["keep"]) for row in rows):
        own = [row for row in rows if (row["landscape"], row["keep"]) == key]
        kept, purity, erosion, of_classes, least = (mean(own, name) for name in COLUMNS[9:14])
        fewest = min(int(row["fewest_kept"]) for row in own)
        kinds = min(float(row["subtype_least"]) for row in own)
        lines.append(
            f"| {key[0]} | {key[1]} | {kept:.3f} | **{purity:.3f}** | {erosion:.3f} | {of_classes:.3f} "
            f"| {least:.3f} | {fewest} | {f'{kinds:.2f}' if key[0] == 'simulated' else ''} |"
        )
    return "\n".join(lines) + "\n"


def table_of_rules(rows: list[dict[str, str]]) -> str:
    """Return what purity and mean of classes are without each rule, at one share kept."""
    rows = [row for row in rows if float(row["keep"]) == COMPARED_AT]
    names = list(dict.fromkeys(row["landscape"] for row in rows))
    lines = ["| left out | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for rule in ("", *RULES):
        own = [[row for row in rows if (row["landscape"], row["without"]) == (name, rule)]
               for name in names]  # fmt: skip
        cells = [f"{mean(some, 'purity'):.3f}, {mean(some, 'class_mean'):.3f}" for some in own]
        lines.append(f"| {rule or '(nothing)'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean(rows: list[dict[str, str]], name: str) -> float:
    """Return the mean of a column."""
    return float(np.mean([float(row[name]) for row in rows]))


def main() -> None:
    """Measure, append the rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.8, 0.6])
    arguments = parser.parse_args()
    wanted = [("", keep) for keep in dict.fromkeys([*arguments.keep, COMPARED_AT])]
    wanted += [(rule, COMPARED_AT) for rule in RULES]
    shared, rows = record.provenance(), []
    for name, config, sets in landscapes(arguments.seeds):
        simulated = name.startswith("simulated")
        for seed in [int(name.split()[1])] if simulated else range(1, arguments.seeds + 1):
            for without, keep in wanted:
                found = judge(config, sets, name, seed, without, keep)
                record.append(TABLE, [shared | row for row in found], COLUMNS)
                rows += [{name: str(value) for name, value in row.items()} for row in found]
                print(*found, sep="\n", flush=True)
    record.put(PAGE, BEGIN, END, table(rows))
    record.put(PAGE, BEGIN_RULES, END_RULES, table_of_rules(rows))


if __name__ == "__main__":
    main()
