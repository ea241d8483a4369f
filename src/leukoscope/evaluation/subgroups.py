"""Figures in subgroups of the cells (part, laboratory, stain, sex, age band …), and how far each is from the rest."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import Statistics, design_of, jackknife
from .metrics import Floats
from .outcomes import Outcome, measure

SHOWN = ("auroc", "sensitivity", "specificity", "balanced_accuracy", "accuracy")
_MANY = 8  # more different numbers than this are cut into bands
_BANDS = 4
_MOST = 20  # subgroups of a column that are shown


def subgroups(outcome: Outcome, columns: Mapping[str, NDArray[np.str_]]) -> list[dict[str, Any]]:
    """Return a row for each value of each column, with its figures and their difference to all other cells.

    columns: name -> (cells,) the value of each cell; an empty one counts as 'not recorded'. A column of more than eight
    different numbers is cut into four bands at its quartiles over subject groups.
    """
    rows = []
    for column, values in columns.items():
        kinds = banded(values, outcome.groups)
        names, counts = np.unique(kinds, return_counts=True)
        if len(names) > 1:
            largest = sorted(names[np.argsort(-counts, kind="stable")][:_MOST].tolist(), key=_in_order)
            rows += [_row(outcome, column, str(name), kinds == name) for name in largest]
    return rows


def subgroup_notes(outcome: Outcome, columns: Mapping[str, NDArray[np.str_]], *, asked: bool) -> list[str]:
    """Say which subgroups are not shown; a column with one value only where it was asked for."""
    notes = []
    for column, values in columns.items():
        count = len(np.unique(banded(values, outcome.groups)))
        if count > _MOST:
            notes.append(f"Subgroups by {column}: the {_MOST} with most cells of {count} are shown.")
        elif count < 2 and asked:
            notes.append(f"Subgroups by {column}: all tested cells have the same value, so there are none.")
    return notes


def banded(values: NDArray[np.str_], groups: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the subgroup of each cell: its value, or its band where the values are many numbers.

    >>> banded(np.array(["1", "", "2"]), np.arange(3)).tolist()
    ['1', 'not recorded', '2']
    """
    names = np.where(np.char.strip(values) == "", "not recorded", values)
    there = names != "not recorded"
    try:
        numbers = names[there].astype(float)
    except ValueError:
        return names
    if len(np.unique(numbers)) <= _MANY or not np.isfinite(numbers).all():
        return names
    one_each = numbers[np.unique(groups[there], return_index=True)[1]]
    cuts = np.unique(np.quantile(one_each, np.linspace(0, 1, _BANDS + 1)[1:-1], method="lower"))
    band = np.searchsorted(cuts, numbers)  # up to and including a cut
    edges = [f"up to {cuts[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(cuts.tolist()))]
    named = names.astype(object)
    named[there] = np.array([*edges, f"above {cuts[-1]:g}"], dtype=object)[band]
    return named.astype(np.str_)


def _in_order(name: str) -> tuple[int, float, str]:
    first = {"up to": 0, "above": 2, "not r": 3}.get(name[:5], 1)
    try:
        return first, float(name.split(maxsplit=1)[0]), name
    except ValueError:
        return first, 0.0, name


def _row(outcome: Outcome, column: str, name: str, inside: NDArray[np.bool_]) -> dict[str, Any]:
    here = _own_groups(outcome.pick(inside))
    labels = np.bincount(here.labels, minlength=outcome.classes)
    return {
        "column": column,
        "value": name,
        "cells": int(inside.sum()),
        "groups": int(here.groups.max()) + 1,
        "cells_per_class": labels.tolist(),
        "subject_weighted": _figures(here, alike=True) | {"differences": _differences(outcome, inside, alike=True)},
        "per_cell": _figures(here, alike=False) | {"differences": _differences(outcome, inside, alike=False)},
    }


def _own_groups(outcome: Outcome) -> Outcome:
    return replace(outcome, groups=np.unique(outcome.groups, return_inverse=True)[1])


def _figures(outcome: Outcome, *, alike: bool) -> dict[str, Any]:
    design = design_of(outcome.labels, outcome.groups)
    sizes = design.share if alike else np.ones(len(design.share))
    found = jackknife(
        lambda weights: measure(outcome, weights / sizes),
        design.alike() if alike else design,
        cells=len(outcome.labels),
    )
    return {metric: found.interval(metric) for metric in SHOWN}


def _differences(outcome: Outcome, inside: NDArray[np.bool_], *, alike: bool) -> dict[str, Any]:
    parts = {"in": outcome.pick(inside), "out": outcome.pick(~inside)}
    count = int(outcome.groups.max()) + 1
    sizes = {name: np.maximum(np.bincount(each.groups, minlength=count), 1) for name, each in parts.items()}
    present = {name: np.bincount(each.groups, minlength=count) > 0 for name, each in parts.items()}
    design = design_of(outcome.labels, outcome.groups, apart=present["in"] + 2 * present["out"])

    def statistic(weights: Floats) -> Statistics:
        return {
            f"{name}.{metric}": value
            for name, each in parts.items()
            for metric, value in measure(each, weights / sizes[name] if alike else weights).items()
        }

    found = jackknife(statistic, design.alike() if alike else design, cells=len(outcome.labels))
    return {metric: found.difference(f"in.{metric}", f"out.{metric}") for metric in SHOWN}
