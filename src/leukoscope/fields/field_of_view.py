"""A round field of view on black, as a camera behind an eyepiece takes it: what lies outside it becomes empty glass."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .planes import Mask, Pixels

_BLACK = 24  # grey levels; JPEG copies of black are not quite black
_GLASS, _PALE = 150, 40  # grey levels: of glass's darkest channel at least, between its channels at most
_LEAST_VIEW, _LEAST_GLASS = 0.4, 0.25  # share of the picture that is not black, share of that which is glass
_FULL = 0.97  # share of the picture above which nothing lies outside
_RIM = 0.006  # of the longer side: width of the rim where light fades


def shows_view(pixels: NDArray[np.uint8]) -> bool:
    """Return whether a picture that is partly black shows a field of view, and not a cell cut out on black.

    Glass tells them apart: bright, hardly coloured, and much of it. No cell shows any.
    """
    every = pixels[::2, ::2].reshape(-1, 3)
    seen = every[every.max(axis=1) > _BLACK]
    glass = (seen.min(axis=1) > _GLASS) & (np.ptp(seen, axis=1) < _PALE)
    return bool(len(seen) > _LEAST_VIEW * len(every) and glass.mean() > _LEAST_GLASS)


def field_of_view(pixels: "Pixels") -> "Mask | None":
    """Return which pixels lie inside a round field of view; None where it fills the picture."""
    from .planes import brightest, eroded, parts

    black = brightest(pixels) <= _BLACK
    if black.mean() < 1 - _FULL or not shows_view(pixels):
        return None
    labels, _, _ = parts(black)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outside = np.isin(labels, border[border > 0])
    if outside.mean() < 1 - _FULL:
        return None
    return eroded(~outside, max(2.0, _RIM * max(pixels.shape[:2])))


def filled(pixels: "Pixels", view: "Mask") -> "Pixels":
    """Return the pixels with empty glass for all that lies outside the view."""
    from .planes import darkest

    inside = pixels[view]
    least = darkest(inside)
    glass = np.median(inside[least >= np.percentile(least, 90)], axis=0)
    return np.where(view[..., None], pixels, glass.astype(np.uint8))
