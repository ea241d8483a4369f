"""Sampling that takes imbalance, and cell size, out of what is shown."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

from leukoscope.errors import TrainingError
from leukoscope.training.batches import class_draws, class_weights, even_out_subjects, size_draws


def test_class_weights_are_scikit_learns() -> None:
    labels = np.random.default_rng(0).choice(3, size=500, p=[0.6, 0.3, 0.1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(labels, classes=3), expected)
    assert class_weights(labels, classes=3)[labels].mean() == pytest.approx(1)


def test_drawn_classes_are_equally_frequent() -> None:
    labels = np.random.default_rng(0).choice(2, size=500, p=[0.7, 0.3])
    draws = class_draws(labels, classes=2)
    np.testing.assert_allclose(np.bincount(labels, weights=draws), [0.5, 0.5])


def test_drawn_cells_cannot_be_told_apart_by_their_size() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(2, size=4000, p=[0.35, 0.65])
    area = rng.normal(20_000 + 5_000 * labels, 6_000)
    assert roc_auc_score(labels, area) > 0.7
    draws = size_draws(labels, area, classes=2)
    assert draws.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.bincount(labels, weights=draws), [0.5, 0.5])
    chosen = rng.choice(len(labels), size=20_000, p=draws)
    before, after = (abs(roc_auc_score(labels[rows], area[rows]) - 0.5) for rows in (slice(None), chosen))
    assert after < 0.2 * before  # a tenth of each class is drawn as it comes


def test_cells_of_a_size_that_only_one_class_has_are_still_drawn() -> None:
    labels = np.repeat([0, 1], 100)
    draws = size_draws(labels, np.arange(200.0) - 50 * labels, classes=2)
    assert (draws > 0).all()


def test_no_cell_is_drawn_much_more_often_than_its_like() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(2, size=2000, p=[0.35, 0.65])
    area = rng.normal(20_000 + 5_000 * labels, 6_000)
    draws, even = size_draws(labels, area, classes=2), class_draws(labels, classes=2)
    assert (draws / even).max() < 2


def test_classes_without_a_common_size_are_refused() -> None:
    labels = np.repeat([0, 1], 100)
    with pytest.raises(TrainingError, match="share almost no cell size"):
        size_draws(labels, labels * 1000.0 + np.arange(200), classes=2)


def test_evened_subjects_keep_the_share_of_their_class() -> None:
    labels = np.array([0] * 6 + [1] * 6)
    groups = np.array(["a"] * 5 + ["b"] + ["c"] * 4 + ["d"] * 2)
    draws = np.full(12, 1 / 12)
    assert np.allclose(even_out_subjects(draws, labels, groups, power=0), draws)
    evened = even_out_subjects(draws, labels, groups, power=1)
    share = {name: evened[groups == name].sum() for name in "abcd"}
    assert share == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25})
