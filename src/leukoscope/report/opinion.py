"""opinion.html and explanation.html: every cell with picture, heat map, probability and decision; offline files."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypedDict

import jinja2

from ..bundle.manifest import NOT_ASKED, REFUSED, TYPES, UNSURE, Manifest, title_of
from ..evaluation.verdict import span
from ..explanation import AGAINST, FOR, SIDE, Heat, magnified, transparent
from ..files import write_text
from ..inference.cell_types import Counting, Differential, limits_of, rounded
from ..inference.explaining import Explanation
from ..inference.opinions import (
    TYPE_COLOURS,
    Opinion,
    Tally,
    class_of,
    colour_of,
    decisions_of,
    evidence_of,
    full_evidence,
    review_priority,
    worded,
)
from ..inference.prevalence import FEWEST, NOT_KNOWN, is_known
from . import environment
from .card import figures_at, tested_on
from .figures import COLOURS, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..inference.blood_count import BloodSummary
    from ..inference.fields import JudgedCell, Smear


CELL_SIDE = 144  # pixels of a cell's picture
FIELD_SIDE = 1280  # pixels of a field's picture
MOST = 4000  # cells on a page: more make it slow to open

_FIGURES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


@dataclass(frozen=True, slots=True)
class _Card:
    """What the page keeps of one cell."""

    need: tuple[int, float]
    number: int
    opinion: Opinion
    subject: str
    picture: str
    evidence: Heat | None
    """(h, w) for the disease, or for the called class with more than two classes."""
    field: str = ""
    """Name of the field in which the cell lies; empty for a cell that came cut out."""
    place: int = 0
    """Its number in the field."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of the page."""

    name: str
    file: str
    path: str
    subject: str
    picture: str
    scale: str
    problem: str


class _ShownCell(TypedDict):
    """A cell as the template shows it."""

    id: int
    name: str
    path: str
    subject: str
    picture: str
    heat: str
    """data: address of the heat map; empty without one."""
    shown: str
    """Class or type of `percent`."""
    percent: str | None
    decision: str
    group: str
    classified: bool
    type: str
    reason: str
    number: int


class _Group(TypedDict):
    """Cells with the same decision or type."""

    name: str
    label: str
    key: str
    title: str
    cells: list[_ShownCell]
    """Those outside fields."""
    count: int
    """All of them."""


class _FieldSection(TypedDict):
    """A field with its cells."""

    field: _Field
    row: Mapping[str, Any]
    """Of fields.csv."""
    decisions: str
    cells: list[_ShownCell]
    differential: str


class _SubjectRow(TypedDict):
    """White cells of a subject by kind."""

    subject: str
    white: int
    cells: list[tuple[int, float | None]]
    """Number and per cent of each kind."""


class _SubjectTable(TypedDict):
    """Differentials by subject."""

    kinds: list[str]
    rows: list[_SubjectRow]


class _ShownMap(TypedDict):
    """A heat map as the template shows it."""

    target: str
    method: str
    checks: list[str]
    crop: str
    heat: str


