"""Heat maps of many cells on one offline page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from ..bundle.manifest import REFUSED
from ..explanation.maps import SIDE, magnified
from ..inference.explaining import Explanation
from .pictures import picture

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
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(25rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } img { width: 48%; background: #000 } figcaption { font-size: .9rem; overflow-wrap: anywhere }
.for { color: #a85400 } .against { color: #0072b2 } .refused img { opacity: .45 } .refused figcaption b { color: #a3227a }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } .for { color: #ffa04d } .against { color: #6bb8e8 } .refused figcaption b { color: #f08ccb } }
</style></head><body>
<h1>What moved the model</h1>
<p>{% for words in methods %}{{ words }}. {% endfor %}<b class="for">Orange</b> speaks for the class whose map it is, <b class="against">blue</b>
against it; a colour is as strong in every picture, page and in the reading room for the same evidence. <i>Inside</i> is the share of the heat
on the cell: where it is no more than the share of the picture that the cell takes, the map says nothing about where. A heat map shows what moved the model, not what is ill.
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
class Shown:
    """One picture on the page."""

    name: str
    decision: str
    reason: str
    probability: float | None
    """Of the class that is explained; None for a picture that is refused."""
    found: Explanation | None
    """None for a picture without a cell."""


def render(cells: Sequence[Shown]) -> str:
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
    methods = dict.fromkeys(_WORDS[cell.found.method] for cell in cells if cell.found)
    page = environment.from_string(_PAGE)
    return page.render(cells=rows, refused=refused, methods=list(methods))


def _map(found: Explanation) -> dict[str, Any]:
    return {
        "target": found.target,
        "method": found.method,
        "checks": found.said(),
        "crop": picture(magnified(found.crop), side=SIDE),
        "heat": picture(magnified(found.over()), side=SIDE),
    }
