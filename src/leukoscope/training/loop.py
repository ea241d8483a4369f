"""The training loop, in reading order: run, fold, epoch, step; and its optimisers.

Nothing random has a memory: every draw comes from (seed, fold, epoch, step), so a run that was killed at any moment
and resumed from its last checkpoint goes the way it would have gone.
"""

import copy
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..config import Train
from ..errors import TrainingError, UsageError, require
from ..files import record_stage, write_json
from ..images.crop import VIEWS, turn
from ..models.catalogue import build_network, leading_weights
from ..models.network import Network, describe
from ..progress import track
from .batches import (
    FoldSets,
    Prepared,
    Rows,
    augment,
    cut,
    draw,
    fold_sets,
    generator_of,
    read_ahead,
    read_prepared,
    rng_of,
    seed_of,
)
from .checkpoint import (
    Epoch,
    add_to_tensorboard,
    best_epoch,
    is_over,
    join_folds,
    load_checkpoint,
    measures,
    read_facts,
    save_checkpoint,
    sweep,
    write_fold,
    write_history,
)
from .device import AsOneBatch, keep_memory, launch
from .fused_block import in_one_pass
from .probe import probe_fold

_FIRST_MOMENT = 0.9
_EPSILON = 1e-7  # Keras' default; PyTorch's is 1e-8


def make_optimizer(network: Network, train: Train) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name; weight decay spares biases and normalisation."""
    groups = []
    for part, factor in ((network.backbone, 1.0), (network.head, train.head_rate)):
        decayed = [weight for weight in part.parameters() if weight.ndim > 1]
        spared = [weight for weight in part.parameters() if weight.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": train.weight_decay, "factor": factor})
        groups.append({"params": spared, "weight_decay": 0.0, "factor": factor})
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=train.learning_rate, betas=(_FIRST_MOMENT, train.second_moment), eps=_EPSILON
    )
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, train: Train, *, step: int, steps: int) -> float:
    """Set and return the learning rate of step `step` of `steps`, counted from 0 over the whole fold.

    Keras adds its epsilon before it corrects the second moment for its start at zero, PyTorch after; scaling
    epsilon by the same correction makes the two equal.
    """
    rate = rate_at(train, step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
        group["eps"] = _EPSILON / math.sqrt(1 - train.second_moment ** (step + 1))
    return rate


def rate_at(train: Train, *, step: int, steps: int) -> float:
    """Return the learning rate: a linear rise over the warm-up, then level, or down a cosine to nearly zero."""
    rising = round(train.warmup * steps)
    if step < rising:
        return train.learning_rate * (step + 1) / rising
    if not train.cosine:
        return train.learning_rate
    share_done = (step - rising) / max(1, steps - rising)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * share_done))


_CHECK_EVERY = 16  # steps between checks of the loss; each one synchronises the GPU


def train(run: Path, *, resume: bool = False, devices: int | None = None, accelerator: str | None = None) -> None:
    """Train every fold of a prepared run; write its checkpoints, histories and predictions.csv.

    RUN holds config.toml, cells.csv, split.json and pack/. Folds that are finished are kept. `devices` and
    `accelerator` take the place of the run's own settings: where it is computed does not change what is learned.

    Raises:
        UsageError: the run has checkpoints and `resume` is not set; or the device does not exist.
        DataError: a file of the run is missing or does not fit the others.
        TrainingError: the loss is not a number, or a checkpoint is damaged or was made with other settings.
    """
    prepared = read_prepared(run).at(devices=devices, accelerator=accelerator)
    _check_checkpoints(prepared, resume=resume)
    if prepared.experiment.train.tensorboard:
        require("tensorboard", feature="train.tensorboard", extra="tensorboard")
    launch(prepared.experiment.train, train_folds, prepared, resume)


def train_folds(fabric: Fabric, prepared: Prepared, resume: bool) -> None:
    """Train the folds that are not finished; all processes call this, and the first of them writes."""
    started, run = time.perf_counter(), prepared.run
    probing = prepared.experiment.train.mode == "probe"
    if probing and fabric.world_size > 1:
        raise UsageError("train.mode = 'probe' fits a small head in one process. Set train.devices = 1.")
    if fabric.is_global_zero:
        _write_layers(prepared)
    folds = [run / f"fold-{number}" for number in range(len(prepared.plan.folds))]
    for number, folder in enumerate(folds):
        if not (folder / "predictions.csv").exists():  # the last file that a fold writes
            (probe_fold if probing else train_fold)(fabric, prepared, fold=number, folder=folder)
    if fabric.is_global_zero:
        join_folds([folder / "predictions.csv" for folder in folds], run / "predictions.csv")
        facts = {"folds": len(folds), "resumed": resume, "processes": fabric.world_size}
        record_stage(run, "train", started=started, seed=prepared.experiment.seed, device=str(fabric.device), **facts)


@dataclass(frozen=True)
class FoldTraining:
    """One fold in training."""

    fabric: Fabric
    prepared: Prepared
    fold: int
    sets: FoldSets
    network: Network
    optimizer: torch.optim.Optimizer
    model: nn.Module
    """The network as Fabric wraps it for device, precision and processes."""
    stepper: Any
    """The optimiser as Fabric wraps it."""
    average: Network | None
    """The moving average of the network over the steps, which predicts where the settings ask for it."""

    @property
    def mine(self) -> slice:
        """This process's share of every batch."""
        return slice(self.fabric.global_rank, None, self.fabric.world_size)

    def where(self, epoch: int, step: int) -> tuple[int, int, int, int]:
        return self.prepared.experiment.seed, self.fold, epoch, step


