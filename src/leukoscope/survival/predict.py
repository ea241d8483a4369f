"""Answer for one patient: chances at horizons with intervals, the median, a curve, and how far the data go.

`answer` is the face for other programs: a model, a stage and covariates in, a plain dict out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UnknownNameError, UsageError
from ..files import write_csv
from .curves import Array, Curve, Interval, median, read_at
from .model import ColumnFacts, SurvivalModel, extrapolated_survival, patient_curves
from .table import (
    Horizon,
    PatientTable,
    as_number,
    cut_stages,
    happened,
    in_stage,
    in_words,
    is_missing,
    join_words,
    parse_horizon,
    short,
    tidy,
)

NOTICE = "Research use, not a diagnosis; not for decisions about a patient."
ONE_SIDED = 0.05  # the chance that a one-sided 95 % limit leaves out
_ALIKE = "patients like this one"
_UNKNOWN = Interval(np.nan, np.nan, np.nan)
_BOLD = 2.0  # times the longest follow-up; what is extrapolated past it is little more than a guess


@dataclass(frozen=True)
class Answer:
    """What is known at one horizon; `survival` is None past the data, and `reason` explains it."""

    time: float
    words: str
    survival: Interval | None
    incidence: dict[str, Interval]
    text: str
    extrapolated: bool = False


@dataclass(frozen=True)
class PatientPrediction:
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


def answer(
    model: SurvivalModel,
    stage: object,
    covariates: Mapping[str, object] | None = None,
    *,
    horizons: Sequence[str] = (),
    extrapolate: bool = False,
) -> dict[str, Any]:
    """Predict for one patient and return plain numbers and sentences, ready for JSON.

    Keys: `horizons` (each with `time`, `words`, `text`, `extrapolated`, and `survival` and `incidence` by event as
    {value, low, high}, null and empty where nothing is known), `median`, `median_text`, `sentences`, `warnings`,
    `notice`, `patient`, `events`, `unit`, `method`, `last_follow_up`. Times are in `unit`; shares lie in [0, 1];
    intervals are 95 %. `horizons` are written as on the command line: '2 years'.

    Raises:
        UsageError, UnknownNameError: a value is missing, unknown or no number.
    """
    requested = [parse_horizon(text, unit=model.unit) for text in horizons]
    patient = {model.stage_column: str(stage)} | {
        _free(name, model): str(value) for name, value in (covariates or {}).items()
    }
    return as_json(ask(model, patient, horizons=requested, extrapolate=extrapolate))


def _free(name: str, model: SurvivalModel) -> str:
    """Return the name of a covariate, which cannot be the stage's.

    Raises:
        UsageError: the stage is given among the covariates.
    """
    if _matching(name, [*_known(model), *model.left_out]) == model.stage_column:
        raise UsageError(f"'{name}' is the stage; give it once, not among the covariates too.")
    return name


def fields_of(model: SurvivalModel) -> list[dict[str, Any]]:
    """Describe the form that asks for a patient: name, kind (choice or number), choices, and the range seen."""
    stage: dict[str, Any] = {"name": model.stage_column, "kind": "choice", "choices": list(model.stages)}
    if model.stage_cuts:
        stage = {"name": model.stage_column, "kind": "number", "cuts": list(model.stage_cuts)}
    covariates = {facts.source: facts for facts in reversed(model.columns)}
    return [stage, *({"name": name} | _field(facts) for name, facts in reversed(covariates.items()))]


def _field(facts: ColumnFacts) -> dict[str, Any]:
    if facts.levels:
        return {"kind": "choice", "choices": list(facts.levels)}
    return {"kind": "number", "low": facts.low, "high": facts.high, "typical": facts.mean}


def ask(
    model: SurvivalModel, patient: Mapping[str, str], *, horizons: Sequence[Horizon] = (), extrapolate: bool = False
) -> PatientPrediction:
    """Predict for one patient, given as text by column name; the horizons of the model unless others are given.

    Raises:
        UsageError, UnknownNameError: a value is missing, unknown or no number.
    """
    columns, stated, notes = _columns(model, patient)
    requested = horizons or [Horizon(time, words) for time, words in model.horizons]
    if model.facts.get("landmark"):
        notes = [
            f"Times count from {model.facts['landmark']} after the start, for who lived to then without an event.",
            *notes,
        ]
    stage = str(columns[model.stage_column][0])
    if far := [note for facts in model.columns for note in _far(facts, columns)]:
        return _no_answer(model, stated, requested, far)
    covered = _covers(model, stage)
    if covered:
        curves = patient_curves(model, columns, points=400, at=[horizon.time for horizon in requested])
        method = "Cox model; intervals by the delta method"
        notes += _borrowed(model, stage, requested, end=curves["survival"].last)
    else:
        curves, method = model.stage_curves[stage], f"Observed curve of {in_stage(model.stage_column, stage)}"
        notes += _why_observed(model, stage, extrapolate=extrapolate)
    outside = survivor(model, columns) if extrapolate and (covered or not model.causes) else None
    answers = tuple(_answer(model, stage, curves, horizon, extrapolate=outside) for horizon in requested)
    last = curves["survival"].last
    middle = median(curves["survival"])
    text = _median_text(middle, model, last=last)
    return PatientPrediction(
        stated, model.unit, model.events, answers, middle, text, curves, tuple(notes), method, last
    )


def _covers(model: SurvivalModel, stage: str) -> bool:
    return bool(model.causes) and stage not in model.unmodelled


def _no_answer(
    model: SurvivalModel, stated: dict[str, str], requested: Sequence[Horizon], why: Sequence[str]
) -> PatientPrediction:
    """Give no number for a patient unlike any that the model saw."""
    answers = tuple(
        Answer(h.time, h.words, None, {}, f"After {h.words}: no number, since {' and '.join(why)}.") for h in requested
    )
    note = f"No number is given: {' and '.join(why)}. Check the value and its unit."
    text = f"{_median_of(model)}: no number."
    return PatientPrediction(stated, model.unit, model.events, answers, _UNKNOWN, text, {}, (note,), "No answer")


def _why_observed(model: SurvivalModel, stage: str, *, extrapolate: bool) -> list[str]:
    if stage not in model.unmodelled:
        return ["There were too few events for a model, so this is the curve of the stage; covariates are not used."]
    smooth = " There is nothing to extrapolate from." if extrapolate else ""
    return [f"The model does not cover this stage: {model.unmodelled[stage]}. Covariates are not used.{smooth}"]


def _borrowed(model: SurvivalModel, stage: str, requested: Sequence[Horizon], *, end: float) -> list[str]:
    """Say where an answer, none of which is past `end`, rests on other stages: nobody of its own lasted so long."""
    last = model.stage_curves[stage]["survival"].last if stage in model.stage_curves else np.inf
    if not any(last < horizon.time <= end for horizon in requested):
        return []
    return [
        f"Nobody with {in_stage(model.stage_column, stage)} was followed past {in_words(last, model.unit)}; "
        "later times depend on the other stages and on proportional hazards."
    ]


def survivor(model: SurvivalModel, columns: Mapping[str, Array]) -> Any:
    """Return the function that extrapolates survival to a time, or None where the model has none.

    Raises:
        UsageError: the model does not support extrapolation.
    """
    fit = model.extrapolation
    if fit is None:
        raise UsageError(
            "This model has no smooth curve to extrapolate with (competing events, or none could be fitted). "
            "Ask within the follow-up."
        )
    return lambda when: extrapolated_survival(fit, columns, when)


def _columns(model: SurvivalModel, patient: Mapping[str, str]) -> tuple[dict[str, Array], dict[str, str], list[str]]:
    """Return the patient as columns of one row, as stated, and notes on values outside the training data."""
    known = _known(model)
    given = _given(patient, [*known, *model.left_out])
    unused = [name for name in model.left_out if given.pop(name, "")]
    notes = [f"{name} was left out when the model was fitted, so it changes nothing here." for name in unused]
    _need(given, [model.stage_column])
    stage = _stage(model, given[model.stage_column])
    columns: dict[str, Array] = {model.stage_column: np.array([stage])}
    if _covers(model, stage):
        _need(given, known)
        for facts in model.columns:
            columns[facts.name] = _value(facts, given[facts.source], notes)
    return columns, {**given, model.stage_column: stage}, notes


def _known(model: SurvivalModel) -> list[str]:
    """Return the columns that a patient is described by, the stage first."""
    return list(dict.fromkeys([model.stage_column, *(facts.source for facts in model.columns)]))


def _given(patient: Mapping[str, str], known: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in patient.items():
        column = _matching(name, known)
        if column in given:
            raise UsageError(f"{column} is given twice: '{given[column]}' and '{value.strip()}'. Give it once.")
        given[column] = value.strip()
    return given


def _need(given: Mapping[str, str], known: Sequence[str]) -> None:
    missing = [name for name in known if is_missing(given.get(name, ""))]
    if missing:
        raise UsageError(
            f"The model also needs: {', '.join(missing)}. Give each, such as --{_plain(missing[0])} VALUE."
        )


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
            raise UsageError(f"No patient of the cohort had {name}, so nothing is known about {text}.")
        return name
    same = [stage for stage in model.stages if stage.casefold() == tidy(text).casefold()]
    if not same:
        raise UnknownNameError(model.stage_column, text, model.stages)
    return same[0]


def _value(facts: ColumnFacts, text: str, notes: list[str]) -> Array:
    if facts.levels:
        same = [level for level in facts.levels if level.casefold() == tidy(text).casefold()]
        if not same:
            raise UnknownNameError(facts.source, text, facts.levels)
        return np.array(same[:1])
    value = _number(facts.source, text)
    if value < 0 <= facts.low:
        raise UsageError(
            f"{facts.source} is {text}, but nobody whom the model learned from was below zero ({_range(facts)}): "
            "check the sign."
        )
    if not facts.low <= value <= facts.high:
        notes.append(
            f"{facts.source} {short(value)} is outside the range of the training data ({_range(facts)}); "
            "the answer is unreliable."
        )
    if facts.logarithm and value <= 0:
        raise UsageError(f"{facts.source} is {text}, but the model takes its logarithm: give a number above zero.")
    return np.array([np.log(value) if facts.logarithm else value])


def _range(facts: ColumnFacts) -> str:
    return f"{short(facts.low)} to {short(facts.high)}"


def _far(facts: ColumnFacts, columns: Mapping[str, Array]) -> list[str]:
    """Say where a number lies further outside what was seen than that is wide: there a model means nothing."""
    if facts.levels or facts.name not in columns:
        return []
    value, scale = float(columns[facts.name][0]), np.log if facts.logarithm else float
    low, high = float(scale(facts.low)), float(scale(facts.high))
    if max(low - value, value - high) <= high - low:
        return []
    stated = short(float(np.exp(value)) if facts.logarithm else value)
    return [f"{facts.source} {stated} is far outside the range of the training data ({_range(facts)})"]


def _number(name: str, text: str) -> float:
    """Read a number, a decimal comma too ('34,5'); '1,234' could mean either and is refused."""
    bare = text.strip()
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", bare):
        raise UsageError(f"{name} is '{text}', which can be read in two ways. Write it without a comma.")
    value = as_number(bare, decimal_comma=re.fullmatch(r"[-+]?\d+,\d+", bare) is not None)
    if value is None or not np.isfinite(value):
        raise UsageError(f"{name} is '{text}', which is not a number. Give one, such as 34 or 0.8.")
    return value


def _answer(
    model: SurvivalModel, stage: str, curves: Mapping[str, Curve], horizon: Horizon, *, extrapolate: Any
) -> Answer:
    incidence = read_at(curves, horizon.time)
    if not incidence:
        return _past(model, curves["survival"].last, horizon, extrapolate)
    survival = incidence.pop("survival")
    if incidence[model.events[0]].value == 0:
        return _none_seen(model, stage, {"survival": survival, **incidence}, horizon)
    if survival.value == 0 and model.all_had(stage, horizon.time):
        return _all_seen(model, stage, {"survival": survival, **incidence}, horizon)
    count = count_sentence(horizon.words, events=model.events, survival=survival, incidence=incidence[model.events[0]])
    return Answer(horizon.time, horizon.words, survival, incidence, f"Of 100 {_ALIKE}, {count}")


def _none_seen(model: SurvivalModel, stage: str, found: Mapping[str, Interval], horizon: Horizon) -> Answer:
    """Answer where no such patient had the event by then: with the limit that their number allows."""
    event, known = model.events[0], model.known_until(stage, horizon.time)
    chances = limited(found, event=event, known=known)
    return _at_an_end(model, stage, chances, horizon, none_seen(horizon.words, event=event, known=known))


def _all_seen(model: SurvivalModel, stage: str, found: Mapping[str, Interval], horizon: Horizon) -> Answer:
    """Answer where all such patients had the event by then: with the limit that their number allows."""
    event, patients = model.events[0], model.all_had(stage, horizon.time)
    chances = all_limited(found, event=event, patients=patients)
    return _at_an_end(model, stage, chances, horizon, all_seen(horizon.words, event=event, patients=patients))


def _at_an_end(model: SurvivalModel, stage: str, chances: dict[str, Interval], horizon: Horizon, words: str) -> Answer:
    text = f"Among patients with {in_stage(model.stage_column, stage)}, {words}"
    return Answer(horizon.time, horizon.words, chances.pop("survival"), chances, text)


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
    if horizon.time > _BOLD * last:
        text += (
            f" It lies {short(horizon.time / last, 2)} times as far as anybody was followed: little more than a guess."
        )
    return Answer(horizon.time, horizon.words, survival, {model.events[0]: died}, text, extrapolated=True)


def _median_of(model: SurvivalModel) -> str:
    """Name what the median counts."""
    if len(model.events) > 1:
        return f"Median time to the first event of any kind ({join_words(model.events, word='or')})"
    return "Median survival" if deadly(model.events[0]) else f"Median time to {model.events[0]}"


def _median_text(middle: Interval, model: SurvivalModel, *, last: float) -> str:
    what = _median_of(model)
    if not np.isfinite(middle.value):
        return f"{what}: not reached within the follow-up of {in_words(last, model.unit)}."
    high = short(middle.high) if np.isfinite(middle.high) else "beyond the follow-up"
    return f"{what}: {short(middle.value)} {model.unit} (between {short(middle.low)} and {high})."


def as_json(prediction: PatientPrediction) -> dict[str, Any]:
    """Return a prediction for JSON (curves left out); an endless time or an unknown number is null."""
    return {
        "notice": NOTICE,
        "patient": prediction.patient,
        "events": list(prediction.events),
        "unit": prediction.unit,
        "method": prediction.method,
        "horizons": [
            {
                "time": answer.time,
                "words": answer.words,
                "text": answer.text,
                "extrapolated": answer.extrapolated,
                "survival": _plain_interval(answer.survival),
                "incidence": {event: _plain_interval(interval) for event, interval in answer.incidence.items()},
            }
            for answer in prediction.answers
        ],
        "median": _plain_interval(prediction.median),
        "median_text": prediction.median_text,
        "last_follow_up": prediction.last,
        "warnings": list(prediction.notes),
        "sentences": [*(found.text for found in prediction.answers), prediction.median_text],
    }


def _plain_interval(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def ask_table(
    model: SurvivalModel, table: PatientTable, *, horizons: Sequence[Horizon] = (), extrapolate: bool = False
) -> list[PatientPrediction]:
    """Predict for every row of a table; columns that the model does not know are passed over.

    Names of columns may differ in case and dashes; decimal commas are read where the table has them.

    Raises:
        DataError: a row cannot be answered; names its line.
    """
    columns = {name: _cells(model, table, name) for name in _known(model)}
    predictions = []
    for row, line in enumerate(table.lines):
        patient = {name: cells[row] for name, cells in columns.items()}
        try:
            predictions.append(ask(model, patient, horizons=horizons, extrapolate=extrapolate))
        except UsageError as error:
            raise DataError(f"{table.where}, line {line}: {error}") from None
    return predictions


def _cells(model: SurvivalModel, table: PatientTable, name: str) -> list[str]:
    """Return the cells of the column that the model calls `name`, numbers with decimal points.

    Raises:
        DataError: two columns could be meant.
        UnknownNameError: there is none.
    """
    same = [other for other in table.columns if _plain(other) == _plain(name)]
    if not same and name == model.stage_column:
        same = [other for other in table.columns if _plain(other) == "stage"]
    exact = [other for other in same if other == name] or same
    if len(exact) > 1:
        raise DataError(f"{table.where}: {' and '.join(exact)} could all be '{name}'. Rename or remove one of them.")
    cells = table.column(exact[0] if exact else name)
    numeric = any(facts.source == name and not facts.levels for facts in model.columns)
    if table.decimal_comma and (numeric or (model.stage_cuts and name == model.stage_column)):
        return [cell.replace(",", ".") for cell in cells]
    return cells


def write_predictions(path: Path, predictions: Sequence[PatientPrediction], table: PatientTable) -> None:
    """Write one row per patient and horizon: the columns of the table, then the answer; empty where none is known.

    A column of the table that bears the name of one of ours keeps it; ours then begins with 'predicted '.
    """
    rows: list[dict[str, object]] = []
    added: dict[str, str] = {}
    for row, prediction in enumerate(predictions):
        given = {name: cells[row] for name, cells in table.columns.items()}
        for found in prediction.answers:
            flat = _flat(prediction, found)
            added = {name: f"predicted {name}" if name in table.columns else name for name in flat}
            rows.append(given | {added[name]: value for name, value in flat.items()})
    write_csv(path, rows, columns=[*table.columns, *added.values()])


def _flat(prediction: PatientPrediction, found: Answer) -> dict[str, object]:
    """Return one answer as cells: survival, or with competing events 'event-free' and each event's incidence."""
    competing = len(prediction.events) > 1
    cells: dict[str, object] = {"horizon": found.words, "time": float(f"{found.time:.6g}")}
    cells |= _limits("event-free" if competing else "survival", found.survival)
    for event in prediction.events if competing else ():
        cells |= _limits(event, found.incidence.get(event))
    middle = f"{prediction.median.value:.6g}" if np.isfinite(prediction.median.value) else ""
    return cells | {
        "median": middle,
        "extrapolated": found.extrapolated,
        "answer": found.text,
        "warnings": " ".join(prediction.notes),
        "notice": NOTICE,
    }


