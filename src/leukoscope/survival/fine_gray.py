"""Fine and Gray's model: how covariates move the cumulative incidence itself when other events compete.

Its hazard keeps patients with a competing event at risk, weighted by the chance to be still uncensored. Newton's
method with Breslow's ties; robust covariance with the part that comes from estimating the censoring.
Source: Fine and Gray (1999), doi 10.1080/01621459.1999.10474144. Numbers agree with crr of R's cmprsk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CallError
from .cox import Design, NoFitError
from .curves import Array, kaplan_meier, risk_table
from .model import Term, term_matrix

_STEPS = 30
_SMALL = 1e-9


@dataclass(frozen=True)
class FineGray:
    """Coefficients of the subdistribution hazard of one event and their robust covariance."""

    terms: tuple[Term, ...]
    coefficients: Array
    covariance: Array
    log_likelihood: float


@dataclass(frozen=True)
class _Data:
    """Patients in the order of time: x (patients, terms); `chance` is to be uncensored just before one's time."""

    x: Array
    time: Array
    state: Array
    chance: Array
    times: Array  # of the event, distinct
    deaths: Array
    chance_then: Array  # just before `times`


def fit_fine_gray(design: Design, terms: Sequence[Term]) -> FineGray:
    """Fit the incidence of the first event.

    Raises:
        NoFitError: the coefficients are not determined.
        CallError: the cohort is left-truncated, which this model does not take.
    """
    if design.cohort.entry is not None:
        raise CallError("The Fine–Gray model does not take left-truncated cohorts. Leave --entry out to fit it.")
    data = _data(design, terms)
    coefficients = np.zeros(len(terms))
    likelihood, score, information = _likelihood(data, coefficients)
    for _ in range(_STEPS):
        step = np.linalg.lstsq(information, score, rcond=None)[0]
        while (trial := _likelihood(data, coefficients + step))[0] < likelihood - _SMALL:
            step = step / 2
        coefficients = coefficients + step
        likelihood, score, information = trial
        if np.abs(step).max(initial=0) < _SMALL:
            return FineGray(tuple(terms), coefficients, _robust(data, coefficients, information), likelihood)
    raise NoFitError("The Fine–Gray model found no solution.")


def _data(design: Design, terms: Sequence[Term]) -> _Data:
    cohort = design.cohort
    order = np.argsort(cohort.time, kind="stable")
    time, state = cohort.time[order], cohort.state[order]
    censoring = kaplan_meier(risk_table(time, (state == 0).astype(np.int64), causes=1), last=float(time[-1]))
    survival = np.concatenate([[1.0], censoring.value])
    times, deaths = np.unique(time[state == 1], return_counts=True)
    return _Data(
        x=term_matrix(terms, design.columns, patients=len(cohort))[order], time=time, state=state,
        chance=survival[np.searchsorted(censoring.times, time)], times=times, deaths=deaths,
        chance_then=survival[np.searchsorted(censoring.times, times)],
    )  # fmt: skip


def _sums(data: _Data, values: Array) -> Array:
    """Sum `values` (patients, …) over the risk set of each event time: those still followed, and, weighted, those
    who had a competing event before.
    """
    padding = np.zeros((1, *values.shape[1:]))
    at_risk = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], padding])
    shape = (-1,) + (1,) * (values.ndim - 1)
    gone = values * np.where(data.state > 1, 1 / data.chance, 0).reshape(shape)
    earlier = np.concatenate([padding, np.cumsum(gone, axis=0)])
    place = np.searchsorted(data.time, data.times, side="left")
    sums: Array = at_risk[place] + data.chance_then.reshape(shape) * earlier[place]
    return sums


def _moments(data: _Data, coefficients: Array) -> tuple[Array, Array]:
    """Return the risk sets' weight, (times,), and mean terms, (times, terms)."""
    relative = np.exp(data.x @ coefficients)
    weight = _sums(data, relative)
    return weight, _sums(data, relative[:, None] * data.x) / weight[:, None]


def _likelihood(data: _Data, coefficients: Array) -> tuple[float, Array, Array]:
    """Return the log partial likelihood, its gradient and the information."""
    weight, mean = _moments(data, coefficients)
    squares = _sums(data, np.exp(data.x @ coefficients)[:, None, None] * data.x[:, :, None] * data.x[:, None])
    own = data.x[data.state == 1].sum(axis=0)
    spread = squares / weight[:, None, None] - mean[:, :, None] * mean[:, None]
    return (
        float(own @ coefficients - data.deaths @ np.log(weight)),
        own - data.deaths @ mean,
        np.einsum("t,tij->ij", data.deaths, spread),
    )


def _robust(data: _Data, coefficients: Array, information: Array) -> Array:
    parts = _score_parts(data, coefficients) + _censoring_parts(data, coefficients)
    inverse = np.linalg.pinv(information, hermitian=True)
    return np.asarray(inverse @ (parts.T @ parts) @ inverse)


def _score_parts(data: _Data, coefficients: Array) -> Array:
    """Return each patient's share of the score (eta in the paper), (patients, terms)."""
    weight, mean = _moments(data, coefficients)
    hazard = data.deaths / weight
    upto = np.searchsorted(data.times, data.time, side="right")
    plain, plain_mean = _running(hazard), _running(hazard[:, None] * mean)
    late, late_mean = _running(hazard * data.chance_then), _running((hazard * data.chance_then)[:, None] * mean)
    after = np.where(data.state > 1, 1 / data.chance, 0)
    total = plain[upto] + after * (late[-1] - late[upto])
    total_mean = plain_mean[upto] + after[:, None] * (late_mean[-1] - late_mean[upto])
    parts: Array = -np.exp(data.x @ coefficients)[:, None] * (data.x * total[:, None] - total_mean)
    own = data.state == 1
    parts[own] += data.x[own] - mean[np.searchsorted(data.times, data.time[own])]
    return parts


def _running(values: Array) -> Array:
    """Return running sums with a zero before the first."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


def _censoring_parts(data: _Data, coefficients: Array) -> Array:
    """Return what estimating the censoring adds for each patient (psi in the paper), (patients, terms)."""
    weight, mean = _moments(data, coefficients)
    hazard = data.deaths / weight * data.chance_then
    when, counts = np.unique(data.time[data.state == 0], return_counts=True)
    gone = np.where(data.state > 1, np.exp(data.x @ coefficients) / data.chance, 0)
    before = np.searchsorted(data.time, when, side="left")
    from_then = np.searchsorted(data.times, when, side="left")
    late, late_mean = _running(hazard), _running(hazard[:, None] * mean)
    q = _running(gone[:, None] * data.x)[before] * (late[-1] - late[from_then])[:, None]
    q -= _running(gone)[before][:, None] * (late_mean[-1] - late_mean[from_then])
    at_risk = (len(data.time) - before)[:, None]
    drift = _running(q / at_risk**2 * counts[:, None])
    parts = -drift[np.searchsorted(when, data.time, side="right")]
    own = data.state == 0
    parts[own] += (q / at_risk)[np.searchsorted(when, data.time[own])]
    return parts
