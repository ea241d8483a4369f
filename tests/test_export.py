"""What a bundle takes from a run: thresholds from validation cells alone, and figures at those thresholds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import recall_score

from leukoscope.bundle.manifest import Manifest, SubjectFigures
from leukoscope.evaluation.evaluate import Evidence, gather
from leukoscope.evaluation.predictions import Predictions, fit_thresholds
from leukoscope.exporting import operating_points, subject_figures
from leukoscope.report.card import _points, figures_at
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return gather(write_run(tmp_path_factory.mktemp("runs") / "run", cells=400, subjects=24))


def with_test_cells_turned(evidence: Evidence) -> Evidence:
    """Return the same run, had it been wrong about every test cell."""
    old = evidence.predictions
    flipped = np.where(old.test[:, None], old.probabilities[:, ::-1], old.probabilities)
    return replace(evidence, predictions=replace(old, probabilities=flipped))


@pytest.mark.parametrize("folds", [[0], [1, 3], [0, 1, 2, 3, 4]])
def test_thresholds_of_an_export_do_not_depend_on_test_cells(evidence: Evidence, folds: list[int]) -> None:
    known = operating_points(evidence, folds)
    assert operating_points(with_test_cells_turned(evidence), folds) == known
    fewer = replace(evidence, predictions=without_test_cells(evidence.predictions, keep=30))
    assert operating_points(fewer, folds) == known


def without_test_cells(predictions: Predictions, *, keep: int) -> Predictions:
    return predictions.pick(~predictions.test | (np.cumsum(predictions.test) <= keep))


def test_thresholds_of_an_export_are_those_of_its_calibrated_validation_cells(evidence: Evidence) -> None:
    predictions = evidence.predictions
    rows = predictions.pick(~predictions.test & np.isin(predictions.fold, [1, 3]))
    scores = np.empty(len(rows))
    for fold in (1, 3):
        scores[rows.fold == fold] = evidence.calibrations[fold].probabilities(rows.probabilities)[rows.fold == fold, 1]
    assert operating_points(evidence, [1, 3]) == fit_thresholds(rows.label, scores)


def test_counts_of_subjects_are_those_at_the_thresholds_of_the_export(evidence: Evidence) -> None:
    thresholds = operating_points(evidence, [0, 1, 2, 3, 4])
    found = {each.group: each for each in subject_figures(evidence, thresholds)}
    predictions = evidence.predictions.pick(evidence.predictions.test)
    for group, each in found.items():
        here = predictions.group == group
        scores = np.concatenate(
            [
                evidence.calibrations[fold].probabilities(predictions.probabilities[here & (predictions.fold == fold)])
                for fold in np.unique(predictions.fold[here]).tolist()
            ]
        )[:, 1]
        assert each.cells == here.sum()
        assert each.called == {point: int((scores >= edge).sum()) for point, edge in thresholds.items()}


SUBJECTS = (
    ("all", 230, 184),
    ("all", 92, 47),
    ("all", 20, 20),
    ("all", 7, 5),
    ("hem", 60, 12),
    ("hem", 9, 4),
    ("hem", 30, 1),
)


def manifest_of(subjects: tuple[tuple[str, int, int], ...]) -> Manifest:
    points = {"balanced": 0.497, "high_sensitivity": 0.24, "high_specificity": 0.53}
    rows = tuple(
        SubjectFigures(group=str(place), label=label, cells=cells, called=dict.fromkeys(points, called))
        for place, (label, cells, called) in enumerate(subjects)
    )
    return Manifest.model_construct(
        name="small", classes=("hem", "all"), positive="all", operating_points=points, subjects=rows, metrics={}
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_figures_beside_a_threshold_are_those_of_the_counts_at_this_threshold(weighted: bool) -> None:
    found = figures_at(manifest_of(SUBJECTS), "balanced", subject_weighted=weighted)
    labels = np.concatenate([np.full(cells, label == "all") for label, cells, _ in SUBJECTS])
    said = np.concatenate([np.arange(cells) < called for _, cells, called in SUBJECTS])
    weight = np.concatenate([np.full(cells, 1 / cells if weighted else 1.0) for _, cells, _ in SUBJECTS])
    for name, positive in (("sensitivity", True), ("specificity", False)):
        expected = recall_score(labels, said, pos_label=positive, sample_weight=weight)
        assert found[name]["value"] == pytest.approx(expected, abs=1e-6)
        assert found[name]["low"] < expected < found[name]["high"]


def test_the_interval_at_a_threshold_is_that_of_the_subjects_of_this_class() -> None:
    shares = np.array([called / cells for label, cells, called in SUBJECTS if label == "all"])
    mean, wide = shares.mean(), stats.t.ppf(0.975, len(shares) - 1) * stats.sem(shares)
    middle, half = np.log(mean / (1 - mean)), wide / (mean * (1 - mean))
    found = figures_at(manifest_of(SUBJECTS), "balanced", subject_weighted=True)["sensitivity"]
    assert [found["low"], found["high"]] == pytest.approx(
        1 / (1 + np.exp(-np.array([middle - half, middle + half]))), abs=1e-6
    )


def test_the_card_shows_each_threshold_beside_its_own_figures() -> None:
    lines = _points(manifest_of(SUBJECTS))
    row = next(line for line in lines if line.startswith("| balanced | 0.497 |"))
    for weighted in (True, False):
        for name in ("sensitivity", "specificity"):
            found = figures_at(manifest_of(SUBJECTS), "balanced", subject_weighted=weighted)
            assert f"{found[name]['value']:.2f} (" in row


def test_a_bundle_of_two_subjects_offers_no_interval_at_its_thresholds() -> None:
    found = figures_at(manifest_of(SUBJECTS[3:5]), "balanced", subject_weighted=True)
    assert found["sensitivity"] == {"value": pytest.approx(5 / 7, abs=1e-6), "low": None, "high": None}


def test_the_shipped_card_gives_the_figures_of_its_own_counts() -> None:
    folder = Path(__file__).parents[1] / "src" / "leukoscope" / "bundles" / "default"
    manifest = Manifest.model_validate_json((folder / "bundle.json").read_text(encoding="utf-8"))
    card = (folder / "card.md").read_text(encoding="utf-8")
    for line in _points(manifest):
        assert line in card
