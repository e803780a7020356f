"""What several networks share: the interface, the encoding of dates, batch normalisation over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

Tensor = torch.Tensor

# Longest wave of the encoding, over 2 pi, in days or positions (Garnot and Landrieu 2020).
LONGEST = 1000.0


class Network(nn.Module):
    """Series in, class scores out: the interface of all networks.

    ``forward(values, observed, day)`` takes standardised reflectance float [sample, year, time, band], what
    was observed bool [sample, year, time] and days since 1 January of the year float [sample, year, time];
    it returns scores float [sample, year, class]. A network that reads one year at a time has `read`, which
    takes the same without the axis `year`. `head` is its last layer.
    """

    head: nn.Linear
    # Pixels beyond a sample's own that it looks at, on each side: its series are [..., band, y, x] then.
    reach = 0

    def forward(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Read every year by itself."""
        shape = values.shape[:2]
        scores = self.read(values.flatten(0, 1), observed.flatten(0, 1), day.flatten(0, 1))
        return scores.unflatten(0, shape)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class] of series [series, time, band]."""
        raise NotImplementedError


def encoding(day: Tensor, width: int, position: str) -> Tensor:
    """Return sines and cosines of the time, [series, time, width], in the dtype of `day`.

    PE(t)[i] = sin or cos(t / 1000^(2 floor(i / 2) / width)), Vaswani et al. 2017 (NeurIPS) with the period of
    Garnot and Landrieu 2020 (AALTD); t is the day, or the place in the series, or nothing.
    """
    if position == "none":
        return day.new_zeros(*day.shape, width)
    when = (
        day if position == "day" else torch.arange(day.shape[1], device=day.device).expand_as(day)
    )
    index = torch.arange(width, device=day.device)
    waves = LONGEST ** (2 * (index // 2).to(day.dtype) / width)
    phase = when.to(day.dtype)[..., None] / waves
    return torch.where(index % 2 == 0, phase.sin(), phase.cos())


def with_context(values: Tensor, observed: Tensor, day: Tensor, position: str) -> Tensor:
    """Return [series, time, band + 3]: values, whether observed, and the season as sine and cosine.

    For networks that know the order of a series by themselves; without `position` "day" the season is 0.
    """
    phase = day * (2 * math.pi / 365.25)
    season = torch.stack([phase.sin(), phase.cos()], -1)
    if position != "day":
        season = torch.zeros_like(season)
    return torch.cat([values, observed[..., None].to(values.dtype), season.to(values.dtype)], -1)


def largest(values: Tensor, observed: Tensor) -> Tensor:
    """Return the maximum over the observed times: [..., time, channel] -> [..., channel]."""
    return values.masked_fill(~observed[..., None], -torch.inf).amax(dim=-2)


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx, values: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ANN001
        ctx.add = add
        return add(values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        return ctx.add(gradient), None


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the batches of all ranks, as of one (Ioffe and Szegedy 2015, ICML).

    torch's and Horovod's own take CUDA tensors only. `add` sums a tensor over the ranks; the training
    loop sets it, and leaves None where there is one rank.
    """

    add: Callable[[Tensor], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel of [row, channel]; times are rows too."""
        if self.add is None or not self.training:
            return super().forward(values)
        local = torch.cat([values.sum(0), values.new_full((1,), len(values))])
        total = _SumOverRanks.apply(local, self.add)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean
        variance = _SumOverRanks.apply((centred * centred).sum(0), self.add) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
