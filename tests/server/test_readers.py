"""Cases that one, two or three people read: blind to each other, compared, settled; nothing that was said is lost."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score
from sqlalchemy import select

from leukoscope.server.database import AuditEntryRow, ReviewRow
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Place, Visitor, cell_picture
from tests.server.test_races import at_once

CELLS = 4
PICTURES = [cell_picture(seed) for seed in range(CELLS)]


@pytest.fixture
def people(laboratory: Place) -> dict[str, Visitor]:
    """Two reviewers and three readers of one laboratory."""
    for name in ("rob", "zoe"):
        laboratory.account(name)
    return {name: laboratory.visitor(name) for name in ("ada", "rita", "ron", "rob", "zoe")}


def blind_case(people: dict[str, Visitor], readers: int = 2, **how: Any) -> tuple[int, list[int]]:
    """Make a case that several people are asked to read; return it and its cells."""
    case = people["ada"].case(pictures=PICTURES, readers=readers, subject="P-1", **how)
    return case, [cell["id"] for cell in people["ada"].cells(case, order="number")]


def read(me: Visitor, case: int, cells: list[int], *labels: str, finish: bool = True) -> None:
    """Say something of each cell, and finish."""
    for cell, label in zip(cells, labels, strict=False):
        answer = me.review(cell, label)
        assert answer.status_code == 201, answer.text
    if finish:
        assert me.post(f"/cases/{case}/readings/finish").status_code == 200


def labels(me: Visitor, case: int) -> list[str]:
    return [(cell["review"] or {}).get("label", "") for cell in me.cells(case, order="number")]


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_two_readers_are_blind_until_both_have_finished(people: dict[str, Visitor]) -> None:
    ron, rob, ada = people["ron"], people["rob"], people["ada"]
    case, cells = blind_case(people)
    read(ron, case, cells, "blast", "blast", "normal", "normal")
    assert labels(rob, case) == labels(ada, case) == [""] * CELLS
    assert labels(ron, case) == ["blast", "blast", "normal", "normal"]
    for me in (rob, ada):
        told = [
            me.get(f"/cases/{case}/cells").text,
            me.get(f"/cells/{cells[0]}").text,
            me.get(f"/cells/{cells[0]}/answers").text,
            me.get(f"/images/{me.cells(case)[0]['image']}").text,
        ]
        assert not any('"ron"' in text for text in told), "nobody sees the answers of another reader"
    assert rob.get(f"/cells/{cells[0]}/answers").json()["answers"] == []
    assert rob.get(f"/cases/{case}/summary").json()["by_reader"] == {}
    assert rob.get(f"/cases/{case}/summary").json()["blast_share"]["value"] is None
    row = rob.get("/cases").json()["cases"][0]
    assert (row["cells"], row["unread"], row["phase"]) == (CELLS, CELLS, "reading")
    for kind in ("csv", "answers", "html", "dataset"):
        assert code(ada.get(f"/cases/{case}/exports/{kind}")) == (409, "blind")
    assert code(ada.sign(case)) == (409, "blind")
    assert code(ada.get(f"/cases/{case}/agreement")) == (409, "blind")

    read(rob, case, cells, "blast", "normal", "normal", "normal")
    reading = rob.get(f"/cases/{case}").json()["reading"]
    assert (reading["phase"], reading["unsettled"], reading["blind"]) == ("consensus", 1, False)
    assert labels(ada, case) == ["blast", "", "normal", "normal"]
    said = rob.get(f"/cells/{cells[1]}").json()["answers"]
    assert {(each["reader"], each["label"]) for each in said} == {("ron", "blast"), ("rob", "normal")}
    assert ada.get(f"/cases/{case}/cells?filter=disputed").json()["total"] == 1
    assert code(ada.sign(case)) == (409, "unsettled")
    assert code(people["zoe"].review(cells[1], "blast")) == (403, "not_allowed")

    assert ada.review(cells[1], "blast", note="nucleoli").status_code == 201
    assert ada.get(f"/cases/{case}").json()["reading"]["phase"] == "settled"
    assert ada.sign(case).json()["state"] == "signed"


def test_agreement_is_that_of_scikit_learn_and_stands_in_the_report(people: dict[str, Visitor]) -> None:
    ron, rob = people["ron"], people["rob"]
    case, cells = blind_case(people)
    first, second = ("blast", "blast", "normal", "unsure"), ("blast", "normal", "normal", "unsure")
    read(ron, case, cells, *first)
    read(rob, case, cells, *second)
    found = ron.get(f"/cases/{case}/agreement").json()["agreement"]
    assert found["readers"] == ["ron", "rob"]
    assert found["percent"]["value"] == 0.75
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-6)
    assert found["differ"] == [{"cell": 2, "answers": {"ron": "blast", "rob": "normal"}, "stands": "", "by": ""}]
    people["ada"].review(cells[1], "normal")
    page = ron.get(f"/cases/{case}/exports/html").text
    assert "ron: 4 cells, finished" in page
    assert f"Cohen&#39;s kappa {found['kappa']['value']:.2f}" in page
    assert "normal (consensus)" in page
    rows = list(csv.DictReader(io.StringIO(ron.get(f"/cases/{case}/exports/csv").text)))
    assert rows[1]["answers"] == "ron: blast; rob: normal; ada: normal"
    all_ = list(csv.DictReader(io.StringIO(ron.get(f"/cases/{case}/exports/answers").text)))
    assert [(row["cell"], row["reader"], row["round"]) for row in all_][-1] == ("2", "ada", "consensus")
    assert len(all_) == 2 * CELLS + 1


def test_readers_may_be_blind_to_the_model_too(people: dict[str, Visitor]) -> None:
    ron = people["ron"]
    case, cells = blind_case(people, readers=1, hide_model=True)
    hidden = ron.cells(case)
    assert {cell["decision"] for cell in hidden} == {"hidden"}
    assert all(cell[name] is None for cell in hidden for name in ("probability", "called", "type", "types", "bundle"))
    assert [cell["number"] for cell in ron.cells(case, order="probability")] == list(range(1, CELLS + 1))
    assert ron.get(f"/cases/{case}/cells").json()["counts"]["classes"] == {}
    assert code(ron.get(f"/cells/{cells[0]}/heat")) == (409, "hidden")
    assert ron.get(f"/cases/{case}/summary").json()["by_model"] == {}
    read(ron, case, cells, "blast", "normal", "normal", "normal")
    assert ron.cells(case)[0]["decision"] != "hidden"
    assert ron.get(f"/cells/{cells[0]}/answers").json()["answers"][0]["shown"]["model"] is None
    assert ron.get(f"/cases/{case}").json()["reading"]["phase"] == "settled"


def test_a_third_reader_reads_only_where_two_differ_and_as_blind(people: dict[str, Visitor]) -> None:
    ron, rob, zoe = people["ron"], people["rob"], people["zoe"]
    case, cells = blind_case(people, settling="third")
    read(ron, case, cells, "blast", "blast", "normal", "normal")
    read(rob, case, cells, "blast", "normal", "blast", "normal")
    assert code(ron.review(cells[1], "normal")) == (409, "finished")
    seen = zoe.cells(case, order="number")
    assert [cell["id"] for cell in seen] == cells[1:3]
    assert [cell["answers"] for cell in seen] == [[], []]
    read(zoe, case, cells[1:3], "blast", "unsure")
    assert zoe.get(f"/cases/{case}").json()["reading"]["phase"] == "consensus"
    assert labels(ron, case) == ["blast", "blast", "", "normal"]
    by = {each["cell"]: each["by"] for each in ron.get(f"/cases/{case}/agreement").json()["agreement"]["differ"]}
    assert by == {2: "third reader", 3: ""}


def test_of_three_readers_two_decide(people: dict[str, Visitor]) -> None:
    case, cells = blind_case(people, readers=3)
    read(people["ron"], case, cells, "blast", "blast", "normal", "blast")
    read(people["rob"], case, cells, "blast", "normal", "blast", "normal")
    read(people["zoe"], case, cells, "blast", "normal", "unsure", "normal")
    assert labels(people["ada"], case) == ["blast", "normal", "", "normal"]
    found = people["ada"].get(f"/cases/{case}/agreement").json()["agreement"]
    assert found["statistic"] == "Fleiss' kappa"
    assert [each["by"] for each in found["differ"]] == ["majority", "", "majority"]
    assert code(people["rita"].sign(case)) == (409, "unsettled")


def test_of_one_reader_a_second_answer_stands_and_the_first_is_kept(people: dict[str, Visitor]) -> None:
    ada, ron = people["ada"], people["ron"]
    case, cells = blind_case(people, readers=1)
    ada.review(cells[0], "blast", note="Auer rod")
    ron.review(cells[0], "normal")
    cell = ada.get(f"/cells/{cells[0]}").json()
    assert cell["review"]["label"] == "normal"
    assert [(each["reader"], each["label"]) for each in cell["answers"]] == [("ada", "blast"), ("ron", "normal")]
    history = ada.get(f"/cells/{cells[0]}/answers").json()["answers"]
    assert history[1]["shown"]["reviews"] == [history[0]["review"]]
    assert history[0]["shown"]["model"]["decision"] == cell["decision"]
    rows = list(csv.DictReader(io.StringIO(ada.get(f"/cases/{case}/exports/csv").text)))
    assert rows[0]["answers"] == "ada: blast; ron: normal"
    ron.undo(case)
    assert labels(ron, case)[0] == "blast", "what was said before stands again"


def test_a_reader_who_leaves_in_the_middle_can_be_followed_by_another_and_nothing_is_lost(
    people: dict[str, Visitor],
) -> None:
    ron, rob, zoe, rita = (people[name] for name in ("ron", "rob", "zoe", "rita"))
    case, cells = blind_case(people)
    read(ron, case, cells, "blast", "blast", finish=False)
    read(rob, case, cells, "blast", "blast", "blast", "blast")
    assert code(zoe.review(cells[0], "normal")) == (409, "no_place")
    number = ron.get("/session").json()["account"]["id"]
    assert code(zoe.delete(f"/cases/{case}/readings/{number}")) == (403, "not_allowed")
    assert rita.delete(f"/cases/{case}/readings/{number}").json()["released"] == "ron"
    read(zoe, case, cells, "blast", "normal", "normal", "normal", finish=False)
    assert code(ron.review(cells[2], "blast")) == (409, "no_place")
    assert zoe.post(f"/cases/{case}/readings/finish").status_code == 200
    assert rita.get(f"/cases/{case}/agreement").json()["agreement"]["readers"] == ["rob", "zoe"]
    assert labels(rita, case) == ["blast", "", "", ""], "who has left does not vote"
    kept = list(csv.DictReader(io.StringIO(rita.get(f"/cases/{case}/exports/answers").text)))
    assert [row["label"] for row in kept if row["reader"] == "ron"] == ["blast", "blast"]


def test_a_finish_can_be_taken_back_while_others_read_and_not_later(people: dict[str, Visitor]) -> None:
    ron, rob = people["ron"], people["rob"]
    case, cells = blind_case(people)
    read(ron, case, cells, "blast")
    assert code(ron.review(cells[1], "blast")) == (409, "finished")
    assert code(ron.undo(case)) == (409, "finished")
    assert ron.delete(f"/cases/{case}/readings/finish").status_code == 200
    read(ron, case, cells[1:], "blast", "blast", "blast")
    read(rob, case, cells, "blast", "blast", "blast", "blast")
    assert code(ron.delete(f"/cases/{case}/readings/finish")) == (409, "not_blind")
    assert ron.undo(case).json()["cell"] is None, "what was said blind is taken back no more"
    assert labels(ron, case) == ["blast"] * CELLS


def test_a_case_of_one_reader_can_be_given_a_second(people: dict[str, Visitor]) -> None:
    ron, rob, rita = people["ron"], people["rob"], people["rita"]
    case, cells = blind_case(people, readers=1)
    read(ron, case, cells, "blast", "blast", "blast", "blast", finish=False)
    assert code(ron.patch(f"/cases/{case}", json={"readers": 2})) == (403, "not_allowed")
    assert rita.patch(f"/cases/{case}", json={"readers": 2}).json()["reading"]["phase"] == "reading"
    assert labels(rob, case) == [""] * CELLS
    rob.review(cells[0], "normal")
    assert code(rita.patch(f"/cases/{case}", json={"readers": 1})) == (409, "too_many_readers")
    ron.post(f"/cases/{case}/readings/finish")
    read(rob, case, cells[1:], "blast", "blast", "blast")
    assert labels(rita, case) == ["", "blast", "blast", "blast"]
    assert code(rita.patch(f"/cases/{case}", json={"readers": 3})) == (409, "finished")


def test_what_all_must_read_alike_does_not_change_under_them(people: dict[str, Visitor]) -> None:
    ron, rita = people["ron"], people["rita"]
    case, cells = blind_case(people)
    ron.review(cells[0], "blast")
    image = ron.cells(case)[0]["image"]
    assert code(rita.remove(f"/cells/{cells[1]}")) == (409, "being_read")
    assert code(rita.remove(f"/images/{image}")) == (409, "being_read")
    assert ron.send(case, cell_picture(9)).status_code == 202, "more may come while nobody has finished"
    ron.post(f"/cases/{case}/readings/finish")
    assert code(ron.send(case, cell_picture(10))) == (409, "finished")


def test_two_readers_who_save_the_same_cell_at_once_are_both_kept(people: dict[str, Visitor]) -> None:
    ron, rob = people["ron"], people["rob"]
    for readers in (1, 2):
        case, cells = blind_case(people, readers=readers)
        seen = {"If-Match": ron.get(f"/cells/{cells[0]}").headers["etag"]}
        answers = at_once(
            lambda cell=cells[0], seen=seen: ron.post(f"/cells/{cell}/reviews", json={"label": "blast"}, headers=seen),
            lambda cell=cells[0], seen=seen: rob.post(f"/cells/{cell}/reviews", json={"label": "normal"}, headers=seen),
        )
        assert [answer.status_code for answer in answers] == [201, 201]
        for me in (ron, rob):
            me.post(f"/cases/{case}/readings/finish")
        history = people["ada"].get(f"/cells/{cells[0]}/answers").json()["answers"]
        assert sorted((each["reader"], each["label"]) for each in history) == [("rob", "normal"), ("ron", "blast")]


def test_three_who_take_the_last_place_at_once_are_one(people: dict[str, Visitor]) -> None:
    _, cells = blind_case(people)
    people["ada"].review(cells[0], "blast")
    seen = {"If-Match": people["ada"].get(f"/cells/{cells[0]}").headers["etag"]}
    answers = at_once(
        *[
            lambda me=people[name]: me.post(f"/cells/{cells[0]}/reviews", json={"label": "blast"}, headers=seen)
            for name in ("ron", "rob", "zoe")
        ]
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


def test_a_case_deleted_while_it_is_read_leaves_its_answers_in_the_log(laboratory: Place, people: Any) -> None:
    ron, rita = people["ron"], people["rita"]
    case, cells = blind_case(people)
    etag = ron.get(f"/cells/{cells[1]}").headers["etag"]
    ron.review(cells[0], "blast")
    rita.remove(f"/cases/{case}")
    late = ron.post(f"/cells/{cells[1]}/reviews", json={"label": "blast"}, headers={"If-Match": etag})
    assert code(late) == (404, "not_found")
    assert code(ron.post(f"/cases/{case}/readings/finish")) == (404, "not_found")
    with laboratory.room.database.reading() as session:
        assert session.scalars(select(ReviewRow)).all() == []
        kept = session.scalars(select(AuditEntryRow).where(AuditEntryRow.action == "reviewed")).all()
        laboratory.room.log.verify(session)
    assert [(entry.account, entry.item, entry.detail["label"]) for entry in kept] == [("ron", cells[0], "blast")]


def test_the_log_holds_old_and_new_value_and_numbers_without_gaps(laboratory: Place, people: Any) -> None:
    ada, ron, sue = people["ada"], people["ron"], laboratory.visitor("sue")
    case, cells = blind_case(people, readers=1)
    sue.case("of the south", pictures=[cell_picture(1)])
    ada.review(cells[0], "blast")
    ron.review(cells[0], "normal")
    ron.undo(case)
    for me in (ada, sue):
        log = me.get("/audit-log?limit=500").json()
        numbers = [entry["number"] for entry in log["entries"]]
        assert numbers == list(range(log["total"], 0, -1)), "no gap that looks like deletion"
        assert log["intact"]
    entries = ada.get("/audit-log").json()["entries"]
    said = [entry for entry in entries if (entry["kind"], entry["item"]) == ("cell", cells[0])]
    told = [(each["action"], each["detail"]["old"], each["detail"]["label"]) for each in reversed(said)]
    assert told == [("reviewed", "", "blast"), ("reviewed", "blast", "normal"), ("took back", "normal", "blast")]


def test_the_log_tells_no_reader_what_another_said(people: dict[str, Visitor]) -> None:
    ada, ron = people["ada"], people["ron"]
    case, cells = blind_case(people)
    ron.review(cells[0], "blast")
    ada.review(cells[0], "normal")
    seen = {each["account"]: each["detail"]["label"] for each in reviewed(ada)}
    assert seen == {"ron": "hidden", "ada": "normal"}
    for me in (ada, ron):
        me.post(f"/cases/{case}/readings/finish")
    assert {each["account"]: each["detail"]["label"] for each in reviewed(ada)} == {"ron": "blast", "ada": "normal"}


def reviewed(me: Visitor) -> Iterator[dict[str, Any]]:
    return (each for each in me.get("/audit-log").json()["entries"] if each["action"] == "reviewed")


def test_a_laboratory_says_how_its_cases_are_read(laboratory: Place, people: Any) -> None:
    ada, ron, sue = people["ada"], people["ron"], laboratory.visitor("sue")
    assert code(ron.patch("/laboratory", json={"readers": 2})) == (403, "not_allowed")
    assert ada.patch("/laboratory", json={"readers": 2, "hide_model": True, "settling": "third"}).status_code == 200
    made = ron.post("/cases", json={"name": "usual"}).json()["reading"]
    assert (made["readers"], made["hide_model"], made["settling"], made["phase"]) == (2, True, "third", "reading")
    assert ron.post("/cases", json={"name": "alone", "readers": 1, "hide_model": False}).json()["phase"] == "free"
    assert sue.post("/cases", json={"name": "south"}).json()["reading"]["readers"] == 1
    for wrong in ({"readers": 0}, {"readers": 4}, {"settling": "coin"}, {"readers": 1.5}):
        assert ada.patch("/laboratory", json=wrong).status_code == 422


def test_agreement_over_cases_has_subjects_as_clusters(people: dict[str, Visitor]) -> None:
    ron, rob, zoe = people["ron"], people["rob"], people["zoe"]
    given = []
    for number, second in enumerate(("blast", "normal", "blast", "normal")):
        case = ron.case(pictures=PICTURES[:2], readers=2, subject=f"P-{number}")
        cells = [cell["id"] for cell in ron.cells(case, order="number")]
        read(ron, case, cells, "blast", "normal")
        read(rob if number < 3 else zoe, case, cells, second, "normal")
        given += [("blast", second), ("normal", "normal")]
    found = zoe.get("/agreement").json()
    assert (found["cases"], found["all"][0]["readers"], found["all"][0]["subjects"]) == (4, 2, 4)
    assert found["all"][0]["unit"] == "subjects"
    assert found["all"][0]["percent"]["value"] == 0.75
    assert [each["readers"] for each in found["pairs"]] == [["rob", "ron"], ["ron", "zoe"]]
    by_ron, by_rob = zip(*given[:6], strict=True)
    assert found["pairs"][0]["kappa"]["value"] == pytest.approx(cohen_kappa_score(by_ron, by_rob), abs=1e-6)
    assert found["all"][0]["statistic"] == "Fleiss' kappa"
    assert zoe.get("/agreement?since=2999-01-01").json()["cases"] == 0


def test_the_same_two_readers_have_one_statistic_whoever_began(people: dict[str, Visitor]) -> None:
    ron, rob = people["ron"], people["rob"]
    for first, second in ((ron, rob), (rob, ron)):
        case = ron.case(pictures=PICTURES[:2], readers=2)
        cells = [cell["id"] for cell in ron.cells(case, order="number")]
        for reader in (first, second):
            read(reader, case, cells, "blast", "normal" if reader is ron else "blast")
    found = ron.get("/agreement").json()
    assert {**found["all"][0], "readers": ["rob", "ron"]} == found["pairs"][0]
    assert found["pairs"][0]["kappa"] == {"value": 0.0, "low": None, "high": None}
    assert "Cohen's kappa" in found["pairs"][0]["statistic"]
    page = ron.get(f"/cases/{case}/exports/html").text
    assert "Cohen&#39;s kappa 0.00 (no interval)" in page


def test_a_sign_off_of_one_cell_is_not_called_cells_read_by_people(people: dict[str, Visitor]) -> None:
    rita = people["rita"]
    case, cells = blind_case(people, readers=1)
    assert "cells judged by the model alone" in rita.get(f"/cases/{case}/exports/html").text
    rita.review(cells[0], "blast")
    rita.sign(case)
    assert "1 of 4 cells read by people, the others by the model alone" in rita.get(f"/cases/{case}/exports/html").text


def test_cells_on_which_readers_differ_are_read_and_not_settled(people: dict[str, Visitor]) -> None:
    ron, rob, rita = people["ron"], people["rob"], people["rita"]
    case, cells = blind_case(people, settling="consensus")
    read(ron, case, cells, "blast", "blast", "normal", "normal")
    assert "unread" in rob.get("/cases").json()["cases"][0]
    assert rob.get(f"/cases/{case}/summary").json()["unsettled"] == 0, "nobody is told while they are blind"
    read(rob, case, cells, "blast", "normal", "blast", "blast")
    told = rita.get(f"/cases/{case}/summary").json()
    assert (told["cells"], told["read"], told["unsettled"]) == (4, 4, 3)
    share = told["blast_share"]
    assert share["how"].endswith(
        "The readers differ on 3 cells, which are not settled: the interval allows for both answers."
    )
    assert "by the model" not in share["how"]
    assert share["low"] <= 1 / 4
    assert share["high"] >= 0.9, "all of them may be blasts"
    row = rita.get("/cases").json()["cases"][0]
    assert (row["unread"], row["unsettled"]) == (0, 3)
    assert rita.get(f"/cases/{case}/cells?filter=unread").json()["total"] == 0
    assert rita.get(f"/cases/{case}/cells").json()["counts"]["unread"] == 0
    page = rita.get(f"/cases/{case}/exports/html").text
    assert "4 of 4 cells read by people; 3 not settled" in page
    assert "4 of 4 cells; 3 not settled" in page
    assert "by the model alone" not in page
    assert "not settled: 3" in page, "they are in no group of the model's"
    (next_,) = rita.get("/learning/worklist").json()["cases"]
    assert (next_["unread"], next_["unsettled"]) == (0, 3)
    assert "3 cells not yet settled" in next_["why"]
    for cell in cells[1:]:
        rita.review(cell, "normal")
    told = rita.get(f"/cases/{case}/summary").json()
    assert (told["read"], told["unsettled"]) == (4, 0)
    assert told["blast_share"]["how"].endswith("All 4 cells decided by readers.")
    assert "cells read by people</h1>" in rita.get(f"/cases/{case}/exports/html").text


def test_no_share_is_given_while_images_are_analysed(settings: RoomSettings, tmp_path: Path) -> None:
    from tests.server.conftest import opened

    for place in opened(settings.model_copy(update={"work": False})):
        me = place.local()
        case = me.case()
        me.send(case, *PICTURES, wait=0)
        share = me.get(f"/cases/{case}/summary").json()["blast_share"]
        assert share["value"] is None
        assert share["how"] == f"{CELLS} of {CELLS} images are still to be analysed."


def test_unsure_is_counted_alike_in_the_sign_off_and_beside_the_cells(people: dict[str, Visitor]) -> None:
    rita = people["rita"]
    case, cells = blind_case(people, readers=1)
    for cell in cells:
        rita.review(cell, "unsure" if cell == cells[0] else "normal")
    counts = rita.get(f"/cases/{case}/cells").json()["counts"]
    summary = rita.get(f"/cases/{case}/summary").json()
    assert (summary["unsure"], summary["refused"]) == (counts["unsure"], counts["refused"]) == (1, 0)
