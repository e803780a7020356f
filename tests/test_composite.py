"""The composite stage: who does what, what is decoded, what is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from lcu import config as configuration
from lcu.acquisition import (
    Acquisition,
    Band,
    Tiles,
    Tiling,
    Window,
    find,
    read_band,
    read_mask,
    tiling_of,
)
from lcu.composite import cloud_mask, decoded_share, median, peak_memory, run, work
from lcu.composite.observations import by_clearness
from lcu.config import Config
from lcu.disk import Scratch
from lcu.grid import Block, Grid, Tile, day_number, split
from lcu.store import CELL, RANKS_PER_SHARD, Shard
from tests import reference, safe_writer

COMM = MPI.COMM_WORLD

TABLES = """
[run]
directory = "run"
[archive]
kind = "safe"
path = "products"
years = [2018]
[composite]
bands = ["B01", "B02", "B04", "B05", "B11"]
block = 128
mask_classes = [0, 9]
cloud_buffer = 20
[sample]
old_map = "run.toml"
old_map_year = 2018
"""


def configured(folder: Path, *sets: str) -> Config:
    """Return the configuration of a folder with products."""
    (folder / "run.toml").write_text(TABLES)
    (folder / "products").mkdir(exist_ok=True)
    return configuration.load(folder / "run.toml", sets)


# --- what is decoded ------------------------------------------------------------------------------


@pytest.fixture
def like_esa(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products be 5120 m wide at an eighth of the true size: JP2 tiles that do not line up."""
    monkeypatch.setattr(safe_writer, "SIZE", 640)
    monkeypatch.setattr(safe_writer, "JP2_TILES", {10: 128, 20: 80, 60: 32})
    monkeypatch.setattr("lcu.acquisition.tiles.LEAST_SIDE", 1)


def write_products(folder: Path, days: tuple[str, ...]) -> None:
    """Write one product a day, of rank 0, while the others wait."""
    if COMM.rank == 0:
        for seed, day in enumerate(days):
            safe_writer.write_safe(folder / "products", day=day, seed=seed, cloud=10.0 * seed)
        (folder / "run.toml").write_text(TABLES)
    COMM.Barrier()


@pytest.mark.mpi
def test_each_jp2_tile_is_decoded_once_on_any_number_of_ranks(
    mpi_tmp_path: Path, like_esa: None
) -> None:
    write_products(mpi_tmp_path, ("20180110", "20180210", "20180310", "20180410"))
    config = configuration.load(mpi_tmp_path / "run.toml")
    failures, summary = run(config, COMM, lambda *_: None)
    assert failures == [] and "x the pixels of their files" in summary
    share = decoded_share(config)
    assert share == pytest.approx(1.0) if COMM.size in (1, 2, 4) else 1.0 < share <= 1.1


@pytest.mark.mpi
def test_composites_are_the_medians_of_what_is_clear(mpi_tmp_path: Path) -> None:
    write_products(mpi_tmp_path, ("20180110", "20180112", "20180117", "20180310"))
    config = configuration.load(mpi_tmp_path / "run.toml", ['composite.mask="none"'])
    run(config, COMM, lambda *_: None)
    found, tiles, _ = find(config, COMM)
    grid = tiles["32TPS"].grid
    series = np.stack([
        [read_band(item, band, grid.whole, grid) for band in config.composite.bands]
        for item in found["32TPS"][:3]
    ])  # fmt: skip
    expected, count = reference.median(series, np.ones((3, *series.shape[2:]), bool))
    with h5py.File(config.directory / "composites" / "32TPS.h5") as file:
        np.testing.assert_array_equal(file["reflectance"][0], expected)
        np.testing.assert_array_equal(file["clear_count"][0], count)
        assert not file["reflectance"][1].any() and file["clear_count"][2].any()


