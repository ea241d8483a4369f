"""Exports of a case."""

from typing import Literal

from fastapi import APIRouter, Response

from .. import cases as shown
from ..exports import Exporter
from ..security import Me, TheRoom
from .accounts import who
from .words import Id

router = APIRouter(tags=["exports"])
Kind = Literal["csv", "geojson", "dicom", "html", "pdf", "dataset"]


@router.get("/cases/{case_id}/exports/{kind}")
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
