"""Red cells and platelets over several fields: ratios, their intervals, and where they are shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy import stats

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.files import read_csv
from leukoscope.inference.blood_count import MEASURED, FieldCount, ratio, summary_of, with_cells
from tests.fields.conftest import Painting
from tests.fields.test_blood_count import with_platelets


def test_a_mean_has_the_interval_of_students_t() -> None:
    counts = [3, 7, 4, 9, 2, 5]
    low, high = stats.t.interval(0.95, len(counts) - 1, np.mean(counts), stats.sem(counts))
    found = ratio(counts, np.ones(len(counts)))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(counts), low, high), abs=1e-3)


def test_the_interval_of_a_ratio_is_that_of_a_jackknife_over_fields() -> None:
    rng = np.random.default_rng(3)
    red = rng.poisson(18, 200).astype(float)
    platelets = rng.poisson(0.1 * red).astype(float)
    left_out = (platelets.sum() - platelets) / (red.sum() - red)
    error = np.sqrt((len(red) - 1) / len(red) * np.square(left_out - left_out.mean()).sum())
    found = ratio(platelets, red)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 199) * error, rel=0.02)


def test_ninety_five_of_a_hundred_intervals_hold_the_true_ratio() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        red = rng.poisson(18, 30).astype(float)
        found = ratio(rng.poisson(0.2 * red), red)
        hits += (found.low or 0) <= 0.2 <= (found.high or 0)
    assert 925 <= hits <= 970


def test_one_field_has_no_interval() -> None:
    found = summary_of([FieldCount(20, 3, 0, 1)])
    assert found is not None
    assert (found.platelets_per_field.value, found.platelets_per_field.low) == (3, None)


def test_platelets_per_litre_need_the_factor_of_the_microscope() -> None:
    fields = [FieldCount(20, 10, 0, 1), FieldCount(20, 14, 0, 1)]
    without, given = summary_of(fields), summary_of(fields, factor=15)
    assert without is not None
    assert without.platelets_e9_per_l is None
    assert given is not None
    assert given.platelets_e9_per_l is not None
    assert given.platelets_e9_per_l.value == pytest.approx(180)
    assert any("180.0" in line and "per litre" in line for line in given.sentences)


def test_fields_without_red_or_white_cells_have_no_ratio_to_them() -> None:
    found = summary_of([FieldCount(0, 4, 0, 0), FieldCount(0, 2, 0, 0)])
    assert found is not None
    assert found.platelets_per_100_red_cells is None
    assert found.platelets_per_white_cell is None


def test_what_is_called_platelet_among_the_cells_is_a_clump() -> None:
    assert with_cells(FieldCount(20, 3, 0, 0), white=2, large=1) == FieldCount(20, 4, 1, 2)
    found = summary_of([with_cells(FieldCount(20, 3, 0, 0), white=2, large=1)])
    assert found is not None
    assert any(line.startswith("1 of them in clumps") for line in found.sentences)


def test_size_needs_enough_red_cells() -> None:
    some = summary_of([FieldCount(20, 0, 0, 0, (7.0,) * 20), FieldCount(20, 0, 0, 0, (7.4,) * 20)])
    many = summary_of([FieldCount(40, 0, 0, 0, (7.0,) * 40), FieldCount(40, 0, 0, 0, (7.4,) * 40)])
    assert some is not None
    assert some.red_cell_um is None
    assert many is not None
    assert many.red_cell_um is not None
    assert many.red_cell_um.value == pytest.approx(7.2)
    assert many.red_cell_um_sd == pytest.approx(np.std([7.0] * 40 + [7.4] * 40, ddof=1), abs=1e-3)


def test_what_is_said_of_the_errors_is_what_was_measured() -> None:
    measured = json.loads(Path("docs/benchmarks/blood-count.json").read_text(encoding="utf-8"))
    assert {kind: (each["recall"], each["precision"]) for kind, each in measured.items()} == MEASURED


def test_predict_shows_them_in_every_place(single: Bundle, tmp_path: Path) -> None:
    for number in range(3):
        rng = np.random.default_rng(number)
        painting = with_platelets(Painting(64, 48).white_cell(16, 14), [(40, 8), (50, 40)])
        Image.fromarray(painting.red_cells(rng, count=8).taken(rng)).save(tmp_path / f"field-{number}.png")
    asked = ["predict", "--model", str(single.path), "--um-per-px", "0.1", "--platelet-factor", "15", str(tmp_path)]
    told = json.loads(CliRunner().invoke(program, [*asked, "--json"]).stdout)
    assert told["blood_count"]["fields"] == 3
    assert told["blood_count"]["platelets_e9_per_l"]["value"] == pytest.approx(
        15 * told["blood_count"]["platelets"] / 3
    )
    assert told["fields"][0]["red_cells"] > 0
    out, page = tmp_path / "out", tmp_path / "page.html"
    shown = CliRunner().invoke(program, [*asked, "--to", "csv", "-o", str(out), "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    said = told["blood_count"]["said"][0]
    assert said in " ".join(shown.output.split())
    assert "Red cells and platelets" in page.read_text(encoding="utf-8")
    assert [int(row["platelets"]) for row in read_csv(out / "fields.csv")] == [f["platelets"] for f in told["fields"]]


def test_two_fields_give_an_interval_and_one_gives_none() -> None:
    """By Student's t with one degree of freedom, 12.706 standard errors of 1; below nothing it is cut off."""
    found = ratio([2, 4], [1, 1])
    assert (found.value, found.low, found.high) == (3, 0, pytest.approx(3 + 12.706, abs=1e-3))
    alone = ratio([2], [1])
    assert (alone.value, alone.low, alone.high) == (2, None, None)
