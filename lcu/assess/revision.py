"""What a revision did to the accuracy of years that had been mapped before, class by class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = ("overall_accuracy", "macro_f1", "kappa", "n")
CLASS_FIGURES = ("users", "producers", "f1")


def beside_former(path: Path, result: dict[str, Any], made_from: str) -> dict[str, Any]:
    """Return the result with what the maps say that it is of, and what the maps before it reached.

    Parameters
    ----------
    path : Path
        The accuracies of the year as they were written last; of other maps, they are those before.
    made_from : str
        Fingerprint of the maps that were assessed.
    """
    own = {**result, "made_from": made_from}
    if not path.exists():
        return own
    last = json.loads(path.read_text(encoding="utf-8"))
    before = last.get("before") if last.get("made_from") == made_from else figures(last)
    return own if before is None else {**own, "before": before}


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """Return the accuracies of a result, overall and of each class."""
    return {name: result[name] for name in FIGURES} | {
        "classes": {
            name: {figure: part[figure] for figure in CLASS_FIGURES}
            for name, part in result["classes"].items()
        }
    }


def summary(results: dict[int, dict[str, Any]]) -> str:
    """Return the accuracies before and after as text; empty where no year was mapped before."""
    lines = []
    for year, result in sorted(results.items()):
        if "before" not in result:
            continue
        before = result["before"]
        pair = [f"{_number(one['overall_accuracy'])}" for one in (before, result)]
        f1 = [f"{_number(one['macro_f1'])}" for one in (before, result)]
        lines.append(
            f"{year} before -> after: accuracy {' -> '.join(pair)}, macro F1 {' -> '.join(f1)}"
        )
        lines += [
            f"  {name[:23]:<24}F1 {_number(before['classes'][name]['f1'])} -> {_number(part['f1'])}"
            for name, part in result["classes"].items()
            if part["n"] and name in before["classes"]
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"
