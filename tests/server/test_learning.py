"""Learning from the room: what is learned from, how it is judged, who answers, what is read next, when to stop."""

import csv
import io
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update

from leukoscope.adaptation import Head, Reviewed
from leukoscope.bundle.manifest import UNSURE, open_bundle
from leukoscope.server import learning
from leukoscope.server.accounts import Caller
from leukoscope.server.database import (
    OPEN,
    RUNNING,
    SIGNED,
    AccountRow,
    AdaptationRow,
    AuditEntryRow,
    CaseRow,
    CellRow,
    ImageRow,
    LaboratoryRow,
    PredictionRow,
    ReviewRow,
    now,
)
from leukoscope.server.learning import NEWEST, newest_in_words
from leukoscope.server.readings import add_answer
from leukoscope.server.settings import RoomSettings
from leukoscope.server.worklist import WINDOW, stop_rule
from tests.server.conftest import Place, Visitor, cell_picture, opened, png, synthetic
from tests.server.small_bundle import CHANNELS, small_bundle
from tests.server.test_queue import start_worker
from tests.server.test_races import at_once

SUBJECTS, EACH = 8, 6  # subjects of one class each, and cells of each of them


@pytest.fixture
def idle(settings: RoomSettings) -> Iterator[Place]:
    """A room whose worker is elsewhere."""
    yield from opened(settings.model_copy(update={"work": False}))


def pictures(count: int, *, seed: int, blast: bool) -> list[bytes]:
    """Cells of one class: synthetic donors with an odd seed are blasts."""
    return [cell_picture(1000 * seed + 2 * number + blast) for number in range(count)]


def read_case(me: Visitor, name: str, *, blast: bool, seed: int, cells: int = EACH) -> int:
    """Make a case of one subject, call all of its cells what they are, and sign it off."""
    case = me.case(name, subject=name, pictures=pictures(cells, seed=seed, blast=blast))
    for cell in me.cells(case):
        said = me.review(cell["id"], "blast" if blast else "normal")
        assert said.status_code == 201, said.text
    signed = me.sign(case)
    assert signed.status_code == 200, signed.text
    return case


def taught(place: Place, me: Visitor, *, subjects: int = SUBJECTS, first: int = 0, labels: Sequence[str] = ()) -> None:
    """Sign off cases of several subjects, half of each class; what people say goes into the database at once."""
    for number in range(first, first + subjects):
        blast = bool(number % 2)
        case = me.case(f"P{number}", subject=f"P{number}", pictures=pictures(EACH, seed=number + 1, blast=blast))
        sign(place, case, labels[number - first] if labels else ("normal", "blast")[blast])


def sign(place: Place, case: int, label: str) -> None:
    """Call all cells of a case the same, and sign it off."""
    with place.room.database.writing() as session:
        found = session.get_one(CaseRow, case)
        maker = session.get_one(AccountRow, found.created_by)
        caller = Caller(maker.id, maker.name, maker.role, maker.laboratory_id, "")
        for cell in session.scalars(select(CellRow).where(CellRow.case_id == case)):
            add_answer(session, caller, found, cell, label)
        found.state, found.signed, found.signed_by = SIGNED, now(), maker.id


def fitted(me: Visitor) -> dict[str, Any]:
    """Begin to fit a model, wait until that has come to an end, and return it."""
    begun = me.post("/learning/models")
    assert begun.status_code == 202, begun.text
    return wait_for(me, begun.json()["begun"])


def wait_for(me: Visitor, number: int, *, states: Sequence[str] = ("done", "failed")) -> dict[str, Any]:
    until = time.monotonic() + 200
    while True:
        found: dict[str, Any] = next(each for each in me.get("/learning").json()["adaptations"] if each["id"] == number)
        if found["state"] in states:
            return found
        assert time.monotonic() < until, f"still {found['state']}"
        time.sleep(0.05)


def choose(me: Visitor, seal: str) -> Any:
    return me.put("/learning/model", json={"model": seal}, headers=me.seen("/learning"))


def missing(me: Visitor) -> str:
    """Return what is said to be missing, by the page and by whoever tries."""
    told = str(me.get("/learning").json()["cells"]["missing"])
    answer = me.post("/learning/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_little")
    assert answer.json()["error"]["message"] == told
    return told


