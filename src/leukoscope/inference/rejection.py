"""When a cell is refused, and when it is unsure: image quality, distance from the training cells, conformal prediction.

**Quality** asks whether an image shows one whole, sharp, stained cell at the scale that the model knows. Everything is
measured on the source image, before it is shrunk to a crop. What a cell is like is learned from the training cells
(`fit_quality`); what has nothing to do with them is a constant with its meaning beside it. The embedding of a network
trained to ignore colour does not notice what no microscope shows: a cell in grey, inverted, with channels exchanged, a
piece of a smear in the outline of a cell. Fifteen numbers do: the optical density of the darkest, the middle and the
palest fifth of the cell in each channel, how the rim differs from the cell, how the channels correlate, how much green
varies, and the size. Their distance from the known cells is Mahalanobis' (1936).

**Out of distribution**: the Mahalanobis distance of the embedding under the covariance of probabilistic principal
component analysis: along the first components the spread of the training cells, in every other direction one common
spread. A photograph or a smear field leaves mostly in those other directions, which hold hardly any of the training
cells' variance. Source: Tipping & Bishop 1999, doi 10.1111/1467-9868.00196; Lee et al. 2018, doi
10.48550/arXiv.1807.03888. `benchmarks/out_of_distribution.py` compares it with nearest neighbours and prints what is
refused of everything foreign.

**Conformal prediction** per class: a cell is decided only when a single class is plausible, so to be decided wrongly
its true class must have been found implausible. The fit bounds that for each class separately: at most `alpha` of a
class is called another. Two units give two guarantees:

'subject'  For a new subject drawn like those of the fit, a cell drawn from its cells of a class is called another
           class with a probability of at most alpha. Cells of one subject may be correlated. Each subject
           weighs the same and its cells share that weight; the new subject's own share counts as the worst possible.
           Source: Lee, Barber & Willett, Distribution-free inference with hierarchical data, 2023,
           doi 10.48550/arXiv.2306.06342 (HCP, section 3); per class as in Vovk 2012, doi 10.1007/s10994-013-5355-6.
           A class needs 1/alpha - 1 subjects or more, otherwise nothing can be guaranteed and no cell is ever called
           another class than this one.
'cell'     The same for a new cell that is exchangeable with those of the fit: true when it comes from the same
           subjects, false for a new subject. For comparison only.

The guarantee is an average over new subjects, not for each of them; it ends where new subjects are not like those of
the fit (another hospital, stain or microscope). Fitted on out-of-fold probabilities of cross-validation and used with
the networks of all folds averaged, it is the cross-conformal method: close to the same, but without its guarantee.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from ..bundle.manifest import Bundle, ConformalRule, DistanceLimit, Gaussian, QualityLimits, Reached
from ..errors import BundleError, ConfigError, DataError
from ..images.crop import BLACK, bounding_box, cell_mask
from ..images.read import RGB
from ..progress import blas_threads, processors

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Appearance = tuple[float, ...]

_PLACES = 64  # places along the longer side at which colours are looked at
_FEWEST_PLACES = 60
_EDGE = 3  # places
_OFFSET, _FULL = 8.0, 263.0  # grey levels, as in fields.stain
_APPEARANCE_RATE = 0.015  # of known cells lie beyond the distance from which ...
MARGIN = 1.5  # ... the limit is this far: what is meant to be refused lies at twice that distance
_APPEARANCE_SHRINKAGE = 0.1  # of the covariance towards independent numbers


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
    correlations = _correlations(places)
    linked = np.arctanh(np.clip((correlations[0, 1], correlations[1, 2]), -0.99, 0.99))
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
    """Return the pixels at each place of a tile of `step` pixels: arrays (rows, columns, ...)."""
    cut = plane[: rows * step, : columns * step]
    return [cut[down::step, across::step] for down in range(step) for across in range(step)]


def fit_appearance(known: Sequence[Appearance], *, margin: float = MARGIN) -> Gaussian | None:
    """Learn from known cells what a stained cell looks like; None where there are too few of them."""
    table = np.array([each for each in known if each])
    if len(table) < 4 * (table.shape[1] if table.ndim == 2 else 1):
        return None
    mean, spread = table.mean(axis=0), np.cov(table.T)
    spread = (
        (1 - _APPEARANCE_SHRINKAGE) * spread
        + _APPEARANCE_SHRINKAGE * np.diag(np.diag(spread))
        + 1e-6 * np.eye(len(mean))
    )
    learned = Gaussian(mean=mean.round(5).tolist(), inverse=np.linalg.inv(spread).round(4).tolist(), limit=1.0)
    usual = float(np.quantile([distance(each, learned) for each in table], 1 - _APPEARANCE_RATE))
    return Gaussian(mean=learned.mean, inverse=learned.inverse, limit=round(margin * usual, 4))


def distance(seen: Appearance, learned: Gaussian) -> float:
    """Return how far an appearance lies from those of known cells."""
    offset = np.asarray(seen) - np.asarray(learned.mean)
    return float(np.sqrt(max(0.0, offset @ np.asarray(learned.inverse) @ offset)))


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
_TINY = 1e-6  # a trait of 0 has no logarithm
_FEWEST_CELLS = 20  # cells below which percentiles mean nothing


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
    Of nine measures tried it finds blur best: at a standard deviation of 1.5 px all cells fall below all sharp ones."""
    contrast: float
    """Standard deviation of green well inside the cell, in grey levels."""
    saturated: float
    """Share of the cell's pixels with a channel at its upper end."""
    appearance: Appearance = ()
    """Its colours, as `appearance` measures them; empty where the cell is too small for it."""


