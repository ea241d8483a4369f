"""The differential: how many white cells of each kind there are among those told apart, as laboratories count.

Intervals are Wilson's (1927, doi 10.1080/01621459.1927.10502953). A model that errs adds to that: where its errors are
known, the counts are put right by its confusion matrix (maximum likelihood under that matrix, by expectation and
maximisation), with the matrix and the counts drawn anew each time. Blasts and lymphocytes share what is lymphoid; how
they share it is put right by sensitivity and specificity between subjects (see `prevalence`). An interval then covers
Wilson's as well, so it always holds the percentage beside it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..errors import UnknownNameError, UsageError
from ..interop.hl7 import FOUND_AS_WHITE, CellShare
from .cell_types import LYMPHOID, UNSURE_TYPE
from .opinion import Opinion, title_of
from .prevalence import FEWEST, LEVEL, Accuracy, accuracy_of, why_not_known

BLAST, LYMPHOCYTE, UNDECIDED = "blast", "lymphocyte", "lymphoid, undecided"
IMMATURE, ERYTHROBLAST = "immature granulocyte", "erythroblast"
ORDER = ("neutrophil", LYMPHOCYTE, "monocyte", "eosinophil", "basophil", IMMATURE, BLAST, UNDECIDED)
"""White cells: the rows of a differential, in the usual order, unless a laboratory has set another."""
SMUDGE, REFUSED_ROW, OTHER = "smudge", "refused", "other"  # a smudge: inference.fields
APART = (ERYTHROBLAST, "platelet", SMUDGE, OTHER, UNSURE_TYPE, REFUSED_ROW)
"""What is counted beside the white cells."""
GOAL = 200
"""White cells that laboratories count for a differential."""

_Z = 1.959963984540054  # of the normal distribution, for 95 %
_DRAWS, _STEPS = 400, 150
_KNOWN = 15  # cells of a type below which its row of the confusion matrix says too little to be used

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Differential:
    """White cells by kind, and beside them what is no white cell or could not be told."""

    rows: tuple[CellShare, ...]
    white: int
    """White cells that were told apart: the sum of the rows."""
    goal: int
    apart: dict[str, int]
    """APART -> cells."""
    blasts_of_lymphoid: CellShare | None
    """Blasts among the lymphoid cells, in per cent of these; None for too few of them. Its percent is None where the
    interval is too wide for a share to be shown (`prevalence.why_not_known`)."""
    per_100: dict[str, CellShare]
    """Immature granulocytes and erythroblasts, for each 100 white cells (of which erythroblasts are none)."""
    said: str
    """One sentence: how many were told apart, and whether that is enough."""
    how: str
    """What the intervals rest on; empty where there are none."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def beside(self) -> list[CellShare]:
        """Return what is counted beside the white cells, under names that are clear where other counts stand beside.

        Unsure cells are of unsure type, not of unsure class; platelets are those found as cells, not all of a field.
        """
        named = {UNSURE_TYPE: "type unsure", "platelet": FOUND_AS_WHITE}
        return [CellShare(named.get(name, name), cells) for name, cells in self.apart.items()]

    def table(self) -> list[dict[str, Any]]:
        """Return rows of differential.csv: kind, cells, percent, low, high; the last three empty for what is apart."""
        empty: dict[str, Any] = {"percent": "", "low": "", "high": ""}
        white = [{"kind": row.name, "cells": row.cells} | _numbers(row) for row in self.rows]
        return white + [{"kind": name, "cells": cells} | empty for name, cells in self.apart.items()]


@dataclass
class Kinds:
    """Cells as a differential counts them, added one by one."""

    cells: Counter[str] = field(default_factory=Counter)
    """Name of ORDER or APART -> cells."""
    called: int = 0
    """Lymphoid cells that the operating point calls blasts, the undecided among them too."""
    answered: int = 0
    """Lymphoid cells of which it says anything."""

    def add(self, opinion: Opinion, *, positive: str, times: int = 1) -> None:
        """Count one more cell, or `times` of which the same was said."""
        kind = kind_of(opinion, positive=positive)
        self.cells[kind] += times
        if kind in (BLAST, LYMPHOCYTE, UNDECIDED) and opinion.called:
            self.answered += times
            self.called += times * (opinion.called == positive)


@dataclass(frozen=True)
class Errors:
    """How often a model is wrong, as far as that was measured."""

    types: tuple[str, ...]
    confusion: Floats
    """(true type, called type or unsure): counts of cells of laboratories that it had not learned from."""
    accuracy: Accuracy | None
    """Of its blasts; None where it was tested on too few subjects to say."""


