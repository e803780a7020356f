"""Classify: model + composites -> yearly probabilities -> consistent maps, confidence and change."""

from lcu.classify.maps import confidence, land_cover
from lcu.classify.stage import Maps, run
from lcu.years import most_likely_years, posterior_of_years

__all__ = [
    "Maps",
    "confidence",
    "land_cover",
    "most_likely_years",
    "posterior_of_years",
    "run",
]
