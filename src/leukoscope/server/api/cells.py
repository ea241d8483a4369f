"""Cells: pages, pictures, heat maps, reviews; cells that a reader adds, redraws or removes; cells to compare with."""

from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from ...bundle.manifest import Manifest
from ...explanation import transparent
from ...images.crop import RELEASE_UM_PER_PX
from ...inference.opinions import full_evidence
from ...inference.predictor import Predictor
from .. import cases, readings
from ..accounts import Caller
from ..analysis import cell_of_outline, drawn_of, ensure_crops, overlap, store_cells, store_predictions
from ..database import (
    CONSENSUS,
    DRAWN,
    NOT_A_CELL,
    REMOVED,
    BundleRow,
    CaseRow,
    CellRow,
    ImageRow,
    PredictionRow,
    ReviewRow,
)
from ..refusals import (
    LARGEST,
    PICTURE,
    Answer,
    Id,
    IfMatch,
    Name,
    Note,
    Outline,
    Refusal,
    RequestBody,
    bad_request,
    not_found,
    picture_answer,
)
from ..room import Room
from ..security import CurrentRoom, IfMatchHeader, Me
from ..store import png
from ..summary import labels_of
from .accounts import who

if TYPE_CHECKING:
    from ...inference.fields import JudgedCell
from collections import defaultdict
from functools import cache

from ...errors import ImageError
from ...images.read import read_image
from ...inference.explaining import UM_ACROSS, ReferenceCells, embedding_of, read_reference_cells
from ..database import SIGNED
from ..learning import network_of

router = APIRouter(tags=["cells"])
_SAME = 0.5  # intersection over union of two outlines above which they are one cell
_DRAWN = 256  # pixels of the side on which two outlines are compared
_HEAT_SIDE = 240  # pixels of a heat map


class NewReview(RequestBody):
    """The label that a reader gives to a cell."""

    label: Name
    note: Note = ""


Etag = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,15}-[0-9]{1,9}$")]
_MOST_AT_ONCE = 1000


class ManyReviews(NewReview):
    """The label that a reader gives to several cells at once."""

    cells: Annotated[list[Etag], Field(min_length=1, max_length=_MOST_AT_ONCE)]
    """The etag of each cell as it was seen; too many for the header If-Match."""


class NewCell(RequestBody):
    """A cell that a reader has drawn; x and y in pixels of the image."""

    image: Annotated[int, Field(ge=1, le=LARGEST)]
    outline: Outline


class NewOutline(RequestBody):
    """A better outline of a cell."""

    outline: Outline


class Replacement(RequestBody):
    """Outlines that take the place of those of other cells: one of two that are one cell, two of one that is two."""

    cells: Annotated[list[Annotated[int, Field(ge=1, le=LARGEST)]], Field(min_length=1, max_length=16)]
    outlines: Annotated[list[Outline], Field(min_length=1, max_length=16)]


