"""report.html: everything that a run found out, on one page that needs nothing else."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ..errors import DataError
from ..evaluation.evaluate import Evidence, experiment_of, gather
from ..evaluation.outcomes import Outcome, outcome_of
from ..evaluation.verdict import cells_called, span
from ..files import read_csv, read_json, record_stage, write_text
from . import figures, words
from .figures import flow
from .pictures import crops_of, examples, mistakes, values_of
from .style import COLOURS, environment, for_file, for_page

_PARTS = {"classes", "positive", "verdict", "notes", "data", "split", "folds", "intervals"}
_PARTS |= {
    "subject_weighted",
    "estimators",
    "differences",
    "per_class",
    "operating_points",
    "confusion",
    "subjects",
    "curves",
    "subgroups",
}
_ROWS = 120  # subject groups on the page; all of them stand in metrics.json
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
    for name, (svg, _, _) in drawn.items():
        write_text(run / "figures" / f"{name}.svg", for_file(svg))
    write_text(run / "report.html", render(run, metrics, evidence, drawn))
    record_stage(run, "report", started=started)
    return run / "report.html"


def read_metrics(run: Path) -> dict[str, Any]:
    """Read RUN/metrics.json.

    Raises:
        DataError: it is missing, or written by another version of the format.
    """
    path = run / "metrics.json"
    if not path.exists():
        raise DataError(f"{path} does not exist. Run leukoscope evaluate {run} first.")
    metrics: dict[str, Any] = read_json(path)
    if not isinstance(metrics, dict) or metrics.get("format") != 1 or not metrics.keys() >= _PARTS:
        raise DataError(f"{path} is not metrics of format 1, or not whole. Run leukoscope evaluate {run} again.")
    return metrics


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


Drawn = dict[str, tuple[str, str, str]]  # name -> (SVG in stand-in colours, title, what one sees)


def _draw(metrics: dict[str, Any], learned: list[list[dict[str, float]]]) -> Drawn:
    curves, table, names = metrics["curves"], metrics["confusion"], words.sides(metrics)
    drawn = {
        "confusion": (figures.confusion(table["labels"], table["matrix"]), "", words.confusion_words(metrics)),
        "roc": (
            figures.roc(curves["roc"], names=names),
            "Found and false alarms (ROC)",
            words.roc_words(metrics),
        ),
        "pr": (
            figures.pr(curves["pr"], share=_share(metrics), names=names),
            "Found and right alarms",
            words.pr_words(metrics),
        ),
        "reliability": (
            figures.reliability(curves["reliability"], curves.get("calibration")),
            "Claimed and true (reliability)",
            words.reliability_words(metrics),
        ),
        "risk-coverage": (
            figures.risk_coverage(curves["risk_coverage"]),
            "Leaving doubtful cells to a person (risk and coverage)",
            words.risk_words(metrics),
        ),
    }
    if "decision" in curves:
        said = words.decision_words(metrics)
        drawn["decision"] = (figures.decision(curves["decision"]), "Worth of acting on it (decision curve)", said)
    if learned:
        said = words.history_words(learned)
        drawn["history-loss"] = (figures.history(learned, kind="loss"), "Loss", said)
        drawn["history-accuracy"] = (figures.history(learned, kind="accuracy"), "Accuracy", said)
    return drawn


def _draw_values(run: Path, evidence: Evidence) -> Drawn:
    """Draw the values of the example cells before and after, where images and crops are at hand."""
    found = values_of(evidence, crops_of(run, evidence), rescaling=_rescaling(run))
    if found is None:
        return {}
    before, after = found
    said = "Red (solid), green (dashed) and blue (dash-dotted) of the cells above, without the black around them."
    return {
        "values-before": (figures.histograms(before, name="values-before", x="value, 0 to 255"), "As it came", said),
        "values-after": (
            figures.histograms(after, name="values-after", x="value after standardisation"),
            "What the network gets",
            said,
        ),
    }


def _rescaling(run: Path) -> dict[str, list[float]]:
    """Return what the network takes off each channel, and divides it by, after division by 255."""
    kept: dict[str, list[float]] = (_optional(run / "model.json") or {}).get("rescaling", {})
    return {"mean": [0.0] * 3, "std": [1.0] * 3} | kept


def _share(metrics: dict[str, Any]) -> float | None:
    """Return how common the disease is among the tested cells: the precision of guessing."""
    if not metrics["positive"]:
        return None
    return float(metrics["data"]["per_class"][metrics["positive"]] / metrics["data"]["cells"])


def render(run: Path, metrics: dict[str, Any], evidence: Evidence, drawn: Drawn) -> str:
    """Return the page as HTML."""
    outcome = outcome_of(evidence.predictions, evidence.calibrations)
    crops, stages = crops_of(run, evidence), _optional(run / "run.json") or {}
    filters = {"span": span, "limits": limits, "short": short, "cells_called": cells_called}
    return environment(**filters).get_template("report.html").render(
        name=run.resolve().name,
        metrics=metrics,
        headline=[_headline(metrics, name) for name in words.HEADLINE],
        whole_subjects=[_headline(metrics, name) for name in words.SUBJECTS] if metrics["positive"] else [],
        estimators={key: words.ESTIMATORS[key] for key in metrics["estimators"]},
        titles=words.TITLES,
        calibration=_calibration(metrics),
        subgroup_figures=words.SUBGROUP if metrics["positive"] else words.SUBGROUP_OF_MANY,
        points=words.POINTS,
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
    )  # fmt: skip


def limits(number: dict[str, Any]) -> str:
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


def _headline(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    alike = metrics["subject_weighted"]
    model = alike["estimators"]["model"][name]
    others = {key: numbers[name] for key, numbers in alike["estimators"].items() if key != "model"}
    return {
        "name": name,
        "title": words.TITLES[name],
        "meaning": words.meaning(name, model, metrics["classes"]),
        "model": model,
        "per_cell": metrics["estimators"]["model"][name],
        "others": others,
        "differences": {key: numbers[name] for key, numbers in alike["differences"].items()},
        "place": _place,
    }


def _calibration(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of the probabilities: title, meaning, and value with subject groups alike and per cell."""
    alike, cells = metrics["subject_weighted"]["estimators"]["model"], metrics["estimators"]["model"]
    return [
        {"title": title, "meaning": meaning, "alike": alike[name], "per_cell": cells[name]}
        for name, (title, meaning) in words.CALIBRATION.items()
        if name in cells
    ]


