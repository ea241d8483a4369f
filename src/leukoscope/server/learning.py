"""Models that a laboratory has fitted to the cells that it signed off, and which model it uses.

A laboratory uses the model that the room was opened with, until one of its admins chooses an adapted one. An adapted
model is a bundle of its own in DATA/models, named by its seal; it is fitted to the signed-off cells of this laboratory
only, and compared with the model in use on subjects that neither was trained on.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..adaptation import (
    FEWEST,
    AdaptationResult,
    Adapted,
    Head,
    Reviewed,
    compare,
    embed_cells,
    fit_heads,
    heads_of,
    predict_out_of_fold,
    write,
)
from ..bundle.manifest import Bundle, Manifest, open_bundle
from ..data.audit import measure_traits, near_duplicates
from ..data.cells import Cell as LabelledCell
from ..data.split import group_of_subject, joined, sharing_bytes
from ..errors import BundleError, DataError, LeukoscopeError
from ..evaluation.intervals import LEAST, Design, Estimate, jackknife
from ..evaluation.results import Estimates
from ..inference.predictor import Predictor
from . import queue
from .audit_log import Actor, AuditLog
from .database import (
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    SIGNED,
    AccountRow,
    AdaptationRow,
    BundleRow,
    CaseRow,
    CellRow,
    Database,
    LaboratoryRow,
    PredictionRow,
    ReviewRow,
    now,
)
from .refusals import Refusal
from .store import FILE_MODE, FOLDER_MODE, PictureStore
from .summary import titles_of

LOG = logging.getLogger("leukoscope.server")
Ints = NDArray[np.int64]
NEWEST = 50
"""Number of the last cells read whose effect on the model is measured."""
MOST_CELLS = 5000  # the newest, used in training: more take hours and change little
_KEPT = 3  # adapted models that are held in memory
_LOOK_SECONDS = 2.0
_SEED = 0
_ONE_AT_A_TIME = (QUEUED, RUNNING)


# --- which model is used -------------------------------------------------------------------------------------------


class ModelRegistry:
    """The models of a room: the one that it was opened with, and those that laboratories have adapted from it."""

    def __init__(self, own: Predictor, data: Path) -> None:
        self.own, self.folder = own, data / "models"
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._manifests: dict[str, Manifest] = {own.manifest.seal: own.manifest}
        self._loading = threading.Lock()

    def of(self, session: Session, laboratory_id: int) -> Predictor:
        """Return the model that a laboratory uses.

        Raises:
            Refusal: it cannot be loaded (503).
        """
        return self.named(session.scalar(select(LaboratoryRow.bundle).where(LaboratoryRow.id == laboratory_id)) or "")

    def named(self, seal: str) -> Predictor:
        """Return a model by its seal; '' is the room's own. Refuses as `of` does."""
        if seal in ("", self.own.manifest.seal):
            return self.own
        with self._loading:
            if seal not in self._loaded:
                self._loaded[seal] = Predictor(self.bundle(seal), maps=True)
            self._loaded.move_to_end(seal)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[seal]

    def bundle(self, seal: str) -> Bundle:
        """Return the files of a model. Refuses as `of` does."""
        if seal in ("", self.own.manifest.seal):
            return self.own.bundle
        try:
            found = open_bundle(self.folder / seal)
            if found.manifest.seal != seal:
                raise BundleError("its seal differs from its name")
        except BundleError as broken:
            LOG.warning("model %s cannot be loaded: %s", seal[:12], broken)
            text = (
                f"The model {seal[:12]} that this laboratory chose cannot be loaded: its files are missing or changed. "
                "An admin can choose another one under Learning, or its folder is restored from a backup."
            )
            raise Refusal(503, "model_away", text) from None
        return found

    def manifest(self, session: Session, seal: str) -> Manifest:
        """Return the manifest of any bundle that was ever used here."""
        if seal not in self._manifests:
            self._manifests[seal] = Manifest.model_validate(session.get_one(BundleRow, seal).manifest)
        return self._manifests[seal]

    def keep(self, bundle: Bundle) -> Path:
        """Move a bundle that was written beside the others to its name; return the folder."""
        place = self.folder / bundle.manifest.seal
        for path in (bundle.path, *bundle.path.rglob("*")):
            path.chmod(FOLDER_MODE if path.is_dir() else FILE_MODE)
        if not place.exists():
            bundle.path.rename(place)
        return place


