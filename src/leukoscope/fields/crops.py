"""The two crops of a cell: one for the model of blasts, one for the model of cell types.

`cut_crop` is for the model of blasts: on black, at the scale of the training cells; its colours are brought to the
stain of the training cells later, which removes what distinguishes an eosinophil. `crops_for_types` is for the model
of types: glass becomes GLASS in every laboratory, and red cells, by which colours can be compared as sizes can, move
half way to one colour. The cell is surrounded by glass, so that a crop does not show which laboratory it comes from.
For cells that came cut out on black, `images.crop` makes the same crop.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..images.crop import FRAME_SIDE, FRAME_UM_PER_PX, GLASS, OFFSET, SIDE, UM_PER_PX, ColourTable, colour_table
from .cells import Field, FieldCell, preview
from .images import Mask, Pixels, blur, brightest, eroded, grown, opened, parts, rescaled
from .scale import RELEASE_UM_PER_PX
from .stain import optical_density, purple

CROP_SIDE = 450  # pixels, as in C-NMC 2019
_SUBPIXEL = 4  # binary digits after the point in OpenCV's polygon coordinates

RED_CELL = (0.207, 0.302, 0.182)
"""Optical density of red cells (natural logarithm), median of 2,800 fields of Acevedo et al. 2020."""
_HALF_WAY = 0.5  # of the way to RED_CELL: all of it turns the colour of nuclei
_GAIN = (0.5, 2.0)
_LEAST_RED = 100  # pixels of red cells in the preview


def cut_crop(field: Field, cell: FieldCell, *, side: int = CROP_SIDE, um_per_px: float = RELEASE_UM_PER_PX) -> Pixels:
    """Cut one cell out of its field: uint8 RGB, (side, side, 3), black around it, `um_per_px` micrometres a pixel."""
    zoom = field.scale.um_per_px / um_per_px
    left, top, right, bottom = cell.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    pixels, origin = _box_of(field.pixels, cell)
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


def _box_of(pixels: Pixels, cell: FieldCell) -> tuple[Pixels, NDArray[np.float64]]:
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


def crops_for_types(field: Field, cells: Sequence[FieldCell]) -> list[Pixels]:
    """Return for each cell of a field the crop for the model of types, uint8 RGB (SIDE, SIDE, 3)."""
    table = table_of_field(field)
    return [crop_of_frame(*frame(field, cell), table) for cell in cells]


def frame(field: Field, cell: FieldCell) -> tuple[Pixels, Mask]:
    """Return a cell with its surroundings in the colours of the field, (FRAME_SIDE, FRAME_SIDE, 3), and its mask."""
    left, top, right, bottom = cell.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    zoom = field.scale.um_per_px / FRAME_UM_PER_PX
    part, corner = _around(field.pixels, middle, reach=FRAME_SIDE / 2 / zoom + 4)
    pixels = rescaled(part, zoom) if zoom < 0.75 else part
    step = zoom * np.array([part.shape[1] / pixels.shape[1], part.shape[0] / pixels.shape[0]])
    move = np.column_stack([np.diag(step), FRAME_SIDE / 2 - (middle - corner) * zoom])
    glass = tuple(float(level) for level in field.stain.background)
    cut = cv2.warpAffine(
        pixels, move, (FRAME_SIDE, FRAME_SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=glass
    )
    mask = np.zeros((FRAME_SIDE, FRAME_SIDE), np.uint8)
    outline = (cell.outline - middle) * zoom + FRAME_SIDE / 2
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32)], (1,), shift=4)
    return np.asarray(cut, np.uint8), np.asarray(mask > 0)


def _around(pixels: Pixels, middle: NDArray[np.float64], *, reach: float) -> tuple[Pixels, NDArray[np.float64]]:
    """Return the pixels around a place, and where their corner lies in the field."""
    left, top = np.maximum(0, np.floor(middle - reach)).astype(int)
    right, bottom = np.ceil(middle + reach).astype(int)
    return pixels[top:bottom, left:right], np.array([left, top], float)


def table_of_field(field: Field) -> ColourTable:
    """Return what brings the colours of a field to those of crops."""
    red = np.asarray(_red_cells(field))
    gain = np.clip(np.asarray(RED_CELL) / np.maximum(red, 0.03), *_GAIN) ** _HALF_WAY
    return colour_table(field.stain.background, gain)


def crop_of_frame(pixels: Pixels, mask: Mask, table: ColourTable) -> Pixels:
    """Return the crop that the network sees of a frame: recoloured, shrunk, glass around the cell."""
    zoom = FRAME_UM_PER_PX / UM_PER_PX
    shift = (SIDE / 2 - 0.5) - zoom * (FRAME_SIDE / 2 - 0.5)
    return transform_frame(pixels, mask, table, np.array([[zoom, 0, shift], [0, zoom, shift]]))


def transform_frame(
    pixels: Pixels, mask: Mask, table: ColourTable, move: NDArray[np.float64], *, grow: float = 0.0
) -> Pixels:
    """Return the crop under an affine transform (2, 3); `grow` shifts the outline, 0.3 is about .1 µm outwards."""
    zoom = float(np.sqrt(abs(np.linalg.det(move[:, :2]))))
    if zoom < 0.9:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.405 / zoom), np.uint8)
    levels = np.rint(np.clip(table, 0, 255)).astype(np.uint8)[None]
    recoloured = cv2.LUT(pixels, np.ascontiguousarray(levels))
    crop = cv2.warpAffine(recoloured, move, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=(GLASS,) * 3)
    cover = cv2.warpAffine(blur(mask.astype(np.float32), 2.0), move, (SIDE, SIDE))
    inside = blur((cover > 0.5 - grow).astype(np.float32), 0.7)[..., None]
    return np.asarray(np.clip(crop * inside + GLASS * (1 - inside) + 0.5, 0, 255), np.uint8)


def granule_colours(crop: Pixels) -> NDArray[np.float64] | None:
    """Return twelve optical densities by which eosinophils differ from neutrophils, of a crop by `crop_of_frame`.

    The mean of cytoplasm and of nucleus (red, green, blue each), how much more green than red the cytoplasm absorbs
    (ninth decile, median), blue less red, and the spread of its grain (red, green, blue). None where a crop shows too
    little of either.
    """
    density = np.log((GLASS + OFFSET) / (crop.astype(np.float64) + OFFSET))
    labels, areas, _ = parts(opened(density.max(axis=2) > _STAINED, 1))
    if len(areas) < 2:
        return None
    cell = np.asarray(labels == 1 + int(np.argmax(areas[1:])))
    red = np.asarray(cv2.GaussianBlur(density[..., 0], (0, 0), 1.0))
    nucleus = np.asarray(cell & (red > _between(red[cell])))
    cytoplasm = np.asarray(cell & ~grown(nucleus, 2))
    inner = eroded(cytoplasm, 2)
    cytoplasm = inner if inner.sum() > 2 * _LEAST_SEEN else cytoplasm
    if min(cytoplasm.sum(), nucleus.sum()) < _LEAST_SEEN:
        return None
    around, inside = density[cytoplasm], density[nucleus]
    grain = (density - cv2.GaussianBlur(density, (0, 0), 2.0))[cytoplasm]
    eosin = around[:, 1] - around[:, 0]
    return np.array(
        [
            *around.mean(axis=0),
            *inside.mean(axis=0),
            np.percentile(eosin, 90),
            np.median(eosin),
            (around[:, 2] - around[:, 0]).mean(),
            *grain.std(axis=0),
        ]
    )


_STAINED = 0.08  # optical density
_LEAST_SEEN = 30  # pixels


def _between(values: NDArray[np.float64]) -> float:
    """Return the value that parts some numbers into two groups as unlike as can be (Otsu 1979)."""
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    total = np.cumsum(ordered)
    low, high = total[:-1] / below, (total[-1] - total[:-1]) / (len(ordered) - below)
    at = int(np.argmax(below * (len(ordered) - below) * (low - high) ** 2))
    return float((ordered[at] + ordered[at + 1]) / 2)


def _red_cells(field: Field) -> tuple[float, ...]:
    """Return the optical density of what is stained and lies far from nuclei; RED_CELL where there is too little."""
    density = blur(optical_density(preview(field.pixels), field.stain.background), 1.2)
    nuclei = purple(density) > field.stain.purple
    away = (brightest(density) > 0.15) & ~grown(nuclei, max(5, round(0.03 * max(nuclei.shape))))
    if away.sum() <= _LEAST_RED:
        return RED_CELL
    return tuple(float(level) for level in np.median(density[away], axis=0))
