"""Damaged inputs and outputs: named, never blank, and mended they give the undisturbed bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lcu import config as configuration
from lcu import store
from lcu.composite import Composites
from lcu.sample import Samples
from lcu.train import checkpoint
from lcu.train.model import write_tensors
from tests.compare import differences
from tests.faults import harness
from tests.faults.harness import FULL, World, cut_off, expect, flip, kept, whole_again

pytestmark = pytest.mark.timeout(3 * harness.LIMIT)


# --- inputs ---------------------------------------------------------------------------------------


def flip_a_marker(path: Path) -> None:
    """Flip a bit of the marker with which the last tile of a JP2 begins; in data it shows nowhere."""
    flip(path, path.read_bytes().rindex(b"\xff\x90") + 1)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("*_B04_10m.jp2", cut_off),
        pytest.param("*_B04_10m.jp2", flip_a_marker, marks=FULL),
        pytest.param("*_B04_10m.jp2", Path.unlink, marks=FULL),
        ("MTD_MSIL2A.xml", cut_off),
    ],
)
def test_a_damaged_product_is_named_and_taken_back_when_it_is_mended(
    world: World, name: str, damage: Callable
) -> None:
    product = sorted((world.folder / "products").glob("*.SAFE"))[7]
    run = world.before("composite")
    with kept(next(product.rglob(name))) as path:
        expect(world, "plan", 1, f"run.directory={run}")
        damage(path)
        ending = expect(world, "composite", 2, f"run.directory={run}", code=1)
        assert ending.line(product.stem)
    whole_again(world, "composite", 2, run)


@pytest.mark.parametrize("damage", [cut_off, pytest.param(Path.unlink, marks=FULL)])
def test_a_damaged_old_map_is_named(world: World, damage: Callable) -> None:
    run = world.before("sample")
    with kept(world.folder / "old_map.tif") as path:
        damage(path)
        ending = harness.do(world, "sample", 2, f"run.directory={run}")
        assert ending.code in (1, 2) and ending.line("old_map.tif")
    whole_again(world, "sample", 2, run)


@pytest.mark.parametrize("damage", [cut_off, pytest.param(Path.unlink, marks=FULL)])
def test_a_damaged_reference_costs_its_year_only(world: World, damage: Callable) -> None:
    run = world.before("assess")
    with kept(world.folder / "truth" / "32TPS_2018_class.tif") as path:
        damage(path)
        expect(world, "assess", 2, f"run.directory={run}", code=1).line("32TPS_2018_class.tif")
    whole_again(world, "assess", 2, run)


# --- what a run made ------------------------------------------------------------------------------


def reads_the_same_or_says_why(
    path: Path, read: Callable[[], list[np.ndarray]], count: int, needed: str
) -> int:
    """Flip bits all over a file, one by one; return how often that was found."""
    whole, expected, draw, found = path.read_bytes(), read(), random.Random(1), 0
    for _ in range(count):
        flip(path, draw.randrange(len(whole)), draw.randrange(8))
        try:
            again = read()
        except store.StoreError as error:
            assert str(path) in str(error) and needed in str(error)
            found += 1
        else:
            assert all(map(np.array_equal, again, expected))
        path.write_bytes(whole)
    return found


def test_a_flipped_bit_of_a_shard_is_never_a_value(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "run" / "composites", tmp_path / "composites")
    config = configuration.load(world.config, [f"run.directory={tmp_path}"])
    composites = Composites.open(config)
    path = sorted(tmp_path.glob("composites/32TPS/2018/*.h5"))[0]

    def read() -> list[np.ndarray]:
        block = store.Block(0, 0, 128, 128)
        return [composites.read("32TPS", block), composites.read_count("32TPS", block)]

    assert reads_the_same_or_says_why(path, read, 150, "again") > 75


def test_a_flipped_bit_of_the_samples_is_never_a_value(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "run" / "samples", tmp_path / "samples")

    def read() -> list[np.ndarray]:
        samples = Samples.read(tmp_path)
        return [getattr(samples, dataset.name) for dataset in store.SAMPLES]

    path = tmp_path / "samples" / "samples.h5"
    assert reads_the_same_or_says_why(path, read, 150, "run `sample` again") > 75


def test_a_flipped_bit_of_a_checkpoint_is_never_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.manual_seed(1)
    write_tensors(path, {"mark": "one", "network": {"weight": torch.randn(64, 64)}})

    def read() -> list[np.ndarray]:
        content = checkpoint._read(path, "one")
        return [content["network"]["weight"].numpy()]

    assert reads_the_same_or_says_why(path, read, 150, "remove it and run `train` again") > 75


def test_a_truncated_shard_is_made_again_and_the_others_are_kept(world: World) -> None:
    run = harness.fresh(world)
    paths = sorted(run.glob("composites/32TPS/*/*.h5"))
    made = {path: path.stat().st_mtime_ns for path in paths}
    cut_off(paths[2])
    whole_again(world, "composite", 2, run)
    anew = [path for path in paths if path.stat().st_mtime_ns != made[path]]
    assert anew == [paths[2]]


def test_a_damaged_shard_is_named_and_made_again_when_it_is_removed(world: World) -> None:
    run = world.before("sample")
    path = sorted(run.glob("composites/32TPS/2018/*.h5"))[1]
    with h5py.File(path) as file:
        chunk = file["reflectance"].id.get_chunk_info(0)
    flip(path, chunk.byte_offset + chunk.size // 2)
    ending = expect(world, "sample", 2, f"run.directory={run}", code=1)
    assert ending.line(str(path), "remove it and run the stage that makes composites again")
    path.unlink()
    expect(world, "composite", 2, f"run.directory={run}")
    whole_again(world, "sample", 2, run)


@pytest.mark.parametrize(
    "damage",
    [pytest.param(cut_off, marks=FULL), lambda path: flip(path, path.stat().st_size // 2)],
)
def test_a_damaged_model_is_trained_again(world: World, damage: Callable) -> None:
    run = world.before("classify")
    damage(run / "model" / "model.pt")
    ending = expect(world, "classify", 2, f"run.directory={run}", code=1)
    assert ending.line("model.pt", "run `train` again")
    expect(world, "train", 2, f"run.directory={run}")
    whole_again(world, "classify", 2, run)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        pytest.param("composites/index.json", "sample", marks=FULL),
        pytest.param("model/model.json", "classify", marks=FULL),
        ("assessment/accuracy_S2018.json", "publish"),
    ],
)
def test_a_truncated_json_file_is_named(world: World, name: str, stage: str) -> None:
    run = world.before(stage)
    with kept(run / name) as path:
        cut_off(path)
        expect(world, stage, 2, f"run.directory={run}", code=1).line(str(path), "remove it and run")
    whole_again(world, stage, 2, run)


def test_a_truncated_map_is_published_again(world: World) -> None:
    run = harness.fresh(world)
    cut_off(sorted(run.glob("maps/*_MAP_*_32TPS_*.tif"))[0], 0.9)
    whole_again(world, "publish", 2, run)


# --- a changed configuration ----------------------------------------------------------------------


def test_of_a_changed_configuration_only_what_is_stale_is_made_again(world: World) -> None:
    run, other = harness.fresh(world), world.folder / "struck-other"
    made = {path: path.stat().st_mtime_ns for path in run.glob("*/**/*.h5")}
    expect(world, "run", 2, f"run.directory={run}", "train.c=[1]")
    kinds = {
        path.relative_to(run).parts[0] for path in made if path.stat().st_mtime_ns != made[path]
    }
    assert kinds == {"probabilities", "consistent"}
    shutil.rmtree(other, ignore_errors=True)
    expect(world, "run", 2, f"run.directory={other}", "train.c=[1]")
    # What was kept says which configuration it was made with; what was published stays, and has a successor.
    kept_ones = ("composites/", "samples/samples.h5")
    published = ("maps/", "stac/", "assessment/", "only in one: maps/", "only in one: stac/")
    differing = [
        text for text in differences(other, run)
        if not (text.startswith(kept_ones) and text.endswith(": attributes differ"))
        and not text.startswith(published)
    ]  # fmt: skip
    assert list((run / "maps").glob("*_V02.tif")) and not list((other / "maps").glob("*_V02.tif"))
    assert differing == []
