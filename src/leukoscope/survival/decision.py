"""Decision curves: is treating by predicted risk better than treating everybody or nobody, threshold by threshold?

Net benefit at a threshold t: the share of patients above it who have the event by the horizon, less the share above
it who have not, weighed by t / (1 - t). Under censoring both come from the incidence among those above it.
Source: Vickers et al. (2008), doi 10.1186/1472-6947-8-53; intervals from the influence of each patient.
"""

from dataclasses import dataclass

import numpy as np

from .cohort import Cohort
from .curves import Array, Interval
from .influence import Functional, incidence_at


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


def difference(
    cohort: Cohort, risk: Array, other: Array, *, horizon: float, threshold: float
) -> Interval:  # fmt: skip
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
