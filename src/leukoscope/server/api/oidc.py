"""Signing in through the hospital's own provider: there, and back. Browsers come here by links, not by scripts."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse

from ..accounts import open_session
from ..audit_log import Who
from ..oidc import BEGUN_SECONDS, Begun, NoRole, Person, Provider, SignInProblem, account_of, end_rights, path_within
from ..refusals import Refusal
from ..room import Room
from ..security import COOKIE, TheRoom, address_of, secure_cookies

router = APIRouter(prefix="/session/oidc", tags=["session"])
_COOKIE = "leukoscope_oidc"
_REDIRECTS: dict[int | str, dict[str, Any]] = {
    303: {"description": "On to the provider, the room, or back to the door with ?problem="}
}
_LONGEST = 4000  # characters of what a provider sends back


@router.get("", status_code=303, response_class=RedirectResponse, responses=_REDIRECTS)
def begin(request: Request, room: TheRoom, then: Annotated[str, Query(max_length=300)] = "/") -> RedirectResponse:
    """Send a browser to the provider; `then` is the path of the room to come back to."""
    begun = Begun(then=path_within(then))
    try:
        answer = _seen_off(provider_of(room).address_for(begun))
    except SignInProblem as problem:
        return _door(problem.code)
    answer.set_cookie(
        cookie_name(request, room),
        begun.text(),
        max_age=BEGUN_SECONDS,
        httponly=True,
        samesite="lax",
        path="/",
        secure=secure_cookies(request, room.settings),
    )
    return answer


@router.get("/callback", status_code=303, response_class=RedirectResponse, responses=_REDIRECTS)
def callback(request: Request, room: TheRoom) -> RedirectResponse:
    """Take in what the provider says of a person, and sign the browser in; guesses are counted like passwords."""
    kept = cookie_name(request, room)
    try:
        answer = _signed_in(request, room, Begun.of(request.cookies.get(kept, "")))
    except SignInProblem as problem:
        answer = _door(problem.code)
    except Refusal as refusal:
        if refusal.status != 429:
            raise
        answer = _door("wait")
    answer.delete_cookie(kept, path="/", secure=secure_cookies(request, room.settings), httponly=True)
    return answer


def _signed_in(request: Request, room: Room, begun: Begun | None) -> RedirectResponse:
    provider, guess = provider_of(room), {"name": "\0oidc", "address": address_of(request)}
    room.attempts.begin(room.database, **guess)
    try:
        if begun is None:
            raise SignInProblem("stale", "this browser has begun no sign-in, or too long ago")
        person = provider.person(begun, _given(request.query_params))
        cookie = _open(room, person, guess)
    except SignInProblem as problem:
        with room.database.writing() as session:
            ended = end_rights(session, problem.identity) if isinstance(problem, NoRole) else None
            room.log.add(session, Who("nobody"), "sign-in failed", kind="session", why=problem.code, account=ended)
        raise
    answer = _seen_off(begun.then)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(room.settings.session_hours * 3600),
        httponly=True,
        samesite="strict",
        path="/",
        secure=secure_cookies(request, room.settings),
    )
    return answer


def _open(room: Room, person: Person, guess: Mapping[str, str]) -> str:
    with room.database.writing() as session:
        account = account_of(session, person)
        room.attempts.right(session, name=guess["name"], address=guess["address"])
        cookie, _ = open_session(session, account, hours=room.settings.session_hours)
        who = Who(account.name, account.laboratory_id)
        room.log.add(session, who, "signed in", kind="session", by="OpenID Connect", role=account.role)
    return cookie


def provider_of(room: Room) -> Provider:
    """Return the provider of a room.

    Raises:
        Refusal: it has none (404).
    """
    if room.provider is None:
        raise Refusal(404, "not_found", "This room has no other way to sign in than name and password.")
    return room.provider


def _given(query: Mapping[str, str]) -> dict[str, str]:
    return {
        name: query[name]
        for name in ("state", "code", "iss", "error")
        if len(query.get(name, "")) <= _LONGEST and name in query
    }


def cookie_name(request: Request, room: Room) -> str:
    """Return the name of the cookie of a sign-in that has begun; no other name of the domain may set it over TLS."""
    return f"__Host-{_COOKIE}" if secure_cookies(request, room.settings) else _COOKIE


def _seen_off(address: str) -> RedirectResponse:
    return RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})


def _door(problem: str) -> RedirectResponse:
    return _seen_off(f"/login?{urlencode({'problem': problem})}")
