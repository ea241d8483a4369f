"""From stored images to stored cells: crops and fields judged as `leukoscope predict` does, with the bundle's seal.

A single field determines its scale and stain poorly, so fields of one size share both. When more fields come, what they
share may change: fields that were judged before are then judged again, and what people decided stays.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ..data.cells import natural
from ..errors import require
from ..explanation import Heat
from ..files import fingerprint
from ..images.crop import cell_mask
from ..images.read import RGB
from ..inference.blood_count import field_count
from ..inference.opinions import Opinion, evidence_of, review_priority
from ..inference.predictor import Predictor
from .audit_log import lock_log
from .database import DONE, FIELD, BundleRow, CaseRow, CellRow, Database, ImageRow, PredictionRow, ReviewRow, now
from .queue import enqueue_again
from .store import PictureStore

if TYPE_CHECKING:
    from ..fields.extraction import SharedScales, SharedStains
    from ..inference.fields import JudgedCell


Evidence = NDArray[np.float16]


@dataclass(frozen=True)
class LocatedCell:
    """Where a cell lies in its field, and its crop in the store."""

    digest: str
    box: list[float] | None = None
    """left, top, width, height in pixels of the image; None for an image that is one cell."""
    outline: list[list[float]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = "model"


def store_bundle(session: Session, predictor: Predictor) -> None:
    """Store the manifest of the bundle that answers from now on, to understand its answers once it is replaced."""
    seal = predictor.manifest.seal
    lock_log(session)  # several processes may start at once
    if session.get(BundleRow, seal) is None:
        session.add(BundleRow(seal=seal, manifest=predictor.manifest.model_dump(mode="json")))
        session.flush()


def ensure_crops(session: Session, pictures: PictureStore, crops: Sequence[bytes]) -> None:
    """Make sure that crops are in the store until the cells that refer to them are written.

    Another case may have shown the same cell, and its deletion may have swept the crop away a moment ago.
    """
    lock_log(session)  # who sweeps takes it too
    pictures.add_all(crops)


def store_cells(
    session: Session,
    case_id: int,
    image_id: int,
    cells: Sequence[tuple[LocatedCell, Opinion]],
    *,
    predictor: Predictor,
    point: str,
) -> list[CellRow]:
    """Add cells with the model's opinion of each; their numbers follow those that the case has."""
    if not cells:
        return []
    more = update(CaseRow).where(CaseRow.id == case_id).values(cells_made=CaseRow.cells_made + len(cells))
    last = session.scalar(more.returning(CaseRow.cells_made))
    if last is None:
        return []  # the case was deleted meanwhile
    first = last - len(cells) + 1
    rows = [
        CellRow(
            case_id=case_id,
            image_id=image_id,
            number=number,
            digest=drawn.digest,
            box=drawn.box,
            outline=drawn.outline,
            facts=drawn.facts,
            origin=drawn.origin,
            version=1,
        )
        for number, (drawn, _) in enumerate(cells, start=first)
    ]
    session.add_all(rows)
    session.flush()
    opinions = [(row, opinion) for row, (_, opinion) in zip(rows, cells, strict=True)]
    store_predictions(session, opinions, predictor=predictor, point=point)
    return rows


def store_predictions(
    session: Session, cells: Sequence[tuple[CellRow, Opinion]], *, predictor: Predictor, point: str
) -> None:
    """Store the model's opinions of cells as they are outlined now, as their current predictions."""
    threshold = predictor.manifest.operating_points.get(point, 1.0)
    predictions = [_prediction(cell, opinion, predictor=predictor, point=point) for cell, opinion in cells]
    session.add_all(predictions)
    session.flush()
    for (cell, opinion), each in zip(cells, predictions, strict=True):
        group, place = review_priority(opinion, positive=predictor.manifest.positive, threshold=threshold)
        cell.priority = 10 * group + place  # a place lies between -1 and 1
        cell.prediction_id, cell.decision, cell.type = each.id, opinion.decision, opinion.type
        cell.chance = _chance(opinion, predictor.manifest.positive)
    session.flush()


