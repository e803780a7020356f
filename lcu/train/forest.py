"""Random forest on the features of one year (Breiman 2001): scikit-learn's, predicted by a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lcu._forest import add_leaves
from lcu.train.svm import Data, Tensors

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier


def fit(data: Data, trees: int, seed: int) -> Tensors:
    """Fit a forest and take its numbers out.

    Returns
    -------
    dict
        classes uint8 [class]; roots int64 [tree]; feature int64, threshold float64, left, right int64 [node];
        probability float32 [node, class]; depth int64 []. A leaf is its own child.
    """
    from sklearn.ensemble import RandomForestClassifier  # slow to load, see `lcu.train.svm`

    machine = RandomForestClassifier(trees, random_state=seed)
    return tensors(machine.fit(data.features, data.label, data.weight))


def tensors(machine: RandomForestClassifier) -> Tensors:
    """Take the numbers out of a fitted forest."""
    parts = [tree.tree_ for tree in machine.estimators_]
    roots = np.cumsum([0, *(part.node_count for part in parts)])[:-1]
    left = np.concatenate(
        [_children(part.children_left, root) for part, root in zip(parts, roots, strict=True)]
    )
    right = np.concatenate(
        [_children(part.children_right, root) for part, root in zip(parts, roots, strict=True)]
    )
    counts = np.concatenate([part.value[:, 0] for part in parts])
    return {
        "classes": torch.tensor(machine.classes_.astype(np.uint8)),
        "roots": torch.tensor(roots),
        "feature": torch.tensor(np.concatenate([part.feature for part in parts])).clamp(min=0),
        "threshold": torch.tensor(np.concatenate([part.threshold for part in parts])),
        "left": torch.tensor(left),
        "right": torch.tensor(right),
        "probability": torch.tensor(counts / counts.sum(1, keepdims=True), dtype=torch.float32),
        "depth": torch.tensor(max(part.max_depth for part in parts)),
    }


def _children(children: np.ndarray, root: int) -> np.ndarray:
    return np.where(children < 0, np.arange(len(children)), children) + root


def predict(model: Tensors, values: torch.Tensor) -> torch.Tensor:
    """Return class probabilities, float32 [sample, class], of features float32 [sample, feature].

    The mean of the trees' leaves, added in the order of the trees.
    """
    total = np.zeros((len(values), model["probability"].shape[1]), np.float32)
    places = (
        model[name].numpy().astype(np.int32) for name in ("roots", "feature", "left", "right")
    )
    roots, feature, left, right = places
    add_leaves(
        np.ascontiguousarray(values.numpy()), roots, feature, model["threshold"].numpy(), left, right,
        model["probability"].numpy(), total,
    )  # fmt: skip
    return torch.from_numpy(total) / len(roots)
