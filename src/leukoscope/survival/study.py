"""The comparison of the stages as survival.json holds it, with the TRIPOD+AI checklist.

What the run knows answers the checklist; what only the authors know is left open.

Items: Collins et al. (2024), BMJ 385:e078378, doi 10.1136/bmj-2023-078378; named here in our own words.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from ..files import provenance, write_json
from ..progress import blas_threads
from .cohort import Cohort, describe
from .cox import late_gray
from .curves import (
    Z95,
    Array,
    ChiSquared,
    Curve,
    Functional,
    Interval,
    RiskTable,
    gray,
    holm,
    known_until_the_end,
    logrank,
    logrank_trend,
    median,
    median_follow_up,
    pairwise,
    read_at,
    restricted_mean,
    restricted_mean_difference,
    risk_table,
    thinned,
    time_lost,
)
from .fitting import Fitted, all_had, curves_of, explain_fit, fit_aft, fit_model, known_until
from .model import SurvivalModel, write_model
from .predict import NOTICE, all_limited, all_seen, count_sentence, deadly, limited, none_seen
from .scores import MOST_PATIENTS, as_dict, judge, optimism
from .table import (
    Horizon,
    StudySettings,
    counted,
    fitting_horizons,
    in_stage,
    in_words,
    join_words,
    parse_horizon,
    short,
)

_TICKS = 6


def compare(cohort: Cohort, *, horizons: Sequence[Horizon]) -> dict[str, Any]:
    """Describe every stage and test whether they differ."""
    curves = {name: curves_of(cohort.take(cohort.stage == place)) for place, name in enumerate(cohort.stages)}
    ticks = _ticks(float(cohort.time.max()), unit=cohort.unit)
    until = _restriction(curves, horizons)
    return {
        "ticks": ticks.tolist(),
        "stages": {
            name: _stage(
                cohort.take(cohort.stage == place), name, curves[name], horizons=horizons, ticks=ticks, until=until
            )
            for place, name in enumerate(cohort.stages)
        },
        "tests": _tests(cohort) if len(cohort.stages) > 1 else {},
        "restricted_mean": {"until": until, "differences": _mean_differences(curves, until)},
        "time_lost": _lost_differences(cohort, until),
    }


def _ticks(last: float, *, unit: str) -> Array:
    """Return about six round times from zero to the last follow-up; months go in halves and wholes of years."""
    steps = [1.0, 3, 6, 12, 24, 36, 60, 120] if unit == "months" else []
    power = 10 ** np.floor(np.log10(last / _TICKS)) if last > 0 else 1.0
    steps += [factor * power for factor in (1, 2, 2.5, 5, 10)]
    fitting = [step for step in steps if last / step <= _TICKS + 1] or [last]
    step = (fitting if unit == "months" and last > _TICKS else sorted(fitting))[0] or 1.0
    return np.asarray(np.arange(0, last + step / 1e6, step))


def _restriction(curves: Mapping[str, Mapping[str, Curve]], horizons: Sequence[Horizon]) -> float:
    """Return the latest horizon that every stage was followed to, or else the shortest of the follow-ups.

    A stage in which everybody had an event hides nothing, however early that was.
    """
    hiding = [stage["survival"].last for stage in curves.values() if not known_until_the_end(stage["survival"])]
    shortest = min(hiding, default=max(stage["survival"].last for stage in curves.values()))
    return max((horizon.time for horizon in horizons if horizon.time <= shortest), default=shortest)


def _stage(
    cohort: Cohort, name: str, curves: Mapping[str, Curve], *, horizons: Sequence[Horizon], ticks: Array, until: float
) -> dict[str, Any]:
    mean, error = restricted_mean(curves["survival"], until=until)
    who = f"patients with {in_stage(cohort.stage_column, name)}"
    return {
        "curves": {key: _curve(curve) for key, curve in curves.items()},
        "at_risk": [int(((cohort.time >= tick) & (cohort.start <= tick)).sum()) for tick in ticks],
        "median": as_dict(median(curves["survival"])),
        "restricted_mean": _open(Interval(mean, mean - Z95 * error, mean + Z95 * error), error > 0),
        "time_lost": _time_lost(cohort, until) if cohort.competing else {},
        "horizons": [_at(cohort, curves, horizon, who) for horizon in horizons],
    }


def _time_lost(cohort: Cohort, until: float) -> dict[str, Any]:
    """Return the mean time lost to each event within `until`; with the mean time free of events they add to it."""
    found = {event: _lost_to(cohort, until, cause) for cause, event in enumerate(cohort.events, start=1)}
    return {event: _open(lost.interval, lost.error > 0) for event, lost in found.items()}


def _lost_to(cohort: Cohort, until: float, cause: int) -> Functional:
    return time_lost(cohort.time, cohort.state, until=until, start=cohort.entry, cause=cause)


def _lost_differences(cohort: Cohort, until: float) -> dict[str, list[dict[str, Any]]]:
    """Return for every event the difference in mean time lost of each pair of stages, with Holm's correction."""
    parts = [cohort.take(cohort.stage == place) for place in range(len(cohort.stages))]
    differences = {}
    for cause, event in enumerate(cohort.events, start=1) if cohort.competing else ():
        lost = [_lost_to(part, until, cause) for part in parts]
        pairs = list(combinations(range(len(parts)), 2))
        estimable = [lost[a].error > 0 and lost[b].error > 0 for a, b in pairs]
        errors = [float(np.hypot(lost[a].error, lost[b].error)) for a, b in pairs]
        gaps = [lost[b].value - lost[a].value for a, b in pairs]
        ps = [
            float(2 * norm.sf(abs(gap / error))) if some else None
            for gap, error, some in zip(gaps, errors, estimable, strict=True)
        ]
        corrected = iter(holm([p for p in ps if p is not None]))
        differences[event] = [
            {
                "stages": [cohort.stages[a], cohort.stages[b]],
                **_open(Interval(gap, gap - Z95 * error, gap + Z95 * error), some),
                "p": p,
                "p_holm": next(corrected) if some else None,
            }
            for (a, b), gap, error, some, p in zip(pairs, gaps, errors, estimable, ps, strict=True)
        ]
    return differences


