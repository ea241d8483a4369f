"""A heat map: how much each place of a crop speaks for a class, and the one way in which it is drawn.

Pictures of the command line, pages and the reading room all come from `painted`: the same colours, the same opacity and
one scale, so that a colour means the same wherever it is seen.
"""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..images.read import RGB

Heat = NDArray[np.float32]
"""(size, size): above zero speaks for the class, below zero against it."""
Crops = NDArray[np.uint8]  # (batch, size, size, 3)
Predict = Callable[[Crops], NDArray[np.floating]]
"""Crops to probabilities (batch, classes)."""

BATCH = 64
_SMALLEST = 1e-6  # probabilities nearer to 0 or 1 are float32 rounding
FOR, AGAINST = (230, 120, 0), (0, 114, 178)  # orange and blue of Okabe and Ito 2008
_STRONGEST = 0.7  # opacity of the strongest heat: the cell must stay visible under it
LEAST_PLACES = 4
"""Places along a side of a network's map below which it is not drawn: a cell fills most of such a place, so the map
would be an even wash, and occlusion says more."""
SIDE = 256
"""Pixels of a crop in pictures and pages that explain it."""


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


def painted(heat: Heat, *, full: float, signed: bool = True) -> NDArray[np.uint8]:
    """Return heat (height, width) as colour and opacity, RGBA (height, width, 4).

    Orange speaks for the class, blue (only where `signed`) against it; where there is no heat nothing covers the cell.
    A place is as strong as tanh(heat / full): with the temperature of a model as `full` and a map of two classes this
    is 2 p - 1 of a crop that looks everywhere as it does there, nought at even chances and all of it at certainty.
    """
    strength = np.clip(np.tanh(np.asarray(heat, np.float64) / full), -1 if signed else 0, 1)
    pixels = np.empty((*strength.shape, 4), np.uint8)
    pixels[..., :3] = np.where(strength[..., None] >= 0, FOR, AGAINST)
    pixels[..., 3] = np.round(255 * _STRONGEST * np.abs(strength))
    return pixels


def overlay(crop: RGB, heat: Heat, *, full: float) -> RGB:
    """Return a crop under its heat, as `painted` draws it."""
    over = painted(heat, full=full).astype(np.float64)
    opacity = over[..., 3:] / 255
    return np.asarray((crop * (1 - opacity) + over[..., :3] * opacity).round(), dtype=np.uint8)


def transparent(heat: Heat, *, full: float, signed: bool, side: int = 0) -> bytes:
    """Return heat as a transparent PNG to be laid over the crop, `side` pixels wide; 0: one pixel for each place.

    A browser that stretches one pixel for each place does so as `enlarge` does.
    """
    plane = enlarge(heat, size=side) if side else heat
    stream = io.BytesIO()
    PIL.Image.fromarray(painted(plane, full=full, signed=signed)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def magnified(image: RGB, *, side: int = SIDE) -> RGB:
    """Repeat the pixels of a small picture until it is at least `side` pixels high, so that nothing smooths them."""
    times = max(1, -(-side // len(image)))
    return np.asarray(image.repeat(times, axis=0).repeat(times, axis=1), dtype=np.uint8)
