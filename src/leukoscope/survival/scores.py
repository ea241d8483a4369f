"""How good predicted risks are under censoring: concordance, AUC, Brier score, calibration and decision curves.

What happened is taken as pseudo-values, so that censored patients and competing events need no other method; they are
regressed on the predicted risk p with log(-log(1 - ·)) as link, independent working variance and a robust covariance.
Sources: van Geloven et al. (2022), doi 10.1136/bmj-2021-069249; McLernon et al. (2023), doi 10.7326/M22-0844.

Net benefit at a threshold t: the share of patients above it who have the event by the horizon, less the share above
it who have not, weighed by t / (1 - t). Under censoring both come from the incidence among those above it.
Source: Vickers et al. (2008), doi 10.1186/1472-6947-8-53; intervals from the influence of each patient.

`risk` is the predicted chance of the event by a time. Each score takes `weights`, (patients, replicates): how often a
patient counts in each bootstrap replicate, so that intervals come from the same arithmetic as the value.
A competing event rules the event out: such a patient stays without it for ever (Wolbers et al. 2009).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..progress import track
from .cohort import Cohort
from .cox import columns_of
from .curves import Z95, Array, Curve, Functional, Interval, aalen_johansen, incidence_at, kaplan_meier, risk_table
from .fitting import Fitted, curves_of, fit_model
from .model import knots_of, spline_basis
from .table import Horizon

_NEARLY = 1e-4  # risks nearer to 0 or 1 count as this far away: their link would be infinite
_STEPS = 100


@dataclass(frozen=True)
class RiskCalibration:
    """At one horizon: `ratio` observed over expected (1 is perfect), `intercept` (0), `slope` (1) and the curve.

    risk, smooth, low, high: (points,) the predicted risk, the smoothed observed one and its pointwise 95 % band.
    """

    ratio: Interval
    intercept: Interval
    slope: Interval
    risk: Array
    smooth: Array
    low: Array
    high: Array


def calibrate(seen: Functional, risk: Array, *, points: int = 60) -> RiskCalibration:
    """Compare predicted risks, (patients,), with what was `seen`: the incidence of the same patients at the horizon."""
    link = _link(risk)
    offset_only = _regress(np.ones((len(risk), 1)), seen.pseudo, offset=link)
    both = _regress(np.column_stack([np.ones(len(risk)), link]), seen.pseudo)
    first, last = np.quantile(risk, [0.01, 0.99])
    grid = np.linspace(first, last, points)
    return RiskCalibration(
        observed_over_expected(seen, risk),
        _limits(*offset_only, place=0),
        _limits(*both, place=1),
        grid,
        *_smooth(link, seen.pseudo, at=_link(grid)),
    )


def observed_over_expected(seen: Functional, risk: Array) -> Interval:
    """Return observed over expected events, with the uncertainty of both (delta method on the logarithm)."""
    expected = float(risk.mean())
    if seen.value <= 0 or expected <= 0:
        return Interval(seen.value / expected if expected > 0 else np.nan, np.nan, np.nan)
    moved = seen.influence / seen.value - (risk - expected) / (len(risk) * expected)
    width = np.exp(Z95 * np.sqrt((moved**2).sum()))
    ratio = seen.value / expected
    return Interval(ratio, ratio / width, ratio * width)


def _link(risk: Array) -> Array:
    return np.asarray(np.log(-np.log1p(-np.clip(risk, _NEARLY, 1 - _NEARLY))))


def _mean(eta: Array) -> Array:
    return np.asarray(-np.expm1(-np.exp(np.clip(eta, -30, 5))))


def _regress(x: Array, pseudo: Array, *, offset: Array | float = 0.0) -> tuple[Array, Array]:
    """Return coefficients and robust covariance of E(pseudo) = 1 - exp(-exp(offset + x b)); NaN without a solution."""
    coefficients = np.zeros(x.shape[1])
    coefficients[0] = _link(np.array([pseudo.mean()]))[0] - float(np.mean(offset))
    for _ in range(_STEPS):
        step, inverse, slopes, rest = _gauss_step(x, pseudo, coefficients, offset)
        if not np.isfinite(step).all():
            break
        coefficients = coefficients + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            meat = (slopes * rest[:, None]).T @ (slopes * rest[:, None])
            return coefficients, inverse @ meat @ inverse
    nothing = np.full(x.shape[1], np.nan)
    return nothing, np.full((x.shape[1],) * 2, np.nan)


def _gauss_step(
    x: Array, pseudo: Array, coefficients: Array, offset: Array | float
) -> tuple[Array, Array, Array, Array]:
    """Return a Gauss–Newton step, the inverse of the bread, the slopes (patients, terms) and the residuals."""
    eta = offset + x @ coefficients
    slopes = x * np.exp(np.clip(eta, -30, 5) - np.exp(np.clip(eta, -30, 5)))[:, None]
    rest = pseudo - _mean(eta)
    inverse = np.linalg.pinv(slopes.T @ slopes, hermitian=True)
    return inverse @ (slopes.T @ rest), inverse, slopes, rest


def _limits(coefficients: Array, covariance: Array, *, place: int) -> Interval:
    value, error = float(coefficients[place]), float(np.sqrt(covariance[place, place]))
    return Interval(value, value - Z95 * error, value + Z95 * error)


def _smooth(link: Array, pseudo: Array, *, at: Array) -> tuple[Array, Array, Array]:
    """Return the restricted cubic spline of the pseudo-values and its band at given links, (points,) each."""
    knots = knots_of(link, count=3)
    basis, wanted = (spline_basis(values, knots) if knots else values[:, None] for values in (link, at))
    coefficients, covariance = _regress(np.column_stack([np.ones(len(link)), basis]), pseudo)
    rows = np.column_stack([np.ones(len(at)), wanted])
    middle = rows @ coefficients
    width = Z95 * np.sqrt(np.einsum("pi,ij,pj->p", rows, covariance, rows))
    return _mean(middle), _mean(middle - width), _mean(middle + width)


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit of one rule at thresholds, (thresholds,), with its 95 % interval."""

    thresholds: Array
    value: Array
    low: Array
    high: Array


