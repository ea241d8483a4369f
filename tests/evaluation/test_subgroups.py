"""Subgroups: the same figures as on these cells alone, and the difference to the rest."""

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from leukoscope.evaluation.outcomes import Outcome, banded, subgroup_notes, subgroups


def outcome_of_subjects(subjects: int = 24) -> tuple[Outcome, np.ndarray]:
    rng = np.random.default_rng(2)
    size = rng.integers(4, 20, subjects)
    groups = np.repeat(np.arange(subjects), size)
    labels = groups % 2
    chance = 1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1.2)))
    probabilities = np.stack([1 - chance, chance], axis=1)
    sex = np.where((groups // 2) % 2, "f", "m")
    return Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), abs(chance - 0.5), {}, groups), sex


def test_figures_are_scikit_learns_on_the_cells_of_the_subgroup_and_differences_are_their_differences() -> None:
    outcome, sex = outcome_of_subjects()
    weight = 1 / np.bincount(outcome.groups)[outcome.groups]
    rows = {row["value"]: row for row in subgroups(outcome, {"sex": sex})}
    assert set(rows) == {"f", "m"}
    for value, row in rows.items():
        here = sex == value
        asked = (outcome.labels[here], outcome.probabilities[here, 1])
        assert row["per_cell"]["auroc"]["value"] == pytest.approx(roc_auc_score(*asked), abs=1e-6)
        weighted = roc_auc_score(*asked, sample_weight=weight[here])
        assert row["subject_weighted"]["auroc"]["value"] == pytest.approx(weighted, abs=1e-6)
        found = recall_score(outcome.labels[here], outcome.predicted[here], sample_weight=weight[here])
        assert row["subject_weighted"]["sensitivity"]["value"] == pytest.approx(found, abs=1e-6)
        assert row["cells"] == here.sum()
        assert row["groups"] == 12
    for metric in ("auroc", "specificity"):
        f, m = (rows[value]["subject_weighted"] for value in "fm")
        difference = f["differences"][metric]
        assert difference["value"] == pytest.approx(f[metric]["value"] - m[metric]["value"], abs=2e-6)
        assert difference["low"] < difference["value"] < difference["high"]
        assert m["differences"][metric]["high"] == pytest.approx(-difference["low"], abs=2e-6)


def test_a_subgroup_with_too_few_subjects_has_figures_but_no_interval() -> None:
    outcome, _ = outcome_of_subjects()
    rare = np.where(outcome.groups < 4, "rare", "usual")  # two subjects of each class
    row = next(row for row in subgroups(outcome, {"stain": rare}) if row["value"] == "rare")
    assert row["groups"] == 4
    number = row["subject_weighted"]["auroc"]
    assert number["value"] is not None
    assert number["low"] is None
    assert row["subject_weighted"]["differences"]["auroc"]["low"] is None


def test_a_subject_in_two_subgroups_counts_in_both() -> None:
    outcome, _ = outcome_of_subjects()
    half = np.where(np.arange(len(outcome.labels)) % 2, "slide 1", "slide 2")
    rows = subgroups(outcome, {"slide": half})
    assert [row["groups"] for row in rows] == [24, 24]
    assert all(row["subject_weighted"]["differences"]["auroc"]["low"] is not None for row in rows)


def test_a_column_with_one_value_has_no_subgroups() -> None:
    outcome, _ = outcome_of_subjects()
    assert subgroups(outcome, {"part": np.full(len(outcome.labels), "fold_0")}) == []


def test_subgroups_that_are_not_shown_are_told() -> None:
    outcome, _ = outcome_of_subjects()
    many = np.array([f"stain {group}" for group in outcome.groups])
    assert len(subgroups(outcome, {"stain": many})) == 20
    assert subgroup_notes(outcome, {"stain": many}, requested=False) == [
        "Subgroups by stain: the 20 with most cells of 24 are shown."
    ]
    one = {"part": np.full(len(outcome.labels), "fold_0")}
    assert "the same value" in subgroup_notes(outcome, one, requested=True)[0]
    assert subgroup_notes(outcome, one, requested=False) == []


def test_ages_are_cut_into_bands_that_hold_everybody_once_in_order() -> None:
    ages = np.random.default_rng(1).integers(1, 80, 200).astype(str)
    groups = np.arange(200)
    ages[:3] = ""
    bands = banded(ages, groups)
    assert set(bands[:3]) == {"not recorded"}
    names, counts = np.unique(bands[3:], return_counts=True)
    assert len(names) == 4
    assert counts.min() > 35
    for age, band in zip(ages[3:].astype(float), bands[3:], strict=True):
        words = band.split()
        if band.startswith("up to"):
            assert age <= float(words[2])
        elif band.startswith("above"):
            assert age > float(words[1])
        else:
            assert float(words[0]) < age <= float(words[2])


def test_a_few_numbers_and_words_stay_as_they_are() -> None:
    assert banded(np.array(["1", "2", "1"]), np.arange(3)).tolist() == ["1", "2", "1"]
    mixed = np.array([*map(str, range(20)), "unknown"])
    assert banded(mixed, np.arange(21)).tolist() == mixed.tolist()
