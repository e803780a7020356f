"""Polygons of change: their areas, classes and probabilities against labels made with SciPy."""

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from osgeo import gdal, ogr
from scipy import ndimage

from lcu import config as configuration
from lcu import legend, publish
from lcu.grid import Grid, Tile
from lcu.publish import polygons

gdal.UseExceptions()

LEGEND = legend.load("corine-12")
SIDE = 200
NAME = "LCU_LC_CHG_2018-2019_R10m_31AAA_32631_V01"


def grid_of(crs="EPSG:32631"):
    return Grid(crs, (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0), SIDE, SIDE)


def changes():
    """Return class before, class after and probability, uint8 [3, y, x]: patches of 8 pixels, some changed."""
    random = np.random.default_rng(5)
    patches = random.choice([253, 253, 253, 1, 2, 5], (2, SIDE // 8, SIDE // 8))
    patches[:, (patches == 253).any(axis=0) | (patches[0] == patches[1])] = 253
    before, after = np.kron(patches, np.ones((8, 8), int)).astype(np.uint8)
    before[90:120, 30:60] = after[90:120, 30:60] = 255
    probability = random.integers(0, 251, (SIDE, SIDE)).astype(np.uint8)
    return np.stack([before, after, np.where(before == 255, 255, probability)]).astype(np.uint8)


def write(folder, values, grid=None):
    grid = grid or grid_of()
    path = folder / f"{NAME}.tif"
    publish.write_product(path, "CHG", grid, lambda block: values[(..., *block.slices)], LEGEND, {})
    polygons.write(
        path.with_suffix(".gpkg"), path, grid, (2018, 2019), LEGEND, {"LCU_TILE": "31AAA"}
    )
    return read(path.with_suffix(".gpkg"))


def read(path):
    dataset = ogr.Open(str(path))
    layer = dataset.GetLayer("change")
    return [feature.items() | {"wkt": feature.GetGeometryRef().ExportToWkt(),
                               "area": feature.GetGeometryRef().GetArea()} for feature in layer]  # fmt: skip


def expected_of(values):
    """Return (from, to, pixels, mean probability) of every connected area, sorted."""
    before, after, probability = (part.astype(int) for part in values)
    found = []
    for pair in {(b, a) for b, a in zip(before.ravel(), after.ravel(), strict=True) if b < 250}:
        labels, count = ndimage.label((before == pair[0]) & (after == pair[1]))
        for number in range(1, count + 1):
            part = labels == number
            found.append((*pair, int(part.sum()), round(probability[part].mean() / 250, 9)))
    return sorted(found)


def test_polygons_are_the_connected_areas_of_each_change(tmp_path):
    values = changes()
    found = write(tmp_path, values)
    told = [
        (one["from_value"], one["to_value"], one["pixels"], round(one["probability"], 9))
        for one in found
    ]
    assert sorted(told) == expected_of(values)
    assert len(found) > 20
    for one in found:
        assert one["area"] == pytest.approx(100 * one["pixels"])
        assert one["hectares"] == pytest.approx(one["pixels"] / 100)
        assert (one["from_year"], one["to_year"]) == (2018, 2019)
        assert one["from_class"] == LEGEND.names[one["from_value"] - 1]
        assert one["to_class"] == LEGEND.names[one["to_value"] - 1]
        assert "pair" not in one
    assert not list(tmp_path.glob(".*"))


def test_blocks_do_not_change_the_polygons(tmp_path, monkeypatch):
    whole = write(tmp_path, changes())
    monkeypatch.setattr(polygons, "BLOCK", 64)
    assert write(tmp_path, changes()) == whole


def test_a_tile_without_change_has_no_polygons(tmp_path):
    values = np.full((3, SIDE, SIDE), 253, np.uint8)
    assert write(tmp_path, values) == []


def test_polygons_on_a_grid_without_metres_have_no_hectares(tmp_path):
    found = write(tmp_path, changes(), grid_of('LOCAL_CS["field",UNIT["foot",0.3048]]'))
    assert found and all(one["hectares"] is None for one in found)


class World:
    """A tile whose changes are known, published."""

    def __init__(self, folder):
        (folder / "old.tif").touch()
        tables = {
            "run": {"directory": "run"},
            "archive": {"kind": "safe", "path": ["."], "years": [2018, 2019]},
            "sample": {"old_map": "old.tif", "old_map_year": 2012},
            "publish": {"change_polygons": True},
        }
        self.config = configuration.build(tables, folder / "config.toml")
        self.values = changes()

    def layers(self, tile, year, layer, block):
        if layer == "CHG":
            return self.values[(..., *block.slices)]
        if layer == "PROB":
            return np.full((12, block.height, block.width), 20, np.uint8)
        return np.full((block.height, block.width), 1, np.uint8)

    def run(self, comm):
        def old(tile, block):
            return np.full((block.height, block.width), 1, np.uint8)

        return publish.run(
            self.config, comm, {"31AAA": Tile("31AAA", grid_of())}, self.layers, old,
            fingerprint=lambda *unit: "-".join(map(str, unit)),
        )  # fmt: skip


def test_polygons_are_published_on_request_and_left_alone_when_they_are_there(tmp_path):
    world = World(tmp_path)
    paths, failures = world.run(MPI.COMM_SELF)
    path = next(Path(path) for path in paths if path.endswith(".gpkg"))
    assert failures == [] and path.name == f"{NAME}.gpkg"
    item = (world.config.directory / "stac" / "LCU_LC_S2019_R10m_31AAA_32631_V01.json").read_text()
    assert '"chg-polygons"' in item
    time = path.stat().st_mtime_ns
    again, _ = world.run(MPI.COMM_SELF)
    assert again == paths and path.stat().st_mtime_ns == time


@pytest.mark.mpi
def test_polygons_are_the_same_for_any_number_of_ranks(mpi_tmp_path):
    comm, folder = MPI.COMM_WORLD, Path(mpi_tmp_path)
    if comm.rank == 0:
        (folder / "old.tif").touch()
    comm.Barrier()
    world = World(folder)
    paths, failures = world.run(comm)
    path = next(path for path in paths if path.endswith(".gpkg"))
    assert failures == [] and len(read(path)) == len(expected_of(world.values))
