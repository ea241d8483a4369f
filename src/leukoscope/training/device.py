"""Where training runs: Lightning Fabric with the device, precision and number of processes of the settings."""

import warnings

from lightning_fabric import Fabric

from ..config import Train
from ..errors import CallError


def start_fabric(train: Train) -> Fabric:
    """Return a launched Fabric.

    Raises:
        CallError: this machine has no such device, or it cannot compute with that precision.
    """
    try:
        fabric = Fabric(accelerator=train.accelerator, devices=train.devices, precision=train.precision)
    except (RuntimeError, ValueError, TypeError) as failed:  # Fabric's MisconfigurationException is a RuntimeError
        reason = str(failed).strip().splitlines()[0]
        raise CallError(
            f"train.accelerator = '{train.accelerator}' with train.devices = {train.devices} and train.precision = "
            f"'{train.precision}' does not work on this machine ({reason}). Try train.accelerator = 'cpu'."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for DataLoaders, which are not used
        fabric.launch()
    return fabric
