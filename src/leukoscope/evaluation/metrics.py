"""Metrics of a classifier under any weighting of the cells, and the calibration of its probabilities.

All for two classes. Recalibration fits the labels again by a logistic regression on the logit of the probability: the
slope is 1 and the intercept (with the slope held at 1: calibration in the large) 0 where the probabilities are right; a
slope below 1 means that they are too extreme (Cox 1958; Van Calster et al. 2016, doi 10.1016/j.jclinepi.2015.12.005).
The smooth curve is the same regression on a restricted cubic spline of four knots (Harrell 2015, section 2.4.5).
"""

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
    """Cumulate weights from the highest score down; cells with equal scores share one step.

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
            wanted = grid * alarms[-1]
            found = np.interp(wanted, alarms, hits)
            first = wanted < alarms[0]  # on the line from the origin to the first threshold
            found[first] = wanted[first] * hits[0] / alarms[0]
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
    """Return the share of cells that are decided correctly.

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
    "mcc": "fisher",
    "brier": "log",
    "observed_expected": "log",
    "calibration_slope": "plain",
    "calibration_intercept": "plain",
    "ipa": "skill",
    "benefit": "plain",
    "benefit_all": "plain",
    "benefit_gain": "plain",
}


BIASED = frozenset({"auprc", "calibration_slope"})  # too high with few subjects: the interval is centred without this
UNOFFERED = frozenset({"ece"})  # no interval that was tried keeps its promise


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


CALIBRATION = ("calibration_slope", "calibration_intercept", "observed_expected", "ipa")
BENEFIT_GRID = np.linspace(0.01, 0.99, 99)  # threshold probabilities
_KNOTS = (0.05, 0.35, 0.65, 0.95)  # quantiles of the logit: Harrell 2015, table 2.3
_SMALLEST = 1e-6  # a probability of 0 or 1 has no logit
_STEPS = 40


def calibration_figures(labels: Ints, probabilities: Floats, *, weights: Floats, groups: Ints) -> dict[str, Floats]:
    """Return slope, intercept, observed over expected disease, and IPA, per replicate; NaN where not defined.

    probabilities: (cells, 2); weights: (replicates, groups).
    """
    chance = probabilities[:, 1]
    logit = logits(chance)[:, None]
    ones = np.ones_like(logit)
    found, expected = (weights @ grouped_sums(groups, each, columns=weights.shape[1]) for each in (labels, chance))
    line = logistic(np.hstack([ones, logit]), labels, weights=weights, groups=groups)
    level = logistic(ones, labels, weights=weights, groups=groups, offset=logit[:, 0])
    return {
        "calibration_slope": line[:, 1],
        "calibration_intercept": level[:, 0],
        "observed_expected": np.where(found > 0, divide(found, expected), np.nan),
        "ipa": ipa(labels, probabilities, weights=weights, groups=groups),
    }


def ipa(labels: Ints, probabilities: Floats, *, weights: Floats, groups: Ints) -> Floats:
    """Return the index of prediction accuracy: 1 minus the Brier score divided by that of always predicting the
    prevalence.

    1 is best; 0 is no better than knowing how common each class is among these cells; below 0 is worse.
    Kattan and Gerds 2018, doi 10.1186/s41512-018-0029-2.

    >>> ipa(np.array([0, 1]), np.array([[0.8, 0.2], [0.2, 0.8]]), weights=np.ones((1, 2)), groups=np.arange(2)).round(2)
    array([0.84])
    """
    total = weights @ grouped_sums(groups, np.ones(len(labels)), columns=weights.shape[1])
    shares = [
        divide(weights @ grouped_sums(groups, labels == each, columns=weights.shape[1]), total)
        for each in range(probabilities.shape[1])
    ]
    uninformed = sum(share * (1 - share) for share in shares) / (2 if len(shares) == 2 else 1)
    return 1 - divide(brier(labels, probabilities, weights=weights, groups=groups), np.asarray(uninformed))


def logits(chance: Floats) -> Floats:
    """Return the log odds of probabilities, which are first kept 1e-6 away from 0 and 1.

    >>> logits(np.array([0.5, 1.0])).round(3).tolist()
    [0.0, 13.816]
    """
    inside = np.clip(chance, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(inside / (1 - inside)))


def logistic(design: Floats, labels: Ints, *, weights: Floats, groups: Ints, offset: Floats | None = None) -> Floats:
    """Fit an unpenalised logistic regression per replicate by Newton's method: coefficients (replicates, columns).

    design: (cells, columns); weights: (replicates, groups). NaN where the labels are separated: then there is no fit.

    >>> design, one = np.ones((4, 1)), np.ones((1, 4))
    >>> logistic(design, np.array([0, 1, 1, 1]), weights=one, groups=np.arange(4)).round(3).tolist()
    [[1.099]]
    """
    base = np.zeros(len(design)) if offset is None else offset
    start = np.zeros((1, design.shape[1]))
    first = _newton(design, labels, weights.mean(0, keepdims=True)[:, groups], base, start)
    start = np.repeat(np.nan_to_num(first), len(weights), axis=0)
    return _newton(design, labels, weights[:, groups], base, start)


