"""STAC items: public catalogues, the order of evidence for the offset, input that is none."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcu.acquisition import AcquisitionError, stac
from lcu.acquisition.model import NATIVE_RESOLUTION
from tests import safe_writer as writer

CATALOGUE = Path(__file__).parents[2] / "shared" / "data" / "catalogue"
ALL = set(NATIVE_RESOLUTION)
LAND = ALL - {"B10", "SCL"}
FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=300)

real = pytest.mark.skipif(not CATALOGUE.is_dir(), reason=f"the real items are not at {CATALOGUE}")


def public(name: str) -> dict:
    return json.loads((CATALOGUE / name).read_text())


def item(properties=None, asset=None, **assets) -> dict:
    """Return an item with one band, B02, and nothing that tells its offset."""
    asset = {"href": "./blue.tif", "proj:shape": [64, 64], **(asset or {})}
    asset.setdefault("proj:transform", [10, 0, 500000, 0, -10, 5000000])
    properties = {"datetime": "2018-06-15T10:00:00Z", "proj:epsg": 32631, **(properties or {})}
    return {"type": "Feature", "id": "one", "collection": "my-area", "properties": properties,
            "assets": {"blue": asset, **assets}}  # fmt: skip


def offset(table: dict, configured=None, source="/x/item.json") -> float:
    band = stac.parse(table, source, {"B02"}, configured).acquisition.bands["B02"]
    assert band.scale == pytest.approx(1e-4)
    return round(band.offset / band.scale)


@real
@pytest.mark.parametrize("name", ["", "_raster_ext"])
def test_planetary_computer_item(name):
    table = public(f"S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531{name}.json")
    entry = stac.parse(table, "/x/item.json", ALL).acquisition
    assert (entry.tile, entry.baseline, entry.platform) == ("06VVN", "02.12", "sentinel-2b")
    assert entry.cloud_cover == 0.314306
    assert set(entry.bands) == LAND
    assert entry.mask.grid.resolution == 20
    assert entry.bands["B01"].grid.transform == (399960.0, 60.0, 0.0, 6800040.0, 0.0, -60.0)
    assert {(band.scale, band.offset, band.nodata) for band in entry.bands.values()} == {
        (1e-4, 0, 0)
    }


@real
def test_earth_search_v0_item_states_no_offset():
    table = public("S2A_28QCH_20200714_0_L2A.json")
    with pytest.raises(AcquisitionError, match="S2A_28QCH_20200714_0_L2A.*archive.offset"):
        stac.parse(table, "/x/item.json", ALL)
    entry = stac.parse(table, "/x/item.json", ALL, 0).acquisition
    assert set(entry.bands) == LAND
    assert entry.tile == "sentinel-s2-l2a-cogs"
    assert entry.bands["B8A"].grid.transform == (300000.0, 20.0, 0.0, 2300040.0, 0.0, -20.0)


@real
def test_copernicus_data_space_item():
    table = public("CDSE_STAC_v1.1_S2C_L2A_item_EXCERPT.json")
    table["properties"] = {"datetime": "2025-03-30T10:00:51.025Z", "grid:code": "MGRS-33UWP"}
    entry = stac.parse(table, "/x/item.json", ALL).acquisition
    band = entry.bands["B02"]
    assert entry.tile == "33UWP"
    assert (band.scale, band.offset, band.nodata) == (1e-4, -0.1, 0)
    assert (band.grid.crs, band.grid.height) == ("EPSG:32633", 10980)
    assert band.path.startswith("s3://")


def test_processings_are_told_apart_in_items_of_the_copernicus_data_space():
    table = item({
        "eopf:datatake_id": "GS2C_20250330T100051_002952_N05.11", "processing:version": "05.11",
        "eopf:datastrip_id": "S2C_OPER_MSI_L2A_DS_2CPS_20250330T145914_S20250330T100435_N05.11",
        "processing:datetime": "2025-03-30T14:59:14Z", "statistics": {"nodata": 2.37},
    })  # fmt: skip
    known = stac.identify(table, "x")
    assert (known.datatake, known.baseline) == ("GS2C_20250330T100051", "05.11")
    assert known.strip == stac.strip_start("_S20250330T100435") > 0
    assert (known.generated, known.nodata) == ("2025-03-30T14:59:14Z", 2.37)
    assert stac.identify(item({"processing:version": "1.2"}), "x").baseline == ""


def test_earth_search_v1_keys_are_known():
    assets = {key: item()["assets"]["blue"] for key in stac.EARTH_SEARCH}
    entry = stac.parse(
        item({"s2:processing_baseline": "03.00"}, **assets), "x.json", ALL
    ).acquisition
    assert set(entry.bands) == ALL - {"SCL"}
    assert entry.mask.name == "SCL"


@pytest.mark.parametrize("key", ["B8A", "b8a", "nir08", "B8A_20m", "nir08_20m"])
def test_keys_of_a_band(key):
    entry = item({"s2:processing_baseline": "03.00"})
    entry["assets"] = {key: entry["assets"]["blue"]}
    assert set(stac.parse(entry, "x.json", ALL).acquisition.bands) == {"B8A"}


@pytest.mark.parametrize("field", ["eo:bands", "bands"])
@pytest.mark.parametrize("name", ["B8A", "nir08"])
def test_band_named_by_its_description(field, name):
    entry = item({"s2:processing_baseline": "03.00"})
    entry["assets"] = {"band-9": {**entry["assets"]["blue"], field: [{"name": name}]}}
    assert set(stac.parse(entry, "x.json", ALL).acquisition.bands) == {"B8A"}


def test_native_resolution_is_taken_and_composites_are_not():
    asset = item()["assets"]["blue"]
    coarse = {
        **asset,
        "href": "20.tif",
        "proj:shape": [32, 32],
        "proj:transform": [20, 0, 5e5, 0, -20, 5e6],
    }
    table = item(
        {"s2:processing_baseline": "03.00"}, B05_60m={**asset, "href": "60.tif"}, B05_20m=coarse
    )
    table["assets"] |= {"blue-jp2": {**asset, "href": "blue.jp2", "eo:bands": [{"name": "blue"}]}}
    table["assets"] |= {
        "visual": {**asset, "eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]}
    }
    bands = stac.parse(table, "/x/item.json", ALL).acquisition.bands
    assert {name: Path(band.path).name for name, band in bands.items()} == {
        "B02": "blue.tif",
        "B05": "20.tif",
    }


@pytest.mark.parametrize(
    ("properties", "collection", "tile"),
    [
        ({"grid:code": "MGRS-31UDS", "s2:mgrs_tile": "32TPS"}, "c", "31UDS"),
        ({"s2:mgrs_tile": "06VVN"}, "c", "06VVN"),
        ({}, "sweden-a", "sweden-a"),
    ],
)
def test_tile_is_named(properties, collection, tile):
    table = item({**properties, "s2:processing_baseline": "03.00"})
    table["collection"] = collection
    assert stac.parse(table, "x.json", ALL).acquisition.tile == tile


def test_item_without_a_name_for_its_tile_is_an_error():
    table = item({"s2:processing_baseline": "03.00"})
    del table["collection"]
    with pytest.raises(AcquisitionError, match="grid:code, s2:mgrs_tile or collection"):
        stac.parse(table, "x.json", ALL)


# The order of evidence for the offset, one test a rule.

STATED = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}


def test_rule_1_earth_search_has_applied_the_offset():
    properties = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}
    assert offset(item(properties, STATED), -1000) == 0


@pytest.mark.parametrize("applied", [False, None, "true", 1])
def test_rule_1_counts_only_when_true(applied):
    properties = {"earthsearch:boa_offset_applied": applied, "s2:processing_baseline": "05.09"}
    assert offset(item(properties)) == -1000


@pytest.mark.parametrize(
    "asset",
    [
        STATED,
        {"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]},
        {"bands": [{"scale": 0.0001, "offset": -0.1}]},
        {"raster:scale": 0.0001, "raster:offset": -0.1},
    ],
)
def test_rule_2_the_asset_states_its_offset(asset):
    assert offset(item({"s2:processing_baseline": "03.00"}, asset), 0) == -1000


def test_rule_2_an_offset_of_zero_is_a_statement():
    asset = {"raster:bands": [{"scale": 0.0001, "offset": 0}]}
    assert offset(item({"s2:processing_baseline": "05.09"}, asset)) == 0


def test_rule_2_a_scale_alone_is_no_statement():
    asset = {"raster:bands": [{"scale": 0.0001, "nodata": 0}]}
    assert offset(item({"s2:processing_baseline": "05.09"}, asset)) == -1000


def test_rule_2_an_offset_in_digital_numbers_is_an_error():
    asset = {"raster:bands": [{"scale": 0.0001, "offset": -1000}]}
    with pytest.raises(AcquisitionError, match="offset of B02 is -1000, expected reflectance"):
        offset(item(asset=asset))


@pytest.mark.parametrize("key", ["product_metadata", "product-metadata"])
def test_rule_3_the_products_own_metadata(tmp_path, key):
    text = writer.product_xml("S2A_x", "20180615", "05.09", -1000, "L2A", "2020", 5)
    (tmp_path / "MTD_MSIL2A.xml").write_text(text.replace('band_id="1">-1000', 'band_id="1">-990'))
    table = item({"s2:processing_baseline": "03.00"}, **{key: {"href": "./MTD_MSIL2A.xml"}})
    assert offset(table, 0, str(tmp_path / "item.json")) == -990


def test_rule_3_metadata_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "MTD_MSIL2A.xml").write_text("<a>")
    table = item({"s2:processing_baseline": "03.00"}, product_metadata={"href": "MTD_MSIL2A.xml"})
    with pytest.raises(AcquisitionError, match="MTD_MSIL2A.xml: not XML"):
        offset(table, 0, str(tmp_path / "item.json"))


@pytest.mark.parametrize("href", ["https://host/MTD_MSIL2A.xml", "./not_here.xml"])
def test_rule_3_metadata_elsewhere_are_passed_over(href):
    assert (
        offset(item({"s2:processing_baseline": "05.09"}, product_metadata={"href": href})) == -1000
    )


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [("02.05", 0), ("03.01", 0), ("04.00", -1000), ("05.00", -1000), ("05.11", -1000)],
)
def test_rule_4_the_baseline(baseline, expected):
    for date in ("2018-06-15T10:00:00Z", "2023-06-15T10:00:00Z"):
        assert offset(item({"s2:processing_baseline": baseline, "datetime": date}), 7) == expected


@pytest.mark.parametrize("baseline", ["5.09", "latest", 5.09, ""])
def test_rule_4_a_baseline_that_is_none_is_an_error(baseline):
    with pytest.raises(AcquisitionError, match="processing baseline"):
        offset(item({"s2:processing_baseline": baseline}))


def test_rule_5_no_evidence_is_an_error_that_names_the_item():
    with pytest.raises(
        AcquisitionError, match=r"item one does not say which offset.*archive\.offset"
    ):
        offset(item())


@pytest.mark.parametrize("configured", [0, -1000])
def test_rule_5_the_configuration_may_state_it(configured):
    assert offset(item(), configured) == configured


@pytest.mark.parametrize(
    ("asset", "wrong"),
    [
        ({"proj:shape": [64]}, "proj:shape"),
        ({"proj:transform": [10, 1, 500000, 0, -10, 5000000]}, "unrotated"),
        ({"proj:transform": [10, 0, "x", 0, -10, 5000000]}, "proj:transform"),
        ({"proj:shape": [0, 64]}, "hold pixels"),
        ({"href": 7}, "href"),
        ({"raster:bands": [{"scale": 0, "offset": 0}]}, "scale of B02"),
        ({"raster:bands": [{"scale": "x", "offset": 0}]}, "scale of B02"),
        ({"raster:bands": [{"nodata": "inf", "offset": 0}]}, "nodata of B02"),
    ],
)
def test_wrong_asset_is_an_error(asset, wrong):
    with pytest.raises(AcquisitionError, match=wrong):
        stac.parse(item({"s2:processing_baseline": "03.00"}, asset), "x.json", {"B02"})


def test_grid_is_read_from_the_file_where_the_item_has_none(tmp_path):
    writer.write_raster(tmp_path / "blue.tif", writer.numbers("B02"), 10, epsg=3006)
    table = item({"s2:processing_baseline": "03.00"})
    del table["assets"]["blue"]["proj:transform"]
    band = stac.parse(table, str(tmp_path / "item.json"), {"B02"}).acquisition.bands["B02"]
    assert (band.grid.crs, band.grid.height) == ("EPSG:3006", 128)
    (tmp_path / "blue.tif").unlink()
    with pytest.raises(AcquisitionError, match="blue.tif"):
        stac.parse(table, str(tmp_path / "item.json"), {"B02"})


SOMETHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["0001-01-01T00:00:00+23:00", "https://[", "\0", "\ud800", "1" * 400, "EPSG:99999999"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value, path=()):
    """Yield the path of every value in a JSON table."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


FULL = item(
    {"s2:processing_baseline": "05.09", "eo:cloud_cover": 5, "platform": "a",
     "grid:code": "MGRS-32TPS", "s2:datatake_id": "GS2A_20180615T101021_1_N05.09",
     "s2:datastrip_id": "x_S20180615T101021_N05.09"},
    {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}],
     "eo:bands": [{"name": "B02"}], "gsd": 10},
    scl={**item()["assets"]["blue"]},
    product_metadata={"href": "/not/here.xml"},
)  # fmt: skip
PLACES = list(places(FULL))


@FUZZ
@given(st.integers(0, len(PLACES) - 1), SOMETHING)
def test_arbitrary_values_in_an_item_are_an_acquisition_error(index, value):
    table = copy.deepcopy(FULL)
    *path, last = PLACES[index]
    inner = table
    for key in path:
        inner = inner[key]
    inner[last] = value
    try:
        found = stac.parse(table, "/x/item.json", ALL).acquisition
    except AcquisitionError:
        return
    assert found.fingerprint()
