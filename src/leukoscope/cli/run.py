"""leukoscope run: the main job in one command, and what the terminal shows of each of its stages."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np

from ..data.cells import Cell, classes_of
from ..data.split import SplitPlan
from .options import experiment_options, layout_options, make_layout, many, note

_CONFLICTS = 3  # pairs of one image with two labels that are named


def lines_of(stage: str, result: Any) -> list[str]:
    """Return the lines for a stage and what came of it (pipeline.run_experiment), its name in the first column."""
    texts = _TEXTS[stage](result)
    return [f"{stage if not number else '':<9} {text}" for number, text in enumerate(texts)]


def describe_cells(cells: Sequence[Cell]) -> str:
    """Return one line: how many images of how many subjects and classes there are."""
    subjects = len({cell.subject for cell in cells if cell.subject})
    counts = [f"{sum(cell.label == name for cell in cells):,} {name}" for name in classes_of(cells)]
    if unlabelled := sum(not cell.label for cell in cells):
        counts.append(f"{unlabelled:,} unlabelled")
    return f"{len(cells):,} images of {subjects} subjects: {', '.join(counts)}"


def describe_changes(found: dict[str, Any]) -> list[str]:
    """Return what the reader did to the values of how many files."""
    from ..images.read import changes_in_words

    return changes_in_words(Counter(found["changes"]))


def describe_audit(found: dict[str, Any]) -> str:
    """Return one sentence: what an audit found."""
    exact, near = found["exact_duplicates"], found["near_duplicates"]
    text = f"{many(exact['pairs'], 'identical pair')} ({exact['across_subjects']} across subject ids), "
    text += f"{near['pairs']} near-identical ({near['across_subjects']} across)"
    if conflicts := found["label_conflicts"]:
        shown = [" = ".join(pair) for pair in conflicts[:_CONFLICTS]]
        more = [f"and {len(conflicts) - len(shown):,} more"] if len(conflicts) > len(shown) else []
        text += f"; one image with two labels: {', '.join(shown + more)}"
    if found["joined_subjects"]:
        text += "; kept together: " + ", ".join("=".join(group) for group in found["joined_subjects"])
    if found["unusable"]:
        text += f"; unusable images: {len(found['unusable'])}"
    return text


def describe_shortcuts(measured: dict[str, Any]) -> str:
    """Return one sentence: how far the shortcuts go."""
    if "not_measured" in measured:
        return f"Shortcuts were not measured: {measured['not_measured']}."
    size, colour = (_with_interval(measured[name]) for name in ("size", "colour"))
    return f"AUROC of cell size alone {size}, of mean colour alone {colour}; chance is 0.5."


def _with_interval(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return "not defined"
    if number["low"] is None or number["high"] is None:
        return f"{number['value']:.3f} (no interval: too few subjects)"
    return f"{number['value']:.3f} (95 % interval {number['low']:.3f} to {number['high']:.3f})"


def describe_parts(found: dict[str, Any]) -> str:
    """Return a table of the parts of an audited data set: images, subjects, classes."""
    rows = [f"{'part':12} {'images':>7} {'subjects':>8}  classes"]
    for part, facts in found["parts"].items():
        classes = ", ".join(f"{number:,} {name}" for name, number in facts["classes"].items())
        rows.append(f"{part or '(none)':12} {facts['images']:7,} {facts['subjects']:8}  {classes}")
    return "\n".join(rows)


def describe_split(plan: SplitPlan, cells: Sequence[Cell]) -> str:
    """Return one sentence: who is trained and tested on."""
    labelled = sum(bool(cell.label) for cell in cells)
    tested = np.unique(
        np.concatenate([np.flatnonzero(plan.sets(cells, fold=k) == "test") for k in range(len(plan.folds))])
    )
    text = f"{plan.scheme}, {len(plan.folds)} fold{'s' * (len(plan.folds) > 1)}; "
    text += f"{len(tested):,} of {labelled:,} labelled cells are in test folds"
    if plan.leaky:
        text += "; LEAKY: images of one patient are in both training and test"
    for row in plan.excluded:
        text += f"; {row.cells} cells of {row.group} in {row.part} left out ({row.reason})"
    return text


_TEXTS: dict[str, Callable[[Any], list[str]]] = {
    "index": lambda result: [describe_cells(result[0]), *result[1]],
    "audit": lambda found: [*describe_changes(found), describe_audit(found), describe_shortcuts(found["shortcuts"])],
    "split": lambda result: [describe_split(*result)],
    "pack": lambda result: [f"{result[0]:,} crops of {result[1].size} px ({result[1].view} view)"],
    "train": lambda settings: [f"{settings.model.name}, {settings.train.epochs} epochs, mode {settings.train.mode}"],
    "evaluate": lambda metrics: [metrics["verdict"]["text"]],
}


@click.command(short_help="From a folder of images to a trained model and a report.")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", "run", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--synthetic", type=int, default=0, metavar="N", help="Generate N synthetic cells instead of reading images."
)
@click.option("--resume", is_flag=True, help="Resume a run that was stopped.")
@click.option(
    "--until",
    default="report",
    show_default=True,
    help="Last stage: audit, split, pack, train or report.",
    type=click.Choice(["audit", "split", "pack", "train", "report"]),
    metavar="STAGE",
)
@click.option("--skip-unusable", is_flag=True, help="Leave out images that cannot be used, and name them in the audit.")
@layout_options
@experiment_options
def run(
    data: Path | None,
    run: Path,
    synthetic: int,
    resume: bool,
    until: str,
    skip_unusable: bool,
    labels: Path | None,
    config: str | None,
    overrides: tuple[str, ...],
    **layout: str | None,
) -> None:
    """Index, audit, split, train, calibrate, evaluate and report.

    DATA is a folder (the C-NMC release, or FOLDER/<class>/<subject>_*.png) or a CSV with one row per image. The output
    folder then holds the table of cells, the audit, the split, the models, the predictions, the metrics and
    report.html.

    \b
    Examples:
      leukoscope run --synthetic 600 -o runs/demo --config demo
      leukoscope run C-NMC_Leukemia/ -o runs/first
      leukoscope run C-NMC_Leukemia/ -o runs/shift --set split.scheme=parts --set 'split.test_parts=["prelim_test"]'
      leukoscope run C-NMC_Leukemia/ -o runs/first --resume
    """
    from ..config import Experiment, read_experiment
    from ..pipeline import Input, run_experiment

    kept = run / "config.toml"
    if resume and kept.exists() and not config and not overrides:
        experiment = Experiment.read(kept)
    else:
        experiment = read_experiment(config, overrides)
    given = Input(data, synthetic, make_layout(**layout), labels, skip_unusable)
    with _stopping() as say:
        written = run_experiment(given, run, experiment, resume=resume, until=until, say=say)
    click.echo(f"{until:<9} {written}")


@contextmanager
def _stopping() -> Iterator[Callable[[str, object], None]]:
    """Yield what prints the lines of a stage, and stops there at the latest when Ctrl-C was pressed.

    A KeyboardInterrupt that is raised while C code calls back into Python, as scikit-learn's do, is dropped.
    """
    pressed = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        pressed.set()
        signal.default_int_handler(number, frame)

    def say(stage: str, result: object) -> None:
        for line in lines_of(stage, result):
            note(line)
        if pressed.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield say
    finally:
        signal.signal(signal.SIGINT, before)


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--resume", is_flag=True, help="Resume after a stop; finished folds and epochs are kept.")
@click.option("--devices", type=click.IntRange(min=1), help="Processes, one per device. [default: train.devices]")
@click.option("--accelerator", metavar="NAME", help="cpu, cuda, mps or auto. [default: train.accelerator]")
def train(run: Path, resume: bool, devices: int | None, accelerator: str | None) -> None:
    """Train every fold of a prepared RUN, or resume it.

    RUN is a folder that holds config.toml, cells.csv, split.json and pack/, as `leukoscope run --until pack` leaves
    it. Each fold gets its history.csv and checkpoints; predictions.csv holds the raw probabilities of all validation
    and test cells. A run that was interrupted and resumed ends with the same weights as one that was not. Several
    processes share each batch, with the same result as one; torchrun starts them on several machines.

    \b
    Examples:
      leukoscope train runs/first
      leukoscope train runs/first --resume
      leukoscope train runs/first --devices 2
      torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29500 -m leukoscope train runs/first
    """
    from ..errors import require

    require("torch", feature="Training", extra="train")
    require("lightning_fabric", feature="Training", extra="train")
    from ..training.loop import train as train_run

    train_run(run, resume=resume, devices=devices, accelerator=accelerator)
    click.echo(f"{run / 'predictions.csv'}")


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--by", multiple=True, metavar="COLUMN", help="Column of cells.csv whose values are shown as subgroups; repeatable."
)
def evaluate(run: Path, by: tuple[str, ...]) -> None:
    """Calibrate on validation subjects and measure on test subjects.

    Reads RUN/predictions.csv, cells.csv, split.json and traits.csv; writes RUN/calibration.json and
    RUN/metrics.json, every number with its 95 % interval over subject groups, which are weighted equally.

    \b
    Examples:
      leukoscope evaluate runs/first
      leukoscope evaluate runs/first --by part --by sex
    """
    from ..evaluation.evaluate import evaluate as measure_run
    from ..evaluation.verdict import summary

    click.echo(summary(measure_run(run, by=by)))
    note(f"Wrote {run / 'metrics.json'}")


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run: Path) -> None:
    """Write report.html from a finished run: one file that opens offline.

    Reads RUN/metrics.json and the other files of the run; writes RUN/report.html and RUN/figures/*.svg.

    \b
    Examples:
      leukoscope report runs/first
    """
    from ..evaluation.verdict import summary
    from ..files import read_json
    from ..report.page import write_report

    path = write_report(run)
    click.echo(summary(read_json(run / "metrics.json")))
    note(f"Wrote {path}")


_RUN_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run_a", type=_RUN_FOLDER)
@click.argument("run_b", type=_RUN_FOLDER)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures as JSON.")
def compare(run_a: Path, run_b: Path, output: Path | None) -> None:
    """Paired difference between two runs on the test cells that they share.

    Both runs are measured on the same cells, with the same subject groups left out in turn, so the interval of the
    difference is far narrower than the two intervals side by side suggest. Subject groups are weighted equally; the
    differences with equal weight per cell follow below.

    \b
    Examples:
      leukoscope compare runs/seed-cnn runs/lite0
      leukoscope compare runs/seed-cnn runs/lite0 -o difference.json
    """
    from ..evaluation.compare import compare as compare_runs
    from ..evaluation.verdict import comparison_table
    from ..files import write_json

    result = compare_runs(run_a, run_b)
    click.echo(comparison_table(result))
    if output:
        write_json(output, result)
        note(f"Wrote {output}")


_FOLDER = click.Path(exists=True, path_type=Path)


@click.command(short_help="Run a published claim as an experiment and write its page.")
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the studies and the claims that they test.")
@click.option("--data", type=_FOLDER, help="Folder of images, such as the C-NMC release; subtypes takes smear fields.")
@click.option("--fields", type=_FOLDER, help="Folder of smear fields by class, for stain.")
@click.option("--synthetic", type=int, default=0, metavar="N", help="Make N synthetic cells instead of reading images.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("evidence"),
    show_default=True,
    help="Folder for the page, its figures and its JSON.",
)
@click.option("--work", type=click.Path(path_type=Path), help="Folder for intermediate results. [default: OUTPUT/work]")
@click.option(
    "--offline", is_flag=True, help="Do not contact a model hub; weights that are not in the cache are random."
)
@click.option("--seeds", type=click.IntRange(1, 100), help="Number of seeds; each arm is run once with each.")
@click.option("--images", type=click.IntRange(0), help="Number of images to use; 0: all.")
@click.option("--size", type=click.IntRange(16, 1024), help="Side of the crops in pixels.")
@click.option("--epochs", type=click.IntRange(1), help="Number of epochs, in studies that train a network.")
@click.option("--recipe", "recipes", multiple=True, help="Run only this recipe of generalisation; repeatable.")
def reproduce(
    name: str | None,
    listing: bool,
    data: Path | None,
    fields: Path | None,
    synthetic: int,
    output: Path,
    work: Path | None,
    offline: bool,
    recipes: tuple[str, ...],
    **smaller: int | None,
) -> None:
    """Run the study NAME and write OUTPUT/NAME.md with its figures and all numbers.

    Finished arms are kept: repeat the command to resume after a stop. A study that is made smaller by --seeds,
    --images, --size or --epochs is marked as such on its page.

    generalisation runs all recipes that take minutes, or only those given by --recipe, and shows the earlier results
    of the others. A recipe that trains networks takes hours; each finished network is kept.

    \b
    Examples:
      leukoscope reproduce --list
      leukoscope reproduce leak --data C-NMC_Leukemia/
      leukoscope reproduce generalisation --data C-NMC_Leukemia/ -o docs/evidence --recipe fine-tune
      leukoscope reproduce ellassir-2022 --synthetic 600 --seeds 2 --size 48 --images 200 --epochs 3
    """
    from ..errors import UsageError, require
    from ..studies.study import Given, find, names
    from ..studies.study import reproduce as run

    require("torch", feature="Reproducing a study", extra="train")
    if listing:
        for each in names():
            click.echo(f"{each:15} {find(each).claim}")
        return
    if not name:
        raise UsageError(f"Name a study: {', '.join(names())}. Show their claims with: leukoscope reproduce --list")
    given = {key: value for key, value in smaller.items() if value is not None}
    report = lambda text: note(text, err=True)  # noqa: E731
    page = run(
        name,
        Given(data, fields, synthetic, offline, recipes),
        output,
        work=work or output / "work",
        smaller=given,
        say=report,
    )
    click.echo(page)


@click.command()
@click.argument("name", required=False, default="")
@click.option("--config", metavar="FILE|NAME", help="Show the values of this TOML file or shipped experiment.")
def settings(name: str, config: str | None) -> None:
    """List all settings with their values and meaning, or those of one section or NAME such as train.epochs.

    \b
    Examples:
      leukoscope settings
      leukoscope settings train
      leukoscope settings augment --config fine-tune
    """
    from textwrap import fill

    from ..config import list_settings, read_experiment

    for each in list_settings(read_experiment(config), under=name):
        click.echo(f"{each.name} = {each.value}")
        if each.meaning:
            click.echo(fill(each.meaning, 96, initial_indent="    ", subsequent_indent="    "))