def network_of(manifest: Manifest) -> str:
    """Return the seal of the bundle whose network a bundle has: that from which only its head was adapted.

    Embeddings of the two are the same.
    """
    seal, training = manifest.seal, manifest.training
    while training.get("adapted_from"):
        seal, training = training["adapted_from"], training.get("before") or {}
    return str(seal)


def same_network(session: Session, models: ModelRegistry, manifest: Manifest) -> list[str]:
    """Return the seals of all bundles ever used here that share the network, and so the embeddings, of a bundle."""
    network = network_of(manifest)
    seals = session.scalars(select(BundleRow.seal)).all()
    return [seal for seal in seals if network_of(models.manifest(session, seal)) == network]


def judged_by(session: Session, models: ModelRegistry, case_id: int) -> list[dict[str, Any]]:
    """Return which models gave the current answers of a case, and to how many cells, the most first."""
    query = select(PredictionRow.bundle).join(CellRow, CellRow.prediction_id == PredictionRow.id)
    seals = Counter(session.scalars(query.where(CellRow.case_id == case_id, CellRow.removed.is_(False))))
    return [
        {"hash": seal, "name": models.manifest(session, seal).name, "cells": cells}
        for seal, cells in seals.most_common()
    ]


def manifest_of_case(session: Session, models: ModelRegistry, case: CaseRow) -> Manifest:
    """Return the bundle that predicted most cells of a case; for a case without cells, the one in use."""
    judged = judged_by(session, models, case.id)
    if judged:
        return models.manifest(session, judged[0]["hash"])
    return models.of(session, case.laboratory_id).manifest


# --- training cells ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedCell:
    """One cell to which a class was given in a case that was signed off."""

    digest: str
    label: str
    subject: str
    """Of the case; a case without one is a subject of its own."""
    case: int
    read: str
    """When."""


@dataclass(frozen=True)
class TrainingCells:
    """The cells to which a laboratory's model would be fitted, and what is missing."""

    cells: tuple[SignedCell, ...]
    counts: dict[str, int]
    """Class -> cells."""
    subjects: int
    cases: int
    missing: str
    """One sentence; empty where nothing is missing."""


def signed_cells(session: Session, laboratory_id: int, classes: Sequence[str]) -> list[SignedCell]:
    """Return the cells of a laboratory's signed cases whose standing label is one of the classes, the oldest first.

    A cell that came twice is included once, with the newest label; at most MOST_CELLS, the newest.
    """
    mine = (CaseRow.laboratory_id == laboratory_id, CaseRow.state == SIGNED)
    labelled = (CellRow.label.in_(list(classes)), CellRow.removed.is_(False))
    query = select(CellRow.digest, CellRow.label, CaseRow.subject, CaseRow.id, ReviewRow.created).join(
        CaseRow, CaseRow.id == CellRow.case_id
    )
    query = (
        query.join(ReviewRow, ReviewRow.id == CellRow.review_id).where(*mine, *labelled).order_by(ReviewRow.id.desc())
    )
    found: dict[tuple[str, str], SignedCell] = {}
    for row in session.execute(query.limit(2 * MOST_CELLS)):
        subject = subject_of(row.subject, row.id)
        found.setdefault((row.digest, subject), SignedCell(row.digest, row.label, subject, row.id, row.created))
    return list(found.values())[:MOST_CELLS][::-1]


def training_cells_of(session: Session, models: ModelRegistry, laboratory_id: int) -> TrainingCells:
    """Return the training cells that there are now, and what is missing."""
    manifest = models.own.manifest
    cells = signed_cells(session, laboratory_id, manifest.classes)
    counts = dict.fromkeys(manifest.classes, 0) | Counter(cell.label for cell in cells)
    groups = _groups(cells)
    present = session.scalar(select(LaboratoryRow.bundle).where(LaboratoryRow.id == laboratory_id)) or ""
    trained_on = training_subjects(session, laboratory_id, present)
    missing = _missing(cells, groups, manifest, trained_on)
    return TrainingCells(tuple(cells), counts, len(set(groups.values())), len({cell.case for cell in cells}), missing)


