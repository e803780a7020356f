"""The report: one HTML page that needs no other file."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from osgeo import gdal

import lcu
from lcu import store
from lcu.composite import decoded_share
from lcu.config import Config, to_toml
from lcu.grid import Tile
from lcu.ranks import Failure

TEMPLATES = Path(__file__).parent


def render(
    config: Config,
    tiles: Mapping[str, Tile],
    accuracy: Mapping[int, dict[str, Any]],
    previews: Sequence[tuple[str, int, str]],
    failures: Sequence[Failure],
    paths: Sequence[str],
    provenance: Mapping[str, Any],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    training: str = "",
) -> str:
    """Return the page.

    `previews` are (tile, year, PNG in base64); `accuracy` is year -> result of the assessment;
    `pictures` of the samples are (name, PNG in base64); `training` is a picture too, empty where no
    network was trained.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("report.html").render(
        title=f"Land cover {_span(config.archive.years)}",
        run=config.directory.name,
        synthetic=config.simulate is not None,
        facts=facts(config, tiles, paths),
        legend=config.legend,
        comparisons=comparisons(accuracy),
        previews=previews,
        pictures=pictures,
        cleaning=cleaning(config),
        training=training,
        failures=failures,
        provenance={**software(), **provenance},
        configuration=to_toml(config),
    )


def cleaning(config: Config) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Return what the rules of the sample stage removed: (names of the columns, rows of each class)."""
    path = config.directory / "samples" / "cleaning.json"
    if not path.exists():
        return [], []
    counts = store.read_json(path, "sample")
    names = list(next(iter(counts.values()))) if counts else []
    return names, [(name, [entry[column] for column in names]) for name, entry in counts.items()]


def comparisons(
    accuracy: Mapping[int, dict[str, Any]],
) -> list[list[tuple[int, dict[str, Any]]]]:
    """Return the results by reference: those of the raster, then those of points given with it."""
    below = {year: result["points"] for year, result in accuracy.items() if "points" in result}
    return [sorted(results.items()) for results in (accuracy, below) if results]


def facts(config: Config, tiles: Mapping[str, Tile], paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return what a reader wants to know first: (label, text)."""
    years = ", ".join(map(str, config.archive.years))
    names = ", ".join(
        f"{tile.id} ({tile.grid.width} x {tile.grid.height})" for tile in tiles.values()
    )
    products = sum(path.endswith(".tif") for path in paths)
    old_map = f"{Path(config.sample.old_map).name}, {config.sample.old_map_year}"
    decoded = decoded_share(config)
    return [
        ("Years", years),
        ("Tiles", names),
        ("Old map", old_map),
        ("Legend", f"{config.legend.name}, {len(config.legend.classes)} classes"),
        (
            "Composites",
            f"{config.composite.method}, {config.composite.period}, mask {config.composite.mask}",
        ),
        (
            "Decoded",
            "not recorded" if decoded is None else f"{decoded:.2f} x the pixels of the files",
        ),
        ("Model", f"{config.train.model}, {config.classify.strategy}"),
        ("Choice over years", choice(config)),
        ("Maps", f"{products} GeoTIFF files in maps/"),
    ]


def choice(config: Config) -> str:
    """Say how the years were made consistent."""
    about = config.classify
    if about.years == "none":
        return "none: every year for itself"
    parts = [
        {"hmm": "hidden Markov model", "clcplus": f"rule of CLC+, percentile {about.percentile:g}"}[
            about.years
        ]
    ]
    parts += ["the old map as evidence"] if about.old_map else []
    parts += [f"smoothing {about.smooth}"] if about.smooth != "none" else []
    parts += [f"unit {about.minimum_unit:g} ha"] if about.minimum_unit else []
    return ", ".join(parts)


def _span(years: Sequence[int]) -> str:
    return str(years[0]) if len(years) == 1 else f"{min(years)} to {max(years)}"


def software() -> dict[str, str]:
    """Return the versions of what made the maps."""
    return {
        "lcu": lcu.__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "GDAL": gdal.VersionInfo("RELEASE_NAME"),
    }


def number(value: float | None) -> str:
    """Return a figure as text; a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
