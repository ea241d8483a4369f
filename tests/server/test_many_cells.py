"""Several cells at once: one answer to all, outlines that take the place of others, cells sorted by likeness."""

from typing import Any

import numpy as np
import pytest

from leukoscope.server.database import CellRow, ReviewRow
from tests.server.conftest import Place, Visitor, cell_picture, png
from tests.server.test_readers import code
from tests.server.test_reading import smear

CELLS = 5


def add_answers(me: Visitor, case: int, cells: list[dict[str, Any]], label: str) -> Any:
    return me.post(f"/cases/{case}/reviews", json={"label": label, "cells": [cell["etag"] for cell in cells]})


def said(me: Visitor, case: int) -> list[str]:
    return [(cell["review"] or {"label": ""})["label"] for cell in me.cells(case, order="number")]


def log_is_intact(place: Place) -> None:
    with place.room.database.reading() as session:
        place.room.log.verify(session)


def test_one_answer_to_many_cells_is_kept_and_taken_back_as_one(laboratory: Place) -> None:
    ron, ada = laboratory.visitor("ron"), laboratory.visitor("ada")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    cells = ron.cells(case, order="number")
    assert ron.review(cells[1]["id"], "normal").status_code == 201
    answer = add_answers(ron, case, cells[:4], "blast")
    assert answer.status_code == 201, answer.text
    assert [cell["review"]["label"] for cell in answer.json()["cells"]] == ["blast"] * 4
    assert said(ron, case) == ["blast"] * 4 + [""]
    entries = ada.get("/audit-log").json()
    told = [each for each in entries["entries"] if each["action"] == "reviewed"]
    assert [each["detail"]["old"] for each in reversed(told)] == ["", "", "normal", "", ""]
    assert len({each["detail"].get("batch") for each in told[:4]}) == 1
    assert entries["intact"], entries["problem"]

    undone = ron.undo(case).json()
    assert sorted(cell["id"] for cell in undone["cells"]) == [cell["id"] for cell in cells[:4]]
    assert said(ron, case) == ["", "normal", "", "", ""]
    assert [cell["id"] for cell in ron.undo(case).json()["cells"]] == [cells[1]["id"]], "the one before is by itself"
    assert said(ron, case) == [""] * CELLS
    log_is_intact(laboratory)


def test_of_many_answers_none_is_kept_where_one_cell_is_not_as_it_was_seen(laboratory: Place) -> None:
    ron, ada = laboratory.visitor("ron"), laboratory.visitor("ada")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    cells = ron.cells(case, order="number")
    ada.remove(f"/cells/{cells[2]['id']}")
    late = add_answers(ron, case, cells, "blast")
    assert code(late) == (412, "changed")
    assert [cell["id"] for cell in late.json()["error"]["detail"]["cells"]] == [cells[2]["id"]]
    assert said(ron, case) == [""] * (CELLS - 1)
    with laboratory.room.database.reading() as session:
        assert session.query(ReviewRow).where(ReviewRow.label == "blast").count() == 0
    other = ron.case(pictures=[cell_picture(9)])
    assert code(add_answers(ron, other, cells[:1], "blast")) == (404, "not_found"), "a cell of another case"
    assert code(add_answers(ron, case, cells[:2], "no such class")) == (422, "unknown_label")
    assert add_answers(ron, case, [], "blast").status_code == 422
    assert code(add_answers(laboratory.visitor("sue"), case, cells[:2], "blast")) == (404, "not_found")
    ada.sign(case)
    assert code(add_answers(ron, case, cells[:2], "blast")) == (409, "signed")


def test_many_answers_stand_over_those_that_another_gave_meanwhile(laboratory: Place) -> None:
    ron, ada = laboratory.visitor("ron"), laboratory.visitor("ada")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    cells = ron.cells(case, order="number")
    assert ada.review(cells[0]["id"], "normal").status_code == 201
    assert add_answers(ron, case, cells, "blast").status_code == 201
    assert said(ron, case) == ["blast"] * CELLS, "the last answer counts"
    kept = ron.get(f"/cells/{cells[0]['id']}/answers").json()["answers"]
    assert [(each["reader"], each["label"]) for each in kept] == [("ada", "normal"), ("ron", "blast")]


def test_an_undo_of_many_names_the_case_or_every_cell(laboratory: Place) -> None:
    ron, ada = laboratory.visitor("ron"), laboratory.visitor("ada")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    cells = ron.cells(case, order="number")
    add_answers(ron, case, cells[:3], "blast")
    before = ron.seen(f"/cases/{case}")
    ada.review(cells[4]["id"], "normal")
    assert code(ron.post(f"/cases/{case}/undo", headers=before)) == (412, "changed")
    some = {"If-Match": ", ".join(f'"{cell["etag"]}"' for cell in cells[:2])}
    assert code(ron.post(f"/cases/{case}/undo", headers=some)) == (412, "changed")
    assert said(ron, case) == ["blast"] * 3 + ["", "normal"]
    all_ = {"If-Match": ", ".join(f'"{cell["etag"]}"' for cell in cells[:3])}
    assert ron.post(f"/cases/{case}/undo", headers=all_).status_code == 200
    assert said(ron, case) == [""] * 4 + ["normal"]


