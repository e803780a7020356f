"""Convolutional LSTM on the patch around a pixel (Shi et al. 2015, NeurIPS), without its peepholes."""

from __future__ import annotations

import torch
from torch import nn

from lcu.store import PATCH_SIDE
from lcu.train.layers import Network, Tensor, largest, with_context

KERNEL = 3


class _Cell(nn.Module):
    """One layer: gates are convolutions of what is read and of the state; the patch keeps its size."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(channels, 4 * hidden, KERNEL, padding=KERNEL // 2)
        self.keep = nn.Conv2d(hidden, 4 * hidden, KERNEL, padding=KERNEL // 2, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs [series, time, hidden, y, x] of values [series, time, channel, y, x]."""
        # What is read does not depend on the state: all times in one convolution.
        gates = self.read(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        outputs: list[Tensor] = []
        memory: Tensor | None = None
        for time in range(values.shape[1]):
            now = gates[:, time] + self.keep(outputs[-1]) if outputs else gates[:, time]
            new, write, forget, show = now.chunk(4, dim=1)
            fresh = write.sigmoid() * new.tanh()
            memory = fresh if memory is None else (forget + 1).sigmoid() * memory + fresh
            outputs.append(show.sigmoid() * memory.tanh())
        return torch.stack(outputs, dim=1)


class ConvLSTM(Network):
    """Stacked ConvLSTM; the largest outputs of the pixel in the middle give its scores.

    The series that it reads are float [..., time, band, 5, 5]; what is 0 there was not observed or lies outside
    the tile. The state beyond the patch is taken as 0, in training as on maps, where every pixel has a patch of
    its own. The forget gate starts open (Jozefowicz et al. 2015, ICML).

    Parameters
    ----------
    hidden, layers : int
        Channels and number of the layers.
    """

    reach = PATCH_SIDE // 2

    def __init__(
        self, bands: int, classes: int, *, hidden: int, layers: int, dropout: float, position: str
    ) -> None:  # fmt: skip
        super().__init__()
        self.position = position
        self.cells = nn.Sequential(
            *(_Cell(hidden if layer else bands + 3, hidden) for layer in range(layers))
        )
        self.norm, self.drop = nn.LayerNorm(hidden), nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def read(self, values: Tensor, observed: Tensor, day: Tensor) -> Tensor:
        """Return scores [series, class]."""
        pixels = values.movedim(2, -1)  # [series, time, y, x, band], as `with_context` takes them
        square = pixels.shape[2:4]
        around = [part[..., None, None].expand(*part.shape, *square) for part in (observed, day)]
        outputs = self.cells(with_context(pixels, *around, self.position).movedim(-1, 2))
        middle = outputs[..., square[0] // 2, square[1] // 2]
        return self.head(self.drop(self.norm(largest(middle, observed))))
