"""Measure `lcu.sample.kmeans` against scikit-learn, scikit-learn-intelex and heat.

    python perf/kmeans.py --case small

All start from the same centres and do the same number of Lloyd iterations with tolerance 0, on one thread
a rank. Each implementation waits in a process of its own (under `mpirun` where it has several ranks) and
takes its turn straight after lcu; the ratio is the median over the turns. Labels and inertia are compared
before anything is timed; where they differ the program stops and no row is written. Competitors that are
not installed are named and left out (`perf/kmeans_competitors.sh` installs them).
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import record
from sklearn.cluster import KMeans
from turns import Implementation

ROOT = Path(__file__).resolve().parents[1]
COMPETITORS = ROOT / "build" / "kmeans-competitors" / "bin" / "python"
TABLE = ROOT / "perf" / "results" / "kmeans.csv"
PICTURE = ROOT / "perf" / "results" / "kmeans.png"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- k-means: written by perf/kmeans.py -->\n", "<!-- end -->"

COLUMNS = (
    "date", "commit", "host", "cpu", "versions", "case", "samples", "features", "k", "iterations", "ranks",
    "implementation", "rounds", "seconds_best", "seconds_median", "ratio", "ratio_least", "ratio_most",
    "agreement", "inertia_difference", "checksum",
)  # fmt: skip

# How many times its speed is asked for.
TARGETS = {"scikit-learn": 1.5, "scikit-learn-intelex": 1.0, "heat": 100.0}

# What must agree with scikit-learn in double precision: so many labels of lcu, samples apart whose two nearest
# centres differ by less than 1e-5, and the inertia. A tie that falls the other way moves two centres, and in
# the iterations after it a few labels more. Those that are timed add up in float32, so that theirs drift more.
NEAR, INERTIA, EXACT, SHARE = 1e-5, 1e-6, 0.999, 0.99


class Benchmark(NamedTuple):
    """Samples, features, clusters, Lloyd iterations, ranks, and who computes the same."""

    samples: int
    features: int
    k: int
    iterations: int = 20
    ranks: int = 1
    competitors: tuple[str, ...] = ("scikit-learn", "scikit-learn-intelex")


CASES = {
    "tiny": (Benchmark(3000, 20, 8, 5),),
    "small": (
        Benchmark(50_000, 60, 16),
        Benchmark(200_000, 60, 16),
        Benchmark(1_000_000, 60, 16),
        Benchmark(200_000, 60, 8),
        Benchmark(200_000, 60, 32),
        Benchmark(200_000, 40, 16),
        Benchmark(200_000, 120, 16),
        Benchmark(200_000, 120, 32),
        Benchmark(200_000, 60, 16, ranks=2, competitors=()),
        Benchmark(200_000, 60, 8, 2, 2, ("heat",)),
    ),
}
ROUNDS = {"tiny": 2, "small": 5}


def series(samples: int, features: int, seed: int) -> np.ndarray:
    """Return float32 [sample, feature], reflectance x 10000 of 24 land covers over a year.

    A cover has a level and a season of its own in every band; a sample has them stronger or weaker and
    shifted, and noise. There are more covers than clusters, and they overlap.
    """
    random = np.random.default_rng(seed)
    day = np.linspace(0, 2 * np.pi, max(features // 10, 2))
    cover = random.integers(0, 24, samples)
    level, season, peak = (
        random.uniform(*limits, (24, 10)) for limits in ((300, 3500), (100, 1200), (0, 2 * np.pi))
    )
    values = np.empty((samples, features), np.float32)
    for column in range(features):
        band, when = column % 10, day[(column // 10) % len(day)]
        shift = when + random.normal(0, 0.3, samples)
        wave = season[cover, band] * np.sin(shift + peak[cover, band])
        values[:, column] = level[cover, band] + wave + random.normal(0, 250, samples)
    return values


# ------------------------------------------------------------------------------------- a worker


def prepare_lcu(values: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], tuple]:
    """Return what clusters this rank's share and gives its labels and the inertia."""
    from mpi4py import MPI

    from lcu.sample import kmeans

    comm = MPI.COMM_WORLD
    bounds = np.linspace(0, len(values), comm.size + 1).astype(int)
    own = values[bounds[comm.rank] : bounds[comm.rank + 1]].copy()

    def run() -> tuple:
        _, labels, inertia, _ = kmeans(
            own, len(start), seed=0, comm=comm, init=start, max_iterations=iterations, tolerance=0
        )
        return labels, inertia

    return run


