"""history.csv: what each epoch brought, and what follows from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ..files import write_csv

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
    from torch.utils.tensorboard import SummaryWriter  # an optional package, asked for before training starts

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
