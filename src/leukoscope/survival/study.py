"""Chances in plain words: how many of 100 patients, between which limits, by when."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..files import provenance, write_json
from .aft import fit_aft
from .cohort import Cohort, describe
from .comparison import compare
from .curves import Horizon, Interval, fitting_horizons, median_follow_up, parse_horizon
from .fitting import Fitted, StudySettings, explain_fit, fit_model
from .model import SurvivalModel, write_model
from .scores import MOST_PATIENTS, PENALTIES, as_dict, judge, optimism

NOTICE = "Research use, not a diagnosis; not for decisions about a patient."
ONE_SIDED = 0.05  # the chance that a one-sided 95 % limit leaves out


def deadly(event: str) -> bool:
    """Tell whether an event is death from any cause, so that those without it are alive."""
    return event.lower() in {"death", "died", "dead", "death from any cause", "all-cause death"}


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
    """Return the limits of a share: 'between 51 and 71'; at exactly 0 or 1 there is no way to compute any."""
    if interval.low == interval.value == interval.high:
        return "no limits can be given"
    return f"between {of_hundred(interval.low)} and {of_hundred(interval.high)}"


def state(event: str, *, share: float, competing: bool) -> str:
    """Say what the share of people counts: the living, those without the event, or those who have had it."""
    one = round(100 * share) == 1
    if competing:
        return f"{'has' if one else 'have'} {happened(event)}"
    if deadly(event):
        return "is alive" if one else "are alive"
    return f"{'has' if one else 'have'} had no {event}"


def happened(event: str) -> str:
    """Return an event as something people have done.

    >>> happened("death in remission"), happened("relapse"), happened("graft failure")
    ('died in remission', 'relapsed', 'had graft failure')
    """
    word, *rest = event.split()
    verb = {"death": "died", "dead": "died", "died": "died", "relapse": "relapsed"}.get(word.lower())
    return " ".join([verb, *rest]) if verb else f"had {event}"


def any_of(events: Sequence[str]) -> str:
    """Name several events as one.

    >>> any_of(["relapse", "death", "graft failure"])
    'relapse, death or graft failure'
    """
    return " or ".join(filter(None, [", ".join(events[:-1]), *events[-1:]]))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(2, "row"), counted(12000, "patient")
    ('1 row', '2 rows', '12,000 patients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_stage(column: str, stage: str) -> str:
    """Name a stage with its column, unless the stage's own name says it.

    >>> in_stage("Phase", "CR1"), in_stage("stage", "Stage II"), in_stage("sokal", "sokal ≤ 0.8")
    ('Phase CR1', 'Stage II', 'sokal ≤ 0.8')
    """
    return stage if column.lower() in stage.lower() else f"{column} {stage}"


def short(value: float, digits: int = 3) -> str:
    """Return a number with a few significant digits, never in powers of ten.

    >>> short(1234567.0), short(8.7312), short(0.01234), short(0.0), short(1e-7)
    ('1234567', '8.73', '0.0123', '0', 'below 0.0001')
    """
    if 0 < abs(value) < 1e-4:
        return "below 0.0001" if value > 0 else "between −0.0001 and 0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


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
    return f"no {event} was seen by {when}; {who} followed that far, so up to {most} of 100 could have it (95 % limit)."


def count_sentence(when: str, *, events: Sequence[str], survival: Interval, incidence: Interval) -> str:
    """Return how many of 100 are alive (with competing events: have had the first one) after a time, and the limits."""
    competing = len(events) > 1
    share = incidence if competing else survival
    what = state(events[0], share=share.value, competing=competing)
    return f"{of_hundred(share.value)} {what} after {when}; {between(share)}."


def listing(items: Sequence[str]) -> str:
    """Join words as a sentence does.

    >>> listing(["I", "II", "III"])
    'I, II and III'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


