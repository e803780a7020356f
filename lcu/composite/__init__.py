"""Composite: acquisitions -> one reflectance a period, in sharded parallel HDF5.

`arrays` and `cloud` are the arithmetic, `work` says who makes what, `screening` makes the masks of a year,
`observations` reads and makes a unit, `writing` writes a shard, `stage` is the shell over all, `composites` the way
in for later stages.
"""

from lcu.composite.arrays import (
    buffer_mask,
    fill_gaps,
    geometric_median,
    max_ndvi,
    median,
    medoid,
    resample,
)
from lcu.composite.cloud import cloud_halo, cloud_mask, cloud_reach_days, scl_clear
from lcu.composite.composites import Composites, Origin, middles_of, origins
from lcu.composite.stage import decoded_share, plan, run
from lcu.composite.work import block_size, peak_memory

__all__ = [
    "Composites",
    "Origin",
    "block_size",
    "buffer_mask",
    "cloud_halo",
    "cloud_mask",
    "cloud_reach_days",
    "decoded_share",
    "fill_gaps",
    "geometric_median",
    "max_ndvi",
    "median",
    "medoid",
    "middles_of",
    "origins",
    "peak_memory",
    "plan",
    "resample",
    "run",
    "scl_clear",
]
