"""The routes of the API, one file for each kind of thing."""

from fastapi import APIRouter


def routers() -> list[APIRouter]:
    """Return all routers."""
    from . import accounts, cases, cells, images, room

    return [
        accounts.sessions,
        *(each.router for each in (accounts, cases, images, cells)),
        cases.exports,
        room.survival,
        room.router,
    ]
