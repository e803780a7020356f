"""The configuration of a run: typed, from TOML, every mistake named at once.

One frozen dataclass per table. A field's metadata holds its documentation and what is allowed, so
that defaults, checks and the commented file that ``init`` writes come from one place.
"""

from __future__ import annotations

import inspect
import os
import re
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any
from urllib.parse import urlsplit

from lcu import grid, legend

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

# Hosts with which plain http may be spoken.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every mistake."""


def key(
    doc: str, default: Any = MISSING, *, allowed: Sequence[Any] = (), check: Callable | None = None
) -> Any:
    """Declare a configuration key: what it means, its default, and what it accepts.

    `check` takes the value and returns what is wrong with it, or None.
    """
    metadata = {"doc": doc, "allowed": tuple(allowed), "check": check}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _duration(text: str) -> str | None:
    try:
        duration = grid.Duration.parse(text)
    except ValueError as error:
        return str(error)
    return None if duration.months or duration.days else f"{text!r} is no time at all"


def _margin(text: str) -> str | None:
    try:
        grid.Duration.parse(text)
    except ValueError as error:
        return str(error)
    return None


def _years(years: Sequence[int]) -> str | None:
    wrong = [year for year in years if not 2015 <= year <= 2100]
    if wrong:
        return f"years from 2015 on are expected, found {wrong}"
    return "a year is named twice" if len(set(years)) < len(years) else None


def _bands(names: Sequence[str]) -> str | None:
    unknown = [name for name in names if name not in BANDS]
    if unknown:
        return f"unknown bands {unknown}; allowed are {', '.join(BANDS)}"
    if not names:
        return "at least one band is needed"
    return "a band is named twice" if len(set(names)) < len(names) else None


def _between(low: float, high: float) -> Callable[[float], str | None]:
    def check(value: float) -> str | None:
        return (
            None
            if low <= value <= high
            else f"must lie between {low:g} and {high:g}, found {value:g}"
        )

    return check


def _at_least(low: float) -> Callable[[float], str | None]:
    def check(value: float) -> str | None:
        return None if value >= low else f"must be at least {low:g}, found {value:g}"

    return check


def _time_limit(value: float | str) -> str | None:
    if isinstance(value, str):
        return None if value == "slurm" else f'expected minutes or "slurm", found {value!r}'
    return _at_least(0)(value)


@dataclass(frozen=True)
class Run:
    """Where a run lives and what it may use."""

    directory: str = key("The run directory: everything that the run writes goes there.")
    seed: int = key("Every random choice follows from this number.", 1, check=_at_least(0))
    memory_per_rank: float = key(
        "Memory that one rank may use, in GiB; `plan` and `run` refuse what does not fit.",
        4.0,
        check=_at_least(0.25),
    )
    time_limit: float | str = key(
        'Minutes after which a stage stops with exit code 3, to go on when started again; "slurm": until the end of '
        "the Slurm job, no limit elsewhere.",
        "slurm",
        check=_time_limit,
    )


@dataclass(frozen=True)
class Archive:
    """The acquisitions."""

    kind: str = key("SAFE products, or STAC collections.", allowed=("safe", "stac"))
    path: tuple[str, ...] = key("A folder, a STAC collection.json, or a list of them.")
    years: tuple[int, ...] = key("The years to map.", check=_years)
    tiles: tuple[str, ...] = key("Tile ids; none named: all that are there.", ())
    margin: str = key(
        "How far a year reaches into its neighbours, an ISO 8601 duration.", "P0M", check=_margin
    )
    max_cloud_cover: float = key(
        "Acquisitions whose metadata states more clouds (percent) are not read.",
        95.0,
        check=_between(0, 100),
    )
    offset: int | None = key(
        "Offset to add to the digital numbers of STAC items that state none, e.g. 0 or -1000.", None
    )


