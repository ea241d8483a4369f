"""A laboratory: its settings, agreement between its readers, models fitted to its cells, and what to read next."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import UsageError
from ...inference.cell_types import checked_order
from .. import cases, queue, readings
from ..accounts import Caller
from ..database import (
    ADMIN,
    DONE,
    FAILED,
    REVIEWER,
    AdaptationRow,
    CaseRow,
    CellRow,
    ImageRow,
    LaboratoryRow,
    PredictionRow,
)
from ..learning import ask_for, choose, describe, etag_of, headline_figures, newest_in_words
from ..refusals import Answer, Id, Name, Readers, Refusal, RequestBody, Settling, bad_request
from ..room import Room, check_keys
from ..security import Admin, CurrentRoom, IfMatchHeader, Me, Reviewer
from ..settings import TAKEN_KEYS, checked_keys
from ..summary import NOTICE, agreement_of_laboratory, counting_of
from ..worklist import place_cells, stop_rule, worklist
from .accounts import who

router = APIRouter(tags=["laboratory"])


class LaboratorySettings(RequestBody):
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


@router.get("/agreement")
def of_laboratory(
    me: Me, room: CurrentRoom, since: Annotated[str, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""
) -> Answer:
    """Return how far the readers of the laboratory agree, over all cases whose readers have finished.

    Intervals are over subjects: cells of one patient are not independent.

    """
    with room.database.reading() as session:
        query = select(CaseRow).where(CaseRow.laboratory_id == me.laboratory_id, CaseRow.created >= since)
        return agreement_of_laboratory(session, session.scalars(query.order_by(CaseRow.id)).all())


@router.get("/laboratory")
def laboratory(me: Me, room: CurrentRoom) -> Answer:
    """Return what new cases of the caller's laboratory ask for, and how it counts.

    `order` has every row, `keys` those that are set for a label; `taken` are keys that mean something else.
    """
    with room.database.reading() as session:
        return _described(session, room, session.get_one(LaboratoryRow, me.laboratory_id))


@router.patch("/laboratory")
def change_laboratory(me: Admin, room: CurrentRoom, change: LaboratorySettings) -> Answer:
    """Change what new cases ask for (those that are there stay as they are), and how the laboratory counts."""
    wanted = _checked(room, change.model_dump(exclude_none=True))
    with room.database.writing() as session:
        found = session.get_one(LaboratoryRow, me.laboratory_id, with_for_update=True, populate_existing=True)
        before = _described(session, room, found)
        changes = {name: {"old": before[name], "new": value} for name, value in wanted.items()}
        for name in wanted.keys() - set(_COUNTING):
            setattr(found, name, wanted[name])
        found.counting = found.counting | {name: wanted[name] for name in _COUNTING if name in wanted}
        room.log.add(session, who(me), "changed", kind="laboratory", item=found.id, reading=changes)
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


def _described(session: Session, room: Room, found: LaboratoryRow) -> Answer:
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


# --- models and what to read next ------------------------------------------------------------------------------------


learning_router = APIRouter(tags=["learning"])


class Choice(RequestBody):
    """The model that is to answer from now on."""

    model: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Its hash."""


@learning_router.get("/learning")
def learning(me: Me, room: CurrentRoom, response: Response) -> Answer:
    """Return the signed-off cells there are to learn from, the models that were fitted to them, and which one answers.

    Of each model: the figures of it and of the one it was compared with, on the same cells of subjects that neither has
    learned from, with 95 % intervals over subjects; and how many cases it judged.
    """
    with room.database.reading() as session:
        laboratory = session.get_one(LaboratoryRow, me.laboratory_id)
        response.headers["ETag"] = f'"{etag_of(laboratory, room.models)}"'
        return _described_learning(session, room, me)


@learning_router.post("/learning/models", status_code=202)
def fit_model(me: Admin, room: CurrentRoom) -> Answer:
    """Begin to fit a model to the laboratory's signed-off cells, in the background; it answers nobody until chosen.

    Where one is under way already, nothing is begun.
    """
    if room.settings.trust:
        text = (
            "This room serves only models that somebody has signed (--trust), and what is fitted here is signed by "
            "nobody. Export the cells as data sets, use leukoscope adapt, sign the result, and serve it with --model."
        )
        raise Refusal(409, "unsigned", text)
    with room.database.writing() as session:
        made, new = ask_for(session, room.models, me.laboratory_id, me.account_id)
        if new:
            room.log.add(session, who(me), "began to fit", kind="model", item=made.id, cells=made.cells)
        described = _described_learning(session, room, me) | {"begun": made.id, "new": new}
    room.worker.wake()
    return described


