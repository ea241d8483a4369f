"""A reading room on either database, with a real model and real requests."""

import io
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from argon2 import PasswordHasher
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from leukoscope.data.synthetic import Donor, draw_cell
from leukoscope.server.accounts import add_account
from leukoscope.server.app import create_app
from leukoscope.server.database import Database
from leukoscope.server.room import Room, open_room
from leukoscope.server.sandbox import Sandbox
from leukoscope.server.settings import RoomSettings
from tests.server.small_bundle import small_bundle

PASSWORD = "correct horse battery"
DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network too small to be good, made without training."""
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@dataclass
class Cluster:
    """A PostgreSQL server of our own."""

    folder: Path
    port: int
    made: int = 0

    def database(self, *, empty: bool = False) -> str:
        """Make a database and return its address; unless it is to be `empty` it has its tables, which take a second."""
        self.made += 1
        name = f"room{self.made}"
        if empty:
            self.sql("postgres", f"CREATE DATABASE {name}")
        else:
            self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self._address(name)

    def drop(self, address: str) -> None:
        """Remove a database: hundreds of them take a minute to remove at the end."""
        self.sql("postgres", f"DROP DATABASE {address.rpartition('/')[2]} WITH (FORCE)")

    def _address(self, name: str) -> str:
        return f"postgresql://room@127.0.0.1:{self.port}/{name}"

    @cached_property
    def _template(self) -> str:
        """The name of a database with tables and nothing in them."""
        self.sql("postgres", "CREATE DATABASE prepared")
        database = Database(self._address("prepared"))
        database.prepare()
        database.close()
        return "prepared"

    def sql(self, database: str, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._address(database), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def control(self, *words: str) -> None:
        """Run pg_ctl; PostgreSQL never runs as root."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        settings += " -c fsync=off -c full_page_writes=off"  # processes are killed here, but no machine
        command = [_binary("pg_ctl"), "-D", str(self.folder / "data"), "-w", "-s", "-t", "60", "-o", settings]
        run_as_postgres([*command, "-l", str(self.folder / "log"), *words])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server in a temporary folder, on loopback alone."""
    if not (_binary("initdb") and _binary("pg_ctl")):
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed (apt-get install postgresql)")
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    folder = Path(tempfile.mkdtemp(prefix="leukoscope-pg-", dir=memory if roomy else None))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    run_as_postgres([_binary("initdb"), "-D", str(folder / "data"), "-U", "room", "-A", "trust", "-E", "UTF8", "-N"])
    started = Cluster(folder, _free_port())
    started.control("start")
    yield started
    started.control("stop", "-m", "immediate")
    shutil.rmtree(folder, ignore_errors=True)


def _binary(name: str) -> str:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else "")


def run_as_postgres(command: list[str]) -> None:
    user = "postgres" if os.getuid() == 0 else None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database, of both kinds in turn; '' is SQLite beside the pictures."""
    if request.param == "sqlite":
        yield ""
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    made = cluster.database()
    yield made
    cluster.drop(made)


@dataclass
class Visitor:
    """Somebody who sends requests: a browser with its cookie and CSRF token."""

    client: TestClient
    csrf: str = ""

    def __getattr__(self, method: str) -> Any:
        def send(path: str, **more: Any) -> Any:
            headers = {"X-CSRF-Token": self.csrf} | more.pop("headers", {})
            return getattr(self.client, method)(f"/api/v1{path}", headers=headers, **more)

        return send

    def seen(self, path: str) -> dict[str, str]:
        """Return the header that names the newest state of a case, an image or a cell."""
        return {"If-Match": self.get(path).headers["etag"]}

    def review(self, cell: int, label: str, **more: Any) -> Any:
        """Label a cell as it is now."""
        return self.post(f"/cells/{cell}/reviews", json={"label": label, **more}, headers=self.seen(f"/cells/{cell}"))

    def undo(self, case: int) -> Any:
        """Take back the last review."""
        return self.post(f"/cases/{case}/undo", headers=self.seen(f"/cases/{case}"))

    def remove(self, path: str) -> Any:
        """Delete something as it is now."""
        return self.delete(path, headers=self.seen(path))

    def sign(self, case: int, **said: Any) -> Any:
        """Sign a case off as it is now."""
        return self.post(f"/cases/{case}/sign-off", json=said, headers=self.seen(f"/cases/{case}"))

    def reopen(self, case: int) -> Any:
        """Open a signed case again."""
        return self.delete(f"/cases/{case}/sign-off", headers=self.seen(f"/cases/{case}"))

    def case(self, name: str = "case", *, pictures: list[bytes] | None = None, **fields: Any) -> int:
        """Make a case, send pictures into it, wait until they are analysed."""
        case: int = self.post("/cases", json={"name": name, **fields}).json()["id"]
        if pictures:
            sent = self.send(case, *pictures)
            assert sent.status_code == 202, sent.text
        return case

    def send(self, case: int, *pictures: bytes, wait: int = 25, names: tuple[str, ...] = (), **fields: Any) -> Any:
        """Send pictures into a case."""
        named = names or tuple(f"cell-{number}.png" for number in range(len(pictures)))
        files = [("files", (name, content)) for name, content in zip(named, pictures, strict=True)]
        return self.post(f"/cases/{case}/images?wait={wait}", files=files, data=fields)

    def cells(self, case: int, **query: Any) -> list[dict[str, Any]]:
        """Return the cells of a case."""
        found: list[dict[str, Any]] = self.get(f"/cases/{case}/cells", params=query).json()["cells"]
        return found


