"""Where the choice over years finds its evidence: probabilities, votes, series, as they lie in the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lcu import evidence, likeness, store
from lcu.classify import overlap, smooth
from lcu.composite import Composites
from lcu.config import Config
from lcu.grid import Block, Tile
from lcu.sample import OldMap
from lcu.sample.oldmap import files
from lcu.store import PROBABILITY

# What the consistent maps are called in the run directory.
KIND = "consistent"


@dataclass(frozen=True)
class Source:
    """Where the evidence comes from.

    Attributes
    ----------
    marks : dict
        (tile, year) -> fingerprint of the probabilities.
    """

    config: Config
    composites: Composites
    marks: dict[tuple[str, int], str]

    @property
    def tiles(self) -> dict[str, Tile]:
        """The tiles by name."""
        return self.composites.tiles

    @property
    def years(self) -> list[int]:
        """The mapped years, ascending."""
        return list(self.config.archive.years)

    @cached_property
    def _votes(self) -> tuple[list[int], list[int]]:
        old = self.config.sample.old_map_year if self.config.classify.old_map else None
        return evidence.years_of_votes(self.years, old)

    @property
    def votes_of(self) -> list[int]:
        """The year of each vote, ascending: the mapped ones and, where it is used, the old map's before its like."""
        return self._votes[0]

    @property
    def mapped(self) -> list[int]:
        """Positions of the mapped years among the votes."""
        return self._votes[1]

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """The tiles that overlap each tile."""
        return {tile: overlap.neighbours(self.tiles, tile) for tile in self.tiles}

    @cached_property
    def _old(self) -> OldMap:
        return OldMap(self.config.sample, list(self.tiles.values()))

    @cached_property
    def mark(self) -> str:
        """The fingerprint of everything that the chain and the maps follow from."""
        keys = self.config.table()["classify"]
        old = (
            [store.file_fingerprint(path) for path in files(self.config.sample, self.tiles)]
            + [self.votes_of, self.config.sample.nomenclature]
            if self.config.classify.old_map
            else []
        )
        legend = self.config.legend
        return store.fingerprint(
            "consistent 10", keys, old, sorted(self.marks.items()), legend.values.tolist(),
            legend.transition_matrix().tolist(), self.config.changes,
        )  # fmt: skip

    def written(self, tile: str, year: int, block: Block) -> np.ndarray:
        """Read a tile's own probabilities as they are written, uint8 [class, y, x]."""
        return store.read_block(
            self.config.directory, "probabilities", self.tiles[tile], year, self.config.classify.shard,
            self.marks[tile, year], PROBABILITY, block,
        )  # fmt: skip

    def probability(self, tile: str, block: Block) -> np.ndarray:
        """Read the probabilities of all mapped years: of all tiles that lie there, smoothed.

        Returns
        -------
        ndarray[year, class, y, x], float32
            0..1; NaN where no tile has a clear observation in the year.
        """
        grid = self.tiles[tile].grid
        wide = block.grown(smooth.REACH, grid) if self.config.classify.smooth != "none" else block
        others = [
            found
            for name in self.neighbours[tile]
            if (found := overlap.sample(name, self.tiles[name].grid, grid, wide)) is not None
        ]
        years = []
        for year in self.years:
            parts = [(self.written(tile, year, wide), overlap.own_weight(grid, wide))]
            for other in others:
                theirs = self.written(other.tile, year, other.block)
                parts.append((other.take(theirs), other.weight))
            own = overlap.combine(parts)
            if self.config.classify.smooth != "none":
                own = smooth.bilateral(own)
            years.append(own[(slice(None), *block.inside(wide))])
        return np.stack(years)

    def series(self, tile: str, block: Block, pixels: np.ndarray | None = None) -> np.ndarray:
        """Read the gap-filled series around each pixel (`lcu.likeness.around`) in each mapped year.

        Returns
        -------
        ndarray[year, feature, y, x], uint16
            Time and band in one axis. With `pixels`, positions in the block row by row, of these only:
            [year, feature, 1, pixel].
        """
        wide = block.grown(likeness.REACH, self.tiles[tile].grid)
        written, days = self.composites.read(tile, wide), self.composites.read_days(tile, wide)
        filled = likeness.around(self.composites.at_periods(written, days))
        filled = filled[(..., *block.inside(wide))]
        if pixels is not None:
            filled = filled.reshape(*filled.shape[:2], 1, -1)[..., pixels]
        own = [filled[positions] for positions in self.config.positions_by_year.values()]
        return np.stack(own).reshape(len(own), -1, *filled.shape[2:])

    def votes(self, tile: str, block: Block, probability: np.ndarray) -> np.ndarray:
        """Return the votes of all years, and of the old map, float32 [year, vote, y, x]."""
        cast = evidence.votes(probability)
        if not self.config.classify.old_map:
            return cast
        legend = self.config.legend
        codes, _ = self._old.read(tile, self.tiles[tile].grid.part(block))
        values = legend.reclass(codes, self.config.sample.nomenclature)
        old = evidence.votes_of_map(legend.index_of(values), len(legend.classes))
        return np.insert(cast, self.votes_of.index(self.config.sample.old_map_year), old, axis=0)
