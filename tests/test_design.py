"""The design: sizes by the formula, the same points on any number of ranks, and filled in read back."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from osgeo import gdal, ogr

from lcu import config as configuration
from lcu.assess import Sources, design, draw, points, run, stratified_estimates
from lcu.config import Assess
from lcu.grid import Grid, Tile
from lcu.ranks import RankError

gdal.UseExceptions()

SIDE = 300
NAMES = {1: "Urban", 8: "Broadleaves", 9: "Conifers", 11: "Lake"}


def grid_at(x, crs="EPSG:32631"):
    return Grid(crs, (float(x), 10.0, 0.0, 5_000_000.0, 0.0, -10.0), SIDE, SIDE)


class World:
    """Two overlapping tiles with a truth and a map that is wrong in places, both known."""

    def __init__(self, folder, **assess):
        (folder / "old.tif").touch()
        tables = {
            "run": {"directory": "run"},
            "archive": {"kind": "safe", "path": ["."], "years": [2018, 2019]},
            "sample": {"old_map": "old.tif", "old_map_year": 2012},
            "assess": assess,
        }
        self.config = configuration.build(tables, folder / "config.toml")
        self.tiles = {
            "31AAA": Tile("31AAA", grid_at(500_000)),
            "31BBB": Tile("31BBB", grid_at(502_000)),
        }
        random = np.random.default_rng(3)
        share = [0.05, 0.45, 0.45, 0.05]
        self.truth = {
            tile: random.choice([1, 8, 9, 11], (SIDE, SIDE), p=share) for tile in self.tiles
        }
        self.map = {tile: self.spoilt(truth, random) for tile, truth in self.truth.items()}

    @staticmethod
    def spoilt(truth, random):
        wrong = np.where(random.random(truth.shape) < 0.2, 8, truth)
        return np.where(random.random(truth.shape) < 0.01, 255, wrong).astype(np.uint8)

    def maps(self, tile, year, block):
        return self.map[tile][block.slices]

    def draw(self, total=0, comm=MPI.COMM_SELF):
        return draw(self.config, comm, self.tiles, self.maps, total)


def tables_of(path):
    """Return every table of a GeoPackage: name -> rows."""
    dataset = ogr.Open(str(path))
    return {
        layer.GetName(): [
            feature.items() | {"wkt": str(feature.GetGeometryRef())} for feature in layer
        ]
        for layer in (dataset.GetLayer(number) for number in range(dataset.GetLayerCount()))
    }


def fill(path, world, rows):
    """Write the truth into the points of a design, but for one in 25 that nobody could tell."""
    dataset = gdal.OpenEx(str(path), gdal.OF_VECTOR | gdal.OF_UPDATE)
    layer = dataset.GetLayerByName("points")
    layer.StartTransaction()
    for row in rows:
        feature = layer.GetFeature(row["id"] + 1)
        if row["id"] % 25:
            feature["class"] = NAMES[int(world.truth[row["tile"]][row["row"], row["col"]])]
            layer.SetFeature(feature)
        del feature
    layer.CommitTransaction()
    del layer, dataset


# --- how many -------------------------------------------------------------------------------------


def test_sample_size_is_that_of_the_formula():
    """Olofsson et al. 2014, section 5.1.1, with one user's accuracy for all classes."""
    area = np.array([0.2, 0.15, 3.2, 6.45])
    assert design.needed(area, Assess(design_error=0.01, design_users=0.8)) == 1600
    assert design.needed(area, Assess(design_error=0.02, design_users=0.9)) == 225


def test_rare_classes_get_the_least_and_the_rest_goes_by_area():
    found = design.sizes(np.array([100, 0, 4000, 6000, 400]), 640, 50)
    assert found.tolist() == [50, 0, 216, 324, 50]


def test_a_class_with_few_pixels_has_all_of_them():
    assert design.sizes(np.array([7, 10_000]), 200, 50).tolist() == [7, 150]


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=12), st.integers(0, 3000))
def test_sizes_add_up(pixels, more):
    pixels = np.array(pixels)
    total = 50 * np.count_nonzero(pixels) + more
    found = design.sizes(pixels, total, 50)
    assert (found <= pixels).all() and (found >= np.minimum(pixels, 50)).all()
    if (pixels > total).all():
        assert found.sum() == total


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="ask for 100 or more"):
        design.sizes(np.array([500, 500]), 60, 50)


# --- which ----------------------------------------------------------------------------------------


def test_points_lie_in_their_strata_and_do_not_show_them(tmp_path):
    world = World(tmp_path)
    path, lines = world.draw(500)
    tables = tables_of(path)
    assert set(tables) == {"points", "drawn", "strata"}
    assert set(tables["points"][0]) == {"id", "year", "class", "wkt"}
    assert all(row["class"] is None and row["year"] == 2019 for row in tables["points"])
    for row in tables["drawn"]:
        assert world.map[row["tile"]][row["row"], row["col"]] == row["stratum"]
    places = [(row["tile"], row["row"], row["col"]) for row in tables["drawn"]]
    assert len(set(places)) == len(places) == 500
    first = [row["stratum"] for row in tables["drawn"][:40]]
    assert first != sorted(first), "the order would tell the strata"
    for row in tables["strata"]:
        assert row["pixels"] == sum((part == row["stratum"]).sum() for part in world.map.values())
        assert (row["area"], row["unit"]) == (pytest.approx(row["pixels"] / 100), "hectares")
        assert row["points"] == sum(one["stratum"] == row["stratum"] for one in tables["drawn"])
    assert "500 points of the map of 2019" in lines[0]


