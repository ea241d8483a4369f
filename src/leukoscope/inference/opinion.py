"""The opinion on one cell, and its row in a table."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import NOT_ASKED, REFUSED, UNSURE, Manifest
from ..explanation import LEAST_PLACES, Heat
from ..images.read import RGB
from .prevalence import accuracy_of

if TYPE_CHECKING:
    from ..fields.cells import FieldCell

TITLES = {"all": "blast", "hem": "normal"}
"""What people call the classes of C-NMC 2019, whose "all" would be read as "everything"."""


@dataclass(frozen=True, slots=True, repr=False)
class Opinion:
    """What a bundle says about one cell."""

    name: str
    """Path of the file as it was given, or 'image 3' for the third array."""
    decision: str
    """A class, 'unsure', 'refused', or 'not asked' for a cell of a type to which the classes do not apply."""
    reason: str = ""
    """Why it is unsure, refused or not asked, in one sentence."""
    quality: float | None = None
    """How fit the image is to be judged, from 0 to 1; None where the bundle has no limits of quality."""
    probabilities: dict[str, float] | None = None
    """Calibrated probability of each class; None for an image that is refused or not asked about."""
    called: str = ""
    """The class by the operating point alone, also where the decision is 'unsure'; empty for a refused image."""
    readable: bool = True
    """False: the file or array cannot be used as an image at all."""
    map: NDArray[np.float32] | None = None
    """(classes, h, w): evidence for each class at each place of the crop, centred over the classes."""
    crop: RGB | None = None
    """(size, size, 3): what the first member saw; only where it was asked for."""
    embedding: NDArray[np.float32] | None = None
    """(channels,): the cell as the first member describes it; None for an image that is refused or not asked about."""
    subject: str = ""
    """Whose cell it is: the sub-folder or the column subject; empty where nobody said."""
    field: str = ""
    """Path or name of the smear field or slide in which the cell was found; empty for a cell that came cut out."""
    found: "FieldCell | None" = None
    """Where in its field the cell lies: number, box, outline, size; None for a cell that came cut out."""
    notes: tuple[str, ...] = ()
    """What was done to the values of the file to read it: depth, colour profile, orientation."""

    type: str = ""
    """Type of the cell (inference.cell_types), 'unsure', or 'smudge'; empty where none was told."""
    types: dict[str, float] | None = None
    """Calibrated probability of each type; None where no type was told."""

    def __repr__(self) -> str:
        chances = "".join(f", {name} {chance:.3f}" for name, chance in (self.probabilities or {}).items())
        reason = f": {self.reason}" if self.reason else ""
        kind = f"{self.type}, " if self.type else ""
        return f"<Opinion on {self.name}: {kind}{self.decision}{chances}{reason}>"

    def row(self, classes: Sequence[str], types: Sequence[str] = ()) -> dict[str, Any]:
        """Return it as a row of predictions.csv; what was not told is empty. `types`: those that the bundle tells."""
        chances, kinds = self.probabilities or {}, self.types or {}
        told = {"type": self.type} if types else {}
        return {
            "path": self.name,
            **told,
            **{f"prob_type_{name}": round(kinds[name], 6) if name in kinds else "" for name in types},
            **{f"prob_{name}": round(chances[name], 6) if name in chances else "" for name in classes},
            "decision": self.decision,
            "reason": self.reason,
            "quality": "" if self.quality is None else round(self.quality, 3),
        }


def review_priority(opinion: Opinion, *, positive: str, threshold: float) -> tuple[int, float]:
    """Return a sort key, what a person should look at first in front.

    Unsure, refused, called diseased (surest first), all others, cells that were not asked about.

    Unsure and other cells come in the order of how near they are to being called otherwise. A cell of which not even
    the type is sure is unsure as well.
    """
    if opinion.decision == NOT_ASKED:
        sure = max((opinion.types or {"": 1.0}).values())
        return (0, sure) if opinion.type == UNSURE else (4, sure)
    if opinion.probabilities is None:
        return 1, float(opinion.readable)
    chance = opinion.probabilities.get(positive, max(opinion.probabilities.values()))
    if opinion.decision == UNSURE:
        return 0, abs(chance - threshold)
    return (2, -chance) if opinion.decision == positive else (3, abs(chance - threshold))


def evidence_of(opinion: Opinion, manifest: Manifest) -> Heat | None:
    """Return what each place of the crop says (h, w): for the disease, or for the called class with more than two.

    None where the cell was not judged, or the network's map has fewer than LEAST_PLACES places along a side.
    """
    if opinion.map is None or not opinion.called or min(opinion.map.shape[1:]) < LEAST_PLACES:
        return None
    return np.asarray(opinion.map[manifest.classes.index(manifest.positive or opinion.called)], np.float32)


def full_evidence(manifest: Manifest) -> float:
    """Return the evidence of a map that is drawn as strong as tanh(1): see explanation.to_rgba."""
    return float(np.mean([member.temperature for member in manifest.members]))


def title_of(decision: str) -> str:
    """Return what people call a class; 'unsure', 'refused' and classes of other data are called as they are.

    >>> title_of("all"), title_of("Pre")
    ('blast', 'Pre')
    """
    return TITLES.get(decision, decision)


def worded(reason: str) -> str:
    """Return a reason with the classes as people call them.

    >>> worded("Both hem and all are plausible."), worded("Empty: the image is all black.")
    ('Both normal and blast are plausible.', 'Empty: the image is all black.')
    """
    if "plausible" not in reason and not reason.startswith("Not typical of"):
        return reason
    return re.sub(r"\b(hem|all)\b", lambda found: TITLES[found[1]], reason)


def columns_of(classes: Sequence[str], *, subject: bool = False, types: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns of predictions.csv, with or without one for the subject; `types`: those the bundle tells.

    >>> columns_of(("hem", "all"))
    ('path', 'prob_hem', 'prob_all', 'decision', 'reason', 'quality')
    """
    first: tuple[str, ...] = ("path", "subject") if subject else ("path",)
    first += ("type", *(f"prob_type_{name}" for name in types)) if types else ()
    return (*first, *(f"prob_{name}" for name in classes), "decision", "reason", "quality")


