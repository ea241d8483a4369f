"""Fine and Gray's model against crr of cmprsk 2.2-11 (R 4.2.2), the model of Scrucca et al. 2010."""

from dataclasses import replace

import numpy as np
import pytest

from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import fit_fine_gray, make_design
from leukoscope.survival.model import Term

_APART = np.arange(177) * 1e-6
TERMS = (
    Term("sex M", "Sex", level="M"),
    Term("AML", "D", level="AML"),
    Term("CR1", "Phase", level="CR1"),
    Term("CR2", "Phase", level="CR2"),
    Term("CR3", "Phase", level="CR3"),
    Term("PB", "Source", level="PB"),
    Term("age", "Age"),
)


def test_coefficients_and_robust_errors_equal_cmprsk(bmt: Cohort) -> None:
    # crr(ftime, Status, model.matrix(~ Sex + D + relevel(Phase, "Relapse") + Source + Age)); published in
    # Scrucca, Santucci and Aversa 2010, Bone Marrow Transplantation 45:1388, table 2: 0.0352, -0.4723, -1.102 ...
    fit = fit_fine_gray(make_design(bmt, stages=bmt.stages), TERMS)
    coefficients = [
        0.03524636100,
        -0.47233425190,
        -1.10175805019,
        -1.01995519965,
        -0.73140477558,
        0.92114508274,
        -0.01846643786,
    ]
    errors = [0.28997745262, 0.30537522786, 0.37641428530, 0.35578444188, 0.57663438313, 0.55301760754, 0.01188050634]
    assert fit.coefficients == pytest.approx(coefficients, abs=1e-8)
    assert np.sqrt(np.diag(fit.covariance)) == pytest.approx(errors, abs=1e-8)
    assert fit.log_likelihood == pytest.approx(-266.5244398, abs=1e-6)


def test_entry_at_zero_changes_no_coefficient(bmt: Cohort) -> None:
    plain, late = (
        fit_fine_gray(make_design(cohort, stages=bmt.stages), TERMS)
        for cohort in (bmt, replace(bmt, time=bmt.time + _APART, entry=np.zeros(len(bmt))))
    )
    # crr and finegray part at tied times of events and censorings; _APART has none
    assert late.coefficients == pytest.approx(plain.coefficients, abs=5e-3)
