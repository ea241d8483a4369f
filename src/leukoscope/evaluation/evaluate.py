"""One run, evaluated: predictions.csv becomes calibration.json and metrics.json."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Experiment
from ..data.audit import read_traits
from ..data.cells import Cell, read_cells
from ..data.split import SplitPlan, read_split
from ..files import record_stage, write_json
from .baselines import COLUMNS, class_shares, features_of, label_statistics, majority, probe
from .calibration import Calibration, calibrate, calibration_table
from .intervals import METHOD, Bootstrap, Statistics, bootstrap, number, plain
from .metrics import BINS, METRICS, Floats, Ints, confusion, reliability
from .outcomes import (
    COVERAGE_GRID,
    RATE_GRID,
    RECALL_GRID,
    SUBJECT_METRICS,
    Outcome,
    measure,
    measure_classes,
    measure_curves,
    measure_points,
    measure_subjects,
    outcome_of,
    subjects_of,
)
from .predictions import Predictions, read_predictions, rows_of
from .verdict import verdict

_KINDS = ("precision", "recall", "f1")


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


def evaluate(run: Path) -> dict[str, Any]:
    """Calibrate on validation cells, measure on test cells, and write calibration.json and metrics.json.

    The test cells of all folds are pooled, each calibrated and decided by its own fold.

    Raises:
        DataError: a file is missing or cannot be evaluated.
        SplitError: the split leaks.
    """
    started = time.perf_counter()
    settings = experiment_of(run)
    evidence = gather(run, positive=settings.evaluate.positive)
    estimators, notes = _estimators(run, evidence)
    model = estimators["model"]
    classes = evidence.predictions.classes

    def statistic(weights: Floats) -> Statistics:
        values = measure_classes(model, weights, classes) | measure_points(model, weights)
        values |= measure_curves(model, weights, classes)
        for name, outcome in estimators.items():
            values |= label_statistics(measure(outcome, weights) | measure_subjects(outcome, weights), name)
        return values

    sampled = bootstrap(
        statistic,
        groups=int(model.groups.max()) + 1,
        cells=len(model.labels),
        replicates=settings.evaluate.replicates,
        seed=settings.seed,
    )
    metrics = _metrics(evidence, estimators, sampled, notes=notes, settings=settings)
    write_json(run / "calibration.json", calibration_table(evidence.calibrations, classes))
    write_json(run / "metrics.json", metrics)
    record_stage(run, "evaluate", started=started, seed=settings.seed)
    return metrics


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


def _metrics(
    evidence: Evidence, estimators: dict[str, Outcome], sampled: Bootstrap, *, notes: list[str], settings: Experiment
) -> dict[str, Any]:
    predictions, plan, model = evidence.predictions, evidence.plan, estimators["model"]
    names = (*METRICS, *SUBJECT_METRICS)
    numbers = {each: {name: sampled.interval(f"{each}.{name}") for name in names} for each in estimators}
    differences = {
        each: {name: sampled.difference(f"model.{name}", f"{each}.{name}") for name in names}
        for each in estimators
        if each != "model"
    }
    data = _data(evidence)
    subjects = subject_table(predictions, model)
    notes = [*notes, *(f"Fold {fold}: {each.note}" for fold, each in evidence.calibrations.items() if each.note)]
    return {
        "format": 1,
        "classes": list(predictions.classes),
        "positive": predictions.classes[1] if predictions.binary else "",
        "verdict": verdict(
            classes=predictions.classes,
            model=numbers["model"],
            differences=differences,
            said=_one_class(evidence, model),
            leaky=plan.leaky,
            synthetic=data["synthetic"],
            groups=sampled.groups,
        ),
        "notes": notes,
        "data": data,
        "split": {"scheme": plan.scheme, "folds": len(plan.folds), "leaky": plan.leaky, "hash": plan.hash},
        "estimators": numbers,
        "differences": differences,
        "per_class": _per_class(evidence, model, sampled),
        "operating_points": _operating_points(model, sampled),
        "confusion": {
            "labels": list(predictions.classes),
            "matrix": confusion(model.labels, model.predicted, classes=model.classes).astype(int).tolist(),
        },
        "subjects": subjects,
        "worst_subject": subjects[0]["group"],
        "curves": _curves(evidence, model, sampled),
        "folds": _folds(evidence, model),
        "bootstrap": {
            "replicates": settings.evaluate.replicates,
            "seed": settings.seed,
            "unit": "subject group",
            "interval": METHOD,
            "groups": sampled.groups,
        },
    }


def _data(evidence: Evidence) -> dict[str, Any]:
    test = evidence.predictions.pick(evidence.predictions.test)
    sources = sorted(set(test.source.tolist()))
    return {
        "cells": len(test),
        "subjects": len(np.unique(test.subject)),
        "groups": len(np.unique(test.group)),
        "source": sources,
        "synthetic": "synthetic" in sources,
        "per_class": {name: int((test.label == index).sum()) for index, name in enumerate(test.classes)},
        "fingerprint": evidence.plan.cells,
    }


def _one_class(evidence: Evidence, model: Outcome) -> str:
    """Return the class that is said to every cell of every fold, 'one class' when folds differ, or ''."""
    fold = evidence.predictions.fold[evidence.predictions.test]
    said = [set(model.predicted[fold == each].tolist()) for each in evidence.predictions.folds]
    if any(len(classes) > 1 for classes in said):
        return ""
    all_said = set.union(*said)
    names = [evidence.predictions.classes[index] for index in sorted(all_said)]
    return names[0] if len(names) == 1 else f"{'/'.join(names)}, one class per fold,"


def _per_class(evidence: Evidence, model: Outcome, sampled: Bootstrap) -> dict[str, Any]:
    support = np.bincount(model.labels, minlength=model.classes)
    return {
        name: {kind: sampled.interval(f"{kind}.{name}") for kind in _KINDS} | {"support": int(support[index])}
        for index, name in enumerate(evidence.predictions.classes)
    }


def _operating_points(model: Outcome, sampled: Bootstrap) -> dict[str, Any]:
    return {
        point: {name: sampled.interval(f"{point}.{name}") for name in ("sensitivity", "specificity")}
        for point in model.at
    }


def subject_table(predictions: Predictions, model: Outcome) -> list[dict[str, Any]]:
    """Return one row per subject group that is tested, the worst first."""
    test = predictions.pick(predictions.test)
    pure = dict(zip(subjects_of(model).code.tolist(), subjects_of(model).predicted.tolist(), strict=True))
    rows = [_subject(test, model, code, decided=pure.get(code)) for code in range(int(model.groups.max()) + 1)]
    return sorted(rows, key=lambda row: (row["accuracy"], -row["cells"], row["group"]))


def _subject(test: Predictions, model: Outcome, code: int, *, decided: int | None) -> dict[str, Any]:
    here = np.flatnonzero(model.groups == code)
    labels, said = model.labels[here], model.predicted[here]
    true = sorted({test.classes[label] for label in labels.tolist()})
    row = {
        "group": str(test.group[here[0]]),
        "subjects": sorted(set(test.subject[here].tolist())),
        "label": true[0] if len(true) == 1 else "mixed",
        "part": ", ".join(sorted(set(test.part[here].tolist()))),
        "fold": sorted(set(test.fold[here].tolist())),
        "cells": len(here),
        "wrong": int((labels != said).sum()),
        "accuracy": number((labels == said).mean()),
    }
    if model.classes == 2:
        chances = model.probabilities[here, 1]
        row |= {
            "mean_prob_positive": number(chances.mean()),
            "quartiles_prob_positive": plain(np.quantile(chances, [0.25, 0.5, 0.75])),
            "called": test.classes[decided] if decided is not None else None,
        }
    return row


def _curves(evidence: Evidence, model: Outcome, sampled: Bootstrap) -> dict[str, Any]:
    classes = evidence.predictions.classes[model.classes == 2 :]
    count, chance, _ = reliability(model.labels, model.probabilities)
    return {
        "roc": _by_class("roc", classes, sampled, grid=RATE_GRID),
        "pr": _by_class("pr", classes, sampled, grid=RECALL_GRID),
        "reliability": {
            "edges": plain(np.linspace(0, 1, BINS + 1)),
            "cells": count.astype(int).tolist(),
            "mean_probability": plain(np.divide(chance, count, out=np.full(BINS, np.nan), where=count > 0)),
            **sampled.band("reliability"),
        },
        "risk_coverage": {"grid": plain(COVERAGE_GRID), **sampled.band("risk_coverage")},
    }


def _by_class(kind: str, classes: tuple[str, ...], sampled: Bootstrap, *, grid: Floats) -> dict[str, Any]:
    """Return the curve of the disease, or of every class against the rest."""
    curves = {name: sampled.band(f"{kind}.{name}") for name in classes}
    alone = next(iter(curves.values())) if len(curves) == 1 else {}
    return {"grid": plain(grid), "classes": curves, **alone}


def _folds(evidence: Evidence, model: Outcome) -> list[dict[str, Any]]:
    return [_fold(evidence, model, fold) for fold in evidence.predictions.folds]


def _fold(evidence: Evidence, model: Outcome, fold: int) -> dict[str, Any]:
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
