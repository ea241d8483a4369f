"""95 % intervals over subject groups: cells of one patient are not independent observations.

A number is measured on all groups, and once more with each group left out (the delete-one-group jackknife, that is the
cluster-robust variance CR3; MacKinnon, Nielsen and Webb 2023, doi 10.1002/jae.2945). Its standard error is taken to a
scale on which the number is closer to normal: the logit for a share or an area under a curve, Fisher's z for a
correlation, the logarithm for a ratio or a squared error, and for IPA that of one less it. There the limits are those
of Student's t with Satterthwaite's degrees of freedom: what each class adds to the variance has as many as it has
groups, less one (Kish's effective number of groups where they weigh unequally). Where subjects have one class each and
equal weights, the standard error of the AUROC is that of clustered DeLong (Obuchowski 1997, doi 10.2307/2533958).

docs/benchmarks/coverage.md shows how often these intervals contain the true value, and how often bootstrap percentiles,
BCa and others do. With fewer than `LEAST` groups in a class that matters for the number no interval is offered.

AUPRC and the calibration slope are too high with few subjects: their intervals lie around the value less the
jackknife's estimate of this bias. The expected calibration error is a sum of distances, which chance alone raises, most
with few subjects: no interval that was tried contains its true value as often as it should, so none is given. Bands of
ROC and similar curves, which jump from cell to cell, are bootstrap percentiles, widened by the ratio of the quantiles
of t and the normal distribution.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri, stdtrit

from ..progress import blas_threads
from .metrics import BIASED, UNOFFERED, Floats, Ints, scale_of

Statistics = dict[str, Floats]  # name -> (replicates, …)
LEVEL = 0.95
LEAST = 3  # subject groups of a class
BOTH = 3  # code of a group with cells inside (1) and outside (2) of a subgroup
METHOD = "95 %, jackknife over subject groups, Student's t"
_BLOCKS = 400  # more groups than this are left out in blocks
_WEIGHTS_AT_ONCE = 1 << 20  # 8 MiB of float64: memory stays flat
_THREADS = 2
_NOTHING = 1e-12  # a change that is rounding


class Estimate(TypedDict):
    """A number with its 95 % limits: the number None where it is undefined, the limits where none are offered."""

    value: float | None
    low: float | None
    high: float | None


class Band(TypedDict):
    """A curve with its 95 % limits, point by point."""

    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True)
class IntervalScale:
    """Where a number is closer to normal: there, back, and the derivative of there."""

    there: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]


SCALES = {
    "logit": IntervalScale(logit, expit, lambda value: 1 / (value * (1 - value))),
    "fisher": IntervalScale(np.arctanh, np.tanh, lambda value: 1 / (1 - value**2)),
    "log": IntervalScale(np.log, np.exp, lambda value: 1 / value),
    "skill": IntervalScale(lambda value: -np.log(1 - value), lambda y: 1 - np.exp(-y), lambda value: 1 / (1 - value)),
    "plain": IntervalScale(lambda value: value, lambda value: value, np.ones_like),
}


@dataclass(frozen=True)
class Design:
    """The subject groups that are left out: what each of them is, and how much it weighs."""

    strata: Ints  # (groups,) code of the class of its cells, or of the mixture
    share: Floats  # (groups,) weight of all its cells

    def equal_weights(self) -> "Design":
        """Return the same groups, each of weight one."""
        return Design(self.strata, np.ones(len(self.strata)))


def design_of(labels: Ints, groups: Ints, *, apart: Ints | None = None) -> Design:
    """Return the design of cells: groups of one class each, and one kind for groups of several classes.

    apart: a further code of each group that divides them, such as inside or outside of a subgroup.
    Mixed groups, and groups that are on both sides of `apart`, join the largest kind where they are fewer than three.

    >>> design_of(np.array([0, 0, 1]), np.array([0, 0, 1]))
    Design(strata=array([0, 1]), share=array([2., 1.]))
    """
    count = int(groups.max()) + 1
    seen = np.zeros((count, int(labels.max()) + 1), dtype=bool)
    seen[groups, labels] = True
    kind = np.where(seen.sum(1) == 1, seen.argmax(1), seen.shape[1])
    odd = kind == seen.shape[1]
    if apart is not None:
        kind, odd = kind + (seen.shape[1] + 1) * apart, odd | (apart == BOTH)
    sizes = np.bincount(kind)
    if not odd.all():
        kind = np.where(odd & (sizes[kind] < LEAST), np.bincount(kind[~odd]).argmax(), kind)
    return Design(np.unique(kind, return_inverse=True)[1], np.bincount(groups, minlength=count).astype(float))


@dataclass(frozen=True)
class Bootstrap:
    """What was measured on all cells, and on every replicate."""

    point: Statistics  # name -> (…)
    replicates: Statistics  # name -> (replicates, …)

    def band(self, name: str, design: Design) -> Band:
        """Return value, low and high of every point of a curve that lies between 0 and 1.

        The percentiles' distances from the value, as many times longer as Student's t is than the normal quantile, and
        the square root of n / (n - 1) for n groups. No band is offered where the replicates are mostly undefined.
        """
        value, replicates = self.point[name], self.replicates[name]
        counts = np.unique(design.strata, return_counts=True)[1]
        groups, tail = int(counts.sum()), (1 - LEVEL) / 2
        longer = (
            stdtrit(max(groups - len(counts), 1), 1 - tail) / ndtri(1 - tail) * np.sqrt(groups / max(groups - 1, 1))
        )
        enough = (np.isfinite(replicates).mean(0) >= 0.5) & (counts.min() >= LEAST)
        with np.errstate(all="ignore"):
            ends = np.nanquantile(np.where(enough, replicates, 0.0), [tail, 1 - tail], axis=0)
            low = np.clip(value - longer * np.maximum(value - ends[0], 0), 0, 1)
            high = np.clip(value + longer * np.maximum(ends[1] - value, 0), 0, 1)
        low, high = np.where(enough, low, np.nan), np.where(enough, high, np.nan)
        return {"value": plain(value), "low": plain(low), "high": plain(high)}


@dataclass(frozen=True)
class Jackknife:
    """What was measured on all cells, and with each group left out."""

    point: Statistics  # name -> (…)
    left_out: Statistics  # name -> (groups, …)
    design: Design
    constants: frozenset[str] = frozenset()  # constant estimators: known, not estimated

    def interval(self, name: str) -> Estimate:
        """Return value, low and high of a number, None where undefined or where no interval is offered."""
        if _bare(name) in UNOFFERED:
            return {"value": number(self.point[name]), "low": None, "high": None}
        known, biased = name.partition(".")[0] in self.constants, _bare(name) in BIASED
        scale = scale_of(name)
        return limits(self.point[name], self.left_out[name], self.design, scale=scale, known=known, biased=biased)

    def difference(self, name: str, other: str) -> Estimate:
        """Return value, low and high of name minus other; shifted from `name` where `other` is a constant."""
        if _bare(name) in UNOFFERED:
            return {"value": number(self.point[name] - self.point[other]), "low": None, "high": None}
        fixed = self.point[other]
        if np.isfinite(fixed) and np.all(np.abs(self.left_out[other] - fixed) < _NOTHING):
            found = self.interval(name)
            value, low, high = (None if each is None else number(each - fixed) for each in _parts(found))
            return {"value": value, "low": low, "high": high}
        change, left_out = (each[name] - each[other] for each in (self.point, self.left_out))
        return limits(change, left_out, self.design, scale="plain")

    def band(self, name: str) -> Band:
        """Return value, low and high of every point of a curve that changes smoothly with its cells."""
        low, high = _limits(self.point[name], self.left_out[name], self.design, scale=scale_of(name))
        return {"value": plain(self.point[name]), "low": plain(low), "high": plain(high)}


def jackknife(
    statistic: Callable[[Floats], Statistics],
    design: Design,
    *,
    cells: int,
    constants: frozenset[str] = frozenset(),
) -> Jackknife:
    """Measure `statistic` on all groups, and with each of them left out.

    statistic: takes the weight of each group, (replicates, groups), and gives numbers or curves per replicate.
    cells: how many cells it looks at, so that it gets only as many replicates at once as fit the cache.
    More than 400 groups are left out in 400 blocks, each from one stratum (Kott 2001, Journal of Official Statistics).

    >>> values = np.array([0.2, 0.4, 0.9])
    >>> mean = jackknife(lambda w: {"mean": w @ values / w.sum(1)}, Design(np.zeros(3, int), np.ones(3)), cells=3)
    >>> mean.interval("mean")
    {'value': 0.5, 'low': 0.027049, 'high': 0.972951}
    """
    groups = len(design.strata)
    block, design = (np.arange(groups), design) if groups <= _BLOCKS else _blocks(design)
    rows = len(design.strata)
    at_once = max(1, _WEIGHTS_AT_ONCE // max(1, cells, groups))
    kept = ((block != np.arange(start, min(start + at_once, rows))[:, None]) for start in range(0, rows, at_once))
    point, left_out = _measured(statistic, groups, (each.astype(float) for each in kept))
    return Jackknife(point, left_out, design, constants)


def _parts(found: Estimate) -> tuple[float | None, float | None, float | None]:
    return found["value"], found["low"], found["high"]


def _bare(name: str) -> str:
    """Return the metric of 'estimator.metric'."""
    return name.rpartition(".")[2]


def _measured(
    statistic: Callable[[Floats], Statistics], groups: int, weights: Iterator[Floats]
) -> tuple[Statistics, Statistics]:
    point = {name: value[0] for name, value in statistic(np.ones((1, groups))).items()}
    parts: list[Statistics] = []
    with blas_threads(1), ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(islice(weights, 2 * _THREADS)):
            parts += pool.map(statistic, chunk) if len(chunk) > 1 else map(statistic, chunk)
    return point, {name: np.concatenate([part[name] for part in parts]) for name in point}


def _blocks(design: Design) -> tuple[Ints, Design]:
    """Return the block of each group, and the design of the blocks; blocks of a stratum differ by one group at most."""
    block = np.zeros(len(design.strata), dtype=np.int64)
    strata: list[int] = []
    for stratum in np.unique(design.strata).tolist():
        here = np.random.default_rng(0).permutation(np.flatnonzero(design.strata == stratum))
        count = min(len(here), max(LEAST, round(_BLOCKS * len(here) / len(design.strata))))
        block[here] = len(strata) + np.arange(len(here)) % count
        strata += [stratum] * count
    return block, Design(np.array(strata), np.bincount(block, design.share).astype(float))


def limits(
    value: ArrayLike,
    left_out: Floats,
    design: Design,
    *,
    scale: str = "logit",
    known: bool = False,
    biased: bool = False,
) -> Estimate:
    """Return one number with its limits; None where it is undefined or no interval is offered.

    value: on all groups; left_out: (groups,), with each group left out; known: a constant is certain, not lucky.
    biased: the limits lie around the value less the jackknife's estimate of its bias, and reach at least to the value.

    >>> limits(0.5, np.array([0.4, 0.5, 0.6]), Design(np.zeros(3, int), np.ones(3)), scale="plain")
    {'value': 0.5, 'low': 0.003172, 'high': 0.996828}
    """
    value = np.asarray(value, dtype=float)
    low, high = _limits(value, left_out, design, scale=scale, known=known, bias=_bias(value, left_out, design) * biased)
    if biased:
        low, high = np.minimum(low, value), np.maximum(high, value)
    return {"value": number(value), "low": number(low), "high": number(high)}


def _limits(
    value: Floats, left_out: Floats, design: Design, *, scale: str, known: bool = False, bias: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Return the limits of numbers (…) from their values with each group left out (groups, …)."""
    variance, freedom, fewest = spread(value, left_out, design)
    at = SCALES[scale]
    with np.errstate(all="ignore"):
        half = stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance) * at.slope(value)
        middle = at.there(value) - bias * at.slope(value)
        low, high = at.back(middle - half), at.back(middle + half)
    still = variance == 0
    low, high = np.where(still, value, low), np.where(still, value, high)
    if scale == "logit" and not known:  # all right or all wrong: as sure as so many subjects can make it
        most = stdtrit(np.maximum(fewest - 1, 1), (1 + LEVEL) / 2) ** 2
        low = np.where(still & (value == 1), fewest / (fewest + most), low)
        high = np.where(still & (value == 0), most / (fewest + most), high)
    offered = np.isfinite(left_out).all(0) & np.isfinite(value + low + high) & (known | (fewest >= LEAST))
    return np.where(offered, low, np.nan), np.where(offered, high, np.nan)