def test_every_pixel_of_a_stratum_is_drawn_as_often_as_any_other(tmp_path):
    world = World(tmp_path)
    for tile in world.tiles:
        world.map[tile][:] = 8
        world.map[tile][:, 150:] = 9
    path, _ = world.draw(6000)
    rows = tables_of(path)["drawn"]
    corner = [row["row"] < 100 and row["col"] < 100 for row in rows if row["stratum"] == 8]
    expected = len(corner) * 100 * 100 / (300 * 150)
    assert abs(sum(corner) - expected) < 4 * math.sqrt(expected)


def test_a_design_is_not_overwritten(tmp_path):
    world = World(tmp_path)
    world.draw()
    with pytest.raises(RankError, match="there already") as caught:
        world.draw()
    assert caught.value.kinds == {"ConfigError"}


def test_what_cannot_be_drawn_is_said(tmp_path):
    world = World(tmp_path)
    with pytest.raises(RankError, match="assess.design_least") as caught:
        world.draw(60)
    assert caught.value.kinds == {"ConfigError"}
    world.tiles["31BBB"] = Tile("31BBB", grid_at(0, 'LOCAL_CS["field",UNIT["metre",1]]'))
    with pytest.raises(RankError, match="no place on Earth"):
        world.draw()
    world = World(tmp_path)
    for part in world.map.values():
        part[:] = 255
    with pytest.raises(RankError, match="no class anywhere"):
        world.draw()


# --- filled in ------------------------------------------------------------------------------------


def assessed(tmp_path, world, path):
    given = {"points": str(path), "points_nomenclature": "value"}
    config = World(tmp_path, **given).config
    sources = Sources(world.maps, lambda tile, block: world.map[tile][block.slices])
    failures = run(config, MPI.COMM_SELF, world.tiles, sources, lambda text: None)
    assert failures == []
    text = (config.directory / "assessment" / "accuracy_S2019.json").read_text(encoding="utf-8")
    assert not (config.directory / "assessment" / "accuracy_S2018.json").exists()
    return json.loads(text)


def test_a_filled_design_gives_the_accuracy_of_the_whole_map(tmp_path):
    world = World(tmp_path)
    path, _ = world.draw(800)
    rows = tables_of(path)["drawn"]
    fill(path, world, rows)
    result = assessed(tmp_path, world, path)
    assert {one["filter"]: one["removed"] for one in result["filters"]}["no class"] == 32
    found = result["estimates"]
    assert found["sample"].startswith("stratified") and found["points"] == 800 - 32
    units, areas = np.zeros((4, 5, 4)), np.zeros(4)
    places = {value: place for place, value in enumerate(NAMES)}
    for row in rows:
        if row["id"] % 25:
            stratum = places[row["stratum"]]
            truth = places[int(world.truth[row["tile"]][row["row"], row["col"]])]
            units[stratum, stratum, truth] += 1
    for value, place in places.items():
        areas[place] = sum((part == value).sum() for part in world.map.values()) / 100
    expected = stratified_estimates(units, areas)
    assert found["overall_accuracy"]["value"] == pytest.approx(expected["overall_accuracy"])
    assert found["overall_accuracy"]["se"] == pytest.approx(expected["overall_accuracy_se"])
    for place, name in enumerate(NAMES.values()):
        assert found["classes"][name]["hectares"]["value"] == pytest.approx(expected["area"][place])
    right = total = 0
    for tile in world.tiles:
        known = world.map[tile] != 255
        right, total = (
            right + (known & (world.map[tile] == world.truth[tile])).sum(),
            total + known.sum(),
        )
    assert (
        abs(found["overall_accuracy"]["value"] - right / total)
        < 4 * found["overall_accuracy"]["se"]
    )


def test_points_drawn_from_an_earlier_map_keep_their_strata(tmp_path):
    world = World(tmp_path)
    path, _ = world.draw(800)
    fill(path, world, tables_of(path)["drawn"])
    world.map = {tile: truth.astype(np.uint8) for tile, truth in world.truth.items()}
    found = assessed(tmp_path, world, path)["estimates"]
    assert found["overall_accuracy"]["value"] == pytest.approx(1)
    lake = sum((truth == 11).sum() for truth in world.truth.values()) / 100
    area = found["classes"]["Lake"]["hectares"]
    assert area["low"] <= lake <= area["high"]


def test_strata_of_another_legend_are_refused(tmp_path):
    world = World(tmp_path)
    path, _ = world.draw(500)
    dataset = gdal.OpenEx(str(path), gdal.OF_VECTOR | gdal.OF_UPDATE)
    dataset.ExecuteSQL("UPDATE strata SET stratum = 77 WHERE stratum = 8")
    del dataset
    with pytest.raises(
        ValueError, match=r"its strata \[77\] are no classes of the legend corine-12"
    ):
        points.load(Assess(points=str(path), points_nomenclature="value"), world.config.legend)


@pytest.mark.mpi
def test_points_are_the_same_for_any_number_of_ranks(mpi_tmp_path):
    comm, folder = MPI.COMM_WORLD, Path(mpi_tmp_path)
    if comm.rank == 0:
        (folder / "old.tif").touch()
    comm.Barrier()
    world = World(folder)
    path, _ = world.draw(500, comm)
    same = None
    if comm.rank == 0:
        kept = shutil.move(path, folder / "kept.gpkg")
        world.draw(500)
        same = tables_of(kept) == tables_of(path)
    assert comm.bcast(same, root=0)
