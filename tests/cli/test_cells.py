"""leukoscope cells where places are odd."""

import subprocess
import sys
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
    assert "Skipped 1 picture" in ended.stdout


def test_tables_are_written_though_nothing_can_be_printed(tmp_path: Path) -> None:
    smear = tmp_path / "smear"
    smear.mkdir()
    Image.fromarray(np.full((480, 640, 3), 230, np.uint8)).save(smear / "blank.png")
    command = [sys.executable, "-m", "leukoscope", "cells", str(smear), "-o", str(tmp_path / "out")]
    with Path("/dev/full").open("w") as gone:
        ended = subprocess.run(command, stdout=gone, stderr=gone, check=False)
    assert ended.returncode != 0
    assert "blank" in (tmp_path / "out" / "fields.csv").read_text()