@router.get("/cases/{case_id}/cells")
def list_cells(
    *,
    me: Me,
    room: CurrentRoom,
    case_id: Id,
    filter: Annotated[Name, Query()] = "every",
    order: Literal["priority", "number", "probability", "type", "likeness", "teaching"] = "priority",
    like: Annotated[int | None, Query(ge=1, le=LARGEST)] = None,
    offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> JSONResponse:
    """Return a page of cells and the counts of every kind.

    `filter`: every, unread, unsure, refused, disputed, not_a_cell or class:NAME; a reader's label counts before the
    model's. Where the case is read blind, the labels are the caller's own; where the model is hidden, its words are.
    `order=likeness` sorts the cells of each class by their distance in the embedding: from the cell `like`, whose class
    comes first, else from the middle of their class. Cells that /cases/ID/likeness has not compared yet come last.
    `order=teaching` is as POST /cases/ID/teaching-order last placed them.
    """
    with room.database.reading() as session:
        view = cases.view_of(session, me, case_id)
        if like is not None and cases.cell_of(session, me, like).case_id != case_id:
            text = f"Cell {like} is of another case. `like` is the id of a cell of case {case_id}."
            raise bad_request(text, code="other_case")
        ranked = None
        if order == "likeness" and view.model:
            ranked = by_likeness(room, cases.kinds_of_cells(session, view, filter), like=like)
        page = cases.list_cells(session, view, wanted=filter, order=order, offset=offset, limit=limit, ranked=ranked)
    return JSONResponse(page)  # without validation: there are hundreds of cells


@router.get("/cells/{cell_id}")
def one_cell(me: Me, room: CurrentRoom, response: Response, cell_id: Id) -> Answer:
    """Return a cell with its outline."""
    with room.database.reading() as session:
        found = cases.cell_of(session, me, cell_id)
        response.headers["ETag"] = f'"{cases.etag_of_cell(found)}"'
        return cases.one_cell(session, cases.view_of(session, me, found.case_id), cell_id)


@router.get("/cells/{cell_id}/answers")
def answers(me: Me, room: CurrentRoom, cell_id: Id) -> Answer:
    """Return every answer that was given of a cell, including those taken back or replaced: who, when, what was shown.

    While the case is read blind these are the caller's own.
    """
    with room.database.reading() as session:
        found = cases.cell_of(session, me, cell_id)
        view = cases.view_of(session, me, found.case_id)
        return {"answers": readings.history(session, view, cell_id=cell_id)}


@router.get("/cells/{cell_id}/thumbnail", **PICTURE)
def thumbnail(
    *,
    me: Me,
    room: CurrentRoom,
    request: Request,
    cell_id: Id,
    side: Literal["96", "160", "320", "640"] = "96",
    wide: bool = False,
) -> Response:
    """Return a cell as a small JPEG: one of a field in its field, 20 µm across, one that came cut out as it came.

    `wide` shows twice the width of the field, at the same magnification.
    """
    with room.database.reading() as session:
        place, pixels = cases.picture_of_cell(session, me, cell_id), int(side)
    if place.box and wide:
        left, top, width, height = place.box
        place, pixels = place._replace(box=(left - width // 2, top, 2 * width, height)), 2 * pixels
    draw = partial(room.sandbox.draw_cell, room.pictures, place, side=pixels)
    return picture_answer(request, place.digest, place.name(pixels), draw)


@router.get("/cells/{cell_id}/crop", **PICTURE)
def crop(
    me: Me, room: CurrentRoom, request: Request, cell_id: Id, side: Annotated[int, Query(ge=32, le=1024)] = 448
) -> Response:
    """Return the square that the model saw, as JPEG; the heat map lies over it."""
    with room.database.reading() as session:
        cell = cases.cell_of(session, me, cell_id)
        prediction, manifest = _prediction_of(session, room, cell)
    prepare = manifest.members[0].prepare
    what = f"crop-{side}-{prediction.bundle[:8] if prediction else ''}"
    path = room.pictures.path(cell.digest)
    draw = partial(room.sandbox.draw, "crop_seen", path, prepare=prepare, side=side)
    return picture_answer(request, cell.digest, what, draw)


@router.get("/cells/{cell_id}/heat", **PICTURE)
def heat(
    me: Me, room: CurrentRoom, request: Request, cell_id: Id, over: Literal["crop", "thumbnail"] = "crop"
) -> Response:
    """Return the heat map of a cell as a transparent PNG: orange for the disease, blue against it.

    It lies over the crop that the model saw, or over the cell in its thumbnail and nothing else of that.
    """
    with room.database.reading() as session:
        cell = cases.cell_of(session, me, cell_id)
        if not cases.view_of(session, me, cell.case_id).model:
            raise Refusal(409, "hidden", "What the model sees is hidden until the readers of this case have finished.")
        prediction, manifest = _prediction_of(session, room, cell)
        box = cases.picture_of_cell(session, me, cell_id).box
        um_per_px = session.get_one(ImageRow, cell.image_id).um_per_px
    if prediction is None or prediction.evidence is None:
        raise Refusal(404, "no_heat", "There is no heat map: this cell was refused, or the model draws none.")
    full, signed = full_evidence(manifest), bool(manifest.positive)
    if over == "crop":
        evidence = (
            np.frombuffer(prediction.evidence, np.float16).reshape(prediction.evidence_height, -1).astype(np.float32)
        )
        draw = partial(transparent, evidence, full=full, signed=signed, side=_HEAT_SIDE)
    else:
        part = box[2] * um_per_px / RELEASE_UM_PER_PX if box and um_per_px else None
        given = {
            "evidence": b64encode(prediction.evidence).decode(),
            "height": prediction.evidence_height,
            "part": part,
        }
        prepare, path = manifest.members[0].prepare, room.pictures.path(cell.digest)
        draw = partial(room.sandbox.draw, "heat_in_place", path, prepare=prepare, full=full, signed=signed, **given)
    what = f"heat-{prediction.id}-{over}-{'' if box is None else '-'.join(map(str, box))}"
    return picture_answer(request, cell.digest, what, draw, media="image/png")


def _prediction_of(session: Session, room: Room, cell: CellRow) -> tuple[PredictionRow | None, Manifest]:
    """Return the current prediction of a cell, and the manifest of the bundle that made it."""
    prediction = session.get(PredictionRow, cell.prediction_id) if cell.prediction_id else None
    return prediction, room.models.manifest(session, prediction.bundle) if prediction else room.predictor.manifest


@router.post("/cells/{cell_id}/reviews", status_code=201)
def review(me: Me, room: CurrentRoom, cell_id: Id, new: NewReview, seen: IfMatchHeader) -> Answer:
    """Label a cell: a class, a type, not_a_cell or unsure. Every answer is kept.

    In a case with one reader it counts until somebody gives another one; with more, the first answer takes one of the
    places. It is about the outline that If-Match names: where another has redrawn the cell meanwhile, it is refused.
    """
    with room.database.writing() as session:
        cell = cases.lock_cell(session, me, cell_id, seen)
        _check_label(session, room, me, new.label, [cell])
        case = session.get_one(CaseRow, cell.case_id)
        answer = readings.add_answer(session, me, case, cell, new.label, note=new.note)
        now = _now(session, me, cell)  # before the log, for which PostgreSQL lets one at a time write
        _log_review(session, room, me, answer)
        return now


@router.post("/cases/{case_id}/reviews", status_code=201)
def review_many(me: Me, room: CurrentRoom, case_id: Id, new: ManyReviews) -> Answer:
    """Label several cells of a case, all or none of them; one undo takes all of it back.

    `cells` holds their etags: where another has redrawn or removed one meanwhile nothing is saved (412), and the answer
    holds those cells as they are now. Answers that others gave meanwhile do not prevent it: in a case with one reader
    these answers then count, and those of others are kept.
    """
    with room.database.writing() as session:
        case, cells = cases.lock_cells(session, me, case_id, new.cells)
        _check_label(session, room, me, new.label, cells)
        for answer in readings.add_answers(session, me, case, [(cell, new.label) for cell in cells], note=new.note):
            _log_review(session, room, me, answer)
        session.flush()
        now = cases.some_cells(session, readings.view_of(session, me, case), [cell.id for cell in cells])
        return {"cells": now, "case_etag": cases.etag_of_case(case)}


def _check_label(session: Session, room: Room, me: Caller, label: str, cells: Sequence[CellRow]) -> None:
    """Refuse a label unless the serving bundle, or the bundle that classified the cell, has such a class."""
    manifest = room.models.of(session, me.laboratory_id).manifest
    known = (*manifest.classes, *labels_of(manifest), NOT_A_CELL, "unsure")
    if label not in known and not all(label in _classes(session, cell) for cell in cells):
        raise bad_request(f"label is one of {', '.join(known)}.", code="unknown_label", known=list(known))


def _log_review(
    session: Session, room: Room, me: Caller, answer: tuple[ReviewRow, readings.Replaced], **more: Any
) -> None:
    """Write an answer, as `readings.add_answer` returns it, into the log, with what is needed to find it again."""
    review, before = answer
    action = _ACTIONS.get(review.label, "settled" if review.round == CONSENSUS else "reviewed")
    image = session.get_one(CellRow, review.cell_id).image_id
    place = {"review": review.id, "case": review.case_id, "image": image, "round": review.round}
    detail = {**before, **place} | ({"batch": review.batch} if review.batch else {}) | more
    room.log.add(session, who(me), action, kind="cell", item=review.cell_id, label=review.label, **detail)


_ACTIONS = {REMOVED: "removed", DRAWN: "added"}


def _now(session: Session, me: Caller, cell: CellRow) -> Answer:
    """Return a cell after a change, and the state of its case."""
    session.flush()
    owner = session.get_one(CaseRow, cell.case_id)
    view = readings.view_of(session, me, owner)
    return cases.one_cell(session, view, cell.id) | {"case_etag": cases.etag_of_case(owner)}


def _classes(session: Session, cell: CellRow) -> tuple[str, ...]:
    """Return the classes of the bundle that classified a cell, which need not be the serving one."""
    query = select(BundleRow.manifest).join(PredictionRow, PredictionRow.bundle == BundleRow.seal)
    manifest: dict[str, Any] | None = session.scalar(query.where(PredictionRow.id == cell.prediction_id))
    return tuple(manifest["classes"]) if manifest else ()


@router.post("/cases/{case_id}/cells", status_code=201)
def add_cell(me: Me, room: CurrentRoom, case_id: Id, new: NewCell) -> Answer:
    """Add a cell that was overlooked in a field; it is analysed at once."""
    with room.database.reading() as session:
        image = cases.image_of(session, me, new.image)
        if image.case_id != case_id:
            raise not_found("image", new.image)
        _check_shapes(session, case_id)
        predictor = room.models.of(session, me.laboratory_id)
        found = _cut_out(session, room, image, new.outline, predictor)
    crop = png(found.crop)
    digest = room.pictures.add(crop)
    with room.database.writing() as session:
        image, _ = cases.lock_image(session, me, new.image)
        _check_shapes(session, case_id)
        ensure_crops(session, room.pictures, [crop])
        drawn = [(drawn_of(found.cell, digest, origin="reader"), found.opinion)]
        cells = store_cells(session, case_id, image.id, drawn, predictor=predictor, point=room.settings.point)
        room.log.add(session, who(me), "added", kind="cell", item=cells[0].id, case=case_id)
        return _now(session, me, cells[0])


@router.patch("/cells/{cell_id}")
def redraw_cell(me: Me, room: CurrentRoom, cell_id: Id, new: NewOutline, seen: IfMatchHeader) -> Answer:
    """Replace the outline of a cell; it is analysed at once, and has to be read again."""
    with room.database.reading() as session:
        cell = cases.cell_of(session, me, cell_id)
        _check_shapes(session, cell.case_id)
        view = cases.view_of(session, me, cell.case_id)
        seen.check(cases.etag_of_cell(cell), lambda: {"cell": cases.one_cell(session, view, cell_id)})
        predictor = room.models.of(session, me.laboratory_id)
        image = session.get_one(ImageRow, cell.image_id)
        found = _cut_out(session, room, image, new.outline, predictor, but=[cell_id])
    crop = png(found.crop)
    digest = room.pictures.add(crop)
    with room.database.writing() as session:
        cell = cases.lock_cell(session, me, cell_id, seen)
        _check_shapes(session, cell.case_id)
        ensure_crops(session, room.pictures, [crop])
        drawn = drawn_of(found.cell, digest)
        cell.digest, cell.box, cell.outline = drawn.digest, drawn.box, drawn.outline
        cell.facts = drawn.facts | {"outlined_by": "reader"}
        cell.version += 1
        taken_back = cases.undo_all_reviews(session, cell)
        store_predictions(session, [(cell, found.opinion)], predictor=predictor, point=room.settings.point)
        detail = {"version": cell.version, "took_back": taken_back}
        room.log.add(session, who(me), "redrew", kind="cell", item=cell_id, **detail)
        return _now(session, me, cell)


@router.delete("/cells/{cell_id}")
def remove_cell(me: Me, room: CurrentRoom, cell_id: Id, seen: IfMatchHeader) -> Answer:
    """Remove a cell from the case; the caller's undo restores it, and until then it has the returned `etag`."""
    with room.database.writing() as session:
        cell = cases.lock_cell(session, me, cell_id, seen)
        _check_shapes(session, cell.case_id)
        case = session.get_one(CaseRow, cell.case_id)
        _log_review(session, room, me, readings.add_answer(session, me, case, cell, REMOVED))
        now = _now(session, me, cell)
    return {"removed": cell_id, "etag": now["etag"], "case_etag": now["case_etag"]}


@router.post("/images/{image_id}/replacements", status_code=201)
def replace_cells(me: Me, room: CurrentRoom, image_id: Id, new: Replacement, seen: IfMatchHeader) -> Answer:
    """Put new outlines in the place of cells of a field: merge two that are one, split one that is two.

    All of it happens or nothing; the new cells are analysed at once and have to be read, and one undo brings the old
    ones back with their labels. If-Match names each cell that is replaced.
    """
    with room.database.reading() as session:
        image = cases.image_of(session, me, image_id)
        _check_shapes(session, image.case_id)
        etags = [_seen_cell(session, me, cell_id, image_id, seen) for cell_id in new.cells]
        _check_apart(new.outlines)
        predictor = room.models.of(session, me.laboratory_id)
        found = [_cut_out(session, room, image, outline, predictor, but=new.cells) for outline in new.outlines]
    crops = [png(each.crop) for each in found]
    digests = room.pictures.add_all(crops)
    with room.database.writing() as session:
        case, old = cases.lock_cells(session, me, image.case_id, etags)
        _check_shapes(session, case.id)
        ensure_crops(session, room.pictures, crops)
        drawn = [
            (drawn_of(each.cell, digest, origin="reader"), each.opinion)
            for each, digest in zip(found, digests, strict=True)
        ]
        made = store_cells(session, case.id, image_id, drawn, predictor=predictor, point=room.settings.point)
        labels = [(cell, REMOVED) for cell in old] + [(cell, DRAWN) for cell in made]
        others = {REMOVED: {"replaced_by": [cell.id for cell in made]}, DRAWN: {"replaces": [cell.id for cell in old]}}
        for answer in readings.add_answers(session, me, case, labels):
            _log_review(session, room, me, answer, **others[answer[0].label])
        session.flush()
        view = readings.view_of(session, me, case)
        return {
            "cells": [cases.one_cell(session, view, cell.id) for cell in made],
            "removed": [{"id": cell.id, "etag": cases.etag_of_cell(cell)} for cell in old],
            "case_etag": cases.etag_of_case(case),
        }


def _seen_cell(session: Session, me: Caller, cell_id: int, image_id: int, seen: IfMatch) -> str:
    """Return the etag of a cell of an image, which the caller has seen as it is."""
    cell = cases.cell_of(session, me, cell_id)
    if cell.image_id != image_id:
        raise not_found("cell", cell_id)
    view, etag = cases.view_of(session, me, cell.case_id), cases.etag_of_cell(cell)
    seen.check(etag, lambda: {"cell": cases.one_cell(session, view, cell_id)})
    return etag


def _check_shapes(session: Session, case_id: int) -> None:
    """Refuse to change the cells of a case that is signed off, or that several people are reading."""
    case = session.get_one(CaseRow, case_id)
    cases.check_open(case)
    readings.check_cells_may_change(session, case)


def _cut_out(
    session: Session,
    room: Room,
    image: ImageRow,
    outline: list[list[float]],
    predictor: Predictor,
    *,
    but: Sequence[int] = (),
) -> "JudgedCell":
    """Cut out what a reader has drawn in a field, and let a model judge it."""
    if image.kind not in ("field", "dicom"):
        raise Refusal(409, "no_field", "Cells can be drawn in fields only; this image is one cell.")
    _check_outline(outline, image)
    query = select(CellRow.number, CellRow.box, CellRow.outline).where(
        CellRow.image_id == image.id, CellRow.removed.is_(False), CellRow.id.not_in(but)
    )
    rows = session.execute(query).all()
    _check_place(outline, rows)
    others = [each.outline for each in rows if each.outline]
    path, scale, stain = room.pictures.path(image.digest), image.um_per_px, image.facts.get("stain_of_fields")
    return cell_of_outline(path, outline, others, predictor, um_per_px=scale, point=room.settings.point, stain=stain)


def _check_place(outline: list[list[float]], others: Sequence[Any]) -> None:
    """Refuse an outline that repeats an existing cell."""
    for each in others:
        if each.box and _share(outline, each.outline or _corners(each.box)) > _SAME:
            text = f"Cell {each.number} is there already. Redraw that one, or draw another."
            raise Refusal(409, "there_already", text, cell=each.number)


def _check_apart(outlines: list[list[list[float]]]) -> None:
    """Refuse new outlines that coincide with each other."""
    for one, other in combinations(outlines, 2):
        if _share(one, other) > _SAME:
            raise bad_request("Two of these outlines show the same cell. Draw each cell once.", code="twice")


def _share(one: list[list[float]], other: list[list[float]]) -> float:
    """Return the intersection over union of two outlines, or of their boxes where these already differ."""
    boxes = [_box_of(each) for each in (one, other)]
    share = overlap(*boxes)
    if share <= _SAME:
        return share
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    zoom = _DRAWN / max(max(box[0] + box[2] - left, box[1] + box[3] - top) for box in boxes)
    first, second = (_filled([(zoom * (x - left), zoom * (y - top)) for x, y in each]) for each in (one, other))
    return float((first & second).sum() / max(1, (first | second).sum()))


def _filled(points: list[tuple[float, float]]) -> NDArray[np.bool_]:
    image = Image.new("1", (_DRAWN + 1, _DRAWN + 1))
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)


def _box_of(outline: list[list[float]]) -> list[float]:
    points = np.array(outline)
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _corners(box: Sequence[float]) -> list[list[float]]:
    left, top, width, height = box
    return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]


def _check_outline(outline: list[list[float]], image: ImageRow) -> None:
    points = np.array(outline)
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < 0).any() or high[0] > image.width or high[1] > image.height:
        raise bad_request(f"The outline leaves the image of {image.width}x{image.height} pixels.", code="outside")
    if (high - low < 4).any():
        raise bad_request("The outline is smaller than 4 pixels. Draw around the cell.", code="too_small")


