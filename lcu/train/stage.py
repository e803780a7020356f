"""The shell of the training stage: shares the grid search over the ranks and writes the model."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
import torch
from mpi4py import MPI

import lcu
from lcu import store
from lcu.composite import fill_gaps
from lcu.config import Config, provenance
from lcu.grid import positions_of_year
from lcu.legend import NODATA
from lcu.ranks import mine, on_root, together
from lcu.sample import Samples
from lcu.sample.draw import TEST
from lcu.train import model as models
from lcu.train import svm

log = logging.getLogger(__name__)

# Fewest samples and polygons with which a class can be learned and held out.
FEWEST_SAMPLES = 4


# Power of the samples' weights (share of the map over share of the samples).
WEIGHT_POWER = {"balanced": 0.0, "square-root": 0.5, "prior": 1.0}


class TrainError(RuntimeError):
    """Samples from which nothing can be learned."""


def run(config: Config, comm: MPI.Comm, report: Any) -> str:
    """Train one model per mapped year, unless the right one is there; return what was done."""
    samples = on_root(comm, "reading the samples", Samples.read, config.directory)
    mark = store.fingerprint(
        "model 1", config.table()["train"], config.table()["run"]["seed"], samples.fingerprint
    )
    if not on_root(comm, "looking for a model", _is_trained, config, mark):
        _train(config, comm, samples, mark, report)
    about = on_root(comm, "reading the model", models.load, config.directory).about
    return summary(about)


def summary(about: dict[str, Any]) -> str:
    """Say in a line what the model is and how it does on the test samples."""
    scores = ", ".join(
        f"{year} {entry['test_agreement']:.3f}" for year, entry in about["scores"].items()
    )
    text = f"{about['model']}, agreement with the old map on test polygons: {scores}"
    left_out = [
        entry["name"] for entry in about["legend"] if entry["value"] not in about["classes"]
    ]
    return text + (
        f"; classes without enough samples, never predicted: {', '.join(left_out)}"
        if left_out
        else ""
    )


def _is_trained(config: Config, mark: str) -> bool:
    path = config.directory / "model" / "model.json"
    return path.exists() and store.read_json(path, "train").get("fingerprint") == mark


def _train(config: Config, comm: MPI.Comm, samples: Samples, mark: str, report: Any) -> None:
    with together(comm, "preparing the training data"):
        filled = fill_series(samples)
        classes = learnable(samples)
        if len(classes) < 2:
            raise TrainError(
                f"{len(classes)} class has at least {FEWEST_SAMPLES} samples; a model needs two. Look at "
                "what the sample stage kept (sample.erosion, sample.per_class, sample.legend)"
            )
        data = {
            year: year_data(config, samples, filled, year, classes) for year in config.archive.years
        }
        data = {year: both for year, both in data.items() if both is not None}
        if not data:
            raise TrainError(
                f"no year of {list(config.archive.years)} has samples with clear observations"
            )
    best = _search(config, comm, {year: both[0] for year, both in data.items()}, report)
    tensors, scores = _fit_years(config, comm, data, best)
    about = _about(config, samples, mark, classes, sorted(data), scores)
    on_root(comm, "writing the model", models.save, models.Model(about, tensors), config.directory)


def fill_series(samples: Samples) -> np.ndarray:
    """Fill the gaps of the samples' series over all years, uint16 [sample, time, band]."""
    if not len(samples.series):
        return samples.series
    as_raster = np.ascontiguousarray(samples.series.transpose(1, 2, 0))[:, :, None, :]
    filled, _ = fill_gaps(as_raster, samples.day[0])
    return np.ascontiguousarray(filled[:, :, 0, :].transpose(2, 0, 1))


def learnable(samples: Samples) -> list[int]:
    """Return the class values that have enough samples to be learned."""
    used = samples.label[samples.split != TEST]
    first = used.min(
        axis=1, initial=NODATA
    )  # a sample has one label, in every year that it is labelled
    values, counts = np.unique(first[first != NODATA], return_counts=True)
    return [
        int(value) for value, count in zip(values, counts, strict=True) if count >= FEWEST_SAMPLES
    ]


