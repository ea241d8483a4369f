"""The worker: takes images from the queue, asks the model, stores its answers.

It runs in a process of its own, so that people who read are answered while images are analysed, and so that a picture
that ends the program takes no answer with it. Tests and `--no-work` rooms may run it in a thread.
"""

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..errors import ImageError, LeukoscopeError
from ..images.read import RGB, read_image
from ..inference.opinions import Opinion
from ..inference.predictor import Predictor
from ..progress import bound_memory, in_parallel
from . import queue
from .analysis import (
    FieldsOfCases,
    LocatedCell,
    drawn_of,
    ensure_crops,
    is_field,
    requeue_outdated,
    store_cells,
    store_field_facts,
    store_new_opinion,
    update_cells,
)
from .audit_log import Actor, AuditLog
from .database import CROP, CaseRow, Database, ImageRow
from .learning import Fitter, ModelRegistry
from .queue import LeasedJob
from .refusals import Refusal
from .settings import MIB
from .store import PictureStore, png
from .uploads import StoredImage

LOG = logging.getLogger("leukoscope.server")
_AT_ONCE = 32  # jobs leased together
_FIRST, _THEN = 4, 24  # answers stored together: few at first, so that something is seen at once
_IDLE_SECONDS = 2.0  # how long until other processes' uploads are noticed
_RESTART_SECONDS = 1.0


@dataclass(frozen=True)
class ReadImage:
    """An image that was read, or why it was not; neither when its cells must be sought."""

    task: LeasedJob
    image: RGB | None = None
    error: str = ""


@dataclass(frozen=True)
class JudgedImage:
    """An image of one cell, the opinion on it, and the model that gave it."""

    task: LeasedJob
    opinion: Opinion
    predictor: Predictor


