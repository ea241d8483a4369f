"""From a signed case to the hospital's systems: DICOMweb, FHIR, HL7. What is sent is written down first, once.

The files of a sending lie in DATA/outgoing/<number>/ from the moment it is asked for until the other system has them,
so every try sends the same, with the same identifiers: an archive is asked whether it has an object before it is sent,
a FHIR server creates only what it has not, and HL7 messages keep their control id. A system that is away is tried
again, for a day; one that refuses is not, and its message is shown.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..bundle.manifest import Manifest
from ..errors import DataError, LeukoscopeError, UnreachableError
from ..files import read_text
from ..interop.hl7 import FOUND_AS_WHITE, CaseResult, Observation
from . import queue
from .audit_log import Actor, AuditLog
from .database import (
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    SIGNED,
    AccountRow,
    CaseRow,
    CellRow,
    Database,
    HospitalNumbersRow,
    LaboratoryRow,
    ReadingRow,
    ReviewRow,
    SendingRow,
    now,
)
from .readings import view_of_all
from .refusals import Refusal
from .settings import Destination, RoomSettings
from .store import FILE_MODE, FOLDER_MODE
from .summary import blood_of, differentials, summary

LOG = logging.getLogger("leukoscope.server")
_LEASE_SECONDS = 300.0  # for one file; longer than any answer is waited for
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 1800.0  # seconds between two tries
_GIVEN_UP_SECONDS = 86_400.0
_LOOK_SECONDS = 5.0
_LONGEST_WORDS = 1000  # of another system that are kept


def result_of(session: Session, case: CaseRow, *, manifest: Manifest, settings: RoomSettings) -> CaseResult:
    """Return a signed case as the hospital's systems take it: the readers' answers, and how many cells nobody has read.

    Its identifiers depend on the room's number of the case and on the sign-off alone.
    """
    view = view_of_all(case)
    figures = summary(session, view, manifest=manifest, point=settings.point)
    counted = differentials(session, view, manifest=manifest, settings=settings)
    unread = figures["cells"] - figures["read"]
    rows = [
        Observation("cells", figures["cells"], "{cells}"),
        Observation("cells read by people", figures["read"], "{cells}"),
    ]
    if counted is not None:
        rows += _counted(counted["readers"])
    else:
        rows += [
            Observation(name.replace("_", " "), count, "{cells}")
            for name, count in sorted(figures["by_reader"].items())
        ]
    share = figures["blast_share"]
    if not unread and share["value"] is not None and not any(row.name == "blast" and row.unit == "%" for row in rows):
        low, high = (100 * share[end] for end in ("low", "high"))
        rows.append(Observation("blast among cells read", 100 * share["value"], "%", low, high))
    blood = blood_of(session, case.id, factor=settings.platelet_factor)
    rows += blood.rows() if blood else []
    numbers = session.get(HospitalNumbersRow, case.id) or HospitalNumbersRow(
        patient_id="", accession="", order_number="", specimen=""
    )
    words = f"Read by people: {figures['read']:,} of {figures['cells']:,} cells."
    return CaseResult(
        case=f"case {case.id}",
        laboratory=session.get_one(LaboratoryRow, case.laboratory_id).name,
        when=datetime.fromisoformat(case.signed or now()).replace(microsecond=0),
        rows=tuple(rows),
        algorithm=f"leukoscope {metadata.version('leukoscope')}, {manifest.name} {manifest.seal[:16]}",
        final=not unread,
        readers=tuple(_readers(session, case.id)),
        specimen=numbers.specimen,  # type: ignore[arg-type]
        patient_id=numbers.patient_id,
        accession=numbers.accession,
        order=numbers.order_number,
        conclusion=words,
    )


def _counted(readers: Mapping[str, Any]) -> list[Observation]:
    """Return the readers' differential as rows: counts, and percentages where there are enough cells for them."""
    counts = [Observation(each["name"], each["cells"], "{cells}") for each in readers["rows"]]
    named = {"unsure": "type unsure", "platelet": FOUND_AS_WHITE}
    apart = [Observation(named.get(name, name), cells, "{cells}") for name, cells in readers["apart"].items() if cells]
    shares = [each for each in readers["rows"] if each["percent"] is not None]
    return (
        counts + apart + [Observation(each["name"], each["percent"], "%", each["low"], each["high"]) for each in shares]
    )


def _readers(session: Session, case_id: int) -> list[str]:
    stand = (
        select(AccountRow.name)
        .join(ReviewRow, ReviewRow.account_id == AccountRow.id)
        .join(CellRow, CellRow.review_id == ReviewRow.id)
    )
    held = select(AccountRow.name).join(ReadingRow, ReadingRow.account_id == AccountRow.id)
    held = held.where(ReadingRow.case_id == case_id, ReadingRow.finished.is_not(None), ReadingRow.released.is_(None))
    return sorted({*session.scalars(stand.where(CellRow.case_id == case_id)), *session.scalars(held)})