def year_data(
    config: Config, samples: Samples, filled: np.ndarray, year: int, classes: Sequence[int]
) -> tuple[svm.Data, svm.Data] | None:
    """Return what is learned from and what is held out in a year.

    None where fewer than two classes are labelled in that year: it gets no model of its own.
    """
    position = list(samples.years).index(year)
    label = samples.label[:, position]
    usable = np.isin(label, classes) & filled.any(axis=(1, 2))
    inside = positions_of_year(config.periods, year, config.period, config.margin)
    weight = samples.weight ** np.float32(WEIGHT_POWER[config.train.class_weight])
    whole = svm.Data(svm.features(filled[:, inside]), label, samples.polygon, weight)
    learned, held = usable & (samples.split != TEST), usable & (samples.split == TEST)
    if len(np.unique(label[learned])) < 2:
        return None
    return whole.part(learned), whole.part(held)


def _search(
    config: Config, comm: MPI.Comm, data: dict[int, svm.Data], report: Any
) -> dict[int, tuple[float, float]]:
    """Return the best (C, gamma) of each year: every fit of the grid is a unit of work."""
    train = config.train
    grid = list(itertools.product(train.c, train.gamma))
    pairs = {year: svm.folds(part, train.folds, config.run.seed) for year, part in data.items()}
    work = [
        (year, setting, fold)
        for year in data
        for setting in range(len(grid))
        for fold in range(len(pairs[year]))
    ]
    right = np.zeros((len(work), 2))
    own = mine(range(len(work)), comm)
    with together(comm, "searching C and gamma"):
        for done, number in enumerate(own):
            year, setting, fold = work[number]
            right[number] = svm.score(data[year], *grid[setting], pairs[year][fold])
            report(done + 1, len(own), "fits")
    total = np.zeros_like(right)
    comm.Allreduce(right, total)  # each number comes from one rank, so the sum is exact
    best = {}
    for year in data:
        scores = np.zeros((len(grid), 2))
        for (of_year, setting, _), pair in zip(work, total, strict=True):
            if of_year == year:
                scores[setting] += pair
        share = scores[:, 0] / np.maximum(scores[:, 1], 1e-12)
        best[year] = grid[int(np.argmax(share))]
        log.info(
            "%d: C %g, gamma %g / features, cross-validated %.4f", year, *best[year], share.max()
        )
    return best


def _fit_years(
    config: Config,
    comm: MPI.Comm,
    data: dict[int, tuple[svm.Data, svm.Data]],
    best: dict[int, tuple[float, float]],
) -> tuple[svm.Tensors, dict[str, Any]]:
    """Fit every year on one rank; return all tensors and scores on every rank."""
    tensors: svm.Tensors = {}
    scores: dict[str, Any] = {}
    with together(comm, "fitting the models"):
        for year in mine(sorted(data), comm):
            learned, held = data[year]
            fitted = svm.fit(
                learned, *best[year], svm.folds(learned, config.train.folds, config.run.seed)
            )
            tensors |= {f"{year}.{name}": value for name, value in fitted.items()}
            scores[str(year)] = {
                "c": best[year][0],
                "gamma": best[year][1],
                "samples": len(learned.label),
                "test_samples": len(held.label),
                "test_agreement": _agreement(fitted, held),
                "support_vectors": len(fitted["support"]),
            }
    for part, part_scores in comm.allgather((tensors, scores)):
        tensors |= part
        scores |= part_scores
    return dict(sorted(tensors.items())), dict(sorted(scores.items()))


def _agreement(fitted: svm.Tensors, held: svm.Data) -> float:
    """Return the weighted share of held-out samples whose label the model repeats; nan of none."""
    if not len(held.label):
        return float("nan")
    probability = svm.predict(fitted, torch.from_numpy(held.features)).numpy()
    right = fitted["classes"].numpy()[probability.argmax(1)] == held.label
    return float((right * held.weight).sum() / held.weight.sum())


def _about(
    config: Config,
    samples: Samples,
    mark: str,
    classes: Sequence[int],
    years: Sequence[int],
    scores: dict[str, Any],
) -> dict[str, Any]:
    legend = config.legend
    return {
        "model": config.train.model,
        "strategy": config.classify.strategy,
        "fingerprint": mark,
        "years": list(years),
        "bands": list(config.composite.bands),
        "periods": [f"{period.start}/{period.end}" for period in config.periods],
        "classes": [value for value in legend.values.tolist() if value in classes],
        "legend": [
            {"value": entry.value, "name": entry.name, "colour": entry.colour}
            for entry in legend.classes
        ],
        "scores": scores,
        "samples": samples.fingerprint,
        "configuration": provenance(config),
        "versions": {
            "lcu": lcu.__version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
        },
    }
