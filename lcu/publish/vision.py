"""How different the colours of a legend are, also to readers without green-sensitive cones."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from lcu.legend import Legend

# Deuteranopia on linear red, green, blue: G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15 (2009),
# severity 1.0.
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
# Linear sRGB to CIE XYZ (D65), IEC 61966-2-1, and its white.
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = XYZ.sum(axis=1)
# Colour differences (CIE 1976) below this are hard to tell apart in small patches that do not touch.
CLOSE = 20.0
# Hatchings that the viewer can draw, besides none.
PATTERNS = 6


def linear(rgb: np.ndarray) -> np.ndarray:
    """Return sRGB 0..255, [..., 3], as linear light 0..1 (IEC 61966-2-1)."""
    part = np.asarray(rgb, float) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Return linear light [..., 3] as CIE 1976 L*, a*, b* (CIE 15)."""
    ratio = light @ XYZ.T / WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def differences(legend: Legend, *, deuteranopia: bool) -> np.ndarray:
    """Return the colour difference (CIE 1976) of every two classes, float64 [class, class]."""
    light = linear(np.array([entry.rgb for entry in legend.classes]))
    if deuteranopia:
        light = np.clip(light @ DEUTERANOPIA.T, 0, 1)
    seen = lab(light)
    return np.linalg.norm(seen[:, None] - seen[None], axis=-1)


def close_pairs(legend: Legend) -> list[tuple[str, str, float, float]]:
    """Return the classes that look alike without green-sensitive cones, the closest first.

    Each as (name, name, difference to most readers, difference with deuteranopia).
    """
    normal = differences(legend, deuteranopia=False)
    reduced = differences(legend, deuteranopia=True)
    pairs = [
        (legend.names[i], legend.names[j], float(normal[i, j]), float(reduced[i, j]))
        for i, j in combinations(range(len(legend.classes)), 2)
        if reduced[i, j] < CLOSE
    ]
    return sorted(pairs, key=lambda pair: pair[3])


def patterns(legend: Legend) -> list[int]:
    """Return a hatching for each class, 0 = none: classes that look alike get different ones.

    Where a class looks like more others than there are hatchings, the last one is used again.
    """
    alike = differences(legend, deuteranopia=True) < CLOSE
    chosen: list[int] = []
    for row in range(len(legend.classes)):
        taken = {chosen[other] for other in range(row) if alike[row, other]}
        free = [number for number in range(PATTERNS + 1) if number not in taken]
        chosen.append(free[0] if free else PATTERNS)
    return chosen
