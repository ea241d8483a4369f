"""Colours: from the values of a file to 8 bits per channel in sRGB, by the range and the profile that the file states.

A profile is an ICC profile, wherever the format keeps it, or one made of what a format states instead of a profile.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, MissingExtraError, attempt, require

if TYPE_CHECKING:
    from PIL import ImageCms


_DEPTHS = (8, 10, 12, 14, 16, 24, 32, 64)  # bits of which cameras and programs make use, whatever they are stored in
_STORED = (8, 16, 32, 64)  # bits of a number in memory, not of the camera
_ROWS = 256  # worked on at once, so that floating point takes little memory
_ROUNDING = 1e-3  # that a fraction of white may exceed 1


@dataclass(frozen=True)
class ValueRange:
    """The values that are black and white, and where they come from."""

    low: float
    high: float
    note: str
    """In words, such as '12 bits per channel, estimated from the brightest pixel'; empty where nothing was changed."""


EIGHT = ValueRange(0, 255, "")


def range_of(values: NDArray[Any], *, bits: int, stated: tuple[float, float] | None = None) -> ValueRange:
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
        raise ValueError("values that are not numbers (NaN or infinite)")
    if stated and stated[0] <= low and high <= stated[1] and stated[0] < stated[1]:
        return ValueRange(*stated, f"values from {stated[0]:g} to {stated[1]:g}, as the file states")
    if low < 0:
        raise ValueError("values below zero, and does not state their range")
    if values.dtype.kind == "f":
        return _of_fractions(high)
    if bits not in _STORED:
        return ValueRange(0, 2**bits - 1, f"{bits} bits per channel, as the file states")
    return _of_depth(high, most=np.iinfo(values.dtype).max)


def eight_bits(values: NDArray[Any], given: ValueRange) -> NDArray[np.uint8]:
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


def _of_fractions(high: float) -> ValueRange:
    if high <= 1 + _ROUNDING:
        return ValueRange(0, 1, "floating point from 0 to 1")
    depth = _of_depth(high)
    return ValueRange(0, depth.high, f"floating point, read as {depth.note}")


def _of_depth(high: float, *, most: int = 2**64 - 1) -> ValueRange:
    """Return the range of the smallest depth that holds the brightest pixel, and that its numbers can hold."""
    depth = next((bits for bits in _DEPTHS if high < 2**bits), _DEPTHS[-1])
    depth = min(depth, most.bit_length())  # 15 where numbers of 16 bits have a sign
    return ValueRange(0, 2**depth - 1, f"{depth} bits per channel, estimated from the brightest pixel")


def _scaled(values: NDArray[Any], given: ValueRange) -> NDArray[np.uint8]:
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
    transform, note = found
    if profile and profile.name and transform is not None:
        note = f"colours converted from {profile.name} to sRGB"
    return (pixels if transform is None else _applied(pixels, transform, mode)), note


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
        return None, "its colour profile is damaged or for another kind of picture; read as sRGB"
    if mode == "RGB" and _changes_nothing(made):
        return None, ""
    return made, f"colours converted from {name[:60]} to sRGB"


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


HEADER = 1 << 20  # bytes of a file in which colours are stated
_SRGB_GAMMA, _NEAR = 1 / 2.2, 0.01  # gAMA of files in sRGB, and how far from it one may be
_D65, _C = (0.3127, 0.329), (0.31, 0.316)
_SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
# Code point of H.273 -> name, primaries of red, green and blue, white point.
_PRIMARIES = {
    1: ("sRGB", _SRGB, _D65),
    4: ("NTSC 1953", (0.67, 0.33, 0.21, 0.71, 0.14, 0.08), _C),
    5: ("PAL", (0.64, 0.33, 0.29, 0.6, 0.15, 0.06), _D65),
    6: ("SMPTE 170M", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07), _D65),
    7: ("SMPTE 240M", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07), _D65),
    9: ("BT.2020", (0.708, 0.292, 0.17, 0.797, 0.131, 0.046), _D65),
    11: ("DCI-P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), (0.314, 0.351)),
    12: ("Display P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), _D65),
}
_UNSTATED = 2
_LIKE_SRGB = (1, 6, 14, 15, 13, _UNSTATED)  # of transfer: browsers show these with the curve of sRGB
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
SYCC = 18
_JP2_READ = (16, 17, SYCC)  # sRGB, grey, sYCC: the colour spaces that Pillow brings to RGB


def profile_of(image: Image.Image, head: bytes = b"", *, name: str) -> Profile | None:
    """Return the profile of a picture that Pillow has opened; None where it is sRGB, or nothing is stated.

    head: the first HEADER bytes of its file, if there is one.

    Raises:
        ImageError: it is stated in a way that is not sRGB and cannot be brought there.
    """
    own = image.info.get("icc_profile")
    icc = Profile(own) if isinstance(own, bytes) and own else None
    if image.format == "PNG":
        return _of_png(image, head, icc, name)
    if image.format == "AVIF":
        return icc or profile_of_boxes(head, name=name)
    if image.format == "JPEG2000":
        return _of_jp2(head, name)
    if image.format == "BMP":
        return _of_bmp(head)
    return icc or (_profile_of_primaries(_ADOBE, _D65, 2.2, "Adobe RGB", name) if _states_adobe(image) else None)


def profile_of_boxes(head: bytes, *, name: str) -> Profile | None:
    """Return the profile that the box nclx of a HEIC or AVIF file states.

    Raises:
        ImageError: as `profile_of`.
    """
    at = head.find(b"colrnclx")
    if at < 0 or len(head) < at + 12:
        return None
    return _of_code_points(*struct.unpack_from(">HH", head, at + 8), name=name)


def profile_of_tags(white: list[float], primaries: list[float], *, name: str) -> Profile | None:
    """Return the profile that WhitePoint and PrimaryChromaticities of a TIFF state, with that format's gamma of 2.2.

    Raises:
        ImageError: as `profile_of`.
    """
    if len(primaries) != 6 or not all(0 < value < 1 for value in primaries):
        return None
    whole = tuple(white) if len(white) == 2 and all(0 < value < 1 for value in white) else _D65
    return (
        None
        if _same(primaries, _SRGB)
        else _profile_of_primaries(tuple(primaries), whole, 2.2, "the stated primaries", name)
    )


def profile_of_label(label: str, *, name: str) -> Profile | None:
    """Return the profile that DICOM's Color Space names where no profile is in the object (PS3.3, C.11.15.1.2).

    Raises:
        ImageError: as `profile_of`.
    """
    if label in ("", "SRGB"):
        return None
    if label == "ADOBERGB":
        return _profile_of_primaries(_ADOBE, _D65, 2.2, "Adobe RGB", name)
    raise ImageError(f"names a colour space ({label[:40]}) but lacks its profile. Export it as sRGB.", path=name)


def _of_png(image: Image.Image, head: bytes, icc: Profile | None, name: str) -> Profile | None:
    for kind, data in _chunks(head):
        if kind == b"cICP" and len(data) == 4:
            if data[3] == 0:
                raise ImageError("states colours of narrow (video) range. Save it as sRGB.", path=name)
            return _of_code_points(data[0], data[1], name=name)
    if icc or "srgb" in image.info:
        return icc
    gamma, points = image.info.get("gamma"), image.info.get("chromaticity")
    curve = None if gamma is None or abs(gamma - _SRGB_GAMMA) < _NEAR or not 0.1 < gamma < 10 else 1 / gamma
    white, primaries = (tuple(points[:2]), tuple(points[2:])) if points else (_D65, _SRGB)
    if curve is None and _same((*white, *primaries), (*_D65, *_SRGB)):
        return None
    title = f"gamma {curve:.2g}" if curve else "the stated primaries"
    return _profile_of_primaries(primaries, white, curve, title, name)


def _chunks(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG before its pixels."""
    at = 8
    while at + 8 <= len(head):
        size, kind = struct.unpack_from(">I4s", head, at)
        if kind == b"IDAT":
            return
        yield kind, head[at + 8 : at + 8 + size]
        at += 12 + size


