"""Learning from the room: models fitted to what a laboratory signed off, who answers, and what to read next."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import StringConstraints
from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import cases as shown
from .. import queue, readings
from ..accounts import Caller
from ..database import ADMIN, DONE, FAILED, REVIEWER, Adaptation, Cell, Laboratory, Picture, Prediction
from ..learning import ask_for, brief, choose, describe, etag_of, newest_in_words
from ..refusals import Answer, Body, Id, Refusal
from ..room import Room
from ..security import Admin, Me, Reviewer, Saw, TheRoom
from ..summary import NOTICE
from ..worklist import place_cells, stop_rule, worklist
from .accounts import who

router = APIRouter(tags=["learning"])


class Choice(Body):
    """The model that is to answer from now on."""

    model: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Its hash."""


@router.get("/learning")
def learning(me: Me, room: TheRoom, response: Response) -> Answer:
    """Return the signed-off cells there are to learn from, the models that were fitted to them, and which one answers.

    Of each model: the figures of it and of the one it was compared with, on the same cells of subjects that neither has
    learned from, with 95 % intervals over subjects; and how many cases it judged.
    """
    with room.database.reading() as session:
        laboratory = session.get_one(Laboratory, me.laboratory_id)
        response.headers["ETag"] = f'"{etag_of(laboratory, room.models)}"'
        return _described(session, room, me)


@router.post("/learning/models", status_code=202)
def fit_model(me: Admin, room: TheRoom) -> Answer:
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
        told = _described(session, room, me) | {"begun": made.id, "new": new}
    room.worker.wake()
    return told


@router.put("/learning/model")
def choose_model(me: Admin, room: TheRoom, choice: Choice, seen: Saw) -> Answer:
    """Let one of the laboratory's models, or the room's own, answer from now on; `If-Match` names the choice as it was.

    Cases that were judged keep their answers until somebody asks for a new analysis.
    """
    with room.database.writing() as session:
        laboratory = session.get_one(Laboratory, me.laboratory_id, with_for_update=True)
        seen.check(etag_of(laboratory, room.models), lambda: {"learning": _described(session, room, me)})
        old = laboratory.bundle or room.models.own.manifest.seal
        found = choose(session, room.models, laboratory, choice.model)
        figures = brief(found.result) if found else {}
        detail = {"bundle": choice.model, "instead_of": old, "figures": figures}
        room.log.add(session, who(me), "chose", kind="model", item=found.id if found else None, **detail)
        return _described(session, room, me)


@router.get("/learning/worklist")
def what_to_read(me: Me, room: TheRoom) -> Answer:
    """Return open cases in the order in which reading them teaches the model most, why, and when to stop.

    Cases that are read blind to the model are not among them.
    """
    with room.database.reading() as session:
        manifest = room.models.of(session, me.laboratory_id).manifest
        last = select(Adaptation.result).where(Adaptation.laboratory_id == me.laboratory_id, Adaptation.state == DONE)
        result = session.scalar(last.order_by(Adaptation.id.desc()).limit(1)) or {}
        return {
            "cases": worklist(session, room.models, me, point=room.settings.point),
            "stop": stop_rule(session, me.laboratory_id, manifest.classes),
            "newest": newest_in_words(result.get("newest")),
        }


@router.post("/cases/{case_id}/teaching-order")
def order_cells(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Work out in which order the cells of an open case teach the model most; `order=teaching` then lists them so.

    It stays as it is until it is asked for again, so that nothing moves while somebody reads.
    """
    with room.database.writing(bulk=True) as session:
        found = shown.lock_case(session, me, case_id)
        found.version -= 1  # nothing that anybody decides on has changed
        if not readings.view_of(session, me, found).model:
            raise Refusal(409, "hidden", "The order would tell what the model says, which is hidden from its readers.")
        return place_cells(session, room.models, found, point=room.settings.point)


@router.post("/cases/{case_id}/analysis", status_code=202)
def analyse_again(me: Reviewer, room: TheRoom, case_id: Id, seen: Saw) -> Answer:
    """Analyse all images of an open case again with the model that answers now; what people said stays.

    Refused where that model judged every cell already, and while several people read the case.
    """
    with room.database.writing() as session:
        found = shown.lock_case(session, me, case_id)
        seen.check(
            shown.etag_of_case(found, before=True),
            lambda: {
                "case": shown.describe_case(session, me, found) | {"etag": shown.etag_of_case(found, before=True)}
            },
        )
        readings.check_shapes(session, found)
        if not shown.progress(session, case_id)["finished"]:
            raise Refusal(409, "unfinished", f"Case {case_id} is still being analysed. Wait until that is done.")
        model = room.models.of(session, me.laboratory_id).manifest
        if not _judged_by_another(session, case_id, model.seal):
            raise Refusal(409, "judged", f"The model that answers now has judged all of case {case_id} already.")
        done = select(Picture.id).where(Picture.case_id == case_id, Picture.state.in_((DONE, FAILED)))
        images = session.scalars(done.where(Picture.kind != "slide")).all()
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
        told = shown.describe_case(session, me, found)
    room.worker.wake()
    return told


def _judged_by_another(session: Session, case_id: int, seal: str) -> bool:
    """Tell whether an answer stands in a case that another model gave."""
    query = select(Cell.id).join(Prediction, Prediction.id == Cell.prediction_id)
    other = (Cell.case_id == case_id, Cell.removed.is_(False), Prediction.bundle != seal)
    return session.scalar(query.where(*other).limit(1)) is not None


def _described(session: Session, room: Room, me: Caller) -> Answer:
    laboratory = session.get_one(Laboratory, me.laboratory_id)
    may = {"fit": me.may(ADMIN), "choose": me.may(ADMIN), "analyse": me.may(REVIEWER)}
    return describe(session, room.models, laboratory) | {"may": may, "notice": NOTICE}
