"""The model file: its predictions against lifelines and R, its intervals against R's survfit and simulation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, LogLogisticAFTFitter, LogNormalAFTFitter, WeibullAFTFitter
from scipy.stats import norm

from leukoscope.errors import DataError
from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import columns_of, fit_terms, make_design
from leukoscope.survival.fitting import _for_risk, fit_aft, fit_model, nomogram
from leukoscope.survival.model import (
    CauseModel,
    SurvivalModel,
    Term,
    extrapolated_survival,
    patient_curves,
    read_model,
    term_matrix,
    write_model,
)
from leukoscope.survival.predict import answer
from leukoscope.survival.table import Horizon

from .conftest import drawn


def _model(cohort: Cohort, causes: tuple[CauseModel, ...]) -> SurvivalModel:
    return SurvivalModel(
        unit=cohort.unit,
        events=cohort.events,
        stage_column=cohort.stage_column,
        stages=cohort.stages,
        stage_curves={},
        causes=causes,
    )


def _patient(**values: object) -> dict[str, np.ndarray]:
    return {name: np.array([value]) for name, value in values.items()}


def test_predictions_from_json_equal_lifelines_without_ties(larynx: Cohort, tmp_path: Path) -> None:
    # lifelines' baseline is Breslow's even where its coefficients are Efron's; without ties they are one
    larynx = replace(larynx, time=larynx.time + np.arange(len(larynx)) * 1e-6)
    design = make_design(larynx, stages=larynx.stages)
    frame = pd.DataFrame({t.name: t.values(design.columns) for t in design.terms})
    fitter = CoxPHFitter().fit(frame.assign(time=larynx.time, event=larynx.state), "time", "event")
    plain = fit_terms(design, design.terms, cause=0)
    write_model(tmp_path / "model.json", replace(fit_model(larynx).model, causes=(plain,)))
    times = np.sort(larynx.time[larynx.state == 1])[[1, 10, 20, 30, 45]]  # lifelines draws lines between
    ours = 1 - read_model(tmp_path).incidence(columns_of(larynx), times)[0]
    theirs = fitter.predict_survival_function(frame, times=times).to_numpy().T
    assert ours == pytest.approx(theirs, abs=1e-6)  # lifelines stops its search earlier


def test_intervals_of_one_patient_equal_r(ebmt: Cohort) -> None:
    # f <- coxph(Surv(srv, srvstat) ~ score + age, e)
    # survfit(f, data.frame(score = "High risk", age = 50), conf.type = "log-log")
    ebmt = replace(ebmt, covariates={"age": ebmt.covariates["age"]})
    design = make_design(ebmt, stages=ebmt.stages)
    model = _model(ebmt, (fit_terms(design, design.terms, cause=0),))
    curve = patient_curves(model, _patient(score="High risk", age=50.0), points=9999)["survival"]
    assert curve.at(365) == pytest.approx((0.404406573771, 0.333628394422, 0.473946286026), abs=1e-8)
    assert curve.at(2000) == pytest.approx((0.251343568916, 0.185957669106, 0.321872991883), abs=1e-8)


def test_intervals_with_strata_equal_r(ebmt: Cohort) -> None:
    # the same with coxph(Surv(srv, srvstat) ~ strata(score) + age, e)
    ebmt = replace(ebmt, covariates={"age": ebmt.covariates["age"]})
    design = make_design(ebmt, stages=ebmt.stages)
    model = _model(ebmt, (fit_terms(design, design.terms[-1:], cause=0, strata=("score",)),))
    curve = patient_curves(model, _patient(score="High risk", age=50.0), points=9999)["survival"]
    assert curve.at(1000) == pytest.approx((0.331847434997, 0.255606912640, 0.409836695501), abs=1e-8)


def _transplants(bmt: Cohort) -> SurvivalModel:
    apart = replace(bmt, time=bmt.time + np.arange(1, 178) * 1e-5)
    design = make_design(apart, stages=apart.stages)
    terms = [Term(phase, "Phase", level=phase) for phase in ("CR2", "CR3", "Relapse")]
    terms += [Term("Age", "Age"), Term("AML", "D", level="AML")]
    return _model(apart, tuple(fit_terms(design, terms, cause=cause) for cause in (0, 1)))


def test_cause_specific_models_and_incidence_equal_r(bmt: Cohort) -> None:
    # riskRegression 2022.11.28: CSC(Hist(ftime + i * 1e-5, Status) ~ Phase + Age + D)
    # predict(..., product.limit = FALSE)
    model = _transplants(bmt)
    r = [0.171112443809, 0.374413726160, 1.489630245159, -0.003218027878, -0.596251904748]
    assert model.causes[0].coefficients == pytest.approx(r, abs=1e-6)
    risk = model.incidence(_patient(Phase="CR2", Age=34.0, D="AML"), np.array([6.0, 12, 24]))[:, 0]
    # R adds up S(t-) dH, we S(t-) - S(t) shared among the causes, so that everything adds to one: 0.0003 apart
    assert risk[0] == pytest.approx([0.08137959322, 0.1354157009, 0.1576651278], abs=5e-4)
    assert risk[1] == pytest.approx([0.2300169563, 0.39649498, 0.4217613623], abs=2.5e-3)


def test_the_delta_method_agrees_with_simulation(bmt: Cohort) -> None:
    """Draw coefficients and baseline increments from their estimated distribution; compare standard errors."""
    model = _transplants(bmt)
    patient = _patient(Phase="CR2", Age=34.0, D="AML")
    curve = patient_curves(model, patient, points=9999)["relapse"]
    rng, time = np.random.default_rng(0), np.array([12.0])
    disturbed = (replace(model, causes=tuple(_disturbed(cause, rng) for cause in model.causes)) for _ in range(1500))
    risks = [other.incidence(patient, time)[0, 0, 0] for other in disturbed]
    place = np.searchsorted(curve.times, 12, side="right") - 1
    assert np.sqrt(curve.variance[place]) == pytest.approx(np.std(risks), rel=0.1)


def _disturbed(cause: CauseModel, rng: np.random.Generator) -> CauseModel:
    """Move coefficients by their covariance, and each increment by its own noise and as the coefficients bid."""
    shift = rng.multivariate_normal(np.zeros(len(cause.terms)), cause.covariance)
    baseline = cause.baselines["all"]
    hazard = baseline.hazard * np.exp(-baseline.means @ shift)
    # gamma noise keeps increments positive, with the mean and variance that are estimated
    shape = baseline.hazard**2 / baseline.variance
    noisy = hazard * rng.gamma(shape) / shape
    return replace(cause, coefficients=cause.coefficients + shift, baselines={"all": replace(baseline, hazard=noisy)})


def test_accelerated_failure_time_equals_lifelines(larynx: Cohort) -> None:
    design = make_design(larynx, stages=larynx.stages)
    fit = fit_aft(design)
    assert fit is not None
    fitters = {"Weibull": WeibullAFTFitter, "log-normal": LogNormalAFTFitter, "log-logistic": LogLogisticAFTFitter}
    frame = pd.DataFrame({f"x{place}": t.values(design.columns) for place, t in enumerate(design.terms)})
    fitter = fitters[fit["family"]]().fit(frame.assign(time=larynx.time, event=larynx.state), "time", "event")
    theirs = fitter.predict_survival_function(frame.iloc[[80]], times=[3.0, 15.0]).to_numpy().ravel()
    patient = {name: values[[80]] for name, values in design.columns.items()}
    ours = [extrapolated_survival(fit, patient, when) for when in (3.0, 15.0)]
    assert [interval.value for interval in ours] == pytest.approx(theirs, abs=1e-5)  # lifelines stops earlier
    assert all(interval.low < interval.value < interval.high for interval in ours)


def test_accelerated_failure_time_coefficients_equal_survreg(larynx: Cohort) -> None:
    # survreg(Surv(years, died) ~ stage + age, larynx, dist = "lognormal"); our age is centred
    fit = fit_aft(make_design(larynx, stages=larynx.stages))
    assert fit is not None
    assert fit["family"] == "log-normal"
    r = [3.3831825177 - 0.0184995030 * larynx.covariates["age"].mean(), -0.1989383309, -0.8995098165, -1.8573602939]
    assert fit["parameters"][:4] == pytest.approx(r, abs=1e-8)
    assert np.exp(fit["parameters"][-1]) == pytest.approx(1.2637876948, abs=1e-8)


def test_the_file_is_plain_json_and_comes_back_whole(tmp_path: Path) -> None:
    cohort = drawn(200, competing=True)
    model = fit_model(cohort).model
    write_model(tmp_path / "model.json", model)
    json.loads((tmp_path / "model.json").read_text())
    again = read_model(tmp_path)
    times = np.array([3.0, 12.0, 30.0])
    assert np.array_equal(model.incidence(columns_of(cohort), times), again.incidence(columns_of(cohort), times))
    assert again.stages == model.stages


def test_a_damaged_or_newer_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="not a whole survival model"):
        read_model(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="newer"):
        read_model(tmp_path)


def test_a_design_without_terms_has_no_columns() -> None:
    assert term_matrix((), {}, patients=4).shape == (4, 0)


def test_the_points_of_the_nomogram_give_the_chance_of_the_model(larynx: Cohort) -> None:
    """Points added up by hand and read at the chances are the model's own answer."""
    bent = replace(larynx, covariates={"spline(age)": larynx.covariates["age"]})
    design = make_design(bent, stages=bent.stages)
    model = fit_terms(design, design.terms, cause=0)
    sheet = nomogram(design, model, horizons=[Horizon(3.0, "three years")])
    assert sheet is not None
    stage, age = sheet.columns
    assert max(*stage.points, *age.points) == pytest.approx(100)
    (chances,) = sheet.chances
    marks = [int(label) for label in chances.labels]
    assert marks == [mark for mark in (1, 5, *range(10, 100, 10), 95, 99) if marks[0] <= mark <= marks[-1]]
    whole = _model(bent, (model,))
    for name, points in zip(stage.labels, stage.points, strict=True):
        for value, more in zip(age.labels, age.points, strict=True):
            patient = {"stage": np.array([name]), "spline(age)": np.array([float(value)])}
            risk = whole.incidence(patient, np.array([3.0]))[0, 0, 0]
            link = np.log(-np.log1p(-np.array([float(chance) / 100 for chance in chances.labels])))
            line = np.polyfit(link, chances.points, 1)  # the scale is straight in log(-log)
            assert np.polyval(line, np.log(-np.log1p(-risk))) == pytest.approx(points + more, abs=1e-6)