def _curve(curve: Curve) -> dict[str, Any]:
    """Return a curve to be drawn, at up to 2,000 of its steps; a limit that does not exist is null."""
    drawn = thinned(curve)
    limits = {key: [float(x) if np.isfinite(x) else None for x in getattr(drawn, key)] for key in ("low", "high")}
    return {
        "times": drawn.times.tolist(),
        "value": drawn.value.tolist(),
        **limits,
        "last": curve.last,
        "start": curve.start,
    }


def _at(cohort: Cohort, curves: Mapping[str, Curve], horizon: Horizon, who: str) -> dict[str, Any]:
    """Return what is known at one horizon: numbers, `text` (a sentence) and `count` (its end, for a list)."""
    at_risk = int(((cohort.time >= horizon.time) & (cohort.start <= horizon.time)).sum())
    facts = {"words": horizon.words, "time": horizon.time, "at_risk": at_risk}
    known = read_at(curves, horizon.time)
    if not known:
        last = f"{short(curves['survival'].last)} {cohort.unit}"
        none = f"no number after {horizon.words}: nobody was followed past {last}."
        return facts | {"text": f"For {who}, {none}", "count": none}
    incidence = known[cohort.events[0]]
    if incidence.value == 0:
        seen = known_until(cohort, horizon.time)
        none = none_seen(horizon.words, event=cohort.events[0], known=seen)
        facts |= {key: as_dict(value) for key, value in limited(known, event=cohort.events[0], known=seen).items()}
        return facts | {"text": f"For {who}, {none}", "count": none}
    if patients := all_had(cohort, horizon.time):
        every = all_seen(horizon.words, event=cohort.events[0], patients=patients)
        chances = all_limited(known, event=cohort.events[0], patients=patients)
        facts |= {key: as_dict(value) for key, value in chances.items()}
        return facts | {"text": f"For {who}, {every}", "count": every}
    facts |= {key: as_dict(value) for key, value in known.items()}
    count = count_sentence(horizon.words, events=cohort.events, survival=known["survival"], incidence=incidence)
    return facts | {"text": f"Of 100 {who}, {count}", "count": count}


