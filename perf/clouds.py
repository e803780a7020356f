"""Measure the cloud masks where the truth is known, and on a real archive where one lies beside the project.

    python perf/clouds.py
    python perf/clouds.py --seeds 1 2 3 4 5 --size 480

Prints tables in Markdown (those of `docs/method.md`) and appends every figure to `results/clouds.csv`.
The simulated acquisitions are those that the stage `simulate` writes, without the JP2 files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import record
from mpi4py import MPI

from lcu import acquisition, config
from lcu.composite import cloud_mask, scl_clear
from lcu.config import Simulate
from lcu.grid import Tile
from lcu.simulate import layout, sensor, sky
from lcu.simulate import parameters as p
from lcu.simulate.ground import World

TABLE = record.ROOT / "perf" / "results" / "clouds.csv"
ARCHIVE = record.ROOT / "examples" / "flanders.toml"
COLUMNS = ("date", "commit", "host", "cpu", "case", "mask", "figure", "value")
YEARS = (2018, 2019)
BANDS = ("B02", "B8A", "B11")
BUFFER = 6.0  # pixels: 60 m
CLEAREST = 20
CLOUDS, UNCLASSIFIED = (8, 9, 10), 7  # values of SCL
FAST = (40, 3, 512, 512)  # shape of what the speed is measured on


class Observations(NamedTuple):
    """Acquisitions of one place: uint8 [time, y, x], uint16 [time, band, y, x], int [time]."""

    scl: np.ndarray
    reflectance: np.ndarray
    days: np.ndarray


class Truth(NamedTuple):
    """What lay between ground and sensor, opacity or share, float16 [time, y, x]."""

    cloud: np.ndarray
    shadow: np.ndarray
    snow: np.ndarray


def by_scl(seen: Observations) -> np.ndarray:
    """Return what SCL and buffers leave, bool [time, y, x]."""
    return scl_clear(seen.scl, (0, 1, 3, 8, 9, 10), clouds=BUFFER, shadows=BUFFER)


def by_time(seen: Observations) -> np.ndarray:
    """Return what the comparison in time leaves of that, bool [time, y, x]."""
    return cloud_mask(
        *seen, blue=0, nir=1, swir=2, cloud_buffer=BUFFER, shadow_buffer=BUFFER
    ).astype(bool)


MASKS: dict[str, Callable[[Observations], np.ndarray]] = {"scl": by_scl, "scl+time": by_time}


# --- the simulated truth --------------------------------------------------------------------------


def simulate(seed: int, size: int) -> tuple[Observations, Truth]:
    """Return all acquisitions of the first tile of a simulated world, and its sky."""
    settings = Simulate(size=size)
    tile, world = layout.tiles(settings)[0], World(seed, settings.change)
    extent = sky.extent_of([tile.grid], tile.grid.crs)
    days, shots = [], []
    for year in YEARS:
        for visit in sky.visits(tile, 0, year, tile.grid.crs, extent, seed):
            days.append(visit.day)
            shots.append(shoot(tile, visit, world))
    scl, reflectance, cloud, shadow, snow = (np.stack(part) for part in zip(*shots, strict=True))
    return Observations(scl, reflectance, np.array(days)), Truth(cloud, shadow, snow)


def shoot(tile: Tile, visit: sky.Visit, world: World) -> tuple[np.ndarray, ...]:
    """Return SCL, bands, opacity of clouds, shadow and share of snow of an acquisition."""
    shape = (tile.grid.height, tile.grid.width)
    scl, bands = np.zeros(shape, np.uint8), np.zeros((len(BANDS), *shape), np.uint16)
    truth = np.zeros((3, *shape), np.float16)
    offset = p.OFFSET if visit.new else 0
    for block in sensor.blocks(tile):
        shot = sensor.shoot(tile, block, visit, tile.grid.crs, world)
        scl[block.slices] = at_10_m(shot.scl, block.height, block.width)
        for band, name in zip(bands, BANDS, strict=True):
            numbers = at_10_m(shot.bands[name], block.height, block.width)
            band[block.slices] = acquisition.harmonise(numbers, 1e-4, offset * 1e-4, 0)
        x, y, height = place(tile, block, visit, world)
        above = sky.sky(x, y, height, visit, world.seed)
        truth[(slice(None), *block.slices)] = [
            np.minimum(above.cloud + above.veil, 1),
            above.shadow,
            above.snow,
        ]
    return scl, bands, *truth


def place(tile: Tile, block: object, visit: sky.Visit, world: World) -> list[np.ndarray]:
    """Return ground coordinates and heights of a block, without the halo of its scenery."""
    view = sensor.scenery(tile, block, visit.start.year, tile.grid.crs, world)
    inner = np.s_[p.HALO : p.HALO + block.height, p.HALO : p.HALO + block.width]
    return [part[inner] for part in (view.x, view.y, view.height)]


def at_10_m(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat pixels to `height` x `width`."""
    factor = -(-height // values.shape[0])
    return values.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]


def kinds(seen: Observations, truth: Truth) -> dict[str, np.ndarray]:
    """Sort the observations by what covers them, bool [time, y, x] each."""
    inside = seen.scl > 0
    bright = inside & (truth.cloud <= 0.05)
    clear = inside & (truth.cloud <= 0.02) & (truth.shadow <= 0.05)
    return {
        "missed cloud": inside & (truth.cloud > p.SCL_MISSES),
        "missed thin cloud": inside & (truth.cloud > 0.1) & (truth.cloud <= p.SCL_MISSES),
        "missed haze": inside & (truth.cloud > 0.05) & (truth.cloud <= 0.1),
        "missed shadow": bright & (truth.shadow > 0.3),
        "lost clear ground": clear & (truth.snow <= 0.3),
        "lost snow": clear & (truth.snow > 0.3),
    }


