"""What kind of cell is this? Asked before "blast or normal?", which has a meaning for lymphoid cells alone.

One small network (see docs/explanation/cell-types.md) gives a probability for each of TYPES. The rule on top of it is
careful in one direction: a cell is asked about blasts only where lymphoid is the likeliest type and nothing else that
is no lymphoid cell is plausible, since a mature cell called blast does more harm than a lymphoid one left unsure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..bundle.manifest import Bundle
from ..errors import BundleError
from ..images.crop import SIDE
from ..images.read import RGB
from .ensemble import check_answer, open_graph, temper, try_out

TYPES = (
    "neutrophil",
    "eosinophil",
    "basophil",
    "monocyte",
    "lymphoid",
    "immature granulocyte",
    "erythroblast",
    "platelet",
    "other",
)
LYMPHOID = "lymphoid"
UNSURE_TYPE = "unsure"
"""In place of a type where the network cannot decide between some."""
GRAPH = "types/model.onnx"
FORMAT = 1


@dataclass(frozen=True)
class TypeOpinion:
    """What the model says about the type of one cell."""

    type: str
    """One of TYPES, or UNSURE_TYPE."""
    probabilities: dict[str, float]
    """Calibrated probability of each of TYPES."""
    asked: bool
    """Whether "blast or normal?" has a meaning for this cell."""
    reason: str
    """Why it is not asked; empty where it is."""


class CellTyper:
    """The type head of a bundle, ready to answer; safe to share between threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Load the graph.

        Raises:
            BundleError: the entry `types` of bundle.json, or the graph, cannot be used.
        """
        entry = bundle.manifest.types
        try:
            self.types: tuple[str, ...] = tuple(entry["classes"])
            self.confusion: NDArray[np.float64] = np.asarray(entry["confusion"], float)
            """(true type, called type or unsure): counts, of laboratories that the network had not learned from."""
            self._temperature = float(entry["temperature"])
            self._least, self._lymphoid = float(entry["least"]), float(entry["lymphoid"])
            graph = str(entry["graph"])
        except (KeyError, TypeError, ValueError) as wrong:
            raise BundleError(f"{bundle.path}/bundle.json cannot be used: types: {wrong!r}. {_AGAIN}") from None
        if self.types != TYPES or self.confusion.shape != (len(TYPES), len(TYPES) + 1):
            raise BundleError(f"{bundle.path}/bundle.json names other cell types than this leukoscope knows. {_AGAIN}")
        self._session = _open(bundle, graph)

    @classmethod
    def of(cls, bundle: Bundle) -> "CellTyper | None":
        """Return the type head of a bundle; None where it has none, so that mature cells are not recognised."""
        return cls(bundle) if bundle.manifest.types else None

    def classify(self, crops: Sequence[RGB]) -> list[TypeOpinion]:
        """Return the type of each crop, as fields.crops makes them: uint8 (128, 128, 3)."""
        return [self.judge(chances) for chances in self.probabilities(crops)]

    def probabilities(self, crops: Sequence[RGB]) -> NDArray[np.float64]:
        """Return calibrated probabilities (crops, types)."""
        said = [self._session.run(["probabilities"], {"crops": crop[None]})[0] for crop in crops]
        if not said:
            return np.zeros((0, len(TYPES)))
        chances = np.concatenate(said)
        check_answer(chances, where=GRAPH)
        return np.asarray(temper(chances, self._temperature), float)

    def judge(self, probabilities: NDArray[np.float64]) -> TypeOpinion:
        """Return the opinion that follows from probabilities (types,)."""
        table = dict(zip(self.types, probabilities.tolist(), strict=True))
        first, second = sorted(table, key=lambda name: -table[name])[:2]
        if first == LYMPHOID and table[LYMPHOID] >= self._lymphoid:
            return TypeOpinion(LYMPHOID, table, True, "")
        if first == LYMPHOID or table[first] < self._least:
            between = f"{first} {table[first]:.2f}, {second} {table[second]:.2f}"
            return TypeOpinion(UNSURE_TYPE, table, False, f"unsure ({between}): {_ONLY}")
        return TypeOpinion(first, table, False, f"{first}: {_ONLY}")


def require_round_nucleus(opinion: TypeOpinion, *, share: float, roundness: float) -> TypeOpinion:
    """Return the opinion on a cell of a field whose nucleus has this form; a field needs more to be asked.

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
    """Return the opinion on a cell of a field of which the network is torn between neutrophil and eosinophil.

    colours: gives the numbers of fields.crops.granule_colours, which are then heard with equal weight. The two
    types may change places; nothing else changes, and no cell comes to be asked about blasts.
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
# PBC and BCCD that the network has learnt from too.
GRANULES = (15.02, 3.46, 11.62, 4.07, -7.34, -6.83, 22.68, 11.42, 2.85, -43.13, -20.5, 6.23)
GRANULES_CONSTANT = -6.13

LEAST_NUCLEUS = 0.65  # of the cell's area, as fields.cells measures it
LEAST_ROUNDNESS = 0.55  # of the nucleus; more would leave more blasts unsure, whose nuclei may be indented
LEAST_IN_FIELD = 0.7  # probability of lymphoid: among cells of all types a mistake is likelier than among lymphoid ones
_ONLY = "blast or normal is asked of lymphoid cells only"
_AGAIN = "Make the bundle again, or update leukoscope."


def entry_of(*, temperature: float, least: float, lymphoid: float, confusion: Any, figures: Any) -> dict[str, Any]:
    """Return the entry `types` of bundle.json."""
    return {
        "format": FORMAT,
        "graph": GRAPH,
        "classes": list(TYPES),
        "temperature": temperature,
        "least": least,
        "lymphoid": lymphoid,
        "confusion": confusion,
        "figures": figures,
    }


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
