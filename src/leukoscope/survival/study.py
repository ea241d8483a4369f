"""The whole study: a cohort goes in; the numbers of survival.json and a model come out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..files import provenance, write_json
from .aft import fit_aft
from .cohort import Cohort, describe
from .compared import compare
from .curves import Horizon, fitting_horizons, median_follow_up, parse_horizon
from .fitting import Fitted, explain_fit, fit_model
from .model import SurvivalModel, write_model
from .scores import MOST_PATIENTS, PENALTIES, as_dict, judge, optimism
from .settings import StudySettings
from .words import NOTICE, counted, in_stage, short

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
