"""A bundle for another laboratory: a new head on the same network, fitted to a few dozen cells that its people read.

The head starts from the old one: it may turn the old answer up, down or round, and lean on single channels of the
embedding as far as the cells bear it out. Nothing is measured on cells that the measured head has learned from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
_STRENGTHS = (0.0003, 0.003, 0.03, 0.3)  # how far the head may leave the old one: scikit-learn's C
_TRUST = 30.0  # how much cheaper it is to scale the old answer than to lean on a channel
METRICS = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "brier", "ece")


@dataclass(frozen=True)
class Reviewed:
    """Reviewed cells as the networks of a bundle see them."""

    labels: Ints
    groups: Ints
    """Code of the subject; of the cell itself where nearly all cells are of one subject."""
    by_subject: bool
    names: tuple[str, ...]
    """Subject of each cell."""
    embeddings: tuple[NDArray[np.float32], ...]
    """(cells, views, channels) of each member: of every view that the bundle averages."""
    old: Floats
    """(cells, classes): calibrated probabilities of the bundle as it is."""
    traits: tuple[Any, ...]
    refused: tuple[str, ...] = ()
    """One sentence for each image that could not be used; its cell is left out."""
    kept: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(cells,): place of each among the labelled cells that were given."""


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


@dataclass(frozen=True)
class Adapted:
    """New heads of every member, and how they did on subjects that they had not learned from."""

    heads: tuple[Head, ...]
    unseen: Floats
    """(cells, classes): calibrated probabilities of each cell by heads that had not seen its subject."""
    result: dict[str, Any]

    @property
    def better(self) -> bool:
        """Whether the squared error of the probabilities is smaller by more than chance."""
        return bool(self.result["better"])


def adapt(bundle: Bundle, cells: Sequence[Cell], *, seed: int = 0) -> tuple[Adapted, Reviewed]:
    """Fit new heads to reviewed cells and compare them with the old ones.

    Raises:
        DataError: there are too few cells of a class, or cells of classes that the bundle does not know.
    """
    seen = look(bundle, cells)
    heads, unseen = fit_heads(heads_of(bundle), seen, seed=seed)
    return Adapted(heads, unseen, compare(bundle.manifest, seen, unseen, seed=seed)), seen


def fit_heads(members: Sequence[Head], seen: Reviewed, *, seed: int) -> tuple[tuple[Head, ...], Floats]:
    """Return new heads, and calibrated probabilities (cells, classes) of each cell by heads that had not seen it.

    Raises:
        DataError: one subject has nearly all cells of a class.
    """
    everything = np.ones(len(seen.labels), dtype=bool)
    unseen = predict_unseen(members, seen, everything, seed=seed)
    return tuple(_fit(seen, member, number, everything, seed=seed) for number, member in enumerate(members)), unseen


def predict_unseen(members: Sequence[Head], seen: Reviewed, learned: NDArray[np.bool_], *, seed: int) -> Floats:
    """Return calibrated probabilities (cells, classes) of every cell by heads that had not seen its subject.

    learned: (cells,), which cells heads may learn from; the others are only answered.

    Raises:
        DataError: one subject has nearly all cells of a class.
    """
    unseen = np.zeros_like(seen.old)
    for train, test in _folds(seen, seed=seed):
        rows = train & learned
        if len(np.unique(seen.labels[rows])) < len(np.unique(seen.labels)):
            raise DataError("One subject has nearly all cells of a class. Read cells of more subjects.")
        fitted = [_fit(seen, member, number, rows, seed=seed) for number, member in enumerate(members)]
        answers = [head.probabilities(seen.embeddings[number][test]) for number, head in enumerate(fitted)]
        unseen[test] = np.mean(answers, axis=0)
    return unseen


def heads_of(bundle: Bundle) -> tuple[Head, ...]:
    """Return the heads that a bundle has.

    Raises:
        MissingExtraError: the extra `adapt` is not installed.
        BundleError: a network has no linear head.
    """
    members = bundle.manifest.members
    return tuple(Head(*read_head(bundle.read(each.graph)), temperature=each.temperature) for each in members)


