"""Composite: acquisitions -> one reflectance a period, in sharded parallel HDF5.

`arrays` and `cloud` are the arithmetic, `stage` the shell that reads, shares the work over the ranks and writes.
"""

from lcu.composite.arrays import (
    buffer_mask,
    fill_gaps,
    geometric_median,
    max_ndvi,
    median,
    medoid,
    scl_clear,
)
from lcu.composite.cloud import cloud_halo, cloud_mask, cloud_reach_days
from lcu.composite.stage import Composites, check_memory, peak_memory, plan, run

__all__ = [
    "Composites",
    "buffer_mask",
    "check_memory",
    "cloud_halo",
    "cloud_mask",
    "cloud_reach_days",
    "fill_gaps",
    "geometric_median",
    "max_ndvi",
    "median",
    "medoid",
    "peak_memory",
    "plan",
    "run",
    "scl_clear",
]