@dataclass(frozen=True)
class Quality:
    """Whether an image is fit to be judged."""

    score: float
    """1 for an image like the median training cell, 0 for one that is refused."""
    reason: str
    """Empty when the image can be judged."""


def measure(image: RGB) -> Traits:
    """Measure a source image, uint8 (height, width, 3)."""
    from scipy.ndimage import find_objects, label  # a bundle without limits of quality needs no SciPy

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
    """Return whether an image shows something cut out on one colour other than black, such as white."""
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


def fit_quality(traits: Sequence[Traits]) -> QualityLimits:
    """Learn from training cells what images the model has seen.

    Raises:
        DataError: there are too few cells.
    """
    if len(traits) < _FEWEST_CELLS:
        raise DataError(f"The limits of quality need {_FEWEST_CELLS} training cells or more; there are {len(traits)}.")
    ranges: dict[str, list[float]] = {}
    for name, wider in _WIDER.items():
        low, middle, high = np.percentile([getattr(each, name) for each in traits], _PERCENTILES[name])
        ranges[name] = [round(float(value), 4) for value in (low / wider, middle, high * _HIGHER.get(name, wider))]
    try:
        return QualityLimits(
            cells=len(traits),
            side=ranges["side"],
            detail=ranges["detail"],
            contrast=ranges["contrast"],
            appearance=fit_appearance([each.appearance for each in traits]),
            grain=fit_appearance([_grain(each) for each in traits], margin=1.0),
        )
    except ValidationError as invalid:  # images that are all the same have no range
        first = invalid.errors()[0]
        raise DataError(f"The training images set no limits of quality ({first['loc'][0]}: {first['msg']}).") from None


def _grain(traits: Traits) -> Appearance:
    """Return logarithms of side, detail and contrast: in an enlarged image the cell grows, and its detail does not."""
    if not (traits.side and traits.detail and traits.contrast):
        return ()
    return float(np.log(traits.side)), float(np.log(traits.detail)), float(np.log(traits.contrast))


