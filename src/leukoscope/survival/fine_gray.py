"""Fine and Gray's model: how covariates move the cumulative incidence itself when other events compete.

Its hazard keeps patients with a competing event at risk, weighted by the chance to be still uncensored (and, with late
entry, to have entered). Newton's method with Breslow's ties; robust covariance, which without late entry has the part
that comes from estimating the censoring.
Sources: Fine and Gray (1999), doi 10.1080/01621459.1999.10474144; Geskus (2011), doi 10.1111/j.1541-0420.2010.01420.x.
Numbers agree with crr of R's cmprsk, with late entry with finegray and coxph of R's survival.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .comparison import Test, chi_squared
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
    """Patients in the order of time: x (patients, terms); `chance` is to be observed just before one's time."""

    x: Array
    time: Array
    state: Array
    start: Array | None
    by_start: Array | None
    chance: Array
    times: Array  # of the event, distinct
    deaths: Array
    chance_then: Array  # just before `times`


def fit_fine_gray(design: Design, terms: Sequence[Term]) -> FineGray:
    """Fit the incidence of the first event.

    Raises:
        NoFitError: the coefficients are not determined.
    """
    x = term_matrix(terms, design.columns, patients=len(design.cohort))
    data = _data(x, design.cohort.time, design.cohort.state, design.cohort.entry)
    coefficients = np.zeros(len(terms))
    likelihood, score, information = _likelihood(data, coefficients)
    for _ in range(_STEPS):
        step = np.linalg.lstsq(information, score, rcond=None)[0]
        while (trial := _likelihood(data, coefficients + step))[0] < likelihood - _SMALL * max(1.0, abs(likelihood)):
            step = step / 2
        coefficients = coefficients + step
        likelihood, score, information = trial
        if np.abs(step).max(initial=0) < _SMALL:
            return FineGray(tuple(terms), coefficients, _robust(data, coefficients, information), likelihood)
    raise NoFitError("The Fine–Gray model found no solution.")


def late_gray(time: Array, state: Array, group: Array, *, groups: int, start: Array) -> Test:
    """Test whether the cumulative incidence of the first event is the same in all groups when patients enter late.

    The score test of the groups in the Fine–Gray model with the weights of Geskus (2011), which without late entry and
    without ties is near to Gray's. Arrays are (patients,); groups in which nobody is are left out.
    """
    present = [place for place in range(groups) if (group == place).any()]
    x = (group[:, None] == np.array(present[1:])).astype(float)
    _, score, information = _likelihood(_data(x, time, state, start), np.zeros(x.shape[1]))
    told = np.diag(information) > 1e-12
    if not told.any():
        return chi_squared(0.0, 0)
    part = np.linalg.lstsq(information[np.ix_(told, told)], score[told], rcond=None)[0]
    return chi_squared(float(score[told] @ part), int(told.sum()))


def _data(x: Array, time: Array, state: Array, start: Array | None) -> _Data:
    order = np.argsort(time, kind="stable")
    x, time, state = x[order], time[order], state[order]
    start = None if start is None else start[order]
    times, deaths = np.unique(time[state == 1], return_counts=True)
    chance, chance_then = (_observed(time, state, start, when=when) for when in (time, times))
    by_start = None if start is None else np.argsort(start, kind="stable")
    return _Data(x, time, state, start, by_start, chance, times, deaths, chance_then)


def _observed(time: Array, state: Array, start: Array | None, *, when: Array) -> Array:
    """Return the chance to be uncensored (and to have entered) just before given times."""
    censored = (state == 0).astype(np.int64)
    # at a tied time crr of cmprsk leaves the events at risk of censoring, finegray of survival moves them before it
    before = time if start is None else np.where(censored == 1, time, np.nextafter(time, -np.inf))
    curve = kaplan_meier(risk_table(before, censored, start=start, causes=1), last=float(time[-1]))
    chance = np.concatenate([[1.0], curve.value])[np.searchsorted(curve.times, when)]
    if start is None:
        return np.asarray(chance)
    entries, counts = np.unique(start, return_counts=True)
    there = np.searchsorted(np.sort(start), entries, side="right") - np.searchsorted(time, entries, side="right")
    entered = np.concatenate([np.cumprod((1 - counts / there)[::-1])[::-1], [1.0]])
    return np.asarray(chance * entered[np.searchsorted(entries, when, side="left")])


