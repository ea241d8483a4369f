"""What a fold leaves behind: history.csv, predictions.csv, and checkpoints that are whole even after a kill.

The JSON beside it repeats the facts for people; only the file itself is read back.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ..config import Experiment
from ..data.cells import relative
from ..data.split import group_of_subject
from ..errors import DataError, TrainingError
from ..files import atomic_write, write_csv, write_json
from ..models.catalogue import build_network
from ..models.export import Store, to_onnx, to_safetensors
from ..models.network import Network
from .batches import Prepared, Rows

Facts = dict[str, Any]
_WEIGHTS = "weights."
_OPTIMIZER = "optimizer."
_AVERAGE = "average."


def save_checkpoint(
    path: Path,
    network: Network,
    *,
    facts: Facts,
    optimizer: torch.optim.Optimizer | None = None,
    average: Network | None = None,
) -> None:
    """Write weights, those of their average, optimiser state and facts, whole or not at all."""
    tensors = {_WEIGHTS + name: value for name, value in network.state_dict().items()}
    tensors |= {_AVERAGE + name: value for name, value in average.state_dict().items()} if average else {}
    tensors |= _optimizer_tensors(optimizer) if optimizer else {}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    facts = facts | {"sha256": _digest(plain)}
    write_json(path.with_suffix(".json"), facts)
    with atomic_write(path) as beside:  # one entry, since several come in an order that differs between files
        save_file(plain, beside, metadata={"leukoscope": json.dumps(facts, allow_nan=False)})


def sweep(folder: Path) -> None:
    """Delete what a killed run left half-written beside its checkpoints."""
    for left in folder.glob(".*.safetensors.*"):
        left.unlink()


def read_facts(path: Path) -> Facts:
    """Return the facts of a checkpoint.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts: Facts = json.loads((file.metadata() or {})["leukoscope"])
    except (safetensors.SafetensorError, KeyError, ValueError, OSError, RecursionError) as damaged:
        raise _damaged(path, damaged) from None
    return facts


def load_checkpoint(
    path: Path, network: Network, *, optimizer: torch.optim.Optimizer | None = None, average: Network | None = None
) -> None:
    """Load weights, and their average and the optimiser's state where these are given.

    Raises:
        TrainingError: the file is damaged or belongs to another network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        written = read_facts(path).get("sha256")
        if written is not None and written != _digest(tensors):
            raise _damaged(path, ValueError("its numbers are not those that were written"))
        network.load_state_dict(_under(_WEIGHTS, tensors))
        if average:
            average.load_state_dict(_under(_AVERAGE, tensors))
    except (safetensors.SafetensorError, RuntimeError, OSError) as damaged:
        raise _damaged(path, damaged) from None
    if optimizer:
        _load_optimizer(optimizer, _under(_OPTIMIZER, tensors))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{_OPTIMIZER}{number}.{name}": value for number, row in state.items() for name, value in row.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put moments back in the memory layout of their parameters: another order of additions changes last bits."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".")
        like = parameters[int(number)]
        laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(number), {})[key] = laid_out.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and numbers: a flipped bit leaves a file that opens and predicts nonsense."""
    digest = sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _damaged(path: Path, reason: Exception) -> TrainingError:
    line = str(reason).strip().splitlines()[0]
    return TrainingError(
        f"{path} cannot be used ({line}). Delete the folder {path.parent.parent} and run the same command with "
        "--resume to train this fold again."
    )


@dataclass(frozen=True)
class Exported:
    """One network in the two forms that a bundle holds."""

    onnx: bytes
    safetensors: bytes


def export_folds(run: Path, *, folds: Sequence[int], metadata: Mapping[str, str], store: Store = "single") -> Exported:
    """Return the best epoch of a fold of a trained run; `metadata` is written into both files.

    Several folds, which must share their backbone, give one network whose head is the mean of theirs.

    Raises:
        DataError: a fold has not been trained.
        TrainingError: its checkpoint is damaged.
    """
    networks = [read_network(run, fold=fold) for fold in folds]
    network = networks[0]
    with torch.no_grad():
        network.head.weight.copy_(torch.stack([each.head.weight for each in networks]).mean(dim=0))
        network.head.bias.copy_(torch.stack([each.head.bias for each in networks]).mean(dim=0))
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


