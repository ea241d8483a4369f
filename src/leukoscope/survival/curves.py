"""Curves and their comparison: Kaplan–Meier, Aalen–Johansen, restricted means, influence functions and tests.

One sort per group, then arithmetic on arrays.

The curves are here, and not taken from lifelines, because one table of counts (`RiskTable`) also feeds the log-rank,
trend and Gray tests, which lifelines lacks or keeps closed, and because its Aalen–Johansen moves tied times at random.

For a functional sum of phi(u) dF(u) of a cumulative incidence F (Aalen–Johansen). phi = 1 up to a horizon gives F
there, phi = (until - u) gives the mean time lost to the event. Equal to the infinitesimal jackknife of R's survival.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import chi2, norm

Array = np.ndarray
Z95 = float(norm.ppf(0.975))
_ROUNDING = float(np.sqrt(np.finfo(float).eps))  # products of fractions may miss 0.5 by as much; R's tolerance too


@dataclass(frozen=True)
class RiskTable:
    """Counts at the distinct times at which any event happened.

    times: (times,); at_risk: (times, groups) under observation just before; events: (causes, times, groups).
    """

    times: Array
    at_risk: Array
    events: Array

    def group(self, index: int) -> "RiskTable":
        """Return the table of one group alone, at the same times."""
        return RiskTable(self.times, self.at_risk[:, [index]], self.events[:, :, [index]])


def risk_table(
    time: Array,
    state: Array,
    *,
    group: Array | None = None,
    groups: int = 1,
    start: Array | None = None,
    causes: int = 0,
) -> RiskTable:
    """Count who is at risk and what happens, at every time with an event of any cause.

    A patient is at risk on (start, time]; a censoring at the time of an event counts as after it.
    """
    group = np.zeros(len(time), dtype=np.int64) if group is None else group
    causes = causes or max(int(state.max(initial=1)), 1)
    times = np.unique(time[state > 0])
    at_risk = np.empty((len(times), groups), dtype=np.int64)
    events = np.zeros((causes, len(times), groups), dtype=np.int64)
    for index in range(groups):
        rows = group == index
        at_risk[:, index] = rows.sum() - np.searchsorted(np.sort(time[rows]), times, side="left")
        if start is not None:
            at_risk[:, index] -= rows.sum() - np.searchsorted(np.sort(start[rows]), times, side="left")
        for cause in range(causes):
            happened = np.searchsorted(times, time[rows & (state == cause + 1)])
            events[cause, :, index] = np.bincount(happened, minlength=len(times))
    return RiskTable(times, at_risk, events)


@dataclass(frozen=True)
class Curve:
    """A step function of time with a 95 % band: value 1 (survival) or 0 (incidence) before the first time.

    times, value, low, high, variance: (times,). `last` is the longest follow-up: nothing is known after it.
    """

    times: Array
    value: Array
    low: Array
    high: Array
    variance: Array
    last: float
    start: float = 1.0

    def at(self, when: float) -> tuple[float, float, float] | None:
        """Return value, low, high at a time; None past the last follow-up."""
        if when > self.last:
            return None
        place = int(np.searchsorted(self.times, when, side="right")) - 1
        if place < 0:
            return self.start, self.start, self.start
        return float(self.value[place]), float(self.low[place]), float(self.high[place])


def known_until_the_end(survival: Curve) -> bool:
    """Tell whether all who were under observation at the end had an event then: nothing can happen any more.

    Such a curve stays where it is past its last follow-up, as in summary(extend = TRUE) of R's survfit.
    """
    gone = survival.times[survival.value <= 0]
    return bool(len(gone) and gone[0] >= survival.last)


def read_at(curves: Mapping[str, Curve], when: float) -> dict[str, "Interval"]:
    """Return every curve of some patients ('survival' and each event) at a time; nothing past what is known of them."""
    last = curves["survival"].last
    if when > last and not known_until_the_end(curves["survival"]):
        return {}
    read = {name: curve.at(min(when, last)) for name, curve in curves.items()}
    return {name: Interval(*values) for name, values in read.items() if values is not None}


def thinned(curve: Curve, *, most: int = 2000) -> Curve:
    """Keep at most about `most` steps of a curve, evenly; the values at the kept times stay exact."""
    if len(curve.times) <= most:
        return curve
    kept = np.unique(np.linspace(0, len(curve.times) - 1, most).round().astype(int))
    arrays = {name: getattr(curve, name)[kept] for name in ("times", "value", "low", "high", "variance")}
    return replace(curve, **arrays)


def kaplan_meier(table: RiskTable, *, last: float) -> Curve:
    """Estimate survival from a table of one group; every cause counts as the event. Log-log 95 % band.

    Source: Kalbfleisch and Prentice (2002), section 1.4; Greenwood's variance.
    """
    deaths, at_risk = table.events.sum(axis=0)[:, 0], table.at_risk[:, 0]
    keep = deaths > 0
    times, deaths, at_risk = table.times[keep], deaths[keep], at_risk[keep]
    survival = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        low, high = log_log_band(1 - survival, np.sqrt(greenwood) * survival)
        variance = np.where(survival > 0, greenwood * survival**2, 0.0)
    return Curve(times, survival, 1 - high, 1 - low, variance, last)


def log_log_band(incidence: Array, error: Array, *, z: float = Z95) -> tuple[Array, Array]:
    """Return the band of an incidence (1 - survival) on the log(-log(1 - incidence)) scale; it stays within [0, 1].

    At exactly 0 the scale has no width and the band is the value itself; at 1 (nobody left) no limits are defined,
    NaN, as R's survfit has it.
    """
    survival = 1 - np.asarray(incidence, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        width = z * error / (survival * np.abs(np.log(survival)))
        low, high = 1 - survival ** np.exp(-width), 1 - survival ** np.exp(width)
    flat = np.where(survival >= 1, incidence, np.nan)
    known = (survival > 0) & (survival < 1) & np.isfinite(width)
    return np.where(known, low, flat), np.where(known, high, flat)


def aalen_johansen(table: RiskTable, *, last: float) -> list[Curve]:
    """Estimate the cumulative incidence of each cause from a table of one group; with survival they add to one.

    Band on the log(-log) scale of 1 - incidence. Source of the variance: Marubini and Valsecchi (1995), equation 10.12.
    """
    at_risk = table.at_risk[:, 0].astype(float)
    keep = (table.events.sum(axis=(0, 2)) > 0) & (at_risk > 0)
    at_risk, causes = at_risk[keep], table.events[:, keep, 0]
    after = np.cumprod(1 - causes.sum(axis=0) / at_risk)
    before = np.concatenate([[1.0], after[:-1]])
    return [_incidence(table.times[keep], at_risk, before, causes.sum(axis=0), cause, last=last) for cause in causes]


def _incidence(times: Array, at_risk: Array, before: Array, deaths: Array, cause: Array, *, last: float) -> Curve:
    value = np.cumsum(before * cause / at_risk)
    value = np.where(value > 1 - 1e-12, 1.0, value)  # a sum of fractions may miss 1 by rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        every = np.where(at_risk > deaths, deaths / (at_risk * (at_risk - deaths)), 0.0)
    own = before**2 * cause * (at_risk - cause) / at_risk**3
    cross = before * cause / at_risk**2
    # sum over u <= t of (F(t) - F(u))^2 every + own - 2 (F(t) - F(u)) cross, opened so that running sums suffice
    squares = value**2 * np.cumsum(every) - 2 * value * np.cumsum(value * every) + np.cumsum(value**2 * every)
    mixed = value * np.cumsum(cross) - np.cumsum(value * cross)
    variance = np.maximum(squares + np.cumsum(own) - 2 * mixed, 0.0)
    low, high = log_log_band(value, np.sqrt(variance))
    return Curve(times, value, low, high, variance, last, start=0.0)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; an open end is infinite."""

    value: float
    low: float
    high: float


