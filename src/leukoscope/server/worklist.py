"""What to read next so that the model learns most from it, and when reading more no longer improves it.

Cells that represent most of those not yet read come first: each next cell is the one that most raises the sum of the
similarities of all cells to their nearest cell that was read or placed (facility location; Wei, Iyer and Bilmes 2015,
ICML), where cells that the model can hardly decide count more. To read the least certain cells first is worse than no
order at all: a head that is fitted to them alone learns that the old answer is worth nothing
(benchmarks/reading_order.py). Likeness is the cosine of embeddings less their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy import case as case_of
from sqlalchemy.orm import Session

from ..bundle.manifest import UNSURE, Manifest
from ..evaluation.intervals import LEAST, Design, Estimate, jackknife
from .accounts import Caller
from .analysis import embeddings_of
from .database import BLIND, OPEN, CaseRow, CellRow, PredictionRow, ReviewRow
from .learning import ModelRegistry, hash_of_subject, same_network, subject_of, training_subjects

Floats = NDArray[np.float32]
_CASES = 100  # open cases that are compared, the newest first
_SHOWN = 50
_OF_A_CASE = 24  # cells by which a case is ranked: the first ones
_READ = 400  # cells that were read, the newest, with which others are compared
_PLACED = 200  # cells of a case that are placed one after the other; the rest follows by how much each teaches alone
_CANDIDATES = 1000
_DECIDED = 0.2  # how much a cell counts of which the model is certain; one that it cannot decide counts one more
WINDOW = 100
"""Cells read last that are compared with as many before them."""
_WIDE = 0.2  # of an interval, above which agreement is not known well enough


@dataclass(frozen=True)
class _OpenCells:
    """Cells that the model was asked about and that have no label yet."""

    ids: list[int]
    cases: NDArray[np.int64]
    unsure: NDArray[np.bool_]
    doubt: Floats
    """(cells,): 1 where the answer is on the edge between two, 0 where it is certain."""
    points: Floats
    """(cells, channels): embeddings of length one."""


class TeachingOrder(TypedDict):
    """How many cells were placed, and a sentence about them."""

    placed: int
    words: str


def place_cells(session: Session, models: ModelRegistry, case: CaseRow, *, point: str) -> TeachingOrder:
    """Write the order in which the cells of a case are best read to `CellRow.turn`.

    Cells that have a label or that the model did not classify get no place.
    """
    manifest = models.of(session, case.laboratory_id).manifest
    same_model = PredictionRow.bundle.in_(same_network(session, models, manifest))
    found = _open_cells(session, [CellRow.case_id == case.id, same_model], manifest, point=point)
    order = _order(found, _read_points(session, case.laboratory_id, same_model))
    session.execute(update(CellRow).where(CellRow.case_id == case.id).values(turn=None))
    turns = sorted((found.ids[place], turn) for turn, place in enumerate(order))
    if turns:
        session.execute(update(CellRow), [{"id": cell, "turn": turn} for cell, turn in turns])
    return {"placed": len(turns), "words": _words_of_case(found)}


def _words_of_case(found: _OpenCells) -> str:
    if not found.ids:
        return "No cell is left that could improve the model."
    unsure = int(found.unsure.sum())
    of_these = f"the model is unsure of {unsure:,}" if unsure else "the model is unsure of none"
    return (
        f"First the cells that are similar to most of those not yet read or settled; unsure ones count more. Of "
        f"{_cells(len(found.ids))}, {of_these}."
    )


def _order(found: _OpenCells, read: Floats | None) -> list[int]:
    """Return places of cells in the order in which they are best read (facility location, greedily)."""
    if not found.ids:
        return []
    similarity, covered = _similarity(found.points, read)
    weight = _DECIDED + found.doubt
    order: list[int] = []
    for _ in range(min(_PLACED, len(weight))):
        gain = weight @ np.maximum(similarity - covered[:, None], 0)
        gain[order] = -1
        place = int(gain.argmax())
        order.append(place)
        covered = np.maximum(covered, similarity[:, place])
    rest = np.setdiff1d(np.arange(len(weight)), order)
    order += rest[np.argsort(-found.doubt[rest], kind="stable")].tolist()
    return order


def _similarity(points: Floats, read: Floats | None) -> tuple[Floats, Floats]:
    """Return cosine similarities of the cells (cells, cells), and of each to the nearest one read (cells,)."""
    middle = points.mean(axis=0)

    def turned(each: Floats) -> Floats:
        moved = each - middle
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-6))

    own = turned(points)
    covered = (own @ turned(read).T).max(axis=1) if read is not None else np.full(len(own), -1.0, np.float32)
    return own @ own.T, np.asarray(covered)


def _nearest(points: Floats, read: Floats | None) -> Floats:
    """Return how far the nearest cell lies that was read: (cells,); 1 for all where none was."""
    if read is None or not len(read):
        return np.ones(len(points), np.float32)
    return np.asarray(_distance(points, read).min(axis=1))


def _distance(points: Floats, others: Floats) -> Floats:
    """Return the distances of embeddings of length one: (points, others)."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * points @ others.T, 0)), np.float32)