def files_of(kind: str, result: CaseResult, dicom: Callable[[], Mapping[str, bytes]]) -> dict[str, bytes]:
    """Return what goes to a destination of this kind, by name; `dicom` makes the objects of an archive.

    Raises:
        MissingExtraError: the extra `hospital` is not installed.
        Refusal: an archive takes results of DICOM images alone, and the case has none.
    """
    if kind == "dicomweb":
        return dict(dicom())
    if kind == "fhir":
        from ..interop.hl7 import fhir_bundle

        return {"bundle.json": json.dumps(fhir_bundle(result), ensure_ascii=False).encode()}
    from ..interop.hl7 import oru_r01

    return {"message.hl7": oru_r01(result).encode()}


def ask(
    session: Session,
    case: CaseRow,
    destination: Destination,
    *,
    data: Path,
    by: int,
    make: Callable[[], Mapping[str, bytes]],
) -> SendingRow:
    """Queue a signed case for a destination; where that was asked for before, a failed one is tried again.

    Raises:
        Refusal: the case is not signed off (409).
        OSError: the disk is full.
    """
    if case.state != SIGNED or case.signed is None:
        raise Refusal(409, "not_signed", f"Case {case.id} is not signed off. Only what somebody signed is sent.")
    same = (SendingRow.case_id == case.id, SendingRow.destination == destination.name, SendingRow.signed == case.signed)
    found = session.scalar(select(SendingRow).where(*same).with_for_update())
    if found is not None:
        if found.state == FAILED:
            found.state, found.error, found.attempts, found.due = QUEUED, "", 0, 0.0
            found.created = now()
        return found
    files = make()
    sending = SendingRow(
        case_id=case.id, destination=destination.name, signed=case.signed, account_id=by, files=len(files)
    )
    session.add(sending)
    session.flush()
    _write(outgoing(data, sending.id), files)
    return sending


