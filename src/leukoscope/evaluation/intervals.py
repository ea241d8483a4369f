"""95 % intervals by drawing whole subject groups again and again: cells of one patient are no independent proof.

A replicate draws as many groups as there are, with replacement; a cell weighs as often as its group was drawn.
Whatever is measured is measured on a matrix of such weights (replicates, groups), so all metrics of all estimators
share the same replicates and every difference is paired. Percentile interval: Efron and Tibshirani 1993, chapter 13.

The expected calibration error is a sum of distances, so every draw raises it and its percentile interval can lie
wholly above its value. Its replicates, and those of its differences, are therefore first moved by their estimated bias
(median of the replicates minus the value; chapter 10, there with the mean), so that their median is the value. Such an
interval says how far the value varies with other patients. It does not take away what chance has added to the value
itself: Kumar et al. 2019, doi 10.48550/arXiv.1909.10155. (The basic interval does, but need not hold the value.)
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .metrics import SWELLING, Floats

Statistics = dict[str, Floats]  # name -> (replicates, …)
LEVEL = 0.95
METHOD = "95 % percentile; ece and its differences: replicates first moved by their median bias"
_WEIGHTS_AT_ONCE = 1 << 20  # 8 MiB of float64: memory stays flat
_THREADS = 2


@dataclass(frozen=True)
class Bootstrap:
    """What was measured on all cells, and on every replicate."""

    point: Statistics  # name -> (…)
    replicates: Statistics  # name -> (replicates, …)
    groups: int

    def interval(self, name: str) -> dict[str, Any]:
        """Return value, low, high of a number, None where undefined, and in how many replicates it is undefined."""
        return _interval(name, self.point[name], self.replicates[name], least=0.0, groups=self.groups)

    def difference(self, name: str, other: str) -> dict[str, Any]:
        """Return value, low, high of name minus other, over the same replicates."""
        value, replicates = (each[name] - each[other] for each in (self.point, self.replicates))
        return _interval(name, value, replicates, least=-1.0, groups=self.groups)

    def band(self, name: str) -> dict[str, list[float | None]]:
        """Return value, low, high of every point of a curve."""
        low, high = _limits(self.replicates[name], groups=self.groups)
        return {"value": plain(self.point[name]), "low": plain(low), "high": plain(high)}


def bootstrap(
    statistic: Callable[[Floats], Statistics], *, groups: int, cells: int, replicates: int = 2000, seed: int = 0
) -> Bootstrap:
    """Measure `statistic` on all groups and on replicates of them.

    statistic: takes the weight of each group, (replicates, groups), and gives numbers or curves per replicate.
    cells: how many cells it looks at, so that it gets only as many replicates at once as fit the cache.

    >>> values = np.array([0.0, 1.0])
    >>> mean = bootstrap(lambda w: {"mean": w @ values / w.sum(1)}, groups=2, cells=2, replicates=400)
    >>> mean.interval("mean")
    {'value': 0.5, 'low': 0.0, 'high': 1.0}
    """
    point = {name: value[0] for name, value in statistic(np.ones((1, groups))).items()}
    draws = draw(groups, replicates=replicates, seed=seed, at_once=max(1, _WEIGHTS_AT_ONCE // max(1, cells)))
    parts: list[Statistics] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        while chunks := list(islice(draws, 2 * _THREADS)):
            parts += pool.map(statistic, chunks)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in point}
    return Bootstrap(point, joined, groups=groups)


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


def interval(value: ArrayLike, replicates: Floats, *, groups: int) -> dict[str, Any]:
    """Return one number with its percentile limits; None where undefined; limits need two groups.

    >>> interval(0.5, np.linspace(0, 1, 101), groups=9)
    {'value': 0.5, 'low': 0.025, 'high': 0.975}
    """
    low, high = _limits(replicates, groups=groups)
    undefined = int(np.isnan(replicates).sum())
    numbers = dict(zip(("value", "low", "high"), (number(each) for each in (value, low, high)), strict=True))
    return numbers | ({"undefined": undefined} if undefined else {})


def _interval(name: str, value: Floats, replicates: Floats, *, least: float, groups: int) -> dict[str, Any]:
    if name.rpartition(".")[2] in SWELLING:
        replicates = np.clip(_centred(value, replicates), least, 1.0)
    return interval(value, replicates, groups=groups)


def _centred(value: Floats, replicates: Floats) -> Floats:
    """Move the replicates so that their median is the value."""
    defined = replicates[np.isfinite(replicates)]
    return replicates - (np.median(defined) - value) if len(defined) else replicates


def _limits(replicates: Floats, *, groups: int) -> tuple[Floats, Floats]:
    """Return the percentile limits over the defined replicates; NaN when fewer than half of them are defined."""
    enough = np.isfinite(replicates).mean(0) >= 0.5
    if groups < 2 or not np.any(enough):
        nothing = np.full(replicates.shape[1:], np.nan)
        return nothing, nothing
    tail = (1 - LEVEL) / 2
    limits = np.nanquantile(np.where(enough, replicates, 0.0), [tail, 1 - tail], axis=0)
    low, high = np.where(enough, limits, np.nan)
    return low, high


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
