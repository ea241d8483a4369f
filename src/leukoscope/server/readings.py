"""Who reads a case, what each of them sees, and which answer counts where they differ.

A case asks for one, two or three readers. With one, and the model shown, it is FREE: the last answer counts.
Else it goes

    READING ─ all have finished ▶ THIRD ─ that one has finished ▶ CONSENSUS ─ nothing left to settle ▶ SETTLED

past the phases for which there is nothing to do. In READING each sees only their own answers; in THIRD a third reader
reads, as blind, the cells on which two differ. An answer counts once two readers gave it (one, where one was asked
for), or once a consensus session did. Answers are rows of `reviews`; none is ever overwritten.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from .accounts import Caller
from .database import (
    BLIND,
    CONSENSUS,
    DRAWN,
    FREE,
    MOST_READERS,
    READING,
    REMOVED,
    REVIEWER,
    SETTLED,
    SHAPES,
    THIRD,
    AccountRow,
    CaseRow,
    CellRow,
    PredictionRow,
    ReadingRow,
    ReviewRow,
    now,
)
from .refusals import Refusal, not_allowed


class Replaced(TypedDict):
    """The answer whose place another one takes, for the log; empty strings where there is none."""

    old: str
    old_reader: str


class Change(TypedDict):
    """A setting before and after."""

    old: Any
    new: Any


@dataclass(frozen=True)
class View:
    """What somebody may see of a case now."""

    case_id: int
    account_id: int
    round: str
    """Of whose reviews the labels are, where `own` is set."""
    own: bool
    """Whether only their own answers are shown, and nobody else's."""
    model: bool
    """Whether they see the model's answers."""
    disputed: bool
    """Whether they see only the cells on which two readers differ."""


def view_of(session: Session, caller: Caller, case: CaseRow) -> View:
    """Return what a caller may see of a case."""
    blind = case.phase in BLIND
    first = case.phase == THIRD and _place_of(session, case.id, caller.account_id, round_=READING) is not None
    third = case.phase == THIRD and not first
    round_ = THIRD if third else READING
    return View(case.id, caller.account_id, round_, blind, not (blind and case.hide_model), third)


def view_of_all(case: CaseRow) -> View:
    """Return what the laboratory itself holds of a case whose readers have finished, as it is handed to others."""
    check_unblind(case)
    return View(case.id, 0, READING, own=False, model=True, disputed=False)


def round_of(case: CaseRow) -> str:
    """Return the round to which an answer belongs that is given now."""
    return {FREE: READING, READING: READING, THIRD: THIRD}.get(case.phase, CONSENSUS)


def last_answers(*where: Any) -> Select[Any]:
    """Return the ids of the reviews that nobody took back, the last of each reader, cell and round."""
    answers = (ReviewRow.undone.is_(False), ReviewRow.label.not_in(SHAPES))
    query = select(func.max(ReviewRow.id)).where(*answers, *where).correlate(None)
    return query.group_by(ReviewRow.cell_id, ReviewRow.account_id, ReviewRow.round)


def _place_of(session: Session, case_id: int, account_id: int, *, round_: str) -> ReadingRow | None:
    """Return somebody's place in a round, unless it was released."""
    mine = (ReadingRow.case_id == case_id, ReadingRow.account_id == account_id, ReadingRow.released.is_(None))
    return session.scalar(select(ReadingRow).where(*mine, ReadingRow.round == round_))


def _places(session: Session, case_id: int, *, round_: str) -> list[tuple[ReadingRow, str]]:
    """Return the places that are taken in a round, and by whom, in the order in which they were taken."""
    query = select(ReadingRow, AccountRow.name).join(AccountRow, AccountRow.id == ReadingRow.account_id)
    query = query.where(ReadingRow.case_id == case_id, ReadingRow.round == round_, ReadingRow.released.is_(None))
    return [(row[0], row[1]) for row in session.execute(query.order_by(ReadingRow.id))]


