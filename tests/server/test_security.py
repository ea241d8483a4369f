"""Who may do what: every route is walked as nobody, as a reader, and as somebody from another laboratory."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from leukoscope.cli import leukoscope
from leukoscope.errors import UsageError
from leukoscope.server.app import PREFIX
from leukoscope.server.room import open_room
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import PASSWORD, Place, Visitor, cell_picture, opened

# Open to everybody: how to sign in, and whether the room works.
OPEN = {("POST", "/session"), ("GET", "/health"), ("GET", "/session/oidc"), ("GET", "/session/oidc/callback")}
# What belongs to nobody in particular: the same for every laboratory.
OF_ALL = {
    ("GET", "/session"),
    ("DELETE", "/session"),
    ("PUT", "/session/password"),
    ("GET", "/tokens"),
    ("POST", "/tokens"),
    ("GET", "/accounts"),
    ("POST", "/accounts"),
    ("GET", "/audit-log"),
    ("GET", "/cases"),
    ("POST", "/cases"),
    ("GET", "/survival/models"),
    ("POST", "/survival/models/{name}/predict"),
    ("GET", "/models"),
    ("GET", "/metrics"),
    ("GET", "/references/{place}/picture"),
    ("GET", "/agreement"),
    ("GET", "/laboratory"),
    ("PATCH", "/laboratory"),
    ("GET", "/learning"),
    ("GET", "/learning/worklist"),
    ("POST", "/learning/models"),
    ("PUT", "/learning/model"),
}
NOT_FOR_READERS = {
    ("GET", "/accounts"),
    ("POST", "/accounts"),
    ("PATCH", "/accounts/{account_id}"),
    ("GET", "/audit-log"),
    ("PATCH", "/laboratory"),
    ("DELETE", "/cases/{case_id}"),
    ("POST", "/cases/{case_id}/sign-off"),
    ("DELETE", "/cases/{case_id}/sign-off"),
    ("DELETE", "/images/{image_id}"),
    ("POST", "/cases/{case_id}/sendings"),
    ("POST", "/cases/{case_id}/analysis"),
    ("POST", "/learning/models"),
    ("PUT", "/learning/model"),
}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/cases/{case_id}/images"): {"files": [("files", ("a.png", b"x"))]},
    ("POST", "/cases/{case_id}/slides"): {"params": {"name": "a.tif"}, "content": b"II*\0"},
    ("POST", "/images/{image_id}/areas"): {"json": {"box": [0, 0, 99, 99]}},
    ("PATCH", "/cases/{case_id}"): {"json": {"name": "stolen"}},
    ("POST", "/cells/{cell_id}/reviews"): {"json": {"label": "blast"}},
    ("POST", "/cases/{case_id}/reviews"): {"json": {"label": "blast", "cells": ["1-1"]}},
    ("POST", "/images/{image_id}/replacements"): {"json": {"cells": [1], "outlines": [[[1, 1], [9, 1], [9, 9]]]}},
    ("POST", "/cases/{case_id}/cells"): {"json": {"image": 1, "outline": [[1, 1], [9, 1], [9, 9]]}},
    ("PATCH", "/cells/{cell_id}"): {"json": {"outline": [[1, 1], [9, 1], [9, 9]]}},
    ("PATCH", "/accounts/{account_id}"): {"json": {"active": False}},
    ("POST", "/accounts"): {"json": {"name": "new", "password": PASSWORD}},
    ("PATCH", "/laboratory"): {"json": {"readers": 1}},
    ("POST", "/tokens"): {"json": {"name": "new"}},
    ("PUT", "/learning/model"): {"json": {"model": "0" * 64}},
    ("PUT", "/session/password"): {"json": {"password": "wrong", "new": "eleven green umbrellas"}},
    ("POST", "/cases"): {"json": {"name": "new"}},
    ("PUT", "/cases/{case_id}/hospital"): {"json": {"patient_id": "P1"}},
    ("POST", "/cases/{case_id}/sendings"): {"json": {"to": "archive"}},
    ("POST", "/survival/models/{name}/predict"): {"json": {"patient": {}}},
}


def routes(place: Place) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route of the API, as its own description lists them."""
    for path, methods in place.app.openapi()["paths"].items():
        for method in methods:
            yield method.upper(), path.removeprefix(PREFIX)


def ask(visitor: Visitor, method: str, path: str, ids: dict[str, int]) -> Any:
    filled = re.sub(r"\{(\w+)\}", lambda found: str(ids.get(found[1], "csv")), path)
    headers = {"If-Match": f'"{ids["cell_id"]}-1"'}
    return getattr(visitor, method.lower())(filled, headers=headers, **BODIES.get((method, path), {}))


