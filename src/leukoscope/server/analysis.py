"""From stored images to stored cells: what the model says is written once, with the seal of the bundle that said it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from ..errors import require
from ..explanation.maps import Heat
from ..images.crop import cell_mask
from ..images.read import RGB
from ..inference.opinion import Opinion, evidence_of, review_priority
from ..inference.predictor import Predictor
from .audit_log import take_turn
from .tables import Case, Cell, Model, Prediction

if TYPE_CHECKING:
    from ..inference.fields import JudgedCell


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
    take_turn(session)  # several processes may start at once
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
        group, place = review_priority(opinion, positive=predictor.manifest.positive, threshold=threshold)
        cell.need = 10 * group + place  # a place lies between -1 and 1
        cell.prediction_id, cell.decision, cell.type = each.id, opinion.decision, opinion.type
        cell.chance = _chance(opinion, predictor.manifest.positive)
    session.flush()


def _prediction(cell: Cell, opinion: Opinion, *, predictor: Predictor, point: str) -> Prediction:
    evidence = _halved(evidence_of(opinion, predictor.manifest))
    return Prediction(
        cell_id=cell.id, version=cell.version, bundle=predictor.manifest.seal, point=point,
        decision=opinion.decision, called=opinion.called, reason=opinion.reason, quality=opinion.quality,
        probabilities=opinion.probabilities, type=opinion.type, types=opinion.types,
        evidence=None if evidence is None else evidence.tobytes(),
        evidence_height=0 if evidence is None else len(evidence),
    )  # fmt: skip


def _halved(evidence: Heat | None) -> Evidence | None:
    """Return evidence in half precision, as the database keeps it."""
    return None if evidence is None else np.asarray(np.clip(evidence, -60_000, 60_000), np.float16)


def _chance(opinion: Opinion, positive: str) -> float | None:
    if opinion.probabilities is None:
        return None
    return float(opinion.probabilities.get(positive, max(opinion.probabilities.values())))


_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out, as in quality
_CERTAIN_CROP = 640 * 480  # pixels; the release's crops have fewer, cameras take more
_POINTS = 96  # of an outline that is kept


def is_field(image: RGB, path: Path) -> bool:
    """Tell whether an image shows more than one cell cut out on black."""
    mask = cell_mask(image)
    if float(np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1])).mean()) > _FRAMED:
        return True
    if mask.size < _CERTAIN_CROP:
        return False
    from ..inference.sources import kind_of  # also knows a round field of view on black

    return kind_of(path) == "field"


def cell_of_outline(
    path: Path, outline: Sequence[Sequence[float]], others: Sequence[Sequence[Sequence[float]]], predictor: Predictor,
    *, um_per_px: float | None, point: str, stain: dict[str, Any] | None = None,
) -> "JudgedCell":  # fmt: skip
    """Judge one cell that a reader has drawn, x and y in pixels.

    stain: that which the fields of the case share; without it, that of all the field's cells.
    """
    field = _open(path, um_per_px=um_per_px)
    from ..fields.cells import describe
    from ..fields.detection import Found
    from ..fields.extraction import field_normaliser
    from ..fields.stain import StainStatistics
    from ..inference.fields import judge_cell, stain_of

    drawn, *rest = (describe(Found(np.array(each, float), 0.5, False), field) for each in (outline, *others))
    source = StainStatistics.from_json(stain) if stain else None
    normalised = field_normaliser(field, [drawn, *rest], source=source, target=stain_of(predictor.manifest))
    return judge_cell(field, drawn, predictor, stain=normalised, point=point)


def _open(path: Path, *, um_per_px: float | None) -> Any:
    for module in ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")
    from ..fields.cells import open_field

    return open_field(path, um_per_px=um_per_px)


def drawn_of(cell: Any, digest: str, *, origin: str = "model") -> Drawn:
    """Return what is stored of a found cell."""
    left, top, right, bottom = (int(each) for each in cell.box)
    step = max(1, len(cell.outline) // _POINTS)
    outline = [[round(float(x), 1), round(float(y), 1)] for x, y in cell.outline[::step]]
    facts = {
        "area_um2": round(float(cell.area_um2), 2), "nucleus_um2": round(float(cell.nucleus_um2), 2),
        "sharpness": round(float(cell.sharpness), 4), "flags": list(cell.flags),
    }  # fmt: skip
    return Drawn(digest, [left, top, right - left, bottom - top], outline, facts, origin)


def png(image: RGB) -> bytes:
    """Return an image as PNG, pixels alone."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
