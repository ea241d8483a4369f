"""Cases: list, make, change, delete, progress, summary; its readers, sign-off, exports, and sending to the hospital."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, StringConstraints
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from .. import cases, readings
from ..accounts import Caller
from ..audit_log import lock_log
from ..database import (
    OPEN,
    REVIEWER,
    SIGNED,
    AccountRow,
    CaseRow,
    CellRow,
    HospitalNumbersRow,
    ImageRow,
    LaboratoryRow,
    SendingRow,
    now,
)
from ..exports import Exporter
from ..hospital import ask, files_of, result_of
from ..learning import judged_by, manifest_of_case
from ..readings import view_of_all
from ..refusals import (
    LARGEST,
    Answer,
    Id,
    IfMatch,
    Name,
    Note,
    Readers,
    Refusal,
    RequestBody,
    Settling,
    Word,
    not_allowed,
    not_found,
    readable,
)
from ..room import Room
from ..security import CurrentRoom, IfMatchHeader, Me, Reviewer
from ..settings import Destination
from ..summary import agreement_of_case, blood_of, counting_of, differentials, summary
from .accounts import who

router = APIRouter(prefix="/cases", tags=["cases"])


class Released(cases.CaseDetails):
    """A case, and whose place in it was released."""

    released: str
    """Name of the reader."""


class NewCase(RequestBody):
    """A case to make."""

    name: Name
    subject: Word = ""
    readers: Readers | None = None
    """How many people read it, each blind to the others; left out, like the two below: as the laboratory does."""
    hide_model: bool | None = None
    """Whether they read blind to the model too."""
    settling: Settling | None = None
    """Who decides where two readers differ: a third reader, or a consensus session."""


class CaseChange(RequestBody):
    """What changes of a case; how it is read is changed by reviewers."""

    name: Name | None = None
    subject: Word | None = None
    readers: Readers | None = None
    hide_model: bool | None = None
    settling: Settling | None = None


class SignOff(RequestBody):
    """The note of a reviewer who signs a case off."""

    note: Note = ""


@router.get("")
def list_cases(
    *,
    me: Me,
    room: CurrentRoom,
    query: Word = "",
    state: Literal["", "open", "signed"] = "",
    offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> cases.CasePage:
    """List the cases of the caller's laboratory, the newest first; `query` is sought in name and subject."""
    with room.database.reading() as session:
        return cases.list_cases(session, me, query=query, state=state, offset=offset, limit=limit)


@router.post("", status_code=201)
def make_case(me: Me, room: CurrentRoom, new: NewCase) -> cases.CaseDetails:
    """Make an empty case."""
    with room.database.writing() as session:
        usual = session.get_one(LaboratoryRow, me.laboratory_id)
        how = {
            name: getattr(usual, name) if getattr(new, name) is None else getattr(new, name)
            for name in ("readers", "hide_model", "settling")
        }
        who_made = {"laboratory_id": me.laboratory_id, "created_by": me.account_id}
        made = CaseRow(name=new.name, subject=new.subject, **who_made, **how)
        session.add(made)
        session.flush()
        readings.settle_phase(session, made)
        room.log.add(session, who(me), "made", kind="case", item=made.id, **how)
        return cases.describe_case(session, me, made)


@router.get("/{case_id}")
def one_case(me: Me, room: CurrentRoom, response: Response, case_id: Id) -> cases.CaseDetails:
    """Return a case, its sign-off, and what the caller may do with it now."""
    with room.database.reading() as session:
        found = cases.case_of(session, me, case_id)
        response.headers["ETag"] = f'"{cases.etag_of_case(found)}"'
        return cases.describe_case(session, me, found)


