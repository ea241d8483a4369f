"""Predictions for all images of one `leukoscope predict`, crops or fields, one after the other."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import attempt
from ..files import json_text
from .options import complain, echo_json, field_options, model_option, note, point_option
from .output import Problems, Spool

if TYPE_CHECKING:
    from ..errors import ImageError
    from ..inference.blood_count import BloodSummary, FieldCount
    from ..inference.cell_types import Differential
    from ..inference.fields import JudgedCell, Reader, Smear
    from ..inference.opinions import Opinion
    from ..inference.predictor import Predictor, ReadFile
    from ..inference.sources import Gathered, Kind, Look, Source
    from ..interop.hl7 import Specimen
    from ..report.opinion import OpinionPage


_NOTES = 6  # kinds of changes to files that are listed one by one


@dataclass(frozen=True)
class Request:
    """Options of the command."""

    point: str = "balanced"
    kind: "Look" = "auto"
    csv: Path | None = None
    html: Path | None = None
    as_json: bool = False
    quiet: bool = False
    """Whether a requested file is written to standard output; the table then goes to standard error."""
    formats: tuple[str, ...] = ()
    folder: Path | None = None
    """Where `formats` go; then `csv` lies in it too."""
    um_per_px: float | None = None
    each_scale: bool = False
    method: str = "macenko"
    jobs: int = 1
    keep: Path | None = None
    """Where the work on slides is kept, so that it can continue."""
    specimen: "Specimen | None" = None
    order: tuple[str, ...] = ()
    """Rows of the differential in the laboratory's own order."""
    goal: int = 200
    """White cells that the laboratory counts for a differential."""
    platelet_factor: float | None = None
    """Platelets in 10⁹ per litre for one platelet in a field."""


