"""The whole chain on a small synthetic landscape: one mpirun from acquisitions to maps."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from osgeo import gdal

from lcu.sample.oldmap import connected_areas
from tests.compare import differences
from tests.conftest import LIMIT, Mpirun, lcu

gdal.UseExceptions()


def accuracy(folder: Path, year: int = 2018) -> dict:
    """Return what the assessment says."""
    return json.loads((folder / "assessment" / f"accuracy_S{year}.json").read_text())


@pytest.mark.timeout(2 * LIMIT)
def test_one_job_makes_maps_of_every_year_with_their_accuracy(mapped: tuple[Path, str]) -> None:
    folder, said = mapped
    for year in (2018, 2019):
        result = accuracy(folder / "run", year)
        assert result["overall_accuracy"] > 0.7 and result["old_map"]["overall_accuracy"] > 0.7
        assert set(result["tiles"]) == {"32TPS", "32TQS"}
        for tile in ("32TPS", "32TQS"):
            for layer in ("MAP", "CONF", "NOBS", "PROB", "POST"):
                name = f"LCU_LC_{layer}_S{year}_R10m_{tile}_32632_V01.tif"
                assert (folder / "run" / "maps" / name).exists() and name in said
    assert "report" in said and (folder / "run" / "report" / "index.html").exists()
    assert said.count("\n2018") >= 2  # the table of accuracies
    for stage in ("simulate", "composite", "sample", "train", "classify", "assess", "publish"):
        assert f"\n{stage:<10} " in said


def published(
    folder: Path, layer: str, when: str, tile: str = "32TPS", version: int = 1
) -> np.ndarray:
    """Read a product."""
    name = f"LCU_LC_{layer}_{when}_R10m_{tile}_32632_V{version:02d}.tif"
    return gdal.Open(str(folder / "maps" / name)).ReadAsArray()


def alone(folder: Path, year: int, tile: str = "32TPS") -> np.ndarray:
    """Return the class values of a year's own probabilities; 255 and 254 where there are none."""
    with h5py.File(next((folder / "probabilities" / tile / str(year)).glob("*.h5"))) as file:
        probability = file["probability"][()]
    return np.where(probability[0] >= 254, probability[0], probability.argmax(axis=0) + 1)


def test_what_the_choice_over_years_altered_says_what_it_was(mapped: tuple[Path, str]) -> None:
    folder, altered = mapped[0] / "run", 0
    for year in (2018, 2019):
        cover, before = published(folder, "MAP", f"S{year}"), published(folder, "POST", f"S{year}")
        single = alone(folder, year)
        seen = (single < 254) & (cover < 254)
        assert seen.mean() > 0.9
        expected = np.where(single == cover, 253, single)
        np.testing.assert_array_equal(before[seen], expected[seen])
        altered += (expected[seen] != 253).sum()
    assert altered > 1000


def test_changes_are_those_between_the_maps(mapped: tuple[Path, str]) -> None:
    folder = mapped[0] / "run"
    before, after, probability = published(folder, "CHG", "2018-2019")
    maps = [published(folder, "MAP", f"S{year}") for year in (2018, 2019)]
    changed = (maps[0] != maps[1]) & (maps[0] < 254) & (maps[1] < 254)
    for found, cover in ((before, maps[0]), (after, maps[1])):
        np.testing.assert_array_equal(found[changed], cover[changed])
        assert (found[~changed] >= 253).all()
    assert changed.mean() < 0.03 and (probability[before == 253] < 250).all()


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.timeout(2 * LIMIT)
def test_everything_is_the_same_for_any_number_of_ranks(
    mapped: tuple[Path, str], mpirun: Mpirun, ranks: int
) -> None:
    folder = mapped[0]
    lcu(mpirun, ranks, "run", folder, f"run.directory=run-{ranks}")
    assert differences(folder / "run", folder / f"run-{ranks}") == []


@pytest.mark.timeout(2 * LIMIT)
def test_maps_of_a_network_do_not_depend_on_the_number_of_ranks(tiny: Path, mpirun: Mpirun) -> None:
    network = (
        "train.model=lstm",
        "train.series=masked",
        "train.carry_state=true",
        "train.epochs=1",
        "train.hidden=8",
    )
    for name in ("run-network", "run-network-3"):
        for part in ("composites", "samples"):
            shutil.copytree(tiny / "run" / part, tiny / name / part)
    lcu(mpirun, 2, "train", tiny, "run.directory=run-network", *network)
    shutil.copytree(tiny / "run-network" / "model", tiny / "run-network-3" / "model")
    for ranks, name in ((2, "run-network"), (3, "run-network-3")):
        lcu(mpirun, ranks, "classify", tiny, f"run.directory={name}", *network)
    made = [tiny / name / "probabilities" for name in ("run-network", "run-network-3")]
    assert differences(*made) == []


