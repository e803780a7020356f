"""How long a run would take on so many ranks, from rates that `calibrate` measured. Arithmetic only.

A stage is what it costs in units of work, cut up as the stage cuts it. Its time is that of the rank with most to
do, found with the functions by which the stages share their work, plus what every rank does whatever the size.
What is not in it: the file system's limit (the rate that it would have to deliver is told instead), and waiting
that comes from the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lcu import store
from lcu.acquisition import Acquisition
from lcu.assess.reference import BLOCK as ASSESSED
from lcu.classify.stage import BLOCK as PREDICTED
from lcu.composite.work import cost, divide, series_bytes, spans_of
from lcu.config import Config
from lcu.grid import Block, Tile, split
from lcu.progress import duration
from lcu.publish import mosaic
from lcu.publish.stage import COST, layers_of
from lcu.ranks import share
from lcu.sample.stage import BLOCK as DRAWN

# Work of a shard: the costs of its units, [span][block]; one span where a stage has none.
Spans = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Load:
    """What a stage has to do.

    Attributes
    ----------
    shards : sequence of Spans
        Shards that groups of ranks make, in units of work.
    units : sequence of float
        Units that single ranks do.
    even : float
        Work that the ranks share evenly.
    limit : int or None
        Ranks that can take part at all, where something else than units says so; and
    why : str
        what that is.
    read, written : float
        Bytes.
    """

    shards: Sequence[Spans] = ()
    units: Sequence[float] = ()
    even: float = 0.0
    limit: int | None = None
    why: str = ""
    read: float = 0.0
    written: float = 0.0

    @property
    def total(self) -> float:
        """All its units of work."""
        return sum(map(_of_shard, self.shards)) + sum(self.units) + self.even


@dataclass(frozen=True)
class Rate:
    """What was measured of a stage: seconds whatever the size, and units of work of a rank in a second."""

    fixed: float
    speed: float


@dataclass(frozen=True)
class Forecast:
    """A stage on so many ranks.

    Attributes
    ----------
    seconds : float
    share : float
        Share of the ranks' time in which they work.
    useful : int
        Ranks beyond which it gets no faster by a tenth.
    why : str
        What ends scaling there.
    bytes_per_second : float
        What the file system has to deliver and take meanwhile.
    """

    seconds: float
    share: float
    useful: int
    why: str
    bytes_per_second: float


def forecast(load: Load, rate: Rate, ranks: int) -> Forecast:
    """Return how long a stage takes on `ranks` ranks, and where its scaling ends."""
    most = most_to_do(load, ranks)
    seconds = rate.fixed + most / rate.speed
    useful, why = end_of_scaling(load, rate, ranks)
    busy = load.total / rate.speed / (ranks * seconds) if seconds else 1.0
    return Forecast(
        seconds, min(1.0, busy), useful, why, (load.read + load.written) / max(seconds, 1e-9)
    )


def end_of_scaling(load: Load, rate: Rate, ranks: int) -> tuple[int, str]:
    """Return the ranks, at most `ranks`, from which twice as many gain less than a tenth, and why."""
    count = 1
    while count < ranks:
        after = min(2 * count, ranks)
        now, then = (
            rate.fixed + most_to_do(load, number) / rate.speed for number in (count, after)
        )
        if then > 0.9 * now:
            return count, _why(load, rate, count)
        count = after
    return ranks, ""


def _why(load: Load, rate: Rate, ranks: int) -> str:
    if load.limit is not None and ranks >= load.limit:
        return load.why
    if rate.fixed > most_to_do(load, ranks) / rate.speed:
        return "what every rank does whatever the size"
    units = sum(len(blocks) for spans in load.shards for blocks in spans) + len(load.units)
    return f"{units} units of work"


def most_to_do(load: Load, ranks: int) -> float:
    """Return the units of work of the rank that has most to do."""
    ranks = ranks if load.limit is None else min(ranks, load.limit)
    cut = _most_of_shards(tuple(load.shards), ranks) + _largest_share(tuple(load.units), ranks)
    return cut + load.even / ranks


@functools.cache
def _most_of_shards(shards: tuple[Spans, ...], ranks: int) -> float:
    """Return the time of the slowest group: its ranks wait for each other at every shard."""
    if not shards:
        return 0.0
    costs = [_of_shard(spans) for spans in shards]
    count = store.group_count(ranks, costs)
    sizes, spent = store.group_sizes(ranks, count), [0.0] * count
    for spans, group in zip(shards, share(costs, count), strict=True):
        spent[group] += _most_of_shard(spans, sizes[group])
    return max(spent)


@functools.cache
def _most_of_shard(spans: Spans, ranks: int) -> float:
    """Return what the rank of a group with most to do makes of a shard."""
    if len(spans) == 1:
        return _largest_share(spans[0], ranks)
    load = [0.0] * ranks
    for costs, owners in zip(spans, divide(spans, ranks), strict=True):
        for units, rank in zip(costs, owners, strict=True):
            load[rank] += units
    return max(load)


@functools.cache
def _largest_share(costs: tuple[float, ...], ranks: int) -> float:
    load = [0.0] * ranks
    for units, rank in zip(costs, share(costs, ranks), strict=True):
        load[rank] += units
    return max(load)


@functools.cache
def _of_shard(spans: Spans) -> float:
    return sum(map(sum, spans))


def fitted(small: tuple[float, float], large: tuple[float, float]) -> Rate:
    """Return fixed seconds and speed from two measurements (units of the rank with most to do, seconds).

    Where the larger took no longer, noise hid the size: all of its time counts for the units then. A stage
    without units (no reference to compare with) takes what it took.
    """
    if not large[0]:
        return Rate(large[1], 1.0)
    units, seconds = large[0] - small[0], large[1] - small[1]
    if units <= 0 or seconds <= 0 or small[1] - small[0] * seconds / units < 0:
        return Rate(0.0, large[0] / large[1])
    return Rate(small[1] - small[0] * seconds / units, units / seconds)


# --- what a run has to do -------------------------------------------------------------------------


def loads(
    config: Config, tiles: Mapping[str, Tile], acquisitions: Mapping[str, Sequence[Acquisition]]
) -> dict[str, Load]:
    """Return what each stage of a run has to do; pixels in millions."""
    pixels = sum(tile.grid.height * tile.grid.width for tile in tiles.values()) / 1e6
    classes, years = len(config.legend.classes), len(config.archive.years)
    series = sum(series_bytes(config, year) for year in config.calendar_years) * pixels * 1e6
    maps = years * pixels * 1e6
    pool = min(config.sample.pool * classes / 1e6, pixels)
    return {
        "composite": Load(shards=_composites(config, tiles, acquisitions), written=series),
        "draw": Load(units=[pixels_of(block) for block in _blocks(tiles, DRAWN)]),
        "clean": Load(even=pool if config.sample.clean else 0.0),
        "train": _training(config),
        "classify": Load(
            shards=[
                (tuple(years * pixels_of(part) for part in split(block, PREDICTED)),)
                for block in _blocks(tiles, config.classify.shard)
            ],
            read=series * (1 + config.compares_years),
            written=maps * (2 * classes + 7),
        ),
        "assess": Load(units=[pixels_of(block) for block in _blocks(tiles, ASSESSED)] * years)
        if config.assess.reference
        else Load(),
        "publish": Load(
            units=_products(config, tiles), read=maps * classes, written=maps * classes
        ),
    }


def pixels_of(block: Block) -> float:
    """Return millions of pixels."""
    return block.height * block.width / 1e6


def _blocks(tiles: Mapping[str, Tile], side: int) -> list[Block]:
    return [block for tile in tiles.values() for block in tile.grid.blocks(side)]


def _composites(
    config: Config, tiles: Mapping[str, Tile], acquisitions: Mapping[str, Sequence[Acquisition]]
) -> list[Spans]:
    """Return the units of every shard, in millions of pixels of clear acquisitions."""
    found = []
    for name, tile in tiles.items():
        for year in config.calendar_years:
            spans = spans_of(config, year, acquisitions[name])
            found += [
                tuple(
                    tuple(cost(span, block) / 1e6 for block in split(whole, config.composite.block))
                    for span in spans
                )
                for whole in tile.grid.blocks(config.composite.shard)
            ]
    return found


def _training(config: Config) -> Load:
    """Return what training costs: passes of networks over samples, or fits of one thread each."""
    train = config.train
    samples = config.sample.per_class * len(config.legend.classes)
    sampled = len(config.sample.years or config.archive.years)
    if train.from_model:
        return Load()
    if train.model == "random-forest":
        return Load(units=[float(samples * train.trees)] * sampled)
    if train.model.startswith("svm"):
        tries = len(train.c) * len(train.gamma) * train.folds
        members = train.members if train.model == "svm-ensemble" else 1
        # A fit of n samples costs about n^2.
        search = [(samples * (1 - 1 / train.folds)) ** 2 / 1e6] * tries
        fits = [(1 + train.folds) * samples**2 / 1e6] * members
        return Load(units=(search + fits) * sampled)
    passes = samples * sampled * train.epochs / 1e3
    return Load(even=passes, limit=train.most_ranks, why="train.batch")


def _products(config: Config, tiles: Mapping[str, Tile]) -> list[float]:
    """Return the cost of every raster, the mosaics among them."""
    shown = [tile for tile in tiles.values() if mosaic.in_europe(tile.grid)]
    whole = mosaic.tile_of(shown) if shown else None
    costs = []
    for year in config.archive.years:
        for layer in layers_of(config, year):
            costs += [COST[layer] * pixels_of(tile.grid.whole) for tile in tiles.values()]
        costs += [] if whole is None else [COST["MAP"] * pixels_of(whole.grid.whole)]
    return costs


# --- telling it -----------------------------------------------------------------------------------


def table(
    loads: Mapping[str, Load], rates: Mapping[str, Rate], ranks: int, say: Callable[[str], None]
) -> float:
    """Print the forecast of every stage; return the seconds of all."""
    say(f"{'stage':<10}{'time':>14}{'busy':>8}{'reads, writes':>16}  scaling ends")
    whole = 0.0
    for name, load in loads.items():
        found = forecast(load, rates[name], ranks)
        whole += found.seconds
        end = f"at {found.useful} ranks: {found.why}" if found.why else "not yet"
        speed = f"{found.bytes_per_second / 1e9:.3g} GB/s"
        say(f"{name:<10}{duration(found.seconds):>14}{100 * found.share:>7.0f}%{speed:>16}  {end}")
    return whole
