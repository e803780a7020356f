"""Products: valid Cloud-Optimised GeoTIFF with names and colours; previews; the report."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from osgeo import gdal
from osgeo_utils.samples import validate_cloud_optimized_geotiff

from lcu import assess, legend, publish
from lcu import config as configuration
from lcu.grid import Block, Grid, Tile
from lcu.publish import geotiff, preview, report
from lcu.publish.samples import draw_profiles, draw_samples
from lcu.ranks import Failure
from lcu.sample import Samples

gdal.UseExceptions()

LEGEND = legend.load("corine-12")
SIDE = 1300  # more than one block
WIDE = 600  # of the stage's tile: overviews, and quickly drawn


def grid_of(side=SIDE, crs="EPSG:32631"):
    return Grid(crs, (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0), side, side)


def land_cover(side=SIDE, seed=3):
    """Squares of 40 pixels, a hole without data and a corner outside."""
    coarse = np.random.default_rng(seed).integers(1, 13, (side // 40 + 1, side // 40 + 1))
    values = np.kron(coarse, np.ones((40, 40), int))[:side, :side].astype(np.uint8)
    values[100:140, 100:200] = 255
    values[-300:, -300:] = 254
    return values


def write(path, layer, values, grid=None, **tags):
    grid = grid or grid_of()

    def read(block):
        return values[(..., *block.slices)]

    publish.write_product(path, layer, grid, read, LEGEND, tags)
    dataset = gdal.Open(str(path))
    # GDAL's GeoTIFF reader looks into the companion file only after a question like this one.
    dataset.GetGeoTransform()
    return dataset


def assert_cog(path):
    warnings, errors, _ = validate_cloud_optimized_geotiff.validate(str(path), full_check=True)
    assert (errors, warnings) == ([], [])


# --- names ----------------------------------------------------------------------------------------


def test_names_of_products():
    name = publish.product_name("MAP", 2019, grid_of(), "31UFT", 1)
    assert name == "LCU_LC_MAP_S2019_R10m_31UFT_32631_V01.tif"
    wkt = 'LOCAL_CS["field",UNIT["metre",1]]'
    name = publish.product_name("MAP", 2022, grid_of(crs="EPSG:3006"), "sweden-a", 1)
    assert name == "LCU_LC_MAP_S2022_R10m_sweden-a_03006_V01.tif"
    name = publish.product_name("PROB", 2020, grid_of(crs=wkt), "farm", 12)
    assert name == "LCU_LC_PROB_S2020_R10m_farm_local_V12.tif"


# --- products -------------------------------------------------------------------------------------


def test_a_map_is_a_valid_cog_with_its_values_and_place(tmp_path):
    values = land_cover()
    dataset = write(tmp_path / "map.tif", "MAP", values, LCU_YEAR="2019")
    assert_cog(tmp_path / "map.tif")
    band = dataset.GetRasterBand(1)
    np.testing.assert_array_equal(band.ReadAsArray(), values)
    assert dataset.GetGeoTransform() == grid_of().transform
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == "32631"
    assert band.GetNoDataValue() == 255
    assert band.GetBlockSize() == [512, 512]
    assert dataset.GetMetadataItem("LAYOUT", "IMAGE_STRUCTURE") == "COG"
    assert dataset.GetMetadataItem("COMPRESSION", "IMAGE_STRUCTURE") == "DEFLATE"
    assert dataset.GetMetadataItem("LCU_YEAR") == "2019"
    assert dataset.GetMetadataItem("LCU_LAYER") == "MAP"
    assert dataset.GetMetadataItem("TIFFTAG_DATETIME") is None


def test_a_map_has_the_colours_and_names_of_the_legend(tmp_path):
    dataset = write(tmp_path / "map.tif", "MAP", land_cover())
    band = dataset.GetRasterBand(1)
    colours, names = band.GetColorTable(), band.GetCategoryNames()
    for entry in LEGEND.classes:
        assert colours.GetColorEntry(entry.value)[:3] == entry.rgb
        assert names[entry.value] == entry.name
        assert band.GetMetadataItem(f"CLASS_{entry.value}") == entry.name
    assert colours.GetColorEntry(254)[:3] == (211, 211, 211)
    assert (names[0], names[254], names[255]) == ("", "outside", "no data")


def test_a_map_has_a_table_of_its_values(tmp_path):
    dataset = write(tmp_path / "map.tif", "MAP", land_cover())
    band = dataset.GetRasterBand(1)
    table = band.GetDefaultRAT()
    columns = [table.GetNameOfCol(column) for column in range(table.GetColumnCount())]
    assert columns == ["Value", "Class", "Red", "Green", "Blue"]
    rows = [tuple(table.GetValueAsString(row, column) for column in range(5))
            for row in range(table.GetRowCount())]  # fmt: skip
    expected = [(entry.value, entry.name, *entry.rgb) for entry in LEGEND.classes]
    expected.append((254, "outside", 211, 211, 211))
    assert rows == [tuple(map(str, row)) for row in expected]
    assert table.GetUsageOfCol(0) == gdal.GFU_MinMax
    assert table.GetUsageOfCol(1) == gdal.GFU_Name
    assert band.GetColorInterpretation() == gdal.GCI_PaletteIndex


def test_names_stay_in_the_file_without_its_companion(tmp_path):
    write(tmp_path / "map.tif", "MAP", land_cover())
    alone = tmp_path / "alone.tif"
    alone.write_bytes((tmp_path / "map.tif").read_bytes())
    dataset = gdal.Open(str(alone))
    band = dataset.GetRasterBand(1)
    assert band.GetMetadataItem("CLASS_11") == "Lake"
    assert band.GetColorTable().GetColorEntry(11)[:3] == (0, 204, 242)


def test_overviews_of_a_map_hold_the_commonest_class(tmp_path):
    # One pixel of four is Snow, where a nearest neighbour would look.
    values = np.full((SIDE, SIDE), 9, dtype=np.uint8)
    values[::2, ::2] = 12
    values[:, SIDE // 2 :] += 1  # another pair in the other half: 10 and 13
    values[values == 13] = 1
    values[:200] = 255
    dataset = write(tmp_path / "map.tif", "MAP", values)
    band = dataset.GetRasterBand(1)
    assert band.GetOverviewCount() >= 2
    for level in range(band.GetOverviewCount()):
        overview = band.GetOverview(level).ReadAsArray()
        rows, cols = overview.shape
        below = overview[rows // 4 :]
        assert set(np.unique(below[:, : cols // 2 - 1])) == {9}
        assert set(np.unique(below[:, cols // 2 + 1 :])) == {10}
        assert (overview[: rows // 8] == 255).all()


def test_probabilities_have_a_band_for_each_class(tmp_path):
    random = np.random.default_rng(2)
    values = random.integers(0, 251, (12, SIDE, SIDE)).astype(np.uint8)
    values[:, :9] = 254
    values[:, 9:20] = 255
    dataset = write(tmp_path / "p.tif", "PROB", values)
    assert_cog(tmp_path / "p.tif")
    assert dataset.RasterCount == 12
    bands = [dataset.GetRasterBand(number) for number in range(1, 13)]
    assert [band.GetDescription() for band in bands] == LEGEND.names
    assert {band.GetScale() for band in bands} == {1 / 250}
    assert {band.GetNoDataValue() for band in bands} == {255}
    expected = np.where(values > 250, 255, values)
    np.testing.assert_array_equal(dataset.ReadAsArray(), expected)


def test_changes_have_both_classes_and_their_probability(tmp_path):
    values = np.full((3, SIDE, SIDE), 253, dtype=np.uint8)
    values[2], values[:, 7, :50] = 3, np.array([[9], [10], [240]])
    dataset = write(tmp_path / "c.tif", "CHG", values)
    assert_cog(tmp_path / "c.tif")
    bands = [dataset.GetRasterBand(number) for number in range(1, 4)]
    assert [band.GetDescription() for band in bands] == list(geotiff.CHANGE_BANDS)
    np.testing.assert_array_equal(dataset.ReadAsArray(), values)


def test_altered_pixels_say_in_words_what_they_were(tmp_path):
    values = np.full((SIDE, SIDE), 253, dtype=np.uint8)
    values[0, :3] = 9, 252, 255
    dataset = write(tmp_path / "post.tif", "POST", values)
    band = dataset.GetRasterBand(1)
    names = band.GetCategoryNames()
    assert [names[value] for value in (9, 252, 253)] == [
        "Conifers", "nothing observed in the year", "not altered",
    ]  # fmt: skip
    assert band.GetColorTable().GetColorEntry(9)[:3] == LEGEND.classes[8].rgb


def test_marks_never_enter_an_average(tmp_path):
    values = np.full((SIDE, SIDE), 60, dtype=np.uint8)
    values[::2] = 254
    dataset = write(tmp_path / "conf.tif", "CONF", values)
    band = dataset.GetRasterBand(1)
    assert set(np.unique(band.GetOverview(0).ReadAsArray())) == {60}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_keep_their_type(tmp_path, dtype):
    values = np.full((SIDE, SIDE), 200, dtype=dtype)
    values[5] = 0
    dataset = write(tmp_path / "n.tif", "NOBS", values)
    assert_cog(tmp_path / "n.tif")
    found = dataset.ReadAsArray()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert dataset.GetRasterBand(1).GetNoDataValue() is None


def test_a_small_tile_on_a_local_grid(tmp_path):
    wkt = 'LOCAL_CS["field",UNIT["metre",1]]'
    values = land_cover(400)
    dataset = write(tmp_path / "m.tif", "MAP", values, grid_of(400, wkt))
    assert_cog(tmp_path / "m.tif")
    np.testing.assert_array_equal(dataset.ReadAsArray(), values)


def test_a_product_is_read_in_blocks_each_once(tmp_path):
    seen = np.zeros((SIDE, SIDE), dtype=int)

    def read(block):
        assert block.height <= geotiff.BLOCK
        assert block.width <= geotiff.BLOCK
        seen[block.slices] += 1
        return np.ones((block.height, block.width), np.uint8)

    publish.write_product(tmp_path / "m.tif", "MAP", grid_of(), read, LEGEND, {})
    assert (seen == 1).all()


def test_a_product_that_fails_leaves_nothing(tmp_path):
    def read(block):
        if block.row:
            raise OSError("disk on fire")
        return np.ones((block.height, block.width), np.uint8)

    with pytest.raises(OSError, match="fire"):
        publish.write_product(tmp_path / "m.tif", "MAP", grid_of(), read, LEGEND, {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    (tmp_path / ".map.tif").mkdir()
    (tmp_path / ".map.tif" / "plain.tif").write_bytes(b"half a file")
    write(tmp_path / "map.tif", "MAP", land_cover())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


def test_a_block_of_the_wrong_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        publish.write_product(
            tmp_path / "m.tif",
            "MAP",
            grid_of(),
            lambda block: np.ones((3, 3), np.uint8),
            LEGEND,
            {},
        )


# --- pictures -------------------------------------------------------------------------------------


def test_commonest_value_of_each_square():
    values = np.array([[1, 1, 5, 254], [1, 7, 254, 255], [3, 3, 255, 255]], dtype=np.uint8)
    small = preview.commonest(values, 2, LEGEND)
    np.testing.assert_array_equal(small, [[1, 254], [3, 255]])


@pytest.mark.parametrize("size", [35, 70, 140])
def test_a_picture_does_not_depend_on_the_blocks(size):
    values, grid = land_cover(700), grid_of(700)
    blocks = [(block, values[block.slices]) for block in grid.blocks(size)]
    small = preview.shrink(blocks, grid, 7, LEGEND)
    np.testing.assert_array_equal(small, preview.commonest(values, 7, LEGEND))


@pytest.mark.parametrize(("side", "stride"), [(64, 1), (1000, 1), (1001, 2), (10980, 11)])
def test_pictures_are_at_most_a_thousand_pixels(side, stride):
    grid = grid_of(side)
    assert preview.stride_of(grid) == stride
    assert -(-side // stride) <= preview.LARGEST_SIDE
    assert preview.block_size(stride) % stride == 0


@pytest.mark.parametrize(
    ("length", "expected"), [(3750, 2000), (5000, 5000), (160, 100), (27450, 20000), (999, 500)]
)
def test_scale_bars_have_round_lengths(length, expected):
    assert preview.round_length(length) == expected


# --- the stage ------------------------------------------------------------------------------------


class World:
    """A tile with maps of two years and an old map, all known."""

    def __init__(self, folder):
        self.folder = folder
        self.tiles = {"31AAA": Tile("31AAA", grid_of(WIDE))}
        self.map = {2018: land_cover(WIDE, seed=1), 2019: land_cover(WIDE, seed=2)}
        self.asked = []

    def config(self, simulate=False, **assess):
        (self.folder / "old.tif").touch()
        tables = {
            "run": {"directory": "first"},
            "archive": {"kind": "safe", "path": ["."], "years": [2018, 2019]},
            "sample": {"old_map": "old.tif", "old_map_year": 2012},
            "assess": assess,
        }
        if simulate:
            tables["simulate"] = {}
        return configuration.build(tables, self.folder / "config.toml")

    def layers(self, tile, year, layer, block):
        self.asked.append((tile, year, layer))
        values = self.map[year][block.slices]
        if layer == "MAP":
            return values
        if layer == "CONF":
            return np.where(values > 250, 255, values * 5).astype(np.uint8)
        if layer == "NOBS":
            return values.astype(np.uint16) + 100
        if layer == "POST":
            return np.where(values > 250, 255, 253).astype(np.uint8)
        if layer == "CHG":
            return np.stack([values, self.map[2018][block.slices], values])
        hits = values == np.arange(1, 13, dtype=np.uint8)[:, None, None]
        return np.where(values > 250, values, hits * np.uint8(250)).astype(np.uint8)

    def old_map(self, tile, block):
        return self.map[2018][block.slices]

    def run(self, config, comm=MPI.COMM_SELF, layers=None, **more):
        return publish.run(config, comm, self.tiles, layers or self.layers, self.old_map, **more)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_every_layer_of_every_year_is_published(world):
    config = world.config()
    paths, failures = world.run(config)
    assert failures == []
    names = {Path(path).name for path in paths}
    expected = {
        f"LCU_LC_{layer}_S{year}_R10m_31AAA_32631_V01.tif"
        for layer in ("MAP", "CONF", "NOBS", "PROB", "POST")
        for year in (2018, 2019)
    } | {"LCU_LC_CHG_2018-2019_R10m_31AAA_32631_V01.tif"}
    pictures = {f"LCU_LC_MAP_S{year}_R10m_31AAA_32631_V01.png" for year in (2018, 2019)}
    expected |= {f"LCU_LC_MAP_S{year}_R10m_MOSAIC_03035_V01.tif" for year in (2018, 2019)}
    catalogue = {
        f"LCU_LC_S{year}_R10m_{region}_V01.json"
        for region in ("31AAA_32631", "MOSAIC_03035")
        for year in (2018, 2019)
    }
    shared = {"collection.json", "areas.csv", "corine-12.qml", "corine-12.sld", "index.html"}
    assert names == expected | pictures | catalogue | shared
    assert all(Path(path).stat().st_size for path in paths)
    found = gdal.Open(next(path for path in paths if "_MAP_S2018" in path)).ReadAsArray()
    np.testing.assert_array_equal(found, world.map[2018])
    left = [path for path in config.directory.rglob(".*")]
    assert left == []


def test_what_is_published_already_is_left_alone(world):
    config = world.config()

    def made_from(tile, year, layer):
        return f"{tile}-{year}-{layer}"

    paths, _ = world.run(config, fingerprint=made_from)
    times = {path: Path(path).stat().st_mtime_ns for path in paths if path.endswith(".tif")}
    world.asked.clear()
    again, failures = world.run(config, fingerprint=made_from)
    assert (again, failures, world.asked) == (paths, [], [])
    assert times == {path: Path(path).stat().st_mtime_ns for path in times}
    world.run(config, fingerprint=lambda tile, year, layer: f"other-{year}")
    assert len(set(world.asked)) == 11


def test_a_product_that_fails_is_named_and_the_others_are_made(world):
    def layers(tile, year, layer, block):
        if (year, layer) == (2018, "MAP"):
            raise OSError("shard is gone")
        return world.layers(tile, year, layer, block)

    paths, failures = world.run(world.config(), layers=layers)
    assert failures == [Failure("publish", "31AAA 2018 MAP", "OSError: shard is gone")]
    assert sum(path.endswith(".tif") for path in paths) == 10 + 1  # the mosaic of the other year
    assert sum(path.endswith(".png") for path in paths) == 1
    page = Path(paths[-1]).read_text(encoding="utf-8")
    assert "shard is gone" in page


@pytest.mark.parametrize("simulate", [False, True])
def test_a_synthetic_landscape_is_called_one(world, simulate):
    config = world.config(simulate=simulate)
    paths, _ = world.run(config)
    tags = gdal.Open(paths[0]).GetMetadata()
    assert tags["LCU_SYNTHETIC"] == ("YES" if simulate else "NO")
    assert ("synthetic" in tags["LCU_SOURCE"]) == simulate
    assert tags["LCU_LEGEND"] == "corine-12"
    assert len(tags["LCU_CONFIGURATION"]) == 24
    page = Path(paths[-1]).read_text(encoding="utf-8")
    assert ("Synthetic landscape" in page) == simulate


class Balanced(HTMLParser):
    """Sees that every element is closed where it should be."""

    void = {"meta", "link", "img", "br", "hr", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_stands_alone_and_shows_the_old_map_beside_the_new(world):
    reference = world.folder / "truth.tif"
    codes = np.array([0, 111, 231, 211, 241, 131, 332, 331, 311, 312, 322, 512, 335])
    truth = codes[np.where(world.map[2019] > 250, 0, world.map[2019])].astype(np.int32)
    driver = gdal.GetDriverByName("GTiff")
    dataset = driver.Create(str(reference), WIDE, WIDE, 1, gdal.GDT_Int32)
    dataset.SetGeoTransform(grid_of(WIDE).transform)
    dataset.SetProjection(gdal.osr.GetUserInputAsWKT("EPSG:32631"))
    dataset.WriteArray(truth)
    del dataset  # flushing does not finish a GeoTIFF
    config = world.config(reference=str(reference))

    def maps(tile, year, block):
        return world.map[year][block.slices]

    sources = assess.Sources(maps, world.old_map)
    failures = assess.run(config, MPI.COMM_SELF, world.tiles, sources, lambda text: None)
    assert failures == []
    accuracy = assess.read_results(config)
    bins = [{"from": 0.9, "to": 1.0, "n": 4321, "confidence": 0.955, "accuracy": 0.905}]
    accuracy[2019] |= {
        "baselines": {"majority class": {"overall_accuracy": 0.123, "macro_f1": None}},
        "reliability": {"bins": bins, "expected_calibration_error": 0.051, "temperature": 1.25},
        "filters": [{"filter": "too far from the point", "removed": 77}],
    }
    earlier = [Failure("composite", "S2A_X", "B8A is <truncated>")]
    paths, _ = world.run(config, accuracy=accuracy, earlier=earlier, provenance={"Host": "node-7"})
    page = Path(paths[-1]).read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.sources
    # Links lead to what the run left beside the page, or into the page; nothing is loaded.
    own = [source for source in parser.sources if not source.startswith("data:")]
    assert own
    for source in own:
        there = source[1:] if source.startswith("#") else source
        assert f'id="{there}"' in page or (Path(paths[-1]).parent / there).exists()
    cells = re.findall(r'class="(new|old)">([^<]*)<', page)
    assert cells
    assert [kind for kind, _ in cells] == ["new", "old"] * (len(cells) // 2)
    for year in (2018, 2019):
        assert f">{report.number(accuracy[year]['overall_accuracy'])}<" in page
    assert report.number(accuracy[2018]["old_map"]["overall_accuracy"]) in page
    assert "B8A is &lt;truncated&gt;" in page
    assert "node-7" in page
    for text in (
        "majority class",
        ">0.123<",
        "4,321",
        "0.905",
        "0.051",
        "1.250",
        "too far",
        ">77<",
    ):
        assert text in page
    assert "old_map_year = 2012" in page


def test_accuracy_of_a_preview_has_the_old_maps_beside_it():
    from lcu.publish.stage import accuracy_line

    part = {"overall_accuracy": 0.9, "macro_f1": None,
            "old_map": {"overall_accuracy": 0.8, "macro_f1": 0.7}}  # fmt: skip
    line = accuracy_line({"tiles": {"31AAA": part}}, "31AAA")
    assert line == "overall accuracy 0.900 (old map 0.800),  macro F1 - (old map 0.700)"
    assert accuracy_line(None, "31AAA") == ""


# --- ranks ----------------------------------------------------------------------------------------


def digest(paths):
    """Return checksums of the pixels and metadata of all products and of the pictures."""
    found = {}
    for path in sorted(paths):
        if path.endswith(".tif"):
            dataset = gdal.Open(path)
            content = dataset.ReadAsArray().tobytes() + repr(dataset.GetMetadata()).encode()
        else:
            content = Path(path).read_bytes()
        found[Path(path).name] = hashlib.sha256(content).hexdigest()
    return found


@pytest.mark.mpi
def test_products_are_the_same_for_any_number_of_ranks(mpi_tmp_path):
    comm = MPI.COMM_WORLD
    world = World(Path(mpi_tmp_path))
    if comm.rank == 0:
        (world.folder / "old.tif").touch()
    comm.Barrier()
    config = world.config()
    paths, failures = world.run(config, comm)
    everywhere = comm.allgather((paths, failures))
    same = True
    if comm.rank == 0:
        shared = digest(paths)
        for path in paths:
            Path(path).unlink()
        alone, _ = world.run(config)
        same = alone == paths and digest(alone) == shared
    assert comm.bcast(same, root=0)
    assert all(answer == (paths, []) for answer in everywhere)


def test_blocks_inside_a_tile_are_aligned_to_the_file():
    assert geotiff.BLOCK % geotiff.TIFF_BLOCK == 0
    assert Block(0, 0, 1, 1) in list(grid_of(1).blocks(geotiff.BLOCK))


# --- samples --------------------------------------------------------------------------------------


def samples_of(classes, clusters):
    """Return samples of one tile, one class after the other, in rows."""
    count = len(classes)
    series = np.full((count, 4, 3), 1000, np.uint16)
    series[:, 1] = 0
    return Samples(
        series=series,
        count=np.tile(np.array([1, 0, 2, 1], np.uint8), (count, 1)),
        day=np.tile(np.array([1100, 1130, 1160, 1190], np.int32), (count, 1)),
        label=np.array(classes, np.uint8)[:, None],
        weight=np.ones(count, np.float32),
        tile=np.zeros(count, np.uint16),
        row=np.arange(count, dtype=np.int32),
        col=np.arange(count, dtype=np.int32),
        polygon=np.arange(count),
        cluster=np.array(clusters, np.int32),
        split=np.zeros(count, np.uint8),
        tiles=("31UFT",),
        years=(2018,),
        middles=np.array([1100, 1130, 1160, 1190], np.int32),
        made_from=("",),
        fingerprint="",
    )


def test_samples_are_drawn_in_the_colour_of_their_class():
    classes = legend.load("corine-12")
    drawn = samples_of([int(classes.values[0])] * 30, [0] * 30)
    old = np.full((40, 40), classes.values[1], np.uint8)
    picture = picture_of(draw_samples(old, 1, drawn, 0, classes, "31UFT"))
    near = np.abs(picture[..., :3].astype(int) - classes.classes[0].rgb).max(axis=2) < 12
    assert near.sum() > 200
    without = picture_of(draw_samples(old, 1, drawn, 1, classes, "31UFT"))
    assert (
        np.abs(without[..., :3].astype(int) - classes.classes[0].rgb).max(axis=2) < 12
    ).sum() == 0


def test_profiles_are_drawn_of_clustered_classes_only():
    classes = legend.load("corine-12")
    values = [int(value) for value in classes.values[:2]]
    bands = ["B04", "B08", "B11"]
    assert draw_profiles(samples_of(values * 5, [-1] * 10), bands, classes) is None
    one = picture_of(draw_profiles(samples_of(values * 5, [0, -1] * 5), bands, classes))
    two = picture_of(draw_profiles(samples_of(values * 5, [0, 1] * 5), bands, classes))
    assert (
        one.shape[0] > 100
        and (one[..., :3].min(axis=2) < 250).sum() < (two[..., :3].min(axis=2) < 250).sum()
    )


def picture_of(png):
    """Return the pixels of a PNG file, uint8 [y, x, colour]."""
    name = "/vsimem/picture.png"
    gdal.FileFromMemBuffer(name, png)
    pixels = gdal.Open(name).ReadAsArray().transpose(1, 2, 0)
    gdal.Unlink(name)
    return pixels
