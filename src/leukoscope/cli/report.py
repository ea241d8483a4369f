"""leukoscope report."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run: Path) -> None:
    """Write report.html from a finished run: one file that opens offline.

    Reads RUN/metrics.json and whatever else the run holds; writes RUN/report.html and RUN/figures/*.svg.

    \b
    Examples:
      leukoscope report runs/first
    """
    from ..artifacts import read_json
    from ..evaluation.summary import summary
    from ..report.page import write_report

    path = write_report(run)
    click.echo(summary(read_json(run / "metrics.json")))
    click.echo(f"Wrote {path}")
