"""leukoscope evaluate."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def evaluate(run: Path) -> None:
    """Calibrate on validation subjects and measure on test subjects.

    Reads RUN/predictions.csv, cells.csv, split.json and traits.csv; writes RUN/calibration.json and
    RUN/metrics.json, every number with its 95 % interval over subject groups.

    \b
    Examples:
      leukoscope evaluate runs/first
    """
    from ..evaluation.evaluate import evaluate as measure_run
    from ..evaluation.summary import summary

    click.echo(summary(measure_run(run)))
    click.echo(f"Wrote {run / 'metrics.json'}")
