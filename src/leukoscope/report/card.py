"""card.md: what a bundle is, how well it performs and for whom it fails, in plain words."""

from typing import Any

import numpy as np

from ..bundle.manifest import ALL_FOLDS, Estimators, LeftOutPart, Manifest
from ..evaluation.intervals import Design, Statistics, jackknife
from ..evaluation.metrics import Floats, divide
from ..evaluation.results import Estimates
from ..evaluation.verdict import span

TELLING = 10  # cells of a subject below which the share of correct cells is too uncertain
_FIGURES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1_weighted": "Weighted F1",
    "calibration_slope": "Calibration slope (1 is right)",
    "calibration_intercept": "Calibration in the large (0 is right)",
    "observed_expected": "Observed over expected disease",
    "brier": "Brier score",
    "ipa": "IPA (Brier score beside the prevalence's)",
    "ece": "Calibration error",
}
_OTHERS = {
    "model": "This model",
    "majority": "Majority class",
    "size": "Cell size alone",
    "colour": "Cell colour alone",
}
_VIEWS = {"one": "none", "flips": "4 mirrorings", "turns": "8 mirrorings and turns"}


def card(manifest: Manifest) -> str:
    """Return the card of a bundle as Markdown, from bundle.json only."""
    sections = (_head, _answers, _data, _figures, _guarantee, _subjects, _limits, _provenance)
    return "\n".join(line for section in sections for line in section(manifest))


def _head(manifest: Manifest) -> list[str]:
    lines = [f"# {manifest.name}", "", "**Research use, not a diagnosis.**", ""]
    verdict = manifest.metrics.get("verdict")
    return [*lines, verdict["text"], ""] if verdict and verdict["text"] else lines


def _answers(manifest: Manifest) -> list[str]:
    member, count = manifest.members[0], len(manifest.members)
    networks = sorted({each.network for each in manifest.members})
    disease = f"; {manifest.positive} counts as disease" if manifest.positive else ""
    return [
        "## What it answers",
        "",
        f"- Classes: {', '.join(manifest.classes)}{disease}",
        f"- Network: {' and '.join(networks)}{_of_what(manifest)}"
        + (f", {count} of them averaged after calibration" if count > 1 else ""),
        f"- Image: {_prepare(member.prepare.model_dump())}",
        f"- Test-time augmentation: {_VIEWS[manifest.views]}",
        f"- Refuses images unlike its own: {'yes' if manifest.out_of_distribution else 'no detector in this bundle'}",
        f"- Answers unsure: {'yes, by conformal prediction' if manifest.conformal else 'no such rule in this bundle'}",
        "",
    ]


def _of_what(manifest: Manifest) -> str:
    """Return what a network pools and which views it uses, where these are not the defaults."""
    settings = manifest.training.get("settings", {})
    model, train = settings.get("model", {}), settings.get("train", {})
    words = ""
    if train.get("mode") == "probe":
        words += ", as it was loaded, with a linear head"
    if model.get("pool") == "stages":
        words += " on the means of all its stages"
    if model.get("looks") == "crop-and-cell":
        words += ", of the crop as it is and of the cell enlarged until it fills the crop"
    return words


def _prepare(prepare: dict[str, Any]) -> str:
    views = {
        "frame": "the whole image",
        "window": f"a square of {prepare['window']} source pixels around the middle",
        "cell": "a square around the cell, so that its size is taken away",
        "area": "a square in proportion to the cell's area, so that its size is taken away",
    }
    turned = ", turned and mirrored to one orientation first" if prepare["canonical"] else ""
    return f"one segmented cell on black{turned}; {views[prepare['view']]}, at {prepare['size']} px"


def _data(manifest: Manifest) -> list[str]:
    data, split = manifest.metrics.get("data"), manifest.metrics.get("split")
    lines = ["## Data", ""]
    lines += [f"- {each['data']}: {each['credit']} Licence: {each['licence']}." for each in manifest.credits]
    if data:
        per_class = ", ".join(f"{count:,} {name}" for name, count in data.get("per_class", {}).items())
        lines.append(f"- Tested on {data['cells']:,} cells of {data['groups']} subject groups: {per_class}.")
        if split and split["leaky"]:
            lines.append(
                "- **Leaky split: cells of one patient are in training and test. Do not believe the figures.**"
            )
        elif split:
            folds = f"{split['folds']} fold{'s' * (split['folds'] != 1)}"
            lines.append(f"- Split: {split['scheme']}, {folds}, subject groups kept whole.")
    return [*lines, ""]


