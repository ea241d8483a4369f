"""Who may enter: accounts with Argon2 passwords, sessions of browsers, tokens of programs."""

import ipaddress
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import zxcvbn
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from ..errors import UnknownNameError, UsageError
from .audit_log import lock_log
from .database import (
    ADMIN,
    READER,
    ROLES,
    AccountRow,
    AttemptRow,
    Database,
    IdentityRow,
    LaboratoryRow,
    LoginRow,
    TokenRow,
    now,
)
from .refusals import Refusal, not_allowed, unknown_caller

FIRST_LABORATORY = "main"
LOCAL = "local"
"""Name of the one account, and its laboratory, of a machine that nobody else can call."""
SHORTEST_PASSWORD = 10  # characters; NIST SP 800-63B asks for 8 at least
LONGEST_PASSWORD = 500
TOKEN_DAYS = 90
LONGEST_TOKEN_DAYS = 365
_WEAKEST = 3  # of zxcvbn's 0 to 4: more than a hundred million guesses
_JUDGED = 72  # characters that zxcvbn looks at
_USED_SECONDS = 60  # how exactly it is known when a token was used last
_HASHER = PasswordHasher()  # RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes
_HASHING = threading.Lock()  # one hash at a time: each takes its 64 MiB
_WAITING = threading.BoundedSemaphore(9)  # one that is hashed and eight behind it; whoever comes then is refused
_NOBODY = _HASHER.hash(
    secrets.token_hex(16)
)  # a password is always checked, so that response times do not reveal names


