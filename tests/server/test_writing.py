"""SQLite has one writer at a time: people who wait for each other share one transaction, and each counts alone."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from leukoscope.server.database import Database, LaboratoryRow


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'room.db'}")
    made.prepare()
    yield made
    made.close()


def names(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(select(LaboratoryRow.name)))


def adding(name: str) -> Callable[[Session], None]:
    def add(session: Session) -> None:
        session.add(LaboratoryRow(name=name))
        session.flush()

    return add


def behind_each_other(database: Database, *writes: Callable[[Session], None]) -> list[Future[None]]:
    """Let people write who all came while one was writing; return what became of each."""
    before = names(database)

    def run(write: Callable[[Session], None]) -> None:
        with database.writing() as session:
            write(session)

    with ThreadPoolExecutor(len(writes)) as pool:
        with database.writing(bulk=True):
            futures = [pool.submit(run, write) for write in writes]
            while len(database._turns._waiting[False]) < len(writes):
                threading.Event().wait(0.01)
        assert before <= names(database)
    return futures


def test_people_who_wait_share_a_commit(database: Database) -> None:
    commits = []
    event.listen(database.engine, "commit", commits.append)
    for each in behind_each_other(database, *[adding(f"laboratory {number}") for number in range(10)]):
        each.result(10)
    assert names(database) >= {f"laboratory {number}" for number in range(10)}
    assert len(commits) <= 3, "one of the write that all waited for, and one or two of theirs"


def test_one_who_fails_takes_nothing_from_the_others(database: Database) -> None:
    def failing(session: Session) -> None:
        adding("lost")(session)
        adding("a")(session)  # its name is taken by then

    first, second, third = behind_each_other(database, adding("a"), failing, adding("b"))
    first.result(10)
    third.result(10)
    assert isinstance(second.exception(10), IntegrityError)
    assert {"a", "b"} <= names(database)
    assert "lost" not in names(database)


def test_each_sees_what_those_before_have_written(database: Database) -> None:
    seen: list[set[str]] = []

    def look(session: Session) -> None:
        seen.append(set(session.scalars(select(LaboratoryRow.name))))

    for each in behind_each_other(database, adding("a"), look):
        each.result(10)
    assert "a" in seen[0]


def test_a_commit_that_fails_is_told_to_everybody(database: Database) -> None:
    def refuse(_: object) -> None:
        raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    def breaking(session: Session) -> None:
        adding("b")(session)
        event.listen(database.engine, "commit", refuse)

    everybody = behind_each_other(database, adding("a"), breaking, adding("c"))
    assert all(isinstance(each.exception(10), OperationalError) for each in everybody)
    event.remove(database.engine, "commit", refuse)
    assert not {"a", "b", "c"} & names(database)
    behind_each_other(database, adding("a"))[0].result(10)
    assert "a" in names(database)


def test_what_takes_back_the_whole_transaction_is_told_to_those_who_had_written(database: Database) -> None:
    """SQLite does so where the disk is full."""

    def breaking(session: Session) -> None:
        session.connection().exec_driver_sql("ROLLBACK")
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    first, second, third = behind_each_other(database, adding("a"), breaking, adding("c"))
    assert "full" in str(first.exception(10))
    assert second.exception(10) is not None
    assert third.exception(10) is None, "it has a transaction of its own"
    assert "a" not in names(database)
    assert "c" in names(database)
