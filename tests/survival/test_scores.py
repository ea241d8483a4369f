"""Scores of predictions against riskRegression 2022.11.28 (R 4.2.2), lifelines and R's concordance."""

from dataclasses import replace

import numpy as np
import pytest
from lifelines.utils import concordance_index

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import fit_terms, make_design
from leukoscope.survival.model import term_matrix
from leukoscope.survival.scores import (
    auc_pairs,
    bootstrap_weights,
    brier_parts,
    calibration,
    censoring_curve,
    concordance,
    concordance_pairs,
    fold_numbers,
    integrated,
    percentile,
)

from .conftest import drawn


def _c_index(cohort: Cohort, risk: np.ndarray) -> float:
    wins, total = concordance(concordance_pairs(cohort), risk, weights=np.ones((len(cohort), 1)))
    return float(wins[0] / total[0])


def _auc(cohort: Cohort, risk: np.ndarray, horizon: float) -> float:
    pairs = auc_pairs(cohort, horizon=horizon, censoring=censoring_curve(cohort))
    wins, total = concordance(pairs, risk, weights=np.ones((len(cohort), 1)))
    return float(wins[0] / total[0])


def test_the_c_index_equals_lifelines_with_ties() -> None:
    cohort = drawn(300)
    risk = np.random.default_rng(1).integers(0, 20, 300).astype(float)
    assert _c_index(cohort, risk) == pytest.approx(concordance_index(cohort.time, -risk, cohort.state), abs=1e-7)


def test_the_c_index_of_larynx_equals_r(larynx: Cohort) -> None:
    # concordance(coxph(Surv(years, died) ~ stage + age, larynx))
    design = make_design(larynx, stages=larynx.stages)
    risk = (
        term_matrix(design.terms, design.columns, patients=90) @ fit_terms(design, design.terms, cause=0).coefficients
    )
    assert _c_index(larynx, risk) == pytest.approx(0.68188227, abs=1e-6)


def test_auc_and_brier_score_equal_risk_regression(ebmt: Cohort) -> None:
    # Score(list(m = risk), Surv(srv + patid * 1e-5, srvstat) ~ 1, times = c(180, 730, 1500))
    ebmt = replace(ebmt, time=ebmt.time + ebmt.covariates["patid"] * 1e-5)
    times = np.array([180.0, 730, 1500])
    base = (ebmt.stage + 1) * 0.15 + ebmt.covariates["age"] / 400
    risk = np.minimum(base[:, None] * (0.5 + times / 3000), 1)
    aucs = [_auc(ebmt, risk[:, place], when) for place, when in enumerate(times)]
    assert aucs == pytest.approx([0.5832818552, 0.5892847729, 0.6323462088], abs=1e-6)
    brier = brier_parts(ebmt, risk, times=times, censoring=censoring_curve(ebmt)).mean(axis=0)
    assert brier == pytest.approx([0.1876118693, 0.2508730171, 0.2404592418], abs=1e-9)


def test_auc_and_brier_score_with_competing_events_equal_risk_regression(bmt: Cohort) -> None:
    # Score(list(m = risk), Hist(ftime + i * 1e-5, Status) ~ 1, cause = 1, times = c(6, 12, 24))
    bmt = replace(bmt, time=bmt.time + np.arange(1, 178) * 1e-5)
    times = np.array([6.0, 12, 24])
    risk = (bmt.covariates["Age"] / 150 + np.where(bmt.stage == 3, 0.3, 0.1))[:, None] + times / 60
    aucs = [_auc(bmt, risk[:, place], when) for place, when in enumerate(times)]
    assert aucs == pytest.approx([0.5724137931, 0.5671276462, 0.5726211636], abs=1e-6)
    brier = brier_parts(bmt, risk, times=times, censoring=censoring_curve(bmt)).mean(axis=0)
    assert brier == pytest.approx([0.2498867546, 0.3039407240, 0.4506475524], abs=1e-9)


def test_at_tied_times_events_come_before_censorings() -> None:
    cohort = replace(drawn(4), time=np.array([1.0, 1, 2, 2]), state=np.array([1, 0, 1, 0]))
    assert censoring_curve(cohort).at(1.0)[0] == pytest.approx(2 / 3)


def test_patients_of_different_folds_are_not_compared() -> None:
    cohort = drawn(100)
    folds = np.repeat([0, 1], 50)
    risk = np.where(folds == 0, 0.9, 0.1)  # within a fold all are equal, so nothing is ranked
    wins, total = concordance(concordance_pairs(cohort), risk, weights=np.ones((100, 1)), folds=folds)
    assert wins[0] / total[0] == pytest.approx(0.5)


def test_drawing_a_patient_twice_equals_a_weight_of_two() -> None:
    cohort, rng = drawn(60), np.random.default_rng(0)
    rows = rng.integers(0, 60, 60)
    weights = np.bincount(rows, minlength=60).astype(float)[:, None]
    risk = rng.random(60)
    wins, total = concordance(concordance_pairs(cohort), risk, weights=weights)
    twice = cohort.take(rows)
    pairs = concordance_pairs(twice)
    assert wins[0] / total[0] == pytest.approx(_c_index(twice, risk[rows]), abs=1e-6)
    assert pairs.controls.sum() == pytest.approx(total[0])


def test_a_perfect_prognosis_has_auc_one_and_a_reversed_one_zero() -> None:
    cohort = drawn(200)
    assert _auc(cohort, -cohort.time, 12.0) == pytest.approx(1.0)
    assert _auc(cohort, cohort.time, 12.0) == pytest.approx(0.0)


def test_calibration_groups_hold_every_patient_once() -> None:
    cohort = drawn(300)
    risk = np.random.default_rng(0).random(300)
    groups = calibration(cohort, risk, horizon=12.0, groups=4)
    assert sum(int(group["patients"]) for group in groups) == 300
    assert all(group["low"] <= group["observed"] <= group["high"] for group in groups)


def test_folds_are_even_within_each_outcome() -> None:
    states = drawn(203, competing=True).state
    folds = fold_numbers(states, folds=5, rng=np.random.default_rng(0))
    for state in np.unique(states):
        counts = np.bincount(folds[states == state], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_the_first_column_of_bootstrap_weights_is_the_cohort_itself() -> None:
    weights = bootstrap_weights(50, replicates=9, rng=np.random.default_rng(0))
    assert weights.shape == (50, 10)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=0) == 50).all()


def test_integration_is_a_mean_and_percentiles_leave_the_value_alone() -> None:
    assert integrated(np.array([2.0, 2.0, 2.0]), times=np.array([1.0, 4.0, 9.0])) == pytest.approx(2.0)
    found = percentile(np.array([0.5, *np.linspace(0, 1, 101)]))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975))


def test_a_group_in_which_everybody_had_the_event_has_no_limits() -> None:
    cohort = replace(drawn(40), time=np.arange(1.0, 41.0), state=np.ones(40, dtype=np.int64))
    (low, high) = calibration(cohort, np.where(np.arange(40) < 20, 0.9, 0.1), horizon=20.0, groups=2)
    assert low["observed"] == 0
    assert (high["observed"], high["low"], high["high"]) == (1.0, None, None)
