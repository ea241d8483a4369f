"""What kind of cell first, then "blast or normal?" of lymphoid cells alone: in files, fields, tables and pages."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from leukoscope.bundle.manifest import TYPES, Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.errors import BundleError, UnknownNameError
from leukoscope.fields.cells import field_of
from leukoscope.fields.scale import Scale
from leukoscope.files import read_csv
from leukoscope.inference.cell_types import limits_of
from leukoscope.inference.fields import judge_cells
from leukoscope.inference.predictor import Predictor
from tests.fields.conftest import NUCLEUS, Painting
from tests.images.test_type_crop import cell_on_black
from tests.inference.conftest import changed
from tests.inference.typed import with_types

SURE = 20.0


@pytest.fixture(scope="session")
def lymphoid(single: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every cell is lymphoid."""
    return with_types(single, tmp_path_factory.mktemp("lymphoid") / "bundle", {"lymphoid": SURE})


@pytest.fixture(scope="session")
def mature(single: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every cell is a neutrophil."""
    return with_types(single, tmp_path_factory.mktemp("mature") / "bundle", {"neutrophil": SURE})


@pytest.fixture(scope="session")
def torn(single: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every cell is about as likely a monocyte as lymphoid."""
    return with_types(single, tmp_path_factory.mktemp("torn") / "bundle", {"monocyte": SURE, "lymphoid": SURE - 0.1})


def round_nucleus(painting: Painting, x: float, y: float) -> Painting:
    """Paint a cell whose nucleus takes most of it: a small one speaks against lymphoid."""
    painting.white_cell(x, y).disc(x, y, radius=5.5, colour=NUCLEUS)
    return painting


def test_fields_without_a_white_cell_say_so_instead_of_a_table_of_noughts(mature: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(Painting(64, 48).red_cells(rng, count=20).taken(rng)).save(tmp_path / "red.png")
    page = tmp_path / "page.html"
    asked = ["predict", str(tmp_path), "--kind", "fields", "--um-per-px", "0.1", "--model", str(mature.path)]
    done = CliRunner().invoke(program, [*asked, "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "0 cells: no white cell was found" in done.output
    assert "95 % interval" not in done.output
    assert "20 red cells" in done.output
    html = page.read_text(encoding="utf-8")
    assert "No white cell was found." in html
    assert "White cells classified" not in html
    assert "What the model knows, and what not." in html


def smear_of(folder: Path, *, fields: int, cells: int = 6) -> Path:
    """Paint fields with white cells in two rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(fields):
        rng = np.random.default_rng(number)
        painting = Painting(64, 48)
        for place in range(cells):
            painting = round_nucleus(painting, 12 + 19 * (place % 3), 13 + 22 * (place // 3))
        Image.fromarray(painting.taken(rng)).save(folder / f"field-{number}.png")
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["predict", "--um-per-px", "0.1", *map(str, arguments)])


def test_a_mature_cell_is_not_asked_and_says_why(mature: Bundle) -> None:
    opinion = Predictor(mature).predict(cell_on_black())[0]
    assert (opinion.type, opinion.decision, opinion.called) == ("neutrophil", "not asked", "")
    assert opinion.reason == "neutrophil: blast or normal is asked of lymphoid cells only"
    assert opinion.probabilities is None
    assert opinion.types is not None
    assert opinion.types["neutrophil"] == pytest.approx(1, abs=1e-6)


def test_a_lymphoid_cell_gets_the_answer_of_a_bundle_without_types(lymphoid: Bundle, single: Bundle) -> None:
    typed, plain = (Predictor(bundle).predict(cell_on_black())[0] for bundle in (lymphoid, single))
    assert typed.type == "lymphoid"
    assert (typed.decision, typed.probabilities) == (plain.decision, plain.probabilities)
    assert plain.type == ""


def test_an_unsure_type_is_never_asked_about_blasts(torn: Bundle) -> None:
    opinion = Predictor(torn).predict(cell_on_black())[0]
    assert (opinion.type, opinion.decision) == ("unsure", "not asked")
    assert "monocyte 0.52" in opinion.reason


def test_cells_of_a_field_take_the_same_path(mature: Bundle, lymphoid: Bundle) -> None:
    painting = round_nucleus(round_nucleus(Painting(64, 48), 14, 14), 40, 30)
    field = field_of(painting.taken(np.random.default_rng(1)), name="f", scale=Scale.exact(0.1, source="user"))
    for bundle, decisions in ((mature, {"not asked"}), (lymphoid, {"normal", "blast"})):
        judged = list(judge_cells(field, Predictor(bundle)))
        assert len(judged) == 2
        assert {one.opinion.decision for one in judged} <= decisions


def test_a_mature_cell_of_a_field_is_shown_in_the_colours_in_which_its_type_was_told(mature: Bundle) -> None:
    painting = Painting(64, 48).white_cell(14, 14)
    field = field_of(painting.taken(np.random.default_rng(1)), name="f", scale=Scale.exact(0.1, source="user"))
    (one,) = judge_cells(field, Predictor(mature), with_crops=True)
    assert one.opinion.crop is not None
    assert one.opinion.crop.shape == (128, 128, 3)
    assert one.opinion.crop[0, 0].min() > 200, "glass around it, not black"


def test_the_table_names_the_type_and_its_probabilities(mature: Bundle, tmp_path: Path) -> None:
    smear, out = smear_of(tmp_path / "smear" / "P1", fields=4), tmp_path / "out"
    result = predict(smear.parent, "--model", mature.path, "--to", "csv", "--to", "qupath", "-o", out)
    assert result.exit_code == 0, result.output
    rows = read_csv(out / "predictions.csv")
    assert len(rows) == 24
    assert {row["type"] for row in rows} == {"neutrophil"}
    assert {row["decision"] for row in rows} == {"not asked"}
    for row in rows:
        assert sum(float(row[f"prob_type_{name}"]) for name in TYPES) == pytest.approx(1, abs=1e-4)
    counted = read_csv(out / "differential.csv")
    assert {(row["level"], row["name"]) for row in counted} >= {("all", ""), ("subject", "P1")}
    whole = {row["kind"]: row for row in counted if row["level"] == "all"}
    assert (whole["neutrophil"]["cells"], float(whole["neutrophil"]["percent"])) == ("24", 100.0)
    assert sum(float(row["percent"] or 0) for row in whole.values()) == 100
    assert {row["percent"] for row in counted if row["level"] == "field"} == {""}  # six cells: no percentages
    (shown,) = {
        feature["properties"]["classification"]["name"]
        for feature in json.loads((out / "qupath" / "field-0.geojson").read_text())["features"]
    }
    assert shown == "neutrophil"
    assert {row["not_asked"] for row in read_csv(out / "fields.csv")} == {"6"}


def test_json_and_page_carry_the_differential(lymphoid: Bundle, tmp_path: Path) -> None:
    smear, page = smear_of(tmp_path / "smear" / "P1", fields=4), tmp_path / "opinion.html"
    result = predict(smear.parent, "--model", lymphoid.path, "--json", "--html", page)
    told = json.loads(result.stdout)
    assert told["cells"][0]["type"] == "lymphoid"
    counted = told["differential"]
    assert counted["white"] == 24
    assert counted["said"] == "24 of 200 white cells classified."
    assert sum(row["percent"] for row in counted["rows"]) == pytest.approx(100)
    assert {row["name"] for row in counted["rows"]} >= {"neutrophil", "blast", "lymphocyte"}
    assert told["subjects"][0]["differential"]["white"] == 24
    assert told["fields"][0]["differential"]["said"].startswith("6 white cells were classified: too few")
    assert "myeloblasts" in " ".join(told["limits"])
    html = page.read_text()
    assert "24 of 200 white cells classified." in html
    assert html.index("It was not trained on myeloblasts") < html.index("Subject by subject")


def test_honest_words_count_white_cells_of_laboratories_left_out(mature: Bundle) -> None:
    (_, said) = limits_of(mature.manifest)  # 91 of 100 of each type are right, 1 of 100 mature ones called lymphoid
    assert "9 of 100 white cells got a wrong type or none (7 to 12; 600 cells)" in said
    assert "1 of 100 mature ones were taken for lymphoid" in said


def test_fewer_than_twenty_cells_get_a_sentence_and_no_percentages(mature: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "opinion.html"
    result = predict(smear_of(tmp_path / "smear", fields=1), "--model", mature.path, "--html", page)
    assert "6 white cells were classified: too few for percentages, which need at least 20." in result.output
    section = page.read_text().partition('<section id="differential">')[2].partition("</section>")[0]
    assert "too few for percentages" in section
    assert '<th class="n">%</th>' not in section


def test_the_laboratory_sets_order_and_goal(mature: Bundle, tmp_path: Path) -> None:
    smear = smear_of(tmp_path / "smear", fields=1)
    told = json.loads(
        predict(smear, "--model", mature.path, "--json", "--order", "blast, neutrophil", "--goal", 100).stdout
    )
    assert [row["name"] for row in told["differential"]["rows"]][:3] == ["blast", "neutrophil", "lymphocyte"]
    assert told["differential"]["goal"] == 100
    wrong = predict(smear, "--model", mature.path, "--order", "neutrofil")
    assert isinstance(wrong.exception, UnknownNameError)
    assert "neutrophil" in str(wrong.exception)


def test_a_bundle_without_types_works_as_before_and_says_so_at_the_top(single: Bundle, tmp_path: Path) -> None:
    page, table = tmp_path / "opinion.html", tmp_path / "out.csv"
    result = predict(smear_of(tmp_path / "smear", fields=1), "--model", single.path, "--html", page, "-o", table)
    assert result.exit_code == 0, result.output
    assert "does not recognise mature cells" in result.output
    html = page.read_text()
    assert html.index("does not recognise mature cells") < html.index("<section")
    assert "Differential" not in html
    with table.open() as file:
        assert "type" not in (csv.DictReader(file).fieldnames or ())


def test_a_field_without_white_cells_has_no_differential_and_says_so(mature: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    painting = Painting(64, 48).red_cells(rng, count=24)
    for x, y in ((10, 10), (30, 12), (50, 40)):
        painting.disc(x, y, radius=1.2, colour=(130, 100, 170))  # platelets
    (tmp_path / "smear").mkdir()
    Image.fromarray(painting.taken(rng)).save(tmp_path / "smear" / "field.png")
    page = tmp_path / "opinion.html"
    result = predict(tmp_path / "smear", "--model", mature.path, "--html", page)
    assert result.exit_code == 0, result.output
    assert "No white cell was classified, so there is no differential." in result.output
    assert "No white cell was classified" in page.read_text()


def test_a_smudged_cell_is_counted_apart(mature: Bundle) -> None:
    from leukoscope.inference.cell_types import Counting

    painting = Painting(64, 48).white_cell(14, 14)
    field = field_of(painting.taken(np.random.default_rng(1)), name="f", scale=Scale.exact(0.1, source="user"))
    (cell,) = [one.cell for one in judge_cells(field, Predictor(mature))]
    from dataclasses import replace

    counting = Counting(mature.manifest, point="balanced")
    for one in judge_cells(field, Predictor(mature), cells=[replace(cell, flags=("ragged",)), cell]):
        counting.add(one.opinion)
    counted = counting.everything()
    assert counted is not None
    assert (counted.apart["smudge"], counted.apart["refused"], counted.white) == (1, 0, 1)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"graph": "types/other.onnx"}, "types/other.onnx"),
        ({"classes": ["a", "b"]}, "other cell types"),
        ({"confusion": [[1.5]]}, "types.confusion"),
    ],
)
def test_a_wrong_entry_for_types_is_refused_by_name(mature: Bundle, tmp_path: Path, entry: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BundleError, match=said):
        Predictor(changed(mature, tmp_path / "bundle", types=mature.manifest.types.model_dump() | entry))