def test_many_are_read_blind_and_settled_together(laboratory: Place) -> None:
    ron, rita = laboratory.visitor("ron"), laboratory.visitor("rita")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(CELLS)], readers=2)
    cells = ron.cells(case, order="number")
    assert add_answers(ron, case, cells, "blast").status_code == 201
    assert said(rita, case) == [""] * CELLS, "the second reader is told nothing"
    assert add_answers(rita, case, cells[:3], "normal").status_code == 201
    assert add_answers(rita, case, cells[3:], "blast").status_code == 201
    for me in (ron, rita):
        assert me.post(f"/cases/{case}/readings/finish").status_code == 200
    settled = add_answers(rita, case, cells[:3], "blast")
    assert settled.status_code == 201, settled.text
    assert said(rita, case) == ["blast"] * CELLS
    assert rita.get(f"/cases/{case}").json()["reading"]["phase"] == "settled"
    rita.undo(case)
    assert rita.get(f"/cases/{case}").json()["reading"]["unsettled"] == 3
    log_is_intact(laboratory)


@pytest.fixture
def field(place: Place) -> tuple[Visitor, int, list[dict[str, Any]]]:
    """A case with one field, and its cells with their outlines."""
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    me = place.local()
    case = me.case()
    sent = me.send(case, png(smear()), names=("field.png",), um_per_px=0.1)
    return me, case, sent.json()["cells"]


def replace(me: Visitor, cells: list[dict[str, Any]], outlines: list[Any], **more: Any) -> Any:
    seen = {"If-Match": ", ".join(f'"{cell["etag"]}"' for cell in cells)} | more
    body = {"cells": [cell["id"] for cell in cells], "outlines": outlines}
    return me.post(f"/images/{cells[0]['image']}/replacements", json=body, headers=seen)


def hull(*cells: dict[str, Any]) -> list[list[float]]:
    """A box around cells."""
    points = np.concatenate([cell["outline"] for cell in cells])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def halves(cell: dict[str, Any]) -> list[list[list[float]]]:
    """Two triangles of the box of a cell, whose own boxes are the same."""
    left, top, width, height = cell["box"]
    corners = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    return [[corners[0], corners[1], corners[2]], [corners[0], corners[2], corners[3]]]


def test_two_outlines_become_one_cell_and_undo_brings_both_back_with_what_was_said(place: Place, field: Any) -> None:
    me, case, cells = field
    one, two, *others = cells
    me.review(one["id"], "blast")
    merged = replace(me, [one, two], [hull(one, two)])
    assert merged.status_code == 201, merged.text
    (made,) = merged.json()["cells"]
    assert (made["origin"], made["review"], made["decision"] != "") == ("reader", None, True), "it is to be read"
    assert {cell["id"] for cell in me.cells(case)} == {made["id"], *(cell["id"] for cell in others)}
    assert me.review(made["id"], "normal").status_code == 201
    me.undo(case)
    back = me.undo(case).json()["cells"]
    assert {cell["id"]: cell["removed"] for cell in back} == {one["id"]: False, two["id"]: False, made["id"]: True}
    now = {cell["id"]: cell for cell in me.cells(case)}
    assert set(now) == {cell["id"] for cell in cells}
    assert now[one["id"]]["review"]["label"] == "blast"
    log_is_intact(place)


def test_one_outline_becomes_two_cells_even_where_their_boxes_are_the_same(place: Place, field: Any) -> None:
    me, case, cells = field
    split = replace(me, cells[:1], halves(cells[0]))
    assert split.status_code == 201, split.text
    made = [cell["id"] for cell in split.json()["cells"]]
    assert len(made) == 2
    assert len(me.cells(case)) == len(cells) + 1
    drawn = me.patch(f"/cells/{made[0]}", json={"outline": halves(cells[0])[0]}, headers=me.seen(f"/cells/{made[0]}"))
    assert drawn.status_code == 200, "a half is no other cell than itself"
    me.undo(case)
    assert {cell["id"] for cell in me.cells(case)} == {cell["id"] for cell in cells}
    log_is_intact(place)
    with place.room.database.reading() as session:
        assert all(session.get_one(CellRow, number).removed for number in made), "also the one that was redrawn"


