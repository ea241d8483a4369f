"""What the studies on frozen features share: cells, one network, and answers that are kept per arm and seed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import Prepare
from ..data.index import Layout
from ..evaluation.ranking import Floats
from .features import LITE0, Backbone, Change, Features, backbone, features_of
from .heads import Fold, cross_predict
from .material import Material, load, sample
from .measure import Truth
from .study import Bench

Split = Callable[[int], list[Fold]]
"""A seed to folds."""
INTERVAL = "95 %, 1,000 bootstrap draws of whole subject groups, of the mean over seeds"


@dataclass(frozen=True)
class Frozen:
    """Cells, and a network that looks at them and never learns."""

    bench: Bench
    material: Material
    network: Backbone
    prepare: Prepare

    @property
    def truth(self) -> Truth:
        """Return what the cells are."""
        return Truth(self.material.labels, self.material.groups)

    def features(self, look: str = "", change: Change | None = None, prepare: Prepare | None = None) -> Features:
        """Return the features (cells, channels) of the crops as they are, changed, or prepared otherwise."""
        return features_of(
            self.bench, self.material, self.network, prepare=prepare or self.prepare, look=look, change=change
        )

    def answers(self, arm: str, table: NDArray[np.floating], split: Split) -> list[Floats]:
        """Return the probabilities (cells, classes) of each seed: a head fitted in every fold on a table of features.

        arm: names table and split together.
        """
        classes, labels = len(self.material.classes), self.material.labels
        settings = {"weights": self.network.weights, "cells": self.material.key}

        def ask(seed: int) -> list[list[float]]:
            chances: list[list[float]] = cross_predict(table, labels, split(seed), classes=classes).round(6).tolist()
            return chances

        def kept(seed: int) -> list[list[float]]:
            found: list[list[float]] = self.bench.kept(
                f"{arm}, seed {seed}", settings | {"seed": seed}, lambda: ask(seed)
            )
            return found

        return [np.array(kept(seed)) for seed in self.bench.seeds]

    def ran_on(self) -> dict[str, str]:
        """Say what a study ran on."""
        return {
            "Images": self.material.words(),
            "Model": f"EfficientNet-Lite0, frozen ({self.network.weights}), with a logistic head",
            "Interval": INTERVAL,
        }


def open_frozen(
    bench: Bench, *, data: Path | None = None, layout: Layout | None = None, prepare: Prepare | None = None
) -> Frozen:
    """Load the cells of a study and the network that looks at them."""
    material = sample(load(bench, data=data, layout=layout), bench.scale.images, rng=np.random.default_rng(0))
    network = backbone(bench, LITE0, size=bench.scale.size)
    return Frozen(bench, material, network, prepare or Prepare(size=bench.scale.size))
