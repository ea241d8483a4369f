"""report.html: the results of a run with explanations in plain words, on one page that opens offline."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..data.split import SETS, group_of_subject
from ..errors import DataError
from ..evaluation.evaluate import Evidence, experiment_of, gather
from ..evaluation.intervals import Band, Estimate
from ..evaluation.outcomes import Outcome, outcome_of
from ..evaluation.results import Metrics
from ..evaluation.verdict import cells_called, per_hundred, range_per_hundred, span, stretches
from ..files import read_csv, read_json, record_stage, write_text
from ..images.read import changes_in_words
from . import environment, figures
from .figures import COLOURS, crops_of, examples, for_file, for_page, mistakes, values_of

HEADLINE = (
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "auroc",
    "accuracy",
    "f1_weighted",
    "mcc",
    "auprc",
    "brier",
    "ece",
)
SUBJECTS = ("subject_accuracy", "subject_sensitivity", "subject_specificity", "subject_auroc")
TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1_weighted": "Weighted F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mcc": "Matthews correlation",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "Calibration error",
    "subject_accuracy": "Subjects decided correctly",
    "subject_sensitivity": "Subjects with disease found",
    "subject_specificity": "Healthy subjects called healthy",
    "subject_auroc": "AUROC of subjects",
}
ESTIMATORS = {"model": "Model", "majority": "Majority class", "size": "Cell size alone", "colour": "Cell colour alone"}
CALIBRATION = {
    "calibration_slope": ("Calibration slope", "1 is ideal; below 1 the probabilities are too extreme."),
    "calibration_intercept": (
        "Calibration in the large",
        "0 is ideal; above 0 the disease is more common than predicted.",
    ),
    "observed_expected": ("Observed over expected", "Cells with the disease divided by the sum of probabilities."),
    "brier": ("Brier score", "Mean squared error of the probabilities; 0 is best."),
    "ipa": ("IPA (scaled Brier)", "1 is best; 0 is no better than knowing the class shares."),
    "ece": (
        "Calibration error",
        "Mean distance of probability and observed share; biased upwards: no interval.",
    ),
}
SUBGROUP = {"auroc": "AUROC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
SUBGROUP_OF_MANY = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy"}
POINTS = {
    "balanced": "Balanced",
    "high_sensitivity": "High sensitivity",
    "high_specificity": "High specificity",
}


def meaning(metric: str, number: Estimate, classes: list[str]) -> str:
    """Return one number in words, such as 'Of 100 leukemia cells, 83 are found.'"""
    if number["value"] is None:
        return "Not defined on these cells."
    many = per_hundred(number)
    normal, ill = sides(classes)
    return {
        "accuracy": f"Of 100 cells, {many} are decided correctly.",
        "balanced_accuracy": f"With equally common classes, {many} of 100 correct (guessing: {100 // len(classes)}).",
        "sensitivity": f"Of 100 {ill}, {many} are found.",
        "specificity": f"Of 100 {normal}, {many} are called normal.",
        "auroc": f"Of 100 pairs of a cell with and one without the disease, {many} are ranked correctly."
        if len(classes) == 2
        else f"Of 100 pairs of a cell of a class and one of another, {many} are ranked correctly.",
        "auprc": "Mean precision over all thresholds. Guessing gives the share of the class.",
        "f1_weighted": "Harmonic mean of precision and recall, weighted by class. 1 is best.",
        "mcc": "Correlation of decision and class. 0 is chance, 1 is perfect.",
        "brier": "Mean squared error of the probabilities. 0 is best.",
        "ece": f"Probabilities are off by {many} percentage points on average. 0 is best.",
    }.get(metric, "")


def sides(classes: list[str]) -> tuple[str, str]:
    """Return what normal cells and ill cells are called."""
    if len(classes) != 2:
        return "cells of other classes", "cells of the class"
    return cells_called(classes[0]), cells_called(classes[1])


def roc_words(metrics: Metrics) -> str:
    """Describe the ROC curve."""
    model = metrics["subject_weighted"]["estimators"]["model"]
    if not metrics["positive"]:
        return "One line per class against all others. The higher above the dotted line, the better it is recognised."
    curve = metrics["curves"]["roc"]
    at = _at(curve["grid"], curve["classes"][metrics["positive"]], 0.1)
    ill, normal = cells_called(metrics["positive"]), cells_called(metrics["classes"][0])
    if at is None:
        return "Not every class is among the test cells, so there is no curve."
    return (
        f"With false alarms for 10 of 100 {normal}, {per_hundred(at)} of 100 {ill} are found "
        f"({range_per_hundred(at)}). Area under the curve: {model['auroc']['value']:.2f}. Band: 95 % interval."
    )


def pr_words(metrics: Metrics) -> str:
    """Describe the precision–recall curve."""
    if not metrics["positive"]:
        return "One line per class: how many cells called by its name belong to it, as more of the class are found."
    curve = metrics["curves"]["pr"]
    at = _at(curve["grid"], curve["classes"][metrics["positive"]], 0.9)
    if at is None:
        return "Not every class is among the test cells, so there is no curve."
    ill = cells_called(metrics["positive"])
    return (
        f"With 90 of 100 {ill} found, {per_hundred(at)} of 100 alarms are correct ({range_per_hundred(at)}). "
        "This depends on how common the disease is among the cells tested."
    )


def reliability_words(metrics: Metrics) -> str:
    """Describe how reliable the probabilities are."""
    error = metrics["subject_weighted"]["estimators"]["model"]["ece"]
    if error["value"] is None:
        return "Not defined on these cells."
    points = 100 * error["value"]
    judged = "close to the observed shares" if points < 5 else "somewhat off" if points < 10 else "not reliable"
    drawn = (
        "Line: spline with its 95 % band. Circles: bins, larger where they hold more cells."
        if metrics["curves"].get("calibration")
        else "Larger dots hold more cells."
    )
    return (
        f"Probabilities are off by {points:.0f} percentage points on average: {judged}. {drawn} On the dotted line the "
        "probabilities are exact; below it they are too high."
    )


def decision_words(metrics: Metrics) -> str:
    """Describe where the model has a higher net benefit than calling all cells the disease, or none."""
    gain, grid = metrics["curves"]["decision"]["gain"], metrics["curves"]["decision"]["grid"]
    sure = [at for at, low in zip(grid, gain["low"], strict=True) if low and low > 0]
    ill = cells_called(metrics["positive"])
    worth = (
        f"Its whole interval is above both at {len(sure)} of {len(grid)} thresholds: {stretches(grid, sure)} %."
        if sure
        else "At no threshold is its whole interval above both."
    )
    return (
        f"Net benefit: the share of {ill} found, minus false alarms weighted by the odds of the threshold. The model "
        "is useful where it is above calling every cell the disease and above calling none. "
        f"{worth} Band: 95 % interval."
    )


def risk_words(metrics: Metrics) -> str:
    """Describe what is gained when the least certain cells are left to a person."""
    curve = metrics["curves"]["risk_coverage"]
    half, all_cells = (_at(curve["grid"], curve, share) for share in (0.5, 1.0))
    if half is None or all_cells is None:
        return "Not defined on these cells."
    return (
        f"If every cell is decided, {per_hundred(all_cells)} of 100 decisions are wrong. If only the more certain half "
        f"is decided, {per_hundred(half)} of 100 are ({range_per_hundred(half)})."
    )


def confusion_words(metrics: Metrics) -> str:
    """Describe the confusion matrix in one sentence per class."""
    matrix, sentences = metrics["confusion"]["matrix"], []
    for index, name in enumerate(metrics["classes"]):
        total, right = sum(matrix[index]), matrix[index][index]
        sentences.append(f"Of {total:,} {cells_called(name)}, {right:,} are recognised and {total - right:,} are not.")
    return " ".join(sentences)


def history_words(folds: list[list[dict[str, float]]]) -> str:
    """Describe the learning curves."""
    best = [int(min(rows, key=lambda row: row["validation_loss"])["epoch"]) for rows in folds if rows]
    when = f"epoch {best[0]}" if len(set(best)) == 1 else f"epochs {min(best)} to {max(best)}"
    lines = "" if len(folds) == 1 else " One colour for each fold."
    return f"Dashed: training. Solid: validation, other subjects. Validation loss was lowest at {when}.{lines}"


def _at(grid: list[float], band: Band, place: float) -> Estimate | None:
    index = min(range(len(grid)), key=lambda i: abs(grid[i] - place))
    if band["value"][index] is None:
        return None
    return {"value": band["value"][index], "low": band["low"][index], "high": band["high"][index]}


_ROWS = 120  # subject groups on the page; all of them are in metrics.json
_DOTS = 48  # per subject: quantiles of its cells, so that the page does not grow with their number


def write_report(run: Path) -> Path:
    """Write RUN/report.html and RUN/figures/*.svg from a run that has been evaluated; return the page's path.

    Raises:
        DataError: the run has no metrics.json, or its files do not fit each other.
    """
    started = time.perf_counter()
    metrics = read_metrics(run)
    evidence = gather(run, positive=experiment_of(run).evaluate.positive)
    if evidence.plan.hash != metrics["split"]["hash"]:
        raise DataError(f"{run / 'metrics.json'} belongs to another split. Run leukoscope evaluate {run} again.")
    drawn = _draw(metrics, histories(run)) | _draw_values(run, evidence)
    page = render(run, metrics, evidence, drawn)  # first, so that a fault leaves no half of it behind
    for name, (svg, _, _) in drawn.items():
        write_text(run / "figures" / f"{name}.svg", for_file(svg))
    write_text(run / "report.html", page)
    record_stage(run, "report", started=started)
    return run / "report.html"


def read_metrics(run: Path) -> Metrics:
    """Read RUN/metrics.json.

    Raises:
        DataError: it is missing, or written by another version of the format.
    """
    path = run / "metrics.json"
    if not path.exists():
        raise DataError(f"{path} does not exist. Run leukoscope evaluate {run} first.")
    found: Any = read_json(path)
    if not isinstance(found, dict) or found.get("format") != 1 or not found.keys() >= Metrics.__required_keys__:
        raise DataError(f"{path} is not metrics of format 1, or not whole. Run leukoscope evaluate {run} again.")
    return cast("Metrics", found)


def histories(run: Path) -> list[list[dict[str, float]]]:
    """Read the history.csv of every fold; folds without one are left out."""
    folders = sorted(run.glob("fold-*"), key=lambda folder: (len(folder.name), folder.name))
    paths = [folder / "history.csv" for folder in folders]
    read = [read_csv(path, required=("epoch", "validation_loss")) for path in paths if path.exists()]
    return [[_numbers(row) for row in rows] for rows in read if rows]


def _numbers(row: dict[str, str]) -> dict[str, float]:
    values = {}
    for name, text in row.items():
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = float("nan")
    return values


Drawn = dict[str, tuple[str, str, str]]  # name -> (SVG in placeholder colours, title, caption)


def _draw(metrics: Metrics, learned: list[list[dict[str, float]]]) -> Drawn:
    curves, table, names = metrics["curves"], metrics["confusion"], sides(metrics["classes"])
    drawn = {
        "confusion": (figures.confusion(table["labels"], table["matrix"]), "", confusion_words(metrics)),
        "roc": (
            figures.roc(curves["roc"], names=names),
            "ROC curve",
            roc_words(metrics),
        ),
        "pr": (
            figures.pr(curves["pr"], share=_share(metrics), names=names),
            "Precision–recall curve",
            pr_words(metrics),
        ),
        "reliability": (
            figures.reliability(curves["reliability"], curves.get("calibration")),
            "Reliability of the probabilities",
            reliability_words(metrics),
        ),
        "risk-coverage": (
            figures.risk_coverage(curves["risk_coverage"]),
            "Leaving uncertain cells to a person (risk and coverage)",
            risk_words(metrics),
        ),
    }
    if "decision" in curves:
        words = decision_words(metrics)
        drawn["decision"] = (figures.decision(curves["decision"]), "Net benefit (decision curve)", words)
    if learned:
        words = history_words(learned)
        drawn["history-loss"] = (figures.history(learned, kind="loss"), "Loss", words)
        drawn["history-accuracy"] = (figures.history(learned, kind="accuracy"), "Accuracy", words)
    return drawn


def _draw_values(run: Path, evidence: Evidence) -> Drawn:
    """Draw the values of the example cells before and after, where images and crops are at hand."""
    found = values_of(evidence, crops_of(run, evidence), rescaling=_rescaling(run))
    if found is None:
        return {}
    before, after = found
    words = "Red (solid), green (dashed) and blue (dash-dotted) of the cells above, without the black around them."
    return {
        "values-before": (
            figures.histograms(before, name="values-before", x="pixel value, 0 to 255"),
            "Original images",
            words,
        ),
        "values-after": (
            figures.histograms(after, name="values-after", x="input value"),
            "Input of the network",
            words,
        ),
    }


def _rescaling(run: Path) -> dict[str, list[float]]:
    """Return what the network takes off each channel, and divides it by, after division by 255."""
    kept: dict[str, list[float]] = (_optional(run / "model.json") or {}).get("rescaling", {})
    return {"mean": [0.0] * 3, "std": [1.0] * 3} | kept


def _share(metrics: Metrics) -> float | None:
    """Return how common the disease is among the tested cells: the precision of guessing."""
    if not metrics["positive"]:
        return None
    return float(metrics["data"]["per_class"][metrics["positive"]] / metrics["data"]["cells"])


def render(run: Path, metrics: Metrics, evidence: Evidence, drawn: Drawn) -> str:
    """Return the page as HTML."""
    outcome = outcome_of(evidence.predictions, evidence.calibrations)
    crops, stages = crops_of(run, evidence), _optional(run / "run.json") or {}
    filters = {"span": span, "limits": limits, "short": short, "cells_called": cells_called}
    return (
        environment(**filters)
        .get_template("report.html")
        .render(
            name=run.resolve().name,
            metrics=metrics,
            headline=[_headline(metrics, name) for name in HEADLINE],
            whole_subjects=[_headline(metrics, name) for name in SUBJECTS] if metrics["positive"] else [],
            estimators={key: ESTIMATORS[key] for key in metrics["estimators"]},
            titles=TITLES,
            calibration=_calibration(metrics),
            subgroup_figures=SUBGROUP if metrics["positive"] else SUBGROUP_OF_MANY,
            points=POINTS,
            flow=flow(run, evidence),
            examples=examples(evidence, crops),
            prepare=experiment_of(run).prepare,
            model=_optional(run / "model.json"),
            figures={key: _figure(key, *each) for key, each in drawn.items()},
            strips=strips(metrics, outcome, evidence),
            mistakes=mistakes(evidence, outcome, crops),
            stages=stages,
            commands=list(dict.fromkeys(stage["command"] for stage in stages.values())),
            colours=COLOURS,
        )
    )


def limits(number: Estimate) -> str:
    """Return the interval of a number for a table.

    >>> limits({"value": 0.5, "low": 0.41, "high": 0.6}), limits({"value": 0.5, "low": None, "high": None})
    ('0.41 to 0.60', 'no interval')
    """
    return "no interval" if number["low"] is None else f"{number['low']:.2f} to {number['high']:.2f}"


def short(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, or a dash where it is not defined.

    >>> short(0.8349), short(None)
    ('0.83', '–')
    """
    return "–" if value is None else f"{value:.{digits}f}"


def _headline(metrics: Metrics, name: str) -> dict[str, Any]:
    by_subject = metrics["subject_weighted"]
    model = by_subject["estimators"]["model"][name]
    others = {key: numbers[name] for key, numbers in by_subject["estimators"].items() if key != "model"}
    return {
        "name": name,
        "title": TITLES[name],
        "meaning": meaning(name, model, metrics["classes"]),
        "model": model,
        "per_cell": metrics["estimators"]["model"][name],
        "others": others,
        "differences": {key: numbers[name] for key, numbers in by_subject["differences"].items()},
        "place": _place,
    }


def _calibration(metrics: Metrics) -> list[dict[str, Any]]:
    """Return the calibration figures: title, meaning, and value weighted by subject group and per cell."""
    by_subject, cells = metrics["subject_weighted"]["estimators"]["model"], metrics["estimators"]["model"]
    return [
        {"title": title, "meaning": meaning, "by_subject": by_subject[name], "per_cell": cells[name]}
        for name, (title, meaning) in CALIBRATION.items()
        if name in cells
    ]


def _place(value: float | None) -> str | None:
    """Return where a value lies on a scale from 0 to 1, in per cent of its length."""
    return None if value is None else f"{100 * min(1.0, max(0.0, value)):.1f}%"


def _figure(key: str, svg: str, title: str, words: str) -> dict[str, Any]:
    drawn = Markup(for_page(svg, alt=f"{title or key}. {words}"))  # nosec B704
    return {"svg": drawn, "title": title, "words": words}


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def strips(metrics: Metrics, outcome: Outcome, evidence: Evidence) -> list[dict[str, Any]]:
    """Return one row per tested subject group, the worst first: its facts and where its cells lie from 0 to 1."""
    codes = {
        str(name): code for code, name in enumerate(np.unique(evidence.predictions.group[evidence.predictions.test]))
    }
    return [row | {"dots": _dots(outcome, codes[row["group"]])} for row in metrics["subjects"][:_ROWS]]


def _dots(outcome: Outcome, code: int) -> list[dict[str, Any]]:
    here = outcome.groups == code
    labels, predicted = outcome.labels[here], outcome.predicted[here]
    chances = outcome.probabilities[here]
    shown = chances[:, 1] if outcome.classes == 2 else chances[np.arange(len(labels)), labels]
    order = np.argsort(shown, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, min(_DOTS, len(order))).astype(int))]
    return [
        {
            "x": round(float(shown[cell]) * 100, 1),
            "y": 4 + 7 * (index * 5 % 8) / 7,
            "wrong": bool(labels[cell] != predicted[cell]),
        }
        for index, cell in enumerate(picked.tolist())
    ]


def flow(run: Path, evidence: Evidence) -> dict[str, Any]:
    """Count images, subjects and subject groups at every step, in every fold."""
    cells, plan = evidence.cells, evidence.plan
    folds = [_fold(evidence, fold) for fold in evidence.predictions.folds]
    found = {"images": len(cells), "subjects": len({cell.subject for cell in cells}), "groups": len(plan.groups)}
    return {
        "found": found,
        "changes": changes_in_words(Counter(_audited(run).get("changes", {}))),
        "joined": sorted(
            (list(subjects) for subjects in plan.groups.values() if len(subjects) > 1), key=len, reverse=True
        ),
        "excluded": _excluded(evidence) + _unusable(run, evidence),
        "folds": folds,
        "unit": plan.unit,
        "test": _total(evidence),
    }


def _fold(evidence: Evidence, fold: int) -> dict[str, Any]:
    sets = evidence.plan.sets(evidence.cells, fold=fold)
    return {"fold": fold} | {name: _count(evidence, np.flatnonzero(sets == name)) for name in SETS}


def _total(evidence: Evidence) -> dict[str, Any]:
    return _count(evidence, evidence.rows[evidence.predictions.test])


def _count(evidence: Evidence, rows: NDArray[np.int64]) -> dict[str, Any]:
    group = group_of_subject(evidence.plan.groups)
    cells = [evidence.cells[row] for row in rows.tolist()]
    labels = Counter(cell.label for cell in cells)
    return {
        "cells": len(cells),
        "groups": len({group[cell.subject] for cell in cells}),
        "classes": {name: labels[name] for name in evidence.predictions.classes},
    }


def _excluded(evidence: Evidence) -> list[dict[str, Any]]:
    unlabelled = sum(not cell.label for cell in evidence.cells)
    reasons: Counter[str] = Counter({"without a label": unlabelled} if unlabelled else {})
    for row in evidence.plan.excluded:
        reasons[f"subject group {row.group}: {row.reason}"] += row.cells
    elsewhere = _unused(evidence)
    if elsewhere:
        reasons["in a part that this split does not use"] += elsewhere
    return [{"reason": reason, "cells": count} for reason, count in reasons.items()]


def _unused(evidence: Evidence) -> int:
    """Count labelled cells that are in no set of any fold and not named among the excluded."""
    used = np.zeros(len(evidence.cells), dtype=bool)
    for fold in evidence.predictions.folds:
        used |= evidence.plan.sets(evidence.cells, fold=fold) != "excluded"
    labelled = np.array([bool(cell.label) for cell in evidence.cells])
    return int((labelled & ~used).sum()) - sum(row.cells for row in evidence.plan.excluded)


def _unusable(run: Path, evidence: Evidence) -> list[dict[str, Any]]:
    """Name images that the audit found unusable and that are no longer among the cells."""
    rows: Iterable[dict[str, Any]] = _audited(run).get("unusable", [])
    names = {cell.name for cell in evidence.cells}
    gone = [row for row in rows if row.get("name") not in names]
    return [{"reason": "unusable as an image, named in audit.json", "cells": len(gone)}] if gone else []


def _audited(run: Path) -> dict[str, Any]:
    """Return the audit; nothing where it was taken away."""
    path = run / "audit.json"
    return dict(read_json(path)) if path.exists() else {}
