"""Slides and fields piece by piece: a slide is taken in without being unpacked, and any picture is drawn by tiles.

A slide is copied tile by tile as its tiles are compressed, with nothing else of its file: no label, no name, no date,
no comment inside a JPEG. What is stored in another way (planes of their own, NDPI, DICOM) is decoded and re-encoded,
tile by tile too, so a slide of any size needs the memory of a few tiles. A field gets the same form, once, to be drawn
from.

Tiles are numbered as in Microsoft's Deep Zoom: at the highest level a pixel of the tile is one of the picture, each
level below has half as many.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError, Refusal
from ..images.read import RGB, file_format
from ..images.scale import scale_of_tiff
from ..images.tiff import Tiff, library
from .store import framed, jpeg, open_stored

TILE = 512
"""Side of a drawn tile, in pixels."""
_COARSEST = 8192  # pixels of the longer side of a slide's smallest level
_STEP = 8.5  # from one level to the next
_LARGEST_TILE = 4096  # pixels of the side of a stored tile: one takes 50 MB at most
_SMALL = 4_000_000  # pixels of a level that need not be tiled
_BAND = 4_000_000  # pixels that are read at a time
_SHRINK = 4  # from one level to the next, where levels are made here
_OVERVIEW = 2048  # pixels of the longer side below which no smaller level is made
_TILES_AT_ONCE = 8
_QUALITY = 92
_JPEG = (6, 7, 34892)  # compressions whose tiles are JPEG streams
_CURE = (
    "Save it as a tiled pyramid, for example: vips tiffsave IN.tif OUT.tif --tile --pyramid --compression jpeg --Q 90 "
    "--bigtiff."
)


@dataclass(frozen=True)
class SlideFacts:
    """What is known of a slide that was taken in."""

    width: int
    height: int
    um_per_px: float | None
    notes: tuple[str, ...] = ()
    """What of its scale was rejected."""


def take_slide(source: Path, target: Path, *, most_pixels: int) -> SlideFacts | None:
    """Write the pixels of a slide, and nothing else of it, to `target`; None for what has fewer pixels, or is not a
    slide.

    Raises:
        ImageError: it cannot be looked at piece by piece, or is damaged.
        MissingExtraError: the extra `fields` is not installed, or for DICOM the extra `dicom`.
    """
    kind = file_format(source)
    if kind == "DICOM":
        return _take_dicom(source, target, most_pixels=most_pixels)
    if kind != "TIFF":
        return None
    with Tiff(source, name="This slide") as tiff:
        width, height = tiff.size
        if width * height <= most_pixels:
            return None
        _check(tiff)
        stated = scale_of_tiff(tiff)
        _check_decodable(tiff)
        _copy(tiff, target)
    return SlideFacts(width, height, stated.um_per_px, tuple(filter(None, (stated.note,))))


def _check(tiff: Tiff) -> None:
    """Refuse what could be read only as a whole, or in pieces too large for the memory."""
    sizes = tiff.level_sizes
    width, height = sizes[0]
    what = f"This slide has {width:,}x{height:,} pixels"
    if not tiff.tiled:
        raise ImageError(f"{what} in strips, which can be read only as a whole. {_CURE}")
    if max(sizes[-1]) > _COARSEST:
        smallest = "no smaller levels" if len(sizes) == 1 else f"still {max(sizes[-1]):,} at its smallest level"
        raise ImageError(f"{what}, and {smallest}, so that its overview would need all of it. {_CURE}")
    for level, (large, small) in enumerate(pairwise(sizes)):
        if large[0] / small[0] > _STEP:
            raise ImageError(f"{what}, and level {level + 1} is {large[0] / small[0]:.0f} times smaller. {_CURE}")
    for page in tiff.level_pages:
        if not page.is_tiled and page.imagewidth * page.imagelength > _SMALL:
            raise ImageError(f"{what}; a smaller level of it is in strips. {_CURE}")
        if page.is_tiled and max(page.tilewidth, page.tilelength) > _LARGEST_TILE:
            raise ImageError(f"{what} in tiles of {page.tilewidth:,}x{page.tilelength:,}, too large to open. {_CURE}")
    if tiff.orientation != 1:
        raise ImageError(f"{what} and is stored turned. Save it upright.")


def _check_decodable(tiff: Tiff) -> None:
    """Decode a tile in the middle of each level: what cannot be decoded is refused now, not when it is looked at."""
    for level, (width, height) in enumerate(tiff.level_sizes):
        side = min(256, width, height)
        tiff.read((width - side) // 2, (height - side) // 2, side, side, level=level)


def _copy(tiff: Tiff, target: Path) -> None:
    as_it_is = all(_copyable(page) for page in tiff.level_pages) and tiff.single_pages
    levels: list[tuple[Any, dict[str, Any]]] = [
        (_compressed(tiff, level), _form(page)) if as_it_is else (_recompressed(tiff, level), _plain_form(size))
        for level, (page, size) in enumerate(zip(tiff.level_pages, tiff.level_sizes, strict=True))
    ]
    _write(target, levels, byteorder=tiff.file.byteorder if as_it_is else None)


def _write(target: Path, levels: Sequence[tuple[Any, dict[str, Any]]], *, byteorder: str | None) -> None:
    """Write a pyramid of levels, each its tiles and how they are stored, the finest first."""
    options: dict[str, Any] = {"bigtiff": True, "byteorder": byteorder}
    with library().TiffWriter(target, **options) as out:
        for level, (tiles, form) in enumerate(levels):
            common = {
                "metadata": None,
                "software": False,
                "subfiletype": 1 if level else 0,
                "subifds": 0 if level else len(levels) - 1,
            }
            out.write(tiles, **form, **common)


def _take_dicom(source: Path, target: Path, *, most_pixels: int) -> SlideFacts | None:
    """Write a DICOM slide as a pyramid: its frames are decoded once, and each smaller level is made of the last one.

    A DICOM file holds one level; whatever other levels the scanner has made lie in files of their own.
    """
    from ..interop.dicom import DicomImage

    try:
        image = DicomImage(source)
        width, height = image.size
        if width * height <= most_pixels:
            return None
        _write_levels(image, target)
    except ImageError as unusable:
        words = str(unusable.reason).replace(str(source), "This slide")
        raise ImageError(words if words.startswith("This slide") else f"This slide {words}") from None
    return SlideFacts(width, height, image.um_per_px, tuple(image.notes))


def _write_levels(image: Any, target: Path) -> None:
    """Write a picture that is read by rectangles as a pyramid; what is needed on the way is named like the target."""
    with ExitStack() as opened:
        levels: list[Tiff] = []
        while not levels or max(levels[-1].size) > _OVERVIEW:
            path = target.with_name(f"{target.name}-{len(levels)}")
            opened.callback(path.unlink, missing_ok=True)
            last = levels[-1] if levels else None
            size = (math.ceil(last.size[0] / _SHRINK), math.ceil(last.size[1] / _SHRINK)) if last else image.size
            _write(path, [(_shrunk(last, size) if last else _read(image), _plain_form(size))], byteorder=None)
            levels.append(opened.enter_context(Tiff(path, name="This slide")))
        parts = [(_compressed(each, 0), _form(each.level_pages[0])) for each in levels]
        _write(target, parts, byteorder=levels[0].file.byteorder)


def _read(image: Any) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of a picture, which is read some tiles at a time: its own may have another size."""
    width, height = image.size
    for top in range(0, height, TILE):
        for left in range(0, width, _TILES_AT_ONCE * TILE):
            part = image.read(left, top, min(_TILES_AT_ONCE * TILE, width - left), min(TILE, height - top))
            for place in range(0, part.shape[1], TILE):
                yield _padded(part[:, place : place + TILE])