def judges(me: Visitor, case: int) -> list[str]:
    """Return the models whose answers stand in a case."""
    return [each["hash"] for each in me.get(f"/cases/{case}/summary").json()["models"]]


def test_a_model_is_fitted_judged_chosen_and_given_up_again(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    cases = [read_case(ada, f"P{number}", blast=bool(number % 2), seed=number + 1) for number in range(SUBJECTS)]
    before = ada.get(f"/cases/{cases[0]}/summary").json()
    own = ada.get("/learning").json()["present"]
    made = fitted(ada)
    assert made["state"] == "done", made["error"]
    result = made["result"]
    assert result["learned"] == {
        "cells": SUBJECTS * EACH,
        "cases": SUBJECTS,
        "subjects": SUBJECTS,
        "classes": {"normal": SUBJECTS * EACH // 2, "blast": SUBJECTS * EACH // 2},
    }
    assert (result["unit"], result["cells"]) == ("subject", SUBJECTS * EACH)
    for which in ("old", "new"):
        assert 0 <= result[which]["auroc"]["low"] <= result[which]["auroc"]["value"] <= result[which]["auroc"]["high"]
    assert result["differences"]["brier"]["low"] is not None
    told = ada.get("/learning").json()
    assert told["present"] == own == made["compared_with"], "it answers nobody until it is chosen"
    assert choose(ada, made["hash"]).status_code == 200
    assert ada.get("/learning").json()["present"] == made["hash"]
    assert ada.get("/models").json()["served"] == made["hash"]
    kept = laboratory.room.settings.data / "models" / made["hash"]
    assert open_bundle(kept).manifest.training["adapted_from"] == own
    # what was judged stays as it is, and says by whom
    assert ada.get(f"/cases/{cases[0]}/summary").json()["models"] == before["models"]
    assert before["models"][0]["hash"] == own
    new = ada.case("new", subject="N", pictures=[cell_picture(7)])
    assert judges(ada, new) == [made["hash"]]
    assert choose(ada, own).status_code == 200
    assert ada.get("/models").json()["served"] == own
    after = ada.case("after", subject="M", pictures=[cell_picture(9)])
    assert judges(ada, after) == [own]
    lines = [each for each in ada.get("/audit-log", params={"limit": 500}).json()["entries"] if each["kind"] == "model"]
    assert [each["action"] for each in reversed(lines)] == ["began to fit", "fitted", "chose", "chose"]
    assert lines[1]["detail"]["instead_of"] == own
    assert lines[1]["detail"]["figures"]["new"]["auroc"] == result["new"]["auroc"]["value"]
    with laboratory.room.database.reading() as session:
        laboratory.room.log.verify(session)


def test_what_is_missing_is_said_in_one_sentence(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    assert missing(ada).startswith("No signed-off case holds a cell that a reader called normal or blast.")
    read = ada.case("open", pictures=pictures(12, seed=1, blast=False))
    assert ada.review(ada.cells(read)[0]["id"], "normal").status_code == 201
    assert missing(ada).startswith("No signed-off case holds"), "what nobody signed teaches nothing"
    taught(laboratory, ada, subjects=4, labels=["normal"] * 4)
    assert missing(ada).startswith(
        "There is no signed-off cell of the class blast; at least 10 of each class are needed"
    )
    taught(laboratory, ada, subjects=1, first=50, labels=["blast"])
    assert missing(ada).startswith(
        "There are 6 different signed-off cells of the class blast (copies of a cell count once); at least 10 of each"
    )
    taught(laboratory, ada, subjects=1, first=51, labels=["blast"])
    assert missing(ada).startswith(
        "The signed-off cells of the class blast are of 2 subjects; at least 3 of each class"
    )
    taught(laboratory, ada, subjects=1, first=52, labels=["blast"])
    assert ada.get("/learning").json()["cells"]["missing"] == ""


def test_begun_twice_at_once_is_one_model(idle: Place) -> None:
    """Two admins press the button in the same moment."""
    me = idle.local()
    fill_without_worker(idle, me)
    answers = at_once(*[lambda: me.post("/learning/models")] * 4)
    assert [each.status_code for each in answers] == [202] * 4
    assert {each.json()["begun"] for each in answers} == {1}
    assert sum(each.json()["new"] for each in answers) == 1
    with idle.room.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(AdaptationRow)) == 1


def fill_without_worker(place: Place, me: Visitor) -> None:
    """Sign off cells in a room that analyses nothing itself."""
    for number in range(SUBJECTS):
        case = me.case(f"P{number}", subject=f"P{number}")
        content = pictures(EACH, seed=number + 1, blast=bool(number % 2))
        me.send(case, *content, wait=0)
        with place.room.database.writing() as session:
            for image in session.scalars(select(ImageRow).where(ImageRow.case_id == case)).all():
                cell = CellRow(case_id=case, image_id=image.id, number=image.number, digest=image.digest)
                session.add(cell)
        sign(place, case, ("normal", "blast")[number % 2])


def test_kill_9_while_a_model_is_fitted_loses_nothing_and_makes_one(idle: Place) -> None:
    me = idle.local()
    fill_without_worker(idle, me)
    number = me.post("/learning/models").json()["begun"]
    for attempt in (1, 2):
        worker = start_worker(idle.room.settings)
        wait_for_attempt(idle, attempt)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        assert wait_for_attempt(idle, attempt) == RUNNING, "it was killed in the middle"
    worker = start_worker(idle.room.settings)
    found = wait_for(me, number)
    worker.kill()
    assert found["state"] == "done", found["error"]
    with idle.room.database.reading() as session:
        (row,) = session.scalars(select(AdaptationRow)).all()
        assert row.attempts == 3
        lines = session.scalars(
            select(AuditEntryRow.action).where(AuditEntryRow.kind == "model").order_by(AuditEntryRow.number)
        ).all()
        assert lines == ["began to fit", "fitted"]
    folder = idle.room.settings.data / "models"
    assert [each.name for each in folder.iterdir()] == [found["hash"]], "nothing half-written stays"


def wait_for_attempt(place: Place, number: int) -> str:
    """Wait until a model is fitted for the so-manieth time, and return its state."""
    until = time.monotonic() + 200
    while True:
        with place.room.database.reading() as session:
            (row,) = session.execute(select(AdaptationRow.attempts, AdaptationRow.state)).all()
        if row.attempts == number:
            return str(row.state)
        assert time.monotonic() < until, f"still {row}"
        time.sleep(0.01)


def test_what_was_asked_for_outlives_the_server(settings: RoomSettings) -> None:
    places = opened(settings.model_copy(update={"work": False}))
    place = next(places)
    me = place.local()
    fill_without_worker(place, me)
    number = me.post("/learning/models").json()["begun"]
    for _ in places:
        pass
    for again in opened(settings):
        assert wait_for(again.local(), number)["state"] == "done"


def test_a_model_at_which_the_program_dies_is_given_up(idle: Place) -> None:
    me = idle.local()
    fill_without_worker(idle, me)
    number = me.post("/learning/models").json()["begun"]
    with idle.room.database.writing() as session:
        session.execute(
            update(AdaptationRow).values(state=RUNNING, attempts=5, leased_until=0, owner="elsewhere/a/1/2")
        )
    worker = start_worker(idle.room.settings)
    found = wait_for(me, number)
    worker.kill()
    assert found["state"] == "failed"
    assert found["error"].startswith("Given up after 5 attempts")


def test_a_laboratory_neither_sees_nor_trains_on_nor_is_answered_by_what_is_anothers(laboratory: Place) -> None:
    ada, sue = laboratory.visitor("ada"), laboratory.visitor("sue")
    taught(laboratory, sue, subjects=3, first=100)  # of sue's cells alone nothing could be learned
    taught(laboratory, ada)
    made = fitted(ada)
    assert made["result"]["learned"]["subjects"] == SUBJECTS
    assert choose(ada, made["hash"]).status_code == 200
    theirs = sue.get("/learning").json()
    assert (theirs["cells"]["subjects"], theirs["adaptations"], theirs["present"]) == (3, [], theirs["own"]["hash"])
    assert sue.get("/models").json()["served"] == theirs["own"]["hash"]
    refused = choose(sue, made["hash"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    assert judges(sue, sue.case(pictures=[cell_picture(3)])) == [theirs["own"]["hash"]]
    assert sue.get("/learning/worklist").json()["cases"][0]["name"] == "case"
    assert ada.get("/learning/worklist").json()["cases"] == []
    names = {each["action"] for each in sue.get("/audit-log").json()["entries"] if each["kind"] == "model"}
    assert names == set()


def test_only_an_admin_fits_and_chooses_and_only_what_they_saw(laboratory: Place) -> None:
    ada, rita = laboratory.visitor("ada"), laboratory.visitor("rita")
    told = rita.get("/learning").json()
    assert told["may"] == {"fit": False, "choose": False, "analyse": True}
    assert rita.post("/learning/models").status_code == 403
    assert choose(rita, told["present"]).status_code == 403
    body = {"model": told["present"]}
    assert ada.put("/learning/model", json=body).status_code == 428
    stale = ada.put("/learning/model", json=body, headers={"If-Match": '"model-1-0000"'})
    assert stale.status_code == 412
    assert stale.json()["error"]["detail"]["learning"]["present"] == told["present"]
    for wrong in ("", "x" * 64, "A" * 64, "../../etc"):
        assert choose(ada, wrong).status_code == 422
    assert choose(ada, "0" * 64).status_code == 404


def test_a_model_is_compared_with_an_adapted_one_on_subjects_that_neither_has_learned_from(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    taught(laboratory, ada)
    first = fitted(ada)
    assert choose(ada, first["hash"]).status_code == 200
    told = missing(ada)
    assert told.startswith(f"The model in use was trained on {SUBJECTS} of these {SUBJECTS} subjects")
    assert "go back to the room’s own model first" in told
    taught(laboratory, ada, first=20)
    second = fitted(ada)
    assert second["state"] == "done", second["error"]
    assert second["compared_with"] == first["hash"]
    assert second["result"]["learned"]["subjects"] == 2 * SUBJECTS
    assert (second["result"]["subjects"], second["result"]["cells"]) == (SUBJECTS, SUBJECTS * EACH)
    assert choose(ada, second["compared_with"]).status_code == 200, "and one can go back to any of them"
    # the figures of the old one are what the old one says of these cells
    bundle = laboratory.room.models.named(first["hash"])
    errors = []
    for number in range(20, 20 + SUBJECTS):
        blast = number % 2
        for content in pictures(EACH, seed=number + 1, blast=bool(blast)):
            digest = laboratory.room.pictures.add(content)
            opinion = bundle.opinion(laboratory.room.pictures.path(digest))
            if opinion.probabilities is None:
                pytest.skip("a cell of the comparison is refused")
            errors.append((opinion.probabilities["blast"] - blast) ** 2)
    assert second["result"]["old"]["brier"]["value"] == pytest.approx(np.mean(errors), abs=1e-4)


def test_the_same_cell_in_two_cases_links_their_subjects(laboratory: Place) -> None:
    """Held out apart, one would be judged by what has learned from the other: also where only the bytes differ."""
    ada = laboratory.visitor("ada")
    taught(laboratory, ada)
    same = pictures(EACH, seed=1, blast=False)  # those of P0
    sign(laboratory, ada.case("copy", subject="Q", pictures=same), "normal")
    assert ada.get("/learning").json()["cells"]["subjects"] == SUBJECTS
    seen_again = synthetic(1000 * 3)  # a cell of P2, a shade brighter
    brighter = png(np.where(seen_again > 0, np.minimum(seen_again.astype(int) + 3, 255), 0).astype(np.uint8))
    sign(laboratory, ada.case("again", subject="R", pictures=[brighter]), "normal")
    assert ada.get("/learning").json()["cells"]["subjects"] == SUBJECTS + 1, "by its bytes it is another cell"
    made = fitted(ada)
    assert made["state"] == "done", made["error"]
    assert made["result"]["learned"]["subjects"] == SUBJECTS


def test_names_of_subjects_are_neither_in_the_bundle_nor_in_what_is_kept_of_it(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    for number in range(SUBJECTS):
        content = pictures(EACH, seed=number + 1, blast=bool(number % 2))
        case = ada.case("x", subject=f"Miller{number}", pictures=content)
        sign(laboratory, case, ("normal", "blast")[number % 2])
    made = fitted(ada)
    folder = laboratory.room.settings.data / "models" / made["hash"]
    kept = "".join(path.read_text(errors="replace") for path in (folder / "bundle.json", folder / "card.md"))
    with laboratory.room.database.reading() as session:
        row = session.scalar(select(AdaptationRow))
        assert row is not None
        kept += str(row.subjects) + str(row.result) + str(ada.get("/audit-log").json())
    assert "iller" not in kept
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*"))} == {0}


def test_a_picture_that_is_gone_costs_the_others_nothing(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    taught(laboratory, ada)
    with laboratory.room.database.reading() as session:
        digest = session.scalar(select(CellRow.digest).limit(1))
    assert digest
    laboratory.room.pictures.path(digest).unlink()
    made = fitted(ada)
    assert (made["state"], made["result"]["unusable"]) == ("done", 1)
    assert made["result"]["learned"]["cells"] == SUBJECTS * EACH - 1


def test_a_case_keeps_its_answers_until_somebody_asks_for_a_new_analysis(laboratory: Place) -> None:
    ada, ron = laboratory.visitor("ada"), laboratory.visitor("ron")
    taught(laboratory, ada)
    case = ada.case("open", pictures=[cell_picture(seed) for seed in (5, 6)])
    cell = ada.cells(case, order="number")[0]
    assert ada.review(cell["id"], "normal").status_code == 201
    own = ada.get("/learning").json()["present"]
    made = fitted(ada)
    headers = ada.seen(f"/cases/{case}")
    early = ada.post(f"/cases/{case}/analysis", headers=headers)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "judged")
    assert choose(ada, made["hash"]).status_code == 200
    assert judges(ada, case) == [own]
    assert ron.post(f"/cases/{case}/analysis", headers=headers).status_code == 403
    begun = ada.post(f"/cases/{case}/analysis", headers=ada.seen(f"/cases/{case}"))
    assert begun.status_code == 202, begun.text
    finished(ada, case)
    assert judges(ada, case) == [made["hash"]]
    again = ada.cells(case, order="number")
    assert [each["number"] for each in again] == [1, 2], "no cell was added"
    assert again[0]["review"]["label"] == "normal", "the answers of people stay"
    assert again[0]["etag"] != cell["etag"], "who looks at the old answer is told"
    with laboratory.room.database.reading() as session:
        said = session.scalars(select(PredictionRow.bundle).where(PredictionRow.cell_id == cell["id"])).all()
    assert sorted(said) == sorted([own, made["hash"]]), "the answers of the old model are kept"
    rows = csv.DictReader(io.StringIO(ada.get(f"/cases/{case}/exports/csv").text))
    assert {row["bundle"] for row in rows} == {made["hash"]}
    assert made["hash"] in ada.get(f"/cases/{case}/exports/html").text
    assert choose(ada, own).status_code == 200
    assert made["hash"] in ada.get(f"/cases/{case}/exports/html").text, "a report names who judged, not who would now"
    assert ada.sign(case).status_code == 200
    signed = ada.post(f"/cases/{case}/analysis", headers=ada.seen(f"/cases/{case}"))
    assert (signed.status_code, signed.json()["error"]["code"]) == (409, "signed")


def finished(me: Visitor, case: int) -> None:
    until = time.monotonic() + 60
    while not me.get(f"/cases/{case}/progress").json()["finished"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_case_that_several_people_read_is_not_analysed_again_under_them(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    taught(laboratory, ada)
    case = ada.case("two", pictures=[cell_picture(5)], readers=2)
    assert ada.review(ada.cells(case)[0]["id"], "normal").status_code == 201
    assert choose(ada, fitted(ada)["hash"]).status_code == 200
    refused = ada.post(f"/cases/{case}/analysis", headers=ada.seen(f"/cases/{case}"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "being_read")


def test_a_chosen_model_whose_files_are_damaged_is_said_and_another_can_be_chosen(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    taught(laboratory, ada)
    made = fitted(ada)
    own = ada.get("/learning").json()["own"]["hash"]
    assert choose(ada, made["hash"]).status_code == 200
    laboratory.room.models._loaded.clear()  # as after a restart
    with (laboratory.room.settings.data / "models" / made["hash"] / "model.onnx").open("ab") as file:
        file.write(b"more")
    case = ada.case("new")
    sent = ada.send(case, cell_picture(1))
    assert (sent.status_code, sent.json()["error"]["code"]) == (503, "model_away")
    ada.send(case, cell_picture(1), cell_picture(2))
    failures = ada.get(f"/cases/{case}/progress").json()["failures"]
    assert {each["error"].split(":")[0] for each in failures} == {
        f"The model {made['hash'][:12]} that this laboratory chose cannot be loaded"
    }
    assert choose(ada, own).status_code == 200
    assert ada.send(case, cell_picture(3)).status_code == 202


def test_a_room_that_serves_signed_models_alone_fits_none(settings: RoomSettings, tmp_path: Path) -> None:
    from leukoscope.bundle.signature import make_key
    from leukoscope.bundle.signature import sign as sign_bundle

    key, public = tmp_path / "key", tmp_path / "key.pub"
    make_key(key)
    assert isinstance(settings.model, Path)
    bundle = open_bundle(small_bundle(tmp_path / "signed"))
    sign_bundle(bundle, key, name="us")
    for place in opened(settings.model_copy(update={"trust": (public,), "model": bundle.path})):
        refused = place.local().post("/learning/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "unsigned")


# --- what the newest cells changed --------------------------------------------------------------------------------


def test_the_newest_cells_are_said_to_change_what_they_change() -> None:
    """Heads fitted with and without the newest cells are compared out of fold."""
    rng = np.random.default_rng(0)
    subjects, each = 40, 5
    labels = np.repeat(np.arange(subjects) % 2, each)
    points = rng.normal(size=(len(labels), 1, CHANNELS))
    points[:, 0, 0] += 4 * labels
    groups = np.repeat(np.arange(subjects), each)
    names = tuple(map(str, groups))
    seen = Reviewed(labels, groups, True, names, (points,), np.full((len(labels), 2), 0.5), ())
    read = [f"{number:04}" for number in range(len(labels))]
    old = (Head(np.array([[-1.0, 0, 0, 0, 0, 0]]), np.zeros(1)),)
    out_of_fold = learning.predict_out_of_fold(old, seen, np.ones(len(labels), bool), seed=0)
    found = learning._newest(old, seen, read, out_of_fold)
    assert found is not None
    older = np.arange(len(labels)) < len(labels) - NEWEST
    before = learning.predict_out_of_fold(old, seen, older, seed=0)
    assert found["changed"]["value"] == pytest.approx(np.mean(before.argmax(1) != out_of_fold.argmax(1)))
    assert found["with"]["value"] == pytest.approx(np.mean(out_of_fold.argmax(1) == labels))
    assert found["without"]["value"] == pytest.approx(np.mean(before.argmax(1) == labels))
    few = Reviewed(labels[:60], groups[:60], True, names[:60], (points[:60],), seen.old[:60], ())
    assert learning._newest(old, few, read[:60], out_of_fold[:60]) is None, "too few are left without them"


@pytest.mark.parametrize(
    ("changed", "difference", "said"),
    [
        ((0.01, 0.0, 0.03), (0.01, -0.02, 0.04), "You may stop reading to improve the model"),
        ((0.20, 0.1, 0.30), (0.01, -0.02, 0.04), "The model still changes: continue reading."),
        ((0.03, 0.01, 0.05), (0.04, 0.01, 0.07), "The model still changes: continue reading."),
        ((0.01, None, None), (0.01, None, None), "With so few subjects this may be chance"),
    ],
)
def test_when_to_stop_is_described_in_words(changed: Any, difference: Any, said: str) -> None:
    as_figure = lambda each: dict(zip(("value", "low", "high"), each, strict=True))  # noqa: E731
    known = as_figure((0.9, 0.8, 0.95))
    words = newest_in_words(
        {
            "cells": 50,
            "with": known,
            "without": known,
            "changed": as_figure(changed),
            "difference": as_figure(difference),
        }
    )
    assert said in words
    assert "90 % (80 to 95)" in words


# --- what to read next ----------------------------------------------------------------------------------------------


def add_cells(
    place: Place,
    name: str,
    cells: Sequence[tuple[float, Sequence[float]]],
    *,
    labels: Sequence[str] = (),
    subject: str = "",
    laboratory: str = "north",
) -> int:
    """Make a case with cells of these probabilities of blast and embeddings, read as `labels` say."""
    room = place.room
    seal = room.predictor.manifest.seal
    with room.database.writing() as session:
        account = session.scalars(
            select(AccountRow).join(LaboratoryRow).where(LaboratoryRow.name == laboratory)
        ).first()
        assert account
        case = CaseRow(
            laboratory_id=account.laboratory_id,
            name=name,
            subject=subject,
            created_by=account.id,
            cells_made=len(cells),
        )
        session.add(case)
        session.flush()
        image = ImageRow(case_id=case.id, number=1, name="x.png", kind="crop", digest="0" * 64, width=9, height=9)
        image.state = "done"
        session.add(image)
        session.flush()
        for number, (chance, point) in enumerate(cells, start=1):
            called = "blast" if chance >= 0.5 else "normal"
            decision = UNSURE if 0.4 < chance < 0.6 else called
            cell = CellRow(case_id=case.id, image_id=image.id, number=number, digest="0" * 64, chance=chance)
            cell.decision = decision
            session.add(cell)
            session.flush()
            unit = np.asarray(point, np.float32) / np.linalg.norm(point)
            said = PredictionRow(cell_id=cell.id, version=1, bundle=seal, point="balanced", decision=decision)
            said.called, said.reason, said.embedding = called, "", unit.astype(np.float16).tobytes()
            session.add(said)
            session.flush()
            cell.prediction_id = said.id
            if number <= len(labels):
                review = ReviewRow(cell_id=cell.id, case_id=case.id, account_id=account.id, label=labels[number - 1])
                session.add(review)
                session.flush()
                cell.label, cell.review_id = review.label, review.id
        return case.id


def placed(me: Visitor, case: int) -> list[int]:
    answer = me.post(f"/cases/{case}/teaching-order")
    assert answer.status_code == 200, answer.text
    return [cell["number"] for cell in me.cells(case, order="teaching")]


def test_cells_that_stand_for_the_others_and_are_unlike_what_was_read_come_first(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    add_cells(laboratory, "read", [(0.9, (1, 0, 0)), (0.1, (1, 0.1, 0))], labels=["blast", "normal"])
    cells = [
        (0.99, (0, 1, -0.3)),  # unlike, but certain
        (0.50, (1, 0, 0)),  # undecided, but like what was read
        (0.52, (0, 1, 0.05)),  # undecided and unlike
        (0.53, (0, 1, 0.051)),  # the same once more
        (0.55, (0, 0, 1)),  # undecided and unlike both
    ]
    case = add_cells(laboratory, "next", cells)
    order = placed(ada, case)
    assert order[0] in (3, 4), "one of the two that are similar"
    assert order[1] == 5, "then the other kind"
    first = next(each["id"] for each in ada.cells(case) if each["number"] == order[0])
    assert ada.review(first, "blast").status_code == 201
    kept = [cell["number"] for cell in ada.cells(case, order="teaching")]
    assert kept == order, "nothing moves while somebody reads"
    assert placed(ada, case)[-1] == order[0], "what was read is no longer in it"


def test_the_order_is_not_told_where_the_model_is_hidden_or_the_case_signed_or_anothers(laboratory: Place) -> None:
    ada, sue = laboratory.visitor("ada"), laboratory.visitor("sue")
    case = add_cells(laboratory, "case", [(0.5, (1, 0, 0))])
    assert sue.post(f"/cases/{case}/teaching-order").status_code == 404
    blind = ada.case("blind", pictures=[cell_picture(1)], readers=2, hide_model=True)
    refused = ada.post(f"/cases/{blind}/teaching-order")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "hidden")
    assert "blind" not in {each["name"] for each in ada.get("/learning/worklist").json()["cases"]}
    with laboratory.room.database.writing() as session:
        session.get_one(CaseRow, case).state = SIGNED
    assert ada.post(f"/cases/{case}/teaching-order").status_code == 409


def test_cases_come_in_the_order_in_which_they_teach_most_with_the_reason(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    known = [(0.9, (1, 0.01 * place, 0)) for place in range(8)]
    add_cells(laboratory, "read", known, labels=["blast"] * 8)
    add_cells(laboratory, "certain", [(0.99, (1, 0, 0))] * 5)
    add_cells(laboratory, "undecided", [(0.5, (0, 1, 0)), (0.55, (0, 1, 1)), (0.99, (1, 0, 0))])
    add_cells(laboratory, "like", [(0.5, (1, 0.3, 0)), (0.55, (1, 0.3, 0)), (0.99, (1, 0, 0))])
    found = ada.get("/learning/worklist").json()["cases"]
    assert [each["name"] for each in found] == ["undecided", "like", "certain"]
    assert found[0]["why"] == (
        "The model is unsure of 2 of 3 cells not yet read. 2 of 3 cells compared are unlike any cell read so far."
    )
    assert found[2]["why"] == "The model decides all of 5 cells not yet read."


def test_cells_of_a_real_analysis_have_what_the_order_needs(place: Place) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(8)])
    answer = me.post(f"/cases/{case}/teaching-order").json()
    judged = [cell for cell in me.cells(case) if cell["probability"]]
    assert answer["placed"] == len(judged) > 0
    assert answer["words"].startswith("First the cells that are similar to most of those not yet read")
    assert len(me.cells(case, order="teaching")) == 8


# --- when to stop ---------------------------------------------------------------------------------------------------


def told_to_stop(place: Place) -> dict[str, Any]:
    with place.room.database.reading() as session:
        north = session.scalars(select(LaboratoryRow.id).where(LaboratoryRow.name == "north")).one()
        return stop_rule(session, north, ("normal", "blast"))


def read_many(place: Place, agree: Sequence[float], *, each: int = 20, name: str = "P") -> None:
    """Add read cases of a subject each, in which model and readers agree on this share of the cells."""
    for number, share in enumerate(agree):
        same = round(share * each)
        labels = ["blast"] * same + ["normal"] * (each - same)
        add_cells(place, "read", [(0.9, (1, 0, 0))] * each, labels=labels, subject=f"{name}{number}")


def test_too_few_cells_or_subjects_are_said(laboratory: Place) -> None:
    assert told_to_stop(laboratory)["words"].startswith("Model and readers can be compared on 0 cells so far. From 200")
    add_cells(laboratory, "one", [(0.9, (1, 0, 0))] * 120, labels=["blast"] * 120, subject="P")
    add_cells(laboratory, "two", [(0.9, (1, 0, 0))] * 120, labels=["blast"] * 120, subject="Q")
    found = told_to_stop(laboratory)
    assert not found["stop"]
    assert found["words"].startswith("The last 200 cells read are of 2 subjects: too few to know")


def test_agreement_that_stays_the_same_lets_people_stop(laboratory: Place) -> None:
    read_many(laboratory, [0.95, 0.9, 0.9, 0.95, 0.9, 0.9, 0.95, 0.9, 0.95, 0.9])
    found = told_to_stop(laboratory)
    assert found["stop"], found["words"]
    assert "you may stop reading to improve it" in found["words"]
    assert found["newer"]["value"] == pytest.approx(0.92)
    assert found["older"]["value"] == pytest.approx(0.92)
    assert found["newer"]["low"] < 0.92 < found["newer"]["high"]


def test_agreement_that_still_grows_or_is_not_known_well_does_not(laboratory: Place) -> None:
    read_many(laboratory, [0.55, 0.6, 0.5, 0.6, 0.55, 0.9, 0.95, 0.9, 0.95, 0.9])
    found = told_to_stop(laboratory)
    assert (found["stop"], found["difference"]["low"] > 0) == (False, True)
    assert "the model still changes, so continue reading" in found["words"]
    read_many(laboratory, [0.2, 1.0, 0.5, 1.0, 0.3, 0.9, 0.2, 1.0, 0.4, 1.0], name="Q")
    assert "interval is still too wide" in told_to_stop(laboratory)["words"]


def test_cells_that_the_model_has_learned_from_do_not_count(laboratory: Place) -> None:
    read_many(laboratory, [0.9] * 10)
    with laboratory.room.database.writing() as session:
        account = session.scalars(select(AccountRow).where(AccountRow.name == "ada")).one()
        row = AdaptationRow(
            laboratory_id=account.laboratory_id, account_id=account.id, bundle=laboratory.room.predictor.manifest.seal
        )
        row.subjects = [learning.hash_of_subject("subject p0"), learning.hash_of_subject("subject p1")]
        session.add(row)
    assert told_to_stop(laboratory)["cells"] == 160


def test_what_another_laboratory_reads_does_not_count(laboratory: Place) -> None:
    add_cells(laboratory, "x", [(0.9, (1, 0, 0))] * WINDOW, labels=["blast"] * WINDOW, laboratory="south")
    assert told_to_stop(laboratory)["cells"] == 0


def test_only_open_cases_are_on_the_list(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    case = add_cells(laboratory, "case", [(0.5, (1, 0, 0))])
    assert [each["id"] for each in ada.get("/learning/worklist").json()["cases"]] == [case]
    with laboratory.room.database.writing() as session:
        found = session.get_one(CaseRow, case)
        assert found.state == OPEN
        found.state = SIGNED
    assert ada.get("/learning/worklist").json()["cases"] == []