def train_fold(fabric: Fabric, prepared: Prepared, *, fold: int, folder: Path) -> None:
    """Train one fold from its last checkpoint, or from the start, then predict with its best epoch."""
    settings = prepared.experiment.train
    task = start_fold(fabric, prepared, fold=fold)
    history = _restore(folder / "checkpoints" / "last.safetensors", task)
    while not is_over(history, epochs=settings.epochs, patience=settings.patience):
        began, epoch = time.perf_counter(), len(history)
        row = {"epoch": epoch + 1} | train_epoch(task, epoch=epoch) | validate(task)
        history.append(fabric.broadcast(row | {"seconds": round(time.perf_counter() - began, 3)}))
        if fabric.is_global_zero:
            _keep(folder, task, history)
            if settings.tensorboard:
                add_to_tensorboard(folder / "tensorboard", history[-1])
    fabric.barrier()  # until the first process has written the best epoch
    load_checkpoint(folder / "checkpoints" / "best.safetensors", task.average or task.network)
    sets = {"validation": task.sets.validation, "test": task.sets.test}
    predicted = {name: (rows, predict(task, rows)) for name, rows in sets.items()}
    if fabric.is_global_zero:
        write_fold(folder / "predictions.csv", prepared, fold=fold, sets=predicted)


def resume_epochs(task: FoldTraining, last: Path) -> None:
    """Train all epochs of a fold without looking at validation cells, from the checkpoint `last` where there is one."""
    history = _restore(last, task)
    for epoch in range(len(history), task.prepared.experiment.train.epochs):
        history.append(train_epoch(task, epoch=epoch))
        facts = {"history": history, "precision": task.fabric.strategy.precision.state_dict()}
        save_checkpoint(last, task.network, facts=facts, optimizer=task.optimizer, average=task.average)


def start_fold(fabric: Fabric, prepared: Prepared, *, fold: int) -> FoldTraining:
    """Return a fold with fresh weights."""
    keep_memory()
    torch.manual_seed(seed_of("weights", prepared.experiment.seed, fold))
    network = build_network(prepared.experiment.model, classes=prepared.classes, size=prepared.crops.shape[0])
    network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, prepared.experiment.train)
    average = copy.deepcopy(network).to(fabric.device) if prepared.experiment.train.average else None
    whole = in_one_pass(network) if fabric.world_size == 1 else network  # AsOneBatch answers for layers, not for blocks
    model, stepper = fabric.setup(whole, optimizer)
    return FoldTraining(
        fabric, prepared, fold, fold_sets(prepared, fold=fold), network, optimizer, model, stepper, average
    )


