"""Reading of image files of all formats as uint8 RGB in sRGB, upright; one sentence for files that are refused.

Crops, fields, slides, uploads and thumbnails all go through it, so that they cannot disagree.
"""

import io
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError, MissingExtraError, attempt, installed, require
from ..progress import muted
from .colour import (
    EIGHT,
    HEADER,
    SYCC,
    Profile,
    ValueRange,
    colours_of_jp2,
    eight_bits,
    profile_of,
    profile_of_boxes,
    range_of,
    to_srgb,
)

T = TypeVar("T")
RGB = NDArray[np.uint8]  # (height, width, 3)

# Suffix -> formats that files of this name may have.
FORMATS = {
    ".bmp": {"BMP"},
    ".png": {"PNG"},
    ".jpg": {"JPEG"},
    ".jpeg": {"JPEG"},
    ".tif": {"TIFF"},
    ".tiff": {"TIFF"},
    ".webp": {"WEBP"},
    ".jfif": {"JPEG"},
    ".mpo": {"JPEG"},
    ".jp2": {"JPEG2000"},
    ".j2k": {"JPEG2000"},
    ".heic": {"HEIF"},
    ".heif": {"HEIF"},
    ".avif": {"AVIF"},
}
MAX_PIXELS = 100_000_000
"""Of a cell or a field, on the command line and in the reading room; cameras have up to 50 million pixels. Larger
images are
slides, which are read by tiles, or decompression bombs."""
MIN_SIDE = 16
_HEAD = 4096  # bytes read to detect the format of a file
_SAVE = "Save it as 8- or 16-bit RGB."
_COLOUR = "stained cells need colour. Use a colour image."
_AGAIN = "Copy or download it again."
_STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"II\xbc": "JPEG XR",
}
# Other files of laboratories, which error messages name.
_OTHERS = {
    b"ZISRAWFILE": "Zeiss CZI",
    b"\xda\xce\xbe\x0a": "Nikon ND2",
    b"\x70\0\0\0": "Leica LIF",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"PK\3\4": "zip (or office)",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"\xd0\xcf\x11\xe0": "OLE (OIB, old Office)",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"\x93NUMPY": "NumPy",
}
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIF",
    b"heix": "HEIF",
    b"hevc": "HEIF",
    b"hevx": "HEIF",
    b"heim": "HEIF",
    b"heis": "HEIF",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
}
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height


@dataclass(frozen=True)
class Picture:
    """The pixels of a picture, and how they were converted."""

    pixels: RGB
    """uint8, (height, width, 3), sRGB, upright."""
    notes: tuple[str, ...] = ()
    """Conversions of the stored values, in words; empty for 8-bit sRGB."""


def read_image(
    source: Path | bytes, *, name: str = "", most_pixels: int = MAX_PIXELS, least_side: int = MIN_SIDE
) -> RGB:
    """Return the pixels of `read_picture`."""
    return read_picture(source, name=name, most_pixels=most_pixels, least_side=least_side).pixels


def read_picture(
    source: Path | bytes,
    *,
    name: str = "",
    suffix: str = "",
    most_pixels: int = MAX_PIXELS,
    least_side: int = MIN_SIDE,
) -> Picture:
    """Read the picture of a file, or of its bytes, as uint8 RGB in sRGB, upright.

    The content decides what format it is; where the suffix names another one, a note reports it.

    Args:
        source: the file, or its content.
        name: what messages call it; the path itself where none is given.
        suffix: of the file that the bytes came from, such as '.png'.
        most_pixels: more are refused before they are unpacked.
        least_side: pixels that width and height must have.

    Raises:
        ImageError: it is missing, empty, cut short or damaged, contains several pictures or no colour, is partly
            transparent, or needs a decoder that is not installed. The sentence names the file and the cure.
        PermissionError: it may not be read.
    """
    name = name or (str(source) if isinstance(source, Path) else "The image")
    with _open_source(source, name) as stream:
        kind = _detect_format(stream, name)
        limits = _Limits(name, most_pixels, least_side)
        if kind == "TIFF":
            values, orientation, notes = _read_tiff(stream, limits)
        elif kind == "HEIF":
            values, orientation, notes = _read_heif(stream, limits)
        else:
            values, orientation, notes = _read_by_pillow(stream, kind, limits)
    mislabelled = _note_of_suffix(kind, source.suffix if isinstance(source, Path) else suffix)
    notes = [*notes, turned_upright(orientation), mislabelled]
    return Picture(upright(values, orientation), tuple(note for note in notes if note))


