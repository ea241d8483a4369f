"""One run, evaluated: predictions.csv becomes calibration.json and metrics.json."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import Experiment
from ..data.audit import read_traits
from ..data.cells import Cell, read_cells
from ..data.split import SplitPlan, read_split
from ..errors import UnknownNameError
from ..files import read_csv, record_stage, write_json
from .intervals import (
    LEAST,
    METHOD,
    Band,
    Design,
    Jackknife,
    Statistics,
    bootstrap,
    design_of,
    jackknife,
    number,
    plain,
)
from .metrics import BENEFIT_GRID, BINS, CALIBRATION, METRICS, Floats, Ints, confusion, reliability, smooth_grid
from .outcomes import (
    COLUMNS,
    COVERAGE_GRID,
    RATE_GRID,
    RECALL_GRID,
    SUBJECT_METRICS,
    Outcome,
    class_shares,
    features_of,
    label_statistics,
    majority,
    measure,
    measure_classes,
    measure_curves,
    measure_points,
    measure_probabilities,
    measure_subjects,
    outcome_of,
    probe,
    subgroup_notes,
    subgroups,
    subjects_of,
)
from .predictions import Calibration, Predictions, calibrate, calibration_table, read_predictions, rows_of
from .results import CurveByClass, Curves, Figures, FoldRow, Metrics, Subgroup, SubjectRow, TestedCells
from .verdict import verdict

_CONSTANTS = frozenset({"majority"})


@dataclass(frozen=True)
class Evidence:
    """A run's predictions with the cells and the split that they belong to."""

    predictions: Predictions
    calibrations: dict[int, Calibration]
    cells: list[Cell]
    plan: SplitPlan
    rows: Ints  # the cell of each prediction

    @property
    def labels(self) -> Ints:
        """Return the class of each cell, -1 where it has none of the classes."""
        index = {name: number for number, name in enumerate(self.predictions.classes)}
        return np.array([index.get(cell.label, -1) for cell in self.cells], dtype=np.int64)

    def train(self) -> dict[int, Ints]:
        """Return the training cells of each fold."""
        return {
            fold: np.flatnonzero((self.plan.sets(self.cells, fold=fold) == "train") & (self.labels >= 0))
            for fold in self.predictions.folds
        }


def evaluate(run: Path, *, by: Sequence[str] = ()) -> Metrics:
    """Calibrate on validation cells, measure on test cells, and write calibration.json and metrics.json.

    The test cells of all folds are pooled, each calibrated and decided by its own fold. Every figure is given twice:
    with equal weight for every subject group (the headline), and per cell.

    by: columns of cells.csv whose values are shown as subgroups; none: those of the settings, and those kept in the
        index.

    Raises:
        DataError: a file is missing or cannot be evaluated.
        SplitError: the split leaks.
        UnknownNameError: cells.csv has no such column.
    """
    started = time.perf_counter()
    settings = experiment_of(run)
    evidence = gather(run, positive=settings.evaluate.positive)
    kept = tuple(name for name, _ in evidence.cells[0].more)
    columns = subgroup_columns(run, evidence, by or (*settings.evaluate.subgroups, *kept), needed=bool(by))
    estimators, notes = _estimators(run, evidence)
    measured = Measured(estimators, evidence.predictions.classes, settings=settings)
    metrics = _metrics(evidence, measured, subgroups(measured.model, columns), notes=notes, settings=settings)
    metrics["notes"] += subgroup_notes(measured.model, columns, requested=bool(by))
    write_json(run / "calibration.json", calibration_table(evidence.calibrations, evidence.predictions.classes))
    write_json(run / "metrics.json", metrics)
    record_stage(run, "evaluate", started=started, seed=settings.seed)
    return metrics


