"""Proportional hazards: Cox models of each cause, and Fine and Gray's model of the cumulative incidence itself.

Its hazard keeps patients with a competing event at risk, weighted by the chance to be still uncensored (and, with late
entry, to have entered). Newton's method with Breslow's ties; robust covariance, which without late entry has the part
that comes from estimating the censoring.
Sources: Fine and Gray (1999), doi 10.1080/01621459.1999.10474144; Geskus (2011), doi 10.1111/j.1541-0420.2010.01420.x.
Numbers agree with crr of R's cmprsk, with late entry with finegray and coxph of R's survival.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from ..errors import LeukoscopeError
from .cohort import Cohort, bare_name
from .curves import Z95, Array, ChiSquared, chi_squared, holm, kaplan_meier, risk_table
from .model import Baseline, CauseModel, Term, knots_of, spline_basis, stratum_names, term_matrix
from .partial_likelihood import Rows, ScoreTest, baseline, likelihood, maximise, residuals, score_test, strata_of
from .table import counted, happened, join_words

PROPORTIONAL_P = 0.05  # below it, after Holm's correction over the columns, hazards count as not proportional
FEWEST_EVENTS = 10  # with fewer events of a cause its hazard is estimated without covariates
PENALTIES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # per patient and squared standard deviation
SHRINK_BELOW = 20  # events per coefficient; above it a penalty has little to mend and none is sought
_STRATUM_EVENTS = 5  # every stratum needs this many events for a baseline of its own


class NoFitError(LeukoscopeError):
    """The data do not determine the coefficients."""


@dataclass(frozen=True)
class CoxDesign:
    """Patients with every covariate known, and the terms that can be estimated; `notes` name what was left out."""

    cohort: Cohort
    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Array]:
        """Covariates and the stage by name, each (patients,)."""
        return columns_of(self.cohort)


def columns_of(cohort: Cohort) -> dict[str, Array]:
    """Return the covariates and the stage by name, as needed by terms."""
    return {**cohort.covariates, cohort.stage_column: np.array(cohort.stages)[cohort.stage]}


def make_design(cohort: Cohort, *, stages: Sequence[str]) -> CoxDesign:
    """Select patients of the given stages with complete covariates, and terms that vary and are not collinear.

    Columns without any values are left out. This is a complete-case analysis without imputation; the notes count the
    patients that each column excludes.
    """
    notes: list[str] = []
    known = {name: _known(values) for name, values in cohort.covariates.items()}
    for name in [name for name, there in known.items() if not there.any()]:
        notes.append(f"'{name}' is missing for every patient, so it is left out.")
        del known[name]
    cohort = replace(cohort, covariates={name: cohort.covariates[name] for name in known})
    staged = np.isin(np.array(cohort.stages)[cohort.stage], list(stages))
    chosen = cohort.take(staged & np.all(list(known.values()) or [np.ones(len(cohort), dtype=bool)], axis=0))
    if len(chosen) < len(cohort):
        notes.append(_excluded_patients(cohort, chosen, staged, known))
    terms = [term for name in (cohort.stage_column, *cohort.covariates) for term in _terms(chosen, name, stages, notes)]
    return CoxDesign(chosen, tuple(_independent(terms, chosen, notes)), tuple(notes))


def _known(values: Array) -> Array:
    return np.asarray(values != "" if values.dtype.kind == "U" else ~np.isnan(values))


def _excluded_patients(cohort: Cohort, chosen: Cohort, staged: Array, known: Mapping[str, Array]) -> str:
    """Describe how many patients the model excludes, and which values are missing."""
    gone = len(cohort) - len(chosen)
    unknown = {bare_name(name): int((staged & ~there).sum()) for name, there in known.items()}
    why = [f"{name} unknown: {count:,}" for name, count in unknown.items() if count]
    if other := int((~staged).sum()):
        why.append(f"a stage that cannot be modelled: {other}")
    return (
        f"The model uses {len(chosen):,} of {len(cohort):,} patients ({100 * gone / len(cohort):.0f} % are excluded; "
        f"{', '.join(why)}). Nothing was imputed: the model is biased if survival differs between patients with and "
        "without missing values. Curves and tests use all patients."
    )


def _terms(cohort: Cohort, name: str, stages: Sequence[str], notes: list[str]) -> list[Term]:
    values = columns_of(cohort)[name]
    if len(np.unique(values)) < 2:
        if name != cohort.stage_column:
            notes.append(f"'{name}' is the same for every patient, so it is left out.")
        return []
    if values.dtype.kind != "U":
        return [Term(name, name, centre=float(values.mean())), *_spline_terms(name, values, notes)]
    levels = list(stages) if name == cohort.stage_column else _levels(values)
    eventful = [level for level in levels if (cohort.state[values == level] == 1).any()]
    silent = [level for level in levels if level not in eventful]
    if silent:
        notes.append(_levels_without_events(name, values, silent, eventful[0] if eventful else "the rest"))
    return [Term(f"{name} = {level}", name, level=level) for level in eventful[1:]]


def _levels_without_events(name: str, values: Array, levels: Sequence[str], rest: str) -> str:
    """Describe the levels of a category without events, whose log hazard ratio would be minus infinity."""
    patients = int(np.isin(values, levels).sum())
    return (
        f"'{name}' = {join_words(levels)}: none of {counted(patients, 'patient')} had the event, so its "
        f"hazard ratio cannot be estimated. The model merges these patients with {rest}; compare the curves instead."
    )


def _spline_terms(name: str, values: Array, notes: list[str]) -> list[Term]:
    """Return the nonlinear terms of a covariate written as spline(…): a restricted cubic spline, up to four knots."""
    if not name.startswith("spline("):
        return []
    knots = knots_of(values)
    if not knots:
        notes.append(f"'{name}' has too few different values for a spline, so its effect is linear.")
        return []
    basis = spline_basis(values, knots)[:, 1:]
    return [
        Term(f"{name}, bend {place + 1}", name, centre=float(basis[:, place].mean()), knots=knots, bend=place)
        for place in range(basis.shape[1])
    ]


def _levels(values: Array) -> list[str]:
    """Return the levels of a category by frequency; the most frequent is the reference."""
    names, counts = np.unique(values, return_counts=True)
    return [str(names[place]) for place in np.argsort(-counts, kind="stable")]


def _independent(terms: list[Term], cohort: Cohort, notes: list[str]) -> list[Term]:
    """Remove terms that are linear combinations of earlier ones."""
    if not len(cohort):
        return []
    matrix = term_matrix(terms, columns_of(cohort), patients=len(cohort))
    centred = matrix - matrix.mean(axis=0)
    products = centred.T @ centred
    kept: list[int] = []
    for place in range(len(terms)):
        others, own = products[np.ix_(kept, kept)], products[kept, place]
        rest = products[place, place] - own @ np.linalg.solve(others, own)
        if rest > 1e-9 * products[place, place]:  # as a share of its variance; below this only rounding
            kept.append(place)
        else:
            notes.append(f"'{terms[place].name}' is collinear with the other covariates and is left out.")
    return [terms[place] for place in kept]


@dataclass(frozen=True)
class Proportionality:
    """The test of proportional hazards for one column, and the remedy."""

    column: str
    test: ChiSquared
    p_holm: float
    action: str


@dataclass(frozen=True)
class CauseFit:
    """A fitted cause with its first model (`simple`, before any repair) and the check of proportional hazards."""

    model: CauseModel
    simple: CauseModel
    checks: tuple[Proportionality, ...]
    notes: tuple[str, ...] = ()
    whole: ChiSquared | None = None  # joint, of all columns
    checked: CauseModel | None = None  # `simple` without a penalty, which would weaken the test


def fit_cause(design: CoxDesign, *, cause: int, penalty: float = 0.0) -> CauseFit:
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
            (f"Too few {happened(name)} ({events}): the hazard of {name} is assumed to be the same for all patients.",),
        )
    simple = fit_terms(design, design.terms, cause=cause, penalty=penalty)
    checked = _without_penalty(design, simple, cause=cause)
    checks, whole = _check(design, checked, cause=cause)
    strata = tuple(check.column for check in checks if check.action.startswith("own baseline"))
    split = tuple(check.column for check in checks if check.action.startswith("one effect before"))
    if not strata and not split:
        return CauseFit(simple, simple, checks, whole=whole, checked=checked)
    terms = _repaired(design, strata=strata, split=split, when=split_time(design.cohort, cause=cause))
    mended = fit_terms(design, terms, cause=cause, strata=strata, penalty=penalty)
    return CauseFit(mended, simple, checks, whole=whole, checked=checked)


def _without_penalty(design: CoxDesign, model: CauseModel, *, cause: int) -> CauseModel:
    """Return the same model without its penalty, or unchanged where a coefficient would then diverge."""
    try:
        return fit_terms(design, model.terms, cause=cause) if model.penalty else model
    except NoFitError:
        return model


def split_time(cohort: Cohort, *, cause: int) -> float:
    """Return the median time of the events of a cause, which separates early from late effects."""
    return float(np.median(cohort.time[cohort.state == cause + 1]))


def _repaired(design: CoxDesign, *, strata: Sequence[str], split: Sequence[str], when: float) -> tuple[Term, ...]:
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
    design: CoxDesign, terms: Sequence[Term], *, cause: int, strata: Sequence[str] = (), penalty: float = 0.0
) -> CauseModel:
    """Fit given terms and strata (Efron's ties, ridge penalty) and add Efron's baseline hazard.

    Raises:
        NoFitError: a coefficient has no limit; the message names its term.
    """
    sample = _sample(design, terms, cause=cause, strata=strata)
    coefficients, covariance = _fit(sample, penalty=penalty) if terms else (np.zeros(0), np.zeros((0, 0)))
    baselines = {str(name): _baseline(sample.of(name), coefficients) for name in np.unique(sample.strata)}
    event = design.cohort.events[cause]
    return CauseModel(event, tuple(terms), coefficients, covariance, baselines, tuple(strata), penalty)


def choose_penalty(design: CoxDesign, *, cause: int, folds: int = 5) -> float:
    """Return the ridge penalty with the highest cross-validated partial likelihood among PENALTIES; 0 is included.

    Folds are stratified by event and time, so the choice is deterministic. A positive penalty may be chosen where the
    coefficients are not determined without one.
    Source: Verweij and van Houwelingen (1993), doi 10.1002/sim.4780122407.
    """
    rows = _rows(_sample(design, design.terms, cause=cause))
    keys = [*rows.x.T, rows.time if rows.start is None else rows.start, rows.time, rows.event]
    order = np.lexsort(keys)  # independent of the order of the table
    fold = np.empty(len(rows), dtype=np.int64)
    fold[order] = np.arange(len(rows)) % folds
    worth = [sum(_held_out(rows, fold != held, penalty=p) for held in range(folds)) for p in PENALTIES]
    return PENALTIES[int(np.argmax(worth))]


def likelihood_ratio(design: CoxDesign, *, cause: int) -> float | None:
    """Return the likelihood-ratio statistic of all terms, without a penalty; None where a coefficient diverges."""
    if not design.terms:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = maximise(_rows(_sample(design, design.terms, cause=cause)))
    return None if found.runaway is not None else 2 * (found.log_likelihood - found.log_likelihood_null)


def _held_out(rows: Rows, kept: Array, *, penalty: float) -> float:
    """Return the log partial likelihood of held-out patients; minus infinity without a solution."""
    part = Rows(
        rows.x[kept],
        rows.time[kept],
        None if rows.start is None else rows.start[kept],
        rows.event[kept],
        rows.stratum[kept],
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = maximise(part, penalty=penalty)
        if found.runaway is not None or not np.isfinite(found.covariance).all():
            return -np.inf
        whole, mine = (likelihood(rows_, strata_of(rows_), found.coefficients)[0] for rows_ in (rows, part))
    return whole - mine


def _sample(design: CoxDesign, terms: Sequence[Term], *, cause: int, strata: Sequence[str] = ()) -> _Sample:
    cohort, columns = design.cohort, design.columns
    names = stratum_names(strata, columns, patients=len(cohort))
    matrix = term_matrix(terms, columns, patients=len(cohort))
    return _Sample(matrix, tuple(terms), cohort.time, cohort.entry, cohort.state == cause + 1, names)


def _fit(sample: _Sample, *, penalty: float) -> tuple[Array, Array]:
    rows = _rows(sample)
    if not rows.event.any():
        raise NoFitError("Nobody had the event, so the coefficients are not determined by these data.")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a diverging coefficient shows in the result
        found = maximise(rows, penalty=penalty)
    if found.runaway is not None:
        name = sample.terms[found.runaway].name
        raise NoFitError(
            f"'{name}' separates patients with the event from those without; its effect cannot be estimated. Leave it "
            "out, or join its rare values."
        )
    return found.coefficients, found.covariance


def _rows(sample: _Sample) -> Rows:
    """Return the rows to fit: one per patient, or one per patient and period where an effect varies over time.

    Periods are strata: nobody of the late period is at risk in the early one, so no delayed entry is needed for them.
    """
    when = next((term.split for term in sample.terms if term.period), None)
    if when is None:
        return Rows(sample.x, sample.time, sample.start, sample.event, sample.strata)
    parts = []
    for part, at, period in _episodes(sample, when):
        active = np.concatenate([term.active(np.array([at])) for term in part.terms])
        parts.append(Rows(part.x * active, part.time, part.start, part.event, np.char.add(part.strata, period)))
    start = None if sample.start is None else np.concatenate([part.start for part in parts if part.start is not None])
    x, time, event, strata = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "time", "event", "stratum")
    )
    return Rows(x, time, start, event, strata)


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
    """Return the hazard increments of one stratum with Efron's ties, their variance, and the mean terms at risk."""
    last, rows = float(sample.time.max()), Rows(sample.x, sample.time, sample.start, sample.event, sample.strata)
    if not sample.event.any():
        return Baseline(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, len(sample.terms))), last)
    (stratum,) = strata_of(rows)
    times = stratum.times
    hazard, variance, means = np.zeros(len(times)), np.zeros(len(times)), np.zeros((len(times), len(sample.terms)))
    periods = np.column_stack([term.active(times) for term in sample.terms] or [np.ones(len(times))])
    for active in np.unique(periods, axis=0):
        here = (periods == active).all(axis=1)
        found = baseline(stratum, replace(rows, x=sample.x * active), coefficients)
        hazard[here], variance[here], means[here] = (values[here] for values in found)
    return Baseline(times, hazard, variance, means, last)


