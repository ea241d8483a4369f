"""Every number against scikit-learn: with ties, with weights, with two classes and with more."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from leukoscope.evaluation import metrics

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def scored_cells(draw: st.DrawFn, *, classes: int = 2) -> tuple[Any, Any, Any]:
    """Labels with every class at least once, probabilities on a coarse grid (so with ties), and weights."""
    count = draw(st.integers(classes, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.append(np.arange(classes), rng.integers(classes, size=count - classes))
    raw = rng.integers(1, draw(st.sampled_from([3, 50])), size=(count, classes)).astype(float)
    weights = rng.integers(1, 5, size=count).astype(float)
    return labels, raw / raw.sum(1, keepdims=True), weights


@SETTINGS
@given(scored_cells())
def test_counted_metrics_equal_scikit_learn_for_two_classes(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, weights = cells
    said = (probabilities[:, 1] >= 0.5).astype(int)
    table = metrics.confusion(labels, said, classes=2, weights=weights)
    facts = {"y_true": labels, "y_pred": said, "sample_weight": weights}
    assert np.allclose(table, reference.confusion_matrix(**facts))
    expected = {
        "accuracy": reference.accuracy_score(**facts),
        "balanced_accuracy": reference.balanced_accuracy_score(**facts),
        "f1_weighted": reference.f1_score(**facts, average="weighted", zero_division=0),
        "sensitivity": reference.recall_score(**facts),
        "specificity": reference.recall_score(**facts, pos_label=0),
        "mcc": reference.matthews_corrcoef(**facts),
    }
    for name, value in expected.items():
        assert metrics.COUNTED[name](table) == pytest.approx(value, abs=1e-12), name


@SETTINGS
@given(scored_cells(classes=4))
def test_counted_metrics_equal_scikit_learn_for_four_classes(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, weights = cells
    said = probabilities.argmax(1)
    table = metrics.confusion(labels, said, classes=4, weights=weights)
    facts = {"y_true": labels, "y_pred": said, "sample_weight": weights}
    assert metrics.sensitivity(table) == pytest.approx(reference.recall_score(**facts, average="macro"))
    assert metrics.f1_weighted(table) == pytest.approx(reference.f1_score(**facts, average="weighted", zero_division=0))
    assert metrics.mcc(table) == pytest.approx(reference.matthews_corrcoef(**facts), abs=1e-12)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, said, sample_weight=weights, labels=range(4), zero_division=np.nan
    )
    for ours, theirs in (
        (metrics.precision(table), precision),
        (metrics.recall(table), recall),
        (metrics.f1(table), f1),
    ):
        assert np.allclose(ours, theirs, equal_nan=True)
    per_class = [reference.recall_score(labels != k, said != k, sample_weight=weights) for k in range(4)]
    assert metrics.specificity(table) == pytest.approx(np.mean(per_class))


@SETTINGS
@given(scored_cells())
def test_ranked_metrics_equal_scikit_learn_for_two_classes(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, weights = cells
    scores = probabilities[:, 1]
    assert metrics.auroc(labels, probabilities, weights=weights) == pytest.approx(
        reference.roc_auc_score(labels, scores, sample_weight=weights)
    )
    assert metrics.auprc(labels, probabilities, weights=weights) == pytest.approx(
        reference.average_precision_score(labels, scores, sample_weight=weights)
    )


@SETTINGS
@given(scored_cells(classes=3))
def test_ranked_metrics_equal_scikit_learn_one_class_against_the_rest(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, weights = cells
    facts = {"sample_weight": weights, "average": "macro"}
    assert metrics.auroc(labels, probabilities, weights=weights) == pytest.approx(
        reference.roc_auc_score(labels, probabilities, multi_class="ovr", **facts)
    )
    assert metrics.auprc(labels, probabilities, weights=weights) == pytest.approx(
        reference.average_precision_score(np.eye(3)[labels], probabilities, **facts)
    )


@SETTINGS
@given(st.integers(2, 4).flatmap(lambda classes: scored_cells(classes=classes)))
def test_brier_equals_scikit_learn(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, weights = cells
    shown = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    expected = reference.brier_score_loss(
        labels, shown, sample_weight=weights, labels=list(range(probabilities.shape[1]))
    )
    assert metrics.brier(labels, probabilities, weights=weights) == pytest.approx(expected)


@SETTINGS
@given(scored_cells())
def test_calibration_error_follows_scikit_learns_bins(cells: tuple[Any, Any, Any]) -> None:
    labels, probabilities, _ = cells
    found, claimed = calibration_curve(labels, probabilities[:, 1], n_bins=metrics.BINS)
    count, _, _ = metrics.reliability(labels, probabilities)
    expected = np.average(np.abs(found - claimed), weights=count[count > 0])
    assert metrics.ece(labels, probabilities) == pytest.approx(expected)


@SETTINGS
@given(scored_cells(), st.integers(0, 1000))
def test_a_whole_weight_is_the_same_as_repeating_the_cell(cells: tuple[Any, Any, Any], seed: int) -> None:
    labels, probabilities, _ = cells
    often = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    again = np.repeat(np.arange(len(labels)), often)
    for metric in (metrics.auroc, metrics.auprc, metrics.brier, metrics.ece):
        weighted = metric(labels, probabilities, weights=often.astype(float))
        repeated = metric(labels[again], probabilities[again])
        assert np.allclose(weighted, repeated, equal_nan=True), metric.__name__


@SETTINGS
@given(scored_cells(classes=3), st.integers(0, 1000))
def test_many_weightings_at_once_equal_one_at_a_time(cells: tuple[Any, Any, Any], seed: int) -> None:
    labels, probabilities, _ = cells
    rng = np.random.default_rng(seed)
    groups = rng.integers(4, size=len(labels))
    drawn = rng.integers(0, 3, size=(5, 4)).astype(float)
    for metric in (metrics.auroc, metrics.auprc, metrics.brier, metrics.ece):
        together = metric(labels, probabilities, weights=drawn, groups=groups)
        alone = [metric(labels, probabilities, weights=row[groups]) for row in drawn]
        assert np.allclose(together, alone, equal_nan=True), metric.__name__


def test_the_papers_confusion_matrix_is_a_model_that_never_says_normal() -> None:
    table = np.array([[0.0, 44.0], [0.0, 76.0]])
    assert metrics.accuracy(table) == pytest.approx(76 / 120)
    assert metrics.balanced_accuracy(table) == 0.5
    assert metrics.specificity(table) == 0
    assert metrics.mcc(table) == 0
    assert np.isnan(metrics.precision(table)[0])


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_numbers_of_one_class_or_of_nothing_are_undefined_and_never_crash(labels: list[int]) -> None:
    probabilities = np.full((len(labels), 2), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = metrics.confusion(labels, labels, classes=2)
        assert np.isnan(metrics.balanced_accuracy(table))
        assert np.isnan(metrics.auroc(labels, probabilities))
        assert np.isnan(metrics.auprc(labels, probabilities))
        assert np.isnan(metrics.accuracy(table)) == (not labels)
        assert np.isnan(metrics.brier(labels, probabilities)) == (not labels)
        assert np.isnan(metrics.ece(labels, probabilities)) == (not labels)
