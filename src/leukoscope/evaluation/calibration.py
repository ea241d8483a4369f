"""Temperature and thresholds of each fold, learned from validation cells and from nothing else.

A fold has few validation subjects, and a threshold set on two or three of them is a matter of luck. So it borrows the
validation cells of the other folds as well, scored by their own networks, but for subjects that it is tested on.

A temperature divides the logits before the softmax: it moves probabilities, not their order (Guo et al. 2017,
doi 10.48550/arXiv.1706.04599). A threshold on the probability of the disease turns it into a decision.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ..config import OPERATING_POINTS
from .metrics import Floats, Ints
from .predictions import Predictions

HIGH = 0.95  # sensitivity, or specificity, that the one-sided operating points keep on validation cells
TEMPERATURES = (0.05, 20.0)
_SMALLEST = 1e-9  # predictions.csv holds nine digits


@dataclass(frozen=True)
class Calibration:
    """What one fold learned from validation cells."""

    fold: int
    temperature: float = 1.0
    thresholds: dict[str, float] | None = None  # operating point -> probability of the disease; None: highest wins
    validation_cells: int = 0
    validation_groups: int = 0
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    note: str = ""

    def probabilities(self, raw: Floats) -> Floats:
        """Return calibrated probabilities (cells, classes)."""
        return temper(raw, self.temperature)

    def decide(self, probabilities: Floats, *, point: str = "balanced") -> Ints:
        """Return the decided class of each cell: by threshold, or the most probable without one."""
        if self.thresholds is None:
            return np.asarray(probabilities.argmax(1), dtype=np.int64)
        return (probabilities[:, 1] >= self.thresholds[point]).astype(np.int64)


def calibrate(predictions: Predictions) -> dict[int, Calibration]:
    """Learn temperature and thresholds of every fold from validation cells of other subjects than it is tested on."""
    return {fold: _calibrate_fold(predictions, fold) for fold in predictions.folds}


def _calibrate_fold(predictions: Predictions, fold: int) -> Calibration:
    own = predictions.fold == fold
    strangers = ~np.isin(predictions.group, predictions.group[own & predictions.test])
    rows = predictions.pick(~predictions.test & (own | strangers))
    plain = dict.fromkeys(OPERATING_POINTS, 0.5) if predictions.binary else None
    missing = [name for number, name in enumerate(rows.classes) if not (rows.label == number).any()]
    if missing:
        return Calibration(fold, thresholds=plain, note=_fallback_note(rows, missing))
    temperature = fit_temperature(rows.label, rows.probabilities)
    calibrated = temper(rows.probabilities, temperature)
    return Calibration(
        fold,
        temperature=temperature,
        thresholds=fit_thresholds(rows.label, calibrated[:, 1]) if predictions.binary else None,
        validation_cells=len(rows),
        validation_groups=len(np.unique(rows.group)),
        log_loss_before=round(log_loss(rows.label, rows.probabilities), 6),
        log_loss_after=round(log_loss(rows.label, calibrated), 6),
        note=_bound_note(temperature),
    )


def _fallback_note(rows: Predictions, missing: list[str]) -> str:
    what = (
        f"no {' and no '.join(missing)} among its {len(rows)} validation cells" if len(rows) else "no validation cells"
    )
    threshold = " and the threshold 0.5" if rows.binary else ""
    return f"Not calibrated: {what}. The temperature is 1{threshold}."


def _bound_note(temperature: float) -> str:
    low, high = TEMPERATURES
    if temperature <= low * 1.01:
        return (
            f"The temperature stands at its lowest allowed value, {low}: the validation cells are told apart perfectly."
        )
    if temperature >= high * 0.99:
        return f"The temperature stands at its highest allowed value, {high}: the probabilities say nothing here."
    return ""


def temper(probabilities: ArrayLike, temperature: float) -> Floats:
    """Divide the logits of probabilities (cells, classes) by the temperature: above 1 means less sure.

    >>> temper([[0.1, 0.9]], 2.0).round(2).tolist()
    [[0.25, 0.75]]
    """
    logits = np.log(np.clip(np.asarray(probabilities, dtype=float), _SMALLEST, 1))
    return np.asarray(softmax(logits / temperature, axis=1))


def log_loss(labels: Ints, probabilities: Floats) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    >>> round(log_loss(np.array([1]), np.array([[0.5, 0.5]])), 4)
    0.6931
    """
    chosen = np.clip(probabilities[np.arange(len(labels)), labels], _SMALLEST, 1)
    return float(-np.log(chosen).mean())


def fit_temperature(labels: Ints, probabilities: Floats) -> float:
    """Return the temperature between 0.05 and 20 that makes the labels most likely.

    >>> fit_temperature(np.array([0, 1, 1, 1]), np.array([[0.1, 0.9]] * 4)).__round__(2)
    2.0
    """
    logits = np.log(np.clip(probabilities, _SMALLEST, 1))
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5}).x))


def fit_thresholds(labels: Ints, scores: Floats) -> dict[str, float]:
    """Return one threshold per operating point from validation scores (cells,) of the disease.

    balanced: highest balanced accuracy (Youden's J). high_sensitivity: the highest threshold that still finds 95 %
    of the disease, but none above the balanced one. high_specificity: the lowest threshold that still leaves 95 % of
    the normal cells alone, but none below the balanced one. So no cell is called the disease at a stricter point and
    spared at a more sensitive one.

    >>> fit_thresholds(np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.5, 0.9]))["balanced"]
    0.4
    """
    cuts = _cuts(scores)
    found = 1 - np.searchsorted(np.sort(scores[labels == 1]), cuts) / max(1, (labels == 1).sum())
    spared = np.searchsorted(np.sort(scores[labels == 0]), cuts) / max(1, (labels == 0).sum())
    best = np.flatnonzero(np.isclose(found + spared, (found + spared).max()))
    balanced = cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]]  # of equally good cuts the one nearest to 0.5
    return {
        "balanced": round(float(balanced), 9),
        "high_sensitivity": round(float(min(cuts[found >= HIGH].max(), balanced)), 9),
        "high_specificity": round(float(max(cuts[spared >= HIGH].min(), balanced)), 9),
    }


def _cuts(scores: Floats) -> Floats:
    """Return thresholds between neighbouring scores, and one on either side of them all."""
    distinct = np.unique(scores)
    return np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2, [np.nextafter(1.0, 2.0)]])


def calibration_table(calibrations: dict[int, Calibration], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of calibration.json."""
    return {
        "format": 1,
        "classes": list(classes),
        "positive": classes[1] if len(classes) == 2 else "",
        "learned_from": "validation cells of all folds, but for subjects that the fold is tested on",
        "kept": HIGH,
        "folds": [asdict(calibration) for calibration in calibrations.values()],
    }