def _prediction(cell: CellRow, opinion: Opinion, *, predictor: Predictor, point: str) -> PredictionRow:
    evidence = _halved(evidence_of(opinion, predictor.manifest))
    return PredictionRow(
        cell_id=cell.id,
        version=cell.version,
        bundle=predictor.manifest.seal,
        point=point,
        decision=opinion.decision,
        called=opinion.called,
        reason=opinion.reason,
        quality=opinion.quality,
        probabilities=opinion.probabilities,
        type=opinion.type,
        types=opinion.types,
        evidence=None if evidence is None else evidence.tobytes(),
        evidence_height=0 if evidence is None else len(evidence),
        embedding=None if opinion.embedding is None else _unit(opinion.embedding),
    )


def _unit(embedding: NDArray[np.float32]) -> bytes:
    """Return an embedding (channels,) of length one in half precision, as the database keeps it."""
    length = max(float(np.linalg.norm(embedding)), 1e-12)
    return np.asarray(embedding / length, np.float16).tobytes()


def embeddings_of(rows: Sequence[bytes]) -> NDArray[np.float32]:
    """Return stored embeddings as (cells, channels), of length one as they were before they were rounded."""
    points = np.stack([np.frombuffer(each, np.float16) for each in rows]).astype(np.float32)
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))


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
    path: Path,
    outline: Sequence[Sequence[float]],
    others: Sequence[Sequence[Sequence[float]]],
    predictor: Predictor,
    *,
    um_per_px: float | None,
    point: str,
    stain: dict[str, Any] | None = None,
) -> "JudgedCell":
    """Judge one cell that a reader has drawn, x and y in pixels.

    stain: that which the fields of the case share; without it, that of all the field's cells.
    """
    field = _open(path, um_per_px=um_per_px)
    from ..fields.cells import drawn_cell
    from ..fields.extraction import field_normaliser
    from ..fields.stain import StainStatistics
    from ..inference.fields import judge_cell, stain_of

    source = StainStatistics.from_json(stain) if stain else None
    measured = [outline] if source else [outline, *others]  # the others serve to measure the stain of the field
    cells = [drawn_cell(np.array(each, float), field) for each in measured]
    drawn = cells[0]
    normalised = field_normaliser(field, cells, source=source, target=stain_of(predictor.manifest))
    return judge_cell(field, drawn, predictor, stain=normalised, point=point)


def _open(path: Path, *, um_per_px: float | None) -> Any:
    for module in ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")
    from ..fields.cells import open_field

    return open_field(path, um_per_px=um_per_px)


