"""A run that is killed at any moment and resumed ends as the one that was never killed; in real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import safetensors

from leukoscope.files import read_csv, sha256_of
from leukoscope.training.loop import train

MakeRun = Callable[..., Path]
SETTINGS = {
    "split": {"scheme": "kfold", "folds": 2, "validation": 0.25},
    "train": {
        "epochs": 3,
        "batch_size": 8,
        "accelerator": "cpu",
        "mode": "head-then-full",
        "optimizer": "adamw",
        "balance": "sampler",
        "cosine": True,
        "warmup": 0.2,
        "average": 0.9,
        "clip": 1.0,
        "smoothing": 0.1,
    },
    "augment": {"zoom": (0.8, 1.2), "shift": 0.1, "stain": 0.2, "brightness": 0.1, "blur": 1.0},
}
# Dies of SIGKILL, in the process itself, at the n-th step or the n-th file that is renamed into place.
DIE = """
import itertools, os, signal, sys
from pathlib import Path
import leukoscope.training.loop as loop

def dies(call, at):
    count = itertools.count(1)
    def counted(*args, **kwargs):
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

run, event, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if event == "step":
    loop.train_step = dies(loop.train_step, at)
else:
    Path.replace = dies(Path.replace, at)
loop.train(run, resume=True)
"""


def start(run: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", DIE, str(run), *arguments], stderr=subprocess.PIPE)


def results(run: Path) -> dict[str, str]:
    weights = {str(path.relative_to(run)): sha256_of(path) for path in run.glob("fold-*/checkpoints/best.safetensors")}
    return weights | {"predictions.csv": sha256_of(run / "predictions.csv")}


def without_seconds(run: Path) -> list[dict[str, str]]:
    rows = [row for path in sorted(run.glob("fold-*/history.csv")) for row in read_csv(path)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(make_run: MakeRun) -> None:
    never_killed, killed = make_run("never", **SETTINGS), make_run("killed", **SETTINGS)
    train(never_killed)
    for event, at in [("replace", 5), ("step", 8)]:  # between best and last checkpoint; in the middle of an epoch
        process = start(killed, event, str(at))
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, f"{event} {at}"
    kill_from_outside(killed, after="fold-1/checkpoints/last.safetensors")
    train(killed, resume=True)
    assert results(killed) == results(never_killed)
    assert without_seconds(killed) == without_seconds(never_killed)
    for fold in (0, 1):
        last = [run / f"fold-{fold}" / "checkpoints" / "last.safetensors" for run in (killed, never_killed)]
        assert tensor_bytes(last[0]) == tensor_bytes(last[1])  # the optimiser's too
    assert not list(killed.rglob(".*.safetensors.*"))


def kill_from_outside(run: Path, *, after: str) -> None:
    process = start(run, "step", "1000000")
    while not (run / after).exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def tensor_bytes(path: Path) -> dict[str, bytes]:
    with safetensors.safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
