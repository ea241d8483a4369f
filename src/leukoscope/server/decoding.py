"""From the bytes that somebody sent to the picture that is stored: its pixels as PNG, and nothing else.

Every picture is read by the one reader of pixels and written again, so no name, date, place, thumbnail, comment,
palette entry or trailing byte goes into the store. A DICOM header is kept apart, for results alone. All this runs in
processes with bounded memory and time (`sandbox`).
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from ..errors import ImageError, require
from ..images.read import RGB, format_of, read_picture, read_size, tiff_readable
from ..images.scale import stated_scale

SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
_CERTAIN_PIXELS, _CERTAIN_BYTES = 6_000_000, 32 << 20  # what fits a small process whatever its depth
_NAME = "This image"


@dataclass(frozen=True)
class Taken:
    """A picture as it goes into the store."""

    picture: bytes
    """PNG, pixels alone."""
    kind: str
    width: int
    height: int
    um_per_px: float | None = None
    identity: bytes = b""
    """Header of a DICOM source."""
    notes: Sequence[str] = ()
    """What was done to the values of the file, and what was not believed of its scale."""


def take(content: bytes, *, suffix: str, kind: str, um_per_px: float | None, most_pixels: int) -> Taken:
    """Return the pixels of a file, and what else of it is kept.

    Raises:
        ImageError: it is not an image, is damaged, or has more pixels than allowed.
        MissingExtraError: an extra that its format needs is not installed.
    """
    found = format_of(content[:4096])
    if found == "DICOM":
        return _dicom(content, um_per_px=um_per_px, most_pixels=most_pixels)
    if found == "TIFF" and tiff_readable():
        from ..fields.slides import TiffSlide, is_slide

        with _file(content, suffix if suffix in SUFFIXES else ".tif") as path:
            if is_slide(path):
                slide = TiffSlide(path)
                pixels = _whole(slide, most_pixels=most_pixels)
                return _taken(pixels, kind, um_per_px or slide.um_per_px, notes=slide.notes)
    picture = read_picture(content, name=_NAME, most_pixels=most_pixels)
    stated = stated_scale(io.BytesIO(content))
    return _taken(picture.pixels, kind, um_per_px or stated.um_per_px, notes=(*picture.notes, stated.note))


def is_small(content: bytes) -> bool:
    """Tell whether a file says of itself that it is so small that reading it cannot have needed much memory."""
    try:
        width, height = read_size(content)
    except ImageError:
        return format_of(content[:4096]) != "DICOM" and len(content) < _CERTAIN_BYTES
    return width * height <= _CERTAIN_PIXELS and len(content) < _CERTAIN_BYTES


def _dicom(content: bytes, *, um_per_px: float | None, most_pixels: int) -> Taken:
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    from ..interop.dicom import DicomImage

    with _file(content, ".dcm") as path:
        image = DicomImage(path)
        pixels = _whole(image, most_pixels=most_pixels)
        header = io.BytesIO()
        pydicom.dcmwrite(header, image.identity())
        scale = um_per_px or image.um_per_px
        return _taken(pixels, "dicom", scale, header.getvalue(), notes=image.notes)


def _taken(
    pixels: RGB, kind: str, um_per_px: float | None, identity: bytes = b"", *, notes: Sequence[str] = ()
) -> Taken:
    height, width = pixels.shape[:2]
    return Taken(png_of(pixels), kind, width, height, um_per_px, identity, tuple(note for note in notes if note))


def header_of(content: bytes) -> Any:
    """Return the header of a DICOM source as it was stored."""
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    return pydicom.dcmread(io.BytesIO(content))


@contextmanager
def _file(content: bytes, suffix: str) -> Iterator[Path]:
    """Yield a temporary file, whose name is taken out of what its readers say."""
    with TemporaryDirectory(prefix="leukoscope-") as folder:
        path = Path(folder) / f"source{suffix}"
        path.write_bytes(content)
        try:
            yield path
        except ImageError as unusable:
            raise ImageError(unusable.reason) from None


def _whole(image: Any, *, most_pixels: int) -> RGB:
    width, height = image.size
    if width * height > most_pixels:
        raise ImageError(
            f"has {width:,}x{height:,} pixels, more than the {most_pixels / 1e6:.0f} million allowed for one picture. "
            "Send a slide by itself and not in a zip: a tiled pyramid in TIFF or SVS, or DICOM; or send fields of it."
        )
    pixels: RGB = image.read(0, 0, width, height)
    return pixels


def png_of(pixels: RGB) -> bytes:
    """Return uint8 (height, width, 3) as PNG, pixels alone."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def suffix_of(name: str) -> str:
    """Return the suffix of a user's file name in lower case, for choosing what to try first."""
    return Path(name.replace("\\", "/")).suffix.lower()
