"""Signing in and out."""

from fastapi import APIRouter, Request, Response
from pydantic import model_validator

from ..accounts import Caller, account_with_password, caller_of_cookie, digest_of, local_account, open_session
from ..audit_log import Who
from ..refusals import Refusal
from ..room import Room
from ..security import COOKIE, Me, TheRoom, address_of, secure_cookies
from ..tables import Account, Login
from .words import Answer, Body, Name, Password, Word

router = APIRouter(prefix="/session", tags=["session"])


class Entry(Body):
    """Either the one-time token of the start, or name and password."""

    token: Word = ""
    name: Name | None = None
    password: Password | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Entry":
        if bool(self.token) == bool(self.name and self.password):
            raise ValueError("send either token, or name and password")
        return self


@router.post("")
def sign_in(entry: Entry, request: Request, response: Response, room: TheRoom) -> Answer:
    """Sign in with the one-time token of the start or with name and password; sets the cookie."""
    keys = (f"address {address_of(request)}", *([f"name {entry.name}"] if entry.name else []))
    with room.database.reading() as session:
        room.attempts.check(session, *keys)
    hours = room.settings.session_hours
    with room.database.writing() as session:
        account = _account(entry, room)
        if account is None:
            room.attempts.failed(session, *keys)
            room.log.add(session, Who("nobody"), "sign-in failed", kind="session")
        else:
            cookie, csrf = open_session(session, account, hours=hours)
            room.log.add(session, Who(account.name, account.laboratory_id), "signed in", kind="session")
            caller = caller_of_cookie(session, cookie)
    if account is None or caller is None:
        raise _wrong(entry)
    response.set_cookie(
        COOKIE, cookie, max_age=int(hours * 3600), httponly=True, samesite="strict", path="/",
        secure=secure_cookies(request, room.settings),
    )  # fmt: skip
    return _described(caller, csrf)


def _account(entry: Entry, room: Room) -> Account | None:
    with room.database.reading() as session:
        if entry.token:
            fits = room.token is not None and room.token.take(entry.token)
            return local_account(session) if fits else None
        return account_with_password(session, entry.name or "", entry.password or "")


def _wrong(entry: Entry) -> Refusal:
    if entry.token:
        text = "This token is wrong, or was used before. Start leukoscope serve again for a new one."
        return Refusal(401, "wrong_token", text)
    return Refusal(401, "wrong_password", "Name or password is wrong. Try again, or ask who makes the accounts.")


@router.get("")
def who_am_i(me: Me) -> Answer:
    """Return the account, and the CSRF token that unsafe requests must repeat."""
    return _described(me, me.csrf)


@router.delete("")
def sign_out(me: Me, request: Request, response: Response, room: TheRoom) -> Answer:
    """End this browser's session."""
    with room.database.writing() as session:
        login = session.get(Login, digest_of(request.cookies.get(COOKIE, "")))
        if login:
            session.delete(login)
        room.log.add(session, Who(me.name, me.laboratory_id), "signed out", kind="session")
    response.delete_cookie(COOKIE, path="/")
    return {"signed_out": True}


def _described(caller: Caller, csrf: str) -> Answer:
    account = {"id": caller.account_id, "name": caller.name, "role": caller.role, "laboratory": caller.laboratory}
    return {"account": account, "csrf": csrf}
