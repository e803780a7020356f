# ruff: noqa: E501  (one sub-type a line, so that they can be compared)
"""Every number that makes the simulated world what it is, in one place.

The difficulty of the world is pinned by `tests/test_simulate.py`, and later stages are tuned on it.
Whoever changes a number here says why in the commit, raises `VERSION`, and makes the tables of
`docs/simulation.md` (and every other table measured on the simulation) anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

VERSION = 1

# --- Reading the plane ------------------------------------------------------------------------
# Side of a block in pixels of 10 m; a multiple of 6, so that 20 m and 60 m pixels are whole. Sensor
# noise is drawn block by block: another value gives other noise.
BLOCK = 960
# Pixels around a block that slopes and the point spread function look at.
HALO = 2

# --- Landscape (metres, radians, years) -------------------------------------------------------
# Ridges and valleys repeat at this distance, so that a tile of 768 pixels holds them all.
RIDGE = 6000.0
RIDGE_DIRECTION = 0.5
# Regions are what an old map shows; fields and stands are what a farmer or forester works on.
REGION, FIELD_WIDTH, FIELD_LENGTH, STAND = 1000.0, 120.0, 260.0, 240.0
# Share of fields and stands whose class differs from that of their region.
ODD_FIELDS, ODD_STANDS = 0.05, 0.04
# Relative heights at which water ends and rock and ice begin (the height is roughly normal).
LAKE_LEVEL, SHORE_LEVEL, ROCK_LEVEL, SNOW_LEVEL = -1.36, -0.98, 1.02, 1.33
# A shore is sand where its noise exceeds this.
SHORE_NOISE = -0.55
# Belts by height: upper end, and the weights of the classes of the regions in them.
BELTS = (
    (-0.15, {2: 0.24, 3: 0.40, 4: 0.28, 8: 0.08}),
    (0.25, {2: 0.32, 3: 0.08, 4: 0.06, 8: 0.44, 10: 0.10}),
    (0.75, {2: 0.10, 8: 0.14, 9: 0.60, 10: 0.16}),
    (99.0, {2: 0.25, 9: 0.15, 10: 0.60}),
)
# Towns: distance, radius, share that exists; the fringe (in units of the radius) may become town;
# no town stands above TOWN_HEIGHT.
TOWN, TOWN_RADIUS, TOWN_SHARE, TOWN_FRINGE, TOWN_HEIGHT = 2300.0, (340.0, 680.0), 0.85, 0.17, 0.35
TOWN_START = 2010
# Quarries and reservoirs: distance, share that exists (quarries), radius, range of heights.
QUARRY, QUARRY_SHARE, QUARRY_RADIUS, QUARRY_HEIGHT = 1700.0, 0.85, (190.0, 330.0), (-0.9, 0.75)
RESERVOIR, RESERVOIR_RADIUS, RESERVOIR_HEIGHT = 1600.0, (130.0, 230.0), (-1.0, 0.1)
RESERVOIR_START = 2010

# --- Change: yearly rates where simulate.change is 1 % of the area (they scale with it) -----------
RATE_FELLING, RATE_TOWN, RATE_RESERVOIR, RATE_CONVERSION = 0.012, 0.050, 0.050, 0.030
FELLED_YEARS = 8
# Share of the parcels of a class in a region that have the region's sub-type; the others their own.
REGIONAL = 0.3
GLACIER_RETREAT = 0.006  # relative height a year
RETREAT_START = 2015

# --- Light and ground ---------------------------------------------------------------------------
# Slope per unit of relative height over metres; and how much of the shading L2A leaves uncorrected.
RELIEF, SHADING = 260.0, 0.65

# --- Difference between fields, years and pixels: the knobs of the difficulty ---------------------
YEAR_SHIFT = 8.0  # days, standard deviation over years (one shift for all)
FIELD_SHIFT = 6.0  # days, standard deviation over (field, year)
HEIGHT_DELAY = 9.0  # days per unit of relative height
VIGOUR = 0.14  # of (field, year), relative
BRIGHTNESS, BRIGHTNESS_YEAR = 0.05, 0.06  # of the field; of (field, year), relative
TILT = 0.03  # relative, visible against infrared, of (field, year)
WETNESS = 0.05  # of (region of the sky, acquisition), relative, on bare ground
# Share of a field that another class covers: |N| times this, anew every year, up to a limit.
IMPURITY_FIELD, IMPURITY_YEAR, IMPURITY_LIMIT = 0.03, 0.15, 0.80
# Its texture inside the field: relative to that share, and added to it; metres.
IMPURITY_PATCHES, IMPURITY_PIXEL, IMPURITY_SCALE = 0.80, 0.036, 60.0
TEXTURE, TEXTURE_YEAR, TEXTURE_SCALE = 0.05, 0.05, 35.0  # relative

# --- Sky -------------------------------------------------------------------------------------------
ACQUISITIONS = (12, 27)  # fewest and most in a year
SWATH_SHARE = 0.3  # of the acquisitions come from the orbit whose edge crosses the tiles
CLOUD_SCALE, CLOUD_SOFTNESS = 2600.0, 0.22
CLOUD_DAYS = 0.68  # share of acquisitions with clouds
CLOUD_HEIGHT = (700.0, 3000.0)  # metres above ground
SHADOW = 0.45  # light that is left in the shadow
SCL_MISSES = 0.35  # opacity below which SCL does not see a cloud
VEIL_DAYS, VEIL = 0.4, 0.06  # share of acquisitions with thin cloud that SCL misses; its opacity
SNOW_NOISE = 0.25

# --- Sensor -----------------------------------------------------------------------------------------
NOISE_FIXED, NOISE_RELATIVE = 0.0015, 0.008
POINT_SPREAD = 0.11  # weight of each of the four neighbours along a side; corners get its square
NEW_BASELINE_SHARE = 0.4
OLD_BASELINE, NEW_BASELINE = "02.12", "05.09"
OFFSET = -1000  # of the new baseline, digital numbers
QUANTIFICATION = 10000

# --- Old map and points --------------------------------------------------------------------------------
OLD_MAP_CELL, OLD_MAP_SAMPLES = 100.0, 5  # metres; samples along a side of the cell
POINTS_IN_OFFICE, POINTS_OFF = 0.10, 0.05

# Reflectance of pure surfaces in the twelve bands, in the order of `lcu.config.BANDS`.
_SURFACES = {
    "crop": (0.020, 0.030, 0.070, 0.030, 0.100, 0.330, 0.430, 0.460, 0.480, 0.480, 0.220, 0.100),
    "grass": (0.025, 0.035, 0.075, 0.040, 0.110, 0.300, 0.380, 0.410, 0.430, 0.430, 0.250, 0.130),
    "leaves": (0.015, 0.020, 0.045, 0.020, 0.075, 0.270, 0.360, 0.380, 0.400, 0.400, 0.180, 0.080),
    "needles": (0.012, 0.017, 0.032, 0.018, 0.048, 0.150, 0.195, 0.215, 0.225, 0.225, 0.100, 0.045),
    "bush": (0.020, 0.028, 0.052, 0.035, 0.085, 0.205, 0.260, 0.280, 0.300, 0.300, 0.190, 0.100),
    "straw": (0.060, 0.080, 0.125, 0.165, 0.205, 0.245, 0.275, 0.305, 0.335, 0.335, 0.400, 0.280),
    "litter": (0.030, 0.040, 0.055, 0.070, 0.090, 0.130, 0.150, 0.170, 0.190, 0.190, 0.220, 0.150),
    "loam": (0.040, 0.050, 0.070, 0.090, 0.110, 0.130, 0.140, 0.155, 0.170, 0.170, 0.230, 0.190),
    "chalk": (0.080, 0.100, 0.140, 0.190, 0.220, 0.240, 0.260, 0.280, 0.300, 0.300, 0.380, 0.340),
    "concrete": (0.130, 0.160, 0.190, 0.210, 0.220, 0.230, 0.240, 0.250, 0.255, 0.250, 0.270, 0.250),
    "roof": (0.070, 0.080, 0.110, 0.170, 0.190, 0.210, 0.220, 0.230, 0.240, 0.240, 0.280, 0.260),
    "asphalt": (0.060, 0.070, 0.085, 0.095, 0.100, 0.105, 0.110, 0.115, 0.120, 0.120, 0.140, 0.135),
    "limestone": (0.190, 0.225, 0.265, 0.290, 0.300, 0.305, 0.310, 0.315, 0.320, 0.320, 0.340, 0.290),
    "granite": (0.100, 0.120, 0.150, 0.170, 0.180, 0.190, 0.195, 0.200, 0.210, 0.210, 0.250, 0.230),
    "sand": (0.110, 0.150, 0.220, 0.290, 0.320, 0.340, 0.355, 0.370, 0.385, 0.385, 0.460, 0.430),
    "gravel": (0.100, 0.120, 0.155, 0.180, 0.190, 0.195, 0.200, 0.205, 0.210, 0.205, 0.240, 0.210),
    "clear": (0.030, 0.035, 0.030, 0.015, 0.010, 0.008, 0.007, 0.006, 0.005, 0.005, 0.003, 0.002),
    "turbid": (0.050, 0.070, 0.100, 0.080, 0.070, 0.035, 0.030, 0.025, 0.020, 0.020, 0.008, 0.005),
    "algae": (0.030, 0.040, 0.080, 0.040, 0.050, 0.040, 0.040, 0.035, 0.030, 0.030, 0.010, 0.005),
    "snow": (0.850, 0.870, 0.880, 0.870, 0.860, 0.840, 0.820, 0.800, 0.770, 0.700, 0.120, 0.100),
    "ice": (0.480, 0.510, 0.520, 0.490, 0.470, 0.430, 0.400, 0.370, 0.340, 0.290, 0.050, 0.040),
    "cloud": (0.600, 0.590, 0.580, 0.580, 0.580, 0.590, 0.590, 0.590, 0.590, 0.550, 0.450, 0.350),
}  # fmt: skip
SURFACES = {name: np.array(values) for name, values in _SURFACES.items()}


class SubType(NamedTuple):
    """One kind of ground: what it is called in each nomenclature, and how it looks over the year.

    The green share rises from `green[0]` to `green[1]` about day `season[0]` and falls about day
    `season[1]`, each within `pace` days; `dry` is the share of straw after that, for a while. The
    rest is bare: something between the two surfaces of `bare`. `winter` is the green share that
    autumn sowing adds, `cuts` the days on which a meadow is mown.
    """

    value: int
    name: str
    corine: int
    lc1: str
    lu1: str
    leaf: str
    bare: tuple[str, str]
    green: tuple[float, float]
    season: tuple[float, float]
    pace: float = 12.0
    dry: float = 0.0
    winter: float = 0.0
    cuts: tuple[float, ...] = ()
    irrigated: bool = False


_SOIL = ("loam", "chalk")
SUBTYPES = (
    SubType(1, "dense town", 111, "A12", "U370", "grass", ("roof", "asphalt"), (0.04, 0.14), (100, 300)),
    SubType(1, "suburb", 112, "A11", "U370", "leaves", ("roof", "concrete"), (0.14, 0.42), (105, 295)),
    SubType(1, "industry", 121, "A21", "U210", "grass", ("concrete", "asphalt"), (0.02, 0.10), (100, 300)),
    SubType(2, "meadow", 231, "E20", "U111", "grass", _SOIL, (0.45, 0.92), (85, 305), 14, 0.05, 0, (150, 200, 250)),
    SubType(2, "pasture", 231, "E20", "U111", "grass", ("litter", "loam"), (0.45, 0.82), (92, 295), 16, 0.10),
    SubType(2, "alpine grass", 321, "E20", "U420", "grass", ("litter", "loam"), (0.18, 0.80), (140, 265), 12, 0.15),
    SubType(2, "tall grass", 321, "E10", "U420", "grass", ("litter", "loam"), (0.30, 0.80), (105, 270), 14, 0.20),
    SubType(3, "winter wheat", 211, "B11", "U111", "crop", _SOIL, (0.02, 0.92), (95, 188), 10, 0.75, 0.25),
    SubType(3, "winter barley", 211, "B13", "U111", "crop", _SOIL, (0.02, 0.88), (85, 172), 10, 0.70, 0.30),
    SubType(3, "rapeseed", 211, "B32", "U111", "leaves", _SOIL, (0.05, 0.92), (75, 180), 10, 0.60, 0.45),
    SubType(3, "sunflower", 211, "B31", "U111", "crop", _SOIL, (0.02, 0.85), (118, 212), 10, 0.60),
    SubType(4, "maize", 212, "B16", "U111", "crop", _SOIL, (0.02, 0.90), (165, 275), 9, 0.45, irrigated=True),
    SubType(4, "potatoes", 212, "B21", "U111", "leaves", _SOIL, (0.02, 0.88), (160, 262), 9, 0.25, irrigated=True),
    SubType(4, "vegetables", 241, "B43", "U111", "grass", _SOIL, (0.04, 0.66), (135, 285), 10, 0.10, 0.0,
            (205,), irrigated=True),
    SubType(4, "small plots", 242, "B13", "U111", "crop", _SOIL, (0.06, 0.72), (140, 280), 16, 0.30, 0.0,
            irrigated=True),
    SubType(5, "quarry", 131, "A30", "U140", "grass", ("limestone", "concrete"), (0.01, 0.05), (110, 280)),
    SubType(5, "gravel pit", 131, "F20", "U140", "grass", ("gravel", "concrete"), (0.02, 0.10), (110, 280)),
    SubType(5, "dump", 132, "F40", "U140", "grass", ("concrete", "loam"), (0.04, 0.22), (105, 285)),
    SubType(6, "limestone cliffs", 332, "F10", "U420", "bush", ("limestone", "granite"), (0.02, 0.08), (150, 270)),
    SubType(6, "granite", 332, "F10", "U420", "bush", ("granite", "gravel"), (0.02, 0.10), (150, 270)),
    SubType(6, "scree", 332, "F10", "U420", "grass", ("granite", "limestone"), (0.03, 0.22), (145, 265)),
    SubType(7, "beach", 331, "F20", "U420", "grass", ("sand", "sand"), (0.00, 0.04), (110, 280)),
    SubType(7, "river bar", 331, "F20", "U420", "bush", ("gravel", "sand"), (0.02, 0.10), (110, 280)),
    SubType(7, "dune", 331, "F20", "U420", "grass", ("sand", "chalk"), (0.06, 0.22), (100, 270)),
    SubType(8, "beech", 311, "C10", "U120", "leaves", ("litter", "litter"), (0.08, 0.95), (122, 297), 7),
    SubType(8, "oak", 311, "C10", "U120", "leaves", ("litter", "loam"), (0.10, 0.88), (130, 305), 10),
    SubType(8, "poplar", 311, "C10", "U120", "leaves", ("litter", "loam"), (0.18, 0.82), (105, 288), 12),
    SubType(9, "spruce", 312, "C21", "U120", "needles", ("litter", "litter"), (0.88, 0.96), (120, 290)),
    SubType(9, "pine", 312, "C22", "U120", "needles", ("litter", "loam"), (0.68, 0.78), (120, 290)),
    SubType(9, "larch", 312, "C21", "U120", "bush", ("litter", "litter"), (0.22, 0.90), (128, 290), 9),
    SubType(10, "heath", 322, "D20", "U420", "bush", ("litter", "loam"), (0.45, 0.72), (130, 280), 15),
    SubType(10, "dwarf pine", 322, "D10", "U420", "needles", ("litter", "granite"), (0.55, 0.68), (130, 280)),
    SubType(10, "regrowth", 324, "D10", "U120", "leaves", ("litter", "litter"), (0.20, 0.68), (122, 285), 14, 0.10),
    SubType(11, "deep lake", 512, "G11", "U420", "algae", ("clear", "clear"), (0.00, 0.10), (150, 260)),
    SubType(11, "turbid lake", 512, "G11", "U420", "algae", ("turbid", "clear"), (0.05, 0.30), (140, 270)),
    SubType(11, "pond", 512, "G11", "U420", "algae", ("clear", "turbid"), (0.10, 0.80), (130, 275)),
    SubType(12, "firn", 335, "G50", "U420", "bush", ("snow", "ice"), (0.00, 0.00), (150, 260)),
    SubType(12, "glacier ice", 335, "G50", "U420", "bush", ("ice", "snow"), (0.00, 0.00), (150, 260)),
    SubType(12, "debris-covered ice", 335, "G50", "U420", "bush", ("ice", "granite"), (0.00, 0.02), (150, 260)),
)  # fmt: skip
VALUES = np.array([subtype.value for subtype in SUBTYPES], dtype=np.uint8)
CORINE = np.array([subtype.corine for subtype in SUBTYPES], dtype=np.uint16)
REGROWTH = next(i for i, subtype in enumerate(SUBTYPES) if subtype.name == "regrowth")

# Classes that cover part of a field of the class, and how much of it, relative to the others.
PARTNERS = {
    1: ((2, 5, 8), 0.9), 2: ((3, 4, 10), 1.0), 3: ((4, 2, 4), 1.1), 4: ((3, 2, 3), 1.1),
    5: ((6, 7, 1, 2), 1.0), 6: ((5, 10, 2), 0.9), 7: ((5, 2, 6), 0.9), 8: ((9, 10, 2), 1.0),
    9: ((8, 10, 8), 1.0), 10: ((2, 8, 9), 1.1), 11: ((7, 8, 2), 0.3), 12: ((6, 6, 6), 0.6),
}  # fmt: skip
