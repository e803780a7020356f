"""The assess stage with real files: rasters, masks, points, failures, any number of ranks."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from osgeo import gdal, osr

from lcu import config as configuration
from lcu.assess import (
    Sources,
    accuracies,
    area_estimates,
    error_matrix,
    read_codes,
    read_results,
    run,
)  # fmt: skip
from lcu.assess.reference import NO_CODE
from lcu.grid import Block, Grid, Tile

gdal.UseExceptions()

DATA = Path(__file__).parents[2] / "shared" / "data"
SIDE = 1300  # more than one block
CLASSES = np.arange(1, 13, dtype=np.uint8)
CODES = np.array([0, 111, 231, 211, 241, 131, 332, 331, 311, 312, 322, 512, 335], dtype=np.int32)


def write_raster(path, values, grid, nodata=None):
    kind = gdal.GDT_Byte if values.dtype == np.uint8 else gdal.GDT_Int32
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(str(path), grid.width, grid.height, 1, kind, ["COMPRESS=LZW"])
    system = osr.SpatialReference()
    system.SetFromUserInput(grid.crs)
    dataset.SetSpatialRef(system)
    dataset.SetGeoTransform(grid.transform)
    band = dataset.GetRasterBand(1)
    if nodata is not None:
        band.SetNoDataValue(nodata)
    band.WriteArray(values)
    del band, dataset  # flushing does not finish a GeoTIFF


def grid_at(x, y=5_000_000.0, side=SIDE, step=10.0, crs="EPSG:32631"):
    return Grid(crs, (float(x), step, 0.0, y, 0.0, -step), side, side)


class World:
    """Two overlapping tiles with a truth, a map of each year and an old map, all known."""

    years = (2018, 2019)

    def __init__(self, folder):
        self.folder = folder
        self.tiles = {"31AAA": Tile("31AAA", grid_at(500_000)),
                      "31BBB": Tile("31BBB", grid_at(512_000))}  # fmt: skip
        random = np.random.default_rng(8)
        shape = (len(self.tiles), SIDE, SIDE)
        self.truth = dict(zip(self.tiles, random.choice(CLASSES, shape), strict=True))
        self.map = {
            (tile, year): self._spoilt(truth, random, 0.1 * (year - 2017), 255)
            for tile, truth in self.truth.items()
            for year in self.years
        }
        self.old = {
            tile: self._spoilt(truth, random, 0.5, 255) for tile, truth in self.truth.items()
        }

    @staticmethod
    def _spoilt(truth, random, share, hole):
        values = np.where(
            random.random(truth.shape) < share, random.choice(CLASSES, truth.shape), truth
        )
        return np.where(random.random(truth.shape) < 0.02, hole, values).astype(np.uint8)

    def write_reference(self, pattern="{tile}.tif"):
        for tile in self.tiles.values():
            path = self.folder / pattern.replace("{tile}", tile.id)
            write_raster(path, CODES[self.truth[tile.id]], tile.grid)
        return str(self.folder / pattern)

    def config(self, **assess):
        (self.folder / "old.tif").touch()
        tables = {
            "run": {"directory": "run"},
            "archive": {"kind": "safe", "path": ["."], "years": list(self.years)},
            "sample": {"old_map": "old.tif", "old_map_year": 2018},
            "assess": assess,
        }
        return configuration.build(tables, self.folder / "config.toml")

    def maps(self, tile, year, block):
        return self.map[tile, year][block.slices]

    def old_map(self, tile, block):
        return self.old[tile][block.slices]

    def probability(self, tile, year, block):
        """Half of a pixel's probability for its class, the rest for the first of the others."""
        labels = self.maps(tile, year, block)
        written = np.zeros((len(CLASSES), *labels.shape), np.uint8)
        written[0] = 125
        for place, value in enumerate(CLASSES):
            written[place][labels == value] = 125 if place else 250
        return np.where(labels == 255, np.uint8(255), written)

    def sources(self, **changes):
        given = {"maps": self.maps, "old": self.old_map, "probability": self.probability,
                 "majority": 9, "temperature": 1.5}  # fmt: skip
        return Sources(**(given | changes))

    def run(self, config, comm=MPI.COMM_SELF):
        said = []
        failures = run(config, comm, self.tiles, self.sources(), said.append)
        return failures, "\n".join(said)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def result_of(config, year):
    path = config.directory / "assessment" / f"accuracy_S{year}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_matrices_of_all_blocks_are_those_of_the_tile(world):
    config = world.config(reference=world.write_reference())
    failures, said = world.run(config)
    assert failures == []
    for year in world.years:
        found = result_of(config, year)
        for tile in world.tiles:
            truth = world.truth[tile]
            expected = error_matrix(world.map[tile, year], truth, config.legend)
            assert found["tiles"][tile]["error_matrix"] == expected.tolist()
            old = error_matrix(world.old[tile], truth, config.legend)
            assert found["tiles"][tile]["old_map"]["error_matrix"] == old.tolist()
        matrices = [np.array(part["error_matrix"]) for part in found["tiles"].values()]
        assert found["error_matrix"] == sum(matrices).tolist()
        expected = accuracies(sum(matrices), config.legend)
        for key in ("overall_accuracy", "macro_f1", "kappa", "n"):
            assert found[key] == expected[key]
        assert set(found["classes"]) == set(config.legend.names)
        assert f"{found['overall_accuracy']:.4f}" in said
        assert f"{found['old_map']['overall_accuracy']:.4f}" in said


