"""Crops with a part of what can be seen taken away, or with nothing but that part left."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from ..data.prepare import cell_mask
from .material import Crops

_Change = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.generic]]
_RIM = 0.04  # of the crop's side: the width of the border
_GREY = 96.0  # mean brightness that every cell gets when colour is taken away


def silhouette(crops: Crops) -> Crops:
    """Return the outline alone: the cell white, all else black."""
    return _each(crops, lambda crop, cell: np.where(cell[..., None], np.full_like(crop, 255), 0))


def border(crops: Crops) -> Crops:
    """Return the rim of the cell alone."""
    return _each(crops, lambda crop, cell: np.where((cell & ~_inner(cell))[..., None], crop, 0))


def without_border(crops: Crops) -> Crops:
    """Return the cell with its rim made black."""
    return _each(crops, lambda crop, cell: np.where(_inner(cell)[..., None], crop, 0))


def without_colour(crops: Crops) -> Crops:
    """Return grey cells of one mean brightness."""
    return _each(crops, _greyed)


def _greyed(crop: NDArray[np.uint8], cell: NDArray[np.bool_]) -> NDArray[np.floating]:
    grey = crop.mean(axis=2)
    level = _GREY / max(1.0, float(grey[cell].mean())) if cell.any() else 1.0
    return np.repeat(np.where(cell, grey * level, 0)[..., None], 3, axis=2)


def _inner(cell: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(binary_erosion(cell, iterations=max(1, round(_RIM * len(cell)))))


def _each(crops: Crops, change: _Change) -> Crops:
    changed = [np.clip(change(crop, cell_mask(crop)), 0, 255) for crop in crops]
    return np.stack(changed).astype(np.uint8)


def restained(*factors: float) -> Callable[[Crops], Crops]:
    """Return a change that multiplies the optical density -log(I / 255) of red, green and blue by three factors.

    Source of the model: Ruifrok & Johnston, Quantification of histochemical staining by color deconvolution, 2001.
    """
    values = np.arange(256)
    density = -np.log(np.maximum(values, 1) / 255)
    tables = [np.where(values > 0, 255 * np.exp(-density * factor), 0).round().astype(np.uint8) for factor in factors]

    def change(crops: Crops) -> Crops:
        return np.stack([table[crops[..., channel]] for channel, table in enumerate(tables)], axis=-1)

    return change
