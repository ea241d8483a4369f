"""What an estimator said about the test cells, ready to be measured under any weighting."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import OPERATING_POINTS
from .calibration import Calibration
from .intervals import Statistics
from .metrics import (
    CHANCES,
    COUNTED,
    Floats,
    Ints,
    accuracy,
    areas,
    auroc,
    confusion,
    divide,
    f1,
    precision,
    precision_on,
    rank,
    recall,
    reliability,
    risk_on,
    roc_on,
)
from .metrics import sensitivity as sensitivity_of
from .metrics import specificity as specificity_of
from .predictions import Predictions
from .reliability import calibration_figures, ipa, net_benefit, smooth_curve

RATE_GRID = np.linspace(0, 1, 101)
RECALL_GRID = np.linspace(0.01, 1, 100)
COVERAGE_GRID = np.linspace(0.05, 1, 96)
SUBJECT_METRICS = ("subject_accuracy", "subject_sensitivity", "subject_specificity", "subject_auroc")
_SUBJECT_COUNTED = {
    "subject_accuracy": accuracy,
    "subject_sensitivity": sensitivity_of,
    "subject_specificity": specificity_of,
}


@dataclass(frozen=True)
class Outcome:
    """Labels, calibrated probabilities and decisions of the test cells of all folds, one entry per cell."""

    labels: Ints
    probabilities: Floats  # (cells, classes)
    predicted: Ints
    certainty: Floats  # distance from the decision's edge; larger is surer
    at: dict[str, Ints]  # operating point -> decisions; empty with more than two classes
    groups: Ints  # code of the subject group of each cell

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return int(self.probabilities.shape[1])

    def pick(self, cells: NDArray[np.bool_] | Ints) -> "Outcome":
        """Return only these cells; the codes of the groups stay."""
        return Outcome(
            labels=self.labels[cells],
            probabilities=self.probabilities[cells],
            predicted=self.predicted[cells],
            certainty=self.certainty[cells],
            at={point: predicted[cells] for point, predicted in self.at.items()},
            groups=self.groups[cells],
        )


def outcome_of(predictions: Predictions, calibrations: dict[int, Calibration]) -> Outcome:
    """Calibrate and decide the test cells of every fold with what that fold learned on its validation cells."""
    test = predictions.pick(predictions.test)
    probabilities, edge = np.empty_like(test.probabilities), np.zeros(len(test))
    decided = {point: np.zeros(len(test), dtype=np.int64) for point in OPERATING_POINTS}
    for fold, calibration in calibrations.items():
        here = test.fold == fold
        probabilities[here] = calibration.probabilities(test.probabilities[here])
        edge[here] = calibration.thresholds["balanced"] if calibration.thresholds else 0.5
        for point in OPERATING_POINTS:
            decided[point][here] = calibration.decide(probabilities[here], point=point)
    return Outcome(
        labels=test.label,
        probabilities=probabilities,
        predicted=decided["balanced"],
        certainty=_certainty(probabilities, edge),
        at=decided if predictions.binary else {},
        groups=np.unique(test.group, return_inverse=True)[1],
    )


def _certainty(probabilities: Floats, edge: Floats) -> Floats:
    """Return how far a cell is from being decided otherwise: in logits of the disease, or the top probability."""
    if probabilities.shape[1] > 2:
        return np.asarray(probabilities.max(1))
    chance, edge = (np.clip(values, 1e-9, 1 - 1e-9) for values in (probabilities[:, 1], edge))
    return np.asarray(np.abs(np.log(chance / (1 - chance)) - np.log(edge / (1 - edge))))


def measure(outcome: Outcome, weights: Floats) -> Statistics:
    """Return every metric per replicate for weights (replicates, groups)."""
    table = confusion(
        outcome.labels, outcome.predicted, classes=outcome.classes, weights=weights, groups=outcome.groups
    )
    values = {name: metric(table) for name, metric in COUNTED.items()}
    values |= areas(outcome.labels, outcome.probabilities, weights=weights, groups=outcome.groups)
    for name, metric in CHANCES.items():
        values[name] = metric(outcome.labels, outcome.probabilities, weights=weights, groups=outcome.groups)
    return values


def measure_subjects(outcome: Outcome, weights: Floats) -> Statistics:
    """Return metrics of whole subject groups: each is called what most of its cells are called.

    Groups whose cells have several labels (such as one patient's benign and malignant cells) take no part.
    """
    if outcome.classes != 2 or not len((subjects := subjects_of(outcome)).code):
        return {name: np.full(len(weights), np.nan) for name in SUBJECT_METRICS}
    drawn = weights[:, subjects.code]
    table = confusion(subjects.labels, subjects.predicted, classes=2, weights=drawn)
    chances = np.stack([1 - subjects.mean, subjects.mean], axis=1)
    values = {name: metric(table) for name, metric in _SUBJECT_COUNTED.items()}
    return values | {"subject_auroc": auroc(subjects.labels, chances, weights=drawn)}


@dataclass(frozen=True)
class Subjects:
    """One entry per subject group whose cells all have one label."""

    code: Ints  # of the group
    labels: Ints
    predicted: Ints  # the class that most of its cells are called; a tie counts as disease
    mean: Floats  # mean probability of the disease


def subjects_of(outcome: Outcome) -> Subjects:
    """Sum up the cells of each subject group (two classes only)."""
    code, index = np.unique(outcome.groups, return_inverse=True)
    cells = np.bincount(index)
    ill = np.bincount(index, outcome.labels == 1)
    called = np.bincount(index, outcome.predicted == 1) / cells
    mean = np.bincount(index, outcome.probabilities[:, 1]) / cells
    pure = (ill == 0) | (ill == cells)
    labels, predicted = (ill > 0).astype(np.int64), (called >= 0.5).astype(np.int64)
    return Subjects(*(values[pure] for values in (code, labels, predicted, mean)))


def measure_classes(outcome: Outcome, weights: Floats, names: tuple[str, ...]) -> Statistics:
    """Return 'precision.<class>', 'recall.<class>' and 'f1.<class>' per replicate."""
    table = confusion(
        outcome.labels, outcome.predicted, classes=outcome.classes, weights=weights, groups=outcome.groups
    )
    kinds = {"precision": precision(table), "recall": recall(table), "f1": f1(table)}
    return {f"{kind}.{name}": values[:, i] for kind, values in kinds.items() for i, name in enumerate(names)}


def measure_points(outcome: Outcome, weights: Floats) -> Statistics:
    """Return '<operating point>.sensitivity' and '.specificity' per replicate (two classes only)."""
    values: Statistics = {}
    for point, predicted in outcome.at.items():
        table = confusion(outcome.labels, predicted, classes=2, weights=weights, groups=outcome.groups)
        values[f"{point}.sensitivity"] = sensitivity_of(table)
        values[f"{point}.specificity"] = specificity_of(table)
    return values


def measure_curves(outcome: Outcome, weights: Floats, names: tuple[str, ...]) -> Statistics:
    """Return ROC, PR, reliability and risk–coverage on fixed grids: (replicates, points)."""
    values: Statistics = {}
    for index in range(len(names) == 2, len(names)):
        ranking = rank(outcome.labels == index, outcome.probabilities[:, index], weights=weights, groups=outcome.groups)
        values[f"roc.{names[index]}"] = roc_on(RATE_GRID, ranking)
        values[f"pr.{names[index]}"] = precision_on(RECALL_GRID, ranking)
    wrong: NDArray[np.bool_] = outcome.labels != outcome.predicted
    values["risk_coverage"] = risk_on(
        COVERAGE_GRID, rank(wrong, outcome.certainty, weights=weights, groups=outcome.groups)
    )
    count, _, found = reliability(outcome.labels, outcome.probabilities, weights=weights, groups=outcome.groups)
    return values | {"reliability": divide(found, count)}


def measure_probabilities(outcome: Outcome, weights: Floats, *, grid: Floats | None) -> Statistics:
    """Return how far the probabilities can be believed, and the decision curve; with more than two classes, IPA alone.

    grid: the probabilities at which the smooth calibration curve is read.
    """
    here: dict[str, Any] = {"weights": weights, "groups": outcome.groups}
    if grid is None:
        return {"ipa": ipa(outcome.labels, outcome.probabilities, **here)}
    chance = outcome.probabilities[:, 1]
    values = calibration_figures(outcome.labels, outcome.probabilities, **here)
    values["smooth"] = smooth_curve(chance, outcome.labels, grid=grid, **here)
    return values | net_benefit(outcome.labels, chance, **here)
