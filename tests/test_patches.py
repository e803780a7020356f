"""The pixels around a sample: cut out of composites, filled, learned from, and mapped without seams."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from lcu.composite import fill_gaps
from lcu.sample import fill_series, patches
from tests.compare import differences_of_data
from tests.conftest import LIMIT, Mpirun, lcu


def test_a_patch_is_the_square_around_its_pixel() -> None:
    raster = np.random.default_rng(1).integers(1, 9000, (3, 2, 9, 8)).astype(np.uint16)
    around = np.pad(raster, ((0, 0), (0, 0), (2, 2), (2, 2)))
    rows, cols = np.array([0, 4, 8]), np.array([7, 3, 0])
    found = patches(around, rows, cols, 5)
    assert found.shape == (3, 3, 2, 5, 5)
    np.testing.assert_array_equal(found[..., 2, 2], raster[:, :, rows, cols].transpose(2, 0, 1))
    np.testing.assert_array_equal(found[1], raster[:, :, 2:7, 1:6])
    assert (found[0, ..., :2, :] == 0).all() and (found[0, ..., 3:] == 0).all()
    single = patches(raster, rows, cols, 1)[..., 0, 0]
    np.testing.assert_array_equal(single, found[..., 2, 2])


def test_every_pixel_of_a_patch_is_filled_in_time_as_in_a_raster() -> None:
    random = np.random.default_rng(2)
    raster = random.integers(1, 9000, (6, 2, 9, 9)).astype(np.uint16)
    raster *= random.random((6, 1, 9, 9)) > 0.5
    days = np.arange(6, dtype=np.int32) * 30
    rows, cols = np.divmod(np.arange(25), 5)
    found = fill_series(patches(raster, rows, cols, 5), np.tile(days, (25, 1)), days)
    np.testing.assert_array_equal(found, patches(fill_gaps(raster, days)[0], rows, cols, 5))


SETS = ("train.model=convlstm", "train.hidden=8", "train.epochs=2", "sample.per_class=60",
        "classify.years=none")  # fmt: skip


@pytest.mark.timeout(2 * LIMIT)
def test_samples_and_maps_with_patches_do_not_depend_on_ranks_or_blocks(
    tiny: Path, mpirun: Mpirun
) -> None:
    folder = tiny
    for name, ranks, shard in (("run-patch", 2, 256), ("run-patch-other", 3, 192)):
        (folder / name).mkdir()
        (folder / name / "composites").symlink_to(folder / "run" / "composites")
        sets = [*SETS, f"run.directory={name}", f"classify.shard={shard}"]
        if ranks == 3:
            sets.append("train.from_model=run-patch")
        lcu(mpirun, ranks, "run", folder, *sets)
    both = [folder / name for name in ("run-patch", "run-patch-other")]
    assert differences_of_data(*both) == []
    _samples_lie_where_they_say(folder)
    about = json.loads((both[0] / "model" / "model.json").read_text())
    assert about["architecture"]["network"] == "convlstm"


def _samples_lie_where_they_say(folder: Path) -> None:
    """Compare patches with the composites, beyond whose edges they are 0."""
    with h5py.File(folder / "run-patch" / "samples" / "samples.h5") as file:
        patch, series = file["patch"][()], file["series"][()]
        rows, cols, tile = file["row"][()], file["col"][()], file["tile"][()]
        names = file.attrs["tiles"].split(", ")
    np.testing.assert_array_equal(patch[..., 2, 2], series)
    for number, name in enumerate(names):
        with h5py.File(folder / "run" / "composites" / f"{name}.h5") as file:
            raster = file["reflectance"][()]
        own = tile == number
        around = np.pad(raster, ((0, 0), (0, 0), (2, 2), (2, 2)))
        assert own.any()
        np.testing.assert_array_equal(patch[own], patches(around, rows[own], cols[own], 5))
