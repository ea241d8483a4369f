"""From a folder or a table of images to cells.csv, with the layout of folders that names classes and subjects."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from ..errors import ConfigError, DataError, ImageError, UnknownNameError, attempt, usable
from ..files import sha256_of
from ..images.crop import is_cut_out
from ..images.listing import Passed, Table, file_of, list_folder, one_spelling, read_table
from ..images.read import FORMATS, Picture, read_image, read_picture, read_size
from ..progress import in_parallel, track
from . import release as cnmc
from .cells import COLUMNS, Cell, natural, refuse_double_names

SUBJECT_PATTERN = r"([^_]+)_"
# Names of folders that are classes rather than subjects, as data sets and laboratories call them.
_CLASSES = {
    "all",
    "aml",
    "cll",
    "cml",
    "hem",
    "blast",
    "blasts",
    "normal",
    "healthy",
    "control",
    "controls",
    "benign",
    "pro",
    "malignant",
    "malignancy",
    "leukemia",
    "leukaemia",
    "leukemic",
    "leukaemic",
    "cancer",
    "positive",
    "negative",
    "disease",
    "diseased",
    "abnormal",
    "early",
    "pre",
    "patient",
    "patients",
    "donor",
    "donors",
}


@dataclass(frozen=True)
class Place:
    """Label and subject that the folder and name of an image state; empty where they state none."""

    label: str
    subject: str


def in_class_folders(inside: PurePosixPath, pattern: "re.Pattern[str]") -> Place:
    """Read FOLDER/<class>/<subject>_*.png or FOLDER/<class>/<subject>/*.png.

    >>> in_class_folders(PurePosixPath("all/P7_3.png"), re.compile(SUBJECT_PATTERN))
    Place(label='all', subject='P7')
    """
    label, *between = inside.parts[:-1] or ("",)
    found = pattern.match(inside.name)
    return Place(label, between[0] if between else (found[1] if found else ""))


def places_of(
    images: Sequence[PurePosixPath], *, classes: Collection[str] = (), pattern: str = SUBJECT_PATTERN
) -> list[Place]:
    """Return the subjects of unlabelled images, read from folders and names as a run reads them.

    Names of the C-NMC release speak for themselves. Where the first folders are not classes they are subjects.

    Args:
        images: seen from the folder that was given.
        classes: those that the model knows; folders called so are classes.
        pattern: of the subject in a file's name, see `in_class_folders`.
    """
    compiled = re.compile(pattern)
    named = [cnmc.label_and_subject(inside.name) for inside in images]
    if images and all(named):
        return [Place(*each) for each in named if each]
    if folders_are_classes(images, classes=classes, pattern=compiled):
        return [in_class_folders(inside, compiled) for inside in images]
    return [Place("", inside.parts[0] if len(inside.parts) > 1 else "") for inside in images]


def folders_are_classes(
    images: Sequence[PurePosixPath], *, classes: Collection[str] = (), pattern: "re.Pattern[str]"
) -> bool:
    """Return whether the first folders are classes: by their names, or because each has several subjects of its own."""
    if not images or any(len(inside.parts) < 2 for inside in images):
        return False
    tops = {inside.parts[0] for inside in images}
    known = _CLASSES | {name.casefold() for name in classes}
    if all(top.casefold() in known for top in tops):
        return True
    if any(sign.isdigit() for top in tops for sign in top):
        return False  # subjects are numbered, classes are not
    subjects: dict[str, set[str]] = defaultdict(set)
    for inside in images:
        found = pattern.match(inside.name)
        if len(inside.parts) > 2 or not found:
            return False
        subjects[inside.parts[0]].add(found[1])
    every = [subject for some in subjects.values() for subject in some]
    return len(tops) > 1 and len(every) == len(set(every)) and min(map(len, subjects.values())) > 1


_LOOKED_AT = 12  # pictures examined to find out what all of them show
_PART = re.compile(r"(?i)fold[_-]?\d+|train(ing)?|test(ing)?|val(id(ation)?)?")


@dataclass(frozen=True)
class Layout:
    """How labels and subjects are read where images do not have the names of the release."""

    subject_pattern: str = SUBJECT_PATTERN
    """Regular expression on the file name; its first group is the subject."""
    label_column: str = "label"
    """Columns of a table; the rest of this class is for tables."""
    path_column: str = "path"
    subject_column: str = "subject"
    part_column: str = "part"
    keep_columns: str = ""
    """Further columns to keep for subgroups, such as "sex, stain"; all others stay behind, names of patients too."""


@dataclass
class Indexed:
    """The cells that were found, and what a person should know about how they were read."""

    cells: list[Cell]
    ignored: Counter[str] = field(default_factory=Counter)
    """Suffix of files that are not images -> how many."""
    notes: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Files that are listed and cannot be opened at all, each with its reason."""
    passed: list[Passed] = field(default_factory=list)
    """Files of a folder that are not images, each with its reason."""
    hidden: int = 0
    """Hidden files, and those that systems leave behind."""
    changes: Counter[str] = field(default_factory=Counter)
    """What the reader did to the values of files, such as to bring them to sRGB -> to how many."""


def index(
    where: Path, *, layout: Layout | None = None, labels: Path | None = None, open_pictures: bool = True
) -> Indexed:
    """List the images of a folder or a table with label, subject, part, digest and size.

    Known layouts: the C-NMC release as TCIA and as Kaggle serve it; FOLDER/<class>/<subject>_*.png;
    FOLDER/<class>/<subject>/*.png; a CSV table with one row per image.

    Args:
        where: the folder or the CSV.
        layout: how to read subjects from names, or columns from a table.
        labels: labels CSV of the C-NMC preliminary test, if it does not lie under the folder.
        open_pictures: read every picture, to count `changes`; not needed where an audit follows.

    Raises:
        DataError: nothing is there, or a label is missing or given twice.
    """
    layout = layout or Layout()
    _compile(layout.subject_pattern)
    if where.is_dir():
        indexed = _index_folder(where, layout, labels)
    elif where.is_file():
        indexed = _from_table(where, layout)
    else:
        raise DataError(f"{where} does not exist. Give a folder of images or a CSV that lists them.")
    found = sorted(indexed.cells, key=lambda cell: natural(cell.name))
    indexed.cells = []
    for cell, measured in zip(found, _measured(found, open_pictures=open_pictures), strict=True):
        if isinstance(measured, ImageError):
            indexed.refused.append((cell.name, str(measured)))
        else:
            indexed.cells.append(measured[0])
            indexed.changes.update(measured[1])
    if not indexed.cells:
        raise DataError(" ".join(reason for _, reason in indexed.refused[:3]))
    refuse_double_names(indexed.cells, where=where)
    indexed.notes += note_of_kind(indexed.cells)
    return indexed


def picture_kind(cells: Sequence[Cell]) -> Literal["cells", "fields"]:
    """Tell what most of the pictures show: single cells cut out on black, or whole fields."""
    whole, seen = _uncropped_pictures(cells)
    return "fields" if 2 * whole > seen else "cells"


def _uncropped_pictures(cells: Sequence[Cell]) -> tuple[int, int]:
    """Open a dozen pictures; return how many of them are not cut out on black, and how many were opened."""
    some = cells[:: max(1, len(cells) // _LOOKED_AT)][:_LOOKED_AT]
    seen = [attempt(lambda cell=cell: is_cut_out(read_image(cell.path))) for cell in some]  # type: ignore[misc]
    return sum(one is False for one in seen), len(seen)


def note_of_kind(cells: Sequence[Cell]) -> list[str]:
    """Return a note where the pictures do not show single cells on black."""
    uncropped, opened = _uncropped_pictures(cells)
    if 2 * uncropped <= opened:
        return []
    return [
        f"{uncropped} of {opened} pictures opened are not single cells cut out on black. A model is then trained on "
        "uncropped pictures, and its bundle needs such pictures. To train on cells, cut them out first: "
        "leukoscope cells."
    ]


def index_release(labels: Path | None = None) -> Indexed:
    """List the release as published, from the list of digests in this package, without reading images.

    Args:
        labels: labels CSV of the preliminary test; without it those images are unlabelled.
    """
    files = [file for file in cnmc.release_files() if not file.path.endswith(".csv")]
    digest = {file.path: file.sha256 for file in files}
    indexed = _from_cnmc(Path("/"), [PurePosixPath(path) for path in digest], labels)
    inside = [cell.path.relative_to("/").as_posix() for cell in indexed.cells]
    side = {path: cnmc.SIDES[path.startswith("testing_data")] for path in inside}
    indexed.cells = [
        replace(cell, path=Path(path), sha256=digest[path], width=side[path], height=side[path])
        for cell, path in zip(indexed.cells, inside, strict=True)
    ]
    return indexed


def _index_folder(root: Path, layout: Layout, labels: Path | None) -> Indexed:
    root = root.resolve()
    listing = list_folder(root)
    if listing.unread:  # whose patients would be missing
        raise listing.unread[0]
    ignored = Counter(one.path.suffix or one.path.name for one in listing.passed)
    found = [PurePosixPath(path.relative_to(root)) for path in listing.files]
    images = [inside for inside in found if str(inside).isprintable()]  # no line breaks, nor bytes that are not text
    strange = [repr(str(inside)) for inside in found if not str(inside).isprintable()]
    refused = [(name, f"{name} has characters that cannot be written to a table. Rename the file.") for name in strange]
    if not images and refused:
        raise DataError(" ".join(reason for _, reason in refused[:3]))
    if not images:
        others = f" It has {_count(ignored)}." if ignored else ""
        raise DataError(f"{root} holds no image ({', '.join(sorted(FORMATS))}).{others} Give the folder that does.")
    if cnmc.is_cnmc([PurePosixPath(root.name) / path for path in images]):
        indexed = _from_cnmc(root, images, labels or cnmc.find_labels(root))
    else:
        indexed = _from_folders(root, images, layout)
    indexed.ignored, indexed.passed, indexed.hidden = ignored, listing.passed, listing.hidden
    indexed.refused += refused
    return indexed


def _count(ignored: Counter[str]) -> str:
    return ", ".join(f"{number} {suffix}" for suffix, number in ignored.most_common(5))


def _cell(root: Path, inside: PurePosixPath, *, label: str, subject: str, part: str, source: str, name: str) -> Cell:
    return Cell(Path(root / inside), label, subject, part, source, name, sha256="", width=0, height=0)


def _from_cnmc(root: Path, images: Sequence[PurePosixPath], labels: Path | None) -> Indexed:
    originals = cnmc.read_labels(labels) if labels else {}
    indexed = Indexed([])
    for inside in images:
        part = cnmc.part_of(PurePosixPath(root.name) / inside)
        name = inside.as_posix()
        if part == "prelim_test" and labels:
            name = _original(inside, originals, labels)
        label, subject = cnmc.label_and_subject(PurePosixPath(name).name) or ("", "")
        if not label and not part.endswith("_test"):
            why = (
                f"{root / inside}: the name is not of the release (UID_<subject>_<image>_<cell>_<class>). Take it out."
            )
            indexed.refused.append((inside.as_posix(), why))
            continue
        indexed.cells.append(
            _cell(root, inside, label=label, subject=subject, part=part, source=cnmc.SOURCE, name=name)
        )
    if not labels and any(cell.part == "prelim_test" for cell in indexed.cells):
        indexed.notes.append("No labels CSV of the preliminary test was found: its images are unlabelled (--labels).")
    return indexed


def _original(inside: PurePosixPath, originals: dict[str, str], labels: Path) -> str:
    if inside.stem not in originals:
        raise DataError(f"{labels} has no row for {inside.name}. Download the labels again, or remove the image.")
    return f"prelim_test/{originals[inside.stem]}"


def _from_folders(root: Path, images: Sequence[PurePosixPath], layout: Layout) -> Indexed:
    _refuse_parts_as_classes(root, {inside.parts[0] for inside in images if len(inside.parts) > 1})
    indexed = Indexed([])
    pattern = re.compile(layout.subject_pattern)
    lonely = 0
    for inside in images:
        place = in_class_folders(inside, pattern)
        lonely += not place.subject
        indexed.cells.append(
            _cell(
                root,
                inside,
                label=place.label,
                subject=place.subject or inside.as_posix(),
                part="",
                source="folder",
                name=inside.as_posix(),
            )
        )
    spelled, joined = one_spelling([cell.label for cell in indexed.cells])
    indexed.cells = [replace(cell, label=label) for cell, label in zip(indexed.cells, spelled, strict=True)]
    indexed.notes += joined
    if lonely:
        indexed.notes.append(
            f"No subject could be read from {lonely} of {len(images)} names; each of these images counts as a subject "
            "of its own, so cells of one patient may be on both sides of a split. Use --subject-pattern."
        )
    indexed.notes += _notes_of_levels(root, images)
    return indexed


def _notes_of_levels(root: Path, images: Sequence[PurePosixPath]) -> list[str]:
    """Return a note where the classes may be one folder deeper than expected."""
    below: dict[str, set[str]] = defaultdict(set)
    for inside in images:
        if len(inside.parts) > 2:
            below[inside.parts[0]].add(inside.parts[1])
    kinds = set(map(frozenset, below.values()))
    deeper = any(len(inside.parts) > 3 for inside in images)
    if not deeper and (len(kinds) != 1 or len(next(iter(kinds))) < 2):
        return []
    first = next(iter(below))
    return [
        f"Taken as classes: {_some(below)}; as subjects: {_some(below[first])}. If the classes are one folder "
        f"deeper, index a folder such as {root / first}, or give a CSV with one row per image."
    ]


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names, key=natural)
    return ", ".join(ordered[:4]) + " …" * (len(ordered) > 4)


def _refuse_parts_as_classes(root: Path, classes: set[str]) -> None:
    parts = sorted(name for name in classes if _PART.fullmatch(name))
    if parts:
        raise DataError(
            f"{root} holds the folders {', '.join(parts)}, which are parts and not classes. Give a folder whose own "
            "folders are the classes, or a CSV with a column for the part."
        )


def _from_table(table: Path, layout: Layout) -> Indexed:
    columns = (layout.path_column, layout.label_column, layout.subject_column)
    read = read_table(table)
    cure = "Name the columns it has with --path-column, --label-column and --subject-column."
    rows = read.columns(columns, (layout.part_column,), cure=cure)
    more = _kept(read, layout.keep_columns)
    if not rows:
        raise DataError(f"{table} lists no images. Add one row per image.")
    for number, row in zip(read.lines, rows, strict=True):
        _refuse_strange_text(table, number, list(row.values()))
        if not row[layout.path_column]:
            raise DataError(f"{table}, row {number}: no path. Name the image file.")
        if row[layout.label_column] and not row[layout.subject_column]:
            raise DataError(f"{table}, row {number}: no subject. Cells of unknown patients cannot be kept apart.")
    labels, joined = one_spelling([row[layout.label_column] for row in rows])
    folder = table.parent.resolve()
    indexed = Indexed([], notes=[*read.notes, *joined])
    for row, label, others in zip(rows, labels, more, strict=True):
        text = row[layout.path_column]
        try:
            path = file_of(text, table)
        except DataError as elsewhere:
            indexed.refused.append((text, str(elsewhere)))
            continue
        inside = PurePosixPath(os.path.normpath(os.path.relpath(path, table.parent)))
        cell = _cell(
            folder,
            inside,
            label=label,
            subject=row[layout.subject_column],
            part=row.get(layout.part_column, ""),
            source="table",
            name=inside.as_posix(),
        )
        indexed.cells.append(replace(cell, more=others))
    return indexed


def _kept(read: Table, columns: str) -> list[tuple[tuple[str, str], ...]]:
    """Return the further columns of each row that are requested, by names with commas between them.

    Raises:
        UnknownNameError: the table has no such column, or cells.csv has one of this name already.
    """
    names = [name.strip() for name in columns.split(",") if name.strip()]
    free = [name for name in read.header if name and name not in COLUMNS]
    for name in names:
        if name not in free:
            raise UnknownNameError(f"column of {read.path} to keep", name, free)
    return [tuple((name, row[read.header.index(name)]) for name in names) for row in read.rows]


def _refuse_strange_text(table: Path, number: int, texts: list[str]) -> None:
    strange = next((text for text in texts if not text.strip().isprintable()), None)
    if strange is not None:
        raise DataError(
            f"{table}, row {number}: {strange!r} has a line break or another sign that no name should have."
        )


def _measured(cells: list[Cell], *, open_pictures: bool) -> Iterator[tuple[Cell, tuple[str, ...]] | ImageError]:
    """Yield the cells with digest and size, and what the reader did to their values.

    A file that is not an image keeps size 0 and is named by the audit. One that is not there, or may not be read, is an
    error in place of its cell.
    """

    def measure(cell: Cell) -> tuple[Cell, tuple[str, ...]]:
        if cell.path.exists() and not (cell.path.is_file() or cell.path.is_dir()):
            raise ImageError("is a pipe or a device, not a file. Save its image in a file.", path=cell.path)
        try:
            digest = sha256_of(cell.path)
        except FileNotFoundError:
            raise ImageError("does not exist, although it is listed. Correct the path.", path=cell.path) from None
        except IsADirectoryError:
            raise ImageError("is a folder; images must be listed. Correct the path.", path=cell.path) from None
        picture = attempt(lambda: read_picture(cell.path)) if open_pictures else None
        if isinstance(picture, Picture):
            height, width = picture.pixels.shape[:2]
            return replace(cell, sha256=digest, width=width, height=height), picture.notes
        try:
            width, height = read_size(cell.path)
        except ImageError:
            width = height = 0
        return replace(cell, sha256=digest, width=width, height=height), ()

    def measured(cell: Cell) -> tuple[Cell, tuple[str, ...]] | ImageError:
        try:
            return usable(lambda: measure(cell), name=str(cell.path))
        except ImageError as unusable:
            return unusable

    yield from track(in_parallel(measured, cells), "Indexing", total=len(cells))


def _compile(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as broken:
        raise ConfigError(f"--subject-pattern {pattern}: not a regular expression ({broken}).") from None
    if groups < 1:
        raise ConfigError(f"--subject-pattern {pattern}: put the subject in parentheses, such as 'P(\\d+)_'.")
