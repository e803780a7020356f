"""What each strategy and each step of consistency does where the truth is known: the table of `docs/consistency.md`.

    python perf/consistency.py --seeds 1 2 3 --years 3 6
    python perf/consistency.py --seeds 4 --years 6 --only svm tempcnn
    python perf/consistency.py --size 1024 --years 6 --only tempcnn

Every seed is a landscape of its own, `--size` pixels of 10 m wide and high: simulated, composited and
sampled once a number of years; the first years are taken where there are more. Each way of training and
classifying (`WAYS`) has probabilities of its own, on which the steps work (`STEPS`; the default way has all
of them, the others the map of each year alone, the default chain and all together). The truth is read here
only. Every figure goes to `results/consistency.csv`, and the page shows what was measured last of each way.
`--only` and `--years` measure parts.

Change is a change of class between successive years, pooled over pairs of years, pixels that are mixed in either year
left out. A constant map agrees with itself perfectly: agreement stands beside accuracy and the recall of change.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from mpi4py import MPI
from osgeo import gdal

from lcu import config as configuration
from lcu import store
from lcu.classify import consistency, most_likely_years
from lcu.classify.estimate import estimate
from lcu.classify.source import Source
from lcu.classify.stage import marks_of
from lcu.composite import Composites
from lcu.config import Config
from lcu.sample import Candidates, draw, priority
from lcu.sample import stage as sampling
from lcu.sample.draw import FARTHEST, mix
from lcu.store import LAND_COVER
from lcu.train import load as load_model

gdal.UseExceptions()

TABLE = record.ROOT / "perf" / "results" / "consistency.csv"
PAGE = record.ROOT / "docs" / "consistency.md"
BEGIN, END = "<!-- consistency: written by perf/consistency.py -->\n", "<!-- end of consistency -->"
COLUMNS = (
    "date", "commit", "host", "cpu", "size", "years", "way", "step", "seed", "figure", "value",
)  # fmt: skip
FIRST = 2018

RUN = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = {years}
[simulate]
size = {size}
tiles = ["32TPS"]
mapping_unit = 5
[sample]
old_map = "old_map.tif"
old_map_year = 2016
per_class = 500
[train]
c = [10]
gamma = [0.1, 0.3]
[assess]
reference = "truth/{{tile}}_{{year}}_class.tif"
reference_nomenclature = "value"
"""

# Probabilities below this are as little: a written 0 would forbid a class for ever.
LEAST = 0.004

YEARLY, CHAIN = "yearly maps", "chain, smoothing, likeness (default)"
ALL = "all: chain, smoothing, likeness, old map, unit of 0.1 ha"
# Step -> keys of [classify]; what stands for itself comes first.
STEPS = {
    YEARLY: None,
    "smoothing alone": None,
    "legend's transitions alone": None,
    "rule of CLC+ alone": ("years='clcplus'", "smooth='none'"),
    "estimated chain alone": ("smooth='none'", "likeness=false"),
    "chain, smoothing": ("likeness=false",),
    "chain, likeness": ("smooth='none'",),
    CHAIN: (),
    "CLC+, smoothing": ("years='clcplus'",),
    "default, old map": ("old_map=true",),
    "default, unit of 0.1 ha": ("minimum_unit=0.1",),
    "all but likeness": ("old_map=true", "minimum_unit=0.1", "likeness=false"),
    ALL: ("old_map=true", "minimum_unit=0.1"),
}  # fmt: skip