def prepare_scikit(module: str) -> Callable[..., Callable[[], tuple]]:
    """Return what prepares the class KMeans of a module."""

    def prepare(values: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], tuple]:
        model = importlib.import_module(module).KMeans(
            len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
        )

        def run() -> tuple:
            model.fit(values)
            return model.labels_, model.inertia_

        return run

    return prepare


def prepare_heat(values: np.ndarray, start: np.ndarray, iterations: int) -> Callable[[], tuple]:
    """Return what clusters with heat, whose labels are those before the centres moved last.

    So it gets one iteration more: it finds the nearest centres as often as the others.
    """
    import heat

    spread, first = heat.array(values, split=0), heat.array(start)

    def run() -> tuple:
        model = heat.cluster.KMeans(len(start), init=first, max_iter=iterations + 1, tol=-1.0)
        model.fit(spread)
        return model.labels_.larray.numpy().ravel(), float("nan")

    return run


PREPARE = {
    "lcu": prepare_lcu,
    "scikit-learn": prepare_scikit("sklearn.cluster"),
    "scikit-learn-intelex": prepare_scikit("sklearnex.cluster"),
    "heat": prepare_heat,
}


def versions() -> str:
    """Return the versions of what was imported."""
    names = {
        "numpy": "numpy", "sklearn": "scikit-learn", "sklearnex": "scikit-learn-intelex",
        "heat": "heat", "torch": "torch", "mpi4py": "mpi4py",
    }  # fmt: skip
    found = [
        f"{package} {metadata.version(package)}"
        for name, package in names.items()
        if name in sys.modules
    ]
    return " ".join([f"python {platform.python_version()}", *found])


def work(implementation: str, folder: Path, iterations: int) -> None:
    """Answer once, then time one run for every line that rank 0 reads."""
    values, start = np.load(folder / "values.npy"), np.load(folder / "start.npy")
    run = PREPARE[implementation](values, start, iterations)
    labels, inertia = run()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    parts = comm.gather(labels)
    if comm.rank == 0:
        np.save(folder / f"{implementation}.npy", np.concatenate(parts).astype(np.int32))
        print(json.dumps({"versions": versions(), "inertia": float(inertia)}), flush=True)
    while comm.bcast(sys.stdin.readline() if comm.rank == 0 else None):
        comm.Barrier()
        begun = time.perf_counter()
        run()
        comm.Barrier()
        if comm.rank == 0:
            print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


