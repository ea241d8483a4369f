"""A crop as the model knows it: one cell, upright, in the middle of black, at the scale of the release."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .cells import Field, FieldCell
from .planes import Mask, Pixels, rescaled
from .scale import RELEASE_UM_PER_PX

CROP_SIDE = 450  # pixels, as in C-NMC 2019
_SUBPIXEL = 4  # binary digits after the point in OpenCV's polygon coordinates


def cut_crop(field: Field, cell: FieldCell, *, side: int = CROP_SIDE, um_per_px: float = RELEASE_UM_PER_PX) -> Pixels:
    """Cut one cell out of its field: uint8 RGB, (side, side, 3), black around it, `um_per_px` micrometres a pixel."""
    zoom = field.scale.um_per_px / um_per_px
    left, top, right, bottom = cell.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    pixels, origin = _around(field.pixels, cell)
    if zoom < 0.75:  # area average first, so that nothing is skipped between two pixels
        shrunk = rescaled(pixels, zoom)
        step = np.array([shrunk.shape[1] / pixels.shape[1], shrunk.shape[0] / pixels.shape[0]])
    else:
        shrunk, step = pixels, np.ones(2)
    scale = zoom / step
    shift = side / 2 - (middle - origin) * zoom
    move = np.array([[scale[0], 0, shift[0] + scale[0] / 2 - 0.5], [0, scale[1], shift[1] + scale[1] / 2 - 0.5]])
    crop = cv2.warpAffine(shrunk, move, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    crop[_outside((cell.outline - middle) * zoom + side / 2, side=side)] = 0
    return np.asarray(crop, np.uint8)


def _around(pixels: Pixels, cell: FieldCell) -> tuple[Pixels, NDArray[np.float64]]:
    """Return the pixels around a cell and where their corner lies in the field."""
    left, top, right, bottom = cell.box
    margin = 4
    top, left = max(0, top - margin), max(0, left - margin)
    return pixels[top : bottom + margin, left : right + margin], np.array([left, top], dtype=np.float64)


def _outside(outline: NDArray[np.float64], *, side: int) -> Mask:
    mask = np.zeros((side, side), np.uint8)
    points = np.rint((outline - 0.5) * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillPoly(mask, [points], (1,), shift=_SUBPIXEL)
    return np.asarray(mask == 0)
