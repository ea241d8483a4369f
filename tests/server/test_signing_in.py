"""Passwords, sessions and tokens: what ends when, and what guessing costs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from leukoscope.cli.serve import accounts as command
from leukoscope.errors import UsageError
from leukoscope.server import accounts
from leukoscope.server.accounts import Attempts, hash_password
from leukoscope.server.database import AccountRow, Database, TokenRow
from leukoscope.server.refusals import Refusal
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import PASSWORD, Place, Visitor, cell_picture
from tests.server.test_security import bearer

NEW = "eleven green umbrellas"


def guess(place: Place, name: str, password: str = "never mind the gap") -> int:
    status: int = place.nobody().post("/session", json={"name": name, "password": password}).status_code
    return status


def test_guessing_a_password_has_to_wait(laboratory: Place) -> None:
    most = laboratory.room.settings.attempts
    assert [guess(laboratory, "ada") for _ in range(most)] == [401] * most
    late = laboratory.nobody().post("/session", json={"name": "ada", "password": PASSWORD})
    assert (late.status_code, late.json()["error"]["code"]) == (429, "too_many_attempts")
    time.sleep(int(late.headers["retry-after"]))
    assert guess(laboratory, "ada", PASSWORD) == 200, "the first wait is short, and whoever knows the password is in"
    assert guess(laboratory, "ada") == 401, "and what was guessed before is forgotten"


def test_guesses_at_once_are_counted_before_they_are_checked(
    laboratory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred at once: no more are hashed than the limit, one at a time, and nobody else waits for them."""
    checked, at_once, most_at_once = 0, 0, 0
    real, lock = accounts._HASHER.verify, threading.Lock()
    seconds: list[float] = []  # of each password that was hashed

    def counted(hashed: str, password: str) -> bool:
        nonlocal checked, at_once, most_at_once
        with lock:
            checked, at_once = checked + 1, at_once + 1
            most_at_once = max(most_at_once, at_once)
        begun = time.monotonic()
        try:
            return real(hashed, password)
        finally:
            with lock:
                at_once -= 1
                seconds.append(time.monotonic() - begun)

    ron = laboratory.visitor("ron")
    with laboratory.room.database.writing() as session:  # as costly to check as in use
        ada = session.scalar(select(AccountRow).where(AccountRow.name == "ada"))
        assert ada is not None
        ada.password = hash_password(PASSWORD)
    monkeypatch.setattr(type(accounts._HASHER), "verify", lambda _, hashed, password: counted(hashed, password))
    with ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(guess, laboratory, "ada") for _ in range(200)]
        started = time.monotonic()
        assert ron.post("/cases", json={"name": "meanwhile"}).status_code == 201
        waited = time.monotonic() - started
    statuses = {each.result() for each in answers}
    assert statuses <= {401, 429, 503}
    assert checked <= laboratory.room.settings.attempts + 1, "one more after the first wait"
    assert most_at_once <= 1
    assert waited < 100 * max(seconds), "far less than if all of them were hashed, which takes as long as they are many"


def test_a_stranger_locks_nobody_out(settings: RoomSettings, laboratory: Place) -> None:
    """Somebody else guesses at Ada's name from elsewhere; she signs in at once."""
    attempts, database = Attempts(3), laboratory.room.database
    for _ in range(3):
        attempts.begin(database, name="ada", address="203.0.113.9")
    with pytest.raises(Refusal, match="Wait"):
        attempts.begin(database, name="ada", address="203.0.113.9")
    attempts.begin(database, name="ada", address="192.0.2.1")


def test_an_address_that_guesses_at_many_names_waits_and_who_is_known_there_does_not(laboratory: Place) -> None:
    attempts, database = Attempts(3), laboratory.room.database
    attempts.begin(database, name="ada", address="2001:db8::1")
    with database.writing() as session:
        attempts.right(session, name="ada", address="2001:db8::1")
    for number in range(15):
        attempts.begin(database, name=f"name{number}", address=f"2001:db8::{number}")
    with pytest.raises(Refusal, match="Wait"):
        attempts.begin(database, name="another", address="2001:db8::ffff")
    attempts.begin(database, name="ada", address="2001:db8::2")


def test_a_second_process_counts_along_and_waits_grow_and_end(
    laboratory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, start = Database(laboratory.room.settings.url), time.time()
    waits = []
    for step in range(6):
        monkeypatch.setattr(time, "time", lambda now=start + 400 * step: now)
        Attempts(2).begin((laboratory.room.database, there)[step % 2], name="ada", address="10.0.0.1")
        with pytest.raises(Refusal) if step else _nothing() as refused:
            Attempts(2).begin(there, name="ada", address="10.0.0.1")
        waits.append(int(refused.value.headers["Retry-After"]) if step else 0)
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] > waits[1]
    assert max(waits) <= 301
    monkeypatch.setattr(time, "time", lambda: start + 4000 + 3600)
    Attempts(2).begin(there, name="ada", address="10.0.0.1")
    Attempts(2).begin(there, name="ada", address="10.0.0.1")
    there.close()


class _nothing:  # noqa: N801
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def test_a_new_password_ends_sessions_and_tokens(laboratory: Place) -> None:
    ada, ron = laboratory.visitor("ada"), laboratory.visitor("ron")
    token = bearer(laboratory, ron.post("/tokens", json={"name": "script"}).json())
    assert token.get("/cases").status_code == 200
    number = next(each["id"] for each in ada.get("/accounts").json()["accounts"] if each["name"] == "ron")
    assert ada.patch(f"/accounts/{number}", json={"password": NEW}).status_code == 200
    assert (ron.get("/cases").status_code, token.get("/cases").status_code) == (401, 401)
    assert laboratory.visitor("ron", NEW).get("/cases").status_code == 200


