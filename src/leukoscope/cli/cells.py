"""What `leukoscope predict --to` writes for each field: GeoJSON for QuPath, DICOM, tables."""

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError, UsageError, require
from .options import complain, field_options, many, printable

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest
    from ..inference.blood_count import BloodSummary
    from ..inference.differential import Counting
    from ..inference.fields import JudgedCell, Smear
    from ..inference.opinion import Opinion
if TYPE_CHECKING:
    from ..inference.sources import Gathered


Writer = Callable[["Smear", "Sequence[JudgedCell]"], None]


BloodOf = Callable[[str], "BloodSummary | None"]  # path of a field -> its red cells and platelets


def writers_of(
    formats: Sequence[str], folder: Path, *, manifest: "Manifest", counting: "Counting", blood: BloodOf
) -> list[Writer]:
    """Return what writes one field in each format, into folders of `folder`, with what was counted in it."""
    known = {
        "qupath": lambda: _qupath_writer(folder, manifest),
        "dicom": lambda: _dicom_writer(folder, manifest, counting, blood),
    }
    return [known[name]() for name in dict.fromkeys(formats) if name in known]


def _qupath_writer(folder: Path, manifest: "Manifest") -> Writer:
    from ..inference.opinion import class_of, colour_of
    from ..interop.qupath import Shape, write_geojson

    def shape(judged: "JudgedCell") -> Shape:
        cell, opinion = judged.cell, judged.opinion
        chances = {f"Probability {name}": value for name, value in (opinion.probabilities or {}).items()}
        sizes = {"Area µm²": cell.area_um2, "Nucleus µm²": cell.nucleus_um2, "Sharpness": cell.sharpness}
        types = {f"Probability {name} (type)": value for name, value in (opinion.types or {}).items()}
        shown = class_of(opinion)
        colour = colour_of(shown, manifest)
        return Shape(cell.outline, f"Cell {cell.number}", shown, chances | types | sizes, colour)

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        write_geojson(folder / "qupath" / f"{smear.name}.geojson", [shape(judged) for judged in found])

    return write


def _dicom_writer(folder: Path, manifest: "Manifest", counting: "Counting", blood: BloodOf) -> Writer:
    from ..fields.cells import ClassicalDetector
    from ..interop.dicom_images import DicomImage
    from ..interop.dicom_results import Algorithm, DicomCell, write_annotations, write_report

    bundle = f"{manifest.name} {manifest.seal[:16]}"
    algorithm = Algorithm(f"leukoscope {ClassicalDetector.name}", metadata.version("leukoscope"), bundle)

    def cell(judged: "JudgedCell") -> DicomCell:
        found, opinion = judged.cell, judged.opinion
        chance = (opinion.probabilities or {}).get(manifest.positive)
        name = dicom_class(opinion, manifest)
        return DicomCell(found.outline, f"Cell {found.number}", name, found.area_um2, chance)

    def write(smear: "Smear", found: "Sequence[JudgedCell]") -> None:
        source: Any = DicomImage(smear.path).identity()
        cells = [cell(judged) for judged in found]
        counted = counting.of_field(str(smear.path))
        rows = [*counted.rows, *counted.beside()] if counted else []
        beside = blood(str(smear.path))
        write_report(
            folder / "dicom" / f"{smear.name}-report.dcm",
            source,
            cells,
            algorithm=algorithm,
            differential=rows,
            blood=beside.rows() if beside else (),
        )
        if cells and "FrameOfReferenceUID" in source:
            write_annotations(folder / "dicom" / f"{smear.name}-outlines.dcm", source, cells, algorithm=algorithm)

    return write


def dicom_class(opinion: "Opinion", manifest: "Manifest") -> str:
    """Return the name under which a cell is coded in DICOM: blast and normal where the bundle tells just these."""
    from ..bundle.manifest import NOT_ASKED

    decision = opinion.decision
    if decision == NOT_ASKED:
        return "type unsure" if opinion.type == "unsure" else opinion.type
    if not manifest.positive or decision not in manifest.classes:
        return decision
    return "blast" if decision == manifest.positive else "normal"


