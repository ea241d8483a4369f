"""A case for other programs: table, QuPath, DICOM, report as page or PDF, and a labelled data set to train on.

Outlines are called after their source, so that one knows on which smear to drop them. The names of all else hold
numbers only; what a case and a patient are called stands inside.
"""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..bundle.manifest import NOT_ASKED, UNSURE, Manifest, title_of
from ..data.cells import COLUMNS
from ..files import escape_formula
from ..inference.blood_count import BloodSummary
from ..inference.cell_types import limits_of
from ..inference.opinions import TYPE_COLOURS, worded
from ..interop.qupath import Shape, geojson
from ..report.case import CaseCell, CaseReport, SignOff, page, pdf
from . import readings
from .accounts import Caller
from .cases import COUNTS_AS, MODEL_ANSWER, SignedOff, describe_case, fields_of_case, place_of
from .database import THIRD, AccountRow, CaseRow, CellRow, ImageRow, PredictionRow, ReviewRow
from .readings import View
from .refusals import Refusal
from .sandbox import Sandbox, header_of
from .settings import RoomSettings
from .store import PictureStore, png
from .summary import agreement_of_case, blood_of, differential_of_image, differentials, summary

FORMATS = ("csv", "counts", "json", "answers", "geojson", "dicom", "html", "pdf", "dataset")
_THUMBNAIL = 160


@dataclass(frozen=True)
class Export:
    """One file to hand out."""

    name: str
    media: str
    content: bytes


