"""Curves against R's survival 3.5-3 (R 4.2.2), cmprsk 2.2-11 and lifelines."""

import numpy as np
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.curves import (
    aalen_johansen,
    kaplan_meier,
    median,
    median_follow_up,
    read_at,
    restricted_mean,
    risk_table,
    thinned,
)
from leukoscope.survival.fitting import curves_of


def _stage(cohort: Cohort, name: str) -> Cohort:
    return cohort.take(cohort.stage == cohort.stages.index(name))


# summary(survfit(Surv(years, died) ~ stage, larynx, conf.type = "log-log"), times = 4)
R_LARYNX_AT_4_YEARS = {
    "I": (0.7099965169, 0.515446973729, 0.8377780367),
    "II": (0.6654783125, 0.364372462558, 0.8485057952),
    "III": (0.5185185185, 0.319095732190, 0.6854803864),
    "IV": (0.1025641026, 0.006663145036, 0.3552694913),
}


@pytest.mark.parametrize("stage", R_LARYNX_AT_4_YEARS)
def test_kaplan_meier_and_its_log_log_band_equal_r(larynx: Cohort, stage: str) -> None:
    curve = curves_of(_stage(larynx, stage))["survival"]
    assert curve.at(4) == pytest.approx(R_LARYNX_AT_4_YEARS[stage], abs=1e-9)


def test_kaplan_meier_equals_lifelines_everywhere(ebmt: Cohort) -> None:
    theirs = KaplanMeierFitter().fit(ebmt.time, ebmt.state)
    ours = curves_of(ebmt)["survival"]
    assert theirs.predict(ours.times).to_numpy() == pytest.approx(ours.value, abs=1e-12)


def test_late_entry_equals_r(ebmt: Cohort) -> None:
    # e$entry <- (e$patid * 7) %% 60
    # survfit(Surv(entry, srv, srvstat) ~ 1, e[e$entry < e$srv, ], conf.type = "log-log")
    entry = (ebmt.covariates["patid"] * 7) % 60
    keep = entry < ebmt.time
    table = risk_table(ebmt.time[keep], ebmt.state[keep], start=entry[keep])
    curve = kaplan_meier(table, last=float(ebmt.time.max()))
    assert curve.at(500) == pytest.approx((0.6149597643, 0.5909246787, 0.6380417244), abs=1e-9)
    assert curve.at(2000) == pytest.approx((0.5166117488, 0.4891040281, 0.5433870379), abs=1e-9)


def test_medians_equal_r(larynx: Cohort, leukemia: Cohort) -> None:
    # summary(survfit(..., conf.type = "log-log"))$table
    found = {stage: median(curves_of(_stage(larynx, stage))["survival"]) for stage in larynx.stages}
    assert [found[stage].value for stage in larynx.stages] == [6.5, 7.0, 5.0, 1.5]
    assert [found[stage].low for stage in larynx.stages] == [4.3, 3.6, 1.6, 0.4]
    assert [found[stage].high for stage in larynx.stages] == [np.inf, np.inf, 7.8, 3.6]
    placebo = median(curves_of(_stage(leukemia, "placebo"))["survival"])
    assert (placebo.value, placebo.low, placebo.high) == (8, 4, 11)


def test_restricted_means_equal_r(larynx: Cohort) -> None:
    # summary(survfit(Surv(years, died) ~ stage, larynx), rmean = 4)$table
    means = [restricted_mean(curves_of(_stage(larynx, stage))["survival"], until=4) for stage in larynx.stages]
    assert [mean for mean, _ in means] == pytest.approx([3.685022640, 3.499465241, 2.770370370, 1.876923077], abs=1e-9)
    assert [e for _, e in means] == pytest.approx([0.1354935798, 0.2582549165, 0.2784837850, 0.3936274870], abs=1e-9)


def test_median_follow_up_equals_the_reverse_kaplan_meier_of_r(wbc: Cohort) -> None:
    # survfit(Surv(tyears, 1 - d) ~ 1, wbc1)
    assert median_follow_up(wbc.time, wbc.state).value == pytest.approx(6.1691666667, abs=1e-9)