def test_the_patients_for_the_mean_risk_are_the_fewest_that_know_it_to_within_five_hundredths() -> None:
    """Riley et al., Calculating the sample size required for developing a clinical prediction model, BMJ 2020."""

    def error(patients: int) -> float:
        rates = 0.2 + np.array([0, -1, 1]) * norm.ppf(0.975) * np.sqrt(0.2 / (patients * 3.0))
        return float(np.abs(np.diff(1 - np.exp(-2 * rates[[1, 0, 2]]))).max())

    found = _for_risk(rate=0.2, horizon=2.0, follow_up=3.0)
    assert error(found) <= 0.05 < error(found - 1)


def test_a_model_that_no_single_sheet_can_say_has_no_nomogram(larynx: Cohort) -> None:
    design = make_design(larynx, stages=larynx.stages)
    strata = fit_terms(design, design.terms[-1:], cause=0, strata=("stage",))
    assert nomogram(design, strata, horizons=[Horizon(3.0, "three years")]) is None


def test_a_spline_survives_the_model_file_and_answers_in_the_words_of_its_column(tmp_path: Path) -> None:
    cohort = drawn(300)
    bent = replace(cohort, covariates={"spline(age)": cohort.covariates["age"]})
    model = replace(fit_model(bent).model, horizons=((24.0, "two years"),))
    write_model(tmp_path / "model.json", model)
    again = read_model(tmp_path)
    times = np.array([3.0, 12.0, 30.0])
    assert np.array_equal(model.incidence(columns_of(bent), times), again.incidence(columns_of(bent), times))
    said = answer(again, "II", {"age": 61})
    assert 0 < said["horizons"][0]["survival"]["value"] < 1
