"""The true share of blasts behind the share that an imperfect model calls, with an interval that knows its subjects.

Estimate: Rogan and Gladen 1978, doi 10.1093/oxfordjournals.aje.a112510. Its usual interval takes sensitivity and
specificity as the same for everybody. They are not: a model may find 95 of 100 blasts of one patient and 40 of
another. So the interval draws the sensitivity and specificity of a new subject from how they differ between the
subjects that the model was tested on, and the share of called cells from its own uncertainty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest, SubjectFigures

Floats = NDArray[np.float64]
DRAWS = 4000
LEVEL = 0.95
_SURE = 1e-9  # a spread between subjects below this is none
_MOST_CORRELATED = 0.99  # cells of one subject are never assumed to be identical
_NO_BETTER = 1e-6  # sensitivity + specificity - 1 of a model that calls blasts and normal cells equally often blasts


NOT_KNOWN = "not known yet"
FEWEST = 20  # cells below which no percentage is shown, here and in a differential
WIDEST = 0.5  # width of an interval above which no share is shown: it leaves more than half of all shares possible


def why_not_known(low: float | None, high: float | None, *, cells: int) -> str:
    """Return why a share must not be shown beside its interval, in words; empty where it may be.

    This is the one rule for every share of the disease that is shown: page, report, terminal and what is sent. Where it
    says why, NOT_KNOWN is shown, with the interval and the number of cells beside it.

    low, high: from 0 to 1; None where no interval was found. cells: those that the share is of.

    >>> why_not_known(0.18, 1.0, cells=2)
    'A share needs at least 20 cells.'
    >>> why_not_known(0.2, 0.9, cells=400)
    'The interval is wider than half of all.'
    >>> why_not_known(0.2, 0.6, cells=400)
    ''
    """
    if cells < FEWEST:
        return f"A share needs at least {FEWEST} cells."
    if low is None or high is None or high - low > WIDEST:
        return f"The interval is {'not known' if low is None or high is None else 'wider than half of all'}."
    return ""


def is_known(share: Mapping[str, float | None], *, cells: int) -> bool:
    """Tell whether a share {"value", "low", "high"} of so many cells may be shown."""
    return share["value"] is not None and not why_not_known(share["low"], share["high"], cells=cells)


def share_in_words(share: Mapping[str, float | None], *, cells: int) -> str:
    """Return a share {"value", "low", "high"} of so many cells in per cent with its interval, or that it is not known.

    >>> share_in_words({"value": 0.5, "low": 0.351, "high": 0.649}, cells=40)
    '50 % (35 to 65)'
    >>> share_in_words({"value": 1.0, "low": 0.18, "high": 1.0}, cells=2)
    'not known yet (18 to 100)'
    >>> share_in_words({"value": None, "low": None, "high": None}, cells=0)
    'not known yet'
    """
    value, low, high = share["value"], share["low"], share["high"]
    text = f"{100 * value:.0f} %" if value is not None and is_known(share, cells=cells) else NOT_KNOWN
    return text if low is None or high is None else f"{text} ({100 * low:.0f} to {100 * high:.0f})"


def rogan_gladen(apparent: float, sensitivity: float, specificity: float) -> float | None:
    """Return the true share behind an apparent one, from 0 to 1; None when the model is no better than guessing.

    >>> round(rogan_gladen(23 / 150, 0.96, 0.89), 3)
    0.051
    """
    gain = sensitivity + specificity - 1
    if gain <= _NO_BETTER:
        return None
    return min(1.0, max(0.0, (apparent + specificity - 1) / gain))


@dataclass(frozen=True)
class Accuracy:
    """Sensitivity and specificity of a model, and draws of what they may be for a new subject."""

    sensitivity: float
    specificity: float
    drawn_sensitivity: Floats
    drawn_specificity: Floats

    def share(self, called: int, *, cells: int, rng: np.random.Generator) -> dict[str, float | None]:
        """Return value, low and high of the share of diseased cells when `called` of `cells` are called diseased.

        The value is None when the model is no better than guessing; the interval is then 0 to 1.
        """
        if cells == 0:
            return {"value": None, "low": None, "high": None}
        value = rogan_gladen(called / cells, self.sensitivity, self.specificity)
        least, most = self.drawn(called, cells=cells, rng=rng)
        tail = (1 - LEVEL) / 2
        low, high = float(np.quantile(least, tail)), float(np.quantile(most, 1 - tail))
        if value is None:
            return {"value": None, "low": 0.0, "high": 1.0}
        return {"value": value, "low": min(low, value), "high": max(high, value)}

    def drawn(self, called: int, *, cells: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw the least and the most that the share of diseased cells may be (draws,).

        A draw in which the model is no better than guessing allows every share from 0 to 1.
        """
        apparent = rng.beta(called + 0.5, cells - called + 0.5, size=len(self.drawn_sensitivity))
        gain = self.drawn_sensitivity + self.drawn_specificity - 1
        useless = gain <= _NO_BETTER
        shares = np.clip((apparent + self.drawn_specificity - 1) / np.where(useless, 1.0, gain), 0, 1)
        return np.where(useless, 0.0, shares), np.where(useless, 1.0, shares)


