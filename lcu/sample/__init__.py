"""Sample: old map + composites -> reliable labelled series in ``samples/samples.h5``."""

from lcu.sample.draw import Candidates, assign_splits, core_pixels, draw, priority
from lcu.sample.kmeans import kmeans, kmeans_memory
from lcu.sample.oldmap import OldMap, OldMapError
from lcu.sample.series import fill_series, patches, read_around
from lcu.sample.stage import Samples, majority_label, run

__all__ = [
    "Candidates",
    "OldMap",
    "OldMapError",
    "Samples",
    "assign_splits",
    "core_pixels",
    "draw",
    "fill_series",
    "kmeans",
    "kmeans_memory",
    "majority_label",
    "patches",
    "priority",
    "read_around",
    "run",
]