def judge(traits: Traits, limits: QualityLimits, *, pictures: str = "cells") -> Quality:
    """Return whether a measured image can be judged, and if not, the first reason in the order of what to correct.

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


def _why_not_whole(traits: Traits, limits: QualityLimits) -> str:
    """Return why an image is unlike the whole fields that a bundle learned from."""
    if not traits.cells:
        return "Empty: the image is all black. Remove it, or save the picture again."
    if traits.framed <= _FRAMED:
        return "A cell cut out on black; this bundle learned from whole pictures. Give it pictures like those."
    if traits.detail < limits.detail[0]:
        return "Blurred: less fine detail than in any training picture. Focus again; do not enlarge small images."
    if not limits.contrast[0] <= traits.contrast <= limits.contrast[2]:
        return "Its contrast is unlike that of any training picture. Check stain, exposure and camera."
    return ""


def _why_unlike(traits: Traits, limits: QualityLimits) -> str:
    low, middle, high = limits.side
    if not low <= traits.side <= high:
        size = "small" if traits.side < low else "large"
        return (
            f"Too {size}: the cell is {traits.side:.0f} px across, training cells {low:.0f} to {high:.0f} "
            f"(typically {middle:.0f}). Bring the image to the scale of the training cells, or use leukoscope cells."
        )
    if traits.saturated > _BLEACHED:
        return f"Overexposed: {traits.saturated:.0%} of the cell is at full brightness. Take it with less light."
    if traits.detail < limits.detail[0]:
        return "Blurred: less fine detail than in any training cell. Focus again; do not enlarge small images."
    if traits.detail > limits.detail[2] or traits.contrast > limits.contrast[2]:
        return "Rougher or noisier inside than any training cell: another stain, a noisy camera, or no cell at all."
    if traits.contrast < limits.contrast[0]:
        return "Almost plain inside: no structure to be judged. Check stain and exposure, or remove it."
    return _why_unknown(traits, limits)


def _why_unknown(traits: Traits, limits: QualityLimits) -> str:
    """Return why several traits together are not those of a cell, or ''."""
    if traits.appearance and limits.appearance:
        times = distance(traits.appearance, limits.appearance) / limits.appearance.limit
        if times > 1:
            return f"Not the colours of a stained cell ({times:.1f} times the distance allowed). Check stain, camera."
    large = traits.side > limits.side[1]  # a small one is found by the limits of detail alone
    seen = _grain(traits)
    if large and seen and limits.grain and distance(seen, limits.grain) > limits.grain.limit:
        return "Size and fine detail do not go together as in training cells: an enlarged picture. Give the true scale."
    return ""


def _score(traits: Traits, limits: QualityLimits) -> float:
    """Return 1 in the middle of the training cells, falling to 0 at the nearest limit, on a ratio scale."""
    scores = [1.0]
    for name in _WIDER:
        low, middle, high = limits.range_of(name)
        value = max(getattr(traits, name), _TINY)
        end = max(low, _TINY) if value < middle else high
        scores.append(1 - np.log(value / middle) / np.log(end / middle))
    return round(float(np.clip(min(scores), 0, 1)), 3)


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
        if len(offset) == 1:  # not by `@`: BLAS would take threads for it, which wait longer than this takes
            along = np.einsum("pc,kc->pk", offset, self.axes, dtype=np.float64)
        else:
            along = offset @ self.axes.T.astype(np.float64)
        beside = np.maximum((offset**2).sum(1) - (along**2).sum(1), 0)
        return np.asarray(np.sqrt((along**2 / self.spread[:-1]).sum(1) + beside / self.spread[-1]))


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """A space, and the distance beyond which a cell is refused."""

    space: Space
    limit: DistanceLimit

    def distances(self, embeddings: ArrayLike) -> Floats:
        """Return how far each embedding (cells, channels) lies from the training cells; above 1 it is refused."""
        return np.asarray(self.space.distances(embeddings) / self.limit.threshold)

    def content(self) -> bytes:
        """Return what goes into the bundle's FILE: 170 KB for 1,280 channels.

        Single precision: in half, the rounding of strong directions drowns the weak ones, which the distance weighs
        most, and every training cell is refused.
        """
        from safetensors.numpy import save

        arrays = {"mean": self.space.mean, "axes": self.space.axes, "spread": self.space.spread}
        # safetensors writes the memory in its order: an array in Fortran order would come back scrambled
        return bytes(save({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}))


def read_detector(limit: DistanceLimit, content: bytes) -> OutOfDistributionDetector:
    """Return the out-of-distribution detector of a bundle from its entry in bundle.json and the bytes of FILE.

    Raises:
        BundleError: the arrays do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = {name: array.astype(np.float32) for name, array in load(content).items()}
        space = Space(arrays["mean"], arrays["axes"], arrays["spread"])
    except (KeyError, SafetensorError) as broken:
        raise BundleError(f"{FILE} is damaged or incomplete ({broken}). Export the bundle again.") from None
    if space.axes.shape != (len(space.spread) - 1, len(space.mean)):
        raise BundleError(f"{FILE} holds arrays that do not fit each other. Export the bundle again.")
    if not (all(np.isfinite(each).all() for each in arrays.values()) and (space.spread > 0).all()):
        raise BundleError(f"{FILE} holds NaN or Infinity, or spreads below 0. Export the bundle again.")
    return OutOfDistributionDetector(space, limit)


