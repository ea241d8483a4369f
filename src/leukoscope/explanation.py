"""Heat maps: the evidence for a class at each place of a crop, and checks of the maps.

Maps come from the network (CAM), LIME or occlusion. All methods take a callable from crops to probabilities, so they
explain the model as it is deployed. Pictures of the command line, pages and the reading room all come from `to_rgba`,
with the same colours, opacity and scale.

Checks of a map:

inside       share of the heat on the cell; heat on the black background shows a spurious feature
deletion     how fast the probability falls when the hottest pixels are removed first; low is good
insertion    how fast it rises when they are restored first; high is good
             (Petsiuk, Das & Saenko, RISE, BMVC 2018); both compared with pixels in random order
randomised   rank correlation with the map of the same network with random weights: an unchanged map shows
             the picture, not the network (Adebayo et al. 2018, doi 10.48550/arXiv.1810.03292)
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import ArrayLike, NDArray

from .images.crop import cell_mask
from .images.read import RGB

Heat = NDArray[np.float32]
"""(size, size): positive for the class, negative against it."""
Crops = NDArray[np.uint8]  # (batch, size, size, 3)
Predict = Callable[[Crops], NDArray[np.floating]]
"""Crops to probabilities (batch, classes)."""

BATCH = 64
_SMALLEST = 1e-6  # probabilities nearer to 0 or 1 are float32 rounding
FOR, AGAINST = (230, 120, 0), (0, 114, 178)  # orange and blue of Okabe and Ito 2008
_STRONGEST = 0.7  # opacity of the strongest heat: the cell must stay visible under it
OCCLUDED_PLACES = 8
"""Places along a side of an occlusion map of an opinion."""
FULL_LOG_ODDS = 0.5
"""Change of the log-odds by occlusion that is drawn with the strength tanh(1): see to_rgba."""
LEAST_PLACES = 4
"""Places along a side of a network's map below which it is not drawn: a cell fills most of such a place, so the map
would be nearly uniform, and occlusion is more informative."""
SIDE = 256
"""Pixels of a crop in pictures and pages that explain it."""


def log_odds(predict: Predict, crops: Crops, *, target: int) -> NDArray[np.float64]:
    """Return the log-odds of class `target` for each crop, predicted in batches."""
    parts = [predict(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)]
    chance = np.clip(np.concatenate(parts)[:, target].astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(chance / (1 - chance)))


def enlarge(plane: NDArray[np.floating], *, size: int) -> Heat:
    """Enlarge a map (places, places) to the crop's pixels, linearly between the middles of its tiles.

    That a place corresponds to its own tile is a convention: by the padding of the layers its receptive field may be
    off-centre by up to half a tile. Measured with patches of noise, trained networks showed no consistent shift.
    """
    count = len(plane)
    where = (np.arange(size) + 0.5) * count / size - 0.5  # of each pixel's middle, in places
    low = np.clip(np.floor(where).astype(int), 0, max(0, count - 2))
    share = np.clip(where - low, 0, 1)
    high = np.minimum(low + 1, count - 1)
    rows = plane[low] * (1 - share)[:, None] + plane[high] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share, dtype=np.float32)


def to_rgba(heat: Heat, *, full: float, signed: bool = True) -> NDArray[np.uint8]:
    """Return heat (height, width) as colour and opacity, RGBA (height, width, 4).

    Orange is evidence for the class, blue (only where `signed`) against it; without heat a pixel is transparent. The
    strength is tanh(heat / full): with the temperature of a model as `full` and a map of two classes, this is 2 p - 1
    of a crop that looks the same everywhere.
    """
    strength = np.clip(np.tanh(np.asarray(heat, np.float64) / full), -1 if signed else 0, 1)
    pixels = np.empty((*strength.shape, 4), np.uint8)
    pixels[..., :3] = np.where(strength[..., None] >= 0, FOR, AGAINST)
    pixels[..., 3] = np.round(255 * _STRONGEST * np.abs(strength))
    return pixels


def overlay(crop: RGB, heat: Heat, *, full: float) -> RGB:
    """Return a crop under its heat, as `to_rgba` draws it."""
    over = to_rgba(heat, full=full).astype(np.float64)
    opacity = over[..., 3:] / 255
    return np.asarray((crop * (1 - opacity) + over[..., :3] * opacity).round(), dtype=np.uint8)


def transparent(heat: Heat, *, full: float, signed: bool, side: int = 0) -> bytes:
    """Return heat as a transparent PNG to be laid over the crop, `side` pixels wide; 0: one pixel for each place.

    A browser enlarges one pixel for each place as `enlarge` does.
    """
    plane = enlarge(heat, size=side) if side else heat
    stream = io.BytesIO()
    PIL.Image.fromarray(to_rgba(plane, full=full, signed=signed)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def magnified(image: RGB, *, side: int = SIDE) -> RGB:
    """Repeat the pixels of a small picture until it is at least `side` pixels high, to show single pixels."""
    times = max(1, -(-side // len(image)))
    return np.asarray(image.repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)


Mask = NDArray[np.bool_]


def without(crop: RGB, parts: Mask) -> Crops:
    """Return one crop per mask (parts, size, size), with masked pixels of the cell replaced by its mean colour."""
    cell = cell_mask(crop)
    mean = crop[cell].mean(axis=0) if cell.any() else np.zeros(3)
    gone = (parts & cell)[..., None]
    return np.where(gone, mean.round().astype(np.uint8), crop)


_COMPACTNESS = 1.0  # weight of a patch's width against one standard deviation of colour
_OUTSIDE = -1
_ROUNDS = 10


def superpixels(crop: RGB, *, count: int = 30) -> NDArray[np.int64]:
    """Return the number of the patch of each pixel, (size, size), from 0; -1 outside the cell.

    There are `count` patches, fewer where the cell has fewer pixels.
    """
    cell = cell_mask(crop)
    patches = np.full(cell.shape, _OUTSIDE, dtype=np.int64)
    places = np.argwhere(cell).astype(np.float64)
    if not len(places):
        return patches
    count = min(count, len(places))
    width = np.sqrt(len(places) / count)
    colours = crop[cell].astype(np.float64)
    features = np.hstack([places / width * _COMPACTNESS, colours / (colours.std(axis=0).mean() + 1)])
    # The centres start on every n-th pixel in reading order: the same cell always gets the same patches.
    start = features[np.linspace(0, len(features) - 1, count).round().astype(int)]
    patches[cell] = np.unique(_nearest_means(features, start), return_inverse=True)[1]  # an empty patch has no number
    return patches


def _nearest_means(features: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the nearest centre of each row after ten rounds of Lloyd's k-means."""
    for _ in range(_ROUNDS):
        nearest = ((centres**2).sum(axis=1) - 2 * features @ centres.T).argmin(axis=1)
        sizes = np.bincount(nearest, minlength=len(centres))[:, None]
        sums = [np.bincount(nearest, column, minlength=len(centres)) for column in features.T]
        centres = np.where(sizes, np.stack(sums, axis=1) / np.maximum(sizes, 1), centres)
    return np.asarray(nearest)


