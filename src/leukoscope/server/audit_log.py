"""The audit log: every change in one line, each chained to the one before by a keyed hash.

hash of a line = HMAC-SHA-256(key, hash of the line before + the line in canonical JSON)
The key lies in DATA/audit.key, outside the database: who can write to the database alone cannot forge a line. The
last line is also noted in DATA/audit-head.json after every minute of work, so that cutting off the end shows; a log
that is empty, or whose note is gone, is broken. The readers' reviews are compared with the log.
A line has a number in the whole log, and one within its laboratory: what each laboratory sees has no gaps either.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ..errors import DataError
from ..files import atomic_write, read_json
from .database import DRAWN, AccountRow, AuditEntryRow, CellRow, ReviewRow, now

_FIRST = "0" * 64
_LOCK = 7_301_645  # PostgreSQL: an advisory lock's number
_BATCH = 1000
_NOTE_SECONDS = 60


@dataclass(frozen=True)
class Actor:
    """Who does something: the account's name and laboratory, or the program itself."""

    account: str = "leukoscope"
    laboratory_id: int | None = None


class AuditLog:
    """Appends to the audit log of one server, and verifies it."""

    def __init__(self, data: Path) -> None:
        """Take the key from `data`, or make one."""
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.fresh = not (data / "audit.key").exists()
        """Whether the key was made here, so that the log is not begun."""
        self._key = _read_key(data / "audit.key")
        self._head = data / "audit-head.json"
        self._noted = 0.0
        self._noting = threading.Lock()

    def add(
        self, session: Session, who: Actor, action: str, *, kind: str, item: int | None = None, **detail: Any
    ) -> None:
        """Append a line in the same transaction as the change that it records."""
        lock_log(session)
        session.flush()
        last = session.execute(
            select(AuditEntryRow.number, AuditEntryRow.hash).order_by(AuditEntryRow.number.desc()).limit(1)
        ).first()
        number, before = (last.number, last.hash) if last else (0, _FIRST)
        own = select(func.max(AuditEntryRow.line)).where(
            AuditEntryRow.laboratory_id.is_not_distinct_from(who.laboratory_id)
        )
        entry = AuditEntryRow(
            number=number + 1,
            time=now(),
            account=who.account,
            laboratory_id=who.laboratory_id,
            line=(session.scalar(own) or 0) + 1,
            action=action,
            kind=kind,
            item=item,
            detail=detail,
            hash="",
        )
        entry.hash = self._hash(before, entry)
        session.add(entry)
        session.flush()

    def begin(self, session: Session) -> None:
        """Write the first line of a new room: a log without lines is never intact."""
        if self.fresh:
            self.fresh = False
            self.add(session, Actor(), "opened for the first time", kind="room")

    def note_head(self, session: Session, *, at_once: bool = False) -> None:
        """Write number and hash of the last line beside the database, at most once a minute."""
        with self._noting:
            if not at_once and time.monotonic() - self._noted < _NOTE_SECONDS:
                return
            self._noted = time.monotonic()
            last = session.execute(
                select(AuditEntryRow.number, AuditEntryRow.hash).order_by(AuditEntryRow.number.desc()).limit(1)
            ).first()
            if last:
                with atomic_write(self._head) as beside:
                    beside.chmod(0o600)
                    beside.write_text(json.dumps({"number": last.number, "hash": last.hash}) + "\n")

    def verify(self, session: Session, *, head: str = "") -> dict[str, Any]:
        """Verify every line and return {"entries", "head"}; `head` is a last hash that was noted elsewhere.

        Raises:
            DataError: a line was changed, removed, moved or added by something else; names the first one.
        """
        before, number, seen, history = _FIRST, 0, {_FIRST}, _ReviewHistory()
        lines: Counter[int | None] = Counter()
        for entry in _entries(session):
            number += 1
            if entry.number != number:
                raise DataError(f"The audit log is broken: line {number} is missing (line {entry.number} comes next).")
            if not hmac.compare_digest(entry.hash, self._hash(before, entry)):
                raise DataError(
                    f"The audit log is broken: line {number} was changed, moved, or written by something else."
                )
            lines[entry.laboratory_id] += 1
            if entry.line != lines[entry.laboratory_id]:
                raise DataError(f"The audit log is broken: line {number} has not the next number of its laboratory.")
            before = entry.hash
            seen.add(before)
            history.add(entry)
        self._check_end(number, seen, head=head)
        history.compare(session)
        return {"entries": number, "head": before}

    def _check_end(self, entries: int, seen: set[str], *, head: str) -> None:
        if not entries and not self._head.exists():
            raise DataError("The audit log is broken: it is empty, and it never is. Is --data the folder of the room?")
        if not self._head.exists():
            raise DataError(
                f"The audit log is broken: {self._head} is missing, so it is unknown whether its end was cut off. "
                "Restore the file from a backup, or compare with a hash that was kept (--head)."
            )
        noted: dict[str, Any] = read_json(self._head)
        if noted["number"] > entries:
            raise DataError(
                f"The audit log is broken: it ends at line {entries}, but line {noted['number']} was there once."
            )
        for hash_, where in ((noted["hash"], str(self._head)), (head, "--head")):
            if hash_ and hash_ != _FIRST and hash_ not in seen:
                raise DataError(f"The audit log is broken: the line noted in {where} is no longer in it.")

    def _hash(self, before: str, entry: AuditEntryRow) -> str:
        who = [entry.number, entry.time, entry.account, entry.laboratory_id, entry.line]
        line = [*who, entry.action, entry.kind, entry.item, entry.detail]
        content = json.dumps([before, *line], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hmac.new(self._key, content.encode(), hashlib.sha256).hexdigest()


class _ReviewHistory:
    """The reviews according to the log, to compare with those in the database."""

    def __init__(self) -> None:
        self.reviews: dict[int, tuple[str, str, int | None]] = {}
        """Review -> account, label, cell."""
        self.undone: set[int] = set()
        self._where: dict[int, tuple[int, int]] = {}
        self._deleted: set[tuple[str, int | None]] = set()
        self._of_cell: dict[int | None, list[int]] = {}

    def add(self, entry: AuditEntryRow) -> None:
        """Take in the next line."""
        number = entry.detail.get("review")
        if entry.action in ("reviewed", "removed", "settled", "added") and number is not None:
            self.reviews[number] = (entry.account, entry.detail["label"], entry.item)
            self._where[number] = (entry.detail["case"], entry.detail["image"])
            self._of_cell.setdefault(entry.item, []).append(number)
        elif entry.action == "took back" and number is not None:
            self.undone.add(number)
        elif entry.action == "redrew":
            self.undone.update(each for each in self._of_cell.get(entry.item, ()) if self.reviews[each][1] != DRAWN)
        elif entry.action == "deleted":
            self._deleted.add((entry.kind, entry.item))

    def compare(self, session: Session) -> None:
        """Compare with the reviews of the database.

        Raises:
            DataError: a review was changed, added or removed by something else; names the first one.
        """
        left = set(self.reviews)
        query = select(ReviewRow, AccountRow.name).join(AccountRow).order_by(ReviewRow.id)
        for review, account in session.execute(query.execution_options(yield_per=_BATCH)):
            logged = self.reviews.get(review.id)
            if logged != (account, review.label, review.cell_id) or review.undone != (review.id in self.undone):
                raise _differs(review.id, "the log differs" if logged else "the log does not know it")
            left.discard(review.id)
        for number in sorted(left):
            case, image = self._where[number]
            if not {("case", case), ("image", image)} & self._deleted:
                raise _differs(number, "it is in the log, but no longer in the database")
        stands = select(CellRow.id).outerjoin(ReviewRow, ReviewRow.id == CellRow.review_id)
        wrong = (CellRow.label != "") & (ReviewRow.id.is_(None) | ReviewRow.undone | (ReviewRow.label != CellRow.label))
        unread = (CellRow.label == "") & CellRow.review_id.is_not(None)
        cell = session.scalar(stands.where(wrong | unread).limit(1))
        if cell is not None:
            raise DataError(f"The reviews are broken: cell {cell} has a label that no review gave it.")


def _differs(review: int, why: str) -> DataError:
    return DataError(f"The reviews are broken: review {review} was changed by something else ({why}).")


def lock_log(session: Session) -> None:
    """Let no other writer of the log, and so no other change, be under way until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _entries(session: Session) -> Iterator[AuditEntryRow]:
    """Yield all lines in order, a batch at a time."""
    after = 0
    while batch := session.scalars(
        select(AuditEntryRow).where(AuditEntryRow.number > after).order_by(AuditEntryRow.number).limit(_BATCH)
    ).all():
        yield from batch
        after = batch[-1].number
        session.expunge_all()


def _read_key(path: Path) -> bytes:
    """Return the key of the log; the first process makes it."""
    if not path.exists():
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(beside, path)  # whole or not at all, and never over another one
        finally:
            beside.unlink(missing_ok=True)
    key = path.read_text().strip()
    if len(key) == 64 and set(key) <= set("0123456789abcdef"):
        return bytes.fromhex(key)
    raise DataError(f"{path} is damaged. Restore it from a backup: without it the audit log cannot be verified.")
