"""DICOM sources: their pixels go into the store like any picture's, their header apart, for results alone."""

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ImageError, require
from .stripping import png_of


def pixels_of(content: bytes, *, most_pixels: int) -> tuple[bytes, bytes, tuple[int, int], float | None]:
    """Return (PNG, header without pixels, (width, height), micrometres per pixel) of a DICOM microscope image.

    Raises:
        ImageError: it cannot be read, or has more pixels than allowed.
        MissingExtraError: the extra `dicom` is not installed.
    """
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    from ..interop.dicom_images import DicomImage

    with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:  # the reader wants a file; its name is ours
        path = Path(folder) / "source.dcm"
        path.write_bytes(content)
        try:
            image = DicomImage(path)
        except ImageError as unusable:
            raise ImageError(str(unusable).replace(str(path), "").strip()) from None
        width, height = image.size
        if width * height > most_pixels:
            raise ImageError(
                f"has {width}x{height} pixels, more than the {most_pixels / 1e6:.0f} million allowed here. "
                "Use leukoscope predict for whole slides."
            )
        picture = png_of(Image.fromarray(image.read(0, 0, width, height)))
        header = io.BytesIO()
        pydicom.dcmwrite(header, image.identity())
        return picture, header.getvalue(), (width, height), image.um_per_px


def header_of(content: bytes) -> Any:
    """Return the header of a DICOM source as it was stored."""
    pydicom = require("pydicom", feature="DICOM", extra="dicom")
    return pydicom.dcmread(io.BytesIO(content))
