"""What a model promises, learnt where it is asked: on parts of the data that its networks have not seen.

Subjects of cross-validation are alike: their cells were prepared, stained and photographed in the same weeks. Those of
the next part are not, and a promise that was learnt in cross-validation breaks on it. So temperature, operating
points, the unsure band and the accuracy behind the share of blasts can be learnt from runs of the same settings that
leave whole parts out. Each part is then judged by networks that have seen nothing of it. Where the next part lies
beyond all parts seen so far, the promise can still break: so `promise` tells what it came to on each part in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest, SubjectFigures
from ..errors import DataError, UsageError
from ..evaluation.evaluate import gather
from ..evaluation.metrics import Floats, Ints
from ..evaluation.predictions import fit_temperature, fit_thresholds, temper
from .rejection import Fitted, fit_conformal, reached

TOLERANCE = 0.05
"""So much more of a class may be called another one in a single part than in all parts together."""
_MOST = 0.49  # of a class; more than half would be no promise
_FEWEST = 0.1  # share of all cells of a part that is judged by itself; smaller ones are judged together


@dataclass(frozen=True)
class LeftOut:
    """What networks said to the cells of parts that they had not learnt from; row i is always the same cell."""

    classes: tuple[str, ...]
    probabilities: Floats
    """(cells, classes), as the networks gave them."""
    labels: Ints
    groups: NDArray[np.str_]
    """Subject group of each cell."""
    parts: NDArray[np.str_]

    def pick(self, chosen: NDArray[np.bool_]) -> "LeftOut":
        """Return only these cells."""
        chances, labels = self.probabilities[chosen], self.labels[chosen]
        return LeftOut(self.classes, chances, labels, self.groups[chosen], self.parts[chosen])

    def tempered(self, temperature: float) -> "LeftOut":
        """Return the same with calibrated probabilities."""
        return LeftOut(self.classes, temper(self.probabilities, temperature), self.labels, self.groups, self.parts)


def read_left_out(runs: Sequence[Path]) -> LeftOut | None:
    """Return the answers to parts left out of some runs; None where no run left a part out.

    A part that several runs left out is judged by the one that learnt from most cells.

    Raises:
        UsageError: the runs tell different classes apart.
    """
    found = [gather(run) for run in runs]
    found = [each for each in found if each.plan.scheme == "parts" and not each.plan.leaky]
    if not found:
        return None
    if len({each.predictions.classes for each in found}) > 1:
        raise UsageError("These runs tell different classes apart. Give runs of the same settings to --also.")
    found.sort(key=lambda each: -sum(len(rows) for rows in each.train().values()))
    known: set[str] = set()
    columns: list[tuple[Any, ...]] = []
    for each in found:
        test = each.predictions.pick(each.predictions.test)
        new = ~np.isin(test.part, sorted(known))
        known |= set(test.part.tolist())
        columns.append((test.probabilities[new], test.label[new], test.group[new], test.part[new]))
    joined = (np.concatenate(column) for column in zip(*columns, strict=True))
    return LeftOut(found[0].predictions.classes, *joined)


def learnt_from(left_out: LeftOut, manifest: Manifest, *, alpha: float) -> dict[str, Any]:
    """Return the entries of bundle.json that hold what a bundle promises, learnt from parts left out.

    Temperature, operating points, the unsure band and the accuracy on subjects; the networks stay.

    Raises:
        UsageError: the bundle tells other classes apart.
        DataError: a class is missing, or there are too few cells.
    """
    if manifest.classes != left_out.classes:
        raise UsageError(
            f"The bundle tells {', '.join(manifest.classes)} apart, the runs {', '.join(left_out.classes)}. "
            "Give runs of the same settings to --also."
        )
    if len(set(left_out.labels.tolist())) < len(manifest.classes):
        raise DataError("The parts left out lack a class, so nothing can be promised from them. Leave out others.")
    temperature = fit_temperature(left_out.labels, left_out.probabilities)
    calibrated = left_out.tempered(temperature)
    thresholds = fit_thresholds(left_out.labels, calibrated.probabilities[:, 1]) if manifest.positive else {}
    rule = fit_rule(calibrated, alpha=alpha)
    return {
        "members": tuple(each.model_copy(update={"temperature": temperature}) for each in manifest.members),
        "operating_points": thresholds,
        "subjects": _figures(calibrated, thresholds) if thresholds else (),
        "conformal": rule | {"left_out": promise(left_out, alpha=alpha)},
    }


def fit_rule(calibrated: LeftOut, *, alpha: float) -> Fitted:
    """Return a conformal rule that keeps its promise for a new subject of all parts, and nearly in each of them.

    Of each class, the strictest of the rule of all parts together at alpha, and of those at alpha + TOLERANCE of each
    part that has subjects enough to promise anything: conformal prediction by class and part. The parts are few, and no
    rule covers the next one for sure; this one at least does not buy the decisions in one part with errors in another.
    Alpha itself in each part would be too strict: of seven subjects, the next one alone is an eighth.
    """
    pooled = fit_conformal(calibrated.probabilities, calibrated.labels, calibrated.groups, alpha=alpha)
    parts = [calibrated.pick(np.isin(calibrated.parts, names)) for names in judged_parts(calibrated.parts)]
    at_most = min(alpha + TOLERANCE, _MOST)
    rules = [fit_conformal(each.probabilities, each.labels, each.groups, alpha=at_most) for each in parts]
    strictest: list[float | None] = []
    for index, together in enumerate(pooled["smallest_plausible"]):
        alone = [each["smallest_plausible"][index] for each in rules]
        limits = [value for value in (together, *alone) if value is not None]
        strictest.append(None if together is None else min(limits))
    words = (
        f"{pooled['guarantee']} Learnt on parts that the networks had not seen, and held to at most {at_most:.0%} in "
        "each of them."
    )
    return pooled | {"smallest_plausible": strictest, "guarantee": words}


def promise(left_out: LeftOut, *, alpha: float) -> list[dict[str, Any]]:
    """Return, for each part, what a rule learnt on all other parts comes to on it.

    Keys: `part`, `asked` (alpha), and `classes`: what `rejection.reached` gives.
    """
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
        rows.append({"part": " + ".join(names), "asked": alpha, "classes": table})
    return rows


def judged_parts(parts: NDArray[np.str_]) -> list[list[str]]:
    """Return the parts that are judged: large ones by themselves, small ones together."""
    names, counts = np.unique(parts, return_counts=True)
    large = [[name] for name, count in zip(names.tolist(), counts, strict=True) if count >= _FEWEST * counts.sum()]
    small = [name for name in names.tolist() if [name] not in large]
    return [*large, small] if small else large


def _figures(calibrated: LeftOut, thresholds: dict[str, float]) -> tuple[SubjectFigures, ...]:
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
