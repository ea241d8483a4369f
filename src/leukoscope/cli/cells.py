"""`leukoscope cells`: from smear fields to single cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import CallError, DataError, ImageError


@click.command()
@click.argument("fields", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for crops and tables.")
@click.option("--um-per-px", type=click.FloatRange(0.005, 5), help="Scale of the fields, if you know it.")
@click.option("--each-scale", is_flag=True, help="Estimate the scale of every field by itself, not of all together.")
@click.option("--subject", default="", help="Name of the subject all these fields belong to; written to cells.csv.")
@click.option(
    "--stain",
    "method",
    type=click.Choice(["none", "reinhard", "macenko"]),
    default="reinhard",
    show_default=True,
    help="How crops are brought to the colours of the training cells.",
)
@click.option("--whole-only", is_flag=True, help="Leave out cells that the border of the field cuts off.")
@click.option("--to", "formats", multiple=True, type=click.Choice(["qupath"]), help="Write this format as well.")
def cells(fields: tuple[Path, ...], output: Path, formats: tuple[str, ...], **options: Any) -> None:
    """Find the white cells in smear FIELDS (image files or folders) and cut each one out.

    Writes crops/ (one cell on black, at the scale of the training cells), cells.csv, fields.csv, and outlines/ with
    every cell numbered. A field that cannot be used is named and the rest goes on; the exit status is then 1.

    \b
    Examples:
      leukoscope cells smear/ -o found/
      leukoscope cells field-1.tif field-2.tif --um-per-px 0.065 -o found/
      leukoscope cells smear/ --to qupath -o found/
    """
    from ..fields.extraction import Wishes, extract

    writers = {"qupath": _qupath_writer}
    also = [writers[name](output) for name in dict.fromkeys(formats)]
    results = extract(_files(fields), output, wishes=Wishes(**options), report=_say, also=also)
    usable = [result for result in results if result.scale]
    count = sum(result.cells for result in results)
    click.echo(f"{count} white cells in {len(usable)} of {len(results)} fields: {output / 'cells.csv'}")
    if any(result.problem for result in results):
        raise SystemExit(ImageError.exit_status)


def _qupath_writer(output: Path) -> Any:
    from ..fields.cells import Field, FieldCell
    from ..interop.qupath import Shape, write_geojson

    def shape(cell: FieldCell) -> Shape:
        sizes = {"Area µm²": cell.area_um2, "Nucleus µm²": cell.nucleus_um2, "Sharpness": cell.sharpness}
        return Shape(cell.outline, f"Cell {cell.number}", "White cell", sizes)

    def write(field: Field, cells: Sequence[FieldCell]) -> None:
        write_geojson(output / "qupath" / f"{field.name}.geojson", [shape(cell) for cell in cells])

    return write


def _say(line: str, problem: bool) -> None:
    click.secho(line, fg="red" if problem else None, err=problem)


def _files(given: tuple[Path, ...]) -> list[Path]:
    """Return the image files that are named, and those in the folders that are named."""
    from ..fields.images import SUFFIXES

    files: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"{path} holds no image ({', '.join(SUFFIXES)}). Check the path.")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise CallError(f"{path} does not exist. Check the path.")
    return list(dict.fromkeys(files))
