"""How far readers agree: per cent, and kappa, which is what they agree beyond chance, with intervals over subjects.

Two named readers: Cohen's kappa (1960, doi 10.1177/001316446002000104). Readers who differ from cell to cell, or more
than two of them: Fleiss' kappa (1971, doi 10.1037/h0031619). Cells of one patient are not independent, so intervals
leave out one subject at a time (see `intervals`); kappa is taken to Fisher's z, agreement to the logit. Where there are
fewer than three subjects, cells are left out instead: such an interval tells of these patients alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import LEAST, Design, jackknife, limits, number

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COHEN, FLEISS = "Cohen's kappa", "Fleiss' kappa"
SUBJECTS, CELLS = "subjects", "cells"


def agreement(answers: Sequence[Sequence[str]], subjects: Sequence[str], *, named: bool) -> dict[str, Any]:
    """Return how far readers agree on cells that all of them have read.

    answers: one row per cell, one label per reader; every row is as long as the others, two labels at least.
    subjects: whose cell each row is.
    named: whether a column is always the same person; Cohen's kappa of two such, else Fleiss' kappa.

    Returns {"cells", "subjects", "statistic", "unit", "percent", "kappa"}: the last two with value, low and high in
    [-1, 1], percent as a share of all pairs of answers. Kappa is None where everybody says the same of every cell:
    then chance alone would do as well. An interval without width is None: a figure that no unit left out moves (Cohen's
    kappa is 0 for whatever one says beside a reader who says one thing of all) is not known without error.

    >>> found = agreement([["blast", "blast"], ["normal", "normal"], ["blast", "normal"]], list("abc"), named=True)
    >>> round(found["percent"]["value"], 2), found["kappa"]["value"], found["statistic"]
    (0.67, 0.4, "Cohen's kappa")
    """
    people = len(set(subjects))
    unit = SUBJECTS if people >= LEAST else CELLS
    statistic = COHEN if named and answers and len(answers[0]) == 2 else FLEISS
    found: dict[str, Any] = {"cells": len(answers), "subjects": people, "statistic": statistic, "unit": unit}
    nothing = {"value": None, "low": None, "high": None}
    if not answers:
        return found | {"percent": nothing, "kappa": nothing}
    codes = np.unique(np.array(answers), return_inverse=True)[1].reshape(len(answers), -1)
    of = subjects if unit == SUBJECTS else range(len(answers))
    groups = np.unique(np.array(of), return_inverse=True)[1]
    measure = _cohen(codes, groups) if statistic == COHEN else _fleiss(codes, groups)
    return found | _with_limits(measure, groups)


Measure = Callable[[Floats], dict[str, Floats]]


def _cohen(codes: Ints, groups: Ints) -> Measure:
    """Return a function that measures agreement of two readers from the weights (replicates, groups)."""
    classes = int(codes.max()) + 1
    tables = np.zeros((int(groups.max()) + 1, classes, classes))
    np.add.at(tables, (groups, codes[:, 0], codes[:, 1]), 1.0)

    def measure(weights: Floats) -> dict[str, Floats]:
        table = np.tensordot(weights, tables, 1)  # (replicates, classes, classes)
        with np.errstate(all="ignore"):
            table = table / table.sum((1, 2), keepdims=True)
        chance = (table.sum(1) * table.sum(2)).sum(1)
        return _beyond(np.trace(table, axis1=1, axis2=2), chance)

    return measure


def _fleiss(codes: Ints, groups: Ints) -> Measure:
    """Return the same for any number of readers; agreement is the share of pairs of answers that are alike."""
    readers = codes.shape[1]
    given = (codes[:, :, None] == np.arange(int(codes.max()) + 1)).sum(1)  # (cells, classes)
    alike = (given * (given - 1)).sum(1) / (readers * (readers - 1))
    count = int(groups.max()) + 1
    cells, agreed = np.bincount(groups, minlength=count), np.bincount(groups, alike, minlength=count)
    labels = np.zeros((count, given.shape[1]))
    np.add.at(labels, groups, given)

    def measure(weights: Floats) -> dict[str, Floats]:
        with np.errstate(all="ignore"):
            rates = (weights @ labels) / (weights @ labels).sum(1, keepdims=True)
            return _beyond((weights @ agreed) / (weights @ cells), np.square(rates).sum(1))

    return measure


def _beyond(agreed: Floats, chance: Floats) -> dict[str, Floats]:
    with np.errstate(all="ignore"):
        kappa = np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)
    return {"percent": agreed, "kappa": kappa}


def _with_limits(measure: Measure, groups: Ints) -> dict[str, Any]:
    sizes = np.bincount(groups).astype(float)
    found = jackknife(measure, Design(np.zeros(len(sizes), dtype=np.int64), sizes), cells=len(groups))
    percent, kappa = found.point["percent"], found.point["kappa"]
    without = {"value": number(kappa), "low": None, "high": None}  # at 1 or -1 Fisher's z has no limits
    return {
        "percent": _open(limits(percent, found.left_out["percent"], found.design)),
        "kappa": _open(limits(kappa, found.left_out["kappa"], found.design, scale="fisher"))
        if abs(kappa) < 1
        else without,
    }


def _open(found: dict[str, Any]) -> dict[str, Any]:
    """Return a figure without its limits where they are one number."""
    return found if found["low"] != found["high"] else found | {"low": None, "high": None}
