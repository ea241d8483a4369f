"""The queue: rows that workers lease, and the threads that work on what was leased.

A lease that is not renewed goes to another worker. A job is finished in the same transaction that stores its results,
and only by the worker that still holds its lease: one that was thought dead and comes back stores nothing twice.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from .database import DONE, FAILED, QUEUED, RUNNING, CaseRow, ImageRow, JobRow, LaboratoryRow

LOG = logging.getLogger("leukoscope.server")
_PAUSE_SECONDS = 1.0  # after an error, until the next attempt
MOST_ATTEMPTS = 5
"""An image at which the program has died this often is given up."""
_ALONE = 2  # attempts after which an image is tried alone


@dataclass(frozen=True)
class LeasedJob:
    """A leased job."""

    job_id: int
    image_id: int
    case_id: int
    kind: str
    digest: str
    name: str
    um_per_px: float | None
    attempts: int = field(compare=False)
    bundle: str = field(default="", compare=False)
    """Seal of the model that answers its laboratory; '' for the room's own."""

    @property
    def alone(self) -> bool:
        """Whether nothing else may be under way with it: it did not come to an end twice."""
        return self.attempts > _ALONE


class BackgroundThread:
    """A thread that leases work from the database until it is stopped; several processes may each have one.

    A subclass defines `recover` and `work`. An error ends neither the thread nor the server: the database may be
    unreachable or the disk full for a while, and any other error is logged. After both, `recover` runs first.
    """

    def __init__(self, name: str, *, poll_seconds: float) -> None:
        """Prepare a thread that is called `name` in the log, and polls for work every `poll_seconds`."""
        self._name, self._poll_seconds, self._owner = name, poll_seconds, owner_name(name)
        self._stopping, self._wake_up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"leukoscope-{name}")
        self._failed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work now instead of after `poll_seconds`."""
        self._wake_up.set()

    def stop(self, *, seconds: float = 10) -> None:
        """Ask the thread to end after its current step, and wait for it so long at most."""
        self._stopping.set()
        self._wake_up.set()
        if self.alive:
            self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def recover(self, *, failed: bool) -> None:
        """Queue again what dead processes, or this thread before an error, had leased.

        failed: whether the last step ended in an error of the program, so that one of its jobs may be the cause.
        """
        raise NotImplementedError

    def work(self) -> bool:
        """Do what can be leased now; return whether there was anything."""
        raise NotImplementedError

    def _run(self) -> None:
        recover = True
        while not self._stopping.is_set():
            try:
                if recover:
                    self.recover(failed=self._failed)
                recover = self._failed = False
                self._wake_up.clear()
                if not self.work():
                    recover = not self._wake_up.wait(self._poll_seconds)
            except (SQLAlchemyError, OSError) as error:  # the database is unreachable or the disk full, for a while
                LOG.warning("%s waits: %s", self._name, type(error).__name__)
                recover = True
                self._stopping.wait(_PAUSE_SECONDS)
            except Exception:
                LOG.exception("%s failed", self._name)
                recover = self._failed = True
                self._stopping.wait(_PAUSE_SECONDS)


def owner_name(part: str = "analysis") -> str:
    """Return a name for a part of this process that no other process, now or later, has: host, number and start."""
    return f"{socket.gethostname()}/{part}/{os.getpid()}/{_started(os.getpid())}"


def enqueue_again(session: Session, images: Sequence[int]) -> None:
    """Queue images again that were analysed before."""
    session.execute(update(ImageRow).where(ImageRow.id.in_(images)).values(state=QUEUED, error=""))
    session.execute(update(JobRow).where(JobRow.image_id.in_(images)).values(state=QUEUED, owner="", attempts=0))


def enqueue(session: Session, images: Sequence[ImageRow], *, owner: str = "", seconds: float = 0) -> list[LeasedJob]:
    """Queue images for analysis; those that an owner is analysing already are leased to it."""
    lease = {"state": RUNNING, "owner": owner, "attempts": 1, "leased_until": time.time() + seconds} if owner else {}
    jobs = [JobRow(image_id=image.id, case_id=image.case_id, kind=image.kind, **lease) for image in images]
    session.add_all(jobs)
    session.flush()
    return [
        LeasedJob(job.id, each.id, each.case_id, each.kind, each.digest, each.name, each.um_per_px, job.attempts)
        for job, each in zip(jobs, images, strict=True)
    ]


def lease(session: Session, owner: str, *, most: int, seconds: float, young: bool = False) -> list[LeasedJob]:
    """Take up to `most` jobs, the oldest first; to be committed before work on them begins.

    What did not come to an end twice comes alone, so that a picture that ends the program takes no other with it,
    and not at all where only `young` jobs are asked for.
    """
    free = (JobRow.state == QUEUED) | ((JobRow.state == RUNNING) & (JobRow.leased_until < time.time()))
    wanted = free & (JobRow.attempts < _ALONE) if young else free
    chosen = (
        select(JobRow.id, JobRow.attempts)
        .where(wanted)
        .order_by(JobRow.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(chosen).all()
    if any(row.attempts >= MOST_ATTEMPTS for row in rows):
        give_up(session)
        rows = session.execute(chosen).all()
    if not rows:
        return []
    together = [row.id for row in rows if row.attempts < _ALONE]
    ids = together if rows[0].attempts < _ALONE else [rows[0].id]
    session.execute(
        update(JobRow)
        .where(JobRow.id.in_(ids))
        .values(state=RUNNING, owner=owner, attempts=JobRow.attempts + 1, leased_until=time.time() + seconds)
        .execution_options(synchronize_session=False)
    )
    picture = (ImageRow.kind, ImageRow.digest, ImageRow.name, ImageRow.um_per_px)
    columns = (JobRow.id, JobRow.image_id, JobRow.case_id, *picture, JobRow.attempts, LaboratoryRow.bundle)
    query = select(*columns).join(ImageRow).join(CaseRow, CaseRow.id == JobRow.case_id)
    query = query.join(LaboratoryRow, LaboratoryRow.id == CaseRow.laboratory_id)
    tasks = session.execute(query.where(JobRow.id.in_(ids)).order_by(JobRow.id))
    return [LeasedJob(*row) for row in tasks]


def renew(session: Session, owner: str, *, seconds: float) -> None:
    """Extend the leases of an owner that is still working."""
    session.execute(
        update(JobRow).where(JobRow.owner == owner, JobRow.state == RUNNING).values(leased_until=time.time() + seconds)
    )


def lock_cases(session: Session, tasks: Sequence[LeasedJob]) -> None:
    """Lock the cases of these jobs until this transaction ends, as every other change of a case does.

    Always in one order: without it, two writers of PostgreSQL wait for each other.
    """
    mine = CaseRow.id.in_({task.case_id for task in tasks})
    session.execute(select(CaseRow.id).where(mine).order_by(CaseRow.id).with_for_update(key_share=True))


def note_finished(session: Session, tasks: Sequence[LeasedJob]) -> None:
    """Give cases a new version whose analysis has come to its end: who signs must have seen all of it.

    While it is under way, a case keeps its version, so that it can be deleted.
    """
    mine = CaseRow.id.in_({task.case_id for task in tasks})
    open_ = select(JobRow.id).where(JobRow.case_id == CaseRow.id, JobRow.state.in_((QUEUED, RUNNING)))
    done = update(CaseRow).where(mine, ~open_.exists()).values(version=CaseRow.version + 1)
    session.execute(done.execution_options(synchronize_session=False))


def finish(session: Session, task: LeasedJob, owner: str, *, error: str = "") -> bool:
    """Mark a job as done or failed; False where it is no longer the owner's, so that nothing may be stored."""
    state = FAILED if error else DONE
    mine = (JobRow.id == task.job_id, JobRow.owner == owner, JobRow.state == RUNNING)
    booked = session.execute(update(JobRow).where(*mine).values(state=state))
    if booked.rowcount != 1:  # type: ignore[attr-defined]
        return False
    session.execute(update(ImageRow).where(ImageRow.id == task.image_id).values(state=state, error=error))
    return True


