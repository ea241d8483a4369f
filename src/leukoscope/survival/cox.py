"""Cox models: which terms, fitted by lifelines, whether hazards are proportional, and what is done where not."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from scipy.stats import rankdata

from ..errors import LeukoscopeError, require
from .cohort import Cohort, bare_name
from .comparison import Test, chi_squared, holm
from .curves import Array
from .model import Baseline, CauseModel, Term, stratum_names, term_matrix

PROPORTIONAL_P = 0.05  # below it, after Holm's correction over the columns, hazards count as not proportional
FEWEST_EVENTS = 10  # with fewer events of a cause its hazard is estimated without covariates
_STRATUM_EVENTS = 5  # every stratum needs this many events for a baseline of its own
_TIGHT = {"precision": 1e-10, "r_precision": 1e-13}  # of Newton's method in lifelines; its default is good to five digits


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
    if len(np.unique(values)) < 2:  # noqa: PLR2004
        if name != cohort.stage_column:
            notes.append(f"'{name}' is the same for every patient: nothing can be learned from it, so it is left out.")
        return []
    if values.dtype.kind != "U":
        return [Term(name, name, centre=float(values.mean()))]
    levels = list(stages) if name == cohort.stage_column else _levels(values)
    eventful = [level for level in levels if (cohort.state[values == level] == 1).any()]
    silent = [level for level in levels if level not in eventful]
    if silent:
        notes.append(f"'{name}' = {', '.join(silent)}: nobody had the event, so it is judged together with {eventful[0]}.")
    return [Term(f"{name} = {level}", name, level=level) for level in eventful[1:]]


def _levels(values: Array) -> list[str]:
    """Return the levels of a category, the commonest (the reference) first."""
    names, counts = np.unique(values, return_counts=True)
    return [str(names[place]) for place in np.argsort(-counts, kind="stable")]


def _independent(terms: list[Term], cohort: Cohort, notes: list[str]) -> list[Term]:
    """Leave out terms that earlier ones determine (collinear)."""
    matrix = term_matrix(terms, columns_of(cohort), patients=len(cohort))
    kept: list[int] = []
    for place in range(len(terms)):
        candidate = np.column_stack([np.ones(len(cohort)), matrix[:, [*kept, place]]])
        scaled = candidate / np.maximum(np.linalg.norm(candidate, axis=0), 1e-300)
        if np.linalg.svd(scaled, compute_uv=False)[-1] > 1e-7:  # noqa: PLR2004  single precision: beyond it, noise
            kept.append(place)
        else:
            notes.append(f"'{terms[place].name}' follows exactly from the other covariates (collinear) and is left out.")
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
        return CauseFit(bare, bare, (), (f"Too few had {name} ({events}): its hazard is taken as the same for all.",))
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


def fit_terms(
    design: Design, terms: Sequence[Term], *, cause: int, strata: Sequence[str] = (), penalty: float = 0.0
) -> CauseModel:
    """Fit given terms and strata with lifelines (Efron's ties, ridge penalty) and add Breslow's baseline hazard."""
    cohort, columns = design.cohort, design.columns
    names = stratum_names(strata, columns, patients=len(cohort))
    matrix, event = term_matrix(terms, columns, patients=len(cohort)), cohort.state == cause + 1
    coefficients, covariance = _fit(matrix, terms, cohort, event, names, penalty) if terms else (np.zeros(0), np.zeros((0, 0)))
    baselines = {
        str(name): _baseline(matrix, terms, coefficients, cohort, event, names == name) for name in np.unique(names)
    }
    return CauseModel(cohort.events[cause], tuple(terms), coefficients, covariance, baselines, tuple(strata), penalty)


def _fit(
    matrix: Array, terms: Sequence[Term], cohort: Cohort, event: Array, strata: Array, penalty: float
) -> tuple[Array, Array]:
    lifelines = require("lifelines", feature="Fitting a survival model", extra="survival")
    frame, options = _episodes(matrix, terms, cohort, event, strata)
    fitter = lifelines.CoxPHFitter(penalizer=penalty)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lifelines warns of what `_determined` checks
            fitter.fit(frame, "time", "event", fit_options=_TIGHT, **options)
    except (lifelines.exceptions.ConvergenceError, lifelines.exceptions.StatError, np.linalg.LinAlgError, ValueError):
        raise NoFitError("The coefficients are not determined by these data.") from None
    coefficients, covariance = fitter.params_.to_numpy(), fitter.variance_matrix_.to_numpy()
    if not _determined(coefficients, covariance, matrix):
        raise NoFitError("A covariate separates those with and without the event; its effect has no limit.")
    return coefficients, covariance


def _determined(coefficients: Array, covariance: Array, matrix: Array) -> bool:
    """Refuse coefficients that ran away: a hazard ratio above e^10 per standard deviation, or no variance."""
    spread = np.maximum(matrix.std(axis=0), 1e-12)
    return bool(np.isfinite(covariance).all() and (np.abs(coefficients) * spread < 10).all())  # noqa: PLR2004


def _episodes(
    matrix: Array, terms: Sequence[Term], cohort: Cohort, event: Array, strata: Array
) -> tuple[object, dict[str, object]]:
    """Return lifelines' table: one row per patient, or one per patient and period where an effect changes in time.

    Periods are strata: nobody of the late period is at risk in the early one, so no delayed entry is needed for them.
    """
    pandas: ModuleType = require("pandas", feature="Fitting a survival model", extra="survival")
    when = next((term.split for term in terms if term.period), None)
    time, start = cohort.time, cohort.entry
    pieces = [(np.ones(len(time), dtype=bool), time, event, np.zeros(1), "")] if when is None else [
        (np.ones(len(time), dtype=bool) if start is None else start < when, np.minimum(time, when), event & (time <= when),
         np.array([when]), "early"),
        (time > when, time, event, np.array([np.nextafter(when, np.inf)]), "late"),
    ]  # fmt: skip
    frames = []
    for rows, until, happened, at, period in pieces:
        active = np.concatenate([term.active(at) for term in terms])
        data = {f"x{place}": (matrix[:, place] * active[place])[rows] for place in range(len(terms))}
        data |= {"time": until[rows], "event": happened[rows], "stratum": np.char.add(strata, period)[rows]}
        if start is not None:
            data["entry"] = (start if period != "late" else np.maximum(start, when))[rows]
        frames.append(pandas.DataFrame(data))
    frame = pandas.concat(frames)
    several = frame["stratum"].nunique() > 1
    options: dict[str, object] = {"entry_col": "entry"} if start is not None else {}
    return (frame, options | {"strata": ["stratum"]}) if several else (frame.drop(columns="stratum"), options)


def _baseline(
    matrix: Array, terms: Sequence[Term], coefficients: Array, cohort: Cohort, event: Array, rows: Array
) -> Baseline:
    """Return Breslow's hazard increments of one stratum, their variance, and the mean terms of those at risk."""
    time, start, happened = cohort.time[rows], None if cohort.entry is None else cohort.entry[rows], event[rows]
    times, deaths = np.unique(time[happened], return_counts=True)
    weight, first = np.zeros(len(times)), np.zeros((len(times), len(terms)))
    periods = np.column_stack([term.active(times) for term in terms] or [np.ones(len(times))])
    for active in np.unique(periods, axis=0):
        here = (periods == active).all(axis=1)
        x = matrix[rows] * active
        relative = np.exp(x @ coefficients)
        sums = _sums_at_risk(np.column_stack([relative, relative[:, None] * x]), time, start, times[here])
        weight[here], first[here] = sums[:, 0], sums[:, 1:]
    return Baseline(times, deaths / weight, deaths / weight**2, first / weight[:, None], float(time.max()))


def _sums_at_risk(values: Array, time: Array, start: Array | None, when: Array) -> Array:
    """Sum rows of `values` (patients, k) over those with start < t <= time, for each t in `when`."""
    total = _sums_from(values, time, when)
    return total if start is None else total - _sums_from(values, start, when)


def _sums_from(values: Array, key: Array, when: Array) -> Array:
    order = np.argsort(key, kind="stable")
    tail = np.vstack([np.cumsum(values[order][::-1], axis=0)[::-1], np.zeros((1, values.shape[1]))])
    sums: Array = tail[np.searchsorted(key[order], when, side="left")]
    return sums


def schoenfeld(design: Design, model: CauseModel, *, cause: int) -> tuple[Array, Array]:
    """Return the times of the events of a cause and their Schoenfeld residuals, (events,) and (events, terms)."""
    cohort, columns = design.cohort, design.columns
    rows = np.flatnonzero(cohort.state == cause + 1)
    matrix = term_matrix(model.terms, columns, patients=len(cohort))
    names = model.stratum(columns, patients=len(cohort))
    residuals = np.empty((len(rows), len(model.terms)))
    for place, row in enumerate(rows):
        baseline = model.baselines[str(names[row])]
        residuals[place] = matrix[row] - baseline.means[np.searchsorted(baseline.times, cohort.time[row])]
    return cohort.time[rows], residuals


def proportionality(design: Design, model: CauseModel, *, cause: int, columns: Sequence[str] | None = None) -> Test:
    """Test proportional hazards of some columns (None: all together) against the rank of time.

    Source: Grambsch and Therneau (1994), Biometrika 81:515.
    """
    times, residuals = schoenfeld(design, model, cause=cause)
    chosen = [place for place, term in enumerate(model.terms) if columns is None or term.column in columns]
    ranks = rankdata(times)
    slope = (ranks - ranks.mean()) @ residuals @ model.covariance * len(times)
    spread = len(times) * np.sum((ranks - ranks.mean()) ** 2)
    part, scale = slope[chosen], np.linalg.pinv(model.covariance[np.ix_(chosen, chosen)], hermitian=True)
    statistic = part @ scale @ part / spread if spread > 0 else 0.0  # all events at one time: nothing can change
    return chi_squared(statistic, len(chosen))


def _check(design: Design, model: CauseModel, *, cause: int) -> tuple[Proportionality, ...]:
    columns = list(dict.fromkeys(term.column for term in model.terms))
    tests = [proportionality(design, model, cause=cause, columns=[name]) for name in columns]
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