def _later(data: _Data) -> Array:
    """Return what each patient with a competing event weighs afterwards, before the chance of the time: (patients,)."""
    gone = (data.state > 1) & (data.chance > 0)
    return np.asarray(np.divide(1.0, data.chance, out=np.zeros(len(data.time)), where=gone))


def _sums(data: _Data, values: Array) -> Array:
    """Sum `values` (patients, …) over the risk set of each event time: those still followed, and, weighted, those
    who had a competing event before.
    """
    padding = np.zeros((1, *values.shape[1:]))
    at_risk = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], padding])
    shape = (-1,) + (1,) * (values.ndim - 1)
    earlier = np.concatenate([padding, np.cumsum(values * _later(data).reshape(shape), axis=0)])
    place = np.searchsorted(data.time, data.times, side="left")
    sums: Array = at_risk[place] + data.chance_then.reshape(shape) * earlier[place]
    if data.start is not None and data.by_start is not None:
        late = np.concatenate([np.cumsum(values[data.by_start][::-1], axis=0)[::-1], padding])
        sums = sums - late[np.searchsorted(data.start[data.by_start], data.times, side="left")]
    return sums


def _moments(data: _Data, coefficients: Array) -> tuple[Array, Array]:
    """Return the risk sets' weight, (times,), and mean terms, (times, terms)."""
    relative = np.exp(data.x @ coefficients)
    weight = _sums(data, relative)
    return weight, _sums(data, relative[:, None] * data.x) / weight[:, None]


def _exposed(data: _Data, increments: Array) -> Array:
    """Sum increments at the event times over those at which each patient is at risk, weighted, (patients, …)."""
    plain = _running(increments)
    upto = np.searchsorted(data.times, data.time, side="right")
    shape = (-1,) + (1,) * (increments.ndim - 1)
    late = _running(increments * data.chance_then.reshape(shape))
    total: Array = plain[upto] + _later(data).reshape(shape) * (late[-1] - late[upto])
    if data.start is not None:
        total = total - plain[np.searchsorted(data.times, data.start, side="right")]
    return total


def _likelihood(data: _Data, coefficients: Array) -> tuple[float, Array, Array]:
    """Return the log partial likelihood, its gradient and the information."""
    weight, mean = _moments(data, coefficients)
    own = data.x[data.state == 1].sum(axis=0)
    exposure = np.exp(data.x @ coefficients) * _exposed(data, data.deaths / weight)
    return (
        float(own @ coefficients - data.deaths @ np.log(weight)),
        own - data.deaths @ mean,
        data.x.T @ (exposure[:, None] * data.x) - mean.T @ (data.deaths[:, None] * mean),
    )


def _robust(data: _Data, coefficients: Array, information: Array) -> Array:
    parts = _score_parts(data, coefficients)
    if data.start is None:
        parts = parts + _censoring_parts(data, coefficients)
    inverse = np.linalg.pinv(information, hermitian=True)
    return np.asarray(inverse @ (parts.T @ parts) @ inverse)


def _score_parts(data: _Data, coefficients: Array) -> Array:
    """Return each patient's share of the score (eta in the paper), (patients, terms)."""
    weight, mean = _moments(data, coefficients)
    hazard = data.deaths / weight
    total, total_mean = _exposed(data, hazard), _exposed(data, hazard[:, None] * mean)
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
    gone = np.exp(data.x @ coefficients) * _later(data)
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