def _limits(name: str, interval: Interval | None) -> dict[str, object]:
    values = (interval.value, interval.low, interval.high) if interval else ()
    names = (name, f"{name} low", f"{name} high")
    return dict(zip(names, [f"{value:.4f}" for value in values] or ["", "", ""], strict=True))


def deadly(event: str) -> bool:
    """Tell whether an event is death from any cause, so that those without it are alive."""
    return event.lower() in {"death", "died", "dead", "death from any cause", "all-cause death"}


def still(events: Sequence[str]) -> str:
    """Say what the people have in common whom a survival curve counts.

    >>> still(["death"]), still(["relapse"]), still(["relapse", "death"])
    ('alive', 'without relapse', 'free of every event')
    """
    if len(events) > 1:
        return "free of every event"
    return "alive" if deadly(events[0]) else f"without {events[0]}"


def of_hundred(share: float) -> str:
    """Return a share as a whole number of 100; 'fewer than one' and 'more than 99' instead of a false 0 or 100.

    >>> of_hundred(0.618), of_hundred(0.003), of_hundred(1.0)
    ('62', 'fewer than one', '100')
    """
    percent = 100 * share
    if 0 < percent < 0.5:
        return "fewer than one"
    if 99.5 < percent < 100:
        return "more than 99"
    return str(round(percent))


