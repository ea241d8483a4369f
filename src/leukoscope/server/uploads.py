"""From what is sent to stored images: zips opened in memory, every picture proven and stripped, the rest refused.

No name that a user gives becomes a path, and nothing is unpacked onto the disk.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import ImageError, MissingExtraError
from .decoding import TIFF, dicom_pixels, size_of, stripped, suffix_of, tiff_pixels
from .refusals import too_large
from .settings import Limits
from .store import Pictures

_AT_ONCE = 25  # pictures stored together
_RATIO = 200  # times that a part of a zip may unpack; above it is a bomb. Black around a cell reaches about 100.
_MEMBER_BYTES = 1 << 20  # below this the ratio means nothing
_NOT_PICTURES = (".csv", ".txt", ".json", ".ds_store", ".xml", ".db", ".ini")
_IN_PARTS = "Send it in parts, or predict a whole slide on the command line (leukoscope predict SLIDE)."
_NAME = 300  # characters of a name that are kept


@dataclass(frozen=True)
class Sent:
    """One file as it was sent."""

    name: str
    file: BinaryIO
    size: int


@dataclass(frozen=True)
class Stored:
    """One picture in the store."""

    name: str
    digest: str
    kind: str
    width: int
    height: int
    um_per_px: float | None = None
    identity: str = ""


@dataclass(frozen=True)
class Unusable:
    """One file that is not taken, and why."""

    name: str
    error: str


def take_in(
    sent: Iterable[Sent], pictures: Pictures, *, kind: str, um_per_px: float | None, limits: Limits
) -> Iterator[list[Stored | Unusable]]:  # fmt: skip
    """Yield what became of the files, some at a time, each group stored for good when it is yielded.

    Raises:
        Refusal: there are too many files.
        OSError: the disk is full.
    """
    group: list[_Ready | Unusable] = []
    for number, (name, content) in enumerate(_files(sent, limits), start=1):
        if number > limits.files:
            raise too_large(f"There are more than the {limits.files:,} files allowed at a time. Send fewer.")
        group.append(_ready(name, content, kind=kind, um_per_px=um_per_px, limits=limits))
        if len(group) == _AT_ONCE:
            yield _stored(group, pictures)
            group = []
    if group:
        yield _stored(group, pictures)


@dataclass(frozen=True)
class _Ready:
    """A picture that is proven and stripped."""

    name: str
    content: bytes
    kind: str
    size: tuple[int, int]
    um_per_px: float | None
    identity: bytes = b""


def _stored(group: "list[_Ready | Unusable]", pictures: Pictures) -> list[Stored | Unusable]:
    ready = [each for each in group if isinstance(each, _Ready)]
    digests = iter(pictures.add_all([each.content for each in ready]))
    return [_store(each, next(digests), pictures) if isinstance(each, _Ready) else each for each in group]


def _store(ready: _Ready, digest: str, pictures: Pictures) -> Stored:
    identity = pictures.add(ready.identity) if ready.identity else ""
    return Stored(ready.name, digest, ready.kind, *ready.size, ready.um_per_px, identity)


def _files(sent: Iterable[Sent], limits: Limits) -> Iterator[tuple[str, bytes | str]]:
    """Yield (name, content) of every file, those inside zips too; an error's sentence instead of content."""
    for each in sent:
        name = shown(each.name)
        if each.size > limits.file_bytes:
            yield name, f"is larger than the {limits.file_bytes:,} bytes allowed for one file. {_IN_PARTS}"
        elif each.size == 0:
            yield name, "is empty (0 bytes). Copy it again."
        elif zipfile.is_zipfile(each.file):
            yield from _unzipped(name, each.file, limits)
        else:
            each.file.seek(0)
            yield name, each.file.read()


def _unzipped(name: str, file: BinaryIO, limits: Limits) -> Iterator[tuple[str, bytes | str]]:
    """Yield the pictures of a zip, read in memory one after the other; what a header promises is not believed."""
    left = limits.file_bytes
    try:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if not each.is_dir() and not _hidden(each.filename)]
            if len(members) > limits.files:
                yield name, f"holds {len(members):,} files, more than the {limits.files:,} allowed. Split it."
                return
            for member in members:
                content = _member(archive, member, most=left)
                left -= len(content) if isinstance(content, bytes) else 0
                yield shown(member.filename), content
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError):
        yield name, "is a damaged zip. Make it again."


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, most: int) -> bytes | str:
    if member.flag_bits & 1:
        return "is encrypted. Send it without a password."
    if member.file_size > _MEMBER_BYTES and member.file_size > _RATIO * max(1, member.compress_size):
        return "unpacks to far more than a picture does, as zip bombs do. Send the picture itself."
    with archive.open(member) as file:
        content = file.read(most + 1)
    if len(content) > most:
        return f"and those before it unpack to more than the {most:,} bytes left for one zip. Split it."
    return content


def _hidden(name: str) -> bool:
    steps = name.replace("\\", "/").split("/")
    return (
        any(step.startswith((".", "__MACOSX")) for step in steps if step not in (".", "..")) or steps[-1] == "Thumbs.db"
    )


def _ready(
    name: str, content: bytes | str, *, kind: str, um_per_px: float | None, limits: Limits
) -> _Ready | Unusable:  # fmt: skip
    if isinstance(content, str):
        return Unusable(name, _sentence(content))
    if suffix_of(name) in _NOT_PICTURES:
        return Unusable(name, "This is no picture. Send images, DICOM files or zips of them.")
    try:
        if content[128:132] == b"DICM":
            return _dicom(name, content, um_per_px=um_per_px, limits=limits)
        if content.startswith(TIFF):
            return _tiff(name, content, kind=kind, um_per_px=um_per_px, limits=limits)
        size = size_of(content, most_pixels=limits.pixels)
        scale = um_per_px or (_scale(content) if kind != "crop" else None)
        return _Ready(name, stripped(content), kind, size, scale)
    except (ImageError, MissingExtraError) as unusable:
        return Unusable(name, _sentence(str(unusable)))


def _scale(content: bytes) -> float | None:
    """Return the micrometres per pixel that a file states, read before its metadata are taken away."""
    try:
        from ..fields.images import scale_in_file
    except ModuleNotFoundError:  # without the extra `fields` there is no field to analyse either
        return None
    return scale_in_file(io.BytesIO(content))  # type: ignore[arg-type]


def _dicom(name: str, content: bytes, *, um_per_px: float | None, limits: Limits) -> _Ready:
    picture, header, size, scale = dicom_pixels(content, most_pixels=limits.pixels)
    return _Ready(name, picture, "dicom", size, um_per_px or scale, header)


def _tiff(name: str, content: bytes, *, kind: str, um_per_px: float | None, limits: Limits) -> _Ready:
    picture, size, scale = tiff_pixels(content, suffix=suffix_of(name), most_pixels=limits.pixels)
    return _Ready(name, picture, kind, size, um_per_px or scale)


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
