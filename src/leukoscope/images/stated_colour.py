"""The colours that a file states: its ICC profile, wherever the format keeps it, or one made of what stands instead.

PNG states colours in cICP, gAMA and cHRM (PNG, Third Edition, 11.3.2), AVIF and HEIC in nclx (ISO 14496-12), both with
the code points of ITU-T H.273; cameras state Adobe RGB in EXIF (DCF 2.0); TIFF has primaries and white point (TIFF 6.0,
section 20). BMP and JPEG 2000 keep profiles where Pillow does not look (BITMAPV5HEADER; ISO 15444-1, I.5.3.3).
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ImageError, MissingExtraError, attempt, require
from .pixels import Profile

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
    return icc or (_made(_ADOBE, _D65, 2.2, "Adobe RGB", name) if _says_adobe(image) else None)


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
    return None if _same(primaries, _SRGB) else _made(tuple(primaries), whole, 2.2, "the stated primaries", name)


def profile_of_label(label: str, *, name: str) -> Profile | None:
    """Return the profile that DICOM's Color Space names where no profile is in the object (PS3.3, C.11.15.1.2).

    Raises:
        ImageError: as `profile_of`.
    """
    if label in ("", "SRGB"):
        return None
    if label == "ADOBERGB":
        return _made(_ADOBE, _D65, 2.2, "Adobe RGB", name)
    raise ImageError(f"names colours ({label[:40]}) and lacks their profile. Export it as sRGB.", path=name)


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
    said = f"gamma {curve:.2g}" if curve else "the stated primaries"
    return _made(primaries, white, curve, said, name)


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
            f"states colours of a kind that is not known here (primaries {primaries}, transfer {transfer} of H.273). "
            "Save it as sRGB.",
            path=name,
        )
    said, points, white = known
    return _made(points, white, _GAMMAS.get(transfer), said, name)


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
            f"has colours of a kind that is not read (JPEG 2000 colour space {space}). Save it as sRGB.", path=name
        )
    return None


def _of_bmp(head: bytes) -> Profile | None:
    """Return the profile that lies behind the pixels' header of version 5."""
    if len(head) < 138 or int.from_bytes(head[14:18], "little") != 124 or head[70:74] != b"DEBM":
        return None
    at, size = struct.unpack_from("<II", head, 126)
    return Profile(head[14 + at : 14 + at + size])


def _says_adobe(image: Image.Image) -> bool:
    """Tell whether a camera says in EXIF that its colours are Adobe RGB."""

    def says() -> bool:
        exif = image.getexif()
        stated = exif.get_ifd(0x8769).get(0xA001)
        return stated == 2 or (stated == 0xFFFF and str(exif.get_ifd(0xA005).get(1, "")).startswith("R03"))

    return attempt(says) is True


def _same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and bool(np.abs(np.subtract(one, other)).max() < _NEAR)


def _made(primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None, said: str, name: str) -> Profile:
    """Return a profile of primaries and a gamma, or of the curve of sRGB where there is none."""
    try:
        content = _written(primaries, white, gamma)
    except MissingExtraError as missing:
        raise ImageError(f"cannot be read here: {missing}", path=name) from None
    except (ValueError, RuntimeError):
        raise ImageError(
            "states colours that cannot be (its primaries span nothing). Save it as sRGB.", path=name
        ) from None
    return Profile(content, said)


@lru_cache(maxsize=32)
def _written(primaries: tuple[float, ...], white: tuple[float, ...], gamma: float | None) -> bytes:
    codecs = require("imagecodecs", feature="Reading colours of this kind", extra="fields")
    level = np.linspace(0, 1, 1024)
    curve = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    how = {"gamma": gamma} if gamma else {"transferfunction": (curve * 65535).round().astype(np.uint16)}
    return bytes(codecs.cms_profile("rgb", whitepoint=white, primaries=primaries, **how))
