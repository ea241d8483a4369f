"""Devices and processes: memory is kept between steps, and training on several processes equals training on one.

By default glibc returns every large block to Linux as soon as it is free, and Linux fills its pages with zeros when the
next step allocates them: half to two thirds of a step on two cores. Other systems are left as they are.

Each process holds a share of every batch. If each share were normalised by itself, the loss would depend on the number
of processes. `AsOneBatch` therefore computes batch normalisation and dropout over the complete batch, for every layer,
as a torch function mode. (torch.nn.SyncBatchNorm does the same, but only on GPUs.)
"""

import ctypes
import logging
import multiprocessing
import os
import platform
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed
from torch.distributed import DistError
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..config import Train
from ..errors import LeukoscopeError, TrainingError, UsageError
from ..models.network import biased_batch_norm
from ..progress import processors

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def keep_memory() -> None:
    """Let this process keep freed memory until it ends; its peak does not change."""
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, _NEVER)


_PATIENCE = timedelta(minutes=10)  # after which a process regards the others as lost
_LOST = 3  # exit status of a process that lost the others
_KEPT = "What was written up to the last epoch is kept: run the same command with --resume."


def launch(train: Train, work: Callable[..., Any], *args: Any) -> Any:
    """Call work(fabric, *args) in every process that the settings ask for; return what the first one returns.

    On one device this is the current process. On several, one process per device is started, unless torchrun started
    this process: then the work is done here, and torchrun manages the others.

    Raises:
        UsageError: this machine has no such device, or it cannot compute with that precision.
        TrainingError: a process ended early, was killed, or lost its connection to the others.
        LeukoscopeError: whatever `work` finds wrong.
    """
    torch.set_num_threads(min(torch.get_num_threads(), processors()))  # PyTorch does not see a container's quota
    fabric = _fabric(train)
    if not _starts_processes(fabric):
        fabric.launch()
        return _watched(fabric, work, *args)
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        return fabric.launch(partial(_in_process, failures=failures, work=work, args=args))
    except ProcessExitedException as ended:
        if not failures.empty():
            raise failures.get() from None
        how = f"by {ended.signal_name}" if ended.signal_name else f"with status {ended.exit_code}"
        raise TrainingError(
            f"One of the {train.devices} processes of this training ended {how}, so the others were stopped. {_KEPT}"
        ) from None


def _fabric(train: Train) -> Fabric:
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it repeats the settings
    devices, nodes, started = train.devices, 1, TorchElasticEnvironment.detect()
    if started:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = devices * nodes > 1
    try:
        fabric = Fabric(
            accelerator=train.accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=train.precision,
            strategy=_strategy(train, started=started) if several else "auto",
        )
    except (RuntimeError, ValueError, TypeError) as failed:  # Fabric's MisconfigurationException is a RuntimeError
        reason = str(failed).strip().splitlines()[0]
        raise UsageError(
            f"train.accelerator = '{train.accelerator}' with train.devices = {devices} and train.precision = "
            f"'{train.precision}' does not work on this machine ({reason}). Try train.accelerator = 'cpu'."
        ) from None
    if train.precision == "16-mixed" and fabric.device.type == "cpu":  # Fabric would quietly take bf16 instead
        raise UsageError("train.precision = '16-mixed' needs a GPU. Set '32-true', or 'bf16-mixed', on this machine.")
    return fabric


class _QuietDDP(DDPStrategy):
    """Fabric's strategy without its messages in new processes."""

    def setup_environment(self) -> None:
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        super().setup_environment()


def _strategy(train: Train, *, started: bool) -> DDPStrategy:
    return _QuietDDP(
        start_method="popen" if started else "spawn",
        timeout=_PATIENCE,
        forward_sync_buffers=False,  # the running statistics are the same everywhere already
        find_unused_parameters=train.mode == "head-then-full",  # a frozen backbone has no gradients to share
    )


def _starts_processes(fabric: Fabric) -> bool:
    return fabric.world_size > 1 and not TorchElasticEnvironment.detect()


def _in_process(fabric: Fabric, *, failures: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Do the work in a process that `launch` started, and pass errors of the user to it."""
    try:
        return _watched(fabric, work, *args)
    except _LostError:
        raise SystemExit(_LOST) from None
    except (LeukoscopeError, OSError) as failed:
        failures.put(failed)
        raise SystemExit(1) from None


class _LostError(TrainingError):
    """The other processes do not answer any more."""


def _watched(fabric: Fabric, work: Callable[..., Any], *args: Any) -> Any:
    try:
        return work(fabric, *args)
    except RuntimeError as failed:
        reason = str(failed).strip().splitlines()[0] if str(failed).strip() else type(failed).__name__
        if fabric.world_size > 1 and (isinstance(failed, DistError) or "gloo" in str(failed).lower()):
            raise _LostError(f"Process {fabric.global_rank} lost the others ({reason}). {_KEPT}") from None
        raise


Pair = tuple[Tensor | None, Tensor | None]


class AsOneBatch(TorchFunctionMode):
    """A mode in which batch normalisation and dropout act on all `total` cells of a batch that is split over processes.

    mine: the slice of this process. The random state must be the same in all processes.
    """

    def __init__(self, mine: slice, *, total: int) -> None:
        super().__init__()
        self._mine, self._total = mine, total

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Handle one call of a torch function."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is biased_batch_norm:
            layer = kwargs["layer"]
            running, scale = (layer.running_mean, layer.running_var), (layer.weight, layer.bias)
            return _normalise(*args, running=running, scale=scale, momentum=layer.momentum, eps=layer.eps, biased=True)
        return func(*args, **kwargs)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Draw the mask for the complete batch and apply this share, so that it equals that of one process."""
        if not training or p == 0:
            return functional.dropout(input, p, training, inplace)
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (self._total, *input.shape[1:])
        kept = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout).bernoulli_(1 - p)
        return input * (kept[self._mine] / (1 - p))


class _Total(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(gradients[0])


def _all_reduced(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Total.apply(values)
    return total


def _batch_norm(  # noqa: PLR0917  # the arguments of torch.nn.functional.batch_norm
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    running, scale = (running_mean, running_var), (weight, bias)
    return _normalise(input, running=running, scale=scale, momentum=momentum, eps=eps, biased=False)


def _normalise(input: Tensor, *, running: Pair, scale: Pair, momentum: float, eps: float, biased: bool) -> Tensor:
    """Normalise by mean and variance over all processes, and update the running statistics."""
    across, shape = [0, *range(2, input.ndim)], (1, -1, *[1] * (input.ndim - 2))
    values = input.float()
    places = _all_reduced(torch.tensor(float(input.numel() // input.shape[1]), device=input.device))
    mean = _total(values.sum(across)) / places
    centred = values - mean.view(shape)
    variance = _total(centred.square().sum(across)) / places
    output = centred * torch.rsqrt(variance + eps).view(shape)
    weight, bias = scale
    output = output if weight is None else output * weight.view(shape)
    output = output if bias is None else output + bias.view(shape)
    with torch.no_grad():
        correction = 1.0 if biased else places / (places - 1).clamp(min=1)
        for kept, now in zip(running, (mean, variance * correction), strict=True):
            if kept is not None:
                kept.lerp_(now.to(kept.dtype), momentum)
    return output.to(input.dtype)
