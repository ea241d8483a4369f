"""Cases and their cells: as the API shows them to one caller, and as they change."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Integer, SQLColumnExpression, case, func, literal, select, update
from sqlalchemy.orm import Session

from ..bundle.manifest import NOT_ASKED
from ..inference.opinions import worded
from . import readings
from .accounts import Caller
from .database import (
    ADMIN,
    BLIND,
    DICOM,
    DONE,
    DRAWN,
    FAILED,
    FIELD,
    OPEN,
    QUEUED,
    READER,
    REVIEWER,
    RUNNING,
    SIGNED,
    SLIDE,
    AccountRow,
    CaseRow,
    CellRow,
    ImageRow,
    PredictionRow,
    ReviewRow,
)
from .readings import ReadingState, View
from .refusals import IfMatch, bad_request, changed_meanwhile, not_found, signed_off
from .store import CellRegion

Item = TypeVar("Item", ImageRow, CellRow)

MODEL_ANSWER = case((CellRow.decision == NOT_ASKED, CellRow.type), else_=CellRow.decision)
"""The model's answer to a cell: its decision, or its type where it was not asked about the classes."""
COUNTS_AS = case((CellRow.label != "", CellRow.label), else_=MODEL_ANSWER)
"""What a cell counts as: the reader's label, else the model's answer."""


def case_of(session: Session, caller: Caller, case_id: int) -> CaseRow:
    """Return a case of the caller's laboratory, to look at; whoever changes it takes `lock_case`.

    Raises:
        Refusal: there is none (404).
    """
    return _own(session.get(CaseRow, case_id), caller, case_id)


def view_of(session: Session, caller: Caller, case_id: int) -> View:
    """Return what a caller may see of a case of their laboratory; refuses like `case_of`."""
    return readings.view_of(session, caller, case_of(session, caller, case_id))


def check_open(found: CaseRow) -> None:
    """Refuse what would change a case that has been signed off (409)."""
    if found.state == SIGNED:
        raise signed_off(found.id)


def lock_case(session: Session, caller: Caller, case_id: int, *, signed: bool = False) -> CaseRow:
    """Return a case to change: its row is locked until the transaction ends, so what is checked now stays true.

    Every write that depends on a case's state begins here, whatever it writes; the case's version goes up with it.
    SQLite has one writer at a time anyway.

    Args:
        session: of `Database.writing`.
        caller: who changes it.
        case_id: of the case.
        signed: whether a case that has been signed off may be changed like this.

    Raises:
        Refusal: there is none (404), or it is signed off (409).
    """
    found = _own(session.get(CaseRow, case_id, with_for_update=True, populate_existing=True), caller, case_id)
    if not signed:
        check_open(found)
    found.version += 1
    return found


def lock_cell(session: Session, caller: Caller, cell_id: int, seen: IfMatch) -> CellRow:
    """Return a cell to change, its case locked; refuses like `lock_case`, and what was not seen as it is now (412)."""
    case_id = session.scalar(select(CellRow.case_id).where(CellRow.id == cell_id))
    if case_id is None or _hidden(session, caller, case_id):
        raise not_found("cell", cell_id)
    lock_case(session, caller, case_id)
    found = session.get(CellRow, cell_id, populate_existing=True)
    if found is None:
        raise not_found("cell", cell_id)
    seen.check(etag_of_cell(found), lambda: {"cell": one_cell(session, view_of(session, caller, case_id), cell_id)})
    if found.removed:
        raise not_found("cell", cell_id)
    return found


def lock_cells(session: Session, caller: Caller, case_id: int, etags: Iterable[str]) -> tuple[CaseRow, list[CellRow]]:
    """Return a case, locked, and those of its cells that were seen as they are now, each by its etag.

    Refuses like `lock_case`, and when one of the cells is not there (404) or not as it was seen (412): then all of
    these are given as they are now.
    """
    owner = lock_case(session, caller, case_id)
    seen = {int(etag.partition("-")[0]): etag for etag in etags}
    there = select(CellRow).where(CellRow.case_id == case_id, CellRow.id.in_(seen)).order_by(CellRow.number)
    found = list(session.scalars(there.execution_options(populate_existing=True)))
    if missing := sorted(seen.keys() - {cell.id for cell in found}):
        raise not_found("cell", missing[0])
    changed = [cell.id for cell in found if cell.removed or etag_of_cell(cell) != seen[cell.id]]
    if changed:
        raise changed_meanwhile({"cells": some_cells(session, readings.view_of(session, caller, owner), changed)})
    return owner, found