@dataclass(frozen=True)
class Exporter:
    """What every export needs."""

    session: Session
    pictures: PictureStore
    sandbox: Sandbox
    manifest: Manifest
    settings: RoomSettings
    caller: Caller
    view: View
    """What the caller may see of the case."""

    def make(self, case: CaseRow, kind: str) -> Export:
        """Return a case in one of FORMATS.

        Raises:
            Refusal: this case has nothing that this format could hold, or it is being read blind.
        """
        readings.check_unblind(case)
        makers = {
            "csv": self._csv,
            "counts": self._counts,
            "json": self._json,
            "answers": self._answers,
            "geojson": self._geojson,
            "dicom": self._dicom,
            "html": self._html,
            "pdf": self._pdf,
            "dataset": self._dataset,
        }
        return makers[kind](case)

    def _csv(self, case: CaseRow) -> Export:
        rows = list(_rows(self.session, case.id))
        answers = readings.answers_of(self.session, self.view)
        classes = sorted({name for row in rows for name in (row.probabilities or {})})
        types = sorted({name for row in rows for name in (row.types or {})})
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*_CSV, *(f"prob_{name}" for name in classes), *(f"prob_type_{name}" for name in types)])
        for row in rows:
            numbers = [*_numbers(row.probabilities, classes), *_numbers(row.types, types)]
            all_answers = "; ".join(f"{each['reader']}: {each['label']}" for each in answers.get(row.id, []))
            writer.writerow([*map(escape_formula, _csv_row(case, row, all_answers)), *numbers])
        return Export(f"case-{case.id}.csv", "text/csv; charset=utf-8", stream.getvalue().encode())

    def _counts(self, case: CaseRow) -> Export:
        """Return the differential by model and by readers, and red cells and platelets, a number to a row."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COUNTS)
        head = [case.id, escape_formula(case.subject)]
        for counter, counted in (self._figures_of(case)["differential"] or {}).items():
            for row in counted["rows"]:
                writer.writerow([*head, counter, row["name"], row["cells"], "", "", "{cells}", _NOTICE])
                if row["percent"] is not None:
                    writer.writerow([*head, counter, row["name"], *_ends(row, "percent"), "%", _NOTICE])
            for name, cells in counted["apart"].items():
                writer.writerow([*head, counter, f"apart: {name}", cells, "", "", "{cells}", _NOTICE])
        blood = self._blood(case)
        for number in blood.rows() if blood else ():
            writer.writerow([*head, "program", number.name, *_ends(vars(number), "value"), number.unit, _NOTICE])
        return Export(f"case-{case.id}-counts.csv", "text/csv; charset=utf-8", stream.getvalue().encode())

    def _json(self, case: CaseRow) -> Export:
        """Return what the page shows of the case as a whole: share, differential, red cells and platelets, fields."""
        content = json.dumps(self._figures_of(case), ensure_ascii=False, indent=1).encode()
        return Export(f"case-{case.id}.json", "application/json", content)

    def _figures_of(self, case: CaseRow) -> dict[str, Any]:
        blood, named = self._blood(case), {"case": case.id, "name": case.name, "subject": case.subject}
        counted = differentials(self.session, self.view, manifest=self.manifest, settings=self.settings)
        figures = summary(self.session, self.view, manifest=self.manifest, point=self.settings.point)
        by = {"model": self.manifest.name, "bundle": self.manifest.seal, "limits": limits_of(self.manifest)}
        found = {"differential": counted, "blood_count": blood.as_json() if blood else None}
        return {**named, **by, **figures, **found, "fields": fields_of_case(self.session, case.id)}

    def _blood(self, case: CaseRow, image_id: int | None = None) -> BloodSummary | None:
        return blood_of(self.session, case.id, factor=self.settings.platelet_factor, image_id=image_id)

    def _answers(self, case: CaseRow) -> Export:
        """Return one row for each answer that was ever given, those taken back or overtaken too."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_ANSWERS)
        for answer in readings.history(self.session, self.view):
            model = answer["shown"]["model"] or {}
            row = [
                case.id,
                case.subject,
                answer["cell"],
                answer["reader"],
                answer["round"],
                answer["label"],
                answer["note"],
                answer["time"],
                "yes" if answer["undone"] else "",
                answer["shown"]["version"],
                model.get("decision", "hidden"),
                model.get("type", ""),
                model.get("bundle", ""),
                " ".join(map(str, answer["shown"]["reviews"])),
                answer["review"],
            ]
            writer.writerow([*map(escape_formula, row)])
        return Export(f"case-{case.id}-answers.csv", "text/csv; charset=utf-8", stream.getvalue().encode())

    def _geojson(self, case: CaseRow) -> Export:
        """Return one GeoJSON for a case with one field, else a zip of one for each."""
        fields = [(image, rows) for image, rows in self._by_source(case) if any(row.outline for row in rows)]
        names = source_names([image.name for image, _ in fields])
        files = {
            f"{name}.geojson": json.dumps(geojson(self._shapes(rows)), indent=1).encode()
            for name, (_, rows) in zip(names, fields, strict=True)
        }
        if not files:
            raise Refusal(409, "no_fields", "GeoJSON is for cells in fields; this case holds single cells only.")
        if len(files) == 1:
            name, content = files.popitem()
            return Export(name, "application/geo+json", content)
        return Export(f"case-{case.id}-geojson.zip", "application/zip", zipped(files.items()))

    def _shapes(self, rows: Sequence[Any]) -> list[Shape]:
        positive = self.manifest.positive
        return [
            Shape(
                np.array(row.outline, float) + _corner(row),
                f"Cell {row.number}",
                title_of(row.shown),
                _measurements(row, positive),
                _colour(row.shown, self.manifest),
            )
            for row in rows
            if row.outline
        ]

    def _dicom(self, case: CaseRow) -> Export:
        return Export(f"case-{case.id}-dicom.zip", "application/zip", zipped(self.dicom_files(case).items()))

    def dicom_files(self, case: CaseRow) -> dict[str, bytes]:
        """Return reports and outlines of a case's DICOM images as objects of their own, by file name.

        Raises:
            Refusal: the case holds no DICOM image.
        """
        files: dict[str, bytes] = {}
        for image, rows in self._by_image(case):
            if image.identity:
                files |= self._dicom_files(f"case-{case.id}-image-{image.number:03d}", image, rows)
        if not files:
            text = "DICOM results carry the identity of a DICOM source; this case holds no DICOM image."
            raise Refusal(409, "no_dicom", text)
        return files

    def _dicom_files(self, name: str, image: ImageRow, rows: Sequence[Any]) -> dict[str, bytes]:
        from ..interop.dicom_results import Algorithm, write_annotations, write_report

        source = header_of(self.pictures.read(image.identity))
        bundle = f"{self.manifest.name}, {self.manifest.seal}"
        algorithm = Algorithm("leukoscope", metadata.version("leukoscope"), bundle)
        cells = [self._dicom_cell(row) for row in rows if row.outline]
        with TemporaryDirectory(prefix="leukoscope-") as folder:
            counted = self._shares(image)
            report = Path(folder, f"{name}-report.dcm")
            blood = blood_of(self.session, image.case_id, factor=self.settings.platelet_factor, image_id=image.id)
            rows = blood.rows() if blood else ()
            write_report(report, source, cells, algorithm=algorithm, differential=counted, blood=rows)
            if cells and "FrameOfReferenceUID" in source:
                write_annotations(Path(folder, f"{name}-outlines.dcm"), source, cells, algorithm=algorithm)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}

    def _dicom_cell(self, row: Any) -> Any:
        from ..interop.dicom_results import DicomCell

        chances = row.probabilities or {}
        area, meaning = float(row.facts.get("area_um2", 0.0)), title_of(row.shown)
        if row.shown == "unsure" and row.decision == NOT_ASKED:
            meaning = "type unsure"
        return DicomCell(
            np.array(row.outline, float), f"Cell {row.number}", meaning, area, chances.get(self.manifest.positive)
        )

    def _shares(self, image: ImageRow) -> list[Any]:
        """Return the model's differential of one image as rows for DICOM."""
        counted = differential_of_image(self.session, image, manifest=self.manifest, settings=self.settings)
        return [] if counted is None else [*counted.rows, *counted.beside()]

    def _html(self, case: CaseRow) -> Export:
        return Export(f"case-{case.id}.html", "text/html; charset=utf-8", page(self._report(case)).encode())

    def _pdf(self, case: CaseRow) -> Export:
        return Export(f"case-{case.id}.pdf", "application/pdf", pdf(self._report(case)))

    def _report(self, case: CaseRow) -> CaseReport:
        figures = summary(self.session, self.view, manifest=self.manifest, point=self.settings.point)
        counted = differentials(self.session, self.view, manifest=self.manifest, settings=self.settings)
        described = describe_case(self.session, self.caller, case)
        names = select(ImageRow.name).where(ImageRow.case_id == case.id).order_by(ImageRow.number)
        images = self.session.scalars(names).all()
        return CaseReport(
            name=case.name,
            subject=case.subject,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            model=self.manifest.name,
            bundle=self.manifest.seal,
            chance_of=title_of(self.manifest.positive),
            share=figures["blast_share"],
            by_model=_counts(figures["by_model"]),
            by_reader=_counts(figures["by_reader"]),
            signed=_sign_off(described.signed),
            images=images,
            agreement=agreement_of_case(self.session, case),
            unsettled=figures["unsettled"],
            readers=[_reader(each) for each in described.reading.people],
            cells=[self._report_cell(row) for row in _rows(self.session, case.id)],
            credits=self.manifest.credits,
            differential=counted,
            blood=self._blood(case),
            limits=limits_of(self.manifest),
        )

    def _report_cell(self, row: Any) -> CaseCell:
        return CaseCell(
            row.number,
            self.sandbox.draw_cell(self.pictures, place_of(row), side=_THUMBNAIL),
            "not settled" if row.disputed and not row.label else _in_words(row.shown),
            row.chance,
            _in_words(row.predicted),
            worded(row.reason or ""),
            row.reader or "",
            row.note or "",
            row.image,
        )

    def _dataset(self, case: CaseRow) -> Export:
        """Return a zip of the cells that readers gave a class: <class>/case<number>_<cell>.png and cells.csv."""
        rows = [row for row in _rows(self.session, case.id) if row.label in _known(self.manifest, row)]
        if not rows:
            text = "No cell of this case has been given a class by a reader yet. Read some first."
            raise Refusal(409, "nothing_read", text)
        return Export(
            f"case-{case.id}-dataset.zip", "application/zip", zipped(_dataset_files(self.pictures, case, rows))
        )

    def _by_source(self, case: CaseRow) -> Iterator[tuple[ImageRow, list[Any]]]:
        """Yield each image that was sent with its cells: a slide with those of all its areas."""
        found = {image.id: (image, rows) for image, rows in self._by_image(case)}
        for image, rows in list(found.values()):
            if part_of := image.facts.get("part_of"):
                del found[image.id]
                found[part_of["image"]][1].extend(rows)
        yield from found.values()

    def _by_image(self, case: CaseRow) -> Iterator[tuple[ImageRow, list[Any]]]:
        rows: dict[int, list[Any]] = {}
        for row in _rows(self.session, case.id):
            rows.setdefault(row.image_id, []).append(row)
        for image in self.session.scalars(
            select(ImageRow).where(ImageRow.case_id == case.id).order_by(ImageRow.number)
        ):
            yield image, rows.get(image.id, [])


