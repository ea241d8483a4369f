"""leukoscope predict on smear fields: per cell, per field, per subject; bad fields named; formats; nobody's name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.errors import UsageError
from leukoscope.fields.cells import field_of
from leukoscope.fields.scale import Scale
from leukoscope.files import read_csv
from leukoscope.inference.fields import judge_cells
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.sources import kind_of
from tests.fields.conftest import Painting

SECRET = "DOE^JANE 1970-01-01"


def synthetic_field(seed: int = 7) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    painting = Painting(64, 48).white_cell(12, 12).white_cell(50, 14, radius=5).white_cell(24, 36).white_cell(35, 36)
    return painting.red_cells(rng, count=14).taken(rng)


@pytest.fixture
def smear(tmp_path: Path) -> Path:
    """Two fields of one subject and one of another, with a name in their tags."""
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = SECRET  # description, artist
    for number, subject in enumerate(("S1", "S1", "S2")):
        (tmp_path / "smear" / subject).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "smear" / subject / f"field-{number}.png"
        Image.fromarray(synthetic_field(number)).save(path, exif=exif)
    return tmp_path / "smear"


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["predict", *map(str, arguments)])


def test_fields_become_cells_fields_and_subjects(smear: Path, single: Bundle, tmp_path: Path) -> None:
    result = predict(smear, "--model", single.path, "--to", "qupath", "--to", "csv", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "12 cells:" in result.output
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["cell"] for row in rows] == ["1", "2", "3", "4"] * 3
    assert all(float(row["prob_blast"]) <= 1 for row in rows)
    assert [row["cells"] for row in read_csv(tmp_path / "out" / "fields.csv")] == ["4", "4", "4"]
    subjects = {row["subject"]: row["cells"] for row in read_csv(tmp_path / "out" / "subjects.csv")}
    assert subjects == {"S1": "8", "S2": "4"}
    features = json.loads((tmp_path / "out" / "qupath" / "field-0.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} <= {"normal", "blast"}
    assert "Probability blast" in features[0]["properties"]["measurements"]


def test_the_page_shows_fields_with_their_cells(smear: Path, single: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "opinion.html"
    assert predict(smear / "S1", "--model", single.path, "--html", page).exit_code == 0
    html = page.read_text()
    assert html.count('class="view"') == 2
    assert html.count("<figure") == 8
    assert "field-0.png" in html


def test_crops_and_fields_may_be_mixed(smear: Path, synthetic_run: Path, single: Bundle, tmp_path: Path) -> None:
    for path in sorted((synthetic_run / "synthetic").rglob("*.png"))[:3]:
        shutil.copy(path, smear / "S2")
    result = predict(smear, "--model", single.path, "--json")
    table = json.loads(result.stdout)
    assert len(table["cells"]) == 15
    assert sum("cell" in cell for cell in table["cells"]) == 12
    assert [field["cells"] for field in table["fields"]] == [4, 4, 4]
    assert sum(subject["cells"] for subject in table["subjects"]) == 15


def test_a_field_that_cannot_be_used_is_one_line_and_status_one(smear: Path, single: Bundle, tmp_path: Path) -> None:
    Image.fromarray(np.full((480, 640, 3), 230, np.uint8)).save(smear / "S1" / "blank.png")
    (smear / "S1" / "early.png").write_bytes((smear / "S1" / "field-0.png").read_bytes()[:9000])
    result = predict(smear, "--model", single.path, "--kind", "fields", "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "14 cells:" in result.output  # as files that fail as cells do
    assert "2 refused (2 cannot be used as images)" in result.output
    for name, reason in (("blank.png", "blank"), ("early.png", "early")):
        assert len([line for line in result.stderr.splitlines() if name in line]) == 1
        row = next(row for row in read_csv(tmp_path / "out.csv") if name in row["path"])
        assert row["decision"] == "refused"
        assert reason in row["reason"]


def test_nobody_is_named_anywhere(smear: Path, single: Bundle, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "out" / "opinion.html"
    result = predict(smear, "--model", single.path, "--to", "qupath", "-o", out, "--html", page)
    assert "DOE" not in result.output
    for path in out.rglob("*"):
        assert "DOE" not in path.name
        assert path.is_dir() or b"DOE" not in path.read_bytes()


def test_a_cell_that_is_not_whole_is_refused_unseen(single: Bundle) -> None:
    field = field_of(synthetic_field()[60:], name="cut.png", scale=Scale.exact(0.1, source="user"))
    judged = list(judge_cells(field, Predictor(single)))
    cut = [one.opinion for one in judged if "cut off" in one.cell.flags]
    assert {opinion.decision for opinion in cut} == {"refused"}
    assert "border" in cut[0].reason
    assert all(one.opinion.probabilities for one in judged if not one.cell.flags)


def test_other_formats_need_a_folder(smear: Path, single: Bundle, tmp_path: Path) -> None:
    result = predict(smear, "--model", single.path, "--to", "qupath", "-o", tmp_path / "out.csv")
    assert isinstance(result.exception, UsageError)
    result = predict(smear, "--model", single.path, "--to", "dicom", "-o", tmp_path / "out")
    assert isinstance(result.exception, UsageError)


def test_a_round_field_of_view_is_a_field_and_a_pale_cell_on_black_is_none(tmp_path: Path) -> None:
    pixels, dark = synthetic_field(), np.zeros((480, 640, 3), np.uint8)
    rows, columns = np.mgrid[:480, :640]
    view = (rows - 240) ** 2 + (columns - 320) ** 2 < 238**2
    Image.fromarray(np.where(view[..., None], pixels, dark)).save(tmp_path / "round.png")
    cell = (rows - 240) ** 2 + (columns - 320) ** 2 < 100**2
    Image.fromarray(np.where(cell[..., None], np.uint8([190, 170, 215]), dark)).save(tmp_path / "cell.png")
    assert kind_of(tmp_path / "round.png") == "field"
    assert kind_of(tmp_path / "cell.png") == "crop"


def test_cells_of_a_field_too_coarse_for_chromatin_are_refused(single: Bundle) -> None:
    predictor = Predictor(single)
    fine = field_of(synthetic_field(), name="f", scale=Scale.exact(0.1, source="user"))
    cells = list(judge_cells(fine, predictor))
    assert not any("Too coarse" in judged.opinion.reason for judged in cells)
    coarse = replace(fine, scale=Scale.exact(0.46, source="user"))
    refused = list(judge_cells(coarse, predictor, cells=[judged.cell for judged in cells]))
    assert all(judged.opinion.decision == "refused" for judged in refused)
    assert all("Too coarse: 0.46 µm per pixel" in judged.opinion.reason for judged in refused)