def lock_image(session: Session, caller: Caller, image_id: int) -> tuple[ImageRow, CaseRow]:
    """Return an image to change, and its case, which is locked; refuses like `lock_case`."""
    case_id = session.scalar(select(ImageRow.case_id).where(ImageRow.id == image_id))
    if case_id is None or _hidden(session, caller, case_id):
        raise not_found("image", image_id)
    owner = lock_case(session, caller, case_id)
    found = session.get(ImageRow, image_id, populate_existing=True)
    if found is None:
        raise not_found("image", image_id)
    return found, owner


def _own(found: CaseRow | None, caller: Caller, case_id: int) -> CaseRow:
    if found is None or found.laboratory_id != caller.laboratory_id:
        raise not_found("case", case_id)
    return found


def _hidden(session: Session, caller: Caller, case_id: int) -> bool:
    return session.scalar(select(CaseRow.laboratory_id).where(CaseRow.id == case_id)) != caller.laboratory_id


def etag_of_case(found: CaseRow, *, before: bool = False) -> str:
    """Return the etag of a case; with `before`, that of its state before the change that is under way."""
    return f"case-{found.id}-{found.version - before}"


def etag_of_cell(found: CellRow) -> str:
    """Return the etag of a cell: it changes with the outline."""
    return f"{found.id}-{found.version}"


def etag_of_image(found: ImageRow, owner: CaseRow, *, before: bool = False) -> str:
    """Return the etag of an image, which changes with its case."""
    return f"image-{found.id}-{owner.version - before}"


def image_of(session: Session, caller: Caller, image_id: int) -> ImageRow:
    """Return an image of the caller's laboratory, or refuse like `case_of`."""
    return _item_of(session, caller, ImageRow, image_id, called="image")


def cell_of(session: Session, caller: Caller, cell_id: int) -> CellRow:
    """Return a cell of the caller's laboratory, or refuse like `case_of`."""
    return _item_of(session, caller, CellRow, cell_id, called="cell")


AROUND_UM = 20.0  # side of the square of a field that shows one cell: the same for all, so that sizes compare
SMALL = 4_000_000
"""Pixels of a picture that is read as a whole for each part of it; a larger one is read by tiles."""


def picture_of_cell(session: Session, caller: Caller, cell_id: int) -> CellRegion:
    """Return where a cell's picture lies, and what of it shows the cell.

    A cell of a field is shown in its field, in the colours in which people know it; a model may see others. In one
    statement: the grid of a case asks for hundreds. Refuses as `cell_of`.
    """
    columns = (
        CellRow.digest,
        CellRow.box,
        ImageRow.digest.label("field"),
        ImageRow.um_per_px,
        ImageRow.width,
        ImageRow.height,
    )
    mine = (CellRow.id == cell_id, CaseRow.laboratory_id == caller.laboratory_id)
    query = (
        select(*columns).join(ImageRow, ImageRow.id == CellRow.image_id).join(CaseRow, CaseRow.id == CellRow.case_id)
    )
    row = session.execute(query.where(*mine)).one_or_none()
    if row is None:
        raise not_found("cell", cell_id)
    return place_of(row)


def place_of(row: Any) -> CellRegion:
    """Return what shows a cell; `row` holds digest and box of the cell, and field, um_per_px, width, height of it."""
    if row.box is None or not row.um_per_px:
        return CellRegion(row.digest)
    left, top, width, height = row.box
    side = round(max(AROUND_UM / row.um_per_px, 1.05 * width, 1.05 * height))
    box = (round(left + (width - side) / 2), round(top + (height - side) / 2), side, side)
    return CellRegion(row.field, box, tiled=row.width * row.height > SMALL)


def _item_of(session: Session, caller: Caller, table: type[Item], item_id: int, *, called: str) -> Item:
    found = session.get(table, item_id)
    if found is None or _hidden(session, caller, found.case_id):
        raise not_found(called, item_id)
    return found


class Progress(BaseModel):
    """How many images of a case are in each state of the analysis."""

    queued: int
    running: int
    done: int
    failed: int
    finished: bool


class Failure(BaseModel):
    """An image that could not be analysed, and why."""

    image: int
    name: str
    error: str


class CaseProgress(Progress):
    """How far the analysis of a case is, and what failed."""

    failures: list[Failure]