def train_epoch(task: FoldTraining, *, epoch: int) -> Epoch:
    """Show every training cell once, or as many draws; return learning rate, loss and accuracy."""
    settings = task.prepared.experiment.train
    order = task.sets.order(rng_of("order", *task.where(epoch, 0)))
    batches = cut(order, batch_size=settings.batch_size)
    _check_batches(batches, processes=task.fabric.world_size)
    _set_mode(task, frozen=settings.mode == "head-then-full" and epoch < settings.frozen_epochs)
    loss, right = torch.zeros((), device=task.fabric.device), torch.zeros((), device=task.fabric.device)
    reading = read_ahead(task.prepared.crops, batches, share=task.mine)
    if task.fabric.is_global_zero:
        reading = track(reading, _label(task, epoch), total=len(batches))
    for step, (rows, crops) in enumerate(reading):
        done = epoch * len(batches) + step
        rate = set_rates(task.optimizer, settings, step=done, steps=settings.epochs * len(batches))
        loss_now, right_now = train_step(task, rows, crops, epoch=epoch, step=step)
        if task.average:
            follow(task.average, task.network, decay=settings.average, step=done)
        loss += loss_now * len(rows)
        right += right_now
        if step % _CHECK_EVERY == 0 or step == len(batches) - 1:
            _stop_on_nan(task, _over_all(task, loss, "mean"), epoch=epoch, step=step)
    loss_mean, share_right = _over_all(task, loss, "mean") / len(order), _over_all(task, right, "sum") / len(order)
    return {"learning_rate": rate, "train_loss": loss_mean, "train_accuracy": share_right}


def train_step(
    task: FoldTraining, rows: Rows, crops: NDArray[np.uint8], *, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """Learn from one batch, of which `crops` are this process's share.

    Return the batch's mean loss, as the mean over the processes, and how many cells of the share were right.
    """
    fabric, where, settings = task.fabric, task.where(epoch, step), task.prepared.experiment.train
    draws = draw(task.prepared.experiment.augment, crops=len(rows), generator=generator_of("augment", *where))
    images = augment(_on(fabric, crops), draws.share(task.mine))
    labels = _on(fabric, task.prepared.labels[rows[task.mine]])
    torch.manual_seed(seed_of("dropout", *where))
    with AsOneBatch(task.mine, total=len(rows)) if fabric.world_size > 1 else nullcontext():
        logits = task.model(images).float()
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=settings.smoothing)
    loss = (losses * task.sets.loss_weights.to(fabric.device)[labels]).sum() / (len(rows) / fabric.world_size)
    fabric.backward(loss)
    if settings.clip:
        fabric.clip_gradients(task.model, task.stepper, max_norm=settings.clip)
    task.stepper.step()
    task.stepper.zero_grad()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


