"""Is this an image of one whole, sharp, stained cell at the scale that the model knows? One plain reason if not.

The embedding of a network trained to forget colours lets pass what no microscope shows: a cell in grey, inverted,
with its channels exchanged, a piece of a smear in the outline of a cell. Fifteen numbers tell them: the optical density
of the darkest, the middle and the palest fifth of the cell in each channel, how the rim differs from the cell, how the
channels go together, how much green varies, and the size. Distance is Mahalanobis' (1936) from the known cells.

Everything is measured on the source image, before it is shrunk to a crop. What a cell is like is learned from the
training cells (`fit_quality`); what has nothing to do with them is stated as a constant beside its meaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import find_objects, label

from ..errors import DataError
from ..images.crop import BLACK, bounding_box, cell_mask
from ..images.read import RGB

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Appearance = tuple[float, ...]

_PLACES = 64  # places along the longer side at which colours are looked at
_FEWEST_PLACES = 60
_EDGE = 3  # places
_OFFSET, _FULL = 8.0, 263.0  # grey levels, as in fields.stain
_RATE = 0.015  # of known cells lie beyond the distance from which ...
MARGIN = 1.5  # ... the limit is this far: what is meant to be refused lies at twice that distance
_SHRINKAGE = 0.1  # of the covariance towards independent numbers


def appearance(box: RGB, inside: Mask) -> Appearance:
    """Return the fifteen numbers of a cell, uint8 (height, width, 3) and its mask; none where it is too small."""
    step = max(1, max(inside.shape) // _PLACES)
    rows, columns = (side // step for side in inside.shape)
    if min(rows, columns) < 2 * _EDGE:
        return ()
    whole = np.logical_and.reduce(_tiled(inside, rows, columns, step=step))
    if whole.sum() < _FEWEST_PLACES:
        return ()
    sums = np.zeros((rows, columns, 3), np.uint32)
    for part in _tiled(box, rows, columns, step=step):
        sums += part
    places = -np.log((sums[whole] / step**2 + _OFFSET) / _FULL)  # (places, 3): optical density
    ordered = places[np.argsort(places.sum(axis=1))]
    fifth = len(ordered) // 5
    fifths = (ordered[:fifth], ordered[2 * fifth : 3 * fifth], ordered[-fifth:])
    together = _correlations(places)
    linked = np.arctanh(np.clip((together[0, 1], together[1, 2]), -0.99, 0.99))
    return tuple(
        float(value)
        for value in (
            *np.concatenate([part.mean(axis=0) for part in fifths]),
            *_rim(places, whole)[1:],
            *linked,
            places[:, 1].std(),
            np.log(max(inside.shape)),
        )
    )


def _tiled(plane: NDArray[Any], rows: int, columns: int, *, step: int) -> list[NDArray[Any]]:
    """Return what lies at each place of a tile of `step` pixels: arrays (rows, columns, ...)."""
    cut = plane[: rows * step, : columns * step]
    return [cut[down::step, across::step] for down in range(step) for across in range(step)]


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


def _rim(places: Floats, whole: Mask) -> Floats:
    """Return how much denser the outer rim of a cell is than the cell, in each channel.

    places: density of the true places of `whole`, (places, 3).
    """
    core = whole
    for _ in range(_EDGE):
        core = _without_border(core)
    inner = core[whole]
    if inner.all() or not inner.any():
        return np.zeros(3)
    return np.asarray(places[~inner].mean(axis=0) - places.mean(axis=0))


def _without_border(mask: Mask) -> Mask:
    """Return a mask without the places that have a false neighbour, or none, above, below, left or right."""
    padded = np.pad(mask, 1)
    return np.asarray(mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _correlations(places: ArrayLike) -> Floats:
    """Return the correlations of the channels; 0 where one of them does not vary."""
    channels = np.ascontiguousarray(np.asarray(places, float).T)
    channels -= channels.mean(axis=1, keepdims=True)
    # Not by `@`: BLAS would take threads for it, which wait for each other longer than this takes.
    products = np.einsum("ip,jp->ij", channels, channels)
    lengths = np.sqrt(np.diag(products))
    return np.asarray(products / np.maximum(np.outer(lengths, lengths), 1e-12))


Limits = Mapping[str, Any]
"""What `fit_quality` learned: trait -> [lowest, middle, highest]; plain numbers for bundle.json."""

_STEP = 2  # components are counted on every second pixel, four times as fast
_SATURATED = 250  # of 255, in any channel
_SPECK = 0.1  # a component smaller than this share of the largest is dirt, not a second cell
_SMALLEST = 8  # half-resolution pixels below which a cell has no inside to measure
_RIM = 12  # the rim left out of texture is this fraction of the cell's longer side

_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out at all
_PLAIN = 4  # grey levels: what was cut out and put on one colour differs no more, the glass of a smear does
_ALL_AROUND = 0.9  # share of the outermost pixels
_SOMETHING = 0.01  # share of the pixels that a cell has at least
# The frame cuts a cell off along a chord. Of 4,133 cells of C-NMC the 0.02 % that touch it do so along .15 of their
# side; a box drawn tightly around a round cell touches it along up to about .25.
_CUT = 0.3
_BLEACHED = 0.02  # share of saturated pixels; in C-NMC there are none at all

# Kept from the training cells: the range between these percentiles, widened, so that no odd cell sets a limit.
_PERCENTILES = {"side": (0.1, 50.0, 99.0), "detail": (0.1, 50.0, 99.9), "contrast": (0.1, 50.0, 99.9)}
_WIDER = {"side": 1.15, "detail": 1.15, "contrast": 1.5}
"""Trait -> the factor by which its range is widened: less for what a microscope keeps, more for what varies."""
_HIGHER = {"side": 1.06}
"""The same for its upper end: a cell of twice its size must not pass for a large one."""
_FEWEST = 20  # cells below which percentiles mean nothing


@dataclass(frozen=True)
class Traits:
    """What is measured on one source image."""

    framed: float
    """Share of the image's outermost pixels that are not black."""
    plain: bool
    """Whether something was cut out, but put on a ground of one colour other than black."""
    cut: float
    """How far the largest piece lies along the frame, as a share of its longer side."""
    cells: int
    """Connected pieces that are not specks."""
    side: float
    """Longer side of the largest piece's box, in source pixels; 0 when the image is black."""
    detail: float
    """Mean step from each place to the mean of its four neighbours at half resolution, in grey levels of green.
    Of nine measures tried it tells blur best: at a standard deviation of 1.5 px all cells fall below all sharp ones."""
    contrast: float
    """Standard deviation of green well inside the cell, in grey levels."""
    saturated: float
    """Share of the cell's pixels with a channel at its upper end."""
    appearance: Appearance = ()
    """Its colours, as inference.appearance measures them; empty where the cell is too small for it."""