_CSV = (
    "case",
    "subject",
    "cell",
    "image",
    "left",
    "top",
    "width",
    "height",
    "area_um2",
    "flags",
    "origin",
    "decision",
    "type",
    "called",
    "reason",
    "quality",
    "review",
    "reader",
    "reviewed",
    "note",
    "answers",
    "bundle",
    "notice",
)


_COUNTS = ("case", "subject", "counted_by", "quantity", "value", "low", "high", "unit", "notice")
_NOTICE = "research use, not a diagnosis"


def _ends(row: Mapping[str, Any], value: str) -> list[Any]:
    """Return a number and the limits of its interval, empty where there are none."""
    return [row[value], *("" if row[end] is None else row[end] for end in ("low", "high"))]


def _corner(row: Any) -> tuple[int, int]:
    """Return where the image of a cell begins in the file that was sent: an area of a slide, in pixels of the slide."""
    at = row.facts_of_image.get("part_of")
    return (at["left"], at["top"]) if at else (0, 0)


def _csv_row(case: CaseRow, row: Any, all_answers: str) -> list[Any]:
    left, top = _corner(row)
    box = [row.box[0] + left, row.box[1] + top, *row.box[2:]] if row.box else ["", "", "", ""]
    reviewed = [row.label, row.reader or "", row.reviewed or "", row.note or "", all_answers]
    return [
        case.id,
        case.subject,
        row.number,
        row.image,
        *box,
        row.facts.get("area_um2", ""),
        "; ".join(row.facts.get("flags", [])),
        row.origin,
        row.decision,
        row.type,
        row.called or "",
        row.reason or "",
        "" if row.quality is None else row.quality,
        *reviewed,
        row.bundle or "",
        _NOTICE,
    ]


