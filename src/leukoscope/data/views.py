"""Test-time augmentation: the same crop mirrored and turned, and its maps turned back."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
