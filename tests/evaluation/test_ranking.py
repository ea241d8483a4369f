"""Curves on fixed grids, against scikit-learn's own curves."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from leukoscope.evaluation.metrics import precision_on, rank, risk_on, roc_on


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    positive = rng.random(200) < 0.4
    return positive, np.round(rng.normal(size=200) + positive, 1)  # rounded: with ties


def test_roc_on_a_grid_lies_on_scikit_learns_curve(cells: tuple[np.ndarray, np.ndarray]) -> None:
    positive, scores = cells
    alarm, found, _ = roc_curve(positive, scores, drop_intermediate=False)
    grid = np.linspace(0.001, 1, 50)
    ours = roc_on(grid, rank(positive, scores, weights=np.ones((1, 200))))[0]
    assert np.allclose(ours, np.interp(grid, alarm, found))


def test_precision_on_a_grid_is_a_point_of_scikit_learns_curve(cells: tuple[np.ndarray, np.ndarray]) -> None:
    positive, scores = cells
    precision, recall, _ = precision_recall_curve(positive, scores)
    ours = precision_on(recall[:-1], rank(positive, scores, weights=np.ones((1, 200))))[0]
    first = [precision[:-1][np.flatnonzero(recall[:-1] == value)[-1]] for value in recall[:-1]]
    assert np.allclose(ours, first)


def test_risk_of_deciding_everything_is_the_error_rate() -> None:
    wrong = np.array([True, False, False, True])
    risk = risk_on(np.array([0.25, 1.0]), rank(wrong, np.array([0.1, 0.9, 0.8, 0.2]), weights=np.ones((1, 4))))
    assert risk.tolist() == [[0.0, 0.5]]


def test_curves_without_positive_cells_are_undefined() -> None:
    ranking = rank(np.zeros(3, dtype=bool), np.arange(3.0), weights=np.ones((1, 3)))
    assert np.isnan(roc_on(np.array([0.5]), ranking)).all()
    assert np.isnan(precision_on(np.array([0.5]), ranking)).all()
