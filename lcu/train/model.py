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

# Patches that are read at once: their states are large.
PATCHES = 512

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
        ``{year}.{name}`` -> tensor for a model that has one part a year, ``all.{name}`` where it has one for all;
        the network's own names, with ``mean`` and ``scale`` [band], otherwise.
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

    @property
    def reach(self) -> int:
        """How many pixels beyond its own it looks at, on each side."""
        architecture = self.about.get("architecture")
        return networks.NETWORKS[architecture["network"]].reach if architecture else 0

    def predict(self, years: Sequence[int], windows: Windows) -> np.ndarray:
        """Return class probabilities.

        Parameters
        ----------
        years : sequence of int
            The years of the windows. Where a model has one part a year, the nearest is taken.
        windows : Windows
            [sample, year, time(, band)], or shifted windows in the place of years; gap-filled unless `reads_gaps`;
            patches where it has a `reach`.

        Returns
        -------
        ndarray[sample, year, class], float32
            In the order of the legend; 0 for classes that the model does not know.
        """
        values = [entry["value"] for entry in self.about["legend"]]
        count = windows.values.shape[1]
        probability = np.zeros((len(windows), count, len(values)), np.float32)
        with torch.inference_mode():
            if "architecture" in self.about:
                columns = [values.index(value) for value in self.about["classes"]]
                # One at a time where they are independent: the shape of the matrix products, and so every bit, must
                # not depend on how many are read.
                parts = [windows] if self.carries else [windows.only(each) for each in range(count)]
                scores = np.concatenate([self._in_pieces(part) for part in parts], axis=1)
                probability[:, :, columns] = scores
                return probability
            for position in range(count):
                own = self._part("all") or self._part(nearest(self.years, years[position]))
                features = torch.from_numpy(svm.features(windows.values[:, position]))
                columns = [values.index(value) for value in own["classes"].tolist()]
                probability[:, position, columns] = YEARLY[self.about["model"]](own, features)
        return probability

    def _in_pieces(self, windows: Windows) -> np.ndarray:
        """Return probabilities [sample, year, class], of patches so many at a time."""
        step = PATCHES if self.reach else max(len(windows), 1)
        starts = range(0, max(len(windows), 1), step)
        return np.concatenate([self._scores(windows.take(slice(at, at + step))) for at in starts])

    def _scores(self, windows: Windows) -> np.ndarray:
        network = self.network
        device = self.normalisation[0].device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores = network(*standardised(windows, *self.normalisation))
        return (scores.float() / self.temperature).softmax(-1).cpu().numpy()

    @property
    def temperature(self) -> float:
        """What a network's scores are divided by; 1 where it was trained before there was one."""
        return self.about.get("temperature", 1.0)

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

    def _part(self, name: int | str) -> dict[str, torch.Tensor]:
        prefix = f"{name}."
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


def save(model: Model, folder: Path) -> None:
    """Write a model into its folder; the JSON file comes last, so that it vouches for the tensors."""
    path = folder / "model.pt"
    write_tensors(path, model.tensors)
    store.write_json(folder / "model.json", model.about | {"tensors": store.file_fingerprint(path)})


def is_whole(folder: Path, mark: str) -> bool:
    """Tell whether a folder has the model with a fingerprint, and both parts of it belong together."""
    if not (folder / "model.json").exists() or not (folder / "model.pt").exists():
        return False
    about = store.read_json(folder / "model.json", "train")
    tensors = store.file_fingerprint(folder / "model.pt")
    return (about.get("fingerprint"), about.get("tensors")) == (mark, tensors)


def load(directory: Path) -> Model:
    """Read the model of a run; StoreError where it is missing or its parts do not belong together."""
    return read(directory / "model")


def read(folder: Path) -> Model:
    """Read the model of a folder; errors as of `load`."""
    about = store.read_json(folder / "model.json", "train")
    path = folder / "model.pt"
    if not path.exists() or store.file_fingerprint(path) != about["tensors"]:
        raise store.StoreError(
            f"{path} is missing or not the one that model.json describes; run `train` again"
        )
    return Model(about, torch.load(path, weights_only=True))
