"""leukoscope explain says what predict says, and explains no answer that was not given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.files import read_json
from tests.cli.conftest import run


@pytest.mark.parametrize("point", ["balanced", "high-sensitivity"])
def test_explain_decides_as_predict_does(point: str, cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    asked = (cells, "--model", lenient.path, "--operating-point", point)
    explained = run("explain", *asked, "-o", tmp_path / "why")
    assert explained.exit_code == 0, explained.output
    predicted = json.loads(run("predict", *asked, "--kind", "crops", "--json").stdout)["cells"]
    rows = read_json(tmp_path / "why" / "explanations.json")
    assert [row["decision"] for row in rows] == [row["decision"] for row in predicted]
    for row, cell in zip(rows, predicted, strict=True):
        assert row["probability"] == pytest.approx(cell["probabilities"][row["class"]], abs=1e-5)
        assert f"{cell['path']}  {cell['decision']}  {row['method']} map of {row['class']}" in explained.stdout


def test_a_refused_picture_is_said_to_be_refused_wherever_it_stands(
    cells: Path, strict: Bundle, tmp_path: Path
) -> None:
    page = tmp_path / "why.html"
    ended = run("explain", cells, "--model", strict.path, "-o", tmp_path / "why", "--html", page)
    assert ended.exit_code == 1
    rows = read_json(tmp_path / "why" / "explanations.json")
    assert len(rows) == 3
    for row in rows:
        assert row["decision"] == "refused"
        assert row["reason"].startswith("Too small")
        assert row["probability"] is None
        assert "refused" in row["picture"]
        assert (tmp_path / "why" / row["picture"]).exists()
        assert f"{row['path']}  refused: {row['reason']}" in ended.stderr
    assert page.read_text().count('<figure class="refused">') == 3
    assert page.read_text().count("Too small") == 3


def test_a_picture_without_a_cell_has_a_reason_and_no_map(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(cells / "black.png")
    page = tmp_path / "why.html"
    ended = run("explain", cells, "--model", lenient.path, "-o", tmp_path / "why", "--html", page)
    assert ended.exit_code == 1
    rows = {Path(row["path"]).name: row for row in read_json(tmp_path / "why" / "explanations.json")}
    assert rows["black.png"]["picture"] is None
    assert "all black" in rows["black.png"]["reason"]
    assert [row["decision"] for row in rows.values()].count("refused") == 1
    assert page.read_text().count("<img") == 6


def test_a_file_that_cannot_be_read_is_one_line(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    (cells / "text.png").write_text("no image")
    ended = run("explain", cells, "--model", lenient.path, "-o", tmp_path / "why")
    assert ended.exit_code == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "text.png is a text file, not an image" in ended.stderr
    assert len(read_json(tmp_path / "why" / "explanations.json")) == 3


def test_pictures_are_written_though_nothing_can_be_printed(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    first = min(cells.iterdir())
    Image.open(first).rotate(180).save(tmp_path / "turned.png", exif=exif)
    words = ["explain", cells, tmp_path / "turned.png", "--model", lenient.path, "-o", tmp_path / "why"]
    command = [sys.executable, "-m", "leukoscope", *map(str, words)]
    with Path("/dev/full").open("w") as gone:
        ended = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    rows = read_json(tmp_path / "why" / "explanations.json")
    assert [row["notes"] for row in rows] == [[], [], [], ["turned upright (orientation 3)"]]
    assert "(turned upright (orientation 3))" in run(*words[:1], tmp_path / "turned.png", *words[3:]).stdout
