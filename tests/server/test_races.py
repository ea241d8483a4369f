"""Two writes at the same moment, with two connections and a barrier: whichever comes first, the other sees it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import select

from leukoscope.server.accounts import has_admin, hash_password, lock_account, revoke
from leukoscope.server.database import (
    AccountRow,
    AuditEntryRow,
    CaseRow,
    CellRow,
    Database,
    LoginRow,
    ReviewRow,
    TokenRow,
)
from tests.server.conftest import PASSWORD, Place, Visitor, cell_picture, png
from tests.server.test_reading import smear

ROUNDS = 6
SQUARE = [[40, 40], [120, 40], [120, 120], [40, 120]]


@pytest.fixture
def shared(laboratory: Place) -> tuple[Place, int, dict[str, Any]]:
    """A case with one field and its cells."""
    return laboratory, *field_case(laboratory.visitor("ada"))


def field_case(me: Visitor) -> tuple[int, dict[str, Any]]:
    """Make a case with one field; return it and one of its cells."""
    case = me.case()
    assert me.send(case, png(smear()), um_per_px=0.1).json()["progress"]["done"] == 1
    return case, me.cells(case)[0]


def crop_case(me: Visitor) -> tuple[int, dict[str, Any]]:
    """Make a case with one cell, which is quicker."""
    case = me.case(pictures=[cell_picture(1)])
    return case, me.cells(case)[0]


def at_once(*writes: Callable[[], Any]) -> list[Any]:
    """Send several requests at the same moment, each in a thread and a database connection of its own."""
    barrier = threading.Barrier(len(writes))

    def run(write: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return write()

    with ThreadPoolExecutor(len(writes)) as pool:
        return list(pool.map(run, writes))


class Writes:
    """Every write that depends on the state of a case, as one person sends it."""

    def __init__(self, visitor: Visitor, case: int, cell: dict[str, Any]) -> None:
        self.me, self.case, self.cell = visitor, case, cell

    def case_etag(self) -> str:
        return str(self.me.get(f"/cases/{self.case}").json()["etag"])

    def cell_etag(self) -> str:
        return str(self.me.get(f"/cells/{self.cell['id']}").json()["etag"])

    def prepared(self, name: str) -> Callable[[], Any]:
        """Return a write that has looked at the newest state and is ready to be sent."""
        me, cell, case = self.me, self.cell["id"], self.case
        of_case, of_cell = ({"If-Match": f'"{etag}"'} for etag in (self.case_etag(), self.cell_etag()))
        image = {"If-Match": me.get(f"/images/{self.cell['image']}").headers["etag"]}
        outline, number = {"outline": SQUARE}, self.cell["image"]
        many = {"label": "blast", "cells": [self.cell_etag()]}
        replaced = {"cells": [cell], "outlines": [SQUARE]}
        writes: dict[str, Callable[[], Any]] = {
            "review": lambda: me.post(f"/cells/{cell}/reviews", json={"label": "blast"}, headers=of_cell),
            "review many": lambda: me.post(f"/cases/{case}/reviews", json=many),
            "replace": lambda: me.post(f"/images/{number}/replacements", json=replaced, headers=of_cell),
            "redraw": lambda: me.patch(f"/cells/{cell}", json=outline, headers=of_cell),
            "remove": lambda: me.delete(f"/cells/{cell}", headers=of_cell),
            "add": lambda: me.post(f"/cases/{case}/cells", json=outline | {"image": self.cell["image"]}),
            "undo": lambda: me.post(f"/cases/{case}/undo", headers=of_cell),
            "sign": lambda: me.post(f"/cases/{case}/sign-off", headers=of_case),
            "rename": lambda: me.patch(f"/cases/{case}", json={"name": "renamed"}),
            "upload": lambda: me.send(case, cell_picture(3), wait=0),
            "delete image": lambda: me.delete(f"/images/{self.cell['image']}", headers=image),
            "delete": lambda: me.delete(f"/cases/{case}", headers=of_case),
        }
        return writes[name]


CHANGES = ("review", "review many", "replace", "redraw", "remove", "add", "undo", "rename", "upload", "delete image")


@pytest.mark.parametrize("change", CHANGES)
def test_a_signed_case_never_changes(laboratory: Place, change: str) -> None:
    """A sign-off and another write at once: nothing of the case is changed between sign-off and reopening."""
    case, cell = (field_case if change in ("redraw", "replace", "add") else crop_case)(laboratory.visitor("ada"))
    place = laboratory
    rita, ada = (Writes(place.visitor(name), case, cell) for name in ("rita", "ada"))
    if change == "undo":
        ada.prepared("review")()
    for _ in range(1 if change in ("delete image", "remove", "replace") else ROUNDS):
        signed, changed = at_once(rita.prepared("sign"), ada.prepared(change))
        assert {signed.status_code, changed.status_code} <= {200, 201, 202, 409, 412}, (signed.text, changed.text)
        if signed.status_code == 200:
            assert signed.json()["cells"] is not None
            reopen(rita)
        if change == "undo":
            ada.prepared("review")()
    assert changed_while_signed(place.room.database) == []


def reopen(writes: Writes) -> None:
    headers = {"If-Match": f'"{writes.case_etag()}"'}
    assert writes.me.delete(f"/cases/{writes.case}/sign-off", headers=headers).status_code == 200


def changed_while_signed(database: Database) -> list[str]:
    """Return what the audit log tells of between a sign-off and the reopening."""
    signed, wrong = False, []
    with database.reading() as session:
        for entry in session.scalars(select(AuditEntryRow).order_by(AuditEntryRow.number)):
            if entry.action in ("signed off", "opened again"):
                signed = entry.action == "signed off"
            elif signed and entry.kind in ("case", "cell", "image") and entry.action != "exported":
                wrong.append(f"{entry.number} {entry.action}")
    return wrong


@pytest.mark.parametrize("one", [*CHANGES, "delete"])
def test_two_writes_at_once_are_one_after_the_other(laboratory: Place, one: str) -> None:
    """No pair of writes answers 500, and both see each other: what was seen before is refused by its etag."""
    people = [laboratory.visitor(name) for name in ("rita", "ada")]
    names = [*CHANGES, "delete"]
    for other in names[names.index(one) :]:
        case, cell = (field_case if {one, other} & {"redraw", "replace", "add"} else crop_case)(people[1])
        rita, ada = (Writes(each, case, cell) for each in people)
        first, second = at_once(rita.prepared(one), ada.prepared(other))
        statuses = {first.status_code, second.status_code}
        assert statuses <= {200, 201, 202, 404, 409, 412}, (other, first.text, second.text)
        assert statuses & {200, 201, 202}, "one of them is always done"
        if one == other and one in ("redraw", "remove", "delete", "delete image"):
            assert len(statuses) == 2, f"{one} is done once"


def test_a_cell_redrawn_twice_at_once_keeps_one_prediction_a_version(shared: tuple[Place, int, Any]) -> None:
    place, case, cell = shared
    people = [Writes(place.visitor(name), case, cell) for name in ("ada", "rita", "ron")]
    for _ in range(3):
        answers = at_once(*[person.prepared("redraw") for person in people])
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
        refused = next(answer for answer in answers if answer.status_code == 412).json()["error"]
        assert refused["detail"]["cell"]["etag"] == people[0].cell_etag(), "the answer holds the new state"


def test_four_undos_at_once_take_back_one_review_each_or_none(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    case = ada.case(pictures=[cell_picture(seed) for seed in range(4)])
    for cell in ada.cells(case):
        ada.post(f"/cells/{cell['id']}/reviews", json={"label": "blast"}, headers={"If-Match": f'"{cell["etag"]}"'})
    etag = {"If-Match": ada.get(f"/cases/{case}").headers["etag"]}
    answers = at_once(*[lambda: ada.post(f"/cases/{case}/undo", headers=etag)] * 4)
    done = [answer.json()["cell"]["id"] for answer in answers if answer.status_code == 200]
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
    with laboratory.room.database.reading() as session:
        undone = session.scalars(select(ReviewRow.cell_id).where(ReviewRow.undone)).all()
        assert list(undone) == done
        assert session.scalar(select(CaseRow.version)) is not None
        assert sorted(session.scalars(select(CellRow.label))) == ["", "blast", "blast", "blast"]


def test_one_name_becomes_one_account(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    new = {"name": "new", "password": "seven purple herons"}
    answers = at_once(*[lambda: ada.post("/accounts", json=new)] * 8)
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7, [each.text for each in answers]
    assert {each.json()["error"]["code"] for each in answers if each.status_code == 409} == {"name_taken"}


def test_a_password_that_is_refused_is_not_a_name_that_is_taken(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    for password in ("short", "password1234"):
        answer = ada.post("/accounts", json={"name": "new", "password": password})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "password")
        assert "password" in answer.json()["error"]["message"]
    account = ada.get("/accounts").json()["accounts"][0]["id"]
    changed = ada.patch(f"/accounts/{account}", json={"password": "short"})
    assert (changed.status_code, changed.json()["error"]["code"]) == (422, "password")
    taken = ada.post("/accounts", json={"name": "ada", "password": "seven purple herons"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "name_taken")


class Held:
    """An account that is being given a new password by somebody else, who has not come to the end."""

    def __init__(self, database: Database, account: str) -> None:
        self._writing, self._account = database.writing(), account

    def __enter__(self) -> None:
        session = self._writing.__enter__()
        number = session.scalar(select(AccountRow.id).where(AccountRow.name == self._account))
        assert number is not None
        found = lock_account(session, number)
        assert found is not None
        found.password = hash_password("seven purple herons")
        session.flush()
        revoke(session, found.id)

    def __exit__(self, *raised: object) -> None:
        self._writing.__exit__(None, None, None)


def meanwhile(place: Place, account: str, write: Callable[[], Any]) -> Any:
    """Send a request while the account gets a new password; it is stored once the request waits or is done."""
    with ThreadPoolExecutor(1) as pool:
        with Held(place.room.database, account):
            sent = pool.submit(write)
            wait([sent], timeout=3)
        return sent.result(60)


def test_a_new_password_ends_the_token_that_is_made_at_the_same_moment(laboratory: Place) -> None:
    ron = laboratory.visitor("ron")
    made = meanwhile(laboratory, "ron", lambda: ron.post("/tokens", json={"name": "t"}))
    if made.status_code == 201:
        bearer = {"Authorization": f"Bearer {made.json()['token']}"}
        assert laboratory.nobody().get("/cases", headers=bearer).status_code == 401
    with laboratory.room.database.reading() as session:
        assert session.scalars(select(TokenRow)).all() == []


def test_a_new_password_ends_the_session_that_begins_at_the_same_moment(laboratory: Place) -> None:
    ron = laboratory.nobody()
    entry = {"name": "ron", "password": PASSWORD}
    meanwhile(laboratory, "ron", lambda: ron.post("/session", json=entry))
    assert ron.get("/session").status_code == 401
    with laboratory.room.database.reading() as session:
        assert session.scalars(select(LoginRow)).all() == []


def test_two_admins_do_not_take_each_others_rights(laboratory: Place) -> None:
    laboratory.account("eve", role="admin")
    ada, eve = laboratory.visitor("ada"), laboratory.visitor("eve")
    ids = {each["name"]: each["id"] for each in ada.get("/accounts").json()["accounts"]}
    demoted = {"json": {"role": "reader"}}
    answers = at_once(
        lambda: ada.patch(f"/accounts/{ids['eve']}", **demoted), lambda: eve.patch(f"/accounts/{ids['ada']}", **demoted)
    )
    assert sorted(each.status_code for each in answers) in ([200, 401], [200, 403]), [each.text for each in answers]
    with laboratory.room.database.reading() as session:
        assert has_admin(session)


def test_a_crop_that_another_case_gives_up_at_the_same_moment_stays(shared: tuple[Place, int, dict[str, Any]]) -> None:
    """Two cases show the same cell; one is deleted while a reader draws the cell anew in the other."""
    place, case, cell = shared
    ada, rita = place.visitor("ada"), place.visitor("rita")
    for _ in range(3):
        other, twin = field_case(rita)
        Writes(rita, other, twin).prepared("redraw")()
        drawn, deleted = at_once(
            Writes(ada, case, cell).prepared("redraw"), Writes(rita, other, twin).prepared("delete")
        )
        assert (drawn.status_code, deleted.status_code) == (200, 200)
        with place.room.database.reading() as session:
            digest = session.get_one(CellRow, cell["id"]).digest
        assert place.room.pictures.path(digest).exists()


def test_an_undo_of_nothing_changes_nothing(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    case = ada.case(pictures=[cell_picture(1)])
    seen = ada.seen(f"/cases/{case}")
    assert laboratory.visitor("ron").undo(case).json()["cell"] is None
    assert ada.post(f"/cases/{case}/sign-off", headers=seen).status_code == 200


def test_a_review_names_the_outline_that_was_seen(shared: tuple[Place, int, dict[str, Any]]) -> None:
    place, case, cell = shared
    ada, ron = (Writes(place.visitor(name), case, cell) for name in ("ada", "ron"))
    review = ron.prepared("review")
    ada.prepared("redraw")()
    late = review()
    assert (late.status_code, late.json()["error"]["code"]) == (412, "changed")
    now = late.json()["error"]["detail"]["cell"]
    assert (now["id"], now["etag"], now["review"]) == (cell["id"], ron.cell_etag(), None)
    assert now["outline"] != cell["outline"] if "outline" in cell else now["outline"]
    assert late.headers["etag"] == f'"{now["etag"]}"'
    unsaid = ron.me.post(f"/cells/{cell['id']}/reviews", json={"label": "blast"})
    assert (unsaid.status_code, unsaid.json()["error"]["code"]) == (428, "if_match")
    every = ron.me.post(f"/cells/{cell['id']}/reviews", json={"label": "blast"}, headers={"If-Match": "*"})
    assert every.status_code == 428, "who says 'whatever it is' has not looked"
    assert "not understood" in every.json()["error"]["message"]
    assert '"12-1"' in every.json()["error"]["message"]
    unsaid = ada.me.post(f"/cases/{case}/sign-off")
    assert unsaid.json()["error"]["message"].startswith("The header If-Match is missing.")
    assert '"case-12-1"' in unsaid.json()["error"]["message"], "an etag as cases have them"
    assert ron.prepared("review")().status_code == 201


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("patch", "/cells/{cell}"),
        ("delete", "/cells/{cell}"),
        ("post", "/cases/{case}/undo"),
        ("post", "/cases/{case}/sign-off"),
        ("post", "/cases/{case}/analysis"),
        ("delete", "/cases/{case}"),
        ("delete", "/images/{image}"),
    ],
)
def test_every_change_of_what_was_seen_names_it(
    shared: tuple[Place, int, dict[str, Any]], method: str, path: str
) -> None:
    place, case, cell = shared
    me = place.visitor("ada")
    if path.endswith("undo"):
        Writes(me, case, cell).prepared("review")()
    address = path.format(cell=cell["id"], case=case, image=cell["image"])
    body = {"json": {"outline": SQUARE}} if method == "patch" else {}
    assert getattr(me, method)(address, **body).status_code == 428
    for stale in ('"1-0"', '"case-1-0"', 'nonsense, W/"x"'):
        answer = getattr(me, method)(address, headers={"If-Match": stale}, **body)
        assert answer.status_code == 412, answer.text
        assert answer.json()["error"]["detail"], "it holds the new state"


def test_a_sign_off_counts_what_was_seen(laboratory: Place) -> None:
    """Somebody else's review between looking and signing: the signer looks again."""
    ada, ron = laboratory.visitor("ada"), laboratory.visitor("ron")
    case = ada.case(pictures=[cell_picture(1)])
    seen = {"If-Match": ada.get(f"/cases/{case}").headers["etag"]}
    cell = ron.cells(case)[0]
    ron.post(f"/cells/{cell['id']}/reviews", json={"label": "normal"}, headers={"If-Match": f'"{cell["etag"]}"'})
    late = ada.post(f"/cases/{case}/sign-off", headers=seen)
    assert late.status_code == 412
    assert late.json()["error"]["detail"]["case"]["unread"] == 0
    again = {"If-Match": late.headers["etag"]}
    assert ada.post(f"/cases/{case}/sign-off", headers=again).status_code == 200