class Worker(queue.BackgroundThread):
    """The thread that analyses, and one that renews its leases; or the process that does both.

    A picture that needs more memory than there is (`bound`, in bytes, where the process has one) is tried again alone.
    """

    def __init__(
        self,
        database: Database,
        pictures: PictureStore,
        log: AuditLog,
        models: ModelRegistry,
        *,
        point: str,
        lease_seconds: float,
        counted: Callable[[int], None] = lambda cells: None,
        process_settings: str = "",
        bound: int = 0,
    ) -> None:
        super().__init__("analysis", poll_seconds=_IDLE_SECONDS)
        self._database, self._pictures, self._log, self._models = database, pictures, log, models
        self._point, self._seconds, self._counted = point, lease_seconds, counted
        self._fields = FieldsOfCases(database, pictures, point=point)
        self._asked, self._bound = itertools.count(1), bound
        self._fitter = Fitter(database, pictures, log, models, lease_seconds=lease_seconds)
        self._process = _WorkerProcess(process_settings, self._report_cells) if process_settings else None

    def start(self) -> None:
        """Start the threads, or the process."""
        super().start()
        if not self._process:
            threading.Thread(target=self._renew, daemon=True).start()
            self._fitter.start()

    def stop(self, *, seconds: float = 10) -> None:
        """End after the answers that are under way, and hand the rest back to the queue."""
        self._stopping.set()
        if self._process:
            self._process.stop(seconds)
        else:
            self._fitter.stop(seconds=seconds)
        super().stop(seconds=seconds)

    def wake(self) -> None:
        """Look for work now: for images to analyse, and models to fit."""
        super().wake()
        if self._process:
            self._process.wake()
        else:
            self._fitter.wake()

    def at_once(
        self, stored: StoredImage, queue_it: Callable[[str], list[LeasedJob]], *, predictor: Predictor
    ) -> tuple[list[LeasedJob], bool]:
        """Look at a picture for somebody who waits, while `queue_it` queues it as leased by the name that it is given.

        predictor: the model that answers them. Return its job, and whether that is done; the queue has it where it is
        no single cell, or cannot be read. Where the program breaks here, the lease runs out and the queue has it too.
        """
        owner = queue.owner_name(f"asked-{next(self._asked)}")
        with ThreadPoolExecutor(1) as beside:
            queued = beside.submit(queue_it, owner)
            opinion = self._opinion_on(stored.digest, stored.kind, predictor)
        tasks = queued.result()
        if opinion is not None:
            answered = [JudgedImage(task, opinion, predictor) for task in tasks]
            return tasks, self._store(answered, owner) == len(tasks)
        with self._database.writing(bulk=True) as session:
            queue.hand_back(session, owner, counts=False)
        self.wake()
        return tasks, False

    def _opinion_on(self, digest: str, kind: str, predictor: Predictor) -> Opinion | None:
        try:
            image = self._cell_of(digest, kind)
        except ImageError:
            return None  # the queue reports why
        return None if image is None else predictor.opinion(image, point=self._point)

    def _run(self) -> None:
        if self._process:
            self._process.run()
        else:
            super()._run()
            self.recover(failed=self._failed)

    def recover(self, *, failed: bool) -> None:
        """Queue again what was leased here before an error, and what dead processes left behind.

        An image that breaks the program is tried alone, and given up after a few attempts.
        """
        with self._database.writing(bulk=True) as session:
            queue.hand_back(session, self._owner, counts=failed)
            queue.requeue_dead(session)

    def work(self) -> bool:
        """Analyse until the queue is empty."""
        with self._database.reading() as session:
            self._log.note_head(session)
        return self._analyse_all()

    def _renew(self) -> None:
        while not self._stopping.wait(self._seconds / 3) and self.alive:
            try:
                with self._database.writing(bulk=True) as session:
                    queue.renew(session, self._owner, seconds=self._seconds)
            except SQLAlchemyError as trouble:
                LOG.warning("lease not renewed: %s", type(trouble).__name__)

    def _analyse_all(self) -> bool:
        """Analyse until the queue is empty; return whether there was anything."""
        fields: deque[ReadImage] = deque()
        answered: list[JudgedImage] = []
        room, last, anything = _FIRST, time.monotonic(), False
        for each in in_parallel(self._answer, self._crops(fields)):
            answered.append(each)
            anything = True
            if len(answered) >= room or time.monotonic() - last > 0.5:
                self._store(answered, self._owner)
                answered.clear()
                room, last = _THEN, time.monotonic()
        self._store(answered, self._owner)
        for field in fields:
            self._analyse_field(field)
        return anything or bool(fields)

    def _answer(self, given: tuple[LeasedJob, RGB]) -> JudgedImage:
        """Predict one cell with the model of the task's laboratory."""
        task, image = given
        predictor = self._models.named(task.bundle)
        return JudgedImage(task, predictor.opinion(image, point=self._point), predictor)

    def _crops(self, fields: deque[ReadImage]) -> Iterator[tuple[LeasedJob, RGB]]:
        """Yield the images of the queue that are single cells; append the others to `fields`."""
        for read in in_parallel(self._read, self._leased(fields)):
            if read.error:
                self._fail(read.task, read.error)
            elif read.image is None:
                fields.append(read)
            else:
                yield read.task, read.image

    def _leased(self, fields: deque[ReadImage]) -> Iterator[LeasedJob]:
        """Yield jobs until none is left, or one that must run alone; the rest waits for the next round."""
        tasks: list[LeasedJob] = []
        while not self._stopping.is_set() and len(fields) < _FIRST:
            with self._database.writing(bulk=True) as session:
                begun = bool(tasks)
                tasks = queue.lease(session, self._owner, most=_AT_ONCE, seconds=self._seconds, young=begun)
            yield from tasks
            if len(tasks) < _AT_ONCE or tasks[0].alone:
                return

    def _read(self, task: LeasedJob) -> ReadImage:
        """Read an image and determine whether it is a cell or a field."""
        try:
            self._models.named(task.bundle)
            return ReadImage(task, self._cell_of(task.digest, task.kind))
        except (ImageError, Refusal) as unusable:
            return ReadImage(task, error=sentence_of(unusable))
        except MemoryError:
            return ReadImage(task, error=self._too_heavy(task))

    def _too_heavy(self, task: LeasedJob) -> str:
        """Return the message for a picture that needs too much memory.

        Raises:
            MemoryError: others were under way with it; it is tried again alone.
        """
        if not task.alone:
            raise MemoryError
        most = f" than the {self._bound // MIB:,} MiB that analysis may take" if self._bound else " than there is"
        return f"Needs more memory{most}. Crop it, or send it at a coarser scale."

    def _cell_of(self, digest: str, kind: str) -> RGB | None:
        """Return the picture of a single cell, or None where cells must be sought.

        Raises:
            ImageError: it cannot be read.
        """
        if kind not in (CROP, "auto"):
            return None
        path = self._pictures.path(digest)
        try:
            image = read_image(path)
        except ImageError:
            if kind == "auto":
                return None
            raise
        return None if kind == "auto" and is_field(image, path) else image

    def _store(self, answered: list[JudgedImage], owner: str) -> int:
        """Store answers in one transaction, and with them that their jobs are done; return how many were still ours."""
        if not answered:
            return 0
        with self._booking([each.task for each in answered]) as session:
            done = [each for each in answered if self._book(session, each, owner=owner)]
            kept = [(each, self._keep(session, each)) for each in done]
            self._note_all(session, kept)
        self._report_cells(sum(cells for _, cells in kept))
        return len(done)

    def _book(self, session: Session, each: JudgedImage, *, owner: str) -> bool:
        return queue.finish(session, each.task, owner, error="" if each.opinion.readable else each.opinion.reason)

    def _keep(self, session: Session, each: JudgedImage) -> int:
        """Store the opinion on an image that is one cell; return how many cells that is."""
        task, opinion = each.task, each.opinion
        if not opinion.readable:
            return 0
        predictor, point = each.predictor, self._point
        if again := store_new_opinion(session, task.image_id, opinion, predictor=predictor, point=point):
            return again
        cells = [(LocatedCell(task.digest), opinion)]
        return len(store_cells(session, task.case_id, task.image_id, cells, predictor=predictor, point=point))

    def _analyse_field(self, read: ReadImage) -> None:
        task = read.task
        try:
            predictor = self._models.named(task.bundle)
            found = self._fields.judge(task.image_id, predictor)
        except LeukoscopeError as unusable:
            self._fail(task, sentence_of(unusable))
            return
        except Exception as failed:
            if not out_of_memory(failed):
                raise
            self._fail(task, self._too_heavy(task))
            return
        crops = [png(each.crop) for each in found.cells]
        digests = self._pictures.add_all(crops)
        cells = [(drawn_of(each.cell, digest), each.opinion) for each, digest in zip(found.cells, digests, strict=True)]
        with self._booking([task]) as session:
            if not queue.finish(session, task, self._owner):
                return
            ensure_crops(session, self._pictures, crops)
            image = session.get_one(ImageRow, task.image_id, populate_existing=True)
            again = None
            if "taken" in image.facts:
                again = update_cells(session, image, cells, predictor=predictor, point=self._point)
                program = _program(session, image.case_id)
                self._log.add(session, program, "judged again", kind="image", item=image.id, changed=again["changed"])
            else:
                store_cells(session, task.case_id, task.image_id, cells, predictor=predictor, point=self._point)
            store_field_facts(session, task.image_id, found, again=again)
            requeue_outdated(session, task.image_id, found)
            self._note(session, task.case_id, cells=len(cells), bundle=predictor.manifest.seal)
        self._report_cells(len(cells))

    def _fail(self, task: LeasedJob, error: str) -> None:
        with self._booking([task]) as session:
            queue.finish(session, task, self._owner, error=error)
        self._report_cells(0)

    @contextmanager
    def _booking(self, tasks: list[LeasedJob]) -> Iterator[Session]:
        """Yield a session in which jobs may be finished."""
        with self._database.writing(bulk=True) as session:
            queue.lock_cases(session, tasks)
            yield session
            session.flush()
            queue.note_finished(session, tasks)

    def _note_all(self, session: Session, kept: list[tuple[JudgedImage, int]]) -> None:
        """Write a line for each case, with the cells that a model judged of it."""
        cells: Counter[tuple[int, str]] = Counter()
        for each, count in kept:
            cells[each.task.case_id, each.predictor.manifest.seal] += count
        for (case_id, seal), count in cells.items():
            if count:
                self._note(session, case_id, cells=count, bundle=seal)

    def _note(self, session: Session, case_id: int, *, cells: int, bundle: str) -> None:
        program = _program(session, case_id)
        self._log.add(session, program, "analysed", kind="case", item=case_id, cells=cells, bundle=bundle)

    def _report_cells(self, cells: int) -> None:
        self._counted(cells)