@dataclass(frozen=True)
class Quality:
    """Whether a picture is fit to be judged."""

    score: float
    """1 for a picture like the middle of the training cells, 0 for one that is refused."""
    reason: str
    """Empty when the picture can be judged."""


def measure(image: RGB) -> Traits:
    """Measure a source image, uint8 (height, width, 3)."""
    mask = cell_mask(image)
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    framed = float(np.concatenate(edges).mean())
    plain = framed > _FRAMED and on_plain_ground(image)
    half = mask[::_STEP, ::_STEP]
    if not half.any():
        return Traits(framed, plain, cut=0, cells=0, side=0, detail=0, contrast=0, saturated=0)
    left, top, right, bottom = bounding_box(half)
    pieces, _ = label(half[top:bottom, left:right])
    sizes = np.bincount(pieces.ravel())[1:]
    found = find_objects(pieces)[int(sizes.argmax())]
    rows, columns = (_widened(each, after=start) for each, start in zip(found, (top, left), strict=True))
    inside = mask[rows, columns]
    detail, contrast = _texture(image[rows, columns, 1], inside)
    return Traits(
        framed=framed,
        plain=plain,
        cut=max(int(edge.sum()) for edge in edges) / max(inside.shape),
        cells=int((sizes >= _SPECK * sizes.max()).sum()),
        side=max(inside.shape),
        detail=detail,
        contrast=contrast,
        saturated=_saturated(image[rows, columns], inside),
        appearance=appearance(image[rows, columns], inside),
    )


