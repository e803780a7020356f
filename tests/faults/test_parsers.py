"""Whatever is in a table of points or a configuration: a value, or the documented error with the file's name.

Metadata of SAFE and STAC: tests/test_acquisition_safe.py and tests/test_acquisition_stac.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcu import config, legend
from lcu.assess import points

FUZZ = settings(derandomize=True, deadline=None, database=None, max_examples=150)
CLASSES = legend.load("corine-12")
COLUMNS = "POINT_ID;YEAR;TH_LONG;TH_LAT;GPS_LONG;GPS_LAT;GPS_EW;OBS_TYPE;OBS_DIRECT;LC1;LU1;WM"
FIELD = st.text(max_size=6) | st.sampled_from(
    ["B11", "U111", "2018", "88.888888", "-1", "1e999", "nan", "9" * 400, '"', "²", "\0", "1"]
)
TABLE = st.lists(st.lists(FIELD, max_size=13).map(";".join), max_size=6).map("\n".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


def read_points(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = points.load(config.Assess(points=str(path)), CLASSES)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert len(found.x) + sum(found.removed.values()) == found.read


@FUZZ
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_points(folder: Path, content: bytes) -> None:
    read_points(folder / "points.csv", content)


@FUZZ
@given(TABLE)
def test_arbitrary_fields_are_points_or_counted(folder: Path, rows: str) -> None:
    read_points(folder / "points.csv", f"{COLUMNS}\n{rows}".encode("utf-8", "replace"))


ROW = "1;{year};5.0;50.0;;;;1;1;{cover};U111;"


@pytest.mark.parametrize("year", ["²", "9" * 400, "12018"])
def test_a_year_that_is_none_costs_no_other_row(folder: Path, year: str) -> None:
    rows = [ROW.format(year=text, cover="B11") for text in (year, "2018")]
    (folder / "points.csv").write_text("\n".join([COLUMNS, *rows]))
    found = points.load(config.Assess(points=str(folder / "points.csv")), CLASSES)
    assert found.year.tolist() == [0, 2018]


def test_a_field_without_end_is_named(folder: Path) -> None:
    (folder / "points.csv").write_text(f"{COLUMNS}\n{ROW.format(year=2018, cover='B' * 200_000)}")
    with pytest.raises(ValueError, match="points.csv: field larger"):
        points.load(config.Assess(points=str(folder / "points.csv")), CLASSES)


TEXT = config.template().encode()


def read_config(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        config.load(path)
    except config.ConfigError as error:
        assert str(path) in str(error)


@FUZZ
@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_a_damaged_configuration_is_a_named_mistake(
    folder: Path, place: int, put: bytes, left_out: int
) -> None:
    read_config(folder / "run.toml", TEXT[:place] + put + TEXT[place + left_out :])


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
)
KEYS = [
    (table, name) for table, kind in config.TABLES.items() for name in kind.__dataclass_fields__
]


@FUZZ
@given(st.sampled_from(KEYS), VALUE)
def test_any_value_of_any_key_is_taken_or_a_named_mistake(folder: Path, key: tuple, value) -> None:
    tables = {
        "run": {"directory": "run"},
        "archive": {"kind": "safe", "path": ".", "years": [2018]},
        "sample": {"old_map": ".", "old_map_year": 2016},
    }
    tables.setdefault(key[0], {})[key[1]] = value
    try:
        config.build(tables, folder / "run.toml")
    except config.ConfigError as error:
        assert str(folder / "run.toml") in str(error)
