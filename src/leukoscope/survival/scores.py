"""How good predicted risks are: concordance, time-dependent AUC, Brier score and calibration under censoring.

`risk` is the predicted chance of the event by a time. Each score takes `weights`, (patients, replicates): how often a
patient counts in each bootstrap replicate, so that intervals come from the same arithmetic as the value.
A competing event rules the event out: such a patient stays without it for ever (Wolbers et al. 2009).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cohort import Cohort
from .curves import Array, Curve, Interval, aalen_johansen, kaplan_meier, risk_table


def censoring_curve(cohort: Cohort) -> Curve:
    """Return the chance to be still uncensored; at one time, events come before censorings."""
    censored = (cohort.state == 0).astype(np.int64)
    # moving the events of a tied time just before it takes them out of the risk set of the censoring
    time = np.where(censored == 1, cohort.time, np.nextafter(cohort.time, -np.inf))
    return kaplan_meier(risk_table(time, censored, start=cohort.entry, causes=1), last=float(cohort.time.max()))


def _step(curve: Curve, when: Array, *, before: bool = False) -> Array:
    """Read a step function at (or just before) given times."""
    padded = np.concatenate([[curve.start], curve.value])
    values: Array = padded[np.searchsorted(curve.times, when, side="left" if before else "right")]
    return values


@dataclass(frozen=True)
class Pairs:
    """Who is compared with whom: cases (patients,) by weight, and who is a control to each case (cases, patients)."""

    case_rows: Array
    case_weights: Array
    controls: Array


def concordance_pairs(cohort: Cohort) -> Pairs:
    """Pair each patient with the event with all who were at risk then and had it later or never (Harrell)."""
    cases = np.flatnonzero(cohort.state == 1)
    when = cohort.time[cases][:, None]
    later = (cohort.time > when) | ((cohort.time == when) & (cohort.state == 0))
    controls = (later | (cohort.state > 1)) & (cohort.start < when)
    return Pairs(cases, np.ones(len(cases)), controls.astype(np.float32))


def auc_pairs(cohort: Cohort, *, horizon: float, censoring: Curve) -> Pairs:
    """Pair those with the event by `horizon` with those without it, weighted against censoring.

    Source: Uno et al. (2007), doi 10.1198/016214507000000149; with competing events Blanche et al. (2013),
    doi 10.1002/sim.5958, whose controls include patients with a competing event.
    """
    cases = np.flatnonzero((cohort.state == 1) & (cohort.time <= horizon))
    known = _known_weights(cohort, horizon=horizon, censoring=censoring)
    controls = known * ~((cohort.state == 1) & (cohort.time <= horizon))
    return Pairs(cases, known[cases], np.broadcast_to(controls.astype(np.float32), (len(cases), len(cohort))))


def _known_weights(cohort: Cohort, *, horizon: float, censoring: Curve) -> Array:
    """Return inverse censoring weights, (patients,): 0 for those censored before the horizon."""
    after = cohort.time > horizon
    chance = np.where(after, _step(censoring, np.array([horizon]))[0], _step(censoring, cohort.time, before=True))
    known = after | (cohort.state > 0)
    return np.divide(1.0, chance, out=np.zeros(len(chance)), where=known & (chance > 0))


def concordance(pairs: Pairs, risk: Array, *, weights: Array, folds: Array | None = None) -> tuple[Array, Array]:
    """Return sums over pairs of (weighted wins, weights), (replicates,) each; their ratio is the concordance.

    Only patients of one fold are compared, since the risks of two folds come from two models. Ties count half.
    """
    folds = np.zeros(len(risk), dtype=np.int64) if folds is None else folds
    wins, total = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        cases = np.flatnonzero(folds[pairs.case_rows] == fold)
        own = pairs.case_rows[cases]
        compared = pairs.controls[np.ix_(cases, rows)] * pairs.case_weights[cases][:, None].astype(np.float32)
        ahead = (risk[own][:, None] > risk[rows]) + np.float32(0.5) * (risk[own][:, None] == risk[rows])
        some = weights[rows].astype(np.float32)
        wins += np.einsum("ib,ib->b", weights[own], (compared * ahead.astype(np.float32)) @ some)
        total += np.einsum("ib,ib->b", weights[own], compared @ some)
    return wins, total


def brier_parts(cohort: Cohort, risk: Array, *, times: Array, censoring: Curve) -> Array:
    """Return each patient's weighted squared error at each time, (patients, times); their mean is the Brier score.

    Source: Graf et al. (1999), Statistics in Medicine 18:2529; Gerds and Schumacher (2006) for censoring weights.
    """
    parts = np.empty_like(risk)
    for place, horizon in enumerate(times):
        happened = (cohort.state == 1) & (cohort.time <= horizon)
        weight = _known_weights(cohort, horizon=float(horizon), censoring=censoring)
        parts[:, place] = weight * (happened - risk[:, place]) ** 2
    return parts


def integrated(values: Array, *, times: Array) -> Array:
    """Return the mean of a function of time over the range of `times` (trapezoids along the last axis)."""
    return np.asarray(np.trapezoid(values, times, axis=-1) / (times[-1] - times[0]))


def calibration(cohort: Cohort, risk: Array, *, horizon: float, groups: int) -> list[dict[str, float]]:
    """Return, for groups of rising risk, the mean predicted risk and the observed one with its 95 % interval."""
    edges = np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1])
    place = np.searchsorted(edges, risk, side="left")
    rows = []
    for group in np.unique(place):
        chosen = place == group
        seen = observed(cohort.take(chosen), horizon=horizon)
        if seen is not None:
            rows.append(
                {"patients": int(chosen.sum()), "predicted": float(risk[chosen].mean())}
                | {"observed": seen.value, "low": seen.low, "high": seen.high}
            )
    return rows


def observed(cohort: Cohort, *, horizon: float) -> Interval | None:
    """Return the share with the event by a time (Aalen–Johansen) with its interval; None past the follow-up."""
    if not (cohort.state > 0).any():
        return Interval(0.0, 0.0, 0.0) if horizon <= cohort.time.max() else None
    table = risk_table(cohort.time, cohort.state, start=cohort.entry, causes=len(cohort.events))
    found = aalen_johansen(table, last=float(cohort.time.max()))[0].at(horizon)
    return Interval(*found) if found else None


def percentile(values: Array) -> Interval:
    """Return the first value with the 2.5 and 97.5 % percentiles of the others, which are bootstrap replicates."""
    rest = values[1:][np.isfinite(values[1:])]
    if not len(rest) or not np.isfinite(values[0]):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(rest, [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high))


def bootstrap_weights(patients: int, *, replicates: int, rng: np.random.Generator) -> Array:
    """Return how often each patient is drawn, (patients, 1 + replicates); the first column is the cohort itself."""
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=replicates).T
    return np.column_stack([np.ones(patients), drawn])


def fold_numbers(strata: Sequence[int] | Array, *, folds: int, rng: np.random.Generator) -> Array:
    """Deal patients into folds at random, evenly within each stratum, (patients,)."""
    strata = np.asarray(strata)
    order = np.lexsort([rng.random(len(strata)), strata])
    numbers = np.empty(len(strata), dtype=np.int64)
    numbers[order] = np.arange(len(strata)) % folds
    return numbers
