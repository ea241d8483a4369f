"""What lies in a folder: files that are read, and what is passed over and why, so that nothing is in silence."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .read import FORMATS, format_of

_RESOURCES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_TABLES = (".csv", ".tsv", ".txt", ".json", ".xml", ".md", ".log", ".html", ".pdf", ".xlsx", ".xls", ".ods", ".zip")
# Kinds of pictures that one may find beside those that are read.
_PICTURES = (
    ".gif",
    ".jp2",
    ".jxl",
    ".heic",
    ".avif",
    ".psd",
    ".ppm",
    ".tga",
    ".dng",
    ".nef",
    ".cr2",
    ".arw",
    ".svs",
    ".ndpi",
    ".scn",
    ".bif",
    ".mrxs",
    ".czi",
    ".lif",
    ".nd2",
    ".vsi",
    ".dcm",
    ".dicom",
    ".ima",
)
_HEAD = 4096
_NAMED = 3


@dataclass(frozen=True)
class Passed:
    """A file that is not read, and why."""

    path: Path
    reason: str

    @property
    def picture(self) -> bool:
        """Whether it is a picture, of a kind that is not read."""
        return self.reason.endswith(" read") or self.path.suffix.lower() in _PICTURES


@dataclass
class Listing:
    """What a folder holds."""

    files: list[Path] = field(default_factory=list)
    """Files to be read, sorted by name."""
    passed: list[Passed] = field(default_factory=list)
    hidden: int = 0
    """Hidden files and those that systems leave behind (._*, .DS_Store, Thumbs.db)."""
    unread: list[OSError] = field(default_factory=list)
    """Why folders inside could not be read."""

    def counts(self) -> Counter[str]:
        """Return how many files were passed over for each reason."""
        return Counter(one.reason for one in self.passed)


def list_folder(folder: Path, *, suffixes: Collection[str] = FORMATS, dicom: bool = False) -> Listing:
    """List a folder and all folders in it; links are followed, each folder once, so that circles end.

    A file with one of the suffixes is taken, and so is a link with one that leads nowhere: both are refused by name
    when they cannot be read. Where the suffix says nothing the content does.

    Args:
        folder: where to look.
        suffixes: in lower case, with their dots.
        dicom: whether DICOM is taken, whatever its name.

    Raises:
        OSError: the folder itself may not be read.
    """
    found = Listing()
    for path in sorted(_walk(folder, found)):
        reason = _reason(path, suffixes, dicom=dicom)
        if reason is None:
            found.files.append(path)
        else:
            found.passed.append(Passed(path, reason))
    return found


def passed_over(passed: Sequence[Passed], *, hidden: int = 0) -> list[str]:
    """Name pictures that were passed over, and count other files by their reason; nothing where nothing was.

    >>> passed_over([Passed(Path("a.gif"), "GIF, which is not read"), Passed(Path("b.txt"), ".txt file")])[0]
    'Passed over 1 picture of a kind that is not read: a.gif (GIF, which is not read). Save it as PNG or TIFF.'
    """
    pictures = [one for one in passed if one.picture]
    others = Counter(one.reason for one in passed if not one.picture)
    told = [_of_pictures(pictures)] if pictures else []
    if others:
        counts = ", ".join(f"{number:,} {reason}{'s' * (number > 1)}" for reason, number in others.most_common())
        files = f"{others.total():,} other file{'s' * (others.total() > 1)}"
        told.append(f"Passed over {files}: {counts}.")
    if hidden:
        told.append(f"Left alone: {hidden:,} hidden file{'s' * (hidden > 1)} or files of the system.")
    return told


def _of_pictures(pictures: Sequence[Passed]) -> str:
    more = f" and {len(pictures) - _NAMED:,} more" if len(pictures) > _NAMED else ""
    named = ", ".join(f"{one.path} ({one.reason})" for one in pictures[:_NAMED])
    one = len(pictures) == 1
    return (
        f"Passed over {len(pictures):,} picture{'' if one else 's'} of {'a kind that is' if one else 'kinds that are'} "
        f"not read: {named}{more}. Save {'it' if one else 'them'} as PNG or TIFF."
    )


def is_hidden(name: str) -> bool:
    """Tell whether a file is hidden, or one that systems leave behind."""
    return name.startswith((".", "__MACOSX")) or name.lower() in _RESOURCES


def _walk(root: Path, found: Listing) -> Iterator[Path]:
    """Yield every file below a folder; folders that are linked to come last, so that real ones keep their names."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            yield from _walk_real(start, seen, links, found)
        waiting = links


def _walk_real(root: Path, seen: set[tuple[int, int]], links: list[Path], found: Listing) -> Iterator[Path]:
    if not _first_time(root, seen):
        return

    def unread(error: OSError) -> None:
        if Path(error.filename) == root:
            raise error
        found.unread.append(error)

    for where, folders, files in os.walk(root, onerror=unread):
        found.hidden += sum(is_hidden(name) for name in (*folders, *files))
        visible = [name for name in folders if not is_hidden(name)]
        links += [Path(where, name) for name in visible if Path(where, name).is_symlink()]
        folders[:] = [
            name for name in visible if not Path(where, name).is_symlink() and _first_time(Path(where, name), seen)
        ]
        yield from (Path(where, name) for name in files if not is_hidden(name))


def _first_time(folder: Path, seen: set[tuple[int, int]]) -> bool:
    facts = folder.stat()
    key = (facts.st_dev, facts.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True


def _reason(path: Path, suffixes: Collection[str], *, dicom: bool) -> str | None:
    """Return why a file is passed over; None for one that is to be read."""
    suffix = path.suffix.lower()
    ordinary = path.is_file()
    if suffix in suffixes and (ordinary or not path.exists()):
        return None
    if not ordinary:  # to open a pipe waits without end for somebody who writes into it
        return "link that leads nowhere" if path.is_symlink() and not path.exists() else "pipe or device file"
    if suffix in _TABLES:
        return f"{suffix} file"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as failed:
        return f"file that cannot be opened ({failed.strerror})"
    return _reason_by_content(head, suffixes, suffix=suffix, dicom=dicom)


def _reason_by_content(head: bytes, suffixes: Collection[str], *, suffix: str, dicom: bool) -> str | None:
    kind = format_of(head)
    if kind == "DICOM":
        if b"1.2.840.10008.1.3.10" in head:
            return "DICOM directory"
        return None if dicom else "DICOM, which this command does not read"
    read = {name for allowed, kinds in FORMATS.items() if allowed in suffixes for name in kinds}
    if kind in read and not _known_otherwise(suffix):
        return None
    if kind:
        return f"{kind}, which is not read"
    return "empty file" if not head else f"{suffix} file" if suffix else "file of an unknown kind"


def _known_otherwise(suffix: str) -> bool:
    """Tell whether a suffix means something else though its content is that of a TIFF, such as a camera's raw image."""
    return suffix in (".dng", ".nef", ".cr2", ".arw", ".svs", ".ndpi", ".scn", ".bif", ".lsm", ".qptiff")