def _place(value: float | None) -> str | None:
    """Return where a value stands on a scale from 0 to 1, in per cent of its length."""
    return None if value is None else f"{100 * min(1.0, max(0.0, value)):.1f}%"


def _figure(key: str, svg: str, title: str, said: str) -> dict[str, Any]:
    drawn = Markup(for_page(svg, alt=f"{title or key}. {said}"))  # nosec B704
    return {"svg": drawn, "title": title, "words": said}


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def strips(metrics: dict[str, Any], outcome: Outcome, evidence: Evidence) -> list[dict[str, Any]]:
    """Return one row per tested subject group, the worst first: its facts and where its cells stand from 0 to 1."""
    codes = {
        str(name): code for code, name in enumerate(np.unique(evidence.predictions.group[evidence.predictions.test]))
    }
    return [row | {"dots": _dots(outcome, codes[row["group"]])} for row in metrics["subjects"][:_ROWS]]


def _dots(outcome: Outcome, code: int) -> list[dict[str, Any]]:
    here = outcome.groups == code
    labels, said = outcome.labels[here], outcome.predicted[here]
    chances = outcome.probabilities[here]
    shown = chances[:, 1] if outcome.classes == 2 else chances[np.arange(len(labels)), labels]
    order = np.argsort(shown, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, min(_DOTS, len(order))).astype(int))]
    return [
        {
            "x": round(float(shown[cell]) * 100, 1),
            "y": 4 + 7 * (index * 5 % 8) / 7,
            "wrong": bool(labels[cell] != said[cell]),
        }
        for index, cell in enumerate(picked.tolist())
    ]
