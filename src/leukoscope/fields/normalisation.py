"""Stain normalisation: bring the cells of a laboratory towards the colours of those the model has learned from.

Two ways, both measured on the white cells alone, pooled over alike fields or a slide, so that glass and red cells do
not decide and cells keep their differences from each other:

- "reinhard": mean and spread of each Lab channel (Reinhard et al., IEEE Comput Graph Appl 2001; 21(5): 34–41).
- "macenko": the two extreme colours of optical density and their amounts (Macenko et al., ISBI 2009, 1107–1110).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UnknownNameError
from .planes import Pixels, brightest

Samples = NDArray[np.uint8]  # (pixels, 3), RGB, taken from inside white cells

DEFAULT_METHOD = "macenko"
"""By measurement (`benchmarks/other_laboratory.py`): Reinhard's way turns the order of ALL's fields round."""

_BLACK = 12  # grey level up to which a pixel of a crop is the black around the cell
_LEAST_SAMPLES = 200  # fewer pixels than this say nothing about a stain
_GAIN = (0.4, 2.5)  # how far a spread may be stretched; beyond it noise is enlarged, not stain
_FULL = 263.0  # 255 grey levels and the offset of 8 before the logarithm


@dataclass(frozen=True)
class StainStatistics:
    """The colours of a set of white cells."""

    lab_mean: tuple[float, float, float]
    lab_spread: tuple[float, float, float]  # standard deviation
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]  # unit vectors of optical density
    amounts: tuple[float, float]  # 99th percentile of each colour's amount
    pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON, for a model bundle."""
        return {name: getattr(self, name) for name in ("lab_mean", "lab_spread", "colours", "amounts", "pixels")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StainStatistics":
        """Read back what to_json gave."""
        first, second = (_three(colour) for colour in value["colours"])
        low, high = (float(amount) for amount in value["amounts"])
        return cls(
            _three(value["lab_mean"]), _three(value["lab_spread"]), (first, second), (low, high), value["pixels"]
        )


# Measured on 1,000 cells of C-NMC 2019, fold_0 (the whole of the pixels, every 37th): what a model trained on the
# release expects. A bundle carries its own.
RELEASE_STAIN = StainStatistics(
    lab_mean=(19.19, 27.83, -22.59),
    lab_spread=(5.0, 3.63, 3.96),
    colours=((0.5899, 0.6481, 0.4817), (0.5251, 0.7737, 0.3545)),
    amounts=(2.674, 2.684),
    pixels=863_603,
)

Normaliser = Callable[[Pixels], Pixels]


def sample_crops(crops: Iterable[Pixels], *, every: int = 37) -> Samples:
    """Return every n-th pixel of the cells in crops on black."""
    taken = [crop[brightest(crop) > _BLACK][::every] for crop in crops]
    return np.concatenate(taken) if taken else np.zeros((0, 3), np.uint8)


def measure(samples: Samples) -> StainStatistics | None:
    """Return the statistics of cell pixels, or None where there are too few to say anything."""
    if len(samples) < _LEAST_SAMPLES:
        return None
    lab = _lab(samples[None])[0]
    colours, amounts = _extremes(_density(samples))
    return StainStatistics(
        _three(lab.mean(axis=0)),
        _three(lab.std(axis=0)),
        (_three(colours[0]), _three(colours[1])),
        amounts,
        len(samples),
    )


def normaliser(method: str, source: StainStatistics | None, *, target: StainStatistics) -> Normaliser:
    """Return the function that brings crops on black from one stain to another; it keeps black black.

    Without source statistics (a nearly empty field) it leaves the crops as they are.

    Raises:
        UnknownNameError: the method is not among METHODS.
    """
    if method not in METHODS:
        raise UnknownNameError("stain normalisation", method, METHODS)
    if source is None or method == "none":
        return lambda crop: crop
    change = METHODS[method](source, target)

    def apply(crop: Pixels) -> Pixels:
        inside = brightest(crop) > 0
        result = np.zeros_like(crop)
        result[inside] = change(crop[inside])
        return result

    return apply


def _reinhard(source: StainStatistics, target: StainStatistics) -> Callable[[Samples], Samples]:
    gain = np.clip(np.array(target.lab_spread) / np.maximum(source.lab_spread, 1e-3), *_GAIN)

    def change(pixels: Samples) -> Samples:
        lab = (_lab(pixels[None]) - source.lab_mean) * gain + target.lab_mean
        rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)[0]
        return _bytes(rgb * 255)

    return change


def _macenko(source: StainStatistics, target: StainStatistics) -> Callable[[Samples], Samples]:
    unmix = np.linalg.pinv(np.array(source.colours).T)
    gain = np.array(target.amounts) / np.maximum(source.amounts, 1e-3)

    def change(pixels: Samples) -> Samples:
        amounts = (_density(pixels) @ unmix.T) * gain
        return _bytes(_FULL * np.exp(-amounts @ np.array(target.colours)) - 8)

    return change


METHODS: dict[str, Callable[[StainStatistics, StainStatistics], Callable[[Samples], Samples]]] = {
    "none": _reinhard,
    "reinhard": _reinhard,
    "macenko": _macenko,
}


def _extremes(density: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return the two extreme directions of density (rows; the bluer one first) and the 99th percentile along each."""
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, 1:] * np.where(vectors[:, 1:].sum(axis=0) < 0, -1, 1)
    angle = np.arctan2(density @ plane[:, 0], density @ plane[:, 1])
    low, high = np.percentile(angle, (1, 99))
    if high - low < 0.05:  # one colour only: open the angle a little so that the inverse stays small
        low, high = low - 0.1, high + 0.1
    colours = np.array([[np.sin(turn), np.cos(turn)] for turn in (low, high)]) @ plane.T
    colours = np.clip(colours, 1e-3, None)
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    colours = colours[np.argsort(-colours[:, 0])]
    first, second = np.percentile(density @ np.linalg.pinv(colours), 99, axis=0)
    return colours, (float(first), float(second))


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def _density(samples: Samples) -> NDArray[np.float64]:
    return np.asarray(np.log(_FULL / (samples.astype(np.float64) + 8)))


def _bytes(values: NDArray[Any]) -> Samples:
    # 1, not 0: black is kept for what lies outside the cell
    return np.asarray(np.clip(np.rint(values), 1, 255), np.uint8)


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
