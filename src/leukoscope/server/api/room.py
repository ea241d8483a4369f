"""The room itself: the model that answers, health, and counters for Prometheus."""

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from ...bundle.manifest import CARD
from ...inference.opinion import title_of
from .. import queue
from ..refusals import Refusal
from ..security import Me, TheRoom
from ..summary import NOTICE
from .words import Answer

router = APIRouter(tags=["room"])


@router.get("/models")
def models(me: Me, room: TheRoom) -> Answer:
    """Return the bundle that answers."""
    manifest = room.predictor.manifest
    data: dict[str, Any] = manifest.metrics.get("data", {})
    served = {
        "name": manifest.name, "hash": manifest.seal, "classes": list(manifest.classes),
        "titles": {name: title_of(name) for name in manifest.classes}, "positive": manifest.positive,
        "thresholds": manifest.operating_points, "point": room.settings.point,
        "painted": bool(data.get("painted", False)), "credits": list(manifest.credits),
        "card": room.predictor.bundle.read(CARD).decode("utf-8", "replace"),
    }  # fmt: skip
    return {"models": [served], "served": manifest.seal, "notice": NOTICE}


@router.get("/health")
def health(room: TheRoom) -> Answer:
    """Say whether the room can work; 503 when its database or its worker is away. Needs no login."""
    with room.database.reading() as session:
        session.execute(text("SELECT 1"))
    if room.settings.work and not room.worker.alive:
        raise Refusal(503, "worker_away", "The worker has ended. Start leukoscope serve again.")
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(me: Me, room: TheRoom) -> Response:
    """Return counters for Prometheus: requests, their seconds, cells analysed, the queue."""
    with room.database.reading() as session:
        depth = queue.depth(session)
    return Response(room.measures.text(depth), media_type=CONTENT_TYPE_LATEST)