def changes_in_words(changes: Counter[str], *, most: int = 8) -> list[str]:
    """Return one sentence for each conversion with the number of files, the most frequent first.

    >>> changes_in_words(Counter({"turned upright (orientation 6)": 2, "colours brought from P3 to sRGB": 1}), most=1)
    ['2 files: turned upright (orientation 6)', 'and 1 more kind of change']
    """
    lines = [f"{number:,} file{'s' * (number != 1)}: {note}" for note, number in changes.most_common(most)]
    more = len(changes) - most
    return [*lines, *([f"and {more:,} more kind{'s' * (more > 1)} of change"] if more > 0 else [])]


def read_size(source: Path | bytes, *, name: str = "") -> tuple[int, int]:
    """Return (width, height) in pixels, upright, from the header of the file only.

    Raises:
        ImageError: the header is not that of an image.
    """
    name = name or (str(source) if isinstance(source, Path) else "The image")
    with _open_source(source, name) as stream:
        kind = format_of(_read_header(stream))
        if kind == "TIFF" and tiff_readable():
            size, orientation = _size_of_tiff(stream, name)
        elif kind == "HEIF":
            image = _open_heif(stream, name)[0]
            size, orientation = image.size, 1
        else:
            size, orientation = _size_by_pillow(stream, name)
    return turned_size((size[0], size[1]), orientation)


def _size_of_tiff(stream: BinaryIO, name: str) -> tuple[tuple[int, int], int]:
    from .tiff import NotByTifffileError, Tiff

    try:
        with Tiff(stream, name=name) as tiff:
            return tiff.size, tiff.orientation
    except NotByTifffileError:
        stream.seek(0)
        return _size_by_pillow(stream, name)


def _size_by_pillow(stream: BinaryIO, name: str) -> tuple[tuple[int, int], int]:
    with _open_by_pillow(stream, name) as picture:
        return picture.size, orientation_of(picture)


def format_of(head: bytes) -> str:
    """Return the format of the first bytes of a file: 'PNG', 'JPEG', 'TIFF', 'WEBP' …; an empty string if unknown."""
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), _box_length(head)), 4))]
        found = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in found else found[0] if found else ""
    return "DICOM" if _is_dicom(head) else ""


def file_format(path: Path) -> str:
    """Return the format of a file; an empty string for a pipe or a device."""
    if path.exists() and not path.is_file():
        return ""
    with path.open("rb") as file:
        return format_of(file.read(_HEAD))


def _is_dicom(head: bytes) -> bool:
    """Return whether a file is DICOM, by the letters after its preamble or its first element (groups 2 and 8)."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] != 0 or head[2] > 0x70:
        return False
    explicit = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"SH", b"LO", b"OB")
    return explicit or (head[6:8] == b"\0\0" and 0 < head[4] <= 128 and head[4] % 2 == 0 and head[5] == 0)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return pixels turned upright by the orientation of EXIF and TIFF (1 to 8).

    >>> upright(np.array([[1, 2], [3, 4]]), 6).tolist()
    [[3, 1], [4, 2]]
    """
    if orientation in _TURNED:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def turned_upright(orientation: int) -> str:
    """Return a note that a picture was turned; an empty string where it was not."""
    return f"turned upright (orientation {orientation})" if orientation != 1 else ""


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (width, height) of a picture once it is upright."""
    return (size[1], size[0]) if orientation in _TURNED else size


def stored_box(box: tuple[int, int, int, int], size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Return where a box (left, top, width, height) of the upright picture lies in a stored one of (width, height)."""
    left, top, width, height = box
    whole = turned_size(size, orientation)
    if orientation in (2, 3, 6, 7):
        left = whole[0] - left - width
    if orientation in (3, 4, 7, 8):
        top = whole[1] - top - height
    return (top, left, height, width) if orientation in _TURNED else (left, top, width, height)


