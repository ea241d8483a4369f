"""Probe mode: a linear head on features of the frozen backbone, which are computed once per cell and cached."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ..errors import DataError
from ..files import atomic_write, fingerprint
from ..images.crop import VIEWS, View, turn
from ..models.catalogue import build_network
from ..models.export import to_onnx
from ..models.network import Network
from ..progress import blas_threads, processors, track
from .batches import FoldSets, Prepared, Rows, cut, fold_sets, read_ahead, seed_of
from .checkpoint import Epoch, measures, save_checkpoint, write_fold, write_history

Features = NDArray[np.float32]
# Inverse strengths of the L2 penalty on standardised features that are tried on the validation subjects.
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FEW = 5  # cells of a subject that count half as much as many


def probe_fold(fabric: Fabric, prepared: Prepared, *, fold: int, folder: Path) -> None:
    """Fit a linear head for one fold; write the same files as training.

    Of the heads of all `STRENGTHS`, the one with the lowest validation loss is kept. Images are not augmented.
    """
    began = time.perf_counter()
    network = frozen_network(prepared)
    embedded = embeddings(fabric, prepared, network)
    features = embedded[:, 0]
    sets = fold_sets(prepared, fold=fold)
    with blas_threads(processors()):
        strength = _fit_head(prepared, network, embedded, sets=sets)
    row = {"epoch": 1, "learning_rate": 0.0} | _row(network, features, prepared.labels, sets=sets)
    facts = {
        "identity": prepared.identity(),
        "fold": fold,
        "classes": list(prepared.plan.classes),
        "strength": strength,
    }
    save_checkpoint(folder / "checkpoints" / "best.safetensors", network, facts=facts | row)
    write_history(folder / "history.csv", [row | {"seconds": round(time.perf_counter() - began, 3)}])
    rows_of = {"validation": sets.validation, "test": sets.test}
    predicted = {name: (rows, _probabilities(network, features[rows])) for name, rows in rows_of.items()}
    write_fold(folder / "predictions.csv", prepared, fold=fold, sets=predicted)


def _fit_head(prepared: Prepared, network: Network, embedded: Features, *, sets: FoldSets) -> float:
    """Fit the head that the settings choose and set it in the network; return its shrinkage or strength."""
    settings, rows = prepared.experiment.train, sets.train
    if settings.head != "discriminant":
        return choose_head(network, embedded[:, 0], prepared.labels, sets=sets)
    given = (embedded[rows], prepared.labels[rows], groups_of(prepared)[rows])
    set_head(network, *discriminant(*given, shrinkage=settings.shrinkage, invariance=settings.invariance))
    return settings.shrinkage


def frozen_network(prepared: Prepared) -> Network:
    """Return the network with its frozen backbone; it is the same for all folds, so that features are shared."""
    torch.manual_seed(seed_of("weights", prepared.experiment.seed, 0))
    network = build_network(prepared.experiment.model, classes=prepared.classes, size=prepared.crops.shape[0])
    return network.to(memory_format=torch.channels_last).eval()


def embeddings(fabric: Fabric, prepared: Prepared, network: Network) -> Features:
    """Return the pooled features of all cells, memory-mapped float32, computing them at most once.

    Shape (cells, views, channels): one view of each crop, or all eight where the head is trained for invariance. They
    are cached under RUN/embeddings by a hash of the images, the preparation and the weights.
    """
    path = prepared.run / "embeddings" / f"{_key(prepared, network)}.npy"
    if not path.exists():
        _embed(fabric, prepared, network, path)
    try:
        features: Features = np.load(path, mmap_mode="r", allow_pickle=False)
        return features.reshape(len(prepared.cells), len(_views(prepared)), network.channels)
    except (ValueError, EOFError) as damaged:
        raise DataError(f"{path} is damaged ({damaged}). Delete it and run the same command with --resume.") from None


def _views(prepared: Prepared) -> list[View]:
    """Return the views of each cell on which the head is trained."""
    settings = prepared.experiment.train
    return VIEWS["turns" if settings.head == "discriminant" and settings.invariance else "one"]


def choose_head(network: Network, features: Features, labels: NDArray[np.int64], *, sets: FoldSets) -> float:
    """Set the logistic head with the lowest validation loss in the network; return its strength."""
    scaler = StandardScaler().fit(features[sets.train])
    scaled = scaler.transform(features[sets.train])
    losses, heads = {}, {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(
            scaled, labels[sets.train], _cell_weights(labels, sets)
        )
        heads[strength] = unscaled(model, scaler)
        set_head(network, *heads[strength])
        judged = judge(network, features, labels, rows=sets.validation, weights=sets.validation_weights)
        losses[strength] = judged["validation_loss"]
    best = min(losses, key=lambda strength: losses[strength])
    set_head(network, *heads[best])
    return best


def groups_of(prepared: Prepared) -> NDArray[np.int64]:
    """Return the number of the subject group of each cell, (cells,)."""
    names = [prepared.plan.group_of(cell) for cell in prepared.cells]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def discriminant(
    features: Features,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    shrinkage: float,
    invariance: float = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight (1, channels) and bias (1,) of a linear discriminant of two classes, subjects weighted.

    The mean of a class is the weighted mean of its subjects' means, where a subject of n cells has the weight
    n / (n + 5). The covariance is that of cells around the mean of their own subject, averaged over subjects, so that
    differences between subjects, such as stain, do not enter it. It is shrunk towards the identity matrix (Friedman,
    Regularized discriminant analysis, JASA 1989).

    With several views, the mean over the views of a cell is its point, and `invariance` times the covariance of views
    around the mean of their cell is added: directions in which turning changes a cell get less weight.

    features: (cells, channels), or (cells, views, channels). labels: (cells,) 0 or 1. groups: (cells,) subject group of
    each cell.
    """
    views = features if features.ndim == 3 else features[:, None]
    middle = views.mean(axis=(0, 1), dtype=np.float64)
    variances = [np.square(view - middle).mean(axis=0) for view in views.swapaxes(0, 1)]  # one by one: they are large
    spread = np.sqrt(np.mean(variances, axis=0)) + 1e-6
    points = (views.mean(axis=1, dtype=np.float64) - middle) / spread
    within = np.zeros((points.shape[1], points.shape[1]))
    sums, counts, subjects = np.zeros((2, points.shape[1])), np.zeros(2), 0
    for group in np.unique(groups):
        for label in (0, 1):
            here = (groups == group) & (labels == label)
            own = points[here]
            if len(own):
                mean = own.mean(axis=0)
                share = len(own) / (len(own) + _FEW)
                sums[label] += share * mean
                counts[label] += share
                within += (own - mean).T @ (own - mean) / len(own)
                if invariance:
                    turned = ((views[here] - middle) / spread - own[:, None]).reshape(-1, points.shape[1])
                    within += invariance * turned.T @ turned / len(turned)
                subjects += 1
    means = sums / counts[:, None]
    covariance = (1 - shrinkage) * within / subjects + shrinkage * np.eye(points.shape[1])
    along = np.linalg.solve(covariance, means[1] - means[0])
    weight = along / spread
    return weight[None], np.array([-along @ means.mean(axis=0) - weight @ middle])


