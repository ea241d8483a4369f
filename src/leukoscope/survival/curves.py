"""Curves from counts: Kaplan–Meier, Aalen–Johansen, restricted means. One sort per group, then arithmetic on arrays.

lifelines fits the models; the curves stand here because one table of counts (`RiskTable`) also feeds the log-rank,
trend and Gray tests, which lifelines lacks or keeps closed, and because its Aalen–Johansen moves tied times at random.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

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

    times, value, low, high, variance: (times,). `last` is the longest follow-up: past it the curve says nothing.
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
