"""Samples that change within a year: what they show, what they are called, and that a model learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from lcu import config as configuration
from lcu.composite import middles_of
from lcu.config import Config
from lcu.grid import positions_of_year
from lcu.legend import NODATA
from lcu.sample import Samples
from lcu.sample.draw import TEST, TRAINING
from lcu.train import splice, svm, yearly

CONFIG = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "."
years = [2018, 2019]
margin = "P4M"
[composite]
period = "P2M"
bands = ["B02", "B03"]
[sample]
old_map = "run.toml"
old_map_year = 2016
[train]
spliced = 0.2
folds = 2
c = [10]
gamma = [0.3]
"""
CLASSES, COUNT = (1, 2, 8), 240
LEVEL = 1000  # reflectance of a class: times its value


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return a configuration of two years that reach into their neighbours."""
    (tmp_path / "run.toml").write_text(CONFIG)
    return configuration.load(tmp_path / "run.toml")


def samples_of(config: Config) -> Samples:
    """Return samples whose series is level, at a height that tells the class; some periods are missing."""
    random, times = np.random.default_rng(3), len(config.periods)
    label = np.array(CLASSES, np.uint8)[np.arange(COUNT) % len(CLASSES)]
    series = np.broadcast_to(label[:, None, None] * np.uint16(LEVEL), (COUNT, times, 2))
    count = (random.random((COUNT, times)) < 0.7).astype(np.uint8)
    number = np.arange(COUNT, dtype=np.int32)
    return Samples(
        series=np.where(count[..., None], series, 0).astype(np.uint16), count=count,
        day=np.tile(middles_of(config.periods), (COUNT, 1)),
        label=np.stack([label, label], axis=1), weight=1 + (number % 7).astype(np.float32),
        tile=np.zeros(COUNT, np.uint16), row=number, col=number, polygon=number // 5 + 1,
        cluster=number, split=(number // 5 % 5 // 4 * TEST).astype(np.uint8), tiles=("32TPS",),
        years=(2018, 2019), middles=middles_of(config.periods),
        made_from=("", ""), fingerprint="",
    )  # fmt: skip


def test_a_spliced_sample_shows_one_class_then_another_and_is_called_by_the_last(
    config: Config,
) -> None:
    samples = samples_of(config)
    found = splice.with_spliced(config, samples, CLASSES)
    assert (found.series[:COUNT] == samples.series).all() and found.fingerprint == ""
    ends = np.array([period.end.year * 100 + period.end.month for period in config.periods])
    assert len(found.label) > COUNT + 50
    for series, count, label in zip(
        found.series[COUNT:], found.count[COUNT:], found.label[COUNT:], strict=True
    ):
        (position,) = np.flatnonzero(label != NODATA)
        year = samples.years[position]
        inside = positions_of_year(config.periods, year, config.period, config.margin)
        seen = [place for place in inside if count[place]]
        shown = [int(series[place, 0]) // LEVEL for place in seen]
        turn = next(place for place in range(1, len(shown)) if shown[place] != shown[0])
        assert shown == [shown[0]] * turn + [int(label[position])] * (len(shown) - turn)
        # What came before lasts into the year at most: its end is what the map shows.
        assert ends[seen[turn - 1]] <= (year + 1) * 100 + 1


@pytest.mark.parametrize(
    "train", [{"model": "lstm", "carry_state": True}, {"model": "tempcnn", "change_penalty": 1.0}]
)
def test_a_model_that_joins_years_learns_what_was_there_before_a_change_and_what_stays_after_it(
    config: Config, train: dict[str, Any]
) -> None:
    config = replace(config, train=replace(config.train, **train))
    found = splice.with_spliced(config, samples_of(config), CLASSES)
    shown, seen = found.series[COUNT:, :, 0] // LEVEL, found.count[COUNT:] > 0
    starts, kinds = np.array([period.start.year for period in config.periods]), set()
    for values, there, label in zip(shown, seen, found.label[COUNT:], strict=True):
        first, last = values[there][0], values[there][-1]
        gone, come = np.flatnonzero(there & (values == first)), np.flatnonzero(values == last)
        assert first != last and gone[-1] < come[0]
        # Between the last sight of the one and the first of the other it turned; a year is called what it ends as.
        possible = {starts[place] for place in range(gone[-1] + 1, come[0] + 1)}
        assert any(
            label.tolist() == [first if year < turn else last for year in (2018, 2019)]
            for turn in possible
        )
        kinds.add(int((label == first).sum()))
    assert kinds == {0, 1}


def test_only_training_samples_are_spliced_and_keep_their_weight(config: Config) -> None:
    samples = samples_of(config)
    test = samples.split == TEST
    marked = samples.series.copy()
    marked[test] = np.where(marked[test] > 0, 7, 0)
    found = splice.with_spliced(config, replace(samples, series=marked), CLASSES)
    assert (found.split[COUNT:] == TRAINING).all() and not (found.series[COUNT:] == 7).any()
    assert set(found.polygon[COUNT:]) <= set(samples.polygon[~test])
    assert set(found.weight[COUNT:]) <= set(samples.weight[~test])
    none = replace(config, train=replace(config.train, spliced=0.0))
    assert splice.with_spliced(none, samples, CLASSES) is samples


@given(st.integers(0, 99), st.integers(1, 60), st.floats(0.01, 1))
def test_what_changes_into_what_follows_the_transitions(
    seed: int, count: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    index = random.integers(0, 4, count).astype(np.uint8)
    transition = np.array(
        [[0.8, 0.2, 0, 0], [0.5, 0.5, 0, 0], [0, 0.1, 0.9, 0], [0, 0, 0, 1]], float
    )
    before, after = splice.pairs(index, transition, share, random)
    for value in range(4):
        to = (
            transition[value, np.unique(index)].sum()
            > transition[value, value] * (index == value).any()
        )
        own = (index == value).sum()
        assert (index[before] == value).sum() == (np.ceil(share * own) if own and to else 0)
    assert (index[before] != index[after]).all()
    assert (transition[index[before], index[after]] > 0).all()


@given(st.integers(0, 999), st.integers(1, 20), st.integers(2, 12))
def test_the_turn_leaves_an_observation_on_either_side(seed: int, pairs: int, times: int) -> None:
    random = np.random.default_rng(seed)
    before, after = random.random((2, pairs, times)) < 0.3
    last = int(random.integers(1, times + 1))
    for one, other, turn in zip(
        before, after, splice.turns(before, after, last, random), strict=True
    ):
        possible = [at for at in range(1, last) if one[:at].any() and other[at:].any()]
        assert turn in possible if possible else turn == 0


def test_land_that_changes_in_the_middle_of_the_year_is_mapped_as_what_it_has_become(
    config: Config,
) -> None:
    one = replace(config, archive=replace(config.archive, years=(2018,), margin="P0M"))
    samples, random = samples_of(one), np.random.default_rng(4)
    noise = random.normal(0, 150, samples.series.shape)
    series = np.where(samples.series > 0, samples.series + noise, 0).clip(0).astype(np.uint16)
    samples = replace(
        samples, series=series, label=samples.label[:, :1], years=(2018,), made_from=("",)
    )
    changing = np.repeat(np.array([[8, 8, 2, 2, 2, 2], [8, 8, 8, 8, 2, 2]]) * LEVEL, 2, axis=1)
    values = torch.from_numpy(svm.features(changing.reshape(2, 6, 2).astype(np.uint16)))
    called = []
    for learned in (samples, splice.with_spliced(one, samples, CLASSES)):
        _, tensors = yearly.train(one, MPI.COMM_SELF, learned, CLASSES, lambda *_: None)
        model = {name.removeprefix("2018."): value for name, value in tensors.items()}
        chosen = svm.predict(model, values).argmax(dim=1)
        called.append(model["classes"][chosen].tolist())
    assert called[0] != [2, 2] and called[1] == [2, 2]
