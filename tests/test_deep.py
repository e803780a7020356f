"""The training stage with networks: resume, time limits, models of other runs, and what cannot be trained."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lcu import config as configuration
from lcu.composite import middles_of
from lcu.publish import curves
from lcu.store import SAMPLES
from lcu.train.model import Model, load
from lcu.train.search import drawn, rounds
from lcu.train.series import Windows
from tests.compare import differences
from tests.conftest import ENVIRONMENT, ROOT, Mpirun, lcu

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "."
years = [2018, 2019]
[composite]
period = "P2M"
bands = ["B02", "B03", "B04"]
[sample]
old_map = "run.toml"
old_map_year = 2016
[train]
model = "lstm"
hidden = 8
layers = 2
epochs = 6
batch = 16
learning_rate = 0.01
c = [10]
gamma = [0.1]
"""
COUNT, TIMES, BANDS = 240, 12, 3
WAIT = 60  # seconds


def write_samples(
    folder: Path, classes: tuple[int, ...], rare: int = 0, years: tuple[int, ...] = (2018, 2019)
) -> None:
    """Write a configuration and a table of samples; the class `rare` has two."""
    (folder / "run" / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(CONFIG)
    config = configuration.load(folder / "run.toml", [f"archive.years={list(years)}"])
    times = len(config.periods)
    middles = middles_of(config.periods)
    random = np.random.default_rng(1)
    number = random.integers(0, len(classes), COUNT)
    label = np.array(classes, np.uint8)[number]
    if rare:
        label[:2] = rare
    season = np.sin(np.arange(times) / 6 * np.pi)
    series = (
        3000
        + 800 * number[:, None, None] * season[:, None]
        + random.normal(0, 900, (COUNT, times, BANDS))
    )
    values = {dataset.name: np.zeros(COUNT, dataset.dtype) for dataset in SAMPLES}
    values |= {
        "series": series.clip(1, 9000).astype(np.uint16),
        "count": np.ones((COUNT, times), np.uint8),
        "day": np.tile(middles, (COUNT, 1)),
        "label": np.stack([label] * len(years), 1),
        "weight": np.ones(COUNT, np.float32),
        "polygon": np.arange(COUNT) // 4,
        "split": (np.arange(COUNT) // 4 % 5 // 3 * (1 + np.arange(COUNT) // 4 % 2)).astype(np.uint8),
    }  # fmt: skip
    values["split"][:2] = 0
    with h5py.File(folder / "run" / "samples" / "samples.h5", "w") as file:
        for name, content in values.items():
            file[name] = content
        file.attrs["tiles"], file.attrs["years"] = "32TPS", years
        file.attrs["middles"] = middles
        file.attrs["made_from"] = [f"composites of {year}" for year in years]
        file.attrs["fingerprint"] = f"made up {years}"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a configuration and samples of three classes, and two of a fourth."""
    folder = tmp_path_factory.mktemp("table")
    write_samples(folder, (1, 2, 8), rare=5)
    return folder


def another(table: Path, name: str) -> str:
    """Return the setting of a run directory of its own, with the same samples."""
    shutil.copytree(table / "run" / "samples", table / name / "samples", dirs_exist_ok=True)
    return f"run.directory={name}"


def about(folder: Path) -> dict:
    """Return ``model.json``."""
    return json.loads((folder / "model" / "model.json").read_text())


# --- whole and interrupted ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(table: Path, mpirun: Mpirun) -> tuple[Path, str]:
    """Return the folder with a network trained on 2 ranks without interruption, and what was said."""
    return table, lcu(mpirun, 2, "train", table)


def test_the_model_says_what_it_is_and_holds_tensors_only(trained: tuple[Path, str]) -> None:
    folder, said = trained[0] / "run", trained[1]
    told = about(folder)
    tensors = torch.load(folder / "model" / "model.pt", weights_only=True)
    assert told["architecture"]["network"] == "lstm" and told["classes"] == [1, 2, 8]
    assert told["bands"] == ["B02", "B03", "B04"] and len(told["periods"]) == TIMES
    assert tensors["mean"].tolist() == told["normalisation"]["mean"]
    assert told["scores"]["2018 to 2019"]["test_agreement"] > 0.5
    assert np.array(told["test_matrix"]).sum() == told["scores"]["2018 to 2019"]["test_samples"]
    assert "lstm, agreement with the old map" in said and "distributed backend horovod" in said
    assert "never predicted: " in said and told["legend"][4]["name"] in said
    with (folder / "model" / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 7))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert not (folder / "model" / "checkpoint.pt").exists()


def test_scores_are_divided_by_the_temperature_of_the_validation_samples(
    trained: tuple[Path, str],
) -> None:
    model = load(trained[0] / "run")
    told = model.about
    assert 0.02 < told["fitted_temperature"] < 20
    assert told["temperature"] == max(1, told["fitted_temperature"])
    for part in ("validation", "test"):
        errors = told["expected_calibration_error"][part]
        assert 0 <= errors["before"] <= 1 and 0 <= errors["after"] <= 1
    random = np.random.default_rng(4)
    windows = Windows(
        random.integers(1, 9000, (50, 2, TIMES // 2, BANDS)).astype(np.uint16),
        np.ones((50, 2, TIMES // 2), bool),
        np.tile(np.arange(15, 365, 61, dtype=np.float32), (50, 2, 1)),
    )
    found = Model(told | {"temperature": 1.7}, model.tensors).predict([2018, 2019], windows)
    plain = Model(told | {"temperature": 1.0}, model.tensors).predict([2018, 2019], windows)
    expected = plain.astype(np.float64) ** (1 / 1.7)
    np.testing.assert_allclose(found, expected / expected.sum(-1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), plain.argmax(-1))


def test_the_report_shows_how_training_went(trained: tuple[Path, str], tmp_path: Path) -> None:
    picture = curves.of_run(trained[0] / "run")
    assert picture is not None and picture.startswith(b"\x89PNG") and len(picture) > 20_000
    assert curves.of_run(tmp_path) is None


def test_normalisation_is_fitted_on_training_samples_only(trained: tuple[Path, str]) -> None:
    with h5py.File(trained[0] / "run" / "samples" / "samples.h5") as file:
        chosen = (file["split"][()] == 0) & (file["label"][:, 0] != 5)
        values = file["series"][()][chosen] / 10000
    told = about(trained[0] / "run")["normalisation"]
    np.testing.assert_allclose(told["mean"], values.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(told["scale"], values.std((0, 1)), rtol=1e-5)


def test_killed_and_started_again_training_ends_with_the_same_weights(
    trained: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder, name = trained[0], "run-killed"
    kept = folder / name / "model" / "checkpoint.pt"
    words = ["mpirun", "-n", "2", sys.executable, "-m", "lcu.main", "train", folder / "run.toml"]
    process = subprocess.Popen(
        list(map(str, [*words, "--set", another(folder, name)])), cwd=ROOT, env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + WAIT
    while not kept.exists() and time.monotonic() < end:
        time.sleep(0.002)
    assert kept.exists() and process.poll() is None
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
    process.wait(timeout=WAIT)
    assert not (folder / name / "model" / "model.json").exists(), "killed too late to say anything"
    lcu(mpirun, 2, "train", folder, f"run.directory={name}")
    log = "".join(path.read_text() for path in (folder / name / "log").glob("*.log"))
    assert "goes on after epoch" in log
    assert same_model(folder / "run", folder / name)


def same_model(one: Path, other: Path) -> bool:
    """Tell whether two runs hold the same model: tensors and description, not the timings."""
    timed = ("model/training.csv", "model/search.csv")
    return [text for text in differences(one, other) if not text.startswith(timed)] == []


@pytest.mark.parametrize("by", ["run.time_limit", "Slurm"])
def test_a_time_limit_stops_training_with_exit_code_3_and_it_can_go_on(
    trained: tuple[Path, str], mpirun: Mpirun, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = trained[0], f"run-{by.lower()}"
    own = another(folder, name)
    limit = ("run.time_limit=0",) if by == "run.time_limit" else ()
    if by == "Slurm":
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 31))
    for epoch in (1, 2):
        said = lcu(mpirun, 2, "train", folder, own, *limit, code=3)
        assert f"stopped in time after epoch {epoch} of 6; start the same command again" in said
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    lcu(mpirun, 2, "train", folder, own)
    assert same_model(folder / "run", folder / name)


def test_a_second_start_trains_nothing_anew(trained: tuple[Path, str], mpirun: Mpirun) -> None:
    path = trained[0] / "run" / "model" / "model.pt"
    made = path.stat().st_mtime_ns
    lcu(mpirun, 2, "train", trained[0], 'train.distributed="torch"')
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize("ranks", [1, 3])
def test_any_number_of_ranks_trains_nearly_the_same_network(
    trained: tuple[Path, str], mpirun: Mpirun, ranks: int
) -> None:
    folder = trained[0]
    losses = []
    for name, count in ((f"run-{ranks}", ranks), ("run-2", 2)):
        sets = (
            "train.dropout=0.0",
            "train.epochs=2",
            f"train.distributed={'torch' if count == 3 else 'auto'}",
        )
        lcu(mpirun, count, "train", folder, another(folder, name), *sets)
        with (folder / name / "model" / "training.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


# --- all models -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sets",
    [
        ("train.model=svm-ensemble", "train.members=3"),
        ("train.model=random-forest", "train.trees=20"),
        ("train.model=lstm", "train.carry_state=true", "train.epochs=1"),
        ("train.model=tempcnn", "train.series=masked", "train.epochs=1", "train.optimiser=lamb"),
        ("train.model=transformer", "train.series=masked", "train.heads=2", "train.epochs=1"),
        ("train.model=ltae", "train.hidden=32", "train.epochs=1", "train.compression=fp16"),
    ],
)  # fmt: skip
def test_every_model_is_trained_behind_the_same_key(
    table: Path, mpirun: Mpirun, sets: tuple[str, ...]
) -> None:
    name = f"run-{sets[0].split('=')[1]}"
    said = lcu(mpirun, 2, "train", table, another(table, name), *sets)
    assert f"{sets[0].split('=')[1]}, agreement with the old map" in said
    assert about(table / name)["classes"] == [1, 2, 8]


# --- search ---------------------------------------------------------------------------------------


def test_a_search_tries_settings_side_by_side_and_trains_the_best_in_full(
    table: Path, mpirun: Mpirun
) -> None:
    sets = ("train.search=4", "train.epochs=9", "train.hidden=16")
    stopped = another(table, "run-search-stopped")
    said = lcu(mpirun, 2, "train", table, stopped, *sets, "run.time_limit=0", code=3)
    assert "stopped in time while searching" in said
    lcu(mpirun, 2, "train", table, stopped, *sets)
    lcu(mpirun, 2, "train", table, another(table, "run-search"), *sets)
    assert same_model(table / "run-search", table / "run-search-stopped")
    folder = table / "run-search" / "model"
    with (folder / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["epochs"]) for row in rows[:4]] == [(f"{n}", "1") for n in range(4)]
    assert len(rows) == 5 and rows[4]["epochs"] == "3" and {row["hidden"] for row in rows} == {"16"}
    best = max(rows[:4], key=lambda row: (float(row["macro_f1"]), -int(row["trial"])))
    assert rows[4]["trial"] == best["trial"]
    told = about(table / "run-search")
    assert told["settings"]["batch"] == int(best["batch"])
    assert told["architecture"]["shape"]["layers"] == int(best["layers"])
    assert not (folder / "trials").exists() and not (folder / "checkpoint.pt").exists()


def test_settings_that_the_configuration_names_are_not_searched(table: Path) -> None:
    train = configuration.load(table / "run.toml", ["train.search=20"]).train
    found = drawn(train, 1)
    assert len(found) == 20 and drawn(train, 1) == found != drawn(train, 2)
    for name in ("hidden", "layers", "learning_rate"):
        assert {getattr(one, name) for one in found} == {getattr(train, name)}
    assert len({one.dropout for one in found}) > 10 and len({one.batch for one in found}) == 4
    assert rounds(20, 40) == [1, 4, 13] and rounds(1, 40) == [13] and rounds(27, 2) == [1]


# --- models of other runs -------------------------------------------------------------------------


def test_a_model_of_another_run_is_taken_as_it_is(
    trained: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder = trained[0]
    said = lcu(
        mpirun, 2, "train", folder, "run.directory=run-other", "train.from_model=run",
        "archive.years=[2021]",
    )  # fmt: skip
    assert "taken from" in said
    one, other = (
        torch.load(folder / name / "model" / "model.pt", weights_only=True)
        for name in ("run", "run-other")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ('composite.bands=["B02", "B03", "B08"]', "the bands ['B02', 'B03', 'B04'], this run has"),
        ("composite.period=P1M", "this many times a year: 6, this run has 12"),
    ],
)
def test_a_model_of_another_run_that_does_not_fit_is_refused(
    trained: tuple[Path, str], mpirun: Mpirun, change: str, named: str
) -> None:
    sets = ("run.directory=run-refused", "train.from_model=run", change)
    assert named in lcu(mpirun, 2, "train", trained[0], *sets, code=1)


# --- what cannot be trained -----------------------------------------------------------------------


def test_one_class_alone_ends_training_on_all_ranks(tmp_path: Path, mpirun: Mpirun) -> None:
    write_samples(tmp_path, (3,))
    begun = time.monotonic()
    said = lcu(mpirun, 2, "train", tmp_path, code=1)
    assert "1 class has at least 4 samples; a model needs two" in said
    assert time.monotonic() - begun < WAIT


def test_more_ranks_than_a_batch_has_samples_end_training_on_all_ranks(
    table: Path, mpirun: Mpirun
) -> None:
    said = lcu(mpirun, 3, "train", table, another(table, "run-few"), "train.batch=2", code=1)
    assert "in batches of 2 do not go round 3 ranks" in said


def test_several_ranks_without_a_backend_are_refused(table: Path, mpirun: Mpirun) -> None:
    own = another(table, "run-none")
    said = lcu(mpirun, 2, "train", table, own, "train.distributed=none", code=1)
    assert "train.distributed is none, and there are 2 ranks" in said
