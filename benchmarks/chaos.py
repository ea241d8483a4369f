"""Everything that can end in the middle of the work ends, again and again; what was promised is counted afterwards.

    python benchmarks/chaos.py [--minutes 10] [--database sqlite|postgresql|both] [--seed 0] [--json OUT]

A reading room works in processes of its own, as in use. Four people send pictures and review cells without a pause;
what the server has acknowledged is written down. Meanwhile, every few seconds and drawn with a seed:

server      kill -9 of the server (it is started again on the same folder)
analysis    kill -9 of the process that analyses
database    kill -9 of all of PostgreSQL (it is started again and recovers)
disk        the disk of the room is full for two seconds (needs the right to mount)
clock       the clock of the server steps a day ahead or back (needs libfaketime)

When the time is over the queue runs empty, and counted are: acknowledged pictures and reviews that are not there
(lost), pictures with more than one cell and predictions that are there twice (double), pictures given up, answers that
were errors of the program (500), and whether the audit log is intact.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from sqlalchemy import func, select

from leukoscope.data.synthetic import Donor, draw_cell
from leukoscope.server.audit_log import AuditLog
from leukoscope.server.database import FAILED, CellRow, Database, ImageRow, JobRow, PredictionRow, ReviewRow
from leukoscope.server.settings import RoomSettings

PEOPLE, TOGETHER = 4, 3
PAUSE = (3.0, 7.0)  # seconds between two events
STUCK_SECONDS = 180  # without any image analysed, after which the queue counts as stuck
DISK_MIB = 96
PASSWORD = "seven purple herons"
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass
class Room:
    """A server that is started again whenever it ends, on one folder and one port."""

    data: Path
    database: str
    clock: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def make_account(self) -> None:
        """Make the account that all people use."""
        file = self.data.parent / "password"
        file.write_text(PASSWORD)
        place = ["--data", str(self.data), *(["--database", self.database] if self.database else [])]
        command = [sys.executable, "-m", "leukoscope", "accounts", "add", "ada", "--role", "admin", *place]
        subprocess.run([*command, "--password-file", str(file)], check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start the server, and wait until it says that it is open."""
        self.port = self.port or free_port()
        command = [sys.executable, "-m", "leukoscope", "serve", "--data", str(self.data), "--port", str(self.port)]
        command += ["--no-browser", *(["--database", self.database] if self.database else [])]
        faked = {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        env = os.environ | (faked if _FAKETIME.exists() else {})
        with (self.data.parent / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        assert self.process.stdout
        self.process.stdout.readline()

    def client(self) -> httpx2.Client:
        """Return a connection of somebody who has just signed in."""
        client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=40)
        signed_in = client.post("/session", json={"name": "ada", "password": PASSWORD})
        signed_in.raise_for_status()
        client.headers["X-CSRF-Token"] = signed_in.json()["csrf"]
        return client

    def analysis(self) -> list[int]:
        """Return the numbers of the processes that analyse."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        numbers = [int(each) for file in children for each in file.read_text().split()]
        return [each for each in numbers if b"leukoscope.server.worker" in command_of(each)]


def command_of(process: int) -> bytes:
    """Return the command line of a process, or nothing where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def still_runs(process: int) -> bool:
    """Tell whether a process has not ended; one that only waits to be noticed by its parent has."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def free_port() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Promised:
    """What the server has acknowledged."""

    pictures: set[str] = field(default_factory=set)
    reviews: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)


class Person(threading.Thread):
    """Somebody who sends and reviews until the end, whatever the server answers."""

    def __init__(self, room: Room, promised: Promised, end: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self._room, self._promised, self._end, self._rng = room, promised, end, np.random.default_rng(seed)
        self._case: int | None = None
        self.ready = False
        """Whether there is something to review."""

    def run(self) -> None:
        """Go on; an answer that does not come is asked for again."""
        while not self._end.is_set():
            try:
                with contextlib.closing(self._room.client()) as client:
                    while not self._end.is_set():
                        self._turn(client)
            except (httpx2.HTTPError, OSError, ValueError, KeyError):
                time.sleep(0.3)

    def _turn(self, client: httpx2.Client) -> None:
        if self._case is None:
            self._case = self._answer(client.post("/cases", json={"name": "chaos"}))["id"]
        names = [f"{uuid.uuid4().hex}.png" for _ in range(TOGETHER)]
        files = [("files", (name, self._picture())) for name in names]
        sent = self._answer(client.post(f"/cases/{self._case}/images", files=files, data={"kind": "crops"}))
        self._promised.pictures |= {each["name"] for each in sent["accepted"]}
        self.ready |= bool(self._answer(client.get(f"/cases/{self._case}/progress"))["done"])
        page = self._answer(client.get(f"/cases/{self._case}/cells?order=number&limit=4"))
        for cell in page["cells"]:
            note = uuid.uuid4().hex
            said = {"label": "unsure", "note": note}
            headers = {"If-Match": f'"{cell["etag"]}"'}
            self._answer(client.post(f"/cells/{cell['id']}/reviews", json=said, headers=headers))
            self._promised.reviews.add(note)

    def _answer(self, answer: httpx2.Response) -> Any:
        self._promised.statuses[answer.status_code] += 1
        answer.raise_for_status()
        return answer.json()

    def _picture(self) -> bytes:
        donor = Donor("P", bool(self._rng.integers(2)), 46, np.array([0.9, 1.25, 0.55]), 3.0)
        stream = io.BytesIO()
        Image.fromarray(draw_cell(donor, self._rng)).save(stream, "PNG")
        return stream.getvalue()


class Cluster:
    """A PostgreSQL of our own, on loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._user = "postgres" if os.getuid() == 0 else None
        folder.mkdir()
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "room", "-A", "trust", "-E", "UTF8")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "room", "room")
        self.url = f"postgresql://room@127.0.0.1:{self._port}/room"

    def start(self) -> None:
        """Start, or start again after a kill."""
        for left in (self._folder / "data" / "postmaster.pid", *self._folder.glob(".s.PGSQL.*")):
            left.unlink(missing_ok=True)
        settings = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run(
            "pg_ctl",
            "-D",
            str(self._folder / "data"),
            "-w",
            "-s",
            "-o",
            settings,
            "-l",
            str(self._folder / "log"),
            "start",
        )

    def kill(self) -> None:
        """End every process at once, as a machine does that loses power, and start again."""
        first = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = (first, *map(int, children))
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until = time.monotonic() + 60  # a busy machine takes a while to end them
        while any(still_runs(process) for process in processes) and time.monotonic() < until:
            time.sleep(0.1)
        self.start()

    def stop(self) -> None:
        """End for good."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-s", "-m", "immediate", "stop")

    def _run(self, name: str, *words: str) -> None:
        places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        program = shutil.which(name) or str(places[-1])
        subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL, user=self._user, cwd="/")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at a folder; yield whether that was allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "tmpfs", str(folder)]
    allowed = os.getuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, seconds: float) -> None:
    """Take all room on a disk for a while."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    time.sleep(seconds)
    ballast.unlink()