def take_place(session: Session, caller: Caller, case: CaseRow) -> ReadingRow | None:
    """Return the caller's place as a reader of a case, taking one where they have none; None in a consensus session.

    Raises:
        Refusal: every place is taken, the caller has finished or read before (409), or may not settle (403).
    """
    mine = session.scalar(
        select(ReadingRow).where(ReadingRow.case_id == case.id, ReadingRow.account_id == caller.account_id)
    )
    if case.phase not in (FREE, *BLIND):
        if (mine is None or mine.released) and not caller.may(REVIEWER):
            raise not_allowed(REVIEWER)
        return None
    round_, held = round_of(case), mine is not None and not mine.released
    if held and mine is not None and (mine.round != round_ or mine.finished):
        raise _has_finished(case)
    if held:
        return mine
    taken = _places(session, case.id, round_=round_)
    most = {READING: case.readers, THIRD: 1}[round_]
    if case.phase != FREE and len(taken) >= most:
        names = " and ".join(name for _, name in taken)
        raise Refusal(409, "no_place", f"Case {case.id} is read by {names}. A reviewer can release a place.")
    if mine is None:
        mine = ReadingRow(case_id=case.id, account_id=caller.account_id, round=round_)
        session.add(mine)
    mine.round, mine.released, mine.finished = round_, None, None
    session.flush()
    return mine


def _has_finished(case: CaseRow) -> Refusal:
    cure = (
        "A third reader reads the cells on which two differ."
        if case.phase == THIRD
        else "You can take that back while others still read."
    )
    return Refusal(409, "finished", f"You have finished reading case {case.id}. {cure}")


def add_answer(
    session: Session,
    caller: Caller,
    case: CaseRow,
    cell: CellRow,
    label: str,
    *,
    note: str = "",
    batch: int | None = None,
) -> tuple[ReviewRow, Replaced]:
    """Store an answer; return it, and for the log the answer that it replaces.

    REMOVED takes a cell off the pages until that is undone; DRAWN, of a new cell, puts it there until that is undone.
    Refuses as `take_place` does.
    """
    take_place(session, caller, case)
    view = view_of(session, caller, case)
    before = _before(session, view, cell)
    review = ReviewRow(
        cell_id=cell.id,
        case_id=case.id,
        account_id=caller.account_id,
        label=label,
        note=note,
        round=round_of(case),
        shown=_shown(session, view, cell),
        batch=batch,
    )
    session.add(review)
    session.flush()
    if label == REMOVED:
        cell.removed, cell.version = True, cell.version + 1
    update_label(session, case, cell)
    if not view.own:
        settle_phase(session, case)
    return review, before


def add_answers(
    session: Session, caller: Caller, case: CaseRow, labels: Sequence[tuple[CellRow, str]], *, note: str = ""
) -> list[tuple[ReviewRow, Replaced]]:
    """Store the answers to several cells, which are taken back as one; return each as `add_answer` does."""
    answers: list[tuple[ReviewRow, Replaced]] = []
    for cell, label in labels:
        answers.append(
            add_answer(session, caller, case, cell, label, note=note, batch=answers[0][0].id if answers else None)
        )
    first = answers[0][0]
    first.batch = first.id
    session.flush()
    return answers


def _before(session: Session, view: View, cell: CellRow) -> Replaced:
    """Return the answer that another one replaces: one's own where one reads blind, else the current one."""
    if view.own:
        mine = last_answers(
            ReviewRow.cell_id == cell.id, ReviewRow.account_id == view.account_id, ReviewRow.round == view.round
        )
        query = select(ReviewRow.label, AccountRow.name).join(AccountRow).where(ReviewRow.id.in_(mine))
    else:
        query = select(ReviewRow.label, AccountRow.name).join(AccountRow).where(ReviewRow.id == cell.review_id)
    row = session.execute(query).first()
    return {"old": row.label, "old_reader": row.name} if row else {"old": "", "old_reader": ""}


def _shown(session: Session, view: View, cell: CellRow) -> dict[str, Any]:
    """Return what a reader is shown: version of the cell, the model's answer, ids of the reviews of others."""
    shown: dict[str, Any] = {"version": cell.version, "model": None, "reviews": []}
    if view.model and cell.prediction_id:
        prediction = session.get_one(PredictionRow, cell.prediction_id)
        shown["model"] = {
            "prediction": prediction.id,
            "decision": prediction.decision,
            "type": prediction.type,
            "bundle": prediction.bundle,
        }
    if not view.own:
        others = last_answers(ReviewRow.cell_id == cell.id, ReviewRow.account_id != view.account_id)
        shown["reviews"] = sorted(session.scalars(others))
    return shown


