"""Temporal convolutional network (Pelletier, Webb and Petitjean 2019, Remote Sensing 11)."""

from __future__ import annotations

from torch import nn

from lcu.train.layers import BatchNorm, Network, Tensor, with_context

KERNEL = 5


class _Convolution(nn.Module):
    """Convolution over time, batch normalisation, ReLU, dropout; [series, channel, time] in and out."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(before, after, KERNEL, padding=KERNEL // 2)
        self.norm, self.drop = BatchNorm(after), nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        values = self.convolve(values).transpose(1, 2)
        values = self.norm(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        return self.drop(values.relu()).transpose(1, 2)


class TempCNN(Network):
    """Convolutions over time and a dense layer; series of another length cannot be read.

    Parameters
    ----------
    times : int
        Length of a series.
    hidden, layers : int
        Channels and number of the convolutions; the dense layer is 4 `hidden` wide.
    """

    def __init__(
        self, bands: int, classes: int, *, times: int, hidden: int, layers: int, dropout: float, position: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.position = position
        widths = [bands + 3] + [hidden] * layers
        self.convolutions = nn.Sequential(
            *(_Convolution(widths[i], widths[i + 1], dropout) for i in range(layers))
        )
        self.dense = nn.Sequential(
            nn.Linear(hidden * times, 4 * hidden),
            BatchNorm(4 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(4 * hidden, classes)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class]."""
        channels = with_context(values, observed, day, self.position).transpose(1, 2)
        return self.head(self.dense(self.convolutions(channels).flatten(1)))
