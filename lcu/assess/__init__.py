"""Accuracy of the maps, and of the old map beside them, against a reference raster or points."""

from lcu.assess.area import area_estimates
from lcu.assess.matrix import accuracies, error_matrix
from lcu.assess.reference import RasterReference, read_codes
from lcu.assess.stage import run
from lcu.assess.tables import read_results, summary, write_whole

__all__ = [
    "RasterReference",
    "accuracies",
    "area_estimates",
    "error_matrix",
    "read_codes",
    "read_results",
    "run",
    "summary",
    "write_whole",
]
