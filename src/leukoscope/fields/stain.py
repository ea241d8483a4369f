"""Stain: optical density, and the two colours of a Romanowsky smear, learned from each field.

A nucleus takes up both azure B and eosin and so absorbs green far more than blue, whatever the laboratory;
a red cell does not. That difference ("purple") finds nuclei. Then every pixel is written as a mix of the field's own
red-cell colour and its own nucleus colour, as Ruifrok & Johnston (Anal Quant Cytol Histol 2001; 23: 291–299) do
with fixed colours: in the nuclear part red cells vanish and pale cytoplasm stays.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ..errors import UnknownNameError
from .images import Mask, Pixels, Plane, blur, brightest, darkest, eroded, grown, rescaled, slope

_OFFSET = 8.0  # grey levels added before the logarithm, so that noise in the dark stays small
_FOREGROUND = 0.12  # optical density of green above which a pixel is something
_LEAST_PURPLE = 0.15  # below lies what red cells and their rims reach in a field without nuclei
_RED_CELL = np.array([0.33, 0.71, 0.62])  # unit vector; used where a field shows no red cell
_NUCLEUS = np.array([0.55, 0.83, 0.05])


@dataclass(frozen=True)
class Stain:
    """The colours of one field or slide; everything in optical density.

    `red_cell` and `nucleus` are unit vectors over (red, green, blue). A pixel is nuclear where its purple is above
    `purple` and its nuclear part above `solid`; it belongs to a white cell where its nuclear part is above `cell`.
    """

    background: tuple[float, float, float]  # grey levels
    red_cell: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    purple: float
    solid: float
    cell: float


def background_colour(pixels: Pixels) -> NDArray[np.float32]:
    """Return the colour of empty glass, in grey levels: the median of the brightest tenth."""
    least = darkest(pixels)
    bright = least >= np.percentile(least, 90)
    colour: NDArray[np.float32] = np.median(pixels[bright], axis=0).astype(np.float32)
    return colour


def optical_density(pixels: Pixels, background: NDArray[np.float32] | tuple[float, ...]) -> Plane:
    """Return the optical density against the background, (height, width, 3), natural logarithm."""
    table = np.arange(256, dtype=np.float32)[:, None]
    glass = np.asarray(background, dtype=np.float32)[None, :]
    curve = np.clip(np.log((glass + _OFFSET) / (table + _OFFSET)), -0.2, 3.0).astype(np.float32)
    return np.stack([curve[pixels[..., channel], channel] for channel in range(3)], axis=-1)


def purple(density: Plane) -> Plane:
    """Return how much more green than blue each pixel absorbs; high in nuclei under any Romanowsky stain."""
    difference: Plane = density[..., 1] - density[..., 2]
    return difference


def learn_stain(pixels: Pixels, *, noise: float = 1.2) -> Stain:
    """Learn the colours of a field from its pixels (a preview of about 400 px a side is enough).

    `noise` is the standard deviation, in pixels, of the Gaussian that takes away camera and JPEG noise.
    """
    background = background_colour(pixels)
    density = blur(optical_density(pixels, background), noise)
    violet = purple(density)
    threshold = max(_LEAST_PURPLE, _split(violet[density[..., 1] > _FOREGROUND]))
    nuclei = violet > threshold
    red_cell, nucleus = _colours(density, nuclei=nuclei)
    nuclear = nuclear_part(density, red_cell=red_cell, nucleus=nucleus)
    solid, cell = _levels(nuclear, nuclei=nuclei)
    return Stain(_triple(background), _triple(red_cell), _triple(nucleus), threshold, solid, cell)


def nuclear_part(
    density: Plane,
    *,
    red_cell: NDArray[np.float64] | tuple[float, ...],
    nucleus: NDArray[np.float64] | tuple[float, ...],
) -> Plane:
    """Return the amount of nuclear colour in each pixel once red-cell colour is taken out, (height, width)."""
    weights = np.linalg.pinv(np.stack([np.asarray(red_cell), np.asarray(nucleus)], axis=1))[1]
    part: Plane = density @ weights.astype(np.float32)
    return part


def _split(values: NDArray[np.float32]) -> float:
    """Return where purple values part in two: Otsu's criterion on the root of the histogram, as nuclei are few."""
    if values.size < 50:
        return 1.0
    counts, edges = np.histogram(np.clip(values, -0.1, 1.5), bins=80, range=(-0.1, 1.5))
    weights = np.sqrt(gaussian_filter1d(counts.astype(np.float64), 1))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(weights)
    above = below[-1] - below
    moment = np.cumsum(weights * centres)
    mean_below = moment / np.maximum(below, 1e-9)
    mean_above = (moment[-1] - moment) / np.maximum(above, 1e-9)
    best = int(np.argmax(below * above * (mean_above - mean_below) ** 2))
    return float(edges[best + 1])


def _colours(density: Plane, *, nuclei: Mask) -> tuple[NDArray[np.float64], ...]:
    """Return unit vectors of the red cells (foreground far from nuclei) and of the nuclei (their inner part)."""
    reach = max(5, round(0.03 * max(nuclei.shape)))
    near = grown(nuclei, reach)
    inner = eroded(nuclei, 1)
    red = _direction(density[(brightest(density) > 0.15) & ~near], instead=_RED_CELL)
    nucleus = _direction(density[inner], instead=_NUCLEUS)
    if red @ nucleus > 0.985:  # ten degrees: too close to take one out of the other
        red = _RED_CELL
    return red, nucleus


