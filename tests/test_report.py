"""The report in a real browser, without a network; and what stands in it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from lcu import legend, usage
from lcu.grid import Grid, Tile
from lcu.publish import report, views, vision
from tests.test_publish import WIDE, World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LEGEND = legend.load("corine-12")


def grid_of(height, width):
    return Grid("EPSG:32631", (500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0), height, width)


# --- images ---------------------------------------------------------------------------------------


def test_a_page_holds_a_bounded_number_of_pixels():
    demo = [Tile(name, grid_of(768, 768)) for name in ("A", "B")]
    assert views.stride_of(demo, 13) == 1
    country = [Tile(str(name), grid_of(10980, 10980)) for name in range(10)]
    stride = views.stride_of(country, 13)
    assert 13 * 10 * (10980 / stride) ** 2 <= views.PIXELS
    assert 13 * 10 * (10980 / (stride - 1)) ** 2 > views.PIXELS


def test_means_leave_nodata_out():
    values = np.array([[10, 255, 255, 255, 7], [21, 30, 255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(views.average(values, 2, 255), [[20, 255, 7]])


@pytest.mark.parametrize("size", [35, 70, 140])
def test_an_image_does_not_depend_on_the_blocks(size):
    values = np.random.default_rng(4).integers(0, 101, (700, 660)).astype(np.uint8)
    values[:90, 20:60] = 255
    grid = grid_of(700, 660)
    blocks = [(block, values[block.slices]) for block in grid.blocks(size)]
    whole = [(block, values[block.slices]) for block in grid.blocks(700)]
    found = views.shrink_confidence(blocks, grid, 7)
    np.testing.assert_array_equal(found, views.shrink_confidence(whole, grid, 7))
    assert set(np.unique(found)) <= {*range(0, 101, views.STEP), 255}


# --- colours --------------------------------------------------------------------------------------


def test_lab_of_known_colours():
    # sRGB red and white in CIE L*a*b* under D65, from the definition of sRGB.
    red, white = vision.lab(vision.linear(np.array([[255, 0, 0], [255, 255, 255]])))
    np.testing.assert_allclose(red, [53.24, 80.09, 67.20], atol=0.02)
    np.testing.assert_allclose(white, [100, 0, 0], atol=0.02)


def test_grey_stays_grey_without_green_sensitive_cones():
    np.testing.assert_allclose(vision.DEUTERANOPIA.sum(axis=1), 1, atol=1e-5)


def test_classes_that_look_alike_are_named_and_hatched_apart():
    pairs = {(one, other) for one, other, _, _ in vision.close_pairs(LEGEND)}
    assert ("Not irrigated crops", "Annual crops") in pairs
    assert ("Grass", "Broadleaves") in pairs
    assert not any("Urban" in pair for pair in pairs)
    hatched = dict(zip(LEGEND.names, vision.patterns(LEGEND), strict=True))
    assert all(hatched[one] != hatched[other] for one, other in pairs)


# --- what stages used -----------------------------------------------------------------------------


def test_what_a_stage_used_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    begun = usage.mark()
    (tmp_path / "bytes").write_bytes(bytes(3_000_000))
    (tmp_path / "bytes").read_bytes()
    used = usage.since(begun, MPI.COMM_SELF)
    assert 3_000_000 <= used["written"] < 4_000_000
    assert 3_000_000 <= used["read"] < 4_000_000
    assert used["peak_memory"] > 20e6
    assert (used["ranks"], used["threads"]) == (1, 3)
    assert used["core_hours"] == pytest.approx(used["seconds"] * 3 / 3600, abs=1e-4)


def test_bytes_that_are_not_counted_are_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "COUNTERS", tmp_path / "nothing")
    used = usage.since(usage.mark(), MPI.COMM_SELF)
    assert used["read"] is None and used["written"] is None
    assert report.amount(None) == "not counted"


@pytest.mark.mpi
def test_what_all_ranks_used_is_added_up():
    comm = MPI.COMM_WORLD
    used = usage.since(usage.mark(), comm)
    assert used["ranks"] == comm.size
    assert len(set(comm.allgather(used["peak_memory"]))) == 1


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a world whose first year changed into the second, and its report."""
    world = World(tmp_path_factory.mktemp("report"))
    config = world.config()
    folder = config.directory / "assessment"
    folder.mkdir(parents=True)
    (folder / "transitions_2012-2019.csv").write_text("from,Urban,Lake\nUrban,3.5,0\nLake,,1234\n")
    pair = {"from": 2018, "to": 2019, "agreement": 0.0625, "changed": 0.9375}
    found = {"precision": 0.2222, "recall": 0.3333, "f1": 0.2667}
    pairs = [pair | {"accuracy": {"2018": 0.7777, "2019": 0.8888}, "change": found}]
    since = [
        {"from": 2012, "to": 2018, "agreement": 0.5, "changed": 0.5, "change": None,
         "change_reference": "none of 2012", "accuracy": {"2018": 0.7777, "old_map": 0.6666}}
    ]  # fmt: skip
    told = {"pairs": pairs, "old_map": {"year": 2012, "pairs": since}}
    (folder / "consistency.json").write_text(json.dumps(told))
    used = {"seconds": 4.0, "ranks": 2, "threads": 1, "core_hours": 0.0022, "peak_memory": 3 * 2**20,
            "read": 5 * 2**30, "written": None}  # fmt: skip
    paths, failures = world.run(config, provenance={"stages": {"classify": used}})
    assert failures == []
    return world, Path(paths[-1])


