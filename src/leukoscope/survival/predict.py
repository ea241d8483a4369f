"""Answer for one patient: chances at horizons with intervals, the median, a curve, and how far the data go.

`ask` is what the command line and the reading room both call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts import write_csv
from ..errors import CallError, DataError, UnknownNameError
from .aft import survival_at
from .curves import Array, Curve, Interval, median
from .horizons import Horizon, in_words
from .model import ColumnFacts, SurvivalModel, patient_curves
from .stages import cut_stages
from .table import Table, is_missing
from .words import count_sentence

_ALIKE = "patients like this one"


@dataclass(frozen=True)
class Answer:
    """What is known at one horizon; `survival` is None past the data, and `reason` says why."""

    time: float
    words: str
    survival: Interval | None
    incidence: dict[str, Interval]
    text: str
    extrapolated: bool = False


@dataclass(frozen=True)
class Prediction:
    """Everything about one patient. `curves` are named as in SurvivalModel.stage_curves; times in `unit`."""

    patient: dict[str, str]
    unit: str
    events: tuple[str, ...]
    answers: tuple[Answer, ...]
    median: Interval
    median_text: str
    curves: dict[str, Curve]
    notes: tuple[str, ...] = ()
    method: str = ""
    last: float = 0.0


def fields_of(model: SurvivalModel) -> list[dict[str, Any]]:
    """Describe the form that asks for a patient: name, kind (choice or number), choices, and the range seen."""
    stage: dict[str, Any] = {"name": model.stage_column, "kind": "choice", "choices": list(model.stages)}
    if model.stage_cuts:
        stage = {"name": model.stage_column, "kind": "number", "cuts": list(model.stage_cuts)}
    return [stage, *({"name": facts.source} | _field(facts) for facts in model.columns)]


def _field(facts: ColumnFacts) -> dict[str, Any]:
    if facts.levels:
        return {"kind": "choice", "choices": list(facts.levels)}
    return {"kind": "number", "low": facts.low, "high": facts.high, "typical": facts.mean}


def ask(
    model: SurvivalModel, patient: Mapping[str, str], *, horizons: Sequence[Horizon] = (), extrapolate: bool = False
) -> Prediction:
    """Predict for one patient, given as text by column name; the horizons of the model unless others are asked.

    Raises:
        CallError, UnknownNameError: a value is missing, unknown or no number.
    """
    columns, stated, notes = _columns(model, patient)
    asked = horizons or [Horizon(time, words) for time, words in model.horizons]
    stage = str(columns[model.stage_column][0])
    if model.causes and stage not in model.unmodelled:
        curves, method = patient_curves(model, columns, points=400), "Cox model; intervals by the delta method"
        notes += _borrowed(model, stage, asked)
    else:
        curves, method = model.stage_curves[stage], f"observed curve of {model.stage_column} {stage}"
        notes += _why_observed(model, stage)
    outside = survivor(model, columns) if extrapolate else None
    answers = tuple(_answer(model, curves, horizon, extrapolate=outside) for horizon in asked)
    last = curves["survival"].last
    middle = median(curves["survival"])
    text = _median_text(middle, model, last=last)
    return Prediction(stated, model.unit, model.events, answers, middle, text, curves, tuple(notes), method, last)


def _why_observed(model: SurvivalModel, stage: str) -> list[str]:
    if stage in model.unmodelled:
        return [f"The model does not cover this stage: {model.unmodelled[stage]}. Covariates are not used."]
    return ["There were too few events for a model, so this is the curve of the stage; covariates are not used."]


def _borrowed(model: SurvivalModel, stage: str, asked: Sequence[Horizon]) -> list[str]:
    """Say where an answer rests on the other stages alone, because nobody of this one was followed so far."""
    last = model.stage_curves[stage]["survival"].last if stage in model.stage_curves else np.inf
    if all(horizon.time <= last for horizon in asked):
        return []
    return [
        f"Nobody with {model.stage_column} {stage} was followed past {in_words(last, model.unit)}; "
        "what is said of later times leans on the other stages and on hazards staying proportional."
    ]


def survivor(model: SurvivalModel, columns: Mapping[str, Array]) -> Any:
    """Return the function that extrapolates survival to a time, or None where the model has none.

    Raises:
        CallError: extrapolation is asked of a model that cannot.
    """
    fit = model.extrapolation
    if fit is None:
        raise CallError(
            "This model has no smooth curve to extrapolate with (competing events, or none could be fitted). "
            "Ask within the follow-up."
        )
    return lambda when: survival_at(fit, columns, when)


def _columns(model: SurvivalModel, patient: Mapping[str, str]) -> tuple[dict[str, Array], dict[str, str], list[str]]:
    """Return the patient as columns of one row, as stated, and notes on values outside what the model saw."""
    known = [model.stage_column, *(facts.source for facts in model.columns)]
    given = {_matching(name, known): value.strip() for name, value in patient.items()}
    _need(given, [model.stage_column])
    stage = _stage(model, given[model.stage_column])
    columns: dict[str, Array] = {model.stage_column: np.array([stage])}
    notes: list[str] = []
    if model.causes and stage not in model.unmodelled:
        _need(given, known)
        for facts in model.columns:
            columns[facts.name] = _value(facts, given[facts.source], notes)
    return columns, {**given, model.stage_column: stage}, notes


def _need(given: Mapping[str, str], known: Sequence[str]) -> None:
    missing = [name for name in known if is_missing(given.get(name, ""))]
    if missing:
        raise CallError(f"The model also needs: {', '.join(missing)}. Give each, such as --{missing[0].lower()} VALUE.")


def _matching(name: str, known: Sequence[str]) -> str:
    """Find a column whatever its case and dashes; 'stage' always means the first one, the stage."""
    same = [column for column in known if _plain(column) == _plain(name)]
    if not same and _plain(name) == "stage":
        return known[0]
    if not same:
        raise UnknownNameError("covariate", name, known)
    return same[0]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _stage(model: SurvivalModel, text: str) -> str:
    if model.stage_cuts and text not in model.stages:
        name = cut_stages(
            np.array([_number(model.stage_column, text)]), cuts=model.stage_cuts, name=model.stage_column
        )[0]
        if name not in model.stages:
            raise CallError(f"No patient of the cohort had {name}, so nothing is known about {text}.")
        return name
    same = [stage for stage in model.stages if stage.lower() == text.lower()]
    if not same:
        raise UnknownNameError(model.stage_column, text, model.stages)
    return same[0]


def _value(facts: ColumnFacts, text: str, notes: list[str]) -> Array:
    if facts.levels:
        same = [level for level in facts.levels if level.lower() == text.lower()]
        if not same:
            raise UnknownNameError(facts.source, text, facts.levels)
        return np.array(same)
    value = _number(facts.source, text)
    if not facts.low <= value <= facts.high:
        notes.append(
            f"{facts.source} {value:g} is outside what the model saw ({facts.low:.4g} to {facts.high:.4g}): "
            "be doubtful."
        )
    if facts.logarithm and value <= 0:
        raise CallError(f"{facts.source} is {text}, but the model takes its logarithm: give a number above zero.")
    return np.array([np.log(value) if facts.logarithm else value])


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise CallError(f"{name} is '{text}', which is not a number. Give one, such as {name}=34.")
    return value


def _answer(model: SurvivalModel, curves: Mapping[str, Curve], horizon: Horizon, *, extrapolate: Any) -> Answer:
    found = curves["survival"].at(horizon.time)
    if found is None:
        return _past(model, curves["survival"].last, horizon, extrapolate)
    survival = Interval(*found)
    incidence = {event: Interval(*read) for event in model.events if (read := curves[event].at(horizon.time))}
    count = count_sentence(horizon.words, events=model.events, survival=survival, incidence=incidence[model.events[0]])
    return Answer(horizon.time, horizon.words, survival, incidence, f"Of 100 {_ALIKE}, {count}")


def _past(model: SurvivalModel, last: float, horizon: Horizon, extrapolate: Any) -> Answer:
    if extrapolate is None:
        text = (
            f"After {horizon.words}: no number. The longest follow-up behind this answer is "
            f"{in_words(last, model.unit)}; nobody was seen after it."
        )
        return Answer(horizon.time, horizon.words, None, {}, text)
    survival = extrapolate(horizon.time)
    died = Interval(1 - survival.value, 1 - survival.high, 1 - survival.low)
    count = count_sentence(horizon.words, events=model.events, survival=survival, incidence=died)
    family = (model.extrapolation or {})["family"]
    text = (
        f"Of 100 {_ALIKE}, {count} Extrapolated with a {family} curve past the last follow-up "
        f"({in_words(last, model.unit)}): an assumption, not an observation."
    )
    return Answer(horizon.time, horizon.words, survival, {model.events[0]: died}, text, extrapolated=True)


def _median_text(middle: Interval, model: SurvivalModel, *, last: float) -> str:
    what = "Median survival" if len(model.events) == 1 else "Median time to the first event"
    if not np.isfinite(middle.value):
        return f"{what}: not reached within the follow-up of {in_words(last, model.unit)}."
    high = f"{middle.high:.4g}" if np.isfinite(middle.high) else "beyond the follow-up"
    return f"{what}: {in_words(middle.value, model.unit)} (between {middle.low:.4g} and {high})."


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction for JSON (curves left out); an endless time or an unknown number is null."""
    return {
        "patient": prediction.patient, "unit": prediction.unit, "method": prediction.method,
        "horizons": [
            {
                "time": answer.time, "words": answer.words, "text": answer.text, "extrapolated": answer.extrapolated,
                "survival": _plain_interval(answer.survival),
                "incidence": {event: _plain_interval(interval) for event, interval in answer.incidence.items()},
            }
            for answer in prediction.answers
        ],
        "median": _plain_interval(prediction.median), "median_text": prediction.median_text,
        "last_follow_up": prediction.last, "notes": list(prediction.notes),
        "use": "Research use only; not for decisions about a patient.",
    }  # fmt: skip


