"""Every statistic against R on 21 tables (tests/golden/survival_golden.json, made by make_survival_golden.py).

The tables come from lifelines, from the shared data and from chance: tied, heavily tied, with times of zero, with
competing events, with late entry. Where R and its packages are installed, some are asked again.
"""

import json
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import fit_fine_gray, fit_terms, late_gray, make_design, proportionality
from leukoscope.survival.curves import (
    Z95,
    aalen_johansen,
    gray,
    incidence_at,
    kaplan_meier,
    logrank,
    logrank_trend,
    quantile,
    restricted_mean,
    risk_table,
    time_lost,
)
from leukoscope.survival.fitting import explain_spline, fit_family, needed
from leukoscope.survival.model import SurvivalModel, patient_curves, term_matrix
from leukoscope.survival.scores import (
    Pairs,
    brier_parts,
    calibrate,
    censoring_curve,
    concordance,
    concordance_pairs,
    net_benefit,
    weighted_pairs,
)
from tests.golden import make_survival_golden as maker
from tests.golden import survival_tables

GOLDEN: dict[str, Any] = json.loads(maker.GOLDEN.read_text())
SAID: dict[str, Any] = GOLDEN["tables"]
_PARTS = ("logrank", "cox", "competing", "calibrated", "smooth_curves")
WITH = {part: [name for name, said in SAID.items() if part in said] for part in _PARTS}
_ZPH = {"zph_km": "km", "zph_rank": "rank", "zph_identity": "identity"}


@cache
def _tables() -> dict[str, survival_tables.Columns]:
    return maker.tables()


def cohort_named(name: str) -> Cohort:
    """Return a golden table as a cohort."""
    if name not in _tables():
        pytest.skip(f"the table {name} is part of the shared data, which is not at hand")
    columns = _tables()[name]
    stages = tuple(str(number) for number in range(int(columns["group"].max()) + 1))
    covariates = {key: columns[key] for key in ("x", "z") if key in columns}
    events = ("relapse", "death") if columns["state"].max() > 1 else ("death",)
    return Cohort(
        time=columns["time"],
        state=columns["state"],
        stage=columns["group"],
        stages=stages,
        ordered=True,
        unit="days",
        events=events,
        entry=columns.get("entry"),
        covariates=covariates,
    )


def _risk(name: str) -> np.ndarray:
    return _tables()[name]["risk"]


def close(found: object, said: object, *, by: float = 1e-9) -> None:
    """Compare numbers with R's, whose `null` is no number: an end that is not reached, or limits that do not exist."""
    theirs = np.array(said, dtype=float)
    ours = np.array(found, dtype=float)
    assert np.where(np.isfinite(ours), ours, np.nan) == pytest.approx(theirs, rel=by, abs=by, nan_ok=True)


def test_the_golden_tables_are_many() -> None:
    assert len(SAID) >= 15
    assert len(GOLDEN["random"]) == survival_tables.RANDOM == 300


def _counts(cohort: Cohort) -> Any:
    return risk_table(cohort.time, cohort.state, group=cohort.stage, groups=len(cohort.stages), start=cohort.entry)


@pytest.mark.parametrize("name", WITH["logrank"])
def test_logrank_peto_and_trend_equal_survdiff(name: str) -> None:
    table, said = _counts(cohort_named(name)), SAID[name]["logrank"]
    for rho in (0, 1):
        found = logrank(table, rho=rho)
        close(found.statistic, said[f"rho{rho}"]["chisq"])
        assert found.df == said[f"rho{rho}"]["df"]
        close(logrank_trend(table, rho=rho).statistic, said[f"rho{rho}"]["trend"])


def test_300_random_tables_of_up_to_20000_patients_equal_survdiff() -> None:
    for columns, said in zip(survival_tables.for_logrank(), GOLDEN["random"], strict=True):
        table = risk_table(
            columns["time"], columns["state"], group=columns["group"], groups=int(columns["group"].max()) + 1
        )
        tests = [test(table, rho=rho).statistic for rho in (0, 1) for test in (logrank, logrank_trend)]
        close(tests, said, by=1e-8)


