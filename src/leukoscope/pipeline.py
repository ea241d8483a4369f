"""The stages of a run in order: index, audit, split, pack, train, evaluate, report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .config import Experiment, Model
from .data.audit import CellTraits, audit, measure_traits, write_traits
from .data.cells import Cell, classes_of, pack, read_cells, write_cells
from .data.index import Indexed, Layout, index
from .data.split import SplitPlan, group_of_subject, make_split, read_split, subject_groups, write_split
from .data.synthetic import draw_cells
from .errors import DataError, UsageError, require
from .evaluation.outcomes import shortcut_probe
from .files import lock_folder, read_json, record_stage, write_json
from .images.listing import passed_over
from .images.read import changes_in_words

Say = Callable[[str, Any], None]
"""Progress callback with the name of a finished stage and its result: see run_experiment."""


@dataclass(frozen=True)
class Input:
    """Where the cells of a run come from: a folder or table, or as many `synthetic` cells, drawn from the seed."""

    data: Path | None = None
    synthetic: int = 0
    layout: Layout | None = None
    labels: Path | None = None
    skip_unusable: bool = False
    """Leave out images that cannot be used, and list them in audit.json."""


def run_experiment(
    given: Input,
    run: Path,
    experiment: Experiment,
    *,
    resume: bool = False,
    until: str = "report",
    say: Say | None = None,
) -> Path:
    """Run the stages from images to a report; return the path of the last file written, such as report.html.

    Every stage writes files into RUN and is skipped when a resumed run has them already.

    Args:
        given: the images.
        run: the folder to write; must be new or empty unless `resume`.
        experiment: all settings, copied to RUN/config.toml.
        resume: continue a stopped run.
        until: the last stage to run: audit, split, pack, train or report.
        say: called after each stage: index (cells and notes), audit (the audit), split (plan and cells), pack (number
            of crops and their preparation), train (the experiment, before it begins) and evaluate (the metrics).

    Raises:
        UsageError: the folder is not empty and `resume` is not set, lies inside the data, or is being written by
            another process; or the settings differ from the run's own.
        LeukoscopeError: a stage failed.
    """
    _refuse_inside(given, run)
    if until in ("train", "report") and not (run / "predictions.csv").exists():
        check_network(experiment.model)
    _open_run(run, experiment, resume=resume)
    with lock_folder(run):
        return _run_stages(given, run, experiment, resume=resume, until=until, say=say or _silent)


def _silent(stage: str, result: Any) -> None:
    """Do nothing."""


def _run_stages(given: Input, run: Path, experiment: Experiment, *, resume: bool, until: str, say: Say) -> Path:
    from .evaluation.evaluate import evaluate
    from .report.page import write_report

    cells = stage_cells(given, run, experiment, say=say)
    if until == "audit":
        return run / "audit.json"
    stage_split(cells, run, experiment, say=say)
    if until == "split":
        return run / "split.json"
    stage_pack(cells, run, experiment, say=say)
    if until == "pack":
        return run / "pack"
    if not (run / "predictions.csv").exists():
        from .training.loop import train  # PyTorch: not wanted before

        say("train", experiment)
        train(run, resume=resume)
    if until == "train":
        return run / "predictions.csv"
    metrics = evaluate(run)
    say("evaluate", metrics)
    return write_report(run)


def stage_cells(given: Input, run: Path, experiment: Experiment, *, say: Say) -> list[Cell]:
    """Index and audit, unless RUN/audit.json exists; return the usable cells."""
    table = run / "cells.csv"
    if not (run / "audit.json").exists():
        started = time.perf_counter()
        cells, notes = _find_cells(given, run, experiment)
        write_cells(table, cells)
        record_stage(run, "index", started=started, images=len(cells), notes=notes)
        say("index", (cells, notes))
        started = time.perf_counter()
        found = audit_cells(cells, run, skip_unusable=given.skip_unusable)
        record_stage(run, "audit", started=started)
        say("audit", found)
    return read_cells(table)


def audit_cells(cells: Sequence[Cell], run: Path, *, skip_unusable: bool = False) -> dict[str, Any]:
    """Write audit.json, traits.csv and, where images were left out, cells.csv again; return the audit.

    Raises:
        DataError: images cannot be used and `skip_unusable` is not set; audit-failed.json then lists them all.
    """
    traits = measure_traits(cells)
    found = audit(cells, traits)
    found["shortcuts"] = shortcuts(cells, traits, found)
    if found["unusable"] and not skip_unusable:
        write_json(run / "audit-failed.json", found)
        cure = "To leave them out and continue, repeat the command with --resume --skip-unusable."
        raise DataError(f"{describe_unusable(found, listed_in=run / 'audit-failed.json')} {cure}")
    refuse_conflicts(found)
    kept = [row for row in range(len(cells)) if row not in traits.problems]
    if not kept:
        raise DataError("None of the images can be used. Index a folder of cell images.")
    usable = [cells[row] for row in kept]
    write_cells(run / "cells.csv", usable)
    write_traits(run / "traits.csv", usable, _rows_of(traits, kept))
    write_json(run / "audit.json", found)
    return found


def stage_split(cells: Sequence[Cell], run: Path, experiment: Experiment, *, say: Say) -> SplitPlan:
    """Plan the split, or read an existing one; both verify that it has no leakage."""
    path = run / "split.json"
    if path.exists():
        return read_split(path, cells)
    started = time.perf_counter()
    linked = [tuple(pair) for pair in read_json(run / "audit.json")["linked_subjects"]]
    plan = make_split(
        cells, experiment.split, seed=experiment.seed, positive=experiment.evaluate.positive, linked=linked
    )
    write_split(path, plan)
    record_stage(run, "split", started=started, seed=experiment.seed, hash=plan.hash)
    say("split", (plan, cells))
    return plan


def stage_pack(cells: Sequence[Cell], run: Path, experiment: Experiment, *, say: Say) -> None:
    """Prepare and pack all crops; a finished pack of the same crops is kept."""
    started = time.perf_counter()
    crops = pack(cells, run / "pack", prepare=experiment.prepare)
    record_stage(run, "pack", started=started, shape=list(crops.shape))
    say("pack", (len(crops), experiment.prepare))


def describe_unusable(found: dict[str, Any], *, listed_in: Path) -> str:
    """Describe which images cannot be used and what to do."""
    problems = [row["problem"] for row in found["unusable"]]
    more = f" … and {len(problems) - 3} more, listed in {listed_in}." if len(problems) > 3 else ""
    several = f"{len(problems)} images cannot be used" if len(problems) > 1 else "One image cannot be used"
    return f"{several}: {' '.join(problems[:3])}{more}"


def refuse_conflicts(found: dict[str, Any]) -> None:
    """Raise DataError where one image has two labels."""
    if conflicts := found["label_conflicts"]:
        first, second = conflicts[0]
        pairs = (
            "One pair of byte-identical images has"
            if len(conflicts) == 1
            else (f"{len(conflicts)} pairs of byte-identical images have")
        )
        raise DataError(f"{pairs} two labels: {first} and {second}. Remove the wrong one.")


def notes_of(found: Indexed) -> list[str]:
    """Return notes on how a folder was read, one sentence each."""
    passed = passed_over(found.passed, hidden=found.hidden)
    return [*found.notes, *changes_in_words(found.changes), *passed]


def shortcuts(cells: Sequence[Cell], traits: CellTraits, found: dict[str, Any]) -> dict[str, Any]:
    """Measure how well size alone and mean colour alone classify, with subjects kept together."""
    usable = [row for row, cell in enumerate(cells) if cell.label and row not in traits.problems]
    classes = classes_of([cells[row] for row in usable])
    if len(classes) < 2:
        return {"not_measured": "there is one class or none"}
    of_subject = group_of_subject(subject_groups(cells, linked=[tuple(pair) for pair in found["linked_subjects"]]))
    labels = np.array([classes.index(cells[row].label) for row in usable])
    groups = np.unique([of_subject[cells[row].subject] for row in usable], return_inverse=True)[1]
    features = {"size": np.log(traits.area_px[usable, None]), "colour": traits.colour[usable]}
    return shortcut_probe(features, labels=labels, groups=groups)


def check_network(model: Model) -> None:
    """Check that training can start, before any long work.

    Raises:
        MissingExtraError: PyTorch is not installed.
        UnknownNameError, UsageError: there is no such network, or it cannot take these weights.
        BundleError: the weights file does not exist.
    """
    require("torch", feature="Training", extra="train")
    require("lightning_fabric", feature="Training", extra="train")
    from .models.catalogue import check

    check(model)


def _refuse_inside(given: Input, run: Path) -> None:
    data = given.data.resolve() if given.data else None
    if data and data.is_dir() and run.resolve().is_relative_to(data):
        raise UsageError(
            f"{run} lies inside {given.data}, so its pictures would be read as cells. Choose a folder outside."
        )


def _open_run(run: Path, experiment: Experiment, *, resume: bool) -> None:
    config = run / "config.toml"
    if resume and not config.exists():
        raise UsageError(f"{run} contains no run to resume. Check the folder, or start one without --resume.")
    if config.exists():
        if not resume:
            raise UsageError(f"{run} already contains a run. Continue it with --resume, or choose a new folder.")
        if Experiment.read(config) != experiment:
            raise UsageError(f"The settings differ from those in {config}. Resume without --config and --set.")
    elif run.exists() and any(not path.name.startswith(".") for path in run.iterdir()):
        raise UsageError(f"{run} is not empty and contains no run. Choose a new folder.")
    else:
        experiment.write(config)


def _find_cells(given: Input, run: Path, experiment: Experiment) -> tuple[list[Cell], list[str]]:
    if given.synthetic:
        cells = draw_cells(run / "synthetic", count=given.synthetic, seed=experiment.seed)
        return cells, ["These cells are synthetic: results on them only show that the program works."]
    if given.data is None:
        raise UsageError(
            "Give a folder of images, or --synthetic 600 for synthetic cells; the same as before with --resume."
        )
    found = index(given.data, layout=given.layout, labels=given.labels, open_pictures=False)  # the audit opens them
    if found.refused and not given.skip_unusable:
        first = found.refused[0][1]
        cure = "To leave such files out and continue, repeat the command with --skip-unusable."
        raise DataError(f"{len(found.refused)} listed files cannot be opened, such as: {first} {cure}")
    return found.cells, notes_of(found)


def _rows_of(traits: CellTraits, rows: list[int]) -> CellTraits:
    return CellTraits(traits.area_px[rows], traits.colour[rows], traits.sides[rows], traits.thumbnails[rows], {})
