"""A finished run becomes a bundle: networks, calibration, figures and card in one folder that needs no PyTorch."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle.manifest import ALL_FOLDS, CARD, Bundle, Manifest, Member, SubjectFigures, amend_bundle, made, write_bundle
from .config import OPERATING_POINTS, Experiment
from .data.audit import read_traits
from .data.cells import open_pack
from .data.index import picture_kind
from .errors import DataError, UsageError
from .evaluation.evaluate import Evidence, gather
from .evaluation.metrics import Floats
from .evaluation.predictions import fit_thresholds
from .files import read_json, record_stage
from .images.read import read_image
from .inference.ensemble import CLASSES_KEY
from .inference.left_out import LeftOut, learnt_from, read_left_out
from .inference.predictor import Predictor
from .inference.quality import fit_quality, measure
from .inference.rejection import FILE, fit_conformal, fit_detector
from .progress import in_parallel, track
from .report.card import TELLING, card

if TYPE_CHECKING:
    from .models.export import Store

# What a bundle must say about data that it was trained on, by the source in cells.csv.
CREDITS = {
    "C-NMC 2019": {
        "licence": "CC BY 3.0",
        "credit": "Gupta and Gupta, ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive, "
        "doi 10.7937/tcia.2019.dc64i46r",
    },
    "synthetic": {"licence": "none needed", "credit": "Drawings made by leukoscope, not patients."},
}
_UNKNOWN = {"licence": "unknown to leukoscope", "credit": "Ask whoever gave you the images before passing weights on."}
_WORST = 5  # subjects that the bundle names
_STAINED = 1000  # cells that are looked at for the stain; more change nothing

Say = Callable[[str], None]


def export_run(
    run: Path,
    folder: Path,
    *,
    folds: Sequence[int] = (),
    store: "Store" = "single",
    weights: bool = True,
    alpha: float = 0.1,
    also: Sequence[Path] = (),
    name: str = "",
    say: Say = print,
) -> Bundle:
    """Write a bundle of the folds of an evaluated run (default: all of them).

    Networks are averaged after calibration. The folds of a run of mode probe share their backbone, so the mean of their
    heads makes one network of them.

    store: how large weights are kept. weights: put weights.safetensors into the bundle as well.
    name: what the bundle is called; empty: by its network and run folder.
    also: evaluated runs of the same settings, split otherwise, whose figures the card shows beside those of this one.
    Where some of them left whole parts out, all that the bundle promises is learnt there: see inference.left_out.
    alpha: share of each class that may be called another; cells that would make it more are 'unsure'.

    Raises:
        DataError: the run is not evaluated, or its files do not fit each other.
        UsageError: the run has no such fold, or `folder` exists already.
    """
    from .training.checkpoint import export_folds  # PyTorch: imported when everything else is known to fit

    started = time.perf_counter()
    experiment = Experiment.read(run / "config.toml")
    metrics = _read_metrics(run)
    evidence = gather(run, positive=experiment.evaluate.positive)
    if metrics["split"]["hash"] != evidence.plan.hash:
        raise DataError(f"{run / 'metrics.json'} belongs to another split. Run leukoscope evaluate {run} again.")
    chosen = _choose(evidence, folds)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already. Choose another folder, or delete it first.")
    members: list[Member] = []
    files: dict[str, bytes] = {}
    together = [chosen] if experiment.train.mode == "probe" else [[fold] for fold in chosen]
    for own in together:
        say(f"export    fold {', '.join(map(str, own))}")
        metadata = {CLASSES_KEY: "\n".join(evidence.predictions.classes), "leukoscope.fold": " ".join(map(str, own))}
        exported = export_folds(run, folds=own, metadata=metadata, store=store)
        place = f"member-{len(members)}/" if len(together) > 1 else ""
        member = Member(
            graph=f"{place}model.onnx",
            weights=f"{place}weights.safetensors" if weights else "",
            network=experiment.model.name,
            prepare=experiment.prepare,
            fold=own[0] if len(own) == 1 else ALL_FOLDS,
            temperature=float(np.mean([evidence.calibrations[fold].temperature for fold in own])),
        )
        members.append(member)
        files |= {member.graph: exported.onnx} | ({member.weights: exported.safetensors} if weights else {})
    metrics["other_tests"] = [_other_test(other) for other in also]
    manifest = _manifest(run, experiment, evidence, metrics, members, folds=chosen)
    manifest = manifest.model_copy(update={"name": name or manifest.name})
    bundle = write_bundle(folder, manifest, files=files | {CARD: card(manifest).encode()})
    bundle = learn_rejection(bundle, run, evidence, alpha=alpha, say=say)
    if left_out := read_left_out(also):
        say(f"export    promise, from parts left out: {', '.join(sorted(set(left_out.parts.tolist())))}")
        bundle = promise_again(bundle, left_out, alpha=alpha)
    record_stage(run, "export", started=started, folds=chosen, store=store, seal=bundle.manifest.seal)
    return bundle


def promise_again(bundle: Bundle, left_out: LeftOut, *, alpha: float) -> Bundle:
    """Write a bundle again in its place with all that it promises learnt from parts left out."""
    changes = learnt_from(left_out, bundle.manifest, alpha=alpha)
    changed = Manifest.model_validate(bundle.manifest.model_dump() | changes)
    return amend_bundle(bundle, files={CARD: card(changed).encode()}, **changes)


def learn_rejection(bundle: Bundle, run: Path, evidence: Evidence, *, alpha: float, say: Say) -> Bundle:
    """Add to a bundle when it refuses and when it is unsure, learned from the cells of its run.

    A rule for which the run has too few cells or subjects is left out, said aloud, and noted in the card.
    """
    rules: dict[str, Callable[[], Mapping[str, Any]]] = {
        "conformal": lambda: fit_conformal(*_scored(evidence), alpha=alpha),
        "quality": lambda: fit_quality(_traits(evidence)),
        "out_of_distribution": lambda: _detector(bundle, run, evidence, files),
        "stain": lambda: _stain(evidence),
    }
    files: dict[str, bytes] = {}
    learned: dict[str, Any] = {}
    notes: list[str] = []
    for name, fit in rules.items():
        say(f"export    {name}")
        try:
            learned[name] = fit()
        except DataError as too_few:
            notes.append(f"No {name} rule: {too_few}")
            say(f"          {notes[-1]}")
    metrics = bundle.manifest.metrics | {"notes": [*bundle.manifest.metrics.get("notes", []), *notes]}
    manifest = bundle.manifest.model_copy(update=learned | {"metrics": metrics})
    return amend_bundle(bundle, files=files | {CARD: card(manifest).encode()}, metrics=metrics, **learned)


def _detector(bundle: Bundle, run: Path, evidence: Evidence, files: dict[str, bytes]) -> dict[str, Any]:
    detector = fit_detector(*_embedded(bundle, run, evidence))
    files[FILE] = detector.content()
    return detector.table()


def _scored(evidence: Evidence) -> tuple[Floats, Any, Any]:
    """Return calibrated probabilities, labels and subject groups of all test cells, each scored by its own fold."""
    test = evidence.predictions.pick(evidence.predictions.test)
    return _calibrated(evidence, evidence.predictions.test), test.label, test.group


def _traits(evidence: Evidence) -> list[Any]:
    paths = [cell.path for cell in evidence.cells if cell.label]
    measured = in_parallel(lambda path: measure(read_image(path)), paths)
    return list(track(measured, "Measuring pictures", total=len(paths)))


def _stain(evidence: Evidence) -> dict[str, Any]:
    """Return the colours of the cells learned from, to which cells of smear fields are brought."""
    try:
        from .fields.stain import measure as measure_stain
        from .fields.stain import sample_crops
    except ImportError:
        raise DataError("it needs the extra leukoscope[fields].") from None
    paths = [cell.path for cell in evidence.cells if cell.label]
    found = measure_stain(sample_crops(read_image(path) for path in paths[:: 1 + len(paths) // _STAINED]))
    if found is None:
        raise DataError("there are too few stained pixels.")
    return found.to_json()


def _embedded(bundle: Bundle, run: Path, evidence: Evidence) -> tuple[Any, Any]:
    """Return embeddings and subject groups of the cells that the backbone of the first member has not learned from."""
    fold = bundle.manifest.members[0].fold
    if fold == ALL_FOLDS:  # its backbone has seen none of them
        rows = [row for row, cell in enumerate(evidence.cells) if cell.label]
    else:
        sets = evidence.plan.sets(evidence.cells, fold=fold)
        rows = [row for row, part in enumerate(sets) if part in ("validation", "test")]
    predictor, crops = Predictor(bundle), open_pack(run / "pack")
    batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    found = in_parallel(lambda batch: predictor.embeddings_of_crops(np.asarray(crops[batch])), batches)
    embeddings = np.concatenate(list(track(found, "Embedding cells", total=len(batches))))
    return embeddings, np.array([evidence.plan.group_of(evidence.cells[row]) for row in rows])


def _read_metrics(run: Path) -> dict[str, Any]:
    path = run / "metrics.json"
    if not path.exists():
        raise DataError(f"{path} does not exist. Run leukoscope evaluate {run} first.")
    metrics: dict[str, Any] = read_json(path)
    return metrics


def _other_test(run: Path) -> dict[str, Any]:
    """Return what a card says about another run of the same settings."""
    experiment, metrics = Experiment.read(run / "config.toml"), _read_metrics(run)
    split = experiment.split
    test = f"{split.scheme}, seed {experiment.seed}"
    if split.scheme == "parts":
        test = (
            f"trained on {', '.join(split.train_parts) or 'all other parts'}, tested on {', '.join(split.test_parts)}"
        )
    return {"test": test, **{name: metrics[name] for name in ("data", "estimators", "subject_weighted")}}


def _choose(evidence: Evidence, folds: Sequence[int]) -> list[int]:
    known = evidence.predictions.folds
    strange = [fold for fold in folds if fold not in known]
    if strange:
        raise UsageError(f"This run has no fold {strange[0]}. Folds: {', '.join(map(str, known))}.")
    return sorted(set(folds)) or known


def _manifest(
    run: Path,
    experiment: Experiment,
    evidence: Evidence,
    metrics: dict[str, Any],
    members: list[Member],
    *,
    folds: Sequence[int],
) -> Manifest:
    predictions, plan = evidence.predictions, evidence.plan
    thresholds = operating_points(evidence, folds)
    sources = sorted({cell.source for cell in evidence.cells})
    kept = ("verdict", "data", "split", "per_class", "subject_weighted", "intervals", "notes", "other_tests")
    return Manifest(
        name=f"{experiment.model.name}, {run.resolve().name}",
        classes=predictions.classes,
        positive=predictions.classes[1] if predictions.binary else "",
        members=tuple(members),
        views=experiment.model.views,
        activation_map=experiment.model.pool == "last",
        pictures=picture_kind(evidence.cells),
        operating_points=thresholds,
        subjects=subject_figures(evidence, thresholds),
        metrics={name: metrics[name] for name in kept if name in metrics}
        | {"estimators": metrics["estimators"], "worst_subjects": _worst_subjects(run, evidence, metrics)},
        training={
            "cells": plan.cells,
            "split": plan.hash,
            "scheme": plan.scheme,
            "settings": _without_paths(experiment),
            "made": made(seed=experiment.seed),
        },
        credits=tuple({"data": source} | CREDITS.get(source, _UNKNOWN) for source in sources),
    )


def _without_paths(experiment: Experiment) -> dict[str, Any]:
    """Return the settings as a bundle tells them: it travels, and folders of the machine that made it stay at home."""
    settings = experiment.model_dump(mode="json")
    settings["model"]["weights"] = Path(experiment.model.weights).name
    return settings


def _worst_subjects(run: Path, evidence: Evidence, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the subjects with most errors, and how their cells compare in size to others of their class."""
    many = [row for row in metrics["subjects"] if row["cells"] >= TELLING] or metrics["subjects"]
    rows = [dict(row) for row in many[:_WORST]]
    if not (run / "traits.csv").exists():
        return rows
    area = read_traits(run / "traits.csv", evidence.cells)[:, 0]
    group = np.array([evidence.plan.group_of(cell) if cell.label else "" for cell in evidence.cells])
    label = np.array([cell.label for cell in evidence.cells])
    for row in rows:
        own, others = area[group == row["group"]], area[(group != row["group"]) & (label == row["label"])]
        row["smaller"] = round(float((others < np.median(own)).mean()), 3)
    return rows