def tiff_readable() -> bool:
    """Return whether the extra `fields`, which reads TIFF of every kind, is installed."""
    return installed("tifffile") and installed("imagecodecs")


@dataclass(frozen=True)
class _Limits:
    name: str
    most: int
    least: int

    def check(self, width: int, height: int) -> None:
        if width * height > self.most:
            raise ImageError(too_large(f"{width}x{height}", self.most), path=self.name)
        if min(width, height) < self.least:
            raise ImageError(f"has only {width}x{height} pixels, too few. Choose a larger picture.", path=self.name)


def too_large(pixels: str, most: int) -> str:
    """Return the reason to refuse a picture with too many pixels."""
    return f"has {pixels} pixels, more than the {most // 1_000_000} million allowed for one image. Crop it."


def picture_of(image: Image.Image, *, name: str = "") -> Picture:
    """Return an image that Pillow has opened, of mode RGB, converted to sRGB and turned upright.

    Raises:
        ImageError: it has another mode, or ends early.
    """
    if image.mode != "RGB":
        raise ImageError(f"is a PIL image of mode {image.mode}. Pass image.convert('RGB').", path=name)
    pixels, note = _convert_to_srgb(_read_8_bits(image, name), profile_of(image, name=name), name)
    return Picture(upright(pixels, orientation_of(image)), (note,) if note else ())


Read = tuple[RGB, int, list[str]]  # pixels as stored, orientation, notes


