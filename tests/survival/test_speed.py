"""Large cohorts: the time of a study grows with the number of its patients, not with its square."""

import time
from pathlib import Path

import numpy as np

from leukoscope.progress import blas_threads
from leukoscope.survival.cohort import read_cohort
from leukoscope.survival.fitting import fit_aft, fit_model
from leukoscope.survival.study import compare
from leukoscope.survival.table import Horizon, StudySettings

from .conftest import drawn


def processor_seconds(patients: int, folder: Path) -> float:
    """Read, compare and model so many patients; return the seconds of processor it takes."""
    cohort = drawn(patients, seed=1)
    stages = np.array(cohort.stages)[cohort.stage]
    rows = zip(cohort.time, cohort.state, stages, cohort.covariates["age"], strict=True)
    lines = [f"P{number},{time},{state},{stage},{age}" for number, (time, state, stage, age) in enumerate(rows)]
    table = folder / f"{patients}.csv"
    table.write_text("\n".join(["id,months,died,stage,age", *lines]) + "\n")
    settings = StudySettings(time="months", event="died", stage="stage", covariates=("age",))
    started = time.thread_time()  # other threads of a session of tests have work of their own
    with blas_threads(1):
        read = read_cohort(table, settings)
        fitted = fit_model(read)
        assert fitted.design is not None
        fit_aft(fitted.design)
        compare(read, horizons=(Horizon(12.0, "one year"),))
    return time.thread_time() - started


def test_ten_times_the_patients_take_about_ten_times_the_processor(tmp_path: Path) -> None:
    """Of reading, curves, tests, the model and the smooth curve; the judgement takes at most 5,000 patients."""
    processor_seconds(1_000, tmp_path)  # what is imported and compiled once
    assert processor_seconds(100_000, tmp_path) < 25 * processor_seconds(10_000, tmp_path)