def quantile(curve: Curve, level: float) -> Interval:
    """Return the time at which survival comes down to `level`, in the unit of the curve; infinite where it never does.

    Where the curve is flat at the level, the middle of the flat part (to the last follow-up if it stays there). The
    limits are where the band crosses the level (Brookmeyer and Crowley 1982). Equal to quantile of R's survfit.
    """
    return Interval(*(_comes_down(curve, side, level) for side in (curve.value, curve.low, curve.high)))


def median(curve: Curve) -> Interval:
    """Return the time by which half have had the event, with its interval; see `quantile`."""
    return quantile(curve, 0.5)


def _comes_down(curve: Curve, values: Array, level: float) -> float:
    at, below = np.flatnonzero(values <= level + _ROUNDING), np.flatnonzero(values < level - _ROUNDING)
    if not len(at):
        return np.inf
    first = float(curve.times[at[0]])
    if len(below):
        return (first + float(curve.times[below[0]])) / 2
    return (first + curve.last) / 2 if abs(values[-1] - level) <= _ROUNDING else np.inf


def median_follow_up(time: Array, state: Array, *, start: Array | None = None) -> Interval:
    """Return the median time of observation by the reverse Kaplan–Meier method (Schemper and Smith 1996)."""
    censored = (state == 0).astype(np.int64)
    if not censored.any():
        return Interval(np.inf, np.inf, np.inf)
    return median(kaplan_meier(risk_table(time, censored, start=start), last=float(time.max())))


