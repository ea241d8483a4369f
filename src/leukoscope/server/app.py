"""The application: API, pages and static files of one reading room."""

import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ..errors import DataError, LeukoscopeError, UsageError
from .accounts import PasswordRefusedError
from .api import routers
from .database import first_line, is_conflict, is_full, is_gone
from .refusals import Refusal, answer_of, internal_error, try_again
from .room import Room, open_room
from .security import Guard
from .settings import RoomSettings

PREFIX = "/api/v1"
_UPLOADS = 6  # that are taken in at a time; others wait without a thread
LOG = logging.getLogger("leukoscope.server")


def create_app(settings: RoomSettings, *, room: Room | None = None) -> FastAPI:
    """Return the application of a reading room; the room is opened here, so that an error is reported at once."""
    room = room or open_room(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.uploads = CapacityLimiter(_UPLOADS)
        if settings.work:
            room.worker.start()
        room.sender.start()
        yield
        room.close()

    app = FastAPI(
        title="leukoscope reading room",
        version=metadata.version("leukoscope"),
        lifespan=lifespan,
        description="Second opinions on blood cells, read by people. Research use, not a diagnosis.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    app.state.room = room
    for router in routers():
        app.include_router(router, prefix=PREFIX)
    add_pages(app)
    _answer_errors(app)
    app.add_middleware(Guard, settings=settings)
    return app


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "detail"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "detail": {"type": "object"},
            },
        }
    },
}
ERRORS: dict[int | str, dict[str, object]] = {
    status: {"description": words, "content": {"application/json": {"schema": _ERROR}}}
    for status, words in {
        400: "Not readable",
        401: "Not signed in",
        403: "Not allowed",
        404: "Not there",
        408: "Too slow",
        409: "Not now",
        412: "Changed meanwhile",
        413: "Too large",
        422: "Not understood",
        428: "If-Match is missing or not understood",
        429: "Too many failed logins",
        503: "Busy or away",
        507: "Disk full",
    }.items()
}


def _answer_errors(app: FastAPI) -> None:
    """Give every error the one shape."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(LeukoscopeError, _known_error)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolTimeout, _away)
    app.add_exception_handler(OSError, _system)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return answer_of(error)


def _known_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, PasswordRefusedError):
        return answer_of(Refusal(422, "password", str(error)))
    if isinstance(error, UsageError | DataError):
        return answer_of(Refusal(422, "bad_request", str(error)))
    return answer_of(Refusal(500, "failed", str(error)))


def _not_understood(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"where": ".".join(str(step) for step in each["loc"]), "what": _what(each)} for each in error.errors()[:20]
    ]
    first = problems[0] if problems else {"where": "request", "what": "not understood"}
    message = f"{first['where']}: {first['what'].rstrip('.')}. See {PREFIX}/openapi.json for what is expected."
    return answer_of(Refusal(422, "bad_request", message, problems=problems))


def _what(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a part of a request, and how to correct it where that is known."""
    if problem["type"] == "json_invalid":
        return f"the body is not JSON ({problem['ctx']['error']}). Check its commas, quotation marks and brackets."
    return str(problem["msg"]).removeprefix("Value error, ")


_UNREADABLE = "There was an error parsing the body"  # FastAPI's sentence, for whatever keeps it from reading one


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "no_such_method", 400: "bad_request", 413: "too_large"}
    messages = {404: "There is nothing at this address.", 405: "This address does not know this method."}
    if error.detail == _UNREADABLE:
        messages[400] = "The body of the request cannot be read. Send JSON as UTF-8, or files as multipart/form-data."
    refusal = Refusal(
        error.status_code, codes.get(error.status_code, "http"), messages.get(error.status_code, str(error.detail))
    )
    refusal.headers = dict(error.headers or {})
    return answer_of(refusal)


def _database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DBAPIError)
    LOG.error("database: %s", first_line(error) if is_gone(error) else type(error).__name__)
    if is_full(error):
        return _full()
    if isinstance(error, IntegrityError) or is_conflict(error):
        return answer_of(try_again())
    return _away(request, error) if is_gone(error) else _internal_error(error)


def _away(_: Request, error: Exception) -> JSONResponse:
    refusal = Refusal(503, "database_away", "The database does not answer; nothing was changed. Try again in a moment.")
    refusal.headers = {"Retry-After": "2"}
    return answer_of(refusal)


def _system(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    LOG.error("system: %s", errno.errorcode.get(error.errno or 0, type(error).__name__))
    return _full() if error.errno in (errno.ENOSPC, errno.EDQUOT) else _internal_error(error)


def _full() -> JSONResponse:
    text = "The disk of the server is full, so this was not stored. Free some space and send it again."
    return answer_of(Refusal(507, "disk_full", text))


def _internal_error(error: Exception) -> JSONResponse:
    LOG.error("error in the program", exc_info=error)
    return answer_of(internal_error())


STATIC = Path(__file__).parent / "static"
FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


class _KeptFiles(StaticFiles):
    """Static files whose address changes when they do."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, to be kept by the browser."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = FOR_EVER
        return response


def add_pages(app: FastAPI) -> None:
    """Add the pages and their static files to an application that has the API."""
    app.include_router(router)
    app.mount(static_path(), _KeptFiles(directory=STATIC), name="static")


@cache
def static_path() -> str:
    """Return the path of the static files, such as /static/1f0c9a7be2d4."""
    digest = sha256()
    for file in sorted(STATIC.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"/static/{digest.hexdigest()[:12]}"


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("leukoscope.server"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"static": static_path(), "version": metadata.version("leukoscope")}
    return made


def _page(name: str) -> HTMLResponse:
    html = _environment().get_template(f"{name}.html").render(page=name)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache"})


@router.get("/")
def cases() -> HTMLResponse:
    """Return the page with the list of cases."""
    return _page("cases")


@router.get("/login")
def login() -> HTMLResponse:
    """Return the page that signs somebody in."""
    return _page("login")


@router.get("/cases/{case}")
def case(case: str) -> HTMLResponse:
    """Return the page of a case; the module reads from the address which one."""
    return _page("case")


@router.get("/agreement")
def agreement() -> HTMLResponse:
    """Return the page of agreement between readers."""
    return _page("agreement")


@router.get("/learning")
def learning() -> HTMLResponse:
    """Return the page of models that are fitted to what was signed off, and of what to read next."""
    return _page("learning")


@router.get("/survival")
def survival() -> HTMLResponse:
    """Return the form that asks a survival model."""
    return _page("survival")


@router.get("/accounts")
def accounts() -> HTMLResponse:
    """Return the page of accounts and tokens."""
    return _page("accounts")
