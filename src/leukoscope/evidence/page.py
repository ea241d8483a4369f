"""The page of a study: Markdown, SVG figures and one JSON with every number, written by the run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifacts import write_json, write_text
from ..report.style import for_file

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
    painted: bool


def write_page(folder: Path, frame: Frame, page: Page) -> Path:
    """Write FOLDER/<name>.md, <name>.json and <name>-*.svg; return the page's path."""
    for section in page.sections:
        for figure in section.figures:
            write_text(folder / _file(frame, figure), for_file(figure.svg))
    facts = page.ran_on | frame.settings
    table = {"format": 1, "study": frame.name, "claim": frame.claim, "answer": page.answer, "command": frame.command,
             "ran_on": facts, "made_smaller": frame.smaller, "painted": frame.painted}  # fmt: skip
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
    if frame.painted:
        warnings.append("> **Painted cells.** The program drew these cells itself: nothing here is about blood.")
    return warnings


def _file(frame: Frame, figure: Figure) -> str:
    return f"{frame.name}-{figure.name}.svg"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
