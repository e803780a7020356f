"""The shell of the training stage: reads the samples, trains what the configuration names, writes the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from mpi4py import MPI

import lcu
from lcu import store
from lcu.config import Config, provenance
from lcu.grid import positions_of_year
from lcu.legend import NODATA
from lcu.ranks import on_root, together
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING
from lcu.train import checkpoint, deep, yearly
from lcu.train import model as models
from lcu.train.loop import TrainError
from lcu.train.networks import NETWORKS

log = logging.getLogger(__name__)

# Fewest samples with which a class can be learned and held out.
FEWEST_SAMPLES = 4


def run(config: Config, comm: MPI.Comm, report: Any) -> str:
    """Train the model, or take that of another run, unless the right one is there; return what was done."""
    if config.train.from_model:
        about = on_root(comm, "taking a model of another run", _take, config)
        return f"{summary(about)}; taken from {config.train.from_model}"
    samples = on_root(comm, "reading the samples", Samples.read, config.directory)
    table = {
        name: value for name, value in config.table()["train"].items() if name != "distributed"
    }
    mark = store.fingerprint("model 2", table, config.table()["run"]["seed"], samples.fingerprint)
    if not on_root(comm, "looking for a model", models.is_whole, config.directory, mark):
        _train(config, comm, samples, mark, report)
    about = on_root(comm, "reading the model", models.load, config.directory).about
    return summary(about)


def summary(about: dict[str, Any]) -> str:
    """Say in a line what the model is and how it does on the test samples."""
    scores = ", ".join(
        f"{years} {share:.3f}" if (share := entry["test_agreement"]) is not None else f"{years} -"
        for years, entry in about["scores"].items()
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


def _train(config: Config, comm: MPI.Comm, samples: Samples, mark: str, report: Any) -> None:
    with together(comm, "looking at the samples"):
        classes = learnable(samples, is_network=config.train.model in NETWORKS)
        if len(classes) < 2:
            raise TrainError(
                f"{len(classes)} class has at least {FEWEST_SAMPLES} samples; a model needs two. Look at "
                "what the sample stage kept (sample.erosion, sample.per_class, sample.legend)"
            )
    if config.train.model in NETWORKS:
        own, tensors = deep.train(config, comm, samples, classes, mark, report)
    else:
        own, tensors = yearly.train(config, comm, samples, classes, report)
    about = _about(config, samples.fingerprint, mark) | {"classes": classes} | own
    on_root(comm, "writing the model", models.save, models.Model(about, tensors), config.directory)
    on_root(comm, "removing checkpoints", checkpoint.forget, config.directory / "model")


def learnable(samples: Samples, *, is_network: bool) -> list[int]:
    """Return the class values that have enough samples to be learned, ascending.

    Networks learn from the training samples alone: the validation samples end their training.
    """
    split = samples.split
    used = samples.label[split == TRAINING if is_network else split != TEST]
    first = used.min(
        axis=1, initial=NODATA
    )  # a sample has one label, in every year that it is labelled
    values, counts = np.unique(first[first != NODATA], return_counts=True)
    return [
        int(value) for value, count in zip(values, counts, strict=True) if count >= FEWEST_SAMPLES
    ]


def _about(config: Config, samples: str, mark: str) -> dict[str, Any]:
    return {
        "model": config.train.model,
        "strategy": config.classify.strategy,
        "fingerprint": mark,
        "bands": list(config.composite.bands),
        "periods": [f"{period.start}/{period.end}" for period in config.periods],
        "window": _window(config),
        "legend": [
            {"value": entry.value, "name": entry.name, "colour": entry.colour}
            for entry in config.legend.classes
        ],
        "samples": samples,
        "configuration": provenance(config),
        "versions": {
            "lcu": lcu.__version__,
            "scikit-learn": sklearn.__version__,
            "torch": torch.__version__,
        },
    }


def _window(config: Config) -> int:
    """Return the number of periods that describe a year."""
    year = config.archive.years[0]
    return len(positions_of_year(config.periods, year, config.period, config.margin))


# --- a model of another run -----------------------------------------------------------------------


def _take(config: Config) -> dict[str, Any]:
    """Copy the model of the run directory `train.from_model` into this run; return what it is."""
    source = models.load(Path(config.train.from_model))
    for name, wanted in (
        ("bands", list(config.composite.bands)),
        ("legend", [(entry.value, entry.name) for entry in config.legend.classes]),
        ("window", _window(config)),
    ):
        found = source.about[name]
        found = [(entry["value"], entry["name"]) for entry in found] if name == "legend" else found
        if found != wanted:
            raise TrainError(
                f"train.from_model {config.train.from_model}: it was trained with {_WORDS[name]} {found}, this "
                f"run has {wanted}; they must match, or train a model of this run"
            )
    mark = store.fingerprint("model 2 from", source.fingerprint, source.about["tensors"])
    about = source.about | {"fingerprint": mark}
    if not models.is_whole(config.directory, mark):
        models.save(models.Model(about, source.tensors), config.directory)
    return about


_WORDS = {"bands": "the bands", "legend": "the legend", "window": "this many periods a year:"}
