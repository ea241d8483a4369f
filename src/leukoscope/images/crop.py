"""From an image of one cell to the crop that a model sees, and the mirrored and turned copies of it."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Prepare
from ..errors import ImageError
from .read import RGB

# JPEG copies of black are not quite black; of a C-NMC cell less than 2 % of the pixels, all at its edge, are as dark.
_BLACK = 24
_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out


def prepare_crop(image: RGB, prepare: Prepare) -> RGB:
    """Return the crop of an image, uint8 (size, size, 3).

    Raises:
        ImageError: the image is all black, so there is no cell to see.
    """
    if image.max() <= _BLACK:
        raise ImageError("is all black: there is no cell to see. Remove it or replace it.")
    left, top, side = _square(image, prepare)
    if (left, top) == (0, 0) and image.shape[:2] == (side, side) == (prepare.size, prepare.size):
        return image  # it is its own crop already, as the release's images are at 450 px
    return cut_square(image, left, top, side, size=prepare.size)


def cut_square(image: RGB, left: int, top: int, side: int, *, size: int) -> RGB:
    """Return a square of the source as a crop, (size, size, 3); what lies outside the source is black."""
    x, y = max(left, 0), max(top, 0)
    part = Image.fromarray(image[y : top + side, x : left + side])  # only this is copied
    # Image.crop fills what lies outside the source with black, as the release's own background.
    square = part.crop((left - x, top - y, left - x + side, top - y + side))
    # Pillow widens the bilinear kernel when it shrinks, so nothing is skipped between two pixels.
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def is_cut_out(image: RGB) -> bool:
    """Return whether a picture shows something cut out on black: most of its outermost pixels are black."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return float((border.max(axis=1) > _BLACK).mean()) <= _FRAMED


def cell_mask(image: RGB) -> NDArray[np.bool_]:
    """Return where the cell is, (height, width): all that is not black background."""
    # Channel by channel: numpy's own maximum along an axis of three takes thirty times as long.
    brightest = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])
    return np.asarray(brightest > _BLACK)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the true pixels; right and bottom are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square_around(box: tuple[int, int, int, int], *, margin: float) -> tuple[int, int, int]:
    """Return (left, top, side) of the square around a box, with a margin as a share of the box's longer side."""
    left, top, right, bottom = box
    longer = max(right - left, bottom - top)
    side = longer + 2 * round(margin * longer)
    return (left + right - side) // 2, (top + bottom - side) // 2, side


def _square(image: RGB, prepare: Prepare) -> tuple[int, int, int]:
    """Return (left, top, side) of the source square that becomes the crop."""
    height, width = image.shape[:2]
    if prepare.view == "cell":
        return square_around(bounding_box(cell_mask(image)), margin=prepare.margin)
    if prepare.view == "area":
        x, y, area = _centre_and_area(cell_mask(image))
        side = max(1, round(2 * np.sqrt(area / np.pi) * (1 + 2 * prepare.margin)))
        return round(x - side / 2), round(y - side / 2), side
    side = prepare.window if prepare.view == "window" else max(height, width)
    return (width - side) // 2, (height - side) // 2, side


def _centre_and_area(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return x, y and area in pixels of the largest piece of the mask, without what hangs on it by a thread."""
    from scipy.ndimage import binary_opening, label  # for this view alone: a first answer should not wait for SciPy

    height, width = mask.shape
    small = mask[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))
    pieces, count = label(binary_opening(small, iterations=3) if small.size else small)
    if not count:  # thinner than the opening: take it as it is
        pieces, small = mask.astype(int), mask
    scale = 1 if small is mask else 2
    sizes = np.bincount(pieces.ravel())[1:]
    rows, columns = np.nonzero(pieces == sizes.argmax() + 1)
    return scale * (columns.mean() + 0.5), scale * (rows.mean() + 0.5), scale**2 * float(sizes.max())


Views: TypeAlias = Literal["one", "flips", "turns"]
View = tuple[bool, bool, bool]
"""Mirror left to right, mirror top to bottom, exchange rows and columns: in this order."""

_FLIPS: list[View] = [(left, top, False) for left in (False, True) for top in (False, True)]
VIEWS: dict[Views, list[View]] = {
    "one": _FLIPS[:1],
    "flips": _FLIPS,
    "turns": [*_FLIPS, *((left, top, True) for left, top, _ in _FLIPS)],
}


def turn(images: NDArray[Any], view: View, *, axes: tuple[int, int]) -> NDArray[Any]:
    """Return images as seen in a view; `axes` are those of height and width.

    >>> turn(np.array([[1, 2], [3, 4]]), (True, False, True), axes=(0, 1)).tolist()
    [[2, 4], [1, 3]]
    """
    left, top, exchange = view
    images = np.flip(images, axes[1]) if left else images
    images = np.flip(images, axes[0]) if top else images
    return np.swapaxes(images, *axes) if exchange else images


def turn_back(images: NDArray[Any], view: View, *, axes: tuple[int, int]) -> NDArray[Any]:
    """Undo `turn`.

    >>> turn_back(np.array([[2, 4], [1, 3]]), (True, False, True), axes=(0, 1)).tolist()
    [[1, 2], [3, 4]]
    """
    left, top, exchange = view
    images = np.swapaxes(images, *axes) if exchange else images
    return turn(images, (left, top, False), axes=axes)
