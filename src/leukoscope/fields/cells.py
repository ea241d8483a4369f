"""Find the white cells of a field: where they are, how large and how sharp; flag the less reliable ones; draw them.

Everything here depends only on a neighbourhood of a few cell diameters, so that a slide cut into overlapping tiles
gives the cells of the uncut slide. Lengths are in micrometres; `um` is the working scale, micrometres per pixel of the
planes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import measure, segmentation

from ..errors import ImageError
from ..files import atomic_write
from .images import (
    Labels,
    Mask,
    Pixels,
    Plane,
    blur,
    brightest,
    closed,
    depth_of,
    disc,
    eroded,
    field_of_view,
    filled,
    grown,
    opened,
    parts,
    read_field,
    rescaled,
    resized,
    slope,
)
from .scale import Scale, estimate_scale
from .stain import Stain, learn_stain, nuclear_part, optical_density, purple, why_not_a_smear

SMOOTH_UM = 0.32  # blur of the planes, standard deviation
MIN_NUCLEUS_UM2 = 14.0  # a platelet is smaller; the lobes of a granulocyte are added up
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
    """Yield the narrowest depth between two maxima, and the two, for all that nearly touch; 0 is not a maximum."""
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
class DetectedCell:
    """One white cell as a detector sees it; x and y in pixels of the pixels it was given."""

    outline: Outline
    nucleus_share: float  # of the cell's area
    touching: bool  # another white cell begins where this one ends
    nucleus_round: float = 1.0  # share of the nucleus that the largest circle inside it takes; lobes make it small


class Detector(Protocol):
    """Anything that finds white cells."""

    name: str

    def grid(self, um_per_px: float) -> int:
        """Return the step in pixels on which windows must begin so that a tile sees what the whole image shows."""
        ...

    def __call__(self, pixels: Pixels, stain: Stain, *, um_per_px: float) -> list[DetectedCell]:
        """Return the white cells in an image, in no particular order."""
        ...


class ClassicalDetector:
    """Colour separation, region growing and watershed; knows no training set."""

    name = "classical-1"
    working_um = 0.15  # micrometres per pixel at which outlines are drawn

    def grid(self, um_per_px: float) -> int:
        """Return the number of source pixels that make one working pixel."""
        return max(1, round(self.working_um / um_per_px))

    def __call__(self, pixels: Pixels, stain: Stain, *, um_per_px: float) -> list[DetectedCell]:
        """Return the white cells in an image."""
        working, factor = self.at_working_scale(pixels, um_per_px)
        um = um_per_px * factor
        found = masks(working, stain, um=um)
        labels = white_cells(found, um=um)
        return [
            _describe(labels, label, where, nuclei=found.nuclei, factor=factor)
            for label, where in enumerate(ndimage.find_objects(labels), start=1)
            if where is not None and _is_cell(labels[where] == label, nuclei=found.nuclei[where], um=um)
        ]

    def at_working_scale(self, pixels: Pixels, um_per_px: float) -> tuple[Pixels, float]:
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


def _describe(labels: Labels, label: int, where: tuple[slice, slice], *, nuclei: Mask, factor: float) -> DetectedCell:
    mask = labels[where] == label
    top, left = where[0].start, where[1].start
    contours = measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    contour = max(contours, key=len)[:-1, ::-1]
    # One pixel of padding, then from the middle of a pixel to its corner.
    outline = (contour + np.array([left - 0.5, top - 0.5])) * factor
    nucleus = mask & nuclei[where]
    share = float(nucleus.sum() / mask.sum())
    return DetectedCell(outline, share, _touches(labels, label, where), _roundness(nucleus))


def _roundness(nucleus: Mask) -> float:
    """Return the share of a nucleus that the largest circle inside it takes: of three lobes at most a third."""
    radius = float(depth_of(np.pad(nucleus, 1)).max())  # holes stay: a ring is not a round nucleus
    return min(1.0, float(np.pi * radius**2 / max(nucleus.sum(), 1)))


def _touches(labels: Labels, label: int, where: tuple[slice, slice]) -> bool:
    """Return whether more than a corner of the cell lies against another cell."""
    rows, columns = (slice(max(0, side.start - 2), side.stop + 2) for side in where)
    around = labels[rows, columns]
    own = around == label
    rim = grown(own, 1) & ~own
    return bool(((around > 0) & rim).sum() > 0.04 * rim.sum())


PREVIEW = 400  # longer side, in pixels, of the picture from which the stain is learned
CROP_UM = 27.0  # side of the release's 450-pixel frame


@dataclass(frozen=True)
class Field:
    """One smear field, ready for cells to be sought in it. `pixels` is uint8 RGB, (height, width, 3)."""

    name: str
    pixels: Pixels
    stain: Stain
    scale: Scale
    view: Mask | None = None
    """Where a round field of view shows the smear, (height, width); None where it fills the picture."""
    notes: tuple[str, ...] = ()
    """What was done to the values of the file, and what of it was not believed."""


@dataclass(frozen=True)
class FieldCell:
    """One white cell of a field. Lengths in pixels of the field (x right, y down) unless the name states otherwise."""

    number: int
    box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
    centre: tuple[float, float]  # x, y
    outline: Outline
    area_um2: float
    nucleus_um2: float
    sharpness: float  # steepest tenth of the edges per µm, as a share of the cell's contrast
    flags: tuple[str, ...]  # among FLAGS
    nucleus_round: float = 1.0
    """Share of the nucleus that the largest circle inside it takes; 1 where that was not measured."""


FLAGS = ("cut off", "touching", "out of focus", "ragged", "too large")

# On 31 fields of BCCD: median 0.76 as taken, 0.49 after a blur of 0.5 µm, 0.33 after 1 µm, 0.26 after 1.5 µm.
BLURRED = 0.32
_EDGE_UM, _EDGE_STEP_UM = 0.6, 0.04  # how far an outline may be moved to its edge, and in what steps
_CREST = 0.3  # of the steepest fall across an outline, which may be that of the nucleus
_RAGGED = 0.86  # area over area of the convex hull; smudged cells and clumps of stain fall below


def open_field(
    path: Path, *, um_per_px: float | None = None, shared: Callable[[tuple[int, int]], Scale | None] | None = None
) -> Field:
    """Read a field, learn its stain and settle its scale: from the user, else the file, else the red cells.

    shared: gives for width and height the scale of fields like this one, or None; its own is then not measured.

    Raises:
        ImageError: the file cannot be read, or is not a stained smear; the message states which.
    """
    image = read_field(path)
    known = Scale.exact(um_per_px, source="user") if um_per_px else None
    if known is None and image.um_per_px is not None:
        known = Scale.exact(image.um_per_px, source="file")
    if known is None and shared is not None:
        height, width = image.pixels.shape[:2]
        known = shared((width, height))
    return replace(field_of(image.pixels, name=path.name, scale=known), notes=image.notes)


def field_of(pixels: Pixels, *, name: str, scale: Scale | None = None) -> Field:
    """Make a field of pixels: learn its stain, and estimate its scale unless it is given.

    Raises:
        ImageError: these pixels are not a stained smear, or show nothing whose size is known.
    """
    if (view := field_of_view(pixels)) is not None:
        pixels = filled(pixels, view)
    small = preview(pixels)
    stain = learn_stain(small)
    if (reason := why_not_a_smear(small, stain)) is not None:
        raise ImageError(reason, path=name)
    scale = scale or estimate_scale(pixels, stain)
    if scale is None:
        raise ImageError(
            "shows no red cell and no nucleus to take the scale from. Give it with --um-per-px.", path=name
        )
    return Field(name, pixels, stain, scale, view)


def preview(pixels: Pixels) -> Pixels:
    """Return the pixels shrunk or enlarged so that the longer side has PREVIEW pixels."""
    return rescaled(pixels, PREVIEW / max(pixels.shape[:2]))


def find_cells(field: Field, *, detector: Detector | None = None) -> list[FieldCell]:
    """Return the white cells of a field, numbered from 1 in reading order; an empty list when there are none."""
    detector = detector or ClassicalDetector()
    found = detector(field.pixels, field.stain, um_per_px=field.scale.um_per_px)
    return numbered([describe(one, field) for one in found])


def numbered(cells: list[FieldCell]) -> list[FieldCell]:
    """Return the cells in reading order (rows of their middles, then columns), numbered from 1."""
    ordered = sorted(cells, key=lambda cell: (round(cell.centre[1]), cell.centre[0]))
    return [replace(cell, number=number) for number, cell in enumerate(ordered, start=1)]


def describe(found: DetectedCell, field: Field) -> FieldCell:
    """Measure one found cell in its field."""
    um = field.scale.um_per_px
    outline = _on_its_edge(smooth(found.outline, reach=0.35 / um), field)
    height, width = field.pixels.shape[:2]
    left, top = np.floor(found.outline.min(axis=0)).astype(int)
    right, bottom = np.ceil(found.outline.max(axis=0)).astype(int)
    area, centre = _area_and_centre(outline)
    box = (max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom)))
    sharpness = _sharpness(field, box=box, outline=outline)
    cell = FieldCell(
        0, box, centre, outline, area * um**2, found.nucleus_share * area * um**2, sharpness, (), found.nucleus_round
    )
    return replace(cell, flags=_flags(cell, field, touching=found.touching))


def drawn_cell(outline: Outline, field: Field) -> FieldCell:
    """Measure a cell that a person has outlined as those that are found: its nucleus by the same planes.

    outline: (points, 2), x and y in pixels of the field.
    """
    um, margin = field.scale.um_per_px, 2.0 / field.scale.um_per_px
    height, width = field.pixels.shape[:2]
    left, top = np.clip(np.floor(outline.min(axis=0) - margin), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(outline.max(axis=0) + margin), (left + 1, top + 1), (width, height)).astype(int)
    working, factor = ClassicalDetector().at_working_scale(field.pixels[top:bottom, left:right], um)
    mask = np.zeros(working.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint((outline - (left, top)) / factor - 0.5).astype(np.int32)], (1,))
    nucleus = masks(working, field.stain, um=um * factor).nuclei & mask.astype(bool)
    share = float(nucleus.sum() / max(mask.sum(), 1))
    return describe(DetectedCell(outline, share, False, _roundness(nucleus)), field)


def smooth(outline: Outline, *, reach: float) -> Outline:
    """Return a closed outline without its staircase; `reach` is the standard deviation along it, in its own units."""
    steps = np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1)
    spread = reach / max(float(steps.mean()), 1e-6)
    if spread < 0.5 or len(outline) < 8:
        return outline
    turn = np.fft.fftfreq(len(outline))
    damped = np.fft.fft(outline, axis=0) * np.exp(-2 * (np.pi * turn * spread) ** 2)[:, None]
    return np.asarray(np.fft.ifft(damped, axis=0).real)


def _on_its_edge(outline: Outline, field: Field) -> Outline:
    """Return an outline, all of it moved in or out to the outermost place where the cell's rim is steep.

    Blurred planes draw the outline where colour begins, which is beyond the edge: 5 to 11 % too large on cells of known
    size. One step for the whole outline, the steepest of the median profile across it, so that a neighbour or a granule
    does not decide; the outermost crest, so that the edge of the nucleus does not.
    """
    um = field.scale.um_per_px
    steps = np.arange(-_EDGE_UM, _EDGE_UM / 3, _EDGE_STEP_UM) / um  # inwards and a little outwards, pixels
    along = np.roll(outline, -1, axis=0) - np.roll(outline, 1, axis=0)
    outwards = np.column_stack([along[:, 1], -along[:, 0]]) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    x, y = outline.T
    if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0:
        outwards = -outwards
    corner = np.maximum(np.floor(outline.min(axis=0) - 2 * _EDGE_UM / um - 2), 0).astype(int)
    end = np.ceil(outline.max(axis=0) + 2 * _EDGE_UM / um + 2).astype(int)
    part = field.pixels[corner[1] : end[1], corner[0] : end[0]]
    dark = blur(brightest(optical_density(part, field.stain.background)), max(0.12 / um, 0.5))
    places = (outline - corner - 0.5)[:, None] + outwards[:, None] * steps[None, :, None]
    inside = ((places >= 0) & (places <= np.array(dark.shape[::-1]) - 1)).all(axis=(1, 2))
    if inside.sum() < len(outline) / 3:
        return outline
    seen = places[inside].astype(np.float32)
    profile = np.median(cv2.remap(dark, seen[..., 0], seen[..., 1], cv2.INTER_LINEAR), axis=0)
    fall = profile[:-2] - profile[2:]
    crests = np.flatnonzero((fall[1:-1] >= fall[:-2]) & (fall[1:-1] >= fall[2:]) & (fall[1:-1] > _CREST * fall.max()))
    return outline + outwards * steps[2 + int(crests[-1])] if len(crests) else outline


def _area_and_centre(outline: Outline) -> tuple[float, tuple[float, float]]:
    """Return area and centroid of a polygon."""
    x, y = (outline - outline[0]).T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    double = float(cross.sum())
    if abs(double) < 1e-9:
        return 0.0, (float(outline[:, 0].mean()), float(outline[:, 1].mean()))
    middle_x = float(((x + np.roll(x, -1)) * cross).sum() / (3 * double) + outline[0, 0])
    middle_y = float(((y + np.roll(y, -1)) * cross).sum() / (3 * double) + outline[0, 1])
    return abs(double) / 2, (middle_x, middle_y)


def _sharpness(field: Field, *, box: tuple[int, int, int, int], outline: Outline) -> float:
    """Return how steep the cell's edges are: change of density per micrometre over the cell's range of density."""
    um, margin = field.scale.um_per_px, round(1.0 / field.scale.um_per_px) + 1
    left, top, right, bottom = box
    rows, columns = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    density = optical_density(field.pixels[rows, columns], field.stain.background)
    green = blur(density[..., 1], max(0.15 / um, 0.6))
    inside = _filled(outline - (columns.start, rows.start), shape=(green.shape[0], green.shape[1]), grow=margin // 2)
    low, high = np.percentile(green[inside], (5, 95))
    steep = np.hypot(*slope(green))
    return float(np.percentile(steep[inside], 90) / um / max(float(high - low), 0.05))


def _filled(outline: Outline, *, shape: tuple[int, int], grow: int) -> Mask:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    return grown(mask > 0, grow)


def _flags(cell: FieldCell, field: Field, *, touching: bool) -> tuple[str, ...]:
    height, width = field.pixels.shape[:2]
    um = field.scale.um_per_px
    rim = 0.25 / um + 1
    left, top, right, bottom = cell.box
    hull = cv2.contourArea(cv2.convexHull(cell.outline.astype(np.float32))) * um**2
    true = {
        "cut off": left < rim or top < rim or right > width - rim or bottom > height - rim or _leaves_view(cell, field),
        "touching": touching,
        "out of focus": cell.sharpness < BLURRED,
        "ragged": cell.area_um2 < _RAGGED * hull,
        "too large": max(right - left, bottom - top) * um > CROP_UM,
    }
    return tuple(name for name in FLAGS if true[name])


def _leaves_view(cell: FieldCell, field: Field) -> bool:
    """Return whether a cell reaches the rim of a round field of view."""
    if field.view is None:
        return False
    left, top, right, bottom = cell.box
    margin = round(0.5 / field.scale.um_per_px) + 2
    rows, columns = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    near = field.view[rows, columns]
    inside = _filled(cell.outline - (columns.start, rows.start), shape=(near.shape[0], near.shape[1]), grow=margin)
    return bool((inside & ~near).any())


PLAIN = (0, 140, 60)  # RGB
FLAGGED = (200, 0, 160)
LONGEST = 1600  # pixels; larger fields are drawn smaller


def draw_outlines(
    field: Field, cells: Sequence[FieldCell], *, colours: Mapping[int, tuple[int, int, int]] | None = None
) -> Pixels:
    """Return the field as uint8 RGB with outlines and numbers; `colours` by cell number overrides the default.

    Without colours, cells with flags are drawn in magenta.
    """
    zoom = min(1.0, LONGEST / max(field.pixels.shape[:2]))
    picture = rescaled(field.pixels, zoom).copy()
    thick = max(1, round(max(picture.shape[:2]) / 600))
    for cell in cells:
        colour = (colours or {}).get(cell.number, FLAGGED if cell.flags else PLAIN)
        points = np.rint((cell.outline * zoom - 0.5) * 16).astype(np.int32)
        cv2.polylines(picture, [points], True, colour, thick, cv2.LINE_AA, shift=4)
        _number(picture, cell, zoom=zoom, colour=colour)
    return np.asarray(picture, np.uint8)


def draw_marks(
    thumbnail: Pixels,
    size: tuple[int, int],
    cells: Sequence[FieldCell],
    *,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> Pixels:
    """Return a slide's thumbnail with a ring round every cell; `size` is width and height of the slide in pixels."""
    picture = thumbnail.copy()
    zoom = max(picture.shape[:2]) / max(size)
    for cell in cells:
        middle = (round(cell.centre[0] * zoom), round(cell.centre[1] * zoom))
        radius = max(3, round((cell.box[2] - cell.box[0]) * zoom))
        colour = (colours or {}).get(cell.number, FLAGGED if cell.flags else PLAIN)
        cv2.circle(picture, middle, radius, colour, 1, cv2.LINE_AA)
    return picture


def _number(picture: Pixels, cell: FieldCell, *, zoom: float, colour: tuple[int, int, int]) -> None:
    """Write the number above the cell, or below where the picture ends."""
    size = max(0.4, max(picture.shape[:2]) / 1600)
    (wide, high), _ = cv2.getTextSize(text := str(cell.number), cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = int(np.clip(cell.centre[0] * zoom - wide / 2, 0, picture.shape[1] - wide))
    above = cell.box[1] * zoom - 3
    base = int(above if above > high else min(cell.box[3] * zoom + high + 3, picture.shape[0] - 2))
    for ink, thick in (((255, 255, 255), 3), (colour, 1)):
        cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size, ink, thick, cv2.LINE_AA)


def write_png(path: Path, pixels: Pixels) -> None:
    """Write pixels and nothing else: no tag of the source goes along."""
    with atomic_write(path) as beside:
        Image.fromarray(np.ascontiguousarray(pixels)).save(beside, format="PNG", compress_level=1)
