"""Strong and weak scaling of every stage, with the time of the ranks split into what they did.

    python perf/scaling.py --ranks 1 2 --rounds 3
    python perf/scaling.py --ranks 64 128 256 --launch "srun -n {ranks}" --folder $SCRATCH/scaling --size 4096

Strong: the same landscape on more ranks. Weak: a landscape with as many pixels for each rank. Rounds go over all
numbers of ranks in turn, each in a fresh run directory. The maps must all be the same before a time is reported.
Every figure goes to ``results/scaling.csv``; the table in ``docs/scaling.md`` and the picture are made from the last
run of each host.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import record
from osgeo import gdal

gdal.UseExceptions()

TABLE = record.ROOT / "perf" / "results" / "scaling.csv"
PICTURE = TABLE.with_suffix(".png")
PAGE = record.ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling: written by perf/scaling.py -->\n", "<!-- end of scaling -->"
ARCHIVES = record.ROOT / "build" / "archives"
STAGES = ("composite", "sample", "train", "classify", "assess", "publish")
KINDS = ("reading", "computing", "writing", "waiting")
COLUMNS = (
    "date", "commit", "host", "cpu", "mode", "nodes", "ranks", "round", "stage", "megapixels", "years",
    "acquisitions", "seconds", *(f"{kind}_{part}" for kind in KINDS for part in ("least", "mean", "most")),
    "core_hours", "peak_memory", "read", "written", "checksum",
)  # fmt: skip
YEARS = 2

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2018, 2019]
[simulate]
size = {size}
tiles = ["32TPS"]
mapping_unit = 5
[sample]
old_map = "old_map.tif"
old_map_year = 2016
per_class = {samples}
[train]
model = "random-forest"
[assess]
reference = "truth/{{tile}}_{{year}}_class.tif"
reference_nomenclature = "value"
"""


def archive(size: int, samples: int, folder: Path, launch: str) -> Path:
    """Return the folder of a simulated archive; make it where it is missing."""
    own = folder / f"scaling-{size}"
    own.mkdir(parents=True, exist_ok=True)
    (own / "run.toml").write_text(CONFIG.format(size=size, samples=samples))
    if not (own / "simulated").exists():
        print(f"simulating {size} x {size} pixels ...", flush=True)
        lcu(own, "simulate", launch, 2)
        (own / "simulated").touch()
    return own


