"""From what is sent to stored images: zips opened in memory, every picture decoded and encoded again.

No name that a user gives becomes a path, and nothing is unpacked onto the disk.
"""

import re
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..errors import ImageError
from ..images.read import format_of
from .database import SLIDE
from .refusals import too_large
from .sandbox import SUFFIXES, DecodedImage, Sandbox, suffix_of
from .settings import Limits
from .store import PictureStore

Read = Callable[[], bytes]
_AT_ONCE = 25  # pictures stored together
_RATIO = 200  # times that a part of a zip may unpack; above it is a bomb. Black around a cell reaches about 100.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA may ask for gigabytes before it gives a byte
_MEMBER_BYTES = 1 << 20  # below this the ratio means nothing
_NOT_PICTURES = (".csv", ".txt", ".json", ".ds_store", ".xml", ".db", ".ini")
_IN_PARTS = "Send it in parts."
_NAME = 300  # characters of a name that are kept
_DICOM_SLIDE_BYTES = 4 << 20  # below this no DICOM file is looked at as a slide first
_GROUP_BYTES = 64 << 20  # of pictures stored together
_SAYS_UTF8 = 0x800  # bit of a file's flags in a zip
_LISTING_BYTES = 4 << 20  # of a zip's list of its files: thousands of long names
_END = struct.Struct("<4s4H2LH")  # the record at the end of a zip


@dataclass(frozen=True)
class UploadedFile:
    """One file as it was sent."""

    name: str
    file: BinaryIO
    size: int
    path: Path | None = None
    """Where it lies, if it has a place of its own on the disk of the store."""


@dataclass(frozen=True)
class StoredImage:
    """One picture in the store."""

    name: str
    digest: str
    kind: str
    width: int
    height: int
    um_per_px: float | None = None
    identity: str = ""
    notes: tuple[str, ...] = ()
    """What was done to the values of the file, and what was rejected of its scale."""


@dataclass(frozen=True)
class RejectedFile:
    """One file that is not taken, and why."""

    name: str
    error: str
    bytes: int = 0


def store_uploads(
    sent: Iterable[UploadedFile],
    pictures: PictureStore,
    sandbox: Sandbox,
    *,
    kind: str,
    um_per_px: float | None,
    limits: Limits,
) -> Iterator[list[StoredImage | RejectedFile]]:
    """Yield what became of the files, some at a time, each group stored for good when it is yielded.

    Raises:
        Refusal: there are too many files.
        OSError: the disk is full.
    """
    group: list[_DecodedFile | StoredImage | RejectedFile] = []
    until = time.monotonic() + limits.seconds
    for number, (name, read) in enumerate(_files(sent, limits), start=1):
        if number > limits.files:
            raise too_large(f"There are more than the {limits.files:,} files allowed at a time. Send fewer.")
        wanted = read if time.monotonic() < until else _TOO_LATE
        taken: StoredImage | RejectedFile | _DecodedFile | Read | str
        if isinstance(wanted, UploadedFile):
            taken = _slide(name, wanted, pictures, sandbox, um_per_px=um_per_px, limits=limits)
        else:
            taken = wanted
        if not isinstance(taken, StoredImage | RejectedFile):
            taken = _ready(name, taken, sandbox, kind=kind, um_per_px=um_per_px, limits=limits)
        group.append(taken)
        if len(group) == _AT_ONCE or sum(each.bytes for each in group if isinstance(each, _DecodedFile)) > _GROUP_BYTES:
            yield _store_all(group, pictures)
            group = []
    if group:
        yield _store_all(group, pictures)


_TOO_LATE = "came after the time that one request may take. Send it again, with fewer files at a time."


@dataclass(frozen=True)
class _DecodedFile:
    """A picture whose pixels are known."""

    name: str
    taken: DecodedImage

    @property
    def bytes(self) -> int:
        """How much memory it takes until it is stored."""
        return len(self.taken.picture)


def _slide(
    name: str, sent: UploadedFile, pictures: PictureStore, sandbox: Sandbox, *, um_per_px: float | None, limits: Limits
) -> StoredImage | RejectedFile | Read | str:
    """Take a slide into the store; what is small enough to be one picture is given back as such."""
    source, target = sent.path or pictures.beside(), pictures.beside()
    try:
        if sent.path is None:
            with source.open("xb") as copy:
                sent.file.seek(0)
                shutil.copyfileobj(sent.file, copy, 1 << 20)
        facts = sandbox.slide(source, target, most_pixels=limits.pixels, seconds=limits.seconds)
        if facts is not None:
            scale = um_per_px or facts.um_per_px
            size = facts.width, facts.height
            return StoredImage(name, pictures.adopt(target), SLIDE, *size, scale, notes=tuple(facts.notes))
    except ImageError as unusable:
        return RejectedFile(name, _sentence(str(unusable)))
    finally:
        for made in (target, *target.parent.glob(f"{target.name}-*")):  # and what a process that was ended has left
            made.unlink(missing_ok=True)
        if sent.path is None:
            source.unlink(missing_ok=True)
    if sent.size > limits.file_bytes:
        return f"is larger than the {limits.file_bytes:,} bytes allowed for one picture. Send it in parts."
    return partial(_whole, sent.file)


def _store_all(
    group: list[_DecodedFile | StoredImage | RejectedFile], pictures: PictureStore
) -> list[StoredImage | RejectedFile]:
    ready = [each for each in group if isinstance(each, _DecodedFile)]
    digests = iter(pictures.add_all([each.taken.picture for each in ready]))
    return [_store(each, next(digests), pictures) if isinstance(each, _DecodedFile) else each for each in group]


