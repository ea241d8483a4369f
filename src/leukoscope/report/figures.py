"""Figures: the style of all pages, cells as small pictures, and the drawings of report.html."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..data.cells import open_pack
from ..errors import DataError
from ..evaluation.evaluate import Evidence
from ..evaluation.intervals import Band
from ..evaluation.metrics import Ints
from ..evaluation.outcomes import Outcome
from ..evaluation.results import CurveByClass, DecisionCurve, GridBand, ReliabilityDiagram
from ..images.read import read_image

# role -> (placeholder while drawing, on light ground, on dark ground)
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
    """Return the figure as SVG in placeholder colours; its ids begin with `name`, so that figures share one page."""
    stream = io.StringIO()
    with mpl.rc_context(_RULES | {"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def for_page(svg: str, *, alt: str) -> str:
    """Return a drawing whose colours follow the page, with words for those who cannot see it."""
    for role, (placeholder, *_) in COLOURS.items():
        svg = svg.replace(placeholder, f"var(--{role})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\s(xmlns:?\w*|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(alt)}"', 1)


def for_file(svg: str) -> str:
    """Return a drawing in the colours of light ground, as a file of its own."""
    for placeholder, light, _ in COLOURS.values():
        svg = svg.replace(placeholder, light)
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
    except (DataError, OSError):  # the images may have been moved since the run; the page shows that
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
    called = int(outcome.predicted[cell])
    return {
        "picture": None if crops is None else picture(crops[row], side=128),
        "is": classes[outcome.labels[cell]],
        "called": classes[called],
        "probability": float(outcome.probabilities[cell, called]),
        "subject": evidence.cells[row].subject,
        "name": evidence.cells[row].name,
    }


_PERCENT = [0, 0.25, 0.5, 0.75, 1]
_CLASS_COLOURS = (MODEL, SIZE, GOOD, BAD)
_STYLES = ("-", "--", "-.", ":")


def roc(curve: CurveByClass, *, names: tuple[str, str]) -> str:
    """Draw the ROC curve with its band, or one line per class; names: normal and ill cells, in plain words."""
    with canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.text(0.6, 0.5, "guessing", color=MUTED, va="top", fontsize=9.5)
        _curves(axes, curve)
        _unit(axes, x=f"false alarms among {names[0]}", y=f"{names[1]} found")
        return drawing(figure, "roc")


def pr(curve: CurveByClass, *, share: float | None, names: tuple[str, str]) -> str:
    """Draw the precision–recall curve with its band; share: the precision of guessing, where there is one."""
    with canvas() as (figure, axes):
        if share is not None:
            axes.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
            below = share > 0.3
            axes.text(
                0.02,
                share + (-0.03 if below else 0.02),
                "guessing",
                color=MUTED,
                fontsize=9.5,
                va="top" if below else "bottom",
            )
        _curves(axes, curve)
        _unit(axes, x=f"{names[1]} found", y="alarms that are correct")
        return drawing(figure, "pr")


def _curves(axes: Any, curve: CurveByClass) -> None:
    classes = curve["classes"]
    for number, (name, line) in enumerate(classes.items()):
        colour = _CLASS_COLOURS[number % len(_CLASS_COLOURS)]
        style = _STYLES[number // len(_CLASS_COLOURS) % len(_STYLES)]
        if len(classes) == 1:
            _band(axes, curve["grid"], line, colour=colour)
        axes.plot(curve["grid"], _floats(line["value"]), color=colour, linestyle=style, label=name)
    if len(classes) > 1:
        axes.legend(loc="best", fontsize=9.5)


def reliability(curve: ReliabilityDiagram, smooth: GridBand | None = None) -> str:
    """Draw the observed share of the disease against its predicted probability: smoothed with its band, and in bins."""
    with canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.text(0.66, 0.56, "ideal", color=MUTED, va="top", fontsize=9.5)
        x, y = _floats(curve["mean_probability"]), _floats(curve["value"])
        low, high = _floats(curve["low"]), _floats(curve["high"])
        cells = np.array(curve["cells"], dtype=float)
        sizes = 20 + 130 * cells / max(1, cells.max())
        if smooth:
            _band(axes, smooth["grid"], smooth, colour=MODEL)
            axes.plot(smooth["grid"], _floats(smooth["value"]), color=MODEL)
            axes.scatter(x, y, s=sizes, facecolor="none", edgecolor=SIZE, linewidth=1.2, zorder=3)
        else:
            axes.vlines(x, low, high, color=MODEL, linewidth=2, alpha=0.5)
            axes.plot(x, y, color=MODEL, linewidth=1.2, alpha=0.7)
            axes.scatter(x, y, s=sizes, color=MODEL, edgecolor=PAPER, linewidth=1, zorder=3)
        _unit(axes, x="predicted probability", y="observed share")
        return drawing(figure, "reliability")


def decision(curve: DecisionCurve) -> str:
    """Draw the net benefit of the model and of calling every cell the disease, by threshold probability."""
    with canvas() as (figure, axes):
        grid, model = np.array(curve["grid"]), _floats(curve["model"]["value"])
        everyone = _floats(curve["all"]["value"])
        _band(axes, curve["grid"], curve["model"], colour=MODEL)
        axes.plot(grid, model, color=MODEL, label="model")
        axes.plot(grid, everyone, color=SIZE, linewidth=1.4, linestyle="--", label="call all")
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="call none")
        top = np.nanmax(np.append(np.concatenate([model, everyone]), 0.05))
        axes.set_ylim(-0.35 * top, 1.1 * top)
        axes.set_xlim(0, 1)
        axes.set_xticks(_PERCENT, [f"{value:.0%}" for value in _PERCENT])
        axes.yaxis.set_major_locator(_few_ticks())
        axes.set_xlabel("threshold probability")
        axes.set_ylabel("net benefit per cell")
        axes.legend(fontsize=9.5, loc="lower left")
        return drawing(figure, "decision")


def histograms(channels: list[dict[str, Any]], *, name: str, x: str) -> str:
    """Draw how often each value of red, green and blue is in a picture; channels: edges and shares of each."""
    with canvas(height=HEIGHT * 0.5) as (figure, axes):
        for channel, colour, style in zip(channels, (BAD, GOOD, MODEL), _STYLES, strict=False):
            axes.stairs(channel["shares"], channel["edges"], color=colour, linewidth=1.3, linestyle=style)
        axes.set_xlabel(x)
        axes.set_yticks([])
        return drawing(figure, name)


def risk_coverage(curve: GridBand) -> str:
    """Draw how the share of wrong decisions falls when only the most certain cells are decided."""
    with canvas() as (figure, axes):
        _band(axes, curve["grid"], curve, colour=MODEL)
        axes.plot(curve["grid"], _floats(curve["value"]), color=MODEL)
        top = max([value for value in (*curve["high"], *curve["value"]) if value is not None], default=1.0)
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, min(1.0, max(0.05, top * 1.1)))
        axes.set_xticks(_PERCENT, [f"{value:.0%}" for value in _PERCENT])
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_locator(_few_ticks())
        axes.set_xlabel("share of cells decided, most certain first")
        axes.set_ylabel("wrong decisions among them")
        return drawing(figure, "risk")


def confusion(labels: list[str], matrix: list[list[int]]) -> str:
    """Draw the confusion matrix: depth of colour is the share of the true class."""
    table = np.array(matrix, dtype=float)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = len(labels)
    with canvas(height=HEIGHT * (1 if size <= 3 else 1.25)) as (figure, axes):
        for row in range(size):
            for column in range(size):
                _tile(axes, row, column, count=int(table[row, column]), share=shares[row, column], size=size)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_xticks(range(size), labels)
        axes.set_yticks(range(size), labels, rotation=90 if size <= 3 else 0, va="center")
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return drawing(figure, "confusion")


def _tile(axes: Any, row: int, column: int, *, count: int, share: float, size: int) -> None:
    colour = MODEL if row == column else SIZE
    corner = (column - 0.48, row - 0.48)
    axes.add_patch(_rectangle(corner, colour, alpha=0.08 + 0.42 * share))
    big, small = (17, 10.5) if size <= 3 else (12, 9)
    axes.text(column, row - 0.04, f"{count:,}", ha="center", va="bottom", fontsize=big, color=INK)
    axes.text(column, row + 0.06, f"{share:.0%}", ha="center", va="top", fontsize=small, color=INK)


def _rectangle(corner: tuple[float, float], colour: str, *, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 0.96, 0.96, facecolor=colour, alpha=alpha, linewidth=0)


def history(folds: list[list[dict[str, float]]], *, kind: str) -> str:
    """Draw train and validation loss (or accuracy) by epoch, one pair of lines per fold."""
    with canvas(height=HEIGHT * 0.9) as (figure, axes):
        for number, rows in enumerate(folds):
            epochs = [row["epoch"] for row in rows]
            colour = _CLASS_COLOURS[number % len(_CLASS_COLOURS)]
            for name, style in (("train", (0, (3, 2))), ("validation", _STYLES[number // len(_CLASS_COLOURS) % 4])):
                values = [row.get(f"{name}_{kind}", np.nan) for row in rows]
                shade, width = (0.55, 1.1) if name == "train" else (1.0, 1.8)
                label = name if len(folds) == 1 else f"fold {number}" if name == "validation" else None
                axes.plot(epochs, values, color=colour, linewidth=width, linestyle=style, alpha=shade, label=label)
                if len(rows) == 1:
                    axes.plot(epochs, values, color=colour, marker="o")
        axes.set_xlabel("epoch")
        axes.set_ylabel(kind)
        axes.xaxis.set_major_locator(_few_ticks(whole=True))
        axes.legend(fontsize=9.5, loc="best")
        return drawing(figure, f"history-{kind}")


def _few_ticks(*, whole: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=whole, steps=[1, 2, 5, 10])


def _band(axes: Any, grid: list[float], line: Band, *, colour: str) -> None:
    axes.fill_between(grid, _floats(line["low"]), _floats(line["high"]), color=colour, alpha=0.18, linewidth=0)


def _unit(axes: Any, *, x: str, y: str) -> None:
    for scale, limits in ((axes.set_xticks, axes.set_xlim), (axes.set_yticks, axes.set_ylim)):
        scale(_PERCENT, [f"{value:.0%}" for value in _PERCENT])
        limits(-0.01, 1.01)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _floats(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])
