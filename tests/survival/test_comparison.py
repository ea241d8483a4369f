"""Tests of difference against R's survival 3.5-3 and cmprsk 2.2-11 (R 4.2.2), lifelines, and published values."""

import numpy as np
import pytest
from lifelines.statistics import logrank_test

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import late_gray
from leukoscope.survival.curves import (
    RiskTable,
    gray,
    holm,
    logrank,
    logrank_trend,
    pairwise,
    restricted_mean_difference,
    risk_table,
)
from leukoscope.survival.fitting import curves_of
from leukoscope.survival.predict import upper_limit


def _table(cohort: Cohort) -> RiskTable:
    return risk_table(
        cohort.time, cohort.state, group=cohort.stage, groups=len(cohort.stages), causes=len(cohort.events)
    )


def test_logrank_of_the_leukemia_trial_is_the_published_16_79(leukemia: Cohort) -> None:
    # Freireich et al. 1963, in Kleinbaum and Klein, Survival Analysis; survdiff of R gives 16.79294099
    found = logrank(_table(leukemia))
    assert found.statistic == pytest.approx(16.79294099, abs=1e-7)
    assert found.df == 1


def test_logrank_of_larynx_and_lymphoma_equals_r(larynx: Cohort, lymphoma: Cohort) -> None:
    assert logrank(_table(larynx)).statistic == pytest.approx(22.76275706, abs=1e-7)
    assert logrank(_table(lymphoma)).statistic == pytest.approx(6.709710358, abs=1e-8)


def test_logrank_of_the_cut_sokal_index_equals_r(wbc: Cohort) -> None:
    # survdiff(Surv(tyears, d) ~ cut(sokal, c(0, .8, 1.2, 9)))
    assert wbc.stages == ("sokal ≤ 0.8", "0.8 < sokal ≤ 1.2", "sokal > 1.2")
    assert logrank(_table(wbc)).statistic == pytest.approx(8.83424952, abs=1e-7)


def test_trend_over_ordered_stages_equals_r(larynx: Cohort, ebmt: Cohort) -> None:
    # s <- survdiff(...); u <- sum(1:k * (s$obs - s$exp)); u^2 / (1:k %*% s$var %*% 1:k)
    assert logrank_trend(_table(larynx)).statistic == pytest.approx(13.83065255, abs=1e-7)
    assert logrank_trend(_table(ebmt)).statistic == pytest.approx(104.10949454291, abs=1e-7)
    assert logrank(_table(ebmt)).statistic == pytest.approx(113.3057864, abs=1e-6)


def test_pairs_equal_r_and_holm_never_makes_p_smaller(larynx: Cohort) -> None:
    pairs = pairwise(_table(larynx))
    r = [0.02833265036, 3.063510923, 23.40045458, 1.468343242, 11.54620871, 5.197386362]
    assert [test.statistic for test, _ in pairs.values()] == pytest.approx(r, abs=1e-7)
    assert all(corrected >= test.p for test, corrected in pairs.values())


def test_holms_correction_and_the_limit_of_no_event_are_those_of_r() -> None:
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])  # p.adjust(p, "holm")
    assert upper_limit(14) == pytest.approx(0.1926362, abs=1e-7)  # binom.test(0, 14, alternative = "less")$conf.int


def test_logrank_with_late_entry_equals_lifelines_of_the_counts(ebmt: Cohort) -> None:
    two = ebmt.take(ebmt.stage < 2)
    group = risk_table(two.time, two.state, group=two.stage, groups=2, start=np.zeros(len(two)))
    theirs = logrank_test(
        two.time[two.stage == 0], two.time[two.stage == 1], two.state[two.stage == 0], two.state[two.stage == 1]
    )
    assert logrank(group).statistic == pytest.approx(theirs.test_statistic, rel=1e-9)


def test_grays_test_by_disease_is_the_published_one(bmt: Cohort) -> None:
    # Scrucca, Santucci and Aversa 2007, Bone Marrow Transplantation 40:381, by cuminc of cmprsk: 2.8623, p = 0.0907
    aml = (bmt.covariates["D"] == "AML").astype(np.int64)
    table = risk_table(bmt.time, bmt.state, group=aml, groups=2)
    assert gray(table, cause=0).statistic == pytest.approx(2.8623325137, abs=1e-9)
    assert gray(table, cause=0).p == pytest.approx(0.09067592499, abs=1e-10)
    assert gray(table, cause=1).statistic == pytest.approx(0.4481279362, abs=1e-9)


def test_grays_test_of_four_phases_with_ties_equals_cmprsk(bmt: Cohort) -> None:
    assert gray(_table(bmt), cause=0).statistic == pytest.approx(14.358549714, abs=1e-8)
    assert gray(_table(bmt), cause=1).statistic == pytest.approx(0.589438926, abs=1e-8)


def test_grays_test_without_competing_events_is_close_to_the_logrank_test(larynx: Cohort) -> None:
    # Gray 1988: without competing events his test compares the same hazards, with another variance
    assert gray(_table(larynx), cause=0).statistic == pytest.approx(logrank(_table(larynx)).statistic, rel=0.25)


def test_the_difference_of_restricted_means_adds_up(larynx: Cohort) -> None:
    first, last = (curves_of(larynx.take(larynx.stage == place))["survival"] for place in (0, 3))
    difference, p = restricted_mean_difference(first, last, until=4)
    # R: 1.876923077 - 3.685022640, standard errors 0.3936274870 and 0.1354935798
    assert difference.value == pytest.approx(-1.808099563, abs=1e-8)
    assert difference.high - difference.value == pytest.approx(
        1.959963985 * np.hypot(0.3936274870, 0.1354935798), abs=1e-8
    )
    assert p < 1e-4


def test_with_nothing_to_compare_p_is_one() -> None:
    """One patient left with late entry: no group can differ from another."""
    found = late_gray(np.array([5.0, 5.0]), np.array([2, 0]), np.array([0, 1]), groups=2, start=np.array([1.0, 1.0]))
    assert (found.statistic, found.df, found.p) == (0.0, 0, 1.0)


def test_grays_test_of_groups_to_whom_nothing_happened_has_p_one() -> None:
    table = risk_table(np.array([3.0, 4.0, 5.0]), np.array([0, 0, 1]), group=np.array([0, 1, 2]), groups=3, causes=2)
    pair = RiskTable(table.times, table.at_risk[:, [0, 1]], table.events[:, :, [0, 1]])
    assert gray(pair, cause=0).p == 1.0
    assert logrank(pair).p == 1.0
