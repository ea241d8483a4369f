"""`predict --to fhir --to hl7`: one message for each subject, with the numbers of the tables beside it."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope
from leukoscope.files import read_csv, read_json
from tests.inference.typed import with_types

parser = pytest.importorskip("hl7apy.parser")


@pytest.fixture(scope="module")
def answered(single: Bundle, synthetic_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of two subjects, one with a name that is no file name, predicted with a model that tells types."""
    folder = tmp_path_factory.mktemp("hospital")
    rows = read_csv(synthetic_run / "cells.csv")[:60]
    lines = ["path,subject"]
    for number, row in enumerate(rows):
        path = (synthetic_run / row["path"]).resolve()
        lines.append(f"{path},{'ward 3/P 7' if number < 35 else 'P-8'}")
    (folder / "cells.csv").write_text("\n".join(lines), encoding="utf-8")
    typed = with_types(single, folder / "model", {"lymphoid": 6.0})
    call = ["predict", str(folder / "cells.csv"), "--model", str(typed.path), "-o", str(folder / "out")]
    done = CliRunner().invoke(leukoscope, [*call, "--to", "fhir", "--to", "hl7", "--specimen", "blood"])
    assert done.exit_code in (0, 1), done.output
    return folder / "out"


def test_each_subject_has_one_file_of_each_format(answered: Path) -> None:
    assert len(list((answered / "fhir").iterdir())) == 2
    assert (answered / "fhir" / "P-8.json").exists()
    assert (answered / "hl7" / "P-8.hl7").exists()
    patients = {
        read_json(path)["entry"][-1]["resource"]["subject"]["identifier"]["value"]
        for path in (answered / "fhir").iterdir()
    }
    assert patients == {"ward 3/P 7", "P-8"}


def test_the_numbers_are_those_of_the_differential(answered: Path) -> None:
    table = [
        row for row in read_csv(answered / "differential.csv") if (row["level"], row["name"]) == ("subject", "P-8")
    ]
    percents = {row["kind"]: round(float(row["percent"]), 4) for row in table if row["percent"]}
    sent = {
        seen["code"]["coding"][0]["code"]: seen["valueQuantity"]["value"]
        for entry in read_json(answered / "fhir" / "P-8.json")["entry"][:-1]
        if (seen := entry["resource"])["valueQuantity"]["code"] == "%"
    }
    assert percents, "the subject has enough white cells for percentages"
    for kind, percent in percents.items():
        assert abs(sent[f"{kind.upper().replace(',', '').replace(' ', '_')}_SHARE"] - percent) < 0.06


def test_every_row_says_what_it_counts(answered: Path) -> None:
    """Platelets among the cells are separate from those that fields count; 'called' names the class."""
    codings = {
        coding["code"]: coding["display"]
        for entry in read_json(answered / "fhir" / "P-8.json")["entry"][:-1]
        for coding in entry["resource"]["code"]["coding"]
    }
    assert all(re.fullmatch("[A-Z0-9_-]+", code) for code in codings), sorted(codings)
    assert codings["LYMPHOID_UNDECIDED_COUNT"] == "lymphoid, undecided, number of cells"
    assert codings["CALLED_BLAST_COUNT"] == "called blast, number of cells"
    assert "platelet found as a white cell, number of cells" in codings.values()
    assert not {"PLATELET_COUNT", "CALLED_COUNT"} & set(codings)


def test_hl7_holds_the_same_rows_as_fhir(answered: Path) -> None:
    text = (answered / "hl7" / "P-8.hl7").read_bytes().decode()
    message = parser.parse_message(text)
    observations = message.oru_r01_patient_result.oru_r01_order_observation.oru_r01_observation
    values = [float(seen.obx.obx_5.to_er7()) for seen in observations]
    entries = read_json(answered / "fhir" / "P-8.json")["entry"][:-1]
    assert values == [entry["resource"]["valueQuantity"]["value"] for entry in entries]


def test_cells_that_are_all_refused_are_counts_without_a_share(single: Bundle, tmp_path: Path) -> None:
    plain = np.full((200, 200, 3), 255, np.uint8)
    for number in range(3):
        Image.fromarray(plain).save(tmp_path / f"P-1_{number}.png")
    call = ["predict", str(tmp_path), "--kind", "crops", "--model", str(single.path), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(leukoscope, [*call, "--to", "fhir", "--to", "hl7"])
    assert done.exit_code in (0, 1), done.output
    (written,) = (tmp_path / "out" / "fhir").iterdir()
    units = {entry["resource"]["valueQuantity"]["code"] for entry in read_json(written)["entry"][:-1]}
    assert units == {"{cells}"}
