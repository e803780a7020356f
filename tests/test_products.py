"""Products that open everywhere: mosaic, styles, areas, STAC, read by software that is not GDAL."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
import pystac
import pytest
from osgeo import gdal, osr
from pystac.validation import validate_dict

from lcu import assess, legend, publish
from lcu.composite import Origin
from lcu.grid import Grid, Tile
from lcu.projection import outline, transform
from lcu.publish import areas, catalogue, mosaic, styles
from tests.test_publish import LEGEND, WIDE, World, assert_cog, grid_of, land_cover

WEST = Grid("EPSG:32631", (690_000.0, 10.0, 0.0, 5_600_000.0, 0.0, -10.0), 300, 280)
# In the next zone, over the eastern part of the same ground and beyond.
EAST = Grid("EPSG:32632", (265_700.0, 10.0, 0.0, 5_601_300.0, 0.0, -10.0), 260, 320)


def published(folder, name, grid, values):
    path = folder / f"{name}.tif"
    publish.write_product(path, "MAP", grid, lambda block: values[block.slices], LEGEND, {})
    return path


@pytest.fixture
def neighbours(tmp_path):
    """Return two tiles of two zones that overlap, each with one class, and their maps."""
    west = np.full((WEST.height, WEST.width), 1, np.uint8)
    east = np.full((EAST.height, EAST.width), 2, np.uint8)
    tiles = [Tile("31AAA", WEST), Tile("32AAA", EAST)]
    paths = [published(tmp_path, tile.id, tile.grid, values)
             for tile, values in zip(tiles, (west, east), strict=True)]  # fmt: skip
    return tiles, [(tile.grid, path) for tile, path in zip(tiles, paths, strict=True)]


def exactly(grid, source):
    """Return where the centre of each pixel of `grid` lies in the CRS of `source`, point by point."""
    west, step, _, north, _, fall = grid.transform
    x, y = np.meshgrid(
        west + step * (np.arange(grid.width) + 0.5), north + fall * (np.arange(grid.height) + 0.5)
    )
    return transform(x, y, grid.crs, source.crs)


def depth(grid, source):
    x, y = exactly(grid, source)
    west, south, east, north = source.bounds
    return np.minimum.reduce([x - west, east - x, y - south, north - y])


# --- the mosaic -----------------------------------------------------------------------------------


def test_the_mosaic_lies_on_the_grid_of_the_eea_around_all_tiles(neighbours):
    tiles, _ = neighbours
    whole = mosaic.tile_of(tiles)
    assert (whole.id, whole.grid.crs, whole.grid.resolution) == ("MOSAIC", "EPSG:3035", 10)
    assert all(edge % 10 == 0 for edge in whole.grid.bounds)
    west, south, east, north = whole.grid.bounds
    x, y = np.concatenate(
        [transform(*outline(tile.grid, 500), tile.grid.crs, "EPSG:3035") for tile in tiles], axis=1
    )
    for gap in (x.min() - west, east - x.max(), y.min() - south, north - y.max()):
        assert 0 <= gap < 10


def test_one_tile_is_warped_as_gdal_does_it(tmp_path):
    values = np.random.default_rng(1).integers(1, 13, (WEST.height, WEST.width)).astype(np.uint8)
    path = published(tmp_path, "map", WEST, values)
    whole = mosaic.tile_of([Tile("31AAA", WEST)])
    found = mosaic.read(whole.grid, [(WEST, path)], whole.grid.whole)
    expected = gdal.Warp(
        "", str(path), format="MEM", dstSRS="EPSG:3035", outputBounds=whole.grid.bounds,
        xRes=10, yRes=10, resampleAlg="near", errorThreshold=0,
    )  # fmt: skip
    same = found == expected.ReadAsArray()
    assert same.mean() > 0.9999  # a centre may lie between two pixels, to a tenth of a millimetre
    assert np.isin(found, LEGEND.values).mean() > 0.8


def test_where_tiles_overlap_the_pixel_farther_from_its_edge_wins(neighbours):
    tiles, sources = neighbours
    grid = mosaic.tile_of(tiles).grid
    found = mosaic.read(grid, sources, grid.whole)
    west, east = depth(grid, WEST), depth(grid, EAST)
    sure = np.minimum(np.minimum(abs(west), abs(east)), abs(west - east)) > 0.1
    expected = np.where(west > east, 1, 2)
    expected[np.maximum(west, east) < 0] = 255
    np.testing.assert_array_equal(found[sure], expected[sure])
    both = sure & (west > 0) & (east > 0)
    assert sure.mean() > 0.9 and both.sum() > 1000
    assert set(np.unique(found[both])) == {1, 2}


def test_a_class_goes_before_a_hole(neighbours, tmp_path):
    tiles, sources = neighbours
    holes = published(tmp_path, "holes", EAST, np.full((EAST.height, EAST.width), 255, np.uint8))
    grid = mosaic.tile_of(tiles).grid
    found = mosaic.read(grid, [sources[0], (EAST, holes)], grid.whole)
    inside = depth(grid, WEST) > 0.1
    assert (found[inside] == 1).all() and (depth(grid, EAST)[inside] > 0).any()


@pytest.mark.parametrize("size", [37, 128])
def test_the_mosaic_does_not_depend_on_blocks(neighbours, size):
    tiles, sources = neighbours
    grid = mosaic.tile_of(tiles).grid
    whole = mosaic.read(grid, sources, grid.whole)
    for block in grid.blocks(size):
        np.testing.assert_array_equal(mosaic.read(grid, sources, block), whole[block.slices])


def test_tiles_beyond_europe_are_in_no_mosaic():
    brazil = Grid("EPSG:32723", (600_000.0, 10.0, 0.0, 7_500_000.0, 0.0, -10.0), 9, 9)
    nowhere = grid_of(9, 'LOCAL_CS["field",UNIT["metre",1]]')
    assert [mosaic.in_europe(grid) for grid in (WEST, EAST, brazil, nowhere)] == [
        True,
        True,
        False,
        False,
    ]


def test_tiles_far_apart_have_no_mosaic():
    here, near, far = (
        Tile(f"{shift}", Grid(WEST.crs, (690_000.0 + shift, *WEST.transform[1:]), 300, 280))
        for shift in (0, 20_000, 60_000)
    )
    assert mosaic.tile_of([here, near]).grid.width > 2000
    assert mosaic.tile_of([here, far]) is None


# --- styles ---------------------------------------------------------------------------------------


def test_styles_hold_every_value_name_and_colour(tmp_path):
    expected = [(str(entry.value), entry.name, entry.colour.lower()) for entry in LEGEND.classes]
    expected.append(("254", "outside", "#d3d3d3"))
    qml, sld = (defusedxml.ElementTree.parse(path) for path in styles.write(tmp_path, LEGEND))
    renderer = qml.find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = renderer.findall("colorPalette/paletteEntry")
    assert [(e.get("value"), e.get("label"), e.get("color")) for e in entries] == expected
    root, at = sld.getroot(), {"": "http://www.opengis.net/sld"}
    assert root.tag == "{http://www.opengis.net/sld}StyledLayerDescriptor"
    assert root.get("version") == "1.0.0"
    symbols = root.find("NamedLayer/UserStyle/FeatureTypeStyle/Rule/RasterSymbolizer", at)
    # The order of SLD 1.0's schema.
    assert [part.tag.partition("}")[2] for part in symbols] == [
        "Opacity",
        "ChannelSelection",
        "ColorMap",
    ]
    assert symbols.find("ColorMap", at).get("type") == "values"
    entries = symbols.findall("ColorMap/ColorMapEntry", at)
    assert [(e.get("quantity"), e.get("label"), e.get("color")) for e in entries] == expected


def test_styles_survive_any_text_in_a_legend(tmp_path):
    entry = {"value": 1, "name": 'moor & <heath> "é"', "colour": "#AABBCC"}
    wild = legend.parse({"name": "a/b c", "class": [entry]}, "test")
    qml, sld = styles.write(tmp_path, wild)
    assert (Path(qml).name, Path(sld).name) == ("a-b-c.qml", "a-b-c.sld")
    for path, where in ((qml, ".//paletteEntry"), (sld, ".//{*}ColorMapEntry")):
        assert defusedxml.ElementTree.parse(path).find(where).get("label") == entry["name"]


# --- areas ----------------------------------------------------------------------------------------


def rows_of(text):
    return {(row["region"], int(row["value"])): row for row in csv.DictReader(io.StringIO(text))}


def test_areas_are_counted_pixels(tmp_path):
    values, tile = land_cover(WIDE), Tile("31AAA", grid_of(WIDE))
    path = published(tmp_path, "map", tile.grid, values)
    counted = areas.count(path, tile, 2018, LEGEND)
    rows = rows_of(areas.table([counted], {"31AAA": tile}, {}, LEGEND))
    classed = np.isin(values, LEGEND.values).sum()
    for entry in LEGEND.classes:
        row, pixels = rows["31AAA", entry.value], int((values == entry.value).sum())
        assert (row["class"], int(row["pixels"])) == (entry.name, pixels)
        assert float(row["hectares"]) == pytest.approx(pixels / 100, abs=0.006)
        assert float(row["percent"]) == pytest.approx(100 * pixels / classed, abs=1e-4)
        assert row["estimated_hectares"] == row["low_hectares"] == ""


def test_points_give_areas_with_intervals():
    small = legend.parse({"class": [
        {"value": 1, "name": "a", "colour": "#000000"}, {"value": 5, "name": "b", "colour": "#FFFFFF"},
    ]}, "test")  # fmt: skip
    matrix = [[66, 4], [3, 55], [2, 1]]
    points = {"reference": {"kind": "points"}, "error_matrix": matrix, "tiles": {}}
    tile = Tile("MOSAIC", Grid("EPSG:3035", (0.0, 10.0, 0.0, 0.0, 0.0, -10.0), 100, 100))
    counted = [("MOSAIC", 2018, (7000, 3000))]
    expected = assess.area_estimates(np.array(matrix), np.array([70.0, 30.0, 0.0]))
    for accuracy in ({2018: points}, {2018: {"reference": {"kind": "raster"}, "points": points}}):
        rows = rows_of(areas.table(counted, {"MOSAIC": tile}, accuracy, small))
        for index, value in enumerate((1, 5)):
            row = rows["MOSAIC", value]
            area, error = expected["area"][index], expected["area_se"][index]
            assert float(row["estimated_hectares"]) == pytest.approx(area, abs=0.01)
            assert float(row["low_hectares"]) == pytest.approx(area - 1.96 * error, abs=0.01)
            assert float(row["high_hectares"]) == pytest.approx(area + 1.96 * error, abs=0.01)
    raster = {2018: {**points, "reference": {"kind": "raster"}}}
    blind = {2018: {**points, "error_matrix": [[66, 4], [0, 0], [2, 1]]}}
    for accuracy in ({}, raster, blind):
        rows = rows_of(areas.table(counted, {"MOSAIC": tile}, accuracy, small))
        assert rows["MOSAIC", 1]["estimated_hectares"] == ""


# --- STAC -----------------------------------------------------------------------------------------

# From the tables of the extensions: fields that an item, a raster asset and its bands have here.
ITEM_FIELDS = {
    "proj:code": str, "proj:shape": list, "proj:transform": list, "proj:bbox": list,
    "processing:level": str, "processing:lineage": str, "processing:software": dict,
    "version": str,
}  # fmt: skip
FILE_FIELDS = {"file:size": int, "file:checksum": str}
BAND_FIELDS = {
    "raster:sampling": str, "raster:spatial_resolution": float, "raster:scale": float,
    "raster:offset": float,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the directory of a published run of two years, its archive beside it."""
    world = World(tmp_path_factory.mktemp("world"))
    origins = {"31AAA": [
        Origin(f"S2_{year}", datetime(year, 6, 1, tzinfo=UTC), str(world.folder / f"{year}.json"))
        for year in (2017, 2018, 2019)
    ]}  # fmt: skip
    paths, failures = world.run(world.config(), origins=origins)
    assert failures == []
    return world.folder / "first"


