"""The main job from images to report, as a user runs it, and what happens when it cannot be done."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from leukoscope.cli import COMMANDS, leukoscope
from leukoscope.data.synthetic import draw_cells
from leukoscope.errors import LeukoscopeError
from leukoscope.files import lock_folder, read_csv, read_json

TINY = (
    "prepare.size=32",
    "prepare.view=frame",
    "split.folds=2",
    "split.validation=0.4",
    "train.epochs=1",
    "evaluate.replicates=100",
)


def run(*arguments: str | Path) -> Result:
    """Run a command inside this process; LeukoscopeErrors come out as result.exception."""
    return CliRunner().invoke(leukoscope, [str(argument) for argument in arguments])


def tiny_run(data: list[str | Path], output: Path, *more: str) -> Result:
    return run("run", *data, "-o", output, *(part for setting in TINY for part in ("--set", setting)), *more)


def in_a_shell(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed program as a user does."""
    command = [sys.executable, "-m", "leukoscope", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on synthetic cells."""
    output = tmp_path_factory.mktemp("runs") / "synthetic"
    result = tiny_run(["--synthetic", "96"], output)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 48 synthetic cells, as a user's own: <class>/<subject>_<number>.png."""
    draw_cells(tmp_path / "images", count=48)
    return tmp_path / "images"


def test_a_run_leaves_files_that_a_person_can_open(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.toml",
        "run.json",
        "cells.csv",
        "traits.csv",
        "audit.json",
        "split.json",
        "pack",
        "predictions.csv",
        "calibration.json",
        "metrics.json",
        "report.html",
    }
    tested = [row for row in read_csv(finished / "predictions.csv") if row["set"] == "test"]
    assert len(tested) == len({row["path"] for row in tested}) == 96
    stages = read_json(finished / "run.json")
    assert list(stages)[:5] == ["index", "audit", "split", "pack", "train"]
    assert all(stage["seconds"] >= 0 and stage["version"] for stage in stages.values())


def test_synthetic_cells_are_called_synthetic_in_the_report(finished: Path) -> None:
    assert "synthetic" in (finished / "report.html").read_text().lower()
    assert "Synthetic cells" in read_json(finished / "metrics.json")["verdict"]["text"]


def test_a_finished_run_is_not_overwritten_but_resumed(finished: Path) -> None:
    weights = sorted(finished.glob("fold-*/checkpoints/*.safetensors"))
    made = [path.stat().st_mtime_ns for path in weights]
    refused = tiny_run(["--synthetic", "96"], finished)
    assert refused.exit_code == 1
    assert "already contains a run. Continue it with --resume" in str(refused.exception)
    (finished / "report.html").unlink()
    assert run("run", "-o", finished, "--resume").exit_code == 0
    assert (finished / "report.html").exists()
    assert [path.stat().st_mtime_ns for path in weights] == made
    other = run("run", "-o", finished, "--resume", "--set", "train.epochs=9")
    assert "settings differ" in str(other.exception)


def test_a_leaky_run_says_so_in_its_first_line(images: Path, tmp_path: Path) -> None:
    result = tiny_run([images], tmp_path / "run", "--set", "split.leaky=true")
    assert result.exit_code == 0, result.output
    assert "LEAKY" in result.output
    assert "leak" in read_json(tmp_path / "run" / "metrics.json")["verdict"]["text"].lower()


def test_a_bad_image_stops_the_run_and_can_be_left_out(images: Path, tmp_path: Path) -> None:
    (images / "blast" / "P02_999.png").write_text("not an image")
    refused = tiny_run([images], tmp_path / "run")
    assert "P02_999.png is a text file, not an image" in str(refused.exception)
    assert "--skip-unusable" in str(refused.exception)
    assert not (tmp_path / "run" / "split.json").exists()
    result = tiny_run([images], tmp_path / "run", "--resume", "--skip-unusable")
    assert result.exit_code == 0, result.output
    assert len(read_csv(tmp_path / "run" / "cells.csv")) == 48
    assert read_json(tmp_path / "run" / "audit.json")["unusable"][0]["name"] == "blast/P02_999.png"


def test_one_class_or_one_subject_is_told_before_anything_is_trained(images: Path, tmp_path: Path) -> None:
    shutil.rmtree(images / "blast")
    refused = tiny_run([images], tmp_path / "one-class")
    assert "only the class 'normal'" in str(refused.exception)
    lone = tmp_path / "lone"
    for turn, name in enumerate(["a", "b"]):
        (lone / name).mkdir(parents=True)
        Image.open(next(images.rglob("*.png"))).rotate(9 * turn).save(lone / name / "P1_1.png")
    refused = tiny_run([lone], tmp_path / "one-subject")
    assert "one or two subjects" in str(refused.exception)


def test_one_image_with_two_labels_is_told(images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "blast" / "P02_000.png", images / "normal" / "P99_000.png")
    refused = tiny_run([images], tmp_path / "run")
    assert "One pair of byte-identical images has two labels" in str(refused.exception)
    assert "blast/P02_000.png and normal/P99_000.png" in str(refused.exception)


def test_what_would_stop_the_training_is_found_before_anything_is_done(images: Path, tmp_path: Path) -> None:
    lost = ("--set", "model.name=timm:resnet18", "--set", "model.weights=/nowhere/resnet18.pth")
    refused = tiny_run([images], tmp_path / "run", *lost)
    assert "There is no weights file /nowhere/resnet18.pth" in str(refused.exception)
    assert not (tmp_path / "run").exists()


def test_a_run_inside_its_own_input_is_refused(images: Path) -> None:
    refused = tiny_run([images], images / "runs" / "first")
    assert "lies inside" in str(refused.exception)
    assert not (images / "runs").exists()


def test_a_run_that_is_interrupted_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leukoscope", "run", images, "-o", tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()  # the index is written
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert said.startswith("Error: Stopped.")
    assert "--resume" in said
    assert "Traceback" not in said


def test_two_at_once_do_not_write_one_run(images: Path, tmp_path: Path) -> None:
    assert tiny_run([images], tmp_path / "run", "--until", "audit").exit_code == 0
    with lock_folder(tmp_path / "run"):
        refused = run("run", "-o", tmp_path / "run", "--resume")
    assert "Another process of leukoscope is writing" in str(refused.exception)


def test_there_must_be_a_run_to_resume(images: Path, tmp_path: Path) -> None:
    refused = tiny_run([images], tmp_path / "typo", "--resume")
    assert "contains no run to resume" in str(refused.exception)
    assert not (tmp_path / "typo").exists()


def test_a_run_can_end_before_training(images: Path, tmp_path: Path) -> None:
    assert tiny_run([images], tmp_path / "run", "--until", "split").exit_code == 0
    assert (tmp_path / "run" / "split.json").exists()
    assert not (tmp_path / "run" / "pack").exists()


def test_a_damaged_pack_is_made_again(images: Path, tmp_path: Path) -> None:
    assert tiny_run([images], tmp_path / "run", "--until", "pack").exit_code == 0
    crops = tmp_path / "run" / "pack" / "crops.npy"
    whole = crops.read_bytes()
    crops.write_bytes(whole[:1000])
    (crops.parent / "pack.json").write_text("{")
    (crops.parent / ".crops.npy.killed").write_bytes(b"left by a kill")
    assert run("run", "-o", tmp_path / "run", "--resume", "--until", "pack").exit_code == 0
    assert crops.read_bytes() == whole
    assert sorted(path.name for path in crops.parent.iterdir()) == ["crops.npy", "pack.json"]


def test_fewer_subjects_than_folds_names_the_number_to_set(images: Path, tmp_path: Path) -> None:
    refused = tiny_run([images], tmp_path / "run", "--set", "split.folds=30")
    assert "Set split.folds to 24 or fewer" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rnu"], 2, "Did you mean 'run'?"),
        (["run", "-o", "x"], 2, "Give a folder of images, or --synthetic"),
        (["run", "nowhere", "-o", "x"], 1, "nowhere does not exist"),
        (["run", "--synthetic", "60", "-o", "x", "--set", "train.epoch=1"], 2, "Did you mean 'train.epochs'?"),
        (["run", "--synthetic", "60", "-o", "x", "--config", "dmo"], 2, "Did you mean 'demo'?"),
        (["run", "--synthetic", "60", "-o", "x", "--set", "model.name=seed-cn"], 2, "seed-cnn"),
        (["data", "split", "nowhere.csv", "-o", "split.json"], 1, "nowhere.csv does not exist"),
        (["evaluate", "nowhere"], 2, "does not exist"),
    ],
)
def test_a_wrong_call_gets_one_line_and_a_status(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    result = in_a_shell(*arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b[" not in result.stderr + result.stdout  # no colours in a pipe


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_what_was_finished_stays(images: Path, small_disk: Path) -> None:
    result = in_a_shell(
        "run",
        images,
        "-o",
        small_disk / "run",
        "--set",
        "prepare.view=frame",
        "--set",
        "prepare.size=256",
        "--set",
        "split.folds=2",
        "--set",
        "split.validation=0.4",
    )
    assert result.returncode == 1
    assert "The disk is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert (small_disk / "run" / "split.json").exists()
    assert list((small_disk / "run" / "pack").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"leukoscope {command}" in result.output


def test_errors_of_the_operating_system_are_one_line_too() -> None:
    from leukoscope.cli import _explain_os

    assert "Free some space" in _explain_os(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.csv"))
    assert "Choose another" in _explain_os(OSError(errno.EROFS, os.strerror(errno.EROFS), "a.csv"))
    assert "change its permissions" in _explain_os(PermissionError(errno.EACCES, "Permission denied", "a.csv"))
    assert issubclass(LeukoscopeError, Exception)