_WIDTH = 0.25  # of the kernel on the cosine distance to the whole cell, as in the authors' program
_RIDGE = 1.0  # as there


def lime(
    predict: Predict, crop: RGB, *, target: int, rng: np.random.Generator, samples: int = 300, count: int = 30
) -> Heat:
    """Return how much each patch, by being there, adds to the log-odds of `target`; zero outside the cell.

    samples: how many sets of patches are hidden; count: how many patches.
    """
    from sklearn.linear_model import Ridge  # a first answer should not wait for scikit-learn

    patches = superpixels(crop, count=count)
    number = int(patches.max()) + 1
    if not number:
        return np.zeros(patches.shape, dtype=np.float32)
    there = rng.integers(0, 2, (samples, number)).astype(bool)
    there[0] = True
    hidden = np.column_stack([~there, np.zeros(samples, dtype=bool)])  # the last column answers for outside, patch -1
    answers = [
        log_odds(predict, without(crop, hidden[start : start + BATCH][:, patches]), target=target)
        for start in range(0, samples, BATCH)
    ]
    distance = 1 - np.sqrt(there.mean(axis=1))  # cosine distance between a set and all patches
    fitted = Ridge(alpha=_RIDGE).fit(there, np.concatenate(answers), sample_weight=np.exp(-((distance / _WIDTH) ** 2)))
    return np.append(fitted.coef_, 0.0)[patches].astype(np.float32)