def items_of(run):
    collection = pystac.Collection.from_file(str(run / "stac" / "collection.json"))
    return collection, {item.id: item for item in collection.get_items()}


def test_the_catalogue_is_valid_and_complete(run):
    collection, items = items_of(run)
    assert set(items) == {
        f"LCU_LC_S{year}_R10m_{region}_V01"
        for region in ("31AAA_32631", "MOSAIC_03035")
        for year in (2018, 2019)
    }
    for entry in (collection, *items.values()):
        assert validate_dict(entry.to_dict(), extensions=[])
    assert {path.name for path in (run / "stac").iterdir()} == {
        "collection.json", *(f"{name}.json" for name in items)
    }  # fmt: skip
    held = {
        Path(asset.get_absolute_href()) for entry in (collection, *items.values())
        for asset in entry.assets.values()
    }  # fmt: skip
    products = set((run / "maps").iterdir()) - {run / "maps" / "versions.json"}  # lcu's own notes
    assert held == {*products, run / "assessment" / "areas.csv"}
    assert any(path.name.endswith(".aux.xml") for path in held)


def test_fields_of_extensions_have_their_names_and_types(run):
    collection, items = items_of(run)
    for item in items.values():
        assert {uri.split("/")[3] for uri in item.stac_extensions} == {
            "classification", "file", "processing", "projection", "raster", "version"
        }  # fmt: skip
        for name, kind in ITEM_FIELDS.items():
            assert type(item.properties[name]) is kind, name
        assert len(item.properties["proj:transform"]) == 6
        assert len(item.properties["proj:shape"]) == 2
        for asset in item.assets.values():
            for name, kind in FILE_FIELDS.items():
                assert type(asset.extra_fields[name]) is kind, name
        for entry in item.assets["map"].extra_fields["classification:classes"]:
            assert (
                {"value", "name"}
                <= set(entry)
                <= {"value", "name", "title", "color_hint", "nodata"}
            )
    item = items["LCU_LC_S2019_R10m_31AAA_32631_V01"]
    layers = {"map", "conf", "nobs", "prob", "post", "chg"}
    assert set(item.assets) == layers | {"map-names", "map-preview", "post-names"}
    post = item.assets["post"].extra_fields["classification:classes"]
    assert {252: "nothing observed in the year", 253: "not altered"}.items() <= {
        entry["value"]: entry["title"] for entry in post
    }.items()
    bands = item.assets["prob"].extra_fields["bands"]
    assert [band["name"] for band in bands] == LEGEND.names
    for band in bands:
        assert (band["data_type"], band["nodata"], band["raster:scale"]) == ("uint8", 255, 0.004)
        for name, kind in BAND_FIELDS.items():
            assert type(band[name]) is kind, name
    assert item.assets["nobs"].extra_fields["bands"][0]["data_type"] == "uint16"
    assert collection.extra_fields["version"] == "1"


