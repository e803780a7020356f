"""Archives: SAFE products and STAC items become `Acquisition`; blocks of their bands are read.

The reading order: `model` says what an acquisition is, `safe` and `stac` read the metadata of the
two kinds of archive, `alignment` compares grids, `archive` finds what a run needs, `rasters` opens and
checks rasters, `tiles` decodes them, `read` reads blocks.
"""

from lcu.acquisition.archive import examine, find, search
from lcu.acquisition.model import (
    MASK,
    Acquisition,
    AcquisitionError,
    Band,
    Found,
    harmonise,
    observations,
)
from lcu.acquisition.rasters import check_whole, close_all
from lcu.acquisition.read import native_pixels, read_band, read_mask, read_mask_around
from lcu.acquisition.stac import band_assets, identify
from lcu.acquisition.tiles import (
    TILE_MEMORY,
    Tiles,
    Tiling,
    Window,
    check_readable,
    tiling_of,
)

__all__ = [
    "MASK",
    "TILE_MEMORY",
    "Acquisition",
    "AcquisitionError",
    "Band",
    "Found",
    "Tiles",
    "Tiling",
    "Window",
    "band_assets",
    "check_readable",
    "check_whole",
    "close_all",
    "examine",
    "find",
    "harmonise",
    "identify",
    "native_pixels",
    "observations",
    "read_band",
    "read_mask",
    "read_mask_around",
    "search",
    "tiling_of",
]