@pytest.mark.timeout(2 * LIMIT)
def test_maps_do_not_depend_on_block_and_shard_size(
    mapped: tuple[Path, str], mpirun: Mpirun
) -> None:
    folder = mapped[0]
    lcu(
        mpirun,
        2,
        "run",
        folder,
        "run.directory=run-cut",
        "composite.block=64",
        "composite.shard=128",
        "classify.shard=128",
    )
    for path in (folder / "run" / "maps").glob("*.tif"):
        other = folder / "run-cut" / "maps" / path.name
        np.testing.assert_array_equal(
            gdal.Open(str(path)).ReadAsArray(), gdal.Open(str(other)).ReadAsArray()
        )


def test_a_second_start_makes_nothing_anew(mapped: tuple[Path, str], mpirun: Mpirun) -> None:
    folder = mapped[0]
    made = {
        path: path.stat().st_mtime_ns
        for kind in ("composites", "samples", "model", "probabilities", "consistent", "maps")
        for path in (folder / "run" / kind).rglob("*.*")
        if path.suffix in (".h5", ".pt", ".tif")
    }
    assert len(made) > 15
    lcu(mpirun, 2, "run", folder)
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_status_and_plan_say_what_is_done(mapped: tuple[Path, str], mpirun: Mpirun) -> None:
    folder = mapped[0]
    said = lcu(mpirun, 2, "status", folder)
    assert "classify   8 finished files" in said and "0 failed" in said
    said = lcu(mpirun, 1, "plan", folder)
    assert "memory/rank" in said and "32TQS" in said
    said = lcu(mpirun, 1, "plan", folder, "run.memory_per_rank=0.3", code=2)
    assert "run.memory_per_rank: 0.3 GiB" in said and "even with blocks of 64 pixels" in said
    lcu(
        mpirun,
        2,
        "composite",
        folder,
        "run.memory_per_rank=0.3",
        "run.directory=run-cramped",
        code=2,
    )


def shuffle_polygons(path: Path, seed: int) -> None:
    """Deal the codes of a map out anew over its polygons."""
    dataset = gdal.Open(str(path), gdal.GA_Update)
    codes = dataset.ReadAsArray().astype(np.int32)
    areas = connected_areas(codes)
    numbers, first = np.unique(areas[areas > 0], return_index=True)
    shuffled = np.zeros(areas.max() + 1, codes.dtype)
    shuffled[numbers] = np.random.default_rng(seed).permutation(codes[areas > 0][first])
    dataset.GetRasterBand(1).WriteArray(shuffled[areas])


@pytest.mark.timeout(2 * LIMIT)
def test_with_shuffled_labels_the_map_falls_to_chance(
    mapped: tuple[Path, str], copied: Path, mpirun: Mpirun
) -> None:
    shuffle_polygons(copied / "old_map.tif", 1)
    for stage in ("composite", "sample", "train", "classify", "assess"):
        lcu(mpirun, 2, stage, copied)
    # Kappa is 0 for agreement by chance; the few dozen polygons of two small tiles leave some luck.
    assert accuracy(mapped[0] / "run")["kappa"] > 0.6
    assert abs(accuracy(copied / "run")["kappa"]) < 0.2


# --- bad input ------------------------------------------------------------------------------------


def failed(folder: Path) -> list[list[str]]:
    """Return the rows of failed.csv."""
    with (folder / "run" / "failed.csv").open() as file:
        return list(csv.reader(file))[1:]


def product(folder: Path, tile: str = "32TPS", position: int = 5) -> Path:
    """Return one product of a tile."""
    return sorted((folder / "products").glob(f"*_T{tile}_*.SAFE"))[position]


