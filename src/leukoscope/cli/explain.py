"""leukoscope explain: where in the cell the answer comes from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import model_option, note, point_option

if TYPE_CHECKING:
    from ..errors import ImageError
    from ..inference.explaining import Explainer, Explanation
    from ..inference.opinions import Opinion
    from ..inference.predictor import Predictor
    from ..inference.sources import Source


_LONGEST = 40  # letters of a file's name that the name of its picture repeats


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_option
@click.option(
    "--method",
    type=click.Choice(["cam", "occlusion", "lime"]),
    help="How the map is computed. [default: cam, or occlusion for networks whose own map cannot locate evidence]",
)
@click.option("--class", "target", default="", metavar="NAME", help="Explain this class. [default: the most probable]")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for pictures and JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write all pictures as one page.")
@point_option
@click.option("--check", is_flag=True, help="Also measure deletion and insertion for every cell (slower).")
@click.option("--seed", default=0, show_default=True, help="Seed of the random samples of lime.")
def explain(
    images: tuple[Path, ...], model: str | None, target: str, output: Path | None, html: Path | None, **how: Any
) -> None:
    """Draw a heat map over every cell in IMAGES: evidence for a class (orange) and against it (blue).

    cam is the class-activation map of the network: exact and instant, for models whose map can locate evidence.
    occlusion covers one square after the other, lime hides patches; both use only predictions and take seconds per
    cell. A heat map shows what changed the prediction, not what is diseased. "inside" is the share of the heat on the
    cell, beside the share of the picture that the cell
    takes: if the two are similar, the map does not locate anything. Each map is shown beside the decision of leukoscope
    predict; the map of a refused picture is marked, as it explains no answer, and the exit status is 1.

    \b
    Examples:
      leukoscope explain cell.bmp -o explained/
      leukoscope explain cells/ --method occlusion --class all --html why.html
      leukoscope explain cells/ --method lime --check -o explained/
    """
    from ..errors import ImageError, UsageError, attempt
    from ..images.listing import passed_over
    from ..inference.explaining import Explainer
    from ..inference.predictor import load
    from ..inference.sources import gather
    from .options import complain, printable
    from .output import refuse_collisions

    if not output and not html:
        raise UsageError("Choose the output: -o FOLDER, --html FILE, or both.")
    refuse_collisions([("-o", output / "explanations.json" if output else None), ("--html", html)], inputs=images)
    found = gather(images)
    for line in found.empty:
        complain(line)
    predictor = load(model)
    explainer = Explainer(predictor, method=how["method"] or "", seed=how["seed"], curves=how["check"])
    results = list(_explain_all(found.sources, predictor, explainer=explainer, target=target, point=how["point"]))
    done = [case for case in results if isinstance(case, _Case)]
    written = attempt(lambda: _write(done, output=output, html=html))
    for case in results:  # after writing, so that neither a closed terminal nor a full disk loses results
        _print(case)
    if isinstance(written, Exception):
        raise written
    for path in (output, html):
        if path and done:
            note(f"Wrote {printable(path)}")
    for line in passed_over(found.passed, hidden=found.hidden):
        click.echo(printable(line))
    if found.empty or len(done) < len(found.sources) or any(case.refused for case in done):
        raise SystemExit(ImageError.exit_status)


@dataclass(frozen=True)
class _Case:
    """A picture that could be read, with its opinion and explanation."""

    source: "Source"
    opinion: "Opinion"
    found: "Explanation | None"
    """None where there is no cell."""
    notes: tuple[str, ...] = ()
    """Conversions of the stored values."""

    @property
    def refused(self) -> bool:
        return self.opinion.probabilities is None

    @property
    def probability(self) -> float | None:
        """Of the class that is explained; None where the picture was refused."""
        return None if self.refused or self.found is None else round(self.found.probability, 6)

    def line(self) -> str:
        line = f"{self.source.path}  {self.opinion.decision}"
        line += f": {self.opinion.reason}" if self.opinion.reason else ""
        line += "".join(f" ({note})" for note in self.notes)
        if self.found is None:
            return line
        chance = "" if self.probability is None else f" {self.probability:.3f}"
        numbers = "".join(f"  {words}" for words in self.found.checks_in_words())
        return f"{line}  {self.found.method} map of {self.found.target}{chance}{numbers}"

    def row(self) -> dict[str, Any]:
        opinion = self.opinion
        facts = {
            "decision": opinion.decision,
            "reason": opinion.reason,
            "quality": opinion.quality,
            "notes": list(self.notes),
        }
        explained = self.found.row() if self.found else {"class": None}
        return facts | explained | {"probability": self.probability}


def _explain_all(
    sources: "Iterable[Source]", predictor: "Predictor", *, explainer: "Explainer", target: str, point: str
) -> "Iterator[_Case | ImageError]":
    """Yield each picture with its explanation, or the error of one that could not be read."""
    from ..errors import ImageError, usable
    from ..images.read import read_picture
    from ..progress import track

    def explain_one(source: "Source") -> _Case:
        image = read_picture(source.path)
        opinion = predictor.opinion(image.pixels, name=str(source.path), point=point)
        try:
            found = explainer.explain(image.pixels, target=target)
        except ImageError:  # no cell in it; the opinion states that
            found = None
        return _Case(source, opinion, found, image.notes)

    for source in track(list(sources), "Explaining"):
        try:
            yield usable(lambda source=source: explain_one(source), name=str(source.path))  # type: ignore[misc]
        except ImageError as unusable:
            yield unusable


def _print(result: "_Case | ImageError") -> None:
    """Print a line about a picture, on standard error where it was refused or could not be read."""
    from .options import complain, printable

    if not isinstance(result, _Case):
        complain(str(result))
    elif result.refused:
        complain(result.line())
    else:
        click.echo(printable(result.line()))


def _write(done: list[_Case], *, output: Path | None, html: Path | None) -> None:
    if output and done:
        _write_pictures(output, done)
    if html and done:
        _write_page(html, done)


def _write_pictures(folder: Path, done: list[_Case]) -> None:
    from ..files import write_json

    rows = []
    for number, case in enumerate(done, start=1):
        name = _write_picture(folder, case, number) if case.found else None
        rows.append({"path": str(case.source.path), "picture": name, **case.row()})
    write_json(folder / "explanations.json", rows)


def _write_picture(folder: Path, case: _Case, number: int) -> str:
    """Write the cell beside its map and return the file's name, which shows where the cell was refused."""
    from PIL import Image

    from ..files import atomic_write
    from .options import printable

    assert case.found
    name = f"{number:04d}-{'refused-' * case.refused}{printable(case.source.path.stem[:_LONGEST])}.png"
    with atomic_write(folder / name) as path:
        Image.fromarray(case.found.picture()).save(path, "PNG")
    return name


def _write_page(path: Path, done: list[_Case]) -> None:
    from ..files import write_text
    from ..report.opinion import ShownCell, render
    from .options import printable

    cells = [
        ShownCell(
            printable(case.source.path.name), case.opinion.decision, case.opinion.reason, case.probability, case.found
        )
        for case in done
    ]
    write_text(path, render(cells))
