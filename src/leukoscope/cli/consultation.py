"""All images of one `leukoscope predict`, crops and fields alike, answered one after the other."""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artifacts import json_text
from .spool import Spool
from .terminal import complain

if TYPE_CHECKING:
    from ..errors import ImageError
    from ..inference.inputs import Gathered, Source
    from ..inference.neighbours import Neighbourhood
    from ..inference.opinion import Opinion
    from ..inference.predictor import Predictor
    from ..report.opinion import OpinionPage
    from ..smears.judging import JudgedCell
    from ..smears.kinds import Kind
    from ..smears.reading import Reader, Smear


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    point: str = "balanced"
    kind: str = "auto"
    csv: Path | None = None
    html: Path | None = None
    as_json: bool = False
    quiet: bool = False
    """Standard output belongs to a file that was asked for: the table goes to standard error."""
    formats: tuple[str, ...] = ()
    folder: Path | None = None
    """Where `formats` go; then `csv` lies in it too."""
    um_per_px: float | None = None
    each_scale: bool = False
    method: str = "macenko"
    jobs: int = 1
    neighbours: bool = False
    """Also correct the answers of a cell with those of the cells most like it, in columns of their own."""
    keep: Path | None = None
    """Where the work on slides is kept, so that it can go on."""


class Consultation:
    """Only what is shown at the end is kept in memory, and of a field that is being looked at its cells."""

    def __init__(self, predictor: "Predictor", found: "Gathered", request: Request) -> None:
        from ..inference.subjects import Tally
        from .opinions import Shown

        self._predictor, self._found, self._request = predictor, found, request
        self._sources = found.sources
        self._point = request.point.replace("-", "_")
        self.tally = Tally(predictor.manifest, point=self._point)
        self.shown = Shown(predictor.manifest, point=self._point)
        self._per_field = Tally(predictor.manifest, point=self._point)
        self._smears: list[tuple[Smear, str]] = []
        self._spool = Spool() if request.csv else None
        self._page = self._new_page() if request.html else None
        self._neighbourhood = self._new_neighbourhood() if request.neighbours else None
        self._reader: Reader | None = None
        self._printed = 0
        self._unusable: list[tuple[Source, str]] = []
        """Fields that cannot be used, and why."""

    def hold(self) -> None:
        """Answer, write what is asked for, and print the table or JSON."""
        if self._request.as_json:
            facts = {"model": self._predictor.manifest.name, "operating_point": self._point.replace("_", "-")}
            click.echo(json_text(facts)[:-1] + ', "cells": [', nl=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is wrong with a file we say one line ourselves
            self._answer_all()
        fields = self._field_rows()
        other = [str(path) for path in self._found.other]
        if self._request.as_json:
            rest = {"decisions": self.tally.decisions, "subjects": self.tally.summaries(), "fields": fields}
            click.echo("\n], " + json_text(rest | {"passed_over": other})[1:])
        else:
            self.shown.print(self.tally, fields=fields, other=other, err=self._request.quiet)
        self._write(fields)

    @property
    def all_used(self) -> bool:
        """Return whether every place held images, every file could be used, and every field be trusted."""
        doubtful = any(smear.problem for smear, _ in self._smears)
        return not (self._found.empty or self.tally.all.unreadable or doubtful)

    def _answer_all(self) -> None:
        from ..progress import track

        told = track(zip(self._sources, self._kinds(), strict=True), "Looking at cells", total=len(self._sources))
        for kind, group in groupby(told, key=lambda pair: pair[1]):
            sources = (source for source, _ in group)
            if kind == "crop":
                self._answer_crops(sources)
            else:
                for source in sources:
                    self._answer_smear(source, kind)

    def _kinds(self) -> "Iterator[Kind]":
        from ..data.pack import in_parallel
        from ..smears.kinds import as_field, kind_of

        if self._request.kind == "crops":
            return iter(["crop"] * len(self._sources))
        look = as_field if self._request.kind == "fields" else kind_of

        def kind(source: "Source") -> "Kind":
            return look(source.path) if source.path.exists() else "crop"  # which is refused by name

        return in_parallel(kind, self._sources)

    def _answer_crops(self, sources: "Iterator[Source]") -> None:
        waiting: deque[Source] = deque()

        def paths() -> Iterator[Path]:
            for source in sources:
                waiting.append(source)
                yield source.path

        for opinion in self._predictor.stream(paths(), point=self._point, with_crops=self._page is not None):
            self._take_file(opinion, waiting.popleft())

    def _answer_smear(self, source: "Source", kind: "Kind") -> None:
        from ..errors import ImageError
        from ..smears.kinds import ready_for

        ready_for(kind)
        try:
            smear = self._opened(source)
            found = [self._take_cell(judged, smear, source) for judged in smear.cells]
            for write in self._writers():
                write(smear, found)
        except ImageError as refusal:
            self._refuse(source, refusal)
            return
        self._smears.append((smear, source.subject))
        if smear.problem:
            complain(f"{source.path}: {smear.problem}")
        if self._page:
            self._page.add_field(smear, found, subject=source.subject)

    def _opened(self, source: "Source") -> "Smear":
        from ..fields.extraction import Wishes, names_of
        from ..smears.reading import Reader

        request = self._request
        if self._reader is None:
            wishes = Wishes(request.um_per_px, request.each_scale, method=request.method, jobs=request.jobs)
            paths = [each.path for each in self._sources]
            self._names = dict(zip(paths, names_of(paths), strict=True))
            self._reader = Reader(
                self._predictor, paths, wishes=wishes, point=self._point, with_crops=self._page is not None,
                keep=request.keep,
            )  # fmt: skip
        return self._reader.open(source.path, name=self._names[source.path])

    def _take_cell(self, judged: "JudgedCell", smear: "Smear", source: "Source") -> "JudgedCell":
        """Count one cell of a field and return it without its pictures."""
        from ..smears.table import light, prediction_row

        row = prediction_row(str(smear.path), judged, self._predictor.classes)
        self._take(judged.opinion, subject=source.subject, row=row)
        self._per_field.add(judged.opinion, subject=str(smear.path))
        if self._page:
            self._page.add(judged.opinion, subject=source.subject, field=smear.name, number=judged.cell.number)
        return light(judged)

    def _take_file(self, opinion: "Opinion", source: "Source") -> None:
        self._take(opinion, subject=source.subject, row=opinion.row(self._predictor.classes))
        if self._page:
            self._page.add(opinion, subject=source.subject)

    def _take(self, opinion: "Opinion", *, subject: str, row: dict[str, Any]) -> None:
        self.tally.add(opinion, subject=subject)
        self.shown.add(opinion)
        if self._neighbourhood:
            self._neighbourhood.add(opinion)
        if self._spool:
            self._spool.add({"subject": subject} | row)
        if self._request.as_json:
            line = json_text(_plain(opinion, subject=subject, row=row))
            click.echo(f",\n{line}" if self._printed else f"\n{line}", nl=False)
            self._printed += 1

    def _refuse(self, source: "Source", refusal: "ImageError") -> None:
        """Count a field that cannot be used as a cell that cannot: in the same words, in the same places."""
        from ..inference.opinion import REFUSED, Opinion

        text = str(refusal).removeprefix(f"{source.path} ").removeprefix(f"{source.path.name} ")
        reason = text[:1].upper() + text[1:]
        self._unusable.append((source, reason))
        self._take_file(Opinion(str(source.path), REFUSED, reason, readable=False), source)

    def _field_rows(self) -> list[dict[str, Any]]:
        if not self._smears and not self._unusable:
            return []
        from ..inference.subjects import Count
        from ..smears.table import field_values, unusable_field

        for smear, _ in self._smears:
            self._per_field.subjects.setdefault(str(smear.path), Count())
        summaries = {row["subject"]: row for row in self._per_field.summaries()}
        rows = [field_values(smear, subject=whose, summary=summaries[str(smear.path)]) for smear, whose in self._smears]
        return rows + [
            unusable_field(str(source.path), subject=source.subject, problem=why) for source, why in self._unusable
        ]

    def _write(self, fields: list[dict[str, Any]]) -> None:
        from ..artifacts import write_csv
        from ..inference.opinion import columns_of

        if self._request.csv and self._spool:
            subject = any(source.subject for source in self._sources)
            columns = columns_of(self._predictor.classes, subject=subject)
            if fields:
                from ..smears.table import CELL_COLUMNS

                columns += CELL_COLUMNS
            rows: Iterator[dict[str, Any]] = self._spool.rows()
            if self._neighbourhood:
                columns += self._neighbourhood.columns
                rows = (row | mixed for row, mixed in zip(rows, self._neighbourhood.rows(), strict=True))
            write_csv(
                self._request.csv, ({name: row.get(name, "") for name in columns} for row in rows), columns=columns
            )
        if self._request.folder:
            self._write_tables(self._request.folder, fields)
        if self._request.html and self._page:
            usable = [row for row in fields if row["width"]]  # the others stand among the refused
            self._page.write(self._request.html, self.tally, fields=usable)

    def _write_tables(self, folder: Path, fields: list[dict[str, Any]]) -> None:
        from ..artifacts import write_csv
        from ..smears.table import FIELD_COLUMNS, SUBJECT_COLUMNS, subject_row

        write_csv(folder / "fields.csv", fields, columns=FIELD_COLUMNS)
        subjects = [subject_row(summary) for summary in self.tally.summaries()]
        write_csv(folder / "subjects.csv", subjects, columns=SUBJECT_COLUMNS)

    def _writers(self) -> Sequence[Any]:
        if not self._request.folder:
            return ()
        from .smear_files import writers_of

        return writers_of(self._request.formats, self._request.folder, manifest=self._predictor.manifest)

    def _new_neighbourhood(self) -> "Neighbourhood":
        from ..inference.neighbours import Neighbourhood  # brings scikit-learn

        return Neighbourhood(self._predictor.classes)

    def _new_page(self) -> "OpinionPage":
        from ..report.opinion import OpinionPage  # brings matplotlib and scikit-learn: not for a quick answer

        return OpinionPage(self._predictor.manifest, point=self._point)


def _plain(opinion: "Opinion", *, subject: str, row: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "path": row["path"],
        "subject": subject,
        "probabilities": opinion.probabilities,
        "decision": opinion.decision,
        "called": opinion.called,
        "reason": opinion.reason,
        "quality": opinion.quality,
    }
    if "cell" in row:
        plain |= {"cell": row["cell"], "box": [row[side] for side in ("left", "top", "right", "bottom")]}
        plain |= {name: row[name] for name in ("area_um2", "nucleus_um2", "sharpness", "flags", "outline")}
    return plain