def accuracy_of(manifest: Manifest, point: str, *, seed: int = 0) -> Accuracy | None:
    """Return how well a bundle does at an operating point; None if it was tested on too few subjects.

    Two subject groups of each class are the least from which a spread can be seen.
    """
    rng = np.random.default_rng(seed)
    diseased, normal = (
        [each for each in manifest.subjects if (each.label == manifest.positive) is positive]
        for positive in (True, False)
    )
    if not manifest.positive or min(len(diseased), len(normal)) < 2:
        return None
    found, cells = _counts(diseased, point)
    false, others = _counts(normal, point)
    spared = others - false
    return Accuracy(
        float(found.sum() / cells.sum()),
        float(spared.sum() / others.sum()),
        draw_rates(found, cells, rng=rng),
        draw_rates(spared, others, rng=rng),
    )


def draw_rates(right: Floats, cells: Floats, *, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
    """Draw the rate at which a new subject's cells are classified correctly, from counts per known subject (subjects,).

    Each draw resamples the subjects with replacement, estimates mean and spread between them (the analysis-of-
    variance estimator of the intraclass correlation: Ridout et al. 1999, doi 10.1111/j.0006-341X.1999.00137.x), and
    draws one rate from the beta distribution with that mean and spread. Chance within a subject is thus not
    mistaken for a difference between subjects. A spread seen in few subjects is itself uncertain: it is drawn as a
    variance with so many degrees of freedom is (without this, 95 % intervals hold 88 % with 8 subjects, 93 % with 20).
    """
    subjects = len(cells)
    picks = rng.integers(subjects, size=(draws, subjects))
    right, cells = right[picks], cells[picks]  # (draws, subjects)
    total = cells.sum(1)
    mean = (right.sum(1) + 0.5) / (total + 1)
    freedom = subjects - 1
    uncertain = subjects / rng.chisquare(freedom, size=draws)  # resampling alone makes variances too small by (n-1)/n
    spread = np.minimum(_intraclass_correlation(right, cells) * uncertain, _MOST_CORRELATED)
    some = spread > _SURE
    strength = (1 - spread[some]) / spread[some]
    rates = mean.copy()
    rates[some] = rng.beta(mean[some] * strength, (1 - mean[some]) * strength)
    return np.asarray(rates)


def _intraclass_correlation(right: Floats, cells: Floats) -> Floats:
    """Return the intraclass correlation of cells of one subject, in [0, 1), for counts (draws, subjects)."""
    subjects, total = cells.shape[1], cells.sum(1)
    squares = (right**2 / cells).sum(1)
    between = (squares - right.sum(1) ** 2 / total) / (subjects - 1)
    within = (right.sum(1) - squares) / np.maximum(total - subjects, 1)
    size = (total - (cells**2).sum(1) / total) / (subjects - 1)
    spread = between + (size - 1) * within
    correlation = np.divide(between - within, spread, out=np.zeros_like(spread), where=spread > 0)
    return np.asarray(np.clip(correlation, 0, _MOST_CORRELATED))


def _counts(figures: Sequence[SubjectFigures], point: str) -> tuple[Floats, Floats]:
    called = np.array([each.called[point] for each in figures], dtype=float)
    return called, np.array([each.cells for each in figures], dtype=float)
