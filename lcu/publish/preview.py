"""Pictures of maps: the old map, the map of a year and the reference side by side."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lcu.grid import Block, Grid
from lcu.legend import NODATA, OUTSIDE, UNCHANGED, Legend
from lcu.publish.geotiff import OUTSIDE_COLOUR, UNCHANGED_COLOUR

LARGEST_SIDE = 1000
# Side of the blocks that are read for a picture, about; a multiple of the stride is taken.
BLOCK = 1024

INK = "#22303C"
FAINT = "#6B7785"


def stride_of(grid: Grid) -> int:
    """Return how many pixels of the grid become one of the picture, along each side."""
    return -(-max(grid.height, grid.width) // LARGEST_SIDE)


def block_size(stride: int) -> int:
    """Return the side of the blocks to read: whole pixels of the picture."""
    return max(1, BLOCK // stride) * stride


def shrink(
    blocks: Iterable[tuple[Block, np.ndarray]], grid: Grid, stride: int, legend: Legend
) -> np.ndarray:
    """Return a small map whose pixels are the commonest values: uint8 [y, x]."""
    return join(
        ((block, commonest(values, stride, legend)) for block, values in blocks), grid, stride
    )


def join(parts: Iterable[tuple[Block, np.ndarray]], grid: Grid, stride: int) -> np.ndarray:
    """Put blocks that were made smaller together: uint8 [y, x]; a block's corner is a multiple of `stride`."""
    small = np.full((-(-grid.height // stride), -(-grid.width // stride)), NODATA, dtype=np.uint8)
    for block, part in parts:
        row, col = block.row // stride, block.col // stride
        small[row : row + part.shape[0], col : col + part.shape[1]] = part
    return small


def commonest(values: np.ndarray, stride: int, legend: Legend) -> np.ndarray:
    """Return the commonest value of each square of `stride` pixels: uint8 [y, x] -> uint8 [y, x].

    The smallest value wins a tie; what is neither a class nor outside nor unchanged is nodata.
    """
    if stride == 1:
        return values
    height, width = values.shape
    edges = ((0, -height % stride), (0, -width % stride))
    padded = np.pad(values, edges, constant_values=NODATA)
    squares = padded.reshape(padded.shape[0] // stride, stride, -1, stride)
    candidates = [*legend.values.tolist(), OUTSIDE, UNCHANGED]
    best = np.full((squares.shape[0], squares.shape[2]), NODATA, dtype=np.uint8)
    most = np.zeros(best.shape, dtype=np.int64)
    for value in candidates:
        number = (squares == value).sum(axis=(1, 3))
        best[number > most] = value
        most = np.maximum(most, number)
    return best


def colours(values: np.ndarray, legend: Legend) -> np.ndarray:
    """Return uint8 [y, x, 3] red, green, blue; white where there is no data, pale where nothing changed."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[OUTSIDE] = OUTSIDE_COLOUR
    table[UNCHANGED] = UNCHANGED_COLOUR
    for entry in legend.classes:
        table[entry.value] = entry.rgb
    return table[values]


def draw(
    panels: Sequence[tuple[str, np.ndarray]],
    legend: Legend,
    title: str,
    subtitle: str = "",
    pixel: float | None = None,
) -> bytes:
    """Draw maps side by side with one legend below; return a PNG file.

    Parameters
    ----------
    panels : sequence of (title, ndarray[y, x] uint8)
        Maps of one shape, in class values.
    pixel : float or None
        Side of a pixel of the panels in metres, for the scale bar; None draws none.
    """
    height, width = panels[0][1].shape
    entries = _entries(panels, legend)
    columns = min(len(entries), 3 * len(panels))
    rows = -(-len(entries) // columns)
    side, head, foot = 4.6, 0.95, 0.3 + 0.2 * rows
    tall = side * min(max(height / width, 0.4), 1.6)
    figure = new_figure(side * len(panels) + 0.4, tall + head + foot)
    total = tall + head + foot
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(
        left=0.02, right=0.98, top=1 - head / total, bottom=foot / total, wspace=0.04
    )
    for axis, (name, values) in zip(axes, panels, strict=True):
        _draw_map(axis, name, colours(values, legend), pixel)
    margin = 0.25 / total
    figure.text(0.02, 1 - margin, title, size=14, weight="bold", color=INK, va="center")
    figure.text(0.02, 1 - margin - 0.25 / total, subtitle, size=9.5, color=FAINT, va="center")
    _draw_legend(figure, entries, columns)
    return as_png(figure)


def new_figure(width: float, height: float, **options: Any) -> Any:
    """Return an empty matplotlib figure without a window, in inches."""
    # Here and not above: matplotlib takes a second to import, on every rank of every command.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, **options)
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Any, **options: Any) -> bytes:
    """Return a figure as a PNG file that tells nothing of who made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None}, **options)
    return buffer.getvalue()


def _draw_map(axis: Any, name: str, picture: np.ndarray, pixel: float | None) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(name, size=11, color=INK, loc="left", pad=5)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color="#C8CED4", linewidth=0.8)
    if pixel:
        _draw_scale(axis, picture.shape, pixel)


def _draw_scale(axis: Any, shape: tuple[int, ...], pixel: float) -> None:
    """Draw a bar of a round length, about a quarter of the map."""
    from matplotlib import patheffects

    length = round_length(shape[1] * pixel / 4)
    x, y = 0.04 * shape[1], 0.955 * shape[0]
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    end = x + length / pixel
    bar = axis.plot([x, end], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")[0]
    bar.set_path_effects([patheffects.withStroke(linewidth=4.2, foreground="white")])
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    text = axis.text((x + end) / 2, y - 0.015 * shape[0], label, size=8.5, color=INK,
                     ha="center", va="bottom")  # fmt: skip
    text.set_path_effects(halo)
    axis.set_xlim(-0.5, shape[1] - 0.5)
    axis.set_ylim(shape[0] - 0.5, -0.5)


def round_length(length: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `length`."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)))


def _entries(
    panels: Sequence[tuple[str, np.ndarray]], legend: Legend
) -> list[tuple[str, tuple[float, ...]]]:
    """Return (name, colour) of every class of the legend, and of what else the maps show."""
    found = set(np.unique(np.concatenate([values.ravel() for _, values in panels])).tolist())
    entries = [(entry.name, entry.rgb) for entry in legend.classes]
    if OUTSIDE in found:
        entries.append(("outside", OUTSIDE_COLOUR))
    if UNCHANGED in found:
        entries.append(("not changed", UNCHANGED_COLOUR))
    if NODATA in found:
        entries.append(("no class or no data", (255, 255, 255)))
    return [(name, tuple(part / 255 for part in colour)) for name, colour in entries]


def _draw_legend(figure: Any, entries: list[tuple[str, tuple[float, ...]]], columns: int) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=rgb, edgecolor="#8A939C", linewidth=0.6) for _, rgb in entries]
    names = [name for name, _ in entries]
    figure.legend(patches, names, loc="lower center", ncols=columns, frameon=False, fontsize=9,
                  labelcolor=INK, handlelength=1.5, handleheight=1.0, columnspacing=1.6,
                  borderaxespad=0.5)  # fmt: skip
