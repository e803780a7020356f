"""The shell of the sample stage: reads blocks, agrees on the draw, writes ``samples.h5`` together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

from lcu import deadline, store
from lcu.composite import Composites
from lcu.config import Config, provenance
from lcu.grid import Block, Tile
from lcu.legend import NODATA
from lcu.ranks import mine, on_root, together
from lcu.sample import oldmap
from lcu.sample.clean import clean
from lcu.sample.draw import (
    FARTHEST,
    TRAINING,
    Candidates,
    assign_splits,
    border_distance,
    cap_polygons,
    core_pixels,
    draw,
    priority,
)
from lcu.sample.series import are_periods, fill_patches, fill_series, read_series
from lcu.store import PATCH, SAMPLES, Piece

# Side of the blocks that candidates are looked for in, pixels: even a small landscape has some for each rank.
BLOCK = 256

# The table that the stage makes.
NAME = "samples"


@dataclass(frozen=True)
class Samples:
    """The table of samples in memory; axes as in `lcu.store.SAMPLES`.

    `middles` are those of the periods, int32 [period]; `day` repeats them unless every pixel has days of its own.
    `made_from` holds for each of `years` the fingerprint of the composites of all tiles.
    """

    series: np.ndarray
    count: np.ndarray
    day: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    tile: np.ndarray
    row: np.ndarray
    col: np.ndarray
    polygon: np.ndarray
    cluster: np.ndarray
    split: np.ndarray
    tiles: tuple[str, ...]
    years: tuple[int, ...]
    middles: np.ndarray
    made_from: tuple[str, ...]
    fingerprint: str
    patch: np.ndarray | None = None

    @classmethod
    def read(cls, directory: Path, name: str = NAME) -> Samples:
        """Read a table of a run; StoreError where it is missing or damaged."""
        path = path_of(directory, name)
        if not path.exists():
            raise store.StoreError(f"{path} is not there; run the stage `sample` first")
        try:
            with h5py.File(path, "r") as file:
                values = {dataset.name: file[dataset.name][()] for dataset in SAMPLES}
                tiles = tuple(file.attrs["tiles"].split(", "))
                years = tuple(int(year) for year in file.attrs["years"])
                patch = file[PATCH.name][()] if PATCH.name in file else None
                made_from = tuple(map(str, file.attrs["made_from"]))
                return cls(
                    **values, tiles=tiles, years=years, middles=file.attrs["middles"], made_from=made_from,
                    fingerprint=file.attrs["fingerprint"], patch=patch,
                )  # fmt: skip
        except (*store.DAMAGED, AttributeError) as error:
            raise store.StoreError(
                f"{path} cannot be read ({error}); remove it and run `sample` again"
            ) from error

    def filled(self) -> np.ndarray:
        """Return the series without gaps at the middle of each period, uint16 [sample, period, band]."""
        return fill_series(self.series, self.day, self.middles)

    def of_periods(self) -> tuple[np.ndarray, np.ndarray]:
        """Return series uint16 [sample, period, band], and whether they are known there, bool [sample, period].

        As observed; where every pixel has days of its own, without gaps.
        """
        if are_periods(self.day, self.middles):
            return self.series, self.count > 0
        filled = self.filled()
        return filled, filled.any(axis=2)

    def filled_patch(self) -> np.ndarray:
        """Return the patches without gaps, uint16 [sample, period, band, 5, 5]."""
        return fill_patches(self.patch, self.middles)


def majority_label(directory: Path) -> int | None:
    """Return the commonest class value of the training samples, the smallest of equals; None of none."""
    samples = Samples.read(directory)
    label = samples.label[samples.split == TRAINING]
    label = label[label != NODATA]
    return int(np.bincount(label).argmax()) if len(label) else None


def run(config: Config, comm: MPI.Comm, report: Any) -> str:
    """Draw the samples and write their series; leave a table alone that is whole already.

    Returns
    -------
    str
        How many samples there are of each class, in a line.
    """
    composites = on_root(comm, "opening the composites", Composites.open, config)
    tiles = list(composites.tiles.values())
    mark = on_root(comm, "reading the old map", _mark, config, composites)
    path = path_of(config.directory, NAME)
    if not on_root(comm, "looking for samples", store.is_whole, path, mark):
        with together(comm, "opening the old map"):
            old = oldmap.OldMap(config.sample, tiles)
        drawn, areas = _draw(config, comm, composites, tiles, old, report)
        split = assign_splits(drawn.index, drawn.polygon, config.run.seed)
        write(config, comm, composites, drawn, areas, split, path, mark)
        deadline.made()
    return on_root(comm, "reading the samples", _summary, config)


def path_of(directory: Path, name: str) -> Path:
    """Return where a table of samples lies in the run directory."""
    return directory / "samples" / f"{name}.h5"


def _mark(config: Config, composites: Composites) -> str:
    table = config.table()
    files = [
        store.file_fingerprint(path)
        for path in oldmap.files(config.sample, composites.tiles)
        if path.exists()
    ]
    classes = [(entry.value, entry.name, entry.codes) for entry in config.legend.classes]
    read = [composites.fingerprint(tile) for tile in composites.tiles]
    patch = ["patches"] if config.train.reads_patches else []
    return store.fingerprint(
        "samples 8", table["sample"], table["run"]["seed"], files, classes, read, *patch
    )


def _summary(config: Config) -> str:
    samples = Samples.read(config.directory)
    first = samples.label.min(axis=1, initial=NODATA)
    counts = [
        f"{entry.name} {int((first == entry.value).sum())}" for entry in config.legend.classes
    ]
    return f"{len(first)} samples: {', '.join(counts)}"


def sampled_years(config: Config) -> tuple[int, ...]:
    """Return the years that are sampled."""
    return config.sample.years or config.archive.years


# --- drawing --------------------------------------------------------------------------------------


def _draw(
    config: Config,
    comm: MPI.Comm,
    composites: Composites,
    tiles: Sequence[Tile],
    old: oldmap.OldMap,
    report: Any,
) -> tuple[Candidates, np.ndarray]:
    """Return the drawn pixels and the area of each class in the old map, pixels [class]."""
    work = blocks_of(tiles)
    own = mine(work, comm, cost=lambda item: item[2].height * item[2].width)
    parts, areas = [Candidates.none()], np.zeros(len(config.legend.classes), np.int64)
    with together(comm, "drawing samples"):
        for done, (number, tile, block) in enumerate(own):
            deadline.check()
            found, area = candidates(config, composites, tile, number, block, old)
            parts.append(found)
            areas += area
            report(done + 1, len(own), "blocks")
    total = np.zeros_like(areas)
    comm.Allreduce(areas, total)
    kept, removed = clean(config, comm, composites, tiles, Candidates.join(parts))
    removed = {"border": total - removed["candidates"], **removed}
    on_root(comm, "writing what was removed", _write_cleaning, config, total, removed)
    gathered = Candidates.join(comm.allgather(cap_polygons(kept, config.sample.per_polygon)))
    return draw(gathered, total, config.sample.per_class, config.sample.per_polygon), total


def blocks_of(tiles: Sequence[Tile]) -> list[tuple[int, Tile, Block]]:
    """Return what candidates are looked for in: position of the tile, tile, block."""
    return [
        (number, tile, block)
        for number, tile in enumerate(tiles)
        for block in tile.grid.blocks(BLOCK)
    ]


def candidates(
    config: Config,
    composites: Composites,
    tile: Tile,
    number: int,
    block: Block,
    old: oldmap.OldMap,
) -> tuple[Candidates, np.ndarray]:
    """Return the pixels of a block that may be drawn, and the area of each class, int64 [class], in pixels."""
    legend = config.legend
    pixels = config.sample.erosion / tile.grid.resolution
    halo = block.grown(max(int(np.ceil(pixels)), FARTHEST), tile.grid)
    codes, polygons = old.read(tile.id, tile.grid.part(halo))
    values = legend.reclass(codes, config.sample.nomenclature)
    inside = block.inside(halo)
    observed = composites.read_count(tile.id, block).any(axis=0)
    usable = core_pixels(values, pixels)[inside] & observed
    rows, cols = np.nonzero(usable)
    index = legend.index_of(values[inside])
    area = np.bincount(index[index != NODATA], minlength=len(legend.classes)).astype(np.int64)
    place = rows + block.row, cols + block.col
    return Candidates(
        key=priority(config.run.seed, tile.id, *place),
        index=index[usable],
        tile=np.full(len(rows), number, np.uint16),
        row=place[0].astype(np.int32),
        col=place[1].astype(np.int32),
        polygon=polygons[inside][usable],
        border=border_distance(values)[inside][usable],
        cluster=np.full(len(rows), -1, np.int32),
    ), area


def _write_cleaning(config: Config, labelled: np.ndarray, removed: dict[str, np.ndarray]) -> None:
    """Write how many pixels of each class the map has, each rule removed, and were kept."""
    counts = {
        entry.name: {"labelled": int(labelled[index])}
        | {rule: int(number[index]) for rule, number in removed.items() if rule != "candidates"}
        for index, entry in enumerate(config.legend.classes)
    }
    store.write_json(config.directory / "samples" / "cleaning.json", counts)


def sample_weights(index: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return how much of the old map a sample stands for: its class's share of the map's area over
    its class's share of the samples, float32 [sample].
    """  # noqa: D205
    drawn = np.bincount(index, minlength=len(areas))
    present = drawn > 0
    share = np.where(present, areas, 0) / max(int(areas[present].sum()), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(present, share / (drawn / max(len(index), 1)), 0)
    return weight[index].astype(np.float32)


# --- writing --------------------------------------------------------------------------------------


def write(
    config: Config,
    comm: MPI.Comm,
    composites: Composites,
    drawn: Candidates,
    areas: np.ndarray,
    split: np.ndarray,
    path: Path,
    mark: str,
    label: np.ndarray | None = None,
) -> None:
    """Write a table together: every rank the series of an equal, contiguous part of the samples.

    A sample has the old map's class in every sampled year that it was observed in, or what `label`, class values
    [sample, year], has there; 255 = none.
    """
    tiles = list(composites.tiles.values())
    total = len(drawn)
    start, end = total * comm.rank // comm.size, total * (comm.rank + 1) // comm.size
    weight = sample_weights(drawn.index, areas)
    with together(comm, "reading series"):
        own = drawn.take(np.arange(start, end))
        patched = config.train.reads_patches
        series, count, day, patch = read_series(composites, tiles, own, with_patches=patched)
    labels = _labels(config, own, count)
    if label is not None:
        labels = np.where(labels == NODATA, labels, label[start:end])
    columns = {
        "series": series, "count": count, "day": day, "label": labels,
        "weight": weight[start:end], "tile": own.tile, "row": own.row, "col": own.col,
        "polygon": own.polygon, "cluster": own.cluster, "split": split[start:end],
    }  # fmt: skip
    datasets = SAMPLES
    if patch is not None:
        columns["patch"], datasets = patch, (*SAMPLES, PATCH)
    shapes = {dataset: (total, *columns[dataset.name].shape[1:]) for dataset in datasets}
    layout = {
        dataset: (shape, (128 if dataset is PATCH else 4096, *shape[1:]))
        for dataset, shape in shapes.items()
    }
    file = store.create(path, comm, layout, _attributes(config, composites, tiles, areas))
    for dataset in datasets:
        values = columns[dataset.name]
        piece = Piece(values, (start, *(0 for _ in values.shape[1:]))) if len(values) else None
        store.write_round(file, dataset, piece)
    store.finish(file, path, comm, mark)


def _labels(config: Config, own: Candidates, count: np.ndarray) -> np.ndarray:
    """Return the label of each mapped year, uint8 [sample, year]; 255 where it was not observed."""
    value = config.legend.values[own.index]
    labels = np.full((len(own), len(config.archive.years)), NODATA, np.uint8)
    for position, (year, inside) in enumerate(config.times_by_year.items()):
        if year in sampled_years(config):
            labels[:, position] = np.where(count[:, inside].any(axis=1), value, NODATA)
    return labels


def _attributes(
    config: Config, composites: Composites, tiles: Sequence[Tile], areas: np.ndarray
) -> dict[str, Any]:
    return {
        "tiles": ", ".join(tile.id for tile in tiles),
        "crs": [tile.grid.crs for tile in tiles],
        "transform": np.array([tile.grid.transform for tile in tiles]),
        "bands": ", ".join(composites.bands),
        "periods": ", ".join(f"{period.start}/{period.end}" for period in composites.periods),
        "middles": composites.middles,
        "years": np.array(config.archive.years, np.int32),
        "made_from": [
            store.fingerprint([composites.marks[tile.id, year] for tile in tiles])
            for year in config.archive.years
        ],
        "class_values": config.legend.values,
        "class_names": ", ".join(config.legend.names),
        "old_map_area": areas,
        "configuration": provenance(config),
    }
