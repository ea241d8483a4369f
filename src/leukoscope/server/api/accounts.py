"""Accounts, API tokens and the audit log."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ...errors import DataError, UsageError
from ..accounts import (
    Caller,
    account_with_password,
    add_account,
    add_token,
    caller_of_cookie,
    close_sessions,
    deactivate,
    digest_of,
    hash_password,
    local_account,
    open_session,
)
from ..audit_log import Who
from ..refusals import Refusal, not_found
from ..room import Room
from ..security import COOKIE, Admin, Me, TheRoom, address_of, secure_cookies
from ..tables import Account, Entry, Laboratory, Login, Token, now
from .words import LARGEST, Answer, Body, Id, Name, Password, Word

router = APIRouter(tags=["accounts"])
Role = Literal["reader", "reviewer", "admin"]


class NewToken(Body):
    """An API token to make."""

    name: Name
    days: Annotated[int, Field(ge=1, le=3650)] = 365


class NewAccount(Body):
    """An account to make; its laboratory is that of whoever makes it."""

    name: Name
    password: Password
    role: Role = "reader"
    laboratory: Name | None = None


class Change(Body):
    """What changes of an account."""

    role: Role | None = None
    active: bool | None = None
    password: Password | None = None


def who(me: Caller) -> Who:
    """Return a caller as the audit log names it."""
    return Who(me.name, me.laboratory_id)


@router.get("/tokens")
def tokens(me: Me, room: TheRoom) -> Answer:
    """List the caller's own API tokens."""
    with room.database.reading() as session:
        query = select(Token).where(Token.account_id == me.account_id, Token.expires > now()).order_by(Token.id)
        rows = session.scalars(query)
        listed = [{"id": row.id, "name": row.name, "created": row.created, "expires": row.expires} for row in rows]
    return {"tokens": listed}


@router.post("/tokens", status_code=201)
def make_token(me: Me, room: TheRoom, new: NewToken) -> Answer:
    """Make an API token for the caller; it is shown this once."""
    with room.database.writing() as session:
        token, text = add_token(session, me.account_id, name=new.name, days=new.days)
        room.log.add(session, who(me), "made token", kind="token", item=token.id)
    return {"id": token.id, "name": token.name, "token": text, "expires": token.expires}


@router.delete("/tokens/{token_id}")
def end_token(me: Me, room: TheRoom, token_id: Id) -> Answer:
    """End one of the caller's API tokens."""
    with room.database.writing() as session:
        token = session.get(Token, token_id)
        if token is None or token.account_id != me.account_id:
            raise not_found("token", token_id)
        session.delete(token)
        room.log.add(session, who(me), "ended token", kind="token", item=token_id)
    return {"ended": token_id}


@router.get("/accounts")
def accounts(me: Admin, room: TheRoom) -> Answer:
    """List the accounts of the caller's laboratory."""
    with room.database.reading() as session:
        query = select(Account, Laboratory.name).join(Laboratory).where(Account.laboratory_id == me.laboratory_id)
        return {"accounts": [_described(*row) for row in session.execute(query.order_by(Account.id))]}


@router.post("/accounts", status_code=201)
def make_account(me: Admin, room: TheRoom, new: NewAccount) -> Answer:
    """Make an account in the caller's laboratory."""
    if new.laboratory not in (None, me.laboratory):
        text = f"Your accounts belong to {me.laboratory}. Make others with leukoscope accounts add on the server."
        raise Refusal(403, "other_laboratory", text)
    hash_password(new.password)  # refused before anything is locked
    with room.database.writing() as session:
        try:
            made = add_account(session, new.name, role=new.role, laboratory=me.laboratory, password=new.password)
        except UsageError as taken:
            raise Refusal(409, "name_taken", str(taken)) from None
        room.log.add(session, who(me), "made account", kind="account", item=made.id, role=new.role)
    return _described(made, me.laboratory)


