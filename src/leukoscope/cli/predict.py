"""leukoscope predict: a second opinion on cell images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..inference.inputs import Source
    from ..inference.opinion import Opinion
    from ..inference.predictor import Predictor
    from ..report.opinion import OpinionPage

POINTS = ("balanced", "high-sensitivity", "high-specificity")


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model bundle. [default: the shipped one]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write one row per image as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of pictures and heat maps.")
@click.option("--operating-point", "point", type=click.Choice(POINTS), default="balanced", show_default=True)
def predict(
    images: tuple[Path, ...], model: Path | None, output: Path | None, as_json: bool, html: Path | None, point: str
) -> None:
    """Say of every cell in IMAGES (files, folders, CSV tables) its class, or unsure, or refused and why.

    A subject column in a table, or sub-folders in a folder, add a summary per subject. An image that cannot be used
    is refused by name, the rest is answered, and the exit status is 1. For research; not a diagnosis.

    \b
    Examples:
      leukoscope predict cells/*.bmp
      leukoscope predict cells/ -o predictions.csv --html opinion.html
      leukoscope predict cells.csv --model models/first --operating-point high-sensitivity --json
    """
    from ..errors import ImageError
    from ..inference.inputs import sources_of
    from ..inference.predictor import load

    predictor = load(model)
    consultation = Consultation(predictor, sources_of(images), point=point)
    consultation.hold(csv=output, html=html, as_json=as_json)
    for line in consultation.shown.unusable(consultation.tally):
        click.secho(line, fg="red", err=True)
    for path in (output, html):
        if path:
            click.echo(f"Wrote {path}", err=as_json)
    if consultation.tally.all.unreadable:
        raise SystemExit(ImageError.exit_status)


class Consultation:
    """All images of one call, answered one after the other; only what is shown at the end is kept."""

    def __init__(self, predictor: "Predictor", sources: "list[Source]", *, point: str) -> None:
        from ..inference.subjects import Tally
        from .opinions import Shown

        self.predictor, self.sources, self.point = predictor, sources, point.replace("-", "_")
        self.tally = Tally(predictor.manifest, point=self.point)
        self.shown = Shown(predictor.manifest, point=self.point)

    def hold(self, *, csv: Path | None, html: Path | None, as_json: bool) -> None:
        """Answer, write what is asked for, and print the table or JSON."""
        from ..artifacts import write_csv
        from ..inference.opinion import columns_of

        page = self._page() if html else None
        columns = columns_of(self.predictor.classes, subject=any(source.subject for source in self.sources))
        rows = self._rows(page=page, as_json=as_json, columns=columns)
        if csv:
            write_csv(csv, rows, columns=columns)
        else:
            for _ in rows:
                pass
        if html and page:
            page.write(html, self.tally)
        if not as_json:
            self.shown.print(self.tally)

    def _page(self) -> "OpinionPage":
        from ..report.opinion import OpinionPage  # brings matplotlib and scikit-learn: not for a quick answer

        return OpinionPage(self.predictor.manifest, point=self.point)

    def _rows(self, *, page: "OpinionPage | None", as_json: bool, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Yield a row of the table per image; JSON is printed as the rows go by."""
        if as_json:
            facts = {"model": self.predictor.manifest.name, "operating_point": self.point.replace("_", "-")}
            click.echo(json.dumps(facts, ensure_ascii=False)[:-1] + ', "cells": [', nl=False)
        for number, (source, opinion) in enumerate(self._opinions(with_crops=page is not None)):
            self.tally.add(opinion, subject=source.subject)
            self.shown.add(opinion)
            if page:
                page.add(opinion, subject=source.subject)
            if as_json:
                line = json.dumps(_plain(source, opinion), ensure_ascii=False)
                click.echo(f",\n{line}" if number else f"\n{line}", nl=False)
            values = {"subject": source.subject} | opinion.row(self.predictor.classes)
            yield {name: values[name] for name in columns}
        if as_json:
            rest = {"decisions": self.tally.decisions, "subjects": self.tally.summaries()}
            click.echo("\n], " + json.dumps(rest, ensure_ascii=False)[1:])

    def _opinions(self, *, with_crops: bool) -> "Iterator[tuple[Source, Opinion]]":
        from ..progress import track

        paths = (source.path for source in self.sources)
        opinions = self.predictor.stream(paths, point=self.point, with_crops=with_crops)
        yield from zip(self.sources, track(opinions, "Looking at cells", total=len(self.sources)), strict=True)


def _plain(source: "Source", opinion: "Opinion") -> dict[str, Any]:
    return {
        "path": opinion.name,
        "subject": source.subject,
        "probabilities": opinion.probabilities,
        "decision": opinion.decision,
        "called": opinion.called,
        "reason": opinion.reason,
        "quality": opinion.quality,
    }
