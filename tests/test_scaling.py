"""The scaling study: its arithmetic, and the files that drive it on a real machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "perf"))
import scaling  # noqa: E402

# What JUBE 2.7 knows, by table (docs/scaling.md says where from); an inner table's names stand below its own.
KEYS = {
    "": {
        "name", "outpath", "comment", "parameterset", "fileset", "substituteset", "step", "patternset", "analyser",
        "result",
    },
    "parameterset": {"name", "init_with", "parameter"},
    "parameter": {"name", "type", "mode", "_"},
    "step": {"name", "use", "do"},
    "do": {"done_file", "error_file", "_"},
    "patternset": {"name", "pattern"},
    "pattern": {"name", "type", "_"},
    "analyser": {"name", "use", "analyse"},
    "analyse": {"step", "file"},
    "result": {"use", "table"},
    "table": {"name", "style", "sort", "column"},
}  # fmt: skip


def rows(mode: str, seconds: dict[int, list[float]]) -> list[dict[str, str]]:
    """Return rows as they are read: ranks -> seconds of each round."""
    return [
        {"mode": mode, "stage": "composite", "ranks": str(ranks), "round": str(turn), "seconds": str(value),
         "megapixels": "4", "checksum": "a"}
        for ranks, values in seconds.items() for turn, value in enumerate(values, 1)
    ]  # fmt: skip


def test_efficiency_is_of_the_ideal_speed_round_by_round() -> None:
    strong = rows("strong", {1: [10.0, 20.0, 12.0], 2: [5.0, 12.5, 6.0], 4: [4.0, 5.0, 3.0]})
    assert scaling.efficiencies(strong, "strong", "composite", 1) == (1, 1, 1)
    assert scaling.efficiencies(strong, "strong", "composite", 2) == pytest.approx((1.0, 0.8, 1.0))
    assert scaling.efficiencies(strong, "strong", "composite", 4)[1] == pytest.approx(0.625)
    weak = rows("weak", {2: [10.0], 8: [12.5]})
    assert scaling.efficiencies(weak, "weak", "composite", 8) == pytest.approx((0.8, 0.8, 0.8))


def test_a_weak_landscape_has_as_many_pixels_for_each_rank() -> None:
    for ranks in (1, 2, 3, 64):
        side = scaling.size_of("weak", 1024, ranks)
        assert side % 6 == 0 and side**2 / ranks == pytest.approx(1024**2, rel=0.02)
    assert scaling.size_of("strong", 1024, 64) == scaling.size_of("strong", 1024, 1)


def test_maps_that_depend_on_the_ranks_end_the_study() -> None:
    same = rows("strong", {1: [1.0], 2: [1.0]})
    scaling.check(same)
    with pytest.raises(SystemExit, match="the maps depend on the number of ranks"):
        scaling.check([*same, same[0] | {"checksum": "b"}])


def test_jube_finds_only_keys_that_it_knows() -> None:
    study = yaml.safe_load((ROOT / "perf" / "jube.yaml").read_text())
    unknown: list[str] = []

    def look(name: str, value: object) -> None:
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict) and name in KEYS:
                unknown.extend(f"{name}.{key}" for key in entry if key not in KEYS[name])
                for key, inner in entry.items():
                    look(key, inner)

    look("", study)
    assert unknown == []
    named = {entry["name"] for one in study["parameterset"] for entry in one["parameter"]}
    for used in re.findall(r"(?<!\$)\$(\w+)", str(study["parameterset"])):
        assert used in named, f"${used} is no parameter"
    patterns = {entry["name"] for entry in study["patternset"]["pattern"]}
    assert set(study["result"]["table"]["column"]) <= named | patterns


def test_the_job_script_is_short_and_names_what_there_is() -> None:
    path: Path = ROOT / "perf" / "scaling.sbatch"
    text = path.read_text()
    assert len(text.splitlines()) <= 30 and "jobscripts/env/job.sh" in text
    for option in re.findall(r"--(?:ranks|rounds|size|launch|folder|results)\b", text):
        assert f'"{option}"' in (ROOT / "perf" / "scaling.py").read_text()