def restricted_mean(curve: Curve, *, until: float) -> tuple[float, float]:
    """Return the mean time alive within `until`, and its standard error, from a Kaplan–Meier curve.

    Source: Klein and Moeschberger (2003), section 4.5, equations 4.5.1 and 4.5.2.
    """
    inside = curve.times < until
    times = np.concatenate([[0.0], curve.times[inside], [until]])
    value = np.concatenate([[1.0], curve.value[inside]])
    pieces = value * np.diff(times)
    rest = np.cumsum(pieces[::-1])[::-1][1:]  # area from each event time to the end
    survival = curve.value[inside]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.diff(np.concatenate([[0.0], np.where(survival > 0, curve.variance[inside] / survival**2, 0.0)]))
    variance = np.sum(np.where(survival > 0, rest**2 * steps, 0.0))
    return float(pieces.sum()), float(np.sqrt(max(variance, 0.0)))


@dataclass(frozen=True)
class Functional:
    """A number and how each patient moves it, (patients,): these add to zero, their squares to the variance."""

    value: float
    influence: Array

    @property
    def error(self) -> float:
        """The standard error (infinitesimal jackknife)."""
        return float(np.sqrt((self.influence**2).sum()))

    @property
    def interval(self) -> Interval:
        """The value with its 95 % interval."""
        return Interval(self.value, self.value - Z95 * self.error, self.value + Z95 * self.error)

    @property
    def pseudo(self) -> Array:
        """Each patient's pseudo-value, (patients,); their mean is the value."""
        return self.value + len(self.influence) * self.influence


def incidence_at(
    time: Array, state: Array, *, horizon: float, start: Array | None = None, cause: int = 1
) -> Functional:
    """Return the chance of a cause by a time. Arrays are (patients,); `state` 0 is censored."""
    return _functional(time, state, start, cause, lambda times: (times <= horizon).astype(float))


def time_lost(time: Array, state: Array, *, until: float, start: Array | None = None, cause: int = 1) -> Functional:
    """Return the mean time lost to a cause within `until` (RMTL), in the unit of `time`.

    Source: Andersen (2013), doi 10.1002/sim.5903.
    """
    return _functional(time, state, start, cause, lambda times: np.maximum(until - times, 0.0))


def _functional(time: Array, state: Array, start: Array | None, cause: int, phi: object) -> Functional:
    if not (state > 0).any():
        return Functional(0.0, np.zeros(len(time)))
    table = risk_table(time, state, start=start, causes=max(cause, int(state.max(initial=1))))
    at_risk, events = table.at_risk[:, 0].astype(float), table.events[:, :, 0]
    every, own = events.sum(axis=0) / at_risk, events[cause - 1] / at_risk
    before = np.concatenate([[1.0], np.cumprod(1 - every)[:-1]])
    weight = phi(table.times)  # type: ignore[operator]
    gained = weight * before * own
    later = gained.sum() - np.cumsum(gained)
    direct = weight * before / at_risk
    lost = np.divide(later, at_risk * (1 - every), out=np.zeros_like(later), where=every < 1)
    influence = _between(table.times, lost * every - direct * own, time=time, start=start)
    place = np.minimum(np.searchsorted(table.times, time), len(table.times) - 1)
    influence += np.where(state == cause, direct[place], 0.0) - np.where(state > 0, lost[place], 0.0)
    return Functional(float(gained.sum()), influence)


def _between(times: Array, steps: Array, *, time: Array, start: Array | None) -> Array:
    """Sum `steps` over the times at which each patient is at risk, (patients,)."""
    summed = np.concatenate([[0.0], np.cumsum(steps)])
    total: Array = summed[np.searchsorted(times, time, side="right")]
    return total if start is None else total - summed[np.searchsorted(times, start, side="right")]


@dataclass(frozen=True)
class ChiSquared:
    """A chi-squared statistic, its degrees of freedom and p."""

    statistic: float
    df: int
    p: float


