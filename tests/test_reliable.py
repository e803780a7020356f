"""What cleaning removes and what it leaves, and that its bits do not depend on the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from osgeo import gdal

from lcu.discriminants import project
from lcu.legend import load
from lcu.sample import Samples, priority
from lcu.sample.draw import border_distance
from lcu.sample.reliable import (
    ATYPICAL,
    CLUSTER,
    KEPT,
    LEAST_KEPT,
    POLYGON,
    UNRELIABLE,
    Pool,
    Verdict,
    highest,
    reliable,
)
from tests.conftest import ROOT, Mpirun

gdal.UseExceptions()

SELF = MPI.COMM_SELF
FEATURES, PER_POLYGON = 8, 60


def landscape(classes: int = 3, polygons: int = 6, years: int = 1) -> tuple[Pool, np.ndarray]:
    """Return a pool of polygons of each class, one above the other, and the class of each candidate."""
    random = np.random.default_rng(1)
    truth = np.repeat(np.arange(classes), polygons * PER_POLYGON)
    centres = random.integers(500, 5000, (years, classes, FEATURES))
    rows = (np.arange(len(truth)) // 8).astype(np.int32)
    cols = (np.arange(len(truth)) % 8).astype(np.int32)
    noise = random.normal(0, 120, (years, len(truth), FEATURES))
    series = tuple(
        (centres[year][truth] + noise[year]).clip(1).astype(np.uint16) for year in range(years)
    )
    pool = Pool(
        series=series,
        observed=np.ones((len(truth), years), bool),
        index=truth.astype(np.uint8),
        polygon=(1 + np.arange(len(truth)) // PER_POLYGON).astype(np.int64),
        key=priority(1, "31UFT", rows, cols),
        border=np.full(len(truth), 16, np.uint8),
        part=((rows // 4) % 2).astype(np.uint8),
    )
    return pool, truth


def take(pool: Pool, chosen: np.ndarray) -> Pool:
    """Return the chosen candidates."""
    rest = {f.name: getattr(pool, f.name)[chosen] for f in fields(pool) if f.name != "series"}
    return Pool(series=tuple(year[chosen] for year in pool.series), **rest)


def judge(
    pool: Pool, classes: int = 3, keep: float = 1.0, comm: MPI.Comm = SELF, typical: float = 1.0
) -> Verdict:
    """Judge a pool."""
    outdated = [True] * len(pool.series)
    return reliable(
        pool, classes=classes, keep=keep, typical=typical, outdated=outdated, seed=1, comm=comm
    )


def test_a_map_without_mistakes_is_kept_whole() -> None:
    pool, _ = landscape()
    verdict = judge(pool)
    assert (verdict.rule == KEPT).all() and (verdict.score > 0.9).all()


def test_polygons_with_a_wrong_label_are_removed_and_no_others() -> None:
    pool, _ = landscape(polygons=8)
    wrong = np.isin(pool.polygon, [3, 12])
    index = np.where(wrong, (pool.index + 1) % 3, pool.index).astype(np.uint8)
    verdict = judge(replace(pool, index=index))
    assert (verdict.rule[wrong] == POLYGON).all()
    assert (verdict.rule[~wrong] == KEPT).all()


def test_pixels_of_another_class_inside_a_polygon_are_removed() -> None:
    pool, truth = landscape()
    inside = np.arange(len(truth)) % 10 == 0
    series = pool.series[0].copy()
    series[inside] = pool.series[0][(np.flatnonzero(inside) + len(truth) // 3) % len(truth)]
    verdict = judge(replace(pool, series=(series,)))
    assert (verdict.rule[inside] == CLUSTER).all()
    assert (verdict.rule[~inside] == KEPT).all()


def test_pixels_that_changed_between_two_years_are_removed() -> None:
    pool, truth = landscape(years=2)
    changed = np.arange(len(truth)) % 12 == 0
    later = pool.series[1].copy()
    later[changed] = pool.series[1][(np.flatnonzero(changed) + len(truth) // 3) % len(truth)]
    verdict = judge(replace(pool, series=(pool.series[0], later)), typical=11 / 12)
    assert (verdict.rule[changed] != KEPT).all()
    assert (verdict.rule[~changed] == KEPT).all()


def test_a_pixel_is_judged_by_the_mean_of_its_years() -> None:
    """In each single year a third of a class looks like another one, each time another third."""
    pool, truth = landscape(years=3)
    own, other = np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)
    series = [year.copy() for year in pool.series]
    for number, year in enumerate(series):
        year[own[number::3]] = pool.series[number][other[number::3]]
    verdict = judge(replace(pool, series=tuple(series)))
    assert (verdict.rule[own] == KEPT).mean() > 0.98
    single = judge(replace(pool, series=(series[0],), observed=pool.observed[:, :1]))
    assert (single.rule[own[::3]] == CLUSTER).mean() > 0.98


def test_a_year_without_observation_says_nothing() -> None:
    pool, _ = landscape(years=2)
    observed = pool.observed.copy()
    observed[::3, 1] = False
    later = np.where(observed[:, 1, None], pool.series[1], 0).astype(np.uint16)
    verdict = judge(replace(pool, series=(pool.series[0], later), observed=observed))
    assert (verdict.rule == KEPT).all()


def test_a_rare_kind_of_a_class_survives_where_it_is_consistent() -> None:
    pool, truth = landscape(polygons=10)
    rare = np.isin(pool.polygon, [1, 2]) & (np.arange(len(truth)) % 4 == 0)
    series = pool.series[0].copy()
    series[rare] = (series[rare].astype(int) + np.arange(FEATURES) * 300).astype(np.uint16)
    verdict = judge(replace(pool, series=(series,)), keep=0.6)
    kept = verdict.rule == KEPT
    own = truth == 0
    assert kept[rare].mean() >= 0.5 * kept[own].mean()


def test_a_class_that_looks_like_another_keeps_its_best() -> None:
    pool, truth = landscape(polygons=8)
    lost = (truth == 2) & (np.arange(len(truth)) % 20 != 0)
    series = pool.series[0].copy()
    series[lost] = pool.series[0][np.flatnonzero(lost) % (truth == 0).sum()]
    verdict = judge(replace(pool, series=(series,)))
    own = verdict.rule[truth == 2]
    left = (own != POLYGON).sum()
    assert (own == KEPT).sum() >= min(left, np.ceil(LEAST_KEPT * len(own)))
    assert (verdict.rule[(truth == 2) & ~lost & (verdict.rule != POLYGON)] == KEPT).all()


def test_what_a_class_keeps_at_least_is_not_what_is_far_from_its_middle() -> None:
    pool, truth = landscape(polygons=8)
    number = np.arange(len(truth))
    lost = (
        truth == 2
    )  # all of it looks like class 0, but for what changed and looks like class 1, of which little is left
    felled = lost & (number % 20 == 0)
    series = pool.series[0].copy()
    series[lost] = pool.series[0][np.flatnonzero(lost) % (truth == 0).sum()]
    series[felled] = pool.series[0][np.flatnonzero(truth == 1)[: felled.sum()]]
    left = (truth != 1) | (number % 12 == 0)
    rule = judge(take(replace(pool, series=(series,)), left), typical=0.9).rule
    assert not (rule[felled[left]] == KEPT).any()
    assert (rule[lost[left]] == KEPT).mean() == LEAST_KEPT


def test_a_third_of_the_labels_wrong_at_random_is_found() -> None:
    pool, truth = landscape(classes=4, polygons=10)
    random = np.random.default_rng(5)
    mistaken = random.random(len(truth)) < 0.3
    index = np.where(mistaken, (truth + 1) % 4, truth)
    polygon = pool.polygon * 4 + index  # a polygon has one class
    pool = replace(pool, index=index.astype(np.uint8), polygon=polygon)
    kept = judge(pool, 4).rule == KEPT
    assert mistaken[kept].mean() < 0.01 and kept[~mistaken].mean() > 0.99


def test_what_the_map_calls_by_one_name_everywhere_is_found_far_from_the_middle_of_its_class() -> (
    None
):
    pool, truth = landscape()
    random = np.random.default_rng(8)
    felled = (truth == 1) & (random.random(len(truth)) < 0.06)  # in every polygon of the class
    series = pool.series[0].copy()
    series[felled] = random.integers(2000, 2200, (felled.sum(), FEATURES))
    pool = replace(pool, series=(series,))
    assert (
        judge(pool).rule[felled] == KEPT
    ).mean() > 0.9  # for the map says the same of all of them
    verdict = judge(pool, typical=0.9)
    assert (verdict.rule[felled] == ATYPICAL).all()
    own_year = reliable(pool, classes=3, keep=1.0, typical=0.9, outdated=[False], seed=1, comm=SELF)
    assert not (own_year.rule == ATYPICAL).any()
    for value in range(3):
        assert ((verdict.rule == ATYPICAL) & (truth == value)).sum() <= 0.1 * (truth == value).sum()


def test_the_farthest_year_says_how_typical_a_candidate_is() -> None:
    pool, _ = landscape(years=2)
    changed, unseen = np.arange(10), np.arange(20, 30)
    series = pool.series[1].copy()
    series[np.concatenate([changed, unseen])] = 9000
    observed = pool.observed.copy()
    observed[unseen, 1] = False
    verdict = judge(replace(pool, series=(pool.series[0], series), observed=observed), typical=0.9)
    assert (verdict.rule[changed] != KEPT).all() and (verdict.rule[unseen] == KEPT).mean() > 0.7


def test_about_the_share_asked_for_is_kept_and_of_equals_those_far_from_the_border() -> None:
    pool, truth = landscape()
    border = np.random.default_rng(4).integers(1, 17, len(truth)).astype(np.uint8)
    verdict = judge(replace(pool, border=border), keep=0.5)
    kept = verdict.rule == KEPT
    assert 0.45 <= kept.mean() <= 0.6  # what is rare is kept beyond the share
    assert border[kept].mean() > border[~kept].mean()
    assert set(np.unique(verdict.rule)) == {KEPT, UNRELIABLE}


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_very_few_candidates_are_judged_without_fuss(count: int) -> None:
    pool, _ = landscape()
    verdict = judge(take(pool, np.arange(0, 6 * count, 6)))
    assert len(verdict.rule) == count and (verdict.rule == KEPT).all()


def test_one_class_equal_series_and_one_polygon_a_class_are_kept() -> None:
    pool, truth = landscape()
    assert (judge(take(pool, truth == 1)).rule == KEPT).all()
    same = replace(pool, series=(np.full_like(pool.series[0], 700),))
    assert (judge(same).rule == KEPT).all()
    assert (judge(replace(same, series=(np.zeros_like(same.series[0]),))).rule == KEPT).all()
    assert (judge(replace(pool, polygon=truth + 1)).rule == KEPT).all()
    single = take(pool, (truth == 0) | (np.arange(len(truth)) == len(truth) - 1))
    assert judge(single).rule[-1] in (KEPT, CLUSTER)


def test_discriminants_do_not_depend_on_how_many_are_computed_at_once() -> None:
    random = np.random.default_rng(2)
    series = random.integers(0, 65536, (500, 144)).astype(np.uint16)
    weights = np.rint(random.normal(0, 2.0**25, (144, 5)))
    frame = np.stack([np.zeros(5), np.full(5, 2.0**-40)])
    whole = project(series, weights, frame)
    parts = [project(series[first : first + 7], weights, frame) for first in range(0, 500, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


DIRECTIONS = """
import sys
import numpy as np
from lcu.discriminants import add_up, directions
random = np.random.default_rng(1)
index = np.arange(20000) % 8
noise = random.normal(0, 100, (20000, 120)) @ random.normal(0, 1, (120, 120))
series = 30000 + random.normal(0, 300, (8, 120))[index] + noise
weights, frame = directions(*add_up(series.clip(0, 65535).astype(np.uint16), index, 8))
sys.stdout.write((weights.tobytes() + frame.tobytes()).hex())
"""


def test_discriminants_do_not_depend_on_the_processor() -> None:
    # OpenBLAS, which NumPy and SciPy are built with, has kernels of its own for each of these.
    found = [
        subprocess.run(
            [sys.executable, "-c", DIRECTIONS], env=os.environ | {"OPENBLAS_CORETYPE": kind},
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=120,
        ).stdout
        for kind in ("Nehalem", "Sandybridge", "Haswell")
    ]  # fmt: skip
    assert len(found[0]) == 2 * 8 * (120 * 7 + 2 * 7)
    assert found[0] == found[1] == found[2]


@given(st.integers(0, 60), st.integers(0, 40), st.integers(0, 99))
def test_the_highest_numbers_of_each_group_are_chosen(count: int, wanted: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    number = random.permutation(2**20)[:count].astype(np.uint32) * np.uint32(4001)
    group = random.integers(0, 3, count)
    chosen = highest(number, group, np.array([wanted, 0, wanted // 2]), SELF)
    for value, most in enumerate((wanted, 0, wanted // 2)):
        own = number[group == value]
        assert sorted(number[chosen & (group == value)]) == sorted(own)[max(len(own) - most, 0) :]


def test_distance_to_the_border_is_followed_for_sixteen_pixels() -> None:
    values = np.full((40, 60), 3, np.uint8)
    assert (border_distance(values) == 16).all()
    values[:, 50:] = 4
    values[:, 59] = 255
    assert border_distance(values)[0, [0, 33, 34, 48, 49, 50, 58, 59]].tolist() == [
        16, 16, 16, 2, 1, 1, 1, 0,
    ]  # fmt: skip


@pytest.mark.mpi
@pytest.mark.parametrize("deal", ["in turn", "polygons straddle", "one rank has none"])
def test_the_verdict_has_the_same_bits_for_any_ranks(deal: str) -> None:
    comm = MPI.COMM_WORLD
    pool, truth = landscape(classes=4, polygons=7, years=2)
    random = np.random.default_rng(3)
    index = np.where(random.random(len(truth)) < 0.1, random.integers(0, 4, len(truth)), truth)
    index = index[:, None] * 1000 + pool.polygon[:, None]  # a polygon has one class
    pool = replace(pool, index=(index[:, 0] // 1000).astype(np.uint8), polygon=index[:, 0])
    alone = judge(pool, 4, 0.7, typical=0.9)
    place = np.arange(len(truth))
    owner = {
        "in turn": place % comm.size,
        "polygons straddle": place * comm.size // len(truth),
        "one rank has none": np.minimum(place % comm.size, max(comm.size - 2, 0)),
    }[deal]
    own = np.random.default_rng(comm.rank).permutation(np.flatnonzero(owner == comm.rank))
    found = judge(take(pool, own), 4, 0.7, comm, typical=0.9)
    same = [
        np.array_equal(getattr(found, f.name), getattr(alone, f.name)[own]) for f in fields(Verdict)
    ]
    assert comm.allreduce(all(same), op=MPI.LAND)


# --- the real squares ------------------------------------------------------------------------------


def purity(
    folder: Path, reference: str, shared: Path, legend: str, nomenclature: str
) -> tuple[float, int]:
    """Return the share of the samples whose label the reference has too, and how many there are."""
    samples = Samples.read(folder)
    right, total = 0, 0
    for number, tile in enumerate(samples.tiles):
        codes = gdal.Open(str(shared / reference.format(tile=tile))).ReadAsArray()
        values = load(ROOT / "examples" / "legends" / f"{legend}.toml").reclass(codes, nomenclature)
        own = samples.tile == number
        right += (values[samples.row[own], samples.col[own]] == samples.label[own, 0]).sum()
        total += own.sum()
    return right / total, int(total)


@pytest.mark.parametrize(
    ("name", "reference", "nomenclature", "least", "share"),
    [
        ("flanders", "flanders/reference/landcover_lpis.tif", "lpis", 0.98, 0.4),
        ("sweden", "{tile}/reference/nmd2018_as_clc.tif", "corine", 0.85, 0.4),
    ],
)
def test_samples_of_the_real_squares_are_pure(
    shared: Path, tmp_path: Path, mpirun: Mpirun, name: str, reference: str, nomenclature: str,
    least: float, share: float,
) -> None:  # fmt: skip
    sets = [
        f"run.directory={tmp_path}",
        "sample.per_class=1000000",
        "sample.per_polygon=1000000",
        "sample.keep=0.6",
    ]
    words = [word for text in sets for word in ("--set", text)]
    for stage in ("composite", "sample"):
        done = mpirun(1, "-m", "lcu.main", stage, ROOT / "examples" / f"{name}.toml", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    found, count = purity(tmp_path, reference, shared, name, nomenclature)
    counts = json.loads((tmp_path / "samples" / "cleaning.json").read_text())
    assert count == sum(entry["kept"] for entry in counts.values())
    assert found >= least and count >= share * sum(entry["labelled"] for entry in counts.values())
    for entry in counts.values():
        removed = sum(value for rule, value in entry.items() if rule not in ("labelled", "kept"))
        assert entry["labelled"] == removed + entry["kept"]