def _plain_interval(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def ask_table(
    model: SurvivalModel, table: Table, *, horizons: Sequence[Horizon] = (), extrapolate: bool = False
) -> list[Prediction]:
    """Predict for every row of a table; columns that the model does not know are passed over.

    Raises:
        DataError: a row cannot be answered; names its line.
    """
    known = [model.stage_column, *(facts.source for facts in model.columns)]
    columns = {name: table.column(name) for name in known}
    predictions = []
    for row, line in enumerate(table.lines):
        patient = {name: cells[row] for name, cells in columns.items()}
        try:
            predictions.append(ask(model, patient, horizons=horizons, extrapolate=extrapolate))
        except CallError as error:
            raise DataError(f"{table.where}, line {line}: {error}") from None
    return predictions


def write_predictions(path: Path, predictions: Sequence[Prediction], table: Table) -> None:
    """Write one row per patient and horizon: the columns of the table, then the answer; empty where none is known."""
    added = ["horizon", "time", "survival", "low", "high", "extrapolated", "median", "note"]
    rows = []
    for row, prediction in enumerate(predictions):
        given = {name: cells[row] for name, cells in table.columns.items()}
        rows += [given | _flat(prediction, answer) for answer in prediction.answers]
    write_csv(path, rows, columns=[*table.columns, *added])


def _flat(prediction: Prediction, answer: Answer) -> dict[str, object]:
    survival = answer.survival
    numbers = (f"{survival.value:.6f}", f"{survival.low:.6f}", f"{survival.high:.6f}") if survival else ("", "", "")
    middle = f"{prediction.median.value:.6g}" if np.isfinite(prediction.median.value) else ""
    return dict(zip(("survival", "low", "high"), numbers, strict=True)) | {
        "horizon": answer.words, "time": answer.time, "extrapolated": answer.extrapolated, "median": middle,
        "note": "" if survival else answer.text,
    }  # fmt: skip
