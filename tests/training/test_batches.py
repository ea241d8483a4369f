"""Reading batches from the packed crops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.files import write_json
from leukoscope.training.batches import Crops, cut, read_ahead


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "crops.npy", rng.integers(0, 256, size=(50, 8, 8, 3), dtype=np.uint8))
    write_json(tmp_path / "pack.json", {})
    return Crops(tmp_path)


def test_rows_are_read_as_numpy_would(crops: Crops, tmp_path: Path) -> None:
    whole, rows = np.load(tmp_path / "crops.npy"), np.array([49, 0, 7, 7, 30])
    np.testing.assert_array_equal(crops.read(rows), whole[rows])


def test_reading_ahead_keeps_order(crops: Crops) -> None:
    batches = cut(np.random.default_rng(0).permutation(50), batch_size=8)
    for (rows, read), expected in zip(read_ahead(crops, batches), batches, strict=True):
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(read, crops.read(expected))


def test_a_pack_that_is_shorter_than_it_says_is_an_error(tmp_path: Path, crops: Crops) -> None:
    with (tmp_path / "crops.npy").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(Exception, match="data pack"):
        crops.read(np.array([49]))


@given(rows=st.integers(0, 300), batch_size=st.integers(1, 64))
def test_batches_are_even_and_lose_nothing(rows: int, batch_size: int) -> None:
    batches = cut(np.arange(rows), batch_size=batch_size)
    assert [row for batch in batches for row in batch] == list(range(rows))
    sizes = {len(batch) for batch in batches}
    assert not sizes or (max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1 and min(sizes) > 0)
