"""Read predictions.csv, and refuse what cannot be evaluated: one clear sentence per fault."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.cells import Cell
from ..data.split import SplitPlan, group_of_subject
from ..errors import DataError, SplitError, UnknownNameError
from ..files import Row, read_csv
from .metrics import Floats, Ints

COLUMNS = ("path", "label", "subject", "group", "fold", "set")
SETS = ("validation", "test")
_PREFIX = "prob_"
_SUM_TOLERANCE = 1e-3  # half-precision softmax is off by up to this


@dataclass(frozen=True)
class Predictions:
    """Every validation and test cell of every fold with its raw probabilities; one entry per row of the file."""

    classes: tuple[str, ...]
    path: NDArray[np.str_]
    label: Ints  # index into classes
    subject: NDArray[np.str_]
    group: NDArray[np.str_]
    part: NDArray[np.str_]
    source: NDArray[np.str_]
    fold: Ints
    test: NDArray[np.bool_]  # False: a validation cell
    probabilities: Floats  # (rows, classes); raw, before any temperature

    def __len__(self) -> int:
        return len(self.path)

    @property
    def folds(self) -> list[int]:
        """Return the numbers of the folds that have test cells."""
        return sorted(int(fold) for fold in np.unique(self.fold[self.test]))

    @property
    def binary(self) -> bool:
        """Tell whether there are two classes, the second of which is the disease."""
        return len(self.classes) == 2

    def pick(self, rows: NDArray[np.bool_] | Ints) -> "Predictions":
        """Return only these rows."""
        names = ("path", "label", "subject", "group", "part", "source", "fold", "test", "probabilities")
        return Predictions(self.classes, *(getattr(self, name)[rows] for name in names))


def read_predictions(path: Path, *, positive: str = "", leaky: bool = False) -> Predictions:
    """Read predictions.csv; with two classes, `positive` (default: the last column's class) becomes index 1.

    Raises:
        DataError: a column is missing, a label is unknown, a probability is impossible, a cell is tested twice.
        SplitError: a subject group is in validation and test of one fold although the split is not leaky.
    """
    rows = read_csv(path, required=COLUMNS)
    classes = _classes(path, rows, positive=positive)
    predictions = Predictions(
        classes=classes,
        path=_column(rows, "path"),
        label=_labels(path, rows, classes),
        subject=_column(rows, "subject"),
        group=_column(rows, "group"),
        part=_column(rows, "part"),
        source=_column(rows, "source"),
        fold=_folds(path, rows),
        test=_tests(path, rows),
        probabilities=_probabilities(path, rows, classes),
    )
    _check_test_cells(path, predictions)
    if not leaky:
        _check_groups(path, predictions)
    return predictions


def _classes(path: Path, rows: list[Row], *, positive: str) -> tuple[str, ...]:
    if not rows:
        raise DataError(f"{path} has no predictions. Run leukoscope train again.")
    classes = tuple(name.removeprefix(_PREFIX) for name in rows[0] if name.startswith(_PREFIX))
    if len(classes) < 2:
        raise DataError(
            f"{path} needs a column {_PREFIX}<class> for each of two or more classes; it has: {', '.join(rows[0])}."
        )
    if positive and positive not in classes:
        raise UnknownNameError("class in evaluate.positive", positive, classes)
    if positive and len(classes) == 2:
        classes = (*(name for name in classes if name != positive), positive)
    return classes


def _column(rows: list[Row], name: str) -> NDArray[np.str_]:
    return np.array([row.get(name, "") for row in rows], dtype=np.str_)


def _labels(path: Path, rows: list[Row], classes: tuple[str, ...]) -> Ints:
    index = {name: number for number, name in enumerate(classes)}
    for line, row in enumerate(rows, start=2):
        if row["label"] not in index:
            raise DataError(
                f"{path}, line {line}: the label '{row['label']}' is not among the classes {', '.join(classes)}. "
                "Only labelled cells of these classes can be evaluated."
            )
        if not row["group"]:
            raise DataError(f"{path}, line {line}: the group is empty. Run leukoscope train again.")
    return np.array([index[row["label"]] for row in rows], dtype=np.int64)


def _folds(path: Path, rows: list[Row]) -> Ints:
    for line, row in enumerate(rows, start=2):
        if not row["fold"].isdecimal():
            raise DataError(f"{path}, line {line}: the fold '{row['fold']}' is not a number from 0 up.")
    return np.array([int(row["fold"]) for row in rows], dtype=np.int64)


def _tests(path: Path, rows: list[Row]) -> NDArray[np.bool_]:
    for line, row in enumerate(rows, start=2):
        if row["set"] not in SETS:
            raise DataError(f"{path}, line {line}: the set '{row['set']}' is neither {' nor '.join(SETS)}.")
    return np.array([row["set"] == "test" for row in rows])


def _probabilities(path: Path, rows: list[Row], classes: tuple[str, ...]) -> Floats:
    names = [_PREFIX + name for name in classes]
    try:
        values = np.array([[float(row[name]) for name in names] for row in rows])
    except ValueError as broken:
        raise DataError(f"{path}: a probability is not a number ({broken}). Run leukoscope train again.") from None
    sums = values.sum(1)
    bad = ~(np.isfinite(values) & (values >= 0) & (values <= 1)).all(1) | ~(np.abs(sums - 1) <= _SUM_TOLERANCE)
    if bad.any():
        first, count = int(np.argmax(bad)), int(bad.sum())
        shown = ", ".join(f"{value:.4g}" for value in values[first])
        raise DataError(
            f"{path}, line {first + 2}: {shown} are not probabilities of {', '.join(classes)} that sum to one "
            f"({count} such row{'s' * (count > 1)}). Run leukoscope train again."
        )
    return np.asarray(values / sums[:, None])


def _check_test_cells(path: Path, predictions: Predictions) -> None:
    tested = Counter(predictions.path[predictions.test].tolist())
    if not tested:
        raise DataError(f"{path} has no test cells (set = test). Check split.json, then run leukoscope train again.")
    name, times = tested.most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: the cell {name} is tested {times} times. Every cell is tested once.")


def _check_groups(path: Path, predictions: Predictions) -> None:
    for fold in predictions.folds:
        here = predictions.fold == fold
        tested = set(predictions.group[here & predictions.test].tolist())
        both = sorted(tested & set(predictions.group[here & ~predictions.test].tolist()))
        if both:
            raise SplitError(
                f"Subject group {', '.join(both[:5])} is in validation and test of fold {fold} in {path}. "
                "Run leukoscope data split again, then train."
            )


def rows_of(path: Path, predictions: Predictions, *, cells: list[Cell], plan: SplitPlan) -> Ints:
    """Return the row in cells.csv of each prediction, once both tables agree on it.

    path: of predictions.csv, in the folder that its image paths start from.

    Raises:
        DataError: a predicted cell is unknown, differs from cells.csv or split.json, stands twice, or one is missing.
    """
    rows = _places(path, predictions, cells)
    _check_folds(path, predictions, plan)
    sets = np.array([plan.sets(cells, fold=fold) for fold in range(len(plan.folds))])
    _check_facts(path, predictions, told=_facts(predictions), known=_known(cells, plan, sets, predictions.fold, rows))
    _check_complete(path, predictions, rows=rows, cells=cells, sets=sets)
    return rows


def _places(path: Path, predictions: Predictions, cells: list[Cell]) -> Ints:
    folder = path.parent.resolve()
    place = {str(cell.path): row for row, cell in enumerate(cells)}
    found = [place.get(os.path.normpath(folder / image), -1) for image in predictions.path.tolist()]
    if -1 in found:
        raise DataError(f"{path}: {predictions.path[found.index(-1)]} is not in cells.csv. {_again(path)}")
    return np.array(found, dtype=np.int64)


def _check_folds(path: Path, predictions: Predictions, plan: SplitPlan) -> None:
    last = int(predictions.fold.max())
    if last >= len(plan.folds):
        raise DataError(f"{path} has fold {last}, but split.json has {len(plan.folds)}. {_again(path)}")


Facts = dict[str, NDArray[np.str_]]


def _facts(predictions: Predictions) -> Facts:
    names = ("subject", "group", "part", "source")
    facts = {"label": np.array(predictions.classes)[predictions.label]}
    facts |= {name: getattr(predictions, name) for name in names}
    return facts | {"set": np.where(predictions.test, "test", "validation")}


def _known(cells: list[Cell], plan: SplitPlan, sets: NDArray[np.str_], fold: Ints, rows: Ints) -> Facts:
    group = group_of_subject(plan.groups)
    facts = {name: np.array([getattr(cell, name) for cell in cells]) for name in ("label", "subject", "part", "source")}
    facts["group"] = np.array([group[cell.subject] for cell in cells])
    return {name: values[rows] for name, values in facts.items()} | {"set": sets[fold, rows]}


def _check_facts(path: Path, predictions: Predictions, *, told: Facts, known: Facts) -> None:
    differs = {name: told[name] != known[name] for name in told}
    wrong = np.any(list(differs.values()), axis=0)
    if not wrong.any():
        return
    first, count = int(np.argmax(wrong)), int(wrong.sum())
    name = next(name for name in told if differs[name][first])
    owner = "split.json" if name in ("group", "set") else "cells.csv"
    raise DataError(
        f"{path}, line {first + 2}: the {name} of {predictions.path[first]} in fold {predictions.fold[first]} is "
        f"'{told[name][first]}', but '{known[name][first]}' in {owner} ({count} such row{'s' * (count > 1)}). "
        f"{_again(path)}"
    )


def _check_complete(
    path: Path, predictions: Predictions, *, rows: Ints, cells: list[Cell], sets: NDArray[np.str_]
) -> None:
    """Raise DataError where a validation or test cell of a fold has no prediction, or more than one."""
    times = np.zeros(sets.shape, dtype=np.int64)
    np.add.at(times, (predictions.fold, rows), 1)
    double = np.flatnonzero(times[predictions.fold, rows] > 1)
    if len(double):
        first = double[0]
        raise DataError(
            f"{path}, line {first + 2}: {predictions.path[first]} stands more than once in fold "
            f"{predictions.fold[first]}. {_again(path)}"
        )
    missing = np.argwhere(np.isin(sets, SETS) & (times == 0))
    if len(missing):
        fold, row = missing[0]
        raise DataError(
            f"{path} lacks {len(missing)} predictions, the first of them of {cells[row].name} "
            f"({sets[fold, row]}, fold {fold}). {_again(path)}"
        )


def _again(path: Path) -> str:
    run = path.parent
    return (
        f"Run leukoscope train {run} --resume; if this stays, delete predictions.csv in {run} and in its fold folders "
        "first."
    )
