"""When to say 'unsure': conformal prediction per class, with subjects, not cells, as the unit that is exchangeable.

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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import Bundle
from ..errors import ConfigError, DataError
from ..images.read import RGB

if TYPE_CHECKING:
    from .quality import Quality


Floats = NDArray[np.float64]
Fitted = dict[str, Any]
"""Plain values for bundle.json: alpha, unit, and per class the smallest plausible probability, cells, subjects."""

UNSURE = -1
_FORMAT = 1
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


def plausible_classes(probabilities: ArrayLike, fitted: Fitted) -> NDArray[np.bool_]:
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
            from .out_of_distribution import FILE, read_detector

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
        from .out_of_distribution import why_far

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
