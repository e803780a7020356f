"""The report: one HTML page that needs no other file."""

from __future__ import annotations

import base64
import csv
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from osgeo import gdal

import lcu
from lcu import store
from lcu.composite import decoded_share
from lcu.config import Config, to_toml
from lcu.grid import Tile
from lcu.legend import NODATA, Legend
from lcu.projection import in_metres
from lcu.publish import areas, mosaic, preview, vision
from lcu.publish.views import View
from lcu.ranks import Failure

TEMPLATES = Path(__file__).parent
# In the order of the data; a stage that reads and writes all pixels of all years has a throughput.
STAGES = ("simulate", "retrieve", "composite", "sample", "train", "classify", "assess", "publish")
THROUGHPUT = ("composite", "classify", "publish")


class ViewerError(RuntimeError):
    """The files of the map viewer are not in this environment; the message says how to get them."""


def viewer_files() -> tuple[str, str]:
    """Return Leaflet's style sheet and script, as they are put into the page.

    Raises
    ------
    ViewerError
        Where the package that carries them is not installed.
    """
    try:
        from xstatic.pkg import leaflet
    except ImportError as error:
        raise ViewerError(
            f"the report's map viewer, Leaflet, is not in this environment ({error}): "
            "install the package XStatic-Leaflet (requirements.txt names the version), or `make env`"
        ) from error
    folder = Path(leaflet.BASE_DIR)
    css = (folder / "leaflet.css").read_text(encoding="utf-8")
    script = (folder / "leaflet.js").read_text(encoding="utf-8")
    # Nothing may be looked for beside the page: pictures of controls that it does not have, and
    # the map that leads a debugger to the sources.
    css = re.sub(r"url\(images/[^)]*\)", "none", css)
    return css, re.sub(r"//# sourceMappingURL=.*", "", script)


def render(
    config: Config,
    tiles: Mapping[str, Tile],
    accuracy: Mapping[int, dict[str, Any]],
    shown: Sequence[View],
    failures: Sequence[Failure],
    paths: Sequence[str],
    provenance: Mapping[str, Any],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    training: str = "",
) -> str:
    """Return the page.

    `shown` are the tiles of the viewer; `accuracy` is year -> result of the assessment; `pictures`
    of the samples are (name, PNG in base64); `training` is a picture too, empty where no network was
    trained; `provenance` is what ``provenance.json`` holds.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    leaflet_css, leaflet_js = viewer_files()
    first = shown[0] if shown else None
    return environment.get_template("report.html").render(
        title=f"Land cover {_span(config.archive.years)}",
        run=config.directory.name,
        synthetic=config.simulate is not None,
        headline=headline(config, tiles, accuracy, failures),
        facts=facts(config, tiles, paths),
        legend=config.legend,
        years=config.archive.years,
        views=shown,
        data=Markup(viewer_data(shown, config.legend)) if shown else "",
        stride=first.stride if first else 1,
        metres=first.metres if first else None,
        close=vision.close_pairs(config.legend),
        limit=vision.CLOSE,
        comparisons=comparisons(accuracy),
        with_key=with_key,
        areas=regions(config),
        transitions=transitions(config),
        consistency=consistency(config),
        pictures=pictures,
        cleaning=cleaning(config),
        training=training,
        model=config.train.model,
        scores=scores(config),
        failures=failures,
        cost=cost(provenance.get("stages", {}), config, tiles),
        provenance={**software(), **described(provenance)},
        configuration=to_toml(config),
        licence=_text("leaflet-licence.txt"),
        leaflet_css=Markup(leaflet_css),
        leaflet_js=Markup(leaflet_js),
        css=Markup(_text("report.css")),
        js=Markup(_text("report.js")),
    )


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def viewer_data(shown: Sequence[View], legend: Legend) -> str:
    """Return what the viewer's script takes, as JSON that may stand in a page."""
    hatched = vision.patterns(legend)
    most = max(view.most_observations for view in shown)
    content = {
        "classes": [
            {"value": entry.value, "name": entry.name, "pattern": pattern}
            for entry, pattern in zip(legend.classes, hatched, strict=True)
        ],
        "colours": colours(legend, most),
        "ramps": {
            "confidence": {"name": "Confidence, percent", "low": "0", "high": "100", "from": 0, "to": 100},
            "observations": {
                "name": "Clear observations in the year", "low": "0", "high": str(most), "from": 0, "to": most,
            },
        },
        "views": [asdict(view) for view in shown],
    }  # fmt: skip
    return json.dumps(content, separators=(",", ":")).replace("</", "<\\/")


