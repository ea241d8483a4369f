"""The database: its tables, in SQLite beside the images for one machine or in PostgreSQL for a laboratory.

laboratories ─< accounts ─< logins (sessions of a browser), tokens (of a program), identities (OpenID Connect)
laboratories ─< cases ─< images ─< cells ─< predictions, reviews
cases ─ hospital_numbers;  cases ─< sendings (to the hospital's systems)
cases ─< readings (who reads a case, and how far they are)
laboratories ─< adaptations (models that were fitted to what a laboratory signed off)
images ─ jobs (the queue);  bundles (every model that has ever answered);  audit_log, chained by hash
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ..errors import LeukoscopeError, UsageError, require

Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only columns that are INTEGER

NOT_A_CELL, REMOVED, DRAWN = "not_a_cell", "removed", "drawn"
SHAPES = (REMOVED, DRAWN)
"""Labels of reviews that give no class: the cell was removed, or drawn in place of others."""
READER, REVIEWER, ADMIN = "reader", "reviewer", "admin"
ROLES = (READER, REVIEWER, ADMIN)
"""Each may do what those before it may."""
READ, UPLOAD, REVIEW = "read", "upload", "review"
SCOPES = (READ, UPLOAD, REVIEW)
"""What a token may do: look; make cases and send images; label cells, correct outlines, sign off, delete."""
OPEN, SIGNED = "open", "signed"
FREE, READING, THIRD, CONSENSUS, SETTLED = "free", "reading", "third", "consensus", "settled"
"""Phases of a case, as `readings` moves them; READING, THIRD and CONSENSUS are also the rounds of a review."""
BLIND = (READING, THIRD)
"""Phases in which nobody sees the answers of another reader."""
MOST_READERS = 3
QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
CROP, FIELD, SLIDE, DICOM = "crop", "field", "slide", "dicom"


def now() -> str:
    """Return the time in UTC as it is stored: 2026-01-31T12:00:00.123456+00:00, which sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        str: Text(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
        bytes: LargeBinary(),
    }


class LaboratoryRow(Base):
    """A group of people who see each other's cases and nobody else's."""

    __tablename__ = "laboratories"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created: Mapped[str] = mapped_column(default=now)
    readers: Mapped[int] = mapped_column(default=1)
    """Default of a new case, like the two below."""
    hide_model: Mapped[bool] = mapped_column(default=False)
    settling: Mapped[str] = mapped_column(String(20), default=CONSENSUS)
    counting: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What it set in the browser in the place of `serve --order`, `--goal` and `--key`: {"order", "goal", "keys"}."""
    bundle: Mapped[str] = mapped_column(String(64), default="")
    """Seal of the model that answers here; empty: the one that the room was opened with."""


class AccountRow(Base):
    """A person, or the single local account of a server that only its own machine can reach."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    laboratory_id: Mapped[int] = mapped_column(ForeignKey("laboratories.id"))
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    password: Mapped[str] = mapped_column(default="")
    """Argon2 hash; empty: nobody can log in with a password."""
    active: Mapped[bool] = mapped_column(default=True)
    created: Mapped[str] = mapped_column(default=now)


class IdentityRow(Base):
    """Links an account to an identity at an OpenID Connect provider: SHA-256 of issuer and subject."""

    __tablename__ = "identities"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), unique=True)
    created: Mapped[str] = mapped_column(default=now)


class LoginRow(Base):
    """A browser's session; the cookie itself is not stored, only its SHA-256."""

    __tablename__ = "logins"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[str] = mapped_column(default=now)
    expires: Mapped[str]


class AttemptRow(Base):
    """A failed login by name or address, of which only the SHA-256 is stored; deleted after minutes."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    time: Mapped[float]
    """Seconds since 1970."""
    __table_args__ = (Index("attempts_of", "key", "time"),)


class TokenRow(Base):
    """An API token of an account; only its SHA-256 is stored."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]] = mapped_column(default=list)
    """Subset of SCOPES; never more than its account may do."""
    created: Mapped[str] = mapped_column(default=now)
    expires: Mapped[str]
    last_used: Mapped[str | None]
    """Precise to the minute."""