def _shrunk(tiff: Tiff, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of a level of this size, each of a part of the level before, which is larger."""
    side = _SHRINK * TILE
    for top in range(0, size[1], TILE):
        for left in range(0, size[0], TILE):
            x, y = _SHRINK * left, _SHRINK * top
            part = tiff.read(x, y, min(side, tiff.size[0] - x), min(side, tiff.size[1] - y))[0]
            wanted = (min(TILE, size[0] - left), min(TILE, size[1] - top))
            yield _padded(np.asarray(Image.fromarray(part).resize(wanted, Image.Resampling.BOX)))


def _padded(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a tile of TILE pixels a side, its last row and column repeated where it has fewer."""
    return np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)), mode="edge")


def _copyable(page: Any) -> bool:
    return bool(page.is_tiled and page.planarconfig == 1 and not page.jpegheader and page.imagedepth == 1)


def _form(page: Any) -> dict[str, Any]:
    """Return how a page is stored, as tifffile's writer takes it."""
    form: dict[str, Any] = {
        "shape": (page.imagelength, page.imagewidth, page.samplesperpixel),
        "dtype": page.dtype,
        "tile": (page.tilelength, page.tilewidth),
        "compression": int(page.compression),
        "photometric": int(page.photometric),
        "planarconfig": 1,
    }
    if page.samplesperpixel == 1:
        form |= {"shape": form["shape"][:2], "planarconfig": None}
    if page.predictor != 1:
        form["predictor"] = int(page.predictor)
    if int(page.compression) in _JPEG:
        form |= {"subsampling": tuple(page.subsampling or (1, 1)), "jpegtables": page.jpegtables}
    if page.extrasamples:
        form["extrasamples"] = tuple(int(each) for each in page.extrasamples)
    profile = page.tags.get(34675)
    if profile is not None and isinstance(profile.value, bytes):
        form["iccprofile"] = profile.value
    if page.colormap is not None:
        form["colormap"] = page.colormap
    return form


