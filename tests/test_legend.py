"""Legends: mistakes are named, crosswalks agree with the official tables."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lcu import legend

CORINE = Path(__file__).parents[2] / "shared" / "data" / "corine" / "clc_legend.csv"


def entry(value=1, name="Forest", colour="#00A600", **codes):
    return {"value": value, "name": name, "colour": colour, **codes}


def mistakes(*entries):
    with pytest.raises(legend.LegendError) as caught:
        legend.parse({"class": list(entries)}, "mine.toml")
    assert "mine.toml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [-1, 251, 254, 255, 1.5, "1", True, None])
def test_a_value_that_no_map_can_hold_is_refused(value):
    assert "from 0 to 250" in mistakes(entry(value=value))


@pytest.mark.parametrize("colour", ["red", "#12345", "#GGGGGG", "E6004D", 5, None])
def test_a_colour_that_is_none_is_refused(colour):
    assert "colour" in mistakes(entry(colour=colour))


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_class_without_a_name_is_refused(name):
    assert "name must be a text" in mistakes(entry(name=name))


@pytest.mark.parametrize("codes", [311, "311", [3.5], [None]])
def test_codes_that_are_no_list_of_codes_are_refused(codes):
    assert "corine must be a list of codes" in mistakes(entry(corine=codes))


def test_every_mistake_is_named_at_once():
    text = mistakes(entry(value=300), entry(value=2, colour="blue"), entry(value=3, corine="x"))
    assert "from 0 to 250" in text
    assert "'blue'" in text
    assert "corine must be a list" in text


def test_a_value_of_two_classes_is_a_clash():
    text = mistakes(entry(name="Forest"), entry(name="Heath"))
    assert "value 1 belongs to Forest and Heath" in text


def test_a_name_of_two_classes_is_a_clash():
    assert "name 'Forest' belongs to two classes" in mistakes(entry(), entry(value=2))


def test_a_code_of_two_classes_is_a_clash():
    text = mistakes(entry(corine=[311]), entry(value=2, name="Heath", corine=["311"]))
    assert "corine code 311 belongs to Forest and Heath" in text


def test_a_legend_without_classes_is_refused():
    with pytest.raises(legend.LegendError, match=r"\[\[class\]\]"):
        legend.parse({"name": "empty"}, "mine.toml")


def test_a_legend_that_is_not_there_names_those_that_are():
    with pytest.raises(legend.LegendError, match="corine-12"):
        legend.load("corine-13")


def test_a_file_that_is_not_toml_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[[class]\nvalue = ", encoding="utf-8")
    with pytest.raises(legend.LegendError, match="is not TOML"):
        legend.load(path)


def test_a_legend_of_the_user_is_read_from_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[[class]]\nvalue = 7\nname = "Wald"\ncolour = "#00A600"\natkis = [43002]\n'
        '[[class]]\nvalue = 3\nname = "See"\ncolour = "#00CCF2"\natkis = ["44006"]\n',
        encoding="utf-8",
    )
    mine = legend.load(path)
    assert mine.name == "mine"
    assert mine.names == ["See", "Wald"]  # ordered by value
    assert mine.crosswalk("atkis") == {"44006": 3, "43002": 7}


def test_an_unknown_nomenclature_names_the_known_ones():
    with pytest.raises(legend.LegendError, match="it has corine, corine-grid, lucas"):
        legend.load("corine-12").crosswalk("atkis")


def test_reclass_of_corine_codes():
    codes = np.array([[111, 313, 311], [512, 999, -2147483648]], dtype=np.int32)
    values = legend.load("corine-12").reclass(codes, "corine")
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, [[1, 255, 8], [11, 255, 255]])


def test_reclass_of_nothing_is_nothing():
    values = legend.load("corine-12").reclass(np.zeros((0, 4), np.int32), "corine")
    assert values.shape == (0, 4)


def test_reclass_of_grid_codes_equals_that_of_level_3_codes():
    classes = legend.load("corine-12")
    grid_codes = np.arange(1, 45)
    level_3 = np.array([int(code) for code in legend.CORINE_GRID_CODES])
    np.testing.assert_array_equal(
        classes.reclass(grid_codes, "corine-grid"), classes.reclass(level_3, "corine")
    )
    assert classes.reclass(np.array([48, 255]), "corine-grid").tolist() == [255, 255]


def test_index_of_values():
    classes = legend.load("corine-12")
    values = np.array([1, 12, 0, 13, 254, 255], dtype=np.uint8)
    assert classes.index_of(values).tolist() == [0, 11, 255, 255, 255, 255]


def test_corine_12_has_twelve_classes_and_their_main_codes():
    classes = legend.load("corine-12")
    table = classes.crosswalk("corine")
    assert classes.values.tolist() == list(range(1, 13))
    expected = {"111": 1, "231": 2, "211": 3, "241": 4, "131": 5, "332": 6}
    expected |= {"331": 7, "311": 8, "312": 9, "323": 10, "512": 11, "335": 12}
    assert {code: table[code] for code in expected} == expected
    mixed = {"313", "243", "244", "133", "141", "142", "333", "334"}
    assert not mixed & set(table), "mixed classes and classes of use belong to no class"


def test_corine_12_tells_irrigated_fields_from_the_others():
    table = legend.load("corine-12").crosswalk("lucas")
    assert (table["B11"], table["B11+irrigated"]) == (3, 4)
    assert (table["F10"], table["F10/U140"]) == (6, 5)


def test_colours_of_a_legend_differ():
    classes = legend.load("corine-12").classes
    assert len({entry.rgb for entry in classes}) == len(classes)


@pytest.fixture
def official():
    if not CORINE.exists():
        pytest.skip("the official CORINE legend is not here (shared/data/corine)")
    with open(CORINE, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_corine_grid_codes_equal_the_official_table(official):
    assert [row["CLC_CODE"] for row in official] == list(legend.CORINE_GRID_CODES)
    assert [int(row["GRID_CODE"]) for row in official] == list(range(1, 45))


def test_corine_12_takes_its_colours_from_the_official_legend(official):
    colours = {tuple(int(part) for part in row["RGB"].split("-")) for row in official}
    strange = [e.name for e in legend.load("corine-12").classes if e.rgb not in colours]
    assert strange == ["Rocks"]  # darker than the official one, which is close to Sand


def test_transitions_prefer_what_is_plausible() -> None:
    classes = [entry(1, "Forest"), entry(2, "Shrub"), entry(3, "Urban")]
    table = {"change": 0.1, "unlikely": 0.5, "to": {"Forest": ["Shrub"]}}
    parsed = legend.parse({"class": classes, "transitions": table}, "mine.toml")
    expected = [[0.925, 0.05, 0.025], [0.025, 0.95, 0.025], [0.025, 0.025, 0.95]]
    np.testing.assert_allclose(parsed.transition_matrix(), expected)
    plain = legend.parse({"class": classes}, "mine.toml").transition_matrix()
    np.testing.assert_allclose(plain, np.full((3, 3), 0.1) + np.eye(3) * 0.7)


def test_transitions_of_every_legend_add_up_to_one() -> None:
    files = [
        *legend.LEGENDS.glob("*.toml"),
        *(Path(__file__).parents[1] / "examples" / "legends").glob("*.toml"),
    ]
    for file in files:
        matrix = legend.load(file).transition_matrix()
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        assert (np.diag(matrix) > 0.7).all() and (matrix >= 0).all()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"change": 2}, "transitions.change must be a number from 0 to 1, found 2"),
        ({"unlikely": "x"}, "transitions.unlikely must be"),
        ({"from": {}}, "transitions.from: no such key"),
        ({"to": {"Heath": ["Forest"]}}, "no class 'Heath'"),
        ({"to": {"Forest": "Forest"}}, "must be a list of class names"),
        ({"to": 3}, r"transitions.to must be a table"),
        ([], "transitions must be a table"),
    ],
)
def test_transitions_that_name_what_is_not_there_are_refused(table, expected) -> None:
    with pytest.raises(legend.LegendError, match=expected):
        legend.parse({"class": [entry()], "transitions": table}, "mine.toml")
