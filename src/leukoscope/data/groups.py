"""Subjects that share an image are one person: joined before anything is split."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .cells import Cell, natural
from .cnmc import SHARED_CELLS, SHARED_FILES, SOURCE


def subject_groups(cells: Sequence[Cell], *, twins: Iterable[tuple[str, str]] = ()) -> dict[str, tuple[str, ...]]:
    """Join subjects that share byte-identical images; return {group: its subjects}, such as {'20+21': ('20', '21')}.

    Subjects of C-NMC that are known to share images are joined even where those images are not at hand.

    Args:
        cells: all images, unlabelled ones too.
        twins: further pairs of subjects to join, such as those that the audit found to share near duplicates.
    """
    subjects = sorted({cell.subject for cell in cells}, key=natural)
    return joined(subjects, [*sharing_bytes(cells), *_known_twins(cells), *twins])


def joined(subjects: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return {group: its subjects}, where the subjects of every pair stand in one group."""
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
    """Return pairs of subjects under which the same bytes stand."""
    first: dict[str, str] = {}
    return [(first.setdefault(cell.sha256, cell.subject), cell.subject) for cell in cells if cell.subject]


def _known_twins(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    present = {cell.subject for cell in cells if cell.source == SOURCE}
    known = [[subject for subject in group if subject in present] for group in SHARED_FILES + SHARED_CELLS]
    return [pair for group in known for pair in pairwise(group)]
