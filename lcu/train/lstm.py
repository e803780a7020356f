"""LSTM on series (Hochreiter and Schmidhuber 1997; for land cover Russwurm and Koerner 2017, CVPRW)."""

from __future__ import annotations

from torch import nn

from lcu.train.layers import Network, Tensor, largest, with_context


class LSTM(Network):
    """Stacked LSTM; the largest of a year's outputs, channel by channel, gives the scores of the year.

    Parameters
    ----------
    hidden, layers : int
        Width and number of the LSTM's layers.
    bidirectional : bool
        Read forward and backward, `hidden` wide each.
    carry : bool
        Read all years of a pixel in one go, the state going on from one into the next.
    """

    def __init__(
        self, bands: int, classes: int, *, hidden: int, layers: int, dropout: float, position: str,
        bidirectional: bool, carry: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.position, self.carry = position, carry
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(
            bands + 3,
            hidden,
            layers,
            batch_first=True,
            dropout=between,
            bidirectional=bidirectional,
        )
        width = hidden * (2 if bidirectional else 1)
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [sample, year, class]."""
        if not self.carry:
            return super().forward(values, observed, day)
        years = values.shape[1]
        read = with_context(
            values.flatten(1, 2), observed.flatten(1, 2), day.flatten(1, 2), self.position
        )
        outputs = self.lstm(read)[0].unflatten(1, (years, -1))
        return self._scores(outputs, observed)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class]."""
        outputs = self.lstm(with_context(values, observed, day, self.position))[0]
        return self._scores(outputs, observed)

    def _scores(self, outputs: Tensor, observed: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(largest(outputs, observed))))
