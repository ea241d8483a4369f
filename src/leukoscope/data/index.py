"""From a folder or a table of images to cells.csv."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ..errors import ConfigError, DataError, ImageError
from ..files import read_csv, sha256_of
from ..images.read import FORMATS, read_size
from ..progress import in_parallel, track
from . import release as cnmc
from .cells import Cell, natural, refuse_double_names

_PART = re.compile(r"(?i)fold[_-]?\d+|train(ing)?|test(ing)?|val(id(ation)?)?")


@dataclass(frozen=True)
class Layout:
    """How labels and subjects are read where the release's own names are not there to tell."""

    subject_pattern: str = r"([^_]+)_"
    """Regular expression on the file name; its first group is the subject."""
    label_column: str = "label"
    """Columns of a table; the rest of this class is for tables."""
    path_column: str = "path"
    subject_column: str = "subject"
    part_column: str = "part"


@dataclass
class Indexed:
    """The cells that were found, and what a person should know about how they were read."""

    cells: list[Cell]
    ignored: Counter[str] = field(default_factory=Counter)
    """Suffix of files that are no images -> how many."""
    notes: list[str] = field(default_factory=list)


def index(where: Path, *, layout: Layout | None = None, labels: Path | None = None) -> Indexed:
    """List the images of a folder or a table with label, subject, part, digest and size.

    Known layouts: the C-NMC release as TCIA and as Kaggle serve it; FOLDER/<class>/<subject>_*.png;
    FOLDER/<class>/<subject>/*.png; a CSV table with one row per image.

    Args:
        where: the folder or the CSV.
        layout: how to read subjects from names, or columns from a table.
        labels: labels CSV of the C-NMC preliminary test, if it does not lie under the folder.

    Raises:
        DataError: nothing is there, or a label is missing or stands twice.
    """
    layout = layout or Layout()
    _compile(layout.subject_pattern)
    if where.is_dir():
        indexed = _index_folder(where, layout, labels)
    elif where.is_file():
        indexed = Indexed(_from_table(where, layout))
    else:
        raise DataError(f"{where} does not exist. Give a folder of images or a CSV that lists them.")
    indexed.cells = _measured(sorted(indexed.cells, key=lambda cell: natural(cell.name)))
    refuse_double_names(indexed.cells, where=where)
    return indexed


def index_release(labels: Path | None = None) -> Indexed:
    """List the release as published, from the list of digests in this package, without any image at hand.

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
    images, ignored = _walk(root)
    if not images:
        others = f" It has {_count(ignored)}." if ignored else ""
        raise DataError(f"{root} holds no image ({', '.join(sorted(FORMATS))}).{others} Give the folder that does.")
    if cnmc.is_cnmc([PurePosixPath(root.name) / path for path in images]):
        indexed = _from_cnmc(root, images, labels or cnmc.find_labels(root))
    else:
        indexed = _from_folders(root, images, layout)
    indexed.ignored = ignored
    return indexed


def _walk(root: Path) -> tuple[list[PurePosixPath], Counter[str]]:
    """Return the images under a folder, and how many other files there are of each suffix; hidden ones do not count."""
    images: list[PurePosixPath] = []
    ignored: Counter[str] = Counter()
    for path in sorted(_files(root)):
        inside = path.relative_to(root)
        if not path.is_file():
            ignored["link that is not followed"] += 1
        elif path.suffix.lower() in FORMATS:
            _refuse_strange_name(inside)
            images.append(PurePosixPath(inside))
        else:
            ignored[path.suffix or path.name] += 1
    return images, ignored


def _files(root: Path) -> Iterator[Path]:
    """Yield files, and links to folders; a folder that may not be read is an error, never left out unseen."""
    for where, folders, files in os.walk(root, onerror=_raise):
        seen = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        links = [name for name in seen if Path(where, name).is_symlink()]
        folders[:] = [name for name in seen if name not in links]
        yield from (Path(where, name) for name in files + links if not name.startswith((".", "__MACOSX")))


def _raise(error: OSError) -> NoReturn:
    raise error


def _refuse_strange_name(inside: Path) -> None:
    name = str(inside)
    if not name.isprintable():  # line breaks, and bytes that are no text
        raise DataError(f"{name!r} has characters that cannot stand in a table. Rename the file.")


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
            raise DataError(f"{root / inside}: the name is not of the release (UID_<subject>_<image>_<cell>_<class>).")
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
        label, *between = inside.parts[:-1] or ("",)
        found = pattern.match(inside.name)
        subject = between[0] if between else (found[1] if found else "")
        lonely += not subject
        indexed.cells.append(
            _cell(root, inside, label=label, subject=subject or inside.as_posix(), part="", source="folder",
                  name=inside.as_posix())
        )  # fmt: skip
    if lonely:
        indexed.notes.append(
            f"No subject could be read from {lonely} of {len(images)} names; each of these images counts as a subject "
            "of its own, so cells of one patient may stand on both sides of a split. Use --subject-pattern."
        )
    indexed.notes += _notes_of_levels(root, images)
    return indexed


def _notes_of_levels(root: Path, images: Sequence[PurePosixPath]) -> list[str]:
    """Say what was taken for what where the classes may stand one folder deeper than they were looked for."""
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
        f"Taken as classes: {_some(below)}; as subjects: {_some(below[first])}. If the classes stand one folder "
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


def _from_table(table: Path, layout: Layout) -> list[Cell]:
    columns = (layout.path_column, layout.label_column, layout.subject_column)
    rows = read_csv(table, required=columns)
    if not rows:
        raise DataError(f"{table} lists no images. Add one row per image.")
    for number, row in enumerate(rows, start=2):
        _refuse_strange_text(table, number, [row.get(name, "") for name in (*columns, layout.part_column)])
        if row[layout.label_column].strip() and not row[layout.subject_column].strip():
            raise DataError(f"{table}, row {number}: no subject. Cells of unknown patients cannot be kept apart.")
    folder = table.parent.resolve()
    return [
        _cell(
            folder, PurePosixPath(os.path.normpath(row[layout.path_column])), label=row[layout.label_column].strip(),
            subject=row[layout.subject_column].strip(), part=row.get(layout.part_column, "").strip(), source="table",
            name=os.path.normpath(row[layout.path_column]),
        )
        for row in rows
    ]  # fmt: skip


def _refuse_strange_text(table: Path, number: int, texts: list[str]) -> None:
    strange = next((text for text in texts if not text.strip().isprintable()), None)
    if strange is not None:
        raise DataError(
            f"{table}, row {number}: {strange!r} has a line break or another sign that no name should have."
        )


def _measured(cells: list[Cell]) -> list[Cell]:
    """Add digest and size; a file that is no image keeps size 0 and is named by the audit."""

    def measure(cell: Cell) -> Cell:
        try:
            digest = sha256_of(cell.path)
        except FileNotFoundError:
            raise DataError(f"{cell.path} does not exist, although the table lists it. Correct the path.") from None
        except IsADirectoryError:
            raise DataError(f"{cell.path} is a folder; the table must list images. Correct the path.") from None
        try:
            width, height = read_size(cell.path)
        except ImageError:
            width = height = 0
        return replace(cell, sha256=digest, width=width, height=height)

    return list(track(in_parallel(measure, cells), "Indexing", total=len(cells)))


def _compile(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as broken:
        raise ConfigError(f"--subject-pattern {pattern}: not a regular expression ({broken}).") from None
    if groups < 1:
        raise ConfigError(f"--subject-pattern {pattern}: put the subject in parentheses, such as 'P(\\d+)_'.")
