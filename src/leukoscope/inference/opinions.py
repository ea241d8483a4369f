"""The opinion on one cell, and a sequence of them: as tables, by subject, as a contact sheet, as HTML in notebooks."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from ..bundle.manifest import NOT_ASKED, REFUSED, TITLES, TYPES, UNSURE, Manifest, title_of
from ..errors import require
from ..explanation import LEAST_PLACES, Heat, enlarge, overlay
from ..files import write_csv
from ..images.read import RGB
from .cell_types import GOAL, ORDER, REFUSED_ROW, Counting, Differential
from .prevalence import accuracy_of, is_known

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from ..bundle.manifest import Manifest
    from ..fields.cells import FieldCell
    from ..interop.hl7 import CaseResult, Specimen
    from .blood_count import BloodSummary, FieldCount
    from .fields import JudgedCell, Smear


@dataclass(frozen=True, slots=True, repr=False)
class Opinion:
    """The opinion of a bundle on one cell."""

    name: str
    """Path of the file as it was given, or 'image 3' for the third array."""
    decision: str
    """A class, 'unsure', 'refused', or 'not asked' for a cell of a type to which the classes do not apply."""
    reason: str = ""
    """Why it is unsure, refused or not classified, in one sentence."""
    quality: float | None = None
    """How fit the image is to be judged, from 0 to 1; None where the bundle has no limits of quality."""
    probabilities: dict[str, float] | None = None
    """Calibrated probability of each class; None for an image that is refused or not classified."""
    called: str = ""
    """The class by the operating point alone, also where the decision is 'unsure'; empty for a refused image."""
    readable: bool = True
    """False: the file or array cannot be used as an image at all."""
    map: NDArray[np.float32] | None = None
    """(classes, h, w): evidence for each class at each place of the crop, centred over the classes."""
    crop: RGB | None = None
    """(size, size, 3): the crop of the first member; only where requested."""
    embedding: NDArray[np.float32] | None = None
    """(channels,): embedding by the first member; None for an image that is refused or not classified."""
    subject: str = ""
    """Whose cell it is: the sub-folder or the column subject; empty where it is not known."""
    field: str = ""
    """Path or name of the smear field or slide in which the cell was found; empty for a cell that came cut out."""
    found: FieldCell | None = None
    """Where in its field the cell lies: number, box, outline, size; None for a cell that came cut out."""
    notes: tuple[str, ...] = ()
    """What was done to the values of the file to read it: depth, colour profile, orientation."""

    type: str = ""
    """Type of the cell (inference.cell_types), 'unsure', or 'smudge'; empty where the bundle classifies none."""
    types: dict[str, float] | None = None
    """Calibrated probability of each type; None where the bundle classifies none."""

    def __repr__(self) -> str:
        chances = "".join(f", {name} {chance:.3f}" for name, chance in (self.probabilities or {}).items())
        reason = f": {self.reason}" if self.reason else ""
        kind = f"{self.type}, " if self.type else ""
        return f"<Opinion on {self.name}: {kind}{self.decision}{chances}{reason}>"

    def row(self, classes: Sequence[str], types: Sequence[str] = ()) -> dict[str, Any]:
        """Return it as a row of predictions.csv; what is not known is empty. `types`: those of the bundle."""
        chances, kinds = self.probabilities or {}, self.types or {}
        type_of = {"type": self.type} if types else {}
        return {
            "path": self.name,
            **type_of,
            **{f"prob_type_{name}": round(kinds[name], 6) if name in kinds else "" for name in types},
            **{f"prob_{name}": round(chances[name], 6) if name in chances else "" for name in classes},
            "decision": self.decision,
            "reason": self.reason,
            "quality": "" if self.quality is None else round(self.quality, 3),
        }


def review_priority(opinion: Opinion, *, positive: str, threshold: float) -> tuple[int, float]:
    """Return a sort key, what a person should look at first in front.

    Unsure, refused, called diseased (surest first), all others, cells that were not classified.

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
    """Return how much each place of the crop speaks for the disease (h, w), or with more classes for the called one.

    None where the cell was not judged, or the network's map has fewer than LEAST_PLACES places along a side.
    """
    if opinion.map is None or not opinion.called or min(opinion.map.shape[1:]) < LEAST_PLACES:
        return None
    return np.asarray(opinion.map[manifest.classes.index(manifest.positive or opinion.called)], np.float32)