class Worker(Implementation):
    """An implementation of k-means that waits for its turn."""

    def __init__(self, name: str, benchmark: Benchmark, folder: Path) -> None:
        python = sys.executable if name in ("lcu", "scikit-learn") else COMPETITORS
        launch = ["mpirun", "-q", "-n", str(benchmark.ranks)] if benchmark.ranks > 1 else []
        command = [*launch, python, __file__, "--work", name, folder, str(benchmark.iterations)]
        super().__init__(name, command, {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"})
        self.inertia = self.ready["inertia"]
        self.labels = np.load(folder / f"{name}.npy")


# ------------------------------------------------------------------------------------ measuring


def agreement(values: np.ndarray, k: int, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of equal labels, ties apart."""
    differ = np.flatnonzero(ours != theirs)
    if len(differ) == 0:
        return 1.0
    centres = np.array([values[ours == c].mean(axis=0, dtype=float) for c in range(k)])
    away = np.linalg.norm(values[differ, None].astype(float) - centres, axis=2)
    near = np.sort(away, axis=1)
    ties = (near[:, 1] - near[:, 0] < NEAR * near[:, 0]).sum()
    return float(1 - (len(differ) - ties) / len(values))


def check_exactly(values: np.ndarray, start: np.ndarray, iterations: int, ours: Worker) -> None:
    """Compare lcu with scikit-learn in double precision; stop where they differ."""
    model = KMeans(
        len(start),
        init=start.astype(float),
        n_init=1,
        max_iter=iterations,
        tol=0,
        algorithm="lloyd",
    ).fit(values.astype(float))
    share = agreement(values, len(start), ours.labels, model.labels_)
    apart = abs(ours.inertia / model.inertia_ - 1)
    if share < EXACT or apart > INERTIA:
        raise SystemExit(
            f"lcu and scikit-learn in double precision: {share:.7f} of the labels agree, inertia differs "
            f"by {apart:.2g}: no time is reported"
        )


def check(values: np.ndarray, k: int, ours: Worker, other: Worker) -> tuple[float, float]:
    """Return the share of equal labels, ties apart, and how far the inertias lie apart."""
    share = agreement(values, k, ours.labels, other.labels)
    if share < SHARE:
        raise SystemExit(
            f"lcu and {other.name}: {share:.6f} of the labels agree: no time is reported"
        )
    return share, abs(other.inertia / ours.inertia - 1)


def measure(benchmark: Benchmark, case: str, rounds: int) -> list[dict[str, object]]:
    """Return the rows of one benchmark, that of lcu first."""
    values = series(benchmark.samples, benchmark.features, seed=1)
    start = values[np.random.default_rng(2).choice(len(values), benchmark.k, replace=False)]
    names = ["lcu", *(name for name in benchmark.competitors if is_installed(name))]
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "values.npy", values)
        np.save(Path(name) / "start.npy", start)
        try:
            for implementation in names:
                workers.append(Worker(implementation, benchmark, Path(name)))
            check_exactly(values, start, benchmark.iterations, workers[0])
            agreements = [check(values, benchmark.k, workers[0], worker) for worker in workers]
            take_turns(workers, rounds)
        finally:
            for worker in workers:
                worker.stop()
    fixed = {"case": case, "rounds": rounds} | benchmark._asdict()
    del fixed["competitors"]
    return [fixed | figures(*pair) for pair in zip(workers, agreements, strict=True)]


def is_installed(implementation: str) -> bool:
    """Tell whether there is what an implementation needs."""
    return implementation in ("lcu", "scikit-learn") or COMPETITORS.exists()


def take_turns(workers: list[Worker], rounds: int) -> None:
    """Let every worker run in every round, each straight after a run of lcu."""
    ours, *others = workers
    for _ in range(rounds):
        for worker in others or [ours]:
            ours.run()
            if worker is not ours:
                worker.run()
                worker.ratios.append(worker.seconds[-1] / ours.seconds[-1])


def figures(worker: Worker, agreement: tuple[float, float]) -> dict[str, object]:
    """Return the columns of one implementation."""
    ratios = worker.ratios or [1.0]
    return {
        "versions": worker.ready["versions"],
        "implementation": worker.name,
        "seconds_best": f"{min(worker.seconds):.6g}",
        "seconds_median": f"{statistics.median(worker.seconds):.6g}",
        "ratio": f"{statistics.median(ratios):.4g}",
        "ratio_least": f"{min(ratios):.4g}",
        "ratio_most": f"{max(ratios):.4g}",
        "agreement": f"{agreement[0]:.7g}",
        "inertia_difference": f"{agreement[1]:.2g}",
        "checksum": f"{zlib.crc32(worker.labels):08x}",
    }


# ----------------------------------------------------------------------- the page and the picture


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| samples | features | k | iterations | ranks | implementation | seconds | lcu is faster by | spread "
        "| target | agreement |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [line(row) for row in rows]) + "\n"


def line(row: dict[str, str]) -> str:
    """Return one row of the table."""
    what = f"| {int(row['samples']):,} | {row['features']} | {row['k']} | {row['iterations']} | {row['ranks']} "
    seconds = f"{float(row['seconds_median']):.3g}"
    if row["implementation"] == "lcu":
        return f"{what}| **lcu** | {seconds} | | | | |"
    goal, ratio = TARGETS[row["implementation"]], float(row["ratio"])
    spread = f"{float(row['ratio_least']):.3g} to {float(row['ratio_most']):.3g}"
    reached = f"{goal:g}: {'yes' if ratio >= goal else '**no**'}"
    agreement = f"{100 * float(row['agreement']):.6g} %"
    return f"| | | | | | {row['implementation']} | {seconds} | {ratio:.3g} | {spread} | {reached} | {agreement} |"


def write_page(rows: list[dict[str, str]], page: Path) -> None:
    """Put the table and where it was measured between the marks in a page."""
    first = rows[0]
    where = (
        f"Commit `{first['commit']}`, {first['date'][:10]}, {first['cpu']}, one thread a rank, "
        f"case `{first['case']}`, {first['rounds']} turns.\n\n"
    )
    record.put(page, BEGIN, END, where + table(rows))


def draw(rows: list[dict[str, str]], picture: Path) -> None:
    """Draw the seconds of an iteration over samples, features, clusters and ranks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(14, 3.6), layout="constrained", sharey=True)
    usual = {"samples": "200000", "features": "60", "k": "16", "ranks": "1"}
    for axis, free in zip(axes, usual, strict=True):
        fixed = {name: value for name, value in usual.items() if name != free}
        draw_over(axis, [row for row in rows if all(row[n] == v for n, v in fixed.items())], free)
        axis.set_xlabel(free)
        axis.set_title(", ".join(f"{name} {value}" for name, value in fixed.items()), fontsize=8)
    axes[0].set_ylabel("seconds per iteration")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"lcu {rows[0]['commit']}, one thread a rank, {rows[0]['cpu']}", fontsize=9)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def draw_over(axis: object, rows: list[dict[str, str]], free: str) -> None:
    """Draw a line for each implementation over one number."""
    for name, colour in (
        ("lcu", "#4c8c6b"),
        ("scikit-learn", "#c8763a"),
        ("scikit-learn-intelex", "#5a6fa8"),
    ):
        own = sorted(
            (row for row in rows if row["implementation"] == name), key=lambda row: int(row[free])
        )
        each = [float(row["seconds_median"]) / int(row["iterations"]) for row in own]
        axis.plot([int(row[free]) for row in own], each, "o-", color=colour, label=name)
    axis.set_xscale("log", base=10 if free == "samples" else 2)
    axis.set_yscale("log")


def main() -> None:
    """Measure; append the rows; with the usual table, draw and write the page too."""
    if "--work" in sys.argv:
        work(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="small", help="which sizes")
    parser.add_argument("--rounds", type=int, help="turns of every implementation")
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    arguments = parser.parse_args()
    shared = record.provenance()
    for benchmark in CASES[arguments.case]:
        rows = measure(benchmark, arguments.case, arguments.rounds or ROUNDS[arguments.case])
        record.append(arguments.results, [shared | row for row in rows], COLUMNS)
        for row in rows:
            print(
                f"{row['samples']:9,} x {row['features']:3} k {row['k']:2} on {row['ranks']}  "
                f"{row['implementation']:20} {float(row['seconds_median']):8.4f} s  lcu x {row['ratio']} "
                f"({row['ratio_least']} to {row['ratio_most']})  agree {row['agreement']}",
                flush=True,
            )
    if arguments.results == TABLE:
        rows = record.last_run(TABLE)
        draw(rows, PICTURE)
        write_page(rows, PAGE)


if __name__ == "__main__":
    main()