def schoenfeld(design: CoxDesign, model: CauseModel, *, cause: int) -> tuple[Array, Array]:
    """Return the times of the events of a cause and their Schoenfeld residuals, (events,) and (events, terms)."""
    sample = _sample(design, model.terms, cause=cause, strata=model.strata)
    who, rest = residuals(_rows(sample), model.coefficients)
    order = np.argsort(who)
    return sample.time[who[order]], rest[order]


def transformed(time: Array, event: Array, *, how: str = "km", start: Array | None = None) -> Array:
    """Return g(time), (patients,), the time transform of an effect: 'km' (1 - Kaplan–Meier), 'rank' or 'identity'.

    Centred on its mean over the events, as cox.zph of R has it.
    """
    if how == "km":
        curve = kaplan_meier(risk_table(time, event.astype(np.int64), start=start), last=float(time.max()))
        g = np.concatenate([[0.0], 1 - curve.value])[np.searchsorted(curve.times, time, side="left")]
    else:
        g = rankdata(time) if how == "rank" else np.asarray(time, dtype=float)
    return np.asarray(g - g[event].mean())


def proportionality(
    design: CoxDesign, model: CauseModel, *, cause: int, columns: Sequence[str] = (), how: str = "km"
) -> ChiSquared:
    """Test proportional hazards of some columns, by default jointly of all: the score test of cox.zph.

    `how` time is transformed: 'km' (R's default), 'rank' or 'identity'.
    """
    return _growth(_score_test(design, model, cause=cause, how=how), model, columns=columns)


