"""Gray's test: is the cumulative incidence of an event the same in all groups when other events compete?

Source: Gray (1988), Annals of Statistics 16:1141, with rho = 0 and his correction of the variance for tied times.
Arrays are (times, groups) unless said otherwise; a group that nobody is left in has weight 0.
"""

from dataclasses import dataclass

import numpy as np

from .comparison import Test, chi_squared
from .curves import Array, RiskTable


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
    weight, dead = groups.weight, groups.cause.sum(axis=1)
    total = weight.sum(axis=1)
    exposed = weight * (1 - groups.incidence_before)
    together = exposed.sum(axis=1, keepdims=True)
    expected = dead @ np.divide(exposed, together, out=np.zeros_like(exposed), where=together > 1e-12)
    score = groups.cause.sum(axis=0) - expected
    pooled = np.cumsum(dead / total)
    covariance = _covariance(groups, dead=dead, total=total, pooled=pooled)
    return chi_squared(score @ np.linalg.pinv(covariance, hermitian=True) @ score, len(score) - 1)


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
