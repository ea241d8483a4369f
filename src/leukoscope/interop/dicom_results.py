"""Write what was found as DICOM: outlines as Microscopy Bulk Simple Annotations, counts and cells as a TID 1500 report.

Both carry the source's patient, study and specimen as the source states them, refer to the source image by its
UIDs, and name the algorithm and the model bundle. They lie in a new series of the source's study.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, require
from ..files import atomic_write
from .hl7 import FOUND_AS_WHITE, CellShare, Observation

MANUFACTURER = "leukoscope developers"
MOST_REPORTED = 500  # cells; a report with more is not read by anyone, and the annotations hold them all

# Class name -> code, scheme, meaning. SNOMED CT codes are those of published sources: Leukocyte and Eosinophil of the
# value set "CPAL - Cell" (https://hl7.pt/fhir/Terminologias/ValueSet/cpal-cell-vs), the others as BoneMarrowWSI-
# PediatricLeukemia is coded in the NCI Imaging Data Commons (arXiv 2509.15895). What a model calls a blast is no SNOMED
# CT concept, nor were published codes found for types as wide as these: they have codes of our own.
CODES = {
    "White cell": ("52501007", "SCT", "Leukocyte"),
    "lymphocyte": ("56972008", "SCT", "Lymphocyte"),
    "monocyte": ("55918008", "SCT", "Monocyte"),
    "eosinophil": ("14793004", "SCT", "Eosinophil"),
    "basophil": ("30061004", "SCT", "Basophil, segmented"),
    "platelet": ("16378004", "SCT", "Thrombocyte"),
    FOUND_AS_WHITE: ("PLATELET_FOUND", "99LEUKOSCOPE", "Giant or clumped platelet, found as a white cell"),
    "smudge": ("34717007", "SCT", "Smudge cell"),
    "neutrophil": ("NEUTROPHIL", "99LEUKOSCOPE", "Neutrophil, band or segmented"),
    "immature granulocyte": ("IMMATURE_GRANULO", "99LEUKOSCOPE", "Promyelocyte, myelocyte or metamyelocyte"),
    "erythroblast": ("ERYTHROBLAST", "99LEUKOSCOPE", "Erythroblast of any stage"),
    "lymphoid, undecided": ("LYMPHOID_OPEN", "99LEUKOSCOPE", "Lymphoid cell, blast or not left to a person"),
    "other": ("OTHER_CELL", "99LEUKOSCOPE", "Cell of another type"),
    "blast": ("BLAST", "99LEUKOSCOPE", "Classified as leukemic blast"),
    "normal": ("NORMAL", "99LEUKOSCOPE", "Classified as normal white cell"),
    "unsure": ("UNSURE", "99LEUKOSCOPE", "White cell left to a person to decide"),
    "type unsure": ("TYPE_UNSURE", "99LEUKOSCOPE", "Cell whose type is left to a person to decide"),
    "refused": ("REFUSED", "99LEUKOSCOPE", "White cell not judged by the model"),
    "red cell": ("RED_CELL", "99LEUKOSCOPE", "Red cell"),
}

# Name of a number of inference.blood_count -> what it is of, and its code of ours and meaning.
BLOOD_CODES = {
    "fields counted": ("red cell", "FIELDS", "Number of fields counted"),
    "red cells in fields": ("red cell", "CELLS", "Number of cells"),
    "red cells per field": ("red cell", "RED_PER_FIELD", "Red cells per field"),
    "red cell diameter": ("red cell", "RED_DIAM", "Mean diameter of red cells"),
    "standard deviation of red cell diameter": ("red cell", "RED_DIAM_SD", "Standard deviation of that diameter"),
    "platelets in fields": ("platelet", "CELLS", "Number of cells"),
    "clumped platelets in fields": ("platelet", "CLUMPED", "Number of platelets in clumps"),
    "platelets per field": ("platelet", "PLT_PER_FIELD", "Platelets per field"),
    "platelets per 100 red cells": ("platelet", "PLT_PER_100RBC", "Platelets per 100 red cells"),
    "platelets per white cell": ("platelet", "PLT_PER_WHITE", "Platelets per white cell"),
    "estimated platelets": ("platelet", "PLT_ESTIMATE", "Platelets per litre, by the factor given"),
}


@dataclass(frozen=True)
class DicomCell:
    """One cell for DICOM; x and y in pixels of the (total) image."""

    outline: NDArray[np.float64]  # (points, 2)
    name: str
    classification: str
    area_um2: float
    probability: float | None = None  # of the class "blast"
    evaluations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Algorithm:
    """What has found and classified the cells."""

    name: str
    version: str
    bundle: str = ""  # name and fingerprint of the model bundle; empty when cells were found but not classified


def write_annotations(path: Path, source: Any, cells: Sequence[DicomCell], *, algorithm: Algorithm) -> None:
    """Write the outlines as Microscopy Bulk Simple Annotations, one group for each class.

    Raises:
        MissingExtraError: the extra `dicom` is not installed.
        DataError: there are no cells, or the source has no frame of reference (a single camera field): the report
            holds the outlines then.
    """
    highdicom = require("highdicom", feature="DICOM", extra="dicom")
    if not cells or "FrameOfReferenceUID" not in source:
        raise DataError(f"{path.name}: annotations need cells and a frame of reference. Read the report instead.")
    classes = sorted({cell.classification for cell in cells})
    groups = [
        _group(number, name, [cell for cell in cells if cell.classification == name], algorithm=algorithm)
        for number, name in enumerate(classes, start=1)
    ]
    annotations = highdicom.ann.MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type="2D",
        annotation_groups=groups,
        content_label="LEUKOSCOPE",
        content_description="White cells",
        **_maker(instance=1, series=901),
    )
    _save(path, annotations)


def write_report(
    path: Path,
    source: Any,
    cells: Sequence[DicomCell],
    *,
    algorithm: Algorithm,
    differential: Sequence[CellShare] = (),
    blood: Sequence[Observation] = (),
) -> None:
    """Write counts by class, a differential and each cell (at most MOST_REPORTED) as a Comprehensive SR by TID 1500.

    blood: red cells and platelets of the image (inference.blood_count), which get a group each.

    Raises:
        MissingExtraError: the extra `dicom` is not installed.
    """
    highdicom = require("highdicom", feature="DICOM", extra="dicom")
    sr, codes = highdicom.sr, require("pydicom.sr.codedict", feature="DICOM", extra="dicom").codes
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=algorithm.name, manufacturer_name=MANUFACTURER, model_name=algorithm.bundle or None
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )
    identification = _identification(sr, algorithm)
    report = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.SCT.LightMicroscopy,
        imaging_measurements=[
            *_counts(sr, source, cells, identification=identification),
            *(_share(sr, source, row, identification=identification) for row in differential),
            *_blood(sr, source, blood, identification=identification),
            *(_cell(sr, source, cell, identification=identification) for cell in cells[:MOST_REPORTED]),
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    _save(
        path,
        sr.ComprehensiveSR(evidence=[source], content=report[0], is_complete=True, **_maker(instance=1, series=902)),
    )


def _group(number: int, name: str, cells: Sequence[DicomCell], *, algorithm: Algorithm) -> Any:
    highdicom = require("highdicom", feature="DICOM", extra="dicom")
    concept = highdicom.sr.CodedConcept
    areas = np.array([cell.area_um2 for cell in cells], dtype=np.float32)
    measured = [highdicom.ann.Measurements(_area_name(concept), areas, concept("um2", "UCUM", "um2"))]
    if all(cell.probability is not None for cell in cells):
        values = np.array([cell.probability for cell in cells], dtype=np.float32)
        measured.append(highdicom.ann.Measurements(_probability_name(concept), values, _one(concept)))
    return highdicom.ann.AnnotationGroup(
        number=number,
        uid=highdicom.UID(),
        label=name[:64],
        annotated_property_category=concept("4421005", "SCT", "Cell structure"),
        annotated_property_type=_type_of(concept, name),
        graphic_type="POLYGON",
        graphic_data=[_polygon(cell.outline) for cell in cells],
        algorithm_type="AUTOMATIC",
        algorithm_identification=_sequence(highdicom, algorithm),
        measurements=measured,
        description=f"{len(cells)} cells",
    )


def _counts(sr: Any, source: Any, cells: Sequence[DicomCell], *, identification: Any) -> list[Any]:
    """Return one measurement group with the number of cells of each class."""
    concept = sr.CodedConcept
    named = {"platelet": FOUND_AS_WHITE}  # another group holds the platelets of the field
    found = Counter(cell.classification for cell in cells) or Counter({"White cell": 0})
    counts = {named.get(label, label): count for label, count in found.items()}
    unit = concept("{cells}", "UCUM", "cells")
    name = concept("CELLS", "99LEUKOSCOPE", "Number of cells")
    return [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(identifier=f"{label} count"),
            finding_type=_type_of(concept, label),
            algorithm_id=identification,
            measurements=[sr.Measurement(name=name, value=float(count), unit=unit)],
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
        )
        for label, count in sorted(counts.items())
    ]


def _share(sr: Any, source: Any, row: CellShare, *, identification: Any) -> Any:
    """Return one row of the differential as a measurement group: cells, and per cent of white cells with its limits."""
    concept = sr.CodedConcept
    percent = concept("%", "UCUM", "percent")
    measured = [
        sr.Measurement(
            name=concept("CELLS", "99LEUKOSCOPE", "Number of cells"),
            value=float(row.cells),
            unit=concept("{cells}", "UCUM", "cells"),
        )
    ]
    for code, meaning, value in (
        ("PERCENT", "Share of the white cells whose type was determined", row.percent),
        ("PERCENT_LOW", "Lower limit of its 95 % confidence interval", row.low),
        ("PERCENT_HIGH", "Upper limit of its 95 % confidence interval", row.high),
    ):
        if value is not None:
            name = concept(code, "99LEUKOSCOPE", meaning)
            measured.append(sr.Measurement(name=name, value=round(value, 3), unit=percent))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=f"differential: {row.name}"),
        finding_type=_type_of(concept, row.name),
        algorithm_id=identification,
        measurements=measured,
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
    )


def _blood(sr: Any, source: Any, rows: Sequence[Observation], *, identification: Any) -> list[Any]:
    """Return red cells and platelets as a measurement group each: every number, and the limits of its interval."""
    concept = sr.CodedConcept
    measured: dict[str, list[Any]] = {}
    for row in rows:
        kind, code, meaning = BLOOD_CODES[row.name]
        for end, what, value in (("", meaning, row.value), ("_L", _LOWER, row.low), ("_H", _UPPER, row.high)):
            if value is not None:
                name = concept(f"{code}{end}", "99LEUKOSCOPE", what.format(meaning)[:64])
                unit = concept(row.unit, "UCUM", _UNITS.get(row.unit, row.unit))
                measured.setdefault(kind, []).append(sr.Measurement(name=name, value=value, unit=unit))
    return [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(identifier=f"counted beside white cells: {kind}"),
            finding_type=_type_of(concept, kind),
            algorithm_id=identification,
            measurements=numbers,
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
        )
        for kind, numbers in measured.items()
    ]


_LOWER, _UPPER = "Lower 95 % limit: {}", "Upper 95 % limit: {}"
_UNITS = {"{cells}": "cells", "um": "um", "{ratio}": "ratio", "/100{RBC}": "per 100 red cells"}


def _cell(sr: Any, source: Any, cell: DicomCell, *, identification: Any) -> Any:
    concept = sr.CodedConcept
    measured = [sr.Measurement(name=_area_name(concept), value=cell.area_um2, unit=concept("um2", "UCUM", "um2"))]
    if cell.probability is not None:
        measured.append(sr.Measurement(name=_probability_name(concept), value=cell.probability, unit=_one(concept)))
    closed = np.concatenate([_polygon(cell.outline), _polygon(cell.outline)[:1]])
    region = sr.ImageRegion(
        graphic_type="POLYLINE",
        graphic_data=closed,
        source_image=sr.SourceImageForRegion.from_source_image(source),
        pixel_origin_interpretation="VOLUME" if "TotalPixelMatrixRows" in source else None,
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=cell.name, uid=_uid()),
        referenced_region=region,
        finding_type=_type_of(concept, cell.classification),
        algorithm_id=identification,
        measurements=measured,
    )


def _identification(sr: Any, algorithm: Algorithm) -> Any:
    parameters = [f"bundle={algorithm.bundle}"] if algorithm.bundle else None
    return sr.AlgorithmIdentification(name=algorithm.name, version=algorithm.version, parameters=parameters)


def _sequence(highdicom: Any, algorithm: Algorithm) -> Any:
    family = highdicom.sr.CodedConcept("123109", "DCM", "Artificial Intelligence")
    parameters = {"bundle": algorithm.bundle} if algorithm.bundle else None
    return highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name, family=family, version=algorithm.version, parameters=parameters
    )


def _polygon(outline: NDArray[np.float64], *, points: int = 100) -> NDArray[np.float32]:
    chosen = outline[np.linspace(0, len(outline), min(points, len(outline)), endpoint=False).astype(int)]
    return np.asarray(np.clip(chosen, 0, None), np.float32)


def _type_of(concept: Any, name: str) -> Any:
    other = (re.sub(r"[^A-Z0-9]", "_", name.upper())[:16], "99LEUKOSCOPE", f"Classified as {name}"[:64])
    return concept(*CODES.get(name, other))


def _area_name(concept: Any) -> Any:
    return concept("42798000", "SCT", "Area")


def _probability_name(concept: Any) -> Any:
    return concept("PROB_BLAST", "99LEUKOSCOPE", "Probability of blast cell")


def _one(concept: Any) -> Any:
    return concept("1", "UCUM", "no units")


def _uid() -> Any:
    return require("highdicom", feature="DICOM", extra="dicom").UID()


def _maker(*, instance: int, series: int) -> dict[str, Any]:
    """Return who has made an object and where it belongs: what every new DICOM object must state."""
    common = {"manufacturer": MANUFACTURER, "series_number": series, "instance_number": instance}
    return common | {"series_instance_uid": _uid(), "sop_instance_uid": _uid()} | _device(series)


def _device(series: int) -> dict[str, Any]:
    if series == 902:  # reports have no equipment module of their own in highdicom
        return {}
    version = metadata.version("leukoscope")
    return {"manufacturer_model_name": "leukoscope", "software_versions": version, "device_serial_number": version}


def _save(path: Path, dataset: Any) -> None:
    with atomic_write(path) as beside:
        dataset.save_as(beside)
