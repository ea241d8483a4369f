"""leukoscope predict: a second opinion on cells, cut out or still in their fields."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import field_options, point_option

if TYPE_CHECKING:
    from .consultation import Request


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--model", type=click.Path(path_type=Path), help="Model bundle. [default: the shipped one]")
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
    type=click.Choice(["qupath", "dicom", "csv"]),
    help="Write this of every field into the folder -o. May stand several times.",
)
@click.option(
    "--neighbours",
    is_flag=True,
    help="Add columns transductive_<class> to the table -o: probabilities corrected with those of the most similar "
    "cells of this call. No decision rests on them.",
)
@field_options
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the work on slides here: a killed run goes on.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where cells cut out on black are answered: here, or on a Ray cluster; then -o is a folder of Parquet files.",
)
@click.option("--workers", type=click.IntRange(min=1), help="With --engine ray. [default: all there is room for]")
@click.option("--processors", type=click.IntRange(min=1), default=1, show_default=True, help="Of each worker.")
def predict(images: tuple[str, ...], model: Path | None, output: str | None, **options: Any) -> None:
    """Say of every cell in IMAGES its class, or unsure, or refused and why.

    IMAGES are files, folders or CSV tables (columns path and, if you like, subject): cells cut out on black, or smear
    fields, DICOM microscope images and slides, whose cells are found, cut out and brought to the model's scale and
    stain first. A subject column, or sub-folders in a folder, add a summary per subject. An image that cannot be used
    is named, the rest is answered, and the exit status is 1. For research; not a diagnosis.

    \b
    Examples:
      leukoscope predict cells/*.bmp
      leukoscope predict cells/ -o predictions.csv --html opinion.html
      leukoscope predict cells.csv --model models/first --operating-point high-sensitivity --json
      leukoscope predict smear/ -o predictions.csv --html opinion.html
      leukoscope predict s3://archive/cells --engine ray -o s3://archive/answers
      leukoscope predict slide.svs --um-per-px 0.12 --jobs 2 --keep work/ --to qupath -o results/
    """
    from ..errors import CallError, ImageError
    from ..inference.inputs import gather
    from ..inference.predictor import load
    from ..smears.kinds import SUFFIXES
    from .cluster import predict_on_cluster
    from .consultation import Consultation, Request
    from .terminal import complain, printable

    engine = {name: options.pop(name) for name in ("workers", "processors")}
    if options.pop("engine") == "ray":
        _refuse_on_cluster(options)
        predict_on_cluster(images, output, model=model, point=options["point"], **engine)
        return
    request = Request(**_places(Path(output) if output else None, options.pop("formats")), **options)
    if request.neighbours and not request.csv:
        raise CallError("--neighbours adds columns to a table. Give it with -o, such as -o predictions.csv.")
    request = replace(request, quiet=_printed_into(request, images))
    found = gather(map(Path, images), suffixes=SUFFIXES)
    for line in found.empty:
        complain(line)
    _check_dicom([source.path for source in found.sources], request.formats)
    consultation = Consultation(load(model), found, request)
    consultation.hold()
    for line in consultation.shown.unusable(consultation.tally):
        complain(line)
    for path in (output, request.html):
        if path:
            click.echo(f"Wrote {printable(path)}", err=request.as_json or request.quiet)
    if request.neighbours:
        from ..inference.neighbours import MARK

        click.echo(MARK, err=True)
    if not consultation.all_used:
        raise SystemExit(ImageError.exit_status)


def _printed_into(request: "Request", images: tuple[str, ...]) -> bool:
    """Refuse results that would meet in one file; return whether one goes to standard output."""
    from .outputs import prints_into, refuse_collisions

    outputs: list[tuple[str, Path | None]] = [("-o", request.csv), ("--html", request.html)]
    if folder := request.folder:
        tables = [folder / "fields.csv", folder / "subjects.csv"]
        outputs += [("--to", path) for path in (*tables, *(folder / name / "*" for name in request.formats))]
    taken = any(prints_into(path) for _, path in outputs)
    if taken and request.as_json:
        outputs.append(("--json", Path("/dev/stdout")))
    refuse_collisions(outputs, inputs=images)
    return taken


def _places(output: Path | None, formats: tuple[str, ...]) -> dict[str, Any]:
    """Return where results go: a CSV file, or with other formats a folder that holds the CSV too."""
    from ..errors import CallError

    if not formats:
        if output and output.is_dir():
            raise CallError(f"{output} is a folder. Give the name of a CSV file, or add --to csv.")
        return {"csv": output}
    if output is None or output.suffix.lower() == ".csv" or output.is_file():
        raise CallError(f"--to {formats[0]} writes several files. Give their folder with -o, such as -o results.")
    return {"csv": output / "predictions.csv", "folder": output, "formats": formats}


def _refuse_on_cluster(options: dict[str, Any]) -> None:
    """Refuse what the cluster does not do, rather than leave it out in silence."""
    from ..errors import CallError

    asked = {"--json": "as_json", "--html": "html", "--to": "formats", "--um-per-px": "um_per_px", "--keep": "keep",
             "--neighbours": "neighbours"}  # fmt: skip
    wanted = [name for name, option in asked.items() if options[option]]
    if options["kind"] == "fields":
        wanted.append("--kind fields")
    if wanted:
        raise CallError(f"--engine ray answers cells cut out on black, into Parquet. Leave out {', '.join(wanted)}.")


def _check_dicom(paths: list[Path], formats: tuple[str, ...]) -> None:
    from ..errors import CallError
    from ..interop.dicom_images import is_dicom

    if "dicom" in formats and (others := [path.name for path in paths if not is_dicom(path)]):
        raise CallError(f"--to dicom needs DICOM sources, whose identity it keeps; {others[0]} is none.")
