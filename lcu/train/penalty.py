"""The penalty on change: scores may differ between years as far as the series does. Tensors only.

sum over samples and pairs of successive years of w g |p(y) - p(y - 1)|^2, with p the class probabilities, w the
weight of the sample, and g = exp(-d / s): d is the mean squared difference of the two years' standardised series,
s its median over all pairs. A pair whose series moved several times as much as usual costs next to nothing.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def difference(values: Tensor, observed: Tensor) -> Tensor:
    """Return how far the series of successive years lie apart.

    Parameters
    ----------
    values : Tensor[example, year, time, band] or [example, year, time, band, 5, 5], float
        Standardised reflectance.
    observed : Tensor[example, year, time], bool

    Returns
    -------
    Tensor[example, year - 1], float
        Mean squared difference over bands (and the pixels of a patch) and the times that are observed in both
        years; infinite where none is.
    """
    both = observed[:, 1:] & observed[:, :-1]
    squared = ((values[:, 1:] - values[:, :-1]) ** 2).flatten(3).mean(-1)
    count = both.sum(-1)
    mean = (squared * both).sum(-1) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.inf)


def steadiness(values: Tensor, observed: Tensor, weight: Tensor) -> Tensor:
    """Return what the change of scores costs in each pair of successive years, [example, year - 1], float.

    Parameters
    ----------
    values, observed
        As in `difference`.
    weight : Tensor[example, year], float
        0 where not labelled; a pair has the larger weight of its years.
    """
    if values.shape[1] < 2:
        return values.new_zeros(len(values), 0)
    apart = difference(values, observed)
    known = apart.isfinite()
    if not known.any():
        return torch.zeros_like(apart)
    usual = apart[known].median().clamp(min=1e-12)
    return torch.maximum(weight[:, 1:], weight[:, :-1]) * torch.exp(-apart / usual)


def penalty(scores: Tensor, steady: Tensor) -> Tensor:
    """Return the sum over examples and pairs of years of steady x |p(y) - p(y - 1)|^2.

    Parameters
    ----------
    scores : Tensor[example, year, class], float
    steady : Tensor[example, year - 1], float
        As `steadiness` returns it.
    """
    probability = scores.softmax(-1)
    moved = ((probability[:, 1:] - probability[:, :-1]) ** 2).sum(-1)
    return (steady * moved).sum()