def training_subjects(session: Session, laboratory_id: int, seal: str) -> frozenset[str]:
    """Return the subjects that an adapted model was trained on, as `hash_of_subject` writes them."""
    mine = (AdaptationRow.laboratory_id == laboratory_id, AdaptationRow.bundle == seal, AdaptationRow.bundle != "")
    return frozenset(session.scalar(select(AdaptationRow.subjects).where(*mine).limit(1)) or ())


def hash_of_subject(subject: str) -> str:
    """Return what is kept of a subject after its cases are deleted: no name."""
    return sha256(subject.encode()).hexdigest()


def subject_of(name: str, case: int) -> str:
    """Return whose cells a case holds: one without a subject is a subject of its own."""
    return f"subject {name.casefold()}" if name else f"case {case}"


def _groups(cells: Sequence[SignedCell], linked: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return the group of each subject: subjects that share a picture, or are linked otherwise, are one."""
    subjects = sorted({cell.subject for cell in cells})
    if not subjects:
        return {}
    pairs = [*sharing_bytes([_as_data(cell, Path()) for cell in cells]), *linked]
    return group_of_subject(joined(subjects, pairs))


def _missing(
    cells: Sequence[SignedCell], groups: dict[str, str], manifest: Manifest, trained_on: frozenset[str] = frozenset()
) -> str:
    """Return in one sentence what is missing for fitting and evaluating a model; '' where nothing is missing.

    trained_on: subjects that the model in use was trained on: on them the two cannot be compared.
    """
    titles = titles_of(manifest)
    if not cells:
        names = " or ".join(titles[name] for name in manifest.classes)
        return f"No signed-off case holds a cell that a reader called {names}. Read some cases and sign them off."
    if short := _short(cells, groups, manifest):
        return short
    known = {groups[cell.subject] for cell in cells if hash_of_subject(cell.subject) in trained_on}
    fresh = [cell for cell in cells if groups[cell.subject] not in known]
    if known and (short := _short(fresh, groups, manifest) if fresh else "There are no others."):
        return (
            f"The model in use was trained on {len(known)} of these {len(set(groups.values()))} subjects, "
            f"so a new one can be compared with it on the others only. {short} "
            "Sign off more cases, or go back to the room’s own model first."
        )
    return ""


def _short(cells: Sequence[SignedCell], groups: dict[str, str], manifest: Manifest) -> str:
    """Return which class has too few cells or subjects."""
    titles = titles_of(manifest)
    counts = {name: sum(cell.label == name for cell in cells) for name in manifest.classes}
    rarest = min(counts, key=lambda name: counts[name])
    if counts[rarest] < FEWEST:
        have = "is no signed-off cell" if not counts[rarest] else f"are {counts[rarest]} different signed-off cells"
        have = "is 1 signed-off cell" if counts[rarest] == 1 else have
        copies = " (copies of a cell count once)" if counts[rarest] else ""
        return (
            f"There {have} of the class {titles[rarest]}{copies}; at least {FEWEST} of each class are needed, "
            "and 50 or more are better. "
            "Read some more and sign them off."
        )
    subjects = {name: len({groups[cell.subject] for cell in cells if cell.label == name}) for name in manifest.classes}
    rarest = min(subjects, key=lambda name: subjects[name])
    if subjects[rarest] < LEAST or len({groups[cell.subject] for cell in cells}) <= LEAST:
        count = "1 subject" if subjects[rarest] == 1 else f"{subjects[rarest]} subjects"
        return (
            f"The signed-off cells of the class {titles[rarest]} are of {count}; at least {LEAST} of each class, and "
            f"{LEAST + 1} in all, are needed to evaluate a model on subjects that it was not trained on."
        )
    return ""


def _as_data(cell: SignedCell, path: Path) -> LabelledCell:
    return LabelledCell(path, cell.label, cell.subject, "", "reading room", cell.digest, cell.digest, 0, 0)


# --- fitting -------------------------------------------------------------------------------------------------------


class TrainingSummary(TypedDict):
    """What a model was fitted to."""

    cells: int
    cases: int
    subjects: int
    classes: dict[str, int]


NewestEffect = TypedDict(
    "NewestEffect",
    {"cells": int, "with": Estimate, "without": Estimate, "changed": Estimate, "difference": Estimate},
)
"""Agreement with the readers with and without the cells read last, and the share of changed predictions."""


class FitResult(AdaptationResult):
    """The metrics of a fitted model, stored in the database."""

    learned: TrainingSummary
    newest: NewestEffect | None
    unusable: int


@dataclass(frozen=True)
class FittedModel:
    """A fitted model, its metrics and its training subjects."""

    bundle: Bundle
    result: FitResult
    subjects: list[str]


def fit_model(
    models: ModelRegistry,
    pictures: PictureStore,
    cells: Sequence[SignedCell],
    *,
    present: str,
    trained_on: frozenset[str],
    folder: Path,
    name: str,
    on_cell: Callable[[], None] = lambda: None,
) -> FittedModel:
    """Fit new heads to signed-off cells and write them as a bundle; compare them with the model in use.

    present: its seal. trained_on: subjects that it was trained on, which the comparison leaves out. folder: where the
    new bundle goes, named `name`. on_cell: called after each cell.

    Raises:
        DataError: too few cells or subjects are left once pictures were opened and linked subjects joined.
    """
    own = models.own.bundle
    given = [_as_data(cell, pictures.path(cell.digest)) for cell in cells]
    linked = [(a.subject, b.subject) for a, b, _ in near_duplicates(given, measure_traits(given))]
    groups = _groups(cells, linked)
    if missing := _missing(cells, groups, own.manifest, trained_on):
        raise DataError(missing)
    codes = {group: str(number) for number, group in enumerate(sorted(set(groups.values())), start=1)}  # no names
    given = [replace(each, subject=codes[groups[each.subject]]) for each in given]
    reviewed = embed_cells(own, given, on_cell=on_cell)
    if missing := _missing([cells[place] for place in reviewed.kept], groups, own.manifest, trained_on):
        raise DataError(missing)
    members = heads_of(own)
    heads, out_of_fold = fit_heads(members, reviewed, seed=_SEED)
    known = {codes[groups[cell.subject]] for cell in cells if hash_of_subject(cell.subject) in trained_on}
    judged = ~np.isin(np.array(reviewed.names), sorted(known))
    old = reviewed.old if present in ("", own.manifest.seal) else embed_cells(models.bundle(present), given).old
    part = _part(replace(reviewed, old=old), judged)
    figures = compare(models.bundle(present).manifest, part, out_of_fold[judged], seed=_SEED)
    result: FitResult = {
        **figures,
        "learned": _training_summary([cells[place] for place in reviewed.kept], reviewed),
        "newest": _newest(members, reviewed, [cells[place].read for place in reviewed.kept], out_of_fold),
        "unusable": len(reviewed.refused),
    }
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
    written = write(own, folder, Adapted(heads, out_of_fold, figures), reviewed, name=name)
    return FittedModel(written, result, sorted({hash_of_subject(cell.subject) for cell in cells}))


def _part(reviewed: Reviewed, rows: NDArray[np.bool_]) -> Reviewed:
    """Return some of the cells, without embeddings and traits."""
    names = tuple(np.array(reviewed.names)[rows].tolist())
    return Reviewed(
        reviewed.labels[rows], reviewed.groups[rows], reviewed.by_subject, names, (), reviewed.old[rows], ()
    )


def _training_summary(cells: Sequence[SignedCell], reviewed: Reviewed) -> TrainingSummary:
    counts = Counter(cell.label for cell in cells)
    cases = len({cell.case for cell in cells})
    return {"cells": len(cells), "cases": cases, "subjects": len(set(reviewed.names)), "classes": dict(counts)}


def _newest(
    members: Sequence[Head], reviewed: Reviewed, read: Sequence[str], out_of_fold: NDArray[np.float64]
) -> NewestEffect | None:
    """Return the effect of the cells read last on predictions and on the agreement with the readers.

    Heads fitted to all cells and heads fitted to all but the newest predict the same cells, out of fold; intervals are
    over subjects. None where too few cells would be left.
    """
    older = np.ones(len(reviewed.labels), dtype=bool)
    older[np.argsort(np.array(read), kind="stable")[-NEWEST:]] = False
    if min(np.bincount(reviewed.labels[older], minlength=reviewed.old.shape[1])) < FEWEST:
        return None
    try:
        before = predict_out_of_fold(members, reviewed, older, seed=_SEED)
    except DataError:
        return None
    called = {"with": out_of_fold.argmax(1), "without": before.argmax(1)}
    codes = np.unique(reviewed.groups, return_inverse=True)[1]
    marks = {name: np.bincount(codes, each == reviewed.labels) for name, each in called.items()}
    marks["changed"] = np.bincount(codes, called["with"] != called["without"])
    sizes = np.bincount(codes).astype(float)
    found = jackknife(
        lambda weights: {name: (weights @ each) / (weights @ sizes) for name, each in marks.items()},
        Design(np.zeros(len(sizes), np.int64), sizes),
        cells=len(codes),
    )
    return {
        "cells": NEWEST,
        "with": found.interval("with"),
        "without": found.interval("without"),
        "changed": found.interval("changed"),
        "difference": found.difference("with", "without"),
    }


# --- in the background ---------------------------------------------------------------------------------------------


def ask_for(session: Session, models: ModelRegistry, laboratory_id: int, account_id: int) -> tuple[AdaptationRow, bool]:
    """Queue a new model for a laboratory; one that is under way is returned instead. Also return whether it is new.

    Raises:
        Refusal: something is missing for fitting (409).
    """
    session.get_one(LaboratoryRow, laboratory_id, with_for_update=True)  # concurrent requests wait here
    under_way = (AdaptationRow.laboratory_id == laboratory_id, AdaptationRow.state.in_(_ONE_AT_A_TIME))
    found = session.scalar(select(AdaptationRow).where(*under_way))
    if found is not None:
        return found, False
    training = training_cells_of(session, models, laboratory_id)
    if training.missing:
        raise Refusal(409, "too_little", training.missing)
    made = AdaptationRow(laboratory_id=laboratory_id, account_id=account_id, cells=len(training.cells))
    session.add(made)
    session.flush()
    return made, True


class Fitter(queue.BackgroundThread):
    """The thread that fits models to signed-off cells, one at a time."""

    def __init__(
        self, database: Database, pictures: PictureStore, log: AuditLog, models: ModelRegistry, *, lease_seconds: float
    ) -> None:
        super().__init__("learning", poll_seconds=_LOOK_SECONDS)
        self._database, self._pictures, self._log, self._models = database, pictures, log, models
        self._seconds = lease_seconds

    def work(self) -> bool:
        """Fit one model, if one is waiting."""
        found = self._take() if self._waiting() else None
        if found is not None:
            try:
                self._learn(found)
            except _StoppedError:
                self.recover(failed=False)
        return found is not None

    def _waiting(self) -> bool:
        with self._database.reading() as session:
            return session.scalar(select(AdaptationRow.id).where(_free()).limit(1)) is not None

    def recover(self, *, failed: bool) -> None:
        """Queue again what dead processes of this machine, or this thread before an error, had leased."""
        with self._database.reading() as session:
            owners = set(session.scalars(select(AdaptationRow.owner).where(AdaptationRow.state == RUNNING)))
        left = [*queue.dead_among(owners - {self._owner}), *({self._owner} & owners)]
        if not left:
            return
        with self._database.writing(bulk=True) as session:
            held = update(AdaptationRow).where(AdaptationRow.state == RUNNING, AdaptationRow.owner.in_(left))
            if not failed:  # the room was closed, or the database unreachable: not the fault of this attempt
                own = held.where(AdaptationRow.owner == self._owner)
                session.execute(own.values(attempts=AdaptationRow.attempts - 1))
            session.execute(held.values(state=QUEUED, owner="", looked=0))

    def _take(self) -> AdaptationRow | None:
        """Lease the one that has waited longest; one that ended the program too often is given up."""
        with self._database.writing(bulk=True) as session:
            chosen = select(AdaptationRow).where(_free()).order_by(AdaptationRow.id).limit(1)
            found = session.scalar(chosen.with_for_update(skip_locked=True))
            if found is None:
                return None
            if found.attempts >= queue.MOST_ATTEMPTS:
                words = f"Given up after {queue.MOST_ATTEMPTS} attempts that ended the program. Begin again."
                self._fail(session, found, words)
                return None
            found.state, found.owner, found.attempts = RUNNING, self._owner, found.attempts + 1
            found.leased_until, found.looked = time.time() + self._seconds, 0
            found.present = session.get_one(LaboratoryRow, found.laboratory_id).bundle
            return found

    def _learn(self, task: AdaptationRow) -> None:
        models = self._models
        with self._database.reading() as session:
            cells = signed_cells(session, task.laboratory_id, models.own.manifest.classes)
            trained_on = training_subjects(session, task.laboratory_id, task.present)
        folder = models.folder / f".adaptation-{task.id}"
        try:
            with self._held(task, total=len(cells)) as on_cell:
                made = fit_model(
                    models,
                    self._pictures,
                    cells,
                    present=task.present,
                    trained_on=trained_on,
                    folder=folder,
                    name=f"{models.own.manifest.name}, adapted {now()[:10]} (no. {task.id})",
                    on_cell=on_cell,
                )
        except (LeukoscopeError, MemoryError) as refused:
            reason = str(refused) if isinstance(refused, LeukoscopeError) else "Needs more memory than there is."
            with self._database.writing(bulk=True) as session:
                found = session.get_one(AdaptationRow, task.id, with_for_update=True)
                if self._mine(found):
                    self._fail(session, found, reason)
        else:
            self._keep(task, made)

    def _keep(self, task: AdaptationRow, made: FittedModel) -> None:
        """Store the new model; it is not used until an admin chooses it."""
        self._models.keep(made.bundle)
        with self._database.writing(bulk=True) as session:
            found = session.get_one(AdaptationRow, task.id, with_for_update=True)
            if not self._mine(found):
                return
            manifest = made.bundle.manifest
            session.add(BundleRow(seal=manifest.seal, manifest=manifest.model_dump(mode="json")))
            found.state, found.finished, found.owner = DONE, now(), ""
            found.bundle, found.result, found.subjects = manifest.seal, dict(made.result), made.subjects
            program = Actor(laboratory_id=found.laboratory_id)
            detail = {"bundle": manifest.seal, "compared_with": found.present or self._models.own.manifest.seal}
            learned = made.result["learned"]
            counts = {"cells": learned["cells"], "cases": learned["cases"], "subjects": learned["subjects"]}
            figures = headline_figures(made.result["old"], made.result["new"])
            self._log.add(session, program, "fitted", kind="model", item=found.id, **detail, **counts, **figures)

    def _fail(self, session: Session, found: AdaptationRow, words: str) -> None:
        found.state, found.finished, found.owner, found.error = FAILED, now(), "", words
        program = Actor(laboratory_id=found.laboratory_id)
        self._log.add(session, program, "could not fit", kind="model", item=found.id, reason=words)

    def _mine(self, found: AdaptationRow) -> bool:
        return found.state == RUNNING and found.owner == self._owner

    @contextmanager
    def _held(self, task: AdaptationRow, *, total: int) -> Iterator[Callable[[], None]]:
        """Renew the lease while the block runs; yield a function that counts cells and raises on a stop."""
        done, count = threading.Event(), Counter[str]()

        def renew() -> None:
            while not done.wait(min(self._seconds / 3, _LOOK_SECONDS)):
                with contextlib.suppress(SQLAlchemyError), self._database.writing(bulk=True) as session:
                    mine = (
                        AdaptationRow.id == task.id,
                        AdaptationRow.owner == self._owner,
                        AdaptationRow.state == RUNNING,
                    )
                    values = {"leased_until": time.time() + self._seconds, "looked": min(count["cells"], total)}
                    session.execute(update(AdaptationRow).where(*mine).values(cells=total, **values))

        def on_cell() -> None:
            if self._stopping.is_set():
                raise _StoppedError
            count["cells"] += 1

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield on_cell
        finally:
            done.set()
            thread.join()


class _StoppedError(Exception):
    """The thread has been asked to end."""


def _free() -> Any:
    lost = (AdaptationRow.state == RUNNING) & (AdaptationRow.leased_until < time.time())
    return (AdaptationRow.state == QUEUED) | lost


def headline_figures(old: Estimates, new: Estimates) -> dict[str, dict[str, float | None]]:
    """Return the main figures of two models, for the log."""
    names = ("auroc", "balanced_accuracy", "brier")
    return {which: {name: found[name]["value"] for name in names} for which, found in (("old", old), ("new", new))}


# --- as the API shows it -------------------------------------------------------------------------------------------


def etag_of(laboratory: LaboratoryRow, models: ModelRegistry) -> str:
    """Return the etag of the choice of a model."""
    return f"model-{laboratory.id}-{(laboratory.bundle or models.own.manifest.seal)[:16]}"


def choose(session: Session, models: ModelRegistry, laboratory: LaboratoryRow, seal: str) -> AdaptationRow | None:
    """Use a model for a laboratory from now on; returns its adaptation, None for the room's own.

    Raises:
        Refusal: there is none (404), or its files are gone (503).
    """
    found = None
    if seal != models.own.manifest.seal:
        mine = (AdaptationRow.laboratory_id == laboratory.id, AdaptationRow.bundle == seal, AdaptationRow.state == DONE)
        found = session.scalar(select(AdaptationRow).where(*mine).limit(1))
        if found is None:
            raise Refusal(
                404, "not_found", f"There is no model {seal[:12]} here. Load the page again and choose again."
            )
    models.named(seal)
    laboratory.bundle = "" if found is None else seal
    session.flush()
    return found


def describe(session: Session, models: ModelRegistry, laboratory: LaboratoryRow) -> dict[str, Any]:
    """Return the training cells, the models with their metrics, and which one is used."""
    training = training_cells_of(session, models, laboratory.id)
    own, present = models.own.manifest, laboratory.bundle or models.own.manifest.seal
    judged = _cases_judged(session, laboratory.id)
    query = select(AdaptationRow, AccountRow.name).join(AccountRow, AccountRow.id == AdaptationRow.account_id)
    rows = session.execute(query.where(AdaptationRow.laboratory_id == laboratory.id).order_by(AdaptationRow.id.desc()))
    return {
        "cells": {
            "classes": training.counts,
            "cells": len(training.cells),
            "cases": training.cases,
            "subjects": training.subjects,
            "missing": training.missing,
        },
        "own": {"hash": own.seal, "name": own.name, "cases": judged.get(own.seal, 0)},
        "present": present,
        "titles": titles_of(own),
        "adaptations": [_described(row[0], row[1], own.seal, judged) for row in rows],
        "etag": etag_of(laboratory, models),
    }


def _described(found: AdaptationRow, by: str, own: str, judged: dict[str, int]) -> dict[str, Any]:
    return {
        "id": found.id,
        "by": by,
        "created": found.created,
        "finished": found.finished,
        "state": found.state,
        "error": found.error,
        "cells": found.cells,
        "looked": found.looked,
        "hash": found.bundle or None,
        "compared_with": found.present or own,
        "result": found.result or None,
        "cases": judged.get(found.bundle, 0),
        "says": newest_in_words(found.result.get("newest")) if found.result else "",
    }


def _cases_judged(session: Session, laboratory_id: int) -> dict[str, int]:
    """Return seal -> cases of the laboratory in which current answers are of this model."""
    query = select(PredictionRow.bundle, func.count(func.distinct(CellRow.case_id)))
    query = query.join(CellRow, CellRow.prediction_id == PredictionRow.id).join(CaseRow, CaseRow.id == CellRow.case_id)
    rows = session.execute(query.where(CaseRow.laboratory_id == laboratory_id).group_by(PredictionRow.bundle))
    return {row[0]: row[1] for row in rows}


_LITTLE = 0.05  # of the answers, up to which the newest cells count as changing little


def newest_in_words(newest: NewestEffect | None) -> str:
    """Describe the effect of the cells read last, and whether reading more is likely to improve the model."""
    if newest is None:
        return ""
    changed, with_, without = newest["changed"], newest["with"], newest["without"]
    text = (
        f"The last {newest['cells']} cells read changed {_percent(changed)} of its predictions on held-out "
        f"subjects; it agrees with the readers on {_percent(with_)} of the cells, and without them on "
        f"{_percent(without)}. "
    )
    if changed["high"] is None:
        return text + "With so few subjects this may be chance: continue reading."
    if changed["high"] <= _LITTLE and not _apart(newest["difference"]):
        return text + "You may stop reading to improve the model: more cells like these change little."
    return text + "The model still changes: continue reading."


def _apart(difference: Estimate) -> bool:
    low, high = difference["low"], difference["high"]
    return low is None or high is None or not low <= 0 <= high


def _percent(figure: Estimate) -> str:
    low, high = figure["low"], figure["high"]
    value = f"{100 * (figure['value'] or 0):.0f} %"
    return value if low is None or high is None else f"{value} ({100 * low:.0f} to {100 * high:.0f})"
