"""Fields in the room: the answers of the command line, judged again when fields are added, types and their counts."""

import csv
import io
import json
import re
import zipfile
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from highdicom.sr import srread
from PIL import Image, ImageDraw
from scipy import ndimage

from leukoscope.bundle.manifest import open_bundle
from leukoscope.cli import leukoscope as program
from leukoscope.errors import UnknownNameError
from leukoscope.inference.predictor import load
from leukoscope.interop.hl7 import fhir_bundle, oru_r01
from leukoscope.server.database import CaseRow
from leukoscope.server.hospital import result_of
from leukoscope.server.settings import RoomSettings
from tests.fields.conftest import NUCLEUS, Painting
from tests.fields.test_blood_count import with_platelets
from tests.inference.typed import with_types
from tests.interop.test_dicom import write_field
from tests.server.conftest import Place, Visitor, opened


@pytest.fixture(scope="session")
def typed_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with a type head: dark crops are lymphoid, pale ones neutrophils."""
    slopes = {"lymphoid": 4.0, "neutrophil": -4.0}
    surely = {"lymphoid": -4.0 * 20.7, "neutrophil": 4.0 * 20.7}
    return with_types(open_bundle(bundle), tmp_path_factory.mktemp("typed") / "bundle", surely, by_darkness=slopes).path


@pytest.fixture
def settings(tmp_path: Path, typed_bundle: Path, database: str) -> RoomSettings:
    """A room for one machine, whose model tells types."""
    return RoomSettings(data=tmp_path / "room", database=database, model=typed_bundle)


@pytest.fixture
def place(settings: RoomSettings) -> Iterator[Place]:
    """A room for one machine, open."""
    yield from opened(settings)


def field_png(seed: int, *, tint: float = 1.0) -> bytes:
    """Paint a field; `tint` darkens its blue, as another stain would."""
    rng = np.random.default_rng(seed)
    painting = Painting(64, 48)
    for number, radius in enumerate((5.5, 6.5, 5, 6, 7, 5.5)):
        x, y = 12 + 20 * (number % 3), 13 + 22 * (number // 3)
        painting.white_cell(x, y, radius=radius)
        if number % 2:  # a nucleus that takes most of the cell: a small one speaks against lymphoid
            painting.disc(x, y, radius=0.94 * radius, colour=NUCLEUS)
    pixels = painting.red_cells(rng, count=14).taken(rng).astype(float)
    stream = io.BytesIO()
    Image.fromarray((pixels * (1, 1, tint)).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def sent_fields(me: Visitor, fields: dict[str, bytes], *, case: int = 0) -> int:
    case = case or me.case()
    assert me.send(case, *fields.values(), names=tuple(fields), wait=30).status_code == 202
    finished(me, case)
    return case


def finished(me: Visitor, case: int) -> None:
    import time

    until = time.monotonic() + 60
    while not me.get(f"/cases/{case}/progress").json()["finished"]:
        assert time.monotonic() < until, "the analysis did not end"
        time.sleep(0.1)


def by_place(cells: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return what was said of each cell, in an order that room and command line share."""
    return sorted((cell["name"], cell["box"], cell["type"], cell["decision"], cell["probability"]) for cell in cells)


def test_room_and_command_line_give_the_same_answers(place: Place, typed_bundle: Path, tmp_path: Path) -> None:
    fields = {f"field-{number}.png": field_png(number) for number in range(4)}
    for name, content in fields.items():
        (tmp_path / "smear").mkdir(exist_ok=True)
        (tmp_path / "smear" / name).write_bytes(content)
    ran = CliRunner().invoke(program, ["predict", str(tmp_path / "smear"), "--model", str(typed_bundle), "--json"])
    told = json.loads(ran.stdout)
    expected = sorted(
        (
            Path(cell["path"]).name,
            [cell["box"][0], cell["box"][1], cell["box"][2] - cell["box"][0], cell["box"][3] - cell["box"][1]],
            cell["type"],
            cell["decision"],
            cell["probabilities"],
        )
        for cell in told["cells"]
    )
    me = place.local()
    case = sent_fields(me, fields)
    assert by_place(me.cells(case)) == expected
    assert {cell["type"] for cell in told["cells"]} >= {"lymphoid", "neutrophil"}, "both kinds are tried"
    taken = me.get(f"/cases/{case}/summary").json()["fields"]
    assert [field["stain"]["fields"] for field in taken] == [4] * 4
    scales = {row["um_per_px"] for row in told["fields"]}
    assert {round(field["um_per_px"], 5) for field in taken} == scales
    summary = me.get(f"/cases/{case}/summary").json()
    assert summary["differential"]["model"] == told["differential"]
    assert summary["blood_count"] == told["blood_count"]
    assert summary["blood_count"]["red_cells"] > 0


