"""The store: every picture once, under the SHA-256 of its bytes; and what the pages show of it."""

import contextlib
import io
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from PIL import Image

from ..config import Prepare
from ..errors import DataError, ImageError, UsageError
from ..files import write_whole
from ..images.crop import prepare_crop
from ..images.read import read_image
from .refusals import Refusal

_SYNCS = 16


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


class Pictures:
    """Pictures on the disk by their digest."""

    def __init__(self, data: Path) -> None:
        self._store, self._drawn = data / "pictures", data / "drawn"
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

    def drawn(self, digest: str, what: str, draw: Callable[[], bytes]) -> bytes:
        """Return what is drawn from a picture, such as 'thumbnail-96', drawing it the first time."""
        path = self._drawn / digest[:2] / f"{digest}-{what}"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            content = draw()
        with contextlib.suppress(OSError):  # a full disk must not hide the picture
            path.parent.mkdir(exist_ok=True, mode=FOLDER_MODE)
            with write_whole(path) as beside:
                beside.chmod(FILE_MODE)
                beside.write_bytes(content)
        return content


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


_QUALITY = 88


def thumbnail(path: Path, *, side: int) -> bytes:
    """Return a picture as JPEG that fits a square of `side` pixels."""
    image = open_stored(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg(image)


def region(path: Path, *, side: int, box: tuple[int, int, int, int] | None) -> bytes:
    """Return a picture, or what lies in it of a box (left, top, width, height), as JPEG of at most `side` pixels."""
    image = open_stored(path)
    if box:
        left, top, width, height = box
        part = (max(0, left), max(0, top), min(image.width, left + width), min(image.height, top + height))
        if part[0] >= part[2] or part[1] >= part[3]:
            raise Refusal(422, "outside", f"box lies outside the image of {image.width}x{image.height} pixels.")
        image = image.crop(part)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return jpeg(image)


def crop_seen(path: Path, prepare: Prepare, *, side: int) -> bytes:
    """Return the square that the model saw of a picture, at `side` pixels, so that the heat map lies over it."""
    try:
        return jpeg(Image.fromarray(prepare_crop(read_image(path), prepare.model_copy(update={"size": side}))))
    except ImageError:
        return thumbnail(path, side=side)  # nothing was seen of it; it is shown as it is


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
