"""The detector's seam: pixels, stain and scale go in, outlines come out. The classical one stands here by default."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from .planes import Labels, Mask, Pixels, grown, resized
from .segmentation import MAX_CELL_UM2, MIN_CELL_UM2, MIN_NUCLEUS_UM2, masks, white_cells
from .stain import Stain

Outline = NDArray[np.float64]  # (points, 2): x and y in pixels of the image, closed


@dataclass(frozen=True)
class Found:
    """One white cell as a detector sees it; x and y in pixels of the pixels it was given."""

    outline: Outline
    nucleus_share: float  # of the cell's area
    touching: bool  # another white cell begins where this one ends


class Detector(Protocol):
    """Anything that finds white cells."""

    name: str

    def grid(self, um_per_px: float) -> int:
        """Return the step in pixels on which windows must begin so that a tile sees what the whole image shows."""
        ...

    def __call__(self, pixels: Pixels, stain: Stain, *, um_per_px: float) -> list[Found]:
        """Return the white cells in an image, in no particular order."""
        ...


class ClassicalDetector:
    """Colour separation, region growing and watershed; knows no training set."""

    name = "classical-1"
    working_um = 0.15  # micrometres per pixel at which outlines are drawn

    def grid(self, um_per_px: float) -> int:
        """Return the number of source pixels that make one working pixel."""
        return max(1, round(self.working_um / um_per_px))

    def __call__(self, pixels: Pixels, stain: Stain, *, um_per_px: float) -> list[Found]:
        """Return the white cells in an image."""
        working, factor = self._working(pixels, um_per_px)
        um = um_per_px * factor
        found = masks(working, stain, um=um)
        labels = white_cells(found, um=um)
        return [
            _describe(labels, label, where, nuclei=found.nuclei, factor=factor)
            for label, where in enumerate(ndimage.find_objects(labels), start=1)
            if where is not None and _is_cell(labels[where] == label, nuclei=found.nuclei[where], um=um)
        ]

    def _working(self, pixels: Pixels, um_per_px: float) -> tuple[Pixels, float]:
        """Return the pixels at working scale and how many source pixels one of them is.

        Whole factors only: then the working pixels of a tile are those of the slide.
        """
        height, width = pixels.shape[:2]
        shrink = self.grid(um_per_px)
        if shrink > 1:
            high, wide = height // shrink, width // shrink
            cut = pixels[: high * shrink, : wide * shrink]
            return resized(cut, wide, high), float(shrink)
        grow = min(6, max(1, round(um_per_px / self.working_um)))
        if grow > 1:
            return resized(pixels, width * grow, height * grow), 1 / grow
        return pixels, 1.0


def _is_cell(mask: Mask, *, nuclei: Mask, um: float) -> bool:
    area, nucleus = mask.sum() * um**2, (mask & nuclei).sum() * um**2
    return bool(MIN_CELL_UM2 <= area <= MAX_CELL_UM2 and nucleus >= MIN_NUCLEUS_UM2)


def _describe(labels: Labels, label: int, where: tuple[slice, slice], *, nuclei: Mask, factor: float) -> Found:
    mask = labels[where] == label
    top, left = where[0].start, where[1].start
    contours = measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    contour = max(contours, key=len)[:-1, ::-1]
    # One pixel of padding, then from the middle of a pixel to its corner.
    outline = (contour + np.array([left - 0.5, top - 0.5])) * factor
    share = float((mask & nuclei[where]).sum() / mask.sum())
    return Found(outline, share, _touches(labels, label, where))


def _touches(labels: Labels, label: int, where: tuple[slice, slice]) -> bool:
    """Return whether more than a corner of the cell lies against another cell."""
    rows, columns = (slice(max(0, side.start - 2), side.stop + 2) for side in where)
    around = labels[rows, columns]
    own = around == label
    rim = grown(own, 1) & ~own
    return bool(((around > 0) & rim).sum() > 0.04 * rim.sum())
