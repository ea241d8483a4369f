"""Cells that a laboratory has signed off itself, beside the cell in question: the most like it, and nobody else's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leukoscope.images.read import read_image
from leukoscope.inference.explaining import embedding_of
from tests.server.conftest import Place, Visitor, cell_picture

SHOWN = 3


def signed(me: Visitor, *seeds: int, label: str = "blast", sign: bool = True) -> int:
    """Make a case whose cells are all called the same, and sign it off."""
    case = me.case(pictures=[cell_picture(seed) for seed in seeds])
    for cell in me.cells(case):
        assert me.review(cell["id"], label).status_code == 201
    assert not sign or me.sign(case).status_code == 200
    return case


def asked(me: Visitor, seed: int = 1) -> dict[str, Any]:
    """Make an open case of one cell, and return it."""
    return me.cells(me.case(pictures=[cell_picture(seed)]))[0]


def beside(me: Visitor, cell: dict[str, Any]) -> list[dict[str, Any]]:
    answer = me.get(f"/cells/{cell['id']}/references")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["signed_off"]
    return found


def test_the_most_like_of_what_was_signed_off_here_stand_beside_a_cell(laboratory: Place, tmp_path: Path) -> None:
    ada = laboratory.visitor("ada")
    seeds = range(20, 30)
    case = signed(ada, *seeds)
    found = beside(ada, asked(ada))
    assert {(each["case"], each["label"]) for each in found} == {(case, "blast")}
    embedded = []
    for seed in (1, *seeds):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(cell_picture(seed))
        embedded.append(embedding_of(laboratory.room.predictor, read_image(path)))
    distances = np.linalg.norm(np.array(embedded[1:]) - embedded[0], axis=1)
    nearest = [f"cell-{place}.png" for place in np.argsort(distances)[:SHOWN]]
    names = {cell["id"]: cell["name"] for cell in ada.cells(case)}
    assert [names[each["id"]] for each in found] == nearest
    picture = ada.get(f"/cells/{found[0]['id']}/thumbnail", params={"side": "160"})
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")


def test_cells_of_another_laboratory_are_never_shown_even_where_they_are_the_same_picture(laboratory: Place) -> None:
    sue, ada = laboratory.visitor("sue"), laboratory.visitor("ada")
    signed(sue, 1, 2, 3, 4)
    cell = asked(ada, seed=1)
    assert beside(ada, cell) == []
    theirs = sue.cells(1)[0]
    assert ada.get(f"/cells/{theirs['id']}/references").status_code == 404
    assert ada.get(f"/cells/{theirs['id']}/thumbnail").status_code == 404
    own = signed(ada, 5)
    assert {each["case"] for each in beside(ada, cell)} == {own}, "it shows some once there are some, and only these"


def test_what_is_not_signed_off_says_nothing_or_is_of_this_case_is_not_shown(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    signed(ada, 11, 12, sign=False)
    signed(ada, 13, label="unsure")
    signed(ada, 14, label="not_a_cell")
    cell = asked(ada)
    assert beside(ada, cell) == []
    taken_back = signed(ada, 15, 16)
    assert {each["case"] for each in beside(ada, cell)} == {taken_back}
    assert ada.reopen(taken_back).status_code == 200
    assert beside(ada, cell) == [], "a case that was opened again is signed by nobody"
    assert ada.sign(taken_back).status_code == 200
    assert beside(ada, ada.cells(taken_back)[0]) == [], "of its own case there is nothing to compare it with"


def test_who_reads_blind_to_the_model_is_not_shown_what_it_finds_alike(laboratory: Place) -> None:
    ada = laboratory.visitor("ada")
    signed(ada, 11, 12)
    case = ada.case(pictures=[cell_picture(1)], readers=2, hide_model=True)
    answer = ada.get(f"/cells/{ada.cells(case)[0]['id']}/references")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "hidden")


@pytest.mark.parametrize("cell", ["0", "999999", "x"])
def test_a_cell_that_is_not_there_is_said(place: Place, cell: str) -> None:
    assert place.local().get(f"/cells/{cell}/references").status_code in (404, 422)
