"""Do predicted chances come true? Observed over expected, intercept, slope and a smooth curve, under censoring.

What happened is taken as pseudo-values, so that censored patients and competing events need no other method; they are
regressed on the predicted risk p with log(-log(1 - ·)) as link, independent working variance and a robust covariance.
Sources: van Geloven et al. (2022), doi 10.1136/bmj-2021-069249; McLernon et al. (2023), doi 10.7326/M22-0844.
"""

from dataclasses import dataclass

import numpy as np

from .curves import Z95, Array, Interval
from .influence import Functional
from .splines import knots_of, spline_basis

_NEARLY = 1e-4  # risks nearer to 0 or 1 count as this far away: their link would be infinite
_STEPS = 100


@dataclass(frozen=True)
class Calibration:
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


def calibrate(seen: Functional, risk: Array, *, points: int = 60) -> Calibration:
    """Compare predicted risks, (patients,), with what was `seen`: the incidence of the same patients at the horizon."""
    link = _link(risk)
    offset_only = _regress(np.ones((len(risk), 1)), seen.pseudo, offset=link)
    both = _regress(np.column_stack([np.ones(len(risk)), link]), seen.pseudo)
    first, last = np.quantile(risk, [0.01, 0.99])
    grid = np.linspace(first, last, points)
    return Calibration(
        observed_over_expected(seen, risk), _limits(*offset_only, place=0), _limits(*both, place=1), grid,
        *_smooth(link, seen.pseudo, at=_link(grid)),
    )  # fmt: skip


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
        step, inverse, slopes, rest = _step(x, pseudo, coefficients, offset)
        if not np.isfinite(step).all():
            break
        coefficients = coefficients + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            meat = (slopes * rest[:, None]).T @ (slopes * rest[:, None])
            return coefficients, inverse @ meat @ inverse
    nothing = np.full(x.shape[1], np.nan)
    return nothing, np.full((x.shape[1],) * 2, np.nan)


def _step(x: Array, pseudo: Array, coefficients: Array, offset: Array | float) -> tuple[Array, Array, Array, Array]:
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
