"""Metadata of SAFE products: real trees of every layout and baseline, and input that is none."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcu.acquisition import AcquisitionError, safe
from lcu.acquisition.model import NATIVE_RESOLUTION, harmonise
from lcu.acquisition.stac import EARTH_SEARCH
from tests import safe_writer as writer

SHARED = Path(__file__).parents[2] / "shared" / "data" / "safe"
ALL = set(NATIVE_RESOLUTION)
TREES = sorted(path.parent for path in SHARED.glob("*/expected_output.json"))
FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=150)

real = pytest.mark.skipif(not TREES, reason=f"the real metadata trees are not at {SHARED}")


def whole(folder: Path, item: dict) -> safe.Files:
    """Return the files of a tree of metadata, with the images that its item says it had."""
    files = safe.products(str(folder))[0]
    hrefs = [asset["href"].removeprefix("./") for asset in item["assets"].values()]
    return safe.Files(files.source, "", tuple(sorted({*files.names, *hrefs})))


@real
@pytest.mark.parametrize("folder", TREES, ids=lambda path: path.name[:44])
def test_metadata_says_what_is_expected(folder):
    item = json.loads((folder / "expected_output.json").read_text())
    expected, entry = item["properties"], safe.parse(whole(folder, item), ALL).acquisition
    assert entry.time.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z" == expected["datetime"]
    assert entry.platform == expected["platform"]
    assert entry.baseline == expected["s2:processing_baseline"]
    assert f"MGRS-{entry.tile}" == expected["grid:code"]
    assert entry.cloud_cover == expected["eo:cloud_cover"]
    assert entry.level == {"S2MSI1C": "L1C", "S2MSI2A": "L2A"}[expected["s2:product_type"]]
    assert entry.tile in item["id"]
    assert entry.level in item["id"]
    name = expected.get("s2:product_uri", folder.name + ".SAFE").removesuffix(".SAFE")
    assert entry.id == name


@real
@pytest.mark.parametrize("folder", TREES, ids=lambda path: path.name[:44])
def test_bands_have_the_grid_scale_offset_and_file_that_are_expected(folder):
    item = json.loads((folder / "expected_output.json").read_text())
    properties, entry = item["properties"], safe.parse(whole(folder, item), ALL).acquisition
    crs = properties.get("proj:code") or f"EPSG:{properties['proj:epsg']}"
    bands = {**entry.bands, **({"SCL": entry.mask} if entry.mask else {})}
    expected = {
        EARTH_SEARCH[key]: asset for key, asset in item["assets"].items() if key in EARTH_SEARCH
    }
    assert set(bands) == set(expected)
    for name, asset in expected.items():
        band, (x_step, _, x, _, y_step, y) = bands[name], asset["proj:transform"]
        assert Path(band.path) == folder / asset["href"]
        assert band.grid.crs == crs
        assert band.grid.transform == (x, x_step, 0.0, y, 0.0, y_step)
        assert [band.grid.height, band.grid.width] == asset["proj:shape"]
        if name != "SCL":
            stated = asset["raster:bands"][0]
            assert band.scale == pytest.approx(stated["scale"], rel=1e-12)
            assert band.offset == pytest.approx(stated["offset"], abs=1e-12)
            assert band.nodata == stated["nodata"]


@real
def test_datatake_and_generation_are_read():
    for folder in TREES:
        item = json.loads((folder / "expected_output.json").read_text())
        found = safe.parse(whole(folder, item), ALL)
        identifier = item["properties"].get("s2:datatake_id", "GS2B_20200914T231559_018417_N05.00")
        assert identifier.startswith(found.datatake + "_")
        assert found.generated == item["properties"].get("s2:generation_time", "20230315T224658")
        assert found.strip > 0


@real
def test_flat_layout_is_read():
    folder = SHARED / "S2A_MSIL2A_20150826T185436_N0212_R070_T11SLT_20210412T023147"
    files = safe.products(str(folder))[0]
    images = ("R10m/B02.jp2", "R20m/B02.jp2", "R20m/SCL.jp2", "R60m/B01.jp2", "qi/CLD_20m.jp2")
    entry = safe.parse(safe.Files(files.source, "", (*files.names, *images)), ALL).acquisition
    assert (entry.id, entry.tile) == (folder.name, "11SLT")
    assert (entry.platform, entry.baseline, entry.cloud_cover) == ("sentinel-2a", "02.12", 3.113053)
    assert {name: Path(band.path).parent.name for name, band in entry.bands.items()} == {
        "B01": "R60m",
        "B02": "R10m",
    }
    assert entry.mask.grid.crs == "EPSG:32611"


@real
def test_baselines_02_to_05_are_there():
    assert {path.name for path in TREES} >= {
        f"{name}.SAFE"
        for name in (
            "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248",
            "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857",
            "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825",
            "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126",
        )
    }


def old_style(text: str) -> str:
    """Rename elements as the first L2A products (baselines 02.05 to 02.07) have them."""
    text = text.replace("PRODUCT_URI", "PRODUCT_URI_2A").replace("Level-2A<", "Level-2Ap<")
    return text.replace("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE")


def test_names_of_the_first_l2a_products_are_known(tmp_path):
    path = writer.write_safe(tmp_path, baseline="02.06", bands=("B02",))
    metadata = path / "MTD_MSIL2A.xml"
    metadata.write_text(old_style(metadata.read_text()))
    granule = next(path.rglob("MTD_TL.xml"))
    granule.write_text(
        re.sub("TILE_ID|DATASTRIP_ID", lambda found: found[0] + "_2A", granule.read_text())
    )
    image = writer.images(path, "B02")
    image.rename(image.with_name("L2A_" + image.name))
    entry = safe.parse(safe.products(str(path))[0], ALL).acquisition
    assert (entry.level, entry.baseline, entry.tile) == ("L2A", "02.06", "32TPS")
    assert (entry.bands["B02"].scale, entry.bands["B02"].offset) == (1e-4, 0.0)


@pytest.mark.parametrize("baseline", ["04.00", "05.11"])
def test_new_baseline_without_offsets_is_an_error(tmp_path, baseline):
    path = writer.write_safe(tmp_path, baseline=baseline, bands=())
    with pytest.raises(AcquisitionError, match=f"{baseline} without BOA_ADD_OFFSET"):
        safe.parse(safe.products(str(path))[0], ALL)


def test_offset_comes_from_the_metadata_and_never_from_the_date(tmp_path):
    reprocessed = writer.write_safe(
        tmp_path, day="20180615", baseline="05.00", offset=-1000, bands=()
    )
    later = writer.write_safe(tmp_path, day="20220615", baseline="03.01", bands=())
    facts = [
        safe.read_facts((path / "MTD_MSIL2A.xml").read_bytes(), "x")
        for path in (reprocessed, later)
    ]
    assert [one.offsets["B02"] for one in facts] == [-1000, 0]


def test_l1c_has_offsets_of_its_own(tmp_path):
    path = writer.write_safe(
        tmp_path, baseline="05.10", offset=-1000, level="L1C", bands=("B02", "B05")
    )
    entry = safe.parse(safe.products(str(path))[0], ALL).acquisition
    assert entry.level == "L1C"
    assert entry.mask is None
    assert entry.bands["B05"].offset == pytest.approx(-0.1)
    assert harmonise(writer.numbers("B05"), 1e-4, entry.bands["B05"].offset, 0).min() == 0


def test_offset_missing_for_one_band_is_an_error(tmp_path):
    path = writer.write_safe(tmp_path, baseline="05.10", offset=-1000, bands=("B02", "B05"))
    metadata = path / "MTD_MSIL2A.xml"
    metadata.write_text(
        metadata.read_text().replace('<BOA_ADD_OFFSET band_id="4">-1000</BOA_ADD_OFFSET>', "")
    )
    files = safe.products(str(path))[0]
    assert set(safe.parse(files, {"B02"}).acquisition.bands) == {"B02"}
    with pytest.raises(AcquisitionError, match="none for B05"):
        safe.parse(files, {"B05"})


def test_file_of_another_tile_is_not_used(tmp_path):
    path = writer.write_safe(tmp_path, bands=("B02",))
    image = writer.images(path, "B02")
    image.rename(image.with_name(image.name.replace("T32TPS", "T31UFT")))
    assert safe.parse(safe.products(str(path))[0], ALL).acquisition.bands == {}


def test_coarser_copy_of_a_band_is_not_used(tmp_path):
    path = writer.write_safe(tmp_path, bands=("B02",))
    image = writer.images(path, "B02")
    image.rename(image.with_name(image.name.replace("_10m", "_20m")))
    assert safe.parse(safe.products(str(path))[0], ALL).acquisition.bands == {}


def test_granule_of_another_tile_is_an_error(tmp_path):
    path = writer.write_safe(tmp_path, bands=())
    granule = next(path.rglob("MTD_TL.xml"))
    granule.write_text(granule.read_text().replace("T32TPS", "T31UFT"))
    with pytest.raises(AcquisitionError, match="32TPS, its granule of 31UFT"):
        safe.parse(safe.products(str(path))[0], ALL)


def test_product_of_several_tiles_is_named(tmp_path):
    path = writer.write_safe(tmp_path, bands=())
    other = path / "GRANULE" / "L2A_T32TQS"
    other.mkdir()
    (other / "MTD_TL.xml").write_text(next(path.rglob("MTD_TL.xml")).read_text())
    with pytest.raises(AcquisitionError, match="2 files MTD_TL.xml"):
        safe.parse(safe.products(str(path))[0], ALL)


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">
<!ENTITY c "&b;&b;&b;&b;&b;&b;">
<!ENTITY d "&c;&c;&c;&c;&c;&c;"><!ENTITY e "&d;&d;&d;&d;&d;&d;">]><a>&e;</a>"""
OUTSIDE = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>'


