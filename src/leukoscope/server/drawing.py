"""What the pages show of stored pictures: thumbnails, crops as the model saw them, heat maps, fields."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Prepare
from ..errors import ImageError
from ..images.crop import prepare_crop
from ..images.read import RGB, read_image
from .refusals import Refusal

_AGAINST, _FOR = (0, 114, 178), (230, 120, 0)  # blue and orange of Okabe and Ito 2008, as in the reports
_STRONGEST = 0.8  # opacity of certainty: the cell must stay visible under it
_HEAT_SIDE = 240  # pixels
_QUALITY = 88


def thumbnail(path: Path, *, side: int) -> bytes:
    """Return a picture as JPEG that fits a square of `side` pixels."""
    image = open_stored(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg(image)


def region(path: Path, *, side: int, box: tuple[int, int, int, int] | None) -> bytes:
    """Return a picture, or the box (left, top, width, height) of it, as JPEG of at most `side` pixels a side."""
    image = open_stored(path)
    if box:
        left, top, width, height = box
        image = image.crop((left, top, left + width, top + height))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg(image)


def crop_seen(path: Path, prepare: Prepare, *, side: int) -> bytes:
    """Return the square that the model saw of a picture, at `side` pixels, so that the heat map lies over it."""
    try:
        return jpeg(Image.fromarray(prepare_crop(read_image(path), prepare.model_copy(update={"size": side}))))
    except ImageError:
        return thumbnail(path, side=side)  # nothing was seen of it; it is shown as it is


def heat(evidence: NDArray[np.float16], *, temperature: float, signed: bool) -> bytes:
    """Return evidence (height, width) as a transparent PNG: orange for the class, blue (when `signed`) against it.

    A place is as strong as the model would be sure if the whole crop looked like it: 0 at even chances, full at
    certainty.
    """
    sure = np.tanh(evidence.astype(np.float64) / temperature)  # = 2 p - 1 with two classes, as the map is centred
    strength = np.clip(sure, -1 if signed else 0, 1)
    smooth = Image.fromarray(strength.astype(np.float32)).resize((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(smooth), -1, 1)
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] >= 0, _FOR, _AGAINST)
    pixels[..., 3] = np.round(255 * _STRONGEST * np.abs(values))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def open_stored(path: Path) -> Image.Image:
    """Open a picture of the store as RGB.

    Raises:
        Refusal: it is damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise Refusal(404, "not_found", "This picture is missing from the store. Restore it from a backup.") from None
    except (OSError, ValueError, SyntaxError):
        raise Refusal(422, "damaged", "This picture cannot be drawn: it is damaged. Send it again.") from None


def jpeg(image: Image.Image) -> bytes:
    """Return a picture as JPEG without metadata."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def pixels(path: Path) -> RGB:
    """Return a picture of the store as uint8 (height, width, 3)."""
    return np.asarray(open_stored(path))