def last_reviews(session: Session, caller: Caller, case: CaseRow) -> list[ReviewRow]:
    """Return the caller's last answer in this round of a case that is not taken back: one review, or a batch."""
    own = (ReviewRow.case_id == case.id, ReviewRow.account_id == caller.account_id, ReviewRow.undone.is_(False))
    query = select(ReviewRow).where(*own, ReviewRow.round == round_of(case)).order_by(ReviewRow.id.desc())
    last = session.scalar(query.limit(1))
    if last is None or last.batch is None:
        return [last] if last else []
    return list(session.scalars(query.where(ReviewRow.batch == last.batch)))


def undo(session: Session, caller: Caller, case: CaseRow, last: Sequence[ReviewRow]) -> list[CellRow]:
    """Take reviews back; return their cells. Refuses as `take_place` does: who has finished takes back nothing."""
    take_place(session, caller, case)
    for review in last:
        review.undone = True
    session.flush()
    cells = [session.get_one(CellRow, review.cell_id) for review in last]
    for cell, review in zip(cells, last, strict=True):
        if review.label in SHAPES:
            cell.removed, cell.version = _is_gone(session, cell), cell.version + 1
        update_label(session, case, cell)
    if case.phase not in BLIND:
        settle_phase(session, case)
    return cells


def _is_gone(session: Session, cell: CellRow) -> bool:
    """Return whether somebody has taken a cell away, or has taken back that it was drawn in the place of others."""
    taken = (ReviewRow.label == REMOVED) & ReviewRow.undone.is_(False)
    never = (ReviewRow.label == DRAWN) & ReviewRow.undone
    return session.scalar(select(ReviewRow.id).where(ReviewRow.cell_id == cell.id, taken | never).limit(1)) is not None


# --- which answer counts -------------------------------------------------------------------------------------------


def update_label(session: Session, case: CaseRow, cell: CellRow) -> None:
    """Set the label of a cell to the answer that counts; none while its readers are blind to each other."""
    if case.phase == FREE:
        left = (ReviewRow.cell_id == cell.id, ReviewRow.undone.is_(False), ReviewRow.label.not_in(SHAPES))
        last = session.scalar(select(ReviewRow).where(*left).order_by(ReviewRow.id.desc()).limit(1))
        _set(cell, last)
    elif case.phase not in BLIND:
        _set(cell, _agreed(_counting(session, case, cell.id).get(cell.id, []), case))
    session.flush()


def _set(cell: CellRow, review: ReviewRow | None) -> None:
    cell.label, cell.review_id = (review.label, review.id) if review else ("", None)


def _counting(session: Session, case: CaseRow, cell_id: int | None = None) -> dict[int, list[ReviewRow]]:
    """Return the answers that count, by cell: of readers who have finished, and of consensus sessions."""
    where = [ReviewRow.case_id == case.id] + ([ReviewRow.cell_id == cell_id] if cell_id else [])
    place = (
        ReadingRow.case_id == ReviewRow.case_id,
        ReadingRow.account_id == ReviewRow.account_id,
        ReadingRow.round == ReviewRow.round,
    )
    finished = (
        select(ReadingRow.id).where(*place, ReadingRow.released.is_(None), ReadingRow.finished.is_not(None)).exists()
    )
    counts = finished | (ReviewRow.round == CONSENSUS)
    query = select(ReviewRow).where(ReviewRow.id.in_(last_answers(*where)), counts).order_by(ReviewRow.id)
    found: dict[int, list[ReviewRow]] = defaultdict(list)
    for review in session.scalars(query):
        found[review.cell_id].append(review)
    return found


def _agreed(answers: Iterable[ReviewRow], case: CaseRow) -> ReviewRow | None:
    """Return the answer that counts among those of one cell: of the last consensus, else the one that enough gave."""
    answers = list(answers)
    consensus = [each for each in answers if each.round == CONSENSUS]
    if consensus:
        return consensus[-1]
    given = Counter(each.label for each in answers)
    enough = min(case.readers, 2)
    return next((each for each in answers if given[each.label] >= enough), None)


