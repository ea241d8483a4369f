"""Images: send, list, look at, delete."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as Path_
from pydantic import Field
from sqlalchemy import delete, func, select, update
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from .. import cases, queue, readings
from ..accounts import Caller
from ..database import DONE, FAILED, FIELD, QUEUED, SLIDE, CaseRow, CellRow, ImageRow
from ..queue import LeasedJob
from ..refusals import LARGEST, PICTURE, Answer, Id, Refusal, RequestBody, bad_request, picture_answer, too_large
from ..room import Room
from ..security import CurrentRoom, IfMatchHeader, Me, Reviewer
from ..uploads import RejectedFile, StoredImage, UploadedFile, store_uploads
from .accounts import who
from .cases import sweep

router = APIRouter(tags=["images"])
_KINDS = {"auto": "auto", "crops": "crop", "fields": "field"}
_SMALLEST_AREA = 64  # pixels of a side
_LOOK_SECONDS = 0.15  # between two checks whether an analysis is done
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "kind": {"type": "string", "enum": list(_KINDS)},
                        "um_per_px": {"type": "number", "minimum": 0.005, "maximum": 5},
                    },
                }
            }
        },
    }
}


_SLIDE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PIECE = 4 << 20  # bytes of a slide that are written at a time


@router.post("/cases/{case_id}/images", status_code=202, openapi_extra=_UPLOAD)
async def send_images(
    me: Me, room: CurrentRoom, request: Request, case_id: Id, wait: Annotated[float, Query(ge=0, le=30)] = 0
) -> Answer:
    """Send cells, fields, DICOM files or zips of them; each is stored, then analysed from the queue.

    With `wait`, the answer comes when the analysis is done, or after so many seconds; it then holds the `cells`.
    """
    await run_in_threadpool(_check_case, room, me, case_id)
    async with _form(request, most=room.settings.limits.files) as form:
        kind, um_per_px = _options(form)
        sent = [UploadedFile(part.filename or "", part.file, part.size or 0) for part in _files(form)]
        if not sent:
            raise bad_request("Nothing was sent. Send files as multipart/form-data.")
        work = partial(_take_in, room, me, case_id, sent, kind=kind, um_per_px=um_per_px, at_once=wait > 0)
        answer, done = await to_thread.run_sync(work, limiter=request.app.state.uploads)
    return await _waited(room, me, case_id, answer, seconds=0 if done else wait) if wait else answer


@router.post("/cases/{case_id}/slides", status_code=202, openapi_extra=_SLIDE)
async def send_slide(
    *,
    me: Me,
    room: CurrentRoom,
    request: Request,
    case_id: Id,
    name: Annotated[str, Query(min_length=1, max_length=500)],
    um_per_px: Annotated[float | None, Query(ge=0.005, le=5)] = None,
) -> Answer:
    """Send one slide as the body of the request: TIFF, SVS, NDPI, SCN or BIF, a tiled pyramid of any size.

    It is taken in without its metadata, label and overview. Nothing of it is analysed until an area is drawn.
    """
    await run_in_threadpool(_check_case, room, me, case_id)
    path = room.pictures.beside()
    try:
        size = await _received(request, path)
        if not size:
            raise bad_request("Nothing was sent. Send the slide as the body of the request.")
        with path.open("rb") as file:
            sent = [UploadedFile(name, file, size, path)]
            work = partial(_take_in, room, me, case_id, sent, kind="auto", um_per_px=um_per_px, at_once=False)
            answer, _ = await to_thread.run_sync(work, limiter=request.app.state.uploads)
            return answer
    finally:
        path.unlink(missing_ok=True)


async def _received(request: Request, path: Path) -> int:
    """Write the body of a request to a file, some megabytes at a time, and return its size."""
    size, waiting = 0, bytearray()
    with path.open("xb") as file:
        try:
            async for chunk in request.stream():
                waiting += chunk
                size += len(chunk)
                if len(waiting) >= _PIECE:
                    await run_in_threadpool(file.write, bytes(waiting))
                    waiting.clear()
        except ClientDisconnect:
            raise bad_request("The upload broke off; nothing of it was kept. Send it again.") from None
        await run_in_threadpool(file.write, bytes(waiting))
    return size


@asynccontextmanager
async def _form(request: Request, *, most: int) -> AsyncIterator[FormData]:
    """Yield the form; its files lie in memory or in nameless temporary files."""
    try:
        async with request.form(max_files=most, max_fields=20) as form:
            yield form
    except (MultiPartException, HTTPException) as broken:  # Starlette turns the first into the second
        reason = broken.message if isinstance(broken, MultiPartException) else str(broken.detail)
        if "Too many files" in reason:
            raise too_large(f"There are more than the {most:,} files allowed at a time. Send fewer.") from None
        raise bad_request(f"The upload cannot be read: {reason} Send it again.") from None
    except ClientDisconnect:
        raise bad_request("The upload broke off; nothing of it was kept. Send it again.") from None


def _files(form: FormData) -> list[UploadFile]:
    return [value for _, value in form.multi_items() if isinstance(value, UploadFile)]


def _options(form: FormData) -> tuple[str, float | None]:
    kind, scale = str(form.get("kind") or "auto"), str(form.get("um_per_px") or "")
    if kind not in _KINDS:
        raise bad_request(f"kind is one of {', '.join(_KINDS)}.")
    try:
        um_per_px = float(scale) if scale else None
    except ValueError:
        um_per_px = -1.0
    if um_per_px is not None and not 0.005 <= um_per_px <= 5:
        raise bad_request("um_per_px is a number of micrometres per pixel between 0.005 and 5.")
    return _KINDS[kind], um_per_px


def _check_case(room: Room, me: Caller, case_id: int) -> None:
    with room.database.reading() as session:
        case = cases.case_of(session, me, case_id)
        cases.check_open(case)
        readings.check_images_may_be_added(session, case)


def _take_in(
    room: Room, me: Caller, case_id: int, sent: list[UploadedFile], *, kind: str, um_per_px: float | None, at_once: bool
) -> tuple[Answer, bool]:
    """Store group after group, so that the first are analysed while the last are still being stored.

    Return what was accepted and refused, and whether all of it is analysed already.
    """
    tasks: list[LeasedJob] = []
    refused: list[dict[str, Any]] = []
    done = False
    for group in store_uploads(
        sent, room.pictures, room.sandbox, kind=kind, um_per_px=um_per_px, limits=room.settings.limits
    ):
        refused += [{"name": each.name, "error": each.error} for each in group if isinstance(each, RejectedFile)]
        stored = [each for each in group if isinstance(each, StoredImage)]
        if at_once and len(sent) == len(stored) == 1 and room.settings.work and stored[0].kind != SLIDE:
            with room.database.reading() as session:
                predictor = room.models.of(session, me.laboratory_id)
            more, done = room.worker.at_once(stored[0], partial(_queue, room, me, case_id, stored), predictor=predictor)
            tasks += more
        elif stored:
            tasks += _queue(room, me, case_id, stored)
            room.worker.wake()
    accepted = [{"id": each.image_id, "name": each.name, "kind": each.kind} for each in tasks]
    return {"accepted": accepted, "refused": refused}, done


def _queue(room: Room, me: Caller, case_id: int, stored: list[StoredImage], owner: str = "") -> list[LeasedJob]:
    """Add images to a case and queue them, leased to an owner where one is analysing them already."""
    with room.database.writing(bulk=True) as session:
        readings.check_images_may_be_added(session, cases.lock_case(session, me, case_id))
        session.flush()
        more = update(CaseRow).where(CaseRow.id == case_id).values(images_made=CaseRow.images_made + len(stored))
        last = session.scalar(more.returning(CaseRow.images_made)) or 0
        rows = [
            ImageRow(
                case_id=case_id,
                number=number,
                name=each.name,
                kind=each.kind,
                digest=each.digest,
                identity=each.identity,
                width=each.width,
                height=each.height,
                um_per_px=each.um_per_px,
                facts={"notes": list(each.notes)} if each.notes else {},
                state=DONE if each.kind == SLIDE else QUEUED,
            )
            for number, each in enumerate(stored, start=last - len(stored) + 1)
        ]
        session.add_all(rows)
        session.flush()
        tasks = queue.enqueue(
            session, [each for each in rows if each.kind != SLIDE], owner=owner, seconds=room.settings.lease_seconds
        )
        tasks += [  # done already: nothing of a slide is analysed until somebody draws where
            LeasedJob(0, each.id, case_id, SLIDE, each.digest, each.name, each.um_per_px, 0)
            for each in rows
            if each.kind == SLIDE
        ]
        room.log.add(session, who(me), "sent", kind="case", item=case_id, images=len(rows))
        if not all(room.pictures.path(each.digest).exists() for each in stored):
            raise Refusal(409, "again", "The same picture was being deleted just now. Send it again.")
    return tasks


async def _waited(room: Room, me: Caller, case_id: int, answer: Answer, *, seconds: float) -> Answer:
    """Return an answer with the cells of its images, when these are analysed or the time is over; holds no thread."""
    ids = [each["id"] for each in answer["accepted"]]
    until = time.monotonic() + seconds
    while await run_in_threadpool(_left, room, ids) and time.monotonic() < until:
        await asyncio.sleep(_LOOK_SECONDS)
    return answer | await run_in_threadpool(_found, room, me, case_id, ids)


def _found(room: Room, me: Caller, case_id: int, ids: list[int]) -> Answer:
    with room.database.reading() as session:
        view = cases.view_of(session, me, case_id)
        cells = [cell for image in ids[:500] for cell in cases.cells_of_image(session, view, image)]
        return {"cells": cells, "progress": cases.progress(session, case_id)}


def _left(room: Room, ids: list[int]) -> bool:
    waiting = (ImageRow.id >= min(ids, default=1), ImageRow.id <= max(ids, default=0))
    open_ = select(ImageRow.id).where(*waiting, ImageRow.state.in_(("queued", "running")))
    with room.database.reading() as session:
        return not set(session.scalars(open_)).isdisjoint(ids)


@router.get("/cases/{case_id}/images")
def list_images(
    me: Me,
    room: CurrentRoom,
    case_id: Id,
    offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Answer:
    """List the images of a case in the order in which they came."""
    with room.database.reading() as session:
        owner = cases.case_of(session, me, case_id)
        total = session.scalar(select(func.count()).select_from(ImageRow).where(ImageRow.case_id == case_id))
        query = select(ImageRow).where(ImageRow.case_id == case_id).order_by(ImageRow.number)
        rows = session.scalars(query.offset(offset).limit(limit))
        return {"total": total, "images": [_described(row, owner) for row in rows]}


@router.get("/images/{image_id}")
def one_image(me: Me, room: CurrentRoom, response: Response, image_id: Id) -> Answer:
    """Return an image with its cells and their outlines."""
    with room.database.reading() as session:
        row = cases.image_of(session, me, image_id)
        owner = session.get_one(CaseRow, row.case_id)
        response.headers["ETag"] = f'"{cases.etag_of_image(row, owner)}"'
        view = readings.view_of(session, me, owner)
        described = _described(row, owner) | {"most_area": room.settings.limits.area_pixels}
        if row.kind != SLIDE:
            return described | {"cells": cases.cells_of_image(session, view, image_id)}
        areas = cases.areas_of(session, row)
        return described | {
            "areas": [_area(each) for each in areas],
            "cells": cases.cells_of_areas(session, view, areas),
        }


def _area(row: ImageRow) -> dict[str, Any]:
    """Return an area of a slide: its box there, and how far it is analysed."""
    at = row.facts["part_of"]
    box = [at["left"], at["top"], row.width, row.height]
    return {"id": row.id, "name": row.name, "box": box, "state": row.state, "error": row.error}


def _described(row: ImageRow, owner: CaseRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "case": row.case_id,
        "number": row.number,
        "name": row.name,
        "kind": row.kind,
        "width": row.width,
        "height": row.height,
        "um_per_px": row.um_per_px,
        "state": row.state,
        "error": row.error,
        "scale": row.facts.get("scale"),
        "stain": row.facts.get("stain"),
        "again": row.facts.get("again"),
        "notes": row.facts.get("notes", []),
        "part_of": row.facts.get("part_of"),
        "created": row.created,
        "etag": cases.etag_of_image(row, owner),
    }


@router.get("/images/{image_id}/picture", **PICTURE)
def image_picture(
    *,
    me: Me,
    room: CurrentRoom,
    request: Request,
    image_id: Id,
    side: Annotated[int, Query(ge=16, le=4096)] = 1600,
    box: Annotated[str, Query(max_length=60)] = "",
) -> Response:
    """Return an image, or the region box=left,top,width,height of it, as JPEG of at most `side` pixels a side."""
    region = _box(box)
    with room.database.reading() as session:
        image = cases.image_of(session, me, image_id)
        if image.kind == SLIDE:
            raise Refusal(409, "slide", "A slide is looked at by its tiles: /images/ID/tiles/LEVEL/COLUMN/ROW.")
        digest = image.digest
    draw = partial(room.sandbox.draw, "region", room.pictures.path(digest), side=side, box=region)
    what = f"picture-{side}" + (f"-{'-'.join(map(str, region))}" if region else "")
    return picture_answer(request, digest, what, lambda: room.pictures.drawn(digest, what, draw))


@router.get("/images/{image_id}/tiles/{level}/{column}/{row}", **PICTURE)
def image_tile(
    *,
    me: Me,
    room: CurrentRoom,
    request: Request,
    image_id: Id,
    level: Annotated[int, Path_(ge=0, le=40)],
    column: Annotated[int, Path_(ge=0, le=10**6)],
    row: Annotated[int, Path_(ge=0, le=10**6)],
) -> Response:
    """Return a tile of an image as JPEG of at most 512 pixels a side.

    Levels, columns and rows are those of Deep Zoom: at level ceil(log2(longer side)) a pixel of a tile is one of the
    image, each level below has half as many.
    """
    with room.database.reading() as session:
        image = cases.image_of(session, me, image_id)
        digest, is_slide = image.digest, image.kind == SLIDE
        small = image.width * image.height <= cases.SMALL
    place = {"level": level, "column": column, "row": row}

    def draw() -> bytes:
        path = room.pictures.path(digest)
        if small and not is_slide:
            return room.sandbox.draw("tile", path, **place)
        return room.sandbox.tile(path if is_slide else pyramid_of(room, digest), **place)

    return picture_answer(request, digest, f"tile-{level}-{column}-{row}", draw)


def pyramid_of(room: Room, digest: str) -> Path:
    """Return the pyramid of a picture that is not a slide, made when it is first drawn."""
    return room.sandbox.pyramid(room.pictures, digest)


class NewArea(RequestBody):
    """An area of a slide to analyse: left, top, width and height in pixels of the slide."""

    box: Annotated[list[Annotated[int, Field(ge=0, le=10**7)]], Field(min_length=4, max_length=4)]


@router.post("/images/{image_id}/areas", status_code=201)
def add_area(me: Me, room: CurrentRoom, image_id: Id, new: NewArea) -> Answer:
    """Analyse an area of a slide: it becomes a field of the case, in which cells are sought."""
    with room.database.reading() as session:
        slide = cases.image_of(session, me, image_id)
        cases.check_open(session.get_one(CaseRow, slide.case_id))
        _check_area(room, slide, cases.areas_of(session, slide), new.box)
        path = room.pictures.path(slide.digest)
    digest = room.pictures.add(room.sandbox.area(path, new.box))
    left, top, width, height = new.box
    with room.database.writing() as session:
        slide, owner = cases.lock_image(session, me, image_id)
        areas = cases.areas_of(session, slide)
        _check_area(room, slide, areas, new.box)  # somebody may have drawn meanwhile
        owner.images_made += 1
        number = 1 + max((each.facts["part_of"]["area"] for each in areas), default=0)
        facts = {"part_of": {"image": image_id, "left": left, "top": top, "area": number}}
        row = ImageRow(
            case_id=owner.id,
            number=owner.images_made,
            name=f"{slide.name}, area {number}"[-300:],
            kind=FIELD,
            digest=digest,
            width=width,
            height=height,
            um_per_px=slide.um_per_px,
            facts=facts,
        )
        session.add(row)
        session.flush()
        queue.enqueue(session, [row])
        room.log.add(session, who(me), "drew an area", kind="image", item=image_id, case=owner.id, area=row.id)
        described = _area(row)
    room.worker.wake()
    return described


def _check_area(room: Room, slide: ImageRow, areas: Sequence[ImageRow], box: list[int]) -> None:
    """Refuse what is not an area of a slide, is too large or too small, or is analysed already in part."""
    if slide.kind != SLIDE:
        raise Refusal(409, "no_slide", "Areas are drawn on slides; all of this image is analysed anyway.")
    left, top, width, height = box
    if left + width > slide.width or top + height > slide.height:
        raise bad_request(f"The area leaves the slide of {slide.width:,}x{slide.height:,} pixels.", code="outside")
    if min(width, height) < _SMALLEST_AREA:
        raise bad_request(f"The area is smaller than {_SMALLEST_AREA} pixels. Draw a larger one.", code="too_small")
    most = room.settings.limits.area_pixels
    if width * height > most:
        text = (
            f"The area has {width * height / 1e6:.0f} million pixels; at most {most / 1e6:.0f} at a time. Draw several."
        )
        raise bad_request(text, code="too_large")
    for other in areas:
        at = other.facts["part_of"]
        apart = left >= at["left"] + other.width or at["left"] >= left + width
        if other.state != FAILED and not (apart or top >= at["top"] + other.height or at["top"] >= top + height):
            text = f"It overlaps area {at['area']}, whose cells would be counted twice. Draw another, or delete it."
            raise Refusal(409, "overlaps", text)


def _box(text: str) -> tuple[int, int, int, int] | None:
    if not text:
        return None
    try:
        left, top, width, height = (round(float(part)) for part in text.split(","))
    except (ValueError, OverflowError):
        raise bad_request("box is left,top,width,height in pixels of the image.") from None
    if not (0 < width <= 20_000 and 0 < height <= 20_000 and max(abs(left), abs(top)) < 10**6):
        raise bad_request("box has a width and a height between 1 and 20,000 pixels.")
    return left, top, width, height


@router.delete("/images/{image_id}")
def delete_image(me: Reviewer, room: CurrentRoom, image_id: Id, seen: IfMatchHeader) -> Answer:
    """Delete an image with its cells, their predictions and reviews; a slide with its areas."""
    with room.database.writing() as session:
        row, owner = cases.lock_image(session, me, image_id)
        seen.check(
            cases.etag_of_image(row, owner, before=True),
            lambda: {"image": _described(row, owner) | {"etag": cases.etag_of_image(row, owner, before=True)}},
        )
        readings.check_cells_may_change(session, owner)
        case_id, digests = row.case_id, {row.digest, row.identity} - {""}
        gone = [image_id, *(each.id for each in cases.areas_of(session, row))]
        digests |= set(session.scalars(select(CellRow.digest).where(CellRow.image_id.in_(gone))))
        digests |= set(session.scalars(select(ImageRow.digest).where(ImageRow.id.in_(gone))))
        session.execute(delete(ImageRow).where(ImageRow.id.in_(gone)))
        room.log.add(session, who(me), "deleted", kind="image", item=image_id, case=case_id)
    sweep(room, digests)
    return {"deleted": image_id}
