"""Accuracy of the maps, and of the old map beside them, against a reference raster or points."""

from lcu.assess.area import NORMAL, area_estimates, stratified_estimates
from lcu.assess.design import draw
from lcu.assess.matrix import accuracies, error_matrix
from lcu.assess.reference import RasterReference, read_codes
from lcu.assess.stage import Sources, run
from lcu.assess.tables import read_results, summary, write_whole

__all__ = [
    "NORMAL",
    "RasterReference",
    "Sources",
    "accuracies",
    "area_estimates",
    "draw",
    "error_matrix",
    "read_codes",
    "read_results",
    "run",
    "stratified_estimates",
    "summary",
    "write_whole",
]
