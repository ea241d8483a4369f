"""A cohort: who was followed from when to when, at which stage, and what happened. No row leaves without a reason."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError, require
from ..files import write_csv
from .table import (
    Horizon,
    PatientTable,
    StudySettings,
    Unit,
    counted,
    cut_names,
    cut_stages,
    each,
    is_missing,
    listed,
    one_spelling,
    order_stages,
    parse_horizon,
    read_outcome,
    read_table,
    unit_in,
)

_ID_NAMES = ("id", "patient", "patient_id", "patientid", "patid", "patnr", "subject", "subject_id")
_MOST_STAGES = 12
_LARGEST = 1e12  # of a covariate; beyond it a number is a slip of the hand
_MOST_LEVELS = 20  # of a covariate in words; more are names or free text

Column = np.ndarray  # (patients,) float with NaN, or str with ''


@dataclass(frozen=True)
class Dropped:
    """Rows that could not be used, for one reason."""

    reason: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Cohort:
    """Arrays have one element per patient that is used, in the order of the table.

    `time` and `entry` are in `unit`; `state` is 0 for censored, 1 for the event, 2 and up for competing events in
    the order of `events`; `stage` counts in `stages`, which run from mildest to worst when `ordered`.
    """

    time: np.ndarray
    state: np.ndarray
    stage: np.ndarray
    stages: tuple[str, ...]
    ordered: bool
    unit: Unit
    events: tuple[str, ...] = ("the event",)
    entry: np.ndarray | None = None
    covariates: dict[str, Column] = field(default_factory=dict)
    rows: int = 0
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
    missing: dict[str, int] = field(default_factory=dict)
    stage_column: str = "stage"
    stage_cuts: tuple[float, ...] = ()
    landmark: str = ""  # in words, where times count from one
    where: str = "cohort"

    def __len__(self) -> int:
        return len(self.time)

    @property
    def start(self) -> np.ndarray:
        """When each patient came under observation, in `unit`."""
        return np.zeros(len(self)) if self.entry is None else self.entry

    @property
    def competing(self) -> bool:
        """Whether something else can happen that rules the event out."""
        return len(self.events) > 1

    def take(self, rows: np.ndarray) -> "Cohort":
        """Return the cohort of some patients (indices or a mask), the stages and columns left as they are."""
        return replace(
            self,
            time=self.time[rows],
            state=self.state[rows],
            stage=self.stage[rows],
            entry=None if self.entry is None else self.entry[rows],
            covariates={name: values[rows] for name, values in self.covariates.items()},
        )


def read_cohort(path: Path, settings: StudySettings) -> Cohort:
    """Read a CSV file into a cohort.

    Raises:
        DataError, UsageError, UnknownNameError: the table or the settings cannot be used; the message names the reason.
    """
    return cohort_of(read_table(path), settings)


def cohort_of(table: PatientTable, settings: StudySettings) -> Cohort:
    """Make a cohort of a table: parse, leave out what cannot be used and count it, order the stages."""
    _check_roles(settings)
    unit = settings.unit or unit_in(settings.time)
    if unit is None:
        raise UsageError(f"The unit of column '{settings.time}' is not clear. Add --unit days, weeks, months or years.")
    outcome = read_outcome(table, settings)
    entry = _entries(table, settings)
    stage_names, joined = _stage_names(table, settings)
    landmark = parse_horizon(settings.landmark, unit=unit) if settings.landmark else None
    dropped = _unusable(table, settings, time=outcome.time, state=outcome.state, entry=entry, stages=stage_names)
    if landmark is not None:
        _drop_before(dropped, landmark, time=outcome.time, entry=entry)
    keep = np.ones(len(table), dtype=bool)
    keep[[row for rows in dropped.values() for row in rows]] = False
    if not keep.any():
        raise DataError(f"{table.where}: no row can be used ({_reasons(dropped)}). Check the column names.")
    if not (outcome.state[keep] > 0).any():
        raise DataError(
            f"{table.where}: nobody had the event in the {counted(int(keep.sum()), 'row')} that can be used; "
            f"left out are {_reasons(dropped) or 'none'}. Check the columns, --landmark and --entry."
        )
    if not outcome.time[keep].max() > 0:
        raise DataError(
            f"{table.where}: every time in '{settings.time}' is zero, so nothing was followed. Check --time."
        )
    start = 0.0 if landmark is None else landmark.time
    entry = None if landmark is not None else entry
    stages, ordered = _order(stage_names[keep], settings)
    covariates = {name: _covariate(table, name, joined) for name in settings.covariates}
    notes = [*table.notes, *outcome.notes, *joined, *_notes(table, settings, ordered=ordered, stages=stages)]
    return Cohort(
        time=outcome.time[keep] - start,
        state=outcome.state[keep],
        unit=unit,
        events=outcome.events,
        stage=_places(stage_names[keep], stages),
        stages=stages,
        ordered=ordered,
        entry=None if entry is None else entry[keep],
        covariates={name: values[keep] for name, values in covariates.items()},
        rows=len(table),
        notes=tuple(notes),
        missing=_missing(table, settings),
        where=table.where,
        dropped=tuple(Dropped(reason, tuple(table.lines[row] for row in rows)) for reason, rows in dropped.items()),
        stage_column=settings.stage,
        stage_cuts=settings.stage_cuts,
        landmark=landmark.words if landmark else "",
    )


def _drop_before(
    dropped: dict[str, list[int]], landmark: Horizon, *, time: np.ndarray, entry: np.ndarray | None
) -> None:
    """Leave out who had an event, was lost, or had not yet entered at the landmark.

    Source: Anderson, Cain and Gelber (1983), doi 10.1200/JCO.1983.1.11.710.
    """
    gone = {row for rows in dropped.values() for row in rows}
    over = f"followed no longer than the landmark ({landmark.words}), or had an event by then"
    reasons = {over: time <= landmark.time}
    if entry is not None:
        reasons[f"entered after the landmark ({landmark.words})"] = entry > landmark.time
    for reason, mask in reasons.items():
        rows = [int(row) for row in np.flatnonzero(mask) if row not in gone]
        gone.update(rows)
        if rows:
            dropped[reason] = rows


def _check_roles(settings: StudySettings) -> None:
    """Refuse a column that is given two parts to play."""
    outcome = {settings.time, settings.event, *settings.competing, settings.competing_time, settings.entry} - {""}
    if settings.stage in outcome:
        raise UsageError(f"--stage '{settings.stage}' is also the time or an event. Name the column with the stage.")
    if settings.time == settings.event:
        raise UsageError(f"--time and --event are both '{settings.time}'. Name two columns.")
    if settings.stage_cuts and settings.stage_order:
        raise UsageError("--stage-cuts makes stages in rising order; leave out --stage-order.")
    twice = [name for name, count in Counter(map(bare_name, settings.covariates)).items() if count > 1]
    if twice:
        raise UsageError(f"--covariates names '{twice[0]}' twice. Name every covariate once.")
    for name in settings.covariates:
        if bare_name(name) == settings.stage:
            raise UsageError(f"'{settings.stage}' is the stage, so it is in the model; leave it out of --covariates.")
        if bare_name(name) in outcome:
            raise UsageError(
                f"'{name}' is a time or an event: it is what is to be predicted, or not known at the start. "
                "Leave it out of --covariates."
            )


def _entries(table: PatientTable, settings: StudySettings) -> np.ndarray | None:
    if not settings.entry:
        return None
    entry = np.array(table.numbers(settings.entry))
    negative = np.flatnonzero(entry < 0)
    if len(negative):
        raise DataError(
            f"{table.where}: column '{settings.entry}' has times below zero: "
            f"{table.show(negative.tolist(), table.column(settings.entry))}. Entry counts from the same day as --time."
        )
    return entry


def _stage_names(table: PatientTable, settings: StudySettings) -> tuple[np.ndarray, list[str]]:
    """Return the stage of each row as text, '' where it is missing, and notes on spellings."""
    if settings.stage_cuts:
        values = np.array(table.numbers(settings.stage))
        return np.array(cut_stages(values, cuts=settings.stage_cuts, name=settings.stage)), []
    cells, joined = one_spelling(table.words(settings.stage))
    names = sorted(set(cells) - {""})
    if len(names) > _MOST_STAGES:
        raise UsageError(
            f"Column '{settings.stage}' has {len(names)} different values ({listed(names)}): too many for stages. "
            "If it is a number, cut it with --stage-cuts 0.8,1.2, or name it in --covariates."
        )
    return np.array(cells), _spelling_notes(settings.stage, joined)


def _spelling_notes(column: str, joined: Sequence[str]) -> list[str]:
    return [f"Column '{column}': counted {listed(joined)}, which differ in capital letters alone."] if joined else []


def _order(names: np.ndarray, settings: StudySettings) -> tuple[tuple[str, ...], bool]:
    present = [str(name) for name in np.unique(names)]
    if settings.stage_cuts:
        return tuple(name for name in cut_names(settings.stage_cuts, name=settings.stage) if name in present), True
    return order_stages(present, given=settings.stage_order)


def _places(names: np.ndarray, stages: tuple[str, ...]) -> np.ndarray:
    place = {name: index for index, name in enumerate(stages)}
    return np.array([place[str(name)] for name in names], dtype=np.int64)


def _unusable(
    table: PatientTable,
    settings: StudySettings,
    *,
    time: np.ndarray,
    state: np.ndarray,
    entry: np.ndarray | None,
    stages: np.ndarray,
) -> dict[str, list[int]]:
    """Return the rows that cannot be used, by the first reason that holds."""
    checks = [
        (f"'{settings.time}' (the time) is missing", np.isnan(time)),
        (f"'{settings.event}' (what happened) is missing", state < 0),
        (f"'{settings.stage}' (the stage) is missing", stages == ""),
    ]
    if entry is not None:
        checks.append((f"'{settings.entry}' (the entry) is missing", np.isnan(entry)))
        checks.append(("the follow-up ended before or when the patient entered", entry >= time))
    checks.append(("an exact repeat of an earlier row of the same patient", _repeats(table, settings)))
    dropped: dict[str, list[int]] = {}
    seen = np.zeros(len(table), dtype=bool)
    for reason, mask in checks:
        rows = np.flatnonzero(mask & ~seen)
        seen |= mask
        if len(rows):
            dropped[reason] = rows.tolist()
    return dropped


def _repeats(table: PatientTable, settings: StudySettings) -> np.ndarray:
    """Mark rows that repeat an earlier row of the same patient.

    Raises:
        DataError: one patient has two rows that differ.
    """
    repeats = np.zeros(len(table), dtype=bool)
    name = _id_column(table, settings)
    if not name:
        return repeats
    names = [cell.strip() for cell in table.column(name)]
    often = {cell for cell, count in Counter(names).items() if count > 1 and not is_missing(cell)}
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, cell in enumerate(names) if often else ():
        if cell in often:
            rows_of[cell].append(row)
    for rows in rows_of.values():
        for row in rows[1:]:
            if any(cells[row] != cells[rows[0]] for cells in table.columns.values()):
                _refuse_two_stories(table, name, rows)
            repeats[row] = True
    return repeats


def _refuse_two_stories(table: PatientTable, name: str, rows: Sequence[int]) -> None:
    raise DataError(
        f"{table.where}: one patient has rows that differ: column '{name}', "
        f"{table.show(rows, table.column(name))}. Keep one row per patient, or name the column of patients with --id."
    )


def _id_column(table: PatientTable, settings: StudySettings) -> str:
    if settings.id:
        table.column(settings.id)
        return settings.id
    return next((name for name in table.columns if name.lower() in _ID_NAMES), "")


def _covariate(table: PatientTable, name: str, notes: list[str]) -> Column:
    """Return a covariate as numbers with NaN, or as text with ''; 'log(wbc)' gives the logarithm of wbc.

    Adds notes on spellings.

    Raises:
        DataError: the logarithm of a value that is not above zero.
    """
    if name.startswith("spline(") and name.endswith(")"):
        values = _covariate(table, name[7:-1], notes)
        if values.dtype.kind == "U":
            raise UsageError(f"'{name}' needs numbers, but '{bare_name(name)}' holds words. Name it without spline().")
        return values
    if name.startswith("log(") and name.endswith(")"):
        return _logarithm(table, name[4:-1])
    if table.is_numeric(name):
        values = np.array(table.numbers(name))
        vast = np.flatnonzero(np.abs(values) > _LARGEST)
        if len(vast):
            raise DataError(
                f"{table.where}: column '{name}' has numbers beyond a trillion: "
                f"{table.show(vast.tolist(), table.column(name))}. Mend these cells, or leave them empty."
            )
        return values
    cells, joined = one_spelling(table.words(name))
    notes += _spelling_notes(name, joined)
    levels = set(cells) - {""}
    if len(levels) > _MOST_LEVELS:
        raise UsageError(
            f"Column '{name}' has {len(levels)} different words ({listed(sorted(levels))}): too many for a covariate. "
            "Leave it out, or group its values."
        )
    return np.array(cells)


def _logarithm(table: PatientTable, name: str) -> Column:
    values = np.array(table.numbers(name))
    bad = np.flatnonzero(values <= 0)
    if len(bad):
        raise DataError(
            f"{table.where}: log({name}) needs values above zero: {table.show(bad.tolist(), table.column(name))}. "
            f"Use --covariates {name} without the logarithm, or mend them."
        )
    return np.array([math.log(value) if value == value else math.nan for value in values])  # noqa: PLR0124  NaN


def _missing(table: PatientTable, settings: StudySettings) -> dict[str, int]:
    """Count the missing values of every column that the study uses."""
    used = [settings.time, settings.event, settings.stage, settings.entry, *map(bare_name, settings.covariates)]
    return {name: sum(each(table.column(name), is_missing)) for name in dict.fromkeys(used) if name}


def bare_name(covariate: str) -> str:
    """Return the column behind a covariate.

    >>> bare_name("log(wbc)"), bare_name("spline(log(wbc))"), bare_name("age")
    ('wbc', 'wbc', 'age')
    """
    for wrapped in ("spline(", "log("):
        if covariate.startswith(wrapped) and covariate.endswith(")"):
            covariate = covariate[len(wrapped) : -1]
    return covariate


def _notes(table: PatientTable, settings: StudySettings, *, ordered: bool, stages: tuple[str, ...]) -> list[str]:
    notes = []
    if settings.landmark:
        notes.append(
            f"Landmark analysis: times count from {settings.landmark} after the start, and only patients who were "
            "followed to then without an event are counted; results hold for them alone."
        )
    if not ordered and len(stages) > 1:
        notes.append(
            f"The order of the stages is not known, so they are sorted by name without a trend test. Give it with "
            f'--stage-order "{"<".join(stages)}", mildest first.'
        )
    if not _id_column(table, settings):
        copies = _copies(table)
        if copies:
            notes.append(
                f"{counted(copies, 'row')} {'equals' if copies == 1 else 'equal'} another row in every column. "
                "This is kept, since different patients can agree; if they are the same patients, name the patient's "
                "column with --id."
            )
    return notes


def _copies(table: PatientTable) -> int:
    counts = Counter(zip(*table.columns.values(), strict=True))
    return sum(count - 1 for count in counts.values())


def _reasons(dropped: dict[str, list[int]]) -> str:
    return "; ".join(f"{len(rows)}: {reason}" for reason, rows in dropped.items())


def describe(cohort: Cohort) -> dict[str, Any]:
    """Return the cohort's facts for survival.json: what was read, used, left out, missing, and noted."""
    states = np.bincount(cohort.state, minlength=len(cohort.events) + 1)
    return {
        "file": cohort.where,
        "rows": cohort.rows or len(cohort),
        "patients": len(cohort),
        "dropped": [{"reason": d.reason, "rows": len(d.lines), "lines": d.lines[:20]} for d in cohort.dropped],
        "missing": cohort.missing,
        "notes": list(cohort.notes),
        "unit": cohort.unit,
        "events": list(cohort.events),
        "counts": dict(zip(("censored", *cohort.events), states.tolist(), strict=True)),
        "stage_column": cohort.stage_column,
        "stages": [_describe_stage(cohort, index) for index in range(len(cohort.stages))],
        "ordered": cohort.ordered,
        "left_truncated": cohort.entry is not None,
        "landmark": cohort.landmark,
        "last_follow_up": float(cohort.time.max()),
    }