def test_the_catalogue_says_what_the_files_say(run):
    _, items = items_of(run)
    for item in items.values():
        dataset = gdal.Open(item.assets["map"].get_absolute_href())
        west, step, _, north, _, fall = dataset.GetGeoTransform()
        assert item.properties["proj:transform"] == [step, 0, west, 0, fall, north]
        assert item.properties["proj:shape"] == [dataset.RasterYSize, dataset.RasterXSize]
        code = dataset.GetSpatialRef().GetAuthorityCode(None)
        assert item.properties["proj:code"] == f"EPSG:{code}"
        system = osr.SpatialReference()
        system.ImportFromEPSG(4326)
        corner = osr.CoordinateTransformation(dataset.GetSpatialRef(), system).TransformPoint(
            west, north
        )
        ring = np.array(item.geometry["coordinates"][0])
        assert abs(ring - [corner[1], corner[0]]).max(axis=1).min() < 1e-6
        legend_of = item.assets["map"].extra_fields["classification:classes"]
        named = {entry["value"]: entry["title"] for entry in legend_of}
        band = dataset.GetRasterBand(1)
        for value, name in named.items():
            assert band.GetCategoryNames()[value] == name


def test_every_checksum_is_that_of_its_file(run):
    collection, items = items_of(run)
    for entry in (collection, *items.values()):
        for asset in entry.assets.values():
            content = Path(asset.get_absolute_href()).read_bytes()
            assert asset.extra_fields["file:size"] == len(content)
            # 12 is SHA-256 among the multihashes, 20 its 32 bytes.
            assert (
                asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
            )