class CaseSummary(BaseModel):
    """A case as a list shows it."""

    id: int
    name: str
    subject: str
    state: str
    created: str
    cells: int
    unread: int
    unsettled: int
    images: int
    progress: Progress
    readers: int
    phase: str


class CasePage(BaseModel):
    """Some of the cases that were asked for."""

    total: int
    cases: list[CaseSummary]


class SignedOff(BaseModel):
    """Who signed a case off, when, and with which note."""

    by: str | None
    time: str | None
    note: str


class CasePermissions(BaseModel):
    """What a caller may do with a case now."""

    review: bool
    sign: bool
    reopen: bool
    delete: bool
    accounts: bool


class CaseDetails(CaseSummary):
    """A case with its sign-off, its readers, and what the caller may do with it now."""

    signed: SignedOff | None
    may: CasePermissions
    etag: str
    reading: ReadingState


def list_cases(session: Session, caller: Caller, *, query: str, state: str, offset: int, limit: int) -> CasePage:
    """Return cases of the caller's laboratory, the newest first; `query` is sought in name and subject."""
    wanted = [CaseRow.laboratory_id == caller.laboratory_id]
    if state:
        wanted.append(CaseRow.state == state)
    if query:
        wanted.append(
            CaseRow.name.icontains(query, autoescape=True) | CaseRow.subject.icontains(query, autoescape=True)
        )
    total = session.scalar(select(func.count()).select_from(CaseRow).where(*wanted)) or 0
    page = select(CaseRow).where(*wanted).order_by(CaseRow.id.desc()).offset(offset).limit(limit)
    return CasePage(total=total, cases=describe_cases(session, caller, session.scalars(page).all()))


def describe_cases(session: Session, caller: Caller, cases: Sequence[CaseRow]) -> list[CaseSummary]:
    """Return cases with the numbers of their cells and images; of one that is read blind, what the caller has read."""
    ids = [each.id for each in cases]
    cells = _numbers(session, ids)
    own = readings.cells_read_by(session, caller, [each.id for each in cases if each.phase in BLIND])
    for each in cases:
        if each.phase in BLIND and each.id in cells:
            cells[each.id] = (cells[each.id][0], cells[each.id][0] - own.get(each.id, 0), 0)
    states = _states(session, ids)
    return [_case_summary(each, cells.get(each.id, (0, 0, 0)), states.get(each.id, {})) for each in cases]


def describe_case(session: Session, caller: Caller, found: CaseRow, *, before: bool = False) -> CaseDetails:
    """Return one case with its sign-off and what the caller may do with it now.

    before: with the etag that it had before the change that is under way.
    """
    open_ = found.state == OPEN
    signed = None
    if not open_:
        by = session.scalar(select(AccountRow.name).where(AccountRow.id == found.signed_by))
        signed = SignedOff(by=by, time=found.signed, note=found.note)
    return CaseDetails(
        **dict(describe_cases(session, caller, [found])[0]),
        signed=signed,
        may=CasePermissions(
            review=open_ and caller.may(READER),
            sign=open_ and caller.may(REVIEWER),
            reopen=not open_ and caller.may(REVIEWER),
            delete=open_ and caller.may(REVIEWER),
            accounts=caller.may(ADMIN),
        ),
        etag=etag_of_case(found, before=before),
        reading=readings.describe(session, caller, found),
    )


def _case_summary(found: CaseRow, cells: tuple[int, int, int], states: Mapping[str, int]) -> CaseSummary:
    return CaseSummary(
        id=found.id,
        name=found.name,
        subject=found.subject,
        state=found.state,
        created=found.created,
        cells=cells[0],
        unread=cells[1],
        unsettled=cells[2],
        images=sum(states.values()),
        progress=_progress_of(states),
        readers=found.readers,
        phase=found.phase,
    )


def _progress_of(states: Mapping[str, int]) -> Progress:
    """Return the progress of a case from the number of its images in each state."""
    counts = {name: states.get(name, 0) for name in (QUEUED, RUNNING, DONE, FAILED)}
    return Progress(**counts, finished=not counts[QUEUED] and not counts[RUNNING])


