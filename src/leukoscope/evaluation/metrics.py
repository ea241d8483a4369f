"""Metrics of a binary or multi-class classifier under any weighting of the cells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


BINS = 10  # of equal width, for the expected calibration error and the reliability diagram


def confusion(
    labels: ArrayLike, predicted: ArrayLike, *, classes: int, weights: Floats | None = None, groups: Ints | None = None
) -> Floats:
    """Return the weight of cells per true class and decided class: (..., classes, classes).

    >>> confusion([0, 1, 1], [0, 0, 1], classes=2).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    codes = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    weights = weighting(weights, len(codes))
    table = weights @ _binned(codes, classes**2, weights, groups)
    return np.asarray(table.reshape(*weights.shape[:-1], classes, classes))


def accuracy(table: Floats) -> Floats:
    """Return the share of cells that are decided rightly.

    >>> float(accuracy(np.array([[3.0, 1.0], [0.0, 4.0]])))
    0.875
    """
    return divide(_right(table).sum(-1), table.sum((-2, -1)))


def recall(table: Floats) -> Floats:
    """Return, per class, the share of its cells that are found: (..., classes); NaN for a class without cells.

    >>> recall(np.array([[3.0, 1.0], [0.0, 4.0]])).tolist()
    [0.75, 1.0]
    """
    return divide(_right(table), table.sum(-1))


def precision(table: Floats) -> Floats:
    """Return, per class, the share of decisions for it that are right; NaN for a class that is never decided.

    >>> precision(np.array([[3.0, 1.0], [0.0, 4.0]])).tolist()
    [1.0, 0.8]
    """
    return divide(_right(table), table.sum(-2))


def f1(table: Floats) -> Floats:
    """Return, per class, the harmonic mean of precision and recall; NaN for a class neither present nor decided.

    >>> f1(np.array([[3.0, 1.0], [0.0, 4.0]])).round(3).tolist()
    [0.857, 0.889]
    """
    return divide(2 * _right(table), table.sum(-1) + table.sum(-2))


def f1_weighted(table: Floats) -> Floats:
    """Return the F1 of all classes, weighted by the cells of each.

    >>> float(f1_weighted(np.array([[0.0, 44.0], [0.0, 76.0]])).round(3))
    0.491
    """
    support = table.sum(-1)
    return divide((np.nan_to_num(f1(table)) * support).sum(-1), support.sum(-1))


def balanced_accuracy(table: Floats) -> Floats:
    """Return the mean recall of all classes; NaN where one has no cells.

    >>> float(balanced_accuracy(np.array([[0.0, 44.0], [0.0, 76.0]])))
    0.5
    """
    return np.asarray(recall(table).mean(-1))


def sensitivity(table: Floats) -> Floats:
    """Return the share of class 1 that is found; with more than two classes, the mean recall.

    >>> float(sensitivity(np.array([[3.0, 1.0], [1.0, 4.0]])))
    0.8
    """
    return recall(table)[..., 1] if table.shape[-1] == 2 else recall(table).mean(-1)


def specificity(table: Floats) -> Floats:
    """Return the share of class 0 that is left alone; with more than two classes, the mean of one against the rest.

    >>> float(specificity(np.array([[3.0, 1.0], [1.0, 4.0]])))
    0.75
    """
    others = table.sum((-2, -1))[..., None] - table.sum(-1)
    alarms = table.sum(-2) - _right(table)
    each = 1 - divide(alarms, others)
    return each[..., 1] if table.shape[-1] == 2 else each.mean(-1)


def mcc(table: Floats) -> Floats:
    """Return Matthews' correlation coefficient; 0 where it is not defined (one class only), as in scikit-learn.

    >>> float(mcc(np.array([[0.0, 44.0], [0.0, 76.0]])))
    0.0
    """
    true, decided = table.sum(-1), table.sum(-2)
    total = table.sum((-2, -1))
    above = _right(table).sum(-1) * total - (true * decided).sum(-1)
    below = (total**2 - (true**2).sum(-1)) * (total**2 - (decided**2).sum(-1))
    return np.nan_to_num(divide(above, np.sqrt(np.maximum(below, 0)))) + np.where(total > 0, 0.0, np.nan)


