"""Where results go, each into a file of its own; what the terminal shows of them; what `--to` writes of a field."""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..bundle.manifest import NOT_ASKED, REFUSED, UNSURE, Manifest, title_of
from ..errors import UsageError
from ..inference.blood_count import BloodSummary
from ..inference.cell_types import Differential, limits_of, rounded
from ..inference.opinions import Opinion, Tally, class_of, colour_of, review_priority, worded
from .options import many, printable

if TYPE_CHECKING:
    from ..fields.cells import FieldCell
    from ..fields.extraction import Also
    from ..inference.cell_types import Counting
    from ..inference.fields import JudgedCell, Smear
    from ..interop.dicom_results import Algorithm, DicomCell

Output = tuple[str, Path | None]  # the option as the user knows it, and the file it writes


def refuse_collisions(outputs: Sequence[Output], *, inputs: Iterable[str | Path] = ()) -> None:
    """Make sure, before any work, that every result has a place of its own.

    Raises:
        UsageError: two of them are one file, one is in the way of another's folder, or one is an input.
    """
    wanted = [(option, path) for option, path in outputs if path and path != Path(os.devnull)]
    for number, (option, path) in enumerate(wanted):
        for other, place in wanted[number + 1 :]:
            if _in_the_way(path, place):
                raise UsageError(f"{option} {path} and {other} {place} cannot both be written. Choose another name.")
    read = {key: given for given in inputs if (key := _key(Path(given)))}
    for option, path in wanted:
        key = _key(path)
        if key and (given := read.get(key)):
            raise UsageError(
                f"{option} {path} is also an input ({given}) and would be overwritten. Choose another name."
            )


def prints_into(path: Path | None) -> bool:
    """Tell whether a path leads to this program's standard output."""
    try:
        return path is not None and os.path.samestat(os.fstat(1), path.stat())
    except OSError:
        return False


def _in_the_way(path: Path, place: Path) -> bool:
    one, other = Path(os.path.realpath(path)), Path(os.path.realpath(place))
    return one == other or one in other.parents or other in one.parents or _key(path) == _key(place) is not None


def _key(path: Path) -> tuple[int, int] | None:
    """Return what identifies an existing file; None for a folder and where nothing is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return None if stat.S_ISDIR(found.st_mode) else (found.st_dev, found.st_ino)


class Spool:
    """Rows in the order in which they came; memory does not grow with their number."""

    def __init__(self) -> None:
        self._file = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed when the spool is let go

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more row."""
        self._file.write(json.dumps(row) + "\n")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)


_ALL_SHOWN = 40  # cells that are listed one by one
_REVIEWED = 12  # of more than that
_SUBJECTS = 60
_REASONS = 50
_NAMES = 3
_NAME, _LEAST_NAME, _GAP = 30, 12, 2  # columns of a file's name at most and at least, and between two columns