def _plain_form(size: tuple[int, int]) -> dict[str, Any]:
    return {
        "shape": (size[1], size[0], 3),
        "dtype": np.uint8,
        "tile": (TILE, TILE),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": _QUALITY},
        "subsampling": (1, 1),
    }


def _compressed(tiff: Tiff, level: int) -> Iterator[bytes]:
    """Yield the tiles of a level as they are compressed; nothing for one that the scanner left out."""
    in_jpeg = int(tiff.level_pages[level].compression) in _JPEG
    for content in tiff.compressed(level):
        yield without_comments(content) if in_jpeg else content


def _recompressed(tiff: Tiff, level: int) -> Iterator[NDArray[np.uint8]]:
    width, height = tiff.level_sizes[level]
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            part = tiff.read(left, top, min(TILE, width - left), min(TILE, height - top), level=level)[0]
            yield _padded(part)


_COMMENT, _SCAN, _APPLICATION = 0xFE, 0xDA, range(0xE1, 0xF0)
_ADOBE = 0xEE  # colour transform
_WORDS = re.compile(rb"\xff[\xfe\xe1-\xed\xef]")


def without_comments(stream: bytes) -> bytes:
    """Return a JPEG stream without comments and metadata: what its pixels need stays as it is.

    >>> without_comments(bytes.fromhex("ffd8 fffe0004 4142 ffda 0002 00")).hex()
    'ffd8ffda000200'
    """
    if not _WORDS.search(stream, 2, max(2, stream.find(b"\xff\xda"))):
        return stream
    kept, place = [stream[:2]], 2
    while place + 4 <= len(stream) and stream[place] == 0xFF and stream[place + 1] != _SCAN:
        code, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        if code != _COMMENT and (code not in _APPLICATION or code == _ADOBE):
            kept.append(stream[place : place + 2 + length])
        place += 2 + length
    return b"".join([*kept, stream[place:]])


def pyramid(path: Path) -> bytes:
    """Return a stored picture as a tiled pyramid, from which its tiles are drawn."""
    image = open_stored(path)
    halves = [image]
    while max(halves[-1].size) > TILE:
        halves.append(halves[-1].reduce(2))
    stream = io.BytesIO()
    with library().TiffWriter(stream) as out:
        for level, each in enumerate(halves):
            facts = {"metadata": None, "software": False, "subifds": 0 if level else len(halves) - 1}
            form = _plain_form(each.size) | {"subfiletype": 1 if level else 0}
            del form["shape"], form["dtype"]
            out.write(np.asarray(each), **form, **facts)
    return stream.getvalue()


def tile(path: Path, *, level: int, column: int, row: int) -> bytes:
    """Return one tile of a pyramid as JPEG.

    Raises:
        Refusal: there is no such tile, or the file is damaged there.
    """
    tiff = _opened(str(path))
    place, size = _place(tiff.size, level=level, column=column, row=row)
    try:
        return jpeg(_drawn(tiff, place, size, (place[2] - place[0]) / size[0]))
    except ImageError as damaged:
        raise Refusal(422, "damaged", f"This place of the slide cannot be drawn: it {damaged.reason}") from None


