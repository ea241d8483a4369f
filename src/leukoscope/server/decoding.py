"""From the bytes that somebody sent to the picture that is stored: its pixels as PNG, and nothing else.

Every picture is decoded and written again, so no name, date, place, thumbnail, comment, palette entry or trailing byte
goes into the store; each pixel keeps its value. A DICOM header is kept apart, for results alone. All this runs in
processes with bounded memory and time (`sandbox`).
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError, require

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
_KEPT = ("RGB", "RGBA", "L", "I;16")  # modes of Pillow that PNG holds as they are
Size = tuple[int, int]


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


def take(content: bytes, *, suffix: str, kind: str, um_per_px: float | None, most_pixels: int) -> Taken:
    """Return the pixels of a file, and what else of it is kept.

    Raises:
        ImageError: it is no picture, is damaged, or has more pixels than allowed.
        MissingExtraError: an extra that its format needs is not installed.
    """
    if content[128:132] == b"DICM":
        return _dicom(content, um_per_px=um_per_px, most_pixels=most_pixels)
    if content.startswith(TIFF):
        return _tiff(content, suffix=suffix, kind=kind, um_per_px=um_per_px, most_pixels=most_pixels)
    width, height = size_of(content, most_pixels=most_pixels)
    scale = um_per_px or (_scale(content) if kind != "crop" else None)
    return Taken(stripped(content), kind, width, height, scale)


def _dicom(content: bytes, *, um_per_px: float | None, most_pixels: int) -> Taken:
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    from ..interop.dicom_images import DicomImage

    with _file(content, ".dcm") as path:
        image = DicomImage(path)
        picture = _whole(image, most_pixels=most_pixels)
        header = io.BytesIO()
        pydicom.dcmwrite(header, image.identity())
        return Taken(picture, "dicom", *image.size, um_per_px or image.um_per_px, header.getvalue())


def _tiff(content: bytes, *, suffix: str, kind: str, um_per_px: float | None, most_pixels: int) -> Taken:
    require("cv2", feature="Reading TIFF", extra="fields")
    from ..fields.images import read_pixels, scale_in_file
    from ..fields.slides import TiffSlide, is_slide

    with _file(content, suffix if suffix in SUFFIXES else ".tif") as path:
        if is_slide(path):
            slide = TiffSlide(path)
            return Taken(_whole(slide, most_pixels=most_pixels), kind, *slide.size, um_per_px or slide.um_per_px)
        pixels = read_pixels(path)
        height, width = pixels.shape[:2]
        _check((width, height), most_pixels)
        return Taken(png_of(Image.fromarray(pixels)), kind, width, height, um_per_px or scale_in_file(path))


def _scale(content: bytes) -> float | None:
    """Return the micrometres per pixel that a file states, read before its metadata are taken away."""
    try:
        from ..fields.images import scale_in_file
    except ModuleNotFoundError:  # without the extra `fields` there is no field to analyse either
        return None
    return scale_in_file(io.BytesIO(content))  # type: ignore[arg-type]


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
            raise ImageError(str(unusable).replace(str(path), "").replace(path.name, "").strip(" :")) from None


def _whole(image: Any, *, most_pixels: int) -> bytes:
    _check(image.size, most_pixels)
    pixels: NDArray[np.uint8] = image.read(0, 0, *image.size)
    return png_of(Image.fromarray(pixels))


def _check(size: Size, most_pixels: int) -> None:
    if size[0] * size[1] > most_pixels:
        raise ImageError(
            f"has {size[0]:,}x{size[1]:,} pixels, more than the {most_pixels / 1e6:.0f} million that the room takes. "
            "Predict a whole slide on the command line (leukoscope predict SLIDE), or send fields of it."
        )


def size_of(content: bytes, *, most_pixels: int) -> Size:
    """Return (width, height) from the header alone.

    Raises:
        ImageError: it is no picture, or has more pixels than allowed. Nothing is unpacked to find that out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is ours
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise ImageError(_too_many("far too many", most_pixels)) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error):
        raise ImageError("is no picture that can be read. Save it as PNG, JPEG or TIFF.") from None
    if width * height > most_pixels:
        raise ImageError(_too_many(f"{width}x{height}", most_pixels))
    return width, height


def stripped(content: bytes) -> bytes:
    """Return a picture as PNG that holds its pixels and nothing else.

    Raises:
        ImageError: it is damaged, or holds several pictures.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise ImageError("holds several pictures (animated or multi-page). Save one picture per file.")
                if _is_deep(image):
                    return _deep(content, suffix=f".{(image.format or 'png').lower()}")
                image.load()
                return png_of(image)
    except (struct.error, IndexError, OSError, ValueError, SyntaxError, ZeroDivisionError) as broken:
        raise ImageError(f"ends early or is damaged ({_first_line(broken)}). Copy it again.") from None


def _is_deep(image: Image.Image) -> bool:
    """Tell whether Pillow would quietly cut 16-bit colours to 8."""
    tile = getattr(image, "tile", None)
    return image.mode in ("RGB", "RGBA") and ";16" in str(tile[0].args if tile else "")


def _deep(content: bytes, *, suffix: str) -> bytes:
    require("cv2", feature="Reading colours of more than 8 bits", extra="fields")
    from ..fields.images import read_pixels

    with _file(content, suffix) as path:
        return png_of(Image.fromarray(read_pixels(path)))


def png_of(image: Image.Image) -> bytes:
    """Return a picture as PNG, pixels alone."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode not in _KEPT:
        image = image.convert("RGB")
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    stream = io.BytesIO()
    bare.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _too_many(pixels: str, most: int) -> str:
    return f"has {pixels} pixels, more than the {most / 1e6:.0f} million allowed for one picture. Crop it."


def _first_line(broken: Exception) -> str:
    return (str(broken).splitlines() or [type(broken).__name__])[0][:120]


def suffix_of(name: str) -> str:
    """Return the suffix of a user's file name in lower case, for choosing what to try first."""
    return Path(name.replace("\\", "/")).suffix.lower()
