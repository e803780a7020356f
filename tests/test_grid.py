"""Grids, blocks and periods."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcu.grid import (
    Block,
    Duration,
    Grid,
    Period,
    day_number,
    periods_of_run,
    periods_of_year,
    positions_of_year,
)

GRID = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 5600000.0, 0.0, -10.0), 70, 50)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 100))
def test_blocks_tile_the_grid_exactly_once(height: int, width: int, size: int) -> None:
    covered = np.zeros((height, width), int)
    for block in Grid("EPSG:32631", GRID.transform, height, width).blocks(size):
        covered[block.slices] += 1
    assert (covered == 1).all()


def test_part_of_a_grid_lies_where_it_should() -> None:
    part = GRID.part(Block(10, 20, 5, 6))
    assert part.transform == (500200.0, 10.0, 0.0, 5599900.0, 0.0, -10.0)
    assert part.bounds == (500200.0, 5599850.0, 500260.0, 5599900.0)


def test_halo_is_cut_off_at_the_edge_and_leads_back_to_the_block() -> None:
    block = Block(0, 40, 20, 10)
    halo = block.grown(5, GRID)
    assert halo == Block(0, 35, 25, 15)
    assert np.arange(70 * 50).reshape(70, 50)[halo.slices][block.inside(halo)][0, 0] == 40


@pytest.mark.parametrize(
    "transform", [(0, 10, 1, 0, 0, -10), (0, 10, 0, 0, 0, 10), (0, -10, 0, 0, 0, -10)]
)
def test_rotated_and_south_up_grids_are_refused(transform: tuple) -> None:
    with pytest.raises(ValueError, match="north-up"):
        Grid("EPSG:32631", transform, 1, 1)


@pytest.mark.parametrize(
    ("text", "expected"), [("P1M", (1, 0)), ("P10D", (0, 10)), ("P1Y", (12, 0)), ("P2W", (0, 14))]
)
def test_durations_are_read(text: str, expected: tuple) -> None:
    assert Duration.parse(text) == Duration(*expected)


@pytest.mark.parametrize("text", ["", "P", "1M", "P1M5D", "PT5H", "P-1M", "month"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="P"):
        Duration.parse(text)


@given(
    st.integers(2015, 2040),
    st.sampled_from(["P1M", "P2M", "P5M", "P1Y", "P5D", "P10D", "P16D", "P100D"]),
)
def test_periods_cover_a_year_exactly_and_are_as_many_in_every_year(year: int, text: str) -> None:
    step = Duration.parse(text)
    periods = periods_of_year(year, step)
    assert periods[0].start == date(year, 1, 1) and periods[-1].end == date(year + 1, 1, 1)
    assert all(one.end == other.start for one, other in zip(periods[:-1], periods[1:], strict=True))
    assert len(periods) == len(periods_of_year(2016, step)) == len(periods_of_year(2017, step))


def test_a_margin_adds_the_neighbouring_months_once() -> None:
    step, margin = Duration.parse("P1M"), Duration.parse("P2M")
    periods = periods_of_run([2018, 2019], step, margin)
    assert [periods[0].start, periods[-1].end] == [date(2017, 11, 1), date(2020, 3, 1)]
    assert len(periods) == len(set(periods)) == 28
    assert positions_of_year(periods, 2019, step, margin) == list(range(12, 28))


def test_days_are_counted_from_2015() -> None:
    assert day_number(date(2015, 1, 1)) == 0
    assert day_number(datetime(2016, 1, 1, 10, tzinfo=UTC)) == 365
    assert Period(date(2015, 1, 1), date(2015, 2, 1)).middle == 15
