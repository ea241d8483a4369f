"""Looking at cells, fields and slides: a real server, a real Chromium, keys, wheel and fingers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leukoscope.server.settings import RoomSettings
from tests.server.conftest import cell_picture, png
from tests.server.test_browser import DESK, Site, browser, expect_label, opened, tile, violations, wait_for_cells
from tests.server.test_reading import smear
from tests.server.test_slides import write_slide

assert browser  # the fixture
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
pytestmark = pytest.mark.xdist_group("browser")
expect = playwright.expect
CELLS = 30
IN_SIGHT = """() => { const box = document.querySelector(".tile.chosen").getBoundingClientRect();
  return box.top >= 0 && box.bottom <= innerHeight; }"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundle: Path, browser: Any) -> Iterator[Site]:
    """A laboratory with a reviewer."""
    settings = RoomSettings(data=tmp_path_factory.mktemp("site") / "room", model=bundle)
    with opened(settings, browser, people={"rita": "reviewer"}) as found:
        yield found


@pytest.fixture(scope="module")
def rita(site: Site) -> Any:
    """A reviewer at her desk."""
    return site.visitor("rita", viewport=DESK)


def new_case(page: Any, files: dict[str, bytes], cells: int | None) -> str:
    """Make a case of files and wait for its cells; return its path."""
    page.goto("/")
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files.items()]
    )
    page.wait_for_url("**/cases/*")
    if cells is None:
        page.locator("#tile-0 img").first.wait_for()
        page.locator("#work").wait_for(state="hidden")
    else:
        wait_for_cells(page, cells)
    return "/" + page.url.split("/", 3)[3]


@pytest.fixture(scope="module")
def case(rita: Any) -> str:
    """The path of a case of single cells."""
    return new_case(rita, {f"cell-{seed}.png": cell_picture(seed) for seed in range(CELLS)}, CELLS)


