"""What one patient does to an incidence: influence functions, and with them pseudo-values and mean times lost.

For a functional sum of phi(u) dF(u) of a cumulative incidence F (Aalen–Johansen). phi = 1 up to a horizon gives F
there, phi = (until - u) gives the mean time lost to the event. Equal to the infinitesimal jackknife of R's survival.
"""

from dataclasses import dataclass

import numpy as np

from .curves import Z95, Array, Interval, risk_table


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
) -> Functional:  # fmt: skip
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
