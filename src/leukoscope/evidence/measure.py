"""Numbers of several arms on the same cells, with intervals, and every difference over the same replicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.intervals import Bootstrap, Statistics, bootstrap
from ..evaluation.metrics import accuracy, auroc, balanced_accuracy, confusion
from ..evaluation.ranking import Floats, Ints

Number = dict[str, Any]
METRICS = ("auroc", "balanced_accuracy", "accuracy")
REPLICATES = 1000


@dataclass(frozen=True)
class Truth:
    """What the cells that are asked for are."""

    labels: Ints
    groups: Ints
    """Code of the unit that is drawn anew in a replicate: the subject group."""

    def pick(self, rows: Ints) -> "Truth":
        """Return only these cells."""
        return Truth(self.labels[rows], np.unique(self.groups[rows], return_inverse=True)[1].astype(np.int64))


def sampled(truth: Truth, arms: Mapping[str, Sequence[Floats]], *, replicates: int = REPLICATES) -> Bootstrap:
    """Measure every arm on all cells and on replicates of their subject groups.

    arms: name -> the probabilities (cells, classes) of each seed; an arm's number is the mean over its seeds.
    """

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, seeds in arms.items():
            each = [_measure(truth, chances, weights) for chances in seeds]
            values |= {f"{name}.{metric}": np.mean([one[metric] for one in each], axis=0) for metric in METRICS}
        return values

    count = int(truth.groups.max()) + 1
    return bootstrap(statistic, groups=count, cells=len(truth.labels), replicates=replicates)


def _measure(truth: Truth, chances: Floats, weights: Floats) -> Statistics:
    classes = chances.shape[1]
    table = confusion(truth.labels, chances.argmax(1), classes=classes, weights=weights, groups=truth.groups)
    return {
        "auroc": auroc(truth.labels, chances, weights=weights, groups=truth.groups),
        "balanced_accuracy": balanced_accuracy(table),
        "accuracy": accuracy(table),
    }


def numbers_of(found: Bootstrap, arms: Sequence[str]) -> dict[str, dict[str, Number]]:
    """Return {arm: {metric: value, low, high}}."""
    return {arm: {metric: found.interval(f"{arm}.{metric}") for metric in METRICS} for arm in arms}


def differences_of(found: Bootstrap, pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, Number]]:
    """Return {'arm - other': {metric: value, low, high}}, paired over the same replicates."""
    return {
        f"{arm} - {other}": {metric: found.difference(f"{arm}.{metric}", f"{other}.{metric}") for metric in METRICS}
        for arm, other in pairs
    }


def over_seeds(values: Mapping[str, Sequence[float]]) -> Bootstrap:
    """Return the mean over seeds of each list, with an interval by drawing seeds anew.

    All lists have one number per seed, in the same order, so that differences are paired. With one seed there is no
    interval.
    """
    arrays = {name: np.array(each, dtype=float) for name, each in values.items()}
    seeds = len(next(iter(arrays.values())))

    def statistic(weights: Floats) -> Statistics:
        return {name: weights @ each / weights.sum(1) for name, each in arrays.items()}

    return bootstrap(statistic, groups=seeds, cells=seeds, replicates=2 * REPLICATES)


def guessing(truth: Truth, *, classes: int) -> Floats:
    """Return the probabilities of who says the commonest class to every cell."""
    share = np.bincount(truth.labels, minlength=classes) / len(truth.labels)
    return np.tile(share, (len(truth.labels), 1))


def beyond_chance(difference: Number) -> int:
    """Return 1 or -1 where the whole interval lies above or below zero, else 0."""
    if difference["low"] is None or difference["high"] is None:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)
