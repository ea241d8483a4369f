"""Accounts, API tokens, the audit log; signing in with a password, or through the hospital's own provider."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import Field, model_validator
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from ...errors import DataError, UsageError
from ..accounts import (
    LOCAL,
    LONGEST_TOKEN_DAYS,
    TOKEN_DAYS,
    Caller,
    PasswordRefusedError,
    add_account,
    add_token,
    caller_of_cookie,
    check_signed_in,
    close_sessions,
    deactivate,
    digest_of,
    has_external_sign_in,
    hash_password,
    lock_account,
    open_session,
    password_matches,
    revoke,
    tokens_of,
)
from ..audit_log import Actor
from ..database import ADMIN, BLIND, AccountRow, AuditEntryRow, CaseRow, IdentityRow, LaboratoryRow, LoginRow, TokenRow
from ..oidc import (
    BEGUN_SECONDS,
    NoRole,
    PendingSignIn,
    Person,
    Provider,
    SignInProblem,
    account_of,
    end_rights,
    path_within,
)
from ..refusals import LARGEST, Answer, Id, Name, Password, Refusal, RequestBody, Word, not_found, try_again
from ..room import Room
from ..security import COOKIE, Admin, CurrentRoom, Me, address_of, secure_cookies

router = APIRouter(tags=["accounts"])
Role = Literal["reader", "reviewer", "admin"]
Scope = Literal["read", "upload", "review"]


class NewToken(RequestBody):
    """An API token to make."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3)] = ("read",)
    """What it may do: look; make cases and send images; review, redraw, sign off and delete."""
    days: Annotated[int, Field(ge=1, le=LONGEST_TOKEN_DAYS)] = TOKEN_DAYS


class NewAccount(RequestBody):
    """An account to make; its laboratory is that of whoever makes it."""

    name: Name
    password: Password
    role: Role = "reader"
    laboratory: Name | None = None


class AccountChange(RequestBody):
    """What changes of an account."""

    role: Role | None = None
    active: bool | None = None
    password: Password | None = None


def who(me: Caller) -> Actor:
    """Return a caller as the audit log names it."""
    return Actor(me.name, me.laboratory_id)


@router.get("/tokens")
def tokens(me: Me, room: CurrentRoom) -> Answer:
    """List the caller's own API tokens."""
    with room.database.reading() as session:
        return {"tokens": [_described_token(row) for row in tokens_of(session, me.account_id)]}


def _described_token(token: TokenRow) -> Answer:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "created": token.created,
        "expires": token.expires,
        "last_used": token.last_used,
    }


@router.post("/tokens", status_code=201)
def make_token(me: Me, room: CurrentRoom, new: NewToken) -> Answer:
    """Make an API token for the caller; it is shown this once."""
    with room.database.writing() as session:
        check_signed_in(session, me)  # a new password ends all tokens, also one that is made at the same moment
        token, text = add_token(session, me.account_id, name=new.name, scopes=new.scopes, days=new.days)
        detail = {"scopes": token.scopes, "days": new.days}
        room.log.add(session, who(me), "made token", kind="token", item=token.id, **detail)
    return _described_token(token) | {"token": text}


@router.delete("/tokens/{token_id}")
def end_token(me: Me, room: CurrentRoom, token_id: Id) -> Answer:
    """End one of the caller's API tokens; an admin ends those of the whole laboratory."""
    with room.database.writing() as session:
        token = session.get(TokenRow, token_id)
        owner = session.get(AccountRow, token.account_id) if token else None
        mine = owner is not None and owner.id == me.account_id
        if token is None or owner is None or not (mine or (me.may(ADMIN) and owner.laboratory_id == me.laboratory_id)):
            raise not_found("token", token_id)
        session.delete(token)
        room.log.add(session, who(me), "ended token", kind="token", item=token_id)
    return {"ended": token_id}


