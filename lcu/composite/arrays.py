"""Masks, composites and gap filling of arrays in memory: no files, no MPI.

Arrays are ``[time, band, y, x]``; reflectance is uint16 x 10000 with 0 = nodata. An observation
counts when it is clear and all its bands are above 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcu import _composite

# Where the iteration of the geometric median ends: length of a step in reflectance, number of steps.
STEP_TOLERANCE, STEP_LIMIT = 1e-5, 1000


def median(
    reflectance: np.ndarray, clear: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Median over time of the clear observations of each pixel, band by band.

    Parameters
    ----------
    reflectance : ndarray[time, band, y, x], uint16
        Surface reflectance x 10000; 0 = nodata.
    clear : ndarray[time, y, x], bool or uint8
        Not 0 where the observation is clear.
    threads : int
        Threads over rows; the result does not depend on it.

    Returns
    -------
    values : ndarray[band, y, x], uint16
        floor(median + 0.5); of an even number the mean of the middle two. One observation is
        returned as it is; without any the value is 0.
    count : ndarray[y, x], uint8
        Observations behind the value; 255 stands for 255 and more.
    """
    reflectance, clear, values, count = _prepare(reflectance, clear)
    _composite.median(reflectance, clear, values, count, _threads(threads))
    return values, count


def geometric_median(
    reflectance: np.ndarray, clear: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Geometric median over time of the clear observations of each pixel, all bands together.

    The point with the least sum of distances to the observations, by Weiszfeld's iteration with the
    step of Vardi and Zhang (PNAS 97, 2000), in single precision, until a step is shorter than 1e-5 in
    reflectance (at most 1000 steps; then the point reached is returned).

    Parameters
    ----------
    reflectance, clear, threads
        As in `median`.

    Returns
    -------
    values : ndarray[band, y, x], uint16
        Rounded half up. One observation is returned as it is, of two the mean (every point between
        them is as good); without any the value is 0.
    count : ndarray[y, x], uint8
        As in `median`.
    """
    reflectance, clear, values, count = _prepare(reflectance, clear)
    _composite.geometric_median(
        reflectance, clear, values, count, STEP_TOLERANCE, STEP_LIMIT, _threads(threads)
    )
    return values, count


def medoid(
    reflectance: np.ndarray, clear: np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Medoid over time: the clear observation with the least sum of distances to all others.

    Parameters
    ----------
    reflectance, clear, threads
        As in `median`.

    Returns
    -------
    values : ndarray[band, y, x], uint16
        One of the observations, the earliest among equals (of two always the first); 0 of none.
    count : ndarray[y, x], uint8
        As in `median`.
    """
    reflectance, clear, values, count = _prepare(reflectance, clear)
    _composite.medoid(reflectance, clear, values, count, _threads(threads))
    return values, count


def max_ndvi(
    reflectance: np.ndarray, clear: np.ndarray, *, red: int, nir: int, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Clear observation with the largest NDVI, (nir - red) / (nir + red).

    Parameters
    ----------
    reflectance, clear, threads
        As in `median`.
    red, nir : int
        Positions of these bands.

    Returns
    -------
    values : ndarray[band, y, x], uint16
        One of the observations, the earliest among equals; 0 of none.
    count : ndarray[y, x], uint8
        As in `median`.
    """
    reflectance, clear, values, count = _prepare(reflectance, clear)
    for name, band in (("red", red), ("nir", nir)):
        if not 0 <= band < reflectance.shape[1]:
            raise ValueError(
                f"{name} must be a band index below {reflectance.shape[1]}, found {band}"
            )
    _composite.max_ndvi(reflectance, clear, values, count, red, nir, _threads(threads))
    return values, count


def _prepare(
    reflectance: np.ndarray, clear: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Check the input of a composite and make room for its output."""
    reflectance, clear = _series(reflectance), _mask(clear)
    times, bands, height, width = reflectance.shape
    if clear.shape != (times, height, width):
        raise ValueError(
            f"clear must be [time, y, x] = {(times, height, width)}, found {clear.shape}"
        )
    values = np.zeros((bands, height, width), np.uint16)
    return reflectance, clear, values, np.zeros((height, width), np.uint8)


def fill_gaps(
    reflectance: np.ndarray, days: Sequence[int] | np.ndarray, *, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the gaps of every series: linear in time between neighbours, the nearest at the ends.

    Parameters
    ----------
    reflectance : ndarray[time, band, y, x], uint16
        0 = gap.
    days : [time], int
        Day of each time, ascending.
    threads : int
        Threads over rows; the result does not depend on it.

    Returns
    -------
    filled : ndarray[time, band, y, x], uint16
        Rounded half up; a series with no value at all stays 0.
    flag : ndarray[time, band, y, x], uint8
        1 where the value was filled (or there was nothing to fill it from), else 0.
    """
    reflectance = _series(reflectance)
    days = np.ascontiguousarray(days, dtype=np.int32)
    if days.shape != reflectance.shape[:1]:
        raise ValueError(f"days must be [time] = {reflectance.shape[:1]}, found {days.shape}")
    if (np.diff(days) < 0).any():
        raise ValueError("days must ascend")
    filled = np.empty_like(reflectance)
    flag = np.empty(reflectance.shape, np.uint8)
    _composite.fill_gaps(reflectance, days, filled, flag, _threads(threads))
    return filled, flag


def resample(
    reflectance: np.ndarray,
    days: np.ndarray,
    at: Sequence[int] | np.ndarray,
    *,
    threads: int = 1,
) -> np.ndarray:
    """Read series whose pixels have days of their own at the same days: linear in time, the nearest at the ends.

    Parameters
    ----------
    reflectance : ndarray[time, band, y, x], uint16
    days : ndarray[time, y, x], int32
        Day of each observation, ascending in every pixel; 0 where there is none.
    at : [period], int
        The days that are wanted, ascending.
    threads : int
        Threads over rows; the result does not depend on it.

    Returns
    -------
    ndarray[period, band, y, x], uint16
        Rounded half up; a pixel without an observation stays 0.
    """
    reflectance = _series(reflectance)
    times, bands, height, width = reflectance.shape
    days = np.ascontiguousarray(days, dtype=np.int32)
    if days.shape != (times, height, width):
        raise ValueError(
            f"days must be [time, y, x] = {(times, height, width)}, found {days.shape}"
        )
    at = np.ascontiguousarray(at, dtype=np.int32)
    if (np.diff(at) < 0).any():
        raise ValueError("the days that are wanted must ascend")
    found = np.zeros((len(at), bands, height, width), np.uint16)
    _composite.resample(reflectance, days, at, found, _threads(threads))
    return found


def buffer_mask(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Grow a mask by a Euclidean disc of radius `pixels`.

    Parameters
    ----------
    mask : ndarray[..., y, x], bool or uint8
    pixels : float
        A pixel is set when a set one lies at most this far away, centre to centre; 0 changes nothing.

    Returns
    -------
    ndarray[..., y, x], bool
    """
    if pixels < 0:
        raise ValueError(f"pixels must be 0 or more, found {pixels}")
    mask = _mask(mask)
    layers = mask.reshape(-1, *mask.shape[-2:])
    grown = np.zeros_like(layers)
    distance = np.empty(layers.shape[1:], np.int32)
    for layer, out in zip(layers, grown, strict=True):
        _composite.buffer_mask(layer, distance, out, float(pixels))
    return grown.reshape(mask.shape).astype(bool)


class Clearest:
    """The first observations that each pixel is offered, up to a number: `method` acquisitions.

    Offer the clearest acquisition first.
    """

    def __init__(self, count: int, bands: int, height: int, width: int) -> None:
        """Make room for `count` observations of every pixel."""
        self._values = np.zeros((count, bands, height, width), np.uint16)
        self._days = np.zeros((count, height, width), np.int32)
        self._taken = np.zeros((height, width), np.int32)

    def has_room(self) -> np.ndarray:
        """Tell which pixels have fewer observations than they may, bool [y, x]."""
        return self._taken < len(self._values)

    def add(self, reflectance: np.ndarray, clear: np.ndarray, day: int) -> None:
        """Offer an observation: reflectance uint16 [band, y, x], clear bool [y, x], its day."""
        _composite.keep(
            np.ascontiguousarray(reflectance), _mask(clear), day,
            self._values, self._days, self._taken,
        )  # fmt: skip

    def in_time(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the observations of each pixel in the order of their days.

        Returns
        -------
        values : ndarray[time, band, y, x], uint16
            0 where a pixel has fewer observations.
        days : ndarray[time, y, x], int32
            Days since 2015-01-01; 0 where there is none.
        """
        _composite.order_by_day(self._values, self._days, self._taken)
        return self._values, self._days


def _series(reflectance: np.ndarray) -> np.ndarray:
    reflectance = np.asarray(reflectance)
    if reflectance.ndim != 4 or reflectance.dtype != np.uint16:
        raise ValueError(
            f"reflectance must be uint16 [time, band, y, x], "
            f"found {reflectance.dtype} with {reflectance.ndim} axes"
        )
    return np.ascontiguousarray(reflectance)


def _mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"a mask must be bool or uint8, found {mask.dtype}")
    return np.ascontiguousarray(mask).view(np.uint8)


def _threads(threads: int) -> int:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    return threads
