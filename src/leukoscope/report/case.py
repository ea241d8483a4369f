"""The report of a case that people have read: an offline page and a PDF with the same content."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ..bundle.manifest import title_of
from ..evaluation.intervals import Estimate
from ..evaluation.results import CaseAgreement
from ..inference.blood_count import BloodSummary
from ..inference.cell_types import rounded
from ..inference.prevalence import NOT_KNOWN
from ..interop.hl7 import Observation
from . import environment
from .figures import COLOURS

NOTICE = "Research use, not a diagnosis"
_COLUMNS, _CELL_MM, _GAP_MM = 6, 27.0, 5.0
_MARGIN_MM = 15.0
_BY_MODEL = "cells judged by the model alone"
_CAPTION_MM = 14.0  # four lines and a gap
_UNITS = {"um": "µm", "10*9/L": "× 10⁹ per litre"}  # of numbers whose name does not contain it
_LISTED = 40  # names of images in the head of a report; each cell has its own under it


class BlastShare(Estimate):
    """The share of blasts of a case, from 0 to 1."""

    how: str
    """How it was estimated, in words."""


class SignOff(TypedDict):
    """Who signed a case off."""

    by: str | None
    time: str | None
    note: str


class CountedKind(TypedDict):
    """A row of a differential."""

    name: str
    cells: int
    percent: float | None
    low: float | None
    high: float | None


class CountedCells(TypedDict):
    """A differential, see inference.cell_types.Differential."""

    rows: Sequence[CountedKind]
    white: int
    goal: int
    apart: dict[str, int]


@dataclass(frozen=True)
class CaseCell:
    """One cell as the report shows it."""

    number: int
    picture: bytes
    """JPEG."""
    shown: str
    """The label that counts: the reader's, else the model's; "not settled" where the readers differ."""
    chance: float | None
    """Probability of `chance_of` by the model."""
    decision: str
    reason: str = ""
    reader: str = ""
    note: str = ""
    image: str = ""
    """Name of its image file."""


@dataclass(frozen=True)
class CaseReport:
    """The content of a report."""

    name: str
    subject: str
    made: str
    model: str
    bundle: str
    chance_of: str
    share: BlastShare
    by_model: dict[str, int]
    by_reader: dict[str, int]
    signed: SignOff | None
    """None while the case is open."""
    cells: Sequence[CaseCell] = field(default_factory=list)
    credits: Sequence[Mapping[str, Any]] = ()
    differential: Mapping[str, CountedCells] | None = None
    """By 'model' and 'readers'; None without types."""
    blood: BloodSummary | None = None
    """Red cells and platelets of the case's fields; None where none were counted."""
    limits: Sequence[str] = ()
    """Limits of the model."""
    images: Sequence[str] = ()
    """Names of the files that the cells are from."""
    readers: Sequence[str] = ()
    """Readers and their progress, in words."""
    agreement: CaseAgreement | None = None
    """None where one person reads."""
    unsettled: int = 0
    """Cells on which readers differ, not settled yet."""

    @property
    def title(self) -> str:
        """The title: how many of its cells people have read."""
        read, cells = self.read, len(self.cells)
        differ = f"; {self.unsettled:,} not settled" if self.unsettled else ""
        if read == cells:
            return f"{read:,} of {cells:,} cells read by people{differ}" if differ else "cells read by people"
        if not read:
            return _BY_MODEL
        return f"{read:,} of {cells:,} cells read by people, the others by the model alone{differ}"

    @property
    def read(self) -> int:
        """Cells that people have read, whether they agree or not."""
        return sum(self.by_reader.values()) + self.unsettled

    @property
    def headline(self) -> str:
        """The first sentence."""
        value, low, high = self.share["value"], self.share["low"], self.share["high"]
        ends = "" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f} %)"
        if value is None:
            return f"Share of blasts among {len(self.cells):,} cells: {NOT_KNOWN}{ends}."
        return f"{100 * value:.0f} % blasts{ends}"

    @property
    def counted(self) -> list[tuple[str, str, str]]:
        """The differential as rows: kind, counted by the model, counted by readers; empty without types."""
        if not self.differential:
            return []
        model, readers = (_shares(self.differential[who]) for who in ("model", "readers"))
        return [(name, count, readers[name]) for name, count in model.items()]

    @property
    def beside(self) -> list[tuple[str, str, str]]:
        """Red cells and platelets as rows: what is counted, the number with its unit, its 95 % interval."""
        return [
            (row.name, f"{row.value:,.6g} {_UNITS.get(row.unit, '')}".strip(), interval_of(row))
            for row in (self.blood.rows() if self.blood else ())
        ]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The facts at the head of the report."""
        differ = f"; {self.unsettled:,} not settled" if self.unsettled else ""
        state = (
            f"signed off by {self.signed['by']}, {(self.signed['time'] or '')[:16].replace('T', ' ')} UTC"
            if self.signed
            else "open"
        )
        rows = [
            ("Case", self.name),
            ("Subject", self.subject or "–"),
            ("State", state),
            ("Read by people", f"{self.read:,} of {len(self.cells):,} cells{differ}"),
            ("Readers", "; ".join(self.readers) or "–"),
            *_agreement(self.agreement),
            ("Said by the model", _counts(self.by_model)),
            ("Said by readers", _counts(self.by_reader) or "–"),
            ("Images", _named(self.images)),
            ("Model", f"{self.model} ({self.bundle[:12]})"),
            ("Made", self.made),
        ]
        return rows + ([("Note", self.signed["note"])] if self.signed and self.signed["note"] else [])


def page(report: CaseReport) -> str:
    """Return the report as one HTML file that needs nothing else."""
    words = {"in_model_words": in_model_words, "differing": differing}
    template = environment(picture=_address).get_template("case.html")
    return template.render(report=report, groups=_groups(report), notice=NOTICE, colours=COLOURS, **words)


def pdf(report: CaseReport) -> bytes:
    """Return the report as PDF.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    sheet = _sheet(report)
    sheet.set_font("text", "", 9)
    sheet.multi_cell(0, 5, f"leukoscope: {report.title}", new_x="LMARGIN", new_y="NEXT")
    sheet.set_font("text", "B", 15)
    sheet.multi_cell(0, 8, report.headline, new_x="LMARGIN", new_y="NEXT")
    sheet.set_font("text", "", 8)
    sheet.multi_cell(0, 4.5, report.share["how"], new_x="LMARGIN", new_y="NEXT")
    sheet.ln(2)
    if report.limits:
        sheet.multi_cell(
            0, 4.5, "What the model knows, and what not. " + " ".join(report.limits), new_x="LMARGIN", new_y="NEXT"
        )
        sheet.ln(2)
    for name, value in report.facts:
        sheet.set_font("text", "B", 8)
        sheet.cell(34, 5, name)
        sheet.set_font("text", "", 8)
        sheet.multi_cell(0, 5, value, new_x="LMARGIN", new_y="NEXT")
    if report.counted:
        _draw_counted(sheet, report)
    if report.blood:
        _draw_beside(sheet, report)
    if report.agreement and report.agreement["differ"]:
        _draw_differing(sheet, report.agreement)
    for title, cells in _groups(report):
        _draw_group(sheet, title, cells, chance_of=report.chance_of)
    return bytes(sheet.output())