def settle_phase(session: Session, case: CaseRow) -> None:
    """Update the phase of a case, and the labels of its cells, after a reader has finished or answered."""
    before = case.phase
    case.phase = _phase(session, case)
    if case.phase != before:
        _update_labels(session, case)  # which shows where they differ
        case.phase = _phase(session, case)
    session.flush()


def _phase(session: Session, case: CaseRow) -> str:
    if case.readers == 1 and not case.hide_model:
        return FREE
    places = _places(session, case.id, round_=READING)
    if len(places) < case.readers or not all(reading.finished for reading, _ in places):
        return READING
    if not unsettled(session, case.id):
        return SETTLED
    third = _places(session, case.id, round_=THIRD)
    if case.settling == THIRD and case.readers == 2 and not any(reading.finished for reading, _ in third):
        return THIRD
    return CONSENSUS


def unsettled(session: Session, case_id: int) -> int:
    """Return on how many cells of a case the readers differ, with nothing settled yet."""
    open_ = (CellRow.case_id == case_id, CellRow.removed.is_(False), CellRow.disputed, CellRow.label == "")
    return session.scalar(select(func.count()).select_from(CellRow).where(*open_)) or 0


def _update_labels(session: Session, case: CaseRow) -> None:
    """Set the labels of all cells of a case to the answers that count, and note where the readers differ."""
    session.flush()
    if case.phase == FREE:
        for cell in session.scalars(select(CellRow).where(CellRow.case_id == case.id)):
            cell.disputed = False
            update_label(session, case, cell)
        return
    answers = {} if case.phase == READING else _counting(session, case)
    for cell in session.scalars(select(CellRow).where(CellRow.case_id == case.id)):
        given = answers.get(cell.id, [])
        first = [each.label for each in given if each.round == READING]
        cell.disputed = bool(first) and (len(first) < case.readers or len(set(first)) > 1)
        _set(cell, _agreed(given, case))
    session.flush()


# --- finishing, releasing, asking for readers ------------------------------------------------------------------------


def finish(session: Session, caller: Caller, case: CaseRow) -> None:
    """Note that the caller has read what they wanted to read; when all have, the answers are opened.

    Raises:
        Refusal: the caller reads nothing here (409).
    """
    place = _own_place(session, caller, case)
    if place.finished is None:
        place.finished = now()
        session.flush()
        settle_phase(session, case)


def resume(session: Session, caller: Caller, case: CaseRow) -> None:
    """Take the caller's finish back; refused once the answers are open (409)."""
    place = _own_place(session, caller, case)
    place.finished = None
    session.flush()


def _own_place(session: Session, caller: Caller, case: CaseRow) -> ReadingRow:
    if case.phase not in BLIND:
        text = (
            f"Case {case.id} has one reader, who need not finish: sign it off."
            if case.phase == FREE
            else f"Every reader of case {case.id} has finished, and the answers are open."
        )
        raise Refusal(409, "not_blind", text)
    place = _place_of(session, case.id, caller.account_id, round_=round_of(case))
    if place is None:
        raise Refusal(409, "no_reader", f"You do not read case {case.id}. Label a cell to take a place.")
    return place


def release(session: Session, case: CaseRow, account_id: int) -> str:
    """Give a reader's place back, so that somebody else can take it; their answers are kept and no longer count.

    Returns:
        The reader's name.

    Raises:
        Refusal: they have none, or the answers are open already (409).
    """
    places = _places(session, case.id, round_=round_of(case)) if case.phase in BLIND else []
    found = next(((reading, name) for reading, name in places if reading.account_id == account_id), None)
    if found is None:
        raise Refusal(409, "no_reader", f"This account holds no place at case {case.id} that could be released.")
    found[0].released = now()
    session.flush()
    return found[1]


def ask_for(
    session: Session, case: CaseRow, *, readers: int | None, hide_model: bool | None, settling: str | None
) -> dict[str, Change]:
    """Change how a case is to be read; return what has changed, for the log.

    Raises:
        Refusal: more people read it than would be asked for, or their answers are open already (409).
    """
    wanted = {"readers": readers, "hide_model": hide_model, "settling": settling}
    changes = {name: value for name, value in wanted.items() if value not in (None, getattr(case, name))}
    blinding = {"readers", "hide_model"} & changes.keys()
    if blinding and case.phase not in (FREE, READING):
        raise Refusal(409, "finished", f"The readers of case {case.id} have finished; how they read it cannot change.")
    if readers is not None and "readers" in changes:
        _check_fewer(session, case, readers)
    made = {name: Change(old=getattr(case, name), new=value) for name, value in changes.items()}
    for name, value in changes.items():
        setattr(case, name, value)
    session.flush()
    if changes:
        settle_phase(session, case)
    return made


