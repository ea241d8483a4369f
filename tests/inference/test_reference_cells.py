"""Reference cells: kept in one file, nearest by embedding, and shown with no other bundle than their own."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from leukoscope.bundle.manifest import SHIPPED, open_bundle
from leukoscope.errors import BundleError
from leukoscope.inference.explaining import (
    SHIPPED_REFERENCE_CELLS,
    ReferenceCell,
    read_reference_cells,
    write_reference_cells,
)


def written(path: Path, *, count: int = 60) -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(count, 200)) * np.linspace(3, 0.1, 200)
    cells = [
        ReferenceCell(f"kind {place % 3}", "somebody, CC BY", bytes([place] * (place + 1))) for place in range(count)
    ]
    write_reference_cells(path, cells, points, seal="a" * 64)
    return points


def test_the_nearest_are_those_that_scikit_learn_finds(tmp_path: Path) -> None:
    points = written(tmp_path / "cells")
    found = read_reference_cells("a" * 64, tmp_path / "cells")
    assert found is not None
    assert [len(cell.picture) for cell in found.cells] == list(range(1, 61))
    assert found.cells[4].label == "kind 1"
    space = PCA(32, random_state=0).fit(points)
    expected = NearestNeighbors(n_neighbors=3).fit(space.transform(points))
    for place in (0, 17, 59):
        near = found.nearest(points[place], 3)
        _, places = expected.kneighbors(space.transform(points[place][None]))
        assert [each for each, _ in near] == places[0].tolist()


def test_the_cells_of_another_bundle_are_not_shown_and_a_damaged_file_is_said(tmp_path: Path) -> None:
    written(tmp_path / "cells")
    assert read_reference_cells("b" * 64, tmp_path / "cells") is None
    assert read_reference_cells("a" * 64, tmp_path / "nothing") is None
    content = (tmp_path / "cells").read_bytes()
    (tmp_path / "cells").write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="damaged"):
        read_reference_cells("a" * 64, tmp_path / "cells")


def test_the_shipped_cells_are_of_the_shipped_bundle_small_and_credited() -> None:
    found = read_reference_cells(open_bundle(SHIPPED).manifest.seal)
    assert found is not None, "make reference-cells"
    assert SHIPPED_REFERENCE_CELLS.stat().st_size < 600_000
    labels = {cell.label for cell in found.cells}
    assert {"blast", "normal lymphoid cell", "segmented neutrophil", "monocyte", "promyelocyte"} <= labels
    assert all("CC BY" in cell.credit for cell in found.cells)
    for cell in found.cells[::20]:
        with Image.open(io.BytesIO(cell.picture)) as picture:
            assert picture.size == (96, 96)
