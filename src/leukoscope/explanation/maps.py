"""A heat map: how much each pixel of a crop speaks for a class, in log-odds where the method has a unit."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..images.read import RGB

Heat = NDArray[np.float32]
"""(size, size): above zero speaks for the class, below zero against it."""
Crops = NDArray[np.uint8]  # (batch, size, size, 3)
Predict = Callable[[Crops], NDArray[np.floating]]
"""Crops to probabilities (batch, classes)."""

BATCH = 64
_SMALLEST = 1e-6  # probabilities nearer to 0 or 1 are float32 rounding
_FOR, _AGAINST = np.array([230, 120, 0]), np.array([0, 114, 178])  # orange and blue of Okabe and Ito 2008
_STRONGEST = 0.65  # opacity of the strongest heat


def log_odds(predict: Predict, crops: Crops, *, target: int) -> NDArray[np.float64]:
    """Return how sure the model is of class `target` for each crop, in log-odds, predicting in batches."""
    parts = [predict(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)]
    chance = np.clip(np.concatenate(parts)[:, target].astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(chance / (1 - chance)))


def enlarge(plane: NDArray[np.floating], *, size: int) -> Heat:
    """Enlarge a map (places, places) to the crop's pixels, linearly between the middles of its tiles.

    That a place sees its own tile is a convention. By the paddings of its layers what it sees may be centred up to
    half a tile off; measured with patches of noise, trained networks gave no shift that could be relied on.
    """
    count = len(plane)
    where = (np.arange(size) + 0.5) * count / size - 0.5  # of each pixel's middle, in places
    low = np.clip(np.floor(where).astype(int), 0, max(0, count - 2))
    share = np.clip(where - low, 0, 1)
    high = np.minimum(low + 1, count - 1)
    rows = plane[low] * (1 - share)[:, None] + plane[high] * share[:, None]
    return np.asarray(rows[:, low] * (1 - share) + rows[:, high] * share, dtype=np.float32)


def overlay(crop: RGB, heat: Heat, *, strongest: float | None = None) -> RGB:
    """Draw heat over a crop: orange speaks for the class, blue against it, the crop shows through where it is weak.

    strongest: heat that gets the full colour; by default the strongest in the picture.
    """
    limit = strongest or float(np.abs(heat).max()) or 1.0
    strength = np.clip(heat / limit, -1, 1)[..., None]
    opacity = _STRONGEST * np.abs(strength)
    painted = crop * (1 - opacity) + np.where(strength > 0, _FOR, _AGAINST) * opacity
    return np.asarray(painted.round(), dtype=np.uint8)


def beside(crop: RGB, heat: Heat, *, side: int = 256) -> RGB:
    """Return the crop and its overlay next to each other, each at least `side` pixels wide."""
    times = max(1, -(-side // len(crop)))
    pair = np.hstack([crop, overlay(crop, heat)])
    return np.asarray(pair.repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
