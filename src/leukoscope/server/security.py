"""What is checked before every route: who calls, what they may, how much and how slowly they may send, and headers."""

import asyncio
import contextlib
import logging
import secrets
import time
from typing import Annotated, Any

import h11
from fastapi import Depends, Header, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .accounts import Caller, caller_of_cookie, caller_of_token, has_people
from .database import ADMIN, READ, REVIEW, REVIEWER, UPLOAD
from .refusals import IfMatch, Refusal, answer_of, internal_error, not_allowed, too_large, unknown_caller
from .room import Room
from .settings import RoomSettings

HEAD_SECONDS = 10.0
"""From the first byte of a request, or the opening of its connection, to the end of its headers."""
_MOST = 2000


class TimeoutProtocol(H11Protocol):
    """HTTP of uvicorn, which itself waits for the headers of a request without end."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came; wait on where a request is not whole yet."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def max_connections() -> int:
    """Return how many connections the room keeps open at a time, and let this process have as many files."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * _MOST if hard == resource.RLIM_INFINITY else min(2 * _MOST, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return min(_MOST, wanted // 2)
    return _MOST // 8


LOG = logging.getLogger("leukoscope.server")
COOKIE = "leukoscope_session"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_METHODS = _SAFE | {"POST", "PUT", "PATCH", "DELETE"}
_BODY_SECONDS = 30.0  # between two pieces of a request's body
_HERE = ("127.0.0.1", "localhost", "[::1]")

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


async def room_of(request: Request) -> Room:  # async: it waits for nothing, and another thread would cost more
    """Return the room that this application serves."""
    room: Room = request.app.state.room
    return room


def caller_of(request: Request) -> Caller:
    """Return who calls, by the token of a program or the cookie of a browser.

    Raises:
        Refusal: nobody that is known (401), or an unsafe request of a browser without its CSRF token (403).
    """
    room: Room = request.app.state.room
    given = request.headers.get("authorization", "")
    kind, _, token = given.partition(" ")
    cookie = request.cookies.get(COOKIE, "")
    if given:
        caller = caller_of_token(room.database, token.strip()) if kind.lower() == "bearer" else None
    else:
        with room.database.reading() as session:
            caller = caller_of_cookie(session, cookie) if cookie else None
    if caller is None:
        with room.database.reading() as session:
            raise _unknown(room, people=has_people(session))
    if caller.scopes is not None:
        _check_scope(request, caller.scopes)
    elif request.method not in _SAFE:
        _check_csrf(request, caller)
    request.state.caller = caller
    return caller


def _unknown(room: Room, *, people: bool) -> Refusal:
    """Return the refusal for a stranger; it lists the ways to sign in, for the sign-in page."""
    refusal = unknown_caller()
    refusal.detail = {"accounts": people} | ({"oidc": room.provider.settings.title} if room.provider else {})
    return refusal


def _check_scope(request: Request, scopes: tuple[str, ...]) -> None:
    """Let a token do what it was made for, and never make or change tokens, accounts and passwords."""
    needed = scope_of(request.method, request.url.path)
    if needed not in scopes:
        cure = f"It needs the scope {needed}: make one that has it." if needed else "Sign in with name and password."
        raise Refusal(403, "not_for_this_token", f"This token may not do that. {cure}", needs=needed)


def scope_of(method: str, path: str) -> str:
    """Return the scope that a token needs for a request; "" where none is enough.

    >>> scope_of("GET", "/api/v1/cases"), scope_of("POST", "/api/v1/cases"), scope_of("POST", "/api/v1/tokens")
    ('read', 'upload', '')
    """
    kind, *rest = path.removeprefix("/api/v1/").rstrip("/").split("/")
    if method in _SAFE or kind == "survival":  # which only answers
        return READ
    if kind == "cases" and (rest[1:] in (["images"], ["slides"]) or (method in ("POST", "PATCH") and len(rest) < 2)):
        return UPLOAD
    return REVIEW if kind in ("cases", "cells", "images") else ""


def _check_csrf(request: Request, caller: Caller) -> None:
    """Check that one of our own pages sends this: only ours can read the token that it must repeat."""
    sent = request.headers.get("x-csrf-token", "")
    if not (sent.isascii() and secrets.compare_digest(sent, caller.csrf)):
        raise Refusal(403, "csrf", "The header X-CSRF-Token is missing or old. Load the page again.")


def _reviewer(caller: "Me") -> Caller:
    return _at_least(caller, REVIEWER)


def _admin(caller: "Me") -> Caller:
    return _at_least(caller, ADMIN)