@router.patch("/{case_id}")
def change_case(me: Me, room: CurrentRoom, case_id: Id, change: CaseChange) -> cases.CaseDetails:
    """Change name or subject of an open case, or how it is read."""
    how = change.model_dump(include={"readers", "hide_model", "settling"})
    if any(value is not None for value in how.values()) and not me.may(REVIEWER):
        raise not_allowed(REVIEWER)
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        found.name = found.name if change.name is None else change.name
        found.subject = found.subject if change.subject is None else change.subject
        fields = sorted(change.model_dump(exclude_none=True))
        reading = readings.ask_for(session, found, **how)
        room.log.add(session, who(me), "changed", kind="case", item=case_id, fields=fields, reading=reading)
        return cases.describe_case(session, me, found)


@router.delete("/{case_id}")
def delete_case(me: Reviewer, room: CurrentRoom, case_id: Id, seen: IfMatchHeader) -> Answer:
    """Delete an open case with all its images, predictions and reviews; the audit log keeps that it was there."""
    with room.database.writing() as session:
        found = _seen_case(session, me, case_id, seen)
        digests = _digests(session, case_id)
        session.execute(delete(CaseRow).where(CaseRow.id == found.id))
        room.log.add(session, who(me), "deleted", kind="case", item=case_id)
    sweep(room, digests)
    return {"deleted": case_id}


def _seen_case(session: Session, me: Caller, case_id: int, seen: IfMatch) -> CaseRow:
    """Return an open case to change, locked, if it is still as the caller saw it."""
    found = cases.lock_case(session, me, case_id)
    seen.check(cases.etag_of_case(found, before=True), lambda: _case_now(session, me, found))
    return found


def _case_now(session: Session, me: Caller, found: CaseRow) -> dict[str, Any]:
    """Return a case as it was before the change that is now refused."""
    session.flush()
    return {"case": cases.describe_case(session, me, found, before=True).model_dump()}


def _digests(session: Session, case_id: int) -> set[str]:
    pictures = session.execute(select(ImageRow.digest, ImageRow.identity).where(ImageRow.case_id == case_id))
    cells = session.scalars(select(CellRow.digest).where(CellRow.case_id == case_id))
    return {digest for row in pictures for digest in row if digest} | set(cells)


def in_use(session: Session, digest: str) -> bool:
    """Tell whether any case names a picture."""
    queries = (
        select(ImageRow.id).where((ImageRow.digest == digest) | (ImageRow.identity == digest)),
        select(CellRow.id).where(CellRow.digest == digest),
    )
    return any(session.scalar(query.limit(1)) is not None for query in queries)


def sweep(room: Room, digests: Iterable[str]) -> None:
    """Delete pictures that no case uses any more; an upload of the same picture waits, or is refused and sent again."""
    with room.database.writing() as session:
        lock_log(session)
        for digest in digests:
            if not in_use(session, digest):
                room.pictures.remove(digest)


@router.get("/{case_id}/progress")
def case_progress(me: Me, room: CurrentRoom, case_id: Id) -> cases.CaseProgress:
    """Return how far the analysis is, and what failed."""
    with room.database.reading() as session:
        cases.case_of(session, me, case_id)
        return cases.progress(session, case_id)


@router.get("/{case_id}/summary")
def case_summary(me: Me, room: CurrentRoom, case_id: Id) -> Answer:
    """Return the share of blasts with its interval, the differential, the counts of the model and the readers, and of
    fields their red cells and platelets and how they were taken: scale, where it is from, and the stain step.

    `models` gave the current answers, to so many cells each; `present` is the one that answers the laboratory now.
    """
    with room.database.reading() as session:
        case = cases.case_of(session, me, case_id)
        view = readings.view_of(session, me, case)
        manifest = manifest_of_case(session, room.models, case)
        settings = counting_of(session, me.laboratory_id, room.settings)
        figures = summary(session, view, manifest=manifest, point=settings.point)
        blood = blood_of(session, case_id, factor=settings.platelet_factor)
        return figures | {
            "differential": differentials(session, view, manifest=manifest, settings=settings),
            "blood_count": blood.as_json() if blood else None,
            "fields": cases.fields_of_case(session, case_id),
            "models": judged_by(session, room.models, case_id) if view.model else [],
            "present": room.models.of(session, me.laboratory_id).manifest.seal,
        }


