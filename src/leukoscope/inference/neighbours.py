"""Neighbourhood correction: a cell's answer leans on the answers to the test cells most like it.

Transductive: what is said of one cell depends on which others are handed in, and the figures of such a method must not
be compared with those of methods that judge every cell by itself. Mark them wherever they appear (MARK).

After the idea of the C-NMC 2019 winner: Pan, Liu, Xia & Shen, Neighborhood-Correction Algorithm for Classification of
Normal and Malignant Cells, 2019, doi 10.1007/978-981-15-0798-4_8. They correct labels with Fisher vectors of
intermediate features; here log-odds are averaged over nearest embeddings.

Off by default: on 4,133 cells with a logistic head on frozen ImageNet features it added .012 [.002, .019] to the AUROC
of grouped five-fold cross-validation with a whole fold as the batch, .009 [-.009, .020] with batches of 100 cells,
and .006 [-.009, .019] under shift.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

MARK = "transductive: corrected with the other cells of the batch"
NEIGHBOURS = 10
_SMALLEST = 1e-9


def correct(
    probabilities: ArrayLike, embeddings: ArrayLike, *, neighbours: int = NEIGHBOURS, weight: float = 0.5
) -> NDArray[np.float64]:
    """Return probabilities (cells, classes) mixed with those of each cell's nearest neighbours in the same batch.

    embeddings: (cells, channels), compared by their cosine. weight: of the neighbours' mean, from 0 to 1; the mean is
    taken of logarithms. A single cell stays as it is.
    """
    logs = np.log(np.clip(np.asarray(probabilities, dtype=np.float64), _SMALLEST, 1))
    points = np.asarray(embeddings, dtype=np.float64)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    count = min(neighbours, len(points) - 1)
    if count < 1:
        return np.asarray(np.exp(logs))
    near = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)  # never the cell itself
    mixed = (1 - weight) * logs + weight * logs[near].mean(axis=1)
    odds = np.exp(mixed - mixed.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
