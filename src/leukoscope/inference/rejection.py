"""Rejection of cells: limits of image quality, out-of-distribution detection and conformal prediction.

A bundle may contain any of three rules, applied in this order by `Rejection`.

**Image quality** (`measure`, `fit_quality`, `judge`).
A source image must show one intact, sharp, stained cell at the scale of the training images. Traits are measured before
the image is resized to a crop. Limits that depend on the training cells are fitted; the others are constants of this
module. A network trained to be invariant to colour does not detect grey, inverted or channel-swapped images, so
`appearance` describes the colours of a cell by fifteen numbers: the optical density of its darkest, middle and palest
fifth in each channel, the difference between rim and cell, the correlations of the channels, the variation of green,
and the size. Their Mahalanobis distance from the training cells is limited.

**Out-of-distribution detection** (`fit_detector`).
The Mahalanobis distance of the embedding under the covariance of probabilistic principal component analysis: the
variance of the training cells along the first components, and one common variance in all other directions. Photographs
and smear fields differ mainly in the latter, in which training cells hardly vary.

Sources: Tipping and Bishop 1999, doi 10.1111/1467-9868.00196; Lee et al. 2018, doi 10.48550/arXiv.1807.03888.
`benchmarks/out_of_distribution.py` compares it with nearest neighbours.

**Conformal prediction** (`fit_conformal`, `decide`).
A cell is decided if exactly one class is plausible, and unsure otherwise. The thresholds are fitted for each class
separately, so that at most a share `alpha` of its cells is called another class. There are two kinds of guarantee:

'subject'  For a new subject exchangeable with those of the fit, a random cell of a class is called another class with
           a probability of at most alpha, however correlated the cells of one subject are. Every subject has the same
           weight, shared by its cells, and the weight of the new subject is counted as wrong. A class needs at least
           1/alpha - 1 subjects; with fewer it is always plausible, so its cells are never called another class.
           Sources: hierarchical conformal prediction, Lee, Barber and Willett 2023, doi 10.48550/arXiv.2306.06342,
           section 3; per class as in Vovk 2012, doi 10.1007/s10994-013-5355-6.
'cell'     The same for a new cell that is exchangeable with those of the fit: valid for new cells of the same subjects,
           not for new subjects. For comparison only.

The guarantee holds on average over new subjects, not for each one, and not for subjects of another hospital, stain or
microscope. Fitted to out-of-fold probabilities and used with the averaged networks of all folds, the method is
cross-conformal prediction, which is approximately valid but has no formal guarantee.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from ..bundle.manifest import Bundle, ConformalRule, DistanceLimit, Gaussian, QualityLimits, Reached
from ..errors import BundleError, ConfigError, DataError
from ..images.crop import BLACK, bounding_box, cell_box, cell_mask
from ..images.read import RGB
from ..progress import blas_threads, processors

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Appearance = tuple[float, ...]

_PLACES = 64  # places along the longer side at which colours are measured
_FEWEST_PLACES = 60
_EDGE = 3  # places
_OFFSET, _FULL = 8.0, 263.0  # grey levels, as in fields.stain
_APPEARANCE_RATE = 0.015  # share of training cells beyond the distance that ...
MARGIN = 1.5  # ... times this factor is the limit; images to be refused lie at about twice that distance
_APPEARANCE_SHRINKAGE = 0.1  # of the covariance towards a diagonal matrix


def appearance(box: RGB, inside: Mask) -> Appearance:
    """Return the fifteen numbers of a cell, uint8 (height, width, 3), and its mask; empty if it is too small."""
    step = max(1, max(inside.shape) // _PLACES)
    rows, columns = (side // step for side in inside.shape)
    if min(rows, columns) < 2 * _EDGE:
        return ()
    whole = np.logical_and.reduce(_tiled(inside, rows, columns, step=step))
    if whole.sum() < _FEWEST_PLACES:
        return ()
    channels = np.ascontiguousarray(box[: rows * step, : columns * step].transpose(2, 0, 1))
    lines = np.add.reduce([channels[:, row::step] for row in range(step)], dtype=np.uint32)
    sums = np.add.reduce([lines[..., column::step] for column in range(step)])  # (3, rows, columns)
    density = -np.log((np.arange(255 * step**2 + 1) / step**2 + _OFFSET) / _FULL)
    # `take` keeps the channels contiguous, which indexing does not.
    places = density.take(sums.reshape(3, -1).take(np.flatnonzero(whole), axis=1))  # (3, places): optical density
    fifth = places.shape[1] // 5
    parts = [0, fifth, 2 * fifth, 3 * fifth, places.shape[1] - fifth]
    ordered = places.take(np.argpartition(places.sum(axis=0), parts[1:]), axis=1)
    fifths = [ordered[:, start : start + fifth].mean(axis=1) for start in parts[::2]]
    correlations = _correlations(places)
    linked = np.arctanh(np.clip((correlations[0, 1], correlations[1, 2]), -0.99, 0.99))
    return tuple(
        float(value)
        for value in (
            *np.concatenate(fifths),
            *_rim(places, whole)[1:],
            *linked,
            places[1].std(),
            np.log(max(inside.shape)),
        )
    )


def _tiled(plane: NDArray[Any], rows: int, columns: int, *, step: int) -> list[NDArray[Any]]:
    """Return the pixels at each offset within tiles of `step` pixels: arrays (rows, columns, ...)."""
    cut = plane[: rows * step, : columns * step]
    return [cut[down::step, across::step] for down in range(step) for across in range(step)]


def fit_appearance(known: Sequence[Appearance], *, margin: float = MARGIN) -> Gaussian | None:
    """Fit mean, covariance and limit to appearances of training cells; None where there are too few of them."""
    table = np.array([each for each in known if each])
    if len(table) < 4 * (table.shape[1] if table.ndim == 2 else 1):
        return None
    mean, spread = table.mean(axis=0), np.cov(table.T)
    spread = (
        (1 - _APPEARANCE_SHRINKAGE) * spread
        + _APPEARANCE_SHRINKAGE * np.diag(np.diag(spread))
        + 1e-6 * np.eye(len(mean))
    )
    fitted = Gaussian(mean=mean.round(5).tolist(), inverse=np.linalg.inv(spread).round(4).tolist(), limit=1.0)
    usual = float(np.quantile([distance(each, fitted) for each in table], 1 - _APPEARANCE_RATE))
    return Gaussian(mean=fitted.mean, inverse=fitted.inverse, limit=round(margin * usual, 4))


def distance(measured: Appearance, fitted: Gaussian) -> float:
    """Return the Mahalanobis distance of an appearance."""
    offset = np.asarray(measured) - np.asarray(fitted.mean)
    return float(np.sqrt(max(0.0, offset @ np.asarray(fitted.inverse) @ offset)))


def _rim(places: Floats, whole: Mask) -> Floats:
    """Return the mean density of the rim of a cell less that of the cell, in each channel (3,).

    places: density of the true places of `whole`, (3, places).
    """
    core = np.pad(whole, 1)
    for _ in range(_EDGE):  # erosion with a cross-shaped element
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    rim = ~core[1:-1, 1:-1][whole]
    if rim.all() or not rim.any():
        return np.zeros(3)
    return np.asarray(places.take(np.flatnonzero(rim), axis=1).mean(axis=1) - places.mean(axis=1))


def _correlations(places: Floats) -> Floats:
    """Return the correlations of the channels of (3, places); 0 where one of them does not vary."""
    channels = places - places.mean(axis=1, keepdims=True)
    # Not by `@`: the threads of BLAS would take longer than the product itself.
    products = np.einsum("ip,jp->ij", channels, channels)
    lengths = np.sqrt(np.diag(products))
    return np.asarray(products / np.maximum(np.outer(lengths, lengths), 1e-12))


_STEP = 2  # components are counted on every second pixel, four times as fast
_SATURATED = 250  # of 255, in any channel
_SPECK = 0.1  # a component smaller than this share of the largest is dirt, not a second cell
_SMALLEST = 8  # half-resolution pixels below which a cell has no inside to measure
_RIM = 12  # the rim excluded from texture is the longer side of the cell divided by this

_FRAMED = 0.5  # share of the outermost pixels that are not black above which no cell was cut out
_PLAIN = 4  # grey levels: largest difference within a background of one colour; the glass of a smear varies more
_ALL_AROUND = 0.9  # share of the outermost pixels
_SOMETHING = 0.01  # share of the pixels that a cell has at least
# The frame cuts a cell off along a chord. Of 4,133 cells of C-NMC the 0.02 % that touch it do so along .15 of their
# side; a box drawn tightly around a round cell touches it along up to about .25.
_CUT = 0.3
_BLEACHED = 0.02  # share of saturated pixels; in C-NMC there are none at all

# Limits are the range between these percentiles of the training cells, widened, so that no outlier sets a limit.
_PERCENTILES = {"side": (0.1, 50.0, 99.0), "detail": (0.1, 50.0, 99.9), "contrast": (0.1, 50.0, 99.9)}
_WIDER = {"side": 1.15, "detail": 1.15, "contrast": 1.5}
"""Trait -> the factor by which its range is widened: smaller for scale, larger for stain."""
_HIGHER = {"side": 1.06}
"""The same for its upper end: a cell enlarged twofold must not pass as a large one."""
_TINY = 1e-6  # a trait of 0 has no logarithm
_FEWEST_CELLS = 20  # fewest cells for percentiles


@dataclass(frozen=True)
class Traits:
    """Measurements of one source image."""

    framed: float
    """Share of the image's outermost pixels that are not black."""
    plain: bool
    """Whether a cell was cut out on a background of one colour other than black."""
    cut: float
    """Length of the largest component along the image border, as a share of its longer side."""
    cells: int
    """Number of connected components that are not specks."""
    side: float
    """Longer side of the bounding box of the largest component, in source pixels; 0 when the image is black."""
    detail: float
    """Mean absolute difference of each pixel and the mean of its four neighbours at half resolution, in grey levels of
    green. Of nine measures it detects blur best: with a blur of 1.5 px all cells are below all sharp ones."""
    contrast: float
    """Standard deviation of green in the interior of the cell, in grey levels."""
    saturated: float
    """Share of the cell's pixels with a channel at its upper end."""
    appearance: Appearance = ()
    """See `appearance`; empty where the cell is too small."""


