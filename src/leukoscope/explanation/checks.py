"""Is a heat map to be believed? Three checks that a picture of one cell cannot give.

inside       share of the heat that lies on the cell: a model that looks at the black has learned something else
deletion     how fast the class is given up when the hottest pixels go first; low is good
insertion    how fast it is found when they come back first; high is good
             (Petsiuk, Das & Saenko, RISE, BMVC 2018); both beside the same with pixels in random order
randomised   rank correlation with the map of the same network with random weights: a map that stays the same shows
             the picture, not the network (Adebayo et al. 2018, doi 10.48550/arXiv.1810.03292)
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from ..images.crop import cell_mask
from ..images.read import RGB
from .maps import Crops, Heat, Predict, without

STEPS = 20
_GRAIN = 24  # random order is drawn in blots of this fraction of the crop, as smooth as the maps it is compared with

Explain = Callable[[RGB, int], Heat]
"""A crop and the index of a class to a heat map."""


@dataclass(frozen=True)
class Curve:
    """Probability of the class as a growing share of the cell is taken away, or given back."""

    shares: list[float]
    """Of the cell's pixels, from 0 to 1."""
    values: list[float]

    @property
    def area(self) -> float:
        """Area under the curve, from 0 to 1."""
        return float(np.trapezoid(self.values, self.shares))


def inside_share(heat: Heat, crop: RGB) -> float:
    """Return the share of absolute heat that lies on the cell; NaN where there is no heat at all."""
    strength = np.abs(heat.astype(np.float64))
    return float(strength[cell_mask(crop)].sum() / strength.sum()) if strength.any() else float("nan")


def deletion(predict: Predict, crop: RGB, heat: Heat, *, target: int) -> Curve:
    """Take the cell's pixels away from the hottest down."""
    return _curve(predict, crop, _removed_first(heat, crop), target=target)


def insertion(predict: Predict, crop: RGB, heat: Heat, *, target: int) -> Curve:
    """Begin with all of the cell's texture taken away, and give it back from the hottest pixels down."""
    gone = _removed_first(heat, crop)
    return _curve(predict, crop, gone[-1] & ~gone, target=target)


def random_heat(crop: RGB, rng: np.random.Generator) -> Heat:
    """Return smooth noise: the map that knows nothing."""
    noise = gaussian_filter(rng.standard_normal(crop.shape[:2]), len(crop) / _GRAIN)
    return np.asarray(noise, dtype=np.float32)


def rank_correlation(first: Heat, second: Heat, *, crop: RGB) -> float:
    """Return Spearman's correlation of two heat maps over the cell's pixels; NaN where one of them is flat."""
    cell = cell_mask(crop)
    a, b = first[cell], second[cell]
    if not cell.any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def check(
    predict: Predict, explain: Explain, crops: Crops, *, rng: np.random.Generator, randomised: Explain | None = None
) -> dict[str, Any]:
    """Check one method on cells (cells, size, size, 3), each explained for the class that the model says.

    Returns plain numbers for JSON: mean of each check over the cells, the mean curves, and the cells' own numbers.
    """
    targets = np.asarray(predict(crops)).argmax(axis=1)
    cells = [
        _check_one(predict, explain, crop, target=int(target), rng=rng, randomised=randomised)
        for crop, target in zip(crops, targets, strict=True)
    ]
    names = ("deletion", "insertion", "deletion_random", "insertion_random")
    curves = {name: _mean_curve([cell.pop(name) for cell in cells]) for name in names}
    means = {name: _mean([cell[name] for cell in cells]) for name in cells[0]}
    areas = {name: round(curve.area, 4) for name, curve in curves.items()}
    shown = {name: asdict(curve) for name, curve in curves.items()}
    return {"cells": len(crops), **means, **areas, "curves": shown}


def _check_one(
    predict: Predict, explain: Explain, crop: RGB, *, target: int, rng: np.random.Generator, randomised: Explain | None
) -> dict[str, Any]:
    heat, noise = explain(crop, target), random_heat(crop, rng)
    checks: dict[str, Any] = {"inside": inside_share(heat, crop), "cell_share": float(cell_mask(crop).mean())}
    if randomised:
        checks["randomised"] = rank_correlation(heat, randomised(crop, target), crop=crop)
    for name, order in (("", heat), ("_random", noise)):
        checks[f"deletion{name}"] = deletion(predict, crop, order, target=target)
        checks[f"insertion{name}"] = insertion(predict, crop, order, target=target)
    return checks


def _removed_first(heat: Heat, crop: RGB) -> NDArray[np.bool_]:
    """Return which of the cell's pixels are gone at each step, (steps + 1, size, size): none at first, all at last."""
    cell = cell_mask(crop)
    rank = np.empty(int(cell.sum()))
    rank[np.argsort(-heat[cell], kind="stable")] = np.arange(len(rank))
    place = np.full(cell.shape, np.inf)
    place[cell] = rank
    ends = np.linspace(0, len(rank), STEPS + 1).round()
    return np.asarray(place < ends[:, None, None])


def _curve(predict: Predict, crop: RGB, gone: NDArray[np.bool_], *, target: int) -> Curve:
    values = np.asarray(predict(without(crop, gone)))[:, target]
    return Curve(np.linspace(0, 1, STEPS + 1).round(4).tolist(), values.round(6).tolist())


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    values = np.mean([curve.values for curve in curves], axis=0)
    return Curve(curves[0].shares, values.round(6).tolist())


def _mean(values: ArrayLike) -> float | None:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return round(float(known.mean()), 4) if len(known) else None