MULTI, SHIFTED = "classify.strategy='multi-year'", "classify.strategy='shifted-window'"
PENALTY, CARRIED = "train.change_penalty=1.0", "train.carry_state=true"
SPLICED = "train.spliced=0.3"
TEMPCNN = ("train.model='tempcnn'", "train.epochs=15", "train.learning_rate=0.002")
LSTM = ("train.model='lstm'", "train.epochs=12", "train.hidden=32", "train.learning_rate=0.004")
# What could be had if all labels were right: pixels of all kinds, with their true class in every year.
TRUTH = "tempcnn, true labels"
# Way of training and classifying -> keys. The first is the default and has every step.
WAYS = {
    "svm": (),
    "svm, multi-year": (MULTI,),
    "svm, shifted windows": (SHIFTED,),
    "tempcnn": TEMPCNN,
    "tempcnn, penalty": (*TEMPCNN, PENALTY),
    "tempcnn, multi-year": (*TEMPCNN, MULTI),
    "tempcnn, multi-year, penalty": (*TEMPCNN, MULTI, PENALTY),
    "tempcnn, shifted windows": (*TEMPCNN, SHIFTED),
    TRUTH: TEMPCNN,
    "lstm": LSTM,
    "lstm, carried state": (*LSTM, CARRIED),
    "lstm, carried state, spliced": (*LSTM, CARRIED, SPLICED),
    "lstm, carried state, spliced, multi-year, penalty": (*LSTM, CARRIED, SPLICED, MULTI, PENALTY),
}  # fmt: skip


def steps_of(way: str) -> list[str]:
    """Return the steps that a way is measured with."""
    return list(STEPS) if way == next(iter(WAYS)) else [YEARLY, CHAIN, ALL]


