"""Classification of cell types before blasts are classified, which is done for lymphoid cells only; the differential.

One small network (see docs/explanation/cell-types.md) gives a probability for each of TYPES. The rule on top of it is
careful in one direction: a cell is asked about blasts only where lymphoid is the likeliest type and nothing else that
is not a lymphoid cell is plausible, since a mature cell called blast does more harm than a lymphoid one left unsure.

The differential counts the white cells of each type, as laboratories do. Its intervals are Wilson's (1927, doi
10.1080/01621459.1927.10502953). Errors of the model widen them: where they are known, the counts are corrected by its
confusion matrix (maximum likelihood by expectation and maximisation), with the matrix and the counts redrawn each
time. How lymphoid cells divide into blasts and lymphocytes is corrected by sensitivity and specificity between subjects
(see `prevalence`). The interval then covers Wilson's as well, so it always contains the percentage beside it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..bundle.manifest import TYPES, Bundle, Manifest, TypeNetwork, title_of
from ..errors import BundleError, UnknownNameError, UsageError
from ..images.crop import SIDE
from ..images.read import RGB
from ..interop.hl7 import FOUND_AS_WHITE, CellShare
from .ensemble import check_answer, open_graph, temper, try_out
from .prevalence import FEWEST, LEVEL, Accuracy, accuracy_of, why_not_known

if TYPE_CHECKING:
    from .opinions import Opinion

LYMPHOID = "lymphoid"
UNSURE_TYPE = "unsure"
"""In place of a type where the network cannot decide between some."""
GRAPH = "types/model.onnx"
FORMAT = 1


@dataclass(frozen=True)
class TypeOpinion:
    """The model's opinion on the type of one cell."""

    type: str
    """One of TYPES, or UNSURE_TYPE."""
    probabilities: dict[str, float]
    """Calibrated probability of each of TYPES."""
    asked: bool
    """Whether "blast or normal?" has a meaning for this cell."""
    reason: str
    """Why the classes do not apply; empty where they do."""


class CellTyper:
    """The type head of a bundle, ready to answer; safe to share between threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the graph.

        Raises:
            BundleError: the entry `types` of bundle.json, or the graph, cannot be used.
        """
        entry = bundle.manifest.types
        if entry is None:
            raise BundleError(f"{bundle.path} has no network that classifies types of cells. {_AGAIN}")
        self.types: tuple[str, ...] = TYPES
        self._entry = entry
        self._session = _open(bundle, entry.graph)

    @classmethod
    def of(cls, bundle: Bundle) -> "CellTyper | None":
        """Return the type head of a bundle; None where it has none, so that mature cells are not recognised."""
        return cls(bundle) if bundle.manifest.types else None

    def classify(self, crops: Sequence[RGB]) -> list[TypeOpinion]:
        """Return the type of each crop, as fields.crops makes them: uint8 (128, 128, 3)."""
        return [self.judge(chances) for chances in self.probabilities(crops)]

    def probabilities(self, crops: Sequence[RGB]) -> NDArray[np.float64]:
        """Return calibrated probabilities (crops, types)."""
        answers = [self._session.run(["probabilities"], {"crops": crop[None]})[0] for crop in crops]
        if not answers:
            return np.zeros((0, len(TYPES)))
        chances = np.concatenate(answers)
        check_answer(chances, where=GRAPH)
        return np.asarray(temper(chances, self._entry.temperature), float)

    def judge(self, probabilities: NDArray[np.float64]) -> TypeOpinion:
        """Return the opinion that follows from probabilities (types,)."""
        table = dict(zip(self.types, probabilities.tolist(), strict=True))
        first, second = sorted(table, key=lambda name: -table[name])[:2]
        if first == LYMPHOID and table[LYMPHOID] >= self._entry.lymphoid:
            return TypeOpinion(LYMPHOID, table, True, "")
        if first == LYMPHOID or table[first] < self._entry.least:
            between = f"{first} {table[first]:.2f}, {second} {table[second]:.2f}"
            return TypeOpinion(UNSURE_TYPE, table, False, f"unsure ({between}): {_ONLY}")
        return TypeOpinion(first, table, False, f"{first}: {_ONLY}")


def require_round_nucleus(opinion: TypeOpinion, *, share: float, roundness: float) -> TypeOpinion:
    """Return the opinion on a cell of a field whose nucleus has this form; in a field the requirements are stricter.

    share: of the cell's area that the nucleus takes. roundness: share of the nucleus that the largest circle inside it
    takes. Form holds where colour does not: of lymphocytes of two laboratories 2 % are below each limit, of neutrophils
    nine in ten. A cell on black is of a collection of lymphoid cells more often than not.
    """
    chance = opinion.probabilities.get(LYMPHOID, 0.0)
    if not opinion.asked:
        return opinion
    if share < LEAST_NUCLEUS:
        why = f"its nucleus is only {share:.0%} of the cell"
    elif roundness < LEAST_ROUNDNESS:
        why = "its nucleus is lobed or indented"
    elif chance < LEAST_IN_FIELD:
        why = f"only {chance:.2f} sure"
    else:
        return opinion
    return TypeOpinion(UNSURE_TYPE, opinion.probabilities, False, f"unsure (looks lymphoid, but {why}): {_ONLY}")


