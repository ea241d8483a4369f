"""DICOM, TIFF and slides: their pixels go into the store like any picture's; a DICOM header apart, for results alone.

Their readers want a file, so the bytes stand for a moment in a temporary folder, under a name of ours.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError, require

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
Size = tuple[int, int]


def dicom_pixels(content: bytes, *, most_pixels: int) -> tuple[bytes, bytes, Size, float | None]:
    """Return (PNG, header without pixels, (width, height), micrometres per pixel) of a DICOM microscope image.

    Raises:
        ImageError: it cannot be read, or has more pixels than allowed.
        MissingExtraError: the extra `dicom` is not installed.
    """
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    from ..interop.dicom_images import DicomImage

    with _file(content, ".dcm") as path:
        image = DicomImage(path)
        picture = _whole(image, most_pixels=most_pixels)
        header = io.BytesIO()
        pydicom.dcmwrite(header, image.identity())
        return picture, header.getvalue(), image.size, image.um_per_px


def tiff_pixels(content: bytes, *, suffix: str, most_pixels: int) -> tuple[bytes, Size, float | None]:
    """Return (PNG, (width, height), micrometres per pixel) of a TIFF of any depth, or of a slide.

    Raises:
        ImageError: it cannot be read, or has more pixels than allowed.
        MissingExtraError: the extra `fields` or `wsi` is not installed.
    """
    require("cv2", feature="Reading TIFF", extra="fields")
    from ..fields.images import read_pixels, scale_in_file
    from ..fields.slides import TiffSlide, is_slide

    with _file(content, suffix if suffix in SUFFIXES else ".tif") as path:
        if is_slide(path):
            slide = TiffSlide(path)
            return _whole(slide, most_pixels=most_pixels), slide.size, slide.um_per_px
        pixels = read_pixels(path)
        height, width = pixels.shape[:2]
        _check((width, height), most_pixels)
        return png_of(Image.fromarray(pixels)), (width, height), scale_in_file(path)


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


_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}
_WEBP_ALPHA = 0x10  # of the flags of VP8X: the only one whose chunk is kept
_SOS, _EOI = 0xDA, 0xD9
_JPEG_LEFT_OUT = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # APP1 to APP13 and APP15, COM; APP14 tells how colours are coded


def size_of(content: bytes, *, most_pixels: int) -> tuple[int, int]:
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
    """Return the picture without metadata.

    Raises:
        ImageError: it is damaged.
    """
    try:
        if content.startswith(_PNG):
            return _png(content)
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content)
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
        return _again_as_png(content)
    except (struct.error, IndexError, OSError, ValueError, SyntaxError) as broken:
        raise ImageError(f"ends early or is damaged ({_first_line(broken)}). Copy it again.") from None


def png_of(image: Image.Image) -> bytes:
    """Return a picture as PNG, pixels alone."""
    stream = io.BytesIO()
    Image.fromarray(_pixels(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _png(content: bytes) -> bytes:
    parts, place = [_PNG], len(_PNG)
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content):
            raise ValueError("a chunk is cut off")
        if kind in _PNG_KEPT:
            parts.append(content[place:end])
        place = end
        if kind == b"IEND":
            return b"".join(parts)
    raise ValueError("the end is missing")


def _jpeg(content: bytes) -> bytes:
    parts, place = [content[:2]], 2
    while True:
        if content[place] != 0xFF:
            raise ValueError("a marker is missing")
        marker = content[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", content, place + 2)
        end = place + 2 + length
        if end > len(content):
            raise ValueError("a segment is cut off")
        if marker == _SOS:
            return b"".join([*parts, _scans(content, place)])
        if marker not in _JPEG_LEFT_OUT:
            parts.append(content[place:end])
        place = end


def _scans(content: bytes, start: int) -> bytes:
    """Return the compressed pixels up to the end marker; a second picture or text behind it is left out."""
    place = start
    while True:
        place = content.find(b"\xff", place + 1)
        if place < 0 or place + 1 >= len(content):
            raise ValueError("the end is missing")
        if content[place + 1] == _EOI:
            return content[start : place + 2]


def _webp(content: bytes) -> bytes:
    parts, place, end_of_file = [], 12, 8 + struct.unpack_from("<I", content, 4)[0]
    if end_of_file > len(content):
        raise ValueError("the end is missing")
    while place < end_of_file:
        kind, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length + length % 2
        if kind == b"VP8X":
            flags = bytes([content[place + 8] & _WEBP_ALPHA])
            parts.append(content[place : place + 8] + flags + content[place + 9 : end])
        elif kind in _WEBP_KEPT:
            parts.append(content[place:end])
        place = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _again_as_png(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ImageError("holds several pictures (animated or multi-page). Save one picture per file.")
        image.load()
        return png_of(image)


def _pixels(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image if image.mode in ("RGB", "RGBA", "L", "I;16") else image.convert("RGB"))


def _too_many(pixels: str, most: int) -> str:
    return f"has {pixels} pixels, more than the {most / 1e6:.0f} million allowed for one picture. Crop it."


def _first_line(broken: Exception) -> str:
    return (str(broken).splitlines() or [type(broken).__name__])[0][:120]


def suffix_of(name: str) -> str:
    """Return the suffix of a user's file name in lower case, for choosing what to try first."""
    return Path(name.replace("\\", "/")).suffix.lower()