def follow(average: Network, network: Network, *, decay: float, step: int) -> None:
    """Move an average of weights and moving statistics towards the network as it is after step `step`, from 0.

    Early steps count for more, (1 + step) / (10 + step) at most, so that the random start is soon forgotten.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            mean.lerp_(now, share) if mean.is_floating_point() else mean.copy_(now)


def validate(task: FoldTraining) -> Epoch:
    """Return the measures of the network as it is now on the validation subjects."""
    rows = task.sets.validation
    return measures(predict(task, rows), task.prepared.labels[rows], weights=task.sets.validation_weights)


def predict(task: FoldTraining, rows: Rows) -> NDArray[np.float64]:
    """Return the raw probabilities (rows, classes) of some cells, averaged over the views of each."""
    views = VIEWS[task.prepared.experiment.model.views]
    model = (task.average or task.model).eval()
    places = cut(np.arange(len(rows)), batch_size=task.prepared.experiment.train.batch_size)[task.mine]
    reading = read_ahead(task.prepared.crops, [rows[place] for place in places])
    chances = np.zeros((len(rows), task.prepared.classes))
    with torch.inference_mode():
        for place, (_, crops) in zip(places, reading, strict=True):
            for view in views:
                batch = _on(task.fabric, np.ascontiguousarray(turn(crops, view, axes=(1, 2))))
                chances[place] += torch.softmax(model(batch).double(), dim=1).cpu().numpy() / len(views)
    if task.fabric.world_size == 1:
        return chances
    shared = task.fabric.all_reduce(_on(task.fabric, chances), reduce_op="sum")
    return np.asarray(cast(Tensor, shared).cpu())


def _on(fabric: Fabric, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(fabric.device, non_blocking=True)


def _over_all(task: FoldTraining, value: Tensor, operation: str) -> float:
    """Return a number of every process as their mean or sum."""
    return float(cast(Tensor, task.fabric.all_reduce(value.clone(), reduce_op=operation)))


def _check_batches(batches: list[Rows], *, processes: int) -> None:
    if len(batches[-1]) < 2:
        raise UsageError("A batch of one cell has nothing to normalise over. Set train.batch_size to 2 or more.")
    if len(batches[-1]) < processes:
        raise UsageError(
            f"A batch of {len(batches[-1])} cells leaves some of {processes} processes without one. "
            "Set train.batch_size higher, or train.devices lower."
        )


def _set_mode(task: FoldTraining, *, frozen: bool) -> None:
    """Let everything learn but the frozen stages, or only the head; a frozen backbone keeps its statistics too."""
    network = task.network.train()
    network.backbone.train(not frozen)
    network.backbone.requires_grad_(not frozen)
    if task.prepared.experiment.train.frozen_statistics:
        for layer in network.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    if stages := task.prepared.experiment.train.frozen_stages:
        for weight in leading_weights(network, stages=stages):
            weight.requires_grad = False


def _keep(folder: Path, task: FoldTraining, history: list[Epoch]) -> None:
    """Write the epoch to predict with, the history, then the last epoch.

    The last one counts: after a kill before it, the epoch is trained again and the same files are written again.
    """
    facts = {"identity": task.prepared.identity(), "fold": task.fold, "classes": list(task.prepared.plan.classes)}
    checkpoints = folder / "checkpoints"
    if task.prepared.experiment.train.keep == "last" or best_epoch(history) == len(history) - 1:
        measured = {name: value for name, value in history[-1].items() if name != "seconds"}
        save_checkpoint(checkpoints / "best.safetensors", task.average or task.network, facts=facts | measured)
    write_history(folder / "history.csv", history)
    facts |= {"history": history, "precision": task.fabric.strategy.precision.state_dict()}
    last = checkpoints / "last.safetensors"
    save_checkpoint(last, task.network, facts=facts, optimizer=task.optimizer, average=task.average)


def _restore(last: Path, task: FoldTraining) -> list[Epoch]:
    """Go back to the last checkpoint, where there is one; return the history up to it."""
    if task.fabric.is_global_zero:
        sweep(last.parent)
    if not last.exists():
        return []
    facts = read_facts(last)
    load_checkpoint(last, task.network, optimizer=task.optimizer, average=task.average)
    task.fabric.strategy.precision.load_state_dict(facts["precision"])
    history: list[Epoch] = facts["history"]
    return history


def _check_checkpoints(prepared: Prepared, *, resume: bool) -> None:
    """Refuse to overwrite checkpoints, or to continue from those of another experiment."""
    run, now = prepared.run, prepared.identity()
    for path in sorted(run.glob("fold-*/checkpoints/*.safetensors")):
        if not resume:
            raise UsageError(f"{run} has checkpoints. Go on with --resume, or choose a new folder.")
        before = read_facts(path).get("identity", {})
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise TrainingError(
                f"{path} was made with other settings: {', '.join(changed)} changed since. Set them back in "
                "config.toml, or start a new run in a new folder."
            )


def _write_layers(prepared: Prepared) -> None:
    """Write RUN/model.json, the layer table for the report; weights play no part in it."""
    settings, size = prepared.experiment.model, prepared.experiment.prepare.size
    network = build_network(settings.model_copy(update={"weights": ""}), classes=prepared.classes, size=size)
    write_json(prepared.run / "model.json", describe(network, name=settings.name, size=size))


def _stop_on_nan(task: FoldTraining, loss: float, *, epoch: int, step: int) -> None:
    if math.isfinite(loss):
        return
    train = task.prepared.experiment.train
    cures = [f"a lower train.learning_rate (now {train.learning_rate:g})", "train.warmup = 0.1"]
    cures += ["train.precision = '32-true'"] if train.precision != "32-true" else []
    raise TrainingError(
        f"The loss is not a number any more in fold {task.fold}, epoch {epoch + 1}, step {step + 1}. Try "
        f"{' or '.join(cures)}, in a new folder. What was written up to the last epoch is kept."
    )


def _label(task: FoldTraining, epoch: int) -> str:
    folds, epochs = len(task.prepared.plan.folds), task.prepared.experiment.train.epochs
    return f"Fold {task.fold + 1} of {folds}, epoch {epoch + 1} of {epochs}"
