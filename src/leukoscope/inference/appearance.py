"""Does a picture have the colours of a stained cell? Nucleus, cytoplasm and edge, against those of known cells.

The embedding of a network trained to forget colours lets pass what no microscope shows: a cell in grey, inverted,
with its channels exchanged, a piece of a smear in the outline of a cell. Fifteen numbers tell them: the optical density
of the darkest, the middle and the palest fifth of the cell in each channel, how the rim differs from the cell, how the
channels go together, how much green varies, and the size. Distance is Mahalanobis' (1936) from the known cells.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..images.read import RGB

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Appearance = tuple[float, ...]

_PLACES = 64  # places along the longer side at which colours are looked at
_FEWEST_PLACES = 60
_RIM = 3  # places
_OFFSET, _FULL = 8.0, 263.0  # grey levels, as in fields.stain
_RATE = 0.015  # of known cells lie beyond the distance from which ...
MARGIN = 1.5  # ... the limit is this far: what is meant to be refused lies at twice that distance
_SHRINKAGE = 0.1  # of the covariance towards independent numbers


def appearance(box: RGB, inside: Mask) -> Appearance:
    """Return the fifteen numbers of a cell, uint8 (height, width, 3) and its mask; none where it is too small."""
    step = max(1, max(inside.shape) // _PLACES)
    rows, columns = (side // step for side in inside.shape)
    if min(rows, columns) < 2 * _RIM:
        return ()
    cut = (slice(rows * step), slice(columns * step))
    means = box[cut].reshape(rows, step, columns, step, 3).mean(axis=(1, 3), dtype=np.float64)
    whole = np.asarray(inside[cut].reshape(rows, step, columns, step).all(axis=(1, 3)))
    if whole.sum() < _FEWEST_PLACES:
        return ()
    density = -np.log((means + _OFFSET) / _FULL)
    places = density[whole]
    ordered = places[np.argsort(places.sum(axis=1))]
    fifth = len(ordered) // 5
    fifths = (ordered[:fifth], ordered[2 * fifth : 3 * fifth], ordered[-fifth:])
    together = _correlations(places)
    linked = np.arctanh(np.clip((together[0, 1], together[1, 2]), -0.99, 0.99))
    return tuple(
        float(value)
        for value in (
            *np.concatenate([part.mean(axis=0) for part in fifths]), *_rim(density, whole)[1:], *linked,
            places[:, 1].std(), np.log(max(inside.shape)),
        )
    )  # fmt: skip


def fit_appearance(known: Sequence[Appearance], *, margin: float = MARGIN) -> dict[str, Any]:
    """Learn from known cells what a stained cell looks like; plain numbers for bundle.json, {} where there are few."""
    table = np.array([each for each in known if each])
    if len(table) < 4 * (table.shape[1] if table.ndim == 2 else 1):
        return {}
    mean, spread = table.mean(axis=0), np.cov(table.T)
    spread = (1 - _SHRINKAGE) * spread + _SHRINKAGE * np.diag(np.diag(spread)) + 1e-6 * np.eye(len(mean))
    learned = {"mean": mean.round(5).tolist(), "inverse": np.linalg.inv(spread).round(4).tolist()}
    usual = float(np.quantile([distance(each, learned) for each in table], 1 - _RATE))
    return learned | {"limit": round(margin * usual, 4)}


def distance(seen: Appearance, learned: dict[str, Any]) -> float:
    """Return how far an appearance lies from those of known cells."""
    offset = np.asarray(seen) - np.asarray(learned["mean"])
    return float(np.sqrt(max(0.0, offset @ np.asarray(learned["inverse"]) @ offset)))


def _rim(density: Floats, whole: Mask) -> Floats:
    """Return how much denser the outer rim is than the cell, in each channel."""
    padded = np.pad(whole, _RIM)
    height, width = whole.shape
    core = np.ones_like(whole)
    for down in range(2 * _RIM + 1):
        for across in range(2 * _RIM + 1):
            if abs(down - _RIM) + abs(across - _RIM) <= _RIM:
                core &= padded[down : down + height, across : across + width]
    rim = whole & ~core
    if not rim.any() or not core.any():
        return np.zeros(3)
    return np.asarray(density[rim].mean(axis=0) - density[whole].mean(axis=0))


def _correlations(places: ArrayLike) -> Floats:
    """Return the correlations of the channels; 0 where one of them does not vary."""
    table = np.asarray(places, float)
    centred = table - table.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    return np.asarray(centred.T @ centred / np.maximum(np.outer(lengths, lengths), 1e-12))