def test_an_item_names_the_acquisitions_of_its_year_and_the_collection_all(run):
    collection, items = items_of(run)
    for item in items.values():
        year = item.get_datetime() or item.common_metadata.start_datetime
        derived = item.get_links("derived_from")
        assert [link.title for link in derived] == [f"S2_{year.year}"]
        assert [link.href for link in derived] == [f"../../{year.year}.json"]
    assert [link.title for link in collection.get_links("derived_from")] == [
        "S2_2017", "S2_2018", "S2_2019"
    ]  # fmt: skip


def test_a_run_that_is_moved_keeps_its_catalogue(run, tmp_path):
    for path in (run / "stac").iterdir():
        text = path.read_text()
        assert str(run) not in text and "file://" not in text
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    collection, items = items_of(moved)
    for entry in (collection, *items.values()):
        for asset in entry.assets.values():
            path = Path(asset.get_absolute_href())
            assert path.is_relative_to(moved) and path.exists()


def test_a_place_not_on_earth_has_an_item_without_geometry(tmp_path):
    world = World(tmp_path)
    world.tiles = {"farm": Tile("farm", grid_of(WIDE, 'LOCAL_CS["field",UNIT["metre",1]]'))}
    paths, failures = world.run(world.config())
    assert failures == [] and not any("MOSAIC" in path for path in paths)
    collection, items = items_of(tmp_path / "first")
    for entry in (collection, *items.values()):
        assert validate_dict(entry.to_dict(), extensions=[])
    item = items["LCU_LC_S2018_R10m_farm_local_V01"]
    assert (item.geometry, item.bbox, item.properties["proj:code"]) == (None, None, None)
    assert item.properties["proj:wkt2"].startswith("ENGCRS[")