def why_far(distance: float) -> str:
    """Return in words why a cell at this distance (in thresholds) is refused; empty when it is not.

    >>> why_far(0.9), why_far(2.04)
    ('', 'Unlike the training cells (2.0 times the distance allowed): another stain, camera or kind of picture.')
    """
    if distance <= 1:
        return ""
    times = f"{distance:.1f} times the distance allowed"
    return f"Unlike the training cells ({times}): another stain, camera or kind of picture."


def fit_detector(
    embeddings: ArrayLike, groups: ArrayLike, *, rate: float = RATE, seed: int = 0
) -> OutOfDistributionDetector:
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
    with blas_threads(processors()):
        for held_out in _folds(subject, seed=seed):
            unseen[held_out] = fit_space(points[~held_out]).distances(points[held_out])
    threshold = _threshold(unseen, subject, rate=rate)
    limit = DistanceLimit(
        format=_FORMAT,
        file=FILE,
        threshold=round(threshold, 6),
        rate=rate,
        cells=len(points),
        subjects=len(names),
        refused_across_subjects=round(float((unseen > threshold).mean()), 4),
    )
    return OutOfDistributionDetector(fit_space(points), limit)


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


UNSURE = -1
_ROUNDING = 1e-9  # bundle.json and predictions.csv hold nine digits; a tie must not fall to the wrong side


def fit_conformal(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    alpha: float = 0.1,
    unit: Literal["subject", "cell"] = "subject",
) -> ConformalRule:
    """Learn from calibrated probabilities (cells, classes) of cells that the model has not learned from.

    labels: class index of each cell; groups: its subject group.

    Raises:
        ConfigError: alpha is not between 0 and 0.5.
        DataError: there are no cells, or the arrays differ in length.
    """
    chances, classes, subjects = np.asarray(probabilities, dtype=float), np.asarray(labels), np.asarray(groups)
    _check(chances, classes, subjects, alpha=alpha)
    plausible: list[float | None] = []
    cells, counts = [], []
    for index in range(chances.shape[1]):
        own = classes == index
        owners = subjects[own] if unit == "subject" else np.arange(own.sum())
        plausible.append(_smallest_plausible(chances[own, index], owners, alpha=alpha))
        cells.append(int(own.sum()))
        counts.append(len(np.unique(subjects[own])))
    return ConformalRule(
        format=_FORMAT,
        alpha=alpha,
        unit=unit,
        smallest_plausible=plausible,
        cells=cells,
        subjects=counts,
        guarantee=_guarantee(alpha, unit, plausible),
    )


