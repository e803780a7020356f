"""Measure the composite kernels against NumPy, SciPy, bottleneck and hdstats, on one thread.

    python perf/kernels.py --case small

Each implementation runs in a process of its own (`worker.py`) and takes its turn: lcu, competitor,
lcu, competitor, ... The ratio is the median over the turns. Before anything is timed the answers are
compared; where they differ the program stops. Competitors that are not installed are named and left
out (`perf/competitors.sh` installs them; `perf/native.sh` builds the kernels for this processor).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import record
from observations import observe
from turns import Implementation

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("worker.py")
COMPETITORS = ROOT / "build" / "competitors" / "bin" / "python"
NATIVE = ROOT / "build" / "native"
ELSEWHERE = ("bottleneck", "hdstats")  # competitors with an environment of their own

SIZES = {"tiny": (24, 40), "small": (128, 256), "medium": (256, 512)}  # height, width
ROUNDS = {"tiny": 2, "small": 9, "medium": 7}
MEDIANS = (
    "numpy.nanmedian",
    "numpy.nanmedian, time first",
    "bottleneck.nanmedian",
    "bottleneck.nanmedian, time first",
)


class Benchmark(NamedTuple):
    """A kernel, the observations that it gets, and who else computes the same.

    Attributes
    ----------
    function : str
        Name in `lcu.composite`.
    times : int
        Observations.
    missing : int
        Percentage that is cloudy.
    competitors : tuple of str
        Names in `worker.IMPLEMENTATIONS`.
    tolerance : float
        How far two answers may lie apart, in units of reflectance x 10000.
    share : float
        Share of the pixels that must agree in all bands.
    """

    function: str
    times: int
    missing: int
    competitors: tuple[str, ...]
    tolerance: float = 0
    share: float = 1


# Two iterations that end at a step below 1e-5 agree to about 1e-4; lcu's answer is rounded besides.
VECTOR = {"tolerance": 1.5, "share": 0.999}
BENCHMARKS = (
    Benchmark("median", 20, 40, MEDIANS),
    Benchmark("median", 70, 40, MEDIANS),
    Benchmark("geometric_median", 20, 40, ("hdstats.nangeomedian_pcm", "numpy"), **VECTOR),
    Benchmark("geometric_median", 20, 0, ("hdstats.nangeomedian_pcm", "numpy"), **VECTOR),
    Benchmark("medoid", 20, 40, ("numpy",), share=0.999),
    Benchmark("max_ndvi", 20, 40, ("numpy",)),
    Benchmark("fill_gaps", 20, 40, ("numpy",)),
    Benchmark("resample", 20, 40, ("numpy",)),
    Benchmark("buffer_mask", 20, 40, ("scipy distance_transform_edt", "scipy binary_dilation")),
)


class Worker(Implementation):
    """An implementation of a kernel that waits for its turn."""

    def __init__(self, function: str, name: str, folder: Path) -> None:
        python = COMPETITORS if name.startswith(ELSEWHERE) else sys.executable
        tree = NATIVE if name == "lcu native" else ROOT
        super().__init__(name, [python, WORKER, function, name, folder], {"PYTHONPATH": str(tree)})
        self.values = np.load(folder / f"{name}.npy")


def is_installed(implementation: str) -> bool:
    """Tell whether there is what an implementation needs."""
    if implementation == "lcu native":
        return any(NATIVE.glob("lcu/_composite*.so"))
    return COMPETITORS.exists() or not implementation.startswith(ELSEWHERE)


def agreement(benchmark: Benchmark, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of the pixels whose values agree; stop where it is too low."""
    near = np.abs(ours.astype(np.float64) - theirs) <= benchmark.tolerance
    return float(near.all(axis=tuple(range(near.ndim - 2))).mean())


def check(benchmark: Benchmark, ours: Worker, other: Worker) -> float:
    """Return the agreement of two implementations; stop where it is too low."""
    share = agreement(benchmark, ours.values, other.values)
    least = 1 if other.name == "lcu native" else benchmark.share
    if share < least:
        raise SystemExit(
            f"{benchmark.function}: lcu and {other.name} agree in {share:.6f} of the "
            f"pixels, not {least}: no time is reported"
        )
    return share


