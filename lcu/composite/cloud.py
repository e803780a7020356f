"""Cloud masks from the scene classification and from comparison in time. No files, no MPI."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lcu import _cloud
from lcu.composite.arrays import buffer_mask

# SCL values that stand for clouds and for their shadows; each has its own buffer.
CLOUDS, SHADOWS = (8, 9, 10), (3,)

# SCL's snow and ice.
SNOW = 11

# Half the side of the square, in pixels of 10 m, that shares one opinion: clouds are wider than fields.
SUPPORT = 8


def scl_clear(
    scl: np.ndarray, classes: Sequence[int], *, clouds: float, shadows: float
) -> np.ndarray:
    """Tell clear from not clear by the scene classification alone.

    Parameters
    ----------
    scl : ndarray[..., y, x], uint8
        Scene classification of Sen2Cor; 0 = no data.
    classes : sequence of int
        Values that are not clear.
    clouds, shadows : float
        How far clouds (8, 9, 10) and shadows (3), as far as `classes` holds them, are grown, in pixels.

    Returns
    -------
    ndarray[..., y, x], bool
        True where clear.
    """
    masked = _among(scl, classes)
    for kind, pixels in ((CLOUDS, clouds), (SHADOWS, shadows)):
        grown = [value for value in classes if value in kind]
        if grown and pixels > 0:
            masked |= buffer_mask(_among(scl, grown), pixels)
    return ~masked


def _among(scl: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(classes)] = True
    return table.take(scl)


def cloud_mask(
    scl: np.ndarray,
    reflectance: np.ndarray,
    days: Sequence[int] | np.ndarray,
    *,
    blue: int,
    nir: int,
    swir: int,
    classes: Sequence[int] = (0, 1, 3, 8, 9, 10),
    cloud_buffer: float = 6.0,
    shadow_buffer: float = 6.0,
    support: int = SUPPORT,
    window: int = 60,
    threads: int = 1,
) -> np.ndarray:
    """Tell clear observations from clouds and shadows, also those that SCL missed.

    Three steps: SCL values that are not clear; discs around SCL's clouds (8, 9, 10) and shadows (3);
    and a comparison of what is left with the same pixel before and after. An observation is cloud when
    its blue exceeds that of its neighbours in time by 0.0325 and 1/16 of their blue, or its blue less
    5/16 of its short-wave infrared exceeds theirs by 0.0225 and 1/16 of their blue. (The first is the
    test of Hagolle et al., Remote Sensing of Environment 114, 2010. In the second thin cloud stands out
    more, and soil that dries or is laid bare does not: its infrared brightens more.) It is shadow when
    both its infrared bands, 0.03 added, are below 0.8 of theirs and its blue has not risen by 0.01
    (compare Tmask, Zhu and Woodcock, Remote Sensing of Environment 152, 2014).

    The neighbours are the three nearest in time on either side that lie within `window` days and are
    usable; most of those before *and* most of those after must agree. What stays changed is thus
    change, what lasts for one observation is cloud. One neighbour on either side is enough where the
    blue rises by 0.1, since thick clouds may follow one another. Where one side has no neighbours, two
    of the other must differ by half as much again (a shadow: to below 2/3). Usable are observations
    that steps one and two left and that a first pass, within `window // 2` days, did not find to be
    cloud or shadow.

    Last, a pixel is masked when at least two fifths of those that could be judged in the square of
    2 `support` + 1 pixels around it are cloud or shadow, and kept when not, whatever its own result: fields
    that were ploughed do not mask themselves, and holes in a cloud close.

    Parameters
    ----------
    scl : ndarray[time, y, x], uint8
        Scene classification of Sen2Cor; 0 = no data. 7 (unclassified) where there is none: then only
        the comparison speaks, and nothing is known to be snow.
    reflectance : ndarray[time, band, y, x], uint16
        Surface reflectance x 10000; 0 = nodata. Only three of the bands are looked at.
    days : [time], int
        Day of each time, ascending. Of times on one day each is a neighbour of the others, in the order
        given.
    blue, nir, swir : int
        Positions of these bands: B02, B8A (or B08) and B11.
    classes : sequence of int
        SCL values that are not clear.
    cloud_buffer, shadow_buffer : float
        How far SCL's clouds and shadows, as far as `classes` holds them, are grown, in pixels.
    support : int
        Half the side of that square, in pixels: 80 m do well.
    window : int
        Days within which observations are compared. What is decided for a time depends on the times
        within `cloud_reach_days(window)` of it and on no others.
    threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    ndarray[time, y, x], uint8
        1 where clear, else 0. Within `cloud_halo` pixels of the edge it depends on what lies beyond.

    Raises
    ------
    ValueError
        Where arrays do not fit together, or a band, a distance or a number is out of range.

    Notes
    -----
    An observation without a neighbour on either side, or with a single one in all, is not judged: it is
    what SCL and the buffers say, and the square around it decides. Ties are clear: of two neighbours
    both must agree, and a difference must be larger than its limit. A saturated observation (65535) is
    compared like any other. One with 0 in any of the three bands is not clear and no neighbour. An
    observation that SCL calls snow (11) is not taken for cloud where another usable one within `window`
    days is snow too, nor by neighbours on one side alone: snow that stays is kept, snow that was seen
    once goes.
    """
    scl, reflectance, days = _checked(scl, reflectance, days)
    bands = _bands(reflectance.shape[1], blue=blue, nir=nir, swir=swir)
    for name, number, least in (
        ("support", support, 0),
        ("window", window, 0),
        ("threads", threads, 1),
    ):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, found {number}")
    clear = scl_clear(scl, classes, clouds=cloud_buffer, shadows=shadow_buffer)
    for band in bands:
        clear &= reflectance[:, band] > 0
    clear = clear.view(np.uint8)
    clear[(scl == SNOW) & (clear > 0)] = 2
    found = np.empty_like(clear)
    windows = np.array([window // 2, window], np.int32)
    _cloud.screen(reflectance, clear, days, bands, windows, found, threads)
    _cloud.support(found, clear, support, threads)
    return np.minimum(clear, 1, out=clear)


def cloud_reach_days(window: int = 60) -> int:
    """Return how many days around it a decision of `cloud_mask` depends on: those of both passes."""
    return window + window // 2


def cloud_halo(
    cloud_buffer: float = 6.0, shadow_buffer: float = 6.0, support: int = SUPPORT
) -> int:
    """Return how many pixels around it a decision of `cloud_mask` depends on."""
    return math.ceil(max(cloud_buffer, shadow_buffer)) + support


def _checked(
    scl: np.ndarray, reflectance: np.ndarray, days: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arrays as the kernel takes them."""
    scl, reflectance = np.asarray(scl), np.asarray(reflectance)
    if reflectance.ndim != 4 or reflectance.dtype != np.uint16:
        raise ValueError(
            f"reflectance must be uint16 [time, band, y, x], "
            f"found {reflectance.dtype} with {reflectance.ndim} axes"
        )
    times, _, height, width = reflectance.shape
    if scl.shape != (times, height, width) or scl.dtype != np.uint8:
        raise ValueError(
            f"scl must be uint8 [time, y, x] = {(times, height, width)}, "
            f"found {scl.dtype} {scl.shape}"
        )
    days = np.ascontiguousarray(days, dtype=np.int32)
    if days.shape != (times,):
        raise ValueError(f"days must be [time] = {(times,)}, found {days.shape}")
    if (np.diff(days) < 0).any():
        raise ValueError("days must ascend")
    return scl, np.ascontiguousarray(reflectance), days


def _bands(count: int, **positions: int) -> np.ndarray:
    for name, position in positions.items():
        if not 0 <= position < count:
            raise ValueError(f"{name} must be a band index below {count}, found {position}")
    return np.array(list(positions.values()), np.intp)
