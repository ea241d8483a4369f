"""What `leukoscope predict --to` writes for each field: GeoJSON for QuPath, DICOM, tables."""

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inference.bundle import Manifest
    from ..smears.judging import JudgedCell
    from ..smears.reading import Smear

Writer = Callable[["Smear", "Sequence[JudgedCell]"], None]


def writers_of(formats: Sequence[str], folder: Path, *, manifest: "Manifest") -> list[Writer]:
    """Return what writes one field in each format, into folders of `folder`."""
    known = {"qupath": _qupath_writer, "dicom": _dicom_writer}
    return [known[name](folder, manifest) for name in dict.fromkeys(formats) if name in known]


def _qupath_writer(folder: Path, manifest: "Manifest") -> Writer:
    from ..interop.qupath import Shape, write_geojson
    from ..smears.colours import colour_of

    def shape(judged: "JudgedCell") -> Shape:
        cell, opinion = judged.cell, judged.opinion
        chances = {f"Probability {name}": value for name, value in (opinion.probabilities or {}).items()}
        sizes = {"Area µm²": cell.area_um2, "Nucleus µm²": cell.nucleus_um2, "Sharpness": cell.sharpness}
        colour = colour_of(opinion.decision, manifest)
        return Shape(cell.outline, f"Cell {cell.number}", opinion.decision, chances | sizes, colour)

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        write_geojson(folder / "qupath" / f"{smear.name}.geojson", [shape(judged) for judged in found])

    return write


def _dicom_writer(folder: Path, manifest: "Manifest") -> Writer:
    from ..fields.detection import ClassicalDetector
    from ..interop.dicom_images import DicomImage
    from ..interop.dicom_results import Algorithm, DicomCell, write_annotations, write_report

    bundle = f"{manifest.name} {manifest.seal[:16]}"
    algorithm = Algorithm(f"leukoscope {ClassicalDetector.name}", metadata.version("leukoscope"), bundle)

    def cell(judged: "JudgedCell") -> DicomCell:
        found, opinion = judged.cell, judged.opinion
        chance = (opinion.probabilities or {}).get(manifest.positive)
        name = dicom_class(opinion.decision, manifest)
        return DicomCell(found.outline, f"Cell {found.number}", name, found.area_um2, chance)

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        source: Any = DicomImage(smear.path).identity()
        cells = [cell(judged) for judged in found]
        write_report(folder / "dicom" / f"{smear.name}-report.dcm", source, cells, algorithm=algorithm)
        if cells and "FrameOfReferenceUID" in source:
            write_annotations(folder / "dicom" / f"{smear.name}-outlines.dcm", source, cells, algorithm=algorithm)

    return write


def dicom_class(decision: str, manifest: "Manifest") -> str:
    """Return the name under which a decision is coded in DICOM: blast and normal where the bundle tells just these."""
    if not manifest.positive or decision not in manifest.classes:
        return decision
    return "blast" if decision == manifest.positive else "normal"
