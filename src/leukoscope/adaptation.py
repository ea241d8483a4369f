"""Adaptation of a bundle to another laboratory: new linear heads, fitted to a few dozen cells that its readers
labelled.

A new head is a logistic regression on the score of the old head and on the standardised channels of the embedding. The
score is penalised less than the channels, so that with few cells the new head mainly rescales, shifts or reverses the
old one. All metrics come from out-of-fold predictions: no head is evaluated on a subject that it was fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from .bundle.graph import read_head, with_head
from .bundle.manifest import (
    CARD,
    Bundle,
    ConformalRule,
    Manifest,
    QualityLimits,
    RecordedMetrics,
    SubjectFigures,
    made,
    write_bundle,
)
from .config import OPERATING_POINTS
from .data.cells import Cell
from .errors import DataError, ImageError, UsageError, usable
from .evaluation.intervals import Jackknife, Statistics, design_of, jackknife
from .evaluation.metrics import areas, balanced_accuracy, brier, confusion, ece, sensitivity, specificity
from .evaluation.predictions import fit_temperature, fit_thresholds, log_loss, temper
from .evaluation.results import Estimates
from .images.crop import VIEWS, prepare_crop, turn
from .images.read import RGB, read_image
from .inference.ensemble import Ensemble
from .inference.rejection import fit_conformal, fit_quality
from .inference.rejection import measure as traits_of
from .progress import in_parallel, track
from .report.card import card

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 10  # cells of each class
_FOLDS = 5
_STRENGTHS = (0.0003, 0.003, 0.03, 0.3)  # inverse of the L2 penalty: C of scikit-learn
_SCORE_SCALE = 30.0  # standard deviation to which the old score is scaled; a larger one is penalised less
METRICS = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")


@dataclass(frozen=True)
class Reviewed:
    """Reviewed cells: their labels, and embeddings by the networks of a bundle."""

    labels: Ints
    groups: Ints
    """(cells,): code of the subject, or of the cell where too few subjects have cells of a class."""
    by_subject: bool
    names: tuple[str, ...]
    """Subject of each cell."""
    embeddings: tuple[NDArray[np.float32], ...]
    """(cells, views, channels) of each member, for every view that the bundle averages."""
    old: Floats
    """(cells, classes): calibrated probabilities of the bundle before adaptation."""
    traits: tuple[Any, ...]
    refused: tuple[str, ...] = ()
    """One sentence for each image that could not be used; its cell is left out."""
    kept: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(cells,): index of each among the labelled cells that were given."""


@dataclass(frozen=True)
class Head:
    """A linear head: weight (outputs, channels), bias (outputs,), and the temperature that calibrates it."""

    weight: Floats
    bias: Floats
    temperature: float = 1.0

    def raw(self, embeddings: NDArray[Any]) -> Floats:
        """Return uncalibrated probabilities (cells, classes), the mean over the views (cells, views, channels).

        One output is the logit of the second class.
        """
        scores = np.asarray(embeddings, np.float64) @ self.weight.T + self.bias
        logits = np.concatenate([np.zeros_like(scores), scores], axis=2) if scores.shape[2] == 1 else scores
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray((odds / odds.sum(axis=2, keepdims=True)).mean(axis=1))

    def probabilities(self, embeddings: NDArray[Any]) -> Floats:
        """Return calibrated probabilities (cells, classes)."""
        return temper(self.raw(embeddings), self.temperature)


class AdaptationResult(TypedDict):
    """Metrics of old and new heads on the same cells, out of fold."""

    cells: int
    subjects: int
    unit: str
    """What was held out, 'subject' or 'cell'."""
    seed: int
    old: Estimates
    new: Estimates
    differences: Estimates
    better: bool
    verdict: str
    note: str


@dataclass(frozen=True)
class Adapted:
    """New heads of every member, and their metrics on held-out subjects."""

    heads: tuple[Head, ...]
    out_of_fold: Floats
    """(cells, classes): calibrated probabilities of each cell by heads that were not fitted to its subject."""
    result: AdaptationResult

    @property
    def better(self) -> bool:
        """Whether the Brier score is lower, with a 95 % interval of the difference that leaves out zero."""
        return self.result["better"]


