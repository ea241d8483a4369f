"""The database: SQLite beside the pictures for one machine, PostgreSQL for a laboratory; the same tables on both."""

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from ..errors import LeukoscopeError, UsageError, require

_BUSY_SECONDS = 30  # SQLite: how long a writer waits for another one
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
            UsageError: the address is none, or of a kind that is not supported.
        """
        self.engine = _engine(url)
        self.embedded = self.engine.dialect.name == "sqlite"
        self._writer = self.engine.execution_options(**{_WRITES: True})
        self._turns = _Turns(self.embedded)
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

        Where the database has one writer at a time, what people do goes before `bulk`: uploads and analysis.
        """
        with self._turns.taken(bulk=bulk), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

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
        """Give all connections back."""
        self.engine.dispose()


class _Turns:
    """Whose turn it is to write: people first, then bulk, each in the order in which they came.

    SQLite itself lets whoever asks at the right moment go first, so that somebody may wait for many seconds.
    """

    def __init__(self, needed: bool) -> None:
        self._needed = needed
        self._changed = threading.Condition()
        self._waiting: tuple[deque[object], deque[object]] = (deque(), deque())
        self._busy = False

    @contextmanager
    def taken(self, *, bulk: bool) -> Iterator[None]:
        if not self._needed:
            yield
            return
        mine = object()
        with self._changed:
            self._waiting[bulk].append(mine)
            while self._busy or self._next() is not mine:
                self._changed.wait()
            self._waiting[bulk].popleft()
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> object:
        return next(queue[0] for queue in self._waiting if queue)


def is_gone(failed: DBAPIError) -> bool:
    """Tell whether a failure is the database's being away, locked or full, rather than a wrong statement."""
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
    """Tell whether another transaction got in the way: the same statement may well succeed when it is sent again."""
    return getattr(failed.orig, "sqlstate", "") in _CONFLICTS


def is_full(failed: DBAPIError) -> bool:
    """Tell whether the database has no room left on its disk."""
    said = str(failed.orig).lower()
    return "full" in said or "no space" in said


def first_line(failed: DBAPIError) -> str:
    """Return what the database said, without the statement and its values."""
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
            url, hide_parameters=True, pool_size=10, max_overflow=30, pool_timeout=10, pool_pre_ping=True,
            pool_recycle=1800, connect_args={"connect_timeout": _CONNECT_SECONDS},
        )  # fmt: skip
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UsageError("--database is not an address such as postgresql://user@host/name.") from None


def _sqlite(url: str) -> Engine:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(OSError):  # to connect says why; what SQLite puts beside it gets the same mode
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
        pool_size=50,  # one for each thread that answers: opening one anew, with its PRAGMAs, costs more than a query
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, so that a writer can claim its turn at once
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
