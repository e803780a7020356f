"""Where and when: grids, tiles, blocks and periods. Arithmetic only, no files, no MPI.

Conventions: arrays are ``[y, x]`` (row, column) and row 0 is the northern edge. A transform is
GDAL's six numbers ``(x_origin, x_step, 0, y_origin, 0, y_step)`` with the origin at the outer
corner of the first pixel. Days are counted from 2015-01-01 (day 0). Years are calendar years.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

DAY_ZERO = date(2015, 1, 1)


@dataclass(frozen=True, order=True)
class Block:
    """Part of a grid that is processed in memory at once; unit: pixels of the tile's grid."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index ``[y, x]`` of the block in an array of the whole grid."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def inside(self, outer: Block) -> tuple[slice, slice]:
        """Index ``[y, x]`` of this block in an array that covers `outer`."""
        row, col = self.row - outer.row, self.col - outer.col
        return slice(row, row + self.height), slice(col, col + self.width)

    def grown(self, pixels: int, grid: Grid) -> Block:
        """Return the block with a halo of `pixels`, cut off at the edge of `grid`."""
        row, col = max(self.row - pixels, 0), max(self.col - pixels, 0)
        end_row = min(self.row + self.height + pixels, grid.height)
        end_col = min(self.col + self.width + pixels, grid.width)
        return Block(row, col, end_row - row, end_col - col)


@dataclass(frozen=True)
class Grid:
    """A regular north-up raster grid.

    Attributes
    ----------
    crs : str
        ``EPSG:code`` where the CRS has one, else WKT.
    transform : tuple of 6 floats
        GDAL order: x origin, x step, 0, y origin, 0, y step (negative).
    height, width : int
        Pixels.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    def __post_init__(self) -> None:
        """Refuse what no stage can process: rotated, south-up or empty grids."""
        _, x_step, x_skew, _, y_skew, y_step = self.transform
        if x_skew or y_skew or x_step <= 0 or y_step >= 0:
            raise ValueError(
                f"grid must be north-up and unrotated, found transform {self.transform}"
            )
        if self.height < 1 or self.width < 1:
            raise ValueError(f"grid must hold pixels, found {self.height} x {self.width}")

    @property
    def resolution(self) -> float:
        """Pixel size along x, in the unit of the CRS (metres for UTM)."""
        return self.transform[1]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Outer edges (x_min, y_min, x_max, y_max)."""
        x, x_step, _, y, _, y_step = self.transform
        return x, y + self.height * y_step, x + self.width * x_step, y

    @property
    def whole(self) -> Block:
        """The grid as one block."""
        return Block(0, 0, self.height, self.width)

    def part(self, block: Block) -> Grid:
        """Return the grid of one block."""
        x, x_step, _, y, _, y_step = self.transform
        origin = (x + block.col * x_step, x_step, 0.0, y + block.row * y_step, 0.0, y_step)
        return Grid(self.crs, origin, block.height, block.width)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield square blocks of `size` pixels in row-major order; the last ones are cut off."""
        return split(self.whole, size)

    def same_extent(self, other: Grid) -> bool:
        """Tell whether both cover the same ground, whatever their pixel sizes."""
        tolerance = 1e-3 * min(self.resolution, other.resolution)
        return self.crs == other.crs and all(
            abs(a - b) <= tolerance for a, b in zip(self.bounds, other.bounds, strict=True)
        )


@dataclass(frozen=True)
class Tile:
    """One MGRS tile, or any named area, on its own grid (the finest of its bands)."""

    id: str
    grid: Grid


def split(block: Block, size: int) -> Iterator[Block]:
    """Yield the squares of `size` pixels that make up `block`, row-major, aligned to its corner."""
    for row in range(block.row, block.row + block.height, size):
        for col in range(block.col, block.col + block.width, size):
            height = min(size, block.row + block.height - row)
            width = min(size, block.col + block.width - col)
            yield Block(row, col, height, width)


@dataclass(frozen=True, order=True)
class Period:
    """Days ``[start, end)`` that one composite stands for."""

    start: date
    end: date

    @property
    def middle(self) -> int:
        """Middle of the period in days since 2015-01-01 (rounded down)."""
        return (day_number(self.start) + day_number(self.end)) // 2

    def __contains__(self, when: date | datetime) -> bool:
        """Tell whether a day (or a UTC time) lies in the period."""
        return self.start <= as_date(when) < self.end


def as_date(when: date | datetime) -> date:
    """Return the UTC day of a date or datetime."""
    return when.date() if isinstance(when, datetime) else when


def day_number(when: date | datetime) -> int:
    """Return days since 2015-01-01."""
    return (as_date(when) - DAY_ZERO).days


_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?")


@dataclass(frozen=True)
class Duration:
    """An ISO 8601 duration of whole months (years count as 12) or of whole days, not of both."""

    months: int = 0
    days: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read ``P1M``, ``P10D``, ``P2W``, ``P1Y``, ``P0D``; ValueError for anything else."""
        found = _DURATION.fullmatch(text)
        if found is None or text == "P":
            raise ValueError(f"{text!r} is not an ISO 8601 duration such as P1M or P10D")
        years, months, weeks, days = (int(part or 0) for part in found.groups())
        if (years or months) and (weeks or days):
            raise ValueError(f"{text!r} mixes months and days; use one of them")
        return cls(12 * years + months, 7 * weeks + days)

    def before(self, day: date) -> date:
        """Return `day` minus this duration."""
        return _add_months(day, -self.months) - timedelta(days=self.days)

    def after(self, day: date) -> date:
        """Return `day` plus this duration."""
        return _add_months(day, self.months) + timedelta(days=self.days)


