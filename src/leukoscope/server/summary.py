"""The numbers of a case: differential, share of blasts, and how far its readers agree."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from ..bundle.manifest import NOT_ASKED, REFUSED, TYPES, UNSURE, Manifest, title_of
from ..evaluation.compare import agreement
from ..evaluation.results import CaseAgreement, DifferingCell
from ..inference.blood_count import BloodSummary, FieldCount, summary_of, with_cells
from ..inference.cell_types import (
    BLAST,
    IMMATURE,
    LYMPHOCYTE,
    LYMPHOID,
    SMUDGE,
    Differential,
    Kinds,
    checked_order,
    differential,
    errors_of,
)
from ..inference.opinions import Opinion
from ..inference.prevalence import LEVEL, Accuracy, accuracy_of, rogan_gladen, why_not_known
from . import readings
from .cases import MODEL_ANSWER, label_for, labelled, of_case, shown_to
from .database import (
    CONSENSUS,
    QUEUED,
    READING,
    RUNNING,
    SETTLED,
    AccountRow,
    BundleRow,
    CaseRow,
    CellRow,
    ImageRow,
    LaboratoryRow,
    PredictionRow,
    ReadingRow,
    ReviewRow,
)
from .readings import View
from .settings import RoomSettings


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the labels that a reader can give in addition to the classes; none where the bundle knows no types."""
    return (*(name for name in TYPES if name != LYMPHOID), SMUDGE) if manifest.types else ()


def titles_of(manifest: Manifest) -> dict[str, str]:
    """Return the titles of the classes: with types, a normal lymphoid cell is called a lymphocyte."""
    titles = {name: title_of(name) for name in manifest.classes}
    if manifest.types and manifest.positive:
        titles[manifest.classes[0]] = LYMPHOCYTE
    return titles


def counting_of(session: Session, laboratory_id: int, settings: RoomSettings) -> RoomSettings:
    """Return the settings of the room with the order, goal and keys that a laboratory has set in the browser."""
    own = session.get_one(LaboratoryRow, laboratory_id).counting
    return settings.model_copy(update={**own, **({"order": tuple(own["order"])} if "order" in own else {})})


def differentials(session: Session, view: View, *, manifest: Manifest, settings: RoomSettings) -> dict[str, Any] | None:
    """Return {"model", "readers"}: what each counted; None where the bundle that serves knows no types.

    Where the model is hidden it has counted nothing.
    """
    if not manifest.types:
        return None
    order, goal = checked_order(settings.order), settings.goal
    by_model = _by_model(session, CellRow.case_id == view.case_id, manifest) if view.model else Kinds()
    model = differential(by_model, errors=errors_of(manifest, settings.point), order=order, goal=goal)
    readers = differential(_by_readers(session, view, manifest), order=order, goal=goal)
    return {"model": model.as_json(), "readers": readers.as_json()}


def differential_of_image(
    session: Session, image: ImageRow, *, manifest: Manifest, settings: RoomSettings
) -> Differential | None:
    """Return what the model counted in one image; None where the bundle that serves knows no types."""
    if not manifest.types:
        return None
    errors, order = errors_of(manifest, settings.point), checked_order(settings.order)
    kinds = _by_model(session, CellRow.image_id == image.id, manifest)
    return differential(kinds, errors=errors, order=order, goal=settings.goal)


def blood_of(
    session: Session, case_id: int, *, factor: float | None, image_id: int | None = None
) -> BloodSummary | None:
    """Return red cells and platelets of a case's fields, or of one of them; None where none were counted."""
    there = (CellRow.case_id == case_id, CellRow.removed.is_(False))
    white_of = _by_image(session, *there, CellRow.type.in_(_WHITE))
    large_of = _by_image(session, *there, CellRow.type == "platelet")
    images = select(ImageRow.id, ImageRow.facts).where(ImageRow.case_id == case_id).order_by(ImageRow.number)
    if image_id is not None:
        images = images.where(ImageRow.id == image_id)
    fields = [
        with_cells(FieldCount(**facts["blood"]), white=white_of.get(image, 0), large=large_of.get(image, 0))
        for image, facts in session.execute(images)
        if facts.get("blood")
    ]
    return summary_of(fields, factor=factor)