def _describe_stage(cohort: Cohort, index: int) -> dict[str, Any]:
    rows = cohort.stage == index
    states = np.bincount(cohort.state[rows], minlength=len(cohort.events) + 1)
    return {
        "name": cohort.stages[index],
        "patients": int(rows.sum()),
        "counts": dict(zip(("censored", *cohort.events), states.tolist(), strict=True)),
        "last_follow_up": float(cohort.time[rows].max()),
    }


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
            "age": row.age,
            "years": row.time,
            "died": row.death,
        }
        for row in datasets.load_larynx().itertuples()
    ]


def _leukemia(datasets: Any) -> list[dict[str, Any]]:
    return [
        {
            "weeks": row.t,
            "relapse": row.status,
            "log_wbc": row.logWBC,
            "treatment": "placebo" if row.Rx else "6-MP",
            "sex": "male" if row.sex else "female",
        }
        for row in datasets.load_leukemia().itertuples()
    ]


DEMOS = (
    Demo(
        "larynx",
        "Cancer of the larynx by stage",
        "Kardaun 1983, in Klein and Moeschberger 2003: 90 men",
        StudySettings(time="years", event="died", stage="stage", covariates=("age",)),
        _larynx,
    ),
    Demo(
        "lymphoma",
        "Diffuse histiocytic lymphoma by stage",
        "McKelvey et al. 1976: 80 patients",
        StudySettings(time="days", event="died", stage="stage"),
        _lymphoma,
    ),
    Demo(
        "leukemia",
        "Acute leukemia: time in remission",
        "Freireich et al. 1963: 42 children, 6-MP against placebo",
        StudySettings(
            time="weeks", event="relapse", stage="treatment", stage_order=("6-MP", "placebo"), covariates=("log_wbc",)
        ),
        _leukemia,
    ),
)


def write_table(demo: Demo, folder: Path) -> Path:
    """Write the table of a demo as CSV and return its path."""
    datasets = require("lifelines.datasets", feature="The survival demo", extra="survival")
    rows = demo.rows(datasets)
    path = folder / f"{demo.name}.csv"
    write_csv(path, rows, columns=list(rows[0]))
    return path