def net_benefit(cohort: Cohort, risk: Array, *, horizon: float, thresholds: Array) -> NetBenefit:
    """Return the net benefit of treating patients whose predicted risk, (patients,), is at or above each threshold."""
    found = [_at(cohort, risk >= cut, horizon=horizon, odds=cut / (1 - cut)).interval for cut in thresholds]
    value, low, high = (np.array([getattr(interval, name) for interval in found]) for name in ("value", "low", "high"))
    return NetBenefit(thresholds, value, low, high)


def difference(cohort: Cohort, risk: Array, other: Array, *, horizon: float, threshold: float) -> Interval:
    """Return by how much one rule's net benefit exceeds another's on the same patients."""
    odds = threshold / (1 - threshold)
    one, two = (_at(cohort, rule >= threshold, horizon=horizon, odds=odds) for rule in (risk, other))
    return Functional(one.value - two.value, one.influence - two.influence).interval


def _at(cohort: Cohort, treated: Array, *, horizon: float, odds: float) -> Functional:
    patients = len(treated)
    if not treated.any():
        return Functional(0.0, np.zeros(patients))
    part = cohort.take(treated)
    share = len(part) / patients
    seen = incidence_at(part.time, part.state, horizon=horizon, start=part.entry)
    worth = seen.value - (1 - seen.value) * odds
    influence = np.full(patients, -share * worth / patients)
    influence[treated] += worth / patients + share * (1 + odds) * seen.influence
    return Functional(share * worth, influence)


def thresholds_for(risk: Array, *, count: int = 40) -> Array:
    """Return thresholds from nearly none to where only a few patients lie above, within 1 to 99 %."""
    most = float(np.clip(np.quantile(risk, 0.98), 0.05, 0.99))
    return np.linspace(0.01, most, count)


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
    """Pair each patient with the event with all who were at risk then and had it later or never.

    Harrell's C-index: who is censored early is compared with few, so it moves with the pattern of censoring.
    """
    cases = np.flatnonzero(cohort.state == 1)
    later, never = _outlived(cohort, cases)
    return Pairs(cases, np.ones(len(cases)), (later | never).astype(np.float32))


