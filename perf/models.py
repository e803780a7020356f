"""Compare models where the truth is known: the table of `docs/models.md`.

    python -m lcu.main simulate CONFIG; python -m lcu.main composite CONFIG
    python perf/models.py CONFIG --seeds 1 2 3

A seed draws samples and trains every model on them. Accuracy is that of the pixels of the test polygons, which
no model has seen, against the simulated truth or, of real archives, the reference. Every figure goes to
`results/models.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import record
from mpi4py import MPI

from lcu import config as configuration
from lcu import sample, train
from lcu.assess.reference import RasterReference
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Block
from lcu.sample.draw import TEST
from lcu.store import PATCH_SIDE
from lcu.train import Cut, Model

TABLE = record.ROOT / "perf" / "results" / "models.csv"
COLUMNS = ("date", "commit", "host", "cpu", "case", "model", "seed", "year", "figure", "value")
MODELS = (
    "svm",
    "svm-ensemble",
    "random-forest",
    "lstm",
    "transformer",
    "tempcnn",
    "ltae",
    "convlstm",
)

# What else can be compared: name -> overrides.
VARIANTS = {name: (f"train.model={name}",) for name in MODELS} | {
    "lstm, state carried": ("train.model=lstm", "train.carry_state=true"),
    "lstm, masked": ("train.model=lstm", "train.series=masked"),
    "transformer, masked": ("train.model=transformer", "train.series=masked"),
    "ltae, masked": ("train.model=ltae", "train.series=masked"),
    "tempcnn, masked": ("train.model=tempcnn", "train.series=masked"),
    "transformer, index": ("train.model=transformer", "train.position=index"),
    "transformer, none": ("train.model=transformer", "train.position=none"),
    "ltae, index": ("train.model=ltae", "train.position=index"),
    "ltae, none": ("train.model=ltae", "train.position=none"),
}  # fmt: skip

PIXELS = 8000  # of every tile and year


class Truth:
    """Pixels of the test polygons: series over the run, and the true class of each year."""

    def __init__(self, config: Config, seed: int) -> None:
        """Draw pixels, the same for every model; with the patches around them for one that reads these."""
        side = PATCH_SIDE if config.train.reads_patches else 1
        composites, samples = Composites.open(config), sample.Samples.read(config.directory)
        old = sample.OldMap(config.sample, list(composites.tiles.values()))
        held = np.unique(samples.polygon[samples.split == TEST])
        parts: list[tuple[np.ndarray, ...]] = []
        reference = RasterReference(config)
        self.years = reference.years
        for tile in composites.tiles.values():
            whole = Block(0, 0, tile.grid.height, tile.grid.width)
            _, polygons = old.read(tile.id, tile.grid)
            count = composites.read_count(tile.id, whole)
            rows, cols = np.nonzero(np.isin(polygons, held) & count.any(axis=0))
            chosen = np.random.default_rng(seed).permutation(len(rows))[:PIXELS]
            rows, cols = rows[chosen], cols[chosen]
            around, days = sample.read_around(composites, tile, whole, side // 2)
            filled = sample.patches(composites.at_periods(around, days), rows, cols, side)
            series = sample.patches(around, rows, cols, side)
            classes = [reference.values(tile, year, whole)[1][rows, cols] for year in self.years]
            inner = rows + side // 2, cols + side // 2
            seen = count[:, rows, cols].T, days[:, *inner].T
            parts.append((series, filled, *seen, np.stack(classes, 1)))
        columns = map(np.concatenate, zip(*parts, strict=True))
        self.series, self.filled, self.count, self.days, self.classes = columns
        if not len(self.series):
            raise SystemExit(
                f"{config.directory}: seed {seed} keeps no polygon for testing; take another"
            )
        if side == 1:
            self.series, self.filled = self.series[..., 0, 0], self.filled[..., 0, 0]


def predict(model: Model, config: Config, truth: Truth) -> tuple[np.ndarray, float]:
    """Return class values [pixel, year] and pixels and years predicted in a second."""
    cut, values = Cut.of(config, truth.years), config.legend.values
    found, begun = [], time.perf_counter()
    for start in range(0, len(truth.series), 4096):
        part = slice(start, start + 4096)
        read = [truth.filled]
        if model.reads_gaps:
            read = [truth.series, truth.count, truth.days]
        windows = cut.windows(*(values[part] for values in read))
        probability = cut.of_years(model.predict(cut.years, windows))
        found.append(values[probability.argmax(-1)])
    return np.concatenate(found), truth.classes.size / (time.perf_counter() - begun)


def scores(found: np.ndarray, truth: np.ndarray, config: Config) -> dict[str, float]:
    """Return the overall accuracy, the mean F1 and that of each class that occurs, of what the reference knows."""
    known = np.isin(truth, config.legend.values)
    found, truth = found[known], truth[known]
    by_class = {}
    for entry in config.legend.classes:
        mapped, true = found == entry.value, truth == entry.value
        if true.any():
            by_class[entry.name] = 2 * (mapped & true).sum() / (mapped.sum() + true.sum())
    accuracy = (found == truth).mean()
    names = {f"F1 {name}": float(value) for name, value in by_class.items()}
    mean = float(np.mean(list(by_class.values())))
    return {"overall accuracy": float(accuracy), "macro F1": mean, **names}


def measure(
    path: Path, variant: str, seed: int, sets: Sequence[str], comm: MPI.Comm
) -> list[tuple]:
    """Draw, train and compare; return rows (model, seed, year, figure, value)."""
    base = configuration.load(path, sets)
    folder = base.directory.parent / f"{base.directory.name}-models" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "composites").exists():
        (folder / "composites").symlink_to(base.directory / "composites")
    own = [f"run.directory={folder}", f"run.seed={seed}"]
    config = configuration.load(path, [*sets, *VARIANTS[variant], *own])
    sample.run(config, comm, lambda *_: None)
    truth = Truth(config, seed)
    begun = time.perf_counter()
    train.run(config, comm, lambda *_: None)
    seconds = time.perf_counter() - begun
    model = train.load(folder)
    found, speed = predict(model, config, truth)
    rows = [
        (variant, seed, "all", "training seconds", round(seconds, 1)),
        (variant, seed, "all", "pixels/s", round(speed)),
        (variant, seed, "all", "parameters", model.about.get("parameters", "")),
    ]
    for position, year in enumerate(truth.years):
        part = scores(found[:, position], truth.classes[:, position], config)
        rows += [(variant, seed, year, name, round(value, 5)) for name, value in part.items()]
    part = scores(found.ravel(), truth.classes.ravel(), config)
    return rows + [(variant, seed, "all", name, round(value, 5)) for name, value in part.items()]


def table(rows: Sequence[dict[str, str]], figures: Sequence[str], years: Sequence[str]) -> str:
    """Return a table in Markdown: a row a model, mean and spread (least to most) over the seeds."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    columns = [(figure, year) for figure in figures for year in years]
    lines = [
        "| model | "
        + " | ".join(f"{figure} {year}".removesuffix(" all") for figure, year in columns)
        + " |"
    ]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        cells = []
        for figure, year in columns:
            values = [
                float(row["value"]) for row in rows
                if (row["model"], row["figure"], row["year"]) == (name, figure, year) and row["value"]
            ]  # fmt: skip
            cells.append(cell(values))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: Sequence[float]) -> str:
    """Return mean and spread as text."""
    if not values:
        return "-"
    mean = statistics.mean(values)
    if mean > 2:
        return f"{mean:,.0f}"
    return f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(VARIANTS))
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--case", default="demo", help="name of the case in the table")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what was measured"
    )
    options = parser.parse_args()
    if not options.table:
        for seed in options.seeds:
            for name in options.models:
                rows = measure(options.config, name, seed, options.sets, MPI.COMM_WORLD)
                shared = record.provenance() | {"case": options.case}
                named = [dict(zip(COLUMNS[5:], values, strict=True)) for values in rows]
                record.append(TABLE, [shared | row for row in named], COLUMNS)
                print(json.dumps(rows[:3] + rows[-14:-11]), flush=True)
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == options.case]
    years = sorted({row["year"] for row in rows} - {"all"})
    print(table(rows, ["overall accuracy", "macro F1"], ["all"]))
    print(table(rows, ["overall accuracy"], years))
    print(table(rows, ["parameters", "training seconds", "pixels/s"], ["all"]))


if __name__ == "__main__":
    main()
