"""The three kinds of drawing that the studies need, in the look of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..report.style import BAD, GOOD, INK, MODEL, MUTED, SIZE, canvas, drawing

Number = dict[str, Any]
COLOURS = (MODEL, SIZE, GOOD, BAD, MUTED, INK)
_MARKS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Line:
    """One line with its band."""

    x: Sequence[float]
    numbers: Sequence[Number]
    """value, low, high at each x; a band only where there is one."""
    dashed: bool = False


def dots(
    name: str, rows: Mapping[str, Number], *, x: str, chance: float | None = None,
    beside: Mapping[str, Number] | None = None, legend: tuple[str, str] = ("", ""),
) -> str:  # fmt: skip
    """Draw one dot with its interval per row, the first on top; a dotted line where guessing stands.

    beside: a second dot of some rows, a little lower; `legend` then says what the first and the second are.
    """
    with canvas(height=0.9 + 0.34 * len(rows) + (0.6 if beside else 0)) as (figure, axes):
        if chance is not None:
            axes.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for place, row in enumerate(rows):
            _dot(axes, rows[row], place - (0.15 if beside else 0), series=0)
            if beside and row in beside:
                _dot(axes, beside[row], place + 0.15, series=1)
        if beside:
            for series, label in enumerate(legend):
                axes.plot([], [], color=COLOURS[series], marker=_MARKS[series], linestyle="", label=label)
            figure.legend(fontsize=8.5, loc="outside upper right")
        axes.set_yticks(range(len(rows)), list(rows), fontsize=9.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(x)
        axes.grid(visible=False, axis="y")
        return drawing(figure, name)


def _dot(axes: Any, number: Number, place: float, *, series: int) -> None:
    if number["value"] is None:
        return
    colour = COLOURS[series]
    if number["low"] is not None:
        axes.hlines(place, number["low"], number["high"], color=colour, linewidth=2.5, alpha=0.45)
    axes.plot(number["value"], place, color=colour, marker=_MARKS[series], markersize=6)


def lines(
    name: str, drawn: Mapping[str, Line], *, x: str, y: str, log: bool = False, chance: float | None = None
) -> str:
    """Draw lines with their bands, told apart by colour and by mark."""
    with canvas(height=3.2) as (figure, axes):
        if chance is not None:
            axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        for place, (label, line) in enumerate(drawn.items()):
            _line(axes, line, label=label, place=place)
        if log:
            axes.set_xscale("log")
            places = sorted({each for line in drawn.values() for each in line.x})
            axes.set_xticks(places, [f"{each:,.0f}" for each in places], fontsize=9)
            axes.set_xticks([], minor=True)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(fontsize=8.5, loc="best")
        return drawing(figure, name)


def _line(axes: Any, line: Line, *, label: str, place: int) -> None:
    colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
    value, low, high = (
        np.array([np.nan if n[each] is None else n[each] for n in line.numbers]) for each in ("value", "low", "high")
    )
    axes.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
    style, mark = ((0, (3, 2)), "") if line.dashed else ("-", mark)
    axes.plot(line.x, value, color=colour, marker=mark, markersize=4, linestyle=style, label=label)


def confusions(name: str, tables: Mapping[str, Sequence[Sequence[float]]], *, labels: Sequence[str]) -> str:
    """Draw confusion matrices side by side; depth of colour is the share of the true class, numbers are means."""
    with canvas(height=2.4) as (figure, first):
        figure.delaxes(first)
        for axes, (title, matrix) in zip(
            figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True
        ):
            _matrix(axes, np.array(matrix, dtype=float), labels=labels)
            axes.set_title(title, fontsize=10)
        return drawing(figure, name)


def _matrix(axes: Any, matrix: Any, *, labels: Sequence[str]) -> None:
    size, shares = len(labels), matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-9)
    for row, column in np.ndindex(size, size):
        colour = MODEL if row == column else SIZE
        alpha = 0.08 + 0.42 * shares[row, column]
        axes.axhspan(row - 0.48, row + 0.48, (column + 0.02) / size, (column + 0.98) / size, color=colour, alpha=alpha)
        axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", fontsize=12)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xticks(range(size), labels, fontsize=9)
    axes.set_yticks(range(size), labels, fontsize=9, rotation=90, va="center")
    axes.set_xlabel("said", fontsize=9)
    axes.set_ylabel("is", fontsize=9)
    axes.grid(visible=False)
    axes.tick_params(length=0)