class Counting:
    """The differentials of a call, kept while opinions stream by: of all cells, of every subject and every field."""

    def __init__(self, manifest: Manifest, *, point: str, order: Sequence[str] = ORDER, goal: int = GOAL) -> None:
        """Begin; `point` is an operating point as the bundle spells it. A bundle without a type head counts nothing."""
        self.told = bool(manifest.types)
        """Whether the bundle tells types at all."""
        self._positive, self._order, self._goal = manifest.positive, checked_order(order), goal
        self._errors = errors_of(manifest, point)
        self._all = Kinds()
        self._of: dict[tuple[str, str], Kinds] = {}

    def add(self, opinion: Opinion, *, subject: str = "", field: str = "") -> None:
        """Count one more cell."""
        places = [("subject", subject)] * bool(subject) + [("field", field)] * bool(field)
        for kinds in (self._all, *(self._of.setdefault(place, Kinds()) for place in places)):
            kinds.add(opinion, positive=self._positive)

    def everything(self) -> Differential | None:
        """Return the differential of all cells; None where the bundle tells no types."""
        return self._counted(self._all) if self.told else None

    def of_subject(self, name: str) -> Differential | None:
        """Return that of a subject; None where the bundle tells no types."""
        return self._counted(self._of.get(("subject", name), Kinds())) if self.told else None

    def of_field(self, path: str) -> Differential | None:
        """Return that of a field; None where the bundle tells no types."""
        return self._counted(self._of.get(("field", path), Kinds())) if self.told else None

    def _counted(self, kinds: Kinds) -> Differential:
        return differential(kinds, errors=self._errors, order=self._order, goal=self._goal)


def kind_of(opinion: Opinion, *, positive: str) -> str:
    """Return the row in which a cell is counted: one of ORDER or of APART."""
    if opinion.type != LYMPHOID:
        return opinion.type or REFUSED_ROW
    if opinion.decision == opinion.called and opinion.called:
        return BLAST if opinion.called == positive else LYMPHOCYTE
    return UNDECIDED


def errors_of(manifest: Manifest, point: str) -> Errors | None:
    """Return how often a bundle is wrong about types and blasts; None where it has no type head."""
    if not manifest.types:
        return None
    entry = manifest.types
    return Errors(tuple(entry["classes"]), np.asarray(entry["confusion"], float), accuracy_of(manifest, point))


def checked_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the rows in a laboratory's own order; rows that it does not name follow in the usual one.

    Raises:
        UnknownNameError: a name is no row of a differential.
        UsageError: a name is given twice.
    """
    for name in names:
        if name not in ORDER:
            raise UnknownNameError("row of the differential", name, list(ORDER))
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UsageError(f"The order of the differential names '{twice}' twice. Name every row once.")
    return (*names, *(name for name in ORDER if name not in names))


def differential(
    kinds: Kinds, *, errors: Errors | None = None, order: Sequence[str] = ORDER, goal: int = GOAL, seed: int = 0
) -> Differential:
    """Return the differential of some cells; with `errors`, of a model's count, else of a count that people made.

    >>> counted = Kinds(Counter({"neutrophil": 60, "lymphocyte": 40, "erythroblast": 5}))
    >>> [(row.name, row.percent, round(row.low, 1), round(row.high, 1)) for row in differential(counted).rows[:2]]
    [('neutrophil', 60.0, 50.2, 69.1), ('lymphocyte', 40.0, 30.9, 49.8)]
    """
    cells = kinds.cells
    white = sum(cells[name] for name in ORDER)
    enough = white >= FEWEST
    ends = _ends(kinds, errors, np.random.default_rng(seed)) if enough and errors else {}
    rows = tuple(
        _row(name, cells[name], white, ends.get(name)) if enough else CellShare(name, cells[name]) for name in order
    )
    lymphoid = cells[BLAST] + cells[LYMPHOCYTE] + cells[UNDECIDED]
    return Differential(
        rows=rows,
        white=white,
        goal=goal,
        apart={name: cells[name] for name in APART},
        blasts_of_lymphoid=_of_lymphoid(kinds, lymphoid, errors, seed=seed) if lymphoid >= FEWEST else None,
        per_100=_per_100(cells, white) if enough else {},
        said=_said(white, goal),
        how=_how(errors) if enough else "",
    )


def wilson(cells: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, from 0 to 1.

    >>> [round(end, 4) for end in wilson(0, 20)], [round(end, 4) for end in wilson(5, 20)]
    ([0.0, 0.1611], [0.1119, 0.4687])
    """
    share, weight = cells / total, _Z**2 / total
    middle = (share + weight / 2) / (1 + weight)
    reach = _Z * np.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    low = 0.0 if cells == 0 else float(middle - reach)
    return max(0.0, low), 1.0 if cells == total else min(1.0, float(middle + reach))


