"""Everything that one server process holds: database, store, log, model, worker, counters."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from ..bundle.manifest import Manifest
from ..bundle.signature import check_signature
from ..errors import UnknownNameError, UsageError
from ..inference.predictor import Predictor, load
from .accounts import Attempts, OneTimeToken, has_admin, has_people, local_account
from .analysis import store_bundle
from .audit_log import AuditLog
from .database import Database
from .hospital import Sender
from .learning import ModelRegistry
from .oidc import Provider
from .sandbox import Sandbox
from .settings import RoomSettings
from .store import PictureStore, make_private
from .summary import labels_of, titles_of
from .worker import Worker

LOG = logging.getLogger("leukoscope.server")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)


class RequestMetrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("leukoscope_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "leukoscope_request_seconds", "Seconds per request.", labels[:2], buckets=_SECONDS, registry=self._registry
        )
        self._cells = Counter("leukoscope_cells_analysed", "Cells analysed by this process.", registry=self._registry)
        self._queue = Gauge("leukoscope_jobs", "Images in the queue.", ("state",), registry=self._registry)

    def request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the template, such as /api/v1/cases/{case_id}."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def cells(self, count: int) -> None:
        """Count analysed cells."""
        self._cells.inc(count)

    def text(self, depth: dict[str, int]) -> bytes:
        """Return everything as Prometheus reads it; `depth` is the number of jobs in each state."""
        for state, count in depth.items():
            self._queue.labels(state).set(count)
        return generate_latest(self._registry)


@dataclass
class Room:
    """A reading room that is ready to open."""

    settings: RoomSettings
    database: Database
    pictures: PictureStore
    log: AuditLog
    predictor: Predictor
    """The model that the room was opened with."""
    models: ModelRegistry
    """The model of the room and those adapted by laboratories; `models.of` returns the one in use."""
    worker: Worker
    sandbox: Sandbox
    measures: RequestMetrics
    attempts: Attempts
    token: OneTimeToken | None
    """Of the start; None where accounts have passwords."""
    sender: Sender
    """Sends signed cases to the hospital's systems."""
    provider: Provider | None = None
    """Through which people sign in, beside passwords."""
    survival: dict[str, Any] = field(default_factory=dict)
    """Name -> survival model."""

    def close(self) -> None:
        """End the worker and give the database back."""
        if self.settings.work:
            self.worker.stop()
        self.sender.stop()
        with contextlib.suppress(SQLAlchemyError, OSError), self.database.reading() as session:
            self.log.note_head(session, at_once=True)
        self.sandbox.close()
        self.database.close()


def open_room(settings: RoomSettings, *, counted: Callable[[int], None] | None = None) -> Room:
    """Open what a server needs, and check that it may be opened; `counted` is called with the number of analysed cells.

    Raises:
        BundleError: there is no usable model.
        DatabaseError: the database cannot be used.
        UsageError: it would be open to others, but nobody has an account.
    """
    predictor = load(settings.model, maps=True)
    if settings.trust:
        check_signature(predictor.bundle, settings.trust)
    check_keys(settings.keys, predictor.manifest)
    if make_private(settings.data):
        LOG.warning("%s could be read by others on this machine; it is closed to them now (700).", settings.data)
    database, pictures, log = Database(settings.url), PictureStore(settings.data), AuditLog(settings.data)
    database.prepare()
    token = _start_token(database, settings)
    with database.writing() as session:
        log.begin(session)
        store_bundle(session, predictor)
    with database.reading() as session:
        log.note_head(session, at_once=True)
    measures, models = RequestMetrics(), ModelRegistry(predictor, settings.data)
    worker = Worker(
        database,
        pictures,
        log,
        models,
        point=settings.point,
        lease_seconds=settings.lease_seconds,
        counted=counted or measures.cells,
        process_settings=settings.model_dump_json() if settings.apart else "",
        bound=settings.analysis_bytes if counted else 0,
    )
    survival = read_survival(settings.survival)
    return Room(
        settings,
        database,
        pictures,
        log,
        predictor,
        models,
        worker,
        Sandbox(),
        measures,
        Attempts(settings.attempts),
        token,
        Sender(database, log, settings.data, settings.hospital),
        Provider(settings.oidc) if settings.oidc else None,
        survival,
    )


def check_keys(keys: Mapping[str, str], manifest: Manifest) -> None:
    """Make sure that every key is one for a label that readers can give.

    Raises:
        UnknownNameError: a label is none of them.
    """
    titles = titles_of(manifest)
    known = [*titles, *titles.values(), *labels_of(manifest)]
    for label in keys:
        if label not in known:
            raise UnknownNameError("label", label, list(dict.fromkeys(known)))


def read_survival(folders: tuple[Path, ...]) -> dict[str, Any]:
    """Return survival models by the names of their folders."""
    if not folders:
        return {}
    from ..survival.model import read_model

    return {folder.resolve().name: read_model(folder) for folder in folders}


def _start_token(database: Database, settings: RoomSettings) -> OneTimeToken | None:
    """Return the token of the start where only this machine can call and nobody has a password.

    Others may call where somebody has a password that makes accounts, or where a provider knows the people.

    Raises:
        UsageError: others could call, but nobody has an account.
    """
    with database.writing() as session:
        if not (settings.local or settings.oidc or has_admin(session)):
            raise UsageError(
                f"--host {settings.host} opens the room to other machines, but nobody has an account. "
                "Make one first: leukoscope accounts add NAME --role admin."
            )
        if has_people(session) or not settings.local:
            return None
        local_account(session)
    return OneTimeToken()