def test_space_after_a_press_with_the_mouse_reads_a_cell_and_presses_nothing_again(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    rita.locator("#filters [data-filter=unread]").click()
    decided = rita.locator(".tile[aria-label*='not yet read']:not([aria-label*='unsure']):not([aria-label*='refused'])")
    place = int(decided.first.get_attribute("data-place"))
    tile(rita, place).click()
    rita.locator("#heat-button").click()
    rita.keyboard.press("Space")
    expect_label(rita, place, "read as")
    expect(rita.locator("#heat-button")).to_have_attribute("aria-pressed", "true")
    rita.locator("#undo-button, #verdicts button:has-text('Undo')").first.click()
    expect_label(rita, place, "not yet read")
    assert not rita.faults


def test_the_chosen_cell_stays_in_sight_when_all_become_larger(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    rita.locator("#grid").focus()
    rita.keyboard.press("End")
    for key in ("+", "+", "-", "-", "-", "+"):
        rita.keyboard.press(key)
        assert rita.evaluate(IN_SIGHT)


def settled_width(picture: Any) -> float:
    """Return how wide a picture is once the page around it has come to rest."""
    width = -1.0
    while width != (width := picture.bounding_box()["width"]):
        picture.page.wait_for_timeout(200)
    return width


def test_wheel_and_keys_bring_the_large_cell_nearer_and_v_shows_what_the_model_saw(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    tile(rita, 0).click()
    picture, sight, stage = (rita.locator(each) for each in ("#stage img.cell", "#stage .sight", "#stage"))
    rita.locator("#verdicts .class").first.wait_for()
    before = settled_width(picture)
    stage.hover()
    rita.mouse.wheel(0, -400)
    expect(sight).to_have_attribute("style", re.compile(r"scale\(2\.7"))
    assert picture.bounding_box()["width"] > 2.5 * before
    stage.focus()
    rita.keyboard.press("Escape")
    expect(sight).not_to_have_attribute("style", re.compile("scale"))
    rita.keyboard.press("+")
    expect(sight).to_have_attribute("style", re.compile(r"scale\(1\.35"))
    rita.keyboard.press("Escape")
    rita.keyboard.press("v")
    expect(picture).to_have_attribute("src", re.compile("/crop"))
    rita.locator("#seen-button").click()
    expect(picture).to_have_attribute("src", re.compile("/thumbnail"))
    rita.keyboard.press("h")
    expect(rita.locator("#stage img.heat")).to_be_visible()
    expect(picture).to_have_attribute("src", re.compile("/thumbnail"))
    assert picture.bounding_box()["width"] == before, "a heat map changes no magnification"
    rita.keyboard.press("h")
    assert not rita.faults


def test_a_field_opens_on_its_cell_with_classes_and_scale_and_leads_to_the_next(rita: Any) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    other = np.ascontiguousarray(smear()[::-1])
    new_case(rita, {"a.png": png(smear()), "b.png": png(other)}, None)
    tile(rita, 0).click()
    rita.locator("#grid").focus()
    rita.keyboard.press("f")
    rita.locator("#field-stage .outline.chosen").wait_for(state="attached")
    expect(rita.locator("#field-place")).to_have_text(re.compile(r"[12] of 2"))
    expect(rita.locator("#field-cell")).to_contain_text("Cell")
    assert rita.locator("#field-legend li").count() > 0
    expect(rita.locator(".scale-bar")).to_contain_text("µm")
    seen = [float(each) for each in rita.locator("#field-stage > svg").get_attribute("viewBox").split()]
    assert seen[0] <= 0.5 or seen[1] <= 0.5 or seen[0] + seen[2] <= 640.5, "no more bare ground than the shape asks for"

    rita.keyboard.press("a")
    overlapping = rita.evaluate(OVERLAPPING)
    assert not overlapping, "what is proposed lies on no cell"
    rita.keyboard.press("Escape")
    expect(rita.locator("#field-confirm")).to_be_hidden()
    title = rita.locator("#field-title").inner_text()
    rita.keyboard.press("PageDown" if "1 of" in rita.locator("#field-place").inner_text() else "PageUp")
    expect(rita.locator("#field-title")).not_to_have_text(title)
    rita.keyboard.press(".")
    rita.locator("#field-stage .outline.chosen").wait_for(state="attached")
    assert not violations(rita, {"resultTypes": ["violations"]})
    rita.keyboard.press("f")
    expect(rita.locator("#field")).to_be_hidden()
    assert not rita.faults


OVERLAPPING = """() => { const box = (node) => node.getBBox();
  const drawn = box(document.querySelector("#field-stage .pencil"));
  return [...document.querySelectorAll("#field-stage .outline")].map(box).some((one) =>
    one.x < drawn.x + drawn.width && drawn.x < one.x + one.width &&
    one.y < drawn.y + drawn.height && drawn.y < one.y + one.height); }"""


def test_a_slide_is_opened_and_an_area_of_it_analysed_by_keys(rita: Any, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    pixels = np.full((9000, 12_000, 3), 236, np.uint8)
    field = smear()
    pixels[4260 : 4260 + field.shape[0], 5680 : 5680 + field.shape[1]] = field
    path = write_slide(tmp_path / "smear.tif", pixels, levels=4)
    rita.goto("/")
    rita.locator("#files").set_input_files(path)
    rita.wait_for_url("**/cases/*")
    rita.locator("#slides button").click()
    rita.locator("#field-area").wait_for()
    expect(rita.locator("#field-hint")).to_contain_text("Nothing of this slide has been analysed")
    expect(rita.locator(".scale-bar")).to_contain_text("µm")
    for key in ("+", "+", "+", "+", "+", "+", "+", "+"):
        rita.keyboard.press(key)
    rita.wait_for_timeout(1000)
    rita.keyboard.press("A")
    expect(rita.locator("#field-hint")).to_contain_text("mm")
    rita.keyboard.press("Enter")
    expect(rita.locator("#field-stage .area")).to_have_count(1)
    rita.locator("#field-stage .outline").first.wait_for(state="attached")
    rita.keyboard.press("f")
    expect(rita.locator("#slides")).to_contain_text("1 area")
    assert not rita.faults


def test_training_cells_stand_beside_a_cell_at_its_own_scale(tmp_path: Path, browser: Any) -> None:
    with opened(RoomSettings(data=tmp_path / "room"), browser, people={"rita": "reviewer"}) as site:
        page = site.visitor("rita", viewport=DESK)
        new_case(page, {"cell.png": cell_picture(1)}, 1)
        rows = page.locator("#references-training li")
        expect(rows).to_have_count(6)
        expect(rows.first).to_have_text("This cell")
        expect(page.locator("#references-credit")).to_contain_text("CC BY")
        widths = [
            float(each.replace("%", ""))
            for each in rows.locator("img").evaluate_all("(all) => all.map((each) => each.style.width)")
        ]
        assert widths[1:] == [100] * 5
        assert widths[0] == pytest.approx(100 * 160 * 0.06 / 20), "160 pixels of C-NMC's scale in a frame of 20 µm"
        assert not page.faults
