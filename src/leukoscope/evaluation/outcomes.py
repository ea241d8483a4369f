"""What is measured of a model: all test cells, subgroups of them, and the baselines that know only size or colour.

The probes are logistic regressions fitted on the training cells of each fold and then treated just like the model:
temperature and thresholds from the fold's validation cells, measured on its test cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..config import OPERATING_POINTS
from .intervals import Statistics, design_of, jackknife
from .metrics import (
    CHANCES,
    COUNTED,
    Floats,
    Ints,
    accuracy,
    areas,
    auroc,
    calibration_figures,
    confusion,
    divide,
    f1,
    ipa,
    net_benefit,
    precision,
    precision_on,
    rank,
    recall,
    reliability,
    risk_on,
    roc_on,
    smooth_curve,
)
from .metrics import sensitivity as sensitivity_of
from .metrics import specificity as specificity_of
from .predictions import Calibration, Predictions
from .results import Estimates, Subgroup, SubgroupFigures

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


SHOWN = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
_MANY = 8  # more different numbers than this are cut into bands
_BANDS = 4
_MOST = 20  # subgroups of a column that are shown


def subgroups(outcome: Outcome, columns: Mapping[str, NDArray[np.str_]]) -> list[Subgroup]:
    """Return a row for each value of each column, with its figures and their difference to all other cells.

    columns: name -> (cells,) the value of each cell; an empty one counts as 'not recorded'. A column of more than eight
    different numbers is cut into four bands at its quartiles over subject groups.
    """
    rows = []
    for column, values in columns.items():
        kinds = banded(values, outcome.groups)
        names, counts = np.unique(kinds, return_counts=True)
        if len(names) > 1:
            largest = sorted(names[np.argsort(-counts, kind="stable")][:_MOST].tolist(), key=_in_order)
            rows += [_row(outcome, column, str(name), kinds == name) for name in largest]
    return rows


def subgroup_notes(outcome: Outcome, columns: Mapping[str, NDArray[np.str_]], *, requested: bool) -> list[str]:
    """Describe which subgroups are not shown; a column with one value only where it was requested."""
    notes = []
    for column, values in columns.items():
        count = len(np.unique(banded(values, outcome.groups)))
        if count > _MOST:
            notes.append(f"Subgroups by {column}: the {_MOST} with most cells of {count} are shown.")
        elif count < 2 and requested:
            notes.append(f"Subgroups by {column}: all tested cells have the same value, so there are none.")
    return notes


def banded(values: NDArray[np.str_], groups: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the subgroup of each cell: its value, or its band where the values are many numbers.

    >>> banded(np.array(["1", "", "2"]), np.arange(3)).tolist()
    ['1', 'not recorded', '2']
    """
    names = np.where(np.char.strip(values) == "", "not recorded", values)
    there = names != "not recorded"
    try:
        numbers = names[there].astype(float)
    except ValueError:
        return names
    if len(np.unique(numbers)) <= _MANY or not np.isfinite(numbers).all():
        return names
    one_each = numbers[np.unique(groups[there], return_index=True)[1]]
    cuts = np.unique(np.quantile(one_each, np.linspace(0, 1, _BANDS + 1)[1:-1], method="lower"))
    band = np.searchsorted(cuts, numbers)  # up to and including a cut
    edges = [f"up to {cuts[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(cuts.tolist()))]
    named = names.astype(object)
    named[there] = np.array([*edges, f"above {cuts[-1]:g}"], dtype=object)[band]
    return named.astype(np.str_)


def _in_order(name: str) -> tuple[int, float, str]:
    first = {"up to": 0, "above": 2, "not r": 3}.get(name[:5], 1)
    try:
        return first, float(name.split(maxsplit=1)[0]), name
    except ValueError:
        return first, 0.0, name


def _row(outcome: Outcome, column: str, name: str, inside: NDArray[np.bool_]) -> Subgroup:
    here = _own_groups(outcome.pick(inside))
    labels = np.bincount(here.labels, minlength=outcome.classes)
    return {
        "column": column,
        "value": name,
        "cells": int(inside.sum()),
        "groups": int(here.groups.max()) + 1,
        "cells_per_class": labels.tolist(),
        "subject_weighted": _compared(outcome, here, inside, subject_weighted=True),
        "per_cell": _compared(outcome, here, inside, subject_weighted=False),
    }


def _compared(outcome: Outcome, here: Outcome, inside: NDArray[np.bool_], *, subject_weighted: bool) -> SubgroupFigures:
    found = _figures(here, subject_weighted=subject_weighted)
    return {
        "auroc": found["auroc"],
        "sensitivity": found["sensitivity"],
        "specificity": found["specificity"],
        "balanced_accuracy": found["balanced_accuracy"],
        "accuracy": found["accuracy"],
        "differences": _differences(outcome, inside, subject_weighted=subject_weighted),
    }


def _own_groups(outcome: Outcome) -> Outcome:
    return replace(outcome, groups=np.unique(outcome.groups, return_inverse=True)[1])


def _figures(outcome: Outcome, *, subject_weighted: bool) -> Estimates:
    design = design_of(outcome.labels, outcome.groups)
    sizes = design.share if subject_weighted else np.ones(len(design.share))
    found = jackknife(
        lambda weights: measure(outcome, weights / sizes),
        design.equal_weights() if subject_weighted else design,
        cells=len(outcome.labels),
    )
    return {metric: found.interval(metric) for metric in SHOWN}


def _differences(outcome: Outcome, inside: NDArray[np.bool_], *, subject_weighted: bool) -> Estimates:
    parts = {"in": outcome.pick(inside), "out": outcome.pick(~inside)}
    count = int(outcome.groups.max()) + 1
    sizes = {name: np.maximum(np.bincount(each.groups, minlength=count), 1) for name, each in parts.items()}
    present = {name: np.bincount(each.groups, minlength=count) > 0 for name, each in parts.items()}
    design = design_of(outcome.labels, outcome.groups, apart=present["in"] + 2 * present["out"])

    def statistic(weights: Floats) -> Statistics:
        return {
            f"{name}.{metric}": value
            for name, each in parts.items()
            for metric, value in measure(each, weights / sizes[name] if subject_weighted else weights).items()
        }

    found = jackknife(statistic, design.equal_weights() if subject_weighted else design, cells=len(outcome.labels))
    return {metric: found.difference(f"in.{metric}", f"out.{metric}") for metric in SHOWN}


COLUMNS = {"size": [0], "colour": [1, 2, 3]}  # of traits.csv, after the path


def majority(outcome: Outcome, shares: Floats) -> Outcome:
    """Return the outcome of always predicting the most common training class, with its share as probability.

    shares: (classes,), how common each class is among training cells.
    """
    cells = len(outcome.labels)
    constant = np.full(cells, int(np.argmax(shares)), dtype=np.int64)
    return replace(
        outcome,
        probabilities=np.tile(shares, (cells, 1)),
        predicted=constant,
        certainty=np.zeros(cells),
        at=dict.fromkeys(outcome.at, constant),
    )


def class_shares(labels: Ints, *, classes: int) -> Floats:
    """Return how common each class is.

    >>> class_shares(np.array([0, 1, 1, 1]), classes=2).tolist()
    [0.25, 0.75]
    """
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(counts / max(1, counts.sum()))


def features_of(traits: Floats, name: str) -> Floats:
    """Return a probe's features (cells, features): the logarithm of the area, or the mean colour.

    traits: (cells, 4), area in pixels, mean red, green and blue; a cell that could not be measured gets the medians.

    >>> features_of(np.array([[1.0, 90, 80, 70], [np.nan, 90, 80, 70]]), "size").tolist()
    [[0.0], [0.0]]
    """
    values = traits[:, COLUMNS[name]]
    values = np.where(np.isfinite(values), values, np.nanmedian(values, axis=0))
    return np.log(np.maximum(values, 1)) if name == "size" else values


def probe(
    predictions: Predictions, features: Floats, *, rows: Ints, train: dict[int, Ints], labels: Ints
) -> Predictions:
    """Return the predictions with a probe's probabilities in place of the model's.

    features: (cells, features); rows: the cell of each prediction; train: fold -> its training cells;
    labels: (cells,), the class of each cell, -1 where it has none.
    """
    chances = np.zeros_like(predictions.probabilities)
    for fold in predictions.folds:
        here = predictions.fold == fold
        chances[here] = fit_probe(features[train[fold]], labels[train[fold]], features[rows[here]], chances.shape[1])
    return replace(predictions, probabilities=chances)


def fit_probe(features: Floats, labels: Ints, test: Floats, classes: int) -> Floats:
    """Fit a balanced logistic regression and return its probabilities for `test` (cells, classes)."""
    chances = np.zeros((len(test), classes))
    seen = np.unique(labels)
    if len(seen) < 2:
        chances[:] = class_shares(labels, classes=classes) if len(seen) else 1 / classes
        return chances
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky"))
    chances[:, seen] = model.fit(features, labels).predict_proba(test)
    return chances


def label_statistics(statistics: Statistics, name: str) -> Statistics:
    """Put the estimator's name before each of its metrics.

    >>> list(label_statistics({"auroc": np.zeros(1)}, "size"))
    ['size.auroc']
    """
    return {f"{name}.{metric}": values for metric, values in statistics.items()}


_FOLDS = 5


def shortcut_probe(features: Mapping[str, Floats], *, labels: Ints, groups: Ints, seed: int = 0) -> dict[str, Any]:
    """Return the AUROC of each feature alone with its 95 % interval, subjects kept apart.

    features: name -> (cells, columns); labels: (cells,) class index; groups: (cells,) code of the subject group.
    A logistic regression is fitted in grouped five-fold cross-validation; 0.5 is what chance reaches.

    >>> rng = np.random.default_rng(0)
    >>> labels, groups = np.tile([0, 1], 100), np.arange(200) % 20
    >>> found = shortcut_probe({"size": labels[:, None] + rng.normal(0, 9, (200, 1))}, labels=labels, groups=groups)
    >>> found["size"]["low"] < 0.6 < found["size"]["high"]
    True
    """
    classes = int(labels.max()) + 1
    folds = min(_FOLDS, *(len(set(groups[labels == label])) for label in range(classes)))
    if folds < 2:
        return {"not_measured": "a class comes from a single subject group, so none can be kept apart"}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    chances = {name: np.zeros((len(labels), classes)) for name in features}
    for train, test in splitter.split(labels, labels, groups):
        for name, values in features.items():
            chances[name][test] = fit_probe(values[train], labels[train], values[test], classes)

    def measure(weights: Floats) -> Statistics:
        return {
            name: areas(labels, values, weights=weights, groups=groups)["auroc"] for name, values in chances.items()
        }

    found = jackknife(measure, design_of(labels, groups), cells=len(labels))
    return {name: found.interval(name) for name in features} | {"folds": folds, "chance": 0.5}
