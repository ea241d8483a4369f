"""Colours as sRGB: an embedded profile is applied by LittleCMS before anything is measured."""

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageCms

_SAME = 1  # grey levels between a profile's colours and sRGB's at which nothing is changed
_ROWS = 1024  # converted at once
_INTENT = 1  # relative colorimetric: white stays white, and colours that sRGB has stay as they are


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None) -> tuple[NDArray[np.uint8], str]:
    """Return pixels as sRGB, (height, width, 3), and what was done in words; without a profile they are sRGB.

    Args:
        pixels: uint8, (height, width, 3) as RGB, or (height, width, 4) as CMYK.
        profile: the bytes of an ICC profile.

    Raises:
        ValueError: CMYK without a usable profile: nobody knows its colours.
    """
    mode = "RGB" if pixels.shape[2] == 3 else "CMYK"
    found = _transform(profile, mode) if profile else None
    if mode == "CMYK" and (found is None or found[0] is None):
        raise ValueError("is a CMYK (print) image without a colour profile. Save it as RGB.")
    if found is None:
        return pixels, ""
    transform, said = found
    return (pixels if transform is None else _applied(pixels, transform, mode)), said


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> "tuple[ImageCms.ImageCmsTransform | None, str]":
    """Return what brings colours to sRGB, None where they are sRGB already or the profile is unusable."""
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = (ImageCms.getProfileDescription(opened) or "").strip() or "an unnamed profile"
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.buildTransform(opened, target, mode, "RGB", renderingIntent=ImageCms.Intent(_INTENT))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "its colour profile is damaged or of another kind of picture; read as sRGB"
    if mode == "RGB" and _changes_nothing(made):
        return None, ""
    return made, f"colours brought from {name[:60]} to sRGB"


def _changes_nothing(transform: "ImageCms.ImageCmsTransform") -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return bool(np.abs(_applied(cube, transform, "RGB").astype(int) - cube).max() <= _SAME)


def _applied(pixels: NDArray[np.uint8], transform: "ImageCms.ImageCmsTransform", mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    height, width = pixels.shape[:2]
    for top in range(0, height, _ROWS):
        rows = np.ascontiguousarray(pixels[top : top + _ROWS])
        image = Image.frombuffer(mode, (width, len(rows)), rows.tobytes(), "raw", mode, 0, 1)
        done = transform.apply(image)
        result[top : top + _ROWS] = np.frombuffer(done.tobytes(), np.uint8).reshape(len(rows), width, 3)
    return result
