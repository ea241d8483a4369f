"""The shipped model, as it is and without its rules, and a few synthetic cells: nothing is trained here."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from leukoscope.bundle.manifest import Bundle, open_bundle
from leukoscope.cli import leukoscope as program
from leukoscope.data.synthetic import draw_cells
from tests.inference.conftest import changed


@pytest.fixture(scope="session")
def strict() -> Bundle:
    """The shipped model, which refuses synthetic cells: they are too small."""
    return open_bundle(None)


@pytest.fixture(scope="session")
def lenient(strict: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped model without types or any rule to refuse or to be unsure: every cell is answered."""
    rules = {"quality": {}, "out_of_distribution": {}, "conformal": {}, "types": {}}
    return changed(strict, tmp_path_factory.mktemp("lenient") / "bundle", **rules)


@pytest.fixture(scope="session")
def synthetic_cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [cell.path for cell in draw_cells(tmp_path_factory.mktemp("synthetic"), count=48, seed=9)][:3]


@pytest.fixture
def cells(synthetic_cells: list[Path], tmp_path: Path) -> Path:
    """A folder of three synthetic cells."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for number, path in enumerate(synthetic_cells, start=1):
        (folder / f"cell-{number}.png").write_bytes(path.read_bytes())
    return folder


def run(*arguments: object) -> Result:
    """Run a command of leukoscope in this process."""
    return CliRunner().invoke(program, [str(argument) for argument in arguments])