@dataclass(frozen=True)
class Quality:
    """Whether an image is good enough for prediction."""

    score: float
    """1 for an image like the median training cell, 0 for a refused one."""
    reason: str
    """Empty if the image is accepted."""


def measure(image: RGB) -> Traits:
    """Measure a source image, uint8 (height, width, 3)."""
    from scipy.ndimage import find_objects, label  # not needed by bundles without limits of quality

    edges = [cell_mask(edge) for edge in (image[0], image[-1], image[:, 0], image[:, -1])]
    framed = float(np.concatenate(edges).mean())
    plain = framed > _FRAMED and on_plain_ground(image)
    left, top, right, bottom = cell_box(image) or (0, 0, 0, 0)
    image = image[top // _STEP * _STEP : bottom + 1, left // _STEP * _STEP : right + 1]
    mask = cell_mask(image)
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
    """Return whether an image shows a cell cut out on a background of one colour other than black, such as white."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ground = np.median(frame, axis=0)
    if ground.max() <= BLACK or not _share_of_ground(frame, ground) > _ALL_AROUND:
        return False
    return bool(_share_of_ground(image[::_STEP, ::_STEP].reshape(-1, 3), ground) < 1 - _SOMETHING)


def _share_of_ground(pixels: RGB, ground: NDArray[np.float64]) -> float:
    return float((np.abs(pixels - ground).max(axis=1) <= _PLAIN).mean())


def _widened(part: slice, *, after: int) -> slice:
    return slice((after + part.start) * _STEP, (after + part.stop) * _STEP)


def _texture(green: NDArray[np.uint8], inside: Mask) -> tuple[float, float]:
    """Return (detail, contrast) of the interior of the cell, without its edge."""
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
    """Erode a mask by `by` pixels along both axes; its outermost rows and columns are always removed."""
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
    """Fit the limits of quality to the traits of training cells.

    Raises:
        DataError: there are too few cells.
    """
    if len(traits) < _FEWEST_CELLS:
        raise DataError(f"The limits of quality need at least {_FEWEST_CELLS} training cells; there are {len(traits)}.")
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
    except ValidationError as invalid:  # identical images have no range
        first = invalid.errors()[0]
        raise DataError(
            f"No limits of quality can be fitted to the training images ({first['loc'][0]}: {first['msg']})."
        ) from None


def _grain(traits: Traits) -> Appearance:
    """Return logarithms of side, detail and contrast: enlarging an image increases only the side."""
    if not (traits.side and traits.detail and traits.contrast):
        return ()
    return float(np.log(traits.side)), float(np.log(traits.detail)), float(np.log(traits.contrast))


def judge(traits: Traits, limits: QualityLimits, *, pictures: str = "cells") -> Quality:
    """Return the quality of a measured image with the first reason to refuse it, if any.

    pictures: what the bundle was trained on, 'cells' cut out on black or complete 'fields'.
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
            "The background is not black. The model was trained on cells on black: blacken the background, "
            "or cut the cell out of its smear field with leukoscope cells."
        )
    if traits.framed > _FRAMED:
        return "Not one cell cut out on black. Find and cut out the cells of a smear field with leukoscope cells."
    if traits.cells > 1:
        return f"{traits.cells} separate cells in one image. Cut each out separately, such as with leukoscope cells."
    if traits.cut > _CUT:
        return "The cell is cut off by the border of the image. Use a complete cell."
    return ""


