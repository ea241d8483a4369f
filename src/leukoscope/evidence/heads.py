"""Logistic heads on frozen features, and the folds in which they are judged."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..evaluation.ranking import Floats, Ints

Features = NDArray[np.floating]
Fold = tuple[Ints, Ints]
"""Rows to learn from, rows to ask for."""
STRENGTH = 1e-3
"""Inverse strength of the L2 penalty on standardised features: strong, as there are a thousand features and more."""
FOLDS = 5


def fit_and_ask(features: Features, labels: Ints, *, train: Ints, asked: Features, classes: int) -> Floats:
    """Fit a balanced logistic head on some cells and return its probabilities for others, (asked, classes)."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    )
    model.fit(features[train], labels[train])
    chances = np.zeros((len(asked), classes))
    chances[:, model[-1].classes_] = model.predict_proba(asked)
    return chances


def head_of(features: Features, labels: Ints) -> tuple[Floats, Floats]:
    """Return weight (1, features) and bias (1,) of such a head for two classes, on features as they are."""
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    model.fit(scaler.transform(features), labels)
    weight = model.coef_ / scaler.scale_
    return weight, model.intercept_ - weight @ scaler.mean_


def cross_predict(features: Features, labels: Ints, folds: Iterable[Fold], *, classes: int) -> Floats:
    """Return the probabilities (cells, classes) of each cell from the fold that it is asked in; zero where in none."""
    chances = np.zeros((len(labels), classes))
    for train, test in folds:
        chances[test] = fit_and_ask(features, labels, train=train, asked=features[test], classes=classes)
    return chances


def folds_by(units: NDArray[np.generic] | None, labels: Ints, *, seed: int) -> list[Fold]:
    """Return folds that share no unit, with like class shares; without units, folds of single images."""
    if units is None:
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))
    count = min(FOLDS, *(len(set(units[labels == label].tolist())) for label in np.unique(labels)))
    return list(StratifiedGroupKFold(max(2, count), shuffle=True, random_state=seed).split(labels, labels, units))
