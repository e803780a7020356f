"""SVM, ensemble and forest: their prediction is scikit-learn's, calibration keeps the order, files are safe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from lcu import store
from lcu.train import Model, forest, load, svm
from lcu.train.model import save
from lcu.train.series import Windows
from tests import reference


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


def test_sharpness_is_one_over_the_temperature_that_labels_were_drawn_with() -> None:
    random = np.random.default_rng(6)
    scores = random.normal(0, 2, (20000, 5))
    probability = np.exp(scores / 2.5)
    probability /= probability.sum(axis=1, keepdims=True)
    index = (random.random((20000, 1)) > probability.cumsum(axis=1)).sum(axis=1)
    assert 1 / svm.sharpness(scores, index, np.ones(20000)) == pytest.approx(2.5, rel=0.05)


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


@pytest.mark.parametrize("classes", [2, 5])
def test_the_forest_kernel_is_scikit_learn_and_its_numpy_twin_to_the_bit(classes: int) -> None:
    samples = data(classes)
    machine = RandomForestClassifier(20, random_state=1)
    machine.fit(samples.features, samples.label, samples.weight)
    other = np.random.default_rng(7).normal(size=(400, 12)).astype(np.float32)
    fitted = forest.tensors(machine)
    found = forest.predict(fitted, torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(found, machine.predict_proba(other), atol=1e-6)
    twin = reference.forest({name: tensor.numpy() for name, tensor in fitted.items()}, other)
    np.testing.assert_array_equal(found, twin)


def test_the_ensemble_takes_the_majority_vote_and_ties_go_by_probability() -> None:
    samples = data(4, count=120)
    members = []
    for member in range(4):
        own = samples.part(svm.stratified_draw(samples, 1, member))
        members.append(svm.fit(own, 1, 1, svm.folds(own, 3, 1)))
    values = torch.from_numpy(np.random.default_rng(8).normal(size=(500, 12)).astype(np.float32))
    probability = svm.predict_ensemble(svm.ensemble(members), values)
    each = torch.stack([svm.predict(part, values) for part in members])
    votes = torch.nn.functional.one_hot(each.argmax(-1), 4).sum(0)
    chosen = probability.argmax(1)
    assert (votes.gather(1, chosen[:, None])[:, 0] == votes.amax(1)).all()
    tied = (votes == votes.amax(1, keepdim=True)).sum(1) > 1
    assert tied.sum() > 10
    among = each.mean(0).masked_fill(votes < votes.amax(1, keepdim=True), -1)
    assert (among.argmax(1) == chosen).all()
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)


def test_a_draw_has_as_many_of_each_class_and_differs_between_members() -> None:
    samples = data(4)
    draws = [svm.stratified_draw(samples, 1, member) for member in range(2)]
    for drawn in draws:
        assert (np.bincount(samples.label[drawn]) == np.bincount(samples.label)).all()
    assert (draws[0] != draws[1]).any()
    assert (draws[0] == svm.stratified_draw(samples, 1, 0)).all()


def model() -> Model:
    """Return a fitted model of one year, two of three classes known."""
    random = np.random.default_rng(2)
    series = random.integers(1, 9000, (200, 3, 4)).astype(np.uint16)
    label = np.where(series[:, 0, 0] > 4500, 5, 9).astype(np.uint8)
    samples = svm.Data(svm.features(series), label, np.arange(200), np.ones(200, np.float32))
    fitted = svm.fit(samples, 10, 1, svm.folds(samples, 3, 1))
    about = {
        "model": "svm",
        "years": [2018],
        "fingerprint": "x",
        "legend": [{"value": value} for value in (5, 7, 9)],
    }
    return Model(about, {f"2018.{name}": value for name, value in fitted.items()})


def test_a_class_that_the_model_does_not_know_is_never_predicted() -> None:
    series = np.random.default_rng(3).integers(1, 9000, (50, 3, 4)).astype(np.uint16)
    windows = Windows(series[:, None], np.ones((50, 1, 3), bool), np.zeros((50, 1, 3), np.float32))
    probability = model().predict([2020], windows)
    assert probability.shape == (50, 1, 3) and (probability[:, :, 1] == 0).all()
    np.testing.assert_allclose(probability.sum(axis=2), 1, atol=1e-5)


def test_a_model_is_read_back_as_it_was_written_and_holds_tensors_only(tmp_path: Path) -> None:
    made = model()
    save(made, tmp_path / "model")
    read = load(tmp_path)
    assert all(torch.equal(made.tensors[name], read.tensors[name]) for name in made.tensors)
    torch.load(tmp_path / "model" / "model.pt", weights_only=True)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match="`train` first"):
        load(tmp_path)
    save(model(), tmp_path / "model")
    path = tmp_path / "model" / "model.pt"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(store.StoreError, match=r"model.pt is missing or not the one"):
        load(tmp_path)
