"""Series as models read them: cut into the windows of years, with what was observed and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch

from lcu.composite import middles_of
from lcu.config import Config
from lcu.grid import day_number, periods_of_year, stretches
from lcu.legend import NODATA


@dataclass(frozen=True)
class Windows:
    """What is known of some pixels in some years, or in windows that are shifted along them.

    Attributes
    ----------
    values : ndarray[sample, year, time, band] or [sample, year, time, band, 5, 5], uint16
        Reflectance x 10000 of each year's periods, margins included, of the pixel or of the patch around it:
        gap-filled, or 0 where nothing was observed. Of shifted windows, `year` is the window. Time is the acquisitions
        that a pixel has of the year where each has days of its own and the model reads them.
    observed : ndarray[sample, year, time], bool
        What a model may look at: everything where the series is gap-filled.
    day : ndarray[sample, year, time], float32
        Days since 1 January of the window's (first) year; negative in the margin before it, 0 without a day.
    """

    values: np.ndarray
    observed: np.ndarray
    day: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray | slice) -> Windows:
        """Return some of the pixels."""
        return Windows(self.values[rows], self.observed[rows], self.day[rows])

    def only(self, year: int) -> Windows:
        """Return one year (or shifted window) of all samples."""
        one = slice(year, year + 1)
        return Windows(self.values[:, one], self.observed[:, one], self.day[:, one])


@dataclass(frozen=True)
class Cut:
    """Where the years lie on the time axis of a run.

    Attributes
    ----------
    years : tuple of int
    positions : ndarray[window, time], int
        The periods of each year, margins included; every year has as many. Or those of shifted windows. Or the places
        of each year's acquisitions, where the model reads these.
    first_day : ndarray[window], int
        1 January of the window's (first) year, days since 2015-01-01.
    middles : ndarray[period], int32
        Of all periods of the run.
    shares : ndarray[year, window], float32, or None
        What each shifted window counts in a year: the periods that they share, over the sum of all windows.
        None where every year is a window of its own.
    """

    years: tuple[int, ...]
    positions: np.ndarray
    first_day: np.ndarray
    middles: np.ndarray
    shares: np.ndarray | None = None

    @classmethod
    def of(cls, config: Config, years: Sequence[int]) -> Cut:
        """Return the windows of some of a run's years."""
        if config.classify.strategy == "shifted-window":
            return cls._shifted(config, years)
        place = config.times_of if config.reads_days else config.window_of
        positions = [place(year) for year in years]
        return cls(tuple(years), np.array(positions), _new_year(years), middles_of(config.periods))

    @classmethod
    def _shifted(cls, config: Config, years: Sequence[int]) -> Cut:
        """Return the windows that share a period with one of the years.

        They begin at the first period and move by `classify.step`; the last one ends with the series. In a window as
        long as a year the periods stand in the order of the seasons, wherever it begins: what a model learned of
        January is asked of January.
        """
        periods, length = config.periods, config.window
        starts = []
        for stretch in stretches(periods):
            last = stretch[-1] + 1 - length
            starts += [*range(stretch[0], last, config.step), last]
        positions = np.array(starts)[:, None] + np.arange(length)
        first_year = [periods[start].start.year for start in starts]
        season = [(period.start.month, period.start.day) for period in periods]
        if length == len(periods_of_year(years[0], config.period)):
            positions = np.array([sorted(own, key=season.__getitem__) for own in positions])
        year_of = np.array([period.start.year for period in periods])[positions]
        shared = np.stack([(year_of == year).sum(axis=1) for year in years])
        reaching = shared.any(axis=0)
        shared = shared[:, reaching]
        return cls(
            tuple(years),
            positions[reaching],
            _new_year(np.array(first_year)[reaching]),
            middles_of(config.periods),
            (shared / shared.sum(axis=1, keepdims=True)).astype(np.float32),
        )

    def labels(self, label: np.ndarray) -> np.ndarray:
        """Return the labels of the windows, uint8 [sample, window], from those of the years, [sample, year].

        A shifted window has one where all years that it reaches into have the same.
        """
        if self.shares is None:
            return label
        found = np.empty((len(label), len(self.positions)), label.dtype)
        for window, reached in enumerate(self.shares.T > 0):
            own = label[:, reached]
            same = (own == own[:, :1]).all(axis=1)
            found[:, window] = np.where(same, own[:, 0], NODATA)
        return found

    def of_years(self, probability: np.ndarray) -> np.ndarray:
        """Return the probabilities of the years, [sample, year, class], from those of the windows, float32."""
        if self.shares is None:
            return probability
        out = np.zeros((len(probability), len(self.years), probability.shape[2]), np.float32)
        # Window by window in a fixed order: the sums of a matrix product may depend on its shape.
        for year, shares in enumerate(self.shares):
            for window in np.flatnonzero(shares):
                out[:, year] += shares[window] * probability[:, window]
        return out

    def windows(
        self, series: np.ndarray, count: np.ndarray | None = None, day: np.ndarray | None = None
    ) -> Windows:
        """Cut series; without gaps, unless `count` and `day` are given.

        Parameters
        ----------
        series : ndarray[sample, time, band] or [sample, time, band, 5, 5], uint16
            Over all periods, or times, of the run.
        count : ndarray[sample, time], uint8
            Clear observations behind each value.
        day : ndarray[sample, time], int32
            Days since 2015-01-01; 0 = no observation.
        """
        values = series[:, self.positions]
        observed = np.ones(values.shape[:3], bool)
        if count is not None:
            observed = count[:, self.positions] > 0
            # Attention over nothing is no number: a year without observations is read as zeros.
            observed |= ~observed.any(axis=2, keepdims=True)
        when = (self.middles[None] if day is None else day)[:, self.positions]
        own = np.where(when > 0, when - self.first_day[:, None], 0)
        return Windows(values, observed, np.broadcast_to(own.astype(np.float32), values.shape[:3]))


def _new_year(years: Sequence[int]) -> np.ndarray:
    return np.array([day_number(date(int(year), 1, 1)) for year in years])


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