def judge(
    network: Network, features: Features, labels: NDArray[np.int64], *, rows: Rows, weights: NDArray[np.float64]
) -> Epoch:
    """Return the validation measures of the network's head on some cells."""
    return measures(_probabilities(network, features[rows]), labels[rows], weights=weights)


def unscaled(model: LogisticRegression, scaler: StandardScaler) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and bias of the head on unscaled features that equals `model` on scaled ones."""
    weight = model.coef_ / scaler.scale_
    return weight, model.intercept_ - weight @ scaler.mean_


def set_head(network: Network, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    """Write weight (outputs, channels) and bias (outputs,) into the head."""
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))


def _embed(fabric: Fabric, prepared: Prepared, network: Network, path: Path) -> None:
    embed = _engine(fabric, prepared, network)
    batches = cut(np.arange(len(prepared.cells)), batch_size=prepared.experiment.train.batch_size)
    views = _views(prepared)
    with atomic_write(path) as beside:
        shape = (len(prepared.cells), len(views), network.channels)
        kept = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape)
        for rows, crops in track(read_ahead(prepared.crops, batches), "Embedding cells", total=len(batches)):
            for number, view in enumerate(views):
                kept[rows, number] = embed(np.ascontiguousarray(turn(crops, view, axes=(1, 2))))
        kept.flush()
    network.cpu()


def _engine(fabric: Fabric, prepared: Prepared, network: Network) -> Callable[[NDArray[np.uint8]], Features]:
    """Return a function that embeds a batch of crops; on a CPU by ONNX Runtime, in a third of PyTorch's time."""
    if fabric.device.type == "cpu" and prepared.experiment.train.precision == "32-true":
        return embed_in_onnx(network, size=prepared.crops.shape[0])
    model = fabric.setup_module(_Embedder(network).eval())

    @torch.inference_mode()
    def embed(crops: NDArray[np.uint8]) -> Features:
        features: Features = model(torch.from_numpy(crops).to(fabric.device)).float().cpu().numpy()
        return features

    return embed


