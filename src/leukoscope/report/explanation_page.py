"""Heat maps of many cells on one offline page."""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from ..data.images import RGB
from ..explain.heat import Heat, overlay
from .pictures import picture

_SIDE = 192
_WORDS = {
    "cam": "class-activation map of the network, exact",
    "occlusion": "drop in log-odds when a square is covered",
    "lime": "weight of each patch in a plain model fitted around the cell (LIME)",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>leukoscope: explanations</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(25rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } img { width: 48%; background: #000 } figcaption { font-size: .9rem; overflow-wrap: anywhere }
.for { color: #a85400 } .against { color: #0072b2 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } .for { color: #ffa04d } .against { color: #6bb8e8 } }
</style></head><body>
<h1>What moved the model</h1>
<p>{{ method }}. <b class="for">Orange</b> speaks for the class named below each cell, <b class="against">blue</b>
against it; full colour is the strongest place of that cell. A heat map shows what moved the model, not what is ill.
For research; not a diagnosis.</p>
<main>{% for cell in cells %}
<figure><img src="{{ cell.crop }}" alt="The cell as the model saw it">
<img src="{{ cell.heat }}" alt="The same with heat">
<figcaption>{{ cell.name }}: <b>{{ cell.target }}</b> {{ cell.probability }}{% for name, value in cell.checks %},
{{ name }} {{ value }}{% endfor %}</figcaption></figure>
{% endfor %}</main></body></html>
"""  # noqa: E501 (a style sheet)


@dataclass(frozen=True)
class Shown:
    """One cell on the page."""

    name: str
    target: str
    probability: float
    checks: dict[str, float]
    crop: RGB
    heat: Heat


def render(cells: Sequence[Shown], *, method: str) -> str:
    """Return the page as HTML; `method` is cam, occlusion or lime."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    rows = [
        {
            "name": cell.name,
            "target": cell.target,
            "probability": f"{cell.probability:.3f}",
            "checks": [(name, f"{value:.2f}") for name, value in cell.checks.items()],
            "crop": picture(_large(cell.crop), side=2 * _SIDE),
            "heat": picture(_large(overlay(cell.crop, cell.heat)), side=2 * _SIDE),
        }
        for cell in cells
    ]
    words = _WORDS[method]
    return environment.from_string(_PAGE).render(cells=rows, method=words[0].upper() + words[1:])


def _large(image: RGB) -> RGB:
    """Repeat pixels of small crops, so that the browser does not smooth them away."""
    times = max(1, 2 * _SIDE // len(image))
    return np.asarray(image.repeat(times, axis=0).repeat(times, axis=1))
