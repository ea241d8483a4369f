"""Segmentation: which pixels are white cells, and where one ends and the next begins.

Everything here looks only a few cell diameters around, so that a slide cut into overlapping tiles gives the cells of
the uncut slide. Lengths are in micrometres; `um` is the working scale, micrometres per pixel of the planes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure, segmentation

from .planes import Labels, Mask, Pixels, Plane, blur, closed, depth_of, disc, eroded, grown, opened, parts, resized
from .stain import Stain, nuclear_part, optical_density, purple

SMOOTH_UM = 0.32  # blur of the planes, standard deviation
MIN_NUCLEUS_UM2 = 14.0  # a platelet is smaller; the lobes of a granulocyte are counted together
MIN_CELL_UM2 = 24.0  # 5.5 µm across
MAX_CELL_UM2 = 900.0  # 34 µm across: clumps and smears of stain
_REACH_UM = 4.5  # cytoplasm farther than this from a nucleus is somebody else's
_RIM_UM = 0.6  # width of a blurred edge
_RIM_RISE = 0.33
_NECK = 0.86  # two maxima are one cell unless the neck between them is narrower than this share of the smaller one
_PEAK_UM = 2.0  # least radius of a cell


@dataclass(frozen=True)
class Masks:
    """A field at working scale, all (height, width): nucleus, colour of a white cell, and how much nuclear colour."""

    nuclei: Mask
    cell: Mask
    nuclear: Plane


def masks(pixels: Pixels, stain: Stain, *, um: float) -> Masks:
    """Return what is nucleus and what is coloured like a white cell."""
    density = blur(optical_density(pixels, stain.background), max(SMOOTH_UM / um, 0.6))
    nuclear = nuclear_part(density, red_cell=stain.red_cell, nucleus=stain.nucleus)
    return Masks((purple(density) > stain.purple) & (nuclear > stain.solid), nuclear > stain.cell, nuclear)


def white_cells(found: Masks, *, um: float) -> Labels:
    """Return the label of the white cell that each pixel belongs to, 0 for none; labels have gaps."""
    body = _body(found.cell, nuclei=found.nuclei, um=um)
    return _separate(_trimmed(body, found.nuclear, um=um), um=um)


def _body(cell: Mask, *, nuclei: Mask, um: float) -> Mask:
    """Return the pixels of white cells: coloured like them, near a nucleus, without holes and thin threads."""
    near = (cell | nuclei) & (depth_of(~nuclei) < _REACH_UM / um)
    return opened(_without_holes(closed(near, 0.6 / um), below=12.0 / um**2), 1.5 / um)


def _trimmed(body: Mask, nuclear: Plane, *, um: float) -> Mask:
    """Take the blurred rim off: where a dark cell meets glass, its edge lies where the colour has risen by a third."""
    rim = body & ~eroded(body, _RIM_UM / um)
    faint = nuclear < _RIM_RISE * np.asarray(cv2.dilate(nuclear, disc(_RIM_UM / um)))
    return opened(body & ~(rim & faint), 0.5 / um)


def _separate(body: Mask, *, um: float) -> Labels:
    """Cut touching cells apart along the necks of their common outline."""
    depth = blur(depth_of(body), 0.5 / um)
    basins = segmentation.watershed(-depth, _markers(depth, um=um), mask=body)  # type: ignore[no-untyped-call]
    return np.asarray(basins, np.int32)


def _markers(depth: Plane, *, um: float) -> Labels:
    """Return one marker for each cell: maxima of depth, joined where no neck lies between them."""
    highest = np.asarray(cv2.dilate(depth, disc(1.2 / um)))
    labels, _, middles = parts((depth >= highest) & (depth > _PEAK_UM / um / 2))
    owner = list(range(len(middles)))
    places = np.rint(middles).astype(int)
    height = depth[places[:, 1], places[:, 0]]
    # The widest necks first: a small maximum inside a neck joins one side only and cannot bridge two cells.
    for neck, first, second in sorted(_necks(places, depth=depth), reverse=True):
        one, other = _root(owner, first), _root(owner, second)
        if one != other and neck > _NECK * min(height[one], height[other]):
            owner[min(one, other, key=lambda label: height[label])] = max(one, other, key=lambda label: height[label])
    roots = np.array([_root(owner, label) for label in range(len(middles))], dtype=np.int32)
    return roots[labels]


def _necks(places: NDArray[np.int_], *, depth: Plane) -> Iterator[tuple[float, int, int]]:
    """Yield the narrowest depth between two maxima, and the two, for all that nearly touch; 0 is no maximum."""
    radius = depth[places[:, 1], places[:, 0]]
    for first in range(1, len(places)):
        gaps = np.hypot(*(places[first + 1 :] - places[first]).T)
        for step in np.flatnonzero(gaps < 1.1 * (radius[first] + radius[first + 1 :])):
            second = first + 1 + int(step)
            yield _narrowest(depth, places[first], places[second]), first, second


def _narrowest(depth: Plane, one: NDArray[np.int_], other: NDArray[np.int_]) -> float:
    """Return the least depth on the straight line between two places (column, row)."""
    steps = max(2, int(np.abs(one - other).max()) + 1)
    columns = np.rint(np.linspace(one[0], other[0], steps)).astype(int)
    rows = np.rint(np.linspace(one[1], other[1], steps)).astype(int)
    return float(depth[rows, columns].min())


def _root(owner: list[int], label: int) -> int:
    while owner[label] != label:
        label = owner[label]
    return label


def _without_holes(mask: Mask, *, below: float) -> Mask:
    """Fill holes of an area below the given one, in pixels."""
    labels, areas, _ = parts(~mask, connectivity=4)
    small = areas < below
    small[0] = False
    return np.asarray(mask | small[labels])


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