FORMAT = 1
JUDGED_EVENTS = 20  # fewer events cannot be dealt into folds that each hold a few
SHRINK_BELOW = 20  # events per coefficient; above it a penalty has little to mend and is not tried
SAMPLED_PATIENTS = 25_000  # in all bootstrap samples together: optimism shrinks, and is surer, as a cohort grows
FEWEST_SAMPLES = 10


@dataclass(frozen=True)
class Study:
    """`result` is what survival.json holds; `model` is what model.json holds."""

    result: dict[str, Any]
    model: SurvivalModel


def run_study(cohort: Cohort, settings: StudySettings, *, title: str = "Survival by stage") -> Study:
    """Compare the stages, fit a model, judge it."""
    started = time.perf_counter()
    rng = np.random.default_rng(settings.seed)
    horizons = choose_horizons(cohort, settings)
    fitted = fit_model(cohort)
    judgement, fitted, limits = _judged(cohort, settings, fitted=fitted, horizons=horizons, rng=rng)
    model = _finished(fitted, cohort, horizons=horizons, judgement=judgement)
    result = {
        "format": FORMAT,
        "title": title,
        "settings": settings.model_dump(mode="json"),
        "cohort": describe(cohort)
        | {"median_follow_up": as_dict(median_follow_up(cohort.time, cohort.state, start=cohort.entry))},
        "horizons": [{"time": horizon.time, "words": horizon.words} for horizon in horizons],
        "comparison": compare(cohort, horizons=horizons),
        "model": explain_fit(fitted, extrapolation=model.extrapolation),
        "judgement": judgement,
        "limits": _limits(cohort, fitted) + limits,
        "provenance": _provenance(settings.seed) | {"seconds": round(time.perf_counter() - started, 2)},
    }
    return Study(result, model)


def _provenance(seed: int) -> dict[str, Any]:
    facts = provenance(seed=seed)
    facts["packages"]["lifelines"] = metadata.version("lifelines")
    return facts


def write_study(folder: Path, study: Study) -> None:
    """Write survival.json and model.json into a folder."""
    write_json(folder / "survival.json", study.result)
    write_model(folder / "model.json", study.model)


def choose_horizons(cohort: Cohort, settings: StudySettings) -> tuple[Horizon, ...]:
    """Return the horizons asked for, or usual ones between the median of the events and the end of the follow-up.

    The end is where only a tenth of the patients are still followed.
    """
    if settings.horizons:
        asked = {found.time: found for text in settings.horizons for found in [parse_horizon(text, unit=cohort.unit)]}
        return tuple(asked[when] for when in sorted(asked))
    first, last = float(np.median(cohort.time[cohort.state > 0])), float(np.quantile(cohort.time, 0.9))
    usual = fitting_horizons(first=first, last=last, unit=cohort.unit)
    return usual or (parse_horizon(f"{first or float(cohort.time.max()):.2g}", unit=cohort.unit),)