def lcu(folder: Path, command: str, launch: str, ranks: int) -> None:
    """Run a command of lcu on some ranks; stop with what it said where it fails."""
    words = [*shlex.split(launch.format(ranks=ranks)), sys.executable, "-m", "lcu.main", command]
    done = subprocess.run(
        [*words, folder / "run.toml"], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GDAL_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")


def once(folder: Path, launch: str, ranks: int) -> list[dict[str, object]]:
    """Run all stages in a fresh directory; return a row a stage, and one of all."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    lcu(folder, "run", launch, ranks)
    told = json.loads((folder / "run" / "provenance.json").read_text())
    index = json.loads((folder / "run" / "composites" / "index.json").read_text())["tiles"]
    grids = [entry["grid"] for entry in index.values()]
    shared = {
        "ranks": ranks, "nodes": told["stages"]["classify"]["nodes"], "years": YEARS,
        "checksum": checksum(folder / "run" / "maps"),
        "megapixels": sum(grid["height"] * grid["width"] for grid in grids) / 1e6,
        "acquisitions": sum(len(entry["acquisitions"]) for entry in index.values()),
    }  # fmt: skip
    rows = []
    for stage in STAGES:
        used = told["stages"][stage]
        row = {
            name: used[name] for name in ("seconds", "core_hours", "peak_memory", "read", "written")
        }
        for kind in KINDS:
            parts = zip(("least", "mean", "most"), used["spent"][kind], strict=True)
            row |= {f"{kind}_{part}": value for part, value in parts}
        rows.append(shared | {"stage": stage} | row)
    return [*rows, shared | {"stage": "all"} | together(rows)]


def together(rows: Sequence[dict]) -> dict[str, float]:
    """Return the figures of all stages: sums, and the largest memory."""
    added = ("seconds", "core_hours", "read", "written", *(f"{kind}_mean" for kind in KINDS))
    whole = {name: sum(row[name] for row in rows) for name in added}
    return whole | {"peak_memory": max(row["peak_memory"] for row in rows)}


def checksum(maps: Path) -> str:
    """Return a hash of the pixels of all land-cover maps."""
    digest = hashlib.sha256()
    for path in sorted(maps.glob("LCU_LC_MAP_*.tif")):
        digest.update(path.name.encode() + gdal.Open(str(path)).ReadAsArray().tobytes())
    return digest.hexdigest()[:16]


def size_of(mode: str, side: int, ranks: int) -> int:
    """Return the side of the landscape, a multiple of 6 pixels; weak: as many pixels for each rank."""
    return round(side * (ranks**0.5 if mode == "weak" else 1) / 6) * 6


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """Measure every mode on every number of ranks in turns."""
    shared, rows = record.provenance(), []
    for mode in options.modes:
        for turn in range(options.rounds):
            for ranks in options.ranks:
                side = size_of(mode, options.size, ranks)
                folder = archive(side, options.samples, options.folder, options.launch)
                found = once(folder, options.launch, ranks)
                rows += [shared | {"mode": mode, "round": turn + 1} | row for row in found]
                print(
                    mode,
                    ranks,
                    *(f"{row['stage']} {row['seconds']:.1f} s" for row in found),
                    flush=True,
                )
    check(rows)
    return rows


def check(rows: Sequence[dict]) -> None:
    """Stop where the maps of a landscape are not the same on any number of ranks, in every round."""
    sums: dict[object, set] = {}
    for row in rows:
        sums.setdefault(row["megapixels"], set()).add(row["checksum"])
    if any(len(found) > 1 for found in sums.values()):
        raise SystemExit(f"the maps depend on the number of ranks or the round: {sums}")


def efficiency(mode: str, first: float, ranks_first: int, seconds: float, ranks: int) -> float:
    """Return the share of the ideal speed: time over time on the fewest ranks, for as much work a rank."""
    ideal = first if mode == "weak" else first * ranks_first / ranks
    return ideal / seconds


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the last run as tables in Markdown."""
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        lines += [
            f"**{mode.capitalize()}**\n",
            "| stage | ranks | seconds | efficiency | spread | reading | computing | writing | waiting (most) | "
            "core-hours / 1000 km2, year | memory a rank |",
            "|---" * 11 + "|",
        ]
        for stage in (*STAGES, "all"):
            lines += [_line(rows, mode, stage, ranks) for ranks in ranks_of(rows, mode)]
        lines.append("")
    return "\n".join(lines)


def ranks_of(rows: Sequence[dict[str, str]], mode: str) -> list[int]:
    """Return the numbers of ranks that were measured, ascending."""
    return sorted({int(row["ranks"]) for row in rows if row["mode"] == mode})


def efficiencies(
    rows: Sequence[dict[str, str]], mode: str, stage: str, ranks: int
) -> tuple[float, float, float]:
    """Return the median, least and most efficiency over the rounds, each against its own round."""
    fewest = ranks_of(rows, mode)[0]
    seconds = {
        (int(row["round"]), int(row["ranks"])): float(row["seconds"])
        for row in rows if (row["mode"], row["stage"]) == (mode, stage)
    }  # fmt: skip
    found = [
        efficiency(mode, seconds[turn, fewest], fewest, value, ranks)
        for (turn, number), value in seconds.items() if number == ranks
    ]  # fmt: skip
    return statistics.median(found), min(found), max(found)


def _line(rows: Sequence[dict[str, str]], mode: str, stage: str, ranks: int) -> str:
    own = [
        row for row in rows
        if (row["mode"], row["stage"], int(row["ranks"])) == (mode, stage, ranks)
    ]  # fmt: skip

    def median(name: str) -> float:
        return statistics.median(float(row[name]) for row in own)

    seconds = median("seconds")
    middle, least, most = efficiencies(rows, mode, stage, ranks)
    shares = [f"{100 * median(f'{kind}_mean') / seconds:.0f} %" for kind in KINDS]
    if own[0]["waiting_most"]:
        shares[-1] += f" ({100 * median('waiting_most') / seconds:.0f} %)"
    area = (
        float(own[0]["megapixels"]) * 0.1 * int(own[0]["years"])
    )  # 1000 km2 of pixels of 10 m, and years
    return (
        f"| {stage} | {ranks} | {seconds:.1f} | {middle:.2f} | {least:.2f} to {most:.2f} | {' | '.join(shares)} | "
        f"{median('core_hours') / area:.3g} | {median('peak_memory') / 2**20:.0f} MiB |"
    )


def draw(rows: Sequence[dict[str, str]]) -> None:
    """Draw the efficiency of every stage over the number of ranks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(modes), figsize=(4.6 * len(modes), 3.6), layout="constrained", squeeze=False, sharey=True
    )  # fmt: skip
    for axes, mode in zip(panels[0], modes, strict=True):
        ranks = ranks_of(rows, mode)
        for stage in (*STAGES, "all"):
            found = [efficiencies(rows, mode, stage, count)[0] for count in ranks]
            axes.plot(ranks, found, marker="o", label=stage, linewidth=3 if stage == "all" else 1.2)
        axes.axhline(0.9, color="crimson", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, list(map(str, ranks)))
        axes.set(title=f"{mode} scaling", xlabel="ranks", ylim=(0, 1.15))
    panels[0][0].set_ylabel("efficiency (red: target of composite, sample, classify)", fontsize=8)
    panels[0][-1].legend(fontsize=8, loc="lower left")
    figure.savefig(PICTURE, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measure; append the rows; draw and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--modes", nargs="+", default=["strong", "weak"], choices=["strong", "weak"]
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--size", type=int, default=1024, help="side of the landscape; weak: of one rank's"
    )
    parser.add_argument("--samples", type=int, default=300, help="samples of a class")
    # A core a rank, as on a cluster: the thread that reads ahead would have another one all for itself.
    parser.add_argument(
        "--launch", default="mpirun -q --bind-to core -n {ranks}", help="how ranks are started"
    )
    parser.add_argument("--folder", type=Path, default=ARCHIVES, help="where archives and runs go")
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    options = parser.parse_args()
    record.append(options.results, measure(options), COLUMNS)
    rows = record.last_run(options.results)
    for stage in STAGES:
        for mode in options.modes:
            for ranks in options.ranks:
                middle = efficiencies(rows, mode, stage, ranks)[0]
                print(f"{mode} {stage} {ranks} ranks: efficiency {middle:.3f}")
    if options.results == TABLE:
        draw(rows)
        first = rows[0]
        where = (
            f"Commit `{first['commit']}`, {first['date'][:10]}, {first['cpu']}, {len({row['round'] for row in rows})} "
            f"rounds, landscapes of {options.size} x {options.size} pixels (weak: for each rank), {YEARS} years.\n\n"
        )
        record.put(PAGE, BEGIN, END, where + table(rows))


if __name__ == "__main__":
    main()
