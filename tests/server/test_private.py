"""The room's folder is closed to others on the machine; connections and labels have an end."""

import http.client
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvicorn

from leukoscope.errors import UsageError
from leukoscope.server import security
from leukoscope.server.app import create_app
from leukoscope.server.room import open_room
from leukoscope.server.security import TimeoutProtocol
from leukoscope.server.settings import RoomSettings
from leukoscope.server.store import make_private
from tests.interop.test_dicom import PATIENT, write_field
from tests.server.conftest import Place, cell_picture, opened
from tests.server.test_reading import smear


@pytest.fixture
def database() -> str:
    """The folder is the same whatever the database."""
    return ""


def modes(folder: Path) -> set[tuple[str, int]]:
    """Return kind and mode of everything under a folder, itself too."""
    everything = [folder, *folder.rglob("*")]
    return {("folder" if path.is_dir() else "file", stat.S_IMODE(path.stat().st_mode)) for path in everything}


def test_nobody_else_reads_the_store(place: Place, tmp_path: Path) -> None:
    me, data = place.local(), place.room.settings.data
    write_field(tmp_path / "source.dcm", smear(), mm=0.0001)
    case = me.case(pictures=[cell_picture(1)])
    me.send(case, (tmp_path / "source.dcm").read_bytes(), names=("field.dcm",))
    me.get(me.cells(case)[0]["thumbnail"].removeprefix("/api/v1"))
    assert any(PATIENT.encode() in path.read_bytes() for path in (data / "pictures").rglob("*") if path.is_file())
    assert (data / "audit-head.json").exists()
    assert list((data / "drawn").rglob("*"))
    assert modes(data) == {("folder", 0o700), ("file", 0o600)}


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can become somebody else")
def test_somebody_else_is_refused_by_the_system(place: Place) -> None:
    place.local().case(pictures=[cell_picture(1)])
    os.chmod(place.room.settings.data.parent, 0o755)  # noqa: PTH101
    listed = subprocess.run(["ls", str(place.room.settings.data)], check=False, capture_output=True, user="nobody")
    assert listed.returncode != 0


def test_a_folder_that_was_open_is_closed_with_a_word(settings: RoomSettings, caplog: pytest.LogCaptureFixture) -> None:
    for place in opened(settings):
        place.local().case(pictures=[cell_picture(1)])
    for path in (settings.data, *settings.data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    open_room(settings).close()
    assert "it is closed to them now" in caplog.text
    assert modes(settings.data) == {("folder", 0o700), ("file", 0o600)}
    caplog.clear()
    open_room(settings).close()
    assert caplog.text == ""


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_one_clear_error() -> None:
    with TemporaryDirectory(dir="/tmp") as folder:  # which everybody may enter, unlike those of pytest
        Path(folder).chmod(0o777)
        child = os.fork()
        if not child:
            os.seteuid(65534)
            try:
                make_private(Path(folder))
            except UsageError as told:
                os._exit(0 if "cannot be closed" in str(told) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_a_stranger_makes_up_is_no_label_and_no_line(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="leukoscope")
    stranger = place.nobody()
    for number in range(300):
        stranger.client.request(f"MADEUP{number}", f"/api/v1/cases?x={number}")
        stranger.client.get(f"/made/up/{number}")
    text = place.local().get("/metrics").text
    assert "MADEUP" not in text + "".join(re.findall(r"leukoscope.server.*", caplog.text))
    assert len(text) < 20_000
    assert 'method="other"' in text


@pytest.fixture
def served(settings: RoomSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A room behind real sockets; yields its port."""
    monkeypatch.setattr(security, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr("leukoscope.server.security._BODY_SECONDS", 1.0)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="error", http=TimeoutProtocol))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /api/v1/health HTT",
        b"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "line", "headers", "body"],
)
def test_a_request_that_is_half_sent_is_closed(served: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served)) as half:
        half.sendall(sent)
        assert closed_within(half, 15)


def test_a_second_request_on_a_connection_has_its_time_too(served: int) -> None:
    whole = http.client.HTTPConnection("127.0.0.1", served)
    for _ in range(3):
        whole.request("GET", "/api/v1/health")
        assert whole.getresponse().read()
        time.sleep(0.6)
    assert whole.sock
    whole.sock.sendall(b"GET /api/v1/hea")
    assert closed_within(whole.sock, 10)


def test_the_command_starts_a_private_room(tmp_path: Path, bundle: Path) -> None:
    command = [sys.executable, "-m", "leukoscope", "serve", "--data", str(tmp_path / "room"), "--model", str(bundle)]
    started = subprocess.Popen([*command, "--port", "0", "--no-browser"], stdout=subprocess.PIPE, text=True)
    assert started.stdout
    address = started.stdout.readline()
    started.terminate()
    started.wait(30)
    assert address.startswith("http://127.0.0.1:")
    assert modes(tmp_path / "room") == {("folder", 0o700), ("file", 0o600)}


@pytest.mark.parametrize(("hard", "connections"), [(100, 50), (10**6, 2000)])
def test_half_of_the_files_that_a_process_may_have_open_are_for_connections(
    monkeypatch: pytest.MonkeyPatch, hard: int, connections: int
) -> None:
    resource = pytest.importorskip("resource")
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert security.max_connections() == connections
    assert raised == [(2 * connections, hard)]
