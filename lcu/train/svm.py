"""Support vector machine on the series of one year: fitting with scikit-learn, prediction in torch.

scikit-learn's SVC predicts one pixel after the other in double precision; a map has 10^8 of them.
Prediction here is three matrix products a batch, with the numbers of the fitted SVC, so that a
cluster node's BLAS does the work. scikit-learn is loaded where something is fitted: it takes a rank as
long to load as torch, and nothing else needs it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize_scalar

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline
    from sklearn.svm import SVC

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Data:
    """What one year's SVM learns from; all arrays [sample].

    Attributes
    ----------
    features : ndarray[sample, feature], float32
    label : uint8
        Class values.
    group : int64
        Polygon: never on both sides of a fold.
    weight : float32
        How much of the old map a sample stands for.
    """

    features: np.ndarray
    label: np.ndarray
    group: np.ndarray
    weight: np.ndarray

    def part(self, chosen: np.ndarray) -> Data:
        """Return the chosen samples."""
        return Data(
            self.features[chosen], self.label[chosen], self.group[chosen], self.weight[chosen]
        )


def features(filled: np.ndarray) -> np.ndarray:
    """Turn gap-filled series into features.

    Parameters
    ----------
    filled : ndarray[sample, time, band], uint16
        Reflectance x 10000 of one year's periods.

    Returns
    -------
    ndarray[sample, time x band], float32
        Reflectance.
    """
    return filled.reshape(len(filled), -1).astype(np.float32) / np.float32(10000)


def folds(data: Data, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (training, held out) positions of each fold; polygons are kept whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    count = max(2, min(count, len(np.unique(data.group))))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer polygons than folds is held out in some folds only: no news.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        pairs = list(splitter.split(data.features, data.label, data.group))
    return [
        (train, held)
        for train, held in pairs
        if len(held) and len(np.unique(data.label[train])) > 1
    ]


def machine(c: float, gamma: float, feature_count: int) -> Pipeline:
    """Return an unfitted scaler and SVC; `gamma` is in units of 1 / number of features."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(C=c, gamma=gamma / feature_count, cache_size=500))


