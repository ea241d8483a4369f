"""leukoscope run: the main job in one command."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from .options import experiment_options, layout_options, make_layout, read_experiment


@click.command(short_help="From a folder of images to a trained model and a report.")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", "run", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--painted", type=int, default=0, metavar="N", help="Paint N cells instead of reading images.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--until", default="report", show_default=True, help="Last stage: audit, split, pack, train or report.",
              type=click.Choice(["audit", "split", "pack", "train", "report"]), metavar="STAGE")  # fmt: skip
@click.option("--skip-unusable", is_flag=True, help="Leave out images that cannot be used, and name them in the audit.")
@layout_options
@experiment_options
def run(
    data: Path | None, run: Path, painted: int, resume: bool, until: str, skip_unusable: bool,
    labels: Path | None, config: str | None, overrides: tuple[str, ...], **layout: str | None,
) -> None:  # fmt: skip
    """Index, audit, split, train, calibrate, evaluate and report.

    DATA is a folder (the C-NMC release, or FOLDER/<class>/<subject>_*.png) or a CSV with one row per image. The output
    folder then holds the table of cells, the audit, the split, the models, the predictions, the metrics and
    report.html.

    \b
    Examples:
      leukoscope run --painted 600 -o runs/demo --config demo
      leukoscope run C-NMC_Leukemia/ -o runs/first
      leukoscope run C-NMC_Leukemia/ -o runs/shift --set split.scheme=parts --set 'split.test_parts=["prelim_test"]'
      leukoscope run C-NMC_Leukemia/ -o runs/first --resume
    """
    from ..config import Experiment
    from ..pipeline import Input, run_experiment

    kept = run / "config.toml"
    if resume and kept.exists() and not config and not overrides:
        experiment = Experiment.read(kept)
    else:
        experiment = read_experiment(config, overrides)
    given = Input(data, painted, make_layout(**layout), labels, skip_unusable)
    with _stopping() as say:
        written = run_experiment(given, run, experiment, resume=resume, until=until, say=say)
    click.echo(f"{until:<9} {written}")


@contextmanager
def _stopping() -> Iterator[Callable[[str], None]]:
    """Yield what prints a line between two stages, and stops there at the latest when Ctrl-C was pressed.

    A KeyboardInterrupt that is raised while C code calls back into Python, as scikit-learn's do, is dropped.
    """
    pressed = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.default_int_handler(number, frame)

    def say(line: str) -> None:
        click.echo(line)
        if pressed.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield say
    finally:
        signal.signal(signal.SIGINT, before)