@pytest.mark.parametrize("content", [BOMB, OUTSIDE, b"<!DOCTYPE a><a/>"])
@pytest.mark.parametrize("name", ["MTD_MSIL2A.xml", "MTD_TL.xml"])
def test_entities_are_refused(tmp_path, name, content):
    path = writer.write_safe(tmp_path, bands=())
    next(path.rglob(name)).write_bytes(content)
    with pytest.raises(AcquisitionError, match=f"{name}: refused"):
        safe.parse(safe.products(str(path))[0], ALL)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip_of_a_product_is_named(tmp_path, content):
    file = tmp_path / "S2A_MSIL2A.zip"
    file.write_bytes(content)
    with pytest.raises(AcquisitionError, match="S2A_MSIL2A.zip"):
        safe.products(str(file))


def test_truncated_zip_is_named(tmp_path):
    file = writer.zip_safe(writer.write_safe(tmp_path, bands=("B02",)))
    writer.cut(file, 0.6)
    with pytest.raises(AcquisitionError, match="not a whole zip"):
        safe.products(str(file))


def test_metadata_of_absurd_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe, "METADATA_LIMIT", 100)
    path = writer.zip_safe(writer.write_safe(tmp_path, bands=("B02",)))
    with pytest.raises(AcquisitionError, match="more than 100 bytes"):
        safe.parse(safe.products(str(path))[0], ALL)


