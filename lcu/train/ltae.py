"""Lightweight temporal attention encoder (Garnot and Landrieu 2020, AALTD)."""

from __future__ import annotations

import torch
from torch import nn

from lcu.train.layers import BatchNorm, Network, Tensor, encoding

KEY = 8  # width of keys and queries


class LTAE(Network):
    """One learned query a head, each head on its own share of the channels; then dense layers.

    Parameters
    ----------
    hidden, heads : int
        Channels, and heads among which they are split.
    layers : int
        Dense layers after the attention, half as wide each as the one before.
    position : str
        How a time is encoded: "day" of the year, "index" in the series, or "none".
    """

    def __init__(
        self, bands: int, classes: int, *, hidden: int, layers: int, heads: int, dropout: float, position: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.position, self.heads = position, heads
        self.embed = nn.Sequential(nn.Linear(bands, hidden), nn.LayerNorm(hidden))
        self.keys = nn.Linear(hidden, heads * KEY)
        self.query = nn.Parameter(torch.randn(heads, KEY) * (2 / KEY) ** 0.5)
        self.drop = nn.Dropout(dropout)
        widths = [max(hidden >> depth, 16) for depth in range(layers + 1)]
        dense: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            dense += [nn.Linear(before, after), BatchNorm(after), nn.ReLU(), nn.Dropout(dropout)]
        self.dense, self.head = nn.Sequential(*dense), nn.Linear(widths[-1], classes)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class]."""
        tokens = self.embed(values)
        share = tokens.shape[-1] // self.heads
        code = encoding(day, share, self.position).to(tokens.dtype)
        tokens = tokens + code.repeat(1, 1, self.heads)
        keys = self.keys(tokens).unflatten(-1, (self.heads, KEY))
        weight = torch.einsum("nthk,hk->nht", keys, self.query.to(keys.dtype)) / KEY**0.5
        weight = weight.masked_fill(~observed[:, None], -torch.inf)
        weight = self.drop(weight.softmax(-1))
        parts = torch.einsum("nht,nthc->nhc", weight, tokens.unflatten(-1, (self.heads, share)))
        return self.head(self.dense(parts.flatten(1)))
