"""A finished run becomes a bundle: networks, calibration, figures and card in one folder that needs no PyTorch.

The guarantee of a bundle can be calibrated on parts of the data that its networks were not trained on. Subjects of a
cross-validation are exchangeable: their cells were prepared, stained and photographed in the same weeks. Those of the
next part are not, and a guarantee calibrated in cross-validation fails on it. So temperature, operating points, the
unsure band and the accuracy behind the share of blasts can be fitted to runs of the same settings that leave out
complete parts: each part is predicted by networks that were not trained on any of it. Where the next part differs from
all earlier ones, the guarantee can still fail, so `guarantee_by_part` measures it on each part in turn.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundle.manifest import (
    ALL_FOLDS,
    CARD,
    Bundle,
    ConformalRule,
    DistanceLimit,
    LeftOutPart,
    Manifest,
    ManifestEntry,
    Member,
    RecordedMetrics,
    StainColours,
    SubjectFigures,
    amend_bundle,
    bundle_beside,
    check_free,
    made,
    open_bundle,
    write_bundle,
)
from .config import OPERATING_POINTS, Experiment
from .data.audit import read_traits
from .data.cells import open_pack
from .data.index import picture_kind
from .errors import DataError, UsageError
from .evaluation.evaluate import Evidence, gather
from .evaluation.metrics import Floats, Ints
from .evaluation.predictions import fit_temperature, fit_thresholds, temper
from .files import read_json, record_stage
from .images.read import read_image
from .inference.ensemble import CLASSES_KEY
from .inference.predictor import Predictor
from .inference.rejection import FILE, fit_conformal, fit_detector, fit_quality, measure, reached
from .progress import in_parallel, track
from .report.card import TELLING, card

if TYPE_CHECKING:
    from .models.export import Store


# Notices that a bundle must contain about its training data, by the source in cells.csv.
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
_STAINED = 1000  # cells used for the stain; more change nothing

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
    Where some of them left whole parts out, all that the bundle guarantees is learned there.
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
    check_free(folder)
    members: list[Member] = []
    files: dict[str, bytes] = {}
    groups = [chosen] if experiment.train.mode == "probe" else [[fold] for fold in chosen]
    for own in groups:
        say(f"export    fold {', '.join(map(str, own))}")
        metadata = {CLASSES_KEY: "\n".join(evidence.predictions.classes), "leukoscope.fold": " ".join(map(str, own))}
        exported = export_folds(run, folds=own, metadata=metadata, store=store)
        place = f"member-{len(members)}/" if len(groups) > 1 else ""
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
    with bundle_beside(folder) as beside:
        bundle = write_bundle(beside, manifest, files=files | {CARD: card(manifest).encode()})
        bundle = learn_rejection(bundle, run, evidence, alpha=alpha, say=say)
        if left_out := read_left_out(also):
            say(f"export    guarantee, from parts left out: {', '.join(sorted(set(left_out.parts.tolist())))}")
            refit_on_left_out(bundle, left_out, alpha=alpha)
    bundle = open_bundle(folder)
    record_stage(run, "export", started=started, folds=chosen, store=store, seal=bundle.manifest.seal)
    return bundle


def refit_on_left_out(bundle: Bundle, left_out: "LeftOutPredictions", *, alpha: float) -> Bundle:
    """Write a bundle again in its place with all that it guarantees learned from parts left out."""
    changes = fit_on_left_out(left_out, bundle.manifest, alpha=alpha)
    changed = Manifest.model_validate(bundle.manifest.model_dump() | changes)
    return amend_bundle(bundle, files={CARD: card(changed).encode()}, **changes)


def learn_rejection(bundle: Bundle, run: Path, evidence: Evidence, *, alpha: float, say: Say) -> Bundle:
    """Add to a bundle when it refuses and when it is unsure, learned from the cells of its run.

    A rule for which the run has too few cells or subjects is left out, reported, and noted in the card.
    """
    rules: dict[str, Callable[[], ManifestEntry]] = {
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
    old = bundle.manifest.metrics
    metrics: RecordedMetrics = {**old, "notes": [*old.get("notes", []), *notes]}
    manifest = bundle.manifest.model_copy(update=learned | {"metrics": metrics})
    return amend_bundle(bundle, files=files | {CARD: card(manifest).encode()}, metrics=metrics, **learned)


def _detector(bundle: Bundle, run: Path, evidence: Evidence, files: dict[str, bytes]) -> DistanceLimit:
    detector = fit_detector(*_embedded(bundle, run, evidence))
    files[FILE] = detector.content()
    return detector.limit


def _scored(evidence: Evidence) -> tuple[Floats, Any, Any]:
    """Return calibrated probabilities, labels and subject groups of all test cells, each scored by its own fold."""
    test = evidence.predictions.pick(evidence.predictions.test)
    return _calibrated(evidence, evidence.predictions.test), test.label, test.group


def _traits(evidence: Evidence) -> list[Any]:
    paths = [cell.path for cell in evidence.cells if cell.label]
    measured = in_parallel(lambda path: measure(read_image(path)), paths)
    return list(track(measured, "Measuring pictures", total=len(paths)))


def _stain(evidence: Evidence) -> StainColours:
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
    return StainColours.model_validate(json.loads(json.dumps(found.to_json())))


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
    """Return what a card shows of another run of the same settings."""
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
    """Return the settings as a bundle keeps them: without folders of the machine that made it."""
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
    test = predictions.pick(predictions.test)
    tested = LeftOutPredictions(
        test.classes, _calibrated(evidence, predictions.test), test.label, test.group, test.part
    )
    return _figures(tested, thresholds)


def _calibrated(evidence: Evidence, chosen: Any) -> Floats:
    """Return the probabilities (cells, classes) of some cells, each calibrated by its fold."""
    rows = evidence.predictions.pick(chosen)
    probabilities = np.empty_like(rows.probabilities)
    for fold, calibration in evidence.calibrations.items():
        here = rows.fold == fold
        probabilities[here] = calibration.probabilities(rows.probabilities[here])
    return probabilities


TOLERANCE = 0.05
"""So much more of a class may be called another one in a single part than over all parts."""
_MOST = 0.49  # of a class; more than half would guarantee nothing
_FEWEST = 0.1  # share of all cells of a part that is judged by itself; smaller ones are judged together


@dataclass(frozen=True)
class LeftOutPredictions:
    """The answers of networks to cells of parts that they had not learned from; row i is always the same cell."""

    classes: tuple[str, ...]
    probabilities: Floats
    """(cells, classes), as the networks gave them."""
    labels: Ints
    groups: NDArray[np.str_]
    """Subject group of each cell."""
    parts: NDArray[np.str_]

    def pick(self, chosen: NDArray[np.bool_]) -> "LeftOutPredictions":
        """Return only these cells."""
        chances, labels = self.probabilities[chosen], self.labels[chosen]
        return LeftOutPredictions(self.classes, chances, labels, self.groups[chosen], self.parts[chosen])

    def tempered(self, temperature: float) -> "LeftOutPredictions":
        """Return the same with calibrated probabilities."""
        return LeftOutPredictions(
            self.classes, temper(self.probabilities, temperature), self.labels, self.groups, self.parts
        )


def read_left_out(runs: Sequence[Path]) -> LeftOutPredictions | None:
    """Return the answers to parts left out of some runs; None where no run left a part out.

    A part that several runs left out is judged by the one that learned from most cells.

    Raises:
        UsageError: the runs have different classes.
    """
    found = [gather(run) for run in runs]
    found = [each for each in found if each.plan.scheme == "parts" and not each.plan.leaky]
    if not found:
        return None
    if len({each.predictions.classes for each in found}) > 1:
        raise UsageError("These runs have different classes. Give runs with the same settings to --also.")
    found.sort(key=lambda each: -sum(len(rows) for rows in each.train().values()))
    known: set[str] = set()
    columns: list[tuple[Any, ...]] = []
    for each in found:
        test = each.predictions.pick(each.predictions.test)
        new = ~np.isin(test.part, sorted(known))
        known |= set(test.part.tolist())
        columns.append((test.probabilities[new], test.label[new], test.group[new], test.part[new]))
    joined = (np.concatenate(column) for column in zip(*columns, strict=True))
    return LeftOutPredictions(found[0].predictions.classes, *joined)


def fit_on_left_out(left_out: LeftOutPredictions, manifest: Manifest, *, alpha: float) -> dict[str, Any]:
    """Return the entries of bundle.json behind the guarantees of a bundle, learned from parts left out.

    Temperature, operating points, the unsure band and the accuracy on subjects; the networks stay.

    Raises:
        UsageError: the bundle has other classes.
        DataError: a class is missing, or there are too few cells.
    """
    if manifest.classes != left_out.classes:
        raise UsageError(
            f"The bundle has the classes {', '.join(manifest.classes)}, the runs {', '.join(left_out.classes)}. "
            "Give runs of the same settings to --also."
        )
    if len(set(left_out.labels.tolist())) < len(manifest.classes):
        raise DataError("The parts left out lack a class, so nothing can be guaranteed from them. Leave out others.")
    temperature = fit_temperature(left_out.labels, left_out.probabilities)
    calibrated = left_out.tempered(temperature)
    thresholds = fit_thresholds(left_out.labels, calibrated.probabilities[:, 1]) if manifest.positive else {}
    rule = fit_rule(calibrated, alpha=alpha)
    return {
        "members": tuple(each.model_copy(update={"temperature": temperature}) for each in manifest.members),
        "operating_points": thresholds,
        "subjects": _figures(calibrated, thresholds) if thresholds else (),
        "conformal": ConformalRule(**rule.model_dump(), left_out=guarantee_by_part(left_out, alpha=alpha)),
    }


def fit_rule(calibrated: LeftOutPredictions, *, alpha: float) -> ConformalRule:
    """Return a conformal rule whose guarantee holds for a new subject of all parts, and nearly in each of them.

    Of each class, the strictest of the rule of all parts together at alpha, and of those at alpha + TOLERANCE of each
    part that has subjects enough for a guarantee: conformal prediction by class and part. The parts are few, and no
    rule covers the next one for sure; this one at least does not trade errors in one part for decisions in another.
    Alpha itself in each part would be too strict: of seven subjects, the next one alone is an eighth.
    """
    pooled = fit_conformal(calibrated.probabilities, calibrated.labels, calibrated.groups, alpha=alpha)
    parts = [calibrated.pick(np.isin(calibrated.parts, names)) for names in judged_parts(calibrated.parts)]
    at_most = min(alpha + TOLERANCE, _MOST)
    rules = [fit_conformal(each.probabilities, each.labels, each.groups, alpha=at_most) for each in parts]
    strictest: list[float | None] = []
    for index, together in enumerate(pooled.smallest_plausible):
        alone = [each.smallest_plausible[index] for each in rules]
        limits = [value for value in (together, *alone) if value is not None]
        strictest.append(None if together is None else min(limits))
    words = (
        f"{pooled.guarantee} Learnt on parts that the networks had not seen, and held to at most {at_most:.0%} in "
        "each of them."
    )
    return ConformalRule(**pooled.model_dump() | {"smallest_plausible": strictest, "guarantee": words})


def guarantee_by_part(left_out: LeftOutPredictions, *, alpha: float) -> list[LeftOutPart]:
    """Return, for each part, what a rule learned on all other parts comes to on it."""
    rows = []
    for names in judged_parts(left_out.parts):
        here = np.isin(left_out.parts, names)
        others = left_out.pick(~here)
        if len(set(others.labels.tolist())) < len(left_out.classes):
            continue
        temperature = fit_temperature(others.labels, others.probabilities)
        others, part = others.tempered(temperature), left_out.pick(here).tempered(temperature)
        rule = fit_rule(others, alpha=alpha)
        table = reached(rule, part.probabilities, part.labels, part.groups, classes=left_out.classes)
        rows.append(LeftOutPart(part=" + ".join(names), asked=alpha, classes=table))
    return rows


def judged_parts(parts: NDArray[np.str_]) -> list[list[str]]:
    """Return the parts that are judged: large ones by themselves, small ones together."""
    names, counts = np.unique(parts, return_counts=True)
    large = [[name] for name, count in zip(names.tolist(), counts, strict=True) if count >= _FEWEST * counts.sum()]
    small = [name for name in names.tolist() if [name] not in large]
    return [*large, small] if small else large


def _figures(calibrated: LeftOutPredictions, thresholds: dict[str, float]) -> tuple[SubjectFigures, ...]:
    """Count, for every subject group, the cells that each operating point calls the disease."""
    scores, figures = calibrated.probabilities[:, 1], []
    for group in sorted(set(calibrated.groups.tolist())):
        here = calibrated.groups == group
        labels = set(calibrated.labels[here].tolist())
        if len(labels) == 1:
            called = {point: int((scores[here] >= edge).sum()) for point, edge in thresholds.items()}
            label = calibrated.classes[labels.pop()]
            figures.append(SubjectFigures(group=group, label=label, cells=int(here.sum()), called=called))
    return tuple(figures)
