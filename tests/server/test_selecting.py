"""Several cells at once as people select them, by mouse, keys and fingers; outlines that merge and split."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leukoscope.server.settings import RoomSettings
from tests.server.conftest import cell_picture, png
from tests.server.test_browser import (
    DESK,
    PHONE,
    Site,
    browser,
    expect_label,
    opened,
    tile,
    violations,
    wait_for_cells,
)
from tests.server.test_reading import smear
from tests.server.test_viewer import new_case

assert browser  # the fixture
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
pytestmark = pytest.mark.xdist_group("browser")
expect = playwright.expect
CELLS = 9


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundle: Path, browser: Any) -> Iterator[Site]:
    """A laboratory with a reviewer and a reader."""
    settings = RoomSettings(data=tmp_path_factory.mktemp("site") / "room", model=bundle)
    with opened(settings, browser, people={"rita": "reviewer", "ron": "reader"}) as found:
        yield found


@pytest.fixture(scope="module")
def rita(site: Site) -> Any:
    """A reviewer at her desk."""
    return site.visitor("rita", viewport=DESK)


@pytest.fixture(scope="module")
def case(rita: Any) -> str:
    """The path of a case of single cells."""
    return new_case(rita, {f"cell-{seed}.png": cell_picture(seed) for seed in range(CELLS)}, CELLS)


@pytest.fixture
def wall(rita: Any, case: str) -> Iterator[Any]:
    """The wall of the case, in the order of numbers; whatever a test says there is taken back."""
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    rita.locator("#order").select_option("number")
    expect(rita.locator("#wall-words")).to_contain_text("as they came")
    rita.locator("#grid").focus()
    rita.keyboard.press("Home")
    yield rita
    while rita.locator(".tile.read").count():
        before = rita.locator(".tile.read").count()
        rita.keyboard.press("z")
        expect(rita.locator(".tile.read")).not_to_have_count(before)
    assert not rita.faults


def selected(page: Any) -> list[int]:
    return [
        int(each) for each in page.locator(".tile.picked").evaluate_all("(all) => all.map((one) => one.dataset.place)")
    ]


def expect_read(page: Any, *places: int, label: str = "blast") -> None:
    for place in range(CELLS):
        expect_label(page, place, f"read as {label}" if place in places else "not yet read")


def test_mouse_selects_a_row_and_single_cells_and_one_undo_takes_back_what_was_said(wall: Any) -> None:
    tile(wall, 1).click()
    assert selected(wall) == []
    tile(wall, 3).click(modifiers=["Shift"])
    tile(wall, 6).click(modifiers=["Control"])
    tile(wall, 2).click(modifiers=["Control"])
    assert selected(wall) == [1, 3, 6]
    assert tile(wall, 2).get_attribute("aria-selected") == "false"
    expect(wall.locator("#tray-words")).to_have_text("3 cells selected")
    with wall.expect_request("**/reviews") as sent:
        wall.locator("#verdicts [data-label=blast]").click()
    assert sent.value.url.endswith("/reviews")
    assert len(sent.value.post_data_json["cells"]) == 3
    expect_read(wall, 1, 3, 6)
    expect(wall.locator("#tray")).to_be_hidden()
    wall.keyboard.press("z")
    expect_read(wall)


def test_keys_select_and_say_and_escape_says_nothing(wall: Any) -> None:
    for key in ("ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight"):
        wall.keyboard.press(key)
    assert selected(wall) == [1, 2, 3]
    wall.keyboard.press("Control+ArrowRight")
    wall.keyboard.press("Control+ArrowRight")
    assert selected(wall) == [1, 2, 3], "moving with Ctrl keeps them"
    wall.keyboard.press("Control+Space")
    assert selected(wall) == [1, 2, 3, 5]
    wall.keyboard.press("Space")
    expect_read(wall)
    wall.keyboard.press("2")
    expect_read(wall, 1, 2, 3, 5)
    expect(tile(wall, 6)).to_have_class(re.compile("chosen"))
    wall.keyboard.press("z")
    expect_read(wall)
    wall.keyboard.press("Control+a")
    assert selected(wall) == list(range(CELLS))
    wall.keyboard.press("Escape")
    assert selected(wall) == []
    wall.keyboard.press("Shift+End")
    wall.keyboard.press("ArrowLeft")
    assert selected(wall) == [], "a plain move lets go of them"
    expect_read(wall)


def test_a_selection_is_dragged_to_a_class(wall: Any) -> None:
    tile(wall, 0).click()
    tile(wall, 2).click(modifiers=["Shift"])
    tile(wall, 1).drag_to(wall.locator('#filters [data-filter="class:blast"]'))
    expect_read(wall, 0, 1, 2)
    wall.keyboard.press("z")
    expect_read(wall)
    tile(wall, 4).drag_to(wall.locator("#verdicts [data-label=blast]"))
    expect_read(wall, 4)
    wall.keyboard.press("z")
    tile(wall, 5).drag_to(wall.locator(".case-head"))
    expect(wall.locator("#tray")).to_be_hidden()
    expect_read(wall)


def test_nothing_is_saved_where_another_has_changed_one_of_them(wall: Any, site: Site, case: str) -> None:
    tile(wall, 0).click()
    tile(wall, 2).click(modifiers=["Shift"])
    other = site.visitor("ron", viewport=DESK)
    gone = wall.evaluate(CELL_AT, [case, 1])
    other.goto(case)
    wait_for_cells(other, CELLS)
    assert other.evaluate(REMOVE, gone) == 200
    wall.keyboard.press("2")
    wall.get_by_text("saved for none of the 3 cells").wait_for()
    expect_label(wall, 0, "not yet read")
    expect_label(wall, 2, "not yet read")
    other.evaluate(UNDO, case.split("/")[2])
    other.context.close()


CELL_AT = "async ([path, n]) => (await (await fetch(`/api/v1${path}/cells?order=number`)).json()).cells[n]"
SEND = """const {csrf} = await (await fetch("/api/v1/session")).json(); const send = (method, path, seen) =>
  fetch(`/api/v1${path}`, {method, headers: {"X-CSRF-Token": csrf, "If-Match": seen}});"""
REMOVE = (
    f"""async ({{id, etag}}) => {{ {SEND} return (await send("DELETE", `/cells/${{id}}`, `"${{etag}}"`)).status; }}"""
)
UNDO = f"""async (id) => {{ {SEND} const {{etag}} = await (await fetch(`/api/v1/cases/${{id}}`)).json();
  return (await send("POST", `/cases/${{id}}/undo`, `"${{etag}}"`)).status; }}"""


def test_a_finger_that_stays_selects_and_presses_select_more(site: Site, rita: Any, case: str) -> None:
    page = site.visitor("ron", viewport=PHONE, has_touch=True, is_mobile=True)
    page.goto(case)
    wait_for_cells(page, CELLS)
    page.locator("#order").select_option("number")
    expect(page.locator("#wall-words")).to_contain_text("as they came")
    page.evaluate("document.querySelector('#tile-0').scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)  # rows come and go while it scrolls
    box = tile(page, 0).bounding_box()
    finger = page.context.new_cdp_session(page)
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [place]})
    expect(page.locator("#tray")).to_be_visible()
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert selected(page) == [0]
    tile(page, 1).tap()
    assert selected(page) == [0, 1]
    assert page.locator("#reader").is_hidden(), "no cell is opened while several are selected"
    page.locator("#tray [data-label=blast]").tap()
    expect_label(page, 0, "read as blast")
    expect_label(page, 1, "read as blast")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#several-button").tap()
    tile(page, 0).tap()
    page.locator("#reader").get_by_role("button", name="Undo").tap()
    page.go_back()
    expect_label(page, 1, "not yet read")
    assert not page.faults


def test_cells_are_sorted_by_their_likeness_to_the_chosen_one(wall: Any) -> None:
    tile(wall, 4).click()
    number = wall.locator("#reader-title").inner_text()
    wall.keyboard.press("l")
    expect(wall.locator("#wall-words")).to_contain_text("the most similar to one cell first")
    expect(wall.locator("#order")).to_have_value("likeness")
    expect_label(wall, 0, number)
    wall.locator("#order").select_option("type")
    expect(wall.locator("#wall-words")).to_contain_text("by what they are")
    wall.locator("#order").select_option("likeness")
    expect(wall.locator("#wall-words")).to_contain_text("similar cells next to each other")


def test_a_selection_keeps_the_rules_of_accessibility(wall: Any) -> None:
    wall.keyboard.press("Shift+ArrowRight")
    wall.emulate_media(reduced_motion="reduce")
    assert not violations(wall, {"resultTypes": ["violations"]})
    wall.emulate_media(color_scheme="dark")
    assert not violations(wall, {"runOnly": ["color-contrast"]})
    wall.emulate_media(color_scheme="light")
    wall.keyboard.press("Escape")


def test_outlines_of_a_field_merge_and_split_by_keys_and_undo_brings_them_back(rita: Any) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    new_case(rita, {"a.png": png(smear())}, None)
    cells = int(rita.locator("#wall-words").inner_text().split()[0])
    rita.locator("#grid").focus()
    rita.keyboard.press("f")
    lines = rita.locator("#field-stage .outline")
    rita.locator("#field-stage .outline.chosen").wait_for(state="attached")
    expect(lines).to_have_count(cells)
    rita.keyboard.press("S")
    rita.locator("#field-confirm").wait_for()
    half = rita.locator("#field-stage .pencil").get_attribute("points")
    rita.keyboard.press("]")
    assert rita.locator("#field-stage .pencil").get_attribute("points") != half, "the line turns"
    rita.keyboard.press("[")
    rita.keyboard.press("Enter")
    expect(lines).to_have_count(cells + 1)
    rita.get_by_text("is two cells now").wait_for()
    rita.keyboard.press("M")
    expect(rita.locator("#field-stage .outline.part")).to_have_count(2)
    expect(rita.locator("#field-keep")).to_have_text("Make one cell of 2")
    rita.keyboard.press("Enter")
    expect(lines).to_have_count(cells)
    rita.keyboard.press("z")
    expect(lines).to_have_count(cells + 1)
    rita.keyboard.press("z")
    expect(lines).to_have_count(cells)
    rita.keyboard.press("f")
    expect(rita.locator("#wall-words")).to_contain_text(f"{cells} cells")
    assert not rita.faults


def test_outlines_that_were_selected_on_the_wall_are_made_one_in_their_field(rita: Any) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    new_case(rita, {"a.png": png(smear())}, None)
    cells = int(rita.locator("#wall-words").inner_text().split()[0])
    tile(rita, 0).click()
    tile(rita, 1).click(modifiers=["Control"])
    tile(rita, 0).click(modifiers=["Control"])
    rita.locator("#tray-merge").click()
    expect(rita.locator("#field-stage .outline.part")).to_have_count(2)
    rita.locator("#field-stage").focus()
    rita.keyboard.press("Space")
    expect(rita.locator("#field-stage .outline.part")).to_have_count(1)
    rita.keyboard.press("Space")
    expect(rita.locator("#field-stage .outline.part")).to_have_count(2)
    assert not violations(rita, {"resultTypes": ["violations"]})
    rita.locator("#field-keep").click()
    rita.get_by_text("are one cell now").wait_for()
    rita.locator("#field-back").click()
    expect(rita.locator("#wall-words")).to_contain_text(f"{cells - 1} cell")
    rita.keyboard.press("z")
    expect(rita.locator("#wall-words")).to_contain_text(f"{cells} cells")
    assert not rita.faults
