"""Accuracies as files and as text."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lcu.config import Config
from lcu.disk import sync, writing
from lcu.legend import Legend
from lcu.store import read_json

UNMAPPED = "unmapped"
FIGURES = (("accuracy", "overall_accuracy"), ("macro F1", "macro_f1"), ("kappa", "kappa"))
CLASS_FIGURES = (("users", "users"), ("producers", "producers"), ("F1", "f1"))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: it is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        sync(temporary)
        os.replace(temporary, path)


def write(folder: Path, year: int, result: dict[str, Any], legend: Legend) -> None:
    """Write the JSON file and the matrices of one year; the JSON last, for readers look there."""
    for name, part in _matrices(result):
        text = matrix_csv(part["error_matrix"], legend)
        write_whole(folder / f"error_matrix_{name}S{year}.csv", text)
    text = json.dumps(finite(result), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / f"accuracy_S{year}.json", text + "\n")


def write_consistency(folder: Path, about: dict[str, Any]) -> None:
    """Write the tables of transitions since the old map, in hectares, and then ``consistency.json``."""
    for pair in about["old_map"]["pairs"]:
        if pair["transitions_hectares"] is not None:
            text = transitions_csv(pair["transitions_hectares"], about["classes"])
            write_whole(folder / f"transitions_{pair['from']}-{pair['to']}.csv", text)
    text = json.dumps(finite(about), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "consistency.json", text + "\n")


def transitions_csv(hectares: list[list[float]], names: list[str]) -> str:
    """Return a table of transitions as CSV: a row for each class before, a column for each after."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["from \\ to", *names])
    for name, row in zip(names, hectares, strict=True):
        writer.writerow([name, *(f"{value:.2f}" for value in row)])
    return buffer.getvalue()


def _matrices(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", result
    yield "old_map_", result["old_map"]
    if "points" in result:
        for name, part in _matrices(result["points"]):
            yield f"{name}points_", part


def read_results(config: Config) -> dict[int, dict[str, Any]]:
    """Return what a finished assessment says, by year; NaN is None. Empty where there is none."""
    if not (config.assess.reference or config.assess.points):
        return {}
    results = {}
    for year in sorted(config.archive.years):
        path = config.directory / "assessment" / f"accuracy_S{year}.json"
        if path.exists():
            results[year] = read_json(path, "assess")
    return results


def finite(value: Any) -> Any:
    """Replace NaN, which JSON cannot hold, by None."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def matrix_csv(matrix: list[list[int]], legend: Legend) -> str:
    """Return an error matrix [map class + 1, reference class] as CSV: a row for each map class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["map \\ reference", *legend.names])
    for name, row in zip([*legend.names, UNMAPPED], matrix, strict=True):
        writer.writerow([name, *row])
    return buffer.getvalue()


def summary(results: dict[int, dict[str, Any]]) -> str:
    """Return the accuracies of all years as text, the old map's beside each."""
    parts = [_overall(results)]
    parts += [_by_class(year, result) for year, result in sorted(results.items())]
    below = {year: result["points"] for year, result in results.items() if "points" in result}
    if below:
        parts.append(summary(below))
    return "\n\n".join(parts)


def _overall(results: dict[int, dict[str, Any]]) -> str:
    first = results[min(results)]["reference"]
    lines = [f"Accuracy against {first['kind']} {first['file']}"]
    header = "".join(f"{label:>10} old map" for label, _ in FIGURES)
    lines.append(f"{'year':<6}{'tile':<10}{'n':>12}{header}")
    for year, result in sorted(results.items()):
        rows = [("all", result)]
        if len(result["tiles"]) > 1:
            rows += result["tiles"].items()
        lines += [
            _row(f"{year:<6}{name:<10}", part, FIGURES, part["old_map"]) for name, part in rows
        ]
        lines += _notes(result)
    return "\n".join(lines)


def _notes(result: dict[str, Any]) -> list[str]:
    """Say what belongs to the figures of a year: baselines, holes, filters, intervals, probabilities."""
    lines = []
    both, majority = result["where_old_map_has_a_class"], result["baselines"].get("majority class")
    if both["n"] and both["n"] != result["n"]:
        label = f"where the old map has a class ({both['n'] / result['n']:.1%})"
        accuracy, old = both["overall_accuracy"], both["old_map"]["overall_accuracy"]
        lines.append(f"{label}: accuracy {_number(accuracy)}, old map {_number(old)}")
    if majority:
        accuracy, f1 = majority["overall_accuracy"], majority["macro_f1"]
        label = f"a map of nothing but {majority['class']}"
        lines.append(f"{label}: accuracy {_number(accuracy)}, macro F1 {_number(f1)}")
    if result.get("estimates"):
        lines.append(_estimate_line(result["estimates"]))
    if "reliability" in result:
        error = result["reliability"]["expected_calibration_error"]
        lines.append(f"expected calibration error of the probabilities: {_number(error)}")
    removed = [
        f"{one['removed']:,} {one['filter']}" for one in result.get("filters", ()) if one["removed"]
    ]
    if removed:
        lines.append(f"points left out: {', '.join(removed)}")
    return [f"      {line}" for line in lines]


def _estimate_line(found: dict[str, Any]) -> str:
    whole = found["overall_accuracy"]
    text = f"estimated by area: accuracy {_number(whole['value'])}"
    text += f" ({_number(whole['low'])} to {_number(whole['high'])})"
    if found["left_out"]:
        text += (
            f", of {found['holds_for']:.1%} of the area: no point in {', '.join(found['left_out'])}"
        )
    return text


def consistency_summary(about: dict[str, Any]) -> str:
    """Return agreement and change of the years as text, with accuracy and the change found beside them."""
    lines = ["Consistency and change (a constant map would agree with itself perfectly)"]
    lines.append(f"{'maps':<20}{'pixels':>14}{'agreement':>11}{'accuracy':>10}{'then':>8}"
                 f"{'change: precision':>20}{'recall':>8}{'F1':>8}")  # fmt: skip
    pairs = [(str(pair["from"]), pair) for pair in about["pairs"]]
    pairs += [(f"old map {pair['from']}", pair) for pair in about["old_map"]["pairs"]]
    for name, pair in pairs:
        first, then = (_number(value) for value in pair["accuracy"].values())
        text = f"{name + ' to ' + str(pair['to']):<20}{pair['pixels']:>14,}{_number(pair['agreement']):>11}"
        text += f"{first:>10}{then:>8}"
        found = pair["change"]
        if found is None:
            lines.append(f"{text}   reference of change: {pair['change_reference'].split(';')[0]}")
            continue
        text += f"{_number(found['precision']):>20}{_number(found['recall']):>8}{_number(found['f1']):>8}"
        lines.append(text)
    return "\n".join(lines)


def _by_class(year: int, result: dict[str, Any]) -> str:
    header = "".join(f"{label:>10} old map" for label, _ in CLASS_FIGURES)
    lines = [f"{f'{year} class':<24}{'n':>12}{header}"]
    lines += [
        _row(f"{name[:23]:<24}", part, CLASS_FIGURES, result["old_map"]["classes"][name])
        for name, part in result["classes"].items()
        if part["n"] or part["n_mapped"]
    ]
    return "\n".join(lines)


def _row(label: str, part: dict[str, Any], figures: tuple, old: dict[str, Any]) -> str:
    pairs = "".join(f"{_number(part[key]):>10}{_number(old[key]):>8}" for _, key in figures)
    return f"{label}{part['n']:>12,}{pairs}"


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
