"""The page as people meet it: a real server on loopback, a real Chromium, keys, clicks and drops."""

import base64
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from oidc_provider_mock import User, run_server_in_thread
from sqlalchemy import insert, select

from leukoscope.server.app import create_app
from leukoscope.server.database import CellRow
from leukoscope.server.room import Room, open_room
from leukoscope.server.settings import Destination, RoomSettings, SingleSignOn
from leukoscope.survival.fitting import fit_model
from tests.server.conftest import PASSWORD, Place, cell_picture, png
from tests.server.test_hospital import FhirServer
from tests.server.test_reading import smear
from tests.survival.conftest import drawn

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = pytest.mark.xdist_group("browser")

CELLS = 8
PATIENCE = 60_000  # ms; a shared machine may be slow, and nothing here waits longer than it must
MANY = 2000
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
DROP = """(files) => {
  const transfer = new DataTransfer();
  for (const {name, content} of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
  }
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
}"""


@dataclass
class Site:
    """A server that is open, and a browser in front of it."""

    address: str
    room: Room
    browser: Any

    def visitor(self, name: str = "", **more: Any) -> Any:
        """Return a new page of somebody who has signed in, or who has not."""
        context = self.browser.new_context(base_url=self.address, accept_downloads=True, **more)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: "Content Security" in line.text and page.faults.append(line.text))
        if name:
            page.goto("/login")
            page.get_by_label("Name", exact=True).fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.wait_for_url(self.address + "/")
        return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system has it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium (apt-get install chromium)")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def opened(
    settings: RoomSettings, browser: Any, *, people: dict[str, str] | None = None, port: int = 0
) -> Iterator[Site]:
    """Serve a room on a port of loopback, by default a free one."""
    room = open_room(settings)
    app = create_app(settings, room=room)
    for name, role in (people or {}).items():
        Place(room, app).account(name, role=role)
        room.token = None
    place = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    yield Site(f"http://127.0.0.1:{place.getsockname()[1]}", room, browser)
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, bundle: Path, browser: Any) -> Iterator[Site]:
    """A laboratory with three people."""
    settings = RoomSettings(data=tmp_path_factory.mktemp("site") / "room", model=bundle)
    with opened(settings, browser, people={"ada": "admin", "rita": "reviewer", "ron": "reader"}) as found:
        yield found


@pytest.fixture(scope="module")
def rita(site: Site) -> Any:
    """A reviewer at her desk."""
    return site.visitor("rita", viewport=DESK)


@pytest.fixture(scope="module")
def case(rita: Any) -> str:
    """The path of a case that was dropped on the list of cases and analysed."""
    rita.goto("/")
    drop(rita, {f"cell-{seed}.png": cell_picture(seed) for seed in range(CELLS)} | {"notes.png": b"no picture"})
    rita.wait_for_url("**/cases/*")
    wait_for_cells(rita, CELLS)
    return "/" + rita.url.split("/", 3)[3]


def drop(page: Any, files: dict[str, bytes]) -> None:
    """Drop files on a page."""
    content = [{"name": name, "content": base64.b64encode(each).decode()} for name, each in files.items()]
    page.get_by_role("heading", name="Drop images").wait_for()
    page.evaluate(DROP, content)


def wait_for_cells(page: Any, number: int) -> None:
    """Wait until a case shows this many cells and the analysis has finished."""
    page.get_by_role("heading", name=f"{number:,} cell").wait_for()
    page.locator("#work").wait_for(state="hidden")
    page.locator("#tile-0 img").first.wait_for()


def tile(page: Any, place: int) -> Any:
    return page.locator(f"#tile-{place}")


def expect_label(page: Any, place: int, text: str) -> None:
    """Wait until a cell is described like this to a screen reader."""
    playwright.expect(tile(page, place)).to_have_attribute("aria-label", re.compile(re.escape(text)))


def test_the_token_of_the_start_opens_the_room_once(tmp_path: Path, bundle: Path, browser: Any) -> None:
    with opened(RoomSettings(data=tmp_path / "room", model=bundle), browser) as site:
        assert site.room.token
        page, late = site.visitor(), site.visitor()
        page.goto(f"/login#token={site.room.token.text}")
        page.wait_for_url(site.address + "/")
        page.get_by_text("No cases yet").wait_for()
        late.goto(f"/login#token={site.room.token.text}")
        late.get_by_label("One-time token").wait_for()
        playwright.expect(late.locator("#token-form .wrong")).to_contain_text("token")
        assert late.url.endswith("/login"), "a token stays in no history"
        assert not page.faults + late.faults