def _check_fewer(session: Session, case: CaseRow, readers: int) -> None:
    people = [name for _, name in _places(session, case.id, round_=READING)]
    if len(people) > readers:
        names = " and ".join(people)
        raise Refusal(
            409,
            "too_many_readers",
            f"Case {case.id} is read by {names}; that is more than {readers}. "
            "Release a place first, or ask for more readers.",
        )


def check_cells_may_change(session: Session, case: CaseRow) -> None:
    """Refuse to add, redraw or remove cells and images of a case whose readers must all read the same (409)."""
    if case.phase == FREE:
        return
    begun = (ReviewRow.case_id == case.id, ReviewRow.label.not_in(SHAPES))
    if session.scalar(select(ReviewRow.id).where(*begun).limit(1)) is not None:
        text = (
            f"Case {case.id} is read by several people, who must all read the same cells, and reading has begun. "
            'Label it "not a cell" where there is none.'
        )
        raise Refusal(409, "being_read", text)


def check_images_may_be_added(session: Session, case: CaseRow) -> None:
    """Refuse images for a case that somebody has finished reading (409)."""
    done = (ReadingRow.case_id == case.id, ReadingRow.finished.is_not(None), ReadingRow.released.is_(None))
    if case.phase != FREE and session.scalar(select(ReadingRow.id).where(*done).limit(1)) is not None:
        text = f"Somebody has finished reading case {case.id}, so nothing can be added. Make another case for the rest."
        raise Refusal(409, "finished", text)


def check_unblind(case: CaseRow) -> None:
    """Refuse to hand out answers while readers are blind to each other (409)."""
    if case.phase in BLIND:
        text = f"Case {case.id} is being read blind. Its answers are open when its readers have finished."
        raise Refusal(409, "blind", text)


def check_settled(session: Session, case: CaseRow) -> None:
    """Refuse to sign off a case whose readers have not finished, or differ (409)."""
    check_unblind(case)
    if case.phase == CONSENSUS:
        left = unsettled(session, case.id)
        cells = "1 cell" if left == 1 else f"{left:,} cells"
        raise Refusal(409, "unsettled", f"The readers differ on {cells} of case {case.id}. Settle them first.")


# --- as the API shows it ---------------------------------------------------------------------------------------------


class ReaderProgress(BaseModel):
    """One reader's place at a case, and how far they are."""

    account: int
    reader: str
    active: bool
    round: str
    read: int
    """Cells that they have read in this round."""
    started: str
    finished: str | None
    released: str | None


class ReadingState(BaseModel):
    """How a case is read: what was asked for, by whom it is read, and how far they are."""

    model_config = ConfigDict(protected_namespaces=())

    readers: int
    hide_model: bool
    settling: str
    phase: str
    blind: bool
    """Whether the caller sees their own answers only."""
    model_shown: bool
    people: list[ReaderProgress]
    unsettled: int
    """Cells on which the readers differ."""
    mine: ReaderProgress | None
    free: int
    """Places that nobody has taken."""
    most: int
    """Readers that a case may have."""


class ReaderAnswer(TypedDict):
    """The last answer of one reader to one cell."""

    reader: str
    label: str
    time: str
    note: str
    round: str


class AnswerRecord(ReaderAnswer):
    """An answer with its place in the history of a case."""

    review: int
    cell: int
    """Number of the cell."""
    undone: bool
    shown: dict[str, Any]
    """As `ReviewRow.shown`."""


