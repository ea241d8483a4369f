"""How far the readers of cases agree, from what they said while they were blind to each other."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..evaluation.compare import agreement
from . import readings
from .database import CONSENSUS, READING, SETTLED, Account, Case, Cell, Reading, Review


@dataclass(frozen=True)
class Read:
    """One case whose readers have finished."""

    case: Case
    readers: tuple[str, ...]
    """In the order in which they began."""
    answers: dict[int, dict[str, str]]
    """Number of the cell -> reader -> label, of every cell that somebody has read."""
    standing: dict[int, tuple[str, str]]
    """Number of the cell -> what stands, and in which round it was said; empty words where nothing does."""

    def complete(self, readers: Sequence[str]) -> list[list[str]]:
        """Return the answers to cells that all of these have read, one row per cell, columns in their order."""
        rows = [[said.get(name, "") for name in readers] for said in self.answers.values()]
        return [row for row in rows if all(row)]

    @property
    def subject(self) -> str:
        """Whose cells they are: cases without a subject are each one of their own."""
        return self.case.subject or f"case {self.case.id}"


def agreement_of_case(session: Session, case: Case) -> dict[str, Any] | None:
    """Return how far the readers of a case agree, and each cell on which they differ; None where one person reads.

    Intervals are over its cells: they tell how sure the figures are for cells of this patient, and of no other.
    """
    found = read_cases(session, [case])
    if not found or len(found[0].readers) < 2:
        return None
    read = found[0]
    rows = read.complete(read.readers)
    figures = agreement(rows, [read.subject] * len(rows), named=True)
    return figures | {"readers": list(read.readers), "read": len(read.answers), "differ": _differ(read)}


def _differ(read: Read) -> list[dict[str, Any]]:
    """Return the cells on which the readers did not all say the same: answers, what stands, and how it was settled."""
    return [
        {"cell": number, "answers": said, "stands": read.standing[number][0], "by": _settled_by(read, number)}
        for number, said in sorted(read.answers.items())
        if len(set(said.values())) > 1 or len(said) < len(read.readers)
    ]


def _settled_by(read: Read, number: int) -> str:
    label, round_ = read.standing[number]
    if not label:
        return ""
    if round_ == CONSENSUS:
        return "consensus"
    return "majority" if len(read.readers) > 2 else "third reader"


def agreement_of_laboratory(session: Session, cases: Sequence[Case]) -> dict[str, Any]:
    """Return how far readers agree over cases: {"cases", "all", "pairs"}, the last two with intervals over subjects.

    `all` has one row for each number of readers, `pairs` one for any two people who have read the same cells. The same
    two people have Cohen's kappa in both; readers who change from case to case, or more than two, have Fleiss' kappa.
    """
    found = [each for each in read_cases(session, cases) if len(each.readers) > 1]
    sizes = sorted({len(each.readers) for each in found})
    pairs: dict[tuple[str, str], list[tuple[Read, list[list[str]]]]] = defaultdict(list)
    for read in found:
        for two in combinations(sorted(read.readers), 2):
            pairs[two].append((read, read.complete(two)))
    alike = [[each for each in found if len(each.readers) == size] for size in sizes]
    return {
        "cases": len(found),
        "all": [{"readers": size} | _of_all(reads) for size, reads in zip(sizes, alike, strict=True)],
        "pairs": [{"readers": list(two)} | _over(reads, named=True) for two, reads in sorted(pairs.items())],
    }


def _of_all(reads: Sequence[Read]) -> dict[str, Any]:
    """Return the agreement of cases with equally many readers, who are named where they are the same in every case."""
    people = {tuple(sorted(each.readers)) for each in reads}
    return _over([(each, each.complete(sorted(each.readers))) for each in reads], named=len(people) == 1)


def _over(reads: Sequence[tuple[Read, list[list[str]]]], *, named: bool) -> dict[str, Any]:
    rows = [row for _, more in reads for row in more]
    subjects = [read.subject for read, more in reads for _ in more]
    return {"cases": len(reads)} | agreement(rows, subjects, named=named)


def read_cases(session: Session, cases: Sequence[Case]) -> list[Read]:
    """Return what was said of cases whose readers have all finished, and are no longer blind to each other."""
    open_ = {case.id: case for case in cases if case.phase in (CONSENSUS, SETTLED)}
    place = (Reading.case_id.in_(list(open_)), Reading.round == READING, Reading.released.is_(None))
    names: dict[int, list[str]] = defaultdict(list)
    people = select(Reading.case_id, Account.name).join(Account, Account.id == Reading.account_id).where(*place)
    for case_id, name in session.execute(people.order_by(Reading.id)):
        names[case_id].append(name)
    answers: dict[int, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    words = readings.last_words(Review.case_id.in_(list(open_)), Review.round == READING)
    said = select(Review.case_id, Cell.number, Account.name, Review.label).join(Cell, Cell.id == Review.cell_id)
    said = said.join(Account, Account.id == Review.account_id).where(Review.id.in_(words), Cell.removed.is_(False))
    for case_id, number, name, label in session.execute(said.order_by(Cell.number)):
        if name in names[case_id]:
            answers[case_id][number][name] = label
    standing: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    stands = select(Cell.case_id, Cell.number, Cell.label, Review.round).outerjoin(Review, Review.id == Cell.review_id)
    for case_id, number, label, round_ in session.execute(stands.where(Cell.case_id.in_(list(open_)))):
        standing[case_id][number] = (label, round_ or "")
    return [Read(case, tuple(names[id_]), answers[id_], standing[id_]) for id_, case in open_.items()]
