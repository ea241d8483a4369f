"""Cox's partial likelihood with Efron's ties, late entry, strata and a ridge penalty; its maximum, and tests on it.

lifelines walks through the times of the events one by one; here running sums do, so a million patients take seconds,
and the score test of proportional hazards, which lifelines has not, comes from the same sums. Everything equals coxph,
cox.zph and survfit of R's survival. Efron's l-th of d tied deaths (l = 0 … d - 1) sees the risk set less l/d of the
d who die: its weight w = 1 / (sum of exp(eta) at risk - l/d · sum of exp(eta) of the dying).
"""

from dataclasses import dataclass

import numpy as np

from .curves import Array

_STEPS = 40  # of Newton's method; where the maximum exists it takes about six
_SMALL = 1e-9  # of a step, per standard deviation of a term
_VANISHED = 1e-7  # share of the information at zero below which a coefficient has run away


@dataclass(frozen=True)
class Rows:
    """What is fitted: x (rows, terms); time, start (None: from the beginning on), event and stratum (rows,)."""

    x: Array
    time: Array
    start: Array | None
    event: Array
    stratum: Array

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class Stratum:
    """The risk sets of one stratum. `rows` places its patients, by time, among all; the rest counts in its deaths.

    times: distinct times of death; of: (deaths,) which of them each death is at; tied: (deaths,) l / d of Efron;
    first: where the risk set of each time begins among `rows`; late: the same among those sorted by `start`.
    """

    rows: Array
    times: Array
    of: Array
    tied: Array
    deaths: Array  # rows of the dying, by time
    first: Array
    by_start: Array | None
    late: Array | None


@dataclass(frozen=True)
class Sums:
    """At each death of one stratum: Efron's weight w, (deaths,), and the mean terms at risk, (deaths, terms)."""

    weight: Array
    mean: Array


def strata_of(rows: Rows) -> list[Stratum]:
    """Sort the rows of every stratum once; strata without events carry no information and are left out."""
    found = []
    for name in np.unique(rows.stratum):
        members = np.flatnonzero(rows.stratum == name)
        if rows.event[members].any():
            found.append(_stratum(rows, members))
    return found


def _stratum(rows: Rows, members: Array) -> Stratum:
    members = members[np.argsort(rows.time[members], kind="stable")]
    time = rows.time[members]
    deaths = members[rows.event[members]]
    times, of, counts = np.unique(rows.time[deaths], return_inverse=True, return_counts=True)
    place = np.arange(len(deaths)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_start = late = None
    if rows.start is not None:
        by_start = members[np.argsort(rows.start[members], kind="stable")]
        late = np.searchsorted(rows.start[by_start], times, side="left")
    first = np.searchsorted(time, times, side="left")
    return Stratum(members, times, of, place / counts[of], deaths, first, by_start, late)


def _from(values: Array, first: Array) -> Array:
    """Sum rows of `values` from each place in `first` to the end."""
    tail = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1], np.zeros((1, *values.shape[1:]))])
    sums: Array = tail[first]
    return sums


def _at_risk(stratum: Stratum, values: Array) -> Array:
    """Sum `values` (all rows, …) over those with start < t <= time, for every time of death t."""
    sums = _from(values[stratum.rows], stratum.first)
    if stratum.by_start is not None and stratum.late is not None:
        sums = sums - _from(values[stratum.by_start], stratum.late)
    return sums


def sums_of(stratum: Stratum, x: Array, relative: Array) -> Sums:
    """Return Efron's weights and means; `relative` is exp(eta), (all rows,)."""
    both = np.column_stack([relative, relative[:, None] * x])
    risk = _at_risk(stratum, both)
    dying = np.zeros_like(risk)
    np.add.at(dying, stratum.of, both[stratum.deaths])
    left = risk[stratum.of] - stratum.tied[:, None] * dying[stratum.of]
    return Sums(1 / left[:, 0], left[:, 1:] / left[:, :1])