def step(clock: Path, rng: random.Random) -> None:
    """Set the clock of the server a day ahead or back, or right again."""
    clock.write_text(rng.choice(["+1d", "-1d", "+0"]) + "\n")


def events(room: Room, cluster: Cluster | None, *, disk: bool) -> list[str]:
    """Return what can happen to a room."""
    found = ["server", "analysis", *(["database"] if cluster else []), *(["disk"] if disk else [])]
    return found + (["clock"] if _FAKETIME.exists() else [])


def happen(name: str, room: Room, cluster: Cluster | None, rng: random.Random) -> None:
    """Let something end in the middle of the work, and let it begin again."""
    assert room.process
    if name == "server":
        room.process.kill()
        room.process.wait()
        room.start()
    elif name == "analysis":
        for process in room.analysis():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    elif name == "database" and cluster:
        cluster.kill()
    elif name == "disk":
        fill(room.data, 2)
    elif name == "clock":
        step(room.clock, rng)


def counted(room: Room, promised: Promised) -> dict[str, Any]:
    """Wait until the queue is empty, end the server, and count."""
    database = Database(RoomSettings(data=room.data, database=room.database).url)
    left, moved = -1, time.monotonic()
    while left and time.monotonic() < moved + STUCK_SECONDS:
        with database.reading() as session:
            now = (
                session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state.in_(("queued", "running"))))
                or 0
            )
        left, moved = now, moved if now == left else time.monotonic()
        time.sleep(1)
    assert room.process
    room.process.terminate()
    room.process.wait(60)
    with database.reading() as session:
        names, notes = set(session.scalars(select(ImageRow.name))), set(session.scalars(select(ReviewRow.note)))
        per_image = Counter(session.scalars(select(CellRow.image_id)))
        rows = session.execute(select(PredictionRow.cell_id, PredictionRow.version, PredictionRow.bundle))
        said = Counter(tuple(row) for row in rows)
        failed = session.scalar(select(func.count()).select_from(ImageRow).where(ImageRow.state == FAILED)) or 0
        waiting = (
            session.scalar(select(func.count()).select_from(JobRow).where(JobRow.state.in_(("queued", "running")))) or 0
        )
        log = AuditLog(room.data).verify(session)
    return {
        "pictures": len(promised.pictures),
        "reviews": len(promised.reviews),
        "lost_pictures": len(promised.pictures - names),
        "lost_reviews": len(promised.reviews - notes),
        "double_cells": sum(count > 1 for count in per_image.values()),
        "double_predictions": sum(count > 1 for count in said.values()),
        "without_answer": len(names) - len(per_image) - failed,
        "given_up": failed,
        "waiting": waiting,
        "errors_500": promised.statuses[500],
        "statuses": dict(sorted(promised.statuses.items())),
        "log_lines": log["entries"],
        "log": "intact",
    }