class Problems:
    """What is wrong with some files, one line for each reason; memory does not grow with their number."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._more = 0

    def add(self, name: str, reason: str) -> None:
        """Take in one more file."""
        if reason not in self._counts and len(self._counts) >= _REASONS:
            self._more += 1
            return
        self._counts[reason] += 1
        if self._counts[reason] <= _NAMES:
            self._names.setdefault(reason, []).append(name)

    def lines(self) -> list[str]:
        """Return the reasons with the files' names; where there are many files, with their number and the first names.

        For example 'a.png: Is empty.', or '5 files: Is empty. (a.png, b.png, c.png and 2 more)'.
        """
        lines = []
        for reason, count in self._counts.items():
            names = self._names[reason]
            more = f" and {count - len(names):,} more" if count > len(names) else ""
            several = f"{many(count, 'file')}: {reason} ({', '.join(names)}{more})"
            lines.append(f"{names[0]}: {reason}" if count == 1 else several)
        return [*lines, *([f"and {many(self._more, 'more file')} for other reasons"] if self._more else [])]


class ShownOpinions:
    """The few opinions that the terminal will show, kept while all of them stream by."""

    def __init__(self, manifest: Manifest, *, point: str) -> None:
        self._manifest = manifest
        self._threshold = manifest.operating_points.get(point, 1.0)
        self._first: list[Opinion] = []
        self._first_to_review: list[tuple[tuple[int, float], int, Opinion]] = []
        self._unusable = Problems()
        self._alike: Counter[str] = Counter()
        """Reason of refusal, its numbers left out -> how many cells were refused for it."""
        self._count = 0

    def add(self, opinion: Opinion) -> None:
        """Look at one more opinion."""
        if not opinion.readable:  # listed by its reason, below the table
            self._unusable.add(opinion.name, opinion.reason)
            return
        if opinion.decision == REFUSED:
            self._alike[_without_numbers(opinion.reason)] += 1
            if self._alike[_without_numbers(opinion.reason)] > 1:  # the first one is shown, with their number
                return
        self._count += 1
        if self._count <= _ALL_SHOWN + 1:
            self._first.append(opinion)
        priority = review_priority(opinion, positive=self._manifest.positive, threshold=self._threshold)
        if priority[0] < 2:
            self._first_to_review.append((priority, self._count, opinion))
            if len(self._first_to_review) > 4 * _REVIEWED:
                self._first_to_review = sorted(self._first_to_review)[:_REVIEWED]

    def unusable(self) -> list[str]:
        """Return one line for each reason why files cannot be used as images."""
        return self._unusable.lines()

    def print(
        self,
        tally: Tally,
        *,
        fields: Sequence[dict[str, Any]] = (),
        notes: Sequence[str] = (),
        err: bool = False,
        differential: Differential | None = None,
        blood: BloodSummary | None = None,
    ) -> None:
        """Print the table of cells, the counts, the fields (rows of fields.csv), and the subjects.

        notes: lines about how files were read and what was passed over. err: print to standard error.
        differential: of all cells; None where the bundle knows no types. blood: red cells and platelets of fields.
        """
        console = Console(highlight=False, soft_wrap=False, stderr=err)
        if 0 < self._count <= _ALL_SHOWN:
            console.print(self._table(self._first, width=console.width))
        elif self._first_to_review:
            needy = [opinion for _, _, opinion in sorted(self._first_to_review)[:_REVIEWED]]
            console.print(self._table(needy, width=console.width))
        console.print(counts(tally))
        if differential is not None:
            _print_differential(console, differential)
        for line in limits_of(self._manifest, fields=bool(fields)):
            console.print(Text(line), style="yellow", soft_wrap=True)
        for line in (*(blood.sentences if blood else ()), *map(printable, notes)):
            console.print(Text(line), soft_wrap=True)
        if any(row["width"] for row in fields):
            console.print(_field_table(fields[:_SUBJECTS], self._manifest, width=console.width))
        if len(fields) > _SUBJECTS:
            console.print(f"and {many(len(fields) - _SUBJECTS, 'more field')}: see --json, --html or --to csv")
        _print_subjects(console, tally, self._manifest)
        console.print("Research use, not a diagnosis.", style="dim")

    def _table(self, opinions: list[Opinion], *, width: int) -> Table:
        """Return the table of cells; where it is too wide, names get shorter and types go before a word is broken."""
        shown = [self._manifest.positive] if self._manifest.positive else list(self._manifest.classes)
        titles = [*map(title_of, shown), *(["type"] if self._manifest.types else []), "decision"]
        middle = []
        for opinion in opinions:
            chances = opinion.probabilities or {}
            numbers = [f"{100 * chances[name]:.0f} %" if name in chances else "–" for name in shown]
            kind = [opinion.type or "–"] if self._manifest.types else []
            middle.append([*numbers, *kind, title_of(opinion.decision)])
        reasons = [self._reason(opinion) for opinion in opinions]
        longest = max(cell_len(word) for word in " ".join(["reason", *reasons]).split())

        def room(titles: list[str], middle: list[list[str]]) -> int:
            taken = [max(map(cell_len, column)) + _GAP for column in zip(titles, *middle, strict=True)]
            return width - sum(taken) - _GAP - longest

        if room(titles, middle) < _LEAST_NAME and "type" in titles:
            titles.remove("type")
            middle = [[*row[:-2], row[-1]] for row in middle]
        name = min(max(room(titles, middle), _LEAST_NAME), _NAME)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("image", no_wrap=True)
        for number, title in enumerate(titles):
            table.add_column(title, justify="right" if number < len(shown) else "left", no_wrap=True)
        table.add_column("reason", overflow="fold", min_width=longest)
        for opinion, row, reason in zip(opinions, middle, reasons, strict=True):
            decision = Text(row[-1], style=self._style(opinion))
            shortened = Text(_end_of(printable(opinion.name), room=name))
            table.add_row(shortened, *map(Text, row[:-1]), decision, Text(reason))
        return table

    def _reason(self, opinion: Opinion) -> str:
        """Return the reason of an opinion; of a refusal with the number of cells that were refused for the same."""
        reason = printable(worded(opinion.reason))
        more = self._alike[_without_numbers(opinion.reason)] - 1 if opinion.decision == REFUSED else 0
        return f"{reason} (and {many(more, 'more cell')} like this)" if more > 0 else reason

    def _style(self, opinion: Opinion) -> str:
        styles = {UNSURE: "yellow", REFUSED: "magenta", self._manifest.positive: "bold red"}
        return styles.get(opinion.decision, "")


def _without_numbers(reason: str) -> str:
    """Return a reason as it is shared by cells that differ in their numbers alone.

    >>> _without_numbers("Too small: the cell is 100 px across.")
    'Too small: the cell is # px across.'
    """
    return re.sub(r"\d+(?:[.,]\d+)*", "#", reason)


def counts(tally: Tally) -> str:
    """Return one line of what was decided.

    For example '1,000 cells: 512 blast, 430 normal, 50 unsure, 8 refused (3 cannot be used as images)'.
    """
    parts = [f"{number:,} {title_of(decision)}" for decision, number in tally.decisions.items() if number]
    bad = tally.all.unreadable
    unusable = f" ({bad:,} cannot be used as {'images' if bad > 1 else 'an image'})" if bad else ""
    return f"{many(tally.all.cells, 'cell')}: {', '.join(parts) or 'no white cell was found'}{unusable}"


def _print_differential(console: Console, counted: Differential) -> None:
    console.print(Text(counted.summary), soft_wrap=True)
    if counted.white:
        console.print(differential_table(counted))
    console.print(Text(counted_apart(counted)), soft_wrap=True)


def differential_table(counted: Differential) -> Table:
    """Return the differential of a call: kind, cells, per cent, 95 % interval."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("white cell", "cells", "%", "95 % interval"):
        table.add_column(title, justify="left" if title == "white cell" else "right")
    shown = rounded([row.percent or 0.0 for row in counted.rows])
    for row, percent in zip(counted.rows, shown, strict=True):
        ends = "–" if row.low is None or row.high is None else f"{row.low:.0f} to {row.high:.0f}"
        table.add_row(row.name, f"{row.cells:,}", "–" if row.percent is None else f"{percent:.0f}", ends)
    return table