@router.get("/accounts")
def accounts(me: Admin, room: CurrentRoom) -> Answer:
    """List the accounts of the caller's laboratory."""
    with room.database.reading() as session:
        query = (
            select(AccountRow, LaboratoryRow.name)
            .join(LaboratoryRow)
            .where(AccountRow.laboratory_id == me.laboratory_id)
        )
        elsewhere = set(session.scalars(select(IdentityRow.account_id)))
        return {
            "accounts": [
                _described(*row)
                | {"elsewhere": row[0].id in elsewhere}
                | {"tokens": [_described_token(token) for token in tokens_of(session, row[0].id)]}
                for row in session.execute(query.order_by(AccountRow.id)).all()
            ]
        }


@router.post("/accounts", status_code=201)
def make_account(me: Admin, room: CurrentRoom, new: NewAccount) -> Answer:
    """Make an account in the caller's laboratory."""
    if new.laboratory not in (None, me.laboratory):
        text = f"Your accounts belong to {me.laboratory}. Make others with leukoscope accounts add on the server."
        raise Refusal(403, "other_laboratory", text)
    with room.database.writing() as session:
        check_signed_in(session, me, role=ADMIN)
        try:
            made = add_account(session, new.name, role=new.role, laboratory=me.laboratory, password=new.password)
        except PasswordRefusedError:
            raise
        except UsageError as taken:
            raise Refusal(409, "name_taken", str(taken)) from None
        room.log.add(session, who(me), "made account", kind="account", item=made.id, role=new.role)
    return _described(made, me.laboratory)


@router.patch("/accounts/{account_id}")
def change_account(me: Admin, room: CurrentRoom, request: Request, account_id: Id, change: AccountChange) -> Answer:
    """Change role, password or the right to enter of an account; its sessions end, with the password its tokens too."""
    hashed = hash_password(change.password) if change.password else None
    with room.database.writing() as session:
        account = _locked(session, me, account_id)
        if account is None or account.laboratory_id != me.laboratory_id:
            raise not_found("account", account_id)
        if account.id == me.account_id and (change.active is False or change.role not in (None, account.role)):
            raise Refusal(409, "own_account", "You cannot take your own rights. Ask another admin.")
        if (change.role or change.password) and has_external_sign_in(session, account_id):
            text = f"{account.name} signs in elsewhere, where role and password are changed. Here it can be closed."
            raise Refusal(409, "signs_in_elsewhere", text)
        account.role, account.password = change.role or account.role, hashed or account.password
        if change.active is not None:
            account.active = change.active
        _end_sessions(session, account, me, request, all_=hashed is not None)
        fields = sorted(change.model_dump(exclude_none=True))
        room.log.add(session, who(me), "changed account", kind="account", item=account.id, fields=fields)
    return _described(account, me.laboratory)


def _locked(session: Session, me: Caller, account_id: int) -> AccountRow | None:
    """Return an account to change; the caller's and it are locked in one order, so that two never wait for each other.

    Of two admins who take each other's rights at the same moment, the second no longer has any.
    """
    found = [lock_account(session, each) for each in sorted({me.account_id, account_id})]
    check_signed_in(session, me, role=ADMIN)
    return next((each for each in found if each is not None and each.id == account_id), None)


def _end_sessions(session: Session, account: AccountRow, me: Caller, request: Request, *, all_: bool) -> None:
    own = request.cookies.get(COOKIE, "") if account.id == me.account_id else ""
    if not account.active:
        deactivate(session, account.id)
    elif all_:
        revoke(session, account.id, keep=own)
    else:
        close_sessions(session, account.id, keep=own)


def _described(account: AccountRow, laboratory: str) -> Answer:
    return {
        "id": account.id,
        "name": account.name,
        "role": account.role,
        "laboratory": laboratory,
        "active": account.active,
        "created": account.created,
    }