def _add_months(day: date, months: int) -> date:
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return day.replace(
        year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1])
    )


def periods_of_year(year: int, step: Duration) -> list[Period]:
    """Cut a calendar year into periods of `step`.

    The number is the same in every year (365 days over the step, rounded), so that the series of
    all years have equal length; the last period takes what is left of the year.
    """
    start, end = date(year, 1, 1), date(year + 1, 1, 1)
    if step.months:
        starts = [_add_months(start, months) for months in range(0, 12, step.months)]
    elif step.days:
        count = max(1, math.floor(365 / step.days + 0.5))
        starts = [start + timedelta(days=step.days * index) for index in range(count)]
    else:
        raise ValueError("a period must be longer than nothing")
    return [Period(*pair) for pair in zip(starts, [*starts[1:], end], strict=True)]


def periods_of_run(years: Sequence[int], step: Duration, margin: Duration) -> list[Period]:
    """Return every period of a run, in time: those of `years` and of the margins around them.

    A period of a neighbouring year belongs to the run when its middle lies within `margin` of a
    mapped year.
    """
    chosen: set[Period] = set()
    for year in years:
        chosen.update(_around(year, step, margin))
    return sorted(chosen)


def _around(year: int, step: Duration, margin: Duration) -> list[Period]:
    first, last = margin.before(date(year, 1, 1)), margin.after(date(year + 1, 1, 1))
    near = range(first.year, last.year + 1)
    return [
        period
        for candidate in near
        for period in periods_of_year(candidate, step)
        if day_number(first) <= period.middle < day_number(last)
    ]


def positions_of_year(
    periods: Sequence[Period], year: int, step: Duration, margin: Duration
) -> list[int]:
    """Return where the periods that describe `year` (its margins included) stand in `periods`."""
    wanted = set(_around(year, step, margin))
    return [index for index, period in enumerate(periods) if period in wanted]


def stretches(periods: Sequence[Period]) -> list[list[int]]:
    """Return the positions of the periods in runs that follow each other without a gap."""
    found: list[list[int]] = []
    for position, period in enumerate(periods):
        if position == 0 or periods[position - 1].end != period.start:
            found.append([])
        found[-1].append(position)
    return found