def _sheet(report: CaseReport) -> Any:
    """Return an empty A4 document with a notice on every page that it is not for diagnosis."""
    from matplotlib import get_data_path

    from ..errors import require

    fpdf = require("fpdf", feature="The PDF report", extra="serve")

    class Sheet(fpdf.FPDF):  # type: ignore[name-defined,misc]
        def footer(self) -> None:
            self.set_y(-12)
            self.set_font("text", "", 7)
            self.cell(0, 5, f"{NOTICE}. leukoscope, {report.made}. Page {self.page_no()} of {{nb}}", align="C")

    sheet = Sheet(format="A4")
    fonts = Path(get_data_path()) / "fonts" / "ttf"
    sheet.add_font("text", "", fonts / "DejaVuSans.ttf")
    sheet.add_font("text", "B", fonts / "DejaVuSans-Bold.ttf")
    sheet.set_margins(_MARGIN_MM, _MARGIN_MM)
    sheet.set_auto_page_break(True, margin=16)
    sheet.set_title(f"leukoscope: {report.title}; research use")
    sheet.add_page()
    return sheet


def _draw_counted(sheet: Any, report: CaseReport) -> None:
    """Draw the differential: kinds, the model's count, the readers'."""
    _draw_rows(sheet, [("Differential", "Model", "Readers"), *report.counted], widths=(54, 50, 50))


