"""The record of the benchmarks: CSV rows, a picture and a table made from them alone.

`python perf/record.py` draws `perf/results/kernels.png` and writes the table in
`docs/performance.md` again, from the last run in `perf/results/kernels.csv`.
"""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "perf" / "results" / "kernels.csv"
PICTURE = ROOT / "perf" / "results" / "kernels.png"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- kernels: written by perf/record.py -->\n", "<!-- end -->"

COLUMNS = (
    "date", "commit", "host", "cpu", "versions", "case", "function", "times", "missing", "bands",
    "pixels", "threads", "implementation", "rounds", "seconds_best", "seconds_median",
    "pixels_per_second", "ratio", "ratio_least", "ratio_most", "agreement", "checksum",
)  # fmt: skip

# Function, times, competitor -> how many times its speed is asked for.
TARGETS = {
    ("median", 20, "numpy.nanmedian"): 100,
    ("median", 20, "bottleneck.nanmedian"): 30,
    ("median", 70, "numpy.nanmedian"): 100,
    ("median", 70, "bottleneck.nanmedian"): 16,
    ("geometric_median", 20, "hdstats.nangeomedian_pcm"): 30,
}


def newest(rows: Sequence[dict[str, str]], *keys: str) -> list[dict[str, str]]:
    """Return the rows of the commit that each combination of values in some columns was measured with last."""
    last = {tuple(row[key] for key in keys): row["commit"] for row in rows}
    return [row for row in rows if row["commit"] == last[tuple(row[key] for key in keys)]]


def provenance() -> dict[str, str]:
    """Return what all rows of a run share: when, which commit, where."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "host": platform.node(),
        "cpu": processor(),
    }


def commit() -> str:
    """Return the commit; with "+" where the kernels' sources differ from it."""
    try:
        name = git("rev-parse", "--short=10", "HEAD")
        return name + ("+" if git("status", "--porcelain", "kernels", "lcu", "setup.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    """Return what git prints."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor() -> str:
    """Return the name of the processor, and its widest vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split("\t: ", 1) for line in text.splitlines() if "\t: " in line)
    flags = {name.strip(): value for name, value in lines.items()}
    found = [name for name in ("avx512bw", "avx2") if name in flags.get("flags", "").split()]
    return " ".join([flags.get("model name", platform.machine()), *found[:1]])


def append(path: Path, rows: list[dict[str, object]], columns: Sequence[str]) -> None:
    """Append rows to a CSV file, with a header where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def last_run(path: Path) -> list[dict[str, str]]:
    """Return the rows of the last run."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["date"] == rows[-1]["date"]]


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Put text between two marks of a page, in place of what is there."""
    whole = page.read_text()
    first = whole.index(begin) + len(begin)
    page.write_text(f"{whole[:first]}\n{text.rstrip()}\n\n{whole[whole.index(end, first) :]}")


def target(row: dict[str, str]) -> int | None:
    """Return the ratio that is asked for against this competitor, if one is."""
    return TARGETS.get((row["function"], int(row["times"]), row["implementation"]))


def what(row: dict[str, str]) -> str:
    """Name what was measured."""
    missing = f", {row['missing']} % missing" if row["missing"] != "0" else ", none missing"
    return f"{row['function']}, {row['times']} times{missing}"


# -------------------------------------------------------------------- the table in the docs


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| what | implementation | pixels/s | lcu is faster by | spread | target | agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [line(row) for row in rows]) + "\n"


def line(row: dict[str, str]) -> str:
    """Return one row of the table."""
    speed = f"{float(row['pixels_per_second']):,.0f}"
    if row["implementation"] == "lcu":
        return f"| **{what(row)}** | lcu | {speed} | | | | |"
    low, high = float(row["ratio_least"]), float(row["ratio_most"])
    agreement = f"{100 * float(row['agreement']):.6g} %"
    goal = target(row)
    reached = (
        "" if goal is None else f"{goal}: {'yes' if float(row['ratio']) >= goal else '**no**'}"
    )
    return (
        f"| | {row['implementation']} | {speed} | {float(row['ratio']):.3g} "
        f"| {low:.3g} to {high:.3g} | {reached} | {agreement} |"
    )


def write_page(rows: list[dict[str, str]], page: Path) -> None:
    """Put the table and where it was measured between the marks in a page."""
    first = rows[0]
    where = (
        f"Commit `{first['commit']}`, {first['date'][:10]}, {first['cpu']}, one thread, case "
        f"`{first['case']}` ({int(first['pixels']):,} pixels of {first['bands']} bands), "
        f"{first['rounds']} turns.\n\n"
    )
    put(page, BEGIN, END, where + table(rows))


# --------------------------------------------------------------------------------- the picture


def draw(rows: list[dict[str, str]], picture: Path) -> None:
    """Draw how many times faster than each competitor; a tick at what was asked for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    others = [row for row in rows if row["implementation"] != "lcu"][::-1]
    figure, axes = pyplot.subplots(figsize=(10, 0.36 * len(others) + 1.4), layout="constrained")
    for place, row in enumerate(others):
        draw_bar(axes, place, row)
    axes.set_yticks(
        range(len(others)), [f"{what(row)}: {row['implementation']}" for row in others], fontsize=8
    )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(
        "times faster than the competitor (bar: median of turns; line: all turns; red: target)"
    )
    axes.set_title(f"lcu {rows[0]['commit']}, one thread, {rows[0]['cpu']}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def draw_bar(axes: object, place: int, row: dict[str, str]) -> None:
    """Draw one competitor."""
    ratio, low, high = (float(row[name]) for name in ("ratio", "ratio_least", "ratio_most"))
    axes.barh(place, ratio, color="#4c8c6b", height=0.62)
    axes.hlines(place, low, high, color="black", linewidth=1)
    axes.text(high * 1.06, place, f"{ratio:.3g}", va="center", fontsize=8)
    if goal := target(row):
        axes.vlines(goal, place - 0.4, place + 0.4, color="crimson", linewidth=2)


def main() -> None:
    """Draw the picture and write the page from the last run."""
    rows = last_run(TABLE)
    draw(rows, PICTURE)
    write_page(rows, PAGE)
    print(
        f"{PICTURE.relative_to(ROOT)} and {PAGE.relative_to(ROOT)} show the run of {rows[0]['date']}"
    )


if __name__ == "__main__":
    main()
