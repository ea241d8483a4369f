"""What a file shows: one cell cut out on black, a smear field, or a slide that is read by tiles."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..data.cells import natural
from ..errors import DataError, UsageError, attempt, installed, require
from ..fields.field_of_view import shows_view
from ..files import read_csv
from ..images.read import FORMATS, RGB, read_image, read_size, tiff_readable
from ..interop.dicom_images import is_dicom

Kind = Literal["crop", "field", "slide", "dicom"]
Look = Literal["auto", "crops", "fields"]
"""What the user says that images show; 'auto' looks at each."""
SLIDES = (".svs", ".ndpi", ".scn", ".bif")
SUFFIXES = (*FORMATS, *SLIDES, ".dcm")  # what is taken from a folder

_BLACK = 24  # grey levels, as in data.prepare
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out
_LARGEST_CROP = 2_000_000  # pixels; the release's crops have 0.2 million


def kind_of(path: Path, *, look: Look = "auto") -> Kind:
    """Return what a file shows, by its content; one that cannot be read is a crop, and refused as such by name."""
    if look == "crops" or not path.exists():
        return "crop"
    if look == "fields":
        return _as_field(path)
    if is_dicom(path):
        return "dicom"
    if path.suffix.lower() in SLIDES or _is_slide(path):
        return "slide"
    if not installed("cv2"):  # the small install judges crops, and says of a field that it is none
        return "crop"
    looked = attempt(lambda: _is_field(path))  # what goes wrong is said when the picture is read for its answer
    return "field" if looked is True else "crop"


def ready_for(kind: Kind) -> None:
    """Make sure that what a kind needs is installed.

    Raises:
        MissingExtraError: it is not; the words say what to install.
    """
    for module in () if kind == "crop" else ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")


def _as_field(path: Path) -> Kind:
    """Return how a file is to be read that the user calls a field."""
    if is_dicom(path):
        return "dicom"
    slide = path.suffix.lower() in SLIDES or _is_slide(path)
    return "slide" if slide else "field"


def _is_slide(path: Path) -> bool:
    if not (installed("cv2") and tiff_readable() and _begins_as_tiff(path)):
        return False
    from ..fields.slides import is_slide

    return is_slide(path)


def _begins_as_tiff(path: Path) -> bool:
    """Return whether a file is worth a look by the reader of slides, which takes a second to import."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _TIFF
    except OSError:
        return False


def _is_field(path: Path) -> bool:
    width, height = read_size(path)
    return width * height > _LARGEST_CROP or shows_a_field(read_image(path))


def shows_a_field(pixels: RGB) -> bool:
    """Return whether a picture, uint8 (height, width, 3), shows a smear field and not a cell cut out on black."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).max(axis=1)
    return float((border > _BLACK).mean()) > _FRAMED or shows_view(pixels)


# Kinds of pictures that one may find beside those that are read; slides and DICOM are read by some commands only.
_OTHER = (
    ".gif", ".jfif", ".jp2", ".heic", ".avif", ".psd", ".ppm", ".tga", ".dng", ".nef", ".cr2", ".arw",
    ".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".czi", ".lif", ".nd2", ".vsi", ".dcm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """An image file, and whose cell it shows; the subject is empty where nobody said."""

    path: Path
    subject: str = ""


@dataclass(slots=True)
class Gathered:
    """What was found where the user said."""

    sources: list[Source]
    empty: list[str]
    """One sentence for each folder or table without images."""
    other: list[Path]
    """Pictures in folders that are of no kind that is read, such as GIF."""


def sources_of(given: Iterable[Path], *, suffixes: Collection[str] = FORMATS) -> list[Source]:
    """Return what `gather` finds, where every folder and table holds images.

    Raises:
        UsageError: a folder or table does not exist.
        DataError: a folder holds no image, or a table has no rows or no column path.
    """
    found = gather(given, suffixes=suffixes)
    if found.empty:
        raise DataError(" ".join(found.empty))
    return found.sources


def gather(given: Iterable[Path], *, suffixes: Collection[str] = FORMATS) -> Gathered:
    """Return the images that are named, those of folders, and those of CSV tables, in the order given; each once.

    A table has the columns path (seen from its folder) and, if it likes, subject. In a folder, the name of a
    sub-folder is the subject; where several folders are given, the folder's own name is. Of a folder, files with
    one of the `suffixes` are taken, and links that lead nowhere: they are refused by name, as missing files are.

    Raises:
        UsageError: a folder or table does not exist.
        DataError: there is no image at all, or a table has no column path.
    """
    given = list(dict.fromkeys(given))
    several = sum(path.is_dir() for path in given) > 1
    all_found = Gathered([], [], [])
    once: dict[Path, Source] = {}
    for path in given:
        found = _gather(path, several=several, suffixes=suffixes)
        for source in found.sources:
            once.setdefault(source.path, source)
        all_found.empty += found.empty
        all_found.other += found.other
    if given and not once:
        raise DataError(" ".join(all_found.empty))
    all_found.sources = list(once.values())
    return all_found


def _gather(path: Path, *, several: bool, suffixes: Collection[str]) -> Gathered:
    if path.is_dir():
        return _in_folder(path, several=several, suffixes=suffixes)
    if path.suffix.lower() == ".csv":
        return _in_table(path)
    if not path.exists() and path.suffix.lower() not in suffixes:
        raise UsageError(f"{path} does not exist. Check the path.")
    return Gathered([Source(path)], [], [])  # one that is missing or broken is refused by name, the others answered


def _in_folder(folder: Path, *, several: bool, suffixes: Collection[str]) -> Gathered:
    pictures = {*suffixes, *_OTHER}
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in pictures]
    visible = [
        path
        for path in inside
        if not any(step.startswith((".", "__MACOSX")) for step in path.parts) and _is_file(folder / path)
    ]
    visible.sort(key=lambda path: [natural(step) for step in path.parts])
    own = folder.resolve().name if several else ""
    sources = [
        Source(folder / path, own or (path.parts[0] if len(path.parts) > 1 else ""))
        for path in visible
        if path.suffix.lower() in suffixes
    ]
    other = [folder / path for path in visible if path.suffix.lower() not in suffixes]
    cure = f"Save {other[0].name} and others as PNG or TIFF." if other else "Check the path."
    empty = [] if sources else [f"{folder} holds no image ({', '.join(suffixes)}). {cure}"]
    return Gathered(sources, empty, other)


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


def _in_table(table: Path) -> Gathered:
    if not table.exists():
        raise UsageError(f"{table} does not exist. Check the path.")
    rows = read_csv(table, required=("path",))
    sources = [Source(table.parent / row["path"], row.get("subject", "")) for row in rows]
    return Gathered(sources, [] if sources else [f"{table} lists no images."], [])
