"""The page of a study: Markdown, SVG figures and one JSON with every number, written by the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_json, write_text
from ..report.style import BAD, GOOD, INK, MODEL, MUTED, SIZE, canvas, drawing, for_file

Number = dict[str, Any]
Cell = str | int | Number | None
_BY_THE_RUN = "<!-- Written by `{command}`; do not edit. -->"


@dataclass(frozen=True)
class Figure:
    """One drawing, in the house's stand-in colours."""

    name: str
    svg: str
    words: str
    """What it shows, for those who cannot see it too."""


@dataclass(frozen=True)
class Section:
    """A heading with sentences, tables and figures under it."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    figures: Sequence[Figure] = ()
    pictures: Sequence[tuple[str, str]] = ()
    """(file, words) of pictures that lie beside the page already."""


@dataclass(frozen=True)
class Page:
    """What a study found."""

    answer: str
    """One plain sentence, made of the numbers."""
    ran_on: dict[str, str]
    """Images, network, what an interval is of: fact -> words."""
    sections: list[Section]
    numbers: dict[str, Any]
    """All numbers, for JSON."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frame:
    """What stands around the findings of every study."""

    name: str
    title: str
    claim: str
    command: str
    settings: dict[str, str]
    """Seeds, images, size, versions: fact -> words."""
    smaller: str
    """How the run was made small; empty for the full study."""
    synthetic: bool


def write_page(folder: Path, frame: Frame, page: Page) -> Path:
    """Write FOLDER/<name>.md, <name>.json and <name>-*.svg; return the page's path."""
    for section in page.sections:
        for figure in section.figures:
            write_text(folder / _file(frame, figure), for_file(figure.svg))
    facts = page.ran_on | frame.settings
    table = {"format": 1, "study": frame.name, "claim": frame.claim, "answer": page.answer, "command": frame.command,
             "ran_on": facts, "made_smaller": frame.smaller, "synthetic": frame.synthetic}  # fmt: skip
    write_json(folder / f"{frame.name}.json", table | page.numbers)
    path = folder / f"{frame.name}.md"
    write_text(path, _markdown(frame, page, facts))
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a Markdown table; numbers with an interval become 'value (low to high)'.

    >>> print(table(["arm", "AUROC"], [["model", {"value": 0.5, "low": 0.25, "high": 0.75}]]))
    | arm | AUROC |
    |---|---|
    | model | 0.500 (0.250 to 0.750) |
    """
    lines = [_row(columns), "|" + "---|" * len(columns), *(_row([shown(cell) for cell in row]) for row in rows)]
    return "\n".join(lines)


def shown(cell: Cell, *, signed: bool = False) -> str:
    """Return a cell of a table as text.

    >>> shown({"value": 0.1, "low": None, "high": None}), shown(1200), shown(None)
    ('0.100 (no interval)', '1,200', '–')
    """
    if cell is None or (isinstance(cell, dict) and cell["value"] is None):
        return "–"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, str):
        return cell
    sign = "+" if signed or cell.get("signed") else ""
    value, low, high = (None if cell[each] is None else f"{cell[each]:{sign}.3f}" for each in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if low is not None and high is not None else f"{value} (no interval)"


def signed(difference: Number) -> Number:
    """Mark a number as a difference, so that its sign is shown."""
    return difference | {"signed": True}


def _markdown(frame: Frame, page: Page, facts: dict[str, str]) -> str:
    blocks = [_BY_THE_RUN.format(command=frame.command), f"# {frame.title}"]
    blocks += [f"**Claim.** {frame.claim}", f"**Answer.** {page.answer}", *_warnings(frame)]
    for section in page.sections:
        blocks += [f"## {section.title}", *([section.text] if section.text else [])]
        blocks += [table(section.columns, section.rows)] if section.rows else []
        blocks += [f"![{figure.words}]({_file(frame, figure)})\n\n*{figure.words}*" for figure in section.figures]
        blocks += [f"![{words}]({file})\n\n*{words}*" for file, words in section.pictures]
    blocks += ["## What it ran on", table(["", ""], [[name, words] for name, words in facts.items()])]
    blocks += ["\n".join(f"- {note}" for note in page.notes)] if page.notes else []
    blocks += [f"Run it again; on the full release give its folder to `--data`:\n\n```sh\n{frame.command}\n```"]
    blocks += [f"All numbers: [{frame.name}.json]({frame.name}.json)."]
    return "\n\n".join(blocks) + "\n"


def _warnings(frame: Frame) -> list[str]:
    warnings = []
    if frame.smaller:
        warnings.append(f"> **Made small.** {frame.smaller} It shows that the study runs, and no more.")
    if frame.synthetic:
        warnings.append("> **Synthetic cells.** The program drew these cells itself: nothing here is about blood.")
    return warnings


def _file(frame: Frame, figure: Figure) -> str:
    return f"{frame.name}-{figure.name}.svg"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


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
