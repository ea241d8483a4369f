"""From an image of one cell to the crop that a model sees. The same code serves training and every prediction."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Prepare
from ..errors import ImageError
from .images import RGB

# JPEG copies of black are not quite black; of a C-NMC cell less than 2 % of the pixels, all at its edge, are as dark.
_BLACK = 24


def prepare_crop(image: RGB, prepare: Prepare) -> RGB:
    """Return the crop of an image, uint8 (size, size, 3).

    Raises:
        ImageError: the image is all black, so there is no cell to see.
    """
    mask = cell_mask(image)
    if not mask.any():
        raise ImageError("is all black: there is no cell to see. Remove it or replace it.")
    left, top, side = _square(image, mask, prepare)
    # Image.crop fills what lies outside the source with black, as the release's own background.
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    # Pillow widens the bilinear kernel when it shrinks, so nothing is skipped between two pixels.
    return np.asarray(square.resize((prepare.size, prepare.size), Image.Resampling.BILINEAR))


def cell_mask(image: RGB) -> NDArray[np.bool_]:
    """Return where the cell is, (height, width): all that is not black background."""
    brightest: NDArray[np.bool_] = image.max(axis=2) > _BLACK
    return brightest


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the true pixels; right and bottom are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _square(image: RGB, mask: NDArray[np.bool_], prepare: Prepare) -> tuple[int, int, int]:
    """Return (left, top, side) of the source square that becomes the crop."""
    height, width = image.shape[:2]
    if prepare.view == "cell":
        left, top, right, bottom = bounding_box(mask)
        longer = max(right - left, bottom - top)
        side = longer + 2 * round(prepare.margin * longer)
        return (left + right - side) // 2, (top + bottom - side) // 2, side
    side = prepare.window if prepare.view == "window" else max(height, width)
    return (width - side) // 2, (height - side) // 2, side
