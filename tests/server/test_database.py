"""The tables: the migration makes just what the code describes, on both databases, however many open it at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from leukoscope.errors import UsageError
from leukoscope.server.database import Base, Database, DatabaseError
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import DATABASES


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """A database that has no tables yet."""
    return "" if request.param == "sqlite" else request.getfixturevalue("cluster").database(empty=True)


@pytest.fixture
def opened(tmp_path: Path, database: str) -> Database:
    return Database(RoomSettings(data=tmp_path, database=database).url)


def test_the_migration_makes_what_the_code_describes(opened: Database) -> None:
    opened.prepare()
    with opened.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_several_processes_may_open_a_new_database_at_once(tmp_path: Path, database: str) -> None:
    url = RoomSettings(data=tmp_path, database=database).url
    code = "import sys; from leukoscope.server.database import Database; Database(sys.argv[1]).prepare()"
    started = [subprocess.Popen([sys.executable, "-c", code, url]) for _ in range(3)]
    assert [each.wait() for each in started] == [0, 0, 0]


def test_a_database_of_a_newer_version_is_named(opened: Database) -> None:
    opened.prepare()
    with opened.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="newer leukoscope"):
        opened.prepare()


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    away = Database(RoomSettings(data=Path(), database="postgresql://room:secret@127.0.0.1:1/room").url)
    with pytest.raises(DatabaseError) as said:
        away.prepare()
    assert "127.0.0.1:1" in str(said.value)
    assert "secret" not in str(said.value)


@pytest.mark.parametrize("address", ["mysql://x/y", "nonsense", "postgresql://a b:c"])
def test_an_address_that_is_none_is_an_error_of_the_call(address: str) -> None:
    with pytest.raises(UsageError, match="--database"):
        Database(RoomSettings(data=Path(), database=address).url)