def test_fields_that_come_later_judge_the_others_again_and_keep_what_people_decided(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {f"a{number}.png": field_png(number) for number in range(2)})
    before = {cell["id"]: cell for cell in me.cells(case)}
    assert {field["stain"]["fields"] for field in me.get(f"/cases/{case}/summary").json()["fields"]} == {1}
    first, second, *_ = sorted(before)
    assert me.review(first, "monocyte", note="seen").status_code == 201
    assert me.remove(f"/cells/{second}").status_code == 200
    sent_fields(me, {f"b{number}.png": field_png(9 + number, tint=0.8) for number in range(3)}, case=case)
    fields = me.get(f"/cases/{case}/summary").json()["fields"]
    assert [field["stain"]["fields"] for field in fields] == [5] * 5
    assert [bool(field["again"]) for field in fields[:2]] == [True, True]
    after = {cell["id"]: cell for cell in me.cells(case)}
    assert after[first]["review"]["label"] == "monocyte"
    assert second not in after, "a cell that somebody took off stays off"
    kept = [cell for number, cell in after.items() if number in before]
    assert len(kept) == len(before) - 1, "cells keep their numbers"
    assert any(cell["etag"] != before[cell["id"]]["etag"] for cell in kept)


def test_what_was_done_to_a_field_is_said_before_and_after_it_was_judged(place: Place) -> None:
    me = place.local()
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 8
    Image.open(io.BytesIO(field_png(5))).rotate(-90, expand=True).save(turned, "PNG", exif=exif)
    case = sent_fields(me, {"a.png": turned.getvalue(), "b.png": field_png(5)})
    turned_field, plain = me.get(f"/cases/{case}/summary").json()["fields"]
    assert turned_field["notes"] == ["turned upright (orientation 8)"]
    assert plain["notes"] == []
    images = me.get(f"/cases/{case}/images").json()["images"]
    assert [image["notes"] for image in images] == [turned_field["notes"], []]
    assert [image["width"] for image in images] == [images[1]["width"]] * 2
    assert len({len(me.get(f"/images/{image['id']}").json()["cells"]) for image in images}) == 1


def test_a_reader_says_types_and_is_counted_beside_the_model(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {f"a{number}.png": field_png(number) for number in range(4)})
    counts = me.get(f"/cases/{case}/cells").json()["counts"]
    assert counts["classes"]["neutrophil"] > 0
    mature = me.cells(case, filter="class:neutrophil")
    assert {cell["decision"] for cell in mature} == {"not asked"}
    assert {cell["type"] for cell in mature} == {"neutrophil"}
    for cell in mature[:2]:
        assert me.review(cell["id"], "eosinophil").status_code == 201
    assert me.review(mature[2]["id"], "leucocyte").status_code == 422
    told = me.get(f"/cases/{case}/summary").json()["differential"]
    readers = {row["name"]: row["cells"] for row in told["readers"]["rows"]}
    assert readers["eosinophil"] == told["readers"]["white"] == 2
    model = {row["name"]: row["cells"] for row in told["model"]["rows"]}
    assert model["neutrophil"] == len(mature)
    shown = [
        (cell["review"] or {}).get("label") or (cell["type"] if cell["decision"] == "not asked" else cell["decision"])
        for cell in me.cells(case, order="type")
    ]
    assert shown == sorted(shown), "cells of one kind stand together"
    share = me.get(f"/cases/{case}/summary").json()["blast_share"]
    lymphoid = sum(model[name] for name in ("blast", "lymphocyte", "lymphoid, undecided"))
    assert f"{lymphoid} cell" in share["how"], "the share is one of lymphoid cells"


