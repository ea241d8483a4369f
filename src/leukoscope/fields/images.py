"""Read a smear field: its pixels and its scale, and nothing about the patient."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..images.read import read_picture
from ..images.scale import stated_scale
from .planes import Pixels

MAX_PIXELS = 100_000_000  # more is read by tiles, as a slide
MIN_SIDE = 64  # pixels; below it no cell stands whole


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
        ImageError: the file is missing, ends early, is no image, is black and white, too small or too large.
    """
    picture = read_picture(path, most_pixels=MAX_PIXELS, least_side=MIN_SIDE)
    stated = stated_scale(path)
    return FieldImage(picture.pixels, stated.um_per_px, tuple(note for note in (*picture.notes, stated.note) if note))


def read_pixels(path: Path) -> Pixels:
    """Return a field as 8-bit RGB, (height, width, 3).

    Raises:
        ImageError: see `read_field`.
    """
    return read_picture(path, most_pixels=MAX_PIXELS, least_side=MIN_SIDE).pixels


def scale_in_file(path: Path) -> float | None:
    """Return the micrometres per pixel that the file states, or None where it states none that a microscope gives.

    Raises:
        ImageError: it cannot be opened as an image.
    """
    try:
        return stated_scale(path).um_per_px
    except FileNotFoundError:
        raise ImageError("does not exist. Check the path.", path=path) from None