def test_nothing_is_replaced_where_a_part_of_it_cannot_be(field: Any) -> None:
    me, case, cells = field
    one, two, *_ = cells
    assert code(replace(me, [one, two], [hull(one, two)], **{"If-Match": f'"{one["etag"]}"'})) == (412, "changed")
    assert code(replace(me, [one, two], [hull(one, two)], **{"If-Match": ""})) == (428, "if_match")
    assert code(replace(me, [one], [hull(one), hull(one)])) == (422, "twice")
    assert code(replace(me, [one], [hull(two)])) == (409, "there_already")
    outside = [[0, 0], [99_999, 0], [99_999, 9]]
    assert code(replace(me, [one], [hull(one), outside])) == (422, "outside")
    other = me.case(pictures=[cell_picture(3)])
    strange = me.cells(other)[0]
    assert code(replace(me, [one, strange], [hull(one, two)])) == (404, "not_found")
    assert {cell["id"] for cell in me.cells(case)} == {cell["id"] for cell in cells}
    me.remove(f"/cells/{two['id']}")
    assert code(replace(me, [one, two], [hull(one, two)]))[0] in (404, 412)


def test_who_took_a_merged_cell_away_cannot_bring_it_back_beside_its_parts(laboratory: Place) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    ron, ada = laboratory.visitor("ron"), laboratory.visitor("ada")
    case = ron.case()
    one, two, *_ = cells = ron.send(case, png(smear()), names=("field.png",), um_per_px=0.1).json()["cells"]
    (made,) = replace(ron, [one, two], [hull(one, two)]).json()["cells"]
    ada.remove(f"/cells/{made['id']}")
    ron.undo(case)
    ada.undo(case)
    assert {cell["id"] for cell in ron.cells(case)} == {cell["id"] for cell in cells}
    log_is_intact(laboratory)


def test_shapes_are_mended_before_several_people_read_and_not_after(laboratory: Place) -> None:
    pytest.importorskip("cv2", reason="the extra fields is not installed")
    ron, rita = laboratory.visitor("ron"), laboratory.visitor("rita")
    case = ron.case(readers=2)
    one, two, three, *_ = ron.send(case, png(smear()), names=("field.png",), um_per_px=0.1).json()["cells"]
    assert replace(ron, [one, two], [hull(one, two)]).status_code == 201
    assert replace(ron, [three], halves(three)).status_code == 201, "to mend is not to read"
    add_answers(ron, case, ron.cells(case)[:1], "blast")
    assert code(replace(rita, ron.cells(case)[:1], [hull(one)])) == (409, "being_read")


def test_cells_of_a_class_are_sorted_by_likeness(place: Place) -> None:
    me = place.local()
    pictures = [cell_picture(seed) for seed in range(CELLS)]
    case = me.case(pictures=[*pictures, pictures[0]])
    compared = me.get(f"/cases/{case}/likeness").json()
    assert compared == {"known": CELLS + 1, "cells": CELLS + 1}
    cells = me.cells(case, order="number")
    for cell in cells:
        me.review(cell["id"], "blast" if cell["number"] in (1, 2, 3, 6) else "normal")
    ranked = me.cells(case, order="likeness", like=cells[0]["id"])
    assert [cell["number"] for cell in ranked][:2] == [1, 6], "the same picture is nearest"
    assert [cell["review"]["label"] for cell in ranked] == ["blast"] * 4 + ["normal"] * 2, "its class comes first"
    other = me.cells(case, order="likeness", like=cells[3]["id"])
    assert [cell["review"]["label"] for cell in other] == ["normal"] * 2 + ["blast"] * 4
    pages = [me.cells(case, order="likeness", like=cells[0]["id"], offset=start, limit=2) for start in (0, 2, 4)]
    assert [cell["id"] for page in pages for cell in page] == [cell["id"] for cell in ranked]
    only = me.cells(case, order="likeness", filter="class:normal")
    assert {cell["number"] for cell in only} == {4, 5}
    asked = {"order": "likeness", "like": 99_999}
    assert code(me.get(f"/cases/{case}/cells", params=asked)) == (404, "not_found")
    other_case = me.case("other", pictures=[pictures[1]])
    asked["like"] = me.cells(other_case)[0]["id"]
    refused = me.get(f"/cases/{case}/cells", params=asked)
    assert code(refused) == (422, "other_case")
    assert "is of another case" in refused.json()["error"]["message"]


def test_likeness_is_as_hidden_as_the_model(laboratory: Place) -> None:
    ron = laboratory.visitor("ron")
    case = ron.case(pictures=[cell_picture(seed) for seed in range(3)], readers=2, hide_model=True)
    assert code(ron.get(f"/cases/{case}/likeness")) == (409, "hidden")
    assert [cell["number"] for cell in ron.cells(case, order="likeness")] == [1, 2, 3]
    assert code(laboratory.visitor("sue").get(f"/cases/{case}/likeness")) == (404, "not_found")
