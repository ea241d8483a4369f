"""Captions, contact sheet, notebook and order of opinions, made by hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leukoscope.bundle.manifest import NOT_ASKED, REFUSED, UNSURE, Manifest, open_bundle
from leukoscope.fields.cells import FieldCell
from leukoscope.files import read_csv
from leukoscope.inference.opinions import Opinion, Opinions

RED = np.full((64, 64, 3), (200, 30, 40), np.uint8)
CAPTIONS = ["blast, blast 93%", "normal, blast 4%", "unsure, blast 41%", "refused", "neutrophil 97%, not asked"]
CAPTIONS += ["type unsure, not asked"]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return open_bundle("default").manifest


def sorted_out(name: str, decision: str, chance: float) -> Opinion:
    chances = {"hem": 1 - chance, "all": chance}
    return Opinion(f"folder/{name}.png", decision, probabilities=chances, called="all", crop=RED)


@pytest.fixture
def opinions(manifest: Manifest) -> Opinions:
    each = [
        sorted_out("a", "all", 0.93),
        sorted_out("b", "hem", 0.04),
        sorted_out("c", UNSURE, 0.41),
        Opinion("folder/d.png", REFUSED, reason="Blurred: focus again."),
        Opinion("folder/e.png", NOT_ASKED, type="neutrophil", types={"neutrophil": 0.97, "monocyte": 0.03}),
        Opinion("folder/f.png", NOT_ASKED, type=UNSURE, types={"neutrophil": 0.5, "monocyte": 0.5}),
    ]
    return Opinions(each, manifest)


def test_every_cell_has_its_caption(opinions: Opinions) -> None:
    html = opinions._repr_html_()
    assert sorted(re.findall("<b>([^<]*)</b>", html)[1:]) == sorted(CAPTIONS)
    assert "<i>Blurred: focus again.</i>" in html
    assert repr(opinions) == "<Opinions: 6 cells: 1 normal, 1 blast, 1 unsure, 1 refused, 2 not asked>"


def test_cells_that_need_a_person_come_first(opinions: Opinions) -> None:
    names = re.findall("<small>(.).png</small>", opinions._repr_html_())
    assert names == [each.name[7] for each in opinions.by_priority()]
    assert set(names[:2]) == {"c", "f"}
    assert names[2:] == ["d", "a", "b", "e"]


def test_a_notebook_shows_the_first_cells_and_counts_the_others(opinions: Opinions, manifest: Manifest) -> None:
    many = Opinions(list(opinions) * 20, manifest)
    shown = many._repr_html_().count("<small>")
    assert 0 < shown < 120
    assert f"and {120 - shown} more" in many._repr_html_()


@pytest.mark.parametrize(("columns", "rows"), [(1, 3), (2, 2), (3, 1), (9, 1)])
def test_a_contact_sheet_shows_each_crop_once_at_its_place(opinions: Opinions, columns: int, rows: int) -> None:
    sheet = np.asarray(opinions[:3].plot(columns=columns, heat=False))
    red = (sheet == RED[0, 0]).all(axis=2)
    down, across = (np.flatnonzero(np.diff(red.any(axis=axis).astype(int)) == 1) for axis in (1, 0))
    assert (len(down), len(across)) == (rows, min(columns, 3))
    corners = [(top, left) for top in down for left in across if red[top + 1, left + 1]]
    side = int(np.sqrt(red.sum() / 3))
    assert red.sum() == 3 * side**2
    assert corners == [(top, left) for top in down for left in across][:3]


def test_a_contact_sheet_is_a_little_taller_than_its_crops(opinions: Opinions, manifest: Manifest) -> None:
    wide, tall = opinions[:1].plot(heat=False).size
    assert wide < tall < 1.5 * wide
    assert min(Opinions([], manifest).plot().size) > 0


def test_a_contact_sheet_ends_after_the_most_that_was_wanted(opinions: Opinions) -> None:
    assert opinions.plot(columns=2, most=2).height < opinions.plot(columns=2, most=4).height


def test_a_cell_without_crop_is_a_grey_square(opinions: Opinions) -> None:
    sheet = np.asarray(opinions[3:4].plot(heat=False))
    assert ((sheet == 0xDD).all(axis=2)).sum() > 64**2


def test_a_cell_of_a_field_has_its_place_in_the_table(opinions: Opinions, manifest: Manifest, tmp_path: Path) -> None:
    outline = np.array([[10, 20], [40, 20], [40, 60]])
    found = FieldCell(3, (10, 20, 41, 61), (25.0, 40.0), outline, 120.5, 60.25, 0.7, ("touching",))
    cells = [replace(opinions[0], field="smear.png", found=found), opinions[1]]
    Opinions(cells, manifest).to_csv(tmp_path / "cells.csv")
    first, second = read_csv(tmp_path / "cells.csv")
    assert [first[name] for name in ("cell", "left", "top", "right", "bottom")] == ["3", "10", "20", "41", "61"]
    assert (float(first["area_um2"]), first["flags"], first["decision"]) == (120.5, "touching", "all")
    assert (second["cell"], second["left"], second["decision"]) == ("", "", "hem")
