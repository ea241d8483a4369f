"""A CSV table as hospitals export it: comma, semicolon or tab, decimal point or decimal comma."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UnknownNameError

MISSING = {"", "na", "n/a", "nan", "null", "none", ".", "?", "-", "missing", "unknown"}


@dataclass(frozen=True)
class Table:
    """Columns of text, the line of the file each row came from, and where it came from."""

    columns: dict[str, list[str]]
    lines: list[int]
    where: str
    decimal_comma: bool = False

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[str]:
        """Return one column.

        Raises:
            UnknownNameError: there is no such column.
        """
        if name not in self.columns:
            raise UnknownNameError(f"column in {self.where}:", name, self.columns)
        return self.columns[name]

    def numbers(self, name: str) -> list[float]:
        """Return one column as numbers; a missing value is NaN.

        Raises:
            DataError: cells that are no numbers, named with their lines.
        """
        cells = self.column(name)
        values = [as_number(cell, decimal_comma=self.decimal_comma) for cell in cells]
        self._check_decimals(name)
        bad = [row for row, value in enumerate(values) if value is None]
        if bad:
            raise DataError(
                f"{self.where}: column '{name}' holds text where numbers are needed: {self.show(bad, cells)}. "
                "Mend these cells, or leave them empty where the value is not known."
            )
        return [math.nan if value is None else value for value in values]

    def _check_decimals(self, name: str) -> None:
        """Refuse a column in which both ',' and '.' stand in numbers: one of them would be read wrongly."""
        cells = self.column(name)
        commas = [row for row, cell in enumerate(cells) if self.decimal_comma and "," in cell]
        points = [row for row, cell in enumerate(cells) if "." in cell and not is_missing(cell)] if commas else []
        if points:
            raise DataError(
                f"{self.where}: column '{name}' has decimal commas and decimal points: {self.show(commas[:1], cells)}, "
                f"{self.show(points[:1], cells)}. Write all of them one way."
            )

    def is_numeric(self, name: str) -> bool:
        """Tell whether most of the known values of a column are numbers."""
        known = [cell for cell in self.column(name) if not is_missing(cell)]
        numbers = sum(as_number(cell, decimal_comma=self.decimal_comma) is not None for cell in known)
        return bool(known) and numbers >= 0.8 * len(known)

    def show(self, rows: Sequence[int], cells: Sequence[object]) -> str:
        """Name the first few of some rows: "'abc' (line 7), 'x' (line 9) and 3 more"."""
        return listed(f"'{cells[row]}' (line {self.lines[row]})" for row in rows)


def listed(items: Iterable[str], *, most: int = 4) -> str:
    """Join a few items and count the rest."""
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def is_missing(cell: str) -> bool:
    """Tell whether a cell says that its value is not known."""
    return cell.strip().lower() in MISSING


def tidy(cell: str) -> str:
    """Return a name as it is compared: single spaces, '2' for '2.0' (spreadsheets write either), '' if missing."""
    bare = "" if is_missing(cell) else " ".join(cell.split())
    return bare[:-2] if bare.endswith(".0") and bare[:-2].isdigit() else bare


def one_spelling(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write names that differ in case alone as the commonest of them; return the cells and what was joined."""
    counts = Counter(cell for cell in cells if cell)
    spellings: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        spellings.setdefault(name.casefold(), []).append(name)
    joined = [names for names in spellings.values() if len(names) > 1]
    chosen = {name: names[0] for names in spellings.values() for name in names}
    return [chosen.get(cell, "") for cell in cells], [f"{listed(names)} as {names[0]}" for names in joined]


def read_table(path: Path) -> Table:
    """Read a CSV file with a header; the separator is the commonest of comma, semicolon and tab in the header.

    Raises:
        DataError: the file is missing, empty, not text, ragged, or names a column twice.
    """
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    _check_header(header, path)
    rows, lines = _read_rows(reader, width=len(header), path=path)
    if not rows:
        raise DataError(f"{path} has a header but no patients. Check that it was exported whole.")
    columns = {name: list(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}
    return Table(columns, lines, path.name, decimal_comma=delimiter != ",")


def _text(path: Path) -> str:
    """Read UTF-8, or UTF-16 with its mark (Excel's "Unicode text"); nothing else can be told apart for sure."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder. Name the CSV file in it.") from None
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is a workbook, not a CSV. Save it in the spreadsheet program as 'CSV UTF-8'.")
    try:
        return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as wrong:
        line, word = raw.count(b"\n", 0, wrong.start) + 1, raw[wrong.start : wrong.start + 1]
        raise DataError(
            f"{path}, line {line}: not UTF-8 text (byte {word.hex()}, which would be '{word.decode('latin-1')}' in a "
            "Windows or Latin-1 file). Save it as 'CSV UTF-8' and try again."
        ) from None


def _read_rows(reader: Iterable[list[str]], *, width: int, path: Path) -> tuple[list[list[str]], list[int]]:
    rows, lines = [], []
    for row in reader:
        line: int = reader.line_num  # type: ignore[attr-defined]  # csv.reader has it, Iterable does not
        if not any(row):
            continue  # an empty line is no patient
        if len(row) != width:
            raise DataError(f"{path}, line {line}: {len(row)} cells where the header has {width}. Mend that line.")
        rows.append(row)
        lines.append(line)
    return rows, lines


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if not any(header):
        raise DataError(f"{path} is empty. It needs a header line and one line per patient.")
    if twice:
        raise DataError(f"{path} has the column {', '.join(twice)} more than once. Rename or remove one of them.")


def as_number(cell: str, *, decimal_comma: bool) -> float | None:
    """Return a finite number, NaN for a missing value, or None for anything else."""
    if is_missing(cell):
        return math.nan
    try:
        value = float(
            cell.replace(",", ".") if decimal_comma else cell.replace("_", "x")
        )  # Python's 1_000 is no number
    except ValueError:
        return None
    return value if math.isfinite(value) else None
