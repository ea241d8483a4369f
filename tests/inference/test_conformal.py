"""The promise of the conformal rule, kept for subjects that took no part in the fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.bundle.manifest import ConformalRule
from leukoscope.errors import ConfigError, DataError
from leukoscope.inference.rejection import UNSURE, decide, fit_conformal, plausible_classes, reached, why_unsure

ALPHA = 0.1


def subjects_of(rng: np.random.Generator, *, subjects: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw cells whose scores lean on their subject: (probabilities, labels, groups), every second subject ill."""
    group = np.repeat(np.arange(subjects), rng.integers(1, 60, subjects))
    label = group % 2
    score = rng.normal(2 * label - 1, 0.6) + rng.normal(0, 1.2, subjects)[group]
    chance = 1 / (1 + np.exp(-2 * score))
    return np.stack([1 - chance, chance], axis=1), label, group


def called_another(rng: np.random.Generator, *, unit: str, subjects: int, rounds: int = 300) -> np.ndarray:
    """Return the share of wrong decisions per class, each new subject weighing the same: (rounds, 2)."""
    wrong = np.empty((rounds, 2))
    for each in range(rounds):
        fitted = fit_conformal(*subjects_of(rng, subjects=subjects), alpha=ALPHA, unit=unit)
        chances, label, group = subjects_of(rng, subjects=40)
        said = decide(chances, fitted)
        missed = (said != UNSURE) & (said != label)
        share = np.bincount(group, missed) / np.bincount(group)
        wrong[each] = share[0::2].mean(), share[1::2].mean()
    return wrong


def test_a_class_without_cells_hides_none_after_it() -> None:
    rule = ConformalRule(alpha=0.1, smallest_plausible=[0.3, 0.2])
    table = reached(rule, [[0.9, 0.1], [0.1, 0.9]], [1, 1], ["a", "b"], classes=["hem", "all"])
    assert list(table) == ["all"]
    assert (table["all"].called_another, table["all"].decided) == (0.5, 1)


def test_new_subjects_are_called_another_class_no_more_often_than_promised() -> None:
    wrong = called_another(np.random.default_rng(0), unit="subject", subjects=40)
    error = wrong.std(axis=0) / np.sqrt(len(wrong))
    assert (wrong.mean(axis=0) < ALPHA + 3 * error).all()
    assert (wrong.mean(axis=0) > ALPHA / 3).all(), "the promise is kept by deciding, not by never deciding"


def test_the_rule_by_cells_breaks_its_promise_for_new_subjects() -> None:
    wrong = called_another(np.random.default_rng(1), unit="cell", subjects=18)
    error = wrong.std(axis=0) / np.sqrt(len(wrong))
    assert (wrong.mean(axis=0) > ALPHA + 2 * error).all(), "this is why subjects are the default"


def test_the_rule_by_cells_is_that_of_crepes() -> None:
    crepes = pytest.importorskip("crepes")
    rng = np.random.default_rng(2)
    chances, label, group = subjects_of(rng, subjects=60)
    new = subjects_of(rng, subjects=60)[0]
    ours = plausible_classes(new, fit_conformal(chances, label, group, alpha=ALPHA, unit="cell"))
    for index in (0, 1):
        reference = crepes.ConformalClassifier().fit(1 - chances[label == index, index])
        theirs = reference.predict_set(1 - new[:, [index]], confidence=1 - ALPHA, smoothing=False)
        np.testing.assert_array_equal(ours[:, index], np.asarray(theirs)[:, 0].astype(bool))


def test_with_one_cell_per_subject_both_rules_are_one() -> None:
    chances, label, _ = subjects_of(np.random.default_rng(3), subjects=60)
    rows = np.arange(len(label))
    by_subject, by_cell = (fit_conformal(chances, label, rows, unit=unit) for unit in ("subject", "cell"))
    assert by_subject.smallest_plausible == by_cell.smallest_plausible


@pytest.mark.parametrize(("subjects", "place"), [(9, 0), (18, 0), (19, 1), (28, 1), (29, 2)])
def test_the_new_subject_counts_as_the_worst_possible(subjects: int, place: int) -> None:
    """Of n subjects with one cell each, alpha (n + 1) whole ones may lie below: 2 of 19, but 1 of 18."""
    chance = np.linspace(0.1, 0.9, subjects)
    chances = np.stack([chance, 1 - chance], axis=1)
    fitted = fit_conformal(chances, np.zeros(subjects, int), np.arange(subjects), alpha=ALPHA)
    assert fitted.smallest_plausible[0] == pytest.approx(chance[place], abs=2e-9)


def test_a_class_with_too_few_subjects_is_never_ruled_out() -> None:
    chances, label, group = subjects_of(np.random.default_rng(4), subjects=16)  # 8 per class; alpha 0.1 needs 9
    fitted = fit_conformal(chances, label, group, alpha=ALPHA)
    assert fitted.smallest_plausible == [None, None]
    assert "fewer than 9 subjects" in fitted.guarantee
    assert (decide(chances, fitted) == UNSURE).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.45), st.floats(1.05, 4))
def test_whoever_wants_fewer_mistakes_rules_out_less(seed: int, alpha: float, less: float) -> None:
    chances, label, group = subjects_of(np.random.default_rng(seed), subjects=30)
    loose = plausible_classes(chances, fit_conformal(chances, label, group, alpha=alpha))
    strict = plausible_classes(chances, fit_conformal(chances, label, group, alpha=alpha / less))
    assert (strict | ~loose).all()


def test_what_is_fitted_survives_json() -> None:
    chances, label, group = subjects_of(np.random.default_rng(5), subjects=60)
    fitted = fit_conformal(chances, label, group)
    read = ConformalRule.model_validate_json(fitted.model_dump_json())
    np.testing.assert_array_equal(decide(chances, read), decide(chances, fitted))
    assert (decide(chances, fitted) != UNSURE).any()


def test_three_classes_are_told_apart_and_unsure_in_words() -> None:
    rng = np.random.default_rng(6)
    label = rng.integers(0, 3, 600)
    chances = rng.dirichlet([1, 1, 1], 600) + 1.2 * np.eye(3)[label]
    fitted = fit_conformal(chances / chances.sum(1, keepdims=True), label, rng.integers(0, 40, 600))
    assert len(fitted.smallest_plausible) == 3
    assert why_unsure(np.array([True, True, True]), ("a", "b", "c")) == "a, b and c are plausible."
    assert why_unsure(np.array([False, False]), ("hem", "all")) == "Not typical of hem or all."


def test_an_impossible_share_and_missing_rows_are_named() -> None:
    chances, label, group = subjects_of(np.random.default_rng(7), subjects=10)
    with pytest.raises(ConfigError, match="between 0 and 0.5"):
        fit_conformal(chances, label, group, alpha=0.7)
    with pytest.raises(DataError, match="one label and one subject per row"):
        fit_conformal(chances, label[1:], group)