@pytest.mark.parametrize("name", SAID)
def test_quantiles_and_their_limits_equal_r(name: str) -> None:
    cohort = cohort_named(name)
    for stage, said in enumerate(SAID[name]["curves"]):
        curve = _curve(cohort.take(cohort.stage == stage))
        found = [quantile(curve, level) for level in (0.75, 0.5, 0.25)]
        close([one.value for one in found], said["quantile"])
        # with late entry a band can rise again; then quantile of R takes a later crossing, print of R and we the first
        if (np.diff(curve.low) <= 0).all():
            close([one.low for one in found], said["lower"])
        if (np.diff(curve.high[np.isfinite(curve.high)]) <= 0).all():
            close([one.high for one in found], said["upper"])


def _curve(cohort: Cohort) -> Any:
    return kaplan_meier(risk_table(cohort.time, cohort.state, start=cohort.entry), last=float(cohort.time.max()))


@pytest.mark.parametrize("name", SAID)
def test_survival_its_band_and_restricted_means_equal_r(name: str) -> None:
    cohort, horizons = cohort_named(name), SAID[name]["horizons"]
    for stage, said in enumerate(SAID[name]["curves"]):
        part = cohort.take(cohort.stage == stage)
        curve = _curve(part)
        read = [curve.at(min(when, curve.last)) for when in horizons]
        close([values[0] for values in read], said["surv"])
        inside = [place for place, values in enumerate(read) if values[0] < 1]  # before any event R gives no limits
        close([read[place][1] for place in inside], [said["surv_lower"][place] for place in inside])
        close([read[place][2] for place in inside], [said["surv_upper"][place] for place in inside])
        close(restricted_mean(curve, until=horizons[1]), [said["rmean"], said["rmean_se"]])


def _model(name: str, *, strata: bool = False) -> Any:
    cohort = cohort_named(name)
    design = make_design(cohort, stages=cohort.stages)
    terms = [term for term in design.terms if not (strata and term.column == "stage")]
    return design, fit_terms(design, terms, cause=0, strata=("stage",) if strata else ())


@pytest.mark.parametrize("name", WITH["cox"])
def test_coefficients_equal_coxph(name: str) -> None:
    _, model = _model(name)
    close(model.coefficients, SAID[name]["cox"]["coef"], by=1e-7)
    close(np.sqrt(np.diag(model.covariance)), SAID[name]["cox"]["se"], by=1e-7)


@pytest.mark.parametrize("name", WITH["cox"])
def test_predicted_survival_with_efrons_ties_equals_survfit(name: str) -> None:
    design, model = _model(name)
    cohort, said = design.cohort, SAID[name]["cox"]
    patient = {"stage": np.array(["1"]), "x": np.array([cohort.covariates["x"].mean()]), "z": np.array([1.0])}
    whole = SurvivalModel("days", cohort.events[:1], "stage", cohort.stages, {}, causes=(model,))
    curve = patient_curves(whole, patient, points=10**6)["survival"]
    read = [curve.at(when) for when in SAID[name]["horizons"]]
    close([values[0] for values in read], said["surv"])
    inside = [place for place, values in enumerate(read) if values[0] < 1]
    close([read[place][1] for place in inside], [said["surv_lower"][place] for place in inside], by=1e-7)
    close([read[place][2] for place in inside], [said["surv_upper"][place] for place in inside], by=1e-7)


@pytest.mark.parametrize("name", WITH["cox"])
@pytest.mark.parametrize("how", _ZPH)
def test_proportional_hazards_equal_cox_zph(name: str, how: str) -> None:
    design, model = _model(name)
    said = SAID[name]["cox"][how]
    tests = [
        proportionality(design, model, cause=0, columns=columns, how=_ZPH[how])
        for columns in (("stage",), ("x",), ("z",), ())
    ]
    close([test.statistic for test in tests], said["chisq"], by=1e-6)
    close([test.df for test in tests], said["df"])


@pytest.mark.parametrize("name", WITH["cox"])
def test_proportional_hazards_within_strata_equal_cox_zph(name: str) -> None:
    design, model = _model(name, strata=True)
    tests = [proportionality(design, model, cause=0, columns=columns) for columns in (("x",), ("z",), ())]
    close([test.statistic for test in tests], SAID[name]["cox"]["zph_strata"]["chisq"], by=1e-6)