def drawn_of(cell: Any, digest: str, *, origin: str = "model") -> LocatedCell:
    """Return what is stored of a found cell."""
    left, top, right, bottom = (int(each) for each in cell.box)
    step = max(1, len(cell.outline) // _POINTS)
    outline = [[round(float(x), 1), round(float(y), 1)] for x, y in cell.outline[::step]]
    facts = {
        "area_um2": round(float(cell.area_um2), 2),
        "nucleus_um2": round(float(cell.nucleus_um2), 2),
        "sharpness": round(float(cell.sharpness), 4),
        "flags": list(cell.flags),
    }
    return LocatedCell(digest, [left, top, right - left, bottom - top], outline, facts, origin)


STATED = ("user", "file")  # sources of a scale that nothing was measured for
_KEPT = 4  # cases whose shared scale and stain are held in memory
_SAME = 0.3  # intersection over union of the boxes of one cell, found twice


@dataclass(frozen=True)
class SimilarFields:
    """Fields of one case that may share scale and stain, in the order in which the command line would read them."""

    images: tuple[int, ...]
    paths: tuple[Path, ...]
    um_per_px: float | None
    """As stated for this field; None where it is measured."""


@dataclass(frozen=True)
class AnalysedField:
    """The cells of one field, judged, and how the field was taken."""

    um_per_px: float
    facts: dict[str, Any]
    """Of ImageRow.facts: scale, um_low, um_high, stain, stain_of_fields, taken, blood."""
    cells: Sequence["JudgedCell"]


class FieldsOfCases:
    """Finds and judges the cells of fields; what the fields of a case share is measured once."""

    def __init__(self, database: Database, pictures: PictureStore, *, point: str) -> None:
        self._database, self._pictures, self._point = database, pictures, point
        self._shared: OrderedDict[Any, tuple[SharedScales, SharedStains]] = OrderedDict()

    def judge(self, image_id: int, predictor: Predictor) -> AnalysedField:
        """Find the cells of a field in the store, and let a model judge them.

        Raises:
            ImageError: it is not a stained smear, or has no scale.
            MissingExtraError: the extra `fields` is not installed.
        """
        for module in ("cv2", "skimage"):
            require(module, feature="Finding cells in fields", extra="fields")
        from ..fields.blood_count import count_blood
        from ..fields.stain import DEFAULT_METHOD
        from ..inference.fields import judge_cells

        similar, path, name = self._similar_fields(image_id)
        scales, stains = self._sharing(similar)
        field = replace(scales.open(path, um_per_px=similar.um_per_px), name=name)
        height, width = field.pixels.shape[:2]
        pooled = None if similar.um_per_px else scales.shared(path, (width, height))
        source = stains.of(path, field)
        cells = list(judge_cells(field, predictor, point=self._point, source=source))
        counted = count_blood(field, [judged.cell for judged in cells])
        shared = len(similar.images) if source else 1
        stain = {"method": DEFAULT_METHOD, "fields": shared}
        facts = {
            "scale": field.scale.source,
            "um_low": field.scale.low,
            "um_high": field.scale.high,
            "stain": stain,
            "stain_of_fields": source.to_json() if source else None,
            "taken": _taken(pooled, source),
            "blood": asdict(field_count(counted)) if counted else None,
        }
        return AnalysedField(field.scale.um_per_px, facts, cells)

    def _similar_fields(self, image_id: int) -> tuple[SimilarFields, Path, str]:
        with self._database.reading() as session:
            image = session.get_one(ImageRow, image_id)
            rows = _fields_like(session, image) if image.kind in (FIELD, "auto") and not image.identity else [image]
            rows = sorted(rows, key=lambda row: (natural(row.name), row.number))
            paths = tuple(self._pictures.path(row.digest) for row in rows)
            similar = SimilarFields(tuple(row.id for row in rows), paths, stated(image))
            return similar, self._pictures.path(image.digest), image.name

    def _sharing(self, similar: SimilarFields) -> tuple["SharedScales", "SharedStains"]:
        from ..fields.extraction import SharedScales, SharedStains

        key = (similar.paths, similar.um_per_px)
        if key not in self._shared:
            scales = SharedScales(similar.paths, one_folder=True)
            stains = SharedStains(similar.paths, um_per_px=similar.um_per_px, one_folder=True, scales=scales)
            self._shared[key] = scales, stains
            while len(self._shared) > _KEPT:
                self._shared.popitem(last=False)
        return self._shared[key]


def stated(image: ImageRow) -> float | None:
    """Return the scale that was stated for an image, or None where it was measured, or is still to be."""
    measured = image.facts.get("scale") not in (None, *STATED)
    return None if measured else image.um_per_px


def store_field_facts(session: Session, image_id: int, found: AnalysedField, *, again: dict[str, Any] | None) -> None:
    """Note how a field was taken, so that a cell added later is cut out like these, and whether it was judged again."""
    notes = session.get_one(ImageRow, image_id).facts.get("notes")  # of its reader, when it was sent
    facts = found.facts | ({"again": again} if again else {}) | ({"notes": notes} if notes else {})
    if part_of := session.get_one(ImageRow, image_id).facts.get("part_of"):  # an area of a slide stays one
        facts["part_of"] = part_of
    values = {"um_per_px": found.um_per_px, "facts": facts, "kind": FIELD}
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(**values))


def requeue_outdated(session: Session, image_id: int, found: AnalysedField) -> list[int]:
    """Queue the fields again that share with this one what has changed since they were judged; return their numbers."""
    image = session.get_one(ImageRow, image_id)
    others = [
        row.id
        for row in _fields_like(session, image)
        if row.state == DONE
        and row.id != image_id
        and row.facts.get("taken") not in (None, found.facts["taken"])
        and stated(row) == stated(image)
    ]
    if others:
        enqueue_again(session, others)
    return others


