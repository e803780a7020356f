"""The trained model on disk: ``model/model.pt`` holds tensors only, ``model/model.json`` the rest."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcu import store
from lcu.disk import sync, writing
from lcu.train import svm


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes
    ----------
    about : dict
        Architecture, bands, periods, legend, classes, configuration, versions and scores.
    tensors : dict
        ``{year}.{name}`` -> tensor.
    """

    about: dict[str, Any]
    tensors: svm.Tensors

    @property
    def fingerprint(self) -> str:
        """What the model was made from."""
        return self.about["fingerprint"]

    @property
    def years(self) -> list[int]:
        """Years that have a model of their own."""
        return list(self.about["years"])

    def predict(self, year: int, filled: np.ndarray) -> np.ndarray:
        """Return class probabilities of gap-filled series.

        Parameters
        ----------
        year : int
            The mapped year.
        filled : ndarray[sample, time, band], uint16
            Reflectance x 10000 of the periods of that year, margins included.

        Returns
        -------
        ndarray[sample, class], float32
            In the order of the legend; 0 for classes that the model does not know.
        """
        own = self._of_year(year)
        with torch.inference_mode():
            known = svm.predict(own, torch.from_numpy(svm.features(filled))).numpy()
        values = [entry["value"] for entry in self.about["legend"]]
        probability = np.zeros((len(filled), len(values)), np.float32)
        probability[:, [values.index(value) for value in own["classes"].tolist()]] = known
        return probability

    def _of_year(self, year: int) -> svm.Tensors:
        prefix = f"{year}."
        return {
            name.removeprefix(prefix): value
            for name, value in self.tensors.items()
            if name.startswith(prefix)
        }


def save(model: Model, directory: Path) -> None:
    """Write a model; the JSON file comes last, so that it vouches for the tensors."""
    folder = directory / "model"
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(model.tensors, buffer)
    path = folder / "model.pt"
    with writing(path):
        store.temporary(path).write_bytes(buffer.getvalue())
        sync(store.temporary(path))
        os.replace(store.temporary(path), path)
    store.write_json(folder / "model.json", model.about | {"tensors": store.file_fingerprint(path)})


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
