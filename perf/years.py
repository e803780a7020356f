"""Measure the choice over years against NumPy and against a copy of the same bytes, on one thread.

    python perf/years.py

The answers of both are compared before anything is timed. Every figure is the best of some turns that the three take
one after the other; a row each goes to `results/years.csv`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record

from lcu.classify import most_likely_years, posterior_of_years
from lcu.years import pairs_of_years

TABLE = record.ROOT / "perf" / "results" / "years.csv"
COLUMNS = (
    "date", "commit", "host", "cpu", "what", "years", "classes", "pixels", "rounds", "seconds_best",
    "pixels_per_second", "gigabytes_per_second", "over_copy",
)  # fmt: skip
SIDE = 512
AGREEMENT = (
    0.9999  # of the pixels; nearly equal sequences may come out either way in single precision
)


def model(years: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random probability [year, class, y, x] and transition [from, to]."""
    random = np.random.default_rng(1)
    probability = random.random((years, classes, SIDE, SIDE), dtype=np.float32)
    transition = np.full((classes, classes), 0.02 / (classes - 1), np.float32)
    np.fill_diagonal(transition, 0.98)
    return probability / probability.sum(axis=1, keepdims=True), transition


def with_numpy(probability: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """Viterbi with logarithms, all pixels at once: uint8 [year, y, x]."""
    step, scores = np.log(transition), np.log(probability)
    total, back = scores[0], []
    for own in scores[1:]:
        ways = total[:, None] + step[:, :, None, None]
        back.append(ways.argmax(axis=0).astype(np.uint8))
        total = ways.max(axis=0) + own
    label = total.argmax(axis=0).astype(np.uint8)
    labels = [label]
    for pointers in reversed(back):
        label = np.take_along_axis(pointers, label[None], axis=0)[0]
        labels.append(label)
    return np.stack(labels[::-1])


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure(years: int, classes: int, rounds: int) -> list[dict[str, object]]:
    """Return a row for each of what is compared."""
    probability, transition = model(years, classes)
    ours, theirs = most_likely_years(probability, transition), with_numpy(probability, transition)
    share = (ours == theirs).all(axis=0).mean()
    if share < AGREEMENT:
        raise SystemExit(f"lcu and NumPy agree in {share:.6f} of the pixels: no time is reported")
    # All ones: the same answer, by the longer way that keeps apart how long a class has stayed.
    stay = np.ones((len(pairs_of_years(years)), SIDE, SIDE), np.float32)
    if (most_likely_years(probability, transition, stay=stay) != ours).any(
        axis=0
    ).mean() > 1 - AGREEMENT:
        raise SystemExit("factors of 1 change the answer: no time is reported")
    target = np.empty_like(probability)
    works = {
        "copy": lambda: np.copyto(target, probability),
        "most_likely_years": lambda: most_likely_years(probability, transition),
        "posterior_of_years": lambda: posterior_of_years(probability, transition),
        "most_likely_years, stay": lambda: most_likely_years(probability, transition, stay=stay),
        "posterior_of_years, stay": lambda: posterior_of_years(probability, transition, stay=stay),
        "Viterbi in NumPy": lambda: with_numpy(probability, transition),
    }
    best = dict.fromkeys(works, np.inf)
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return [
        {
            "what": name, "years": years, "classes": classes, "pixels": SIDE**2, "rounds": rounds,
            "seconds_best": f"{took:.6g}", "pixels_per_second": f"{SIDE**2 / took:.6g}",
            "gigabytes_per_second": f"{probability.nbytes / took / 1e9:.4g}",
            "over_copy": f"{took / best['copy']:.4g}",
        }
        for name, took in best.items()
    ]  # fmt: skip


def main() -> None:
    """Measure and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=TABLE, help="CSV file to append to")
    options = parser.parse_args()
    shared, rows = record.provenance(), []
    for years, classes in ((3, 12), (6, 12), (6, 6)):
        rows += [shared | row for row in measure(years, classes, options.rounds)]
    record.append(options.results, rows, COLUMNS)
    for row in rows:
        print(
            f"{row['years']} years, {row['classes']} classes  {row['what']:24} "
            f"{float(row['pixels_per_second']):13,.0f} pixels/s {row['gigabytes_per_second']:>6} GB/s "
            f"{row['over_copy']:>6} x a copy"
        )


if __name__ == "__main__":
    main()
