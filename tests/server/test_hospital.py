"""Signed cases on their way to real systems: Orthanc by DICOMweb, a receiver of HL7, and a server of FHIR resources."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hl7apy import mllp
from sqlalchemy import select

from leukoscope.errors import ConfigError
from leukoscope.server import hospital as sending
from leukoscope.server.database import AuditEntryRow, CaseRow, SendingRow
from leukoscope.server.hospital import outgoing
from leukoscope.server.settings import Destination, RoomSettings, read_destinations
from tests.interop import test_orthanc
from tests.interop.test_dicom import write_field
from tests.interop.test_orthanc import Orthanc
from tests.server.conftest import Place, Visitor, cell_picture, opened
from tests.server.test_reading import smear

NUMBERS = {"patient_id": "PID-4711", "accession": "ACC-99", "order": "ORD-7", "specimen": "blood"}


class FhirServer:
    """A server that keeps what it is sent as FHIR asks: a resource whose identifier it has is not made again."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.requests: list[tuple[str, Any]] = []
        self.refuses = self.answers_late = False
        server = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.answer(self.headers.get("Authorization", ""), sent)
                body = json.dumps(answer).encode()
                if server.answers_late:  # it has kept everything, and nobody hears of it
                    server.answers_late = False
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server.server_port}/fhir"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, authorization: str, sent: Any) -> tuple[int, Any]:
        self.requests.append((authorization, sent))
        if self.refuses:
            issue = {"severity": "error", "code": "business-rule", "diagnostics": "Patient PID-4711 is merged."}
            return 422, {"resourceType": "OperationOutcome", "issue": [issue]}
        entries = []
        for entry in sent["entry"]:
            known = entry["request"]["ifNoneExist"]
            entries.append({"response": {"status": "200 OK" if known in self.kept else "201 Created"}})
            self.kept.setdefault(known, entry["resource"])
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    made = FhirServer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    """A running Orthanc."""
    if not (shutil.which("Orthanc") and test_orthanc._PLUGINS.exists()):
        pytest.skip("Debian's orthanc-dicomweb is not installed")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Orthanc(folder, free.getsockname()[1])
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that is away is asked again after a moment."""
    monkeypatch.setattr(sending, "_FIRST_WAIT", 0.3)
    monkeypatch.setattr(sending, "_LONGEST_WAIT", 0.5)
    monkeypatch.setattr(sending, "_LOOK_SECONDS", 0.2)


def room_to(settings: RoomSettings, *destinations: Destination) -> Iterator[Place]:
    yield from opened(settings.model_copy(update={"hospital": destinations}))


def signed_case(me: Visitor, *pictures: bytes, read: bool = True, **fields: Any) -> int:
    """Make a case with numbers of the hospital, read it and sign it off."""
    case = me.case("Erika Mustermann", pictures=list(pictures) or [cell_picture(1), cell_picture(2)], **fields)
    given = me.put(f"/cases/{case}/hospital", json=NUMBERS, headers=me.seen(f"/cases/{case}"))
    assert given.status_code == 200, given.text
    for cell in me.cells(case) if read else ():
        me.review(cell["id"], "blast")
    assert me.sign(case).status_code == 200
    return case


def until(met: Callable[[], bool], *, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.1)
    assert met()


def reach(me: Visitor, case: int, what: str, wanted: str) -> None:
    """Wait until the state or the words of a case's last sending are, or hold, what is wanted."""
    until(lambda: wanted in latest(me, case)[what])


def has_stored(me: Visitor, case: int) -> bool:
    return bool(latest(me, case)["stored"] > 0)


def latest(me: Visitor, case: int) -> dict[str, Any]:
    found: dict[str, Any] = me.get(f"/cases/{case}/hospital").json()["sendings"][0]
    return found


def send(me: Visitor, case: int, to: str) -> Any:
    return me.post(f"/cases/{case}/sendings", json={"to": to})


