"""What a reader of a page is assumed to have: cells, fields and tables of their own."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fields.conftest import Painting

FIRST = "leukoscope run --synthetic 600 -o runs/demo --config demo"
SECOND = "leukoscope export runs/demo -o models/demo"


def prepare(page: str, folder: Path, done: dict[str, str], call: Callable[..., str]) -> None:
    """Make what a page starts from: the README's run, the tutorial's bundle, and files that people bring."""
    name = Path(page).stem
    for command in (
        [] if name in ("README", "survival") else [FIRST] if name in ("tutorial", "files") else [FIRST, SECOND]
    ):
        if command not in done:
            done[command] = call(command, folder=folder, whole=False)
    make = {
        "own-data": own_cells,
        "adapt": reviewed,
        "dicom": study,
        "fields": smear,
        "laboratory": password,
        "survival": patients,
    }.get(name)
    if make:
        make(folder)


def own_cells(folder: Path) -> None:
    """cells/ as folders of classes, and patients.csv with columns of its own."""
    shutil.copytree(folder / "runs/demo/synthetic", folder / "cells")
    rows = [
        {"file": path.relative_to(folder), "diagnosis": path.parent.name, "patient": path.name.partition("_")[0]}
        for path in sorted((folder / "cells").rglob("*.png"))
    ]
    write(folder / "patients.csv", rows)


def reviewed(folder: Path) -> None:
    """Two cells of each subject, in folders of classes."""
    for path in sorted((folder / "runs/demo/synthetic").rglob("*_00[01].png")):
        place = folder / "reviewed" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


def field(*, um: float = 0.1) -> np.ndarray:
    """A smear field with two white cells among red ones."""
    rng = np.random.default_rng(7)
    painting = Painting(64, 48, um).white_cell(20, 20).white_cell(45, 28)
    return painting.red_cells(rng, count=18).taken(rng)


def smear(folder: Path) -> None:
    """smear/ with one field, and field.png."""
    (folder / "smear").mkdir()
    for path in (folder / "smear/one.png", folder / "field.png"):
        Image.fromarray(field()).save(path)


def study(folder: Path) -> None:
    """study/ with one DICOM microscope image."""
    from tests.interop.test_dicom import write_field

    (folder / "study").mkdir()
    write_field(folder / "study/one.dcm", field(), mm=0.0001)


def password(folder: Path) -> None:
    """A file with a password that is long enough."""
    (folder / "password.txt").write_text("synthetic cells are no patients\n", encoding="utf-8")


def patients(folder: Path) -> None:
    """cohort.csv with outcomes by stage, and patients.csv to ask about."""
    rng = np.random.default_rng(0)
    people = [
        {
            "stage": ("CR1", "CR2", "CR3")[number % 3],
            "age": int(rng.integers(18, 60)),
            "wbc": round(float(rng.lognormal(3, 1)), 1),
        }
        for number in range(90)
    ]
    times = [float(rng.exponential(60 / (1 + number % 3))) for number in range(90)]
    outcome = [{"months": round(min(time, 48) + 0.1, 1), "died": int(time < 48)} for time in times]
    write(folder / "cohort.csv", [person | end for person, end in zip(people, outcome, strict=True)])
    write(folder / "patients.csv", people[:3])


def write(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
