"""When to refuse and when to be unsure: distance from what was learnt, and conformal prediction per class.

The distance is Mahalanobis' under the covariance of probabilistic principal component analysis: along the first
components the spread of the training cells, in every other direction one common spread. A photograph or a smear field
leaves mostly in those other directions, which hold hardly any of the training cells' variance. Source: Tipping &
Bishop 1999, doi 10.1111/1467-9868.00196; Lee et al. 2018, doi 10.48550/arXiv.1807.03888.

`benchmarks/out_of_distribution.py` compares it with nearest neighbours and prints what is refused of everything
foreign.

A cell is decided only when a single class is plausible, so to be decided wrongly its true class must have been found
implausible. That is what the fit bounds, for each class by itself: at most `alpha` of a class is called another.

Two units, two guarantees:

'subject'  For a new subject drawn like those of the fit, a cell drawn from its cells of a class is called another
           class with a probability of at most alpha. Cells of one subject may be as alike as they wish. Each subject
           weighs the same and its cells share that weight; the new subject's own share counts as the worst possible.
           Source: Lee, Barber & Willett, Distribution-free inference with hierarchical data, 2023,
           doi 10.48550/arXiv.2306.06342 (HCP, section 3); per class as in Vovk 2012, doi 10.1007/s10994-013-5355-6.
           A class needs 1/alpha - 1 subjects or more, otherwise nothing can be promised and no cell is ever called
           another class than this one.
'cell'     The same for a new cell that is exchangeable with those of the fit: true when it comes from the same
           subjects, false for a new subject. For comparison only.

The promise is an average over new subjects, not for each of them; it ends where new subjects are not like those of
the fit (another hospital, stain or microscope). Fitted on out-of-fold probabilities of cross-validation and used with
the networks of all folds together, it is the cross-conformal method: close to the same, but without its guarantee.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import Bundle
from ..errors import BundleError, ConfigError, DataError
from ..images.read import RGB
from ..progress import blas_threads, processors

if TYPE_CHECKING:
    from .quality import Quality


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
        if len(offset) == 1:  # not by `@`: BLAS would take threads for it, which wait longer than this takes
            along = np.einsum("pc,kc->pk", offset, self.axes, dtype=np.float64)
        else:
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


def read_detector(table: Mapping[str, Any], content: bytes) -> Detector:
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
    if not (all(np.isfinite(each).all() for each in arrays.values()) and (space.spread > 0).all()):
        raise BundleError(f"{FILE} holds numbers that are none, or spreads below 0. Export the bundle again.")
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
    with blas_threads(processors()):
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


Fitted = dict[str, Any]
"""Plain values for bundle.json: alpha, unit, and per class the smallest plausible probability, cells, subjects."""

UNSURE = -1
_ROUNDING = 1e-9  # bundle.json and predictions.csv hold nine digits; a tie must not fall to the wrong side


def fit_conformal(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    alpha: float = 0.1,
    unit: Literal["subject", "cell"] = "subject",
) -> Fitted:
    """Learn from calibrated probabilities (cells, classes) of cells that the model has not learned from.

    labels: class index of each cell; groups: its subject group.

    Raises:
        ConfigError: alpha is not between 0 and 0.5.
        DataError: there are no cells, or the arrays do not belong together.
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
    return {
        "format": _FORMAT,
        "alpha": alpha,
        "unit": unit,
        "smallest_plausible": plausible,
        "cells": cells,
        "subjects": counts,
        "guarantee": _guarantee(alpha, unit, plausible),
    }


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
    said = f"Of each class at most {alpha:.0%} of the cells are called another class, for {whose}."
    if None in plausible:
        needed = int(np.ceil(1 / alpha - 1 - _ROUNDING))
        said += f" A class with fewer than {needed} subjects in the fit is never ruled out."
    return said


def plausible_classes(probabilities: ArrayLike, fitted: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which classes are plausible for calibrated probabilities (cells, classes), in the same shape."""
    smallest = np.array([0.0 if value is None else value for value in fitted["smallest_plausible"]])
    return np.asarray(np.asarray(probabilities, dtype=float) >= smallest)


def decide(probabilities: ArrayLike, fitted: Fitted) -> NDArray[np.int64]:
    """Return the only plausible class of each cell, or UNSURE where none or several are.

    >>> fitted = {"smallest_plausible": [0.3, 0.2]}
    >>> decide([[0.9, 0.1], [0.5, 0.5], [0.25, 0.75]], fitted).tolist()
    [0, -1, 1]
    """
    plausible = plausible_classes(probabilities, fitted)
    return np.where(plausible.sum(1) == 1, plausible.argmax(1), UNSURE).astype(np.int64)


def reached(
    fitted: Fitted, probabilities: ArrayLike, labels: ArrayLike, groups: ArrayLike, *, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return what a rule comes to on labelled cells that it was not fitted on, by class, subjects weighted equally.

    probabilities: calibrated, (cells, classes). Keys of each class that occurs: `called_another` and `decided`, both
    shares from 0 to 1 and means over subject groups, `subjects` and `cells`.

    >>> rule = {"smallest_plausible": [0.3, 0.2]}
    >>> reached(rule, [[0.9, 0.1], [0.1, 0.9]], [0, 0], ["a", "b"], classes=["hem", "all"])["hem"]["called_another"]
    0.5
    """
    said, true, subjects = decide(probabilities, fitted), np.asarray(labels), np.asarray(groups)
    table = {}
    for index, name in enumerate(classes):
        own = true == index
        if not own.any():
            continue
        _, owner, sizes = np.unique(subjects[own], return_inverse=True, return_counts=True)
        decided = said[own] != UNSURE
        shares = (np.bincount(owner, each) / sizes for each in (decided & (said[own] != index), decided))
        wrong, sure = (round(float(each.mean()), 6) for each in shares)
        table[name] = {"called_another": wrong, "decided": sure, "subjects": len(sizes), "cells": int(own.sum())}
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

    def of_picture(self, image: RGB) -> "Quality | None":
        """Return the quality of a source image; None where the bundle has no limits for it."""
        if not self._limits:
            return None
        from .quality import judge, measure  # SciPy: only for bundles that need it

        return judge(measure(image), self._limits, pictures=self._pictures)

    def of_cell(self, embedding: NDArray[np.float32]) -> str:
        """Return why a cell with this embedding (channels,) is too unlike the training cells, or ''."""
        if self._detector is None:
            return ""

        return why_far(float(self._detector.distances(embedding[None])[0]))

    def of_decision(self, probabilities: Floats, *, called: int) -> str:
        """Return why a cell with these probabilities (classes,) must not be called this class, or ''.

        The conformal rule must find this class plausible and no other: then its promise holds at every operating
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