def test_every_printed_accuracy_has_the_old_maps_beside_it(world):
    _, said = world.run(world.config(reference=world.write_reference()))
    headers = [line for line in said.splitlines() if line.startswith("year") or " class " in line]
    assert headers
    for line in headers:
        if "where" not in line:
            assert line.count("old map") == 3
    assert "where the old map has a class" in said
    print(said)


def test_matrix_file_has_the_map_in_rows(world):
    config = world.config(reference=world.write_reference(), reference_year=2019)
    world.run(config)
    path = config.directory / "assessment" / "error_matrix_S2019.csv"
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["map \\ reference", *config.legend.names]
    assert [row[0] for row in rows[1:]] == [*config.legend.names, "unmapped"]
    numbers = np.array([row[1:] for row in rows[1:]], dtype=int)
    assert numbers.tolist() == result_of(config, 2019)["error_matrix"]
    assert not (path.parent / "accuracy_S2018.json").exists()
    assert not list(path.parent.glob(".*")), "a temporary file was left"


def test_without_a_reference_it_says_so_and_writes_no_accuracy(world):
    config = world.config()
    failures, said = world.run(config)
    assert failures == []
    assert "nothing to compare with" in said
    assert not list((config.directory / "assessment").glob("accuracy_*"))
    assert read_results(config) == {}


def test_results_are_read_back(world):
    config = world.config(reference=world.write_reference())
    world.run(config)
    assert list(read_results(config)) == [2018, 2019]


