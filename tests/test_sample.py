"""The old map on any grid, which pixels may be drawn, and how they are dealt out."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI
from osgeo import gdal, ogr, osr

from lcu.config import Sample
from lcu.grid import Block, Grid, Tile
from lcu.sample import Candidates, OldMap, OldMapError, assign_splits, core_pixels, draw, priority
from lcu.sample.clean import spread
from lcu.sample.draw import allocate, cap_polygons, reading_order
from lcu.sample.stage import sample_weights

GRID = Grid("EPSG:32631", (500000.0, 10.0, 0.0, 5600000.0, 0.0, -10.0), 60, 80)
TILE = Tile("31UFT", GRID)


def write_raster(
    path: Path, codes: np.ndarray, crs: int, origin: tuple[float, float], step: float
) -> None:
    """Write an integer raster."""
    dataset = gdal.GetDriverByName("GTiff").Create(
        str(path), codes.shape[1], codes.shape[0], 1, gdal.GDT_Int16
    )
    dataset.SetGeoTransform((origin[0], step, 0, origin[1], 0, -step))
    system = osr.SpatialReference()
    system.ImportFromEPSG(crs)
    dataset.SetSpatialRef(system)
    dataset.GetRasterBand(1).WriteArray(codes)


def raster_map(folder: Path, shift: float = 0) -> Sample:
    """Return the configuration of an old map of 100 m cells on the tile: columns of codes."""
    codes = np.tile(np.array([111, 111, 211, 311, 311, 211, 512, 512], np.int16), (6, 1))
    codes[0, 0] = 211
    write_raster(folder / "old.tif", codes, 32631, (500000 + shift, 5600000), 100)
    return Sample(old_map=str(folder / "old.tif"), old_map_year=2018)


def test_a_raster_map_is_read_by_nearest_neighbour_whatever_the_block(tmp_path: Path) -> None:
    old = OldMap(raster_map(tmp_path), [TILE])
    codes, polygons = old.read("31UFT", GRID)
    assert codes[30, ::10].tolist() == [111, 111, 211, 311, 311, 211, 512, 512]
    assert len(np.unique(polygons)) == 6 and (polygons > 0).all()
    assert polygons[30, 25] != polygons[30, 55]  # the same code, not connected
    for block in GRID.blocks(17):
        part, numbers = old.read("31UFT", GRID.part(block))
        np.testing.assert_array_equal(part, codes[block.slices])
        np.testing.assert_array_equal(numbers, polygons[block.slices])


def test_a_polygon_has_one_number_in_overlapping_tiles(tmp_path: Path) -> None:
    other = Tile("31UGT", GRID.part(Block(0, 30, 60, 50)))
    old = OldMap(raster_map(tmp_path), [TILE, other])
    whole, part = old.read("31UFT", GRID)[1], old.read("31UGT", other.grid)[1]
    np.testing.assert_array_equal(part, whole[:, 30:])


def test_a_raster_map_in_another_crs_lands_in_the_right_place(tmp_path: Path) -> None:
    inverse = osr.CoordinateTransformation(_system(32631), _system(3035))
    x, y, _ = inverse.TransformPoint(500400, 5599700)
    codes = np.full((40, 40), 211, np.int16)
    column, row = (
        int((x - (x // 100 * 100 - 2000)) // 100),
        int(((y // 100 * 100 + 2000) - y) // 100),
    )
    codes[row, column] = 512
    write_raster(
        tmp_path / "old.tif", codes, 3035, (x // 100 * 100 - 2000, y // 100 * 100 + 2000), 100
    )
    read, _ = OldMap(Sample(old_map=str(tmp_path / "old.tif"), old_map_year=2018), [TILE]).read(
        "31UFT", GRID
    )
    assert read[30, 40] == 512 and 60 < (read == 512).sum() < 140


def _system(code: int) -> osr.SpatialReference:
    system = osr.SpatialReference()
    system.ImportFromEPSG(code)
    system.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return system


def test_a_vector_map_is_burnt_by_its_features(tmp_path: Path) -> None:
    path = tmp_path / "old.gpkg"
    source = ogr.GetDriverByName("GPKG").CreateDataSource(str(path))
    layer = source.CreateLayer("clc", _system(32631), ogr.wkbPolygon)
    layer.CreateField(ogr.FieldDefn("Code_18", ogr.OFTString))
    for code, left, right in (("111", 500000, 500300), ("512", 500300, 500600)):
        feature = ogr.Feature(layer.GetLayerDefn())
        feature.SetField("Code_18", code)
        corners = (
            f"{left} 5599000, {right} 5599000, {right} 5600000, {left} 5600000, {left} 5599000"
        )
        feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POLYGON(({corners}))"))
        layer.CreateFeature(feature)
    del layer, source
    old = OldMap(Sample(old_map=str(path), old_map_year=2018), [TILE])
    codes, polygons = old.read("31UFT", GRID)
    assert [codes[5, column] for column in (0, 29, 30, 59, 60)] == [111, 111, 512, 512, 0]
    assert polygons[5, 60] == 0 and len(np.unique(polygons)) == 3
    with pytest.raises(OldMapError, match=r"no field 'CODE'.*Code_18.*sample.attribute"):
        OldMap(Sample(old_map=str(path), old_map_year=2018, attribute="CODE"), [TILE])


def test_an_old_map_that_does_not_overlap_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OldMapError, match=r"old.tif does not overlap a tile.*sample.old_map"):
        OldMap(raster_map(tmp_path, shift=5000), [TILE])
    with pytest.raises(OldMapError, match="no such file"):
        OldMap(Sample(old_map=str(tmp_path / "none.tif"), old_map_year=2018), [TILE])
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    with pytest.raises(OldMapError, match=r"broken.tif cannot be opened"):
        OldMap(Sample(old_map=str(tmp_path / "broken.tif"), old_map_year=2018), [TILE])


def test_each_tile_may_have_a_map_of_its_own(tmp_path: Path) -> None:
    raster_map(tmp_path)
    (tmp_path / "old.tif").rename(tmp_path / "old_31UFT.tif")
    (tmp_path / "old_31UGT.tif").write_bytes((tmp_path / "old_31UFT.tif").read_bytes())
    config = Sample(old_map=str(tmp_path / "old_{tile}.tif"), old_map_year=2018)
    old = OldMap(config, [TILE, Tile("31UGT", GRID)])
    assert not set(np.unique(old.read("31UFT", GRID)[1])) & set(
        np.unique(old.read("31UGT", GRID)[1])
    )


def test_borders_are_eroded_by_the_distance_asked_for() -> None:
    values = np.ones((20, 30), np.uint8)
    values[:, 15:] = 2
    values[:, 28:] = 255
    core = core_pixels(values, 2)
    assert core[0].nonzero()[0].tolist() == [*range(0, 13), *range(17, 26)]
    assert core_pixels(values, 0).sum() == 20 * 28


def candidates(seed: int, count: int) -> Candidates:
    """Return random candidates with distinct places."""
    random = np.random.default_rng(seed)
    place = random.permutation(10000)[:count]
    polygon = random.integers(1, 12, count)
    row, col = (place // 100).astype(np.int32), (place % 100).astype(np.int32)
    return Candidates(
        priority(seed, "31UFT", row, col),
        (polygon % 3).astype(np.uint8),
        np.zeros(count, np.uint16),
        row,
        col,
        polygon,
        np.full(count, 16, np.uint8),
        np.full(count, -1, np.int32),
    )


@given(
    st.integers(0, 99),
    st.integers(0, 400),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, 9),
)
def test_the_draw_ignores_the_order_and_keeps_within_its_limits(
    seed: int, count: int, per_class: int, per_polygon: int, shuffle: int
) -> None:
    found = candidates(seed, count)
    areas = np.bincount(found.index, minlength=12) * 3
    drawn = draw(found, areas, per_class, per_polygon)
    mixed = found.take(np.random.default_rng(shuffle).permutation(count))
    again = draw(mixed, areas, per_class, per_polygon)
    for name in ("key", "row", "col", "polygon"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))
    present = len(np.unique(found.index))
    assert len(drawn) <= present * max(per_class, 1)
    assert np.bincount(drawn.polygon, minlength=1).max() <= per_polygon
    if per_class >= count and per_polygon >= count:
        assert len(drawn) == count


def test_drawing_part_by_part_gives_the_same_as_all_at_once() -> None:
    found = candidates(3, 300)
    areas = np.bincount(found.index, minlength=12)
    parts = [cap_polygons(found.take(np.arange(start, 300, 4)), 7) for start in range(4)]
    at_once, joined = draw(found, areas, 20, 7), draw(Candidates.join(parts), areas, 20, 7)
    np.testing.assert_array_equal(at_once.key, joined.key)


def test_large_classes_have_more_samples_and_small_classes_and_clusters_some() -> None:
    generator = np.random.default_rng(1)
    found = candidates(1, 20000)
    count = len(found)
    index = generator.choice(3, count, p=[0.9, 0.09, 0.01]).astype(np.uint8)
    cluster = np.where(generator.random(count) < 0.02, 1, 0).astype(np.int32)
    found = replace(found, index=index, cluster=cluster, polygon=np.arange(count))
    drawn = draw(found, np.bincount(index), 200, 10)
    numbers = np.bincount(drawn.index)
    assert len(drawn) == 600 and numbers[0] > 5 * numbers[1]
    assert numbers[2] == min(50, np.sum(index == 2))
    rare = np.bincount(drawn.index[drawn.cluster == 1])
    assert rare[0] == numbers[0] // 8


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=12),
    st.integers(0, 20000),
    st.integers(0, 500),
)
def test_allocation_is_within_bounds_and_complete(groups, total: int, floor: int) -> None:
    shares, room = np.array(groups).T
    room = np.where(shares > 0, room, 0)
    numbers = allocate(shares, room, total, floor)
    least = np.minimum(room, floor)
    assert (numbers >= least).all() and (numbers <= room).all()
    assert numbers.sum() == max(min(total, room.sum()), least.sum())


def test_priorities_differ_between_tiles_and_seeds() -> None:
    rows, cols = np.mgrid[:50, :50]
    keys = [
        priority(seed, tile, rows, cols).ravel()
        for seed, tile in ((1, "31UFT"), (2, "31UFT"), (1, "31UFU"))
    ]
    assert len(np.unique(np.concatenate(keys))) == 7500
    assert abs(np.corrcoef(keys[0].astype(float), keys[1].astype(float))[0, 1]) < 0.05


@given(st.integers(0, 50), st.integers(1, 300))
def test_a_training_polygon_is_never_a_test_polygon(seed: int, count: int) -> None:
    found = candidates(seed, count)
    split = assign_splits(found.index, found.polygon, seed)
    for polygon in np.unique(found.polygon):
        assert len(np.unique(split[found.polygon == polygon])) == 1
    for index in np.unique(found.index):
        assert (split[found.index == index] == 0).any()


def test_about_a_seventh_of_many_polygons_goes_to_validation_and_to_test() -> None:
    index = np.repeat([0, 1], 5000)
    polygon = np.arange(10000) // 10
    shares = np.bincount(assign_splits(index, polygon, 1)) / 10000
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.01)


def test_weights_stand_for_the_share_of_the_old_map() -> None:
    index = np.array([0, 0, 0, 1], np.uint8)
    weight = sample_weights(index, np.array([100, 300, 500]))
    assert weight.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 3.0])
    assert weight.sum() == pytest.approx(4)


@pytest.mark.mpi
@pytest.mark.parametrize("owner", ["rank 0 has all", "in turn", "in blocks"])
def test_candidates_are_spread_evenly_over_ranks(owner: str) -> None:
    comm = MPI.COMM_WORLD
    total = 1003
    everyone = np.arange(total)
    columns = (
        everyone, everyone % 5, everyone % 3, everyone * 7 % 501, everyone * 13 % 499, everyone // 10,
        everyone % 17, everyone % 2,
    )  # fmt: skip
    everything = Candidates(
        *(
            column.astype(getattr(Candidates.none(), entry.name).dtype)
            for entry, column in zip(fields(Candidates), columns, strict=True)
        )
    )
    owners = {
        "rank 0 has all": np.zeros(total), "in turn": everyone % comm.size,
        "in blocks": everyone * comm.size // total,
    }  # fmt: skip
    own = spread(everything.take(owners[owner] == comm.rank), comm)
    assert total // comm.size <= len(own) <= -(-total // comm.size)
    np.testing.assert_array_equal(reading_order(own), np.arange(len(own)))
    found = Candidates.join(comm.allgather(own))
    found = found.take(np.argsort(found.key))
    for entry in fields(Candidates):
        np.testing.assert_array_equal(getattr(found, entry.name), getattr(everything, entry.name))