@pytest.mark.parametrize("name", ["ada", "ron"])
def test_everybody_changes_their_own_password_and_the_rest_ends(laboratory: Place, name: str) -> None:
    here, there = laboratory.visitor(name), laboratory.visitor(name)
    token = bearer(laboratory, here.post("/tokens", json={"name": "script"}).json())
    wrong = here.put("/session/password", json={"password": "wrong", "new": NEW})
    assert (wrong.status_code, there.get("/cases").status_code) == (403, 200)
    assert here.put("/session/password", json={"password": PASSWORD, "new": NEW}).status_code == 200
    assert here.get("/cases").status_code == 200, "who changes it stays"
    assert (there.get("/cases").status_code, token.get("/cases").status_code) == (401, 401)
    assert guess(laboratory, name, PASSWORD) == 401
    assert guess(laboratory, name, NEW) == 200


def test_an_admin_who_changes_the_own_password_ends_the_other_sessions(laboratory: Place) -> None:
    here, there = laboratory.visitor("ada"), laboratory.visitor("ada")
    own = here.get("/session").json()["account"]["id"]
    assert here.patch(f"/accounts/{own}", json={"password": NEW}).status_code == 200
    assert (here.get("/cases").status_code, there.get("/cases").status_code) == (200, 401)


def test_the_command_ends_sessions_and_tokens_too(laboratory: Place, tmp_path: object) -> None:
    ron = laboratory.visitor("ron")
    made = ron.post("/tokens", json={"name": "script"}).json()
    token, settings = bearer(laboratory, made), laboratory.room.settings
    at = ["--data", str(settings.data), *(["--database", settings.database] if settings.database else [])]
    assert f"token {made['id']} 'script' (read)" in CliRunner().invoke(command, ["list", *at]).output
    file = settings.data / "new-password"
    file.write_text(NEW)
    changed = CliRunner().invoke(command, ["password", "ron", "--password-file", str(file), *at])
    assert changed.exit_code == 0, changed.output
    assert (ron.get("/cases").status_code, token.get("/cases").status_code) == (401, 401)
    again = laboratory.visitor("ron", NEW).post("/tokens", json={"name": "other"}).json()
    assert bearer(laboratory, again).get("/cases").status_code == 200
    assert CliRunner().invoke(command, ["revoke", str(again["id"]), *at]).exit_code == 0
    assert bearer(laboratory, again).get("/cases").status_code == 401


def scoped(place: Place, ada: Visitor, *scopes: str) -> Visitor:
    return bearer(place, ada.post("/tokens", json={"name": "script", "scopes": list(scopes)}).json())


def test_a_token_does_what_its_scopes_say_and_no_more(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    case = ada.case(pictures=[cell_picture(1)])
    read, upload, review = (scoped(laboratory, ada, "read", each) for each in ("read", "upload", "review"))
    assert [each.get("/cases").status_code for each in (read, upload, review)] == [200] * 3
    assert [each.post("/cases", json={"name": "x"}).status_code for each in (read, upload, review)] == [403, 201, 403]
    signed = [each.sign(case).status_code for each in (read, upload, review)]
    assert signed == [403, 403, 200]
    for each in (read, upload, review):
        for refused in (
            each.post("/tokens", json={"name": "more"}),
            each.post("/accounts", json={"name": "x", "password": NEW}),
            each.put("/session/password", json={"password": PASSWORD, "new": NEW}),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_for_this_token")
    write_only = scoped(laboratory, ada, "upload")
    assert write_only.get("/cases").status_code == 403


def test_a_token_lives_ninety_days_and_at_most_a_year_and_says_when_it_was_used(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    made = ada.post("/tokens", json={"name": "script"}).json()
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=89) < left < timedelta(days=91)
    assert (made["scopes"], made["last_used"]) == (["read"], None)
    assert ada.post("/tokens", json={"name": "long", "days": 366}).status_code == 422
    bearer(laboratory, made).get("/cases")
    used = ada.get("/tokens").json()["tokens"][0]["last_used"]
    assert datetime.now(UTC) - datetime.fromisoformat(used) < timedelta(minutes=1)
    assert next(each for each in ada.get("/accounts").json()["accounts"] if each["name"] == "ada")["tokens"]
    with laboratory.room.database.writing() as session:
        session.scalars(select(TokenRow)).one().expires = "2020-01-01T00:00:00+00:00"
    assert bearer(laboratory, made).get("/cases").status_code == 401


def test_an_admin_ends_the_tokens_of_the_laboratory_and_of_no_other(laboratory: Place) -> None:
    made = laboratory.visitor("ron").post("/tokens", json={"name": "script"}).json()
    assert laboratory.visitor("rita").delete(f"/tokens/{made['id']}").status_code == 404
    assert laboratory.visitor("sue").delete(f"/tokens/{made['id']}").status_code == 404
    assert laboratory.visitor("ada").delete(f"/tokens/{made['id']}").status_code == 200
    assert bearer(laboratory, made).get("/cases").status_code == 401


@pytest.mark.parametrize(
    "password",
    ["1234567890", "password1234", "qwertyuiop12", "aaaaaaaaaaaaaa", "leukoscope1", "ada-ada-ada-ada", "short"],
)
def test_a_password_that_is_easy_to_guess_is_refused(password: str) -> None:
    with pytest.raises(UsageError, match="password"):
        hash_password(password, about=("ada",))
    assert hash_password(NEW, about=("ada",)).startswith("$argon2id$")