def counted_apart(counted: Differential) -> str:
    """Return one line of what was counted beside a differential.

    For example 'Counted apart: 3 platelet, 2 unsure. Per 100 white cells: 4.1 erythroblast.'
    """
    from ..inference.prevalence import NOT_KNOWN

    there = [f"{cells:,} {name}" for name, cells in counted.apart.items() if cells]
    parts = [f"Counted apart: {', '.join(there) or 'nothing'}."]
    if counted.per_100:
        each = ", ".join(f"{row.percent:.1f} {name}" for name, row in counted.per_100.items())
        parts.append(f"Per 100 white cells: {each}.")
    if of := counted.blasts_of_lymphoid:
        share = NOT_KNOWN if of.percent is None else f"{of.percent:.0f} %"
        parts.append(f"Blasts among lymphoid cells: {share} ({of.low:.0f} to {of.high:.0f}).")
    return " ".join(parts)


def _print_subjects(console: Console, tally: Tally, manifest: Manifest) -> None:
    subjects = tally.summaries()
    if not subjects:
        return
    console.print(_subject_table(subjects[:_SUBJECTS], manifest))
    if len(subjects) > _SUBJECTS:
        console.print(f"and {many(len(subjects) - _SUBJECTS, 'more subject')}: see --json or --html")
    if nobody := tally.without_subject():
        console.print(Text(f"{many(nobody, 'cell')} without a subject, not included in this table."), soft_wrap=True)