def _exposure(stratum: Stratum, rows: Rows, weight: Array) -> Array:
    """Return the sum of `weight` (deaths,) over the deaths that each row is at risk of, Efron's share left out."""
    summed = np.concatenate([[0.0], np.cumsum(np.bincount(stratum.of, weights=weight, minlength=len(stratum.times)))])
    place = np.searchsorted(stratum.times, rows.time[stratum.rows], side="right")
    exposure = np.zeros(len(rows))
    exposure[stratum.rows] = summed[place]
    if rows.start is not None:
        exposure[stratum.rows] -= summed[np.searchsorted(stratum.times, rows.start[stratum.rows], side="right")]
    tied = np.bincount(stratum.of, weights=weight * stratum.tied, minlength=len(stratum.times))
    exposure[stratum.deaths] -= tied[stratum.of]
    return exposure


def information_of(stratum: Stratum, rows: Rows, relative: Array, sums: Sums, *, weight: Array | float = 1.0) -> Array:
    """Return the stratum's information, (terms, terms), each death counted `weight` times."""
    weight = np.broadcast_to(weight, stratum.of.shape)
    exposure = _exposure(stratum, rows, weight * sums.weight)[stratum.rows]
    x = rows.x[stratum.rows]
    squares = x.T @ ((relative[stratum.rows] * exposure)[:, None] * x)
    return np.asarray(squares - sums.mean.T @ (weight[:, None] * sums.mean))


def likelihood(rows: Rows, strata: list[Stratum], coefficients: Array) -> tuple[float, Array, Array]:
    """Return the log partial likelihood, its gradient and the information."""
    eta = rows.x @ coefficients
    shift = float(eta.max(initial=0))  # keeps exp() within range; it falls out of every ratio
    relative = np.exp(eta - shift)
    value, score = 0.0, np.zeros(len(coefficients))
    information = np.zeros((len(coefficients), len(coefficients)))
    for stratum in strata:
        sums = sums_of(stratum, rows.x, relative)
        value += float((eta[stratum.deaths] - shift).sum() + np.log(sums.weight).sum())
        score += rows.x[stratum.deaths].sum(axis=0) - sums.mean.sum(axis=0)
        information += information_of(stratum, rows, relative, sums)
    return value, score, information


@dataclass(frozen=True)
class Maximum:
    """Coefficients, the inverse of the (penalised) information, the log partial likelihood there and at zero.

    `runaway` names by number the term whose coefficient has no limit, if the search did not end; else it is None.
    """

    coefficients: Array
    covariance: Array
    log_likelihood: float
    log_likelihood_null: float
    runaway: int | None = None


def maximise(rows: Rows, *, penalty: float = 0.0) -> Maximum:
    """Find the coefficients by Newton's method with halved steps.

    `penalty` takes off `penalty · rows / 2` times the squared coefficients, each per standard deviation of its term.
    """
    strata, terms = strata_of(rows), rows.x.shape[1]
    spread = np.maximum(rows.x.std(axis=0), 1e-12)
    ridge = _ridge(rows, penalty)
    coefficients = np.zeros(terms)
    value, score, information = null = likelihood(rows, strata, coefficients)
    step = np.zeros(terms)
    for _ in range(_STEPS):
        step = _solve(information + np.diag(ridge), score - ridge * coefficients)
        worth = value - 0.5 * ridge @ coefficients**2
        for _ in range(30):
            trial = coefficients + step
            found = likelihood(rows, strata, trial)
            if found[0] - 0.5 * ridge @ trial**2 >= worth - 1e-9 * abs(worth):
                break
            step = step / 2
        if not np.isfinite(found[0]):  # a coefficient has no limit; the last finite place shows which
            break
        coefficients, (value, score, information) = trial, found
        if np.abs(step * spread).max(initial=0) < _SMALL:
            covariance = _solve(information + np.diag(ridge), np.eye(terms))
            left = (np.diag(information) + ridge) / np.maximum(np.diag(null[2]) + ridge, 1e-300)
            lost = left.min(initial=1) < _VANISHED or not np.isfinite(covariance).all()
            runaway = _farthest(coefficients * spread) if lost else None
            return Maximum(coefficients, covariance, value, null[0], runaway)
    covariance = np.full((terms, terms), np.nan)
    return Maximum(coefficients, covariance, value, null[0], _farthest(coefficients * spread))


def _farthest(effects: Array) -> int:
    """Return the term whose coefficient, per standard deviation, went farthest.

    Not the one with the least information left: where a term parts the dying from all others at risk, nothing is left
    of any term's.
    """
    return int(np.argmax(np.abs(effects)))


