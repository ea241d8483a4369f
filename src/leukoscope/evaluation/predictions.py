"""Predictions of a run: read, refused where they cannot be evaluated, and calibrated on validation cells alone.

A fold has few validation subjects, and a threshold set on two or three of them is a matter of luck. So it borrows the
validation cells of the other folds as well, scored by their own networks, but for subjects that it is tested on.

A temperature divides the logits before the softmax: it moves probabilities, not their order (Guo et al. 2017,
doi 10.48550/arXiv.1706.04599). A threshold on the probability of the disease turns it into a decision.
"""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ..config import OPERATING_POINTS
from ..data.cells import Cell
from ..data.split import SplitPlan, group_of_subject
from ..errors import DataError, SplitError, UnknownNameError
from ..files import Row, read_csv
from .metrics import Floats, Ints

COLUMNS = ("path", "label", "subject", "group", "fold", "set")
SETS = ("validation", "test")
_PREFIX = "prob_"
_SUM_TOLERANCE = 1e-3  # half-precision softmax is off by up to this


@dataclass(frozen=True)
class Predictions:
    """Every validation and test cell of every fold with its raw probabilities; one entry per row of the file."""

    classes: tuple[str, ...]
    path: NDArray[np.str_]
    label: Ints  # index into classes
    subject: NDArray[np.str_]
    group: NDArray[np.str_]
    part: NDArray[np.str_]
    source: NDArray[np.str_]
    fold: Ints
    test: NDArray[np.bool_]  # False: a validation cell
    probabilities: Floats  # (rows, classes); raw, before any temperature

    def __len__(self) -> int:
        return len(self.path)

    @property
    def folds(self) -> list[int]:
        """Return the numbers of the folds that have test cells."""
        return sorted(int(fold) for fold in np.unique(self.fold[self.test]))

    @property
    def binary(self) -> bool:
        """Tell whether there are two classes, the second of which is the disease."""
        return len(self.classes) == 2

    def pick(self, rows: NDArray[np.bool_] | Ints) -> "Predictions":
        """Return only these rows."""
        names = ("path", "label", "subject", "group", "part", "source", "fold", "test", "probabilities")
        return Predictions(self.classes, *(getattr(self, name)[rows] for name in names))


def read_predictions(path: Path, *, positive: str = "", leaky: bool = False) -> Predictions:
    """Read predictions.csv; with two classes, `positive` (default: the last column's class) becomes index 1.

    Raises:
        DataError: a column is missing, a label is unknown, a probability is impossible, a cell is tested twice.
        SplitError: a subject group is in validation and test of one fold although the split is not leaky.
    """
    rows = read_csv(path, required=COLUMNS)
    classes = _classes(path, rows, positive=positive)
    predictions = Predictions(
        classes=classes,
        path=_column(rows, "path"),
        label=_labels(path, rows, classes),
        subject=_column(rows, "subject"),
        group=_column(rows, "group"),
        part=_column(rows, "part"),
        source=_column(rows, "source"),
        fold=_folds(path, rows),
        test=_tests(path, rows),
        probabilities=_probabilities(path, rows, classes),
    )
    _check_test_cells(path, predictions)
    if not leaky:
        _check_groups(path, predictions)
    return predictions


def _classes(path: Path, rows: list[Row], *, positive: str) -> tuple[str, ...]:
    if not rows:
        raise DataError(f"{path} has no predictions. Run leukoscope train again.")
    classes = tuple(name.removeprefix(_PREFIX) for name in rows[0] if name.startswith(_PREFIX))
    if len(classes) < 2:
        raise DataError(
            f"{path} needs a column {_PREFIX}<class> for each of two or more classes; it has: {', '.join(rows[0])}."
        )
    if positive and positive not in classes:
        raise UnknownNameError("class in evaluate.positive", positive, classes)
    if positive and len(classes) == 2:
        classes = (*(name for name in classes if name != positive), positive)
    return classes