class Measured:
    """Every estimator, measured with equal weight for every subject group and per cell, each group left out in turn."""

    def __init__(self, estimators: dict[str, Outcome], classes: tuple[str, ...], *, settings: Experiment) -> None:
        self.estimators, self.classes, self.model = estimators, classes, estimators["model"]
        design = design_of(self.model.labels, self.model.groups)
        self.grid = smooth_grid(self.model.probabilities[:, 1]) if len(classes) == 2 else None
        self.per_cell = self._weighted(design, np.ones(len(design.share)))
        self.subject_weighted = self._weighted(design.equal_weights(), design.share)
        self.curves = bootstrap(
            lambda weights: measure_curves(self.model, weights / design.share, classes),
            groups=len(design.share),
            cells=len(self.model.labels),
            replicates=settings.evaluate.replicates,
            seed=settings.seed,
        )

    def _weighted(self, design: Design, sizes: Floats) -> Jackknife:
        """sizes: what the weight of each group is divided by, so that its cells share it."""

        def statistic(weights: Floats) -> Statistics:
            values = self._statistic(weights / sizes)
            for name, outcome in self.estimators.items():
                values |= label_statistics(measure_subjects(outcome, weights), name)
            return values

        return jackknife(statistic, design, cells=len(self.model.labels), constants=_CONSTANTS)

    def _statistic(self, weights: Floats) -> Statistics:
        values = measure_classes(self.model, weights, self.classes) | measure_points(self.model, weights)
        values |= measure_probabilities(self.model, weights, grid=self.grid)
        for name, outcome in self.estimators.items():
            values |= label_statistics(measure(outcome, weights), name)
        return values

    def band(self, name: str) -> Band:
        """Return a curve with its band, with equal weight for every subject group."""
        return self.curves.band(name, self.subject_weighted.design)

    def figures(self, found: Jackknife) -> Figures:
        """Return the figures of one weighting: of estimators, of their differences, of classes and thresholds."""
        names = (*METRICS, *SUBJECT_METRICS)
        numbers = {each: {name: found.interval(f"{each}.{name}") for name in names} for each in self.estimators}
        numbers["model"] |= {name: found.interval(name) for name in CALIBRATION if name in found.point}
        support = np.bincount(self.model.labels, minlength=self.model.classes)
        return {
            "estimators": numbers,
            "differences": {
                each: {name: found.difference(f"model.{name}", f"{each}.{name}") for name in names}
                for each in self.estimators
                if each != "model"
            },
            "per_class": {
                name: {
                    "precision": found.interval(f"precision.{name}"),
                    "recall": found.interval(f"recall.{name}"),
                    "f1": found.interval(f"f1.{name}"),
                    "support": int(support[index]),
                }
                for index, name in enumerate(self.classes)
            },
            "operating_points": {
                point: {name: found.interval(f"{point}.{name}") for name in ("sensitivity", "specificity")}
                for point in self.model.at
            },
        }


def experiment_of(run: Path) -> Experiment:
    """Read RUN/config.toml, or the defaults when there is none."""
    path = run / "config.toml"
    return Experiment.read(path if path.exists() else None)


def gather(run: Path, *, positive: str = "") -> Evidence:
    """Read predictions.csv with cells.csv and split.json of a run, and calibrate every fold.

    Raises:
        DataError: predictions.csv does not fit cells.csv and split.json, or is not complete.
    """
    cells = read_cells(run / "cells.csv")
    plan = read_split(run / "split.json", cells)
    predictions = read_predictions(run / "predictions.csv", positive=positive, leaky=plan.leaky)
    rows = rows_of(run / "predictions.csv", predictions, cells=cells, plan=plan)
    return Evidence(predictions, calibrate(predictions), cells, plan, rows)


def _estimators(run: Path, evidence: Evidence) -> tuple[dict[str, Outcome], list[str]]:
    predictions, labels, train = evidence.predictions, evidence.labels, evidence.train()
    model = outcome_of(predictions, evidence.calibrations)
    shares = np.mean([class_shares(labels[rows], classes=model.classes) for rows in train.values()], axis=0)
    estimators = {"model": model, "majority": majority(model, shares)}
    path = run / "traits.csv"
    if not path.exists():
        return estimators, [
            "traits.csv is missing, so the size and colour probes are left out. Run leukoscope data audit."
        ]
    traits = read_traits(path, evidence.cells)
    for name in COLUMNS:
        probed = probe(predictions, features_of(traits, name), rows=evidence.rows, train=train, labels=labels)
        estimators[name] = outcome_of(probed, calibrate(probed))
    return estimators, []