@pytest.mark.parametrize("name", WITH["cox"])
def test_harrells_and_unos_c_index_equal_concordance(name: str) -> None:
    design, model = _model(name)
    # coxph of the first event takes the others for censored
    cohort = replace(design.cohort, state=np.where(design.cohort.state == 1, 1, 0), events=("death",))
    risk = (term_matrix(model.terms, design.columns, patients=len(cohort)) @ model.coefficients).round(10)
    said = SAID[name]["cox"]
    close(_share(concordance_pairs(cohort), risk), said["harrell"], by=1e-6)
    if "uno" in said:
        pairs = weighted_pairs(cohort, censoring=censoring_curve(cohort))
        close(_share(pairs, risk), said["uno"], by=1e-6)


def _share(pairs: Pairs, risk: np.ndarray) -> float:
    wins, total = concordance(pairs, risk, weights=np.ones((len(risk), 1)))
    return float(wins[0] / total[0])


@pytest.mark.parametrize("name", [name for name in WITH["competing"] if "cindex" in SAID[name]["competing"]])
def test_the_c_index_with_competing_events_equals_pec(name: str) -> None:
    cohort, said = cohort_named(name), SAID[name]
    pairs = weighted_pairs(cohort, censoring=censoring_curve(cohort), until=said["horizons"][1])
    close(_share(pairs, _risk(name)), said["competing"]["cindex"], by=1e-6)


@pytest.mark.parametrize("name", WITH["competing"])
def test_incidence_grays_test_and_mean_time_lost_equal_r(name: str) -> None:
    cohort, said, horizons = cohort_named(name), SAID[name]["competing"], SAID[name]["horizons"]
    table = risk_table(
        cohort.time, cohort.state, group=cohort.stage, groups=len(cohort.stages), start=cohort.entry, causes=2
    )
    if "gray" in said:
        close([gray(table, cause=cause).statistic for cause in (0, 1)], said["gray"], by=1e-8)
    for stage, lost in enumerate(said["lost"]):
        part = cohort.take(cohort.stage == stage)
        for cause in (1, 2):
            found = time_lost(part.time, part.state, until=horizons[1], start=part.entry, cause=cause)
            close([found.value, found.error], [lost["rmean"][cause], lost["se"][cause]])
        if "incidence" in said:
            curves = aalen_johansen(table.group(stage), last=float(part.time.max()))
            rows = [said["incidence"][cause * len(said["lost"]) + stage] for cause in (0, 1)]
            for curve, row in zip(curves, rows, strict=True):
                known = [place for place, when in enumerate(horizons) if when <= part.time.max()]
                close([curve.at(horizons[place])[0] for place in known], [row[place] for place in known])


@pytest.mark.parametrize("name", WITH["competing"])
def test_fine_gray_equals_finegray_with_coxph_when_patients_enter_late(name: str) -> None:
    cohort, said = cohort_named(name), SAID[name]["competing"]
    start = np.zeros(len(cohort)) if cohort.entry is None else cohort.entry
    late = replace(cohort, entry=start)
    design = make_design(late, stages=late.stages)
    fit = fit_fine_gray(design, design.terms)
    close(fit.coefficients, said["finegray"]["coef"], by=1e-8)
    if cohort.entry is not None:
        close(np.sqrt(np.diag(fit.covariance)), said["finegray"]["robust_se"], by=1e-8)
    test = late_gray(cohort.time, cohort.state, cohort.stage, groups=len(cohort.stages), start=start)
    close(test.statistic, said["finegray"]["score"], by=1e-8)