@router.post("/{case_id}/undo")
def undo(me: Me, room: CurrentRoom, case_id: Id, seen: IfMatchHeader) -> Answer:
    """Take back the caller's last review in this case, or all those of the last request; null where there is none.

    If-Match names the case, or each cell whose review is to be taken back: what others read meanwhile is then no
    matter. `cells` are those cells as they are now, `cell` the last of them.
    """
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        last = readings.last_reviews(session, me, found)
        cells = [session.get_one(CellRow, each.cell_id) for each in last]
        if not last:
            found.version -= 1  # nothing changes
            return {"cell": None, "cells": [], "case_etag": cases.etag_of_case(found)}
        if not {cases.etag_of_cell(cell) for cell in cells} <= seen.etags:
            seen.check(cases.etag_of_case(found, before=True), lambda: _undo_now(session, me, found, cells))
        readings.undo(session, me, found, last)
        now_ = _cells_now(session, me, found, cells)
        left = {cell["id"]: cell["review"]["label"] if cell["review"] else "" for cell in now_}
        for each in last:
            detail = {"review": each.id, "case": case_id, "old": each.label, "label": left[each.cell_id]}
            detail |= {"round": each.round} | ({"batch": each.batch} if each.batch else {})
            room.log.add(session, who(me), "took back", kind="cell", item=each.cell_id, **detail)
        view = readings.view_of(session, me, found)
        cell = cases.one_cell(session, view, cells[0].id)
        return {"cell": cell, "cells": now_, "case_etag": cases.etag_of_case(found)}


def _cells_now(session: Session, me: Caller, found: CaseRow, cells: list[CellRow]) -> list[Answer]:
    session.flush()
    return cases.some_cells(session, readings.view_of(session, me, found), [cell.id for cell in cells])


def _undo_now(session: Session, me: Caller, found: CaseRow, cells: list[CellRow]) -> dict[str, Any]:
    """Return the case as it is, and the cells whose reviews would be taken back."""
    cell = cases.one_cell(session, readings.view_of(session, me, found), cells[0].id)
    return _case_now(session, me, found) | {"cell": cell, "cells": _cells_now(session, me, found, cells)}


@router.post("/{case_id}/sign-off")
def sign_off(
    me: Reviewer, room: CurrentRoom, case_id: Id, seen: IfMatchHeader, given: SignOff | None = None
) -> cases.CaseDetails:
    """Sign a case off as the caller saw it: from then on nothing of it can be changed."""
    with room.database.writing() as session:
        found = _seen_case(session, me, case_id, seen)
        if not cases.progress(session, case_id).finished:
            raise Refusal(409, "unfinished", f"Case {case_id} is still being analysed. Wait until that is done.")
        readings.check_settled(session, found)
        counts = cases.cell_counts(session, readings.view_of(session, me, found))
        if not counts["every"]:
            text = f"Case {case_id} has no cells, so there is nothing to sign off. Add images or draw a cell first."
            raise Refusal(409, "no_cells", text)
        found.state, found.note = SIGNED, given.note if given else ""
        found.signed_by, found.signed = me.account_id, now()
        room.log.add(session, who(me), "signed off", kind="case", item=case_id, counts=counts)
        return cases.describe_case(session, me, found)


@router.delete("/{case_id}/sign-off")
def reopen(me: Reviewer, room: CurrentRoom, case_id: Id, seen: IfMatchHeader) -> cases.CaseDetails:
    """Open a signed case again."""
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id, signed=True)
        if found.state != SIGNED:
            raise Refusal(409, "open", f"Case {case_id} is open already.")
        seen.check(cases.etag_of_case(found, before=True), lambda: _case_now(session, me, found))
        found.state, found.signed_by, found.signed = OPEN, None, None
        room.log.add(session, who(me), "opened again", kind="case", item=case_id)
        return cases.describe_case(session, me, found)


