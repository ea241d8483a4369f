"""Packed crops, and the synthetic default."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from leukoscope.config import Prepare
from leukoscope.data.audit import measure_traits
from leukoscope.data.cells import Cell, open_pack, pack
from leukoscope.data.synthetic import SOURCE, draw_cells
from leukoscope.errors import DataError, ImageError, UsageError
from leukoscope.images.crop import prepare_crop
from leukoscope.images.read import read_image
from leukoscope.progress import in_parallel

PREPARE = Prepare(view="frame", size=32)


def test_row_i_of_the_pack_is_cell_i(tmp_path: Path, synthetic: list[Cell]) -> None:
    crops = pack(synthetic, tmp_path, prepare=PREPARE)
    assert crops.shape == (len(synthetic), 32, 32, 3)
    for row in (0, 57, len(synthetic) - 1):
        assert np.array_equal(crops[row], prepare_crop(read_image(synthetic[row].path), PREPARE))


def test_a_finished_pack_is_kept_and_another_is_made_anew(tmp_path: Path, synthetic: list[Cell]) -> None:
    pack(synthetic, tmp_path, prepare=PREPARE)
    made = (tmp_path / "crops.npy").stat().st_mtime_ns
    pack(synthetic, tmp_path, prepare=PREPARE)
    assert (tmp_path / "crops.npy").stat().st_mtime_ns == made
    assert pack(synthetic[::-1], tmp_path, prepare=PREPARE).shape[0] == len(synthetic)
    assert (tmp_path / "crops.npy").stat().st_mtime_ns != made
    assert pack(synthetic, tmp_path, prepare=Prepare(view="cell", size=32)).shape[1] == 32


def test_an_image_that_changed_since_it_was_indexed_is_named(tmp_path: Path, synthetic: list[Cell]) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(synthetic[1].path.read_bytes())
    with pytest.raises(ImageError, match=r"other\.png has changed since it was indexed"):
        pack([replace(synthetic[0], path=other)], tmp_path / "pack", prepare=PREPARE)


def test_a_bad_image_stops_the_pack_by_name_and_leaves_nothing_half_written(
    tmp_path: Path, synthetic: list[Cell]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    cells = [*synthetic[:5], replace(synthetic[5], path=bad), *synthetic[6:9]]
    with pytest.raises(ImageError, match=r"bad.png is empty"):
        pack(cells, tmp_path / "pack", prepare=PREPARE)
    assert list((tmp_path / "pack").iterdir()) == []
    with pytest.raises(DataError, match="no finished pack"):
        open_pack(tmp_path / "pack")


def test_a_damaged_pack_is_named(tmp_path: Path, synthetic: list[Cell]) -> None:
    pack(synthetic[:4], tmp_path, prepare=PREPARE)
    (tmp_path / "crops.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"crops.npy is damaged.*data pack again"):
        open_pack(tmp_path)


def test_parallel_work_keeps_its_order() -> None:
    assert list(in_parallel(lambda number: number**2, range(100))) == [number**2 for number in range(100)]


def test_the_same_seed_draws_the_same_cells(tmp_path: Path, synthetic: list[Cell]) -> None:
    again = draw_cells(tmp_path, count=120, seed=1)
    assert [cell.sha256 for cell in again] == [cell.sha256 for cell in synthetic]
    assert {cell.source for cell in again} == {SOURCE}


def test_synthetic_sizes_overlap_so_that_size_alone_does_not_decide(synthetic: list[Cell]) -> None:
    area = measure_traits(synthetic).area_px
    assert 0.55 < roc_auc_score([cell.label == "blast" for cell in synthetic], area) < 0.9


def test_too_few_synthetic_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="48 cells or more"):
        draw_cells(tmp_path, count=10)
