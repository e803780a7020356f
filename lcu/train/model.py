"""The trained model on disk: ``model/model.pt`` holds tensors only, ``model/model.json`` the rest."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcu import store
from lcu.disk import sync, writing
from lcu.train import forest, networks, svm
from lcu.train.layers import Network
from lcu.train.series import Windows, standardised

# Prediction from features float32 [sample, feature]: probabilities float32 [sample, class].
YEARLY = {"svm": svm.predict, "svm-ensemble": svm.predict_ensemble, "random-forest": forest.predict}


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes
    ----------
    about : dict
        Architecture, bands, periods, legend, classes, configuration, versions and scores.
    tensors : dict
        ``{year}.{name}`` -> tensor for a model that has one part a year; the network's own names, with
        ``mean`` and ``scale`` [band], otherwise.
    """

    about: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def fingerprint(self) -> str:
        """What the model was made from."""
        return self.about["fingerprint"]

    @property
    def years(self) -> list[int]:
        """Years that it was trained on."""
        return list(self.about["years"])

    @property
    def reads_gaps(self) -> bool:
        """Whether it takes series as they are, and not gap-filled."""
        return self.about.get("series") == "masked"

    @property
    def carries(self) -> bool:
        """Whether its answer for a year depends on the other years that are read with it."""
        return bool(self.about.get("architecture", {}).get("shape", {}).get("carry"))

    def predict(self, years: Sequence[int], windows: Windows) -> np.ndarray:
        """Return class probabilities.

        Parameters
        ----------
        years : sequence of int
            The years of the windows. Where a model has one part a year, the nearest is taken.
        windows : Windows
            [sample, year, time(, band)]; gap-filled unless `reads_gaps`.

        Returns
        -------
        ndarray[sample, year, class], float32
            In the order of the legend; 0 for classes that the model does not know.
        """
        values = [entry["value"] for entry in self.about["legend"]]
        probability = np.zeros((len(windows), len(years), len(values)), np.float32)
        with torch.inference_mode():
            if "architecture" in self.about:
                columns = [values.index(value) for value in self.about["classes"]]
                probability[:, :, columns] = self._scores(windows)
                return probability
            for position, year in enumerate(years):
                own = self._of_year(nearest(self.years, year))
                features = torch.from_numpy(svm.features(windows.values[:, position]))
                columns = [values.index(value) for value in own["classes"].tolist()]
                probability[:, position, columns] = YEARLY[self.about["model"]](own, features)
        return probability

    def _scores(self, windows: Windows) -> np.ndarray:
        network = self.network
        device = self.normalisation[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores = network(*standardised(windows, *self.normalisation))
        return scores.float().softmax(-1).cpu().numpy()

    @cached_property
    def network(self) -> Network:
        """The network, ready to predict, on the GPU where there is one."""
        network = networks.build(self.about["architecture"])
        own = {name: value for name, value in self.tensors.items() if name not in ("mean", "scale")}
        network.load_state_dict(own)
        return network.to(self.normalisation[0].device).eval().requires_grad_(False)

    @cached_property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each band, float32 [band]."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return self.tensors["mean"].to(device), self.tensors["scale"].to(device)

    def _of_year(self, year: int) -> dict[str, torch.Tensor]:
        prefix = f"{year}."
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }


def nearest(years: Sequence[int], year: int) -> int:
    """Return the trained year that is nearest to `year`; the earlier of two."""
    return min(years, key=lambda trained: (abs(trained - year), trained))


def write_tensors(path: Path, content: Any) -> None:
    """Write tensors, and plain values around them, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with writing(path):
        store.temporary(path).write_bytes(buffer.getvalue())
        sync(store.temporary(path))
        os.replace(store.temporary(path), path)


def save(model: Model, directory: Path) -> None:
    """Write a model; the JSON file comes last, so that it vouches for the tensors."""
    folder = directory / "model"
    path = folder / "model.pt"
    write_tensors(path, model.tensors)
    store.write_json(folder / "model.json", model.about | {"tensors": store.file_fingerprint(path)})


def is_whole(directory: Path, mark: str) -> bool:
    """Tell whether a run has the model with a fingerprint, and both parts of it belong together."""
    folder = directory / "model"
    if not (folder / "model.json").exists() or not (folder / "model.pt").exists():
        return False
    about = store.read_json(folder / "model.json", "train")
    tensors = store.file_fingerprint(folder / "model.pt")
    return (about.get("fingerprint"), about.get("tensors")) == (mark, tensors)


def load(directory: Path) -> Model:
    """Read the model of a run; StoreError where it is missing or its parts do not belong together."""
    folder = directory / "model"
    about = store.read_json(folder / "model.json", "train")
    path = folder / "model.pt"
    if not path.exists() or store.file_fingerprint(path) != about["tensors"]:
        raise store.StoreError(
            f"{path} is missing or not the one that model.json describes; run `train` again"
        )
    return Model(about, torch.load(path, weights_only=True))