# --- its readers -----------------------------------------------------------------------------------------------------


reading_router = APIRouter(tags=["readers"])


@reading_router.post("/cases/{case_id}/readings/finish")
def finish(me: Me, room: CurrentRoom, case_id: Id) -> cases.CaseDetails:
    """Finish the caller's reading; when every reader has, all see each other's answers."""
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        before = found.phase
        readings.finish(session, me, found)
        detail = {"opened": found.phase != before, "unsettled": readings.unsettled(session, case_id)}
        room.log.add(session, who(me), "finished reading", kind="case", item=case_id, **detail)
        return cases.describe_case(session, me, found)


@reading_router.delete("/cases/{case_id}/readings/finish")
def resume(me: Me, room: CurrentRoom, case_id: Id) -> cases.CaseDetails:
    """Take the caller's finish back, as long as others still read."""
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        readings.resume(session, me, found)
        room.log.add(session, who(me), "reads on", kind="case", item=case_id)
        return cases.describe_case(session, me, found)


@reading_router.delete("/cases/{case_id}/readings/{account_id}")
def release(me: Me, room: CurrentRoom, case_id: Id, account_id: Id) -> Released:
    """Release a reader's place: one's own, or, for reviewers, that of somebody who has left.

    The answers are kept, and count again if the same reader comes back to a free place.
    """
    if account_id != me.account_id and not me.may(REVIEWER):
        raise not_allowed(REVIEWER)
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        name = readings.release(session, found, account_id)
        room.log.add(session, who(me), "released the place of", kind="account", item=account_id, case=case_id)
        return Released(**dict(cases.describe_case(session, me, found)), released=name)


@reading_router.get("/cases/{case_id}/agreement")
def of_case(me: Me, room: CurrentRoom, case_id: Id) -> Answer:
    """Return how far the readers of a case agree: per cent and kappa with intervals over its cells, who differs how."""
    with room.database.reading() as session:
        found = cases.case_of(session, me, case_id)
        readings.check_unblind(found)
        return {"agreement": agreement_of_case(session, found)}


# --- exports ---------------------------------------------------------------------------------------------------------


export_router = APIRouter(tags=["exports"])
_FILES: dict[str, Any] = {
    "description": "The file",
    "content": {
        media: {}
        for media in (
            "text/csv",
            "text/html",
            "application/pdf",
            "application/geo+json",
            "application/json",
            "application/zip",
        )
    },
}
Kind = Literal["csv", "counts", "json", "answers", "geojson", "dicom", "html", "pdf", "dataset"]


@export_router.get("/cases/{case_id}/exports/{kind}", response_class=Response, responses={200: _FILES})
def export(me: Me, room: CurrentRoom, case_id: Id, kind: Kind) -> Response:
    """Return a case as table of cells, of counts (CSV, or JSON with how fields were taken), of every answer ever given,
    for QuPath, as DICOM, as report (page or PDF), or as a labelled data set (zip). None while the case is read blind.
    """
    with room.database.reading() as session:
        case = cases.case_of(session, me, case_id)
        view = readings.view_of(session, me, case)
        settings = counting_of(session, me.laboratory_id, room.settings)
        manifest = manifest_of_case(session, room.models, case)
        exporter = Exporter(session, room.pictures, room.sandbox, manifest, settings, me, view)
        made = exporter.make(case, kind)
    with room.database.writing() as session:
        room.log.add(session, who(me), "exported", kind="case", item=case_id, format=kind)
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(made.name)}"}
    return Response(made.content, media_type=made.media, headers=headers)


# --- the hospital's systems ------------------------------------------------------------------------------------------


hospital_router = APIRouter(prefix="/cases/{case_id}", tags=["hospital"])
Number = Annotated[str, StringConstraints(max_length=64, strip_whitespace=True), AfterValidator(readable)]


class Numbers(RequestBody):
    """What the hospital's systems call a case; each may be empty."""

    patient_id: Number = ""
    accession: Number = ""
    order: Number = ""
    specimen: Literal["", "blood", "bone marrow"] = ""


