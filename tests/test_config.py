"""The configuration: every mistake is named, and all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcu import config
from lcu.config import ConfigError


def write(folder: Path, text: str) -> Path:
    """Write a configuration and the files that it names."""
    (folder / "archive").mkdir(exist_ok=True)
    (folder / "old.tif").touch()
    path = folder / "run.toml"
    path.write_text(text)
    return path


GOOD = """
[run]
directory = "out"
[archive]
kind = "safe"
path = "archive"
years = [2018, 2019]
[sample]
old_map = "old.tif"
old_map_year = 2016
"""


def test_a_short_configuration_is_enough(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD))
    assert loaded.archive.path == (str(tmp_path / "archive"),)
    assert loaded.composite.method == "median" and len(loaded.periods) == 24
    assert loaded.simulate is None and loaded.legend.name == "corine-12"


def test_a_wrong_configuration_lists_all_its_mistakes(tmp_path: Path) -> None:
    text = (
        GOOD.replace("[2018, 2019]", "[1999]").replace('"safe"', '"zip"').replace("2016", '"old"')
    )
    text += '[compsite]\n[composite]\nbands = ["B99"]\nperiod = "monthly"\nspeed = 3\n[assess]\nreference = "no.tif"\n'
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), ["run.seed=-4", "nonsense"])
    message = str(caught.value)
    for part in (
        "[compsite]", "archive.years", "1999", "archive.kind", "'zip'", "safe, stac", "sample.old_map_year",
        "a whole number", "composite.bands", "B99", "composite.period", "'monthly'", "composite.speed", "run.seed",
        "assess.reference", "no.tif", "--set nonsense", "10 mistakes",
    ):  # fmt: skip
        assert part in message, part


def test_required_keys_are_named_with_what_they_mean(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.directory: required\. The run directory"):
        config.load(write(tmp_path, ""))


def test_set_overrides_a_key_and_takes_plain_texts(tmp_path: Path) -> None:
    loaded = config.load(
        write(tmp_path, GOOD), ["run.seed=7", "composite.period=P2M", "archive.tiles=['31UFT']"]
    )
    assert (loaded.run.seed, loaded.composite.period, loaded.archive.tiles) == (
        7,
        "P2M",
        ("31UFT",),
    )


def test_years_are_in_time_in_whatever_order_they_were_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("[2018, 2019]", "[2020, 2018, 2019]"))
    loaded = config.load(path, ["sample.years=[2019, 2018]"])
    assert loaded.archive.years == (2018, 2019, 2020) and loaded.sample.years == (2018, 2019)


def test_impossible_combinations_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        GOOD + "years = [2020]\n[composite]\nblock = 96\n[assess]\nreference_year = 2030\n",
    )
    with pytest.raises(
        ConfigError, match=r"(?s)sample.years.*composite.block.*assess.reference_year"
    ):
        config.load(path)


def test_a_nomenclature_that_the_legend_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sample.nomenclature.*'lpis'.*corine"):
        config.load(write(tmp_path, GOOD + 'nomenclature = "lpis"\n'))


def test_the_template_is_a_configuration_with_every_key(tmp_path: Path) -> None:
    text = config.template().replace("old_map.tif", "old.tif")
    loaded = config.load(write(tmp_path, text))
    for table, kind in config.TABLES.items():
        for name in kind.__dataclass_fields__:
            assert f"\n{name} =" in text or f"\n# {name} =" in text, f"{table}.{name}"
    assert loaded.composite == config.Composite()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD))
    again = config.load(write(tmp_path, config.to_toml(loaded)))
    assert again == loaded


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.toml is not TOML"):
        config.load(write(tmp_path, "[run"))
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        config.load(tmp_path / "none.toml")