def _why_not_whole(traits: Traits, limits: QualityLimits) -> str:
    """Return why an image differs from the complete fields that a bundle was trained on, or ''."""
    if not traits.cells:
        return "Empty: the image is all black. Remove it, or save the picture again."
    if traits.framed <= _FRAMED:
        return "A cell cut out on black; this bundle was trained on uncropped pictures. Use such pictures."
    if traits.detail < limits.detail[0]:
        return "Blurred: less fine detail than in any training picture. Focus again; do not enlarge small images."
    if not limits.contrast[0] <= traits.contrast <= limits.contrast[2]:
        return "Its contrast is outside the range of the training pictures. Check stain, exposure and camera."
    return ""


def _why_unlike(traits: Traits, limits: QualityLimits) -> str:
    low, middle, high = limits.side
    if not low <= traits.side <= high:
        size = "small" if traits.side < low else "large"
        return (
            f"Too {size}: the cell is {traits.side:.0f} px across, training cells {low:.0f} to {high:.0f} "
            f"(typically {middle:.0f}). Rescale the image to the scale of the training cells, or use leukoscope cells."
        )
    if traits.saturated > _BLEACHED:
        return f"Overexposed: {traits.saturated:.0%} of the cell is at full brightness. Reduce the exposure."
    if traits.detail < limits.detail[0]:
        return "Blurred: less fine detail than in any training cell. Focus again; do not enlarge small images."
    if traits.detail > limits.detail[2] or traits.contrast > limits.contrast[2]:
        return "More texture or noise than in any training cell: another stain, a noisy camera, or not a cell."
    if traits.contrast < limits.contrast[0]:
        return "Almost no structure inside. Check stain and exposure, or remove it."
    return _why_unknown(traits, limits)


