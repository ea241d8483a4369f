"""From cells to subjects: how many were counted, and how many of them are blasts."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .bundle import Manifest
from .opinion import REFUSED, UNSURE, Opinion
from .prevalence import accuracy_of


@dataclass
class Count:
    """Cells of one subject, or of all."""

    cells: int = 0
    answered: int = 0
    """All that were not refused."""
    called: int = 0
    """Cells that the operating point calls the disease, unsure ones too: so sensitivity was measured."""
    decided: int = 0
    """Of the called: those that are not left to a person."""
    unsure: int = 0
    refused: int = 0
    unreadable: int = 0
    """Of the refused: files that cannot be used as images."""

    def add(self, opinion: Opinion, *, positive: str) -> None:
        """Count one more cell."""
        self.cells += 1
        self.answered += opinion.decision != REFUSED
        self.called += bool(positive) and opinion.called == positive
        self.decided += bool(positive) and opinion.decision == positive
        self.unsure += opinion.decision == UNSURE
        self.refused += opinion.decision == REFUSED
        self.unreadable += not opinion.readable


class Tally:
    """Counts of all cells, of every decision, and of every subject, kept while opinions stream by."""

    def __init__(self, manifest: Manifest, *, point: str) -> None:
        self.all = Count()
        self.decisions: dict[str, int] = dict.fromkeys((*manifest.classes, UNSURE, REFUSED), 0)
        self.subjects: dict[str, Count] = {}
        self._manifest, self._point = manifest, point

    def add(self, opinion: Opinion, *, subject: str = "") -> None:
        """Count one opinion; cells without a subject count only among all."""
        self.decisions[opinion.decision] += 1
        self.all.add(opinion, positive=self._manifest.positive)
        if subject:
            self.subjects.setdefault(subject, Count()).add(opinion, positive=self._manifest.positive)

    def summaries(self, *, seed: int = 0) -> list[dict[str, Any]]:
        """Return one row per subject: counts, and `share` of the disease with value, low and high.

        The share is corrected for sensitivity and specificity; it is missing where the bundle has more than two
        classes or was tested on fewer than two subject groups of a class.
        """
        rng = np.random.default_rng(seed)
        accuracy = accuracy_of(self._manifest, self._point, seed=seed) if self.subjects else None
        rows = []
        for subject, count in self.subjects.items():
            row = {"subject": subject} | asdict(count)
            if accuracy:
                row["share"] = accuracy.share(count.called, cells=count.answered, rng=rng)
            rows.append(row)
        return rows
