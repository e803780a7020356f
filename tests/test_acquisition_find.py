"""What a run finds in an archive: what is kept, what is left out, and that all ranks agree."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from osgeo import gdal

from lcu.acquisition import AcquisitionError, close_all, find, read_band, read_mask
from lcu.acquisition.archive import search
from lcu.grid import Block
from lcu.ranks import RankError
from tests import safe_writer as writer

SELF = MPI.COMM_SELF
DATA = Path(__file__).parents[2] / "shared" / "data"
FLANDERS, SWEDEN = DATA / "flanders", DATA / "sweden-a"
LAND = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

real = pytest.mark.skipif(not FLANDERS.is_dir(), reason=f"the real archives are not under {DATA}")
FEW = ("B02", "B05", "SCL")


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_all()


def archive(folder: Path, days=("20180615", "20180620", "20180625"), **more) -> Path:
    for seed, day in enumerate(days):
        writer.write_safe(folder / "archive", day=day, seed=seed, **{"bands": FEW, **more})
    return folder / "archive"


def look(folder: Path, **more):
    return find(writer.configuration(folder, folder / "archive", **more), SELF)


def names(acquisitions, tile="32TPS") -> list[str]:
    return [entry.id[11:19] for entry in acquisitions[tile]]


def directly(path: Path) -> np.ndarray:
    return gdal.Open(str(path)).ReadAsArray()


@real
def test_flanders_is_read_as_it_is(tmp_path):
    config = writer.configuration(
        tmp_path, FLANDERS / "collection.json", kind="stac", years=(2017, 2018), bands=LAND
    )
    acquisitions, tiles, failures = find(config, SELF)
    assert failures == []
    assert list(acquisitions) == ["31UDS"]
    entries, grid = acquisitions["31UDS"], tiles["31UDS"].grid
    assert len(entries) == 118
    assert entries == sorted(entries, key=lambda entry: (entry.time, entry.id))
    assert (grid.crs, grid.height, grid.width, grid.resolution) == ("EPSG:32631", 64, 64, 10)
    for entry in entries[::29]:
        folder = Path(entry.source).parent
        assert (read_band(entry, "B04", grid.whole, grid) == directly(folder / "red.tif")).all()
        swir = directly(folder / "swir16.tif").repeat(2, 0).repeat(2, 1)
        block = Block(7, 12, 20, 33)
        assert (read_band(entry, "B11", block, grid) == swir[block.slices]).all()
        scl = directly(folder / "scl.tif").repeat(2, 0).repeat(2, 1)
        assert (read_mask(entry, grid.whole, grid) == scl).all()


@real
def test_sweden_is_read_without_a_mask_and_named_with_one(tmp_path):
    settings = {"kind": "stac", "years": (2016, 2021, 2022), "bands": ("B02", "B8A")}
    paths = [SWEDEN, SWEDEN.with_name("sweden-b")]
    acquisitions, tiles, failures = find(
        writer.configuration(tmp_path, paths, mask="none", **settings), SELF
    )
    assert failures == []
    assert {tile: len(entries) for tile, entries in acquisitions.items()} == {
        "sweden-a": 5,
        "sweden-b": 4,
    }
    assert tiles["sweden-a"].grid.crs == "EPSG:3006"
    entry, grid = acquisitions["sweden-a"][0], tiles["sweden-a"].grid
    assert entry.mask is None
    assert (
        read_band(entry, "B8A", grid.whole, grid)
        == directly(Path(entry.source).parent / "nir08.tif")
    ).all()
    with pytest.raises(AcquisitionError, match='without SCL; composite.mask = "none" would use it'):
        find(writer.configuration(tmp_path, paths, **settings), SELF)


@real
def test_missing_and_truncated_assets_cost_themselves_only(tmp_path):
    shutil.copytree(SWEDEN, tmp_path / "archive")
    items = sorted((tmp_path / "archive" / "items").iterdir())
    (items[0] / "nir08.tif").unlink()
    writer.cut(items[1] / "blue.tif", 0.6)
    (items[2] / f"{items[2].name}.json").write_text("{")
    (items[3] / "red.tif").unlink()  # no band of this run
    acquisitions, _, failures = look(
        tmp_path, kind="stac", years=(2016, 2021, 2022), bands=("B02", "B8A"), mask="none"
    )
    assert [entry.id for entry in acquisitions["sweden-a"]] == [path.name for path in items[3:]]
    reasons = {failure.unit.removesuffix(".json"): failure.reason for failure in failures}
    assert set(reasons) == {path.name for path in items[:3]}
    assert "nir08.tif: no such file" in reasons[items[0].name]
    assert "blue.tif: cut off" in reasons[items[1].name]
    assert "not JSON" in reasons[items[2].name]


@pytest.mark.skipif(not (DATA / "safe").is_dir(), reason=f"the real metadata are not under {DATA}")
def test_real_products_of_every_layout_are_found_and_their_missing_bands_named(tmp_path):
    config = writer.configuration(
        tmp_path, DATA / "safe", years=range(2015, 2024), max_cloud_cover=100
    )
    sources, failures = search(config)
    assert [len(sources), failures] == [6, []]
    with pytest.raises(
        AcquisitionError, match="6 safe sources.*6 of them at fault(?s:.*)has no B02, B05"
    ):
        find(config, SELF)


def test_bucket_and_flat_layouts_are_read(tmp_path):
    product = writer.write_safe(tmp_path / "made", baseline="05.00", offset=-1000, bands=FEW)
    granule = next((product / "GRANULE").iterdir())
    for layout, metadata in (("bucket", "metadata.xml"), ("flat", "MTD_TL.xml")):
        folder = tmp_path / "archive" / layout / "tile"
        folder.mkdir(parents=True)
        shutil.copy(granule / "MTD_TL.xml", folder / metadata)
        for band in FEW:
            target = folder / f"R{writer.RESOLUTIONS[band]}m" / f"{band}.jp2"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(writer.images(product, band), target)
    shutil.copy(product / "MTD_MSIL2A.xml", tmp_path / "archive" / "flat" / "tile")
    info = {"timestamp": "2018-06-15T10:13:00.5Z", "productName": product.stem}
    (tmp_path / "archive" / "bucket" / "tile" / "tileInfo.json").write_text(json.dumps(info))
    for layout in ("bucket", "flat"):
        config = writer.configuration(tmp_path, tmp_path / "archive" / layout)
        acquisitions, tiles, failures = find(config, SELF)
        assert failures == []
        (entry,), grid = acquisitions["32TPS"], tiles["32TPS"].grid
        assert (entry.id, entry.baseline, entry.platform) == (product.stem, "05.00", "sentinel-2a")
        truth = writer.numbers("B02").astype(int)
        expected = np.where(truth == 0, 0, np.clip(truth - 1000, 1, None))
        assert (read_band(entry, "B02", grid.whole, grid) == expected).all()


def test_products_are_found_at_any_depth_in_folders_and_zips(tmp_path):
    for depth, day in enumerate(("20180615", "20180620", "20180625")):
        writer.write_safe(tmp_path / "archive" / "/".join("abc"[:depth]), day=day, bands=FEW)
    writer.zip_safe(next((tmp_path / "archive" / "a" / "b").glob("*.SAFE")))
    acquisitions, tiles, failures = look(tmp_path)
    assert failures == []
    assert names(acquisitions) == ["20180615", "20180620", "20180625"]
    grid = tiles["32TPS"].grid
    values = [read_band(entry, "B05", grid.whole, grid) for entry in acquisitions["32TPS"]]
    assert (values[0] == values[2]).all()
    assert values[0].any()


def test_path_may_be_a_product_or_a_list(tmp_path):
    one = writer.write_safe(tmp_path / "a", day="20180615", bands=FEW)
    two = writer.zip_safe(writer.write_safe(tmp_path / "b", day="20180620", bands=FEW))
    acquisitions, _, _ = find(writer.configuration(tmp_path, [one, two, tmp_path / "a"]), SELF)
    assert names(acquisitions) == ["20180615", "20180620"]


def test_tile_years_margin_and_cloud_cover_are_obeyed(tmp_path):
    archive(tmp_path, ("20171115", "20171215", "20180615", "20190115"))
    writer.write_safe(tmp_path / "archive", day="20180701", cloud=80.5, bands=FEW)
    writer.write_safe(tmp_path / "archive", day="20180702", tile="32TQS", bands=FEW)
    assert names(look(tmp_path, tiles=["32TPS"])[0]) == ["20180615", "20180701"]
    assert names(look(tmp_path, max_cloud_cover=80.5)[0])[1:] == ["20180701"]
    assert names(look(tmp_path, max_cloud_cover=80)[0]) == ["20180615"]
    assert names(look(tmp_path, margin="P1M", max_cloud_cover=50)[0]) == [
        "20171215",
        "20180615",
        "20190115",
    ]
    assert set(look(tmp_path)[0]) == {"32TPS", "32TQS"}


def test_nothing_of_the_wanted_is_an_error_and_a_missing_tile_is_named(tmp_path):
    archive(tmp_path)
    failures = look(tmp_path, tiles=["32TPS", "31UFT"])[2]
    assert [(one.unit, one.reason) for one in failures] == [
        ("31UFT", "tile 31UFT: no usable acquisition under archive.path")
    ]
    with pytest.raises(AcquisitionError, match="no usable acquisition: 3 safe sources"):
        look(tmp_path, years=(2020,))


def test_faulty_products_cost_themselves_only(tmp_path):
    days = [f"201806{day}" for day in range(10, 17)]
    root = archive(tmp_path, days)
    products = sorted(root.iterdir())
    writer.images(products[0], "B05").unlink()
    writer.cut(writer.images(products[1], "B02"), 0.95)
    writer.images(products[2], "SCL").unlink()
    (products[3] / "MTD_MSIL2A.xml").write_text("<a")
    writer.cut(writer.zip_safe(products[4]), 0.5)
    (products[5] / "MTD_MSIL2A.xml").unlink()
    acquisitions, _, failures = look(tmp_path)
    assert names(acquisitions) == ["20180616"]
    expected = ["has no B05", "B02: .* cut off", 'composite.mask = "none"', "not XML",
                "not a whole zip", "no MTD_MSIL2A.xml"]  # fmt: skip
    assert len(failures) == len(expected)
    for failure, reason, product in zip(failures, expected, products, strict=False):
        assert failure.stage == "acquisition"
        assert failure.unit.startswith(product.name[:40])
        assert re.search(reason, failure.reason)
    assert names(look(tmp_path, mask="none", bands=("B02",))[0])[::2] == ["20180610", "20180616"]


def test_newest_baseline_of_one_observation_stays(tmp_path, caplog):
    root = tmp_path / "archive"
    writer.write_safe(root, baseline="02.07", made="20180615T120000", bands=FEW)
    writer.write_safe(
        root, baseline="05.00", made="20230101T120000", offset=-1000, bands=FEW, strip="T101028"
    )
    writer.write_safe(root, baseline="05.00", made="20230901T120000", offset=-1000, bands=FEW)
    writer.write_safe(
        root, baseline="05.00", level="L1C", made="20240101T120000", offset=-1000, bands=FEW
    )
    with caplog.at_level(logging.INFO, "lcu"):
        acquisitions, _, failures = look(tmp_path)
    assert failures == []
    assert [(entry.baseline, entry.id[-15:], entry.level) for entry in acquisitions["32TPS"]] == [
        ("05.00", "20230901T120000", "L2A")
    ]
    assert sum("same observation" in record.message for record in caplog.records) == 3


def test_older_baseline_serves_where_the_newest_is_damaged(tmp_path):
    root = tmp_path / "archive"
    writer.write_safe(root, baseline="02.07", bands=FEW)
    new = writer.write_safe(root, baseline="05.00", offset=-1000, bands=FEW)
    writer.cut(writer.images(new, "B02"), 0.5)
    acquisitions, _, failures = look(tmp_path)
    assert [entry.baseline for entry in acquisitions["32TPS"]] == ["02.07"]
    assert [failure.unit for failure in failures] == [new.stem]


def test_two_strips_of_one_datatake_are_two_acquisitions(tmp_path):
    root = tmp_path / "archive"
    writer.write_safe(root, made="20201007T160857", bands=FEW, strip="T101026")
    writer.write_safe(root, made="20201007T160901", bands=FEW, strip="T101258")
    assert len(look(tmp_path)[0]["32TPS"]) == 2


def test_l1c_serves_without_a_mask(tmp_path):
    writer.write_safe(tmp_path / "archive", level="L1C", bands=FEW)
    assert [entry.level for entry in look(tmp_path, mask="none")[0]["32TPS"]] == ["L1C"]
    with pytest.raises(AcquisitionError, match="L1C without SCL"):
        look(tmp_path)


def test_acquisition_on_another_grid_is_left_out_and_both_are_named(tmp_path):
    archive(tmp_path)
    writer.write_safe(tmp_path / "archive", day="20180701", corner=(600010.0, 5200020.0), bands=FEW)
    acquisitions, tiles, failures = look(tmp_path)
    assert names(acquisitions) == ["20180615", "20180620", "20180625"]
    assert tiles["32TPS"].grid.transform[0] == 600000
    assert len(failures) == 1
    assert "600010" in failures[0].reason
    assert "600000" in failures[0].reason


def test_grids_without_a_majority_are_an_error(tmp_path):
    archive(tmp_path, ("20180615",))
    writer.write_safe(tmp_path / "archive", day="20180701", corner=(600010.0, 5200020.0), bands=FEW)
    with pytest.raises(AcquisitionError, match="no grid has most of the 2 acquisitions"):
        look(tmp_path)


def test_tile_has_the_finest_grid_of_the_bands_of_the_run(tmp_path):
    archive(tmp_path, bands=("B01", "B02", "B05", "SCL"))
    for bands, resolution in (
        (("B02", "B05"), 10),
        (("B05",), 20),
        (("B01", "B05"), 20),
        (("B01",), 60),
    ):
        acquisitions, tiles, failures = look(tmp_path, bands=bands)
        grid = tiles["32TPS"].grid
        assert failures == []
        assert grid.resolution == resolution
        assert read_band(acquisitions["32TPS"][0], bands[0], grid.whole, grid).shape == (
            grid.height,
            grid.width,
        )
        assert read_mask(acquisitions["32TPS"][0], grid.whole, grid).shape == (
            grid.height,
            grid.width,
        )


def test_fingerprint_follows_the_pixels_and_not_the_place(tmp_path):
    archive(tmp_path)
    before = [entry.fingerprint() for entry in look(tmp_path)[0]["32TPS"]]
    assert len(set(before)) == 3
    shutil.move(tmp_path / "archive", tmp_path / "elsewhere")
    (tmp_path / "archive").mkdir()
    shutil.move(tmp_path / "elsewhere", tmp_path / "archive" / "moved")
    assert [entry.fingerprint() for entry in look(tmp_path)[0]["32TPS"]] == before
    product = sorted((tmp_path / "archive" / "moved").iterdir())[0]
    writer.write_raster(writer.images(product, "B02"), writer.numbers("B02", 9) // 7, 10)
    after = [entry.fingerprint() for entry in look(tmp_path)[0]["32TPS"]]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def stac_item(folder: Path, name: str, day: str, **properties) -> Path:
    """Write an item with its assets B02 and SCL, and return its file."""
    for band, resolution in (("B02", 10), ("SCL", 20)):
        writer.write_raster(folder / name / f"{band}.tif", writer.numbers(band), resolution)
    stated = {"datetime": f"{day}T10:00:00Z", "s2:processing_baseline": "05.00", **properties}
    table = {
        "type": "Feature", "id": name, "collection": "area", "properties": stated,
        "assets": {band: {"href": f"./{band}.tif"} for band in ("B02", "SCL")},
    }  # fmt: skip
    (folder / name / f"{name}.json").write_text(json.dumps(table))
    return folder / name / f"{name}.json"


def test_stac_folder_is_searched_and_links_are_followed(tmp_path):
    root = tmp_path / "archive"
    stac_item(root, "one", "2018-06-15")
    stac_item(root, "two", "2018-06-20")
    (root / "notes.json").write_text('{"type": "something else"}')
    settings = {"kind": "stac", "bands": ("B02",)}
    assert [entry.id for entry in look(tmp_path, **settings)[0]["area"]] == ["one", "two"]
    links = [
        {"rel": "item", "href": href}
        for href in ("./one/one.json", "./gone.json", "https://host/x.json")
    ]
    (root / "collection.json").write_text(json.dumps({"type": "Collection", "links": links}))
    (root / "catalog.json").write_text(
        json.dumps(
            {
                "type": "Catalog",
                "links": [
                    {"rel": "child", "href": name} for name in ("collection.json", "catalog.json")
                ],
            }
        )
    )
    for path in (root, root / "collection.json", root / "catalog.json"):
        acquisitions, _, failures = find(writer.configuration(tmp_path, path, **settings), SELF)
        assert [entry.id for entry in acquisitions["area"]] == ["one"]
        assert sorted(failure.unit for failure in failures) == [
            "./gone.json",
            "https://host/x.json",
        ]
    (root / "collection.json").write_text("[")
    with pytest.raises(RankError, match="collection.json"):
        look(tmp_path, **settings)


def test_assets_that_are_not_here_are_named(tmp_path):
    one = stac_item(tmp_path / "archive", "one", "2018-06-15")
    two = stac_item(tmp_path / "archive", "two", "2018-06-20")
    table = json.loads(one.read_text())
    grid = {
        "proj:code": "EPSG:32632",
        "proj:shape": [128, 128],
        "proj:transform": [10, 0, 6e5, 0, -10, 5200020],
    }
    table["assets"]["B02"] = {"href": "https://host/B02.tif", **grid}
    one.write_text(json.dumps(table))
    table = json.loads(two.read_text())
    del table["assets"]["SCL"]
    two.write_text(json.dumps(table))
    stac_item(tmp_path / "archive", "three", "2018-06-25")
    acquisitions, _, failures = look(tmp_path, kind="stac", bands=("B02",))
    assert [entry.id for entry in acquisitions["area"]] == ["three"]
    assert "https://host/B02.tif, not here; retrieve it first" in failures[0].reason
    assert "L2A without SCL" in failures[1].reason


def test_reprocessed_items_are_one_acquisition(tmp_path):
    for name, baseline in (("old", "02.09"), ("new", "05.00")):
        take = {
            "s2:datatake_id": f"GS2A_20180615T101021_015568_N{baseline}",
            "s2:processing_baseline": baseline,
        }
        stac_item(tmp_path / "archive", name, "2018-06-15", **take)
    acquisitions, _, failures = look(tmp_path, kind="stac", bands=("B02",))
    assert failures == []
    assert [entry.id for entry in acquisitions["area"]] == ["new"]
    assert acquisitions["area"][0].bands["B02"].offset == pytest.approx(-0.1)


@pytest.mark.mpi
def test_find_is_the_same_on_every_rank(tmp_path):
    world = MPI.COMM_WORLD
    folder = Path(world.bcast(str(tmp_path), root=0))
    if world.rank == 0:
        root = archive(folder, [f"201806{day}" for day in range(10, 17)])
        writer.cut(writer.images(sorted(root.iterdir())[2], "B02"), 0.5)
        writer.write_safe(root, day="20180620", tile="32TQS", bands=FEW)
    world.barrier()
    config = writer.configuration(folder, folder / "archive") if world.rank == 0 else None
    config = world.bcast(config, root=0)
    found = find(config, world)
    alone = find(config, SELF)
    agreed = world.allgather((repr(found) == repr(alone), repr(found)))
    assert all(same for same, _ in agreed)
    assert len({text for _, text in agreed}) == 1
    assert Counter({tile: len(entries) for tile, entries in found[0].items()}) == {
        "32TPS": 6,
        "32TQS": 1,
    }
    assert len(found[2]) == 1


@pytest.mark.mpi
def test_archive_without_use_raises_on_every_rank(tmp_path):
    world = MPI.COMM_WORLD
    folder = Path(world.bcast(str(tmp_path), root=0))
    if world.rank == 0:
        (folder / "archive").mkdir()
    config = writer.configuration(folder, folder / "archive") if world.rank == 0 else None
    world.barrier()
    config = world.bcast(config, root=0)
    try:
        find(config, world)
        raised = False
    except AcquisitionError:
        raised = True
    assert all(world.allgather(raised))
