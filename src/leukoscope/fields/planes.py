"""The arrays of this room, and OpenCV's operations on them with their types kept."""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.uint8, np.float32)
Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Plane = NDArray[np.float32]  # (height, width), or (height, width, 3) for optical density
Mask = NDArray[np.bool_]  # (height, width)
Labels = NDArray[np.int32]  # (height, width); 0 is nothing


def blur(plane: Plane, spread: float) -> Plane:
    """Return the plane after a Gaussian of the given standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), spread), np.float32)


def brightest(pixels: NDArray[Number]) -> NDArray[Number]:
    """Return the largest of the three channels; three times as fast as max over the last axis."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def darkest(pixels: NDArray[Number]) -> NDArray[Number]:
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
    """Return the mask eroded by a disc; the picture is taken to go on beyond its border."""
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