def test_excluded_pixels_are_left_out(world):
    for tile in world.tiles.values():
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[:, : SIDE // 2] = 7
        write_raster(world.folder / f"mask_{tile.id}.tif", mask, tile.grid)
    reference = world.write_reference()
    config = world.config(reference=reference, exclude=str(world.folder / "mask_{tile}.tif"))
    world.run(config)
    found = result_of(config, 2018)["tiles"]["31AAA"]
    right = np.s_[:, SIDE // 2 :]
    expected = error_matrix(
        world.map["31AAA", 2018][right], world.truth["31AAA"][right], config.legend
    )
    assert found["error_matrix"] == expected.tolist()


def test_a_missing_reference_costs_its_tile_only(world):
    reference = world.write_reference()
    (world.folder / "31BBB.tif").unlink()
    config = world.config(reference=reference)
    failures, _ = world.run(config)
    assert [failure.unit for failure in failures] == ["31BBB 2018", "31BBB 2019"]
    assert all("31BBB.tif" in failure.reason for failure in failures)
    assert list(result_of(config, 2018)["tiles"]) == ["31AAA"]


def test_a_damaged_reference_is_named(world):
    reference = world.write_reference()
    (world.folder / "31BBB.tif").write_bytes(b"not a raster")
    failures, _ = world.run(world.config(reference=reference))
    assert {failure.unit for failure in failures} == {"31BBB 2018", "31BBB 2019"}
    assert all("31BBB.tif" in failure.reason for failure in failures)


def test_a_truncated_reference_costs_its_blocks_only(world):
    reference = world.write_reference()
    path = world.folder / "31BBB.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    failures, _ = world.run(world.config(reference=reference))
    assert {failure.unit for failure in failures} == {"31BBB 2018", "31BBB 2019"}


def test_a_reference_that_lies_elsewhere_is_a_failure(world):
    reference = world.write_reference()
    elsewhere = grid_at(700_000)
    write_raster(world.folder / "31BBB.tif", CODES[world.truth["31BBB"]], elsewhere)
    failures, _ = world.run(world.config(reference=reference))
    assert len(failures) == 2
    assert all("does not overlap" in failure.reason for failure in failures)


def test_a_reference_of_another_nomenclature_is_a_failure(world):
    reference = world.write_reference()
    write_raster(world.folder / "31BBB.tif", world.truth["31BBB"] + np.uint8(20),
                 world.tiles["31BBB"].grid)  # fmt: skip
    failures, _ = world.run(world.config(reference=reference))
    assert len(failures) == 2
    assert all("nomenclature 'corine'" in failure.reason for failure in failures)


def test_a_bad_block_costs_itself_only_and_is_named_once(world):
    config = world.config(reference=world.write_reference(), reference_year=2018)

    def maps(tile, year, block):
        if (tile, year) == ("31AAA", 2018) and block.row == 0:
            raise OSError("disk on fire")
        return world.maps(tile, year, block)

    failures = run(config, MPI.COMM_SELF, world.tiles, world.sources(maps=maps), lambda text: None)
    assert [failure.unit for failure in failures] == ["31AAA 2018"]
    assert failures[0].reason == "2 blocks left out: OSError: disk on fire"
    assert result_of(config, 2018)["tiles"]["31AAA"]["n"] == (SIDE - 1024) * SIDE


# --- reading the reference ------------------------------------------------------------------------


def test_a_reference_on_the_grid_is_read_as_it_is(tmp_path):
    grid = grid_at(500_000, side=70)
    codes = np.random.default_rng(1).integers(100, 600, (70, 70)).astype(np.int32)
    write_raster(tmp_path / "r.tif", codes, grid)
    np.testing.assert_array_equal(read_codes(str(tmp_path / "r.tif"), grid), codes)
    part = grid.part(Block(13, 29, 20, 31))
    np.testing.assert_array_equal(read_codes(str(tmp_path / "r.tif"), part), codes[13:33, 29:60])


def test_a_coarse_reference_is_repeated_and_its_outside_is_no_code(tmp_path):
    coarse = grid_at(500_000, side=2, step=100.0)
    write_raster(tmp_path / "r.tif", np.array([[1, 2], [0, 4]], np.uint8), coarse, nodata=0)
    codes = read_codes(str(tmp_path / "r.tif"), grid_at(500_000, side=25))
    expected = np.full((25, 25), NO_CODE)
    expected[:20, :20] = np.kron([[1, 2], [NO_CODE, 4]], np.ones((10, 10), int))
    np.testing.assert_array_equal(codes, expected)


def test_blocks_of_a_reference_in_another_crs_agree_with_the_whole(tmp_path):
    degrees = Grid("EPSG:4326", (2.9, 1e-4, 0.0, 45.2, 0.0, -1e-4), 3000, 3000)
    codes = np.random.default_rng(2).integers(1, 250, (3000, 3000)).astype(np.uint8)
    write_raster(tmp_path / "r.tif", codes, degrees)
    grid = grid_at(500_000, side=400)
    whole = read_codes(str(tmp_path / "r.tif"), grid)
    assert (whole != NO_CODE).all()
    for block in grid.blocks(150):
        part = read_codes(str(tmp_path / "r.tif"), grid.part(block))
        np.testing.assert_array_equal(part, whole[block.slices])


def test_the_official_corine_raster_with_an_impossible_nodata_is_read():
    path = DATA / "corine" / "U2018_CLC2018_V2020_20u1_FR_GLP.tif"
    if not path.exists():
        pytest.skip("the CORINE raster of Guadeloupe is not here (shared/data/corine)")
    dataset = gdal.Open(str(path))
    wkt = dataset.GetProjection()
    grid = Grid(wkt, dataset.GetGeoTransform(), dataset.RasterYSize, dataset.RasterXSize)
    codes = read_codes(str(path), grid)
    np.testing.assert_array_equal(codes, dataset.GetRasterBand(1).ReadAsArray())
    far = read_codes(str(path), grid_at(500_000, side=30))
    assert (far == NO_CODE).all()


# --- points ---------------------------------------------------------------------------------------


def write_points(world, number=300, header="lon,lat,class", year=None):
    """Write points in the middle of pixels of the first tile; return the pixels."""
    random = np.random.default_rng(4)
    rows, cols = random.choice(SIDE, (2, number))
    grid = world.tiles["31AAA"].grid
    system, degrees = osr.SpatialReference(), osr.SpatialReference()
    system.SetFromUserInput(grid.crs)
    degrees.ImportFromEPSG(4326)
    for one in (system, degrees):
        one.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    change = osr.CoordinateTransformation(system, degrees)
    lines = [header]
    for row, col in zip(rows, cols, strict=True):
        x, y = grid.transform[0] + 10 * (col + 0.5), grid.transform[3] - 10 * (row + 0.5)
        lon, lat, _ = change.TransformPoint(x, y)
        place = (lon, lat) if header.startswith("lon") else (x, y)
        code = CODES[world.truth["31AAA"][row, col]]
        stated = "" if year is None else f",{year}"
        lines.append(f"{place[0]:.12f},{place[1]:.12f},{code}{stated}")
    path = world.folder / "points.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path), rows, cols


@pytest.mark.parametrize("header", ["lon,lat,class", "x,y,class"])
def test_points_are_compared_with_their_pixels(world, header):
    path, rows, cols = write_points(world, header=header)
    world.tiles.pop("31BBB")
    config = world.config(points=path, points_nomenclature="corine")
    failures, said = world.run(config)
    assert failures == []
    assert "Accuracy against points" in said
    for year in world.years:
        mapped = world.map["31AAA", year][rows, cols]
        expected = error_matrix(mapped, world.truth["31AAA"][rows, cols], config.legend)
        found = result_of(config, year)
        assert found["error_matrix"] == expected.tolist()
        assert found["reference"]["usable"] == 300


def test_points_that_state_a_year_are_compared_with_that_year(world):
    path, *_ = write_points(world, header="lon,lat,class,year", year=2019)
    config = world.config(points=path, points_nomenclature="corine")
    failures, _ = world.run(config)
    assert failures == []
    assert list(read_results(config)) == [2019]
    fixed = world.config(points=path, points_nomenclature="corine", points_year=2018)
    world.run(fixed)
    assert list(read_results(fixed)) == [2018, 2019]


def test_points_of_no_mapped_year_are_a_failure(world):
    path, *_ = write_points(world, header="lon,lat,class,year", year=2006)
    failures, _ = world.run(world.config(points=path, points_nomenclature="corine"))
    assert len(failures) == 1
    assert "assess.points_year" in failures[0].reason


def test_points_that_cannot_be_read_are_a_failure(world):
    path = world.folder / "points.csv"
    path.write_text("name,colour\nred,1\n", encoding="utf-8")
    failures, _ = world.run(world.config(points=str(path), points_nomenclature="corine"))
    assert len(failures) == 1
    assert "expected columns lon, lat or x, y" in failures[0].reason


def test_points_by_degrees_on_a_local_grid_are_a_failure(world):
    path, *_ = write_points(world)
    local = grid_at(0, crs='LOCAL_CS["field",UNIT["metre",1]]')
    world.tiles = {"31AAA": Tile("31AAA", local)}
    failures, _ = world.run(world.config(points=path, points_nomenclature="corine"))
    assert len(failures) == 1
    assert "31AAA" in failures[0].reason


def test_x_and_y_on_tiles_of_two_zones_are_a_failure(world):
    path, *_ = write_points(world, header="x,y,class")
    world.tiles["31BBB"] = Tile("31BBB", grid_at(500_000, crs="EPSG:32632"))
    failures, _ = world.run(world.config(points=path, points_nomenclature="corine"))
    assert len(failures) == 1
    assert "use lon, lat" in failures[0].reason


def test_raster_and_points_stand_together(world):
    path, *_ = write_points(world)
    reference = world.write_reference()
    config = world.config(reference=reference, points=path, points_nomenclature="corine")
    _, said = world.run(config)
    found = result_of(config, 2018)
    assert found["reference"]["kind"] == "raster"
    assert found["points"]["reference"]["kind"] == "points"
    assert (config.directory / "assessment" / "error_matrix_points_S2018.csv").exists()
    assert "Accuracy against raster" in said
    assert "Accuracy against points" in said


def test_excluded_points_are_left_out(world):
    path, _, cols = write_points(world)
    world.tiles.pop("31BBB")
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[:, :500] = 1
    write_raster(world.folder / "mask.tif", mask, world.tiles["31AAA"].grid)
    exclude = str(world.folder / "mask.tif")
    config = world.config(points=path, points_nomenclature="corine", exclude=exclude)
    world.run(config)
    assert result_of(config, 2018)["n"] == int((cols >= 500).sum())


def test_every_filter_is_in_the_file_with_what_it_removed(world):
    path, rows, cols = write_points(world, header="lon,lat,class,year", year=2019)
    text = Path(path).read_text(encoding="utf-8").splitlines()
    text[1] = text[1].rsplit(",", 1)[0] + ",2018"
    text += ["10.0,10.0,111,2019", "3.0,45.0,999,2019", ",,111,2019"]
    Path(path).write_text("\n".join(text) + "\n", encoding="utf-8")
    world.tiles.pop("31BBB")
    config = world.config(points=path, points_nomenclature="corine")
    _, said = world.run(config)
    found = {entry["filter"]: entry["removed"] for entry in result_of(config, 2019)["filters"]}
    assert found == {
        "no position": 1, "no class": 0, "class not in the legend": 1, "of another year": 1,
        "in no tile": 1,
    }  # fmt: skip
    assert result_of(config, 2019)["n"] == 299
    assert "points left out: 1 no position" in said


def test_estimates_weight_the_points_by_the_area_of_the_map(world):
    path, rows, cols = write_points(world)
    world.tiles.pop("31BBB")
    config = world.config(points=path, points_nomenclature="corine")
    world.run(config)
    found = result_of(config, 2018)
    matrix = np.array(found["error_matrix"])
    hectares = [0.01 * (world.map["31AAA", 2018] == value).sum() for value in CLASSES]
    expected = area_estimates(matrix, [*hectares, 0])
    whole = found["estimates"]["overall_accuracy"]
    assert whole["value"] == pytest.approx(expected["overall_accuracy"])
    assert whole["se"] == pytest.approx(expected["overall_accuracy_se"])
    assert whole["high"] - whole["low"] == pytest.approx(2 * 1.96 * whole["se"])
    lake = found["estimates"]["classes"]["Lake"]
    assert lake["hectares"]["value"] == pytest.approx(expected["area"][10])
    assert lake["producers"]["se"] == pytest.approx(expected["producers_se"][10])
    assert found["estimates"]["left_out"] == []
    assert found["estimates"]["points"] == matrix[:-1].sum()


def test_a_point_where_tiles_overlap_is_one_point_for_the_estimates(world):
    path, *_ = write_points(world)
    config = world.config(points=path, points_nomenclature="corine")
    world.run(config)
    found = result_of(config, 2018)
    twice = found["n"] - 300
    assert twice > 0
    assert found["estimates"]["points"] <= 300


def test_classes_without_points_are_named_and_left_out_of_the_estimates(world):
    path, *_ = write_points(world, number=12)
    world.tiles.pop("31BBB")
    config = world.config(points=path, points_nomenclature="corine")
    _, said = world.run(config)
    found = result_of(config, 2018)["estimates"]
    mapped = np.array(result_of(config, 2018)["error_matrix"])[:-1].sum(axis=1)
    empty = [name for name, points in zip(config.legend.names, mapped, strict=True) if not points]
    assert empty and found["left_out"] == empty
    shares = [(world.map["31AAA", 2018] == value).sum() for value in CLASSES]
    assert found["holds_for"] == pytest.approx(np.array(shares)[mapped > 0].sum() / np.sum(shares))
    assert f"no point in {', '.join(empty)}" in said


def test_reliability_is_that_of_the_class_that_the_map_shows(world):
    config = world.config(reference=world.write_reference(), reference_year=2018)
    world.run(config)
    found = result_of(config, 2018)["reliability"]
    filled = {entry["from"]: entry for entry in found["bins"] if entry["n"]}
    assert list(filled) == [0.5, 0.9]
    sure, half = filled[0.9], filled[0.5]
    assert (sure["confidence"], half["confidence"]) == (1.0, 0.5)
    right = total = 0
    for tile in world.tiles:
        other = (world.map[tile, 2018] > 1) & (world.map[tile, 2018] != 255)
        total += other.sum()
        right += (other & (world.map[tile, 2018] == world.truth[tile])).sum()
    assert (half["n"], half["accuracy"]) == (total, pytest.approx(right / total))
    gaps = half["n"] * abs(half["accuracy"] - 0.5) + sure["n"] * abs(sure["accuracy"] - 1)
    error = gaps / (half["n"] + sure["n"])
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert found["temperature"] == 1.5


def test_baselines_stand_beside_every_accuracy(world):
    config = world.config(reference=world.write_reference())
    _, said = world.run(config)
    found = result_of(config, 2018)
    for part in (found, *found["tiles"].values()):
        old, majority = part["baselines"]["old map"], part["baselines"]["majority class"]
        assert old["overall_accuracy"] == part["old_map"]["overall_accuracy"]
        share = part["classes"]["Conifers"]["n"] / part["n"]
        assert majority["class"] == "Conifers"
        assert majority["overall_accuracy"] == pytest.approx(share)
        assert majority["macro_f1"] == pytest.approx(2 * share / (1 + share) / 12)
    assert "a map of nothing but Conifers" in said


# --- consistency and change -----------------------------------------------------------------------


def consistency_of(config):
    path = config.directory / "assessment" / "consistency.json"
    return json.loads(path.read_text(encoding="utf-8"))


def changed_truth(world):
    """Write references of two years that differ where the map of 2019 shows a lake, and elsewhere."""
    later = {}
    for tile in world.tiles.values():
        first = world.truth[tile.id]
        later[tile.id] = np.where(world.map[tile.id, 2019] == 11, 11, first)
        later[tile.id][:, :40] = first[:, :40] % 12 + 1
        for year, values in ((2018, first), (2019, later[tile.id])):
            write_raster(world.folder / f"{tile.id}_{year}.tif", CODES[values], tile.grid)
    return str(world.folder / "{tile}_{year}.tif"), later


def test_agreement_has_accuracy_and_change_beside_it(world):
    reference, later = changed_truth(world)
    config = world.config(reference=reference)
    failures, said = world.run(config)
    assert failures == []
    pair = consistency_of(config)["pairs"][0]
    both = same = mapped = true = right = 0
    for tile in world.tiles:
        first, then = world.map[tile, 2018], world.map[tile, 2019]
        known = (first != 255) & (then != 255)
        both, same = both + known.sum(), same + (known & (first == then)).sum()
        changed, really = known & (first != then), world.truth[tile] != later[tile]
        mapped, true, right = (
            mapped + changed.sum(),
            true + really.sum(),
            right + (changed & really).sum(),
        )
    assert (pair["from"], pair["to"], pair["pixels"]) == (2018, 2019, both)
    assert pair["agreement"] == pytest.approx(same / both)
    assert pair["changed"] == pytest.approx(1 - same / both)
    assert pair["change"]["recall"] == pytest.approx(right / true)
    assert pair["change"]["precision"] == pytest.approx(right / mapped)
    assert pair["change"]["f1"] == pytest.approx(2 * right / (mapped + true))
    assert pair["change_reference"] == reference
    for year in world.years:
        assert pair["accuracy"][str(year)] == result_of(config, year)["overall_accuracy"]
    line = next(line for line in said.splitlines() if line.startswith("2018 to 2019"))
    assert all(f"{pair['change'][key]:.4f}" in line for key in ("precision", "recall", "f1"))


def test_without_a_reference_of_change_that_is_said_in_its_place(world):
    for keys in ({"reference": world.write_reference()}, {}):
        config = world.config(**keys)
        _, said = world.run(config)
        found = consistency_of(config)
        for pair in [*found["pairs"], *found["old_map"]["pairs"]]:
            assert pair["change"] is None
            assert pair["change_reference"].startswith("none: ")
        lines = [line for line in said.splitlines() if " to 2019" in line]
        assert len(lines) == 2 and all("reference of change: none" in line for line in lines)


def test_change_since_the_old_map_is_compared_where_there_is_a_reference_of_its_year(world):
    reference, later = changed_truth(world)
    config = world.config(reference=reference)
    world.run(config)
    found = consistency_of(config)["old_map"]
    assert found["year"] == 2018
    same_year, pair = found["pairs"]
    assert same_year["change"]["changed_in_reference"] == 0
    assert pair["change"]["changed_in_reference"] == sum(
        (world.truth[tile] != later[tile]).sum() for tile in world.tiles
    )
    assert pair["accuracy"]["old_map"] == result_of(config, 2019)["old_map"]["overall_accuracy"]


def test_transitions_since_the_old_map_in_pixels_and_hectares(world):
    config = world.config()
    world.run(config)
    found = consistency_of(config)
    pair = found["old_map"]["pairs"][1]
    pixels = np.array(pair["transitions"])
    expected = sum(
        ((world.old[tile] == 2) & (world.map[tile, 2019] == 8)).sum() for tile in world.tiles
    )
    assert pixels[1, 7] == expected
    assert pixels.sum() == 2 * SIDE * SIDE
    path = config.directory / "assessment" / "transitions_2018-2019.csv"
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["from \\ to", *config.legend.names, "no class"]
    assert [row[0] for row in rows[1:]] == [*config.legend.names, "no class"]
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float), pixels / 100)
    grass = pair["classes"]["Grass"]["hectares"]
    assert grass["before"] - grass["lost"] + grass["gained"] == pytest.approx(grass["after"])
    assert grass["kept"] == pytest.approx(pixels[1, 1] / 100)