def look(bundle: Bundle, cells: Sequence[Cell], *, looked: Callable[[], None] = lambda: None) -> Reviewed:
    """Read reviewed cells and let every member of a bundle embed them, as it does in prediction.

    looked: called, from any thread, for each cell that was looked at.

    Raises:
        DataError: there are too few cells of a class, or cells of classes that the bundle does not know.
    """
    classes, heads = bundle.manifest.classes, heads_of(bundle)
    labelled = [cell for cell in cells if cell.label]
    strange = sorted({cell.label for cell in labelled} - set(classes))
    if strange:
        raise DataError(
            f"The reviewed cells are called {', '.join(strange)}, the bundle knows {', '.join(classes)}. Rename them."
        )
    _check_counts(_labels_of(labelled, classes), classes)
    members = [_member(bundle, number) for number in range(len(heads))]

    def see(cell: Cell) -> tuple[list[NDArray[np.float32]], Any]:
        image = read_image(cell.path)
        return [_embedded(image, member) for member in members], traits_of(image)

    def seen_or_not(cell: Cell) -> tuple[list[NDArray[np.float32]], Any] | ImageError:
        try:
            return usable(lambda: see(cell), name=str(cell.path))
        except ImageError as unusable:
            return unusable
        finally:
            looked()

    answers = list(track(in_parallel(seen_or_not, labelled), "Looking at cells", total=len(labelled)))
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
    probabilities = [head.probabilities(seen) for head, seen in zip(heads, embeddings, strict=True)]
    old = np.mean(probabilities, axis=0)
    traits = tuple(each[1] for each in found)
    return Reviewed(labels, groups, by_subject, subjects, embeddings, old, traits, refused, kept)


def _labels_of(cells: Sequence[Cell], classes: Sequence[str]) -> Ints:
    return np.array([classes.index(cell.label) for cell in cells], dtype=np.int64)


def write(bundle: Bundle, folder: Path, adapted: Adapted, seen: Reviewed, *, name: str = "") -> Bundle:
    """Write the bundle with its new heads, calibration and figures to a new folder; the old one stays as it is.

    name: of the new bundle; by default that of the old one with "adapted".
    """
    old, files = bundle.manifest, {name: bundle.read(name) for name in bundle.manifest.files}
    members = []
    for member, head in zip(old.members, adapted.heads, strict=True):
        files[member.graph] = with_head(files[member.graph], head.weight, head.bias)
        if member.weights:
            del files[member.weights]  # its head is the old one; training goes on from the bundle that was adapted
        members.append(member.model_copy(update={"temperature": head.temperature, "weights": ""}))
    points = fit_thresholds(seen.labels, adapted.unseen[:, 1]) if old.positive else {}
    changes = {
        "name": name or f"{old.name}, adapted",
        "members": tuple(members),
        "operating_points": points,
        "subjects": _figures(adapted, seen, old, points),
        "metrics": _metrics(bundle, adapted, seen),
        "training": {
            "adapted_from": old.seal,
            "cells": len(seen.labels),
            "made": made(seed=adapted.result["seed"]),
            "before": old.training,
        },
        "conformal": rule_of(adapted.unseen, seen, alpha=old.conformal.alpha) if old.conformal else None,
        "quality": _wider(old.quality, seen) if old.quality else None,
        "files": {},
        "seal": "",
    }
    manifest = Manifest.model_validate(old.model_dump() | changes)
    return write_bundle(folder, manifest, files=files | {CARD: card(manifest).encode()})


def _member(bundle: Bundle, number: int) -> Ensemble:
    one = bundle.manifest.model_copy(update={"members": (bundle.manifest.members[number],)})
    return Ensemble(replace(bundle, manifest=one))


def _embedded(image: RGB, member: Ensemble) -> NDArray[np.float32]:
    """Return the embedding of every view (views, channels) of an image."""
    crop = prepare_crop(image, member.preparations[0])
    return member.embed(np.stack([turn(crop, view, axes=(0, 1)) for view in VIEWS[member.manifest.views]]))


