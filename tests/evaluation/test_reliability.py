"""Recalibration, smooth curve, IPA and net benefit: against R (rms, pROC) and scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from leukoscope.evaluation.metrics import (
    BENEFIT_GRID,
    areas,
    calibration_figures,
    ipa,
    logistic,
    logits,
    net_benefit,
    smooth_curve,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "cells.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def cells_of(golden: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    labels, chance = np.array(golden["label"]), np.array(golden["probability"])
    groups = np.array(golden["subject"]) - 1
    return labels, np.stack([1 - chance, chance], axis=1), groups, np.bincount(groups).astype(float)


@pytest.mark.parametrize("weighting", ["cells", "alike"])
def test_slope_intercept_ratio_and_ipa_are_those_of_r(golden: dict[str, Any], weighting: str) -> None:
    labels, probabilities, groups, sizes = cells_of(golden)
    weights = np.ones((1, len(sizes))) / (sizes if weighting == "alike" else 1)
    found = calibration_figures(labels, probabilities, weights=weights, groups=groups)
    for name, key in (("calibration_slope", "slope"), ("calibration_intercept", "intercept")):
        assert found[name][0] == pytest.approx(golden[weighting][key], abs=1e-8)
    assert found["observed_expected"][0] == pytest.approx(golden[weighting]["observed_expected"], abs=1e-9)
    assert found["ipa"][0] == pytest.approx(golden[weighting]["ipa"], abs=1e-9)
    assert golden["rms"]["slope"] == pytest.approx(golden["cells"]["slope"], abs=1e-9)


def test_the_smooth_curve_is_the_restricted_cubic_spline_of_rms(golden: dict[str, Any]) -> None:
    labels, probabilities, groups, sizes = cells_of(golden)
    grid = np.array(golden["smooth"]["grid"])
    found = smooth_curve(probabilities[:, 1], labels, grid=grid, weights=np.ones((1, len(sizes))), groups=groups)
    assert found[0] == pytest.approx(golden["smooth"]["value"], abs=1e-6)


def test_net_benefit_is_that_of_its_definition_in_r(golden: dict[str, Any]) -> None:
    labels, probabilities, groups, sizes = cells_of(golden)
    found = net_benefit(labels, probabilities[:, 1], weights=np.ones((1, len(sizes))), groups=groups)
    places = [int(np.argmin(abs(BENEFIT_GRID - at))) for at in golden["benefit"]["grid"]]
    assert found["benefit"][0, places] == pytest.approx(golden["benefit"]["value"], abs=1e-9)
    share = labels.mean()
    assert found["benefit_all"][0] == pytest.approx(share - (1 - share) * BENEFIT_GRID / (1 - BENEFIT_GRID))
    assert found["benefit_gain"][0] == pytest.approx(found["benefit"][0] - np.maximum(found["benefit_all"][0], 0))


def test_every_replicate_is_scikit_learns_regression_with_sample_weight(golden: dict[str, Any]) -> None:
    labels, probabilities, groups, sizes = cells_of(golden)
    weights = np.random.default_rng(1).integers(0, 4, (6, len(sizes))).astype(float)
    design = np.stack([np.ones(len(labels)), logits(probabilities[:, 1])], axis=1)
    found = logistic(design, labels, weights=weights, groups=groups)
    for row, each in zip(found, weights, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(design[:, 1:], labels, each[groups])
        assert row == pytest.approx([model.intercept_[0], model.coef_[0, 0]], abs=1e-4)


def test_ipa_is_one_less_the_ratio_of_brier_scores_also_with_three_classes() -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 3, 90), np.arange(90) % 9
    probabilities = rng.dirichlet([1, 1, 1], 90)
    shares = np.tile(np.bincount(labels) / 90, (90, 1))
    expected = 1 - brier_score_loss(labels, probabilities) / brier_score_loss(labels, shares)
    assert ipa(labels, probabilities, weights=np.ones((1, 9)), groups=groups)[0] == pytest.approx(expected)


def test_right_probabilities_have_slope_one_and_overconfident_ones_less() -> None:
    rng = np.random.default_rng(4)
    chance = rng.uniform(0.02, 0.98, 20000)
    labels, groups = (rng.random(20000) < chance).astype(np.int64), np.arange(20000) % 50
    sure = 1 / (1 + np.exp(-2 * logits(chance)))
    for claimed, slope in ((chance, 1.0), (sure, 0.5)):
        found = calibration_figures(
            labels, np.stack([1 - claimed, claimed], 1), weights=np.ones((1, 50)), groups=groups
        )
        assert found["calibration_slope"][0] == pytest.approx(slope, abs=0.04)
    assert found["ipa"][0] < 0.5


@pytest.mark.parametrize("labels", [np.zeros(8, int), np.ones(8, int), np.repeat([0, 1], 4)])
def test_one_class_or_perfect_separation_has_no_slope_and_no_crash(labels: np.ndarray) -> None:
    chance = np.linspace(0.1, 0.9, 8)
    groups, weights = np.arange(8), np.ones((1, 8))
    found = calibration_figures(labels, np.stack([1 - chance, chance], 1), weights=weights, groups=groups)
    assert np.isnan(found["calibration_slope"][0])
    smooth = smooth_curve(chance, labels, grid=np.array([0.5]), weights=weights, groups=groups)
    assert np.isnan(smooth).all() or ((smooth >= 0) & (smooth <= 1)).all()


def test_one_probability_for_all_cells_has_a_line_and_no_crash() -> None:
    labels, groups = np.array([0, 1, 1, 0, 1, 1]), np.arange(6)
    smooth = smooth_curve(np.full(6, 0.5), labels, grid=np.array([0.5]), weights=np.ones((1, 6)), groups=groups)
    assert np.isnan(smooth).all() or smooth[0, 0] == pytest.approx(4 / 6, abs=1e-3)


def test_the_auroc_and_its_weighted_form_are_those_of_proc_and_scikit_learn(golden: dict[str, Any]) -> None:
    labels, probabilities, groups, sizes = cells_of(golden)
    found = areas(labels, probabilities, weights=np.stack([np.ones_like(sizes), 1 / sizes]), groups=groups)["auroc"]
    assert found[0] == pytest.approx(golden["auroc"], abs=1e-9)
    expected = roc_auc_score(labels, probabilities[:, 1], sample_weight=1 / sizes[groups])
    assert found[1] == pytest.approx(expected, abs=1e-12)
