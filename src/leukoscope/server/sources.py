"""DICOM, TIFF and slides: their pixels go into the store like any picture's; a DICOM header apart, for results alone.

Their readers want a file, so the bytes stand for a moment in a temporary folder, under a name of ours.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, require
from .stripping import png_of

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