def between(interval: Interval) -> str:
    """Return the limits of a share: 'between 51 and 71'; a curve has none where it has reached 0 or 1."""
    if not interval.low < interval.high:  # equal, or not defined
        return "no limits can be given, since not all were followed from the start until the event"
    return f"between {of_hundred(interval.low)} and {of_hundred(interval.high)}"


def state(event: str, *, share: float, competing: bool) -> str:
    """Say what the share of people counts: the living, those without the event, or those who have had it."""
    one = round(100 * share) == 1
    if competing:
        return f"{'has' if one else 'have'} {happened(event)}"
    if deadly(event):
        return "is alive" if one else "are alive"
    return f"{'has' if one else 'have'} had no {event}"


def upper_limit(known: int) -> float:
    """Return the one-sided 95 % limit of a chance when none of `known` patients had the event (Clopper–Pearson).

    >>> round(upper_limit(14), 3)
    0.193
    """
    return 1 - float(ONE_SIDED ** (1 / known)) if known else 1.0


def limited(found: Mapping[str, Interval], *, event: str, known: int) -> dict[str, Interval]:
    """Give a chance at which nobody had the event its one-sided limit, which no curve can show."""
    most = upper_limit(known)
    limits = {event: Interval(0.0, 0.0, most)}
    if found["survival"].value == 1:
        limits["survival"] = Interval(1.0, 1 - most, 1.0)
    return {**found, **limits}