_TILES = 8  # squares along a side of the crop, which overlap by half


def occlude(predict: Predict, crop: RGB, *, target: int, tiles: int = _TILES, overlap: bool = True) -> Heat:
    """Return the drop in log-odds of `target` per covered square, averaged over the squares that cover a pixel.

    Only the cell is covered: outside of it the heat is zero, and squares without any of it are skipped.
    """
    squares = [square for square in _squares(len(crop), tiles=tiles, overlap=overlap) if crop[square].any()]
    size = len(crop)
    parts: Mask = np.zeros((len(squares), size, size), dtype=bool)
    for part, square in zip(parts, squares, strict=True):
        part[square] = True
    whole = log_odds(predict, crop[None], target=target)[0]
    drops = whole - log_odds(predict, without(crop, parts), target=target) if squares else np.zeros(0)
    covered = parts.sum(axis=0)
    summed = np.tensordot(drops, parts, axes=1) if squares else np.zeros((size, size))
    return np.asarray(summed / np.maximum(covered, 1) * cell_mask(crop), dtype=np.float32)


def _squares(size: int, *, tiles: int, overlap: bool) -> list[tuple[slice, slice]]:
    """Return squares that cover the crop, each half over the next one where they overlap."""
    side = max(2, round(size / tiles))
    starts = np.unique(np.linspace(0, size - side, 2 * tiles - 1 if overlap else tiles).round().astype(int))
    return [(slice(top, top + side), slice(left, left + side)) for top in starts for left in starts]


STEPS = 20
_GRAIN = 24  # random order is drawn in blots of this fraction of the crop, as smooth as the maps it is compared with

Explain = Callable[[RGB, int], Heat]
"""A crop and the index of a class to a heat map."""


@dataclass(frozen=True)
class MaskingCurve:
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


def deletion(predict: Predict, crop: RGB, heat: Heat, *, target: int) -> MaskingCurve:
    """Take the cell's pixels away from the hottest down."""
    return _curve(predict, crop, _removed_first(heat, crop), target=target)


def insertion(predict: Predict, crop: RGB, heat: Heat, *, target: int) -> MaskingCurve:
    """Begin with all of the cell's texture taken away, and give it back from the hottest pixels down."""
    gone = _removed_first(heat, crop)
    return _curve(predict, crop, gone[-1] & ~gone, target=target)


def random_heat(crop: RGB, rng: np.random.Generator) -> Heat:
    """Return smooth noise: the map that knows nothing."""
    from scipy.ndimage import gaussian_filter  # as below: SciPy is slow to import, and pictures do without it

    noise = gaussian_filter(rng.standard_normal(crop.shape[:2]), len(crop) / _GRAIN)
    return np.asarray(noise, dtype=np.float32)


def rank_correlation(first: Heat, second: Heat, *, crop: RGB) -> float:
    """Return Spearman's correlation of two heat maps over the cell's pixels; NaN where one of them is flat."""
    from scipy.stats import spearmanr

    cell = cell_mask(crop)
    a, b = first[cell], second[cell]
    if not cell.any() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def check(
    predict: Predict, explain: Explain, crops: Crops, *, rng: np.random.Generator, randomised: Explain | None = None
) -> dict[str, Any]:
    """Check one method on cells (cells, size, size, 3), each explained for the class that the model predicts.

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


def _curve(predict: Predict, crop: RGB, gone: NDArray[np.bool_], *, target: int) -> MaskingCurve:
    values = np.asarray(predict(without(crop, gone)))[:, target]
    return MaskingCurve(np.linspace(0, 1, STEPS + 1).round(4).tolist(), values.round(6).tolist())


def _mean_curve(curves: Sequence[MaskingCurve]) -> MaskingCurve:
    values = np.mean([curve.values for curve in curves], axis=0)
    return MaskingCurve(curves[0].shares, values.round(6).tolist())


def _mean(values: ArrayLike) -> float | None:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return round(float(known.mean()), 4) if len(known) else None