def cut_off(path: Path) -> None:
    """Leave the first 60 % of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def test_a_truncated_jp2_costs_its_acquisition_only(copied: Path, mpirun: Mpirun) -> None:
    bad = product(copied)
    cut_off(next(bad.rglob("*_B04_10m.jp2")))
    said = lcu(mpirun, 2, "composite", copied, code=1)
    rows = failed(copied)
    assert len(rows) == 1 and bad.stem in rows[0][1] and "B04" in rows[0][2], rows
    assert bad.stem in said and "the rest is complete" in said
    # The composites are those of an archive that never had the product.
    shutil.rmtree(bad)
    lcu(mpirun, 2, "composite", copied, "run.directory=run-without")
    assert differences(copied / "run" / "composites", copied / "run-without" / "composites") == []


def test_a_product_without_scl_is_named_and_left_out(copied: Path, mpirun: Mpirun) -> None:
    bad = product(copied)
    next(bad.rglob("*_SCL_20m.jp2")).unlink()
    said = lcu(mpirun, 2, "composite", copied, code=1)
    assert [bad.stem in row[1] for row in failed(copied)] == [True]
    assert "SCL" in said and "composite.mask" in said
    lcu(mpirun, 2, "composite", copied, 'composite.mask="none"', "run.directory=run-unmasked")


def test_a_tile_year_without_acquisitions_is_reported_and_its_maps_are_nodata(
    copied: Path, mpirun: Mpirun
) -> None:
    for path in (copied / "products").glob("*MSIL2A_2019*_T32TQS_*.SAFE"):
        shutil.rmtree(path)
    said = lcu(mpirun, 2, "run", copied, code=1)
    assert "32TQS 2019" in said and ["composite", "32TQS 2019"] in [
        row[:2] for row in failed(copied)
    ]
    # The map of that year follows from the other one, and says so.
    run = copied / "run"
    assert (published(run, "NOBS", "S2019", "32TQS") == 0).all()
    cover, before = (published(run, layer, "S2019", "32TQS") for layer in ("MAP", "POST"))
    assert (before[cover < 254] == 252).all() and (cover < 254).mean() > 0.9
    other = published(run, "MAP", "S2018", "32TQS")
    assert (cover == other)[:, 100:].all()  # where the other tile does not reach
    lcu(mpirun, 2, "classify", copied, "classify.years=none", code=1)
    lcu(mpirun, 2, "publish", copied, "classify.years=none", code=1)
    assert (published(run, "MAP", "S2019", "32TQS", version=2) == 255).all()


def test_a_tile_without_any_acquisition_is_reported(copied: Path, mpirun: Mpirun) -> None:
    said = lcu(mpirun, 2, "composite", copied, 'archive.tiles=["32TPS", "32UNA"]', code=1)
    assert ["32UNA"] == [row[1] for row in failed(copied)] and "32UNA" in said


def test_an_archive_without_acquisitions_ends_at_once(copied: Path, mpirun: Mpirun) -> None:
    shutil.rmtree(copied / "products")
    (copied / "products").mkdir()
    said = lcu(mpirun, 2, "composite", copied, code=1)
    assert "products" in said


def test_an_old_map_that_does_not_overlap_is_a_usage_error(copied: Path, mpirun: Mpirun) -> None:
    dataset = gdal.Open(str(copied / "old_map.tif"), gdal.GA_Update)
    transform = list(dataset.GetGeoTransform())
    transform[0] += 500_000
    dataset.SetGeoTransform(transform)
    del dataset
    lcu(mpirun, 2, "composite", copied)
    said = lcu(mpirun, 2, "sample", copied, code=2)
    assert "old_map.tif does not overlap" in said and "sample.old_map" in said


def test_a_stage_that_comes_too_early_says_what_is_missing(copied: Path, mpirun: Mpirun) -> None:
    assert "run the stage `composite` first" in lcu(mpirun, 2, "sample", copied, code=1)
    assert "`sample` first" in lcu(mpirun, 2, "train", copied, code=1)


def test_wrong_usage_ends_with_2_and_is_said_once(tmp_path: Path, mpirun: Mpirun) -> None:
    done = mpirun(3, "-m", "lcu.main", "fly", "x.toml")
    assert done.returncode == 2 and done.stderr.count("invalid choice") == 1
    (tmp_path / "run.toml").write_text('[archive]\nkind = "zip"\n[nonsense]\n')
    said = lcu(mpirun, 3, "run", tmp_path, code=2)
    assert (
        said.count("archive.kind") == 1
        and "[nonsense]" in said
        and "run.directory: required" in said
    )
