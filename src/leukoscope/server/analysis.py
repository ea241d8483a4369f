"""From stored images to stored cells: what the model says is written once, with the seal of the bundle that said it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import update
from sqlalchemy.orm import Session

from ..inference.opinion import Opinion, attention
from ..inference.predictor import Predictor
from .tables import Case, Cell, Model, Prediction

Evidence = NDArray[np.float16]


@dataclass(frozen=True)
class Drawn:
    """Where a cell lies in its field, and its crop in the store."""

    digest: str
    box: list[float] | None = None
    """left, top, width, height in pixels of the image; None for an image that is one cell."""
    outline: list[list[float]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = "model"


def remember_bundle(session: Session, predictor: Predictor) -> None:
    """Note the bundle that answers from now on, so that its answers can be understood after it has been replaced."""
    seal = predictor.manifest.seal
    if session.get(Model, seal) is None:
        session.add(Model(seal=seal, manifest=predictor.manifest.model_dump(mode="json")))
        session.flush()


def store_cells(
    session: Session, case_id: int, image_id: int, cells: Sequence[tuple[Drawn, Opinion]], *, predictor: Predictor,
    point: str,
) -> list[Cell]:  # fmt: skip
    """Add cells with what the model said of each, numbered on from those that the case has."""
    if not cells:
        return []
    more = update(Case).where(Case.id == case_id).values(cells_made=Case.cells_made + len(cells))
    last = session.scalar(more.returning(Case.cells_made))
    if last is None:
        return []  # the case was deleted meanwhile
    first = last - len(cells) + 1
    rows = [
        Cell(
            case_id=case_id, image_id=image_id, number=number, digest=drawn.digest, box=drawn.box,
            outline=drawn.outline, facts=drawn.facts, origin=drawn.origin, version=1,
        )
        for number, (drawn, _) in enumerate(cells, start=first)
    ]  # fmt: skip
    session.add_all(rows)
    session.flush()
    said = [(row, opinion) for row, (_, opinion) in zip(rows, cells, strict=True)]
    store_predictions(session, said, predictor=predictor, point=point)
    return rows


def store_predictions(
    session: Session, cells: Sequence[tuple[Cell, Opinion]], *, predictor: Predictor, point: str
) -> None:
    """Add what the model said of cells as they are drawn now, and let it stand for them."""
    threshold = predictor.manifest.operating_points.get(point, 1.0)
    said = [_prediction(cell, opinion, predictor=predictor, point=point) for cell, opinion in cells]
    session.add_all(said)
    session.flush()
    for (cell, opinion), each in zip(cells, said, strict=True):
        group, place = attention(opinion, positive=predictor.manifest.positive, threshold=threshold)
        cell.need = 10 * group + place  # a place lies between -1 and 1
        cell.prediction_id, cell.decision = each.id, opinion.decision
        cell.chance = _chance(opinion, predictor.manifest.positive)
    session.flush()


def _prediction(cell: Cell, opinion: Opinion, *, predictor: Predictor, point: str) -> Prediction:
    evidence = evidence_of(opinion, predictor)
    return Prediction(
        cell_id=cell.id, version=cell.version, bundle=predictor.manifest.seal, point=point,
        decision=opinion.decision, called=opinion.called, reason=opinion.reason, quality=opinion.quality,
        probabilities=opinion.probabilities,
        evidence=None if evidence is None else evidence.tobytes(),
        evidence_height=0 if evidence is None else len(evidence),
    )  # fmt: skip


def evidence_of(opinion: Opinion, predictor: Predictor) -> Evidence | None:
    """Return the evidence that the heat map shows: for the disease, or for the called class with more than two."""
    if opinion.map is None or not opinion.called or opinion.map[0].size == 1:
        return None
    row = predictor.classes.index(predictor.manifest.positive or opinion.called)
    return np.asarray(np.clip(opinion.map[row], -60_000, 60_000), np.float16)


def _chance(opinion: Opinion, positive: str) -> float | None:
    if opinion.probabilities is None:
        return None
    return float(opinion.probabilities.get(positive, max(opinion.probabilities.values())))