def run(kind: str, *, minutes: float, seed: int) -> dict[str, Any]:
    """Let chaos reign over one room."""
    folder, rng = Path(tempfile.mkdtemp(prefix="leukoscope-chaos-")), random.Random(seed)
    folder.chmod(0o755)
    cluster = Cluster(folder / "postgresql") if kind == "postgresql" else None
    promised, end, happened = Promised(), threading.Event(), Counter[str]()
    room: Room | None = None
    try:
        with small_disk(folder / "room") as disk:
            (folder / "clock").write_text("+0\n")
            room = Room(folder / "room", cluster.url if cluster else "", folder / "clock")
            room.make_account()
            room.start()
            people = [Person(room, promised, end, seed + number) for number in range(PEOPLE)]
            for person in people:
                person.start()
            while not all(person.ready for person in people):
                time.sleep(0.5)
            until = time.monotonic() + 60 * minutes
            while time.monotonic() < until:
                time.sleep(rng.uniform(*PAUSE))
                name = rng.choice(events(room, cluster, disk=disk))
                happen(name, room, cluster, rng)
                happened[name] += 1
            (folder / "clock").write_text("+0\n")
            end.set()
            for person in people:
                person.join(60)
            return {"database": kind, "minutes": minutes, "events": dict(happened)} | counted(room, promised)
    finally:
        if room and room.process and room.process.poll() is None:
            room.process.kill()
        if cluster:
            with contextlib.suppress(subprocess.CalledProcessError):  # it may be dead already
                cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run, print a line for each database, and end with an error where anything was lost or is there twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="all together")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    kinds = ["sqlite", "postgresql"] if args.database == "both" else [args.database]
    found = []
    for kind in kinds:
        found.append(run(kind, minutes=args.minutes / len(kinds), seed=args.seed))
        print(json.dumps(found[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    wrong = ("lost_pictures", "lost_reviews", "double_cells", "double_predictions")
    wrong += ("without_answer", "waiting", "errors_500")
    sys.exit(int(any(each[name] for each in found for name in wrong)))


if __name__ == "__main__":
    main()
