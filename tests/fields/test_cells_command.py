"""leukoscope cells, as a user calls it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from leukoscope.cli import leukoscope
from leukoscope.data.cells import read_cells
from leukoscope.fields.extraction import outline_of
from leukoscope.files import read_csv
from leukoscope.images.read import read_image

SECRET = "DOE^JANE 1970-01-01"


@pytest.fixture
def folder(synthetic, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = SECRET  # description, artist
    for number in range(2):
        Image.fromarray(synthetic[1]).save(tmp_path / f"smear-{number}.png", exif=exif)
    Image.fromarray(synthetic[1]).save(tmp_path / "smear-2.tif", description=SECRET)
    return tmp_path


def _run(*arguments):
    return CliRunner().invoke(leukoscope, ["cells", *(str(argument) for argument in arguments)])


def test_fields_become_crops_tables_and_pictures(folder):
    result = _run(folder, "-o", folder / "out", "--subject", "S1", "--to", "qupath")
    assert result.exit_code == 0, result.output
    assert "12 white cells in 3 of 3 fields" in result.output
    cells = read_cells(folder / "out" / "cells.csv")
    assert len(cells) == 12
    assert {cell.subject for cell in cells} == {"S1"}
    assert all(read_image(cell.path).shape == (450, 450, 3) for cell in cells)
    rows = read_csv(folder / "out" / "cells.csv")
    assert outline_of(rows[0]["outline"]).mean(axis=0) == pytest.approx([120, 120], abs=3)
    assert len(list((folder / "out" / "outlines").iterdir())) == 3
    features = json.loads((folder / "out" / "qupath" / "smear-0.geojson").read_text())["features"]
    assert len(features) == 4


def test_a_bad_field_is_named_and_the_rest_goes_on(folder):
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.full((480, 640, 3), 230, np.uint8)).save(folder / "blank.png")
    result = _run(folder, "-o", folder / "out")
    assert result.exit_code == 1
    assert "12 white cells in 3 of 5 fields" in result.output
    assert "broken.png is a text file, not an image" in result.output
    assert "blank.png is blank" in result.output
    problems = {row["field"]: row["problem"] for row in read_csv(folder / "out" / "fields.csv")}
    assert "not an image" in problems["broken.png"]
    assert problems["smear-0.png"] == ""


def test_nothing_about_the_patient_is_written_anywhere(folder):
    result = _run(folder, "-o", folder / "out", "--to", "qupath")
    assert "DOE" not in result.output
    for path in (folder / "out").rglob("*"):
        assert "DOE" not in path.name
        if path.is_file():
            assert b"DOE" not in path.read_bytes()


def test_fields_of_one_name_do_not_overwrite_each_other(folder, synthetic):
    (folder / "other").mkdir()
    Image.fromarray(synthetic[1]).save(folder / "other" / "smear-0.png")
    result = _run(folder, "-o", folder / "out")
    assert result.exit_code == 0, result.output
    assert len(read_cells(folder / "out" / "cells.csv")) == 16


def test_a_missing_path_is_an_error_of_the_call(tmp_path):
    result = _run(tmp_path / "nowhere.png", "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert "nowhere.png does not exist" in str(result.exception)


def test_the_help_shows_examples():
    assert "Examples:" in _run("--help").output
