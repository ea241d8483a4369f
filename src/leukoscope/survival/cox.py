"""Cox models: which terms, fitted by lifelines, whether hazards are proportional, and what is done where not."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..errors import LeukoscopeError, require
from .cohort import Cohort, bare_name
from .comparison import Test, chi_squared, holm
from .curves import Array
from .model import Baseline, CauseModel, Term, stratum_names, term_matrix
from .words import happened, listing

PROPORTIONAL_P = 0.05  # below it, after Holm's correction over the columns, hazards count as not proportional
FEWEST_EVENTS = 10  # with fewer events of a cause its hazard is estimated without covariates
_STRATUM_EVENTS = 5  # every stratum needs this many events for a baseline of its own
_TIGHT = {
    "precision": 1e-10,
    "r_precision": 1e-13,
}  # of Newton's method in lifelines; its default is good to five digits


class NoFitError(LeukoscopeError):
    """The data do not determine the coefficients."""


@dataclass(frozen=True)
class Design:
    """Patients with every covariate known, and the terms that can be told apart; `notes` say what was left out."""

    cohort: Cohort
    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Array]:
        """Covariates and the stage (by name), (patients,) each."""
        return columns_of(self.cohort)


def columns_of(cohort: Cohort) -> dict[str, Array]:
    """Return the covariates and the stage by name, as terms look them up."""
    return {**cohort.covariates, cohort.stage_column: np.array(cohort.stages)[cohort.stage]}


def make_design(cohort: Cohort, *, stages: Sequence[str]) -> Design:
    """Choose patients of the given stages with all covariates known, then terms that vary and are not collinear."""
    known = np.isin(np.array(cohort.stages)[cohort.stage], list(stages))
    for values in cohort.covariates.values():
        known &= values != "" if values.dtype.kind == "U" else ~np.isnan(values)
    chosen = cohort.take(known)
    notes = []
    if len(chosen) < len(cohort):
        notes.append(
            f"The model uses {len(chosen)} of {len(cohort)} patients; the others lack a covariate or are of a stage "
            "that cannot be modelled. Curves and tests use all of them."
        )
    terms = [term for name in (cohort.stage_column, *cohort.covariates) for term in _terms(chosen, name, stages, notes)]
    return Design(chosen, tuple(_independent(terms, chosen, notes)), tuple(notes))


def _terms(cohort: Cohort, name: str, stages: Sequence[str], notes: list[str]) -> list[Term]:
    values = columns_of(cohort)[name]
    if len(np.unique(values)) < 2:
        if name != cohort.stage_column:
            notes.append(f"'{name}' is the same for every patient: nothing can be learned from it, so it is left out.")
        return []
    if values.dtype.kind != "U":
        return [Term(name, name, centre=float(values.mean()))]
    levels = list(stages) if name == cohort.stage_column else _levels(values)
    eventful = [level for level in levels if (cohort.state[values == level] == 1).any()]
    silent = [level for level in levels if level not in eventful]
    if silent:
        rest = eventful[0] if eventful else "the rest"
        notes.append(f"'{name}' = {listing(silent)}: nobody had the event there, so the model counts it with {rest}.")
    return [Term(f"{name} = {level}", name, level=level) for level in eventful[1:]]


def _levels(values: Array) -> list[str]:
    """Return the levels of a category, the commonest (the reference) first."""
    names, counts = np.unique(values, return_counts=True)
    return [str(names[place]) for place in np.argsort(-counts, kind="stable")]


def _independent(terms: list[Term], cohort: Cohort, notes: list[str]) -> list[Term]:
    """Leave out terms that earlier ones determine (collinear): nothing of them is left beside the others."""
    matrix = term_matrix(terms, columns_of(cohort), patients=len(cohort))
    centred = matrix - matrix.mean(axis=0)
    products = centred.T @ centred
    kept: list[int] = []
    for place in range(len(terms)):
        others, own = products[np.ix_(kept, kept)], products[kept, place]
        rest = products[place, place] - own @ np.linalg.solve(others, own)
        if rest > 1e-9 * products[place, place]:  # as a share of its variance; below it, rounding
            kept.append(place)
        else:
            notes.append(
                f"'{terms[place].name}' follows exactly from the other covariates (collinear) and is left out."
            )
    return [terms[place] for place in kept]


@dataclass(frozen=True)
class Proportionality:
    """The test of proportional hazards for one column, and what was done about it."""

    column: str
    test: Test
    p_holm: float
    action: str


@dataclass(frozen=True)
class CauseFit:
    """A fitted cause with its first model (`simple`, before any repair) and the check of proportional hazards."""

    model: CauseModel
    simple: CauseModel
    checks: tuple[Proportionality, ...]
    notes: tuple[str, ...] = ()


def fit_cause(design: Design, *, cause: int, penalty: float = 0.0) -> CauseFit:
    """Fit one cause (counted from 0; other causes count as censored), check proportional hazards, repair, refit.

    A category that fails gets a baseline hazard of its own (strata); a number gets one coefficient before and one
    after the median time of the events.

    Raises:
        NoFitError: the coefficients are not determined.
    """
    events = int((design.cohort.state == cause + 1).sum())
    if events < FEWEST_EVENTS:
        name = design.cohort.events[cause]
        bare = fit_terms(design, (), cause=cause)
        return CauseFit(
            bare,
            bare,
            (),
            (f"Too few {happened(name)} ({events}): the hazard of {name} is taken as the same for all.",),
        )
    simple = fit_terms(design, design.terms, cause=cause, penalty=penalty)
    checks = _check(design, simple, cause=cause)
    strata = tuple(check.column for check in checks if check.action.startswith("own baseline"))
    split = tuple(check.column for check in checks if check.action.startswith("one effect before"))
    if not strata and not split:
        return CauseFit(simple, simple, checks)
    terms = _repaired(design, strata=strata, split=split, when=split_time(design.cohort, cause=cause))
    return CauseFit(fit_terms(design, terms, cause=cause, strata=strata, penalty=penalty), simple, checks)


def split_time(cohort: Cohort, *, cause: int) -> float:
    """Return the median time of the events of a cause, where early and late effects part."""
    return float(np.median(cohort.time[cohort.state == cause + 1]))


def _repaired(design: Design, *, strata: Sequence[str], split: Sequence[str], when: float) -> tuple[Term, ...]:
    terms: list[Term] = []
    for term in design.terms:
        if term.column in split:
            terms += [replace(term, name=f"{term.name} ({p})", period=p, split=when) for p in ("early", "late")]
        elif term.column not in strata:
            terms.append(term)
    return tuple(terms)


@dataclass(frozen=True)
class _Sample:
    """What is fitted: x (patients, terms), times in the unit of the cohort, and the name of each patient's stratum."""

    x: Array
    terms: tuple[Term, ...]
    time: Array
    start: Array | None
    event: Array
    strata: Array

    def of(self, stratum: str) -> "_Sample":
        """Return the patients of one stratum."""
        rows = self.strata == stratum
        start = None if self.start is None else self.start[rows]
        return _Sample(self.x[rows], self.terms, self.time[rows], start, self.event[rows], self.strata[rows])