@pytest.mark.mpi
@pytest.mark.parametrize("block", [64, 128])
def test_comparison_in_time_does_not_depend_on_blocks_and_ranks(
    mpi_tmp_path: Path, block: int
) -> None:
    days = ("20180110", "20180115", "20180120", "20180301", "20180305", "20180601")
    write_products(mpi_tmp_path, days)
    config = configuration.load(mpi_tmp_path / "run.toml", [
        'composite.mask="scl+time"', f"composite.block={block}", f'run.directory="run-{block}"',
        'composite.bands=["B02", "B08", "B11"]', 'composite.period="P1Y"',
    ])  # fmt: skip
    run(config, COMM, lambda *_: None)
    found, tiles, _ = find(config, COMM)
    items, grid = found["32TPS"], tiles["32TPS"].grid
    coarse = items[0].bands["B11"].grid
    seen = np.stack([
        [read_band(item, band, coarse.whole, coarse) for band in config.composite.bands]
        for item in items
    ])  # fmt: skip
    scl = np.stack([read_mask(item, coarse.whole, coarse) for item in items])
    clear = cloud_mask(
        scl, seen, [day_number(item.time) for item in items], blue=0, nir=1, swir=2,
        classes=(0, 9), cloud_buffer=1, shadow_buffer=3, support=4,
    )  # fmt: skip
    series = np.stack([
        [read_band(item, band, grid.whole, grid) for band in config.composite.bands]
        for item in items
    ])  # fmt: skip
    expected, count = median(series, clear.repeat(2, 1).repeat(2, 2))
    with h5py.File(config.directory / "composites" / "32TPS.h5") as file:
        np.testing.assert_array_equal(file["reflectance"][0], expected)
        np.testing.assert_array_equal(file["clear_count"][0], count)
    assert 0 < count.mean() < (~np.isin(scl, (0, 9))).sum(axis=0).mean()
    leftovers = [path for path in config.directory.rglob("*.part")]
    assert leftovers == []
    assert COMM.size > 1 or decoded_share(config) == pytest.approx(1)


def test_cloudy_blocks_are_not_decoded_beyond_their_mask(tmp_path: Path, monkeypatch) -> None:
    def cloudy(band: str, seed: int = 1) -> np.ndarray:
        values = original(band, seed)
        return np.full_like(values, 9) if band == "SCL" else values

    original = safe_writer.numbers
    monkeypatch.setattr(safe_writer, "numbers", cloudy)
    safe_writer.write_safe(tmp_path / "products", day="20180110")
    config = configured(tmp_path)
    run(config, MPI.COMM_SELF, lambda *_: None)
    side = {10: 128, 20: 64, 60: 22}
    mask = side[20] ** 2
    whole = 2 * side[10] ** 2 + 3 * side[20] ** 2 + side[60] ** 2
    assert decoded_share(config) == pytest.approx(mask / whole)