def on_plain_ground(image: RGB) -> bool:
    """Return whether a picture shows something cut out on one colour other than black, such as white."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ground = np.median(frame, axis=0)
    if ground.max() <= BLACK or not _alike(frame, ground) > _ALL_AROUND:
        return False
    return bool(_alike(image[::_STEP, ::_STEP].reshape(-1, 3), ground) < 1 - _SOMETHING)


def _alike(pixels: RGB, ground: NDArray[np.float64]) -> float:
    return float((np.abs(pixels - ground).max(axis=1) <= _PLAIN).mean())


def _widened(part: slice, *, after: int) -> slice:
    return slice((after + part.start) * _STEP, (after + part.stop) * _STEP)


def _texture(green: NDArray[np.uint8], inside: Mask) -> tuple[float, float]:
    """Return (detail, contrast) well inside the cell, where its edge and the black beyond play no part."""
    height, width = (side // 2 for side in green.shape)
    if min(height, width) < _SMALLEST:
        return 0.0, 0.0
    half = np.zeros((height, width), np.float32)
    for part in _tiled(green, height, width, step=2):
        half += part
    half /= 4
    core = _eroded(inside[: 2 * height : 2, : 2 * width : 2], by=max(2, max(height, width) // _RIM))
    if core.sum() < _SMALLEST:
        return 0.0, 0.0
    around = (half[:-2, 1:-1] + half[2:, 1:-1] + half[1:-1, :-2] + half[1:-1, 2:]) / 4
    return float(np.abs(half[1:-1, 1:-1] - around)[core[1:-1, 1:-1]].mean()), float(half[core].std())


def _eroded(inside: Mask, *, by: int) -> Mask:
    """Take a rim off a mask, along both axes; its outermost rows and columns are always taken."""
    core = np.zeros_like(inside)
    core[by:-by, by:-by] = (
        inside[by:-by, by:-by]
        & (inside[: -2 * by, by:-by] & inside[2 * by :, by:-by])
        & (inside[by:-by, : -2 * by] & inside[by:-by, 2 * by :])
    )
    return core


def _saturated(box: RGB, inside: Mask) -> float:
    bright = np.maximum(np.maximum(box[..., 0], box[..., 1]), box[..., 2]) >= _SATURATED
    return float(bright.sum() / max(1, inside.sum()))


def fit_quality(traits: Sequence[Traits]) -> Limits:
    """Learn from training cells what the model has seen: {trait: [lowest, middle, highest]}.

    Raises:
        DataError: there are too few cells.
    """
    if len(traits) < _FEWEST:
        raise DataError(f"The limits of quality need {_FEWEST} training cells or more; there are {len(traits)}.")
    limits: dict[str, Any] = {"cells": len(traits)}
    for name, wider in _WIDER.items():
        low, middle, high = np.percentile([getattr(each, name) for each in traits], _PERCENTILES[name])
        limits[name] = [round(float(value), 4) for value in (low / wider, middle, high * _HIGHER.get(name, wider))]
    limits["appearance"] = fit_appearance([each.appearance for each in traits])
    limits["grain"] = fit_appearance([_grain(each) for each in traits], margin=1.0)
    return limits


def _grain(traits: Traits) -> Appearance:
    """Return what an enlarged picture changes together: the cell grows, and its detail does not."""
    if not (traits.side and traits.detail and traits.contrast):
        return ()
    return float(np.log(traits.side)), float(np.log(traits.detail)), float(np.log(traits.contrast))


def judge(traits: Traits, limits: Limits, *, pictures: str = "cells") -> Quality:
    """Say whether a measured picture can be judged, and if not, the first reason in the order of what to mend.

    pictures: what the bundle learned from, 'cells' cut out on black or whole 'fields'.
    """
    reason = _why_not_whole(traits, limits) if pictures == "fields" else ""
    if pictures != "fields":
        reason = _why_no_cell(traits) or _why_unlike(traits, limits)
    return Quality(0.0, reason) if reason else Quality(_score(traits, limits), "")


def _why_no_cell(traits: Traits) -> str:
    if not traits.cells:
        return "Empty: the image is all black. Remove it, or save the cell again."
    if traits.plain:
        return (
            "The ground around the cell is not black. The model knows cells on black: make all around the cell black, "
            "or cut the cell out of its smear field with leukoscope cells."
        )
    if traits.framed > _FRAMED:
        return "Not one cell cut out on black. Find and cut out the cells of a smear field with leukoscope cells."
    if traits.cells > 1:
        return f"{traits.cells} separate cells in one image. Cut each out by itself (leukoscope cells does)."
    if traits.cut > _CUT:
        return "The frame cuts the cell off. Take a whole cell."
    return ""


def _why_not_whole(traits: Traits, limits: Limits) -> str:
    """Return why a picture is unlike the whole fields that a bundle learned from."""
    if not traits.cells:
        return "Empty: the image is all black. Remove it, or save the picture again."
    if traits.framed <= _FRAMED:
        return "A cell cut out on black; this bundle learned from whole pictures. Give it pictures like those."
    if traits.detail < limits["detail"][0]:
        return "Blurred: less fine detail than in any training picture. Focus again; do not enlarge small images."
    if not limits["contrast"][0] <= traits.contrast <= limits["contrast"][2]:
        return "Its contrast is unlike that of any training picture. Check stain, exposure and camera."
    return ""


def _why_unlike(traits: Traits, limits: Limits) -> str:
    low, middle, high = limits["side"]
    if not low <= traits.side <= high:
        size = "small" if traits.side < low else "large"
        return (
            f"Too {size}: the cell is {traits.side:.0f} px across, training cells {low:.0f} to {high:.0f} "
            f"(typically {middle:.0f}). Bring the image to the scale of the training cells, or use leukoscope cells."
        )
    if traits.saturated > _BLEACHED:
        return f"Overexposed: {traits.saturated:.0%} of the cell is at full brightness. Take it with less light."
    if traits.detail < limits["detail"][0]:
        return "Blurred: less fine detail than in any training cell. Focus again; do not enlarge small images."
    if traits.detail > limits["detail"][2] or traits.contrast > limits["contrast"][2]:
        return "Rougher or noisier inside than any training cell: another stain, a noisy camera, or no cell at all."
    if traits.contrast < limits["contrast"][0]:
        return "Almost plain inside: no structure to be judged. Check stain and exposure, or remove it."
    return _why_unknown(traits, limits)


def _why_unknown(traits: Traits, limits: Limits) -> str:
    """Return why several traits together are not those of a cell, or ''."""
    if traits.appearance and limits.get("appearance"):
        times = distance(traits.appearance, limits["appearance"]) / limits["appearance"]["limit"]
        if times > 1:
            return f"Not the colours of a stained cell ({times:.1f} times the distance allowed). Check stain, camera."
    large = traits.side > limits["side"][1]  # a small one is told by the limits of detail alone
    seen = _grain(traits)
    if large and seen and limits.get("grain") and distance(seen, limits["grain"]) > limits["grain"]["limit"]:
        return "Size and fine detail do not go together as in training cells: an enlarged picture. Give the true scale."
    return ""


def _score(traits: Traits, limits: Limits) -> float:
    """Return 1 in the middle of the training cells, falling to 0 at the nearest limit, on a ratio scale."""
    scores = [1.0]
    for name in _WIDER:
        low, middle, high = limits[name]
        value = getattr(traits, name)
        end = low if value < middle else high
        scores.append(1 - np.log(value / middle) / np.log(end / middle))
    return round(float(np.clip(min(scores), 0, 1)), 3)
