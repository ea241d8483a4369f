"""Exports of a case."""

from typing import Any, Literal

from fastapi import APIRouter, Response

from .. import cases as shown
from ..exports import Exporter
from ..security import Me, TheRoom
from .accounts import who
from .words import Id

router = APIRouter(tags=["exports"])
_FILES: dict[str, Any] = {
    "description": "The file",
    "content": {
        media: {} for media in ("text/csv", "text/html", "application/pdf", "application/geo+json", "application/zip")
    },
}
Kind = Literal["csv", "geojson", "dicom", "html", "pdf", "dataset"]


@router.get("/cases/{case_id}/exports/{kind}", response_class=Response, responses={200: _FILES})
def export(me: Me, room: TheRoom, case_id: Id, kind: Kind) -> Response:
    """Return a case as table, for QuPath, as DICOM, as report (page or PDF), or as a labelled data set (zip)."""
    with room.database.reading() as session:
        case = shown.case_of(session, me, case_id)
        exporter = Exporter(session, room.pictures, room.predictor.manifest, room.settings.point, me)
        made = exporter.make(case, kind)
    with room.database.writing() as session:
        room.log.add(session, who(me), "exported", kind="case", item=case_id, format=kind)
    headers = {"Content-Disposition": f'attachment; filename="{made.name}"'}
    return Response(made.content, media_type=made.media, headers=headers)
