"""One implementation of one kernel, in a process and an environment of its own.

`python perf/worker.py FUNCTION IMPLEMENTATION FOLDER` loads the observations from FOLDER, prepares
what the implementation takes, runs it once, saves the answer there and prints the versions. Then,
for every line that it reads, it runs again and prints the seconds of one run. So `kernels.py` can
give several implementations their turns, whatever environment each of them needs.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

RED, NIR = 2, 6  # positions of these bands
BUFFER = 6  # pixels: 60 m, the default of the composite stage
MONTHS = np.arange(15, 365, 30, dtype=np.int32)  # days that series are read at
TOLERANCE = 1e-5  # length of the last step of a geometric median, in reflectance
LEAST_SECONDS = 0.2  # what is faster than this is repeated, and the mean counts


class Work(NamedTuple):
    """What is timed, and what makes its answer comparable (not timed)."""

    run: Callable[[], np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray] = np.asarray


def lcu(function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray) -> Work:
    """Prepare the kernel of lcu."""
    from lcu import composite

    call = getattr(composite, function)
    if function == "fill_gaps":
        gaps = with_gaps(reflectance, clear)
        return Work(lambda: call(gaps, days)[0])
    if function == "resample":
        whole, own = np.maximum(reflectance, 1), own_days(clear, days)
        return Work(lambda: call(whole, own, MONTHS))
    if function == "buffer_mask":
        return Work(lambda: call(~clear, BUFFER))
    bands = {"red": RED, "nir": NIR} if function == "max_ndvi" else {}
    return Work(lambda: call(reflectance, clear, **bands)[0])


def own_days(clear: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the days of the clear observations, int32 [time, y, x]; 0 = none."""
    return np.where(clear, np.asarray(days)[:, None, None] + 1, 0).astype(np.int32)


def numpy(function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray) -> Work:
    """Prepare the same in NumPy."""
    import numpy_way

    if function == "geometric_median":
        values = with_nan(reflectance, clear) * np.float32(1e-4)
        return Work(lambda: numpy_way.geometric_median(values, TOLERANCE), to_count)
    if function == "fill_gaps":
        gaps = with_gaps(reflectance, clear)
        return Work(lambda: numpy_way.fill_gaps(gaps, days))
    if function == "resample":
        whole, own = np.maximum(reflectance, 1), own_days(clear, days)
        return Work(lambda: numpy_way.resample(whole, own, MONTHS))
    if function == "max_ndvi":
        return Work(lambda: numpy_way.max_ndvi(reflectance, clear, RED, NIR))
    return Work(lambda: numpy_way.medoid(reflectance, clear))


def scipy_distance(
    function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray
) -> Work:
    """Prepare scipy.ndimage.distance_transform_edt and a comparison."""
    import numpy_way

    return Work(lambda: numpy_way.buffer_by_distance(~clear, BUFFER))


def scipy_dilation(
    function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray
) -> Work:
    """Prepare scipy.ndimage.binary_dilation with a disc."""
    import numpy_way

    return Work(lambda: numpy_way.buffer_by_dilation(~clear, BUFFER))


def nanmedian(module: str, axis: int) -> Callable[..., Work]:
    """Return what prepares a `nanmedian` of float32 with NaN, the time axis first or last."""

    def prepare(
        function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray
    ) -> Work:
        call = importlib.import_module(module).nanmedian
        values = np.ascontiguousarray(np.moveaxis(with_nan(reflectance, clear), 0, axis))
        return Work(lambda: call(values, axis=axis), lambda answer: np.floor(answer + 0.5))

    return prepare


def hdstats(function: str, reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray) -> Work:
    """Prepare hdstats.nangeomedian_pcm, spared the look for pixels without any observation."""
    from hdstats import nangeomedian_pcm

    values = with_nan(reflectance, clear).transpose(2, 3, 1, 0) * np.float32(1e-4)
    values = np.ascontiguousarray(values)
    return Work(
        lambda: nangeomedian_pcm(values, eps=TOLERANCE, nocheck=True),
        lambda answer: to_count(answer.transpose(2, 0, 1)),
    )


def with_nan(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return float32 [time, band, y, x], NaN where it is not clear (no value is 0 here)."""
    return np.where(clear[:, None], reflectance.astype(np.float32), np.float32(np.nan))


def with_gaps(reflectance: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Return uint16 [time, band, y, x], 0 where it is not clear."""
    return reflectance * clear[:, None]


def to_count(reflectance: np.ndarray) -> np.ndarray:
    """Return reflectance x 10000, not rounded."""
    return reflectance.astype(np.float64) * 1e4


IMPLEMENTATIONS = {
    "lcu": lcu,
    "lcu native": lcu,
    "numpy": numpy,
    "numpy.nanmedian": nanmedian("numpy", -1),
    "numpy.nanmedian, time first": nanmedian("numpy", 0),
    "bottleneck.nanmedian": nanmedian("bottleneck", -1),
    "bottleneck.nanmedian, time first": nanmedian("bottleneck", 0),
    "hdstats.nangeomedian_pcm": hdstats,
    "scipy distance_transform_edt": scipy_distance,
    "scipy binary_dilation": scipy_dilation,
}


def versions() -> str:
    """Return Python's version and those of what was imported."""
    names = [name for name in ("numpy", "scipy", "bottleneck", "hdstats") if name in sys.modules]
    numbers = [f"{name} {metadata.version(name)}" for name in names]
    return " ".join([f"python {platform.python_version()}", *numbers])


def seconds_of_one(run: Callable[[], np.ndarray]) -> float:
    """Return the seconds of one run: the mean of so many that they last a while."""
    begun, runs = time.perf_counter(), 0
    while runs == 0 or time.perf_counter() - begun < LEAST_SECONDS:
        run()
        runs += 1
    return (time.perf_counter() - begun) / runs


def main(function: str, implementation: str, folder: str) -> None:
    """Answer once, then once for every line."""
    names = ("reflectance", "clear", "days")
    arrays = [np.load(Path(folder) / f"{name}.npy") for name in names]
    work = IMPLEMENTATIONS[implementation](function, *arrays)
    np.save(Path(folder) / f"{implementation}.npy", work.finish(work.run()))
    print(json.dumps({"versions": versions()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": seconds_of_one(work.run)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
