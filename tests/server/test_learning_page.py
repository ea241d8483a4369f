"""The page of learning as people meet it: a model is fitted with one click, seen beside the old one, and chosen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from leukoscope.server.settings import RoomSettings
from tests.server.conftest import PASSWORD, Place, Visitor, cell_picture
from tests.server.test_browser import DESK, PHONE, Site, browser, faults_of, opened, wait_for_cells
from tests.server.test_learning import SUBJECTS, taught

assert browser  # the fixture
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
pytestmark = pytest.mark.xdist_group("browser")
expect = playwright.expect


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundle: Path, browser: Any) -> Iterator[Site]:
    """A laboratory that has signed off some cases, and has one to read."""
    settings = RoomSettings(data=tmp_path_factory.mktemp("site") / "room", model=bundle)
    with opened(settings, browser, people={"ada": "admin", "ron": "reader"}) as found:
        ada = Visitor(httpx2.Client(base_url=found.address, timeout=60))  # type: ignore[arg-type]
        ada.csrf = ada.post("/session", json={"name": "ada", "password": PASSWORD}).json()["csrf"]
        taught(Place(found.room, None), ada)
        ada.case("Next", subject="N", pictures=[cell_picture(seed) for seed in range(4)])
        yield found


def test_a_model_is_fitted_with_one_click_chosen_with_both_figures_in_sight_and_judges_a_case_anew(
    site: Site,
) -> None:
    page = site.visitor("ada", viewport=DESK)
    page.get_by_role("link", name="What to read next").click()
    expect(page.locator("#cells-words")).to_contain_text(f"of {SUBJECTS} subjects in {SUBJECTS} cases")
    page.get_by_role("button", name="Fit a model to these cells").click()
    card = page.locator("#models > li").first
    expect(card).to_contain_text("Model 1")
    for name in ("AUROC", "Sensitivity", "Specificity", "Brier score"):
        row = card.get_by_role("row", name=name)
        expect(row.get_by_role("cell")).to_have_count(3)
        expect(row.get_by_role("cell").first).to_contain_text("to")  # with its interval
    expect(page.locator("#models > li").last).to_contain_text("answers now")
    card.get_by_role("button", name="Let this model answer").click()
    expect(page.locator("#ask-words")).to_contain_text("AUROC of the model it was compared with")
    expect(page.locator("#ask-words")).to_contain_text("of this one")
    page.locator("#ask-yes").click()
    expect(card).to_contain_text("answers now")
    page.get_by_role("link", name="Next").click()
    wait_for_cells(page, 4)
    expect(page.locator("#wall-words")).to_contain_text("the most useful to the model first")
    expect(page.locator("#judged-words")).to_contain_text("Judged by small")
    page.locator("#again-button").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#judged-words")).to_have_text("")
    expect(page.locator("#model-line")).to_contain_text("adapted")
    page.goto("/learning")
    page.locator("#models > li").last.get_by_role("button", name="Go back to this model").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#models > li").last).to_contain_text("answers now")
    assert page.faults == []


def test_who_is_no_admin_sees_the_figures_and_can_press_nothing(site: Site) -> None:
    page = site.visitor("ron", viewport=PHONE)
    page.goto("/learning")
    expect(page.locator("#fit-other")).to_be_visible()
    expect(page.locator("#fit-row")).to_be_hidden()
    expect(page.locator("#models")).to_contain_text("the model that the room was opened with")
    assert page.locator("#models button").count() == 0
    assert page.faults == []


def test_the_page_keeps_the_rules_of_accessibility_in_both_colours_and_fits_a_phone(site: Site) -> None:
    page = site.visitor("ada", viewport=DESK, reduced_motion="reduce")
    assert faults_of(page, lambda: page.goto("/learning")) == []


def test_one_request_that_fails_does_not_end_the_progress_of_a_fit(site: Site) -> None:
    page = site.visitor("ada", viewport=DESK)
    page.goto("/learning")
    models = page.locator("#models > li")
    expect(models.last).to_contain_text("the model that the room was opened with")
    before, asked = models.count(), []

    def fail_once(route: Any) -> None:
        asked.append(route)
        route.abort() if len(asked) == 1 else route.continue_()

    page.route("**/api/v1/learning", fail_once)
    page.get_by_role("button", name="Fit a model to these cells").click()
    expect(models).to_have_count(before + 1)
    assert len(asked) > 1