def full_evidence(manifest: Manifest) -> float:
    """Return the evidence of a map that is drawn as strong as tanh(1): see explanation.to_rgba."""
    return float(np.mean([member.temperature for member in manifest.members]))


def worded(reason: str) -> str:
    """Return a reason with the classes as people call them.

    >>> worded("Both hem and all are plausible."), worded("Empty: the image is all black.")
    ('Both normal and blast are plausible.', 'Empty: the image is all black.')
    """
    if "plausible" not in reason and not reason.startswith("Not typical of"):
        return reason
    return re.sub(r"\b(hem|all)\b", lambda found: TITLES[found[1]], reason)


def columns_of(classes: Sequence[str], *, subject: bool = False, types: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns of predictions.csv, with or without one for the subject; `types`: those the bundle classifies.

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
        """Cells, without files that cannot be used as images."""
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
    """Return the label of a cell: its decision, or its type where the classes do not apply."""
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


_SHOWN = 24  # cells that a notebook shows
_SIDE = 112  # pixels of a cell in a notebook and on a contact sheet
_LINE = 15  # pixels of a line of text on a contact sheet


@dataclass(frozen=True)
class SubjectSummary:
    """The cells of one subject, counted."""

    subject: str
    cells: int
    called: int
    """Cells whose decision is the disease."""
    unsure: int
    refused: int
    share: float | None = None
    """Share of diseased cells, from 0 to 1, corrected for the model's errors; None where it is not known."""
    share_low: float | None = None
    """Lower end of its 95 % interval."""
    share_high: float | None = None
    """Upper end of its 95 % interval."""


class Opinions(Sequence[Opinion]):
    """The opinions on some images, in their order: a sequence of `Opinion` that knows its model."""

    def __init__(
        self,
        opinions: Iterable[Opinion],
        manifest: Manifest,
        *,
        point: str = "balanced",
        counts: Sequence[FieldCount] = (),
    ) -> None:
        """Take opinions that a bundle gave at one operating point, and what was counted in their fields beside them."""
        self._opinions = tuple(opinions)
        self._counts_of_fields = counts
        self.manifest = manifest
        """The manifest of the bundle."""
        self.point = point
        """The operating point, such as 'high_sensitivity'."""

    @overload
    def __getitem__(self, index: int) -> Opinion: ...

    @overload
    def __getitem__(self, index: slice) -> Opinions: ...

    def __getitem__(self, index: int | slice) -> Opinion | Opinions:
        if isinstance(index, slice):
            return Opinions(self._opinions[index], self.manifest, point=self.point)
        return self._opinions[index]

    def __len__(self) -> int:
        return len(self._opinions)

    def __repr__(self) -> str:
        return f"<Opinions: {self._counts()}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the model."""
        return self.manifest.classes

    @property
    def types(self) -> tuple[str, ...]:
        """The types of cells that the model classifies; empty where it classifies none."""
        return TYPES if self.manifest.types else ()

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per cell, and the columns of `to_csv`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = require("pandas", feature="A pandas table", extra="pandas")
        columns = self._columns()
        table: pd.DataFrame = pandas.DataFrame([self._row(each) for each in self], columns=list(columns))
        numbers = [name for name in columns if name.startswith("prob_") or name == "quality"]
        table[numbers] = table[numbers].apply(pandas.to_numeric)
        return table

    def to_csv(self, path: str | Path) -> None:
        """Write predictions.csv as `leukoscope predict -o` does: one row per cell.

        Raises:
            OSError: the file cannot be written.
        """
        columns = self._columns()
        rows = ({name: row.get(name, "") for name in columns} for row in map(self._row, self))
        write_csv(Path(path), rows, columns=columns)

    def by_subject(self, *, seed: int = 0) -> list[SubjectSummary]:
        """Return the cells of each subject, counted, with the corrected share of the disease.

        Cells without a subject are left out. seed: of the draws behind the interval.
        """
        rows = []
        for row in self._tally().summaries(seed=seed):
            share = row.get("share") or {}
            summary = SubjectSummary(
                subject=row["subject"],
                cells=row["cells"],
                called=row["called"],
                unsure=row["unsure"],
                refused=row["refused"],
                share=share.get("value"),
                share_low=share.get("low"),
                share_high=share.get("high"),
            )
            rows.append(summary)
        return rows

    def differential(self, *, order: Sequence[str] = ORDER, goal: int = GOAL) -> Differential | None:
        """Return white cells by kind, with 95 % intervals; None where the bundle classifies no types.

        order: rows in a laboratory's own order; others follow. goal: white cells that the laboratory counts.

        Raises:
            UnknownNameError: `order` names something that is not a row of a differential.
            UsageError: it names a row twice.
        """
        counting = Counting(self.manifest, point=self.point, order=order, goal=goal)
        for opinion in self:
            if opinion.readable:
                counting.add(opinion)
        return counting.everything()

    def blood_count(self, *, factor: float | None = None) -> BloodSummary | None:
        """Return red cells and platelets of the fields, with 95 % intervals over fields; None where none were counted.

        They belong to whole fields, so a part of the opinions has none. factor: platelets in 10⁹ per litre for one
        platelet in an average field, as found for your microscope; adds an estimate.
        """
        from .blood_count import summary_of

        return summary_of(self._counts_of_fields, factor=factor)

    def by_priority(self) -> Opinions:
        """Return the same opinions, those that a person should look at first in front: unsure, refused, the disease."""
        threshold = self.manifest.operating_points.get(self.point, 1.0)
        positive = self.manifest.positive
        ordered = sorted(self, key=lambda each: review_priority(each, positive=positive, threshold=threshold))
        return Opinions(ordered, self.manifest, point=self.point, counts=self._counts_of_fields)

    def plot(self, *, columns: int = 6, most: int = 60, heat: bool = True) -> PIL.Image.Image:
        """Return a contact sheet: each cell with its decision and probability, and its heat map beside it.

        columns: cells in a row. most: cells on the sheet, the first ones. heat: draw the maps as well.
        The result is a PIL image: notebooks show it, and `.save("cells.png")` writes it.
        """
        shown = self._opinions[:most]
        columns = max(1, min(columns, len(shown)))
        wide, tall = _SIDE * (2 if heat else 1), _SIDE + 2 * _LINE + 6
        rows = max(1, -(-len(shown) // columns))
        sheet = PIL.Image.new("RGB", (columns * (wide + 8) + 8, rows * (tall + 8) + 8), "white")
        for place, opinion in enumerate(shown):
            left, top = 8 + (place % columns) * (wide + 8), 8 + (place // columns) * (tall + 8)
            self._draw(sheet, opinion, left, top, wide=wide, heat=heat)
        return sheet

    def _repr_html_(self) -> str:
        """Return the cells as HTML, those that a person should look at first in front; shown by notebooks."""
        cards = "".join(self._card(each) for each in self.by_priority()[:_SHOWN])
        more = f"<p>and {len(self) - _SHOWN:,} more: see to_pandas()</p>" if len(self) > _SHOWN else ""
        style = "display:flex;flex-wrap:wrap;gap:10px;font:12px/1.35 system-ui,sans-serif"
        note = "Beside each cell: orange speaks for the disease, blue against it. Research use, not a diagnosis."
        return f'<p><b>{escape(self._counts())}</b></p><div style="{style}">{cards}</div>{more}<p>{note}</p>'

    def _card(self, opinion: Opinion) -> str:
        images = "".join(f'<img src="{_data_url(each)}" width="{_SIDE}" alt="">' for each in self._pictures(opinion))
        reason = f"<br><i>{escape(worded(opinion.reason))}</i>" if opinion.reason else ""
        name = escape(Path(opinion.name).name)
        caption = escape(self._caption(opinion))
        return f'<div style="width:{2 * _SIDE}px">{images}<br><b>{caption}</b>{reason}<br><small>{name}</small></div>'

    def _draw(self, sheet: PIL.Image.Image, opinion: Opinion, left: int, top: int, *, wide: int, heat: bool) -> None:
        pictures = self._pictures(opinion)[: 2 if heat else 1]
        for place, picture in enumerate(pictures):
            small = PIL.Image.fromarray(picture).resize((_SIDE, _SIDE))
            sheet.paste(small, (left + place * _SIDE, top))
        if not pictures:
            sheet.paste("#dddddd", (left, top, left + wide, top + _SIDE))
        pen, letters = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(11)
        pen.text((left, top + _SIDE + 3), self._caption(opinion), fill="black", font=letters)
        name = Path(opinion.name).name
        pen.text((left, top + _SIDE + 3 + _LINE), name[-wide // 6 :], fill="#555555", font=letters)

    def _pictures(self, opinion: Opinion) -> list[RGB]:
        """Return the crop, and the crop under its heat map where there is one."""
        if opinion.crop is None:
            return []
        evidence = evidence_of(opinion, self.manifest)
        if evidence is None:
            return [opinion.crop]
        heat = enlarge(evidence, size=len(opinion.crop))
        return [opinion.crop, overlay(opinion.crop, heat, full=full_evidence(self.manifest))]

    def _caption(self, opinion: Opinion) -> str:
        if opinion.decision == NOT_ASKED:
            likely = max((opinion.types or {}).values(), default=0.0)
            return f"{opinion.type} {likely:.0%}, not asked" if opinion.type != UNSURE else "type unsure, not asked"
        if opinion.probabilities is None:
            return opinion.decision
        name = self.manifest.positive or opinion.called
        return f"{title_of(opinion.decision)}, {title_of(name)} {opinion.probabilities[name]:.0%}"

    def _counts(self) -> str:
        counted = self._tally().decisions.items()
        parts = [f"{number:,} {title_of(decision)}" for decision, number in counted if number]
        return f"{len(self):,} cell{'s' * (len(self) != 1)}: {', '.join(parts) or 'none'}"

    def _tally(self) -> Tally:
        tally = Tally(self.manifest, point=self.point)
        for opinion in self:
            tally.add(opinion, subject=opinion.subject)
        return tally

    def _columns(self) -> tuple[str, ...]:
        columns = columns_of(self.classes, subject=any(each.subject for each in self), types=self.types)
        if any(each.found is not None for each in self):
            columns += tuple(name for name in CELL_COLUMNS if name not in columns)
        return columns

    def _row(self, opinion: Opinion) -> dict[str, Any]:
        row = {"subject": opinion.subject} | opinion.row(self.classes, self.types)
        if opinion.found is None:
            return row
        from .fields import JudgedCell

        nothing = np.zeros((0, 0, 3), np.uint8)
        return row | prediction_row(
            opinion.field, JudgedCell(opinion.found, nothing, opinion), self.classes, self.types
        )

    def __iter__(self) -> Iterator[Opinion]:
        return iter(self._opinions)


def _data_url(picture: RGB) -> str:
    content = io.BytesIO()
    PIL.Image.fromarray(picture).resize((_SIDE, _SIDE)).save(content, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


_COUNTED = ("cells", "called", "unsure", "refused", "not_asked")
# What a cell of a field has beside the columns of every prediction.
CELL_COLUMNS = ("cell", "left", "top", "right", "bottom", "area_um2", "nucleus_um2", "sharpness", "flags", "outline")
FIELD_COLUMNS = (
    "field",
    "subject",
    "width",
    "height",
    "cells",
    "called",
    "unsure",
    "refused",
    "not_asked",
    "share",
    "share_low",
    "share_high",
    "um_per_px",
    "um_low",
    "um_high",
    "scale",
    "problem",
    "red_cells",
    "platelets",
    "platelets_clumped",
    "red_cell_um",
    "red_cell_um_sd",
)


def cell_values(judged: JudgedCell) -> dict[str, Any]:
    """Return the columns CELL_COLUMNS of one judged cell, in pixels of its field unless the name gives a unit."""
    from ..fields.extraction import outline_text  # OpenCV: for cells of fields alone

    cell = judged.cell
    left, top, right, bottom = cell.box
    return {
        "cell": cell.number,
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "area_um2": round(cell.area_um2, 1),
        "nucleus_um2": round(cell.nucleus_um2, 1),
        "sharpness": round(cell.sharpness, 3),
        "flags": "; ".join(cell.flags),
        "outline": outline_text(cell.outline),
    }


def prediction_row(path: str, judged: JudgedCell, classes: Sequence[str], types: Sequence[str] = ()) -> dict[str, Any]:
    """Return a judged cell as a row of predictions.csv; its path is that of the field."""
    return judged.opinion.row(classes, types) | {"path": path} | cell_values(judged)


def field_values(
    smear: Smear, *, subject: str, summary: dict[str, Any], blood: FieldCount | None = None
) -> dict[str, Any]:
    """Return a field as a row of fields.csv; `summary` counts its cells (`Tally.summaries`).

    blood: what it shows beside white cells; None where that was not counted.
    """
    share = summary.get("share") or {}
    scale = smear.scale
    return {
        "field": str(smear.path),
        "subject": subject,
        "width": smear.size[0],
        "height": smear.size[1],
        **{name: summary[name] for name in _COUNTED},
        "share": share.get("value"),
        "share_low": share.get("low"),
        "share_high": share.get("high"),
        "um_per_px": round(scale.um_per_px, 5),
        "um_low": round(scale.low, 5),
        "um_high": round(scale.high, 5),
        "scale": scale.source,
        "problem": smear.problem,
        **(blood.as_json() if blood else dict.fromkeys(FIELD_COLUMNS[-5:])),
    }


def unusable_field(path: str, *, subject: str, problem: str) -> dict[str, Any]:
    """Return the row of a field that cannot be used."""
    return dict.fromkeys(FIELD_COLUMNS, "") | {"field": path, "subject": subject, "problem": problem, "cells": 0}


def light(judged: JudgedCell) -> JudgedCell:
    """Return a judged cell without its pictures, so that a slide full of them stays small in memory."""
    bare = replace(judged.opinion, map=None, crop=None, embedding=None)
    return replace(judged, crop=judged.crop[:0], opinion=bare)


# unreadable: of the refused, files that cannot be used as images.
SUBJECT_COLUMNS = ("subject", *_COUNTED, "unreadable", "share", "share_low", "share_high")


def subject_row(summary: dict[str, Any]) -> dict[str, Any]:
    """Return one subject's summary (`Tally.summaries`) as a row of subjects.csv."""
    share = summary.get("share") or {}
    ends = {"share": share.get("value"), "share_low": share.get("low"), "share_high": share.get("high")}
    return {name: summary[name] for name in ("subject", *_COUNTED, "unreadable")} | ends


DIFFERENTIAL_COLUMNS = ("level", "name", "kind", "cells", "percent", "low", "high", "white_cells", "goal")


def differential_rows(level: str, name: str, counted: Differential) -> Iterator[dict[str, Any]]:
    """Yield a differential as rows of differential.csv; level: 'all', 'subject' or 'field'."""
    for row in counted.table():
        yield {"level": level, "name": name, "white_cells": counted.white, "goal": counted.goal} | row


BLOOD_COLUMNS = ("level", "name", "quantity", "value", "low", "high", "unit")


def blood_rows(level: str, name: str, counted: BloodSummary) -> Iterator[dict[str, Any]]:
    """Yield red cells and platelets as rows of blood_count.csv; level: 'all', 'subject', 'field' or 'case'."""
    for row in counted.rows():
        ends = {end: "" if getattr(row, end) is None else getattr(row, end) for end in ("low", "high")}
        yield {"level": level, "name": name, "quantity": row.name, "value": row.value, "unit": row.unit} | ends


def case_result(
    summary: dict[str, Any],
    counted: Differential | None,
    manifest: Manifest,
    *,
    when: datetime,
    specimen: Specimen = "",
    laboratory: str = "",
    blood: BloodSummary | None = None,
) -> CaseResult:
    """Return one subject's numbers as a hospital's systems take them (interop.hl7).

    The rows are those of the differential; without a type head, or with too few white cells for percentages, they are
    counts and the share of blasts among the cells that were answered. `blood`: red cells and platelets of its fields.
    """
    from importlib import metadata

    from ..interop.hl7 import CaseResult, Observation

    named = {"called": f"called {title_of(manifest.positive)}"} if manifest.positive else {}
    counted_here = [name for name in _COUNTED if name != "called" or named]
    files = summary["unreadable"]  # which are not cells: their content is unknown
    summary = summary | {name: summary[name] - files for name in ("cells", "refused")}
    rows = [Observation("files that cannot be used", files, "{files}")] if files else []
    rows += [Observation(named.get(name, name.replace("_", " ")), summary[name], "{cells}") for name in counted_here]
    if counted is not None:
        rows += [Observation(row.name, row.cells, "{cells}") for row in counted.rows]
        rows += [Observation(row.name, row.cells, "{cells}") for row in counted.beside() if row.name != REFUSED_ROW]
        rows += [
            Observation(row.name, row.percent, "%", row.low, row.high)
            for row in counted.rows
            if row.percent is not None
        ]
    elif (share := summary.get("share")) and is_known(share, cells=summary["answered"]):
        ends = [100 * share[end] for end in ("value", "low", "high")]
        rows.append(Observation("blast among cells answered", ends[0], "%", ends[1], ends[2]))
    rows += blood.rows() if blood is not None else []
    return CaseResult(
        case=summary["subject"] or "all images",
        laboratory=laboratory,
        when=when,
        rows=tuple(rows),
        specimen=specimen,
        algorithm=f"leukoscope {metadata.version('leukoscope')}, {manifest.name} {manifest.seal[:16]}",
        patient_id=summary["subject"],
        conclusion=counted.summary if counted is not None else "",
    )
