"""What a file shows: one cell cut out on black, a smear field, or a slide that is read by tiles."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.images import FORMATS
from ..errors import CallError, require
from ..interop.dicom_images import is_dicom

Kind = Literal["crop", "field", "slide", "dicom"]
SLIDES = (".svs", ".ndpi", ".scn", ".bif")
TIFFS = (".tif", ".tiff")
SUFFIXES = (*FORMATS, *SLIDES, ".dcm")  # what is taken from a folder

_BLACK = 24  # grey levels, as in data.prepare
_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out
_LARGEST_CROP = 2_000_000  # pixels; the release's crops have 0.2 million
# A round field of view on black, as through an eyepiece, shows empty glass: bright, hardly coloured, and much of it.
_GLASS, _PALE = 150, 45  # grey levels: of the darkest channel at least, between the channels at most
_LEAST_VIEW, _LEAST_GLASS = 0.4, 0.25  # share of the picture that is not black, share of that which is glass


def kind_of(path: Path) -> Kind:
    """Return what a file shows, by its content; one that cannot be read is a crop, and refused as such by name."""
    if is_dicom(path):
        return "dicom"
    if path.suffix.lower() in SLIDES or (path.suffix.lower() in TIFFS and _is_slide(path)):
        return "slide"
    if find_spec("cv2") is None:  # the small install judges crops, and says of a field that it is none
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


def _is_slide(path: Path) -> bool:
    if find_spec("cv2") is None or find_spec("tifffile") is None:
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
    inside = pixels[::2, ::2].reshape(-1, 3)
    seen = inside[inside.max(axis=1) > _BLACK]
    glass = (seen.min(axis=1) > _GLASS) & (np.ptp(seen, axis=1) < _PALE)
    return bool(len(seen) > _LEAST_VIEW * len(inside) and glass.mean() > _LEAST_GLASS)
