"""What numbers and figures say, in words that need no statistics."""

from typing import Any

from ..evaluation.verdict import cells_called, per_hundred, range_per_hundred

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
    "subject_accuracy": "Subjects decided rightly",
    "subject_sensitivity": "Subjects with disease found",
    "subject_specificity": "Healthy subjects left alone",
    "subject_auroc": "AUROC of subjects",
}
ESTIMATORS = {"model": "Model", "majority": "Majority class", "size": "Cell size alone", "colour": "Cell colour alone"}
CALIBRATION = {
    "calibration_slope": ("Calibration slope", "1 is right; below 1 the probabilities are too extreme."),
    "calibration_intercept": ("Calibration in the large", "0 is right; above 0 the disease is commoner than claimed."),
    "observed_expected": ("Observed over expected", "Cells with disease, over those that the probabilities add up to."),
    "brier": ("Brier score", "Mean squared error of the probabilities; 0 is best."),
    "ipa": ("IPA (scaled Brier)", "1 is best; 0 is no better than knowing how common each class is here."),
    "ece": ("Calibration error", "Mean distance of probability and frequency; chance alone raises it. A hint."),
}
SUBGROUP = {"auroc": "AUROC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
SUBGROUP_OF_MANY = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy"}
POINTS = {
    "balanced": "Balanced",
    "high_sensitivity": "High sensitivity",
    "high_specificity": "High specificity",
}


def meaning(metric: str, number: dict[str, Any], classes: list[str]) -> str:
    """Return what one number says, such as 'Of 100 leukemia cells it finds 83.'"""
    if number["value"] is None:
        return "Not defined on these cells."
    many = per_hundred(number)
    normal, ill = sides({"classes": classes, "positive": classes[1] if len(classes) == 2 else ""})
    return {
        "accuracy": f"Of 100 cells it decides {many} rightly.",
        "balanced_accuracy": f"Were all classes as common: {many} of 100 right. Guessing gives {100 // len(classes)}.",
        "sensitivity": f"Of 100 {ill} it finds {many}.",
        "specificity": f"Of 100 {normal} it leaves {many} alone.",
        "auroc": f"Of 100 pairs of a cell with and one without the disease, it ranks {many} rightly."
        if len(classes) == 2
        else f"Of 100 pairs of a cell of a class and another one, it ranks {many} rightly.",
        "auprc": "Mean share of right alarms over all thresholds. Guessing gives the share of the class.",
        "f1_weighted": "Balance of finding and of false alarms, weighted by class. 1 is best.",
        "mcc": "Agreement beyond chance. 0 is chance, 1 is perfect.",
        "brier": "Mean squared error of the probabilities. 0 is best.",
        "ece": f"Its probabilities are off by {many} points of 100 on average. 0 is best.",
    }.get(metric, "")


def sides(metrics: dict[str, Any]) -> tuple[str, str]:
    """Return what normal cells and ill cells are called."""
    if not metrics["positive"]:
        return "cells of other classes", "cells of the class"
    return cells_called(metrics["classes"][0]), cells_called(metrics["positive"])


def roc_words(metrics: dict[str, Any]) -> str:
    """Say what the ROC curve shows."""
    model = metrics["subject_weighted"]["estimators"]["model"]
    if not metrics["positive"]:
        return "One line per class against all others. The higher above the dotted line, the better it is told apart."
    at = _at(metrics["curves"]["roc"], 0.1)
    ill, normal = cells_called(metrics["positive"]), cells_called(metrics["classes"][0])
    if at is None:
        return "Not every class is among the test cells, so there is no curve."
    return (
        f"Where 10 of 100 {normal} are wrongly alarmed at, {per_hundred(at)} of 100 {ill} are found "
        f"({range_per_hundred(at)}). Area under the curve: {model['auroc']['value']:.2f}. Band: 95 % interval."
    )


def pr_words(metrics: dict[str, Any]) -> str:
    """Say what the precision–recall curve shows."""
    if not metrics["positive"]:
        return "One line per class: how many of those named so are so, as more of the class are found."
    at = _at(metrics["curves"]["pr"], 0.9)
    if at is None:
        return "Not every class is among the test cells, so there is no curve."
    ill = cells_called(metrics["positive"])
    return (
        f"When 90 of 100 {ill} are to be found, {per_hundred(at)} of 100 alarms are right ({range_per_hundred(at)}). "
        "This depends on how common the disease is among the cells tested."
    )


def reliability_words(metrics: dict[str, Any]) -> str:
    """Say whether the probabilities can be taken at their word."""
    error = metrics["subject_weighted"]["estimators"]["model"]["ece"]
    if error["value"] is None:
        return "Not defined on these cells."
    points = 100 * error["value"]
    judged = (
        "close to what came true" if points < 5 else "somewhat off" if points < 10 else "not to be taken at their word"
    )
    drawn = (
        "Line: smoothed by a spline, with its 95 % band. Circles: bins, larger where they hold more cells."
        if metrics["curves"].get("calibration")
        else "Larger dots hold more cells."
    )
    return (
        f"Probabilities are off by {points:.0f} points of 100 on average: {judged}. {drawn} On the dotted line, claims "
        "come true just as often as claimed. Below it the model claims too much."
    )


def decision_words(metrics: dict[str, Any]) -> str:
    """Say where acting on the model is worth more than acting on all cells or on none."""
    gain = metrics["curves"]["decision"]["gain"]
    sure = [at for at, low in zip(metrics["curves"]["decision"]["grid"], gain["low"], strict=True) if low and low > 0]
    ill = cells_called(metrics["positive"])
    worth = (
        f"Its interval lies above both at {len(sure)} of {len(gain['low'])} thresholds, from {100 * min(sure):.0f} to "
        f"{100 * max(sure):.0f} %."
        if sure
        else "At no threshold its interval lies above both."
    )
    return (
        f"Net benefit: {ill} found, less false alarms at the odds of the threshold. The model is of use where its line "
        f"is above calling every cell the disease and above calling none. {worth} Band: 95 % interval."
    )


def risk_words(metrics: dict[str, Any]) -> str:
    """Say what is gained when the least sure cells are left to a person."""
    curve = metrics["curves"]["risk_coverage"]
    half, all_cells = _at(curve, 0.5), _at(curve, 1.0)
    if half is None or all_cells is None:
        return "Not defined on these cells."
    return (
        f"Deciding every cell, {per_hundred(all_cells)} of 100 decisions are wrong. Deciding only the surest half, "
        f"{per_hundred(half)} of 100 are ({range_per_hundred(half)})."
    )


def confusion_words(metrics: dict[str, Any]) -> str:
    """Say the confusion matrix in one sentence per class."""
    matrix, sentences = metrics["confusion"]["matrix"], []
    for index, name in enumerate(metrics["classes"]):
        total, right = sum(matrix[index]), matrix[index][index]
        sentences.append(f"Of {total:,} {cells_called(name)}, {right:,} are called so, {total - right:,} are not.")
    return " ".join(sentences)


def history_words(folds: list[list[dict[str, float]]]) -> str:
    """Say when learning was at its best."""
    best = [int(min(rows, key=lambda row: row["validation_loss"])["epoch"]) for rows in folds if rows]
    when = f"epoch {best[0]}" if len(set(best)) == 1 else f"epochs {min(best)} to {max(best)}"
    lines = "" if len(folds) == 1 else " One colour for each fold."
    return f"Dashed: training. Solid: validation, other subjects. Validation loss was lowest at {when}.{lines}"


def _at(curve: dict[str, Any], place: float) -> dict[str, Any] | None:
    index = min(range(len(curve["grid"])), key=lambda i: abs(curve["grid"][i] - place))
    if curve["value"][index] is None:
        return None
    return {name: curve[name][index] for name in ("value", "low", "high")}