class OpinionPage:
    """A page of cells that are added one by one."""

    def __init__(self, manifest: Manifest, *, point: str) -> None:
        self._manifest, self._point = manifest, point
        self._threshold = manifest.operating_points.get(point, 1.0)
        self._cards: list[_Card] = []
        self._fields: list[_Field] = []
        self._count = 0
        self._decided: Counter[tuple[str, str]] = Counter()  # (field, decision): also of cells that are not shown

    def add(self, opinion: Opinion, *, subject: str = "", field: str = "", number: int = 0) -> None:
        """Add one opinion with its crop; `field` and `number` give the place of the cell."""
        self._count += 1
        self._decided[field, _group_of(opinion)] += 1
        need = review_priority(opinion, positive=self._manifest.positive, threshold=self._threshold)
        shown = "" if opinion.crop is None else picture(opinion.crop, side=CELL_SIDE)
        evidence = evidence_of(opinion, self._manifest)
        light = replace(opinion, map=None, crop=None, embedding=None)
        self._cards.append(_Card(need, self._count, light, subject, shown, evidence, field, number))
        if len(self._cards) >= 2 * MOST:
            self._cards = self._neediest()

    def add_field(self, smear: "Smear", found: "Sequence[JudgedCell]", *, subject: str = "") -> None:
        """Add a field, drawn with the outlines of its cells in the colours of their decisions."""
        colours = {judged.cell.number: colour_of(class_of(judged.opinion), self._manifest) for judged in found}
        drawn = smear.draw([judged.cell for judged in found], colours)
        shown = picture(drawn, side=FIELD_SIDE)
        self._fields.append(
            _Field(smear.name, smear.path.name, str(smear.path), subject, shown, str(smear.scale), smear.problem)
        )

    def write(
        self,
        path: Path,
        tally: Tally,
        *,
        fields: "Sequence[dict[str, Any]]" = (),
        counting: Counting | None = None,
        blood: "BloodSummary | None" = None,
    ) -> None:
        """Write the page atomically."""
        write_text(path, self.render(tally, fields=fields, counting=counting, blood=blood))

    def render(
        self,
        tally: Tally,
        *,
        fields: "Sequence[dict[str, Any]]" = (),
        counting: Counting | None = None,
        blood: "BloodSummary | None" = None,
    ) -> str:
        """Return the page as HTML.

        fields: rows of fields.csv (inference.opinions) of fields that were read. counting: the differentials.
        blood: red cells and platelets of these fields.
        """
        manifest = self._manifest
        counted = counting.everything() if counting else None
        self._cards = self._neediest()
        return (
            environment(percent=_percent, title_of=title_of)
            .get_template("opinion.html")
            .render(
                manifest=manifest,
                point=self._point.replace("_", " "),
                threshold=manifest.operating_points.get(self._point),
                unsure_zone=unsure_zone(manifest, self._point),
                at_mark=tested_on(manifest),
                headline=headline(tally, manifest),
                groups=self._groups(tally),
                fields=self._field_sections(fields, counting),
                limits=limits_of(manifest, fields=bool(fields)),
                differential=_shown(counted) if counted else None,
                blood=blood,
                by_subject=_by_subject(tally, counting) if counting else None,
                shown=len(self._cards),
                total=self._count,
                swatches={name: _css(colour) for name, colour in self._swatches().items()},
                heat=any(card.evidence is not None for card in self._cards),
                subjects=[row | {"unknown": _unknown(row)} for row in tally.summaries()],
                nobody=tally.without_subject(),
                not_known=NOT_KNOWN,
                fewest=FEWEST,
                figures=self._figures(),
                colours=COLOURS,
                made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                **{"for": _css(FOR), "against": _css(AGAINST)},
            )
        )

    def _figures(self) -> dict[str, str]:
        """Return figures of the model by title, those of decisions at the threshold that these opinions have."""
        metrics = self._manifest.metrics
        weighted = metrics.get("subject_weighted") or {}
        model = (weighted.get("estimators") or metrics.get("estimators") or {}).get("model", {})
        at = figures_at(self._manifest, self._point, subject_weighted=True) if tested_on(self._manifest) else {}
        known = dict(model) | at
        mark = f" at {100 * self._threshold:.0f} %"
        return {
            f"{title}{mark if name in at else ''}": span(known[name])
            for name, title in _FIGURES.items()
            if name in known
        }

    def _neediest(self) -> list[_Card]:
        """Return at most MOST cards by review priority."""
        return sorted(self._cards, key=lambda card: (card.need, card.number))[:MOST]

    def _groups(self, tally: Tally) -> list[_Group]:
        """Return every decision with its cells outside of fields, by review priority."""
        manifest = self._manifest
        others = [name for name in manifest.classes if name != manifest.positive]
        disease = [manifest.positive] if manifest.positive else []
        types = [_TYPE + name for name in TYPES]
        groups: list[_Group] = []
        for place, name in enumerate([UNSURE, REFUSED, *disease, *others, _TYPE + UNSURE, *types]):
            cells = [self._cell(card) for card in self._cards if _group_of(card.opinion) == name and not card.field]
            loose = self._decided["", name]
            count = sum(number for (_, group), number in self._decided.items() if group == name)
            title = _title(name, loose) + (f", {count - loose:,} more in the fields below" if loose < count else "")
            groups.append(
                {
                    "name": name,
                    "label": _label(name),
                    "key": f"g{place}",
                    "title": title,
                    "cells": cells,
                    "count": count,
                }
            )
        return [group for group in groups if group["count"]]

    def _swatches(self) -> dict[str, tuple[int, int, int]]:
        """Return the colours of the outlines on this page, by the decision or type that they mark."""
        there = {group for (field, group), count in self._decided.items() if field and count}
        decisions = [name for name in decisions_of(self._manifest) if name in there]
        types = [name for name in TYPE_COLOURS if _TYPE + name in there and name not in decisions]
        return {name: colour_of(name, self._manifest) for name in (*decisions, *types)}

    def _field_sections(self, rows: "Sequence[dict[str, Any]]", counting: Counting | None) -> list[_FieldSection]:
        """Return every field with its picture, its row of fields.csv and its cells, by review priority."""
        facts = {row["field"]: row for row in rows}
        cards: dict[str, list[_Card]] = {field.name: [] for field in self._fields}
        for card in self._cards:
            if card.field in cards:
                cards[card.field].append(card)
        return [
            {
                "field": field,
                "row": facts[field.path],
                "decisions": self._decisions_of(field.name),
                "cells": [self._cell(card) for card in cards[field.name]],
                "differential": _line(counting.of_field(field.path)) if counting else "",
            }
            for field in self._fields
        ]

    def _decisions_of(self, field: str) -> str:
        """Return the decisions on the cells of a field, such as '2 called blast, 1 unsure'."""
        types = [_TYPE + name for name in (*TYPES, UNSURE)]
        order = (*types, *reversed(self._manifest.classes), UNSURE, REFUSED)
        counts = {name: self._decided[field, name] for name in order}
        called = {
            name: f"called {title_of(name)}" if name in self._manifest.classes else _label(name) for name in order
        }
        return ", ".join(f"{count:,} {called[name]}" for name, count in counts.items() if count)

    def _cell(self, card: _Card) -> _ShownCell:
        classified = card.opinion.decision != NOT_ASKED
        chances = (card.opinion.probabilities if classified else card.opinion.types) or {}
        shown = self._manifest.positive or card.opinion.called
        if not classified:
            shown = max(chances, key=chances.__getitem__, default="")
        chance = chances.get(shown)
        return {
            "id": card.number,
            "name": PurePath(card.opinion.name).name,
            "path": card.opinion.name,
            "subject": card.subject,
            "picture": card.picture,
            "heat": "" if card.evidence is None else self._heat(card.evidence),
            "shown": title_of(shown),
            "percent": None if chance is None else f"{100 * chance:.0f}",
            "decision": card.opinion.decision,
            "group": _group_of(card.opinion),
            "classified": classified,
            "type": card.opinion.type,
            "reason": worded(card.opinion.reason) if classified or card.opinion.type == UNSURE else "",
            "number": card.place,
        }

    def _heat(self, evidence: Heat) -> str:
        """Return evidence (h, w) as a data: address of a transparent picture that the page stretches over the cell."""
        drawn = transparent(evidence, full=full_evidence(self._manifest), signed=bool(self._manifest.positive))
        return "data:image/png;base64," + base64.b64encode(drawn).decode("ascii")


