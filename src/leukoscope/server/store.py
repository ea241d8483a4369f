"""The store: every picture once, under the SHA-256 of its bytes; and what the pages show of it."""

import contextlib
import io
import os
import secrets
import stat
import warnings
from base64 import b64decode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from ..config import Prepare
from ..errors import DataError, ImageError, Refusal, UsageError
from ..explanation import enlarge, to_rgba
from ..files import atomic_write, sha256_of
from ..images.crop import cell_mask, prepare_crop, source_square
from ..images.read import read_image

_SYNCS = 16
Box = tuple[int, int, int, int]


FOLDER_MODE, FILE_MODE = 0o700, 0o600
"""The folder of a room holds names of patients: nobody else on the machine may read it."""


def make_private(data: Path) -> bool:
    """Make the folder of a room, or close one that others may read; return whether it had to be closed.

    Raises:
        UsageError: it belongs to somebody else.
    """
    data.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    if os.name == "nt" or not stat.S_IMODE(data.stat().st_mode) & 0o077:
        return False
    had_something = any(data.iterdir())
    try:
        for path in (data, *data.rglob("*")):
            if not path.is_symlink():
                path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
    except PermissionError:
        raise UsageError(
            f"{data} can be read by others on this machine and belongs to somebody else, so it cannot be closed. "
            "Let its owner run chmod 700 on it, or choose another --data."
        ) from None
    return had_something


class CellRegion(NamedTuple):
    """The part of a stored picture that shows a cell."""

    digest: str
    box: Box | None = None
    """left, top, width, height in pixels of the picture; None: all of it."""
    tiled: bool = False
    """Whether the picture is so large that it is drawn from its pyramid."""

    def name(self, side: int) -> str:
        """Return the name under which the drawing of this size is kept."""
        return f"thumbnail-{side}" + (f"-{'-'.join(map(str, self.box))}" if self.box else "")


class PictureStore:
    """Pictures on the disk by their digest."""

    def __init__(self, data: Path) -> None:
        self._store, self._drawn = data / "pictures", data / "drawn"
        self._making = Lock()
        for folder in (self._store, self._drawn):
            folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)

    def add(self, content: bytes) -> str:
        """Store one picture and return its digest."""
        return self.add_all([content])[0]

    def add_all(self, contents: Sequence[bytes]) -> list[str]:
        """Store pictures and return their digests; when this returns, they survive a power cut.

        Raises:
            OSError: the disk is full; nothing half-written stays.
        """
        digests = [sha256(content).hexdigest() for content in contents]
        beside: dict[Path, Path] = {}
        try:
            for digest, content in zip(digests, contents, strict=True):
                path = self.path(digest)
                if path not in beside and not path.exists():
                    beside[path] = _write_beside(path, content)
            with ThreadPoolExecutor(_SYNCS) as pool:  # at once: the disk takes them together, many times as fast
                list(pool.map(_sync, beside.values()))
            for path, written in beside.items():
                written.replace(path)
            with ThreadPoolExecutor(_SYNCS) as pool:
                list(pool.map(_sync, {path.parent for path in beside}))
        finally:
            for written in beside.values():
                written.unlink(missing_ok=True)
        return digests

    def beside(self) -> Path:
        """Return a path in the store under which a file may be written, to be taken in by `adopt`, or removed."""
        return self._store / f".{secrets.token_hex(8)}"

    def adopt(self, written: Path) -> str:
        """Take a file that was written to `beside` into the store, however large it is, and return its digest."""
        written.chmod(FILE_MODE)
        digest = sha256_of(written)
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True, mode=FOLDER_MODE)
        _sync(written)
        written.replace(path)
        _sync(path.parent)
        return digest

    def path(self, digest: str) -> Path:
        """Return where a picture lies."""
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError("not a digest")
        return self._store / digest[:2] / digest

    def read(self, digest: str) -> bytes:
        """Return the bytes of a picture.

        Raises:
            DataError: it is not in the store.
        """
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise DataError(f"Picture {digest[:12]} is missing from {self._store}. Restore it from a backup.") from None

    def remove(self, digest: str) -> None:
        """Delete a picture that no case uses any more, and what was drawn from it."""
        self.path(digest).unlink(missing_ok=True)
        for drawn in self._drawn.glob(f"{digest[:2]}/{digest}-*"):
            drawn.unlink(missing_ok=True)

    def made(self, digest: str, what: str, make: Callable[[], bytes]) -> Path:
        """Return where something lies that is made of a picture once, such as its 'pyramid'; nobody makes it twice."""
        path = self._drawn / digest[:2] / f"{digest}-{what}"
        if not path.exists():
            with self._making:
                if not path.exists():
                    _keep(path, make())
        return path

    def has_drawn(self, digest: str, what: str) -> bool:
        """Return whether something was drawn from a picture already."""
        return (self._drawn / digest[:2] / f"{digest}-{what}").exists()

    def drawn(self, digest: str, what: str, draw: Callable[[], bytes]) -> bytes:
        """Return what is drawn from a picture, such as 'thumbnail-96', drawing it the first time."""
        path = self._drawn / digest[:2] / f"{digest}-{what}"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            content = draw()
        with contextlib.suppress(OSError):  # a full disk must not hide the picture
            _keep(path, content)
        return content


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True, mode=FOLDER_MODE)
    with atomic_write(path) as beside:
        beside.chmod(FILE_MODE)
        beside.write_bytes(content)


