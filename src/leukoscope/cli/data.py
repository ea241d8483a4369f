"""leukoscope data: index, audit, split and pack images. leukoscope cells: cut the cells out of fields."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError, UsageError, require
from .options import complain, field_options, layout_options, make_layout, many, note, printable

if TYPE_CHECKING:
    from ..inference.sources import Gathered

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def data() -> None:
    """Index, audit, verify, fetch, split and pack images.

    \b
    Examples:
      leukoscope data index C-NMC_Leukemia/ -o cells.csv
      leukoscope data audit cells.csv -o audit.json
      leukoscope data split cells.csv --audit audit.json -o split.json
    """


@data.command("index")
@click.argument("where", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=_FILE, help="The table to write, such as cells.csv.")
@click.option("--release-list", is_flag=True, help="List the C-NMC release as published, without reading images.")
@layout_options
def index_command(
    where: Path | None, output: Path, release_list: bool, labels: Path | None, **layout: str | None
) -> None:
    """List images with label, subject, part, digest and size.

    WHERE is a folder (the C-NMC release as TCIA or Kaggle serve it; FOLDER/<class>/<subject>_*.png, bmp, jpg or tif;
    FOLDER/<class>/<subject>/*.png) or a CSV with one row per image.

    \b
    Examples:
      leukoscope data index C-NMC_Leukemia/ -o cells.csv
      leukoscope data index fields/ -o cells.csv --subject-pattern 'P(\\d+)-'
      leukoscope data index patients.csv -o cells.csv --path-column file --label-column diagnosis
      leukoscope data index --release-list -o release.csv
    """
    from ..data.cells import write_cells
    from ..data.index import index, index_release
    from ..errors import DataError, UsageError
    from ..pipeline import notes_of
    from .run import describe_cells

    if (where is None) != release_list:
        raise UsageError("Give either a folder or table, or --release-list.")
    found = index(where, layout=make_layout(**layout), labels=labels) if where else index_release(labels)
    write_cells(output, found.cells)
    for name, reason in found.refused:
        complain(reason if name in reason else f"{name}: {reason}")
    click.echo(describe_cells(found.cells))
    for line in notes_of(found):
        click.echo(printable(line))
    note(f"Wrote {output}")
    if found.refused:
        raise SystemExit(DataError.exit_status)


@data.command("audit")
@click.argument("table", type=_FILE)
@click.option("-o", "--output", required=True, type=_FILE, help="The audit to write; traits.csv is written beside it.")
@click.option("--names-only", is_flag=True, help="Compare digests and names only, without opening the images.")
def audit_command(table: Path, output: Path, names_only: bool) -> None:
    """Find unusable images and duplicates, and measure how well size or colour alone separates the classes.

    The exit status is 1 if an image cannot be used; the audit is written and lists all such images.

    \b
    Examples:
      leukoscope data audit cells.csv -o audit.json
      leukoscope data audit release.csv -o audit.json --names-only
    """
    from ..data.audit import audit, measure_traits, write_traits
    from ..data.cells import read_cells
    from ..errors import DataError
    from ..files import write_json
    from ..pipeline import describe_unusable, refuse_conflicts, shortcuts
    from .run import describe_audit, describe_changes, describe_parts, describe_shortcuts

    cells = read_cells(table)
    traits = None if names_only else measure_traits(cells)
    found = audit(cells, traits)
    if traits:
        found["shortcuts"] = shortcuts(cells, traits, found)
        write_traits(output.with_name("traits.csv"), cells, traits)
    write_json(output, found)
    click.echo(describe_parts(found))
    for line in describe_changes(found):
        click.echo(printable(line))
    click.echo(describe_audit(found))
    for warning in found["warnings"]:
        click.echo(warning)
    if traits:
        click.echo(describe_shortcuts(found["shortcuts"]))
    note(f"Wrote {output}")
    if found["unusable"]:
        raise DataError(f"{describe_unusable(found, listed_in=output)} Repair or remove them.")
    refuse_conflicts(found)


@data.command("verify")
@click.argument("folder", type=_FOLDER)
@click.option("-o", "--output", type=_FILE, help="JSON file for the full lists of names.")
def verify_command(folder: Path, output: Path | None) -> None:
    """Verify the files of a folder against the C-NMC release, by SHA-256.

    The exit status is 1 unless exactly the 15,115 files of the release are present and intact.

    \b
    Examples:
      leukoscope data verify C-NMC_Leukemia/
      leukoscope data verify C-NMC_Leukemia/ -o verified.json
    """
    from dataclasses import asdict

    from ..data.release import verify
    from ..errors import DataError
    from ..files import write_json

    found = verify(folder)
    if output:
        write_json(output, asdict(found))
    for kind, names in asdict(found).items():
        shown = "" if kind == "intact" or not names else f": {', '.join(names[:5])}{' …' * (len(names) > 5)}"
        click.echo(f"{kind:8} {len(names):6,}{shown}")
    if not found.complete:
        more = f" The full lists are in {output}." if output else " For the full lists: -o verified.json."
        raise DataError(f"{folder} differs from the release.{more}")


@data.command("fetch")
@click.argument("release", type=click.Choice(["cnmc"]))
@click.option("--from", "source", required=True, metavar="kaggle|URL|ZIP", help="Source of the images.")
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder to unpack to.")
@click.pass_context
def fetch_command(context: click.Context, release: str, source: str, output: Path) -> None:
    """Download, unpack and verify C-NMC 2019 (9.2 GB unpacked). An interrupted download is resumed.

    The images are in The Cancer Imaging Archive (doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0) and, as one archive, on
    Kaggle, which requires an account: set KAGGLE_USERNAME and KAGGLE_KEY.

    \b
    Examples:
      leukoscope data fetch cnmc --from kaggle -o C-NMC_Leukemia
      leukoscope data fetch cnmc --from ~/Downloads/archive.zip -o C-NMC_Leukemia
    """
    from ..data.release import fetch

    note(f"Unpacked under {fetch(source, output)}; verifying every file …")
    context.invoke(verify_command, folder=output, output=None)


@data.command("split")
@click.argument("table", type=_FILE)
@click.option("-o", "--output", required=True, type=_FILE, help="The split to write.")
@click.option("--audit", "audited", type=_FILE, help="Also keep the subjects that this audit joined in one group.")
@click.option("--scheme", type=click.Choice(["kfold", "holdout", "parts"]), help="Kind of split.")
@click.option("--folds", type=int, help="Number of folds (kfold).")
@click.option("--train-part", multiple=True, help="Part to train on (parts); repeatable.")
@click.option("--test-part", multiple=True, help="Part to test on (parts); repeatable.")
@click.option(
    "--leaky",
    is_flag=True,
    help="Split by image, as the paper did: cells of one patient are in both training and test.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the split.")
def split_command(
    table: Path,
    output: Path,
    audited: Path | None,
    scheme: str | None,
    folds: int | None,
    train_part: tuple[str, ...],
    test_part: tuple[str, ...],
    leaky: bool,
    seed: int,
) -> None:
    """Assign subjects to training, validation and test; without --leaky, no subject is in two of them.

    \b
    Examples:
      leukoscope data split cells.csv -o split.json --folds 5
      leukoscope data split cells.csv -o split.json --audit audit.json --scheme parts --test-part prelim_test
    """
    from ..config import Experiment
    from ..data.cells import read_cells
    from ..data.split import make_split, write_split
    from ..files import read_json
    from .run import describe_split

    given = {
        "scheme": scheme,
        "folds": folds,
        "train_parts": train_part,
        "test_parts": test_part,
        "leaky": leaky,
    }
    settings = Experiment.of({"split": {name: value for name, value in given.items() if value}}).split
    cells = read_cells(table)
    linked = [tuple(pair) for pair in read_json(audited).get("linked_subjects", [])] if audited else []
    plan = make_split(cells, settings, seed=seed, linked=linked)
    write_split(output, plan)
    click.echo(describe_split(plan, cells))
    note(f"Wrote {output} (hash {plan.hash[:12]})")


@data.command("pack")
@click.argument("table", type=_FILE)
@click.option("-o", "--output", required=True, type=_FOLDER, help="Folder for crops.npy and pack.json.")
@click.option("--view", type=click.Choice(["frame", "window", "cell"]), help="Part of the image that becomes the crop.")
@click.option("--size", type=int, help="Side of the crop in pixels.")
@click.option("--window", type=int, help="Side of the square cut from the source, in source pixels (view window).")
def pack_command(table: Path, output: Path, view: str | None, size: int | None, window: int | None) -> None:
    """Prepare all crops in one memory-mapped array.

    \b
    Examples:
      leukoscope data pack cells.csv -o pack --size 128
      leukoscope data pack cells.csv -o pack --view cell --size 160
    """
    from ..config import Experiment
    from ..data.cells import pack, read_cells

    started = time.perf_counter()
    given = {name: value for name, value in {"view": view, "size": size, "window": window}.items() if value}
    crops = pack(read_cells(table), output, prepare=Experiment.of({"prepare": given}).prepare)
    seconds = time.perf_counter() - started
    note(f"Wrote {output / 'crops.npy'}: {len(crops):,} crops of {crops.shape[1]} px in {seconds:.1f} s")


@click.command()
@click.argument("fields", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for crops and tables.")
@field_options
@click.option("--subject", default="", help="Name of the subject all these fields belong to; written to cells.csv.")
@click.option("--whole-only", is_flag=True, help="Leave out cells that the border of the field cuts off.")
@click.option(
    "--to",
    "formats",
    multiple=True,
    type=click.Choice(["qupath", "dicom"]),
    help="Also write the cells in this format; repeatable.",
)
def cells(fields: tuple[Path, ...], output: Path, formats: tuple[str, ...], **options: Any) -> None:
    """Find the white cells in smear FIELDS and cut each one out.

    FIELDS are images, DICOM microscope images, slides (SVS, NDPI, pyramidal TIFF) or folders of them. Writes crops/
    (one cell on black, at the scale of the training cells), cells.csv, fields.csv, and outlines/ with every cell
    numbered. Fields that cannot be used are listed and skipped; the exit status is then 1.

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
    from ..interop.dicom import DicomImage, is_dicom
    from .output import cell_writers_of

    found = _gathered(fields)
    for line in found.empty:
        complain(line)
    files = [source.path for source in found.sources]
    foreign = {path: DicomImage for path in files if is_dicom(path)}
    if "dicom" in formats and (others := [path.name for path in files if path not in foreign]):
        raise UsageError(f"--to dicom needs DICOM sources, whose identifiers it keeps; {others[0]} is not one.")
    also = cell_writers_of(formats, output)
    results = extract(files, output, options=FieldOptions(**options), report=_report, also=also, foreign=foreign)
    usable = [result for result in results if result.scale]
    count = sum(len(result.cells) for result in results)
    summary = f"{many(count, 'white cell')} in {len(usable)} of {many(len(results), 'field')}"
    click.echo(f"{summary}: {printable(output / 'cells.csv')}")
    for line in (*found.notes, *passed_over(found.passed, hidden=found.hidden)):
        click.echo(printable(line))
    if found.empty or any(result.problem for result in results):
        raise SystemExit(ImageError.exit_status)


def _report(line: str, problem: bool) -> None:
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