def test_tables_of_the_assessment_and_costs_stand_in_the_page(published):
    page = published[1].read_text(encoding="utf-8")
    assert "From 2012 to 2019" in page and "1,234" in page
    assert ">0.062<" in page and ">0.938<" in page


def test_agreement_never_stands_without_accuracy_and_the_changes_found(published):
    page = published[1].read_text(encoding="utf-8")
    row = page[page.index(">0.062<") :].split("</tr>")[0]
    assert all(f">{figure}<" in row for figure in ("0.778", "0.889", "0.222", "0.333", "0.267"))
    row = page[page.index("<td>old map of 2012") :].split("</tr>")[0]
    assert "no reference of change: none of 2012" in row
    assert row.index("0.667") < row.index("0.778")  # the old map's own comes first
    assert "5.00 GiB" in page and "3.00 MiB" in page and "not counted" in page
    assert f">{WIDE * WIDE * 2 / 4:,.0f}<" in page  # pixels of both years in a second


def test_sections_without_content_say_why(published):
    page = published[1].read_text(encoding="utf-8")
    for text in (
        "nothing says how accurate they are",
        "No samples were drawn in this run",
        "No network was trained in this run (model svm)",
        "None: every unit of work was done",
        "an interval needs sample points",
    ):
        assert text in page


def test_the_licence_of_the_viewer_is_in_the_page(published):
    page = published[1].read_text(encoding="utf-8")
    assert "Vladimir Agafonkin" in page
    assert "Redistributions in binary form must reproduce the above copyright notice" in page


def test_a_missing_viewer_ends_the_stage_before_anything_is_written(tmp_path, monkeypatch):
    world = World(tmp_path)
    monkeypatch.setitem(sys.modules, "xstatic.pkg", None)
    with pytest.raises(RuntimeError, match="XStatic-Leaflet"):
        world.run(world.config())
    assert not (world.folder / "first" / "maps").exists()


def pixel(page, x, y):
    """Return red, green, blue of the map at a share of its width and height, without what lies on it."""
    return page.evaluate(
        """([fx, fy]) => {
          const box = document.getElementById("map").getBoundingClientRect();
          const x = box.left + fx * box.width, y = box.top + fy * box.height;
          const side = Number(document.getElementById("divider").getAttribute("aria-valuenow")) / 100;
          const pane = document.querySelector(fx < side ? ".leaflet-left-pane" : ".leaflet-right-pane");
          for (const tile of pane.querySelectorAll("canvas")) {
            const at = tile.getBoundingClientRect();
            if (x < at.left || x >= at.right || y < at.top || y >= at.bottom) continue;
            const scale = 256 / at.width;
            const found = tile.getContext("2d").getImageData((x - at.left) * scale, (y - at.top) * scale, 1, 1);
            return Array.from(found.data.slice(0, 3));
          }
          return null;
        }""",
        [x, y],
    )