def _of_code_points(primaries: int, transfer: int, *, name: str) -> Profile | None:
    if transfer in _HDR:
        raise ImageError(f"has colours of high dynamic range ({_HDR[transfer]}). Save it as sRGB.", path=name)
    if primaries in (1, _UNSTATED) and transfer in _LIKE_SRGB:
        return None
    known = _PRIMARIES.get(1 if primaries == _UNSTATED else primaries)
    if known is None or transfer not in (*_LIKE_SRGB, *_GAMMAS):
        raise ImageError(
            f"states unknown colours (primaries {primaries}, transfer {transfer} of H.273). Save it as sRGB.",
            path=name,
        )
    title, points, white = known
    return _profile_of_primaries(points, white, _GAMMAS.get(transfer), title, name)


def colours_of_jp2(head: bytes) -> tuple[int, bytes]:
    """Return the enumerated colour space of a JP2 file, or its ICC profile; neither in a bare codestream."""
    boxes = head.find(b"jp2h")
    at = head.find(b"colr", boxes) if 0 <= boxes < 4096 else -1
    if at < 4 or len(head) < at + 11:
        return 0, b""
    if head[at + 4] in (2, 3):
        return 0, head[at + 7 : at - 4 + int.from_bytes(head[at - 4 : at], "big")]
    return int.from_bytes(head[at + 7 : at + 11], "big"), b""


