"""Blocks of bands: values, grids, zips, and files that are damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcu.acquisition import AcquisitionError, close_all, harmonise, read_band, read_mask, safe
from lcu.acquisition.alignment import aligned
from lcu.grid import Block, Grid
from tests import safe_writer as writer

ALL = set(writer.RESOLUTIONS)


@pytest.fixture(autouse=True)
def _closed():
    close_all()
    yield
    close_all()


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    return writer.write_safe(tmp_path_factory.mktemp("safe"), baseline="02.12")


def acquisition(path: Path):
    return safe.parse(safe.products(str(path))[0], ALL).acquisition


def test_old_baseline_has_no_offset_and_new_baseline_has_its_own(tmp_path):
    old = acquisition(writer.write_safe(tmp_path, baseline="02.12"))
    new = acquisition(writer.write_safe(tmp_path, baseline="05.09", offset=-1000))
    grid = old.bands["B02"].grid
    truth = writer.numbers("B02").astype(int)
    assert (read_band(old, "B02", grid.whole, grid) == truth).all()
    shifted = np.where(truth == 0, 0, np.clip(truth - 1000, 1, 65535))
    assert (read_band(new, "B02", grid.whole, grid) == shifted).all()


def test_offsets_are_read_for_each_band(tmp_path):
    path = writer.write_safe(tmp_path, baseline="05.09", offset=-1000)
    text = (path / "MTD_MSIL2A.xml").read_text().replace('band_id="1">-1000', 'band_id="1">-900')
    (path / "MTD_MSIL2A.xml").write_text(text)
    bands = acquisition(path).bands
    assert (bands["B02"].offset, bands["B04"].offset) == pytest.approx((-0.09, -0.1))


def test_bands_of_10_20_and_60_m_come_out_on_one_grid(product):
    entry = acquisition(product)
    grid = entry.bands["B02"].grid
    for band, times in (("B02", 1), ("B05", 2), ("B01", 6)):
        wide = writer.numbers(band).repeat(times, 0).repeat(times, 1)[: grid.height, : grid.width]
        for block in (grid.whole, Block(13, 57, 31, 71), Block(127, 127, 1, 1)):
            found = read_band(entry, band, block, grid)
            assert found.dtype == np.uint16
            assert (found == wide[block.slices]).all()
    mask = writer.numbers("SCL").repeat(2, 0).repeat(2, 1)
    found = read_mask(entry, grid.whole, grid)
    assert found.dtype == np.uint8
    assert (found == mask).all()


def test_mask_is_read_on_a_coarser_grid(product):
    entry = acquisition(product)
    grid = entry.bands["B01"].grid
    rows = np.minimum(np.arange(grid.height) * 3 + 1, 63)
    assert (read_mask(entry, grid.whole, grid) == writer.numbers("SCL")[np.ix_(rows, rows)]).all()


def test_zip_is_read_in_place(tmp_path):
    path = writer.zip_safe(writer.write_safe(tmp_path))
    entry = acquisition(path)
    grid = entry.bands["B02"].grid
    assert list(tmp_path.iterdir()) == [path]
    assert entry.bands["B02"].path.startswith("/vsizip/")
    assert (read_band(entry, "B02", grid.whole, grid) == writer.numbers("B02")).all()
    assert read_mask(entry, grid.whole, grid).max() == 11


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_truncated_jp2_is_named(tmp_path, share):
    path = writer.write_safe(tmp_path, bands=("B02",))
    file = writer.images(path, "B02")
    writer.cut(file, share)
    entry = acquisition(path)
    grid = entry.bands["B02"].grid
    for block in (Block(0, 0, 8, 8), grid.whole):
        with pytest.raises(AcquisitionError, match=file.name):
            read_band(entry, "B02", block, grid)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_jp2_with_an_empty_tail_is_named(tmp_path, share):
    path = writer.write_safe(tmp_path, bands=("B02",))
    file = writer.images(path, "B02")
    content = file.read_bytes()
    start = int(len(content) * share)
    file.write_bytes(content[:start] + bytes(len(content) - start))
    entry = acquisition(path)
    with pytest.raises(AcquisitionError, match="end of codestream"):
        read_band(entry, "B02", Block(0, 0, 8, 8), entry.bands["B02"].grid)


def test_zip_of_a_truncated_jp2_is_named(tmp_path):
    path = writer.write_safe(tmp_path, bands=("B02",))
    writer.cut(writer.images(path, "B02"), 0.6)
    entry = acquisition(writer.zip_safe(path))
    with pytest.raises(AcquisitionError, match="B02.*cut off"):
        read_band(entry, "B02", Block(0, 0, 8, 8), entry.bands["B02"].grid)


def test_damaged_zip_is_named(tmp_path):
    path = writer.zip_safe(writer.write_safe(tmp_path, bands=("B02",)))
    content = bytearray(path.read_bytes())
    entry = acquisition(path)
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(AcquisitionError, match="B02"):
        read_band(entry, "B02", entry.bands["B02"].grid.whole, entry.bands["B02"].grid)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_tiff_is_named(tmp_path, product, share):
    file = tmp_path / "B02.tif"
    writer.write_raster(file, writer.numbers("B02"), 10)
    writer.cut(file, share)
    entry = acquisition(product)
    entry = replace(entry, bands={"B02": replace(entry.bands["B02"], path=str(file))})
    with pytest.raises(AcquisitionError, match="B02.tif"):
        read_band(entry, "B02", Block(0, 0, 8, 8), entry.bands["B02"].grid)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"<html>not found</html>", b"\0\0\0\x04jP  "]
)
@pytest.mark.parametrize("name", ["B02.jp2", "B02.tif"])
def test_what_is_no_raster_is_named(tmp_path, product, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    entry = acquisition(product)
    entry = replace(entry, bands={"B02": replace(entry.bands["B02"], path=str(file))})
    with pytest.raises(AcquisitionError, match=name):
        read_band(entry, "B02", Block(0, 0, 8, 8), entry.bands["B02"].grid)


def test_missing_file_and_missing_band_are_named(tmp_path):
    path = writer.write_safe(tmp_path, bands=("B02",))
    entry = acquisition(path)
    grid = entry.bands["B02"].grid
    writer.images(path, "B02").unlink()
    with pytest.raises(AcquisitionError, match="no such file"):
        read_band(entry, "B02", grid.whole, grid)
    with pytest.raises(AcquisitionError, match="no band B11; it has B02"):
        read_band(entry, "B11", grid.whole, grid)
    with pytest.raises(AcquisitionError, match='composite.mask = "none"'):
        read_mask(entry, grid.whole, grid)


def test_file_on_another_grid_than_its_metadata_is_named(tmp_path):
    path = writer.write_safe(tmp_path, bands=("B02",))
    file = writer.images(path, "B02")
    writer.write_raster(file, writer.numbers("B02"), 10, corner=(600010.0, 5200020.0))
    entry = acquisition(path)
    with pytest.raises(AcquisitionError, match="600010.*metadata state.*600000"):
        read_band(entry, "B02", Block(0, 0, 8, 8), entry.bands["B02"].grid)


def test_grid_of_another_tile_is_named(product):
    entry = acquisition(product)
    with pytest.raises(AcquisitionError, match="its tile on"):
        read_band(
            entry,
            "B02",
            Block(0, 0, 8, 8),
            Grid("EPSG:32633", entry.bands["B02"].grid.transform, 128, 128),
        )


def test_block_outside_the_grid_is_a_programming_error(product):
    entry = acquisition(product)
    with pytest.raises(ValueError, match="not inside"):
        read_band(entry, "B02", Block(120, 0, 16, 16), entry.bands["B02"].grid)


def test_reading_does_not_depend_on_the_blocks(product):
    entry = acquisition(product)
    grid = entry.bands["B02"].grid
    for band in ("B01", "B02", "B05"):
        whole = read_band(entry, band, grid.whole, grid)
        pieced = np.zeros_like(whole)
        for block in grid.blocks(50):
            pieced[block.slices] = read_band(entry, band, block, grid)
        assert (whole == pieced).all()


def test_more_bands_than_datasets_stay_open(tmp_path, product, monkeypatch):
    monkeypatch.setattr("lcu.acquisition.rasters.OPEN_DATASETS", 2)
    entry = acquisition(product)
    grid = entry.bands["B02"].grid
    for _ in range(2):
        for band in sorted(entry.bands):
            read_band(entry, band, Block(0, 0, 8, 8), grid)
    from lcu.acquisition import rasters

    assert len(rasters._open) == 2


@settings(derandomize=True, deadline=None, database=None)
@given(
    st.lists(st.integers(0, 65535), min_size=1, max_size=50),
    st.sampled_from([0, -1000, -987, 1000]),
)
def test_harmonised_values_are_exact(values, shift):
    numbers = np.array(values, dtype=np.uint16)
    expected = [0 if value == 0 else min(max(value + shift, 1), 65535) for value in values]
    assert harmonise(numbers, 1e-4, shift * 1e-4, 0).tolist() == expected


@settings(derandomize=True, deadline=None, database=None)
@given(
    st.lists(st.integers(0, 65535), min_size=1, max_size=50),
    st.sampled_from([1e-3, 2e-5, 1 / 10001]),
)
def test_other_scales_round_to_the_nearest(values, scale):
    numbers = np.array(values, dtype=np.uint16)
    expected = [
        0 if v == 0 else min(max(int(10000 * (v * scale - 0.01) + 0.5), 1), 65535) for v in values
    ]
    assert np.abs(harmonise(numbers, scale, -0.01, 0).astype(int) - expected).max() <= 0


def test_reflectance_in_floats_is_harmonised():
    found = harmonise(
        np.array([np.nan, -9999, 0.25, -0.1, 9.0, np.inf], dtype=np.float32), 1.0, 0.0, -9999
    )
    assert found.tolist() == [0, 0, 2500, 1, 65535, 0]


def test_grids_of_different_pixels_are_aligned_when_they_share_their_corner():
    ten = Grid("EPSG:32631", (0.0, 10.0, 0.0, 640.0, 0.0, -10.0), 64, 64)
    sixty = Grid("EPSG:32631", (0.0, 60.0, 0.0, 640.0, 0.0, -60.0), 11, 11)
    assert aligned(ten, sixty)
    assert aligned(sixty, ten)
    for wrong in (
        replace(sixty, height=12),
        replace(sixty, width=10),
        replace(sixty, crs="EPSG:32632"),
        replace(sixty, transform=(10.0, 60.0, 0.0, 640.0, 0.0, -60.0)),
        replace(ten, width=65),
    ):
        assert not aligned(ten, wrong)