def unsure_zone(manifest: Manifest, point: str) -> tuple[float, float] | None:
    """Return the probabilities of the disease between which a cell is unsure, from the least to the most.

    None where a bundle has no rule to be unsure, or its classes have no operating point. The rule (rejection) asks that
    one class alone be plausible, and that the operating point call this one.
    """
    rule, threshold = manifest.conformal, manifest.operating_points.get(point)
    if rule is None or threshold is None or len(manifest.classes) != 2:
        return None
    least = dict(zip(manifest.classes, (each or 0.0 for each in rule.smallest_plausible), strict=True))
    other = next(name for name in manifest.classes if name != manifest.positive)
    ends = (least[manifest.positive], 1 - least[other], threshold)
    return min(ends), max(ends)


_TYPE = "type "  # before the type of a cell to which the classes do not apply: its group on the page


def _group_of(opinion: Opinion) -> str:
    return _TYPE + opinion.type if opinion.decision == NOT_ASKED else opinion.decision


def _label(group: str) -> str:
    return "type unsure" if group == _TYPE + UNSURE else title_of(group.removeprefix(_TYPE))


def _shown(counted: Differential) -> dict[str, Any]:
    """Return a differential as the page draws it; the percentages shown sum to 100."""
    percents = rounded([row.percent or 0.0 for row in counted.rows], digits=1)
    rows = [asdict(row) | {"shown": f"{percent:.1f}"} for row, percent in zip(counted.rows, percents, strict=True)]
    enough = counted.rows[0].percent is not None
    return asdict(counted) | {"rows": rows, "enough": enough, "reached": min(100, 100 * counted.white / counted.goal)}