# --- cells to compare one with ----------------------------------------------------------------------------------------


_TRAINING_SHOWN, _SIGNED_SHOWN = 5, 3  # number of cells shown
_MOST_COMPARED = 400  # cells of the laboratory that are compared, newest first
_AT_ONCE = 24  # embeddings computed in one request; the next request continues


@router.get("/cells/{cell_id}/references")
def references(me: Me, room: CurrentRoom, cell_id: Id) -> Answer:
    """Return the nearest cells in the embedding: training cells, and cells that this laboratory has signed off.

    `um_across` is what each picture of a training cell shows; `own_um_across` what the cell's own thumbnail does.
    """
    with room.database.reading() as session:
        cell = cases.cell_of(session, me, cell_id)
        if not cases.view_of(session, me, cell.case_id).model:
            raise _hidden()
        image = session.get_one(ImageRow, cell.image_id)
        seen = cases.picture_of_cell(session, me, cell_id)
        signed = _signed_cells(session, me, cell.case_id)
        scale = image.um_per_px if cell.box else RELEASE_UM_PER_PX  # a crop is taken to be like those of C-NMC 2019
        across = seen.box[2] if seen.box else max(image.width, image.height)
        digest = cell.digest
    seal = network_of(room.predictor.manifest)
    known = known_references(seal)
    point = _embedding(room, digest) if known or signed else None
    near = known.nearest(point, _TRAINING_SHOWN) if known and point is not None else []
    return {
        "um_across": UM_ACROSS,
        "own_um_across": across * scale if scale else None,
        "training": [_reference_answer(known, place, seal) for place, _ in near] if known else [],
        "signed_off": [] if point is None else _nearest_signed(room, point, signed),
    }


