"""How hard the simulated world is: the figures that its tests pin.

``python -m lcu.simulate.measure --seeds 1 2 3`` prints one row a seed. The acquisitions are the
ones that the stage writes, made in memory by the same functions; only the JP2 files are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lcu.config import BANDS, Simulate
from lcu.grid import Block, Tile
from lcu.simulate import layout, oldmap, sensor, sky
from lcu.simulate import parameters as p
from lcu.simulate.ground import World

_NOT_CLEAR = (0, 1, 3, 8, 9, 10)
_BUFFER = 3  # pixels of 20 m
_SIDE = 128  # of the blocks that are held out, pixels
_PER_CLASS, _TEST = 300, 6000


class Difficulty(NamedTuple):
    """Overall accuracy of a clean SVM, agreement of yearly maps, agreement of the old map; 0..1."""

    accuracy: float
    agreement: float
    old_map: float


def difficulty(
    seed: int, simulate: Simulate, years: Sequence[int] = (2018, 2019, 2020)
) -> Difficulty:
    """Measure the world of a seed on its first tile."""
    tile, world = layout.tiles(simulate)[0], World(seed, simulate.change)
    ground = tile.grid.crs
    values = {year: class_map(tile, year, ground, world) for year in years}
    rows, cols, train = _pixels(values[years[0]], seed)
    scores, maps, model = [], [], None
    for year in years:
        series = monthly_medians(tile, rows, cols, year, ground, world)
        label = values[year][rows, cols]
        model = (
            _grid_search(series[train], label[train], rows[train], cols[train])
            if model is None
            else model
        )
        model.fit(series[train], label[train])
        maps.append(model.predict(series[~train]))
        scores.append((maps[-1] == label[~train]).mean())
    agreement = np.mean([(a == b).mean() for a, b in zip(maps, maps[1:], strict=False)])
    return Difficulty(
        float(np.mean(scores)), float(agreement), old_map_agreement(simulate, seed, years[0])
    )


def class_map(tile: Tile, year: int, ground: str, world: World) -> np.ndarray:
    """Return the class values of a whole tile in one year, uint8 [y, x]."""
    found = np.empty((tile.grid.height, tile.grid.width), dtype=np.uint8)
    for block in sensor.blocks(tile):
        found[block.slices] = p.VALUES[sensor.truth(tile, block, year, ground, world)[0]]
    return found


def _pixels(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pixels: equally many a class where blocks train, at random where they are held out."""
    stream = np.random.default_rng(seed)
    row, col = np.indices(values.shape)
    held_out = ((row // _SIDE) + 2 * (col // _SIDE)) % 3 == 0
    chosen = [
        stream.permutation(np.flatnonzero(~held_out & (values == kind)))[:_PER_CLASS]
        for kind in range(1, 13)
    ]
    chosen = np.concatenate(chosen)
    test = stream.permutation(np.flatnonzero(held_out))[:_TEST]
    rows, cols = np.unravel_index(np.concatenate([chosen, test]), values.shape)
    return rows, cols, np.arange(rows.size) < chosen.size


def monthly_medians(
    tile: Tile, rows: np.ndarray, cols: np.ndarray, year: int, ground: str, world: World
) -> np.ndarray:
    """Return the filled monthly medians of pixels, reflectance float32 [pixel, month * band]."""
    extent = sky.extent_of([tile.grid], ground)
    visits = sky.visits(tile, 0, year, ground, extent, world.seed)
    values = np.stack([_observe(tile, rows, cols, visit, ground, world) for visit in visits])
    month = np.array([visit.start.month for visit in visits])
    series = np.full((12, *values.shape[1:]), np.nan, dtype=np.float32)
    for index in range(12):
        if (month == index + 1).any():
            with np.errstate(all="ignore"):
                series[index] = _median(values[month == index + 1])
    return _fill(series).transpose(1, 0, 2).reshape(len(rows), -1)


def _median(values: np.ndarray) -> np.ndarray:
    """Median over the first axis without NaN; NaN where there is nothing, and no warning."""
    ordered = np.sort(values, axis=0)
    count = np.isfinite(ordered).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.maximum(count, 1) // 2
    high = np.minimum(high, np.maximum(count - 1, 0))
    pick = [np.take_along_axis(ordered, index[None], axis=0)[0] for index in (low, high)]
    return (pick[0] + pick[1]) / 2


def _observe(
    tile: Tile, rows: np.ndarray, cols: np.ndarray, visit: sky.Visit, ground: str, world: World
) -> np.ndarray:
    """Return the reflectance of pixels, float32 [pixel, band]; NaN where not clear."""
    found = np.full((len(rows), len(BANDS)), np.nan, dtype=np.float32)
    for block in sensor.blocks(tile):
        here = np.flatnonzero(_inside(block, rows, cols))
        shot = sensor.shoot(tile, block, visit, ground, world)
        row, col = rows[here] - block.row, cols[here] - block.col
        bad = binary_dilation(np.isin(shot.scl, _NOT_CLEAR), iterations=_BUFFER)
        for position, band in enumerate(BANDS):
            n = sensor.RESOLUTION[band] // 10
            found[here, position] = shot.bands[band][row // n, col // n]
        found[here[bad[row // 2, col // 2]]] = np.nan
    return (found + (p.OFFSET if visit.new else 0)) / p.QUANTIFICATION


def _inside(block: Block, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return (rows // p.BLOCK == block.row // p.BLOCK) & (cols // p.BLOCK == block.col // p.BLOCK)


def _fill(series: np.ndarray) -> np.ndarray:
    """Fill gaps linearly over the months, ends with the nearest, pixels without values with 0."""
    months = np.arange(len(series))
    filled = np.zeros_like(series)
    for pixel in range(series.shape[1]):
        there = np.isfinite(series[:, pixel, 0])
        if there.any():
            for band in range(series.shape[2]):
                filled[:, pixel, band] = np.interp(
                    months, months[there], series[there, pixel, band]
                )
    return filled


def _grid_search(series: np.ndarray, label: np.ndarray, rows: np.ndarray, cols: np.ndarray):
    """Choose C and gamma by three folds of blocks."""
    groups = (rows // _SIDE) * 1000 + cols // _SIDE
    scale = 1 / series.shape[1]
    choice = {"svc__C": [1, 10, 100], "svc__gamma": [0.1 * scale, 0.3 * scale, 1.0 * scale]}
    model = make_pipeline(StandardScaler(), SVC(cache_size=500))
    search = GridSearchCV(model, choice, cv=GroupKFold(3), refit=False)
    search.fit(series[::2], label[::2], groups=groups[::2])
    return model.set_params(**search.best_params_)


def old_map_agreement(
    simulate: Simulate, seed: int, year: int, old_year: int | None = None
) -> float:
    """Return the share of pixels on which the old map has the class of the truth of `year`."""
    tile, world = layout.tiles(simulate)[0], World(seed, simulate.change)
    ground = tile.grid.crs
    area = oldmap.area([tile])
    codes = oldmap.draw(area, ground, year - 2 if old_year is None else old_year, world)
    codes = oldmap.generalise(codes, simulate.mapping_unit, simulate.mistakes, seed)
    truth = class_map(tile, year, ground, world)
    old = oldmap.look_up(codes, area, tile.grid)
    return float((oldmap.VALUE_OF[old] == truth).mean())


def main() -> None:
    """Print the figures of several seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--mapping-unit", type=float, default=25.0)
    arguments = parser.parse_args()
    print("seed  accuracy  agreement  old map")
    for seed in arguments.seeds:
        found = difficulty(seed, Simulate(size=arguments.size, mapping_unit=arguments.mapping_unit))
        print(
            f"{seed:4}  {found.accuracy:8.3f}  {found.agreement:9.3f}  {found.old_map:7.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