def _of_jp2(head: bytes, name: str) -> Profile | None:
    space, icc = colours_of_jp2(head)
    if icc:
        return Profile(icc)
    if space and space not in _JP2_READ:
        raise ImageError(
            f"has colours that are not supported (JPEG 2000 colour space {space}). Save it as sRGB.", path=name
        )
    return None


def _of_bmp(head: bytes) -> Profile | None:
    """Return the profile that lies behind the pixels' header of version 5."""
    if len(head) < 138 or int.from_bytes(head[14:18], "little") != 124 or head[70:74] != b"DEBM":
        return None
    at, size = struct.unpack_from("<II", head, 126)
    return Profile(head[14 + at : 14 + at + size])


def _states_adobe(image: Image.Image) -> bool:
    """Return whether a camera states in EXIF that its colours are Adobe RGB."""

    def stated() -> bool:
        exif = image.getexif()
        colours = exif.get_ifd(0x8769).get(0xA001)
        return colours == 2 or (colours == 0xFFFF and str(exif.get_ifd(0xA005).get(1, "")).startswith("R03"))

    return attempt(stated) is True


def _same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and bool(np.abs(np.subtract(one, other)).max() < _NEAR)


def _profile_of_primaries(
    primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None, title: str, name: str
) -> Profile:
    """Return a profile of primaries and a gamma, or of the curve of sRGB where there is none."""
    try:
        content = _icc_profile(primaries, white, gamma)
    except MissingExtraError as missing:
        raise ImageError(f"cannot be read here: {missing}", path=name) from None
    except (ValueError, RuntimeError):
        raise ImageError("states invalid colours (its primaries are collinear). Save it as sRGB.", path=name) from None
    return Profile(content, title)


@lru_cache(maxsize=32)
def _icc_profile(primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None) -> bytes:
    codecs = require("imagecodecs", feature="Reading colours of this kind", extra="fields")
    level = np.linspace(0, 1, 1024)
    curve = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    how = {"gamma": gamma} if gamma else {"transferfunction": (curve * 65535).round().astype(np.uint16)}
    return bytes(codecs.cms_profile("rgb", whitepoint=white, primaries=primaries, **how))
