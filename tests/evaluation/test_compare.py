"""Two runs compared on the cells that both tested."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from leukoscope.cli.run import compare as command
from leukoscope.data.cells import cells_fingerprint, read_cells, write_cells
from leukoscope.data.split import read_split, write_split
from leukoscope.errors import DataError
from leukoscope.evaluation.compare import compare
from leukoscope.evaluation.evaluate import gather
from leukoscope.evaluation.outcomes import outcome_of
from leukoscope.evaluation.verdict import comparison_table
from leukoscope.files import read_csv, read_json
from tests.synthetic_run import narrow, write_run

SMALL = {"cells": 240, "subjects": 20}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "weak", strength=0.8, **SMALL), write_run(folder / "strong", strength=1.8, **SMALL)


def test_the_better_run_is_better_beyond_its_interval(runs: tuple[Path, Path]) -> None:
    difference = compare(*runs)["differences"]
    assert difference["auroc"]["low"] > 0
    assert difference["brier"]["high"] < 0


def test_turning_the_runs_around_turns_the_sign(runs: tuple[Path, Path]) -> None:
    there, back = compare(*runs)["differences"]["auroc"], compare(*runs[::-1])["differences"]["auroc"]
    assert there["value"] == pytest.approx(-back["value"], abs=2e-6)
    assert there["low"] == pytest.approx(-back["high"], abs=2e-6)


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path]) -> None:
    assert set(compare(runs[0], runs[0])["differences"]["auroc"].values()) == {0.0}


def test_runs_are_never_said_to_differ_in_their_calibration_error(runs: tuple[Path, Path]) -> None:
    result = compare(*runs)
    assert result["differences"]["ece"]["value"] == pytest.approx(
        result["b"]["ece"]["value"] - result["a"]["ece"]["value"], abs=2e-6
    )
    (line, _) = (line for line in comparison_table(result).splitlines() if line.strip().startswith("ece"))
    assert "no interval" in line
    assert "*" not in line


def test_the_paired_interval_is_narrower_than_both_together(runs: tuple[Path, Path]) -> None:
    result = compare(*runs)
    width = {name: result[name]["auroc"]["high"] - result[name]["auroc"]["low"] for name in ("a", "b")}
    paired = result["differences"]["auroc"]
    assert paired["high"] - paired["low"] < width["a"] + width["b"]


def test_only_shared_cells_are_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[1], tmp_path / "part"))
    plan = read_split(copy / "split.json", read_cells(copy / "cells.csv"))
    gone = {group for fold in plan.folds for group in fold.test[:1]}
    narrow(copy, lambda name, group, _: name == "validation" or group not in gone)
    found = compare(runs[0], copy)["cells"]
    assert found["shared"] == found["b"] < found["a"]


def renamed(run: Path, old: str, new: str) -> Path:
    """Call the images of a run otherwise, wherever they are named."""
    plan = read_split(run / "split.json", read_cells(run / "cells.csv"))
    for name in ("cells.csv", "predictions.csv", "traits.csv"):
        (run / name).write_text((run / name).read_text().replace(old, new))
    fingerprint = cells_fingerprint(read_cells(run / "cells.csv"))
    write_split(run / "split.json", replace(plan, cells=fingerprint))
    return run


@pytest.mark.parametrize(("old", "new"), [("images/", "copies/"), ("UID_", "OTHER_")])
def test_the_same_images_are_matched_under_other_names(
    runs: tuple[Path, Path], tmp_path: Path, old: str, new: str
) -> None:
    copy = renamed(Path(shutil.copytree(runs[1], tmp_path / "copy")), old, new)
    assert compare(runs[0], copy)["differences"] == compare(*runs)["differences"]


def test_other_images_of_the_same_names_are_not_matched(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=9, **SMALL)
    names = [{Path(row["path"]).name for row in read_csv(run / "cells.csv")} for run in (runs[0], other)]
    assert names[0] & names[1]
    with pytest.raises(DataError, match="share no test cell: no image"):
        compare(runs[0], other)


def test_images_that_stand_twice_are_matched_once_each(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for copy in copies:
        cells = read_cells(copy / "cells.csv")
        plan = read_split(copy / "split.json", cells)
        assert cells[0].subject == cells[1].subject
        write_cells(copy / "cells.csv", [replace(cells[0], sha256=cells[1].sha256), *cells[1:]])
        fingerprint = cells_fingerprint(read_cells(copy / "cells.csv"))
        write_split(copy / "split.json", replace(plan, cells=fingerprint))
    assert compare(*copies)["cells"] == {"shared": 240, "a": 240, "b": 240}
    assert set(compare(copies[0], copies[0])["differences"]["auroc"].values()) == {0.0}


def test_runs_with_other_classes_cannot_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", classes=("normal", "blast"), **SMALL)
    with pytest.raises(DataError, match="same classes"):
        compare(runs[0], other)


def test_runs_in_which_another_class_is_the_disease_cannot_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[0], tmp_path / "other"))
    table = pd.read_csv(other / "predictions.csv", dtype=str, keep_default_na=False)
    table[[*table.columns[:-2], *table.columns[:-3:-1]]].to_csv(other / "predictions.csv", index=False)
    with pytest.raises(DataError, match="counts 'all' as disease, .*other 'hem'. Set evaluate.positive"):
        compare(runs[0], other)


def test_the_command_prints_a_table_and_writes_json(runs: tuple[Path, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*map(str, runs), "-o", str(tmp_path / "out.json")])
    assert result.exit_code == 0
    assert "B minus A" in result.output
    assert "not a diagnosis" in result.output
    assert read_json(tmp_path / "out.json")["differences"]["auroc"]["low"] > 0


def test_the_headline_weighs_subject_groups_alike_as_scikit_learn_does(runs: tuple[Path, Path]) -> None:
    result = compare(*runs)
    assert result["headline"] == "subject_weighted"
    weighted = result["subject_weighted"]
    for name, run in zip("ab", runs, strict=True):
        evidence = gather(run)
        outcome = outcome_of(evidence.predictions, evidence.calibrations)
        weight = 1 / np.bincount(outcome.groups)[outcome.groups]
        expected = roc_auc_score(outcome.labels, outcome.probabilities[:, 1], sample_weight=weight)
        assert weighted[name]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
        per_cell = roc_auc_score(outcome.labels, outcome.probabilities[:, 1])
        assert result[name]["auroc"]["value"] == pytest.approx(per_cell, abs=1e-6)
    gap = weighted["b"]["auroc"]["value"] - weighted["a"]["auroc"]["value"]
    assert weighted["differences"]["auroc"]["value"] == pytest.approx(gap, abs=2e-6)
    assert weighted["differences"]["auroc"]["low"] < gap < weighted["differences"]["auroc"]["high"]


def test_the_command_shows_subject_groups_alike_before_cells(runs: tuple[Path, Path]) -> None:
    output = CliRunner().invoke(command, [*map(str, runs)]).output
    assert output.index("subject groups weighted equally") < output.index("per cell")
    assert output.count("B minus A") == 2
