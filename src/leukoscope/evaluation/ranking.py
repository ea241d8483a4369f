"""Cells in the order of their scores, for many weightings at once: the ground under ROC, PR and risk–coverage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Weight at or above each distinct score, from the highest score down."""

    hits: Floats  # (replicates, thresholds): of the positive cells
    alarms: Floats  # (replicates, thresholds): of the negative cells

    @property
    def positives(self) -> Floats:
        """Weight of all positive cells: (replicates,)."""
        return self.hits[:, -1]

    @property
    def negatives(self) -> Floats:
        """Weight of all negative cells: (replicates,)."""
        return self.alarms[:, -1]


def rank(positive: NDArray[np.bool_], scores: Floats, *, weights: Floats, groups: Ints | None = None) -> Ranking:
    """Cumulate weights from the highest score down; cells with equal scores stay together.

    weights: (replicates, groups); groups: the column of each cell, or None where every cell has a column of its own.

    >>> ranking = rank(np.array([True, False, True]), np.array([0.9, 0.5, 0.5]), weights=np.ones((1, 3)))
    >>> ranking.hits.tolist(), ranking.alarms.tolist()
    ([[1.0, 2.0]], [[0.0, 1.0]])
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    columns, up = order if groups is None else groups[order], positive[order]
    hits = _cumulate(weights, columns[up], upto=np.cumsum(up)[ends])
    alarms = _cumulate(weights, columns[~up], upto=np.cumsum(~up)[ends])
    return Ranking(hits, alarms)


def _cumulate(weights: Floats, columns: Ints, *, upto: Ints) -> Floats:
    """Sum the weights of the first `upto` columns, for each entry of `upto`: (replicates, thresholds)."""
    sums = np.zeros((len(weights), len(columns) + 1))
    np.cumsum(weights[:, columns], axis=1, out=sums[:, 1:])
    return np.asarray(sums[:, upto])


def area_under_roc(ranking: Ranking) -> Floats:
    """Return the area under the ROC curve per replicate; NaN where one class has no weight.

    >>> area_under_roc(rank(np.array([True, False]), np.array([0.5, 0.5]), weights=np.ones((1, 2)))).tolist()
    [0.5]
    """
    hits, alarms = ranking.hits, ranking.alarms
    square = ranking.positives * ranking.negatives
    # The trapezoids' sum, rearranged so that no array of the size of the ranking is made; exact for whole weights.
    above = np.einsum("rt,rt->r", alarms[:, 1:], hits[:, :-1])
    below = np.einsum("rt,rt->r", alarms[:, :-1], hits[:, 1:])
    return divide((square + above - below) / 2, square)


def average_precision(ranking: Ranking) -> Floats:
    """Return the average precision per replicate; NaN where one class has no weight (scikit-learn: 0 or 1).

    >>> average_precision(rank(np.array([False, True]), np.array([0.9, 0.1]), weights=np.ones((1, 2)))).tolist()
    [0.5]
    """
    precision = ranking.hits + ranking.alarms
    precision += np.finfo(float).tiny  # where no weight is, 0 / tiny is 0, and 0 / 0 would not be
    np.divide(ranking.hits, precision, out=precision)
    area = ranking.hits[:, 0] * precision[:, 0]
    area = area + np.einsum("rt,rt->r", np.diff(ranking.hits, axis=1), precision[:, 1:])
    return divide(area, np.where(ranking.negatives > 0, ranking.positives, 0))


def roc_on(grid: Floats, ranking: Ranking) -> Floats:
    """Return the true positive rate at each false positive rate of `grid`: (replicates, points).

    >>> ranking = rank(np.array([True, False, True]), np.array([0.9, 0.5, 0.1]), weights=np.ones((1, 3)))
    >>> roc_on(np.array([0.0, 1.0]), ranking).tolist()
    [[0.5, 1.0]]
    """
    points = np.full((len(ranking.hits), len(grid)), np.nan)
    for row, (hits, alarms) in enumerate(zip(ranking.hits, ranking.alarms, strict=True)):
        if hits[-1] > 0 and alarms[-1] > 0:
            asked = grid * alarms[-1]
            found = np.interp(asked, alarms, hits)
            first = asked < alarms[0]  # on the line from the origin to the first threshold
            found[first] = asked[first] * hits[0] / alarms[0]
            points[row] = found / hits[-1]
    return points


def precision_on(grid: Floats, ranking: Ranking) -> Floats:
    """Return the precision where recall first reaches each value of `grid` (> 0): (replicates, points).

    >>> ranking = rank(np.array([True, False, True]), np.array([0.9, 0.5, 0.1]), weights=np.ones((1, 3)))
    >>> precision_on(np.array([0.5, 1.0]), ranking).round(3).tolist()
    [[1.0, 0.667]]
    """
    points = np.full((len(ranking.hits), len(grid)), np.nan)
    for row, (hits, alarms) in enumerate(zip(ranking.hits, ranking.alarms, strict=True)):
        if hits[-1] > 0:
            # one part in 10^9 less, so that rounding in `grid` does not push a reached recall to the next threshold
            reached = np.searchsorted(hits, grid * hits[-1] * (1 - 1e-9))
            points[row] = hits[reached] / (hits[reached] + alarms[reached])
    return points


def risk_on(grid: Floats, ranking: Ranking) -> Floats:
    """Return the share of wrong decisions among the surest cells, at each coverage of `grid` (> 0).

    `ranking` counts wrong decisions as positive and orders cells by their certainty.

    >>> ranking = rank(np.array([False, True]), np.array([0.9, 0.6]), weights=np.ones((1, 2)))
    >>> risk_on(np.array([0.5, 1.0]), ranking).tolist()
    [[0.0, 0.5]]
    """
    points = np.full((len(ranking.hits), len(grid)), np.nan)
    for row, (wrong, right) in enumerate(zip(ranking.hits, ranking.alarms, strict=True)):
        covered = wrong + right
        if covered[-1] > 0:
            reached = np.searchsorted(covered, grid * covered[-1] * (1 - 1e-9))
            points[row] = wrong[reached] / covered[reached]
    return points


def divide(above: Floats, below: Floats) -> Floats:
    """Divide, with NaN where the divisor is zero: an undefined number is never shown as one.

    >>> divide(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    above, below = np.broadcast_arrays(np.asarray(above, dtype=float), np.asarray(below, dtype=float))
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
