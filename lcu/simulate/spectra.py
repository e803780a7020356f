"""How the ground looks: reflectance in twelve bands of each parcel on each day. Pure functions.

A parcel is a mixture of leaves, straw and bare ground whose shares follow the season. Parcels
differ from each other, and each differs from year to year: in timing, vigour, brightness and in how
much of another class stands on it. That, more than noise, makes classes hard to tell apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lcu.simulate import noise
from lcu.simulate import parameters as p

(_SHIFT, _VIGOUR, _BRIGHT, _TILT, _BARE, _CUT, _IMPURE, _PARTNER, _YEAR) = range(200, 209)

_GREEN = np.array([subtype.green for subtype in p.SUBTYPES])
_SEASON = np.array([subtype.season for subtype in p.SUBTYPES])
_PACE = np.array([subtype.pace for subtype in p.SUBTYPES])
_DRY = np.array([subtype.dry for subtype in p.SUBTYPES])
_WINTER = np.array([subtype.winter for subtype in p.SUBTYPES])
_LEAF = np.array([p.SURFACES[subtype.leaf] for subtype in p.SUBTYPES])
_BARE_A = np.array([p.SURFACES[subtype.bare[0]] for subtype in p.SUBTYPES])
_BARE_B = np.array([p.SURFACES[subtype.bare[1]] for subtype in p.SUBTYPES])
_NO_CUT = 999.0
_CUTS = np.array(
    [(*subtype.cuts, *([_NO_CUT] * (3 - len(subtype.cuts)))) for subtype in p.SUBTYPES]
)
_WATER_OR_ICE = p.VALUES >= 11
# Visible and red edge against near infrared, in the order of the bands.
_TILTED = np.array([1, 1, 1, 1, 0.6, -0.6, -1, -1, -1, -1, 0, 0.3])


class Parcels(NamedTuple):
    """What one year makes of the parcels of a block, arrays [parcel] (float64 but `subtype`).

    shift : days by which the season is late
    vigour, bright, tilt : factors of leaf cover, of all bands, and of visible against infrared
    bare : where the bare ground lies between the sub-type's two surfaces
    """

    subtype: np.ndarray
    shift: np.ndarray
    vigour: np.ndarray
    bright: np.ndarray
    tilt: np.ndarray
    bare: np.ndarray
    cut: np.ndarray


def parcels(
    number: np.ndarray, subtype: np.ndarray, height: np.ndarray, year: int, seed: int
) -> Parcels:
    """Draw what is particular to each parcel in a year.

    Parameters
    ----------
    number : ndarray[parcel], uint64
    subtype : ndarray[parcel], uint8
    height : ndarray[parcel], float64
        Relative height; the season is later higher up.
    """
    late = p.YEAR_SHIFT * noise.normal(seed, _YEAR, year)
    shift = late + p.HEIGHT_DELAY * height + p.FIELD_SHIFT * noise.normal(number, _SHIFT, year)
    vigour = 1 + p.VIGOUR * noise.normal(number, _VIGOUR, year)
    bright = np.exp(
        p.BRIGHTNESS * noise.normal(number, _BRIGHT)
        + p.BRIGHTNESS_YEAR * noise.normal(number, _BRIGHT, year)
    )
    tilt = p.TILT * noise.normal(number, _TILT, year)
    cut = 9.0 * noise.normal(number, _CUT, year)
    return Parcels(
        subtype, shift, np.clip(vigour, 0.5, 1.4), bright, tilt, noise.uniform(number, _BARE), cut
    )


def partner(number: np.ndarray, subtype: np.ndarray, year: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the sub-type that covers part of each parcel, and its share.

    Returns
    -------
    ndarray[parcel], uint8 and ndarray[parcel], float64
    """
    value = p.VALUES[subtype]
    kind = _PARTNER_VALUES[value, (3 * noise.uniform(number, _PARTNER, year)).astype(np.int64)]
    member = noise.uniform(number, _PARTNER, year, 2)
    other = np.zeros(subtype.shape, dtype=np.uint8)
    for candidate in range(1, 13):
        here, members = kind == candidate, np.flatnonzero(p.VALUES == candidate)
        other[here] = members[(member[here] * len(members)).astype(np.int64)]
    always = p.IMPURITY_FIELD * np.abs(noise.normal(number, _IMPURE))
    this_year = p.IMPURITY_YEAR * np.abs(noise.normal(number, _IMPURE, year))
    return other, mingling(subtype) * (always + this_year)


_PARTNER_VALUES = np.ones((13, 3), dtype=np.uint8)
_PARTNER_SHARE = np.zeros(13)
for _value, (_kinds, _share) in p.PARTNERS.items():
    _PARTNER_VALUES[_value] = _kinds[:3]
    _PARTNER_SHARE[_value] = _share


def mingling(subtype: np.ndarray) -> np.ndarray:
    """Return how readily each sub-type mingles with others, relative, float64 [...]."""
    return _PARTNER_SHARE[p.VALUES[subtype]]


def _step(t: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(t, -40, 40)))


def shares(of: Parcels, day: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of leaves and of straw on a day of the year, float64 [parcel], 0..1."""
    s = of.subtype
    start, end = _SEASON[s, 0] + of.shift, _SEASON[s, 1] + of.shift
    grown = _step((day - start) / _PACE[s]) - _step((day - end) / _PACE[s])
    green = _GREEN[s, 0] + (_GREEN[s, 1] - _GREEN[s, 0]) * of.vigour * np.maximum(grown, 0)
    sown = 1 - _step((day - start) / _PACE[s]) * (1 - _step((day - 295) / 9.0))
    green = green + _WINTER[s] * of.vigour * sown * ((day < 200) | (day > 250))
    for cut in _CUTS[s].T:
        since = day - (cut + of.cut)
        green = green * (1 - 0.55 * np.exp(-np.maximum(since, 0) / 17.0) * (since >= 0))
    dry = _DRY[s] * (_step((day - end) / 8.0) - _step((day - end - 45) / 8.0))
    green = np.clip(green, 0, 1)
    return green, np.clip(np.minimum(dry, 1 - green), 0, 1)


def reflectance(of: Parcels, day: int, wet: np.ndarray) -> np.ndarray:
    """Return the reflectance of each parcel, snow-free and flat, on a day of the year.

    Parameters
    ----------
    wet : ndarray[parcel], float64
        Brightness of bare ground on that day, relative; wet ground is darker.

    Returns
    -------
    ndarray[parcel, band], float32, 0..1
    """
    green, dry = (share[:, None] for share in shares(of, day))
    s, bare = of.subtype, of.bare[:, None]
    ground = (_BARE_A[s] * (1 - bare) + _BARE_B[s] * bare) * np.where(_WATER_OR_ICE[s], 1, wet)[
        :, None
    ]
    mixed = green * _LEAF[s] + dry * p.SURFACES["straw"] + (1 - green - dry) * ground
    return (mixed * of.bright[:, None] * (1 + of.tilt[:, None] * _TILTED)).astype(np.float32)