def fit_terms(
    design: Design, terms: Sequence[Term], *, cause: int, strata: Sequence[str] = (), penalty: float = 0.0
) -> CauseModel:
    """Fit given terms and strata with lifelines (Efron's ties, ridge penalty) and add Breslow's baseline hazard."""
    cohort, columns = design.cohort, design.columns
    names = stratum_names(strata, columns, patients=len(cohort))
    matrix = term_matrix(terms, columns, patients=len(cohort))
    sample = _Sample(matrix, tuple(terms), cohort.time, cohort.entry, cohort.state == cause + 1, names)
    coefficients, covariance = _fit(sample, penalty=penalty) if terms else (np.zeros(0), np.zeros((0, 0)))
    baselines = {str(name): _baseline(sample.of(name), coefficients) for name in np.unique(names)}
    return CauseModel(cohort.events[cause], tuple(terms), coefficients, covariance, baselines, tuple(strata), penalty)


def _fit(sample: _Sample, *, penalty: float) -> tuple[Array, Array]:
    lifelines = require("lifelines", feature="Fitting a survival model", extra="survival")
    frame = _frame(sample)
    options = {"entry_col": "entry"} if sample.start is not None else {}
    strata = ["stratum"] if frame["stratum"].nunique() > 1 else None
    fitter = lifelines.CoxPHFitter(penalizer=penalty, strata=strata)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lifelines warns of what `_determined` checks
            fitter.fit(
                frame if strata else frame.drop(columns="stratum"), "time", "event", fit_options=_TIGHT, **options
            )
    except (lifelines.exceptions.ConvergenceError, lifelines.exceptions.StatError, np.linalg.LinAlgError, ValueError):
        raise NoFitError("The coefficients are not determined by these data.") from None
    coefficients, covariance = fitter.params_.to_numpy(), fitter.variance_matrix_.to_numpy()
    if not _determined(coefficients, covariance, sample.x):
        raise NoFitError("A covariate separates those with and without the event; its effect has no limit.")
    return coefficients, covariance


