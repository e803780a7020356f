"""Error matrices, accuracies and area estimates: against numbers by hand, books and libraries."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osgeo import gdal, ogr, osr
from sklearn import metrics

from lcu import legend, reliability
from lcu.assess import accuracies, area_estimates, error_matrix, points, stratified_estimates
from lcu.assess.stage import count
from lcu.config import Assess
from lcu.grid import Grid

LUCAS = Path(__file__).parents[2] / "shared" / "data" / "lucas"

THREE = legend.parse(
    {
        "name": "three",
        "class": [
            {"value": 2, "name": "Water", "colour": "#0000FF", "mine": [20]},
            {"value": 5, "name": "Forest", "colour": "#00FF00", "mine": [50, 51]},
            {"value": 9, "name": "Town", "colour": "#FF0000", "mine": [90]},
        ],
    },
    "three.toml",
)


def bytes_of(values):
    return np.array(values, dtype=np.uint8)


# --- error matrices -------------------------------------------------------------------------------


def test_matrix_has_the_map_in_rows_and_the_reference_in_columns():
    matrix = error_matrix(bytes_of([2, 2, 5, 9, 9, 9]), bytes_of([2, 5, 5, 9, 2, 2]), THREE)
    expected = [[1, 1, 0], [0, 1, 0], [2, 0, 1], [0, 0, 0]]
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


def test_a_map_without_a_class_counts_as_an_error():
    mapped, reference = bytes_of([[2, 255], [254, 5]]), bytes_of([[2, 2], [5, 5]])
    matrix = error_matrix(mapped, reference, THREE)
    assert matrix[3].tolist() == [1, 1, 0]
    result = accuracies(matrix, THREE)
    assert (result["n"], result["n_unmapped"], result["overall_accuracy"]) == (4, 2, 0.5)


def test_pixels_without_a_reference_do_not_count():
    matrix = error_matrix(bytes_of([2, 5, 9]), bytes_of([255, 254, 0]), THREE)
    assert matrix.sum() == 0


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        error_matrix(bytes_of([2, 5]), bytes_of([2]), THREE)


def test_matrices_of_parts_add_up_to_that_of_the_whole():
    random = np.random.default_rng(3)
    mapped, reference = random.choice(bytes_of([2, 5, 9, 255]), (2, 40, 30))
    whole = error_matrix(mapped, reference, THREE)
    rows = [error_matrix(a, b, THREE) for a, b in zip(mapped, reference, strict=True)]
    np.testing.assert_array_equal(np.sum(rows, axis=0), whole)


# --- accuracies -----------------------------------------------------------------------------------


def test_accuracies_by_hand():
    matrix = np.array([[6, 2, 0], [1, 8, 1], [1, 0, 3], [0, 2, 0]])
    result = accuracies(matrix, THREE)
    assert result["n"] == 24
    assert result["overall_accuracy"] == pytest.approx(17 / 24)
    water = result["classes"]["Water"]
    assert water["users"] == pytest.approx(6 / 8)
    assert water["producers"] == pytest.approx(6 / 8)
    forest = result["classes"]["Forest"]
    assert forest["users"] == pytest.approx(8 / 10)
    assert forest["producers"] == pytest.approx(8 / 12)
    assert forest["f1"] == pytest.approx(16 / 22)
    chance = (8 * 8 + 10 * 12 + 4 * 4) / 24**2
    assert result["kappa"] == pytest.approx((17 / 24 - chance) / (1 - chance))
    assert result["macro_f1"] == pytest.approx((6 / 8 + 16 / 22 + 6 / 8) / 3)


def test_macro_f1_is_over_the_classes_that_the_reference_holds():
    matrix = np.array([[4, 0, 0], [0, 4, 0], [1, 1, 0], [0, 0, 0]])
    result = accuracies(matrix, THREE)
    assert result["macro_f1"] == pytest.approx(8 / 9)
    assert result["classes"]["Town"]["f1"] == 0
    assert math.isnan(result["classes"]["Town"]["producers"])


def test_accuracies_of_nothing_are_not_numbers():
    result = accuracies(np.zeros((4, 3), int), THREE)
    assert result["n"] == 0
    assert all(math.isnan(result[key]) for key in ("overall_accuracy", "macro_f1", "kappa"))


def test_kappa_of_a_single_class_is_not_a_number():
    assert math.isnan(accuracies(np.array([[7, 0, 0], [0, 0, 0], [0, 0, 0]]), THREE)["kappa"])


def test_kappa_survives_the_pixels_of_a_continent():
    small = np.array([[6, 2, 0], [1, 8, 1], [1, 0, 3]])
    large = accuracies(small * 10**12, THREE)["kappa"]
    assert large == pytest.approx(accuracies(small, THREE)["kappa"], rel=1e-12)


VALUES = st.lists(
    st.tuples(st.sampled_from([2, 5, 9, 254, 255]), st.sampled_from([2, 5, 9, 255])),
    min_size=1,
    max_size=60,
)


@given(VALUES)
def test_accuracies_equal_those_of_scikit_learn(pairs):
    mapped, reference = bytes_of(pairs).T
    result = accuracies(error_matrix(mapped, reference, THREE), THREE)
    mapped = np.where(mapped > 250, 0, mapped)[reference != 255]
    reference = reference[reference != 255]
    assert result["n"] == len(reference)
    if not len(reference):
        return
    assert result["overall_accuracy"] == pytest.approx(metrics.accuracy_score(reference, mapped))
    held = np.unique(reference)
    options = {"labels": held, "average": "macro", "zero_division": 0}
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(reference, mapped, **options))
    if not math.isnan(result["kappa"]):
        kappa = metrics.cohen_kappa_score(reference, mapped)
        assert result["kappa"] == pytest.approx(kappa, abs=1e-12)


def test_both_maps_are_compared_on_the_same_pixels():
    mapped, old = bytes_of([2, 2, 5, 9]), bytes_of([2, 255, 2, 255])
    reference = bytes_of([2, 2, 5, 255])
    of_map, of_old, of_map_where_old = count(mapped, old, reference, THREE)
    assert of_map.sum() == of_old.sum() == 3
    assert of_old[3].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(of_map_where_old, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


# --- area estimates -------------------------------------------------------------------------------

OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09 * PIXELS


def test_area_estimate_reproduces_olofsson_2014():
    found = area_estimates(OLOFSSON, HECTARES)
    assert found["overall_accuracy"] == pytest.approx(0.9465, abs=5e-5)
    assert 1.96 * found["overall_accuracy_se"] == pytest.approx(0.0185, abs=5e-5)
    np.testing.assert_allclose(found["users"], [0.88, 0.73, 0.93, 0.96], atol=5e-3)
    np.testing.assert_allclose(1.96 * found["users_se"], [0.07, 0.10, 0.04, 0.02], atol=5e-3)
    np.testing.assert_allclose(found["producers"], [0.75, 0.85, 0.93, 0.96], atol=5e-3)
    margins = [0.213, 0.254, 0.034, 0.018]
    np.testing.assert_allclose(1.96 * found["producers_se"], margins, atol=5e-4)
    assert found["area"][0] == pytest.approx(21_158, abs=0.5)
    assert 1.96 * found["area_se"][0] == pytest.approx(6_158, abs=0.5)


def test_areas_add_up_to_the_mapped_area():
    found = area_estimates(OLOFSSON, HECTARES)
    assert found["area"].sum() == pytest.approx(HECTARES.sum())
    assert found["proportion"].sum() == pytest.approx(1)


def test_areas_scale_with_their_unit_and_accuracies_do_not():
    hectares, square = area_estimates(OLOFSSON, HECTARES), area_estimates(OLOFSSON, 1e4 * HECTARES)
    np.testing.assert_allclose(square["area_se"], 1e4 * hectares["area_se"])
    np.testing.assert_allclose(square["producers_se"], hectares["producers_se"])


def test_standard_errors_agree_with_a_simulation():
    random = np.random.default_rng(5)
    share = OLOFSSON / OLOFSSON.sum(axis=1, keepdims=True)
    draws = []
    for _ in range(2000):
        drawn = [random.multinomial(n, p) for n, p in zip(OLOFSSON.sum(axis=1), share, strict=True)]
        draws.append(area_estimates(np.array(drawn), HECTARES))
    expected = area_estimates(OLOFSSON, HECTARES)
    for key in ("overall_accuracy", "users", "producers", "area"):
        spread = np.std([draw[key] for draw in draws], axis=0)
        np.testing.assert_allclose(expected[f"{key}_se"], spread, rtol=0.12)


def test_a_class_that_is_not_mapped_has_no_users_accuracy_and_spoils_nothing():
    matrix = np.zeros((5, 5))
    matrix[:4, :4] = OLOFSSON
    found = area_estimates(matrix, [*HECTARES, 0])
    known = area_estimates(OLOFSSON, HECTARES)
    assert math.isnan(found["users"][4])
    np.testing.assert_allclose(found["area_se"][:4], known["area_se"])
    np.testing.assert_allclose(found["producers_se"][:4], known["producers_se"])


def test_strata_without_a_class_count():
    found = area_estimates(np.vstack([OLOFSSON, [10, 0, 0, 10]]), [*HECTARES, 90_000])
    assert found["area"].sum() == pytest.approx(HECTARES.sum() + 90_000)
    assert found["area"][0] == pytest.approx(21_158 + 45_000, abs=0.5)
    assert found["overall_accuracy"] < 0.9465


def test_a_mapped_stratum_without_samples_is_refused():
    with pytest.raises(ValueError, match=r"no sample in strata \[1\]"):
        area_estimates(np.array([[5, 0], [0, 0]]), [1, 1])


def test_a_stratum_with_one_sample_has_no_standard_error():
    found = area_estimates(np.array([[1, 0], [2, 8]]), [1, 1])
    assert math.isnan(found["area_se"][0])
    assert found["overall_accuracy"] == pytest.approx(0.9)


def test_strata_of_another_map_give_unbiased_figures_with_true_errors():
    random = np.random.default_rng(7)
    # A population of 3 x 3 x 2: strata are what an earlier map showed; the map of today differs.
    share = random.dirichlet(np.ones(6), 3).reshape(3, 3, 2)
    area, drawn = np.array([500.0, 300.0, 50.0]), np.array([90, 60, 40])
    whole = np.tensordot(area / area.sum(), share, 1)
    draws = []
    for _ in range(3000):
        units = [
            random.multinomial(n, part.ravel()).reshape(3, 2)
            for n, part in zip(drawn, share, strict=True)
        ]
        draws.append(stratified_estimates(np.array(units), area))
    truth = {
        "overall_accuracy": whole[0, 0] + whole[1, 1],
        "users": whole[:2].diagonal() / whole[:2].sum(axis=1),
        "producers": whole[:2].diagonal() / whole.sum(axis=0),
        "area": area.sum() * whole.sum(axis=0),
    }
    for key, value in truth.items():
        found = np.array([draw[key] for draw in draws])
        np.testing.assert_allclose(found.mean(axis=0), value, rtol=0.01)
        stated = np.mean([draw[f"{key}_se"] for draw in draws], axis=0)
        np.testing.assert_allclose(stated, found.std(axis=0), rtol=0.08)


def test_a_stratum_without_area_spoils_nothing():
    units = np.zeros((3, 2, 2))
    units[0, 0], units[1, 1], units[2, 0] = [8, 2], [1, 9], [1, 0]
    found, known = stratified_estimates(units, [3, 1, 0]), stratified_estimates(units[:2], [3, 1])
    for key, value in known.items():
        np.testing.assert_allclose(found[key], value)


@pytest.mark.parametrize(
    ("matrix", "area"), [([[1, 2]], [1]), ([[1], [2]], [1]), ([[1, -1], [0, 1]], [1, 1])]
)
def test_a_matrix_that_is_none_is_refused(matrix, area):
    with pytest.raises(ValueError, match="matrix|negative"):
        area_estimates(matrix, area)


# --- reliability ----------------------------------------------------------------------------------


def test_expected_calibration_error_by_hand():
    probability = bytes_of([250, 250, 240, 100, 110, 0])
    right = np.array([True, True, False, False, True, False])
    found = reliability.describe(reliability.count_bins(probability, right))
    top, middle, bottom = found["bins"][9], found["bins"][4], found["bins"][0]
    assert (top["n"], middle["n"], bottom["n"]) == (3, 2, 1)
    assert top["confidence"] == pytest.approx(740 / 750)
    assert (top["accuracy"], middle["accuracy"], bottom["accuracy"]) == pytest.approx(
        (2 / 3, 0.5, 0)
    )
    expected = (3 * (740 / 750 - 2 / 3) + 2 * (0.5 - 210 / 500)) / 6
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert math.isnan(found["bins"][1]["accuracy"])


def test_probabilities_that_keep_their_word_have_no_calibration_error():
    random = np.random.default_rng(2)
    probability = random.integers(0, 251, 200_000)
    found = reliability.describe(
        reliability.count_bins(probability, random.random(200_000) < probability / 250)
    )
    assert found["expected_calibration_error"] < 0.005


def test_reliability_of_nothing_is_not_a_number():
    found = reliability.describe(np.zeros((reliability.BINS, 3), np.int64))
    assert math.isnan(found["expected_calibration_error"])


# --- points ---------------------------------------------------------------------------------------

CORINE_12 = legend.load("corine-12")


def lucas(**changes):
    row = {
        "POINT_ID": "1", "TH_LAT": "46.1", "TH_LONG": "-1.25", "GPS_LAT": "46.1004",
        "GPS_EW": "2", "GPS_LONG": "1.2504", "OBS_TYPE": "1", "OBS_DIRECT": "1", "LC1": "B11",
        "LU1": "U111", "WM": "5", "SURVEY_DATE": "21/09/18",
    }  # fmt: skip
    return row | changes


def read(*rows, **keys):
    return points.parse(rows, CORINE_12, Assess(**keys))


MINE = Assess(points_nomenclature="mine")


def load(path, legend=THREE, nomenclature="mine", **keys):
    about = Assess(points=str(path), points_nomenclature=nomenclature, **keys)
    return points.load(about, legend)


def test_a_lucas_point_lies_where_the_survey_planned_it():
    found = read(lucas())
    assert (found.x.tolist(), found.y.tolist()) == ([-1.25], [46.1])
    assert (found.value.tolist(), found.year.tolist()) == ([3], [2018])
    assert found.geographic


@pytest.mark.parametrize(("side", "x"), [("1", 1.2504), ("2", -1.2504), ("West", -1.2504)])
def test_longitude_without_a_sign_takes_it_from_its_column(side, x):
    found = read(lucas(TH_LAT="", TH_LONG="", GPS_EW=side))
    assert found.x.tolist() == [x]


def test_sentinels_are_no_place():
    nowhere = {"GPS_LAT": "88.888888", "GPS_LONG": "88.888888", "GPS_EW": "8"}
    found = read(lucas(TH_LAT="", TH_LONG="", **nowhere))
    assert (len(found.x), found.removed) == (0, {"no position": 1})


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"LC1": "A11"}, 1),
        ({"LC1": "B11", "WM": "1"}, 4),
        ({"LC1": "B11", "WM": "4"}, 4),
        ({"LC1": "B11", "WM": "2"}, 3),
        ({"LC1": "B11", "WM": "Irrigation"}, 4),
        ({"LC1": "F10", "LU1": "U140"}, 5),
        ({"LC1": "F10", "LU1": "U420"}, 6),
        ({"LC1": "c10"}, 8),
    ],
)
def test_cover_with_use_comes_before_irrigated_cover_and_bare_cover(changes, value):
    assert read(lucas(**changes)).value.tolist() == [value]


def test_rows_that_do_not_describe_their_point_are_counted_by_reason():
    rows = [
        lucas(),
        lucas(OBS_TYPE="7"),
        lucas(OBS_TYPE="2"),
        lucas(OBS_DIRECT="2"),
        lucas(LC1="C33"),
        lucas(LC1="8"),
    ]
    found = read(*rows)
    assert (found.read, len(found.x)) == (6, 1)
    assert found.removed == {
        "class not in the legend": 2,
        "interpreted from photographs": 1,
        "not observed on the point": 1,
        "seen from farther than 100 m": 1,
    }


@pytest.mark.parametrize(
    ("changes", "keys", "usable"),
    [
        ({"OBS_TYPE": "7"}, {}, False),
        ({"OBS_TYPE": "7", "OBS_DIRECT": "8"}, {"lucas_photographs": True}, True),
        ({"OBS_TYPE": "In office PI"}, {}, False),
        ({"OBS_TYPE": "5"}, {"lucas_photographs": True}, False),
        ({"OBS_TYPE": "2", "OBS_DIST": "180"}, {}, False),
        ({"OBS_TYPE": "2", "OBS_DIST": "180"}, {"lucas_distance": 200}, True),
        ({"OBS_TYPE": "2", "OBS_DIST": "8888"}, {"lucas_distance": 200}, False),
        ({"OBS_DIST": "60"}, {"lucas_distance": 50}, False),
        ({"OBS_DIRECT": "Look to the North"}, {}, False),
        ({"OBS_DIRECT": "3"}, {"lucas_aside": True}, True),
        ({"LC1_PERC": "70"}, {}, False),
        ({"LC1_PERC": "70"}, {"lucas_percent": 50}, True),
        ({"LC1_PERC": "50 - 75 %"}, {}, False),
        ({"LC1_PERC": "> 75 %"}, {}, True),
        ({"LC1_PERC": "< 10 %"}, {"lucas_percent": 0}, True),
        ({"LC1_PERC": ""}, {}, True),
        ({"LC1_PERC": "888"}, {}, True),
        ({"PARCEL_AREA_HA": "2"}, {}, False),
        ({"PARCEL_AREA_HA": "3"}, {}, True),
        ({"PARCEL_AREA_HA": "< 0.5"}, {}, False),
        ({"PARCEL_AREA_HA": "0.5 - 1 ha"}, {}, True),
        ({"PARCEL_AREA_HA": "1 - 10"}, {"lucas_parcel": 10}, False),
        ({"PARCEL_AREA_HA": "> 10 ha"}, {"lucas_parcel": 10}, True),
        ({"PARCEL_AREA_HA": "8"}, {}, True),
    ],
)
def test_filters_of_lucas_points_are_keys(changes, keys, usable):
    found = read(lucas(**changes), **keys)
    assert len(found.x) == usable
    assert sum(found.filters.values()) == 1 - usable


def test_a_filter_that_removed_nothing_is_reported_too():
    found = read(lucas(LC1_PERC="90", PARCEL_AREA_HA="4"))
    assert list(found.filters) == [
        "not observed", "interpreted from photographs", "seen from farther than 100 m",
        "not observed on the point", "land cover of less than 75 % of its parcel",
        "parcel smaller than 0.5 ha", "no position", "no class", "class not in the legend",
    ]  # fmt: skip
    assert not any(found.filters.values())


def test_columns_as_they_are_called_in_2022():
    row = {
        "POINT_ID": "1", "POINT_LAT": "46.1", "POINT_LONG": "-1.25", "SURVEY_OBS_TYPE": "1",
        "SURVEY_OBS_DIRECT": "1", "SURVEY_OBS_DIST": "3", "SURVEY_LC1": "B11", "SURVEY_LU1": "U111",
        "SURVEY_LC1_PERC": "100", "SURVEY_PARCEL_AREA_HA": "4", "SURVEY_WM": "1",
        "SURVEY_DATE": "2022-05-17",
    }  # fmt: skip
    found = read(row, row | {"SURVEY_OBS_TYPE": "7"}, row | {"SURVEY_PARCEL_AREA_HA": "1"})
    assert (found.x.tolist(), found.y.tolist()) == ([-1.25], [46.1])
    assert (found.value.tolist(), found.year.tolist()) == ([4], [2022])
    assert found.removed == {"interpreted from photographs": 1, "parcel smaller than 0.5 ha": 1}


def test_a_table_of_places_and_classes():
    rows = [
        {"Lon": "3.0", "Lat": "50.8", "class": "20"},
        {"Lon": "3.1", "Lat": "50.8", "class": "town"},
        {"Lon": "3.1", "Lat": "50.8", "class": "Desert"},
    ]
    found = points.parse(rows, THREE, MINE)
    assert found.value.tolist() == [2, 9]
    assert found.year.tolist() == [0, 0]
    assert found.removed == {"class not in the legend": 1}


def test_a_table_on_the_grid():
    found = points.parse([{"x": "500005", "y": "4999995", "class": "50"}], THREE, MINE)
    assert not found.geographic
    grid = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 5000000.0, 0.0, -10.0), 4, 4)
    assert [part.tolist() for part in points.pixels(found, grid)] == [[0], [0], [0]]


@pytest.mark.parametrize("row", [{"lat": "1", "lon": "1"}, {"class": "20"}])
def test_a_table_without_the_columns_is_refused(row):
    with pytest.raises(ValueError, match="expected"):
        points.parse([row], THREE, MINE)


def test_pixels_of_points_by_degrees_and_their_edges():
    # The centre of UTM zone 31 is 3 degrees east: x is exactly 500 km there.
    rows = [{"lon": lon, "lat": "0.0", "class": "20"} for lon in ("3.0", "2.9999", "3.00005")]
    found = points.parse(rows, THREE, MINE)
    grid = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 10.0, 0.0, -10.0), 3, 1)
    chosen, row, col = points.pixels(found, grid)
    assert chosen.tolist() == [0, 2]
    assert row.tolist() == [1, 1]
    assert col.tolist() == [0, 0]


def test_points_beyond_the_projection_are_on_no_tile():
    places = [(-170.0, 89.0), (93.0, 0.0), (3.0, 95.0), (900.0, 0.0), (3.00005, 0.00005)]
    rows = [{"lon": str(lon), "lat": str(lat), "class": "20"} for lon, lat in places]
    found = points.parse(rows, THREE, MINE)
    assert found.removed == {"no position": 2}
    grid = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 10.0, 0.0, -10.0), 3, 1)
    chosen, _, _ = points.pixels(found, grid)
    assert chosen.tolist() == [2]


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [("EPSG:32631", 6e5, 5.7e6), ("EPSG:32601", 3e5, 3e6), ("EPSG:3413", -5e4, 5e4)],
)
def test_every_pixel_of_a_tile_is_found_again_by_degrees(crs, x, y):
    grid = Grid(crs, (x, 10.0, 0.0, y, 0.0, -10.0), 10980, 10980)
    edge = np.array([0, 1, 5000, 10978, 10979])
    rows, cols = (part.ravel() for part in np.meshgrid(edge, edge, indexing="ij"))
    systems = osr.SpatialReference(), osr.SpatialReference()
    for system, name in zip(systems, (crs, "EPSG:4326"), strict=True):
        system.SetFromUserInput(name)
        system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    places = np.column_stack([x + 10 * (cols + 0.5), y - 10 * (rows + 0.5)])
    degrees = osr.CoordinateTransformation(*systems).TransformPoints(places)
    table = [{"lon": repr(lon), "lat": repr(lat), "class": "20"} for lon, lat, _ in degrees]
    chosen, row, col = points.pixels(points.parse(table, THREE, MINE), grid)
    assert chosen.tolist() == list(range(25))
    np.testing.assert_array_equal(row, rows)
    np.testing.assert_array_equal(col, cols)


def test_semicolons_separate_as_well(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\ufefflon;lat;class\n3,1;50.8;20\n3.1;50.8;20\n", encoding="utf-8")
    found = load(path)
    assert (found.x.tolist(), found.removed) == ([3.1], {"no position": 1})


def write_layer(path, driver, places, epsg=4326, kind=ogr.wkbPoint, name="points"):
    """Write features (x, y, code, name of a class) as a layer."""
    system = osr.SpatialReference()
    system.ImportFromEPSG(epsg)
    system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    dataset = gdal.GetDriverByName(driver).Create(str(path), 0, 0, 0, gdal.GDT_Unknown)
    layer = dataset.CreateLayer(name, system, kind)
    layer.CreateField(ogr.FieldDefn("class", ogr.OFTInteger64))
    layer.CreateField(ogr.FieldDefn("Cover", ogr.OFTString))
    for x, y, code, cover in places:
        feature = ogr.Feature(layer.GetLayerDefn())
        if x is not None:
            feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POINT ({x} {y})"))
        if code is not None:
            feature["class"] = code
        feature["Cover"] = cover
        layer.CreateFeature(feature)
    del layer, dataset


@pytest.mark.parametrize(("driver", "name"), [("GPKG", "p.gpkg"), ("GeoJSON", "p.geojson")])
def test_points_of_a_layer(tmp_path, driver, name):
    path = tmp_path / name
    rows = [(3.0, 50.8, 20, "town"), (3.1, 50.9, 51, ""), (3.2, 50.9, 7, ""), (None, None, 20, ""),
            (3.3, 50.9, None, "water")]  # fmt: skip
    write_layer(path, driver, rows)
    found = load(path)
    assert (found.geographic, found.read) == (True, 5)
    assert found.value.tolist() == [2, 5]
    np.testing.assert_allclose([found.x, found.y], [[3.0, 3.1], [50.8, 50.9]], rtol=1e-12)
    assert found.removed == {"class not in the legend": 1, "no class": 1, "no position": 1}
    assert load(path, points_class="cover").value.tolist() == [9, 2]


def test_a_layer_of_another_reference_system_comes_in_degrees(tmp_path):
    write_layer(tmp_path / "p.gpkg", "GPKG", [(500000.0, 0.0, 20, "")], epsg=32631)
    found = load(tmp_path / "p.gpkg")
    np.testing.assert_allclose([found.x[0], found.y[0]], [3.0, 0.0], atol=1e-9)


def test_a_layer_that_holds_no_points_is_refused(tmp_path):
    write_layer(tmp_path / "p.gpkg", "GPKG", [], kind=ogr.wkbNone)
    with pytest.raises(ValueError, match=r"p\.gpkg: expected one layer of points, found none"):
        load(tmp_path / "p.gpkg")
    text = '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"class": 20}, '
    text += '"geometry": {"type": "LineString", "coordinates": [[3, 50], [4, 50]]}}]}'
    (tmp_path / "p.geojson").write_text(text)
    with pytest.raises(ValueError, match="expected points, found a LINESTRING"):
        load(tmp_path / "p.geojson")
    (tmp_path / "damaged.gpkg").write_bytes(b"SQLite format 3\0 and nothing more")
    with pytest.raises(ValueError, match=r"damaged\.gpkg"):
        load(tmp_path / "damaged.gpkg")


def test_a_missing_class_column_is_named(tmp_path):
    write_layer(tmp_path / "p.gpkg", "GPKG", [(3.0, 50.8, 20, "town")])
    with pytest.raises(
        ValueError, match=r"column kind \(assess.points_class\), found class, cover"
    ):
        load(tmp_path / "p.gpkg", points_class="kind")


def real(name):
    path = LUCAS / "raw_format" / name
    if not path.exists():
        pytest.skip("the LUCAS rows are not here (shared/data/lucas)")
    return path


def test_real_rows_of_the_2018_survey():
    path = real("EU_2018_format_BE_2rows.csv")
    found = load(path, CORINE_12, "lucas")
    # One was interpreted in the office, with sentinels for the GPS; one was seen to the north.
    assert found.removed == {
        "interpreted from photographs": 1,
        "not observed on the point": 1,
    }
    # Both count where the filters that left them out are off; the house stands on a small parcel.
    off = {"lucas_photographs": True, "lucas_aside": True}
    assert load(path, CORINE_12, "lucas", **off).removed == {"parcel smaller than 0.5 ha": 1}
    assert load(path, CORINE_12, "lucas", **off, lucas_parcel=0).value.tolist() == [1, 1]
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    places = [points._place(points._plain(row)) for row in rows]
    assert places == [(3.862541317, 50.487792576), (3.812952713, 50.863822271)]
    measured = [points._plain(row) | {"th_lat": "", "th_long": ""} for row in rows]
    assert [points._place(row) for row in measured] == [None, (3.813208, 50.863709)]


def test_real_rows_of_the_harmonised_survey():
    found = load(real("lucas_harmonised_format_3rows.csv"), CORINE_12, "lucas")
    assert found.year.tolist() == [2006, 2015, 2018]
    assert found.value.tolist() == [3, 2, 10]
    assert (found.x < 0).all()
    assert found.removed == {}


def test_every_lucas_code_of_the_legend_is_a_code_of_the_survey():
    path = LUCAS / "nomenclature" / "lc1_codes.csv"
    if not path.exists():
        pytest.skip("the LUCAS codes are not here (shared/data/lucas)")
    known = set(path.read_text(encoding="utf-8").split())
    used = {code.split("/")[0].split("+")[0] for code in CORINE_12.crosswalk("lucas")}
    assert used <= known
