"""Explanations that hide parts of a cell: LIME over superpixels, and occlusion."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from ..images.crop import cell_mask
from ..images.read import RGB
from .maps import BATCH, Crops, Heat, Predict, log_odds

Mask = NDArray[np.bool_]


def without(crop: RGB, parts: Mask) -> Crops:
    """Return one crop per mask (parts, size, size), with the cell's pixels under it at the cell's mean colour."""
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
    patches = superpixels(crop, count=count)
    number = int(patches.max()) + 1
    if not number:
        return np.zeros(patches.shape, dtype=np.float32)
    there = rng.integers(0, 2, (samples, number)).astype(bool)
    there[0] = True
    hidden = np.column_stack([~there, np.zeros(samples, dtype=bool)])  # the last column answers for outside, patch -1
    said = [
        log_odds(predict, without(crop, hidden[start : start + BATCH][:, patches]), target=target)
        for start in range(0, samples, BATCH)
    ]
    distance = 1 - np.sqrt(there.mean(axis=1))  # cosine distance between a set and the whole
    fitted = Ridge(alpha=_RIDGE).fit(there, np.concatenate(said), sample_weight=np.exp(-((distance / _WIDTH) ** 2)))
    return np.append(fitted.coef_, 0.0)[patches].astype(np.float32)


_TILES = 8  # squares along a side of the crop, which overlap by half


def occlude(predict: Predict, crop: RGB, *, target: int, tiles: int = _TILES) -> Heat:
    """Return the drop in log-odds of `target` per covered square, averaged over the squares that cover a pixel.

    Squares that hold nothing of the cell change nothing and are not asked for.
    """
    squares = [square for square in _squares(len(crop), tiles=tiles) if crop[square].any()]
    size = len(crop)
    parts: Mask = np.zeros((len(squares), size, size), dtype=bool)
    for part, square in zip(parts, squares, strict=True):
        part[square] = True
    whole = log_odds(predict, crop[None], target=target)[0]
    drops = whole - log_odds(predict, without(crop, parts), target=target) if squares else np.zeros(0)
    covered = parts.sum(axis=0)
    summed = np.tensordot(drops, parts, axes=1) if squares else np.zeros((size, size))
    return np.asarray(summed / np.maximum(covered, 1), dtype=np.float32)


def _squares(size: int, *, tiles: int) -> list[tuple[slice, slice]]:
    """Return overlapping squares that cover the crop."""
    side = max(2, round(size / tiles))
    starts = np.unique(np.linspace(0, size - side, 2 * tiles - 1).round().astype(int))
    return [(slice(top, top + side), slice(left, left + side)) for top in starts for left in starts]