def _draw_beside(sheet: Any, report: CaseReport) -> None:
    """Draw red cells and platelets: what is counted, the number, its interval; and how far to trust it."""
    _draw_rows(sheet, [("Red cells and platelets", "Program", "95 % interval"), *report.beside], widths=(70, 42, 42))
    if report.blood:
        sheet.multi_cell(0, 4.5, report.blood.sentences[-1], new_x="LMARGIN", new_y="NEXT")


def _draw_rows(sheet: Any, rows: Sequence[Sequence[str]], *, widths: tuple[int, ...]) -> None:
    """Draw a small table, its first row in bold; widths in mm."""
    sheet.ln(4)
    for number, cells in enumerate(rows):
        sheet.set_font("text", "" if number else "B", 8)
        for width, text in zip(widths, cells, strict=True):
            sheet.cell(width, 5, text)
        sheet.ln(5)


def _draw_differing(sheet: Any, agreement: CaseAgreement) -> None:
    """Draw the cells on which the readers differ: all labels, the one that counts, and how it was settled."""
    sheet.ln(4)
    rows = [("Cell", *agreement["readers"], "Stands"), *differing(agreement)]
    width = (sheet.epw - 16) / (len(rows[0]) - 1)
    for number, cells in enumerate(rows):
        sheet.set_font("text", "" if number else "B", 8)
        for column, text in enumerate(cells):
            sheet.cell(width if column else 16, 5, text)
        sheet.ln(5)


def _draw_group(sheet: Any, title: str, cells: Sequence[CaseCell], *, chance_of: str) -> None:
    sheet.ln(4)
    if sheet.will_page_break(_CELL_MM + 18):
        sheet.add_page()
    sheet.set_font("text", "B", 10)
    sheet.cell(0, 7, f"{title}: {len(cells):,}", new_x="LMARGIN", new_y="NEXT")
    for start in range(0, len(cells), _COLUMNS):
        if sheet.will_page_break(_CELL_MM + _CAPTION_MM):
            sheet.add_page()
        _draw_row(sheet, cells[start : start + _COLUMNS], chance_of=chance_of)


def _draw_row(sheet: Any, cells: Sequence[CaseCell], *, chance_of: str) -> None:
    top = sheet.get_y()
    sheet.set_font("text", "", 6)
    for column, cell in enumerate(cells):
        left = _MARGIN_MM + column * (_CELL_MM + _GAP_MM - 1)
        if cell.picture:
            sheet.image(io.BytesIO(cell.picture), left, top, _CELL_MM, _CELL_MM, keep_aspect_ratio=True)
        sheet.set_xy(left, top + _CELL_MM)
        for line in _caption(cell, chance_of=chance_of):
            sheet.set_x(left)
            sheet.cell(_CELL_MM + 2, 3, _fitting(sheet, line, _CELL_MM + 2), new_x="LEFT", new_y="NEXT")
    sheet.set_xy(_MARGIN_MM, top + _CELL_MM + _CAPTION_MM)


def _caption(cell: CaseCell, *, chance_of: str) -> list[str]:
    """Return the lines under a cell: number and file, the model's decision, its probability, the reader's label."""
    lines = [f"{cell.number}  {cell.image}", f"model: {cell.decision}", _chance(cell, chance_of)]
    return [line for line in lines if line] + ([f"{cell.reader}: {cell.shown}"] if cell.reader else [])


def in_model_words(cell: CaseCell, chance_of: str) -> str:
    """Return the model's decision, with the class that its probability is of.

    >>> in_model_words(CaseCell(1, b"", "normal", 0.36, "normal"), "blast")
    'normal (blast 36 %)'
    """
    chance = _chance(cell, chance_of)
    return f"{cell.decision} ({chance})" if chance else cell.decision