def test_periods_of_the_margin_count_to_the_year(tmp_path):
    config = World(tmp_path).config()
    found = [Origin(f"S2_{day}", datetime.fromisoformat(f"{day}T10:00:00+00:00"), "")
             for day in ("2017-12-31", "2018-01-01", "2018-12-31", "2019-01-01")]  # fmt: skip
    used = catalogue.origins_of_year(config, found, 2018)
    assert [item.id for item in used] == ["S2_2018-01-01", "S2_2018-12-31"]


# --- other software -------------------------------------------------------------------------------

# With libraries of its own: in one process, two versions of GDAL would meet.
READ = """
import json, sys
import rasterio
with rasterio.open(sys.argv[1]) as map:
    json.dump({"crs": map.crs.to_epsg(), "size": [map.height, map.width], "nodata": map.nodata,
               "colours": {value: colour[:3] for value, colour in map.colormap(1).items()},
               "transform": list(map.transform)[:6], "overviews": map.overviews(1), "blocks": map.block_shapes,
               "sum": int(map.read(1).astype(int).sum()), "layout": map.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]},
              sys.stdout)
"""


@pytest.mark.parametrize("name", ["31AAA_32631", "MOSAIC_03035"])
def test_rasterio_reads_a_map_with_its_colours_and_place(run, name):
    path = run / "maps" / f"LCU_LC_MAP_S2018_R10m_{name}_V01.tif"
    assert_cog(path)
    clean = {key: value for key, value in os.environ.items() if key[:4] not in ("GDAL", "PROJ")}
    done = subprocess.run(
        [sys.executable, "-c", READ, path], env=clean, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, dataset = json.loads(done.stdout), gdal.Open(str(path))
    west, step, _, north, _, fall = dataset.GetGeoTransform()
    assert found["transform"] == [step, 0, west, 0, fall, north]
    assert found["crs"] == int(name.partition("_")[2])
    assert found["size"] == [dataset.RasterYSize, dataset.RasterXSize]
    assert (found["nodata"], found["blocks"], found["layout"]) == (255, [[512, 512]], "COG")
    assert found["overviews"] == [2]
    assert found["sum"] == int(dataset.ReadAsArray().astype(int).sum())
    for entry in LEGEND.classes:
        assert tuple(found["colours"][str(entry.value)]) == entry.rgb
