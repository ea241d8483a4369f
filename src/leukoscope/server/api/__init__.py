"""The routes of the API, one file for each kind of thing."""

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """Return all routers."""
    from . import accounts, cases, cells, exports, images, room, session, survival

    return [each.router for each in (session, accounts, cases, images, cells, exports, survival, room)]