_FACTS = ("path", "label", "subject", "group", "part", "source", "fold", "set")


def columns_of(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of predictions.csv."""
    return (*_FACTS, *(f"prob_{name}" for name in classes))


def write_fold(path: Path, prepared: Prepared, *, fold: int, sets: dict[str, tuple[Rows, NDArray[np.float64]]]) -> None:
    """Write the predictions of one fold: for each set its rows and their probabilities (rows, classes)."""
    columns = columns_of(prepared.plan.classes)
    rows = (row for name in sets for row in _prediction_rows(prepared, *sets[name], fold=fold, name=name))
    write_csv(path, rows, columns=columns)


def join_folds(folds: list[Path], path: Path) -> None:
    """Write the predictions of all folds as one table, holding one line at a time.

    Raises:
        DataError: the table of a fold is empty, or was cut off within a row.
    """
    for fold in folds:
        if not fold.read_bytes().endswith(b"\n"):
            raise DataError(f"{fold} is not whole. Delete it and run the same command with --resume.")
    with atomic_write(path) as beside, beside.open("w", encoding="utf-8", newline="") as joined:
        for number, fold in enumerate(folds):
            with fold.open(encoding="utf-8", newline="") as lines:
                header = next(lines)
                joined.writelines(lines if number else [header, *lines])


def _prediction_rows(
    prepared: Prepared, rows: Rows, probabilities: NDArray[np.float64], *, fold: int, name: str
) -> Iterator[dict[str, object]]:
    group = group_of_subject(prepared.plan.groups)
    folder = prepared.run.resolve()
    for row, chances in zip(rows, probabilities, strict=True):
        cell = prepared.cells[row]
        facts = (relative(cell.path, folder), cell.label, cell.subject, group[cell.subject], cell.part, cell.source)
        digits = (f"{chance:.9g}" for chance in chances)
        yield dict(zip(columns_of(prepared.plan.classes), (*facts, fold, name, *digits), strict=True))


Epoch = dict[str, Any]
COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_auroc",
    "seconds",
)


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write history.csv, one row per epoch, epochs counted from 1."""
    write_csv(path, history, columns=COLUMNS)


def add_to_tensorboard(folder: Path, row: Epoch) -> None:
    """Append the numbers of one epoch to TensorBoard's event files in `folder`."""
    from torch.utils.tensorboard import SummaryWriter  # an optional package, checked before training starts

    with SummaryWriter(folder) as writer:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                writer.add_scalar(name, value, row["epoch"])


def best_epoch(history: Sequence[Epoch]) -> int:
    """Return the place, from 0, of the lowest validation loss; the earlier of equals."""
    return int(np.argmin([row["validation_loss"] for row in history]))


def is_over(history: Sequence[Epoch], *, epochs: int, patience: int) -> bool:
    """Tell whether training ends here: all epochs done, or none of the last `patience` was the best."""
    if not history:
        return False
    waited = len(history) - 1 - best_epoch(history)
    return len(history) >= epochs or (patience > 0 and waited >= patience)


def measures(probabilities: NDArray[np.float64], labels: NDArray[np.int64], *, weights: NDArray[np.float64]) -> Epoch:
    """Return validation loss (cross-entropy, each cell weighted by its class), accuracy and AUROC.

    AUROC is that of the second class, or the mean over one class against the rest where there are more; None where
    the labels do not hold every class.
    """
    chance = np.clip(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny, None)
    weight = weights[labels]
    return {
        "validation_loss": float(-(weight * np.log(chance)).sum() / weight.sum()),
        "validation_accuracy": float((probabilities.argmax(axis=1) == labels).mean()),
        "validation_auroc": _auroc(probabilities, labels),
    }


def _auroc(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float | None:
    classes = probabilities.shape[1]
    if len(set(labels.tolist())) < classes or not np.isfinite(probabilities).all():
        return None
    scores = probabilities[:, 1] if classes == 2 else probabilities
    return float(roc_auc_score(labels, scores, multi_class="ovr", average="macro"))
