"""Occlusion: cover one square after the other and see how much less sure the model is.

Source: Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014.
"""

import numpy as np

from ..data.images import RGB
from .fading import Mask, without
from .heat import Heat, Predict, log_odds

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
