"""From the values of a file to 8 bits per channel in sRGB: its range, then its profile; L*a*b* by scikit-image."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import require

if TYPE_CHECKING:
    from PIL import ImageCms


_DEPTHS = (8, 10, 12, 14, 16, 24, 32, 64)  # bits of which cameras and programs make use, whatever they are stored in
_STORED = (8, 16, 32, 64)  # bits of a number in memory: they say nothing of the camera
_ROWS = 256  # worked on at once, so that floating point takes little memory
_ROUNDING = 1e-3  # that a fraction of white may exceed 1


@dataclass(frozen=True)
class Range:
    """The values that are black and white, and where they come from."""

    low: float
    high: float
    said: str
    """In words, such as '12 bits per channel, told by the brightest pixel'; empty where nothing was changed."""


EIGHT = Range(0, 255, "")


def range_of(values: NDArray[Any], *, bits: int, stated: tuple[float, float] | None = None) -> Range:
    """Return the range of colours, (height, width, channels), without alpha.

    Args:
        values: whole numbers or floating point.
        bits: bits of one value as the file states them.
        stated: the lowest and highest value that the file states, such as SMinSampleValue and SMaxSampleValue.

    Raises:
        ValueError: there is none, in words that can follow 'has'.
    """
    if values.dtype == np.uint8 and bits == 8:
        return EIGHT
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("values that are no numbers (NaN or infinite)")
    if stated and stated[0] <= low and high <= stated[1] and stated[0] < stated[1]:
        return Range(*stated, f"values from {stated[0]:g} to {stated[1]:g}, as the file states")
    if low < 0:
        raise ValueError("values below zero, and does not state their range")
    if values.dtype.kind == "f":
        return _of_fractions(high)
    if bits not in _STORED:
        return Range(0, 2**bits - 1, f"{bits} bits per channel, as the file states")
    return _of_depth(high, most=np.iinfo(values.dtype).max)


def eight_bits(values: NDArray[Any], given: Range) -> NDArray[np.uint8]:
    """Return values as whole numbers from 0 (low) to 255 (high); what lies outside becomes black or white."""
    if given is EIGHT:
        return np.ascontiguousarray(values, np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        table = _scaled(np.arange(np.iinfo(values.dtype).max + 1), given)
        return np.asarray(table[values])
    result = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        result[top : top + _ROWS] = _scaled(values[top : top + _ROWS], given)
    return result


def _of_fractions(high: float) -> Range:
    if high <= 1 + _ROUNDING:
        return Range(0, 1, "floating point from 0 to 1")
    depth = _of_depth(high)
    return Range(0, depth.high, f"floating point, read as {depth.said}")


def _of_depth(high: float, *, most: int = 2**64 - 1) -> Range:
    """Return the range of the smallest depth that holds the brightest pixel, and that its numbers can hold."""
    depth = next((bits for bits in _DEPTHS if high < 2**bits), _DEPTHS[-1])
    depth = min(depth, most.bit_length())  # 15 where numbers of 16 bits have a sign
    return Range(0, 2**depth - 1, f"{depth} bits per channel, told by the brightest pixel")


def _scaled(values: NDArray[Any], given: Range) -> NDArray[np.uint8]:
    share = (values.astype(np.float64) - given.low) / (given.high - given.low)
    return np.asarray(np.clip(np.floor(share * 255 + 0.5), 0, 255), np.uint8)


_SAME = 1  # grey levels between a profile's colours and sRGB's at which nothing is changed
_ROWS_AT_ONCE = 1024  # converted at once
_LAB_ROWS = 128  # of floating point
_D50_TO_D65 = np.array(
    [[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.0204830, 1.3299098]]
)  # by Bradford, as LittleCMS adapts (Lindbloom)
_INTENT = 1  # relative colorimetric: white stays white, and colours that sRGB has stay as they are


@dataclass(frozen=True)
class Profile:
    """An ICC profile, and what to call it instead of what it calls itself."""

    content: bytes
    name: str = ""


def to_srgb(pixels: NDArray[np.uint8], profile: Profile | None) -> tuple[NDArray[np.uint8], str]:
    """Return pixels as sRGB, (height, width, 3), and what was done in words; without a profile they are sRGB.

    Args:
        pixels: uint8, (height, width, 3) as RGB, or (height, width, 4) as CMYK.
        profile: that of the file; None where it has none.

    Raises:
        ValueError: CMYK without a usable profile: nobody knows its colours.
    """
    mode = "RGB" if pixels.shape[2] == 3 else "CMYK"
    found = _transform(profile.content, mode) if profile else None
    if mode == "CMYK" and (found is None or found[0] is None):
        raise ValueError("is a CMYK (print) image without a colour profile. Save it as RGB.")
    if found is None:
        return pixels, ""
    transform, said = found
    if profile and profile.name and transform is not None:
        said = f"colours brought from {profile.name} to sRGB"
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


def lab_to_srgb(values: NDArray[Any], *, signed: bool) -> NDArray[np.uint8]:
    """Return CIE L*a*b* of white D50, uint8 or uint16 (height, width, 3), as sRGB.

    signed: a* and b* are stored with their sign (CIELab of TIFF), else moved up by 128 (ICCLab).
    """
    colour = require("skimage.color", feature="Reading L*a*b*", extra="fields")
    wide = values.dtype == np.uint16
    # ICC, version 2: 100 is 65,280 of 16 bits, and a step of a* or b* is 256 of them.
    white, step = (65535.0 if signed else 65280.0, 256.0) if wide else (255.0, 1.0)
    result = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _LAB_ROWS):
        rows = values[top : top + _LAB_ROWS]
        lab = np.empty(rows.shape)
        lab[..., 0] = np.minimum(rows[..., 0] * (100.0 / white), 100)
        ab = rows[..., 1:]
        centred = ab.view(np.int16 if wide else np.int8) if signed else ab - 128.0 * step
        lab[..., 1:] = np.asarray(centred, np.float64) / step
        # Bluer than light itself is Z below zero; with room for rounding, since skimage warns of the smallest.
        lab[..., 2] = np.minimum(lab[..., 2], 200 * (lab[..., 0] + 16) / 116 - 1e-9)
        xyz = colour.lab2xyz(lab, illuminant="D50") @ _D50_TO_D65.T
        result[top : top + _LAB_ROWS] = np.floor(np.clip(colour.xyz2rgb(xyz), 0, 1) * 255 + 0.5)
    return result


def _changes_nothing(transform: "ImageCms.ImageCmsTransform") -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return bool(np.abs(_applied(cube, transform, "RGB").astype(int) - cube).max() <= _SAME)


def _applied(pixels: NDArray[np.uint8], transform: "ImageCms.ImageCmsTransform", mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    result = np.empty((*pixels.shape[:2], 3), np.uint8)
    height, width = pixels.shape[:2]
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = np.ascontiguousarray(pixels[top : top + _ROWS_AT_ONCE])
        image = Image.frombuffer(mode, (width, len(rows)), rows.tobytes(), "raw", mode, 0, 1)
        done = transform.apply(image)
        result[top : top + _ROWS_AT_ONCE] = np.frombuffer(done.tobytes(), np.uint8).reshape(len(rows), width, 3)
    return result