@dataclass
class Count:
    """Cells of one subject, or of all."""

    cells: int = 0
    answered: int = 0
    """All that were neither refused nor left unasked."""
    above: int = 0
    """Cells at or above the operating point, unsure ones too: so sensitivity was measured."""
    called: int = 0
    """Cells whose decision is the disease: those of them that are not left to a person."""
    unsure: int = 0
    refused: int = 0
    unreadable: int = 0
    """Of the refused: files that cannot be used as images."""
    not_asked: int = 0
    """Cells of types to which the classes do not apply, or of which the type is unsure."""

    @property
    def readable(self) -> int:
        """Cells without the files that cannot be used as images, of which nobody knows what they show."""
        return self.cells - self.unreadable

    def add(self, opinion: Opinion, *, positive: str) -> None:
        """Count one more cell."""
        self.cells += 1
        self.answered += opinion.decision not in (REFUSED, NOT_ASKED)
        self.above += bool(positive) and opinion.called == positive
        self.called += bool(positive) and opinion.decision == positive
        self.unsure += opinion.decision == UNSURE
        self.refused += opinion.decision == REFUSED
        self.unreadable += not opinion.readable
        self.not_asked += opinion.decision == NOT_ASKED


def decisions_of(manifest: Manifest) -> tuple[str, ...]:
    """Return every decision that a bundle may come to."""
    return (*manifest.classes, UNSURE, REFUSED, *([NOT_ASKED] if manifest.types else []))


class Tally:
    """Counts of all cells, of every decision, and of every subject, kept while opinions stream by."""

    def __init__(self, manifest: Manifest, *, point: str) -> None:
        self.all = Count()
        self.decisions: dict[str, int] = dict.fromkeys(decisions_of(manifest), 0)
        self.subjects: dict[str, Count] = {}
        self._manifest, self._point = manifest, point

    def add(self, opinion: Opinion, *, subject: str = "") -> None:
        """Count one opinion; cells without a subject count only among all."""
        self.decisions[opinion.decision] += 1
        self.all.add(opinion, positive=self._manifest.positive)
        if subject:
            self.subjects.setdefault(subject, Count()).add(opinion, positive=self._manifest.positive)

    def without_subject(self) -> int:
        """Return the cells that belong to no subject."""
        return self.all.readable - sum(count.readable for count in self.subjects.values())

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
                row["share"] = accuracy.share(count.above, cells=count.answered, rng=rng)
            rows.append(row)
        return rows


Colour = tuple[int, int, int]

# Dark enough for thin lines on a bright field; apart also for the colour-blind, as lightness differs too.
DISEASE: Colour = (190, 30, 45)
UNDECIDED: Colour = (205, 105, 0)
NOT_JUDGED_COLOUR: Colour = (110, 110, 110)
OTHERS: tuple[Colour, ...] = ((0, 90, 170), (0, 125, 85), (120, 60, 150), (90, 80, 20))  # further classes in turn


TYPE_COLOURS: dict[str, Colour] = {
    "neutrophil": (0, 90, 170),
    "eosinophil": (190, 25, 140),
    "basophil": (75, 50, 150),
    "monocyte": (0, 125, 125),
    "lymphoid": (120, 60, 150),
    "immature granulocyte": (50, 115, 20),
    "erythroblast": (150, 75, 40),
    "platelet": (125, 115, 20),
    "other": (90, 90, 90),
    "smudge": (110, 110, 110),
    UNSURE: UNDECIDED,
}


def class_of(opinion: Opinion) -> str:
    """Return what a cell is shown as: what was decided, or the type of a cell that was not asked about."""
    return opinion.type if opinion.decision == NOT_ASKED else opinion.decision


def colour_of(decision: str, manifest: Manifest) -> Colour:
    """Return the colour of a class, of a type, of 'unsure' or of 'refused'."""
    if decision not in manifest.classes and decision in TYPE_COLOURS:
        return TYPE_COLOURS[decision]
    if decision in (UNSURE, REFUSED):
        return UNDECIDED if decision == UNSURE else NOT_JUDGED_COLOUR
    if decision == manifest.positive:
        return DISEASE
    others = [name for name in manifest.classes if name != manifest.positive]
    return OTHERS[others.index(decision) % len(OTHERS)]