def _determined(coefficients: Array, covariance: Array, matrix: Array) -> bool:
    """Refuse coefficients that ran away: a hazard ratio above e^10 per standard deviation, or no variance."""
    spread = np.maximum(matrix.std(axis=0), 1e-12)
    return bool(np.isfinite(covariance).all() and (np.abs(coefficients) * spread < 10).all())


def _frame(sample: _Sample) -> Any:
    """Return lifelines' table: one row per patient, or one per patient and period where an effect changes in time.

    Periods are strata: nobody of the late period is at risk in the early one, so no delayed entry is needed for them.
    """
    pandas = require("pandas", feature="Fitting a survival model", extra="survival")
    when = next((term.split for term in sample.terms if term.period), None)
    episodes = [(sample, 0.0, "")] if when is None else _episodes(sample, when)
    frames = []
    for part, at, period in episodes:
        active = np.concatenate([term.active(np.array([at])) for term in part.terms])
        data = {f"x{place}": part.x[:, place] * active[place] for place in range(len(part.terms))}
        data |= {"time": part.time, "event": part.event, "stratum": np.char.add(part.strata, period)}
        frames.append(pandas.DataFrame(data if part.start is None else data | {"entry": part.start}))
    return pandas.concat(frames)


def _episodes(sample: _Sample, when: float) -> list[tuple[_Sample, float, str]]:
    """Cut follow-up at a time; return each part with a time inside it and its name."""
    before = np.ones(len(sample.time), dtype=bool) if sample.start is None else sample.start < when
    event = sample.event & (sample.time <= when)
    early = replace(sample, time=np.minimum(sample.time, when), event=event, strata=np.where(before, "in", "out"))
    late = np.where(sample.time > when, "in", "out")
    start = None if sample.start is None else np.maximum(sample.start, when)
    parts = [(early, when, " early"), (replace(sample, start=start, strata=late), np.nextafter(when, np.inf), " late")]
    return [
        (replace(part.of("in"), strata=sample.strata[part.strata == "in"]), float(at), name) for part, at, name in parts
    ]


