"""What cleaning the samples is worth: maps learned from cleaned and uncleaned samples, and the old map itself.

``python perf/usefulness.py`` runs the chain on the landscapes of ``perf/purity.py``, appends a row for each
map to ``perf/results/usefulness.csv`` and writes the table in ``docs/method.md`` again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import purity
import record

from lcu.config import load

TABLE = record.ROOT / "perf" / "results" / "usefulness.csv"
BEGIN, END = "<!-- usefulness: written by perf/usefulness.py -->\n", "<!-- end of usefulness -->"
COLUMNS = (
    "date", "commit", "host", "cpu", "landscape", "seed", "map", "overall_accuracy", "macro_f1"
)  # fmt: skip
VARIANTS = {"uncleaned samples": ["sample.clean=false"], "cleaned samples": []}
OLD = "old map"


def maps(config: Path, sets: list[str]) -> dict[str, dict[str, float]]:
    """Make a map from each kind of samples; return what it was found to be, and the old map."""
    found = {}
    for name, own in VARIANTS.items():
        for stage in ("sample", "train", "classify", "assess"):
            purity.run(stage, config, [*sets, *own])
        settled = load(config, sets)
        year = settled.archive.years[0]
        text = (settled.directory / "assessment" / f"accuracy_S{year}.json").read_text()
        told = json.loads(text)
        found[name] = told
        found[OLD] = told["old_map"]
    return found


def table(rows: list[dict[str, object]]) -> str:
    """Return mean and spread over the seeds as a table in Markdown."""
    lines = [
        "| landscape | map | overall accuracy | macro F1 |",
        "|---|---|---|---|",
    ]
    for landscape in dict.fromkeys(row["landscape"] for row in rows):
        for name in (OLD, *VARIANTS):
            own = [row for row in rows if (row["landscape"], row["map"]) == (landscape, name)]
            cells = []
            for figure in COLUMNS[-2:]:
                values = [float(row[figure]) for row in own]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            lines.append(f"| {landscape} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, append the rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    shared, rows = record.provenance(), []
    for name, config, sets in purity.landscapes(arguments.seeds):
        simulated = name.startswith("simulated")
        for seed in [int(name.split()[1])] if simulated else range(1, arguments.seeds + 1):
            for of, told in maps(config, [*sets, f"run.seed={seed}"]).items():
                figures = {figure: f"{told[figure]:.4f}" for figure in COLUMNS[-2:]}
                row = {"landscape": name.split()[0], "seed": seed, "map": of} | figures
                record.append(TABLE, [shared | row], COLUMNS)
                rows.append(row)
                print(row, flush=True)
    record.put(purity.PAGE, BEGIN, END, table(rows))


if __name__ == "__main__":
    main()