def _rows(session: Session, case_id: int) -> Iterable[Any]:
    """Return all cells of a case with what is thought of them, in the order of their numbers."""
    query = (
        select(
            CellRow.id,
            CellRow.number,
            CellRow.image_id,
            CellRow.digest,
            CellRow.box,
            CellRow.outline,
            CellRow.facts,
            CellRow.origin,
            CellRow.decision,
            CellRow.chance,
            CellRow.label,
            CellRow.disputed,
            CellRow.type,
            PredictionRow.types,
            MODEL_ANSWER.label("predicted"),
            COUNTS_AS.label("shown"),
            ImageRow.name.label("image"),
            ImageRow.facts.label("facts_of_image"),
            ImageRow.digest.label("field"),
            ImageRow.um_per_px,
            ImageRow.width,
            ImageRow.height,
            PredictionRow.probabilities,
            PredictionRow.called,
            PredictionRow.reason,
            PredictionRow.quality,
            PredictionRow.bundle,
            ReviewRow.note,
            ReviewRow.created.label("reviewed"),
            AccountRow.name.label("reader"),
        )
        .join(ImageRow, ImageRow.id == CellRow.image_id)
        .outerjoin(PredictionRow, PredictionRow.id == CellRow.prediction_id)
        .outerjoin(ReviewRow, ReviewRow.id == CellRow.review_id)
        .outerjoin(AccountRow, AccountRow.id == ReviewRow.account_id)
        .where(CellRow.case_id == case_id, CellRow.removed.is_(False))
        .order_by(CellRow.number)
    )
    return session.execute(query).all()


