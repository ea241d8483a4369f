"""Cells to compare one with: the nearest training cells, and the nearest that this laboratory has signed off."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from ...errors import ImageError
from ...images.crop import RELEASE_UM_PER_PX
from ...images.read import read_image
from ...inference.reference_cells import UM_ACROSS, ReferenceCells, embedding_of, read_reference_cells
from .. import cases as shown
from ..accounts import Caller
from ..database import NOT_A_CELL, SIGNED, Case, Cell, Picture
from ..learning import network_of
from ..refusals import PICTURE, Answer, Id, Refusal, not_found, picture_answer
from ..room import Room
from ..security import Me, TheRoom

router = APIRouter(tags=["cells"])
_TRAINING, _OWN = 5, 3  # cells that are shown
_LAST = 400  # of the laboratory's cells that are compared, the newest first
_AT_ONCE = 24  # of these whose embedding is computed for one request; the next does more


@router.get("/cells/{cell_id}/references")
def references(me: Me, room: TheRoom, cell_id: Id) -> Answer:
    """Return cells that lie near this one in the embedding: of the training data, and signed off by this laboratory.

    `um_across` is what each picture of a training cell shows; `own_um_across` what the cell's own thumbnail does.
    """
    with room.database.reading() as session:
        cell = shown.cell_of(session, me, cell_id)
        if not shown.view_of(session, me, cell.case_id).model:
            raise _hidden()
        image = session.get_one(Picture, cell.image_id)
        seen = shown.picture_of_cell(session, me, cell_id)
        signed = _signed(session, me, cell.case_id)
        scale = image.um_per_px if cell.box else RELEASE_UM_PER_PX  # a crop is taken to be like those of C-NMC 2019
        across = seen.box[2] if seen.box else max(image.width, image.height)
        digest = cell.digest
    seal = network_of(room.predictor.manifest)
    known = known_references(seal)
    point = _embedding(room, digest) if known or signed else None
    near = known.nearest(point, _TRAINING) if known and point is not None else []
    return {
        "um_across": UM_ACROSS,
        "own_um_across": across * scale if scale else None,
        "training": [_training(known, place, seal) for place, _ in near] if known else [],
        "signed_off": [] if point is None else _nearest_signed(room, point, signed),
    }


@router.get("/cases/{case_id}/likeness")
def likeness(me: Me, room: TheRoom, case_id: Id) -> Answer:
    """Compare some more cells of a case, for the list in the order of likeness; `known` of `cells` are compared then.

    Ask again until both are the same.
    """
    with room.database.reading() as session:
        view = shown.view_of(session, me, case_id)
        if not view.model:
            raise _hidden()
        digests = [each.digest for each in shown.kinds_of_cells(session, view, "every")]
    left = [digest for digest in digests if not room.pictures.has_drawn(digest, _what(room))]
    for digest in left[:_AT_ONCE]:
        _embedding(room, digest)
    return {"known": len(digests) - len(left[_AT_ONCE:]), "cells": len(digests)}


def by_likeness(room: Room, cells: Sequence[shown.Kind], *, like: int | None) -> list[int]:
    """Return the ids of cells, class after class, those of a class by their distance in the embedding.

    From the cell `like`, whose class comes first; without it from the middle of the class, the odd ones last.
    """
    groups: dict[str, list[shown.Kind]] = defaultdict(list)
    for cell in cells:
        groups[cell.shown].append(cell)
    points = {cell.id: _known_embedding(room, cell.digest) for cell in cells}
    first = next((cell.shown for cell in cells if cell.id == like), None)
    ranked: list[int] = []
    for name in sorted(groups, key=lambda name: (name != first, name)):
        known = [each.id for each in groups[name] if points[each.id] is not None]
        other = [each.id for each in groups[name] if points[each.id] is None]
        if known:
            there = np.stack([points[each] for each in known])  # type: ignore[misc]
            middle = points.get(like or 0)
            far = np.linalg.norm(there - (there.mean(axis=0) if middle is None else middle), axis=1)
            known = [known[place] for place in np.argsort(far, kind="stable")]
        ranked += known + other
    return ranked


def _hidden() -> Refusal:
    return Refusal(409, "hidden", "What the model finds alike is hidden until the readers have finished.")


_WEBP: dict[str, Any] = PICTURE | {
    "responses": PICTURE["responses"] | {200: {"content": {"image/webp": {}}, "description": "The picture"}}
}


@router.get("/references/{place}/picture", **_WEBP)
def reference_picture(me: Me, room: TheRoom, request: Request, place: Id) -> Response:
    """Return a training cell as WebP; places count from 1."""
    seal = network_of(room.predictor.manifest)
    known = known_references(seal)
    if known is None or place > len(known.cells):
        raise not_found("reference cell", place)
    return picture_answer(
        request, seal, f"reference-{place}", lambda: known.cells[place - 1].picture, media="image/webp"
    )


@cache
def known_references(seal: str) -> ReferenceCells | None:
    """Return the reference cells that fit a bundle."""
    return read_reference_cells(seal)


def _training(known: ReferenceCells, place: int, seal: str) -> dict[str, Any]:
    cell = known.cells[place]
    return {
        "label": cell.label,
        "credit": cell.credit,
        "picture": f"/references/{place + 1}/picture?v={seal[:12]}",
    }


def _signed(session: Session, me: Caller, case_id: int) -> list[Any]:
    """Return the newest cells that readers named in other cases of the laboratory that were signed off."""
    mine = (Case.laboratory_id == me.laboratory_id, Case.state == SIGNED, Case.id != case_id)
    said = (Cell.label.not_in(("", "unsure", NOT_A_CELL)), Cell.removed.is_(False))
    columns = (Cell.id, Cell.case_id, Cell.number, Cell.digest, Cell.label, Cell.version, Cell.box, Picture.um_per_px)
    query = (
        select(*columns, Picture.width).join(Case, Case.id == Cell.case_id).join(Picture, Picture.id == Cell.image_id)
    )
    return list(session.execute(query.where(*mine, *said).order_by(Cell.id.desc()).limit(_LAST)))


def _nearest_signed(room: Room, point: NDArray[np.float32], signed: list[Any]) -> list[dict[str, Any]]:
    left, found = _AT_ONCE, []
    for row in signed:
        new = not room.pictures.has_drawn(row.digest, _what(room))
        if new and not left:
            continue
        left -= new
        other = _embedding(room, row.digest)
        if other is not None:
            found.append((float(np.linalg.norm(other - point)), row))
    found.sort(key=lambda each: each[0])
    return [
        {
            "id": row.id,
            "case": row.case_id,
            "number": row.number,
            "label": row.label,
            "etag": f"{row.id}-{row.version}",
            "um_across": _across(row),
        }
        for _, row in found[:_OWN]
    ]


def _across(row: Any) -> float | None:
    """Return how many micrometres the thumbnail of a cell shows."""
    if row.box is None:
        return float(row.width * RELEASE_UM_PER_PX)
    return max(shown.AROUND_UM, 1.05 * max(row.box[2:]) * row.um_per_px) if row.um_per_px else None


def _what(room: Room) -> str:
    return f"embedding-{network_of(room.predictor.manifest)[:12]}"


def _embedding(room: Room, digest: str) -> NDArray[np.float32] | None:
    """Return the embedding of a cell by the crop that is stored of it; None where there is nothing to see."""

    def compute() -> bytes:
        try:
            return embedding_of(room.predictor, read_image(room.pictures.path(digest))).tobytes()
        except ImageError:
            return b""

    return _point(room.pictures.drawn(digest, _what(room), compute))


def _known_embedding(room: Room, digest: str) -> NDArray[np.float32] | None:
    """Return the embedding of a cell if it was computed before."""
    if not room.pictures.has_drawn(digest, _what(room)):
        return None
    return _point(room.pictures.drawn(digest, _what(room), bytes))


def _point(content: bytes) -> NDArray[np.float32] | None:
    return np.frombuffer(content, np.float32) if content else None