def _score_test(design: CoxDesign, model: CauseModel, *, cause: int, how: str = "km") -> ScoreTest:
    sample = _sample(design, model.terms, cause=cause, strata=model.strata)
    g = transformed(sample.time, sample.event, how=how, start=sample.start)
    rows = Rows(sample.x, sample.time, sample.start, sample.event, sample.strata)
    return score_test(rows, model.coefficients, g=g, penalty=model.penalty)


def _growth(test: ScoreTest, model: CauseModel, *, columns: Sequence[str]) -> ChiSquared:
    chosen = [place for place, term in enumerate(model.terms) if not columns or term.column in columns]
    if not np.diag(test.over)[chosen].max() > 0:  # all events at one time: an effect cannot vary
        return ChiSquared(0.0, len(chosen), 1.0)
    return chi_squared(test.statistic(chosen), len(chosen))


def _check(
    design: CoxDesign, model: CauseModel, *, cause: int
) -> tuple[tuple[Proportionality, ...], ChiSquared | None]:
    """Test every column, and all columns jointly."""
    columns = list(dict.fromkeys(term.column for term in model.terms))
    if not columns:
        return (), None
    found = _score_test(design, model, cause=cause)
    tests = [_growth(found, model, columns=[name]) for name in columns]
    adjusted = holm([test.p for test in tests])
    checks = tuple(
        Proportionality(name, test, p, _action(design, name, cause=cause) if p < PROPORTIONAL_P else "none needed")
        for name, test, p in zip(columns, tests, adjusted, strict=True)
    )
    return checks, _growth(found, model, columns=())