def adapt(bundle: Bundle, cells: Sequence[Cell], *, seed: int = 0) -> tuple[Adapted, Reviewed]:
    """Fit new heads to reviewed cells and compare them with the old ones.

    Raises:
        DataError: there are too few cells of a class, or cells of classes that the bundle does not have.
    """
    reviewed = embed_cells(bundle, cells)
    heads, out_of_fold = fit_heads(heads_of(bundle), reviewed, seed=seed)
    return Adapted(heads, out_of_fold, compare(bundle.manifest, reviewed, out_of_fold, seed=seed)), reviewed


def fit_heads(members: Sequence[Head], reviewed: Reviewed, *, seed: int) -> tuple[tuple[Head, ...], Floats]:
    """Return new heads, and out-of-fold calibrated probabilities (cells, classes).

    Raises:
        DataError: one subject has nearly all cells of a class.
    """
    everything = np.ones(len(reviewed.labels), dtype=bool)
    out_of_fold = predict_out_of_fold(members, reviewed, everything, seed=seed)
    return tuple(
        _fit(reviewed, member, number, everything, seed=seed) for number, member in enumerate(members)
    ), out_of_fold


def predict_out_of_fold(
    members: Sequence[Head], reviewed: Reviewed, usable_cells: NDArray[np.bool_], *, seed: int
) -> Floats:
    """Return calibrated probabilities (cells, classes) of every cell by heads that were not fitted to its subject.

    usable_cells: (cells,), the cells to which heads may be fitted; the others are only predicted.

    Raises:
        DataError: one subject has nearly all cells of a class.
    """
    out_of_fold = np.zeros_like(reviewed.old)
    for train, test in _folds(reviewed, seed=seed):
        rows = train & usable_cells
        if len(np.unique(reviewed.labels[rows])) < len(np.unique(reviewed.labels)):
            raise DataError("One subject has nearly all cells of a class. Read cells of more subjects.")
        fitted = [_fit(reviewed, member, number, rows, seed=seed) for number, member in enumerate(members)]
        answers = [head.probabilities(reviewed.embeddings[number][test]) for number, head in enumerate(fitted)]
        out_of_fold[test] = np.mean(answers, axis=0)
    return out_of_fold


def heads_of(bundle: Bundle) -> tuple[Head, ...]:
    """Return the heads that a bundle has.

    Raises:
        MissingExtraError: the extra `adapt` is not installed.
        BundleError: a network has no linear head.
    """
    members = bundle.manifest.members
    return tuple(Head(*read_head(bundle.read(each.graph)), temperature=each.temperature) for each in members)


def embed_cells(bundle: Bundle, cells: Sequence[Cell], *, on_cell: Callable[[], None] = lambda: None) -> Reviewed:
    """Read reviewed cells and embed them with every member of a bundle, as in prediction.

    on_cell: called, from any thread, after each cell.

    Raises:
        DataError: there are too few cells of a class, or cells of classes that the bundle does not have.
    """
    classes, heads = bundle.manifest.classes, heads_of(bundle)
    labelled = [cell for cell in cells if cell.label]
    strange = sorted({cell.label for cell in labelled} - set(classes))
    if strange:
        raise DataError(
            f"The reviewed cells have labels that the bundle does not have: {', '.join(strange)}. It has "
            f"{', '.join(classes)}. Rename them."
        )
    _check_counts(_labels_of(labelled, classes), classes)
    members = [_member(bundle, number) for number in range(len(heads))]

    def embed(cell: Cell) -> tuple[list[NDArray[np.float32]], Any]:
        image = read_image(cell.path)
        return [_embed(image, member) for member in members], traits_of(image)

    def embed_usable(cell: Cell) -> tuple[list[NDArray[np.float32]], Any] | ImageError:
        try:
            return usable(lambda: embed(cell), name=str(cell.path))
        except ImageError as unusable:
            return unusable
        finally:
            on_cell()

    answers = list(track(in_parallel(embed_usable, labelled), "Embedding cells", total=len(labelled)))
    refused = tuple(str(one) for one in answers if isinstance(one, ImageError))
    kept = np.array([place for place, one in enumerate(answers) if not isinstance(one, ImageError)], np.int64)
    labelled = [labelled[place] for place in kept]
    found = [one for one in answers if not isinstance(one, ImageError)]
    labels = _labels_of(labelled, classes)
    if refused:
        _check_counts(labels, classes)
    subjects = tuple(cell.subject for cell in labelled)
    groups, by_subject = held_out_by(subjects, labels)
    embeddings = tuple(np.stack([each[0][number] for each in found]) for number in range(len(heads)))
    probabilities = [head.probabilities(each) for head, each in zip(heads, embeddings, strict=True)]
    old = np.mean(probabilities, axis=0)
    traits = tuple(each[1] for each in found)
    return Reviewed(labels, groups, by_subject, subjects, embeddings, old, traits, refused, kept)


