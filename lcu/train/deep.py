"""Networks: from the table of samples to a trained network, with checkpoints that survive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from lcu import reliability
from lcu.config import Config
from lcu.legend import NODATA
from lcu.ranks import together
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING, VALIDATION
from lcu.train import checkpoint, distributed, loop, networks, update
from lcu.train.layers import Network
from lcu.train.loop import Examples, TrainError
from lcu.train.model import Model
from lcu.train.penalty import steadiness
from lcu.train.search import search
from lcu.train.series import Cut, Windows, normalisation, standardised
from lcu.train.svm import sharpness
from lcu.train.yearly import WEIGHT_POWER

# Settings that a search may choose.
SETTINGS = ("learning_rate", "batch")


def train(
    config: Config, comm: MPI.Comm, samples: Samples, classes: Sequence[int], folder: Path,
    former: Model | None, mark: str, report: Any,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:  # fmt: skip
    """Return what the network is (architecture, years, scores) and its tensors, on every rank.

    Checkpoints lie in `folder` meanwhile. With a `former` model training goes on from there.
    """
    with together(comm, "preparing the training data"):
        parts, years, numbers = prepare(config, samples, classes, former)
    settings = networks.with_rate(config.train)
    if config.train.search:
        settings = search(config, comm, parts[:2], len(classes), folder, mark, report)
    bands, times = parts[0].values.shape[3], parts[0].values.shape[2]
    description = networks.describe(settings, bands, times, len(classes))
    if former is not None:
        with together(comm, "looking at the former model"):
            update.check(former, {"architecture": description, "series": config.train.series}, [])
        settings = update.gentle(settings)
    distribution = distributed.start(config.train.distributed, comm, config.train.compression)
    learned, checked, held = (part.to(distribution.device, torch.float32) for part in parts)
    network, state = checkpoint.fit(
        description, (learned, checked), settings, config.run, comm, distribution,
        folder, mark, report, until=settings.epochs,
        start=None if former is None else update.weights_of(former),
    )  # fmt: skip
    scores, matrix = _scores(network, held, years, comm)
    calibration = _calibrate(network, checked, held, comm)
    known = {} if former is None else _known_years(config, samples, former, network, comm)
    distribution.close()
    about = {
        "architecture": description,
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "series": config.train.series,
        "parameters": networks.parameters(network),
        "normalisation": {name: value.tolist() for name, value in numbers.items()},
        "years": years,
        "scores": scores,
        **calibration,
        "epochs": {"done": state.epoch, "best": state.best_epoch, "macro_f1": _plain(state.best)},
        "test_matrix": matrix.tolist(),
        "samples_of_training": len(learned),
    } | known
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    return about, weights | numbers


# --- what is learned from -------------------------------------------------------------------------


def prepare(
    config: Config, samples: Samples, classes: Sequence[int], former: Model | None = None
) -> tuple[tuple[Examples, Examples, Examples], list[int], dict[str, torch.Tensor]]:
    """Return training, validation and test examples, the labelled years, and mean and scale [band].

    An example is a sample in one year (or shifted window); a sample in all years where the loss or the network looks
    at several of them (`train.carry_state`, `train.change_penalty`). With a `former` model, mean and scale are its own,
    what it knew counts less, and some of it is replayed (`lcu.train.update`).
    """
    cut, windows, label, weight = _laid_out(config, samples, classes)
    if former is not None:
        newest, fresh = update.newest_years(cut), update.fresh_years(former, samples)
        weight = weight * update.faded(newest, fresh, config.train.fade)
        own = (samples.split == TRAINING)[:, None]
        kept = update.replayed(
            (label >= 0) & own, newest, fresh, config.train.replay, config.run.seed
        )
        label, weight = np.where(own & ~kept, -1, label), np.where(own & ~kept, 0, weight)
    windows, label, weight, split = _apart(config, windows, label, weight, samples.split)
    labelled = (label >= 0).any(axis=1)
    chosen = [np.flatnonzero(labelled & (split == part)) for part in (TRAINING, VALIDATION, TEST)]
    if len(np.unique(label[chosen[0]][label[chosen[0]] >= 0])) < 2:
        raise TrainError(
            "fewer than two classes have samples to train on; look at what the sample stage kept "
            "(sample.erosion, sample.per_class, sample.legend)"
        )
    if former is None:
        mean, scale = normalisation(windows.take(chosen[0]))
    else:
        mean, scale = former.tensors["mean"], former.tensors["scale"]
    examples = tuple(
        _examples(standardised(windows.take(rows), mean, scale), label[rows], weight[rows])
        for rows in chosen
    )
    known = _indices(samples.label, classes) >= 0
    years = [year for position, year in enumerate(cut.years) if known[:, position].any()]
    return examples, years, {"mean": mean, "scale": scale}


def _laid_out(
    config: Config, samples: Samples, classes: Sequence[int]
) -> tuple[Cut, Windows, np.ndarray, np.ndarray]:
    """Return all samples in all years (or shifted windows), with label index [sample, year] and weight."""
    cut = Cut.of(config, config.archive.years)
    filled, patched = config.train.series == "filled", config.train.reads_patches
    if filled:
        windows = cut.windows(samples.filled_patch() if patched else samples.filled())
    else:
        series = samples.patch if patched else samples.series
        windows = cut.windows(series, samples.count, samples.day)
    label = _indices(cut.labels(samples.label), classes)
    label[~samples.series.any(axis=(1, 2))] = -1
    weight = samples.weight ** np.float32(WEIGHT_POWER[config.train.class_weight])
    weight = np.where(label >= 0, weight[:, None], np.float32(0)).astype(np.float32)
    return cut, windows, label, weight


def _apart(
    config: Config, windows: Windows, label: np.ndarray, weight: np.ndarray, split: np.ndarray
) -> tuple[Windows, np.ndarray, np.ndarray, np.ndarray]:
    """Make an example of every year of every sample, where nothing looks at several of them."""
    if config.train.joins_years:
        return windows, label, weight, split
    parts = (windows.values, windows.observed, windows.day)
    single = Windows(*(part.reshape(-1, 1, *part.shape[2:]) for part in parts))
    return single, label.reshape(-1, 1), weight.reshape(-1, 1), np.repeat(split, label.shape[1])


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


def _calibrate(
    network: Network, checked: Examples, held: Examples, comm: MPI.Comm
) -> dict[str, Any]:
    """Return the temperature of the scores, fitted on the validation samples, and what it gains.

    Temperature scaling (Guo et al. 2017, ICML): it leaves the order of the classes as it is. It may only make
    the network less sure: samples were cleaned and are easier than the pixels of a map, so that one that is as
    sure as it is right on them was measured to be too sure on maps (docs/method.md).
    """
    parts = {
        name: _labelled(loop.all_scores(network, part, comm), part)
        for name, part in (("validation", checked), ("test", held))
    }
    fitted = float(1 / sharpness(*parts["validation"]))
    temperature = max(1.0, fitted)
    errors = {
        name: {
            "before": _plain(_calibration_error(scores, index)),
            "after": _plain(_calibration_error(scores / temperature, index)),
        }
        for name, (scores, index, _) in parts.items()
    }
    return {
        "temperature": temperature,
        "fitted_temperature": fitted,
        "expected_calibration_error": errors,
    }


def _labelled(scores: np.ndarray, part: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores [label, class], class index and weight of what is labelled."""
    label, weight = part.label.cpu().numpy(), part.weight.cpu().numpy()
    known = label >= 0
    return scores[known], label[known], weight[known]


