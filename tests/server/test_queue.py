"""The queue: nothing lost, nothing counted twice, whatever dies in between."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from leukoscope.inference.predictor import Predictor
from leukoscope.server import queue
from leukoscope.server.database import FAILED, CaseRow, CellRow, Database, ImageRow, JobRow, PredictionRow
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Cluster, Place, Visitor, cell_picture, opened, png, synthetic

BIG = 500


@pytest.fixture
def idle(settings: RoomSettings) -> Iterator[Place]:
    """A room whose worker is elsewhere."""
    yield from opened(settings.model_copy(update={"work": False}))


def filled(place: Place, *, pictures: int) -> tuple[Visitor, int]:
    """Return somebody and a case with so many cells in the queue, of four different pictures."""
    me = place.local()
    case = me.case()
    kinds = [cell_picture(seed) for seed in range(4)]
    for start in range(0, pictures, 100):
        me.send(case, *[kinds[number % 4] for number in range(min(100, pictures - start))], wait=0)
    return me, case


def counts(database: Database) -> dict[str, int]:
    """Return how many images, cells, predictions there are, and how many images have more than one cell."""
    with database.reading() as session:
        per_image = Counter(session.scalars(select(CellRow.image_id)))
        return {
            "images": session.scalar(select(func.count()).select_from(ImageRow)) or 0,
            "cells": per_image.total(),
            "predictions": session.scalar(select(func.count()).select_from(PredictionRow)) or 0,
            "twice": sum(count > 1 for count in per_image.values()),
        }


def start_worker(settings: RoomSettings) -> subprocess.Popen[bytes]:
    """Start a process of its own that works on the queue of a room."""
    code = (
        "import sys, time; from pathlib import Path; from leukoscope.server.room import open_room;"
        "from leukoscope.server.settings import RoomSettings;"
        "room = open_room(RoomSettings.model_validate_json(sys.argv[1])); room.worker.start(); print('up', flush=True);"
        "time.sleep(300)"
    )
    working = settings.model_copy(update={"work": True})
    started = subprocess.Popen([sys.executable, "-c", code, working.model_dump_json()], stdout=subprocess.PIPE)
    assert started.stdout
    started.stdout.readline()
    return started


def wait_until(place: Place, *, cells: int, seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while (found := counts(place.room.database)["cells"]) < cells:
        assert time.monotonic() < until, f"{found} of {cells} cells after {seconds} s"
        time.sleep(0.05)


def test_kill_9_in_the_middle_of_500_cells_loses_nothing_and_counts_nothing_twice(idle: Place) -> None:
    me, case = filled(idle, pictures=BIG)
    for share in (0.2, 0.6):
        worker = start_worker(idle.room.settings)
        wait_until(idle, cells=int(share * BIG))
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        assert counts(idle.room.database)["cells"] < BIG, "it was killed in the middle"
    worker = start_worker(idle.room.settings)
    wait_until(idle, cells=BIG)
    worker.kill()
    found = counts(idle.room.database)
    assert found == {"images": BIG, "cells": BIG, "predictions": BIG, "twice": 0}
    assert me.get(f"/cases/{case}/progress").json()["done"] == BIG
    numbers = [cell["number"] for cell in me.cells(case, order="number", limit=500)]
    assert numbers == list(range(1, BIG + 1))


def test_two_processes_share_one_queue(idle: Place) -> None:
    filled(idle, pictures=200)
    workers = [start_worker(idle.room.settings) for _ in range(2)]
    wait_until(idle, cells=200)
    with idle.room.database.reading() as session:
        owners = set(session.scalars(select(JobRow.owner)))
    for worker in workers:
        worker.kill()
    assert counts(idle.room.database) == {"images": 200, "cells": 200, "predictions": 200, "twice": 0}
    assert len(owners) >= 1


def test_whoever_lost_the_lease_can_store_nothing(idle: Place) -> None:
    filled(idle, pictures=1)
    database = idle.room.database
    with database.writing() as session:
        (task,) = queue.lease(session, "first", most=5, seconds=-1)
    with database.writing() as session:
        (again,) = queue.lease(session, "second", most=5, seconds=30)
        assert again == task
        assert not queue.finish(session, task, "first")
        assert queue.finish(session, task, "second")
        assert not queue.finish(session, task, "second"), "and nobody finishes twice"


def test_an_image_at_which_the_program_dies_is_given_up_alone(idle: Place) -> None:
    me, case = filled(idle, pictures=4)
    database = idle.room.database
    for _ in range(queue.MOST_ATTEMPTS):
        with database.writing() as session:
            tasks = queue.lease(session, "dies", most=1, seconds=-1)
        assert len(tasks) == 1
    with database.writing() as session:
        left = queue.lease(session, "lives", most=10, seconds=30)
    assert {task.image_id for task in left}.isdisjoint({tasks[0].image_id})
    failures = me.get(f"/cases/{case}/progress").json()["failures"]
    assert [each["image"] for each in failures] == [tasks[0].image_id]
    assert "Given up" in failures[0]["error"]


def test_what_failed_twice_is_tried_alone(idle: Place) -> None:
    filled(idle, pictures=6)
    for _ in range(2):
        with idle.room.database.writing() as session:
            assert len(queue.lease(session, "dies", most=4, seconds=-1)) == 4
    with idle.room.database.writing() as session:
        assert len(queue.lease(session, "lives", most=4, seconds=30)) == 1


def test_an_error_in_the_program_is_not_tried_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Predictor.opinion

    def breaks(self: Predictor, image: Any, **more: Any) -> Any:
        if len(image) == 50:
            raise RuntimeError("a bug")
        return real(self, image, **more)

    monkeypatch.setattr(Predictor, "opinion", breaks)
    me = place.local()
    case = me.case()
    me.send(case, cell_picture(0), png(synthetic(3)[:50, :50]), cell_picture(1), wait=25)
    progress = me.get(f"/cases/{case}/progress").json()
    assert (progress["done"], progress["failed"]) == (2, 1)


def test_a_case_deleted_while_it_is_analysed_leaves_nothing(idle: Place) -> None:
    me, case = filled(idle, pictures=300)  # enough that the last is not done before the case is deleted
    worker = start_worker(idle.room.settings)
    wait_until(idle, cells=4)
    removed = me.remove(f"/cases/{case}")
    assert removed.status_code == 200, removed.text
    time.sleep(0.5)
    other = me.case()
    me.send(other, cell_picture(1), wait=0)
    wait_until(idle, cells=1)
    worker.kill()
    with idle.room.database.reading() as session:
        assert session.scalars(select(CaseRow.id)).all() == [other]
        assert session.scalars(select(JobRow.state)).all() == ["done"]
        assert session.scalar(select(func.count()).select_from(CellRow)) == 1


def test_a_database_that_goes_away_comes_back_with_everything(cluster: Cluster, tmp_path: Path, bundle: Path) -> None:
    settings = RoomSettings(data=tmp_path / "room", database=cluster.database(), model=bundle)
    for place in opened(settings):
        me, case = filled(place, pictures=100)
        cluster.control("stop", "-m", "immediate")  # as if the machine lost power, in the middle of the work
        away = me.post("/cases", json={"name": "late"})
        assert (away.status_code, away.json()["error"]["code"]) == (503, "database_away")
        assert "retry-after" in away.headers
        assert me.get("/health").status_code == 503
        cluster.control("start")
        until = time.monotonic() + 240
        while me.get(f"/cases/{case}/progress").json().get("done") != 100 and time.monotonic() < until:
            time.sleep(0.2)
        assert counts(place.room.database) == {"images": 100, "cells": 100, "predictions": 100, "twice": 0}
        assert me.get("/health").status_code == 200
        assert me.get("/cases").json()["total"] == 1, "what was refused was not half-written"


def test_a_locked_database_is_waited_for(place: Place) -> None:
    """A writer that holds SQLite for a while delays others, and breaks nothing."""
    if place.room.settings.database:
        pytest.skip("PostgreSQL has many writers at a time")
    me, held = place.local(), threading.Event()

    def hold() -> None:
        with place.room.database.writing() as session:
            session.execute(text("SELECT 1"))
            held.set()
            time.sleep(1.0)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    assert me.post("/cases", json={"name": "patient"}).status_code == 201
    holder.join()


def test_owners_tell_the_living_from_the_dead() -> None:
    assert queue.is_running(queue.owner_name())
    assert not queue.is_running(f"{socket.gethostname()}/{os.getpid()}/1"), "another process had this number before"


def test_asking_whether_an_owner_lives_does_not_end_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        host, _, _ = queue.owner_name().rsplit("/", 2)
        owner = f"{host}/{process.pid}/{queue._started(process.pid)}"
        assert queue.is_running(owner)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.communicate(b"\n")
    assert process.returncode == 0
    assert queue.dead_among([owner, queue.owner_name()]) == [owner]


def test_a_black_picture_is_refused_by_name_and_blocks_nothing(place: Place) -> None:
    me = place.local()
    case = me.case()
    me.send(case, png(synthetic(1)[:20, :20] * 0), kind="crops")
    cells = me.cells(case)
    assert [cell["decision"] for cell in cells] == ["refused"]
    assert "black" in cells[0]["reason"]
    assert me.get(f"/cases/{case}/progress").json()[FAILED] == 0


def test_the_analysis_is_a_process_of_its_own_that_is_started_anew(settings: RoomSettings) -> None:
    """Kill -9 of the process that analyses, again and again: the server stays, and every image is analysed once."""
    for place in opened(settings.model_copy(update={"apart": True, "lease_seconds": 2})):
        me = place.local()
        case = me.case()
        kinds = [cell_picture(seed) for seed in range(4)]
        for start in range(3):
            me.send(case, *[kinds[number % 4] for number in range(20)], wait=0)
            wait_until(place, cells=20 * start + 2)
            apart = place.room.worker._process
            assert apart
            assert apart._process
            os.kill(apart._process.pid, signal.SIGKILL)
        wait_until(place, cells=60)
        assert counts(place.room.database) == {"images": 60, "cells": 60, "predictions": 60, "twice": 0}
        assert me.get("/health").status_code == 200
        assert "leukoscope_cells_analysed_total" in me.get("/metrics").text
        process = apart._process
    assert process is not None
    assert process.wait(15) is not None, "it ends with the server"


def test_people_write_before_bulk_does(place: Place) -> None:
    """On SQLite a person waits for the write that is under way, and for no other."""
    if place.room.settings.database:
        pytest.skip("PostgreSQL has many writers at a time")
    database, order, held = place.room.database, [], threading.Event()

    def write(name: str, *, bulk: bool) -> None:
        with database.writing(bulk=bulk):
            held.set()
            order.append(name)
            time.sleep(0.2)

    threads = [threading.Thread(target=write, args=("first",), kwargs={"bulk": True})]
    threads[0].start()
    held.wait(5)
    for name, bulk in (("bulk", True), ("more bulk", True), ("person", False)):
        threads.append(threading.Thread(target=write, args=(name,), kwargs={"bulk": bulk}))
        threads[-1].start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == ["first", "person", "bulk", "more bulk"]