def _baseline(sample: _Sample, coefficients: Array) -> Baseline:
    """Return Breslow's hazard increments of one stratum, their variance, and the mean terms of those at risk."""
    times, deaths = np.unique(sample.time[sample.event], return_counts=True)
    weight, first = np.zeros(len(times)), np.zeros((len(times), len(sample.terms)))
    periods = np.column_stack([term.active(times) for term in sample.terms] or [np.ones(len(times))])
    for active in np.unique(periods, axis=0):
        here = (periods == active).all(axis=1)
        x = sample.x * active
        relative = np.exp(x @ coefficients)
        sums = _sums_at_risk(np.column_stack([relative, relative[:, None] * x]), sample, times[here])
        weight[here], first[here] = sums[:, 0], sums[:, 1:]
    return Baseline(times, deaths / weight, deaths / weight**2, first / weight[:, None], float(sample.time.max()))


def _sums_at_risk(values: Array, sample: _Sample, when: Array) -> Array:
    """Sum rows of `values` (patients, k) over those with start < t <= time, for each t in `when`."""
    total = _sums_from(values, sample.time, when)
    return total if sample.start is None else total - _sums_from(values, sample.start, when)


def _sums_from(values: Array, key: Array, when: Array) -> Array:
    order = np.argsort(key, kind="stable")
    tail = np.vstack([np.cumsum(values[order][::-1], axis=0)[::-1], np.zeros((1, values.shape[1]))])
    sums: Array = tail[np.searchsorted(key[order], when, side="left")]
    return sums


def schoenfeld(design: Design, model: CauseModel, *, cause: int) -> tuple[Array, Array]:
    """Return the times of the events of a cause and their Schoenfeld residuals, (events,) and (events, terms)."""
    cohort, columns = design.cohort, design.columns
    happened = cohort.state == cause + 1
    residuals = term_matrix(model.terms, columns, patients=len(cohort))
    names = model.stratum(columns, patients=len(cohort))
    for name, baseline in model.baselines.items():
        rows = happened & (names == name)
        residuals[rows] -= baseline.means[np.searchsorted(baseline.times, cohort.time[rows])]
    return cohort.time[happened], residuals[happened]


def proportionality(design: Design, model: CauseModel, *, cause: int, columns: Sequence[str] = ()) -> Test:
    """Test proportional hazards of some columns (none named: of all together) against the rank of time.

    Source: Grambsch and Therneau (1994), Biometrika 81:515.
    """
    times, residuals = schoenfeld(design, model, cause=cause)
    return _slope_test(times, residuals, model, columns=columns or [term.column for term in model.terms])


def _slope_test(times: Array, residuals: Array, model: CauseModel, *, columns: Sequence[str]) -> Test:
    chosen = [place for place, term in enumerate(model.terms) if term.column in columns]
    ranks = rankdata(times)
    slope = (ranks - ranks.mean()) @ residuals @ model.covariance * len(times)
    spread = len(times) * np.sum((ranks - ranks.mean()) ** 2)
    part, scale = slope[chosen], np.linalg.pinv(model.covariance[np.ix_(chosen, chosen)], hermitian=True)
    statistic = part @ scale @ part / spread if spread > 0 else 0.0  # all events at one time: nothing can change
    return chi_squared(statistic, len(chosen))


def _check(design: Design, model: CauseModel, *, cause: int) -> tuple[Proportionality, ...]:
    columns = list(dict.fromkeys(term.column for term in model.terms))
    times, residuals = schoenfeld(design, model, cause=cause)
    tests = [_slope_test(times, residuals, model, columns=[name]) for name in columns]
    adjusted = holm([test.p for test in tests])
    return tuple(
        Proportionality(name, test, p, _action(design, name, cause=cause) if p < PROPORTIONAL_P else "none needed")
        for name, test, p in zip(columns, tests, adjusted, strict=True)
    )


def _action(design: Design, column: str, *, cause: int) -> str:
    values = design.columns[column]
    if values.dtype.kind != "U":
        return "one effect before and one after the median time of the events"
    happened = design.cohort.state == cause + 1
    if min(int(happened[values == level].sum()) for level in np.unique(values)) < _STRATUM_EVENTS:
        return f"nothing: too few events for a baseline of its own per {bare_name(column)}"
    return "own baseline hazard for each level (strata)"
