"""How a laboratory counts, as it sets it in the browser: order of rows, goal, a key for each class and type."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Place, cell_picture
from tests.server.conftest import opened as opened_room
from tests.server.test_browser import DESK, browser, expect_label, faults_of, opened, wait_for_cells
from tests.server.test_fields import field_png, sent_fields, typed_bundle
from tests.server.test_readers import code
from tests.server.test_viewer import new_case

assert browser  # fixtures
assert typed_bundle


@pytest.fixture
def settings(tmp_path: Path, typed_bundle: Path, database: str) -> RoomSettings:
    """A room whose model tells types."""
    return RoomSettings(data=tmp_path / "room", database=database, model=typed_bundle, goal=300, keys={"monocyte": "m"})


@pytest.fixture
def place(settings: RoomSettings) -> Iterator[Place]:
    """That room, open."""
    yield from opened_room(settings)


def test_a_laboratory_counts_as_it_has_set(place: Place) -> None:
    me = place.local()
    before = me.get("/laboratory").json()
    assert (before["goal"], before["keys"]) == (300, {"monocyte": "m"}), "as the server was started"
    change = {"order": ["blast", "neutrophil"], "goal": 100, "keys": {"neutrophil": "N", "blast": "b"}}
    after = me.patch("/laboratory", json=change).json()
    assert after["order"][:2] == ["blast", "neutrophil"]
    assert sorted(after["order"]) == sorted(before["order"])
    assert me.get("/models").json()["models"][0]["keys"] == {"neutrophil": "n", "blast": "b"}
    case = sent_fields(me, {"a.png": field_png(1)})
    told = me.get(f"/cases/{case}/summary").json()["differential"]["model"]
    assert [row["name"] for row in told["rows"]][:2] == ["blast", "neutrophil"]
    assert told["goal"] == 100
    assert "of 100 white cells" in me.get(f"/cases/{case}/exports/html").text
    logged = me.get("/audit-log").json()["entries"]
    assert {"old": 300, "new": 100} in [each["detail"].get("reading", {}).get("goal") for each in logged]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"keys": {"neutrophil": "f"}}, "the field"),
        ({"keys": {"neutrophil": "n", "monocyte": "N"}}, "already"),
        ({"keys": {"neutrofil": "n"}}, "neutrophil"),
        ({"keys": {"neutrophil": "no"}}, "one letter"),
        ({"keys": {"neutrophil": "ü"}}, "one letter"),
        ({"order": ["neutrofil"]}, "neutrophil"),
        ({"order": ["blast", "blast"]}, "twice"),
    ],
)
def test_what_clashes_is_refused_and_nothing_is_changed(place: Place, change: dict[str, Any], word: str) -> None:
    me = place.local()
    refused = me.patch("/laboratory", json={"goal": 50, **change})
    assert code(refused) == (422, "counting")
    assert word in refused.json()["error"]["message"]
    assert me.get("/laboratory").json()["goal"] == 300


def test_each_laboratory_has_its_own_and_admins_alone_set_it(laboratory: Place) -> None:
    ada, ron, sue = (laboratory.visitor(name) for name in ("ada", "ron", "sue"))
    assert ron.patch("/laboratory", json={"goal": 50}).status_code == 403
    assert ada.patch("/laboratory", json={"goal": 50, "keys": {"blast": "b"}}).status_code == 200
    assert ron.get("/models").json()["models"][0]["keys"] == {"blast": "b"}
    assert sue.get("/models").json()["models"][0]["keys"] == {"monocyte": "m"}
    assert sue.get("/laboratory").json()["goal"] == 300


def test_keys_are_set_in_the_browser_with_their_clashes_and_stand_in_the_help(
    tmp_path: Path, typed_bundle: Path, browser: Any
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
    expect = playwright.expect
    with opened(RoomSettings(data=tmp_path / "room", model=typed_bundle), browser, people={"ada": "admin"}) as site:
        page = site.visitor("ada", viewport=DESK)
        page.goto("/accounts")
        form = page.locator("#counting-form")
        neutrophil, monocyte = (form.get_by_label(name, exact=True) for name in ("Neutrophil", "Monocyte"))
        expect(neutrophil).to_have_attribute("placeholder", "3")
        neutrophil.fill("f")
        expect(form.locator(".wrong")).to_contain_text("F means the field")
        neutrophil.fill("n")
        expect(form.locator(".wrong")).to_be_hidden()
        monocyte.fill("n")
        expect(form.locator(".wrong")).to_contain_text("N is set for")
        form.get_by_role("button", name="Save").click()
        expect(page.locator("[aria-invalid=true]").first).to_be_focused()
        monocyte.fill("1")
        expect(form.get_by_label("Lymphocyte", exact=True)).not_to_have_attribute("placeholder", "1")
        rows = page.locator("#counting-rows li")
        rows.first.get_by_role("button", name="down").press("Enter")
        second = rows.first.inner_text()
        form.get_by_label("White cells for a differential").fill("100")
        form.get_by_role("button", name="Save").click()
        page.get_by_text("Pages that are open").wait_for()
        page.reload()
        expect(neutrophil).to_have_value("N")
        expect(rows.first).to_have_text(second)
        assert not faults_of(page, lambda: page.goto("/accounts"))

        new_case(page, {"cell.png": cell_picture(1)}, 1)
        page.locator("#grid").focus()
        page.keyboard.press("?")
        expect(page.locator("#help-keys")).to_contain_text("NNeutrophil")
        expect(page.locator("#help-keys")).to_contain_text("1Monocyte")
        page.keyboard.press("Escape")
        page.locator("#grid").focus()
        page.keyboard.press("n")
        expect_label(page, 0, "read as neutrophil")
        wait_for_cells(page, 1)
        assert not page.faults
