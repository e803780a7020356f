"""Going on from a former model when a year or acquisitions were added, without forgetting what it knew.

What is new counts in full. Of the years that the former model knew some examples are replayed, and weigh the less the
older they are: exp(-age / train.fade), age in years before the newest. The former model lies in the folder
``former`` beside the one that came of it, so that the same command gives the same model again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcu.config import Train
from lcu.sample import Samples
from lcu.train import model as models
from lcu.train.loop import TrainError
from lcu.train.model import Model
from lcu.train.series import Cut

NAME = "former"

# Learning rate against that of a training from the start: what was learned is to be corrected, not replaced.
GENTLE = 0.25


def former_model(folder: Path, samples: Samples) -> Model | None:
    """Return the model to go on from, and keep it in ``former``; None where there is none.

    It is the model in `folder` where that was made from other samples, else the one that it came of.
    """
    if not (folder / "model.json").exists():
        return None
    present = models.read(folder)
    if present.about["samples"] != samples.fingerprint:
        models.save(present, folder / NAME)
        return present
    return models.read(folder / NAME) if "former" in present.about else None


def check(former: Model, wanted: dict[str, Any], classes: Sequence[int]) -> None:
    """Refuse a former model that is another than `wanted` (parts of model.json), or does not know all classes."""
    for name, value in wanted.items():
        if former.about[name] != value:
            raise TrainError(
                f"train.update is fine-tune, but the {name} of the former model is {former.about[name]} and that of "
                f'this run {value}; set train.update = "retrain"'
            )
    unknown = sorted(set(classes) - set(former.about["classes"]))
    if unknown:
        raise TrainError(
            f"train.update is fine-tune, but the former model does not know the classes {unknown}, which have enough "
            'samples now; set train.update = "retrain"'
        )


def gentle(train: Train) -> Train:
    """Return the settings with a lower learning rate."""
    return replace(train, learning_rate=train.learning_rate * GENTLE)


def fresh_years(former: Model, samples: Samples) -> list[int]:
    """Return the years whose composites the former model did not learn from; all where it knew all of them."""
    known = former.about["made_from"]
    made = zip(samples.years, samples.made_from, strict=True)
    return [year for year, mark in made if known.get(str(year)) != mark] or list(samples.years)


def faded(years: Sequence[int], fresh: Sequence[int], fade: float) -> np.ndarray:
    """Return what an example of each year counts, float32 [year]: 1 where it is fresh."""
    age = max(fresh) - np.array(years)
    factor = np.where(np.isin(years, fresh), 1.0, np.exp(-np.maximum(age, 0) / fade))
    return factor.astype(np.float32)


def replayed(
    labelled: np.ndarray, years: Sequence[int], fresh: Sequence[int], replay: float, seed: int
) -> np.ndarray:
    """Tell which labelled examples are learned from, bool [sample, year].

    All of the fresh years; of the others a random choice, `replay` for each fresh one.
    """
    new = np.isin(years, fresh)
    chance = np.random.default_rng(seed).random(labelled.shape)
    chance[~labelled | new] = np.inf
    count = min(int(replay * labelled[:, new].sum()), int(np.isfinite(chance).sum()))
    chosen = labelled & new
    chosen.flat[np.argsort(chance, axis=None, kind="stable")[:count]] = True
    return chosen


def newest_years(cut: Cut) -> list[int]:
    """Return the newest year that each window reaches into."""
    if cut.shares is None:
        return list(cut.years)
    return [int(max(np.array(cut.years)[own > 0])) for own in cut.shares.T]


def class_scores(matrix: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return user's and producer's accuracy and F1 of each class that occurs, of counts [map, reference]."""
    right, mapped, reference = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    return {
        name: {
            "users": float(right[k] / mapped[k]) if mapped[k] else None,
            "producers": float(right[k] / reference[k]),
            "f1": float(2 * right[k] / (mapped[k] + reference[k])),
        }
        for k, name in enumerate(names)
        if reference[k]
    }


def weights_of(former: Model) -> dict[str, torch.Tensor]:
    """Return the weights of the former network."""
    return {name: value for name, value in former.tensors.items() if name not in ("mean", "scale")}
