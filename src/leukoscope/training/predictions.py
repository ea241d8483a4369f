"""predictions.csv: raw probabilities of every validation and test cell of every fold."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..artifacts import write_csv, write_whole
from ..data.cells import relative
from ..data.groups import group_of_subject
from ..errors import DataError
from .batches import Rows
from .prepared import Prepared

_FACTS = ("path", "label", "subject", "group", "part", "source", "fold", "set")


def columns_of(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of predictions.csv."""
    return (*_FACTS, *(f"prob_{name}" for name in classes))


def write_fold(path: Path, prepared: Prepared, *, fold: int, sets: dict[str, tuple[Rows, NDArray[np.float64]]]) -> None:
    """Write the predictions of one fold: for each set its rows and their probabilities (rows, classes)."""
    columns = columns_of(prepared.plan.classes)
    rows = (row for name in sets for row in _rows(prepared, *sets[name], fold=fold, name=name))
    write_csv(path, rows, columns=columns)


def join_folds(folds: list[Path], path: Path) -> None:
    """Write the predictions of all folds as one table, holding one line at a time.

    Raises:
        DataError: the table of a fold is empty, or was cut off within a row.
    """
    for fold in folds:
        if not fold.read_bytes().endswith(b"\n"):
            raise DataError(f"{fold} is not whole. Delete it and run the same command with --resume.")
    with write_whole(path) as beside, beside.open("w", encoding="utf-8", newline="") as joined:
        for number, fold in enumerate(folds):
            with fold.open(encoding="utf-8", newline="") as lines:
                header = next(lines)
                joined.writelines(lines if number else [header, *lines])


def _rows(
    prepared: Prepared, rows: Rows, probabilities: NDArray[np.float64], *, fold: int, name: str
) -> Iterator[dict[str, object]]:
    group = group_of_subject(prepared.plan.groups)
    folder = prepared.run.resolve()
    for row, chances in zip(rows, probabilities, strict=True):
        cell = prepared.cells[row]
        facts = (relative(cell.path, folder), cell.label, cell.subject, group[cell.subject], cell.part, cell.source)
        digits = (f"{chance:.9g}" for chance in chances)
        yield dict(zip(columns_of(prepared.plan.classes), (*facts, fold, name, *digits), strict=True))
