"""How a case is read by several people: finishing, releasing a place, agreement; and what a laboratory usually asks."""

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from .. import cases as shown
from .. import readings
from ..agreement import agreement_of_case, agreement_of_laboratory
from ..database import REVIEWER, Case, Laboratory
from ..refusals import Answer, Body, Id, Readers, Settling, not_allowed
from ..security import Admin, Me, TheRoom
from .accounts import who

router = APIRouter(tags=["readers"])


class Usual(Body):
    """What new cases of a laboratory ask for."""

    readers: Readers | None = None
    hide_model: bool | None = None
    settling: Settling | None = None


@router.post("/cases/{case_id}/readings/finish")
def finish(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Say that the caller has read what they wanted to; when every reader has, all see each other's answers."""
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id)
        before = found.phase
        readings.finish(session, me, found)
        detail = {"opened": found.phase != before, "unsettled": readings.unsettled(session, case_id)}
        room.log.add(session, who(me), "finished reading", kind="case", item=case_id, **detail)
        return shown.describe_case(session, me, found)


@router.delete("/cases/{case_id}/readings/finish")
def go_on(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Take the caller's finish back, as long as others still read."""
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id)
        readings.go_on(session, me, found)
        room.log.add(session, who(me), "reads on", kind="case", item=case_id)
        return shown.describe_case(session, me, found)


@router.delete("/cases/{case_id}/readings/{account_id}")
def release(me: Me, room: TheRoom, case_id: Id, account_id: Id) -> Answer:
    """Give a reader's place to whoever comes next: one's own, or, for reviewers, that of somebody who has left.

    The answers are kept, and count again if the same reader comes back to a free place.
    """
    if account_id != me.account_id and not me.may(REVIEWER):
        raise not_allowed(REVIEWER)
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id)
        name = readings.release(session, found, account_id)
        room.log.add(session, who(me), "released the place of", kind="account", item=account_id, case=case_id)
        return shown.describe_case(session, me, found) | {"released": name}


@router.get("/cases/{case_id}/agreement")
def of_case(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Return how far the readers of a case agree: per cent and kappa with intervals over its cells, who differs how."""
    with room.database.reading() as session:
        found = shown.case_of(session, me, case_id)
        readings.check_unblind(found)
        return {"agreement": agreement_of_case(session, found)}


@router.get("/agreement")
def of_laboratory(
    me: Me, room: TheRoom, since: Annotated[str, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""
) -> Answer:
    """Return how far the readers of the laboratory agree, over all cases whose readers have finished.

    Intervals are over subjects: cells of one patient are not independent.

    """
    with room.database.reading() as session:
        query = select(Case).where(Case.laboratory_id == me.laboratory_id, Case.created >= since)
        return agreement_of_laboratory(session, session.scalars(query.order_by(Case.id)).all())


@router.get("/laboratory")
def laboratory(me: Me, room: TheRoom) -> Answer:
    """Return what new cases of the caller's laboratory ask for."""
    with room.database.reading() as session:
        return _described(session.get_one(Laboratory, me.laboratory_id))


@router.patch("/laboratory")
def change_laboratory(me: Admin, room: TheRoom, change: Usual) -> Answer:
    """Change what new cases ask for; those that are there stay as they are."""
    with room.database.writing() as session:
        found = session.get_one(Laboratory, me.laboratory_id)
        told = {}
        for name, value in change.model_dump(exclude_none=True).items():
            told[name] = {"old": getattr(found, name), "new": value}
            setattr(found, name, value)
        room.log.add(session, who(me), "changed", kind="laboratory", item=found.id, reading=told)
        return _described(found)


def _described(found: Laboratory) -> Answer:
    return {
        "name": found.name,
        "readers": found.readers,
        "hide_model": found.hide_model,
        "settling": found.settling,
    }
