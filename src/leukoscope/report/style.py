"""The one way in which every page is filled in: escaped, and loud about a name that is missing."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure


def environment(**filters: Any) -> jinja2.Environment:
    """Return the environment of this room's templates, with `thousands` and the page's own filters."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("leukoscope.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"thousands": "{:,}".format} | filters
    return made


# role -> (stand-in while drawing, on light ground, on dark ground)
COLOURS = {
    "ink": ("#010101", "#1d2733", "#e6e9ed"),
    "muted": ("#020202", "#66717e", "#98a2ae"),
    "grid": ("#030303", "#dde2e8", "#333c47"),
    "model": ("#040404", "#0067a3", "#5cb8ea"),
    "size": ("#050505", "#b85300", "#efa24d"),
    "good": ("#060606", "#007a5a", "#3fc79c"),
    "bad": ("#070707", "#b0323f", "#f08a90"),
    "paper": ("#080808", "#ffffff", "#171c22"),
}
INK, MUTED, GRID, MODEL, SIZE, GOOD, BAD, PAPER = (colours[0] for colours in COLOURS.values())
WIDTH = 4.3  # inches; drawn for a phone's width, so that the letters stay readable there
HEIGHT = 3.5

_RULES: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "figure.facecolor": "none",
}


@contextmanager
def canvas(*, height: float = HEIGHT) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its axes in the house's look; no window and no global state is touched."""
    with mpl.rc_context(_RULES):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def drawing(figure: Figure, name: str) -> str:
    """Return the figure as SVG in stand-in colours; its ids begin with `name`, so that figures share one page."""
    stream = io.StringIO()
    with mpl.rc_context(_RULES | {"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def for_page(svg: str, *, alt: str) -> str:
    """Return a drawing whose colours follow the page, with words for those who cannot see it."""
    for role, (stand_in, *_) in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{role})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\s(xmlns:?\w*|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(alt)}"', 1)


def for_file(svg: str) -> str:
    """Return a drawing in the colours of light ground, as a file of its own."""
    for stand_in, light, _ in COLOURS.values():
        svg = svg.replace(stand_in, light)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