def _address(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    except ValueError as error:
        return f"{_without_secrets(text)!r} is no address ({error})"
    if "@" in parts.netloc or parts.query:
        return "user names, passwords and keys do not belong into an address"
    if text and "://" in text and parts.scheme != "https" and not plain:
        return f"expected https:// (http:// only on this machine), found {text!r}"
    return None


def _without_secrets(text: str) -> str:
    return re.sub(r"//[^/]*@", "//...@", text.split("?")[0])


@dataclass(frozen=True)
class Retrieve:
    """Where acquisitions are fetched from; present only where `retrieve` fills the archive.

    The archive is then one folder. With archive.kind = "safe" it gets whole products (one zip each),
    with "stac" the items and the assets of the run's bands.
    """

    catalogue: str = key(
        "The catalogue: Copernicus Data Space (with an account), earth-search (open), another STAC catalogue, "
        "or a folder of this machine.",
        "cdse",
        allowed=("cdse", "earth-search", "stac", "folder"),
    )
    url: str = key(
        "Address of the catalogue, or the folder; empty: the catalogue's own.", "", check=_address
    )
    collection: str = key("Collection that is searched.", "sentinel-2-l2a")
    count: int = key(
        "Most acquisitions of a tile in a year: the clearest, spread over the periods.",
        24,
        check=_at_least(1),
    )
    streams: int = key(
        "Files fetched at once; providers limit the sessions of an account.",
        4,
        check=_between(1, 16),
    )
    timeout: float = key(
        "Seconds without an answer, or almost without, after which a connection is given up.",
        60.0,
        check=_at_least(1),
    )
    credentials: str = key(
        "A TOML file with username and password that only you may read; empty: LCU_USERNAME and LCU_PASSWORD, "
        "else ~/.netrc.",
        "",
    )
    token_url: str = key(
        "Where the account's tokens come from (OAuth2); empty: the catalogue's own.",
        "",
        check=_address,
    )
    hosts: tuple[str, ...] = key(
        "Hosts (with a port where it is unusual) that get the account's token; none named: the catalogue's own.",
        (),
    )
    old_map: str = key(
        "Address or file from which sample.old_map is made where it is missing; of a zip the member of that name.",
        "",
        check=_address,
    )
    points: str = key("The same for assess.points.", "", check=_address)


@dataclass(frozen=True)
class Composite:
    """From acquisitions to one image a period."""

    period: str = key("Length of a period, an ISO 8601 duration.", "P1M", check=_duration)
    method: str = key(
        "How the clear observations of a period become one value; acquisitions: none, they are kept with their days.",
        "median",
        allowed=("median", "geometric-median", "medoid", "max-ndvi", "acquisitions"),
    )
    count: int = key(
        "Acquisitions that every pixel keeps of a year, with their days (method acquisitions only).",
        20,
        check=_between(1, 255),
    )
    bands: tuple[str, ...] = key("Bands, in the order on disk.", BANDS, check=_bands)
    mask: str = key(
        "What tells clear from not clear: SCL, or SCL and comparison with the days around.",
        "scl",
        allowed=("none", "scl", "scl+time"),
    )
    mask_classes: tuple[int, ...] = key(
        "SCL classes that are not clear (0 no data, 1 defective, 3 shadow, 8 9 cloud, 10 cirrus).",
        (0, 1, 3, 8, 9, 10),
    )
    cloud_buffer: float = key(
        "How far clouds and cirrus are grown, in metres.", 60.0, check=_at_least(0)
    )
    shadow_buffer: float = key("How far shadows are grown, in metres.", 60.0, check=_at_least(0))
    block: int = key(
        "Side of a block, in pixels; halved where run.memory_per_rank does not hold it.",
        1024,
        check=_at_least(64),
    )
    shard: int = key(
        "Side of a shard, in pixels: a multiple of 64. The default holds a whole tile.",
        11264,
        check=_at_least(64),
    )


@dataclass(frozen=True)
class Sample:
    """From the old map to labelled series."""

    old_map: str = key("The outdated map: raster or vector; the name may hold {tile}.")
    old_map_year: int = key("The year that the old map shows.", check=_between(1900, 2100))
    nomenclature: str = key(
        "Nomenclature of the old map's codes, as the legend names it.", "corine"
    )
    attribute: str = key("Field of a vector map that holds the code.", "Code_18")
    legend: str = key("A legend that comes with lcu, or a TOML file.", "corine-12")
    years: tuple[int, ...] = key(
        "Years that are sampled; none named: all mapped years.", (), check=_years
    )
    per_class: int = key(
        "Samples drawn per class on average, over all tiles; large classes have more, small ones at least a quarter.",
        1000,
        check=_at_least(4),
    )
    per_polygon: int = key(
        "Most samples drawn from one polygon of the old map.", 1000, check=_at_least(1)
    )
    erosion: float = key(
        "Pixels nearer than this to another class of the old map are not drawn, in metres.",
        20.0,
        check=_at_least(0),
    )
    clean: bool = key(
        "Whether labels that the series contradict are removed before the draw.", True
    )
    keep: float = key(
        "Share of the candidates that is kept at most, what is rare apart.",
        0.8,
        check=_between(0.01, 1),
    )
    typical: float = key(
        "Share of each class that may be kept: what is most like the middle of the class in all years but the "
        "map's own. Less where much of a class has changed, 1 where classes have kinds that are rare.",
        0.9,
        check=_between(0.01, 1),
    )
    pool: int = key(
        "Candidates of each class, over all tiles, that are looked at at most.",
        100000,
        check=_at_least(100),
    )


@dataclass(frozen=True)
class Train:
    """From samples to a model."""

    model: str = key(
        "Which model learns the series.",
        "svm",
        allowed=("svm", "svm-ensemble", "random-forest", "lstm", "transformer", "tempcnn", "ltae", "convlstm"),
    )  # fmt: skip
    from_model: str = key(
        "Run directory of a trained model to use; empty: train one from the samples.", ""
    )
    update: str = key(
        "When years or acquisitions were added: train anew, or go on from the former model (networks).",
        "retrain",
        allowed=("retrain", "fine-tune"),
    )
    fade: float = key(
        "fine-tune: years of age in which the weight of a known year's examples falls to 1/e.",
        3.0,
        check=_at_least(0.1),
    )
    replay: float = key(
        "fine-tune: examples of known years for each one of what is new.", 1.0, check=_at_least(0)
    )
    distributed: str = key(
        "What trains networks in parallel.", "auto", allowed=("auto", "horovod", "torch", "none")
    )
    class_weight: str = key(
        "What a class weighs: as much as any other, its share of the old map, or between (square root).",
        "square-root",
        allowed=("balanced", "square-root", "prior"),
    )
    spliced: float = key(
        "Samples of land that changes within a year, made of the beginning of one series and the end of another, "
        "as a share of all samples; 0: none.",
        0.0,
        check=_between(0, 1),
    )
    folds: int = key("SVM: folds of the grid search, by polygon.", 3, check=_between(2, 20))
    c: tuple[float, ...] = key("SVM: values of C that are tried.", (1.0, 10.0, 100.0))
    gamma: tuple[float, ...] = key(
        "SVM: values of gamma that are tried, times 1 / number of features.", (0.1, 0.3, 1.0)
    )
    members: int = key("SVMs of an svm-ensemble.", 5, check=_between(2, 100))
    trees: int = key("Trees of a random-forest.", 200, check=_between(1, 5000))
    series: str = key(
        "Networks: gap-filled series, or as observed, with a mask (and with days, where method is acquisitions).",
        "filled",
        allowed=("filled", "masked"),
    )
    position: str = key(
        "Networks: how a time is told apart, by the day of the year, the place in the series, or not.",
        "day",
        allowed=("day", "index", "none"),
    )
    hidden: int | None = key(
        "Networks: width; none, as in the keys below that have no default: what is usual for the model.",
        None,
        check=_between(8, 4096),
    )
    layers: int | None = key("Networks: depth.", None, check=_between(1, 64))
    heads: int | None = key(
        "transformer, ltae: attention heads; the width is a multiple.", None, check=_between(1, 64)
    )
    dropout: float | None = key("Networks: share of dropped units.", None, check=_between(0, 0.95))
    bidirectional: bool = key("lstm: read forward and backward.", True)
    carry_state: bool = key(
        "lstm: read all years of a pixel in one go; else every year for itself.", False
    )
    change_penalty: float = key(
        "Networks: weight of the penalty on scores that change between years while the series does not; 0: none.",
        0.0,
        check=_at_least(0),
    )
    epochs: int = key("Networks: most passes over the samples.", 40, check=_at_least(1))
    patience: int = key(
        "Networks: epochs without a better macro F1 on the validation samples before the end.",
        10,
        check=_at_least(1),
    )
    batch: int = key("Networks: samples in a step, over all ranks.", 128, check=_at_least(2))
    accumulate: int = key(
        "Networks: pieces in which a rank reads its part of a batch, to save memory.",
        1,
        check=_at_least(1),
    )
    learning_rate: float | None = key(
        "Networks: highest rate for batches of 128; times the square root of batch / 128 for others.",
        None,
        check=_between(1e-8, 10),
    )
    warmup: float = key("Networks: epochs in which the rate rises.", 2.0, check=_at_least(0))
    optimiser: str = key(
        "Networks: what takes the steps; LAMB is for batches of thousands.",
        "adamw",
        allowed=("adamw", "lamb"),
    )
    weight_decay: float = key("Networks: weight decay.", 0.01, check=_at_least(0))
    clip: float = key("Networks: longest gradient.", 1.0, check=_at_least(1e-6))
    label_smoothing: float = key(
        "Networks: share of a label that goes to all classes.", 0.1, check=_between(0, 0.9)
    )
    search: int = key(
        "Networks: sets of settings that are tried before training, most of them for few epochs; 0: none.",
        0,
        check=_at_least(0),
    )
    compression: str = key(
        "Networks: how gradients travel between ranks.", "none", allowed=("none", "fp16")
    )

    @property
    def is_network(self) -> bool:
        """Whether the model is a network, which all ranks train together."""
        return not self.model.startswith("svm") and self.model != "random-forest"

    @property
    def most_ranks(self) -> int | None:
        """Ranks for which a step has samples; None where ranks do not share steps."""
        return self.batch // self.accumulate if self.is_network else None

    @property
    def reads_patches(self) -> bool:
        """Whether the model looks at the pixels around a sample too."""
        return self.model == "convlstm"

    @property
    def joins_years(self) -> bool:
        """Whether a sample is learned from with all of its years together, not with each by itself."""
        return self.carry_state or bool(self.change_penalty)


@dataclass(frozen=True)
class Classify:
    """From a model to maps."""

    strategy: str = key(
        "How the years are mapped: by themselves, by a model of pixels that all years and the old map agree on, or by "
        "windows that are shifted along the series.",
        "yearly",
        allowed=("yearly", "multi-year", "shifted-window"),
    )
    window: int | None = key(
        "shifted-window: periods in a window; none: those of a year.", None, check=_at_least(1)
    )
    step: int | None = key(
        "shifted-window: periods from one window to the next; none: half a window.",
        None,
        check=_at_least(1),
    )
    years: str = key(
        "How the maps of the years are made consistent: a hidden Markov model, the rule of CLC+, or not.",
        "hmm",
        allowed=("hmm", "clcplus", "none"),
    )
    old_map: bool = key(
        "hmm: whether the old map is one more year of evidence, with an error matrix of its own.",
        False,
    )
    likeness: bool = key(
        "hmm: whether years that are alike speak for a class that stays, others against it.",
        True,
    )
    percentile: float = key(
        "clcplus: percentile of the distances of a change that it must exceed.",
        90.0,
        check=_between(0, 100),
    )
    smooth: str = key(
        "How probabilities are smoothed in space before that.",
        "bilateral",
        allowed=("bilateral", "none"),
    )
    minimum_unit: float = key(
        "Areas smaller than this take the classes of a neighbour, in ha; 0: none do.",
        0.0,
        check=_between(0, 1),
    )
    shard: int = key("Side of a shard, in pixels: a multiple of 64.", 2048, check=_at_least(64))


@dataclass(frozen=True)
class Assess:
    """Accuracy. Without a reference and without points the stage does nothing but say so."""

    reference: str = key("A reference raster; the name may hold {tile} and {year}.", "")
    reference_nomenclature: str = key("Nomenclature of its codes.", "corine")
    reference_year: int | None = key("The mapped year that it is compared with.", None)
    exclude: str = key("A raster whose non-zero pixels are left out; may hold {tile}, {year}.", "")
    points: str = key(
        "Reference points: LUCAS as it is distributed, or a CSV, GeoPackage or GeoJSON file with a class column.",
        "",
    )
    points_nomenclature: str = key("Nomenclature of the points' codes.", "lucas")
    points_class: str = key(
        "Column of the points' classes (codes, or names of classes); empty: LC1 where there is one, else class.",
        "",
    )
    points_year: int | None = key("The mapped year that the points are compared with.", None)
    lucas_photographs: bool = key(
        "LUCAS: whether points count that were interpreted from photographs, in the office or in the field.",
        False,
    )
    lucas_distance: float = key(
        "LUCAS: most metres between the surveyor and the point.", 100.0, check=_at_least(0)
    )
    lucas_aside: bool = key(
        "LUCAS: whether points count whose land cover was taken north or east of the point.", False
    )
    lucas_percent: float = key(
        "LUCAS: least share of the land cover in its parcel, percent; 0: any.",
        75.0,
        check=_between(0, 100),
    )
    lucas_parcel: float = key(
        "LUCAS: least area of the parcel, in ha (the survey knows 0.1, 0.5, 1 and 10); 0: any.",
        0.5,
        check=_between(0, 10),
    )
    design_error: float = key(
        "`assess --design`: standard error of the overall accuracy that its number of points is for.",
        0.02,
        check=_between(0.001, 0.2),
    )
    design_users: float = key(
        "`assess --design`: user's accuracy that is expected of the classes.",
        0.8,
        check=_between(0.5, 0.99),
    )
    design_least: int = key(
        "`assess --design`: least points of each mapped class.", 50, check=_at_least(2)
    )


@dataclass(frozen=True)
class Publish:
    """Maps for people and other software."""

    version: int | None = key(
        "Version of the maps, part of every file name; none: 1, and the next one whenever the maps have changed.",
        None,
        check=_between(1, 99),
    )
    change_polygons: bool = key(
        "Whether the changes of each tile are published as polygons too (GeoPackage).", False
    )


@dataclass(frozen=True)
class Simulate:
    """A synthetic landscape with known truth; present only where there are no real acquisitions."""

    size: int = key("Side of a tile in pixels of 10 m.", 768, check=_between(256, 10980))
    tiles: tuple[str, ...] = key(
        "MGRS ids of the tiles, neighbours from west to east.", ("32TPS", "32TQS")
    )
    overlap: int = key("Pixels that neighbours share.", 98, check=_at_least(0))
    zones: str = key(
        "Whether the second half of the tiles lies in the next UTM zone.",
        "one",
        allowed=("one", "two"),
    )
    mapping_unit: float = key(
        "Minimum mapping unit of the old map, in ha.", 25.0, check=_at_least(0)
    )
    mistakes: float = key(
        "Share of the old map's area with a plainly wrong label.", 0.04, check=_between(0, 0.5)
    )
    change: float = key(
        "Share of the area that really changes in a year.", 0.01, check=_between(0, 0.2)
    )
    points: int = key("Reference points per tile.", 400, check=_at_least(0))


@dataclass(frozen=True)
class Config:
    """The whole configuration. Paths are absolute; a table of OPTIONAL is None where it is missing."""

    run: Run
    archive: Archive
    composite: Composite
    sample: Sample
    train: Train
    classify: Classify
    assess: Assess
    publish: Publish
    retrieve: Retrieve | None
    simulate: Simulate | None
    file: str = ""

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.run.directory)

    @property
    def period(self) -> grid.Duration:
        """Length of a period."""
        return grid.Duration.parse(self.composite.period)

    @property
    def margin(self) -> grid.Duration:
        """How far a year reaches into its neighbours."""
        return grid.Duration.parse(self.archive.margin)

    @property
    def periods(self) -> list[grid.Period]:
        """Every period of the run, in time."""
        return grid.periods_of_run(self.archive.years, self.period, self.margin)

    @property
    def window(self) -> int:
        """Periods in a shifted window."""
        return self.classify.window or len(grid.periods_of_year(self.archive.years[0], self.period))

    @property
    def step(self) -> int:
        """Periods from one shifted window to the next."""
        return self.classify.step or max(1, self.window // 2)

    @property
    def legend(self) -> legend.Legend:
        """The legend of the maps."""
        return legend.load(self.sample.legend)

    @property
    def own_days(self) -> bool:
        """Whether every pixel has days of its own: acquisitions, not composites of periods."""
        return self.composite.method == "acquisitions"

    @property
    def calendar_years(self) -> list[int]:
        """Years that periods of the run lie in, margins included, ascending: those of the shards of composites."""
        return sorted({period.start.year for period in self.periods})

    @property
    def times(self) -> int:
        """Length of the time axis of composites and samples."""
        if self.own_days:
            return self.composite.count * len(self.calendar_years)
        return len(self.periods)

    def window_of(self, year: int) -> list[int]:
        """Return the positions of the periods that describe a year, margins included, among all of the run."""
        return grid.positions_of_year(self.periods, year, self.period, self.margin)

    @property
    def positions_by_year(self) -> dict[int, list[int]]:
        """Mapped year -> the positions of the periods of the calendar year among all of the run."""
        periods = list(enumerate(self.periods))
        return {
            year: [position for position, period in periods if period.start.year == year]
            for year in self.archive.years
        }

    @property
    def times_by_year(self) -> dict[int, list[int]]:
        """Mapped year -> the positions of the calendar year on the time axis of composites and samples."""
        if not self.own_days:
            return self.positions_by_year
        count = self.composite.count
        starts = {year: count * place for place, year in enumerate(self.calendar_years)}
        return {year: [*range(starts[year], starts[year] + count)] for year in self.archive.years}

    def times_of(self, year: int) -> list[int]:
        """Return the positions on that axis of what describes a year, margins included where there are periods."""
        return self.times_by_year[year] if self.own_days else self.window_of(year)

    @property
    def reads_days(self) -> bool:
        """Whether the model reads observations with the days of each pixel, and not periods."""
        return self.own_days and self.train.is_network and self.train.series == "masked"

    @property
    def compares_years(self) -> bool:
        """Whether the choice over years looks at how alike the series of successive years are."""
        keys = self.classify
        return keys.likeness and keys.years == "hmm" and len(self.archive.years) > 1

    @property
    def changes(self) -> dict[int, int]:
        """Mapped year -> the year before it that its changes are told against."""
        if self.classify.years == "none":
            return {}
        years = sorted(self.archive.years)
        found = dict(zip(years[1:], years, strict=False))
        if self.classify.old_map and self.sample.old_map_year < years[0]:
            found[years[0]] = self.sample.old_map_year
        return found

    def table(self) -> dict[str, Any]:
        """Return the configuration as plain tables, for provenance and fingerprints."""
        return {name: values for name, values in asdict(self).items() if name != "file"}


TABLES: dict[str, type] = {
    "run": Run, "archive": Archive, "composite": Composite, "sample": Sample, "train": Train,
    "classify": Classify, "assess": Assess, "publish": Publish,
    "retrieve": Retrieve, "simulate": Simulate,
}  # fmt: skip

OPTIONAL = ("retrieve", "simulate")

# Keys that hold paths: (table, key, must it be there before the run).
_PATHS = (
    ("run", "directory", False),
    ("archive", "path", True),
    ("sample", "old_map", True),
    ("train", "from_model", True),
    ("assess", "reference", True),
    ("assess", "exclude", True),
    ("assess", "points", True),
    ("retrieve", "credentials", True),
)


def load(path: str | Path, overrides: Sequence[str] = (), *, without: Sequence[str] = ()) -> Config:
    """Read and check a configuration file; `overrides` are ``table.key=value`` texts, tables `without` left out.

    Raises
    ------
    ConfigError
        Naming every mistake at once.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); write one with `init`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    tables = {name: entries for name, entries in tables.items() if name not in without}
    mistakes: list[str] = []
    for override in overrides:
        _override(tables, override, mistakes)
    return build(tables, path, mistakes)


def build(tables: dict[str, Any], path: Path, mistakes: list[str] | None = None) -> Config:
    """Check the tables of a configuration file that lies (or would lie) at `path`."""
    mistakes = [] if mistakes is None else mistakes
    unknown = sorted(set(tables) - set(TABLES))
    mistakes += [f"[{name}]: no such table; there are {', '.join(TABLES)}" for name in unknown]
    parts = {}
    for name, kind in TABLES.items():
        given = tables.get(name)
        if given is None and name in OPTIONAL:
            parts[name] = None
            continue
        parts[name] = _fill(name, kind, {} if given is None else given, mistakes)
    _resolve_paths(parts, _made_paths(tables), path.resolve().parent, mistakes)
    if all(value is not None for name, value in parts.items() if name not in OPTIONAL):
        config = Config(
            **{
                name: TABLES[name](**values) if values is not None else None
                for name, values in parts.items()
            },
            file=str(path.resolve()),
        )
        mistakes += _impossible(config)
    if mistakes:
        listed = "\n  ".join(mistakes)
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise ConfigError(f"{path}: {count}\n  {listed}")
    # In time, in whatever order they were named.
    in_time = {
        name: replace(part, years=tuple(sorted(part.years)))
        for name, part in (("archive", config.archive), ("sample", config.sample))
    }
    return replace(config, **in_time)


def _override(tables: dict[str, Any], override: str, mistakes: list[str]) -> None:
    name, equals, text = override.partition("=")
    table, dot, entry = name.strip().partition(".")
    if not equals or not dot:
        mistakes.append(f"--set {override}: expected table.key=value")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    tables.setdefault(table, {})
    if isinstance(tables[table], dict):
        tables[table][entry] = value


def _fill(name: str, kind: type, given: Any, mistakes: list[str]) -> dict[str, Any] | None:
    """Return the values of one table, or None where they cannot make one."""
    if not isinstance(given, dict):
        mistakes.append(f"{name}: expected a table [{name}], found {given!r}")
        return None
    known = {entry.name: entry for entry in fields(kind)}
    types = typing.get_type_hints(kind)
    for unknown in sorted(set(given) - set(known)):
        mistakes.append(f"{name}.{unknown}: no such key; there are {', '.join(known)}")
    values, whole = {}, True
    for entry in known.values():
        if entry.name in given:
            before = len(mistakes)
            values[entry.name] = _value(
                f"{name}.{entry.name}", entry, types[entry.name], given[entry.name], mistakes
            )
            whole &= len(mistakes) == before
        elif entry.default is not MISSING:
            values[entry.name] = entry.default
        else:
            mistakes.append(f"{name}.{entry.name}: required. {entry.metadata['doc']}")
            whole = False
    return values if whole else None


def _value(name: str, entry: Field, wanted: Any, value: Any, mistakes: list[str]) -> Any:
    """Convert one value to the type of its key; say what is wrong with it."""
    converted = _convert(value, wanted)
    if converted is None:
        mistakes.append(f"{name}: expected {_type_name(wanted)}, found {value!r}")
        return None
    allowed, check = entry.metadata["allowed"], entry.metadata["check"]
    if allowed and converted not in allowed:
        mistakes.append(f"{name}: expected one of {', '.join(map(str, allowed))}, found {value!r}")
    elif check is not None and (wrong := check(converted)):
        mistakes.append(f"{name}: {wrong}")
    return converted


def _convert(value: Any, wanted: Any) -> Any:
    if isinstance(wanted, UnionType):
        kinds = (part for part in typing.get_args(wanted) if part is not type(None))
        found = (_convert(value, kind) for kind in kinds)
        return next((converted for converted in found if converted is not None), None)
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)[0]
        items = [_convert(item, inner) for item in (value if isinstance(value, list) else [value])]
        return None if any(item is None for item in items) else tuple(items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and wanted is not bool:
        return None
    return value if isinstance(value, wanted) else None


def _type_name(wanted: Any) -> str:
    if isinstance(wanted, UnionType):
        kinds = (part for part in typing.get_args(wanted) if part is not type(None))
        return " or ".join(map(_type_name, kinds))
    if typing.get_origin(wanted) is tuple:
        return f"a list, each {_type_name(typing.get_args(wanted)[0])}"
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[wanted]


def _resolve_paths(
    parts: dict[str, Any], made: set[tuple[str, str]], folder: Path, mistakes: list[str]
) -> None:
    """Make paths absolute (relative ones lie beside the file) and see that all but `made` exist."""
    for table, entry, needed in _PATHS:
        values = parts.get(table)
        if values is None or not values[entry]:
            continue
        listed = values[entry] if isinstance(values[entry], tuple) else (values[entry],)
        resolved = tuple(str((folder / Path(text).expanduser()).resolve()) for text in listed)
        values[entry] = resolved if isinstance(values[entry], tuple) else resolved[0]
        for path in resolved if needed and (table, entry) not in made else ():
            if "{" not in path and not Path(path).exists():
                mistakes.append(f"{table}.{entry}: no such file or folder {path}")
    _resolve_addresses(parts.get("retrieve"), folder)
    sample = parts.get("sample")
    if sample is not None and sample["legend"].endswith(".toml"):
        sample["legend"] = str((folder / sample["legend"]).resolve())


def _made_paths(tables: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the keys whose files `simulate` or `retrieve` makes: they need not be there yet."""
    if tables.get("simulate") is not None:
        return {(table, entry) for table, entry, _ in _PATHS}
    retrieve = tables.get("retrieve")
    if not isinstance(retrieve, dict):
        return set()
    brought = {"old_map": ("sample", "old_map"), "points": ("assess", "points")}
    return {("archive", "path")} | {brought[entry] for entry in brought if retrieve.get(entry)}


def _resolve_addresses(retrieve: dict[str, Any] | None, folder: Path) -> None:
    """Make absolute what is a path and no address."""
    for entry in ("url", "old_map", "points") if retrieve else ():
        if retrieve[entry] and "://" not in retrieve[entry]:
            retrieve[entry] = str((folder / Path(retrieve[entry]).expanduser()).resolve())


def _impossible(config: Config) -> list[str]:
    """Name combinations of keys that are each allowed and cannot work together."""
    mistakes = []
    if not config.archive.years:
        mistakes.append("archive.years: at least one year is needed")
    strange = sorted(set(config.sample.years) - set(config.archive.years))
    if strange:
        mistakes.append(f"sample.years: {strange} are not among archive.years")
    for name, shard in (("composite", config.composite.shard), ("classify", config.classify.shard)):
        if shard % 64:
            mistakes.append(f"{name}.shard: must be a multiple of 64, found {shard}")
    if config.classify.old_map and config.classify.years != "hmm":
        mistakes.append(
            f"classify.old_map: only hmm takes the old map as evidence, classify.years is {config.classify.years}"
        )
    if config.composite.block % 64:
        mistakes.append(
            f"composite.block: must be a multiple of 64, found {config.composite.block}"
        )
    if config.composite.method == "max-ndvi" and not {"B04", "B08"} <= set(config.composite.bands):
        mistakes.append("composite.method: max-ndvi needs the bands B04 and B08 in composite.bands")
    bands = set(config.composite.bands)
    if config.composite.mask == "scl+time" and not (
        {"B02", "B11"} <= bands and {"B8A", "B08"} & bands
    ):
        mistakes.append("composite.mask: scl+time needs B02, B11 and B8A or B08 in composite.bands")
    for name in ("reference_year", "points_year"):
        year = getattr(config.assess, name)
        if year is not None and year not in config.archive.years:
            mistakes.append(f"assess.{name}: {year} is not among archive.years")
    if config.simulate and config.simulate.overlap >= config.simulate.size:
        mistakes.append("simulate.overlap: must be smaller than simulate.size")
    if config.simulate and config.archive.kind != "safe":
        mistakes.append("archive.kind: a simulated archive holds SAFE products, expected 'safe'")
    return (
        mistakes
        + _strategy_mistakes(config)
        + _retrieve_mistakes(config)
        + _network_mistakes(config)
        + _legend_mistakes(config)
    )


def _strategy_mistakes(config: Config) -> list[str]:
    classify, mistakes = config.classify, []
    if classify.strategy == "multi-year" and len(config.archive.years) < 2:
        mistakes.append(
            "classify.strategy: multi-year looks for pixels that are stable over the years; name two at least in "
            f"archive.years, found {list(config.archive.years)}"
        )
    if classify.strategy != "shifted-window":
        given = [name for name in ("window", "step") if getattr(classify, name) is not None]
        mistakes += [
            f"classify.{name}: only shifted-window has windows, classify.strategy is {classify.strategy}"
            for name in given
        ]
        return mistakes
    if config.train.carry_state:
        mistakes.append(
            "train.carry_state: the windows of shifted-window overlap, so no state can go from one to the next"
        )
    if config.train.change_penalty:
        mistakes.append(
            "train.change_penalty: compares successive years season by season, which shifted windows are not"
        )
    if not config.archive.years:
        return mistakes
    if config.step > config.window:
        mistakes.append(
            f"classify.step: must not be larger than the window of {config.window} periods, found {config.step}"
        )
    shortest = min(map(len, grid.stretches(config.periods)))
    if config.window > shortest:
        mistakes.append(
            f"classify.window: {config.window} periods are more than the {shortest} that follow each other in "
            "archive.years"
        )
    return mistakes


def _retrieve_mistakes(config: Config) -> list[str]:
    retrieve, mistakes = config.retrieve, []
    if retrieve is None:
        return []
    local = retrieve.catalogue == "folder"
    if local != bool(retrieve.url and "://" not in retrieve.url) and (local or retrieve.url):
        expected = "a folder" if local else "an address (https://...)"
        mistakes.append(f"retrieve.url: expected {expected}, found {retrieve.url!r}")
    if retrieve.catalogue == "stac" and not retrieve.url:
        mistakes.append("retrieve.url: the address of the STAC catalogue is needed")
    if retrieve.catalogue == "earth-search" and config.archive.kind != "stac":
        mistakes.append("archive.kind: earth-search has single bands only, expected 'stac'")
    if bool(retrieve.token_url) != bool(retrieve.hosts):
        mistakes.append("retrieve.hosts: needed with retrieve.token_url, and only there")
    if len(config.archive.path) != 1:
        mistakes.append("archive.path: retrieve fills one folder; name one")
    elif local and retrieve.url == config.archive.path[0]:
        mistakes.append("retrieve.url: is archive.path itself; nothing need be retrieved")
    if retrieve.old_map and "{" in config.sample.old_map:
        mistakes.append("retrieve.old_map: makes one file, sample.old_map names one for each tile")
    if not config.archive.tiles:
        mistakes.append("archive.tiles: retrieve needs the tiles, such as ['31UFT']")
    if config.simulate:
        mistakes.append("[retrieve]: an archive is simulated or retrieved, not both")
    return mistakes


def _network_mistakes(config: Config) -> list[str]:
    train, mistakes = config.train, []
    if train.model in ("transformer", "ltae") and train.hidden is not None:
        heads = train.heads or {"transformer": 4, "ltae": 16}[train.model]
        if train.hidden % heads:
            mistakes.append(
                f"train.hidden: must be a multiple of the {heads} heads, found {train.hidden}"
            )
    if train.carry_state and train.model != "lstm":
        mistakes.append(
            f"train.carry_state: only an lstm has a state, train.model is {train.model}"
        )
    if train.update == "fine-tune" and not train.is_network:
        mistakes.append(
            f"train.update: only networks can go on from a former model, train.model is {train.model}"
        )
    if train.update == "fine-tune" and (train.from_model or train.search):
        mistakes.append(
            "train.update: fine-tune goes on from this run's own model; leave out train.from_model and train.search"
        )
    if config.reads_days:
        mistakes += _days_mistakes(config)
    if train.change_penalty and not train.is_network:
        mistakes.append(
            f"train.change_penalty: only networks have a penalty, train.model is {train.model}"
        )
    return mistakes


def _days_mistakes(config: Config) -> list[str]:
    """Return what cannot be where a network reads acquisitions, with days of their own in every pixel."""
    given = "composite.method acquisitions and train.series masked"
    mistakes = []
    if config.archive.margin != "P0M":
        mistakes.append(
            f"archive.margin: with {given} a model reads the acquisitions of calendar years, expected 'P0M', found "
            f"{config.archive.margin!r}"
        )
    if config.train.reads_patches:
        mistakes.append(
            f"train.model: {config.train.model} compares neighbours, which have other days with {given}; choose "
            "train.series filled or another model"
        )
    if config.train.change_penalty:
        mistakes.append(
            f"train.change_penalty: compares years period by period, which is not to be had with {given}; choose "
            "train.series filled"
        )
    if config.classify.strategy == "shifted-window":
        mistakes.append(
            f"classify.strategy: shifted-window moves by periods, which are not read with {given}; choose train.series "
            "filled or another strategy"
        )
    return mistakes


def _legend_mistakes(config: Config) -> list[str]:
    try:
        classes = config.legend
    except legend.LegendError as error:
        return [f"sample.legend: {error}"]
    mistakes = []
    wanted = [("sample", "nomenclature", True)]
    wanted.append(("assess", "reference_nomenclature", bool(config.assess.reference)))
    wanted.append(("assess", "points_nomenclature", bool(config.assess.points)))
    for table, entry, needed in wanted:
        name = getattr(getattr(config, table), entry)
        if needed and name not in classes.nomenclatures:
            known = ", ".join(classes.nomenclatures)
            mistakes.append(
                f"{table}.{entry}: legend {classes.name} has no codes of {name!r}; it has {known}"
            )
    return mistakes


def template() -> str:
    """Return a configuration file with every key, its documentation and its default."""
    lines = ["# A run of lcu. Relative paths are relative to this file.", ""]
    for name, kind in TABLES.items():
        optional = name in OPTIONAL
        doc = inspect.cleandoc(kind.__doc__ or "")
        lines += [f"# {line}".rstrip() for line in doc.splitlines()]
        lines.append(f"# [{name}]" if optional else f"[{name}]")
        for entry in fields(kind):
            lines += _template_key(entry, optional)
        lines.append("")
    return "\n".join(lines)


def _template_key(entry: Field, optional: bool) -> list[str]:
    lines = [f"# {entry.metadata['doc']}"]
    if entry.metadata["allowed"]:
        lines.append(f"# One of: {', '.join(entry.metadata['allowed'])}.")
    required = entry.default is MISSING
    value = _EXAMPLES.get(entry.name, "") if required else entry.default
    unset = value is None
    text = f"{entry.name} = {_toml(value)}" if not unset else f"{entry.name} ="
    return [*lines, f"# {text}" if optional or unset else text]


_EXAMPLES = {
    "directory": "runs/first", "kind": "safe", "path": ["archive"], "years": [2018, 2019],
    "old_map": "old_map.tif", "old_map_year": 2018,
}  # fmt: skip


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def provenance(config: Config) -> str:
    """Return the configuration as outputs carry it: as TOML, paths relative to the file, without
    what cannot matter to their content (where the run lives and how much memory it may use).
    """  # noqa: D205
    tables = config.table()
    for entry in ("directory", "memory_per_rank", "time_limit"):
        del tables["run"][entry]
    folder = Path(config.file).parent
    del tables["retrieve"]  # which acquisitions were read, their fingerprints say
    for table, entry, _ in (path for path in _PATHS[1:] if path[0] in tables):
        tables[table][entry] = _relative(tables[table][entry], folder)
    return _as_toml(tables)


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(_relative(item, folder) for item in value)
    return os.path.relpath(value, folder) if value else value


def to_toml(config: Config) -> str:
    """Return the configuration as TOML, defaults included, paths absolute."""
    return _as_toml(config.table())


def _as_toml(tables: dict[str, Any]) -> str:
    lines = []
    for name, values in tables.items():
        if values is None:
            continue
        lines.append(f"[{name}]")
        lines += [
            f"{entry} = {_toml(value)}" for entry, value in values.items() if value is not None
        ]
        lines.append("")
    return "\n".join(lines)
