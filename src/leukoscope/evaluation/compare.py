"""Two runs compared on the test cells that they share, and readers compared on the cells that all of them read.

Agreement of two named readers: Cohen's kappa (1960, doi 10.1177/001316446002000104). Of readers who differ from cell to
cell, or of more than two: Fleiss' kappa (1971, doi 10.1037/h0031619). Cells of one patient are not independent, so
intervals leave out one subject at a time (see `intervals`); kappa is taken to Fisher's z, agreement to the logit. With
fewer than three subjects, cells are left out instead, and the interval holds for these patients alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import DataError
from .evaluate import Evidence, experiment_of, gather
from .intervals import LEAST, METHOD, Design, Estimate, Statistics, design_of, jackknife, limits, number
from .metrics import LOWER_IS_BETTER, METRICS, Floats, Ints
from .outcomes import SUBJECT_METRICS, Outcome, label_statistics, measure, measure_subjects, outcome_of
from .predictions import Predictions
from .results import Agreement, ComparedFigures, Comparison


def compare(run_a: Path, run_b: Path) -> Comparison:
    """Measure both runs on the test cells that they share; every difference is B minus A, cell by cell.

    Cells are matched by the SHA-256 of their images, wherever the files lie and whatever they are called.

    Raises:
        DataError: the runs share no test cell, or differ in their classes or in the label of a cell.
    """
    settings = experiment_of(run_a)
    a, b = (gather(run, positive=settings.evaluate.positive) for run in (run_a, run_b))
    tests = [each.predictions.pick(each.predictions.test) for each in (a, b)]
    _same_classes(run_a, run_b, classes=[test.classes for test in tests])
    rows = _match(run_a, run_b, runs=(a, b))
    _same_labels(run_a, run_b, tests=tests, rows=rows)
    groups = joined_groups(tests[0].group[rows[0]], tests[1].group[rows[1]])
    outcomes = {name: _shared(each, picked, groups) for name, each, picked in zip("ab", (a, b), rows, strict=True)}
    design = design_of(outcomes["a"].labels, groups)
    return {
        "format": 1,
        "runs": {"a": str(run_a), "b": str(run_b)},
        "classes": list(tests[0].classes),
        "cells": {"shared": len(groups), "a": len(tests[0]), "b": len(tests[1])},
        "groups": len(design.share),
        "leaky": {"a": a.plan.leaky, "b": b.plan.leaky},
        "synthetic": bool((tests[0].source[rows[0]] == "synthetic").any()),
        "headline": "subject_weighted",
        "subject_weighted": _weighted(outcomes, design.equal_weights(), design.share),
        **_weighted(outcomes, design, np.ones(len(design.share))),
        "lower_is_better": sorted(LOWER_IS_BETTER),
        "intervals": {"method": METHOD, "unit": "subject group", "least_per_class": LEAST},
    }


def _weighted(outcomes: dict[str, Outcome], design: Design, sizes: Floats) -> ComparedFigures:
    """Return the figures of A, of B and B minus A; sizes: what the weight of a group is divided by."""

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, outcome in outcomes.items():
            each = measure(outcome, weights / sizes) | measure_subjects(outcome, weights)
            values |= label_statistics(each, name)
        return values

    found, names = jackknife(statistic, design, cells=len(outcomes["a"].labels)), (*METRICS, *SUBJECT_METRICS)
    return {
        "a": {name: found.interval(f"a.{name}") for name in names},
        "b": {name: found.interval(f"b.{name}") for name in names},
        "differences": {name: found.difference(f"b.{name}", f"a.{name}") for name in names},
    }


def _same_classes(run_a: Path, run_b: Path, *, classes: list[tuple[str, ...]]) -> None:
    if set(classes[0]) != set(classes[1]):
        raise DataError(
            f"{run_a} has the classes {', '.join(classes[0])}, {run_b} has {', '.join(classes[1])}. "
            "Only runs with the same classes can be compared."
        )
    if classes[0] != classes[1]:
        raise DataError(
            f"{run_a} counts '{classes[0][-1]}' as disease, {run_b} '{classes[1][-1]}'. "
            "Set evaluate.positive to the same class in both config.toml."
        )


def _match(run_a: Path, run_b: Path, *, runs: tuple[Evidence, Evidence]) -> tuple[Ints, Ints]:
    """Return the rows of the shared cells in A and in B."""
    a, b = ({image: row for row, image in enumerate(_images(run))} for run in runs)
    shared = [image for image in a if image in b]
    if not shared:
        raise DataError(
            f"{run_a} and {run_b} share no test cell: no image of one has the bytes (sha256 in cells.csv) of an image "
            "of the other. Compare runs whose test sets overlap, such as two models on one split."
        )
    rows_a, rows_b = (np.array([rows[image] for image in shared], dtype=np.int64) for rows in (a, b))
    return rows_a, rows_b


def _images(evidence: Evidence) -> list[tuple[str, int]]:
    """Return, per test cell, the SHA-256 of its bytes, and how many cells before it by name have the same bytes."""
    cells = [evidence.cells[row] for row in evidence.rows[evidence.predictions.test]]
    seen: Counter[str] = Counter()
    images = [("", 0)] * len(cells)
    for row in sorted(range(len(cells)), key=lambda row: cells[row].name):
        images[row] = (cells[row].sha256, seen[cells[row].sha256])
        seen[cells[row].sha256] += 1
    return images


def _same_labels(run_a: Path, run_b: Path, *, tests: list[Predictions], rows: tuple[Ints, Ints]) -> None:
    differ = np.flatnonzero(tests[0].label[rows[0]] != tests[1].label[rows[1]])
    if len(differ):
        raise DataError(
            f"{run_a} and {run_b} label {len(differ)} shared cells differently, such as "
            f"{tests[0].path[rows[0]][differ[0]]}. Use the same labels in both."
        )


def joined_groups(a: Any, b: Any) -> Ints:
    """Return a group code per cell: cells that share a group in A or in B are in one group.

    >>> joined_groups(["1", "1", "2", "3"], ["x", "y", "y", "z"]).tolist()
    [0, 0, 0, 1]
    """
    first, second = (np.unique(np.asarray(each), return_inverse=True)[1] for each in (a, b))
    names = int(first.max()) + 1
    size = names + int(second.max()) + 1
    links = coo_matrix((np.ones(len(first)), (first, second + names)), shape=(size, size))
    component = connected_components(links, directed=False)[1]
    return np.unique(component[first], return_inverse=True)[1]


def _shared(evidence: Evidence, rows: Ints, groups: Ints) -> Outcome:
    return replace(outcome_of(evidence.predictions, evidence.calibrations).pick(rows), groups=groups)


COHEN, FLEISS = "Cohen's kappa", "Fleiss' kappa"
SUBJECTS, CELLS = "subjects", "cells"


def agreement(answers: Sequence[Sequence[str]], subjects: Sequence[str], *, named: bool) -> Agreement:
    """Return how far readers agree on cells that all of them have read.

    answers: one row per cell, one label per reader; every row is as long as the others, two labels at least.
    subjects: whose cell each row is.
    named: whether a column is always the same person; Cohen's kappa of two such, else Fleiss' kappa.

    Returns {"cells", "subjects", "statistic", "unit", "percent", "kappa"}: the last two with value, low and high in
    [-1, 1], percent as a share of all pairs of answers. Kappa is None where all answers are the same, since chance
    agreement is then 1 as well. Limits are None where both would equal the value: it does not change with any unit left
    out (such as Cohen's kappa of 0 where one reader gives every cell the same label), but is not free of error.

    >>> found = agreement([["blast", "blast"], ["normal", "normal"], ["blast", "normal"]], list("abc"), named=True)
    >>> round(found["percent"]["value"], 2), found["kappa"]["value"], found["statistic"]
    (0.67, 0.4, "Cohen's kappa")
    """
    people = len(set(subjects))
    unit = SUBJECTS if people >= LEAST else CELLS
    statistic = COHEN if named and answers and len(answers[0]) == 2 else FLEISS
    percent = kappa = Estimate(value=None, low=None, high=None)
    if answers:
        codes = np.unique(np.array(answers), return_inverse=True)[1].reshape(len(answers), -1)
        of = subjects if unit == SUBJECTS else range(len(answers))
        groups = np.unique(np.array(of), return_inverse=True)[1]
        measure = _cohen(codes, groups) if statistic == COHEN else _fleiss(codes, groups)
        percent, kappa = _agreement_with_limits(measure, groups)
    return {
        "cells": len(answers),
        "subjects": people,
        "statistic": statistic,
        "unit": unit,
        "percent": percent,
        "kappa": kappa,
    }


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
    """Return the same for any number of readers; agreement is the share of equal pairs of answers."""
    readers = codes.shape[1]
    given = (codes[:, :, None] == np.arange(int(codes.max()) + 1)).sum(1)  # (cells, classes)
    equal_pairs = (given * (given - 1)).sum(1) / (readers * (readers - 1))
    count = int(groups.max()) + 1
    cells, agreed = np.bincount(groups, minlength=count), np.bincount(groups, equal_pairs, minlength=count)
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


def _agreement_with_limits(measure: Measure, groups: Ints) -> tuple[Estimate, Estimate]:
    """Return share of agreement and kappa."""
    sizes = np.bincount(groups).astype(float)
    found = jackknife(measure, Design(np.zeros(len(sizes), dtype=np.int64), sizes), cells=len(groups))
    percent, kappa = found.point["percent"], found.point["kappa"]
    agreed = _without_equal_limits(limits(percent, found.left_out["percent"], found.design))
    if abs(kappa) >= 1:  # Fisher's z of 1 or -1 is infinite
        return agreed, {"value": number(kappa), "low": None, "high": None}
    return agreed, _without_equal_limits(limits(kappa, found.left_out["kappa"], found.design, scale="fisher"))


def _without_equal_limits(found: Estimate) -> Estimate:
    """Return an estimate without its limits where both are the same number."""
    return found if found["low"] != found["high"] else {"value": found["value"], "low": None, "high": None}