def _action(design: CoxDesign, column: str, *, cause: int) -> str:
    values = design.columns[column]
    if values.dtype.kind != "U":
        return "one effect before and one after the median time of the events"
    happened = design.cohort.state == cause + 1
    if min(int(happened[values == level].sum()) for level in np.unique(values)) < _STRATUM_EVENTS:
        return f"nothing: too few events for a separate baseline per {bare_name(column)}"
    return "own baseline hazard for each level (strata)"


@dataclass(frozen=True)
class EffectInTime:
    """One term's effect over time: a scaled Schoenfeld residual at every event, and their smooth with its 95 % band.

    times, values: (events,); grid, smooth, low, high: (points,). All on the scale of the coefficient.
    """

    term: str
    coefficient: float
    times: Array
    values: Array
    grid: Array
    smooth: Array
    low: Array
    high: Array


def effects_in_time(design: CoxDesign, model: CauseModel, *, cause: int, points: int = 40) -> list[EffectInTime]:
    """Smooth the scaled Schoenfeld residuals of every term over time, as plot of R's cox.zph does.

    A natural spline of the transformed time 'km' with 4 degrees of freedom. Source: Grambsch and Therneau (1994).
    """
    sample = _sample(design, model.terms, cause=cause, strata=model.strata)
    rows = Rows(sample.x, sample.time, sample.start, sample.event, sample.strata)
    who, rest = residuals(rows, model.coefficients)
    if len(who) < FEWEST_EVENTS:
        return []
    g, times = transformed(sample.time, sample.event, start=sample.start)[who], sample.time[who]
    knots = tuple(np.unique(np.quantile(g, [0, 1 / 3, 2 / 3, 1])))
    if len(knots) < 3:
        return []
    scaled = model.coefficients + len(who) * rest @ model.covariance
    grid = np.unique(np.quantile(g, np.linspace(0, 1, points), method="nearest"))
    basis, wanted = (np.column_stack([np.ones(len(at)), spline_basis(at, knots)]) for at in (g, grid))
    inverse = np.linalg.pinv(basis.T @ basis, hermitian=True)
    spread = np.einsum("pi,ij,pj->p", wanted, inverse, wanted)
    order = np.argsort(g, kind="stable")
    back = times[order][np.searchsorted(g[order], grid)]
    found = []
    for place, term in enumerate(model.terms):
        smooth = wanted @ (inverse @ (basis.T @ scaled[:, place]))
        width = Z95 * np.sqrt(len(who) * model.covariance[place, place] * spread)
        found.append(
            EffectInTime(
                term.name,
                float(model.coefficients[place]),
                times,
                scaled[:, place],
                back,
                smooth,
                smooth - width,
                smooth + width,
            )
        )
    return found