def attempt(parse, *arguments) -> None:
    """Call a parser of outside data: it may only succeed or raise AcquisitionError."""
    try:
        parse(*arguments)
    except AcquisitionError as error:
        assert str(error)


@FUZZ
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_an_acquisition_error(content):
    attempt(safe.read_facts, content, "x")
    attempt(safe.read_json, content, "x")


PRODUCT_XML = writer.product_xml("S2A_x_T32TPS_x", "20180615", "05.09", -1000, "L2A", "2020", 5)
GRANULE_XML = writer.granule_xml("20180615", "05.09", "32TPS", "L2A", writer.CORNER, "T101026")
VALUE = st.text(max_size=8) | st.sampled_from(
    ["-1", "0", "nan", "inf", "1e999", "9" * 5000, "０５.０９", ""]
)


@FUZZ
@given(st.integers(0, 60), VALUE)
def test_arbitrary_values_in_metadata_are_an_acquisition_error(index, value):
    value = value.translate({ord("<"): "&lt;", ord("&"): "&amp;"})
    for text, parse in ((PRODUCT_XML, safe.read_facts), (GRANULE_XML, granule)):
        spots = list(re.finditer(r'>[^<>\s][^<>]*<|"[^"]*"', text))
        spot = spots[index % len(spots)]
        ends = text[spot.start()], text[spot.end() - 1]
        broken = text[: spot.start()] + ends[0] + value + ends[1] + text[spot.end() :]
        attempt(parse, broken.encode("utf-8", "replace"), "x")


def granule(content: bytes, source: str) -> None:
    tree = safe.read_xml(content, source)
    safe._grids(tree, source)
    safe._tile(tree, source)


@FUZZ
@given(st.floats(0, 1), st.booleans())
def test_metadata_that_were_cut_off_are_an_acquisition_error(share, product):
    text = (PRODUCT_XML if product else GRANULE_XML).encode()
    with pytest.raises(AcquisitionError):
        (safe.read_facts if product else granule)(text[: int(share * (len(text) - 1))], "x")
