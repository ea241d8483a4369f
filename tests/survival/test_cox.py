"""Cox models against R's survival 3.5-3 (R 4.2.2) and lifelines."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import PENALTIES, NoFitError, fit_cause, fit_terms, make_design, schoenfeld
from leukoscope.survival.model import Term

from .conftest import drawn


def _errors(model: object) -> np.ndarray:
    return np.sqrt(np.diag(model.covariance))  # type: ignore[attr-defined]


def test_larynx_coefficients_equal_r(larynx: Cohort) -> None:
    # coxph(Surv(years, died) ~ stage + age, larynx); with Breslow's ties the same table is 8.1 of Klein and
    # Moeschberger 2003: 0.1386, 0.6383, 1.6931, 0.0189
    model = fit_cause(make_design(larynx, stages=larynx.stages), cause=0).simple
    r = [0.14004015376, 0.64238172748, 1.70597960991, 0.01903110188]
    assert model.coefficients == pytest.approx(r, abs=1e-6)
    assert _errors(model) == pytest.approx([0.46248609806, 0.35611055758, 0.42191333072, 0.01425841809], abs=1e-6)


def test_leukemia_coefficients_equal_r_and_the_book(leukemia: Cohort) -> None:
    design = make_design(leukemia, stages=leukemia.stages)
    alone = fit_terms(design, design.terms[:1], cause=0)
    assert alone.coefficients == pytest.approx([1.5721251488], abs=1e-6)  # published as 1.57
    assert _errors(alone) == pytest.approx([0.4123967177], abs=1e-6)
    both = fit_terms(design, design.terms, cause=0)
    assert both.coefficients == pytest.approx([1.386075530, 1.690890388], abs=1e-6)


def test_chronic_leukemia_coefficients_equal_r(ebmt: Cohort) -> None:
    ebmt = replace(ebmt, covariates={"age": ebmt.covariates["age"]})
    model = fit_cause(make_design(ebmt, stages=ebmt.stages), cause=0).simple
    assert model.coefficients == pytest.approx([0.723844188194, 1.428088055111, -0.003452149567], abs=1e-6)


def test_late_entry_equals_r(ebmt: Cohort) -> None:
    entry = (ebmt.covariates["patid"] * 7) % 60
    late = replace(ebmt, entry=entry, covariates={"age": ebmt.covariates["age"]}).take(entry < ebmt.time)
    design = make_design(late, stages=late.stages)
    model = fit_terms(design, design.terms, cause=0)
    assert len(late) == 1892
    assert model.coefficients == pytest.approx([0.739490365824, 1.450015923314, -0.005572337837], abs=1e-6)


def test_an_effect_that_changes_in_time_equals_r(ebmt: Cohort) -> None:
    # s <- survSplit(Surv(srv, srvstat) ~ ., e, cut = 365, episode = "ep")
    # coxph(Surv(tstart, srv, srvstat) ~ score + I(age * (ep == 1)) + I(age * (ep == 2)), s)
    design = make_design(replace(ebmt, covariates={"age": ebmt.covariates["age"]}), stages=ebmt.stages)
    *stages, age = design.terms
    terms = (*stages, replace(age, period="early", split=365.0), replace(age, period="late", split=365.0))
    model = fit_terms(design, terms, cause=0)
    r = [0.723429137416, 1.428209694732, -0.003662343418, -0.002580128982]
    assert model.coefficients == pytest.approx(r, abs=1e-6)
    assert _errors(model) == pytest.approx([0.109716129051, 0.141939974728, 0.003476757921, 0.006789497061], abs=1e-6)


def test_schoenfeld_residuals_equal_lifelines_without_ties() -> None:
    cohort = drawn(200)
    cohort = replace(cohort, time=cohort.time + np.arange(200) * 1e-6)
    design = make_design(cohort, stages=cohort.stages)
    model = fit_terms(design, design.terms, cause=0)
    times, ours = schoenfeld(design, model, cause=0)
    frame = pd.DataFrame({term.name: term.values(design.columns) for term in design.terms})
    frame = frame.assign(time=cohort.time, event=cohort.state == 1)
    fitter = CoxPHFitter().fit(frame, "time", "event")
    theirs = fitter.compute_residuals(frame, "schoenfeld").sort_index().to_numpy()
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(times) == (cohort.state == 1).sum()


def test_crossing_hazards_of_stages_get_baselines_of_their_own() -> None:
    rng = np.random.default_rng(1)
    stage = np.repeat([0, 1], 300)
    time = np.where(stage == 0, 10 * rng.weibull(0.6, 600), 10 * rng.weibull(3.0, 600)) + 0.01
    cohort = replace(drawn(600), time=time, state=np.ones(600, dtype=np.int64), stage=stage, stages=("I", "II"))
    fit = fit_cause(make_design(cohort, stages=cohort.stages), cause=0)
    assert fit.model.strata == ("stage",)
    assert set(fit.model.baselines) == {"I", "II"}
    assert next(check for check in fit.checks if check.column == "stage").p_holm < 0.05


def test_an_effect_of_a_number_that_fades_is_split_in_time() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=800)
    early = rng.exponential(1 / np.exp(1.5 * x))
    time = np.where(early < 0.5, early, 0.5 + rng.exponential(1, 800))
    cohort = replace(drawn(800), time=time, state=np.ones(800, dtype=np.int64), covariates={"x": x})
    fit = fit_cause(make_design(cohort, stages=cohort.stages), cause=0)
    first, second = (next(i for i, t in enumerate(fit.model.terms) if t.name == f"x ({p})") for p in ("early", "late"))
    assert fit.model.coefficients[first] > fit.model.coefficients[second] + 0.5


def test_constant_and_collinear_covariates_are_left_out_and_said() -> None:
    cohort = drawn(100)
    age = cohort.covariates["age"]
    cohort = replace(cohort, covariates={"age": age, "same": np.full(100, 7.0), "double": 2 * age, "sum": age + 3})
    design = make_design(cohort, stages=cohort.stages)
    assert [term.name for term in design.terms] == ["stage = II", "stage = III", "age"]
    assert ["'same'" in design.notes[0], "'double'" in design.notes[1], "'sum'" in design.notes[2]] == [True] * 3


def test_a_covariate_that_decides_the_outcome_is_refused_not_fitted_to_infinity() -> None:
    time = np.concatenate([np.arange(1.0, 31.0), np.arange(101.0, 131.0)])
    cohort = replace(
        drawn(60), time=time, state=np.ones(60, dtype=np.int64), covariates={"early": (time < 50).astype(float)}
    )
    design = make_design(cohort, stages=cohort.stages)
    with pytest.raises(NoFitError, match="separates|not determined"):
        fit_terms(design, [Term("early", "early")], cause=0)


def test_patients_of_a_level_without_events_are_counted_with_the_first_level_that_has_some() -> None:
    cohort = drawn(200)
    quiet = replace(cohort, state=np.where(cohort.stage == 0, 0, cohort.state))
    notes = make_design(quiet, stages=quiet.stages).notes
    assert [note for note in notes if "'stage' = I:" in note and "merges these patients with II;" in note]
    assert make_design(cohort, stages=cohort.stages).notes == ()


def test_penalties_grow_from_none() -> None:
    """A negative penalty would reward large coefficients; cross-validation would only hide that it was tried."""
    assert PENALTIES[0] == 0
    assert list(PENALTIES) == sorted(set(PENALTIES))