def _store(ready: _DecodedFile, digest: str, pictures: PictureStore) -> StoredImage:
    taken = ready.taken
    identity = pictures.add(taken.identity) if taken.identity else ""
    size = taken.width, taken.height
    return StoredImage(ready.name, digest, taken.kind, *size, taken.um_per_px, identity, tuple(taken.notes))


def _files(sent: Iterable[UploadedFile], limits: Limits) -> Iterator[tuple[str, Read | UploadedFile | str]]:
    """Yield every file, those inside zips too: its name, and how to read it or why it is not taken.

    What may be a slide is given as it was sent.
    """
    for each in sent:
        name = shown(each.name)
        slide = suffix_of(name) in SUFFIXES or _may_be_dicom_slide(each)
        if each.size > (limits.slide_bytes if slide else limits.file_bytes):
            yield name, f"is larger than the {limits.file_bytes:,} bytes allowed for one file. {_IN_PARTS}"
        elif each.size == 0:
            yield name, "is empty (0 bytes). Copy it again."
        elif slide:
            yield name, each
        elif zipfile.is_zipfile(each.file):
            yield from _unzipped(name, each.file, limits)
        else:
            yield name, partial(_whole, each.file)


def _may_be_dicom_slide(sent: UploadedFile) -> bool:
    if sent.size < _DICOM_SLIDE_BYTES:
        return False
    sent.file.seek(0)
    return format_of(sent.file.read(4096)) == "DICOM"


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _unzipped(name: str, file: BinaryIO, limits: Limits) -> Iterator[tuple[str, Read | str]]:
    """Yield the pictures of a zip, read in memory one after the other; sizes in headers are not trusted."""
    left = limits.file_bytes
    try:
        if _listing_bytes(file) > _LISTING_BYTES:
            yield name, f"holds far more than the {limits.files:,} files allowed. Split it."
            return
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and not _hidden(each.filename)]
            if len(members) > limits.files:
                yield name, f"holds {len(members):,} files, more than the {limits.files:,} allowed. Split it."
                return
            for member in members:
                budget = _Budget(left, left)
                yield shown(_name_of(member)), _member(archive, member, budget)
                left = budget.left
    except _DAMAGED:
        yield name, "is a damaged zip. Make it again."


_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RecursionError)


def _listing_bytes(file: BinaryIO) -> int:
    """Return how long the list of files in a zip is: the list is read at once, before anything can be counted."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(max(0, size - (1 << 16) - _END.size))
    tail = file.read()
    place = tail.rfind(b"PK\5\6")
    if place < 0 or place + _END.size > len(tail):
        raise zipfile.BadZipFile("no end")
    return int(_END.unpack_from(tail, place)[5])  # 4 GiB where a larger size is stored elsewhere (zip64)


@dataclass
class _Budget:
    """What a zip may still unpack to, before and after one of its files."""

    most: int
    left: int


# In what was read as code page 437: signs, three letters with accents side by side, a capital after a small one.
_NO_NAME = re.compile(r"[^\x00-\x7fÀ-ɏ]|[^\x00-\x7f]{3}|[ß-ÿ][A-Z]")


def _name_of(member: zipfile.ZipInfo) -> str:
    """Return the name of a file in a zip; an undecodable one is shown as bytes.

    A zip without the UTF-8 flag means the DOS code page 437, but macOS writes UTF-8 anyway, and Windows
    that of the country.
    """
    if member.flag_bits & _SAYS_UTF8:
        return member.filename
    raw = member.filename.encode("cp437")  # which is how `zipfile` has read it
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return (
            member.filename
            if not _NO_NAME.search(member.filename)
            else raw.decode("ascii", "backslashreplace").replace("\\", "%")
        )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> Read | str:
    if member.flag_bits & 1:
        return "is encrypted. Send it without a password."
    if member.compress_type not in _PACKED:
        return "is packed in a way that pictures are not. Make the zip again with plain compression."
    if member.file_size > _MEMBER_BYTES and member.file_size > _RATIO * max(1, member.compress_size):
        return "unpacks to far more than a picture does, as zip bombs do. Send the picture itself."
    return partial(_unpacked, archive, member, budget)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget) -> bytes:
    most = budget.most
    try:
        with archive.open(member) as file:
            content = file.read(most + 1)
    except _DAMAGED:
        raise ImageError("is damaged inside its zip. Make the zip again.") from None
    if len(content) > most:
        raise ImageError(f"and those before it unpack to more than the {most:,} bytes left for one zip. Split it.")
    budget.left = most - len(content)
    return content


def _hidden(name: str) -> bool:
    steps = name.replace("\\", "/").split("/")
    return (
        any(step.startswith((".", "__MACOSX")) for step in steps if step not in (".", "..")) or steps[-1] == "Thumbs.db"
    )


def _ready(
    name: str, read: Read | str, sandbox: Sandbox, *, kind: str, um_per_px: float | None, limits: Limits
) -> _DecodedFile | RejectedFile:
    if isinstance(read, str):
        return RejectedFile(name, _sentence(read))
    suffix = suffix_of(name)
    if suffix in _NOT_PICTURES:
        return RejectedFile(name, "This is not an image. Send images, DICOM files or zips of them.")
    try:
        how = {"suffix": suffix, "kind": kind, "um_per_px": um_per_px, "most_pixels": limits.pixels}
        return _DecodedFile(name, sandbox.take(read, **how))
    except ImageError as unusable:
        return RejectedFile(name, _sentence(str(unusable)))


def shown(name: str) -> str:
    """Return a user's file name as it may be shown: no control characters, forward slashes, of bounded length.

    >>> shown("..\\\\..\\\\a\\x00b.png")
    '../../ab.png'
    """
    clean = "".join(letter for letter in name.replace("\\", "/") if letter.isprintable())
    return clean.encode("utf-8", "replace").decode()[-_NAME:] or "unnamed"


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]
