"""Make a run, a bundle and a reading room of today's formats, which later versions must open: `test_formats.py`.

    python -m tests.formats.make

Run it again only before a release, or when a format changes on purpose. All cells are synthetic. Images, pages
and the state of the optimiser are left out of the run.
"""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from leukoscope import load
from leukoscope.files import read_json
from leukoscope.server.app import create_app
from leukoscope.server.room import open_room
from leukoscope.server.settings import RoomSettings
from tests.server.conftest import Place, Visitor

HERE = Path(__file__).parent
CELL = "P02_000.png"
LEFT_OUT = ("synthetic/", "figures/", "report.html", "last.safetensors", ".lock")
SETTINGS = (
    "train.epochs=2",
    "split.folds=2",
    "split.validation=0.25",
    "prepare.view=frame",
    "prepare.size=32",
    "model.name=seed-cnn",
    "evaluate.replicates=200",
)


def main() -> None:
    """Write run.zip, bundle.zip, room.zip, a cell, and what they say to expected.json."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a run notes its paths as they were given
        run, bundle, room = Path("run"), Path("bundle"), Path("room")
        settings = [word for each in SETTINGS for word in ("--set", each)]
        _call("run", "--synthetic", "48", "-o", run, *settings)
        _call("export", run, "-o", bundle, "--store", "half", "--no-weights", "--name", "formats")
        shutil.copy(run / "synthetic" / "blast" / CELL, HERE / CELL)
        said = {
            "formats": formats_of(run, bundle),
            "metrics": headline(run),
            "opinion": load(bundle).predict([HERE / CELL])[0].probabilities,
            "room": _read_a_case(room, bundle, sorted((run / "synthetic").rglob("*_000.png"))[:3]),
        }
        said["formats"]["database"] = revision(room)
        for each in (run, bundle, room):
            _zip(each, HERE / f"{each.name}.zip")
    (HERE / "expected.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def formats_of(run: Path, bundle: Path) -> dict[str, Any]:
    """Return the format number of a bundle, and those of the files of a run that have one."""
    files = ("audit.json", "split.json", "calibration.json", "metrics.json")
    return {
        "bundle": read_json(bundle / "bundle.json")["format"],
        **{name: read_json(run / name)["format"] for name in files},
    }


def revision(room: Path) -> str:
    """Return the last migration of a room's SQLite database."""
    (database,) = room.glob("*.sqlite*")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def headline(run: Path) -> dict[str, Any]:
    """Return the metrics of the model with every subject weighted equally."""
    found: dict[str, Any] = read_json(run / "metrics.json")["subject_weighted"]["estimators"]["model"]
    return found


@contextlib.contextmanager
def opened(room: Path, bundle: Path) -> Iterator[Place]:
    """Open a room for one machine and close it at the end."""
    settings = RoomSettings(data=room, model=bundle)
    ready = open_room(settings)
    place = Place(ready, create_app(settings, room=ready))
    with TestClient(place.app, base_url="http://127.0.0.1"):
        yield place


def case_as_it_is(reader: Visitor, case: int) -> dict[str, Any]:
    """Return what is kept of a case, whatever its times and addresses."""
    cells = reader.cells(case)
    return {
        "case": case,
        "name": reader.get(f"/cases/{case}").json()["name"],
        "cells": [
            {
                "probabilities": cell["probability"],
                "decision": cell["decision"],
                "label": cell["review"] and cell["review"]["label"],
            }
            for cell in cells
        ],
    }


def _read_a_case(room: Path, bundle: Path, cells: list[Path]) -> dict[str, Any]:
    with opened(room, bundle) as place:
        reader = place.local()
        case = reader.case("formats", pictures=[path.read_bytes() for path in cells])
        assert reader.review(reader.cells(case)[0]["id"], "blast", note="synthetic").status_code < 300
        return case_as_it_is(reader, case)


def _call(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "leukoscope", *map(str, words)], check=True)


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for each in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = each.relative_to(folder).as_posix()
            if not any(left in name for left in LEFT_OUT):
                file.write(each, name)


if __name__ == "__main__":
    main()
