"""A case from the first picture to the sign-off, on both databases, through the API alone."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy.stats import beta

from leukoscope.data.index import index
from leukoscope.files import read_csv
from leukoscope.inference.predictor import load
from leukoscope.interop.qupath import geojson
from leukoscope.server.settings import RoomSettings
from tests.interop.test_dicom import PATIENT, write_field
from tests.server.conftest import Place, cell_picture, opened, png, synthetic
from tests.server.small_bundle import small_bundle

CELLS = 12


def test_a_case_is_read_signed_and_exported(place: Place) -> None:
    me = place.local()
    case = me.case("first", pictures=[cell_picture(seed) for seed in range(CELLS)], subject="P-7")
    page = me.get(f"/cases/{case}/cells?order=priority").json()
    assert page["total"] == page["counts"]["every"] == page["counts"]["unread"] == CELLS
    decided = page["counts"]["unsure"] + page["counts"]["refused"] + sum(page["counts"]["classes"].values())
    assert decided == CELLS

    first = page["cells"][0]["id"]
    read = me.review(first, "blast", note="Auer rod").json()
    assert read["review"]["label"] == "blast"
    assert [cell["id"] for cell in me.cells(case)] == [cell["id"] for cell in page["cells"]], "a review moves no cell"
    assert [cell["id"] for cell in me.cells(case, filter="class:blast")].count(first) == 1
    assert me.get(f"/cases/{case}/cells?filter=unread").json()["total"] == CELLS - 1

    undone = me.undo(case).json()
    assert undone["cell"]["id"] == first
    assert undone["cell"]["review"] is None
    assert me.undo(case).json()["cell"] is None

    signed = me.sign(case, note="seen").json()
    assert signed["state"] == "signed"
    assert signed["signed"]["by"] == "local"
    late = me.review(first, "normal")
    assert (late.status_code, late.json()["error"]["code"]) == (409, "signed")
    assert signed["may"]["delete"] is False
    gone = me.remove(f"/cases/{case}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "signed")
    assert me.reopen(case).json()["state"] == "open"
    assert me.remove(f"/cases/{case}").status_code == 200


def test_what_cannot_be_read_of_a_request_is_said_with_a_cure(place: Place) -> None:
    me = place.local()

    def problem(**more: Any) -> tuple[int, str]:
        answer = me.post("/cases", **more)
        return answer.status_code, answer.json()["error"]["message"]

    as_json = {"Content-Type": "application/json"}
    status, words = problem(json={"name": "ward 3\nfalse line"})
    assert (status, words.startswith("body.name: is longer than one line. Take the line breaks out")) == (422, True)
    status, words = problem(json={"name": "case", "subject": "P-1\nP-2"})
    assert (status, words.startswith("body.subject: is longer than one line.")) == (422, True)
    status, words = problem(json={"name": "bell\a"})
    assert (status, words.startswith("body.name: holds control characters. Take them out")) == (422, True)
    status, words = problem(content=b'{"name": ', headers=as_json)
    assert (status, "is not JSON" in words, "Check its commas" in words) == (422, True, True)
    status, words = problem(content=b'{"name": "\xff"}', headers=as_json)
    assert (status, words.startswith("The body of the request cannot be read. Send JSON as UTF-8")) == (400, True)
    case = me.case("lines", pictures=[cell_picture(1)])
    assert me.review(me.cells(case)[0]["id"], "blast", note="two\nlines").status_code == 201, "a note may have more"


def test_a_case_without_cells_is_not_signed_off(place: Place) -> None:
    me = place.local()
    case = me.case("empty")
    refused = me.sign(case)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_cells")
    assert "nothing to sign off" in refused.json()["error"]["message"]
    me.send(case, cell_picture(1))
    assert me.sign(case).status_code == 200


def test_answers_are_those_of_the_plain_predictor(place: Place, bundle: Path) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    expected = load(bundle).predict([synthetic(seed) for seed in range(CELLS)])
    found = me.cells(case, order="number")
    assert [cell["decision"] for cell in found] == [opinion.decision for opinion in expected]
    assert [cell["probability"] for cell in found] == [opinion.probabilities for opinion in expected]


def test_the_share_of_blasts_follows_the_readers(place: Place) -> None:
    me = place.local()
    many = 2 * CELLS  # a share takes 20 cells
    case = me.case(pictures=[cell_picture(seed) for seed in range(many)])
    cells = me.cells(case)
    for place_, cell in enumerate(cells):
        me.review(cell["id"], "blast" if place_ < 3 else "normal")
    summary = me.get(f"/cases/{case}/summary").json()
    share = summary["blast_share"]
    assert share["value"] == 3 / many
    exact = beta.ppf([0.025, 0.975], 3 + 0.5, many - 3 + 0.5)  # Jeffreys' interval
    assert np.allclose([share["low"], share["high"]], exact, atol=0.02)
    assert summary["by_reader"] == {"blast": 3, "normal": many - 3}
    assert summary["notice"] == "Research use, not a diagnosis"


def test_the_share_of_two_cells_is_not_known_and_says_why(place: Place) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(2)])
    for cell in me.cells(case):
        me.review(cell["id"], "blast")
    share = me.get(f"/cases/{case}/summary").json()["blast_share"]
    assert share["value"] is None
    exact = beta.ppf([0.025, 1], 2.5, 0.5)
    assert np.allclose([share["low"], share["high"]], exact, atol=0.05)
    assert share["how"].startswith("2 of 2 cells count as blast. A share needs at least 20 cells. All 2 cells decided")
    page = me.get(f"/cases/{case}/exports/html").text
    assert re.search(r"Share of blasts among 2 cells: not known yet \(\d\d to 100 %\)\.", page)
    assert "100 % blasts" not in page
    told = json.loads(me.get(f"/cases/{case}/exports/json").text)
    assert told["blast_share"] == share


def test_a_cell_that_its_reader_is_unsure_of_still_counts_as_the_model_called_it(place: Place) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(CELLS)])
    answered = [cell for cell in me.cells(case) if cell["decision"] != "refused"]
    for cell in answered:
        me.review(cell["id"], "unsure" if cell is answered[0] else "normal")
    before = me.get(f"/cases/{case}/summary").json()["blast_share"]
    me.review(answered[0]["id"], "normal")
    after = me.get(f"/cases/{case}/summary").json()["blast_share"]
    assert "decided by readers, 1 by the model" in before["how"]
    assert "decided by readers." in after["how"]


def test_pictures_are_drawn_kept_and_not_sent_twice(place: Place) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(1)])
    cell = me.cells(case)[0]
    for address, kind in ((cell["thumbnail"].removeprefix("/api/v1"), "JPEG"), (f"/cells/{cell['id']}/crop", "JPEG")):
        answer = me.get(address)
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.format == kind
        again = me.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "immutable" in me.get(cell["thumbnail"].removeprefix("/api/v1")).headers["cache-control"]
    with Image.open(io.BytesIO(me.get(f"/cells/{cell['id']}/heat").content)) as heat:
        assert heat.mode == "RGBA"
        assert np.asarray(heat)[..., 3].any()


def test_a_new_bundle_never_rewrites_what_an_old_one_said(settings: RoomSettings, tmp_path: Path) -> None:
    places = opened(settings)
    me = next(places).local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(4)])
    old = me.cells(case, order="number")
    for _ in places:
        pass
    newer = settings.model_copy(update={"model": small_bundle(tmp_path / "newer", name="newer", seed=5)})
    for place in opened(newer):
        me = place.local()
        me.send(case, cell_picture(9))
        found = me.cells(case, order="number")
        assert found[:4] == old
        assert found[4]["bundle"] == me.get("/models").json()["served"] != old[0]["bundle"]
        assert me.get(f"/cells/{old[0]['id']}/heat").status_code == 200, "the old bundle's maps can still be drawn"


def test_a_reviewed_case_is_a_data_set_that_run_accepts(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case(pictures=[cell_picture(seed) for seed in range(6)], subject="P-7")
    for number, cell in enumerate(me.cells(case)):
        me.review(cell["id"], ("blast", "normal", "not_a_cell")[number % 3])
    content = me.get(f"/cases/{case}/exports/dataset").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "set")
    from_table = index(tmp_path / "set" / "cells.csv").cells
    assert sorted(cell.label for cell in from_table) == ["blast", "blast", "normal", "normal"]
    assert {cell.subject for cell in from_table} == {"P-7"}
    assert {cell.subject for cell in index(tmp_path / "set").cells} == {f"case{case}"}


def test_exports_say_what_stands_in_the_case(place: Place, tmp_path: Path) -> None:
    me = place.local()
    case = me.case("=1+1", pictures=[cell_picture(seed) for seed in range(3)], subject="=cmd()")
    cell = me.cells(case, order="number")[0]
    me.review(cell["id"], "normal", note="+evil")
    me.review(me.cells(case, order="number")[2]["id"], "not_a_cell")
    (tmp_path / "table.csv").write_bytes(me.get(f"/cases/{case}/exports/csv").content)
    rows = read_csv(tmp_path / "table.csv")
    assert [row["cell"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["review"], rows[0]["note"], rows[0]["subject"]) == ("normal", "+evil", "=cmd()")
    assert float(rows[1]["prob_blast"]) == round(me.cells(case, order="number")[1]["probability"]["blast"], 6)
    page = me.get(f"/cases/{case}/exports/html").text
    assert "Research use, not a diagnosis" in page
    assert "=1+1" in page
    assert "1 normal, 1 not a cell" in page
    assert me.get(f"/cases/{case}/exports/pdf").content.startswith(b"%PDF-")
    for kind, code in (("geojson", "no_fields"), ("dicom", "no_dicom")):
        assert me.get(f"/cases/{case}/exports/{kind}").json()["error"]["code"] == code


def test_no_name_becomes_a_formula(laboratory: Place, tmp_path: Path) -> None:
    """Names of accounts, files, folders and cases, notes: all that people choose."""
    laboratory.account("=HYPERLINK(1)", role="reader")
    me = laboratory.visitor("=HYPERLINK(1)")
    case = me.post("/cases", json={"name": "+1", "subject": "@sum"}).json()["id"]
    me.send(case, cell_picture(1), names=("=cmd()/-x.png",))
    me.review(me.cells(case)[0]["id"], "normal", note=" =note")
    text = me.get(f"/cases/{case}/exports/csv").content.decode()
    assert [cell for row in csv.reader(io.StringIO(text)) for cell in row if re.match(r" *[=+@-]", cell)] == []
    (tmp_path / "table.csv").write_text(text)
    row = read_csv(tmp_path / "table.csv")[0]
    found = (row["reader"], row["image"], row["subject"], row["note"])
    assert found == ("=HYPERLINK(1)", "=cmd()/-x.png", "@sum", " =note")


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", " =", "＝"])
def test_no_export_of_cells_holds_a_formula(laboratory: Place, tmp_path: Path, sign: str) -> None:
    """Data set, cells and answers, whatever accounts, cases, subjects and folders are called."""
    who = f"{sign.strip()}cmd()"
    laboratory.account(who, role="reader")
    me = laboratory.visitor(who)
    case = me.post("/cases", json={"name": f"{sign}case", "subject": f"{sign}A1"}).json()["id"]
    me.send(case, cell_picture(1), names=(f"{sign}folder/{sign}x.png",))
    cell = me.cells(case)[0]
    me.review(cell["id"], "blast", note=f"{sign}note")
    content = me.get(f"/cases/{case}/exports/dataset").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "set")
    tables = [(tmp_path / "set" / "cells.csv").read_text(encoding="utf-8")]
    tables += [me.get(f"/cases/{case}/exports/{kind}").content.decode() for kind in ("csv", "answers")]
    for text in tables:
        every = [value for row in csv.reader(io.StringIO(text)) for value in row]
        assert any("A1" in value for value in every) or text is tables[2]
        assert [value for value in every if re.match(r"[\s]*[=+\-@＝]", value)] == []
    cells = index(tmp_path / "set" / "cells.csv").cells
    assert {one.subject for one in cells} == {f"{sign}A1".strip()}


def test_a_deleted_case_takes_its_pictures_along_but_not_those_of_others(place: Place) -> None:
    me = place.local()
    shared, own = cell_picture(1), cell_picture(2)
    first, second = me.case(pictures=[shared, own]), me.case(pictures=[shared])
    store = place.room.settings.data / "pictures"
    assert len(list(store.glob("*/*"))) == 2, "each picture lies there once"
    me.remove(f"/cases/{first}")
    assert len(list(store.glob("*/*"))) == 1
    assert me.get(me.cells(second)[0]["thumbnail"].removeprefix("/api/v1")).status_code == 200
    assert me.get(f"/cases/{first}").status_code == 404


def test_a_field_gives_cells_with_outlines_that_a_reader_can_mend(place: Place) -> None:
    me = place.local()
    case = me.post("/cases", json={"name": "field"}).json()["id"]
    sent = me.send(case, png(smear()), names=("field.png",), um_per_px=0.1)
    assert sent.json()["progress"]["failures"] == []
    cells = sent.json()["cells"]
    assert len(cells) >= 2
    image = cells[0]["image"]
    shown = me.get(f"/images/{image}").json()
    assert (shown["kind"], shown["um_per_px"]) == ("field", 0.1)
    assert all(len(cell["outline"]) > 8 for cell in shown["cells"])
    left, top, width, height = cells[0]["box"]
    region = me.get(f"/images/{image}/picture?box={left},{top},{width},{height}")
    with Image.open(io.BytesIO(region.content)) as picture:
        assert picture.size == (width, height)

    square = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    better = me.patch(
        f"/cells/{cells[0]['id']}", json={"outline": square}, headers=me.seen(f"/cells/{cells[0]['id']}")
    ).json()
    assert better["etag"] != cells[0]["etag"], "a browser fetches its picture again"
    twice = me.post(f"/cases/{case}/cells", json={"image": image, "outline": square})
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "there_already"), "one cell is not made two"
    free = [[400, 340], [470, 340], [470, 410], [400, 410]]
    added = me.post(f"/cases/{case}/cells", json={"image": image, "outline": free})
    assert (added.status_code, added.json()["origin"]) == (201, "reader")
    me.remove(f"/cells/{added.json()['id']}")
    assert me.get(f"/cases/{case}/cells").json()["total"] == len(cells)
    me.undo(case)
    assert me.get(f"/cases/{case}/cells").json()["total"] == len(cells) + 1
    outside = me.post(f"/cases/{case}/cells", json={"image": image, "outline": [[0, 0], [99999, 0], [9, 9]]})
    assert outside.json()["error"]["code"] == "outside"

    drawn = json.loads(me.get(f"/cases/{case}/exports/geojson").content)
    assert len(drawn["features"]) == len(cells) + 1
    assert drawn.keys() == geojson([]).keys()


def test_what_is_no_smear_is_named_and_the_rest_goes_on(place: Place) -> None:
    me = place.local()
    case = me.post("/cases", json={"name": "mixed"}).json()["id"]
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    answer = me.send(case, png(noise), cell_picture(1), b"no picture", names=("noise.png", "cell.png", "notes.png"))
    assert [each["name"] for each in answer.json()["refused"]] == ["notes.png"]
    progress = me.get(f"/cases/{case}/progress").json()
    assert (progress["done"], progress["failed"], progress["finished"]) == (1, 1, True)
    assert progress["failures"][0]["name"] == "noise.png"
    assert str(place.room.settings.data) not in json.dumps(progress)


def test_a_dicom_field_gives_results_that_carry_its_identity(place: Place, tmp_path: Path) -> None:
    write_field(tmp_path / "source.dcm", smear(), mm=0.0001)
    me = place.local()
    case = me.post("/cases", json={"name": "dicom"}).json()["id"]
    sent = me.send(case, (tmp_path / "source.dcm").read_bytes(), names=(f"{PATIENT}.dcm",))
    assert sent.json()["progress"]["failures"] == []
    assert len(sent.json()["cells"]) >= 2
    stored = [path.read_bytes() for path in (place.room.settings.data / "pictures").glob("*/*")]
    assert sum(PATIENT.encode() in content for content in stored) == 1, "the header alone, which the results need"
    with zipfile.ZipFile(io.BytesIO(me.get(f"/cases/{case}/exports/dicom").content)) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "out")
    assert PATIENT not in "".join(names)
    report = pydicom.dcmread(tmp_path / "out" / names[0])
    assert (str(report.PatientName), report.PatientID) == (PATIENT, "4711")


def smear() -> np.ndarray:
    """A synthetic field, 64x48 µm at 0.1 µm a pixel."""
    from tests.fields.conftest import Painting

    rng = np.random.default_rng(7)
    painting = Painting(64, 48).white_cell(12, 12).white_cell(50, 14, radius=5).white_cell(24, 36)
    return painting.red_cells(rng, count=14).taken(rng)
