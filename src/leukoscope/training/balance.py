"""Against imbalance: weights in the loss, or draws that see every class, and every cell size, evenly."""

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SIZE_BINS = 8
_AS_IT_COMES = 0.1


def class_weights(labels: Ints, *, classes: int) -> Floats:
    """Return one loss weight per class, n / (classes * n_class), so that the mean over the cells is 1."""
    counts = np.bincount(labels, minlength=classes)
    weights: Floats = len(labels) / (classes * np.maximum(counts, 1))
    return weights


def class_draws(labels: Ints, *, classes: int) -> Floats:
    """Return the probability of drawing each cell so that all classes come equally often, (cells,)."""
    return _as_shares(class_weights(labels, classes=classes)[labels])


def size_draws(labels: Ints, area: Floats, *, classes: int) -> Floats:
    """Return the probability of drawing each cell so that cell size says little about the class, (cells,).

    Cells are sorted into bins of equal count by area (px), and every class is drawn with the same distribution over
    the bins: the smallest of the classes' own shares. No cell is drawn more often than its like for that. A tenth of
    each class is drawn as it comes, so that sizes that only one class has are not strange to the network.

    Raises:
        TrainingError: the classes share no size.
    """
    edges = np.quantile(area, np.linspace(0, 1, _SIZE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, area, side="right")
    counts = np.zeros((classes, _SIZE_BINS))
    np.add.at(counts, (labels, bins), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    shared = shares.min(axis=0)
    if shared.sum() < 0.05:
        raise TrainingError(
            "The classes share almost no cell size, so train.balance = 'size-sampler' would leave nearly no cells. "
            "Use 'sampler', and take size away with prepare.view = 'area'."
        )
    weights = _AS_IT_COMES + (shared / np.maximum(shares, 1e-12))[labels, bins]
    return _as_shares(weights / np.bincount(labels, weights=weights)[labels])


def even_out_subjects(draws: Floats, labels: Ints, groups: NDArray[np.str_], *, power: float) -> Floats:
    """Return the draws with cells of large subject groups drawn less often; each class keeps its share, (cells,)."""
    _, code, count = np.unique(groups, return_inverse=True, return_counts=True)
    evened = draws * count[code].astype(float) ** -power
    before, after = (np.bincount(labels, weights=values) for values in (draws, evened))
    return _as_shares(evened * (before / np.maximum(after, 1e-300))[labels])


def _as_shares(weights: Floats) -> Floats:
    shares: Floats = weights / weights.sum()
    return shares
