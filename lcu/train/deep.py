"""Networks: from the table of samples to a trained network, with checkpoints that survive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from lcu.config import Config
from lcu.ranks import together
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING, VALIDATION
from lcu.train import checkpoint, distributed, loop, networks
from lcu.train.layers import Network
from lcu.train.loop import Examples, TrainError
from lcu.train.penalty import steadiness
from lcu.train.search import search
from lcu.train.series import Cut, Windows, normalisation, standardised
from lcu.train.yearly import WEIGHT_POWER

# Settings that a search may choose.
SETTINGS = ("learning_rate", "batch")


def train(
    config: Config, comm: MPI.Comm, samples: Samples, classes: Sequence[int], folder: Path, mark: str,
    report: Any,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:  # fmt: skip
    """Return what the network is (architecture, years, scores) and its tensors, on every rank.

    Checkpoints lie in `folder` meanwhile.
    """
    with together(comm, "preparing the training data"):
        parts, years, numbers = prepare(config, samples, classes)
    settings = networks.with_rate(config.train)
    if config.train.search:
        settings = search(config, comm, parts[:2], len(classes), folder, mark, report)
    bands, times = parts[0].values.shape[3], parts[0].values.shape[2]
    description = networks.describe(settings, bands, times, len(classes))
    distribution = distributed.start(config.train.distributed, comm, config.train.compression)
    learned, checked, held = (part.to(distribution.device, torch.float32) for part in parts)
    network, state = checkpoint.fit(
        description, (learned, checked), settings, config.run, comm, distribution,
        folder, mark, report, until=settings.epochs,
    )  # fmt: skip
    scores, matrix = _scores(network, held, years, comm)
    distribution.close()
    about = {
        "architecture": description,
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "series": config.train.series,
        "parameters": networks.parameters(network),
        "normalisation": {name: value.tolist() for name, value in numbers.items()},
        "years": years,
        "scores": scores,
        "epochs": {"done": state.epoch, "best": state.best_epoch, "macro_f1": _plain(state.best)},
        "test_matrix": matrix.tolist(),
        "samples_of_training": len(learned),
    }
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    return about, weights | numbers


# --- what is learned from -------------------------------------------------------------------------


def prepare(
    config: Config, samples: Samples, classes: Sequence[int]
) -> tuple[tuple[Examples, Examples, Examples], list[int], dict[str, torch.Tensor]]:
    """Return training, validation and test examples, the labelled years, and mean and scale [band].

    An example is a sample in one year (or shifted window); a sample in all years where the loss or the network looks
    at several of them (`train.carry_state`, `train.change_penalty`).
    """
    cut = Cut.of(config, config.archive.years)
    series, count = samples.series, samples.count
    if config.train.series == "filled":
        series, count = samples.filled(), None
    windows = cut.windows(series, count, samples.day)
    label = _indices(cut.labels(samples.label), classes)
    label[~samples.series.any(axis=(1, 2))] = -1
    weight = samples.weight ** np.float32(WEIGHT_POWER[config.train.class_weight])
    weight = np.where(label >= 0, weight[:, None], np.float32(0)).astype(np.float32)
    split = samples.split
    if not (config.train.carry_state or config.train.change_penalty):
        split = np.repeat(split, label.shape[1])
        windows, label, weight = _one_by_one(windows), label.reshape(-1, 1), weight.reshape(-1, 1)
    labelled = (label >= 0).any(axis=1)
    chosen = [np.flatnonzero(labelled & (split == part)) for part in (TRAINING, VALIDATION, TEST)]
    if len(np.unique(label[chosen[0]][label[chosen[0]] >= 0])) < 2:
        raise TrainError(
            "fewer than two classes have samples to train on; look at what the sample stage kept "
            "(sample.erosion, sample.per_class, sample.legend)"
        )
    mean, scale = normalisation(_part(windows, chosen[0]))
    examples = tuple(
        _examples(standardised(_part(windows, rows), mean, scale), label[rows], weight[rows])
        for rows in chosen
    )
    known = _indices(samples.label, classes) >= 0
    years = [year for position, year in enumerate(cut.years) if known[:, position].any()]
    return examples, years, {"mean": mean, "scale": scale}


def _examples(
    read: tuple[torch.Tensor, torch.Tensor, torch.Tensor], label: np.ndarray, weight: np.ndarray
) -> Examples:
    values, observed, day = read
    heavy = torch.from_numpy(weight)
    steady = steadiness(values, observed, heavy)
    return Examples(values, observed, day, torch.from_numpy(label), heavy, steady)


def _indices(label: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the place of each class value in `classes`, int64, -1 for others."""
    places = np.full(256, -1, np.int64)
    places[list(classes)] = np.arange(len(classes))
    return places[label]


def _one_by_one(windows: Windows) -> Windows:
    """Make a sample of every year of every sample."""
    parts = (windows.values, windows.observed, windows.day)
    return Windows(*(part.reshape(-1, 1, *part.shape[2:]) for part in parts))


def _part(windows: Windows, rows: np.ndarray) -> Windows:
    return Windows(windows.values[rows], windows.observed[rows], windows.day[rows])


# --- how well -------------------------------------------------------------------------------------


def _scores(
    network: Network, held: Examples, years: Sequence[int], comm: MPI.Comm
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the agreement with the old map on the test samples, and counts [map, reference]."""
    found = loop.predicted(network, held, comm)
    label, weight = held.label.cpu().numpy(), held.weight.cpu().numpy()
    matrix = loop.error_matrix(held.label, found, network.head.out_features)
    right = (found == label) * weight
    share = float(right.sum() / weight.sum()) if weight.sum() else None
    span = f"{years[0]} to {years[-1]}" if len(years) > 1 else str(years[0])
    score = {
        "test_samples": int((label >= 0).sum()),
        "test_agreement": share,
        "test_macro_f1": _plain(loop.macro_f1(matrix)),
    }
    return {span: score}, matrix


def _plain(value: float) -> float | None:
    """Return a number that JSON knows."""
    return value if np.isfinite(value) else None