def _tests(cohort: Cohort) -> dict[str, Any]:
    stages = len(cohort.stages)
    table = risk_table(
        cohort.time, cohort.state, group=cohort.stage, groups=stages, start=cohort.entry, causes=len(cohort.events)
    )
    pairs = _pairs(cohort, table)
    tests: dict[str, Any] = {
        "of": join_words(cohort.events, word="or"),  # what the log-rank tests count
        "logrank": vars(logrank(table)),
        "peto": vars(logrank(table, rho=1)),
        "trend": vars(logrank_trend(table)) if cohort.ordered else None,
        "pairs_of": cohort.events[0] if cohort.competing else join_words(cohort.events, word="or"),
        "pairs_by": _incidence_test(cohort) if cohort.competing else "log-rank",
        "pairs": [
            {"stages": [cohort.stages[a], cohort.stages[b]], **vars(test), "p_holm": corrected}
            for (a, b), (test, corrected) in pairs.items()
        ],
    }
    if cohort.competing:
        tests["gray"] = {event: vars(_gray(cohort, table, cause=cause)) for cause, event in enumerate(cohort.events)}
        tests["gray_by"] = _incidence_test(cohort)
    return tests | {"primary": _primary(cohort, tests)}


def _incidence_test(cohort: Cohort) -> str:
    return "Gray" if cohort.entry is None else "Fine–Gray score"


def _gray(cohort: Cohort, table: RiskTable, *, cause: int) -> ChiSquared:
    """Compare the incidences of one event; with late entry by the score test of the Fine–Gray model."""
    if cohort.entry is None:
        return gray(table, cause=cause)
    own = np.where(cohort.state == cause + 1, 1, np.where(cohort.state > 0, 2, 0))
    return late_gray(cohort.time, own, cohort.stage, groups=len(cohort.stages), start=cohort.entry)


def _pairs(cohort: Cohort, table: RiskTable) -> dict[tuple[int, int], tuple[ChiSquared, float]]:
    if not cohort.competing:
        return pairwise(table)
    if cohort.entry is None:
        return pairwise(table, test=partial(gray, cause=0))
    found = list(combinations(range(len(cohort.stages)), 2))
    tests = [_gray(cohort.take(np.isin(cohort.stage, pair)), table, cause=0) for pair in found]
    corrected = holm([test.p for test in tests])
    return {pair: (test, p) for pair, test, p in zip(found, tests, corrected, strict=True)}