def place(page, x, y):
    """Return the row and column that the page says to be under the pointer, after moving it there."""
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_selector("#pixel table")
    page.wait_for_timeout(150)
    row, col = page.locator("#pixel > div").inner_text().replace(",", "").split()[1::2]
    return int(row), int(col)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1440, 390])
def test_the_viewer_works_in_a_browser_without_a_network(published, width):
    sync = pytest.importorskip("playwright.sync_api")
    world, path = published
    said, asked = [], []
    with sync.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#map canvas")
        page.locator("#viewer").scroll_into_view_if_needed()
        page.wait_for_timeout(500)

        # No page is wider than its window.
        wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window

        # The pixel under the pointer is named, and its colour is that of the newest map.
        x, y = 0.62, 0.31
        row, col = place(page, x, y)
        value = world.map[2019][row, col]
        assert pixel(page, x, y) == list(LEGEND.classes[value - 1].rgb)
        names = page.locator("#pixel td:nth-child(2)").all_inner_texts()
        years = (world.map[2018], world.map[2018], world.map[2019])  # the first is the old map
        assert [name.strip() for name in names] == [LEGEND.names[of[row, col] - 1] for of in years]

        # The slider goes from year to year, to the old map.
        page.locator("#years").focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(300)
        assert page.locator("#right-end").inner_text() == "Map 2018"
        assert pixel(page, x, y) == list(LEGEND.classes[world.map[2018][row, col] - 1].rgb)
        page.keyboard.press("ArrowLeft")
        assert page.locator("#right-end").inner_text() == "Old map 2012"
        page.keyboard.press("End")
        page.wait_for_timeout(300)

        # The divider moves: what was right of it is left of it.
        box, grip = page.locator("#map").bounding_box(), page.locator("#divider").bounding_box()
        page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()
        assert page.locator("#divider").get_attribute("aria-valuenow") == "80"
        assert pixel(page, x, y) == list(LEGEND.classes[world.map[2018][row, col] - 1].rgb)
        clip = page.evaluate("document.querySelector('.leaflet-left-pane').style.clip")
        assert clip.startswith("rect(")
        page.locator("#divider").focus()
        for _ in range(8):
            page.keyboard.press("ArrowLeft")
        assert page.locator("#divider").get_attribute("aria-valuenow") == "40"

        # Layers switch, and have a key.
        expected = report.colours(LEGEND, 112)
        page.click("#layers button[value=confidence]")
        page.wait_for_timeout(300)
        step = int(value) * 5 // views.STEP * views.STEP
        assert pixel(page, x, y) == expected["confidence"][step]
        assert page.locator("#ramp-name").inner_text() == "Confidence, percent"
        page.click("#layers button[value=observations]")
        page.wait_for_timeout(300)
        assert page.locator("#right-end").inner_text() == "Clear observations 2019"
        page.click("#layers button[value=change]")
        page.wait_for_timeout(300)
        assert page.locator("#right-end").inner_text() == "Changed to, in 2019"
        page.click("#layers button[value=classes]")

        # A class is shown alone, and again with the others.
        button = page.locator(f"#legend button[value='{value % 12 + 1}']")
        button.click()
        page.wait_for_timeout(300)
        assert pixel(page, x, y) != list(LEGEND.classes[value - 1].rgb)
        button.click()

        # Zoom shows the same pixels larger.
        for _ in range(6):
            page.click(".leaflet-control-zoom-in")
        page.wait_for_timeout(400)
        row, col = place(page, x, y)
        value = world.map[2019][row, col]
        assert pixel(page, x, y) == list(LEGEND.classes[value - 1].rgb)
        browser.close()
    assert said == []
    assert asked and all(url == path.as_uri() or url.startswith("data:") for url in asked)
