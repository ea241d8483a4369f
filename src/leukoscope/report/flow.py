"""Who went where: from the images that were found to the cells that were tested."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifacts import read_json
from ..data.groups import group_of_subject
from ..data.split import SETS
from ..evaluation.evaluate import Evidence


def flow(run: Path, evidence: Evidence) -> dict[str, Any]:
    """Count images, subjects and subject groups at every step, in every fold."""
    cells, plan = evidence.cells, evidence.plan
    folds = [_fold(evidence, fold) for fold in evidence.predictions.folds]
    found = {"images": len(cells), "subjects": len({cell.subject for cell in cells}), "groups": len(plan.groups)}
    return {
        "found": found,
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
    path = run / "audit.json"
    if not path.exists():
        return []
    rows: Iterable[dict[str, Any]] = read_json(path).get("unusable", [])
    names = {cell.name for cell in evidence.cells}
    gone = [row for row in rows if row.get("name") not in names]
    return [{"reason": "unusable as an image, named in audit.json", "cells": len(gone)}] if gone else []