def _bias(value: Floats, left_out: Floats, design: Design) -> Floats:
    """Return the jackknife's estimate of the bias, the sum over strata (Efron and Tibshirani 1993, section 11.4)."""
    here = [left_out[design.strata == stratum] for stratum in np.unique(design.strata)]
    return np.asarray(sum((len(each) - 1) * (each.mean(0) - value) for each in here))


def spread(value: Floats, left_out: Floats, design: Design) -> tuple[Floats, Floats, Floats]:
    """Return variance, degrees of freedom, and the number of groups in the smallest class that matters: all (…).

    A class matters when leaving out its groups changes the number; when no class does, all of them count.
    """
    change = left_out - value
    variance, below = np.zeros(np.shape(value)), np.zeros(np.shape(value))
    fewest = np.full(np.shape(value), np.inf)
    strata, counts = np.unique(design.strata, return_counts=True)
    for stratum, count in zip(strata.tolist(), counts.tolist(), strict=True):
        here = design.strata == stratum
        matters = (np.abs(change[here]) > _NOTHING).any(0)
        part = np.where(matters, (count - 1) / count * np.square(change[here]).sum(0), 0.0)
        share = design.share[here]
        variance, below = variance + part, below + part**2 / max(share.sum() ** 2 / (share**2).sum() - 1, 0.5)
        fewest = np.where(matters, np.minimum(fewest, count), fewest)
    with np.errstate(all="ignore"):
        return variance, variance**2 / below, np.where(np.isinf(fewest), counts.min(), fewest)


