"""Two runs compared on the cells that both tested."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from leukoscope.artifacts import read_json
from leukoscope.cli.compare import compare as command
from leukoscope.errors import DataError
from leukoscope.evaluation.compare import compare
from tests.synthetic_run import write_run

SMALL = {"cells": 240, "subjects": 20}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "weak", strength=0.8, **SMALL), write_run(folder / "strong", strength=1.8, **SMALL)


def test_the_better_run_is_better_beyond_its_interval(runs: tuple[Path, Path]) -> None:
    difference = compare(*runs)["differences"]
    assert difference["auroc"]["low"] > 0
    assert difference["brier"]["high"] < 0


def test_turning_the_runs_around_turns_the_sign(runs: tuple[Path, Path]) -> None:
    there, back = compare(*runs)["differences"]["auroc"], compare(*runs[::-1])["differences"]["auroc"]
    assert there["value"] == pytest.approx(-back["value"], abs=2e-6)
    assert there["low"] == pytest.approx(-back["high"], abs=2e-6)


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path]) -> None:
    assert set(compare(runs[0], runs[0])["differences"]["auroc"].values()) == {0.0}


def test_the_paired_interval_is_narrower_than_both_together(runs: tuple[Path, Path]) -> None:
    result = compare(*runs)
    width = {name: result[name]["auroc"]["high"] - result[name]["auroc"]["low"] for name in ("a", "b")}
    paired = result["differences"]["auroc"]
    assert paired["high"] - paired["low"] < width["a"] + width["b"]


def test_only_shared_cells_are_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs[1], tmp_path / "part"))
    lines = (copy / "predictions.csv").read_text().splitlines()
    kept = [line for line in lines if ",fold_0," not in line or ",validation," in line]
    (copy / "predictions.csv").write_text("\n".join(kept) + "\n")
    cells = compare(runs[0], copy)["cells"]
    assert cells["shared"] == cells["b"] < cells["a"]


def test_runs_without_a_shared_cell_cannot_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", seed=9, **SMALL)
    for name in ("cells.csv", "predictions.csv", "traits.csv"):
        (other / name).write_text((other / name).read_text().replace("UID_", "OTHER_"))
    # cells.csv was changed after the split was made: the split is made for other cells and is refused first
    with pytest.raises(DataError):
        compare(runs[0], other)


def test_runs_with_other_classes_cannot_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", classes=("normal", "blast"), **SMALL)
    with pytest.raises(DataError, match="same classes"):
        compare(runs[0], other)


def test_the_command_prints_a_table_and_writes_json(runs: tuple[Path, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*map(str, runs), "-o", str(tmp_path / "out.json")])
    assert result.exit_code == 0
    assert "B minus A" in result.output
    assert "not a diagnosis" in result.output
    assert read_json(tmp_path / "out.json")["differences"]["auroc"]["low"] > 0
