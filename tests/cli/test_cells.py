"""leukoscope cells where places are odd."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.conftest import run


def test_an_empty_folder_is_named_and_the_other_is_searched(tmp_path: Path) -> None:
    for name in ("empty", "smear"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.full((480, 640, 3), 230, np.uint8)).save(tmp_path / "smear" / "blank.png")
    Image.new("P", (64, 64)).save(tmp_path / "smear" / "old.gif")
    ended = run("cells", tmp_path / "empty", tmp_path / "smear", "-o", tmp_path / "out")
    assert ended.exit_code == 1
    assert "empty holds no image" in ended.stderr
    assert "blank.png is blank" in ended.stderr
    assert "0 white cells in 0 of 1 field:" in ended.stdout
    assert "Passed over 1 picture" in ended.stdout