def _calibration_error(scores: np.ndarray, index: np.ndarray) -> float:
    probability = torch.from_numpy(scores).softmax(-1).numpy()
    written = np.rint(probability.max(axis=1, initial=0) * reliability.SCALE)
    bins = reliability.count_bins(written, probability.argmax(axis=1) == index)
    return reliability.describe(bins)["expected_calibration_error"]


def _known_years(
    config: Config, samples: Samples, former: Model, network: Network, comm: MPI.Comm
) -> dict[str, Any]:
    """Return how the former and this network do, class by class, on the test samples of years that both know."""
    years = [year for year in samples.years if year not in update.fresh_years(former, samples)]
    label = np.where(np.isin(samples.years, years), samples.label, np.uint8(NODATA))
    classes = former.about["classes"]
    with together(comm, "looking at the years that were known"):
        _, *laid_out = _laid_out(config, replace(samples, label=label), classes)
        windows, index, weight, split = _apart(config, *laid_out, samples.split)
        rows = np.flatnonzero((index >= 0).any(axis=1) & (split == TEST))
        numbers = former.tensors["mean"], former.tensors["scale"]
        held = _examples(standardised(windows.take(rows), *numbers), index[rows], weight[rows])
    held = held.to(next(network.parameters()).device, torch.float32)
    legend = {entry["value"]: entry["name"] for entry in former.about["legend"]}
    names = [legend[value] for value in classes]
    before, after = (
        update.class_scores(
            loop.error_matrix(held.label, loop.predicted(one, held, comm), len(classes)), names
        )
        for one in (former.network, network)
    )
    return {"known_years": {"years": years, "before": before, "after": after}}


def _plain(value: float) -> float | None:
    """Return a number that JSON knows."""
    return value if np.isfinite(value) else None
