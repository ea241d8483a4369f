"""What the terminal says of each stage of a run, and of an audit."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.cells import Cell, classes_of
from ..data.split import SplitPlan


def lines_of(stage: str, result: Any) -> list[str]:
    """Return the lines for a stage and what came of it (pipeline.run_experiment), its name in the first column."""
    texts = _TEXTS[stage](result)
    return [f"{stage if not number else '':<9} {text}" for number, text in enumerate(texts)]


def describe_cells(cells: Sequence[Cell]) -> str:
    """Say in one line how many images of how many subjects and classes there are."""
    subjects = len({cell.subject for cell in cells if cell.subject})
    per_class = ", ".join(f"{sum(cell.label == name for cell in cells):,} {name}" for name in classes_of(cells))
    unlabelled = sum(not cell.label for cell in cells)
    return f"{len(cells):,} images of {subjects} subjects: {per_class}" + f", {unlabelled} unlabelled" * bool(
        unlabelled
    )


def describe_audit(found: dict[str, Any]) -> str:
    """Say in one sentence what an audit found."""
    exact, near = found["exact_duplicates"], found["near_duplicates"]
    text = f"{exact['pairs']} identical pairs ({exact['across_subjects']} across subject ids), "
    text += f"{near['pairs']} near-identical ({near['across_subjects']} across)"
    if found["joined_subjects"]:
        text += "; kept together: " + ", ".join("=".join(group) for group in found["joined_subjects"])
    if found["unusable"]:
        text += f"; unusable images: {len(found['unusable'])}"
    return text


def describe_shortcuts(measured: dict[str, Any]) -> str:
    """Say in one sentence how far the shortcuts go."""
    if "not_measured" in measured:
        return f"Shortcuts were not measured: {measured['not_measured']}."
    size, colour = (
        "{value:.3f} (95 % interval {low:.3f} to {high:.3f})".format(**measured[name]) for name in ("size", "colour")
    )
    return f"AUROC of cell size alone {size}, of mean colour alone {colour}; chance is 0.5."


def describe_parts(found: dict[str, Any]) -> str:
    """Return a table of the parts of an audited data set: images, subjects, classes."""
    rows = [f"{'part':12} {'images':>7} {'subjects':>8}  classes"]
    for part, facts in found["parts"].items():
        classes = ", ".join(f"{number:,} {name}" for name, number in facts["classes"].items())
        rows.append(f"{part or '(none)':12} {facts['images']:7,} {facts['subjects']:8}  {classes}")
    return "\n".join(rows)


def describe_split(plan: SplitPlan, cells: Sequence[Cell]) -> str:
    """Say in one sentence who is trained and tested on."""
    labelled = sum(bool(cell.label) for cell in cells)
    tested = np.unique(
        np.concatenate([np.flatnonzero(plan.sets(cells, fold=k) == "test") for k in range(len(plan.folds))])
    )
    text = f"{plan.scheme}, {len(plan.folds)} fold{'s' * (len(plan.folds) > 1)}; "
    text += f"{len(tested):,} of {labelled:,} labelled cells are tested on"
    if plan.leaky:
        text += "; LEAKY: images of one patient are on both sides"
    for row in plan.excluded:
        text += f"; {row.cells} cells of {row.group} in {row.part} left out ({row.reason})"
    return text


_TEXTS: dict[str, Callable[[Any], list[str]]] = {
    "index": lambda result: [describe_cells(result[0]), *result[1]],
    "audit": lambda found: [describe_audit(found), describe_shortcuts(found["shortcuts"])],
    "split": lambda result: [describe_split(*result)],
    "pack": lambda result: [f"{result[0]:,} crops of {result[1].size} px ({result[1].view} view)"],
    "train": lambda settings: [f"{settings.model.name}, {settings.train.epochs} epochs, mode {settings.train.mode}"],
    "evaluate": lambda metrics: [metrics["verdict"]["text"]],
}