def _figures(manifest: Manifest) -> list[str]:
    weightings = _weightings(manifest)
    if not weightings:
        return []
    subject_weighted, per_cell = weightings[0], weightings[-1]
    shown = {key: title for key, title in _OTHERS.items() if key in subject_weighted}
    columns = list(shown.values())
    more = ["This model, per cell"] if subject_weighted is not per_cell else []
    lines = [
        "## Figures",
        "",
        "Each cell is scored by a network that has not learned from its subject, and decided at its fold's threshold. "
        "Value (95 % interval over subject groups"
        + (", which have equal weight except in the last column)." if more else ")."),
        "",
        f"| Figure | {' | '.join([*columns, *more])} |",
        f"|---|{'---|' * len(columns + more)}",
    ]
    for name, title in _FIGURES.items():
        if name in subject_weighted["model"]:
            values = [span(subject_weighted[key][name]) if name in subject_weighted[key] else "" for key in shown]
            values += [span(per_cell["model"][name])] if more else []
            lines.append(f"| {title} | {' | '.join(values)} |")
    return [*lines, "", *_points(manifest), *_other_tests(manifest)]


def _weightings(manifest: Manifest) -> list[Estimators]:
    """Return the estimators with equal weight for every subject group, where a bundle has these, and those per cell."""
    metrics = manifest.metrics
    found = [metrics.get("subject_weighted", {}).get("estimators"), metrics.get("estimators")]
    return [estimators for estimators in found if estimators]


def tested_on(manifest: Manifest) -> str:
    """Name the cells on which `figures_at` was measured; empty if it was not."""
    if not manifest.operating_points or not manifest.subjects:
        return ""
    return "cells of parts that the network had not seen" if _left_out(manifest) else "the same cells"


def _left_out(manifest: Manifest) -> list[LeftOutPart]:
    return manifest.conformal.left_out if manifest.conformal else []


def _points(manifest: Manifest) -> list[str]:
    """Return what is reached at the thresholds of this bundle."""
    cells = tested_on(manifest)
    if not cells:
        return []
    lines = [
        f"At the thresholds of this bundle, on {cells}:",
        "",
        "| Operating point | Threshold | Sensitivity | Specificity | Sensitivity, per cell | Specificity, per cell |",
        "|---|---|---|---|---|---|",
    ]
    for name, edge in manifest.operating_points.items():
        found = [figures_at(manifest, name, subject_weighted=subject_weighted) for subject_weighted in (True, False)]
        values = [span(each[key]) for each in found for key in ("sensitivity", "specificity")]
        lines.append(f"| {name.replace('_', ' ')} | {edge:.3f} | {' | '.join(values)} |")
    return [*lines, ""]


def figures_at(manifest: Manifest, point: str, *, subject_weighted: bool) -> Estimates:
    """Return sensitivity, specificity and balanced accuracy at the bundle's threshold of an operating point.

    From its counts of cells that were called the disease, by subject group; groups with cells of several classes are
    not among them. subject_weighted: every subject group has equal weight; else every cell.
    """
    subjects = manifest.subjects
    cells = np.array([each.cells for each in subjects], dtype=float)
    ill = np.array([each.label == manifest.positive for each in subjects])
    called = np.array([each.called[point] for each in subjects], dtype=float)
    size = cells if subject_weighted else np.ones_like(cells)

    def statistic(weights: Floats) -> Statistics:
        each = weights / size
        found = divide(each[:, ill] @ called[ill], each[:, ill] @ cells[ill])
        spared = divide(each[:, ~ill] @ (cells - called)[~ill], each[:, ~ill] @ cells[~ill])
        return {"sensitivity": found, "specificity": spared, "balanced_accuracy": (found + spared) / 2}

    design = Design(ill.astype(np.int64), np.ones_like(cells) if subject_weighted else cells)
    measured = jackknife(statistic, design, cells=len(subjects))
    return {name: measured.interval(name) for name in measured.point}


