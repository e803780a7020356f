"""Archives: SAFE products and STAC items become `Acquisition`; blocks of their bands are read.

The reading order: `model` says what an acquisition is, `safe` and `stac` read the metadata of the
two kinds of archive, `alignment` compares grids, `archive` finds what a run needs, `read` reads
pixels.
"""

from lcu.acquisition.archive import find
from lcu.acquisition.model import Acquisition, AcquisitionError, Band, harmonise
from lcu.acquisition.read import CACHE_BYTES, close_all, read_band, read_mask

__all__ = [
    "CACHE_BYTES",
    "Acquisition",
    "AcquisitionError",
    "Band",
    "close_all",
    "find",
    "harmonise",
    "read_band",
    "read_mask",
]