def esa_acquisition(month: int, cloud: float = 10.0) -> Acquisition:
    """Return an acquisition with ESA's grids, without files."""
    native = {10: 10980, 20: 5490, 60: 1830}
    grids = {
        pixel: Grid("EPSG:32631", (6e5, pixel, 0, 5e6, 0, -pixel), side, side)
        for pixel, side in native.items()
    }
    bands = {
        name: Band(name, name, grids[pixel], 1e-4, 0.0, 0)
        for name, pixel in zip(
            configuration.BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20), strict=True
        )
    }
    mask = Band("SCL", "SCL", grids[20], 1.0, 0.0, 0)
    when = datetime(2018, month, 3, tzinfo=UTC)
    return Acquisition(
        f"{month}-{cloud}", "31UFT", when, "S2A", "L2A", "02.12", cloud, bands, mask, ""
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 16, RANKS_PER_SHARD])
def test_decoding_of_a_real_tile_is_planned_to_cost_a_tenth_more_at_most(
    tmp_path: Path, ranks: int
) -> None:
    config = configured(tmp_path, 'composite.bands=["' + '","'.join(configuration.BANDS) + '"]',
                        "composite.block=1024")  # fmt: skip
    items = [esa_acquisition(month, cloud) for month in range(1, 13) for cloud in (5.0, 60.0)]
    tile = Tile("31UFT", items[0].bands["B02"].grid)
    shard = Shard("composites", "31UFT", 2018, tile.grid.whole)
    jp2 = {10: 1024, 20: 640, 60: 192}
    tilings = {
        band.name: Tiling(band.grid.height, band.grid.width, *[jp2[band.grid.resolution]] * 2)
        for band in items[0].rasters
    }
    whole = work.work_of(config, shard, "", tile, items, ranks)
    share = work.decoded_pixels(config, whole, tilings) / work.file_pixels(config, whole)
    assert 0.999 < share <= 1.1


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("side", [50, 600, 1024, 1500])
def test_ranks_write_parts_that_are_alike_and_cover_the_shard(
    tmp_path: Path, ranks: int, side: int
) -> None:
    config = configured(tmp_path, "composite.block=1024")
    grid = Grid("EPSG:32631", (300_000.0, 10.0, 0.0, 5_900_000.0, 0.0, -10.0), side, side)
    shard = Shard("composites", "31UFT", 2018, grid.whole)
    whole = work.work_of(config, shard, "", Tile("31UFT", grid), [], ranks)
    parts = work.stripes(config, whole, ranks)
    covered = np.zeros((side, side), int)
    for _, part in parts:
        covered[part.slices] += 1
    assert (covered == 1).all()
    for index, block in enumerate(whole.blocks):
        cells = {-(-part.width // CELL) for number, part in parts if number == index}
        assert cells and max(cells) - min(cells) <= 1, block


# --- tiles ----------------------------------------------------------------------------------------


def test_tiles_beyond_the_memory_wait_on_disk_and_are_decoded_once(
    tmp_path: Path, like_esa: None
) -> None:
    safe_writer.write_safe(tmp_path / "products", day="20180110")
    found, tiles, _ = find(configured(tmp_path), MPI.COMM_SELF)
    (item,), grid = found["32TPS"], tiles["32TPS"].grid
    band = item.bands["B11"]
    blocks = list(split(grid.whole, 128))
    kept = Tiles(tmp_path, memory=1)
    tiling = tiling_of(band)
    assert (tiling.tile_height, tiling.tile_width) == (80, 80)
    windows = [
        Window(block.row // 2, block.row // 2 + 64, block.col // 2, block.col // 2 + 64)
        for block in blocks
    ]
    for window in windows:
        kept.expect(band, tiling, window)
    for block, window in zip(blocks, windows, strict=True):
        alone = read_band(item, "B11", block, grid)
        np.testing.assert_array_equal(read_band(item, "B11", block, grid, kept), alone)
        kept.release(band, tiling, window)
    assert kept.decoded == 320 * 320
    kept.close()


def test_nothing_is_kept_of_what_nobody_expects(tmp_path: Path) -> None:
    safe_writer.write_safe(tmp_path / "products", day="20180110")
    found, tiles, _ = find(configured(tmp_path), MPI.COMM_SELF)
    (item,), grid = found["32TPS"], tiles["32TPS"].grid
    kept = Tiles()
    for _ in range(2):
        read_band(item, "B02", Block(0, 0, 8, 8), grid, kept)
    assert kept.decoded == 2 * 128 * 128


@settings(derandomize=True, deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 50), max_size=8))
def test_scratch_gives_back_what_was_put_and_leaves_no_file(tmp_path_factory, sizes) -> None:
    folder = tmp_path_factory.mktemp("scratch")
    scratch = Scratch(folder)
    arrays = [np.arange(2 * size, dtype=np.uint16).reshape(size, 2) for size in sizes]
    places = [scratch.put(array) for array in arrays]
    for array, place in zip(arrays, places, strict=True):
        np.testing.assert_array_equal(scratch.get(place), array)
        scratch.free(place)
        again = scratch.put(array[::-1])
        assert again.start == place.start or not array.size
        np.testing.assert_array_equal(scratch.get(again), array[::-1])
    scratch.close()
    assert list(folder.iterdir()) == []


# --- who does what --------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    costs=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    blocks=st.integers(1, 40),
    ranks=st.integers(1, 9),
)
def test_ranks_share_the_work_evenly_and_cut_few_spans(costs, blocks, ranks) -> None:
    owners = work.divide([[float(cost)] * blocks for cost in costs], ranks)
    load = np.zeros(ranks)
    for cost, span in zip(costs, owners, strict=True):
        np.add.at(load, span, cost)
    target = sum(costs) * blocks / ranks
    assert load.sum() == sum(costs) * blocks
    assert load.max() <= (1 + work.SLACK) * target + max(costs)
    assert sum(len(set(span)) - 1 for span in owners) <= 2 * (ranks - 1)