_STEPS = 30
_SMALL = 1e-9


@dataclass(frozen=True)
class FineGray:
    """Coefficients of the subdistribution hazard of one event and their robust covariance."""

    terms: tuple[Term, ...]
    coefficients: Array
    covariance: Array
    log_likelihood: float


@dataclass(frozen=True)
class _Data:
    """Patients in the order of time: x (patients, terms); `chance`: of being observed just before it."""

    x: Array
    time: Array
    state: Array
    start: Array | None
    by_start: Array | None
    chance: Array
    times: Array  # of the event, distinct
    deaths: Array
    chance_then: Array  # just before `times`


def fit_fine_gray(design: CoxDesign, terms: Sequence[Term]) -> FineGray:
    """Fit the incidence of the first event.

    Raises:
        NoFitError: the coefficients are not determined.
    """
    x = term_matrix(terms, design.columns, patients=len(design.cohort))
    data = _data(x, design.cohort.time, design.cohort.state, design.cohort.entry)
    coefficients = np.zeros(len(terms))
    likelihood, score, information = _likelihood(data, coefficients)
    for _ in range(_STEPS):
        step = np.linalg.lstsq(information, score, rcond=None)[0]
        while (trial := _likelihood(data, coefficients + step))[0] < likelihood - _SMALL * max(1.0, abs(likelihood)):
            step = step / 2
        coefficients = coefficients + step
        likelihood, score, information = trial
        if np.abs(step).max(initial=0) < _SMALL:
            return FineGray(tuple(terms), coefficients, _robust(data, coefficients, information), likelihood)
    raise NoFitError("The Fine–Gray model found no solution.")