def rounded(values: Sequence[float], *, digits: int = 0) -> list[float]:
    """Round percentages so that what is shown sums to 100 too: those cut off most are rounded up.

    >>> rounded([33.333, 33.333, 33.334]), rounded([50.04, 49.96], digits=1)
    ([33.0, 33.0, 34.0], [50.0, 50.0])
    """
    steps = np.asarray(values, float) * 10**digits
    floors = np.floor(steps + 1e-9)
    missing = round(float(steps.sum() - floors.sum()))
    floors[np.argsort(floors - steps, kind="stable")[:missing]] += 1
    return [float(value) for value in floors / 10**digits]


def _row(name: str, cells: int, total: int, corrected: tuple[float, float] | None = None) -> CellShare:
    low, high = wilson(cells, total)
    if corrected:
        low, high = min(low, corrected[0]), max(high, corrected[1])
    return CellShare(name, cells, 100 * cells / total, 100 * low, 100 * high)


def _ends(kinds: Kinds, errors: Errors, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return the corrected interval of each row that a confusion matrix can correct, as shares of white cells."""
    drawn = _true_shares(kinds.cells, errors, rng)  # (draws, types)
    shares = dict(zip(errors.types, drawn.T, strict=True))
    white = sum(shares[name] for name in (*ORDER, LYMPHOID) if name in shares)
    shares = {name: values / np.maximum(white, 1e-12) for name, values in shares.items()}
    ends = {name: _quantiles(values, values) for name, values in shares.items() if name in ORDER}
    least, most = _blast_shares(kinds, errors, rng)
    lymphoid = shares[LYMPHOID]
    return ends | {
        BLAST: _quantiles(least * lymphoid, most * lymphoid),
        LYMPHOCYTE: _quantiles((1 - most) * lymphoid, (1 - least) * lymphoid),
    }


def _true_shares(cells: Mapping[str, int], errors: Errors, rng: np.random.Generator) -> Floats:
    """Draw the true share of each type (draws, types) behind what the model called the cells."""
    called = np.array([_called(cells, name) for name in (*errors.types, UNSURE_TYPE)], float)
    apparent = rng.dirichlet(called + 1 / len(called), size=_DRAWS)
    chances = _drawn_confusion(errors.confusion, rng)
    true = np.full((_DRAWS, len(errors.types)), 1 / len(errors.types))
    for _ in range(_STEPS):
        expected = np.einsum("dt,dtc->dc", true, chances)
        true = true * np.einsum("dc,dtc->dt", apparent / np.maximum(expected, 1e-12), chances)
    return np.asarray(true)


def _called(cells: Mapping[str, int], name: str) -> int:
    return cells[BLAST] + cells[LYMPHOCYTE] + cells[UNDECIDED] if name == LYMPHOID else cells[name]


def _drawn_confusion(counts: Floats, rng: np.random.Generator) -> Floats:
    """Draw confusion matrices (draws, true, called); of a type seen too rarely, every call is taken as right."""
    matrices = rng.standard_gamma(counts + 1 / counts.shape[1], size=(_DRAWS, *counts.shape))
    rare = counts.sum(1) < _KNOWN
    matrices[:, rare] = np.eye(*counts.shape)[rare]
    return np.asarray(matrices / matrices.sum(2, keepdims=True))


def _blast_shares(kinds: Kinds, errors: Errors, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw the least and the most of the lymphoid cells that may be blasts (draws,)."""
    if errors.accuracy is None or not kinds.answered:
        return np.zeros(_DRAWS), np.ones(_DRAWS)
    least, most = errors.accuracy.drawn(kinds.called, cells=kinds.answered, rng=rng)
    return least[:_DRAWS], most[:_DRAWS]


def _of_lymphoid(kinds: Kinds, lymphoid: int, errors: Errors | None, *, seed: int) -> CellShare:
    corrected = _quantiles(*_blast_shares(kinds, errors, np.random.default_rng(seed))) if errors else None
    row = _row(BLAST, kinds.cells[BLAST], lymphoid, corrected)
    low, high = ((row.low or 0.0) / 100, (row.high or 0.0) / 100)
    return replace(row, percent=None) if why_not_known(low, high, cells=lymphoid) else row


def _per_100(cells: Mapping[str, int], white: int) -> dict[str, CellShare]:
    """Return immature granulocytes, which are white cells, and erythroblasts, which are not, for each 100 of these."""
    low, high = (end / max(1 - end, 1e-9) for end in wilson(cells[ERYTHROBLAST], cells[ERYTHROBLAST] + white))
    erythroblasts = CellShare(
        ERYTHROBLAST, cells[ERYTHROBLAST], 100 * cells[ERYTHROBLAST] / white, 100 * low, 100 * high
    )
    return {IMMATURE: _row(IMMATURE, cells[IMMATURE], white), ERYTHROBLAST: erythroblasts}


def _quantiles(least: Floats, most: Floats) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    return float(np.quantile(least, tail)), float(np.quantile(most, 1 - tail))


def _numbers(row: CellShare) -> dict[str, Any]:
    ends = {"percent": row.percent, "low": row.low, "high": row.high}
    return {name: "" if value is None else round(value, 2) for name, value in ends.items()}


def _said(white: int, goal: int) -> str:
    if not white:
        return "No white cell was told apart, so there is no differential."
    many = f"{white:,} white cell{'s' * (white != 1)}"
    if white < FEWEST:
        were = "was" if white == 1 else "were"
        return f"{many} {were} told apart: too few for percentages, which need {FEWEST} at least. The goal is {goal:,}."
    return f"{white:,} of {goal:,} white cells told apart." if white < goal else f"{many} told apart."


def _how(errors: Errors | None) -> str:
    if errors is None:
        return "95 % intervals by Wilson."
    cells = round(float(errors.confusion.sum()))
    types = f"types: on {cells:,} cells of laboratories that it had not learned from" if cells else "not measured"
    blasts = "" if errors.accuracy else " How often it is wrong about blasts is not known, so any share is possible."
    return f"95 % intervals by Wilson, widened by how often the model was wrong ({types}).{blasts}"


_UNKNOWN = "myeloblasts, plasma cells, hairy cells or atypical lymphocytes"


def limits_of(manifest: Manifest, *, fields: bool = True) -> list[str]:
    """Return what must be known before an answer is believed; `fields`: whether whole fields are shown."""
    if not manifest.types:
        return [_no_types(manifest)] if fields or manifest.positive else []
    disease = title_of(manifest.positive) if manifest.positive else ""
    asked = f'"{disease} or {title_of(manifest.classes[0])}?"' if disease else "its classes"
    return [
        f"The model tells types of cells, and asks {asked} of lymphoid cells alone. It has learned no {_UNKNOWN}: it "
        "takes each of them for something that it knows.",
        *_how_often_wrong(manifest),
    ]


def _no_types(manifest: Manifest) -> str:
    named = " or ".join(title_of(name) for name in reversed(manifest.classes))
    return (
        f"This model does not recognise mature cells: a neutrophil, a monocyte or any other cell is called {named} "
        "too. Look at every cell, and use a model that tells types for fields."
    )


def _how_often_wrong(manifest: Manifest) -> list[str]:
    """Return how often the types of white cells were wrong in laboratories that the model had not learned from."""
    types = list(manifest.types["classes"])
    confusion = np.asarray(manifest.types["confusion"], float)  # (true, called)
    white = [number for number, name in enumerate(types) if name in (*ORDER, LYMPHOID)]
    cells = int(confusion[white].sum())
    if not cells:
        return ["How often its types are wrong in a laboratory that it has not learned from was not measured."]
    wrong = cells - int(confusion[white, white].sum())
    low, high = wilson(wrong, cells)
    mature = [number for number in white if types[number] != LYMPHOID]
    taken = f"{100 * confusion[mature, types.index(LYMPHOID)].sum() / max(confusion[mature].sum(), 1):.0f}"
    return [
        f"In a laboratory that it had not learned from, {100 * wrong / cells:.0f} of 100 white cells got a wrong type "
        f"or none ({100 * low:.0f} to {100 * high:.0f}; {cells:,} cells), {taken} of 100 mature ones were taken for "
        "lymphoid, and answers about blasts are worth little there."
    ]
