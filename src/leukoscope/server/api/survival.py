"""The survival form: which models there are, what they ask, what they answer."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from ..refusals import not_found
from ..security import Me, TheRoom
from ..summary import NOTICE
from .words import Answer, Body, Name, Word

router = APIRouter(prefix="/survival/models", tags=["survival"])


class Patient(Body):
    """What is known of a patient, as text by the names of the form."""

    patient: Annotated[dict[Name, Word], Field(max_length=100)]


@router.get("")
def models(me: Me, room: TheRoom) -> Answer:
    """List the survival models with the fields of their forms."""
    return {"models": [_described(name, model) for name, model in room.survival.items()], "notice": NOTICE}


def _described(name: str, model: Any) -> dict[str, Any]:
    from ...survival.predict import fields_of

    horizons = [{"time": time, "words": words} for time, words in model.horizons]
    return {
        "name": name, "title": str(model.facts.get("title", name)), "unit": model.unit, "events": list(model.events),
        "fields": fields_of(model), "horizons": horizons, "painted": bool(model.facts.get("painted", False)),
    }  # fmt: skip


@router.post("/{name}/predict")
def predict(me: Me, room: TheRoom, name: Name, given: Patient) -> Answer:
    """Answer for one patient: chances at horizons with intervals, the median, and curves to draw."""
    if name not in room.survival:
        raise not_found("survival model", name)
    from ...survival.predict import as_json, ask

    prediction = ask(room.survival[name], given.patient)
    said = as_json(prediction)
    curves = {event: _points(curve) for event, curve in prediction.curves.items()}
    return said | {"answers": said["horizons"], "last": said["last_follow_up"], "curves": curves, "notice": NOTICE}


def _points(curve: Any) -> dict[str, Any]:
    """Return a curve as lists; a number that is not known is null."""
    import numpy as np

    found = {}
    for name, part in (("times", curve.times), ("value", curve.value), ("low", curve.low), ("high", curve.high)):
        values = np.asarray(part, float)
        found[name] = [float(each) if np.isfinite(each) else None for each in values]
    return found
