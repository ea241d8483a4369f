"""The drawings of the report, from the numbers of metrics.json and history.csv."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.split import SETS, group_of_subject
from ..evaluation.evaluate import Evidence
from ..files import read_json
from ..images.read import changes_in_words
from .style import BAD, GOOD, HEIGHT, INK, MODEL, MUTED, PAPER, SIZE, canvas, drawing

_PERCENT = [0, 0.25, 0.5, 0.75, 1]
_CLASS_COLOURS = (MODEL, SIZE, GOOD, BAD)
_STYLES = ("-", "--", "-.", ":")


def roc(curve: dict[str, Any], *, names: tuple[str, str]) -> str:
    """Draw the ROC curve with its band, or one line per class; names: normal and ill cells, in plain words."""
    with canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.text(0.6, 0.5, "guessing", color=MUTED, va="top", fontsize=9.5)
        _curves(axes, curve)
        _unit(axes, x=f"{names[0]} wrongly alarmed at", y=f"{names[1]} found")
        return drawing(figure, "roc")


def pr(curve: dict[str, Any], *, share: float | None, names: tuple[str, str]) -> str:
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
        _unit(axes, x=f"{names[1]} found", y="alarms that are right")
        return drawing(figure, "pr")


def _curves(axes: Any, curve: dict[str, Any]) -> None:
    classes = curve["classes"]
    for number, (name, line) in enumerate(classes.items()):
        colour = _CLASS_COLOURS[number % len(_CLASS_COLOURS)]
        style = _STYLES[number // len(_CLASS_COLOURS) % len(_STYLES)]
        if len(classes) == 1:
            _band(axes, curve["grid"], line, colour=colour)
        axes.plot(curve["grid"], _floats(line["value"]), color=colour, linestyle=style, label=name)
    if len(classes) > 1:
        axes.legend(loc="best", fontsize=9.5)


def reliability(curve: dict[str, Any], smooth: dict[str, Any] | None = None) -> str:
    """Draw how often the disease was there against the claimed probability: smoothed with its band, and in bins."""
    with canvas() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.text(0.66, 0.56, "as claimed", color=MUTED, va="top", fontsize=9.5)
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
        _unit(axes, x="probability claimed", y="share that came true")
        return drawing(figure, "reliability")


def decision(curve: dict[str, Any]) -> str:
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
        axes.set_xlabel("probability at which one would act")
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


def risk_coverage(curve: dict[str, Any]) -> str:
    """Draw how the share of wrong decisions falls when only the surest cells are decided."""
    with canvas() as (figure, axes):
        _band(axes, curve["grid"], curve, colour=MODEL)
        axes.plot(curve["grid"], _floats(curve["value"]), color=MODEL)
        top = max([value for value in (*curve["high"], *curve["value"]) if value is not None], default=1.0)
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, min(1.0, max(0.05, top * 1.1)))
        axes.set_xticks(_PERCENT, [f"{value:.0%}" for value in _PERCENT])
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_locator(_few_ticks())
        axes.set_xlabel("cells decided, the surest first")
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
        axes.set_xlabel("what the model says")
        axes.set_ylabel("what the cell is")
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


def _band(axes: Any, grid: list[float], line: dict[str, Any], *, colour: str) -> None:
    axes.fill_between(grid, _floats(line["low"]), _floats(line["high"]), color=colour, alpha=0.18, linewidth=0)


def _unit(axes: Any, *, x: str, y: str) -> None:
    for scale, limits in ((axes.set_xticks, axes.set_xlim), (axes.set_yticks, axes.set_ylim)):
        scale(_PERCENT, [f"{value:.0%}" for value in _PERCENT])
        limits(-0.01, 1.01)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _floats(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])


def flow(run: Path, evidence: Evidence) -> dict[str, Any]:
    """Count images, subjects and subject groups at every step, in every fold."""
    cells, plan = evidence.cells, evidence.plan
    folds = [_fold(evidence, fold) for fold in evidence.predictions.folds]
    found = {"images": len(cells), "subjects": len({cell.subject for cell in cells}), "groups": len(plan.groups)}
    return {
        "found": found,
        "changes": changes_in_words(Counter(_audited(run).get("changes", {}))),
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
    rows: Iterable[dict[str, Any]] = _audited(run).get("unusable", [])
    names = {cell.name for cell in evidence.cells}
    gone = [row for row in rows if row.get("name") not in names]
    return [{"reason": "unusable as an image, named in audit.json", "cells": len(gone)}] if gone else []


def _audited(run: Path) -> dict[str, Any]:
    """Return the audit; nothing where it was taken away."""
    path = run / "audit.json"
    return dict(read_json(path)) if path.exists() else {}