def test_memory_follows_the_acquisitions_of_a_period_only(tmp_path: Path) -> None:
    config = configured(tmp_path, "composite.block=1024")
    three = replace(config, archive=replace(config.archive, years=(2018, 2019, 2020)))
    items = [esa_acquisition(month) for month in range(1, 13)]
    grids = [replace(items[0].bands["B02"].grid, height=side, width=side) for side in (1024, 10980)]
    small, large = (Tile("31UFT", grid) for grid in grids)
    peak = peak_memory(config, small, items, 2, 1024)
    assert peak_memory(config, large, items, 2, 1024) == peak
    assert peak_memory(three, large, items, 2, 1024) == peak
    more = items + [esa_acquisition(1, cloud) for cloud in range(20)]
    assert peak_memory(config, large, more, 2, 1024) > peak


def test_blocks_shrink_until_they_fit_the_memory(tmp_path: Path) -> None:
    items = [esa_acquisition(1, cloud) for cloud in range(60)]
    tile = Tile("31UFT", items[0].bands["B02"].grid)
    config = configured(tmp_path, "composite.block=1024", "run.memory_per_rank=1")
    size = work.block_size(config, tile, items, 2)
    assert size < 1024 and size % 64 == 0
    assert peak_memory(config, tile, items, 2, size) <= 2**30


# --- the clearest acquisitions --------------------------------------------------------------------


def test_unknown_cloud_cover_counts_as_cloudy() -> None:
    when = datetime(2018, 1, 1, tzinfo=UTC)
    items = [
        SimpleNamespace(id=name, cloud_cover=cloud, time=when)
        for name, cloud in (("a", None), ("b", 7.0), ("c", 7.0), ("d", 3.0))
    ]
    assert [item.id for item in by_clearness(items)] == ["d", "b", "c", "a"]


@pytest.mark.mpi
@pytest.mark.parametrize("block", [64, 128])
def test_acquisitions_keep_the_clearest_of_each_pixel_with_its_days(
    mpi_tmp_path: Path, block: int
) -> None:
    days = ("20180310", "20180110", "20180601", "20181220")  # clouds grow in this order
    write_products(mpi_tmp_path, days)
    config = configuration.load(mpi_tmp_path / "run.toml", [
        'composite.method="acquisitions"', "composite.count=2", f"composite.block={block}",
        "composite.cloud_buffer=0", f'run.directory="run-{block}"',
    ])  # fmt: skip
    run(config, COMM, lambda *_: None)
    found, tiles, _ = find(config, COMM)
    grid = tiles["32TPS"].grid
    taken = np.zeros((grid.height, grid.width), int)
    expected_day = np.zeros((2, grid.height, grid.width), int)
    values = np.zeros((2, 5, grid.height, grid.width), int)
    for item in sorted(found["32TPS"], key=lambda item: item.cloud_cover):
        bands = np.stack([
            read_band(item, band, grid.whole, grid) for band in config.composite.bands
        ])  # fmt: skip
        scl = safe_writer.numbers("SCL", days.index(f"{item.time:%Y%m%d}"))
        clear = ~np.isin(scl, (0, 9)).repeat(2, 0).repeat(2, 1) & (bands > 0).all(0) & (taken < 2)
        y, x = np.nonzero(clear)
        values[taken[y, x], :, y, x] = bands[:, y, x].T
        expected_day[taken[y, x], y, x] = day_number(item.time)
        taken += clear
    order = np.argsort(np.where(expected_day == 0, 10**6, expected_day), axis=0, kind="stable")
    expected_day = np.take_along_axis(expected_day, order, 0)
    values = np.take_along_axis(values, order[:, np.newaxis], 0)
    with h5py.File(config.directory / "composites" / "32TPS.h5") as file:
        np.testing.assert_array_equal(file["day"][()], expected_day)
        np.testing.assert_array_equal(file["reflectance"][()], values)
        np.testing.assert_array_equal(file["clear_count"][()], expected_day > 0)
