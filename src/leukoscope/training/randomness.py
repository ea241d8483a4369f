"""Every random draw of training as a function of where it stands, so that a resumed run draws what it would have."""

from typing import Literal

import numpy as np
import torch

_PURPOSES = ("weights", "order", "augment", "dropout")
Purpose = Literal["weights", "order", "augment", "dropout"]


def seed_of(purpose: Purpose, *where: int) -> int:
    """Return a seed for one purpose at one place, such as seed_of('dropout', seed, fold, epoch, step)."""
    state = np.random.SeedSequence([_PURPOSES.index(purpose), *where]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))  # torch takes 63 bits


def rng_of(purpose: Purpose, *where: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose at one place."""
    return np.random.default_rng(seed_of(purpose, *where))


def generator_of(purpose: Purpose, *where: int) -> torch.Generator:
    """Return a torch generator on the CPU, so that a GPU sees the same draws."""
    return torch.Generator().manual_seed(seed_of(purpose, *where))