def _at_least(caller: Caller, role: str) -> Caller:
    if not caller.may(role):
        raise not_allowed(role)
    return caller


_IF_MATCH = Header(description="The etag of what you saw and want to change, in quotation marks.", max_length=500)


async def if_match_of(if_match: Annotated[str | None, _IF_MATCH] = None) -> IfMatch:
    """Return which states the caller has seen; "*", whatever it may be, is not one."""
    given = (each.strip().removeprefix("W/").strip('"') for each in (if_match or "").split(","))
    return IfMatch(frozenset(given) - {"", "*"}, given=bool(if_match))


CurrentRoom = Annotated[Room, Depends(room_of)]
IfMatchHeader = Annotated[IfMatch, Depends(if_match_of)]
Me = Annotated[Caller, Depends(caller_of)]
Reviewer = Annotated[Caller, Depends(_reviewer)]
Admin = Annotated[Caller, Depends(_admin)]


def secure_cookies(request: Request, settings: RoomSettings) -> bool:
    """Tell whether a cookie may travel over TLS alone; on this machine there is no TLS, and no wire either."""
    return request.url.scheme == "https" or not (settings.local or settings.plain_http)


class Guard:
    """The outermost middleware: host names, sizes, and headers that every answer carries."""

    def __init__(self, app: ASGIApp, *, settings: RoomSettings) -> None:
        self._app, self._settings = app, settings
        self._names = settings.names or (_HERE if settings.local else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it must be refused; count it, and write one line without names or queries."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                _add_headers(MutableHeaders(scope=message), scope)
            await send(message)

        try:
            await self._pass_on(scope, receive, send_with_headers)
        except Exception:  # whatever it is, the caller gets an answer of the one shape
            LOG.exception("error in the program")
            if not status:
                await answer_of(internal_error())(scope, receive, send_with_headers)
        _record_request(scope, status, time.perf_counter() - started)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self._most_bytes(scope)
        refusal = self._refusal(Headers(scope=scope), method=scope["method"], most=most)
        if refusal is not None:
            await answer_of(refusal)(scope, receive, send)
            return
        await self._app(scope, _limited(receive, most=most), send)

    def _most_bytes(self, scope: Scope) -> int:
        limits = self._settings.limits
        sent = scope["path"].rpartition("/")[2] if scope["method"] == "POST" else ""
        return {"images": limits.upload_bytes, "slides": limits.slide_bytes}.get(sent, limits.json_bytes)

    def _refusal(self, headers: Headers, *, method: str, most: int) -> Refusal | None:
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if self._names and not any(host == name or headers.get("host") == name for name in self._names):
            # Another site's name that was made to point here must not get an answer (DNS rebinding).
            return Refusal(421, "wrong_host", f"This room answers to {', '.join(self._names)}. Use that address.")
        origin = headers.get("origin")  # "null" is what a page in a sandbox sends: as foreign as any other
        own = (headers.get("host"), *self._names)
        if method not in _SAFE and origin is not None and origin.partition("://")[2] not in own:
            return Refusal(403, "wrong_origin", "Another site's page may not change anything here.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return too_large(f"The request is larger than the {most:,} bytes allowed. Send fewer files at a time.")
        return None


def _limited(receive: Receive, *, most: int) -> Receive:
    """Stop reading a body that grows past its limit, whatever its header promised, or that stops coming."""
    seen, whole = 0, False

    async def limited() -> Message:
        nonlocal seen, whole
        try:
            async with asyncio.timeout(None if whole else _BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            text = f"Nothing more of the request came for {_BODY_SECONDS:.0f} seconds. Send it again."
            raise Refusal(408, "too_slow", text) from None
        whole = not message.get("more_body", False)
        seen += len(message.get("body", b""))
        if seen > most:
            raise too_large(f"The request is larger than the {most:,} bytes allowed. Send fewer files at a time.")
        return message

    return limited


def _add_headers(headers: MutableHeaders, scope: Scope) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if scope["path"].startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")
    if scope.get("scheme") == "https":
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")


def _record_request(scope: Scope, status: int, seconds: float) -> None:
    """Count a request by its route, never by its address; whatever the caller makes up is "other"."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route, caller = getattr(scope.get("route"), "path", "unknown"), scope.get("state", {}).get("caller")
    room: Room = scope["app"].state.room
    room.measures.request(method=method, route=route, status=status, seconds=seconds)
    who = caller.account_id if caller else "-"
    LOG.info("%s %s %d %.0f ms account %s", method, route, status, 1000 * seconds, who)


def address_of(request: Request) -> str:
    """Return where a request comes from, for counting failed logins."""
    return request.client.host if request.client else ""