def outgoing(data: Path, number: int) -> Path:
    """Return the folder of what a sending sends."""
    return data / "outgoing" / str(number)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a sending that was never stored
    folder.mkdir(parents=True, mode=FOLDER_MODE)
    for place in (folder, folder.parent):
        place.chmod(FOLDER_MODE)
    try:
        for name, content in files.items():
            path = folder / name
            path.touch(FILE_MODE)
            path.write_bytes(content)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class Sender(queue.BackgroundThread):
    """The thread that sends signed cases to the hospital's systems."""

    def __init__(self, database: Database, log: AuditLog, data: Path, destinations: tuple[Destination, ...]) -> None:
        super().__init__("sending", poll_seconds=_LOOK_SECONDS)
        self._database, self._log, self._data = database, log, data
        self._to = {each.name: each for each in destinations}

    def start(self) -> None:
        """Start the thread, in a room that has destinations."""
        if self._to:
            super().start()

    def recover(self, *, failed: bool) -> None:
        """Queue again what dead processes of this machine had leased; other leases run out."""
        with self._database.reading() as session:
            dead = queue.dead_among(
                session.scalars(select(SendingRow.owner).where(SendingRow.state == RUNNING).distinct())
            )
        if dead:
            with self._database.writing(bulk=True) as session:
                freed = update(SendingRow).where(SendingRow.state == RUNNING, SendingRow.owner.in_(dead))
                session.execute(freed.values(state=QUEUED, owner="", due=0.0))

    def work(self) -> bool:
        """Send one case, if one is due."""
        found = self._take()
        if found is not None:
            self._send(found)
        return found is not None

    def _run(self) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):
            self._remove_leftover_files()
        super()._run()

    def _remove_leftover_files(self) -> None:
        """Remove the files of sendings that are done, or were never stored in the database."""
        with self._database.writing(bulk=True) as session:
            left = {str(number) for number in session.scalars(select(SendingRow.id).where(SendingRow.state != DONE))}
            folder = self._data / "outgoing"
            for each in folder.iterdir() if folder.is_dir() else ():
                if each.name not in left:
                    shutil.rmtree(each, ignore_errors=True)

    def _take(self) -> SendingRow | None:
        """Lease the sending that has waited longest and is due."""
        free = (SendingRow.state == QUEUED) | (SendingRow.state == RUNNING)
        mine = (free, SendingRow.due <= time.time(), SendingRow.destination.in_(self._to))
        chosen = select(SendingRow).where(*mine).order_by(SendingRow.due, SendingRow.id).limit(1)
        with self._database.writing(bulk=True) as session:
            found = session.scalar(chosen.with_for_update(skip_locked=True))
            if found is not None:
                found.state, found.owner, found.due = RUNNING, self._owner, time.time() + _LEASE_SECONDS
                found.attempts += 1
        return found

    def _send(self, sending: SendingRow) -> None:
        """Send what is left of a sending, and note what became of it."""
        folder = outgoing(self._data, sending.id)
        try:
            if not self._still_signed(sending):
                raise DataError("The case was opened again before this was sent.")
            if not folder.is_dir():
                raise DataError("What was to be sent is gone from the folder of the room. Sign the case off again.")
            for number, path in enumerate(sorted(folder.iterdir()), start=1):
                if self._stopping.is_set() or not self._hold(sending, stored=number - 1):
                    return
                deliver(path, self._to[sending.destination])
        except UnreachableError as away:
            self._wait(sending, words_of(away))
        except LeukoscopeError as refused:
            self._finish(sending, FAILED, words_of(refused))
        else:
            self._finish(sending, DONE, "")
            shutil.rmtree(folder, ignore_errors=True)

    def _still_signed(self, sending: SendingRow) -> bool:
        with self._database.reading() as session:
            return session.scalar(select(CaseRow.signed).where(CaseRow.id == sending.case_id)) == sending.signed

    def _hold(self, sending: SendingRow, *, stored: int) -> bool:
        """Renew the lease before a file, and note how many are there; False where it is no longer ours."""
        values = {"due": time.time() + _LEASE_SECONDS, "stored": stored}
        return self._note(sending, values)

    def _wait(self, sending: SendingRow, words: str) -> None:
        pause = min(_FIRST_WAIT * 2.0 ** min(sending.attempts - 1, 20), _LONGEST_WAIT)
        since = time.time() - datetime.fromisoformat(sending.created).timestamp()
        if since > _GIVEN_UP_SECONDS:
            self._finish(sending, FAILED, f"{words} Given up after a day; send it again.")
        else:
            self._note(sending, {"state": QUEUED, "owner": "", "due": time.time() + pause, "error": words})

    def _finish(self, sending: SendingRow, state: str, words: str) -> None:
        stored = sending.files if state == DONE else SendingRow.stored
        values = {"state": state, "owner": "", "error": words, "finished": now(), "stored": stored}
        with self._database.writing() as session:
            if self._change(session, sending, values):
                action = "sent to the hospital" if state == DONE else "not taken by the hospital"
                to = sending.destination
                self._log.add(session, Actor(), action, kind="case", item=sending.case_id, sending=sending.id, to=to)

    def _note(self, sending: SendingRow, values: dict[str, Any]) -> bool:
        with self._database.writing(bulk=True) as session:
            return self._change(session, sending, values)

    def _change(self, session: Session, sending: SendingRow, values: dict[str, Any]) -> bool:
        mine = (SendingRow.id == sending.id, SendingRow.owner == self._owner, SendingRow.state == RUNNING)
        changed = session.execute(update(SendingRow).where(*mine).values(values))
        return bool(changed.rowcount == 1)  # type: ignore[attr-defined]


def deliver(path: Path, to: Destination) -> None:
    """Send one file.

    Raises:
        UnreachableError: the other system does not answer.
        DataError: it does not take the file; its message is in the error.
    """
    token = _secret(to.token_file)
    if to.kind == "dicomweb":
        from ..interop.dicom import Archive, store

        store(Archive(to.address, to.user, _secret(to.password_file), token), [path], report=lambda _: None)
    elif to.kind == "fhir":
        from ..interop.hl7 import send_fhir

        send_fhir(to.address, json.loads(read_text(path)), headers=_headers(to, token))
    else:
        from ..interop.hl7 import send_hl7

        host, _, port = to.address.rpartition(":")
        send_hl7(host.strip("[]"), int(port), path.read_bytes().decode())


def _headers(to: Destination, token: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    if not to.user:
        return {}
    from requests.auth import _basic_auth_str

    return {"Authorization": _basic_auth_str(to.user, _secret(to.password_file))}


def _secret(path: Path | None) -> str:
    return read_text(path).strip() if path else ""


def words_of(problem: LeukoscopeError) -> str:
    """Return the message of another system as it may be shown: of limited length, on one line."""
    text = " ".join(str(problem).split())
    return text if len(text) <= _LONGEST_WORDS else f"{text[:_LONGEST_WORDS]} …"


def waiting(session: Session) -> int:
    """Return how many sendings have not come to an end."""
    open_ = SendingRow.state.in_((QUEUED, RUNNING))
    return session.scalar(select(func.count()).select_from(SendingRow).where(open_)) or 0