def fields_of_case(session: Session, case_id: int) -> list[dict[str, Any]]:
    """Return how the fields of a case were taken, in their order: scale, its source, stain step, when judged again."""
    columns = (ImageRow.id, ImageRow.name, ImageRow.um_per_px, ImageRow.facts)
    fields = select(*columns).where(
        ImageRow.case_id == case_id, ImageRow.kind.in_((FIELD, DICOM)), ImageRow.state == DONE
    )
    return [
        {
            "image": row.id,
            "name": row.name,
            "um_per_px": row.um_per_px,
            "scale": row.facts.get("scale"),
            "low": row.facts.get("um_low"),
            "high": row.facts.get("um_high"),
            "stain": row.facts.get("stain"),
            "again": row.facts.get("again"),
            "notes": row.facts.get("notes", []),
        }
        for row in session.execute(fields.order_by(ImageRow.number))
    ]


def progress(session: Session, case_id: int) -> CaseProgress:
    """Return how far the analysis of a case is, and what failed."""
    failed = select(ImageRow.id, ImageRow.name, ImageRow.error).where(
        ImageRow.case_id == case_id, ImageRow.state == FAILED
    )
    rows = session.execute(failed.order_by(ImageRow.number).limit(500))
    failures = [Failure(image=row.id, name=row.name, error=row.error) for row in rows]
    return CaseProgress(**dict(_progress_of(_states(session, [case_id]).get(case_id, {}))), failures=failures)


def _numbers(session: Session, ids: list[int]) -> dict[int, tuple[int, int, int]]:
    """Return by case the numbers of its cells, of those not yet read, and of those on which the readers differ."""
    unread, unsettled = (
        func.sum(case(((CellRow.label == "") & CellRow.disputed.is_(differ), 1), else_=0)).cast(Integer)
        for differ in (False, True)
    )
    query = select(CellRow.case_id, func.count(), unread, unsettled).where(
        CellRow.case_id.in_(ids), CellRow.removed.is_(False)
    )
    return {row[0]: (row[1], row[2], row[3]) for row in session.execute(query.group_by(CellRow.case_id))}


def _states(session: Session, ids: list[int]) -> dict[int, dict[str, int]]:
    query = select(ImageRow.case_id, ImageRow.state, func.count()).where(ImageRow.case_id.in_(ids))
    found: dict[int, dict[str, int]] = {}
    for case_id, state, count in session.execute(query.group_by(ImageRow.case_id, ImageRow.state)):
        found.setdefault(case_id, {})[state] = count
    return found