@router.patch("/accounts/{account_id}")
def change_account(me: Admin, room: TheRoom, account_id: Id, change: Change) -> Answer:
    """Change role, password or the right to enter of an account; its sessions end."""
    hashed = hash_password(change.password) if change.password else None
    with room.database.writing() as session:
        account = session.get(Account, account_id)
        if account is None or account.laboratory_id != me.laboratory_id:
            raise not_found("account", account_id)
        if account.id == me.account_id and (change.active is False or change.role not in (None, account.role)):
            raise Refusal(409, "own_account", "You cannot take your own rights. Ask another admin.")
        account.role, account.password = change.role or account.role, hashed or account.password
        if change.active is not None:
            account.active = change.active
        _end_sessions(session, account, me)
        fields = sorted(change.model_dump(exclude_none=True))
        room.log.add(session, who(me), "changed account", kind="account", item=account.id, fields=fields)
    return _described(account, me.laboratory)


def _end_sessions(session: Session, account: Account, me: Caller) -> None:
    if not account.active:
        deactivate(session, account.id)
    elif account.id != me.account_id:
        close_sessions(session, account.id)


def _described(account: Account, laboratory: str) -> Answer:
    return {
        "id": account.id, "name": account.name, "role": account.role, "laboratory": laboratory,
        "active": account.active, "created": account.created,
    }  # fmt: skip


@router.get("/audit-log")
def audit_log(
    me: Admin, room: TheRoom, offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Answer:  # fmt: skip
    """List what was done in the caller's laboratory, the latest first, and whether the whole log is intact."""
    with room.database.reading() as session:
        own = Entry.laboratory_id == me.laboratory_id
        total = session.scalar(select(func.count()).select_from(Entry).where(own))
        rows = session.scalars(select(Entry).where(own).order_by(Entry.number.desc()).offset(offset).limit(limit))
        entries = [
            {
                "number": row.number, "time": row.time, "account": row.account, "action": row.action,
                "kind": row.kind, "item": row.item, "detail": row.detail, "hash": row.hash,
            }
            for row in rows
        ]  # fmt: skip
        try:
            room.log.verify(session)
            intact, problem = True, ""
        except DataError as broken:
            intact, problem = False, str(broken)
    return {"total": total, "entries": entries, "intact": intact, "problem": problem}


sessions = APIRouter(prefix="/session", tags=["session"])


class SignIn(Body):
    """Either the one-time token of the start, or name and password."""

    token: Word = ""
    name: Name | None = None
    password: Password | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "SignIn":
        if bool(self.token) == bool(self.name and self.password):
            raise ValueError("send either token, or name and password")
        return self


@sessions.post("")
def sign_in(entry: SignIn, request: Request, response: Response, room: TheRoom) -> Answer:
    """Sign in with the one-time token of the start or with name and password; sets the cookie."""
    keys = (f"address {address_of(request)}", *([f"name {entry.name}"] if entry.name else []))
    with room.database.reading() as session:
        room.attempts.check(session, *keys)
    hours = room.settings.session_hours
    with room.database.writing() as session:
        account = _entering(entry, room)
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
    return _described_caller(caller, csrf)


def _entering(entry: SignIn, room: Room) -> Account | None:
    with room.database.reading() as session:
        if entry.token:
            fits = room.token is not None and room.token.take(entry.token)
            return local_account(session) if fits else None
        return account_with_password(session, entry.name or "", entry.password or "")


def _wrong(entry: SignIn) -> Refusal:
    if entry.token:
        text = "This token is wrong, or was used before. Start leukoscope serve again for a new one."
        return Refusal(401, "wrong_token", text)
    return Refusal(401, "wrong_password", "Name or password is wrong. Try again, or ask who makes the accounts.")


@sessions.get("")
def who_am_i(me: Me) -> Answer:
    """Return the account, and the CSRF token that unsafe requests must repeat."""
    return _described_caller(me, me.csrf)


@sessions.delete("")
def sign_out(me: Me, request: Request, response: Response, room: TheRoom) -> Answer:
    """End this browser's session."""
    with room.database.writing() as session:
        login = session.get(Login, digest_of(request.cookies.get(COOKIE, "")))
        if login:
            session.delete(login)
        room.log.add(session, Who(me.name, me.laboratory_id), "signed out", kind="session")
    response.delete_cookie(COOKIE, path="/")
    return {"signed_out": True}


def _described_caller(caller: Caller, csrf: str) -> Answer:
    account = {"id": caller.account_id, "name": caller.name, "role": caller.role, "laboratory": caller.laboratory}
    return {"account": account, "csrf": csrf}
