"""What holds for every cohort, whoever is in it."""

from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import columns_of
from leukoscope.survival.curves import Curve, RiskTable, gray, logrank, logrank_trend, risk_table
from leukoscope.survival.fitting import curves_of, fit_model
from leukoscope.survival.model import patient_curves
from leukoscope.survival.scores import judge
from leukoscope.survival.study import choose_horizons
from leukoscope.survival.table import StudySettings, Unit

from .conftest import drawn


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    """Draw cohorts of 2 to 60 patients with ties, three stages, two kinds of event, late entry or not."""
    n = draw(st.integers(2, 60))
    time = np.array(draw(st.lists(st.integers(1, 25), min_size=n, max_size=n)), dtype=float)
    state = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    stage = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    state[0] = 1  # a cohort without any event is refused when it is read
    late = draw(st.booleans())
    entry = np.array(draw(st.lists(st.floats(0, 0.9), min_size=n, max_size=n))) * time if late else None
    return Cohort(
        time=time,
        state=state,
        stage=stage,
        stages=("I", "II", "III"),
        ordered=True,
        unit="months",
        events=("relapse", "death"),
        entry=entry,
    )


def _table(cohort: Cohort) -> RiskTable:
    return risk_table(cohort.time, cohort.state, group=cohort.stage, groups=3, start=cohort.entry, causes=2)


@given(cohorts())
def test_survival_never_rises_and_stays_within_zero_and_one(cohort: Cohort) -> None:
    curve = curves_of(cohort)["survival"]
    assert (np.diff(curve.value, prepend=1.0) <= 0).all()
    assert ((curve.value >= 0) & (curve.value <= 1)).all()
    _limits_hold(curve)


def _limits_hold(curve: Curve) -> None:
    """Limits lie within 0 and 1 and around the value; where nobody is left (survival 0) there are none."""
    gone = curve.value == 1 - curve.start
    assert np.isnan(curve.low[gone]).all()
    assert np.isnan(curve.high[gone]).all()
    low, value, high = (side[~gone] for side in (curve.low, curve.value, curve.high))
    assert ((low >= 0) & (low <= value + 1e-12) & (value <= high + 1e-12) & (high <= 1)).all()


@given(cohorts())
def test_incidence_never_falls_and_adds_to_one_with_survival(cohort: Cohort) -> None:
    curves = curves_of(cohort)
    together = curves["survival"].value + curves["relapse"].value + curves["death"].value
    assert together == pytest.approx(np.ones(len(together)), abs=1e-12)
    for event in cohort.events:
        assert (np.diff(curves[event].value, prepend=0.0) >= 0).all()
        _limits_hold(curves[event])


@given(cohorts(), st.randoms(use_true_random=False), st.sampled_from([7.0, 30.4375, 365.25, 0.1]))
def test_row_order_and_time_unit_do_not_matter(cohort: Cohort, random: Random, factor: float) -> None:
    order = np.array(random.sample(range(len(cohort)), len(cohort)))
    scaled = replace(cohort, time=cohort.time * factor, entry=None if cohort.entry is None else cohort.entry * factor)
    one, other = curves_of(cohort), curves_of(scaled.take(order))
    for name in one:
        assert other[name].value == pytest.approx(one[name].value, abs=1e-12)
        assert other[name].times == pytest.approx(one[name].times * factor, rel=1e-12)
    tests = (logrank, logrank_trend, *([] if cohort.entry is not None else [partial(gray, cause=0)]))
    for test in tests:
        expected = test(_table(cohort)).statistic
        assert test(_table(scaled.take(order))).statistic == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10_000), st.sampled_from([7.0, 30.4375, 365.25]))
@hypothesis_settings(max_examples=8)
def test_a_fitted_model_knows_neither_row_order_nor_unit(seed: int, factor: float) -> None:
    cohort = drawn(90, seed=seed, competing=True)
    order = np.random.default_rng(seed).permutation(90)
    times = np.array([3.0, 12.0, 30.0])
    other = replace(cohort, time=cohort.time * factor).take(order)
    one, two = fit_model(cohort).model, fit_model(other).model
    expected = one.incidence(columns_of(cohort), times)
    # 1e-9 above each time, so that 3.0 x 365.25 falls on the same side of the step as 3.0
    found = two.incidence(columns_of(other), times * factor * (1 + 1e-9))
    assert found == pytest.approx(expected[:, order], abs=1e-5, nan_ok=True)


@given(st.integers(0, 10_000), st.sampled_from(["weeks", "months", "years"]))
@hypothesis_settings(max_examples=4)
def test_the_c_index_knows_neither_the_unit_nor_the_horizons(seed: int, unit: Unit) -> None:
    """The same numbers called weeks or years choose other horizons; who outlives whom stays the same."""
    cohort = drawn(90, seed=seed, competing=True)
    factor = {"weeks": 7.0, "months": 1.0, "years": 1 / 12}[unit]
    asked = StudySettings(time="t", event="e", stage="s")
    indices = []
    for other in (cohort, replace(cohort, unit=unit), replace(cohort, unit=unit, time=cohort.time * factor)):
        judged = judge(
            other, horizons=choose_horizons(other, asked), folds=3, repeats=1, rng=np.random.default_rng(seed)
        )
        indices.append([figures["c_index"]["value"] for figures in judged["estimators"].values()])
    assert indices[1] == pytest.approx(indices[0], abs=1e-9)
    assert indices[2] == pytest.approx(indices[0], abs=1e-9)


@given(st.integers(0, 10_000), st.floats(30, 90))
@hypothesis_settings(max_examples=10)
def test_a_patients_curves_add_to_one_and_stay_within_their_bands(seed: int, age: float) -> None:
    model = fit_model(drawn(80, seed=seed, competing=True)).model
    assume(model.causes)  # a cohort whose coefficients are not determined is answered by the curve of the stage
    curves = patient_curves(model, {"stage": np.array(["II"]), "age": np.array([age])}, points=999)
    together = curves["survival"].value + curves["relapse"].value + curves["death"].value
    assert together == pytest.approx(np.ones(len(together)), abs=1e-12)
    assert (np.diff(curves["survival"].value, prepend=1.0) <= 1e-12).all()
    for curve in curves.values():
        assert ((curve.low >= 0) & (curve.low <= curve.value + 1e-12)).all()
        assert ((curve.high <= 1) & (curve.high >= curve.value - 1e-12)).all()


@given(cohorts())
def test_the_tests_give_a_p_between_zero_and_one(cohort: Cohort) -> None:
    found = logrank(_table(cohort))
    assert found.statistic >= -1e-9
    assert 0 <= found.p <= 1