def subgroup_columns(
    run: Path, evidence: Evidence, names: Sequence[str], *, needed: bool
) -> dict[str, NDArray[np.str_]]:
    """Return columns of cells.csv for the test cells: name -> (cells,).

    Raises:
        UnknownNameError: there is no such column, and it is needed.
    """
    rows = read_csv(run / "cells.csv")
    tested = evidence.rows[evidence.predictions.test].tolist()
    unknown = [name for name in names if name not in rows[0]]
    if unknown and needed:
        raise UnknownNameError(f"column of {run / 'cells.csv'}", unknown[0], tuple(rows[0]))
    return {name: np.array([rows[row][name] or "" for row in tested]) for name in names if name not in unknown}


def _metrics(
    evidence: Evidence, measured: Measured, rows: list[Subgroup], *, notes: list[str], settings: Experiment
) -> Metrics:
    predictions, plan, model = evidence.predictions, evidence.plan, measured.model
    subject_weighted, per_cell = measured.figures(measured.subject_weighted), measured.figures(measured.per_cell)
    data = _data(evidence)
    subjects = subject_table(predictions, model)
    notes = [*notes, *(f"Fold {fold}: {each.note}" for fold, each in evidence.calibrations.items() if each.note)]
    return {
        "format": 1,
        "classes": list(predictions.classes),
        "positive": predictions.classes[1] if predictions.binary else "",
        "verdict": verdict(
            classes=predictions.classes,
            model=subject_weighted["estimators"]["model"],
            differences=subject_weighted["differences"],
            one_class=_one_class(evidence, model),
            leaky=plan.leaky,
            synthetic=data["synthetic"],
            groups=data["groups_per_class"],
        ),
        "notes": notes,
        "data": data,
        "split": {"scheme": plan.scheme, "folds": len(plan.folds), "leaky": plan.leaky, "hash": plan.hash},
        "headline": "subject_weighted",
        "subject_weighted": subject_weighted,
        **per_cell,
        "confusion": {
            "labels": list(predictions.classes),
            "matrix": confusion(model.labels, model.predicted, classes=model.classes).astype(int).tolist(),
        },
        "subjects": subjects,
        "worst_subject": subjects[0]["group"],
        "curves": _curves(evidence, measured),
        "folds": _folds(evidence, model),
        "intervals": {
            "method": METHOD,
            "unit": "subject group",
            "groups": len(measured.per_cell.design.strata),
            "least_per_class": LEAST,
            "replicates": settings.evaluate.replicates,
            "seed": settings.seed,
        },
        "subgroups": rows,
    }


def _data(evidence: Evidence) -> TestedCells:
    test = evidence.predictions.pick(evidence.predictions.test)
    sources = sorted(set(test.source.tolist()))
    return {
        "cells": len(test),
        "subjects": len(np.unique(test.subject)),
        "groups": len(np.unique(test.group)),
        "source": sources,
        "synthetic": "synthetic" in sources,
        "per_class": {name: int((test.label == index).sum()) for index, name in enumerate(test.classes)},
        "groups_per_class": {
            name: len(np.unique(test.group[test.label == index])) for index, name in enumerate(test.classes)
        },
        "fingerprint": evidence.plan.cells,
    }


def _one_class(evidence: Evidence, model: Outcome) -> str:
    """Return in words to which cells the model gives one class, all or those of each fold; else ''."""
    fold = evidence.predictions.fold[evidence.predictions.test]
    decided = {each: np.unique(model.predicted[fold == each]).tolist() for each in evidence.predictions.folds}
    if any(len(classes) > 1 for classes in decided.values()):
        return ""
    name = {each: evidence.predictions.classes[classes[0]] for each, classes in decided.items()}
    if len(set(name.values())) == 1:
        return f"every cell ({next(iter(name.values()))})"
    return f"every cell of a fold ({', '.join(f'{one} in fold {each}' for each, one in name.items())})"


