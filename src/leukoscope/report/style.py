"""How every page is filled in: escaped, loud about a name that is missing, with cells as small pictures."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..data.cells import open_pack
from ..errors import DataError
from ..evaluation.evaluate import Evidence
from ..evaluation.metrics import Ints
from ..evaluation.outcomes import Outcome
from ..images.read import read_image


def environment(**filters: Any) -> jinja2.Environment:
    """Return the environment of this room's templates, with `thousands` and the page's own filters."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("leukoscope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"thousands": "{:,}".format} | filters
    return made


# role -> (stand-in while drawing, on light ground, on dark ground)
COLOURS = {
    "ink": ("#010101", "#1d2733", "#e6e9ed"),
    "muted": ("#020202", "#66717e", "#98a2ae"),
    "grid": ("#030303", "#dde2e8", "#333c47"),
    "model": ("#040404", "#0067a3", "#5cb8ea"),
    "size": ("#050505", "#b85300", "#efa24d"),
    "good": ("#060606", "#007a5a", "#3fc79c"),
    "bad": ("#070707", "#b0323f", "#f08a90"),
    "paper": ("#080808", "#ffffff", "#171c22"),
}
INK, MUTED, GRID, MODEL, SIZE, GOOD, BAD, PAPER = (colours[0] for colours in COLOURS.values())
WIDTH = 4.3  # inches; drawn for a phone's width, so that the letters stay readable there
HEIGHT = 3.5

_RULES: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.facecolor": "none",
}


@contextmanager
def canvas(*, height: float = HEIGHT) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its axes in the style of all pages; no window and no global state is touched."""
    with mpl.rc_context(_RULES):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def drawing(figure: Figure, name: str) -> str:
    """Return the figure as SVG in stand-in colours; its ids begin with `name`, so that figures share one page."""
    stream = io.StringIO()
    with mpl.rc_context(_RULES | {"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def for_page(svg: str, *, alt: str) -> str:
    """Return a drawing whose colours follow the page, with words for those who cannot see it."""
    for role, (stand_in, *_) in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{role})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\s(xmlns:?\w*|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(alt)}"', 1)


def for_file(svg: str) -> str:
    """Return a drawing in the colours of light ground, as a file of its own."""
    for stand_in, light, _ in COLOURS.values():
        svg = svg.replace(stand_in, light)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


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