def late_gray(time: Array, state: Array, group: Array, *, groups: int, start: Array) -> ChiSquared:
    """Test whether the cumulative incidence of the first event is the same in all groups when patients enter late.

    The score test of the groups in the Fine–Gray model with the weights of Geskus (2011), which without late entry and
    without ties is near to Gray's. Arrays are (patients,); groups in which nobody is are left out.
    """
    present = [place for place in range(groups) if (group == place).any()]
    x = (group[:, None] == np.array(present[1:])).astype(float)
    _, score, information = _likelihood(_data(x, time, state, start), np.zeros(x.shape[1]))
    estimable = np.diag(information) > 1e-12
    if not estimable.any():
        return chi_squared(0.0, 0)
    part = np.linalg.lstsq(information[np.ix_(estimable, estimable)], score[estimable], rcond=None)[0]
    return chi_squared(float(score[estimable] @ part), int(estimable.sum()))


def _data(x: Array, time: Array, state: Array, start: Array | None) -> _Data:
    order = np.argsort(time, kind="stable")
    x, time, state = x[order], time[order], state[order]
    start = None if start is None else start[order]
    times, deaths = np.unique(time[state == 1], return_counts=True)
    chance, chance_then = (_observed(time, state, start, when=when) for when in (time, times))
    by_start = None if start is None else np.argsort(start, kind="stable")
    return _Data(x, time, state, start, by_start, chance, times, deaths, chance_then)


def _observed(time: Array, state: Array, start: Array | None, *, when: Array) -> Array:
    """Return the probability of being uncensored (and of having entered) just before given times."""
    censored = (state == 0).astype(np.int64)
    # at a tied time crr of cmprsk leaves the events at risk of censoring, finegray of survival moves them before it
    before = time if start is None else np.where(censored == 1, time, np.nextafter(time, -np.inf))
    curve = kaplan_meier(risk_table(before, censored, start=start, causes=1), last=float(time[-1]))
    chance = np.concatenate([[1.0], curve.value])[np.searchsorted(curve.times, when)]
    if start is None:
        return np.asarray(chance)
    entries, counts = np.unique(start, return_counts=True)
    there = np.searchsorted(np.sort(start), entries, side="right") - np.searchsorted(time, entries, side="right")
    entered = np.concatenate([np.cumprod((1 - counts / there)[::-1])[::-1], [1.0]])
    return np.asarray(chance * entered[np.searchsorted(entries, when, side="left")])


def _later(data: _Data) -> Array:
    """Return the weight of each patient with a competing event before the factor of the time: (patients,)."""
    gone = (data.state > 1) & (data.chance > 0)
    return np.asarray(np.divide(1.0, data.chance, out=np.zeros(len(data.time)), where=gone))