def _subject_table(rows: list[dict[str, Any]], manifest: Manifest) -> Table:
    from ..inference.prevalence import share_in_words

    table = Table(box=None, pad_edge=False, header_style="bold")
    share, bad = "share" in rows[0], any(row["unreadable"] for row in rows)
    counted = ("subject", "cells", f"called {title_of(manifest.positive)}", "unsure", "refused")
    for title in (*counted, *(["unusable files"] if bad else [])):
        table.add_column(title, justify="left" if title == "subject" else "right")
    if share:
        table.add_column(f"share of {title_of(manifest.positive)} (95 % interval)")
    for row in rows:
        cells = {name: row[name] - row["unreadable"] for name in ("cells", "refused")}
        numbers = [f"{(row | cells)[name]:,}" for name in ("cells", "called", "unsure", "refused")]
        numbers += [f"{row['unreadable']:,}"] if bad else []
        table.add_row(
            Text(printable(row["subject"])),
            *numbers,
            *([share_in_words(row["share"], cells=row["answered"])] if share else []),
        )
    return table


def _field_table(rows: Sequence[dict[str, Any]], manifest: Manifest, *, width: int) -> Table:
    """Return the fields that could be used; what is wrong with one was printed already.

    A narrow terminal shows no scale, which fields.csv holds.
    """
    numbers = ("cells", *(("called",) if manifest.positive else ()), "unsure", "refused")
    used = [row for row in rows if row["width"]]
    names = [_end_of(printable(row["field"])) for row in used]
    scales = [f"{row['um_per_px']:.3g} µm/px, {row['scale']}" for row in used]
    titles = [f"called {title_of(manifest.positive)}" if title == "called" else title for title in numbers]
    longest = [max(map(cell_len, column)) for column in (names, scales)]
    wide = sum(longest) + sum(map(cell_len, titles)) + _GAP * (len(titles) + 1) <= width
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("field", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    if wide:
        table.add_column("scale", no_wrap=True)
    for row, name, scale in zip(used, names, scales, strict=True):
        table.add_row(Text(name), *(f"{row[title]:,}" for title in numbers), *([scale] if wide else []))
    return table


def _end_of(path: str, *, room: int = _NAME) -> str:
    """Return the end of a long path: the name matters more than the folder.

    >>> _end_of("a/" * 40 + "cell.png", room=12)
    '…/a/cell.png'
    >>> _end_of("涂片" * 40 + ".jpg", room=12)
    '…片涂片.jpg'
    """
    if cell_len(path) <= room:  # Chinese and Japanese letters are two columns wide
        return path
    while cell_len(path) > room - 1:
        path = path[1:]
    return f"…{path}"


Writer = Callable[["Smear", "Sequence[JudgedCell]"], None]
BloodOf = Callable[[str], "BloodSummary | None"]  # path of a field -> its red cells and platelets


def writers_of(
    formats: Sequence[str], folder: Path, *, manifest: Manifest, counting: "Counting", blood: BloodOf
) -> list[Writer]:
    """Return what writes one field in each format, into folders of `folder`, with what was counted in it."""
    known = {
        "qupath": lambda: _qupath_writer(folder, manifest),
        "dicom": lambda: _dicom_writer(folder, manifest, counting, blood),
    }
    return [known[name]() for name in dict.fromkeys(formats) if name in known]


def _qupath_writer(folder: Path, manifest: Manifest) -> Writer:
    from ..interop.qupath import Shape, write_geojson

    def shape(judged: "JudgedCell") -> Shape:
        opinion = judged.opinion
        chances = {f"Probability {name}": value for name, value in (opinion.probabilities or {}).items()}
        types = {f"Probability {name} (type)": value for name, value in (opinion.types or {}).items()}
        shown = class_of(opinion)
        sizes = _sizes(judged.cell)
        return Shape(
            judged.cell.outline, _title(judged.cell), shown, chances | types | sizes, colour_of(shown, manifest)
        )

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        write_geojson(folder / "qupath" / f"{smear.name}.geojson", [shape(judged) for judged in found])

    return write


def _dicom_writer(folder: Path, manifest: Manifest, counting: "Counting", blood: BloodOf) -> Writer:
    from ..interop.dicom_results import DicomCell

    algorithm = _algorithm(bundle=f"{manifest.name} {manifest.seal[:16]}")

    def cell(judged: "JudgedCell") -> DicomCell:
        found, opinion = judged.cell, judged.opinion
        chance = (opinion.probabilities or {}).get(manifest.positive)
        return DicomCell(found.outline, _title(found), dicom_class(opinion, manifest), found.area_um2, chance)

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        counted, beside = counting.of_field(str(smear.path)), blood(str(smear.path))
        _write_dicom(
            folder,
            smear.path,
            smear.name,
            [cell(judged) for judged in found],
            algorithm=algorithm,
            differential=[*counted.rows, *counted.beside()] if counted else [],
            blood=beside.rows() if beside else (),
        )

    return write


def dicom_class(opinion: Opinion, manifest: Manifest) -> str:
    """Return the name under which a cell is coded in DICOM: blast and normal where these are the bundle's classes."""
    decision = opinion.decision
    if decision == NOT_ASKED:
        return "type unsure" if opinion.type == "unsure" else opinion.type
    if not manifest.positive or decision not in manifest.classes:
        return decision
    return "blast" if decision == manifest.positive else "normal"


def cell_writers_of(formats: Sequence[str], folder: Path) -> "list[Also]":
    """Return what writes the cells of one field in each format, into folders of `folder`; without predictions."""
    known = {"qupath": lambda: _qupath_cell_writer(folder), "dicom": lambda: _dicom_cell_writer(folder)}
    return [known[name]() for name in dict.fromkeys(formats)]


def _qupath_cell_writer(folder: Path) -> "Also":
    from ..interop.qupath import Shape, write_geojson

    def write(_: Path, name: str, found: "Sequence[FieldCell]") -> None:
        shapes = [Shape(cell.outline, _title(cell), "White cell", _sizes(cell)) for cell in found]
        write_geojson(folder / "qupath" / f"{name}.geojson", shapes)

    return write


def _dicom_cell_writer(folder: Path) -> "Also":
    from ..interop.dicom_results import DicomCell

    algorithm = _algorithm()

    def write(path: Path, name: str, found: "Sequence[FieldCell]") -> None:
        cells = [DicomCell(cell.outline, _title(cell), "White cell", cell.area_um2) for cell in found]
        _write_dicom(folder, path, name, cells, algorithm=algorithm)

    return write


def _write_dicom(
    folder: Path, path: Path, name: str, cells: "Sequence[DicomCell]", *, algorithm: "Algorithm", **counted: Any
) -> None:
    """Write the report of a field, and the outlines of its cells where the source states a frame of reference."""
    from ..interop.dicom import DicomImage
    from ..interop.dicom_results import write_annotations, write_report

    source = DicomImage(path).identity()
    write_report(folder / "dicom" / f"{name}-report.dcm", source, cells, algorithm=algorithm, **counted)
    if cells and "FrameOfReferenceUID" in source:
        write_annotations(folder / "dicom" / f"{name}-outlines.dcm", source, cells, algorithm=algorithm)


def _algorithm(**bundle: str) -> "Algorithm":
    from ..fields.cells import ClassicalDetector
    from ..interop.dicom_results import Algorithm

    return Algorithm(f"leukoscope {ClassicalDetector.name}", metadata.version("leukoscope"), **bundle)


def _title(cell: "FieldCell") -> str:
    return f"Cell {cell.number}"


def _sizes(cell: "FieldCell") -> dict[str, float]:
    return {"Area µm²": cell.area_um2, "Nucleus µm²": cell.nucleus_um2, "Sharpness": cell.sharpness}
