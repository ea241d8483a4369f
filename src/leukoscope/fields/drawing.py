"""A field with its cells outlined and numbered, for a person to check."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..files import write_whole
from .cells import Field, FieldCell
from .planes import Pixels, rescaled

PLAIN = (0, 140, 60)  # RGB
FLAGGED = (200, 0, 160)
LONGEST = 1600  # pixels; larger fields are drawn smaller


def draw_outlines(
    field: Field, cells: Sequence[FieldCell], *, colours: Mapping[int, tuple[int, int, int]] | None = None
) -> Pixels:
    """Return the field as uint8 RGB with outlines and numbers; `colours` by cell number overrides the default.

    Without colours, cells with flags stand out in magenta.
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
    with write_whole(path) as beside:
        Image.fromarray(np.ascontiguousarray(pixels)).save(beside, format="PNG", compress_level=1)