@learning_router.put("/learning/model")
def choose_model(me: Admin, room: CurrentRoom, choice: Choice, seen: IfMatchHeader) -> Answer:
    """Let one of the laboratory's models, or the room's own, answer from now on; `If-Match` names the choice as it was.

    Cases that were judged keep their answers until somebody asks for a new analysis.
    """
    with room.database.writing() as session:
        laboratory = session.get_one(LaboratoryRow, me.laboratory_id, with_for_update=True)
        seen.check(etag_of(laboratory, room.models), lambda: {"learning": _described_learning(session, room, me)})
        old = laboratory.bundle or room.models.own.manifest.seal
        found = choose(session, room.models, laboratory, choice.model)
        figures = headline_figures(found.result["old"], found.result["new"]) if found else {}
        detail = {"bundle": choice.model, "instead_of": old, "figures": figures}
        room.log.add(session, who(me), "chose", kind="model", item=found.id if found else None, **detail)
        return _described_learning(session, room, me)


@learning_router.get("/learning/worklist")
def what_to_read(me: Me, room: CurrentRoom) -> Answer:
    """Return open cases in the order in which reading them is expected to improve the model most, why, and when to
    stop.

    Cases that are read blind to the model are not among them.
    """
    with room.database.reading() as session:
        manifest = room.models.of(session, me.laboratory_id).manifest
        last = select(AdaptationRow.result).where(
            AdaptationRow.laboratory_id == me.laboratory_id, AdaptationRow.state == DONE
        )
        result = session.scalar(last.order_by(AdaptationRow.id.desc()).limit(1)) or {}
        return {
            "cases": worklist(session, room.models, me, point=room.settings.point),
            "stop": stop_rule(session, me.laboratory_id, manifest.classes),
            "newest": newest_in_words(result.get("newest")),
        }


@learning_router.post("/cases/{case_id}/teaching-order")
def order_cells(me: Me, room: CurrentRoom, case_id: Id) -> Answer:
    """Compute the most useful order to read the cells of an open case; `order=teaching` then lists them so.

    It does not change until it is requested again.
    """
    with room.database.writing(bulk=True) as session:
        found = cases.lock_case(session, me, case_id)
        found.version -= 1  # nothing that anybody decides on has changed
        if not readings.view_of(session, me, found).model:
            text = "The order would reveal the model's answers, which are hidden from the readers of this case."
            raise Refusal(409, "hidden", text)
        return dict(place_cells(session, room.models, found, point=room.settings.point))


@learning_router.post("/cases/{case_id}/analysis", status_code=202)
def analyse_again(me: Reviewer, room: CurrentRoom, case_id: Id, seen: IfMatchHeader) -> cases.CaseDetails:
    """Analyse all images of an open case again with the model that answers now; the readers' answers stay.

    Refused where that model judged every cell already, and while several people read the case.
    """
    with room.database.writing() as session:
        found = cases.lock_case(session, me, case_id)
        seen.check(
            cases.etag_of_case(found, before=True),
            lambda: {"case": cases.describe_case(session, me, found, before=True).model_dump()},
        )
        readings.check_cells_may_change(session, found)
        if not cases.progress(session, case_id).finished:
            raise Refusal(409, "unfinished", f"Case {case_id} is still being analysed. Wait until that is done.")
        model = room.models.of(session, me.laboratory_id).manifest
        if not _judged_by_another(session, case_id, model.seal):
            raise Refusal(409, "judged", f"The model that answers now has judged all of case {case_id} already.")
        done = select(ImageRow.id).where(ImageRow.case_id == case_id, ImageRow.state.in_((DONE, FAILED)))
        images = session.scalars(done.where(ImageRow.kind != "slide")).all()
        queue.enqueue_again(session, images)
        room.log.add(
            session,
            who(me),
            "asked for a new analysis of",
            kind="case",
            item=case_id,
            bundle=model.seal,
            images=len(images),
        )
        described = cases.describe_case(session, me, found)
    room.worker.wake()
    return described


def _judged_by_another(session: Session, case_id: int, seal: str) -> bool:
    """Return whether any cell of a case has its current answer from another model."""
    query = select(CellRow.id).join(PredictionRow, PredictionRow.id == CellRow.prediction_id)
    other = (CellRow.case_id == case_id, CellRow.removed.is_(False), PredictionRow.bundle != seal)
    return session.scalar(query.where(*other).limit(1)) is not None


def _described_learning(session: Session, room: Room, me: Caller) -> Answer:
    laboratory = session.get_one(LaboratoryRow, me.laboratory_id)
    may = {"fit": me.may(ADMIN), "choose": me.may(ADMIN), "analyse": me.may(REVIEWER)}
    return describe(session, room.models, laboratory) | {"may": may, "notice": NOTICE}
