"""Three real tables that come with lifelines, turned into cohort files as a hospital would have them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import require
from ..files import write_csv
from .settings import StudySettings


@dataclass(frozen=True)
class Demo:
    """A table, what it is, and how it is studied."""

    name: str
    title: str
    source: str
    settings: StudySettings
    rows: Callable[[Any], list[dict[str, Any]]]


def _lymphoma(datasets: Any) -> list[dict[str, Any]]:
    stage = {1: "III", 2: "IV"}
    return [
        {"stage": stage[row.Stage_group], "days": row.Time, "died": row.Censor}
        for row in datasets.load_lymphoma().itertuples()
    ]


def _larynx(datasets: Any) -> list[dict[str, Any]]:
    return [
        {
            "stage": "IV" if row.Stage_IV else "III" if row.Stage_III else "II" if row.Stage_II else "I",
            "age": row.age, "years": row.time, "died": row.death,
        }
        for row in datasets.load_larynx().itertuples()
    ]  # fmt: skip


def _leukemia(datasets: Any) -> list[dict[str, Any]]:
    return [
        {
            "weeks": row.t, "relapse": row.status, "log_wbc": row.logWBC,
            "treatment": "placebo" if row.Rx else "6-MP", "sex": "male" if row.sex else "female",
        }
        for row in datasets.load_leukemia().itertuples()
    ]  # fmt: skip


DEMOS = (
    Demo(
        "larynx", "Cancer of the larynx by stage", "Kardaun 1983, in Klein and Moeschberger 2003: 90 men",
        StudySettings(time="years", event="died", stage="stage", covariates=("age",)), _larynx,
    ),
    Demo(
        "lymphoma", "Diffuse histiocytic lymphoma by stage", "McKelvey et al. 1976: 80 patients",
        StudySettings(time="days", event="died", stage="stage"), _lymphoma,
    ),
    Demo(
        "leukemia", "Acute leukemia: time in remission", "Freireich et al. 1963: 42 children, 6-MP against placebo",
        StudySettings(
            time="weeks", event="relapse", stage="treatment", stage_order=("6-MP", "placebo"), covariates=("log_wbc",)
        ),
        _leukemia,
    ),
)  # fmt: skip


def write_table(demo: Demo, folder: Path) -> Path:
    """Write the table of a demo as CSV and return its path."""
    datasets = require("lifelines.datasets", feature="The survival demo", extra="survival")
    rows = demo.rows(datasets)
    path = folder / f"{demo.name}.csv"
    write_csv(path, rows, columns=list(rows[0]))
    return path
