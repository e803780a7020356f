"""The shell of the training stage: reads the samples, trains what the configuration names, writes the model."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

import lcu
from lcu import deadline, store
from lcu.config import Config, provenance
from lcu.legend import NODATA
from lcu.ranks import on_root, together
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING
from lcu.train import checkpoint, deep, update, yearly
from lcu.train import model as models
from lcu.train.loop import TrainError
from lcu.train.splice import with_spliced
from lcu.train.stable import stable_samples

log = logging.getLogger(__name__)

# Folder of the model whose maps of single years show what is stable.
FIRST = "first"

# Fewest samples with which a class can be learned and held out.
FEWEST_SAMPLES = 4


def run(config: Config, comm: MPI.Comm, report: Any) -> str:
    """Train the model, or take that of another run, unless the right one is there; return what was done."""
    if config.train.from_model:
        about = on_root(comm, "taking a model of another run", _take, config)
        return f"{summary(about)}; taken from {config.train.from_model}"
    samples = on_root(comm, "reading the samples", Samples.read, config.directory)
    folder = config.directory / "model"
    if config.classify.strategy == "multi-year":
        yearly_config = replace(config, classify=replace(config.classify, strategy="yearly"))
        first = _trained(yearly_config, comm, samples, folder / FIRST, report)
        samples = stable_samples(yearly_config, comm, samples, first, report)
    return summary(_trained(config, comm, samples, folder, report).about)


def _trained(
    config: Config, comm: MPI.Comm, samples: Samples, folder: Path, report: Any
) -> models.Model:
    """Train a model unless the right one is in the folder; return it on every rank."""
    table, strategy = config.table(), config.classify.strategy
    keys = {name: value for name, value in table["train"].items() if name != "distributed"}
    cut = [config.window, config.step] if strategy == "shifted-window" else []
    former = None
    if config.train.update == "fine-tune":
        former = on_root(comm, "looking for a former model", update.former_model, folder, samples)
    if former is None:
        for name in ("update", "fade", "replay"):
            del keys[name]
    changes = config.legend.transition_matrix().tolist() if config.train.spliced else []
    mark = store.fingerprint(
        "model 4", keys, table["run"]["seed"], samples.fingerprint, strategy, cut,
        former and former.fingerprint, changes,
    )  # fmt: skip
    if not on_root(comm, "looking for a model", models.is_whole, folder, mark):
        _train(config, comm, samples, folder, former, mark, report)
    return on_root(comm, "reading the model", models.read, folder)


def summary(about: dict[str, Any]) -> str:
    """Say in a line what the model is and how it does on the test samples."""
    scores = ", ".join(
        f"{years} {share:.3f}" if (share := entry["test_agreement"]) is not None else f"{years} -"
        for years, entry in about["scores"].items()
    )
    text = f"{about['model']}, agreement with the old map on test polygons: {scores}"
    if "former" in about:
        before, after = (_macro_f1(about["known_years"][when]) for when in ("before", "after"))
        text += f"; went on from the former model: macro F1 of the years it knew {before} before, {after} after"
    left_out = [
        entry["name"] for entry in about["legend"] if entry["value"] not in about["classes"]
    ]
    return text + (
        f"; classes without enough samples, never predicted: {', '.join(left_out)}"
        if left_out
        else ""
    )


def _macro_f1(scores: dict[str, dict[str, float]]) -> str:
    return f"{np.mean([entry['f1'] for entry in scores.values()]):.3f}" if scores else "-"


def _train(
    config: Config, comm: MPI.Comm, samples: Samples, folder: Path, former: models.Model | None, mark: str,
    report: Any,
) -> None:  # fmt: skip
    with together(comm, "looking at the samples"):
        classes = learnable(samples, is_network=config.train.is_network)
        if len(classes) < 2:
            raise TrainError(
                f"{len(classes)} class has at least {FEWEST_SAMPLES} samples; a model needs two. Look at "
                "what the sample stage kept (sample.erosion, sample.per_class, sample.legend)"
            )
        about = _about(config, samples, mark)
        if former is not None:
            same = ("model", "strategy", "bands", "window", "legend")
            update.check(former, {name: about[name] for name in same}, classes)
            classes = former.about["classes"]
            about["former"] = former.fingerprint
        samples = with_spliced(config, samples, classes)
    if config.train.is_network:
        own, tensors = deep.train(config, comm, samples, classes, folder, former, mark, report)
    else:
        own, tensors = yearly.train(config, comm, samples, classes, report)
    about |= {"classes": classes} | own
    on_root(comm, "writing the model", models.save, models.Model(about, tensors), folder)
    on_root(comm, "removing checkpoints", checkpoint.forget, folder)
    deadline.made()


def learnable(samples: Samples, *, is_network: bool) -> list[int]:
    """Return the class values that have enough samples to be learned, ascending.

    Networks learn from the training samples alone: the validation samples end their training.
    """
    split = samples.split
    used = samples.label[split == TRAINING if is_network else split != TEST]
    values = np.unique(used[used != NODATA])
    return [int(v) for v in values if (used == v).any(axis=1).sum() >= FEWEST_SAMPLES]


def _about(config: Config, samples: Samples, mark: str) -> dict[str, Any]:
    return {
        "model": config.train.model,
        "strategy": config.classify.strategy,
        "fingerprint": mark,
        "bands": list(config.composite.bands),
        "periods": [f"{period.start}/{period.end}" for period in config.periods],
        "window": _window(config),
        "reads_days": config.reads_days,
        "legend": [
            {"value": entry.value, "name": entry.name, "colour": entry.colour}
            for entry in config.legend.classes
        ],
        "samples": samples.fingerprint,
        "made_from": dict(zip(map(str, samples.years), samples.made_from, strict=True)),
        "configuration": provenance(config),
        "versions": {
            "lcu": lcu.__version__,
            "scikit-learn": version("scikit-learn"),
            "torch": torch.__version__,
        },
    }


def _window(config: Config) -> int:
    """Return the number of periods, or acquisitions, that a model reads of a year, or of a shifted window."""
    if config.classify.strategy == "shifted-window":
        return config.window
    place = config.times_of if config.reads_days else config.window_of
    return len(place(config.archive.years[0]))


# --- a model of another run -----------------------------------------------------------------------


def _take(config: Config) -> dict[str, Any]:
    """Copy the model of the run directory `train.from_model` into this run; return what it is."""
    source = models.load(Path(config.train.from_model))
    for name, wanted in (
        ("reads_days", config.reads_days),
        ("bands", list(config.composite.bands)),
        ("legend", [(entry.value, entry.name) for entry in config.legend.classes]),
        ("window", _window(config)),
        ("strategy", config.classify.strategy),
    ):
        found = source.about.get(name, False)
        found = [(entry["value"], entry["name"]) for entry in found] if name == "legend" else found
        if found != wanted:
            raise TrainError(
                f"train.from_model {config.train.from_model}: it was trained with {_WORDS[name]} {found}, this "
                f"run has {wanted}; they must match, or train a model of this run"
            )
    mark = store.fingerprint("model 2 from", source.fingerprint, source.about["tensors"])
    about = source.about | {"fingerprint": mark}
    folder = config.directory / "model"
    if not models.is_whole(folder, mark):
        models.save(models.Model(about, source.tensors), folder)
    return about


_WORDS = {
    "reads_days": "train.series masked on composite.method acquisitions:",
    "bands": "the bands", "legend": "the legend", "window": "this many times a year:",
    "strategy": "classify.strategy",
}  # fmt: skip