def colours(legend: Legend, most: int) -> dict[str, list[list[int]]]:
    """Return red, green and blue of the values 0..255 of each kind of layer.

    Confidence and observations are in cividis, which also colour-blind readers see in order.
    """
    from matplotlib import colormaps

    classes = preview.colours(np.arange(256, dtype=np.uint8), legend).tolist()
    found = {"classes": classes, "change": classes}
    for kind, largest in (("confidence", 100), ("observations", most)):
        share = np.minimum(np.arange(256) / max(largest, 1), 1)
        table = (255 * colormaps["cividis"](share)[:, :3]).round().astype(int).tolist()
        if kind == "confidence":
            table[NODATA] = [255, 255, 255]
        found[kind] = table
    return found


def headline(
    config: Config,
    tiles: Mapping[str, Tile],
    accuracy: Mapping[int, dict[str, Any]],
    failures: Sequence[Failure],
) -> list[tuple[str, str]]:
    """Return the few figures that stand first: (figure, what it is)."""
    found = []
    for year, result in list(sorted(accuracy.items()))[-1:]:
        old = result["old_map"]["overall_accuracy"]
        found.append(
            (number(result["overall_accuracy"]), f"overall accuracy {year} (old map {number(old)})")
        )
    if not accuracy:
        found.append(("-", "overall accuracy: compared with nothing"))
    found.append(
        (str(len(config.archive.years)), f"years mapped, old map of {config.sample.old_map_year}")
    )
    metres = [tile.grid for tile in tiles.values() if in_metres(tile.grid)]
    area = sum(grid.height * grid.width * grid.resolution**2 for grid in metres) / 1e6
    place = f"in {len(tiles)} tile{'s' if len(tiles) > 1 else ''}"
    if len(metres) == len(tiles):
        found.append((f"{area:,.0f} km\u00b2" if area >= 10 else f"{area:.2g} km\u00b2", place))
    found.append((str(len(config.legend.classes)), f"classes of {config.legend.name}"))
    found.append((str(len(failures)), "units of work failed"))
    return found


def with_key(results: Sequence[tuple[int, dict[str, Any]]], key: str) -> list[tuple[int, Any]]:
    """Return the years whose assessment says something about `key`."""
    return [(year, result) for year, result in results if result.get(key)]


def regions(config: Config) -> list[dict[str, Any]]:
    """Return the areas of the mosaic, or of every tile where there is none, for the page."""
    path = config.directory / "assessment" / "areas.csv"
    if not path.exists():
        return []
    found = areas.read(path)
    if mosaic.NAME in found:
        found = {mosaic.NAME: found[mosaic.NAME]}
    return [_region(name, rows, config.legend) for name, rows in found.items()]


def _region(name: str, rows: Sequence[Mapping[str, str]], legend: Legend) -> dict[str, Any]:
    unit = areas.unit_of(rows)
    cells: dict[str, list[str]] = {entry.name: [] for entry in legend.classes}
    for row in rows:
        text = f"{float(row[unit] or 0):,.0f}"
        if row["estimated_hectares"]:
            middle, low, high = (
                f"{float(row[key]):,.0f}"
                for key in ("estimated_hectares", "low_hectares", "high_hectares")
            )
            text += f" (estimated {middle}, {low} to {high})"
        cells[row["class"]].append(text)
    return {
        "name": "All tiles" if name == mosaic.NAME else name,
        "unit": "ha" if unit == "hectares" else unit,
        "years": sorted({row["year"] for row in rows}),
        "rows": cells,
        "picture": base64.b64encode(areas.draw(rows, legend)).decode("ascii"),
        "estimated": any(row["estimated_hectares"] for row in rows),
    }