def by_granules(opinion: TypeOpinion, colours: Callable[[], NDArray[np.float64] | None]) -> TypeOpinion:
    """Return the opinion on a cell of a field of which the network is undecided between neutrophil and eosinophil.

    colours: gives the numbers of fields.crops.granule_colours, which then count with equal weight. The two
    types may be exchanged; nothing else changes, and no further cell is classified as blast or normal.
    """
    table = opinion.probabilities
    pair = table.get(NEUTROPHIL, 0.0), table.get(EOSINOPHIL, 0.0)
    if opinion.type not in (NEUTROPHIL, EOSINOPHIL) or min(pair) < TORN or (numbers := colours()) is None:
        return opinion
    evidence = np.log(pair[1] / pair[0]) + float(np.dot(GRANULES, numbers)) + GRANULES_CONSTANT
    name = EOSINOPHIL if evidence > 0 else NEUTROPHIL
    if name == opinion.type:
        return opinion
    return TypeOpinion(name, table | {NEUTROPHIL: pair[1], EOSINOPHIL: pair[0]}, False, f"{name}: {_ONLY}")


NEUTROPHIL, EOSINOPHIL = "neutrophil", "eosinophil"
TORN = 0.05  # least probability of the less likely of the two
# Logistic weights that speak for an eosinophil; `benchmarks/train_cell_types.py granules` learns them from the cells of
# PBC and BCCD that the network has learned from too.
GRANULES = (15.02, 3.46, 11.62, 4.07, -7.34, -6.83, 22.68, 11.42, 2.85, -43.13, -20.5, 6.23)
GRANULES_CONSTANT = -6.13

LEAST_NUCLEUS = 0.65  # of the cell's area, as fields.cells measures it
LEAST_ROUNDNESS = 0.55  # of the nucleus; more would leave more blasts unsure, whose nuclei may be indented
LEAST_IN_FIELD = 0.7  # probability of lymphoid: among cells of all types a mistake is likelier than among lymphoid ones
_ONLY = "blast or normal is asked of lymphoid cells only"
_AGAIN = "Make the bundle again, or update leukoscope."


def entry_of(*, temperature: float, least: float, lymphoid: float, confusion: Any, figures: Any) -> TypeNetwork:
    """Return the entry `types` of bundle.json."""
    table = {
        "format": FORMAT,
        "graph": GRAPH,
        "classes": list(TYPES),
        "temperature": temperature,
        "least": least,
        "lymphoid": lymphoid,
        "confusion": confusion,
        "figures": figures,
    }
    return TypeNetwork.model_validate(table)


def _open(bundle: Bundle, name: str) -> onnxruntime.InferenceSession:
    session = open_graph(bundle, name, batch=1)
    inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
    outputs = {each.name: each.shape for each in session.get_outputs()}
    if inputs != [("crops", "tensor(uint8)", [SIDE, SIDE, 3])]:
        raise BundleError(f"{bundle.path / name} takes something other than crops of {SIDE} pixels. {_AGAIN}")
    if outputs.get("probabilities", [None])[-1] != len(TYPES):
        raise BundleError(f"{bundle.path / name} does not give one probability for each cell type. {_AGAIN}")
    try_out(session, bundle.path / name, size=SIDE, outputs=["probabilities"], batch=1)
    return session


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
_KNOWN = 15  # cells of a type below which its row of the confusion matrix is too uncertain to be used

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Differential:
    """White cells by kind, and separately cells that are not white cells or could not be classified."""

    rows: tuple[CellShare, ...]
    white: int
    """White cells that were classified: the sum of the rows."""
    goal: int
    apart: dict[str, int]
    """APART -> cells."""
    blasts_of_lymphoid: CellShare | None
    """Blasts among the lymphoid cells, in per cent of these; None for too few of them. Its percent is None where the
    interval is too wide for a share to be shown (`prevalence.why_not_known`)."""
    per_100: dict[str, CellShare]
    """Immature granulocytes and erythroblasts, for each 100 white cells (of which erythroblasts are none)."""
    summary: str
    """One sentence: how many were classified, and whether that is enough."""
    how: str
    """What the intervals rest on; empty where there are none."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"said" if name == "summary" else name: value for name, value in asdict(self).items()}

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
    """Lymphoid cells that have a class."""

    def add(self, opinion: "Opinion", *, positive: str, times: int = 1) -> None:
        """Count one more cell, or `times` cells with the same opinion."""
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
    """(true type, called type or unsure): counts of cells of laboratories that it was not trained on."""
    accuracy: Accuracy | None
    """Of its blasts; None where it was tested on too few subjects to estimate it."""


class Counting:
    """The differentials of a call, kept while opinions stream by: of all cells, of every subject and every field."""

    def __init__(self, manifest: Manifest, *, point: str, order: Sequence[str] = ORDER, goal: int = GOAL) -> None:
        """Begin; `point` is an operating point as the bundle spells it. A bundle without a type head counts nothing."""
        self.has_types = bool(manifest.types)
        """Whether the bundle classifies types at all."""
        self._positive, self._order, self._goal = manifest.positive, checked_order(order), goal
        self._errors = errors_of(manifest, point)
        self._all = Kinds()
        self._of: dict[tuple[str, str], Kinds] = {}

    def add(self, opinion: "Opinion", *, subject: str = "", field: str = "") -> None:
        """Count one more cell."""
        places = [("subject", subject)] * bool(subject) + [("field", field)] * bool(field)
        for kinds in (self._all, *(self._of.setdefault(place, Kinds()) for place in places)):
            kinds.add(opinion, positive=self._positive)

    def everything(self) -> Differential | None:
        """Return the differential of all cells; None where the bundle classifies no types."""
        return self._counted(self._all) if self.has_types else None

    def of_subject(self, name: str) -> Differential | None:
        """Return that of a subject; None where the bundle classifies no types."""
        return self._counted(self._of.get(("subject", name), Kinds())) if self.has_types else None

    def of_field(self, path: str) -> Differential | None:
        """Return that of a field; None where the bundle classifies no types."""
        return self._counted(self._of.get(("field", path), Kinds())) if self.has_types else None

    def _counted(self, kinds: Kinds) -> Differential:
        return differential(kinds, errors=self._errors, order=self._order, goal=self._goal)


def kind_of(opinion: "Opinion", *, positive: str) -> str:
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
    return Errors(TYPES, np.asarray(manifest.types.confusion, float), accuracy_of(manifest, point))


def checked_order(names: Sequence[str]) -> tuple[str, ...]:
    """Return the rows in a laboratory's own order; rows that it does not name follow in the usual one.

    Raises:
        UnknownNameError: a name is not a row of a differential.
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
        summary=_summary(white, goal),
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


