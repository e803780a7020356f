"""What an acquisition is: its bands, their grids and how digital numbers become reflectance.

Arithmetic only: no files, no GDAL, no MPI.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from lcu.grid import Grid

MASK = "SCL"

# Metres; the same band is also delivered resampled to coarser grids, which are never used.
NATIVE_RESOLUTION = {
    "B01": 60, "B02": 10, "B03": 10, "B04": 10, "B05": 20, "B06": 20, "B07": 20, "B08": 10,
    "B8A": 20, "B09": 60, "B10": 60, "B11": 20, "B12": 20, MASK: 20,
}  # fmt: skip

# Every Sentinel-2 product of baselines 02.00 to 05.xx has this quantification value.
DEFAULT_SCALE = 1e-4

# Processing baseline 04.00 shifted the digital numbers by 1000 to keep negative reflectance.
FIRST_SHIFTED_BASELINE = "04.00"
SHIFT = -1000

# Two products of one datatake and tile show the same ground when their datastrips start within
# these seconds; further apart, they are the two sides of a tile that two ground stations received.
SAME_STRIP = 10.0

Entry = TypeVar("Entry")


class AcquisitionError(ValueError):
    """An acquisition that cannot be used; names the file, what was found and what was expected."""


@dataclass(frozen=True)
class Band:
    """One raster of an acquisition: surface reflectance = digital number * `scale` + `offset`.

    Attributes
    ----------
    name : str
        ``B01`` .. ``B12``, ``B8A`` or ``SCL``.
    path : str
        What GDAL opens; may lie in a zip (``/vsizip/``).
    grid : Grid
        The band's own grid, from the metadata.
    nodata : int
        Digital number without data.
    size : int
        Bytes of the file; 0 where nobody looked.
    """

    name: str
    path: str
    grid: Grid
    scale: float
    offset: float
    nodata: int
    size: int = 0


@dataclass(frozen=True)
class Acquisition:
    """One sensor's image of one tile at one time.

    Attributes
    ----------
    time : datetime
        UTC, aware.
    level : str
        ``L2A`` or ``L1C``.
    baseline : str
        Processing baseline such as ``05.09``; empty where the metadata states none.
    cloud_cover : float or None
        Percent.
    source : str
        Folder, zip or item file, for messages.
    """

    id: str
    tile: str
    time: datetime
    platform: str
    level: str
    baseline: str
    cloud_cover: float | None
    bands: dict[str, Band]
    mask: Band | None
    source: str

    @property
    def rasters(self) -> list[Band]:
        """The bands in the order of their names, then the mask."""
        bands = [self.bands[name] for name in sorted(self.bands)]
        return bands + ([self.mask] if self.mask else [])

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change when files or what they mean have changed.

        Evidence are names, sizes, grids, scales and offsets. Folders and modification times do not
        count: a moved or copied archive is the same archive.
        """
        parts: list[object] = [self.id, self.tile, self.time.isoformat(), self.level, self.baseline]
        for band in self.rasters:
            file = os.path.basename(band.path)
            parts += [band.name, file, band.size, band.scale, band.offset, band.nodata, band.grid]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """An acquisition and what tells reprocessings of the same observation apart.

    Attributes
    ----------
    datatake : str
        Sensor and start of the datatake, the same in every baseline.
    strip : float
        Start of the datastrip in seconds since 1970; 0 where unknown.
    generated : str
        When the product was made, ISO 8601.
    """

    acquisition: Acquisition
    datatake: str
    strip: float
    generated: str


def observations(
    entries: Iterable[Entry], identify: Callable[[Entry], tuple[str, str, float, str]]
) -> Iterator[list[Entry]]:
    """Group products that show the same ground at the same time.

    `identify` returns tile, datatake, start of the datastrip (seconds) and id of a product.
    """
    group: list[Entry] = []
    for entry in sorted(entries, key=identify):
        tile, datatake, strip, _ = identify(entry)
        if group:
            *last, last_strip, _ = identify(group[-1])
            if last != [tile, datatake] or strip - last_strip > SAME_STRIP:
                yield group
                group = []
        group.append(entry)
    if group:
        yield group


def harmonise(numbers: np.ndarray, scale: float, offset: float, nodata: int) -> np.ndarray:
    """Return reflectance x 10000 that means the same in every baseline.

    Parameters
    ----------
    numbers : ndarray, any shape, integer or float
        Digital numbers; `nodata` and NaN are without data.
    scale, offset : float
        Reflectance = number * scale + offset.

    Returns
    -------
    ndarray, the same shape, uint16
        Reflectance x 10000, clipped to 1..65535 so that a dark pixel stays an observation;
        0 = nodata.
    """
    shift = whole_shift(scale, offset)
    if shift is not None and numbers.dtype.kind in "iu":  # exact: whole numbers stay whole
        values = np.clip(numbers.astype(np.int32) + shift, 1, 65535).astype(np.uint16)
        values[numbers == nodata] = 0
        return values
    with np.errstate(invalid="ignore"):
        reflectance = np.floor(10000.0 * (numbers.astype(np.float64) * scale + offset) + 0.5)
        valid = np.isfinite(reflectance) & (numbers != nodata)
    return np.where(valid, np.clip(np.where(valid, reflectance, 0), 1, 65535), 0).astype(np.uint16)


def whole_shift(scale: float, offset: float) -> int | None:
    """Return what makes digital numbers reflectance x 10000 by adding; None where they must be scaled."""
    shift = offset * 10000
    if math.isclose(scale, DEFAULT_SCALE, rel_tol=1e-9) and abs(shift - round(shift)) < 1e-6:
        return round(shift)
    return None


def offset_of_baseline(baseline: str) -> int:
    """Return what a processing baseline such as ``05.09`` adds to digital numbers: -1000 or 0."""
    return SHIFT if baseline >= FIRST_SHIFTED_BASELINE else 0


def parse_baseline(text: object, source: str) -> str:
    """Check a processing baseline; two digits, a point, two digits."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{2}\.[0-9]{2}", text):
        raise AcquisitionError(f"{source}: processing baseline {text!r}, expected such as '05.09'")
    return text


def parse_time(text: object, source: str) -> datetime:
    """Read an ISO 8601 time; one without an offset is UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise AcquisitionError(
            f"{source}: time {text!r}, expected such as 2018-06-30T10:30:21Z"
        ) from None


def parse_number(value: object, what: str, source: str) -> float:
    """Read a finite number from metadata (a text or a number)."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise AcquisitionError(f"{source}: {what} is {value!r}, expected a number")
    return number


def make_grid(
    crs: str, transform: tuple[float, ...], size: tuple[float, float], source: str
) -> Grid:
    """Build a grid from metadata; `size` is (height, width)."""
    height, width = size
    try:
        return Grid(crs, transform, int(height), int(width))
    except (ValueError, OverflowError) as error:
        raise AcquisitionError(f"{source}: {error}") from None


def datatake_key(identifier: object) -> str:
    """Return sensor and start of ``GS2A_20230821T221941_042640_N05.09``; empty where none."""
    parts = re.match(r"(GS2[A-Z]_[0-9]{8}T[0-9]{6})", str(identifier))
    return parts[1] if parts else ""


def strip_start(identifier: object) -> float:
    """Return the start of datastrip ``.._S20230821T221944_N05.09`` in seconds since 1970, or 0."""
    found = re.search(r"_S([0-9]{8}T[0-9]{6})(?:_|$)", str(identifier))
    try:
        return datetime.strptime(found[1] + "Z", "%Y%m%dT%H%M%S%z").timestamp() if found else 0.0
    except ValueError:
        return 0.0
