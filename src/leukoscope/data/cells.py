"""What every later stage reads: cells.csv, one row per image, and the prepared crops of its rows in one array."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Prepare
from ..errors import DataError, ImageError, UnknownNameError
from ..files import Row, atomic_write, fingerprint, read_csv, read_json, sha256_of, write_csv, write_json
from ..images.crop import prepare_crop
from ..images.read import RGB, read_image
from ..progress import in_parallel, track

COLUMNS = ("path", "label", "subject", "part", "source", "name", "sha256", "width", "height")

# Class names that mean disease, in the words of data sets and wards, the most specific first.
_DISEASE = ("all", "blast", "blasts", "leukemia", "leukaemia", "malignant", "cancer", "abnormal", "positive", "1")


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of one cell, and where it comes from."""

    path: Path
    """Absolute path of the image file."""
    label: str
    """Class name; empty when the label is not known."""
    subject: str
    """Patient or donor."""
    part: str
    """Part of the release, such as fold_0 or prelim_test; empty when there is none."""
    source: str
    """Data set: 'C-NMC 2019', 'synthetic', 'folder' or 'table'."""
    name: str
    """What the data set calls this image; unique in the table."""
    sha256: str
    width: int
    """Pixels; 0 when the file is not readable as an image."""
    height: int
    more: tuple[tuple[str, str], ...] = ()
    """Further columns of the user's own table that were kept, such as sex, as (name, value): subgroups."""


def read_cells(path: Path) -> list[Cell]:
    """Read cells.csv; image paths are taken relative to the folder of the table.

    Raises:
        DataError: a column is missing, a number is not a number, or an image name is listed twice.
    """
    rows = read_csv(path, required=COLUMNS)
    if not rows:
        raise DataError(f"{path} lists no images. Run leukoscope data index on a folder that has some.")
    folder = path.parent.resolve()
    cells = []
    for line, row in enumerate(rows, start=2):
        try:
            cells.append(_cell_of(row, folder))
        except ValueError:
            raise DataError(f"{path}, line {line}: width and height must be whole numbers of pixels.") from None
    refuse_double_names(cells, where=path)
    return cells


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """Write cells.csv whole or not at all; image paths become relative to the folder of the table."""
    folder, known = path.parent.resolve(), list(cells)
    more = list(dict.fromkeys(name for cell in known for name, _ in cell.more))
    rows = (
        {name: getattr(cell, name) for name in COLUMNS}
        | {"path": relative(cell.path, folder)}
        | dict.fromkeys(more, "")
        | dict(cell.more)
        for cell in known
    )
    write_csv(path, rows, columns=(*COLUMNS, *more))


def relative(path: Path, folder: Path) -> str:
    """Return `path` as seen from `folder`, with forward slashes; absolute when they share no root."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()


def classes_of(cells: Sequence[Cell], positive: str = "") -> tuple[str, ...]:
    """Return the class names in order; with two classes the second is the disease (positive) class.

    Raises:
        UnknownNameError: `positive` is not one of the classes.
    """
    names = sorted({cell.label for cell in cells if cell.label})
    if positive and positive not in names:
        raise UnknownNameError("class", positive, names)
    disease = positive or next((name for word in _DISEASE for name in names if name.lower() == word), "")
    if len(names) == 2 and disease:
        names.sort(key=lambda name: name == disease)
    return tuple(names)


def cells_fingerprint(cells: Sequence[Cell]) -> str:
    """Return a digest of what the images are and whose they are, whatever their order and place on the disk."""
    return fingerprint(sorted([cell.name, cell.sha256, cell.label, cell.subject, cell.part] for cell in cells))


def natural(text: str) -> list[tuple[str, int]]:
    """Return a sort key that counts: subject 9 before 11, H2 before H10."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", text)]


def _cell_of(row: Row, folder: Path) -> Cell:
    return Cell(
        path=Path(os.path.normpath(folder / row["path"])),
        label=row["label"],
        subject=row["subject"],
        part=row["part"],
        source=row["source"],
        name=row["name"],
        sha256=row["sha256"],
        width=int(row["width"]),
        height=int(row["height"]),
        more=tuple((name, value or "") for name, value in row.items() if name and name not in COLUMNS),
    )


def refuse_double_names(cells: Sequence[Cell], *, where: Path) -> None:
    """Raise DataError where an image is listed twice."""
    seen: set[str] = set()
    files: set[Path] = set()
    for cell in cells:
        if cell.name in seen or cell.path in files:
            raise DataError(f"{where}: '{cell.name}' is listed twice. Give each image one row and a name of its own.")
        seen.add(cell.name)
        files.add(cell.path)


def pack(cells: Sequence[Cell], folder: Path, *, prepare: Prepare) -> NDArray[np.uint8]:
    """Write the crops of all cells to FOLDER/crops.npy, uint8 (cells, size, size, 3), in the order of the table.

    A pack that already holds just these crops is opened instead of made again.

    Raises:
        ImageError: an image cannot be used; names the file. Nothing half-written stays.
    """
    facts = {
        "cells": cells_fingerprint(cells),
        "rows": [cell.name for cell in cells],
        "prepare": prepare.model_dump(mode="json"),
    }
    described = folder / "pack.json"
    if not (_describes(described, facts) and _opens(folder)):
        for left in folder.glob(".crops.npy.*"):  # by a run that was killed
            left.unlink()
        described.unlink(missing_ok=True)  # never leave an old description beside new crops
        _write_crops(cells, folder / "crops.npy", prepare=prepare)
        write_json(described, facts)
    return open_pack(folder)


def open_pack(folder: Path) -> NDArray[np.uint8]:
    """Open FOLDER/crops.npy memory-mapped and read-only: uint8 (cells, size, size, 3).

    Raises:
        DataError: the pack is missing or was not finished.
    """
    if not (folder / "pack.json").exists():
        raise DataError(f"{folder} holds no finished pack. Run leukoscope data pack.")
    try:
        crops: NDArray[np.uint8] = np.load(folder / "crops.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as damaged:
        raise DataError(f"{folder / 'crops.npy'} is damaged ({damaged}). Run leukoscope data pack again.") from None
    return crops


def _describes(described: Path, facts: dict[str, Any]) -> bool:
    try:
        return bool(read_json(described) == facts)
    except DataError:  # missing or damaged
        return False


def _opens(folder: Path) -> bool:
    try:
        open_pack(folder)
    except DataError:
        return False
    return True


def _write_crops(cells: Sequence[Cell], path: Path, *, prepare: Prepare) -> None:
    def crop_of(cell: Cell) -> RGB:
        try:
            image = read_image(cell.path)
            if sha256_of(cell.path) != cell.sha256:
                raise ImageError("has changed since it was indexed. Put it back, or index again.", path=cell.path)
            return prepare_crop(image, prepare)
        except ImageError as unusable:
            raise ImageError(unusable.reason, path=cell.path) from None

    shape = (len(cells), prepare.size, prepare.size, 3)
    with atomic_write(path) as beside:
        crops = _reserve(beside, shape, named=path)
        for row, crop in enumerate(track(in_parallel(crop_of, cells), "Packing crops", total=len(cells))):
            crops[row] = crop
        crops.flush()


def _reserve(path: Path, shape: tuple[int, ...], *, named: Path) -> Any:
    """Make the .npy file at full length first: on a full disk this fails at once, and with an error, not a crash."""
    try:
        crops = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as full:
        raise OSError(full.errno, full.strerror, str(named)) from None
    return crops