def _column(rows: list[Row], name: str) -> NDArray[np.str_]:
    return np.array([row.get(name, "") for row in rows], dtype=np.str_)


def _labels(path: Path, rows: list[Row], classes: tuple[str, ...]) -> Ints:
    index = {name: number for number, name in enumerate(classes)}
    for line, row in enumerate(rows, start=2):
        if row["label"] not in index:
            raise DataError(
                f"{path}, line {line}: the label '{row['label']}' is not among the classes {', '.join(classes)}. "
                "Only labelled cells of these classes can be evaluated."
            )
        if not row["group"]:
            raise DataError(f"{path}, line {line}: the group is empty. Run leukoscope train again.")
    return np.array([index[row["label"]] for row in rows], dtype=np.int64)


def _folds(path: Path, rows: list[Row]) -> Ints:
    for line, row in enumerate(rows, start=2):
        if not row["fold"].isdecimal():
            raise DataError(f"{path}, line {line}: the fold '{row['fold']}' is not a number from 0 up.")
    return np.array([int(row["fold"]) for row in rows], dtype=np.int64)


def _tests(path: Path, rows: list[Row]) -> NDArray[np.bool_]:
    for line, row in enumerate(rows, start=2):
        if row["set"] not in SETS:
            raise DataError(f"{path}, line {line}: the set '{row['set']}' is neither {' nor '.join(SETS)}.")
    return np.array([row["set"] == "test" for row in rows])


def _probabilities(path: Path, rows: list[Row], classes: tuple[str, ...]) -> Floats:
    names = [_PREFIX + name for name in classes]
    try:
        values = np.array([[float(row[name]) for name in names] for row in rows])
    except ValueError as broken:
        raise DataError(f"{path}: a probability is not a number ({broken}). Run leukoscope train again.") from None
    sums = values.sum(1)
    bad = ~(np.isfinite(values) & (values >= 0) & (values <= 1)).all(1) | ~(np.abs(sums - 1) <= _SUM_TOLERANCE)
    if bad.any():
        first, count = int(np.argmax(bad)), int(bad.sum())
        shown = ", ".join(f"{value:.4g}" for value in values[first])
        raise DataError(
            f"{path}, line {first + 2}: {shown} are not probabilities of {', '.join(classes)} that sum to one "
            f"({count} such row{'s' * (count > 1)}). Run leukoscope train again."
        )
    return np.asarray(values / sums[:, None])


def _check_test_cells(path: Path, predictions: Predictions) -> None:
    tested = Counter(predictions.path[predictions.test].tolist())
    if not tested:
        raise DataError(f"{path} has no test cells (set = test). Check split.json, then run leukoscope train again.")
    name, times = tested.most_common(1)[0]
    if times > 1:
        raise DataError(f"{path}: the cell {name} is tested {times} times. Every cell is tested once.")


def _check_groups(path: Path, predictions: Predictions) -> None:
    for fold in predictions.folds:
        here = predictions.fold == fold
        tested = set(predictions.group[here & predictions.test].tolist())
        both = sorted(tested & set(predictions.group[here & ~predictions.test].tolist()))
        if both:
            raise SplitError(
                f"Subject group {', '.join(both[:5])} is in validation and test of fold {fold} in {path}. "
                "Run leukoscope data split again, then train."
            )


def rows_of(path: Path, predictions: Predictions, *, cells: list[Cell], plan: SplitPlan) -> Ints:
    """Return the row in cells.csv of each prediction, once both tables agree on it.

    path: of predictions.csv, in the folder that its image paths start from.

    Raises:
        DataError: a predicted cell is unknown, differs from cells.csv or split.json, is there twice, or is missing.
    """
    rows = _places(path, predictions, cells)
    _check_folds(path, predictions, plan)
    sets = np.array([plan.sets(cells, fold=fold) for fold in range(len(plan.folds))])
    _check_facts(path, predictions, stated=_facts(predictions), known=_known(cells, plan, sets, predictions.fold, rows))
    _check_complete(path, predictions, rows=rows, cells=cells, sets=sets)
    return rows


