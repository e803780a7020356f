"""The minimum mapping unit: areas that are too small take the classes of a neighbour. Arrays only."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components


def halo(pixels: int) -> int:
    """Return how far a pixel depends on others for a unit of so many pixels."""
    return 2 * pixels + 1 if pixels > 1 else 0


def merge_small_areas(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Give the areas of fewer than `pixels` pixels the classes of the neighbour with the longest common border.

    An area is connected (4 neighbours) and has the same class in every single year, so that a small patch and a
    small change are both undone, and no new change appears. The neighbour is one that is large enough; a small
    area that has none stays.

    Parameters
    ----------
    labels : ndarray[year, y, x], uint8
        Classes; 255 = none: such pixels are no area and stay.

    Returns
    -------
    ndarray[year, y, x], uint8
        A pixel depends on those within `halo` pixels, and on nothing else.
    """
    years, height, width = labels.shape
    sequences, kind = np.unique(labels.reshape(years, -1), axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    pairs = _neighbours(height, width)
    area = _areas(kind, pairs)
    nothing = (sequences == 255).all(axis=0)[kind]
    small = (np.bincount(area)[area] < pixels) & ~nothing
    large = ~small & ~nothing
    # Every border between a small area and a large one, from both sides.
    one, other = np.concatenate([pairs, pairs[::-1]], axis=1)
    border = small[one] & large[other]
    meeting, length = np.unique(
        area[one[border]].astype(np.int64) * sequences.shape[1] + kind[other[border]],
        return_counts=True,
    )
    owner, neighbour = np.divmod(meeting, sequences.shape[1])
    # By area, then by length; of equal ones the first sequence in order, which no block changes.
    order = np.lexsort((-neighbour, length, owner))
    becomes = kind.copy()
    chosen = np.full(area.max() + 1, -1, np.int64)
    chosen[owner[order]] = neighbour[order]
    found = small & (chosen[area] >= 0)
    becomes[found] = chosen[area[found]]
    return sequences[:, becomes].reshape(labels.shape)


def _neighbours(height: int, width: int) -> np.ndarray:
    """Return the pixels that share a side, int [2, pair], as positions in a flat array."""
    number = np.arange(height * width).reshape(height, width)
    across = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()])
    down = np.stack([number[:-1].ravel(), number[1:].ravel()])
    return np.concatenate([across, down], axis=1)


def _areas(kind: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the number of the connected area of equal kind of each pixel, int32 [pixel]."""
    same = pairs[:, kind[pairs[0]] == kind[pairs[1]]]
    edges = sparse.coo_matrix(
        (np.ones(same.shape[1], bool), (same[0], same[1])), shape=(kind.size, kind.size)
    )
    return connected_components(edges, directed=False)[1]
