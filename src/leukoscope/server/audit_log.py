"""The audit log: every change in one line, each chained to the one before by a keyed hash.

hash of a line = HMAC-SHA-256(key, hash of the line before + the line in canonical JSON)
The key lies in DATA/audit.key, outside the database: who can write to the database alone cannot forge a line. The
last line is also noted in DATA/audit-head.json after every minute of work, so that cutting off the end shows.
"""

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from ..errors import DataError
from ..files import read_json, write_json
from .tables import Entry, now

_FIRST = "0" * 64
_LOCK = 7_301_645  # PostgreSQL: an advisory lock's number
_BATCH = 1000
_NOTE_SECONDS = 60


@dataclass(frozen=True)
class Who:
    """Who does something: the account's name and laboratory, or the program itself."""

    account: str = "leukoscope"
    laboratory_id: int | None = None


class AuditLog:
    """Appends and proves the log of one room."""

    def __init__(self, data: Path) -> None:
        """Take the key from `data`, or make one."""
        data.mkdir(parents=True, exist_ok=True)
        self._key = _read_key(data / "audit.key")
        self._head = data / "audit-head.json"
        self._noted = 0.0
        self._noting = threading.Lock()

    def add(
        self, session: Session, who: Who, action: str, *, kind: str, item: int | None = None, **detail: Any
    ) -> None:
        """Append a line in the same transaction as the change that it tells of."""
        take_turn(session)
        session.flush()
        last = session.execute(select(Entry.number, Entry.hash).order_by(Entry.number.desc()).limit(1)).first()
        number, before = (last.number, last.hash) if last else (0, _FIRST)
        entry = Entry(
            number=number + 1, time=now(), account=who.account, laboratory_id=who.laboratory_id,
            action=action, kind=kind, item=item, detail=detail, hash="",
        )  # fmt: skip
        entry.hash = self._hash(before, entry)
        session.add(entry)
        session.flush()

    def note_head(self, session: Session, *, at_once: bool = False) -> None:
        """Write number and hash of the last line beside the database, at most once a minute."""
        with self._noting:
            if not at_once and time.monotonic() - self._noted < _NOTE_SECONDS:
                return
            self._noted = time.monotonic()
            last = session.execute(select(Entry.number, Entry.hash).order_by(Entry.number.desc()).limit(1)).first()
            if last:
                write_json(self._head, {"number": last.number, "hash": last.hash})

    def verify(self, session: Session, *, head: str = "") -> dict[str, Any]:
        """Prove every line and return {"entries", "head"}; `head` is a last hash that was noted elsewhere.

        Raises:
            DataError: a line was changed, removed, moved or added by something else; names the first one.
        """
        before, number, seen = _FIRST, 0, {_FIRST} if head else set()
        for entry in _entries(session):
            number += 1
            if entry.number != number:
                raise DataError(f"The audit log is broken: line {number} is missing (line {entry.number} comes next).")
            if not hmac.compare_digest(entry.hash, self._hash(before, entry)):
                raise DataError(
                    f"The audit log is broken: line {number} was changed, moved, or written by something else."
                )
            before = entry.hash
            seen.add(before)
        self._check_end(number, seen, head=head)
        return {"entries": number, "head": before}

    def _check_end(self, entries: int, seen: set[str], *, head: str) -> None:
        noted: dict[str, Any] = read_json(self._head) if self._head.exists() else {"number": 0, "hash": _FIRST}
        if noted["number"] > entries:
            raise DataError(
                f"The audit log is broken: it ends at line {entries}, but line {noted['number']} was there once."
            )
        for hash_, where in ((noted["hash"], str(self._head)), (head, "--head")):
            if hash_ and hash_ != _FIRST and hash_ not in seen:
                raise DataError(f"The audit log is broken: the line noted in {where} is no longer in it.")

    def _hash(self, before: str, entry: Entry) -> str:
        line = [entry.number, entry.time, entry.account, entry.laboratory_id, entry.action, entry.kind, entry.item]
        content = json.dumps([before, *line, entry.detail], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


def take_turn(session: Session) -> None:
    """Let no other writer of the log, and so no other change, be under way until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _entries(session: Session) -> Iterator[Entry]:
    """Yield all lines in order, a batch at a time."""
    after = 0
    while batch := session.scalars(
        select(Entry).where(Entry.number > after).order_by(Entry.number).limit(_BATCH)
    ).all():
        yield from batch
        after = batch[-1].number
        session.expunge_all()


def _read_key(path: Path) -> bytes:
    """Return the key of the log; the first process makes it."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return _finished(path)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    return _finished(path)


def _finished(path: Path) -> bytes:
    for _ in range(50):  # another process may be writing it just now
        if len(key := path.read_text().strip()) == 64:
            return bytes.fromhex(key)
        time.sleep(0.02)
    raise DataError(f"{path} is damaged. Restore it from a backup: without it the audit log cannot be proven.")