def _check_counts(labels: Ints, classes: Sequence[str]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < FEWEST:
        rarest = classes[int(counts.argmin())]
        raise DataError(
            f"There are {counts.min()} reviewed cells of {rarest}; {FEWEST} of each class are needed at least. "
            "Read some more."
        )


def held_out_by(subjects: Sequence[str], labels: Ints) -> tuple[Ints, bool]:
    """Return what is held out as one: subjects, or single cells where a class has too few of them."""
    names, codes = np.unique(np.array(subjects), return_inverse=True)
    fewest = min(len(set(codes[labels == label].tolist())) for label in np.unique(labels))
    if fewest < 2 or len(names) < 4:
        return np.arange(len(labels), dtype=np.int64), False
    return codes.astype(np.int64), True


def _folds(seen: Reviewed, *, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return (training, test) masks in which every group is tested once; training always has every class."""
    count = min(_FOLDS, len(np.unique(seen.groups)))
    split = GroupKFold(count, shuffle=True, random_state=seed)
    folds = []
    for _, rows in split.split(seen.labels, groups=seen.groups):
        test = np.zeros(len(seen.labels), dtype=bool)
        test[rows] = True
        if len(np.unique(seen.labels[~test])) < len(np.unique(seen.labels)):
            raise DataError("One subject has nearly all cells of a class. Read cells of more subjects.")
        folds.append((~test, test))
    return folds


def _fit(seen: Reviewed, old: Head, number: int, rows: NDArray[np.bool_], *, seed: int) -> Head:
    """Fit a head to some cells: strength and temperature come from cells that the fitted part had not seen."""
    part = Reviewed(
        seen.labels[rows], seen.groups[rows], seen.by_subject, (), (seen.embeddings[number][rows],), seen.old[rows], ()
    )
    best: tuple[float, float, float] | None = None
    for strength in _STRENGTHS:
        unseen = np.zeros((len(part.labels), seen.old.shape[1]))
        for train, test in _inner(part, seed=seed):
            head = _solve(part.embeddings[0][train], part.labels[train], old, strength)
            unseen[test] = head.raw(part.embeddings[0][test])
        temperature = float(np.clip(fit_temperature(part.labels, unseen), 0.5, 20))
        loss = log_loss(part.labels, temper(unseen, temperature))
        if best is None or loss < best[0]:
            best = (loss, strength, temperature)
    assert best is not None
    return replace(_solve(part.embeddings[0], part.labels, old, best[1]), temperature=best[2])


def _inner(part: Reviewed, *, seed: int) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    try:
        return _folds(part, seed=seed)
    except (DataError, ValueError):  # too few subjects are left inside: single cells are held out instead
        return _folds(replace(part, groups=np.arange(len(part.labels))), seed=seed)


def _solve(embeddings: NDArray[Any], labels: Ints, old: Head, strength: float) -> Head:
    """Return the head of a logistic regression on the old scores and the standardised channels.

    embeddings: (cells, views, channels).
    """
    points = np.asarray(embeddings, np.float64).mean(axis=1)  # over the views
    middle, spread = points.mean(0), points.std(0) + 1e-6
    scores = points @ old.weight.T + old.bias
    scale = _TRUST / (scores.std(0) + 1e-6)
    design = np.concatenate([scores * scale, (points - middle) / spread], axis=1)
    fitted = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced").fit(design, labels)
    outputs = old.weight.shape[0]
    trusted, leaned = fitted.coef_[:, :outputs] * scale, fitted.coef_[:, outputs:] / spread
    weight = trusted @ old.weight + leaned
    bias = fitted.intercept_ + trusted @ old.bias - leaned @ middle
    return Head(weight, bias)


def compare(old: Manifest, seen: Reviewed, unseen: Floats, *, seed: int) -> dict[str, Any]:
    """Return old, new and difference of every figure with intervals, and a verdict in words.

    old: of the bundle whose answers `seen.old` holds. unseen: (cells, classes), of heads that had not seen the cells.
    """
    sampled = _sampled(old, seen, unseen)
    difference = {name: sampled.difference(f"new.{name}", f"old.{name}") for name in METRICS}
    error = difference["brier"]
    better = error["high"] is not None and error["high"] < 0
    worse = error["low"] is not None and error["low"] > 0
    words = "better" if better else "worse" if worse else "not shown to be better"
    unit = "subject" if seen.by_subject else "cell"
    return {
        "cells": len(seen.labels),
        "subjects": len(set(seen.names)),
        "unit": unit,
        "seed": seed,
        "old": {name: sampled.interval(f"old.{name}") for name in METRICS},
        "new": {name: sampled.interval(f"new.{name}") for name in METRICS},
        "differences": difference,
        "better": better,
        "verdict": f"The adapted bundle is {words}.",
        "note": "" if seen.by_subject else _ONE_SUBJECT,
    }


_ONE_SUBJECT = (
    "Too few subjects: cells were held out one by one, so the figures hold for more cells of these subjects only."
)


def _sampled(manifest: Manifest, seen: Reviewed, unseen: Floats) -> Jackknife:
    codes = np.unique(seen.groups, return_inverse=True)[1].astype(np.int64)
    edges = {"old": manifest.operating_points.get("balanced"), "new": None}
    edges["new"] = None if edges["old"] is None else 0.5  # fixed beforehand, not chosen on these cells
    answers = {"old": seen.old, "new": unseen}

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, chances in answers.items():
            values |= {f"{name}.{key}": value for key, value in _measured(chances, edges[name], weights).items()}
        return values

    def _measured(chances: Floats, edge: float | None, weights: Floats) -> Statistics:
        called = chances.argmax(1) if edge is None else (chances[:, 1] >= edge).astype(np.int64)
        given: dict[str, Any] = {"weights": weights, "groups": codes}
        table = confusion(seen.labels, called, classes=chances.shape[1], **given)
        return {
            **areas(seen.labels, chances, **given),
            "balanced_accuracy": balanced_accuracy(table),
            "sensitivity": sensitivity(table),
            "specificity": specificity(table),
            "brier": brier(seen.labels, chances, **given),
            "ece": ece(seen.labels, chances, **given),
        }

    return jackknife(statistic, design_of(seen.labels, codes), cells=len(codes))


def _figures(adapted: Adapted, seen: Reviewed, old: Manifest, points: dict[str, float]) -> tuple[SubjectFigures, ...]:
    """Count what each operating point calls the disease, per subject, by heads that had not seen it."""
    if not old.positive or not seen.by_subject:
        return ()
    names, scores, figures = np.array(seen.names), adapted.unseen[:, 1], []
    for name in dict.fromkeys(seen.names):
        here = names == name
        labels = set(seen.labels[here].tolist())
        if len(labels) == 1:
            called = {point: int((scores[here] >= points[point]).sum()) for point in OPERATING_POINTS}
            label = old.classes[labels.pop()]
            figures.append(SubjectFigures(group=name, label=label, cells=int(here.sum()), called=called))
    return tuple(figures)


def _metrics(bundle: Bundle, adapted: Adapted, seen: Reviewed) -> RecordedMetrics:
    result = adapted.result
    counts = np.bincount(seen.labels, minlength=len(bundle.manifest.classes))
    per_class = {name: int(count) for name, count in zip(bundle.manifest.classes, counts, strict=True)}
    groups = len(set(seen.names))
    text = f"Adapted from {bundle.manifest.name} with {len(seen.labels)} reviewed cells. {result['verdict']}"
    return {
        "verdict": {"text": text, "beats_baseline": adapted.better, "one_class": False},
        "data": {"cells": len(seen.labels), "subjects": groups, "groups": groups, "per_class": per_class},
        "split": {"scheme": "reviewed cells", "folds": _FOLDS, "leaky": not seen.by_subject, "hash": ""},
        "estimators": {"model": result["new"]},
        "before": result["old"],
        "differences": result["differences"],
        "notes": [result["note"]] if result["note"] else [],
    }


def rule_of(unseen: Floats, seen: Reviewed, *, alpha: float) -> ConformalRule:
    """Return when new heads are unsure, from their answers on cells they had not seen, (cells, classes).

    A guarantee for new subjects needs enough of them; with fewer it is one for new cells of these subjects.
    """
    per_class = [len(set(np.array(seen.names)[seen.labels == label])) for label in np.unique(seen.labels)]
    enough = seen.by_subject and min(per_class) >= 1 / alpha - 1
    groups = seen.groups if enough else np.arange(len(seen.labels))
    return fit_conformal(unseen, seen.labels, groups, alpha=alpha, unit="subject" if enough else "cell")


def _wider(old: QualityLimits, seen: Reviewed) -> QualityLimits:
    """Return limits of quality that let pass what this laboratory's images are like as well."""
    new, ranges = fit_quality(seen.traits), {}
    for name in ("side", "detail", "contrast"):
        (low, _, high), (new_low, middle, new_high) = old.range_of(name), new.range_of(name)
        ranges[name] = [min(low, new_low), middle, max(high, new_high)]
    return QualityLimits.model_validate(old.model_dump() | ranges)


def refuse_existing(folder: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UsageError: it exists already.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already. Choose another folder; no bundle is ever overwritten.")