@dataclass
class Place:
    """A room that is open, and how to enter it."""

    room: Room
    app: Any
    clients: list[TestClient] = field(default_factory=list)

    def nobody(self) -> Visitor:
        """Somebody without an account."""
        client = TestClient(self.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        self.clients.append(client)
        return Visitor(client)

    def visitor(self, name: str, password: str = PASSWORD) -> Visitor:
        """Somebody who has signed in with a password."""
        entering = self.nobody()
        answer = entering.post("/session", json={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        entering.csrf = answer.json()["csrf"]
        return entering

    def account(self, name: str, *, role: str = "reader", laboratory: str = "north") -> None:
        """Make an account."""
        with self.room.database.writing() as session:
            add_account(session, name, role=role, laboratory=laboratory).password = hashed()

    def local(self) -> Visitor:
        """Whoever sits at the machine."""
        entering = self.nobody()
        assert self.room.token
        entering.csrf = entering.post("/session", json={"token": self.room.token.text}).json()["csrf"]
        return entering


@cache
def hashed() -> str:
    """The hash of PASSWORD, with the least memory: those of the room are slow on purpose, at every sign-in."""
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)


class KeptSandbox(Sandbox):
    """Processes that decode for all rooms of a session: to start them takes longer than most tests."""

    def close(self) -> None:
        """Go on: the session ends them."""

    def end(self) -> None:
        """End all processes."""
        super().close()


@pytest.fixture(scope="session")
def kept_sandbox() -> Iterator[KeptSandbox]:
    """Where pictures are decoded; `Sandbox` itself is for tests of what goes wrong in it."""
    kept = KeptSandbox()
    yield kept
    kept.end()


@pytest.fixture
def settings(tmp_path: Path, bundle: Path, database: str) -> RoomSettings:
    """A room for one machine."""
    return RoomSettings(data=tmp_path / "room", database=database, model=bundle)


@pytest.fixture
def place(settings: RoomSettings, kept_sandbox: KeptSandbox) -> Iterator[Place]:
    """A room for one machine, open."""
    yield from opened(settings, kept_sandbox)


@pytest.fixture
def laboratory(settings: RoomSettings, kept_sandbox: KeptSandbox) -> Iterator[Place]:
    """A room of two laboratories with accounts: ada (admin), rita (reviewer), ron (reader) of north; sue of south."""
    room = open_room(settings)
    room.sandbox = kept_sandbox
    place = Place(room, create_app(settings, room=room))
    for name, role in (("ada", "admin"), ("rita", "reviewer"), ("ron", "reader")):
        place.account(name, role=role)
    place.account("sue", role="admin", laboratory="south")
    room.token = None
    with TestClient(place.app, base_url="http://127.0.0.1"):
        yield place


def opened(settings: RoomSettings, sandbox: Sandbox | None = None) -> Iterator[Place]:
    """Open a room and close it at the end."""
    room = open_room(settings)
    room.sandbox = sandbox or room.sandbox
    place = Place(room, create_app(settings, room=room))
    with TestClient(place.app, base_url="http://127.0.0.1"):
        yield place


def cell_picture(seed: int = 0) -> bytes:
    """A synthetic cell on black, as PNG; every seed gives another."""
    return png(synthetic(seed))


def synthetic(seed: int) -> NDArray[np.uint8]:
    """A synthetic cell on black, (160, 160, 3)."""
    donor = Donor("P", bool(seed % 2), 44 + seed % 7, np.array([0.9, 1.25, 0.55]) * (0.8 + 0.05 * (seed % 9)), 3.0)
    return draw_cell(donor, np.random.default_rng(seed))


def png(pixels: NDArray[np.uint8], **more: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **more)
    return stream.getvalue()