def stage(name: str, config: Path, sets: Sequence[str]) -> None:
    """Run a stage of the chain."""
    words = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-m", "lcu.main", name, str(config), *words]
    done = subprocess.run(command, cwd=record.ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def chain(config: Path, seed: int, years: Sequence[int], way: str) -> list[str]:
    """Run the chain up to the probabilities of a way; return the keys that it was run with.

    Composites and samples are those of the default way: links to them lie in the run directory.
    """
    base = config.parent / f"run-{len(years)}"
    shared = [f"run.seed={seed}", f"archive.years={list(years)}"]
    for name in ("composite", "sample"):
        stage(name, config, [*shared, f"run.directory={base}"])
    own = config.parent / f"run-{len(years)}-{list(WAYS).index(way)}"
    own.mkdir(exist_ok=True)
    if not (own / "samples").exists():
        (own / "composites").symlink_to(base / "composites")
        shutil.copytree(base / "samples", own / "samples")
    sets = [*shared, f"run.directory={own}", *WAYS[way]]
    if way == TRUTH:
        teach_truth(configuration.load(config, sets))
    for name in ("train", "classify"):
        stage(name, config, [*sets, "classify.years=none"])
    return sets


def teach_truth(config: Config) -> None:
    """Replace the samples of a run: as many random pixels, with their true class in each year; squares are held out."""
    composites = Composites.open(config)
    name, years = next(iter(composites.tiles)), config.archive.years
    true, _ = truth(config, name, years)
    row, col = np.indices(true.shape[1:]).reshape(2, -1).astype(np.int32)
    key = priority(config.run.seed, name, row, col)
    flat, year = true.reshape(len(years), -1), mix(key) % np.uint64(len(years))
    index = config.legend.index_of(flat[year.astype(int), np.arange(len(key))])
    square = row.astype(np.int64) // 64 << 32 | col // 64
    pool = Candidates(
        key, index, np.zeros(len(key), np.uint16), row, col, square, np.full(len(key), FARTHEST, np.uint8),
        np.full(len(key), -1, np.int32),
    )  # fmt: skip
    areas = np.bincount(index, minlength=len(config.legend.classes))
    drawn = draw(pool, areas, config.sample.per_class, config.sample.per_polygon)
    chance = mix(drawn.polygon.astype(np.uint64)) % np.uint64(100)
    split = np.digitize(chance, [70, 85]).astype(np.uint8)  # training, validation, test
    path = sampling.path_of(config.directory, sampling.NAME)
    mark = store.fingerprint("true labels", sampling.NAME, config.run.seed, len(years))
    label = flat[:, drawn.row * true.shape[2] + drawn.col].T
    sampling.write(
        config, MPI.COMM_SELF, composites, drawn, areas, split, path, mark, label
    )  # fmt: skip


def source_of(path: Path, sets: Sequence[str]) -> Source:
    """Return where the probabilities lie, with other keys of [classify]."""
    config = configuration.load(path, sets)
    composites = Composites.open(config)
    marks = marks_of(config, composites, load_model(config.directory))
    return Source(config, composites, marks)


def maps(path: Path, sets: Sequence[str], step: str, tile: str) -> np.ndarray:
    """Return the class values of a step, uint8 [year, y, x]."""
    keys = STEPS[step]
    own = [f"classify.{key}" for key in keys or ()]
    if keys is None and step != "smoothing alone":
        own.append("classify.smooth='none'")
    source = source_of(path, [*sets, *own])
    values, whole = source.config.legend.values, source.tiles[tile].grid.whole
    if keys is None:
        probability = np.nan_to_num(source.probability(tile, whole), nan=1.0)
        if step != "legend's transitions alone":
            return values[probability.argmax(axis=1)]
        step_matrix = source.config.legend.transition_matrix()
        return values[most_likely_years(np.maximum(probability, np.float32(LEAST)), step_matrix)]
    about = estimate(source, MPI.COMM_SELF)
    found = consistency.decide(source, about, tile, whole, consistency.read(source, tile, whole))
    return np.stack([found[year][LAND_COVER] for year in source.years])


def truth(config: Config, tile: str, years: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the true class values and what is mixed, uint8 [year, y, x] each."""
    names = [config.assess.reference.format(tile=tile, year=year) for year in years]
    read = (names, [name.replace("_class", "_mixed") for name in names])
    classes, mixed = (np.stack([gdal.Open(name).ReadAsArray() for name in part]) for part in read)
    return classes, mixed


def counts_of_change(found: np.ndarray, true: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return pixels int64 [4]: changed in both, in the map alone, in the truth alone, in neither."""
    mapped, real = found[1:] != found[:-1], true[1:] != true[:-1]
    cases = (mapped & real, mapped & ~real, ~mapped & real, ~mapped & ~real)
    return np.array([(case & used).sum() for case in cases])


def figures(found: np.ndarray, true: np.ndarray, mixed: np.ndarray) -> dict[str, float]:
    """Return what is compared, pixels of change as counts, so that seeds can be pooled."""
    out: dict[str, float] = {}
    for number, (own, real) in enumerate(zip(found, true, strict=True), 1):
        kinds = np.unique(real)
        parts = [
            2 * ((own == k) & (real == k)).sum() / ((own == k).sum() + (real == k).sum())
            for k in kinds
        ]
        out[f"accuracy {number}"] = float((own == real).mean())
        out[f"macro F1 {number}"] = float(np.mean(parts))
    out["agreement"] = float((found[1:] == found[:-1]).mean())
    out["true agreement"] = float((true[1:] == true[:-1]).mean())
    pure = (mixed[1:] == 0) & (mixed[:-1] == 0)
    pairs = {
        "all": pure,
        "last": pure & (np.arange(len(pure)) == len(pure) - 1)[:, None, None],
        "mixed": ~pure,
    }
    for name, used in pairs.items():
        for case, number in zip(
            ("hit", "false", "missed", "none"), counts_of_change(found, true, used), strict=True
        ):
            out[f"{name} {case}"] = int(number)
    right = (found[1:] == true[1:]) & (found[:-1] == true[:-1])
    out["all from-to"] = int((right & (true[1:] != true[:-1]) & pure).sum())
    return out


def ratios(rows: dict[str, float], name: str) -> tuple[float, float, float, float]:
    """Return precision, recall and F1 of change, and the share of unchanged pixels called changed."""
    hit, false, missed, none = (
        rows[f"{name} {case}"] for case in ("hit", "false", "missed", "none")
    )
    scores = (
        hit / max(hit + false, 1),
        hit / max(hit + missed, 1),
        2 * hit / max(2 * hit + false + missed, 1),
    )
    return *scores, false / max(false + none, 1)


def table(rows: list[dict[str, str]], size: int, years: int) -> str:
    """Return the table of a size and a number of years in Markdown: means over the seeds, change pooled."""
    own = [row for row in rows if (int(row["size"]), int(row["years"])) == (size, years)]
    lines = [
        f"**{years} years, {size} x {size} pixels.**\n",
        "| way (seeds) | step | accuracy by year | macro F1 by year | agreement (true) | change: precision | recall "
        "| F1 | false change | F1 last pair | from-to right | F1 mixed pixels |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way, step in dict.fromkeys((row["way"], row["step"]) for row in own):
        values: dict[str, list[float]] = {}
        for row in own:
            if (row["way"], row["step"]) == (way, step):
                values.setdefault(row["figure"], []).append(float(row["value"]))
        seeds = len(values["agreement"])
        mean = {name: float(np.mean(each)) for name, each in values.items()}
        total = {name: sum(each) for name, each in values.items()}
        by_year = (
            " ".join(f"{mean[f'{name} {n}']:.3f}" for n in range(1, years + 1))
            for name in ("accuracy", "macro F1")
        )
        precision, recall, score, false = ratios(total, "all")
        right = total["all from-to"] / max(total["all hit"] + total["all missed"], 1)
        lines.append(
            f"| {way} ({seeds}) | {step} | {' | '.join(by_year)} "
            f"| {mean['agreement']:.3f} ({mean['true agreement']:.3f}) "
            f"| {precision:.3f} | {recall:.3f} | **{score:.3f}** | {100 * false:.3f} % "
            f"| {ratios(total, 'last')[2]:.3f} | {right:.3f} | {ratios(total, 'mixed')[2]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def write_page() -> None:
    """Write the tables of the page."""
    with TABLE.open(newline="") as file:
        rows = record.newest(list(csv.DictReader(file)), "size", "years", "way")
    order = {way: number for number, way in enumerate(WAYS)}
    rows = sorted((row for row in rows if row["way"] in order), key=lambda row: order[row["way"]])
    text = PAGE.read_text()
    begin = text.index(BEGIN) + len(BEGIN)
    measured = sorted({(int(row["size"]), int(row["years"])) for row in rows})
    tables = "\n".join(table(rows, *one) for one in measured)
    PAGE.write_text(text[:begin] + "\n" + tables + "\n" + text[text.index(END, begin) :])


def measure(path: Path, seed: int, years: Sequence[int], way: str) -> list[dict[str, Any]]:
    """Return a row for each step and figure of a way on one landscape."""
    sets = chain(path, seed, years, way)
    config = configuration.load(path)
    tile = config.simulate.tiles[0]
    true, mixed = truth(config, tile, years)
    rows = []
    for step in steps_of(way):
        found = figures(maps(path, sets, step, tile), true, mixed)
        own = {
            "size": config.simulate.size, "years": len(years), "way": way, "step": step, "seed": seed,
        }  # fmt: skip
        rows += [own | {"figure": name, "value": f"{value:.6g}"} for name, value in found.items()]
        said = " ".join(f"{value:.4f}" for value in ratios(found, "all"))
        accuracy = np.mean([found[f"accuracy {n + 1}"] for n in range(len(years))])
        print(seed, len(years), way, "|", step, "|", said, f"| {accuracy:.4f}", flush=True)
    return rows


def main() -> None:
    """Measure, append the rows and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--years", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--size", type=int, default=512, help="side of a landscape, pixels")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument(
        "--folder", type=Path, help="keep the archives and runs here, and use what is there"
    )
    options = parser.parse_args()
    shared = record.provenance()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for seed in options.seeds:
            path = folder / f"seed-{seed}-{options.size}" / "run.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            years = list(range(FIRST, FIRST + max(options.years)))
            path.write_text(RUN.format(size=options.size, years=years))
            stage("simulate", path, [f"run.seed={seed}"])
            for count in options.years:
                for way in options.only:
                    rows = measure(path, seed, range(FIRST, FIRST + count), way)
                    record.append(TABLE, [shared | row for row in rows], COLUMNS)
    write_page()


if __name__ == "__main__":
    main()
