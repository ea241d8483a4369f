"""Tables of cells for the tests of this room."""

from pathlib import Path

import numpy as np
import pytest

from leukoscope.data.cells import Cell
from leukoscope.data.synthetic import draw_cells


def make_cells(subjects: int, *, per_subject: int = 6, rng: np.random.Generator | None = None) -> list[Cell]:
    """Return a table of cells without images; every second subject is a blast one."""
    rng = rng or np.random.default_rng(0)
    return [
        Cell(
            path=Path(f"/images/S{subject}_{number}.png"),
            label="blast" if subject % 2 else "normal",
            subject=f"S{subject}",
            part=f"part_{subject % 3}",
            source="table",
            name=f"S{subject}_{number}.png",
            sha256=rng.bytes(32).hex(),
            width=64,
            height=64,
        )
        for subject in range(subjects)
        for number in range(per_subject)
    ]


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """A hundred and twenty synthetic cells of 24 subjects, with their images."""
    return draw_cells(tmp_path_factory.mktemp("synthetic"), count=120, seed=1)
