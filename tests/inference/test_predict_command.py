"""leukoscope predict as a user meets it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.errors import DataError, UsageError
from leukoscope.files import read_csv, write_csv
from leukoscope.inference.sources import sources_of

CELLS = 12


@pytest.fixture
def cells(synthetic_run: Path, tmp_path: Path) -> Path:
    """A folder with twelve synthetic cells in one sub-folder per subject."""
    folder = tmp_path / "cells"
    for path in sorted((synthetic_run / "synthetic").rglob("*.png"))[::13][:CELLS]:
        target = folder / path.name.partition("_")[0]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["predict", *map(str, arguments)])


def test_a_folder_is_answered_in_a_table(cells: Path, single: Bundle, tmp_path: Path) -> None:
    result = predict(cells, "--model", single.path, "-o", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert f"{CELLS} cells:" in result.output
    assert "share of blast" in result.output
    assert "not a diagnosis" in result.output
    rows = read_csv(tmp_path / "out.csv")
    columns = ["path", "subject", "prob_normal", "prob_blast", "decision", "reason", "quality"]
    assert list(rows[0]) == columns
    assert {row["subject"] for row in rows} == {path.name for path in cells.iterdir()}


def test_bad_files_among_good_ones_end_with_status_one(cells: Path, single: Bundle, tmp_path: Path) -> None:
    (cells / "empty.png").write_bytes(b"")
    (cells / "text.png").write_text("no image")
    result = predict(cells, "--model", single.path, "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "2 cannot be used as images" in result.output
    for name in ("empty.png", "text.png"):
        assert len([line for line in result.stderr.splitlines() if name in line]) == 1
    assert "Traceback" not in result.output
    rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "out.csv")}
    assert len(rows) == CELLS + 2
    assert rows["empty.png"]["decision"] == "refused"
    assert rows["empty.png"]["prob_blast"] == ""
    assert sum(row["decision"] != "refused" for row in rows.values()) == CELLS


def test_a_subjects_files_that_cannot_be_used_are_no_cells(cells: Path, single: Bundle, tmp_path: Path) -> None:
    subject = min(path.name for path in cells.iterdir())
    many = len(list((cells / subject).iterdir()))
    (cells / subject / "empty.png").write_bytes(b"")
    rows = [f"{path},{path.parent.name}" for path in sorted(cells.rglob("*.png"))]
    rows[-1] = rows[-1].partition(",")[0] + ","
    (tmp_path / "cells.csv").write_text("\n".join(["path,subject", *rows]))
    asked = ("--model", single.path, "-o", tmp_path / "out", "--to", "hl7", "--to", "csv")
    result = predict(tmp_path / "cells.csv", *asked)
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"{subject} "))
    assert (line.split()[1], line.split()[5]) == (str(many), "1"), result.stdout
    assert "1 cell without a subject" in result.stdout
    row = next(row for row in read_csv(tmp_path / "out" / "subjects.csv") if row["subject"] == subject)
    assert (row["cells"], row["refused"], row["unreadable"]) == (str(many + 1), "1", "1")
    message = (tmp_path / "out" / "hl7" / f"{subject}.hl7").read_bytes().decode()
    assert f"^99LEUKOSCOPE||{many}|{{cells}}^^UCUM" in message
    assert "files that cannot be used^99LEUKOSCOPE||1|{files}^^UCUM" in message


def test_json_is_json(cells: Path, single: Bundle) -> None:
    table = json.loads(predict(cells, "--model", single.path, "--json").stdout)
    assert len(table["cells"]) == CELLS == sum(table["decisions"].values())
    assert sum(row["cells"] for row in table["subjects"]) == CELLS
    assert set(table["cells"][0]["probabilities"]) == {"normal", "blast"}


def test_high_sensitivity_calls_no_fewer_cells(cells: Path, single: Bundle) -> None:
    called = [
        json.loads(predict(cells, "--model", single.path, "--json", "--operating-point", point).stdout)["decisions"]
        for point in ("high-sensitivity", "balanced", "high-specificity")
    ]
    numbers = [each["blast"] for each in called]
    assert numbers == sorted(numbers, reverse=True)


def test_a_damaged_bundle_is_one_line_and_status_one(cells: Path, single: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copytree(single.path, tmp_path / "damaged"))
    (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-1])
    code = "from leukoscope.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", str(cells), "--model", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "model.onnx" in ended.stderr


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "lightning_fabric", "onnx", "onnxscript"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Blocker())
from leukoscope.cli import main
main()
"""


def test_the_core_predicts_where_pytorch_cannot_be_imported(cells: Path, single: Bundle, tmp_path: Path) -> None:
    call = ["predict", str(cells), "--model", str(single.path), "--html", str(tmp_path / "opinion.html")]
    environment = os.environ | {"PYTHONPATH": ""}
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, *call], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert f"{CELLS} cells:" in ended.stdout
    assert (tmp_path / "opinion.html").exists()


def test_exporting_without_pytorch_names_the_extra(synthetic_run: Path, tmp_path: Path) -> None:
    call = ["export", str(synthetic_run), "-o", str(tmp_path / "bundle")]
    ended = subprocess.run([sys.executable, "-c", BLOCKED, *call], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "leukoscope[train]" in ended.stderr


def test_a_quick_answer_imports_little(cells: Path, single: Bundle) -> None:
    code = "import sys; from leukoscope.cli import leukoscope as program\n"
    code += "program(sys.argv[1:], standalone_mode=False)\n"
    code += "print(sorted({'torch', 'sklearn', 'matplotlib', 'scipy', 'pandas', 'jinja2'} & set(sys.modules)))"
    image = next(cells.rglob("*.png"))
    ended = subprocess.run(
        [sys.executable, "-c", code, "predict", str(image), "--model", str(single.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_inputs_are_files_folders_and_tables(cells: Path, tmp_path: Path) -> None:
    files = sorted(cells.rglob("*.png"))
    listed = [{"path": os.path.relpath(path, tmp_path), "subject": "S"} for path in files]
    write_csv(tmp_path / "t.csv", listed, columns=("path", "subject"))
    assert [source.path.resolve() for source in sources_of([tmp_path / "t.csv"])] == files
    assert {source.subject for source in sources_of([tmp_path / "t.csv"])} == {"S"}
    assert sources_of([files[0], files[0]])[0].subject == ""
    assert len(sources_of([files[0], files[0], cells])) == CELLS
    flat = tmp_path / "P7"
    flat.mkdir()
    Image.new("RGB", (32, 32), "red").save(flat / "a.png")
    assert [source.subject for source in sources_of([flat])] == [""]
    assert {source.subject for source in sources_of([flat, cells])} == {"P7", "cells"}


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        sources_of([tmp_path / "none"])
    with pytest.raises(UsageError, match="does not exist"):
        sources_of([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match=r"x\.csv does not exist"):
        sources_of([tmp_path / "x.csv"])
    (tmp_path / "empty.csv").write_text("path\n")
    with pytest.raises(DataError, match="lists no images"):
        sources_of([tmp_path / "empty.csv"])