@click.command()
@click.argument("fields", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for crops and tables.")
@field_options
@click.option("--subject", default="", help="Name of the subject all these fields belong to; written to cells.csv.")
@click.option("--whole-only", is_flag=True, help="Leave out cells that the border of the field cuts off.")
@click.option("--to", "formats", multiple=True, type=click.Choice(["qupath", "dicom"]), help="Write this as well.")
def cells(fields: tuple[Path, ...], output: Path, formats: tuple[str, ...], **options: Any) -> None:
    """Find the white cells in smear FIELDS and cut each one out.

    FIELDS are images, DICOM microscope images, slides (SVS, NDPI, pyramidal TIFF) or folders of them. Writes crops/
    (one cell on black, at the scale of the training cells), cells.csv, fields.csv, and outlines/ with every cell
    numbered. A field that cannot be used is named and the rest goes on; the exit status is then 1.

    \b
    Examples:
      leukoscope cells smear/ -o found/
      leukoscope cells field-1.tif field-2.tif --um-per-px 0.065 -o found/
      leukoscope cells slide.svs --jobs 4 --to qupath -o found/
      leukoscope cells slide.dcm --to dicom -o found/
    """
    for module in ("cv2", "skimage"):
        require(module, feature="Finding cells in fields", extra="fields")
    from ..fields.extraction import FieldOptions, extract
    from ..images.listing import passed_over
    from ..interop.dicom_images import DicomImage, is_dicom

    found = _gathered(fields)
    for line in found.empty:
        complain(line)
    files = [source.path for source in found.sources]
    foreign = {path: DicomImage for path in files if is_dicom(path)}
    if "dicom" in formats and (others := [path.name for path in files if path not in foreign]):
        raise UsageError(f"--to dicom needs DICOM sources, whose identity it keeps; {others[0]} is not one.")
    writers = {"qupath": _found_as_geojson, "dicom": _found_as_dicom}
    also = [writers[name](output) for name in dict.fromkeys(formats)]
    results = extract(files, output, options=FieldOptions(**options), report=_say, also=also, foreign=foreign)
    usable = [result for result in results if result.scale]
    count = sum(len(result.cells) for result in results)
    told = f"{many(count, 'white cell')} in {len(usable)} of {many(len(results), 'field')}"
    click.echo(f"{told}: {printable(output / 'cells.csv')}")
    for line in (*found.notes, *passed_over(found.passed, hidden=found.hidden)):
        click.echo(printable(line))
    if found.empty or any(result.problem for result in results):
        raise SystemExit(ImageError.exit_status)


def _found_as_geojson(output: Path) -> Any:
    from ..interop.qupath import Shape, write_geojson

    def shape(cell: Any) -> Shape:
        sizes = {"Area µm²": cell.area_um2, "Nucleus µm²": cell.nucleus_um2, "Sharpness": cell.sharpness}
        return Shape(cell.outline, f"Cell {cell.number}", "White cell", sizes)

    def write(_: Path, name: str, found: Sequence[Any]) -> None:
        write_geojson(output / "qupath" / f"{name}.geojson", [shape(cell) for cell in found])

    return write


def _found_as_dicom(output: Path) -> Any:
    from importlib import metadata

    from ..fields.cells import ClassicalDetector
    from ..interop.dicom_images import DicomImage
    from ..interop.dicom_results import Algorithm, DicomCell, write_annotations, write_report

    algorithm = Algorithm(f"leukoscope {ClassicalDetector.name}", metadata.version("leukoscope"))

    def write(path: Path, name: str, found: Sequence[Any]) -> None:
        source = DicomImage(path).identity()
        listed = [DicomCell(cell.outline, f"Cell {cell.number}", "White cell", cell.area_um2) for cell in found]
        write_report(output / "dicom" / f"{name}-report.dcm", source, listed, algorithm=algorithm)
        if listed and "FrameOfReferenceUID" in source:
            write_annotations(output / "dicom" / f"{name}-outlines.dcm", source, listed, algorithm=algorithm)

    return write


def _say(line: str, problem: bool) -> None:
    if problem:
        complain(line)
    else:
        click.echo(printable(line))


def _gathered(given: tuple[Path, ...]) -> "Gathered":
    """Return the image files that are named, and those in the folders that are named."""
    from ..inference.sources import SUFFIXES, gather

    if missing := [path for path in given if not path.exists()]:
        raise UsageError(f"{missing[0]} does not exist. Check the path.")
    return gather(given, suffixes=SUFFIXES, dicom=True)
