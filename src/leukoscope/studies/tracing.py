"""A network followed epoch by epoch: what it says with its running statistics, and what with those of the batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from ..config import Experiment
from ..data.split import Fold, make_split
from ..evaluation.metrics import Floats, Ints
from ..files import write_whole
from ..models.export import to_onnx
from ..models.network import Network
from ..training.device import launch
from ..training.loop import Task, predict, start_fold, train_epoch
from ..training.prepared import Crops, Prepared
from .material import Material

RUNNING, BATCH = "running", "batch"


def prepare(material: Material, experiment: Experiment, *, by_image: bool) -> Prepared:
    """Return cells split into 80 % to learn from and 20 % to test on, without validation, as the paper has it.

    by_image: at random; otherwise subject groups are kept whole.
    """
    material.crops(experiment.prepare)
    settings = experiment.split.model_copy(update={"scheme": "holdout", "leaky": by_image})
    linked = _linked(material)
    plan = make_split(material.cells, settings, seed=experiment.seed, linked=linked)
    only = plan.folds[0]
    plan = replace(plan, folds=(Fold(only.train + only.validation, (), only.test),))
    packed = Crops(material.packed_in(experiment.prepare))
    return Prepared(Path(), experiment, material.cells, plan, packed, material.labels)


def follow(prepared: Prepared, *, onnx: Path | None = None) -> dict[str, Any]:
    """Train one network on the CPU and return its labels, and per epoch what it says to the test cells.

    onnx: where the trained network is written, if anywhere.

    Returns labels, said {statistics: [(cells,) probability of the disease per epoch]}, train_accuracy and lag: by how
    many standard deviations of the batch the running means lie beside its own, averaged over channels and layers.
    """
    train = prepared.experiment.train.model_copy(update={"accelerator": "cpu"})
    found: dict[str, Any] = launch(train, _follow, prepared, onnx)
    return found


def _follow(fabric: Fabric, prepared: Prepared, onnx: Path | None) -> dict[str, Any]:
    task = start_fold(fabric, prepared, fold=0)
    test = task.sets.test
    said: dict[str, list[list[float]]] = {RUNNING: [], BATCH: []}
    learnt, lags = [], []
    for epoch in range(prepared.experiment.train.epochs):
        learnt.append(round(train_epoch(task, epoch=epoch)["train_accuracy"], 6))
        said[RUNNING].append(_chances(task, test))
        with batch_statistics(task.network) as lag:
            said[BATCH].append(_chances(task, test))
        lags.append(round(float(np.mean(lag or [0.0])), 6))  # no layer, no lag
    if onnx:
        with write_whole(onnx) as beside:
            beside.write_bytes(to_onnx(task.network, size=prepared.experiment.prepare.size))
    return {
        "labels": prepared.labels[test].tolist(),
        "said": said,
        "train_accuracy": learnt,
        "lag": lags,
        "learnt_from": len(task.sets.train),
    }


def _chances(task: Task, rows: Ints) -> list[float]:
    chances: list[float] = predict(task, rows)[:, 1].round(6).tolist()
    return chances


@contextmanager
def batch_statistics(network: Network) -> Iterator[list[float]]:
    """Let every normalisation use mean and variance of the batch before it, as in training; weights stay.

    Yields a list that fills with the lag of each layer at each batch.
    """
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, "running_mean", None) is not None]
    kept = [(layer, layer.running_mean, layer.running_var) for layer in layers]
    lag: list[float] = []
    hooks = [layer.register_forward_pre_hook(_measurer(lag, layer.running_mean)) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None  # without them a layer turns to the batch
    try:
        yield lag
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mean, variance in kept:
            layer.running_mean, layer.running_var = mean, variance


def _measurer(lag: list[float], running: Any) -> Any:
    def measure(_: Any, inputs: Sequence[Any]) -> None:
        planes = inputs[0]
        mean, spread = planes.mean(dim=(0, 2, 3)), planes.std(dim=(0, 2, 3)).clamp(min=1e-3)
        lag.append(float(((running - mean).abs() / spread).mean()))

    return measure


def _linked(material: Material) -> list[tuple[str, str]]:
    """Return pairs of subjects that make the material's groups, whichever of them were drawn."""
    first: dict[str, str] = {}
    return [
        (first.setdefault(str(group), cell.subject), cell.subject)
        for cell, group in zip(material.cells, material.group_names, strict=True)
    ]


def at_half(chances: Sequence[float]) -> Ints:
    """Return the class that each probability of the disease means: 1 from one half up."""
    return (np.array(chances) >= 0.5).astype(np.int64)


def two_columns(chances: Sequence[float]) -> Floats:
    """Return (cells, 2) probabilities."""
    disease = np.array(chances, dtype=float)
    return np.stack([1 - disease, disease], axis=1)