def subject_table(predictions: Predictions, model: Outcome) -> list[SubjectRow]:
    """Return one row per subject group that is tested, the worst first."""
    test = predictions.pick(predictions.test)
    pure = dict(zip(subjects_of(model).code.tolist(), subjects_of(model).predicted.tolist(), strict=True))
    rows = [_subject(test, model, code, decided=pure.get(code)) for code in range(int(model.groups.max()) + 1)]
    return sorted(rows, key=lambda row: (row["accuracy"], -row["cells"], row["group"]))


def _subject(test: Predictions, model: Outcome, code: int, *, decided: int | None) -> SubjectRow:
    here = np.flatnonzero(model.groups == code)
    labels, predicted = model.labels[here], model.predicted[here]
    true = sorted({test.classes[label] for label in labels.tolist()})
    row: SubjectRow = {
        "group": str(test.group[here[0]]),
        "subjects": sorted(set(test.subject[here].tolist())),
        "label": true[0] if len(true) == 1 else "mixed",
        "part": ", ".join(sorted(set(test.part[here].tolist()))),
        "fold": sorted(set(test.fold[here].tolist())),
        "cells": len(here),
        "wrong": int((labels != predicted).sum()),
        "accuracy": number((labels == predicted).mean()),
    }
    if model.classes == 2:
        chances = model.probabilities[here, 1]
        row |= {
            "mean_prob_positive": number(chances.mean()),
            "quartiles_prob_positive": plain(np.quantile(chances, [0.25, 0.5, 0.75])),
            "called": test.classes[decided] if decided is not None else None,
        }
    return row


def _curves(evidence: Evidence, measured: Measured) -> Curves:
    """Return every curve with equal weight for every subject group; the reliability diagram also counts cells."""
    model, found = measured.model, measured.subject_weighted
    classes = evidence.predictions.classes[model.classes == 2 :]
    weights = 1 / np.bincount(model.groups)
    count, chance, _ = reliability(model.labels, model.probabilities, weights=weights, groups=model.groups)
    cells = reliability(model.labels, model.probabilities)[0]
    curves: Curves = {
        "roc": _by_class("roc", classes, measured, grid=RATE_GRID),
        "pr": _by_class("pr", classes, measured, grid=RECALL_GRID),
        "reliability": {
            "edges": _grid(np.linspace(0, 1, BINS + 1)),
            "cells": cells.astype(int).tolist(),
            "mean_probability": plain(np.divide(chance, count, out=np.full(BINS, np.nan), where=count > 0)),
            **measured.band("reliability"),
        },
        "risk_coverage": {"grid": _grid(COVERAGE_GRID), **measured.band("risk_coverage")},
    }
    if measured.grid is not None:
        curves["calibration"] = {"grid": _grid(measured.grid), **found.band("smooth")}
        curves["decision"] = {
            "grid": _grid(BENEFIT_GRID),
            "model": found.band("benefit"),
            "all": found.band("benefit_all"),
            "gain": found.band("benefit_gain"),
        }
    return curves


def _by_class(kind: str, classes: tuple[str, ...], sampled: Measured, *, grid: Floats) -> CurveByClass:
    """Return the curve of the disease, or of every class against the rest."""
    curves = {name: sampled.band(f"{kind}.{name}") for name in classes}
    found: CurveByClass = {"grid": _grid(grid), "classes": curves}
    return {**found, **next(iter(curves.values()))} if len(curves) == 1 else found


def _grid(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values]


def _folds(evidence: Evidence, model: Outcome) -> list[FoldRow]:
    return [_fold(evidence, model, fold) for fold in evidence.predictions.folds]


def _fold(evidence: Evidence, model: Outcome, fold: int) -> FoldRow:
    calibration = evidence.calibrations[fold]
    here = evidence.predictions.fold[evidence.predictions.test] == fold
    thresholds, groups = calibration.thresholds, int(model.groups.max()) + 1
    return {
        "fold": fold,
        "cells": int(here.sum()),
        "groups": len(np.unique(model.groups[here])),
        "temperature": calibration.temperature,
        "threshold": thresholds["balanced"] if thresholds else None,
        "thresholds": thresholds,
        "calibrated": not calibration.note.startswith("Not calibrated"),
        "note": calibration.note,
        "metrics": {
            name: number(values[0]) for name, values in measure(model.pick(here), np.ones((1, groups))).items()
        },
    }