class CaseRow(Base):
    """One patient's slide, or whatever a reader signs off as one."""

    __tablename__ = "cases"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    laboratory_id: Mapped[int] = mapped_column(ForeignKey("laboratories.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    subject: Mapped[str] = mapped_column(String(200), default="")
    state: Mapped[str] = mapped_column(String(20), default=OPEN)
    note: Mapped[str] = mapped_column(default="")
    """Note of the sign-off."""
    signed_by: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"))
    signed: Mapped[str | None]
    created_by: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    created: Mapped[str] = mapped_column(default=now)
    images_made: Mapped[int] = mapped_column(default=0)
    cells_made: Mapped[int] = mapped_column(default=0)
    """The next cell gets this number plus one."""
    version: Mapped[int] = mapped_column(default=1)
    """Incremented with each change of the case or anything in it; a sign-off names the version that was seen."""
    readers: Mapped[int] = mapped_column(default=1)
    """How many people read it, 1 to MOST_READERS; with more than one, each blind to the others."""
    hide_model: Mapped[bool] = mapped_column(default=False)
    """Whether they read blind to the model too."""
    settling: Mapped[str] = mapped_column(String(20), default=CONSENSUS)
    """How cells on which two readers disagree are settled: THIRD or CONSENSUS."""
    phase: Mapped[str] = mapped_column(String(20), default=FREE)


class HospitalNumbersRow(Base):
    """Identifiers of a case in the hospital's systems; kept out of the case, of logs, metrics and file names."""

    __tablename__ = "hospital_numbers"
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"), primary_key=True)
    patient_id: Mapped[str] = mapped_column(String(64), default="")
    accession: Mapped[str] = mapped_column(String(64), default="")
    order_number: Mapped[str] = mapped_column(String(64), default="")
    specimen: Mapped[str] = mapped_column(String(20), default="")


class SendingRow(Base):
    """One sign-off of a case on its way to one of the hospital's systems; what is sent lies in the folder `outgoing`.

    There is one for each sign-off and destination, however often somebody asks for it.
    """

    __tablename__ = "sendings"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    destination: Mapped[str] = mapped_column(String(80))
    signed: Mapped[str]
    """Time of the sign-off that is sent."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    created: Mapped[str] = mapped_column(default=now)
    finished: Mapped[str | None]
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    files: Mapped[int] = mapped_column(default=0)
    stored: Mapped[int] = mapped_column(default=0)
    """Number of the files that the other system has stored."""
    error: Mapped[str] = mapped_column(default="")
    """The message of the other system, or that it does not answer."""
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970 of the next attempt; during an attempt, when its lease ends."""
    owner: Mapped[str] = mapped_column(String(200), default="")
    __table_args__ = (UniqueConstraint("case_id", "destination", "signed"), Index("sendings_to_do", "state", "due"))


class ImageRow(Base):
    """An image of a case: one cell, a field, a slide. Its bytes lie in the store under `digest`, without metadata."""

    __tablename__ = "images"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    number: Mapped[int]
    name: Mapped[str]
    """What the user's file was called: shown and exported, never a path."""
    kind: Mapped[str] = mapped_column(String(20))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    identity: Mapped[str] = mapped_column(String(64), default="")
    """Digest of a DICOM source's header, which its results must carry; nothing else reads it."""
    width: Mapped[int]
    height: Mapped[int]
    um_per_px: Mapped[float | None]
    """Stated by the user or the file; after the analysis of a field, what was used."""
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    error: Mapped[str] = mapped_column(default="")
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """notes: what its reader did to the values of the file. Of a field: stain and scale, so that a cell added later is
    cut out like the others; when it was judged again."""
    created: Mapped[str] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("case_id", "number"), Index("images_by_state", "case_id", "state"))


class CellRow(Base):
    """One cell of an image, with its current prediction and label."""

    __tablename__ = "cells"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64), index=True)
    """Its crop in the store: the image itself, or what was cut out of a field."""
    box: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    outline: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    origin: Mapped[str] = mapped_column(String(20), default="model")
    """'model' or 'reader': who drew it."""
    version: Mapped[int] = mapped_column(default=1)
    """Incremented when it is redrawn, removed or restored; a review names the version that was seen."""
    removed: Mapped[bool] = mapped_column(default=False)
    prediction_id: Mapped[int | None] = mapped_column(Key)
    """The current prediction; its decision, type and probability are in the columns below."""
    decision: Mapped[str] = mapped_column(String(200), default="")
    type: Mapped[str] = mapped_column(String(200), default="")
    """Type of the cell, 'unsure' or 'smudge'; empty where there is none."""
    chance: Mapped[float | None]
    """Probability of the disease, or of the likeliest class with more than two; to sort by."""
    review_id: Mapped[int | None] = mapped_column(Key)
    label: Mapped[str] = mapped_column(String(200), default="")
    """Of the standing review; empty: not yet read, or not yet settled between its readers."""
    disputed: Mapped[bool] = mapped_column(default=False)
    """Whether its readers, when all had finished, did not all give the same label."""
    priority: Mapped[float] = mapped_column("need", default=0.0)
    """Sort key of `review_priority`, the most urgent cell first; the column is still called need."""
    turn: Mapped[int | None]
    """Position in the active-learning order, as last computed; None: not in it."""
    __table_args__ = (UniqueConstraint("case_id", "number"), Index("cells_by_need", "case_id", "need"))


