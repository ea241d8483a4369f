"""The report of a case that people have read: an offline page and a PDF with the same content."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..inference.differential import rounded
from .style import COLOURS, environment

NOTICE = "Research use, not a diagnosis"
_COLUMNS, _CELL_MM, _GAP_MM = 6, 27.0, 5.0
_MARGIN_MM = 15.0


@dataclass(frozen=True)
class CaseCell:
    """One cell as the report shows it."""

    number: int
    picture: bytes
    """JPEG."""
    shown: str
    """What it counts as: the reader's word, else the model's."""
    chance: float | None
    """Probability of `chance_of` by the model."""
    decision: str
    reason: str = ""
    reader: str = ""
    note: str = ""


@dataclass(frozen=True)
class CaseReport:
    """Everything that the report says."""

    name: str
    subject: str
    made: str
    model: str
    bundle: str
    chance_of: str
    share: dict[str, Any]
    """value, low, high, how."""
    by_model: dict[str, int]
    by_reader: dict[str, int]
    signed: dict[str, Any] | None
    """by, time, note; None while the case is open."""
    cells: Sequence[CaseCell] = field(default_factory=list)
    credits: Sequence[dict[str, str]] = ()
    differential: dict[str, Any] | None = None
    """What model and readers counted, as inference.differential gives it: {"model", "readers"}; None without types."""
    limits: Sequence[str] = ()
    """What the model knows and what not."""

    @property
    def headline(self) -> str:
        """The first sentence."""
        if self.share["value"] is None:
            return f"{len(self.cells):,} cells; no share of blasts can be given."
        value, low, high = (100 * self.share[name] for name in ("value", "low", "high"))
        return f"{value:.0f} % blasts ({low:.0f} to {high:.0f} %)"

    @property
    def counted(self) -> list[tuple[str, str, str]]:
        """The differential as rows: kind, counted by the model, counted by readers; empty without types."""
        if not self.differential:
            return []
        model, readers = (_shares(self.differential[who]) for who in ("model", "readers"))
        return [(name, said, readers[name]) for name, said in model.items()]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What stands in the head of the report."""
        read = sum(self.by_reader.values())
        state = f"signed off by {self.signed['by']}, {self.signed['time'][:16]} UTC" if self.signed else "open"
        rows = [
            ("Case", self.name),
            ("Subject", self.subject or "–"),
            ("State", state),
            ("Read by people", f"{read:,} of {len(self.cells):,} cells"),
            ("Said by the model", _counts(self.by_model)),
            ("Said by readers", _counts(self.by_reader) or "–"),
            ("Model", f"{self.model} ({self.bundle[:12]})"),
            ("Made", self.made),
        ]
        return rows + ([("Note", self.signed["note"])] if self.signed and self.signed["note"] else [])


def page(report: CaseReport) -> str:
    """Return the report as one HTML file that needs nothing else."""
    template = environment(picture=_address).get_template("case.html")
    return template.render(report=report, groups=_groups(report), notice=NOTICE, colours=COLOURS)


def pdf(report: CaseReport) -> bytes:
    """Return the report as PDF.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
    """
    sheet = _sheet(report)
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
    for title, cells in _groups(report):
        _draw_group(sheet, title, cells)
    return bytes(sheet.output())


def _sheet(report: CaseReport) -> Any:
    """Return an empty A4 document whose every page says what it must not be used for."""
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
    sheet.set_title("Cells read by people: research use")
    sheet.add_page()
    return sheet


def _draw_counted(sheet: Any, report: CaseReport) -> None:
    """Draw the differential: kinds, the model's count, the readers'."""
    sheet.ln(4)
    for number, cells in enumerate([("Differential", "Model", "Readers"), *report.counted]):
        sheet.set_font("text", "" if number else "B", 8)
        for width, text in zip((54, 50, 50), cells, strict=True):
            sheet.cell(width, 5, text)
        sheet.ln(5)


def _draw_group(sheet: Any, title: str, cells: Sequence[CaseCell]) -> None:
    sheet.ln(4)
    if sheet.will_page_break(_CELL_MM + 18):
        sheet.add_page()
    sheet.set_font("text", "B", 10)
    sheet.cell(0, 7, f"{title}: {len(cells):,}", new_x="LMARGIN", new_y="NEXT")
    for start in range(0, len(cells), _COLUMNS):
        if sheet.will_page_break(_CELL_MM + 9):
            sheet.add_page()
        _draw_row(sheet, cells[start : start + _COLUMNS])


def _draw_row(sheet: Any, cells: Sequence[CaseCell]) -> None:
    import io

    top = sheet.get_y()
    sheet.set_font("text", "", 6)
    for column, cell in enumerate(cells):
        left = _MARGIN_MM + column * (_CELL_MM + _GAP_MM - 1)
        if cell.picture:
            sheet.image(io.BytesIO(cell.picture), left, top, _CELL_MM, _CELL_MM, keep_aspect_ratio=True)
        sheet.set_xy(left, top + _CELL_MM)
        sheet.multi_cell(_CELL_MM + 2, 3, _caption(cell), align="L")
    sheet.set_xy(_MARGIN_MM, top + _CELL_MM + 9)


def _caption(cell: CaseCell) -> str:
    chance = "" if cell.chance is None else f" {100 * cell.chance:.0f} %"
    model = f"model: {cell.decision}{chance}"
    return f"{cell.number}  {model}" + (f"\n{cell.reader}: {cell.shown}" if cell.reader else "")


def _groups(report: CaseReport) -> list[tuple[str, list[CaseCell]]]:
    """Return cells in groups of what they count as, the disease first."""
    names = sorted({cell.shown for cell in report.cells}, key=lambda name: (name != report.chance_of, name))
    return [(name, [cell for cell in report.cells if cell.shown == name]) for name in names]


def _shares(counted: dict[str, Any]) -> dict[str, str]:
    """Return each kind of a differential in words, such as '12 (41 %, 25 to 59)'."""
    rows = counted["rows"]
    percents = rounded([row["percent"] or 0.0 for row in rows])
    words = {}
    for row, percent in zip(rows, percents, strict=True):
        share = "" if row["percent"] is None else f" ({percent:.0f} %, {row['low']:.0f} to {row['high']:.0f})"
        words[row["name"]] = f"{row['cells']:,}{share}"
    words["White cells told apart"] = f"{counted['white']:,} of {counted['goal']:,}"
    return words | {f"apart: {name}": f"{cells:,}" for name, cells in counted["apart"].items()}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()))


def _address(picture: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")