def _labels_of(cells: Sequence[Cell], classes: Sequence[str]) -> Ints:
    return np.array([classes.index(cell.label) for cell in cells], dtype=np.int64)


def write(bundle: Bundle, folder: Path, adapted: Adapted, reviewed: Reviewed, *, name: str = "") -> Bundle:
    """Write the bundle with its new heads, calibration and figures to a new folder; the old one stays as it is.

    name: of the new bundle; by default that of the old one with "adapted".
    """
    old, files = bundle.manifest, {name: bundle.read(name) for name in bundle.manifest.files}
    members = []
    for member, head in zip(old.members, adapted.heads, strict=True):
        files[member.graph] = with_head(files[member.graph], head.weight, head.bias)
        if member.weights:
            del files[member.weights]  # they hold the old head; training continues from the bundle that was adapted
        members.append(member.model_copy(update={"temperature": head.temperature, "weights": ""}))
    points = fit_thresholds(reviewed.labels, adapted.out_of_fold[:, 1]) if old.positive else {}
    changes = {
        "name": name or f"{old.name}, adapted",
        "members": tuple(members),
        "operating_points": points,
        "subjects": _figures(adapted, reviewed, old, points),
        "metrics": _metrics(bundle, adapted, reviewed),
        "training": {
            "adapted_from": old.seal,
            "cells": len(reviewed.labels),
            "made": made(seed=adapted.result["seed"]),
            "before": old.training,
        },
        "conformal": rule_of(adapted.out_of_fold, reviewed, alpha=old.conformal.alpha) if old.conformal else None,
        "quality": _wider(old.quality, reviewed) if old.quality else None,
        "files": {},
        "seal": "",
    }
    manifest = Manifest.model_validate(old.model_dump() | changes)
    return write_bundle(folder, manifest, files=files | {CARD: card(manifest).encode()})


def _member(bundle: Bundle, number: int) -> Ensemble:
    one = bundle.manifest.model_copy(update={"members": (bundle.manifest.members[number],)})
    return Ensemble(replace(bundle, manifest=one))


def _embed(image: RGB, member: Ensemble) -> NDArray[np.float32]:
    """Return the embedding of every view (views, channels) of an image."""
    crop = prepare_crop(image, member.preparations[0])
    return member.embed(np.stack([turn(crop, view, axes=(0, 1)) for view in VIEWS[member.manifest.views]]))


