"""Read one image file, or say in one sentence why it cannot be used and what to do."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError

RGB = NDArray[np.uint8]  # (height, width, 3)

# Suffix -> the format names that Pillow may find behind it.
FORMATS = {
    ".bmp": {"BMP", "DIB"},
    ".png": {"PNG"},
    ".jpg": {"JPEG", "MPO"},
    ".jpeg": {"JPEG", "MPO"},
    ".tif": {"TIFF"},
    ".tiff": {"TIFF"},
    ".webp": {"WEBP"},
}
# A cell image of the release has 0.2 megapixels; a camera field up to 50. More is a slide, or a bomb.
MAX_PIXELS = 64_000_000
MIN_SIDE = 16


def read_image(path: Path) -> RGB:
    """Return the image as 8-bit RGB, (height, width, 3).

    Raises:
        ImageError: the file is missing, empty, truncated, not what its name says, larger than MAX_PIXELS,
            animated, or not 8-bit RGB. The sentence names the file and the cure.
    """
    with _opened(path) as image:
        _check(image, path)
        try:
            image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as broken:
            raise ImageError(f"{path} ends early or is damaged ({broken}). Copy or download it again.") from None
        return _array_of(_drop_alpha(image, path) if image.mode == "RGBA" else image)


def read_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels from the file's header alone.

    Raises:
        ImageError: the header is not that of an image.
    """
    with _opened(path) as image:
        return image.size


def _array_of(image: Image.Image) -> RGB:
    """Return the pixels; np.asarray copies them once more."""
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.height, image.width, 3)


def _opened(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes). Copy or download it again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check has its own, lower limit
            return Image.open(path)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist. Was it moved after it was indexed? Index the folder again.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image, whatever its name says. Remove it or replace it.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} {_too_large('far too many')}") from None
    except (OSError, ValueError, SyntaxError) as broken:
        if isinstance(broken, PermissionError):
            raise
        raise ImageError(f"{path} cannot be opened as an image ({broken}). Copy or download it again.") from None


def _check(image: Image.Image, path: Path) -> None:
    """Refuse what would be read as something other than the picture that was taken."""
    expected = FORMATS.get(path.suffix.lower())
    width, height = image.size
    if expected is not None and image.format not in expected:
        raise ImageError(f"{path} is a {image.format} file with the name of another type. Give it its true suffix.")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path} {_too_large(f'{width}x{height}')}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{path} has only {width}x{height} pixels, too few to show a cell. Remove or replace it.")
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise ImageError(f"{path} holds several pictures (animated or multi-page). Save one picture per file.")
    if image.mode not in ("RGB", "RGBA") or _bits_per_channel(image) > 8:
        raise ImageError(f"{path} is {_describe(image)}; cells need 8-bit RGB. Save it again as 8-bit RGB.")


def _too_large(pixels: str) -> str:
    return f"has {pixels} pixels, more than the {MAX_PIXELS // 1_000_000} million allowed for one image. Crop it."


def _bits_per_channel(image: Image.Image) -> int:
    """Return 16 where Pillow would quietly cut 16-bit channels to 8."""
    tile = getattr(image, "tile", None)
    rawmode = str(tile[0].args) if tile else ""
    return 16 if ";16" in rawmode else 8


def _describe(image: Image.Image) -> str:
    if _bits_per_channel(image) > 8 or image.mode.startswith(("I", "F")):
        return "an image of 16 or more bits per channel"
    names = {
        "P": "a palette image",
        "CMYK": "a CMYK (print) image",
        "L": "a grey image",
        "1": "a black-and-white image",
    }
    return names.get(image.mode, f"an image of mode {image.mode}")


def _drop_alpha(image: Image.Image, path: Path) -> Image.Image:
    if np.asarray(image.getchannel("A")).min() < 255:
        raise ImageError(f"{path} is partly transparent. Save it without transparency, the cell on black.")
    return image.convert("RGB")
