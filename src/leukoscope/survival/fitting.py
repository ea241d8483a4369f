"""From a cohort to a model: curves of the stages always, a Cox model of every cause where the data carry one.

With it come the number of patients that a model needs (Riley) and the model as a nomogram.

Source: Riley et al. (2019), doi 10.1002/sim.7992; Riley et al. (2020), doi 10.1136/bmj.m441; pmsampsize of R.

Source: Iasonos et al. (2008), doi 10.1200/JCO.2007.12.9791; nomogram of R's rms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_ndtr
from scipy.stats import norm

from .cohort import Cohort, bare_name
from .cox import (
    FEWEST_EVENTS,
    SHRINK_BELOW,
    CauseFit,
    CoxDesign,
    EffectInTime,
    NoFitError,
    choose_penalty,
    effects_in_time,
    fit_cause,
    fit_fine_gray,
    fit_terms,
    likelihood_ratio,
    make_design,
)
from .curves import Z95, Array, ChiSquared, Curve, aalen_johansen, chi_squared, kaplan_meier, risk_table
from .model import CauseModel, ColumnFacts, SurvivalModel, Term, term_matrix
from .table import Horizon, counted, happened, in_stage

SHRINKAGE = 0.9  # at least so much of every coefficient is kept on new patients
_OPTIMISM = 0.05  # most that Nagelkerke's R² flatters
_MARGIN = 0.05  # to which the mean risk at the horizon is known


@dataclass(frozen=True)
class SampleSize:
    """Patients that each criterion needs, the largest of them, and the events that they would bring.

    `shrinkage` is what would be kept of the coefficients with the patients at hand.
    """

    shrink: int
    optimism: int
    risk: int
    patients: int
    events: float
    per_coefficient: float
    shrinkage: float


def needed(*, r2: float, coefficients: int, rate: float, horizon: float, follow_up: float, patients: int) -> SampleSize:
    """Return the size for a model of so many coefficients.

    `r2` is Cox and Snell's R² to expect (adjusted, in [0, 1)); `rate` events per patient and unit of time; `horizon`
    and the mean `follow_up` in the same unit; `patients` at hand.
    """
    shrink = _for_shrinkage(r2, coefficients, SHRINKAGE)
    events = rate * follow_up
    most = 1 - np.exp(2 * (events * np.log(events) - events)) if events > 0 else 0.0  # of Cox and Snell's R²
    kept = r2 / (r2 + _OPTIMISM * most)
    optimism = _for_shrinkage(r2, coefficients, kept)
    risk = _for_risk(rate=rate, horizon=horizon, follow_up=follow_up)
    largest = max(shrink, optimism, risk)
    return SampleSize(
        shrink,
        optimism,
        risk,
        largest,
        largest * events,
        largest * events / coefficients,
        _shrinkage(r2, coefficients, patients),
    )


def _for_shrinkage(r2: float, coefficients: int, kept: float) -> int:
    return int(np.ceil(coefficients / ((kept - 1) * np.log1p(-r2 / kept)))) if r2 < kept else coefficients


def _shrinkage(r2: float, coefficients: int, patients: int) -> float:
    """Return how much of the coefficients would be kept with the patients at hand: Riley's equation turned round."""
    low, high = r2, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        enough = middle > r2 and _for_shrinkage(r2, coefficients, middle) <= patients
        low, high = (middle, high) if enough else (low, middle)
    return low if low > r2 else 0.0


def _for_risk(*, rate: float, horizon: float, follow_up: float) -> int:
    """Return the patients with which an exponential curve knows the mean risk at the horizon to within the margin."""

    def width(patients: int) -> float:
        error = np.sqrt(rate / (patients * follow_up))
        risk, low, high = (-np.expm1(-(rate + side * Z95 * error) * horizon) for side in (0, -1, 1))
        return float(max(risk - low, high - risk))

    low, high = 1, 1
    while width(high) > _MARGIN:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width(middle) > _MARGIN else (low, middle)
    return high


_CHANCES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_TICKS = 6


@dataclass(frozen=True)
class NomogramLine:
    """One line of the sheet: labels and their places, in points."""

    name: str
    labels: tuple[str, ...]
    points: tuple[float, ...]