def _check(chances: Floats, classes: NDArray[Any], subjects: NDArray[Any], *, alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise ConfigError(f"alpha = {alpha}: choose the share of wrong decisions between 0 and 0.5, such as 0.1.")
    if chances.ndim != 2 or not len(chances) == len(classes) == len(subjects) > 0:
        raise DataError(
            f"Conformal prediction needs one label and one subject per row of probabilities; there are "
            f"{len(classes)} labels, {len(subjects)} subjects and probabilities of shape {chances.shape}."
        )


def _smallest_plausible(chances: Floats, owners: NDArray[Any], *, alpha: float) -> float | None:
    """Return the largest threshold under which at most alpha of the weight lies, the new owner's share included.

    None: with so few owners, the new one's share alone is more than alpha, so that any probability is plausible.
    """
    _, owner, sizes = np.unique(owners, return_inverse=True, return_counts=True)
    share = 1 / (len(sizes) + 1)
    if share > alpha * (1 + _ROUNDING):
        return None
    order = np.argsort(chances, kind="stable")
    below = share + np.cumsum(share / sizes[owner[order]])  # weight up to and with each cell
    first = int(np.searchsorted(below, alpha * (1 + _ROUNDING), side="right"))
    return float(np.floor(chances[order[first]] / _ROUNDING) * _ROUNDING)


def _guarantee(alpha: float, unit: str, plausible: list[float | None]) -> str:
    whose = (
        "new subjects like those of the fit, on average over subjects"
        if unit == "subject"
        else ("cells exchangeable with those of the fit, which cells of new subjects are not")
    )
    text = f"Of each class at most {alpha:.0%} of the cells are called another class, for {whose}."
    if None in plausible:
        needed = int(np.ceil(1 / alpha - 1 - _ROUNDING))
        text += f" A class with fewer than {needed} subjects in the fit is never ruled out."
    return text


def plausible_classes(probabilities: ArrayLike, rule: ConformalRule) -> NDArray[np.bool_]:
    """Return which classes are plausible for calibrated probabilities (cells, classes), in the same shape."""
    smallest = np.array([0.0 if value is None else value for value in rule.smallest_plausible])
    return np.asarray(np.asarray(probabilities, dtype=float) >= smallest)


def decide(probabilities: ArrayLike, rule: ConformalRule) -> NDArray[np.int64]:
    """Return the only plausible class of each cell, or UNSURE where none or several are.

    >>> rule = ConformalRule(alpha=0.1, smallest_plausible=[0.3, 0.2])
    >>> decide([[0.9, 0.1], [0.5, 0.5], [0.25, 0.75]], rule).tolist()
    [0, -1, 1]
    """
    plausible = plausible_classes(probabilities, rule)
    return np.where(plausible.sum(1) == 1, plausible.argmax(1), UNSURE).astype(np.int64)


def reached(
    rule: ConformalRule, probabilities: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, classes: Sequence[str]
) -> dict[str, Reached]:
    """Return what a rule comes to on labelled cells that it was not fitted on, by class, subjects weighted equally.

    probabilities: calibrated, (cells, classes). Only classes that occur are in the answer.

    >>> rule = ConformalRule(alpha=0.1, smallest_plausible=[0.3, 0.2])
    >>> reached(rule, [[0.9, 0.1], [0.1, 0.9]], [0, 0], ["a", "b"], classes=["hem", "all"])["hem"].called_another
    0.5
    """
    called, true, subjects = decide(probabilities, rule), np.asarray(labels), np.asarray(groups)
    table = {}
    for index, name in enumerate(classes):
        own = true == index
        if not own.any():
            continue
        _, owner, sizes = np.unique(subjects[own], return_inverse=True, return_counts=True)
        decided = called[own] != UNSURE
        shares = (np.bincount(owner, each) / sizes for each in (decided & (called[own] != index), decided))
        wrong, sure = (round(float(each.mean()), 6) for each in shares)
        table[name] = Reached(called_another=wrong, decided=sure, subjects=len(sizes), cells=int(own.sum()))
    return table


def why_unsure(plausible: NDArray[np.bool_], classes: tuple[str, ...]) -> str:
    """Return in words why a cell with these plausible classes (classes,) is not decided.

    >>> why_unsure(np.array([True, True]), ("hem", "all"))
    'Both hem and all are plausible.'
    """
    named = [name for name, yes in zip(classes, plausible, strict=True) if yes]
    if not named:
        return f"Not typical of {' or '.join(classes)}."
    listed = " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]
    return f"{'Both ' if len(named) == 2 else ''}{listed} {'are' if len(named) > 1 else 'is'} plausible."


class Rejection:
    """The rules that a bundle brings along; a rule that it does not bring rejects nothing."""

    def __init__(self, bundle: Bundle) -> None:
        self._classes = bundle.manifest.classes
        self._limits = bundle.manifest.quality
        self._pictures = bundle.manifest.pictures
        self._conformal = bundle.manifest.conformal
        self._detector = None
        if bundle.manifest.out_of_distribution:
            self._detector = read_detector(bundle.manifest.out_of_distribution, bundle.read(FILE))

    def of_picture(self, image: RGB) -> Quality | None:
        """Return the quality of a source image; None where the bundle has no limits for it."""
        if not self._limits:
            return None
        return judge(measure(image), self._limits, pictures=self._pictures)

    def of_cell(self, embedding: NDArray[np.float32]) -> str:
        """Return why a cell with this embedding (channels,) is too unlike the training cells, or ''."""
        if self._detector is None:
            return ""

        return why_far(float(self._detector.distances(embedding[None])[0]))

    def of_decision(self, probabilities: Floats, *, called: int) -> str:
        """Return why a cell with these probabilities (classes,) must not be called this class, or ''.

        The conformal rule must find this class plausible and no other: then its guarantee holds at every operating
        point, since an operating point can only make more cells unsure.
        """
        if not self._conformal:
            return ""

        plausible = plausible_classes(probabilities[None], self._conformal)[0]
        if plausible.sum() != 1:
            return why_unsure(plausible, self._classes)
        only = int(plausible.argmax())
        if only != called:
            return (
                f"Only {self._classes[only]} is plausible, but this operating point calls it {self._classes[called]}."
            )
        return ""