def _outlived(cohort: Cohort, cases: Array) -> tuple[Array, Array]:
    """Return who outlived each case, and who had a competing event before and so never has it, (cases, patients)."""
    when = cohort.time[cases][:, None]
    never = (cohort.state > 1) & (cohort.time <= when)
    later = ((cohort.time > when) | ((cohort.time == when) & (cohort.state == 0))) & ~never
    if cohort.entry is not None:
        later, never = later & (cohort.entry < when), never & (cohort.entry < when)
    return later, never


def weighted_pairs(cohort: Cohort, *, censoring: Curve, until: float = np.inf) -> Pairs:
    """Pair as `concordance_pairs` those with the event by `until`, each pair weighted by the inverse of its chance.

    Uno's C-index, which does not move with censoring: Uno et al. (2011), doi 10.1002/sim.4154; concordance of R's
    survival with timewt = "n/G2". With competing events Wolbers et al. (2014), doi 10.1093/biostatistics/kxt059, in
    which those who had another event before keep a weight of their own; cindex of R's pec.
    """
    cases = np.flatnonzero((cohort.state == 1) & (cohort.time <= until))
    later, never = _outlived(cohort, cases)
    own = _inverse(_step(censoring, cohort.time, before=True))
    if not cohort.competing:
        return Pairs(cases, own[cases] ** 2, later.astype(np.float32))
    then = _inverse(_step(censoring, cohort.time[cases]))
    controls = later * then[:, None] + never * own
    return Pairs(cases, own[cases], controls.astype(np.float32))


def _inverse(chance: Array) -> Array:
    return np.asarray(np.divide(1.0, chance, out=np.zeros(len(chance)), where=chance > 0))


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
        whole = len(rows) == len(risk)
        controls = np.ascontiguousarray(pairs.controls if whole else pairs.controls[np.ix_(cases, rows)])
        counted = pairs.case_weights[cases][:, None] * weights[own]
        some = weights[rows].astype(np.float32)
        wins += np.einsum("ib,ib->b", counted, (controls * _ahead(risk[own], risk[rows])) @ some)
        total += np.einsum("ib,ib->b", counted, controls @ some)
    return wins, total


def _ahead(own: Array, others: Array) -> Array:
    """Return 1 where a case's risk is above another patient's, 0.5 where they are equal, (cases, patients)."""
    ranks = np.unique(np.concatenate([own, others]), return_inverse=True)[1].astype(np.int32)
    one, two = ranks[: len(own), None], ranks[len(own) :]
    return np.asarray(np.multiply(2 * (one > two).view(np.int8) + (one == two).view(np.int8), 0.5, dtype=np.float32))


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
    if len(times) == 1:
        return np.asarray(values[..., 0])
    return np.asarray(np.trapezoid(values, times, axis=-1) / (times[-1] - times[0]))


def calibration(cohort: Cohort, risk: Array, *, horizon: float, groups: int) -> list[dict[str, float | None]]:
    """Return, for groups of rising risk, the mean predicted risk and the observed one with its 95 % interval."""
    edges = np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1])
    place = np.searchsorted(edges, risk, side="left")
    rows: list[dict[str, float | None]] = []
    for group in np.unique(place):
        chosen = place == group
        seen = observed(cohort.take(chosen), horizon=horizon)
        if seen is not None:
            limits = as_dict(seen)
            row = {"patients": int(chosen.sum()), "predicted": float(risk[chosen].mean()), "observed": seen.value}
            rows.append({**row, "low": limits["low"], "high": limits["high"]})
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


MOST_PATIENTS = 5000  # more are judged on a random part of this size: the pairs to compare grow with the square
REPLICATES = 200
_GRID = 50
_MODEL, _STAGE, _NONE = "model", "stage alone", "no covariates"

Predictor = Callable[[Cohort, Array], Array]  # (patients, times): chance of the first event


def _read(curve: Curve, times: Array) -> Array:
    padded = np.concatenate([[curve.start], curve.value])
    values: Array = padded[np.searchsorted(curve.times, times, side="right")]
    return values