def _by_subject(tally: Tally, counting: Counting) -> _SubjectTable | None:
    """Return a table of subjects: cells and per cent of each kind; None without types of cells or names of subjects."""
    counts = {name: each for name in tally.subjects if (each := counting.of_subject(name)) is not None}
    there = {row.name for each in counts.values() for row in each.rows if row.cells}
    rows: list[_SubjectRow] = []
    for subject, each in counts.items():
        shown = rounded([row.percent or 0.0 for row in each.rows])
        cells = [
            (row.cells, None if row.percent is None else percent)
            for row, percent in zip(each.rows, shown, strict=True)
            if row.name in there
        ]
        rows.append({"subject": subject, "white": each.white, "cells": cells})
    kinds = [row.name for row in next(iter(counts.values())).rows if row.name in there] if counts else []
    return {"kinds": kinds, "rows": rows} if counts else None


def _line(counted: Differential | None) -> str:
    """Return a field's differential in one line; empty where cells have no types."""
    if counted is None:
        return ""
    shown = rounded([row.percent or 0.0 for row in counted.rows])
    types = [
        f"{row.cells:,} {row.name}" + (f" ({percent:.0f} %)" if row.percent is not None else "")
        for row, percent in zip(counted.rows, shown, strict=True)
        if row.cells
    ]
    apart = [f"{cells:,} {name}" for name, cells in counted.apart.items() if cells]
    beside = f" Counted apart: {', '.join(apart)}." if apart else ""
    white = f" {', '.join(types)}." if types else ""
    return f"{counted.summary}{white}{beside}"


def _title(decision: str, count: int) -> str:
    cells = f"{count:,} cell{'s' * (count != 1)}"
    if decision == _TYPE + UNSURE:
        return f"Type unsure: {cells} for a person to name"
    if decision.startswith(_TYPE):
        return f"{decision.removeprefix(_TYPE).capitalize()}: {cells}"
    if decision == UNSURE:
        return f"Unsure: {cells} for a person to decide"
    return f"Refused: {cells} not judged" if decision == REFUSED else f"Called {title_of(decision)}: {cells}"


def _unknown(row: dict[str, Any]) -> bool:
    """Return whether the share of a subject must not be shown."""
    share = row.get("share")
    return share is not None and not is_known(share, cells=row["answered"])