# timepoints(cuminc(ftime, Status, Phase), c(6, 24, 60)) of cmprsk, cause 1 then 2
R_INCIDENCE = {
    "CR1": ([0.12765957447, 0.1963818409, 0.1963818409], [0.23404255319, 0.3849129594, 0.3849129594]),
    "CR2": ([0.06666666667, 0.1803921569, 0.2384517443], [0.22222222222, 0.4222222222, 0.4470588235]),
    "Relapse": ([0.30136986301, 0.4520547945, 0.4700342466], [0.30136986301, 0.4400684932, 0.4400684932]),
}


@pytest.mark.parametrize("phase", R_INCIDENCE)
def test_aalen_johansen_equals_r_with_tied_times(bmt: Cohort, phase: str) -> None:
    curves = curves_of(_stage(bmt, phase))
    for event, expected in zip(bmt.events, R_INCIDENCE[phase], strict=True):
        assert [curves[event].at(when)[0] for when in (6, 24, 60)] == pytest.approx(expected, abs=1e-9)


def test_the_variance_of_incidence_equals_lifelines_without_ties() -> None:
    rng = np.random.default_rng(4)
    time, state = rng.exponential(10, 300), rng.integers(0, 3, 300)
    theirs = AalenJohansenFitter(calculate_variance=True).fit(time, state, event_of_interest=1)
    ours = aalen_johansen(risk_table(time, state, causes=2), last=float(time.max()))[0]
    expected = theirs.variance_.reindex(ours.times, method="ffill").to_numpy()
    assert ours.variance[:-1] == pytest.approx(expected[:-1], rel=1e-9)  # at the last time lifelines has 0/0


def test_without_censoring_the_variance_of_incidence_is_binomial(bmt: Cohort) -> None:
    first = curves_of(_stage(bmt, "CR1"))["relapse"]
    place = np.searchsorted(first.times, 6, side="right") - 1
    share = first.value[place]
    assert first.variance[place] == pytest.approx(share * (1 - share) / 47, rel=1e-9)


def test_a_curve_says_nothing_past_its_last_follow_up(larynx: Cohort) -> None:
    curve = curves_of(_stage(larynx, "IV"))["survival"]
    assert curve.last == 4.3
    assert curve.at(4.3) is not None
    assert curve.at(4.31) is None


def test_thinning_keeps_the_values_at_the_times_it_keeps(ebmt: Cohort) -> None:
    whole = curves_of(ebmt)["survival"]
    thin = thinned(whole, most=50)
    assert len(thin.times) <= 50
    assert [whole.at(when)[0] for when in thin.times] == thin.value.tolist()


def test_a_curve_that_comes_to_zero_at_its_end_is_known_past_it() -> None:
    """As summary(survfit(...), times = 24, extend = TRUE) of R, which gives 0 where all have died and not else."""
    time, dead = np.array([2.0, 3.0, 5.0, 5.0]), np.array([1, 1, 1, 1])
    ended = {"survival": kaplan_meier(risk_table(time, dead), last=5.0)}
    assert read_at(ended, 24.0)["survival"].value == 0
    open_end = {"survival": kaplan_meier(risk_table(time, np.array([1, 1, 1, 0])), last=5.0)}
    assert read_at(open_end, 24.0) == {}
    assert read_at(open_end, 5.0)["survival"].value == pytest.approx(0.25)


def test_a_curve_that_late_entry_empties_early_is_not_known_past_its_end() -> None:
    time, start = np.array([1.0, 4.0, 5.0, 6.0]), np.array([0.0, 2.0, 2.0, 3.0])
    emptied = {"survival": kaplan_meier(risk_table(time, np.array([1, 1, 1, 0]), start=start), last=6.0)}
    assert emptied["survival"].value[0] == 0
    assert read_at(emptied, 24.0) == {}
