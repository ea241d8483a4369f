"""The shell of every page, and the static files beside it; what the pages show comes from the API alone.

The shell holds no data, so it needs no login. Static files stand under a path with their own fingerprint: a browser
keeps them for ever, and a new version of the program has a new path.
"""

from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import jinja2
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

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


@router.get("/survival")
def survival() -> HTMLResponse:
    """Return the form that asks a survival model."""
    return _page("survival")


@router.get("/accounts")
def accounts() -> HTMLResponse:
    """Return the page of accounts and tokens."""
    return _page("accounts")