def _primary(cohort: Cohort, tests: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one test that the headline rests on: of equal curves of the first event."""
    event = cohort.events[0]
    if cohort.competing:
        name = (
            "Gray's test" if cohort.entry is None else "the score test of the Fine–Gray model, which takes late entry"
        )
        return {"name": name, "of": f"equal incidence of {event} in all stages", **tests["gray"][event]}
    what = "survival" if deadly(event) else f"time to {event}"
    return {"name": "the log-rank test", "of": f"equal {what} in all stages", **tests["logrank"]}


def _mean_differences(curves: Mapping[str, Mapping[str, Curve]], until: float) -> list[dict[str, Any]]:
    pairs = list(combinations(curves, 2))
    found = [restricted_mean_difference(curves[a]["survival"], curves[b]["survival"], until=until) for a, b in pairs]
    estimable = [all(_varies(curves[name]["survival"], until) for name in pair) for pair in pairs]
    corrected = iter(holm([p for (_, p), some in zip(found, estimable, strict=True) if some]))
    return [
        {"stages": list(pair), **_open(difference, some)}
        | {"p": p if some else None, "p_holm": next(corrected) if some else None}
        for pair, (difference, p), some in zip(pairs, found, estimable, strict=True)
    ]


def _varies(curve: Curve, until: float) -> bool:
    """Tell whether a mean has a standard error; with no event, or everybody's, before `until` it would be a false 0."""
    return restricted_mean(curve, until=until)[1] > 0


def _open(interval: Interval, some: bool) -> dict[str, float | None]:
    """Return an interval for JSON, its ends unknown unless the data give some."""
    return as_dict(interval) if some else as_dict(Interval(interval.value, np.nan, np.nan))


FORMAT = 1
JUDGED_EVENTS = 20  # with fewer events the folds would have hardly any
SAMPLED_PATIENTS = 25_000  # in all bootstrap samples: optimism is smaller, and better known, in a large cohort
FEWEST_SAMPLES = 10


@dataclass(frozen=True)
class SurvivalStudy:
    """`result` is what survival.json holds; `model` is what model.json holds."""

    result: dict[str, Any]
    model: SurvivalModel


@blas_threads(1)  # of many small products
def run_study(cohort: Cohort, settings: StudySettings, *, title: str = "Survival by stage") -> SurvivalStudy:
    """Compare the stages, fit a model, judge it."""
    started = time.perf_counter()
    rng = np.random.default_rng(settings.seed)
    horizons = choose_horizons(cohort, settings)
    fitted = fit_model(cohort)
    judgement, limits = _judged(cohort, settings, fitted=fitted, horizons=horizons, rng=rng)
    model = _finished(fitted, cohort, horizons=horizons, judgement=judgement)
    result = {
        "format": FORMAT,
        "title": title,
        "settings": settings.model_dump(mode="json"),
        "cohort": describe(cohort)
        | {"median_follow_up": as_dict(median_follow_up(cohort.time, cohort.state, start=cohort.entry))},
        "horizons": [{"time": horizon.time, "words": horizon.words} for horizon in horizons],
        "comparison": compare(cohort, horizons=horizons),
        "model": explain_fit(fitted, extrapolation=model.extrapolation, horizons=horizons),
        "judgement": judgement,
        "limits": _limits(cohort, fitted) + limits,
        "provenance": provenance(seed=settings.seed) | {"seconds": round(time.perf_counter() - started, 2)},
    }
    return SurvivalStudy(result, model)


def write_study(folder: Path, study: SurvivalStudy) -> None:
    """Write survival.json and model.json into a folder."""
    write_json(folder / "survival.json", study.result)
    write_model(folder / "model.json", study.model)


def choose_horizons(cohort: Cohort, settings: StudySettings) -> tuple[Horizon, ...]:
    """Return the requested horizons, or usual ones between the median of the events and the end of the follow-up.

    The end is where only a tenth of the patients are still followed.
    """
    if settings.horizons:
        requested = {
            found.time: found for text in settings.horizons for found in [parse_horizon(text, unit=cohort.unit)]
        }
        return tuple(requested[when] for when in sorted(requested))
    first, last = float(np.median(cohort.time[cohort.state > 0])), float(np.quantile(cohort.time, 0.9))
    usual = fitting_horizons(first=first, last=last, unit=cohort.unit)
    when = float(f"{first or float(cohort.time.max()):.2g}")
    return usual or (Horizon(when, in_words(when, cohort.unit)),)


def _judged(
    cohort: Cohort, settings: StudySettings, *, fitted: Fitted, horizons: Sequence[Horizon], rng: np.random.Generator
) -> tuple[dict[str, Any] | None, list[str]]:
    """Evaluate the model, or return why not."""
    if not fitted.causes or fitted.design is None:
        return None, ["Not judged: there is no model, only the curves of the stages."]
    judged, notes = _judgeable(fitted.design.cohort, rng)
    within = tuple(horizon for horizon in horizons if horizon.time < judged.time.max())
    events = int((judged.state == 1).sum())
    if hindrance := _hindrance(fitted, events=events, within=within):
        return None, [f"Not judged: {hindrance}."]
    judgement = judge(judged, horizons=within, folds=settings.folds, repeats=settings.repeats, rng=rng)
    samples = min(settings.bootstrap, max(FEWEST_SAMPLES, SAMPLED_PATIENTS // len(judged)))
    judgement["optimism"] = optimism(judged, horizons=within, samples=samples, rng=rng)
    return judgement, notes


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


def _finished(
    fitted: Fitted, cohort: Cohort, *, horizons: Sequence[Horizon], judgement: dict[str, Any] | None
) -> SurvivalModel:
    """Add what a model carries for its user: horizons, a curve to extrapolate with, where it comes from."""
    learned = fitted.design.cohort if fitted.design is not None and fitted.causes else cohort
    single = not cohort.competing and fitted.design is not None and bool(fitted.causes)
    facts = {
        "cohort": cohort.where,
        "patients": len(learned),
        "events": int((learned.state == 1).sum()),
        "c_index": judgement["estimators"]["model"]["c_index"] if judgement else None,
        "use": NOTICE,
        "landmark": cohort.landmark,
    }
    return replace(
        fitted.model,
        facts=facts,
        horizons=tuple((horizon.time, horizon.words) for horizon in horizons),
        extrapolation=fit_aft(fitted.design) if single and fitted.design else None,
    )


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
        "few were under observation (late entry) that all of them had the event; it does not hold for those who "
        "entered later."
        for name, when in zero.items()
        if when < curves[name].last
    ]


OPEN = "For the authors to fill in."


def checklist(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per item: number, topic, answer, and whether the run filled it in."""
    answers = _methods(result) | _results(result)
    return [
        {"item": item, "topic": topic, "answer": answers.get(item, OPEN), "filled": item in answers}
        for item, topic in _ITEMS
    ]


def _methods(result: Mapping[str, Any]) -> dict[str, str]:
    cohort, model, settings = result["cohort"], result["model"], result["settings"]
    predictors = [cohort["stage_column"], *settings["covariates"]]
    horizons = join_words([horizon["words"] for horizon in result["horizons"]])
    fitted = bool(model.get("causes"))
    return {
        "1": f"{result['title']}: development and internal validation of a model for {cohort['events'][0]}.",
        "4": f"To compare {cohort['events'][0]} between stages and to predict it at {horizons}.",
        "5a": f"The table {cohort['file']} ({counted(cohort['rows'], 'row')}); its source is for the authors to name.",
        "7": _left_out(cohort),
        "8a": f"{join_words(cohort['events'])}, in {cohort['unit']} from time zero; answered at {horizons}.",
        "9a": f"Chosen by the user before fitting: {join_words(predictors)}. No selection by p value.",
        "10": _size(model),
        "11": _missing(cohort),
        "12a": _partition(result),
        "12b": "Numbers enter linearly, or as the requested logarithm or spline; categories by levels.",
        "12c": _building(model) if fitted else "Curves of the stages; too few events for a model.",
        "12e": "C-index (Harrell, Uno), AUC, Brier score and IPA with censoring weights, calibration, net benefit.",
        "13": "Not applicable to times; censoring is handled by weights.",
        "15": f"Chance of {cohort['events'][0]} by a time, with a 95 % interval; no classes and no threshold.",
        "16": "Evaluation patients come from the same cohort as the training patients; nothing external was used.",
        "18f": f"leukoscope {result['provenance']['version']}; command: {result['provenance']['command']}",
    }


def _results(result: Mapping[str, Any]) -> dict[str, str]:
    cohort, model = result["cohort"], result["model"]
    follow_up = cohort["median_follow_up"]["value"]
    middle = "not estimable" if follow_up is None else f"{short(follow_up)} {cohort['unit']}"
    answers = {
        "20a": f"{cohort['patients']} of {cohort['rows']} rows used; median follow-up (reverse Kaplan–Meier) {middle}.",
        "20b": join_words([f"{stage['name']}: {stage['patients']}" for stage in cohort["stages"]]) + " patients.",
        "27a": "A missing or unknown value is refused; a value outside the range seen is answered with a warning.",
        "27b": "For research. The answer never chooses a treatment and must not be used for decisions about a patient.",
    }
    if model.get("causes"):
        answers["21"] = (
            ", ".join(counted(model[f"{noun}s"], noun) for noun in ("patient", "event", "coefficient")) + "."
        )
        answers["22"] = "model.json holds all coefficients, their covariance and the baseline hazards."
        answers["24"] = "Not applicable: no model was updated."
        answers["12f"] = "Not applicable: no model was updated."
    if result["judgement"]:
        chosen = result["judgement"]["estimators"]["model"]["c_index"]
        answers["23a"] = f"Cross-validated C-index {_with_limits(chosen)}; all figures on this page."
    if result["limits"]:
        answers["26"] = " ".join(result["limits"]) + " Further limits are for the authors."
    return answers


def _with_limits(found: Mapping[str, float | None]) -> str:
    """Return a figure with its limits, or that it is not known: two patients must be comparable at all."""
    if found["value"] is None:
        return "not known"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.3f} (no limits)"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _left_out(cohort: Mapping[str, Any]) -> str:
    reasons = [f"{row['rows']}: {row['reason']}" for row in cohort["dropped"]]
    return f"Rows left out: {'; '.join(reasons)}." if reasons else "Every row was used."


def _missing(cohort: Mapping[str, Any]) -> str:
    counts = [f"{name} {count}" for name, count in cohort["missing"].items() if count]
    return (
        f"Missing values: {join_words(counts)}. Complete cases only; nothing was imputed."
        if counts
        else "None missing."
    )


def _size(model: Mapping[str, Any]) -> str:
    if not model.get("causes") or not model["size"]:
        return "No size was planned by the program."
    size = model["size"]
    return (
        f"Riley's criteria ask for {counted(size['patients'], 'patient')} ({size['events']:.0f} events) for "
        f"{counted(size['coefficients'], 'coefficient')}; there are {model['patients']:,} "
        f"with {model['events']:,} events."
    )


def _partition(result: Mapping[str, Any]) -> str:
    judged = result["judgement"]
    if not judged:
        return "No partition: the model was not judged."
    repeats = "Once" if judged["repeats"] == 1 else f"{judged['repeats']} times"
    return f"{repeats} {judged['folds']}-fold cross-validation; the final model uses all patients."


def _building(model: Mapping[str, Any]) -> str:
    repaired = [
        f"{check['column']} ({cause['event']}): {check['action']}"
        for cause in model["causes"]
        for check in cause["proportional"]["columns"]
        if check["action"] != "none needed"
    ]
    done = f"Hazards were not proportional for {'; '.join(repaired)}." if repaired else "Hazards were proportional."
    penalty = (
        f" Ridge penalty {model['penalty']:g}, chosen by the cross-validated partial likelihood."
        if model["penalty"]
        else ""
    )
    return f"{model['kind']} model, Efron's ties. {done}{penalty} Validated by cross-validation and bootstrap."


_ITEMS = (
    ("1", "Title: a prediction model, the people and the outcome"),
    ("2", "Abstract"),
    ("3a", "Why the model is needed"),
    ("3b", "For whom and for what use"),
    ("3c", "Known inequalities between groups of people"),
    ("4", "Aims: development, evaluation or both"),
    ("5a", "Where the data come from"),
    ("5b", "Dates of enrolment and follow-up"),
    ("6a", "Setting: hospitals, countries"),
    ("6b", "Who was eligible"),
    ("6c", "Treatments received"),
    ("7", "How the data were prepared and checked"),
    ("8a", "The outcome and its horizon"),
    ("8b", "Who judged the outcome"),
    ("8c", "Blinding of the outcome"),
    ("9a", "How predictors were chosen"),
    ("9b", "How predictors were measured"),
    ("9c", "Who judged the predictors"),
    ("10", "Sample size"),
    ("11", "Missing data"),
    ("12a", "Use and partition of the data"),
    ("12b", "How predictors entered"),
    ("12c", "Model type, building, internal validation"),
    ("12d", "Differences between centres"),
    ("12e", "Measures of performance"),
    ("12f", "Updating of the model"),
    ("12g", "How predictions were computed in an evaluation"),
    ("13", "Imbalance of classes"),
    ("14", "Fairness"),
    ("15", "What the model gives out"),
    ("16", "Training against evaluation data"),
    ("17", "Ethical approval"),
    ("18a", "Funding"),
    ("18b", "Conflicts of interest"),
    ("18c", "Protocol"),
    ("18d", "Registration"),
    ("18e", "Data sharing"),
    ("18f", "Code sharing"),
    ("19", "Involvement of patients and the public"),
    ("20a", "Flow of participants"),
    ("20b", "Characteristics of participants"),
    ("20c", "Comparison with the development data"),
    ("21", "Participants and events in each analysis"),
    ("22", "The full model"),
    ("23a", "Performance with intervals"),
    ("23b", "Performance between centres"),
    ("24", "Results of updating"),
    ("25", "Interpretation, fairness included"),
    ("26", "Limitations"),
    ("27a", "Poor or missing input at use"),
    ("27b", "What users need to know and do"),
    ("27c", "Next steps"),
)