def _write_beside(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True, mode=FOLDER_MODE)
    beside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE), "wb") as file:
            file.write(content)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_HEAT_PLACED = 480  # pixels of a heat map that lies over a whole picture
_SMOOTH = Image.Resampling.BICUBIC
_OUTSIDE = (226, 226, 228)  # what lies beyond the border of a field
_QUALITY = 88


def thumbnail(path: Path, *, side: int) -> bytes:
    """Return a picture as JPEG that fits a square of `side` pixels."""
    image = open_stored(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg(image)


def region(path: Path, *, side: int, box: tuple[int, int, int, int] | None, beyond: bool = False) -> bytes:
    """Return a picture, or what lies in it of a box (left, top, width, height), as JPEG of at most `side` pixels.

    beyond: show all of the box, grey where it leaves the picture, so that a cell at the border is as large as others.
    """
    image = open_stored(path)
    if not box:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return jpeg(image)

    def inside(part: Box, size: tuple[int, int]) -> Image.Image:
        return image.crop(part).resize(size, Image.Resampling.LANCZOS)

    if not beyond:
        left, top = max(0, box[0]), max(0, box[1])
        box = (left, top, min(image.width, box[0] + box[2]) - left, min(image.height, box[1] + box[3]) - top)
    return framed(box, image.size, side=side, inside=inside)


def framed(
    box: Box, size: tuple[int, int], *, side: int, inside: Callable[[Box, tuple[int, int]], Image.Image]
) -> bytes:
    """Return a box (left, top, width, height) of a picture as JPEG of at most `side` pixels.

    inside: gives a part (left, top, right, bottom) of the picture at a size; what lies beyond the picture is grey.
    """
    left, top, width, height = box
    part = (max(0, left), max(0, top), min(size[0], left + width), min(size[1], top + height))
    if part[0] >= part[2] or part[1] >= part[3]:
        raise Refusal(422, "outside", f"box lies outside the image of {size[0]}x{size[1]} pixels.")
    zoom = min(1.0, side / max(width, height))
    x, y, right, bottom = (
        round(zoom * (edge - start)) for edge, start in zip(part, (left, top, left, top), strict=True)
    )
    whole = Image.new("RGB", (max(1, round(zoom * width)), max(1, round(zoom * height))), _OUTSIDE)
    whole.paste(inside(part, (max(1, right - x), max(1, bottom - y))), (x, y))
    return jpeg(whole)


def crop_seen(path: Path, prepare: Prepare, *, side: int) -> bytes:
    """Return the square that the model saw of a picture, at `side` pixels, so that the heat map lies over it."""
    try:
        shown = prepare.model_copy(update={"size": side, "canonical": False})  # as the picture lies, and the map too
        return jpeg(Image.fromarray(prepare_crop(read_image(path), shown)))
    except ImageError:
        return thumbnail(path, side=side)  # nothing was seen of it; it is shown as it is


def heat_in_place(
    path: Path, prepare: Prepare, *, evidence: str, height: int, full: float, signed: bool, part: float | None
) -> bytes:
    """Return a heat map as a transparent PNG that lies over the picture of the cell, and on nothing but the cell.

    evidence: half-precision numbers in base64, `height` rows of them. part: side of the middle square of the crop that
    the picture shows, in pixels of the crop, which may be larger than it; None: the picture is the crop.
    """
    crop = read_image(path)
    values = np.frombuffer(b64decode(evidence), np.float16).reshape(height, -1).astype(np.float32)
    left, top, side = source_square(crop, prepare)
    high, wide = crop.shape[:2]
    over = Image.new("RGBA", (wide, high))
    over.paste(Image.fromarray(to_rgba(enlarge(values, size=side), full=full, signed=signed)), (left, top))
    cell = Image.fromarray(255 * cell_mask(crop).astype(np.uint8))
    over.putalpha(ImageChops.multiply(over.getchannel("A"), cell))
    if part is not None:
        x, y = round((wide - part) / 2), round((high - part) / 2)
        over = over.crop((x, y, x + round(part), y + round(part)))
    over.thumbnail((_HEAT_PLACED, _HEAT_PLACED), _SMOOTH)
    return png(np.asarray(over))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 (height, width, 3 or 4) as PNG without metadata."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def open_stored(path: Path) -> Image.Image:
    """Open a picture of the store as RGB.

    Raises:
        Refusal: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size was checked when it was stored
            with Image.open(path) as image:
                return image.convert("RGB")
    except FileNotFoundError:
        raise Refusal(404, "not_found", "This picture is missing from the store. Restore it from a backup.") from None
    except (OSError, ValueError, SyntaxError):
        raise Refusal(422, "damaged", "This picture cannot be drawn: it is damaged. Send it again.") from None


def jpeg(image: Image.Image) -> bytes:
    """Return a picture as JPEG without metadata."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