def describe(session: Session, caller: Caller, case: CaseRow) -> ReadingState:
    """Return how a case is read, as a caller may know it."""
    read = _numbers_read(session, case.id)
    query = select(ReadingRow, AccountRow.name, AccountRow.active).join(
        AccountRow, AccountRow.id == ReadingRow.account_id
    )
    rows = session.execute(query.where(ReadingRow.case_id == case.id).order_by(ReadingRow.id)).all()
    people = [
        ReaderProgress(
            account=place.account_id,
            reader=name,
            active=active,
            round=place.round,
            read=read.get((place.account_id, place.round), 0),
            started=place.started,
            finished=place.finished,
            released=place.released,
        )
        for place, name, active in rows
    ]
    view = view_of(session, caller, case)
    return ReadingState(
        readers=case.readers,
        hide_model=case.hide_model,
        settling=case.settling,
        phase=case.phase,
        blind=view.own,
        model_shown=view.model,
        people=people,
        unsettled=unsettled(session, case.id),
        mine=next((each for each in people if each.account == caller.account_id), None),
        free=_free(case, people),
        most=MOST_READERS,
    )


def _free(case: CaseRow, people: Sequence[ReaderProgress]) -> int:
    """Return how many places nobody has taken."""
    round_ = round_of(case)
    taken = len([each for each in people if each.round == round_ and not each.released])
    most = {READING: case.readers, THIRD: 1}.get(case.phase, 0)
    return max(0, most - taken)


def _numbers_read(session: Session, case_id: int) -> dict[tuple[int, str], int]:
    """Return how many cells each account has read, by account and round."""
    words = last_answers(ReviewRow.case_id == case_id)
    query = select(ReviewRow.account_id, ReviewRow.round, func.count()).join(CellRow, CellRow.id == ReviewRow.cell_id)
    query = query.where(ReviewRow.id.in_(words), CellRow.removed.is_(False)).group_by(
        ReviewRow.account_id, ReviewRow.round
    )
    return {(row[0], row[1]): row[2] for row in session.execute(query)}


def cells_read_by(session: Session, caller: Caller, ids: Sequence[int]) -> dict[int, int]:
    """Return how many cells of cases the caller has read."""
    words = last_answers(ReviewRow.case_id.in_(ids), ReviewRow.account_id == caller.account_id)
    query = select(ReviewRow.case_id, func.count(func.distinct(ReviewRow.cell_id))).join(
        CellRow, CellRow.id == ReviewRow.cell_id
    )
    query = query.where(ReviewRow.id.in_(words), CellRow.removed.is_(False)).group_by(ReviewRow.case_id)
    return {row[0]: row[1] for row in session.execute(query)}


def answers_of(session: Session, view: View, cells: Sequence[int] | None = None) -> dict[int, list[ReaderAnswer]]:
    """Return the last answers on some cells of a case, or on all, by cell and in the order in which they were given.

    One's own where one reads blind.
    """
    where = [ReviewRow.case_id == view.case_id] + ([] if cells is None else [ReviewRow.cell_id.in_(cells)])
    if view.own:
        where += [ReviewRow.account_id == view.account_id, ReviewRow.round == view.round]
    query = (
        select(ReviewRow, AccountRow.name)
        .join(AccountRow)
        .where(ReviewRow.id.in_(last_answers(*where)))
        .order_by(ReviewRow.id)
    )
    found: dict[int, list[ReaderAnswer]] = defaultdict(list)
    for review, name in session.execute(query):
        found[review.cell_id].append(
            {"reader": name, "label": review.label, "time": review.created, "note": review.note, "round": review.round}
        )
    return found


def history(session: Session, view: View, *, cell_id: int | None = None) -> list[AnswerRecord]:
    """Return every answer that was ever given, of one cell or of the whole case, with what was shown to its reader."""
    where = [ReviewRow.case_id == view.case_id] + ([ReviewRow.cell_id == cell_id] if cell_id else [])
    if view.own:
        where.append(ReviewRow.account_id == view.account_id)
    query = (
        select(ReviewRow, AccountRow.name, CellRow.number)
        .join(AccountRow)
        .join(CellRow, CellRow.id == ReviewRow.cell_id)
    )
    return [
        {
            "review": review.id,
            "cell": number,
            "reader": name,
            "label": review.label,
            "note": review.note,
            "time": review.created,
            "round": review.round,
            "undone": review.undone,
            "shown": review.shown,
        }
        for review, name, number in session.execute(query.where(*where).order_by(ReviewRow.id))
    ]
