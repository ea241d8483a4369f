"""Linked subjects are joined into groups first; then whole groups are split into train, validation and test."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ..config import Split
from ..errors import SplitError
from ..files import fingerprint, read_json, write_json
from .cells import Cell, cells_fingerprint, classes_of, natural
from .release import SHARED_CELLS, SHARED_FILES, SOURCE


def subject_groups(cells: Sequence[Cell], *, linked: Iterable[tuple[str, str]] = ()) -> dict[str, tuple[str, ...]]:
    """Join subjects that share byte-identical images; return {group: its subjects}, such as {'20+21': ('20', '21')}.

    Subjects of C-NMC that are known to share images are joined even where those images are not at hand.

    Args:
        cells: all images, unlabelled ones too.
        linked: further pairs of subjects to join, such as those that the audit found to share near duplicates.
    """
    subjects = sorted({cell.subject for cell in cells}, key=natural)
    return joined(subjects, [*sharing_bytes(cells), *_known_links(cells), *linked])


def joined(subjects: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return {group: its subjects}, where the subjects of every pair are in one group."""
    number = {subject: i for i, subject in enumerate(subjects)}
    links = [(number[a], number[b]) for a, b in pairs if a and b]  # an unknown subject joins nobody
    first, second = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(subjects), len(subjects)))
    _, component = connected_components(graph, directed=False)
    members: dict[int, list[str]] = defaultdict(list)
    for subject, group in zip(subjects, component, strict=True):
        members[int(group)].append(subject)
    glue = next(sign for sign in ("+", "&", "|", "\x1f") if not any(sign in subject for subject in subjects))
    return {glue.join(group): tuple(group) for group in members.values()}