@pytest.mark.parametrize("name", WITH["calibrated"])
def test_calibration_brier_score_and_net_benefit_equal_r(name: str) -> None:
    cohort, risk, said, horizon = cohort_named(name), _risk(name), SAID[name]["calibrated"], SAID[name]["horizons"][1]
    seen = incidence_at(cohort.time, cohort.state, horizon=horizon)
    close(seen.pseudo[:20], said["pseudo"])
    found = calibrate(seen, risk)
    close(found.intercept.value, said["large"]["coef"], by=1e-7)
    close((found.intercept.high - found.intercept.value) / Z95, said["large"]["se"], by=1e-7)
    close(found.slope.value - 1, said["slope"]["coef"][1], by=1e-7)
    close((found.slope.high - found.slope.value) / Z95, said["slope"]["se"][1], by=1e-7)
    if said["smooth"]:
        close(np.interp([0.3, 0.5, 0.7], found.risk, found.smooth), said["smooth"], by=2e-3)  # read between 60 points
    censoring = censoring_curve(cohort)
    brier, nothing = (
        brier_parts(cohort, values[:, None], times=np.array([horizon]), censoring=censoring).mean()
        for values in (risk, np.full(len(cohort), seen.value))
    )
    close(brier, said["brier"])
    close(1 - brier / nothing, said["ipa"], by=1e-8)
    cuts = np.array([0.2, 0.35, 0.5])
    close(net_benefit(cohort, risk, horizon=horizon, thresholds=cuts).value, said["net_benefit"])


@pytest.mark.parametrize("name", WITH["smooth_curves"])
def test_smooth_curves_past_the_follow_up_equal_survreg(name: str) -> None:
    design, _ = _model(name)
    centres = np.array([term.centre for term in design.terms])
    for family, said in zip(
        ("Weibull", "log-normal", "log-logistic"), SAID[name]["smooth_curves"].values(), strict=True
    ):
        fit = fit_family(design, family)
        assert fit is not None
        *location, shape = fit["parameters"]
        location[0] -= float(centres @ location[1:])  # ours are centred
        close(location, said["coef"], by=1e-6)
        close(np.exp(-fit["power"] * shape), said["scale"], by=1e-7)
        close(fit["aic"], 2 * len(fit["parameters"]) - 2 * said["loglik"], by=1e-9)
        close(np.sqrt(np.diag(fit["covariance"]))[1:], said["se"][1:], by=1e-6)


def test_riley_s_published_example_needs_5143_patients() -> None:
    # Riley et al. 2020, BMJ 368:m441, and pmsampsize(type = "s", csrsquared = .051, parameters = 30, rate = .065, ...)
    found = needed(r2=0.051, coefficients=30, rate=0.065, horizon=2, follow_up=2.07, patients=5143)
    assert (found.shrink, found.optimism, found.patients) == (5143, 1039, 5143)
    assert found.per_coefficient == pytest.approx(23.07, abs=0.01)
    assert found.shrinkage == pytest.approx(0.9, abs=1e-4)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed, so only its kept answers are compared")
def test_r_itself_still_says_what_is_kept(tmp_path: Path) -> None:
    named = {name: _tables()[name] for name in ("larynx", "zeros", "competing-tied", "competing-late")}
    try:
        maker.ask_r(tmp_path, tmp_path / "out.json", named=named, random=5)
    except subprocess.CalledProcessError as failed:
        if b"there is no package called" in failed.stderr:
            pytest.skip(f"R lacks a package: {failed.stderr.decode(errors='replace').strip()[-200:]}")
        raise
    said = json.loads((tmp_path / "out.json").read_text())
    for name in named:
        _same(said["tables"][name], SAID[name])
    _same(said["random"], GOLDEN["random"][:5])


def _same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            _same(one[key], other[key])
    elif isinstance(one, list) and any(isinstance(part, list | dict) for part in one):
        for left, right in zip(one, other, strict=True):
            _same(left, right)
    else:
        close(one, other, by=1e-6)


@pytest.mark.parametrize("name", [name for name in WITH["cox"] if "rcs" in SAID[name]["cox"]])
def test_restricted_cubic_splines_equal_rms(name: str) -> None:
    cohort, said = cohort_named(name), SAID[name]["cox"]["rcs"]
    bent = {"spline(x)": cohort.covariates["x"], "z": cohort.covariates["z"]}
    design = make_design(replace(cohort, covariates=bent), stages=cohort.stages)
    model = fit_terms(design, design.terms, cause=0)
    knots = next(term.knots for term in model.terms if term.knots)
    close(knots, said["knots"])
    close(model.coefficients, said["coef"], by=1e-5)  # cph stops its search earlier
    close(np.sqrt(np.diag(model.covariance)), said["se"], by=1e-5)
    found = explain_spline(design, model, "spline(x)")
    close(found["nonlinear"]["statistic"], said["nonlinear"], by=1e-4)
    close(found["all"]["statistic"], said["x"], by=1e-4)
