"""What the hospital calls a case, and sending what was signed to the hospital's systems."""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import cases as shown
from ..accounts import Caller
from ..database import Account, Case, HospitalNumbers, Sending
from ..exports import Exporter
from ..hospital import ask, files_of, result_of
from ..learning import manifest_of_case
from ..readings import view_of_all
from ..refusals import Answer, Body, Id, Name, not_found, readable
from ..room import Room
from ..security import Me, Reviewer, Saw, TheRoom
from ..settings import Destination
from ..summary import counting_of
from .accounts import who

router = APIRouter(prefix="/cases/{case_id}", tags=["hospital"])
Number = Annotated[str, StringConstraints(max_length=64, strip_whitespace=True), AfterValidator(readable)]


class Numbers(Body):
    """What the hospital's systems call a case; each may be empty."""

    patient_id: Number = ""
    accession: Number = ""
    order: Number = ""
    specimen: Literal["", "blood", "bone marrow"] = ""


class ToSend(Body):
    """Where to."""

    to: Name


@router.get("/hospital")
def hospital(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Return the hospital's numbers of a case, where it can be sent, and what became of what was sent."""
    with room.database.reading() as session:
        found = shown.case_of(session, me, case_id)
        return _described(session, room, me, found)


@router.put("/hospital")
def set_numbers(me: Me, room: TheRoom, case_id: Id, numbers: Numbers, seen: Saw) -> Answer:
    """Say what the hospital's systems call an open case."""
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id)
        before = shown.etag_of_case(found, before=True)
        seen.check(before, lambda: {"hospital": _described(session, room, me, found) | {"etag": before}})
        row = session.get(HospitalNumbers, case_id)
        if row is None:
            row = HospitalNumbers(case_id=case_id)
            session.add(row)
        row.patient_id, row.accession = numbers.patient_id, numbers.accession
        row.order_number, row.specimen = numbers.order, numbers.specimen
        fields = sorted(name for name, value in numbers.model_dump().items() if value)
        room.log.add(session, who(me), "gave hospital numbers", kind="case", item=case_id, fields=fields)
        session.flush()
        return _described(session, room, me, found)


@router.post("/sendings", status_code=202)
def send_case(me: Reviewer, room: TheRoom, case_id: Id, wanted: ToSend) -> Answer:
    """Send a signed case to one of the hospital's systems: once, however often it is asked for; a failed one again."""
    destination = _destination(room, me, wanted.to)
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id, signed=True)
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
        described = _described(session, room, me, found)
    room.courier.wake()
    return described


def _destination(room: Room, me: Caller, name: str) -> Destination:
    found = next((each for each in destinations_of(room, me) if each.name == name), None)
    if found is None:
        raise not_found("destination", name)
    return found


def destinations_of(room: Room, me: Caller) -> list[Destination]:
    """Return where somebody may send."""
    return [each for each in room.settings.hospital if each.laboratory in ("", me.laboratory)]


def _described(session: Session, room: Room, me: Caller, case: Case) -> Answer:
    row = session.get(HospitalNumbers, case.id)
    sent = session.execute(
        select(Sending, Account.name).join(Account).where(Sending.case_id == case.id).order_by(Sending.id.desc())
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
        "etag": shown.etag_of_case(case),
    }