def tile_of_picture(path: Path, *, level: int, column: int, row: int) -> bytes:
    """Return the same tile of a picture that is small enough to be read as a whole each time."""
    image = open_stored(path)
    place, size = _place(image.size, level=level, column=column, row=row)
    return jpeg(image.resize(size, Image.Resampling.BOX, box=place))


def _place(
    whole: tuple[int, int], *, level: int, column: int, row: int
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Return where a tile lies in its picture (left, top, right, bottom in pixels of that), and its size.

    Raises:
        Refusal: there is no such tile.
    """
    factor = 2.0 ** (highest_level(*whole) - level)
    across, down = math.ceil(whole[0] / factor), math.ceil(whole[1] / factor)
    left, top = column * TILE, row * TILE
    if factor < 1 or left >= across or top >= down:
        raise Refusal(404, "not_found", f"There is no tile {column}, {row} at level {level}.")
    size = min(TILE, across - left), min(TILE, down - top)
    right, bottom = (left + size[0]) * factor, (top + size[1]) * factor
    return (left * factor, top * factor, min(right, whole[0]), min(bottom, whole[1])), size


def highest_level(width: int, height: int) -> int:
    """Return the number of the level at which a pixel of a tile is one of the picture.

    >>> highest_level(100_000, 80_000), highest_level(1, 1)
    (17, 0)
    """
    return math.ceil(math.log2(max(width, height, 1)))


def _drawn(tiff: Tiff, place: tuple[float, float, float, float], size: tuple[int, int], factor: float) -> Image.Image:
    """Return a rectangle (left, top, right, bottom in pixels of the picture) at a size, band by band."""
    level, zoom = _level_for(tiff, factor)
    wide, high = tiff.level_sizes[level]
    left, right = int(place[0] / zoom), min(wide, math.ceil(place[2] / zoom))
    top, bottom = place[1] / zoom, min(float(high), place[3] / zoom)
    step = (bottom - top) / size[1]
    rows = max(1, int(_BAND / max(1, (right - left) * step)))
    whole = Image.new("RGB", size)
    for first in range(0, size[1], rows):
        last = min(size[1], first + rows)
        upper, lower = int(top + first * step), min(high, math.ceil(top + last * step))
        pixels, _ = tiff.read(left, upper, max(1, right - left), max(1, lower - upper), level=level)
        band = Image.fromarray(pixels).resize((size[0], last - first), Image.Resampling.BOX)
        whole.paste(band, (0, first))
    return whole


def _level_for(tiff: Tiff, factor: float) -> tuple[int, float]:
    """Return the coarsest level that is fine enough, and how many times smaller than the picture it is."""
    zooms = [tiff.size[0] / width for width, _ in tiff.level_sizes]
    fine = [(level, zoom) for level, zoom in enumerate(zooms) if zoom <= 1.02 * factor]
    return fine[-1] if fine else (0, 1.0)


def cut(path: Path, *, box: tuple[int, int, int, int], side: int) -> bytes:
    """Return a box (left, top, width, height) of a pyramid as JPEG of at most `side` pixels, grey beyond its border."""
    tiff = _opened(str(path))
    zoom = min(1.0, side / max(box[2:]))

    def inside(part: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
        return _drawn(tiff, part, size, 1 / zoom)

    return framed(box, tiff.size, side=side, inside=inside)


def part(path: Path, *, left: int, top: int, width: int, height: int) -> RGB:
    """Return a rectangle of a slide in full resolution, uint8 (height, width, 3).

    Raises:
        ImageError: the slide is damaged there.
    """
    return _opened(str(path)).read(left, top, width, height)[0]


@lru_cache(maxsize=2)
def _opened(path: str) -> Tiff:
    """Return a pyramid of the store, kept open: its list of tiles is long, and the next tile is of the same slide."""
    try:
        return Tiff(Path(path), name="it")
    except FileNotFoundError:
        raise Refusal(404, "not_found", "This slide is missing from the store. Restore it from a backup.") from None
    except ImageError as damaged:
        raise Refusal(422, "damaged", f"This picture cannot be drawn: {damaged}") from None