@dataclass(frozen=True)
class Nomogram:
    """One scale of points per column (the widest has 100), and for each horizon the chance by the total of points."""

    columns: tuple[NomogramLine, ...]
    chances: tuple[NomogramLine, ...]
    total: float


def nomogram(design: CoxDesign, model: CauseModel, *, horizons: Sequence[Horizon]) -> Nomogram | None:
    """Return the nomogram of a model of one event; None where one nomogram cannot represent it.

    That is so with a baseline per stratum, an effect that changes in time, or no effect at all.
    """
    if model.strata or not model.terms or any(term.period for term in model.terms):
        return None
    names = list(dict.fromkeys(term.column for term in model.terms))
    drawn = {name: _effects(design, model, name) for name in names}
    widest = max(float(np.ptp(effects)) for _, effects in drawn.values())
    if not widest > 0:
        return None
    unit = 100 / widest
    columns = tuple(
        NomogramLine(name, labels, tuple(((effects - effects.min()) * unit).tolist()))
        for name, (labels, effects) in drawn.items()
    )
    least = sum(float(effects.min()) for _, effects in drawn.values())
    total = sum(float(np.ptp(effects)) for _, effects in drawn.values()) * unit
    found = [_chances(model, horizon, least=least, unit=unit, total=total) for horizon in horizons]
    return Nomogram(columns, tuple(scale for scale in found if scale.labels), total)


def _effects(design: CoxDesign, model: CauseModel, name: str) -> tuple[tuple[str, ...], Array]:
    """Return labelled values of a column and what each adds to the logarithm of the hazard, (values,)."""
    chosen = [(term, b) for term, b in zip(model.terms, model.coefficients, strict=True) if term.column == name]
    values = design.columns[name]
    if values.dtype.kind == "U":
        rest = [str(level) for level in np.unique(values) if level not in {term.level for term, _ in chosen}]
        levels = [" or ".join(rest), *(term.level for term, _ in chosen)]
        return tuple(levels), np.array([0.0, *(float(b) for _, b in chosen)])
    ticks = _round_values(values, logarithm="log(" in name)
    at = np.log(ticks) if "log(" in name else ticks
    return tuple(f"{tick:g}" for tick in ticks), _added(chosen, name, at)


def _added(chosen: Sequence[tuple[Term, float]], name: str, at: Array) -> Array:
    return np.asarray(sum(b * term.values({name: at}) for term, b in chosen))


