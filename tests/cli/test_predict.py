"""leukoscope predict where files are odd: names, places, devices; what cannot be used is named, the rest answered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli.output import ShownOpinions
from leukoscope.errors import DataError, UsageError
from leukoscope.files import read_csv
from leukoscope.inference.opinions import Opinion, Tally
from tests.cli.conftest import run

ODD, READABLE = os.fsdecode(b"odd\xff.png"), r"odd\udcff.png"


def program(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from leukoscope.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def named(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if name in line]


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_name_that_is_not_utf_8_is_readable_wherever_it_stands(
    command: str, cells: Path, lenient: Bundle, tmp_path: Path
) -> None:
    (cells / "cell-3.png").rename(cells / ODD)
    (cells / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    out, page = tmp_path / "out", tmp_path / "page.html"
    ended = run(command, cells, "--model", lenient.path, "-o", out, "--html", page)
    assert ended.exit_code == 1, ended.output
    assert READABLE in ended.stdout_bytes.decode()
    assert r"bad\udcff.png" in ended.stderr_bytes.decode()
    table = out if command == "predict" else out / "explanations.json"
    assert table.read_text(encoding="utf-8").count("odd\\") >= 1
    assert READABLE in page.read_text(encoding="utf-8")


def test_a_table_finds_its_picture_whose_name_is_not_utf_8(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    (cells / "cell-3.png").rename(cells / ODD)
    (cells / READABLE.replace("odd", "plain")).write_bytes((cells / "cell-1.png").read_bytes())
    asked = ("--model", lenient.path, "--kind", "crops")
    assert run("predict", cells, *asked, "-o", tmp_path / "first.csv").exit_code == 0
    again = run("predict", tmp_path / "first.csv", *asked, "-o", tmp_path / "again.csv")
    assert again.exit_code == 0, again.output
    first, second = (read_csv(tmp_path / f"{name}.csv") for name in ("first", "again"))
    assert [row["prob_all"] for row in first] == [row["prob_all"] for row in second]
    assert len({row["path"] for row in second}) == 4


@pytest.mark.parametrize("width", [64, 80, 100, 160])
def test_no_word_of_a_reason_is_broken_on_a_narrow_terminal(
    width: int, strict: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name gets shorter and the type goes, before a word is broken."""
    monkeypatch.setenv("COLUMNS", str(width))
    told = {
        "immature granulocyte": ("not asked", "immature granulocyte: blast or normal is asked of lymphoid cells only"),
        "lymphoid": ("refused", "Underexposed: saturation-weighted brightness 0.21 below 0.35."),
    }
    shown, tally = ShownOpinions(strict.manifest, point="balanced"), Tally(strict.manifest, point="balanced")
    for kind, (decision, reason) in told.items():
        opinion = Opinion(f"a-long-folder/{'another-one/' * 5}{kind[:4]}.png", decision, reason, type=kind)
        shown.add(opinion)
        tally.add(opinion)
    shown.print(tally)
    lines = capsys.readouterr().out.splitlines()
    words = " ".join(lines).split()
    assert set(" ".join(reason for _, reason in told.values()).split()) <= set(words)
    assert {"lymp.png", "imma.png"} <= {word.rpartition("/")[2].lstrip("…") for word in words}
    assert ("type" in lines[0].split()) is (width > 70)
    assert max(map(len, lines[:2])) <= width