def measure(
    benchmark: Benchmark, case: str, rounds: int, apart: tuple[str, ...]
) -> list[dict[str, object]]:
    """Measure one benchmark without those `apart`; return its rows, that of lcu first."""
    names = ["lcu", "lcu native", *benchmark.competitors]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        observations = observe(benchmark.times, *SIZES[case], benchmark.missing / 100, seed=1)
        for key, values in observations._asdict().items():
            np.save(folder / f"{key}.npy", values)
        workers = []
        try:
            for implementation in names:
                if not implementation.startswith(apart):
                    workers.append(Worker(benchmark.function, implementation, folder))
            shares = [check(benchmark, workers[0], worker) for worker in workers]
            take_turns(workers, rounds)
        finally:
            for worker in workers:
                worker.stop()
    pixels = observations.clear[0].size
    fixed = {
        "case": case, "function": benchmark.function, "times": benchmark.times, "threads": 1,
        "missing": benchmark.missing, "bands": observations.reflectance.shape[1],
        "pixels": pixels, "rounds": rounds,
    }  # fmt: skip
    return [
        fixed | figures(worker, share, pixels)
        for worker, share in zip(workers, shares, strict=True)
    ]


def take_turns(workers: list[Worker], rounds: int) -> None:
    """Let every worker run in every round, each straight after a run of lcu."""
    ours, *others = workers
    for _ in range(rounds):
        for worker in others:
            ours.run()
            worker.run()
            worker.ratios.append(worker.seconds[-1] / ours.seconds[-1])


def figures(worker: Worker, share: float, pixels: int) -> dict[str, object]:
    """Return the columns of one implementation."""
    seconds, ratios = statistics.median(worker.seconds), worker.ratios or [1.0]
    return {
        "versions": worker.ready["versions"],
        "implementation": worker.name,
        "seconds_best": f"{min(worker.seconds):.6g}",
        "seconds_median": f"{seconds:.6g}",
        "pixels_per_second": f"{pixels / seconds:.6g}",
        "ratio": f"{statistics.median(ratios):.4g}",
        "ratio_least": f"{min(ratios):.4g}",
        "ratio_most": f"{max(ratios):.4g}",
        "agreement": f"{share:.7g}",
        "checksum": f"{zlib.crc32(np.ascontiguousarray(worker.values)):08x}",
    }


def tell(row: dict[str, object]) -> None:
    """Print a row for people."""
    name = f"{row['function']} {row['times']} ({row['missing']} % missing)"
    print(
        f"{name:36} {row['implementation']:33} {float(row['pixels_per_second']):12,.0f} pixels/s  "
        f"lcu x {row['ratio']} ({row['ratio_least']} to {row['ratio_most']})  agree {row['agreement']}",
        flush=True,
    )


def main() -> None:
    """Measure what was asked for; append the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=SIZES, default="small", help="how many pixels")
    parser.add_argument("--only", default="", metavar="KERNEL", help="one kernel of lcu.composite")
    parser.add_argument("--rounds", type=int, help="turns of every implementation")
    parser.add_argument(
        "--own", action="store_true", help="leave out what needs an environment or build of its own"
    )
    parser.add_argument("--results", type=Path, default=record.TABLE, help="CSV file to append to")
    arguments = parser.parse_args()
    shared = record.provenance()
    apart = [name for name in ("lcu native", *ELSEWHERE) if arguments.own or not is_installed(name)]
    if apart:
        print("left out:", ", ".join(apart))
    rounds = arguments.rounds or ROUNDS[arguments.case]
    for benchmark in BENCHMARKS:
        if arguments.only in ("", benchmark.function):
            rows = measure(benchmark, arguments.case, rounds, tuple(apart))
            record.append(arguments.results, [shared | row for row in rows], record.COLUMNS)
            for row in rows:
                tell(row)


if __name__ == "__main__":
    main()
