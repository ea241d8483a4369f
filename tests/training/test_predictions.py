"""The tables of the folds, joined."""

from pathlib import Path

import pytest

from leukoscope.errors import DataError
from leukoscope.training.checkpoint import join_folds


def test_the_header_stands_once(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("path,fold\na,0\n")
    (tmp_path / "1.csv").write_text("path,fold\nb,1\n")
    join_folds([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_text() == "path,fold\na,0\nb,1\n"


@pytest.mark.parametrize("damaged", ["", "path,fold\nb,1\nc"])
def test_a_table_that_is_not_whole_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "0.csv").write_text("path,fold\na,0\n")
    (tmp_path / "1.csv").write_text(damaged)
    with pytest.raises(DataError, match=r"1\.csv is not whole\. Delete it"):
        join_folds([tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "all.csv")
    assert not (tmp_path / "all.csv").exists()
