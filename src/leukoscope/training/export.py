"""The best epoch of a fold, as files that a bundle holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Experiment
from ..errors import DataError
from ..models.catalogue import build_network
from ..models.export import Store, to_onnx, to_safetensors
from ..models.network import Network
from .checkpoint import load_checkpoint, read_facts


@dataclass(frozen=True)
class Exported:
    """One network in the two forms that a bundle holds."""

    onnx: bytes
    safetensors: bytes


def export_fold(run: Path, *, fold: int, metadata: Mapping[str, str], store: Store = "single") -> Exported:
    """Return the best epoch of a fold of a trained run; `metadata` is written into both files.

    Raises:
        DataError: the fold has not been trained.
        TrainingError: its checkpoint is damaged.
    """
    network = read_network(run, fold=fold)
    size = Experiment.read(run / "config.toml").prepare.size
    safetensors = to_safetensors(network, metadata=metadata, store=store)
    return Exported(to_onnx(network, size=size, metadata=metadata, store=store), safetensors)


def read_network(run: Path, *, fold: int) -> Network:
    """Return the network of a trained fold with the weights of its best epoch, ready to predict."""
    experiment = Experiment.read(run / "config.toml")
    path = run / f"fold-{fold}" / "checkpoints" / "best.safetensors"
    if not path.exists():
        raise DataError(f"{path} does not exist. Run leukoscope train {run} --resume first.")
    model = experiment.model.model_copy(update={"weights": ""})  # the checkpoint has them all
    classes = len(read_facts(path)["classes"])
    network = build_network(model, classes=classes, size=experiment.prepare.size)
    load_checkpoint(path, network)
    return network.requires_grad_(requires_grad=False).eval().to(torch.device("cpu"))
