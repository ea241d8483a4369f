"""The picture of a TIFF, whole or by rectangles: any depth, any order of planes, every codec that imagecodecs has.

tifffile finds the pages and decodes strips and tiles; here it is decided which page is the picture, every strip is
proven to be there, and what Pillow or OpenCV would cut to a byte keeps its depth until its range is known.
"""

import contextlib
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, LeukoscopeError, attempt, require
from ..progress import muted
from .colour import Profile, ValueRange, eight_bits, lab_to_srgb, profile_of_tags, range_of, to_srgb

Places = tuple[slice, slice]

_GREY, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR, _CIELAB, _ICCLAB = 1, 2, 3, 4, 5, 6, 8, 9
_NAMES = {
    0: "a grey (black and white) image",
    1: "a grey (black and white) image",
    _MASK: "a mask",
    10: "in ITU L*a*b* colours",
    32803: "a camera's raw image",
    32844: "in LogL values",
    32845: "in LogLuv colours",
    34892: "a camera's raw image",
}
_LOUD = (22610, 34934, 34933)  # JPEG XR and PNG: their libraries write to standard error
_REDUCED, _MASKED = 1, 4  # bits of NewSubfileType
_RGB_CODECS = {6, 7, 34892, 33007, 50001, 50002, 52546, 33004, 33005, 34712}  # decoded to RGB whatever was stored
_ASIDE = ("label", "macro", "thumbnail", "overview", "map")  # pictures of a slide that show no field of it
_MOST_CHANNELS, _MOST_TAGS, _MOST_PAGES = 16, 1_000, 2_000
_MOST_BYTES = 1_500_000_000  # of one picture before it is brought to 8 bits
_SAVE = "Save it as 8- or 16-bit RGB."
_DYES = re.compile(
    r"dapi|hoechst|fitc|tritc|\bcy ?[2357]|gfp|rfp|yfp|cfp|mcherry|tomato|texas|alexa|\baf ?\d{3}|rhodamine|draq"
)
_GLOWS = re.compile(r'\b(?:Fluor|EmissionWavelength|ExcitationWavelength)="|="(?:Fluorescence|Epifluorescence)"')
_COLOUR_NAMES = re.compile(r"(?:^|[\W_])(red|green|blue|[rgb])$")


