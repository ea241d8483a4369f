"""The routes of the API: one file for each kind of thing, and those of the room itself here."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from sqlalchemy import text

from ...bundle.manifest import CARD
from ...inference.cell_types import limits_of
from .. import queue
from ..refusals import Answer, Name, Refusal, RequestBody, Word, not_found
from ..security import CurrentRoom, Me
from ..summary import NOTICE, counting_of, labels_of, titles_of
from . import accounts, cases, cells, images, laboratory

router = APIRouter(tags=["room"])


@router.get("/models")
def models(me: Me, room: CurrentRoom) -> Answer:
    """Return the bundle that answers the caller's laboratory."""
    with room.database.reading() as session:
        predictor = room.models.of(session, me.laboratory_id)
        keys = counting_of(session, me.laboratory_id, room.settings).keys
    manifest = predictor.manifest
    data = manifest.metrics.get("data")
    served = {
        "name": manifest.name,
        "hash": manifest.seal,
        "classes": list(manifest.classes),
        "titles": titles_of(manifest),
        "positive": manifest.positive,
        "types": list(labels_of(manifest)),
        "keys": keys,
        "limits": limits_of(manifest),
        "thresholds": manifest.operating_points,
        "point": room.settings.point,
        "synthetic": bool(data and data.get("synthetic")),
        "credits": list(manifest.credits),
        "card": predictor.bundle.read(CARD).decode("utf-8", "replace"),
    }
    return {"models": [served], "served": manifest.seal, "notice": NOTICE}


@router.get("/health")
def health(room: CurrentRoom) -> Answer:
    """Return whether the room can work; 503 when its database or its worker is away. Needs no login."""
    with room.database.reading() as session:
        session.execute(text("SELECT 1"))
    if room.settings.work and not room.worker.alive:
        raise Refusal(503, "worker_away", "The worker has ended. Start leukoscope serve again.")
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(me: Me, room: CurrentRoom) -> Response:
    """Return counters for Prometheus: requests, their seconds, cells analysed, the queue."""
    with room.database.reading() as session:
        depth = queue.depth(session)
    return Response(room.measures.text(depth), media_type=CONTENT_TYPE_LATEST)


survival_router = APIRouter(prefix="/survival/models", tags=["survival"])


class Patient(RequestBody):
    """What is known of a patient, as text by the names of the form."""

    patient: Annotated[dict[Name, Word], Field(max_length=100)]


@survival_router.get("")
def survival_models(me: Me, room: CurrentRoom) -> Answer:
    """List the survival models with the fields of their forms."""
    return {"models": [_described_model(name, model) for name, model in room.survival.items()], "notice": NOTICE}


def _described_model(name: str, model: Any) -> dict[str, Any]:
    from ...survival.predict import fields_of, still

    horizons = [{"time": time, "words": words} for time, words in model.horizons]
    return {
        "name": name,
        "title": str(model.facts.get("title", name)),
        "unit": model.unit,
        "events": list(model.events),
        "still": still(model.events),
        "fields": fields_of(model),
        "horizons": horizons,
        "synthetic": bool(model.facts.get("synthetic", False)),
    }


@survival_router.post("/{name}/predict")
def predict(me: Me, room: CurrentRoom, name: Name, given: Patient) -> Answer:
    """Answer for one patient: chances at horizons with intervals, the median, and curves to draw."""
    if name not in room.survival:
        raise not_found("survival model", name)
    from ...survival.predict import as_json, ask

    prediction = ask(room.survival[name], given.patient)
    described = as_json(prediction)
    curves = {event: _points(curve) for event, curve in prediction.curves.items()}
    return described | {
        "answers": described["horizons"],
        "last": described["last_follow_up"],
        "curves": curves,
        "notice": NOTICE,
    }


def _points(curve: Any) -> dict[str, Any]:
    """Return a curve as lists; a number that is not known is null."""
    import numpy as np

    found = {}
    for name, part in (("times", curve.times), ("value", curve.value), ("low", curve.low), ("high", curve.high)):
        values = np.asarray(part, float)
        found[name] = [float(each) if np.isfinite(each) else None for each in values]
    return found


def routers() -> list[APIRouter]:
    """Return the routers of the whole API."""
    return [
        accounts.session_router,
        accounts.provider_router,
        accounts.router,
        cases.router,
        cases.reading_router,
        images.router,
        cells.router,
        cases.hospital_router,
        laboratory.router,
        laboratory.learning_router,
        cases.export_router,
        survival_router,
        router,
    ]
