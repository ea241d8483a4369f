"""Numbers of several arms on the same cells, with intervals, and every difference over the same replicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from ..evaluation.intervals import Bootstrap, Statistics, bootstrap
from ..evaluation.metrics import accuracy, auroc, balanced_accuracy, confusion
from ..evaluation.ranking import Floats, Ints

Number = dict[str, Any]
METRICS = ("auroc", "balanced_accuracy", "accuracy")
REPLICATES = 1000
INTERVAL = (
    "95 %, of the mean over seeds, by Student's t; of shares of runs, exact (Clopper and Pearson). A seed has its own "
    "images, split and weights"
)


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


@dataclass(frozen=True)
class Seeds:
    """One number per seed of several quantities, in the same order of seeds, so that differences are paired."""

    values: dict[str, Floats]

    def interval(self, name: str) -> Number:
        """Return the mean over seeds with its limits: exact ones where a seed says yes or no, else Student's t."""
        each = self.values[name]
        if np.isin(each, (0, 1)).all():
            low, high = binomtest(int(each.sum()), len(each)).proportion_ci(method="exact")
            return {"value": float(each.mean()), "low": float(low), "high": float(high)}
        return _mean_of(each, least=0)

    def difference(self, name: str, other: str) -> Number:
        """Return the mean over seeds of name minus other, with its limits."""
        return _mean_of(self.values[name] - self.values[other], least=-1)


def over_seeds(values: Mapping[str, Sequence[float]]) -> Seeds:
    """Return means over seeds with 95 % intervals; with one seed there is none."""
    return Seeds({name: np.array(each, dtype=float) for name, each in values.items()})


def _mean_of(values: Floats, *, least: float) -> Number:
    """Return mean and 95 % limits by Student's t, which is wide for few seeds, as a bootstrap of them is not.

    No value beyond what was seen is possible below `least` or above 1, unless one was seen there.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"value": None, "low": None, "high": None, "undefined": len(values)}
    mean, count = float(known.mean()), len(known)
    missing = {"undefined": len(values) - count} if count < len(values) else {}
    if count < 2:
        return {"value": mean, "low": None, "high": None} | missing
    reach = float(t.ppf(0.975, count - 1)) * float(known.std(ddof=1)) / count**0.5
    low, high = max(mean - reach, min(least, known.min())), min(mean + reach, max(1, known.max()))
    return {"value": mean, "low": float(low), "high": float(high)} | missing


def guessing(truth: Truth, *, classes: int) -> Floats:
    """Return the probabilities of who says the commonest class to every cell."""
    share = np.bincount(truth.labels, minlength=classes) / len(truth.labels)
    return np.tile(share, (len(truth.labels), 1))


def beyond_chance(difference: Number) -> int:
    """Return 1 or -1 where the whole interval lies above or below zero, else 0."""
    if difference["low"] is None or difference["high"] is None:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)
