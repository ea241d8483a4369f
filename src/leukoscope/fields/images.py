"""A smear field: its arrays, how it is read, and the round field of view of an eyepiece. Nothing about the patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..images.crop import BLACK, shows_view
from ..images.read import read_picture
from ..images.scale import stated_scale

Level = TypeVar("Level", np.uint8, np.float32)
Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Plane = NDArray[np.float32]  # (height, width), or (height, width, 3) for optical density
Mask = NDArray[np.bool_]  # (height, width)
Labels = NDArray[np.int32]  # (height, width); 0 is nothing


def blur(plane: Plane, spread: float) -> Plane:
    """Return the plane after a Gaussian of the given standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), spread), np.float32)


def brightest(pixels: NDArray[Level]) -> NDArray[Level]:
    """Return the largest of the three channels; three times as fast as max over the last axis."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def darkest(pixels: NDArray[Level]) -> NDArray[Level]:
    """Return the smallest of the three channels."""
    return np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def slope(plane: Plane) -> tuple[Plane, Plane]:
    """Return the change per pixel along x and along y."""
    across, down = (cv2.Sobel(plane, cv2.CV_32F, *order) / 8 for order in ((1, 0), (0, 1)))
    return np.asarray(across, np.float32), np.asarray(down, np.float32)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the pixels at another size: averaged over areas when smaller, cubic when larger."""
    if (height, width) == pixels.shape[:2]:
        return pixels
    how = cv2.INTER_AREA if height < pixels.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)


def rescaled(pixels: Pixels, factor: float) -> Pixels:
    """Return the pixels enlarged (factor above 1) or shrunk, rounded to whole pixels."""
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return resized(pixels, width, height)


def disc(radius: float) -> NDArray[np.uint8]:
    """Return a filled circle of at least one pixel's radius, for morphology."""
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def grown(mask: Mask, radius: float) -> Mask:
    """Return the mask dilated by a disc."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc(radius)) > 0)


def eroded(mask: Mask, radius: float) -> Mask:
    """Return the mask eroded by a disc; the picture is assumed to continue beyond its border."""
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    return np.asarray(cv2.erode(padded, disc(radius))[1:-1, 1:-1] > 0)


def opened(mask: Mask, radius: float) -> Mask:
    """Return the mask without what is thinner than a disc."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc(radius)) > 0)


def closed(mask: Mask, radius: float) -> Mask:
    """Return the mask with gaps thinner than a disc filled."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc(radius)) > 0)


def depth_of(mask: Mask) -> Plane:
    """Return how far each pixel lies inside the mask, in pixels."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def parts(mask: Mask, *, connectivity: int = 8) -> tuple[Labels, NDArray[np.int_], NDArray[np.float64]]:
    """Return labels, areas and middles (x, y) of the connected parts; index 0 is what lies outside."""
    _, labels, boxes, middles = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    areas = np.asarray(boxes)[:, cv2.CC_STAT_AREA].astype(int)
    return np.asarray(labels, np.int32), areas, np.asarray(middles, np.float64)


MIN_SIDE = 64  # pixels; below it no whole cell fits


@dataclass(frozen=True)
class FieldImage:
    """What is read of the file of a field."""

    pixels: Pixels
    um_per_px: float | None
    """What the file states, where a microscope may have given it."""
    notes: tuple[str, ...]
    """What was done to depth and colours, and what was not believed of the scale."""


def read_field(path: Path) -> FieldImage:
    """Read pixels and scale of a field.

    Raises:
        ImageError: the file is missing, ends early, is not an image, is black and white, too small or too large.
    """
    picture = read_picture(path, least_side=MIN_SIDE)
    stated = stated_scale(path)
    return FieldImage(picture.pixels, stated.um_per_px, tuple(note for note in (*picture.notes, stated.note) if note))


def read_pixels(path: Path) -> Pixels:
    """Return a field as 8-bit RGB, (height, width, 3).

    Raises:
        ImageError: see `read_field`.
    """
    return read_picture(path, least_side=MIN_SIDE).pixels


def scale_in_file(path: Path) -> float | None:
    """Return the micrometres per pixel that the file states, or None where it states none that a microscope gives.

    Raises:
        ImageError: it cannot be opened as an image.
    """
    try:
        return stated_scale(path).um_per_px
    except FileNotFoundError:
        raise ImageError("does not exist. Check the path.", path=path) from None


_FULL = 0.97  # share of the picture above which nothing lies outside
_RIM = 0.006  # of the longer side: width of the rim where light fades


def field_of_view(pixels: "Pixels") -> "Mask | None":
    """Return which pixels lie inside a round field of view; None where it fills the picture."""

    black = brightest(pixels) <= BLACK
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

    inside = pixels[view]
    least = darkest(inside)
    glass = np.median(inside[least >= np.percentile(least, 90)], axis=0)
    return np.where(view[..., None], pixels, glass.astype(np.uint8))