def _open_cells(
    session: Session, where: Sequence[ColumnElement[bool]], manifest: Manifest, *, point: str, most: int = _CANDIDATES
) -> _OpenCells:
    """Return cells that have no label yet, by their numbers; `most` of each case."""
    certain = _certainty(manifest, point)
    place = func.row_number().over(partition_by=CellRow.case_id, order_by=CellRow.number).label("place")
    columns = (CellRow.id, CellRow.case_id, CellRow.decision, certain.label("certain"), PredictionRow.embedding, place)
    open_ = (
        CellRow.label == "",
        CellRow.removed.is_(False),
        CellRow.chance.is_not(None),
        PredictionRow.embedding.is_not(None),
    )
    inner = (
        select(*columns).join(PredictionRow, PredictionRow.id == CellRow.prediction_id).where(*open_, *where).subquery()
    )
    rows = session.execute(select(inner).where(inner.c.place <= most).order_by(inner.c.case_id, inner.c.place)).all()
    return _OpenCells(
        [row.id for row in rows],
        np.array([row.case_id for row in rows], np.int64),
        np.array([row.decision == UNSURE for row in rows], bool),
        np.clip(1 - np.array([row.certain for row in rows], np.float32), 0.01, 1),
        embeddings_of([row.embedding for row in rows]) if rows else np.zeros((0, 1), np.float32),
    )


def _certainty(manifest: Manifest, point: str) -> ColumnElement[Any]:
    """Return how far an answer lies from the edge between two classes, as a share of the way to certainty."""
    if not manifest.positive:
        return func.coalesce(CellRow.chance, 1.0)
    edge = manifest.operating_points.get(point, 0.5)
    return func.abs(CellRow.chance - edge) / max(edge, 1 - edge)


def _read_points(session: Session, laboratory_id: int, same_model: ColumnElement[bool]) -> Floats | None:
    """Return embeddings of the cells that a laboratory read last."""
    mine = (CaseRow.laboratory_id == laboratory_id, CellRow.label != "", CellRow.removed.is_(False))
    query = select(PredictionRow.embedding).join(CellRow, CellRow.prediction_id == PredictionRow.id)
    query = query.join(CaseRow, CaseRow.id == CellRow.case_id).where(
        *mine, same_model, PredictionRow.embedding.is_not(None)
    )
    rows = [row for row in session.scalars(query.order_by(CellRow.review_id.desc()).limit(_READ)) if row]
    return embeddings_of(rows) if rows else None


# --- which case ----------------------------------------------------------------------------------------------------


class CaseToRead(TypedDict):
    """An open case of the worklist, as the API returns it."""

    id: int
    name: str
    subject: str
    unread: int
    unsettled: int
    """Cells that were read, and on which the readers differ."""
    unsure: int
    """Cells of both kinds of which the model is unsure."""
    worth: float
    """Gain of similarity by reading the case."""
    why: str


