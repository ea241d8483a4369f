"""How far a trait that says nothing of the chromatin tells the classes apart: the shortcut a network may take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from .baselines import fit_probe
from .intervals import Statistics, bootstrap
from .metrics import areas
from .ranking import Floats, Ints

_FOLDS = 5


def shortcut_probe(
    features: Mapping[str, Floats], *, labels: Ints, groups: Ints, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return the AUROC of each feature alone with its 95 % interval, subjects kept apart.

    features: name -> (cells, columns); labels: (cells,) class index; groups: (cells,) code of the subject group.
    A logistic regression is fitted in grouped five-fold cross-validation; 0.5 is what chance reaches.

    >>> rng = np.random.default_rng(0)
    >>> labels, groups = np.tile([0, 1], 100), np.arange(200) % 20
    >>> found = shortcut_probe({"size": labels[:, None] + rng.normal(0, 9, (200, 1))}, labels=labels, groups=groups)
    >>> found["size"]["low"] < 0.6 < found["size"]["high"]
    True
    """
    classes = int(labels.max()) + 1
    folds = min(_FOLDS, *(len(set(groups[labels == label])) for label in range(classes)))
    if folds < 2:
        return {"not_measured": "a class comes from a single subject group, so none can be kept apart"}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    chances = {name: np.zeros((len(labels), classes)) for name in features}
    for train, test in splitter.split(labels, labels, groups):
        for name, values in features.items():
            chances[name][test] = fit_probe(values[train], labels[train], values[test], classes)

    def measure(weights: Floats) -> Statistics:
        return {
            name: areas(labels, values, weights=weights, groups=groups)["auroc"] for name, values in chances.items()
        }

    drawn = bootstrap(measure, groups=int(groups.max()) + 1, cells=len(labels), replicates=replicates, seed=seed)
    return {name: drawn.interval(name) for name in features} | {"folds": folds, "chance": 0.5}
