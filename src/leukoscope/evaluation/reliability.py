"""How far probabilities of the disease can be taken at their word: recalibration, smooth curve, IPA, net benefit.

All for two classes. Recalibration fits the labels again by a logistic regression on the logit of the probability: the
slope is 1 and the intercept (with the slope held at 1: calibration in the large) 0 where the probabilities are right; a
slope below 1 means that they are too extreme (Cox 1958; Van Calster et al. 2016, doi 10.1016/j.jclinepi.2015.12.005).
The smooth curve is the same regression on a restricted cubic spline of four knots (Harrell 2015, section 2.4.5).
"""

import numpy as np

from .metrics import Floats, Ints, brier, divide, grouped_sums

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
    """Return the index of prediction accuracy: 1 less the Brier score over that of always saying the prevalence.

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
