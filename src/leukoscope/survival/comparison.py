"""Do the stages differ? Log-rank, its trend version, pairs with Holm's correction, Gray's test, restricted means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import chi2, norm

from .curves import Z95, Array, Curve, Interval, RiskTable, restricted_mean


@dataclass(frozen=True)
class Test:
    """A chi-squared statistic, its degrees of freedom and p."""

    statistic: float
    df: int
    p: float


def chi_squared(statistic: float, df: int) -> Test:
    """Return a chi-squared test with its p value; with nothing to compare (no degree of freedom) p is 1."""
    return Test(float(statistic), df, float(chi2.sf(statistic, df)) if df else 1.0)


def _scores(table: RiskTable, *, rho: float) -> tuple[Array, Array]:
    """Return observed minus expected events per group, and their covariance (hypergeometric).

    Each time counts by the survival of all groups together just before it, to the power `rho`.
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


def logrank(table: RiskTable, *, rho: float = 0.0) -> Test:
    """Test whether survival is the same in all groups of a table; every cause counts as the event.

    `rho` 0 is the log-rank test (Mantel 1966), 1 Peto and Peto's, which counts early events more.
    """
    return quadratic(*_scores(table, rho=rho))


def quadratic(score: Array, covariance: Array) -> Test:
    """Return the test of scores that add to zero, (groups,): one group is left out and the rest are solved for.

    A pseudo-inverse would have to guess which eigenvalue is the zero one. Groups whose score cannot vary are left out.
    """
    told = np.flatnonzero(np.diag(covariance) > 1e-12 * max(float(np.diag(covariance).max(initial=0)), 1e-300))[1:]
    if not len(told):
        return Test(0.0, 0, 1.0)
    scale = 1 / np.sqrt(np.diag(covariance)[told])
    scaled = covariance[np.ix_(told, told)] * scale[:, None] * scale
    solved, _, rank, _ = np.linalg.lstsq(scaled, score[told] * scale, rcond=1e-10)
    return chi_squared(max(float((score[told] * scale) @ solved), 0.0), int(rank))


def logrank_trend(table: RiskTable, *, places: Sequence[float] | None = None, rho: float = 0.0) -> Test:
    """Test whether survival moves one way over ordered groups, scored 1, 2, 3 … unless `places` are given.

    Source: Klein and Moeschberger (2003), section 7.4.
    """
    score, covariance = _scores(table, rho=rho)
    weights = np.arange(1.0, len(score) + 1) if places is None else np.asarray(places, dtype=float)
    weights = weights - weights.mean()  # the scores add to zero, so this changes nothing but the rounding
    variance = weights @ covariance @ weights
    return chi_squared((weights @ score) ** 2 / variance if variance > 1e-12 else 0.0, 1)  # 1e-12: nobody to compare


def pairwise(
    table: RiskTable, *, test: Callable[[RiskTable], Test] = logrank
) -> dict[tuple[int, int], tuple[Test, float]]:
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


def gray(table: RiskTable, *, cause: int) -> Test:
    """Test equality of the cumulative incidence of a cause (counted from 0) over all groups of the table."""
    groups = _groups(table, cause=cause)
    if not len(groups.cause):  # nothing happened to anybody
        return Test(0.0, 0, 1.0)
    weight, dead = groups.weight, groups.cause.sum(axis=1)
    total = weight.sum(axis=1)
    exposed = weight * (1 - groups.incidence_before)
    together = exposed.sum(axis=1, keepdims=True)
    expected = dead @ np.divide(exposed, together, out=np.zeros_like(exposed), where=together > 1e-12)
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