class PredictionRun:
    """Only what is shown at the end is kept in memory, and the cells of the current field."""

    def __init__(self, predictor: "Predictor", found: "Gathered", request: Request) -> None:
        from ..inference.cell_types import Counting
        from ..inference.opinions import Tally
        from .output import ShownOpinions

        self._predictor, self._found, self._request = predictor, found, request
        self._sources = found.sources
        self._point = request.point.replace("-", "_")
        self.tally = Tally(predictor.manifest, point=self._point)
        self.counting = Counting(predictor.manifest, point=self._point, order=request.order, goal=request.goal)
        self.shown = ShownOpinions(predictor.manifest, point=self._point)
        self._per_field = Tally(predictor.manifest, point=self._point)
        self._smears: list[tuple[Smear, str]] = []
        self._blood: dict[str, list[FieldCount]] = {}
        """Path of a field or slide -> its red cells and platelets, of a slide by window."""
        self._spool = Spool() if request.csv else None
        self._page = self._new_page() if request.html else None
        self._reader: Reader | None = None
        self._printed = 0
        self._notes: Counter[str] = Counter()
        """What was done to the values of files -> of how many."""
        self.problems = Problems()
        """Of fields that are not to be trusted in full."""
        self._unusable: list[tuple[Source, str]] = []
        """Fields that cannot be used, and why."""

    def run(self) -> None:
        """Predict, write the requested files, and print the table or JSON."""
        from ..inference.cell_types import limits_of

        if self._request.as_json:
            facts = {"model": self._predictor.manifest.name, "operating_point": self._point.replace("_", "-")}
            echo_json(json_text(facts)[:-1] + ', "cells": [', nl=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the program reports what is wrong with a file itself
            self._answer_all()
        fields = self._field_rows()
        written = attempt(lambda: self._write(fields))  # before anything is printed: a terminal must not cost a table
        if self._request.as_json:
            rest = {
                "decisions": self.tally.decisions,
                "subjects": self._subjects(),
                "fields": self._counted(fields),
                "differential": _json_of(self.counting.everything()),
                "blood_count": _json_of(self.blood()),
                "limits": limits_of(self._predictor.manifest, fields=bool(fields)),
            }
            echo_json("\n], " + json_text(rest | self._facts_of_files())[1:])
        else:
            counted = self.counting.everything()
            self.shown.print(
                self.tally,
                fields=fields,
                notes=self._file_notes(),
                err=self._request.quiet,
                differential=counted,
                blood=self.blood(),
            )
        if isinstance(written, Exception):  # nor a full disk the answers
            raise written

    def _facts_of_files(self) -> dict[str, Any]:
        """Return what the JSON holds about how files were read and what was passed over."""
        passed = self._found.passed
        return {
            "passed_over": [str(one.path) for one in passed],
            "passed_over_reasons": dict(Counter(one.reason for one in passed)),
            "hidden_files": self._found.hidden,
            "notes": self._found.notes,
            "changes": dict(self._notes),
        }

    def _file_notes(self) -> list[str]:
        """Return the same in words, what was done to most files first."""
        from ..images.listing import passed_over
        from ..images.read import changes_in_words

        done = changes_in_words(self._notes, most=_NOTES)
        whole = self._predictor.manifest.pictures == "fields" and self._request.kind == "auto"
        warnings = ["This bundle was trained on uncropped pictures and needs uncropped pictures."] if whole else []
        return [*self._found.notes, *warnings, *done, *passed_over(self._found.passed, hidden=self._found.hidden)]

    def _subjects(self) -> list[dict[str, Any]]:
        """Return the summary of each subject, with its differential where the bundle has a model of types."""
        rows, of = self.tally.summaries(), self.counting.of_subject
        rows = [
            row | ({"differential": _json_of(of(row["subject"]))} if self.counting.has_types else {}) for row in rows
        ]
        return [row | {"blood_count": _json_of(self.blood(subject=row["subject"]))} for row in rows]

    def _counted(self, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return fields with their differentials where the bundle has a model of types."""
        of = self.counting.of_field
        return [
            row | ({"differential": _json_of(of(row["field"]))} if self.counting.has_types else {}) for row in fields
        ]

    @property
    def all_used(self) -> bool:
        """Return whether every place held images, every file could be used, and every field be trusted."""
        unreliable = any(smear.problem for smear, _ in self._smears)
        return not (self._found.empty or self.tally.all.unreadable or unreliable)

    def _answer_all(self) -> None:
        from ..progress import track

        files = track(zip(self._sources, self._kinds_of_files(), strict=True), "Predicting", total=len(self._sources))
        for kind, group in groupby(files, key=lambda pair: pair[1][0]):
            if kind == "crop":
                self._answer_crops((source, file) for source, (_, file) in group)
            else:
                for source, _ in group:
                    self._answer_smear(source, kind)

    def _kinds_of_files(self) -> "Iterator[tuple[Kind, Path | ReadFile]]":
        """Yield the kind of each file, and the file, already read if it is a crop."""
        from ..inference.sources import look_at, look_for
        from ..progress import in_parallel

        look = look_for(self._predictor.manifest, self._request.kind)

        def kind_of(source: "Source") -> "tuple[Kind, Path | ReadFile]":
            found = attempt(lambda: look_at(source.path, look=look))
            return ("crop", source.path) if isinstance(found, Exception) else found  # reported where it is read

        return in_parallel(kind_of, self._sources)

    def _answer_crops(self, files: "Iterator[tuple[Source, Path | ReadFile]]") -> None:
        for source, opinion in self._predictor.stream(files, point=self._point, with_crops=self._page is not None):
            self._take_file(opinion, source)

    def _answer_smear(self, source: "Source", kind: "Kind") -> None:
        from ..errors import ImageError, usable
        from ..inference.sources import ready_for

        ready_for(kind)
        try:
            smear, found = usable(lambda: self._looked_at(source), name=str(source.path))
        except ImageError as refusal:
            self._refuse(source, refusal)
            return
        self._count_blood(smear, found)
        try:
            usable(lambda: self._write_formats(smear, found), name=str(source.path))
        except ImageError as unwritten:
            problem = unwritten.sentence
            smear = replace(smear, problem=f"{smear.problem}; {problem}" if smear.problem else problem)
        self._notes.update(smear.notes)
        self._smears.append((smear, source.subject))
        if smear.problem:
            self.problems.add(str(source.path), smear.problem)
        if self._page:
            self._page.add_field(smear, found, subject=source.subject)

    def _looked_at(self, source: "Source") -> "tuple[Smear, list[JudgedCell]]":
        smear = self._opened(source)
        return smear, [self._take_cell(judged, smear, source) for judged in smear.cells]

    def _count_blood(self, smear: "Smear", found: "list[JudgedCell]") -> None:
        from ..inference.blood_count import counts_of

        counts = counts_of(smear.count_blood(), found, positive=self._predictor.manifest.positive)
        self._blood[str(smear.path)] = counts

    def blood(self, *, subject: str | None = None, field: str | None = None) -> "BloodSummary | None":
        """Return what all fields, a subject's or one show beside white cells; None where nothing was counted."""
        from ..inference.blood_count import summary_of

        paths = [str(smear.path) for smear, whose in self._smears if subject is None or whose == subject]
        counts = [each for path in ([field] if field else paths) for each in self._blood.get(path, [])]
        return summary_of(counts, factor=self._request.platelet_factor)

    def _write_formats(self, smear: "Smear", found: "list[JudgedCell]") -> None:
        for write in self._writers():
            write(smear, found)

    def _opened(self, source: "Source") -> "Smear":
        from ..fields.extraction import FieldOptions, names_of
        from ..inference.fields import Reader

        request = self._request
        if self._reader is None:
            options = FieldOptions(request.um_per_px, request.each_scale, method=request.method, jobs=request.jobs)
            paths = [each.path for each in self._sources]
            self._names = dict(zip(paths, names_of(paths), strict=True))
            self._reader = Reader(
                self._predictor,
                paths,
                options=options,
                point=self._point,
                with_crops=self._page is not None,
                keep=request.keep,
            )
        return self._reader.open(source.path, name=self._names[source.path])

    def _take_cell(self, judged: "JudgedCell", smear: "Smear", source: "Source") -> "JudgedCell":
        """Count one cell of a field and return it without its pictures."""
        from ..inference.opinions import light, prediction_row

        row = prediction_row(str(smear.path), judged, self._predictor.classes, self._predictor.types)
        self._take(judged.opinion, subject=source.subject, row=row, field=str(smear.path))
        self._per_field.add(judged.opinion, subject=str(smear.path))
        if self._page:
            self._page.add(judged.opinion, subject=source.subject, field=smear.name, number=judged.cell.number)
        return light(judged)

    def _take_file(self, opinion: "Opinion", source: "Source") -> None:
        self._notes.update(opinion.notes)
        self._take(opinion, subject=source.subject, row=opinion.row(self._predictor.classes, self._predictor.types))
        if self._page:
            self._page.add(opinion, subject=source.subject)

    def _take(self, opinion: "Opinion", *, subject: str, row: dict[str, Any], field: str = "") -> None:
        self.tally.add(opinion, subject=subject)
        if opinion.readable:
            self.counting.add(opinion, subject=subject, field=field)
        self.shown.add(opinion)
        if self._spool:
            self._spool.add({"subject": subject} | row)
        if self._request.as_json:
            line = json_text(_plain(opinion, subject=subject, row=row))
            echo_json(f",\n{line}" if self._printed else f"\n{line}", nl=False)
            self._printed += 1

    def _refuse(self, source: "Source", refusal: "ImageError") -> None:
        """Count a field that cannot be used as a cell that cannot: in the same words, in the same places."""
        from ..bundle.manifest import REFUSED
        from ..inference.opinions import Opinion

        self._unusable.append((source, refusal.sentence))
        self._take_file(Opinion(str(source.path), REFUSED, refusal.sentence, readable=False), source)

    def _field_rows(self) -> list[dict[str, Any]]:
        if not self._smears and not self._unusable:
            return []
        from ..inference.blood_count import sum_counts
        from ..inference.opinions import Count, field_values, unusable_field

        for smear, _ in self._smears:
            self._per_field.subjects.setdefault(str(smear.path), Count())
        summaries = {row["subject"]: row for row in self._per_field.summaries()}
        rows = [
            field_values(
                smear, subject=whose, summary=summaries[str(smear.path)], blood=sum_counts(self._blood[str(smear.path)])
            )
            for smear, whose in self._smears
        ]
        return rows + [
            unusable_field(str(source.path), subject=source.subject, problem=why) for source, why in self._unusable
        ]

    def _write(self, fields: list[dict[str, Any]]) -> None:
        from ..files import write_csv
        from ..inference.opinions import columns_of

        if self._request.csv and self._spool:
            subject = any(source.subject for source in self._sources)
            columns = columns_of(self._predictor.classes, subject=subject, types=self._predictor.types)
            if fields:
                from ..inference.opinions import CELL_COLUMNS

                columns += CELL_COLUMNS
            rows = self._spool.rows()
            write_csv(
                self._request.csv, ({name: row.get(name, "") for name in columns} for row in rows), columns=columns
            )
        if self._request.folder:
            self._write_tables(self._request.folder, fields)
        if self._request.html and self._page:
            usable = [row for row in fields if row["width"]]  # the others are among the refused
            self._page.write(self._request.html, self.tally, fields=usable, counting=self.counting, blood=self.blood())

    def _write_tables(self, folder: Path, fields: list[dict[str, Any]]) -> None:
        from ..files import write_csv
        from ..inference.opinions import (
            BLOOD_COLUMNS,
            DIFFERENTIAL_COLUMNS,
            FIELD_COLUMNS,
            SUBJECT_COLUMNS,
            subject_row,
        )

        write_csv(folder / "fields.csv", fields, columns=FIELD_COLUMNS)
        summaries = self.tally.summaries()
        subjects = [subject_row(summary) for summary in summaries]
        write_csv(folder / "subjects.csv", subjects, columns=SUBJECT_COLUMNS)
        if self.counting.has_types:
            write_csv(folder / "differential.csv", self._differentials(fields), columns=DIFFERENTIAL_COLUMNS)
        if self._smears:
            write_csv(folder / "blood_count.csv", self._blood_rows(), columns=BLOOD_COLUMNS)
        if {"fhir", "hl7"} & set(self._request.formats):
            self._write_messages(folder, summaries)

    def _write_messages(self, folder: Path, summaries: list[dict[str, Any]]) -> None:
        """Write what goes to a hospital's systems: one file for each subject and format."""
        from datetime import UTC, datetime

        from ..files import file_name
        from ..inference.opinions import case_result
        from ..interop.hl7 import write_fhir, write_hl7

        when = datetime.now(UTC).replace(microsecond=0)
        for summary in summaries or [{"subject": ""} | asdict(self.tally.all)]:
            subject = summary["subject"]
            counted = self.counting.of_subject(subject) if subject else self.counting.everything()
            result = case_result(
                summary,
                counted,
                self._predictor.manifest,
                when=when,
                specimen=self._request.specimen or "",
                blood=self.blood(subject=subject or None),
            )
            name = file_name(subject or "all images")
            if "fhir" in self._request.formats:
                write_fhir(folder / "fhir" / f"{name}.json", result)
            if "hl7" in self._request.formats:
                write_hl7(folder / "hl7" / f"{name}.hl7", result)

    def _differentials(self, fields: list[dict[str, Any]]) -> "Iterator[dict[str, Any]]":
        from ..inference.opinions import differential_rows

        counted = [("all", "", self.counting.everything())]
        counted += [("subject", name, self.counting.of_subject(name)) for name in self.tally.subjects]
        counted += [("field", row["field"], self.counting.of_field(row["field"])) for row in fields if row["width"]]
        for level, name, each in counted:
            if each is not None:
                yield from differential_rows(level, name, each)

    def _blood_rows(self) -> "Iterator[dict[str, Any]]":
        from ..inference.opinions import blood_rows

        counted = [("all", "", self.blood())]
        counted += [("subject", name, self.blood(subject=name)) for name in self.tally.subjects]
        counted += [("field", str(smear.path), self.blood(field=str(smear.path))) for smear, _ in self._smears]
        for level, name, each in counted:
            if each is not None:
                yield from blood_rows(level, name, each)

    def _writers(self) -> Sequence[Any]:
        if not self._request.folder:
            return ()
        from .output import writers_of

        return writers_of(
            self._request.formats,
            self._request.folder,
            manifest=self._predictor.manifest,
            counting=self.counting,
            blood=lambda path: self.blood(field=path),
        )

    def _new_page(self) -> "OpinionPage":
        from ..report.opinion import OpinionPage  # brings matplotlib and scikit-learn: not for a quick answer

        return OpinionPage(self._predictor.manifest, point=self._point)


def _json_of(counted: "Differential | BloodSummary | None") -> dict[str, Any] | None:
    return None if counted is None else counted.as_json()


def _plain(opinion: "Opinion", *, subject: str, row: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "path": row["path"],
        "subject": subject,
        "type": opinion.type or None,
        "types": opinion.types,
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


def predict_on_cluster(
    images: Sequence[str],
    output: str | None,
    *,
    model: str | None,
    point: str,
    workers: int | None,
    cpus_per_worker: int,
) -> None:
    """Answer all images, or those that a call before left, and print the counts.

    Raises:
        UsageError: there is no output folder, or it holds another prediction.
        MissingExtraError: Ray is not installed.
    """
    from ..errors import ImageError, UsageError, require
    from ..progress import track
    from .options import many

    require("ray", feature="--engine ray", extra="cluster")
    if output is None:
        raise UsageError("--engine ray writes a folder of Parquet files. Name it with -o, such as -o answers.")
    from ..bundle.manifest import open_bundle
    from ..inference.shards import Counts, answer_on_ray, finished, make_plan, summarise

    bundle = open_bundle(model)
    plan = make_plan(images, output, bundle, point=point)
    done = finished(plan)
    shards = plan.shards()
    left = [shard for shard in shards if shard.number not in done]
    if done:
        click.echo(f"Resuming: {len(done):,} of {many(len(shards), 'shard')} done.", err=True)
    counts = sum(done.values(), Counts())
    answered = answer_on_ray(plan, left, workers=workers, cpus_per_worker=cpus_per_worker) if left else iter(())
    for each in track(answered, f"Predicting {many(plan.images, 'cell')}", total=len(left)):
        counts += each
    summarise(plan, counts)
    decided = ", ".join(f"{number:,} {name}" for name, number in sorted(counts.decisions.items()))
    click.echo(f"{many(counts.images, 'cell')}: {decided} ({counts.unreadable:,} cannot be used as images)")
    note(f"Wrote {plan.out}/cells")
    if counts.unreadable:
        raise SystemExit(ImageError.exit_status)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path())
@model_option
@click.option("-o", "--output", type=click.Path(), help="Write one row per cell as CSV; with --to, a folder.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of pictures and heat maps.")
@point_option
@click.option(
    "--kind",
    type=click.Choice(["auto", "crops", "fields"]),
    default="auto",
    show_default=True,
    help="What IMAGES show: cells cut out on black, or smear fields and slides.",
)
@click.option(
    "--to",
    "formats",
    multiple=True,
    type=click.Choice(["qupath", "dicom", "csv", "fhir", "hl7"]),
    help="Format of results in -o, a folder: qupath and dicom per field, fhir and hl7 per subject. Repeatable.",
)
@click.option(
    "--specimen",
    type=click.Choice(["blood", "bone marrow"]),
    help="Specimen of the smears; FHIR and HL7 contain LOINC codes only for blood.",
)
@field_options
@click.option(
    "--platelet-factor",
    type=click.FloatRange(min=0, min_open=True),
    help="Platelets in 10⁹ per litre for one platelet per field, measured for your microscope: adds an estimate.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep intermediate results of slides here, so that an interrupted run can be resumed.",
)
@click.option(
    "--order",
    callback=lambda _context, _option, given: tuple(name.strip() for name in given.split(",")) if given else (),
    metavar="KIND,KIND,...",
    help="Rows of the differential in your laboratory's order, such as blast,neutrophil,lymphocyte; others follow.",
)
@click.option(
    "--goal",
    type=click.IntRange(1, 100_000),
    default=200,
    show_default=True,
    help="Number of white cells that your laboratory counts for a differential.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where crops are classified: on this machine, or on a Ray cluster; then -o is a folder of Parquet files.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Number of Ray workers. [default: as many as fit in the cluster]"
)
@click.option(
    "--cpus-per-worker",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processor cores of each worker.",
)
def predict(images: tuple[str, ...], model: str | None, output: str | None, **options: Any) -> None:
    """Classify each cell in IMAGES: its type and, if lymphoid, its class; or unsure; or refused, with the reason.

    IMAGES are files, folders or CSV tables (columns path and optionally subject): cells cut out on black, or smear
    fields, DICOM microscope images and slides, whose cells are found, cut out and brought to the model's scale and
    stain first. White cells are counted as a differential. A subject column, or sub-folders in a folder, add a summary
    per subject. Images that cannot be used are listed and skipped; the exit status is then 1. For research;
    not a diagnosis.

    \b
    Examples:
      leukoscope predict cells/*.bmp
      leukoscope predict cells/ -o predictions.csv --html opinion.html
      leukoscope predict cells.csv --model models/first --operating-point high-sensitivity --json
      leukoscope predict smear/ -o predictions.csv --html opinion.html
      leukoscope predict s3://archive/cells --engine ray -o s3://archive/answers
      leukoscope predict slide.svs --um-per-px 0.12 --jobs 2 --keep work/ --to qupath -o results/
    """
    from ..errors import ImageError
    from ..inference.predictor import load
    from ..inference.sources import SUFFIXES, gather
    from .options import printable

    engine = {name: options.pop(name) for name in ("workers", "cpus_per_worker")}
    if options.pop("engine") == "ray":
        _refuse_on_cluster(options)
        predict_on_cluster(images, output, model=model, point=options["point"], **engine)
        return
    request = Request(**_places(Path(output) if output else None, options.pop("formats")), **options)
    request = replace(request, quiet=_printed_into(request, images))
    predictor = load(model, maps=request.html is not None)
    found = gather(map(Path, images), suffixes=SUFFIXES, dicom=True, classes=predictor.manifest.classes)
    for line in found.empty:
        complain(line)
    _check_dicom([source.path for source in found.sources], request.formats)
    done = PredictionRun(predictor, found, request)
    done.run()
    for line in [*done.shown.unusable(), *done.problems.lines()]:
        complain(line)
    for path in (output, request.html):
        if path:
            note(f"Wrote {printable(path)}", err=request.as_json or request.quiet)
    if not done.all_used:
        raise SystemExit(ImageError.exit_status)


def _printed_into(request: "Request", images: tuple[str, ...]) -> bool:
    """Refuse results that would meet in one file; return whether one goes to standard output."""
    from .output import prints_into, refuse_collisions

    outputs: list[tuple[str, Path | None]] = [("-o", request.csv), ("--html", request.html)]
    if folder := request.folder:
        tables = [folder / f"{name}.csv" for name in ("fields", "subjects", "differential", "blood_count")]
        outputs += [("--to", path) for path in (*tables, *(folder / name / "*" for name in request.formats))]
    taken = any(prints_into(path) for _, path in outputs)
    if taken and request.as_json:
        outputs.append(("--json", Path("/dev/stdout")))
    refuse_collisions(outputs, inputs=images)
    return taken


def _places(output: Path | None, formats: tuple[str, ...]) -> dict[str, Any]:
    """Return where results go: a CSV file, or with other formats a folder that holds the CSV too."""
    from ..errors import UsageError

    if not formats:
        if output and output.is_dir():
            raise UsageError(f"{output} is a folder. Give the name of a CSV file, or add --to csv.")
        return {"csv": output}
    if output is None or output.suffix.lower() == ".csv" or output.is_file():
        raise UsageError(f"--to {formats[0]} writes several files. Give their folder with -o, such as -o results.")
    return {"csv": output / "predictions.csv", "folder": output, "formats": formats}


def _refuse_on_cluster(options: dict[str, Any]) -> None:
    """Refuse what the cluster does not do, rather than leave it out in silence."""
    from ..errors import UsageError

    others = {"--json": "as_json", "--html": "html", "--to": "formats", "--um-per-px": "um_per_px", "--keep": "keep"}
    wanted = [name for name, option in others.items() if options[option]]
    if options["kind"] == "fields":
        wanted.append("--kind fields")
    if wanted:
        raise UsageError(f"--engine ray predicts cells cut out on black, into Parquet. Leave out {', '.join(wanted)}.")


def _check_dicom(paths: list[Path], formats: tuple[str, ...]) -> None:
    from ..errors import UsageError
    from ..interop.dicom import is_dicom

    if "dicom" in formats and (others := [path.name for path in paths if not is_dicom(path)]):
        raise UsageError(f"--to dicom needs DICOM sources, whose identifiers it keeps; {others[0]} is not one.")