def no_covariates(train: Cohort) -> Predictor:
    """Predict the same curve for everybody: Kaplan–Meier, or Aalen–Johansen with competing events."""
    curve = curves_of(train)[train.events[0]]
    return lambda test, times: np.tile(_read(curve, times), (len(test), 1))


def stage_alone(train: Cohort) -> Predictor:
    """Predict the curve of the patient's stage; the curve of all where the stage was not seen."""
    whole = curves_of(train)[train.events[0]]
    seen = {int(s): curves_of(train.take(train.stage == s))[train.events[0]] for s in np.unique(train.stage)}

    def predict(test: Cohort, times: Array) -> Array:
        rows = np.stack([_read(seen.get(stage, whole), times) for stage in range(len(test.stages))])
        return np.asarray(rows[test.stage])

    return predict


def cox(train: Cohort) -> Predictor:
    """Predict by the whole procedure, penalty, checks and repairs included; by stage alone where no model results."""
    fitted = fit_model(train, curves=False)
    simple = stage_alone(train)
    if not fitted.causes:
        return simple
    return lambda test, times: _by_model(fitted, test, times, simple)


def _by_model(fitted: Fitted, test: Cohort, times: Array, simple: Predictor) -> Array:
    """Predict by the model; the stages it does not cover, or a time past its data, by stage only."""
    risk = simple(test, times)
    covered = ~np.isin(np.array(test.stages)[test.stage], list(fitted.model.unmodelled))
    if covered.any():
        part = test.take(covered)
        model = fitted.model.incidence(columns_of(part), times)[0]
        risk[covered] = np.where(np.isnan(model), risk[covered], model)
    return risk


_CANDIDATES: dict[str, Callable[[Cohort], Predictor]] = {_MODEL: cox, _STAGE: stage_alone, _NONE: no_covariates}


@dataclass(frozen=True)
class Held:
    """Predictions for patients that the model had not seen: per candidate (repeats, patients, times)."""

    folds: Array  # (repeats, patients)
    risks: dict[str, Array]
    times: Array


def cross_validate(cohort: Cohort, *, times: Array, folds: int, repeats: int, rng: np.random.Generator) -> Held:
    """Predict every patient once per repeat by models fitted to the other folds."""
    numbers = np.stack([fold_numbers(cohort.state, folds=folds, rng=rng) for _ in range(repeats)])
    risks = {name: np.empty((repeats, len(cohort), len(times))) for name in _CANDIDATES}
    tasks = [(repeat, fold) for repeat in range(repeats) for fold in range(folds)]
    for repeat, fold in track(tasks, "Cross-validation"):
        held = numbers[repeat] == fold
        train, test = cohort.take(~held), cohort.take(held)
        for name, maker in _CANDIDATES.items():
            risks[name][repeat, held] = maker(train)(test, times)
    return Held(numbers, risks, times)