def list_cells(
    session: Session,
    view: View,
    *,
    wanted: str,
    order: str,
    offset: int,
    limit: int,
    ranked: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return {"total", "counts", "cells"}: a page of a case's cells, and how many there are of each kind.

    Whoever reads blind to the model gets them by their numbers: any other order would reveal its answers.

    ranked: ids of all wanted cells in an order that the database does not know, instead of `order`.
    """
    counts = cell_counts(session, view)
    if ranked is None:
        query = of_case(_columns(view), view).where(*_filter(view, wanted))
        rows = session.execute(query.order_by(*_order(view, order)).offset(offset).limit(limit)).all()
    else:
        page = {cell: place for place, cell in enumerate(ranked[offset : offset + limit])}
        found = session.execute(_columns(view).where(CellRow.id.in_(page))).all()
        rows = sorted(found, key=lambda row: page[row.id])
    return {"total": _total(counts, wanted), "counts": counts, "cells": _described(session, view, rows)}


class CellKind(NamedTuple):
    """What a cell counts as, and its crop in the store."""

    id: int
    shown: str
    digest: str


def kinds_of_cells(session: Session, view: View, wanted: str) -> list[CellKind]:
    """Return what each of the wanted cells of a case counts as, in the order of their numbers."""
    query = labelled(select(CellRow.id, shown_to(view), CellRow.digest).select_from(CellRow), view)
    rows = session.execute(of_case(query, view).where(*_filter(view, wanted)).order_by(CellRow.number))
    return [CellKind(*row) for row in rows]


def cell_counts(session: Session, view: View) -> dict[str, Any]:
    """Return how many cells there are: every, unread, unsure, refused, disputed, and by class."""
    shown = shown_to(view)
    unread, disputed = case((_not_read(view), 1), else_=0), case((_open_dispute(view), 1), else_=0)
    query = of_case(labelled(select(shown, unread, disputed, func.count()).select_from(CellRow), view), view)
    names = ("every", "unread", "unsure", "refused", "not_a_cell", "disputed")
    counts: dict[str, Any] = dict.fromkeys(names, 0) | {"classes": {}}
    for name, is_unread, is_disputed, count in session.execute(query.group_by(shown, unread, disputed)):
        counts["every"] += count
        counts["unread"] += count if is_unread else 0
        counts["disputed"] += count if is_disputed else 0
        place = counts if name in ("unsure", "refused", "not_a_cell") else counts["classes"]
        if name:
            place[name] = place.get(name, 0) + count
    return counts


def label_for(view: View) -> SQLColumnExpression[str]:
    """Return the label of a cell as a caller may see it, in a query that `labelled` has made."""
    return func.coalesce(ReviewRow.label, "") if view.own else CellRow.label


def shown_to(view: View) -> ColumnElement[str]:
    """Return what a cell counts as for a caller: the reader's label, else the model's answer if they may see it."""
    label, by_model = label_for(view), MODEL_ANSWER if view.model else literal("")
    return case((label != "", label), else_=by_model)


def _open_dispute(view: View) -> ColumnElement[bool]:
    """Return whether readers differ on a cell and nothing is settled; hidden while they are blind."""
    return CellRow.disputed & (CellRow.label == "") & literal(not view.own or view.disputed)


def _not_read(view: View) -> ColumnElement[bool]:
    """Return whether nobody has read a cell, as far as a caller may see; who reads blind counts their own answers."""
    return (label_for(view) == "") & (literal(view.own) | CellRow.disputed.is_(False))


def labelled(query: Any, view: View) -> Any:
    """Join the review whose label is shown: the caller's own where they read blind, else the current one."""
    if not view.own:
        return query.outerjoin(ReviewRow, ReviewRow.id == CellRow.review_id)
    mine = (ReviewRow.case_id == view.case_id, ReviewRow.account_id == view.account_id, ReviewRow.round == view.round)
    return query.outerjoin(
        ReviewRow, (ReviewRow.cell_id == CellRow.id) & ReviewRow.id.in_(readings.last_answers(*mine))
    )


def of_case(query: Any, view: View) -> Any:
    """Keep the cells of a case that a caller sees."""
    query = query.where(CellRow.case_id == view.case_id, CellRow.removed.is_(False))
    return query.where(CellRow.disputed, CellRow.label == "") if view.disputed else query


def one_cell(session: Session, view: View, cell_id: int) -> dict[str, Any]:
    """Return a cell with its outline."""
    rows = session.execute(_columns(view, CellRow.outline, CellRow.facts).where(CellRow.id == cell_id)).all()
    return _described(session, view, rows)[0] | {"outline": rows[0].outline, "facts": rows[0].facts}


def some_cells(session: Session, view: View, ids: Collection[int]) -> list[dict[str, Any]]:
    """Return cells without their outlines, in the order of their numbers."""
    query = _columns(view).where(CellRow.id.in_(ids)).order_by(CellRow.number)
    return _described(session, view, session.execute(query).all())


def cells_of_image(session: Session, view: View, image_id: int) -> list[dict[str, Any]]:
    """Return the cells of an image with their outlines, in the order of their numbers."""
    query = of_case(_columns(view, CellRow.outline, CellRow.facts), view).where(CellRow.image_id == image_id)
    rows = session.execute(query.order_by(CellRow.number)).all()
    cells = _described(session, view, rows)
    return [cell | {"outline": row.outline, "facts": row.facts} for cell, row in zip(cells, rows, strict=True)]


def areas_of(session: Session, slide: ImageRow) -> list[ImageRow]:
    """Return the areas of a slide that were drawn to be analysed, in their order."""
    if slide.kind != SLIDE:
        return []
    query = select(ImageRow).where(ImageRow.case_id == slide.case_id, ImageRow.kind == FIELD).order_by(ImageRow.number)
    return [each for each in session.scalars(query) if each.facts.get("part_of", {}).get("image") == slide.id]


def cells_of_areas(session: Session, view: View, areas: Iterable[ImageRow]) -> list[dict[str, Any]]:
    """Return the cells of areas, in pixels of their slide."""
    found = []
    for area in areas:
        left, top = area.facts["part_of"]["left"], area.facts["part_of"]["top"]
        cells = cells_of_image(session, view, area.id)
        found += [cell | moved(cell["box"], cell["outline"], left=left, top=top) for cell in cells]
    return found


def moved(box: Any, outline: Any, *, left: int, top: int) -> dict[str, Any]:
    """Return box and outline of a cell of an area in pixels of its slide."""
    points = [[round(x + left, 1), round(y + top, 1)] for x, y in outline] if outline else outline
    return {"box": [box[0] + left, box[1] + top, *box[2:]] if box else box, "outline": points}


def _columns(view: View, *more: Any) -> Any:
    query = select(
        CellRow.id,
        CellRow.number,
        CellRow.case_id,
        CellRow.image_id,
        CellRow.box,
        CellRow.version,
        CellRow.origin,
        CellRow.decision,
        CellRow.removed,
        CellRow.disputed,
        ImageRow.name,
        PredictionRow.probabilities,
        PredictionRow.called,
        PredictionRow.reason,
        PredictionRow.quality,
        PredictionRow.bundle,
        CellRow.type,
        PredictionRow.types,
        ReviewRow.label,
        ReviewRow.note,
        ReviewRow.created.label("reviewed"),
        ReviewRow.round,
        AccountRow.name.label("reader"),
        *more,
    )
    query = query.join(ImageRow, ImageRow.id == CellRow.image_id).outerjoin(
        PredictionRow, PredictionRow.id == CellRow.prediction_id
    )
    return labelled(query, view).outerjoin(AccountRow, AccountRow.id == ReviewRow.account_id)


def _described(session: Session, view: View, rows: Any) -> list[dict[str, Any]]:
    """Return cells as the API shows them, with everybody's last words; without the model's where it is hidden."""
    answers = readings.answers_of(session, view, [row.id for row in rows])
    hidden = {} if view.model else _HIDDEN
    return [
        describe_cell(row) | hidden | {"answers": answers.get(row.id, []), "disputed": row.disputed and not view.own}
        for row in rows
    ]


_HIDDEN: dict[str, Any] = {
    "decision": "hidden",
    "type": None,
    "types": None,
    "called": None,
    "probability": None,
    "reason": "",
    "quality": None,
    "bundle": None,
}


def describe_cell(row: Any) -> dict[str, Any]:
    """Return one cell as the API shows it."""
    review = None
    if row.label:
        review = {
            "label": row.label,
            "reader": row.reader,
            "time": row.reviewed,
            "note": row.note,
            "round": row.round,
        }
    return {
        "id": row.id,
        "number": row.number,
        "case": row.case_id,
        "image": row.image_id,
        "name": row.name,
        "box": row.box,
        "origin": row.origin,
        "probability": row.probabilities,
        "decision": row.decision,
        "type": row.type or None,
        "types": row.types,
        "called": row.called or None,
        "reason": worded(row.reason or ""),
        "quality": row.quality,
        "review": review,
        "bundle": row.bundle,
        "etag": f"{row.id}-{row.version}",
        "removed": row.removed,
        "thumbnail": f"/api/v1/cells/{row.id}/thumbnail?side=160&v={row.id}-{row.version}",
    }


def _filter(view: View, wanted: str) -> list[ColumnElement[bool]]:
    if wanted == "every":
        return []
    if wanted == "unread":
        return [_not_read(view)]
    if wanted == "disputed":
        return [_open_dispute(view)]
    name = wanted.removeprefix("class:")
    if not wanted.startswith("class:") and wanted not in ("unsure", "refused", "not_a_cell"):
        known = "every, unread, unsure, refused, disputed, not_a_cell or class:NAME"
        raise bad_request(f"filter is {known}.", code="unknown_filter")
    return [shown_to(view).is_not_distinct_from(name)]


def _total(counts: dict[str, Any], wanted: str) -> int:
    if wanted.startswith("class:"):
        return int(counts["classes"].get(wanted.removeprefix("class:"), 0))
    return int(counts[wanted])


def _order(view: View, order: str) -> list[Any]:
    orders: dict[str, list[Any]] = {
        "priority": [CellRow.priority, CellRow.number],
        "number": [CellRow.number],
        "type": [shown_to(view), CellRow.priority, CellRow.number],
        "teaching": [CellRow.turn.is_(None), CellRow.turn, CellRow.priority, CellRow.number],
        "probability": [CellRow.chance.is_(None), CellRow.chance.desc(), CellRow.number],
    }
    return orders[order if view.model and order in orders else "number"]


def undo_all_reviews(session: Session, cell: CellRow) -> list[int]:
    """Take back all reviews of a cell that is redrawn: they were of another outline. Return those that counted."""
    current = sorted(session.scalars(readings.last_answers(ReviewRow.cell_id == cell.id)))
    session.execute(update(ReviewRow).where(ReviewRow.cell_id == cell.id, ReviewRow.label != DRAWN).values(undone=True))
    cell.label, cell.review_id = "", None
    return current
