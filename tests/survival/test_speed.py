"""Large cohorts: a million patients are studied in less than a minute of processor time; here a tenth, part by part."""

import time
from pathlib import Path

import numpy as np

from leukoscope.survival.aft import fit_aft
from leukoscope.survival.cohort import read_cohort
from leukoscope.survival.fitting import fit_model
from leukoscope.survival.study import compare
from leukoscope.survival.table import StudySettings
from leukoscope.survival.words import Horizon

from .conftest import drawn

MANY = 100_000


def test_what_grows_with_the_patients_takes_40_microseconds_of_processor_for_each(tmp_path: Path) -> None:
    """Reading, curves, tests, the model and the smooth curve; the judgement takes at most 5,000 patients."""
    cohort = drawn(MANY, seed=1)
    stages = np.array(cohort.stages)[cohort.stage]
    rows = zip(cohort.time, cohort.state, stages, cohort.covariates["age"], strict=True)
    lines = [f"P{number},{time},{state},{stage},{age}" for number, (time, state, stage, age) in enumerate(rows)]
    (tmp_path / "c.csv").write_text("\n".join(["id,months,died,stage,age", *lines]) + "\n")
    settings = StudySettings(time="months", event="died", stage="stage", covariates=("age",))
    started = time.process_time()
    read = read_cohort(tmp_path / "c.csv", settings)
    fitted = fit_model(read)
    assert fitted.design is not None
    fit_aft(fitted.design)
    compare(read, horizons=(Horizon(12.0, "one year"),))
    assert time.process_time() - started < 40e-6 * MANY