def _open_source(source: Path | bytes, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        stream: BinaryIO = io.BytesIO(source)
    else:
        try:
            if not source.is_dir() and source.exists() and not source.is_file():
                raise ImageError(f"{name} is a pipe or a device, not a file. Save its image in a file.")
            stream = source.open("rb")
        except FileNotFoundError:
            raise ImageError(
                "does not exist. Was it moved? Check the path, or index the folder again.", path=name
            ) from None
        except IsADirectoryError:
            raise ImageError("is a folder. Give the image files in it.", path=name) from None
        except PermissionError:
            raise
        except (OSError, ValueError) as failed:  # a name too long for the file system, a disk that fails
            raise ImageError(
                f"cannot be opened ({getattr(failed, 'strerror', failed)}). Check the path.", path=name
            ) from None
    if not stream.read(1):
        stream.close()
        raise ImageError(f"is empty (0 bytes). {_AGAIN}", path=name)
    stream.seek(0)
    return stream


def _read_header(stream: BinaryIO, size: int = _HEAD) -> bytes:
    stream.seek(0)
    head = stream.read(size)
    stream.seek(0)
    return head


def _note_of_suffix(kind: str, suffix: str) -> str:
    """Return a note where the suffix of a file names another format than its content, else an empty string.

    >>> _note_of_suffix("PNG", ".JPG"), _note_of_suffix("PNG", ".png")
    ('is a PNG file, read as such, although its name ends in .jpg', '')
    """
    suffix = suffix.lower()
    wrong = kind not in FORMATS.get(suffix, {kind})
    return f"is a {kind} file, read as such, although its name ends in {suffix}" if wrong else ""


def _detect_format(stream: BinaryIO, name: str) -> str:
    """Return the format of a file, or raise an error that states what it is instead."""
    head = _read_header(stream)
    kind = format_of(head)
    if kind in ("JPEG XL", "JPEG XR"):
        raise ImageError(
            f"is a {kind} file, whose colour profile cannot be read here. Save it as PNG or TIFF.", path=name
        )
    if kind == "JPEG" and (other := _unsupported_jpeg(_read_header(stream, HEADER))):
        raise ImageError(f"is a {other}, which is not supported. Save it as PNG or TIFF.", path=name)
    if kind == "DICOM":
        raise ImageError("is a DICOM object. Give it to predict or cells as a field, or export it as PNG.", path=name)
    if kind == "GIF" and attempt(lambda: int(getattr(Image.open(stream), "n_frames", 1))) == 1:
        raise ImageError("is a GIF file, which has too few colours. Save it as PNG or TIFF.", path=name)
    if kind:
        return kind
    found = attempt(lambda: Image.open(stream).format)
    if isinstance(found, str) and found not in ("MPO",):
        raise ImageError(f"is a {found} file, which is not supported. Save it as PNG or TIFF.", path=name)
    if other := next((what for start, what in _OTHERS.items() if head.startswith(start)), ""):
        raise ImageError(f"is a {other} file, which is not supported. Export its pictures as PNG or TIFF.", path=name)
    if _is_text(head):
        raise ImageError("is a text file, not an image. Give the image itself.", path=name)
    raise ImageError(f"has an unknown format (it begins with {head[:8].hex(' ')}). Save it as PNG or TIFF.", path=name)


def _unsupported_jpeg(head: bytes) -> str:
    """Return the kind of a JPEG that Pillow would report as damaged; empty for others."""
    at = 2
    while at + 9 < len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xF7:
            return "JPEG-LS file"
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = head[at + 4]
            return f"JPEG of {bits} bits per channel" if bits != 8 else ""
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return ""


def _is_text(head: bytes) -> bool:
    text = attempt(lambda: head.decode("utf-8", "strict" if len(head) < _HEAD else "ignore"))
    return isinstance(text, str) and all(sign.isprintable() or sign in "\r\n\t\f\ufeff" for sign in text)


def _read_tiff(stream: BinaryIO, limits: _Limits) -> Read:
    if not tiff_readable():
        return _read_tiff_by_pillow(stream, limits)
    from .tiff import NotByTifffileError, Tiff

    try:
        with Tiff(stream, name=limits.name) as tiff:
            limits.check(*tiff.size)
            pixels, note = tiff.whole()
            return pixels, tiff.orientation, [tiff.note, note]
    except NotByTifffileError as other:
        stream.seek(0)
        try:
            return _read_by_pillow(stream, "TIFF", limits)
        except ImageError as unread:  # Pillow reports what it cannot decode as damaged
            raise (other if "damaged" in unread.reason else unread) from None


def _read_tiff_by_pillow(stream: BinaryIO, limits: _Limits) -> Read:
    """Read a TIFF of one page of 8-bit RGB with Pillow; refuse others, which need tifffile."""
    opened = quietly(lambda: Image.open(stream))
    if not isinstance(opened, Image.Image) or not _is_8_bit_rgb(opened):
        missing = MissingExtraError("Reading TIFF of this kind (depth, planes, pages or codec)", "fields")
        raise ImageError(f"cannot be read here: {missing}", path=limits.name)
    stream.seek(0)
    return _read_by_pillow(stream, "TIFF", limits)


def _is_8_bit_rgb(image: Image.Image) -> bool:
    """Return whether a TIFF that Pillow has opened is one page of 8-bit RGB."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    one = quietly(lambda: int(getattr(image, "n_frames", 1))) == 1
    eight = image.mode in ("RGB", "RGBA") and set(tags.get(258, ())) == {8} and set(tags.get(339, (1,))) == {1}
    return one and eight and tags.get(262) == 2


def _read_by_pillow(stream: BinaryIO, kind: str, limits: _Limits) -> Read:
    name = limits.name
    head = _read_header(stream)
    with _open_by_pillow(stream, name) as image:
        limits.check(*image.size)
        frames = _count_frames(image, name)
        if frames > 1 and image.format != "MPO":
            raise ImageError(
                f"contains several pictures ({frames}; animated or multi-page). Save one per file.", path=name
            )
        stated = _read_header(stream, -1 if kind == "BMP" else HEADER)  # BMP stores its profile after the pixels
        orientation, profile = orientation_of(image), profile_of(image, stated, name=name)
        bits = _bit_depth(head, kind)
        if bits > 8:
            values, notes = _read_more_bits(stream, kind, bits, name)
        else:
            values, notes = _read_8_bits(image, name), []
    pixels, note = _convert_to_srgb(values, profile, name)
    return pixels, orientation, [*notes, note]


def _convert_to_srgb(values: NDArray[np.uint8], profile: Profile | None, name: str) -> tuple[RGB, str]:
    try:
        return to_srgb(values, profile)
    except ValueError as unknown:
        raise ImageError(str(unknown), path=name) from None


def _open_by_pillow(stream: BinaryIO, name: str) -> Image.Image:
    opened = quietly(lambda: Image.open(stream))
    if isinstance(opened, Image.Image):
        return opened
    if isinstance(opened, Image.DecompressionBombError):
        raise ImageError(too_large("far too many", MAX_PIXELS), path=name)
    if isinstance(opened, UnidentifiedImageError):
        raise ImageError(f"ends early or is damaged (its header cannot be read). {_AGAIN}", path=name)
    raise ImageError(f"ends early or is damaged ({_first_line(opened)}). {_AGAIN}", path=name)


def quietly(work: Callable[[], T]) -> T | Exception:
    """Return what a library returns or raises, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return attempt(work)


def _count_frames(image: Image.Image, name: str) -> int:
    number = quietly(lambda: int(getattr(image, "n_frames", 1)))
    if isinstance(number, Exception):
        raise ImageError(f"ends early or is damaged ({_first_line(number)}). {_AGAIN}", path=name)
    return number


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 where there is none or it is invalid."""
    if image.format == "TIFF":
        return 1  # Pillow rotates these itself, and only these
    value = quietly(lambda: image.getexif().get(0x0112, 1))
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read_8_bits(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Return the pixels of an 8-bit picture: RGB, or CMYK with four channels."""
    loaded = quietly(image.load)
    if isinstance(loaded, MemoryError):
        raise ImageError("needs more memory than available. Crop it.", path=name)
    if isinstance(loaded, Exception):
        raise ImageError(f"ends early or is damaged ({_first_line(loaded)}). {_AGAIN}", path=name)
    if image.mode in ("RGB", "CMYK"):
        return _to_array(image)
    if image.mode == "YCbCr":
        return _to_array(image.convert("RGB"))
    if image.mode in ("RGBA", "RGBX", "P", "PA") or "transparency" in image.info:
        return _drop_alpha(image.convert("RGBA"), name)
    if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
        raise ImageError(f"is a grey (black and white) image; {_COLOUR}", path=name)
    raise ImageError(f"has a colour mode that is not supported ({image.mode}). {_SAVE}", path=name)


def _drop_alpha(image: Image.Image, name: str) -> NDArray[np.uint8]:
    values = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 4)
    return _drop_constant_alpha(values, name)