def operating_points(evidence: Evidence, folds: Sequence[int]) -> dict[str, float]:
    """Return one threshold per operating point from the validation cells of some folds, each calibrated by its own.

    No cell is scored by a network that has learned from it. With more than two classes there are none.
    """
    predictions = evidence.predictions
    if not predictions.binary:
        return {}
    if len(folds) == 1:
        return dict(evidence.calibrations[folds[0]].thresholds or {})
    rows = predictions.pick(~predictions.test & np.isin(predictions.fold, folds))
    if len(set(rows.label.tolist())) < 2:
        return dict.fromkeys(OPERATING_POINTS, 0.5)
    chosen = ~predictions.test & np.isin(predictions.fold, folds)
    return fit_thresholds(rows.label, _calibrated(evidence, chosen)[:, 1])


def subject_figures(evidence: Evidence, thresholds: dict[str, float]) -> tuple[SubjectFigures, ...]:
    """Count, for every tested subject group, the cells that each operating point calls the disease.

    Every cell is scored by the fold that tested it, so by a network that has not learned from this subject.
    """
    predictions = evidence.predictions
    if not predictions.binary:
        return ()
    test, scores = predictions.pick(predictions.test), _calibrated(evidence, predictions.test)[:, 1]
    figures = []
    for group in sorted(set(test.group.tolist())):
        here = test.group == group
        labels = set(test.label[here].tolist())
        if len(labels) == 1:
            called = {point: int((scores[here] >= edge).sum()) for point, edge in thresholds.items()}
            figures.append(
                SubjectFigures(group=group, label=test.classes[labels.pop()], cells=int(here.sum()), called=called)
            )
    return tuple(figures)


def _calibrated(evidence: Evidence, chosen: Any) -> Floats:
    """Return the probabilities (cells, classes) of some cells, each calibrated by its fold."""
    rows = evidence.predictions.pick(chosen)
    probabilities = np.empty_like(rows.probabilities)
    for fold, calibration in evidence.calibrations.items():
        here = rows.fold == fold
        probabilities[here] = calibration.probabilities(rows.probabilities[here])
    return probabilities
