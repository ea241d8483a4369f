"""card.md: what a bundle is, what it reaches, on whom it fails, in words for people."""

from typing import Any

from ..bundle.manifest import Manifest
from ..evaluation.verdict import span

TELLING = 10  # cells of a subject below which the share that is right says little
_FIGURES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1_weighted": "Weighted F1",
    "ece": "Calibration error",
}
_OTHERS = {
    "model": "This model",
    "majority": "Majority class",
    "size": "Cell size alone",
    "colour": "Cell colour alone",
}
_POINTS = {"balanced": "balanced", "high_sensitivity": "high sensitivity", "high_specificity": "high specificity"}
_FINGERPRINTS = {"cells": "Cells", "split": "Split"}
_VIEWS = {"one": "none", "flips": "4 mirrorings", "turns": "8 mirrorings and turns"}


def card(manifest: Manifest) -> str:
    """Return the card of a bundle as Markdown, from bundle.json alone."""
    sections = (_head, _answers, _data, _figures, _subjects, _limits, _provenance)
    return "\n".join(line for section in sections for line in section(manifest))


def _head(manifest: Manifest) -> list[str]:
    lines = [f"# {manifest.name}", "", "**Research use, not a diagnosis.**", ""]
    text = manifest.metrics.get("verdict", {}).get("text")
    return [*lines, text, ""] if text else lines


def _answers(manifest: Manifest) -> list[str]:
    member, count = manifest.members[0], len(manifest.members)
    networks = sorted({each.network for each in manifest.members})
    disease = f"; {manifest.positive} counts as disease" if manifest.positive else ""
    return [
        "## What it answers",
        "",
        f"- Classes: {', '.join(manifest.classes)}{disease}",
        f"- Network: {' and '.join(networks)}" + (f", {count} of them averaged after calibration" if count > 1 else ""),
        f"- Image: {_prepare(member.prepare.model_dump())}",
        f"- Test-time augmentation: {_VIEWS[manifest.views]}",
        f"- Refuses images unlike its own: {'yes' if manifest.out_of_distribution else 'no detector in this bundle'}",
        f"- Says unsure: {'yes, by conformal prediction' if manifest.conformal else 'no such rule in this bundle'}",
        "",
    ]


def _prepare(prepare: dict[str, Any]) -> str:
    views = {
        "frame": "the whole image",
        "window": f"a square of {prepare['window']} source pixels around the middle",
        "cell": "a square around the cell, so that its size is taken away",
        "area": "a square in proportion to the cell's area, so that its size is taken away",
    }
    return f"one segmented cell on black; {views[prepare['view']]}, at {prepare['size']} px"


def _data(manifest: Manifest) -> list[str]:
    data, split = manifest.metrics.get("data", {}), manifest.metrics.get("split", {})
    lines = ["## Data", ""]
    lines += [f"- {each['data']}: {each['credit']} Licence: {each['licence']}." for each in manifest.credits]
    if data:
        per_class = ", ".join(f"{count:,} {name}" for name, count in data.get("per_class", {}).items())
        lines.append(f"- Tested on {data['cells']:,} cells of {data['groups']} subject groups: {per_class}.")
        if split.get("leaky"):
            lines.append(
                "- **Leaky split: cells of one patient stand in training and test. Do not believe the figures.**"
            )
        else:
            folds = f"{split['folds']} fold{'s' * (split['folds'] != 1)}"
            lines.append(f"- Split: {split['scheme']}, {folds}, subject groups kept whole.")
    return [*lines, ""]


def _figures(manifest: Manifest) -> list[str]:
    estimators = manifest.metrics.get("estimators", {})
    if not estimators:
        return []
    shown = {key: title for key, title in _OTHERS.items() if key in estimators}
    lines = [
        "## Figures",
        "",
        "Each cell is scored by a network that has not learned from its subject. "
        "Value (95 % interval over subject groups).",
        "",
        f"| Figure | {' | '.join(shown.values())} |",
        f"|---|{'---|' * len(shown)}",
    ]
    for name, title in _FIGURES.items():
        if name in estimators["model"]:
            lines.append(f"| {title} | {' | '.join(span(estimators[key][name]) for key in shown)} |")
    points = manifest.metrics.get("operating_points", {})
    if points:
        lines += ["", "| Operating point | Threshold | Sensitivity | Specificity |", "|---|---|---|---|"]
    for name, row in points.items():
        edge = manifest.operating_points.get(name)
        threshold = f"{edge:.3f}" if edge is not None else "–"
        lines.append(
            f"| {_POINTS.get(name, name)} | {threshold} | {span(row['sensitivity'])} | {span(row['specificity'])} |"
        )
    return [*lines, "", *_other_tests(manifest)]


def _other_tests(manifest: Manifest) -> list[str]:
    """What the same settings reach when they are tested otherwise, such as on another part than they learned from."""
    others = manifest.metrics.get("other_tests", [])
    if not others:
        return []
    lines = ["### The same settings, tested otherwise", "", "| Test | Cells | Groups | AUROC | Cell size alone |"]
    lines.append("|---|---|---|---|---|")
    for other in others:
        auroc = {name: span(figures["auroc"]) for name, figures in other["estimators"].items()}
        data = other["data"]
        lines.append(
            f"| {other['test']} | {data['cells']:,} | {data['groups']} | {auroc['model']} | {auroc.get('size', '–')} |"
        )
    return [*lines, ""]


def _subjects(manifest: Manifest) -> list[str]:
    worst = manifest.metrics.get("worst_subjects", [])
    if not worst:
        return []
    lines = [
        "## The subjects it is worst on",
        "",
        f"Of those with {TELLING} cells or more, where there are any. The last column tells how many cells of other "
        "subjects of the same class are smaller than the middle one of this subject: far from 50 % its cells are of "
        "unusual size.",
        "",
        "| Subject group | Is | Cells | Right | Smaller cells elsewhere |",
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
        "- For research. It is no medical device, and nothing it says is a diagnosis.",
        "- It knows single, segmented cells of the kind named above. With cells of another laboratory, camera or stain "
        "its figures do not hold: published models fall to an AUROC of .55 to .75 there.",
    ]
    if len(manifest.members) > 1 and "adapted_from" not in manifest.training:  # new heads are measured together
        lines.append(
            "- The figures are those of the single networks on subjects they had not seen; their average cannot be "
            "tested on the same subjects, since each of these is known to some of them."
        )
    return [*lines, *(f"- {note}" for note in manifest.metrics.get("notes", [])), ""]


def _provenance(manifest: Manifest) -> list[str]:
    training = manifest.training
    if not training:
        return []
    made = training.get("made", {})
    lines = ["## How it was made", ""]
    lines += [f"- {title}: {training[key]}" for key, title in _FINGERPRINTS.items() if key in training]
    if made:
        packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
        commit = f", commit {made['commit']}" if made.get("commit") else ""
        lines.append(f"- leukoscope {made['version']}{commit}, {packages}, seed {made['seed']}, {made['started']}")
    return [*lines, ""]
