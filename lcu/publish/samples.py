"""Pictures of the samples: where they lie on the old map, and what the series of each cluster look like."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from lcu.grid import DAY_ZERO
from lcu.legend import NODATA, Legend
from lcu.publish.preview import FAINT, INK, as_png, colours, new_figure
from lcu.sample import Samples

# How much of the old map's colours is left under the samples.
FADED = 0.35

# Most clusters of a class that are drawn, the largest first: more lines cannot be told apart.
MOST_LINES = 8


def labels_of(samples: Samples) -> np.ndarray:
    """Return the class value of each sample, uint8 [sample]: the same in every year that it is labelled."""
    return samples.label.min(axis=1, initial=NODATA)


def draw_samples(
    old: np.ndarray, stride: int, samples: Samples, tile: int, legend: Legend, title: str
) -> bytes:
    """Draw the samples of a tile over its faded old map; return a PNG file.

    Parameters
    ----------
    old : ndarray[y, x], uint8
        Class values of the old map, every `stride`-th pixel of the tile.
    tile : int
        Position of the tile in `samples.tiles`.
    """
    own = samples.tile == tile
    label = labels_of(samples)[own]
    height, width = old.shape
    figure = new_figure(7.4, 7.4 * min(max(height / width, 0.4), 1.6) + 1.2)
    axis = figure.subplots()
    faded = 255 - (255 - colours(old, legend).astype(float)) * FADED
    axis.imshow(faded.astype(np.uint8), interpolation="nearest")
    _scatter(axis, samples.row[own] / stride, samples.col[own] / stride, label, legend)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_title(f"{title}: {own.sum():,} samples", loc="left", color=INK, size=13, weight="bold")
    if own.any():
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, frameon=False, fontsize=9,
                    labelcolor=INK, markerscale=3)  # fmt: skip
    return as_png(figure, bbox_inches="tight")


def _scatter(
    axis: Any, rows: np.ndarray, cols: np.ndarray, label: np.ndarray, legend: Legend
) -> None:
    size = 14 if len(rows) < 3000 else 4
    for entry in legend.classes:
        chosen = label == entry.value
        if chosen.any():
            axis.scatter(cols[chosen], rows[chosen], s=size, color=entry.colour, edgecolor="#22303C",
                         linewidth=0.3, label=f"{entry.name} ({chosen.sum():,})")  # fmt: skip


def draw_profiles(samples: Samples, bands: Sequence[str], legend: Legend) -> bytes | None:
    """Draw the mean series of the clusters of each class; return a PNG file, None where none is clustered.

    Solid is near infrared (B08 or B8A), dashed red (B04), as far as they are there.
    """
    label = labels_of(samples)
    present = [
        entry for entry in legend.classes
        if ((label == entry.value) & (samples.cluster >= 0)).any()
    ]  # fmt: skip
    lines = [
        (name, style)
        for name, style in (("B08", "-"), ("B8A", "-"), ("B04", "--"))
        if name in bands
    ]
    if "B08" in bands:
        lines = [pair for pair in lines if pair[0] != "B8A"]
    if not present or not lines:
        return None
    rows = -(-len(present) // 3)
    figure = new_figure(11, 2.6 * rows + 0.4, layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, sharex=True, sharey=True)
    dates = [DAY_ZERO + timedelta(days=int(day)) for day in samples.middles]
    series, known = samples.of_periods()
    for axis, entry in zip(axes.ravel(), present, strict=False):
        own = label == entry.value
        shown = samples.cluster[own], series[own], known[own]
        chosen = [(bands.index(name), style) for name, style in lines]
        count = _draw_clusters(axis, *shown, dates, chosen)
        title = f"{entry.name}, {count} cluster{'s' if count > 1 else ''}"
        axis.set_title(title, loc="left", size=10, color=INK)
        axis.tick_params(labelsize=8, colors=FAINT)
        axis.tick_params(axis="x", rotation=35)
    for axis in axes.ravel()[len(present) :]:
        axis.set_visible(False)
    figure.supylabel("reflectance: near infrared, red dashed", size=9, color=FAINT)
    return as_png(figure, bbox_inches="tight")


def _draw_clusters(
    axis: Any,
    cluster: np.ndarray,
    series: np.ndarray,
    known: np.ndarray,
    dates: list,
    lines: list[tuple[int, str]],
) -> int:
    """Draw the largest clusters of series that are `known` at some dates; return how many there are."""
    numbers, sizes = np.unique(cluster[cluster >= 0], return_counts=True)
    largest = numbers[np.argsort(-sizes, kind="stable")][:MOST_LINES]
    for place, number in enumerate(largest):
        chosen = cluster == number
        seen = known[chosen]
        number_seen = seen.sum(axis=0)
        there = np.flatnonzero(number_seen)
        for band, style in lines:
            values = np.where(seen, series[chosen][..., band] / 10000, 0).sum(axis=0)
            axis.plot([dates[time] for time in there], values[there] / number_seen[there], style,
                      color=f"C{place}", linewidth=1.1, marker=".", markersize=3)  # fmt: skip
    return len(numbers)
