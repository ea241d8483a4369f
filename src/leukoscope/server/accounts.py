"""Who may enter: accounts with Argon2 passwords, sessions of browsers, tokens of programs."""

import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from ..errors import UnknownNameError, UsageError
from .refusals import Refusal
from .tables import ADMIN, ROLES, Account, Attempt, Laboratory, Login, Token, now

LOCAL = "local"
"""Name of the one account, and its laboratory, of a machine that nobody else can call."""
SHORTEST_PASSWORD = 10  # characters; NIST SP 800-63B asks for 8 at least
LONGEST_PASSWORD = 500
_WINDOW_SECONDS = 300
_HASHER = PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes
_NOBODY = _HASHER.hash(secrets.token_hex(16))  # a password is always checked, so that time tells nothing of names


@dataclass(frozen=True)
class Caller:
    """Whoever sends a request."""

    account_id: int
    name: str
    role: str
    laboratory_id: int
    laboratory: str
    csrf: str = ""
    """What an unsafe request must repeat; empty for programs, whom no other page can make send anything."""

    def may(self, role: str) -> bool:
        """Tell whether the caller's role reaches as far as another one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def digest_of(secret: str) -> str:
    """Return what is stored of a secret that is random enough to need no slow hash."""
    return sha256(secret.encode()).hexdigest()


def laboratory_named(session: Session, name: str) -> Laboratory:
    """Return a laboratory, making it when it is new."""
    found = session.scalar(select(Laboratory).where(Laboratory.name == name))
    if found is None:
        found = Laboratory(name=name)
        session.add(found)
        session.flush()
    return found


def add_account(session: Session, name: str, *, role: str, laboratory: str, password: str = "") -> Account:
    """Make an account.

    Raises:
        UsageError: the name is taken, or the password is too short.
        UnknownNameError: there is no such role.
    """
    if role not in ROLES:
        raise UnknownNameError("role", role, ROLES)
    if session.scalar(select(Account.id).where(Account.name == name)):
        raise UsageError(f"There is an account '{name}' already. Choose another name.")
    hashed = hash_password(password) if password else ""
    account = Account(
        name=name, role=role, laboratory_id=laboratory_named(session, laboratory).id, password=hashed, active=True
    )
    session.add(account)
    session.flush()
    return account


def hash_password(password: str) -> str:
    """Return the Argon2id hash of a password.

    Raises:
        UsageError: it is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UsageError(f"A password needs {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
    return _HASHER.hash(password)


def account_with_password(session: Session, name: str, password: str) -> Account | None:
    """Return the active account that has this name and password."""
    account = session.scalar(select(Account).where(Account.name == name, Account.active))
    try:
        _HASHER.verify(account.password if account and account.password else _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return None
    return account if account and account.password else None


def local_account(session: Session) -> Account:
    """Return the account of whoever sits at this machine, making it the first time."""
    found = session.scalar(select(Account).where(Account.name == LOCAL))
    return found or add_account(session, LOCAL, role=ADMIN, laboratory=LOCAL)


def has_admin(session: Session) -> bool:
    """Tell whether anybody can log in with a password and make other accounts."""
    admins = select(func.count()).select_from(Account)
    return bool(session.scalar(admins.where(Account.role == ADMIN, Account.active, Account.password != "")))


def has_people(session: Session) -> bool:
    """Tell whether there is an account with a password."""
    return bool(session.scalar(select(func.count()).select_from(Account).where(Account.password != "")))


def open_session(session: Session, account: Account, *, hours: float) -> tuple[str, str]:
    """Log an account in; return the cookie and the CSRF token."""
    cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    session.execute(delete(Login).where(Login.expires < now()))
    session.add(Login(digest=digest_of(cookie), account_id=account.id, csrf=csrf, expires=_in(hours=hours)))
    return cookie, csrf


def close_sessions(session: Session, account_id: int) -> None:
    """Log an account out everywhere, as when its password or role changes."""
    session.execute(delete(Login).where(Login.account_id == account_id))


def caller_of_cookie(session: Session, cookie: str) -> Caller | None:
    """Return whose browser this is."""
    where = (Login.digest == digest_of(cookie), Login.expires > now(), Account.active)
    query = select(Account, Laboratory.name, Login.csrf).join(Laboratory).join(Login).where(*where)
    row = session.execute(query).first()
    return _caller(row[0], row[1], csrf=row[2]) if row else None


def caller_of_token(session: Session, token: str) -> Caller | None:
    """Return whose program this is."""
    where = (Token.digest == digest_of(token), Token.expires > now(), Account.active)
    row = session.execute(select(Account, Laboratory.name).join(Laboratory).join(Token).where(*where)).first()
    return _caller(row[0], row[1]) if row else None


def add_token(session: Session, account_id: int, *, name: str, days: int) -> tuple[Token, str]:
    """Make an API token; its text is returned this once and never stored."""
    text = f"leuko_{secrets.token_urlsafe(32)}"
    token = Token(account_id=account_id, name=name, digest=digest_of(text), expires=_in(hours=24 * days))
    session.add(token)
    session.flush()
    return token, text


def deactivate(session: Session, account_id: int) -> None:
    """Take an account's right to enter: its sessions and tokens end at once."""
    session.execute(update(Account).where(Account.id == account_id).values(active=False))
    session.execute(delete(Token).where(Token.account_id == account_id))
    close_sessions(session, account_id)


def _caller(account: Account, laboratory: str, *, csrf: str = "") -> Caller:
    return Caller(account.id, account.name, account.role, account.laboratory_id, laboratory, csrf)


def _in(*, hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="microseconds")


class OneTimeToken:
    """The token of the start: whoever can read the terminal may enter once."""

    def __init__(self) -> None:
        self.text = secrets.token_urlsafe(24)
        self._left: str | None = digest_of(self.text)
        self._lock = threading.Lock()

    def take(self, token: str) -> bool:
        """Tell whether this is the token, and never again."""
        with self._lock:
            fits = self._left is not None and secrets.compare_digest(digest_of(token), self._left)
            if fits:
                self._left = None
            return fits


class Attempts:
    """Failed logins by name and by address: after too many within five minutes, everybody of them has to wait.

    They stand in the database, so that several processes count together; names and addresses stand there as hashes.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def check(self, session: Session, *keys: str) -> None:
        """Refuse when any of the keys has failed too often.

        Raises:
            Refusal: with the seconds to wait.
        """
        since = time.time() - _WINDOW_SECONDS
        failed = select(func.count(), func.min(Attempt.time)).group_by(Attempt.key).order_by(func.count().desc())
        mine = (Attempt.key.in_([digest_of(key) for key in keys]), Attempt.time > since)
        most = session.execute(failed.where(*mine).limit(1)).first()
        if most and most[0] >= self._most:
            wait = int(most[1] - since) + 1
            refusal = Refusal(429, "too_many_attempts", f"Too many failed logins. Wait {wait} seconds.")
            refusal.headers = {"Retry-After": str(wait)}
            raise refusal

    def failed(self, session: Session, *keys: str) -> None:
        """Remember a failure, and forget those that no longer count."""
        session.execute(delete(Attempt).where(Attempt.time <= time.time() - _WINDOW_SECONDS))
        session.add_all(Attempt(key=digest_of(key), time=time.time()) for key in keys)
