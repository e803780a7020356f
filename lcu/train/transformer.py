"""Transformer encoder on series (Vaswani et al. 2017; Russwurm and Koerner 2020, ISPRS J. 169)."""

from __future__ import annotations

from torch import nn

from lcu.train.layers import Network, Tensor, encoding, largest


class Transformer(Network):
    """Self-attention over the observed times, then the largest value of each channel over time.

    Parameters
    ----------
    hidden, layers, heads : int
        Width of the model, number of encoder layers, attention heads; the layers' inner width is 2 `hidden`.
    position : str
        How a time is encoded: "day" of the year, "index" in the series, or "none".
    """

    def __init__(
        self, bands: int, classes: int, *, hidden: int, layers: int, heads: int, dropout: float, position: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.position, self.hidden = position, hidden
        self.embed = nn.Sequential(nn.Linear(bands, hidden), nn.LayerNorm(hidden))
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, classes)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class]."""
        tokens = self.embed(values)
        tokens = tokens + encoding(day, self.hidden, self.position).to(tokens.dtype)
        # No mask where all is observed: attention is faster without.
        hidden = None if bool(observed.all()) else ~observed
        tokens = self.encoder(tokens, src_key_padding_mask=hidden)
        return self.head(self.norm(largest(tokens, observed)))
