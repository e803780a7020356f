"""One landscape, mapped once, for all tests of faults; what `make faults` adds: repetitions and a table."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.faults.harness import Ending, World, make_world

ROWS: list[tuple[str, str, int, Ending]] = []
HEAD = """| fault | stage | ranks | times | seconds to the end, most | what it said |
|---|---|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--repetitions", type=int, default=1, help="random moments for each strike")
    parser.addoption("--ranks", default="2", help="numbers of ranks to strike, such as 2,3,4")
    parser.addoption("--table", default="", help="page to write the table of strikes into")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Strike each stage at a moment of its own; `make faults` at more moments, on more ranks."""
    if {"moment", "ranks"} <= set(metafunc.fixturenames):
        times = metafunc.config.getoption("repetitions", 1)
        counts = map(int, metafunc.config.getoption("ranks", "2").split(","))
        draw = random.Random(metafunc.function.__name__)
        cases = [(count, draw.uniform(0.05, 0.7)) for count in counts for _ in range(times)]
        names = [f"{count}-{moment:.2f}" for count, moment in cases]
        metafunc.parametrize(("ranks", "moment"), cases, ids=names)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was seen between the marks of the page."""
    table = session.config.getoption("table", "")
    if not table or not ROWS:
        return
    page = Path(table)
    begin, end = "<!-- begin: written by make faults -->\n", "<!-- end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    text = before + begin + HEAD + "\n".join(_lines()) + "\n" + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def _lines() -> list[str]:
    """Return a row for each fault, stage and number of ranks."""
    lines = []
    for key in sorted({row[:3] for row in ROWS}):
        endings = [row[3] for row in ROWS if row[:3] == key]
        longest = max(ending.seconds for ending in endings)
        said = _message(endings[0]).replace("|", "/")
        fault, stage, ranks = key
        lines.append(f"| {fault} | {stage} | {ranks} | {len(endings)} | {longest:.1f} | {said} |")
    return lines


def _message(ending: Ending) -> str:
    """Return the line that says what happened, without what differs from job to job."""
    lines = ending.said.splitlines()
    told = [line for line in lines if line.startswith("lcu: ") or "noticed that process" in line]
    told += [line for line in lines if re.match(r"\w+(Error|Exit)\b", line)]
    if not told:
        return "nothing: " + ("nobody is left to say it" if ending.code else "nothing went wrong")
    line = re.sub(r"/\S*/struck", "RUN", told[0])
    return re.sub(r"PID \d+ on node \S+", "PID ... on node ...", line)[:160].strip()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the landscape and its undisturbed run."""
    return make_world(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def seen(request: pytest.FixtureRequest):
    """Return a function that notes, for the table, how a struck stage ended."""

    def note(fault: str, stage: str, ranks: int, ending: Ending) -> None:
        ROWS.append((fault, stage, ranks, ending))

    return note
