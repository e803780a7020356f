"""Classify: model + composites -> yearly probabilities -> land cover and confidence."""

from lcu.classify.maps import confidence, land_cover, quantise
from lcu.classify.stage import Maps, run

__all__ = ["Maps", "confidence", "land_cover", "quantise", "run"]
