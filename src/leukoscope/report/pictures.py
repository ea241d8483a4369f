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
            "after": None if crops is None else picture(planes(crops[row])),
        }
        for index, name in enumerate(evidence.predictions.classes)
        for row in _spread(evidence, index)
    ]


def planes(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a crop (side, side, 3) and its red, green and blue as four tiles, (2 side, 2 side, 3).

    Each channel is drawn from its lowest value inside the cell, black, to its highest, white: standardisation does not
    change this.
    """
    low, high = np.percentile(_lit([crop]), [1, 99], axis=0)
    grey = np.round(255 * np.clip((crop - low) / np.maximum(high - low, 1), 0, 1)).astype(np.uint8)
    tiles = [crop, *(np.repeat(grey[..., channel : channel + 1], 3, axis=2) for channel in range(3))]
    return np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])


Histograms = list[dict[str, Any]]


def values_of(
    evidence: Evidence, crops: NDArray[np.uint8] | None, *, rescaling: dict[str, list[float]]
) -> tuple[Histograms, Histograms] | None:
    """Return histograms by channel of the example cells as they came and as the network gets them.

    rescaling: mean and std of each channel, of values from 0 to 1. None where images or crops are not at hand.
    """
    rows = [row for index in range(len(evidence.predictions.classes)) for row in _spread(evidence, index)]
    images = [image for row in rows if (image := _read(evidence.cells[row].path)) is not None]
    if crops is None or not images:
        return None
    prepared = _lit([crops[row] for row in rows]) / 255
    standard = (prepared - np.array(rescaling["mean"])) / np.array(rescaling["std"])
    return _histograms(_lit(images)), _histograms(standard)


def _lit(images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return all pixels that are not black: (pixels, 3)."""
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(float)
    lit = pixels[pixels.sum(1) > 0]
    return lit if len(lit) else pixels


def _histograms(values: NDArray[np.float64]) -> Histograms:
    edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), 33)
    return [
        {"edges": edges, "shares": np.histogram(values[:, channel], edges)[0] / len(values)} for channel in range(3)
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
    image = _read(path)
    return None if image is None else picture(image)


def _read(path: Path) -> NDArray[np.uint8] | None:
    try:
        return read_image(path)
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
