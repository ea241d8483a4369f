"""What one fold learns from and is tuned on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .balance import Floats, class_draws, class_weights, even_out_subjects, size_draws
from .batches import Rows
from .prepared import Prepared


@dataclass(frozen=True)
class FoldSets:
    """Rows of a fold, and how its imbalance is met."""

    train: Rows
    validation: Rows
    test: Rows
    draws: Floats | None
    """Probability of drawing each training cell, with replacement; None shows each of them once per epoch."""
    loss_weights: Tensor
    """(classes,) float32, in training."""
    validation_weights: Floats
    """(classes,) in the validation loss: every class counts the same, unless balance is 'none'."""

    def order(self, rng: np.random.Generator) -> Rows:
        """Return the training rows of one epoch in the order in which they are shown."""
        if self.draws is None:
            return rng.permutation(self.train)
        return rng.choice(self.train, size=len(self.train), p=self.draws)


def fold_sets(prepared: Prepared, *, fold: int) -> FoldSets:
    """Return the sets of one fold with the balance that the settings ask for."""
    train, validation, test = (prepared.rows(name, fold=fold) for name in ("train", "validation", "test"))
    labels, classes, balance = prepared.labels[train], prepared.classes, prepared.experiment.train.balance
    draws = None
    if balance == "sampler":
        draws = class_draws(labels, classes=classes)
    elif balance == "size-sampler":
        draws = size_draws(labels, prepared.area()[train], classes=classes)
    if draws is not None:
        groups = np.array([prepared.plan.group_of(prepared.cells[row]) for row in train])
        draws = even_out_subjects(draws, labels, groups, power=prepared.experiment.train.subject_balance)
    even = np.ones(classes)
    in_loss = class_weights(labels, classes=classes) if balance == "weights" else even
    judged = even if balance == "none" else class_weights(prepared.labels[validation], classes=classes)
    return FoldSets(train, validation, test, draws, torch.from_numpy(in_loss).float(), judged)