def _by_image(session: Session, *where: ColumnElement[bool]) -> dict[int, int]:
    """Return the number of cells of each image."""
    query = select(CellRow.image_id, func.count()).where(*where).group_by(CellRow.image_id)
    return {row[0]: row[1] for row in session.execute(query)}


_WHITE = ("neutrophil", "eosinophil", "basophil", "monocyte", LYMPHOID, IMMATURE)


def _by_model(session: Session, where: ColumnElement[bool], manifest: Manifest) -> Kinds:
    """Count the model's answers; cells that only a bundle without types has analysed are left out."""
    known = (CellRow.type != "") | (CellRow.decision == REFUSED)
    columns = (CellRow.type, CellRow.decision, PredictionRow.called)
    query = select(*columns, func.count()).outerjoin(PredictionRow, PredictionRow.id == CellRow.prediction_id)
    query = query.where(where, CellRow.removed.is_(False), known).group_by(*columns)
    kinds = Kinds()
    for kind, decision, called, count in session.execute(query):
        kinds.add(Opinion("", decision, type=kind, called=called or ""), positive=manifest.positive, times=count)
    return kinds


def _by_readers(session: Session, view: View, manifest: Manifest) -> Kinds:
    column = label_for(view)
    query = of_case(labelled(select(column, func.count()).select_from(CellRow), view), view)
    kinds = Kinds()
    for label, count in session.execute(query.group_by(column)):
        if label in manifest.classes:
            kinds.cells[BLAST if label == manifest.positive else LYMPHOCYTE] += count
        elif label == UNSURE or label in labels_of(manifest):  # classes of older bundles have no rows
            kinds.cells[label] += count
    return kinds


Floats = NDArray[np.float64]
NOTICE = "Research use, not a diagnosis"
_SEED = 0  # the same case gives the same interval
_NO_BETTER = 1e-6


def summary(session: Session, view: View, *, manifest: Manifest, point: str) -> dict[str, Any]:
    """Return counts by model and by reader, and the share of the disease with value, low, high and how.

    Unsure and refused are counted as the pages show them: a reader's label counts before the model's answer. Cells
    on which the readers differ are among those read, and counted as `unsettled` too; the share leaves them open.
    """
    by_model = _counts(session, view, MODEL_ANSWER) if view.model else {}
    by_reader, shown = _counts(session, view, label_for(view)), _counts(session, view, shown_to(view))
    cells = sum(by_reader.values())
    unsettled = 0 if view.own else readings.unsettled(session, view.case_id)
    unread = by_reader.pop("", 0) - unsettled
    return {
        "cells": cells,
        "read": cells - unread,
        "unsettled": unsettled,
        "by_model": by_model,
        "by_reader": by_reader,
        "unsure": shown.get(UNSURE, 0),
        "refused": shown.get(REFUSED, 0),
        "positive": manifest.positive,
        "blast_share": _share(session, view, by_reader, manifest, point=point, unsettled=unsettled),
        "notice": NOTICE,
    }


def _counts(session: Session, view: View, column: Any) -> dict[str, int]:
    query = of_case(labelled(select(column, func.count()).select_from(CellRow), view), view).group_by(column)
    return {row[0]: row[1] for row in session.execute(query)}