def _program(session: Session, case_id: int) -> Actor:
    """Return the program as it works for the laboratory of a case."""
    return Actor(laboratory_id=session.scalar(select(CaseRow.laboratory_id).where(CaseRow.id == case_id)))


class _WorkerProcess:
    """The process that works; it is started again when it dies, and ends with the server, however that ends."""

    def __init__(self, settings: str, on_cells: Callable[[int], None]) -> None:
        self._settings, self._on_cells = settings, on_cells
        self._process: subprocess.Popen[str] | None = None
        self._end = threading.Event()

    def run(self) -> None:
        """Keep a process at work until `stop`."""
        while not self._end.is_set():
            try:
                self._work()
            except OSError as trouble:
                LOG.warning("analysis does not start: %s", type(trouble).__name__)
            if not self._end.is_set():
                LOG.warning("the process that analyses has ended; it is started again")
                self._end.wait(_RESTART_SECONDS)

    def _work(self) -> None:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._send(self._settings)
        for line in self._process.stdout:  # until it ends
            self._on_cells(int(line))
        self._process.wait()

    def wake(self) -> None:
        """Report that there is something in the queue."""
        self._send("")

    def _send(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # once started again, it looks for work
            self._process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def stop(self, seconds: float) -> None:
        """End the process after the answers that are under way."""
        self._end.set()
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()


def out_of_memory(failed: Exception) -> bool:
    """Tell whether something failed for want of memory, as Python, OpenCV or ONNX Runtime reports it."""
    text = str(failed).lower()
    return isinstance(failed, MemoryError) or any(words in text for words in ("insufficient memory", "bad_alloc"))


def sentence_of(error: LeukoscopeError) -> str:
    """Return an error's sentence without the path in the store, which means nothing to a reader."""
    return error.sentence if isinstance(error, ImageError) else str(error)


_NICE = 5  # people who read go first


def main() -> None:
    """Work on the queue of the room whose settings come on standard input; each later line means new work.

    How many cells were analysed goes out, a line each time. The process ends with its input.
    """
    import signal

    from .room import open_room
    from .settings import RoomSettings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the server decides when to end
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    settings = RoomSettings.model_validate_json(sys.stdin.readline())
    room = open_room(settings.model_copy(update={"apart": False}), counted=_say)
    bound_memory(settings.analysis_bytes)
    room.worker.start()
    for _ in sys.stdin:
        room.worker.wake()
    room.close()


def _say(cells: int) -> None:
    sys.stdout.write(f"{cells}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    main()
