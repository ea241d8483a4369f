"""Cohorts that several tests share: three tables of lifelines, two of the shared data, and one drawn at random."""

from pathlib import Path

import numpy as np
import pytest

from leukoscope.survival.cohort import DEMOS, Cohort, cohort_of, read_cohort, write_table
from leukoscope.survival.table import PatientTable, StudySettings

BMT = StudySettings(
    time="ftime",
    unit="months",
    event="Status",
    stage="Phase",
    covariates=("Age", "Sex", "D", "Source"),
    events={"0": "censored", "1": "relapse", "2": "death in remission"},
    competing=("death in remission",),
)
EBMT = StudySettings(time="srv", unit="days", event="srvstat", stage="score", covariates=("age", "patid"))


def _demo(name: str, folder: Path) -> Cohort:
    demo = next(demo for demo in DEMOS if demo.name == name)
    return read_cohort(write_table(demo, folder), demo.settings)


@pytest.fixture(scope="session")
def larynx(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """90 patients with cancer of the larynx, stage I to IV; times in years."""
    return _demo("larynx", tmp_path_factory.mktemp("larynx"))


@pytest.fixture(scope="session")
def leukemia(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """42 children with acute leukemia, 6-MP or placebo; times in weeks."""
    return _demo("leukemia", tmp_path_factory.mktemp("leukemia"))


@pytest.fixture(scope="session")
def lymphoma(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """80 patients with lymphoma, stage III or IV; times in days."""
    return _demo("lymphoma", tmp_path_factory.mktemp("lymphoma"))


@pytest.fixture(scope="session")
def bmt(shared_data: Path) -> Cohort:
    """177 transplants for leukemia by phase; relapse, and death in remission as a competing event; months."""
    return read_cohort(shared_data / "survival" / "bmtcrr.csv", BMT)


@pytest.fixture(scope="session")
def ebmt(shared_data: Path) -> Cohort:
    """1,977 transplants for chronic myeloid leukemia by risk score; death; days."""
    return read_cohort(shared_data / "survival" / "ebmt1.csv", EBMT)


@pytest.fixture(scope="session")
def wbc(shared_data: Path) -> Cohort:
    """190 patients with chronic myeloid leukemia, the Sokal index cut into three groups; death; years."""
    settings = StudySettings(time="tyears", event="d", stage="sokal", stage_cuts=(0.8, 1.2), covariates=("age",))
    return read_cohort(shared_data / "survival" / "wbc1.csv", settings)


def drawn(patients: int, *, seed: int = 0, competing: bool = False) -> Cohort:
    """Draw a cohort of three stages and one covariate with a known effect; times in months, some of them tied."""
    rng = np.random.default_rng(seed)
    stage, age = rng.integers(0, 3, patients), rng.normal(60, 10, patients).round()
    time = (rng.exponential(40 * np.exp(-0.5 * stage - 0.03 * (age - 60))) + 0.1).round(1)
    censored = rng.uniform(5, 60, patients).round(1)
    which = rng.integers(1, 3, patients) if competing else np.ones(patients, dtype=np.int64)
    return Cohort(
        time=np.minimum(time, censored),
        state=np.where(time <= censored, which, 0),
        stage=stage,
        stages=("I", "II", "III"),
        ordered=True,
        unit="months",
        events=("relapse", "death") if competing else ("death",),
        covariates={"age": age},
    )


def table(text: str) -> PatientTable:
    """Make a table of the lines of a CSV."""
    header, *rows = [line.split(",") for line in text.strip().split("\n")]
    columns = {name.strip(): [row[place].strip() for row in rows] for place, name in enumerate(header)}
    return PatientTable(columns, list(range(2, len(rows) + 2)), "cohort.csv")


def cohort_from(text: str, **settings: object) -> Cohort:
    """Make a cohort of the lines of a CSV with the columns months, died, stage."""
    values = {"time": "months", "event": "died", "stage": "stage"} | settings
    return cohort_of(table(text), StudySettings.model_validate(values))