def _share(
    session: Session, view: View, by_reader: dict[str, int], manifest: Manifest, *, point: str, unsettled: int
) -> dict[str, Any]:
    """Return the share over cells that a reader or the model decided; a reader's label counts before the model's.

    The value is None while images are analysed and while people read blind, and, with low and high, where these leave
    too much possible (`prevalence.why_not_known`). `how` states what it is based on. Cells on which the
    readers differ are not part of the value; the interval allows for all and for none of them being the disease.
    """
    nothing = {"value": None, "low": None, "high": None}
    if not manifest.positive:
        return nothing | {"how": "A model with more than two classes gives no share of blasts."}
    if waits := _reason_to_wait(session, view):
        return nothing | {"how": waits}
    read = sum(count for label, count in by_reader.items() if label in manifest.classes)
    blasts = by_reader.get(manifest.positive, 0)
    rest = [_model_part(session, *row, point=point) for row in _unread(session, view.case_id, manifest)]
    cells = read + sum(part.cells for part in rest)
    differ = _differ(unsettled)
    if not cells:
        return nothing | {"how": f"No cell has been decided yet.{differ}"}
    rng = np.random.default_rng(_SEED)
    parts = ([_reader_part(blasts, read, rng)] if read else []) + [part.drawn(rng) for part in rest]
    value, low, high = (sum(part[place] for part in parts) / cells for place in range(3))
    tail = (1 - LEVEL) / 2
    bounds = (
        {"low": float(np.quantile(low, tail)), "high": float(np.quantile(high, 1 - tail))}
        if np.ndim(low)
        else {"low": float(low), "high": float(high)}
    )
    value = float(np.clip(value, 0, 1))
    bounds = {"low": min(bounds["low"], value), "high": max(bounds["high"], value)}
    all_ = cells + unsettled
    bounds = {"low": bounds["low"] * cells / all_, "high": (bounds["high"] * cells + unsettled) / all_}
    how = _basis(read, rest) + differ
    if why := why_not_known(**bounds, cells=cells):
        called = blasts + sum(part.called for part in rest)
        counted = (
            f"{called:,} of {_cells(cells)} {'counts' if called == 1 else 'count'} as {title_of(manifest.positive)}."
        )
        return {"value": None, **bounds, "how": f"{counted} {why} {how}"}
    return {"value": value, **bounds, "how": how}


def _reason_to_wait(session: Session, view: View) -> str:
    """Return why no share is given yet; empty where one may be."""
    if view.own:
        return "The case is being read blind; its share shows when its readers have finished."
    waiting = (ImageRow.case_id == view.case_id, ImageRow.state.in_((QUEUED, RUNNING)))
    left = session.scalar(select(func.count()).select_from(ImageRow).where(*waiting)) or 0
    if not left:
        return ""
    all_ = session.scalar(select(func.count()).select_from(ImageRow).where(ImageRow.case_id == view.case_id))
    return f"{left:,} of {all_:,} images are still to be analysed."


class _ModelPart:
    """Cells that only one bundle has decided."""

    def __init__(self, accuracy: Accuracy | None, *, called: int, cells: int) -> None:
        self.accuracy, self.called, self.cells = accuracy, called, cells

    def drawn(self, rng: np.random.Generator) -> tuple[float, Any, Any]:
        """Return cells of the disease: best value, and draws of the least and the most there may be."""
        apparent = rng.beta(self.called + 0.5, self.cells - self.called + 0.5, size=4000)
        if self.accuracy is None:  # nobody knows how often this model errs: every share is possible
            return float(self.called), np.zeros(4000), np.full(4000, float(self.cells))
        value = rogan_gladen(self.called / self.cells, self.accuracy.sensitivity, self.accuracy.specificity)
        gain = self.accuracy.drawn_sensitivity + self.accuracy.drawn_specificity - 1
        useless = gain <= _NO_BETTER
        shares = np.clip((apparent + self.accuracy.drawn_specificity - 1) / np.where(useless, 1.0, gain), 0, 1)
        middle = self.called / self.cells if value is None else value
        low, high = np.where(useless, 0.0, shares), np.where(useless, 1.0, shares)
        return middle * self.cells, low * self.cells, high * self.cells


def _reader_part(blasts: int, read: int, rng: np.random.Generator) -> tuple[float, Any, Any]:
    """Return the same for cells that readers decided: what is unsure is only which cells were on the slide."""
    drawn = rng.beta(blasts + 0.5, read - blasts + 0.5, size=4000) * read
    return float(blasts), drawn, drawn


