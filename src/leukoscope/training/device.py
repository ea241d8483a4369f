"""Where training runs: Lightning Fabric with the device, precision and number of processes of the settings."""

import logging

from lightning_fabric import Fabric

from ..config import Train
from ..errors import CallError


def start_fabric(train: Train) -> Fabric:
    """Return a launched Fabric.

    Raises:
        CallError: this machine has no such device, or it cannot compute with that precision.
    """
    if train.devices > 1:
        raise CallError(f"train.devices = {train.devices}: this version trains on one device. Set train.devices = 1.")
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # it tells what the settings already say
    try:
        fabric = Fabric(accelerator=train.accelerator, devices=train.devices, precision=train.precision)
    except (RuntimeError, ValueError, TypeError) as failed:  # Fabric's MisconfigurationException is a RuntimeError
        reason = str(failed).strip().splitlines()[0]
        raise CallError(
            f"train.accelerator = '{train.accelerator}' with train.devices = {train.devices} and train.precision = "
            f"'{train.precision}' does not work on this machine ({reason}). Try train.accelerator = 'cpu'."
        ) from None
    if train.precision == "16-mixed" and fabric.device.type == "cpu":  # Fabric would quietly take bf16 instead
        raise CallError("train.precision = '16-mixed' needs a GPU. Set '32-true', or 'bf16-mixed', on this machine.")
    fabric.launch()
    return fabric