def test_flips_are_years_that_differ_from_both_sides(world):
    world.years = (2018, 2019, 2020)
    for tile in world.tiles:
        world.map[tile, 2020] = world.map[tile, 2018].copy()
        world.map[tile, 2020][:, :100] = 5
    config = world.config()
    world.run(config)
    known = flipped = same = 0
    for tile in world.tiles:
        a, b, c = (world.map[tile, year] for year in world.years)
        there = (a != 255) & (b != 255) & (c != 255)
        known += there.sum()
        flipped += (there & (a == c) & (a != b)).sum()
        same += (there & (a == b) & (b == c)).sum()
    (found,) = consistency_of(config)["flips"]
    assert (found["pixels"], found["flipped"]) == (known, pytest.approx(flipped / known))
    assert consistency_of(config)["all_years"]["agreement"] == pytest.approx(same / known)


# --- ranks ----------------------------------------------------------------------------------------


def digest(folder):
    """Return a checksum of every file of the assessment."""
    files = sorted((folder / "run" / "assessment").iterdir())
    names = [file.name for file in files]
    content = b"".join(file.read_bytes() for file in files)
    return names, hashlib.sha256(content).hexdigest()


@pytest.mark.mpi
def test_assessment_is_the_same_for_any_number_of_ranks(mpi_tmp_path):
    comm = MPI.COMM_WORLD
    folder = Path(mpi_tmp_path)
    world = World(folder)
    if comm.rank == 0:
        changed_truth(world)
        write_points(world)
        (folder / "old.tif").touch()
    comm.Barrier()
    config = world.config(
        reference=str(folder / "{tile}_{year}.tif"), points=str(folder / "points.csv"),
        points_nomenclature="corine",
    )  # fmt: skip
    failures, _ = world.run(config, comm)
    shared = digest(folder) if comm.rank == 0 else None
    comm.Barrier()
    if comm.rank == 0:
        world.run(config)
    alone = digest(folder) if comm.rank == 0 else None
    agreed = comm.bcast(shared == alone, root=0)
    assert agreed
    assert failures == []


@pytest.mark.mpi
def test_failures_are_known_on_every_rank(mpi_tmp_path):
    comm = MPI.COMM_WORLD
    world = World(Path(mpi_tmp_path))
    if comm.rank == 0:
        world.write_reference()
        (world.folder / "31BBB.tif").unlink()
        (world.folder / "old.tif").touch()
    comm.Barrier()
    config = world.config(reference=str(world.folder / "{tile}.tif"))
    failures, _ = world.run(config, comm)
    everywhere = comm.allgather([failure.unit for failure in failures])
    assert all(units == ["31BBB 2018", "31BBB 2019"] for units in everywhere)


def test_lower_rooms_are_pure():
    """Arithmetic needs neither files nor MPI."""
    program = (
        "import sys; import lcu.grid, lcu.legend; "
        "sys.exit(any(name in sys.modules for name in ('mpi4py', 'osgeo', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