def _direction(samples: NDArray[np.float32], *, instead: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(samples) < 100:
        return instead
    middle = np.median(samples, axis=0).astype(np.float64)
    return middle / max(float(np.linalg.norm(middle)), 1e-6)


def _levels(nuclear: Plane, *, nuclei: Mask) -> tuple[float, float]:
    """Return the nuclear part that nuclei reach, and the one that pale cytoplasm reaches but red cells do not."""
    elsewhere = nuclear[~nuclei]
    base = float(np.median(elsewhere)) if elsewhere.size else 0.0
    spread = 1.48 * float(np.median(np.abs(elsewhere - base))) if elsewhere.size else 0.0
    inside = float(np.median(nuclear[nuclei])) if nuclei.any() else 1.0
    solid = base + 0.4 * (inside - base)
    cell = base + float(np.clip(0.11 * (inside - base), max(0.06, 2.0 * spread), 0.12))
    return solid, max(cell, 0.05)  # glass is 0, whatever the red cells are


def _triple(values: NDArray[np.float32] | NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


Samples = NDArray[np.uint8]  # (pixels, 3), RGB, taken from inside white cells

DEFAULT_METHOD = "macenko"
"""By measurement (`benchmarks/other_laboratory.py`): Reinhard's way turns the order of ALL's fields round."""

_BLACK = 12  # grey level up to which a pixel of a crop is the black around the cell
_LEAST_SAMPLES = 200  # fewer pixels than this are too few to measure a stain
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
    def from_json(cls, value: Mapping[str, Any]) -> "StainStatistics":
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
    """Return the statistics of cell pixels, or None where there are too few to measure."""
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


# Measured on 275 fields of BCCD and 1,040 of Aria et al. 2021: at least .18 of each field is empty glass, and the part
# of a typical pixel's colour that two stains do not explain is at most .057; of ten photographs none comes near both.
_FOCUS = 0.30  # of 31 fields of BCCD the median is 1.06 as taken, 0.43 after a blur of 1 µm, 0.28 after 2 µm
_FOCUS_UM = 0.15  # fineness at which edges are measured
_GLASS = 0.12  # optical density below which a pixel is empty
_GREY = 10  # grey levels between the channels of the most colourful tenth of what is stained
_FLAT = 4  # grey levels between the 1st and 99th percentile of a channel that shows nothing; fields have 23 and more
_TWICE = 1.0  # mean difference in grey levels below which two channels are one picture; fields have 2.9 and more
_CHANNELS = ("red", "green", "blue")


def why_not_a_smear(pixels: Pixels, stain: Stain) -> str | None:
    """Return in words why no cells can be sought in these pixels (a preview will do), or None."""
    if float((brightest(pixels) <= _BLACK).mean()) > 0.35:
        return "shows cells already cut out on black, or is mostly black. Give it to leukoscope predict --kind crops."
    colourful = brightest(pixels).astype(int) - darkest(pixels)
    density = blur(optical_density(pixels, stain.background), 1.2)
    strength = np.linalg.norm(density, axis=-1)
    stained = strength > 0.2
    if float(stained.mean()) < 0.003:
        return "is blank, or so far out of focus that nothing is seen in it. Choose another field."
    if np.percentile(colourful[stained], 90) < _GREY:
        return "is black and white; finding stained cells needs colour. Take the field in colour."
    if missing := _missing_channel(pixels):
        return missing
    glass, unexplained = float((strength < _GLASS).mean()), _unexplained(density, stain)
    if unexplained > 0.15 or (glass < 0.10 and (unexplained > 0.09 or min(stain.background) < 170)):
        return "does not look like a stained blood smear (a photograph, or another kind of picture)."
    return None


def _missing_channel(pixels: Pixels) -> str:
    """Say which channel shows nothing, or the same as another; empty where all three are there."""
    flat = [
        name
        for number, name in enumerate(_CHANNELS)
        if float(np.ptp(np.percentile(pixels[..., number], (1, 99)))) <= _FLAT
    ]
    if 0 < len(flat) < len(_CHANNELS):
        return f"shows nothing in its {' and '.join(flat)} channel{'s' * (len(flat) > 1)}. Save it in full colour."
    for one, other in ((0, 1), (1, 2), (0, 2)):
        if float(np.abs(pixels[..., one].astype(int) - pixels[..., other]).mean()) < _TWICE:
            return (
                f"has the same picture in its {_CHANNELS[one]} and {_CHANNELS[other]} channels. Save it in full colour."
            )
    return ""


def out_of_focus(pixels: Pixels, stain: Stain, *, um_per_px: float) -> bool:
    """Return whether even the steepest edges of a field take micrometres to rise."""
    shrink = max(1.0, _FOCUS_UM / um_per_px)
    density = brightest(optical_density(rescaled(pixels, 1 / shrink), stain.background))
    um = um_per_px * shrink
    density = blur(density, max(_FOCUS_UM / um, 0.6))
    low, high = np.percentile(density, (5, 95))
    steepest = float(np.percentile(np.hypot(*slope(density)), 98)) / um
    return steepest / max(float(high - low), 0.05) < _FOCUS


def _unexplained(density: Plane, stain: Stain) -> float:
    """Return the share of a typical stained pixel's density that red-cell and nucleus colour do not explain."""
    colours = np.stack([stain.red_cell, stain.nucleus], axis=1).astype(np.float32)
    stained = density[np.linalg.norm(density, axis=-1) > 0.2]
    rest = stained - stained @ np.linalg.pinv(colours).T @ colours.T
    return float(np.median(np.linalg.norm(rest, axis=-1) / np.linalg.norm(stained, axis=-1)))