class PredictionRow(Base):
    """The opinion of one bundle on one version of one cell; never changed."""

    __tablename__ = "predictions"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    cell_id: Mapped[int] = mapped_column(ForeignKey("cells.id", ondelete="CASCADE"))
    version: Mapped[int]
    bundle: Mapped[str] = mapped_column(String(64), ForeignKey("bundles.seal"))
    point: Mapped[str] = mapped_column(String(20))
    decision: Mapped[str] = mapped_column(String(200))
    called: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str]
    quality: Mapped[float | None]
    probabilities: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    type: Mapped[str] = mapped_column(String(200), default="")
    types: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Probability of each type; None where there are none."""
    evidence: Mapped[bytes | None]
    """Half-precision (height, width): for the disease, or for the called class with more than two."""
    evidence_height: Mapped[int] = mapped_column(default=0)
    embedding: Mapped[bytes | None]
    """Half-precision (channels,), of length one; empty where the cell was refused or not asked about."""
    created: Mapped[str] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("cell_id", "version", "bundle"),)


class ReviewRow(Base):
    """The label that one reader gave to one cell; withdrawn by `undone`, never deleted or overwritten."""

    __tablename__ = "reviews"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    cell_id: Mapped[int] = mapped_column(ForeignKey("cells.id", ondelete="CASCADE"), index=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    label: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(default="")
    created: Mapped[str] = mapped_column(default=now)
    undone: Mapped[bool] = mapped_column(default=False)
    round: Mapped[str] = mapped_column(String(20), default=READING)
    shown: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What its reader was shown: version of the cell, prediction of the model, reviews of others."""
    batch: Mapped[int | None] = mapped_column(Key)
    """Id of the first review of the same request; they are undone together. None for a single review."""
    __table_args__ = (Index("reviews_to_undo", "case_id", "account_id", "id"),)


class ReadingRow(Base):
    """One reader's place at a case; kept when it is released, as are the reviews."""

    __tablename__ = "readings"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    round: Mapped[str] = mapped_column(String(20), default=READING)
    """READING, or THIRD: of the cells on which two readers differ."""
    started: Mapped[str] = mapped_column(default=now)
    finished: Mapped[str | None]
    released: Mapped[str | None]
    """When the place was given back: its answers are kept and no longer count."""
    __table_args__ = (UniqueConstraint("case_id", "account_id"),)


class JobRow(Base):
    """One image to analyse: a row that a worker leases, and that another takes over when the lease runs out."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), unique=True)
    case_id: Mapped[int] = mapped_column(ForeignKey("cases.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(String(200), default="")
    leased_until: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970, by the worker's clock."""
    __table_args__ = (Index("jobs_to_do", "state", "kind", "id"),)


class BundleRow(Base):
    """The manifest of a bundle that has been used in this reading room."""

    __tablename__ = "bundles"
    seal: Mapped[str] = mapped_column(String(64), primary_key=True)
    manifest: Mapped[dict[str, Any]]
    first_served: Mapped[str] = mapped_column(default=now)