def headline(tally: Tally, manifest: Manifest) -> dict[str, str]:
    """Return the first sentence of the page, and its level."""
    everyone, positive = tally.all, manifest.positive
    if not everyone.cells:
        return {"text": "No white cell was found.", "level": "fail"}
    counts = [
        f"{tally.decisions[name]:,} called {title_of(name)}"
        for name in reversed(manifest.classes)
        if tally.decisions[name]
    ]
    nobody = "none was called blast or normal" if everyone.answered or everyone.not_asked else "none was judged"
    text = f"Of {everyone.cells:,} cell{'s' * (everyone.cells != 1)}, {' and '.join(counts) or nobody}"
    rest = []
    if everyone.unsure:
        rest.append(f"{everyone.unsure:,} left to a person")
    if everyone.refused:
        rest.append(f"{everyone.refused:,} refused")
    if everyone.not_asked:
        rest.append(f"{everyone.not_asked:,} of other or unsure types, not asked")
    text += f"; {', '.join(rest)}." if rest else "."
    share = tally.decisions.get(positive, 0)
    level = "caution" if rest or share else "pass"
    return {"text": text, "level": level if everyone.answered else "fail"}


def _css(colour: tuple[int, int, int]) -> str:
    return f"rgb{colour}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}"


_WORDS = {
    "cam": "Class-activation map of the network, exact",
    "occlusion": "Occlusion: drop in log-odds when a square is covered",
    "lime": "LIME: weight of each patch in a plain model fitted around the cell",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>leukoscope: explanations</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1.5rem }
figure { margin: 0; min-width: 0 } img { width: 48%; background: #000 } figcaption { font-size: .9rem; overflow-wrap: anywhere }
.for { color: #a85400 } .against { color: #0072b2 } .refused img { opacity: .45 } .refused figcaption b { color: #a3227a }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } .for { color: #ffa04d } .against { color: #6bb8e8 } .refused figcaption b { color: #f08ccb } }
</style></head><body>
<h1>What moved the model</h1>
<p>{% for words in methods %}{{ words }}. {% endfor %}<b class="for">Orange</b> speaks for the class whose map it is, <b class="against">blue</b>
against it; the same colour means the same evidence in every picture, on every page and in the reading room. {% if inside %}<i>Inside</i> is the share of the heat
on the cell: where it is no more than the share of the picture that the cell takes, the map shows no preference for the cell. {% endif %}A heat map shows what changed the model's answer, not what is diseased.
{% if refused %}The model gives no answer for what it refuses ({{ refused }} of {{ cells | length }} here): such a map explains none.
{% endif %}For research; not a diagnosis.</p>
<main>{% for cell in cells %}
<figure{% if cell.refused %} class="refused"{% endif %}>{% if cell.map %}<img src="{{ cell.map.crop }}" alt="The cell as the model saw it">
<img src="{{ cell.map.heat }}" alt="The same with heat">{% endif %}
<figcaption>{{ cell.name }}: <b>{{ cell.decision }}</b>{% if cell.reason %}. {{ cell.reason }}{% endif %}
{% if cell.map %}<br>{{ cell.map.method }} map of <b>{{ cell.map.target }}</b>{{ cell.chance }}{% for check in cell.map.checks %},
{{ check }}{% endfor %}{% endif %}</figcaption></figure>
{% endfor %}</main></body></html>
"""  # noqa: E501 (a style sheet)


@dataclass(frozen=True)
class ShownCell:
    """One picture on the page."""

    name: str
    decision: str
    reason: str
    probability: float | None
    """Of the class that is explained; None for a picture that is refused."""
    found: Explanation | None
    """None for a picture without a cell."""


def render(cells: Sequence[ShownCell]) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    rows = [
        {
            "name": cell.name,
            "decision": cell.decision,
            "reason": cell.reason,
            "refused": cell.decision == REFUSED,
            "chance": "" if cell.probability is None else f" {cell.probability:.3f}",
            "map": _map(cell.found) if cell.found else None,
        }
        for cell in cells
    ]
    refused = sum(cell.decision == REFUSED for cell in cells)
    methods = dict.fromkeys(cell.found.method for cell in cells if cell.found)
    page = environment.from_string(_PAGE)
    return page.render(cells=rows, refused=refused, methods=[_WORDS[name] for name in methods], inside="cam" in methods)


def _map(found: Explanation) -> _ShownMap:
    return {
        "target": found.target,
        "method": found.method,
        "checks": found.checks_in_words(),
        "crop": picture(magnified(found.crop), side=SIDE),
        "heat": picture(magnified(found.over()), side=SIDE),
    }