@dataclass(frozen=True)
class Caller:
    """Whoever sends a request."""

    account_id: int
    name: str
    role: str
    laboratory_id: int
    laboratory: str
    scopes: tuple[str, ...] | None = None
    """What a token may do; None for a person, who may do what the role may."""
    password: bool = False
    """Whether the account has a password here."""
    csrf: str = ""
    """What an unsafe request must repeat; empty for programs, whom no other page can make send anything."""

    def may(self, role: str) -> bool:
        """Tell whether the caller's role reaches as far as another one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class PasswordRefusedError(UsageError):
    """A password that is too short, too long or easy to guess."""


def digest_of(secret: str) -> str:
    """Return what is stored of a secret that is random enough to need no slow hash."""
    return sha256(secret.encode()).hexdigest()


def laboratory_named(session: Session, name: str) -> LaboratoryRow:
    """Return a laboratory, making it when it is new."""
    found = session.scalar(select(LaboratoryRow).where(LaboratoryRow.name == name))
    if found is None:
        found = LaboratoryRow(name=name)
        session.add(found)
        session.flush()
    return found


def only_laboratory(session: Session) -> str:
    """Return the laboratory of a room that has one, 'main' where there is none yet.

    Raises:
        UsageError: there are several, so one has to be named.
    """
    names = session.scalars(select(LaboratoryRow.name).order_by(LaboratoryRow.name)).all()
    if len(names) > 1:
        raise UsageError(f"This room has the laboratories {', '.join(names)}. Choose one with --laboratory.")
    return names[0] if names else FIRST_LABORATORY


def add_account(session: Session, name: str, *, role: str, laboratory: str, password: str = "") -> AccountRow:
    """Make an account.

    Raises:
        UsageError: the name is taken.
        PasswordRefusedError: the password is too short, too long, or easy to guess.
        UnknownNameError: there is no such role.
    """
    if role not in ROLES:
        raise UnknownNameError("role", role, ROLES)
    hashed = hash_password(password, about=(name, laboratory)) if password else ""
    lock_log(session)  # so that of two who choose the same name the second finds the first
    if session.scalar(select(AccountRow.id).where(AccountRow.name == name)):
        raise UsageError(f"There is an account '{name}' already. Choose another name.")
    account = AccountRow(
        name=name, role=role, laboratory_id=laboratory_named(session, laboratory).id, password=hashed, active=True
    )
    session.add(account)
    session.flush()
    return account


def hash_password(password: str, *, about: Sequence[str] = ()) -> str:
    """Return the Argon2id hash of a password; `about` holds words that make a bad one, such as the account's name.

    Raises:
        PasswordRefusedError: it is too short, too long, or easy to guess.
        Refusal: too many passwords are being checked just now.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise PasswordRefusedError(f"A password needs {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
    judged = zxcvbn.zxcvbn(password[:_JUDGED], user_inputs=["leukoscope", "blast", *about])
    if judged["score"] < _WEAKEST:
        why = judged["feedback"]["warning"] or "It is easy to guess."
        raise PasswordRefusedError(f"This password is too weak. {why.rstrip('.')}. Take four or more unrelated words.")
    with _one_hash():
        return _HASHER.hash(password)


def password_matches(hashed: str, password: str) -> bool:
    """Tell whether a password has this hash; an empty hash takes as long, and never fits.

    Raises:
        Refusal: too many passwords are being checked just now.
    """
    with _one_hash():
        try:
            return _HASHER.verify(hashed or _NOBODY, password) and bool(hashed)
        except (VerificationError, InvalidHashError):
            return False


@contextmanager
def _one_hash() -> Iterator[None]:
    """Hash alone; refuse when too many wait, so that guesses fill neither the memory nor the threads that answer."""
    if not _WAITING.acquire(blocking=False):
        refusal = Refusal(503, "busy", "Too many passwords are being checked just now. Try again in a moment.")
        refusal.headers = {"Retry-After": "2"}
        raise refusal
    try:
        with _HASHING:
            yield
    finally:
        _WAITING.release()


def local_account(session: Session) -> AccountRow:
    """Return the account of whoever sits at this machine, making it the first time."""
    lock_log(session)
    found = session.scalar(select(AccountRow).where(AccountRow.name == LOCAL))
    return found or add_account(session, LOCAL, role=ADMIN, laboratory=LOCAL)


def lock_account(session: Session, account_id: int) -> AccountRow | None:
    """Return an account whose password and rights nobody else changes until this transaction ends."""
    return session.get(AccountRow, account_id, with_for_update={"key_share": True}, populate_existing=True)


def has_external_sign_in(session: Session, account_id: int) -> bool:
    """Tell whether an account is that of somebody who signs in through a provider, which also sets the role."""
    return session.scalar(select(IdentityRow.digest).where(IdentityRow.account_id == account_id)) is not None


def check_signed_in(session: Session, caller: Caller, *, role: str = READER) -> AccountRow:
    """Return the caller's account, locked, once it is sure that what was checked before the transaction still holds.

    Raises:
        Refusal: the caller has been signed out meanwhile (401), or has lost the role (403).
    """
    account = lock_account(session, caller.account_id)
    mine = (LoginRow.account_id == caller.account_id, LoginRow.csrf == caller.csrf, LoginRow.expires > now())
    signed_in = caller.scopes is not None or session.scalar(select(LoginRow.digest).where(*mine)) is not None
    if account is None or not account.active or not signed_in:
        raise unknown_caller()
    if ROLES.index(account.role) < ROLES.index(role):
        raise not_allowed(role)
    return account


def has_admin(session: Session) -> bool:
    """Tell whether anybody can log in with a password and make other accounts."""
    admins = select(func.count()).select_from(AccountRow)
    return bool(session.scalar(admins.where(AccountRow.role == ADMIN, AccountRow.active, AccountRow.password != "")))


def has_people(session: Session) -> bool:
    """Tell whether there is an account with a password."""
    return bool(session.scalar(select(func.count()).select_from(AccountRow).where(AccountRow.password != "")))


def open_session(session: Session, account: AccountRow, *, hours: float) -> tuple[str, str]:
    """Log an account in; return the cookie and the CSRF token."""
    cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    session.execute(delete(LoginRow).where(LoginRow.expires < now()))
    session.add(LoginRow(digest=digest_of(cookie), account_id=account.id, csrf=csrf, expires=_in(hours=hours)))
    return cookie, csrf


def revoke(session: Session, account_id: int, *, keep: str = "") -> None:
    """End an account's tokens and sessions, as when its password changes; `keep` is the cookie that stays."""
    session.execute(delete(TokenRow).where(TokenRow.account_id == account_id))
    close_sessions(session, account_id, keep=keep)


def close_sessions(session: Session, account_id: int, *, keep: str = "") -> None:
    """Log an account out everywhere, as when its role changes; `keep` is the cookie that stays."""
    session.execute(delete(LoginRow).where(LoginRow.account_id == account_id, LoginRow.digest != digest_of(keep)))


def caller_of_cookie(session: Session, cookie: str) -> Caller | None:
    """Return whose browser this is."""
    where = (LoginRow.digest == digest_of(cookie), LoginRow.expires > now(), AccountRow.active)
    query = select(AccountRow, LaboratoryRow.name, LoginRow.csrf).join(LaboratoryRow).join(LoginRow).where(*where)
    row = session.execute(query).first()
    return _caller(row[0], row[1], csrf=row[2]) if row else None


def caller_of_token(database: Database, token: str) -> Caller | None:
    """Return whose program this is, and note that its token was used."""
    where = (TokenRow.digest == digest_of(token), TokenRow.expires > now(), AccountRow.active)
    with database.reading() as session:
        query = (
            select(AccountRow, LaboratoryRow.name, TokenRow)
            .join(LaboratoryRow)
            .join(TokenRow, TokenRow.account_id == AccountRow.id)
        )
        row = session.execute(query.where(*where)).first()
    if row is None:
        return None
    if (row[2].last_used or "") < _in(hours=-_USED_SECONDS / 3600):
        with database.writing() as session:
            session.execute(update(TokenRow).where(TokenRow.id == row[2].id).values(last_used=now()))
    return _caller(row[0], row[1], scopes=tuple(row[2].scopes))


def add_token(
    session: Session, account_id: int, *, name: str, scopes: Sequence[str], days: int = TOKEN_DAYS
) -> tuple[TokenRow, str]:
    """Make an API token; its text is returned this once and never stored."""
    text = f"leuko_{secrets.token_urlsafe(32)}"
    may, until = sorted(set(scopes)), _in(hours=24 * days)
    token = TokenRow(account_id=account_id, name=name, digest=digest_of(text), scopes=may, expires=until)
    session.add(token)
    session.flush()
    return token, text


def tokens_of(session: Session, account_id: int) -> list[TokenRow]:
    """Return the tokens of an account that are still good, the oldest first."""
    query = select(TokenRow).where(TokenRow.account_id == account_id, TokenRow.expires > now())
    return list(session.scalars(query.order_by(TokenRow.id)))


def deactivate(session: Session, account_id: int) -> None:
    """Take an account's right to enter: its sessions and tokens end at once."""
    session.execute(update(AccountRow).where(AccountRow.id == account_id).values(active=False))
    revoke(session, account_id)


def _caller(account: AccountRow, laboratory: str, *, scopes: tuple[str, ...] | None = None, csrf: str = "") -> Caller:
    own = bool(account.password)
    return Caller(account.id, account.name, account.role, account.laboratory_id, laboratory, scopes, own, csrf)


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
    """Delays for whoever guesses passwords, for each pair of name and address; a stranger can lock nobody out.

    A guess is noted before it is checked, so that many at once are counted too. After `most` wrong ones of a name from
    an address, that address waits with that name: four seconds, after the next wrong guess eight, and so on up to five
    minutes. An address that guesses at many names waits with every name that has never signed in from it.
    Names and addresses are stored as hashes, in the database, so that several processes share the counts.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def begin(self, database: Database, *, name: str, address: str) -> None:
        """Note a guess that is about to be checked.

        Raises:
            Refusal: this name and address have to wait (429), for as long as its header Retry-After states.
        """
        with database.reading() as session:
            self._check(session, name, address)
        with database.writing() as session:
            lock_log(session)
            self._check(session, name, address)
            session.execute(
                delete(AttemptRow).where(AttemptRow.time <= time.time() - _FORGOTTEN, AttemptRow.key.not_like("=%"))
            )
            session.execute(delete(AttemptRow).where(AttemptRow.time <= time.time() - _STRANGER))
            session.add_all(AttemptRow(key=key, time=time.time()) for key in (_pair(name, address), _address(address)))

    def _check(self, session: Session, name: str, address: str) -> None:
        wait = self._wait(session, _pair(name, address), most=self._most, longest=_LONGEST_WAIT)
        if session.scalar(select(AttemptRow.id).where(AttemptRow.key == _known(name, address)).limit(1)) is None:
            all_ = self._wait(session, _address(address), most=_NAMES * self._most, longest=_LONGEST_WAIT / 10)
            wait = max(wait, all_)
        if wait > 0:
            refusal = Refusal(429, "too_many_attempts", f"Too many wrong passwords. Wait {int(wait) + 1} seconds.")
            refusal.headers = {"Retry-After": str(int(wait) + 1)}
            raise refusal

    def _wait(self, session: Session, key: str, *, most: int, longest: float) -> float:
        since = time.time() - _FORGOTTEN
        query = select(func.count(), func.max(AttemptRow.time)).where(AttemptRow.key == key, AttemptRow.time > since)
        count, last = session.execute(query).one()
        if count < most:
            return 0.0
        return float(last + min(_FIRST_WAIT * 2.0 ** min(count - most, 20), longest) - time.time())

    def right(self, session: Session, *, name: str, address: str) -> None:
        """Forget the wrong guesses of somebody who is in, and remember that the name signs in from here."""
        known = _known(name, address)
        mine = select(func.max(AttemptRow.id)).where(AttemptRow.key == _address(address)).scalar_subquery()
        session.execute(
            delete(AttemptRow).where(AttemptRow.key.in_([_pair(name, address), known]) | (AttemptRow.id == mine))
        )
        session.add(AttemptRow(key=known, time=time.time()))


_FORGOTTEN = 3600  # seconds after which a wrong guess no longer counts
_STRANGER = 90 * 86400  # seconds after which an address that a name has signed in from is strange again
_FIRST_WAIT, _LONGEST_WAIT = 4.0, 300.0  # seconds
_NAMES = 5  # times as many wrong guesses as at one name an address has for all names


def _pair(name: str, address: str) -> str:
    return digest_of(f"{name}\0{_network(address)}")


def _address(address: str) -> str:
    return digest_of(_network(address))


def _known(name: str, address: str) -> str:
    return f"={digest_of(f'known {name}' + chr(0) + _network(address))[:63]}"


def _network(address: str) -> str:
    """Return an address, or the network of an IPv6 address, of which everybody has billions.

    >>> _network("192.0.2.7"), _network("2001:db8:1:2:3::4"), _network("testclient")
    ('192.0.2.7', '2001:db8:1:2::/64', 'testclient')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{found}/64", strict=False)) if found.version == 6 else str(found)
