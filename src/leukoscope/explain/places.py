"""Where on the crop does a place of the activation map look?

A convolution with stride 2 on an even side pads one side only, and one without padding loses a border, so that the
middle of what a place sees may lie half a tile off its tile. Drawn without this, a heat map points beside what it
means: 15 of 224 pixels up and to the left for a ResNet-18.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .heat import BATCH, Maps

_STOPS = 24  # probes along the diagonal …
_DRAWS = 4  # … each with so many patches of noise, since a network answers to one patch more than to another
_HALF = 0.5  # of a place's strongest answer; weaker ones are cut off by the crop's border and would pull inwards


@dataclass(frozen=True)
class Grid:
    """Pixel position, along either axis, of the middle of what each place of a square map sees."""

    start: float
    """Middle of place 0, in pixels from the crop's edge."""
    step: float
    """Pixels from one place to the next."""

    @classmethod
    def of_tiles(cls, size: int, *, places: int) -> "Grid":
        """Return the grid of a map whose places see their own tiles of the crop."""
        return cls(start=size / places / 2, step=size / places)


def find_grid(maps: Maps, *, size: int, seed: int = 0) -> Grid:
    """Find where the places of a map look by moving patches of noise down the diagonal of a plain grey crop.

    A place looks where a patch moves it most. Fewer than three places cannot be measured and count as tiles.
    """
    rng = np.random.default_rng(seed)
    side = max(4, size // 12)
    corners = np.tile(np.linspace(0, size - side, _STOPS).round().astype(int), _DRAWS)
    plain = np.full((1, size, size, 3), 128, np.uint8)
    crops = np.repeat(plain, len(corners), axis=0)
    for crop, corner in zip(crops, corners, strict=True):
        crop[corner : corner + side, corner : corner + side] = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    said = np.concatenate([maps(crops[start : start + BATCH]) for start in range(0, len(crops), BATCH)])
    change = ((said.astype(np.float64) - maps(plain)) ** 2).sum(axis=1)
    answers = (change.sum(axis=1) + change.sum(axis=2)).reshape(_DRAWS, _STOPS, -1).sum(axis=0)
    return _fit(answers, corners[:_STOPS] + side / 2, size=size)


def _fit(answers: NDArray[np.float64], middles: NDArray[np.float64], *, size: int) -> Grid:
    """Fit a line through where each place looks; answers: (stops, places), middles: of the patches, in pixels."""
    places = answers.shape[1]
    strong = np.maximum(answers - _HALF * answers.max(axis=0), 0)
    if places < 3 or not strong.sum(axis=0).all():
        return Grid.of_tiles(size, places=places)
    seen = middles @ strong / strong.sum(axis=0)
    inner = np.arange(places)[1:-1] if places > 4 else np.arange(places)
    step, start = np.polyfit(inner, seen[inner], 1)
    return Grid(round(float(start), 2), round(float(step), 2))
