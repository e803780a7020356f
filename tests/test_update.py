"""Going on from a former model: what counts how much, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lcu import config as configuration
from lcu.sample import Samples
from lcu.train import load, update
from lcu.train.deep import prepare
from lcu.train.series import Cut
from tests.conftest import LIMIT, Mpirun, lcu
from tests.test_deep import CONFIG, COUNT, another, write_samples

GROWN = ("archive.years=[2018, 2019, 2020]", "train.update=fine-tune")


def test_what_is_fresh_counts_in_full_and_the_rest_falls_with_its_age() -> None:
    found = update.faded([2018, 2019, 2020], [2020], 2.0)
    np.testing.assert_allclose(found, [np.exp(-1), np.exp(-0.5), 1], rtol=1e-6)
    # Acquisitions that came late: their year is fresh, a later one is as good as new.
    np.testing.assert_allclose(update.faded([2018, 2019, 2020], [2019], 2.0)[1:], 1)


def test_known_years_are_replayed_in_proportion_to_what_is_fresh() -> None:
    labelled = np.random.default_rng(1).random((500, 3)) < 0.8
    years, fresh = [2018, 2019, 2020], [2020]
    for replay, expected in (
        (0.0, 0),
        (0.5, int(0.5 * labelled[:, 2].sum())),
        (9.0, labelled[:, :2].sum()),
    ):
        kept = update.replayed(labelled, years, fresh, replay, 1)
        assert (kept <= labelled).all() and (kept[:, 2] == labelled[:, 2]).all()
        assert kept[:, :2].sum() == expected


def test_a_shifted_window_is_as_new_as_the_newest_year_that_it_reaches() -> None:
    shares = np.array([[1, 0.5, 0], [0, 0.5, 1]], np.float32)
    cut = Cut((2018, 2019), np.zeros((3, 2), int), np.zeros(3, int), np.zeros(12), shares)
    assert update.newest_years(cut) == [2018, 2019, 2019]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, mpirun: Mpirun) -> tuple[Path, str]:
    """Return a folder where a network of two years went on with a third, and what was said."""
    folder = tmp_path_factory.mktemp("grown")
    write_samples(folder, (1, 2, 8))
    lcu(mpirun, 1, "train", folder, "train.update=fine-tune")
    shutil.copytree(folder / "run", folder / "run-before")
    write_samples(folder, (1, 2, 8), years=(2018, 2019, 2020))
    return folder, lcu(mpirun, 2, "train", folder, *GROWN)


def about(folder: Path) -> dict:
    return json.loads((folder / "model" / "model.json").read_text())


def test_the_former_model_goes_on_and_says_how_it_did_before_and_after(
    grown: tuple[Path, str],
) -> None:
    folder, said = grown
    before, after = about(folder / "run-before"), about(folder / "run")
    assert "former" not in before and after["former"] == before["fingerprint"]
    assert after["normalisation"] == before["normalisation"] and after["years"] == [
        2018,
        2019,
        2020,
    ]
    assert after["known_years"]["years"] == [2018, 2019]
    told = after["known_years"]
    assert set(told["before"]) == set(told["after"]) and len(told["before"]) == 3
    assert all(set(one) == {"users", "producers", "f1"} for one in told["before"].values())
    assert "went on from the former model: macro F1 of the years it knew" in said
    kept = json.loads((folder / "run" / "model" / "former" / "model.json").read_text())
    assert kept["fingerprint"] == before["fingerprint"]


def test_the_same_command_again_trains_nothing_and_killed_it_ends_with_the_same_model(
    grown: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder = grown[0]
    path = folder / "run" / "model" / "model.pt"
    made = path.stat().st_mtime_ns
    lcu(mpirun, 2, "train", folder, *GROWN)
    assert path.stat().st_mtime_ns == made
    # Stopped after every epoch: the former model is still the one that it goes on from.
    shutil.copytree(folder / "run-before" / "model", folder / "run-stopped" / "model")
    own = another(folder, "run-stopped")
    lcu(mpirun, 2, "train", folder, own, *GROWN, "run.time_limit=0", code=3)
    lcu(mpirun, 2, "train", folder, own, *GROWN)
    assert about(folder / "run-stopped") == about(folder / "run")


def test_only_what_is_replayed_is_learned_from(grown: tuple[Path, str]) -> None:
    folder = grown[0]
    sets = [*GROWN, "train.replay=0.5", "train.fade=2.0"]
    config = configuration.load(folder / "run.toml", sets)
    samples = Samples.read(folder / "run")
    former = load(folder / "run-before")
    parts, years, _ = prepare(config, samples, (1, 2, 8), former)
    count = (samples.split == 0).sum()
    assert len(parts[0]) == count + count // 2 and years == [2018, 2019, 2020]
    weights = np.unique(parts[0].weight.numpy())
    np.testing.assert_allclose(weights, np.exp([-1, -0.5, 0]), rtol=1e-6)
    assert len(parts[2]) == 3 * (samples.split == 2).sum() and COUNT == len(samples.split)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.hidden=16", "the architecture of the former model is"),
        ("classify.strategy=shifted-window", "the strategy of the former model is yearly"),
        ("train.model=tempcnn", "the model of the former model is lstm"),
    ],
)
def test_a_former_model_that_does_not_fit_is_refused(
    grown: tuple[Path, str], mpirun: Mpirun, change: str, named: str
) -> None:
    folder, name = grown[0], f"run-{change[6:12]}"
    shutil.copytree(folder / "run-before" / "model", folder / name / "model")
    said = lcu(mpirun, 1, "train", folder, another(folder, name), *GROWN, change, code=1)
    assert named in said and "retrain" in said


def test_models_that_are_fitted_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(CONFIG)
    for sets, named in (
        (["train.model=svm"], "only networks can go on"),
        (["train.search=3"], "leave out train.from_model and train.search"),
    ):
        with pytest.raises(configuration.ConfigError, match=named):
            configuration.load(tmp_path / "run.toml", [*sets, "train.update=fine-tune"])


# --- a year added to a run ------------------------------------------------------------------------

NETWORK = ("train.model=tempcnn", "train.hidden=16", "train.epochs=3", "train.update=fine-tune")


def written(folder: Path) -> dict[str, int]:
    """Return when each finished file of a run was written."""
    kinds = ("composites", "samples", "model", "probabilities", "consistent", "maps")
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for kind in kinds
        for path in (folder / kind).rglob("*")
        if path.suffix in (".h5", ".pt", ".tif")
    }


@pytest.mark.timeout(3 * LIMIT)
def test_a_year_more_makes_only_what_is_new_and_what_was_published_stays(
    landscape: Path, mpirun: Mpirun
) -> None:
    sets = ("run.directory=run-growing", 'archive.tiles=["32TPS"]', *NETWORK)
    folder = landscape / "run-growing"
    stages = ("composite", "sample", "train", "classify", "assess", "publish")
    for stage in stages:
        lcu(mpirun, 1, stage, landscape, *sets, "archive.years=[2018]")
    first = written(folder)
    kept = {name: (folder / name).read_bytes() for name in first if name.startswith("maps/")}
    said = "".join(lcu(mpirun, 1, stage, landscape, *sets) for stage in stages)
    then = written(folder)
    new = {name for name in then if then[name] != first.get(name)}
    assert "composites/32TPS/2018/r00000_c00000.h5" not in new
    # Counted: one year of composites; everything that follows from the new model, once.
    count = Counter(name.split("/")[0] for name in new if name != "composites/32TPS.h5")
    assert count == {
        "composites": 1,
        "samples": 1,
        "model": 2,
        "probabilities": 2,
        "consistent": 2,
        "maps": 13,
    }
    assert all((folder / name).read_bytes() == content for name, content in kept.items())
    assert all("_V02." in name for name in new if name.startswith("maps/"))
    accuracy = json.loads((folder / "assessment" / "accuracy_S2018.json").read_text())
    assert set(accuracy["before"]["classes"]) == set(accuracy["classes"])
    assert "2018 before -> after: accuracy" in said and "went on from the former model" in said
    items = {
        number: json.loads((folder / "stac" / f"LCU_LC_S2018_R10m_32TPS_32632_V{number:02d}.json").read_text())
        for number in (1, 2)
    }  # fmt: skip
    links = {
        number: {link["rel"]: link["href"] for link in item["links"]}
        for number, item in items.items()
    }
    assert links[2]["predecessor-version"] == "./LCU_LC_S2018_R10m_32TPS_32632_V01.json"
    assert links[1]["successor-version"] == "./LCU_LC_S2018_R10m_32TPS_32632_V02.json"
    assert items[1]["properties"]["deprecated"] is True
    # The same once more: nothing is made anew, and the number stays.
    lcu(mpirun, 1, "publish", landscape, *sets)
    assert written(folder) == then
    said = lcu(mpirun, 1, "publish", landscape, *sets, "publish.version=1", code=2)
    assert "publish.version: other maps were published as 1" in said
