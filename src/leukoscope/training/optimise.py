"""Optimisers and learning rates; a rate is a function of the step alone, so a resumed run needs no memory of it."""

import math

import torch

from ..config import Train
from ..models.network import Network

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