def score(
    data: Data, c: float, gamma: float, fold: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Fit on a fold and return the weight of what it got right, and the weight of what it was asked."""
    train, held = data.part(fold[0]), data.part(fold[1])
    fitted = _fit(machine(c, gamma, data.features.shape[1]), train)
    right = fitted.predict(held.features) == held.label
    return float(held.weight[right].sum(dtype=np.float64)), float(held.weight.sum(dtype=np.float64))


def _fit(pipeline: Pipeline, data: Data) -> Pipeline:
    return pipeline.fit(data.features, data.label, svc__sample_weight=data.weight)


def fit(data: Data, c: float, gamma: float, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Tensors:
    """Fit on all samples and calibrate on the held-out part of each fold."""
    fitted = tensors(_fit(machine(c, gamma, data.features.shape[1]), data))
    held = []
    for train, out in pairs:
        part = tensors(_fit(machine(c, gamma, data.features.shape[1]), data.part(train)))
        held.append(_held_out_scores(part, fitted["classes"], data.part(out)))
    fitted["sharpness"] = torch.tensor(sharpness(*map(np.concatenate, zip(*held, strict=True))))
    return fitted


def _held_out_scores(part: Tensors, classes: torch.Tensor, out: Data) -> tuple[np.ndarray, ...]:
    """Return scores [sample, class], class index and weight of held-out samples.

    Samples of a class that the fold could not learn (all its polygons are held out) say nothing.
    """
    known = torch.isin(torch.from_numpy(out.label), part["classes"]).numpy()
    own = scores(part, torch.from_numpy(out.features[known])).numpy()
    aligned = np.full((len(own), len(classes)), own.min(initial=0) - 1, np.float32)
    aligned[:, np.searchsorted(classes.numpy(), part["classes"].numpy())] = own
    return aligned, np.searchsorted(classes.numpy(), out.label[known]), out.weight[known]


def sharpness(held: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.float32:
    """Return the factor of the scores whose softmax is the most likely for held-out samples.

    One positive number (temperature scaling, Guo et al. 2017) leaves the order of the classes as it
    is. A sigmoid per class (Platt) does not, and turns round where few polygons are held out.

    Parameters
    ----------
    held : ndarray[sample, class], float
        Scores.
    index : ndarray[sample]
        Class index of the label.
    weight : ndarray[sample]
    """
    if not len(index):
        return np.float32(1)
    held, weight = held.astype(np.float64), weight.astype(np.float64)

    def loss(logarithm: float) -> float:
        scaled = held * np.exp(logarithm)
        scaled -= scaled.max(axis=1, keepdims=True)
        own = scaled[np.arange(len(index)), index]
        return float((weight * (np.log(np.exp(scaled).sum(axis=1)) - own)).sum() / weight.sum())

    return np.float32(np.exp(minimize_scalar(loss, bounds=(-3, 4), method="bounded").x))


def tensors(pipeline: Pipeline) -> Tensors:
    """Take the numbers out of a fitted scaler and SVC.

    Returns
    -------
    dict
        classes uint8 [class]; mean, scale [feature]; support [vector, feature]; gamma [];
        coefficients [vector, pair]; intercept [pair].
    """
    scaler, svc = pipeline[0], pipeline[-1]
    numbers = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "support": svc.support_vectors_,
        "gamma": np.array(svc._gamma),
        "coefficients": _pair_coefficients(svc),
        "intercept": svc.intercept_,
    }
    result = {
        name: torch.tensor(np.asarray(value), dtype=torch.float32)
        for name, value in numbers.items()
    }
    result["classes"] = torch.tensor(svc.classes_.astype(np.uint8))
    return result


def _pair_coefficients(svc: SVC) -> np.ndarray:
    """Return libsvm's one-against-one coefficients as a matrix [vector, pair]."""
    count = len(svc.classes_)
    if count == 2:
        return -svc.dual_coef_.T  # scikit-learn turns the sign round for two classes
    ends = np.cumsum(svc.n_support_)
    starts = ends - svc.n_support_
    columns = []
    for one in range(count):
        for other in range(one + 1, count):
            column = np.zeros(len(svc.support_vectors_))
            column[starts[one] : ends[one]] = svc.dual_coef_[other - 1, starts[one] : ends[one]]
            column[starts[other] : ends[other]] = svc.dual_coef_[one, starts[other] : ends[other]]
            columns.append(column)
    return np.stack(columns, axis=1)


def predict(model: Tensors, values: torch.Tensor) -> torch.Tensor:
    """Return class probabilities, float32 [sample, class], of features float32 [sample, feature]."""
    return torch.softmax(scores(model, values) * model["sharpness"], dim=1)


def scores(model: Tensors, values: torch.Tensor) -> torch.Tensor:
    """Return one score a class, float32 [sample, class]: votes of the pairs, ties by confidence.

    The kernel exp(-gamma |z - s|^2) is one matrix product and two passes over its result.
    """
    gamma, support = model["gamma"], model["support"]
    z = (values - model["mean"]) / model["scale"]
    offsets = -gamma * (support * support).sum(1)
    exponent = torch.addmm(offsets, z, (2 * gamma * support).T)
    exponent.sub_((gamma * (z * z).sum(1))[:, None])
    decision = exponent.exp_() @ model["coefficients"]
    count = len(model["classes"])
    intercept = -model["intercept"] if count == 2 else model["intercept"]
    return _one_against_rest(decision + intercept, count)


def _one_against_rest(decision: torch.Tensor, count: int) -> torch.Tensor:
    """Sum up the pairs as scikit-learn does: a vote each, ties ordered by summed confidence."""
    votes = torch.zeros(len(decision), count)
    confidence = torch.zeros(len(decision), count)
    pairs = [(one, other) for one in range(count) for other in range(one + 1, count)]
    for column, (one, other) in enumerate(pairs):
        value = decision[:, column]
        first = (value > 0).to(votes.dtype)
        votes[:, one] += first
        votes[:, other] += 1 - first
        confidence[:, one] += value
        confidence[:, other] -= value
    return votes + confidence / (3 * (confidence.abs() + 1))


# --- several machines -----------------------------------------------------------------------------


def stratified_draw(data: Data, seed: int, member: int) -> np.ndarray:
    """Return positions of a bootstrap draw: as many of each class as there are, with replacement."""
    random = np.random.default_rng([seed, member])
    classes = [np.flatnonzero(data.label == value) for value in np.unique(data.label)]
    return np.sort(np.concatenate([random.choice(own, len(own)) for own in classes]))


def ensemble(members: list[Tensors]) -> Tensors:
    """Put machines together: ``{member}.{name}``, and the classes, which all of them know."""
    joined = {
        f"{number}.{name}": value
        for number, part in enumerate(members)
        for name, value in part.items()
    }
    return joined | {"classes": members[0]["classes"], "members": torch.tensor(len(members))}


def predict_ensemble(model: Tensors, values: torch.Tensor) -> torch.Tensor:
    """Return class probabilities, float32 [sample, class]: the majority vote of the machines.

    A machine has one vote; all their probabilities together, averaged, have one more. That decides between
    classes with as many votes and cannot outvote a majority.
    """
    count = int(model["members"])
    total = torch.zeros(len(values), len(model["classes"]))
    votes = torch.zeros_like(total)
    for number in range(count):
        prefix = f"{number}."
        own = {
            name.removeprefix(prefix): part
            for name, part in model.items()
            if name.startswith(prefix)
        }
        probability = predict(own, values)
        total += probability
        votes.scatter_add_(1, probability.argmax(1, keepdim=True), torch.ones(len(values), 1))
    return (votes + total / count) / (count + 1)
