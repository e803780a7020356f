"""Measure classification: the stage against the bare model on series that are in memory already.

    python perf/classification.py CONFIG

CONFIG is that of a run whose model is trained. The stage's function reads composites from disk, fills gaps,
predicts and turns the probabilities into bytes; the bare model is given the windows of the same pixels and
years, standardised, cell by cell. They take turns, their land cover is compared first. Rows go to
`results/classification.csv`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch

from lcu import config as configuration
from lcu import train
from lcu.classify.stage import classify_block, read
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Block
from lcu.store import CELL
from lcu.train import Cut, Model
from lcu.train.series import Windows, standardised

TABLE = record.ROOT / "perf" / "results" / "classification.csv"
COLUMNS = (
    "date", "commit", "host", "cpu", "device", "model", "threads", "pixels", "rounds", "stage_pixels_per_second",
    "bare_pixels_per_second", "ratio", "ratio_least", "ratio_most",
)  # fmt: skip
AGREEMENT = 0.999  # of pixels where no class has a larger written probability than the bare model's


def bare(model: Model, cells: list[Windows]) -> Callable[[], np.ndarray]:
    """Return the network on tensors that lie ready: class index [pixel, year]."""
    ready = [standardised(part, *model.normalisation) for part in cells]

    def run() -> np.ndarray:
        with torch.inference_mode():
            kind = ready[0][0].device.type
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                return np.concatenate(
                    [model.network(*part).argmax(-1).cpu().numpy() for part in ready]
                )

    return run


def windows(
    config: Config, model: Model, composites: Composites, tile: str, block: Block
) -> list[Windows]:
    """Return the windows of each cell of a block of whole cells."""
    series, days, count = read(composites, tile, block, 0)
    given = [series, count, days] if model.reads_gaps else [composites.at_periods(series, days)]
    cut, cells = Cut.of(config, config.archive.years), []
    for row in range(0, block.height, CELL):
        for col in range(0, block.width, CELL):
            part = (..., slice(row, row + CELL), slice(col, col + CELL))
            cells.append(
                cut.windows(
                    *(np.moveaxis(of[part].reshape(*of.shape[:-2], -1), -1, 0) for of in given)
                )
            )
    return cells


def by_cells(cover: np.ndarray) -> np.ndarray:
    """Return [y, x] as pixels in the order of `windows`."""
    height, width = cover.shape
    return cover.reshape(height // CELL, CELL, width // CELL, CELL).swapaxes(1, 2).ravel()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="side of the block, in pixels")
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    options = parser.parse_args()
    config = configuration.load(options.config, options.sets)
    model, composites = train.load(config.directory), Composites.open(config)
    torch.set_num_threads(1)
    tile, years = next(iter(composites.tiles)), config.archive.years
    block = Block(0, 0, options.size, options.size)
    alone = bare(model, windows(config, model, composites, tile, block))
    columns = [entry["value"] for entry in model.about["legend"]]
    known = [columns.index(value) for value in model.about["classes"]]

    def stage() -> dict:
        return classify_block(
            config, composites, model, *read(composites, tile, block, model.reach), years
        )

    found, said = alone(), stage()
    for position, year in enumerate(years):
        probability = said[year][0]
        seen = by_cells(probability[0]) < 254
        written = np.stack([by_cells(layer) for layer in probability[known]])
        own = np.take_along_axis(written, found[None, :, position], axis=0)[0]
        same = (own == written.max(axis=0))[seen].mean()
        if same < AGREEMENT:
            raise SystemExit(f"{year}: only {same:.4f} of the pixels have the same class")
    times = np.array([[seconds(way) for way in (stage, alone)] for _ in range(options.rounds)])
    pixels = options.size**2 * len(years)
    ratios, (slow, fast) = times[:, 1] / times[:, 0], pixels / np.median(times, axis=0)
    row = {
        **record.provenance(), "device": model.normalisation[0].device.type, "model": model.about["model"],
        "threads": torch.get_num_threads(), "pixels": pixels, "rounds": options.rounds,
        "stage_pixels_per_second": round(slow), "bare_pixels_per_second": round(fast),
        "ratio": round(float(np.median(ratios)), 3), "ratio_least": round(float(ratios.min()), 3),
        "ratio_most": round(float(ratios.max()), 3),
    }  # fmt: skip
    record.append(options.results, [row], COLUMNS)
    print({name: row[name] for name in COLUMNS[4:]})


def seconds(way: Callable[[], object]) -> float:
    """Return the processor time of a call: other jobs on the machine do not count."""
    begun = time.process_time()
    way()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