def _chance(cell: CaseCell, chance_of: str) -> str:
    """Return the probability with the class that it is of, which need not be the one that was called."""
    return "" if cell.chance is None else f"{chance_of} {100 * cell.chance:.0f} %".strip()


def _fitting(sheet: Any, text: str, width: float) -> str:
    """Return a text as far as it fits a line: the end of a file's name matters more than its middle."""
    if sheet.get_string_width(text) <= width - 2:
        return text
    head, tail = text[:6], text[6:]
    while tail and sheet.get_string_width(f"{head}…{tail}") > width - 2:
        tail = tail[1:]
    return f"{head}…{tail}"


def _groups(report: CaseReport) -> list[tuple[str, list[CaseCell]]]:
    """Return cells in groups of what they count as, the disease first."""
    names = sorted({cell.shown for cell in report.cells}, key=lambda name: (name != report.chance_of, name))
    return [(name, [cell for cell in report.cells if cell.shown == name]) for name in names]


def _shares(counted: CountedCells) -> dict[str, str]:
    """Return each kind of a differential in words, such as '12 (41 %, 25 to 59)'."""
    rows = counted["rows"]
    percents = rounded([row["percent"] or 0.0 for row in rows])
    words = {}
    for row, percent in zip(rows, percents, strict=True):
        share = "" if row["percent"] is None else f" ({percent:.0f} %, {row['low']:.0f} to {row['high']:.0f})"
        words[row["name"]] = f"{row['cells']:,}{share}"
    words["White cells with a type"] = f"{counted['white']:,} of {counted['goal']:,}"
    return words | {f"apart: {name}": f"{cells:,}" for name, cells in counted["apart"].items()}


def interval_of(row: Observation) -> str:
    """Return the interval of a number in words.

    >>> interval_of(Observation("platelets per field", 3.0, "{cells}/{field}", 0.516, 5.484))
    '0.516 to 5.484'
    """
    return "–" if row.low is None or row.high is None else f"{row.low:,.6g} to {row.high:,.6g}"


def _agreement(found: CaseAgreement | None) -> list[tuple[str, str]]:
    """Return how far the readers agree as rows of the head."""
    if not found:
        return []
    percent, kappa = found["percent"], found["kappa"]
    if percent["value"] is None:
        return [("Agreement", "no cell was read by all of them")]
    what = "pairs of answers to" if len(found["readers"]) > 2 else "answers to"
    equal = f"{100 * percent['value']:.0f} %{_limits(percent, 100)} of {what} {found['cells']:,} cells are equal"
    by = f"95 % intervals over the {found['unit']} of this case"
    return [("Agreement", f"{equal}; {kappa_in_words(found['statistic'], kappa)}; {by}")]


def kappa_in_words(statistic: str, kappa: Estimate) -> str:
    """Return a kappa with its interval in words.

    >>> kappa_in_words("Cohen's kappa", {"value": 0.61, "low": 0.2, "high": 0.84})
    "Cohen's kappa 0.61 (0.20 to 0.84)"
    """
    if kappa["value"] is None:
        return f"{statistic} is not defined: all answers are the same"
    return f"{statistic} {kappa['value']:.2f}{_limits(kappa, 1) or ' (no interval)'}"


def _limits(found: Estimate, times: float) -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    low, high = times * found["low"], times * found["high"]
    return f" ({low:.0f} to {high:.0f} %)" if times > 1 else f" ({low:.2f} to {high:.2f})"


def differing(agreement: CaseAgreement) -> list[tuple[str, ...]]:
    """Return the cells on which the readers differ as rows: number, answers, what counts and who settled it."""
    return [
        (
            str(row["cell"]),
            *(_shown(row["answers"].get(name, "–")) for name in agreement["readers"]),
            f"{_shown(row['stands'])} ({row['by']})" if row["stands"] else "not settled",
        )
        for row in agreement["differ"]
    ]


def _shown(label: str) -> str:
    return title_of(label).replace("_", " ")


def _named(images: Sequence[str]) -> str:
    more = f", and {len(images) - _LISTED:,} more" if len(images) > _LISTED else ""
    return ", ".join(images[:_LISTED]) + more if images else "–"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()))


def _address(picture: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