def test_the_report_shows_cells_of_a_field_in_the_smear_and_not_on_black(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {"a.png": field_png(1)})
    page = me.get(f"/cases/{case}/exports/html").text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == len(me.cells(case))
    for content in pictures:
        with Image.open(io.BytesIO(b64decode(content))) as picture:
            shown = np.asarray(picture)
        assert shown.shape[:2] == (160, 160)
        assert shown[..., 1].mean() > 100, "the glass and the cells around it"
    assert me.get(f"/cases/{case}/exports/pdf").content.startswith(b"%PDF")


def test_a_cell_of_a_field_is_shown_in_its_field_at_one_scale(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {"a.png": field_png(1)})
    cells = me.cells(case, order="number")
    for cell in cells:
        with Image.open(io.BytesIO(me.get(f"/cells/{cell['id']}/thumbnail?side=640").content)) as picture:
            shown = np.asarray(picture)
        assert shown[..., 1].mean() > 100, "the glass of the field around it, not black"
        um_per_px = me.get(f"/images/{cell['image']}").json()["um_per_px"]
        side = round(max(20 / um_per_px, *(1.05 * each for each in cell["box"][2:])))
        assert shown.shape[:2] == (side, side), "also at the border of the field, where a part of it is grey"


def test_a_heat_map_lies_over_the_cell_and_nothing_else_at_the_scale_of_its_picture(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {"a.png": field_png(1)})
    asked = [cell for cell in me.cells(case) if cell["decision"] not in ("refused", "not asked")]
    cell = me.get(f"/cells/{asked[0]['id']}").json()
    um_per_px = me.get(f"/images/{cell['image']}").json()["um_per_px"]
    answer = me.get(f"/cells/{cell['id']}/heat?over=thumbnail").content
    over = np.asarray(Image.open(io.BytesIO(answer)))
    there = over[..., 3] > 0
    assert over.shape[0] == over.shape[1]
    across = np.flatnonzero(there.any(axis=0))
    um_of_map = 20 * (across[-1] + 1 - across[0]) / over.shape[1]
    assert abs(um_of_map - cell["box"][2] * um_per_px) < 0.08 * um_of_map, "as wide as the cell is in the field"
    left, top, width, height = cell["box"]
    middle = np.array([left + width / 2, top + height / 2])
    points = (np.array(cell["outline"]) - middle) * um_per_px * over.shape[1] / 20 + over.shape[1] / 2
    inside = Image.new("L", over.shape[1::-1])
    ImageDraw.Draw(inside).polygon([tuple(each) for each in points], fill=255)
    beside = ndimage.distance_transform_edt(np.asarray(inside) == 0)[there].max()
    assert beside * 20 / over.shape[1] < 0.25, "nothing beside the cell is coloured, µm"


def test_outlines_are_called_after_the_field_that_they_are_of(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {"ward 3/smear a.png": field_png(1)})
    named = me.get(f"/cases/{case}/exports/geojson").headers["content-disposition"]
    assert named == "attachment; filename*=UTF-8''smear%20a.geojson"
    me.send(case, field_png(2), names=("other/smear a.tif.png",))
    files = zipfile.ZipFile(io.BytesIO(me.get(f"/cases/{case}/exports/geojson").content)).namelist()
    assert files == ["smear a.geojson", "smear a.tif.geojson"]


def test_every_export_carries_the_types(place: Place) -> None:
    me = place.local()
    case = sent_fields(me, {f"a{number}.png": field_png(number) for number in range(4)})
    table = me.get(f"/cases/{case}/exports/csv").text.splitlines()
    assert "type" in table[0].split(",")
    assert "prob_type_neutrophil" in table[0].split(",")
    html = me.get(f"/cases/{case}/exports/html").text
    assert "Differential" in html
    assert "It was not trained on myeloblasts" in html
    assert me.get(f"/cases/{case}/exports/pdf").content.startswith(b"%PDF")
    outlines = me.get(f"/cases/{case}/exports/geojson")
    assert outlines.status_code == 200
    assert b"neutrophil" in outlines.content


