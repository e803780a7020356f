"""Observations for the benchmarks: spectra of a few land covers, seasons, noise, clouds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

# Mean reflectance x 10000 of B02 B03 B04 B05 B06 B07 B08 B8A B11 B12.
SPECTRA = np.array(
    [
        [310, 620, 380, 950, 2600, 3300, 3450, 3600, 1900, 950],  # grass
        [260, 430, 290, 650, 1700, 2100, 2200, 2350, 1200, 560],  # broad-leaved forest
        [200, 310, 230, 450, 1000, 1250, 1300, 1400, 700, 330],  # coniferous forest
        [620, 900, 1250, 1500, 1700, 1850, 1950, 2100, 2800, 2300],  # bare soil
        [950, 1150, 1250, 1400, 1600, 1750, 1850, 1950, 2100, 1850],  # built up
        [380, 420, 280, 240, 180, 160, 140, 120, 60, 40],  # water
    ],
    dtype=np.float32,
)
RED, NIR = 2, 6
CLOUD = 5500  # reflectance x 10000 that a thick cloud adds
LEAST = 3  # clear observations that every pixel has at least


class Observations(NamedTuple):
    """Acquisitions of one place.

    Attributes
    ----------
    reflectance : ndarray[time, band, y, x], uint16
        Surface reflectance x 10000; 0 = nodata, which does not occur here.
    clear : ndarray[time, y, x], bool
        True where no cloud was detected.
    days : ndarray[time], int32
        Days since the first of January.
    """

    reflectance: np.ndarray
    clear: np.ndarray
    days: np.ndarray


def observe(times: int, height: int, width: int, missing: float, seed: int) -> Observations:
    """Make the acquisitions of one year; about the share `missing` of them is cloudy."""
    random = np.random.default_rng(seed)
    cover = land_cover(height, width, random)
    days = np.sort(random.choice(np.arange(1, 366), times, replace=False)).astype(np.int32)
    clear = sky(times, height, width, missing, random)
    reflectance = np.empty((times, SPECTRA.shape[1], height, width), np.uint16)
    for time in range(times):
        exact = ground(cover, days[time], random) + haze(clear[time], random)
        reflectance[time] = np.clip(np.floor(exact + 0.5), 1, 65535)
    return Observations(reflectance, clear, days)


def bumps(height: int, width: int, size: float, random: np.random.Generator) -> np.ndarray:
    """Return a smooth random surface [y, x], float32, unit variance, bumps of `size` pixels."""
    noise = random.standard_normal((height, width), dtype=np.float32)
    surface = gaussian_filter(noise, size, mode="wrap")
    return surface / surface.std()


def land_cover(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Return the row of `SPECTRA` of each pixel [y, x]: patches of some pixels."""
    return np.argmax([bumps(height, width, 6, random) for _ in SPECTRA], axis=0)


def ground(cover: np.ndarray, day: int, random: np.random.Generator) -> np.ndarray:
    """Return the reflectance [band, y, x] of one day: season, texture, noise of the sensor."""
    green = 0.5 - 0.5 * np.cos(2 * np.pi * (day - 15) / 365)
    spectra = SPECTRA.copy()
    spectra[:3, 4:8] *= 0.55 + 0.45 * green
    spectra[:3, 2] *= 1.6 - 0.6 * green
    mean = np.moveaxis(spectra[cover], -1, 0)
    texture = 1 + 0.06 * bumps(*cover.shape, 1, random)
    noise = random.standard_normal(mean.shape, dtype=np.float32)
    return mean * texture + (10 + 0.03 * mean) * noise


def sky(
    times: int, height: int, width: int, missing: float, random: np.random.Generator
) -> np.ndarray:
    """Return where no cloud is detected, bool [time, y, x]; cloudy and fine days take turns."""
    share = np.clip(missing + random.permutation(np.linspace(-0.35, 0.35, times)), 0, 1)
    clear = np.ones((times, height, width), bool)
    for time in range(times if missing > 0 else 0):
        thickness = bumps(height, width, 12, random)
        clear[time] = thickness < np.quantile(thickness, 1 - share[time])
    clear[:LEAST] |= clear.sum(axis=0) < LEAST
    return clear


def haze(clear: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return what clouds add [y, x]: thick where detected, thin in 2 of 100 places elsewhere."""
    thin = bumps(*clear.shape, 4, random) > 2.05
    return np.where(clear, 0.15 * CLOUD * thin, CLOUD + 500 * bumps(*clear.shape, 3, random))