def embed_in_onnx(network: Network, *, size: int) -> Callable[[NDArray[np.uint8]], Features]:
    """Return a function from crops (batch, size, size, 3) to pooled features, run by ONNX Runtime on the processor."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(to_onnx(network, size=size), settings, providers=["CPUExecutionProvider"])

    def embed(crops: NDArray[np.uint8]) -> Features:
        return np.asarray(session.run(["embedding"], {"crops": crops})[0], dtype=np.float32)

    return embed


class _Embedder(nn.Module):
    """A network whose forward returns the embedding, as Fabric needs it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        return self.network.embedding(crops)


def _key(prepared: Prepared, network: Network) -> str:
    weights = hashlib.sha256()
    for value in network.backbone.state_dict().values():
        weights.update(value.cpu().contiguous().numpy().tobytes())
    facts = {
        "cells": [cell.sha256 for cell in prepared.cells],
        "prepare": prepared.experiment.prepare.model_dump(mode="json"),
        "network": prepared.experiment.model.model_dump(mode="json", exclude={"weights", "dropout"}),
        "precision": prepared.experiment.train.precision,
        "weights": weights.hexdigest(),
        "views": len(_views(prepared)),
    }
    return fingerprint(facts)[:32]


def _row(network: Network, features: Features, labels: NDArray[np.int64], *, sets: FoldSets) -> Epoch:
    in_loss = sets.loss_weights.double().numpy()
    training = judge(network, features, labels, rows=sets.train, weights=in_loss)
    judged = judge(network, features, labels, rows=sets.validation, weights=sets.validation_weights)
    return {"train_loss": training["validation_loss"], "train_accuracy": training["validation_accuracy"]} | judged


def _cell_weights(labels: NDArray[np.int64], sets: FoldSets) -> NDArray[np.float64]:
    """Return the weight of each training cell in the fit; for a sampler, its expected draws."""
    if sets.draws is not None:
        return sets.draws * len(sets.train)
    in_loss: NDArray[np.float64] = sets.loss_weights.double().numpy()[labels[sets.train]]
    return in_loss


def _probabilities(network: Network, features: Features) -> NDArray[np.float64]:
    """Return the probabilities (cells, classes) of embedded cells."""
    with torch.inference_mode():
        logits = network.logits_of(torch.from_numpy(np.ascontiguousarray(features)))
        probabilities: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).numpy()
    return probabilities