def test_the_laboratory_sets_order_goal_and_keys(settings: RoomSettings) -> None:
    own = {"order": ("blast", "neutrophil"), "goal": 100, "keys": {"neutrophil": "n"}}
    for place in opened(settings.model_copy(update=own)):
        me = place.local()
        model = me.get("/models").json()["models"][0]
        assert model["keys"] == {"neutrophil": "n"}
        assert "neutrophil" in model["types"]
        assert "lymphoid" not in model["types"]
        case = sent_fields(me, {"a.png": field_png(1)})
        told = me.get(f"/cases/{case}/summary").json()["differential"]["model"]
        assert [row["name"] for row in told["rows"]][:2] == ["blast", "neutrophil"]
        assert told["goal"] == 100
    with pytest.raises(UnknownNameError, match="neutrophil"):
        next(opened(settings.model_copy(update={"keys": {"neutrofil": "n"}})))


def text_of_pdf(content: bytes) -> str:
    """Return the text of a PDF of fpdf2: its fonts hold the letters that were used, each with a number of its own."""
    letters = []
    for found in re.findall(rb"beginbfchar\n(.+?)\nendbfchar", content, re.DOTALL):
        pairs = re.findall(rb"<(\w+)> <(\w+)>", found)
        letters.append({int(number, 16): bytes.fromhex(code.decode()).decode("utf-16-be") for number, code in pairs})
    lines, table = [], letters[0]
    for packed in re.findall(rb"stream\n(x.+?)\nendstream", content, re.DOTALL):
        page = zlib.decompress(packed)
        for font, said in re.findall(rb"/F(\d) [\d.]+ Tf|\(((?:[^()\\]|\\.)*)\) Tj", page, re.DOTALL):
            table = letters[int(font) - 1] if font else table
            plain = re.sub(rb"\\([nrt()\\])", lambda found: _ESCAPED.get(found[1], found[1]), said)
            lines.append("".join(table.get(int.from_bytes(plain[at : at + 2]), "?") for at in range(0, len(plain), 2)))
    return "\n".join(lines)


_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
Number = tuple[str, float, float | None, float | None, str]  # quantity, value, low, high, unit


def rows_of_table(text: str, **where: str) -> list[Number]:
    """Return the numbers of a table of counts, those of some rows alone."""
    found = [row for row in csv.DictReader(io.StringIO(text)) if all(row[key] == value for key, value in where.items())]
    ends = [[float(row[end]) if row[end] else None for end in ("low", "high")] for row in found]
    return [(row["quantity"], float(row["value"]), *end, row["unit"]) for row, end in zip(found, ends, strict=True)]


def rows_of_fhir(bundle: dict[str, Any], names: set[str]) -> list[tuple[str, float, str]]:
    resources = [entry["resource"] for entry in bundle["entry"][:-1]]
    said = [(each["code"]["text"].removesuffix(", number of cells"), each["valueQuantity"]) for each in resources]
    return [(name, quantity["value"], quantity["code"]) for name, quantity in said if name in names]


def rows_of_hl7(message: str, names: set[str]) -> list[tuple[str, float, str]]:
    segments = [line.split("|") for line in message.split("\r") if line.startswith("OBX|")]
    said = [(each[3].split("^"), float(each[5]), each[6].split("^")[0]) for each in segments]
    # The program's own code comes last in an identifier, with its meaning before the scheme.
    named = [(code[-2].removesuffix(", number of cells"), value, unit) for code, value, unit in said]
    return [row for row in named if row[0] in names]


def numbers_of_dicom(archive: bytes) -> dict[str, list[float]]:
    """Return every number that the reports of an archive give of red cells and platelets: meaning -> values."""
    found: dict[str, list[float]] = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for name in sorted(files.namelist()):
            report = srread(io.BytesIO(files.read(name)))
            for group in report.content.get_image_measurement_groups():
                if group.tracking_identifier.startswith("counted beside white cells"):
                    for each in group.get_measurements():
                        kind = f"{group.finding_type.meaning}: {each.name.meaning}"
                        found.setdefault(kind, []).append(each.value)
    return found