class Tiff:
    """One picture in a TIFF, read by rectangles in the pixels of its largest level."""

    def __init__(self, source: Path | BinaryIO, *, name: str) -> None:
        """Open a TIFF.

        Raises:
            ImageError: it is damaged, contains several pictures, or none in colour.
            MissingExtraError: the extra `fields` is not installed.
        """
        self.name = name
        self._lock = threading.RLock()
        tifffile = library()
        _check_pages(source, name)
        self.file = _library_call(lambda: tifffile.TiffFile(source, _multifile=False), name)
        try:
            self._levels: list[_Level] = _library_call(self._opened, name)
        except BaseException:
            self.close()
            raise
        self.page = self._levels[0].page
        self.size = self._levels[0].size
        """Width and height in pixels as stored."""
        self.orientation = _orientation(self.page)
        self._range: ValueRange | None = None

    def _opened(self) -> "list[_Level]":
        return [_Level(stored, self.name, self._lock) for stored in _levels(self.file, self.name)]

    def __enter__(self) -> "Tiff":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @property
    def level_sizes(self) -> list[tuple[int, int]]:
        """Width and height of each level, the largest first."""
        return [level.size for level in self._levels]

    @property
    def level_pages(self) -> list[Any]:
        """The page of each level as tifffile has it, the largest first; the first of three where colours are apart."""
        return [level.page for level in self._levels]

    @property
    def single_pages(self) -> bool:
        """Whether each level is one page, and not one for each colour."""
        return all(len(level.pages) == 1 for level in self._levels)

    def compressed(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of a level as they are stored, row by row; nothing for one that was left out on purpose."""
        first = self._levels[level]
        for index in range(len(first.page.dataoffsets)):
            yield first.stored(first.page, index) or b""

    @property
    def tiled(self) -> bool:
        """Whether rectangles can be read without reading whole rows."""
        return bool(self.page.is_tiled)

    @property
    def note(self) -> str:
        """How planes were taken for colours and what was done to the depth, in words; known when something was read."""
        return "; ".join(filter(None, (self._levels[0].note, self._range.note if self._range else "")))

    def read(self, left: int, top: int, width: int, height: int, *, level: int = 0) -> tuple[NDArray[np.uint8], str]:
        """Return a rectangle of a level as stored (not turned): uint8 sRGB, (height, width, 3), and what was done."""
        first = self._levels[level]
        values, empty = _library_call(lambda: first.read(left, top, width, height), self.name, page=first.page)
        pixels, note = self._coloured(_opaque(values, first.alphas, self.name), first)
        for rows, columns in empty:
            pixels[rows, columns] = 255  # glass: a scanner leaves such tiles out
        return pixels, note

    def _coloured(self, values: NDArray[Any], level: "_Level") -> tuple[NDArray[np.uint8], str]:
        """Return values without alpha as sRGB, and what was done to their colours."""
        photometric = int(level.page.photometric)
        if photometric in (_CIELAB, _ICCLAB):
            return lab_to_srgb(values, signed=photometric == _CIELAB), "L*a*b* colours converted to sRGB"
        if self._range is None:
            self._range = self._range_of_values(values)
        pixels = eight_bits(_expanded(values, self.page), self._range)
        profile = _profile(self.page, self.name)
        try:
            return to_srgb(pixels, profile)
        except ValueError as unknown:
            raise ImageError(str(unknown), path=self.name) from None

    def whole(self) -> tuple[NDArray[np.uint8], str]:
        """Return the whole picture as stored."""
        width, height = self.size
        bytes_needed = width * height * self._levels[0].channels * self._levels[0].dtype.itemsize
        if bytes_needed > _MOST_BYTES:
            raise ImageError(f"takes {bytes_needed / 1e9:.1f} GB when unpacked. Crop it.", path=self.name)
        return self.read(0, 0, width, height)

    def _range_of_values(self, values: NDArray[Any]) -> ValueRange:
        """Return the range of the picture: of these values where they are all of it, else of what the slide shows."""
        if self.page.photometric == _PALETTE:
            return range_of(np.zeros(1, np.uint8), bits=8)
        bits = self.page.bitspersample
        if isinstance(bits, tuple):
            raise ImageError(f"has channels of different depths ({bits} bits). {_SAVE}", path=self.name)
        sample = values
        if bits > 8 and values.shape[:2] != self.size[::-1]:
            sample = self._seen(values)
        try:
            return range_of(sample, bits=bits, stated=_stated_range(self.page))
        except ValueError as unknown:
            raise ImageError(f"has {unknown}. {_SAVE}", path=self.name) from None

    def _seen(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return lowest and highest value of up to 64 places all over the slide, so that all tiles share one range."""
        level = self._levels[0]
        found = [values.min(), values.max()]
        for place in _places(self.size):
            part = attempt(lambda place=place: _opaque(level.read(*place)[0], level.alphas, self.name))  # type: ignore[misc]
            if not isinstance(part, Exception):  # a damaged tile is named when it is read for its cells
                found += [part.min(), part.max()]
        return np.array(found).reshape(1, -1, 1)


class _Level:
    """A picture in one page, or in one page for each colour."""

    def __init__(self, stored: "_Stored", name: str, lock: Any) -> None:
        self.pages, self.note, self.name, self._lock = stored.pages, stored.note, name, lock
        self.page = page = stored.pages[0]
        self.size = (int(page.imagewidth), int(page.imagelength))
        self.channels = len(stored.pages) * int(page.samplesperpixel)
        self.dtype = np.dtype(page.dtype) if page.dtype is not None else np.dtype(np.uint8)
        self._check()
        self._tables = int(page.compression) in (6, 7, 34892, 33007)
        self.alphas = _alphas(page, self.channels)

    def _check(self) -> None:
        page, name = self.page, self.name
        if 0 in self.size:
            raise ImageError("has no pixels. Copy or export it again.", path=name)
        if page.imagedepth > 1:
            raise ImageError(f"is a volume of {page.imagedepth} planes. Save one plane per file.", path=name)
        if not 0 < self.channels <= _MOST_CHANNELS:
            raise ImageError(f"has {self.channels} channels, not red, green and blue. {_SAVE}", path=name)
        planes = len(self.pages) > 1
        photometric = int(page.photometric)
        if photometric in _NAMES and not planes and (page.samplesperpixel < 3 or photometric not in (0, 1)):
            raise ImageError(f"is {_NAMES[photometric]}; stained cells need colour. Use a colour image.", path=name)
        if photometric in (2, _YCBCR) and self.channels < 3:
            raise ImageError(f"has {self.channels} channels, not red, green and blue. {_SAVE}", path=name)
        if photometric == _YCBCR and int(page.compression) not in _RGB_CODECS:
            raise NotByTifffileError(name)
        if page.dtype is None or page.dtype.kind not in "uif":
            raise ImageError(f"has pixels that are not colours ({page.dtype}). {_SAVE}", path=name)
        self._check_colours(photometric)

    def _check_colours(self, photometric: int) -> None:
        name = self.name
        if photometric == 0 and self.channels >= 3:
            raise ImageError("states that 0 is white, which is not supported. Save it as RGB.", path=name)
        if photometric in (_CIELAB, _ICCLAB) and (self.channels < 3 or self.dtype not in (np.uint8, np.uint16)):
            raise ImageError(f"has L*a*b* colours of {self.dtype}, which are not supported. {_SAVE}", path=name)
        if photometric not in (*_NAMES, 2, _PALETTE, _CMYK, _YCBCR, _CIELAB, _ICCLAB):
            raise ImageError(f"has colours of an unknown kind (photometric {photometric}). {_SAVE}", path=name)

    def read(self, left: int, top: int, width: int, height: int) -> tuple[NDArray[Any], list[Places]]:
        """Return a rectangle as stored, (height, width, channels), and the places of tiles that were left out."""
        result = np.zeros((height, width, self.channels), self.dtype)
        empty: list[Places] = []
        for number, page in enumerate(self.pages):
            samples = int(page.samplesperpixel)
            empty += self._fill(page, result[..., number * samples : (number + 1) * samples], left, top)
        return result, empty

    def _fill(self, page: Any, result: NDArray[Any], left: int, top: int) -> Iterator[Places]:
        decode = page.decode
        height, width = result.shape[:2]
        planes = int(page.samplesperpixel) if page.planarconfig == 2 and page.samplesperpixel > 1 else 1
        for index, plane in _segments(page, left, top, width, height, planes=planes):
            data = self.stored(page, index)
            more = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if self._tables else {}
            with muted() if int(page.compression) in _LOUD else contextlib.nullcontext():
                part, at, shape = decode(data, index, **more)
            if part is None:
                yield _overlap(result, shape[1:3], at, left=left, top=top)[0]
            else:
                _place(result, part, at, left=left, top=top, plane=plane if planes > 1 else None)

    def stored(self, page: Any, index: int) -> bytes | None:
        """Return a compressed strip or tile; None for a tile of a slide that was left empty on purpose."""
        try:
            offset, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
        except IndexError:
            raise ImageError("ends early or is damaged (a strip is missing). Copy it again.", path=self.name) from None
        if count == 0 and page.is_tiled:
            return None
        with self._lock:
            handle = page.parent.filehandle
            if count <= 0 or offset < 0 or offset + count > handle.size:
                raise ImageError("ends early or is damaged (a strip is missing). Copy it again.", path=self.name)
            handle.seek(offset)
            return bytes(handle.read(count))


class NotByTifffileError(ImageError):
    """Colours that Pillow decodes and tifffile does not: uncompressed YCbCr."""

    def __init__(self, name: str) -> None:
        super().__init__(f"has YCbCr colours in a layout that is not supported. {_SAVE}", path=name)


def library() -> Any:
    """Return tifffile, made silent: the program reports what is wrong with a file itself, once.

    Raises:
        MissingExtraError: the extra `fields` is not installed.
    """
    tifffile = require("tifffile", feature="Reading TIFF", extra="fields")
    require("imagecodecs", feature="Reading compressed TIFF", extra="fields")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def _library_call(work: Any, name: str, *, page: Any = None) -> Any:
    """Return what tifffile or a decoder returns; whatever they raise is reported as an error of the file."""
    done = attempt(work)
    if not isinstance(done, Exception):
        return done
    if isinstance(done, LeukoscopeError):
        raise done
    line = (str(done).splitlines() or [""])[0][:120]
    why = f"{type(done).__name__}: {line}".strip(" :")
    if isinstance(done, ImportError) or "imagecodecs" in line or "DelayedImportError" in why:
        codec = getattr(getattr(page, "compression", None), "name", "this kind of").replace("_", " ")
        raise ImageError(
            f"is compressed as {codec}, whose decoder is not installed. Install it with: "
            "pip install 'leukoscope[fields]'",
            path=name,
        ) from None
    if isinstance(done, MemoryError):
        raise ImageError("needs more memory than available. Crop it.", path=name) from None
    raise ImageError(
        f"is damaged, or has an encoding that is not supported ({why}). Copy or export it again.", path=name
    ) from None


def _check_pages(source: Path | BinaryIO, name: str) -> None:
    """Go through the list of pages before it is parsed, which can take minutes where damage has made it endless.

    Raises:
        ImageError: a page has more tags than any program writes, or there are more pages than anybody reads as one.
    """
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as stream:
        for number, tags in enumerate(_tags_per_page(stream), start=1):
            if tags is None:
                raise ImageError("is damaged (its list of pages is circular). Copy it again.", path=name)
            if tags > _MOST_TAGS:
                raise ImageError(f"ends early or is damaged (a page with {tags:,} tags). Copy it again.", path=name)
            if number > _MOST_PAGES:
                raise ImageError(_several(f"more than {_MOST_PAGES:,}"), path=name)
        stream.seek(0)


def _tags_per_page(stream: BinaryIO) -> Iterator[int | None]:
    """Yield the number of tags of each page, and None where the list comes back to a page it has had.

    NDPI above 4 GiB, which keeps its offsets elsewhere, is not checked.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(4)
    big = head[2:4] in (b"+\0", b"\0+")
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    wide, counted, tag = (8, 8, 20) if big else (4, 2, 12)

    def number(place: int, length: int) -> int:
        stream.seek(place)
        return int.from_bytes(stream.read(length), order)

    page = number(8 if big else 4, wide) if big or size < 2**32 else 0
    seen: set[int] = set()
    while 0 < page < size:
        if page in seen:
            yield None
            return
        seen.add(page)
        tags = number(page, counted)
        yield tags
        page = number(page + counted + tags * tag, wide)


@dataclass(frozen=True)
class _Stored:
    """Where the colours of one level lie: in one page, or in one page each, in the order red, green, blue."""

    pages: Sequence[Any]
    note: str = ""


def _levels(file: Any, name: str) -> list[_Stored]:
    """Return each level of the one picture, the largest first.

    Raises:
        ImageError: there is none, or more than one.
    """
    series = _library_call(lambda: list(file.series), name)
    if not series:
        raise ImageError("is not an image, or contains none. Export it again.", path=name)
    full = [one for one in series if not _aside(one)] or series[:1]
    first = max(full, key=_area) if _is_slide(file) else full[0]
    others = [one for one in full if one is not first and not _is_level_of(one, first)]
    if _is_slide(file):
        others = [] if getattr(file, "is_scn", False) or file.is_svs or file.is_ndpi or file.is_bif else others
    if others:
        raise ImageError(_several(sum(_pictures(one) for one in [first, *others])), path=name)
    levels = list(getattr(first, "levels", None) or [first])
    levels += sorted((one for one in full if one is not first and _is_level_of(one, first)), key=_area, reverse=True)
    return [_pages_of(level, file, name) for level in levels]


def _pages_of(series: Any, file: Any, name: str) -> "_Stored":
    """Return the page of a series, or its three pages that are one colour each."""
    axes = "".join(axis for axis, length in zip(series.axes, series.shape, strict=True) if length > 1 or axis in "YX")
    length = dict(zip(series.axes, series.shape, strict=True))
    rest = [axis for axis in axes if axis not in "YXS"]
    pages = [page for page in series.pages if page is not None]
    if len(pages) == 1 and len(series.pages) == 1 and not _hidden(series, pages[0]):
        page = _library_call(pages[0].aspage, name)
        grey = int(page.photometric) == _GREY and page.samplesperpixel >= 3
        return _Stored([page], "samples stated to be grey, read as red, green and blue" if grey else "")
    colours = len(rest) == 1 and length[rest[0]] in (3, 4) and "S" not in axes
    if not colours or (length[rest[0]] == 4 and rest[0] not in "CQI"):
        raise ImageError(_several(_pictures(series)), path=name)
    if length[rest[0]] == 4:
        raise ImageError(f"has 4 channels, not red, green and blue. {_SAVE}", path=name)
    whole = [_library_call(page.aspage, name) for page in pages]
    order, note = _order_of_colours(file, whole, rest[0], name)
    if len(whole) != length[rest[0]]:
        raise ImageError(f"has {length[rest[0]]} channels in a layout that is not supported. {_SAVE}", path=name)
    return _Stored([whole[number] for number in order], note)


def _hidden(series: Any, page: Any) -> bool:
    """Return whether a series has more planes than pages, as ImageJ stores large stacks behind one page."""
    return bool(math.prod(series.shape) > math.prod(page.shape))


def _order_of_colours(file: Any, pages: Sequence[Any], axis: str, name: str) -> tuple[tuple[int, ...], str]:
    """Return which of three planes is red, green and blue, and a note about it.

    Colours and names that the file gives decide. Without them, planes that it calls channels are red, green and blue
    in this order, with a note; pages without such a statement could be anything.

    Raises:
        ImageError: the channels have other colours, as in fluorescence, or nothing states that the pages are colours.
    """
    found = _ome_colours(file) or _imagej_colours(file) or _colours_named(_page_names(file, pages))
    if found is not None and sorted(found) != ["b", "g", "r"]:
        raise ImageError("has channels that are not red, green and blue (fluorescence). Save it as RGB.", path=name)
    if found is not None:
        return tuple(found.index(colour) for colour in "rgb"), ""
    if all(int(page.photometric) == _RGB for page in pages):
        return (0, 1, 2), ""
    if axis != "C" or (file.is_imagej and (file.imagej_metadata or {}).get("mode") == "grayscale"):
        raise ImageError(
            f"contains {len(pages)} grey pages and does not state whether they are the channels of one picture "
            f"or several pictures ({len(pages)} pages). Save it as RGB, or one picture per file.",
            path=name,
        )
    return (0, 1, 2), "three channels without names or colours, read as red, green and blue in this order"


def _ome_colours(file: Any) -> str | None:
    if not file.is_ome:
        return None
    text = file.ome_metadata or ""
    pixels = text[text.find("<Pixels") : text.find("</Pixels>")]
    channels = re.findall(r"<(?:\w+:)?Channel\b[^>]*>", pixels)
    names = [match.group(1) for one in channels if (match := re.search(r'\bName="([^"]*)"', one))]
    colours = [match.group(1) for one in channels if (match := re.search(r'\bColor="(-?\d+)"', one))]
    if any(_GLOWS.search(one) for one in channels) or any(_DYES.search(one.lower()) for one in names):
        return "???"
    if len(colours) != 3 or len(set(colours)) == 1:  # all white: nobody chose them
        return _colours_named(names)
    known = {0xFF0000: "r", 0x00FF00: "g", 0x0000FF: "b"}
    return "".join(known.get((int(value) & 0xFFFFFFFF) >> 8, "?") for value in colours)


def _colours_named(names: Sequence[str]) -> str | None:
    """Return the colours of three planes by their names; question marks for dyes, None where the names are unknown.

    >>> _colours_named(["Camera blue", "Camera green", "Camera red"])
    'bgr'
    """
    if any(_DYES.search(name.lower()) for name in names):
        return "???"
    words = [match.group(1) for name in names if (match := _COLOUR_NAMES.search(name.strip().lower()))]
    return "".join(word[0] for word in words) if len({word[0] for word in words}) == len(names) == 3 else None


def _page_names(file: Any, pages: Sequence[Any]) -> list[str]:
    """Return what ImageJ's labels, or the names or descriptions of pages, call them; nothing where one has none."""
    labels = (file.imagej_metadata or {}).get("Labels") if file.is_imagej else None
    for names in (labels, *([page.tags.valueof(code) for page in pages] for code in (285, 270))):
        if names and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _imagej_colours(file: Any) -> str | None:
    tables = (file.imagej_metadata or {}).get("LUTs") if file.is_imagej else None
    if not tables or len(tables) != 3:
        return None
    ends = [tuple(int(channel[-1]) > 127 for channel in table) for table in tables]
    known: dict[tuple[bool, ...], str] = {
        (True, False, False): "r",
        (False, True, False): "g",
        (False, False, True): "b",
    }
    if len(set(ends)) == 1:
        return None
    return "".join(known.get(end, "?") for end in ends)


def _pictures(series: Any) -> int:
    """Return how many pictures a series holds."""
    length = dict(zip(series.axes, series.shape, strict=True))
    return max(1, math.prod(int(size) for axis, size in length.items() if axis not in "YXS"))


def _several(number: int | str) -> str:
    return f"contains several pictures ({number} pages). Save one picture per file."


def _area(series: Any) -> int:
    return int(series.keyframe.imagewidth) * int(series.keyframe.imagelength)


def _is_slide(file: Any) -> bool:
    return bool(file.is_svs or file.is_ndpi or file.is_scn or file.is_bif or file.is_philips)


def _aside(series: Any) -> bool:
    """Return whether a series is a level, mask, label or macro, by what it states."""
    kind = int(getattr(series.keyframe, "subfiletype", 0) or 0)
    return bool(kind & (_REDUCED | _MASKED)) or any(word in (series.name or "").lower() for word in _ASIDE)


def _is_level_of(series: Any, first: Any) -> bool:
    """Return whether a series is the first one at a half, a quarter, an eighth …, as pyramids without tags are."""
    small, large = series.keyframe, first.keyframe
    if not small.is_tiled or small.samplesperpixel != large.samplesperpixel or small.dtype != large.dtype:
        return False
    factor = large.imagewidth / small.imagewidth
    power = round(math.log2(factor)) if factor > 1 else 0
    if power < 1:
        return False
    sides = ((large.imagewidth, small.imagewidth), (large.imagelength, small.imagelength))
    return all(abs(one / 2**power - other) <= 2 for one, other in sides)


def _segments(page: Any, left: int, top: int, width: int, height: int, *, planes: int) -> Iterator[tuple[int, int]]:
    """Yield index and plane of the strips or tiles that a rectangle touches."""
    wide = int(page.tilewidth) if page.is_tiled else int(page.imagewidth)
    high = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), int(page.imagelength))
    wide, high = max(wide, 1), max(high, 1)
    across, down = math.ceil(page.imagewidth / wide), math.ceil(page.imagelength / high)
    for plane in range(planes):
        for row in range(top // high, min(down, (top + height - 1) // high + 1)):
            for column in range(left // wide, min(across, (left + width - 1) // wide + 1)):
                yield plane * across * down + row * across + column, plane


def _overlap(result: NDArray[Any], shape: Any, at: Any, *, left: int, top: int) -> tuple[Places, Places]:
    """Return where a strip or tile lies in the rectangle that begins at left, top, and which part of it does."""
    row, column = int(at[2]) - top, int(at[3]) - left
    height, width = result.shape[:2]
    up, sideways = max(0, -row), max(0, -column)
    down, right = max(up, min(shape[0], height - row)), max(sideways, min(shape[1], width - column))
    there = slice(row + up, row + down), slice(column + sideways, column + right)
    return there, (slice(up, down), slice(sideways, right))


def _place(result: NDArray[Any], part: NDArray[Any], at: Any, *, left: int, top: int, plane: int | None) -> None:
    """Copy a strip or tile, (depth, height, width, channels), into the rectangle that begins at left, top."""
    there, inside = _overlap(result, part.shape[1:3], at, left=left, top=top)
    if plane is None:
        result[there] = part[0][inside][..., : result.shape[2]]
    else:
        result[(*there, plane)] = part[0][inside][..., 0]


def _alphas(page: Any, channels: int) -> int:
    """Return how many channels are not colours."""
    colours = 1 if page.photometric == _PALETTE else 4 if page.photometric == _CMYK else 3
    return channels - colours


def _opaque(values: NDArray[Any], alphas: int, name: str) -> NDArray[Any]:
    """Return the colours without alpha.

    Raises:
        ImageError: it is partly transparent, or a further channel holds something.
    """
    if alphas <= 0:
        return values
    for number in range(values.shape[2] - alphas, values.shape[2]):
        alpha = values[..., number]
        if alpha.min() != alpha.max() or alpha.flat[0] == 0:
            raise ImageError(
                "is partly transparent, or has a channel besides red, green and blue. Save it as RGB.", path=name
            )
    return values[..., : values.shape[2] - alphas]


def _expanded(values: NDArray[Any], page: Any) -> NDArray[Any]:
    """Return the colours of a palette's numbers; other values as they are."""
    if page.photometric != _PALETTE:
        return values
    table = np.asarray(page.colormap)
    if table.max() > 255:
        table = table >> 8  # whether white is 65,535 or, as some write it, 65,280
    return np.asarray(table.T[values[..., 0]], np.uint8)


def _stated_range(page: Any) -> tuple[float, float] | None:
    """Return SMinSampleValue and SMaxSampleValue, one for all channels; None where they are not both there."""
    lowest, highest = (_tag_values(page, code) for code in (340, 341))
    return (min(lowest), max(highest)) if lowest and highest else None


def _tag_values(page: Any, code: int) -> list[float]:
    """Return the numbers of a tag; none where it is missing or holds others."""
    tag = page.tags.get(code)
    values = attempt(lambda: np.atleast_1d(tag.value).astype(float).tolist()) if tag is not None else []
    return values if isinstance(values, list) and all(math.isfinite(value) for value in values) else []


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    value = attempt(lambda: int(tag.value)) if tag is not None else 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _profile(page: Any, name: str) -> Profile | None:
    tag = page.tags.get(34675)
    if tag is not None and isinstance(tag.value, bytes):
        return Profile(tag.value)
    white, primaries = _fractions(page, 318), _fractions(page, 319)
    return profile_of_tags(white, primaries, name=name)


def _fractions(page: Any, code: int) -> list[float]:
    """Return the fractions of a tag; none where it is missing or holds others."""
    tag = page.tags.get(code)
    values = (
        attempt(lambda: [one / two for one, two in np.reshape(tag.value, (-1, 2)).tolist()]) if tag is not None else []
    )
    return values if isinstance(values, list) else []


def _places(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return rectangles all over a slide: 8 by 8 of them, of at most 256 pixels a side."""
    width, height = size
    wide, high = min(256, width), min(256, height)
    lefts = sorted({round(step) for step in np.linspace(0, width - wide, 8)})
    tops = sorted({round(step) for step in np.linspace(0, height - high, 8)})
    return [(left, top, wide, high) for top in tops for left in lefts]
