"""Cells as small pictures inside the page: before and after preparation, and the worst mistakes."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.pack import open_pack
from ..errors import DataError
from ..evaluation.evaluate import Evidence
from ..evaluation.metrics import Ints
from ..evaluation.outcomes import Outcome
from ..images.read import read_image

SIDE = 160  # pixels of a picture on the page
_MISTAKES = 12
_EXAMPLES = 3  # of each class


def picture(image: NDArray[np.uint8], *, side: int = SIDE) -> str:
    """Return an RGB image (height, width, 3), shrunk to `side` pixels, as a data: address."""
    small = Image.fromarray(np.ascontiguousarray(image))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def crops_of(run: Path, evidence: Evidence) -> NDArray[np.uint8] | None:
    """Return the packed crops, or None when the run holds none that fit its cells."""
    try:
        crops = open_pack(run / "pack")
    except (DataError, OSError, ValueError):
        return None
    return crops if len(crops) == len(evidence.cells) else None


def examples(evidence: Evidence, crops: NDArray[np.uint8] | None) -> list[dict[str, Any]]:
    """Return a few tested cells of each class before and after preparation, from different subjects."""
    return [
        {
            "label": name,
            "subject": evidence.cells[row].subject,
            "before": _original(evidence.cells[row].path),
            "size": f"{evidence.cells[row].width} × {evidence.cells[row].height}",
            "after": None if crops is None else picture(crops[row]),
        }
        for index, name in enumerate(evidence.predictions.classes)
        for row in _spread(evidence, index)
    ]


def _spread(evidence: Evidence, label: int) -> list[int]:
    """Pick cells of one class from subjects far apart in the table."""
    chosen = evidence.predictions.test & (evidence.predictions.label == label)
    rows = evidence.rows[chosen]
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(evidence.cells[row].subject, row)
    candidates = list(first.values()) if len(first) >= _EXAMPLES else rows.tolist()
    places = np.unique(np.linspace(0, len(candidates) - 1, _EXAMPLES).astype(int)) if candidates else np.array([], int)
    return [candidates[place] for place in places.tolist()]


def _original(path: Path) -> str | None:
    try:
        return picture(read_image(path))
    except (DataError, OSError):  # the images may have been moved since the run; the page says so
        return None


def mistakes(evidence: Evidence, outcome: Outcome, crops: NDArray[np.uint8] | None) -> list[dict[str, Any]]:
    """Return the wrong decisions that the model was surest of."""
    wrong = np.flatnonzero(outcome.labels != outcome.predicted)
    worst = wrong[np.argsort(-outcome.certainty[wrong], kind="stable")][:_MISTAKES]
    tested: Ints = evidence.rows[evidence.predictions.test]
    return [_mistake(evidence, outcome, int(cell), int(tested[cell]), crops) for cell in worst]


def _mistake(
    evidence: Evidence, outcome: Outcome, cell: int, row: int, crops: NDArray[np.uint8] | None
) -> dict[str, Any]:
    classes = evidence.predictions.classes
    said = int(outcome.predicted[cell])
    return {
        "picture": None if crops is None else picture(crops[row], side=128),
        "is": classes[outcome.labels[cell]],
        "said": classes[said],
        "probability": float(outcome.probabilities[cell, said]),
        "subject": evidence.cells[row].subject,
        "name": evidence.cells[row].name,
    }