def dicom_smear(folder: Path) -> dict[str, bytes]:
    """Write three camera fields with white cells, red cells and platelets, and return their content by name."""
    sent: dict[str, bytes] = {}
    folder.mkdir(parents=True)
    for number in range(3):
        painting = Painting(64, 48).white_cell(14, 14).white_cell(44, 30, radius=6)
        painting = with_platelets(painting, [(30, 8), (50, 42), (8, 40)][: number + 1])
        rng = np.random.default_rng(number)
        pixels = painting.red_cells(rng, count=22).taken(rng)
        path = write_field(folder / f"field-{number}.dcm", pixels, mm=1e-4)
        sent[path.name] = path.read_bytes()
    return sent


def test_every_result_of_a_case_gives_the_same_red_cells_and_platelets(
    settings: RoomSettings, typed_bundle: Path, tmp_path: Path
) -> None:
    """Room (page, JSON, CSV, HTML, PDF, DICOM, FHIR, HL7), command line (JSON, CSV, DICOM, FHIR, HL7) and Python."""
    smear, out = tmp_path / "smear" / "S1", tmp_path / "out"
    sent = dicom_smear(smear)
    asked = ["predict", str(smear.parent), "--model", str(typed_bundle), "--platelet-factor", "15"]
    told = json.loads(CliRunner().invoke(program, [*asked, "--json"]).stdout)
    formats = [word for name in ("csv", "dicom", "fhir", "hl7") for word in ("--to", name)]
    ran = CliRunner().invoke(program, [*asked, *formats, "--specimen", "blood", "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    in_python = load(typed_bundle).predict(smear.parent).blood_count(factor=15)
    assert in_python is not None
    expected = [(row.name, row.value, row.low, row.high, row.unit) for row in in_python.rows()]
    names = {row[0] for row in expected}
    assert {"estimated platelets", "standard deviation of red cell diameter"} <= names, "the scale is stated"
    assert json.loads(json.dumps(in_python.as_json())) == told["blood_count"] == told["subjects"][0]["blood_count"]
    for level in ("all", "subject"):
        assert rows_of_table((out / "blood_count.csv").read_text(), level=level) == expected
    plain = [(name, pytest.approx(value, abs=1e-4), unit) for name, value, _, _, unit in expected]
    assert rows_of_fhir(json.loads((out / "fhir" / "S1.json").read_text()), names) == plain
    assert rows_of_hl7((out / "hl7" / "S1.hl7").read_bytes().decode(), names) == plain

    for place in opened(settings.model_copy(update={"platelet_factor": 15.0})):
        me = place.local()
        case = sent_fields(me, sent)
        got = {kind: me.get(f"/cases/{case}/exports/{kind}") for kind in ("counts", "json", "html", "pdf", "dicom")}
        assert {answer.status_code for answer in got.values()} == {200}
        assert me.get(f"/cases/{case}/summary").json()["blood_count"] == told["blood_count"]
        assert got["json"].json()["blood_count"] == told["blood_count"]
        assert rows_of_table(got["counts"].text, counted_by="program") == expected
        pages = (got["html"].text, text_of_pdf(got["pdf"].content))
        for name, value, low, high, _ in expected:
            interval = "–" if low is None else f"{low:,.6g} to {high:,.6g}"
            for page in pages:
                assert name in page
                assert f"{value:,.6g}" in page
                assert interval in page
        with place.room.database.reading() as session:
            result = result_of(
                session,
                session.get_one(CaseRow, case),
                manifest=place.room.predictor.manifest,
                settings=place.room.settings,
            )
        assert rows_of_fhir(fhir_bundle(result), names) == plain
        assert rows_of_hl7(oru_r01(result), names) == plain
        from_room = numbers_of_dicom(got["dicom"].content)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as files:
        for path in (out / "dicom").iterdir():
            files.write(path, path.name)
    assert numbers_of_dicom(stream.getvalue()) == from_room
    by_field = told["fields"]
    assert from_room["Red cell: Number of cells"] == [field["red_cells"] for field in by_field]
    assert from_room["Thrombocyte: Number of cells"] == [field["platelets"] for field in by_field]
    assert sum(from_room["Red cell: Number of cells"]) == told["blood_count"]["red_cells"] > 30
    assert sum(from_room["Thrombocyte: Number of cells"]) == told["blood_count"]["platelets"] > 3