@pytest.fixture
def ids(laboratory: Place) -> dict[str, int]:
    """One of everything that belongs to the laboratory north."""
    ada = laboratory.visitor("ada")
    case = ada.case(pictures=[cell_picture(1)], subject="P-7")
    cell = ada.cells(case)[0]
    token = ada.post("/tokens", json={"name": "script"}).json()["id"]
    account = ada.get("/accounts").json()["accounts"][0]["id"]
    of_it = {"image_id": cell["image"], "cell_id": cell["id"], "token_id": token, "account_id": account}
    return {"case_id": case, "level": 0, "column": 0, "row": 0, "place": 1} | of_it


@pytest.mark.parametrize("origin", ["https://evil.example", "http://testserver.evil.example", "null", "file://"])
def test_a_page_of_another_site_may_not_change_anything(laboratory: Place, origin: str) -> None:
    ada = laboratory.visitor("ada")
    answer = ada.post("/cases", json={"name": "new"}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
    assert ada.get("/cases", headers={"Origin": origin}).status_code == 200
    assert ada.get("/cases").json()["cases"] == []


def test_a_page_of_the_room_itself_may(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    answer = ada.post("/cases", json={"name": "new"}, headers={"Origin": str(ada.client.base_url).rstrip("/")})
    assert answer.status_code == 201


def test_the_description_lists_every_route(place: Place) -> None:
    def within(router: Any) -> Iterator[str]:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.path.startswith(PREFIX):
                yield route.path

    assert set(within(place.app)) <= {PREFIX + path for _, path in routes(place)}
    assert len(list(routes(place))) > 35


def test_nobody_gets_anything(laboratory: Place, ids: dict[str, int]) -> None:
    for method, path in routes(laboratory):
        if (method, path) not in OPEN:
            answer = ask(laboratory.nobody(), method, path, ids)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["error"]["code"] == "not_signed_in"


def test_a_reader_may_read_and_review_and_no_more(laboratory: Place, ids: dict[str, int]) -> None:
    ron = laboratory.visitor("ron")
    for method, path in sorted(routes(laboratory)):
        if (method, path) in NOT_FOR_READERS:
            answer = ask(ron, method, path, ids)
            assert answer.status_code == 403, (method, path, answer.text)
            assert answer.json()["error"]["code"] == "not_allowed"
    assert ask(ron, "POST", "/cells/{cell_id}/reviews", ids).status_code == 201


def test_another_laboratory_sees_nothing_of_it(laboratory: Place, ids: dict[str, int]) -> None:
    sue = laboratory.visitor("sue")
    for method, path in sorted(routes(laboratory)):
        if (method, path) not in OPEN | OF_ALL:
            answer = ask(sue, method, path, ids)
            assert answer.status_code == 404, (method, path, answer.status_code, answer.text)
    assert sue.get("/cases").json()["total"] == 0
    assert {each["name"] for each in sue.get("/accounts").json()["accounts"]} == {"sue"}
    assert {each["account"] for each in sue.get("/audit-log").json()["entries"]} == {"sue"}
    assert laboratory.visitor("ada").get(f"/cases/{ids['case_id']}").json()["name"] == "case"


def test_a_browser_must_repeat_its_csrf_token(laboratory: Place, ids: dict[str, int]) -> None:
    ada = laboratory.visitor("ada")
    for csrf in ("", "wrong", laboratory.visitor("rita").csrf):
        ada.csrf = csrf
        for method, path in routes(laboratory):
            if method != "GET" and (method, path) not in OPEN:
                answer = ask(ada, method, path, ids)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf"), (method, path)


def test_a_token_of_the_api_needs_no_cookie_and_ends_when_it_is_ended(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    made = ada.post("/tokens", json={"name": "script", "scopes": ["read", "upload"]}).json()
    program = bearer(laboratory, made)
    assert program.post("/cases", json={"name": "by a program"}).status_code == 201
    assert made["token"] not in str(ada.get("/tokens").json()), "its text is shown once"
    ada.delete(f"/tokens/{made['id']}")
    assert program.get("/cases").status_code == 401


def bearer(place: Place, made: dict[str, Any]) -> Visitor:
    """A program with a token."""
    program = place.nobody()
    program.client.headers["Authorization"] = f"Bearer {made['token']}"
    return program


def test_an_account_that_is_closed_is_out_at_once(laboratory: Place) -> None:
    ada, ron = laboratory.visitor("ada"), laboratory.visitor("ron")
    number = next(each["id"] for each in ada.get("/accounts").json()["accounts"] if each["name"] == "ron")
    ada.patch(f"/accounts/{number}", json={"active": False})
    assert ron.get("/cases").status_code == 401
    again = laboratory.nobody().post("/session", json={"name": "ron", "password": PASSWORD})
    assert again.status_code == 401


def test_nobody_takes_their_own_rights(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    number = ada.get("/session").json()["account"]["id"]
    assert ada.patch(f"/accounts/{number}", json={"role": "reader"}).json()["error"]["code"] == "own_account"


def test_signing_out_ends_the_session(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    cookie = ada.client.cookies["leukoscope_session"]
    ada.delete("/session")
    ada.client.cookies.set("leukoscope_session", cookie)
    assert ada.get("/cases").status_code == 401


def test_the_token_of_the_start_opens_once(place: Place) -> None:
    assert place.room.token
    text = place.room.token.text
    assert place.nobody().post("/session", json={"token": "x" + text}).json()["error"]["code"] == "wrong_token"
    assert place.nobody().post("/session", json={"token": text}).status_code == 200
    assert place.nobody().post("/session", json={"token": text}).status_code == 401


def test_every_answer_carries_the_headers(place: Place) -> None:
    me = place.local()
    for answer in (me.get("/cases"), me.get("/nothing"), me.client.get("/"), me.client.get("/login")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert me.get("/cases").headers["cache-control"] == "no-store"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(settings: RoomSettings) -> None:
    for place in opened(settings):
        assert place.room.token
        answer = place.nobody().post("/session", json={"token": place.room.token.text})
        assert re.search(r"HttpOnly;.*SameSite=strict", answer.headers["set-cookie"])
        assert "Secure" not in answer.headers["set-cookie"], "this machine's own address has no TLS"
        outside = TestClient(place.app, base_url="https://127.0.0.1")
        over_tls = outside.post("/api/v1/session", json={"token": "wrong"})
        assert "strict-transport-security" in over_tls.headers


def test_another_name_for_this_machine_gets_no_answer(place: Place) -> None:
    answer = TestClient(place.app, base_url="http://evil.example").get("/api/v1/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")


def test_a_room_without_accounts_opens_on_this_machine_alone(settings: RoomSettings) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="leukoscope accounts add"):
            open_room(settings.model_copy(update={"host": host}))


def test_a_new_account_sees_the_cases_that_were_made_with_the_one_time_token(
    place: Place, settings: RoomSettings, tmp_path: Path
) -> None:
    case = place.local().case("made before anybody had an account")
    secret = tmp_path / "password.txt"
    secret.write_text(PASSWORD, encoding="utf-8")
    room = ["--data", str(settings.data), "--password-file", str(secret)]
    room += ["--database", settings.database] if settings.database else []
    made = CliRunner().invoke(leukoscope, ["accounts", "add", "ada", "--role", "admin", *room])
    assert (made.exit_code, made.output.split(",")[0]) == (0, "Made admin ada of local")
    assert [each["id"] for each in place.visitor("ada").get("/cases").json()["cases"]] == [case]
    place.account("sue", laboratory="south")
    unnamed = CliRunner().invoke(leukoscope, ["accounts", "add", "ron", *room])
    assert isinstance(unnamed.exception, UsageError)
    assert "local, south" in str(unnamed.exception)


def test_a_room_with_accounts_opens_to_others_and_prints_no_token(settings: RoomSettings) -> None:
    first = open_room(settings)
    Place(first, None).account("ada", role="admin")
    first.database.close()
    for place in opened(settings.model_copy(update={"host": "0.0.0.0"})):
        assert place.room.token is None
        answer = place.nobody().post("/session", json={"name": "ada", "password": PASSWORD})
        assert "Secure" in answer.headers["set-cookie"]


def test_logs_and_file_names_hold_no_identifiers(
    laboratory: Place, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="leukoscope")  # the test's own client logs addresses, queries too
    ada = laboratory.visitor("ada")
    case = ada.post("/cases", json={"name": "Erika Mustermann", "subject": "SECRET-4711"}).json()["id"]
    ada.send(case, cell_picture(1), b"broken", names=("Mustermann_1.png", "Mustermann_2.png"))
    ada.get("/cases?query=Mustermann")
    ada.get(f"/cases/{case}/exports/html")
    said = caplog.text + "".join(capfd.readouterr())
    assert "GET /cases" in said
    assert not re.search(r"Mustermann|SECRET|4711", said)
    files = [str(path) for path in Path(laboratory.room.settings.data).rglob("*")]
    assert not re.search(r"Mustermann|SECRET|4711", "\n".join(files))
    assert "Mustermann" not in str(ada.get("/audit-log").json())
    assert "Mustermann" not in ada.get("/metrics").text