class AdaptationRow(Base):
    """A model that is, or was, fitted to the cells that a laboratory has signed off; leased by a worker like a job."""

    __tablename__ = "adaptations"
    id: Mapped[int] = mapped_column(Key, primary_key=True)
    laboratory_id: Mapped[int] = mapped_column(ForeignKey("laboratories.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    created: Mapped[str] = mapped_column(default=now)
    finished: Mapped[str | None]
    state: Mapped[str] = mapped_column(String(20), default=QUEUED)
    error: Mapped[str] = mapped_column(default="")
    cells: Mapped[int] = mapped_column(default=0)
    looked: Mapped[int] = mapped_column(default=0)
    """Number of the cells that have been processed."""
    present: Mapped[str] = mapped_column(String(64), default="")
    """Seal of the model that answered when it began, with which it is compared."""
    bundle: Mapped[str] = mapped_column(String(64), default="")
    """Seal of the model that came out; empty until it is done."""
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Figures of both on the same cells, as `adaptation.compare` gives them, and what was learned from."""
    subjects: Mapped[list[Any]] = mapped_column(default=list)
    """SHA-256 of each subject it was fitted on; it cannot be evaluated on them."""
    attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(String(200), default="")
    leased_until: Mapped[float] = mapped_column(default=0.0)
    """Seconds since 1970, by the worker's clock."""


class AuditEntryRow(Base):
    """One line of the audit log: who did what to what. Names of patients and files are never in it."""

    __tablename__ = "audit_log"
    number: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)
    time: Mapped[str]
    account: Mapped[str] = mapped_column(String(200))
    laboratory_id: Mapped[int | None] = mapped_column(Key)
    line: Mapped[int] = mapped_column(Key)
    """Number within the laboratory, without gaps; the program's own lines, of no laboratory, count by themselves."""
    action: Mapped[str] = mapped_column(String(50))
    kind: Mapped[str] = mapped_column(String(50))
    item: Mapped[int | None] = mapped_column(Key)
    detail: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))
    __table_args__ = (UniqueConstraint("laboratory_id", "line"),)


_BUSY_SECONDS = 30  # SQLite: how long a writer waits for another one
_SHARED_MOST = 16  # people who write in one transaction
_SHARED_SECONDS = 0.1  # after which nobody joins a transaction any more
_CONNECT_SECONDS = 5
_CONFLICTS = ("40001", "40P01", "55P03")  # PostgreSQL: serialisation failure, deadlock, lock not available
_WRITES = "leukoscope_writes"
_MIGRATING = threading.Lock()  # Alembic keeps its context in globals: one thread at a time
_MIGRATION_LOCK = 7_301_644  # PostgreSQL: an advisory lock's number, known to nobody else


class DatabaseError(LeukoscopeError):
    """The database cannot be reached, or is not one that this version can use."""


class Database:
    """Sessions on one database; `reading` never waits for a writer."""

    def __init__(self, url: str) -> None:
        """Prepare to connect; nothing is opened yet.

        Raises:
            UsageError: the URL is malformed, or of a kind of database that is not supported.
        """
        self.engine = _engine(url)
        self.embedded = self.engine.dialect.name == "sqlite"
        self._writer = self.engine.execution_options(**{_WRITES: True})
        self._turns = _WriteQueue()
        self._handed_on: _SharedTransaction | None = None
        snapshot = {} if self.embedded else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(**snapshot)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database and changes nothing."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self, *, bulk: bool = False) -> Iterator[Session]:
        """Yield a session whose changes are committed together when the block ends, or not at all.

        Where the database has one writer at a time, what people do goes before `bulk`: uploads and analysis. People who
        wait for each other share a transaction, and each a savepoint in it, so that the disk is waited for once.
        """
        if not self.embedded:
            with Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
        elif bulk:
            with self._turns.turn(bulk=True), Session(self._writer, expire_on_commit=False) as session, session.begin():
                yield session
        else:
            with self._shared() as session:
                yield session

    @contextmanager
    def _shared(self) -> Iterator[Session]:
        """Yield a session in the transaction that is handed on from one to the next; return when it is committed."""
        with self._turns.turn(bulk=False):
            shared = self._handed_on or _SharedTransaction(self._writer)
            self._handed_on = None
            try:
                with shared.session() as session:
                    yield session
            finally:
                if self._turns.person_waits and shared.takes_more:
                    self._handed_on = shared
                else:
                    shared.commit()
        shared.wait()

    def prepare(self) -> None:
        """Bring the tables to this version; several processes may do so at once.

        Raises:
            DatabaseError: the database cannot be reached, or was made by a newer version.
        """
        try:
            with _MIGRATING, self.engine.connect() as connection:
                _migrate(connection)
        except DBAPIError as failed:
            raise DatabaseError(f"The database {self.where} cannot be used: {first_line(failed)}.") from None

    @property
    def where(self) -> str:
        """Address of the database without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class _WriteQueue:
    """Order of writers: interactive ones first, then bulk, each first come, first served.

    SQLite itself does not queue writers, so that one of them may wait for many seconds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: tuple[deque[threading.Event], deque[threading.Event]] = (deque(), deque())
        self._busy = False

    @contextmanager
    def turn(self, *, bulk: bool) -> Iterator[None]:
        mine = threading.Event()
        with self._lock:
            self._waiting[bulk].append(mine)
            self._call_next()
        mine.wait()
        try:
            yield
        finally:
            with self._lock:
                self._busy = False
                self._call_next()

    @property
    def person_waits(self) -> bool:
        """Whether the next turn is a person's."""
        return bool(self._waiting[False])

    def _call_next(self) -> None:
        if self._busy:
            return
        for queue in self._waiting:
            if queue:
                self._busy = True
                queue.popleft().set()
                return