def bootstrap(
    statistic: Callable[[Floats], Statistics], *, groups: int, cells: int, replicates: int = 2000, seed: int = 0
) -> Bootstrap:
    """Measure `statistic` on all groups and on replicates of them: as many are drawn, with replacement.

    statistic: takes the weight of each group, (replicates, groups), and gives numbers or curves per replicate.
    cells: how many cells it looks at, so that it gets only as many replicates at once as fit the cache.

    >>> values = np.array([0.0, 1.0])
    >>> mean = bootstrap(lambda w: {"mean": w @ values / w.sum(1)}, groups=2, cells=2, replicates=400)
    >>> sorted(set(mean.replicates["mean"].tolist()))
    [0.0, 0.5, 1.0]
    """
    draws = draw(groups, replicates=replicates, seed=seed, at_once=max(1, _WEIGHTS_AT_ONCE // max(1, cells)))
    return Bootstrap(*_measured(statistic, groups, draws))


def draw(groups: int, *, replicates: int, seed: int, at_once: int) -> Iterator[Floats]:
    """Yield how often each group is drawn, (up to `at_once`, groups) at a time; `at_once` does not change the draws.

    >>> [counts.sum(1).tolist() for counts in draw(3, replicates=3, seed=0, at_once=2)]
    [[3.0, 3.0], [3.0]]
    """
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        picks = rng.integers(groups, size=(rows, groups), dtype=np.int64) + groups * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def number(value: ArrayLike) -> float | None:
    """Return a float of six digits, or None for NaN.

    >>> number(1 / 3), number(float("nan"))
    (0.333333, None)
    """
    rounded = round(float(np.asarray(value)), 6)
    return rounded if np.isfinite(rounded) else None


def plain(values: Floats) -> list[float | None]:
    """Return an array as a list of floats and Nones.

    >>> plain(np.array([0.5, np.nan]))
    [0.5, None]
    """
    return [number(value) for value in values]