@router.get("/cases/{case_id}/likeness")
def likeness(me: Me, room: CurrentRoom, case_id: Id) -> Answer:
    """Compute the embeddings of some more cells of a case, by which `order=likeness` sorts them.

    Returns how many of the `cells` are `known`; repeat the request until both are the same.
    """
    with room.database.reading() as session:
        view = cases.view_of(session, me, case_id)
        if not view.model:
            raise _hidden()
        digests = [each.digest for each in cases.kinds_of_cells(session, view, "every")]
    left = [digest for digest in digests if not room.pictures.has_drawn(digest, _embedding_key(room))]
    for digest in left[:_AT_ONCE]:
        _embedding(room, digest)
    return {"known": len(digests) - len(left[_AT_ONCE:]), "cells": len(digests)}


def by_likeness(room: Room, cells: Sequence[cases.CellKind], *, like: int | None) -> list[int]:
    """Return the ids of cells, grouped by class and sorted by distance in the embedding within a class.

    The distance is from the cell `like`, whose class comes first, or else from the mean of the class. Cells without an
    embedding come last.
    """
    groups: dict[str, list[cases.CellKind]] = defaultdict(list)
    for cell in cells:
        groups[cell.shown].append(cell)
    points = {cell.id: _known_embedding(room, cell.digest) for cell in cells}
    first = next((cell.shown for cell in cells if cell.id == like), None)
    ranked: list[int] = []
    for name in sorted(groups, key=lambda name: (name != first, name)):
        known = [each.id for each in groups[name] if points[each.id] is not None]
        other = [each.id for each in groups[name] if points[each.id] is None]
        if known:
            there = np.stack([points[each] for each in known])  # type: ignore[misc]
            middle = points.get(like or 0)
            far = np.linalg.norm(there - (there.mean(axis=0) if middle is None else middle), axis=1)
            known = [known[place] for place in np.argsort(far, kind="stable")]
        ranked += known + other
    return ranked


