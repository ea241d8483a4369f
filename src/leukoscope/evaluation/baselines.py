"""What a number is worth: the same cells decided without looking at them, or by size or colour alone.

The probes are logistic regressions fitted on the training cells of each fold and then treated just like the model:
temperature and thresholds from the fold's validation cells, measured on its test cells.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .intervals import Statistics, design_of, jackknife
from .metrics import Floats, Ints, areas
from .outcomes import Outcome
from .predictions import Predictions

COLUMNS = {"size": [0], "colour": [1, 2, 3]}  # of traits.csv, after the path


def majority(outcome: Outcome, shares: Floats) -> Outcome:
    """Return the outcome of saying the most common training class to everything, with its share as probability.

    shares: (classes,), how common each class is among training cells.
    """
    cells = len(outcome.labels)
    said = np.full(cells, int(np.argmax(shares)), dtype=np.int64)
    return replace(
        outcome,
        probabilities=np.tile(shares, (cells, 1)),
        predicted=said,
        certainty=np.zeros(cells),
        at=dict.fromkeys(outcome.at, said),
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


def fit_probe(features: Floats, labels: Ints, asked: Floats, classes: int) -> Floats:
    """Fit a balanced logistic regression and return its probabilities for `asked`, (cells, classes)."""
    chances = np.zeros((len(asked), classes))
    seen = np.unique(labels)
    if len(seen) < 2:
        chances[:] = class_shares(labels, classes=classes) if len(seen) else 1 / classes
        return chances
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky"))
    chances[:, seen] = model.fit(features, labels).predict_proba(asked)
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