def test_fhir_gets_what_people_said_with_the_hospitals_numbers_and_nothing_twice(
    settings: RoomSettings, fhir: FhirServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    to = Destination(name="records", kind="fhir", address=fhir.address, token_file=tmp_path / "token")
    for place in room_to(settings, to):
        me = place.local()
        case = signed_case(me)
        asked = send(me, case, "records")
        assert asked.status_code == 202, asked.text
        reach(me, case, "state", "done")
        report = next(each for each in fhir.kept.values() if each["resourceType"] == "DiagnosticReport")
        assert report["subject"]["identifier"]["value"] == "PID-4711"
        assert report["basedOn"][0]["identifier"]["value"] == "ORD-7"
        assert report["specimen"][0]["identifier"]["value"] == "ACC-99"
        assert report["status"] == "final"
        assert "2 of 2 cells" in report["conclusion"]
        counts = {
            each["code"]["text"]: each["valueQuantity"]["value"]
            for each in fhir.kept.values()
            if each["resourceType"] == "Observation"
        }
        assert counts["blast, number of cells"] == 2
        assert fhir.requests[0][0] == "Bearer t0ken"
        assert "Mustermann" not in json.dumps(fhir.requests), "the room's name of a case stays in the room"
        before = len(fhir.kept)
        assert send(me, case, "records").json()["sendings"][0]["state"] == "done"
        time.sleep(0.5)
        assert (len(fhir.requests), len(fhir.kept)) == (1, before), "it is not sent again"
        assert not outgoing(settings.data, latest(me, case)["id"]).exists()


def test_an_answer_that_is_lost_makes_no_second_report(settings: RoomSettings, fhir: FhirServer) -> None:
    """The server has kept everything, but the line broke before it could say so."""
    fhir.answers_late = True
    for place in room_to(settings, Destination(name="records", kind="fhir", address=fhir.address)):
        me = place.local()
        case = signed_case(me)
        send(me, case, "records")
        reach(me, case, "state", "done")
        assert len(fhir.requests) == 2
        assert fhir.requests[0] == fhir.requests[1]
        reports = [each for each in fhir.kept.values() if each["resourceType"] == "DiagnosticReport"]
        assert len(reports) == 1


def test_the_words_of_a_server_that_refuses_are_shown_and_it_is_asked_again_only_by_a_person(
    settings: RoomSettings, fhir: FhirServer, caplog: pytest.LogCaptureFixture
) -> None:
    fhir.refuses = True
    for place in room_to(settings, Destination(name="records", kind="fhir", address=fhir.address)):
        me = place.local()
        case = signed_case(me)
        send(me, case, "records")
        reach(me, case, "state", "failed")
        assert "Patient PID-4711 is merged." in latest(me, case)["error"]
        time.sleep(1)
        assert len(fhir.requests) == 1
        fhir.refuses = False
        send(me, case, "records")
        reach(me, case, "state", "done")
        assert len(me.get(f"/cases/{case}/hospital").json()["sendings"]) == 1
        with place.room.database.reading() as session:
            entries = session.scalars(select(AuditEntryRow)).all()
            place.room.log.verify(session)
        told = json.dumps([[entry.action, entry.detail] for entry in entries])
        assert "gave hospital numbers" in told
        for number in ("PID-4711", "ACC-99", "ORD-7", "merged"):
            assert number not in told
            assert number not in caplog.text


def test_only_a_signed_case_is_sent_and_a_case_that_is_opened_again_is_not(
    settings: RoomSettings, fhir: FhirServer
) -> None:
    away = Destination(name="records", kind="fhir", address="http://127.0.0.1:9/fhir")
    for place in room_to(settings, away):
        me = place.local()
        case = me.case(pictures=[cell_picture(1)])
        early = send(me, case, "records")
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_signed")
        me.sign(case)
        late = me.put(f"/cases/{case}/hospital", json=NUMBERS, headers=me.seen(f"/cases/{case}"))
        assert (late.status_code, late.json()["error"]["code"]) == (409, "signed")
        send(me, case, "records")
        reach(me, case, "error", "cannot be reached")
        assert latest(me, case)["state"] in ("queued", "running")
        me.reopen(case)
        reach(me, case, "state", "failed")
        assert "opened again" in latest(me, case)["error"]


def test_what_was_not_read_by_people_is_said_and_the_report_is_preliminary(
    settings: RoomSettings, fhir: FhirServer
) -> None:
    for place in room_to(settings, Destination(name="records", kind="fhir", address=fhir.address)):
        me = place.local()
        case = signed_case(me, read=False)
        send(me, case, "records")
        reach(me, case, "state", "done")
        report = next(each for each in fhir.kept.values() if each["resourceType"] == "DiagnosticReport")
        assert report["status"] == "preliminary"
        assert "0 of 2 cells" in report["conclusion"]
        assert not any("share" in json.dumps(each["code"]) for each in fhir.kept.values() if "valueQuantity" in each)


def test_a_killed_archive_gets_the_rest_and_nothing_twice(
    settings: RoomSettings, archive: Orthanc, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret")
    to = Destination(
        name="archive",
        kind="dicomweb",
        address=archive.archive.url,
        user="ada",
        password_file=tmp_path / "password",
    )
    pictures = []
    for number in range(3):
        write_field(tmp_path / f"{number}.dcm", smear(), mm=0.0001)
        pictures.append((tmp_path / f"{number}.dcm").read_bytes())
    for place in room_to(settings, to):
        me = place.local()
        case = signed_case(me, *pictures, read=False)
        archive.kill()
        files = send(me, case, "archive").json()["sendings"][0]["files"]
        assert files >= 3
        reach(me, case, "error", "cannot be reached")
        archive.start()
        until(partial(has_stored, me, case))
        archive.kill()
        time.sleep(0.5)
        archive.start()
        reach(me, case, "state", "done")
        assert archive.count() == files
        assert latest(me, case)["stored"] == files


class Accepts(mllp.AbstractHandler):  # type: ignore[misc]
    """A receiver of HL7 that keeps what it gets."""

    kept: list[str] = []  # noqa: RUF012

    def reply(self) -> str:
        self.kept.append(self.incoming_message)
        control = self.incoming_message.split("\r")[0].split("|")[9]
        return f"\x0bMSH|^~\\&|LIS|||||20261128||ACK^R01^ACK|1|P|2.5.1\rMSA|AA|{control}\r\x1c\r"


def test_hl7_goes_over_mllp_and_the_room_that_was_killed_sends_it_when_it_is_back(settings: RoomSettings) -> None:
    Accepts.kept.clear()
    server = mllp.MLLPServer("127.0.0.1", 0, {"ORU^R01^ORU_R01": (Accepts,)})
    port = server.server_address[1]
    to = Destination(name="lab", kind="hl7", address=f"127.0.0.1:{port}")
    rooms = room_to(settings, to)
    place = next(rooms)
    place.room.sender.stop()
    me = place.local()
    case = signed_case(me)
    number = send(me, case, "lab").json()["sendings"][0]["id"]
    with place.room.database.writing() as session:  # as a process leaves it that dies in the middle
        row = session.get_one(SendingRow, number)
        row.state, row.owner, row.due = (
            "running",
            place.room.sender._owner.rpartition("/")[0] + "/1",
            time.time() + 900,
        )
    next(rooms, None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for again in room_to(settings, to):
        until(lambda: len(Accepts.kept) == 1)
        with again.room.database.reading() as session:
            case_row = session.get_one(CaseRow, case)
            assert case_row.state == "signed"
        message = Accepts.kept[0]
        assert "PID-4711" in message
        assert "|ORD-7|" in message
        assert "Mustermann" not in message
    server.shutdown()
    server.server_close()


def test_another_laboratory_neither_sees_nor_sends(settings: RoomSettings, laboratory: Place, fhir: FhirServer) -> None:
    to = Destination(name="records", kind="fhir", address=fhir.address, laboratory="north")
    laboratory.room.settings = laboratory.room.settings.model_copy(update={"hospital": (to,)})
    ada, ron, sue = (laboratory.visitor(name) for name in ("ada", "ron", "sue"))
    case = signed_case(ada)
    assert sue.get(f"/cases/{case}/hospital").status_code == 404
    assert ron.post(f"/cases/{case}/sendings", json={"to": "records"}).status_code == 403
    other = signed_case(sue)
    assert sue.get(f"/cases/{other}/hospital").json()["destinations"] == []
    assert sue.post(f"/cases/{other}/sendings", json={"to": "records"}).status_code == 404
    for shown in (ada.get("/cases").text, ada.get(f"/cases/{case}").text, ada.get(f"/cases/{case}/exports/csv").text):
        assert "PID-4711" not in shown, "the numbers stand apart"
    assert ada.put(f"/cases/{case}/hospital", json=NUMBERS).status_code in (409, 428)
    assert ron.put(f"/cases/{case}/hospital", json={"patient_id": "a\u0000b"}).status_code == 422


FILE = """
[archive]
kind = "dicomweb"
address = "https://pacs.example.org/dicom-web"
user = "room"
password_file = "secret"

[lab]
kind = "hl7"
address = "10.0.0.7:2575"
"""


def test_the_file_is_read_and_each_mistake_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "hospital.toml"
    (tmp_path / "secret").write_text("s")
    file.write_text(FILE)
    assert [each.name for each in read_destinations(file)] == ["archive", "lab"]
    for old, new, said in (
        ("https://", "http://", "is not an https address"),
        ("10.0.0.7:2575", "10.0.0.7", "is not HOST:PORT"),
        ('"hl7"', '"hl8"', "kind"),
        ('"secret"', '"gone"', "gone does not exist"),
        ("user =", "usr =", "Did you mean 'user'"),
        ("[archive]", "", "is not in a table"),
    ):
        file.write_text(FILE.replace(old, new, 1))
        with pytest.raises(ConfigError, match=said):
            read_destinations(file)
