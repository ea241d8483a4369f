"""What readers say of cells: each review is kept, the last one stands, and each reader can take back their own."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from .accounts import Caller
from .tables import REMOVED, Cell, Review


def review(session: Session, caller: Caller, cell: Cell, label: str, *, note: str = "") -> Review:
    """Let a label stand for a cell; REMOVED takes it off the pages until that is undone."""
    said = Review(cell_id=cell.id, case_id=cell.case_id, account_id=caller.account_id, label=label, note=note)
    session.add(said)
    session.flush()
    if label == REMOVED:
        cell.removed = True
    else:
        cell.label, cell.review_id = label, said.id
    session.flush()
    return said


def undo(session: Session, caller: Caller, case_id: int) -> Cell | None:
    """Take back the caller's last review in a case; return its cell, or None when there is nothing to take back."""
    own = (Review.case_id == case_id, Review.account_id == caller.account_id, Review.undone.is_(False))
    last = session.scalar(select(Review).where(*own).order_by(Review.id.desc()).limit(1))
    if last is None:
        return None
    last.undone = True
    session.flush()
    cell = session.get_one(Cell, last.cell_id)
    if last.label == REMOVED:
        cell.removed = False
    stand_anew(session, cell)
    return cell


def stand_anew(session: Session, cell: Cell) -> None:
    """Let the last review that nobody took back stand for a cell."""
    left = (Review.cell_id == cell.id, Review.undone.is_(False), Review.label != REMOVED)
    last = session.scalar(select(Review).where(*left).order_by(Review.id.desc()).limit(1))
    cell.label, cell.review_id = (last.label, last.id) if last else ("", None)
    session.flush()


def forget(session: Session, cell: Cell) -> None:
    """Take back all reviews of a cell that is drawn anew: they were of another picture."""
    session.execute(update(Review).where(Review.cell_id == cell.id).values(undone=True))
    cell.label, cell.review_id = "", None