def _hidden() -> Refusal:
    return Refusal(409, "hidden", "Which cells the model finds similar is hidden until the readers have finished.")


_WEBP: dict[str, Any] = PICTURE | {
    "responses": PICTURE["responses"] | {200: {"content": {"image/webp": {}}, "description": "The picture"}}
}


@router.get("/references/{place}/picture", **_WEBP)
def reference_picture(me: Me, room: CurrentRoom, request: Request, place: Id) -> Response:
    """Return a training cell as WebP; places count from 1."""
    seal = network_of(room.predictor.manifest)
    known = known_references(seal)
    if known is None or place > len(known.cells):
        raise not_found("reference cell", place)
    return picture_answer(
        request, seal, f"reference-{place}", lambda: known.cells[place - 1].picture, media="image/webp"
    )


@cache
def known_references(seal: str) -> ReferenceCells | None:
    """Return the reference cells that fit a bundle."""
    return read_reference_cells(seal)


def _reference_answer(known: ReferenceCells, place: int, seal: str) -> dict[str, Any]:
    cell = known.cells[place]
    return {
        "label": cell.label,
        "credit": cell.credit,
        "picture": f"/references/{place + 1}/picture?v={seal[:12]}",
    }


def _signed_cells(session: Session, me: Caller, case_id: int) -> list[Any]:
    """Return the newest cells that readers labelled in other signed-off cases of the laboratory."""
    mine = (CaseRow.laboratory_id == me.laboratory_id, CaseRow.state == SIGNED, CaseRow.id != case_id)
    labelled = (CellRow.label.not_in(("", "unsure", NOT_A_CELL)), CellRow.removed.is_(False))
    columns = (
        CellRow.id,
        CellRow.case_id,
        CellRow.number,
        CellRow.digest,
        CellRow.label,
        CellRow.version,
        CellRow.box,
        ImageRow.um_per_px,
    )
    query = (
        select(*columns, ImageRow.width)
        .join(CaseRow, CaseRow.id == CellRow.case_id)
        .join(ImageRow, ImageRow.id == CellRow.image_id)
    )
    return list(session.execute(query.where(*mine, *labelled).order_by(CellRow.id.desc()).limit(_MOST_COMPARED)))