_ANSWERS = (
    "case",
    "subject",
    "cell",
    "reader",
    "round",
    "label",
    "note",
    "time",
    "taken_back",
    "cell_version",
    "model_decision_shown",
    "model_type_shown",
    "bundle",
    "reviews_shown",
    "review",
)


def _sign_off(signed: SignedOff | None) -> SignOff | None:
    return None if signed is None else {"by": signed.by, "time": signed.time, "note": signed.note}


def _reader(place: readings.ReaderProgress) -> str:
    """Return who read, and how far, in words."""
    state = f"finished {place.finished[:16].replace('T', ' ')} UTC" if place.finished else ""
    left = "place given back" if place.released else state
    cells = "1 cell" if place.read == 1 else f"{place.read:,} cells"
    third = "as third reader" if place.round == THIRD else ""
    return f"{place.reader}: {', '.join(part for part in (cells, third, left) if part)}"


def _in_words(decision: str) -> str:
    return title_of(decision).replace("_", " ")  # not_a_cell


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {_in_words(name): number for name, number in counts.items()}


def _numbers(chances: dict[str, float] | None, names: Sequence[str]) -> list[str]:
    return [f"{chances[name]:.6f}" if chances and name in chances else "" for name in names]


def _colour(shown: str, manifest: Manifest) -> tuple[int, int, int] | None:
    """Return the colour of a type; classes have those that QuPath's writer knows."""
    return TYPE_COLOURS.get(shown) if manifest.types and shown not in (UNSURE, *manifest.classes) else None


def _measurements(row: Any, positive: str) -> dict[str, float]:
    found = {f"Probability {name}": float(chance) for name, chance in (row.probabilities or {}).items()}
    if positive and row.chance is not None:
        found["Read"] = float(bool(row.label))
    return found | ({"Area µm²": float(row.facts["area_um2"])} if "area_um2" in row.facts else {})


def _known(manifest: Manifest, row: Any) -> set[str]:
    return set(manifest.classes) | set(row.probabilities or {})


def _dataset_files(pictures: PictureStore, case: CaseRow, rows: Sequence[Any]) -> Iterator[tuple[str, bytes]]:
    from hashlib import sha256

    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        content = _as_png(pictures.read(row.digest))
        path = f"{safe(row.label)}/case{case.id}_{row.number:05d}.png"
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
        values: Mapping[str, Any] = {
            "path": path,
            "label": row.label,
            "subject": case.subject or f"case{case.id}",
            "part": "",
            "source": "reading room",
            "name": path.rpartition("/")[2],
            "sha256": sha256(content).hexdigest(),
            "width": width,
            "height": height,
        }
        writer.writerow({name: escape_formula(value) for name, value in values.items()})
        yield path, content
    yield "cells.csv", table.getvalue().encode()


def _as_png(content: bytes) -> bytes:
    if content.startswith(b"\x89PNG"):
        return content
    with Image.open(io.BytesIO(content)) as image:
        return png(np.asarray(image.convert("RGB")))


def source_names(names: Sequence[str]) -> list[str]:
    """Return what the results of images are called: their own names without folder and suffix, each one once.

    >>> source_names(["ward 3/smear.tif", "other/smear.png", "..", "a:b.svs"])
    ['smear', 'smear-2', 'image', 'a-b']
    """
    from ..fields.extraction import names_of

    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in names]
    plain = [re.sub(r'[<>:"|?*%;\\/]+', "-", stem).strip(" .-") or "image" for stem in stems]
    return names_of([Path(f"{each}.x") for each in plain])


def safe(name: str) -> str:
    """Return a class name as the name of a folder.

    >>> safe("../all blasts")
    'all-blasts'
    """
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name).split()) or "unnamed"


def zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return files as a zip; pictures are compressed already."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return stream.getvalue()