def transitions(
    config: Config,
) -> list[tuple[str, list[str], list[str], list[list[float]]]]:
    """Return the tables of transitions: (title, rows, columns, hectares [from][to])."""
    found = []
    for path in sorted((config.directory / "assessment").glob("transitions_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            head, *lines = list(csv.reader(file))
        values = [[float(text or 0) for text in line[1:]] for line in lines]
        title = "From {} to {}".format(*path.stem.removeprefix("transitions_").split("-"))
        found.append((title, [line[0] for line in lines], head[1:], values))
    return found


def consistency(config: Config) -> list[dict[str, Any]]:
    """Return how far each two maps agree, the old map with each year last; empty where that was not assessed.

    Beside the agreement stand the accuracies of both maps and how the changes were found: alone it says
    nothing, for a constant map agrees with itself perfectly.
    """
    path = config.directory / "assessment" / "consistency.json"
    if not path.exists():
        return []
    told = store.read_json(path, "assess")
    since = told["old_map"].get("pairs", [])
    rows = []
    for pairs, which in ((told["pairs"], "map"), (since, "old map")):
        for pair in pairs:
            first = "old_map" if which == "old map" else str(pair["from"])
            rows.append(pair | {
                "names": (f"{which} of {pair['from']}", f"map of {pair['to']}"),
                "accuracies": (pair["accuracy"][first], pair["accuracy"][str(pair["to"])]),
            })  # fmt: skip
    return rows


def scores(config: Config) -> list[tuple[str, str]]:
    """Return what the model says of its training: (year or part, text)."""
    path = config.directory / "model" / "model.json"
    if not path.exists():
        return []
    found = store.read_json(path, "train").get("scores", {})
    return [
        (part, ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in told.items()))
        for part, told in found.items()
        if isinstance(told, dict)
    ]  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cost(
    stages: Mapping[str, Mapping[str, Any]], config: Config, tiles: Mapping[str, Tile]
) -> list[list[str]]:
    """Return a row of text for each stage that was measured (`lcu.usage.since`)."""
    pixels = sum(tile.grid.height * tile.grid.width for tile in tiles.values())
    rows = []
    for name in STAGES:
        if name not in stages:
            continue
        used = stages[name]
        seconds = used["seconds"]
        speed = "-"
        if name in THROUGHPUT and seconds:
            speed = f"{pixels * len(config.archive.years) / seconds:,.0f}"
        rows.append(
            [
                name, f"{seconds:,.1f}", str(used["ranks"]), str(used["threads"]), f"{used['core_hours']:,.4f}", speed,
                amount(used["peak_memory"]), amount(used["read"]), amount(used["written"]),
            ]
        )  # fmt: skip
    return rows


def amount(number_of_bytes: int | None) -> str:
    """Return bytes as text."""
    if number_of_bytes is None:
        return "not counted"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if number_of_bytes >= size:
            return f"{number_of_bytes / size:,.2f} {unit}"
    return f"{number_of_bytes / 2**10:,.0f} KiB"


def described(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the provenance as labels and texts, without what the page tells elsewhere."""
    return {
        label.capitalize(): " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for label, value in provenance.items()
        if label not in ("stages", "seconds", "synthetic", "software", "python", "ended")
    }


def cleaning(config: Config) -> tuple[list[str], list[tuple[str, list[int]]]]:
    """Return what the rules of the sample stage removed: (names of the columns, rows of each class)."""
    path = config.directory / "samples" / "cleaning.json"
    if not path.exists():
        return [], []
    counts = store.read_json(path, "sample")
    # From what could be learned from to what remained; the file is in the order of the alphabet.
    place = {"labelled": 0, "kept": 2}
    names = sorted(next(iter(counts.values()), []), key=lambda name: (place.get(name, 1), name))
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
