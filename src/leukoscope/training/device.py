"""Memory that one step of training gives back is kept for the next.

By its defaults glibc hands every large block back to Linux as soon as it is free, and Linux fills it with zeros, page
by page, when the next step asks for it: half to two thirds of a step on two cores. Other systems are left as they are.
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
from torch.distributed import DistError
from torch.multiprocessing.spawn import ProcessExitedException

from ..config import Train
from ..errors import LeukoscopeError, TrainingError, UsageError
from ..progress import processors

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def keep_memory() -> None:
    """Let this process keep freed memory until it ends; its peak stays what it is."""
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, _NEVER)


_PATIENCE = timedelta(minutes=10)  # that a process waits for the others before it takes them for lost
_LOST = 3  # exit status of a process that lost the others
_KEPT = "What was written up to the last epoch is kept: run the same command with --resume."


def launch(train: Train, work: Callable[..., Any], *args: Any) -> Any:
    """Call work(fabric, *args) in every process that the settings ask for; return what the first one returns.

    On one device that is this process. On several, one process for each is started here, unless torchrun started
    this process as one of its own: then work is done in this one, and torchrun has the others.

    Raises:
        UsageError: this machine has no such device, or it cannot compute with that precision.
        TrainingError: a process ended early, was killed, or lost touch with the others.
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
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it tells what the settings already say
    devices, nodes, started = train.devices, 1, TorchElasticEnvironment.detect()
    if started:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = devices * nodes > 1
    try:
        fabric = Fabric(
            accelerator=train.accelerator, devices=devices, num_nodes=nodes, precision=train.precision,
            strategy=_strategy(train, started=started) if several else "auto",
        )  # fmt: skip
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
    """Fabric's strategy, which in new processes would announce them one by one."""

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
    """Do the work in a process that `launch` started, and hand what is the user's to mend over to it."""
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