def group_of_subject(groups: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Turn {group: subjects} around into {subject: group}."""
    return {subject: group for group, subjects in groups.items() for subject in subjects}


def sharing_bytes(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Return pairs of subjects that have a file with the same bytes."""
    first: dict[str, str] = {}
    return [(first.setdefault(cell.sha256, cell.subject), cell.subject) for cell in cells if cell.subject]


def _known_links(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    present = {cell.subject for cell in cells if cell.source == SOURCE}
    known = [[subject for subject in group if subject in present] for group in SHARED_FILES + SHARED_CELLS]
    return [pair for group in known for pair in pairwise(group)]


SETS = ("train", "validation", "test")
_AGAIN = "Run leukoscope data split again."


@dataclass(frozen=True)
class Fold:
    """Names of the units (subject groups; images when leaky) in each set."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Excluded:
    """Cells that take no part: those of a group that is in a part learned from and in one tested on."""

    group: str
    part: str
    cells: int
    reason: str


@dataclass(frozen=True)
class SplitPlan:
    """Which unit is in which set of which fold."""

    scheme: str
    seed: int
    leaky: bool
    classes: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    folds: tuple[Fold, ...]
    excluded: tuple[Excluded, ...]
    cells: str
    """Fingerprint of the table this plan was made for."""

    @property
    def unit(self) -> str:
        return "image" if self.leaky else "subject group"

    @property
    def hash(self) -> str:
        """SHA-256 of everything above."""
        return fingerprint(asdict(self))

    def group_of(self, cell: Cell) -> str:
        """Return the name of the subject group of a cell."""
        return group_of_subject(self.groups)[cell.subject]

    def sets(self, cells: Sequence[Cell], *, fold: int) -> NDArray[np.str_]:
        """Return 'train', 'validation', 'test' or 'excluded' for each cell, (cells,)."""
        chosen = self.folds[fold]
        place = {unit: name for name in SETS for unit in getattr(chosen, name)}
        left_out = {(row.group, row.part) for row in self.excluded}
        group = group_of_subject(self.groups)

        def set_of(cell: Cell) -> str:
            if not cell.label or (group[cell.subject], cell.part) in left_out:
                return "excluded"
            return place.get(cell.name if self.leaky else group[cell.subject], "excluded")

        return np.array([set_of(cell) for cell in cells], dtype="<U10")


def make_split(
    cells: Sequence[Cell], settings: Split, *, seed: int, positive: str = "", linked: Sequence[tuple[str, str]] = ()
) -> SplitPlan:
    """Plan which subjects to train, tune and test on.

    Args:
        cells: the table; unlabelled cells take no part.
        settings: scheme and sizes.
        seed: decides which subjects go where.
        positive: the disease class, see `classes_of`.
        linked: pairs of subjects to join besides those that share bytes.

    Raises:
        SplitError: there are too few subjects or classes, or a part does not exist.
    """
    groups = subject_groups(cells, linked=linked)
    labelled = [cell for cell in cells if cell.label]
    classes = classes_of(labelled, positive)
    _check_enough(labelled, classes)
    table = _Units(labelled, group_of_subject(groups), leaky=settings.leaky, seed=seed)
    folds, excluded = _SCHEMES[settings.scheme](table, settings)
    plan = SplitPlan(
        settings.scheme, seed, settings.leaky, classes, groups, tuple(folds), tuple(excluded), cells_fingerprint(cells)
    )
    _verify(plan, cells, where="The split")
    return plan


def write_split(path: Path, plan: SplitPlan) -> None:
    """Write split.json with its hash."""
    write_json(path, {"format": 1, "unit": plan.unit, "hash": plan.hash, **asdict(plan)})


def read_split(path: Path, cells: Sequence[Cell]) -> SplitPlan:
    """Read split.json and verify that it fits these cells and does not leak.

    Raises:
        SplitError: it was changed by hand, made for other cells, or has one subject group in two sets.
    """
    table = read_json(path)
    try:
        plan = SplitPlan(
            **{name: table[name] for name in ("scheme", "seed", "leaky", "cells")},
            classes=tuple(table["classes"]),
            groups={name: tuple(subjects) for name, subjects in table["groups"].items()},
            folds=tuple(Fold(**{name: tuple(fold[name]) for name in SETS}) for fold in table["folds"]),
            excluded=tuple(Excluded(**row) for row in table["excluded"]),
        )
    except (KeyError, TypeError, AttributeError) as damaged:
        raise SplitError(f"{path} is not a split ({damaged}). {_AGAIN}") from None
    _verify(plan, cells, where=path.name)
    if plan.cells != cells_fingerprint(cells):
        raise SplitError(f"{path} was made for another table of cells. {_AGAIN}")
    if plan.hash != table.get("hash"):
        raise SplitError(f"{path} was changed after it was made: its hash does not fit. {_AGAIN}")
    return plan


class _Units:
    """Labelled cells as arrays for scikit-learn's splitters."""

    def __init__(self, cells: Sequence[Cell], group: dict[str, str], *, leaky: bool, seed: int) -> None:
        self.labels = np.array([cell.label for cell in cells])
        self.parts = np.array([cell.part for cell in cells])
        self.groups = np.array([group[cell.subject] for cell in cells])
        self.units = np.array([cell.name for cell in cells]) if leaky else self.groups
        self.everything = np.arange(len(cells))
        self.leaky = leaky
        self.seed = seed

    def names(self, rows: NDArray[Any]) -> tuple[str, ...]:
        return tuple(sorted({str(unit) for unit in self.units[rows]}, key=natural))

    def chunks(self, rows: NDArray[Any], count: int, *, again: int = 0) -> list[NDArray[Any]]:
        """Cut rows into `count` chunks of like class balance that share no unit; `again` shuffles differently."""
        self._enough_groups(rows, count)
        kind = StratifiedKFold if self.leaky else StratifiedGroupKFold
        splitter = kind(count, shuffle=True, random_state=self.seed + 1000 * again)
        groups = None if self.leaky else self.groups[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class with fewer cells than chunks: hold_back judges
            return [rows[test] for _, test in splitter.split(rows, self.labels[rows], groups)]

    def hold_back(self, rows: NDArray[Any], share: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return (kept, held back); both hold every class, and about `share` of the rows is held back.

        Of several shuffles, the chunk in which the rarest class comes from the most subjects is taken: a threshold
        tuned on one patient would be that patient's.
        """
        count = max(2, min(round(1 / share), self._most_chunks(rows)))
        offered = [chunk for again in range(5) for chunk in self.chunks(rows, count, again=again)]
        held = max(offered, key=lambda chunk: (self._fewest_units(chunk), -abs(len(chunk) / len(rows) - share)))
        kept = np.setdiff1d(rows, held)
        if self._fewest_units(held) and self._fewest_units(kept):
            return kept, held
        raise SplitError(
            "No validation set with every class can be held back: too few subjects have the rarest class "
            f"({self._rarest(rows)}). Add subjects, or set split.validation higher."
        )

    def fold(self, train: NDArray[Any], test: NDArray[Any], share: float) -> Fold:
        kept, held = self.hold_back(train, share)
        return Fold(self.names(kept), self.names(held), self.names(test))

    def _enough_groups(self, rows: NDArray[Any], count: int) -> None:
        most = self._most_chunks(rows)
        if most < count:
            groups = "" if self.leaky else f" of {len(set(self.groups[rows]))} subject groups"
            cure = f"Set split.folds to {most} or fewer." if most > 1 else "Add subjects."
            raise SplitError(f"{len(rows)} images{groups} cannot be cut into {count} folds. {cure}")

    def _most_chunks(self, rows: NDArray[Any]) -> int:
        """Return into how many chunks rows can be cut: none without a unit, and some class has a cell for each."""
        return min(len(set(self.units[rows])), max(Counter(self.labels[rows].tolist()).values()))

    def _units_per_class(self, rows: NDArray[Any]) -> dict[str, int]:
        return {str(label): len(set(self.units[rows[self.labels[rows] == label]])) for label in set(self.labels)}

    def _fewest_units(self, rows: NDArray[Any]) -> int:
        return min(self._units_per_class(rows).values())

    def _rarest(self, rows: NDArray[Any]) -> str:
        label, units = min(self._units_per_class(rows).items(), key=lambda item: item[1])
        return f"{label}: {units}"


Planned = tuple[list[Fold], list[Excluded]]


def _kfold(table: _Units, settings: Split) -> Planned:
    tests = table.chunks(table.everything, settings.folds)
    return [table.fold(np.setdiff1d(table.everything, test), test, settings.validation) for test in tests], []


def _holdout(table: _Units, settings: Split) -> Planned:
    train, test = table.hold_back(table.everything, settings.test)
    return [table.fold(train, test, settings.validation)], []


def _parts(table: _Units, settings: Split) -> Planned:
    _check_parts(table, settings)
    tested = np.isin(table.parts, settings.test_parts)
    offered = np.isin(table.parts, settings.train_parts) if settings.train_parts else ~tested
    # A group that is on both sides gives up the side on which it has fewer cells.
    training, test = (Counter(table.units[side].tolist()) for side in (offered, tested))
    double = [unit for unit in training if unit in test]
    keeps_test = np.isin(table.units, [unit for unit in double if test[unit] >= training[unit]])
    keeps_train = np.isin(table.units, [unit for unit in double if test[unit] < training[unit]])
    dropped = (offered & keeps_test) | (tested & keeps_train)
    fold = table.fold(np.flatnonzero(offered & ~dropped), np.flatnonzero(tested & ~dropped), settings.validation)
    pairs = Counter(zip(table.groups[dropped].tolist(), table.parts[dropped].tolist(), strict=True))
    reason = "the same subjects are on the other side with more cells"
    return [fold], [Excluded(group, part, count, reason) for (group, part), count in sorted(pairs.items())]


_SCHEMES: dict[str, Callable[[_Units, Split], Planned]] = {"kfold": _kfold, "holdout": _holdout, "parts": _parts}


def _check_parts(table: _Units, settings: Split) -> None:
    known = sorted(set(table.parts))
    for part in (*settings.train_parts, *settings.test_parts):
        if part not in known:
            raise SplitError(f"There is no labelled cell in part '{part}'. Parts: {', '.join(filter(None, known))}.")
    both = set(settings.train_parts) & set(settings.test_parts)
    if both:
        raise SplitError(f"Part {', '.join(sorted(both))} is in train_parts and in test_parts. Choose one.")


def _check_enough(labelled: Sequence[Cell], classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        seen = f"only the class '{classes[0]}'" if classes else "no label at all"
        raise SplitError(f"The cells have {seen}; a classifier needs two. Index a folder that has both classes.")
    if len({cell.subject for cell in labelled}) < 3:
        raise SplitError(
            "Cells of one or two subjects cannot be split into train, validation and test without sharing a patient. "
            "Add subjects, or state where the subject is named: leukoscope data index --subject-pattern."
        )


def _verify(plan: SplitPlan, cells: Sequence[Cell], *, where: str) -> None:
    """Raise SplitError where a unit, a subject or shared bytes are in two sets of one fold."""
    known = group_of_subject(plan.groups)
    strangers = sorted({cell.subject for cell in cells} - set(known), key=natural)
    if strangers:
        raise SplitError(f"{where} does not know subject {', '.join(strangers[:5])}. {_AGAIN}")
    for number, fold in enumerate(plan.folds):
        _refuse_double(fold, number, where=where, unit=plan.unit)
        if not plan.leaky:
            _refuse_shared_bytes(plan, cells, number, where=where)


def _refuse_double(fold: Fold, number: int, *, where: str, unit: str) -> None:
    place: dict[str, str] = {}
    for name in SETS:
        for member in getattr(fold, name):
            if place.setdefault(member, name) != name:
                raise SplitError(
                    f"{unit.capitalize()} {member} is in {place[member]} and {name} of {where}, fold {number}. {_AGAIN}"
                )


def _refuse_shared_bytes(plan: SplitPlan, cells: Sequence[Cell], number: int, *, where: str) -> None:
    first: dict[str, tuple[str, str]] = {}
    for cell, name in zip(cells, plan.sets(cells, fold=number), strict=True):
        if name == "excluded":
            continue
        other, place = first.setdefault(cell.sha256, (cell.subject, str(name)))
        if place != name:
            raise SplitError(
                f"Subject {other} is in {place} and subject {cell.subject} in {name} of {where}, fold {number}, "
                f"and they share a byte-identical image. {_AGAIN}"
            )