@router.get("/audit-log")
def audit_log(
    me: Admin,
    room: CurrentRoom,
    offset: Annotated[int, Query(ge=0, le=LARGEST)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Answer:
    """List what was done in the caller's laboratory, the latest first, and whether the whole log is intact.

    Numbers are those of the laboratory, without gaps. The answers of others in a case that is read blind are shown once
    its readers have finished.
    """
    with room.database.reading() as session:
        own = AuditEntryRow.laboratory_id == me.laboratory_id
        total = session.scalar(select(func.count()).select_from(AuditEntryRow).where(own))
        rows = session.scalars(
            select(AuditEntryRow).where(own).order_by(AuditEntryRow.line.desc()).offset(offset).limit(limit)
        ).all()
        blind = select(CaseRow.id).where(CaseRow.laboratory_id == me.laboratory_id, CaseRow.phase.in_(BLIND))
        cases = set(session.scalars(blind))
        entries = [
            {
                "number": row.line,
                "time": row.time,
                "account": row.account,
                "action": row.action,
                "kind": row.kind,
                "item": row.item,
                "hash": row.hash,
                "detail": _visible_detail(me, row, blind=row.detail.get("case") in cases),
            }
            for row in rows
        ]
        try:
            room.log.verify(session)
            intact, problem = True, ""
        except DataError as broken:
            intact, problem = False, str(broken)
    return {"total": total, "entries": entries, "intact": intact, "problem": problem}


_ANSWERS = ("label", "old", "old_reader")


def _visible_detail(me: Caller, row: AuditEntryRow, *, blind: bool) -> dict[str, Any]:
    """Return the detail of a line, without the answer where its case is read blind and somebody else gave it."""
    if not blind or row.account == me.name:
        return row.detail
    return {name: "hidden" if name in _ANSWERS else value for name, value in row.detail.items()}


session_router = APIRouter(prefix="/session", tags=["session"])


class SignIn(RequestBody):
    """Either the one-time token of the start, or name and password."""

    token: Word = ""
    name: Name | None = None
    password: Password | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "SignIn":
        if bool(self.token) == bool(self.name and self.password):
            raise ValueError("send either token, or name and password")
        return self


class NewPassword(RequestBody):
    """One's own password, and what it is to be."""

    password: Password
    new: Password


@session_router.post("")
def sign_in(entry: SignIn, request: Request, response: Response, room: CurrentRoom) -> Answer:
    """Sign in with the one-time token of the start or with name and password; sets the cookie."""
    hours, guess = room.settings.session_hours, {"name": entry.name or "", "address": address_of(request)}
    room.attempts.begin(room.database, **guess)
    found = _account_of(entry, room)  # slow, so outside every transaction
    with room.database.writing() as session:
        account = lock_account(session, found.id) if found else None
        right = found is not None and account is not None and account.active and account.password == found.password
        if account is None or not right:
            room.log.add(session, Actor("nobody"), "sign-in failed", kind="session")
            caller = None
        else:
            room.attempts.right(session, **guess)
            cookie, csrf = open_session(session, account, hours=hours)
            room.log.add(session, Actor(account.name, account.laboratory_id), "signed in", kind="session")
            caller = caller_of_cookie(session, cookie)
    if caller is None:
        raise _wrong(entry)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(hours * 3600),
        httponly=True,
        samesite="strict",
        path="/",
        secure=secure_cookies(request, room.settings),
    )
    return _described_caller(caller, csrf)


def _account_of(entry: SignIn, room: Room) -> AccountRow | None:
    """Return whose password or token this is; a name that nobody has takes as long as one that somebody has."""
    with room.database.reading() as session:
        if entry.token:
            right = room.token is not None and room.token.take(entry.token)
            return session.scalar(select(AccountRow).where(AccountRow.name == LOCAL)) if right else None
        account = session.scalar(select(AccountRow).where(AccountRow.name == entry.name, AccountRow.active))
    return account if password_matches(account.password if account else "", entry.password or "") else None


@session_router.put("/password")
def change_password(me: Me, room: CurrentRoom, request: Request, change: NewPassword) -> Answer:
    """Change one's own password; every other session and every API token of the account ends."""
    guess = {"name": me.name, "address": address_of(request)}
    room.attempts.begin(room.database, **guess)
    with room.database.reading() as session:
        before = session.get_one(AccountRow, me.account_id).password
    if not password_matches(before, change.password):
        raise Refusal(403, "wrong_password", "The old password is wrong. Try again, or ask an admin for a new one.")
    hashed = hash_password(change.new, about=(me.name, me.laboratory))
    with room.database.writing() as session:
        changed = update(AccountRow).where(AccountRow.id == me.account_id, AccountRow.password == before)
        if session.execute(changed.values(password=hashed)).rowcount != 1:  # type: ignore[attr-defined]
            raise try_again()
        room.attempts.right(session, **guess)
        revoke(session, me.account_id, keep=request.cookies.get(COOKIE, ""))
        room.log.add(session, who(me), "changed password", kind="account", item=me.account_id)
    return {"changed": True}


def _wrong(entry: SignIn) -> Refusal:
    if entry.token:
        text = "This token is wrong, or was used before. Start leukoscope serve again for a new one."
        return Refusal(401, "wrong_token", text)
    return Refusal(401, "wrong_password", "Name or password is wrong. Try again, or ask who makes the accounts.")


@session_router.get("")
def who_am_i(me: Me) -> Answer:
    """Return the account, and the CSRF token that unsafe requests must repeat."""
    return _described_caller(me, me.csrf)


@session_router.delete("")
def sign_out(me: Me, request: Request, response: Response, room: CurrentRoom) -> Answer:
    """End this browser's session."""
    with room.database.writing() as session:
        login = session.get(LoginRow, digest_of(request.cookies.get(COOKIE, "")))
        if login:
            session.delete(login)
        room.log.add(session, Actor(me.name, me.laboratory_id), "signed out", kind="session")
    response.delete_cookie(COOKIE, path="/")
    return {"signed_out": True}


def _described_caller(caller: Caller, csrf: str) -> Answer:
    account = {
        "id": caller.account_id,
        "name": caller.name,
        "role": caller.role,
        "laboratory": caller.laboratory,
        "password": caller.password,
    }
    return {"account": account, "csrf": csrf}


# --- signing in through the hospital's own provider -------------------------------------------------------------------


provider_router = APIRouter(prefix="/session/oidc", tags=["session"])
_COOKIE = "leukoscope_oidc"
_REDIRECTS: dict[int | str, dict[str, Any]] = {
    303: {"description": "On to the provider, the room, or back to the sign-in page with ?problem="}
}
_LONGEST = 4000  # characters of what a provider sends back


@provider_router.get("", status_code=303, response_class=RedirectResponse, responses=_REDIRECTS)
def begin(request: Request, room: CurrentRoom, then: Annotated[str, Query(max_length=300)] = "/") -> RedirectResponse:
    """Send a browser to the provider; `then` is the path of the room to come back to."""
    begun = PendingSignIn(then=path_within(then))
    try:
        answer = _redirect(provider_of(room).address_for(begun))
    except SignInProblem as problem:
        return _to_login(problem.code)
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


@provider_router.get("/callback", status_code=303, response_class=RedirectResponse, responses=_REDIRECTS)
def callback(request: Request, room: CurrentRoom) -> RedirectResponse:
    """Verify the provider's answer and sign the browser in; failures are rate-limited like passwords."""
    kept = cookie_name(request, room)
    try:
        answer = _signed_in(request, room, PendingSignIn.of(request.cookies.get(kept, "")))
    except SignInProblem as problem:
        answer = _to_login(problem.code)
    except Refusal as refusal:
        if refusal.status != 429:
            raise
        answer = _to_login("wait")
    answer.delete_cookie(kept, path="/", secure=secure_cookies(request, room.settings), httponly=True)
    return answer


def _signed_in(request: Request, room: Room, begun: PendingSignIn | None) -> RedirectResponse:
    known, guess = provider_of(room), {"name": "\0oidc", "address": address_of(request)}
    room.attempts.begin(room.database, **guess)
    try:
        if begun is None:
            raise SignInProblem("stale", "this browser has begun no sign-in, or too long ago")
        person = known.person(begun, _given(request.query_params))
        cookie = _open(room, person, guess)
    except SignInProblem as problem:
        with room.database.writing() as session:
            ended = end_rights(session, problem.identity) if isinstance(problem, NoRole) else None
            room.log.add(session, Actor("nobody"), "sign-in failed", kind="session", why=problem.code, account=ended)
        raise
    answer = _redirect(begun.then)
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
        who = Actor(account.name, account.laboratory_id)
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


def _redirect(address: str) -> RedirectResponse:
    return RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})


def _to_login(problem: str) -> RedirectResponse:
    return _redirect(f"/login?{urlencode({'problem': problem})}")