def chi_squared(statistic: float, df: int) -> ChiSquared:
    """Return a chi-squared test with its p value; with nothing to compare (no degree of freedom) p is 1."""
    return ChiSquared(float(statistic), df, float(chi2.sf(statistic, df)) if df else 1.0)


def _scores(table: RiskTable, *, rho: float) -> tuple[Array, Array]:
    """Return observed minus expected events per group, and their covariance (hypergeometric).

    Each time is weighted by the pooled survival just before it, to the power `rho`.
    Source: Klein and Moeschberger (2003), section 7.3; the weights of Harrington and Fleming (1982).
    """
    at_risk, deaths = table.at_risk.astype(float), table.events.sum(axis=0).astype(float)
    total, dead = at_risk.sum(axis=1), deaths.sum(axis=1)
    some = (dead > 0) & (total > 0)
    at_risk, deaths, total, dead = at_risk[some], deaths[some], total[some], dead[some]
    counts = np.concatenate([[1.0], np.cumprod(1 - dead / total)])[: len(dead)] ** rho
    share = at_risk / total[:, None]
    variance = counts**2 * dead * (total - dead) / np.maximum(total - 1, 1)
    covariance = np.diag(variance @ share) - (share * variance[:, None]).T @ share
    return counts @ (deaths - dead[:, None] * share), covariance


def logrank(table: RiskTable, *, rho: float = 0.0) -> ChiSquared:
    """Test whether survival is the same in all groups of a table; every cause counts as the event.

    `rho` 0 is the log-rank test (Mantel 1966), 1 Peto and Peto's, which counts early events more.
    """
    return quadratic(*_scores(table, rho=rho))


def quadratic(score: Array, covariance: Array) -> ChiSquared:
    """Return the test of scores that add to zero, (groups,): one group is left out and the rest are solved for.

    A pseudo-inverse would have to guess which eigenvalue is the zero one. Groups whose score cannot vary are left out.
    """
    estimable = np.flatnonzero(np.diag(covariance) > 1e-12 * max(float(np.diag(covariance).max(initial=0)), 1e-300))[1:]
    if not len(estimable):
        return ChiSquared(0.0, 0, 1.0)
    scale = 1 / np.sqrt(np.diag(covariance)[estimable])
    scaled = covariance[np.ix_(estimable, estimable)] * scale[:, None] * scale
    solved, _, rank, _ = np.linalg.lstsq(scaled, score[estimable] * scale, rcond=1e-10)
    return chi_squared(max(float((score[estimable] * scale) @ solved), 0.0), int(rank))


def logrank_trend(table: RiskTable, *, places: Sequence[float] | None = None, rho: float = 0.0) -> ChiSquared:
    """Test whether survival moves one way over ordered groups, scored 1, 2, 3 … unless `places` are given.

    Source: Klein and Moeschberger (2003), section 7.4.
    """
    score, covariance = _scores(table, rho=rho)
    weights = np.arange(1.0, len(score) + 1) if places is None else np.asarray(places, dtype=float)
    weights = weights - weights.mean()  # the scores add to zero, so this changes nothing but the rounding
    variance = weights @ covariance @ weights
    return chi_squared((weights @ score) ** 2 / variance if variance > 1e-12 else 0.0, 1)  # 1e-12: nobody to compare


def pairwise(
    table: RiskTable, *, test: Callable[[RiskTable], ChiSquared] = logrank
) -> dict[tuple[int, int], tuple[ChiSquared, float]]:
    """Return a test of every pair of groups and its p after Holm's correction (Holm 1979)."""
    pairs = list(combinations(range(table.at_risk.shape[1]), 2))
    tests = [test(RiskTable(table.times, table.at_risk[:, p], table.events[:, :, p])) for p in map(list, pairs)]
    adjusted = holm([found.p for found in tests])
    return {pair: (found, p) for pair, found, p in zip(pairs, tests, adjusted, strict=True)}


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps)
    factors = np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * factors), 1)
    return [float(p) for p in corrected]


def restricted_mean_difference(first: Curve, second: Curve, *, until: float) -> tuple[Interval, float]:
    """Return second minus first mean time alive within `until`, with its 95 % interval, and p.

    Source: Royston and Parmar (2013), doi 10.1186/1471-2288-13-152.
    """
    (a, error_a), (b, error_b) = (restricted_mean(curve, until=until) for curve in (first, second))
    error = float(np.hypot(error_a, error_b))
    p = float(2 * norm.sf(abs(b - a) / error)) if error > 0 else 1.0
    return Interval(b - a, b - a - Z95 * error, b - a + Z95 * error), p


