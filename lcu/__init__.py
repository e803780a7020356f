"""lcu: update land-cover maps from years of Sentinel-2, with MPI."""

__version__ = "0.1.0"