def _nearest_signed(room: Room, point: NDArray[np.float32], signed: list[Any]) -> list[dict[str, Any]]:
    left, found = _AT_ONCE, []
    for row in signed:
        new = not room.pictures.has_drawn(row.digest, _embedding_key(room))
        if new and not left:
            continue
        left -= new
        other = _embedding(room, row.digest)
        if other is not None:
            found.append((float(np.linalg.norm(other - point)), row))
    found.sort(key=lambda each: each[0])
    return [
        {
            "id": row.id,
            "case": row.case_id,
            "number": row.number,
            "label": row.label,
            "etag": f"{row.id}-{row.version}",
            "um_across": _thumbnail_um(row),
        }
        for _, row in found[:_SIGNED_SHOWN]
    ]


def _thumbnail_um(row: Any) -> float | None:
    """Return how many micrometres the thumbnail of a cell shows."""
    if row.box is None:
        return float(row.width * RELEASE_UM_PER_PX)
    return max(cases.AROUND_UM, 1.05 * max(row.box[2:]) * row.um_per_px) if row.um_per_px else None


def _embedding_key(room: Room) -> str:
    return f"embedding-{network_of(room.predictor.manifest)[:12]}"


def _embedding(room: Room, digest: str) -> NDArray[np.float32] | None:
    """Return the embedding of the stored crop of a cell; None where the crop cannot be used."""

    def compute() -> bytes:
        try:
            return embedding_of(room.predictor, read_image(room.pictures.path(digest))).tobytes()
        except ImageError:
            return b""

    return _from_bytes(room.pictures.drawn(digest, _embedding_key(room), compute))


def _known_embedding(room: Room, digest: str) -> NDArray[np.float32] | None:
    """Return the embedding of a cell if it has been computed already."""
    if not room.pictures.has_drawn(digest, _embedding_key(room)):
        return None
    return _from_bytes(room.pictures.drawn(digest, _embedding_key(room), bytes))


def _from_bytes(content: bytes) -> NDArray[np.float32] | None:
    return np.frombuffer(content, np.float32) if content else None