def _solve(matrix: Array, right: Array) -> Array:
    """Solve with the terms brought to one scale; least squares where nothing determines the answer."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale
    columns = right if right.ndim == 2 else right[:, None]
    try:
        found = np.linalg.solve(scaled, columns * scale[:, None])
    except np.linalg.LinAlgError:
        found = np.linalg.lstsq(scaled, columns * scale[:, None], rcond=None)[0]
    return np.asarray((found * scale[:, None]).reshape(right.shape))


@dataclass(frozen=True)
class ScoreTest:
    """What the score test of proportional hazards needs: gradient and information of effects that grow with g(time).

    score: (terms,); within, between, over: (terms, terms) information of the coefficients, of both, and of the growth.
    """

    score: Array
    within: Array
    between: Array
    over: Array

    def statistic(self, chosen: list[int]) -> float:
        """Return the chi-squared statistic of some terms, one degree of freedom each."""
        top = np.hstack([self.within, self.between[:, chosen]])
        bottom = np.hstack([self.between[:, chosen].T, self.over[np.ix_(chosen, chosen)]])
        right = np.concatenate([np.zeros(len(self.within)), self.score[chosen]])
        return float(right @ _solve(np.vstack([top, bottom]), right))


def score_test(rows: Rows, coefficients: Array, *, g: Array, penalty: float = 0.0) -> ScoreTest:
    """Return the test of coefficients that change as `coefficients + theta · g`, at theta = 0; `g` (rows,) is of time.

    `penalty` is that of `maximise`; it holds for the coefficients and for their growth.

    Source: Grambsch and Therneau (1994), Biometrika 81:515, in the form of cox.zph since R's survival 3.0.
    """
    terms = rows.x.shape[1]
    eta = rows.x @ coefficients
    relative = np.exp(eta - eta.max(initial=0))
    score, parts = np.zeros(terms), [np.zeros((terms, terms)) for _ in range(3)]
    for stratum in strata_of(rows):
        sums, at = sums_of(stratum, rows.x, relative), g[stratum.deaths]
        score += at @ (rows.x[stratum.deaths] - _level(stratum, sums.mean))
        for power in range(3):
            parts[power] += information_of(stratum, rows, relative, sums, weight=at**power)
    ridge = np.diag(_ridge(rows, penalty))
    return ScoreTest(score, parts[0] + ridge, parts[1], parts[2] + ridge)


def _ridge(rows: Rows, penalty: float) -> Array:
    """Return the weight of each squared coefficient, (terms,): per standard deviation of its term."""
    return np.asarray(penalty * len(rows) * np.maximum(rows.x.std(axis=0), 1e-12) ** 2)


def _level(stratum: Stratum, mean: Array) -> Array:
    """Average Efron's means over the deaths at one time, (deaths, terms)."""
    counts = np.bincount(stratum.of)
    total = np.zeros((len(counts), mean.shape[1]))
    np.add.at(total, stratum.of, mean)
    return np.asarray((total / counts[:, None])[stratum.of])


def residuals(rows: Rows, coefficients: Array) -> tuple[Array, Array]:
    """Return the rows of the deaths, (deaths,), and their Schoenfeld residuals, (deaths, terms)."""
    eta = rows.x @ coefficients
    relative = np.exp(eta - eta.max(initial=0))
    found = [
        (stratum.deaths, rows.x[stratum.deaths] - _level(stratum, sums_of(stratum, rows.x, relative).mean))
        for stratum in strata_of(rows)
    ]
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros((0, rows.x.shape[1]))
    return np.concatenate([deaths for deaths, _ in found]), np.concatenate([rest for _, rest in found])


def baseline(stratum: Stratum, rows: Rows, coefficients: Array) -> tuple[Array, Array, Array]:
    """Return Efron's increments of the hazard at zero terms, their variance, (times,), and means, (times, terms).

    Source: Therneau and Grambsch (2000), section 10.2; survfit of R with ctype = 2.
    """
    sums = sums_of(stratum, rows.x, np.exp(rows.x @ coefficients))
    size = len(stratum.times)
    hazard = np.bincount(stratum.of, weights=sums.weight, minlength=size)
    variance = np.bincount(stratum.of, weights=sums.weight**2, minlength=size)
    means = np.zeros((size, rows.x.shape[1]))
    np.add.at(means, stratum.of, sums.weight[:, None] * sums.mean)
    return hazard, variance, means / hazard[:, None]
