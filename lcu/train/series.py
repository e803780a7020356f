"""Series as models read them: cut into the windows of years, with what was observed and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch

from lcu.config import Config
from lcu.grid import day_number, positions_of_year


@dataclass(frozen=True)
class Windows:
    """What is known of some pixels in some years.

    Attributes
    ----------
    values : ndarray[sample, year, time, band] or [sample, year, time, band, 5, 5], uint16
        Reflectance x 10000 of each year's periods, margins included, of the pixel or of the patch around it:
        gap-filled, or 0 where nothing was observed.
    observed : ndarray[sample, year, time], bool
        What a model may look at: everything where the series is gap-filled.
    day : ndarray[sample, year, time], float32
        Days since 1 January of the window's year; negative in the margin before it.
    """

    values: np.ndarray
    observed: np.ndarray
    day: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray | slice) -> Windows:
        """Return some of the pixels."""
        return Windows(self.values[rows], self.observed[rows], self.day[rows])


@dataclass(frozen=True)
class Cut:
    """Where the years lie on the time axis of a run.

    Attributes
    ----------
    years : tuple of int
    positions : ndarray[year, time], int
        The periods of each year, margins included; every year has as many.
    first_day : ndarray[year], int
        1 January, days since 2015-01-01.
    """

    years: tuple[int, ...]
    positions: np.ndarray
    first_day: np.ndarray

    @classmethod
    def of(cls, config: Config, years: Sequence[int]) -> Cut:
        """Return the windows of some of a run's years."""
        positions = [
            positions_of_year(config.periods, year, config.period, config.margin) for year in years
        ]
        return cls(
            tuple(years),
            np.array(positions),
            np.array([day_number(date(year, 1, 1)) for year in years]),
        )

    def windows(self, series: np.ndarray, count: np.ndarray | None, day: np.ndarray) -> Windows:
        """Cut series.

        Parameters
        ----------
        series : ndarray[sample, time, band] or [sample, time, band, 5, 5], uint16
            Over all periods of the run.
        count : ndarray[sample, time], uint8, or None
            Clear observations behind each value; None where the series is gap-filled.
        day : ndarray[sample, time] or [1, time], int32
            Days since 2015-01-01.
        """
        values = series[:, self.positions]
        observed = np.ones(values.shape[:3], bool)
        if count is not None:
            observed = count[:, self.positions] > 0
            # Attention over nothing is no number: a year without observations is read as zeros.
            observed |= ~observed.any(axis=2, keepdims=True)
        own = day[:, self.positions] - self.first_day[:, None]
        return Windows(values, observed, np.broadcast_to(own.astype(np.float32), values.shape[:3]))


def normalisation(windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each band over what was observed, float32 [band].

    One number a band, the same for every time: a year not seen in training is treated like the others.
    """
    own = windows.values
    if own.ndim > 4:
        own = own[..., own.shape[-2] // 2, own.shape[-1] // 2]
    seen = own[windows.observed].astype(np.float64) / 10000
    mean, scale = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-3)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)


def standardised(
    windows: Windows, mean: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a network takes, on the device of `mean`.

    Returns
    -------
    values : Tensor[sample, year, time, band] or [sample, year, time, band, 5, 5], float32
        (reflectance - mean) / scale; 0 where not observed, and in pixels of a patch that have no value.
    observed : Tensor[sample, year, time], bool
    day : Tensor[sample, year, time], float32
    """
    device = mean.device
    observed = torch.from_numpy(windows.observed).to(device)
    values = torch.from_numpy(windows.values.astype(np.float32)).to(device)
    patched = values.ndim > 4
    missing = values == 0 if patched else None
    of_band = (-1, 1, 1) if patched else (-1,)
    values.mul_((1e-4 / scale).reshape(of_band)).sub_((mean / scale).reshape(of_band))
    if not windows.observed.all():
        values.masked_fill_(~observed[(..., *(None for _ in of_band))], 0)
    if patched:
        values.masked_fill_(missing, 0)
    return values, observed, torch.from_numpy(np.ascontiguousarray(windows.day)).to(device)
