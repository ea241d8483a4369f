"""Accelerated failure time: a smooth curve that goes on past the last follow-up. What it says there is extrapolated."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import ndtr

from ..errors import require
from .cox import Design
from .curves import Z95, Array, Interval
from .model import Term, term_matrix

# family -> (lifelines' fitter, its location, its shape, the power of e^shape in z)
_FAMILIES = {
    "Weibull": ("WeibullAFTFitter", "lambda_", "rho_", 1),
    "log-normal": ("LogNormalAFTFitter", "mu_", "sigma_", -1),
    "log-logistic": ("LogLogisticAFTFitter", "alpha_", "beta_", 1),
}


def fit_aft(design: Design) -> dict[str, Any] | None:
    """Fit three families with lifelines and return the one with the lowest AIC as plain numbers; None if none fits.

    With z = (log t - location) e^(power x shape), survival is exp(-e^z), 1/(1 + e^z) or the normal tail of z.
    """
    fits = {name: fit for name in _FAMILIES if (fit := _fit(design, name)) is not None}
    if not fits:
        return None
    best = min(fits, key=lambda name: float(fits[name]["aic"]))
    return {**fits[best], "aic_of": {name: fit["aic"] for name, fit in fits.items()}}


def _fit(design: Design, family: str) -> dict[str, Any] | None:
    lifelines = require("lifelines", feature="Fitting a survival model", extra="survival")
    name, location, shape, power = _FAMILIES[family]
    frame, fitter = _frame(design), getattr(lifelines, name)()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that did not converge shows in its covariance, checked below
            fitter.fit(frame, "time", "event", entry_col="entry" if "entry" in frame else None)
    except (lifelines.exceptions.ConvergenceError, lifelines.exceptions.StatError, np.linalg.LinAlgError, ValueError):
        return None
    terms = [(location, f"x{place}") for place in range(len(design.terms))]
    order = [(location, "Intercept"), *terms, (shape, "Intercept")]
    parameters, covariance = fitter.params_.loc[order].to_numpy(), fitter.variance_matrix_.loc[order, order].to_numpy()
    if not (np.isfinite(parameters).all() and np.isfinite(covariance).all() and (np.diag(covariance) >= 0).all()):
        return None
    return {
        "family": family, "power": power, "terms": [vars(term) for term in design.terms],
        "parameters": parameters.tolist(), "covariance": covariance.tolist(),
        "aic": float(fitter.AIC_), "last": float(design.cohort.time.max()),
    }  # fmt: skip


def _frame(design: Design) -> Any:
    """Return lifelines' table, one row per patient."""
    pandas = require("pandas", feature="Fitting a survival model", extra="survival")
    cohort, columns = design.cohort, design.columns
    matrix = term_matrix(design.terms, columns, patients=len(cohort))
    smallest = float(cohort.time[cohort.time > 0].min())
    data = {f"x{place}": matrix[:, place] for place in range(matrix.shape[1])}
    # a time of zero has no logarithm; half the smallest time stands for "before the first look"
    data |= {"time": np.where(cohort.time > 0, cohort.time, smallest / 2), "event": cohort.state == 1}
    return pandas.DataFrame(data if cohort.entry is None else data | {"entry": cohort.entry})


def survival_at(fit: Mapping[str, Any], columns: Mapping[str, Array], when: float) -> Interval:
    """Return one patient's survival at a time with its 95 % interval (delta method on the scale of z)."""
    terms = [Term(**term) for term in fit["terms"]]
    row = np.concatenate([[1.0], term_matrix(terms, columns, patients=1)[0]])
    *location, shape = fit["parameters"]
    slope = math.exp(fit["power"] * shape)
    z = (math.log(when) - row @ np.array(location)) * slope
    gradient = np.concatenate([-slope * row, [fit["power"] * z]])
    width = Z95 * math.sqrt(gradient @ np.array(fit["covariance"]) @ gradient)
    value, low, high = (_tail(fit["family"], place) for place in (z, z + width, z - width))
    return Interval(value, low, high)


def _tail(family: str, z: float) -> float:
    if family == "log-normal":
        return float(ndtr(-z))
    if family == "log-logistic":
        return float(1 / (1 + np.exp(z)))
    return float(np.exp(-np.exp(z)))
