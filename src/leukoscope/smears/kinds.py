"""What a file shows: one cell cut out on black, a smear field, or a slide that is read by tiles."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.images import FORMATS
from ..errors import CallError, require
from ..fields.view import shows_view
from ..interop.dicom_images import is_dicom

Kind = Literal["crop", "field", "slide", "dicom"]
SLIDES = (".svs", ".ndpi", ".scn", ".bif")
TIFFS = (".tif", ".tiff")
SUFFIXES = (*FORMATS, *SLIDES, ".dcm")  # what is taken from a folder

_BLACK = 24  # grey levels, as in data.prepare
_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out
_LARGEST_CROP = 2_000_000  # pixels; the release's crops have 0.2 million


def kind_of(path: Path) -> Kind:
    """Return what a file shows, by its content; one that cannot be read is a crop, and refused as such by name."""
    if is_dicom(path):
        return "dicom"
    if path.suffix.lower() in SLIDES or (path.suffix.lower() in TIFFS and _is_slide(path)):
        return "slide"
    if not _installed("cv2"):  # the small install judges crops, and says of a field that it is none
        return "crop"
    try:
        with Image.open(path) as image:
            if image.width * image.height > _LARGEST_CROP:
                return "field"
            return "field" if _shows_a_field(image) else "crop"
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return "crop"


def ready_for(kind: Kind) -> None:
    """Make sure that what a kind needs is installed.

    Raises:
        MissingExtraError: it is not; the words say what to install.
    """
    for module in () if kind == "crop" else ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")


def as_field(path: Path) -> Kind:
    """Return how a file is to be read that the user calls a field.

    Raises:
        CallError: it does not exist.
    """
    if not path.exists():
        raise CallError(f"{path} does not exist. Check the path.")
    if is_dicom(path):
        return "dicom"
    slide = path.suffix.lower() in SLIDES or (path.suffix.lower() in TIFFS and _is_slide(path))
    return "slide" if slide else "field"


def _installed(module: str) -> bool:
    return module in sys.modules or find_spec(module) is not None  # OpenCV, once loaded, cannot be looked up again


def _is_slide(path: Path) -> bool:
    if not (_installed("cv2") and _installed("tifffile")):
        return False
    from ..fields.slides import is_slide

    return is_slide(path)


def _shows_a_field(image: Image.Image) -> bool:
    if image.mode.startswith(("I", "F")):
        return True  # deep greyscale: the reader of fields says what is wrong with it
    pixels = np.asarray(image.convert("RGB"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).max(axis=1)
    if float((border > _BLACK).mean()) > _FRAMED:
        return True
    return shows_view(pixels)
