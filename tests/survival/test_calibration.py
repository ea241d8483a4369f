"""Calibration and decision curves where R has no function: simulation, identities, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from leukoscope.survival.curves import incidence_at, time_lost
from leukoscope.survival.scores import calibrate, difference, net_benefit, observed_over_expected, thresholds_for

from .conftest import drawn


def _risk(age: np.ndarray, *, too_sure: float = 1.0) -> np.ndarray:
    """Return a chance of the event by 12 months that rises with age."""
    return 1 - np.exp(-0.25 * np.exp(too_sure * 0.03 * (age - 60)))


def test_the_interval_of_observed_over_expected_knows_the_uncertainty_of_both() -> None:
    """Its width equals the spread over redrawn cohorts, in which predictions vary with the patients."""
    cohort = drawn(400)
    risk, rng = _risk(cohort.covariates["age"]), np.random.default_rng(0)
    found = observed_over_expected(incidence_at(cohort.time, cohort.state, horizon=12.0), risk)
    logs = []
    for _ in range(400):
        rows = rng.integers(0, 400, 400)
        seen = incidence_at(cohort.time[rows], cohort.state[rows], horizon=12.0)
        logs.append(np.log(seen.value / risk[rows].mean()))
    width = np.log(found.high / found.value) / 1.959964
    assert width == pytest.approx(np.std(logs), rel=0.1)


def test_a_model_that_is_too_sure_has_a_slope_below_one() -> None:
    cohort = drawn(3000)
    cohort = replace(cohort, stage=np.ones(3000, dtype=np.int64))
    seen = incidence_at(cohort.time, cohort.state, horizon=12.0)
    right, sure = (calibrate(seen, _risk(cohort.covariates["age"], too_sure=by)) for by in (1.0, 3.0))
    assert right.slope.low < 1 < right.slope.high
    assert sure.slope.high < 0.6


def test_pseudo_values_have_the_incidence_as_their_mean_and_late_entry_is_allowed_for() -> None:
    cohort = drawn(300, competing=True)
    late = replace(cohort, entry=cohort.time * 0.3)
    for one in (cohort, late):
        seen = incidence_at(one.time, one.state, horizon=12.0, start=one.entry)
        assert seen.pseudo.mean() == pytest.approx(seen.value, abs=1e-12)
        assert seen.influence.sum() == pytest.approx(0, abs=1e-12)
    free = time_lost(late.time, np.where(late.state > 0, 1, 0), until=24.0, start=late.entry)
    parts = [time_lost(late.time, late.state, until=24.0, start=late.entry, cause=cause) for cause in (1, 2)]
    assert free.value == pytest.approx(sum(part.value for part in parts))


def test_treating_everybody_is_worth_what_the_incidence_says() -> None:
    cohort = drawn(300)
    cuts = np.array([0.1, 0.3])
    found = net_benefit(cohort, np.ones(300), horizon=12.0, thresholds=cuts)
    seen = incidence_at(cohort.time, cohort.state, horizon=12.0)
    assert found.value == pytest.approx(seen.value - (1 - seen.value) * cuts / (1 - cuts))
    spread = (1 + cuts / (1 - cuts)) * seen.error
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * spread, rel=1e-5)


def test_the_width_of_net_benefit_equals_its_spread_over_redrawn_cohorts() -> None:
    cohort = drawn(400)
    risk, rng = _risk(cohort.covariates["age"]), np.random.default_rng(1)
    cuts = np.array([0.2])
    found = net_benefit(cohort, risk, horizon=12.0, thresholds=cuts)
    gap = difference(cohort, risk, np.ones(400), horizon=12.0, threshold=0.2)
    values, gaps = [], []
    for _ in range(400):
        rows = rng.integers(0, 400, 400)
        again = cohort.take(rows)
        values.append(net_benefit(again, risk[rows], horizon=12.0, thresholds=cuts).value[0])
        gaps.append(difference(again, risk[rows], np.ones(400), horizon=12.0, threshold=0.2).value)
    assert (found.high[0] - found.low[0]) / 2 / 1.959964 == pytest.approx(np.std(values), rel=0.1)
    assert (gap.high - gap.low) / 2 / 1.959964 == pytest.approx(np.std(gaps), rel=0.1)


def test_thresholds_end_where_only_a_few_patients_lie_above() -> None:
    risk = np.linspace(0, 0.6, 1000)
    cuts = thresholds_for(risk)
    assert cuts[0] == pytest.approx(0.01)
    assert (risk > cuts[-1]).mean() == pytest.approx(0.02, abs=0.002)