def judge(
    cohort: Cohort, *, horizons: tuple[Horizon, ...], folds: int, repeats: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Cross-validate and score every candidate, with intervals and paired differences from the model.

    Intervals: percentiles over patients drawn again with their predictions held fixed; they show how the metrics vary
    with the patients tested, not with those learned from.
    """
    grid = _grid(cohort)
    times = np.unique(np.concatenate([grid, [h.time for h in horizons]]))
    held = cross_validate(cohort, times=times, folds=folds, repeats=repeats, rng=rng)
    weights = bootstrap_weights(len(cohort), replicates=REPLICATES, rng=rng)
    replicates = {
        name: _scores(cohort, risks, held=held, grid=grid, horizons=horizons, weights=weights)
        for name, risks in held.risks.items()
    }
    for scores in replicates.values():
        scores |= {f"ipa at {h.words}": _accuracy(scores, replicates[_NONE], f"brier at {h.words}") for h in horizons}
    return {
        "patients": len(cohort),
        "folds": folds,
        "repeats": repeats,
        "replicates": REPLICATES,
        "span": [float(grid[0]), float(grid[-1])],
        "estimators": _intervals(replicates),
        "differences": _intervals(_minus(replicates, _MODEL)),
        "calibration": [_calibration(cohort, held, horizon) for horizon in horizons],
        "decision": [_decision(cohort, held, horizon) for horizon in horizons],
    }


def _accuracy(scores: Mapping[str, Array], nothing: Mapping[str, Array], key: str) -> Array:
    """Return the index of prediction accuracy: how much of the Brier score without covariates is saved.

    Source: Kattan and Gerds (2018), doi 10.1186/s41512-018-0029-2.
    """
    whole = nothing[key]
    return np.asarray(1 - np.divide(scores[key], whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _grid(cohort: Cohort) -> Array:
    """Return times over which the Brier score is integrated: from the first event to where 10 % are still followed."""
    end = np.quantile(cohort.time, 0.9)
    events = np.unique(cohort.time[(cohort.state > 0) & (cohort.time <= end)])
    return np.unique(np.quantile(events, np.linspace(0, 1, _GRID), method="nearest"))


def _scores(
    cohort: Cohort, risks: Array, *, held: Held, grid: Array, horizons: tuple[Horizon, ...], weights: Array
) -> dict[str, Array]:
    """Return every score of one candidate over all replicates, (1 + replicates,) each."""
    censoring = censoring_curve(cohort)
    at = {h.words: int(np.searchsorted(held.times, h.time)) for h in horizons}
    ranks = _over_follow_up(risks[:, :, np.searchsorted(held.times, grid)], grid)
    scores = {"c_index": _ratio(concordance_pairs(cohort), ranks, held.folds, weights)}
    weighted = weighted_pairs(cohort, censoring=censoring, until=float(grid[-1]))
    scores["c_uno"] = _ratio(weighted, ranks, held.folds, weights)
    for horizon in horizons:
        pairs = auc_pairs(cohort, horizon=horizon.time, censoring=censoring)
        scores[f"auc at {horizon.words}"] = _ratio(pairs, risks[:, :, at[horizon.words]], held.folds, weights)
    parts = np.mean([brier_parts(cohort, risk, times=held.times, censoring=censoring) for risk in risks], axis=0)
    brier = weights.T @ parts / weights.sum(axis=0)[:, None]
    scores["integrated_brier"] = integrated(brier[:, np.searchsorted(held.times, grid)], times=grid)
    for horizon in horizons:
        scores[f"brier at {horizon.words}"] = brier[:, at[horizon.words]]
    return scores


def _over_follow_up(risk: Array, grid: Array) -> Array:
    """Return the mean risk over the follow-up, (..., patients), by which patients are ranked.

    Curves of stages may cross, so that the risk at one horizon would rank them by the horizon that was chosen. Nine
    digits keep equal risks equal in every unit of time.
    """
    return np.asarray(integrated(risk, times=grid).round(9) if len(grid) > 1 else risk[..., 0])


def _ratio(pairs: Pairs, risks: Array, folds: Array, weights: Array) -> Array:
    sums = [concordance(pairs, risk, weights=weights, folds=fold) for risk, fold in zip(risks, folds, strict=True)]
    wins, total = np.sum([s[0] for s in sums], axis=0), np.sum([s[1] for s in sums], axis=0)
    ratio: Array = np.divide(wins, total, out=np.full(len(total), np.nan), where=total > 0)
    return ratio


def _minus(replicates: Mapping[str, dict[str, Array]], first: str) -> dict[str, dict[str, Array]]:
    """Return the first candidate minus each of the others, replicate by replicate."""
    return {
        name: {key: replicates[first][key] - values for key, values in scores.items()}
        for name, scores in replicates.items()
        if name != first
    }


def _intervals(replicates: Mapping[str, dict[str, Array]]) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        name: {key: as_dict(percentile(values)) for key, values in scores.items()}
        for name, scores in replicates.items()
    }


def as_dict(interval: Interval) -> dict[str, float | None]:
    """Return an interval for JSON; what is not finite becomes None."""
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _risk_at(held: Held, name: str, horizon: Horizon) -> Array:
    """Return each patient's held-out risk at a horizon, averaged over the repeats, (patients,)."""
    return np.asarray(held.risks[name][:, :, int(np.searchsorted(held.times, horizon.time))].mean(axis=0))


def _calibration(cohort: Cohort, held: Held, horizon: Horizon) -> dict[str, Any]:
    risk = _risk_at(held, _MODEL, horizon)
    groups = int(np.clip((cohort.state == 1).sum() // 15, 2, 5))
    found = calibrate(_seen(cohort, horizon), risk)
    curve = {name: getattr(found, name).tolist() for name in ("risk", "smooth", "low", "high")}
    return {
        "time": horizon.time,
        "words": horizon.words,
        "groups": calibration(cohort, risk, horizon=horizon.time, groups=groups),
        "observed_over_expected": as_dict(found.ratio),
        "intercept": as_dict(found.intercept),
        "slope": as_dict(found.slope),
        "curve": curve if np.isfinite(found.smooth).all() else None,
    }


def _seen(cohort: Cohort, horizon: Horizon) -> Functional:
    return incidence_at(cohort.time, cohort.state, horizon=horizon.time, start=cohort.entry)


def _decision(cohort: Cohort, held: Held, horizon: Horizon) -> dict[str, Any]:
    """Return the net benefit of the model, of stage alone and of treating all, and where the model is better."""
    model, stage = (_risk_at(held, name, horizon) for name in (_MODEL, _STAGE))
    rules = {_MODEL: model, _STAGE: stage, "all": np.ones(len(cohort))}
    cuts = thresholds_for(model)
    found = {name: net_benefit(cohort, risk, horizon=horizon.time, thresholds=cuts) for name, risk in rules.items()}
    more = {
        name: [difference(cohort, model, rules[name], horizon=horizon.time, threshold=cut) for cut in cuts]
        for name in (_STAGE, "all")
    }
    ahead = np.array([min(one.low, two.low) > 0 for one, two in zip(*more.values(), strict=True)])
    better = ahead & (found[_MODEL].low > 0)
    return {
        "time": horizon.time,
        "words": horizon.words,
        "thresholds": cuts.tolist(),
        "rules": {
            name: {side: getattr(net, side).tolist() for side in ("value", "low", "high")}
            for name, net in found.items()
        },
        "better": cuts[better].tolist(),
    }


def optimism(
    cohort: Cohort, *, horizons: tuple[Horizon, ...], samples: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Return apparent figures, how much they flatter, and what is left: bootstrap after Harrell et al. (1996).

    A sample without comparable patients is left out; None where none is left.
    """
    horizon, grid = horizons[len(horizons) // 2], _grid(cohort)
    pairs = concordance_pairs(cohort)
    apparent = _apparent(cox(cohort), cohort, horizon, pairs, grid)
    gaps = []
    for _ in track(range(samples), "Optimism"):
        sample = cohort.take(rng.integers(0, len(cohort), len(cohort)))
        if (sample.state == 1).sum() and horizon.time <= sample.time.max():
            predictor = cox(sample)
            flattered = _apparent(predictor, sample, horizon, concordance_pairs(sample), grid)
            gap = flattered - _apparent(predictor, cohort, horizon, pairs, grid)
            gaps += [gap] if np.isfinite(gap).all() else []
    if not gaps:
        return None
    mean = np.mean(gaps, axis=0)
    names = ("c_index", f"brier at {horizon.words}")
    return {
        "samples": len(gaps),
        **{
            name: {"apparent": a, "optimism": g, "corrected": a - g}
            for name, a, g in zip(names, apparent, mean, strict=True)
        },
    }


def _apparent(predictor: Predictor, cohort: Cohort, horizon: Horizon, pairs: Pairs, grid: Array) -> Array:
    risk = predictor(cohort, np.append(grid, horizon.time))
    ranks = _over_follow_up(risk[:, :-1], grid)
    wins, total = concordance(pairs, ranks, weights=np.ones((len(cohort), 1)))
    when = np.array([horizon.time])
    brier = brier_parts(cohort, risk[:, -1:], times=when, censoring=censoring_curve(cohort)).mean()
    return np.array([float(wins[0] / total[0]) if total[0] > 0 else np.nan, float(brier)])