def against_truth(seeds: list[int], size: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield (case, mask, figure, value): shares of all seeds together."""
    wrong: dict[tuple[str, str], int] = {}
    total: dict[str, int] = {}
    for seed in seeds:
        seen, truth = simulate(seed, size)
        sorts = kinds(seen, truth)
        for figure, inside in sorts.items():
            total[figure] = total.get(figure, 0) + int(inside.sum())
        for name, mask in MASKS.items():
            clear = mask(seen)
            for figure, inside in sorts.items():
                bad = inside & (clear if figure.startswith("missed") else ~clear)
                wrong[name, figure] = wrong.get((name, figure), 0) + int(bad.sum())
    for (name, figure), count in wrong.items():
        yield f"simulated, {size} px, seeds {seeds}", name, figure, count / max(total[figure], 1)


# --- a real archive -------------------------------------------------------------------------------


def on_archive(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield figures of an archive: what is lost on its clearest acquisitions, what is masked."""
    settings = config.load(path, ["archive.years=[2017, 2018]"])
    found, tiles, _ = acquisition.find(settings, MPI.COMM_SELF)
    for name, tile in tiles.items():
        items = sorted(found[name], key=lambda item: item.time)
        block = tile.grid.whole
        seen = Observations(
            np.stack([acquisition.read_mask(item, block, tile.grid) for item in items]),
            np.stack(
                [
                    [acquisition.read_band(item, band, block, tile.grid) for band in BANDS]
                    for item in items
                ]
            ),
            np.array([item.time.toordinal() for item in items]),
        )
        share = (~np.isin(seen.scl, (0, 1, 3, 8, 9, 10))).mean(axis=(1, 2))
        clearest = np.argsort(-share, kind="stable")[:CLEAREST]
        base = by_scl(seen)
        for kind, mask in MASKS.items():
            clear = mask(seen)
            more = (base & ~clear).mean(axis=(1, 2))
            yield name, kind, "clear share of all observations", clear.mean()
            alone = mask(seen._replace(scl=np.full_like(seen.scl, UNCLASSIFIED)))
            known = np.isin(seen.scl, CLOUDS)
            yield name, kind, "clouds of SCL found without it", 1 - alone[known].mean()
            yield name, kind, "lost without SCL", 1 - alone[clear].mean()
            yield name, kind, f"lost on the {CLEAREST} clearest, mean", more[clearest].mean()
            worst = np.sort(more[clearest])
            yield name, kind, f"lost on the {CLEAREST} clearest, second most", worst[-2]
            yield name, kind, f"lost on the {CLEAREST} clearest, most", worst[-1]
            for item, layer in zip(items, clear, strict=True):
                yield name, kind, f"masked on {item.time:%Y-%m-%d}", 1 - layer.mean()


# --- speed ----------------------------------------------------------------------------------------


def speed() -> Iterator[tuple[str, str, str, float]]:
    """Yield observations a second of processor time on one thread, the best of five."""
    random = np.random.default_rng(1)
    shape = (FAST[0], *FAST[2:])
    patches = random.random((FAST[0], FAST[2] // 32, FAST[3] // 32)) < 0.4
    scl = np.where(patches.repeat(32, axis=1).repeat(32, axis=2), 9, 4).astype(np.uint8)
    seen = Observations(
        scl, random.integers(1, 5000, FAST).astype(np.uint16), 9 * np.arange(FAST[0])
    )
    for name, mask in MASKS.items():
        seconds = []
        for _ in range(5):
            started = time.process_time()
            mask(seen)
            seconds.append(time.process_time() - started)
        yield "speed", name, "million observations a second", np.prod(shape) / min(seconds) / 1e6


# --- the record -----------------------------------------------------------------------------------


def table(rows: list[tuple[str, str, str, float]], digits: int) -> str:
    """Return one case as Markdown: a line a figure, a column a mask."""
    values = {(mask, figure): value for _, mask, figure, value in rows}
    figures = list(dict.fromkeys(figure for _, _, figure, _ in rows))
    lines = [f"| {rows[0][0]} | " + " | ".join(MASKS) + " |", "|---|" + "---|" * len(MASKS)]
    for figure in figures:
        cells = " | ".join(f"{values[mask, figure]:.{digits}f}" for mask in MASKS)
        lines.append(f"| {figure} | {cells} |")
    return "\n".join(lines) + "\n"


def as_rows(figures: list[tuple[str, str, str, float]]) -> list[dict[str, object]]:
    """Return figures as rows of the CSV file."""
    shared = record.provenance()
    return [
        shared | {"case": case, "mask": mask, "figure": figure, "value": f"{value:.6g}"}
        for case, mask, figure, value in figures
    ]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--size", type=int, default=384)
    arguments = parser.parse_args()
    cases = [list(against_truth(arguments.seeds, arguments.size)), list(speed())]
    archive = record.ROOT.parent / "shared" / "data" / "flanders"
    if archive.is_dir():
        cases.insert(1, list(on_archive(ARCHIVE)))
    for rows in cases:
        shown = [row for row in rows if not row[2].startswith("masked on")]
        print(table(shown, 1 if rows[0][0] == "speed" else 4))
        record.append(TABLE, as_rows(rows), COLUMNS)


if __name__ == "__main__":
    main()