def worklist(session: Session, models: ModelRegistry, caller: Caller, *, point: str) -> list[CaseToRead]:
    """Return open cases of the caller's laboratory in the order in which reading them is expected to improve the model
    most.

    Cases that are read blind to the model are not among them: their place would reveal its answers.
    """
    mine = (CaseRow.laboratory_id == caller.laboratory_id, CaseRow.state == OPEN)
    shown = ~(CaseRow.hide_model & CaseRow.phase.in_(BLIND))
    cases = {
        each.id: each
        for each in session.scalars(select(CaseRow).where(*mine, shown).order_by(CaseRow.id.desc()).limit(_CASES))
    }
    manifest = models.of(session, caller.laboratory_id).manifest
    same_model = PredictionRow.bundle.in_(same_network(session, models, manifest))
    found = _open_cells(session, [CellRow.case_id.in_(list(cases)), same_model], manifest, point=point, most=_OF_A_CASE)
    if not found.ids:
        return []
    read = _read_points(session, caller.laboratory_id, same_model)
    similarity, covered = _similarity(found.points, read)
    near = _nearest(found.points, read)
    left = _left(session, list(cases))
    unlike = _dissimilar(near, read)
    rows: list[CaseToRead] = []
    for number in dict.fromkeys(found.cases.tolist()):
        here = found.cases == number
        gain = np.maximum(similarity[:, here].max(axis=1) - covered, 0)
        rows.append(
            {
                "id": number,
                "name": cases[number].name,
                "subject": cases[number].subject,
                "unread": left[number].unread,
                "unsettled": left[number].unsettled,
                "unsure": left[number].unsure,
                "worth": round(float((_DECIDED + found.doubt) @ gain), 4),
                "why": _why(left[number], compared=int(here.sum()), unlike=int(unlike[here].sum())),
            }
        )
    return sorted(rows, key=lambda row: (-row["worth"], row["id"]))[:_SHOWN]


class _OpenCounts(NamedTuple):
    """Cells of a case that have no label yet."""

    unread: int
    unsettled: int
    """Those that were read, and on which the readers differ."""
    unsure: int
    """Those of both of which the model is unsure."""

    @property
    def words(self) -> str:
        """Their number, and why they have no label, such as "5 cells not yet read"."""
        why = " or ".join(word for word, cells in (("read", self.unread), ("settled", self.unsettled)) if cells)
        return f"{_cells(self.unread + self.unsettled)} not yet {why}"


def _left(session: Session, ids: Sequence[int]) -> dict[int, _OpenCounts]:
    """Return by case the cells that have no label yet."""
    kinds = (CellRow.disputed.is_(False), CellRow.disputed.is_(True), CellRow.decision == UNSURE)
    sums = [func.sum(case_of((kind, 1), else_=0)) for kind in kinds]
    query = select(CellRow.case_id, *sums).where(
        CellRow.case_id.in_(ids), CellRow.label == "", CellRow.removed.is_(False)
    )
    return {row[0]: _OpenCounts(*map(int, row[1:])) for row in session.execute(query.group_by(CellRow.case_id))}


def _dissimilar(near: Floats, read: Floats | None) -> NDArray[np.bool_]:
    """Return which cells are farther from any cell read than nine in ten of those are from each other."""
    if read is None or len(read) < 2 * LEAST:
        return np.zeros(len(near), dtype=bool)
    between = _distance(read, read)
    np.fill_diagonal(between, np.inf)
    return np.asarray(near > np.quantile(between.min(axis=1), 0.9))


def _why(left: _OpenCounts, *, compared: int, unlike: int) -> str:
    words = [f"The model is unsure of {left.unsure:,} of {left.words}."] if left.unsure else []
    if not left.unsure:
        several = left.unread + left.unsettled > 1
        words.append(f"The model decides all of {left.words}." if several else "The model decides it.")
    if unlike:
        words.append(
            f"{unlike} of {_cells(compared)} compared {'is' if unlike == 1 else 'are'} unlike any cell read so far."
        )
    return " ".join(words)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"


# --- when to stop --------------------------------------------------------------------------------------------------


class AgreementOverTime(TypedDict):
    """Agreement of model and readers on the cells read last (newer) and on those before (older)."""

    newer: Estimate
    older: Estimate
    difference: Estimate


class StopRule(AgreementOverTime):
    """Whether reading more still improves the model, as the API returns it."""

    cells: int
    subjects: int
    stop: bool
    words: str


_UNKNOWN: Estimate = {"value": None, "low": None, "high": None}
_NOT_COMPARED: AgreementOverTime = {"newer": _UNKNOWN, "older": _UNKNOWN, "difference": _UNKNOWN}