def test_a_wrong_password_is_said_beside_the_form(site: Site) -> None:
    page = site.visitor()
    page.goto("/cases/1?x=1")
    page.wait_for_url("**/login?next=%2Fcases%2F1%3Fx%3D1")
    page.get_by_label("Name", exact=True).fill("rita")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in", exact=True).click()
    playwright.expect(page.locator("#account-form .wrong")).to_contain_text(re.compile("name or password", re.I))


def test_files_chosen_before_the_page_knows_who_is_here_are_not_lost(site: Site) -> None:
    page = site.visitor("rita", viewport=DESK)
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/api/v1/session", hold, times=1)
    with page.expect_request("**/api/v1/session"):
        page.goto("/")
    page.locator("#files").set_input_files({"name": "early.png", "mimeType": "image/png", "buffer": cell_picture(99)})
    held.pop().continue_()
    page.wait_for_url("**/cases/*")
    wait_for_cells(page, 1)
    assert not page.faults


def test_what_cannot_be_used_is_named_with_its_reason(rita: Any, case: str) -> None:
    assert rita.url.endswith(case)
    refusals = rita.locator("#refusals")
    refusals.wait_for()
    assert "notes.png" in refusals.inner_text()


def test_cells_are_read_by_keyboard_and_undone(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    rita.locator("#grid").focus()
    expect_label(rita, 0, "not yet read")
    rita.keyboard.press("2")
    expect_label(rita, 0, "read as blast")
    playwright.expect(tile(rita, 1)).to_have_attribute("aria-selected", "true")
    rita.keyboard.press("1")
    expect_label(rita, 1, "read as normal")
    playwright.expect(rita.locator("#read-words")).to_have_text(f"2 of {CELLS} read")
    rita.keyboard.press("z")
    expect_label(rita, 1, "not yet read")
    playwright.expect(tile(rita, 1)).to_have_attribute("aria-selected", "true")
    rita.keyboard.press("x")
    expect_label(rita, 1, "read as not a cell")
    rita.keyboard.press("End")
    playwright.expect(tile(rita, CELLS - 1)).to_have_attribute("aria-selected", "true")
    rita.keyboard.press("0")
    expect_label(rita, CELLS - 1, "read as unsure")
    playwright.expect(rita.locator("#read-words")).to_have_text(f"3 of {CELLS} read")
    assert not rita.faults


def test_agreeing_says_what_the_model_says(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    decided = rita.locator(".tile[aria-label*='not yet read']:not([aria-label*='unsure']):not([aria-label*='refused'])")
    place = int(decided.first.get_attribute("data-place"))
    tile(rita, place).click()
    said = str(tile(rita, place).get_attribute("aria-label")).split(", ")[1].split()[0]
    rita.locator("#grid").focus()
    rita.keyboard.press("Space")
    expect_label(rita, place, f"read as {said}")
    rita.get_by_role("button", name="Undo").click()
    expect_label(rita, place, "not yet read")


def test_filters_count_and_heat_maps_lie_over_the_cells(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    unread = rita.get_by_role("button", name="Not yet read")
    number = int(unread.locator("b").inner_text())
    unread.click()
    wait_for_cells(rita, number)
    playwright.expect(unread).to_have_attribute("aria-pressed", "true")
    rita.get_by_role("button", name="Heat maps").click()
    rita.locator(".tile img.heat").first.wait_for()
    playwright.expect(rita.locator("#stage img.heat")).to_be_visible()


def test_a_reading_that_cannot_be_saved_is_taken_back_and_said(rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    place = int(rita.locator(".tile[aria-label*='not yet read']").first.get_attribute("data-place"))
    tile(rita, place).click()
    rita.context.set_offline(True)
    rita.locator("#grid").focus()
    rita.keyboard.press("2")
    rita.get_by_text("The server does not answer").first.wait_for()
    expect_label(rita, place, "not yet read")
    rita.context.set_offline(False)


def test_a_phone_reads_by_touch(site: Site, rita: Any, case: str) -> None:
    page = site.visitor("ron", viewport=PHONE, has_touch=True, is_mobile=True)
    page.goto(case)
    wait_for_cells(page, CELLS)
    place = int(page.locator(".tile[aria-label*='not yet read']").first.get_attribute("data-place"))
    tile(page, place).tap()
    sheet = page.locator("#reader")
    sheet.wait_for()
    sheet.get_by_role("button", name="Normal", exact=True).tap()
    page.go_back()
    sheet.wait_for(state="hidden")
    expect_label(page, place, "read as normal")
    assert page.url.endswith(case)
    assert not page.faults


def test_a_case_is_signed_exported_and_seen_by_the_next_person(site: Site, rita: Any, case: str) -> None:
    rita.goto(case)
    wait_for_cells(rita, CELLS)
    as_read = tile(rita, 0).get_attribute("aria-label")  # by whichever test read it last
    rita.get_by_role("button", name="Export").click()
    with rita.expect_download() as waiting:
        rita.locator("[data-export=csv]").click()
    table = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert len(table.strip().splitlines()) == CELLS + 1
    rita.get_by_role("button", name="Sign off").click()
    sheet = rita.locator("#sign")
    assert "Research use, not a diagnosis" in sheet.inner_text()
    sheet.get_by_label("Note").fill("seen under the microscope")
    sheet.get_by_role("button", name="Sign off").click()
    rita.get_by_text("Signed off by rita").wait_for()
    rita.reload()
    rita.get_by_text("Signed off by rita").wait_for()

    second = site.visitor("ron", viewport=DESK)
    second.get_by_text("signed off", exact=True).wait_for()
    second.goto(case)
    second.get_by_text("seen under the microscope").wait_for()
    expect_label(second, 0, as_read)
    second.locator("#grid").focus()
    assert second.locator("#verdicts .class").first.is_disabled()
    assert second.locator("#reopen-button").is_hidden()

    rita.get_by_role("button", name="Reopen").click()
    rita.locator("#ask-yes").click()
    rita.get_by_role("button", name="Sign off").wait_for()
    assert not rita.faults + second.faults


def test_a_cell_is_added_redrawn_and_removed_in_its_field_by_keys(rita: Any, shared_data: Path) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    field = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[0]
    rita.goto("/")
    rita.locator("#files").set_input_files(field)
    rita.wait_for_url("**/cases/*")
    wait_for_cells(rita, 1)
    rita.locator("#grid").focus()
    rita.keyboard.press("f")
    lines = rita.locator("#field-stage .outline")
    lines.first.wait_for(state="attached")
    before = lines.count()
    for key in ("a", "ArrowRight", "ArrowRight", "ArrowDown", "]", "Enter"):
        rita.keyboard.press(key)
    playwright.expect(lines).to_have_count(before + 1)
    rita.keyboard.press("r")
    rita.keyboard.press("[")
    rita.keyboard.press("Enter")
    rita.locator("#field-confirm").wait_for(state="hidden")
    rita.keyboard.press("Delete")
    playwright.expect(lines).to_have_count(before)
    rita.keyboard.press("Escape")
    wait_for_cells(rita, before)
    rita.keyboard.press("z")
    wait_for_cells(rita, before + 1)
    assert not rita.faults


SQUARE = [[40, 40], [120, 40], [120, 120], [40, 120]]


class Somebody:
    """Somebody else in the same laboratory, who works without the pages."""

    def __init__(self, site: Site, name: str) -> None:
        self.client = httpx2.Client(base_url=f"{site.address}/api/v1", timeout=60)
        signed_in = self.client.post("/session", json={"name": name, "password": PASSWORD}).json()
        self.client.headers["X-CSRF-Token"] = signed_in["csrf"]

    def field_case(self) -> tuple[int, list[dict[str, Any]]]:
        """Make a case with one field; return it and its cells."""
        case = self.client.post("/cases", json={"name": "shared"}).json()["id"]
        sent = {"files": ("field.png", png(smear()))}
        self.client.post(f"/cases/{case}/images?wait=30", files=sent, data={"um_per_px": "0.1"})
        return case, self.client.get(f"/cases/{case}/cells").json()["cells"]

    def redraw(self, cell: int) -> None:
        """Draw a cell anew."""
        seen = {"If-Match": self.client.get(f"/cells/{cell}").headers["etag"]}
        assert self.client.patch(f"/cells/{cell}", json={"outline": SQUARE}, headers=seen).status_code == 200


def test_a_cell_that_another_redraws_shows_it_and_keeps_the_readers_choice(site: Site, rita: Any) -> None:
    ada = Somebody(site, "ada")
    case, cells = ada.field_case()
    rita.goto(f"/cases/{case}")
    wait_for_cells(rita, len(cells))
    tile(rita, 0).click()
    before = rita.locator("#stage img.cell").get_attribute("src")
    ada.redraw(cells[0]["id"])
    rita.locator("#grid").focus()
    rita.keyboard.press("2")
    notice = rita.locator("#reader-changed")
    playwright.expect(notice).to_contain_text("“blast” was not saved")
    expect_label(rita, 0, "not yet read")
    playwright.expect(tile(rita, 0)).to_have_attribute("aria-selected", "true")
    assert rita.locator("#stage img.cell").get_attribute("src") != before, "the new outline is shown"
    notice.get_by_role("button", name="Label it blast as it is now").click()
    expect_label(rita, 0, "read as blast")
    playwright.expect(rita.locator("#read-words")).to_have_text(f"1 of {len(cells)} read")
    assert ada.client.get(f"/cells/{cells[0]['id']}").json()["review"]["label"] == "blast"
    assert not rita.faults


def test_a_sign_off_that_another_overtakes_shows_the_new_figures_and_keeps_the_note(site: Site, rita: Any) -> None:
    ada = Somebody(site, "ada")
    case, cells = ada.field_case()
    rita.goto(f"/cases/{case}")
    wait_for_cells(rita, len(cells))
    rita.locator("#sign-button").click()
    rita.locator("#sign textarea, #sign input[name=note]").fill("all seen")
    playwright.expect(rita.locator("#sign-words")).to_contain_text("Read by people0")
    seen = {"If-Match": f'"{cells[0]["etag"]}"'}
    ada.client.post(f"/cells/{cells[0]['id']}/reviews", json={"label": "normal"}, headers=seen)
    rita.locator("#sign button.main").click()
    playwright.expect(rita.locator("#sign-words")).to_contain_text("Read by people1")
    playwright.expect(rita.locator("#sign textarea, #sign input[name=note]")).to_have_value("all seen")
    rita.locator("#sign button.main").click()
    playwright.expect(rita.locator("#case-chips")).to_contain_text("Signed off by rita")
    assert ada.client.get(f"/cases/{case}").json()["signed"]["note"] == "all seen"


def test_people_sign_in_through_the_hospital_and_send_what_they_signed(
    tmp_path: Path, bundle: Path, browser: Any
) -> None:
    """There and back with a provider that runs; a result on its way to a system that is away, then there."""
    (tmp_path / "secret").write_text("s3cret")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    grace = User(sub="1", claims={"preferred_username": "grace", "groups": ["seniors"]})
    records = FhirServer()
    records.refuses = True
    with run_server_in_thread(user_claims=[grace]) as server:
        oidc = SingleSignOn(
            issuer=f"http://localhost:{server.server_port}",
            client_id="room",
            client_secret_file=tmp_path / "secret",
            address=f"http://127.0.0.1:{port}",
            title="Example Hospital",
            roles={"reviewer": ("seniors",)},
            laboratory="north",
        )
        to = Destination(name="records", kind="fhir", address=records.address)
        settings = RoomSettings(data=tmp_path / "room", model=bundle, oidc=oidc, hospital=(to,))
        with opened(settings, browser, people={"ada": "admin"}, port=port) as site:
            page = site.visitor(viewport=DESK)
            page.goto("/login?problem=no_role")
            playwright.expect(page.locator("#sign-in-problem")).to_contain_text("Example Hospital knows you")
            assert not faults_of(page, lambda: page.goto("/login"))
            page.set_viewport_size(DESK)
            page.get_by_role("link", name="Sign in with Example Hospital").click()
            page.locator("input[name=sub]").fill("1")
            page.locator("input[name=sub]").press("Enter")
            page.wait_for_url(site.address + "/")
            drop(page, {"cell.png": cell_picture(1)})
            page.wait_for_url("**/cases/*")
            wait_for_cells(page, 1)
            page.locator("#more-button").click()
            page.locator("#hospital-button").click()
            playwright.expect(page.get_by_role("button", name="Send to records")).to_be_disabled()
            page.get_by_label("Patient id").fill("PID-4711")
            page.locator("#hospital-form button.main").click()
            playwright.expect(page.locator("#hospital-hint")).to_contain_text("no log")
            page.locator("#hospital-form [data-close]").last.click()
            page.locator("#sign-button").click()
            page.locator("#sign button.main").click()
            playwright.expect(page.locator("#case-chips")).to_contain_text("Signed off by grace")
            page.locator("#more-button").click()
            page.locator("#hospital-button").click()
            playwright.expect(page.get_by_label("Patient id")).to_have_value("PID-4711")
            page.get_by_role("button", name="Send to records").click()
            playwright.expect(page.locator("#sending-list")).to_contain_text("Patient PID-4711 is merged.")
            records.refuses = False
            page.get_by_role("button", name="Send to records").click()
            playwright.expect(page.locator("#sending-list")).to_contain_text("sent")
            assert page.faults == []
    records.server.shutdown()
    records.server.server_close()


def _field(page: Any, case: str) -> None:
    page.goto(case)
    page.locator("#tile-0").click()


def _heat(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#heat-button").click()


def _sign(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#sign-button").click()


def _help(page: Any, case: str) -> None:
    _list(page, case)
    page.locator("#help-button").click()


def _add(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#add-button").click()
    page.locator("#add summary").click()


def _more(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#export-button").click()


def _reading_dialog(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#more-button").click()
    page.locator("#how-button").click()


def _list(page: Any, case: str) -> None:
    page.goto("/")
    page.locator(".case-row").first.wait_for()


def _new(page: Any, case: str) -> None:
    _list(page, case)
    page.locator("#new-case").click()


def _hospital(page: Any, case: str) -> None:
    _field(page, case)
    page.locator("#more-button").click()
    page.locator("#hospital-button").click()


VIEWS: dict[str, Callable[[Any, str], None]] = {
    "list": _list,
    "new case": _new,
    "case": _field,
    "heat maps": _heat,
    "adding": _add,
    "exports": _more,
    "sign-off": _sign,
    "hospital": _hospital,
    "help": _help,
    "survival": lambda page, case: page.goto("/survival"),
    "accounts": lambda page, case: page.goto("/accounts"),
    "agreement": lambda page, case: page.goto("/agreement"),
    "how it is read": _reading_dialog,
}


def test_every_view_keeps_the_rules_of_accessibility_in_both_colours_and_fits_a_phone(site: Site, case: str) -> None:
    page, sign_in = site.visitor("ada", viewport=DESK, reduced_motion="reduce"), site.visitor(viewport=DESK)
    found = {name: faults_of(page, lambda shown=view: shown(page, case)) for name, view in VIEWS.items()}
    found["sign-in"] = faults_of(sign_in, lambda: sign_in.goto("/login"))
    assert not {name: each for name, each in found.items() if each}


def faults_of(page: Any, show: Callable[[], Any]) -> list[str]:
    """Return what is wrong with a view: by axe-core in light, its contrast in dark, its width on a phone."""
    page.set_viewport_size(DESK)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")  # no colour is half way when it is measured
    show()
    page.wait_for_load_state("networkidle")
    found = violations(page, {"resultTypes": ["violations"]})
    page.emulate_media(color_scheme="dark")
    found += violations(page, {"runOnly": ["color-contrast"]})
    page.set_viewport_size(PHONE)
    wide = int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
    return [*found, f"{wide} px wider than a phone"] if wide > 0 else found


def violations(page: Any, options: dict[str, Any]) -> list[str]:
    broken = axe.Axe().run(page, options=options).response["violations"]
    return [f"{each['id']}: {node['target']} {node['failureSummary']}" for each in broken for node in each["nodes"][:3]]


def test_the_survival_form_shows_warnings_and_an_answer_without_a_curve(
    site: Site, rita: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(fit_model(drawn(200)).model, horizons=((24.0, "two years"),))
    monkeypatch.setitem(site.room.survival, "study", model)
    rita.goto("/survival")
    rita.locator("#survival-form select[name=stage]").select_option("II")
    answer = rita.locator("#answer-body")
    for age, warning, curves in (
        ("100", "age 100 is outside the range of the training data", 1),
        ("6000", "No number is given", 0),
    ):
        rita.locator("#survival-form input[name=age]").fill(age)
        rita.locator("#survival-form button[type=submit]").click()
        playwright.expect(answer.locator(".caution")).to_contain_text(warning)
        playwright.expect(answer.locator("svg.curve")).to_have_count(curves)


def test_two_thousand_cells_scroll_with_few_of_them_in_the_page(site: Site, rita: Any, case: str) -> None:
    multiply_cells(site.room, int(case.split("/")[2]), up_to=MANY)
    rita.goto(case)
    wait_for_cells(rita, MANY)
    most = 0
    for part in range(11):
        rita.evaluate("(share) => scrollTo(0, document.documentElement.scrollHeight * share)", part / 10)
        playwright.expect(rita.locator(".tile.waiting")).to_have_count(0)
        most = max(most, rita.locator(".tile").count())
    assert 12 < most < 150
    playwright.expect(tile(rita, MANY - 1)).to_be_visible()
    assert rita.locator("#grid").get_attribute("aria-rowcount")
    rita.locator("#grid").focus()
    rita.keyboard.press("Home")
    playwright.expect(tile(rita, 0)).to_be_in_viewport()


def multiply_cells(room: Room, case: int, *, up_to: int) -> None:
    """Fill a case up with copies of its first cell."""
    with room.database.writing() as session:
        rows = session.scalars(select(CellRow).where(CellRow.case_id == case)).all()
        skipped = ("id", "number", "review_id")
        names = [each.key for each in CellRow.__mapper__.column_attrs if each.key not in skipped]
        copied = {name: getattr(rows[0], name) for name in names} | {"label": ""}
        last = max(row.number for row in rows)
        fresh = [copied | {"number": last + step} for step in range(1, up_to - len(rows) + 1)]
        session.execute(insert(CellRow), fresh)


FEW = 3


def blind_case(site: Site, name: str) -> str:
    """Make a case for two readers through the form, fill it by a drop, and return its path."""
    rita = site.visitor("rita", viewport=DESK)
    rita.goto("/")
    rita.locator("#new-case").click()
    rita.locator("#new-form").get_by_label("Name").fill(name)
    rita.get_by_text("How it is read").click()
    rita.locator("#new-form").get_by_label("Readers").select_option("2")
    rita.get_by_role("button", name="Make the case").click()
    rita.wait_for_url("**/cases/*")
    drop(rita, {f"cell-{seed}.png": cell_picture(seed) for seed in range(FEW)})
    wait_for_cells(rita, FEW)
    path = "/" + rita.url.split("/", 3)[3]
    rita.context.close()
    return path


def at_work(site: Site, name: str, case: str, **more: Any) -> Any:
    """Return the page of somebody who is about to read a case."""
    page = site.visitor(name, **({"viewport": DESK} | more))
    page.goto(case)
    wait_for_cells(page, FEW)
    page.locator("#order").select_option("number")
    playwright.expect(page.locator("#wall-words")).to_contain_text("as they came")
    return page


def read_by_keys(page: Any, keys: str) -> None:
    """Read cells from the first on, and finish, with the keyboard alone."""
    page.locator("#grid").focus()
    page.keyboard.press("Home")
    for place, key in enumerate(keys):
        page.keyboard.press(key)
        expect_label(page, place, f"read as {'blast' if key == '2' else 'normal'}")
    playwright.expect(page.locator("#readers-list")).to_contain_text(f"{len(keys)} read")
    page.locator("#finish-button").wait_for()
    page.locator("#finish-button").focus()
    page.keyboard.press("Enter")
    page.locator("#ask[open]").wait_for()
    page.locator("#ask-yes").focus()
    page.keyboard.press("Enter")


def test_two_read_blind_and_a_consensus_session_settles_with_both_answers_in_sight(site: Site) -> None:
    case = blind_case(site, "two readers")
    ron, ada, rita = (at_work(site, name, case) for name in ("ron", "ada", "rita"))
    read_by_keys(ron, "221")
    ron.get_by_role("button", name="Read on").wait_for()
    ada.reload()
    wait_for_cells(ada, FEW)
    for place in range(FEW):
        expect_label(ada, place, "not yet read")
    playwright.expect(ada.locator("#readers-list")).to_contain_text("3 read, finished")
    playwright.expect(ada.locator("#share-value")).to_have_text("not known yet")
    assert ada.locator("#export-button").is_disabled()
    ada.locator("#order").select_option("number")
    playwright.expect(ada.locator("#wall-words")).to_contain_text("as they came")
    read_by_keys(ada, "211")
    playwright.expect(ada.locator("#readers-words")).to_contain_text("differ on 1 cell")
    playwright.expect(ada.locator("#readers-agreement")).to_contain_text("They agree on 67")

    rita.reload()
    wait_for_cells(rita, FEW)
    rita.locator("[data-filter=unread]").click()
    playwright.expect(rita.locator("#empty")).to_contain_text("Settle those on which the readers differ")
    rita.get_by_role("button", name="Show where they differ").click()
    wait_for_cells(rita, 1)
    expect_label(rita, 0, "readers differ")
    tile(rita, 0).click()
    said = rita.locator("#reader-answers li")
    playwright.expect(said).to_have_count(2)
    playwright.expect(said.nth(0)).to_contain_text("ron")
    playwright.expect(said.nth(1)).to_contain_text("ada")
    assert rita.locator("#verdicts [aria-pressed=true]").count() == 0, "what others said is nobody's button"
    assert rita.locator("#sign-button").is_hidden()
    assert not violations(rita, {"resultTypes": ["violations"]})
    rita.locator("#grid").focus()
    rita.keyboard.press("2")
    playwright.expect(rita.locator("#readers-words")).to_contain_text("nothing is left to settle")
    rita.locator("#sign-button").wait_for()
    assert not ron.faults + ada.faults + rita.faults


def test_a_third_who_comes_finds_the_places_taken_and_a_phone_reads_blind(site: Site) -> None:
    case = blind_case(site, "a phone among them")
    ada = at_work(site, "ada", case)
    phone = site.visitor("ron", viewport=PHONE, has_touch=True, is_mobile=True)
    phone.goto(case)
    wait_for_cells(phone, FEW)
    tile(phone, 0).tap()
    phone.locator("#reader").get_by_role("button", name="Blast", exact=True).tap()
    phone.go_back()
    expect_label(phone, 0, "read as blast")
    ada.locator("#grid").focus()
    ada.keyboard.press("2")
    expect_label(ada, 0, "read as blast")
    rita = at_work(site, "rita", case)
    playwright.expect(rita.locator("#readers-list li")).to_have_count(2)
    assert rita.locator("#verdicts .class").first.is_disabled()
    rita.locator("#grid").focus()
    rita.keyboard.press("2")
    rita.get_by_text("All places are taken").first.wait_for()
    rita.get_by_role("button", name="Release the place of ron").click()
    rita.locator("#ask-yes").click()
    playwright.expect(rita.locator("#readers-list")).to_contain_text("place given back")
    rita.keyboard.press("2")
    expect_label(rita, 0, "read as blast")
    phone.get_by_role("button", name="I have finished").wait_for()
    tile(phone, 1).tap()
    phone.locator("#reader").get_by_role("button", name="Blast", exact=True).tap()
    phone.get_by_text(re.compile("was not saved")).first.wait_for()
    assert not ada.faults + phone.faults + rita.faults


def test_a_case_that_is_deleted_under_a_reader_says_so_and_what_was_not_saved(site: Site) -> None:
    case = blind_case(site, "deleted")
    ron, rita = at_work(site, "ron", case), at_work(site, "rita", case)
    rita.locator("#more-button").click()
    rita.get_by_role("button", name="Delete the case").click()
    rita.locator("#ask-yes").click()
    rita.wait_for_url(site.address + "/")
    ron.locator("#grid").focus()
    ron.keyboard.press("2")
    ron.get_by_text("Somebody has deleted this case. “blast” for cell").first.wait_for()
    ron.get_by_role("heading", name="This case is not here").wait_for()
    assert not ron.faults


def test_the_log_of_an_admin_tells_old_and_new_answers(site: Site) -> None:
    ada = site.visitor("ada", viewport=DESK)
    ada.goto("/accounts")
    first = int(ada.locator("#log-rows tr").first.locator("td").first.inner_text().replace(",", ""))
    assert ada.locator("#log-words").inner_text().startswith(f"{first:,} entries")
    ada.locator("#log-rows").get_by_text(re.compile(r"reviewed cell \d+: (blast|normal)")).first.wait_for()


def test_the_export_menu_stays_on_the_screen(site: Site) -> None:
    case = blind_case(site, "menus")
    for width in (1440, 1100, 390):
        page = at_work(site, "rita", case, viewport={"width": width, "height": 900})
        page.evaluate("document.getElementById('export-menu').hidden = false")  # its button waits for the readers
        box = page.locator("#export-menu").bounding_box()
        assert box["x"] >= 0, width
        assert box["x"] + box["width"] <= width
        page.context.close()