def _other_tests(manifest: Manifest) -> list[str]:
    """What the same settings reach when they are tested otherwise, such as on another part than they learned from."""
    others = manifest.metrics.get("other_tests", [])
    if not others:
        return []
    lines = [
        "### The same settings, tested otherwise",
        "",
        "| Test | Cells | Groups | AUROC | Cell size alone | AUROC, per cell | Cell size alone, per cell |",
        "|---|---|---|---|---|---|---|",
    ]
    for other in others:
        weightings = [other.get("subject_weighted", {}).get("estimators", {}), other["estimators"]]
        values = [
            span(each[name]["auroc"]) if "auroc" in each.get(name, {}) else "–"
            for each in weightings
            for name in ("model", "size")
        ]
        lines.append(
            f"| {other['test']} | {other['data']['cells']:,} | {other['data']['groups']} | {' | '.join(values)} |"
        )
    return [*lines, ""]


def _guarantee(manifest: Manifest) -> list[str]:
    """Describe the guaranteed error rate, and the rate on each part when it was left out."""
    parts, rule = _left_out(manifest), manifest.conformal
    if rule is None or not parts:
        return []
    lines = [
        "## Error rates: guaranteed and reached",
        "",
        f"Guarantee: {rule.guarantee} Cells that cannot be decided with that error rate are unsure. "
        "Temperature and operating points are learned from the same cells. To test the guarantee, each part was left "
        "out once and the rule learned from all others:",
        "",
        "| Part left out | Class | Guaranteed: at most | Reached: called the other class | Decided | Subjects |",
        "|---|---|---|---|---|---|",
    ]
    for row in parts:
        lines += [
            f"| {row.part} | {name} | {row.asked:.0%} | {each.called_another:.0%} | {each.decided:.0%} | "
            f"{each.subjects} |"
            for name, each in row.classes.items()
        ]
    unsure = [1 - each.decided for row in parts for each in row.classes.values()]
    share = f"{min(unsure):.0%} to {max(unsure):.0%}"
    lines += [
        "",
        f"{share} of a class were unsure there. Every subject has equal weight, however many cells it has.",
    ]
    return [*lines, ""]


def _subjects(manifest: Manifest) -> list[str]:
    worst = manifest.metrics.get("worst_subjects", [])
    if not worst:
        return []
    lines = [
        "## Subjects with the lowest accuracy",
        "",
        f"Of those with {TELLING} cells or more, if there are any. The last column is the share of cells of other "
        "subjects of the same class that are smaller than the median cell of this subject: far from 50 %, its cells "
        "are of unusual size.",
        "",
        "| Subject group | Class | Cells | Correct | Smaller cells elsewhere |",
        "|---|---|---|---|---|",
    ]
    for row in worst:
        smaller = f"{100 * row['smaller']:.0f} %" if "smaller" in row else "–"
        right = f"{100 * row['accuracy']:.0f} %"
        lines.append(f"| {row['group']} | {row['label']} | {row['cells']} | {right} | {smaller} |")
    return [*lines, ""]


def _limits(manifest: Manifest) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- For research. It is not a medical device, and its output is not a diagnosis.",
        "- It knows single, segmented cells of the kind named above. With cells of another laboratory, camera or stain "
        "its figures do not hold: published models fall to an AUROC of .55 to .75 there.",
    ]
    several = len(manifest.members) > 1 or manifest.members[0].fold == ALL_FOLDS
    if several and "adapted_from" not in manifest.training:  # new heads are evaluated as one
        what = "single networks" if len(manifest.members) > 1 else "heads of single folds"
        lines.append(
            f"- The figures are those of the {what} on subjects they had not seen; their average cannot be "
            "tested on the same subjects, since each of these is known to some of them."
        )
    return [*lines, *(f"- {note}" for note in manifest.metrics.get("notes", [])), ""]


def _provenance(manifest: Manifest) -> list[str]:
    training = manifest.training
    if not training:
        return []
    made = training.get("made")
    lines = ["## How it was made", ""]
    fingerprints = {"Cells": training.get("cells"), "Split": training.get("split")}
    lines += [f"- {title}: {value}" for title, value in fingerprints.items() if value is not None]
    if made:
        packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
        commit = f", commit {made['commit']}" if made.get("commit") else ""
        lines.append(f"- leukoscope {made['version']}{commit}, {packages}, seed {made['seed']}, {made['started']}")
    return [*lines, ""]