class SendRequest(RequestBody):
    """Where to."""

    to: Name


@hospital_router.get("/hospital")
def hospital(me: Me, room: CurrentRoom, case_id: Id) -> Answer:
    """Return the hospital's numbers of a case, where it can be sent, and what became of what was sent."""
    with room.database.reading() as session:
        found = cases.case_of(session, me, case_id)
        return _described_sendings(session, room, me, found)


@hospital_router.put("/hospital")
def set_numbers(me: Me, room: CurrentRoom, case_id: Id, numbers: Numbers, seen: IfMatchHeader) -> Answer:
    """Set the numbers that the hospital's systems use for an open case."""
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        before = cases.etag_of_case(found, before=True)
        seen.check(before, lambda: {"hospital": _described_sendings(session, room, me, found) | {"etag": before}})
        row = session.get(HospitalNumbersRow, case_id)
        if row is None:
            row = HospitalNumbersRow(case_id=case_id)
            session.add(row)
        row.patient_id, row.accession = numbers.patient_id, numbers.accession
        row.order_number, row.specimen = numbers.order, numbers.specimen
        fields = sorted(name for name, value in numbers.model_dump().items() if value)
        room.log.add(session, who(me), "gave hospital numbers", kind="case", item=case_id, fields=fields)
        session.flush()
        return _described_sendings(session, room, me, found)


@hospital_router.post("/sendings", status_code=202)
def send_case(me: Reviewer, room: CurrentRoom, case_id: Id, wanted: SendRequest) -> Answer:
    """Send a signed case to one of the hospital's systems: once, however often it is asked for; a failed one again."""
    destination = _destination(room, me, wanted.to)
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id, signed=True)
        found.version -= 1  # what is sent changes nothing
        manifest = manifest_of_case(session, room.models, found)
        settings = counting_of(session, me.laboratory_id, room.settings)

        def make() -> dict[str, bytes]:
            result = result_of(session, found, manifest=manifest, settings=settings)
            exporter = Exporter(session, room.pictures, room.sandbox, manifest, settings, me, view_of_all(found))
            return files_of(destination.kind, result, lambda: exporter.dicom_files(found))

        sending = ask(session, found, destination, data=settings.data, by=me.account_id, make=make)
        detail = {"sending": sending.id, "to": destination.name}
        room.log.add(session, who(me), "sends to the hospital", kind="case", item=case_id, **detail)
        described = _described_sendings(session, room, me, found)
    room.sender.wake()
    return described


def _destination(room: Room, me: Caller, name: str) -> Destination:
    found = next((each for each in destinations_of(room, me) if each.name == name), None)
    if found is None:
        raise not_found("destination", name)
    return found


def destinations_of(room: Room, me: Caller) -> list[Destination]:
    """Return where somebody may send."""
    return [each for each in room.settings.hospital if each.laboratory in ("", me.laboratory)]


def _described_sendings(session: Session, room: Room, me: Caller, case: CaseRow) -> Answer:
    row = session.get(HospitalNumbersRow, case.id)
    sent = session.execute(
        select(SendingRow, AccountRow.name)
        .join(AccountRow)
        .where(SendingRow.case_id == case.id)
        .order_by(SendingRow.id.desc())
    )
    return {
        "patient_id": row.patient_id if row else "",
        "accession": row.accession if row else "",
        "order": row.order_number if row else "",
        "specimen": row.specimen if row else "",
        "destinations": [{"name": each.name, "kind": each.kind} for each in destinations_of(room, me)],
        "sendings": [
            {
                "id": each.id,
                "to": each.destination,
                "by": by,
                "created": each.created,
                "finished": each.finished,
                "state": each.state,
                "files": each.files,
                "stored": each.stored,
                "error": each.error,
                "of_this_sign_off": each.signed == case.signed,
            }
            for each, by in sent
        ],
        "etag": cases.etag_of_case(case),
    }
