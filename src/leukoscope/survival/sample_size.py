"""How many patients a survival model needs, by Riley's criteria.

Source: Riley et al. (2019), doi 10.1002/sim.7992; Riley et al. (2020), doi 10.1136/bmj.m441; pmsampsize of R.
"""

from dataclasses import dataclass

import numpy as np

from .curves import Z95

SHRINKAGE = 0.9  # at least so much of every coefficient is kept on new patients
_OPTIMISM = 0.05  # most that Nagelkerke's R² flatters
_MARGIN = 0.05  # to which the mean risk at the horizon is known


@dataclass(frozen=True)
class SampleSize:
    """Patients that each criterion needs, the largest of them, and the events that they would bring.

    `shrinkage` is what would be kept of the coefficients with the patients at hand.
    """

    shrink: int
    optimism: int
    risk: int
    patients: int
    events: float
    per_coefficient: float
    shrinkage: float


def needed(
    *, r2: float, coefficients: int, rate: float, horizon: float, follow_up: float, patients: int
) -> SampleSize:  # fmt: skip
    """Return the size for a model of so many coefficients.

    `r2` is Cox and Snell's R² to expect (adjusted, in [0, 1)); `rate` events per patient and unit of time; `horizon`
    and the mean `follow_up` in the same unit; `patients` at hand.
    """
    shrink = _for_shrinkage(r2, coefficients, SHRINKAGE)
    events = rate * follow_up
    most = 1 - np.exp(2 * (events * np.log(events) - events)) if events > 0 else 0.0  # of Cox and Snell's R²
    kept = r2 / (r2 + _OPTIMISM * most)
    optimism = _for_shrinkage(r2, coefficients, kept)
    risk = _for_risk(rate=rate, horizon=horizon, follow_up=follow_up)
    largest = max(shrink, optimism, risk)
    return SampleSize(
        shrink, optimism, risk, largest, largest * events, largest * events / coefficients,
        _shrinkage(r2, coefficients, patients),
    )  # fmt: skip


def _for_shrinkage(r2: float, coefficients: int, kept: float) -> int:
    return int(np.ceil(coefficients / ((kept - 1) * np.log1p(-r2 / kept)))) if r2 < kept else coefficients


def _shrinkage(r2: float, coefficients: int, patients: int) -> float:
    """Return how much of the coefficients would be kept with the patients at hand: Riley's equation turned round."""
    low, high = r2, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        enough = middle > r2 and _for_shrinkage(r2, coefficients, middle) <= patients
        low, high = (middle, high) if enough else (low, middle)
    return low if low > r2 else 0.0


def _for_risk(*, rate: float, horizon: float, follow_up: float) -> int:
    """Return the patients with which an exponential curve knows the mean risk at the horizon to within the margin."""

    def width(patients: int) -> float:
        error = np.sqrt(rate / (patients * follow_up))
        risk, low, high = (-np.expm1(-(rate + side * Z95 * error) * horizon) for side in (0, -1, 1))
        return float(max(risk - low, high - risk))

    low, high = 1, 1
    while width(high) > _MARGIN:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width(middle) > _MARGIN else (low, middle)
    return high