@dataclass(frozen=True)
class _Groups:
    """Counts of one cause beside all others, and each group's own survival and incidence before and after a time."""

    at_risk: Array
    cause: Array
    others: Array
    survival_before: Array
    survival: Array
    incidence_before: Array

    @property
    def weight(self) -> Array:
        """Patients at risk, as many as there would be had only censoring taken any away."""
        return np.where(self.at_risk > 0, self.at_risk / np.where(self.at_risk > 0, self.survival_before, 1), 0.0)


def gray(table: RiskTable, *, cause: int) -> ChiSquared:
    """Test equality of the cumulative incidence of a cause (counted from 0) over all groups of the table."""
    groups = _groups(table, cause=cause)
    if not len(groups.cause):  # nothing happened to anybody
        return ChiSquared(0.0, 0, 1.0)
    weight, dead = groups.weight, groups.cause.sum(axis=1)
    total = weight.sum(axis=1)
    exposed = weight * (1 - groups.incidence_before)
    pooled_exposure = exposed.sum(axis=1, keepdims=True)
    expected = dead @ np.divide(exposed, pooled_exposure, out=np.zeros_like(exposed), where=pooled_exposure > 1e-12)
    score = groups.cause.sum(axis=0) - expected
    pooled = np.cumsum(dead / total)
    covariance = _covariance(groups, dead=dead, total=total, pooled=pooled)
    return quadratic(score, covariance)


def _groups(table: RiskTable, *, cause: int) -> _Groups:
    some = (table.events.sum(axis=(0, 2)) > 0) & (table.at_risk.sum(axis=1) > 0)
    at_risk, events = table.at_risk[some].astype(float), table.events[:, some].astype(float)
    safe = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events.sum(axis=0) / safe, axis=0)
    before = np.vstack([np.ones(at_risk.shape[1]), survival[:-1]])
    incidence = np.cumsum(before * events[cause] / safe, axis=0)
    incidence_before = np.vstack([np.zeros(at_risk.shape[1]), incidence[:-1]])
    others = events.sum(axis=0) - events[cause]
    return _Groups(at_risk, events[cause], others, before, survival, incidence_before)


def _covariance(groups: _Groups, *, dead: Array, total: Array, pooled: Array) -> Array:
    """Return the (groups, groups) covariance of the scores: martingale terms of the cause and of the others."""
    weight, alive = groups.weight, groups.survival > 0
    a = (
        np.einsum("tg,gh->tgh", weight, np.eye(weight.shape[1]))
        - weight[:, :, None] * weight[:, None] / total[:, None, None]
    )
    pooled_before = np.concatenate([[0.0], pooled[:-1]])
    exposed = total * (1 - pooled_before)
    rate = np.divide(dead, exposed, out=np.zeros_like(dead), where=exposed > 1e-12)  # 1e-12: everybody has had it
    c = np.cumsum(a * rate[:, None, None], axis=0)
    left = np.where(alive, (1 - pooled)[:, None] / np.where(alive, groups.survival, 1), 0.0)
    own = a + (1 - left)[:, None] * (c[-1] - c)
    other = left[:, None] * (c[-1] - c)
    spread_own, spread_other = _spread_own(groups, dead=dead, total=total), _spread_other(groups)
    covariance: Array = np.einsum("tik,tjk,tk->ij", own, own, spread_own)
    covariance += np.einsum("tik,tjk,tk->ij", other, other, spread_other)
    return covariance


def _spread_own(groups: _Groups, *, dead: Array, total: Array) -> Array:
    there = groups.at_risk > 0
    events, before = dead[:, None], groups.survival_before
    with np.errstate(divide="ignore", invalid="ignore"):
        ties = np.where(events > 1, 1 - (events - 1) / (total[:, None] * before - 1), 1.0)
        return np.where(there, ties * before * events / (total[:, None] * groups.at_risk), 0.0)


def _spread_other(groups: _Groups) -> Array:
    there = (groups.survival > 0) & (groups.others > 0)
    at_risk = np.where(there, groups.at_risk, 2)
    ties = np.where(groups.others > 1, 1 - (groups.others - 1) / (at_risk - 1), 1.0)
    return np.where(there, ties * groups.survival_before**2 * groups.others / at_risk**2, 0.0)