def _unread(session: Session, case_id: int, manifest: Manifest) -> list[tuple[str, int, int]]:
    """Return (bundle, cells called the disease, cells) of cells that the model alone decided.

    Neither those that a reader decided, nor those on which readers differ, nor those that the model refused.
    """
    called = func.sum(case((PredictionRow.called == manifest.positive, 1), else_=0))
    open_ = (
        CellRow.case_id == case_id,
        CellRow.removed.is_(False),
        (CellRow.label == UNSURE) | ((CellRow.label == "") & CellRow.disputed.is_(False)),
        CellRow.decision.not_in((REFUSED, NOT_ASKED)),
    )
    query = select(PredictionRow.bundle, called, func.count()).join(CellRow, CellRow.prediction_id == PredictionRow.id)
    rows = session.execute(query.where(*open_).group_by(PredictionRow.bundle))
    return [(row[0], int(row[1]), row[2]) for row in rows]


def _model_part(session: Session, bundle: str, called: int, cells: int, *, point: str) -> _ModelPart:
    known = session.get_one(BundleRow, bundle)
    return _ModelPart(_accuracy(known.seal, point, _Hashed(known.manifest)), called=called, cells=cells)


class _Hashed:
    """A manifest that a cache may hold: equal to every other one, since the seal distinguishes them."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed)


@cache
def _accuracy(seal: str, point: str, manifest: _Hashed) -> Accuracy | None:
    return accuracy_of(Manifest.model_validate(manifest.table), point)


def _basis(read: int, rest: list[_ModelPart]) -> str:
    """Return in one sentence what the share is based on.

    >>> _basis(12, []), _basis(1, [])
    ('All 12 cells decided by readers.', 'The only cell decided by a reader.')
    """
    cells = sum(part.cells for part in rest)
    if not cells:
        return f"All {_cells(read)} decided by readers." if read > 1 else "The only cell decided by a reader."
    who = f"{_cells(read)} decided by readers, {cells:,} by the model" if read else f"{_cells(cells)}, by the model"
    known = [part.accuracy for part in rest if part.accuracy]
    if len(known) < len(rest):
        return f"{who}, which was tested on too few subjects to estimate its error rate, so the interval is wide."
    rates = f"{100 * known[0].sensitivity:.0f} % and specificity {100 * known[0].specificity:.0f} %"
    return f"{who}, corrected for its sensitivity of {rates} over all cells that it was tested on."


def _differ(unsettled: int) -> str:
    """Return a sentence on the cells on which the readers differ.

    >>> _differ(4)
    ' The readers differ on 4 cells, which are not settled: the interval allows for both answers.'
    """
    if not unsettled:
        return ""
    are = "which is" if unsettled == 1 else "which are"
    return f" The readers differ on {_cells(unsettled)}, {are} not settled: the interval allows for both answers."


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count:,} cells"


# --- agreement between readers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadCase:
    """One case whose readers have finished."""

    case: CaseRow
    readers: tuple[str, ...]
    """In the order in which they began."""
    answers: dict[int, dict[str, str]]
    """Number of the cell -> reader -> label, of every cell that somebody has read."""
    standing: dict[int, tuple[str, str]]
    """Number of the cell -> its label, and in which round it was given; empty strings where there is none."""

    def complete(self, readers: Sequence[str]) -> list[list[str]]:
        """Return the answers to cells that all of these have read, one row per cell, columns in their order."""
        rows = [[answers.get(name, "") for name in readers] for answers in self.answers.values()]
        return [row for row in rows if all(row)]

    @property
    def subject(self) -> str:
        """Whose cells they are: cases without a subject are each one of their own."""
        return self.case.subject or f"case {self.case.id}"


def agreement_of_case(session: Session, case: CaseRow) -> CaseAgreement | None:
    """Return how far the readers of a case agree, and each cell on which they differ; None where one person reads.

    Intervals are over its cells: they hold for cells of this patient, and of no other.
    """
    found = read_cases(session, [case])
    if not found or len(found[0].readers) < 2:
        return None
    read = found[0]
    rows = read.complete(read.readers)
    figures = agreement(rows, [read.subject] * len(rows), named=True)
    return {
        **figures,
        "readers": list(read.readers),
        "read": len(read.answers),
        "differ": _cells_that_differ(read),
    }


def _cells_that_differ(read: ReadCase) -> list[DifferingCell]:
    """Return the cells on which the readers differ: their answers, the label that counts, and how it was settled."""
    return [
        {"cell": number, "answers": answers, "stands": read.standing[number][0], "by": _settled_by(read, number)}
        for number, answers in sorted(read.answers.items())
        if len(set(answers.values())) > 1 or len(answers) < len(read.readers)
    ]


def _settled_by(read: ReadCase, number: int) -> str:
    label, round_ = read.standing[number]
    if not label:
        return ""
    if round_ == CONSENSUS:
        return "consensus"
    return "majority" if len(read.readers) > 2 else "third reader"


def agreement_of_laboratory(session: Session, cases: Sequence[CaseRow]) -> dict[str, Any]:
    """Return how far readers agree over cases: {"cases", "all", "pairs"}, the last two with intervals over subjects.

    `all` has one row for each number of readers, `pairs` one for any two people who have read the same cells. The same
    two people have Cohen's kappa in both; readers who change from case to case, or more than two, have Fleiss' kappa.
    """
    found = [each for each in read_cases(session, cases) if len(each.readers) > 1]
    sizes = sorted({len(each.readers) for each in found})
    pairs: dict[tuple[str, str], list[tuple[ReadCase, list[list[str]]]]] = defaultdict(list)
    for read in found:
        for two in combinations(sorted(read.readers), 2):
            pairs[two].append((read, read.complete(two)))
    by_size = [[each for each in found if len(each.readers) == size] for size in sizes]
    return {
        "cases": len(found),
        "all": [{"readers": size} | _of_all(reads) for size, reads in zip(sizes, by_size, strict=True)],
        "pairs": [{"readers": list(two)} | _over(reads, named=True) for two, reads in sorted(pairs.items())],
    }


def _of_all(reads: Sequence[ReadCase]) -> dict[str, Any]:
    """Return the agreement of cases with equally many readers, who are named where they are the same in every case."""
    people = {tuple(sorted(each.readers)) for each in reads}
    return _over([(each, each.complete(sorted(each.readers))) for each in reads], named=len(people) == 1)


def _over(reads: Sequence[tuple[ReadCase, list[list[str]]]], *, named: bool) -> dict[str, Any]:
    rows = [row for _, more in reads for row in more]
    subjects = [read.subject for read, more in reads for _ in more]
    return {"cases": len(reads)} | agreement(rows, subjects, named=named)


def read_cases(session: Session, cases: Sequence[CaseRow]) -> list[ReadCase]:
    """Return the answers of cases whose readers have all finished, and are no longer blind to each other."""
    open_ = {case.id: case for case in cases if case.phase in (CONSENSUS, SETTLED)}
    place = (ReadingRow.case_id.in_(list(open_)), ReadingRow.round == READING, ReadingRow.released.is_(None))
    names: dict[int, list[str]] = defaultdict(list)
    people = (
        select(ReadingRow.case_id, AccountRow.name)
        .join(AccountRow, AccountRow.id == ReadingRow.account_id)
        .where(*place)
    )
    for case_id, name in session.execute(people.order_by(ReadingRow.id)):
        names[case_id].append(name)
    answers: dict[int, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    words = readings.last_answers(ReviewRow.case_id.in_(list(open_)), ReviewRow.round == READING)
    query = select(ReviewRow.case_id, CellRow.number, AccountRow.name, ReviewRow.label).join(
        CellRow, CellRow.id == ReviewRow.cell_id
    )
    query = query.join(AccountRow, AccountRow.id == ReviewRow.account_id).where(
        ReviewRow.id.in_(words), CellRow.removed.is_(False)
    )
    for case_id, number, name, label in session.execute(query.order_by(CellRow.number)):
        if name in names[case_id]:
            answers[case_id][number][name] = label
    current: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    labels = select(CellRow.case_id, CellRow.number, CellRow.label, ReviewRow.round).outerjoin(
        ReviewRow, ReviewRow.id == CellRow.review_id
    )
    for case_id, number, label, round_ in session.execute(labels.where(CellRow.case_id.in_(list(open_)))):
        current[case_id][number] = (label, round_ or "")
    return [ReadCase(case, tuple(names[id_]), answers[id_], current[id_]) for id_, case in open_.items()]
