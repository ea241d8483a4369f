"""Read a smear field: any bit depth, its scale where the file states it, and nothing about the patient."""

import re
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from .planes import Pixels
from .scale import PLAUSIBLE_UM_PER_PX

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = 100_000_000  # more is read by tiles, as a slide
MIN_SIDE = 64  # pixels; below it no cell stands whole
_INCH_UM, _CM_UM = 25_400.0, 10_000.0


def read_pixels(path: Path) -> Pixels:
    """Return a field as 8-bit RGB, (height, width, 3); deeper colours are brought to 8 bits.

    Raises:
        ImageError: the file is missing, ends early, is no image, is black and white, too small or too large.
    """
    with _opened(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{path} has {width}x{height} pixels; open it as a slide (pyramidal TIFF) instead.")
        if min(width, height) < MIN_SIDE:
            raise ImageError(f"{path} has only {width}x{height} pixels, too few for a smear field.")
        deep = ";16" in str(image.tile[0].args if image.tile else "") or image.mode.startswith(("I", "F"))
        if deep or image.mode not in ("RGB", "RGBA", "P", "L", "CMYK", "YCbCr", "LA"):
            return _read_deep(path)
        try:
            return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as broken:
            raise ImageError(f"{path} ends early or is damaged ({broken}). Copy it again.") from None


def scale_in_file(path: Path) -> float | None:
    """Return the micrometres per pixel that the file states, or None where it states none that a microscope gives.

    A camera's 72 or 300 dots per inch are meant for printers and lie far outside what a microscope gives.
    """
    with _opened(path) as image:
        tags: Any = getattr(image, "tag_v2", {})
        description = str(tags.get(270, ""))
        candidates = [_ome(description), _imagej(description, tags), _tiff(tags), _printed(image.info.get("dpi"))]
    low, high = PLAUSIBLE_UM_PER_PX
    return next((um for um in candidates if um is not None and low <= um <= high), None)


def _opened(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            return Image.open(path)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist. Check the path.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise ImageError(f"{path} is not an image that can be read. Save it as PNG or TIFF.") from None
    except (ValueError, SyntaxError) as broken:
        raise ImageError(f"{path} cannot be opened as an image ({broken}). Copy it again.") from None


def _read_deep(path: Path) -> Pixels:
    """Read an image of more than 8 bits per channel; the camera's own depth is taken from the brightest pixel."""
    values = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ImageError(f"{path} has pixels of a kind that cannot be read. Save it as 8- or 16-bit RGB.")
    if values.ndim == 2 or values.shape[2] < 3:
        raise ImageError(f"{path} is black and white; finding stained cells needs colour. Take the field in colour.")
    bits = max(8, int(values.max()).bit_length())
    eight: NDArray[np.uint8] = (values[..., 2::-1].astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
    return eight


def _ome(description: str) -> float | None:
    match = re.search(r'PhysicalSizeX="([\d.eE+-]+)"', description)
    unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', description)
    if match is None:
        return None
    name = unit.group(1) if unit else "µm"
    return float(match.group(1)) * {"nm": 1e-3, "mm": 1e3, "cm": 1e4}.get(name, 1.0)


def _imagej(description: str, tags: Any) -> float | None:
    if not re.search(r"unit=(micron|um|µm|\\u00B5m)", description) or not tags.get(282):
        return None
    return 1 / float(tags[282])


def _tiff(tags: Any) -> float | None:
    unit = {2: _INCH_UM, 3: _CM_UM}.get(int(tags.get(296, 0)))
    return unit / float(tags[282]) if unit and tags.get(282) else None


def _printed(dpi: Any) -> float | None:
    return _INCH_UM / float(dpi[0]) if dpi and dpi[0] else None
