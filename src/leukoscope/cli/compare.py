"""leukoscope compare."""

from pathlib import Path

import click

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run_a", type=_FOLDER)
@click.argument("run_b", type=_FOLDER)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures as JSON.")
def compare(run_a: Path, run_b: Path, output: Path | None) -> None:
    """Paired difference between two runs on the test cells that they share.

    Both runs are measured on the same bootstrap replicates of subject groups, so the interval of the difference is
    far narrower than the two intervals side by side suggest.

    \b
    Examples:
      leukoscope compare runs/seed-cnn runs/lite0
      leukoscope compare runs/seed-cnn runs/lite0 -o difference.json
    """
    from ..artifacts import write_json
    from ..evaluation.compare import compare as compare_runs
    from ..evaluation.summary import comparison_table

    result = compare_runs(run_a, run_b)
    click.echo(comparison_table(result))
    if output:
        write_json(output, result)
        click.echo(f"Wrote {output}")
