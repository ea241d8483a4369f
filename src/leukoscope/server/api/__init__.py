"""The routes of the API, one file for each kind of thing."""

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """Return all routers."""
    from . import accounts, cases, cells, hospital, images, learning, oidc, readings, references, room

    return [
        accounts.sessions,
        oidc.router,
        *(each.router for each in (accounts, cases, readings, images, cells, hospital, references, learning)),
        cases.exports,
        room.survival,
        room.router,
    ]
