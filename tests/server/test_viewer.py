"""Looking at cells, fields and slides: a real server, a real Chromium, keys, wheel and fingers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leukoscope.server.settings import Serving
from tests.server.conftest import cell_picture
from tests.server.test_browser import DESK, House, browser, expect_label, opened, tile, wait_for_cells

assert browser  # the fixture
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
pytestmark = pytest.mark.xdist_group("browser")
expect = playwright.expect
CELLS = 30
IN_SIGHT = """() => { const box = document.querySelector(".tile.chosen").getBoundingClientRect();
  return box.top >= 0 && box.bottom <= innerHeight; }"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, bundle: Path, browser: Any) -> Iterator[House]:
    """A laboratory with a reviewer."""
    settings = Serving(data=tmp_path_factory.mktemp("house") / "room", model=bundle)
    with opened(settings, browser, people={"rita": "reviewer"}) as found:
        yield found


@pytest.fixture(scope="module")
def rita(house: House) -> Any:
    """A reviewer at her desk."""
    return house.visitor("rita", viewport=DESK)


def new_case(page: Any, files: dict[str, bytes], cells: int) -> str:
    """Make a case of files and wait for its cells; return its path."""
    page.goto("/")
    page.locator("#files").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files.items()]
    )
    page.wait_for_url("**/cases/*")
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


def test_wheel_and_keys_bring_the_large_cell_nearer_and_v_shows_what_the_model_saw(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    tile(rita, 0).click()
    picture, sight, stage = (rita.locator(each) for each in ("#stage img.cell", "#stage .sight", "#stage"))
    before = picture.bounding_box()["width"]
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