def _sums(data: _Data, values: Array) -> Array:
    """Sum `values` (patients, …) over the risk set of each event time: those still followed, and, weighted, those
    who had a competing event before.
    """
    padding = np.zeros((1, *values.shape[1:]))
    at_risk = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], padding])
    shape = (-1,) + (1,) * (values.ndim - 1)
    earlier = np.concatenate([padding, np.cumsum(values * _later(data).reshape(shape), axis=0)])
    place = np.searchsorted(data.time, data.times, side="left")
    sums: Array = at_risk[place] + data.chance_then.reshape(shape) * earlier[place]
    if data.start is not None and data.by_start is not None:
        late = np.concatenate([np.cumsum(values[data.by_start][::-1], axis=0)[::-1], padding])
        sums = sums - late[np.searchsorted(data.start[data.by_start], data.times, side="left")]
    return sums


def _moments(data: _Data, coefficients: Array) -> tuple[Array, Array]:
    """Return the risk sets' weight, (times,), and mean terms, (times, terms)."""
    relative = np.exp(data.x @ coefficients)
    weight = _sums(data, relative)
    return weight, _sums(data, relative[:, None] * data.x) / weight[:, None]


def _exposed(data: _Data, increments: Array) -> Array:
    """Sum increments at the event times over those at which each patient is at risk, weighted, (patients, …)."""
    plain = _running(increments)
    upto = np.searchsorted(data.times, data.time, side="right")
    shape = (-1,) + (1,) * (increments.ndim - 1)
    late = _running(increments * data.chance_then.reshape(shape))
    total: Array = plain[upto] + _later(data).reshape(shape) * (late[-1] - late[upto])
    if data.start is not None:
        total = total - plain[np.searchsorted(data.times, data.start, side="right")]
    return total


def _likelihood(data: _Data, coefficients: Array) -> tuple[float, Array, Array]:
    """Return the log partial likelihood, its gradient and the information."""
    weight, mean = _moments(data, coefficients)
    own = data.x[data.state == 1].sum(axis=0)
    exposure = np.exp(data.x @ coefficients) * _exposed(data, data.deaths / weight)
    return (
        float(own @ coefficients - data.deaths @ np.log(weight)),
        own - data.deaths @ mean,
        data.x.T @ (exposure[:, None] * data.x) - mean.T @ (data.deaths[:, None] * mean),
    )


def _robust(data: _Data, coefficients: Array, information: Array) -> Array:
    parts = _score_parts(data, coefficients)
    if data.start is None:
        parts = parts + _censoring_parts(data, coefficients)
    inverse = np.linalg.pinv(information, hermitian=True)
    return np.asarray(inverse @ (parts.T @ parts) @ inverse)


def _score_parts(data: _Data, coefficients: Array) -> Array:
    """Return each patient's share of the score (eta in the paper), (patients, terms)."""
    weight, mean = _moments(data, coefficients)
    hazard = data.deaths / weight
    total, total_mean = _exposed(data, hazard), _exposed(data, hazard[:, None] * mean)
    parts: Array = -np.exp(data.x @ coefficients)[:, None] * (data.x * total[:, None] - total_mean)
    own = data.state == 1
    parts[own] += data.x[own] - mean[np.searchsorted(data.times, data.time[own])]
    return parts


def _running(values: Array) -> Array:
    """Return running sums with a zero before the first."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def _censoring_parts(data: _Data, coefficients: Array) -> Array:
    """Return the contributions of the estimated censoring distribution (psi in the paper), (patients, terms)."""
    weight, mean = _moments(data, coefficients)
    hazard = data.deaths / weight * data.chance_then
    when, counts = np.unique(data.time[data.state == 0], return_counts=True)
    gone = np.exp(data.x @ coefficients) * _later(data)
    before = np.searchsorted(data.time, when, side="left")
    from_then = np.searchsorted(data.times, when, side="left")
    late, late_mean = _running(hazard), _running(hazard[:, None] * mean)
    q = _running(gone[:, None] * data.x)[before] * (late[-1] - late[from_then])[:, None]
    q -= _running(gone)[before][:, None] * (late_mean[-1] - late_mean[from_then])
    at_risk = (len(data.time) - before)[:, None]
    drift = _running(q / at_risk**2 * counts[:, None])
    parts = -drift[np.searchsorted(when, data.time, side="right")]
    own = data.state == 0
    parts[own] += (q / at_risk)[np.searchsorted(when, data.time[own])]
    return parts
