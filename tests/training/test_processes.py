"""Several processes learn what one learns; a killed one ends the run, and any number of processes goes on with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from leukoscope.errors import ImageError, UnknownNameError, UsageError
from leukoscope.files import read_csv, read_json
from leukoscope.training.loop import train
from tests.training.test_resume import start

MakeRun = Callable[..., Path]
SETTINGS = {
    "train": {"epochs": 3, "batch_size": 10, "accelerator": "cpu", "learning_rate": 0.0003, "balance": "sampler"},
    "model": {"dropout": 0.2, "norm_momentum": 0.5},
    "augment": {"zoom": (0.8, 1.2), "stain": 0.2},
}
CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "validation_auroc")
COMMAND = [sys.executable, "-m", "leukoscope", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *COMMAND[1:]]


def curve(run: Path) -> np.ndarray:
    rows = read_csv(run / "fold-0" / "history.csv")
    return np.array([[float(row[name]) for name in CURVES] for row in rows])


def chances(run: Path) -> np.ndarray:
    return np.array([float(row["prob_all"]) for row in read_csv(run / "predictions.csv")])


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def test_two_processes_learn_what_one_does(make_run: MakeRun) -> None:
    """The same global batches, some of them shared unevenly, with dropout and batch statistics over all their cells."""
    settings = SETTINGS | {"model": {"name": "timm:test_efficientnet", "dropout": 0.2}}
    one, two = make_run("one", **settings), make_run("two", **settings)
    train(one)
    train(two, devices=2)
    assert np.allclose(curve(two), curve(one), rtol=5e-4)
    assert np.allclose(chances(two), chances(one), atol=5e-4)
    assert files(two) == files(one)
    assert read_json(two / "run.json")["train"]["processes"] == 2


def test_gradients_of_one_process_alone_would_be_seen(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tolerances above: the loss of the whole batch, but the gradient of the first share only."""
    settings = SETTINGS | {"model": {"name": "timm:test_efficientnet", "dropout": 0.2}}
    right, wrong = make_run("right", **settings), make_run("wrong", **settings)
    train(right)
    of_all = functional.cross_entropy

    def of_first_share(*args: Any, **kwargs: Any) -> torch.Tensor:
        losses = of_all(*args, **kwargs)
        mine = 2 * losses * (torch.arange(len(losses)) % 2 == 0)
        return losses.detach() + mine - mine.detach()

    monkeypatch.setattr(functional, "cross_entropy", of_first_share)
    train(wrong)
    assert not np.allclose(curve(wrong), curve(right), rtol=5e-4)
    assert not np.allclose(chances(wrong), chances(right), atol=5e-4)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_any_number_goes_on(make_run: MakeRun) -> None:
    never, killed = make_run("never", **SETTINGS), make_run("killed", **SETTINGS)
    train(never)
    ended = kill_one_of_two(killed)
    assert ended.returncode == 1
    assert "ended by SIGKILL" in ended.stderr or "with status" in ended.stderr
    assert "--resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    alone = start(killed, "step", "3")  # one process goes on, and is killed too
    alone.communicate(timeout=300)
    assert alone.returncode == -signal.SIGKILL
    done = subprocess.run(
        [*TORCHRUN, str(killed), "--resume"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    # In seed-cnn a bias stands before each normalisation: training does not see it, so its gradient is rounding alone,
    # which Adam blows up to steps of full length; validation, by moving averages, sees it a little.
    assert np.allclose(curve(killed)[:, 0], curve(never)[:, 0], rtol=5e-3)
    assert np.allclose(curve(killed), curve(never), rtol=0.2)


def kill_one_of_two(run: Path) -> "subprocess.CompletedProcess[str]":
    process = subprocess.Popen(
        [*COMMAND, str(run), "--devices", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (run / "fold-0" / "checkpoints" / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def workers_of(pid: int) -> list[int]:
    """Return the processes that hold a share of the batches."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process under /proc")
    found = [int(child) for child in children.read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_what_several_processes_cannot_do_is_the_calls_fault(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="does not work on this machine"):
        train(make_run("gpu"), accelerator="cuda", devices=64)
    with pytest.raises(UsageError, match="one process"):
        train(make_run("probe", train__mode="probe"), devices=2)


def test_errors_cross_between_processes() -> None:
    import pickle

    for error in (ImageError("a.png is empty"), UnknownNameError("class", "hm", ["hem", "all"])):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied), copied.exit_status) == (type(error), str(error), error.exit_status)
