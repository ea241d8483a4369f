"""Is this cell like those that the network learned from? How far its embedding lies from theirs, how far is too far.

The distance is Mahalanobis' under the covariance of probabilistic principal component analysis: along the first
components the spread of the training cells, in every other direction one common spread. A photograph or a smear field
leaves mostly in those other directions, which hold hardly any of the training cells' variance. Source: Tipping &
Bishop 1999, doi 10.1111/1467-9868.00196; Lee et al. 2018, doi 10.48550/arXiv.1807.03888.

`benchmarks/out_of_distribution.py` compares it with nearest neighbours and prints what is refused of everything
foreign.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BundleError, DataError

Floats = NDArray[np.float64]
FILE = "out_of_distribution.safetensors"
"""The bundle's file with the arrays."""

RATE = 0.03
"""Share of the cells of new subjects that may be refused: below the aim of 5 %, which quality has a part in."""
_COMPONENTS = 32  # 8, 64 and 128 refuse the same
_SHRINKAGE = 0.1  # of the components' spreads towards their mean: few subjects make the first ones too wide
_FOLDS = 5  # of subjects, for the threshold
_FEWEST_SUBJECTS = 4
_FORMAT = 1


@dataclass(frozen=True)
class Space:
    """Where the training cells lie in the space of embeddings."""

    mean: NDArray[np.float32]
    """(channels,)"""
    axes: NDArray[np.float32]
    """(components, channels), of length one."""
    spread: NDArray[np.float32]
    """(components + 1,): variance along each axis, and in any other direction."""

    def distances(self, embeddings: ArrayLike) -> Floats:
        """Return the Mahalanobis distance of each embedding (cells, channels): (cells,)."""
        offset = np.asarray(embeddings, dtype=np.float64) - self.mean
        along = offset @ self.axes.T.astype(np.float64)
        beside = np.maximum((offset**2).sum(1) - (along**2).sum(1), 0)
        return np.asarray(np.sqrt((along**2 / self.spread[:-1]).sum(1) + beside / self.spread[-1]))


@dataclass(frozen=True)
class Detector:
    """A space, and the distance beyond which a cell is refused."""

    space: Space
    threshold: float
    facts: dict[str, Any]
    """How the threshold was found: rate, cells, subjects, what share was refused across subjects."""

    def distances(self, embeddings: ArrayLike) -> Floats:
        """Return how far each embedding (cells, channels) lies from the training cells; above 1 it is refused."""
        return np.asarray(self.space.distances(embeddings) / self.threshold)

    def table(self) -> dict[str, Any]:
        """Return what goes into bundle.json."""
        return {"format": _FORMAT, "file": FILE, "threshold": round(self.threshold, 6), **self.facts}

    def content(self) -> bytes:
        """Return what goes into the bundle's FILE: 170 KB for 1,280 channels.

        Single precision: in half, the rounding of strong directions drowns the weak ones, which the distance weighs
        most, and every training cell is refused.
        """
        from safetensors.numpy import save

        arrays = {"mean": self.space.mean, "axes": self.space.axes, "spread": self.space.spread}
        # safetensors writes the memory as it lies: an array in Fortran order would come back scrambled
        return bytes(save({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}))


def read_detector(table: dict[str, Any], content: bytes) -> Detector:
    """Return the out-of-distribution detector of a bundle from its entry in bundle.json and the bytes of FILE.

    Raises:
        BundleError: the arrays do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = {name: array.astype(np.float32) for name, array in load(content).items()}
        space = Space(arrays["mean"], arrays["axes"], arrays["spread"])
        facts = {name: value for name, value in table.items() if name not in ("format", "file", "threshold")}
        detector = Detector(space, float(table["threshold"]), facts)
    except (KeyError, SafetensorError) as broken:
        raise BundleError(f"{FILE} is damaged or incomplete ({broken}). Export the bundle again.") from None
    if space.axes.shape != (len(space.spread) - 1, len(space.mean)):
        raise BundleError(f"{FILE} holds arrays that do not fit each other. Export the bundle again.")
    return detector


def why_far(distance: float) -> str:
    """Return in words why a cell at this distance (in thresholds) is refused; empty when it is not.

    >>> why_far(0.9), why_far(2.04)
    ('', 'Unlike the training cells (2.0 times the distance allowed): another stain, camera or kind of picture.')
    """
    if distance <= 1:
        return ""
    times = f"{distance:.1f} times the distance allowed"
    return f"Unlike the training cells ({times}): another stain, camera or kind of picture."


def fit_detector(embeddings: ArrayLike, groups: ArrayLike, *, rate: float = RATE, seed: int = 0) -> Detector:
    """Learn the space from all cells, and the threshold from distances of subjects that their space had not seen.

    embeddings: (cells, channels); groups: the subject group of each cell. Every subject weighs the same: on average
    over subjects, `rate` of the cells of an unseen one lie beyond the threshold.

    Raises:
        DataError: there are fewer than four subjects.
    """
    points, (names, subject) = np.asarray(embeddings, np.float64), np.unique(groups, return_inverse=True)
    if len(names) < _FEWEST_SUBJECTS:
        raise DataError(
            f"The out-of-distribution detector needs {_FEWEST_SUBJECTS} subjects or more to set its threshold; "
            f"there are {len(names)}."
        )
    unseen = np.empty(len(points))
    for held_out in _folds(subject, seed=seed):
        unseen[held_out] = fit_space(points[~held_out]).distances(points[held_out])
    threshold = _threshold(unseen, subject, rate=rate)
    facts = {
        "rate": rate,
        "cells": len(points),
        "subjects": len(names),
        "refused_across_subjects": round(float((unseen > threshold).mean()), 4),
    }
    return Detector(fit_space(points), threshold, facts)


def fit_space(points: Floats) -> Space:
    """Learn mean, axes and spreads from embeddings (cells, channels) by the maximum-likelihood solution, shrunk."""
    from sklearn.decomposition import PCA  # only fitting pays for it

    cells, channels = points.shape
    kept = max(1, min(_COMPONENTS, channels // 2, cells // 4))
    found = PCA(kept, random_state=0).fit(points.astype(np.float32))
    along = found.explained_variance_ * (1 - _SHRINKAGE) + found.explained_variance_.mean() * _SHRINKAGE
    # Not found.noise_variance_: with fewer cells than channels that one depends on the number of cells.
    left = max(0.0, float(points.var(axis=0).sum() - found.explained_variance_.sum()))
    smallest = 1e-9 + 1e-6 * along.mean()  # channels that are always zero must not divide by it
    spread = np.maximum(np.append(along, left / max(1, channels - kept)), smallest)
    mean, axes, spread = (each.astype(np.float32) for each in (found.mean_, found.components_, spread))
    return Space(mean, axes, spread)


def _folds(subject: NDArray[np.intp], *, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which cells are held out: each subject once, with all of its cells."""
    count = int(subject.max()) + 1
    fold = np.random.default_rng(seed).permutation(count) % min(_FOLDS, count)
    for number in np.unique(fold):
        yield fold[subject] == number


def _threshold(distances: Floats, subject: NDArray[np.intp], *, rate: float) -> float:
    """Return the distance that `rate` of the cells exceed, where every subject weighs the same."""
    weights = (1 / np.bincount(subject))[subject] / (subject.max() + 1)
    order = np.argsort(distances)
    reached = np.searchsorted(np.cumsum(weights[order]), 1 - rate)
    return float(distances[order[min(int(reached), len(order) - 1)]])
