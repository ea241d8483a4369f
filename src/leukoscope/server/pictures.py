"""The store of pictures: every picture once, under the SHA-256 of its bytes, written beside and then renamed.

DATA/pictures/ab/abcd…   no name of a user's ever becomes a path
DATA/drawn/…             what is drawn from them (thumbnails); may be deleted at any time
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from ..errors import DataError
from ..files import write_whole

_SYNCS = 16


class Pictures:
    """Pictures on the disk by their digest."""

    def __init__(self, data: Path) -> None:
        self._store, self._drawn = data / "pictures", data / "drawn"
        self._store.mkdir(parents=True, exist_ok=True)
        self._drawn.mkdir(parents=True, exist_ok=True)

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
        with contextlib.suppress(OSError), write_whole(path) as beside:  # a full disk must not hide the picture
            beside.write_bytes(content)
        return content


def _write_beside(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        beside.write_bytes(content)
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
