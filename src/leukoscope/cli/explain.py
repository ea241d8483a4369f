"""leukoscope explain: where in the cell the answer comes from."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..inference.explaining import Explainer, Explanation
    from ..inference.inputs import Source


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model bundle. [default: the shipped one]")
@click.option("--method", type=click.Choice(["cam", "occlusion", "lime"]), default="cam", show_default=True)
@click.option("--class", "target", default="", metavar="NAME", help="Explain this class. [default: the likeliest]")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for pictures and JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write all pictures as one page.")
@click.option("--check", is_flag=True, help="Measure deletion and insertion of every cell as well (slower).")
@click.option("--seed", default=0, show_default=True, help="For the random sets of lime.")
def explain(
    images: tuple[Path, ...], model: Path | None, target: str, output: Path | None, html: Path | None, **how: Any
) -> None:
    """Draw over every cell in IMAGES what speaks for a class (orange) and against it (blue).

    cam is the network's own map: exact and instant. occlusion covers one square after the other, lime hides patches;
    both only ask the model and take seconds per cell. A heat map shows what moved the model, not what is ill.

    \b
    Examples:
      leukoscope explain cell.bmp -o explained/
      leukoscope explain cells/ --method occlusion --class all --html why.html
      leukoscope explain cells/ --method lime --check -o explained/
    """
    from ..errors import CallError, ImageError
    from ..inference.explaining import Explainer
    from ..inference.inputs import sources_of
    from ..inference.predictor import load

    if not output and not html:
        raise CallError("Say where the pictures go: -o FOLDER, --html FILE, or both.")
    explainer = Explainer(load(model), method=how["method"], seed=how["seed"], curves=how["check"])
    sources = sources_of(images)
    done = list(_explained(explainer, sources, target))
    if output:
        _write_pictures(output, done, method=how["method"])
    if html:
        _write_page(html, done, method=how["method"])
    for path in (output, html):
        if path and done:
            click.echo(f"Wrote {path}")
    if len(done) < len(sources):
        raise SystemExit(ImageError.exit_status)


def _explained(explainer: "Explainer", sources: "list[Source]", target: str) -> "Iterator[tuple[Source, Explanation]]":
    """Yield what could be explained; name the rest."""
    from ..data.images import read_image
    from ..errors import ImageError
    from ..progress import track

    for source in track(sources, "Explaining"):
        try:
            found = explainer.explain(read_image(source.path), target=target)
        except ImageError as unusable:
            text = str(unusable)
            click.secho(text if str(source.path) in text else f"{source.path} {text}", fg="red", err=True)
            continue
        numbers = "  ".join(f"{name} {value:.2f}" for name, value in found.checks.items())
        click.echo(f"{source.path}  {found.target} {found.probability:.3f}  {numbers}")
        yield source, found


def _write_pictures(folder: Path, done: "list[tuple[Source, Explanation]]", *, method: str) -> None:
    from PIL import Image

    from ..artifacts import write_json, write_whole
    from ..explain.heat import beside

    rows = []
    for number, (source, found) in enumerate(done, start=1):
        name = f"{number:04d}-{source.path.stem}.png"
        with write_whole(folder / name) as path:
            Image.fromarray(beside(found.crop, found.heat)).save(path, "PNG")
        rows.append({"path": str(source.path), "picture": name, "method": method, **found.row()})
    write_json(folder / "explanations.json", rows)


def _write_page(path: Path, done: "list[tuple[Source, Explanation]]", *, method: str) -> None:
    from ..artifacts import write_text
    from ..report.explanation_page import Shown, render

    shown = [
        Shown(source.path.name, found.target, found.probability, found.checks, found.crop, found.heat)
        for source, found in done
    ]
    write_text(path, render(shown, method=method))
