"""The SVM: prediction in torch is that of scikit-learn, calibration keeps the order, files are safe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from lcu import store
from lcu.train import Model, load, svm
from lcu.train.model import save


def data(classes: int, count: int = 300, features: int = 12, seed: int = 0) -> svm.Data:
    """Return separable samples in groups of five."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, features)).astype(np.float32)
    label = values[:, :classes].argmax(axis=1).astype(np.uint8) * 3 + 1
    return svm.Data(
        values, label, np.arange(count) // 5, random.uniform(0.5, 2, count).astype(np.float32)
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_prediction_in_torch_is_that_of_scikit_learn(classes: int) -> None:
    samples = data(classes)
    pipeline = svm._fit(svm.machine(10, 1, 12), samples)
    scores = svm.scores(svm.tensors(pipeline), torch.from_numpy(samples.features)).numpy()
    machine: SVC = pipeline[-1]
    machine.set_params(decision_function_shape="ovr", break_ties=True)
    np.testing.assert_array_equal(
        machine.classes_[scores.argmax(axis=1)], pipeline.predict(samples.features)
    )
    if classes > 2:
        np.testing.assert_allclose(scores, pipeline.decision_function(samples.features), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_sum_to_one_and_keep_the_order_of_the_scores(classes: int) -> None:
    samples = data(classes)
    fitted = svm.fit(samples, 10, 1, svm.folds(samples, 3, 1))
    values = torch.from_numpy(samples.features)
    probability = svm.predict(fitted, values).numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        probability.argmax(axis=1), svm.scores(fitted, values).argmax(dim=1).numpy()
    )
    assert fitted["sharpness"] > 0


def test_sharpness_grows_with_how_right_the_scores_are() -> None:
    random = np.random.default_rng(1)
    index = random.integers(0, 3, 500)
    right = np.eye(3)[index]
    noisy = np.where(random.random((500, 1)) < 0.4, np.eye(3)[random.integers(0, 3, 500)], right)
    weight = np.ones(500)
    assert svm.sharpness(right, index, weight) > 5 * svm.sharpness(noisy, index, weight) > 0


def test_polygons_are_never_on_both_sides_of_a_fold() -> None:
    samples = data(4)
    pairs = svm.folds(samples, 3, 1)
    assert len(pairs) == 3
    for train, held in pairs:
        assert not set(samples.group[train]) & set(samples.group[held])


def test_a_class_that_a_fold_cannot_learn_does_not_break_the_fit() -> None:
    samples = data(3)
    group = np.where(samples.label == 7, 999, samples.group)  # one polygon holds a whole class
    samples = svm.Data(samples.features, samples.label, group, samples.weight)
    fitted = svm.fit(samples, 10, 1, svm.folds(samples, 3, 1))
    assert fitted["classes"].tolist() == [1, 4, 7]
    assert torch.isfinite(svm.predict(fitted, torch.from_numpy(samples.features))).all()


def model() -> Model:
    """Return a fitted model of one year, two of three classes known."""
    random = np.random.default_rng(2)
    series = random.integers(1, 9000, (200, 3, 4)).astype(np.uint16)
    label = np.where(series[:, 0, 0] > 4500, 5, 9).astype(np.uint8)
    samples = svm.Data(svm.features(series), label, np.arange(200), np.ones(200, np.float32))
    fitted = svm.fit(samples, 10, 1, svm.folds(samples, 3, 1))
    about = {
        "years": [2018],
        "fingerprint": "x",
        "legend": [{"value": value} for value in (5, 7, 9)],
    }
    return Model(about, {f"2018.{name}": value for name, value in fitted.items()})


def test_a_class_that_the_model_does_not_know_is_never_predicted() -> None:
    series = np.random.default_rng(3).integers(1, 9000, (50, 3, 4)).astype(np.uint16)
    probability = model().predict(2018, series)
    assert probability.shape == (50, 3) and (probability[:, 1] == 0).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)


def test_a_model_is_read_back_as_it_was_written_and_holds_tensors_only(tmp_path: Path) -> None:
    made = model()
    save(made, tmp_path)
    read = load(tmp_path)
    assert all(torch.equal(made.tensors[name], read.tensors[name]) for name in made.tensors)
    torch.load(tmp_path / "model" / "model.pt", weights_only=True)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match="`train` first"):
        load(tmp_path)
    save(model(), tmp_path)
    path = tmp_path / "model" / "model.pt"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(store.StoreError, match=r"model.pt is missing or not the one"):
        load(tmp_path)
