"""A picture of a network's training: its curves, and what it takes for what."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from lcu.publish.preview import FAINT, INK, as_png, new_figure


def of_run(directory: Path) -> bytes | None:
    """Return a PNG file of the run's training; None where its model is not a network trained here."""
    table, about = directory / "model" / "training.csv", directory / "model" / "model.json"
    if not table.exists() or not about.exists():
        return None
    told = json.loads(about.read_text(encoding="utf-8"))
    if "test_matrix" not in told:
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {entry["value"]: entry["name"] for entry in told["legend"]}
    return draw(rows, np.array(told["test_matrix"]), [names[value] for value in told["classes"]])


def draw(rows: list[dict[str, str]], matrix: np.ndarray, names: list[str]) -> bytes:
    """Draw loss and macro F1 by epoch, and the shares of each reference class.

    Parameters
    ----------
    rows : list of dict
        Those of ``training.csv``.
    matrix : ndarray[map, reference], int
        Counts of the test samples, by the old map's label.
    names : list of str
        The classes.
    """
    figure = new_figure(11, 4.6, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    _draw_curves(left, rows)
    share = matrix / np.maximum(matrix.sum(axis=0), 1)
    right.imshow(share, vmin=0, vmax=1, cmap="Greens")
    for (row, col), value in np.ndenumerate(share):
        if value >= 0.01:
            colour = "white" if value > 0.6 else INK
            right.text(
                col, row, f"{100 * value:.0f}", size=7, ha="center", va="center", color=colour
            )
    right.set_xticks(range(len(names)), names, rotation=45, ha="right", size=8)
    right.set_yticks(range(len(names)), names, size=8)
    right.set_title("Test samples: percent of each class of the old map", size=10, color=INK)
    right.set_xlabel("old map", size=9, color=FAINT)
    right.set_ylabel("network", size=9, color=FAINT)
    return as_png(figure)


def _draw_curves(axis: Any, rows: list[dict[str, str]]) -> None:
    epochs = [int(row["epoch"]) for row in rows]
    axis.plot(
        epochs, [float(row["loss"]) for row in rows], color=FAINT, label="loss, training samples"
    )
    axis.set_xlabel("epoch", size=9, color=FAINT)
    axis.set_ylabel("loss", size=9, color=FAINT)
    other = axis.twinx()
    scores = [float(row["macro_f1"]) for row in rows]
    other.plot(epochs, scores, color="#0B6E4F", label="macro F1, validation samples")
    other.set_ylabel("macro F1", size=9, color=FAINT)
    lines = [*axis.get_lines(), *other.get_lines()]
    axis.legend(
        lines,
        [str(line.get_label()) for line in lines],
        frameon=False,
        fontsize=8,
        loc="center right",
    )
    axis.set_title("Training", size=10, color=INK)
