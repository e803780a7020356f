"""Slow and obvious NumPy twins of the kernels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def median(reflectance: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median of the clear and whole observations, floor(median + 0.5); 0 of none."""
    usable = clear.astype(bool) & (reflectance > 0).all(axis=1)
    values = np.where(usable[:, None], reflectance.astype(float), np.nan)
    out = np.zeros(reflectance.shape[1:], np.uint16)
    for band, y, x in np.ndindex(*out.shape):
        series = values[:, band, y, x]
        series = series[~np.isnan(series)]
        out[band, y, x] = np.floor(np.median(series) + 0.5) if len(series) else 0
    return out, np.minimum(usable.sum(axis=0), 255).astype(np.uint8)


def fill_gaps(reflectance: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """np.interp over the days, rounded half up."""
    filled = np.zeros_like(reflectance)
    for band, y, x in np.ndindex(*reflectance.shape[1:]):
        series = reflectance[:, band, y, x]
        known = series > 0
        if known.any():
            exact = np.interp(days, days[known], series[known].astype(float))
            filled[:, band, y, x] = np.floor(exact + 0.5 + 1e-9)
    return filled, (reflectance == 0).astype(np.uint8)


def resample(reflectance: np.ndarray, days: np.ndarray, at: np.ndarray) -> np.ndarray:
    """np.interp of each pixel over the days that it has, rounded half up."""
    found = np.zeros((len(at), *reflectance.shape[1:]), np.uint16)
    for band, y, x in np.ndindex(*reflectance.shape[1:]):
        there = days[:, y, x] > 0
        if there.any():
            exact = np.interp(at, days[there, y, x], reflectance[there, band, y, x].astype(float))
            found[:, band, y, x] = np.floor(exact + 0.5 + 1e-9)
    return found


def buffer_mask(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Every pixel within `pixels` of a set one, by comparing all pairs."""
    grown = np.zeros(mask.shape, bool)
    rows, cols = np.nonzero(mask)
    for y, x in np.ndindex(*mask.shape):
        grown[y, x] = ((rows - y) ** 2 + (cols - x) ** 2 <= pixels**2 + 1e-9).any()
    return grown


def usable(reflectance: np.ndarray, clear: np.ndarray, y: int, x: int) -> np.ndarray:
    """The observations of one pixel that count, uint16 [time, band]."""
    series = reflectance[:, :, y, x]
    return series[clear[:, y, x].astype(bool) & (series > 0).all(axis=1)]


def geometric_median(points: np.ndarray) -> np.ndarray:
    """Weiszfeld with the Vardi-Zhang step in double precision, [band], of points [time, band]."""
    points = points.astype(float) / 1e4
    y = points.mean(axis=0)
    for _ in range(100000 if len(points) > 2 else 0):
        distance = np.linalg.norm(points - y, axis=1)
        far = distance > 1e-12
        if not far.any():
            break
        weight = 1 / distance[far]
        pull = (points[far] * weight[:, None]).sum(axis=0) / weight.sum() - y
        length = np.linalg.norm(pull) * weight.sum()
        held = (~far).sum() / length if length > 0 else 0
        step = max(0, 1 - held) * pull
        y = y + step
        if np.linalg.norm(step) < 1e-12:
            break
    return y * 1e4


def weiszfeld(points: np.ndarray, used: np.ndarray, tolerance: float, limit: int) -> np.ndarray:
    """Plain iteration from the mean until a step is shorter than `tolerance`, in double precision.

    For points [time, band, pixel] of which those `used` [time, pixel] count, at least one for each
    pixel and none of them where the iteration passes; at most `limit` steps. Returns [band, pixel],
    in reflectance x 10000.
    """
    points = points.astype(float) / 1e4
    y = (points * used[:, None]).sum(axis=0) / used.sum(axis=0)
    moving = used.sum(axis=0) > 2
    for _ in range(limit):
        difference = points[..., moving] - y[:, moving]
        weight = used[:, moving] / np.linalg.norm(difference, axis=1)
        step = (difference * weight[:, None]).sum(axis=0) / weight.sum(axis=0)
        y[:, moving] += step
        moving[moving] = np.linalg.norm(step, axis=0) >= tolerance
    return y * 1e4


def max_ndvi(points: np.ndarray, red: int, nir: int) -> np.ndarray:
    """First of the observations [time, band] with the largest NDVI, compared as exact fractions."""
    ndvi = [Fraction(int(p[nir]) - int(p[red]), int(p[nir]) + int(p[red])) for p in points]
    return points[ndvi.index(max(ndvi))]


def distance_sum(points: np.ndarray, y: np.ndarray) -> float:
    """Sum of the distances from a point to all observations, in reflectance."""
    return np.linalg.norm(points.astype(float) - y, axis=1).sum() / 1e4


def _neighbours(days: np.ndarray, usable: np.ndarray, time: int, window: int) -> list[list[int]]:
    """The three nearest usable times before one, and those after it, within the window."""
    near = [other for other in np.flatnonzero(usable) if abs(days[other] - days[time]) <= window]
    before = [other for other in near if other < time]
    return [before[::-1][:3], [other for other in near if other > time][:3]]


def _stands_out(own: np.ndarray, other: np.ndarray, one_side: bool) -> tuple[bool, bool, bool]:
    """Whether an observation (blue, nir, swir) is brighter than another, darker, and glaring."""
    (blue, nir, swir), (blue_0, nir_0, swir_0) = (map(int, one) for one in (own, other))
    rise, more = blue - blue_0, 1.5 if one_side else 1
    brighter = rise - 5 / 16 * (swir - swir_0) > more * (225 + blue_0 / 16)
    brighter |= rise > more * (325 + blue_0 / 16)
    share = 2 / 3 if one_side else 4 / 5
    darker = all(
        low + 300 < share * (high + 300) - 1e-6 for low, high in ((nir, nir_0), (swir, swir_0))
    )
    return brighter, darker and blue < blue_0 + 100, rise > 1000 and not one_side


def _judge(
    series: np.ndarray,
    snow: np.ndarray,
    usable: np.ndarray,
    days: np.ndarray,
    time: int,
    window: int,
) -> int:
    """0 undecided, 1 clear, 3 cloud or shadow, of one observation of a pixel's series [time, 3]."""
    sides = [side for side in _neighbours(days, usable, time, window) if side]
    if not sides or (len(sides) == 1 and len(sides[0]) < 2):
        return 0
    most, any_one = [], []
    for side in sides:
        votes = [_stands_out(series[time], series[other], len(sides) == 1) for other in side]
        most.append(2 * np.sum(votes, axis=0) > len(side))
        any_one.append(np.any(votes, axis=0))
    cloud, shadow, _ = np.all(most, axis=0)
    cloud |= np.all(any_one, axis=0)[2]
    others = usable & (np.abs(days - days[time]) <= window) & (np.arange(len(days)) != time)
    if snow[time] and (len(sides) == 1 or (snow & others).any()):
        cloud = False
    return 3 if cloud or shadow else 1


def cloud_mask(
    scl: np.ndarray, bands: np.ndarray, days: np.ndarray, buffers: tuple[float, float], window: int
) -> np.ndarray:
    """Clear by SCL and by comparison in time, of bands [time, 3 (blue, nir, swir), y, x]."""
    days = np.asarray(days)
    whole = ~np.isin(scl, (0, 1, 3, 8, 9, 10)) & (bands > 0).all(axis=1)
    for layer, classes in zip(whole, scl, strict=True):
        layer &= ~buffer_mask(np.isin(classes, (8, 9, 10)), buffers[0])
        layer &= ~buffer_mask(classes == 3, buffers[1])
    found = np.zeros(scl.shape, int)
    for y, x in np.ndindex(*scl.shape[1:]):
        clear, usable, snow = whole[:, y, x], whole[:, y, x], scl[:, y, x] == 11
        for reach in (window // 2, window):
            found[:, y, x] = [
                _judge(bands[:, :, y, x], snow, usable, days, time, reach) if clear[time] else 0
                for time in range(len(days))
            ]
            usable = clear & (found[:, y, x] != 3)
    result = whole.copy()
    for time, y, x in np.ndindex(*scl.shape):
        near = found[time, max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9]
        bad = (near == 3).sum()
        result[time, y, x] &= bad == 0 or 5 * bad < 2 * (near > 0).sum()
    return result.astype(np.uint8)


def kmeans(
    values: np.ndarray, centres: np.ndarray, iterations: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Lloyd iterations in double precision with all distances, then labels and inertia; no empty cluster."""
    values, centres = values.astype(float), centres.astype(float)
    weights = np.ones(len(values)) if weights is None else weights
    for iteration in range(iterations + 1):
        squared = np.array([((values - centre) ** 2).sum(axis=1) for centre in centres])
        labels = squared.argmin(axis=0)
        if iteration < iterations:
            own = [labels == cluster for cluster in range(len(centres))]
            centres = np.array([np.average(values[o], axis=0, weights=weights[o]) for o in own])
    return centres, labels, (weights * squared.min(axis=0)).sum()


def sequences_of_years(
    probability: np.ndarray,
    transition: np.ndarray,
    stay: dict[tuple[int, int], float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Every sequence of classes [sequence, year] of one pixel [year, class], and its probability [sequence].

    `stay` [start, step] multiplies the transition from year `step` to the same class, which began in year `start`.
    """
    years, classes = probability.shape
    own = np.where(np.isnan(probability).any(1, keepdims=True), 1, probability).astype(float)
    paths = np.array(list(np.ndindex(*(classes,) * years)))
    weight = own[np.arange(years), paths].prod(axis=1)
    start = np.zeros(len(paths), int)
    for year in range(1, years):
        same = paths[:, year - 1] == paths[:, year]
        if stay is not None:
            weight = weight * [
                stay[began, year - 1] if held else 1.0
                for began, held in zip(start.tolist(), same, strict=True)
            ]
        start[~same] = year
        weight = weight * transition[paths[:, year - 1], paths[:, year]]
    return paths, weight


def most_likely_years(probability: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """Viterbi with logarithms in double precision, pixel by pixel; uint8 [year, y, x], 255 without any year."""
    out = np.full((len(probability), *probability.shape[2:]), 255, np.uint8)
    with np.errstate(divide="ignore"):
        step = np.log(transition.astype(float))
    for y, x in np.ndindex(*out.shape[1:]):
        own = probability[:, :, y, x].astype(float)
        missing = np.isnan(own).any(axis=1)
        if missing.all():
            continue
        with np.errstate(divide="ignore"):
            scores = np.log(np.where(missing[:, None], 1, own))
        total, back = [scores[0]], []
        for year in range(1, len(own)):
            ways = total[-1][:, None] + step
            back.append(ways.argmax(axis=0))
            total.append(ways.max(axis=0) + scores[year])
        label = int(total[-1].argmax())
        for year in range(len(own) - 1, -1, -1):
            out[year, y, x] = label
            label = int(back[year - 1][label]) if year else 0
    return out


def forest(model: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Mean of the leaves of all trees, float32 [sample, class]: every sample down every tree, step by step."""
    total = np.zeros((len(values), model["probability"].shape[1]), np.float32)
    for root in model["roots"]:
        for sample, own in enumerate(values):
            node = root
            while model["left"][node] != node:
                goes_left = own[model["feature"][node]] <= model["threshold"][node]
                node = model["left" if goes_left else "right"][node]
            total[sample] += model["probability"][node]
    return total / np.float32(len(model["roots"]))