def update_cells(
    session: Session, image: ImageRow, cells: Sequence[tuple[LocatedCell, Opinion]], *, predictor: Predictor, point: str
) -> dict[str, Any]:
    """Replace the cells of a field by those of a new analysis; return what has changed.

    A cell that is found again keeps its number and its reviews. One that is not found again stays where
    somebody has reviewed or drawn it, and is removed otherwise.
    """
    old = list(session.scalars(select(CellRow).where(CellRow.image_id == image.id).order_by(CellRow.number)))
    reviewed = select(ReviewRow.cell_id).where(
        ReviewRow.undone.is_(False), ReviewRow.cell_id.in_([cell.id for cell in old])
    )
    read = set(session.scalars(reviewed))
    pairs = dict(_paired([cell.box for cell in old], [drawn.box for drawn, _ in cells]))
    changed = 0
    opinions: list[tuple[CellRow, Opinion]] = []
    for place, cell in enumerate(old):
        mine = cell.origin == "reader" or cell.facts.get("outlined_by") == "reader"
        if place in pairs and not cell.removed and not mine:
            drawn, opinion = cells[pairs[place]]
            changed += (cell.type, cell.decision) != (opinion.type, opinion.decision)
            if _update_cell(session, cell, drawn, opinion, predictor=predictor):
                opinions.append((cell, opinion))
        elif place not in pairs and not (cell.removed or mine or cell.id in read):
            cell.removed, cell.version = True, cell.version + 1
            changed += 1
    store_predictions(session, opinions, predictor=predictor, point=point)
    fresh = [each for place, each in enumerate(cells) if place not in set(pairs.values())]
    store_cells(session, image.case_id, image.id, fresh, predictor=predictor, point=point)
    return {"time": now(), "cells": len(cells), "changed": changed + len(fresh)}


def store_new_opinion(session: Session, image_id: int, opinion: Opinion, *, predictor: Predictor, point: str) -> int:
    """Store a new opinion of the cell of an image that is one cell, as its new version.

    Returns how many cells that is: 0 where the image has none yet. The readers' answers stay.
    """
    cells = list(session.scalars(select(CellRow).where(CellRow.image_id == image_id)))
    for cell in cells:
        cell.version += 1
    session.flush()
    store_predictions(session, [(cell, opinion) for cell in cells], predictor=predictor, point=point)
    return len(cells)


def _update_cell(
    session: Session, cell: CellRow, drawn: LocatedCell, opinion: Opinion, *, predictor: Predictor
) -> bool:
    """Update a cell from a new analysis; return whether anything has changed."""
    last = session.get(PredictionRow, cell.prediction_id) if cell.prediction_id else None
    same = last is not None and (last.bundle, last.probabilities, last.types, last.reason) == (
        predictor.manifest.seal,
        opinion.probabilities,
        opinion.types,
        opinion.reason,
    )
    if same and cell.digest == drawn.digest:
        return False
    cell.digest, cell.box, cell.outline, cell.facts = drawn.digest, drawn.box, drawn.outline, drawn.facts
    cell.version += 1
    return True


def _fields_like(session: Session, image: ImageRow) -> list[ImageRow]:
    """Return the fields of a case that have the size of this one, and images that may turn out to be such.

    Of a slide they are its areas, whatever their size.
    """
    if part_of := image.facts.get("part_of"):
        fields = select(ImageRow).where(ImageRow.case_id == image.case_id, ImageRow.kind == FIELD)
        return [each for each in session.scalars(fields) if _slide_of(each) == part_of["image"]]
    same_size = (ImageRow.case_id == image.case_id, ImageRow.width == image.width, ImageRow.height == image.height)
    query = select(ImageRow).where(*same_size, ImageRow.kind.in_((FIELD, "auto")), ImageRow.identity == "")
    return [each for each in session.scalars(query) if _slide_of(each) is None]


def _slide_of(image: ImageRow) -> int | None:
    """Return the slide that an image is an area of."""
    number: int | None = image.facts.get("part_of", {}).get("image")
    return number


def _taken(scale: Any, source: Any) -> str:
    """Return a fingerprint of the scale and stain that fields share."""
    return fingerprint([None if scale is None else round(scale.um_per_px, 6), source and source.to_json()])[:16]


def _paired(old: Sequence[Any], new: Sequence[Any]) -> Iterable[tuple[int, int]]:
    """Yield which old box is which new one (left, top, width, height), the best matches first."""
    overlaps = [
        (share, place, number)
        for place, one in enumerate(old)
        for number, other in enumerate(new)
        if one and other and (share := overlap(one, other)) > _SAME
    ]
    taken: set[tuple[str, int]] = set()
    for _, place, number in sorted(overlaps, reverse=True):
        if not {("old", place), ("new", number)} & taken:
            taken |= {("old", place), ("new", number)}
            yield place, number


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(wide, 0) * max(high, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)