def test_cells_refused_for_one_reason_take_one_row(strict: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    shown, tally = ShownOpinions(strict.manifest, point="balanced"), Tally(strict.manifest, point="balanced")
    reasons = [f"Too small: {px} px." for px in range(80, 84)] + ["Too large: 900 px."]
    for number, reason in enumerate(reasons):
        shown.add(opinion := Opinion(f"{number}.png", "refused", reason))
        tally.add(opinion)
    shown.print(tally)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Too small: 80 px. (and 3 more cells like this)" in printed
    assert "Too large: 900 px. 5 cells: 5 refused" in printed
    assert not any(f"{number}.png" in printed for number in (1, 2, 3))


def test_json_of_a_name_that_is_not_utf_8_is_json(cells: Path, lenient: Bundle) -> None:
    (cells / "cell-3.png").rename(cells / ODD)
    told = json.loads(run("predict", cells, "--model", lenient.path, "--kind", "crops", "--json").stdout_bytes)
    assert [Path(cell["path"]).name for cell in told["cells"]] == ["cell-1.png", "cell-2.png", READABLE]


def test_a_name_of_two_lines_is_told_in_one(cells: Path, lenient: Bundle) -> None:
    (cells / "two\nlines.png").write_bytes(b"")
    ended = run("predict", cells, "--model", lenient.path, "--kind", "crops")
    assert len(ended.stderr.splitlines()) == 1


def test_an_empty_folder_is_named_and_the_rest_is_answered(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("predict", tmp_path / "empty", cells, "--model", lenient.path, "--kind", "crops")
    assert ended.exit_code == 1
    assert len(named(ended.stderr, "empty holds no image")) == 1
    assert "3 cells:" in ended.stdout
    ended = run("predict", tmp_path / "empty", "--model", lenient.path)
    assert isinstance(ended.exception, DataError)


def test_a_link_that_leads_nowhere_is_refused_by_name(cells: Path, lenient: Bundle) -> None:
    (cells / "gone.png").symlink_to("nowhere.png")
    for kind in ("auto", "crops"):
        ended = run("predict", cells, "--model", lenient.path, "--kind", kind)
        assert ended.exit_code == 1
        assert len(named(ended.stderr, "gone.png")) == 1
        assert "4 cells:" in ended.stdout
        assert "1 refused (1 cannot be used as an image)" in ended.stdout


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_pictures_of_kinds_that_are_not_read_are_told_of(
    command: str, cells: Path, lenient: Bundle, tmp_path: Path
) -> None:
    Image.new("P", (64, 64)).save(cells / "old.gif")
    (cells / "notes.txt").write_text("not a picture")
    ended = run(command, cells, "--model", lenient.path, "-o", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    told = " ".join(ended.stdout.split())
    assert "Skipped 1 picture in an unsupported format:" in told
    assert "old.gif" in told
    assert "notes.txt" not in ended.output


def test_json_names_what_was_passed_over(cells: Path, lenient: Bundle) -> None:
    Image.new("P", (64, 64)).save(cells / "old.gif")
    told = json.loads(run("predict", cells, "--model", lenient.path, "--kind", "crops", "--json").stdout)
    assert [Path(path).name for path in told["passed_over"]] == ["old.gif"]


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """A blank field, and text with the name of a picture."""
    folder = tmp_path / "fields"
    folder.mkdir()
    Image.fromarray(np.full((480, 640, 3), 230, np.uint8)).save(folder / "blank.png")
    (folder / "text.png").write_text("no image")
    return folder


def test_what_fails_as_a_field_counts_as_what_fails_as_a_cell(failing: Path, lenient: Bundle, tmp_path: Path) -> None:
    out, page = tmp_path / "out.csv", tmp_path / "page.html"
    asked = (failing, "--model", lenient.path, "--kind", "fields")
    ended = run("predict", *asked, "-o", out, "--html", page)
    assert ended.exit_code == 1
    assert "2 cells: 2 refused (2 cannot be used as images)" in ended.stdout
    told = json.loads(run("predict", *asked, "--json").stdout)
    assert told["decisions"]["refused"] == len(told["cells"]) == len(told["fields"]) == 2
    rows = read_csv(out)
    for row, cell, field in zip(rows, told["cells"], told["fields"], strict=True):
        assert row["path"] == cell["path"] == field["field"]
        assert row["decision"] == cell["decision"] == "refused"
        assert row["reason"] == cell["reason"] == field["problem"]
        assert named(ended.stderr, row["path"]) == [f"{row['path']}: {row['reason']}"]
        assert page.read_text().count(row["reason"]) == 1


def test_a_crop_and_a_field_that_are_no_images_are_told_in_one_form(failing: Path, lenient: Bundle) -> None:
    for kind in ("crops", "fields"):
        ended = run("predict", failing / "text.png", "--model", lenient.path, "--kind", kind)
        assert ended.stderr.startswith(f"{failing / 'text.png'}: Is a text file, not an image")
        assert "1 cell: 1 refused (1 cannot be used as an image)" in ended.stdout


def test_a_table_asked_for_on_standard_output_stands_there_alone(cells: Path, lenient: Bundle, tmp_path: Path) -> None:
    asked = (cells, "--model", lenient.path, "--kind", "crops", "-o")
    ended = program("predict", *asked, "/dev/stdout")
    assert ended.returncode == 0, ended.stderr
    (tmp_path / "out.csv").write_text(ended.stdout)
    assert len(read_csv(tmp_path / "out.csv")) == 3
    assert "3 cells:" in ended.stderr


def test_a_full_device_is_one_clear_line_after_the_answers(cells: Path, lenient: Bundle) -> None:
    ended = program("predict", cells, "--model", lenient.path, "--kind", "crops", "-o", "/dev/full")
    assert ended.returncode == 1
    assert "3 cells:" in ended.stdout
    assert ended.stderr.count("\n") == 1
    assert "The disk is full" in ended.stderr
    assert "/dev/full" in ended.stderr
    assert Path("/dev/full").is_char_device()


def test_an_output_that_cannot_be_written_is_named_as_it_was_given(
    cells: Path, lenient: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for option in ("-o", "--html"):
        ended = run("predict", cells, "--model", lenient.path, "--kind", "crops", option, tmp_path / "file" / "out")
        assert isinstance(ended.exception, OSError)
        assert ended.exception.filename == str(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "outputs",
    [
        ("-o", "a.html", "--html", "./a.html"),
        ("-o", "a.csv", "--html", "link.html"),
        ("-o", "a", "--to", "csv", "--html", "a/predictions.csv"),
        ("-o", "a", "--to", "csv", "--html", "a/subjects.csv"),
        ("-o", "a", "--to", "qupath", "--html", "a"),
        ("-o", "a", "--to", "qupath", "--html", "a/qupath"),
        ("-o", "cells.csv"),
        ("--html", "cells.csv"),
    ],
    ids=" ".join,
)
def test_no_result_is_written_over_another_or_over_what_is_read(
    outputs: tuple[str, ...], cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cells.csv").write_text("path\ncells/cell-1.png\n")
    Path("link.html").symlink_to("a.csv")
    ended = run("predict", "cells.csv", "--model", "no model is opened before this is seen", *outputs)
    assert isinstance(ended.exception, UsageError), ended.output
    assert "Choose another name" in str(ended.exception)


def test_explain_writes_no_page_over_its_own_files(cells: Path, tmp_path: Path) -> None:
    for page in (tmp_path / "why", tmp_path / "why" / "explanations.json", cells / "cell-1.png"):
        ended = run("explain", cells / "cell-1.png", "--model", "none", "-o", tmp_path / "why", "--html", page)
        assert isinstance(ended.exception, UsageError), ended.output
