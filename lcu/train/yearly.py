"""Models that are fitted (SVM, ensemble of SVMs, random forest): search and fits over the ranks.

They have one part a year, or one for all of them where the strategy wants one model.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from lcu.config import Config
from lcu.deadline import check
from lcu.ranks import mine, together
from lcu.sample import Samples
from lcu.sample.draw import TEST
from lcu.train import forest, svm
from lcu.train.loop import TrainError
from lcu.train.model import YEARLY
from lcu.train.series import Cut

log = logging.getLogger(__name__)

# Power of the samples' weights (share of the map over share of the samples).
WEIGHT_POWER = {"balanced": 0.0, "square-root": 0.5, "prior": 1.0}

# A year, or ALL: what a part of the model is for.
Name = int | str
ALL = "all"

Best = dict[Name, tuple[float, float]]


def train(
    config: Config, comm: MPI.Comm, samples: Samples, classes: Sequence[int], report: Any
) -> tuple[dict[str, Any], svm.Tensors]:
    """Return what the model is (years, scores) and its tensors, on every rank."""
    with together(comm, "preparing the training data"):
        filled = samples.filled()
        if config.classify.strategy == "yearly":
            data = {
                year: year_data(config, samples, filled, year, classes)
                for year in config.archive.years
            }
        else:
            data = {ALL: all_data(config, samples, filled, classes)}
        data = {name: both for name, both in data.items() if both is not None}
        if not data:
            raise TrainError(
                f"no year of {list(config.archive.years)} has samples with clear observations"
            )
    best: Best = {}
    if config.train.model != "random-forest":
        best = _search(config, comm, {year: both[0] for year, both in data.items()}, report)
    parts = _fit(config, comm, {year: both[0] for year, both in data.items()}, best, report)
    tensors, scores = {}, {}
    for year, fitted in parts.items():
        tensors |= {f"{year}.{name}": value for name, value in fitted.items()}
        learned, held = data[year]
        scores[str(year)] = {
            "samples": len(learned.label),
            "test_samples": len(held.label),
            "test_agreement": _agreement(config.train.model, fitted, held),
            **_numbers(fitted, best.get(year)),
        }
    years = list(data) if ALL not in data else labelled_years(samples, classes)
    return {"years": sorted(years), "scores": scores}, dict(sorted(tensors.items()))


def year_data(
    config: Config, samples: Samples, filled: np.ndarray, year: int, classes: Sequence[int]
) -> tuple[svm.Data, svm.Data] | None:
    """Return what is learned from and what is held out in a year.

    None where fewer than two classes are labelled in that year: it gets no model of its own.
    """
    position = list(samples.years).index(year)
    label = samples.label[:, position]
    usable = np.isin(label, classes) & filled.any(axis=(1, 2))
    return _parts(config, samples, filled[:, config.window_of(year)], label, usable)


def all_data(
    config: Config, samples: Samples, filled: np.ndarray, classes: Sequence[int]
) -> tuple[svm.Data, svm.Data] | None:
    """Return the same of one year, or shifted window, of each sample: a random one of those that have a label.

    So one model of all years costs what one of a year does: an SVM's time grows with the square of its samples.
    """
    cut = Cut.of(config, samples.years)
    label = cut.labels(samples.label)
    known = np.isin(label, classes) & filled.any(axis=(1, 2))[:, None]
    random = np.random.default_rng(config.run.seed).random(known.shape)
    chosen = np.where(known, random, -1).argmax(axis=1)
    rows = np.arange(len(label))
    series = filled[rows[:, None], cut.positions[chosen]]
    return _parts(config, samples, series, label[rows, chosen], known.any(axis=1))


def _parts(
    config: Config, samples: Samples, series: np.ndarray, label: np.ndarray, usable: np.ndarray
) -> tuple[svm.Data, svm.Data] | None:
    """Split series [sample, time, band] that are `usable` into what is learned from and what is held out."""
    weight = samples.weight ** np.float32(WEIGHT_POWER[config.train.class_weight])
    whole = svm.Data(svm.features(series), label, samples.polygon, weight)
    learned, held = usable & (samples.split != TEST), usable & (samples.split == TEST)
    if len(np.unique(label[learned])) < 2:
        return None
    return whole.part(learned), whole.part(held)


def labelled_years(samples: Samples, classes: Sequence[int]) -> list[int]:
    """Return the years in which samples of the classes are labelled."""
    known = np.isin(samples.label, classes).any(axis=0)
    return [year for year, any_of in zip(samples.years, known, strict=True) if any_of]


def _search(config: Config, comm: MPI.Comm, data: dict[Name, svm.Data], report: Any) -> Best:
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
            check()
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
            "%s: C %g, gamma %g / features, cross-validated %.4f", year, *best[year], share.max()
        )
    return best


def _fit(
    config: Config, comm: MPI.Comm, data: dict[Name, svm.Data], best: Best, report: Any
) -> dict[Name, svm.Tensors]:
    """Fit every member of every year on one rank; return all years' tensors on every rank."""
    members = config.train.members if config.train.model == "svm-ensemble" else 1
    work = [(year, member) for year in sorted(data) for member in range(members)]
    fitted: dict[tuple[Name, int], svm.Tensors] = {}
    own = mine(work, comm)
    with together(comm, "fitting the models"):
        for done, (year, member) in enumerate(own):
            check()
            fitted[year, member] = _fit_one(config, data[year], member, best.get(year))
            report(done + 1, len(own), "fits")
    for part in comm.allgather(fitted):
        fitted |= part
    if config.train.model == "svm-ensemble":
        return {
            year: svm.ensemble([fitted[year, member] for member in range(members)])
            for year in sorted(data)
        }
    return {year: fitted[year, 0] for year in sorted(data)}


def _fit_one(
    config: Config, data: svm.Data, member: int, best: tuple[float, float] | None
) -> svm.Tensors:
    seed = config.run.seed
    if best is None:
        return forest.fit(data, config.train.trees, seed)
    if config.train.model == "svm-ensemble":
        data = data.part(svm.stratified_draw(data, seed, member))
    return svm.fit(data, *best, svm.folds(data, config.train.folds, seed))


def _numbers(fitted: svm.Tensors, best: tuple[float, float] | None) -> dict[str, Any]:
    """Return the settings that were found and how large the machines are."""
    if best is None:
        return {"nodes": len(fitted["feature"])}
    vectors = sum(len(value) for name, value in fitted.items() if name.endswith("support"))
    return {"c": best[0], "gamma": best[1], "support_vectors": vectors}


def _agreement(model: str, fitted: svm.Tensors, held: svm.Data) -> float:
    """Return the weighted share of held-out samples whose label the model repeats; nan of none."""
    if not len(held.label):
        return float("nan")
    probability = YEARLY[model](fitted, torch.from_numpy(held.features)).numpy()
    right = fitted["classes"].numpy()[probability.argmax(1)] == held.label
    return float((right * held.weight).sum() / held.weight.sum())