def _judged(
    cohort: Cohort, settings: StudySettings, *, fitted: Fitted, horizons: Sequence[Horizon], rng: np.random.Generator
) -> tuple[dict[str, Any] | None, Fitted, list[str]]:
    """Judge the model; take a penalised one instead where it is better beyond doubt."""
    if not fitted.causes or fitted.design is None:
        return None, fitted, ["Not judged: there is no model, only the curves of the stages."]
    judged, notes = _judgeable(fitted.design.cohort, rng)
    within = tuple(horizon for horizon in horizons if horizon.time < judged.time.max())
    events = int((judged.state == 1).sum())
    if hindrance := _hindrance(fitted, events=events, within=within):
        return None, fitted, [f"Not judged: {hindrance}."]
    penalties = PENALTIES if events < SHRINK_BELOW * fitted.coefficients else ()
    judgement = judge(
        judged, horizons=within, folds=settings.folds, repeats=settings.repeats, penalties=penalties, rng=rng
    )
    penalty = _better_penalty(judgement)
    judgement["chosen"] = f"ridge {penalty:g}" if penalty else "model"
    judgement["tried"] = [f"ridge {p:g}" for p in penalties]
    samples = min(settings.bootstrap, max(FEWEST_SAMPLES, SAMPLED_PATIENTS // len(judged)))
    judgement["optimism"] = optimism(judged, horizons=within, samples=samples, penalty=penalty, rng=rng)
    return judgement, fit_model(cohort, penalty=penalty) if penalty else fitted, notes


def _hindrance(fitted: Fitted, *, events: int, within: Sequence[Horizon]) -> str:
    """Say what makes a judgement impossible, if anything does."""
    if events < JUDGED_EVENTS:
        return (
            f"{counted(events, 'event')} {'is' if events == 1 else 'are'} too few to test the model on unseen patients"
        )
    if not within:
        return "no horizon lies before the end of the follow-up"
    if not fitted.coefficients and not fitted.causes[0].model.strata:
        return "without stages and covariates all patients have the same curve, and there is nothing to rank by"
    return ""


def _judgeable(cohort: Cohort, rng: np.random.Generator) -> tuple[Cohort, list[str]]:
    if len(cohort) <= MOST_PATIENTS:
        return cohort, []
    part = np.sort(rng.choice(len(cohort), MOST_PATIENTS, replace=False))
    return cohort.take(part), [f"The model was judged on {MOST_PATIENTS} patients drawn at random from {len(cohort)}."]


def _better_penalty(judgement: dict[str, Any]) -> float:
    """Return the ridge penalty whose Brier score is lower with its whole interval, or 0."""
    better = {
        name: difference["integrated_brier"]
        for name, difference in judgement["differences"].items()
        if name.startswith("ridge") and (difference["integrated_brier"]["low"] or 0) > 0
    }
    best = max(better, key=lambda name: better[name]["value"], default="")
    return float(best.removeprefix("ridge ")) if best else 0.0


def _finished(
    fitted: Fitted, cohort: Cohort, *, horizons: Sequence[Horizon], judgement: dict[str, Any] | None
) -> SurvivalModel:
    """Add what a model carries for its user: horizons, a curve to extrapolate with, where it comes from."""
    single = not cohort.competing and fitted.design is not None and bool(fitted.causes)
    facts = {
        "cohort": cohort.where, "patients": len(cohort), "events": int((cohort.state == 1).sum()),
        "c_index": judgement["estimators"][judgement["chosen"]]["c_index"] if judgement else None,
        "use": NOTICE,
    }  # fmt: skip
    return replace(
        fitted.model, facts=facts, horizons=tuple((horizon.time, horizon.words) for horizon in horizons),
        extrapolation=fit_aft(fitted.design) if single and fitted.design else None,
    )  # fmt: skip


def _limits(cohort: Cohort, fitted: Fitted) -> list[str]:
    limits = list(fitted.notes)
    limits += [
        f"{fact[0].upper()}{fact[1:]}: the model does not cover this stage."
        for fact in (fitted.model.unmodelled.values() if fitted.causes else ())
    ]
    if len(cohort.stages) == 1:
        limits.append(f"There is only one stage ({cohort.stages[0]}), so nothing is compared.")
    return limits + _emptied(cohort, fitted)


def _emptied(cohort: Cohort, fitted: Fitted) -> list[str]:
    """Name the stages whose curve falls to zero early because late entry left too few under observation."""
    curves = {name: stage["survival"] for name, stage in fitted.model.stage_curves.items()}
    zero = {name: float(curve.times[curve.value <= 0][0]) for name, curve in curves.items() if (curve.value <= 0).any()}
    return [
        f"The curve of {in_stage(cohort.stage_column, name)} falls to zero at {short(when)} {cohort.unit}, where so "
        "few were under observation (late entry) that all of them had the event; it says nothing of those who entered "
        "later."
        for name, when in zero.items()
        if when < curves[name].last
    ]
