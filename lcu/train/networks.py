"""The networks by name, their usual shapes, and how to build one from its description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lcu.config import Train
from lcu.train.convlstm import ConvLSTM
from lcu.train.layers import Network
from lcu.train.lstm import LSTM
from lcu.train.ltae import LTAE
from lcu.train.tempcnn import TempCNN
from lcu.train.transformer import Transformer

NETWORKS: dict[str, type[Network]] = {
    "lstm": LSTM, "transformer": Transformer, "tempcnn": TempCNN, "ltae": LTAE,
    "convlstm": ConvLSTM,
}  # fmt: skip

# What a network has where the configuration names nothing: small enough for two cores, and near the
# published shapes (L-TAE has half the channels, LSTM and transformer have two layers instead of four and five).
USUAL: dict[str, dict[str, Any]] = {
    "lstm": {"hidden": 64, "layers": 2, "dropout": 0.2},
    "transformer": {"hidden": 64, "layers": 2, "heads": 4, "dropout": 0.1},
    "tempcnn": {"hidden": 64, "layers": 3, "dropout": 0.3},
    "ltae": {"hidden": 128, "layers": 2, "heads": 16, "dropout": 0.1},
    "convlstm": {"hidden": 32, "layers": 1, "dropout": 0.2},
}
USUAL_RATE = {"lstm": 2e-3, "transformer": 1e-3, "tempcnn": 1e-3, "ltae": 2e-3, "convlstm": 2e-3}


def with_rate(train: Train) -> Train:
    """Return the settings with the model's usual learning rate, where none is given."""
    if train.learning_rate is not None:
        return train
    return replace(train, learning_rate=USUAL_RATE[train.model])


def shape_of(train: Train) -> dict[str, Any]:
    """Return width, depth and the like: what is usual for the model where nothing is given."""
    given = {name: getattr(train, name) for name in USUAL[train.model]}
    return USUAL[train.model] | {name: value for name, value in given.items() if value is not None}


def describe(train: Train, bands: int, times: int, classes: int) -> dict[str, Any]:
    """Return everything that `build` needs, as plain values."""
    shape = shape_of(train)
    shape["position"] = train.position
    if train.model == "lstm":
        shape |= {"bidirectional": train.bidirectional, "carry": train.carry_state}
    if train.model == "tempcnn":
        shape["times"] = times
    return {"network": train.model, "bands": bands, "classes": classes, "shape": shape}


def build(description: dict[str, Any]) -> Network:
    """Return the network that `describe` described, with random weights."""
    kind = NETWORKS[description["network"]]
    return kind(description["bands"], description["classes"], **description["shape"])


def parameters(network: Network) -> int:
    """Return how many numbers a network has to learn."""
    return sum(part.numel() for part in network.parameters())
