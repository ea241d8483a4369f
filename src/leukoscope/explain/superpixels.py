"""Patches of a cell that are alike in colour and near each other: k-means on colour and place.

Source: Achanta et al., SLIC superpixels, 2012, doi 10.1109/TPAMI.2012.120; here every pixel looks at every centre,
which for one small cell costs little and needs no search window.
"""

import numpy as np
from numpy.typing import NDArray

from ..data.images import RGB
from ..data.prepare import cell_mask

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