def auroc(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> Floats:
    """Return the area under the ROC curve: how often a cell of the class gets more than one of another class.

    probabilities: (cells, classes). More than two classes: macro, one against the rest.

    >>> float(auroc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]))
    0.75
    """
    return areas(labels, probabilities, weights=weights, groups=groups)["auroc"]


def auprc(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> Floats:
    """Return the average precision (area under the precision–recall curve, without interpolation).

    probabilities: (cells, classes). More than two classes: macro, one against the rest.

    >>> float(auprc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]).round(3))
    0.833
    """
    return areas(labels, probabilities, weights=weights, groups=groups)["auprc"]


def areas(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> dict[str, Floats]:
    """Return auroc and auprc from one ranking of the cells.

    >>> {name: float(value) for name, value in areas([0, 1], [[0.9, 0.1], [0.2, 0.8]]).items()}
    {'auroc': 1.0, 'auprc': 1.0}
    """
    labels, chances = _labels(labels), np.asarray(probabilities, dtype=float)
    weights = weighting(weights, len(labels))
    if not len(labels):
        return {name: np.full(weights.shape[:-1], np.nan) for name in ("auroc", "auprc")}
    rows = np.atleast_2d(weights)
    which = range(chances.shape[1] == 2, chances.shape[1])
    rankings = [rank(labels == each, chances[:, each], weights=rows, groups=groups) for each in which]
    found = {"auroc": map(area_under_roc, rankings), "auprc": map(average_precision, rankings)}
    return {name: np.mean(list(each), axis=0).reshape(weights.shape[:-1]) for name, each in found.items()}


def brier(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> Floats:
    """Return the mean squared error of the probabilities: 0 is best, 0.25 a coin.

    Two classes: of class 1, from 0 to 1. More: summed over classes, from 0 to 2 (as scikit-learn scales it).

    >>> float(brier([0, 1], [[0.8, 0.2], [0.4, 0.6]]).round(3))
    0.1
    """
    labels, chances = _labels(labels), np.asarray(probabilities, dtype=float)
    errors = ((chances - np.eye(chances.shape[1])[labels]) ** 2).sum(1)
    weights = weighting(weights, len(labels))
    one_bin = np.zeros(len(labels), dtype=np.int64)
    total, error = (weights @ _binned(one_bin, 1, weights, groups, of) for of in (None, errors))
    return divide(error, total)[..., 0] / (2 if chances.shape[1] == 2 else 1)


def ece(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> Floats:
    """Return the expected calibration error: mean distance of probability and frequency, over ten equal bins.

    Two classes: the probability of class 1. More: the highest probability. Source: Guo et al. 2017,
    doi 10.48550/arXiv.1706.04599.

    >>> float(ece([0, 1, 1, 1], [[0.25, 0.75]] * 4))
    0.0
    """
    count, chance, found = reliability(labels, probabilities, weights=weights, groups=groups)
    return divide(np.abs(chance - found).sum(-1), count.sum(-1))


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, *, weights: Floats | None = None, groups: Ints | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return, per probability bin, the sums of weight, of probability and of hits: three times (..., bins).

    >>> count, chance, found = reliability([0, 1], [[0.8, 0.2], [0.8, 0.2]])
    >>> count[1].item(), chance[1].item(), found[1].item()
    (2.0, 0.4, 1.0)
    """
    chance, hit = claims(_labels(labels), np.asarray(probabilities, dtype=float))
    weights = weighting(weights, len(hit))
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], chance)
    count, chances, found = (weights @ _binned(bins, BINS, weights, groups, of) for of in (None, chance, hit))
    return count, chances, found


def claims(labels: Ints, probabilities: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what calibration is about: the probability that is claimed, and whether the claim came true.

    >>> claims(np.array([1]), np.array([[0.25, 0.75]]))
    (array([0.75]), array([ True]))
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], labels == 1
    return probabilities.max(1), probabilities.argmax(1) == labels


def weighting(weights: Floats | None, cells: int) -> Floats:
    """Return the weights as floats, or equal weights when there are none.

    >>> weighting(None, 2).tolist()
    [1.0, 1.0]
    """
    return np.ones(cells) if weights is None else np.asarray(weights, dtype=float)


# name -> metric of a confusion table; the order is the order in reports
COUNTED = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_weighted": f1_weighted,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "mcc": mcc,
}
CHANCES = {"brier": brier, "ece": ece}
METRICS = (*COUNTED, "auroc", "auprc", *CHANCES)
LOWER_IS_BETTER = frozenset(CHANCES)
_SCALES = {
    "mcc": "fisher", "brier": "log", "ece": "log", "observed_expected": "log",
    "calibration_slope": "plain", "calibration_intercept": "plain", "ipa": "skill",
    "benefit": "plain", "benefit_all": "plain", "benefit_gain": "plain",
}  # fmt: skip


BIASED = frozenset({"auprc", "calibration_slope"})  # too high with few subjects: the interval is centred without this


def scale_of(name: str) -> str:
    """Return the scale on which the interval of a number is made: the logit for shares and areas, unless it is named.

    >>> scale_of("model.mcc"), scale_of("model.auroc")
    ('fisher', 'logit')
    """
    return _SCALES.get(name.rpartition(".")[2], "logit")


def grouped_sums(groups: Ints, values: ArrayLike, *, columns: int) -> Floats:
    """Sum a value of each cell by group: (columns,).

    >>> grouped_sums(np.array([0, 2, 2]), [1, 2, 3], columns=3).tolist()
    [1.0, 0.0, 5.0]
    """
    return np.asarray(np.bincount(groups, np.asarray(values, dtype=float), minlength=columns), dtype=float)


def _right(table: Floats) -> Floats:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _labels(labels: ArrayLike) -> Ints:
    return np.asarray(labels, dtype=np.int64)


def _binned(
    codes: Ints, bins: int, weights: Floats, groups: Ints | None, of: NDArray[np.generic] | None = None
) -> Floats:
    """Sum `of` (1 for each cell when None) by column of the weights and by code: (columns, bins)."""
    columns = weights.shape[-1]
    place = (np.arange(columns) if groups is None else groups) * bins + codes
    return np.bincount(place, of, minlength=columns * bins).reshape(columns, bins).astype(float)