def _check_counts(labels: Ints, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < FEWEST:
        rarest = classes[int(counts.argmin())]
        raise DataError(
            f"There are {counts.min()} reviewed cells of {rarest}; at least {FEWEST} of each class are needed. "
            "Read some more."
        )


def held_out_by(subjects: Sequence[str], labels: Ints) -> tuple[Ints, bool]:
    """Return the groups for cross-validation (cells,), and whether they are subjects.

    They are single cells where there are fewer than 4 subjects, or fewer than 2 of a class."""
    names, codes = np.unique(np.array(subjects), return_inverse=True)
    fewest = min(len(set(codes[labels == label].tolist())) for label in np.unique(labels))
    if fewest < 2 or len(names) < 4:
        return np.arange(len(labels), dtype=np.int64), False
    return codes.astype(np.int64), True


def _folds(reviewed: Reviewed, *, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return (training, test) masks in which every group is tested once; training always has every class."""
    count = min(_FOLDS, len(np.unique(reviewed.groups)))
    split = GroupKFold(count, shuffle=True, random_state=seed)
    folds = []
    for _, rows in split.split(reviewed.labels, groups=reviewed.groups):
        test = np.zeros(len(reviewed.labels), dtype=bool)
        test[rows] = True
        if len(np.unique(reviewed.labels[~test])) < len(np.unique(reviewed.labels)):
            raise DataError("One subject has nearly all cells of a class. Read cells of more subjects.")
        folds.append((~test, test))
    return folds


def _fit(reviewed: Reviewed, old: Head, number: int, rows: NDArray[np.bool_], *, seed: int) -> Head:
    """Fit a head to some cells, with penalty and temperature chosen by inner cross-validation."""
    part = Reviewed(
        reviewed.labels[rows],
        reviewed.groups[rows],
        reviewed.by_subject,
        (),
        (reviewed.embeddings[number][rows],),
        reviewed.old[rows],
        (),
    )
    best: tuple[float, float, float] | None = None
    for strength in _STRENGTHS:
        out_of_fold = np.zeros((len(part.labels), reviewed.old.shape[1]))
        for train, test in _inner(part, seed=seed):
            head = _solve(part.embeddings[0][train], part.labels[train], old, strength)
            out_of_fold[test] = head.raw(part.embeddings[0][test])
        temperature = float(np.clip(fit_temperature(part.labels, out_of_fold), 0.5, 20))
        loss = log_loss(part.labels, temper(out_of_fold, temperature))
        if best is None or loss < best[0]:
            best = (loss, strength, temperature)
    assert best is not None
    return replace(_solve(part.embeddings[0], part.labels, old, best[1]), temperature=best[2])


def _inner(part: Reviewed, *, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    try:
        return _folds(part, seed=seed)
    except (DataError, ValueError):  # too few subjects in the inner folds: single cells are held out instead
        return _folds(replace(part, groups=np.arange(len(part.labels))), seed=seed)


def _solve(embeddings: NDArray[Any], labels: Ints, old: Head, strength: float) -> Head:
    """Return the head of a logistic regression on the old scores and the standardised channels.

    embeddings: (cells, views, channels).
    """
    points = np.asarray(embeddings, np.float64).mean(axis=1)  # over the views
    middle, spread = points.mean(0), points.std(0) + 1e-6
    scores = points @ old.weight.T + old.bias
    scale = _SCORE_SCALE / (scores.std(0) + 1e-6)
    design = np.concatenate([scores * scale, (points - middle) / spread], axis=1)
    fitted = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced").fit(design, labels)
    outputs = old.weight.shape[0]
    on_scores, on_channels = fitted.coef_[:, :outputs] * scale, fitted.coef_[:, outputs:] / spread
    weight = on_scores @ old.weight + on_channels
    bias = fitted.intercept_ + on_scores @ old.bias - on_channels @ middle
    return Head(weight, bias)


def compare(old: Manifest, reviewed: Reviewed, out_of_fold: Floats, *, seed: int) -> AdaptationResult:
    """Return old, new and difference of every metric with intervals, and a verdict in words.

    old: of the bundle whose probabilities `reviewed.old` holds. out_of_fold: (cells, classes), from `fit_heads`.
    """
    sampled = _sampled(old, reviewed, out_of_fold)
    difference = {name: sampled.difference(f"new.{name}", f"old.{name}") for name in METRICS}
    error = difference["brier"]
    better = error["high"] is not None and error["high"] < 0
    worse = error["low"] is not None and error["low"] > 0
    words = "better" if better else "worse" if worse else "not shown to be better"
    unit = "subject" if reviewed.by_subject else "cell"
    return {
        "cells": len(reviewed.labels),
        "subjects": len(set(reviewed.names)),
        "unit": unit,
        "seed": seed,
        "old": {name: sampled.interval(f"old.{name}") for name in METRICS},
        "new": {name: sampled.interval(f"new.{name}") for name in METRICS},
        "differences": difference,
        "better": better,
        "verdict": f"The adapted bundle is {words}.",
        "note": "" if reviewed.by_subject else _ONE_SUBJECT,
    }


_ONE_SUBJECT = (
    "Too few subjects: cells were held out one by one, so the metrics hold for other cells of these subjects only."
)


def _sampled(manifest: Manifest, reviewed: Reviewed, out_of_fold: Floats) -> Jackknife:
    codes = np.unique(reviewed.groups, return_inverse=True)[1].astype(np.int64)
    thresholds = {"old": manifest.operating_points.get("balanced"), "new": None}
    thresholds["new"] = None if thresholds["old"] is None else 0.5  # fixed beforehand, not chosen on these cells
    answers = {"old": reviewed.old, "new": out_of_fold}

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, probabilities in answers.items():
            values |= {
                f"{name}.{key}": value for key, value in _measured(probabilities, thresholds[name], weights).items()
            }
        return values

    def _measured(probabilities: Floats, threshold: float | None, weights: Floats) -> Statistics:
        called = probabilities.argmax(1) if threshold is None else (probabilities[:, 1] >= threshold).astype(np.int64)
        given: dict[str, Any] = {"weights": weights, "groups": codes}
        table = confusion(reviewed.labels, called, classes=probabilities.shape[1], **given)
        return {
            **areas(reviewed.labels, probabilities, **given),
            "balanced_accuracy": balanced_accuracy(table),
            "sensitivity": sensitivity(table),
            "specificity": specificity(table),
            "brier": brier(reviewed.labels, probabilities, **given),
            "ece": ece(reviewed.labels, probabilities, **given),
        }

    return jackknife(statistic, design_of(reviewed.labels, codes), cells=len(codes))


def _figures(
    adapted: Adapted, reviewed: Reviewed, old: Manifest, points: dict[str, float]
) -> tuple[SubjectFigures, ...]:
    """Count the cells that each operating point calls positive, per subject, out of fold."""
    if not old.positive or not reviewed.by_subject:
        return ()
    names, scores, figures = np.array(reviewed.names), adapted.out_of_fold[:, 1], []
    for name in dict.fromkeys(reviewed.names):
        here = names == name
        labels = set(reviewed.labels[here].tolist())
        if len(labels) == 1:
            called = {point: int((scores[here] >= points[point]).sum()) for point in OPERATING_POINTS}
            label = old.classes[labels.pop()]
            figures.append(SubjectFigures(group=name, label=label, cells=int(here.sum()), called=called))
    return tuple(figures)


def _metrics(bundle: Bundle, adapted: Adapted, reviewed: Reviewed) -> RecordedMetrics:
    result = adapted.result
    counts = np.bincount(reviewed.labels, minlength=len(bundle.manifest.classes))
    per_class = {name: int(count) for name, count in zip(bundle.manifest.classes, counts, strict=True)}
    groups = len(set(reviewed.names))
    text = f"Adapted from {bundle.manifest.name} with {len(reviewed.labels)} reviewed cells. {result['verdict']}"
    return {
        "verdict": {"text": text, "beats_baseline": adapted.better, "one_class": False},
        "data": {"cells": len(reviewed.labels), "subjects": groups, "groups": groups, "per_class": per_class},
        "split": {"scheme": "reviewed cells", "folds": _FOLDS, "leaky": not reviewed.by_subject, "hash": ""},
        "estimators": {"model": result["new"]},
        "before": result["old"],
        "differences": result["differences"],
        "notes": [result["note"]] if result["note"] else [],
    }


def rule_of(out_of_fold: Floats, reviewed: Reviewed, *, alpha: float) -> ConformalRule:
    """Return the conformal rule of new heads, from out-of-fold probabilities (cells, classes).

    A guarantee for new subjects needs enough of them; with fewer it holds for new cells of these subjects only.
    """
    per_class = [len(set(np.array(reviewed.names)[reviewed.labels == label])) for label in np.unique(reviewed.labels)]
    enough = reviewed.by_subject and min(per_class) >= 1 / alpha - 1
    groups = reviewed.groups if enough else np.arange(len(reviewed.labels))
    return fit_conformal(out_of_fold, reviewed.labels, groups, alpha=alpha, unit="subject" if enough else "cell")


def _wider(old: QualityLimits, reviewed: Reviewed) -> QualityLimits:
    """Return limits of quality widened to the range of this laboratory's images."""
    new, ranges = fit_quality(reviewed.traits), {}
    for name in ("side", "detail", "contrast"):
        (low, _, high), (new_low, middle, new_high) = old.range_of(name), new.range_of(name)
        ranges[name] = [min(low, new_low), middle, max(high, new_high)]
    return QualityLimits.model_validate(old.model_dump() | ranges)


def refuse_existing(folder: Path) -> None:
    """Refuse to overwrite a folder.

    Raises:
        UsageError: it exists already.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already. Choose another folder; no bundle is ever overwritten.")