def _why_unknown(traits: Traits, limits: QualityLimits) -> str:
    """Return why the combination of traits is not that of a cell, or ''."""
    if traits.appearance and limits.appearance:
        times = distance(traits.appearance, limits.appearance) / limits.appearance.limit
        if times > 1:
            return f"Not the colours of a stained cell ({times:.1f} times the distance allowed). Check stain, camera."
    large = traits.side > limits.side[1]  # a small one is found by the limits of detail alone
    seen = _grain(traits)
    if large and seen and limits.grain and distance(seen, limits.grain) > limits.grain.limit:
        return "Size and fine detail do not match as in training cells: an enlarged picture. Set the true scale."
    return ""


def _score(traits: Traits, limits: QualityLimits) -> float:
    """Return a score that is 1 at the median of the training cells and 0 at the limits, on a logarithmic scale."""
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
"""Share of the cells of new subjects that may be refused: below 5 %, since limits of quality refuse some too."""
_COMPONENTS = 32  # 8, 64 and 128 refuse the same
_SHRINKAGE = 0.1  # of the components' variances towards their mean: with few subjects the first ones are overestimated
_FOLDS = 5  # of subjects, for the threshold
_FEWEST_SUBJECTS = 4
_FORMAT = 1


@dataclass(frozen=True)
class Space:
    """Distribution of the training cells in the space of embeddings."""

    mean: NDArray[np.float32]
    """(channels,)"""
    axes: NDArray[np.float32]
    """(components, channels), unit vectors."""
    spread: NDArray[np.float32]
    """(components + 1,): variance along each axis, and in any other direction."""

    def distances(self, embeddings: ArrayLike) -> Floats:
        """Return the Mahalanobis distance of each embedding (cells, channels): (cells,)."""
        offset = np.asarray(embeddings, dtype=np.float64) - self.mean
        if len(offset) == 1:  # not by `@`: the threads of BLAS take longer
            along = np.einsum("pc,kc->pk", offset, self.axes, dtype=np.float64)
        else:
            along = offset @ self.axes.T.astype(np.float64)
        beside = np.maximum((offset**2).sum(1) - (along**2).sum(1), 0)
        return np.asarray(np.sqrt((along**2 / self.spread[:-1]).sum(1) + beside / self.spread[-1]))


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """A distribution of embeddings, and the distance beyond which a cell is refused."""

    space: Space
    limit: DistanceLimit

    def distances(self, embeddings: ArrayLike) -> Floats:
        """Return the distance of each embedding (cells, channels) over the threshold (cells,); above 1: refused."""
        return np.asarray(self.space.distances(embeddings) / self.limit.threshold)

    def content(self) -> bytes:
        """Return the content of FILE: 170 KB for 1,280 channels.

        It has single precision: in half precision rounding errors exceed the small variances, which dominate the
        distance, and every training cell would be refused.
        """
        from safetensors.numpy import save

        arrays = {"mean": self.space.mean, "axes": self.space.axes, "spread": self.space.spread}
        # safetensors writes memory as it is, so an array in Fortran order would be read wrongly
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
        raise BundleError(f"{FILE} contains arrays that do not fit each other. Export the bundle again.")
    if not (all(np.isfinite(each).all() for each in arrays.values()) and (space.spread > 0).all()):
        raise BundleError(f"{FILE} contains NaN, Infinity or negative variances. Export the bundle again.")
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
    """Fit the distribution to all cells, and the threshold to out-of-fold distances.

    embeddings: (cells, channels); groups: the subject group of each cell. Subjects are weighted equally: on average
    over new subjects, a share `rate` of their cells exceeds the threshold.

    Raises:
        DataError: there are fewer than four subjects.
    """
    points, (names, subject) = np.asarray(embeddings, np.float64), np.unique(groups, return_inverse=True)
    if len(names) < _FEWEST_SUBJECTS:
        raise DataError(
            f"The out-of-distribution detector needs at least {_FEWEST_SUBJECTS} subjects to set its threshold; "
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
    """Fit mean, axes and variances to embeddings (cells, channels) by maximum likelihood with shrinkage."""
    from sklearn.decomposition import PCA  # needed only for fitting

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
    """Yield masks (cells,) of held-out cells: each subject once, with all of its cells."""
    count = int(subject.max()) + 1
    fold = np.random.default_rng(seed).permutation(count) % min(_FOLDS, count)
    for number in np.unique(fold):
        yield fold[subject] == number


def _threshold(distances: Floats, subject: NDArray[np.intp], *, rate: float) -> float:
    """Return the distance that a share `rate` of the cells exceeds, subjects weighted equally."""
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
    """Fit a conformal rule to calibrated out-of-fold probabilities (cells, classes).

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
        raise ConfigError(f"alpha = {alpha}: choose a share of wrong decisions between 0 and 0.5, such as 0.1.")
    if chances.ndim != 2 or not len(chances) == len(classes) == len(subjects) > 0:
        raise DataError(
            f"Conformal prediction needs one label and one subject per row of probabilities; there are "
            f"{len(classes)} labels, {len(subjects)} subjects and probabilities of shape {chances.shape}."
        )


def _smallest_plausible(chances: Floats, owners: NDArray[Any], *, alpha: float) -> float | None:
    """Return the largest threshold with at most a share alpha of the weight below it, including that of a new owner.

    None: there are so few owners that the weight of a new one exceeds alpha, so that any probability is plausible.
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
    """Measure a rule on labelled cells that it was not fitted to, by class, subjects weighted equally.

    probabilities: calibrated, (cells, classes). Only classes that occur are in the result.

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
    """The rules that a bundle contains; an absent rule refuses nothing."""

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