def _summary(white: int, goal: int) -> str:
    if not white:
        return "No white cell was classified, so there is no differential."
    many = f"{white:,} white cell{'s' * (white != 1)}"
    if white < FEWEST:
        were = "was" if white == 1 else "were"
        return f"{many} {were} classified: too few for percentages, which need at least {FEWEST}. The goal is {goal:,}."
    return f"{white:,} of {goal:,} white cells classified." if white < goal else f"{many} classified."


def _how(errors: Errors | None) -> str:
    if errors is None:
        return "95 % intervals by Wilson."
    cells = round(float(errors.confusion.sum()))
    types = f"types: on {cells:,} cells of laboratories that it was not trained on" if cells else "not measured"
    blasts = "" if errors.accuracy else " How often it is wrong about blasts is not known, so any share is possible."
    return f"95 % intervals by Wilson, widened by how often the model was wrong ({types}).{blasts}"


_UNKNOWN = "myeloblasts, plasma cells, hairy cells or atypical lymphocytes"


def limits_of(manifest: Manifest, *, fields: bool = True) -> list[str]:
    """Return the limits that a reader of the answers must know; `fields`: whether complete fields are shown."""
    if not manifest.types:
        return [_no_types(manifest)] if fields or manifest.positive else []
    disease = title_of(manifest.positive) if manifest.positive else ""
    question = f'"{disease} or {title_of(manifest.classes[0])}?"' if disease else "its classes"
    return [
        f"The model classifies types of cells, and asks {question} of lymphoid cells only. It was not trained on "
        f"{_UNKNOWN}: it assigns each of them to a type that it knows.",
        *_how_often_wrong(manifest.types),
    ]


def _no_types(manifest: Manifest) -> str:
    named = " or ".join(title_of(name) for name in reversed(manifest.classes))
    return (
        f"This model does not recognise mature cells: a neutrophil, a monocyte or any other cell is called {named} "
        "too. Look at every cell, and use a model that classifies types for fields."
    )


def _how_often_wrong(network: TypeNetwork) -> list[str]:
    """Return how often the types of white cells were wrong in laboratories that the model was not trained on."""
    confusion = np.asarray(network.confusion, float)  # (true, called)
    white = [number for number, name in enumerate(TYPES) if name in (*ORDER, LYMPHOID)]
    cells = int(confusion[white].sum())
    if not cells:
        return ["How often its types are wrong in a laboratory that it was not trained on was not measured."]
    wrong = cells - int(confusion[white, white].sum())
    low, high = wilson(wrong, cells)
    mature = [number for number in white if TYPES[number] != LYMPHOID]
    taken = f"{100 * confusion[mature, TYPES.index(LYMPHOID)].sum() / max(confusion[mature].sum(), 1):.0f}"
    return [
        f"In a laboratory that it was not trained on, {100 * wrong / cells:.0f} of 100 white cells got a wrong type "
        f"or none ({100 * low:.0f} to {100 * high:.0f}; {cells:,} cells), {taken} of 100 mature ones were taken for "
        "lymphoid, so predictions about blasts are unreliable there."
    ]