def stop_rule(session: Session, laboratory_id: int, classes: Sequence[str]) -> StopRule:
    """Return how far model and readers agree on the cells read last and on those before, and whether to stop.

    Of each cell: the class that the model called it, and its label. Cells of subjects that this model was
    trained on are left out. Intervals are over subjects.
    """
    called, subjects = _compared(session, laboratory_id, classes)
    cells, count = len(called), len(set(subjects))
    if cells < 2 * WINDOW:
        words = (
            f"Model and readers can be compared on {_cells(cells)} so far. From {2 * WINDOW} on, this shows "
            "whether reading more still changes anything."
        )
        return {"cells": cells, **_NOT_COMPARED, "stop": False, "subjects": count, "words": words}
    newer = np.arange(cells) < WINDOW
    if min(len(set(subjects[newer])), len(set(subjects[~newer]))) < LEAST:
        words = (
            f"The last {2 * WINDOW} cells read are of {count} subjects: too few to know whether reading "
            "more still changes anything. Read cases of other subjects."
        )
        return {"cells": cells, **_NOT_COMPARED, "stop": False, "subjects": count, "words": words}
    agreement = _agreement(called, newer, np.unique(subjects, return_inverse=True)[1])
    stop, words = _verdict(agreement)
    return {"cells": cells, **agreement, "stop": stop, "subjects": count, "words": words}


def _compared(session: Session, laboratory_id: int, classes: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return for the cells read last, the newest first, whether model and reader agree, and the subject."""
    mine = (CaseRow.laboratory_id == laboratory_id, CellRow.removed.is_(False), CellRow.label.in_(list(classes)))
    query = select(CellRow.label, PredictionRow.called, PredictionRow.bundle, CaseRow.subject, CaseRow.id)
    query = query.join(CaseRow, CaseRow.id == CellRow.case_id).join(
        PredictionRow, PredictionRow.id == CellRow.prediction_id
    )
    query = query.join(ReviewRow, ReviewRow.id == CellRow.review_id).where(*mine, PredictionRow.called != "")
    rows = session.execute(query.order_by(ReviewRow.id.desc()).limit(20 * WINDOW)).all()
    trained_on = {seal: training_subjects(session, laboratory_id, seal) for seal in {row.bundle for row in rows}}
    kept = []
    for row in rows:
        subject = subject_of(row.subject, row.id)
        if hash_of_subject(subject) not in trained_on[row.bundle]:
            kept.append((row.label == row.called, subject))
    kept = kept[: 2 * WINDOW]
    return np.array([same for same, _ in kept], bool), np.array([subject for _, subject in kept])


def _agreement(same: NDArray[np.bool_], newer: NDArray[np.bool_], codes: NDArray[np.int64]) -> AgreementOverTime:
    counts = {
        name: (np.bincount(codes, part & same), np.bincount(codes, part))
        for name, part in (("newer", newer), ("older", ~newer))
    }
    sizes = np.bincount(codes).astype(float)

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(all="ignore"):
            return {name: (weights @ hits) / (weights @ all_) for name, (hits, all_) in counts.items()}

    measured = jackknife(measure, Design(np.zeros(len(sizes), np.int64), sizes), cells=len(codes))
    return {
        "newer": measured.interval("newer"),
        "older": measured.interval("older"),
        "difference": measured.difference("newer", "older"),
    }


def _verdict(agreement: AgreementOverTime) -> tuple[bool, str]:
    """Return whether to stop, and why, in words."""
    newer, older = agreement["newer"], agreement["older"]
    low, high = newer["low"], newer["high"]
    least, most = agreement["difference"]["low"], agreement["difference"]["high"]
    limits = "" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    text = (
        f"Model and readers agree on {100 * (newer['value'] or 0):.0f} % of the last {WINDOW} cells read{limits}, "
        f"and on {100 * (older['value'] or 0):.0f} % of the {WINDOW} before. "
    )
    if low is None or high is None or least is None or most is None:
        return False, text + "With so few subjects this may be chance: continue reading."
    if not least <= 0 <= most:
        return False, text + "That is more than chance: the model still changes, so continue reading."
    if high - low > _WIDE:
        return False, text + "The interval is still too wide: continue reading, preferably cases of other subjects."
    return True, text + f"The last {WINDOW} cells changed nothing beyond chance: you may stop reading to improve it."