def _drop_constant_alpha(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return red, green and blue; the alpha channel must be constant and not zero."""
    alpha = values[..., 3]
    if alpha.min() != alpha.max() or alpha.flat[0] == 0:
        raise ImageError("is partly transparent. Save it without transparency, a single cell on black.", path=name)
    return np.ascontiguousarray(values[..., :3])


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels with one copy; np.asarray makes two."""
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.height, image.width, -1)


def _bit_depth(head: bytes, kind: str) -> int:
    """Return the bits per channel that the header states, where Pillow would reduce them to 8."""
    if kind == "PNG" and len(head) > 25:
        return head[24]
    if kind == "JPEG2000" and (at := head.find(b"\xff\x51")) >= 0 and len(head) > at + 41:
        return (head[at + 40] & 0x7F) + 1  # Ssiz of the first channel
    return 8


def _read_more_bits(stream: BinaryIO, kind: str, bits: int, name: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Read a PNG or JPEG 2000 of more than 8 bits per channel and convert it to 8."""
    codec = "png_decode" if kind == "PNG" else "jpeg2k_decode"
    try:
        codecs = require("imagecodecs", feature=f"Reading {kind} of {bits} bits per channel", extra="fields")
    except MissingExtraError as missing:
        raise ImageError(f"cannot be read here: {missing}", path=name) from None
    stream.seek(0)
    content = stream.read()
    if kind == "JPEG2000" and colours_of_jp2(content[:HEADER])[0] == SYCC:
        raise ImageError(f"has YCC colours of {bits} bits per channel, which are not supported. {_SAVE}", path=name)
    if kind == "JPEG2000":  # only its pixels: the decoder would apply a profile
        content = content[max(0, content.find(b"\xff\x4f\xff\x51")) :]
    with muted():
        values = attempt(lambda: getattr(codecs, codec)(content))
    if isinstance(values, Exception):
        raise ImageError(f"ends early or is damaged ({_first_line(values)}). {_AGAIN}", path=name)
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[2] < 3:
        raise ImageError(f"is a grey (black and white) image of {bits} bits; {_COLOUR}", path=name)
    colours = _drop_constant_alpha(values, name) if values.shape[2] == 4 else values
    if colours.dtype == np.uint8:
        return np.ascontiguousarray(colours), []
    try:
        given = range_of(colours, bits=bits)
    except ValueError as unknown:
        raise ImageError(f"has {unknown}. {_SAVE}", path=name) from None
    return eight_bits(colours, given), [given.note]


def _open_heif(stream: BinaryIO, name: str) -> Any:
    try:
        library = require("pi_heif", feature="Reading HEIC", extra="heic")
    except MissingExtraError as missing:
        raise ImageError(f"cannot be read here: {missing}", path=name) from None
    stream.seek(0)
    opened = attempt(lambda: library.open_heif(stream, convert_hdr_to_8bit=False))
    if isinstance(opened, Exception):
        raise ImageError(f"ends early or is damaged ({_first_line(opened)}). {_AGAIN}", path=name)
    if not len(opened):
        raise ImageError(f"is not an image, or contains none. {_AGAIN}", path=name)
    return opened


def _read_heif(stream: BinaryIO, limits: _Limits) -> Read:
    """Read HEIC, which libheif turns upright."""
    name = limits.name
    file = _open_heif(stream, name)
    if len(file) > 1:
        raise ImageError(f"contains several pictures ({len(file)}). Save one picture per file.", path=name)
    image = file[0]
    limits.check(*image.size)
    values = attempt(lambda: np.asarray(image))
    if isinstance(values, Exception):
        raise ImageError(f"ends early or is damaged ({_first_line(values)}). {_AGAIN}", path=name)
    if values.ndim != 3:
        raise ImageError(f"is a grey (black and white) image; {_COLOUR}", path=name)
    colours = _drop_constant_alpha(values, name) if values.shape[2] == 4 else values
    depth = image.info.get("bit_depth", 16)
    given = (
        EIGHT if colours.dtype == np.uint8 else ValueRange(0, 65535, f"{depth} bits per channel, as the file states")
    )
    icc = image.info.get("icc_profile")
    profile = Profile(icc) if icc else profile_of_boxes(_read_header(stream, HEADER), name=name)
    pixels, note = _convert_to_srgb(eight_bits(colours, given), profile, name)
    return pixels, 1, [given.note, note]


def _box_length(head: bytes) -> int:
    return int(struct.unpack(">I", head[:4])[0])


def _first_line(raised: object) -> str:
    """Return the first line of a library's message, without its count of unprocessed bytes."""
    text = re.sub(r" \(\d+ bytes not processed\)", "", (str(raised).splitlines() or [""])[0])
    return text[:120] or type(raised).__name__
