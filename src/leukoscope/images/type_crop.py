"""The crop from which the type of a cell is told, of a cell that was cut out on black.

NumPy alone, since the small install judges such cells too; `fields.type_crops` makes the same crop of a cell that lies
in its field. A cell on black shows no glass: its brightest part stands in for it, and its nucleus for the strength of
the stain. Around the cell stands glass, so that a crop never tells where it is from.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .crop import bounding_box, cell_mask
from .read import RGB

SIDE, UM_PER_PX = 128, 0.17
"""Of the crop that the network sees: pixels, micrometres per pixel (21.8 µm)."""
FRAME_SIDE, FRAME_UM_PER_PX = 192, 0.125
"""Of the frame from which crops are made, and from which training makes its variants (24 µm)."""
GLASS = 240  # grey level of empty glass in a crop
OFFSET = 8.0  # grey levels added before the logarithm, as in fields.stain
RELEASE_UM_PER_PX = 0.06  # of C-NMC 2019, as in fields.scale

Mask = NDArray[np.bool_]  # (height, width)
Table = NDArray[np.float32]  # (256, 3): grey level of the picture -> grey level of the crop, for each channel
Weights = NDArray[np.float32]  # (new side, old side): how much of each old pixel is in a new one

_NUCLEUS = 2.1  # length of the optical density of the darkest twentieth of a cell
_NUCLEUS_GAIN = (0.6, 1.8)
_DARKEST_GLASS = (118, 75, 115)  # grey levels: C-NMC 2019 hides its glass, and its cells are very dark


def crop_on_black(image: RGB) -> RGB:
    """Return the crop of a cell that was cut out on black at the scale of the release, uint8 RGB (SIDE, SIDE, 3)."""
    pixels, mask = frame_on_black(image)
    zoom = FRAME_UM_PER_PX / UM_PER_PX
    smooth = _gaussian(FRAME_SIDE, 0.405 / zoom, reach=2)
    shrink = _bilinear(SIDE, FRAME_SIDE, zoom=zoom, shift=(SIDE / 2 - 0.5) - zoom * (FRAME_SIDE / 2 - 0.5))
    levels = np.rint(np.clip(table_on_black(pixels, mask), 0, 255))
    softened = np.rint(_both_ways(smooth, pixels)).astype(np.uint8)
    recoloured = np.stack([levels[softened[..., channel], channel] for channel in range(3)], axis=-1)
    crop = np.rint(_both_ways(shrink, recoloured, fill=GLASS))
    cover = _both_ways(shrink @ _gaussian(FRAME_SIDE, 2.0, reach=8), mask[..., None])
    inside = _both_ways(_gaussian(SIDE, 0.7, reach=3), cover > 0.5)
    return np.asarray(np.clip(crop * inside + GLASS * (1 - inside) + 0.5, 0, 255), np.uint8)


def frame_on_black(image: RGB, *, um_per_px: float = RELEASE_UM_PER_PX) -> tuple[RGB, Mask]:
    """Return a cell that stands on black in the middle of a frame, (FRAME_SIDE, FRAME_SIDE, 3), and its mask.

    The rim, blurred with black as it is shrunk, gets back the colour that black took from it.
    """
    solid = cell_mask(image)
    if not solid.any():
        return np.zeros((FRAME_SIDE, FRAME_SIDE, 3), np.uint8), np.zeros((FRAME_SIDE, FRAME_SIDE), bool)
    left, top, right, bottom = bounding_box(solid)
    zoom = um_per_px / FRAME_UM_PER_PX
    down, across = (
        _placed(side, zoom=zoom, middle=middle)
        for side, middle in zip(image.shape[:2], ((top + bottom) / 2, (left + right) / 2), strict=True)
    )
    cut, cover = _both_ways(down, image, across), 255 * _both_ways(down, solid[..., None], across)
    lit = np.clip(cut * 255 / np.maximum(cover, 64), 0, 255)
    return lit.astype(np.uint8), np.asarray(cover[..., 0] > 127)


def table_on_black(pixels: RGB, mask: Mask) -> Table:
    """Return what brings the colours of a cell on black to those of crops."""
    inside = pixels[mask]
    if len(inside) < 50:
        return colour_table((255.0, 255.0, 255.0), np.ones(3))
    dark, bright = np.percentile(inside, (5, 99), axis=0)
    glass = np.clip(np.maximum(bright * 1.2 + 4, _DARKEST_GLASS), 1, 255)
    strength = float(np.linalg.norm(np.log((glass + OFFSET) / (dark + OFFSET))))
    return colour_table(glass, np.full(3, np.clip(_NUCLEUS / max(strength, 0.2), *_NUCLEUS_GAIN)))


def colour_table(glass: Sequence[float] | NDArray[np.float64], gain: NDArray[np.float64]) -> Table:
    """Return the table by which a colour's optical density against `glass` is multiplied by `gain`, glass to GLASS."""
    level = np.arange(256)[:, None]
    density = np.clip(np.log((np.asarray(glass)[None] + OFFSET) / (level + OFFSET)), -0.1, 3.0) * gain
    return np.clip((GLASS + OFFSET) * np.exp(-density) - OFFSET, 0, 255).astype(np.float32)


def _both_ways(down: Weights, plane: NDArray[np.generic], across: Weights | None = None, *, fill: float = 0) -> Weights:
    """Return a plane (height, width, channels) resampled in both directions; `fill` is what lies outside of it."""
    across = down if across is None else across
    inner = np.tensordot(np.tensordot(down, plane.astype(np.float32), 1), across, axes=([1], [1])).transpose(0, 2, 1)
    return np.asarray(inner + fill * (1 - np.outer(down.sum(1), across.sum(1)))[..., None], np.float32)


def _placed(side: int, *, zoom: float, middle: float) -> Weights:
    """Return what shrinks `side` pixels by areas and puts `middle` into the middle of a frame."""
    small = max(1, round(side * zoom))
    edges = np.minimum(np.arange(small)[:, None] / zoom + (0, 1 / zoom), side)  # (small, 2), in old pixels
    pixels = np.arange(side)
    inside = np.clip(np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :1], pixels), 0, None)
    areas = inside / np.maximum(inside.sum(1, keepdims=True), 1e-9)
    return np.asarray(_bilinear(FRAME_SIDE, small, zoom=1, shift=FRAME_SIDE / 2 - middle * zoom) @ areas, np.float32)


def _bilinear(new: int, old: int, *, zoom: float, shift: float) -> Weights:
    """Return the weights by which new pixel i takes the value at (i - shift) / zoom."""
    place = (np.arange(new)[:, None] - shift) / zoom
    return np.asarray(np.clip(1 - np.abs(place - np.arange(old)), 0, None), np.float32)


def _gaussian(side: int, spread: float, *, reach: int) -> Weights:
    """Return the weights of a Gaussian of standard deviation `spread` pixels; the border is mirrored."""
    step = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (step / spread) ** 2)
    place = np.arange(side)[:, None] + step
    mirrored = np.where(place < 0, -place, np.where(place >= side, 2 * side - 2 - place, place))
    weights = np.zeros((side, side), np.float32)
    np.add.at(weights, (np.broadcast_to(np.arange(side)[:, None], place.shape), mirrored), kernel / kernel.sum())
    return weights