def _round_values(values: Array, *, logarithm: bool) -> Array:
    """Return about six round numbers over the range of a column."""
    low, high = (float(edge) for edge in (values.min(), values.max()))
    if logarithm:
        low, high = float(np.exp(low)), float(np.exp(high))
        powers = np.array([m * 10.0**e for e in range(-6, 10) for m in (1, 2, 5)])
        within = powers[(powers >= low) & (powers <= high)]
        return within if len(within) > 1 else np.array([low, high])
    if high - low <= 1 and set(np.unique(values)) <= {0.0, 1.0}:
        return np.array([0.0, 1.0])
    power = 10 ** np.floor(np.log10((high - low) / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= _TICKS + 1)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return np.asarray(ticks if len(ticks) > 1 else np.array([low, high]))


def _chances(model: CauseModel, horizon: Horizon, *, least: float, unit: float, total: float) -> NomogramLine:
    """Return at which total of points the chance of the event by a horizon is a round one."""
    baseline = model.baselines["all"]
    name = f"{model.event} by {horizon.words}, %"
    summed = float(baseline.hazard[baseline.times <= horizon.time].sum())
    if not summed > 0 or horizon.time > baseline.last:
        return NomogramLine(name, (), ())
    at = [(np.log(-np.log1p(-chance) / summed) - least) * unit for chance in _CHANCES]
    kept = [(chance, points) for chance, points in zip(_CHANCES, at, strict=True) if 0 <= points <= total]
    return NomogramLine(
        name, tuple(f"{100 * chance:g}" for chance, _ in kept), tuple(float(points) for _, points in kept)
    )


_MOST = 700.0  # logarithm of the largest ratio that a number holds
_KEPT = 200  # times at which a model file keeps how many were followed so far
FEWEST_PER_COEFFICIENT = 2  # events; below it no model is fitted


@dataclass(frozen=True)
class Fitted:
    """A model with its design, one fit per cause, and notes for the reader."""

    model: SurvivalModel
    design: CoxDesign | None = None
    causes: tuple[CauseFit, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def coefficients(self) -> int:
        """Coefficients that the events of the first cause must carry."""
        return len(self.causes[0].model.terms) if self.causes else 0


def fit_model(cohort: Cohort, *, curves: bool = True) -> Fitted:
    """Fit every cause; where too few events or no solution prevent it, the model is the curves of the stages.

    With fewer than SHRINK_BELOW events per coefficient a ridge penalty is chosen by cross-validation within the cohort
    itself, so that whoever judges this procedure on other patients judges the choice too. `curves` off leaves the
    curves of modelled stages out (they are not needed to judge).
    """
    unmodelled = _unmodelled(cohort)
    seen = set(np.unique(cohort.stage).tolist())
    stages = [name for place, name in enumerate(cohort.stages) if place in seen and name not in unmodelled]
    design, causes, notes = _causes(cohort, stages)
    needed = [cohort.stages[place] for place in sorted(seen)] if curves or not causes else list(unmodelled)
    used = {term.column for term in design.terms}
    model = SurvivalModel(
        unit=cohort.unit,
        events=cohort.events,
        stage_column=cohort.stage_column,
        stages=cohort.stages,
        stage_curves={name: curves_of(cohort.take(cohort.stage == cohort.stages.index(name))) for name in needed},
        followed={name: _followed(cohort.take(cohort.stage == cohort.stages.index(name))) for name in needed},
        stage_cuts=cohort.stage_cuts,
        causes=tuple(fit.model for fit in causes),
        unmodelled=unmodelled,
        columns=tuple(_facts(name, values) for name, values in design.cohort.covariates.items() if name in used),
        left_out=tuple(bare_name(name) for name in cohort.covariates if name not in used),
    )
    return Fitted(model, design, causes, tuple(notes))


def known_until(cohort: Cohort, when: float) -> int:
    """Return of how many patients it is known whether they had the first event by a time.

    They were followed so far, or something else had ruled it out before.
    """
    followed = (cohort.time >= when) & (cohort.start <= when)
    return int((followed | ((cohort.state > 1) & (cohort.time < when))).sum())


def all_had(cohort: Cohort, when: float) -> int:
    """Return the number of patients if all were followed from the start and had the first event by a time, else 0.

    Only then is it a share of so many. Where some were lost before, those whose event was seen are not like the rest.
    """
    return len(cohort) if ((cohort.state == 1) & (cohort.time <= when) & (cohort.start <= 0)).all() else 0


def _followed(cohort: Cohort) -> dict[str, Array]:
    times = np.unique(np.quantile(cohort.time, np.linspace(0, 1, _KEPT), method="nearest"))
    found = {"known": known_until, "had": all_had}
    return {"times": times} | {name: np.array([count(cohort, when) for when in times]) for name, count in found.items()}


def _unmodelled(cohort: Cohort) -> dict[str, str]:
    events = np.bincount(cohort.stage[cohort.state == 1], minlength=len(cohort.stages))
    patients = np.bincount(cohort.stage, minlength=len(cohort.stages))
    return {
        name: f"none of {counted(int(patients[place]), 'patient')} with {in_stage(cohort.stage_column, name)} "
        f"{happened(cohort.events[0])}"
        for place, name in enumerate(cohort.stages)
        if patients[place] and not events[place]
    }


def _causes(cohort: Cohort, stages: Sequence[str]) -> tuple[CoxDesign, tuple[CauseFit, ...], list[str]]:
    design = make_design(cohort, stages=stages)
    events = int((design.cohort.state == 1).sum())
    notes = list(design.notes)
    if events < FEWEST_EVENTS:
        notes.append(
            f"No model: {counted(events, 'event')} among those it could learn from; at least {FEWEST_EVENTS} are "
            "needed. The answers are the curves of the stages."
        )
        return design, (), notes
    if events < FEWEST_PER_COEFFICIENT * len(design.terms):
        notes.append(
            f"No model: {events} events for {len(design.terms)} coefficients are fewer than "
            f"{FEWEST_PER_COEFFICIENT} for each. Name fewer --covariates. The answers are the curves of the stages."
        )
        return design, (), notes
    try:
        penalty = choose_penalty(design, cause=0) if events < SHRINK_BELOW * len(design.terms) else 0.0
        notes += _separated(design) if penalty else []
        fits = tuple(fit_cause(design, cause=cause, penalty=penalty) for cause in range(len(cohort.events)))
    except NoFitError as reason:
        notes.append(f"No model: {reason} The answers are the curves of the stages.")
        return design, (), notes
    return design, fits, notes + [note for fit in fits for note in fit.notes]


def _separated(design: CoxDesign) -> list[str]:
    """Name a covariate that only the penalty keeps within bounds."""
    try:
        fit_terms(design, design.terms, cause=0)
    except NoFitError as reason:
        return [f"{reason} Here a ridge penalty keeps it within bounds."]
    return []


def curves_of(cohort: Cohort) -> dict[str, Curve]:
    """Return survival ('survival') and the incidence of every event (by name) of a cohort taken as one group."""
    last = float(cohort.time.max())
    table = risk_table(cohort.time, cohort.state, start=cohort.entry, causes=len(cohort.events))
    names = ("survival", *cohort.events)
    curves = [kaplan_meier(table, last=last), *aalen_johansen(table, last=last)]
    return dict(zip(names, curves, strict=True))


def _facts(name: str, values: Array) -> ColumnFacts:
    if values.dtype.kind == "U":
        levels, counts = np.unique(values, return_counts=True)
        return ColumnFacts(name, bare_name(name), levels=tuple(map(str, levels[np.argsort(-counts, kind="stable")])))
    stated = np.exp(values) if "log(" in name else values
    return ColumnFacts(
        name, bare_name(name), low=float(stated.min()), high=float(stated.max()), mean=float(stated.mean())
    )


def explain_fit(
    fitted: Fitted, *, extrapolation: Mapping[str, Any] | None, horizons: Sequence[Horizon]
) -> dict[str, Any]:
    """Describe the model of every cause, the Fine–Gray model where events compete, and the extrapolating curve.

    The last of the `horizons` is where the advice on its size asks for a precise mean risk.
    """
    if not fitted.causes or fitted.design is None:
        return {
            "kind": "curves of the stages",
            "penalty": 0.0,
            "unmodelled": fitted.model.unmodelled,
            "notes": list(fitted.notes),
        }
    design = fitted.design
    events = int((design.cohort.state == 1).sum())
    return {
        "kind": "Cox" if len(fitted.causes) == 1 else "cause-specific Cox",
        "patients": len(design.cohort),
        "events": events,
        "coefficients": fitted.coefficients,
        "events_per_coefficient": events / fitted.coefficients if fitted.coefficients else None,
        "size": _size(design, horizon=horizons[-1].time),
        "nomogram": _sheet(fitted, horizons),
        "penalty": fitted.model.causes[0].penalty,
        "causes": [_cause(design, fit, number) for number, fit in enumerate(fitted.causes)],
        "fine_gray": _fine_gray(design) if len(fitted.causes) > 1 else None,
        "references": _references(design),
        "extrapolation": {key: extrapolation[key] for key in ("family", "aic", "aic_of", "last")}
        if extrapolation
        else None,
        "unmodelled": fitted.model.unmodelled,
        "notes": list(fitted.notes),
    }


def _sheet(fitted: Fitted, horizons: Sequence[Horizon]) -> dict[str, Any] | None:
    if len(fitted.causes) != 1 or fitted.design is None:
        return None
    found = nomogram(fitted.design, fitted.causes[0].model, horizons=horizons)
    if found is None:
        return None
    scales = {name: [vars(scale) for scale in getattr(found, name)] for name in ("columns", "chances")}
    return scales | {"total": found.total}


def _size(design: CoxDesign, *, horizon: float) -> dict[str, Any] | None:
    """Return how many patients the coefficients would need by Riley's criteria; None where the model explains nothing.

    Cox and Snell's R² to expect is the one found, shrunk by van Houwelingen's factor as a first look always flatters.
    """
    cohort, terms = design.cohort, len(design.terms)
    ratio = likelihood_ratio(design, cause=0)
    if not terms or ratio is None or ratio <= terms:
        return None
    r2 = (1 - terms / ratio) * -np.expm1(-ratio / len(cohort))
    follow_up = float((cohort.time - cohort.start).mean())
    rate = float((cohort.state == 1).sum() / (cohort.time - cohort.start).sum())
    size = needed(
        r2=float(r2), coefficients=terms, rate=rate, horizon=horizon, follow_up=follow_up, patients=len(cohort)
    )
    return vars(size) | {"r2": float(r2), "coefficients": terms, "wanted": SHRINKAGE}


def _cause(design: CoxDesign, fit: CauseFit, number: int) -> dict[str, Any]:
    model, simple = fit.model, fit.simple
    return {
        "event": model.event,
        "events": int((design.cohort.state == number + 1).sum()),
        "ratios": hazard_ratios(model.terms, model.coefficients, model.covariance, penalised=model.penalty > 0),
        "strata": list(model.strata),
        "proportional": {
            "all": vars(fit.whole) if fit.whole else None,
            "effects": [_effect(found) for found in effects_in_time(design, fit.checked or simple, cause=number)],
            "columns": [
                {"column": check.column, **vars(check.test), "p_holm": check.p_holm, "action": check.action}
                for check in fit.checks
            ],
        },
        "splines": [explain_spline(design, fit.checked or simple, name) for name in _bent(simple)],
        "unpenalised": _unpenalised(design, model, number) if model.penalty else None,
        "before_repair": None
        if simple is model
        else hazard_ratios(simple.terms, simple.coefficients, simple.covariance, penalised=simple.penalty > 0),
    }


def _unpenalised(design: CoxDesign, model: CauseModel, number: int) -> list[dict[str, Any]] | None:
    """Return the same model's ratios without the penalty, which have intervals and p; None where they have no limit."""
    try:
        plain = fit_terms(design, model.terms, cause=number, strata=model.strata)
    except NoFitError:
        return None
    return hazard_ratios(plain.terms, plain.coefficients, plain.covariance)


def _bent(model: CauseModel) -> list[str]:
    return list(dict.fromkeys(term.column for term in model.terms if term.knots))


def explain_spline(design: CoxDesign, model: CauseModel, column: str) -> dict[str, Any]:
    """Return how the hazard moves with a number: ratios to its median with a 95 % band, and Wald tests.

    `nonlinear` tests the bends, `all` the whole effect; equal to anova of R's rms. `contrast` is the ratio between
    the quartiles.
    """
    places = [place for place, term in enumerate(model.terms) if term.column == column]
    terms, values = [model.terms[place] for place in places], design.columns[column]
    middle, low, high = np.quantile(values, [0.5, 0.25, 0.75])
    first, last = np.quantile(values, [0.01, 0.99])
    grid = np.linspace(first, last, 60)
    shown = np.exp if "log(" in column else np.asarray
    b, v = model.coefficients[places], model.covariance[np.ix_(places, places)]
    bends = [place for place, term in enumerate(terms) if term.knots]
    between = _contrast(model, column, np.array([high]), float(low))
    return {
        "column": column,
        "grid": shown(grid).tolist(),
        "reference": float(shown(middle)),
        **{name: values.tolist() for name, values in _contrast(model, column, grid, float(middle)).items()},
        "contrast": {name.replace("ratio", "value"): float(values[0]) for name, values in between.items()},
        "quartiles": [float(shown(low)), float(shown(high))],
        "nonlinear": vars(_wald(b[bends], v[np.ix_(bends, bends)])),
        "all": vars(_wald(b, v)),
    }


def _contrast(model: CauseModel, column: str, grid: Array, middle: float) -> dict[str, Array]:
    """Return the hazard ratio of each value to the middle one, with its 95 % interval."""
    places = [place for place, term in enumerate(model.terms) if term.column == column]
    terms = [model.terms[place] for place in places]
    coefficients, covariance = model.coefficients[places], model.covariance[np.ix_(places, places)]
    rows = np.column_stack([t.values({column: grid}) - t.values({column: np.array([middle])}) for t in terms])
    value = rows @ coefficients
    width = Z95 * np.sqrt(np.maximum(np.einsum("pi,ij,pj->p", rows, covariance, rows), 0))
    return {"ratio": np.exp(value), "low": np.exp(value - width), "high": np.exp(value + width)}


def _wald(coefficients: Array, covariance: Array) -> ChiSquared:
    return chi_squared(float(coefficients @ np.linalg.solve(covariance, coefficients)), len(coefficients))


def _effect(found: EffectInTime) -> dict[str, Any]:
    """Return one term's effect over time to be drawn, at up to 400 of its events."""
    kept = np.unique(np.linspace(0, len(found.times) - 1, 400).round().astype(int))
    drawn = {"times": found.times[kept].tolist(), "values": found.values[kept].tolist()}
    smooth = {name: getattr(found, name).tolist() for name in ("grid", "smooth", "low", "high")}
    return {"term": found.term, "coefficient": found.coefficient, **drawn, **smooth}


def hazard_ratios(
    terms: Sequence[Term], coefficients: Array, covariance: Array, *, penalised: bool = False
) -> list[dict[str, Any]]:
    """Return one row per term: coefficient, standard error, hazard ratio with its 95 % interval, p (Wald).

    Penalised coefficients are biased on purpose, so they have neither interval nor p.
    """
    errors = np.sqrt(np.diag(covariance))
    return [
        {
            "term": term.name,
            "column": term.column,
            "level": term.level,
            "bends": bool(term.knots),
            "coefficient": float(b),
            "error": float(e),
            "ratio": float(np.exp(min(b, _MOST))),
            "low": None if penalised else float(np.exp(b - Z95 * e)),
            "high": None if penalised else float(np.exp(min(b + Z95 * e, _MOST))),
            "p": float(2 * norm.sf(abs(b / e))) if e > 0 and not penalised else None,
        }
        for term, b, e in zip(terms, coefficients, errors, strict=True)
    ]


def _fine_gray(design: CoxDesign) -> dict[str, Any] | None:
    if not design.terms:
        return None
    try:
        fit = fit_fine_gray(design, design.terms)
    except NoFitError:
        return None
    return {"event": design.cohort.events[0], "ratios": hazard_ratios(fit.terms, fit.coefficients, fit.covariance)}


def _references(design: CoxDesign) -> dict[str, str]:
    """Name what each category is compared with."""
    references = {}
    for name in dict.fromkeys(term.column for term in design.terms if term.level):
        named = {term.level for term in design.terms if term.column == name}
        values = design.columns[name]
        levels = [level for level in np.unique(values) if level not in named]
        references[name] = " or ".join(map(str, levels))
    return references


# family -> the power of e^shape in z (a scale divides, a shape multiplies)
_FAMILIES = {"Weibull": 1, "log-normal": -1, "log-logistic": 1}
_STEPS = 100


def fit_aft(design: CoxDesign) -> dict[str, Any] | None:
    """Fit three families and return the one with the lowest AIC as plain numbers; None if none fits.

    With z = (log t - location) e^(power x shape), survival is exp(-e^z), 1/(1 + e^z) or the normal tail of z.
    Newton's method with late entry; equal to survreg of R and to lifelines, which takes a minute for 100,000 patients.
    """
    fits = {name: fit for name in _FAMILIES if (fit := fit_family(design, name)) is not None}
    if not fits:
        return None
    best = min(fits, key=lambda name: float(fits[name]["aic"]))
    return {**fits[best], "aic_of": {name: fit["aic"] for name, fit in fits.items()}}


def fit_family(design: CoxDesign, family: str) -> dict[str, Any] | None:
    """Fit one family, 'Weibull', 'log-normal' or 'log-logistic'; None where the likelihood has no maximum."""
    cohort, power = design.cohort, _FAMILIES[family]
    # a time of zero has no logarithm; half the smallest time is taken for "before the first look"
    smallest = float(cohort.time[cohort.time > 0].min())
    y = np.log(np.where(cohort.time > 0, cohort.time, smallest / 2))
    matrix = term_matrix(design.terms, design.columns, patients=len(cohort))
    x = np.column_stack([np.ones(len(cohort)), matrix])
    late = np.zeros(len(cohort), dtype=bool) if cohort.entry is None else cohort.entry > 0
    found = _maximum(family, _Times(x, y, cohort.state == 1, late, np.log(cohort.start[late])))
    if found is None:
        return None
    parameters, covariance, likelihood = found
    turned = np.append(np.ones(x.shape[1]), power)  # the search is for log of what multiplies
    return {
        "family": family,
        "power": power,
        "terms": [vars(term) for term in design.terms],
        "parameters": (parameters * turned).tolist(),
        "covariance": (covariance * turned * turned[:, None]).tolist(),
        "aic": 2 * len(parameters) - 2 * likelihood,
        "last": float(cohort.time.max()),
    }


@dataclass(frozen=True)
class _Times:
    """What is fitted: x (patients, 1 + terms), log times y, event (patients,); `before`: log entries of the `late`."""

    x: Array
    y: Array
    event: Array
    late: Array
    before: Array


def _maximum(family: str, times: _Times) -> tuple[Array, Array, float] | None:
    """Return parameters (location, log of what multiplies), covariance and log likelihood; None without a maximum."""
    at = np.zeros(times.x.shape[1] + 1)
    at[0] = times.y.mean() + 0.5
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value, slope, bend = _likelihood(family, at, times)
        for _ in range(_STEPS):
            step = _uphill(slope, bend)
            for _ in range(40):
                found = _likelihood(family, at + step, times)
                if found[0] >= value - 1e-10 * abs(value):
                    break
                step = step / 2
            at, (value, slope, bend) = at + step, found
            if not np.isfinite(at).all() or not np.isfinite(value):
                return None
            if np.abs(step).max() < 1e-9:
                covariance = np.linalg.pinv(-bend, hermitian=True)
                whole = np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()
                return (at, covariance, value) if whole and np.abs(at).max() < 1e3 else None
    return None


def _uphill(slope: Array, bend: Array) -> Array:
    """Return Newton's step; where the likelihood is not bent down, a step along its slope."""
    values, vectors = np.linalg.eigh(-bend)
    values = np.maximum(np.abs(values), 1e-9 * max(float(np.abs(values).max()), 1e-300))
    return np.asarray(vectors @ ((vectors.T @ slope) / values))


def _likelihood(family: str, at: Array, times: _Times) -> tuple[float, Array, Array]:
    """Return the log likelihood, its gradient and its second derivatives, (parameters, parameters)."""
    x, event = times.x, times.event
    *location, scale = at
    slope = float(np.exp(scale))
    middle = x @ np.array(location)
    z = (times.y - middle) * slope
    dense, tail = _density(family, z), _tail_logs(family, z)
    value, first, second = (np.where(event, one, other) for one, other in zip(dense, tail, strict=True))
    likelihood = float(value.sum() + event.sum() * scale - times.y[event].sum())
    gradient, bend = _derivatives(x, z, slope, first, second)
    gradient[-1] += event.sum()
    if len(times.before):
        there = (times.before - middle[times.late]) * slope
        value, first, second = _tail_logs(family, there)
        likelihood -= float(value.sum())
        more, bent = _derivatives(x[times.late], there, slope, first, second)
        gradient, bend = gradient - more, bend - bent
    return likelihood, gradient, bend


def _derivatives(x: Array, z: Array, slope: float, first: Array, second: Array) -> tuple[Array, Array]:
    """Turn derivatives by z, (patients,), into those by the parameters."""
    gradient = np.append(-slope * (x.T @ first), first @ z)
    mixed = -slope * (x.T @ (second * z + first))
    bend = np.empty((len(gradient),) * 2)
    bend[:-1, :-1] = slope**2 * (x.T @ (second[:, None] * x))
    bend[-1, :-1] = bend[:-1, -1] = mixed
    bend[-1, -1] = (second * z**2 + first * z).sum()
    return gradient, bend


def _density(family: str, z: Array) -> tuple[Array, Array, Array]:
    """Return the log density of z and its first and second derivative."""
    if family == "Weibull":
        grown = np.exp(z)
        return z - grown, 1 - grown, -grown
    if family == "log-logistic":
        share = expit(z)
        return log_expit(z) + log_expit(-z), 1 - 2 * share, -2 * share * (1 - share)
    return -0.5 * z**2 - 0.5 * math.log(2 * math.pi), -z, -np.ones_like(z)


def _tail_logs(family: str, z: Array) -> tuple[Array, Array, Array]:
    """Return the log of survival at z and its first and second derivative."""
    if family == "Weibull":
        grown = np.exp(z)
        return -grown, -grown, -grown
    if family == "log-logistic":
        share = expit(z)
        return log_expit(-z), -share, -share * (1 - share)
    rest = log_ndtr(-z)
    hazard = np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - rest)
    return rest, -hazard, -hazard * (hazard - z)
