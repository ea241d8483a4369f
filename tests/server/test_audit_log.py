"""The audit log: whatever is done to it by somebody who can write to the database is found."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from leukoscope.cli.serve import audit_log as command
from leukoscope.errors import DataError
from leukoscope.server.audit_log import Actor, AuditLog
from leukoscope.server.database import Database
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Place, cell_picture

LINES = 20


@pytest.fixture
def written(tmp_path: Path, database: str) -> tuple[Database, AuditLog]:
    """A log of twenty lines, whose end was noted at line ten."""
    opened = Database(RoomSettings(data=tmp_path, database=database).url)
    opened.prepare()
    log = AuditLog(tmp_path)
    for number in range(LINES):
        with opened.writing() as session:
            log.add(session, Actor("ada", 1), "reviewed", kind="cell", item=number, label="blast")
            if number == LINES // 2:
                log.note_head(session, at_once=True)
    return opened, log


def verify(written: tuple[Database, AuditLog], *, head: str = "") -> dict[str, object]:
    database, log = written
    with database.reading() as session:
        return log.verify(session, head=head)


def tamper(database: Database, *statements: str) -> None:
    """Change the table as its owner can: first the guard is taken away."""
    if database.embedded:
        guard = ["DROP TRIGGER audit_log_no_update", "DROP TRIGGER audit_log_no_delete"]
    else:
        guard = ["DROP TRIGGER audit_log_no_change ON audit_log"]
    with database.writing() as session:
        for statement in (*guard, *statements):
            session.execute(text(statement))


def test_a_log_that_nobody_touched_is_intact(written: tuple[Database, AuditLog]) -> None:
    assert verify(written)["entries"] == LINES


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE audit_log SET account = 'eve' WHERE number = 7"], "line 7 was changed"),
        (["UPDATE audit_log SET detail = '{}' WHERE number = 7"], "line 7 was changed"),
        (["DELETE FROM audit_log WHERE number = 7"], "line 7 is missing"),
        (["UPDATE audit_log SET line = 99 WHERE number = 7"], "line 7 was changed"),
        (["DELETE FROM audit_log WHERE number = 1"], "line 1 is missing"),
        (["DELETE FROM audit_log WHERE number > 8"], "ends at line 8, but line 11"),
        (["DELETE FROM audit_log"], "ends at line 0"),
        (
            [
                "UPDATE audit_log SET number = -1 WHERE number = 7",
                "UPDATE audit_log SET number = 7 WHERE number = 8",
                "UPDATE audit_log SET number = 8 WHERE number = -1",
            ],
            "line 7 was changed, moved",
        ),
    ],
    ids=["changed", "detail", "renumbered", "removed", "first", "cut off", "emptied", "moved"],
)
def test_whatever_is_done_to_it_is_found(written: tuple[Database, AuditLog], statements: list[str], said: str) -> None:
    tamper(written[0], *statements)
    with pytest.raises(DataError, match=said):
        verify(written)


def test_a_log_without_lines_or_without_its_note_is_never_intact(
    written: tuple[Database, AuditLog], tmp_path: Path
) -> None:
    (tmp_path / "audit-head.json").unlink()
    with pytest.raises(DataError, match="audit-head.json is missing"):
        verify(written)
    tamper(written[0], "DELETE FROM audit_log")
    with pytest.raises(DataError, match="it is empty, and it never is"):
        verify(written)


def test_a_new_room_begins_its_log(place: Place) -> None:
    with place.room.database.reading() as session:
        assert place.room.log.verify(session)["entries"] == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE reviews SET label = 'normal' WHERE id = 1", "review 1"),
        ("UPDATE reviews SET account_id = (SELECT max(id) FROM accounts) WHERE id = 1", "review 1"),
        ("UPDATE reviews SET undone = NOT undone WHERE id = 2", "review 2"),
        ("DELETE FROM reviews WHERE id = 2", "review 2"),
        (
            "INSERT INTO reviews (id, cell_id, case_id, account_id, label, note, created, undone, round, shown) "
            "SELECT 99, cell_id, case_id, account_id, 'normal', '', created, undone, round, shown "
            "FROM reviews WHERE id = 1",
            "review 99",
        ),
        ("UPDATE cells SET label = 'normal' WHERE label = 'blast'", "has a label that no review gave it"),
    ],
    ids=["label", "reader", "taken back", "removed", "added", "standing"],
)
def test_reviews_are_compared_with_the_log(laboratory: Place, statement: str, said: str) -> None:
    ada, database, log = laboratory.visitor("ada"), laboratory.room.database, laboratory.room.log
    case = ada.case(pictures=[cell_picture(seed) for seed in range(4)])
    other = ada.case(pictures=[cell_picture(9)])
    cells = [cell["id"] for cell in ada.cells(case)]
    ada.review(cells[0], "blast")
    ada.review(cells[1], "blast")
    ada.review(cells[1], "normal")
    ada.undo(case)
    ada.remove(f"/cells/{cells[2]}")
    ada.review(ada.cells(other)[0]["id"], "blast")
    ada.remove(f"/cases/{other}")
    with database.reading() as session:
        log.verify(session)
    with database.writing() as session:
        session.execute(text(statement))
    with database.reading() as session, pytest.raises(DataError, match=said):
        log.verify(session)


def test_a_key_is_whole_or_not_there(tmp_path: Path) -> None:
    """A disk that is full at the first start leaves no empty key behind."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from leukoscope.server.audit_log import AuditLog;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "AuditLog(Path(sys.argv[1]))"
    )
    full = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)
    assert "OSError" in full.stderr
    assert list(tmp_path.iterdir()) == []
    first = AuditLog(tmp_path)
    assert AuditLog(tmp_path)._key == first._key
    assert len(first._key) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["audit.key"]


def test_a_cut_after_the_last_note_is_found_with_a_head_that_was_kept(written: tuple[Database, AuditLog]) -> None:
    kept = str(verify(written)["head"])
    tamper(written[0], f"DELETE FROM audit_log WHERE number > {LINES - 2}")
    verify(written)  # nobody can see it without knowing what stood there
    with pytest.raises(DataError, match="--head is no longer in it"):
        verify(written, head=kept)


def test_a_line_cannot_be_forged_without_the_key(written: tuple[Database, AuditLog], tmp_path: Path) -> None:
    forger = AuditLog(tmp_path / "elsewhere")
    with written[0].writing() as session:
        forger.add(session, Actor("ada", 1), "signed off", kind="case", item=1)
    with pytest.raises(DataError, match=f"line {LINES + 1} was changed, moved, or written by something else"):
        verify(written)


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET account = 'eve'", "DELETE FROM audit_log"])
def test_the_database_itself_refuses_changes(written: tuple[Database, AuditLog], statement: str) -> None:
    def change() -> None:
        with written[0].writing() as session:
            session.execute(text(statement))

    refused(change)
    assert verify(written)["entries"] == LINES


def refused(change: Callable[[], None]) -> None:
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError, match="the audit log can only grow"):
        change()


def test_the_command_proves_the_log(written: tuple[Database, AuditLog], tmp_path: Path, database: str) -> None:
    given = ["verify", "--data", str(tmp_path), *(["--database", database] if database else [])]
    found = CliRunner().invoke(command, given)
    assert f"intact: {LINES} lines" in found.output
    head = found.output.split()[-1]
    assert CliRunner().invoke(command, [*given, "--head", head]).exit_code == 0
    tamper(written[0], "UPDATE audit_log SET item = 1 WHERE number = 7")
    broken = CliRunner().invoke(command, given)
    assert isinstance(broken.exception, DataError)