def hand_back(session: Session, owner: str, *, counts: bool) -> None:
    """Give the jobs of an owner back to the queue; `counts` when one of them may have broken the program."""
    mine = (JobRow.owner == owner, JobRow.state == RUNNING)
    attempts = JobRow.attempts if counts else JobRow.attempts - 1
    session.execute(update(JobRow).where(*mine).values(state=QUEUED, owner="", attempts=attempts))


def requeue_dead(session: Session) -> int:
    """Queue again what processes of this machine held that are no longer there; return how many jobs."""
    dead = dead_among(session.scalars(select(JobRow.owner).where(JobRow.state == RUNNING).distinct()))
    if not dead:
        return 0
    held = (JobRow.state == RUNNING, JobRow.owner.in_(dead))
    freed = session.execute(update(JobRow).where(*held).values(state=QUEUED, owner=""))
    return int(freed.rowcount)  # type: ignore[attr-defined]


def give_up(session: Session) -> None:
    """Fail jobs at which the program has died too often."""
    free = (JobRow.state == QUEUED) | ((JobRow.state == RUNNING) & (JobRow.leased_until < time.time()))
    hopeless = select(JobRow.image_id).where(free, JobRow.attempts >= MOST_ATTEMPTS)
    images = session.scalars(hopeless).all()
    if images:
        error = f"Given up after {MOST_ATTEMPTS} attempts that ended the program. Save the picture again."
        session.execute(update(JobRow).where(JobRow.image_id.in_(images)).values(state=FAILED))
        session.execute(update(ImageRow).where(ImageRow.id.in_(images)).values(state=FAILED, error=error))


def depth(session: Session) -> dict[str, int]:
    """Return the number of jobs in each state."""
    rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
    return dict.fromkeys((QUEUED, RUNNING, DONE, FAILED), 0) | dict(rows.all())


def dead_among(owners: Iterable[str]) -> list[str]:
    """Return the owners that were processes of this machine and are no longer there."""
    here = f"{socket.gethostname()}/"
    return [owner for owner in owners if owner.startswith(here) and not is_running(owner)]


def is_running(owner: str) -> bool:
    """Tell whether the process of an owner of this machine is still there."""
    _, number, started = owner.rsplit("/", 2)
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return _started(int(number)) == started


def _started(process: int) -> str:
    """Return when a process started, in ticks since the machine did; '' where it is not available."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
