"""Do rasters lie on one grid? Arithmetic only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lcu.acquisition.model import Acquisition, AcquisitionError
from lcu.grid import Grid


def describe(grid: Grid) -> str:
    """Return a grid in words, for messages."""
    x, x_step, _, y, _, y_step = grid.transform
    crs = grid.crs if len(grid.crs) < 20 else "a CRS without code"
    pixels = f"{grid.width} x {grid.height} pixels of {x_step:g} x {-y_step:g}"
    return f"{crs}, {pixels} from ({x:.10g}, {y:.10g})"


def aligned(first: Grid, second: Grid) -> bool:
    """Tell whether two grids, maybe of different pixel sizes, share CRS, corner and ground.

    The grid of larger pixels may reach further by less than one of them: 64 pixels of 10 m need 11
    of 60 m.
    """
    fine, coarse = sorted((first, second), key=lambda grid: grid.resolution)
    tolerance = 1e-3 * fine.resolution
    slack = tolerance if fine.resolution == coarse.resolution else coarse.resolution - tolerance
    x_min, y_min, x_max, y_max = (b - a for a, b in zip(fine.bounds, coarse.bounds, strict=True))
    corner = abs(x_min) <= tolerance and abs(y_max) <= tolerance
    reach = -tolerance <= x_max <= slack and -tolerance <= -y_min <= slack
    return fine.crs == coarse.crs and corner and reach


def finest(grids: Iterable[Grid]) -> Grid:
    """Return the grid with the smallest pixels (the largest of these)."""
    return min(grids, key=lambda grid: (grid.resolution, -grid.height, -grid.width, repr(grid)))


def check(acquisition: Acquisition) -> None:
    """Raise AcquisitionError when the rasters of one acquisition do not lie on one grid."""
    rasters = acquisition.rasters
    reference = finest(band.grid for band in rasters)
    name = next(band.name for band in rasters if band.grid == reference)
    for band in rasters:
        if not aligned(band.grid, reference):
            raise AcquisitionError(
                f"{acquisition.id}: {band.name} ({describe(band.grid)}) does not match "
                f"{name} ({describe(reference)}); expected one CRS, corner and extent"
            )


def grid_of_tile(acquisitions: list[Acquisition]) -> tuple[Grid, dict[str, str]]:
    """Return the grid that most acquisitions of a tile share, and what is wrong with the others.

    Returns
    -------
    grid : Grid
        The finest grid of the bands of the acquisitions that agree.
    odd : dict
        Id -> reason of each acquisition that lies on another grid.

    Raises
    ------
    AcquisitionError
        When no grid has more than half of the acquisitions: nobody can tell which one is wrong.
    """
    own = {entry.id: finest(band.grid for band in entry.bands.values()) for entry in acquisitions}
    counts = Counter(
        {grid: sum(aligned(grid, other) for other in own.values()) for grid in set(own.values())}
    )
    most = max(counts.values())
    grid = finest(candidate for candidate, count in counts.items() if count == most)
    odd = {
        name: f"lies on {describe(other)}; tile {acquisitions[0].tile} lies on {describe(grid)}"
        for name, other in own.items()
        if not aligned(grid, other)
    }
    if 2 * len(odd) >= len(own):
        name, reason = sorted(odd.items())[0]
        agreeing = next(entry.id for entry in acquisitions if entry.id not in odd)
        raise AcquisitionError(
            f"tile {acquisitions[0].tile}: {name} {reason} (as {agreeing}), and no grid has most "
            f"of the {len(own)} acquisitions; remove those on the wrong grid from the archive"
        )
    return grid, odd
