"""Where one rank spends its time in each stage: the functions of lcu that take longest.

    python perf/hotspots.py --size 600

One process on the landscape of `perf/scaling.py`, every stage once under cProfile. What a function calls outside
lcu (GDAL, HDF5, NumPy, torch) counts as its own; threads beside the main one are not seen. Rows go to
``results/hotspots.csv``; the table in ``docs/scaling.md`` is made from the last run.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import record
from mpi4py import MPI
from scaling import ARCHIVES, PAGE, STAGES, archive

from lcu import main as lcu

TABLE = record.ROOT / "perf" / "results" / "hotspots.csv"
BEGIN, END = "<!-- hotspots: written by perf/hotspots.py -->\n", "<!-- end of hotspots -->"
COLUMNS = (
    "date", "commit", "host", "cpu", "size", "model", "stage", "stage_seconds", "function", "calls", "own_seconds",
    "all_seconds", "mostly_in",
)  # fmt: skip
PACKAGE = record.ROOT / "lcu"
SHOWN = 6  # functions of a stage in the table
ROUNDS = 40  # callers of callers that are looked at

LEAST = 0.01  # seconds below which nobody asks where they were spent

# File, line and name, as pstats has them.
Function = tuple[str, int, str]
MANY: Function = ("", 0, "many")


def is_own(function: Function) -> bool:
    """Tell whether a function is lcu's."""
    return function[0].startswith(str(PACKAGE))


def charged(stats: dict[Function, tuple]) -> dict[Function, Counter]:
    """Return the seconds that each function of lcu spends itself and outside lcu, by where they are spent.

    Time of a function outside is handed up to its callers, in the shares of what it took for each, until it
    arrives in lcu.
    """
    waiting = {function: Counter({function: own}) for function, (_, _, own, *_) in stats.items()}
    arrived: dict[Function, Counter] = {}
    for _ in range(ROUNDS):
        handed: dict[Function, Counter] = {}
        for function, seconds in waiting.items():
            callers = stats[function][4]
            whole = sum(took for *_, took in callers.values())
            if is_own(function) or not whole:
                arrived.setdefault(function, Counter()).update(seconds)
                continue
            for caller, (*_, took) in callers.items():
                part = handed.setdefault(caller, Counter())
                for where, value in seconds.items():
                    given = value * took / whole
                    part[where if given > LEAST else MANY] += given
        waiting = handed
    return {function: seconds for function, seconds in arrived.items() if is_own(function)}


def name_of(function: Function) -> str:
    """Return `module.function` of lcu's, and the bare name of others."""
    file, _, name = function
    if is_own(function):
        module = Path(file).relative_to(PACKAGE).with_suffix("")
        return ".".join([*module.parts, name])
    return name.strip("<>{}").replace("built-in method ", "").replace("method ", "")


def profiled(work: Callable[[], int]) -> tuple[dict[Function, tuple], float]:
    """Return what cProfile says of a call, and its seconds."""
    profile, begun = cProfile.Profile(), time.perf_counter()
    if profile.runcall(work):
        raise SystemExit("a stage failed: see above")
    return pstats.Stats(profile).stats, time.perf_counter() - begun


def rows_of(stage: str, stats: dict[Function, tuple], seconds: float) -> list[dict[str, object]]:
    """Return a row for each of the functions with most time of their own."""
    own = charged(stats)
    longest = sorted(own, key=lambda function: -own[function].total())[: 2 * SHOWN]
    return [
        {
            "stage": stage, "stage_seconds": round(seconds, 2), "function": name_of(function),
            "calls": stats[function][1], "own_seconds": round(own[function].total(), 3),
            "all_seconds": round(stats[function][3], 3),
            "mostly_in": name_of(own[function].most_common(1)[0][0]),
        }
        for function in longest
    ]  # fmt: skip


def table(rows: list[dict[str, str]]) -> str:
    """Return the last run as a table in Markdown."""
    lines = [
        "| stage | function | calls | own time | share | with what it calls | mostly in |",
        "|---" * 7 + "|",
    ]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage][:SHOWN]
        for number, row in enumerate(own):
            whole, took = float(row["stage_seconds"]), float(row["own_seconds"])
            if number and took < 0.02 * whole:
                continue
            head = "" if number else f"**{stage}** {whole:.1f} s"
            mostly = "" if row["mostly_in"] == row["function"] else f"`{row['mostly_in']}`"
            lines.append(
                f"| {head} | `{row['function']}` | {int(row['calls']):,} | {took:.2f} s | "
                f"{100 * took / whole:.0f} % | {float(row['all_seconds']):.2f} s | {mostly} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Profile every stage; append the rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=600, help="side of the landscape")
    parser.add_argument("--samples", type=int, default=300, help="samples of a class")
    parser.add_argument("--model", default="random-forest")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--folder", type=Path, default=ARCHIVES, help="where archive and run go")
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    options = parser.parse_args()
    folder = archive(options.size, options.samples, options.folder, "mpirun -q -n {ranks}")
    if options.stages == list(STAGES):
        shutil.rmtree(folder / "run-hotspots", ignore_errors=True)
    shared = record.provenance() | {"size": options.size, "model": options.model}
    sets = ("run.directory=run-hotspots", f"train.model={options.model}")
    words = [word for text in sets for word in ("--set", text)]
    rows = []
    for stage in options.stages:
        command = [stage, str(folder / "run.toml"), *words]
        found = profiled(lambda command=command: lcu.main(MPI.COMM_SELF, command))
        rows += [shared | row for row in rows_of(stage, *found)]
    record.append(options.results, rows, COLUMNS)
    text = table(record.last_run(options.results))
    print(text)
    if options.results == TABLE and options.stages == list(STAGES):
        where = (
            f"Commit `{shared['commit']}`, {shared['date'][:10]}, {shared['cpu']}, one rank, {options.size} x "
            f"{options.size} pixels, model {options.model}.\n\n"
        )
        record.put(PAGE, BEGIN, END, where + text)


if __name__ == "__main__":
    main()