def none_seen(when: str, *, event: str, known: int) -> str:
    """Say what is known where nobody had the event by a time: how many were followed so far, and an upper limit."""
    if not known:
        return f"no {event} was seen by {when}, but nobody was followed that far: no number."
    most = of_hundred(upper_limit(known))
    who = "one patient was" if known == 1 else f"{known:,} patients were"
    limit = f"up to {most} of 100 could have {happened(event)} (95 % limit)"
    return f"no {event} was seen by {when}; {who} followed that far, so {limit}."


def all_limited(found: Mapping[str, Interval], *, event: str, patients: int) -> dict[str, Interval]:
    """Give a chance at which all of the patients had the event its one-sided limit: `limited` the other way round."""
    most = upper_limit(patients)
    return {**found, event: Interval(1.0, 1 - most, 1.0), "survival": Interval(0.0, 0.0, most)}


def all_seen(when: str, *, event: str, patients: int) -> str:
    """Say what is known where all had the event by a time: how many they were, and the limit of those who might not.

    >>> all_seen("two years", event="death", patients=14)
    'all 14 died by two years, so up to 19 of 100 could still be alive (95 % limit).'
    >>> all_seen("two years", event="death", patients=1)
    'the one patient died by two years, so up to 95 of 100 could still be alive (95 % limit).'
    """
    most = of_hundred(upper_limit(patients))
    who = "the one patient" if patients == 1 else f"all {patients:,}"
    return f"{who} {happened(event)} by {when}, so up to {most} of 100 could still be {still([event])} (95 % limit)."


def count_sentence(when: str, *, events: Sequence[str], survival: Interval, incidence: Interval) -> str:
    """Return how many of 100 are alive (with competing events: have had the first one) after a time, and the limits."""
    competing = len(events) > 1
    share = incidence if competing else survival
    what = state(events[0], share=share.value, competing=competing)
    return f"{of_hundred(share.value)} {what} after {when}; {between(share)}."