def _places(path: Path, predictions: Predictions, cells: list[Cell]) -> Ints:
    folder = path.parent.resolve()
    place = {str(cell.path): row for row, cell in enumerate(cells)}
    found = [place.get(os.path.normpath(folder / image), -1) for image in predictions.path.tolist()]
    if -1 in found:
        raise DataError(f"{path}: {predictions.path[found.index(-1)]} is not in cells.csv. {_again(path)}")
    return np.array(found, dtype=np.int64)


def _check_folds(path: Path, predictions: Predictions, plan: SplitPlan) -> None:
    last = int(predictions.fold.max())
    if last >= len(plan.folds):
        raise DataError(f"{path} has fold {last}, but split.json has {len(plan.folds)}. {_again(path)}")


Facts = dict[str, NDArray[np.str_]]


def _facts(predictions: Predictions) -> Facts:
    names = ("subject", "group", "part", "source")
    facts = {"label": np.array(predictions.classes)[predictions.label]}
    facts |= {name: getattr(predictions, name) for name in names}
    return facts | {"set": np.where(predictions.test, "test", "validation")}


def _known(cells: list[Cell], plan: SplitPlan, sets: NDArray[np.str_], fold: Ints, rows: Ints) -> Facts:
    group = group_of_subject(plan.groups)
    facts = {name: np.array([getattr(cell, name) for cell in cells]) for name in ("label", "subject", "part", "source")}
    facts["group"] = np.array([group[cell.subject] for cell in cells])
    return {name: values[rows] for name, values in facts.items()} | {"set": sets[fold, rows]}


def _check_facts(path: Path, predictions: Predictions, *, stated: Facts, known: Facts) -> None:
    differs = {name: stated[name] != known[name] for name in stated}
    wrong = np.any(list(differs.values()), axis=0)
    if not wrong.any():
        return
    first, count = int(np.argmax(wrong)), int(wrong.sum())
    name = next(name for name in stated if differs[name][first])
    owner = "split.json" if name in ("group", "set") else "cells.csv"
    raise DataError(
        f"{path}, line {first + 2}: the {name} of {predictions.path[first]} in fold {predictions.fold[first]} is "
        f"'{stated[name][first]}', but '{known[name][first]}' in {owner} ({count} such row{'s' * (count > 1)}). "
        f"{_again(path)}"
    )


def _check_complete(
    path: Path, predictions: Predictions, *, rows: Ints, cells: list[Cell], sets: NDArray[np.str_]
) -> None:
    """Raise DataError where a validation or test cell of a fold has no prediction, or more than one."""
    times = np.zeros(sets.shape, dtype=np.int64)
    np.add.at(times, (predictions.fold, rows), 1)
    double = np.flatnonzero(times[predictions.fold, rows] > 1)
    if len(double):
        first = double[0]
        raise DataError(
            f"{path}, line {first + 2}: {predictions.path[first]} is listed more than once in fold "
            f"{predictions.fold[first]}. {_again(path)}"
        )
    missing = np.argwhere(np.isin(sets, SETS) & (times == 0))
    if len(missing):
        fold, row = missing[0]
        raise DataError(
            f"{path} lacks {len(missing)} predictions, the first of them of {cells[row].name} "
            f"({sets[fold, row]}, fold {fold}). {_again(path)}"
        )


def _again(path: Path) -> str:
    run = path.parent
    return (
        f"Run leukoscope train {run} --resume; if this stays, delete predictions.csv in {run} and in its fold folders "
        "first."
    )


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
        return f"The temperature is at its lowest allowed value, {low}: the validation cells are separated perfectly."
    if temperature >= high * 0.99:
        return f"The temperature is at its highest allowed value, {high}: the probabilities are uninformative here."
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
