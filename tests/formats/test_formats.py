"""A run, a bundle and a reading room that were stored when these formats were made: this version opens them."""

import json
import zipfile
from pathlib import Path

import pytest

from leukoscope import load
from leukoscope.evaluation.evaluate import evaluate
from leukoscope.exporting import export_run
from leukoscope.report.page import write_report
from tests.formats.make import CELL, HERE, case_as_it_is, formats_of, headline, opened, revision

SAID = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))


def stored(name: str, folder: Path) -> Path:
    """Return one of the three, unpacked."""
    with zipfile.ZipFile(HERE / f"{name}.zip") as file:
        file.extractall(folder / name)
    return folder / name


def test_the_stored_files_have_the_formats_that_they_had(tmp_path: Path) -> None:
    found = formats_of(stored("run", tmp_path), stored("bundle", tmp_path))
    assert found | {"database": revision(stored("room", tmp_path))} == SAID["formats"]


def test_a_stored_run_is_evaluated_as_it_was_reported_and_exported(tmp_path: Path) -> None:
    run = stored("run", tmp_path)
    assert headline(run) == SAID["metrics"]
    evaluate(run)
    for name, figure in headline(run).items():
        assert figure == pytest.approx(SAID["metrics"][name], abs=1e-6, nan_ok=True), name
    assert "Synthetic cells" in write_report(run).read_text(encoding="utf-8")
    export_run(run, tmp_path / "again", name="formats")
    assert load(tmp_path / "again").classes == ("normal", "blast")


def test_a_stored_bundle_answers_as_it_did(tmp_path: Path) -> None:
    opinion = load(stored("bundle", tmp_path)).predict([HERE / CELL])[0]
    assert opinion.probabilities == pytest.approx(SAID["opinion"], abs=1e-4)


def test_a_stored_room_opens_with_its_case_and_what_was_read(tmp_path: Path) -> None:
    with opened(stored("room", tmp_path), stored("bundle", tmp_path)) as place:
        found = case_as_it_is(place.local(), SAID["room"]["case"])
    assert found["name"] == SAID["room"]["name"]
    assert sorted(cell["label"] or "" for cell in found["cells"]) == ["", "", "blast"]
    for cell, was in zip(found["cells"], SAID["room"]["cells"], strict=True):
        assert (cell["decision"], cell["label"]) == (was["decision"], was["label"])
        assert cell["probabilities"] == pytest.approx(was["probabilities"], abs=1e-4)
