"""The differential of a case: the model's count and, beside it, what people said; and the words they say it with."""

from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from ..bundle.manifest import REFUSED, UNSURE, Manifest
from ..inference.cell_types import LYMPHOID, TYPES
from ..inference.differential import (
    BLAST,
    LYMPHOCYTE,
    SMUDGE,
    Differential,
    Kinds,
    checked_order,
    differential,
    errors_of,
)
from ..inference.opinion import Opinion, title_of
from .settings import Serving
from .tables import Cell, Picture, Prediction


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the types that a reader can say beside the classes; none where the bundle tells no types."""
    return (*(name for name in TYPES if name != LYMPHOID), SMUDGE) if manifest.types else ()


def titles_of(manifest: Manifest) -> dict[str, str]:
    """Return what people call the classes: beside types, what is normal among lymphoid cells is a lymphocyte."""
    titles = {name: title_of(name) for name in manifest.classes}
    if manifest.types and manifest.positive:
        titles[manifest.classes[0]] = LYMPHOCYTE
    return titles


def differentials(session: Session, case_id: int, *, manifest: Manifest, settings: Serving) -> dict[str, Any] | None:
    """Return {"model", "readers"}: what each counted; None where the bundle that serves tells no types."""
    if not manifest.types:
        return None
    order, goal = checked_order(settings.order), settings.goal
    by_model = _by_model(session, Cell.case_id == case_id, manifest)
    model = differential(by_model, errors=errors_of(manifest, settings.point), order=order, goal=goal)
    readers = differential(_by_readers(session, case_id, manifest), order=order, goal=goal)
    return {"model": model.as_json(), "readers": readers.as_json()}


def differential_of_image(
    session: Session, image: Picture, *, manifest: Manifest, settings: Serving
) -> Differential | None:
    """Return what the model counted in one image; None where the bundle that serves tells no types."""
    if not manifest.types:
        return None
    errors, order = errors_of(manifest, settings.point), checked_order(settings.order)
    kinds = _by_model(session, Cell.image_id == image.id, manifest)
    return differential(kinds, errors=errors, order=order, goal=settings.goal)


def _by_model(session: Session, where: ColumnElement[bool], manifest: Manifest) -> Kinds:
    """Count what the model said; cells at which only a bundle without types has looked are none of its count."""
    told = (Cell.type != "") | (Cell.decision == REFUSED)
    columns = (Cell.type, Cell.decision, Prediction.called)
    query = select(*columns, func.count()).outerjoin(Prediction, Prediction.id == Cell.prediction_id)
    query = query.where(where, Cell.removed.is_(False), told).group_by(*columns)
    kinds = Kinds()
    for kind, decision, called, count in session.execute(query):
        kinds.add(Opinion("", decision, type=kind, called=called or ""), positive=manifest.positive, times=count)
    return kinds


def _by_readers(session: Session, case_id: int, manifest: Manifest) -> Kinds:
    query = select(Cell.label, func.count()).where(Cell.case_id == case_id, Cell.removed.is_(False), Cell.label != "")
    kinds = Kinds()
    for label, count in session.execute(query.group_by(Cell.label)):
        if label in manifest.classes:
            kinds.cells[BLAST if label == manifest.positive else LYMPHOCYTE] += count
        elif label == UNSURE or label in labels_of(manifest):  # classes of older bundles are no rows
            kinds.cells[label] += count
    return kinds