def _newton(design: Floats, labels: Ints, weights: Floats, offset: Floats, start: Floats) -> Floats:
    """weights: (replicates, cells); start: (replicates, columns)."""
    found, pairs = start.copy(), (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    columns = design.shape[1]
    done = np.zeros(len(found), dtype=bool)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(found @ design.T + offset, -30, 30)))
        slope = (weights * (labels - chance)) @ design
        curve = ((weights * chance * (1 - chance)) @ pairs).reshape(-1, columns, columns)
        size = np.trace(curve, axis1=1, axis2=2) / columns
        curve = curve + (1e-12 * size + 1e-300)[:, None, None] * np.eye(columns)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        found = found + np.clip(step, -4, 4)
        done = np.abs(step).max(1) < 1e-8
        if done.all():
            break
    return np.where(done[:, None] & (np.abs(found).max(1, keepdims=True) < 1e4), found, np.nan)


def smooth_curve(chance: Floats, labels: Ints, *, grid: Floats, weights: Floats, groups: Ints) -> Floats:
    """Return how often the disease was there at each claimed probability of `grid`: (replicates, points).

    chance: (cells,) probability of the disease. With too few different probabilities for a spline, a straight line on
    the logit scale.
    """
    logit = logits(chance)
    knots = np.quantile(logit, _KNOTS)
    if len(np.unique(knots)) < len(_KNOTS):
        knots = np.array([])
    coefficients = logistic(_spline(logit, knots), labels, weights=weights, groups=groups)
    return np.asarray(1 / (1 + np.exp(-np.clip(coefficients @ _spline(logits(grid), knots).T, -30, 30))))


def smooth_grid(chance: Floats, *, points: int = 61) -> Floats:
    """Return probabilities from the 1st to the 99th percentile of those that were claimed."""
    low, high = np.quantile(chance, [0.01, 0.99])
    return np.linspace(low, high, points)


def _spline(x: Floats, knots: Floats) -> Floats:
    """Return a restricted cubic spline basis with its constant: (values, 4), or (values, 2) without knots."""
    columns = [np.ones_like(x), x]
    if len(knots):
        *inner, before, last = knots.tolist()
        for knot in inner:
            term = _cube(x - knot) - (_cube(x - before) * (last - knot) - _cube(x - last) * (before - knot)) / (
                last - before
            )
            columns.append(term / (last - knots[0]) ** 2)
    return np.stack(columns, axis=1)


def _cube(x: Floats) -> Floats:
    return np.asarray(np.maximum(x, 0) ** 3)


def net_benefit(labels: Ints, chance: Floats, *, weights: Floats, groups: Ints) -> dict[str, Floats]:
    """Return the decision curve: net benefit of the model and of calling every cell the disease, on `BENEFIT_GRID`.

    Right alarms less wrong ones at the odds of the threshold, per cell; calling none has 0. `gain` is the model's less
    the larger of these two: what it is worth where somebody would act at that probability. Vickers and Elkin 2006,
    doi 10.1177/0272989X06295361.

    >>> found = net_benefit(np.array([0, 1]), np.array([0.1, 0.9]), weights=np.ones((1, 2)), groups=np.arange(2))
    >>> {name: round(float(values[0, 49]), 3) for name, values in found.items()}  # at 0.5
    {'benefit': 0.5, 'benefit_all': 0.0, 'benefit_gain': 0.5}
    """
    points, columns = len(BENEFIT_GRID), weights.shape[1]
    passed = np.searchsorted(BENEFIT_GRID, chance, side="right")  # how many thresholds it reaches
    total = weights @ grouped_sums(groups, np.ones(len(labels)), columns=columns)
    alarms = []
    for is_ill in (1, 0):
        rows = labels == is_ill
        counts = np.bincount(groups[rows] * (points + 1) + passed[rows], minlength=columns * (points + 1))
        reached = np.cumsum(counts.reshape(columns, -1)[:, ::-1], axis=1)[:, ::-1]
        alarms.append(divide(weights @ reached, total[:, None]))  # (replicates, points + 1); at 0 all cells
    odds = BENEFIT_GRID / (1 - BENEFIT_GRID)
    right, wrong = alarms
    model, everyone = right[:, 1:] - wrong[:, 1:] * odds, right[:, :1] - wrong[:, :1] * odds
    return {"benefit": model, "benefit_all": everyone, "benefit_gain": model - np.maximum(everyone, 0)}
