"""Fuzz a parser of outside data, guided by what its code branches on (atheris, libFuzzer).

    python -m tests.faults.fuzz points --seconds 60

Whatever the bytes, a parser gives a value or its documented error. Anything else ends the
program with the input kept in ``build/fuzz/PARSER/found``; found inputs are tried first the next time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lcu"]):
    from lcu import config
    from lcu.acquisition import safe, stac
    from tests import safe_writer as writer
    from tests.faults import test_parsers as parsers
    from tests.test_acquisition_safe import attempt, granule
    from tests.test_acquisition_stac import ALL, FULL

FOLDER = Path("build/fuzz")
ROWS = [
    parsers.ROW.format(year=year, cover=cover) for year, cover in ((2018, "B11"), (2022, "A21"))
]
PRODUCT = ("S2A_x_T32TPS_x", "20180615", "05.09", -1000, "L2A", "2020", 5)
GRANULE = ("20180615", "05.09", "32TPS", "L2A", writer.CORNER, "T101026")


def metadata(parse: Callable[[bytes, str], object]) -> Callable[[bytes], None]:
    """Return a target for a parser of an acquisition's metadata."""
    return lambda content: attempt(parse, content, "source")


def read_item(content: bytes, source: str) -> None:
    stac.parse(safe.read_json(content, source), source, ALL).acquisition.fingerprint()


def read_points(content: bytes) -> None:
    parsers.read_points(FOLDER / "points.csv", content)


def read_config(content: bytes) -> None:
    parsers.read_config(FOLDER / "run.toml", content)


# Parser -> target, and an example that it takes.
TARGETS: dict[str, tuple[Callable[[bytes], None], str]] = {
    "product": (metadata(safe.read_facts), writer.product_xml(*PRODUCT)),
    "granule": (metadata(granule), writer.granule_xml(*GRANULE)),
    "item": (metadata(read_item), json.dumps(FULL)),
    "points": (read_points, "\n".join([parsers.COLUMNS, *ROWS])),
    "config": (read_config, config.template()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parser", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    target, example = TARGETS[options.parser]
    corpus, found = FOLDER / options.parser / "corpus", FOLDER / options.parser / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    (corpus / "example").write_text(example)
    limits = [
        f"-max_total_time={options.seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=20000",
    ]
    atheris.Setup(
        [sys.argv[0], *limits, f"-artifact_prefix={found}/", str(corpus), str(found)], target
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