class _SharedTransaction:
    """A transaction of SQLite in which several people write, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.connect()
        try:
            self._connection.begin()
        except BaseException:
            self._connection.close()
            raise
        self._members, self._until = 0, time.monotonic() + _SHARED_SECONDS
        self._ended, self._committed = threading.Event(), False
        self._failure: Exception | None = None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session whose changes are in the transaction when the block ends, or not at all."""
        self._members += 1
        own = Session(self._connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        try:
            with own as session, session.begin():
                try:
                    yield session
                except Exception as failed:
                    if not self._intact:  # a full disk takes back what the others wrote too
                        self._failure = failed
                    raise
        except Exception:
            if self._failure is not None:  # rather than that its savepoint is gone
                raise self._failure from None
            raise

    @property
    def takes_more(self) -> bool:
        """Whether another may write in it: it has not broken, is not large, and has not lasted long."""
        return self._intact and self._members < _SHARED_MOST and time.monotonic() < self._until

    @property
    def _intact(self) -> bool:
        if self._connection.closed or self._connection.invalidated:
            return False
        return cast(sqlite3.Connection, self._connection.connection.dbapi_connection).in_transaction

    def commit(self) -> None:
        """Commit for all; `wait` returns the result to each of them."""
        try:
            if self._intact:
                self._connection.commit()
                self._committed = True
        except SQLAlchemyError as failed:
            self._failure = failed
        finally:
            if not self._committed:
                self._connection.invalidate()  # nothing of it must be left for who gets this connection next
            self._connection.close()
            self._ended.set()

    def wait(self) -> None:
        """Wait until it is committed.

        Raises:
            SQLAlchemyError, DatabaseError: nothing of it was stored.
        """
        self._ended.wait()
        if not self._committed:
            raise self._failure or DatabaseError("The database took nothing. Send it again.")


def is_gone(failed: DBAPIError) -> bool:
    """Return whether the database was unreachable, locked or full, rather than the statement wrong."""
    text_of = str(failed.orig).lower()
    away = (
        "locked",
        "unable to open",
        "disk i/o",
        "full",
        "connection",
        "terminat",
        "shut",
        "starting up",
        "timeout",
    )
    return failed.connection_invalidated or any(word in text_of for word in away)


def is_conflict(failed: DBAPIError) -> bool:
    """Return whether a transaction conflicted with another one, so that a retry may succeed."""
    return getattr(failed.orig, "sqlstate", "") in _CONFLICTS


def is_full(failed: DBAPIError) -> bool:
    """Return whether the disk of the database is full."""
    message = str(failed.orig).lower()
    return "full" in message or "no space" in message


def first_line(failed: DBAPIError) -> str:
    """Return the message of the database, without the statement and its values."""
    return (str(failed.orig).strip().splitlines() or [type(failed).__name__])[0].rstrip(".")


def _engine(url: str) -> Engine:
    if url.startswith("postgresql"):
        require("psycopg", feature="PostgreSQL", extra="serve")
    elif not url.startswith("sqlite:///"):
        raise UsageError("--database is not an address such as postgresql://user@host/name. Leave it out for SQLite.")
    try:
        if url.startswith("sqlite"):
            return _sqlite(url)
        return create_engine(
            url,
            hide_parameters=True,
            pool_size=10,
            max_overflow=30,
            pool_timeout=10,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args={"connect_timeout": _CONNECT_SECONDS},
        )
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UsageError("--database is not an address such as postgresql://user@host/name.") from None


def _sqlite(url: str) -> Engine:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(OSError):  # connecting raises the reason; SQLite's other files get the same mode
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=50,  # one for each thread that answers: reopening one, with its PRAGMAs, costs more than a query
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin explicitly, so that a writer can lock at once
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: Connection) -> None:
    """Run the migrations that are missing, one process at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    else:
        connection.rollback()
        connection = connection.execution_options(**{_WRITES: True})
    try:
        command.upgrade(alembic_config(connection), "head")
        connection.commit()
    except Exception as failed:
        connection.rollback()
        if "Can't locate revision" in str(failed):
            raise DatabaseError("The database was made by a newer leukoscope. Update leukoscope.") from None
        raise
    finally:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's settings for a connection that is open."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
