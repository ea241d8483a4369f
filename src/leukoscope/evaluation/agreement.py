"""Predictions held against cells.csv and split.json: what they say of a cell must be what the tables say."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.cells import Cell
from ..data.groups import group_of_subject
from ..data.split import SplitPlan
from ..errors import DataError
from .predictions import SETS, Predictions
from .ranking import Ints


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
