"""The way into finished composites for all later stages; what makes a composite stale.

Nothing here makes composites: `stage` does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from lcu import store
from lcu.acquisition import Acquisition
from lcu.composite.arrays import fill_gaps, resample
from lcu.config import Config
from lcu.grid import Block, Period, Tile
from lcu.store import CLEAR_COUNT, DAY_OF_PIXEL, REFLECTANCE


def middles_of(periods: Sequence[Period]) -> np.ndarray:
    """Return the middle of each period, int32 [period], days since 2015-01-01."""
    return np.array([period.middle for period in periods], np.int32)


@dataclass(frozen=True)
class Composites:
    """What the stage left in the run directory: the way in for all later stages.

    Attributes
    ----------
    tiles : dict of str to Tile
    periods : list of Period
        All periods of the run, in time.
    times : int
        Length of the time axis on disk: the periods, or all years' `composite.count` acquisitions.
    own_days : bool
        Whether every pixel has days of its own (`composite.method` acquisitions).
    marks : dict
        (tile id, calendar year) -> fingerprint.
    """

    directory: Path
    tiles: dict[str, Tile]
    periods: list[Period]
    bands: tuple[str, ...]
    shard: int
    marks: dict[tuple[str, int], str]
    times: int
    own_days: bool

    @classmethod
    def open(cls, config: Config) -> Composites:
        """Read the index that the stage wrote; StoreError where it is missing or of another run."""
        index = store.read_json(config.directory / "composites" / "index.json", "composite")
        if index["configuration"] != configuration_mark(config):
            raise store.StoreError(
                f"{config.directory / 'composites'} was made with another configuration; "
                "run the stage `composite` again"
            )
        tiles = {
            name: Tile(name, store.grid_from(entry["grid"]))
            for name, entry in index["tiles"].items()
        }
        marks = {
            (name, int(year)): mark
            for name, entry in index["tiles"].items()
            for year, mark in entry["years"].items()
        }
        return cls(
            config.directory,
            tiles,
            config.periods,
            config.composite.bands,
            config.composite.shard,
            marks,
            config.times,
            config.own_days,
        )

    @property
    def middles(self) -> np.ndarray:
        """Middle of each period, int32 [time], days since 2015-01-01."""
        return middles_of(self.periods)

    @property
    def years(self) -> list[int]:
        """Calendar years that are on disk, margins included."""
        return sorted({period.start.year for period in self.periods})

    def fingerprint(self, tile: str) -> str:
        """Return what everything read from a tile depends on."""
        return store.fingerprint([self.marks[tile, year] for year in self.years])

    def read(self, tile: str, block: Block) -> np.ndarray:
        """Read reflectance, uint16 [time, band, y, x], 0 = nodata, over all times of the run."""
        return self._read(tile, block, REFLECTANCE)

    def read_count(self, tile: str, block: Block) -> np.ndarray:
        """Read clear observations, uint8 [time, y, x], over all times of the run."""
        return self._read(tile, block, CLEAR_COUNT)

    def read_days(self, tile: str, block: Block) -> np.ndarray:
        """Return the days of what `read` returns, int32 [time, y, x], days since 2015-01-01.

        The middles of the periods; or the pixel's own, 0 = no observation.
        """
        if self.own_days:
            return self._read(tile, block, DAY_OF_PIXEL)
        shape = len(self.periods), block.height, block.width
        return np.broadcast_to(self.middles[:, None, None], shape)

    def at_periods(self, reflectance: np.ndarray, days: np.ndarray) -> np.ndarray:
        """Return what `read` and `read_days` returned without gaps, uint16 [period, band, y, x]."""
        if self.own_days:
            return resample(reflectance, days, self.middles)
        return fill_gaps(reflectance, self.middles)[0]

    def _read(self, tile: str, block: Block, dataset: store.Dataset) -> np.ndarray:
        parts = [
            store.read_block(
                self.directory, "composites", self.tiles[tile], year, self.shard,
                self.marks[tile, year], dataset, block,
            )
            for year in self.years
        ]  # fmt: skip
        return np.concatenate(parts)


@dataclass(frozen=True)
class Origin:
    """An acquisition that composites were made from; `source` is its folder, zip or item file."""

    id: str
    time: datetime
    source: str


def describe_origins(config: Config, acquisitions: Sequence[Acquisition]) -> list[list[str]]:
    """Return acquisitions as the index holds them: id, time, source as seen from the configuration."""
    folder = Path(config.file).parent
    return [
        [item.id, item.time.isoformat(), os.path.relpath(item.source, folder)]
        for item in acquisitions
    ]


def origins(config: Config) -> dict[str, list[Origin]]:
    """Return the acquisitions that the composites of each tile were made from, in time."""
    index = store.read_json(config.directory / "composites" / "index.json", "composite")
    folder = Path(config.file).parent
    return {
        tile: [
            Origin(name, datetime.fromisoformat(time), os.path.normpath(folder / source))
            for name, time, source in entry["acquisitions"]
        ]
        for tile, entry in index["tiles"].items()
    }


def configuration_mark(config: Config) -> str:
    """Return the fingerprint of the configuration keys that composites depend on."""
    table = config.table()
    archive = {name: value for name, value in table["archive"].items() if name != "path"}
    return store.fingerprint("composites 2", archive, table["composite"])


def periods_of(config: Config, year: int) -> list[Period]:
    """Return the periods of a run that lie in a calendar year: what its shards hold."""
    return [period for period in config.periods if period.start.year == year]


def year_mark(config: Config, tile: Tile, acquisitions: Sequence[Acquisition], year: int) -> str:
    """Return the fingerprint of one tile and calendar year: everything its composites follow from."""
    periods = periods_of(config, year)
    inside = [
        item.fingerprint()
        for item in acquisitions
        if any(item.time in period for period in periods)
    ]
    spans = [(period.start, period.end) for period in periods]
    keys = {name: value for name, value in config.table()["composite"].items() if name != "block"}
    return store.fingerprint("composites 1", keys, store.describe_grid(tile.grid), spans, inside)


def times_of(config: Config, year: int) -> int:
    """Return the length of the time axis of a calendar year's shards."""
    return config.composite.count if config.own_days else len(periods_of(config, year))
