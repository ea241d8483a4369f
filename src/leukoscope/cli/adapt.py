"""leukoscope adapt: a bundle for one's own laboratory."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("reviewed", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the adapted bundle here; else only say.")
@click.option("--even-if-worse", is_flag=True, help="Write it although it is not shown to be better.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of the table.")
@click.option("--seed", default=0, show_default=True, help="Of the folds and of the intervals.")
def adapt(
    bundle: Path, reviewed: Path, output: Path | None, even_if_worse: bool, as_json: bool, seed: int
) -> None:  # fmt: skip
    """Fit a new head of BUNDLE to REVIEWED cells of your laboratory, and say whether it is better.

    REVIEWED is what the reading room exports as a data set (unpacked), or any labelled folder or table. A few dozen
    cells will do; cells of several subjects of each class tell more. Old and new are compared on subjects that the
    measured head has not learned from, with 95 % intervals over subjects. No bundle is ever overwritten.

    \b
    Examples:
      leukoscope adapt models/first case-3-dataset/
      leukoscope adapt models/first reviewed/cells.csv -o models/ours
    """
    import json

    from ..adapt import adapt as fit
    from ..adapt import refuse_existing, write
    from ..data.index import index
    from ..inference.bundle import open_bundle

    if output:
        refuse_existing(output)
    opened = open_bundle(bundle)
    table = reviewed / "cells.csv" if (reviewed / "cells.csv").is_file() else reviewed
    adapted, seen = fit(opened, index(table).cells, seed=seed)
    click.echo(json.dumps(adapted.result, indent=1) if as_json else _table(adapted.result))
    if not output:
        return
    if not adapted.better and not even_if_worse:
        click.echo(f"Not written: {adapted.result['verdict']} To write it all the same: --even-if-worse.", err=True)
        raise SystemExit(1)
    write(opened, output, adapted, seen)
    click.echo(f"Wrote {output}", err=as_json)


def _table(result: dict[str, Any]) -> str:
    held_out = f"{result['cells']} reviewed cells of {result['subjects']} subjects, each {result['unit']} held out once"
    lines = [held_out, f"{'':18}{'old':>24}{'new':>24}{'new - old':>26}"]
    for name in result["old"]:
        parts = [_span(result[which][name]) for which in ("old", "new", "differences")]
        lines.append(f"{name:18}{parts[0]:>24}{parts[1]:>24}{parts[2]:>26}")
    return "\n".join([*lines, result["verdict"], *([result["note"]] if result["note"] else [])])


def _span(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    low, high = (f"{figure[side]:.3f}" if figure[side] is not None else "–" for side in ("low", "high"))
    return f"{figure['value']:.3f} ({low} to {high})"
