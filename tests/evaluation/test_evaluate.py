"""A whole run evaluated: what stands in metrics.json and calibration.json, and what is refused."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn import metrics as reference
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score

from leukoscope.cli.run import evaluate as command
from leukoscope.errors import DataError, LeukoscopeError, SplitError
from leukoscope.evaluation.evaluate import evaluate, gather
from leukoscope.evaluation.outcomes import outcome_of
from leukoscope.files import read_json
from tests.synthetic_run import narrow, write_run

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("runs") / "good", size_effect=0.1)
    evaluate(path)
    return path


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    return write_run(path, cells=160, subjects=16, settings={"evaluate": {"replicates": 100}})


@pytest.fixture
def small(untouched: Path, tmp_path: Path) -> Path:
    """A run of its own for each test to spoil."""
    return Path(shutil.copytree(untouched, tmp_path / "run"))


def change(run: Path, edit: Callable[[Rows], Rows | None]) -> None:
    """Rewrite predictions.csv."""
    path = run / "predictions.csv"
    rows = list(csv.DictReader(path.open()))
    rows = edit(rows) or rows
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_the_numbers_are_scikit_learns_on_the_pooled_test_cells(run: Path) -> None:
    metrics, evidence = read_json(run / "metrics.json"), gather(run)
    outcome = outcome_of(evidence.predictions, evidence.calibrations)
    model = metrics["estimators"]["model"]
    assert model["auroc"]["value"] == pytest.approx(
        roc_auc_score(outcome.labels, outcome.probabilities[:, 1]), abs=1e-6
    )
    assert metrics["confusion"]["matrix"] == confusion_matrix(outcome.labels, outcome.predicted).tolist()
    assert metrics["data"]["cells"] == len(outcome.labels) == 600


def test_every_number_lies_in_its_interval_and_beside_its_baselines(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert set(metrics["estimators"]) == {"model", "majority", "size", "colour"}
    for numbers in metrics["estimators"].values():
        assert numbers.pop("ece")["low"] is None  # no interval of it keeps its promise
        for name, number in numbers.items():
            assert number["low"] - 1e-6 <= number["value"] <= number["high"] + 1e-6, name
    assert metrics["estimators"]["majority"]["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert metrics["estimators"]["majority"]["balanced_accuracy"]["value"] == 0.5


def test_a_good_model_is_told_in_cells_found_of_a_hundred(run: Path) -> None:
    verdict = read_json(run / "metrics.json")["verdict"]
    assert verdict["beats_baseline"]
    assert verdict["beats_size"]
    assert "of 100 leukemia cells (between" in verdict["text"]
    assert verdict["level"] == "good"


def test_subjects_are_listed_with_the_worst_first(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    shares = [row["accuracy"] for row in metrics["subjects"]]
    assert shares == sorted(shares)
    assert metrics["worst_subject"] == metrics["subjects"][0]["group"]
    assert sum(row["cells"] for row in metrics["subjects"]) == metrics["data"]["cells"]


def test_probes_learn_from_the_training_cells_of_their_fold_only(run: Path) -> None:
    evidence = gather(run)
    for fold, train in evidence.train().items():
        sets = evidence.plan.sets(evidence.cells, fold=fold)
        assert set(sets[train]) == {"train"}
        predicted = evidence.rows[evidence.predictions.fold == fold]
        assert not set(predicted.tolist()) & set(train.tolist())


def test_two_evaluations_write_the_same_bytes(run: Path) -> None:
    before = (run / "metrics.json").read_bytes(), (run / "calibration.json").read_bytes()
    evaluate(run)
    assert before == ((run / "metrics.json").read_bytes(), (run / "calibration.json").read_bytes())


def test_nothing_written_is_nan(run: Path) -> None:
    for name in ("metrics.json", "calibration.json"):
        json.loads((run / name).read_text(), parse_constant=pytest.fail)


def test_a_model_that_says_one_class_is_called_out_in_the_first_line(small: Path) -> None:
    change(small, lambda rows: [row | {"prob_hem": "0.300000000", "prob_all": "0.700000000"} for row in rows])
    verdict = evaluate(small)["verdict"]
    assert verdict["one_class"]
    assert verdict["text"].startswith("This model gives the same class to every cell")
    assert verdict["level"] == "fail"


def test_a_model_that_guesses_does_not_beat_the_baseline(tmp_path: Path) -> None:
    verdict = evaluate(write_run(tmp_path / "run", cells=300, strength=0.0))["verdict"]
    assert not verdict["beats_baseline"]
    assert verdict["text"].startswith("This model is not shown to do better than guessing")


def test_a_model_no_better_than_cell_size_is_called_out(tmp_path: Path) -> None:
    verdict = evaluate(write_run(tmp_path / "run", cells=400, strength=1.0, size_effect=1.5))["verdict"]
    assert verdict["beats_baseline"]
    assert verdict["beats_size"] is False
    assert "size of the cell" in verdict["text"]


def test_synthetic_cells_are_called_synthetic(tmp_path: Path) -> None:
    metrics = evaluate(write_run(tmp_path / "run", cells=160, subjects=16, source="synthetic"))
    assert metrics["data"]["synthetic"]
    assert "synthetic" in metrics["verdict"]["text"].lower()


def test_a_leaky_split_is_called_leaky_and_never_unseen(tmp_path: Path) -> None:
    metrics = evaluate(write_run(tmp_path / "run", cells=200, subjects=16, settings={"split": {"leaky": True}}))
    assert metrics["split"]["leaky"]
    assert metrics["verdict"]["level"] == "fail"
    assert "Leaky split" in metrics["verdict"]["text"]
    assert "never seen" not in metrics["verdict"]["text"]


def test_four_classes_are_measured_one_against_the_rest(tmp_path: Path) -> None:
    names = ("Benign", "Early", "Pre", "Pro")
    metrics = evaluate(
        write_run(tmp_path / "run", cells=400, subjects=32, classes=names, strength=3.0, size_effect=0.0)
    )
    assert metrics["classes"] == list(names)
    assert metrics["positive"] == ""
    assert set(metrics["curves"]["roc"]["classes"]) == set(names)
    assert metrics["estimators"]["model"]["auroc"]["value"] > 0.8
    assert metrics["operating_points"] == {}


def test_the_disease_can_be_chosen_and_turns_sensitivity_and_specificity_around(small: Path) -> None:
    usual = evaluate(small)["confusion"]
    text = (small / "config.toml").read_text()
    (small / "config.toml").write_text(text.replace('positive = ""', 'positive = "hem"'))
    turned = evaluate(small)
    assert turned["classes"] == ["all", "hem"]
    assert sum(map(sum, turned["confusion"]["matrix"])) == sum(map(sum, usual["matrix"]))


def test_validation_of_one_class_is_noted_and_not_calibrated(small: Path) -> None:
    narrow(small, lambda name, _, label: name == "test" or label == "all")
    metrics = evaluate(small)
    assert metrics["folds"][0]["temperature"] == 1.0
    assert any("Not calibrated" in note for note in metrics["notes"])
    assert not metrics["folds"][0]["calibrated"]


def test_a_run_without_traits_says_that_the_probes_are_left_out(small: Path) -> None:
    (small / "traits.csv").unlink()
    metrics = evaluate(small)
    assert set(metrics["estimators"]) == {"model", "majority"}
    assert metrics["verdict"]["beats_size"] is None
    assert any("traits.csv is missing" in note for note in metrics["notes"])


def test_test_cells_of_one_class_give_undefined_numbers_and_a_verdict(small: Path) -> None:
    narrow(small, lambda name, _, label: name == "validation" or label == "all")
    metrics = evaluate(small)
    assert metrics["estimators"]["model"]["auroc"] == {"value": None, "low": None, "high": None}
    assert "Not every class" in metrics["verdict"]["text"] or metrics["verdict"]["one_class"]


def test_one_tested_subject_has_numbers_but_no_intervals(small: Path) -> None:
    rows = csv.DictReader((small / "predictions.csv").read_text().splitlines())
    only = next(row["group"] for row in rows if row["set"] == "test")
    narrow(small, lambda name, group, _: name == "validation" or group == only)
    metrics = evaluate(small)
    assert metrics["estimators"]["model"]["accuracy"]["low"] is None
    assert "Only 1 subject group tested" in metrics["verdict"]["text"]


def _set(column: str, value: str) -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        rows[3][column] = value

    return edit


def _without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


_OTHER = {"hem": "all", "all": "hem"}


def _first(rows: Rows, name: str) -> dict[str, str]:
    return next(row for row in rows if row["set"] == name)


def _drop(rows: Rows, name: str) -> Rows:
    gone = _first(rows, name)
    return [row for row in rows if row is not gone]


def _turned(rows: Rows) -> None:
    rows[0]["label"] = _OTHER[rows[0]["label"]]


def _tested(rows: Rows) -> Rows:
    """Give a whole group of validation cells of a fold as test cells, and leave out their true test."""
    group = _first(rows, "validation")["group"]
    kept = [row for row in rows if row["group"] != group or (row["set"] == "validation" and row["fold"] == "0")]
    return [row | ({"set": "test"} if row["group"] == group else {}) for row in kept]


FAULTS: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "a missing column": (_without("group"), "lacks the column group"),
    "a missing class": (_without("prob_all"), "two or more classes"),
    "NaN": (_set("prob_all", "nan"), "line 5"),
    "infinity": (_set("prob_all", "inf"), "line 5"),
    "a negative probability": (_set("prob_all", "-0.5"), "line 5"),
    "a word for a number": (_set("prob_all", "high"), "not a number"),
    "probabilities that do not sum to one": (_set("prob_all", "0.123"), "sum to one"),
    "an unknown label": (_set("label", "lymphocyte"), "'lymphocyte' is not among the classes"),
    "no label": (_set("label", ""), "not among the classes"),
    "an unknown set": (_set("set", "holdout"), "neither validation nor test"),
    "a fold that is no number": (_set("fold", "one"), "not a number"),
    "a fold beyond the split": (_set("fold", "17"), "has"),
    "an empty group": (_set("group", ""), "group is empty"),
    "a cell that is not in cells.csv": (_set("path", "images/stranger.png"), "stranger.png is not in cells.csv"),
    "no test cells": (lambda rows: [row for row in rows if row["set"] != "test"], "no test cells"),
    "a cell tested twice": (lambda rows: [*rows, rows[-1]], "tested 2 times"),
    "a validation cell twice": (lambda rows: [*rows, _first(rows, "validation")], "is listed more than once in fold 0"),
    "another label": (_turned, r"line 2: the label of .* but '(hem|all)' in cells.csv .1 such row"),
    "every label turned": (lambda rows: [row | {"label": _OTHER[row["label"]]} for row in rows], "line 2: the label"),
    "another subject": (_set("subject", "99"), r"line 5: the subject of .* is '99', but '\d+' in cells.csv"),
    "another group": (_set("group", "alone"), r"line 5: the group of .* is 'alone', but .* in split.json"),
    "each cell a group": (
        lambda rows: [row | {"group": row["path"]} for row in rows],
        r"line 2: the group of .* \(\d\d+ such rows\). Run leukoscope train",
    ),
    "another source": (_set("source", "clinic"), "the source of .* is 'clinic', but 'folder' in cells.csv"),
    "validation cells called test": (_tested, "is 'test', but 'validation' in split.json"),
    "a missing test cell": (lambda rows: _drop(rows, "test"), "lacks 1 predictions"),
    "a missing validation cell": (lambda rows: _drop(rows, "validation"), r"lacks 1 predictions.*validation, fold 0"),
    "a missing fold": (lambda rows: [row for row in rows if row["fold"] != "1"], r"lacks .* fold 1\).*--resume"),
}


def test_a_leaky_run_must_fit_its_split_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", cells=100, subjects=10, settings={"split": {"leaky": True}})
    change(run, lambda rows: _drop(rows, "test"))
    with pytest.raises(DataError, match="lacks 1 predictions"):
        evaluate(run)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_table_gives_one_clear_error_and_writes_nothing(small: Path, fault: str) -> None:
    edit, said = FAULTS[fault]
    change(small, edit)
    with pytest.raises(DataError, match=said):
        evaluate(small)
    assert not (small / "metrics.json").exists()
    assert not (small / "calibration.json").exists()


def test_an_empty_table_is_refused(small: Path) -> None:
    path = small / "predictions.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="no predictions"):
        evaluate(small)
    path.write_text("")
    with pytest.raises(DataError, match="lacks the columns"):
        evaluate(small)


def test_a_group_in_validation_and_test_of_one_fold_is_named(small: Path) -> None:
    def leak(rows: Rows) -> None:
        tested = next(row for row in rows if row["set"] == "test")
        tuned = next(row for row in rows if row["set"] == "validation" and row["fold"] == tested["fold"])
        tuned["group"] = tested["group"]

    change(small, leak)
    with pytest.raises(SplitError, match="validation and test of fold"):
        evaluate(small)


def test_an_unknown_disease_shows_the_known_classes(small: Path) -> None:
    text = (small / "config.toml").read_text()
    (small / "config.toml").write_text(text.replace('positive = ""', 'positive = "al"'))
    with pytest.raises(LeukoscopeError, match="Did you mean 'all'"):
        evaluate(small)


def test_the_command_prints_verdict_figures_and_that_it_is_no_diagnosis(small: Path) -> None:
    result = CliRunner().invoke(command, [str(small)])
    assert result.exit_code == 0
    assert "AUROC" in result.output
    assert "size alone" in result.output
    assert "Research use, not a diagnosis." in result.output


def test_thresholds_of_a_fold_do_not_depend_on_its_test_cells(small: Path) -> None:
    evaluate(small)
    before = read_json(small / "calibration.json")
    change(
        small,
        lambda rows: [row | ({"prob_hem": "0.5", "prob_all": "0.5"} if row["set"] == "test" else {}) for row in rows],
    )
    evaluate(small)
    assert read_json(small / "calibration.json") == before


def test_subject_groups_alike_are_scikit_learns_with_sample_weight(run: Path) -> None:
    metrics, evidence = read_json(run / "metrics.json"), gather(run)
    outcome = outcome_of(evidence.predictions, evidence.calibrations)
    weight = 1 / np.bincount(outcome.groups)[outcome.groups]
    asked, said, chance = outcome.labels, outcome.predicted, outcome.probabilities[:, 1]
    expected = {
        "accuracy": reference.accuracy_score(asked, said, sample_weight=weight),
        "balanced_accuracy": reference.balanced_accuracy_score(asked, said, sample_weight=weight),
        "sensitivity": reference.recall_score(asked, said, sample_weight=weight),
        "specificity": reference.recall_score(asked, said, pos_label=0, sample_weight=weight),
        "f1_weighted": reference.f1_score(asked, said, average="weighted", sample_weight=weight),
        "mcc": reference.matthews_corrcoef(asked, said, sample_weight=weight),
        "auroc": roc_auc_score(asked, chance, sample_weight=weight),
        "auprc": reference.average_precision_score(asked, chance, sample_weight=weight),
        "brier": reference.brier_score_loss(asked, chance, sample_weight=weight),
    }
    found = metrics["subject_weighted"]["estimators"]["model"]
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["auroc"]["value"] != metrics["estimators"]["model"]["auroc"]["value"]
    assert found["auroc"]["low"] < found["auroc"]["value"] < found["auroc"]["high"]
    assert metrics["headline"] == "subject_weighted"


def test_figures_of_whole_subjects_are_scikit_learns_on_one_row_per_subject(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    rows = [row for row in metrics["subjects"] if row["label"] != "mixed"]
    ill = np.array([row["label"] == "all" for row in rows])
    right = np.array([row["cells"] - row["wrong"] for row in rows])
    called = np.where(ill, right, [row["wrong"] for row in rows]) >= [row["cells"] / 2 for row in rows]
    model = metrics["estimators"]["model"]
    assert model["subject_accuracy"]["value"] == pytest.approx((called == ill).mean(), abs=1e-6)
    assert model["subject_sensitivity"]["value"] == pytest.approx(recall_score(ill, called), abs=1e-6)
    assert model["subject_specificity"]["value"] == pytest.approx(recall_score(~ill, ~called), abs=1e-6)
    means = [row["mean_prob_positive"] for row in rows]
    assert model["subject_auroc"]["value"] == pytest.approx(roc_auc_score(ill, means), abs=1e-6)
    assert {name: metrics["subject_weighted"]["estimators"]["model"][name] for name in model if "subject" in name} == {
        name: value for name, value in model.items() if "subject" in name
    }


def test_the_verdict_speaks_of_subject_groups_alike(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    weighted, per_cell = (each["estimators"]["model"]["sensitivity"] for each in (metrics["subject_weighted"], metrics))
    assert weighted["low"] != per_cell["low"]
    between = f"{round(100 * weighted['low'])} and {round(100 * weighted['high'])}"
    assert f"{round(100 * weighted['value'])} of 100 leukemia cells (between {between})" in metrics["verdict"]["text"]


def test_a_subject_with_most_of_the_cells_rules_the_figures_per_cell_alone(tmp_path: Path) -> None:
    metrics = evaluate(write_run(tmp_path / "run", cells=400, subjects=20))
    row = max(metrics["subjects"], key=lambda row: row["cells"])
    shares = [each["accuracy"] for each in metrics["subjects"]]
    weighted = metrics["subject_weighted"]["estimators"]["model"]["accuracy"]["value"]
    assert weighted == pytest.approx(np.mean(shares), abs=1e-5)
    assert row["cells"] > 20


def test_figures_of_operating_points_are_those_of_the_thresholds_of_the_folds(run: Path) -> None:
    metrics, evidence = read_json(run / "metrics.json"), gather(run)
    test = evidence.predictions.pick(evidence.predictions.test)
    outcome = outcome_of(evidence.predictions, evidence.calibrations)
    for point, figures in metrics["operating_points"].items():
        edge = np.array([evidence.calibrations[fold].thresholds[point] for fold in test.fold.tolist()])
        called = outcome.probabilities[:, 1] >= edge
        assert figures["sensitivity"]["value"] == pytest.approx(called[outcome.labels == 1].mean(), abs=1e-6)
        assert figures["specificity"]["value"] == pytest.approx((~called[outcome.labels == 0]).mean(), abs=1e-6)


def test_subgroups_of_any_column_are_measured_and_an_unknown_one_is_named(small: Path) -> None:
    rows = list(csv.DictReader((small / "cells.csv").open()))
    with (small / "cells.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "sex"])
        writer.writeheader()
        writer.writerows(row | {"sex": "mf"[int(row["subject"]) // 2 % 2]} for row in rows)
    result = CliRunner().invoke(command, [str(small), "--by", "sex"])
    assert result.exit_code == 0, result.output
    found = read_json(small / "metrics.json")["subgroups"]
    assert [(row["column"], row["value"]) for row in found] == [("sex", "f"), ("sex", "m")]
    with pytest.raises(LeukoscopeError, match="Did you mean 'sex'"):
        evaluate(small, by=["sexe"])


def test_a_model_that_says_another_class_in_each_fold_is_told_so_in_plain_words(small: Path) -> None:
    def one_each(rows: Rows) -> Rows:
        chance = ("0.300000000", "0.700000000")
        return [
            row | {"prob_hem": chance[int(row["fold"]) % 2], "prob_all": chance[1 - int(row["fold"]) % 2]}
            for row in rows
        ]

    change(small, one_each)
    text = evaluate(small)["verdict"]["text"]
    assert "the same class to every cell of a fold (" in text or "the same class to every cell (" in text
