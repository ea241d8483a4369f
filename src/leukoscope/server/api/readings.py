"""How a case is read by several people: finishing, releasing a place, agreement; and what a laboratory usually asks."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import UsageError
from ...inference.differential import checked_order
from .. import cases as shown
from .. import readings
from ..agreement import agreement_of_case, agreement_of_laboratory
from ..database import REVIEWER, Case, Laboratory
from ..refusals import Answer, Body, Id, Name, Readers, Settling, bad_request, not_allowed
from ..room import Room, check_keys
from ..security import Admin, Me, TheRoom
from ..settings import TAKEN_KEYS, checked_keys
from ..summary import counting_of
from .accounts import who

router = APIRouter(tags=["readers"])


class Usual(Body):
    """What new cases of a laboratory ask for, and how it counts: in the place of `serve --order`, `--goal`, `--key`."""

    readers: Readers | None = None
    hide_model: bool | None = None
    settling: Settling | None = None
    order: Annotated[list[Name], Field(max_length=50)] | None = None
    """Rows of the differential; others follow."""
    goal: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """White cells that are counted for a differential."""
    keys: Annotated[dict[Name, Name], Field(max_length=50)] | None = None
    """Label -> one letter or digit; other labels keep theirs."""


_COUNTING = ("order", "goal", "keys")


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
    """Return what new cases of the caller's laboratory ask for, and how it counts.

    `order` has every row, `keys` those that are set for a label; `taken` are keys that mean something else.
    """
    with room.database.reading() as session:
        return _described(session, room, session.get_one(Laboratory, me.laboratory_id))


@router.patch("/laboratory")
def change_laboratory(me: Admin, room: TheRoom, change: Usual) -> Answer:
    """Change what new cases ask for (those that are there stay as they are), and how the laboratory counts."""
    wanted = _checked(room, change.model_dump(exclude_none=True))
    with room.database.writing() as session:
        found = session.get_one(Laboratory, me.laboratory_id, with_for_update=True, populate_existing=True)
        before = _described(session, room, found)
        told = {name: {"old": before[name], "new": value} for name, value in wanted.items()}
        for name in wanted.keys() - set(_COUNTING):
            setattr(found, name, wanted[name])
        found.counting = found.counting | {name: wanted[name] for name in _COUNTING if name in wanted}
        room.log.add(session, who(me), "changed", kind="laboratory", item=found.id, reading=told)
        session.flush()
        return _described(session, room, found)


def _checked(room: Room, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a change with its keys in small letters; refuse an unknown row or label, and keys that clash (422)."""
    try:
        if "order" in wanted:
            checked_order(wanted["order"])
        if "keys" in wanted:
            wanted["keys"] = checked_keys(wanted["keys"].items())
            check_keys(wanted["keys"], room.predictor.manifest)
    except UsageError as wrong:
        raise bad_request(str(wrong), code="counting") from None
    return wanted


def _described(session: Session, room: Room, found: Laboratory) -> Answer:
    counting = counting_of(session, found.id, room.settings)
    return {
        "name": found.name,
        "readers": found.readers,
        "hide_model": found.hide_model,
        "settling": found.settling,
        "order": list(checked_order(counting.order)),
        "goal": counting.goal,
        "keys": counting.keys,
        "taken": TAKEN_KEYS,
    }
